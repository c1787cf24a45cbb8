//! Runs over wss://: timing, trust, refusals, spawned servers.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use engine::EngineKind;
use loadgen::echo;
use loadgen::run::Plan;
use loadgen::target::trust::Trust;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use server::config::{Config, ListenAddress};
use server::{Identity, Server};

use super::command::{assert_fails, loadgen, text};
use super::echo::{Echo, Fault};
use super::{assert_consistent, engines, failure, plan, reasons, run};

/// A folder with a certificate and its key, removed on drop.
struct Folder(PathBuf);

impl Folder {
    /// Creates a certificate for `names`, valid until `days` days from now, or ago.
    fn new(test: &str, names: &[&str], days: i64) -> Self {
        Self::of_kind(test, names, days, IsCa::NoCa)
    }

    /// Creates the certificate of an authority, as `openssl req -x509` makes it.
    fn authority(test: &str, names: &[&str], days: i64) -> Self {
        Self::of_kind(test, names, days, IsCa::Ca(BasicConstraints::Unconstrained))
    }

    fn of_kind(test: &str, names: &[&str], days: i64, kind: IsCa) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        let path = std::env::temp_dir().join(format!("sparring-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.is_ca = kind;
        let (now, span) = (SystemTime::now(), Duration::from_secs(days.unsigned_abs() * DAY));
        params.not_before = (now - span - Duration::from_secs(DAY)).into();
        params.not_after = (if days < 0 { now - span } else { now + span }).into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(path.join("certificate.pem"), certificate.pem()).expect("a file");
        fs::write(path.join("key.pem"), key.serialize_pem()).expect("a file");
        Self(path)
    }

    fn certificate(&self) -> PathBuf {
        self.0.join("certificate.pem")
    }

    fn server(&self) -> Server {
        let key = self.0.join("key.pem");
        serve(Identity::Files { certificate: self.certificate(), key }, "wss://127.0.0.1:0/")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn serve(identity: Identity, listen: &str) -> Server {
    let listen: ListenAddress = listen.parse().expect("an address");
    let config = Config { listen: vec![listen], identity: Some(identity), ..Config::default() };
    Server::start(&config).expect("a server")
}

fn self_signed() -> Server {
    serve(Identity::SelfSigned { names: Vec::new() }, "wss://127.0.0.1:0/")
}

fn secure(server: &Server, engine: EngineKind, trust: Trust) -> Plan {
    plan(&format!("wss://{}/", server.addresses()[0]), engine)
        .with(|plan| plan.target.trust = trust)
}

#[test]
fn the_tls_handshake_is_timed_apart() {
    let folder = Folder::new("timed", &["127.0.0.1"], 30);
    let server = folder.server();
    for engine in engines() {
        let run = run(&secure(&server, engine, Trust::Authorities(folder.certificate())));
        assert_consistent(&run);
        assert_eq!((run.errors.total(), run.integrity.total()), (0, 0));
        assert!(run.received > 0 && reasons(&run).is_empty(), "{:?}", run.invalid_reasons);
        let latencies = &run.latency_ns;
        let tls = latencies.tls_handshake.as_ref().expect("a TLS handshake");
        let (tcp, upgrade) = (latencies.tcp_connect.as_ref(), latencies.handshake.as_ref());
        let counts =
            [Some(tls), tcp, upgrade, Some(&latencies.connect)].map(|part| part.map(|p| p.count));
        assert_eq!(counts, [Some(4); 4]);
        assert!(tls.max < latencies.connect.max, "the part is longer than the whole");
    }
}

#[test]
fn plain_connections_have_no_tls_time() {
    let server = serve(Identity::SelfSigned { names: Vec::new() }, "ws://127.0.0.1:0/");
    let run = run(&plan(&format!("ws://{}/", server.addresses()[0]), EngineKind::Epoll));
    assert!(run.latency_ns.tls_handshake.is_none() && run.latency_ns.handshake.is_some());
}

#[test]
fn connections_come_and_go_over_tls() {
    let server = self_signed();
    for engine in engines() {
        let plan = secure(&server, engine, Trust::Anybody)
            .with(|plan| plan.load.messages_per_connection = Some(3));
        let run = run(&plan);
        assert_eq!((run.errors.total(), run.integrity.total()), (0, 0));
        let cycles = run.cycles.expect("connections were replaced").count;
        let timed = run.latency_ns.tls_handshake.expect("TLS handshakes").count;
        assert!(cycles > 0 && timed > 0, "{cycles} cycles, {timed} handshakes");
    }
}

#[test]
fn a_rejected_certificate_is_reported_with_the_fix() {
    let (right, stranger) =
        (Folder::new("right", &["127.0.0.1"], 30), Folder::new("stranger", &["127.0.0.1"], 30));
    let (other, expired) =
        (Folder::new("other", &["other.example"], 30), Folder::new("expired", &["127.0.0.1"], -17));
    for (folder, authority, says) in [
        (&right, &stranger, ["not issued by an authority known here", "--ca", "--insecure"]),
        (&other, &other, ["other.example", "host of the URL", "--insecure"]),
        (&expired, &expired, ["expired 17days ago", "renewed", "--insecure"]),
    ] {
        let server = folder.server();
        for engine in engines() {
            let error =
                failure(&secure(&server, engine, Trust::Authorities(authority.certificate())))
                    .to_string();
            assert!(says.iter().all(|part| error.contains(part)), "{says:?}: {error}");
            run(&secure(&server, engine, Trust::Anybody));
        }
    }
}

/// A self-signed certificate is commonly an authority's too. A certificate that the user gives
/// itself is not rejected for that; its name and its time still count.
#[test]
fn accepts_an_authority_that_is_given_itself() {
    let right = Folder::authority("ca-right", &["127.0.0.1"], 30);
    let stranger = Folder::authority("ca-stranger", &["127.0.0.1"], 30);
    let (other, expired) = (
        Folder::authority("ca-other", &["other.example"], 30),
        Folder::authority("ca-expired", &["127.0.0.1"], -17),
    );
    let nameless = Folder::authority("ca-nameless", &[], 30);
    for engine in engines() {
        let server = right.server();
        let run = run(&secure(&server, engine, Trust::Authorities(right.certificate())));
        assert!(run.received > 0 && run.errors.total() == 0);
    }
    for (folder, given, says) in [
        (&right, &stranger, ["authority's (CA:TRUE)", "--ca", "--insecure"]),
        (&other, &other, ["other.example", "host of the URL", "--insecure"]),
        (&expired, &expired, ["expired 17days ago", "renewed", "--insecure"]),
        (&nameless, &nameless, ["names no host", "subjectAltName", "--insecure"]),
    ] {
        let server = folder.server();
        let error =
            failure(&secure(&server, EngineKind::Epoll, Trust::Authorities(given.certificate())));
        assert!(says.iter().all(|part| error.to_string().contains(part)), "{says:?}: {error}");
    }
}

/// Certificate of X.509 version 1: `openssl x509 -req -signkey` without extensions.
const VERSION_1: &[u8] = b"\
-----BEGIN CERTIFICATE-----
MIIBJDCBywIUdylH/q/+Qge0ea8QKErkvwxztJIwCgYIKoZIzj0EAwIwFDESMBAG
A1UEAwwJbG9jYWxob3N0MCAXDTI2MTEzMDAwNDA1NFoYDzIxMjYxMTA2MDA0MDU0
WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQ9EXIsi6/RUrycGmFt9whi+x178ASsRVx1t9b49BWOdTgMdGg6+TVt+cqNwpGZ
LcSldP2b5p7ST5rysD9w+dxJMAoGCCqGSM49BAMCA0gAMEUCIEiWOtbts0AQYbJn
HP/jPo5K69B0gPOnF+8RZow7NNB8AiEAiAWOmPsTd1ui6iDuymq/b3ujPNomHSpU
vQIBFVel/Cc=
-----END CERTIFICATE-----
";

/// Both versions that servers speak, tested one at a time.
const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// Returns the configuration of a server with a certificate that may not fit its key, and may be
/// malformed.
fn showing(
    certificate: CertificateDer<'static>,
    version: &'static SupportedProtocolVersion,
) -> ServerConfig {
    let key = KeyPair::generate().expect("a key").serialize_der();
    let key = PrivateKeyDer::try_from(key).expect("a key");
    let builder = ServerConfig::builder_with_protocol_versions(&[version]);
    let key = builder.crypto_provider().key_provider.load_private_key(key).expect("a usable key");
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
    builder.with_no_client_auth().with_cert_resolver(Arc::new(shown))
}

fn secure_echo(server: &Echo, engine: EngineKind) -> Plan {
    plan(&server.wss_url(), engine).with(|plan| plan.target.trust = Trust::Anybody)
}

#[test]
fn accepts_any_certificate_on_request() {
    let version_1 = CertificateDer::from_pem_slice(VERSION_1).expect("a certificate");
    for certificate in [version_1, CertificateDer::from(b"not a certificate".to_vec())] {
        for version in VERSIONS {
            let server = Echo::wss_with(showing(certificate.clone(), version), Fault::None);
            for engine in engines() {
                let run = run(&secure_echo(&server, engine));
                assert!(run.received > 0 && run.errors.total() == 0, "{engine}, {version:?}");
            }
        }
    }
    let folder = Folder::new("version-1", &["127.0.0.1"], 30);
    fs::write(folder.certificate(), VERSION_1).expect("a file");
    let version_1 = CertificateDer::from_pem_slice(VERSION_1).expect("a certificate");
    let server = Echo::wss_with(showing(version_1, &rustls::version::TLS13), Fault::None);
    let trust = Trust::Authorities(folder.certificate());
    let error =
        failure(&secure_echo(&server, EngineKind::Epoll).with(|plan| plan.target.trust = trust))
            .to_string();
    assert!(error.contains("version 3") && error.contains("--insecure"), "{error}");
}

#[test]
fn a_server_that_wants_a_client_certificate_is_named() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    for version in VERSIONS {
        let roots = Arc::new(roots.clone());
        let verifier = WebPkiClientVerifier::builder(roots).build().expect("a verifier");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_protocol_versions(&[version])
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a server's side");
        let server = Echo::wss_with(config, Fault::None);
        for engine in engines() {
            let error = failure(&secure_echo(&server, engine)).to_string();
            assert!(error.contains("wants a client certificate"), "{engine}, {version:?}: {error}");
        }
    }
}

#[test]
fn a_mixed_up_scheme_is_reported() {
    let plain = serve(Identity::SelfSigned { names: Vec::new() }, "ws://127.0.0.1:0/");
    let tls = self_signed();
    for engine in engines() {
        let error = failure(&secure(&plain, engine, Trust::Anybody)).to_string();
        assert!(error.contains("does not speak TLS") && error.contains("ws://"), "{error}");
        let error = failure(&plan(&format!("ws://{}/", tls.addresses()[0]), engine)).to_string();
        assert!(error.contains("400"), "{error}");
    }
}

/// The server closes when nothing comes. The Autobahn testsuite covers the echoes over TLS.
#[test]
fn the_echoing_client_speaks_tls() {
    let identity = Some(Identity::SelfSigned { names: Vec::new() });
    let listen = vec!["wss://127.0.0.1:0/".parse().expect("an address")];
    let mut config = Config { listen, identity, ..Config::default() };
    config.settings.heartbeat.idle_timeout = Duration::from_millis(50);
    let server = Server::start(&config).expect("a server");
    let url = format!("wss://{}/", server.addresses()[0]);
    for engine in engines() {
        let plan = echo::Plan::new(url.parse().expect("url"), engine);
        let untrusting =
            echo::Plan { trust: Trust::Authorities("/dev/null".into()), ..plan.clone() };
        let error = echo::execute(&untrusting, |_| {}).expect_err("no authority").to_string();
        assert!(error.contains("--ca"), "{error}");
        let endings = Arc::new(Mutex::new(Vec::new()));
        let seen = endings.clone();
        let watch = move |visit: &echo::EndedConnection| {
            seen.lock().expect("lock").push(visit.ending.clone());
        };
        echo::execute(&echo::Plan { trust: Trust::Anybody, ..plan }, watch).expect("a connection");
        let endings = endings.lock().expect("lock");
        assert!(
            matches!(endings[..], [echo::Ending::Closed { code: Some(1001), .. }]),
            "{endings:?}"
        );
    }
}

/// Environment variable with the port of the server that this test program becomes.
const SERVE: &str = "SPARRING_TEST_SERVE_TLS";

/// Not a test: a server that prints nothing, so that only a TLS handshake can detect it.
#[test]
#[ignore = "the server that another test spawns"]
fn serve_in_silence() {
    let Ok(port) = std::env::var(SERVE) else { return };
    let server =
        serve(Identity::SelfSigned { names: Vec::new() }, &format!("wss://127.0.0.1:{port}/"));
    let _ = server.wait();
}

#[test]
fn a_server_of_wss_can_be_spawned() {
    let this = std::env::current_exe().expect("this program");
    let command = format!(
        "env '{SERVE}={{port}}' '{}' --exact tls::serve_in_silence --ignored --nocapture",
        this.display()
    );
    let url = "wss://127.0.0.1:{port}/";
    let words =
        ["run", url, "--insecure", "--spawn", &command, "-c", "4", "-d", "300ms", "-w", "20ms"];
    let output = loadgen(&words).output().expect("the program runs");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("all as they were sent") && said.contains("\n    tls "), "{said}");
    assert_fails(&["run", "ws://127.0.0.1:1/", "--insecure"], 2, &["--insecure", "wss://"]);
}

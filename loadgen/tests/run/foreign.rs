//! Runs against servers of the Python libraries `websockets` and `ssl` (OpenSSL), where these are
//! installed: where connections go, what the request says, and TLS as it is used.

use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use engine::EngineKind;
use loadgen::run::Plan;
use loadgen::target::client_certificate::ClientCertificate;
use loadgen::target::trust::Trust;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::command::assert_fails;
use super::{assert_consistent, counted, engines, failure, plan, reasons, run};

/// An echo server that prints its port, then each request: path, Host, Authorization, X-Number, and
/// the client's certificate and whether its session was resumed. `options` is a dictionary:
/// `certificate` and `key` (files) for TLS, `authorities` for client certificates, `version`.
const SERVER: &str = r#"
import asyncio, sys, ssl, json, http
from websockets.asyncio.server import serve

options = json.loads(sys.argv[1])
context = None
if "certificate" in options:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options["certificate"], options["key"])
    context.set_alpn_protocols(["http/1.1"])
    if "authorities" in options:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(options["authorities"])
    if "version" in options:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[options["version"]]
    names = []
    context.sni_callback = lambda socket, name, _: names.append(name)

def request(connection, request):
    secured = connection.transport.get_extra_info("ssl_object")
    said = [request.path] + [request.headers.get(n) for n in ("Host", "Authorization", "X-Number")]
    if secured:
        said += [secured.selected_alpn_protocol(), secured.session_reused, bool(secured.getpeercert()), names[-1]]
    print(json.dumps(said), flush=True)
    if "redirect" in options:
        answer = connection.respond(http.HTTPStatus.FOUND, "elsewhere")
        answer.headers["Location"] = options["redirect"]
        return answer

async def echo(connection):
    async for message in connection:
        await connection.send(message)

async def main():
    async with serve(echo, "127.0.0.1", 0, ssl=context, process_request=request, compression=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"#;

struct Foreign {
    child: Child,
    port: u16,
    output: BufReader<std::process::ChildStdout>,
}

impl Foreign {
    /// Starts a server; `None` where Python or its library is missing.
    fn start(options: &serde_json::Value) -> Option<Self> {
        let python = std::env::var("SPARRING_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let known = Command::new(&python).args(["-c", "import websockets.asyncio.server"]).output();
        if !known.is_ok_and(|known| known.status.success()) {
            println!("skipped: Python's websockets is not installed (pip install websockets)");
            return None;
        }
        let mut child = Command::new(&python)
            .args(["-c", SERVER, &options.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it was there");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a port");
        Some(Self { child, port: line.trim().parse().expect("a port"), output })
    }

    /// Ends the server. Returns its lines, one for each request.
    fn requests(mut self) -> Vec<serde_json::Value> {
        let _ = self.child.kill();
        let lines = self.output.by_ref().lines().map_while(Result::ok);
        lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority, and certificates that it has issued, in a folder that is removed on drop.
struct Authority {
    folder: std::path::PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sparring-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, format!("authority {test}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let own = params.self_signed(&key).expect("a certificate");
        fs::write(folder.join("authority.pem"), own.pem()).expect("a file");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Issues a certificate for `name` that ends `days` days from now.
    fn issue(&self, name: &str, days: i64) -> ClientCertificate {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        let now = std::time::SystemTime::now();
        let span = Duration::from_secs(24 * 60 * 60 * days.unsigned_abs());
        params.not_before = (now - span - span).into();
        params.not_after = (if days < 0 { now - span } else { now + span }).into();
        let key = KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = format!("{name}{days}");
        let (certificate, secret) =
            (self.path(&format!("{file}.pem")), self.path(&format!("{file}-key.pem")));
        fs::write(&certificate, made.pem()).expect("a file");
        fs::write(&secret, key.serialize_pem()).expect("a file");
        ClientCertificate { certificate: certificate.into(), key: secret.into() }
    }

    /// Returns options of a server with a certificate of this authority.
    fn options(&self) -> serde_json::Value {
        let own = self.issue("server.example", 30);
        serde_json::json!({ "certificate": own.certificate, "key": own.key })
    }

    fn trust(&self) -> Trust {
        Trust::Authorities(self.path("authority.pem").into())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Returns the plan of a run that ends after 40 echoes and goes to the port of a server.
fn to(url: &str, port: u16, engine: EngineKind) -> Plan {
    plan(url, engine).with(|plan| {
        counted(plan, 40);
        plan.target.connect_to = Some(format!("127.0.0.1:{port}").parse().expect("a place"));
    })
}

fn assert_fine(run: &loadgen::result::Run) {
    assert_consistent(run);
    assert!(reasons(run).is_empty(), "{:?}", run.invalid_reasons);
    assert_eq!(run.received, 40);
}

#[test]
fn requests_name_the_url_and_go_elsewhere() {
    let Some(server) = Foreign::start(&serde_json::json!({})) else { return };
    let url = "ws://user:pass@no-such-host.invalid/room/{connection}?n={connection}";
    let engines = engines();
    for &engine in &engines {
        let plan = to(url, server.port, engine);
        let number = ("X-Number".to_owned(), "no. {connection}".to_owned());
        assert_fine(&run(&plan.clone().with(|plan| plan.target.headers.push(number.clone()))));
        assert_fine(&run(&plan.with(|plan| plan.target.host = Some("vhost:81".to_owned()))));
    }
    let requests = server.requests();
    for number in 0..4 {
        let path = format!("/room/{number}?n={number}");
        let of_url = serde_json::json!([
            path,
            "no-such-host.invalid",
            "Basic dXNlcjpwYXNz",
            format!("no. {number}")
        ]);
        let of_flag = serde_json::json!([path, "vhost:81", "Basic dXNlcjpwYXNz", null]);
        for expected in [of_url, of_flag] {
            let seen = requests.iter().filter(|request| **request == expected).count();
            assert_eq!(seen, engines.len(), "{expected}: {requests:?}");
        }
    }
}

#[test]
fn connections_take_several_servers_in_turn() {
    let servers = [(); 3].map(|()| Foreign::start(&serde_json::json!({})));
    let [Some(a), Some(b), Some(c)] = servers else { return };
    let url = |server: &Foreign, path| format!("ws://127.0.0.1:{}{path}", server.port);
    let measured = run(&plan(&url(&a, "/a"), EngineKind::Epoll).with(|plan| {
        counted(plan, 40);
        (plan.load.connections, plan.placement.threads) = (7, 2);
        let others = [url(&b, "/b"), url(&c, "/c?{connection}")];
        plan.target.others = others.map(|url| url.parse().expect("a URL")).to_vec();
    }));
    assert_fine(&measured);
    assert_eq!(measured.address.expect("known").split(", ").count(), 3);
    let mut paths: Vec<String> = [a, b, c]
        .into_iter()
        .flat_map(Foreign::requests)
        .map(|request| request[0].as_str().expect("a path").to_owned())
        .collect();
    paths.sort();
    assert_eq!(paths, ["/a", "/a", "/a", "/b", "/b", "/c?2", "/c?5"]);
}

#[test]
fn a_redirect_is_told_and_not_followed() {
    let location = "ws://elsewhere.example/loop";
    let Some(server) = Foreign::start(&serde_json::json!({ "redirect": location })) else { return };
    let url = format!("ws://user:secret@127.0.0.1:{}/", server.port);
    for engine in engines() {
        let error = failure(&plan(&url, engine).with(|plan| plan.load.connections = 1)).to_string();
        assert!(error.contains("302") && error.contains(location), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    assert_eq!(server.requests().len(), engines().len(), "a redirect was followed");
}

#[test]
fn tls_has_the_names_and_the_protocol_that_were_asked_for() {
    let authority = Authority::new("names");
    let Some(server) = Foreign::start(&authority.options()) else { return };
    for engine in engines() {
        // The certificate is for the name of the flag, or of the URL, and never for the address.
        let of_url = to("wss://server.example/", server.port, engine);
        let of_flag = to("wss://127.0.0.1/", server.port, engine)
            .with(|plan| plan.target.sni = Some("server.example".to_owned()));
        for plan in [of_url, of_flag] {
            assert_fine(&run(&plan.with(|plan| plan.target.trust = authority.trust())));
        }
        let other = to("wss://other.example/", server.port, engine);
        let error = failure(&other.with(|plan| plan.target.trust = authority.trust())).to_string();
        assert!(error.contains("server.example"), "{error}");
    }
    for request in server.requests() {
        assert_eq!((&request[4], &request[7]), (&"http/1.1".into(), &"server.example".into()));
    }
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_one() {
    let authority = Authority::new("clients");
    let right = authority.issue("client", 30);
    let (expired, stranger) = (authority.issue("client", -3), Authority::new("stranger"));
    let strange = stranger.issue("client", 30);
    for version in ["TLSv1_2", "TLSv1_3"] {
        let mut options = authority.options();
        options["authorities"] = authority.path("authority.pem").into();
        options["version"] = version.into();
        let Some(server) = Foreign::start(&options) else { return };
        for engine in engines() {
            let plan = to("wss://server.example/", server.port, engine).with(|plan| {
                plan.target.trust = authority.trust();
                plan.load.connections = 1;
            });
            let shown = |own: &ClientCertificate| {
                plan.clone().with(|plan| plan.target.certificate = Some(own.clone()))
            };
            assert_fine(&run(&shown(&right)));
            // asyncio closes the connection without the alert that OpenSSL has for it.
            failure(&plan);
            failure(&shown(&expired));
            failure(&shown(&strange));
        }
        let requests = server.requests();
        assert!(!requests.is_empty() && requests.iter().all(|request| request[6] == true));
    }
}

/// Starts `openssl s_server`, which speaks no WebSocket but sends alerts. Returns it and its port.
fn openssl(authority: &Authority, more: &[&str]) -> Option<Foreign> {
    let own = authority.issue("server.example", 30);
    let child = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-www", "-cert"])
        .args([own.certificate.as_os_str(), "-key".as_ref(), own.key.as_os_str()])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: openssl is not installed (apt-get install openssl)");
        return None;
    };
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.starts_with("ACCEPT ") {
        line.clear();
        assert!(output.read_line(&mut line).expect("a line") > 0, "s_server has ended");
    }
    let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
    let Some(port) = port else {
        println!("skipped: this openssl does not tell its port: {line}");
        return None;
    };
    Some(Foreign { child, port, output })
}

#[test]
fn alerts_about_the_client_are_explained() {
    let (authority, stranger) = (Authority::new("alerts"), Authority::new("alerts-stranger"));
    let file = authority.path("authority.pem");
    for version in ["-tls1_2", "-tls1_3"] {
        let asks = ["-Verify", "1", "-verify_return_error", "-CAfile", &file, version];
        let Some(server) = openssl(&authority, &asks) else { return };
        let said = |certificate| {
            let plan = to("wss://server.example/", server.port, EngineKind::Epoll);
            failure(&plan.with(|plan| {
                plan.load.connections = 1;
                (plan.target.trust, plan.target.certificate) = (authority.trust(), certificate);
            }))
            .to_string()
        };
        let none = said(None);
        assert!(none.contains("--cert FILE and --key FILE"), "{version}: {none}");
        for wrong in [authority.issue("client", -3), stranger.issue("client", 30)] {
            let error = said(Some(wrong));
            assert!(error.contains("rejects the client certificate"), "{version}: {error}");
        }
        // This one is let in, and the answer opens no WebSocket.
        let right = said(Some(authority.issue("client", 30)));
        assert!(!right.contains("certificate"), "{version}: {right}");
    }
}

#[test]
fn no_common_version_of_tls_is_named() {
    let authority = Authority::new("versions");
    let Some(server) = openssl(&authority, &["-tls1_2"]) else { return };
    let url = format!("wss://127.0.0.1:{}/", server.port);
    let words = ["run", &url, "--insecure", "--tls-min", "1.3", "-c", "1", "--engine", "epoll"];
    assert_fails(&words, 1, &["none of the offered versions", "--tls-min"]);
}

/// Every connection has one message, so that many handshakes come after the first.
#[test]
fn sessions_are_resumed_in_the_share_that_was_asked_for() {
    let authority = Authority::new("sessions");
    for version in ["TLSv1_2", "TLSv1_3"] {
        let mut options = authority.options();
        options["version"] = version.into();
        let Some(server) = Foreign::start(&options) else { return };
        let measured = |percent| {
            run(&to("wss://server.example/", server.port, EngineKind::Epoll).with(|plan| {
                plan.target.trust = authority.trust();
                plan.load.tls_resume_percent = percent;
                plan.load.messages_per_connection = Some(1);
            }))
        };
        for (percent, least, most) in [(0, 0, 0), (50, 15, 25), (100, 36, 40)] {
            let latencies = measured(percent).latency_ns;
            let count =
                |part: &Option<loadgen::result::Latency>| part.as_ref().map_or(0, |p| p.count);
            let resumed = count(&latencies.tls_resumed);
            assert!((least..=most).contains(&resumed), "{version}, {percent} %: {resumed}");
            let parts = count(&latencies.tls_full) + resumed;
            assert!(percent == 0 || parts == count(&latencies.tls_handshake), "{latencies:?}");
            assert_eq!(latencies.tls_full.is_some(), percent > 0);
        }
        let reused = server.requests().iter().filter(|request| request[5] == true).count();
        assert!((50..75).contains(&reused), "{version}: the server counts {reused}");
    }
}

#[test]
fn unusable_certificates_end_with_2() {
    let authority = Authority::new("unusable");
    let (own, other) = (authority.issue("one", 30), authority.issue("two", 30));
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (cert, key) = (path(&own.certificate), path(&other.key));
    let url = "wss://127.0.0.1:1/";
    assert_fails(&["run", url, "--cert", &cert], 2, &[&cert, "--key FILE", "as in"]);
    assert_fails(&["run", url, "--cert", &cert, "--key", &key], 2, &["does not belong to"]);
    assert_fails(&["echo", url, "--cert", &cert], 2, &[&cert, "--key FILE", "as in"]);
    assert_fails(&["run", "ws://h/", "--cert", &cert, "--key", &key], 2, &["--cert needs a wss"]);
}

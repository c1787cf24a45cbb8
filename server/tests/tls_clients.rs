//! Certificates of clients, versions of TLS, and a certificate that is replaced while the server
//! runs: from outside, with OpenSSL's client where it is installed.

mod program;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use engine::rustls::pki_types::pem::PemObject;
use engine::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use engine::rustls::{ClientConnection, StreamOwned};
use engine::tls::{ClientSettings, TlsIdentity, TlsVersions, Trust, client_config};
use program::{LONG, Program, REQUEST, client_frame, connect, engines, run};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::Signal;

type Client = StreamOwned<ClientConnection, TcpStream>;

/// A folder with an authority and what it has issued, removed on drop.
struct Folder {
    path: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sparring-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, format!("authority {test}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let own = params.self_signed(&key).expect("a certificate");
        fs::write(path.join("authority.pem"), own.pem()).expect("a file");
        Self { path, issuer: Issuer::new(params, key) }
    }

    fn file(&self, name: &str) -> String {
        self.path.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Issues NAME.pem and NAME-key.pem, valid until `days` days from now, or ago.
    fn issue(&self, name: &str, days: i64) -> [String; 2] {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        let span = Duration::from_secs(24 * 60 * 60 * days.unsigned_abs());
        let now = SystemTime::now();
        params.not_before = (now - 2 * span).into();
        params.not_after = (if days < 0 { now - span } else { now + span }).into();
        let key = KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = [self.file(&format!("{name}.pem")), self.file(&format!("{name}-key.pem"))];
        fs::write(&files[0], made.pem()).expect("a file");
        fs::write(&files[1], key.serialize_pem()).expect("a file");
        files
    }

    /// Starts a server with the certificate `server`, which logs to a file.
    fn start(&self, more: &[&str]) -> Program {
        let [certificate, key] = ["server.pem", "server-key.pem"].map(|name| self.file(name));
        let common = ["--threads", "1", "--tls-cert", &certificate, "--tls-key", &key];
        let log = File::create(self.path.join("log")).expect("a file");
        let listen = ["--listen", "wss://127.0.0.1:0"];
        Program::start_logging(&listen, &[&common, more].concat(), log)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path.join("log")).expect("the log")
    }

    /// Waits until the log has this text `times` times.
    fn wait_for(&self, text: &str, times: usize) {
        let deadline = Instant::now() + LONG;
        while self.log().matches(text).count() < times {
            assert!(Instant::now() < deadline, "no `{text}` in: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Connects and asks for a WebSocket. Returns the connection and the beginning of the answer.
fn ask(server: &Program, own: Option<&[String; 2]>) -> (Client, Vec<u8>) {
    let identity = own.map(|[certificate, key]| TlsIdentity {
        chain: vec![CertificateDer::from_pem_file(certificate).expect("a certificate")],
        key: PrivateKeyDer::from_pem_file(key).expect("a key"),
    });
    let settings =
        ClientSettings { trust: Trust::Anybody, identity, versions: TlsVersions::default() };
    let config = client_config(settings).expect("a client's side");
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(config, name).expect("a client");
    let mut client = StreamOwned::new(client, connect(server.address()));
    let mut head = Vec::new();
    if client.write_all(REQUEST).is_ok() {
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && matches!(client.read(&mut byte), Ok(1)) {
            head.push(byte[0]);
        }
    }
    (client, head)
}

fn echo(client: &mut Client) {
    client.write_all(&client_frame(1, b"here")).expect("frame");
    let mut back = [0; 6];
    client.read_exact(&mut back).expect("an echo");
    assert_eq!(&back, b"\x81\x04here");
}

/// Runs OpenSSL's client with a request; `None` where it is not installed. Returns what it prints.
fn openssl(server: &Program, more: &[&str]) -> Option<String> {
    let address = server.address().to_string();
    let child = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-alpn", "http/1.1", "-ign_eof"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: openssl is not installed (apt-get install openssl)");
        return None;
    };
    // The server answers a request for a path that it does not have, and closes.
    let request = b"GET /no HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let _ = child.stdin.take().expect("piped").write_all(request);
    let output = child.wait_with_output().expect("it ends");
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn only_clients_with_a_certificate_are_let_in() {
    let folder = Folder::new("client-ca");
    folder.issue("server", 30);
    let stranger = Folder::new("client-ca-stranger");
    let (right, expired) = (folder.issue("right", 30), folder.issue("expired", -3));
    let strange = stranger.issue("strange", 30);
    for engine in engines() {
        let authority = folder.file("authority.pem");
        let server = folder.start(&["--engine", &engine, "--tls-client-ca", &authority]);
        let (mut client, head) = ask(&server, Some(&right));
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
        for (own, logged) in [
            (None, "the client has no certificate"),
            (Some(&expired), "certificate is not one that --tls-client-ca accepts"),
            (Some(&strange), "certificate is not one that --tls-client-ca accepts"),
        ] {
            let before = folder.log().matches(logged).count();
            let (_, head) = ask(&server, own);
            assert!(head.is_empty(), "let in: {}", head.escape_ascii());
            folder.wait_for(logged, before + 1);
        }
        echo(&mut client);
    }
}

#[test]
fn openssl_shows_its_certificate_and_agrees_to_http() {
    let folder = Folder::new("openssl");
    folder.issue("server", 30);
    let [certificate, key] = folder.issue("client", 30);
    let authority = folder.file("authority.pem");
    let server = folder.start(&["--path", "/only", "--tls-client-ca", &authority]);
    let own = ["-cert", &certificate, "-key", &key];
    for version in ["-tls1_2", "-tls1_3"] {
        let Some(said) = openssl(&server, &[&own[..], &[version]].concat()) else { return };
        assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
        assert!(said.contains("HTTP/1.1 4"), "{said}");
        let Some(said) = openssl(&server, &[version]) else { return };
        assert!(!said.contains("HTTP/1.1 4"), "{said}");
    }
}

#[test]
fn versions_outside_the_bounds_are_refused() {
    let folder = Folder::new("versions");
    folder.issue("server", 30);
    for (flags, refused, agreed) in
        [(["--tls-min", "1.3"], "-tls1_2", "-tls1_3"), (["--tls-max", "1.2"], "-tls1_3", "-tls1_2")]
    {
        let server = folder.start(&[&["--path", "/only"], &flags[..]].concat());
        let Some(said) = openssl(&server, &[refused]) else { return };
        assert!(said.contains("alert protocol version"), "{said}");
        let Some(said) = openssl(&server, &[agreed]) else { return };
        assert!(said.contains("HTTP/1.1 4"), "{said}");
        folder.wait_for("no version of TLS", 1);
    }
}

#[test]
fn sighup_replaces_the_certificate_and_drops_nobody() {
    let folder = Folder::new("reload");
    let leaf = |client: &Client| client.conn.peer_certificates().expect("shown")[0].to_vec();
    for engine in engines() {
        folder.issue("server", 30);
        let server = folder.start(&["--engine", &engine]);
        let (mut first, _) = ask(&server, None);
        folder.issue("server", 30);
        server.signal(Signal::HUP);
        folder.wait_for("certificate reloaded", 1);
        let (mut second, _) = ask(&server, None);
        assert_ne!(leaf(&first), leaf(&second), "the old certificate");
        // A file that cannot be used changes nothing, and the log says why.
        fs::write(folder.file("server-key.pem"), "junk").expect("a file");
        server.signal(Signal::HUP);
        folder.wait_for("certificate not reloaded", 1);
        assert!(folder.log().contains("server-key.pem of --tls-key"), "{}", folder.log());
        let (mut third, _) = ask(&server, None);
        assert_eq!(leaf(&second), leaf(&third), "another certificate");
        [&mut first, &mut second, &mut third].into_iter().for_each(echo);
        // Signals that end the server still do.
        server.signal(Signal::TERM);
        drop((first, second, third));
        assert_eq!(server.end().0.code(), Some(0), "{engine}");
    }
}

#[test]
fn flags_without_tls_end_with_2() {
    let missing = Path::new("/no/such/file").to_str().expect("UTF-8");
    for (flags, says) in [
        (&["--tls-client-ca", missing][..], ["--tls-client-ca /no/such/file", "wss://127.0.0.1"]),
        (&["--tls-min", "1.3"], ["--tls-min", "wss://"]),
        (&["--tls-min", "1.1"], ["--tls-min", "1.1"]),
        (&["--tls-min", "1.3", "--tls-max", "1.2"], ["--tls-min 1.3", "--tls-max 1.2"]),
    ] {
        let output = run(flags);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(says.iter().all(|part| said.contains(part)), "{says:?}: {said}");
    }
}

//! TLS: the adaptor over every engine, against independent peers.
//!
//! `tests/tls` tests the adaptor without an engine, cut at every place.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use engine::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use engine::rustls::server::{ClientHello, ResolvesServerCert};
use engine::rustls::sign::CertifiedKey;
use engine::rustls::{
    self, ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
    SupportedProtocolVersion,
};
use engine::tls::{ServerSettings, TlsClient, TlsError, TlsSettings, Trust, server_config};
use engine::{Cause, CloseMode, Connect, Listener};

use crate::stage::{Case, Event, LIMIT, Running, Script, expect, loopback, pattern, round_trip};

struct Identity {
    certificate: CertificateDer<'static>,
    pem: String,
    key: Vec<u8>,
}

fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
            .expect("a certificate");
        Identity {
            pem: made.cert.pem(),
            certificate: made.cert.into(),
            key: made.signing_key.serialize_der(),
        }
    })
}

fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(identity().certificate.clone()).expect("a root");
    roots
}

fn server_side() -> Arc<ServerConfig> {
    let identity = identity();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()));
    server_config(vec![identity.certificate.clone()], key, ServerSettings::default())
        .expect("a server's side")
}

pub(crate) fn server() -> TlsSettings {
    let config = server_side();
    let answer_to_plain = b"TLS, please".to_vec();
    TlsSettings { listeners: vec![Some(config.into())], answer_to_plain, ..TlsSettings::default() }
}

fn connects(trust: Trust) -> TlsSettings {
    let server = ServerName::try_from("localhost").expect("a name");
    let client = TlsClient::new(trust, server).expect("a client's side");
    TlsSettings { connects: vec![client], ..TlsSettings::default() }
}

fn serve(case: &Case, script: Script) -> Running {
    Running::start_tls(case, case.config(), server(), script)
}

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

/// The library's buffered client, over a blocking socket.
pub(crate) fn client(running: &Running, version: &'static SupportedProtocolVersion) -> Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("versions")
        .with_root_certificates(roots())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    StreamOwned::new(
        ClientConnection::new(Arc::new(config), name).expect("a client"),
        running.connect(),
    )
}

pub(crate) fn echo_of(client: &mut Client, bytes: &[u8]) {
    client.write_all(bytes).expect("write");
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).expect("an echo");
    assert!(back == bytes, "other bytes came back");
}

fn to(addr: SocketAddr) -> Connect {
    Connect { to: addr, from: None, tag: 7, timeout: LIMIT }
}

pub(crate) fn echo_in_both_versions(case: &Case) {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let running = serve(case, Script::echo());
        let mut client = client(&running, version);
        for size in [1, 100, 16_383, 16_384, 16_385, 65_536, 200_000] {
            let bytes = pattern(size, size as u64);
            bytes.chunks(40_000).for_each(|piece| echo_of(&mut client, piece));
        }
        assert_eq!(client.conn.protocol_version(), Some(version.version));
        let id = running.wait_opened();
        running.wait_for(|e| matches!(e, Event::Secured(secured) if secured == id).then_some(()));
        client.conn.send_close_notify();
        client.flush().expect("flush");
        let mut rest = Vec::new();
        // A stream that ends without a close_notify would be an error here.
        client.read_to_end(&mut rest).expect("a close_notify");
        drop(client);
        assert!(matches!(running.wait_closed(id), Cause::PeerClosed));
        running.finish();
    }
}

pub(crate) fn records_byte_by_byte(case: &Case) {
    let running = serve(case, Script::echo());
    let mut client = client(&running, &rustls::version::TLS13);
    let Client { conn, sock } = &mut client;
    while conn.is_handshaking() {
        let mut flight = Vec::new();
        while conn.wants_write() {
            conn.write_tls(&mut flight).expect("to memory");
        }
        flight.iter().for_each(|byte| sock.write_all(&[*byte]).expect("write"));
        conn.read_tls(sock).expect("read");
        conn.process_new_packets().expect("a handshake");
    }
    let mut wire = Vec::new();
    conn.writer().write_all(b"slowly").expect("to memory");
    while conn.wants_write() {
        conn.write_tls(&mut wire).expect("to memory");
    }
    wire.iter().for_each(|byte| sock.write_all(&[*byte]).expect("write"));
    let mut back = [0; 6];
    client.read_exact(&mut back).expect("an echo");
    assert_eq!(&back, b"slowly");
    running.finish();
}

/// Writes in `opened`, `secured`, `received` and `turn_end`, in pieces of every kind.
pub(crate) fn a_reply_of_every_kind_keeps_its_order(case: &Case) {
    let seen: Arc<std::sync::Mutex<Vec<engine::ConnId>>> = Arc::default();
    let at_end = seen.clone();
    let script = Script::default()
        .opened(|_, out| out.append(b"welcome."))
        .secured(|_, out| out.append(b"secured."))
        .received(move |id, bytes, out| {
            out.append(b"<");
            out.echo(0..bytes.len());
            let mut buffer = out.buffer();
            buffer.extend_from_slice(b">");
            out.give(buffer);
            seen.lock().expect("lock").push(id);
        })
        .turn_end(move |w| {
            for id in at_end.lock().expect("lock").drain(..) {
                w.with(id, |_, out| out.append(b"1"));
                w.with(id, |_, out| out.append(b"2;"));
            }
        });
    let running = serve(case, script);
    let mut client = client(&running, &rustls::version::TLS13);
    let read = |client: &mut Client, wanted: &[u8]| {
        let mut got = vec![0; wanted.len()];
        client.read_exact(&mut got).expect("a reply");
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(wanted));
    };
    read(&mut client, b"welcome.secured.");
    for _ in 0..20 {
        client.write_all(b"abc").expect("write");
        read(&mut client, b"<abc>12;");
    }
    running.finish();
}

pub(crate) fn sixteen_mebibytes_between_two_workers(case: &Case) {
    let bytes = Arc::new(pattern(16 << 20, 5));
    let near = serve(case, Script::echo());
    let whole = bytes.clone();
    let script = Script::default().secured(move |_, out| out.append(&whole));
    let mut config = case.clients_only();
    // The server has to read while it still has most to send, or both ends would wait for each
    // other.
    config.high_water = 64 << 20;
    let far = Running::start_tls(case, config, connects(Trust::Roots(roots())), script);
    let addr = near.addr;
    far.post(move |w| w.connect(to(addr)));
    let mut back = Vec::new();
    let id = far.wait_for(|e| match e {
        Event::Received(id, piece) => {
            back.extend_from_slice(&piece);
            (back.len() >= bytes.len()).then_some(id)
        }
        Event::Closed(_, cause) => panic!("{cause:?}"),
        _ => None,
    });
    assert!(back == *bytes, "other bytes came back");
    far.with(id, |out| out.close(CloseMode::Flush));
    assert!(matches!(far.wait_closed(id), Cause::PeerClosed));
    far.finish();
    near.finish();
}

/// Records that the kernel does not accept are kept, whole and in order.
pub(crate) fn a_slow_reader_gets_every_record(case: &Case) {
    let bytes = Arc::new(pattern(8 << 20, 6));
    let whole = bytes.clone();
    let running = serve(case, Script::default().secured(move |_, out| out.append(&whole)));
    let mut client = client(&running, &rustls::version::TLS13);
    let mut back = vec![0; bytes.len()];
    let mut at = 0;
    while at < back.len() {
        let end = back.len().min(at + 700_000);
        client.read_exact(&mut back[at..end]).expect("records");
        at = end;
        running.some_turns();
    }
    assert!(back == *bytes, "other bytes came");
    running.finish();
}

pub(crate) fn plain_and_tls_side_by_side(case: &Case) {
    let mut config = case.config();
    let socket = engine::socket::listen(loopback(0), 1).expect("listen").remove(0);
    let plain = socket.local_addr().expect("address");
    config.listeners.push(Listener { socket, peer_addresses: false });
    let running = Running::start_tls(case, config, server(), Script::echo());
    let mut secure = client(&running, &rustls::version::TLS13);
    let mut plain = crate::stage::client(plain);
    for round in 0..10 {
        let bytes = pattern(3000, round);
        echo_of(&mut secure, &bytes);
        round_trip(&mut plain, &bytes);
    }
    running.finish();
}

/// Connects to `near` with `settings` and returns the error that ends the connection.
fn end_of_connect(case: &Case, addr: SocketAddr, settings: TlsSettings) -> TlsError {
    let far = Running::start_tls(case, case.clients_only(), settings, Script::default());
    far.post(move |w| w.connect(to(addr)));
    let error = far.wait_for(|e| match e {
        Event::Closed(_, cause) => {
            Some(TlsError::of(&cause).cloned().unwrap_or_else(|| panic!("{cause:?}")))
        }
        Event::Secured(_) => panic!("secured"),
        _ => None,
    });
    far.finish();
    error
}

pub(crate) fn a_client_that_does_not_trust_says_so(case: &Case) {
    let near = serve(case, Script::echo());
    let stranger =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let mut strangers = RootCertStore::empty();
    strangers.add(stranger.cert.into()).expect("a root");
    let error = end_of_connect(case, near.addr, connects(Trust::Roots(strangers)));
    assert!(matches!(error, TlsError::Protocol(rustls::Error::InvalidCertificate(_))), "{error}");
    // The server learns of it from the alert.
    let cause = near.wait_for(|e| if let Event::Closed(_, cause) = e { Some(cause) } else { None });
    let told =
        matches!(TlsError::of(&cause), Some(TlsError::Protocol(rustls::Error::AlertReceived(_))));
    assert!(told, "{cause:?}");

    let mut anybody = connects(Trust::Anybody);
    if let Some(client) = anybody.connects.first_mut() {
        client.server = ServerName::try_from("somebody.example").expect("a name");
    }
    let far = Running::start_tls(case, case.clients_only(), anybody, Script::default());
    let addr = near.addr;
    far.post(move |w| w.connect(to(addr)));
    far.wait_for(|e| matches!(e, Event::Secured(_)).then_some(()));
    far.finish();
    near.finish();
}

pub(crate) fn a_plain_server_is_reported(case: &Case) {
    let script =
        Script::default().received(|_, _, out| out.append(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let near = Running::start(case, case.config(), script);
    let error = end_of_connect(case, near.addr, connects(Trust::Anybody));
    assert_eq!(error, TlsError::NotTls);
    near.finish();
}

pub(crate) fn a_plain_client_is_answered(case: &Case) {
    let running = serve(case, Script::echo());
    let mut client = running.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("write");
    expect(&mut client, b"TLS, please");
    assert_eq!(client.read(&mut [0]).expect("an end"), 0);
    drop(client);
    let cause =
        running.wait_for(|e| if let Event::Closed(_, cause) = e { Some(cause) } else { None });
    assert!(TlsError::of(&cause) == Some(&TlsError::NotTls), "{cause:?}");
    running.finish();
}

pub(crate) fn the_deadline_covers_the_handshake(case: &Case) {
    let soon = |_, out: &mut engine::Output<'_>| {
        let at = out.now() + Duration::from_millis(20);
        out.set_deadline(Some(at));
    };
    let running = serve(case, Script::default().opened(soon));
    let mut client = running.connect();
    client.write_all(&[22, 3, 1, 2]).expect("write");
    let id = running.wait_for(|e| if let Event::Deadline(id, _) = e { Some(id) } else { None });
    running.with(id, |out| out.close(CloseMode::Abort));
    assert!(matches!(running.wait_closed(id), Cause::Closed));
    running.finish();
}

/// A refused client learns the reason in TLS. One that does not finish the handshake is dropped.
pub(crate) fn refused_before_the_handshake(case: &Case) {
    let refuse = |_, out: &mut engine::Output<'_>| {
        out.append(b"no room");
        out.close(CloseMode::Flush);
    };
    let running = serve(case, Script::default().opened(refuse));
    let mut patient = running.connect();
    let mut client = client(&running, &rustls::version::TLS13);
    let mut all = Vec::new();
    client.read_to_end(&mut all).expect("a close_notify");
    assert_eq!(all, b"no room");
    drop(client);
    let mut said = Vec::new();
    if let Err(error) = patient.read_to_end(&mut said) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(said.is_empty(), "plaintext");
    running.finish();
}

pub(crate) fn a_gentle_close_is_announced(case: &Case) {
    let script = Script::default().received(|_, bytes, out| {
        out.echo(0..bytes.len());
        out.close(CloseMode::Flush);
    });
    let running = serve(case, script);
    let mut client = client(&running, &rustls::version::TLS12);
    client.write_all(b"bye").expect("write");
    let mut all = Vec::new();
    client.read_to_end(&mut all).expect("a close_notify");
    assert_eq!(all, b"bye");
    let id = running.wait_opened();
    drop(client);
    assert!(matches!(running.wait_closed(id), Cause::PeerClosed));
    running.finish();
}

pub(crate) fn reset_in_the_handshake(case: &Case) {
    let running = serve(case, Script::echo());
    for _ in 0..20 {
        let mut client = running.connect();
        client.write_all(&[22, 3, 1, 0, 200, 1]).expect("write");
        let id = running.wait_opened();
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("linger");
        drop(client);
        running.wait_closed(id);
    }
    running.finish();
}

/// A certificate whose handshakes wait for the test.
#[derive(Debug)]
struct SlowCertificate {
    certificate: Arc<dyn ResolvesServerCert>,
    asked: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
}

impl ResolvesServerCert for SlowCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.asked.lock().expect("the test").send(()).expect("the test listens");
        self.go.lock().expect("the test").recv_timeout(LIMIT).expect("the test lets it go on");
        self.certificate.resolve(hello)
    }
}

/// Starts an echo server with such a certificate. Returns what says that a handshake waits, and
/// what lets one go on.
fn slow_server(case: &Case) -> (Running, Receiver<()>, Sender<()>) {
    let ((asked, waits), (lets, go)) = (channel(), channel());
    let mut config = (*server_side()).clone();
    let certificate = config.cert_resolver.clone();
    let (asked, go) = (Mutex::new(asked), Mutex::new(go));
    config.cert_resolver = Arc::new(SlowCertificate { certificate, asked, go });
    let settings = TlsSettings { listeners: vec![Some(Arc::new(config).into())], ..server() };
    (Running::start_tls(case, case.config(), settings, Script::echo()), waits, lets)
}

/// Sends a client's first message.
fn say_hello(client: &mut Client) {
    client.conn.write_tls(&mut client.sock).expect("a hello");
}

pub(crate) fn messages_do_not_wait_for_handshakes(case: &Case) {
    let (running, waits, lets) = slow_server(case);
    lets.send(()).expect("the server");
    let mut first = client(&running, &rustls::version::TLS13);
    echo_of(&mut first, b"alone");
    waits.recv_timeout(LIMIT).expect("the first handshake");
    let mut second = client(&running, &rustls::version::TLS13);
    say_hello(&mut second);
    waits.recv_timeout(LIMIT).expect("the second handshake");
    for size in [1, 1000, 100_000] {
        echo_of(&mut first, &pattern(size, 1));
    }
    lets.send(()).expect("the server");
    echo_of(&mut second, b"at last");
    running.finish();
}

pub(crate) fn a_connection_may_end_while_its_handshake_is_away(case: &Case) {
    let (running, waits, lets) = slow_server(case);
    for half_closes in [false, true] {
        let mut leaving = client(&running, &rustls::version::TLS13);
        say_hello(&mut leaving);
        let id = running.wait_opened();
        waits.recv_timeout(LIMIT).expect("the handshake");
        if half_closes {
            leaving.sock.shutdown(Shutdown::Write).expect("a socket");
            lets.send(()).expect("the server");
            assert!(matches!(running.wait_closed(id), Cause::Layer(_)));
        } else {
            running.with(id, |out| out.close(CloseMode::Abort));
            assert!(matches!(running.wait_closed(id), Cause::Closed));
            lets.send(()).expect("the server");
        }
    }
    lets.send(()).expect("the server");
    echo_of(&mut client(&running, &rustls::version::TLS13), b"still there");
    running.finish();
}

/// Output that a handler writes outside of a connection's calls reaches it in TLS too.
pub(crate) fn a_drain_sends_a_last_message_in_tls(case: &Case) {
    let running = serve(case, Script::echo());
    let mut clients: Vec<Client> =
        (0..20).map(|_| client(&running, &rustls::version::TLS13)).collect();
    clients.iter_mut().for_each(|client| echo_of(client, b"here"));
    let told = running.ask(|w| {
        let ids = w.ids();
        ids.into_iter()
            .filter_map(|id| {
                w.with(id, |_, out| {
                    out.append(b"leave");
                    out.close(CloseMode::Flush);
                })
            })
            .count()
    });
    assert_eq!(told, 20);
    for client in &mut clients {
        let mut all = Vec::new();
        client.read_to_end(&mut all).expect("a close_notify");
        assert_eq!(all, b"leave");
    }
    drop(clients);
    running.finish();
}

/// Runs a program that may not be installed; returns `None` and prints a line where it is not.
fn program(case: &Case, command: &mut Command, input: &[u8]) -> Option<String> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            case.skip(format!("{command:?}: {error}"));
            return None;
        }
    };
    child.stdin.take().expect("piped").write_all(input).expect("write");
    let output = child.wait_with_output().expect("output");
    Some(
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr),
    )
}

/// Client in Python's ssl module, which is OpenSSL: handshakes in both versions, with and without
/// resumption, and 200,000 bytes.
const PYTHON: &str = r#"
import socket, ssl, sys
port, authority = int(sys.argv[1]), sys.argv[2]
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = context.maximum_version = version
    session = None
    for round in range(2):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            with context.wrap_socket(raw, server_hostname="localhost", session=session) as s:
                echoes = s.makefile("rb")
                for piece in (b"x", b"y" * 100, bytes(range(256)) * 800):
                    s.sendall(piece)
                    assert echoes.read(len(piece)) == piece, "other bytes, or an early end"
                session = s.session
                print(s.version(), s.cipher()[0], "resumed" if s.session_reused else "whole")
                s.unwrap()
print("all echoed")
"#;

pub(crate) fn serves_independent_tls_clients(case: &Case) {
    let running = serve(case, Script::echo());
    let path = std::env::temp_dir().join(format!(
        "sparring-{}-{}.pem",
        std::process::id(),
        running.addr.port()
    ));
    std::fs::write(&path, &identity().pem).expect("a file");
    let port = running.addr.port().to_string();
    let said = program(case, Command::new("python3").args(["-c", PYTHON, &port]).arg(&path), b"");
    std::fs::remove_file(&path).expect("the file");
    if let Some(said) = said {
        assert!(said.contains("all echoed"), "{said}");
        assert_eq!(said.matches("resumed").count(), 2, "{said}");
    }
    running.finish();
}

/// TLS 1.2 lets a client request another handshake, which an attacker can use to exhaust a server
/// (RFC 5746, CVE-2009-3555).
pub(crate) fn renegotiation_is_refused(case: &Case) {
    let running = serve(case, Script::echo());
    let addr = running.addr.to_string();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-tls1_2", "-connect", &addr]);
    let said = program(case, &mut command, b"R\n");
    if let Some(said) = said {
        assert!(said.contains("RENEGOTIATING"), "{said}");
        assert!(said.contains("no renegotiation"), "{said}");
        let cause =
            running.wait_for(|e| if let Event::Closed(_, cause) = e { Some(cause) } else { None });
        assert!(matches!(cause, Cause::Layer(_) | Cause::PeerClosed | Cause::Reset), "{cause:?}");
    }
    running.finish();
}

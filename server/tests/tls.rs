//! wss:// from outside: rustls' own client, on every engine.

mod program;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use engine::rustls::pki_types::ServerName;
use engine::rustls::{ClientConnection, StreamOwned};
use engine::tls::{Trust, client_config};
use program::{Program, REQUEST, client_frame, connect, engines, expect, rest};
use rustix::process::Signal;
use tungstenite::Message;

type Client = StreamOwned<ClientConnection, TcpStream>;

const LISTEN: [&str; 4] = ["--listen", "ws://127.0.0.1:0", "--listen", "wss://127.0.0.1:0"];

/// Runs `test` against a server of both schemes on each engine.
fn on_every_engine(arguments: &[&str], test: impl Fn(&Program)) {
    for engine in engines() {
        eprintln!("engine {engine}");
        let common = ["--engine", &engine, "--threads", "1", "--tls-self-signed"];
        test(&Program::start_with(&LISTEN, &[&common, arguments].concat()));
    }
}

fn secure(address: SocketAddr) -> Client {
    let config = client_config(Trust::Anybody).expect("a client's side");
    let name = ServerName::try_from("localhost").expect("a name");
    StreamOwned::new(ClientConnection::new(config, name).expect("a client"), connect(address))
}

/// Opens a connection and completes its opening handshake.
fn open(server: &Program) -> Client {
    let mut client = secure(server.address_of(1));
    client.write_all(REQUEST).expect("request");
    let head = head(&mut client);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    client
}

fn head(client: &mut Client) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

#[test]
fn both_schemes_echo_side_by_side() {
    on_every_engine(&[], |server| {
        assert!(server.lines[0].starts_with("listening on ws://127.0.0.1:"), "{}", server.lines[0]);
        assert!(
            server.lines[1].starts_with("listening on wss://127.0.0.1:"),
            "{}",
            server.lines[1]
        );
        let mut plain = server.open();
        let secure = secure(server.address_of(1));
        let url = format!("ws://{}/", server.address_of(1));
        let (mut socket, _) = tungstenite::client(url, secure).expect("a handshake");
        for size in [0, 1, 125, 126, 16_384, 65_535, 65_536, 1 << 20] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            socket.send(Message::binary(bytes.clone())).expect("a message");
            assert!(
                socket.read().expect("an echo").into_data() == bytes,
                "{size} bytes came back as others"
            );
            plain.write_all(&client_frame(1, b"beside")).expect("frame");
            expect(&mut plain, b"\x81\x06beside");
        }
        socket.close(None).expect("a close");
        // The end follows the Close, announced by a close_notify: without one this would be another
        // error.
        let end = loop {
            match socket.read() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end}");
    });
}

/// A server at its limit answers in TLS, after a handshake that it would not have needed.
#[test]
fn connections_beyond_the_limit_get_503_in_tls() {
    on_every_engine(&["--max-connections", "1"], |server| {
        let mut first = open(server);
        for _ in 0..5 {
            let mut other = secure(server.address_of(1));
            let mut answer = String::new();
            other.read_to_string(&mut answer).expect("an answer and a close_notify");
            assert!(
                answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "),
                "{answer}"
            );
        }
        first.write_all(&client_frame(1, b"here")).expect("frame");
        let mut back = [0; 6];
        first.read_exact(&mut back).expect("an echo");
        assert_eq!(&back, b"\x81\x04here");
    });
}

#[test]
fn the_handshake_timeout_covers_tls() {
    on_every_engine(&["--handshake-timeout", "300ms"], |server| {
        // The server closes both half a hello and a TLS connection without a request.
        let mut half = connect(server.address_of(1));
        half.write_all(&[22, 3, 1, 2, 0, 1]).expect("write");
        let mut mute = secure(server.address_of(1));
        while mute.conn.is_handshaking() {
            mute.conn.complete_io(&mut mute.sock).expect("a handshake");
        }
        assert!(matches!(half.read(&mut [0; 16]), Ok(0) | Err(_)), "still there");
        assert!(matches!(mute.sock.read(&mut [0; 4096]), Ok(_) | Err(_)));
        assert!(matches!(mute.sock.read(&mut [0; 4096]), Ok(0) | Err(_)), "still there");
    });
}

#[test]
fn a_drain_closes_connections_in_tls() {
    for engine in engines() {
        let arguments = ["--engine", &engine, "--threads", "1", "--tls-self-signed"];
        let server = Program::start_with(&LISTEN, &arguments);
        let mut client = open(&server);
        server.signal(Signal::TERM);
        let mut close_going_away = Vec::new();
        client.read_to_end(&mut close_going_away).expect("a Close and a close_notify");
        assert_eq!(close_going_away, b"\x88\x02\x03\xe9", "{engine}");
        drop(client);
        let (status, _) = server.end();
        assert_eq!(status.code(), Some(0), "{engine}");
    }
}

/// A client that uses the other scheme's port gets an answer where it can read one, and a line in
/// the log names the fault.
#[test]
fn clients_of_the_wrong_port_are_reported() {
    let path = std::env::temp_dir().join(format!("sparring-tls-{}.log", std::process::id()));
    let log = File::create(&path).expect("a file");
    let server = Program::start_logging(&LISTEN, &["--threads", "1", "--tls-self-signed"], log);
    let mut plain = connect(server.address_of(1));
    plain.write_all(REQUEST).expect("request");
    let answer = String::from_utf8(rest(&mut plain)).expect("text");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("use wss://"), "{answer}");
    let mut tls = secure(server.address_of(0));
    let error = tls.conn.complete_io(&mut tls.sock).expect_err("no TLS there");
    assert!(error.to_string().contains("corrupt message"), "{error}");
    drop((plain, tls));
    server.signal(Signal::TERM);
    server.end();
    let said = std::fs::read_to_string(&path).expect("a log");
    std::fs::remove_file(&path).expect("the log");
    for rule in ["plain-on-tls-port", "tls-on-plain-port", "SHA-256 fingerprint"] {
        assert!(said.contains(rule), "{rule}: {said}");
    }
}

/// Most bytes of anonymous memory for an idle connection of wss://.
const PROMISE: usize = 12 << 10;

fn anonymous_bytes(server: &Program) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("status");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    let kib: usize = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib << 10
}

/// Connections that have echoed a kilobyte keep their keys and the state of rustls, but no buffer.
#[test]
fn an_idle_connection_costs_at_most_twelve_kibibytes() {
    const FEW: usize = 200;
    const MANY: usize = 1200;
    on_every_engine(&["--ping-interval", "0"], |server| {
        let echoed = || {
            let mut client = open(server);
            let header = [0x82, 0x80 | 126, 4, 0, 0, 0, 0, 0];
            client.write_all(&[&header[..], &[7; 1024]].concat()).expect("a message");
            client.read_exact(&mut [0; 1028]).expect("an echo");
            client
        };
        let mut clients: Vec<Client> = (0..FEW).map(|_| echoed()).collect();
        let base = anonymous_bytes(server);
        clients.extend((FEW..MANY).map(|_| echoed()));
        let each = anonymous_bytes(server).saturating_sub(base) / (MANY - FEW);
        println!("{each} bytes of anonymous memory for an idle connection");
        assert!(each <= PROMISE, "{each} bytes for each");
    });
}

//! Hostile and broken clients beside well-behaved ones, from outside: on every engine, over TCP and over TLS.

mod program;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use engine::rustls::pki_types::ServerName;
use engine::rustls::{ClientConnection, StreamOwned};
use engine::tls::{Trust, client_config};
use program::{LONG, Program, REQUEST, connect, engines, frame};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// A client's end of a connection, with or without TLS.
enum Client {
    Plain(TcpStream),
    Secure(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Client {
    fn over(scheme: &str, stream: TcpStream) -> Self {
        if scheme == "ws" {
            return Self::Plain(stream);
        }
        let config = client_config(Trust::Anybody).expect("a client's side");
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(config, name).expect("a client");
        Self::Secure(Box::new(StreamOwned::new(session, stream)))
    }

    /// With its opening handshake done.
    fn open(scheme: &str, server: &Server) -> Self {
        let mut client = Self::over(scheme, server.connect());
        client.write_all(REQUEST).expect("request");
        assert_eq!(client.status(), 101);
        client
    }

    /// Reads the head of an HTTP answer: its status.
    fn status(&mut self) -> u16 {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.read_exact(&mut byte).expect("a whole head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
    }
}

impl Client {
    fn stream(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secure(secure) => &secure.sock,
        }
    }

    /// Writes `bytes` over and over, reading nothing, until the server has ceased to read or the connection is broken.
    fn write_until_stuck(&mut self, bytes: &[u8]) {
        self.stream().set_write_timeout(Some(Duration::from_millis(300))).expect("timeout");
        while self.write_all(bytes).and_then(|()| self.flush()).is_ok() {}
    }

    /// Writes `bytes` over and over, reading nothing, until the connection is broken.
    fn write_until_broken(&mut self, bytes: &[u8]) {
        let end = Instant::now() + LONG;
        while self.write_all(bytes).and_then(|()| self.flush()).is_ok() {
            assert!(Instant::now() < end, "the connection is still open");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Secure(stream) => stream.read(buffer),
        }
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Secure(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Secure(stream) => stream.flush(),
        }
    }
}

/// A server with its admin listener.
struct Server {
    program: Program,
    admin: SocketAddr,
}

impl Server {
    fn connect(&self) -> TcpStream {
        self.program.connect()
    }

    fn metrics(&self) -> String {
        let mut stream = connect(self.admin);
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("request");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("metrics");
        text
    }

    /// Waits until a line of the metrics is there.
    fn wait_for(&self, line: &str) {
        let end = Instant::now() + LONG;
        while !self.metrics().lines().any(|found| found == line) {
            assert!(Instant::now() < end, "{line} is not in\n{}", self.metrics());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_refusal(&self, rule: &str) {
        self.wait_for(&format!("sparring_refusals_total{{rule=\"{rule}\"}} 1"));
    }

    fn wait_until_all_are_gone(&self) {
        self.wait_for("sparring_connections{state=\"open\"} 0");
    }
}

/// A port that was free a moment ago.
fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("address")
}

/// Runs `test` against a server with one worker on each engine, over TCP and over TLS.
fn on_every_engine(arguments: &[&str], test: impl Fn(&Server, &str)) {
    engine::socket::raise_file_limit();
    for engine in engines() {
        for scheme in ["ws", "wss"] {
            eprintln!("engine {engine}, {scheme}");
            let listen = format!("{scheme}://127.0.0.1:0");
            let tls: &[&str] = if scheme == "wss" { &["--tls-self-signed"] } else { &[] };
            let admin = free_port();
            let at = admin.to_string();
            let common = ["--engine", &engine, "--threads", "1", "--admin", &at];
            let program = Program::start_with(&["--listen", &listen], &[&common, tls, arguments].concat());
            test(&Server { program, admin }, scheme);
        }
    }
}

/// From another address of the loopback network.
fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.expect("socket");
    let from: SocketAddr = format!("{from}:0").parse().expect("address");
    rustix::net::bind(&socket, &from).expect("bind");
    rustix::net::connect(&socket, &to).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LONG)).expect("timeout");
    stream
}

#[test]
fn refused_connections_delay_no_other_address() {
    // Refused connections that stay would stay longer than the victim waits.
    let limits = ["--max-connections", "20", "--max-connections-per-ip", "2", "--close-timeout", "2min"];
    on_every_engine(&limits, |server, scheme| {
        // They say nothing and read nothing. Over TLS two seconds is all that each has, so that it takes more of them.
        let count = if scheme == "ws" { 400 } else { 1500 };
        let refused: Vec<TcpStream> = (0..count).map(|_| server.connect()).collect();
        let mut victim = Client::over(scheme, connect_from("127.0.0.2", server.program.address()));
        victim.write_all(REQUEST).expect("request");
        assert_eq!(victim.status(), 101);
        drop(refused);
    });
}

// ---- deadlines: a test for each line of the table in server/README.md; those of a silent TLS handshake and of a drain are
// beside the other tests of TLS and of drains.

/// The first frame of a message of two.
fn begun(payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(2, payload);
    bytes[0] &= 0x7f;
    bytes
}

/// Pings whose pongs are more than a connection may leave unread.
fn pings() -> Vec<u8> {
    frame(9, &[b'p'; 125]).repeat(100)
}

#[test]
fn handshake_timeout_is_not_restarted_by_bytes() {
    on_every_engine(&["--handshake-timeout", "500ms"], |server, scheme| {
        let mut client = Client::over(scheme, server.connect());
        client.write_all(b"GET /").expect("request");
        client.write_until_broken(b"a");
        server.wait_for_refusal("handshake-timeout");
        server.wait_until_all_are_gone();
    });
}

#[test]
fn message_timeout_holds_while_output_is_unsent() {
    let limits = ["--message-timeout", "1s", "--write-timeout", "0", "--ping-interval", "0"];
    on_every_engine(&limits, |server, scheme| {
        let mut client = Client::open(scheme, server);
        client.write_all(&begun(b"endless")).expect("frame");
        client.write_until_stuck(&pings());
        server.wait_for_refusal("message-timeout");
    });
}

#[test]
fn message_timeout_is_not_restarted_by_a_resume() {
    let limits = ["--message-timeout", "2s", "--message-rate", "20", "--ping-interval", "0"];
    on_every_engine(&limits, |server, scheme| {
        let mut client = Client::open(scheme, server);
        client.write_all(&begun(b"endless")).expect("frame");
        let end = Instant::now() + LONG;
        // Never more than seconds ahead of the rate, and always a little.
        client.write_all(&frame(9, b"").repeat(20)).expect("pings");
        while !server.metrics().contains("rule=\"message-timeout\"") {
            assert!(Instant::now() < end, "the message may go on for ever");
            let _ = client.write_all(&frame(9, b"").repeat(4)).and_then(|()| client.flush());
            thread::sleep(Duration::from_millis(190));
        }
        server.wait_until_all_are_gone();
    });
}

#[test]
fn message_timeout_holds_for_a_message_without_payload() {
    on_every_engine(&["--message-timeout", "500ms"], |server, scheme| {
        let mut client = Client::open(scheme, server);
        // A header that never ends, a byte at a time.
        let header = [&[0x82, 0xff][..], &[0; 6], &[1, 0], &[0; 4]].concat();
        client.write_all(&begun(b"")).expect("frame");
        let mut other = Client::open(scheme, server);
        other.write_all(&header[..3]).expect("header");
        server.wait_for("sparring_refusals_total{rule=\"message-timeout\"} 2");
    });
}

#[test]
fn write_timeout_ends_a_connection_that_reads_nothing() {
    on_every_engine(&["--write-timeout", "500ms", "--ping-interval", "0"], |server, scheme| {
        let mut client = Client::open(scheme, server);
        client.write_until_stuck(&pings());
        server.wait_until_all_are_gone();
    });
}

#[test]
fn heartbeat_holds_while_output_is_unsent() {
    on_every_engine(&["--write-timeout", "0", "--ping-interval", "300ms"], |server, scheme| {
        let mut client = Client::open(scheme, server);
        client.write_until_stuck(&pings());
        server.wait_until_all_are_gone();
    });
}

#[test]
fn idle_timeout_holds_while_output_is_unsent() {
    let limits = ["--write-timeout", "0", "--ping-interval", "0", "--idle-timeout", "500ms"];
    on_every_engine(&limits, |server, scheme| {
        let mut client = Client::open(scheme, server);
        client.write_until_stuck(&pings());
        server.wait_until_all_are_gone();
    });
}

#[test]
fn close_timeout_ends_a_connection_that_stays() {
    on_every_engine(&["--close-timeout", "500ms"], |server, scheme| {
        let mut client = Client::open(scheme, server);
        client.write_all(&frame(8, &[])).expect("a Close");
        client.flush().expect("a Close");
        server.wait_until_all_are_gone();
    });
}

#[test]
fn debt_beyond_seconds_is_closed() {
    on_every_engine(&["--message-rate", "1"], |server, scheme| {
        let mut client = Client::open(scheme, server);
        // Two hours' worth.
        client.write_all(&frame(9, b"").repeat(8000)).expect("pings");
        server.wait_for_refusal("rate-exceeded");
        server.wait_until_all_are_gone();
    });
}

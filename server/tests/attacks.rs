//! Hostile and broken clients beside well-behaved ones, from outside the server: on every engine,
//! over TCP and over TLS.

mod program;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use engine::rustls::pki_types::ServerName;
use engine::rustls::{ClientConnection, StreamOwned};
use engine::tls::{Trust, client_config};
use program::{LONG, Program, REQUEST, client_frame, connect, connect_from, engines};

/// Client's end of a connection, with or without TLS.
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

    /// Opens a connection and completes its opening handshake.
    fn open(scheme: &str, server: &Server) -> Self {
        let mut client = Self::over(scheme, server.connect());
        client.write_all(REQUEST).expect("request");
        assert_eq!(client.status(), 101);
        client
    }

    /// Reads the head of an HTTP answer and returns its status.
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

    /// Writes `bytes` repeatedly and reads nothing, until the server has stopped reading or the
    /// connection is broken.
    fn write_until_stuck(&mut self, bytes: &[u8]) {
        self.stream().set_write_timeout(Some(Duration::from_millis(300))).expect("timeout");
        while self.write_all(bytes).and_then(|()| self.flush()).is_ok() {}
    }

    /// Writes `bytes` repeatedly and reads nothing, until the connection is broken or a write
    /// hangs.
    fn write_until_broken(&mut self, bytes: &[u8], pause: Duration) {
        let end = Instant::now() + LONG;
        while self.write_all(bytes).and_then(|()| self.flush()).is_ok() {
            assert!(Instant::now() < end, "the connection is still open");
            thread::sleep(pause);
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

/// Server with its admin listener.
struct Server {
    program: Program,
    admin: SocketAddr,
}

impl Server {
    fn start(listen: &str, arguments: &[&str]) -> Self {
        let (reader, writer) = io::pipe().expect("a pipe");
        let arguments = [&["--admin", "127.0.0.1:0"], arguments].concat();
        let program = Program::start_logging(&["--listen", listen], &arguments, writer);
        let mut lines = io::BufRead::lines(io::BufReader::new(reader)).map_while(Result::ok);
        let line =
            lines.find(|line| line.starts_with("admin at http://")).expect("the admin's line");
        // A full pipe would stop the server.
        thread::spawn(move || lines.for_each(drop));
        let admin =
            line.split('/').nth(2).and_then(|address| address.parse().ok()).expect("an address");
        Self { program, admin }
    }

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

    /// Waits until the metrics have this line.
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

/// Runs `test` against a server with one worker on each engine, over TCP and over TLS.
fn on_every_engine(arguments: &[&str], test: impl Fn(&Server, &str)) {
    engine::socket::raise_file_limit();
    for engine in engines() {
        for scheme in ["ws", "wss"] {
            eprintln!("engine {engine}, {scheme}");
            let listen = format!("{scheme}://127.0.0.1:0");
            let tls: &[&str] = if scheme == "wss" { &["--tls-self-signed"] } else { &[] };
            let common = ["--engine", &engine, "--threads", "1"];
            test(&Server::start(&listen, &[&common, tls, arguments].concat()), scheme);
        }
    }
}

#[test]
fn refused_connections_delay_no_other_address() {
    // Refused connections that stay open would stay longer than the victim waits.
    let limits =
        ["--max-connections", "20", "--max-connections-per-ip", "2", "--close-timeout", "2min"];
    on_every_engine(&limits, |server, scheme| {
        // The attackers send nothing and read nothing. Over TLS each has only two seconds, so that
        // more of them are needed.
        let count = if scheme == "ws" { 400 } else { 1500 };
        let refused: Vec<TcpStream> = (0..count).map(|_| server.connect()).collect();
        let mut victim = Client::over(scheme, connect_from("127.0.0.2", server.program.address()));
        victim.write_all(REQUEST).expect("request");
        assert_eq!(victim.status(), 101);
        drop(refused);
    });
}

// ---- deadlines: a test for each line of the table in server/README.md. The tests of a silent TLS
// handshake and of a drain are with the other tests of TLS and of drains.

/// Returns the first frame of a message of two.
fn begun(payload: &[u8]) -> Vec<u8> {
    let mut bytes = client_frame(2, payload);
    bytes[0] &= 0x7f;
    bytes
}

/// Returns pings whose pongs are more than a connection may leave unread.
fn pings() -> Vec<u8> {
    client_frame(9, &[b'p'; 125]).repeat(100)
}

#[test]
fn handshake_timeout_is_not_restarted_by_bytes() {
    on_every_engine(&["--handshake-timeout", "500ms"], |server, scheme| {
        let mut client = Client::over(scheme, server.connect());
        client.write_all(b"GET /").expect("request");
        client.write_until_broken(b"a", Duration::from_millis(20));
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
        // The client is always slightly over the rate, and never by more than seconds.
        client.write_all(&client_frame(9, b"").repeat(20)).expect("pings");
        while !server.metrics().contains("rule=\"message-timeout\"") {
            assert!(Instant::now() < end, "the message may go on for ever");
            let _ = client.write_all(&client_frame(9, b"").repeat(4)).and_then(|()| client.flush());
            thread::sleep(Duration::from_millis(190));
        }
        server.wait_until_all_are_gone();
    });
}

#[test]
fn message_timeout_holds_for_a_message_without_payload() {
    on_every_engine(&["--message-timeout", "500ms"], |server, scheme| {
        let mut client = Client::open(scheme, server);
        // The header never ends and comes one byte at a time.
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
        client.write_until_broken(&pings(), Duration::ZERO);
        server.wait_until_all_are_gone();
    });
}

#[test]
fn heartbeat_holds_while_output_is_unsent() {
    on_every_engine(&["--write-timeout", "0", "--ping-interval", "300ms"], |server, scheme| {
        let mut client = Client::open(scheme, server);
        client.write_until_broken(&pings(), Duration::ZERO);
        server.wait_until_all_are_gone();
    });
}

#[test]
fn idle_timeout_holds_while_output_is_unsent() {
    let limits = ["--write-timeout", "0", "--ping-interval", "0", "--idle-timeout", "500ms"];
    on_every_engine(&limits, |server, scheme| {
        let mut client = Client::open(scheme, server);
        client.write_until_broken(&pings(), Duration::ZERO);
        server.wait_until_all_are_gone();
    });
}

#[test]
fn close_timeout_ends_a_connection_that_stays() {
    on_every_engine(&["--close-timeout", "500ms"], |server, scheme| {
        let mut client = Client::open(scheme, server);
        client.write_all(&client_frame(8, &[])).expect("a Close");
        client.flush().expect("a Close");
        server.wait_until_all_are_gone();
    });
}

#[test]
fn debt_beyond_seconds_is_closed() {
    on_every_engine(&["--message-rate", "1"], |server, scheme| {
        let mut client = Client::open(scheme, server);
        // The pings need two hours at this rate.
        client.write_all(&client_frame(9, b"").repeat(8000)).expect("pings");
        server.wait_for_refusal("rate-exceeded");
        server.wait_until_all_are_gone();
    });
}

// ---- answers to unknown clients, and log lines about them

/// Server that listens for both schemes, with its log.
struct Logged {
    program: Program,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Logged {
    fn start(engine: &str, arguments: &[&str]) -> Self {
        let (reader, writer) = io::pipe().expect("a pipe");
        let listen = ["--listen", "ws://127.0.0.1:0", "--listen", "wss://127.0.0.1:0"];
        let common = ["--engine", engine, "--threads", "1", "--tls-self-signed", "--log", "info"];
        let program = Program::start_logging(&listen, &[&common, arguments].concat(), writer);
        let (sender, lines) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let log = io::BufReader::new(reader);
            io::BufRead::lines(log).map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { program, lines }
    }

    /// Returns the next line that contains `part`.
    fn line_with(&self, part: &str) -> String {
        loop {
            let line =
                self.lines.recv_timeout(LONG).unwrap_or_else(|_| panic!("no line with {part}"));
            if line.contains(part) {
                return line;
            }
        }
    }
}

/// Returns the beginning of a TLS 1.0 client's first message: version 3.1, one suite, no
/// extensions.
fn hello_of_tls_1_0() -> Vec<u8> {
    let body = [&[3, 1][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0]].concat();
    let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    [&[22, 3, 1, 0, message.len() as u8][..], &message].concat()
}

#[test]
fn every_refusal_in_the_log_names_its_peer() {
    for engine in engines() {
        eprintln!("engine {engine}");
        let limits =
            ["--max-message", "10", "--handshake-timeout", "2s", "--message-timeout", "1s"];
        let logged = Logged::start(&engine, &limits);
        let plain = logged.program.address_of(0);
        let secure = logged.program.address_of(1);
        let long = format!("GET /{} HTTP/1.1\r\n", "u".repeat(17_000)).into_bytes();
        let no_upgrade = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
        let too_big = [REQUEST, &client_frame(2, &[0; 11])].concat();
        let endless = [REQUEST, &begun(b"")].concat();
        for (address, rule, bytes) in [
            (plain, "target-too-long", long),
            (plain, "no-upgrade", no_upgrade),
            (plain, "http2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
            (plain, "tls-on-plain-port", hello_of_tls_1_0()),
            (plain, "handshake-timeout", b"GET".to_vec()),
            (plain, "message-too-big", too_big),
            (plain, "message-timeout", endless),
            (secure, "plain-on-tls-port", REQUEST.to_vec()),
            (secure, "tls-failed", hello_of_tls_1_0()),
        ] {
            let mut stream = connect(address);
            stream.write_all(&bytes).expect("bytes");
            let line = logged.line_with(&format!("rule=\"{rule}\""));
            let peer = format!("peer={}", stream.local_addr().expect("address"));
            assert!(line.contains(&peer) && line.len() < 1000, "{peer}: {line}");
            match rule {
                "tls-failed" => assert!(line.contains("no version of TLS"), "{line}"),
                "http2-preface" => assert!(line.contains("HTTP/2"), "{line}"),
                _ => {}
            }
        }
    }
}

#[test]
fn text_of_clients_is_escaped_and_bounded_in_the_log() {
    for engine in engines() {
        let logged = Logged::start(&engine, &["--path", "/chat"]);
        let request = String::from_utf8(REQUEST.to_vec()).expect("text");
        let target = format!("/%1b[31m\"{}", "u".repeat(3000));
        let mut client = logged.program.connect();
        client.write_all(request.replace("/chat", &target).as_bytes()).expect("request");
        let line = logged.line_with("unknown-path");
        assert!(line.len() < 600 && !line.contains('\u{1b}'), "{line}");
        let origin = format!("Origin: http://{}\r\n\r\n", "o".repeat(3000));
        let mut client = logged.program.connect();
        client
            .write_all(request.replacen("\r\n\r\n", &format!("\r\n{origin}"), 1).as_bytes())
            .expect("request");
        let line = logged.line_with("forbidden-origin");
        assert!(line.len() < 1000 && line.contains("--origin URL"), "{line}");
    }
}

#[test]
fn a_head_request_gets_the_head_of_the_page() {
    on_every_engine(&[], |server, scheme| {
        let ask = |method: &str| {
            let mut client = Client::over(scheme, server.connect());
            client
                .write_all(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
                .expect("request");
            let mut text = Vec::new();
            client.read_to_end(&mut text).expect("an answer");
            String::from_utf8(text).expect("text")
        };
        let (get, head) = (ask("GET"), ask("HEAD"));
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        // The time is another in each answer.
        let without_time = |answer: &str| {
            let lines = answer.split_inclusive("\r\n");
            lines.filter(|line| !line.starts_with("X-HTTPSTIME: ")).collect::<String>()
        };
        assert!(get.contains("\r\nX-HTTPSTIME: ") && head.contains("\r\nX-HTTPSTIME: "));
        let (get, head) = (without_time(&get), without_time(&head));
        assert!(get.starts_with(&head) && get.len() > head.len());
    });
}

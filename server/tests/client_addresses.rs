//! Clients behind proxies: the PROXY protocol, X-Forwarded-For and Forwarded, for limits and logs;
//! and what load balancers ask.

mod program;

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;

use engine::rustls::pki_types::ServerName;
use engine::rustls::{ClientConnection, StreamOwned};
use engine::tls::{Trust, client_config};
use program::{Program, REQUEST, client_frame, connect_from, engines, expect, read_head, rest};
use rustix::process::Signal;

/// A server whose log can be read.
struct Logged {
    server: Program,
    path: PathBuf,
}

impl Logged {
    fn start(name: &str, engine: &str, flags: &[&str]) -> Self {
        let path = std::env::temp_dir()
            .join(format!("sparring-{name}-{engine}-{}.log", std::process::id()));
        let log = File::create(&path).expect("a file");
        let listen = ["--listen", "ws://127.0.0.1:0", "--listen", "wss://127.0.0.1:0"];
        let flags = [&["--engine", engine, "--threads", "2", "--tls-self-signed"], flags].concat();
        Self { server: Program::start_logging(&listen, &flags, log), path }
    }

    fn connect(&self) -> TcpStream {
        self.server.connect()
    }

    /// Ends the server; returns its log.
    fn end(self) -> String {
        self.server.signal(Signal::TERM);
        self.server.end();
        let said = std::fs::read_to_string(&self.path).expect("a log");
        std::fs::remove_file(&self.path).expect("the log");
        said
    }
}

const TRUSTED: [&str; 2] = ["--proxy-protocol", "127.0.0.1,10.0.0.0/8"];

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 127.0.0.1 5000 80\r\n").into_bytes()
}

fn v2(command: u8, client: [u8; 4]) -> Vec<u8> {
    let addresses = [&client[..], &[127, 0, 0, 1, 0x13, 0x88, 0, 80], &[4, 0, 1, 0]].concat();
    let start = b"\r\n\r\n\0\r\nQUIT\n";
    [&start[..], &[0x20 | command, 0x11, 0, addresses.len() as u8], &addresses].concat()
}

fn opens(stream: &mut TcpStream) {
    let head = read_head(stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(&client_frame(1, b"hello")).expect("a frame");
    expect(stream, b"\x81\x05hello");
}

/// Sends bytes in pieces of this size.
fn send(stream: &mut TcpStream, bytes: &[u8], size: usize) {
    bytes.chunks(size).for_each(|piece| stream.write_all(piece).expect("bytes"));
}

#[test]
fn headers_of_trusted_proxies_name_the_client_in_limits_and_logs() {
    for engine in engines() {
        let flags = [&TRUSTED[..], &["--max-connections-per-ip", "1"]].concat();
        let logged = Logged::start("proxy", &engine, &flags);
        let mut open = Vec::new();
        for (header, size) in [
            (v1("192.0.2.1"), 1000),
            (v1("192.0.2.2"), 1),
            (v2(1, [192, 0, 2, 3]), 1000),
            (v2(1, [192, 0, 2, 4]), 1),
            // The proxy's own connection.
            (v2(0, [192, 0, 2, 1]), 7),
        ] {
            let mut stream = logged.connect();
            // Header, request and a frame in one read, or in reads of one byte.
            let frame = client_frame(1, b"first");
            send(&mut stream, &[&header, REQUEST, &frame].concat(), size);
            let head = read_head(&mut stream);
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            expect(&mut stream, b"\x81\x05first");
            open.push(stream);
        }
        // Each client has one connection, which is its limit.
        for header in [v1("192.0.2.1"), v2(1, [192, 0, 2, 4])] {
            let mut stream = logged.connect();
            send(&mut stream, &[&header, REQUEST].concat(), 1000);
            let answer = String::from_utf8(rest(&mut stream)).expect("text");
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.contains("--max-connections-per-ip 1"), "{answer}");
        }
        // A place becomes free when its client leaves.
        let mut first = open.remove(0);
        first.write_all(&client_frame(8, b"\x03\xe8")).expect("a Close");
        rest(&mut first);
        let mut stream = logged.connect();
        send(&mut stream, &[&v1("192.0.2.1"), REQUEST].concat(), 1000);
        opens(&mut stream);
        let said = logged.end();
        assert!(said.contains("peer=192.0.2.1:5000"), "{said}");
        assert!(said.contains("peer=192.0.2.4:5000"), "{said}");
        assert!(!said.contains("peer=127.0.0.1"), "{said}");
    }
}

#[test]
fn header_of_the_proxy_protocol_precedes_tls() {
    for engine in engines() {
        let flags = [&TRUSTED[..], &["--max-connections-per-ip", "1"]].concat();
        let logged = Logged::start("proxy-tls", &engine, &flags);
        let secure = |header: &[u8]| {
            let mut stream = program::connect(logged.server.address_of(1));
            stream.write_all(header).expect("a header");
            let config = client_config(Trust::Anybody).expect("a client's side");
            let name = ServerName::try_from("localhost").expect("a name");
            let client = ClientConnection::new(config, name).expect("a client");
            let mut stream = StreamOwned::new(client, stream);
            stream.write_all(REQUEST).expect("a request");
            let mut line = vec![0; 13];
            std::io::Read::read_exact(&mut stream, &mut line).expect("an answer");
            (stream, String::from_utf8(line).expect("text"))
        };
        let (_first, line) = secure(&v2(1, [192, 0, 2, 1]));
        assert_eq!(line, "HTTP/1.1 101 ");
        let (_second, line) = secure(&v1("192.0.2.2"));
        assert_eq!(line, "HTTP/1.1 101 ");
        let (_, line) = secure(&v2(1, [192, 0, 2, 1]));
        assert_eq!(line, "HTTP/1.1 503 ");
        drop((_first, _second));
        logged.end();
    }
}

#[test]
fn connections_without_a_valid_header_are_aborted_with_a_line() {
    for engine in engines() {
        let flags = [&TRUSTED[..], &["--handshake-timeout", "200ms"]].concat();
        let logged = Logged::start("no-header", &engine, &flags);
        for (bytes, ends) in [
            (REQUEST, false),
            (&b"PROXY TCP4 1.2.3.4\r\n"[..], false),
            (b"PROXY TCP4 1.2.3.4", false),
            (b"PROXY TCP4 1.2.3.4", true),
        ] {
            let mut stream = logged.connect();
            stream.write_all(bytes).expect("bytes");
            if ends {
                stream.shutdown(std::net::Shutdown::Write).expect("a FIN");
            }
            let mut got = Vec::new();
            let _ = std::io::Read::read_to_end(&mut stream, &mut got);
            assert!(got.is_empty(), "{}", got.escape_ascii());
        }
        // A probe leaves no line.
        drop(logged.connect());
        let said = logged.end();
        for says in [
            "does not begin with a header",
            "version 1 is malformed",
            "--handshake-timeout",
            "ended within the header",
        ] {
            let lines = said.lines().filter(|line| line.contains(says));
            let count = lines.filter(|line| line.contains("rule=\"proxy-header\"")).count();
            assert_eq!(count, 1, "{says}: {said}");
        }
        assert_eq!(said.matches("proxy-header").count(), 4, "{said}");
    }
}

/// Who is not trusted has no header, and cannot choose an address with one.
#[test]
fn headers_of_others_are_not_believed() {
    for engine in engines() {
        let logged = Logged::start("untrusted", &engine, &["--proxy-protocol", "10.0.0.0/8"]);
        let mut stream = logged.connect();
        stream.write_all(REQUEST).expect("a request");
        opens(&mut stream);
        let mut stream = logged.connect();
        stream.write_all(&[&v1("192.0.2.1"), REQUEST].concat()).expect("bytes");
        assert!(rest(&mut stream).starts_with(b"HTTP/1.1 400 "));
        assert!(!logged.end().contains("192.0.2.1"));
    }
}

/// Returns a request with these fields.
fn request_with(fields: &str) -> Vec<u8> {
    let (head, end) = REQUEST.split_at(REQUEST.len() - 2);
    [head, fields.as_bytes(), end].concat()
}

#[test]
fn fields_of_trusted_proxies_name_the_client_in_limits_and_logs() {
    for engine in engines() {
        let flags = ["--trusted-proxy", "127.0.0.1,10.0.0.0/8", "--max-connections-per-ip", "1"];
        let logged = Logged::start("fields", &engine, &flags);
        let ask = |fields: &str, size: usize| {
            let mut stream = logged.connect();
            send(&mut stream, &request_with(fields), size);
            let head = read_head(&mut stream);
            (head[9..12].to_owned(), stream)
        };
        let mut open = Vec::new();
        for (fields, size) in [
            ("X-Forwarded-For: 203.0.113.9, 192.0.2.1, 10.1.2.3\r\n", 1000),
            ("Forwarded: for=\"[2001:db8::1]:7\"\r\n", 1),
            ("Forwarded: for=192.0.2.2, for=10.0.0.1\r\nX-Forwarded-For: 192.0.2.2\r\n", 1000),
            // The proxy's own request.
            ("", 1000),
        ] {
            let (status, stream) = ask(fields, size);
            assert_eq!(status, "101", "{fields}");
            open.push(stream);
        }
        for (fields, expected) in [
            ("X-Forwarded-For: 192.0.2.1\r\n", "503"),
            // The same IPv6 /64.
            ("X-Forwarded-For: 2001:db8::2\r\n", "503"),
            ("", "503"),
            ("X-Forwarded-For: 192.0.2.9\r\nForwarded: for=192.0.2.1\r\n", "400"),
            ("Forwarded: for=\"192.0.2.9\r\n", "400"),
        ] {
            assert_eq!(ask(fields, 1000).0, expected, "{fields}");
        }
        // A connection of another address cannot choose its own.
        let mut other = connect_from("127.0.0.2", logged.server.address());
        other.write_all(&request_with("X-Forwarded-For: 192.0.2.77\r\n")).expect("request");
        opens(&mut other);
        let mut again = connect_from("127.0.0.2", logged.server.address());
        again.write_all(&request_with("X-Forwarded-For: 192.0.2.78\r\n")).expect("request");
        assert!(rest(&mut again).starts_with(b"HTTP/1.1 503 "));
        // A place becomes free when its client leaves.
        let mut first = open.remove(0);
        first.write_all(&client_frame(8, b"\x03\xe8")).expect("a Close");
        rest(&mut first);
        assert_eq!(ask("X-Forwarded-For: 192.0.2.1\r\n", 1000).0, "101");
        drop(open);
        let said = logged.end();
        assert!(
            said.contains("peer=192.0.2.1:0") && said.contains("peer=[2001:db8::2]:0"),
            "{said}"
        );
        assert!(said.contains("forwarded-fields-differ") && !said.contains("192.0.2.77"), "{said}");
    }
}

#[test]
fn health_paths_answer_what_load_balancers_send() {
    for engine in engines() {
        let logged = Logged::start("health", &engine, &["--path", "/chat"]);
        for line in [
            "GET /healthz HTTP/1.1",
            "HEAD /healthz HTTP/1.1",
            "OPTIONS /healthz HTTP/1.1",
            "GET /readyz HTTP/1.1",
            "GET /healthz HTTP/1.0",
            "HEAD /readyz HTTP/1.0",
            "OPTIONS / HTTP/1.0",
            "OPTIONS / HTTP/1.1",
        ] {
            let mut stream = logged.connect();
            let host = if line.ends_with("1.1") { "Host: health\r\n" } else { "" };
            write!(stream, "{line}\r\n{host}\r\n").expect("request");
            let answer = String::from_utf8(rest(&mut stream)).expect("text");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{line}: {answer}");
            let has_content = answer.ends_with("\r\n\r\nok\n");
            assert_eq!(has_content, !line.starts_with("HEAD"), "{line}: {answer}");
        }
        for (line, status) in [
            ("GET /healthz HTTP/1.1", "400"),
            ("GET /healthzz HTTP/1.1", "426"),
            ("POST /healthz HTTP/1.1", "405"),
            ("GET / HTTP/1.0", "505"),
            ("GET /healthz HTTP/2.0", "505"),
            ("OPTIONS / HTTP/1.1\r\nUpgrade: websocket", "405"),
            ("GET /healthz HTTP/1.0\r\nupgrade: websocket", "505"),
        ] {
            let mut stream = logged.connect();
            let host = if status == "400" { "" } else { "Host: health\r\n" };
            write!(stream, "{line}\r\n{host}\r\n").expect("request");
            let answer = String::from_utf8(rest(&mut stream)).expect("text");
            assert_eq!(&answer[9..12], status, "{line}: {answer}");
        }
        // A probe is one of the proxy's own too.
        let said = logged.end();
        assert_eq!(said.matches("handshake refused").count(), 7, "{said}");
    }
}

#[test]
fn max_head_bounds_a_request() {
    let long = |len: usize| request_with(&format!("X-Long: {}\r\n", "x".repeat(len)));
    for (flags, fits, exceeds) in [
        (&[][..], 15_000, 17_000),
        (&["--max-head", "64KiB"], 60_000, 66_000),
        (&["--max-head", "1KiB"], 500, 1_100),
    ] {
        let server = Program::start(flags);
        let mut stream = server.connect();
        stream.write_all(&long(fits)).expect("a request");
        opens(&mut stream);
        let mut stream = server.connect();
        let _ = stream.write_all(&long(exceeds));
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 431 "));
    }
}

#[test]
fn wrong_flags_name_value_and_example() {
    for (flags, says) in [
        (&["--proxy-protocol", "box"][..], "`box`"),
        (&["--proxy-protocol", "10.0.0.1/8"], "10.0.0.0/8"),
        (&["--trusted-proxy", "10.0.0.0/40"], "10.0.0.0/8,127.0.0.1"),
        (&["--max-head", "12"], "16KiB"),
        (&["--max-head", "2MiB"], "1MiB"),
        (&["--proxy-protocol", "::1", "--protocol", "tcp"], "--protocol tcp"),
        (&["--trusted-proxy", "::1", "--protocol", "tcp"], "--protocol tcp"),
    ] {
        let output = program::run(flags);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(flags[0]) && said.contains(says), "{said}");
    }
}

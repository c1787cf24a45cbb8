//! Limits on connections and their rates, on every engine, from outside.

mod program;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use program::{LONG, Program, client_frame, connect_from, engines, expect, read_head, rest};

/// Runs `test` against a server on each engine with two workers that share the limits.
fn on_every_engine(arguments: &[&str], test: impl Fn(&Program)) {
    for engine in engines() {
        eprintln!("engine {engine}");
        test(&Program::start(&[&["--engine", &engine, "--threads", "2"], arguments].concat()));
    }
}

/// Requests a WebSocket; returns the status code and the whole head of the answer.
fn ask(stream: &mut TcpStream, more: &str) -> (u16, String) {
    let request = String::from_utf8(program::REQUEST.to_vec()).expect("text");
    // A connection that is refused before its request may be closed by now.
    let _ =
        stream.write_all(request.replacen("\r\n\r\n", &format!("\r\n{more}\r\n"), 1).as_bytes());
    let head = read_head(stream);
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (status, head)
}

/// Requests until the server accepts: it learns a little later that another connection has closed.
fn is_let_in(server: &Program) -> TcpStream {
    let end = Instant::now() + LONG;
    loop {
        let mut stream = server.connect();
        match ask(&mut stream, "").0 {
            101 => return stream,
            503 => assert!(Instant::now() < end, "no connection is accepted any more"),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn connections_beyond_the_limit_get_503() {
    on_every_engine(&["--max-connections", "3"], |server| {
        let mut open: Vec<TcpStream> = (0..3).map(|_| server.open()).collect();
        for _ in 0..20 {
            let mut stream = server.connect();
            let (status, head) = ask(&mut stream, "");
            assert_eq!(status, 503, "{head}");
            assert!(
                head.contains("\r\nRetry-After: ") && head.contains("\r\nConnection: close\r\n"),
                "{head}"
            );
            // The content follows, and the end: the client need not wait for a time limit.
            assert!(!rest(&mut stream).is_empty());
        }
        for stream in &mut open {
            stream.write_all(&client_frame(1, b"here")).expect("frame");
            expect(stream, b"\x81\x04here");
        }
        drop(open.pop());
        let mut stream = is_let_in(server);
        stream.write_all(&client_frame(1, b"me")).expect("frame");
        expect(&mut stream, b"\x81\x02me");
    });
}

#[test]
fn workers_on_uring_hold_more_than_the_limit_on_open_files() {
    const FILES: u32 = 300;
    if !engines().iter().any(|engine| engine == "uring") {
        return;
    }
    let flags = ["--engine", "uring", "--threads", "4", "--max-connections", "600"];
    let server = Program::start_limited(FILES, &flags);
    let mut open: Vec<TcpStream> = (0..600).map(|_| server.open()).collect();
    assert_eq!(ask(&mut server.connect(), "").0, 503);
    for stream in &mut open {
        stream.write_all(&client_frame(1, b"here")).expect("frame");
        expect(stream, b"\x81\x04here");
    }
}

/// Returns the text of a refusal to a client that knows of no limit.
fn refusal_beyond(flags: &[&str], open: usize) -> String {
    let server = Program::start(&[&["--threads", "1"], flags].concat());
    let end = Instant::now() + LONG;
    let mut held: Vec<TcpStream> = (0..open).map(|_| server.open()).collect();
    loop {
        let mut stream = server.connect();
        match ask(&mut stream, "").0 {
            503 => return String::from_utf8(rest(&mut stream)).expect("text"),
            // On a slow machine the attempts may stay below a rate.
            101 => held.push(stream),
            other => panic!("{other}"),
        }
        assert!(Instant::now() < end, "any number is accepted: {flags:?}");
    }
}

#[test]
fn a_503_names_the_flag_that_refused() {
    for (flags, open, says) in [
        (["--max-connections", "1"], 1, ["1 open connection in all", "raise --max-connections"]),
        (
            ["--max-connections-per-ip", "2"],
            2,
            ["2 open connections from one", "--max-connections-per-ip 2"],
        ),
        (
            ["--connect-rate-per-ip", "1"],
            1,
            ["1 new connection a second", "--connect-rate-per-ip 1"],
        ),
    ] {
        let text = refusal_beyond(&flags, open);
        assert!(says.iter().all(|part| text.contains(part)), "{says:?}: {text}");
    }
}

#[test]
fn an_address_cannot_take_all_connections() {
    on_every_engine(&["--max-connections-per-ip", "2"], |server| {
        let mut open: Vec<TcpStream> = (0..2).map(|_| server.open()).collect();
        assert_eq!(ask(&mut server.connect(), "").0, 503);
        let mut other = connect_from("127.0.0.2", server.address());
        assert_eq!(ask(&mut other, "").0, 101);
        drop(open.pop());
        is_let_in(server);
    });
}

#[test]
fn an_address_cannot_connect_faster_than_its_rate() {
    on_every_engine(&["--connect-rate-per-ip", "1"], |server| {
        // Two connections in less than a second are one too many, which a slow machine may not
        // manage at the first attempt.
        let end = Instant::now() + LONG;
        while ask(&mut server.connect(), "").0 == 101 {
            assert!(Instant::now() < end, "any number is accepted");
        }
        assert_eq!(ask(&mut connect_from("127.0.0.2", server.address()), "").0, 101);
        is_let_in(server);
    });
}

#[test]
fn a_connection_over_its_rate_waits_and_loses_nothing() {
    on_every_engine(&["--message-rate", "100", "--ping-interval", "50ms"], |server| {
        let mut stream = server.open();
        let (count, began) = (160u8, Instant::now());
        for n in 0..count {
            stream.write_all(&client_frame(2, &[n])).expect("frame");
        }
        for n in 0..count {
            expect_data(&mut stream, &[n]);
        }
        // One more, which is read when the others are paid for: 160 at 100 per second, with one
        // second's worth saved up.
        stream.write_all(&client_frame(2, b"!")).expect("frame");
        expect_data(&mut stream, b"!");
        assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    });
}

/// Reads a binary message, skipping pings.
fn expect_data(stream: &mut TcpStream, payload: &[u8]) {
    loop {
        let mut header = [0; 2];
        stream.read_exact(&mut header).expect("a header");
        let mut got = vec![0; usize::from(header[1])];
        stream.read_exact(&mut got).expect("a payload");
        if header[0] != 0x89 {
            assert_eq!((header[0], &got[..]), (0x82, payload));
            return;
        }
    }
}

#[test]
fn closes_a_connection_over_its_rate_by_policy() {
    on_every_engine(&["--byte-rate", "1KiB", "--rate-policy", "close"], |server| {
        let mut stream = server.open();
        let flood = client_frame(2, &[7; 100]).repeat(40);
        let _ = stream.write_all(&flood);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            // The server did not read all of the flood.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        let close = b"\x03\xf0rate-exceeded";
        assert!(answer.ends_with(close), "{}", answer.escape_ascii());
    });
}

#[test]
fn pages_of_other_sites_cannot_drive_a_server_on_loopback() {
    on_every_engine(&[], |server| {
        let port = server.address().port();
        let from = |origin: &str| format!("Origin: {origin}\r\n");
        let own = format!("Origin: http://127.0.0.1:{port}\r\n");
        // The request has another Host, the name under which the browser knows the server.
        assert_eq!(ask(&mut server.connect(), &own).0, 403);
        assert_eq!(ask(&mut server.connect(), &from("http://evil.example")).0, 403);
        assert_eq!(ask(&mut server.connect(), &from("null")).0, 403);
        assert_eq!(ask(&mut server.connect(), "").0, 101);
        let mut stream = server.connect();
        let request = String::from_utf8(program::REQUEST.to_vec()).expect("text");
        let request = request.replace("server.example.com", &format!("127.0.0.1:{port}"));
        stream
            .write_all(request.replacen("\r\n\r\n", &format!("\r\n{own}\r\n"), 1).as_bytes())
            .expect("request");
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    });
}

#[test]
fn origins_can_be_listed_or_all_be_accepted() {
    let listed =
        Program::start(&["--origin", "https://a.example", "--origin", "https://b.example:8443"]);
    for (origin, status) in [
        ("https://a.example", 101),
        ("HTTPS://B.example:8443", 101),
        ("https://b.example", 403),
        ("null", 403),
    ] {
        assert_eq!(
            ask(&mut listed.connect(), &format!("Origin: {origin}\r\n")).0,
            status,
            "{origin}"
        );
    }
    let all = Program::start(&["--origin", "*"]);
    assert_eq!(ask(&mut all.connect(), "Origin: http://anything.example\r\n").0, 101);
}

#[test]
fn the_first_known_subprotocol_is_selected() {
    let server = Program::start(&["--subprotocol", "chat", "--subprotocol", "v2.chat"]);
    let agreed = |offers: &str| {
        let (status, head) = ask(&mut server.connect(), offers);
        assert_eq!(status, 101, "{head}");
        let lines: Vec<&str> =
            head.lines().filter(|line| line.starts_with("Sec-WebSocket-Protocol")).collect();
        lines.join("; ")
    };
    let offer = |names: &str| format!("Sec-WebSocket-Protocol: {names}\r\n");
    assert_eq!(agreed(&offer("mqtt, v2.chat, chat")), "Sec-WebSocket-Protocol: v2.chat");
    assert_eq!(agreed(&[offer("chat"), offer("v2.chat")].concat()), "Sec-WebSocket-Protocol: chat");
    // Names are compared as they are (RFC 6455 11.5).
    assert_eq!(agreed(&offer("Chat, mqtt")), "");
    assert_eq!(agreed(""), "");
}

#[test]
fn raw_connections_beyond_the_limit_are_closed() {
    on_every_engine(
        &["--protocol", "tcp", "--max-connections", "1", "--max-connections-per-ip", "1"],
        |server| {
            let mut first = server.connect();
            first.write_all(b"first").expect("bytes");
            expect(&mut first, b"first");
            let mut second = server.connect();
            let mut nothing = Vec::new();
            // The end comes without a byte, in order or by a reset.
            let _ = second.read_to_end(&mut nothing);
            assert!(nothing.is_empty());
            first.write_all(b"again").expect("bytes");
            expect(&mut first, b"again");
        },
    );
}

//! Faults on request (`--faults`): what goes wrong, at which message, and for whom.

mod program;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use program::{Program, client_frame, connect, engines, expect, masked, read_head, rest};
use rustix::process::Signal;

const HELLO: &[u8] = b"\x81\x05hello";

/// Sends an opening handshake for a target.
fn request(server: &Program, target: &str) -> TcpStream {
    let mut stream = server.connect();
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .expect("request");
    stream
}

fn open(server: &Program, target: &str) -> TcpStream {
    let mut stream = request(server, target);
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{target}: {head}");
    stream
}

fn refused(server: &Program, target: &str) -> String {
    String::from_utf8(rest(&mut request(server, target))).expect("text")
}

fn send(stream: &mut TcpStream, texts: &[&str]) {
    let frames: Vec<u8> = texts.iter().flat_map(|text| client_frame(1, text.as_bytes())).collect();
    stream.write_all(&frames).expect("frames");
}

/// Reads to the end of the connection, which may be a reset.
fn until_end(stream: &mut TcpStream) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return all,
            Ok(len) => all.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

fn on_every_engine(flags: &[&str], test: impl Fn(&Program)) {
    for engine in engines() {
        eprintln!("engine {engine}");
        test(&Program::start(&[&["--engine", &engine, "--threads", "2"], flags].concat()));
    }
}

/// Each fault on a connection that sends the messages in one write, and the exact answer to its
/// end.
#[test]
fn faults_change_the_bytes_that_are_named() {
    let texts = ["hello", "a", "hello", "bc"];
    let (a, bc) = (&b"\x81\x01a"[..], &b"\x81\x02bc"[..]);
    let close = |code: u16| [&b"\x88\x0c"[..], &code.to_be_bytes(), b"on request"].concat();
    let all = [HELLO, a, HELLO, bc].concat();
    let cases: [(&str, Vec<u8>, bool); 14] = [
        ("/?close=1011@3", [HELLO, a, HELLO, &close(1011)].concat(), true),
        ("/?close=1000", [HELLO, &close(1000)].concat(), true),
        ("/?close=4001@0", close(4001), true),
        ("/?abort=whole@2", [HELLO, a].concat(), true),
        ("/?abort=partial@3", [HELLO, a, b"\x81\x05h"].concat(), true),
        ("/?abort=whole@0&greet=hi", b"\x81\x02hi".to_vec(), true),
        ("/?fragment=2@3", [HELLO, a, b"\x01\x02he\x00\x02ll\x80\x01o", bc].concat(), false),
        ("/?ping=2", [HELLO, a, b"\x89\x012", HELLO, bc, b"\x89\x014"].concat(), false),
        ("/?truncate=0@2", [HELLO, b"\x81\x00", HELLO, b"\x81\x00"].concat(), false),
        ("/?greet=h%C3%A4+lo", [&b"\x81\x06h\xc3\xa4 lo"[..], &all].concat(), false),
        (
            "/faults/fragment=2/close=1011@1",
            [&b"\x01\x02he\x00\x02ll\x80\x01o"[..], &close(1011)].concat(),
            true,
        ),
        ("/chat/faults/ping=3", [HELLO, a, HELLO, b"\x89\x013", bc].concat(), false),
        ("/?delay=1ms@2&stall=1ms@3", all.clone(), false),
        ("/?delay=exp:1ms&seed=5", all.clone(), false),
    ];
    on_every_engine(&["--faults"], |server| {
        for (target, expected, ends) in &cases {
            let mut stream = open(server, target);
            send(&mut stream, &texts);
            if !ends {
                // The answer to the Close stands behind everything that was held.
                stream.write_all(&client_frame(8, b"\x03\xe8")).expect("a Close");
            }
            let closing: &[u8] = if *ends { b"" } else { b"\x88\x02\x03\xe8" };
            let got = until_end(&mut stream);
            let expected = [&expected[..], closing].concat();
            assert!(
                got == expected,
                "{target}: {} for {}",
                got.escape_ascii(),
                expected.escape_ascii()
            );
        }
    });
}

/// Holds whatever the machine does: an echo never comes early. The clock is read once in a turn, so
/// that a turn counts as one moment.
#[test]
fn delayed_echoes_are_never_early_and_keep_their_order() {
    const TURN: Duration = Duration::from_millis(5);
    on_every_engine(&["--faults"], |server| {
        let mut stream = open(server, "/?delay=80ms@2");
        let begun = Instant::now();
        send(&mut stream, &["a", "b", "c"]);
        expect(&mut stream, b"\x81\x01a");
        expect(&mut stream, b"\x81\x01b");
        assert!(begun.elapsed() + TURN >= Duration::from_millis(80), "{:?}", begun.elapsed());
        expect(&mut stream, b"\x81\x01c");
        // A stall answers nothing at all, and then everything.
        let mut stream = open(server, "/?stall=80ms@1");
        send(&mut stream, &["a"]);
        expect(&mut stream, b"\x81\x01a");
        let begun = Instant::now();
        stream.write_all(&masked(0x89, b"p")).expect("a ping");
        expect(&mut stream, b"\x8a\x01p");
        assert!(begun.elapsed() + TURN * 4 >= Duration::from_millis(80), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_large_message_and_one_in_pieces_have_faults_too() {
    on_every_engine(&["--faults"], |server| {
        let mut stream = open(server, "/?fragment=65536&delay=5ms");
        let payload: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        stream.write_all(&masked(0x82, &payload)).expect("a message");
        let mut got = Vec::new();
        let mut first = 0x02;
        for part in payload.chunks(65_536) {
            let mut head = [0; 10];
            stream.read_exact(&mut head[..2]).expect("a header");
            let len = match head[1] {
                127 => {
                    stream.read_exact(&mut head[2..10]).expect("a length");
                    u64::from_be_bytes(head[2..10].try_into().expect("eight bytes")) as usize
                }
                126 => {
                    stream.read_exact(&mut head[2..4]).expect("a length");
                    usize::from(u16::from_be_bytes([head[2], head[3]]))
                }
                len => usize::from(len),
            };
            let fin = if got.len() + len == payload.len() { 0x80 } else { 0 };
            assert_eq!((head[0], len), (first | fin, part.len()));
            first = 0;
            let mut payload = vec![0; len];
            stream.read_exact(&mut payload).expect("a payload");
            got.extend(payload);
        }
        assert!(got == payload);
        let pieces = [masked(0x01, b"hel"), masked(0x80, b"lo")].concat();
        for byte in pieces {
            stream.write_all(&[byte]).expect("a byte");
        }
        expect(&mut stream, HELLO);
    });
}

/// Invalid frames get their Close behind the echoes that are held.
#[test]
fn invalid_frames_and_the_end_wait_for_held_echoes() {
    on_every_engine(&["--faults", "--max-message", "10"], |server| {
        let mut stream = open(server, "/?delay=30ms");
        send(&mut stream, &["hello"]);
        stream.write_all(&client_frame(1, b"more than ten bytes")).expect("a message");
        expect(&mut stream, HELLO);
        expect(&mut stream, b"\x88");
        assert!(rest(&mut stream)[1..].starts_with(&1009_u16.to_be_bytes()));
        let mut stream = open(server, "/?delay=30ms");
        send(&mut stream, &["hello"]);
        stream.shutdown(std::net::Shutdown::Write).expect("a FIN");
        assert_eq!(rest(&mut stream), HELLO);
    });
}

#[test]
fn connections_are_refused_by_their_number() {
    on_every_engine(&["--faults"], |server| {
        let statuses: Vec<String> = (0..6)
            .map(|_| {
                let mut stream = request(server, "/?refuse=429@3");
                read_head(&mut stream)[..12].to_owned()
            })
            .collect();
        let refused = |n: &usize| statuses[*n] == "HTTP/1.1 429";
        assert_eq!((0..6).filter(refused).collect::<Vec<_>>(), [2, 5], "{statuses:?}");
        let redirect = self::refused(server, "/?refuse=302");
        assert!(redirect.contains("302 Found\r\n") && redirect.contains("\r\nLocation: /\r\n"));
        assert!(self::refused(server, "/?refuse=599").starts_with("HTTP/1.1 599 \r\n"));
    });
}

#[test]
fn wrong_faults_get_a_400_that_names_them() {
    let server = Program::start(&["--faults", "--path", "/chat"]);
    for (target, wrong, example) in [
        ("/chat?delay=5", "`delay=5`", "delay=exp:5ms@10"),
        ("/chat?dely=5ms", "`dely=5ms`", "delay=5ms"),
        ("/chat/faults/close=1005", "`close=1005`", "close=1011@100"),
        ("/chat?ping=1&ping=2", "`ping=2`", "twice"),
    ] {
        let answer = refused(&server, target);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains(wrong) && answer.contains(example), "{answer}");
    }
    // The path is that in front of the faults.
    assert!(refused(&server, "/other/faults/ping=1").starts_with("HTTP/1.1 404 "));
    expect_echo(&mut open(&server, "/chat/faults/delay=1ms"));
}

fn expect_echo(stream: &mut TcpStream) {
    send(stream, &["hello"]);
    expect(stream, HELLO);
}

/// The answer says which faults a connection has, so that no measurement hides them.
#[test]
fn answers_name_the_faults() {
    let field = |server: &Program, target: &str| {
        let head = read_head(&mut request(server, target));
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(name, _)| *name == "X-Sparring-Faults").map(|(_, value)| value.to_owned())
    };
    let off = Program::start(&[]);
    assert_eq!(field(&off, "/?delay=5ms&what=ever"), None);
    assert!(!off.lines[0].contains("faults"), "{}", off.lines[0]);
    let on = Program::start(&["--faults"]);
    assert_eq!(field(&on, "/").as_deref(), Some("none"));
    assert_eq!(field(&on, "/?ping=2&delay=90s").as_deref(), Some("delay=1m30s&ping=2"));
    assert!(on.lines[0].ends_with(", faults)"), "{}", on.lines[0]);
    let default = Program::start(&["--faults=close=1012@1"]);
    assert_eq!(field(&default, "/").as_deref(), Some("close=1012"));
    assert_eq!(field(&default, "/?ping=2").as_deref(), Some("ping=2"));
    assert!(default.lines[0].ends_with(", faults close=1012)"), "{}", default.lines[0]);
}

#[test]
fn wrong_flags_name_value_and_example() {
    for (flags, says) in [
        (&["--faults=delay=5"][..], "delay=exp:5ms@10"),
        (&["--faults", "--protocol", "tcp"], "--faults"),
    ] {
        let output = program::run(flags);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--faults") && said.contains(says), "{said}");
    }
}

/// Returns the counts of faults that are not zero.
fn counts(metrics: &str) -> Vec<(String, u64)> {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix("sparring_faults_total{"));
    let counts = lines.map(|line| {
        let (name, count) = line.split_once("} ").expect("a sample");
        (name.replace("fault=", "").replace('"', ""), count.parse().expect("a number"))
    });
    counts.filter(|&(_, count)| count > 0).collect()
}

#[test]
fn metrics_count_every_fault() {
    let log = std::env::temp_dir().join(format!("sparring-faults-{}.log", std::process::id()));
    let file = std::fs::File::create(&log).expect("a file");
    let flags = ["--faults", "--admin", "127.0.0.1:0", "--threads", "2"];
    let server = Program::start_logging(&["--listen", "127.0.0.1:0"], &flags, file);
    let said = std::fs::read_to_string(&log).expect("a log");
    std::fs::remove_file(&log).expect("the log");
    assert!(said.contains("--faults"), "{said}");
    let admin = said.split("admin at http://").nth(1).and_then(|rest| rest.split('/').next());
    for _ in 0..3 {
        let target = "/?delay=1ms@2&fragment=3&ping=5&truncate=4@10&greet=x&close=1011@10";
        let mut stream = open(&server, target);
        send(&mut stream, &["hello"; 20]);
        until_end(&mut stream);
    }
    refused(&server, "/?refuse=500");
    let mut stream = connect(admin.expect("an address").parse().expect("an address"));
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").expect("request");
    let metrics = String::from_utf8(rest(&mut stream)).expect("text");
    let expected = [
        ("delay", 15),
        ("close", 3),
        ("refuse", 1),
        ("fragment", 30),
        ("ping", 6),
        ("truncate", 3),
        ("greet", 3),
    ];
    assert_eq!(counts(&metrics), expected.map(|(name, count)| (name.to_owned(), count)));
}

/// A client that sends more than the server may hold is not read from, and loses nothing.
#[test]
fn held_echoes_are_bounded() {
    on_every_engine(&["--faults", "--high-water", "64KiB"], |server| {
        let mut stream = open(server, "/?delay=20ms");
        let mut reader = stream.try_clone().expect("a descriptor");
        let (count, payload) = (200, vec![b'x'; 10_000]);
        let writer = {
            let frame = client_frame(2, &payload);
            std::thread::spawn(move || {
                (0..count).for_each(|_| stream.write_all(&frame).expect("a frame"));
            })
        };
        let frame = program::plain(0x82, &payload);
        (0..count).for_each(|_| expect(&mut reader, &frame));
        writer.join().expect("no panic");
    });
}

#[test]
fn drain_waits_for_no_delay() {
    on_every_engine(&["--faults"], |server| {
        let mut streams = [open(server, "/?delay=1h"), open(server, "/?stall=1h@0")];
        streams.iter_mut().for_each(|stream| send(stream, &["hello"]));
        server.signal(Signal::TERM);
        for stream in &mut streams {
            expect(stream, b"\x88\x02\x03\xe9");
        }
    });
}

/// A client that nobody here wrote sees what the table of the README says.
#[test]
fn a_client_of_python_sees_the_faults() {
    const CLIENT: &str = r#"
import asyncio, sys, time
import websockets
from websockets.asyncio.client import connect
async def main(url):
    async with connect(url + "/?greet=welcome&fragment=2&ping=1") as ws:
        assert await ws.recv() == "welcome"
        await ws.send("hello")
        assert await ws.recv() == "hello"
    async with connect(url + "/?close=1011@2") as ws:
        for text in "ab":
            await ws.send(text)
            assert await ws.recv() == text
        try:
            await ws.recv()
            assert False
        except websockets.ConnectionClosed as end:
            assert end.rcvd.code == 1011, end
    for cut in ["whole", "partial"]:
        async with connect(url + f"/faults/abort={cut}@2") as ws:
            await ws.send("a")
            assert await ws.recv() == "a"
            await ws.send("longer")
            try:
                if cut == "whole":
                    assert await ws.recv() == "longer"
                await ws.recv()
                assert False
            except websockets.ConnectionClosed as end:
                assert end.rcvd is None, end
    try:
        await connect(url + "/?refuse=503")
        assert False
    except websockets.InvalidStatus as refused:
        assert refused.response.status_code == 503
    async with connect(url + "/?delay=100ms&truncate=3") as ws:
        begun = time.monotonic()
        await ws.send("hello")
        assert await ws.recv() == "hel"
        assert time.monotonic() - begun >= 0.095
asyncio.run(main(sys.argv[1]))
"#;
    let python = std::env::var("SPARRING_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_it = Command::new(&python)
        .args(["-c", "import websockets.asyncio.client"])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_it {
        println!("skipped: no websockets in {python} (pip install websockets)");
        return;
    }
    on_every_engine(&["--faults"], |server| {
        let url = format!("ws://{}", server.address());
        let output = Command::new(&python).args(["-c", CLIENT, &url]).output().expect("python");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}

//! The server end to end on every engine that works here, with an independent WebSocket
//! implementation as its peer.

mod program;

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use bytes::BytesMut;
use program::{BINARY, FIN, RSV1, TEXT, masked, plain};
use program::{Program, client_frame, engines, expect, read_head, rest};
use protocol::deflate::{CompressorSettings, Deflater};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Message, WebSocket, client::client_with_config};

fn websocket(server: &Program) -> WebSocket<TcpStream> {
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let url = format!("ws://{}/", server.address());
    client_with_config(url, server.connect(), Some(config)).expect("handshake").0
}

fn echoed(socket: &mut WebSocket<TcpStream>, message: &Message) {
    socket.send(message.clone()).expect("send");
    let echo = socket.read().expect("echo");
    assert!(
        echo == *message,
        "a message of {} bytes came back as {} bytes",
        message.len(),
        echo.len()
    );
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + len) as u8).collect()
}

/// Runs `test` against a server on each engine, with one worker and with two.
fn on_every_engine(arguments: &[&str], test: impl Fn(&Program)) {
    for engine in engines() {
        for threads in ["1", "2"] {
            eprintln!("engine {engine}, threads {threads}");
            test(&Program::start(
                &[&["--engine", &engine, "--threads", threads], arguments].concat(),
            ));
        }
    }
}

#[test]
fn messages_of_all_sizes_are_echoed() {
    on_every_engine(&[], |server| {
        let mut socket = websocket(server);
        for len in [0, 1, 2, 125, 126, 127, 4_000, 4_096, 65_535, 65_536, 1 << 20] {
            echoed(&mut socket, &Message::binary(payload(len)));
            echoed(&mut socket, &Message::text("\u{e4}\u{1f600}z".repeat(len / 7)));
        }
        socket.close(None).expect("close");
        while socket.read().is_ok() {}
    });
}

#[test]
fn a_large_message_is_echoed() {
    on_every_engine(&[], |server| {
        let mut socket = websocket(server);
        echoed(&mut socket, &Message::binary(payload(20 << 20)));
        echoed(&mut socket, &Message::text("after"));
    });
}

#[test]
fn many_messages_under_way_keep_their_order() {
    on_every_engine(&[], |server| {
        let mut socket = websocket(server);
        for round in 0..20 {
            let messages: Vec<String> =
                (0..100).map(|n| format!("{round} {n} {}", "x".repeat(n))).collect();
            for message in &messages {
                socket.write(Message::text(message.as_str())).expect("write");
            }
            socket.flush().expect("flush");
            for message in &messages {
                assert_eq!(socket.read().expect("echo"), Message::text(message.as_str()));
            }
        }
    });
}

#[test]
fn many_connections_are_served_side_by_side() {
    on_every_engine(&[], |server| {
        let mut sockets: Vec<_> = (0..100).map(|_| websocket(server)).collect();
        for round in 0..3 {
            for (n, socket) in sockets.iter_mut().enumerate() {
                socket.send(Message::text(format!("{n} {round}"))).expect("send");
            }
            for (n, socket) in sockets.iter_mut().enumerate() {
                assert_eq!(socket.read().expect("echo"), Message::text(format!("{n} {round}")));
            }
        }
    });
}

/// Returns a connection that has agreed on compression.
fn compressed(server: &Program) -> TcpStream {
    let (line, end) = program::REQUEST.split_at(program::REQUEST.len() - 2);
    let mut stream = server.connect();
    let offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    stream.write_all(&[line, offer, end].concat()).expect("request");
    let head = read_head(&mut stream);
    assert!(head.contains("Sec-WebSocket-Extensions: permessage-deflate"), "{head}");
    stream
}

/// Compresses messages, each with the context of those before.
fn deflated(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut deflater = Deflater::new(CompressorSettings::default(), true);
    let mut deflate = |message: &Vec<u8>| {
        let mut payload = BytesMut::new();
        deflater.deflate(message, &mut payload);
        payload.to_vec()
    };
    messages.iter().map(&mut deflate).collect()
}

#[test]
fn compressed_messages_are_echoed_as_they_came() {
    on_every_engine(&["--deflate", "takeover"], |server| {
        let mut stream = compressed(server);
        let sizes = [0, 1, 300, 5, 70_000, 300, 4 << 20, 10];
        let messages: Vec<_> = sizes.into_iter().map(|len| b"{\"id\":7}".repeat(len / 8)).collect();
        let payloads = deflated(&[messages, sizes.map(payload).to_vec()].concat());
        for payload in &payloads {
            let sent = [masked(FIN | RSV1 | BINARY, payload), masked(FIN | TEXT, b"between")];
            stream.write_all(&sent.concat()).expect("send");
            let echo = [plain(FIN | RSV1 | BINARY, payload), plain(FIN | TEXT, b"between")];
            expect(&mut stream, &echo.concat());
        }
        // The same on another connection, many of them in one read.
        let small: Vec<_> = (0..200).map(|n| format!("{{\"id\":{n}}}").into_bytes()).collect();
        let mut stream = compressed(server);
        let frames = |frame: fn(u8, &[u8]) -> Vec<u8>| -> Vec<u8> {
            deflated(&small).iter().flat_map(|payload| frame(FIN | RSV1 | TEXT, payload)).collect()
        };
        stream.write_all(&frames(masked)).expect("send");
        expect(&mut stream, &frames(plain));
    });
}

#[test]
fn bombs_are_inflated_while_others_are_served() {
    let bomb = &deflated(&[vec![0; 48 << 20]])[0];
    on_every_engine(&["--deflate", "on"], |server| {
        let mut bystander = websocket(server);
        let mut bombers: Vec<_> = (0..4).map(|_| compressed(server)).collect();
        for stream in &mut bombers {
            // What stands behind a bomb waits with it.
            let behind = masked(FIN | TEXT, b"behind it");
            let sent = [masked(FIN | RSV1 | BINARY, bomb), behind].concat();
            stream.write_all(&sent).expect("send");
        }
        bombers[0].shutdown(Shutdown::Write).expect("half-close");
        for n in 0..100 {
            echoed(&mut bystander, &Message::text(format!("{n}")));
        }
        let echo = [plain(FIN | RSV1 | BINARY, bomb), plain(FIN | TEXT, b"behind it")].concat();
        for stream in &mut bombers {
            expect(stream, &echo);
        }
        assert_eq!(rest(&mut bombers[0]), b"");
    });
}

#[test]
fn a_ping_gets_its_pong() {
    on_every_engine(&[], |server| {
        let mut socket = websocket(server);
        socket.send(Message::Ping("payload".into())).expect("ping");
        assert_eq!(socket.read().expect("pong"), Message::Pong("payload".into()));
    });
}

#[test]
fn the_closing_handshake_carries_code_and_reason() {
    on_every_engine(&[], |server| {
        let mut socket = websocket(server);
        let close = CloseFrame { code: CloseCode::Library(4321), reason: "enough".into() };
        socket.close(Some(close.clone())).expect("close");
        assert_eq!(socket.read().expect("answer"), Message::Close(Some(close)));
        let end = socket.read().expect_err("the end");
        assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end}");
    });
}

#[test]
fn single_bytes_are_echoed_like_whole_messages() {
    on_every_engine(&[], |server| {
        let mut stream = server.connect();
        let sent = [
            program::REQUEST,
            &client_frame(1, b"slow"),
            &client_frame(9, b"p"),
            &client_frame(8, b"\x03\xe8"),
        ]
        .concat();
        for byte in sent {
            stream.write_all(&[byte]).expect("byte");
        }
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
        assert_eq!(rest(&mut stream), b"\x81\x04slow\x8a\x01p\x88\x02\x03\xe8");
    });
}

#[test]
fn frames_in_the_requests_segment_are_echoed() {
    on_every_engine(&[], |server| {
        let mut stream = server.connect();
        stream
            .write_all(&[program::REQUEST, &client_frame(1, b"a"), &client_frame(2, b"b")].concat())
            .expect("send");
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
        expect(&mut stream, b"\x81\x01a\x82\x01b");
    });
}

#[test]
fn a_fault_closes_only_its_own_connection() {
    on_every_engine(&[], |server| {
        let mut bystander = websocket(server);
        let mut stream = server.open();
        stream
            .write_all(
                &[client_frame(1, b"good"), b"\x81\x01?".to_vec(), client_frame(1, b"no")].concat(),
            )
            .expect("send");
        let answer = rest(&mut stream);
        assert!(answer.starts_with(b"\x81\x04good\x88"), "{}", answer.escape_ascii());
        assert_eq!(answer[8..10], 1002u16.to_be_bytes());
        echoed(&mut bystander, &Message::text("still here"));
    });
}

#[test]
fn a_half_closed_connection_gets_all_its_echoes() {
    on_every_engine(&[], |server| {
        let mut stream = server.open();
        stream
            .write_all(&[client_frame(1, b"one"), client_frame(1, b"two")].concat())
            .expect("send");
        stream.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(rest(&mut stream), b"\x81\x03one\x81\x03two");
    });
}

#[test]
fn a_refused_request_gets_its_status() {
    on_every_engine(&[], |server| {
        let mut stream = server.connect();
        stream.write_all(b"GET /chat HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("send");
        let answer = String::from_utf8(rest(&mut stream)).expect("text");
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    });
}

#[test]
fn time_limits_end_stalled_connections() {
    let limits = ["--handshake-timeout", "50ms", "--idle-timeout", "50ms"];
    on_every_engine(&limits, |server| {
        let mut unfinished = server.connect();
        unfinished.write_all(b"GET / HTTP/1.1\r\n").expect("send");
        let answer = String::from_utf8(rest(&mut unfinished)).expect("text");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert_eq!(rest(&mut server.connect()), b"");
        let close = rest(&mut server.open());
        assert_eq!((close[0], &close[2..4]), (0x88, &1001u16.to_be_bytes()[..]));
    });
}

#[test]
fn an_unanswered_heartbeat_ends_the_connection() {
    on_every_engine(&["--ping-interval", "50ms"], |server| {
        let mut silent = server.open();
        assert_eq!(rest(&mut silent), b"\x89\x00\x89\x00");
    });
}

#[test]
fn raw_tcp_is_echoed() {
    on_every_engine(&["--protocol", "tcp"], |server| {
        let mut stream = server.connect();
        let sent = payload(300_000);
        let mut writer = stream.try_clone().expect("clone");
        let bytes = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&bytes).expect("send");
            writer.shutdown(Shutdown::Write).expect("half-close");
        });
        assert!(rest(&mut stream) == sent);
        writing.join().expect("writer");
    });
}

//! The echoing client against a server of this test, which checks every byte that the client sends.

#[path = "../../protocol/tests/websocket/frames.rs"]
#[allow(dead_code, reason = "shared with other tests, which use the rest of it")]
mod frames;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use engine::EngineKind;
use loadgen::echo::{EndedConnection, Ending, Plan, execute};
use protocol::handshake::{HeadLimits, server as handshake};
use protocol::{Header, Opcode, ProtocolError, mask};

use frames::{CLOSE, CONTINUATION, PING, PONG, TEXT, plain, server_close, server_frame};

/// Time limit far beyond the needs of these tests.
const BOUND: Duration = Duration::from_secs(60);

/// Returns the engines that work here; prints the others.
fn engines() -> Vec<EngineKind> {
    let works = |kind: &EngineKind| match kind.probe() {
        Ok(()) => true,
        Err(reason) => {
            println!("skipped: {kind}: {reason}");
            false
        }
    };
    EngineKind::ALL.into_iter().filter(works).collect()
}

/// The server's end of one connection: blocking, frame by frame.
struct Peer {
    stream: TcpStream,
    /// Target that the client requested.
    target: String,
    seen_keys: Vec<[u8; 4]>,
}

/// A frame of the client, unmasked.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    opcode: Opcode,
    payload: Vec<u8>,
}

impl Peer {
    /// Accepts a connection and reads the request; returns the valid response to it.
    fn ask(listener: &TcpListener) -> (Self, String) {
        let (stream, _) = listener.accept().expect("a client");
        stream.set_read_timeout(Some(BOUND)).expect("a socket");
        stream.set_write_timeout(Some(BOUND)).expect("a socket");
        let mut peer = Self { stream, target: String::new(), seen_keys: Vec::new() };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(peer.bytes(1)[0]);
        }
        let accepted = handshake::answer(&head, &HeadLimits::default()).expect("a right request");
        peer.target = accepted.target().to_owned();
        (peer, String::from_utf8_lossy(accepted.response()).into_owned())
    }

    /// Accepts a WebSocket; `frames` follow the response in the same write.
    fn accept(listener: &TcpListener, frames: &[u8]) -> Self {
        let (mut peer, answer) = Self::ask(listener);
        peer.send(&[answer.as_bytes(), frames].concat());
        peer
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the client reads");
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("the client writes");
        bytes
    }

    /// Returns the next frame, which must follow RFC 6455 5 and be unfragmented.
    fn frame(&mut self) -> Frame {
        let mut bytes = self.bytes(2);
        let (header, len) = loop {
            match Header::parse(&bytes).expect("a right header") {
                Some(found) => break found,
                None => bytes.extend(self.bytes(1)),
            }
        };
        assert_eq!(len, bytes.len());
        assert!(header.fin && header.rsv == 0);
        let key = header.mask.expect("a client masks (RFC 6455 5.1)");
        assert!(
            !self.seen_keys.contains(&key.to_bytes()),
            "every frame has a key of its own (RFC 6455 5.3)"
        );
        self.seen_keys.push(key.to_bytes());
        let mut payload = self.bytes(header.payload_len as usize);
        mask::in_place(&mut payload, key);
        Frame { opcode: header.opcode, payload }
    }

    fn assert_next(&mut self, opcode: Opcode, payload: &[u8], what: &str) {
        let frame = self.frame();
        assert_eq!(frame.opcode, opcode, "{what}");
        assert!(
            frame.payload == payload,
            "{what}: {} bytes of {}",
            frame.payload.len(),
            payload.len()
        );
    }

    /// Checks that the next frame is a Close with this code.
    fn assert_fails_with(&mut self, code: u16, what: &str) {
        let frame = self.frame();
        assert_eq!(frame.opcode, Opcode::Close, "{what}");
        assert_eq!(frame.payload.first_chunk(), Some(&code.to_be_bytes()), "{what}");
    }

    /// Checks that no more bytes come, and that the client has not closed its end.
    fn assert_silent(&mut self) {
        self.stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
        let error = self.stream.read(&mut [0]).expect_err("neither a byte nor the end");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        self.stream.set_read_timeout(Some(BOUND)).expect("a socket");
    }

    /// Closes the WebSocket as a server does: sends a Close, expects the same back, and closes TCP.
    fn close(mut self, code: u16, reason: &str) {
        self.send(&server_close(code, reason));
        let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        self.assert_next(Opcode::Close, &payload, "the same Close");
        self.assert_silent();
    }
}

/// Starts a server that runs `script`; returns its port and its thread.
fn server(script: impl FnOnce(TcpListener) + Send + 'static) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (port, thread::spawn(move || script(listener)))
}

/// Runs the client; returns the outcome of its connections, and of the whole.
fn visits(plan: &Plan) -> (Vec<EndedConnection>, anyhow::Result<()>) {
    let (sender, receiver) = mpsc::channel();
    let outcome = execute(plan, move |visit| sender.send(visit.clone()).expect("it is read below"));
    (receiver.try_iter().collect(), outcome)
}

fn plan(port: u16, target: &str, engine: EngineKind) -> Plan {
    let url = format!("ws://127.0.0.1:{port}{target}").parse().expect("a URL");
    // A peer that responds never reaches these limits, however busy the machine is.
    Plan { connect_timeout: BOUND, closing_timeout: BOUND, ..Plan::new(url, engine) }
}

/// Runs one connection on every engine to a server that runs `script`.
fn every_engine(script: impl Fn(&TcpListener) + Clone + Send + 'static) -> Vec<EndedConnection> {
    let visit = |engine| {
        let script = script.clone();
        let (port, server) = server(move |listener| script(&listener));
        let (mut visits, outcome) = visits(&plan(port, "/", engine));
        server.join().unwrap_or_else(|_| panic!("the server found a fault, on {engine}"));
        outcome.unwrap_or_else(|error| panic!("{engine}: {error}"));
        assert_eq!(visits.len(), 1);
        visits.remove(0)
    };
    engines().into_iter().map(visit).collect()
}

fn closed(code: u16, reason: &str) -> Ending {
    Ending::Closed { code: Some(code), reason: reason.to_owned() }
}

#[test]
fn messages_of_every_length_are_echoed_in_one_frame() {
    let lengths = [0, 1, 125, 126, 65_535, 65_536, 300_000];
    let visits = every_engine(move |listener| {
        let mut peer = Peer::accept(listener, &[]);
        for len in lengths {
            let text = "żółw 🐢 ".repeat(len / 4);
            for (opcode, payload) in [
                (Opcode::Binary, vec![0xa5; len]),
                (Opcode::Text, text[..text.floor_char_boundary(len)].into()),
            ] {
                peer.send(&server_frame(opcode as u8, &payload));
                peer.assert_next(opcode, &payload, "the same message");
            }
        }
        peer.close(1000, "bye");
    });
    for visit in visits {
        assert_eq!(
            visit,
            EndedConnection { number: None, messages: 14, ending: closed(1000, "bye") }
        );
    }
}

#[test]
fn frames_in_the_segment_of_the_response_are_echoed() {
    for visit in every_engine(|listener| {
        let mut peer = Peer::accept(listener, &server_frame(TEXT, b"early"));
        peer.assert_next(Opcode::Text, b"early", "the first message");
        peer.close(3000, "");
    }) {
        assert_eq!((visit.messages, visit.ending), (1, closed(3000, "")));
    }
}

#[test]
fn skips_interim_responses() {
    for visit in every_engine(|listener| {
        let (mut peer, answer) = Peer::ask(listener);
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        peer.send(interim.as_bytes());
        peer.send(answer.as_bytes());
        peer.send(&server_frame(TEXT, b"hello"));
        peer.assert_next(Opcode::Text, b"hello", "the first message");
        peer.close(1000, "");
    }) {
        assert_eq!((visit.messages, visit.ending), (1, closed(1000, "")));
    }
}

#[test]
fn fragments_are_echoed_as_one_frame_after_the_pong() {
    every_engine(|listener| {
        // A character is split between the fragments, and every byte comes alone.
        let fragments = [
            plain(TEXT, "a€".as_bytes().split_at(2).0),
            server_frame(PING, b"here?"),
            plain(CONTINUATION, b""),
            server_frame(CONTINUATION, "a€".as_bytes().split_at(2).1),
        ];
        let mut peer = Peer::accept(listener, &[]);
        peer.stream.set_nodelay(true).expect("a socket");
        for byte in fragments.concat() {
            peer.send(&[byte]);
        }
        peer.assert_next(Opcode::Pong, b"here?", "the pong first");
        peer.assert_next(Opcode::Text, "a€".as_bytes(), "then the message");
        peer.send(&server_frame(PONG, b"unsolicited"));
        peer.close(1001, "");
    });
}

#[test]
fn an_empty_close_is_answered_by_an_empty_one() {
    for visit in every_engine(|listener| {
        let late =
            [server_frame(CLOSE, b""), server_frame(TEXT, b"late"), server_frame(PING, b"late")]
                .concat();
        let mut peer = Peer::accept(listener, &late);
        peer.assert_next(Opcode::Close, b"", "an empty Close");
        peer.assert_silent();
    }) {
        assert_eq!(
            (visit.messages, visit.ending),
            (0, Ending::Closed { code: None, reason: String::new() })
        );
    }
}

/// Returns the faults of a server: the bytes up to the deciding one, the rule, and the code.
fn faults() -> Vec<(Vec<u8>, ProtocolError, u16)> {
    let max = Plan::new("ws://h/".parse().expect("a URL"), EngineKind::Epoll).limits.max_message;
    let too_big = (max + 1).to_be_bytes();
    vec![
        (vec![0x81, 0x82], ProtocolError::MaskedFrame, 1002),
        (vec![0xc1], ProtocolError::ReservedBits { rsv: 4 }, 1002),
        (vec![0x83], ProtocolError::ReservedOpcode { opcode: 3 }, 1002),
        (vec![0x80], ProtocolError::ContinuationWithoutStart, 1002),
        (vec![0x01, 0x00, 0x81], ProtocolError::InterleavedMessage, 1002),
        (vec![0x09], ProtocolError::FragmentedControl, 1002),
        (vec![0x89, 0x7e], ProtocolError::OversizedControl, 1002),
        (vec![0x82, 0x7e, 0, 125], ProtocolError::NonMinimalLength { payload_len: 125 }, 1002),
        ([&[0x82, 0x7f], &too_big[..]].concat(), ProtocolError::MessageTooBig { max }, 1009),
        // Text that can no longer become UTF-8, in the middle of a frame of 100 bytes.
        (vec![0x81, 100, b'a', 0xed, 0xa0], ProtocolError::InvalidUtf8, 1007),
        (vec![0x81, 1, 0xc3], ProtocolError::InvalidUtf8, 1007),
        (vec![0x88, 1, 3], ProtocolError::TruncatedCloseCode, 1002),
        (vec![0x88, 2, 0x03, 0xed], ProtocolError::ForbiddenCloseCode { code: 1005 }, 1002),
        (vec![0x88, 3, 0x03, 0xe8, 0xff], ProtocolError::InvalidCloseReason, 1007),
    ]
}

#[test]
fn a_broken_rule_gets_its_close_code_after_earlier_echoes() {
    for (bytes, error, code) in faults() {
        let what = error.to_string();
        for visit in every_engine(move |listener| {
            let mut peer =
                Peer::accept(listener, &[&server_frame(TEXT, b"fine")[..], &bytes].concat());
            peer.assert_next(Opcode::Text, b"fine", &what);
            peer.assert_fails_with(code, &what);
            // Later bytes are no longer read, and the server may close first.
            peer.send(&server_frame(PING, b"late"));
            peer.assert_silent();
        }) {
            assert_eq!((visit.messages, visit.ending), (1, Ending::Failed(error)));
        }
    }
}

#[test]
fn a_server_that_does_not_close_tcp_is_left_after_a_while() {
    for engine in engines() {
        let (port, server) = server(|listener| {
            let mut peer = Peer::accept(&listener, &server_close(1000, ""));
            peer.assert_next(Opcode::Close, &1000_u16.to_be_bytes(), "the same Close");
            // The stream ends in order or by an error.
            let _ = peer.stream.read_to_end(&mut Vec::new());
        });
        let plan = Plan { closing_timeout: Duration::from_millis(30), ..plan(port, "/", engine) };
        let (visits, outcome) = visits(&plan);
        assert!(outcome.is_ok());
        assert_eq!(visits[0].ending, closed(1000, ""));
        server.join().expect("no fault");
    }
}

#[test]
fn a_connection_without_a_close_is_lost() {
    for visit in every_engine(|listener| drop(Peer::accept(listener, &[]))) {
        assert!(matches!(visit.ending, Ending::Lost(_)), "{}", visit.ending);
    }
}

/// Makes an invalid answer to a handshake from the valid one.
type Corrupt = fn(&str) -> String;

/// Returns the client's error for an invalid answer.
fn refused(engine: EngineKind, corrupt: Corrupt) -> String {
    let (port, server) = server(move |listener| {
        let (mut peer, answer) = Peer::ask(&listener);
        peer.send(corrupt(&answer).as_bytes());
    });
    let (visits, outcome) = visits(&plan(port, "/", engine));
    server.join().expect("no fault");
    assert_eq!(visits, []);
    outcome.expect_err("no WebSocket").to_string()
}

#[test]
fn an_answer_that_opens_no_websocket_ends_it_with_the_reason() {
    for engine in engines() {
        let answers: [(Corrupt, &str); 4] = [
            (|_| "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(), "404 Not Found"),
            (|right| right.replacen("Accept: ", "Accept: x", 1), "Sec-WebSocket-Accept"),
            (|right| right.replacen("Upgrade: websocket\r\n", "", 1), "Upgrade"),
            (|_| String::new(), "without answering"),
        ];
        for (corrupt, part) in answers {
            let said = refused(engine, corrupt);
            assert!(
                said.contains("opening handshake for /") && said.contains(part),
                "{engine}: {said}"
            );
        }
    }
}

#[test]
fn a_closed_port_ends_it_with_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    for engine in engines() {
        let (visits, outcome) = visits(&plan(address.port(), "/", engine));
        assert_eq!(visits, []);
        assert!(outcome.expect_err("refused").to_string().contains(&address.to_string()));
    }
}

#[test]
fn repeated_connections_are_numbered_in_sequence() {
    for engine in engines() {
        let (port, server) = server(|listener| {
            for number in 7..=9 {
                let peer = Peer::accept(&listener, &[]);
                assert_eq!(peer.target, format!("/case?case={number}&again={number}"));
                peer.close(4000 + number, "");
            }
        });
        let plan = Plan { repeat: Some(7..=9), ..plan(port, "/case?case={n}&again={n}", engine) };
        let (visits, outcome) = visits(&plan);
        server.join().expect("no fault");
        assert!(outcome.is_ok());
        let expected = (7..=9).map(|n| EndedConnection {
            number: Some(n),
            messages: 0,
            ending: closed(4000 + n as u16, ""),
        });
        assert_eq!(visits, expected.collect::<Vec<_>>());
    }
}

fn program(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparring-loadgen"));
    command.arg("echo").args(arguments).stdin(Stdio::null()).output().expect("the program runs")
}

#[test]
fn the_program_prints_a_line_for_each_connection() {
    let (port, server) = server(|listener| {
        let mut peer = Peer::accept(&listener, &server_frame(TEXT, b"one"));
        peer.assert_next(Opcode::Text, b"one", "the echo");
        peer.close(1000, "");
        let mut peer = Peer::accept(&listener, &[0xc1]);
        peer.assert_fails_with(1002, "RSV1");
    });
    let url = format!("ws://127.0.0.1:{port}/{{n}}");
    let output = program(&[&url, "--repeat", "1..2", "--engine", "epoll"]);
    server.join().expect("no fault");
    assert_eq!(output.status.code(), Some(0));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    let (first, second) = lines.split_once('\n').expect("two lines");
    assert_eq!(first, "1: 1 message echoed; the server closed it with 1000");
    assert!(
        second.starts_with("2: 0 messages echoed; closed with 1002") && second.ends_with("5.2)\n"),
        "{second}"
    );
    assert!(output.stderr.is_empty());
}

#[test]
fn the_exit_code_is_1_without_echoes_and_2_for_wrong_usage() {
    for (arguments, code, part) in [
        (["ws://127.0.0.1:1/", "-q"], 1, "cannot connect to 127.0.0.1:1"),
        (["tcp://127.0.0.1:1", "-q"], 2, "ws://"),
    ] {
        let output = program(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(code), true), "{said}");
        assert!(said.contains(part), "{said}");
    }
}

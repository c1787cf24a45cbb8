//! Runs that offer compression, against the server and against servers that misbehave.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use bytes::BytesMut;
use engine::EngineKind;
use loadgen::load::{Deflate, Payload};
use loadgen::result::{Compression, Errors, Integrity, InvalidKind, Run};
use loadgen::run::{Plan, RunError};
use protocol::deflate::{CompressorSettings, Deflater, History, Inflater, MAX_WINDOW_BITS};
use protocol::handshake::deflate::ServerPolicy;
use protocol::handshake::{HeadLimits, server as handshake};
use protocol::{Limits, MessageKind, Opcode};
use server::config::{Config, EchoSettings};
use server::{DeflateEcho, DeflateSettings, Server};

use super::echo::frames::{CONTINUATION, FIN, RSV1, plain, server_frame};
use super::echo::{Input, Seen};
use super::{assert_consistent, counted, engines, failure, plan, reasons, run};

/// The usual answer to an offer without context takeover.
const ON: &str = "server_no_context_takeover; client_no_context_takeover";

fn served(takeover: bool, max_window_bits: u8, echo: DeflateEcho) -> Server {
    let policy = ServerPolicy { takeover, max_window_bits };
    let deflate = Some(DeflateSettings { policy, echo, memory_level: 8 });
    let settings = EchoSettings { deflate, ..EchoSettings::default() };
    Server::start(&Config { settings, ..Config::default() }).expect("a server")
}

fn url(server: &Server) -> String {
    format!("ws://{}/", server.addresses()[0])
}

/// Returns the plan of 200 messages of JSON, with an offer of compression.
fn compressed(url: &str, engine: EngineKind, deflate: Deflate) -> Plan {
    let mut plan = plan(url, engine);
    (plan.load.deflate, plan.load.payload) = (deflate, Payload::TextJson);
    (plan.load.message_bytes, plan.load.pipeline) = (1024.into(), 4);
    counted(&mut plan, 200);
    plan
}

/// Carries out a run in which every echo must be right. Returns its compression.
fn checked(plan: &Plan) -> Compression {
    let run = run(plan);
    assert_consistent(&run);
    let load = &plan.load;
    let faults = (run.integrity, run.errors);
    assert_eq!(faults, (Integrity::default(), Errors::default()), "{load:?}");
    assert!(reasons(&run).is_empty(), "{:?}: {load:?}", reasons(&run));
    let compression = run.compression.expect("offered");
    assert_eq!(compression.sent.messages + compression.sent_uncompressed, 200, "{load:?}");
    let came = compression.received.messages + compression.received_uncompressed;
    assert_eq!(came, 200, "{compression:?}");
    if load.verify {
        let looked_at = compression.same_bytes + compression.inflated;
        assert_eq!(looked_at, compression.received.messages, "{compression:?}");
    }
    compression
}

#[test]
fn echoes_of_the_server_are_right_in_every_mode() {
    for engine in engines() {
        for echo in [DeflateEcho::Passthrough, DeflateEcho::Recompress] {
            for takeover in [false, true] {
                let server = served(takeover, 15, echo);
                for deflate in [Deflate::On, Deflate::Takeover] {
                    let result = checked(&compressed(&url(&server), engine, deflate));
                    let agreed = result.agreed.expect("the server agrees");
                    let takes_over = takeover && deflate == Deflate::Takeover;
                    assert_eq!(agreed.client_no_context_takeover, !takes_over);
                    assert_eq!(agreed.server_no_context_takeover, !takes_over);
                    assert_eq!(result.compress_ns_per_message, None);
                    let passes = echo == DeflateEcho::Passthrough;
                    let all = if passes { result.same_bytes } else { result.inflated };
                    assert_eq!(all, 200, "{echo:?} {takeover} {deflate:?}: {result:?}");
                    let (bytes, payload) = (result.sent.message_bytes, result.sent.payload_bytes);
                    assert_eq!(bytes, 200 * 1024);
                    assert!(payload * 2 < bytes && payload * 6 > bytes, "{result:?}");
                    assert_eq!(result.received.message_bytes, bytes);
                }
            }
        }
    }
}

#[test]
fn windows_of_either_end_are_kept_to() {
    for (servers, ours) in [(9, 15), (15, 9), (9, 9), (12, 15)] {
        for echo in [DeflateEcho::Passthrough, DeflateEcho::Recompress] {
            let server = served(true, servers, echo);
            for deflate in [Deflate::On, Deflate::Takeover] {
                let mut plan = compressed(&url(&server), EngineKind::Epoll, deflate);
                (plan.load.deflate_window_bits, plan.load.deflate_memory_level) = (ours, 1);
                plan.load.message_bytes = (16 << 10).into();
                let agreed = checked(&plan).agreed.expect("the server agrees");
                let least = servers.min(ours);
                assert_eq!(agreed.client_max_window_bits, least, "{servers} {ours}");
                assert_eq!(agreed.server_max_window_bits, least, "{servers} {ours}");
            }
        }
    }
}

#[test]
fn messages_of_every_kind_and_size_are_compressed() {
    for echo in [DeflateEcho::Passthrough, DeflateEcho::Recompress] {
        let server = served(true, 15, echo);
        for deflate in [Deflate::On, Deflate::Takeover] {
            for payload in [Payload::Binary, Payload::TextMixed, Payload::TextJson] {
                for (sizes, fragments) in [
                    ("0:1,5:1,15:1,16:1,17:1", 1),
                    ("40:2,3000:1,200000:1", 1),
                    ("40:2,3000:1,100000:1", 3),
                    ("5", 7),
                    ("0", 2),
                    ("300000", 1),
                ] {
                    let mut plan = compressed(&url(&server), EngineKind::Epoll, deflate);
                    plan.load.message_bytes = sizes.parse().expect("sizes");
                    (plan.load.fragments, plan.load.payload) = (fragments, payload);
                    checked(&plan);
                }
            }
        }
    }
}

#[test]
fn other_loads_are_compressed_too() {
    for deflate in [Deflate::On, Deflate::Takeover] {
        let server = served(true, 15, DeflateEcho::Recompress);
        let usual = compressed(&url(&server), EngineKind::Epoll, deflate);
        let idle_and_threads = usual.clone().with(|plan| {
            (plan.load.idle, plan.placement.threads) = (3, 2);
        });
        checked(&idle_and_threads);
        let replaced =
            checked(&usual.clone().with(|plan| plan.load.messages_per_connection = Some(7)));
        let compresses_on_send = deflate == Deflate::Takeover;
        assert_eq!(replaced.compress_ns_per_message.is_some(), compresses_on_send);
        let unchecked = checked(&usual.clone().with(|plan| plan.load.verify = false));
        assert_eq!((unchecked.same_bytes, unchecked.inflated), (0, 0));
        let open = usual.with(|plan| plan.load.rate_per_s = Some(5_000.0));
        let result = run(&open);
        assert_eq!((result.integrity, result.errors), (Integrity::default(), Errors::default()));
        let latencies = &result.latency_ns;
        let parts = latencies.lag.mean + latencies.uncorrected().mean;
        let whole = latencies.corrected.mean;
        assert!(
            (parts - whole).abs() < 0.01 * whole,
            "lag and service time are {parts} of {whole}"
        );
        let sent = result.messages.expect("counted").sent;
        assert_eq!(result.compression.expect("offered").sent.messages, sent);
    }
}

/// A server that answers the handshake with this extension, and each message as it likes: with the
/// bytes of frames. `answer(connection, message, opcode, payload)`: both numbers begin at 0.
fn misbehaving(
    extension: impl Fn(u64) -> Option<&'static str> + Send + Copy + 'static,
    answer: impl Fn(u64, u64, u8, &[u8]) -> Vec<u8> + Send + Copy + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        for (stream, connection) in listener.incoming().map_while(Result::ok).zip(0..) {
            // The peer may close at any time.
            thread::spawn(move || {
                let answer = move |message, opcode, payload: &[u8]| {
                    answer(connection, message, opcode, payload)
                };
                serve(stream, extension(connection), answer)
            });
        }
    });
    url
}

fn serve(
    mut stream: TcpStream,
    extension: Option<&str>,
    answer: impl Fn(u64, u8, &[u8]) -> Vec<u8>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut payload, seen) = (Input::default(), Vec::new(), Seen::default());
    let head = input.read_head(&mut stream)?;
    let accepted = handshake::answer(&head, &HeadLimits::default()).map_err(io::Error::other)?;
    let mut response = String::from_utf8_lossy(accepted.response()).into_owned();
    if let Some(parameters) = extension {
        response.truncate(response.len() - 2);
        response += "Sec-WebSocket-Extensions: permessage-deflate";
        response += if parameters.is_empty() { "" } else { "; " };
        response += &format!("{parameters}\r\n\r\n");
    }
    stream.write_all(response.as_bytes())?;
    let mut message = 0;
    loop {
        let opcode = input.read_message(&mut stream, &mut payload, &seen)?;
        if opcode == Opcode::Close {
            return stream.write_all(&server_frame(opcode as u8, &payload));
        }
        stream.write_all(&answer(message, opcode as u8, &payload))?;
        message += 1;
    }
}

/// Returns a compressed message in one frame.
fn compressed_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    plain(FIN | RSV1 | opcode, payload)
}

fn inflated(payload: &[u8]) -> Vec<u8> {
    let (mut inflater, mut message, mut rest) = (Inflater::new(), vec![0; 1 << 20], payload);
    inflater.begin(MessageKind::Binary, None);
    let step = inflater.inflate(&Limits::default(), rest, true, &mut message).expect("valid");
    rest = &rest[step.read..];
    assert!(step.done && rest.is_empty());
    message.truncate(step.written);
    message
}

fn on(url: &str) -> Plan {
    compressed(url, EngineKind::Epoll, Deflate::On)
}

#[test]
fn echo_with_the_bytes_that_were_sent_may_come_in_any_frames() {
    let url = misbehaving(
        |_| Some(ON),
        |_, _, opcode, payload| {
            let (first, rest) = payload.split_at(payload.len() / 3);
            [plain(RSV1 | opcode, first), plain(CONTINUATION, b""), plain(FIN, rest)].concat()
        },
    );
    let result = checked(&on(&url));
    assert_eq!((result.same_bytes, result.inflated), (200, 0));
}

#[test]
fn echo_that_differs_late_is_inflated_from_its_beginning() {
    // An empty block at the end changes no content.
    let url = misbehaving(
        |_| Some(ON),
        |_, _, opcode, payload| {
            let other = [payload, b"\x00\x00\xff\xff\x00"].map(<[u8]>::to_vec).concat();
            let (first, rest) = other.split_at(payload.len() - 1);
            [plain(RSV1 | opcode, first), plain(FIN, rest)].concat()
        },
    );
    let plan =
        on(&url).with(|plan| plan.load.message_bytes = "5:1,40:1,100000:1".parse().expect("sizes"));
    let result = checked(&plan);
    assert_eq!((result.same_bytes, result.inflated), (0, 200));
}

#[test]
fn uncompressed_echoes_of_compressed_messages_are_legal() {
    let url =
        misbehaving(|_| Some(ON), |_, _, opcode, payload| server_frame(opcode, &inflated(payload)));
    let result = checked(&on(&url));
    assert_eq!((result.received_uncompressed, result.received.messages), (200, 0));
}

#[test]
fn flipped_bit_is_one_corrupted_echo() {
    // Within the connection's number, and within the message's.
    for at in [6, 18] {
        let url = misbehaving(
            |_| Some(ON),
            move |_, message, opcode, payload| {
                let mut payload = payload.to_vec();
                payload[at] ^= u8::from(message == 1);
                compressed_frame(opcode, &payload)
            },
        );
        let run = run(&on(&url));
        assert_consistent(&run);
        assert_eq!(run.integrity, Integrity { corrupted: 4, ..Integrity::default() }, "{at}");
        assert_eq!(run.errors, Errors::default());
        assert_eq!(run.compression.expect("offered").inflated, 4);
    }
}

/// An answer that agrees to context takeover at both ends.
const TAKEOVER: &str = "";

/// Returns the plan of one connection with context takeover.
fn takeover(url: &str) -> Plan {
    compressed(url, EngineKind::Epoll, Deflate::Takeover).with(|plan| plan.load.connections = 1)
}

thread_local! {
    /// Window of the messages that the connection of this thread has received.
    static RECEIVED: RefCell<History> = RefCell::new(History::new(MAX_WINDOW_BITS));
}

/// Inflates a message of a client with context takeover.
fn inflated_in_order(payload: &[u8]) -> Vec<u8> {
    RECEIVED.with_borrow_mut(|history| {
        let (mut inflater, mut message) = (Inflater::new(), Vec::new());
        inflater.begin(MessageKind::Binary, Some(history));
        let take = |piece: &[u8]| message.extend_from_slice(piece);
        let limits = Limits::default();
        let result =
            inflater.inflate_all(&limits, payload, true, &mut [0; 4096], Some(history), take);
        result.expect("valid");
        message
    })
}

/// Returns a message compressed by itself.
fn deflated(message: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    Deflater::new(CompressorSettings::default(), false).deflate(message, &mut bytes);
    bytes.to_vec()
}

#[test]
fn other_bytes_after_equal_ones_are_inflated_with_the_window() {
    for changed_from in [0, 1, 30] {
        // An empty block at the end changes neither the content nor the window.
        let url = misbehaving(
            |_| Some(TAKEOVER),
            move |_, message, opcode, payload| {
                let mut payload = payload.to_vec();
                if message >= changed_from {
                    payload.extend_from_slice(b"\x00\x00\xff\xff\x00");
                }
                compressed_frame(opcode, &payload)
            },
        );
        let result = checked(&takeover(&url));
        assert_eq!(result.same_bytes, changed_from, "{result:?}");
        assert_eq!(result.inflated, 200 - changed_from, "{result:?}");
    }
}

#[test]
fn window_has_no_uncompressed_echoes() {
    let url = misbehaving(
        |_| Some(TAKEOVER),
        |_, message, opcode, payload| {
            let inflated = inflated_in_order(payload);
            match message {
                0..5 => compressed_frame(opcode, payload),
                5 => server_frame(opcode, &inflated),
                _ => compressed_frame(opcode, &deflated(&inflated)),
            }
        },
    );
    let result = checked(&takeover(&url));
    assert_eq!((result.same_bytes, result.received_uncompressed), (5, 1), "{result:?}");
}

#[test]
fn bytes_that_refer_to_an_uncompressed_echo_are_a_fault() {
    let url = misbehaving(
        |_| Some(TAKEOVER),
        |_, message, opcode, payload| {
            let inflated = inflated_in_order(payload);
            match message {
                5 => server_frame(opcode, &inflated),
                _ => compressed_frame(opcode, payload),
            }
        },
    );
    let run = run(&takeover(&url));
    assert_consistent(&run);
    assert!(run.integrity.corrupted + run.errors.protocol > 0, "{:?}", run.integrity);
}

#[test]
fn bytes_beyond_the_servers_window_are_a_fault() {
    // The client may use 32 KiB, the server agreed to 512 bytes.
    let answer = "server_max_window_bits=9; client_max_window_bits=15";
    let url = misbehaving(
        move |_| Some(answer),
        |_, _, opcode, payload| compressed_frame(opcode, payload),
    );
    let run = run(&takeover(&url));
    assert_consistent(&run);
    assert!(run.integrity.corrupted + run.errors.protocol > 0, "{:?}", run.integrity);
}

/// Returns the cause of the end of a run whose server breaks the protocol.
fn broken(run: &Run) -> String {
    run.ended_early.as_ref().map(|end| end.cause.clone()).unwrap_or_default()
}

/// Change of a compressed payload.
type Change = fn(&[u8]) -> Vec<u8>;

#[test]
fn invalid_deflate_data_is_an_error_of_the_protocol() {
    // A block of a type that does not exist.
    let no_type: Change = |_| vec![0x07, 0xff, 0xff];
    // The length of the stored block differs from its complement.
    let wrong_length: Change = |payload| [&payload[..3], &[0x00], &payload[4..]].concat();
    let ends_within_a_block: Change = |payload| payload[..20].to_vec();
    for (deflate, change) in [
        (Deflate::On, no_type),
        (Deflate::On, wrong_length),
        (Deflate::On, ends_within_a_block),
        (Deflate::Takeover, no_type),
    ] {
        let url = misbehaving(
            |_| Some(ON),
            move |_, message, opcode, payload| {
                let changed = if message == 1 { change(payload) } else { payload.to_vec() };
                compressed_frame(opcode, &changed)
            },
        );
        let run = run(&compressed(&url, EngineKind::Epoll, deflate));
        assert_eq!(run.errors, Errors { protocol: 4, ..Errors::default() });
        assert_eq!(run.integrity.corrupted, 0);
        assert!(broken(&run).contains("DEFLATE"), "{:?}", run.ended_early);
    }
}

#[test]
fn compressed_echo_without_negotiation_is_an_error_of_the_protocol() {
    let url = misbehaving(|_| None, |_, _, opcode, payload| compressed_frame(opcode, payload));
    let run = run(&on(&url));
    assert_eq!(run.errors.protocol, 4);
    assert!(broken(&run).contains("reserved bits"), "{:?}", run.ended_early);
}

#[test]
fn answer_that_breaks_the_rules_fails_the_handshake() {
    for (answer, part) in [
        ("no_such_parameter", "no_such_parameter"),
        ("server_max_window_bits=16", "server_max_window_bits"),
        ("client_no_context_takeover", "server_no_context_takeover"),
        ("server_no_context_takeover; server_no_context_takeover", "more than once"),
    ] {
        let answer: &'static str = answer;
        let url = misbehaving(move |_| Some(answer), |_, _, _, _| Vec::new());
        match failure(&on(&url)) {
            RunError::Handshake { detail, .. } => assert!(detail.contains(part), "{detail}"),
            other => panic!("{other}"),
        }
    }
    let url = misbehaving(|_| Some("server_max_window_bits=12"), |_, _, _, _| Vec::new());
    let mut plan = compressed(&url, EngineKind::Epoll, Deflate::Takeover);
    plan.load.deflate_window_bits = 10;
    assert!(failure(&plan).to_string().contains("offered 10"));
}

#[test]
fn run_goes_on_without_compression_where_the_server_declines() {
    for deflate in [Deflate::On, Deflate::Takeover] {
        let url = misbehaving(|_| None, |_, _, opcode, payload| server_frame(opcode, payload));
        let plan = compressed(&url, EngineKind::Epoll, deflate);
        let result = checked(&plan);
        assert_eq!((result.agreed, result.sent_uncompressed), (None, 200));
        assert_eq!((result.sent.messages, result.compress_ns_per_message), (0, None));
        let notes = run(&plan).notes.join(" ");
        assert!(notes.contains("declined permessage-deflate"), "{notes}");
    }
}

#[test]
fn messages_are_plain_where_the_window_is_too_small() {
    let answer = "server_no_context_takeover; client_no_context_takeover; client_max_window_bits=8";
    let url =
        misbehaving(move |_| Some(answer), |_, _, opcode, payload| server_frame(opcode, payload));
    for deflate in [Deflate::On, Deflate::Takeover] {
        let plan = compressed(&url, EngineKind::Epoll, deflate);
        let result = checked(&plan);
        let agreed = result.agreed.expect("the server agrees");
        assert_eq!((agreed.client_max_window_bits, result.sent_uncompressed), (8, 200));
        assert!(run(&plan).notes.join(" ").contains("no window"));
    }
}

#[test]
fn connections_that_agree_on_different_compression_are_no_measurement() {
    let url = misbehaving(
        |connection| (connection % 2 == 0).then_some(ON),
        |connection, _, opcode, payload| {
            if connection % 2 == 0 {
                compressed_frame(opcode, payload)
            } else {
                server_frame(opcode, payload)
            }
        },
    );
    let run = run(&on(&url));
    assert_eq!((run.integrity, run.errors), (Integrity::default(), Errors::default()));
    assert!(run.invalid_kinds.contains(&InvalidKind::MixedCompression), "{:?}", run.invalid_kinds);
    let result = run.compression.expect("offered");
    assert!(result.sent.messages > 0 && result.sent_uncompressed > 0);
}

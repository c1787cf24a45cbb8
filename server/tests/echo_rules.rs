//! Rules of the echo, one by one: the handler alone, without sockets. The code under test does not
//! build the frames.

#[path = "../../protocol/tests/websocket/frames.rs"]
#[allow(dead_code, reason = "shared with other tests, which use the rest of it")]
mod frames;

use std::time::Duration;

use engine::{CloseMode, Commands, ConnId, Handler, Nanos, Origin, Record, Segment};
use protocol::Limits;
use server::config::EchoSettings;
use server::{Connection, Heartbeat, InjectedCost, Rate, RatePolicy, Rates, WebSocketEcho};

use frames::{BINARY, CLOSE, FIN, PING, PONG, TEXT, masked, server_close, server_frame};

const ID: ConnId = ConnId { slot: 0, generation: 0 };

const REQUEST: &[u8] = b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Returns settings without time limits: only the client's input ends an open WebSocket.
fn untimed() -> EchoSettings {
    EchoSettings {
        heartbeat: Heartbeat::default(),
        message_timeout: Duration::ZERO,
        ..EchoSettings::default()
    }
}

/// Handler with one connection, driven as an engine would.
struct Driven {
    handler: WebSocketEcho,
    connection: Connection,
    record: Record,
    now: Nanos,
    wire: Vec<u8>,
    segments: Vec<Segment>,
    commands: Commands,
}

impl Driven {
    fn new(settings: EchoSettings) -> Self {
        let (mut handler, mut record) = (WebSocketEcho::new(settings), Record::new());
        let now = Nanos(1_000_000_000);
        let origin = Origin::Accepted { listener: 0, peer: None };
        let connection = handler.opened(ID, origin, &mut record.begin(now, 0, 0));
        let mut driven = Self {
            handler,
            connection,
            record,
            now,
            wire: Vec::new(),
            segments: Vec::new(),
            commands: Commands::default(),
        };
        driven.collect(&[]);
        driven
    }

    /// Creates a connection whose handshake is done.
    fn open() -> Self {
        Self::open_with(EchoSettings::default())
    }

    fn open_with(settings: EchoSettings) -> Self {
        let mut driven = Self::new(settings);
        assert!(driven.receive(REQUEST).starts_with(b"HTTP/1.1 101 "));
        driven
    }

    /// Feeds one read; returns the bytes that it puts on the wire.
    fn receive(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut input = bytes.to_vec();
        let mut out = self.record.begin(self.now, 0, input.len());
        self.handler.received(ID, &mut self.connection, &mut input, &mut out);
        self.collect(&input)
    }

    fn deadline(&mut self, after: Duration) -> Vec<u8> {
        self.deadline_with(after, 0)
    }

    /// Fires the deadline while `unsent` bytes wait for the peer.
    fn deadline_with(&mut self, after: Duration, unsent: usize) -> Vec<u8> {
        self.now = self.now + after;
        let mut out = self.record.begin(self.now, unsent, 0);
        self.handler.deadline(ID, &mut self.connection, &mut out);
        self.collect(&[])
    }

    fn eof(&mut self) -> Vec<u8> {
        let mut out = self.record.begin(self.now, 0, 0);
        self.handler.eof(ID, &mut self.connection, &mut out);
        self.collect(&[])
    }

    fn collect(&mut self, input: &[u8]) -> Vec<u8> {
        let new: Vec<u8> = self
            .record
            .segments()
            .iter()
            .flat_map(|s| self.record.bytes(s, input).to_vec())
            .collect();
        self.segments = self.record.take_segments().collect();
        for segment in &mut self.segments {
            if let Segment::Owned(buffer) = segment {
                self.record.pool().put(std::mem::take(buffer));
            }
        }
        self.record.clear_arena();
        self.commands = self.record.take_commands();
        self.wire.extend_from_slice(&new);
        new
    }

    fn closing(&self) -> Option<CloseMode> {
        self.commands.close
    }
}

/// Returns a payload; the tests use every header length and many remainders.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + len) as u8).collect()
}

#[test]
fn the_documented_request_is_answered() {
    let mut driven = Driven::new(EchoSettings::default());
    let response = String::from_utf8(driven.receive(REQUEST)).expect("text");
    assert!(response.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{response}");
    assert!(
        response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{response}"
    );
    assert!(response.ends_with("\r\n\r\n"));
    assert_eq!(driven.closing(), None);
}

#[test]
fn the_rfcs_examples_are_echoed() {
    let mut driven = Driven::open();
    // RFC 6455 5.7: a masked "Hello", and a ping with it.
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(driven.receive(&hello), b"\x81\x05Hello");
    let ping = [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(driven.receive(&ping), b"\x8a\x05Hello");
}

#[test]
fn a_whole_message_is_echoed_in_its_receive_buffer() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
        let mut driven = Driven::open();
        let frame = masked(FIN | BINARY, &payload(len));
        assert_eq!(driven.receive(&frame), server_frame(BINARY, &payload(len)), "{len}");
        // The payload stays in its place; the header is four bytes shorter.
        assert_eq!(driven.segments, [Segment::Echo(4..frame.len() as u32)]);
    }
}

#[test]
fn all_replies_of_a_read_are_one_range() {
    let mut driven = Driven::open();
    let lengths = [5, 0, 125, 126, 3, 70_000, 1, 1, 65_535, 2, 900];
    let read: Vec<u8> =
        lengths.iter().flat_map(|&len| masked(FIN | BINARY, &payload(len))).collect();
    let wire: Vec<u8> =
        lengths.iter().flat_map(|&len| server_frame(BINARY, &payload(len))).collect();
    assert_eq!(driven.receive(&read), wire);
    assert_eq!(driven.segments, [Segment::Echo(4..4 + wire.len() as u32)]);
    assert_eq!(driven.handler.echo_counters().messages, lengths.len() as u64);
}

#[test]
fn a_thousand_small_frames_are_compacted() {
    let mut driven = Driven::open();
    let messages: Vec<String> = (0..1000).map(|n| format!("message {n} äöü")).collect();
    let read: Vec<u8> = messages.iter().flat_map(|m| masked(FIN | TEXT, m.as_bytes())).collect();
    let wire: Vec<u8> = messages.iter().flat_map(|m| server_frame(TEXT, m.as_bytes())).collect();
    assert_eq!(driven.receive(&read), wire);
    assert_eq!(driven.segments.len(), 1);
}

#[test]
fn pongs_keep_the_places_of_their_pings() {
    let mut driven = Driven::open();
    let read = [
        masked(FIN | TEXT, b"one"),
        masked(FIN | PING, b"a"),
        masked(FIN | PING, b""),
        masked(FIN | TEXT, b"two"),
        masked(FIN | PONG, b"unasked"),
        masked(FIN | TEXT, b"three"),
        masked(FIN | PING, &[7; 125]),
    ];
    let wire = [
        server_frame(TEXT, b"one"),
        server_frame(PONG, b"a"),
        server_frame(PONG, b""),
        server_frame(TEXT, b"two"),
        server_frame(TEXT, b"three"),
        server_frame(PONG, &[7; 125]),
    ];
    assert_eq!(driven.receive(&read.concat()), wire.concat());
    assert_eq!(driven.segments.len(), 4);
}

#[test]
fn fragments_are_echoed_as_one_frame_after_the_pong() {
    let mut driven = Driven::open();
    let read = [
        masked(FIN | BINARY, b"before"),
        masked(TEXT, "Gr\u{fc}".as_bytes().split_at(3).0),
        masked(FIN | PING, b"now"),
        masked(0, "Gr\u{fc}".as_bytes().split_at(3).1),
        masked(0, b""),
        masked(FIN, "\u{df}e".as_bytes()),
        masked(FIN | BINARY, b"after"),
    ];
    let wire = [
        server_frame(BINARY, b"before"),
        server_frame(PONG, b"now"),
        server_frame(TEXT, "Gr\u{fc}\u{df}e".as_bytes()),
        server_frame(BINARY, b"after"),
    ];
    assert_eq!(driven.receive(&read.concat()), wire.concat());
    assert_eq!(driven.handler.echo_counters().messages, 3);
}

#[test]
fn an_empty_fragmented_message_is_echoed() {
    let mut driven = Driven::open();
    assert_eq!(driven.receive(&masked(BINARY, b"")), b"");
    assert_eq!(driven.receive(&masked(FIN, b"")), server_frame(BINARY, b""));
}

#[test]
fn a_message_is_echoed_only_after_its_end() {
    let mut driven = Driven::open();
    let frame = masked(FIN | BINARY, &payload(300));
    let (start, end) = frame.split_at(200);
    assert_eq!(driven.receive(start), b"");
    assert_eq!(driven.receive(end), server_frame(BINARY, &payload(300)));
}

/// Returns a stream with every kind of frame, and its answers.
fn medley() -> (Vec<u8>, Vec<u8>) {
    let stream = [
        masked(FIN | TEXT, "h\u{e9}llo \u{1f600}".as_bytes()),
        masked(FIN | BINARY, &payload(126)),
        masked(FIN | BINARY, b""),
        masked(FIN | PING, b"p1"),
        masked(TEXT, "\u{1f600}".as_bytes().split_at(2).0),
        masked(FIN | PING, b"p2"),
        masked(0, b""),
        masked(FIN, "\u{1f600}".as_bytes().split_at(2).1),
        masked(FIN | TEXT, b"x"),
        masked(FIN | PONG, b"unasked"),
        masked(FIN | BINARY, &payload(200)),
        masked(FIN | CLOSE, b"\x03\xe8bye"),
        masked(FIN | TEXT, b"swallowed"),
    ];
    let wire = [
        server_frame(TEXT, "h\u{e9}llo \u{1f600}".as_bytes()),
        server_frame(BINARY, &payload(126)),
        server_frame(BINARY, b""),
        server_frame(PONG, b"p1"),
        server_frame(PONG, b"p2"),
        server_frame(TEXT, "\u{1f600}".as_bytes()),
        server_frame(TEXT, b"x"),
        server_frame(BINARY, &payload(200)),
        server_close(1000, "bye"),
    ];
    (stream.concat(), wire.concat())
}

/// Feeds the pieces until the handler closes, as an engine does.
fn feed<'a>(driven: &mut Driven, pieces: impl IntoIterator<Item = &'a [u8]>) {
    for piece in pieces {
        if driven.closing().is_none() {
            driven.receive(piece);
        }
    }
}

#[test]
fn every_cut_of_a_stream_gives_the_same_answers() {
    let (stream, wire) = medley();
    for cut in 0..=stream.len() {
        let mut driven = Driven::open();
        driven.wire.clear();
        feed(
            &mut driven,
            [&stream[..cut], &stream[cut..]].into_iter().filter(|piece| !piece.is_empty()),
        );
        assert_eq!(driven.wire, wire, "cut at {cut}");
        let is_behind_close = cut == stream.len() - masked(FIN | TEXT, b"swallowed").len();
        let mode = if is_behind_close { CloseMode::Finish } else { CloseMode::Flush };
        assert_eq!(driven.closing(), Some(mode), "cut at {cut}");
    }
    for size in 1..=20 {
        let mut driven = Driven::open();
        driven.wire.clear();
        feed(&mut driven, stream.chunks(size));
        assert_eq!(driven.wire, wire, "pieces of {size}");
    }
}

#[test]
fn every_cut_of_request_and_stream_gives_the_same_answers() {
    let (stream, wire) = medley();
    let all = [REQUEST, &stream].concat();
    let mut expected = Driven::new(EchoSettings::default()).receive(REQUEST);
    expected.extend_from_slice(&wire);
    for cut in 1..all.len() {
        let mut driven = Driven::new(EchoSettings::default());
        feed(&mut driven, [&all[..cut], &all[cut..]]);
        assert_eq!(driven.wire, expected, "cut at {cut}");
    }
    let mut driven = Driven::new(EchoSettings::default());
    feed(&mut driven, all.chunks(1));
    assert_eq!(driven.wire, expected);
}

#[test]
fn each_fault_gets_its_close_code_after_earlier_replies() {
    let small = EchoSettings {
        limits: Limits { max_message: 1000, max_fragments: 3 },
        ..EchoSettings::default()
    };
    let cases: [(&str, Vec<u8>, u16); 12] = [
        ("reserved bit", masked(FIN | 0x40 | TEXT, b"x"), 1002),
        ("reserved opcode", masked(FIN | 3, b"x"), 1002),
        ("unmasked", server_frame(TEXT, b"x"), 1002),
        ("fragmented ping", masked(PING, b"x"), 1002),
        ("long ping", masked(FIN | PING, &[0; 126]), 1002),
        ("continuation without a start", masked(FIN, b"x"), 1002),
        ("start inside a message", [masked(TEXT, b"x"), masked(TEXT, b"y")].concat(), 1002),
        ("non-minimal length", [&[0x82, 0xfe, 0, 5, 1, 2, 3, 4][..], b"hello"].concat(), 1002),
        ("too big", masked(FIN | BINARY, &payload(1001)), 1009),
        (
            "too big a sum",
            [masked(BINARY, &payload(600)), masked(FIN, &payload(401))].concat(),
            1009,
        ),
        (
            "too many fragments",
            [masked(TEXT, b""), masked(0, b""), masked(0, b""), masked(0, b"")].concat(),
            1008,
        ),
        ("invalid text", masked(FIN | TEXT, b"ab\xff"), 1007),
    ];
    for (name, bytes, code) in cases {
        let mut driven = Driven::open_with(small.clone());
        let valid = [
            masked(FIN | TEXT, b"first"),
            masked(FIN | PING, b"!"),
            masked(FIN | BINARY, b"second"),
        ]
        .concat();
        let replies = [
            server_frame(TEXT, b"first"),
            server_frame(PONG, b"!"),
            server_frame(BINARY, b"second"),
        ]
        .concat();
        let read = [valid, bytes, masked(FIN | TEXT, b"never")].concat();
        let wire = driven.receive(&read);
        assert!(wire.starts_with(&replies), "{name}");
        let close = &wire[replies.len()..];
        assert_eq!((close[0], &close[2..4]), (FIN | CLOSE, &code.to_be_bytes()[..]), "{name}");
        assert_eq!(close.len(), 2 + usize::from(close[1]), "{name}: nothing follows the Close");
        assert_eq!(driven.closing(), Some(CloseMode::Flush), "{name}");
        assert_eq!(
            (driven.handler.echo_counters().messages, driven.handler.echo_counters().refused),
            (2, 1),
            "{name}"
        );
    }
}

#[test]
fn invalid_text_fails_at_the_first_read_that_shows_it() {
    let mut driven = Driven::open();
    let frame = masked(FIN | TEXT, &[&b"valid so far \xed\xa0"[..], &[b'x'; 5000]].concat());
    assert_eq!(driven.receive(&frame[..20]), b"");
    let wire = driven.receive(&frame[20..30]);
    assert_eq!(&wire[2..4], 1007u16.to_be_bytes());
    assert_eq!(driven.closing(), Some(CloseMode::Flush));
}

#[test]
fn a_message_over_the_maximum_fails_from_its_header_alone() {
    let mut driven = Driven::open();
    let header =
        [&[FIN | BINARY, 0xff][..], &u64::to_be_bytes((64 << 20) + 1), &[1, 2, 3, 4]].concat();
    assert_eq!(&driven.receive(&header)[2..4], 1009u16.to_be_bytes());
}

#[test]
fn a_close_is_answered_with_its_payload() {
    for payload in [&b""[..], b"\x03\xe8", b"\x0f\xa0own code", b"\x03\xe9going"] {
        // A half-close only where the client has sent more than it may.
        let more = masked(FIN | TEXT, b"no");
        for (more, mode) in [(&[][..], CloseMode::Finish), (&more[..], CloseMode::Flush)] {
            let mut driven = Driven::open();
            let read = [&masked(FIN | TEXT, b"last"), &masked(FIN | CLOSE, payload), more].concat();
            assert_eq!(
                driven.receive(&read),
                [server_frame(TEXT, b"last"), server_frame(CLOSE, payload)].concat()
            );
            assert_eq!(driven.closing(), Some(mode));
            assert_eq!(driven.handler.echo_counters().refused, 0);
        }
    }
    let mut driven = Driven::open();
    assert_eq!(&driven.receive(&masked(FIN | CLOSE, b"\x03"))[2..4], 1002u16.to_be_bytes());
}

#[test]
fn frames_that_come_with_the_request_are_echoed() {
    let mut driven = Driven::new(EchoSettings::default());
    let read = [REQUEST, &masked(FIN | TEXT, b"early"), &masked(FIN | TEXT, b"bird")].concat();
    let wire = driven.receive(&read);
    assert!(wire.ends_with(&[server_frame(TEXT, b"early"), server_frame(TEXT, b"bird")].concat()));
}

#[test]
fn a_bad_request_gets_its_status_and_the_connection_ends() {
    let mut driven = Driven::new(EchoSettings::default());
    let wire = driven.receive(b"POST / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(wire.starts_with(b"HTTP/1.1 405 "), "{}", wire.escape_ascii());
    assert_eq!(driven.closing(), Some(CloseMode::Flush));
    assert_eq!(driven.handler.echo_counters().refused, 1);
}

#[test]
fn a_late_request_gets_408() {
    let mut driven = Driven::new(EchoSettings::default());
    driven.receive(&REQUEST[..40]);
    let wire = driven.deadline(Duration::from_secs(5));
    assert!(wire.starts_with(b"HTTP/1.1 408 "), "{}", wire.escape_ascii());
    assert_eq!(driven.closing(), Some(CloseMode::Flush));
}

#[test]
fn a_connection_without_a_request_is_dropped_silently() {
    let mut driven = Driven::new(EchoSettings::default());
    assert_eq!(driven.deadline(Duration::from_secs(5)), b"");
    assert_eq!(driven.closing(), Some(CloseMode::Abort));
}

#[test]
fn the_handshakes_deadline_ends_with_the_handshake() {
    let mut driven = Driven::new(untimed());
    driven.receive(REQUEST);
    assert_eq!(driven.commands.deadline, Some(None));
}

/// A Pong may follow the Close of a client that was pinged (RFC 6455 5.5.2). It is read, because a
/// reset could destroy the answer to the Close.
#[test]
fn half_closes_where_a_pong_may_follow_the_close() {
    let interval = Duration::from_secs(30);
    let heartbeat = Heartbeat { ping_interval: interval, ..Heartbeat::default() };
    let mut driven = Driven::open_with(EchoSettings { heartbeat, ..EchoSettings::default() });
    assert_eq!(driven.deadline(interval), server_frame(PING, b""));
    driven.receive(&masked(FIN | TEXT, b"sent before the ping came"));
    assert_eq!(driven.receive(&masked(FIN | CLOSE, b"")), server_frame(CLOSE, b""));
    assert_eq!(driven.closing(), Some(CloseMode::Flush));
}

#[test]
fn a_silent_connection_is_pinged_then_dropped() {
    let interval = Duration::from_secs(30);
    let heartbeat = Heartbeat { ping_interval: interval, ..Heartbeat::default() };
    let mut driven = Driven::open_with(EchoSettings { heartbeat, ..EchoSettings::default() });
    assert_eq!(driven.commands.deadline, Some(Some(driven.now + interval)));
    assert_eq!(driven.deadline(interval), server_frame(PING, b""));
    driven.receive(&masked(FIN | PONG, b""));
    assert_eq!(driven.deadline(interval), server_frame(PING, b""));
    assert_eq!(driven.deadline(interval), server_frame(PING, b""));
    assert_eq!(driven.deadline(interval), b"");
    assert_eq!(driven.closing(), Some(CloseMode::Abort));
}

#[test]
fn messages_move_the_deadline_without_setting_it() {
    let interval = Duration::from_secs(30);
    let heartbeat = Heartbeat { idle_timeout: interval, ..Heartbeat::default() };
    let mut driven = Driven::open_with(EchoSettings { heartbeat, ..EchoSettings::default() });
    driven.now = driven.now + Duration::from_secs(20);
    driven.receive(&masked(FIN | TEXT, b"alive"));
    assert!(driven.commands.is_empty());
    assert_eq!(driven.deadline(Duration::from_secs(10)), b"");
    assert_eq!(driven.commands.deadline, Some(Some(driven.now + Duration::from_secs(20))));
    assert_eq!(&driven.deadline(Duration::from_secs(20))[2..4], 1001u16.to_be_bytes());
    assert_eq!(driven.closing(), Some(CloseMode::Flush));
}

/// Lets the time pass to each deadline that is set until the handler closes; returns the duration,
/// and the last bytes on the wire.
fn until_closed(driven: &mut Driven) -> (Duration, Vec<u8>) {
    let began = driven.now;
    let mut wire = Vec::new();
    while driven.closing().is_none() {
        let next = driven.commands.deadline.flatten().expect("a deadline is set");
        wire = driven.deadline(next.since(driven.now));
    }
    (driven.now.since(began), wire)
}

#[test]
fn an_unfinished_message_has_a_time_limit() {
    let timeout = Duration::from_secs(10);
    let parts: [(&str, Vec<u8>, Duration); 5] = [
        ("payload", masked(FIN | TEXT, b"hello")[..9].to_vec(), timeout),
        ("fragment", masked(TEXT, b"hello"), timeout),
        ("empty fragment", masked(TEXT, b""), timeout),
        // The handler keeps only the frame's header of these, and notices them at the next
        // deadline.
        ("header", masked(FIN | TEXT, b"hello")[..1].to_vec(), timeout * 2),
        ("ping", masked(FIN | PING, b"hello")[..8].to_vec(), timeout * 2),
    ];
    for heartbeat in [Heartbeat::default(), EchoSettings::default().heartbeat] {
        for (name, part, longest) in &parts {
            let settings =
                EchoSettings { message_timeout: timeout, heartbeat, ..EchoSettings::default() };
            let mut driven = Driven::open_with(settings);
            let first = driven.commands.deadline;
            driven.receive(&masked(FIN | TEXT, b"whole"));
            driven.receive(part);
            assert!(driven.commands.is_empty(), "no deadline is set when bytes arrive");
            driven.commands.deadline = first;
            let (after, wire) = until_closed(&mut driven);
            assert!(after >= timeout && after <= *longest, "{name}: {after:?}");
            assert_eq!(&wire[2..4], 1008u16.to_be_bytes(), "{name}");
            assert_eq!(driven.handler.echo_counters().refused, 1);
        }
    }
}

#[test]
fn the_message_timeout_spares_slow_messages_and_silence() {
    let timeout = Duration::from_secs(10);
    let mut driven = Driven::open_with(EchoSettings { message_timeout: timeout, ..untimed() });
    let frame = masked(FIN | TEXT, b"hello");
    for _ in 0..5 {
        driven.receive(&frame[..8]);
        assert_eq!(driven.deadline(timeout * 9 / 10), b"");
        assert_eq!(driven.receive(&frame[8..]), server_frame(TEXT, b"hello"));
        assert_eq!(driven.deadline(timeout), b"");
        assert_eq!(driven.closing(), None);
    }
}

#[test]
fn unsent_output_does_not_stop_the_message_timeout() {
    let timeout = Duration::from_secs(10);
    let mut driven =
        Driven::open_with(EchoSettings { message_timeout: timeout, ..EchoSettings::default() });
    driven.receive(&masked(TEXT, b"begun"));
    assert_eq!(driven.deadline_with(timeout - Duration::from_secs(1), 1000), b"");
    assert_eq!(&driven.deadline_with(Duration::from_secs(1), 1000)[2..4], 1008u16.to_be_bytes());
}

#[test]
fn a_pause_does_not_stop_the_message_timeout() {
    let timeout = Duration::from_secs(2);
    let mut driven = Driven::open_with(EchoSettings {
        message_timeout: timeout,
        ..paced(1, 0, RatePolicy::Pause)
    });
    driven.receive(&masked(TEXT, b"begun"));
    // The debt is four seconds: the message's time ends before that.
    driven.receive(&masked(FIN | PING, b"").repeat(5));
    assert_eq!(driven.commands.deadline, Some(Some(driven.now + timeout)));
    assert_eq!(&driven.deadline(timeout)[2..4], 1008u16.to_be_bytes());
}

#[test]
fn a_slow_header_does_not_extend_the_message_timeout() {
    let timeout = Duration::from_secs(10);
    let mut driven = Driven::open_with(EchoSettings { message_timeout: timeout, ..untimed() });
    let ping = masked(FIN | PING, &[b'p'; 100]);
    let mut bytes = ping.iter().take(100);
    let began = driven.now;
    while driven.closing().is_none() {
        driven.receive(&[*bytes.next().expect("closed long before")]);
        driven.deadline(timeout / 2);
    }
    assert!(driven.now.since(began) <= timeout * 2);
}

#[test]
fn a_peer_that_accepts_no_output_counts_as_silent() {
    let interval = Duration::from_secs(10);
    let heartbeat = Heartbeat { idle_timeout: interval * 3, ping_interval: interval };
    let mut driven = Driven::open_with(EchoSettings { heartbeat, ..EchoSettings::default() });
    // The peer accepts some output between checks, so the connection stays alive.
    for unsent in (1..=20).rev() {
        driven.deadline_with(interval, unsent * 1000);
        assert_eq!(driven.closing(), None);
    }
    assert_eq!(driven.deadline_with(interval, 1000), server_frame(PING, b""));
    assert_eq!(driven.deadline_with(interval, 1002), server_frame(PING, b""));
    driven.deadline_with(interval, 1004);
    assert!(driven.closing().is_some());
}

fn paced(messages: u64, bytes: u64, policy: RatePolicy) -> EchoSettings {
    let rates =
        Rates { messages: Rate::per_second(messages), bytes: Rate::per_second(bytes), policy };
    EchoSettings { rates, ..EchoSettings::default() }
}

#[test]
fn a_connection_over_its_rate_is_not_read() {
    let mut driven = Driven::open_with(paced(10, 0, RatePolicy::Pause));
    let read: Vec<u8> =
        (0..20).flat_map(|_| masked(FIN | TEXT, b"x")).chain(masked(FIN | PING, b"")).collect();
    let wire = driven.receive(&read);
    assert_eq!(wire.len(), 20 * 3 + 2, "what has come is answered");
    assert_eq!(driven.commands.pause, Some(true));
    // These are 21 messages at 10 per second, ten of which were saved up.
    let paid = Duration::from_millis(1100);
    assert_eq!(driven.commands.deadline, Some(Some(driven.now + paid)));
    assert_eq!(driven.deadline(paid), b"");
    assert_eq!(driven.commands.pause, Some(false));
    assert_eq!(driven.receive(&masked(FIN | TEXT, b"y")), server_frame(TEXT, b"y"));
    assert_eq!(driven.commands.pause, Some(true));
}

#[test]
fn a_connection_pays_only_for_its_own_traffic() {
    let mut driven = Driven::open_with(paced(10, 0, RatePolicy::Pause));
    let other = ConnId { slot: 1, generation: 0 };
    let origin = Origin::Accepted { listener: 0, peer: None };
    for (end, mode) in [
        (masked(FIN | CLOSE, b""), CloseMode::Finish),
        (server_frame(TEXT, b"unmasked"), CloseMode::Flush),
    ] {
        let mut connection =
            driven.handler.opened(other, origin, &mut driven.record.begin(driven.now, 0, 0));
        driven.collect(&[]);
        let mut read = [REQUEST, &masked(FIN | TEXT, b"x").repeat(50), &end].concat();
        let mut out = driven.record.begin(driven.now, 0, read.len());
        driven.handler.received(other, &mut connection, &mut read, &mut out);
        driven.collect(&read);
        assert_eq!(driven.closing(), Some(mode));
        driven.receive(&masked(FIN | TEXT, b"y"));
        assert_eq!(driven.commands.pause, None);
    }
}

#[test]
fn bytes_have_a_rate_of_their_own() {
    let mut driven = Driven::open_with(paced(0, 1000, RatePolicy::Pause));
    let frame = masked(FIN | BINARY, &payload(2992));
    assert_eq!(frame.len(), 3000);
    driven.receive(&frame);
    assert_eq!(driven.commands.deadline, Some(Some(driven.now + Duration::from_secs(2))));
}

#[test]
fn a_pause_does_not_count_as_silence() {
    let interval = Duration::from_secs(1);
    let heartbeat = Heartbeat { ping_interval: interval, idle_timeout: interval * 3 };
    let mut driven =
        Driven::open_with(EchoSettings { heartbeat, ..paced(1, 0, RatePolicy::Pause) });
    let read: Vec<u8> = (0..6).flat_map(|_| masked(FIN | TEXT, b"x")).collect();
    driven.receive(&read);
    assert_eq!(driven.deadline(Duration::from_secs(5)), b"");
    assert_eq!((driven.commands.pause, driven.closing()), (Some(false), None));
    assert_eq!(driven.commands.deadline, Some(Some(driven.now + interval)));
}

#[test]
fn a_debt_of_more_than_seconds_is_closed_under_every_policy() {
    for (settings, read) in [
        (paced(1, 0, RatePolicy::Pause), masked(FIN | PING, b"").repeat(7)),
        (paced(0, 10, RatePolicy::Pause), masked(FIN | TEXT, &[b'x'; 100])),
    ] {
        let mut driven = Driven::open_with(settings);
        let wire = driven.receive(&read);
        assert!(wire.ends_with(&server_close(1008, "rate-exceeded")), "{}", wire.escape_ascii());
        assert_eq!(driven.closing(), Some(CloseMode::Flush));
    }
}

#[test]
fn closes_a_connection_over_its_rate_by_policy() {
    let mut driven = Driven::open_with(paced(2, 0, RatePolicy::Close));
    let read: Vec<u8> = (0..3).flat_map(|_| masked(FIN | TEXT, b"x")).collect();
    let wire = driven.receive(&read);
    let replies = server_frame(TEXT, b"x").repeat(3);
    assert!(wire.starts_with(&replies), "the replies to what came before leave first");
    assert_eq!(wire[replies.len()..], server_close(1008, "rate-exceeded"));
    assert_eq!(driven.closing(), Some(CloseMode::Flush));
}

#[test]
fn keeps_no_state_for_limits_that_are_off() {
    let mut driven = Driven::open();
    for _ in 0..1000 {
        driven.receive(&masked(
            FIN | TEXT,
            &payload(100).iter().map(|b| b & 0x7f).collect::<Vec<_>>(),
        ));
        assert!(driven.commands.is_empty());
    }
}

/// Returns this thread's time on a processor, in nanoseconds.
fn on_processor() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split_ascii_whitespace().next().and_then(|ns| ns.parse().ok()).expect("a number")
}

#[test]
fn injected_cost_takes_time_and_changes_no_answer() {
    let mut driven =
        Driven::open_with(EchoSettings { burn: InjectedCost::per_message(1e6), ..untimed() });
    let before = on_processor();
    let wire = driven.receive(&masked(FIN | TEXT, b"x").repeat(50));
    assert_eq!(wire, server_frame(TEXT, b"x").repeat(50));
    // The cost is 50 ms. A processor may have become faster since the server measured it, but not
    // twice as fast.
    assert!(on_processor() - before > 25_000_000, "{} ns", on_processor() - before);
    assert_eq!(driven.commands.pause, None);
}

#[test]
fn the_end_of_input_closes_gently() {
    let mut driven = Driven::open();
    assert_eq!(driven.receive(&masked(FIN | TEXT, b"last")), server_frame(TEXT, b"last"));
    assert_eq!(driven.eof(), b"");
    assert_eq!(driven.closing(), Some(CloseMode::Flush));
}

#[test]
fn reuses_an_unfinished_messages_buffer_after_a_fault() {
    let mut driven = Driven::open();
    driven.receive(&masked(BINARY, &payload(5000)));
    driven.receive(&masked(FIN | TEXT, b"not now"));
    assert_eq!(driven.closing(), Some(CloseMode::Flush));
    assert!(driven.record.pool().take().capacity() >= 5000);
}

#[test]
fn a_declared_length_costs_no_memory() {
    let mut driven = Driven::open();
    let header =
        [&[FIN | BINARY, 0xff][..], &u64::to_be_bytes(64 << 20), &[1, 2, 3, 4], b"few"].concat();
    assert_eq!(driven.receive(&header), b"");
    driven.eof();
    assert!(driven.record.pool().take().capacity() < 1024);
}

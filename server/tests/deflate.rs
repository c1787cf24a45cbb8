//! The echo of compressed messages (RFC 7692), the handler alone, without sockets.
//!
//! A client of the tests compresses, and inflates what comes back with the history of that
//! direction alone. So it sees whether an echo is valid, whichever way it took.

#[path = "../../protocol/tests/websocket/frames.rs"]
#[allow(dead_code, reason = "shared with other tests, which use the rest of it")]
mod frames;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use engine::{
    CloseMode, ConnId, Connect, Counters, Handler, Load, Nanos, Origin, Output, Record, Segment,
    WorkerCore,
};
use protocol::deflate::{CompressorSettings, Deflater, History, Inflater};
use protocol::handshake::deflate::ServerPolicy;
use protocol::{Header, Limits, MessageKind};
use server::config::EchoSettings;
use server::{Connection, DeflateEcho, DeflateSettings, Heartbeat, WebSocketEcho};

use frames::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, masked, server_close};

/// A worker that has no engine: connections, what they were sent, and an alarm.
struct Worker {
    now: Nanos,
    record: Record,
    peers: Vec<Peer>,
    alarm: Option<Nanos>,
}

/// A connection, and the server's output since it was last looked at.
struct Peer {
    state: Option<Connection>,
    wire: Vec<u8>,
    is_paused: bool,
    closing: Option<CloseMode>,
    deadline: Option<Nanos>,
}

impl Worker {
    fn with_peer(
        &mut self,
        at: usize,
        input: &mut [u8],
        f: impl FnOnce(&mut Connection, &mut [u8], &mut Output<'_>),
    ) {
        let peer = &mut self.peers[at];
        let mut state = peer.state.take().expect("it is open");
        let mut out = self.record.begin(self.now, 0, input.len());
        f(&mut state, input, &mut out);
        peer.state = Some(state);
        for segment in self.record.segments() {
            peer.wire.extend_from_slice(self.record.bytes(segment, input));
        }
        let segments: Vec<Segment> = self.record.take_segments().collect();
        for segment in segments {
            if let Segment::Owned(buffer) = segment {
                self.record.pool().put(buffer);
            }
        }
        self.record.clear_arena();
        let commands = self.record.take_commands();
        peer.is_paused = commands.pause.unwrap_or(peer.is_paused);
        peer.closing = commands.close.or(peer.closing);
        peer.deadline = commands.deadline.unwrap_or(peer.deadline);
    }
}

impl WorkerCore<WebSocketEcho> for Worker {
    fn now(&self) -> Nanos {
        self.now
    }
    fn clock(&self) -> Nanos {
        self.now
    }
    fn connect(&mut self, _: Connect) {
        unreachable!("a server connects to nobody");
    }
    fn call(&mut self, id: ConnId, f: &mut dyn FnMut(&mut Connection, &mut Output<'_>)) -> bool {
        let at = id.slot as usize;
        let is_open = self.peers[at].closing.is_none();
        if is_open {
            self.with_peer(at, &mut [], |state, _, out| f(state, out));
        }
        is_open
    }
    fn abort(&mut self, _: ConnId) {}
    fn connections(&self) -> usize {
        self.peers.len()
    }
    fn ids(&self) -> Vec<ConnId> {
        (0..self.peers.len()).map(id).collect()
    }
    fn set_alarm(&mut self, at: Option<Nanos>) {
        self.alarm = at;
    }
    fn listening(&mut self, _: u16, _: bool) {}
    fn local_addr(&self, _: u16) -> Option<SocketAddr> {
        None
    }
    fn stop(&mut self) {}
    fn counters(&self) -> Counters {
        Counters::default()
    }
    fn load(&self) -> Load {
        Load::default()
    }
}

/// A handler with connections, driven as an engine would.
struct Driven {
    handler: WebSocketEcho,
    worker: Worker,
}

fn id(at: usize) -> ConnId {
    ConnId { slot: at as u32, generation: 0 }
}

impl Driven {
    fn new(settings: EchoSettings) -> Self {
        let worker = Worker {
            now: Nanos(1_000_000_000),
            record: Record::new(),
            peers: Vec::new(),
            alarm: None,
        };
        Self { handler: WebSocketEcho::new(settings), worker }
    }

    /// Opens a WebSocket with this offer. Returns its number, and the server's answer to the offer.
    fn open(&mut self, offer: Option<&str>) -> (usize, Option<String>) {
        let at = self.worker.peers.len();
        let origin = Origin::Accepted { listener: 0, peer: None };
        let now = self.worker.now;
        let state = self.handler.opened(id(at), origin, &mut self.worker.record.begin(now, 0, 0));
        self.worker.record.take_commands();
        self.worker.peers.push(Peer {
            state: Some(state),
            wire: Vec::new(),
            is_paused: false,
            closing: None,
            deadline: None,
        });
        let mut request = "GET / HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Version: 13\r\n"
            .to_owned();
        if let Some(offer) = offer {
            request += &format!("Sec-WebSocket-Extensions: {offer}\r\n");
        }
        let answer = self.receive(at, (request + "\r\n").as_bytes());
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let agreed = answer
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ").map(str::to_owned));
        (at, agreed)
    }

    /// Feeds one read; returns the bytes that it puts on the wire.
    fn receive(&mut self, at: usize, bytes: &[u8]) -> Vec<u8> {
        assert!(!self.worker.peers[at].is_paused, "a paused connection is not read from");
        let handler = &mut self.handler;
        self.worker.with_peer(at, &mut bytes.to_vec(), |state, bytes, out| {
            handler.received(id(at), state, bytes, out);
        });
        self.output(at)
    }

    /// Feeds one read, and gives turns until it is echoed.
    fn exchange(&mut self, at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut wire = self.receive(at, bytes);
        self.turn();
        wire.extend(self.output(at));
        for _ in 0..100_000 {
            let peer = &self.worker.peers[at];
            if !peer.is_paused || peer.closing.is_some() {
                return wire;
            }
            self.turn();
            wire.extend(self.output(at));
        }
        panic!("it stays parked");
    }

    fn output(&mut self, at: usize) -> Vec<u8> {
        std::mem::take(&mut self.worker.peers[at].wire)
    }

    fn eof(&mut self, at: usize) {
        let handler = &mut self.handler;
        self.worker.with_peer(at, &mut [], |state, _, out| handler.eof(id(at), state, out));
    }

    /// Fires the connection's deadline.
    fn deadline(&mut self, at: usize) {
        let due = self.worker.peers[at].deadline.take().expect("a deadline");
        self.worker.now = self.worker.now.max(due);
        let handler = &mut self.handler;
        self.worker.with_peer(at, &mut [], |state, _, out| handler.deadline(id(at), state, out));
    }

    /// Ends a turn, after the alarm if it is due. Returns whether another turn is to come at once.
    fn turn(&mut self) -> bool {
        if self.worker.alarm.is_some_and(|at| at <= self.worker.now) {
            self.worker.alarm = None;
            self.handler.alarm(&mut self.worker);
        }
        self.handler.turn_end(&mut self.worker);
        self.worker.alarm.is_some_and(|at| at <= self.worker.now)
    }
}

fn settings(takeover: bool, max_window_bits: u8, echo: DeflateEcho) -> EchoSettings {
    EchoSettings {
        deflate: Some(DeflateSettings {
            policy: ServerPolicy { takeover, max_window_bits },
            echo,
            memory_level: 8,
        }),
        ..EchoSettings::default()
    }
}

fn passthrough(takeover: bool) -> EchoSettings {
    settings(takeover, 15, DeflateEcho::Passthrough)
}

/// A client's end: its compressor, and what it inflates the server's messages with.
struct Client {
    deflater: Deflater,
    inflater: Inflater,
    history: Option<History>,
}

impl Client {
    /// `sends`: whether its own context is taken over; `receives`: whether the server's is.
    fn new(sends: bool, receives: bool, sent_bits: u8, received_bits: u8) -> Self {
        let settings = CompressorSettings { window_bits: sent_bits, ..Default::default() };
        Self {
            deflater: Deflater::new(settings, sends),
            inflater: Inflater::new(),
            history: receives.then(|| History::new(received_bits)),
        }
    }

    fn deflate(&mut self, message: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        self.deflater.deflate(message, &mut out);
        out.to_vec()
    }

    fn message(&mut self, opcode: u8, message: &[u8]) -> Vec<u8> {
        masked(FIN | RSV1 | opcode, &self.deflate(message))
    }

    /// Reads one message of the server. Returns its opcode, whether it is compressed, its payload
    /// as it came, and inflated; and the rest of the bytes.
    fn read<'a>(&mut self, bytes: &'a [u8]) -> (u8, bool, Vec<u8>, Vec<u8>, &'a [u8]) {
        let (header, start) = Header::parse(bytes).expect("valid").expect("whole");
        let (payload, rest) = bytes[start..].split_at(header.payload_len as usize);
        assert!(header.fin, "an echo is one frame");
        let compressed = header.rsv == 4;
        let mut message = payload.to_vec();
        if compressed {
            let limits = Limits { max_message: u64::MAX, max_fragments: 1 };
            self.inflater.begin(MessageKind::Binary, self.history.as_mut());
            message.clear();
            let take = |piece: &[u8]| message.extend_from_slice(piece);
            let (scratch, history) = (&mut vec![0; 1 << 20], self.history.as_mut());
            let result = self.inflater.inflate_all(&limits, payload, true, scratch, history, take);
            result.expect("valid");
        }
        (header.opcode as u8, compressed, payload.to_vec(), message, rest)
    }
}

/// Records with varying values, so that messages resemble each other without being equal.
fn json(seed: u64, len: usize) -> Vec<u8> {
    let records = (seed..).flat_map(|n| {
        let value = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
        format!("{{\"id\":{n},\"name\":\"user-{value}\",\"score\":{}}},", value % 97).into_bytes()
    });
    records.take(len).collect()
}

#[test]
fn compression_is_declined_unless_it_is_on() {
    let mut driven = Driven::new(EchoSettings::default());
    let (at, agreed) = driven.open(Some("permessage-deflate; client_max_window_bits"));
    assert_eq!(agreed, None);
    let frame = Client::new(false, false, 15, 15).message(TEXT, b"hello");
    assert_eq!(driven.exchange(at, &frame), server_close(1002, "reserved-bits"));
}

#[test]
fn the_bytes_that_came_go_back_in_every_window() {
    for takeover in [false, true] {
        for bits in 9..=15 {
            let mut driven = Driven::new(settings(takeover, bits, DeflateEcho::Passthrough));
            let (at, agreed) = driven.open(Some("permessage-deflate; client_max_window_bits"));
            let mut client = Client::new(takeover, takeover, bits, bits);
            for (n, len) in [300, 0, 40_000, 1, 20, 20_000, 300].into_iter().enumerate() {
                let message = json(n as u64, len);
                let sent = client.deflate(&message);
                let echo = driven.exchange(at, &masked(FIN | RSV1 | TEXT, &sent));
                let (opcode, compressed, payload, inflated, rest) = client.read(&echo);
                assert_eq!((opcode, compressed, rest), (TEXT, true, &[][..]), "{agreed:?}");
                assert!(payload == sent, "{len} bytes, {agreed:?}");
                assert!(inflated == message, "{len} bytes");
                // Messages without compression, and control frames, are in no window.
                let between =
                    [masked(FIN | BINARY, &json(99, 500)), masked(FIN | PING, b"now")].concat();
                let answer = driven.exchange(at, &between);
                let (opcode, compressed, payload, _, rest) = client.read(&answer);
                assert_eq!((opcode, compressed, payload), (BINARY, false, json(99, 500)));
                assert_eq!(client.read(rest).0, PONG);
            }
        }
    }
}

#[test]
fn what_is_compressed_again_is_valid_in_every_window() {
    for takeover in [false, true] {
        for bits in 9..=15 {
            let mut driven = Driven::new(settings(takeover, bits, DeflateEcho::Recompress));
            let (at, _) = driven.open(Some("permessage-deflate; client_max_window_bits"));
            let mut client = Client::new(takeover, takeover, bits, bits);
            for (n, len) in [300, 0, 40_000, 1, 20, 20_000, 300].into_iter().enumerate() {
                let message = json(n as u64, len);
                let frame = client.message(BINARY, &message);
                let echo = driven.exchange(at, &frame);
                let (opcode, compressed, _, inflated, rest) = client.read(&echo);
                assert_eq!((opcode, compressed, rest), (BINARY, true, &[][..]));
                assert!(inflated == message, "{len} bytes");
            }
        }
    }
}

/// Offers after which the bytes that came would be invalid as an answer.
#[test]
fn it_compresses_again_where_the_bytes_that_came_would_be_invalid() {
    let cases = [
        // The server must not take over what the client does.
        ("permessage-deflate; server_no_context_takeover", true, true, false, 15, 15),
        // The client's window is larger than the one that it accepts.
        ("permessage-deflate; server_max_window_bits=10", true, true, true, 15, 10),
        ("permessage-deflate; server_max_window_bits=9", false, false, false, 15, 9),
    ];
    for (offer, takeover, sends, receives, sent_bits, received_bits) in cases {
        let mut driven = Driven::new(passthrough(takeover));
        let (at, agreed) = driven.open(Some(offer));
        assert!(agreed.is_some(), "{offer}");
        let mut client = Client::new(sends, receives, sent_bits, received_bits);
        for n in 0..4 {
            // The second half repeats what lies 20,000 bytes before.
            let message = json(n, 20_000).repeat(2);
            let sent = client.deflate(&message);
            let echo = driven.exchange(at, &masked(FIN | RSV1 | BINARY, &sent));
            let (_, compressed, payload, inflated, _) = client.read(&echo);
            assert!(inflated == message, "{offer}");
            assert!(n == 0 || payload != sent, "{offer}: message {n} came back as it was");
            assert!(compressed, "{offer}");
        }
    }
}

#[test]
fn every_cut_and_every_fragment_gives_the_same_echo() {
    for echo in [DeflateEcho::Passthrough, DeflateEcho::Recompress] {
        for takeover in [false, true] {
            let mut client = Client::new(takeover, takeover, 15, 15);
            let payload = client.deflate(&json(5, 700));
            let third = payload.len() / 3;
            let whole = masked(FIN | RSV1 | TEXT, &payload);
            let fragments = [
                masked(RSV1 | TEXT, &payload[..third]),
                masked(FIN | PING, b"between"),
                masked(CONTINUATION, &[]),
                masked(CONTINUATION, &payload[third..2 * third]),
                masked(FIN | CONTINUATION, &payload[2 * third..]),
            ]
            .concat();
            for bytes in [whole, fragments] {
                for cut in 0..bytes.len() {
                    let mut driven = Driven::new(settings(takeover, 15, echo));
                    let (at, _) = driven.open(Some("permessage-deflate"));
                    let mut reader = Client::new(takeover, takeover, 15, 15);
                    let mut wire = driven.exchange(at, &bytes[..cut]);
                    wire.extend(driven.exchange(at, &bytes[cut..]));
                    let mut rest = &wire[..];
                    let mut messages = Vec::new();
                    while !rest.is_empty() {
                        let (opcode, compressed, _, message, next) = reader.read(rest);
                        rest = next;
                        if opcode != PONG {
                            messages.push((opcode, compressed, message));
                        }
                    }
                    assert_eq!(messages, [(TEXT, true, json(5, 700))], "cut at {cut}");
                }
            }
        }
    }
}

#[test]
fn invalid_compressed_messages_are_refused_by_name() {
    let mut client = Client::new(false, false, 15, 15);
    let too_long = client.deflate(&vec![b'a'; 1001]);
    let latin = client.deflate(b"caf\xe9 au lait");
    let cut = &client.deflate(&json(1, 300))[..40];
    let cases: [(&str, Vec<u8>, u16, &str); 8] = [
        ("no DEFLATE data", masked(FIN | RSV1 | BINARY, b"\xff\xff"), 1007, "invalid-deflate"),
        ("no payload", masked(FIN | RSV1 | BINARY, b""), 1007, "invalid-deflate"),
        ("an end within a block", masked(FIN | RSV1 | TEXT, cut), 1007, "invalid-deflate"),
        ("no UTF-8", masked(FIN | RSV1 | TEXT, &latin), 1007, "invalid-utf8"),
        ("no UTF-8 in a fragment", masked(RSV1 | TEXT, &latin), 1007, "invalid-utf8"),
        ("too long", masked(FIN | RSV1 | TEXT, &too_long), 1009, "message-too-big"),
        ("RSV1 on a ping", masked(FIN | RSV1 | PING, b""), 1002, "reserved-bits"),
        ("RSV2", masked(FIN | 0x20 | TEXT, b""), 1002, "reserved-bits"),
    ];
    for echo in [DeflateEcho::Passthrough, DeflateEcho::Recompress] {
        for (name, frame, code, rule) in &cases {
            let limits = Limits { max_message: 1000, ..Limits::default() };
            let mut driven = Driven::new(EchoSettings { limits, ..settings(true, 15, echo) });
            let (at, _) = driven.open(Some("permessage-deflate"));
            let before = masked(FIN | TEXT, b"before");
            let wire = driven.exchange(at, &[&before[..], frame, &before].concat());
            let (_, _, _, echoed, rest) = client.read(&wire);
            assert_eq!(echoed, b"before", "{name}");
            assert_eq!(rest, server_close(*code, rule), "{name}");
            assert_eq!(driven.worker.peers[at].closing, Some(CloseMode::Flush), "{name}");
        }
        let mut driven = Driven::new(settings(true, 15, echo));
        let (at, _) = driven.open(Some("permessage-deflate"));
        driven.exchange(at, &masked(RSV1 | TEXT, b"\x00"));
        let again = masked(FIN | RSV1 | CONTINUATION, b"\x00");
        assert_eq!(driven.exchange(at, &again), server_close(1002, "reserved-bits"));
    }
}

#[test]
fn a_compressed_form_that_is_too_long_is_refused_before_it_has_arrived() {
    let limits = Limits { max_message: 1000, ..Limits::default() };
    let mut driven = Driven::new(EchoSettings { limits, ..passthrough(false) });
    let (at, _) = driven.open(Some("permessage-deflate"));
    // Empty blocks: they would inflate to nothing.
    let frame = masked(FIN | RSV1 | TEXT, &b"\x00\x00\x00\xff\xff".repeat(400));
    assert_eq!(driven.exchange(at, &frame[..10]), server_close(1009, "message-too-big"));
}

/// A message that inflates to 4 MiB, and what may come behind it in the same read.
fn bomb(client: &mut Client) -> Vec<u8> {
    client.message(BINARY, &vec![0; 4 << 20])
}

#[test]
fn a_bomb_is_inflated_in_turns_while_others_are_served() {
    for echo in [DeflateEcho::Passthrough, DeflateEcho::Recompress] {
        let mut driven = Driven::new(settings(true, 15, echo));
        let (bomber, _) = driven.open(Some("permessage-deflate"));
        let (other, _) = driven.open(Some("permessage-deflate"));
        let (mut client, mut good) =
            (Client::new(true, true, 15, 15), Client::new(true, true, 15, 15));
        let first = bomb(&mut client);
        let second = client.message(TEXT, b"behind it");
        let read = [first, second, masked(FIN | TEXT, b"plain"), masked(FIN | PING, b"p")].concat();
        assert_eq!(driven.receive(bomber, &read), b"");
        assert!(driven.worker.peers[bomber].is_paused);
        let (mut turns, mut wire) = (0, Vec::new());
        while driven.worker.peers[bomber].is_paused {
            assert!(
                driven.turn() || !driven.worker.peers[bomber].is_paused,
                "no turn is asked for"
            );
            turns += 1;
            wire.extend(driven.output(bomber));
            let frame = good.message(TEXT, &json(turns, 100));
            let echoed = driven.receive(other, &frame);
            assert_eq!(good.read(&echoed).3, json(turns, 100));
        }
        assert!((30..=250).contains(&turns), "{turns} turns");
        let (_, _, _, message, rest) = client.read(&wire);
        assert_eq!((message.len(), message.iter().all(|&byte| byte == 0)), (4 << 20, true));
        let (_, _, _, message, rest) = client.read(rest);
        assert_eq!(message, b"behind it");
        let (_, compressed, _, message, rest) = client.read(rest);
        assert_eq!((compressed, &message[..]), (false, &b"plain"[..]));
        assert_eq!(client.read(rest).0, PONG);
        assert_eq!(driven.worker.alarm, None, "no turn is asked for without work");
    }
}

/// Each is inflated in one step. All of them would take seconds, and nobody else would be served.
#[test]
fn many_small_bombs_in_one_read_are_inflated_in_turns() {
    for echo in [DeflateEcho::Passthrough, DeflateEcho::Recompress] {
        let mut driven = Driven::new(settings(true, 15, echo));
        let (at, _) = driven.open(Some("permessage-deflate"));
        let mut client = Client::new(true, true, 15, 15);
        let frames: Vec<_> = (0..500).map(|_| client.message(BINARY, &[0; 8000])).collect();
        let mut wire = driven.receive(at, &frames.concat());
        let (mut turns, mut echoes) = (0, 0);
        loop {
            let mut rest = &wire[..];
            let before = echoes;
            while !rest.is_empty() {
                let (_, _, _, message, next) = client.read(rest);
                assert!(message == [0; 8000]);
                (rest, echoes) = (next, echoes + 1);
            }
            assert!(echoes - before <= 50, "{} in a turn", echoes - before);
            if !driven.worker.peers[at].is_paused {
                break;
            }
            driven.turn();
            turns += 1;
            wire = driven.output(at);
        }
        assert_eq!(echoes, 500);
        assert!((20..=250).contains(&turns), "{turns} turns");
    }
}

#[test]
fn parked_connections_take_turns() {
    let mut driven = Driven::new(passthrough(false));
    let mut client = Client::new(false, false, 15, 15);
    let frame = bomb(&mut client);
    for _ in 0..3 {
        let (at, _) = driven.open(Some("permessage-deflate"));
        driven.receive(at, &frame);
    }
    // One that ends while it waits is skipped.
    driven.worker.peers[1].closing = Some(CloseMode::Abort);
    let mut ended = Vec::new();
    let mut turns = 0;
    while driven.turn() {
        turns += 1;
        for at in [0, 2] {
            if !driven.output(at).is_empty() {
                ended.push((at, turns));
            }
        }
    }
    for at in [0, 2] {
        if !driven.output(at).is_empty() {
            ended.push((at, turns + 1));
        }
    }
    let [(0, first), (2, last)] = ended[..] else { panic!("{ended:?}") };
    assert!(10 * first > 9 * last, "they end together: {ended:?}");
}

#[test]
fn a_message_limit_ends_a_parked_bomb() {
    let limits = Limits { max_message: 1 << 20, ..Limits::default() };
    let mut driven = Driven::new(EchoSettings { limits, ..passthrough(true) });
    let (at, _) = driven.open(Some("permessage-deflate"));
    let frame = bomb(&mut Client::new(true, true, 15, 15));
    assert_eq!(driven.exchange(at, &frame), server_close(1009, "message-too-big"));
}

#[test]
fn the_fin_behind_a_parked_message_waits_for_its_echo() {
    let mut driven = Driven::new(passthrough(false));
    let (at, _) = driven.open(Some("permessage-deflate"));
    let mut client = Client::new(false, false, 15, 15);
    let frame = bomb(&mut client);
    driven.receive(at, &frame);
    driven.eof(at);
    assert_eq!(driven.worker.peers[at].closing, None);
    while driven.turn() {}
    let wire = driven.output(at);
    assert_eq!(client.read(&wire).3.len(), 4 << 20);
    assert_eq!(driven.worker.peers[at].closing, Some(CloseMode::Flush));
}

#[test]
fn a_close_behind_a_parked_message_is_answered_after_it() {
    let mut driven = Driven::new(passthrough(false));
    let (at, _) = driven.open(Some("permessage-deflate"));
    let mut client = Client::new(false, false, 15, 15);
    let read = [bomb(&mut client), masked(FIN | CLOSE, &1000u16.to_be_bytes())].concat();
    let wire = driven.exchange(at, &read);
    let (_, _, _, message, rest) = client.read(&wire);
    assert_eq!(message.len(), 4 << 20);
    assert_eq!(rest, server_close(1000, ""));
}

#[test]
fn a_drain_echoes_a_parked_message_before_it_closes() {
    let mut driven = Driven::new(passthrough(false));
    let (at, _) = driven.open(Some("permessage-deflate"));
    let mut client = Client::new(false, false, 15, 15);
    let frame = bomb(&mut client);
    driven.receive(at, &frame);
    driven.handler.woken(&mut driven.worker, server::DRAIN);
    for _ in 0..200 {
        driven.worker.now = driven.worker.now + Duration::from_millis(1);
        driven.turn();
    }
    let wire = driven.output(at);
    let (_, compressed, _, message, rest) = client.read(&wire);
    assert_eq!((compressed, message.len()), (true, 4 << 20));
    assert_eq!(rest, server_close(1001, ""));
}

/// Context takeover, and no deadline but that for giving memory back.
fn without_timeouts(echo: DeflateEcho) -> EchoSettings {
    EchoSettings {
        heartbeat: Heartbeat::default(),
        message_timeout: Duration::ZERO,
        ..settings(true, 15, echo)
    }
}

#[test]
fn silence_gives_memory_back_and_the_context_stays() {
    for echo in [DeflateEcho::Passthrough, DeflateEcho::Recompress] {
        let mut driven = Driven::new(without_timeouts(echo));
        let (at, _) = driven.open(Some("permessage-deflate"));
        let mut client = Client::new(true, true, 15, 15);
        for n in 0..3 {
            // Not at the time of a check.
            driven.worker.now = driven.worker.now + Duration::from_secs(7);
            let frame = client.message(TEXT, &json(n, 30_000));
            let echoed = driven.exchange(at, &frame);
            assert_eq!(client.read(&echoed).3, json(n, 30_000));
            let last = driven.worker.now;
            driven.deadline(at);
            while driven.worker.now < last + Duration::from_secs(30) {
                driven.deadline(at);
            }
            assert!(driven.worker.now < last + Duration::from_secs(31), "it is checked in time");
        }
    }
}

#[test]
fn silence_within_a_message_leaves_its_context_as_it_is() {
    for echo in [DeflateEcho::Passthrough, DeflateEcho::Recompress] {
        let mut driven = Driven::new(without_timeouts(echo));
        let (at, _) = driven.open(Some("permessage-deflate"));
        let mut client = Client::new(true, true, 15, 15);
        for n in 0..3 {
            let message = json(n, 3_000);
            let payload = client.deflate(&message);
            let (first, second) = payload.split_at(payload.len() / 2);
            driven.exchange(at, &masked(RSV1 | TEXT, first));
            let end = driven.worker.now + Duration::from_secs(70);
            while driven.worker.now < end {
                driven.deadline(at);
            }
            let echoed = driven.exchange(at, &masked(FIN | CONTINUATION, second));
            assert!(client.read(&echoed).3 == message, "message {n}");
        }
    }
}

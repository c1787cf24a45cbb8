//! No allocation per message in steady state, in the handler alone and through the engines.
#![allow(
    unsafe_code,
    reason = "a counting allocator is an implementation of an unsafe trait; the server itself has none"
)]

#[path = "../../protocol/tests/websocket/frames.rs"]
#[allow(dead_code, reason = "shared with other tests, which use the rest of it")]
mod frames;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::{
    ConnId, EngineChoice, EngineKind, Handler, Nanos, Origin, Record, Segment, SendCompletions,
};
use protocol::handshake::deflate::ServerPolicy;
use server::config::{Config, EchoSettings};
use server::{DeflateEcho, DeflateSettings, Server, WebSocketEcho};

use frames::readable;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches only the
// counter's memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` came from `System` by one of the other functions.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `memory` came from `System`; the caller promises the rest.
        unsafe { System.realloc(memory, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Bytes that a client sends in one round, and the number of bytes that answer them.
struct Round {
    name: &'static str,
    sent: Vec<u8>,
    answered: usize,
    /// Lengths of the reads in which the handler alone gets them.
    reads: &'static [usize],
}

/// Reads that hold whole and cut frames.
const ANY: &[usize] = &[4096, 1000, 37];
/// Reads that leave control frames whole. A cut control frame is collected in a box of its own,
/// which is rare and not a message.
const WHOLE: &[usize] = &[4096, 1000];

fn rounds() -> Vec<Round> {
    let text = "gr\u{fc}\u{df}e \u{1f600} ".repeat(6_000);
    let fragments = [
        readable(0x01, &text.as_bytes()[..300]),
        readable(0x89, b"between"),
        readable(0x00, &text.as_bytes()[300..5_000]),
        readable(0x80, &text.as_bytes()[5_000..6_000]),
    ];
    vec![
        Round {
            name: "whole frames",
            sent: readable(0x82, &[7; 32]).repeat(16),
            answered: 16 * 34,
            reads: ANY,
        },
        Round {
            name: "text of 64 KiB",
            sent: readable(0x81, &text.as_bytes()[..65_520]),
            answered: 4 + 65_520,
            reads: ANY,
        },
        Round {
            name: "200 KiB",
            sent: readable(0x82, &[7; 200 << 10]),
            answered: 10 + (200 << 10),
            reads: ANY,
        },
        Round {
            name: "fragments and a ping",
            sent: fragments.concat(),
            answered: 2 + 7 + 4 + 6_000,
            reads: WHOLE,
        },
        Round {
            name: "pings",
            sent: readable(0x89, b"ping").repeat(10),
            answered: 60,
            reads: WHOLE,
        },
    ]
}

/// Compressed messages that come back as they are: whole ones, and one that spans reads.
fn compressed_rounds() -> Vec<Round> {
    // The example of RFC 7692 7.2.3.2.
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let content = [b'x'; 20_000];
    let mut stored = vec![0x00];
    stored.extend((content.len() as u16).to_le_bytes());
    stored.extend((!(content.len() as u16)).to_le_bytes());
    stored.extend(content);
    stored.push(0x00);
    vec![
        Round {
            name: "compressed, whole",
            sent: readable(0xc1, &hello).repeat(16),
            answered: 16 * 9,
            reads: ANY,
        },
        Round {
            name: "compressed, 20 KB",
            sent: readable(0xc2, &stored),
            answered: 4 + stored.len(),
            reads: ANY,
        },
    ]
}

/// Returns the settings of a server, and the request of a client: both compress where `compressed`
/// says so.
fn setting(compressed: bool) -> (EchoSettings, Vec<u8>) {
    let mut request = REQUEST.to_vec();
    let mut settings = EchoSettings::default();
    if compressed {
        request.truncate(request.len() - 2);
        request.extend(b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
        settings.deflate = Some(DeflateSettings {
            policy: ServerPolicy { takeover: false, max_window_bits: 15 },
            echo: DeflateEcho::Passthrough,
            memory_level: 8,
        });
    }
    (settings, request)
}

/// Returns the fewest allocations of a few stretches: a buffer may still grow, for good, in one of
/// them.
fn allocations(mut stretch: impl FnMut()) -> u64 {
    let mut count = || {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        stretch();
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    (0..4).map(|_| count()).min().unwrap_or_default()
}

/// Feeds one round to the handler in reads of `size` bytes; returns the number of bytes that it
/// writes.
fn drive(
    handler: &mut WebSocketEcho,
    connection: &mut server::Connection,
    record: &mut Record,
    bytes: &mut [u8],
    size: usize,
) -> usize {
    let mut answered = 0;
    let id = ConnId { slot: 0, generation: 0 };
    for input in bytes.chunks_mut(size) {
        let mut out = record.begin(Nanos(1), 0, input.len());
        handler.received(id, connection, input, &mut out);
        answered += record.segments().iter().map(|s| record.bytes(s, input).len()).sum::<usize>();
        // An engine sends the buffer and then returns it.
        let mut sent = [const { None }; 16];
        for (place, segment) in sent.iter_mut().zip(record.take_segments()) {
            *place = Some(segment);
        }
        for segment in sent.into_iter().flatten() {
            if let Segment::Owned(buffer) = segment {
                record.pool().put(buffer);
            }
        }
        assert!(record.take_commands().close.is_none());
        record.clear_arena();
    }
    answered
}

fn handler_alone(round: &Round, size: usize, compressed: bool) {
    let (settings, mut request) = setting(compressed);
    let (mut handler, mut record) = (WebSocketEcho::new(settings), Record::new());
    let origin = Origin::Accepted { listener: 0, peer: None };
    let id = ConnId { slot: 0, generation: 0 };
    let mut connection = handler.opened(id, origin, &mut record.begin(Nanos(1), 0, 0));
    record.take_commands();
    drive(&mut handler, &mut connection, &mut record, &mut request, usize::MAX);
    let mut bytes = round.sent.clone();
    let count = allocations(|| {
        for _ in 0..100 {
            bytes.copy_from_slice(&round.sent);
            let answered = drive(&mut handler, &mut connection, &mut record, &mut bytes, size);
            assert_eq!(answered, round.answered, "{}", round.name);
        }
    });
    assert_eq!(count, 0, "{} in reads of {size} bytes: allocations in 100 rounds", round.name);
}

fn through_an_engine(config: &Config, rounds: &[Round], request: &[u8]) {
    let server = Server::start(config).expect("start");
    let mut stream = open(server.addresses()[0], request);
    let mut answer = vec![0; 1 << 20];
    for round in rounds {
        let count = allocations(|| {
            for _ in 0..100 {
                stream.write_all(&round.sent).expect("send");
                stream.read_exact(&mut answer[..round.answered]).expect("answer");
            }
        });
        assert_eq!(count, 0, "{} on {}: allocations in 100 rounds", round.name, server.engine().0);
    }
    drop(stream);
    server.drain().begin();
    server.wait().expect("end");
}

fn open(address: SocketAddr, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    stream.write_all(request).expect("request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("response");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream
}

/// There is one test, since the counter belongs to the process.
#[test]
fn steady_state_allocates_nothing() {
    let (rounds, compressed) = (rounds(), compressed_rounds());
    for (rounds, is_compressed) in [(&rounds, false), (&compressed, true)] {
        for round in rounds {
            for &size in round.reads {
                handler_alone(round, size, is_compressed);
            }
        }
    }
    for kind in [EngineKind::Uring, EngineKind::Epoll] {
        if let Err(error) = kind.probe() {
            eprintln!("skipped: engine {kind}: {error}");
            continue;
        }
        let mut config = Config { engine: EngineChoice::Named(kind), ..Config::default() };
        through_an_engine(&config, &rounds, REQUEST);
        if kind == EngineKind::Uring {
            config.uring.send_completions = SendCompletions::All;
            through_an_engine(&config, &rounds, REQUEST);
        }
        let (settings, request) = setting(true);
        config.settings = settings;
        through_an_engine(&config, &compressed, &request);
    }
}

//! Peers that do not read, stall, reset and drop.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};

use super::case::{Case, Outcome, Verdict};
use super::observe::{End, observe_frames};
use super::servers::Target;
use super::wire::{self, BINARY, FIN, PING, TEXT, frame, raw};

/// Echoes that a peer leaves unread.
const UNREAD: u64 = 64 << 20;
const MESSAGE: usize = 64 << 10;

/// Largest growth of memory by the echoes to a peer that does not read. High-water mark, a message
/// and a turn's receives are 1 MiB each at most. The rest is for the allocator.
const GROWTH: u64 = 8 << 20;
/// The same over TLS, where ciphertext lies beside the plaintext that it is made of, in buffers of
/// other sizes.
const GROWTH_OVER_TLS: u64 = 2 * GROWTH;

/// Time without progress after which the server counts as no longer reading. It ends the wait, and
/// does not influence the verdict.
const STUCK: Duration = Duration::from_millis(500);

const CONNECTIONS: usize = 100;

pub(super) fn cases() -> Vec<Case> {
    let case = |id, sent, expected, run| Case::scenario(id, sent, "RFC 6455 10.4", expected, run);
    vec![
        case(
            "load-slow-reader",
            "64 MiB of messages, echoes unread",
            "reads pause, then all intact",
            slow_reader,
        )
        .alone(),
        case("load-ping-flood", "64 MiB of pings, pongs unread", "reads pause", ping_flood).alone(),
        case(
            "load-tiny-window",
            "a receive buffer of 1 byte, reads of 1 byte",
            "echoes intact",
            tiny_window,
        ),
        case("load-bytewise-message", "3,000 bytes in writes of 1 byte", "echo intact", bytewise),
        case("load-resets", "100 connections reset mid-frame", "no other notices", resets),
        case(
            "load-resets-unread",
            "20 connections reset with echoes unread",
            "no other notices",
            resets_unread,
        ),
        case("load-stalls", "100 connections stall mid-frame, then go on", "all echo", stalls),
        case(
            "load-stalled-heads",
            "100 connections stall mid-request, then go on",
            "all open and echo",
            stalled_heads,
        ),
        case("load-churn", "300 connections opened and dropped", "no other notices", churn),
        case(
            "load-silent-connects",
            "300 connections dropped without a byte",
            "no other notices",
            silent_connects,
        ),
    ]
}

fn outcome(result: io::Result<Outcome>) -> Outcome {
    result.unwrap_or_else(|error| (Verdict::Wrong, error.to_string()))
}

fn rss(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other("no VmRSS"))
}

/// Result of sending without reading until the server accepts no more: the accepted bytes, and the
/// growth of its memory. The writer continues when the peer begins to read.
struct Unread {
    taken: u64,
    /// Growth of a server whose process is known.
    growth: Option<u64>,
    may_grow: u64,
    writer: thread::JoinHandle<io::Result<()>>,
}

/// Has the server allocate what it keeps permanently after the first messages, such as receive
/// buffers. That memory is not growth by unread output.
fn warm_up(target: &Target) -> io::Result<()> {
    let mut stream = wire::open(target)?;
    let message = frame(BINARY, &[0x5a; 60_000]);
    let mut echo = vec![0; 60_000 + 4];
    for _ in 0..400 {
        stream.write_all(&message)?;
        stream.read_exact(&mut echo)?;
    }
    Ok(())
}

fn leave_unread(target: &Target, stream: &TcpStream, unit: Vec<u8>) -> io::Result<Unread> {
    warm_up(target)?;
    let progress = Arc::new(AtomicU64::new(0));
    let written = Arc::clone(&progress);
    let before = target.pid.map(rss).transpose()?;
    let mut input = stream.try_clone()?;
    let writer = thread::spawn(move || {
        let mut sent = 0;
        while sent < UNREAD {
            input.write_all(&unit)?;
            sent += unit.len() as u64;
            written.store(sent, Ordering::Relaxed);
        }
        Ok(())
    });
    let (mut taken, mut growth, mut since) = (0, None, Instant::now());
    while since.elapsed() < STUCK && !writer.is_finished() {
        thread::sleep(Duration::from_millis(10));
        let now = progress.load(Ordering::Relaxed);
        if now > taken {
            (taken, since) = (now, Instant::now());
        }
        if let (Some(pid), Some(before)) = (target.pid, before) {
            growth = growth.max(Some(rss(pid)?.saturating_sub(before)));
        }
    }
    Ok(Unread {
        taken,
        growth,
        may_grow: if target.tls { GROWTH_OVER_TLS } else { GROWTH },
        writer,
    })
}

impl Unread {
    /// Judges by the growth of memory if it is known, and otherwise by the accepted bytes. A server
    /// that has accepted all of them must keep them in memory, because the buffers of two sockets
    /// have room only for a part.
    fn judge(&self) -> Outcome {
        let taken = self.taken >> 20;
        match self.growth {
            Some(growth) => {
                let verdict = if growth > self.may_grow { Verdict::Wrong } else { Verdict::Ok };
                (verdict, format!("took {taken} MiB unread, memory +{} KiB", growth >> 10))
            }
            None if self.taken >= UNREAD => (Verdict::Wrong, format!("took {taken} MiB unread")),
            None => (Verdict::Ok, format!("took {taken} MiB unread")),
        }
    }
}

fn slow_reader(target: &Target) -> Outcome {
    outcome((|| {
        let mut stream = wire::open(target)?;
        let message = vec![0x5a; MESSAGE];
        let unread = leave_unread(target, &stream, frame(BINARY, &message))?;
        let (verdict, seen) = unread.judge();
        let echo =
            [vec![FIN | BINARY, 127], (MESSAGE as u64).to_be_bytes().to_vec(), message].concat();
        let mut got = vec![0; echo.len()];
        for n in 0..UNREAD.div_ceil(wire_len()) {
            stream.read_exact(&mut got)?;
            if got != echo {
                return Ok((Verdict::Wrong, format!("{seen}; echo {n} differs")));
            }
        }
        unread.writer.join().map_err(|_| io::Error::other("the writer panicked"))??;
        Ok((verdict, format!("{seen}; all intact")))
    })())
}

/// Bytes of a message and its masked header.
fn wire_len() -> u64 {
    MESSAGE as u64 + 14
}

fn ping_flood(target: &Target) -> Outcome {
    outcome((|| {
        let stream = wire::open(target)?;
        let pings: Vec<u8> = (0..500).flat_map(|_| frame(PING, &[0x5a; 125])).collect();
        let unread = leave_unread(target, &stream, pings)?;
        let outcome = unread.judge();
        // Wakes the writer; its result does not matter then.
        let _ = stream.shutdown(std::net::Shutdown::Both);
        let _ = unread.writer.join();
        Ok(outcome)
    })())
}

fn tiny_window(target: &Target) -> Outcome {
    outcome((|| {
        let mut stream = wire::open(target)?;
        // The kernel rounds up to its least.
        set_socket_recv_buffer_size(&stream, 1)?;
        let message: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
        let mut input = stream.try_clone()?;
        let bytes = frame(BINARY, &message);
        let writer = thread::spawn(move || input.write_all(&bytes));
        let mut got = vec![0; message.len() + 4];
        for byte in got.chunks_mut(1) {
            stream.read_exact(byte)?;
        }
        let _ = writer.join();
        let intact = got[..2] == [FIN | BINARY, 126] && got[4..] == message;
        Ok(if intact {
            (Verdict::Ok, "intact".into())
        } else {
            (Verdict::Wrong, "the echo differs".into())
        })
    })())
}

fn bytewise(target: &Target) -> Outcome {
    outcome((|| {
        let mut stream = wire::open(target)?;
        let message = vec![b'b'; 3000];
        for byte in frame(TEXT, &message) {
            stream.write_all(&[byte])?;
        }
        Ok(echo_of(&stream, &message))
    })())
}

fn echo_of(mut stream: &TcpStream, message: &[u8]) -> Outcome {
    let seen = observe_frames(stream, Vec::new(), &mut |came| {
        if came == 1 {
            // A server that has gone is seen by the read that follows.
            let _ = stream.write_all(&frame(PING, super::case::PROBE));
        }
    });
    End::Open.judge(&[(TEXT, message.to_vec())], &seen)
}

/// Closing sends RST.
fn reset(stream: &TcpStream) -> io::Result<()> {
    Ok(set_socket_linger(stream, Some(Duration::ZERO))?)
}

fn resets(target: &Target) -> Outcome {
    outcome((|| {
        for n in 0..CONNECTIONS {
            let mut stream = wire::open(target)?;
            stream.write_all(&frame(TEXT, b"never finished")[..2 + n % 14])?;
            reset(&stream)?;
        }
        still_serves(target)
    })())
}

fn resets_unread(target: &Target) -> Outcome {
    outcome((|| {
        for _ in 0..20 {
            let mut stream = wire::open(target)?;
            stream.write_all(&frame(BINARY, &vec![1; 100_000]))?;
            stream.write_all(&raw(TEXT, b"open"))?;
            reset(&stream)?;
        }
        still_serves(target)
    })())
}

fn still_serves(target: &Target) -> io::Result<Outcome> {
    let mut stream = wire::open(target)?;
    stream.write_all(&frame(TEXT, b"still there?"))?;
    Ok(echo_of(&stream, b"still there?"))
}

fn stalls(target: &Target) -> Outcome {
    outcome((|| {
        let bytes = frame(TEXT, b"slow message");
        let mut streams = Vec::new();
        for n in 0..CONNECTIONS {
            let mut stream = wire::open(target)?;
            stream.write_all(&bytes[..1 + n % (bytes.len() - 1)])?;
            streams.push(stream);
        }
        for (n, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&bytes[1 + n % (bytes.len() - 1)..])?;
        }
        all_echo(&streams, b"slow message")
    })())
}

fn stalled_heads(target: &Target) -> Outcome {
    outcome((|| {
        let request = wire::request(&target.host, &target.path);
        let mut streams = Vec::new();
        for n in 0..CONNECTIONS {
            let mut stream = wire::connect(target)?;
            stream.write_all(&request[..1 + n % (request.len() - 1)])?;
            streams.push(stream);
        }
        for (n, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&request[1 + n % (request.len() - 1)..])?;
            stream.write_all(&frame(TEXT, b"at last"))?;
        }
        for stream in &mut streams {
            if !wire::read_head(stream)?.starts_with(b"HTTP/1.1 101 ") {
                return Ok((Verdict::Wrong, "no 101".into()));
            }
        }
        all_echo(&streams, b"at last")
    })())
}

fn all_echo(streams: &[TcpStream], message: &[u8]) -> io::Result<Outcome> {
    for stream in streams {
        let (verdict, seen) = echo_of(stream, message);
        if verdict != Verdict::Ok {
            return Ok((verdict, seen));
        }
    }
    Ok((Verdict::Ok, format!("{} echoes", streams.len())))
}

fn churn(target: &Target) -> Outcome {
    outcome((|| {
        for n in 0..300 {
            let mut stream = wire::open(target)?;
            if n % 3 == 0 {
                stream.write_all(&frame(TEXT, b"gone before the echo"))?;
            }
        }
        still_serves(target)
    })())
}

fn silent_connects(target: &Target) -> Outcome {
    outcome((|| {
        for n in 0..300 {
            let stream = wire::connect(target)?;
            if n % 2 == 0 {
                reset(&stream)?;
            }
        }
        still_serves(target)
    })())
}

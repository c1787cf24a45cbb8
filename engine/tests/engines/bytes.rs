//! Every byte arrives, in order, whatever the cuts.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use engine::{Cause, CloseMode, ConnId, Connect, Origin, Output, Spin};

use crate::stage::{
    Case, Event, LIMIT, Random, Running, Script, expect, pattern, read_to_end, round_trip,
};

pub(crate) fn echo_comes_back_and_is_counted(case: &Case) {
    let running = Running::echo(case);
    let mut client = running.connect();
    round_trip(&mut client, b"hello");
    round_trip(&mut client, &pattern(3000, 1));
    match running.event() {
        Event::Opened(_, Origin::Accepted { listener: 0, peer }) => {
            assert_eq!(peer, Some(client.local_addr().expect("address")));
        }
        other => panic!("{other:?}"),
    }
    drop(client);
    running.wait_for(|e| matches!(e, Event::Closed(_, Cause::PeerClosed)).then_some(()));
    let (counters, _) = running.finish();
    assert_eq!((counters.bytes_in, counters.bytes_out), (3005, 3005));
    assert_eq!((counters.accepted, counters.connected, counters.closed), (1, 0, 1));
    assert!(counters.turns > 0 && counters.enters > 0 && counters.completions > 0);
}

pub(crate) fn one_byte_at_a_time(case: &Case) {
    let running = Running::echo(case);
    let mut client = running.connect();
    for byte in pattern(500, 2) {
        round_trip(&mut client, &[byte]);
    }
    let bytes = pattern(2000, 3);
    for byte in &bytes {
        client.write_all(&[*byte]).expect("write");
    }
    expect(&mut client, &bytes);
    running.finish();
}

/// Sizes that fill a buffer exactly, one less and one more, up to more than sockets hold.
pub(crate) fn sizes_around_every_edge(case: &Case) {
    let running = Running::echo(case);
    let mut client = running.connect();
    let mut total = 0;
    for power in [0, 1, 6, 7, 8, 11, 12, 13, 15, 16, 17, 20, 22] {
        for size in [(1usize << power) - 1, 1 << power, (1 << power) + 1] {
            let bytes = pattern(size, size as u64);
            let writer = {
                let (mut client, bytes) = (client.try_clone().expect("clone"), bytes.clone());
                thread::spawn(move || client.write_all(&bytes).expect("write"))
            };
            expect(&mut client, &bytes);
            writer.join().expect("writer");
            total += size as u64;
        }
    }
    drop(client);
    let (counters, _) = running.finish();
    assert_eq!((counters.bytes_in, counters.bytes_out), (total, total));
}

pub(crate) fn sixteen_mebibytes(case: &Case) {
    let running = Running::echo(case);
    let mut client = running.connect();
    let bytes = Arc::new(pattern(16 << 20, 4));
    let writer = {
        let (mut client, bytes) = (client.try_clone().expect("clone"), bytes.clone());
        thread::spawn(move || {
            client.write_all(&bytes).expect("write");
            client.shutdown(std::net::Shutdown::Write).expect("shutdown");
        })
    };
    assert!(read_to_end(&mut client) == *bytes, "other bytes came back");
    writer.join().expect("writer");
    let (counters, _) = running.finish();
    assert_eq!((counters.bytes_in, counters.bytes_out), (16 << 20, 16 << 20));
}

/// Sends `bytes` in `pieces` pieces of all three kinds, in turn.
fn scatter(bytes: &[u8], pieces: usize, out: &mut Output<'_>) {
    let cut = |i: usize| bytes.len() * i / pieces;
    for i in 0..pieces {
        let (from, to) = (cut(i), cut(i + 1));
        match i % 3 {
            0 => out.echo(from..to),
            1 => out.append(&bytes[from..to]),
            _ => {
                let mut buffer = out.buffer();
                buffer.extend_from_slice(&bytes[from..to]);
                out.give(buffer);
            }
        }
    }
}

pub(crate) fn many_segments_of_every_kind(case: &Case) {
    for pieces in [1, 2, 3, 16, 17, 64, 65, 300] {
        let script = Script::default().received(move |_, bytes, out| scatter(bytes, pieces, out));
        let running = Running::start(case, case.config(), script);
        let mut client = running.connect();
        for round in 0..5 {
            round_trip(&mut client, &pattern(1200, round));
        }
        running.finish();
    }
}

/// Writes in `received`, with `with` in `turn_end`, and once more: three pieces, one order.
pub(crate) fn output_of_a_turn_keeps_its_order(case: &Case) {
    let seen: Arc<Mutex<Vec<ConnId>>> = Arc::default();
    let at_end = seen.clone();
    let script = Script::default()
        .opened(|_, out| out.append(b"welcome."))
        .received(move |id, bytes, out| {
            out.append(b"<");
            out.echo(0..bytes.len());
            out.give(BytesMut::from(&b">"[..]));
            seen.lock().expect("lock").push(id);
        })
        .turn_end(move |w| {
            for id in at_end.lock().expect("lock").drain(..) {
                w.with(id, |_, out| out.append(b"1"));
                w.with(id, |_, out| out.give(BytesMut::from(&b"2"[..])));
                w.with(id, |_, out| out.append(b"3;"));
            }
        });
    let running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    expect(&mut client, b"welcome.");
    for _ in 0..50 {
        client.write_all(b"abc").expect("write");
        expect(&mut client, b"<abc>123;");
    }
    running.finish();
}

/// The client writes in random pieces, the server answers in random pieces of random kinds.
pub(crate) fn random_cuts_keep_the_order(case: &Case) {
    for seed in 0..8 {
        let mut random = Random(seed);
        let script = Script::default()
            .received(move |_, bytes, out| {
                let pieces = random.upto(bytes.len().min(40));
                scatter(bytes, pieces, out);
            })
            .eof(|_, out| out.close(CloseMode::Flush));
        let running = Running::start(case, case.config(), script);
        let bytes = Arc::new(pattern(300_000, seed));
        let mut client = running.connect();
        let writer = {
            let (mut client, bytes) = (client.try_clone().expect("clone"), bytes.clone());
            thread::spawn(move || {
                let (mut random, mut at) = (Random(!seed), 0);
                while at < bytes.len() {
                    let len = random.upto(9000).min(bytes.len() - at);
                    client.write_all(&bytes[at..at + len]).expect("write");
                    at += len;
                }
                client.shutdown(std::net::Shutdown::Write).expect("shutdown");
            })
        };
        assert!(read_to_end(&mut client) == *bytes, "seed {seed}: other bytes came back");
        writer.join().expect("writer");
        running.finish();
    }
}

/// Bounds of one connection's unsent bytes with the settings below: the high-water mark, and the
/// most that any engine receives in a turn.
const MARK: usize = 128 << 10;
const A_TURN: usize = 2 << 20;

fn echo_and_watch(most_unsent: Arc<AtomicUsize>) -> Script {
    Script::default()
        .received(move |_, bytes, out| {
            out.echo(0..bytes.len());
            most_unsent.fetch_max(out.unsent(), Ordering::Relaxed);
        })
        .eof(|_, out| out.close(CloseMode::Flush))
}

pub(crate) fn drops_a_client_that_never_reads(case: &Case) {
    let most_unsent = Arc::new(AtomicUsize::new(0));
    let mut config = case.config();
    config.high_water = MARK;
    config.write_stall = Duration::from_millis(400);
    let running = Running::start(case, config, echo_and_watch(most_unsent.clone()));
    let bystander = running.connect();
    let by_id = running.wait_opened();
    let mut client = running.connect();
    let id = running.wait_opened();
    // Far more than the kernel's buffers hold: the write ends only because the server drops the
    // connection.
    let chunk = pattern(1 << 20, 5);
    let mut written = 0;
    while written < (1 << 30) {
        match client.write(&chunk) {
            Ok(n) => written += n,
            Err(_) => break,
        }
    }
    assert!(written < (256 << 20), "reads never paused: {written} bytes");
    assert!(matches!(running.wait_closed(id), Cause::WriteStalled));
    let most = most_unsent.load(Ordering::Relaxed);
    assert!(most > MARK && most <= MARK + A_TURN, "{most} bytes unsent");
    let mut bystander = bystander;
    round_trip(&mut bystander, b"unharmed");
    assert!(running.with(by_id, |_| {}).is_some());
    running.finish();
}

pub(crate) fn a_slow_reader_gets_everything(case: &Case) {
    let most_unsent = Arc::new(AtomicUsize::new(0));
    let mut config = case.config();
    config.high_water = MARK;
    small_buffers(&config.listeners[0].socket);
    let running = Running::start(case, config, echo_and_watch(most_unsent.clone()));
    let mut client = running.connect();
    let id = running.wait_opened();
    let bytes = Arc::new(pattern(24 << 20, 6));
    let writer = {
        let (mut client, bytes) = (client.try_clone().expect("clone"), bytes.clone());
        thread::spawn(move || client.write_all(&bytes).expect("write"))
    };
    // The client reads only after the server has stopped with more to send than its mark, and holds
    // some of it back.
    let (mut last, mut same) = (0, 0);
    while same < 5 || most_unsent.load(Ordering::Relaxed) <= MARK {
        let unsent = running.with(id, |out| out.unsent()).expect("open");
        running.some_turns();
        same = if unsent > 0 && unsent == last { same + 1 } else { 0 };
        last = unsent;
    }
    expect(&mut client, &bytes);
    writer.join().expect("writer");
    running.wait_for(|e| matches!(e, Event::Drained(drained) if drained == id).then_some(()));
    assert!(most_unsent.load(Ordering::Relaxed) <= MARK + A_TURN);
    round_trip(&mut client, b"and goes on");
    running.finish();
}

/// Sets small socket buffers, which connections inherit, so that the kernel holds little of what a
/// test writes.
fn small_buffers(listener: &TcpListener) {
    rustix::net::sockopt::set_socket_send_buffer_size(listener, 64 << 10).expect("send buffer");
    rustix::net::sockopt::set_socket_recv_buffer_size(listener, 64 << 10).expect("receive buffer");
}

/// A backlog that has emptied leaves no stall timer behind.
pub(crate) fn a_finished_stall_leaves_no_timer(case: &Case) {
    let mut config = case.config();
    config.write_stall = Duration::from_secs(1);
    small_buffers(&config.listeners[0].socket);
    let running = Running::start(case, config, Script::echo());
    let mut client = running.connect();
    let id = running.wait_opened();
    let bytes = pattern(8 << 20, 7);
    let given = BytesMut::from(&bytes[..]);
    running.with(id, move |out| out.give(given));
    expect(&mut client, &bytes);
    running.wait_for(|e| matches!(e, Event::Drained(_)).then_some(()));
    thread::sleep(Duration::from_millis(1300));
    round_trip(&mut client, b"still there");
    running.finish();
}

/// Sends pieces of all kinds while earlier ones wait for the reader.
pub(crate) fn held_back_segments_keep_their_order(case: &Case) {
    let running = Running::start(case, case.config(), Script::default());
    let mut client = running.connect();
    let id = running.wait_opened();
    let mut all = Vec::new();
    for round in 0..200u64 {
        let bytes = pattern(64 << 10, round);
        all.extend_from_slice(&bytes);
        let unsent = running.with(id, move |out| {
            let third = bytes.len() / 3;
            out.append(&bytes[..third]);
            out.give(BytesMut::from(&bytes[third..2 * third]));
            out.append(&bytes[2 * third..]);
            out.unsent()
        });
        assert!(unsent.is_some());
    }
    let left = running.with(id, |out| out.unsent()).expect("open");
    assert!(left > 0, "the kernel took 12 MiB");
    expect(&mut client, &all);
    running.wait_for(|e| matches!(e, Event::Drained(_)).then_some(()));
    // The peer has everything; the engine may learn it a moment later.
    let since = Instant::now();
    while running.with(id, |out| out.unsent()) != Some(0) {
        assert!(since.elapsed() < LIMIT, "bytes stay unsent");
    }
    running.finish();
}

/// Runs a client on the engine against a server on the engine: eight connections, each passing a
/// counter to and fro.
pub(crate) fn two_workers_talk_to_each_other(case: &Case) {
    const ROUNDS: u64 = 500;
    const CONNECTIONS: u64 = 8;
    let server = Running::echo(case);
    let (sender, done) = channel();
    let to = server.addr;
    let mut partial: std::collections::HashMap<ConnId, Vec<u8>> = std::collections::HashMap::new();
    let script = Script::default()
        .start(move |w| {
            for tag in 0..CONNECTIONS {
                w.connect(Connect { to, from: None, tag, timeout: LIMIT });
            }
        })
        .opened(|_, out| out.append(&0u64.to_be_bytes()))
        .received(move |id, bytes, out| {
            let held = partial.entry(id).or_default();
            held.extend_from_slice(bytes);
            while held.len() >= 8 {
                let count = u64::from_be_bytes(held[..8].try_into().expect("eight bytes"));
                held.drain(..8);
                if count + 1 == ROUNDS {
                    out.close(CloseMode::Flush);
                    sender.send(id).expect("the test listens");
                } else {
                    out.append(&(count + 1).to_be_bytes());
                }
            }
        });
    let client = Running::start(case, case.clients_only(), script);
    for _ in 0..CONNECTIONS {
        done.recv_timeout(LIMIT).expect("a connection ends");
    }
    for _ in 0..CONNECTIONS {
        let cause =
            client.wait_for(|e| if let Event::Closed(_, cause) = e { Some(cause) } else { None });
        assert!(matches!(cause, Cause::PeerClosed), "{cause:?}");
    }
    let (counters, _) = client.finish();
    assert_eq!((counters.connected, counters.closed), (CONNECTIONS, CONNECTIONS));
    assert_eq!(counters.bytes_out, 8 * ROUNDS * CONNECTIONS);
    let (counters, _) = server.finish();
    assert_eq!(counters.bytes_in, 8 * ROUNDS * CONNECTIONS);
}

pub(crate) fn spinning_changes_nothing(case: &Case) {
    for spin in [Spin::For(Duration::from_micros(200)), Spin::Always] {
        let mut config = case.config();
        config.spin = spin;
        let script = Script::echo().opened(|_, out| {
            let at = out.now() + Duration::from_millis(30);
            out.set_deadline(Some(at));
        });
        let running = Running::start(case, config, script);
        let mut client = running.connect();
        for round in 0..100 {
            round_trip(&mut client, &pattern(100, round));
        }
        running.wait_for(|e| matches!(e, Event::Deadline(..)).then_some(()));
        let mut rest = [0; 1];
        client.shutdown(std::net::Shutdown::Write).expect("shutdown");
        assert_eq!(client.read(&mut rest).expect("an orderly end"), 0);
        running.finish();
    }
}

//! Too few buffers, too small a queue, or a flooding neighbour: slower, never wrong, and no
//! connection starves.
//!
//! Settings of io_uring alone are used on the other engines as well, where they must change
//! nothing.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use engine::{Config, ConnId, Counters, EngineKind};

use crate::stage::{Case, LIMIT, Random, Running, Script, expect, pattern, read_to_end};

/// Returns the configuration of an echo server with `buffers` receive buffers of `size` bytes.
fn with_buffers(case: &Case, buffers: u16, size: u32) -> Config {
    let mut config = case.config();
    (config.uring.buffers, config.uring.buffer_size) = (buffers, size);
    config.receive_buffer = size as usize;
    config
}

/// Every client writes its bytes in pieces while it reads them back, all clients at once.
fn all_talk(running: &Running, clients: u64, bytes_each: usize) {
    let addr = running.addr;
    let talk = |client: u64| {
        thread::spawn(move || {
            let mut stream = crate::stage::client(addr);
            let bytes = Arc::new(pattern(bytes_each, client));
            let writer = {
                let (mut stream, bytes) = (stream.try_clone().expect("clone"), bytes.clone());
                thread::spawn(move || write_in_pieces(&mut stream, &bytes, client))
            };
            assert!(read_to_end(&mut stream) == *bytes, "client {client}: other bytes came back");
            writer.join().expect("writer");
        })
    };
    let threads: Vec<_> = (0..clients).map(talk).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a client"));
}

fn write_in_pieces(stream: &mut TcpStream, bytes: &[u8], seed: u64) {
    let (mut random, mut at) = (Random(seed), 0);
    while at < bytes.len() {
        let len = random.upto(5000).min(bytes.len() - at);
        stream.write_all(&bytes[at..at + len]).expect("write");
        at += len;
    }
    stream.shutdown(Shutdown::Write).expect("shutdown");
}

pub(crate) fn a_ring_of_two_buffers(case: &Case) {
    const CLIENTS: u64 = 25;
    const EACH: usize = 60_000;
    let running = Running::start(case, with_buffers(case, 2, 512), Script::echo());
    all_talk(&running, CLIENTS, EACH);
    let (counters, _) = running.finish();
    assert_eq!(counters.bytes_out, CLIENTS * EACH as u64);
    // Without a shortage the scenario would not have tested anything.
    assert!(counters.enobufs > 0 || case.kind != EngineKind::Uring, "{counters:?}");
}

pub(crate) fn buffers_of_one_byte(case: &Case) {
    // Enough buffers that a turn's output is more pieces than one send takes.
    let running = Running::start(case, with_buffers(case, 64, 1), Script::echo());
    let mut client = running.connect();
    let bytes = pattern(3000, 1);
    client.write_all(&bytes).expect("write");
    for byte in &bytes {
        expect(&mut client, &[*byte]);
    }
    all_talk(&running, 3, 2000);
    let (counters, _) = running.finish();
    assert_eq!((counters.bytes_in, counters.bytes_out), (9000, 9000));
}

/// More completions at once than the queue holds: the kernel keeps them back, and the engine
/// handles each of them later.
pub(crate) fn a_tiny_completion_queue(case: &Case) {
    const CLIENTS: usize = 200;
    let mut config = case.config();
    (config.uring.sq_entries, config.uring.cq_entries) = (2, 4);
    let running = Running::start(case, config, Script::echo());
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| running.connect()).collect();
    for _ in 0..CLIENTS {
        running.wait_opened();
    }
    for round in 0..5u64 {
        hold_while(&running, || {
            for (client, stream) in clients.iter_mut().enumerate() {
                stream.write_all(&pattern(700, round << 32 | client as u64)).expect("write");
            }
        });
        for (client, stream) in clients.iter_mut().enumerate() {
            expect(stream, &pattern(700, round << 32 | client as u64));
        }
    }
    drop(clients);
    let counters = all_closed(running, CLIENTS);
    assert_eq!((counters.bytes_in, counters.bytes_out), (700_000, 700_000));
    assert!(counters.overflows > 0 || case.kind != EngineKind::Uring, "{counters:?}");
}

/// Connections whose receives queue for a buffer: each is read, also when those before it in the
/// queue have no more input.
pub(crate) fn large_messages_of_all_and_then_of_each_alone(case: &Case) {
    const CLIENTS: usize = 8;
    const BYTES: usize = 40_000;
    let running = Running::start(case, case.config(), Script::echo());
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| running.connect()).collect();
    for _ in 0..CLIENTS {
        running.wait_opened();
    }
    for round in 0..5 {
        let bytes = pattern(BYTES, round);
        hold_while(&running, || {
            clients.iter_mut().for_each(|stream| stream.write_all(&bytes).expect("write"));
        });
        clients.iter_mut().for_each(|stream| expect(stream, &bytes));
    }
    for (client, stream) in clients.iter_mut().enumerate().rev() {
        let bytes = pattern(BYTES, client as u64);
        stream.write_all(&bytes).expect("write");
        expect(stream, &bytes);
    }
    drop(clients);
    let counters = all_closed(running, CLIENTS);
    assert_eq!(counters.bytes_out, 6 * (CLIENTS * BYTES) as u64);
}

/// Blocks the worker in the middle of a turn while `f` runs.
fn hold_while(running: &Running, f: impl FnOnce()) {
    let (release, held) = channel::<()>();
    let (entered, is_held) = channel();
    running.post(move |_| {
        entered.send(()).expect("the test waits");
        held.recv_timeout(LIMIT).expect("the test goes on");
    });
    is_held.recv_timeout(LIMIT).expect("the worker has taken the command");
    f();
    release.send(()).expect("the worker waits");
}

fn all_closed(running: Running, count: usize) -> Counters {
    for _ in 0..count {
        running.wait_for(|event| matches!(event, crate::stage::Event::Closed(..)).then_some(()));
    }
    running.finish().0
}

/// Most turns that a message of another connection may wait beside a connection that sends without
/// end.
const TURNS_TO_WAIT: u64 = 40;

/// Most receives of that connection in one turn: all buffers of the ring, and some on the other
/// engines. Without this bound a bound of turns means nothing.
fn most_in_a_turn(case: &Case) -> usize {
    if case.kind == EngineKind::Uring { 64 } else { 16 }
}

pub(crate) fn one_flooder_beside_two_hundred(case: &Case) {
    flooder_beside_two_hundred(case, 4096);
}

/// Large receives queue for a buffer, and the flooder always has more to read.
pub(crate) fn one_flooder_of_large_receives_beside_two_hundred(case: &Case) {
    flooder_beside_two_hundred(case, 32 << 10);
}

fn flooder_beside_two_hundred(case: &Case, buffer_size: u32) {
    const CLIENTS: usize = 200;
    const ROUNDS: usize = 20;
    let watch = Watch::default();
    let running = Running::start(case, with_buffers(case, 64, buffer_size), watch.script());
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| running.connect()).collect();
    let flood = Flood::start(&running);
    let mut longest = 0;
    for _ in 0..ROUNDS {
        let mut written = Vec::with_capacity(CLIENTS);
        for (client, stream) in clients.iter_mut().enumerate() {
            stream.write_all(&[client as u8]).expect("write");
            written.push(watch.turns.load(Ordering::Relaxed));
        }
        for (client, stream) in clients.iter_mut().enumerate() {
            expect(stream, &[client as u8]);
        }
        let mut received = watch.received.lock().expect("lock");
        for (client, written) in written.iter().enumerate() {
            let turn = received.remove(&(client as u8)).expect("echoed, so received");
            longest = longest.max(turn.saturating_sub(*written));
        }
    }
    flood.stop();
    drop(clients);
    running.finish();
    let flooded = watch.most_flooded.load(Ordering::Relaxed);
    println!(
        "{}: waited {longest} turns at most; the flood had {flooded} bytes in a turn",
        case.name
    );
    assert!(longest <= TURNS_TO_WAIT, "a message waited for {longest} turns");
    let most = most_in_a_turn(case) * buffer_size as usize;
    assert!(flooded <= most, "{flooded} bytes of the flood in one turn");
}

/// Record of the turns beside a flood. The other clients send single bytes, each its number.
#[derive(Default, Clone)]
struct Watch {
    turns: Arc<AtomicU64>,
    /// Turn in which each connection's byte came.
    received: Arc<Mutex<HashMap<u8, u64>>>,
    /// Bytes of the flood in this turn, and the most in any turn.
    flooded: Arc<AtomicUsize>,
    most_flooded: Arc<AtomicUsize>,
}

impl Watch {
    fn script(&self) -> Script {
        let (inside, at_end) = (self.clone(), self.clone());
        let mut flooder: Option<ConnId> = None;
        Script::echo()
            .received(move |id, bytes, out| {
                out.echo(0..bytes.len());
                if bytes.len() > 1 {
                    flooder = Some(id);
                }
                if flooder == Some(id) {
                    inside.flooded.fetch_add(bytes.len(), Ordering::Relaxed);
                } else {
                    let turn = inside.turns.load(Ordering::Relaxed);
                    inside.received.lock().expect("lock").insert(bytes[0], turn);
                }
            })
            .turn_end(move |_| {
                at_end.turns.fetch_add(1, Ordering::Relaxed);
                let flooded = at_end.flooded.swap(0, Ordering::Relaxed);
                at_end.most_flooded.fetch_max(flooded, Ordering::Relaxed);
            })
    }
}

/// A connection that sends and reads as fast as it can.
struct Flood {
    stopped: Arc<AtomicBool>,
    writer: thread::JoinHandle<()>,
    reader: thread::JoinHandle<()>,
}

impl Flood {
    /// Starts the connection and returns when the flood flows.
    fn start(running: &Running) -> Self {
        let mut stream = running.connect();
        let mut reading = stream.try_clone().expect("clone");
        let stopped = Arc::new(AtomicBool::new(false));
        let until = stopped.clone();
        let (flowing, flows) = channel();
        let writer = thread::spawn(move || {
            let chunk = vec![0xff; 256 << 10];
            while !until.load(Ordering::Relaxed) {
                stream.write_all(&chunk).expect("write");
            }
            stream.shutdown(Shutdown::Write).expect("shutdown");
        });
        let reader = thread::spawn(move || {
            let mut some = vec![0; 256 << 10];
            while reading.read(&mut some).expect("read") > 0 {
                let _ = flowing.send(());
            }
        });
        flows.recv_timeout(LIMIT).expect("the flood comes back");
        Self { stopped, writer, reader }
    }

    fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.writer.join().expect("writer");
        self.reader.join().expect("reader");
    }
}

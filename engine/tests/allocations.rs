//! Engines allocate nothing per message in steady state, whatever kind of output the handler uses.
//!
//! The tokio-uring engine is left out: that runtime allocates for its own operations.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use engine::{
    Cause, Config, ConnId, EngineKind, Handler, Listener, Origin, Output, Remote, SendCompletions,
    Worker,
};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and the test does not read it.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came; counting touches a
// constant-initialised thread-local only, which allocates nothing.
#[allow(unsafe_code, reason = "an allocator is unsafe to implement; this one only counts")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Way in which the handler answers.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Echo,
    Append,
    Give,
    /// Two pieces of each kind.
    Mixed,
    /// In `turn_end`, through `Worker::with`.
    AtTurnEnd,
}

/// Handler that answers, sets a deadline with every call as a server does, and sends its thread's
/// count when it is woken.
struct Answer {
    kind: Kind,
    told: Sender<u64>,
    due: Vec<(ConnId, usize)>,
}

impl Answer {
    fn answer(&mut self, id: ConnId, bytes: &[u8], out: &mut Output<'_>) {
        match self.kind {
            Kind::Echo => out.echo(0..bytes.len()),
            Kind::Append => out.append(bytes),
            Kind::Give => {
                let mut buffer = out.buffer();
                buffer.extend_from_slice(bytes);
                out.give(buffer);
            }
            Kind::Mixed => {
                let half = bytes.len() / 2;
                out.echo(0..half);
                let mut buffer = out.buffer();
                buffer.extend_from_slice(&bytes[half..]);
                out.give(buffer);
            }
            Kind::AtTurnEnd => self.due.push((id, bytes.len())),
        }
    }
}

impl Handler for Answer {
    type Conn = ();

    fn start(&mut self, _: &mut Worker<'_, Self>) {}

    fn opened(&mut self, _: ConnId, _: Origin, _: &mut Output<'_>) {}

    fn connect_failed(&mut self, _: &mut Worker<'_, Self>, _: u64, _: io::Error) {}

    fn received(&mut self, id: ConnId, (): &mut (), bytes: &mut [u8], out: &mut Output<'_>) {
        out.set_deadline(Some(out.now() + Duration::from_secs(60)));
        self.answer(id, bytes, out);
    }

    fn eof(&mut self, _: ConnId, (): &mut (), _: &mut Output<'_>) {}

    fn drained(&mut self, _: ConnId, (): &mut (), _: &mut Output<'_>) {}

    fn deadline(&mut self, _: ConnId, (): &mut (), _: &mut Output<'_>) {}

    fn closed(&mut self, _: ConnId, (): (), _: Cause) {}

    fn alarm(&mut self, _: &mut Worker<'_, Self>) {}

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        if bits & 2 != 0 {
            w.stop();
            return;
        }
        let so_far = ALLOCATIONS.with(Cell::get);
        self.told.send(so_far).expect("the test listens");
    }

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        while let Some((id, len)) = self.due.pop() {
            w.with(id, |(), out| {
                out.reserve(len).fill(7);
                out.commit(len);
            });
        }
    }
}

/// Sends `rounds` messages on each connection, one after the other, and reads the answers.
fn exchange(clients: &mut [TcpStream], len: usize, rounds: usize) {
    let message = vec![7; len];
    let mut back = vec![0; len];
    for _ in 0..rounds {
        for client in clients.iter_mut() {
            client.write_all(&message).expect("write");
        }
        for client in clients.iter_mut() {
            client.read_exact(&mut back).expect("read");
            assert!(back == message);
        }
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(addr).expect("connect");
    client.set_nodelay(true).expect("nodelay");
    client.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    client
}

/// Returns the worker's allocations during the second of two equal stretches. The first one brings
/// it into steady state.
fn allocations(
    engine: EngineKind,
    completions: SendCompletions,
    kind: Kind,
    len: usize,
    rounds: usize,
) -> u64 {
    let (remote, inbox) = engine::remote().expect("eventfd");
    let (told, asked) = channel();
    let mut config = Config::default();
    config.uring.send_completions = completions;
    let socket =
        engine::socket::listen(SocketAddr::from(([127, 0, 0, 1], 0)), 1).expect("listen").remove(0);
    let addr = socket.local_addr().expect("address");
    config.listeners.push(Listener { socket, peer_addresses: false });
    let worker = thread::spawn(move || {
        let mut handler = Answer { kind, told, due: Vec::new() };
        engine::run(engine, &config, inbox, &mut handler).map(drop)
    });
    let ask = |remote: &Remote| {
        remote.wake(1);
        asked.recv_timeout(Duration::from_secs(30)).expect("the worker answers")
    };
    let mut clients: Vec<_> = (0..8).map(|_| connect(addr)).collect();
    exchange(&mut clients, len, rounds);
    // The channel has allocated its first blocks by then.
    for _ in 0..40 {
        ask(&remote);
    }
    let before = ask(&remote);
    exchange(&mut clients, len, rounds);
    let counted = ask(&remote) - before;
    remote.wake(2);
    worker.join().expect("the worker ends").expect("the engine runs");
    counted
}

#[test]
fn none_for_a_message() {
    let engines = [
        (EngineKind::Epoll, SendCompletions::Auto),
        (EngineKind::Uring, SendCompletions::Auto),
        (EngineKind::Uring, SendCompletions::All),
    ];
    for (engine, completions) in engines {
        if let Err(reason) = engine.probe() {
            let _ = writeln!(io::stderr(), "skipped: allocations of {engine}: {reason}");
            continue;
        }
        for kind in [Kind::Echo, Kind::Append, Kind::Give, Kind::Mixed, Kind::AtTurnEnd] {
            for (len, rounds) in [(32, 500), (64 << 10, 100)] {
                let counted = allocations(engine, completions, kind, len, rounds);
                // There are 8 connections: one allocation per message would be thousands. A list
                // that grows late allocates once, not per message.
                let messages = 8 * rounds as u64;
                let few = messages / 50;
                assert!(
                    counted <= few,
                    "{engine} ({completions:?}), {kind:?}, {len} bytes: {counted} for {messages} messages"
                );
                println!(
                    "{engine} ({completions:?}), {kind:?}, {len} bytes: {counted} for {messages} messages"
                );
            }
        }
    }
}

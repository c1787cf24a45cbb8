//! Connections that workers spread evenly among themselves.
//!
//! Most tests give each worker an address of its own, so that it is known which one accepts.

use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use engine::rustls;
use engine::{Cause, CloseMode, Config, EngineKind, Listener, Origin, SpreadMember};

use crate::stage::{
    Case, Event, LIMIT, Random, Running, Script, client, loopback, pattern, read_to_end, round_trip,
};
use crate::tls;

/// Workers of a spread.
struct Team {
    workers: Vec<Running>,
    /// End of a worker that never runs.
    counts: SpreadMember,
}

impl Team {
    /// Starts workers on these addresses; `change` has the last word on each configuration. `None`,
    /// with a visible line, where the kernel cannot hand connections over.
    fn start(
        case: &Case,
        addresses: &[SocketAddr],
        change: impl Fn(usize, &mut Config),
        run: impl Fn(Config) -> Running,
    ) -> Option<Self> {
        let mut ends = engine::spread(addresses.len() + 1);
        let counts = ends.pop().expect("an end more");
        let start = |(index, (&address, spread)): (usize, (&SocketAddr, SpreadMember))| {
            let mut config = case.clients_only();
            // The rings of all workers share the memory that may be locked.
            (config.uring.sq_entries, config.uring.cq_entries) = (64, 256);
            config.uring.buffers = 16;
            let socket = engine::socket::listen(address, 1).expect("listen").remove(0);
            config.listeners.push(Listener { socket, peer_addresses: true });
            config.spread = Some(spread);
            change(index, &mut config);
            run(config)
        };
        let workers: Vec<_> = addresses.iter().zip(ends).enumerate().map(start).collect();
        // A worker that answers has joined.
        workers.iter().for_each(|worker| worker.ask(|_| {}));
        let team = Self { workers, counts };
        let first = team.connect_to(0);
        while team.open().iter().sum::<usize>() == 0 {}
        if team.counts().iter().sum::<usize>() == 0 {
            case.skip("the kernel cannot hand connections over between rings");
            return None;
        }
        drop(first);
        team.wait_for(0);
        team.workers.iter().for_each(|worker| drop(worker.events_so_far()));
        Some(team)
    }

    fn echo(case: &Case, workers: usize) -> Option<Self> {
        Self::start(
            case,
            &vec![loopback(0); workers],
            |_, _| {},
            |config| Running::start(case, config, Script::echo()),
        )
    }

    /// Connects to the listener of a worker.
    fn connect_to(&self, worker: usize) -> TcpStream {
        client(self.workers[worker].addr)
    }

    fn counts(&self) -> Vec<usize> {
        counts(&self.counts)
    }

    /// Waits until `all` connections are counted: a worker hears of an end later.
    fn wait_for(&self, all: usize) {
        let since = Instant::now();
        while self.counts().iter().sum::<usize>() != all {
            assert!(since.elapsed() < LIMIT, "{:?} instead of {all}", self.counts());
            thread::yield_now();
        }
    }

    /// Returns the connections that each worker's handler knows.
    fn open(&self) -> Vec<usize> {
        self.workers.iter().map(|worker| worker.ask(|w| w.connections())).collect()
    }

    fn finish(self) {
        let Self { workers, .. } = self;
        workers.into_iter().for_each(|worker| drop(worker.finish()));
    }
}

/// Returns the counts that the end of a worker tells which never runs.
fn counts(end: &SpreadMember) -> Vec<usize> {
    let mut counts = end.connections();
    assert_eq!(counts.pop(), Some(0), "a worker that does not run");
    counts
}

/// Difference between the busiest and the idlest worker.
fn difference(counts: &[usize]) -> usize {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

/// Number of connections for which a worker takes those of others, where its table has `slots`.
fn capacity(case: &Case, slots: usize) -> usize {
    // Single accepts need room.
    slots + if case.kind == EngineKind::Uring { 64 } else { 0 }
}

/// Returns workers behind one address.
fn group(case: &Case, workers: usize) -> Option<Team> {
    let probe = engine::socket::listen(loopback(0), 1).expect("listen").remove(0);
    let address = probe.local_addr().expect("an address");
    drop(probe);
    let listeners = engine::socket::listen(address, workers).expect("listen");
    let listeners = std::cell::RefCell::new(listeners);
    Team::start(
        case,
        &vec![loopback(0); workers],
        |_, config| config.listeners[0].socket = listeners.borrow_mut().remove(0),
        |config| Running::start(case, config, Script::echo()),
    )
}

pub(crate) fn one_by_one_they_differ_by_one_at_most(case: &Case) {
    for start in [Team::echo, group] {
        let Some(team) = start(case, 16) else { return };
        let mut clients = Vec::new();
        for n in 1..=64 {
            let mut client = team.connect_to(0);
            round_trip(&mut client, b"in");
            clients.push(client);
            let counts = team.counts();
            assert_eq!(counts.iter().sum::<usize>(), n);
            assert!(difference(&counts) <= 1, "{counts:?}");
        }
        assert_eq!(team.open(), [4; 16]);
        team.finish();
    }
}

pub(crate) fn all_at_once_they_differ_by_one_at_most(case: &Case) {
    let Some(team) = group(case, 16) else { return };
    let (is_over, end) = (AtomicBool::new(false), &team.counts);
    let clients = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let counts = counts(end);
                assert!(difference(&counts) <= 1, "{counts:?}");
                thread::yield_now();
            }
        });
        let mut clients: Vec<_> = (0..64).map(|_| team.connect_to(0)).collect();
        clients.iter_mut().for_each(|client| round_trip(client, b"in"));
        is_over.store(true, Ordering::Relaxed);
        watcher.join().expect("no more than one at any time");
        clients
    });
    assert_eq!(team.open(), [4; 16]);
    drop(clients);
    team.wait_for(0);
    team.finish();
}

pub(crate) fn churn_keeps_them_within_a_tenth(case: &Case) {
    const OPEN: usize = 512;
    let Some(team) = group(case, 16) else { return };
    let mut random = Random(16);
    let mut clients = Vec::new();
    for round in 0..150 {
        while clients.len() < OPEN {
            clients.push(team.connect_to(0));
        }
        clients.iter_mut().rev().take(16).for_each(|client| round_trip(client, b"in"));
        if round > 0 {
            let counts = team.counts();
            let mean = OPEN as f64 / 16.0;
            let right = |&count: &usize| (count as f64 - mean).abs() <= mean / 10.0 + 1.0;
            assert!(counts.iter().all(right), "round {round}: {counts:?}");
        } else {
            clients.iter_mut().for_each(|client| round_trip(client, b"in"));
        }
        for _ in 0..random.upto(16) {
            let at = random.upto(clients.len()) - 1;
            drop(clients.swap_remove(at));
        }
        // An end that a worker hears of later would count for the next round.
        team.wait_for(clients.len());
    }
    drop(clients);
    team.wait_for(0);
    team.finish();
}

pub(crate) fn a_worker_without_room_gets_nothing(case: &Case) {
    let change = |index: usize, config: &mut Config| {
        if index == 1 {
            config.max_accepted = capacity(case, 2);
        }
    };
    let run = |config| Running::start(case, config, Script::echo());
    let Some(team) = Team::start(case, &[loopback(0); 2], change, run) else { return };
    let mut clients: Vec<_> = (0..9).map(|_| team.connect_to(0)).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"in"));
    assert_eq!(team.counts(), [7, 2]);
    drop(clients);
    team.wait_for(0);
    team.finish();
}

pub(crate) fn a_full_worker_keeps_others_waiting_and_loses_none(case: &Case) {
    let change = |_: usize, config: &mut Config| config.max_accepted = 3;
    let run = |config| Running::start(case, config, Script::echo());
    let Some(team) = Team::start(case, &[loopback(0); 2], change, run) else { return };
    thread::scope(|scope| {
        for n in 0..24 {
            let mut client = team.connect_to(n % 2);
            scope.spawn(move || {
                for _ in 0..5 {
                    round_trip(&mut client, b"at last");
                }
            });
        }
    });
    team.wait_for(0);
    team.finish();
}

pub(crate) fn a_worker_that_does_not_listen_gets_nothing(case: &Case) {
    let Some(team) = Team::echo(case, 2) else { return };
    team.workers[1].ask(|w| w.listening(0, false));
    let mut clients: Vec<_> = (0..6).map(|_| team.connect_to(0)).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"in"));
    assert_eq!(team.open(), [6, 0]);
    team.workers[1].ask(|w| w.listening(0, true));
    for _ in 0..6 {
        let mut client = team.connect_to(0);
        round_trip(&mut client, b"in");
        clients.push(client);
    }
    assert_eq!(team.open(), [6, 6]);
    team.finish();
}

pub(crate) fn a_worker_that_has_ended_gets_nothing(case: &Case) {
    let Some(mut team) = Team::echo(case, 3) else { return };
    let mut clients: Vec<_> = (0..6).map(|_| team.connect_to(0)).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"in"));
    assert_eq!(team.counts(), [2, 2, 2]);
    let (_, events) = team.workers.pop().expect("three").finish();
    let closed = events.iter().filter(|e| matches!(e, Event::Closed(_, Cause::Shutdown))).count();
    assert_eq!(closed, 2);
    let mut more: Vec<_> = (0..6).map(|_| team.connect_to(0)).collect();
    more.iter_mut().for_each(|client| round_trip(client, b"in"));
    assert_eq!((team.open(), team.counts()), (vec![5, 5], vec![5, 5, 0]));
    team.finish();
}

/// All workers end while connections are on their way between them.
pub(crate) fn workers_that_end_together_close_everything(case: &Case) {
    for _ in 0..10 {
        let Some(team) = Team::echo(case, 4) else { return };
        let clients: Vec<_> = (0..40).map(|n| team.connect_to(n % 4)).collect();
        for worker in &team.workers {
            worker.post(|w| w.stop());
        }
        let Team { mut workers, counts } = team;
        workers.iter_mut().for_each(|worker| drop(worker.join()));
        assert_eq!(counts.connections(), [0; 5]);
        drop(workers);
        for mut client in clients {
            // Work of the kernel for the rings that end may interrupt a read of this thread.
            let is_interrupted = |read: &io::Result<usize>| {
                read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted)
            };
            let mut reads = iter::repeat_with(|| client.read(&mut [0; 8]));
            // Closed or reset: nothing stays open.
            match reads.find(|read| !is_interrupted(read)).expect("reads without end") {
                Ok(len) => assert_eq!(len, 0),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
            }
        }
    }
}

pub(crate) fn a_connection_that_moves_has_its_peers_address(case: &Case) {
    for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let address = SocketAddr::new(ip, 0);
        let run = |config| Running::start(case, config, Script::echo());
        let Some(team) = Team::start(case, &[address; 2], |_, _| {}, run) else { return };
        for _ in 0..10 {
            let mut pair = [team.connect_to(0), team.connect_to(0)];
            pair.iter_mut().for_each(|client| round_trip(client, b"in"));
            let mut peers: Vec<_> = pair.iter().map(|c| c.local_addr().expect("bound")).collect();
            for worker in &team.workers {
                let peer = worker.wait_for(|event| match event {
                    Event::Opened(_, Origin::Accepted { listener: 0, peer }) => peer,
                    _ => None,
                });
                assert!(peers.contains(&peer), "{peer} is not among {peers:?}");
                peers.retain(|&other| other != peer);
            }
            drop(pair);
            team.wait_for(0);
        }
        team.finish();
    }
}

pub(crate) fn bytes_before_the_move_arrive(case: &Case) {
    let Some(team) = Team::echo(case, 2) else { return };
    let (go, wait) = channel::<()>();
    team.workers[0].post(move |_| {
        let _ = wait.recv();
    });
    // They are in the kernel before any worker knows the connections.
    let mut clients: Vec<_> = (0..8).map(|_| team.connect_to(0)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(format!("early {n}").as_bytes()).expect("write");
    }
    drop(go);
    for (n, client) in clients.iter_mut().enumerate() {
        crate::stage::expect(client, format!("early {n}").as_bytes());
    }
    assert_eq!(team.open(), [4, 4]);
    team.finish();
}

pub(crate) fn tls_works_on_a_connection_that_moves(case: &Case) {
    let run = |config| Running::start_tls(case, config, tls::server(), Script::echo());
    let Some(team) = Team::start(case, &[loopback(0); 2], |_, _| {}, run) else { return };
    let version = &rustls::version::TLS13;
    let mut clients: Vec<_> = (0..4).map(|_| tls::client(&team.workers[0], version)).collect();
    clients.iter_mut().for_each(|client| tls::echo_of(client, &pattern(100_000, 4)));
    assert_eq!(team.open(), [2, 2]);
    team.finish();
}

pub(crate) fn slots_of_moved_connections_are_used_again(case: &Case) {
    let change = |_: usize, config: &mut Config| config.max_accepted = capacity(case, 8);
    let script = || {
        Script::echo().received(|_, bytes, out| {
            out.echo(0..bytes.len());
            out.close(CloseMode::Finish);
        })
    };
    let run = |config| Running::start(case, config, script());
    let Some(team) = Team::start(case, &[loopback(0); 2], change, run) else { return };
    for _ in 0..300 {
        let mut pair = [team.connect_to(0), team.connect_to(0)];
        for client in &mut pair {
            client.write_all(b"bye").expect("write");
            // The end comes only when no worker has a descriptor of the connection any more.
            assert_eq!(read_to_end(client), b"bye");
        }
    }
    team.wait_for(0);
    let accepted: Vec<_> = team.workers.into_iter().map(|w| w.finish().0.accepted).collect();
    assert!(accepted.iter().all(|&n| n > 100) && accepted.iter().sum::<u64>() >= 600);
}

//! Listeners, the table's bounds, descriptors.

use std::net::{TcpListener, TcpStream};
use std::process::Command;

use engine::{Cause, CloseMode, Listener};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::stage::{Case, Event, Running, Script, loopback, round_trip};

pub(crate) fn listening_off_and_on(case: &Case) {
    let running = Running::echo(case);
    let mut open = running.connect();
    running.wait_opened();
    assert_eq!(running.ask(|w| w.local_addr(0)), Some(running.addr));
    assert_eq!(running.ask(|w| w.local_addr(1)), None);
    running.ask(|w| w.listening(0, false));
    running.some_turns();
    // The kernel queues the connection; the worker does not take it.
    let mut queued = running.connect();
    for _ in 0..20 {
        round_trip(&mut open, b"goes on");
    }
    assert!(!running.events_so_far().iter().any(|e| matches!(e, Event::Opened(..))), "accepted while off");
    running.ask(|w| w.listening(0, true));
    running.wait_opened();
    round_trip(&mut queued, b"at last");
    // Off and on within a turn changes nothing.
    running.ask(|w| {
        w.listening(0, false);
        w.listening(0, true);
    });
    let mut third = running.connect();
    round_trip(&mut third, b"me too");
    running.finish();
}

pub(crate) fn the_table_is_full_and_recovers(case: &Case) {
    let mut config = case.config();
    config.max_accepted = 3;
    config.max_connects = 0;
    let running = Running::start(case, config, Script::echo());
    let mut clients: Vec<_> = (0..3).map(|_| running.connect()).collect();
    for client in &mut clients {
        round_trip(client, b"in");
    }
    for _ in 0..3 {
        running.wait_opened();
    }
    for round in 0..5 {
        let mut late = running.connect();
        for client in &mut clients {
            round_trip(client, b"undisturbed");
        }
        assert_eq!(running.ask(|w| w.connections()), 3);
        assert!(!running.events_so_far().iter().any(|e| matches!(e, Event::Opened(..))), "round {round}");
        drop(clients.remove(0));
        running.wait_opened();
        round_trip(&mut late, b"now in");
        clients.push(late);
    }
    let (counters, _) = running.finish();
    assert_eq!(counters.accepted, 8);
    assert!(counters.accept_pauses >= 1);
}

pub(crate) fn a_thousand_connections(case: &Case) {
    const COUNT: usize = 1000;
    if engine::socket::raise_file_limit() < 3 * COUNT as u64 {
        eprintln!("skipped: the limit on open files is too low for {COUNT} connections");
        return;
    }
    let running = Running::echo(case);
    let mut clients: Vec<TcpStream> = (0..COUNT).map(|_| running.connect()).collect();
    for round in 0..3u8 {
        for (i, client) in clients.iter_mut().enumerate() {
            let message = [round, i as u8, (i >> 8) as u8];
            std::io::Write::write_all(client, &message).expect("write");
        }
        for (i, client) in clients.iter_mut().enumerate() {
            crate::stage::expect(client, &[round, i as u8, (i >> 8) as u8]);
        }
    }
    assert_eq!(running.ask(|w| (w.connections(), w.ids().len())), (COUNT, COUNT));
    drop(clients);
    for _ in 0..COUNT {
        running.wait_for(|e| matches!(e, Event::Closed(_, Cause::PeerClosed)).then_some(()));
    }
    let (counters, _) = running.finish();
    assert_eq!((counters.accepted, counters.closed), (COUNT as u64, COUNT as u64));
}

pub(crate) fn slots_are_used_again_under_new_ids(case: &Case) {
    let mut config = case.config();
    config.max_accepted = 2;
    config.max_connects = 0;
    let running = Running::start(case, config, Script::echo());
    let mut seen = Vec::new();
    for _ in 0..50 {
        let mut client = running.connect();
        let id = running.wait_opened();
        assert!(id.slot < 2 && !seen.contains(&id), "{id:?}");
        round_trip(&mut client, b"me");
        for old in seen.iter().copied() {
            assert!(running.with(old, |out| out.append(b"not me")).is_none());
        }
        if seen.len() % 2 == 0 {
            running.with(id, |out| out.close(CloseMode::Abort));
        } else {
            drop(client);
        }
        running.wait_closed(id);
        seen.push(id);
    }
    running.finish();
}

/// The limit on open files belongs to a process: the scenario runs in one of its own, this test once more.
pub(crate) fn descriptors_run_out_and_come_back(case: &Case) {
    const CHILD: &str = "SPARRING_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_some() {
        return few_descriptors(case);
    }
    let test = std::thread::current().name().expect("a test's thread has its name").to_owned();
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .expect("spawn");
    let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}

fn few_descriptors(case: &Case) {
    let running = Running::echo(case);
    let mut first = running.connect();
    let first_id = running.wait_opened();
    round_trip(&mut first, b"in");
    // Descriptors for the clients' ends only: the server's accepts find none. A direct descriptor of io_uring is none.
    let mut clients: Vec<TcpStream> = Vec::new();
    let limit = getrlimit(Resource::Nofile);
    let used = std::fs::read_dir("/proc/self/fd").expect("proc").count() as u64;
    let few = Rlimit { current: Some(used + 8), maximum: limit.maximum };
    setrlimit(Resource::Nofile, few).expect("limit");
    for _ in 0..200 {
        match TcpStream::connect(running.addr) {
            Ok(client) => clients.push(client),
            Err(_) => break,
        }
    }
    assert!(!clients.is_empty());
    for _ in 0..20 {
        round_trip(&mut first, b"served all the same");
    }
    let turns_are_bounded = running.ask(|w| w.connections());
    assert!(turns_are_bounded <= clients.len() + 1);
    setrlimit(Resource::Nofile, limit).expect("limit");
    for client in clients {
        let mut client = crate::stage::bounded(client);
        round_trip(&mut client, b"in the end");
    }
    assert!(running.with(first_id, |_| {}).is_some());
    running.finish();
}

/// Whoever hands over a listener that blocks does not block the worker.
pub(crate) fn a_blocking_listener_does_not_stop_the_worker(case: &Case) {
    let mut config = case.clients_only();
    let socket = TcpListener::bind(loopback(0)).expect("bind");
    config.listeners.push(Listener { socket, peer_addresses: false });
    let running = Running::start(case, config, Script::echo());
    let mut client = running.connect();
    round_trip(&mut client, b"first");
    running.some_turns();
    let mut second = running.connect();
    round_trip(&mut second, b"second");
    round_trip(&mut client, b"third");
    running.finish();
}

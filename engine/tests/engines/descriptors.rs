//! Descriptors and locked memory run out, and become available again.

use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::{Connect, EngineError, EngineKind};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::stage::{
    Case, Event, LIMIT, Running, Script, bounded, in_a_process_of_its_own, loopback, pattern,
    round_trip,
};

/// Number of connections: enough to cross every table's page, and one second of a debug build.
const MANY: u64 = 4000;

/// Checks that an engine that waits for descriptors takes few turns: it retries every 100 ms, and
/// the test wakes it.
fn assert_turns_stay_few(turns: &AtomicU64, running: &Running) {
    let (before, since) = (turns.load(Ordering::Relaxed), Instant::now());
    std::thread::sleep(Duration::from_millis(350));
    running.some_turns();
    let took = since.elapsed();
    let made = turns.load(Ordering::Relaxed) - before;
    let allowed = 40 + took.as_millis() as u64 / 20;
    assert!(made <= allowed, "{made} turns in {took:?} without anything to do");
}

fn set_file_limit(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).expect("limit");
}

/// Leaves descriptors for `more` files. The limit is on their numbers, so all gaps among those in
/// use must be filled; the returned descriptors fill them.
fn leave_room_for(more: u64) -> Vec<OwnedFd> {
    let numbers = std::fs::read_dir("/proc/self/fd").expect("proc").flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let end = numbers.max().expect("standard streams at least");
    set_file_limit(end);
    let null = || std::fs::File::open("/dev/null").map(OwnedFd::from).ok();
    let fillers = std::iter::from_fn(null).collect();
    set_file_limit(end + more);
    fillers
}

/// Returns sockets that are not connected yet: connecting them later needs no more descriptors.
fn sockets(count: usize) -> Vec<OwnedFd> {
    let socket = || {
        rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("socket")
    };
    (0..count).map(|_| socket()).collect()
}

fn connect(socket: OwnedFd, to: SocketAddr) -> TcpStream {
    rustix::net::connect(&socket, &to).expect("connect");
    bounded(socket.into())
}

fn wait_until_open(running: &Running, count: usize) {
    let since = Instant::now();
    while running.ask(|w| w.connections()) < count {
        assert!(
            since.elapsed() < LIMIT,
            "{} of {count} are open",
            running.ask(|w| w.connections())
        );
    }
}

/// Covers EMFILE for engines whose connections are descriptors of the process, and a full table
/// where they are direct descriptors.
pub(crate) fn as_many_connections_as_descriptors_allow(case: &Case) {
    in_a_process_of_its_own(|| {
        let allowed = engine::socket::raise_file_limit();
        if allowed < 1024 {
            return case.skip(format_args!("the limit on open files is {allowed}"));
        }
        let clients = (allowed.saturating_sub(500) / 2).min(MANY) as usize;
        let beyond = (clients / 4).min(150);
        let most = clients - beyond;
        let mut config = case.config();
        config.max_connects = 0;
        if case.kind == EngineKind::Uring {
            config.max_accepted = most;
        }
        let (script, turns) = Script::echo().counting_turns();
        let running = Running::start(case, config, script);
        let mut sockets = sockets(clients);
        // The engine has every descriptor that it needs itself when it answers.
        running.some_turns();
        let _fillers = (case.kind != EngineKind::Uring).then(|| leave_room_for(most as u64));
        let late = sockets.split_off(most);
        let mut clients: Vec<TcpStream> =
            sockets.into_iter().map(|s| connect(s, running.addr)).collect();
        wait_until_open(&running, most);
        // The kernel queues them; the worker has no descriptors for them.
        let mut late: Vec<TcpStream> = late.into_iter().map(|s| connect(s, running.addr)).collect();
        for client in &mut clients {
            round_trip(client, b"served");
        }
        assert_turns_stay_few(&turns, &running);
        assert_eq!(running.ask(|w| w.connections()), most);

        // Each connection that closes makes room for one that waits; the clients' own descriptors
        // stay taken.
        for client in &clients[..beyond / 3] {
            client.shutdown(Shutdown::Both).expect("shutdown");
        }
        for client in &mut late[..beyond / 3] {
            round_trip(client, b"in at last");
        }
        assert_eq!(running.ask(|w| w.connections()), most);
        drop(clients);
        set_file_limit(allowed);
        for client in &mut late {
            round_trip(client, b"all of them");
        }
        let (counters, _) = running.finish();
        assert_eq!(counters.accepted, (most + beyond) as u64);
        assert!(counters.accept_pauses > 0);
    });
}

/// Every engine makes the socket of an outgoing connection by socket(2).
pub(crate) fn connects_without_descriptors_fail_and_recover(case: &Case) {
    in_a_process_of_its_own(|| {
        let listener = TcpListener::bind(loopback(0)).expect("bind");
        let to = listener.local_addr().expect("address");
        let connect = move |tag| Connect { to, from: None, tag, timeout: LIMIT };
        let (script, turns) = Script::echo().counting_turns();
        let mut config = case.clients_only();
        // So small that the failures would use up all slots if they kept them.
        config.max_connects = 3;
        let running = Running::start(case, config, script);
        running.ask(move |w| w.connect(connect(0)));
        running.wait_opened();
        let mut first = bounded(listener.accept().expect("accept").0);
        let allowed = getrlimit(Resource::Nofile).current.expect("a limit");
        let fillers = leave_room_for(0);
        running.ask(move |w| (1..=20).for_each(|tag| w.connect(connect(tag))));
        for expected in 1..=20 {
            let (tag, error) = running.wait_for(|event| match event {
                Event::ConnectFailed(tag, error) => Some((tag, error)),
                _ => None,
            });
            assert_eq!((tag, error.raw_os_error()), (expected, Some(libc_emfile())));
        }
        round_trip(&mut first, b"served all the same");
        assert_turns_stay_few(&turns, &running);
        set_file_limit(allowed);
        drop(fillers);
        running.ask(move |w| w.connect(connect(21)));
        running.wait_opened();
        let mut second = bounded(listener.accept().expect("accept").0);
        round_trip(&mut second, b"and this one");
        running.finish();
    });
}

fn libc_emfile() -> i32 {
    rustix::io::Errno::MFILE.raw_os_error()
}

/// A table of direct descriptors may not be larger than the limit on open files: the engine reports
/// that at the start, not later.
pub(crate) fn a_table_beyond_the_limit_is_refused_or_starves_gently(case: &Case) {
    in_a_process_of_its_own(|| {
        let mut config = case.config();
        config.max_accepted = 10_000;
        set_file_limit(200);
        let mut running = Running::start(case, config, Script::echo());
        if case.kind == EngineKind::Uring {
            let ended = running.wait_for_end().expect("no panic");
            let error = ended.expect_err("the table cannot be made");
            assert!(matches!(error, EngineError::Descriptors { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("ulimit -n") && text.contains("limit "), "{text}");
        } else {
            let mut client = running.connect();
            round_trip(&mut client, b"works");
            running.finish();
        }
    });
}

/// Covers a limit on locked memory, which root does not have. An engine that starts must also
/// serve.
pub(crate) fn little_locked_memory_as_an_ordinary_user(case: &Case) {
    in_a_process_of_its_own(|| {
        if rustix::process::geteuid().is_root() && become_nobody().is_err() {
            return case.skip("root may not become an ordinary user here");
        }
        for bytes in [0, 16 << 10, 256 << 10] {
            let maximum = getrlimit(Resource::Memlock).maximum;
            setrlimit(Resource::Memlock, Rlimit { current: Some(bytes), maximum })
                .expect("lower than before");
            let mut config = case.config();
            (config.uring.sq_entries, config.uring.cq_entries) = (4096, 16_384);
            let mut running = Running::start(case, config, Script::echo());
            let mut client = running.connect();
            match answer(&mut client) {
                Ok(()) => {
                    round_trip(&mut client, &pattern(100_000, bytes));
                    running.finish();
                }
                Err(error) => {
                    assert!(
                        error.kind() != ErrorKind::WouldBlock,
                        "neither served nor refused: {error}"
                    );
                    let refused =
                        running.wait_for_end().expect("no panic").expect_err("it has ended");
                    let text = refused.to_string();
                    assert!(matches!(refused, EngineError::Memlock { .. }), "{text}");
                    assert!(text.contains("ulimit -l") && text.contains("limit "), "{text}");
                }
            }
        }
    });
}

/// Changes the user of this thread and of those it starts: in Linux credentials belong to a thread
/// (setuid(2), notes).
fn become_nobody() -> rustix::io::Result<()> {
    use rustix::process::{Gid, Uid};
    let (user, group) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)
}

/// Returns an error unless the peer answers.
fn answer(client: &mut TcpStream) -> std::io::Result<()> {
    use std::io::{Read, Write};
    client.write_all(b"?")?;
    client.read_exact(&mut [0])
}

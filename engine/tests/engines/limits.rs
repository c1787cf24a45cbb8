//! Listeners, and bounds of the connection table.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use engine::{Cause, CloseMode, ConnId, Listener, Origin};

use crate::stage::{Case, Event, Random, Running, Script, loopback, round_trip};

pub(crate) fn listening_off_and_on(case: &Case) {
    let running = Running::echo(case);
    let mut open = running.connect();
    running.wait_opened();
    assert_eq!(running.ask(|w| w.local_addr(0)), Some(running.addr));
    assert_eq!(running.ask(|w| w.local_addr(1)), None);
    running.ask(|w| w.listening(0, false));
    running.some_turns();
    // The kernel queues the connection; the worker does not accept it.
    let mut queued = running.connect();
    for _ in 0..20 {
        round_trip(&mut open, b"goes on");
    }
    assert!(
        !running.events_so_far().iter().any(|e| matches!(e, Event::Opened(..))),
        "accepted while off"
    );
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
        assert!(
            !running.events_so_far().iter().any(|e| matches!(e, Event::Opened(..))),
            "round {round}"
        );
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

/// Opens many short connections over few slots, dropped at any point: what one of them sent or was
/// owed never reaches the next.
pub(crate) fn slots_used_again_keep_bytes_apart(case: &Case) {
    const SLOTS: usize = 4;
    const EACH: u64 = 60;
    let mut config = case.config();
    config.max_accepted = SLOTS;
    config.max_connects = 0;
    let mut tags: HashMap<ConnId, u8> = HashMap::new();
    let script = Script::echo().received(move |id, bytes, out| {
        let tag = *tags.entry(id).or_insert(bytes[0]);
        assert!(bytes.iter().all(|&byte| byte == tag), "bytes of two connections in one");
        // More than fits: something is always still on its way when the peer closes.
        out.append(&[tag; 3000]);
        out.echo(0..bytes.len());
    });
    let running = Running::start(case, config, script);
    let addr = running.addr;
    let clients: Vec<_> = (0..2 * SLOTS as u64)
        .map(|client| {
            thread::spawn(move || {
                let mut random = Random(client);
                for round in 0..EACH {
                    let tag = (client * EACH + round) as u8;
                    visit(addr, tag, &mut random);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("every byte that came was its own");
    }
    let (counters, _) = running.finish();
    assert_eq!(
        (counters.accepted, counters.closed),
        (2 * SLOTS as u64 * EACH, 2 * SLOTS as u64 * EACH)
    );
}

/// Runs one connection: sends `tag` some times, reads some of what comes back, and ends with a FIN
/// or a reset.
fn visit(addr: std::net::SocketAddr, tag: u8, random: &mut Random) {
    let mut stream = crate::stage::client(addr);
    for _ in 0..random.upto(4) {
        std::io::Write::write_all(&mut stream, &vec![tag; random.upto(2000)]).expect("write");
        let mut some = vec![0; random.upto(2500)];
        let len = std::io::Read::read(&mut stream, &mut some).expect("read");
        assert!(some[..len].iter().all(|&byte| byte == tag), "another connection's bytes");
    }
    if random.upto(2) == 1 {
        let mut whole = stream.try_clone().expect("clone");
        stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut whole, &mut rest).expect("an orderly end");
        assert!(rest.iter().all(|&byte| byte == tag), "another connection's bytes");
    }
}

/// A listener in blocking mode does not block the worker.
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

/// Peers are told by their addresses, whether one accept takes many connections or each takes one,
/// also where bytes or a reset have arrived before the accept.
pub(crate) fn accepted_peers_have_their_addresses(case: &Case) {
    const CLIENTS: usize = 60;
    for (address, most) in [("127.0.0.1:0", 8192), ("127.0.0.1:0", CLIENTS + 4), ("[::1]:0", 8192)]
    {
        let mut config = case.clients_only();
        config.max_accepted = config.max_accepted.min(most);
        let address: SocketAddr = address.parse().expect("an address");
        let Ok(mut sockets) = engine::socket::listen(address, 1) else {
            case.skip("no IPv6 on this machine");
            continue;
        };
        let socket = sockets.remove(0);
        let at = socket.local_addr().expect("bound");
        config.listeners.push(Listener { socket, peer_addresses: true });
        let connect = |index: usize| {
            let mut client = TcpStream::connect(at).expect("connect");
            if index.is_multiple_of(2) {
                client.write_all(b"early").expect("sent");
            }
            client
        };
        // These wait in the listener's queue, two of them reset.
        let mut clients: Vec<TcpStream> = (0..CLIENTS / 2).map(connect).collect();
        let mut reset = HashSet::new();
        for client in [clients.remove(3), clients.remove(3)] {
            reset.insert(client.local_addr().expect("bound"));
            rustix::net::sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO))
                .expect("option");
        }
        let running = Running::start(case, config, Script::default());
        clients.extend((CLIENTS / 2..CLIENTS).map(connect));
        let mut missing: HashSet<SocketAddr> =
            clients.iter().map(|client| client.local_addr().expect("bound")).collect();
        while !missing.is_empty() {
            let peer = running.wait_for(|event| match event {
                Event::Opened(_, Origin::Accepted { peer, .. }) => Some(peer.expect("its address")),
                _ => None,
            });
            let is_client = missing.remove(&peer) || reset.remove(&peer);
            assert!(is_client, "{peer} is not the address of a client");
        }
        running.finish();
    }
}

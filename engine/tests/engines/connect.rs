//! Outgoing connections.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use engine::{Cause, CloseMode, Connect, Origin};

use crate::stage::{
    Case, Event, LIMIT, Running, Script, bounded, loopback, read_to_end, round_trip,
};

fn to(addr: SocketAddr, tag: u64) -> Connect {
    Connect { to: addr, from: None, tag, timeout: LIMIT }
}

pub(crate) fn connects_and_talks(case: &Case) {
    let listener = TcpListener::bind(loopback(0)).expect("bind");
    let addr = listener.local_addr().expect("address");
    let script = Script::echo().opened(|_, out| out.append(b"hello from the client."));
    let running = Running::start(case, case.clients_only(), script);
    running.ask(move |w| {
        w.connect(to(addr, 77));
        assert_eq!(w.connections(), 0, "not from within the call");
    });
    let mut server = bounded(listener.accept().expect("accept").0);
    let id = match running.event() {
        Event::Opened(id, Origin::Connected { tag: 77 }) => id,
        other => panic!("{other:?}"),
    };
    let mut hello = [0; 22];
    std::io::Read::read_exact(&mut server, &mut hello).expect("read");
    assert_eq!(&hello, b"hello from the client.");
    round_trip(&mut server, b"and back");
    assert_eq!(running.ask(|w| w.connections()), 1);
    running.with(id, |out| out.close(CloseMode::Flush));
    assert_eq!(read_to_end(&mut server), b"");
    drop(server);
    assert!(matches!(running.wait_closed(id), Cause::PeerClosed));
    let (counters, _) = running.finish();
    assert_eq!((counters.accepted, counters.connected, counters.closed), (0, 1, 1));
}

pub(crate) fn connects_from_a_source_address(case: &Case) {
    let listener = TcpListener::bind(loopback(0)).expect("bind");
    let addr = listener.local_addr().expect("address");
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
    let running = Running::start(case, case.clients_only(), Script::default());
    running
        .ask(move |w| w.connect(Connect { from: Some(SocketAddr::new(from, 0)), ..to(addr, 1) }));
    let (_server, peer) = listener.accept().expect("accept");
    assert_eq!(peer.ip(), from);
    running.wait_opened();
    running.finish();
}

pub(crate) fn connects_from_a_range_of_ports(case: &Case) {
    let listener = TcpListener::bind(loopback(0)).expect("bind");
    let addr = listener.local_addr().expect("address");
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("proc");
    let last: u16 =
        range.split_ascii_whitespace().last().expect("two ports").parse().expect("a port");
    let wanted = last - 200..=last - 100;
    let mut config = case.clients_only();
    config.local_ports = Some(wanted.clone());
    let running = Running::start(case, config, Script::default());
    let mut ports = Vec::new();
    let mut servers = Vec::new();
    for tag in 0..8 {
        running.ask(move |w| w.connect(to(addr, tag)));
        let (server, peer) = listener.accept().expect("accept");
        running.wait_opened();
        servers.push(server);
        ports.push(peer.port());
    }
    running.finish();
    if ports.iter().any(|port| !wanted.contains(port)) && !knows_port_ranges() {
        return case.skip("this kernel has no IP_LOCAL_PORT_RANGE (Linux 6.3)");
    }
    assert!(ports.iter().all(|port| wanted.contains(port)), "{ports:?} not all in {wanted:?}");
}

fn knows_port_ranges() -> bool {
    let release = rustix::system::uname();
    let mut numbers =
        release.release().to_str().unwrap_or_default().split(['.', '-']).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next()) >= (6, 3)
}

/// Returns a port of the loopback address without a listener.
fn closed_port() -> SocketAddr {
    TcpListener::bind(loopback(0)).expect("bind").local_addr().expect("address")
}

pub(crate) fn refused(case: &Case) {
    let addr = closed_port();
    let running = Running::start(case, case.clients_only(), Script::default());
    running.ask(move |w| {
        for tag in 0..10 {
            w.connect(to(addr, tag));
        }
    });
    let mut tags: Vec<u64> = (0..10)
        .map(|_| match running.event() {
            Event::ConnectFailed(tag, error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
                tag
            }
            other => panic!("{other:?}"),
        })
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..10).collect::<Vec<_>>());
    assert_eq!(running.ask(|w| w.connections()), 0);
    let (counters, events) = running.finish();
    assert!(events.is_empty());
    assert_eq!((counters.connected, counters.closed), (0, 0));
}

/// Returns a listener whose queue is full, so that it drops further attempts without an answer.
fn deaf_listener() -> (rustix::fd::OwnedFd, SocketAddr, Vec<TcpStream>) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("socket");
    bind(&socket, &loopback(0)).expect("bind");
    listen(&socket, 0).expect("listen");
    let addr = SocketAddr::try_from(getsockname(&socket).expect("address")).expect("an IP address");
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(300)) {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue does not fill");
    }
    (socket, addr, queued)
}

pub(crate) fn times_out(case: &Case) {
    let (_listener, addr, _queued) = deaf_listener();
    let running = Running::start(case, case.clients_only(), Script::default());
    let since = Instant::now();
    running.ask(move |w| w.connect(Connect { timeout: Duration::from_millis(150), ..to(addr, 5) }));
    match running.event() {
        Event::ConnectFailed(5, error) => assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(since.elapsed() >= Duration::from_millis(150), "too early");
    // An attempt that is still under way at the end delays nothing.
    running.ask(move |w| w.connect(to(addr, 6)));
    running.some_turns();
    let (_, events) = running.finish();
    assert!(events.is_empty(), "{events:?}");
}

pub(crate) fn too_many_connects(case: &Case) {
    let server = Running::echo(case);
    let addr = server.addr;
    let mut config = case.clients_only();
    config.max_connects = 4;
    let running = Running::start(case, config, Script::default());
    running.ask(move |w| (0..6).for_each(|tag| w.connect(to(addr, tag))));
    let (mut opened, mut failed) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        match running.event() {
            Event::Opened(id, Origin::Connected { .. }) => opened.push(id),
            Event::ConnectFailed(tag, error) => failed.push((tag, error)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(opened.len(), 4);
    assert!(
        failed.iter().all(|(tag, error)| *tag >= 4 && error.to_string().contains("max_connects"))
    );
    // One closes, so another may connect.
    let first = opened[0];
    running.with(first, |out| out.close(CloseMode::Abort));
    running.wait_closed(first);
    running.ask(move |w| w.connect(to(addr, 9)));
    assert!(matches!(running.event(), Event::Opened(_, Origin::Connected { tag: 9 })));
    running.finish();
    server.finish();
}

/// The handler retries from within `connect_failed`, and succeeds once there is a listener.
pub(crate) fn reconnects_from_the_failure(case: &Case) {
    let addr = closed_port();
    let mut attempts = 1;
    let server = Running::echo(case);
    let good = server.addr;
    let script = Script::default()
        .start(move |w| w.connect(to(addr, 0)))
        .connect_failed(move |w| {
            attempts += 1;
            w.connect(to(if attempts == 5 { good } else { addr }, attempts));
        })
        .opened(|_, out| out.append(b"at last"));
    let running = Running::start(case, case.clients_only(), script);
    let mut failures = 0;
    loop {
        match running.event() {
            Event::ConnectFailed(..) => failures += 1,
            Event::Opened(_, Origin::Connected { tag: 5 }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failures, 4);
    let bytes =
        running.wait_for(|e| if let Event::Received(_, bytes) = e { Some(bytes) } else { None });
    assert_eq!(bytes, b"at last");
    running.finish();
    server.finish();
}

/// Checks that the only slot is free again when the handler learns of the failure, however the
/// attempt failed.
pub(crate) fn a_failed_connect_frees_its_slot(case: &Case) {
    let server = Running::echo(case);
    let (_listener, silent, _queued) = deaf_listener();
    let quick = |addr, tag| Connect { timeout: Duration::from_millis(50), ..to(addr, tag) };
    let unroutable =
        Connect { from: Some(SocketAddr::from(([192, 0, 2, 1], 0))), ..to(server.addr, 2) };
    let attempts = [
        quick(closed_port(), 0),
        quick(silent, 1),
        unroutable,
        quick(closed_port(), 3),
        to(server.addr, 4),
    ];
    let mut config = case.clients_only();
    config.max_connects = 1;
    let mut rest = attempts.into_iter();
    let first = rest.next().expect("an attempt");
    let script = Script::default()
        .start(move |w| w.connect(first))
        .connect_failed(move |w| rest.next().into_iter().for_each(|next| w.connect(next)));
    let running = Running::start(case, config, script);
    for expected in 0..4 {
        match running.event() {
            Event::ConnectFailed(tag, error) => {
                assert_eq!(tag, expected);
                assert!(!error.to_string().contains("max_connects"), "attempt {tag}: {error}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(running.event(), Event::Opened(_, Origin::Connected { tag: 4 })));
    running.finish();
    server.finish();
}

/// Errors of the call itself are reported later all the same.
pub(crate) fn an_unroutable_source_fails_later(case: &Case) {
    let server = Running::echo(case);
    let addr = server.addr;
    // TEST-NET-1 (RFC 5737): no address of this machine.
    let from = SocketAddr::from(([192, 0, 2, 1], 0));
    let running = Running::start(case, case.clients_only(), Script::default());
    running.ask(move |w| w.connect(Connect { from: Some(from), ..to(addr, 3) }));
    assert!(matches!(running.event(), Event::ConnectFailed(3, _)));
    running.finish();
    let mut client = server.connect();
    client.write_all(b"x").expect("write");
    server.finish();
}

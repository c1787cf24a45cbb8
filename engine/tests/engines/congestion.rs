//! Congestion control of the engines' sockets, as the kernel reports it (sock_diag(7)).

use engine::socket::{Congestion, listen_with};
use engine::{Connect, Listener, Origin};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::stage::{Case, Event, LIMIT, Running, Script, loopback};

pub(crate) fn both_ends_are_set(case: &Case) {
    let default =
        std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").expect("proc");
    let Some(other) = ["reno", "cubic", "bbr"]
        .iter()
        .filter(|name| **name != default.trim())
        .find_map(|name| name.parse::<Congestion>().ok())
    else {
        return case.skip("this kernel has one congestion control alone");
    };
    let mut config = case.clients_only();
    let socket = listen_with(loopback(0), 1, Some(&other)).expect("listen").remove(0);
    let addr = socket.local_addr().expect("address");
    config.listeners.push(Listener { socket, peer_addresses: true });
    let server = Running::start(case, config, Script::default());
    let mut config = case.clients_only();
    config.congestion = Some(other.clone());
    let client = Running::start(case, config, Script::default());
    client.ask(move |w| w.connect(Connect { to: addr, from: None, tag: 1, timeout: LIMIT }));
    client.wait_opened();
    let peer = server.wait_for(|event| match event {
        Event::Opened(_, Origin::Accepted { peer, .. }) => peer,
        _ => None,
    });

    // Both ports must match: another test's connection may have one of them.
    let (near, far) = (addr.port(), peer.port());
    match (of_connection(near, far), of_connection(far, near)) {
        (Some(accepted), Some(connected)) => {
            assert_eq!(
                (accepted.as_slice(), connected.as_slice()),
                ([other.name().to_owned()].as_slice(), [other.name().to_owned()].as_slice())
            );
        }
        _ => case.skip("the kernel tells nothing of its sockets (no tcp_diag)"),
    }
    client.finish();
    server.finish();
}

/// Returns the congestion control of every connection between these ports; `None` where the kernel
/// does not report it.
fn of_connection(from: u16, to: u16) -> Option<Vec<String>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(rustix::net::netlink::SOCK_DIAG),
    )
    .ok()?;
    rustix::net::send(&socket, &request(from, to), SendFlags::empty()).ok()?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (len, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()).ok()?;
        let mut messages = &buffer[..len];
        while messages.len() >= HEADER {
            let len = u32_at(messages, 0) as usize;
            match u16_at(messages, 4) {
                DONE => return Some(found),
                BY_FAMILY => found.push(control_in(&messages[HEADER..len])?),
                _ => return None,
            }
            messages = &messages[len.next_multiple_of(4).min(messages.len())..];
        }
    }
}

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h.
const HEADER: usize = 16;
const DONE: u16 = 3;
const BY_FAMILY: u16 = 20;
const REQUEST_AND_DUMP: u16 = 0x301;
const CONTROL: u16 = 4;
/// Length of `struct inet_diag_msg`, which the attributes follow.
const MESSAGE: usize = 72;
const ESTABLISHED: u32 = 1 << 1;

/// Returns `struct nlmsghdr` and `struct inet_diag_req_v2`: a request for all established
/// connections over IPv4, with their congestion control.
fn request(from: u16, to: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 56);
    bytes.extend((HEADER as u32 + 56).to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_AND_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([2, 6, 1 << (CONTROL - 1), 0]);
    bytes.extend(ESTABLISHED.to_ne_bytes());
    bytes.extend(from.to_be_bytes());
    bytes.extend(to.to_be_bytes());
    bytes.extend([0; 44]);
    bytes
}

fn control_in(message: &[u8]) -> Option<String> {
    let mut attributes = message.get(MESSAGE..)?;
    while attributes.len() >= 4 {
        let len = usize::from(u16_at(attributes, 0)).max(4);
        if u16_at(attributes, 2) == CONTROL {
            let name = attributes.get(4..len)?;
            return Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
        }
        attributes = &attributes[len.next_multiple_of(4).min(attributes.len())..];
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

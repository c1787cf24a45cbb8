//! Listening sockets, limits of descriptors.

use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Length of the kernel's queue of connections not yet accepted; it takes `net.core.somaxconn` where that is less.
pub(crate) const BACKLOG: i32 = 4096;

/// `count` listening sockets on one address, among which the kernel spreads connections by hash (`SO_REUSEPORT`, socket(7)).
///
/// Port 0 lets the kernel choose, the same one for all. The address is first bound without `SO_REUSEPORT`, so that a port
/// in use, also by another process of the same user, is an error and never a silent share of its traffic.
///
/// # Errors
///
/// What bind(2) or listen(2) say.
pub fn listen(addr: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let exclusive = open(addr, false)?;
    rustix::net::listen(&exclusive, 1)?;
    let addr = exclusive.local_addr()?;
    drop(exclusive);
    (0..count)
        .map(|_| {
            let socket = open(addr, true)?;
            rustix::net::listen(&socket, BACKLOG)?;
            Ok(socket)
        })
        .collect()
}

fn open(addr: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Connections inherit it, which saves a call for each.
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &addr)?;
    Ok(socket.into())
}

/// Raises the soft limit on open files to the hard one; returns the limit now in force.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Refused only where the hard limit is beyond what the kernel allows today; then the soft one stays.
    let _ = setrlimit(Resource::Nofile, wanted);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the soft limit on locked memory to the hard one; returns the limit now in force, in bytes.
pub fn raise_memlock_limit() -> u64 {
    let limit = getrlimit(Resource::Memlock);
    let _ = setrlimit(Resource::Memlock, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_listeners_share_one_port_and_nobody_else_gets_it() {
        let sockets = listen("127.0.0.1:0".parse().expect("address"), 3).expect("listen");
        let addr = sockets[0].local_addr().expect("address");
        assert_ne!(addr.port(), 0);
        assert!(sockets.iter().all(|s| s.local_addr().is_ok_and(|a| a == addr)));
        let taken = listen(addr, 1).expect_err("the port is in use");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn limits_are_raised_to_the_hard_ones() {
        let now = raise_file_limit();
        assert_eq!(now, getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    }
}

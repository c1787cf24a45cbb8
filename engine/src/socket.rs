//! Listening sockets, congestion control, limits of descriptors.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::str::FromStr;

use rustix::io::Errno;
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
    listen_with(addr, count, None)
}

/// As [`listen`], with a congestion control that every accepted connection inherits.
///
/// # Errors
///
/// What bind(2), listen(2) or setsockopt(2) say.
pub fn listen_with(
    addr: SocketAddr,
    count: usize,
    congestion: Option<&Congestion>,
) -> io::Result<Vec<TcpListener>> {
    let exclusive = open(addr, false)?;
    rustix::net::listen(&exclusive, 1)?;
    let addr = exclusive.local_addr()?;
    drop(exclusive);
    (0..count)
        .map(|_| {
            let socket = open(addr, true)?;
            // Before the first connection can be in the queue.
            if let Some(congestion) = congestion {
                congestion.apply(&socket)?;
            }
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

/// A congestion control of the kernel's (`TCP_CONGESTION`, tcp(7)) that this process may use: parsing tries it on a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Congestion(Box<str>);

/// A congestion control that cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum CongestionError {
    /// The kernel does not know it.
    #[error(
        "no congestion control `{name}` in this kernel: one of {available}; others are modules, which \
         `modprobe tcp_{name}` as root loads where the kernel has them"
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is (`net.ipv4.tcp_available_congestion_control`).
        available: String,
    },
    /// Only a process with `CAP_NET_ADMIN` may choose it.
    #[error(
        "congestion control `{name}` is not allowed to ordinary users: one of {allowed}, or as root \
         `sysctl -w net.ipv4.tcp_allowed_congestion_control='{allowed} {name}'`"
    )]
    Forbidden {
        /// What was asked for.
        name: String,
        /// What may be chosen (`net.ipv4.tcp_allowed_congestion_control`).
        allowed: String,
    },
    /// The trial itself failed.
    #[error("congestion control `{name}` cannot be tried on a socket: {source}")]
    Trial {
        /// What was asked for.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Congestion {
    /// Its name, such as `cubic`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Sets it for a socket, and with a listening one for all connections accepted there.
    pub(crate) fn apply(&self, socket: impl AsFd) -> rustix::io::Result<()> {
        sockopt::set_tcp_congestion(socket, &self.0)
    }

    fn attempt(&self) -> rustix::io::Result<()> {
        let flags = SocketFlags::CLOEXEC;
        self.apply(rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?)
    }
}

impl FromStr for Congestion {
    type Err = CongestionError;

    fn from_str(name: &str) -> Result<Self, CongestionError> {
        // TCP_CA_NAME_MAX is 16 with the final zero: the kernel would cut a longer name and take what is left of it.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let is_name = (1..16).contains(&name.len()) && name.bytes().all(plain);
        let this = Self(name.into());
        let outcome = if is_name { this.attempt() } else { Err(Errno::NOENT) };
        let name = name.to_owned();
        match outcome {
            Ok(()) => Ok(this),
            Err(Errno::NOENT) => Err(CongestionError::Unknown { name, available: controls("available") }),
            Err(Errno::PERM) => Err(CongestionError::Forbidden { name, allowed: controls("allowed") }),
            Err(error) => Err(CongestionError::Trial { name, source: error.into() }),
        }
    }
}

impl fmt::Display for Congestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kernel's list of congestion controls that are `available`, or `allowed` to everyone.
fn controls(which: &str) -> String {
    let path = format!("/proc/sys/net/ipv4/tcp_{which}_congestion_control");
    let list = std::fs::read_to_string(&path).unwrap_or_default();
    if list.trim().is_empty() { format!("those in {path}") } else { list.trim().to_owned() }
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
    fn accepted_connections_inherit_the_congestion_control() {
        let addr = "127.0.0.1:0".parse().expect("address");
        // Every kernel has reno; where it is the default, the other end would be on it anyway, but that is rare.
        let reno: Congestion = "reno".parse().expect("every kernel has it, and it is always allowed");
        let listener = listen_with(addr, 1, Some(&reno)).expect("listen").remove(0);
        let client = std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        listener.set_nonblocking(false).expect("blocking");
        let (accepted, _) = listener.accept().expect("accept");
        assert_eq!(sockopt::tcp_congestion(&accepted).expect("option"), "reno");
        let default = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").expect("proc");
        assert_eq!(sockopt::tcp_congestion(&client).expect("option"), default.trim());
    }

    #[test]
    fn an_unknown_congestion_control_is_refused_with_what_there_is() {
        for name in ["", "no-such", "reno reno", "reno_and_a_long_tail"] {
            let error = name.parse::<Congestion>().expect_err("unknown").to_string();
            assert!(error.contains(&format!("`{name}`")) && error.contains("reno"), "{error}");
            assert!(error.contains("modprobe") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn what_only_root_may_choose_is_refused_to_others_with_what_they_may() {
        let (available, allowed) = (controls("available"), controls("allowed"));
        let Some(forbidden) = available.split(' ').find(|name| !allowed.split(' ').any(|a| a == *name))
        else {
            eprintln!("skipped: every congestion control is allowed to everyone here");
            return;
        };
        let name = forbidden.to_owned();
        // Credentials are a thread's own in Linux (setuid(2), notes): the other tests keep theirs.
        let outcome = std::thread::spawn(move || {
            let nobody = rustix::process::Uid::from_raw(65_534);
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may");
            }
            name.parse::<Congestion>().map(drop)
        });
        let error = outcome.join().expect("no panic").expect_err("forbidden").to_string();
        assert!(error.contains(forbidden) && error.contains(&allowed) && error.contains("sysctl"), "{error}");
    }

    #[test]
    fn limits_are_raised_to_the_hard_ones() {
        let now = raise_file_limit();
        assert_eq!(now, getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    }
}

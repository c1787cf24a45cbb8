//! Listening sockets, zones of addresses, congestion control, and resource limits.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Length of the kernel's queue of connections that have not been accepted. `net.core.somaxconn`
/// bounds it.
pub(crate) const BACKLOG: i32 = 4096;

/// Creates `count` listening sockets on one address. The kernel spreads connections among them by
/// hash (`SO_REUSEPORT`, socket(7)).
///
/// With port 0 the kernel chooses one port for all. The address is first bound without
/// `SO_REUSEPORT`, so that a port in use is an error. Otherwise the sockets could silently share
/// the traffic of another process of the same user.
///
/// # Errors
///
/// Fails with the error of bind(2) or listen(2).
pub fn listen(addr: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    listen_with(addr, count, None)
}

/// Creates sockets as [`listen`] does, with a congestion control that every accepted connection
/// inherits.
///
/// # Errors
///
/// Fails with the error of bind(2), listen(2) or setsockopt(2).
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
            // Set before a connection can be in the queue.
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
    // Connections inherit the option, which saves a call for each.
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &addr)?;
    Ok(socket.into())
}

/// Returns the index of the interface that is the zone of an IPv6 address (RFC 4007 11). `zone` is
/// the text behind the `%`: a name, or a number.
///
/// A URL has `%25` in place of the `%` (RFC 6874), but many people write `%` there too. So the text
/// is first taken as it is. If no interface has that name or number, a leading `25` is taken as the
/// rest of a `%25` and removed. [`url_authority`] writes zones that this rule reads back.
///
/// # Errors
///
/// Fails with the kernel's error where there is no such interface.
pub fn interface_index(zone: &str) -> io::Result<u32> {
    let socket = interfaces()?;
    Ok(zone_index(zone, |text| index_of(&socket, text))?)
}

/// Returns an address in the form of a URL: `127.0.0.1:9001`, `[::1]:9001`,
/// `[fe80::1%25eth0]:9001`.
#[must_use]
pub fn url_authority(address: SocketAddr) -> String {
    let SocketAddr::V6(v6) = address else { return address.to_string() };
    if v6.scope_id() == 0 {
        return address.to_string();
    }
    let zone = interfaces().map_or_else(
        |_| format!("25{}", v6.scope_id()),
        |socket| {
            let name = netdevice::index_to_name(&socket, v6.scope_id()).ok();
            url_zone(v6.scope_id(), name, |text| index_of(&socket, text))
        },
    );
    format!("[{}%{zone}]:{}", v6.ip(), v6.port())
}

/// Returns a socket for queries about interfaces.
fn interfaces() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

fn index_of(socket: &OwnedFd, text: &str) -> rustix::io::Result<u32> {
    match text.parse() {
        Ok(index) => netdevice::index_to_name(socket, index).map(|_| index),
        Err(_) => netdevice::name_to_index(socket, text),
    }
}

fn zone_index<E>(zone: &str, index_of: impl Fn(&str) -> Result<u32, E>) -> Result<u32, E> {
    index_of(zone).or_else(|error| match zone.strip_prefix("25") {
        Some(decoded) if !decoded.is_empty() => index_of(decoded),
        _ => Err(error),
    })
}

/// Returns the text behind the `%` of a URL's zone: `25`, then the interface's name. The index
/// replaces a name that is unknown, that could be read as another interface, or that a URL would
/// have to escape.
fn url_zone<E>(
    index: u32,
    name: Option<String>,
    index_of: impl Fn(&str) -> Result<u32, E>,
) -> String {
    let is_plain =
        |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    let by_name = name.filter(is_plain).map(|name| format!("25{name}"));
    by_name
        .filter(|zone| zone_index(zone, index_of).is_ok_and(|found| found == index))
        .unwrap_or_else(|| format!("25{index}"))
}

/// Congestion control of the kernel (`TCP_CONGESTION`, tcp(7)) that this process may use. Parsing
/// tries it on a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Congestion(Box<str>);

/// Error of a congestion control that cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum CongestionError {
    /// The kernel does not have it.
    #[error(
        "no congestion control `{name}` in this kernel: choose one of {available}, or run \
         `modprobe tcp_{name}` as root if the kernel has that module"
    )]
    Unknown {
        /// Name of the congestion control.
        name: String,
        /// Congestion controls that the kernel has (`net.ipv4.tcp_available_congestion_control`).
        available: String,
    },
    /// Only a process with `CAP_NET_ADMIN` may choose it.
    #[error(
        "congestion control `{name}` is not allowed to ordinary users: choose one of {allowed}, or \
         run as root `sysctl -w net.ipv4.tcp_allowed_congestion_control='{allowed} {name}'`"
    )]
    Forbidden {
        /// Name of the congestion control.
        name: String,
        /// Congestion controls that every process may choose
        /// (`net.ipv4.tcp_allowed_congestion_control`).
        allowed: String,
    },
    /// The trial itself failed.
    #[error("congestion control `{name}` cannot be tried on a socket: {source}")]
    Trial {
        /// Name of the congestion control.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
}

impl Congestion {
    /// Returns its name, such as `cubic`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Sets it for a socket. Connections that a listening socket accepts inherit it.
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
        // TCP_CA_NAME_MAX is 16 with the final zero: the kernel would cut a longer name and take
        // what is left of it.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let is_name = (1..16).contains(&name.len()) && name.bytes().all(plain);
        let this = Self(name.into());
        let outcome = if is_name { this.attempt() } else { Err(Errno::NOENT) };
        let name = name.to_owned();
        match outcome {
            Ok(()) => Ok(this),
            Err(Errno::NOENT) => {
                Err(CongestionError::Unknown { name, available: controls("available") })
            }
            Err(Errno::PERM) => {
                Err(CongestionError::Forbidden { name, allowed: controls("allowed") })
            }
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

/// Raises the soft limit on open files to the hard one. Returns the new soft limit.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Refused only where the hard limit is above what the kernel allows now; then the soft limit
    // stays.
    let _ = setrlimit(Resource::Nofile, wanted);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the soft limit on locked memory to the hard one. Returns the new soft limit in bytes.
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

    /// Returns a lookup that answers as the kernel would if the interfaces had these names and
    /// indices.
    fn lookup<'a>(
        interfaces: &'a [(&'a str, u32)],
    ) -> impl Fn(&str) -> Result<u32, ()> + Copy + 'a {
        move |text| {
            let number: Option<u32> = text.parse().ok();
            let is_meant =
                |&&(name, index): &&(&str, u32)| number.map_or(name == text, |n| n == index);
            interfaces.iter().find(is_meant).map(|&(_, index)| index).ok_or(())
        }
    }

    #[test]
    fn a_zone_is_first_taken_as_it_is_written() {
        let interfaces = [("lo", 1), ("eth0", 2), ("25x", 25), ("far", 251)];
        let index = |zone| zone_index(zone, lookup(&interfaces));
        for (zone, expected) in [
            ("lo", 1),
            ("25lo", 1),
            ("2", 2),
            ("252", 2),
            ("25", 25),
            ("25x", 25),
            ("251", 251),
            ("25251", 251),
            ("25far", 251),
        ] {
            assert_eq!(index(zone), Ok(expected), "{zone}");
        }
        for zone in ["", "no-such", "25no-such", "3", "253"] {
            assert_eq!(index(zone), Err(()), "{zone}");
        }
    }

    #[test]
    fn a_zone_in_a_url_leads_back_to_its_interface() {
        let interfaces =
            [("lo", 1), ("eth0", 2), ("7", 3), ("x", 25), ("25x", 26), ("a]b", 27), ("far", 251)];
        for (name, index) in interfaces {
            let zone = url_zone(index, Some(name.to_owned()), lookup(&interfaces));
            assert_eq!(zone_index(&zone, lookup(&interfaces)), Ok(index), "{name}: {zone}");
            assert!(zone.starts_with("25") && !zone.contains(']'), "{name}: {zone}");
        }
        assert_eq!(url_zone(1, Some("lo".to_owned()), lookup(&interfaces)), "25lo");
        assert_eq!(url_zone(9, None, lookup(&interfaces)), "259");
    }

    #[test]
    fn only_zones_change_an_address_in_a_url() {
        let authority = |text: &str| url_authority(text.parse().expect("an address"));
        for text in ["127.0.0.1:9001", "[::1]:9001", "[fe80::1]:9001"] {
            assert_eq!(authority(text), text);
        }
        // The first interface of every network namespace is lo.
        assert_eq!(authority("[fe80::1%1]:9001"), "[fe80::1%25lo]:9001");
        assert_eq!(authority("[fe80::1%4000000000]:9001"), "[fe80::1%254000000000]:9001");
        assert_eq!(interface_index("lo").expect("loopback"), 1);
    }

    #[test]
    fn accepted_connections_inherit_the_congestion_control() {
        let addr = "127.0.0.1:0".parse().expect("address");
        // Every kernel has reno. Where it is also the default, which is rare, this test passes
        // without inheritance too.
        let reno: Congestion =
            "reno".parse().expect("every kernel has it, and it is always allowed");
        let listener = listen_with(addr, 1, Some(&reno)).expect("listen").remove(0);
        let client =
            std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        listener.set_nonblocking(false).expect("blocking");
        let (accepted, _) = listener.accept().expect("accept");
        assert_eq!(sockopt::tcp_congestion(&accepted).expect("option"), "reno");
        let default =
            std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").expect("proc");
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
        let Some(forbidden) =
            available.split(' ').find(|name| !allowed.split(' ').any(|a| a == *name))
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
        assert!(
            error.contains(forbidden) && error.contains(&allowed) && error.contains("sysctl"),
            "{error}"
        );
    }

    #[test]
    fn limits_are_raised_to_the_hard_ones() {
        let now = raise_file_limit();
        assert_eq!(now, getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    }
}

//! Connects on sockets that do not block, and the meaning of a socket's errors.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::config::Config;
use crate::connection::{Cause, Connect};
use crate::socket::Congestion;

/// `IP_LOCAL_PORT_RANGE` (ip(7)).
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Options of all outgoing sockets of a worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    congestion: Option<Congestion>,
    ports: Option<RangeInclusive<u16>>,
}

impl Options {
    pub(crate) fn of(config: &Config) -> Self {
        Self { congestion: config.congestion.clone(), ports: config.local_ports.clone() }
    }
}

/// Makes a socket for a connection to `to`, bound to `from` where given, with `options` and
/// `TCP_NODELAY`.
///
/// # Errors
///
/// The error of socket(2) or bind(2), such as no descriptors or no such source address.
pub(crate) fn socket(
    to: SocketAddr,
    from: Option<SocketAddr>,
    options: &Options,
) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(congestion) = &options.congestion {
        congestion.apply(&socket)?;
    }
    if let Some(ports) = &options.ports {
        let range = u32::from(*ports.start()) | u32::from(*ports.end()) << 16;
        // A kernel without this option chooses a port as it always has.
        let _ = set_ip_option(&socket, IP_LOCAL_PORT_RANGE, range.cast_signed());
    }
    if let Some(from) = from {
        bind_source(&socket, from)?;
    }
    Ok(socket)
}

/// Begins a connect to `connect.to`. The socket becomes writable, or has an error, when the outcome
/// is known.
///
/// # Errors
///
/// The error of [`socket`] or of connect(2) at once, such as no descriptors or no route.
pub(crate) fn begin(connect: &Connect, options: &Options) -> io::Result<OwnedFd> {
    let socket = socket(connect.to, connect.from, options)?;
    match rustix::net::connect(&socket, &connect.to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Binds to a source address without taking a port yet (ip(7)).
///
/// With port 0 the kernel then chooses a port at the connect, when it knows the whole four-tuple.
/// So it does not run out of ports after 28,000 connections.
fn bind_source(socket: &OwnedFd, from: SocketAddr) -> io::Result<()> {
    set_ip_option(socket, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    Ok(rustix::net::bind(socket, &from)?)
}

/// Sets an option of level `IPPROTO_IP` whose value is an int. Those used here hold for IPv6 too.
fn set_ip_option(socket: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option's value is an int that is valid for the length of the call.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the socket's pending error: the outcome of a connect, or later that of the connection.
pub(crate) fn pending_error(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::socket_error(socket)??)
}

/// Returns the cause that an error of a receive or a send is for the end of the connection. EPIPE
/// says that the reset came before a send.
pub(crate) fn cause(error: io::Error) -> Cause {
    match error.raw_os_error() {
        Some(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED) => Cause::Reset,
        _ => Cause::Io(error),
    }
}

/// Error of `Worker::connect` beyond `Config::max_connects`.
pub(crate) fn too_many(max_connects: usize) -> io::Error {
    io::Error::other(format!("{max_connects} outgoing connections are open already (max_connects)"))
}

/// Error of a connect that took longer than `Connect::timeout`.
pub(crate) fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer within the connect timeout")
}

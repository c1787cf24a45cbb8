//! Accepting on a listening socket that does not block.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use crate::time::Nanos;

/// After a want of descriptors accepting is tried again when a connection closes, or after this span.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

/// What accept4(2) said.
pub(crate) enum Accepted {
    /// A connection and its other end.
    Connection(OwnedFd, Option<SocketAddr>),
    /// The queue is empty.
    Nothing,
    /// A connection failed before it was accepted; the next one may be well (accept(2), "Error handling").
    Failed,
    /// No descriptors or memory: trying again at once would spin.
    Starved,
}

/// Takes one connection from the queue.
pub(crate) fn accept(listener: impl AsFd, flags: SocketFlags) -> Accepted {
    match acceptfrom_with(listener, flags | SocketFlags::CLOEXEC) {
        Ok((socket, peer)) => Accepted::Connection(socket, peer.and_then(|p| SocketAddr::try_from(p).ok())),
        Err(Errno::AGAIN) => Accepted::Nothing,
        Err(error) if is_passing(error) => Accepted::Failed,
        Err(_) => Accepted::Starved,
    }
}

/// Errors of accept(2) that concern one connection: the next one may be well.
pub(crate) fn is_passing(error: Errno) -> bool {
    const PASSING: [Errno; 11] = [
        Errno::INTR,
        Errno::CONNABORTED,
        Errno::PROTO,
        Errno::PERM,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NONET,
        Errno::OPNOTSUPP,
    ];
    PASSING.contains(&error)
}

/// Makes a caller's listener fit for [`accept`]: with a blocking one an accept of nothing would stop the worker.
pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)
}

/// Whether a worker accepts at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// It does.
    Open,
    /// `Config::max_accepted` are open: not before one of them has gone.
    Full,
    /// No descriptors: not before a connection has gone or this point has come.
    Starved(Nanos),
}

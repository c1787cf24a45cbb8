//! Accepting at listening sockets that do not block.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use crate::config::Listener;
use crate::time::Nanos;

/// Time after which accepting is retried without descriptors, unless a connection closes earlier.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

/// Takes one connection and its peer's address from the listener's queue; `None` when it is empty.
///
/// # Errors
///
/// The error of accept4(2). Unless it [is passing](is_passing), a retry at once would spin.
pub(crate) fn accept(listener: impl AsFd) -> Result<Option<(OwnedFd, Option<SocketAddr>)>, Errno> {
    match acceptfrom_with(listener, SocketFlags::CLOEXEC) {
        Ok((socket, peer)) => Ok(Some((socket, peer.and_then(|p| SocketAddr::try_from(p).ok())))),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether an error of accept(2) concerns one connection: the next one may be well.
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

/// Outcome of one attempt to accept a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// One connection was taken from the queue.
    One,
    /// The listener's queue is empty.
    QueueEmpty,
    /// The worker does not accept here now.
    Stopped,
}

/// A worker's ability to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptState {
    /// The worker has room for another connection.
    Ready,
    /// [`Config::max_accepted`](crate::Config::max_accepted) connections are open.
    Full,
    /// No descriptor was free. Accepting is retried at this time, or when a connection has closed.
    Starved(Nanos),
}

/// State of one listener.
struct ListenerState {
    /// The handler wants connections of this listener.
    is_wanted: bool,
    address: Option<SocketAddr>,
}

/// State of a worker's listeners.
pub(crate) struct Listeners {
    listeners: Vec<ListenerState>,
    pub(crate) state: AcceptState,
}

impl Listeners {
    /// Makes the caller's sockets fit for [`accept`]: a blocking one would stop the worker.
    pub(crate) fn new(listeners: &[Listener]) -> io::Result<Self> {
        let prepare = |listener: &Listener| {
            listener.socket.set_nonblocking(true)?;
            Ok(ListenerState { is_wanted: true, address: listener.socket.local_addr().ok() })
        };
        let listeners = listeners.iter().map(prepare).collect::<io::Result<_>>()?;
        Ok(Self { listeners, state: AcceptState::Ready })
    }

    /// Returns whether the worker accepts at a listener.
    pub(crate) fn is_accepting(&self, index: usize) -> bool {
        self.state == AcceptState::Ready && self.listeners[index].is_wanted
    }

    /// Notes whether the handler wants connections of a listener.
    pub(crate) fn set_wanted(&mut self, index: usize, is_wanted: bool) {
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.is_wanted = is_wanted;
        }
    }

    /// Returns the address that a listener is bound to.
    pub(crate) fn address(&self, index: usize) -> Option<SocketAddr> {
        self.listeners.get(index).and_then(|listener| listener.address)
    }

    /// Notes that a socket was closed: a descriptor is free, and a place if it was accepted.
    pub(crate) fn handle_closed(&mut self, was_accepted: bool) {
        match self.state {
            AcceptState::Full if !was_accepted => {}
            _ => self.state = AcceptState::Ready,
        }
    }

    /// Returns the time at which accepting is retried.
    pub(crate) fn retry_at(&self) -> Nanos {
        if let AcceptState::Starved(at) = self.state { at } else { Nanos::NEVER }
    }

    /// Accepts again once the time of the retry has come.
    pub(crate) fn retry(&mut self, now: Nanos) {
        if self.retry_at() <= now {
            self.state = AcceptState::Ready;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_waits_for_a_place_or_a_descriptor() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let listener = Listener { socket, peer_addresses: false };
        let mut listeners = Listeners::new(&[listener]).expect("a listener");
        listeners.state = AcceptState::Full;
        listeners.handle_closed(false);
        assert!(!listeners.is_accepting(0), "an outgoing connection makes no place");
        listeners.handle_closed(true);
        assert!(listeners.is_accepting(0));
        listeners.state = AcceptState::Starved(Nanos(5));
        listeners.retry(Nanos(4));
        assert_eq!((listeners.is_accepting(0), listeners.retry_at()), (false, Nanos(5)));
        listeners.handle_closed(false);
        assert!(listeners.is_accepting(0), "a descriptor is free");
        listeners.set_wanted(0, false);
        assert!(!listeners.is_accepting(0));
    }
}

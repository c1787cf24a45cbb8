//! Sockets of the simulated network.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use crate::time::Nanos;

/// Index in the list of all sockets, closed ones included.
pub(super) type SocketId = usize;

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Socket {
    /// The peer, once the socket is connected.
    pub(super) peer: Option<SocketId>,
    /// Addresses of the connecting end: its own, and the target.
    pub(super) from: Option<SocketAddr>,
    pub(super) to: Option<SocketAddr>,
    /// Bytes that were sent and have not arrived.
    pub(super) outgoing: VecDeque<u8>,
    pub(super) send_buffer: usize,
    /// Bytes that have arrived and were not received.
    pub(super) incoming: VecDeque<u8>,
    pub(super) receive_buffer: usize,
    /// Our FIN follows the outgoing bytes.
    pub(super) fin_sent: bool,
    pub(super) fin_delivered: bool,
    /// The peer's FIN follows the arrived bytes.
    pub(super) fin_arrived: bool,
    /// The connection was reset.
    pub(super) broken: bool,
    /// An operation has reported the reset.
    pub(super) broken_told: bool,
    /// The last descriptor was closed.
    pub(super) orphan: bool,
    /// Time before which outgoing bytes do not move.
    pub(super) stalled_until: Nanos,
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) fd: RawFd,
    pub(super) addr: SocketAddr,
    pub(super) queue: VecDeque<SocketId>,
}

impl Socket {
    pub(super) fn room_to_send(&self) -> usize {
        self.send_buffer.saturating_sub(self.outgoing.len())
    }

    pub(super) fn room_to_receive(&self) -> usize {
        self.receive_buffer.saturating_sub(self.incoming.len())
    }

    /// Returns whether a receive would complete.
    pub(super) fn readable(&self) -> bool {
        !self.incoming.is_empty() || self.fin_arrived || self.broken
    }

    /// Returns whether a send would complete.
    pub(super) fn writable(&self) -> bool {
        self.broken || self.room_to_send() > 0
    }

    /// Returns whether nothing can happen to the socket any more.
    pub(super) fn is_dead(&self) -> bool {
        self.orphan && (self.broken || self.fin_delivered && self.outgoing.is_empty())
    }
}

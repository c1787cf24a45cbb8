//! What a worker counts. Plain additions, no atomics: every worker has its own.

use std::ops::AddAssign;

/// Counters of one worker; add them up for a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Payload bytes of TCP received.
    pub bytes_in: u64,
    /// Payload bytes of TCP that the kernel took.
    pub bytes_out: u64,
    /// Turns of the event loop.
    pub turns: u64,
    /// System calls that submit or wait: `io_uring_enter`, or `epoll_wait`.
    pub enters: u64,
    /// Completions taken in, or readiness events.
    pub completions: u64,
    /// Receives that ended because no buffer was free.
    pub enobufs: u64,
    /// Times the completion queue overflowed.
    pub overflows: u64,
    /// Sends that took less than everything, or nothing.
    pub partial_sends: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Outgoing connections made.
    pub connected: u64,
    /// Connections closed, of either kind.
    pub closed: u64,
    /// Times accepting paused for want of descriptors or of room in the table.
    pub accept_pauses: u64,
}

/// What a worker has in hand at one moment; add it up for a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections, those that are closing included.
    pub connections: u64,
    /// Of those, the ones that are not read from: the handler paused them, or their unsent bytes are above the high-water mark.
    pub not_read: u64,
    /// Bytes that the kernel has not taken yet, over all connections.
    pub unsent: u64,
}

impl Load {
    /// Adds a connection.
    pub(crate) fn add(&mut self, is_held: bool, unsent: usize) {
        self.connections += 1;
        self.not_read += u64::from(is_held);
        self.unsent += unsent as u64;
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, o: Self) {
        self.connections += o.connections;
        self.not_read += o.not_read;
        self.unsent += o.unsent;
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, o: Self) {
        self.bytes_in += o.bytes_in;
        self.bytes_out += o.bytes_out;
        self.turns += o.turns;
        self.enters += o.enters;
        self.completions += o.completions;
        self.enobufs += o.enobufs;
        self.overflows += o.overflows;
        self.partial_sends += o.partial_sends;
        self.accepted += o.accepted;
        self.connected += o.connected;
        self.closed += o.closed;
        self.accept_pauses += o.accept_pauses;
    }
}

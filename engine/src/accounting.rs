//! Counters of a worker. Plain additions without atomics: every worker has its own.

use std::ops::AddAssign;

/// Counters of one worker since its start. The sum over all workers is that of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received, as TCP payload.
    pub bytes_in: u64,
    /// Bytes that the kernel has accepted for sending, as TCP payload.
    pub bytes_out: u64,
    /// Turns of the event loop.
    pub turns: u64,
    /// System calls that submit or wait: `io_uring_enter`, or `epoll_wait`.
    pub enters: u64,
    /// Completions handled, or readiness events.
    pub completions: u64,
    /// Receives that ended because no buffer was offered (ENOBUFS).
    pub enobufs: u64,
    /// Overflows of the completion queue.
    pub overflows: u64,
    /// Sends of which the kernel accepted a part, or nothing.
    pub partial_sends: u64,
    /// Accepted connections.
    pub accepted: u64,
    /// Outgoing connections that were opened.
    pub connected: u64,
    /// Closed connections, accepted and outgoing.
    pub closed: u64,
    /// Pauses of accepting, because descriptors or slots were exhausted.
    pub accept_pauses: u64,
}

/// Connections and backlogs of one worker at one moment. The sum over all workers is that of the
/// process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections, those that are closing included.
    pub connections: u64,
    /// Connections that are not read from: the handler paused them, or their unsent bytes are above
    /// the high-water mark.
    pub not_read: u64,
    /// Bytes that the kernel has not accepted, over all connections.
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

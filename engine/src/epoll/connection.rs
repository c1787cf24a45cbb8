//! A connection of the epoll engine.

use std::os::fd::OwnedFd;

use super::backlog::Backlog;
use super::outbox::Chain;
use crate::connection::Cause;
use crate::time::Nanos;

/// How far a connection has come.
pub(super) enum Phase {
    /// connect(2) is under way; the handler knows nothing yet.
    Connecting { tag: u64 },
    /// The handler's.
    Open,
    /// Closed by the handler with bytes still to send; what arrives is discarded.
    Flushing { discarded: u64 },
    /// Everything is sent and our FIN with it; what arrives is discarded until the other end's FIN.
    Lingering { discarded: u64 },
    /// Over; the handler learns it in the next turn.
    Dead(Cause),
}

/// An entry of the engine's table. An idle one owns nothing outside of it.
pub(super) struct Connection<C> {
    pub(super) socket: OwnedFd,
    /// The handler's; `None` until it has opened the connection.
    pub(super) state: Option<C>,
    pub(super) phase: Phase,
    /// Output of this turn.
    pub(super) queued: Chain,
    /// Output that the kernel did not take.
    pub(super) backlog: Option<Box<Backlog>>,
    /// The handler's deadline.
    pub(super) deadline: Nanos,
    /// The engine's own: of the connecting, of a stalled write or of the lingering, as the phase says.
    pub(super) limit: Nanos,
    /// Accepted, or connected.
    pub(super) accepted: bool,
    /// A receive may find something. Edge-triggered: remembered until a receive took less than it could.
    pub(super) readable: bool,
    /// The other end's FIN or a reset has been announced: a short receive does not mean that nothing follows.
    pub(super) hangup: bool,
    /// The other end's FIN has been taken out.
    pub(super) eof: bool,
    /// By the handler.
    pub(super) paused: bool,
    /// By the high-water mark.
    pub(super) throttled: bool,
    /// In the list of connections to be read.
    pub(super) listed: bool,
    /// In the list of connections with something to do at the end of the turn.
    pub(super) dirty: bool,
}

impl<C> Connection<C> {
    pub(super) fn new(socket: OwnedFd, accepted: bool, phase: Phase) -> Self {
        Self {
            socket,
            state: None,
            phase,
            queued: Chain::default(),
            backlog: None,
            deadline: Nanos::NEVER,
            limit: Nanos::NEVER,
            accepted,
            readable: false,
            hangup: false,
            eof: false,
            paused: false,
            throttled: false,
            listed: false,
            dirty: false,
        }
    }

    pub(super) fn unsent(&self) -> usize {
        self.queued.bytes() + self.backlog.as_ref().map_or(0, |b| b.len())
    }

    /// Whether to receive: there may be something, and somebody to take it or a reason to discard it.
    pub(super) fn wants_input(&self, discard_at_most: u64) -> bool {
        self.readable
            && !self.eof
            && match self.phase {
                Phase::Open => !self.paused && !self.throttled,
                Phase::Flushing { discarded } => discarded < discard_at_most,
                Phase::Lingering { .. } => true,
                Phase::Connecting { .. } | Phase::Dead(_) => false,
            }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// The earlier of the two times, for the wheel.
    pub(super) fn next_timer(&self) -> Nanos {
        self.deadline.min(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_with_a_full_handler_state_stays_small() {
        // With the table's generation and the wheel's entry: below 256 bytes for an idle connection.
        assert!(size_of::<Connection<[u64; 8]>>() <= 176, "{}", size_of::<Connection<[u64; 8]>>());
    }
}

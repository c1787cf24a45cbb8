//! An entry of the connection table.

use crate::connection::State;
use crate::time::Nanos;

/// The handler's part of a connection.
pub(crate) enum HandlerState<C> {
    /// The handler has not opened the connection. `tag` is that of its connect.
    Unopened { tag: u64 },
    /// State that the handler made when it opened the connection.
    Opened(C),
}

/// A connection: its state, its two time limits, and the engine's I/O. An idle one owns no memory
/// outside of the table.
pub(crate) struct Connection<C, S> {
    /// The engine's part: the socket and its unsent output.
    pub(crate) io: S,
    pub(super) handler: HandlerState<C>,
    pub(crate) state: State,
    /// The handler's deadline.
    pub(super) deadline: Nanos,
    /// The engine's own time limit: of the connect, of a send without progress, or of the linger.
    pub(crate) limit: Nanos,
    /// A listener accepted the connection; otherwise the worker connected it.
    pub(super) is_accepted: bool,
    /// The peer's FIN has been received.
    pub(crate) has_eof: bool,
    /// The handler has paused reading.
    pub(crate) is_paused: bool,
    /// Unsent output above the high-water mark has stopped reading.
    pub(super) is_throttled: bool,
    /// The handler may have seen unsent bytes: it is told when the kernel has accepted them.
    pub(super) awaits_drain: bool,
    /// The handler closes with [`CloseMode::Finish`](crate::CloseMode::Finish).
    pub(super) is_finishing: bool,
    /// The bound of the input that a closing connection discards has been reached.
    pub(super) has_discarded_all: bool,
    /// The connection is in the list of those with work at the end of the turn.
    pub(crate) is_listed: bool,
}

impl<C, S> Connection<C, S> {
    pub(super) fn new(io: S, state: State, tag: u64) -> Self {
        Self {
            io,
            handler: HandlerState::Unopened { tag },
            state,
            deadline: Nanos::NEVER,
            limit: Nanos::NEVER,
            is_accepted: state != State::Connecting,
            has_eof: false,
            is_paused: false,
            is_throttled: false,
            awaits_drain: false,
            is_finishing: false,
            has_discarded_all: false,
            is_listed: false,
        }
    }

    /// Returns whether to receive: the handler takes the input, or it is discarded.
    pub(crate) fn takes_input(&self) -> bool {
        !self.has_eof
            && match self.state {
                State::Open => !self.is_paused && !self.is_throttled,
                State::Draining | State::Lingering => !self.has_discarded_all,
                State::Connecting | State::Closing | State::Closed => false,
            }
    }

    /// Returns whether the handler is to be called, or the FIN sent, once the kernel has accepted
    /// all output.
    #[cfg(feature = "tokio-uring")]
    pub(crate) fn expects_drain(&self) -> bool {
        self.awaits_drain || self.state == State::Draining
    }

    /// Stops reading if more than `high_water` bytes are unsent. Reading resumes once the kernel
    /// has accepted all output.
    pub(crate) fn throttle(&mut self, unsent: usize, high_water: usize) {
        if unsent > high_water {
            self.is_throttled = true;
            self.awaits_drain = true;
        }
    }

    /// Returns the earlier of the two time limits, for the timer wheel.
    pub(super) fn next_timer(&self) -> Nanos {
        self.deadline.min(self.limit)
    }
}

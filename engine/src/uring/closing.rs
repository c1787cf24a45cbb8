//! The end of a connection: draining, the half-close, the linger, and the close of the descriptor.

use crate::config::Linger;
use crate::connection::{Cause, State};
use crate::time::Nanos;
use crate::token::OpKind;
use crate::uring::queues::Queues;
use crate::uring::ring::{Op, Ring};
use crate::uring::slots::{BACKLOG, Flags, RECEIVE, Slot, Slots, WATCH};
use crate::uring::timers::Timers;

/// Connections that are being closed.
#[derive(Default)]
pub(super) struct Closing {
    /// Connections that may be able to take their next step.
    due: Vec<u32>,
}

impl Closing {
    /// Returns whether a connection may be able to take its next step.
    pub(super) fn has_work(&self) -> bool {
        !self.due.is_empty()
    }

    /// Lists a connection for its next step, because an operation that it waited for has ended.
    pub(super) fn check(&mut self, slot: u32) {
        self.due.push(slot);
    }

    /// Begins a close that first flushes the output, then half-closes, and then waits for the
    /// peer's FIN.
    pub(super) fn drain<C>(&mut self, slot: u32, s: &mut Slot<C>, linger: Linger) {
        self.begin(slot, s, linger.bytes.max(1));
    }

    /// Begins a close that first flushes the output, and then closes the descriptor. The receive is
    /// cancelled meanwhile: the peer has sent its last bytes.
    pub(super) fn finish<C, R: Ring>(
        &mut self,
        slot: u32,
        s: &mut Slot<C>,
        queues: &mut Queues<R>,
    ) {
        self.begin(slot, s, 0);
        s.flags.set(Flags::FINISHING);
        s.cancel(slot, RECEIVE, queues);
    }

    /// Begins a close that flushes the output, and discards up to `discarded` bytes of input.
    fn begin<C>(&mut self, slot: u32, s: &mut Slot<C>, discarded: u64) {
        s.state = State::Draining;
        s.deadline = Nanos::NEVER;
        let extra = s.extra();
        extra.linger_left = discarded;
        extra.stash.clear();
        s.flags.clear(Flags::PAUSED | Flags::ABOVE_HIGH_WATER);
        self.due.push(slot);
    }

    /// Ends a connection. Its operations in progress are cancelled; when the last has ended, the
    /// descriptor is closed.
    pub(super) fn end<C>(&mut self, slot: u32, s: &mut Slot<C>, cause: Cause, timers: &mut Timers) {
        set_closing(slot, s, cause, timers);
        self.due.push(slot);
    }

    /// Advances every listed connection as far as unsent output and operations in progress allow.
    pub(super) fn step<C, R: Ring>(
        &mut self,
        slots: &mut Slots<C>,
        queues: &mut Queues<R>,
        timers: &mut Timers,
        linger: Linger,
    ) {
        let mut due = std::mem::take(&mut self.due);
        for slot in due.drain(..) {
            let s = &mut slots[slot];
            if s.state == State::Draining {
                self.step_draining(slot, s, queues, timers, linger);
            }
            if s.state == State::Closing && !s.flags.any(Flags::CLOSE_QUEUED) {
                self.step_closing(slot, s, queues);
            }
        }
        // A step may have listed its connection again. The next turn handles these connections.
        due.append(&mut self.due);
        self.due = due;
    }

    fn step_draining<C, R: Ring>(
        &mut self,
        slot: u32,
        s: &mut Slot<C>,
        queues: &mut Queues<R>,
        timers: &mut Timers,
        linger: Linger,
    ) {
        self.recheck_after_silent_send(slot, s, queues);
        if s.has_unsent() || s.flags.any(Flags::SENDING | Flags::BACKLOG) {
            return;
        }
        if s.flags.any(Flags::EOF) {
            return set_closing(slot, s, Cause::PeerClosed, timers);
        }
        if s.flags.any(Flags::FINISHING) {
            return set_closing(slot, s, Cause::Closed, timers);
        }
        s.state = State::Lingering;
        s.flags.set(Flags::SHUTTING_DOWN);
        queues.push(s.token(OpKind::Shutdown, slot), Op::Shutdown { slot });
        timers.set(slot, s, timers.now + linger.time);
        if s.extra().linger_left == 0 {
            // The byte limit of the linger is reached, so the peer's FIN is not awaited.
            set_closing(slot, s, Cause::Closed, timers);
        }
    }

    /// Lists a connection with a silent send again, because a silent send that succeeds has no
    /// completion.
    fn recheck_after_silent_send<C, R: Ring>(
        &mut self,
        slot: u32,
        s: &Slot<C>,
        queues: &Queues<R>,
    ) {
        if queues.sends_finish && s.flags.any(Flags::SENDING) {
            self.due.push(slot);
        }
    }

    fn step_closing<C, R: Ring>(&mut self, slot: u32, s: &mut Slot<C>, queues: &mut Queues<R>) {
        self.recheck_after_silent_send(slot, s, queues);
        for operation in [RECEIVE, BACKLOG, WATCH] {
            s.cancel(slot, operation, queues);
        }
        if !s.flags.any(Flags::OPERATIONS) {
            close_descriptor(slot, s, queues);
        }
    }

    /// Handles discarded input. Fails with the cause of the end when a lingering connection has
    /// reached its byte limit.
    pub(super) fn discard<C, R: Ring>(
        slot: u32,
        s: &mut Slot<C>,
        bytes: usize,
        queues: &mut Queues<R>,
    ) -> Result<(), Cause> {
        let left = &mut s.extra().linger_left;
        *left = left.saturating_sub(bytes as u64);
        match (*left, s.state) {
            (0, State::Lingering) => Err(Cause::Closed),
            (0, _) => {
                // The output that was written before the close is still sent.
                s.cancel(slot, RECEIVE, queues);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Records that a connection has ended.
fn set_closing<C>(slot: u32, s: &mut Slot<C>, cause: Cause, timers: &mut Timers) {
    s.state = State::Closing;
    s.deadline = Nanos::NEVER;
    s.extra().cause = Some(cause);
    timers.set(slot, s, Nanos::NEVER);
}

/// Queues the close of a connection's descriptor, which no operation uses any more.
pub(super) fn close_descriptor<C, R: Ring>(slot: u32, s: &mut Slot<C>, queues: &mut Queues<R>) {
    s.state = State::Closing;
    s.flags.set(Flags::CLOSE_QUEUED);
    queues.push(s.token(OpKind::Close, slot), Op::Close { slot });
}

//! The parts of a turn besides the events of sockets.

use super::{Connections, Io};
use crate::connection::{Cause, ConnId, State};
use crate::handler::Handler;
use crate::outgoing;
use crate::time::Nanos;
use crate::wheel::PER_TURN;

impl<H: Handler, I: Io> Connections<H, I> {
    /// Returns whether the next turn has something to report, without any event.
    pub(crate) fn has_reports(&self) -> bool {
        !(self.ended.connections.is_empty() && self.ended.connects.is_empty())
    }

    /// Returns the time at which a turn is needed without any event.
    pub(crate) fn next_timer(&self) -> Nanos {
        let next = self.timers.wheel.next().unwrap_or(Nanos::NEVER);
        next.min(self.timers.alarm).min(self.listeners.retry_at())
    }

    /// Reports the connections that have ended and the connects that have failed since the last
    /// turn.
    pub(crate) fn report_ended(&mut self, handler: &mut H) {
        if self.has_reports() {
            self.report_closed(handler);
            for (tag, error) in std::mem::take(&mut self.ended.connects) {
                handler.connect_failed(self, tag, error);
            }
        }
        self.listeners.retry(self.now);
    }

    /// Makes the calls that follow the events of a turn. `bits` are those of the wakes, 0 for none.
    pub(crate) fn finish_turn(&mut self, handler: &mut H, bits: u64) {
        self.handle_timers(handler);
        if self.timers.alarm <= self.now {
            self.timers.alarm = Nanos::NEVER;
            handler.alarm(self);
        }
        if bits != 0 {
            handler.woken(self, bits);
        }
        handler.turn_end(self);
    }

    /// Takes the list of connections with work at the end of the turn.
    pub(crate) fn take_changed(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.changed)
    }

    /// Ends the turn, when its output has been sent or queued. `changed` is the list taken before.
    pub(crate) fn end_turn(&mut self, mut changed: Vec<ConnId>) {
        debug_assert!(self.changed.is_empty(), "output was written after the turn's end");
        changed.clear();
        self.changed = changed;
        self.record.clear_arena();
    }

    fn handle_timers(&mut self, handler: &mut H) {
        let mut due = std::mem::take(&mut self.timers.due);
        self.timers.wheel.expire(self.now, PER_TURN, &mut due);
        for slot in due.drain(..) {
            let Some((id, c)) = self.table.in_slot(slot) else { continue };
            if c.limit <= self.now {
                self.enforce_limit(id);
                continue;
            }
            let has_passed = c.deadline <= self.now;
            if has_passed {
                c.deadline = Nanos::NEVER;
            }
            self.timers.wheel.set(slot, c.next_timer());
            if has_passed {
                self.call_handler(id, |c, out| handler.deadline(id, c, out));
            }
        }
        self.timers.due = due;
    }

    fn enforce_limit(&mut self, id: ConnId) {
        let Some(c) = self.table.get_mut(id) else { return };
        match c.state {
            State::Connecting => self.fail_connect(id, outgoing::timed_out()),
            State::Lingering => self.end(id, Cause::Closed),
            State::Open | State::Draining if self.io.is_stalled(id, &mut c.io) => {
                self.end(id, Cause::WriteStalled);
            }
            State::Open | State::Draining => self.expect_progress(id),
            State::Closing | State::Closed => {}
        }
    }
}

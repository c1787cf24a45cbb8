//! Time in a worker: the turn's clock reading, the connections' timers, the alarm.

use crate::time::Nanos;
use crate::uring::slots::Slot;
use crate::wheel::{PER_TURN, Wheel};

/// Timers of a worker.
pub(super) struct Timers {
    wheel: Wheel,
    due: Vec<u32>,
    /// Time at which the turn began.
    pub(super) now: Nanos,
    /// Time of the handler's alarm.
    pub(super) alarm: Nanos,
}

impl Timers {
    /// Timers for `capacity` connections.
    pub(super) fn new(now: Nanos, capacity: usize) -> Self {
        Self { wheel: Wheel::new(now, capacity), due: Vec::new(), now, alarm: Nanos::NEVER }
    }

    /// Takes over the earlier of a connection's deadline and timer.
    pub(super) fn update<C>(&mut self, slot: u32, s: &Slot<C>) {
        self.wheel.set(slot, s.deadline.min(s.timer()));
    }

    /// Sets the engine's own timer of a connection.
    pub(super) fn set<C>(&mut self, slot: u32, s: &mut Slot<C>, at: Nanos) {
        if s.timer() != at {
            s.extra().timer = at;
        }
        self.update(slot, s);
    }

    /// Time at which the next timer or the alarm fires.
    pub(super) fn next(&self) -> Nanos {
        self.alarm.min(self.wheel.next().unwrap_or(Nanos::NEVER))
    }

    /// Takes the connections whose timers this turn handles. [`Timers::put_back`] returns the list
    /// for reuse.
    pub(super) fn take_due(&mut self) -> Vec<u32> {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.now, PER_TURN, &mut due);
        due
    }

    /// Returns the list of [`Timers::take_due`].
    pub(super) fn put_back(&mut self, mut due: Vec<u32>) {
        due.clear();
        self.due = due;
    }

    /// Unsets the alarm where it has passed; returns whether it had.
    pub(super) fn take_alarm(&mut self) -> bool {
        let passed = self.alarm <= self.now;
        if passed {
            self.alarm = Nanos::NEVER;
        }
        passed
    }
}

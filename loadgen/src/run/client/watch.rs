//! Checks that do not belong to a connection: the worker's own time, the pace of an open loop, the
//! end of the window.
//!
//! During the window an alarm fires fifty times a second, in a closed loop too. A late alarm shows
//! that the worker did not run. The process was stopped, the machine stood still, or something else
//! had the processor. The CPU time that the worker used meanwhile is subtracted, because a long
//! turn is work and no standstill.

use std::time::Duration;

use engine::{Nanos, thread_cpu_time};

use super::{Client, WorkerPhase};

const INTERVAL: Duration = Duration::from_millis(20);
/// Ordinary lateness; a check that is less late does not count as a standstill.
const ORDINARY: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// Time of the next check of the worker's own time.
    due: Nanos,
    /// CPU time of the worker's thread at the last check.
    cpu: Duration,
    /// Time of the next check of any kind. Never before the load or after the window.
    pub(super) next: Option<Nanos>,
}

impl Client {
    pub(super) fn begin_watch(&mut self) {
        let due = self.now + INTERVAL;
        self.watch = Watch { due, cpu: thread_cpu_time(), next: Some(due) };
    }

    #[cold]
    pub(super) fn look(&mut self) {
        if self.watch.next.is_none() {
            return;
        }
        if self.now >= self.watch.due {
            self.look_at_own_time();
        }
        let end = self.shared.window.end();
        let mut next = self.watch.due.min(end);
        if let Some(pace) = &mut self.pace {
            self.tally.enter_repeated();
            pace.read(self.now, self.tally.received.total, self.outstanding);
            next = next.min(pace.next());
        }
        if self.tally.staged.is_some() {
            next = next.min(self.read_stages());
        }
        self.watch.next = (self.now < end).then_some(next);
        if self.now >= end {
            self.end_window(end);
        }
    }

    /// Reads the counts where a stage begins or is half over. Returns the next time to do so.
    fn read_stages(&mut self) -> Nanos {
        self.tally.enter_repeated();
        let (received, errors) = (self.tally.received.total, self.tally.faults());
        let Some(staged) = &mut self.tally.staged else { return Nanos::NEVER };
        staged.stages.read(self.now, received, errors, self.outstanding);
        staged.stages.next()
    }

    fn look_at_own_time(&mut self) {
        let (now, cpu) = (self.now, thread_cpu_time());
        let window = &self.shared.window;
        // Only the part within the window counts.
        let late = now.min(window.end()).since(self.watch.due.max(window.start()));
        let still = late.saturating_sub(cpu.saturating_sub(self.watch.cpu));
        if still > ORDINARY {
            self.tally.standstill.add(still);
        }
        (self.watch.due, self.watch.cpu) = (now + INTERVAL, cpu);
    }

    /// Handles the end of the window: messages that are outstanding now belong to the result.
    fn end_window(&mut self, end: Nanos) {
        let last_second = self.shared.window.last_second();
        self.tally.end_window(last_second.filter(|_| !self.shared.load.is_open_loop()));
        self.finish_pace();
        if self.phase == WorkerPhase::Loading {
            self.count_waiting(end);
        }
    }

    /// Handles the last message of a limited number. Its echo ends the window, when all echoes are
    /// back: pace and waiting are read now.
    pub(super) fn end_limited_load(&mut self) {
        self.tally.enter_repeated();
        self.finish_pace();
        self.count_waiting(self.now);
    }

    fn finish_pace(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.finish(self.tally.received.total);
        }
        let (received, errors) = (self.tally.received.total, self.tally.faults());
        if let Some(staged) = &mut self.tally.staged {
            staged.stages.finish(received, errors);
        }
    }

    /// Counts how long the connections have been waiting for their oldest echoes.
    fn count_waiting(&mut self, now: Nanos) {
        let oldest = self.links.iter().filter_map(|link| link.ledger.unanswered().next());
        oldest.for_each(|(times, _)| self.tally.waits_at_end(now.since(times.sent)));
    }
}

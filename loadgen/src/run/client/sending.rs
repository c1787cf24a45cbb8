//! Sending: at the end of a turn, just before the enter that carries it.

use std::ops::Range;
use std::time::Duration;

use engine::{Nanos, Output, Worker};

use super::super::ledger::Times;
use super::super::shared::{Position, Report};
use super::{Client, SENDS_PER_ENTER, Stage, WorkerPhase};

/// Time after the window in which an open loop may send what was due in it.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Time after which a connection whose unsent bytes left no room is looked at again. Nearly always
/// the engine reports earlier that they have left. It does not where they were written in one turn,
/// and left in it.
const WRITE_AGAIN: Duration = Duration::from_millis(10);

/// The next attempt to write the unwritten messages of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NextWrite {
    #[default]
    None,
    /// In the next turn: the engine may have nothing to report.
    NextTurn,
    /// When the engine reports [`drained`](engine::Handler::drained).
    Drained,
}

impl Client {
    // The closed loop.

    /// Fills the pipelines of all connections that have room: one clock read, one send for each.
    pub(super) fn refill(&mut self, w: &mut Worker<'_, Self>) {
        let now = w.clock();
        let position = self.shared.window.position(now);
        let mut dirty = std::mem::take(&mut self.dirty);
        for &link in &dirty {
            let state = &mut self.links[link as usize];
            state.is_dirty = false;
            if position == Position::After {
                continue;
            }
            let (Stage::Open, Some(id)) = (&state.stage, state.id) else { continue };
            if state.left > 0 {
                w.with(id, |_, out| self.fill(link, now, position, out));
            } else if state.ledger.outstanding() == 0 {
                self.retire(link, position, w);
            }
        }
        dirty.clear();
        self.dirty = dirty;
        self.exclude_compressing(now, w);
        if self.write_at() != Nanos::NEVER {
            self.wake_at(Nanos::NEVER, w);
        }
    }

    /// Writes sent messages, as far as the unsent bytes before them allow.
    #[inline]
    pub(super) fn write(&mut self, link: u32, out: &mut Output<'_>) {
        let state = &mut self.links[link as usize];
        let unwritten = state.unwritten..state.ledger.next();
        let left = if self.is_plain {
            let (content, connection) = (&self.shared.content, self.shard.number(link));
            state.unwritten = self.outgoing.send(content, connection, unwritten.clone(), out);
            state.unwritten
        } else {
            let left = self.write_otherwise(link, unwritten.clone(), out);
            self.links[link as usize].unwritten = left;
            left
        };
        if left != unwritten.end {
            self.write_later(link, left != unwritten.start);
        }
    }

    /// Writes messages that are not plain generated ones. Returns the first that is left.
    #[inline(never)]
    fn write_otherwise(&mut self, link: u32, unwritten: Range<u64>, out: &mut Output<'_>) -> u64 {
        if self.shared.own.is_some() {
            return self.write_own(link, unwritten, out);
        }
        let of = (link, self.shard.number(link));
        let (shared, outgoing) = (&self.shared, &mut self.outgoing);
        match &mut self.compression {
            None => outgoing.send(&shared.content, of.1, unwritten, out),
            Some(compression) => {
                let tally = &mut self.tally.compression;
                compression.send(shared, outgoing, tally, of, unwritten, out)
            }
        }
    }

    #[cold]
    fn write_later(&mut self, link: u32, has_written: bool) {
        let next = &mut self.links[link as usize].next_write;
        match (*next, has_written) {
            (NextWrite::NextTurn, _) | (NextWrite::Drained, false) => {}
            (_, true) => {
                *next = NextWrite::NextTurn;
                self.next_turn.push(link);
            }
            (NextWrite::None, false) => {
                *next = NextWrite::Drained;
                self.held_back.push(link);
                self.write_again_at = self.write_again_at.min(self.now + WRITE_AGAIN);
            }
        }
    }

    /// Writes more in this turn where bytes were held back and have left.
    pub(super) fn write_in_this_turn(&mut self, link: u32) {
        let next = &mut self.links[link as usize].next_write;
        if *next == NextWrite::Drained {
            *next = NextWrite::NextTurn;
            self.next_turn.push(link);
        }
    }

    /// Returns the time of the next attempt to write.
    fn write_at(&self) -> Nanos {
        if self.next_turn.is_empty() { self.write_again_at } else { self.now }
    }

    /// Returns true if messages are to be written in this turn.
    #[inline]
    pub(super) fn has_to_write(&self) -> bool {
        !self.next_turn.is_empty() || self.now >= self.write_again_at
    }

    /// Writes messages that have not been written. None follows a Close.
    #[cold]
    pub(super) fn write_on(&mut self, w: &mut Worker<'_, Self>) {
        if self.now >= self.write_again_at {
            self.write_again_at = Nanos::NEVER;
            for link in std::mem::take(&mut self.held_back) {
                self.write_in_this_turn(link);
            }
        }
        let count = self.next_turn.len();
        for index in 0..count {
            let link = self.next_turn[index];
            let state = &mut self.links[link as usize];
            state.next_write = NextWrite::None;
            if let (Stage::Open, Some(id)) = (&state.stage, state.id) {
                // Lists the connection again where something is left.
                w.with(id, |_, out| self.write(link, out));
            }
        }
        self.next_turn.drain(..count);
        self.wake_at(Nanos::NEVER, w);
    }

    fn fill(&mut self, link: u32, now: Nanos, position: Position, out: &mut Output<'_>) {
        let state = &self.links[link as usize];
        let room =
            self.shared.load.pipeline.saturating_sub(state.ledger.outstanding()).min(state.left);
        let count = u64::from(room).min(self.budget) as u32;
        self.spend(count, position);
        self.enter(link, Times { due: now, sent: now }, count, position, out);
    }

    /// Counts messages as sent, and writes them.
    #[inline]
    fn enter(
        &mut self,
        link: u32,
        times: Times,
        count: u32,
        position: Position,
        out: &mut Output<'_>,
    ) {
        let state = &mut self.links[link as usize];
        let mut lost = 0;
        for _ in 0..count {
            lost += state.ledger.send(times);
        }
        state.spend(count);
        self.outstanding += u64::from(count);
        if lost > 0 {
            self.tally.integrity.lost += lost;
            self.outstanding -= lost;
            (0..lost).for_each(|_| self.tally.failed(position.second()));
        }
        self.tally.sent(count, position.second());
        self.write(link, out);
        if !self.is_plain {
            let next = self.links[link as usize].ledger.next();
            self.note_entered(link, next - u64::from(count));
        }
    }

    /// Takes messages off what is left to be sent in the window, where that is limited.
    fn spend(&mut self, count: u32, position: Position) {
        if position.second().is_some() && self.budget != u64::MAX {
            self.budget -= u64::from(count);
        }
    }

    // The open loop.

    /// Sends what is due, [`SENDS_PER_ENTER`] messages at most, and has the worker come back for
    /// the next.
    ///
    /// Late messages go out as soon as they can, in the order of the plan, with their planned time.
    pub(super) fn send_due(&mut self, w: &mut Worker<'_, Self>) {
        self.retire_spent(w);
        let now = w.clock();
        self.send_due_at(now, w);
        self.exclude_compressing(now, w);
    }

    #[inline]
    fn send_due_at(&mut self, now: Nanos, w: &mut Worker<'_, Self>) {
        let position = self.shared.window.position(now);
        let end = self.shared.window.end();
        for _ in 0..SENDS_PER_ENTER {
            let Some(schedule) = &self.schedule else { return };
            let (due, link) = (schedule.due(), schedule.link());
            if due >= end || self.budget == 0 || now > end + CATCH_UP {
                return self.end_load(w);
            }
            if due > now {
                return self.wake_at(due, w);
            }
            let Some(link) = self.with_room(link) else {
                return self.wait_for_room(now, position, w);
            };
            if let Some(since) = self.blocked_since.take() {
                self.downtime = (since, now);
            }
            // The server caused the time without an open connection, so it does not count as lag:
            // the message counts as sent that much earlier.
            let (since, until) = self.downtime;
            let sent = Nanos(now.0 - until.since(due.max(since)).as_nanos() as u64);
            if !self.send_one(link, Times { due, sent }, position, w) {
                // The engine knows that the connection has ended, and reports it later.
                self.links[link as usize].id = None;
            }
        }
        self.wake_at(now, w);
    }

    /// Sends the message that is due. Returns false if the connection takes none any more.
    fn send_one(
        &mut self,
        link: u32,
        times: Times,
        position: Position,
        w: &mut Worker<'_, Self>,
    ) -> bool {
        let Some(id) = self.links[link as usize].id else { return false };
        if w.with(id, |_, out| self.enter(link, times, 1, position, out)).is_none() {
            return false;
        }
        if let Some(schedule) = &mut self.schedule {
            schedule.advance();
        }
        let planned = self.shared.window.position(times.due);
        self.tally.offered += u64::from(planned.second().is_some());
        if let Some(pace) = &mut self.pace {
            pace.plan(times.due, 1);
        }
        self.spend(1, planned);
        true
    }

    /// Returns the connection for a message: the planned one, or the next that has room.
    fn with_room(&mut self, planned: u32) -> Option<u32> {
        let (before, after) = (0..planned, planned..self.shard.count());
        after.chain(before).find(|&link| {
            let state = &self.links[link as usize];
            let has_room = state.ledger.outstanding() < self.shared.load.max_outstanding;
            let is_open = matches!(state.stage, Stage::Open) && state.id.is_some();
            self.tally.was_full |= is_open && !has_room;
            is_open && has_room && state.left > 0
        })
    }

    /// Closes the connections that have sent all they are to send and got everything back.
    fn retire_spent(&mut self, w: &mut Worker<'_, Self>) {
        while let Some(link) = self.dirty.pop() {
            let state = &mut self.links[link as usize];
            state.is_dirty = false;
            if matches!(state.stage, Stage::Open)
                && state.left == 0
                && state.ledger.outstanding() == 0
            {
                self.retire(link, self.position, w);
            }
        }
    }

    /// Waits until the next echo or connection makes room, where all connections are full or gone.
    /// After the window there is no wait.
    fn wait_for_room(&mut self, now: Nanos, position: Position, w: &mut Worker<'_, Self>) {
        if position == Position::After {
            return self.end_load(w);
        }
        let loaded = &self.links[..self.shard.count() as usize];
        if !loaded.iter().any(|link| matches!(link.stage, Stage::Open) && link.left > 0) {
            self.blocked_since.get_or_insert(now);
        }
        self.wake_at(self.shared.window.end(), w);
    }

    /// Ends the load: nothing more is sent, and the rest of the plan counts as not sent.
    pub(super) fn end_load(&mut self, w: &mut Worker<'_, Self>) {
        self.phase = WorkerPhase::Draining;
        if self.budget == 0 {
            self.end_limited_load();
        }
        self.wake_at(Nanos::NEVER, w);
        self.count_rest();
        self.report(Report::LoadEnded);
    }

    /// Counts the messages that were planned and are not sent.
    pub(super) fn count_rest(&mut self) {
        let window = &self.shared.window;
        let (start, end) = (window.start(), window.end());
        let Some(schedule) = &self.schedule else {
            self.tally.not_sent = if self.budget == u64::MAX { 0 } else { self.budget };
            return;
        };
        let rest = schedule.until(end);
        let after = |from: Nanos| rest - schedule.until(from).min(rest);
        let in_window = after(start).min(self.budget);
        self.tally.offered += in_window;
        self.tally.not_sent = rest - after(start) + in_window;
        if let Some(pace) = &mut self.pace {
            pace.plan_rest(|border| after(border).min(self.budget));
        }
        if let Some(staged) = &mut self.tally.staged {
            let until = |border: Nanos| schedule.until(border.min(end)).min(rest);
            staged.stages.plan(schedule.planned(), |from, to| until(to) - until(from));
        }
    }

    /// Sets the alarm to `at`, or to an earlier time at which something else is due.
    pub(super) fn wake_at(&mut self, at: Nanos, w: &mut Worker<'_, Self>) {
        let look = self.watch.next.unwrap_or(Nanos::NEVER);
        let first = at.min(self.next_reopening()).min(look).min(self.write_at());
        w.set_alarm((first != Nanos::NEVER).then_some(first));
    }
}

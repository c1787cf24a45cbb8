//! WebSockets with faults.

use std::time::Duration;

use engine::{CloseMode, ConnId, Nanos, Output, Worker};

use super::WebSocketEcho;
use crate::admission::Rejection;
use crate::connection::{Connection, Parked, Stage};
use crate::echo::{Flow, Input, Peer};
use crate::faults::{Fault, Faulty, FaultyOpening, Step};

/// Time after which an end waits again for output that the kernel has not accepted.
const FLUSH_CHECK: Duration = Duration::from_millis(1);

impl WebSocketEcho {
    /// Counts a refusal that a client has asked for.
    pub(super) fn count_refused_on_request(&mut self, declined: &Rejection) {
        if let Some(faults) = self.faults.as_mut().filter(|_| declined.is_on_request()) {
            faults.counters.count(Fault::Refuse);
        }
    }

    /// Opens a WebSocket with faults. It has no compression.
    pub(super) fn open_faulty(
        &mut self,
        id: ConnId,
        c: &mut Connection,
        opening: FaultyOpening,
        out: &mut Output<'_>,
    ) {
        let Some(faults) = &mut self.faults else { return };
        let faulty = Faulty::new(opening, out.now(), &mut faults.counters);
        self.metrics.opened += 1;
        c.stage = Stage::Faulty(Box::new(faulty));
        out.set_deadline(self.first_deadline(c, out.now()));
        self.release(id, c, out);
    }

    /// Reads frames of a WebSocket with faults, from `at` on.
    pub(super) fn faulty_received(
        &mut self,
        id: ConnId,
        c: &mut Connection,
        bytes: &mut [u8],
        at: usize,
        out: &mut Output<'_>,
    ) {
        let (Stage::Faulty(faulty), Some(faults)) = (&mut c.stage, &mut self.faults) else {
            return;
        };
        let (arrivals, now) = (self.echo.arrivals(), out.now());
        let mut record = std::mem::take(&mut faults.record);
        let peer =
            Peer { socket: &mut faulty.socket, assembly: &mut c.assembly, account: &mut c.account };
        let flow =
            self.echo.read(peer, bytes, at, Input::Kept, &mut record.begin(now, 0, bytes.len()));
        let pieces = record.segments().iter().map(|piece| record.bytes(piece, bytes));
        let replies = pieces.collect::<Vec<_>>().concat();
        record.discard_segments();
        record.clear_arena();
        faults.record = record;
        faulty.add_replies(&replies, now, &mut faults.counters);
        match flow {
            Ok(Flow::Open) => {}
            Ok(Flow::Closed(close)) => {
                let mode = if c.was_pinged { CloseMode::Flush } else { CloseMode::Finish };
                faulty.end(now, Step::AnswerClose(close, mode));
            }
            Ok(Flow::ClosedAndSent(close)) => {
                faulty.end(now, Step::AnswerClose(close, CloseMode::Flush));
            }
            Ok(Flow::Parked) => unreachable!("nothing is inflated without compression"),
            Err(error) => faulty.end(now, Step::Fault(error)),
        }
        if self.echo.arrivals() != arrivals {
            c.clear_stuck();
        }
        if self.charges && !self.charge(c, (bytes.len() - at) as u64, out) {
            return;
        }
        self.release(id, c, out);
    }

    /// Handles the peer's FIN: what is held is sent before the end.
    pub(super) fn faulty_eof(&mut self, id: ConnId, c: &mut Connection, out: &mut Output<'_>) {
        if let Stage::Faulty(faulty) = &mut c.stage {
            faulty.end(out.now(), Step::Eof);
            self.release(id, c, out);
        }
    }

    /// Handles the deadline of a WebSocket with faults. While it is not read from, nothing can
    /// arrive, and nothing but what is held is sent.
    pub(super) fn faulty_deadline(&mut self, c: &mut Connection, out: &mut Output<'_>) {
        let now = out.now();
        if c.parked == Parked::No {
            return self.on_deadline(c, out);
        }
        c.heard(now);
        if c.paused_until() <= now {
            c.set_paused_until(Nanos::NEVER);
        }
        let next = self.first_deadline(c, now);
        out.set_deadline(next.into_iter().chain(c.pause_end()).min());
    }

    /// Carries out the steps of a connection whose time has come, and schedules the next one.
    fn release(&mut self, id: ConnId, c: &mut Connection, out: &mut Output<'_>) {
        let now = out.now();
        while let Stage::Faulty(faulty) = &mut c.stage {
            let Some(step) = faulty.take_due(now) else { break };
            match step {
                Step::Send(frames) => out.give(frames),
                Step::GoOn => {}
                // An abort discards what is unsent, and only an abort ends TLS without a word.
                Step::End if out.unsent() > 0 => {
                    faulty.put_back(now + FLUSH_CHECK, Step::End);
                    break;
                }
                Step::End => self.finish(c, CloseMode::Abort, out),
                Step::Close(code) => self.close(c, code, "on request", out),
                Step::AnswerClose(close, mode) => self.answer_close(c, &close, mode, out),
                Step::Fault(error) => self.fault(c, &error, out),
                Step::Eof => self.finish(c, CloseMode::Flush, out),
            }
        }
        self.block_or_read(c, out);
        if let (Stage::Faulty(faulty), Some(faults)) = (&mut c.stage, &mut self.faults) {
            faults.schedule(id, faulty);
            self.has_turn_work = true;
        }
    }

    /// Pauses reading while the connection is stalled, holds too much or ends.
    fn block_or_read(&self, c: &mut Connection, out: &mut Output<'_>) {
        let (Stage::Faulty(faulty), Some(settings)) = (&c.stage, &self.settings.faults) else {
            return;
        };
        let is_blocked = faulty.is_blocked(settings.high_water);
        if is_blocked && c.parked == Parked::No {
            c.parked = Parked::Yes;
            out.pause();
        } else if !is_blocked && c.parked != Parked::No {
            c.parked = Parked::No;
            c.heard(out.now());
            if c.paused_until() == Nanos::NEVER {
                out.resume();
            }
        }
    }

    /// Carries out the steps of all connections whose time has come.
    #[inline]
    pub(super) fn release_due(&mut self, w: &mut Worker<'_, Self>) {
        // Then the alarm is set again, also where a connection has ended that it was set for.
        self.has_turn_work |= self.faults.is_some();
        while let Some(id) = self.faults.as_mut().and_then(|faults| faults.take_due(w.now())) {
            w.with(id, |c, out| {
                if let Stage::Faulty(faulty) = &mut c.stage {
                    faulty.was_taken();
                    self.release(id, c, out);
                }
            });
        }
    }

    /// Sets the worker's alarm to the first step of all connections.
    pub(super) fn set_fault_alarm(&mut self, w: &mut Worker<'_, Self>) {
        if let Some(faults) = &self.faults {
            self.lifecycle.set_handler_alarm(w, faults.first());
        }
    }
}

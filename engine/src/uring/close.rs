//! The ways out: gentle, abrupt, and the end of the worker.

use std::time::Duration;

use crate::accounting::Counters;
use crate::connection::{Cause, State};
use crate::error::EngineError;
use crate::handler::Handler;
use crate::handler::Worker;
use crate::time::Nanos;
use crate::token::{OpKind, Token};
use crate::uring::Core;
use crate::uring::pieces::Chain;
use crate::uring::ring::{Completion, Op, Ring, Wait};
use crate::uring::slot::{Connecting, Marks, Slot};

/// How long the end of a worker waits for operations that were cancelled.
const QUIESCE: Duration = Duration::from_secs(1);

impl<R: Ring, H: Handler> Core<'_, R, H> {
    /// The handler closes gently: output first, then the half-close, then the other end's FIN.
    pub(super) fn begin_drain(&mut self, slot: u32) {
        let linger = self.config.linger.bytes.max(1);
        let s = &mut self.slots[slot as usize];
        if s.state == State::Open {
            s.state = State::Draining;
            s.deadline = Nanos::NEVER;
            let extra = s.extra();
            extra.linger_left = linger;
            extra.stash.clear();
            s.marks.clear(Marks::PAUSED | Marks::HELD_BACK);
            // It may have been paused; input must be read to be discarded.
            self.rearm.push(slot);
            self.leaving.push(slot);
        }
    }

    /// The connection has no way on. Operations under way are cancelled; when the last has completed, the descriptor is
    /// closed.
    pub(super) fn end(&mut self, slot: u32, cause: Cause) {
        let s = &mut self.slots[slot as usize];
        if !matches!(s.state, State::Open | State::Draining | State::Lingering) {
            return;
        }
        s.state = State::Closing;
        (s.deadline, s.timer) = (Nanos::NEVER, Nanos::NEVER);
        s.extra().cause = Some(cause);
        let mut chain = std::mem::replace(&mut s.chain, Chain::EMPTY);
        self.drop_chain(&mut chain);
        self.reschedule(slot);
        self.leaving.push(slot);
    }

    /// Takes every connection that is on its way out a step further, where nothing holds it.
    pub(super) fn step_leaving(&mut self) {
        let mut leaving = std::mem::take(&mut self.leaving);
        for slot in leaving.drain(..) {
            let s = &self.slots[slot as usize];
            match s.state {
                State::Draining => self.step_draining(slot),
                State::Closing if !s.marks.any(Marks::CLOSE_QUEUED) => self.step_ending(slot),
                _ => {}
            }
        }
        // Steps may have led to further ones, which the next turn takes at once.
        leaving.append(&mut self.leaving);
        self.leaving = leaving;
    }

    fn step_draining(&mut self, slot: u32) {
        self.look_again_after_silent_send(slot);
        let s = &mut self.slots[slot as usize];
        if s.unsent() > 0 || s.marks.any(Marks::SENDING | Marks::BACKLOG) {
            return;
        }
        if s.marks.any(Marks::EOF) {
            self.end(slot, Cause::PeerClosed);
            return;
        }
        s.state = State::Lingering;
        s.marks.set(Marks::SHUTTING);
        let token = s.token(OpKind::Shutdown, slot);
        self.push(token, Op::Shutdown { slot });
        self.set_timer(slot, self.now + self.config.linger.time);
        if self.slots[slot as usize].extra().linger_left == 0 {
            // As many bytes have come as are discarded: nobody waits for the other end's FIN.
            self.end(slot, Cause::Closed);
        }
    }

    pub(super) fn on_shutdown(&mut self, c: Completion) {
        if let Some(s) = self.live(c.token) {
            // An error says that the other end is gone already, of which the receive tells too.
            s.marks.clear(Marks::SHUTTING);
            if s.state == State::Closing {
                self.leaving.push(c.token.slot());
            }
        }
    }

    /// No completion will wake the worker for a silent send that takes everything: the next turn must not wait.
    fn look_again_after_silent_send(&mut self, slot: u32) {
        if self.sends_finish && self.slots[slot as usize].marks.any(Marks::SENDING) {
            self.leaving.push(slot);
        }
    }

    fn step_ending(&mut self, slot: u32) {
        self.look_again_after_silent_send(slot);
        self.cancel_receive(slot);
        let s = &mut self.slots[slot as usize];
        if s.marks.any(Marks::BACKLOG) && !s.marks.any(Marks::ABORTING) {
            s.marks.set(Marks::ABORTING);
            let target = s.token(OpKind::Backlog, slot);
            let token = s.token(OpKind::Cancel, slot);
            self.push(token, Op::Cancel { target });
        }
        self.cancel_watch(slot);
        let s = &mut self.slots[slot as usize];
        let under_way = Marks::RECEIVING | Marks::SENDING | Marks::BACKLOG | Marks::SHUTTING | Marks::WATCHED;
        if !s.marks.any(under_way) {
            self.close_descriptor(slot);
        }
    }

    pub(super) fn close_descriptor(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        s.state = State::Closing;
        s.marks.set(Marks::CLOSE_QUEUED);
        let token = s.token(OpKind::Close, slot);
        self.push(token, Op::Close { slot });
    }

    /// Handles the close of a descriptor. The slot is free, and the handler learns how its connection ended,
    /// or why its connect failed.
    pub(super) fn on_close(&mut self, handler: &mut H, token: Token) {
        let slot = token.slot();
        let Some(s) = self.live(token) else { return };
        let id = s.id(slot);
        let accepted = s.marks.any(Marks::ACCEPTED);
        let generation = s.generation.wrapping_add(1);
        let gone = std::mem::replace(s, Slot { generation, ..Slot::free() });
        self.reschedule(slot);
        if accepted {
            self.acceptors.gone();
        } else {
            self.connects.put(slot);
        }
        let mut cause = None;
        if let Some(mut extra) = gone.extra {
            cause = extra.cause.take();
            if let Some(Connecting { tag, error: Some(error), .. }) = extra.connect.take() {
                handler.connect_failed(&mut Worker::new(self), tag, error);
            }
            for chunk in extra.backlog.chunks.drain(..) {
                self.record.pool().put(chunk);
            }
        }
        if let Some(conn) = gone.conn {
            self.open -= 1;
            self.counters.closed += 1;
            handler.closed(id, conn, cause.unwrap_or(Cause::Closed));
        }
    }

    /// The run is over: the turn's output is offered once, every connection has its last word, and no operation is left that
    /// could touch memory which is about to be freed.
    pub(crate) fn finish(mut self, handler: &mut H) -> Result<Counters, EngineError> {
        self.submit();
        self.collect();
        self.settle_if_possible();
        for slot in 0..self.slots.len() {
            let s = &mut self.slots[slot];
            let id = s.id(slot as u32);
            if let Some(conn) = s.conn.take() {
                let cause = s.extra.as_mut().and_then(|e| e.cause.take()).unwrap_or(Cause::Shutdown);
                self.counters.closed += 1;
                handler.closed(id, conn, cause);
            }
        }
        let quiet = self.quiesce();
        let counters = self.counters;
        let fatal = self.fatal.take();
        if !quiet {
            // Something is still under way after a second: memory that the kernel may write to is leaked, not freed.
            tracing::warn!(
                outstanding = self.outstanding,
                "operations of the kernel did not end; their memory is leaked"
            );
            std::mem::forget(self);
        }
        fatal.map_or(Ok(counters), Err)
    }

    fn settle_if_possible(&mut self) {
        if self.fatal.is_none() && self.ring.unsubmitted() == 0 {
            self.settle();
        }
    }

    /// Cancels everything, closes all descriptors, and waits until the last completion is in. Whether it came.
    fn quiesce(&mut self) -> bool {
        self.push(Token::new(OpKind::Cancel, 0, 0), Op::CancelAll);
        for slot in 0..self.slots.len() as u32 {
            if self.slots[slot as usize].state != State::Closed {
                let token = self.slots[slot as usize].token(OpKind::Close, slot);
                self.push(token, Op::Close { slot });
            }
        }
        self.submit();
        let end = self.ring.clock() + QUIESCE;
        loop {
            self.collect();
            while let Some(completion) = self.completions.pop() {
                self.count_off(completion);
            }
            self.settled = 0;
            if self.outstanding == 0 {
                return true;
            }
            if self.fatal.is_some() || self.ring.clock() >= end {
                return false;
            }
            self.enter(Wait::Until(end), 1);
        }
    }
}

//! The meaning of each completion for its connection, and the calls of the handler.

use crate::accounting::{Counters, Load};
use crate::connection::{Cause, CloseMode, ConnId, Connect, Origin, State};
use crate::handler::{Handler, WorkerCore};
use crate::output::{Commands, Output};
use crate::time::Nanos;
use crate::token::OpKind;
use crate::uring::accept::Accepted;
use crate::uring::closing::Closing;
use crate::uring::connect;
use crate::uring::core::Core;
use crate::uring::inbound;
use crate::uring::memory::Source;
use crate::uring::outbound::Outbound;
use crate::uring::ring::{BufferRing, Completion, Ring};
use crate::uring::slots::{Connecting, Flags, cause};

impl<R: Ring, B: BufferRing, H: Handler> Core<'_, R, B, H> {
    /// Handles a completion. Sends have been completed in the first pass.
    pub(super) fn on_completion(&mut self, handler: &mut H, c: Completion) {
        let Some(kind) = c.token.kind() else {
            debug_assert!(false, "a completion without a token");
            return;
        };
        self.queues.count_ended(c);
        match kind {
            OpKind::Send | OpKind::Cancel => {}
            OpKind::Accept => self.on_accept(handler, c),
            OpKind::Wake => self.on_wake(c.more),
            OpKind::Connect => self.on_connect(handler, c),
            OpKind::Receive => self.on_receive(handler, c),
            OpKind::Backlog => self.on_backlog(c),
            OpKind::Shutdown => self.on_shutdown(c),
            OpKind::Watch => self.on_watch(c),
            OpKind::Close => self.on_close(handler, c),
            OpKind::PeerAddress => self.on_peer_address(handler, c),
            OpKind::HandOver => self.on_hand_over(handler, c),
            OpKind::TakeOver => self.on_take_over(handler, c),
        }
    }

    fn on_wake(&mut self, more: bool) {
        self.wakes |= self.inbox.take();
        if !more {
            self.watch_inbox();
        }
    }

    // ---- beginnings

    fn on_accept(&mut self, handler: &mut H, c: Completion) {
        let Some((slot, accepted)) =
            self.acceptors.on_accept(c, self.timers.now, &mut self.counters)
        else {
            return;
        };
        self.occupy(slot);
        self.begin_accepted(handler, slot, accepted);
    }

    /// Handles the arrival of a connection that another worker has accepted.
    fn on_take_over(&mut self, handler: &mut H, c: Completion) {
        let slot = c.result.cast_unsigned();
        let accepted = self.acceptors.take_over(c.token.slot() as u16);
        self.occupy(slot);
        self.begin_accepted(handler, slot, accepted);
    }

    /// Takes a slot of the table for an accepted connection, whose descriptor the kernel chose.
    fn occupy(&mut self, slot: u32) {
        self.slots.grow_to(slot);
        let s = &mut self.slots[slot];
        debug_assert!(s.state == State::Closed, "the kernel chose a slot that is in use");
        s.flags.set(Flags::ACCEPTED);
        s.state = State::Connecting;
    }

    /// Begins with an accepted connection.
    fn begin_accepted(&mut self, handler: &mut H, slot: u32, accepted: Accepted) {
        let s = &mut self.slots[slot];
        match accepted {
            Accepted::Known(from) => {
                self.counters.accepted += 1;
                self.open(handler, slot, from);
            }
            Accepted::Unnamed { listener } => {
                self.counters.accepted += 1;
                self.acceptors.ask_peer(slot, s, listener, &mut self.queues);
                self.inbound.rearm(slot);
            }
            Accepted::Elsewhere { listener, worker, ring } => {
                self.acceptors.hand_over(slot, s, (listener, worker, ring), &mut self.queues);
            }
        }
    }

    /// Handles the outcome of handing a connection over. Its slot is free, unless the other worker
    /// could not take it.
    fn on_hand_over(&mut self, handler: &mut H, c: Completion) {
        let slot = c.token.slot();
        let Some(s) = self.slots.of(c.token) else { return };
        match self.acceptors.on_hand_over(c) {
            None if mutated!(HandedOverKept) => {}
            None => {
                self.slots.remove(slot);
                self.acceptors.left(false);
            }
            Some(accepted) => {
                s.flags.clear(Flags::HANDED_OVER);
                self.begin_accepted(handler, slot, accepted);
            }
        }
    }

    /// Handles the answer to the question for a connection's peer.
    fn on_peer_address(&mut self, handler: &mut H, c: Completion) {
        let slot = c.token.slot();
        let Some(s) = self.slots.of(c.token) else { return };
        s.flags.clear(Flags::NAMING);
        let (state, named) = (s.state, self.acceptors.named(slot));
        match (state, named) {
            (State::Connecting, Some(from)) => self.open(handler, slot, from),
            _ => self.check_closing(slot),
        }
    }

    fn on_connect(&mut self, handler: &mut H, c: Completion) {
        let slot = c.token.slot();
        let Some(s) = self.slots.of(c.token) else { return };
        if let Some(tag) =
            connect::on_connect(slot, s, c.result, &mut self.queues, &mut self.timers)
        {
            self.counters.connected += 1;
            self.open(handler, slot, Origin::Connected { tag });
        }
    }

    /// Opens a connection: the handler creates its state, and it is read from.
    fn open(&mut self, handler: &mut H, slot: u32, from: Origin) {
        self.slots.open += 1;
        let s = &mut self.slots[slot];
        s.state = State::Open;
        let id = s.id(slot);
        let conn = handler.opened(id, from, &mut self.memory.record.begin(self.timers.now, 0, 0));
        self.slots[slot].conn = Some(conn);
        self.apply_output(slot, Source::Nowhere);
        self.inbound.rearm(slot);
    }

    // ---- input

    fn on_receive(&mut self, handler: &mut H, c: Completion) {
        let slot = c.token.slot();
        let Some(s) = self.slots.of(c.token) else {
            if let Some(id) = c.buffer {
                self.memory.receive.give_back(id);
            }
            return;
        };
        if !c.more {
            self.inbound.receive_ended(slot, s, c, self.memory.receive.supply.is_one_by_one());
        }
        if s.state == State::Connecting {
            // The completion of the question for its peer may come behind that of the receive.
            if let Some(from) = self.acceptors.named(slot) {
                self.open(handler, slot, from);
            }
        }
        match (c.result, c.buffer) {
            (n, Some(id)) if n > 0 => self.on_bytes(handler, slot, id, n.cast_unsigned() as usize),
            (result, buffer) => {
                if let Some(id) = buffer {
                    self.memory.receive.give_back(id);
                }
                match -result {
                    0 => self.on_eof(handler, slot),
                    // No buffer was offered. By now some have been returned, or will be when the
                    // turn's sends are completed.
                    libc::ENOBUFS => {
                        self.counters.enobufs += 1;
                        self.memory.receive.supply.ran_dry();
                    }
                    libc::ECANCELED | libc::EAGAIN | libc::EINTR => {}
                    errno => self.end(slot, cause(errno)),
                }
            }
        }
        if !c.more {
            self.check_closing(slot);
        }
    }

    fn on_bytes(&mut self, handler: &mut H, slot: u32, id: u16, len: usize) {
        self.counters.bytes_in += len as u64;
        // Retained during the call: a handler that echoes and then aborts releases its echoes at
        // once.
        self.memory.receive.retain(id);
        let s = &mut self.slots[slot];
        match s.state {
            State::Open if s.has_caught_up() => {
                let (conn_id, unsent) = (s.id(slot), self.outbound.unsent(s));
                if let Some(conn) = s.conn.as_mut() {
                    let mut out = self.memory.record.begin(self.timers.now, unsent, len);
                    handler.received(conn_id, conn, self.memory.receive.bytes(id, len), &mut out);
                    self.apply_output(slot, Source::Buffer(id));
                }
            }
            State::Open => {
                inbound::stash(s, self.memory.receive.bytes(id, len), self.memory.record.pool());
            }
            State::Draining | State::Lingering => {
                if let Err(cause) = Closing::discard(slot, s, len, &mut self.queues) {
                    self.end(slot, cause);
                }
            }
            _ => {}
        }
        self.memory.receive.release(id);
    }

    fn on_eof(&mut self, handler: &mut H, slot: u32) {
        let s = &mut self.slots[slot];
        s.flags.set(Flags::EOF);
        match s.state {
            State::Open if s.has_caught_up() => self.report_eof(handler, slot),
            State::Open => s.flags.set(Flags::EOF_UNREPORTED),
            State::Lingering => self.end(slot, Cause::PeerClosed),
            _ => {}
        }
    }

    fn report_eof(&mut self, handler: &mut H, slot: u32) {
        self.call_handler(slot, |id, conn, out| handler.eof(id, conn, out));
    }

    fn on_watch(&mut self, c: Completion) {
        let slot = c.token.slot();
        let Some(s) = self.slots.of(c.token) else { return };
        if let Err(cause) = inbound::on_watch(slot, s, c, &mut self.queues) {
            self.end(slot, cause);
        } else if !c.more {
            self.check_closing(slot);
        }
    }

    /// Delivers the bytes that arrived during pauses, and arms the receives again.
    pub(super) fn deliver_stashes(&mut self, handler: &mut H) {
        let mut resumed = self.inbound.take_resumed();
        resumed.retain(|&slot| {
            if !self.slots[slot].is_reading() {
                return false;
            }
            if !self.deliver_stash(handler, slot) {
                return true;
            }
            let s = &mut self.slots[slot];
            if s.is_reading() && s.flags.any(Flags::EOF_UNREPORTED) {
                s.flags.clear(Flags::EOF_UNREPORTED);
                self.report_eof(handler, slot);
            }
            self.inbound.rearm(slot);
            false
        });
        self.inbound.put_back(resumed);
    }

    /// Delivers stashed bytes, chunk by chunk, until the handler pauses again or its output is
    /// above the high-water mark. Returns whether the next turn has nothing left to deliver.
    fn deliver_stash(&mut self, handler: &mut H, slot: u32) -> bool {
        loop {
            let s = &mut self.slots[slot];
            if !s.is_reading() {
                return true;
            }
            let (id, unsent) = (s.id(slot), self.outbound.unsent(s));
            let Some(stash) = s.extra.as_mut().map(|e| &mut e.stash).filter(|s| !s.is_empty())
            else {
                return true;
            };
            if unsent > self.config.high_water {
                // Output of this turn: it is sent first. What the kernel does not accept stops the
                // reading.
                return false;
            }
            let Some(mut chunk) = stash.pop_front() else { return true };
            if let Some(conn) = s.conn.as_mut() {
                let mut out = self.memory.record.begin(self.timers.now, unsent, chunk.len());
                handler.received(id, conn, &mut chunk, &mut out);
                self.apply_output(slot, Source::Stash(&chunk));
            }
            self.memory.record.pool().put(chunk);
        }
    }

    // ---- output

    /// Handles the completion of a send: bytes accepted, or an error.
    pub(super) fn on_sent(&mut self, c: Completion) {
        let slot = c.token.slot();
        let Some(s) = self.slots.of(c.token).filter(|s| s.flags.any(Flags::SENDING)) else {
            debug_assert!(false, "the completion of a send that nobody made");
            return;
        };
        if let Err(cause) =
            self.outbound.complete(s, c.result, &mut self.memory, &mut self.counters)
        {
            self.end(slot, cause);
        }
        self.after_send(slot);
    }

    /// Continues a connection whose send has ended.
    pub(super) fn after_send(&mut self, slot: u32) {
        let s = &mut self.slots[slot];
        match s.state {
            State::Open | State::Draining if s.backlog_bytes() > 0 => {
                self.outbound.send_backlog(slot, s, &mut self.queues, &mut self.timers);
            }
            State::Open => {}
            _ => self.closing.check(slot),
        }
    }

    fn on_backlog(&mut self, c: Completion) {
        let slot = c.token.slot();
        let Some(s) = self.slots.of(c.token) else { return };
        s.flags.clear(Flags::BACKLOG);
        if !s.state.sends() {
            return self.closing.check(slot);
        }
        if let Err(cause) =
            Outbound::backlog_sent(s, c.result, &mut self.memory, &mut self.counters)
        {
            return self.end(slot, cause);
        }
        if s.backlog_bytes() > 0 {
            return self.outbound.send_backlog(slot, s, &mut self.queues, &mut self.timers);
        }
        self.timers.set(slot, s, Nanos::NEVER);
        if s.state == State::Draining {
            self.closing.check(slot);
        } else if self.outbound.report_drained(slot, s) {
            self.inbound.deliver_later(slot);
        }
    }

    /// Reports the backlogs that have been accepted.
    pub(super) fn report_drained(&mut self, handler: &mut H) {
        while let Some(slot) = self.outbound.pop_drained() {
            self.call_handler(slot, |id, conn, out| handler.drained(id, conn, out));
        }
    }

    // ---- timers

    /// Handles the timers of a connection that have passed.
    pub(super) fn on_timer(&mut self, handler: &mut H, slot: u32) {
        let now = self.timers.now;
        let s = &mut self.slots[slot];
        if s.timer() <= now {
            s.extra().timer = Nanos::NEVER;
            match s.state {
                State::Connecting => connect::time_out(slot, s, &mut self.queues),
                State::Open | State::Draining if s.backlog_bytes() > 0 => {
                    self.end(slot, Cause::WriteStalled);
                }
                State::Lingering => self.end(slot, Cause::Closed),
                _ => {}
            }
        }
        let s = &mut self.slots[slot];
        if s.deadline <= now {
            s.deadline = Nanos::NEVER;
            self.call_handler(slot, |id, conn, out| handler.deadline(id, conn, out));
        }
        self.timers.update(slot, &self.slots[slot]);
    }

    // ---- ends

    /// Ends an open connection for a cause. Its unsent output is dropped.
    fn end(&mut self, slot: u32, cause: Cause) {
        let s = &mut self.slots[slot];
        if matches!(s.state, State::Open | State::Draining | State::Lingering) {
            self.outbound.drop_written(s, &mut self.memory);
            self.closing.end(slot, s, cause, &mut self.timers);
        }
    }

    fn check_closing(&mut self, slot: u32) {
        if self.slots[slot].state == State::Closing {
            self.closing.check(slot);
        }
    }

    /// Handles the end of a half-close. Its error says that the peer is gone, which the receive
    /// reports too.
    fn on_shutdown(&mut self, c: Completion) {
        if let Some(s) = self.slots.of(c.token) {
            s.flags.clear(Flags::SHUTTING_DOWN);
            self.check_closing(c.token.slot());
        }
    }

    /// Handles the close of a descriptor. The slot is free, and the handler is told how its
    /// connection ended, or why its connect failed.
    fn on_close(&mut self, handler: &mut H, c: Completion) {
        let slot = c.token.slot();
        if self.slots.of(c.token).is_none() {
            return;
        }
        let gone = self.slots.remove(slot);
        self.timers.update(slot, &self.slots[slot]);
        let id = gone.id(slot);
        if gone.flags.any(Flags::ACCEPTED) {
            self.acceptors.left(true);
        } else {
            self.connects.put(slot);
        }
        let mut cause = None;
        if let Some(mut extra) = gone.extra {
            cause = extra.cause.take();
            if let Some(Connecting { tag, error: Some(error), .. }) = extra.connect.take() {
                handler.connect_failed(self, tag, error);
            }
            for chunk in extra.backlog.chunks.drain(..) {
                self.memory.record.pool().put(chunk);
            }
        }
        if let Some(conn) = gone.conn {
            self.counters.closed += 1;
            handler.closed(id, conn, cause.unwrap_or(Cause::Closed));
        }
    }

    // ---- calls of the handler

    /// Calls `f` for an open connection and applies what it asked for. Returns whether it was
    /// called.
    fn call_handler(
        &mut self,
        slot: u32,
        f: impl FnOnce(ConnId, &mut H::Conn, &mut Output<'_>),
    ) -> bool {
        let s = &mut self.slots[slot];
        let (id, unsent) = (s.id(slot), self.outbound.unsent(s));
        let Some(conn) = s.conn.as_mut().filter(|_| s.state == State::Open) else { return false };
        f(id, conn, &mut self.memory.record.begin(self.timers.now, unsent, 0));
        self.apply_output(slot, Source::Nowhere);
        true
    }

    /// Applies what a call of the handler wrote and asked for.
    fn apply_output(&mut self, slot: u32, source: Source<'_>) {
        if !self.memory.record.segments().is_empty() {
            self.outbound.append(slot, &mut self.slots[slot], source, &mut self.memory);
        }
        let commands = self.memory.record.take_commands();
        if !commands.is_empty() {
            self.apply_commands(slot, commands);
        }
    }

    fn apply_commands(&mut self, slot: u32, commands: Commands) {
        let s = &mut self.slots[slot];
        if let Some(at) = commands.deadline {
            s.deadline = at.unwrap_or(Nanos::NEVER);
            self.timers.update(slot, s);
        }
        match commands.pause {
            Some(true) => self.inbound.pause(slot, s, &mut self.queues),
            Some(false) => self.inbound.resume(slot, s),
            None => {}
        }
        match commands.close {
            None => {}
            Some(CloseMode::Abort) => self.end(slot, Cause::Closed),
            Some(_) if s.state != State::Open => {}
            Some(CloseMode::Flush) => {
                self.closing.drain(slot, s, self.config.linger);
                // The connection may have been paused; its input must be read to be discarded.
                self.inbound.rearm(slot);
            }
            Some(CloseMode::Finish) => self.closing.finish(slot, s, &mut self.queues),
        }
    }
}

impl<R: Ring, B: BufferRing, H: Handler> WorkerCore<H> for Core<'_, R, B, H> {
    fn now(&self) -> Nanos {
        self.timers.now
    }

    fn clock(&self) -> Nanos {
        self.queues.clock()
    }

    fn connect(&mut self, connect: Connect) {
        self.connects.begin(&connect, &mut self.slots, &mut self.queues, &mut self.timers);
    }

    fn call(&mut self, id: ConnId, f: &mut dyn FnMut(&mut H::Conn, &mut Output<'_>)) -> bool {
        self.slots.get(id).is_some() && self.call_handler(id.slot, |_, conn, out| f(conn, out))
    }

    fn abort(&mut self, id: ConnId) {
        if self.slots.get(id).is_some() {
            self.end(id.slot, Cause::Closed);
        }
    }

    fn connections(&self) -> usize {
        self.slots.open
    }

    fn ids(&self) -> Vec<ConnId> {
        let open = self.slots.iter().filter(|(_, s)| s.state == State::Open);
        open.map(|(slot, s)| s.id(slot)).collect()
    }

    fn set_alarm(&mut self, at: Option<Nanos>) {
        self.timers.alarm = at.unwrap_or(Nanos::NEVER);
    }

    fn listening(&mut self, listener: u16, on: bool) {
        self.acceptors.listening(listener, on);
    }

    fn local_addr(&self, listener: u16) -> Option<std::net::SocketAddr> {
        self.config.listeners.get(usize::from(listener))?.socket.local_addr().ok()
    }

    fn stop(&mut self) {
        self.stopping = true;
    }

    fn counters(&self) -> Counters {
        self.counted()
    }

    fn load(&self) -> Load {
        let mut load = Load::default();
        for (_, s) in self.slots.iter().filter(|(_, s)| s.conn.is_some()) {
            let is_paused = s.flags.any(Flags::PAUSED | Flags::ABOVE_HIGH_WATER);
            load.add(is_paused, self.outbound.unsent(s));
        }
        load
    }
}

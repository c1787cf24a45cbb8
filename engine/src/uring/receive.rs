//! Input: multishot receives into provided buffers, pauses, the end of the other side's stream.

use crate::connection::Cause;
use crate::connection::State;
use crate::handler::Handler;
use crate::token::OpKind;
use crate::uring::ring::{Completion, Op, Ring};
use crate::uring::slot::{Marks, cause};
use crate::uring::{Core, Source};

impl<R: Ring, H: Handler> Core<'_, R, H> {
    /// Arms the receives of connections whose last one has ended and who may read: of all whose receives go on, and of as many of
    /// those in the queue as find a buffer.
    pub(super) fn queue_receives(&mut self) {
        let mut rearm = std::mem::take(&mut self.rearm);
        for slot in rearm.drain(..) {
            self.arm_receive(slot, false);
        }
        self.rearm = rearm;
        for _ in 0..self.hot.offered().max(1) {
            let Some(slot) = self.queue.next() else { break };
            self.arm_receive(slot, true);
        }
    }

    fn arm_receive(&mut self, slot: u32, once: bool) {
        let s = &mut self.slots[slot as usize];
        let wanted = match s.state {
            State::Open => s.has_caught_up(),
            // What comes now is discarded, but it must be read: unread input would turn the close into a reset.
            State::Draining | State::Lingering => s.extra().linger_left > 0,
            _ => false,
        };
        if wanted && !s.marks.any(Marks::RECEIVING | Marks::EOF) {
            s.marks.set(Marks::RECEIVING);
            let token = s.token(OpKind::Receive, slot);
            self.push(token, Op::Receive { slot, once });
        }
    }

    /// Ends the receive; its last completion is still to come.
    pub(super) fn cancel_receive(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        if s.marks.any(Marks::RECEIVING) && !s.marks.any(Marks::CANCELLING) {
            s.marks.set(Marks::CANCELLING);
            let target = s.token(OpKind::Receive, slot);
            let token = s.token(OpKind::Cancel, slot);
            self.push(token, Op::Cancel { target });
        }
    }

    pub(super) fn on_receive(&mut self, handler: &mut H, c: Completion) {
        let slot = c.token.slot();
        let Some(s) = self.live(c.token) else {
            self.return_unused(c);
            return;
        };
        if !c.more && !mutated!(MoreIgnored) {
            s.marks.clear(Marks::RECEIVING | Marks::CANCELLING);
            self.receive_again(slot, c);
        }
        match (c.result, c.buffer) {
            (n, Some(id)) if n > 0 => self.on_bytes(handler, slot, id, n.cast_unsigned() as usize),
            (0, _) => {
                self.return_unused(c);
                self.on_eof(handler, slot);
            }
            (e, _) => {
                self.return_unused(c);
                self.on_receive_error(slot, -e);
            }
        }
        if !c.more && self.slots[slot as usize].state == State::Closing {
            self.leaving.push(slot);
        }
    }

    /// A receive has ended: says when the next one is made.
    fn receive_again(&mut self, slot: u32, c: Completion) {
        let large = c.result.max(0).cast_unsigned() as usize >= self.config.uring.large_receive;
        match c.result {
            e if e == -libc::ENOBUFS && self.hot.one_by_one() => self.queue.found_no_buffer(slot),
            _ if large && c.unread => self.queue.has_more(slot),
            _ if large => self.queue.had_all(slot),
            _ => self.rearm.push(slot),
        }
    }

    fn on_receive_error(&mut self, slot: u32, errno: i32) {
        match errno {
            // No buffer was free. By now some have been given back, or will have been when the turn's sends are settled.
            libc::ENOBUFS => {
                self.counters.enobufs += 1;
                self.hot.ran_dry();
            }
            libc::ECANCELED | libc::EAGAIN | libc::EINTR => {}
            errno => self.end(slot, cause(errno)),
        }
    }

    fn return_unused(&mut self, c: Completion) {
        if let Some(id) = c.buffer {
            self.give_back(id);
        }
    }

    fn on_bytes(&mut self, handler: &mut H, slot: u32, id: u16, len: usize) {
        self.counters.bytes_in += len as u64;
        // The buffer is named for the length of the call: a handler that echoes and then aborts drops its echoes at once.
        self.name_buffer(id);
        let s = &mut self.slots[slot as usize];
        match s.state {
            State::Open if s.has_caught_up() => {
                let (conn_id, unsent) = (s.id(slot), s.unsent());
                if let Some(conn) = s.conn.as_mut() {
                    let mut out = self.record.begin(self.now, unsent, len);
                    handler.received(conn_id, conn, self.ring.buffer(id, len), &mut out);
                    self.absorb(slot, Source::Buffer(id));
                }
            }
            State::Open => self.stash(slot, id, len),
            State::Draining | State::Lingering => {
                let left = &mut s.extra().linger_left;
                *left = left.saturating_sub(len as u64);
                match (*left, s.state) {
                    (0, State::Lingering) => self.end(slot, Cause::Closed),
                    // What was written before the close still leaves.
                    (0, _) => self.cancel_receive(slot),
                    _ => {}
                }
            }
            _ => {}
        }
        self.unname_buffer(id);
    }

    /// One thing more refers to a receive buffer.
    pub(super) fn name_buffer(&mut self, id: u16) {
        let named = &mut self.named[usize::from(id)];
        self.held += usize::from(*named == 0);
        *named += 1;
    }

    /// Nothing refers to a buffer any more.
    fn give_back(&mut self, id: u16) {
        self.ring.give_back(id);
        self.hot.put(id);
    }

    /// One thing less; after the last the buffer goes back to the ring.
    pub(super) fn unname_buffer(&mut self, id: u16) {
        let named = &mut self.named[usize::from(id)];
        *named -= 1;
        if *named == 0 {
            self.held -= 1;
            self.give_back(id);
        }
    }

    fn on_eof(&mut self, handler: &mut H, slot: u32) {
        let s = &mut self.slots[slot as usize];
        s.marks.set(Marks::EOF);
        match s.state {
            State::Open if s.has_caught_up() => self.tell_eof(handler, slot),
            State::Open => s.marks.set(Marks::EOF_UNTOLD),
            State::Lingering => self.end(slot, Cause::PeerClosed),
            _ => {}
        }
    }

    fn tell_eof(&mut self, handler: &mut H, slot: u32) {
        let s = &mut self.slots[slot as usize];
        let (id, unsent) = (s.id(slot), s.unsent());
        if let Some(conn) = s.conn.as_mut() {
            let mut out = self.record.begin(self.now, unsent, 0);
            handler.eof(id, conn, &mut out);
            self.absorb(slot, Source::Nowhere);
        }
    }

    // ---- pauses

    pub(super) fn pause(&mut self, slot: u32) {
        self.slots[slot as usize].marks.set(Marks::PAUSED);
        self.cancel_receive(slot);
        self.watch(slot);
    }

    /// Asks the kernel to report a reset while there is no receive to report it. The watch stays for later
    /// pauses. A connection that waits for its send needs none, because the send reports the reset.
    fn watch(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        if !s.marks.any(Marks::WATCHED) {
            s.marks.set(Marks::WATCHED);
            let token = s.token(OpKind::Watch, slot);
            self.push(token, Op::Watch { slot });
        }
    }

    pub(super) fn cancel_watch(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        if s.marks.any(Marks::WATCHED) && !s.marks.any(Marks::UNWATCHING) {
            s.marks.set(Marks::UNWATCHING);
            let target = s.token(OpKind::Watch, slot);
            let token = s.token(OpKind::Cancel, slot);
            self.push(token, Op::Cancel { target });
        }
    }

    /// Handles a change of the socket's state: a reset, or a FIN, which a receive reports in its turn.
    pub(super) fn on_watch(&mut self, c: Completion) {
        let slot = c.token.slot();
        let Some(s) = self.live(c.token) else { return };
        if !c.more {
            s.marks.clear(Marks::WATCHED | Marks::UNWATCHING);
        }
        let is_reset = c.result & i32::from(libc::POLLERR | libc::POLLHUP) != 0;
        match s.state {
            // While reads go on, a receive reports it, after the input that arrived before.
            State::Open if c.result >= 0 && s.marks.any(Marks::PAUSED) => {
                if is_reset {
                    self.end(slot, Cause::Reset);
                } else if !c.more {
                    self.watch(slot);
                }
            }
            State::Closing if !c.more => self.leaving.push(slot),
            _ => {}
        }
    }

    pub(super) fn resume(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        if s.marks.any(Marks::PAUSED) {
            s.marks.clear(Marks::PAUSED);
            self.resumed.push(slot);
        }
    }

    /// Hands over what arrived during pauses, and arms the receives again.
    pub(super) fn deliver_stashes(&mut self, handler: &mut H) {
        let mut resumed = std::mem::take(&mut self.resumed);
        for slot in resumed.drain(..) {
            if !self.slots[slot as usize].is_listening() {
                continue;
            }
            if !self.deliver_stash(handler, slot) {
                self.resumed.push(slot);
                continue;
            }
            let s = &mut self.slots[slot as usize];
            if s.is_listening() && s.marks.any(Marks::EOF_UNTOLD) {
                s.marks.clear(Marks::EOF_UNTOLD);
                self.tell_eof(handler, slot);
            }
            self.rearm.push(slot);
        }
        // What a handler resumed within these calls comes in the next turn.
        resumed.append(&mut self.resumed);
        self.resumed = resumed;
    }

    /// Keeps what came after a pause. In pieces: one growing buffer would be copied and leave its smaller selves behind.
    fn stash(&mut self, slot: u32, id: u16, len: usize) {
        let bytes = self.ring.buffer(id, len);
        let stash = &mut self.slots[slot as usize].extra().stash;
        match stash.back_mut() {
            Some(last) if last.capacity() - last.len() >= len => last.extend_from_slice(bytes),
            _ => {
                let mut piece = self.record.pool().take_fitting(len);
                piece.extend_from_slice(bytes);
                stash.push_back(piece);
            }
        }
    }

    /// Hands over what was stashed, piece by piece, until the handler pauses again or its output is above the high-water mark.
    /// Whether there is no need to come back for more in the next turn.
    fn deliver_stash(&mut self, handler: &mut H, slot: u32) -> bool {
        loop {
            let s = &mut self.slots[slot as usize];
            if !s.is_listening() {
                return true;
            }
            let (id, unsent) = (s.id(slot), s.unsent());
            let Some(stash) = s.extra.as_mut().map(|e| &mut e.stash).filter(|s| !s.is_empty()) else {
                return true;
            };
            if unsent > self.config.high_water {
                // Of this turn's making: it is sent first, and if it does not go the connection is held back.
                return false;
            }
            let Some(mut piece) = stash.pop_front() else { return true };
            if let Some(conn) = s.conn.as_mut() {
                let mut out = self.record.begin(self.now, unsent, piece.len());
                handler.received(id, conn, &mut piece, &mut out);
                self.absorb(slot, Source::Stash(&piece));
            }
            self.record.pool().put(piece);
        }
    }
}

//! Output: one send per connection and turn, and the backlog of what the kernel did not take.

use bytes::{Buf, BytesMut};

use crate::connection::State;
use crate::handler::Handler;
use crate::time::Nanos;
use crate::token::OpKind;
use crate::uring::pieces::{Bytes, Chain};
use crate::uring::ring::{Completion, Op, Ring, SendMode};
use crate::uring::slot::{Marks, cause};
use crate::uring::{Core, Source};

/// Pieces that one SENDMSG takes; more are copied together.
const GATHER: usize = 16;

/// Most bytes of one send, whatever its length (MAX_RW_COUNT of the kernel, send(2)), in whole pages of any
/// size.
const MOST_AT_ONCE: usize = i32::MAX as usize & !0xffff;

/// Bytes of a backlog that one send takes, so that progress shows.
const BACKLOG_SEND: usize = 256 << 10;

/// Bytes of a chunk that what a send left is copied to, at most, where its pieces are not larger: chunks of like sizes are used
/// again.
const REST_CHUNK: usize = 64 << 10;

/// Headers of SENDMSG operations between their queueing and their submission.
pub(super) struct Messages {
    #[allow(
        clippy::vec_box,
        reason = "headers stay in place while the list grows: the kernel reads them at submission"
    )]
    all: Vec<Box<Message>>,
    used: usize,
}

struct Message {
    header: libc::msghdr,
    pieces: [libc::iovec; GATHER],
}

impl Messages {
    pub(super) fn new() -> Self {
        Self { all: Vec::new(), used: 0 }
    }

    /// All queued operations have been consumed: the kernel has copied their headers.
    pub(super) fn reuse(&mut self) {
        self.used = 0;
    }

    /// A header over `count` pieces, in place until [`Messages::reuse`].
    fn next(&mut self, pieces: &[libc::iovec]) -> *const libc::msghdr {
        if self.used == self.all.len() {
            let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
            // SAFETY: all zeroes is a valid msghdr: no name, no pieces, no control data.
            let header = unsafe { std::mem::zeroed() };
            self.all.push(Box::new(Message { header, pieces: [empty; GATHER] }));
        }
        let message = &mut *self.all[self.used];
        self.used += 1;
        message.pieces[..pieces.len()].copy_from_slice(pieces);
        message.header.msg_iov = message.pieces.as_mut_ptr();
        message.header.msg_iovlen = pieces.len();
        &raw const message.header
    }
}

impl<R: Ring, H: Handler> Core<'_, R, H> {
    /// Queues one send for every connection that has output.
    pub(super) fn queue_output(&mut self) {
        self.written = 0;
        let mut dirty = std::mem::take(&mut self.dirty);
        let silent = self.sends_finish && dirty.len() <= self.config.uring.silent_sends;
        self.send_mode = if silent { SendMode::Silent } else { SendMode::Prompt };
        for slot in dirty.drain(..) {
            self.slots[slot as usize].marks.clear(Marks::DIRTY);
            self.queue_send(slot);
        }
        self.dirty = dirty;
    }

    fn queue_send(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        let mut chain = std::mem::replace(&mut s.chain, Chain::EMPTY);
        if chain.is_empty() {
            return;
        }
        if !s.state.sends() {
            self.drop_chain(&mut chain);
        } else if s.marks.any(Marks::SENDING) || s.backlog_bytes() > 0 {
            self.add_to_backlog(slot, chain);
        } else {
            self.send_chain(slot, chain);
        }
    }

    fn send_chain(&mut self, slot: u32, mut chain: Chain) {
        let mut iov = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; GATHER];
        let used = self.gather(&chain, &mut iov).unwrap_or_else(|| {
            chain = self.join(chain);
            self.gather(&chain, &mut iov).expect("one piece of its own")
        });
        // For a longer chain the kernel sends a part and reports that as complete. Only a completion gives
        // the number of bytes.
        let mode = if chain.bytes > MOST_AT_ONCE { SendMode::Prompt } else { self.send_mode };
        let op = match &iov[..used] {
            [one] => {
                let len = u32::try_from(one.iov_len).unwrap_or(u32::MAX);
                Op::Send { slot, bytes: one.iov_base.cast(), len, mode }
            }
            several => Op::SendMessage { slot, message: self.messages.next(several), mode },
        };
        let s = &mut self.slots[slot as usize];
        s.sending = chain;
        s.marks.set(Marks::SENDING);
        let token = s.token(OpKind::Send, slot);
        if mode == SendMode::Silent {
            self.silent.push(slot);
        }
        // The bytes stay in place until the send is settled: buffers are named by the chain, owned ones lie in it, and the
        // arena is cleared only by `settle`.
        self.push(token, op);
    }

    /// Lists where a chain's pieces lie, and says how many there are. `None`: it must be copied together first, because there are too
    /// many, or because some lie in the arena and the send may outlive the turn, when that is gone.
    fn gather(&mut self, chain: &Chain, iov: &mut [libc::iovec; GATHER]) -> Option<usize> {
        let mut used = 0;
        for piece in self.pieces.iter(chain) {
            let bytes: &[u8] = match piece {
                Bytes::Buffer { id, start, end } => &self.ring.buffer(*id, *end as usize)[*start as usize..],
                Bytes::Arena { .. } if !self.sends_finish => return None,
                Bytes::Arena { start, end } => &self.record.arena()[*start as usize..*end as usize],
                Bytes::Owned(bytes) => bytes,
            };
            let place = iov.get_mut(used)?;
            *place = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            used += 1;
        }
        Some(used)
    }

    /// Copies a chain together into one buffer.
    fn join(&mut self, mut chain: Chain) -> Chain {
        let mut joined = self.record.pool().take();
        joined.reserve(chain.bytes);
        while let Some(piece) = self.pieces.pop(&mut chain) {
            self.copy_and_drop(piece, 0, &mut joined);
        }
        self.pieces.append(&mut chain, Bytes::Owned(joined));
        chain
    }

    /// Appends a piece from byte `from` on to `to`, and lets it go.
    fn copy_and_drop(&mut self, piece: Bytes, from: usize, to: &mut BytesMut) {
        match &piece {
            Bytes::Buffer { id, start, end } => {
                to.extend_from_slice(&self.ring.buffer(*id, *end as usize)[*start as usize + from..]);
            }
            Bytes::Arena { start, end } => {
                to.extend_from_slice(&self.record.arena()[*start as usize + from..*end as usize]);
            }
            Bytes::Owned(bytes) => to.extend_from_slice(&bytes[from..]),
        }
        self.drop_piece(piece);
    }

    /// Lets a piece go: a receive buffer that nothing names any more goes back to the ring, an owned one to the pool.
    fn drop_piece(&mut self, piece: Bytes) {
        match piece {
            Bytes::Buffer { .. } if mutated!(BufferReturnedEarly) => {}
            Bytes::Buffer { id, .. } => self.unname_buffer(id),
            Bytes::Arena { .. } => {}
            Bytes::Owned(bytes) => self.record.pool().put(bytes),
        }
    }

    pub(super) fn drop_chain(&mut self, chain: &mut Chain) {
        while let Some(piece) = self.pieces.pop(chain) {
            self.drop_piece(piece);
        }
    }

    /// A silent send took everything.
    pub(super) fn on_sent_all(&mut self, slot: u32) {
        let mut chain = self.end_send(slot);
        self.counters.bytes_out += chain.bytes as u64;
        self.drop_chain(&mut chain);
        self.after_send(slot);
    }

    /// A send tells what it took, or why nothing.
    pub(super) fn on_sent(&mut self, c: Completion) {
        let slot = c.token.slot();
        if !self.live(c.token).is_some_and(|s| s.marks.any(Marks::SENDING)) {
            debug_assert!(false, "the completion of a send that nobody made");
            return;
        }
        let mut chain = self.end_send(slot);
        let all = chain.bytes;
        let took = match c.result {
            n if n >= 0 => n.cast_unsigned() as usize,
            // Nothing fitted; or memory was short, which is the same to us: the backlog waits for room.
            e if [-libc::EAGAIN, -libc::EINTR, -libc::ENOBUFS, -libc::ENOMEM].contains(&e) => 0,
            e => {
                if mutated!(BufferReturnedTwice)
                    && let Some(&Bytes::Buffer { id, .. }) = self.pieces.iter(&chain).next()
                {
                    self.ring.give_back(id);
                }
                self.drop_chain(&mut chain);
                self.end(slot, cause(-e));
                self.after_send(slot);
                return;
            }
        };
        self.counters.bytes_out += took as u64;
        if took < all {
            self.counters.partial_sends += 1;
            self.keep_rest(slot, chain, took);
        } else {
            self.drop_chain(&mut chain);
        }
        self.after_send(slot);
    }

    fn end_send(&mut self, slot: u32) -> Chain {
        let s = &mut self.slots[slot as usize];
        s.marks.clear(Marks::SENDING);
        std::mem::replace(&mut s.sending, Chain::EMPTY)
    }

    fn after_send(&mut self, slot: u32) {
        let s = &self.slots[slot as usize];
        match s.state {
            State::Open | State::Draining if s.backlog_bytes() > 0 => self.send_backlog(slot),
            State::Open => {}
            // On its way out, whatever is left of its output.
            _ => self.leaving.push(slot),
        }
    }

    // ---- the backlog

    /// Puts what a send left, all but its first `took` bytes, before everything else that waits. What lies in receive buffers or
    /// in the arena is copied, so that a slow reader never keeps them.
    fn keep_rest(&mut self, slot: u32, mut chain: Chain, took: usize) {
        if !self.slots[slot as usize].state.sends() {
            return self.drop_chain(&mut chain);
        }
        let mut skip = took;
        let mut rest = std::mem::take(&mut self.rest);
        while let Some(piece) = self.pieces.pop(&mut chain) {
            let from = skip.min(piece.len());
            skip -= from;
            match piece {
                piece if from == piece.len() => self.drop_piece(piece),
                Bytes::Owned(mut bytes) => {
                    bytes.advance(from);
                    rest.push(bytes);
                }
                piece => {
                    let len = piece.len() - from;
                    let mut chunk = match rest.pop_if(|last| last.capacity() - last.len() >= len) {
                        Some(last) => last,
                        None => {
                            let more = len + chain.bytes;
                            self.record.pool().take_fitting(more.min(REST_CHUNK).max(len))
                        }
                    };
                    self.copy_and_drop(piece, from, &mut chunk);
                    rest.push(chunk);
                }
            }
        }
        let backlog = &mut self.slots[slot as usize].extra().backlog;
        for chunk in rest.drain(..).rev() {
            backlog.push_front(chunk);
        }
        self.rest = rest;
        self.check_high_water(slot);
    }

    /// Puts output behind what waits already.
    fn add_to_backlog(&mut self, slot: u32, mut chain: Chain) {
        while let Some(piece) = self.pieces.pop(&mut chain) {
            if let Bytes::Owned(bytes) = piece {
                self.slots[slot as usize].extra().backlog.push_back(bytes);
                continue;
            }
            let mut chunk = self.room_in_backlog(slot, piece.len());
            self.copy_and_drop(piece, 0, &mut chunk);
            self.slots[slot as usize].extra().backlog.push_back(chunk);
        }
        self.check_high_water(slot);
        self.send_backlog(slot);
    }

    /// A chunk to extend by `len` bytes: the backlog's last, where it has room and is not being sent, or a new one.
    fn room_in_backlog(&mut self, slot: u32, len: usize) -> BytesMut {
        let backlog = &mut self.slots[slot as usize].extra().backlog;
        let behind_the_first = backlog.chunks.len() > 1;
        if let Some(last) = backlog.chunks.pop_back_if(|c| behind_the_first && c.capacity() - c.len() >= len)
        {
            backlog.bytes -= last.len();
            return last;
        }
        self.record.pool().take_fitting(len)
    }

    fn check_high_water(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        if s.state == State::Open && s.unsent() > self.config.high_water && !s.marks.any(Marks::HELD_BACK) {
            s.marks.set(Marks::HELD_BACK);
            self.cancel_receive(slot);
        }
    }

    /// Sends the first chunk, as soon as the other end takes some of it.
    fn send_backlog(&mut self, slot: u32) {
        let stall = self.now.limit_after(self.config.write_stall);
        let s = &mut self.slots[slot as usize];
        if s.marks.any(Marks::BACKLOG | Marks::SENDING) || !s.state.sends() {
            return;
        }
        let Some(first) = s.extra.as_ref().and_then(|e| e.backlog.chunks.front()) else { return };
        let (bytes, len) = (first.as_ptr(), first.len().min(BACKLOG_SEND) as u32);
        s.marks.set(Marks::BACKLOG);
        let token = s.token(OpKind::Backlog, slot);
        self.set_timer(slot, stall);
        // The first chunk stays where it is until the completion: only `on_backlog` takes it out, and nothing extends it.
        self.push(token, Op::Send { slot, bytes, len, mode: SendMode::Patient });
    }

    /// Some of the backlog has left, or the connection is broken.
    pub(super) fn on_backlog(&mut self, c: Completion) {
        let slot = c.token.slot();
        let Some(s) = self.live(c.token) else { return };
        s.marks.clear(Marks::BACKLOG);
        if !s.state.sends() {
            self.leaving.push(slot);
            return;
        }
        match c.result {
            n if n >= 0 => {
                let n = n.cast_unsigned();
                let sent = s.extra().backlog.advance(n as usize);
                self.counters.bytes_out += u64::from(n);
                if let Some(chunk) = sent {
                    self.record.pool().put(chunk);
                }
                #[cfg(feature = "sim")]
                self.drop_tail_if_mutated(slot);
            }
            e if [-libc::EAGAIN, -libc::EINTR].contains(&e) => {}
            e => {
                self.end(slot, cause(-e));
                return;
            }
        }
        if self.slots[slot as usize].backlog_bytes() > 0 {
            self.send_backlog(slot);
        } else {
            self.backlog_gone(slot);
        }
    }

    /// What a mutation does.
    #[cfg(feature = "sim")]
    fn drop_tail_if_mutated(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        if mutated!(BacklogTailDropped) && s.state == State::Draining {
            s.extra().backlog = crate::uring::slot::Backlog::default();
        }
    }

    fn backlog_gone(&mut self, slot: u32) {
        self.set_timer(slot, Nanos::NEVER);
        let s = &mut self.slots[slot as usize];
        if s.state != State::Open {
            self.leaving.push(slot);
            return;
        }
        if s.marks.any(Marks::HELD_BACK) {
            s.marks.clear(Marks::HELD_BACK);
            self.resumed.push(slot);
        }
        self.drained.push(slot);
    }

    pub(super) fn tell_drained(&mut self, handler: &mut H) {
        while let Some(slot) = self.drained.pop() {
            let s = &mut self.slots[slot as usize];
            let (id, unsent) = (s.id(slot), s.unsent());
            if s.state == State::Open
                && let Some(conn) = s.conn.as_mut()
            {
                let mut out = self.record.begin(self.now, unsent, 0);
                handler.drained(id, conn, &mut out);
                self.absorb(slot, Source::Nowhere);
            }
        }
    }
}

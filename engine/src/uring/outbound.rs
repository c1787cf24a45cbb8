//! Output: one send for each connection and turn, and the backlog of what the kernel did not
//! accept.

use bytes::{Buf, BytesMut};

use crate::accounting::Counters;
use crate::config::Config;
use crate::connection::{Cause, State};
use crate::token::OpKind;
use crate::uring::memory::{Memory, Source};
use crate::uring::message::{Messages, PIECES};
use crate::uring::outputs::Outputs;
use crate::uring::pieces::{Bytes, Chain};
use crate::uring::queues::Queues;
use crate::uring::ring::{BufferRing, Op, Ring, SendMode};
use crate::uring::slots::{Flags, RECEIVE, Slot, Slots, cause};
use crate::uring::timers::Timers;

/// Most bytes that the kernel accepts in one send (MAX_RW_COUNT), rounded down to pages of 64 KiB,
/// the largest size.
const MOST_AT_ONCE: usize = i32::MAX as usize & !0xffff;

/// Most bytes of a backlog in one send, so that its completions show the peer's progress.
const BACKLOG_SEND: usize = 256 << 10;

/// Largest chunk for the copied rest of a send, unless one piece is larger. Chunks of similar sizes
/// can be reused.
const REST_CHUNK: usize = 64 << 10;

/// Outbound side of a worker's connections.
pub(super) struct Outbound<'c> {
    config: &'c Config,
    messages: Messages,
    outputs: Outputs,
    /// Mode of this turn's sends.
    mode: SendMode,
    /// Bytes of output since sends were last queued.
    written: usize,
    /// Connections with output in this turn.
    dirty: Vec<u32>,
    /// Connections with a silent send in progress.
    silent: Vec<u32>,
    /// Connections whose backlog the kernel has accepted, to be reported to the handler.
    drained: Vec<u32>,
    /// Rest of a send, while it is moved into a backlog.
    rest: Vec<BytesMut>,
}

impl<'c> Outbound<'c> {
    /// Creates the outbound side of a worker, without output.
    pub(super) fn new(config: &'c Config) -> Self {
        Self {
            config,
            messages: Messages::default(),
            outputs: Outputs::default(),
            mode: SendMode::Prompt,
            written: 0,
            dirty: Vec::new(),
            silent: Vec::new(),
            drained: Vec::new(),
            rest: Vec::new(),
        }
    }

    /// Returns the bytes of a connection that the kernel has not accepted.
    pub(super) fn unsent<C>(&self, s: &Slot<C>) -> usize {
        s.backlog_bytes() + self.outputs.bytes(s.output)
    }

    /// Appends the output of a call of the handler to what a connection sends at the end of this
    /// turn.
    pub(super) fn append<C, B: BufferRing>(
        &mut self,
        slot: u32,
        s: &mut Slot<C>,
        source: Source<'_>,
        memory: &mut Memory<B>,
    ) {
        self.written += memory.append_output(self.outputs.written(&mut s.output), source);
        if !s.flags.any(Flags::DIRTY) {
            s.flags.set(Flags::DIRTY);
            self.dirty.push(slot);
        }
    }

    /// Returns whether the turn has written so much output that it must be sent before the turn
    /// continues.
    pub(super) fn should_flush(&self) -> bool {
        self.written >= self.config.uring.flush_after
    }

    /// Makes the headers of earlier sends available again: all queued operations have been
    /// consumed.
    pub(super) fn reuse_headers(&mut self) {
        self.messages.reuse();
    }

    /// Takes a connection whose silent send has not been completed.
    pub(super) fn pop_silent(&mut self) -> Option<u32> {
        self.silent.pop()
    }

    /// Takes a connection whose backlog has been accepted.
    pub(super) fn pop_drained(&mut self) -> Option<u32> {
        self.drained.pop()
    }

    /// Returns whether accepted backlogs wait to be reported to the handler.
    pub(super) fn has_reports(&self) -> bool {
        !self.drained.is_empty()
    }

    /// Queues one send for every connection that has output.
    pub(super) fn queue_sends<C, R: Ring, B: BufferRing>(
        &mut self,
        slots: &mut Slots<C>,
        memory: &mut Memory<B>,
        queues: &mut Queues<R>,
        timers: &mut Timers,
    ) {
        self.written = 0;
        let mut dirty = std::mem::take(&mut self.dirty);
        let silent = queues.sends_finish && dirty.len() <= self.config.uring.silent_sends;
        self.mode = if silent { SendMode::Silent } else { SendMode::Prompt };
        for slot in dirty.drain(..) {
            let s = &mut slots[slot];
            s.flags.clear(Flags::DIRTY);
            if !s.state.sends() {
                self.drop_written(s, memory);
            } else if s.flags.any(Flags::SENDING) || s.backlog_bytes() > 0 {
                let written = self.outputs.take_written(&mut s.output);
                add_to_backlog(s, written, memory);
                self.send_backlog(slot, s, queues, timers);
            } else {
                self.send(slot, s, memory, queues);
            }
        }
        self.dirty = dirty;
    }

    /// Drops a connection's output of this turn.
    pub(super) fn drop_written<C, B: BufferRing>(
        &mut self,
        s: &mut Slot<C>,
        memory: &mut Memory<B>,
    ) {
        memory.release_all(&mut self.outputs.take_written(&mut s.output));
    }

    fn send<C, R: Ring, B: BufferRing>(
        &mut self,
        slot: u32,
        s: &mut Slot<C>,
        memory: &mut Memory<B>,
        queues: &mut Queues<R>,
    ) {
        let Some(chain) = self.outputs.begin_send(s.output) else { return };
        let arena_lasts = queues.sends_finish;
        let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PIECES];
        let used = memory.gather(chain, arena_lasts, &mut pieces).unwrap_or_else(|| {
            *chain = memory.join(*chain);
            memory.gather(chain, arena_lasts, &mut pieces).expect("one owned piece")
        });
        // Of a longer chain the kernel sends only a part, and reports that as success. Only a
        // completion gives the number of bytes.
        let mode = if chain.bytes > MOST_AT_ONCE { SendMode::Prompt } else { self.mode };
        let op = match &pieces[..used] {
            [one] => {
                let len = u32::try_from(one.iov_len).unwrap_or(u32::MAX);
                Op::Send { slot, bytes: one.iov_base.cast(), len, mode }
            }
            several => Op::SendMessage { slot, message: self.messages.next(several), mode },
        };
        s.flags.set(Flags::SENDING);
        if mode == SendMode::Silent {
            self.silent.push(slot);
        }
        // The bytes stay in place until the send is completed. The chain retains receive buffers
        // and owns all other buffers. The arena is cleared only after this turn's sends have been
        // completed.
        queues.push(s.token(OpKind::Send, slot), op);
    }

    /// Completes a silent send, which the kernel has accepted whole.
    pub(super) fn complete_silent<C, B: BufferRing>(
        &mut self,
        s: &mut Slot<C>,
        memory: &mut Memory<B>,
        counters: &mut Counters,
    ) {
        let mut chain = self.end_send(s);
        counters.bytes_out += chain.bytes as u64;
        memory.release_all(&mut chain);
    }

    /// Completes a send by its result: bytes accepted, or an error. Bytes that the kernel did not
    /// accept go to the front of the backlog.
    ///
    /// # Errors
    ///
    /// The cause by which the connection ends.
    pub(super) fn complete<C, B: BufferRing>(
        &mut self,
        s: &mut Slot<C>,
        result: i32,
        memory: &mut Memory<B>,
        counters: &mut Counters,
    ) -> Result<(), Cause> {
        let mut chain = self.end_send(s);
        let accepted = match result {
            n if n >= 0 => n.cast_unsigned() as usize,
            // The kernel accepted nothing. Also after ENOBUFS or ENOMEM, the backlog's send waits
            // for room.
            e if [-libc::EAGAIN, -libc::EINTR, -libc::ENOBUFS, -libc::ENOMEM].contains(&e) => 0,
            e => {
                #[cfg(feature = "sim")]
                if mutated!(BufferReturnedTwice)
                    && let Some(id) = memory.first_buffer(&chain)
                {
                    memory.receive.give_back_again(id);
                }
                memory.release_all(&mut chain);
                return Err(cause(-e));
            }
        };
        counters.bytes_out += accepted as u64;
        if accepted < chain.bytes {
            counters.partial_sends += 1;
            if s.state.sends() {
                self.keep_rest(s, &mut chain, accepted, memory);
            }
        }
        memory.release_all(&mut chain);
        Ok(())
    }

    fn end_send<C>(&mut self, s: &mut Slot<C>) -> Chain {
        s.flags.clear(Flags::SENDING);
        self.outputs.take_sending(&mut s.output)
    }

    // ---- the backlog

    /// Puts the rest of a send, all but its first `accepted` bytes, before the backlog. Bytes in
    /// receive buffers or in the arena are copied, so that a slow peer never occupies that memory.
    fn keep_rest<C, B: BufferRing>(
        &mut self,
        s: &mut Slot<C>,
        chain: &mut Chain,
        accepted: usize,
        memory: &mut Memory<B>,
    ) {
        let mut skip = accepted;
        while let Some(piece) = memory.pop(chain) {
            let from = skip.min(piece.len());
            skip -= from;
            match piece {
                piece if from == piece.len() => memory.release(piece),
                Bytes::Owned(mut bytes) => {
                    bytes.advance(from);
                    self.rest.push(bytes);
                }
                piece => {
                    let len = piece.len() - from;
                    let mut chunk = self
                        .rest
                        .pop_if(|last| last.capacity() - last.len() >= len)
                        .unwrap_or_else(|| {
                            let whole = len + chain.bytes;
                            memory.record.pool().take_fitting(whole.min(REST_CHUNK).max(len))
                        });
                    memory.copy_and_release(piece, from, &mut chunk);
                    self.rest.push(chunk);
                }
            }
        }
        let backlog = &mut s.extra().backlog;
        for chunk in self.rest.drain(..).rev() {
            backlog.push_front(chunk);
        }
    }

    /// Queues a send of the first chunk of the backlog, which waits until the kernel accepts some
    /// bytes. Stops reading if the unsent bytes exceed the high-water mark.
    pub(super) fn send_backlog<C, R: Ring>(
        &mut self,
        slot: u32,
        s: &mut Slot<C>,
        queues: &mut Queues<R>,
        timers: &mut Timers,
    ) {
        if s.state == State::Open
            && self.unsent(s) > self.config.high_water
            && !s.flags.any(Flags::ABOVE_HIGH_WATER)
        {
            s.flags.set(Flags::ABOVE_HIGH_WATER);
            s.cancel(slot, RECEIVE, queues);
        }
        if s.flags.any(Flags::BACKLOG | Flags::SENDING) || !s.state.sends() {
            return;
        }
        let Some(first) = s.extra.as_ref().and_then(|e| e.backlog.chunks.front()) else { return };
        let (bytes, len) = (first.as_ptr(), first.len().min(BACKLOG_SEND) as u32);
        s.flags.set(Flags::BACKLOG);
        timers.set(slot, s, timers.now.limit_after(self.config.write_stall));
        // The first chunk stays in place until the completion: only `backlog_sent` takes it out,
        // and nothing extends it.
        let op = Op::Send { slot, bytes, len, mode: SendMode::Patient };
        queues.push(s.token(OpKind::Backlog, slot), op);
    }

    /// Completes a send of the backlog by its result.
    ///
    /// # Errors
    ///
    /// The cause by which the connection ends.
    pub(super) fn backlog_sent<C, B: BufferRing>(
        s: &mut Slot<C>,
        result: i32,
        memory: &mut Memory<B>,
        counters: &mut Counters,
    ) -> Result<(), Cause> {
        match result {
            n if n >= 0 => {
                let n = n.cast_unsigned();
                counters.bytes_out += u64::from(n);
                if let Some(chunk) = s.extra().backlog.advance(n as usize) {
                    memory.record.pool().put(chunk);
                }
                if mutated!(BacklogTailDropped) && s.state == State::Draining {
                    s.extra().backlog = super::slots::Backlog::default();
                }
                Ok(())
            }
            e if [-libc::EAGAIN, -libc::EINTR].contains(&e) => Ok(()),
            e => Err(cause(-e)),
        }
    }

    /// Lists a connection whose backlog the kernel has accepted, to be reported to the handler.
    /// Returns whether reading resumes.
    pub(super) fn report_drained<C>(&mut self, slot: u32, s: &mut Slot<C>) -> bool {
        let resumes = s.flags.any(Flags::ABOVE_HIGH_WATER);
        s.flags.clear(Flags::ABOVE_HIGH_WATER);
        self.drained.push(slot);
        resumes
    }
}

/// Appends output to the backlog.
fn add_to_backlog<C, B: BufferRing>(s: &mut Slot<C>, mut chain: Chain, memory: &mut Memory<B>) {
    let backlog = &mut s.extra().backlog;
    while let Some(piece) = memory.pop(&mut chain) {
        if let Bytes::Owned(bytes) = piece {
            backlog.push_back(bytes);
            continue;
        }
        // The kernel may be sending the first chunk, so its memory must stay in place.
        let len = piece.len();
        let is_behind_first = backlog.chunks.len() > 1;
        let last = backlog.chunks.pop_back_if(|c| is_behind_first && c.capacity() - c.len() >= len);
        let mut chunk = match last {
            Some(last) => {
                backlog.bytes -= last.len();
                last
            }
            None => memory.record.pool().take_fitting(len),
        };
        memory.copy_and_release(piece, 0, &mut chunk);
        backlog.push_back(chunk);
    }
}

//! A connection of the tokio-uring engine.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Waker;

use bytes::{Buf, BytesMut};
use tokio::task::AbortHandle;

use crate::connection::Cause;
use crate::pool::BufferPool;
use crate::time::Nanos;

/// Bytes of a connection's receive buffer at first; it doubles with every read that fills it. Every connection has a read in
/// flight, and so a buffer of its own.
pub(super) const FIRST_READ: usize = 4096;
/// Consecutive reads that use less than a quarter of their buffer before the next buffer is half as large.
const SMALL_READS: u8 = 16;
/// Memory taken for copied output at least.
const CHUNK: usize = 4096;
/// Buffers that the handler gives are sent as they are from this length on, and copied behind what is queued below it: one
/// write of one buffer is worth a copy.
const JOIN_BELOW: usize = 16 << 10;
/// Chunks that leave with one write.
const CHUNKS_PER_WRITE: usize = 16;

/// How far a connection has come.
pub(super) enum Phase {
    /// connect(2) is under way in a task; the handler knows nothing yet.
    Connecting { tag: u64, task: Option<AbortHandle> },
    /// The handler's.
    Open,
    /// Closed by the handler with bytes still to send; what arrives is discarded.
    Flushing { discarded: u64 },
    /// Everything is sent and our FIN with it; what arrives is discarded until the other end's FIN.
    Lingering { discarded: u64 },
    /// Over; the handler learns it in the next turn.
    Dead(Cause),
}

/// A piece of output, and where its memory goes afterwards.
pub(super) struct Chunk {
    bytes: BytesMut,
    /// It was a receive buffer, not one of the handler's.
    receive: bool,
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What a writer has in flight.
pub(super) enum Write {
    One(Chunk),
    Several(Vec<Chunk>),
}

/// Buffers for reads; those for the handler are in the record's pool.
#[derive(Default)]
pub(super) struct ReadBuffers {
    free: Vec<BytesMut>,
    held_bytes: usize,
}

impl ReadBuffers {
    /// Capacity kept, in bytes; buffers returned beyond it are freed. A connection that continues takes its
    /// buffer again before other connections return theirs, so that a few buffers are enough.
    const KEEP_BYTES: usize = 4 << 20;
    /// Number of buffers that are searched for one that is large enough.
    const LOOKED_AT: usize = 16;

    /// Returns an empty buffer with room for `len` bytes: the last returned buffer that has the room, or a
    /// new one of exactly this size.
    pub(super) fn take(&mut self, len: usize) -> BytesMut {
        let recent = self.free.len().saturating_sub(Self::LOOKED_AT);
        match self.free[recent..].iter().rposition(|buffer| buffer.capacity() >= len) {
            Some(index) => {
                let buffer = self.free.swap_remove(recent + index);
                self.held_bytes -= buffer.capacity();
                buffer
            }
            None => BytesMut::with_capacity(len),
        }
    }

    pub(super) fn put(&mut self, mut buffer: BytesMut) {
        buffer.clear();
        // An echo starts behind the beginning of its buffer. A request for more than is there moves the
        // beginning back.
        let _ = buffer.try_reclaim(buffer.capacity() + 1);
        if self.held_bytes + buffer.capacity() <= Self::KEEP_BYTES {
            self.held_bytes += buffer.capacity();
            self.free.push(buffer);
        }
    }
}

/// Everything of a connection that is not sent yet, in the order of the wire.
#[derive(Default)]
pub(super) struct Outbox {
    chunks: VecDeque<Chunk>,
    /// With those in flight.
    bytes: usize,
    /// Bytes of the write in flight.
    in_flight: usize,
}

impl Outbox {
    /// Bytes not sent yet, those of the write in flight included.
    pub(super) fn unsent(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_writing(&self) -> bool {
        self.in_flight > 0
    }

    pub(super) fn has_chunks(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// Appends a copy.
    pub(super) fn push_copy(&mut self, bytes: &[u8], buffers: &mut ReadBuffers) {
        self.bytes += bytes.len();
        match self.chunks.back_mut() {
            Some(last) if last.bytes.capacity() - last.bytes.len() >= bytes.len() => {
                last.bytes.extend_from_slice(bytes);
            }
            _ => {
                let mut chunk = buffers.take(bytes.len().max(CHUNK));
                chunk.extend_from_slice(bytes);
                self.chunks.push_back(Chunk { bytes: chunk, receive: true });
            }
        }
    }

    /// Appends a buffer of the handler's.
    pub(super) fn push_owned(&mut self, buffer: BytesMut, buffers: &mut ReadBuffers, pool: &mut BufferPool) {
        if buffer.len() < JOIN_BELOW && !self.chunks.is_empty() {
            self.push_copy(&buffer, buffers);
            pool.put(buffer);
        } else {
            self.bytes += buffer.len();
            self.chunks.push_back(Chunk { bytes: buffer, receive: false });
        }
    }

    /// Appends the receive buffer itself, which holds nothing but the output.
    pub(super) fn push_received(&mut self, buffer: BytesMut) {
        self.bytes += buffer.len();
        self.chunks.push_back(Chunk { bytes: buffer, receive: true });
    }

    /// The next write, if there is something and none is in flight.
    pub(super) fn begin(&mut self) -> Option<Write> {
        if self.is_writing() {
            return None;
        }
        let write = if self.chunks.len() > 1 {
            let count = self.chunks.len().min(CHUNKS_PER_WRITE);
            Write::Several(self.chunks.drain(..count).collect())
        } else {
            Write::One(self.chunks.pop_front()?)
        };
        self.in_flight = match &write {
            Write::One(chunk) => chunk.bytes.len(),
            Write::Several(chunks) => chunks.iter().map(|c| c.bytes.len()).sum(),
        };
        Some(write)
    }

    /// A write has ended with `sent` bytes; what it left goes first next time. Whether it took everything.
    pub(super) fn end(
        &mut self,
        write: Write,
        mut sent: usize,
        buffers: &mut ReadBuffers,
        pool: &mut BufferPool,
    ) -> bool {
        let all = sent == self.in_flight;
        self.bytes -= sent;
        self.in_flight = 0;
        let chunks = match write {
            Write::One(chunk) => vec_of_one(chunk),
            Write::Several(chunks) => Chunks::Several(chunks.into_iter()),
        };
        let mut left = VecDeque::new();
        for mut chunk in chunks {
            let taken = sent.min(chunk.bytes.len());
            sent -= taken;
            chunk.bytes.advance(taken);
            if chunk.bytes.is_empty() {
                recycle(chunk, buffers, pool);
            } else {
                left.push_back(chunk);
            }
        }
        while let Some(chunk) = left.pop_back() {
            self.chunks.push_front(chunk);
        }
        all
    }

    /// Forgets what is not in flight.
    pub(super) fn clear(&mut self, buffers: &mut ReadBuffers, pool: &mut BufferPool) {
        for chunk in self.chunks.drain(..) {
            recycle(chunk, buffers, pool);
        }
        self.bytes = self.in_flight;
    }
}

/// Iterates over the chunks of a write without an allocation for a single one.
enum Chunks {
    One(std::option::IntoIter<Chunk>),
    Several(std::vec::IntoIter<Chunk>),
}

fn vec_of_one(chunk: Chunk) -> Chunks {
    Chunks::One(Some(chunk).into_iter())
}

impl Iterator for Chunks {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        match self {
            Self::One(one) => one.next(),
            Self::Several(several) => several.next(),
        }
    }
}

fn recycle(chunk: Chunk, buffers: &mut ReadBuffers, pool: &mut BufferPool) {
    if chunk.receive {
        buffers.put(chunk.bytes);
    } else {
        pool.put(chunk.bytes);
    }
}

/// Task that ends when this value is dropped.
pub(super) struct Watch(pub(super) AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An entry of the engine's table.
pub(super) struct Connection<C> {
    /// `None` while connecting. The task and its operations hold it too: the socket is closed when they have ended.
    pub(super) socket: Option<Rc<OwnedFd>>,
    /// The handler's; `None` until it has opened the connection.
    pub(super) state: Option<C>,
    pub(super) phase: Phase,
    pub(super) outbox: Outbox,
    /// The handler's deadline.
    pub(super) deadline: Nanos,
    /// The engine's own: of the connecting, of a stalled write or of the lingering, as the phase says.
    pub(super) limit: Nanos,
    /// The connection's task, once it runs.
    pub(super) task: Option<Waker>,
    /// Task that reports a reset during pauses, once there was a pause.
    pub(super) watch: Option<Watch>,
    /// The reader waits for leave to read or to hand over what it has read.
    pub(super) reader_waits: bool,
    /// The writer waits for something to write.
    pub(super) writer_waits: bool,
    /// Bytes of the next read's buffer.
    pub(super) read_size: usize,
    /// Consecutive reads that used little of their buffer.
    pub(super) small_reads: u8,
    /// Accepted, or connected.
    pub(super) accepted: bool,
    /// The other end's FIN has been read.
    pub(super) eof: bool,
    /// By the handler.
    pub(super) paused: bool,
    /// By the high-water mark.
    pub(super) throttled: bool,
    /// The handler may have seen that bytes wait, and hears when they have gone.
    pub(super) held_back: bool,
    /// The kernel did not take everything at once: `limit` is that of a stall, and reads go on meanwhile.
    pub(super) slow: bool,
    /// In the list of connections with something to do at the end of the turn.
    pub(super) dirty: bool,
}

impl<C> Connection<C> {
    pub(super) fn new(socket: Option<Rc<OwnedFd>>, accepted: bool, phase: Phase) -> Self {
        Self {
            socket,
            state: None,
            phase,
            outbox: Outbox::default(),
            deadline: Nanos::NEVER,
            limit: Nanos::NEVER,
            task: None,
            watch: None,
            reader_waits: false,
            writer_waits: false,
            read_size: FIRST_READ,
            small_reads: 0,
            accepted,
            eof: false,
            paused: false,
            throttled: false,
            held_back: false,
            slow: false,
            dirty: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Adapts the size of the next reads to the received bytes, up to `most`.
    pub(super) fn fit_reads(&mut self, received: usize, most: usize) {
        if received >= self.read_size {
            self.read_size = (self.read_size * 2).min(most);
        }
        self.small_reads = if received < self.read_size / 4 { self.small_reads + 1 } else { 0 };
        if self.small_reads == SMALL_READS {
            self.small_reads = 0;
            self.read_size = (self.read_size / 2).max(FIRST_READ);
        }
    }

    /// Whether to read, and to hand over what has been read: somebody takes it, or it is discarded.
    pub(super) fn wants_input(&self, discard_at_most: u64) -> bool {
        match self.phase {
            Phase::Open => !self.paused && !self.throttled,
            Phase::Flushing { discarded } => discarded < discard_at_most,
            Phase::Lingering { .. } => true,
            Phase::Connecting { .. } | Phase::Dead(_) => false,
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.phase, Phase::Dead(_))
    }

    /// The earlier of the two times, for the wheel.
    pub(super) fn next_timer(&self) -> Nanos {
        self.deadline.min(self.limit)
    }

    /// Whether a read is to begin. While the kernel takes a write in there is no hurry: what the peer answers comes later, and a
    /// read that finds it there costs less than one that has waited for it.
    pub(super) fn may_read(&self, discard_at_most: u64) -> bool {
        (self.outbox.unsent() == 0 || self.slow) && self.wants_input(discard_at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(write: &Write) -> Vec<u8> {
        match write {
            Write::One(chunk) => chunk.bytes.to_vec(),
            Write::Several(chunks) => chunks.iter().flat_map(|c| c.bytes.to_vec()).collect(),
        }
    }

    #[test]
    fn output_leaves_in_order_whatever_each_write_takes() {
        // Every byte by itself where there are few, larger steps where there are many.
        for (step, copied, owned) in [
            (1, 30, 100),
            (7, 300, 100),
            (1000, 3000, JOIN_BELOW),
            (20_000, 3000, JOIN_BELOW),
            (1 << 20, 1, JOIN_BELOW),
        ] {
            let (mut buffers, mut pool) = (ReadBuffers::default(), BufferPool::default());
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for round in 0..5u8 {
                let (copied, owned) = (vec![round; copied], vec![round + 50; owned]);
                outbox.push_copy(&copied, &mut buffers);
                outbox.push_owned(BytesMut::from(&owned[..]), &mut buffers, &mut pool);
                outbox.push_owned(BytesMut::from(&[round + 100; 10][..]), &mut buffers, &mut pool);
                outbox.push_received(BytesMut::from(&[round + 150; 20][..]));
                expected.extend_from_slice(&copied);
                expected.extend_from_slice(&owned);
                expected.extend_from_slice(&[round + 100; 10]);
                expected.extend_from_slice(&[round + 150; 20]);
            }
            let mut seen = Vec::new();
            while outbox.unsent() > 0 {
                let write = outbox.begin().expect("something to write");
                assert!(outbox.begin().is_none(), "one write in flight");
                let bytes = bytes_of(&write);
                let sent = step.min(bytes.len());
                seen.extend_from_slice(&bytes[..sent]);
                assert_eq!(outbox.end(write, sent, &mut buffers, &mut pool), sent == bytes.len());
            }
            assert!(seen == expected && outbox.begin().is_none());
        }
    }

    #[test]
    fn reads_grow_at_once_and_shrink_after_a_while() {
        let mut c = Connection::<()>::new(None, true, Phase::Open);
        for received in [4096, 8192, 16_384] {
            c.fit_reads(received, 20_000);
        }
        assert_eq!(c.read_size, 20_000);
        // An occasional large read keeps the size.
        for _ in 0..100 {
            c.fit_reads(10, 20_000);
            c.fit_reads(15_000, 20_000);
        }
        assert_eq!(c.read_size, 20_000);
        (0..100).for_each(|_| c.fit_reads(10, 20_000));
        assert_eq!(c.read_size, FIRST_READ);
    }

    #[test]
    fn what_is_kept_for_reads_is_bounded_in_bytes() {
        let mut buffers = ReadBuffers::default();
        for _ in 0..1000 {
            buffers.put(BytesMut::with_capacity(100_000));
        }
        assert!(buffers.free.len() == ReadBuffers::KEEP_BYTES / 100_000, "{}", buffers.free.len());
        assert_eq!(buffers.take(200_000).capacity(), 200_000);
        let count = buffers.free.len();
        (0..count).for_each(|_| drop(buffers.take(1)));
        assert_eq!((buffers.free.len(), buffers.held_bytes), (0, 0));
    }

    #[test]
    fn a_receive_buffer_keeps_its_memory_round_after_round() {
        let mut buffers = ReadBuffers::default();
        let buffer = buffers.take(FIRST_READ);
        let capacity = buffer.capacity();
        buffers.put(buffer);
        for _ in 0..100 {
            let mut buffer = buffers.take(FIRST_READ);
            assert_eq!(buffer.capacity(), capacity);
            buffer.extend_from_slice(&[1; 100]);
            // What an echo does: the reply stands four bytes into the buffer.
            buffer.advance(4);
            buffers.put(buffer);
        }
    }
}

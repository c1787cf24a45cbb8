//! Sockets of the tokio-uring engine: their buffers, their output, and their tasks' wake-ups.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::Waker;

use bytes::{Buf, BytesMut};
use rustix::net::{Shutdown, shutdown};
use tokio::task::AbortHandle;

use crate::accounting::Counters;
use crate::connection::{ConnId, State};
use crate::lifecycle::{Io, Written};
use crate::output::{Record, Segment};
use crate::pool::BufferPool;

/// Bytes of a connection's first receive buffer. The size doubles with every receive that fills it.
/// Every connection has a receive in flight, and so a buffer of its own.
pub(super) const FIRST_RECEIVE: usize = 4096;
/// Consecutive receives that use less than a quarter of their buffer before the size is halved.
const SMALL_RECEIVES: u8 = 16;
/// Smallest chunk of copied output.
const CHUNK: usize = 4096;
/// Length from which buffers of the handler are sent as they are. Shorter ones are copied behind
/// queued output: one write of one buffer is worth a copy.
const JOIN_BELOW: usize = 16 << 10;
/// Most chunks that leave with one write.
const CHUNKS_PER_WRITE: usize = 16;
const _: () = assert!(CHUNKS_PER_WRITE <= 1024, "writev(2) accepts no more than IOV_MAX buffers");
const _: () = assert!(CHUNK <= JOIN_BELOW, "a joined buffer fills several chunks");

/// A piece of output, and where its memory goes afterwards.
pub(super) struct Chunk {
    bytes: BytesMut,
    /// The memory is that of a receive buffer, not of a buffer of the handler.
    is_receive_buffer: bool,
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Output that a writer has in flight.
pub(super) enum Write {
    One(Chunk),
    Several(Vec<Chunk>),
}

/// Receive buffers for reuse. Buffers of the handler are in the record's pool.
#[derive(Default)]
pub(super) struct ReceiveBuffers {
    free: Vec<BytesMut>,
    held_bytes: usize,
}

impl ReceiveBuffers {
    /// Most bytes of capacity that are kept. A connection that continues takes its buffer again before
    /// other connections return theirs, so that a few buffers are enough.
    const KEEP_BYTES: usize = 4 << 20;
    /// Number of buffers that are searched for one that is large enough.
    const LOOKED_AT: usize = 16;

    /// Returns an empty buffer with room for `len` bytes: the last returned one that has the room, or a
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
        // An echo starts behind the beginning of its buffer. A request for more than is there moves
        // the beginning back.
        let _ = buffer.try_reclaim(buffer.capacity() + 1);
        if self.held_bytes + buffer.capacity() <= Self::KEEP_BYTES {
            self.held_bytes += buffer.capacity();
            self.free.push(buffer);
        }
    }
}

/// Unsent output of a connection, in the order of the wire.
#[derive(Default)]
pub(super) struct Outbox {
    chunks: VecDeque<Chunk>,
    /// Unsent bytes, with those in flight.
    bytes: usize,
    /// Bytes of the write in flight.
    in_flight: usize,
}

impl Outbox {
    /// Returns the number of unsent bytes, with those of the write in flight.
    pub(super) fn unsent(&self) -> usize {
        self.bytes
    }

    /// Returns whether a write can begin: there is output, and none is in flight.
    pub(super) fn can_begin(&self) -> bool {
        self.in_flight == 0 && !self.chunks.is_empty()
    }

    /// Appends the segments of a call.
    fn push_segments(&mut self, record: &mut Record, input: &[u8], buffers: &mut ReceiveBuffers) {
        // The segments are taken out meanwhile: they lie in the record beside their arena.
        let mut pool = std::mem::take(record.pool());
        let mut segments = std::mem::take(record.segments_mut());
        for segment in segments.drain(..) {
            match segment {
                Segment::Owned(buffer) => self.push_owned(buffer, buffers, &mut pool),
                segment => self.push_copy(record.bytes(&segment, input), buffers),
            }
        }
        *record.segments_mut() = segments;
        *record.pool() = pool;
    }

    /// Appends a copy.
    fn push_copy(&mut self, bytes: &[u8], buffers: &mut ReceiveBuffers) {
        self.bytes += bytes.len();
        match self.chunks.back_mut() {
            Some(last) if last.bytes.capacity() - last.bytes.len() >= bytes.len() => {
                last.bytes.extend_from_slice(bytes);
            }
            _ => {
                let mut chunk = buffers.take(bytes.len().max(CHUNK));
                chunk.extend_from_slice(bytes);
                self.chunks.push_back(Chunk { bytes: chunk, is_receive_buffer: true });
            }
        }
    }

    /// Appends a buffer of the handler.
    fn push_owned(&mut self, buffer: BytesMut, buffers: &mut ReceiveBuffers, pool: &mut BufferPool) {
        if buffer.len() < JOIN_BELOW && !self.chunks.is_empty() {
            self.push_copy(&buffer, buffers);
            pool.put(buffer);
        } else {
            self.bytes += buffer.len();
            self.chunks.push_back(Chunk { bytes: buffer, is_receive_buffer: false });
        }
    }

    /// Appends the receive buffer itself, which contains nothing but output.
    fn push_received(&mut self, buffer: BytesMut) {
        self.bytes += buffer.len();
        self.chunks.push_back(Chunk { bytes: buffer, is_receive_buffer: true });
    }

    /// Begins the next write, unless one is in flight or there is no output.
    pub(super) fn begin(&mut self) -> Option<Write> {
        if self.in_flight > 0 {
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

    /// Ends a write of which `sent` bytes were accepted; the rest leaves first next time. Returns whether
    /// the kernel has accepted everything.
    pub(super) fn end(
        &mut self,
        write: Write,
        mut sent: usize,
        buffers: &mut ReceiveBuffers,
        pool: &mut BufferPool,
    ) -> bool {
        let is_whole = sent == self.in_flight;
        self.bytes -= sent;
        self.in_flight = 0;
        let chunks = match write {
            Write::One(chunk) => one_chunk(chunk),
            Write::Several(chunks) => Chunks::Several(chunks.into_iter()),
        };
        let mut rest = VecDeque::new();
        for mut chunk in chunks {
            let taken = sent.min(chunk.bytes.len());
            sent -= taken;
            chunk.bytes.advance(taken);
            if chunk.bytes.is_empty() {
                recycle(chunk, buffers, pool);
            } else {
                rest.push_back(chunk);
            }
        }
        while let Some(chunk) = rest.pop_back() {
            self.chunks.push_front(chunk);
        }
        is_whole
    }

    /// Discards the output that is not in flight.
    pub(super) fn clear(&mut self, buffers: &mut ReceiveBuffers, pool: &mut BufferPool) {
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

fn one_chunk(chunk: Chunk) -> Chunks {
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

fn recycle(chunk: Chunk, buffers: &mut ReceiveBuffers, pool: &mut BufferPool) {
    if chunk.is_receive_buffer {
        buffers.put(chunk.bytes);
    } else {
        pool.put(chunk.bytes);
    }
}

/// A task that ends when this value is dropped.
pub(super) struct OwnedTask(pub(super) AbortHandle);

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection's socket with its unsent output and its task.
pub(super) struct Socket {
    /// The tasks and their operations hold the socket too. It is closed when they have ended.
    fd: Rc<OwnedFd>,
    pub(super) outbox: Outbox,
    /// The connection's task, once it runs.
    pub(super) task: Option<Waker>,
    /// The task that waits for the connect; later the one that reports a reset during pauses, once
    /// there was a pause.
    pub(super) watch: Option<OwnedTask>,
    /// The reader waits until it may receive, or hand over what it has received.
    pub(super) reader_waits: bool,
    /// The writer waits for output.
    pub(super) writer_waits: bool,
    /// The kernel has not accepted everything at once. Receives go on beside the send.
    pub(super) is_slow: bool,
    /// Consecutive receives that used little of their buffer.
    small_receives: u8,
    /// Bytes of the next receive's buffer.
    pub(super) receive_size: usize,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    fn new(fd: Rc<OwnedFd>) -> Self {
        Self {
            fd,
            outbox: Outbox::default(),
            task: None,
            watch: None,
            reader_waits: false,
            writer_waits: false,
            is_slow: false,
            small_receives: 0,
            receive_size: FIRST_RECEIVE,
        }
    }

    /// Adapts the size of the next receives to the received bytes, up to `most`.
    pub(super) fn fit_receives(&mut self, received: usize, most: usize) {
        if received >= self.receive_size {
            self.receive_size = (self.receive_size * 2).min(most);
        }
        self.small_receives = if received < self.receive_size / 4 { self.small_receives + 1 } else { 0 };
        if self.small_receives == SMALL_RECEIVES {
            self.small_receives = 0;
            self.receive_size = (self.receive_size / 2).max(FIRST_RECEIVE);
        }
    }

    /// Returns whether a receive may begin beside the output. While the kernel takes a send there is
    /// no hurry: most messages are answers to it. A receive that finds its message there is cheaper
    /// than one that has to wait for it.
    pub(super) fn may_receive(&self) -> bool {
        self.outbox.unsent() == 0 || self.is_slow
    }

    fn wake(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }
}

/// The task that is being polled, and which of its halves are due. To wake one of them is to have
/// it polled in this pass.
#[derive(Default)]
struct Polled {
    id: Option<ConnId>,
    reader: bool,
    writer: bool,
}

/// A task to start for a connection.
pub(super) enum TaskRequest {
    /// Receive and send.
    Serve(ConnId, Rc<OwnedFd>),
    /// Wait for the outcome of the connect.
    Connect(ConnId, Rc<OwnedFd>),
    /// Watch for a reset while the connection is paused.
    WatchReset(ConnId, Rc<OwnedFd>),
}

/// I/O of all connections, as far as it is not in their tasks.
#[derive(Default)]
pub(super) struct TaskIo {
    pub(super) buffers: ReceiveBuffers,
    polled: Polled,
    /// Tasks to start after the current call.
    pub(super) requests: Vec<TaskRequest>,
}

impl TaskIo {
    /// Begins a poll of the task of `id`, with both of its halves due.
    pub(super) fn begin_poll(&mut self, id: ConnId) {
        self.polled = Polled { id: Some(id), reader: true, writer: true };
    }

    /// Returns whether the reader of the task being polled is due, and notes that it is polled.
    pub(super) fn take_reader(&mut self) -> bool {
        std::mem::take(&mut self.polled.reader)
    }

    /// Returns whether the writer of the task being polled is due, and notes that it is polled.
    pub(super) fn take_writer(&mut self) -> bool {
        std::mem::take(&mut self.polled.writer)
    }

    /// Ends a task's poll, unless one of its halves has become due; returns whether it has ended.
    pub(super) fn end_poll(&mut self) -> bool {
        let is_idle = !(self.polled.reader || self.polled.writer);
        if is_idle {
            self.polled.id = None;
        }
        is_idle
    }

    fn wake_reader(&mut self, id: ConnId, socket: &mut Socket) {
        if std::mem::take(&mut socket.reader_waits) {
            if self.polled.id == Some(id) { self.polled.reader = true } else { socket.wake() }
        }
    }

    pub(super) fn wake_writer(&mut self, id: ConnId, socket: &mut Socket) {
        if std::mem::take(&mut socket.writer_waits) {
            if self.polled.id == Some(id) { self.polled.writer = true } else { socket.wake() }
        }
    }

    /// Receives beside a send that is slow.
    pub(super) fn begin_slow_send(&mut self, id: ConnId, socket: &mut Socket) {
        socket.is_slow = true;
        self.wake_reader(id, socket);
    }

    /// Has the task of an open connection started.
    pub(super) fn serve(&mut self, id: ConnId, socket: &Socket) {
        self.requests.push(TaskRequest::Serve(id, socket.fd.clone()));
    }
}

impl Io for TaskIo {
    type Socket = Socket;
    type Input<'a> = BytesMut;

    fn register(&mut self, id: ConnId, fd: OwnedFd, state: State) -> io::Result<Socket> {
        let socket = Socket::new(Rc::new(fd));
        if state == State::Connecting {
            self.requests.push(TaskRequest::Connect(id, socket.fd.clone()));
        } else {
            self.serve(id, &socket);
        }
        Ok(socket)
    }

    fn unsent(socket: &Socket) -> usize {
        socket.outbox.unsent()
    }

    /// Output of `received` leaves directly after the call, other output at the end of the turn.
    fn write(
        &mut self,
        socket: &mut Socket,
        record: &mut Record,
        input: Option<BytesMut>,
        _: &mut Counters,
    ) -> io::Result<Written> {
        let Some(mut input) = input else {
            socket.outbox.push_segments(record, &[], &mut self.buffers);
            return Ok(Written::Queued);
        };
        if let [Segment::Echo(range)] = record.segments() {
            // The reply lies in the receive buffer: the buffer itself is sent.
            let range = range.start as usize..range.end as usize;
            record.discard_segments();
            input.truncate(range.end);
            input.advance(range.start);
            socket.outbox.push_received(input);
        } else {
            socket.outbox.push_segments(record, &input, &mut self.buffers);
            self.buffers.put(input);
        }
        Ok(Written::Done)
    }

    fn set_reading(&mut self, id: ConnId, socket: &mut Socket, is_on: bool) {
        if is_on {
            self.wake_reader(id, socket);
        } else if socket.watch.is_none() {
            self.requests.push(TaskRequest::WatchReset(id, socket.fd.clone()));
        }
    }

    /// Operations in flight end by a shutdown of the socket; they are never dropped.
    fn discard(&mut self, id: ConnId, socket: &mut Socket, pool: &mut BufferPool) {
        socket.outbox.clear(&mut self.buffers, pool);
        // ENOTCONN after a reset: then nothing is in flight any more.
        let _ = shutdown(&socket.fd, Shutdown::Both);
        self.wake_reader(id, socket);
        self.wake_writer(id, socket);
    }

    fn is_stalled(&mut self, id: ConnId, socket: &mut Socket) -> bool {
        let was_slow = socket.is_slow;
        self.begin_slow_send(id, socket);
        was_slow
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
    fn output_leaves_in_order_at_every_length_of_a_write() {
        // Single bytes where there are few, larger steps where there are many.
        for (step, copied, owned) in [
            (1, 30, 100),
            (7, 300, 100),
            (1000, 3000, JOIN_BELOW),
            (20_000, 3000, JOIN_BELOW),
            (1 << 20, 1, JOIN_BELOW),
        ] {
            let (mut buffers, mut pool) = (ReceiveBuffers::default(), BufferPool::default());
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
    fn receives_grow_at_once_and_shrink_after_a_while() {
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        let mut c = Socket::new(Rc::new(null.into()));
        for received in [4096, 8192, 16_384] {
            c.fit_receives(received, 20_000);
        }
        assert_eq!(c.receive_size, 20_000);
        // An occasional large read keeps the size.
        for _ in 0..100 {
            c.fit_receives(10, 20_000);
            c.fit_receives(15_000, 20_000);
        }
        assert_eq!(c.receive_size, 20_000);
        (0..100).for_each(|_| c.fit_receives(10, 20_000));
        assert_eq!(c.receive_size, FIRST_RECEIVE);
    }

    #[test]
    fn kept_receive_buffers_are_bounded_in_bytes() {
        let mut buffers = ReceiveBuffers::default();
        for _ in 0..1000 {
            buffers.put(BytesMut::with_capacity(100_000));
        }
        assert!(buffers.free.len() == ReceiveBuffers::KEEP_BYTES / 100_000, "{}", buffers.free.len());
        assert_eq!(buffers.take(200_000).capacity(), 200_000);
        let count = buffers.free.len();
        (0..count).for_each(|_| drop(buffers.take(1)));
        assert_eq!((buffers.free.len(), buffers.held_bytes), (0, 0));
    }

    #[test]
    fn a_receive_buffer_keeps_its_memory_round_after_round() {
        let mut buffers = ReceiveBuffers::default();
        let buffer = buffers.take(FIRST_RECEIVE);
        let capacity = buffer.capacity();
        buffers.put(buffer);
        for _ in 0..100 {
            let mut buffer = buffers.take(FIRST_RECEIVE);
            assert_eq!(buffer.capacity(), capacity);
            buffer.extend_from_slice(&[1; 100]);
            // As for an echo: the reply begins four bytes into the buffer.
            buffer.advance(4);
            buffers.put(buffer);
        }
    }
}

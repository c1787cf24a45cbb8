//! Sockets of the tokio-uring engine: their buffers, their output, and their tasks' wake-ups.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::Waker;

use bytes::{Buf, BytesMut};
use rustix::net::{Shutdown, shutdown};
use tokio::task::AbortHandle;

use crate::accounting::Counters;
use crate::connection::{ConnId, State};
use crate::lifecycle::{Io, SendQueue, Written};
use crate::output::{Record, Segment};
use crate::pool::BufferPool;

/// Bytes of a connection's first receive buffer. The size doubles with every receive that fills it.
/// Every connection has a receive in flight, and so a buffer of its own.
pub(super) const FIRST_RECEIVE: usize = 4096;
/// Consecutive receives that use less than a quarter of their buffer before the size is halved.
const SMALL_RECEIVES: u8 = 16;
/// Most buffers that leave with one write.
const BUFFERS_PER_WRITE: usize = 16;
const _: () = assert!(BUFFERS_PER_WRITE <= 1024, "writev(2) accepts no more than IOV_MAX buffers");

/// Output that a writer has in flight.
pub(super) enum Write {
    One(BytesMut),
    Several(Vec<BytesMut>),
}

/// Unsent output of a connection: queued, and in flight.
#[derive(Default)]
pub(super) struct Outbox {
    queue: SendQueue,
    /// Bytes of the write in flight.
    in_flight: usize,
}

impl Outbox {
    /// Returns the number of unsent bytes, with those of the write in flight.
    pub(super) fn unsent(&self) -> usize {
        self.queue.bytes() + self.in_flight
    }

    /// Returns whether a write can begin: there is output, and none is in flight.
    pub(super) fn can_begin(&self) -> bool {
        self.in_flight == 0 && self.queue.buffers() > 0
    }

    /// Appends the segments of a call.
    fn push_segments(&mut self, record: &mut Record, input: &[u8]) {
        // The segments are taken out meanwhile: they lie in the record beside their arena.
        let mut pool = std::mem::take(record.pool());
        let mut segments = std::mem::take(record.segments_mut());
        for segment in segments.drain(..) {
            match segment {
                Segment::Owned(buffer) => self.queue.push_owned(buffer, &mut pool),
                segment => self.queue.push_copy(record.bytes(&segment, input), &mut pool),
            }
        }
        *record.segments_mut() = segments;
        *record.pool() = pool;
    }

    /// Begins the next write if there is output and no write is in progress.
    pub(super) fn begin(&mut self) -> Option<Write> {
        if !self.can_begin() {
            return None;
        }
        let before = self.queue.bytes();
        let write = if self.queue.buffers() > 1 {
            let buffers = std::iter::from_fn(|| self.queue.pop_front());
            Write::Several(buffers.take(BUFFERS_PER_WRITE).collect())
        } else {
            Write::One(self.queue.pop_front()?)
        };
        self.in_flight = before - self.queue.bytes();
        Some(write)
    }

    /// Ends a write of which `sent` bytes were accepted; the rest leaves first next time. Returns
    /// whether the kernel has accepted everything.
    pub(super) fn end(&mut self, write: Write, sent: usize, pool: &mut BufferPool) -> bool {
        let is_whole = sent == self.in_flight;
        // The unsent bytes are the last ones.
        let mut unsent = std::mem::take(&mut self.in_flight) - sent;
        let mut take_back = |mut buffer: BytesMut| {
            let rest = unsent.min(buffer.len());
            unsent -= rest;
            if rest == 0 {
                return pool.put(buffer);
            }
            buffer.advance(buffer.len() - rest);
            self.queue.push_front(buffer);
        };
        match write {
            Write::One(buffer) => take_back(buffer),
            Write::Several(buffers) => buffers.into_iter().rev().for_each(take_back),
        }
        is_whole
    }

    /// Discards the output that is not in flight.
    fn discard(&mut self, pool: &mut BufferPool) {
        self.queue.advance(self.queue.bytes(), pool);
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
        self.small_receives =
            if received < self.receive_size / 4 { self.small_receives + 1 } else { 0 };
        if self.small_receives == SMALL_RECEIVES {
            self.small_receives = 0;
            self.receive_size = (self.receive_size / 2).max(FIRST_RECEIVE);
        }
    }

    /// Returns whether a receive may begin although output is unsent. Most messages answer a send,
    /// so a receive can usually wait until that send has ended. A receive whose message has already
    /// arrived is cheaper than one that waits.
    pub(super) fn may_receive(&self) -> bool {
        self.outbox.unsent() == 0 || self.is_slow
    }

    fn wake(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }
}

/// The task that is being polled, with a flag for each half that is due. Setting the flag has the
/// half polled in this pass.
#[derive(Default)]
pub(super) struct Polled {
    id: Cell<Option<ConnId>>,
    reader: Cell<bool>,
    writer: Cell<bool>,
}

impl Polled {
    /// Begins a poll of the task of `id`, with both of its halves due.
    pub(super) fn begin(&self, id: ConnId) {
        self.id.set(Some(id));
        self.reader.set(true);
        self.writer.set(true);
    }

    /// Returns whether the reader of the task being polled is due, and notes that it is polled.
    pub(super) fn take_reader(&self) -> bool {
        self.reader.take()
    }

    /// Returns whether the writer of the task being polled is due, and notes that it is polled.
    pub(super) fn take_writer(&self) -> bool {
        self.writer.take()
    }

    /// Ends a task's poll, unless one of its halves has become due; returns whether it has ended.
    pub(super) fn end(&self) -> bool {
        let is_idle = !(self.reader.get() || self.writer.get());
        if is_idle {
            self.id.set(None);
        }
        is_idle
    }
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
    pub(super) polled: Rc<Polled>,
    /// Tasks to start at the end of the turn.
    pub(super) requests: Vec<TaskRequest>,
}

impl TaskIo {
    fn wake_reader(&mut self, id: ConnId, socket: &mut Socket) {
        if std::mem::take(&mut socket.reader_waits) {
            if self.polled.id.get() == Some(id) {
                self.polled.reader.set(true);
            } else {
                socket.wake();
            }
        }
    }

    pub(super) fn wake_writer(&mut self, id: ConnId, socket: &mut Socket) {
        if std::mem::take(&mut socket.writer_waits) {
            if self.polled.id.get() == Some(id) {
                self.polled.writer.set(true);
            } else {
                socket.wake();
            }
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
            socket.outbox.push_segments(record, &[]);
            return Ok(Written::Queued);
        };
        if let [Segment::Echo(range)] = record.segments() {
            // The reply lies in the receive buffer: the buffer itself is sent.
            let range = range.start as usize..range.end as usize;
            record.discard_segments();
            input.truncate(range.end);
            input.advance(range.start);
            socket.outbox.queue.push_back(input);
        } else {
            socket.outbox.push_segments(record, &input);
            record.pool().put(input);
        }
        Ok(Written::Done)
    }

    #[inline]
    fn set_reading(&mut self, id: ConnId, socket: &mut Socket, is_on: bool) {
        if is_on {
            self.wake_reader(id, socket);
        } else if socket.watch.is_none() {
            self.requests.push(TaskRequest::WatchReset(id, socket.fd.clone()));
        }
    }

    /// Operations in flight end by a shutdown of the socket; they are never dropped.
    fn discard(&mut self, id: ConnId, socket: &mut Socket, pool: &mut BufferPool) {
        socket.outbox.discard(pool);
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
    use crate::time::Nanos;

    #[test]
    fn output_leaves_in_order_at_every_length_of_a_write() {
        for step in [1, 7, 1000, 20_000, 1 << 20] {
            let mut record = Record::new();
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            // More buffers than one write takes.
            for round in 0..2 * BUFFERS_PER_WRITE as u8 {
                let mut out = record.begin(Nanos(0), 0, 0);
                out.append(&[round; 30]);
                out.give(BytesMut::from(&[round + 50; 16 << 10][..]));
                outbox.push_segments(&mut record, &[]);
                expected.extend_from_slice(&[round; 30]);
                expected.extend_from_slice(&[round + 50; 16 << 10]);
            }
            let mut seen = Vec::new();
            while outbox.unsent() > 0 {
                let write = outbox.begin().expect("something to write");
                assert!(outbox.begin().is_none(), "one write in flight");
                let bytes = match &write {
                    Write::One(buffer) => buffer.to_vec(),
                    Write::Several(buffers) => buffers.concat(),
                };
                let sent = step.max(bytes.len() / 50).min(bytes.len());
                seen.extend_from_slice(&bytes[..sent]);
                assert_eq!(outbox.end(write, sent, record.pool()), sent == bytes.len());
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
}

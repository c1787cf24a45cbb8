//! Input: multishot receives into provided buffers, and pauses.

use bytes::BytesMut;

use crate::connection::{Cause, State};
use crate::pool::BufferPool;
use crate::token::OpKind;
use crate::uring::queues::Queues;
use crate::uring::receive_queue::ReceiveQueue;
use crate::uring::ring::{Completion, Op, Ring};
use crate::uring::slots::{Flags, RECEIVE, Slot, Slots};

/// Inbound side of a worker's connections.
pub(super) struct Inbound {
    /// Bytes from which on a receive is large.
    large: usize,
    /// Connections whose receive has ended and is armed again.
    rearm: Vec<u32>,
    /// Connections that receive one after another, because their receives are large.
    queue: ReceiveQueue,
    /// Connections that are read from again after a pause.
    resumed: Vec<u32>,
}

impl Inbound {
    /// No connections. A receive of `large` bytes or more counts as large.
    pub(super) fn new(large: usize) -> Self {
        Self { large, rearm: Vec::new(), queue: ReceiveQueue::default(), resumed: Vec::new() }
    }

    /// Returns whether a turn has something to do without a completion.
    pub(super) fn has_work(&self) -> bool {
        self.has_resumed() || !self.queue.is_empty()
    }

    /// Returns whether connections are read from again.
    pub(super) fn has_resumed(&self) -> bool {
        !self.resumed.is_empty()
    }

    /// Lists a connection for its receive to be armed at the end of the turn.
    pub(super) fn rearm(&mut self, slot: u32) {
        self.rearm.push(slot);
    }

    /// Arms receives: of all listed connections, and of as many in the queue as find one of
    /// `offered` buffers.
    pub(super) fn arm_receives<C, R: Ring>(
        &mut self,
        slots: &mut Slots<C>,
        queues: &mut Queues<R>,
        offered: usize,
    ) {
        for slot in self.rearm.drain(..) {
            arm(slot, &mut slots[slot], false, queues);
        }
        for _ in 0..offered.max(1) {
            let Some(slot) = self.queue.next() else { break };
            arm(slot, &mut slots[slot], true, queues);
        }
    }

    /// Handles the end of a receive: decides when the next one is armed.
    pub(super) fn receive_ended<C>(
        &mut self,
        slot: u32,
        s: &mut Slot<C>,
        c: Completion,
        one_by_one: bool,
    ) {
        if mutated!(MoreIgnored) {
            return;
        }
        s.flags.clear(Flags::RECEIVING | Flags::RECEIVE_CANCELLED);
        let large = c.result.max(0).cast_unsigned() as usize >= self.large;
        match c.result {
            e if e == -libc::ENOBUFS && one_by_one => self.queue.found_no_buffer(slot),
            _ if large && c.unread => self.queue.has_more(slot),
            _ if large => self.queue.took_all(slot),
            _ => self.rearm.push(slot),
        }
    }

    // ---- pauses

    /// Pauses reading. The kernel reports a reset meanwhile.
    pub(super) fn pause<C, R: Ring>(&mut self, slot: u32, s: &mut Slot<C>, queues: &mut Queues<R>) {
        s.flags.set(Flags::PAUSED);
        s.cancel(slot, RECEIVE, queues);
        watch(slot, s, queues);
    }

    /// Ends the handler's pause.
    pub(super) fn resume<C>(&mut self, slot: u32, s: &mut Slot<C>) {
        if s.flags.any(Flags::PAUSED) {
            s.flags.clear(Flags::PAUSED);
            self.resumed.push(slot);
        }
    }

    /// Lists a connection whose stashed bytes are to be delivered.
    pub(super) fn deliver_later(&mut self, slot: u32) {
        self.resumed.push(slot);
    }

    /// Takes the connections that are read from again. [`Inbound::put_back`] returns the list.
    pub(super) fn take_resumed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.resumed)
    }

    /// Returns the list of [`Inbound::take_resumed`], empty. Connections that were resumed
    /// meanwhile stay for the next turn.
    pub(super) fn put_back(&mut self, mut list: Vec<u32>) {
        list.append(&mut self.resumed);
        self.resumed = list;
    }
}

fn arm<C, R: Ring>(slot: u32, s: &mut Slot<C>, once: bool, queues: &mut Queues<R>) {
    let wanted = match s.state {
        State::Open => s.has_caught_up(),
        // This input is discarded, but it must be read: unread input would turn the close into a
        // reset.
        State::Draining | State::Lingering => s.extra().linger_left > 0,
        // Accepted: input comes in the turn in which the peer's address does, or later.
        State::Connecting => s.flags.any(Flags::NAMING),
        _ => false,
    };
    if wanted && !s.flags.any(Flags::RECEIVING | Flags::EOF) {
        s.flags.set(Flags::RECEIVING);
        queues.push(s.token(OpKind::Receive, slot), Op::Receive { slot, once });
    }
}

/// Asks the kernel to report a reset while there is no receive to report it. The watch stays for
/// later pauses. A connection that waits for its send needs none, because the send reports the
/// reset.
fn watch<C, R: Ring>(slot: u32, s: &mut Slot<C>, queues: &mut Queues<R>) {
    if !s.flags.any(Flags::WATCHED) {
        s.flags.set(Flags::WATCHED);
        queues.push(s.token(OpKind::Watch, slot), Op::Watch { slot });
    }
}

/// Handles a change of a watched socket's state: a reset, or a FIN, which a receive reports later.
///
/// # Errors
///
/// The cause by which the connection ends.
pub(super) fn on_watch<C, R: Ring>(
    slot: u32,
    s: &mut Slot<C>,
    c: Completion,
    queues: &mut Queues<R>,
) -> Result<(), Cause> {
    if !c.more {
        s.flags.clear(Flags::WATCHED | Flags::WATCH_CANCELLED);
    }
    // While the connection is read from, a receive reports the reset, after the input that arrived
    // before.
    if s.state == State::Open && c.result >= 0 && s.flags.any(Flags::PAUSED) {
        if c.result & i32::from(libc::POLLERR | libc::POLLHUP) != 0 {
            return Err(Cause::Reset);
        }
        if !c.more {
            watch(slot, s, queues);
        }
    }
    Ok(())
}

/// Keeps bytes that arrived after a pause. In several chunks: one growing buffer would be copied
/// again and again.
pub(super) fn stash<C>(s: &mut Slot<C>, bytes: &[u8], pool: &mut BufferPool) {
    let stash = &mut s.extra().stash;
    match stash.back_mut() {
        Some(last) if last.capacity() - last.len() >= bytes.len() => last.extend_from_slice(bytes),
        _ => {
            let mut chunk: BytesMut = pool.take_fitting(bytes.len());
            chunk.extend_from_slice(bytes);
            stash.push_back(chunk);
        }
    }
}

//! Connections of a worker: a table of slots.

use std::collections::VecDeque;
use std::io;
use std::ops::{Index, IndexMut};

use bytes::{Buf, BytesMut};

use crate::connection::{Cause, ConnId, State};
use crate::outgoing;
use crate::time::Nanos;
use crate::token::{GENERATION_MASK, OpKind, Token};
use crate::uring::address::Address;
use crate::uring::outputs::OutputIndex;
use crate::uring::queues::Queues;
use crate::uring::ring::{Op, Ring};

/// Flags of a connection, beside its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u32);

impl Flags {
    /// A multishot receive is armed, or its last completion is outstanding.
    pub(super) const RECEIVING: u32 = 1;
    /// The receive's cancellation has been queued.
    pub(super) const RECEIVE_CANCELLED: u32 = 1 << 1;
    /// A send of the chain `sending` is in progress.
    pub(super) const SENDING: u32 = 1 << 2;
    /// A send of the backlog is in progress.
    pub(super) const BACKLOG: u32 = 1 << 3;
    /// The half-close is in progress. It runs on a thread of the kernel, which looks the descriptor
    /// up only then: after an earlier close the shutdown would affect the next connection in this
    /// slot.
    pub(super) const SHUTTING_DOWN: u32 = 1 << 4;
    /// The handler has paused reading.
    pub(super) const PAUSED: u32 = 1 << 5;
    /// Unsent bytes are above the high-water mark.
    pub(super) const ABOVE_HIGH_WATER: u32 = 1 << 6;
    /// The peer's FIN has arrived.
    pub(super) const EOF: u32 = 1 << 7;
    /// The handler has not been told of the FIN yet.
    pub(super) const EOF_UNREPORTED: u32 = 1 << 8;
    /// The connection is in the turn's list of connections with output.
    pub(super) const DIRTY: u32 = 1 << 9;
    /// A listener accepted the connection.
    pub(super) const ACCEPTED: u32 = 1 << 10;
    /// The cancellation of the backlog's send has been queued.
    pub(super) const BACKLOG_CANCELLED: u32 = 1 << 11;
    /// A watch is armed, or its last completion is outstanding.
    pub(super) const WATCHED: u32 = 1 << 12;
    /// The watch's cancellation has been queued.
    pub(super) const WATCH_CANCELLED: u32 = 1 << 13;
    /// The close of the descriptor has been queued.
    pub(super) const CLOSE_QUEUED: u32 = 1 << 14;
    /// The handler closes with [`CloseMode::Finish`](crate::CloseMode::Finish).
    pub(super) const FINISHING: u32 = 1 << 15;
    /// The address of the accepted connection's peer is being asked for.
    pub(super) const NAMING: u32 = 1 << 16;
    /// The connection is being handed over to another worker, which counts it.
    pub(super) const HANDED_OVER: u32 = 1 << 17;
    /// Operations after whose end the descriptor may be closed.
    pub(super) const OPERATIONS: u32 = Self::RECEIVING
        | Self::SENDING
        | Self::BACKLOG
        | Self::SHUTTING_DOWN
        | Self::WATCHED
        | Self::NAMING;

    /// Returns whether any of `flags` is set.
    pub(super) fn any(self, flags: u32) -> bool {
        self.0 & flags != 0
    }

    pub(super) fn set(&mut self, flags: u32) {
        self.0 |= flags;
    }

    pub(super) fn clear(&mut self, flags: u32) {
        self.0 &= !flags;
    }
}

/// Cancellable operation of a connection: its kind, and the flags of its progress and of its
/// cancellation.
#[derive(Clone, Copy)]
pub(super) struct Cancellable {
    kind: OpKind,
    in_progress: u32,
    cancelled: u32,
}

/// The receive.
pub(super) const RECEIVE: Cancellable = Cancellable {
    kind: OpKind::Receive,
    in_progress: Flags::RECEIVING,
    cancelled: Flags::RECEIVE_CANCELLED,
};
/// The send of the backlog.
pub(super) const BACKLOG: Cancellable = Cancellable {
    kind: OpKind::Backlog,
    in_progress: Flags::BACKLOG,
    cancelled: Flags::BACKLOG_CANCELLED,
};
/// The watch for a reset.
pub(super) const WATCH: Cancellable = Cancellable {
    kind: OpKind::Watch,
    in_progress: Flags::WATCHED,
    cancelled: Flags::WATCH_CANCELLED,
};

/// Parts of a connection that few connections have at a time, so that an idle one does not pay for
/// them.
pub(super) struct Extra {
    /// The engine's own deadline: of a connect, a stalled write, or a linger, as the state says.
    pub(super) timer: Nanos,
    pub(super) backlog: Backlog,
    /// Bytes that arrived after a pause, in order.
    pub(super) stash: VecDeque<BytesMut>,
    /// Bytes that may still be discarded before the linger ends.
    pub(super) linger_left: u64,
    pub(super) cause: Option<Cause>,
    pub(super) connect: Option<Connecting>,
}

impl Default for Extra {
    fn default() -> Self {
        Self {
            timer: Nanos::NEVER,
            backlog: Backlog::default(),
            stash: VecDeque::new(),
            linger_left: 0,
            cause: None,
            connect: None,
        }
    }
}

/// A connect in progress.
pub(super) struct Connecting {
    pub(super) tag: u64,
    pub(super) target: Address,
    pub(super) timed_out: bool,
    /// Reason of its failure. It is reported once the slot is free, so that the handler can connect
    /// again at once.
    pub(super) error: Option<io::Error>,
}

/// Output that the kernel did not accept at once, in chunks whose memory stays in place.
#[derive(Default)]
pub(super) struct Backlog {
    pub(super) chunks: VecDeque<BytesMut>,
    pub(super) bytes: usize,
}

impl Backlog {
    pub(super) fn push_back(&mut self, chunk: BytesMut) {
        self.bytes += chunk.len();
        self.chunks.push_back(chunk);
    }

    pub(super) fn push_front(&mut self, chunk: BytesMut) {
        self.bytes += chunk.len();
        self.chunks.push_front(chunk);
    }

    /// Removes the first `n` bytes of the first chunk. Returns the chunk when it is empty.
    pub(super) fn advance(&mut self, n: usize) -> Option<BytesMut> {
        self.bytes -= n;
        let first = self.chunks.front_mut()?;
        first.advance(n);
        if first.is_empty() { self.chunks.pop_front() } else { None }
    }
}

/// A slot of the table, with or without a connection.
pub(super) struct Slot<C> {
    pub(super) generation: u32,
    pub(super) state: State,
    pub(super) flags: Flags,
    /// Output that the kernel has not been asked to accept, or is about to.
    pub(super) output: OutputIndex,
    /// The handler's deadline.
    pub(super) deadline: Nanos,
    pub(super) extra: Option<Box<Extra>>,
    pub(super) conn: Option<C>,
}

impl<C> Slot<C> {
    fn free(generation: u32) -> Self {
        Self {
            generation,
            state: State::Closed,
            flags: Flags::default(),
            output: OutputIndex::NONE,
            deadline: Nanos::NEVER,
            extra: None,
            conn: None,
        }
    }

    pub(super) fn id(&self, slot: u32) -> ConnId {
        ConnId { slot, generation: self.generation }
    }

    pub(super) fn token(&self, kind: OpKind, slot: u32) -> Token {
        Token::new(kind, slot, self.generation)
    }

    /// Returns whether a completion belongs to the connection that has the slot now.
    fn owns(&self, token: Token) -> bool {
        let same = token.generation() == self.generation & GENERATION_MASK;
        self.state != State::Closed && (same || mutated!(GenerationUnchecked))
    }

    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub(super) fn backlog_bytes(&self) -> usize {
        self.extra.as_ref().map_or(0, |e| e.backlog.bytes)
    }

    /// Returns whether there are bytes that the kernel has not accepted.
    pub(super) fn has_unsent(&self) -> bool {
        self.output != OutputIndex::NONE || self.backlog_bytes() > 0
    }

    /// The engine's own deadline.
    pub(super) fn timer(&self) -> Nanos {
        self.extra.as_ref().map_or(Nanos::NEVER, |e| e.timer)
    }

    /// Returns whether the connection is read from.
    pub(super) fn is_reading(&self) -> bool {
        self.state == State::Open && !self.flags.any(Flags::PAUSED | Flags::ABOVE_HIGH_WATER)
    }

    /// Returns whether arriving bytes can go to the handler now: it is not paused, and no earlier
    /// bytes wait.
    pub(super) fn has_caught_up(&self) -> bool {
        self.is_reading() && self.extra.as_ref().is_none_or(|e| e.stash.is_empty())
    }

    /// Queues the cancellation of an operation that is in progress. Its last completion is still to
    /// come.
    pub(super) fn cancel<R: Ring>(
        &mut self,
        slot: u32,
        operation: Cancellable,
        queues: &mut Queues<R>,
    ) {
        let Cancellable { kind, in_progress, cancelled } = operation;
        if self.flags.any(in_progress) && !self.flags.any(cancelled) {
            self.flags.set(cancelled);
            let target = self.token(kind, slot);
            queues.push(self.token(OpKind::Cancel, slot), Op::Cancel { target });
        }
    }
}

/// Slots of a worker, indexed by direct descriptor: first those that the kernel chooses on accept,
/// then those of outgoing connections.
pub(super) struct Slots<C> {
    slots: Vec<Slot<C>>,
    /// Connections that the handler knows, those that are closing included.
    pub(super) open: usize,
}

impl<C> Slots<C> {
    /// A table of at most `capacity` slots.
    pub(super) fn new(capacity: usize) -> Self {
        Self { slots: Vec::with_capacity(capacity), open: 0 }
    }

    pub(super) fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Slot<C>)> {
        (0..).zip(&self.slots)
    }

    /// Makes the table long enough for a slot.
    pub(super) fn grow_to(&mut self, slot: u32) {
        if self.len() <= slot {
            self.slots.resize_with(slot as usize + 1, || Slot::free(0));
        }
    }

    /// The connection that a completion belongs to; `None` where it is gone.
    pub(super) fn of(&mut self, token: Token) -> Option<&mut Slot<C>> {
        self.slots.get_mut(token.slot() as usize).filter(|s| s.owns(token))
    }

    /// The connection with an id; `None` where it is gone.
    pub(super) fn get(&mut self, id: ConnId) -> Option<&mut Slot<C>> {
        let s = self.slots.get_mut(id.slot as usize)?;
        (s.generation == id.generation && s.state != State::Closed).then_some(s)
    }

    /// Takes a connection out. The slot's generation goes up.
    pub(super) fn remove(&mut self, slot: u32) -> Slot<C> {
        let s = &mut self[slot];
        let free = Slot::free(s.generation.wrapping_add(1));
        let gone = std::mem::replace(s, free);
        self.open -= usize::from(gone.conn.is_some());
        gone
    }
}

impl<C> Index<u32> for Slots<C> {
    type Output = Slot<C>;

    fn index(&self, slot: u32) -> &Slot<C> {
        &self.slots[slot as usize]
    }
}

impl<C> IndexMut<u32> for Slots<C> {
    fn index_mut(&mut self, slot: u32) -> &mut Slot<C> {
        &mut self.slots[slot as usize]
    }
}

/// Cause of a connection's end by a failed operation.
pub(super) fn cause(errno: i32) -> Cause {
    outgoing::cause(io::Error::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        // 72 bytes of the handler's and what the engine needs, under the promise of 128 with the
        // wheel's entry of 16.
        type Handlers = (Box<u8>, [u64; 8]);
        assert!(size_of::<Slot<Handlers>>() <= 104, "{}", size_of::<Slot<Handlers>>());
    }

    #[test]
    fn a_backlog_leaves_in_order() {
        let mut backlog = Backlog::default();
        backlog.push_back(BytesMut::from(&b"cd"[..]));
        backlog.push_front(BytesMut::from(&b"ab"[..]));
        assert_eq!(backlog.bytes, 4);
        assert!(backlog.advance(1).is_none());
        assert!(backlog.advance(1).is_some_and(|b| b.is_empty()));
        assert_eq!(backlog.chunks.front().map(|c| &c[..]), Some(&b"cd"[..]));
        assert_eq!(backlog.bytes, 2);
    }
}

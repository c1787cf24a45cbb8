//! A connection's place in the worker's table.

use std::collections::VecDeque;
use std::io;

use bytes::{Buf, BytesMut};

use crate::connection::{Cause, ConnId, State};
use crate::outgoing;
use crate::time::Nanos;
use crate::token::{GENERATION_MASK, OpKind, Token};
use crate::uring::pieces::Chain;
use crate::uring::ring::TargetAddress;

/// What is going on with a connection, beside its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u16);

impl Marks {
    /// A multishot receive is armed, or its last completion is still to come.
    pub(super) const RECEIVING: u16 = 1;
    /// Its cancellation has been queued.
    pub(super) const CANCELLING: u16 = 1 << 1;
    /// A send is under way: the chain `sending`.
    pub(super) const SENDING: u16 = 1 << 2;
    /// A send of the backlog is under way.
    pub(super) const BACKLOG: u16 = 1 << 3;
    /// The half-close is under way. It runs on a thread of the kernel's, which looks the descriptor up only then: closing it
    /// before would let the shutdown hit whoever gets the slot next.
    pub(super) const SHUTTING: u16 = 1 << 4;
    /// The handler asked for a pause.
    pub(super) const PAUSED: u16 = 1 << 5;
    /// Unsent bytes are above the high-water mark.
    pub(super) const HELD_BACK: u16 = 1 << 6;
    /// The other end's FIN has arrived.
    pub(super) const EOF: u16 = 1 << 7;
    /// The handler has yet to hear of it.
    pub(super) const EOF_UNTOLD: u16 = 1 << 8;
    /// In the turn's list of connections with output.
    pub(super) const DIRTY: u16 = 1 << 9;
    /// A listener accepted it.
    pub(super) const ACCEPTED: u16 = 1 << 10;
    /// The cancellation of the backlog's send, or of the connect, has been queued.
    pub(super) const ABORTING: u16 = 1 << 11;
    /// A watch is armed, or its last completion is still to come.
    pub(super) const WATCHED: u16 = 1 << 12;
    /// The cancellation of the watch has been queued.
    pub(super) const UNWATCHING: u16 = 1 << 13;
    /// The close of the descriptor has been queued.
    pub(super) const CLOSE_QUEUED: u16 = 1 << 14;

    /// Whether any of `marks` is set.
    pub(super) fn any(self, marks: u16) -> bool {
        self.0 & marks != 0
    }

    pub(super) fn set(&mut self, marks: u16) {
        self.0 |= marks;
    }

    pub(super) fn clear(&mut self, marks: u16) {
        self.0 &= !marks;
    }
}

/// What only few connections have at a time, so that an idle one does not pay for it.
#[derive(Default)]
pub(super) struct Extra {
    pub(super) backlog: Backlog,
    /// Bytes that arrived after a pause, in order and in pieces.
    pub(super) stash: VecDeque<BytesMut>,
    /// Bytes that may still be discarded before a gentle close is cut short.
    pub(super) linger_left: u64,
    pub(super) cause: Option<Cause>,
    pub(super) connect: Option<Connecting>,
}

/// A connect under way.
pub(super) struct Connecting {
    pub(super) tag: u64,
    pub(super) target: TargetAddress,
    pub(super) timed_out: bool,
    /// Reason why it failed. It is reported once the slot is free, so that the handler can connect again at
    /// once.
    pub(super) error: Option<io::Error>,
}

/// Output that the kernel did not take at once, in chunks whose memory stays in place.
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

    /// Takes note that `n` bytes of the first chunk have left; returns the chunk when it is empty.
    pub(super) fn advance(&mut self, n: usize) -> Option<BytesMut> {
        self.bytes -= n;
        let first = self.chunks.front_mut()?;
        first.advance(n);
        if first.is_empty() { self.chunks.pop_front() } else { None }
    }
}

/// A connection, or a place for one.
pub(super) struct Slot<C> {
    pub(super) generation: u32,
    pub(super) state: State,
    pub(super) marks: Marks,
    /// This turn's output.
    pub(super) chain: Chain,
    /// Output under way.
    pub(super) sending: Chain,
    /// The handler's deadline.
    pub(super) deadline: Nanos,
    /// The engine's own: of a connect, a stalled write, a linger.
    pub(super) timer: Nanos,
    pub(super) extra: Option<Box<Extra>>,
    pub(super) conn: Option<C>,
}

impl<C> Slot<C> {
    pub(super) fn free() -> Self {
        Self {
            generation: 0,
            state: State::Closed,
            marks: Marks::default(),
            chain: Chain::EMPTY,
            sending: Chain::EMPTY,
            deadline: Nanos::NEVER,
            timer: Nanos::NEVER,
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

    /// Whether a completion belongs to the connection that is here now.
    pub(super) fn owns(&self, token: Token) -> bool {
        let same = token.generation() == self.generation & GENERATION_MASK;
        self.state != State::Closed && (same || mutated!(GenerationUnchecked))
    }

    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub(super) fn backlog_bytes(&self) -> usize {
        self.extra.as_ref().map_or(0, |e| e.backlog.bytes)
    }

    /// Bytes that the kernel has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.backlog_bytes() + self.chain.bytes + self.sending.bytes
    }

    /// Whether `received` may be called.
    pub(super) fn is_listening(&self) -> bool {
        self.state == State::Open && !self.marks.any(Marks::PAUSED | Marks::HELD_BACK)
    }

    /// Whether what arrives now may be handed over now: not before what was stashed.
    pub(super) fn has_caught_up(&self) -> bool {
        self.is_listening() && self.extra.as_ref().is_none_or(|e| e.stash.is_empty())
    }

    /// The earlier of both times.
    pub(super) fn next_time(&self) -> Nanos {
        self.deadline.min(self.timer)
    }
}

/// What a failed operation means for the connection.
pub(super) fn cause(errno: i32) -> Cause {
    outgoing::cause(io::Error::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        // 64 bytes of the handler's and what the engine needs, well under the promise of 256 with the wheel's entry.
        assert!(size_of::<Slot<[u64; 8]>>() <= 152, "{}", size_of::<Slot<[u64; 8]>>());
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

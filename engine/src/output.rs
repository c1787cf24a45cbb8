//! What a handler wants done with a connection: a passive record.
//!
//! Nothing here performs I/O, so adaptors (TLS) and tests can make a [`Record`] of their own, hand its [`Output`] to a
//! handler and look at what it asked for.

use std::ops::Range;

use bytes::BytesMut;

use crate::connection::CloseMode;
use crate::pool::BufferPool;
use crate::time::Nanos;

/// A piece of output, in the order of the wire.
#[derive(Debug, PartialEq, Eq)]
pub enum Segment {
    /// A range of the bytes that this call of `received` was given.
    Echo(Range<u32>),
    /// A range of the turn's arena ([`Record::arena`]).
    Arena(Range<u32>),
    /// A buffer that changes hands; it returns to the pool when it has been sent.
    Owned(BytesMut),
}

/// What a call of the handler asked for besides bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// End the connection. When both modes were asked for, the harder one holds.
    pub close: Option<CloseMode>,
    /// `Some(true)`: stop calling `received`; `Some(false)`: go on.
    pub pause: Option<bool>,
    /// `Some(Some(at))`: set the deadline; `Some(None)`: unset it.
    pub deadline: Option<Option<Nanos>>,
}

impl Commands {
    /// Nothing was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.close.is_none() && self.pause.is_none() && self.deadline.is_none()
    }
}

/// Collects what handlers ask for; one per worker, used again for every call.
///
/// The arena lasts for a turn: segments of several calls lie in it side by side until [`Record::clear_arena`].
#[derive(Debug, Default)]
pub struct Record {
    segments: Vec<Segment>,
    commands: Commands,
    /// Bytes beyond `arena_len` are left from earlier turns: initialised, so that reserving costs no clearing.
    arena: Vec<u8>,
    arena_len: usize,
    pool: BufferPool,
    now: Nanos,
    unsent: usize,
    input_len: usize,
}

impl Record {
    /// Arena memory that stays allocated from turn to turn, in bytes. What a turn needed beyond is given back.
    const ARENA_KEEP: usize = 4 << 20;

    /// An empty record.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The face of the record for one call of a handler.
    ///
    /// `unsent`: bytes of this connection that wait for the other end; `input_len`: length of the call's bytes, 0 where the
    /// call has none. Segments and commands of the call before must have been taken.
    pub fn begin(&mut self, now: Nanos, unsent: usize, input_len: usize) -> Output<'_> {
        debug_assert!(
            self.segments.is_empty() && self.commands.is_empty(),
            "output of the last call was not taken"
        );
        self.now = now;
        self.unsent = unsent;
        self.input_len = input_len;
        Output { record: self }
    }

    /// The pieces of output of this call so far.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Takes the pieces of output of this call.
    pub fn take_segments(&mut self) -> impl Iterator<Item = Segment> + '_ {
        self.segments.drain(..)
    }

    /// The pieces of output of this call, to be taken out while the arena is read.
    pub(crate) fn segments_mut(&mut self) -> &mut Vec<Segment> {
        &mut self.segments
    }

    /// Drops the pieces of output of this call; owned buffers go to the pool.
    pub fn discard_segments(&mut self) {
        for segment in self.segments.drain(..) {
            if let Segment::Owned(buffer) = segment {
                self.pool.put(buffer);
            }
        }
    }

    /// Takes what was asked for besides bytes.
    pub fn take_commands(&mut self) -> Commands {
        std::mem::take(&mut self.commands)
    }

    /// The turn's arena: what [`Segment::Arena`] ranges refer to.
    #[must_use]
    pub fn arena(&self) -> &[u8] {
        &self.arena[..self.arena_len]
    }

    /// Ends the turn: the arena's ranges are void.
    pub fn clear_arena(&mut self) {
        self.arena_len = 0;
        if self.arena.len() > Self::ARENA_KEEP {
            self.arena.truncate(Self::ARENA_KEEP);
            self.arena.shrink_to_fit();
        }
    }

    /// The worker's buffers: where [`Output::buffer`] takes from and sent buffers return to.
    pub fn pool(&mut self) -> &mut BufferPool {
        &mut self.pool
    }

    /// The bytes of a segment; `input` is what the call of `received` was given.
    #[must_use]
    pub fn bytes<'a>(&'a self, segment: &'a Segment, input: &'a [u8]) -> &'a [u8] {
        match segment {
            Segment::Echo(range) => &input[range.start as usize..range.end as usize],
            Segment::Arena(range) => &self.arena[range.start as usize..range.end as usize],
            Segment::Owned(buffer) => buffer,
        }
    }

    fn grow_arena(&mut self, len: usize) {
        let needed = self.arena_len.checked_add(len).filter(|&n| u32::try_from(n).is_ok());
        let needed = needed.expect("the output of one turn exceeds 4 GiB");
        self.arena.resize(needed.next_power_of_two().max(4096), 0);
    }

    fn push_arena(&mut self, len: usize) {
        let start = as_u32(self.arena_len);
        self.arena_len += len;
        let end = as_u32(self.arena_len);
        match self.segments.last_mut() {
            Some(Segment::Arena(last)) if last.end == start => last.end = end,
            _ => self.segments.push(Segment::Arena(start..end)),
        }
        self.unsent += len;
    }
}

/// A connection's output, for the length of one call of the handler.
#[derive(Debug)]
pub struct Output<'a> {
    record: &'a mut Record,
}

impl Output<'_> {
    /// The time at which the turn began, in nanoseconds of the monotonic clock.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.record.now
    }

    /// Sends a range of the bytes of this call of `received`. The engine reads it when the turn ends: write first.
    ///
    /// # Panics
    ///
    /// When the range is not inside the call's bytes.
    pub fn echo(&mut self, range: Range<usize>) {
        let r = &mut *self.record;
        assert!(range.start <= range.end && range.end <= r.input_len, "echo outside the received bytes");
        if range.is_empty() {
            return;
        }
        let (start, end) = (as_u32(range.start), as_u32(range.end));
        match r.segments.last_mut() {
            Some(Segment::Echo(last)) if last.end == start => last.end = end,
            _ => r.segments.push(Segment::Echo(start..end)),
        }
        r.unsent += range.len();
    }

    /// Sends a copy of `bytes`.
    pub fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len()).copy_from_slice(bytes);
        self.commit(bytes.len());
    }

    /// Room for `len` bytes in the turn's arena, to be written and then sent by [`Output::commit`]. Its content is
    /// arbitrary until written.
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        let r = &mut *self.record;
        if r.arena.len() - r.arena_len < len {
            r.grow_arena(len);
        }
        &mut r.arena[r.arena_len..r.arena_len + len]
    }

    /// Sends the first `len` bytes of what [`Output::reserve`] gave.
    ///
    /// # Panics
    ///
    /// When less than `len` was reserved.
    pub fn commit(&mut self, len: usize) {
        let r = &mut *self.record;
        assert!(len <= r.arena.len() - r.arena_len, "commit of more than was reserved");
        if len > 0 {
            r.push_arena(len);
        }
    }

    /// Sends `buffer` without copying it. Afterwards it goes to the worker's pool, from which [`Output::buffer`] takes.
    pub fn give(&mut self, buffer: BytesMut) {
        if buffer.is_empty() {
            self.recycle(buffer);
            return;
        }
        self.record.unsent += buffer.len();
        self.record.segments.push(Segment::Owned(buffer));
    }

    /// An empty buffer from the worker's pool; its capacity is whatever it had, possibly none.
    #[must_use]
    pub fn buffer(&mut self) -> BytesMut {
        self.record.pool.take()
    }

    /// Puts a buffer back into the worker's pool unsent.
    pub fn recycle(&mut self, buffer: BytesMut) {
        self.record.pool.put(buffer);
    }

    /// Bytes of this connection that the kernel has not taken yet, with those of this call.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.record.unsent
    }

    /// Stops calls of `received` until [`Output::resume`]. Input that arrives meanwhile stays in the kernel,
    /// except input that had already arrived in this turn. A reset ends the connection all the same. The
    /// peer's FIN waits behind the input before it.
    pub fn pause(&mut self) {
        self.record.commands.pause = Some(true);
    }

    /// Lifts [`Output::pause`].
    pub fn resume(&mut self) {
        self.record.commands.pause = Some(false);
    }

    /// Sets or unsets the connection's one deadline. Coarse (tens of milliseconds), never early.
    pub fn set_deadline(&mut self, at: Option<Nanos>) {
        self.record.commands.deadline = Some(at);
    }

    /// Ends the connection after what was written so far; nothing but `closed` is called for it any more.
    pub fn close(&mut self, mode: CloseMode) {
        let close = &mut self.record.commands.close;
        *close = match (*close, mode) {
            (Some(CloseMode::Abort), _) | (_, CloseMode::Abort) => Some(CloseMode::Abort),
            _ => Some(CloseMode::Flush),
        };
    }
}

fn as_u32(n: usize) -> u32 {
    u32::try_from(n).expect("a turn's bytes fit in 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_calls_is_order_of_segments() {
        let mut record = Record::new();
        let mut out = record.begin(Nanos(7), 5, 10);
        out.echo(0..4);
        out.echo(4..6);
        out.append(b"ab");
        out.reserve(8)[..3].copy_from_slice(b"cde");
        out.commit(3);
        out.give(BytesMut::from(&b"own"[..]));
        out.echo(8..9);
        assert_eq!(out.unsent(), 5 + 6 + 2 + 3 + 3 + 1);
        assert_eq!(out.now(), Nanos(7));
        let input = *b"0123456789";
        let wire: Vec<u8> = record.segments().iter().flat_map(|s| record.bytes(s, &input).to_vec()).collect();
        assert_eq!(wire, b"012345abcdeown8");
        // Neighbours are joined: one echo, one arena range, one buffer, one echo.
        assert_eq!(record.take_segments().count(), 4);
    }

    #[test]
    fn empty_pieces_leave_no_segment() {
        let mut record = Record::new();
        let mut out = record.begin(Nanos(0), 0, 3);
        out.echo(2..2);
        out.append(b"");
        out.give(BytesMut::new());
        assert!(record.segments().is_empty());
    }

    #[test]
    #[should_panic(expected = "outside the received bytes")]
    fn echo_stays_inside_the_call() {
        let mut record = Record::new();
        record.begin(Nanos(0), 0, 3).echo(1..4);
    }

    #[test]
    fn abort_wins_over_flush() {
        let mut record = Record::new();
        let mut out = record.begin(Nanos(0), 0, 0);
        out.close(CloseMode::Abort);
        out.close(CloseMode::Flush);
        out.pause();
        out.resume();
        out.set_deadline(Some(Nanos(3)));
        let commands = record.take_commands();
        assert_eq!(commands.close, Some(CloseMode::Abort));
        assert_eq!(commands.pause, Some(false));
        assert_eq!(commands.deadline, Some(Some(Nanos(3))));
        assert!(record.take_commands().is_empty());
    }

    #[test]
    fn the_arena_outlives_calls_and_ends_with_the_turn() {
        let mut record = Record::new();
        record.begin(Nanos(0), 0, 0).append(b"first");
        let first: Vec<_> = record.take_segments().collect();
        record.begin(Nanos(0), 0, 0).append(b"second");
        let second: Vec<_> = record.take_segments().collect();
        assert_eq!(record.bytes(&first[0], &[]), b"first");
        assert_eq!(record.bytes(&second[0], &[]), b"second");
        record.clear_arena();
        assert!(record.arena().is_empty());
    }
}

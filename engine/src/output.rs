//! Output of a handler: a passive record of what it asked for.
//!
//! Nothing here performs I/O, so adaptors (TLS) and tests can create a [`Record`], pass its
//! [`Output`] to a handler, and inspect what the handler asked for.

use std::ops::Range;

use bytes::BytesMut;

use crate::connection::CloseMode;
use crate::pool::BufferPool;
use crate::time::Nanos;

/// A piece of output, in the order of the wire.
#[derive(Debug, PartialEq, Eq)]
pub enum Segment {
    /// A range of the bytes that were passed to this call of `received`.
    Echo(Range<u32>),
    /// A range of the turn's arena ([`Record::arena`]).
    Arena(Range<u32>),
    /// An owned buffer, which goes to the pool when it has been sent.
    Owned(BytesMut),
}

/// Requests of one call of the handler for the connection, apart from output. `None` means no
/// request. The last request for `pause` and for `deadline` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// Mode in which to end the connection. If the call requested several modes,
    /// [`CloseMode::Abort`] wins over all, and [`CloseMode::Flush`] over [`CloseMode::Finish`].
    pub close: Option<CloseMode>,
    /// `Some(true)`: pause reading. `Some(false)`: resume it.
    pub pause: Option<bool>,
    /// `Some(Some(at))`: set the deadline. `Some(None)`: unset it.
    pub deadline: Option<Option<Nanos>>,
}

impl Commands {
    /// Returns true if the call requested no close, pause, resume or deadline. Output does not
    /// count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.close.is_none() && self.pause.is_none() && self.deadline.is_none()
    }
}

/// Record of what a call of the handler asked for. A worker has one, and reuses it for every call.
///
/// The arena lasts for a turn: segments of several calls lie in it until [`Record::clear_arena`].
#[derive(Debug, Default)]
pub struct Record {
    segments: Vec<Segment>,
    commands: Commands,
    /// Bytes beyond `arena_len` are left from earlier turns. They are initialised, so that
    /// [`Output::reserve`] need not clear them.
    arena: Vec<u8>,
    arena_len: usize,
    pool: BufferPool,
    now: Nanos,
    unsent: usize,
    input_len: usize,
}

impl Record {
    /// Bytes of arena memory that stay allocated from turn to turn. Memory beyond is freed at the
    /// turn's end.
    const ARENA_KEEP: usize = 4 << 20;

    /// Creates an empty record.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the output for one call of a handler.
    ///
    /// `unsent` is the number of the connection's unsent bytes. `input_len` is the length of the
    /// call's bytes, 0 where the call has none. Segments and commands of the call before must have
    /// been taken.
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

    /// Returns the segments of this call so far.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Takes the segments of this call.
    pub fn take_segments(&mut self) -> impl Iterator<Item = Segment> + '_ {
        self.segments.drain(..)
    }

    /// Returns the segments of this call, to be taken while the arena is read.
    pub(crate) fn segments_mut(&mut self) -> &mut Vec<Segment> {
        &mut self.segments
    }

    /// Drops the segments of this call. Owned buffers go to the pool.
    pub fn discard_segments(&mut self) {
        for segment in self.segments.drain(..) {
            if let Segment::Owned(buffer) = segment {
                self.pool.put(buffer);
            }
        }
    }

    /// Takes the requests of this call, besides output.
    pub fn take_commands(&mut self) -> Commands {
        std::mem::take(&mut self.commands)
    }

    /// Returns the turn's arena, to which ranges of [`Segment::Arena`] refer.
    #[must_use]
    pub fn arena(&self) -> &[u8] {
        &self.arena[..self.arena_len]
    }

    /// Empties the arena, which invalidates all ranges of [`Segment::Arena`]. Frees its memory
    /// beyond 4 MiB.
    pub fn clear_arena(&mut self) {
        self.arena_len = 0;
        if self.arena.len() > Self::ARENA_KEEP {
            self.arena.truncate(Self::ARENA_KEEP);
            self.arena.shrink_to_fit();
        }
    }

    /// Returns the worker's pool, from which [`Output::buffer`] takes and to which sent buffers
    /// return.
    pub fn pool(&mut self) -> &mut BufferPool {
        &mut self.pool
    }

    /// Returns the bytes of a segment. `input` is the bytes of the call of `received`.
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

/// Output of a connection during one call of the handler.
#[derive(Debug)]
pub struct Output<'a> {
    record: &'a mut Record,
}

impl Output<'_> {
    /// Returns the time at which the turn began, in nanoseconds of the monotonic clock.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.record.now
    }

    /// Sends a range of the bytes of this call of `received`. The engine reads them after the call,
    /// so the handler may still change them until it returns.
    ///
    /// # Panics
    ///
    /// Panics if the range is not within the bytes of this call.
    pub fn echo(&mut self, range: Range<usize>) {
        let r = &mut *self.record;
        assert!(
            range.start <= range.end && range.end <= r.input_len,
            "echo outside the received bytes"
        );
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

    /// Reserves `len` bytes in the turn's arena, to be written and then sent by [`Output::commit`].
    /// Their content is arbitrary. Another `reserve` or `append` before the commit uses the same
    /// bytes.
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        let r = &mut *self.record;
        if r.arena.len() - r.arena_len < len {
            r.grow_arena(len);
        }
        &mut r.arena[r.arena_len..r.arena_len + len]
    }

    /// Sends the first `len` bytes of those that [`Output::reserve`] returned.
    ///
    /// # Panics
    ///
    /// Panics if `len` exceeds the free rest of the arena. That rest can be larger than the
    /// reservation, and bytes beyond the reservation have arbitrary content.
    pub fn commit(&mut self, len: usize) {
        let r = &mut *self.record;
        assert!(len <= r.arena.len() - r.arena_len, "commit of more than was reserved");
        if len > 0 {
            r.push_arena(len);
        }
    }

    /// Sends a buffer without a copy. Afterwards it goes to the worker's pool, from which
    /// [`Output::buffer`] takes.
    pub fn give(&mut self, buffer: BytesMut) {
        if buffer.is_empty() {
            self.recycle(buffer);
            return;
        }
        self.record.unsent += buffer.len();
        self.record.segments.push(Segment::Owned(buffer));
    }

    /// Takes an empty buffer from the worker's pool. Its capacity is arbitrary and can be zero.
    #[must_use]
    pub fn buffer(&mut self) -> BytesMut {
        self.record.pool.take()
    }

    /// Returns a buffer to the worker's pool without sending it.
    pub fn recycle(&mut self, buffer: BytesMut) {
        self.record.pool.put(buffer);
    }

    /// Returns the number of bytes that the kernel has not accepted, those of this call included.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.record.unsent
    }

    /// Stops calls of `received` until [`Output::resume`]. Input that arrives meanwhile stays in
    /// the kernel, except the bytes of receives that had already begun. The engine keeps those
    /// bytes and delivers them after the resume. A reset still ends the connection. The peer's FIN
    /// is reported only after the input before it.
    pub fn pause(&mut self) {
        self.record.commands.pause = Some(true);
    }

    /// Ends a pause.
    pub fn resume(&mut self) {
        self.record.commands.pause = Some(false);
    }

    /// Sets or unsets the deadline of the connection, which has only one. It is coarse (tens of
    /// milliseconds) and never early.
    pub fn set_deadline(&mut self, at: Option<Nanos>) {
        self.record.commands.deadline = Some(at);
    }

    /// Ends the connection. [`CloseMode::Flush`] and [`CloseMode::Finish`] first send all unsent
    /// output; [`CloseMode::Abort`] discards it. Afterwards only `closed` is called for the
    /// connection.
    pub fn close(&mut self, mode: CloseMode) {
        let close = &mut self.record.commands.close;
        *close = match (*close, mode) {
            (Some(CloseMode::Abort), _) | (_, CloseMode::Abort) => Some(CloseMode::Abort),
            (Some(CloseMode::Flush), _) | (_, CloseMode::Flush) => Some(CloseMode::Flush),
            _ => Some(CloseMode::Finish),
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
        let wire: Vec<u8> =
            record.segments().iter().flat_map(|s| record.bytes(s, &input).to_vec()).collect();
        assert_eq!(wire, b"012345abcdeown8");
        // Adjacent segments are joined: one echo, one arena range, one buffer, one echo.
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
    fn the_strictest_close_wins() {
        let modes = [CloseMode::Finish, CloseMode::Flush, CloseMode::Abort];
        for (first, second) in (0..3).flat_map(|first| (0..3).map(move |second| (first, second))) {
            let mut record = Record::new();
            let mut out = record.begin(Nanos(0), 0, 0);
            out.close(modes[first]);
            out.close(modes[second]);
            assert_eq!(record.take_commands().close, Some(modes[first.max(second)]));
        }
    }

    #[test]
    fn the_last_pause_and_deadline_of_a_call_count() {
        let mut record = Record::new();
        let mut out = record.begin(Nanos(0), 0, 0);
        out.pause();
        out.resume();
        out.set_deadline(Some(Nanos(3)));
        let commands = record.take_commands();
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

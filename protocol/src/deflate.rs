//! Payloads of permessage-deflate (RFC 7692 7.2): inflated in pieces of any size, and checked on
//! the way; deflated message by message.
//!
//! Frames are read as without compression: a [`Connection`](crate::Connection) made by
//! [`with_deflate`](crate::Connection::with_deflate) marks the chunks of compressed messages, and
//! unmasks them like any other. An [`Inflater`] then takes their bytes. It serves one message at a
//! time, of any connection. The bytes of earlier messages to which a message may refer are a
//! [`History`], which only connections with context takeover have.

use bytes::BytesMut;
use zlib_rs::{DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

use crate::error::ProtocolError;
use crate::message::Limits;
use crate::opcode::MessageKind;
use crate::utf8::Utf8;

/// The largest window, in bits: distances of up to 32 KiB (RFC 7692 7.1.2).
pub const MAX_WINDOW_BITS: u8 = 15;
/// The smallest window with which a [`Deflater`] compresses, in bits.
pub const MIN_DEFLATE_BITS: u8 = 9;

/// Follows the last byte of a compressed message: the four bytes that its sender has removed (RFC
/// 7692 7.2.2), then a final empty block (RFC 1951 3.2.6), whose end shows that the message ended
/// between two blocks.
const TAIL: [u8; 6] = [0x00, 0x00, 0xff, 0xff, 0x03, 0x00];

/// The four bytes with which a flushed compressor ends a message, and which are not sent (RFC 7692
/// 7.2.1).
const FLUSHED: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// An empty message: the first byte of an empty block without compression (RFC 7692 7.2.3.6).
const EMPTY: u8 = 0x00;

/// Inflates compressed messages and checks their size, their text and their end.
///
/// 46 KiB on the heap. Keep a few for a worker: only a message whose end has not arrived occupies
/// one.
pub struct Inflater {
    zlib: Inflate,
    /// Inflated bytes of the message.
    len: u64,
    /// Validator of a text message.
    text: Option<Utf8>,
    /// Bytes of [`TAIL`] that have been inflated.
    tail: usize,
    /// True if a final block has just ended.
    between_streams: bool,
    /// True if the last output was filled: there may be more without more input.
    is_full: bool,
}

/// Outcome of a call of zlib.
struct Run {
    read: usize,
    written: usize,
    /// True if a final block has ended.
    ended: bool,
    is_valid: bool,
}

/// Progress of one call of [`Inflater::inflate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// Bytes of the input that are done with.
    pub read: usize,
    /// Bytes written to the start of the output.
    pub written: usize,
    /// True if nothing is left to do: all of the input is inflated, and if the message ends with
    /// it, its end is valid.
    pub done: bool,
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Inflater {
    /// Creates an inflater. Allocates.
    #[must_use]
    pub fn new() -> Self {
        Inflater {
            zlib: Inflate::new(false, MAX_WINDOW_BITS),
            len: 0,
            text: None,
            tail: 0,
            between_streams: false,
            is_full: false,
        }
    }

    /// Begins a message. `history` is what it may refer to, and is unpacked for that; `None` where
    /// the sender takes no context over.
    pub fn begin(&mut self, kind: MessageKind, history: Option<&mut History>) {
        self.zlib.reset(false);
        if let Some(history) = history {
            if history.packed {
                self.unpack(history);
            }
            for part in history.parts().into_iter().filter(|part| !part.is_empty()) {
                self.zlib.set_dictionary(part).expect("possible at any time without a header");
            }
        }
        self.len = 0;
        self.text = (kind == MessageKind::Text).then(Utf8::default);
        self.tail = 0;
        self.between_streams = false;
        self.is_full = false;
    }

    /// Bytes of the message inflated so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether nothing is inflated so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Inflates the next bytes of the message, which are unmasked, into `out`. `last`: the message
    /// ends with `input`. Call it again with the rest of the input until the step is done: `out`
    /// may be full before.
    ///
    /// # Errors
    ///
    /// Fails as soon as the inflated bytes exceed [`Limits::max_message`] by one, are not the text
    /// that they should be, or the input is not DEFLATE data. A message that does not end between
    /// two blocks is not, either. Begin anew afterwards.
    ///
    /// # Panics
    ///
    /// Panics if `out` is empty.
    pub fn inflate(
        &mut self,
        limits: &Limits,
        input: &[u8],
        last: bool,
        out: &mut [u8],
    ) -> Result<Step, ProtocolError> {
        assert!(!out.is_empty(), "there is no room to inflate to");
        // One byte more than the limit shows that it is exceeded, and nothing beyond is inflated.
        let room = limits.max_message.saturating_sub(self.len).saturating_add(1);
        let room = usize::try_from(room).map_or(out.len(), |room| room.min(out.len()));
        let out = &mut out[..room];
        let mut step = Step { read: 0, written: 0, done: false };
        let mut is_valid = true;
        while is_valid && !step.done && step.written < out.len() {
            let rest = &input[step.read..];
            let is_tail = rest.is_empty() && !self.is_full;
            // Some senders end with a final block and nothing behind it.
            if is_tail && (!last || self.tail == 0 && self.between_streams) {
                step.done = true;
                break;
            }
            let source = if is_tail { &TAIL[self.tail..] } else { rest };
            let run = self.run(source, &mut out[step.written..]);
            step.written += run.written;
            self.is_full = step.written == out.len();
            if is_tail {
                self.tail += run.read;
                step.done = run.ended;
                is_valid = run.is_valid && run.ended == (self.tail == TAIL.len());
            } else {
                step.read += run.read;
                is_valid = run.is_valid;
                if run.ended {
                    // A sender may end blocks with BFINAL; what follows refers to nothing before
                    // (RFC 7692 7.2.3.4).
                    self.zlib.reset(false);
                }
                if run.read > 0 || run.ended {
                    self.between_streams = run.ended;
                }
            }
        }
        // The order of the bytes decides between two errors, whatever the cuts: what was inflated
        // comes before the fault in the data.
        self.check(limits, &out[..step.written], is_valid && step.done && last)?;
        if is_valid { Ok(step) } else { Err(ProtocolError::InvalidDeflate) }
    }

    /// Inflates all of the next bytes of the message through `scratch`, and passes each piece on to
    /// `take`. `history` is the one that the message was begun with, and grows by them.
    ///
    /// # Errors
    ///
    /// Fails as [`inflate`](Inflater::inflate). The bytes before the call that fails have been
    /// passed on.
    ///
    /// # Panics
    ///
    /// Panics if `scratch` is empty.
    pub fn inflate_all(
        &mut self,
        limits: &Limits,
        mut input: &[u8],
        last: bool,
        scratch: &mut [u8],
        mut history: Option<&mut History>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), ProtocolError> {
        loop {
            let step = self.inflate(limits, input, last, scratch)?;
            let inflated = &scratch[..step.written];
            take(inflated);
            if let Some(history) = &mut history {
                history.push(inflated);
            }
            input = &input[step.read..];
            if step.done {
                return Ok(());
            }
        }
    }

    fn unpack(&mut self, history: &mut History) {
        let mut bytes = vec![0; history.window];
        let run = self.run(&history.bytes, &mut bytes);
        bytes.truncate(run.written);
        bytes.shrink_to_fit();
        history.bytes = bytes;
        history.packed = false;
        self.zlib.reset(false);
    }

    /// Runs zlib once.
    fn run(&mut self, input: &[u8], out: &mut [u8]) -> Run {
        let before = (self.zlib.total_in(), self.zlib.total_out());
        let status = self.zlib.decompress(input, out, InflateFlush::SyncFlush);
        let read = (self.zlib.total_in() - before.0) as usize;
        let written = (self.zlib.total_out() - before.1) as usize;
        let ended = status == Ok(Status::StreamEnd);
        // With input and room it always gets on.
        let is_stuck = read == 0 && written == 0 && !ended && !input.is_empty();
        Run { read, written, ended, is_valid: status.is_ok() && !is_stuck }
    }

    /// Checks inflated bytes. `ended`: they are the message's last.
    fn check(&mut self, limits: &Limits, bytes: &[u8], ended: bool) -> Result<(), ProtocolError> {
        let text = self.text.as_mut().map_or(Ok(()), |text| {
            text.update(bytes)?;
            if ended { text.finish() } else { Ok(()) }
        });
        self.len += bytes.len() as u64;
        // The bytes up to the limit come first.
        text.map_err(|_| ProtocolError::InvalidUtf8)?;
        if self.len > limits.max_message {
            return Err(ProtocolError::MessageTooBig { max: limits.max_message });
        }
        Ok(())
    }
}

/// The last inflated bytes of a direction, to which its next compressed message may refer: as many
/// as its window has (RFC 7692 7.2.3.2).
///
/// Its memory follows what the messages contained, up to the window, and less while it is
/// [packed](History::pack).
#[derive(Clone, Debug)]
pub struct History {
    /// A ring once it is full: the oldest byte is at `start`. Packed: compressed.
    bytes: Vec<u8>,
    start: usize,
    window: usize,
    packed: bool,
}

impl History {
    /// Creates an empty history for a window of 8 to 15 bits.
    #[must_use]
    pub fn new(window_bits: u8) -> Self {
        debug_assert!((8..=MAX_WINDOW_BITS).contains(&window_bits));
        History { bytes: Vec::new(), start: 0, window: 1 << window_bits, packed: false }
    }

    /// Appends inflated bytes of a compressed message, which an inflater has begun with it.
    pub fn push(&mut self, bytes: &[u8]) {
        debug_assert!(!self.packed, "Inflater::begin unpacks it");
        let mut bytes = &bytes[bytes.len().saturating_sub(self.window)..];
        let free = self.window - self.bytes.len();
        if free > 0 {
            let (first, rest) = bytes.split_at(free.min(bytes.len()));
            self.grow(first.len());
            self.bytes.extend_from_slice(first);
            bytes = rest;
        }
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(self.window - self.start));
            self.bytes[self.start..self.start + now.len()].copy_from_slice(now);
            self.start = (self.start + now.len()) % self.window;
            bytes = rest;
        }
    }

    /// Compresses it with `deflater`, which takes no context over, for a connection that is silent.
    /// The next [`Inflater::begin`] unpacks it.
    pub fn pack(&mut self, deflater: &mut Deflater) {
        debug_assert!(!deflater.takes_over);
        if self.packed || self.bytes.is_empty() {
            return;
        }
        let mut packed = BytesMut::new();
        deflater.deflate(&self.parts().concat(), &mut packed);
        self.bytes = packed.to_vec();
        self.start = 0;
        self.packed = true;
    }

    /// Bytes of memory that it occupies.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// The bytes, the older part first.
    fn parts(&self) -> [&[u8]; 2] {
        let (newer, older) = self.bytes.split_at(self.start);
        [older, newer]
    }

    /// Makes room for `more` bytes: twice as much as before, and never more than the window.
    fn grow(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let wanted = needed.next_power_of_two().min(self.window);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
    }
}

/// Settings of a [`Deflater`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressorSettings {
    /// Effort, 1 (fastest) to 9 (smallest).
    pub level: u8,
    /// Size of the window in bits, 9 to 15.
    pub window_bits: u8,
    /// Memory for what a block collects, 1 to 9: twice as much with each level.
    pub memory_level: u8,
}

impl Default for CompressorSettings {
    /// Returns level 1, the largest window and memory level 8.
    fn default() -> Self {
        CompressorSettings { level: 1, window_bits: MAX_WINDOW_BITS, memory_level: 8 }
    }
}

/// Compresses messages.
pub struct Deflater {
    zlib: zlib_rs::Deflate,
    takes_over: bool,
    /// Bytes of the message so far.
    len: u64,
    /// True if all of them are in the output.
    is_flushed: bool,
}

impl std::fmt::Debug for Deflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deflater").field("takes_over", &self.takes_over).finish_non_exhaustive()
    }
}

impl Deflater {
    /// Creates a compressor. `takes_over`: a message may refer to those before it. Allocates 370
    /// KiB with the largest window and memory level 8, 260 KiB with level 1.
    ///
    /// # Panics
    ///
    /// Panics if a setting is out of its range.
    #[must_use]
    pub fn new(settings: CompressorSettings, takes_over: bool) -> Self {
        let CompressorSettings { level, window_bits, memory_level } = settings;
        assert!((1..=9).contains(&level), "compression level {level}");
        assert!((1..=9).contains(&memory_level), "memory level {memory_level}");
        let bits = MIN_DEFLATE_BITS..=MAX_WINDOW_BITS;
        assert!(bits.contains(&window_bits), "a window of {window_bits} bits");
        let config = DeflateConfig {
            level: level.into(),
            // Below zero: DEFLATE data without the header of zlib.
            window_bits: -i32::from(window_bits),
            mem_level: memory_level.into(),
            ..DeflateConfig::default()
        };
        let zlib = zlib_rs::Deflate::new_with_config(config);
        Deflater { zlib, takes_over, len: 0, is_flushed: false }
    }

    /// Appends a compressed message to `out`: the payload of its frames, with RSV1 in the first.
    pub fn deflate(&mut self, message: &[u8], out: &mut BytesMut) {
        self.begin();
        self.run(message, DeflateFlush::SyncFlush, out);
        self.finish(out);
    }

    /// Begins a message that comes in pieces.
    pub fn begin(&mut self) {
        self.len = 0;
        if !self.takes_over {
            self.zlib.reset();
        }
    }

    /// Takes bytes over without compressing them, between two messages: those that follow may refer
    /// to them. The receiver must have got them in another way, as in a stored block before the
    /// next message.
    ///
    /// # Panics
    ///
    /// Panics if the compressor takes no context over.
    pub fn skip(&mut self, bytes: &[u8]) {
        assert!(self.takes_over, "there is nothing that could refer to the bytes");
        self.zlib.set_dictionary(bytes).expect("possible after a flush, without a header");
    }

    /// Compresses the next piece of a message, and appends what it gives to `out`.
    pub fn push(&mut self, piece: &[u8], out: &mut BytesMut) {
        self.run(piece, DeflateFlush::NoFlush, out);
    }

    /// Ends the message, of which the last bytes are appended to `out`.
    pub fn finish(&mut self, out: &mut BytesMut) {
        if self.len == 0 {
            return out.extend_from_slice(&[EMPTY]);
        }
        if !self.is_flushed {
            self.run(&[], DeflateFlush::SyncFlush, out);
        }
        debug_assert!(out.ends_with(&FLUSHED));
        out.truncate(out.len() - FLUSHED.len());
    }

    fn run(&mut self, input: &[u8], flush: DeflateFlush, out: &mut BytesMut) {
        self.len += input.len() as u64;
        if self.len == 0 {
            return;
        }
        self.is_flushed = flush == DeflateFlush::SyncFlush;
        let (mut read, mut end) = (0, out.len());
        loop {
            // It is done when it leaves room. Data that cannot be compressed grows by a few bytes
            // per block.
            out.resize(end + (input.len() - read) / 2 + 128, 0);
            let before = (self.zlib.total_in(), self.zlib.total_out());
            self.zlib.compress(&input[read..], &mut out[end..], flush).expect("it is in order");
            read += (self.zlib.total_in() - before.0) as usize;
            end += (self.zlib.total_out() - before.1) as usize;
            if read == input.len() && end < out.len() {
                break;
            }
        }
        out.truncate(end);
    }
}

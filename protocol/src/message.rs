//! Events that a [`Connection`](crate::Connection) reports to its caller: parts of messages and
//! control frames.

use std::ops::Range;

use crate::close::Close;
use crate::mask::MaskingKey;
use crate::opcode::MessageKind;

/// Limits of one message, beyond which the connection fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of payload in one message, all fragments together, after inflating. Beyond: 1009.
    pub max_message: u64,
    /// Most frames of one message; `u32::MAX` lifts the limit. Beyond: 1008.
    pub max_fragments: u32,
}

impl Default for Limits {
    /// Returns 64 MiB and 262,144 fragments, with which the Autobahn testsuite passes.
    fn default() -> Self {
        Limits { max_message: 64 << 20, max_fragments: 262_144 }
    }
}

impl Limits {
    /// Most bytes that a compressed message may have before inflating: an eighth more than
    /// [`max_message`](Self::max_message), and 64 for each of its `fragments`. No compressor needs
    /// more for data that it cannot compress; only empty blocks do.
    pub fn max_compressed(&self, fragments: u32) -> u64 {
        let per_fragment = 64 * u64::from(fragments);
        self.max_message.saturating_add(self.max_message / 8).saturating_add(per_fragment)
    }
}

/// Event in the bytes read so far.
#[derive(Debug)]
#[must_use]
pub enum Event {
    /// A part of a message, often all of it.
    Data(Chunk),
    /// A ping, which a pong with the same payload must answer (RFC 6455 5.5.2).
    Ping(Control),
    /// A pong; an unsolicited one is ignored (RFC 6455 5.5.3).
    Pong(Control),
    /// A valid Close. Everything after it is discarded (RFC 6455 5.5.1).
    Close(Close),
}

/// Part of a message: the bytes of one of its frames that lie in this input.
///
/// Pass it to exactly one of the connection's `unmask_*` functions or to `skip` before requesting
/// the next event. Payloads may be empty: those of empty messages, and of empty fragments.
#[derive(Debug)]
#[must_use = "a chunk is neither unmasked nor validated until it is handed back to the connection"]
pub struct Chunk {
    /// Kind of the message.
    pub kind: MessageKind,
    /// True for the first chunk of a message.
    pub first: bool,
    /// True for the last chunk of a message.
    pub last: bool,
    /// True if the message is compressed (RFC 7692): after unmasking, the caller inflates it.
    pub compressed: bool,
    /// Range of the payload in the input, in the server role still masked.
    pub payload: Range<usize>,
    /// Key, rotated to the first byte of `payload`; zero where nothing is masked.
    pub(crate) key: MaskingKey,
    /// True if header and payload are completely in this input, and not compressed.
    pub(crate) whole: bool,
    /// True if they are, and compressed.
    pub(crate) whole_compressed: bool,
}

impl Chunk {
    /// Returns whether this is a whole unfragmented message, not compressed, **and its header lies
    /// in the same input**, directly before `payload`. Only then is there room for the header of an
    /// echo that is built in place.
    ///
    /// A chunk with `first` and `last` whose header came with an earlier input is not whole in this
    /// sense.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Returns whether this is what [`is_whole`](Chunk::is_whole) says, but compressed.
    #[inline]
    pub fn is_whole_compressed(&self) -> bool {
        self.whole_compressed
    }
}

/// The payload of a control frame, unmasked and held inline.
#[derive(Clone)]
pub struct Control {
    len: u8,
    bytes: [u8; Control::MAX_LEN],
}

impl Control {
    /// Largest payload of a control frame (RFC 6455 5.5).
    pub const MAX_LEN: usize = 125;

    /// Creates a control payload of at most 125 bytes.
    pub(crate) fn new(payload: &[u8]) -> Self {
        let mut control = Control { len: 0, bytes: [0; Control::MAX_LEN] };
        control.push(payload);
        control
    }

    /// Appends bytes from a later read.
    pub(crate) fn push(&mut self, more: &[u8]) {
        let start = usize::from(self.len);
        self.bytes[start..start + more.len()].copy_from_slice(more);
        self.len += more.len() as u8;
    }

    /// The payload, mutable so that it can be unmasked.
    pub(crate) fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }

    /// The payload, at most 125 bytes.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({})", self.payload().escape_ascii())
    }
}

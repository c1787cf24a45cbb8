//! One open WebSocket: frames in, events out (RFC 6455 5, 6.2, 7).

use std::ops::Range;

use bytes::BytesMut;

use crate::close::Close;
use crate::error::ProtocolError;
use crate::header::{self, Common, Header};
use crate::mask::{self, MaskingKey};
use crate::message::{Chunk, Control, Event, Limits};
use crate::opcode::{MessageKind, Opcode};
use crate::role::Role;
use crate::text;
use crate::utf8::{InvalidUtf8, Utf8};

/// State of one end of an open WebSocket between reads: 40 bytes, and a heap block only while a
/// control frame is cut.
///
/// Feed it every input with [`next`](Connection::next) until that returns `Ok(None)`.
#[derive(Debug)]
pub struct Connection {
    state: State,
    /// Sum of the payload lengths that the open message's headers declared.
    declared: u64,
    /// Frames of the open message, if it is fragmented.
    fragments: u32,
    text: Utf8,
    /// Kind of the open message; `None` between messages.
    kind: Option<MessageKind>,
    /// True if a chunk of the open message has been returned.
    begun: bool,
    /// True if the open message's text is not validated here: a chunk was skipped, or it is
    /// compressed.
    unchecked: bool,
    /// True if the open message is compressed.
    compressed: bool,
    /// True if permessage-deflate was negotiated.
    deflate: bool,
    role: Role,
}

#[derive(Debug)]
enum State {
    /// Between frames, or inside a header of which `len` bytes have arrived.
    Header { bytes: [u8; Header::MAX_LEN], len: u8 },
    /// Inside a data frame's payload.
    Payload { remaining: u64, key: MaskingKey, fin: bool },
    /// Inside a control frame's payload.
    Control(Box<CutControl>),
    /// After a Close or an error.
    Closed,
}

impl State {
    const BETWEEN_FRAMES: State = State::Header { bytes: [0; Header::MAX_LEN], len: 0 };
}

/// A control frame whose payload has not arrived completely.
#[derive(Debug)]
struct CutControl {
    opcode: Opcode,
    key: MaskingKey,
    missing: usize,
    /// Payload, still masked.
    payload: Control,
}

impl Connection {
    /// Creates a connection whose opening handshake is done.
    #[inline]
    pub fn new(role: Role) -> Self {
        Connection {
            state: State::BETWEEN_FRAMES,
            declared: 0,
            fragments: 0,
            text: Utf8::default(),
            kind: None,
            begun: false,
            unchecked: false,
            compressed: false,
            deflate: false,
            role,
        }
    }

    /// Creates a connection whose opening handshake agreed on permessage-deflate (RFC 7692):
    /// messages may be compressed. Their chunks say so, and [`Inflater`](crate::deflate::Inflater)
    /// inflates and checks them.
    pub fn with_deflate(role: Role) -> Self {
        Connection { deflate: true, ..Connection::new(role) }
    }

    /// Role of this end.
    #[inline]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns whether no message is open and no frame has begun: the peer owes nothing.
    #[inline]
    pub fn is_between_messages(&self) -> bool {
        self.kind.is_none() && matches!(self.state, State::Header { len: 0, .. })
    }

    /// Records an error that the caller found in a message, such as invalid compressed data:
    /// further input is discarded.
    pub fn fail(&mut self) {
        self.state = State::Closed;
    }

    /// Returns whether a Close was read or an error was found: further input is discarded.
    #[inline]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Continues reading in `input[*at..]` and advances `*at`. `Ok(None)`: all of it is consumed (a
    /// part of a header or of a control frame is kept inside); continue with the next input from
    /// `*at = 0`.
    ///
    /// However the bytes are cut into inputs, the joined payloads, the control frames and the error
    /// are the same. After a Close or an error the rest is discarded: `Ok(None)` with `*at` at the
    /// end, forever.
    ///
    /// The input is mutable because the caller may pass it on to be unmasked; this function does
    /// not change it.
    ///
    /// # Errors
    ///
    /// Returns a broken rule as soon as its bytes have arrived. Nothing of that frame has been
    /// returned or kept then.
    ///
    /// # Panics
    ///
    /// Panics when `*at` is beyond the input.
    #[inline]
    pub fn next(
        &mut self,
        limits: &Limits,
        input: &mut [u8],
        at: &mut usize,
    ) -> Result<Option<Event>, ProtocolError> {
        match self.next_whole(limits, input, at) {
            Some(chunk) => Ok(Some(Event::Data(chunk))),
            None => self.next_of_any_shape(limits, input, at),
        }
    }

    /// Reads the common shape: a whole unfragmented message of less than 64 KiB, with its header in
    /// this input, between messages, and valid. `None` leaves everything unchanged.
    #[inline]
    fn next_whole(&mut self, limits: &Limits, input: &[u8], at: &mut usize) -> Option<Chunk> {
        if !self.is_between_messages() {
            return None;
        }
        let common = Common::parse(input[*at..].first_chunk()?, self.role.reads_masked())?;
        let start = *at + common.header_len;
        let end = start + common.payload_len;
        if end > input.len() || common.payload_len as u64 > limits.max_message {
            return None;
        }
        *at = end;
        self.text = Utf8::default();
        self.unchecked = false;
        let Common { kind, key, .. } = common;
        Some(Chunk {
            kind,
            first: true,
            last: true,
            compressed: false,
            payload: start..end,
            key,
            whole: true,
            whole_compressed: false,
        })
    }

    #[inline(never)]
    fn next_of_any_shape(
        &mut self,
        limits: &Limits,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Option<Event>, ProtocolError> {
        let result = match self.state {
            State::Header { .. } => self.next_frame(limits, input, at),
            State::Payload { .. } => Ok(self.next_chunk(input, at, false).map(Event::Data)),
            State::Control(_) => self.continue_control(input, at),
            State::Closed => {
                *at = input.len();
                Ok(None)
            }
        };
        result.inspect_err(|_| self.state = State::Closed)
    }

    /// Between frames or inside a header: reads the next frame, as far as it has arrived.
    fn next_frame(
        &mut self,
        limits: &Limits,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Option<Event>, ProtocolError> {
        let begins_here = matches!(self.state, State::Header { len: 0, .. });
        let Some(header) = self.read_header(limits, input, at)? else { return Ok(None) };
        if header.opcode.is_control() {
            return self.begin_control(header, input, at);
        }
        self.begin_data(&header);
        Ok(self.next_chunk(input, at, begins_here).map(Event::Data))
    }

    /// Reads the header, joining its kept part with the input. `Ok(None)`: the part that has
    /// arrived is kept.
    fn read_header(
        &mut self,
        limits: &Limits,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Option<Header>, ProtocolError> {
        let State::Header { mut bytes, len } = self.state else {
            unreachable!("asked for by next_frame")
        };
        let kept = usize::from(len);
        let fresh = &input[*at..];
        let taken = fresh.len().min(Header::MAX_LEN - kept);
        bytes[kept..kept + taken].copy_from_slice(&fresh[..taken]);
        match self.inspect(limits, &bytes[..kept + taken])? {
            Some((header, header_len)) => {
                *at += header_len - kept;
                self.state = State::BETWEEN_FRAMES;
                Ok(Some(header))
            }
            None => {
                *at = input.len();
                self.state = State::Header { bytes, len: (kept + taken) as u8 };
                Ok(None)
            }
        }
    }

    /// Checks a header as far as it has arrived, each byte before the ones that follow it: this
    /// order makes the error independent of the cuts.
    fn inspect(
        &self,
        limits: &Limits,
        bytes: &[u8],
    ) -> Result<Option<(Header, usize)>, ProtocolError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let opcode = self.inspect_first(limits, first)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        self.inspect_second(opcode, second)?;
        let Some((payload_len, at)) = header::parse_length(bytes)? else { return Ok(None) };
        let (fin, rsv) = (header::is_fin(first), header::rsv(first));
        if !opcode.is_control() {
            self.check_size(limits, opcode, rsv, payload_len)?;
        }
        let Some((mask, at)) = header::parse_key(bytes, at) else { return Ok(None) };
        Ok(Some((Header { fin, rsv, opcode, mask, payload_len }, at)))
    }

    /// Checks FIN, the reserved bits and the opcode, and that such a frame may come now (RFC 6455
    /// 5.2, 5.4, 5.5).
    fn inspect_first(&self, limits: &Limits, first: u8) -> Result<Opcode, ProtocolError> {
        let rsv = header::rsv(first);
        if rsv & !self.allowed_bits(first) != 0 {
            return Err(ProtocolError::ReservedBits { rsv });
        }
        let opcode = header::parse_opcode(first)?;
        match (opcode, self.kind) {
            (Opcode::Continuation, None) => return Err(ProtocolError::ContinuationWithoutStart),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(ProtocolError::InterleavedMessage);
            }
            _ => {}
        }
        let fin = header::is_fin(first);
        if opcode.is_control() {
            return if fin { Ok(opcode) } else { Err(ProtocolError::FragmentedControl) };
        }
        let fragmented = !fin || opcode == Opcode::Continuation;
        if fragmented && self.fragments_with_one_more(opcode) > limits.max_fragments {
            return Err(ProtocolError::TooManyFragments { max: limits.max_fragments });
        }
        Ok(opcode)
    }

    /// Returns the reserved bits that a frame may have: RSV1 in the first frame of a message, where
    /// compression was negotiated (RFC 7692 6).
    fn allowed_bits(&self, first: u8) -> u8 {
        let begins_message =
            matches!(header::parse_opcode(first), Ok(Opcode::Text | Opcode::Binary));
        if self.deflate && begins_message { header::RSV1 } else { 0 }
    }

    /// Checks the mask against the role (RFC 6455 5.1), and that a control frame is short (5.5).
    fn inspect_second(&self, opcode: Opcode, second: u8) -> Result<(), ProtocolError> {
        match (second & header::MASK_BIT != 0, self.role) {
            (false, Role::Server) => return Err(ProtocolError::UnmaskedFrame),
            (true, Role::Client) => return Err(ProtocolError::MaskedFrame),
            _ => {}
        }
        if opcode.is_control() && usize::from(second & !header::MASK_BIT) > Control::MAX_LEN {
            return Err(ProtocolError::OversizedControl);
        }
        Ok(())
    }

    /// Checks the sum so far against the maximum. Subtracts instead of adding: a sum of 64-bit
    /// lengths could overflow. `rsv`: the reserved bits of the frame.
    fn check_size(
        &self,
        limits: &Limits,
        opcode: Opcode,
        rsv: u8,
        payload_len: u64,
    ) -> Result<(), ProtocolError> {
        let continues = opcode == Opcode::Continuation;
        let so_far = if continues { self.declared } else { 0 };
        let max = if rsv == header::RSV1 || continues && self.compressed {
            limits.max_compressed(self.fragments_with_one_more(opcode))
        } else {
            limits.max_message
        };
        if payload_len > max.saturating_sub(so_far) {
            return Err(ProtocolError::MessageTooBig { max: limits.max_message });
        }
        Ok(())
    }

    /// Number of fragments after this one. Saturating, so that a limit of `u32::MAX` is never
    /// exceeded.
    fn fragments_with_one_more(&self, opcode: Opcode) -> u32 {
        if opcode == Opcode::Continuation { self.fragments.saturating_add(1) } else { 1 }
    }

    /// Begins a data frame with a checked header.
    fn begin_data(&mut self, header: &Header) {
        self.fragments = self.fragments_with_one_more(header.opcode);
        match header.opcode {
            Opcode::Text => self.begin_message(MessageKind::Text, header.rsv),
            Opcode::Binary => self.begin_message(MessageKind::Binary, header.rsv),
            _ => {}
        }
        self.declared += header.payload_len;
        self.state = State::Payload {
            remaining: header.payload_len,
            key: header.mask.unwrap_or(MaskingKey::ZERO),
            fin: header.fin,
        };
    }

    fn begin_message(&mut self, kind: MessageKind, rsv: u8) {
        self.kind = Some(kind);
        self.declared = 0;
        self.text = Utf8::default();
        self.begun = false;
        self.compressed = rsv == header::RSV1;
        self.unchecked = self.compressed;
    }

    /// Returns the available part of a data frame's payload. `None`: some is missing and nothing of
    /// it is here. `header_here`: the whole header lies in this input.
    fn next_chunk(&mut self, input: &[u8], at: &mut usize, header_here: bool) -> Option<Chunk> {
        let State::Payload { remaining, key, fin } = self.state else { return None };
        let kind = self.kind?;
        let here = input.len() - *at;
        if here == 0 && remaining > 0 {
            return None;
        }
        let len = usize::try_from(remaining).map_or(here, |remaining| remaining.min(here));
        let remaining = remaining - len as u64;
        let payload = *at..*at + len;
        *at = payload.end;
        let last = fin && remaining == 0;
        let first = !std::mem::replace(&mut self.begun, true);
        self.state = match remaining {
            0 => State::BETWEEN_FRAMES,
            _ => State::Payload { remaining, key: key.rotated(len), fin },
        };
        if last {
            self.kind = None;
        }
        let (compressed, is_whole) = (self.compressed, header_here && first && last);
        let (whole, whole_compressed) = (is_whole && !compressed, is_whole && compressed);
        Some(Chunk { kind, first, last, compressed, payload, key, whole, whole_compressed })
    }

    /// Begins a control frame with a checked header and the part of its payload that has arrived.
    fn begin_control(
        &mut self,
        header: Header,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Option<Event>, ProtocolError> {
        let missing = header.payload_len as usize;
        let key = header.mask.unwrap_or(MaskingKey::ZERO);
        let mut cut =
            CutControl { opcode: header.opcode, key, missing, payload: Control::new(&[]) };
        match cut.take(input, at) {
            true => self.control_event(cut),
            false => {
                self.state = State::Control(Box::new(cut));
                Ok(None)
            }
        }
    }

    /// Continues a control frame that an earlier input cut.
    fn continue_control(
        &mut self,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Option<Event>, ProtocolError> {
        let State::Control(cut) = &mut self.state else {
            unreachable!("asked for by next_of_any_shape")
        };
        if !cut.take(input, at) {
            return Ok(None);
        }
        match std::mem::replace(&mut self.state, State::BETWEEN_FRAMES) {
            State::Control(cut) => self.control_event(*cut),
            _ => unreachable!("it was a control frame a moment ago"),
        }
    }

    /// Returns the event of a complete control frame.
    fn control_event(&mut self, complete: CutControl) -> Result<Option<Event>, ProtocolError> {
        let CutControl { opcode, key, mut payload, .. } = complete;
        mask::in_place(payload.payload_mut(), key);
        Ok(Some(match opcode {
            Opcode::Ping => Event::Ping(payload),
            Opcode::Pong => Event::Pong(payload),
            _ => {
                let close = Close::parse(payload)?;
                self.state = State::Closed;
                Event::Close(close)
            }
        }))
    }

    /// Unmasks the chunk in its place, validating text unless it is compressed; returns its range.
    ///
    /// # Errors
    ///
    /// Fails for text that is not UTF-8, or that ends inside a character. The connection is closed
    /// then.
    pub fn unmask_in_place(
        &mut self,
        chunk: Chunk,
        input: &mut [u8],
    ) -> Result<Range<usize>, ProtocolError> {
        let to = chunk.payload.start;
        self.unmask_shift(chunk, input, to)
    }

    /// Unmasks the chunk while moving it forward to `to`, validating text unless it is compressed;
    /// returns its new range.
    ///
    /// # Errors
    ///
    /// Fails as [`unmask_in_place`](Connection::unmask_in_place).
    ///
    /// # Panics
    ///
    /// Panics when `to` is beyond the payload's start.
    #[inline]
    pub fn unmask_shift(
        &mut self,
        chunk: Chunk,
        input: &mut [u8],
        to: usize,
    ) -> Result<Range<usize>, ProtocolError> {
        let Chunk { kind, last, payload, key, .. } = chunk;
        let end = to + payload.len();
        if kind == MessageKind::Text && !self.unchecked {
            let result = text::shift(input, payload, to, key, &mut self.text);
            self.end_of_chunk(last, result)?;
        } else {
            unmask(input, payload, to, key);
        }
        Ok(to..end)
    }

    /// Unmasks the chunk to the end of `message`, validating text unless it is compressed.
    ///
    /// `message` grows by the bytes that have arrived, whatever the header declared.
    ///
    /// # Errors
    ///
    /// Fails as [`unmask_in_place`](Connection::unmask_in_place); `message` then ends with the
    /// examined bytes.
    pub fn unmask_append(
        &mut self,
        chunk: Chunk,
        input: &[u8],
        message: &mut BytesMut,
    ) -> Result<(), ProtocolError> {
        let Chunk { kind, last, payload, key, .. } = chunk;
        if kind == MessageKind::Text && !self.unchecked {
            let result = text::append(&input[payload], message, key, &mut self.text);
            return self.end_of_chunk(last, result);
        }
        mask::append(&input[payload], message, key);
        Ok(())
    }

    /// Leaves the chunk unchanged, neither unmasked nor validated, because the caller compares it
    /// with an expected echo. The rest of the same message is not validated either.
    #[inline]
    pub fn skip(&mut self, chunk: Chunk) {
        self.text = Utf8::default();
        self.unchecked = !chunk.last;
    }

    /// Checks the end of a chunk: text must not end inside a character (RFC 6455 8.1), also when
    /// its last fragment is empty.
    #[inline]
    fn end_of_chunk(
        &mut self,
        last: bool,
        so_far: Result<(), InvalidUtf8>,
    ) -> Result<(), ProtocolError> {
        let result = if last { so_far.and_then(|()| self.text.finish()) } else { so_far };
        result.map_err(|InvalidUtf8| {
            self.state = State::Closed;
            ProtocolError::InvalidUtf8
        })
    }
}

impl CutControl {
    /// Appends the available payload; returns whether it is complete.
    fn take(&mut self, input: &[u8], at: &mut usize) -> bool {
        let len = self.missing.min(input.len() - *at);
        self.payload.push(&input[*at..*at + len]);
        self.missing -= len;
        *at += len;
        self.missing == 0
    }
}

/// Unmasks `input[src]` to `to`. Frames of a server are not masked, so they are only moved.
#[inline]
fn unmask(input: &mut [u8], src: Range<usize>, to: usize, key: MaskingKey) {
    if key != MaskingKey::ZERO {
        mask::shift(input, src, to, key);
    } else if src.start != to {
        input.copy_within(src, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_is_at_most_40_bytes() {
        assert!(size_of::<Connection>() <= 40, "{}", size_of::<Connection>());
    }
}

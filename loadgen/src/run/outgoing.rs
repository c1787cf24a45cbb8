//! Messages on their way out: built where they are sent from.

use bytes::BytesMut;
use engine::Output;
use protocol::{Header, MaskingKey, MessageKind, Opcode, encode_control, mask};

use super::payload::{Content, Parts, STAMP};
use super::random::Random;
use crate::load::{Load, Mask, Transport};

/// From this length on a message goes out in a buffer of its own: what the kernel does not take at
/// once is then kept without being copied.
const OWNED_FROM: usize = 16 << 10;

/// Unsent bytes of a connection from which on no further message is written to it. A message is
/// built only when the ones before it have mostly left. Pongs and pings therefore wait for these
/// bytes and for one message, not for a whole pipeline. The engines send as much of a backlog at
/// once.
const MOST_UNSENT: usize = 256 << 10;

/// Builds one worker's messages. Over `ws` each frame is masked with a key of its own, fresh from
/// the seeded sequence (RFC 6455 5.3), or all with the same one.
#[derive(Debug)]
pub(crate) struct Outgoing {
    random: Random,
    transport: Transport,
    /// Frames of a message; 1 over `tcp`, which has none.
    fragments: usize,
    fixed_key: Option<MaskingKey>,
    /// A head for each length of a message.
    heads: Vec<Head>,
}

/// A frame header with a zero key; nothing over `tcp`.
#[derive(Clone, Copy, Debug)]
struct Head {
    bytes: [u8; Header::MAX_LEN],
    len: usize,
}

impl Head {
    fn new(transport: Transport, opcode: Opcode, rsv: u8, fin: bool, payload_len: usize) -> Self {
        let mut bytes = [0; Header::MAX_LEN];
        let mask = Some(MaskingKey::from_bytes([0; 4]));
        let len = match transport {
            Transport::Tcp => 0,
            Transport::Ws | Transport::Wss => {
                Header { fin, rsv, opcode, mask, payload_len: payload_len as u64 }
                    .encode(&mut bytes)
            }
        };
        Self { bytes, len }
    }
}

impl Outgoing {
    pub(crate) fn new(load: &Load, content: &Content, mut random: Random) -> Self {
        let opcode = content.kind().opcode();
        let heads =
            content.lens().map(|len| Head::new(load.transport, opcode, 0, true, len)).collect();
        let fixed_key = match load.mask {
            Mask::Random => None,
            // Not zero, which would mask nothing.
            Mask::Fixed => {
                Some(MaskingKey::from_bytes((random.next() as u32 | 0x0101_0101).to_le_bytes()))
            }
        };
        Self {
            random,
            transport: load.transport,
            fragments: load.fragments as usize,
            fixed_key,
            heads,
        }
    }

    /// Sends messages, as far as unsent bytes allow. Returns the first message that is left.
    #[inline]
    pub(crate) fn send(
        &mut self,
        content: &Content,
        connection: u32,
        mut sequences: std::ops::Range<u64>,
        out: &mut Output<'_>,
    ) -> u64 {
        let end = sequences.end;
        if let Some(len) = content.only_len()
            && len < OWNED_FROM
            && self.fragments == 1
        {
            let frame_len = self.heads[0].len + len;
            let len = frame_len * (sequences.end - sequences.start) as usize;
            if out.unsent() + len <= MOST_UNSENT {
                let frames = out.reserve(len).chunks_exact_mut(frame_len);
                for (frame, sequence) in frames.zip(sequences) {
                    self.write(content, 0, connection, sequence, frame);
                }
                out.commit(len);
                return end;
            }
        }
        while Self::has_room(out)
            && let Some(sequence) = sequences.next()
        {
            self.send_one(content, connection, sequence, out);
        }
        sequences.start
    }

    /// Returns true if a further message may be written to a connection.
    #[inline]
    pub(crate) fn has_room(out: &Output<'_>) -> bool {
        out.unsent() < MOST_UNSENT
    }

    fn send_one(
        &mut self,
        content: &Content,
        connection: u32,
        sequence: u64,
        out: &mut Output<'_>,
    ) {
        let class = content.class_of(connection, sequence);
        let len = content.len_of(connection, sequence);
        if self.fragments > 1 || len >= OWNED_FROM {
            let payload = content.parts(connection, sequence);
            return self.send_owned(content.kind(), &payload, 0, out);
        }
        let frame_len = self.heads[class].len + len;
        self.write(content, class, connection, sequence, out.reserve(frame_len));
        out.commit(frame_len);
    }

    #[inline]
    fn write(
        &mut self,
        content: &Content,
        class: usize,
        connection: u32,
        sequence: u64,
        frame: &mut [u8],
    ) {
        let head_len = self.heads[class].len;
        let key = self.begin(class, frame);
        let payload = &mut frame[head_len..];
        let body = content.body(connection, sequence);
        if !content.has_stamp(class) {
            return put(body, payload, key);
        }
        let Some((stamp, rest)) = payload.split_first_chunk_mut::<STAMP>() else { return };
        *stamp = masked(content.stamp_word(connection, sequence), key);
        put(body, rest, key);
    }

    /// Writes the header with a key to the front of `frame`; returns the key, if there is one.
    #[inline]
    fn begin(&mut self, class: usize, frame: &mut [u8]) -> Option<MaskingKey> {
        let head = self.heads[class];
        let key_at = head.len.checked_sub(4)?;
        let key = self.key();
        // As many bytes as the longest header has, where there is room: a copy of a length known
        // beforehand is two moves and no call. The payload overwrites what is too much.
        match frame.first_chunk_mut::<{ Header::MAX_LEN }>() {
            Some(longest) => *longest = head.bytes,
            None => frame[..head.len].copy_from_slice(&head.bytes[..head.len]),
        }
        frame[key_at..key_at + 4].copy_from_slice(&key.to_bytes());
        Some(key)
    }

    /// Sends a message by its payload. `rsv`: the reserved bits of its first frame, RSV1 where it
    /// is compressed (RFC 7692 6).
    pub(crate) fn send_payload(
        &mut self,
        kind: MessageKind,
        payload: &Parts<'_>,
        rsv: u8,
        out: &mut Output<'_>,
    ) {
        let len = payload.len();
        if self.fragments > 1 || len >= OWNED_FROM {
            return self.send_owned(kind, payload, rsv, out);
        }
        let head = Head::new(self.transport, kind.opcode(), rsv, true, len);
        let frame = out.reserve(head.len + len);
        let key = self.key();
        let (header, rest) = frame.split_at_mut(head.len);
        header.copy_from_slice(&head.bytes[..head.len]);
        header[head.len - 4..].copy_from_slice(&key.to_bytes());
        let (first, second) = rest.split_at_mut(payload.head().len());
        mask::copy(payload.head(), first, key);
        mask::copy(payload.body(), second, turned(key, first.len()));
        out.commit(head.len + len);
    }

    /// Sends a message in a buffer of its own, in frames of nearly equal length (RFC 6455 5.4).
    /// `rsv`: the reserved bits of the first frame.
    fn send_owned(
        &mut self,
        kind: MessageKind,
        payload: &Parts<'_>,
        rsv: u8,
        out: &mut Output<'_>,
    ) {
        let (len, count) = (payload.len(), self.fragments);
        let mut buffer = out.buffer();
        buffer.reserve(len + count * Header::MAX_LEN);
        for index in 0..count {
            let part = len * index / count..len * (index + 1) / count;
            let (opcode, rsv) =
                if index == 0 { (kind.opcode(), rsv) } else { (Opcode::Continuation, 0) };
            let head = Head::new(self.transport, opcode, rsv, index + 1 == count, part.len());
            self.push_frame(head, payload, part, &mut buffer);
        }
        out.give(buffer);
    }

    /// Appends a frame with a part of a message.
    fn push_frame(
        &mut self,
        head: Head,
        payload: &Parts<'_>,
        part: std::ops::Range<usize>,
        buffer: &mut BytesMut,
    ) {
        let key = (head.len > 0).then(|| self.key());
        buffer.extend_from_slice(&head.bytes[..head.len]);
        if let Some(key) = key {
            let key_at = buffer.len() - 4;
            buffer[key_at..].copy_from_slice(&key.to_bytes());
        }
        let mut at = 0;
        while at < part.len() {
            let rest = payload.rest(part.start + at);
            let piece = &rest[..rest.len().min(part.len() - at)];
            match key {
                Some(key) => mask::append(piece, buffer, turned(key, at)),
                None => buffer.extend_from_slice(piece),
            }
            at += piece.len();
        }
    }

    /// Sends a Close (RFC 6455 5.5.1).
    pub(crate) fn close(&mut self, code: Option<u16>, out: &mut Output<'_>) {
        let code = code.map(u16::to_be_bytes);
        self.control(Opcode::Close, code.as_ref().map_or(&[], |code| &code[..]), out);
    }

    /// Sends a control frame: a Close, a ping (RFC 6455 5.5.2), or the answer to one (5.5.3).
    pub(crate) fn control(&mut self, opcode: Opcode, payload: &[u8], out: &mut Output<'_>) {
        let mut frame = [0; protocol::frame::MAX_CONTROL_LEN];
        let key = self.key();
        let len = encode_control(opcode, payload, Some(key), &mut frame);
        out.append(&frame[..len]);
    }

    #[inline]
    fn key(&mut self) -> MaskingKey {
        let random = &mut self.random;
        self.fixed_key
            .unwrap_or_else(|| MaskingKey::from_bytes((random.next() as u32).to_le_bytes()))
    }

    /// Returns a nonce for the opening handshake (RFC 6455 4.1).
    pub(crate) fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.random.next().to_le_bytes());
        nonce[8..].copy_from_slice(&self.random.next().to_le_bytes());
        nonce
    }
}

/// Masks a stamp where there is a key: in one piece, as it stands in every message.
#[inline]
fn masked(stamp: u128, key: Option<MaskingKey>) -> [u8; STAMP] {
    let key = u32::from_le_bytes(key.map_or([0; 4], MaskingKey::to_bytes));
    let every_fourth = 0x0000_0001_0000_0001_0000_0001_0000_0001_u128;
    (stamp ^ (every_fourth * u128::from(key))).to_le_bytes()
}

/// Copies, masked where there is a key; `from` begins a multiple of four bytes into the payload.
#[inline]
fn put(from: &[u8], to: &mut [u8], key: Option<MaskingKey>) {
    match key {
        Some(key) => mask::copy(from, to, key),
        None => to.copy_from_slice(from),
    }
}

/// Returns the key as it stands `at` bytes into the payload.
fn turned(key: MaskingKey, at: usize) -> MaskingKey {
    let mut bytes = key.to_bytes();
    bytes.rotate_left(at % 4);
    MaskingKey::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use engine::{Nanos, Record};

    use super::*;
    use crate::load::Payload;

    fn framed(transport: Transport, fragments: u32, mask: Mask) -> Load {
        Load { transport, fragments, mask, ..Load::default() }
    }

    /// Bytes on the wire for these messages.
    fn wire(load: Load, content: &Content, sequences: std::ops::Range<u64>) -> Vec<u8> {
        let mut outgoing = Outgoing::new(&load, content, Random::new(1, 1));
        let (mut record, mut wire, mut left) = (Record::new(), Vec::new(), sequences);
        while !left.is_empty() {
            left.start = outgoing.send(content, 3, left.clone(), &mut record.begin(Nanos(0), 0, 0));
            wire.extend(record.segments().iter().flat_map(|s| record.bytes(s, &[]).to_vec()));
            record.discard_segments();
            record.clear_arena();
        }
        wire
    }

    #[test]
    fn frames_are_masked_with_a_key_of_their_own_and_hold_the_message() {
        for len in [0, 5, 16, 125, 126, 65_535, 65_536, 70_000] {
            let content = Content::new(Payload::TextMixed, &[(len, 1)], 1);
            let bytes = wire(framed(Transport::Ws, 1, Mask::Random), &content, 4..9);
            let (mut at, mut keys) = (0, HashSet::new());
            for sequence in 4..9 {
                let (header, header_len) =
                    Header::parse(&bytes[at..]).expect("a header").expect("a whole one");
                assert!(header.fin && header.rsv == 0);
                assert_eq!((header.opcode, header.payload_len), (Opcode::Text, len as u64));
                let key = header.mask.expect("masked");
                keys.insert(key.to_bytes());
                at += header_len + len;
                let mut payload = bytes[at - len..at].to_vec();
                mask::in_place(&mut payload, key);
                assert!(content.matches(3, sequence, &payload), "{len} bytes, message {sequence}");
            }
            assert_eq!((at, keys.len()), (bytes.len(), 5));
        }
    }

    #[test]
    fn raw_messages_are_the_bytes_alone() {
        for len in [5, 16, 16 << 10, 70_000] {
            let content = Content::new(Payload::Binary, &[(len, 1)], 1);
            let bytes = wire(framed(Transport::Tcp, 1, Mask::Random), &content, 0..3);
            assert_eq!(bytes.len(), 3 * len);
            assert!(bytes.chunks(len).zip(0..).all(|(message, n)| content.matches(3, n, message)));
        }
    }

    /// The frames in `bytes`: FIN, opcode, key, and payload unmasked.
    fn frames(bytes: &[u8]) -> Vec<(bool, Opcode, [u8; 4], Vec<u8>)> {
        let (mut at, mut frames) = (0, Vec::new());
        while at < bytes.len() {
            let (header, len) =
                Header::parse(&bytes[at..]).expect("a header").expect("a whole one");
            let key = header.mask.expect("masked");
            at += len + header.payload_len as usize;
            let mut payload = bytes[at - header.payload_len as usize..at].to_vec();
            mask::in_place(&mut payload, key);
            frames.push((header.fin, header.opcode, key.to_bytes(), payload));
        }
        frames
    }

    #[test]
    fn fragments_are_one_message() {
        for len in [0, 2, 5, 40, 10_000, 100_001] {
            for count in [2, 3, 7] {
                let content = Content::new(Payload::TextMixed, &[(len, 1)], 1);
                let frames =
                    frames(&wire(framed(Transport::Ws, count, Mask::Random), &content, 0..2));
                assert_eq!(frames.len(), 2 * count as usize);
                for (message, sequence) in frames.chunks(count as usize).zip(0..) {
                    let payload =
                        message.iter().flat_map(|frame| frame.3.clone()).collect::<Vec<_>>();
                    assert!(content.matches(3, sequence, &payload), "{len} in {count}");
                    assert!(
                        message.iter().rev().skip(1).all(|frame| !frame.0)
                            && message[count as usize - 1].0
                    );
                    assert_eq!(message[0].1, Opcode::Text);
                    assert!(message[1..].iter().all(|frame| frame.1 == Opcode::Continuation));
                }
            }
        }
    }

    #[test]
    fn a_fixed_key_is_that_of_every_frame() {
        let content = Content::new(Payload::Binary, &[(40, 1), (20_000, 1)], 1);
        let frames = frames(&wire(framed(Transport::Ws, 1, Mask::Fixed), &content, 0..20));
        assert!(frames.iter().all(|frame| frame.2 == frames[0].2 && frame.2 != [0; 4]));
    }

    #[test]
    fn writes_no_message_behind_many_unsent_bytes() {
        for (len, fragments) in [(5, 1), (10_000, 1), (20_000, 3), (300_000, 1), (16 << 20, 2)] {
            let content = Content::new(Payload::Binary, &[(len, 1)], 1);
            let load = framed(Transport::Ws, fragments, Mask::Random);
            let mut outgoing = Outgoing::new(&load, &content, Random::new(1, 1));
            let mut record = Record::new();
            let count = (MOST_UNSENT / len + 3) as u64;
            let mut out = record.begin(Nanos(0), 0, 0);
            let left = outgoing.send(&content, 0, 0..count, &mut out);
            let longest = len + fragments as usize * Header::MAX_LEN;
            assert!((MOST_UNSENT..MOST_UNSENT + longest).contains(&out.unsent()), "{len}");
            assert!(left > 0 && left < count, "{len}: {left} of {count}");
            assert_eq!(outgoing.send(&content, 0, left..count, &mut out), left, "{len}");
            record.discard_segments();
            let mut out = record.begin(Nanos(0), MOST_UNSENT - 1, 0);
            assert_eq!(outgoing.send(&content, 0, left..count, &mut out), left + 1, "{len}");
        }
    }

    #[test]
    fn several_sizes_go_out_mixed() {
        let content = Content::new(Payload::Binary, &[(5, 1), (40, 1), (20_000, 1)], 1);
        let frames = frames(&wire(framed(Transport::Ws, 1, Mask::Random), &content, 0..30));
        assert!(frames.iter().zip(0..).all(|(frame, n)| content.matches(3, n, &frame.3)));
        assert_eq!(frames.iter().map(|frame| frame.3.len()).collect::<HashSet<_>>().len(), 3);
    }
}

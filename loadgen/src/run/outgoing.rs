//! Messages on their way out: built where they are sent from.

use bytes::BytesMut;
use engine::Output;
use protocol::{Header, MaskingKey, encode_close, encode_control, mask};

use super::payload::{Content, STAMP};
use super::random::Random;
use crate::result::Transport;

/// From this length on a message goes out in a buffer of its own: what the kernel does not take at once is then kept
/// without being copied.
const OWNED_FROM: usize = 16 << 10;

/// Builds one worker's messages. Over `ws` each is one frame with a masking key of its own, fresh from the seeded
/// sequence (RFC 6455 5.3).
#[derive(Debug)]
pub(crate) struct Outgoing {
    random: Random,
    /// The frame header with a zero key; nothing over `tcp`.
    header: [u8; Header::MAX_LEN],
    header_len: usize,
}

impl Outgoing {
    pub(crate) fn new(transport: Transport, content: &Content, random: Random) -> Self {
        let mut header = [0; Header::MAX_LEN];
        let header_len = match transport {
            Transport::Tcp => 0,
            Transport::Ws => Header {
                fin: true,
                rsv: 0,
                opcode: content.kind().opcode(),
                mask: Some(MaskingKey::from_bytes([0; 4])),
                payload_len: content.len() as u64,
            }
            .encode(&mut header),
        };
        Self { random, header, header_len }
    }

    /// Sends the messages `first..first + count` of a connection.
    #[inline]
    pub(crate) fn send(
        &mut self,
        content: &Content,
        connection: u32,
        sequences: std::ops::Range<u64>,
        out: &mut Output<'_>,
    ) {
        if content.len() >= OWNED_FROM {
            return sequences.for_each(|sequence| self.send_owned(content, connection, sequence, out));
        }
        let frame_len = self.header_len + content.len();
        let len = frame_len * (sequences.end - sequences.start) as usize;
        let frames = out.reserve(len).chunks_exact_mut(frame_len);
        for (frame, sequence) in frames.zip(sequences) {
            self.write(content, connection, sequence, frame);
        }
        out.commit(len);
    }

    #[inline]
    fn write(&mut self, content: &Content, connection: u32, sequence: u64, frame: &mut [u8]) {
        let key = self.begin(frame);
        let payload = &mut frame[self.header_len..];
        let body = content.body(connection, sequence);
        if !content.is_stamped() {
            return put(body, payload, key);
        }
        let Some((stamp, rest)) = payload.split_first_chunk_mut::<STAMP>() else { return };
        *stamp = masked(content.stamp_word(connection, sequence), key);
        put(body, rest, key);
    }

    fn send_owned(&mut self, content: &Content, connection: u32, sequence: u64, out: &mut Output<'_>) {
        let mut buffer = out.buffer();
        buffer.reserve(self.header_len + content.len());
        let mut header = self.header;
        let key = self.begin(&mut header);
        buffer.extend_from_slice(&header[..self.header_len]);
        push(&content.stamp(connection, sequence), &mut buffer, key);
        push(content.body(connection, sequence), &mut buffer, key);
        out.give(buffer);
    }

    /// Writes the header with a fresh key to the front of `frame`; returns the key, or `None` where nothing is masked.
    #[inline]
    fn begin(&mut self, frame: &mut [u8]) -> Option<MaskingKey> {
        let key_at = self.header_len.checked_sub(4)?;
        let key = fresh_key(&mut self.random);
        // As many bytes as the longest header has, where there is room: a copy of a length known beforehand is two moves
        // and no call. The payload overwrites what is too much.
        match frame.first_chunk_mut::<{ Header::MAX_LEN }>() {
            Some(longest) => *longest = self.header,
            None => frame[..self.header_len].copy_from_slice(&self.header[..self.header_len]),
        }
        frame[key_at..key_at + 4].copy_from_slice(&key.to_bytes());
        Some(key)
    }

    /// Sends the answer to a ping (RFC 6455 5.5.3).
    pub(crate) fn pong(&mut self, payload: &[u8], out: &mut Output<'_>) {
        let mut frame = [0; protocol::frame::MAX_CONTROL_LEN];
        let key = fresh_key(&mut self.random);
        let len = encode_control(protocol::Opcode::Pong, payload, Some(key), &mut frame);
        out.append(&frame[..len]);
    }

    /// Sends a Close (RFC 6455 5.5.1).
    pub(crate) fn close(&mut self, code: Option<u16>, out: &mut Output<'_>) {
        let mut frame = [0; protocol::frame::MAX_CONTROL_LEN];
        let key = fresh_key(&mut self.random);
        let len = encode_close(code, "", Some(key), &mut frame);
        out.append(&frame[..len]);
    }

    /// A nonce for the opening handshake (RFC 6455 4.1).
    pub(crate) fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.random.next().to_le_bytes());
        nonce[8..].copy_from_slice(&self.random.next().to_le_bytes());
        nonce
    }
}

#[inline]
fn fresh_key(random: &mut Random) -> MaskingKey {
    MaskingKey::from_bytes((random.next() as u32).to_le_bytes())
}

/// A stamp, masked where there is a key: in one piece, as it stands in every message.
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

/// The same, appended.
fn push(from: &[u8], buffer: &mut BytesMut, key: Option<MaskingKey>) {
    match key {
        Some(key) => mask::append(from, buffer, key),
        None => buffer.extend_from_slice(from),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use engine::{Nanos, Record};

    use super::*;
    use crate::result::Payload;

    /// What goes over the wire for these messages.
    fn wire(transport: Transport, content: &Content, sequences: std::ops::Range<u64>) -> Vec<u8> {
        let mut outgoing = Outgoing::new(transport, content, Random::new(1, 1));
        let mut record = Record::new();
        outgoing.send(content, 3, sequences, &mut record.begin(Nanos(0), 0, 0));
        record.segments().iter().flat_map(|s| record.bytes(s, &[]).to_vec()).collect()
    }

    #[test]
    fn frames_are_masked_with_a_key_of_their_own_and_hold_the_message() {
        for len in [0, 5, 16, 125, 126, 65_535, 65_536, 70_000] {
            let content = Content::new(Payload::TextMixed, len, 1);
            let bytes = wire(Transport::Ws, &content, 4..9);
            let (mut at, mut keys) = (0, HashSet::new());
            for sequence in 4..9 {
                let (header, header_len) =
                    Header::parse(&bytes[at..]).expect("a header").expect("a whole one");
                assert!(header.fin && header.rsv == 0);
                assert_eq!((header.opcode, header.payload_len), (protocol::Opcode::Text, len as u64));
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
            let content = Content::new(Payload::Binary, len, 1);
            let bytes = wire(Transport::Tcp, &content, 0..3);
            assert_eq!(bytes.len(), 3 * len);
            assert!(bytes.chunks(len).zip(0..).all(|(message, n)| content.matches(3, n, message)));
        }
    }
}

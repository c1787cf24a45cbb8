//! The header of a frame, read and written (RFC 6455 5.2).

use crate::error::ProtocolError;
use crate::mask::MaskingKey;
use crate::opcode::{MessageKind, Opcode};

/// A frame's header: 2 to 14 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// True for the last fragment of a message.
    pub fin: bool,
    /// The three reserved bits, RSV1 = 4. Extensions define their meaning; [`Header::parse`] does
    /// not check them.
    pub rsv: u8,
    /// Opcode of the frame.
    pub opcode: Opcode,
    /// The masking key, `None` for an unmasked frame.
    pub mask: Option<MaskingKey>,
    /// Bytes of payload that follow; below 2^63.
    pub payload_len: u64,
}

impl Header {
    /// The longest header: a 64-bit length and a masking key.
    pub const MAX_LEN: usize = 14;

    /// Number of bytes that [`encode`](Header::encode) writes.
    pub fn encoded_len(&self) -> usize {
        let key = if self.mask.is_some() { 4 } else { 0 };
        2 + length_len(self.payload_len) + key
    }

    /// Writes the header with the length in its shortest form; returns its length in `out`.
    pub fn encode(&self, out: &mut [u8; 14]) -> usize {
        out[0] = u8::from(self.fin) << 7 | (self.rsv & 7) << 4 | self.opcode as u8;
        let at = encode_length(self.payload_len, out);
        match self.mask {
            None => at,
            Some(key) => {
                out[1] |= MASK_BIT;
                out[at..at + 4].copy_from_slice(&key.to_bytes());
                at + 4
            }
        }
    }

    /// Reads a header from the start of `bytes`; returns it with its length. `Ok(None)`: more bytes
    /// are needed.
    ///
    /// # Errors
    ///
    /// Rejects a reserved opcode, and a length not in its shortest form or with its top bit set,
    /// each as soon as the deciding bytes have arrived. The [`Connection`](crate::Connection)
    /// checks the reserved bits, the mask, and that the opcode may come now.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, ProtocolError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let opcode = parse_opcode(first)?;
        let Some((payload_len, at)) = parse_length(bytes)? else { return Ok(None) };
        let Some((mask, at)) = parse_key(bytes, at) else { return Ok(None) };
        Ok(Some((Header { fin: is_fin(first), rsv: rsv(first), opcode, mask, payload_len }, at)))
    }
}

/// The common shape of a header: that of a whole message, with FIN, of at most 65,535 bytes.
pub(crate) struct Common {
    pub(crate) kind: MessageKind,
    pub(crate) header_len: usize,
    pub(crate) payload_len: usize,
    /// Masking key; zero where nothing is masked.
    pub(crate) key: MaskingKey,
}

impl Common {
    /// Reads such a header from eight bytes, or fewer of them. `None`: it has another shape, or is
    /// invalid.
    ///
    /// Both lengths are computed in one register, and a select takes one of them: lengths around
    /// 126 would otherwise cost a mispredicted branch for every other message.
    #[inline]
    pub(crate) fn parse(bytes: &[u8; 8], masked: bool) -> Option<Common> {
        let word = u64::from_le_bytes(*bytes);
        let first = word as u8;
        // A frame with the wrong mask bit looks like an invalid length.
        let length = (word >> 8) as u8 ^ if masked { MASK_BIT } else { 0 };
        let is_long = length == 126;
        let long = u16::from_be_bytes([bytes[2], bytes[3]]);
        let payload_len = if is_long { long } else { u16::from(length) };
        let is_common =
            (first.wrapping_sub(0x81) < 2) & (length <= 126) & (is_long == (payload_len > 125));
        if !is_common {
            return None;
        }
        let kind = if first == 0x81 { MessageKind::Text } else { MessageKind::Binary };
        let key_at = 2 + 2 * usize::from(is_long);
        let (key, key_len) = if masked { ((word >> (8 * key_at)) as u32, 4) } else { (0, 0) };
        Some(Common {
            kind,
            header_len: key_at + key_len,
            payload_len: payload_len.into(),
            key: MaskingKey::from_bytes(key.to_le_bytes()),
        })
    }
}

/// The first of the three reserved bits: in permessage-deflate the message is compressed (RFC 7692
/// 6).
pub const RSV1: u8 = 4;

/// Bit 0x80 of the second byte: a masking key follows the length.
pub(crate) const MASK_BIT: u8 = 0x80;

/// Returns whether a frame's first byte has FIN.
pub(crate) fn is_fin(first: u8) -> bool {
    first & 0x80 != 0
}

/// Returns the reserved bits of a frame's first byte, RSV1 = 4.
pub(crate) fn rsv(first: u8) -> u8 {
    first >> 4 & 7
}

/// Returns the opcode of a frame's first byte.
pub(crate) fn parse_opcode(first: u8) -> Result<Opcode, ProtocolError> {
    let opcode = first & 0xf;
    Opcode::from_u4(opcode).ok_or(ProtocolError::ReservedOpcode { opcode })
}

/// Returns the payload length, and its end in `bytes`. `Ok(None)`: more bytes are needed.
pub(crate) fn parse_length(bytes: &[u8]) -> Result<Option<(u64, usize)>, ProtocolError> {
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    match second & !MASK_BIT {
        126 => parse_length16(bytes),
        127 => parse_length64(bytes),
        short => Ok(Some((u64::from(short), 2))),
    }
}

fn parse_length16(bytes: &[u8]) -> Result<Option<(u64, usize)>, ProtocolError> {
    let Some(&[high, low]) = bytes.get(2..4).and_then(<[u8]>::first_chunk) else { return Ok(None) };
    let payload_len = u64::from(u16::from_be_bytes([high, low]));
    if payload_len < 126 {
        return Err(ProtocolError::NonMinimalLength { payload_len });
    }
    Ok(Some((payload_len, 4)))
}

fn parse_length64(bytes: &[u8]) -> Result<Option<(u64, usize)>, ProtocolError> {
    if bytes.get(2).is_some_and(|&top| top & 0x80 != 0) {
        return Err(ProtocolError::LengthTopBit);
    }
    let Some(&length) = bytes.get(2..10).and_then(<[u8]>::first_chunk) else { return Ok(None) };
    let payload_len = u64::from_be_bytes(length);
    if payload_len <= u64::from(u16::MAX) {
        return Err(ProtocolError::NonMinimalLength { payload_len });
    }
    Ok(Some((payload_len, 10)))
}

/// Returns the masking key that the second byte announces, and the header's end. `None`: more bytes
/// are needed.
pub(crate) fn parse_key(bytes: &[u8], at: usize) -> Option<(Option<MaskingKey>, usize)> {
    if bytes.get(1)? & MASK_BIT == 0 {
        return Some((None, at));
    }
    let key = bytes.get(at..)?.first_chunk()?;
    Some((Some(MaskingKey::from_bytes(*key)), at + 4))
}

/// Returns the number of bytes that a length takes beyond the header's second byte.
pub(crate) fn length_len(payload_len: u64) -> usize {
    match payload_len {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    }
}

/// Writes the length from the second byte on; returns its end.
fn encode_length(payload_len: u64, out: &mut [u8; 14]) -> usize {
    match length_len(payload_len) {
        0 => {
            out[1] = payload_len as u8;
            2
        }
        2 => {
            out[1] = 126;
            out[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            out[1] = 127;
            out[2..10].copy_from_slice(&payload_len.to_be_bytes());
            10
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_shape_is_read_like_any_header() {
        let lengths = [0, 1, 2, 125, 126, 127, 128, 255, 256, 0x7e7e, 0xffff];
        let seconds = [0, 1, 2, 77, 124, 125, 126, 127]
            .into_iter()
            .flat_map(|second| [second, second | MASK_BIT]);
        for (first, second) in
            seconds.flat_map(|second| (0..=255).map(move |first| (first, second)))
        {
            for length in lengths {
                let [high, low] = u16::to_be_bytes(length);
                let bytes = [
                    first, second, high, low, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0, 0,
                ];
                for masked in [false, true] {
                    check_common(&bytes, masked);
                }
            }
        }
    }

    /// Checks that the common shape is found exactly where the general parser finds such a header,
    /// with the same content.
    fn check_common(bytes: &[u8; 14], masked: bool) {
        let common = Common::parse(bytes.first_chunk().expect("eight of fourteen"), masked);
        let any = Header::parse(bytes).ok().flatten().filter(|(header, _)| {
            let kind = matches!(header.opcode, Opcode::Text | Opcode::Binary);
            header.fin
                && header.rsv == 0
                && kind
                && header.mask.is_some() == masked
                && header.payload_len <= 0xffff
        });
        let found = common.map(|c| (c.kind.opcode(), c.header_len, c.payload_len as u64, c.key));
        let expected = any.map(|(header, len)| {
            (header.opcode, len, header.payload_len, header.mask.unwrap_or(MaskingKey::ZERO))
        });
        assert_eq!(found, expected, "{bytes:x?}, masked {masked}");
    }
}

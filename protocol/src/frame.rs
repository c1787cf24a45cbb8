//! Writing frames: data frame headers and whole control frames (RFC 6455 5.2, 5.5).

pub use crate::header::RSV1;
use crate::header::{Header, length_len};
use crate::mask::{self, MaskingKey};
use crate::message::Control;
use crate::opcode::Opcode;

/// The longest control frame: a masked header of 6 bytes and 125 bytes of payload.
pub const MAX_CONTROL_LEN: usize = 131;

/// Returns the bytes of the header that a server writes before a payload of this length: 2, 4 or
/// 10.
#[inline]
pub fn server_header_len(payload_len: u64) -> usize {
    2 + length_len(payload_len)
}

/// Returns the bytes of the header that a client writes before a payload of this length, masking
/// key included: 6, 8 or 14.
#[inline]
pub fn client_header_len(payload_len: u64) -> usize {
    6 + length_len(payload_len)
}

/// Writes an unmasked header with FIN so that it ends where the payload starts; returns its own
/// start.
///
/// # Panics
///
/// Panics when fewer than [`server_header_len`] bytes lie before `payload_start`, or it is beyond
/// `buf`.
#[inline]
pub fn write_server_header_before(
    buf: &mut [u8],
    payload_start: usize,
    opcode: Opcode,
    payload_len: usize,
) -> usize {
    let first = 0x80 | opcode as u8;
    let before = &mut buf[..payload_start];
    if payload_len <= 125 {
        let start = payload_start - 2;
        before[start..].copy_from_slice(&[first, payload_len as u8]);
        return start;
    }
    write_long_server_header(before, first, payload_len)
}

/// Sets RSV1 in the header at the start of `frame`: its message is compressed (RFC 7692 6).
///
/// # Panics
///
/// Panics when `frame` is empty.
#[inline]
pub fn mark_compressed(frame: &mut [u8]) {
    frame[0] |= RSV1 << 4;
}

fn write_long_server_header(before: &mut [u8], first: u8, payload_len: usize) -> usize {
    let payload_start = before.len();
    if let Ok(short) = u16::try_from(payload_len) {
        let [high, low] = short.to_be_bytes();
        let start = payload_start - 4;
        before[start..].copy_from_slice(&[first, 126, high, low]);
        return start;
    }
    let start = payload_start - 10;
    before[start..start + 2].copy_from_slice(&[first, 127]);
    before[start + 2..].copy_from_slice(&(payload_len as u64).to_be_bytes());
    start
}

/// Writes a whole control frame, masked where a key is given; returns its length.
///
/// # Panics
///
/// Panics when `opcode` is not a control opcode, or the payload is longer than 125 bytes (RFC 6455
/// 5.5).
pub fn encode_control(
    opcode: Opcode,
    payload: &[u8],
    mask: Option<MaskingKey>,
    out: &mut [u8; MAX_CONTROL_LEN],
) -> usize {
    assert!(opcode.is_control(), "{opcode:?} is not a control opcode");
    assert!(payload.len() <= Control::MAX_LEN, "{} bytes in a control frame", payload.len());
    let mut bytes = [0; Header::MAX_LEN];
    let header = Header { fin: true, rsv: 0, opcode, mask, payload_len: payload.len() as u64 };
    let start = header.encode(&mut bytes);
    let end = start + payload.len();
    out[..start].copy_from_slice(&bytes[..start]);
    out[start..end].copy_from_slice(payload);
    if let Some(key) = mask {
        mask::in_place(&mut out[start..end], key);
    }
    end
}

/// Writes a whole Close frame, masked where a key is given; returns its length.
///
/// Without a code the frame is empty, since a reason cannot stand alone. A reason of more than 123
/// bytes is cut at the last character that fits.
pub fn encode_close(
    code: Option<u16>,
    reason: &str,
    mask: Option<MaskingKey>,
    out: &mut [u8; MAX_CONTROL_LEN],
) -> usize {
    let Some(code) = code else { return encode_control(Opcode::Close, &[], mask, out) };
    let reason = &reason[..reason.floor_char_boundary(Control::MAX_LEN - 2)];
    let mut payload = [0; Control::MAX_LEN];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    encode_control(Opcode::Close, &payload[..2 + reason.len()], mask, out)
}

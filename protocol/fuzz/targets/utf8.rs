//! The incremental validator against the standard library's, alone and in the pass that unmasks.

use bytes::BytesMut;
use protocol::{InvalidUtf8, MaskingKey, Utf8, mask, text};

use super::input::Input;

/// Validates the bytes in the pieces that the input chooses, and one by one.
pub fn target(data: &[u8]) {
    let input = Input::parse(data);
    check(input.bytes, input.pieces().into_iter().map(|piece| piece.end));
    check(input.bytes, 1..=input.bytes.len());
}

const KEY: MaskingKey = MaskingKey::from_bytes([0x37, 0xfa, 0x21, 0x3d]);

/// Checks that the piece with the first byte that makes the text invalid is the one that fails.
fn check(bytes: &[u8], ends: impl Iterator<Item = usize>) {
    let hopeless = first_hopeless(bytes);
    let mut utf8 = Utf8::default();
    let (mut unmasked, mut message) = (Utf8::default(), BytesMut::new());
    let mut start = 0;
    for end in ends {
        let expected = if end < hopeless { Ok(()) } else { Err(InvalidUtf8) };
        assert_eq!(utf8.update(&bytes[start..end]), expected, "piece {start}..{end}");
        let mut piece = bytes[start..end].to_vec();
        mask::in_place(&mut piece, KEY);
        let result = text::append(&piece, &mut message, KEY, &mut unmasked);
        assert_eq!(result, expected, "unmasked piece {start}..{end}");
        if expected.is_err() {
            return;
        }
        start = end;
    }
    assert_eq!(message, bytes, "all that is valid arrives");
    assert_eq!(utf8.finish().is_ok(), std::str::from_utf8(bytes).is_ok());
    assert_eq!(unmasked.finish().is_ok(), std::str::from_utf8(bytes).is_ok());
    assert_eq!(utf8.update("next".as_bytes()), Ok(()), "ready for the next text");
}

/// Returns the length of the shortest prefix that no continuation can make valid; `usize::MAX`
/// where there is none.
pub fn first_hopeless(bytes: &[u8]) -> usize {
    let Err(error) = std::str::from_utf8(bytes) else { return usize::MAX };
    let is_hopeless = |&end: &usize| {
        std::str::from_utf8(&bytes[..end]).is_err_and(|error| error.error_len().is_some())
    };
    (error.valid_up_to()..=bytes.len()).take(5).find(is_hopeless).unwrap_or(usize::MAX)
}

//! Unmasking and validating text in one pass (RFC 6455 5.3, 8.1), in place, while it moves or while
//! it is copied.
//!
//! The pass that unmasks also finds, at no cost, whether all bytes that it wrote are ASCII. Only a
//! block that is not ASCII is examined again, at once, while it is in the first-level cache.

use std::ops::Range;

use bytes::BytesMut;

use crate::mask::MaskingKey;
use crate::mask::span::{self, Span};
use crate::utf8::{InvalidUtf8, Utf8};

/// Bytes that are unmasked before they are validated: mostly a whole message, and half of the
/// smallest first-level caches.
const BLOCK: usize = 16384;

/// Unmasks text in its place and validates it.
///
/// # Errors
///
/// Fails when no continuation could make the text valid. Some of it may still be masked then.
#[inline]
pub fn in_place(buf: &mut [u8], key: MaskingKey, utf8: &mut Utf8) -> Result<(), InvalidUtf8> {
    let len = buf.len();
    shift(buf, 0..len, 0, key, utf8)
}

/// Unmasks the text `buf[src]` while moving it forward to `to`, and validates it. The content
/// between the ends of the destination and the source is unspecified.
///
/// # Errors
///
/// Fails when no continuation could make the text valid. Some of it may still be masked and unmoved
/// then.
///
/// # Panics
///
/// Panics when `to` is beyond the start of `src`, or `src` is not within `buf`.
#[inline]
pub fn shift(
    buf: &mut [u8],
    src: Range<usize>,
    to: usize,
    key: MaskingKey,
    utf8: &mut Utf8,
) -> Result<(), InvalidUtf8> {
    let len = src.len();
    if len > BLOCK {
        return in_blocks(
            len,
            &mut Shift { distance: src.start - to, buf: &mut buf[..src.end], to, key },
            utf8,
        );
    }
    if Span::within(buf, src, to).mask_text(key) && utf8.is_between_characters() {
        return Ok(());
    }
    utf8.update_any(&buf[to..to + len])
}

/// Unmasks text to the end of `dst`, which grows by it, and validates it.
///
/// # Errors
///
/// Fails when no continuation could make the text valid. `dst` then ends with the examined bytes.
#[inline]
pub fn append(
    src: &[u8],
    dst: &mut BytesMut,
    key: MaskingKey,
    utf8: &mut Utf8,
) -> Result<(), InvalidUtf8> {
    let start = dst.len();
    if src.len() > BLOCK {
        dst.reserve(src.len());
        return in_blocks(src.len(), &mut Append { src, dst, start, key }, utf8);
    }
    if span::append_text(src, dst, key) && utf8.is_between_characters() {
        return Ok(());
    }
    utf8.update_any(&dst[start..])
}

/// Way of unmasking a text: in place, moving or appending. Offsets are those within the text.
trait Way {
    /// Unmasks the next block; returns whether all of it is ASCII.
    fn unmask(&mut self, block: Range<usize>) -> bool;

    /// Returns the bytes that have arrived, from the text's start to the end of the last block at
    /// least.
    fn arrived(&self) -> &[u8];
}

#[inline(never)]
fn in_blocks(len: usize, way: &mut impl Way, utf8: &mut Utf8) -> Result<(), InvalidUtf8> {
    let (mut at, mut validated) = (0, 0);
    while at < len {
        let block = at..len.min(at + BLOCK);
        at = block.end;
        let is_ascii = way.unmask(block.clone());
        if is_ascii && validated == block.start && utf8.is_between_characters() {
            validated = block.end;
        } else {
            // This includes a character that the end of the previous block cut.
            validated += utf8.validate_through(&way.arrived()[validated..block.end])?;
        }
    }
    utf8.keep(&way.arrived()[validated..len])
}

struct Shift<'a> {
    buf: &'a mut [u8],
    distance: usize,
    to: usize,
    key: MaskingKey,
}

impl Way for Shift<'_> {
    #[inline]
    fn unmask(&mut self, block: Range<usize>) -> bool {
        let to = self.to + block.start;
        let source = to + self.distance..self.to + block.end + self.distance;
        Span::within(self.buf, source, to).mask_text(self.key.rotated(block.start))
    }

    #[inline]
    fn arrived(&self) -> &[u8] {
        &self.buf[self.to..]
    }
}

struct Append<'a> {
    src: &'a [u8],
    dst: &'a mut BytesMut,
    start: usize,
    key: MaskingKey,
}

impl Way for Append<'_> {
    #[inline]
    fn unmask(&mut self, block: Range<usize>) -> bool {
        span::append_text(&self.src[block.clone()], self.dst, self.key.rotated(block.start))
    }

    #[inline]
    fn arrived(&self) -> &[u8] {
        &self.dst[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: MaskingKey = MaskingKey::from_bytes([0x37, 0xfa, 0x21, 0x3d]);

    fn masked(text: &[u8]) -> Vec<u8> {
        let key = KEY.to_bytes();
        text.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect()
    }

    /// Returns the length of the shortest prefix that no continuation can make valid. The standard
    /// library's validator is the oracle.
    fn fails_at(text: &[u8]) -> Option<usize> {
        let valid =
            std::str::from_utf8(text).map_or_else(|error| error.valid_up_to(), |_| text.len());
        (valid..=text.len().min(valid + 4)).find(
            |&end| matches!(std::str::from_utf8(&text[..end]), Err(error) if error.error_len().is_some()),
        )
    }

    /// One way of reading a piece that is masked by this key: the result, and the bytes that have
    /// arrived.
    type Take = fn(&[u8], MaskingKey, &mut Utf8) -> (Result<(), InvalidUtf8>, Vec<u8>);

    const WAYS: [Take; 3] = [
        |piece, key, utf8| {
            let mut buf = piece.to_vec();
            (in_place(&mut buf, key, utf8), buf)
        },
        |piece, key, utf8| {
            let mut buf = [b"frame ", piece].concat();
            let result = shift(&mut buf, 6..6 + piece.len(), 2, key, utf8);
            (result, buf[2..2 + piece.len()].to_vec())
        },
        |piece, key, utf8| {
            let mut message = BytesMut::from("before");
            let result = append(piece, &mut message, key, utf8);
            assert_eq!(message[..6], *b"before");
            (result, message[6..].to_vec())
        },
    ];

    /// Reads `text` cut at `cuts`, in every way: the piece that makes it invalid is the one that
    /// fails, and until then all of it arrives.
    fn check(text: &[u8], cuts: &[usize]) {
        let fails_at = fails_at(text);
        let masked = masked(text);
        for take in WAYS {
            let mut utf8 = Utf8::default();
            let mut start = 0;
            for end in cuts.iter().copied().chain([text.len()]) {
                let (result, arrived) = take(&masked[start..end], KEY.rotated(start), &mut utf8);
                let expected_failure = fails_at.is_some_and(|at| at <= end);
                assert_eq!(
                    result.is_err(),
                    expected_failure,
                    "{} bytes cut at {cuts:?}, piece to {end}",
                    text.len()
                );
                if expected_failure {
                    break;
                }
                assert_eq!(arrived, text[start..end], "piece to {end}");
                start = end;
            }
            if fails_at.is_none() {
                assert_eq!(utf8.finish().is_ok(), std::str::from_utf8(text).is_ok());
            }
        }
    }

    #[test]
    fn validates_characters_cut_everywhere_in_plain_text() {
        for sequence in ["", "é", "日", "😀"].map(str::as_bytes).into_iter().chain([
            &b"\xff"[..],
            b"\xed\xa0",
            b"\xc3x",
        ]) {
            for before in [0, 1, 30, 62, 63, 64, 127, 200] {
                for behind in [0, 1, 64, 130] {
                    let text = [&vec![b'x'; before], sequence, &vec![b'y'; behind]].concat();
                    for cut in 0..=text.len() {
                        check(&text, &[cut]);
                    }
                    check(&text, &(0..text.len()).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn validates_characters_at_the_borders_of_blocks() {
        for sequence in ["é", "日", "😀"].map(str::as_bytes).into_iter().chain([
            &b"\xff"[..],
            b"\xed\xa0",
            b"\xc3x",
            b"\xe6\x97",
        ]) {
            for before in BLOCK - 4..=BLOCK + 1 {
                for behind in [0, 1, BLOCK] {
                    let text = [&vec![b'x'; before], sequence, &vec![b'y'; behind]].concat();
                    check(&text, &[]);
                    check(&text, &[2, before + 1]);
                }
            }
        }
        // No block begins with a character.
        check("日".repeat(BLOCK).as_bytes(), &[]);
        check(&"日".repeat(BLOCK).as_bytes()[1..], &[]);
    }

    proptest! {
        #[test]
        fn agrees_with_std_however_cut(
            text in prop_oneof![any::<Vec<char>>(), prop::collection::vec(prop::char::range('a', 'ã'), 0..300)],
            replaced in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2),
            cuts in any::<[prop::sample::Index; 3]>(),
        ) {
            let mut text = text.into_iter().collect::<String>().into_bytes();
            for (at, byte) in replaced {
                if !text.is_empty() {
                    let at = at.index(text.len());
                    text[at] = byte;
                }
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            check(&text, &cuts);
        }
    }
}

//! Unmasking and validating text in one go (RFC 6455 5.3, 8.1), where it lies, while it moves or while it is copied.
//!
//! The pass that unmasks says for nothing whether all that it wrote is ASCII. Only a block that is not is looked at again,
//! at once, while it is in the first-level cache.

use std::ops::Range;

use bytes::BytesMut;

use crate::mask::MaskingKey;
use crate::mask::span::{self, Span};
use crate::utf8::{InvalidUtf8, Utf8};

/// So much is unmasked before it is validated.
const BLOCK: usize = 4096;

/// Unmasks text where it lies and validates it.
///
/// # Errors
///
/// When no continuation could make the text valid. Some of it may still be masked then.
#[inline]
pub fn in_place(buf: &mut [u8], key: MaskingKey, utf8: &mut Utf8) -> Result<(), InvalidUtf8> {
    let len = buf.len();
    shift(buf, 0..len, 0, key, utf8)
}

/// Unmasks the text `buf[src]` while moving it forward, to where `to` says, and validates it. What lies beyond the
/// destination, up to the source's end, is left as it falls.
///
/// # Errors
///
/// When no continuation could make the text valid. Some of it may still be masked and unmoved then.
///
/// # Panics
///
/// When `to` is beyond the start of `src`, or `src` is not within `buf`.
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
    if Span::within(buf, src, to).mask(key) && utf8.is_between_characters() {
        return Ok(());
    }
    utf8.update_any(&buf[to..to + len])
}

/// Unmasks text to the end of `dst`, which grows by it, and validates it.
///
/// # Errors
///
/// When no continuation could make the text valid. `dst` ends with what was looked at then.
#[inline]
pub fn append(src: &[u8], dst: &mut BytesMut, key: MaskingKey, utf8: &mut Utf8) -> Result<(), InvalidUtf8> {
    let start = dst.len();
    if src.len() > BLOCK {
        dst.reserve(src.len());
        return in_blocks(src.len(), &mut Append { src, dst, start, key }, utf8);
    }
    if span::append(src, dst, key) && utf8.is_between_characters() {
        return Ok(());
    }
    utf8.update_any(&dst[start..])
}

/// Which way a text takes. Offsets are those within the text.
trait Way {
    /// Unmasks the block that comes next; says whether all of it is ASCII.
    fn unmask(&mut self, block: Range<usize>) -> bool;

    /// What has arrived, from the text's start to the end of the last block at least.
    fn arrived(&self) -> &[u8];
}

#[inline(never)]
fn in_blocks(len: usize, way: &mut impl Way, utf8: &mut Utf8) -> Result<(), InvalidUtf8> {
    let (mut at, mut settled) = (0, 0);
    while at < len {
        let block = at..len.min(at + BLOCK);
        at = block.end;
        let is_ascii = way.unmask(block.clone());
        if is_ascii && settled == block.start && utf8.is_between_characters() {
            settled = block.end;
        } else {
            // With a character that the end of the block before cut.
            settled += utf8.settle(&way.arrived()[settled..block.end])?;
        }
    }
    utf8.keep(&way.arrived()[settled..len])
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
        Span::within(self.buf, source, to).mask(self.key.rotated(block.start))
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
        span::append(&self.src[block.clone()], self.dst, self.key.rotated(block.start))
    }

    #[inline]
    fn arrived(&self) -> &[u8] {
        &self.dst[self.start..]
    }
}

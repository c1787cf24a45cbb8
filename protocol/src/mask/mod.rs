//! Masking and unmasking (RFC 6455 5.3): byte `i` of a payload is XORed with byte `i % 4` of the
//! key. Doing it twice returns the payload.
//!
//! There is one algorithm for several instruction sets. Payloads of up to 64 bytes are masked here
//! with overlapping loads from both ends; longer ones use the kernel that was chosen once for this
//! machine. The environment variable `SPARRING_KERNEL` overrides the choice (`scalar`, `portable`,
//! `avx2`, `avx512`). A name that is unknown or that the processor cannot run is ignored, and
//! [`kernel`] returns the kernel in use.

mod algorithm;
mod kernel;
mod portable;
mod scalar;
pub(crate) mod span;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use bytes::BytesMut;

use self::kernel::chosen;
use self::span::Span;

/// Masking key of a payload: four bytes in wire order (RFC 6455 5.3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MaskingKey([u8; 4]);

impl MaskingKey {
    /// The key that changes nothing.
    pub(crate) const ZERO: MaskingKey = MaskingKey([0; 4]);

    /// Creates a key from its bytes in wire order.
    #[inline]
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        MaskingKey(bytes)
    }

    /// Returns the key's bytes in wire order.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0
    }

    /// Returns the key for the part of the payload that starts `n` bytes further on.
    #[inline]
    pub fn rotated(self, n: usize) -> Self {
        let word = u32::from_le_bytes(self.0);
        MaskingKey(word.rotate_right(8 * (n as u32 & 3)).to_le_bytes())
    }
}

impl std::fmt::Debug for MaskingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d] = self.0;
        write!(f, "MaskingKey({a:02x} {b:02x} {c:02x} {d:02x})")
    }
}

/// Longest payload that is masked inline, without a kernel.
const SHORT: usize = 64;

/// Masks or unmasks a payload in its place.
#[inline]
pub fn in_place(buf: &mut [u8], key: MaskingKey) {
    Span::in_place(buf).mask(key);
}

/// Masks or unmasks from `src` to `dst`.
///
/// # Panics
///
/// Panics when the lengths differ.
#[inline]
pub fn copy(src: &[u8], dst: &mut [u8], key: MaskingKey) {
    Span::between(src, dst).mask(key);
}

/// Masks or unmasks `buf[src]` while moving it forward to `to`. Source and destination may overlap,
/// and may be the same. The content between the ends of the destination and the source is
/// unspecified.
///
/// # Panics
///
/// Panics when `to` is beyond the start of `src`, or `src` is not within `buf`.
#[inline]
pub fn shift(buf: &mut [u8], src: Range<usize>, to: usize, key: MaskingKey) {
    Span::within(buf, src, to).mask(key);
}

/// Masks or unmasks `src` to the end of `dst`, which grows by it.
#[inline]
pub fn append(src: &[u8], dst: &mut BytesMut, key: MaskingKey) {
    span::append(src, dst, key);
}

/// Name of the kernel in use: `avx512`, `avx2`, `portable` or `scalar`.
pub fn kernel() -> &'static str {
    chosen().name
}

/// Returns whether this is a UTF-8 string, by the kernel in use.
#[inline]
pub(crate) fn is_utf8(text: &[u8]) -> bool {
    chosen().is_utf8(text)
}

#[cfg(test)]
mod tests;

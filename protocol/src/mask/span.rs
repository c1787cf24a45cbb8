//! Source and target of a payload.
#![expect(
    unsafe_code,
    reason = "in place, between buffers and within one buffer are one function over pointers"
)]

use std::marker::PhantomData;
use std::ops::Range;

use bytes::BytesMut;

use super::algorithm::short;
use super::kernel::chosen;
use super::{MaskingKey, SHORT};

/// A payload on its way from `source` to `target`.
///
/// `source` is valid for reads and `target` for writes of `len` bytes throughout `'a`, and no other
/// code accesses either. Where they overlap, `target` is at or before `source`. Only the
/// constructors create spans, so that this always holds.
pub(crate) struct Span<'a> {
    pub(super) source: *const u8,
    pub(super) target: *mut u8,
    pub(super) len: usize,
    borrowed: PhantomData<(&'a [u8], &'a mut [u8])>,
}

impl<'a> Span<'a> {
    /// Creates a span from a buffer onto itself.
    #[inline]
    pub(crate) fn in_place(buf: &'a mut [u8]) -> Self {
        let target = buf.as_mut_ptr();
        Span { source: target, target, len: buf.len(), borrowed: PhantomData }
    }

    /// Creates a span from one buffer to another.
    ///
    /// # Panics
    ///
    /// Panics when the lengths differ.
    #[inline]
    pub(crate) fn between(source: &'a [u8], target: &'a mut [u8]) -> Self {
        assert_eq!(source.len(), target.len(), "source and destination differ in length");
        Span {
            source: source.as_ptr(),
            target: target.as_mut_ptr(),
            len: source.len(),
            borrowed: PhantomData,
        }
    }

    /// Creates a span from `source` forward to `to`, in one buffer.
    ///
    /// # Panics
    ///
    /// Panics when `to` is beyond the start of `source`, or `source` is not within `buf`.
    #[inline]
    pub(crate) fn within(buf: &'a mut [u8], source: Range<usize>, to: usize) -> Self {
        assert!(to <= source.start, "a shift moves forward only");
        let len = source.len();
        let touched = &mut buf[to..source.end];
        let target = touched.as_mut_ptr();
        // SAFETY: `touched` begins at `to` and is as long as distance and length together, so that
        // the source starts within it and ends with it.
        let source = unsafe { target.add(touched.len() - len) };
        Span { source, target, len, borrowed: PhantomData }
    }

    /// Masks or unmasks on the way.
    #[inline]
    pub(crate) fn mask(self, key: MaskingKey) {
        if self.len <= SHORT {
            // SAFETY: the length was checked.
            unsafe { short::<false>(&self, key) };
        } else {
            self.mask_by(chosen().mask, key);
        }
    }

    /// Masks or unmasks on the way; returns whether all written bytes are ASCII.
    #[inline]
    pub(crate) fn mask_text(self, key: MaskingKey) -> bool {
        if self.len <= SHORT {
            // SAFETY: the length was checked.
            unsafe { short::<true>(&self, key) }
        } else {
            self.mask_by(chosen().mask_text, key)
        }
    }

    /// Masks more than [`SHORT`] bytes by this function of an available kernel.
    #[inline]
    pub(super) fn mask_by(
        self,
        mask: unsafe fn(&Span<'_>, MaskingKey) -> bool,
        key: MaskingKey,
    ) -> bool {
        debug_assert!(self.len > SHORT);
        // SAFETY: the callers have checked the length, and every available kernel runs here.
        unsafe { mask(&self, key) }
    }

    /// Creates a span from `source` to the end of a buffer, whose length stays unchanged.
    #[inline]
    fn behind(source: &'a [u8], target: &'a mut BytesMut) -> Self {
        target.reserve(source.len());
        let room = target.spare_capacity_mut()[..source.len()].as_mut_ptr();
        Span {
            source: source.as_ptr(),
            target: room.cast(),
            len: source.len(),
            borrowed: PhantomData,
        }
    }
}

/// Masks or unmasks `source` to the end of `target`.
#[inline]
pub(crate) fn append(source: &[u8], target: &mut BytesMut, key: MaskingKey) {
    Span::behind(source, target).mask(key);
    // SAFETY: the buffer has the capacity, and `mask` has written all of it.
    unsafe { target.set_len(target.len() + source.len()) };
}

/// Masks or unmasks `source` to the end of `target`; returns whether all written bytes are ASCII.
#[inline]
pub(crate) fn append_text(source: &[u8], target: &mut BytesMut, key: MaskingKey) -> bool {
    let is_ascii = Span::behind(source, target).mask_text(key);
    // SAFETY: as above.
    unsafe { target.set_len(target.len() + source.len()) };
    is_ascii
}

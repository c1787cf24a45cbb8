//! The algorithm of every kernel but the scalar one, over registers of any width.
//!
//! The ends have no byte-by-byte loop: the first and the last registers of a payload overlap those
//! in between, or each other. All overlapping registers are loaded before any of them is stored,
//! which makes the overlap harmless, even when source and target are the same or overlap.
//!
//! Source and target are raw pointers, so that one function works in place, between buffers and
//! forward within one buffer.
#![expect(unsafe_code, reason = "registers are loaded and stored through raw pointers")]

use super::MaskingKey;
use super::span::Span;

/// A register full of payload.
///
/// The widest ones belong to instruction sets that some processors lack: use them only within
/// functions that enable these.
pub(super) trait Register: Copy {
    /// Length in bytes; a multiple of 4.
    const LEN: usize;

    /// Returns the key, repeated to fill the register.
    fn of_key(key: MaskingKey) -> Self;

    /// # Safety
    ///
    /// `at` is valid for reads of `LEN` bytes, and the processor has the instructions.
    unsafe fn load(at: *const u8) -> Self;

    /// # Safety
    ///
    /// `at` is valid for writes of `LEN` bytes, and the processor has the instructions.
    unsafe fn store(self, at: *mut u8);

    fn xor(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;

    /// Returns whether no byte has its top bit set.
    fn is_ascii(self) -> bool;
}

impl Span<'_> {
    /// # Safety
    ///
    /// `at + R::LEN` is at most `len`; the processor has the instructions of `R`.
    #[inline(always)]
    unsafe fn load<R: Register>(&self, at: usize) -> R {
        debug_assert!(at + R::LEN <= self.len);
        // SAFETY: these bytes lie within the span, whose source is readable.
        unsafe { R::load(self.source.add(at)) }
    }

    /// # Safety
    ///
    /// `at + R::LEN` is at most `len`; the processor has the instructions of `R`.
    #[inline(always)]
    unsafe fn store<R: Register>(&self, at: usize, register: R) {
        debug_assert!(at + R::LEN <= self.len);
        // SAFETY: these bytes lie within the span, whose target is writable.
        unsafe { register.store(self.target.add(at)) }
    }
}

/// Masks payloads of `N` to `2 * N` registers: the first `N` and the last `N`. With `LOOK`, returns
/// whether all is ASCII.
///
/// # Safety
///
/// `span.len` is from `N * R::LEN` to `2 * N * R::LEN`; the processor has the instructions of `R`.
#[inline(always)]
pub(super) unsafe fn ends<R: Register, const N: usize, const LOOK: bool>(
    span: &Span<'_>,
    key: MaskingKey,
) -> bool {
    let tail_at = span.len - N * R::LEN;
    let (head_key, tail_key) = (R::of_key(key), R::of_key(key.rotated(tail_at)));
    // SAFETY: the last register of either group ends at `N * R::LEN` and at `span.len`.
    unsafe {
        let head: [R; N] = std::array::from_fn(|i| span.load::<R>(i * R::LEN).xor(head_key));
        let tail: [R; N] =
            std::array::from_fn(|i| span.load::<R>(tail_at + i * R::LEN).xor(tail_key));
        for (i, register) in head.into_iter().enumerate() {
            span.store(i * R::LEN, register);
        }
        for (i, register) in tail.into_iter().enumerate() {
            span.store(tail_at + i * R::LEN, register);
        }
        !LOOK || (1..N).fold(head[0].or(tail[0]), |all, i| all.or(head[i]).or(tail[i])).is_ascii()
    }
}

/// Masks payloads of more than [`MIDDLE`] registers and one more: one register at the start, groups
/// of [`MIDDLE`] that are stored aligned, and [`MIDDLE`] at the end. With `LOOK`, returns whether
/// all is ASCII.
///
/// # Safety
///
/// `span.len` is more than `(MIDDLE + 1) * R::LEN`; the processor has the instructions of `R`.
#[inline(always)]
pub(super) unsafe fn long<R: Register, const MIDDLE: usize, const LOOK: bool>(
    span: &Span<'_>,
    key: MaskingKey,
) -> bool {
    let group = MIDDLE * R::LEN;
    let tail_at = span.len - group;
    let tail_key = R::of_key(key.rotated(tail_at));
    // Stores that cross cache lines limit a pass over memory; loads that cross them cost half as
    // much.
    let aligned = span.target.addr().wrapping_neg() % R::LEN;
    let middle_key = R::of_key(key.rotated(aligned));
    // SAFETY: the head ends at `R::LEN`, the tail at `span.len`, and the groups between them start
    // at `at < tail_at`, so that they end before `span.len`. A group is stored at or before where
    // it was loaded, so no store reaches what is yet to be loaded; head and tail were loaded before
    // all of them.
    unsafe {
        let head: R = span.load::<R>(0).xor(R::of_key(key));
        let tail: [R; MIDDLE] =
            std::array::from_fn(|i| span.load::<R>(tail_at + i * R::LEN).xor(tail_key));
        let mut all = tail.into_iter().fold(head, R::or);
        let mut at = aligned;
        while at < tail_at {
            let registers: [R; MIDDLE] =
                std::array::from_fn(|i| span.load::<R>(at + i * R::LEN).xor(middle_key));
            for (i, register) in registers.into_iter().enumerate() {
                span.store(at + i * R::LEN, register);
            }
            if LOOK {
                all = registers.into_iter().fold(all, R::or);
            }
            at += group;
        }
        span.store(0, head);
        for (i, register) in tail.into_iter().enumerate() {
            span.store(tail_at + i * R::LEN, register);
        }
        !LOOK || all.is_ascii()
    }
}

/// Masks payloads of up to [`SHORT`](super::SHORT) bytes, in registers that every processor has.
/// With `LOOK`, returns whether all is ASCII.
///
/// # Safety
///
/// `span.len` is at most [`SHORT`](super::SHORT).
#[inline(always)]
pub(super) unsafe fn short<const LOOK: bool>(span: &Span<'_>, key: MaskingKey) -> bool {
    // SAFETY: the registers of every arm fit the lengths that it matches.
    unsafe {
        match span.len {
            33.. => ends::<Baseline, 2, LOOK>(span, key),
            16.. => ends::<Baseline, 1, LOOK>(span, key),
            8.. => ends::<u64, 1, LOOK>(span, key),
            4.. => ends::<u32, 1, LOOK>(span, key),
            _ => tiny(span, key),
        }
    }
}

/// Masks payloads of up to three bytes: the first, the middle and the last one are all of them.
///
/// # Safety
///
/// `span.len` is at most 3.
#[inline(always)]
unsafe fn tiny(span: &Span<'_>, key: MaskingKey) -> bool {
    if span.len == 0 {
        return true;
    }
    let at = [0, span.len / 2, span.len - 1];
    let key = key.to_bytes();
    // SAFETY: all three lie within the span.
    let bytes = unsafe { at.map(|at| span.source.add(at).read() ^ key[at]) };
    for (at, byte) in at.into_iter().zip(bytes) {
        // SAFETY: as above.
        unsafe { span.target.add(at).write(byte) };
    }
    bytes.is_ascii()
}

/// The widest register that every processor of the architecture has.
#[cfg(target_arch = "x86_64")]
pub(super) type Baseline = std::arch::x86_64::__m128i;
#[cfg(not(target_arch = "x86_64"))]
pub(super) type Baseline = u128;

macro_rules! integer_register {
    ($integer:ty) => {
        impl Register for $integer {
            const LEN: usize = size_of::<$integer>();

            #[inline(always)]
            fn of_key(key: MaskingKey) -> Self {
                let every_fourth = <$integer>::MAX / <$integer>::from(u32::MAX);
                <$integer>::from(u32::from_ne_bytes(key.to_bytes())) * every_fourth
            }

            #[inline(always)]
            unsafe fn load(at: *const u8) -> Self {
                // SAFETY: the caller's promise; integers may be read from any address this way.
                unsafe { at.cast::<$integer>().read_unaligned() }
            }

            #[inline(always)]
            unsafe fn store(self, at: *mut u8) {
                // SAFETY: the caller's promise.
                unsafe { at.cast::<$integer>().write_unaligned(self) }
            }

            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }

            #[inline(always)]
            fn or(self, other: Self) -> Self {
                self | other
            }

            #[inline(always)]
            fn is_ascii(self) -> bool {
                self & (<$integer>::MAX / 0xff * 0x80) == 0
            }
        }
    };
}

integer_register!(u32);
integer_register!(u64);
integer_register!(u128);

//! The algorithm in the registers of x86-64: SSE2, which all processors have, AVX2 and AVX-512.
//!
//! AVX-512 means the subset of Ice Lake, Zen 4 and later, including the instructions for UTF-8
//! validation. Earlier processors with a part of it lower their clock for it, and use AVX2.
#![expect(unsafe_code, reason = "registers are loaded and stored through raw pointers")]

use std::arch::x86_64::*;

use super::MaskingKey;
use super::algorithm::{Register, ends, long};
use super::kernel::Kernel;
use super::span::Span;
use crate::utf8;

pub(super) const AVX2: Kernel = Kernel {
    name: "avx2",
    runs_here: || is_x86_feature_detected!("avx2"),
    mask: avx2::<false>,
    mask_text: avx2::<true>,
    is_utf8: |text| simdutf8::basic::from_utf8(text).is_ok(),
};

pub(super) const AVX512: Kernel = Kernel {
    name: "avx512",
    runs_here: utf8::avx512::runs_here,
    mask: avx512::<false>,
    mask_text: avx512::<true>,
    is_utf8: utf8::avx512::is_utf8,
};

/// # Safety
///
/// `span.len` is more than [`SHORT`](super::SHORT).
#[target_feature(enable = "avx2")]
unsafe fn avx2<const LOOK: bool>(span: &Span<'_>, key: MaskingKey) -> bool {
    // SAFETY: each arm matches the lengths that its function requires; the caller has AVX2.
    unsafe {
        match span.len {
            ..=128 => ends::<__m256i, 2, LOOK>(span, key),
            129..=256 => ends::<__m256i, 4, LOOK>(span, key),
            _ => long::<__m256i, 4, LOOK>(span, key),
        }
    }
}

/// # Safety
///
/// `span.len` is more than [`SHORT`](super::SHORT).
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512<const LOOK: bool>(span: &Span<'_>, key: MaskingKey) -> bool {
    // SAFETY: each arm matches the lengths that its function requires; the caller has AVX-512.
    unsafe {
        match span.len {
            ..=128 => ends::<__m512i, 1, LOOK>(span, key),
            129..=256 => ends::<__m512i, 2, LOOK>(span, key),
            257..=512 => ends::<__m512i, 4, LOOK>(span, key),
            _ => long::<__m512i, 2, LOOK>(span, key),
        }
    }
}

macro_rules! x86_register {
    ($register:ty, $set1:ident, $loadu:ident, $storeu:ident, $xor:ident, $or:ident, $is_ascii:expr) => {
        // The functions carry no `target_feature`, and so cannot be inlined into each other. They
        // are always inlined into the kernel above that called them, which enables the
        // instructions.
        impl Register for $register {
            const LEN: usize = size_of::<$register>();

            #[inline(always)]
            fn of_key(key: MaskingKey) -> Self {
                // SAFETY: registers are only made for kernels that this processor runs.
                unsafe { $set1(i32::from_ne_bytes(key.to_bytes())) }
            }

            #[inline(always)]
            unsafe fn load(at: *const u8) -> Self {
                // SAFETY: the caller's promise; the load is an unaligned one.
                unsafe { $loadu(at.cast()) }
            }

            #[inline(always)]
            unsafe fn store(self, at: *mut u8) {
                // SAFETY: the caller's promise; the store is an unaligned one.
                unsafe { $storeu(at.cast(), self) }
            }

            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                // SAFETY: a register exists only where its instructions do.
                unsafe { $xor(self, other) }
            }

            #[inline(always)]
            fn or(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $or(self, other) }
            }

            #[inline(always)]
            fn is_ascii(self) -> bool {
                // SAFETY: as above.
                unsafe { $is_ascii(self) == 0 }
            }
        }
    };
}

x86_register!(
    __m128i,
    _mm_set1_epi32,
    _mm_loadu_si128,
    _mm_storeu_si128,
    _mm_xor_si128,
    _mm_or_si128,
    _mm_movemask_epi8
);
x86_register!(
    __m256i,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_xor_si256,
    _mm256_or_si256,
    _mm256_movemask_epi8
);
x86_register!(
    __m512i,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_xor_si512,
    _mm512_or_si512,
    _mm512_movepi8_mask
);

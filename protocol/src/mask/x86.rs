//! The algorithm with AVX2 and AVX-512 registers.
//!
//! Intrinsics rather than the compiler's own vectors: left to itself it turns the block loop into gathers and
//! scatters under AVX-512 (16 KiB in place on a virtual Intel Xeon: 26 instead of 80 GB/s).
#![expect(unsafe_code, reason = "blocks are taken into registers by transmutation")]

use std::arch::x86_64::{__m256i, __m512i};
use std::arch::x86_64::{_mm256_set1_epi32, _mm256_xor_si256, _mm512_set1_epi32, _mm512_xor_si512};
use std::mem::transmute;

use super::portable::{BLOCK, Between, InPlace, Within, long};
use super::{Kernel, MaskingKey};

pub(super) const AVX2: Kernel = Kernel {
    name: "avx2",
    runs_here: || is_x86_feature_detected!("avx2"),
    in_place: avx2_in_place,
    copy: avx2_copy,
    shift: avx2_shift,
};

pub(super) const AVX512: Kernel = Kernel {
    name: "avx512",
    runs_here: || is_x86_feature_detected!("avx512f"),
    in_place: avx512_in_place,
    copy: avx512_copy,
    shift: avx512_shift,
};

// The closures below inherit the instruction set of the function they stand in; a function's name would not.

#[target_feature(enable = "avx2")]
fn avx2_in_place(buf: &mut [u8], key: MaskingKey) {
    long(&mut InPlace(buf), key, |block, key| avx2_xor(block, key));
}

#[target_feature(enable = "avx2")]
fn avx2_copy(src: &[u8], dst: &mut [u8], key: MaskingKey) {
    long(&mut Between(src, dst), key, |block, key| avx2_xor(block, key));
}

#[target_feature(enable = "avx2")]
fn avx2_shift(buf: &mut [u8], distance: usize, key: MaskingKey) {
    long(&mut Within { buf, distance }, key, |block, key| avx2_xor(block, key));
}

#[target_feature(enable = "avx2")]
#[inline]
fn avx2_xor(block: [u8; BLOCK], key: MaskingKey) -> [u8; BLOCK] {
    let key = _mm256_set1_epi32(i32::from_ne_bytes(key.0));
    // SAFETY: both types are 64 bytes without padding, and every pattern of bits is a value of both.
    let [low, high] = unsafe { transmute::<[u8; BLOCK], [__m256i; 2]>(block) };
    let block = [_mm256_xor_si256(low, key), _mm256_xor_si256(high, key)];
    // SAFETY: as above.
    unsafe { transmute::<[__m256i; 2], [u8; BLOCK]>(block) }
}

#[target_feature(enable = "avx512f")]
fn avx512_in_place(buf: &mut [u8], key: MaskingKey) {
    long(&mut InPlace(buf), key, |block, key| avx512_xor(block, key));
}

#[target_feature(enable = "avx512f")]
fn avx512_copy(src: &[u8], dst: &mut [u8], key: MaskingKey) {
    long(&mut Between(src, dst), key, |block, key| avx512_xor(block, key));
}

#[target_feature(enable = "avx512f")]
fn avx512_shift(buf: &mut [u8], distance: usize, key: MaskingKey) {
    long(&mut Within { buf, distance }, key, |block, key| avx512_xor(block, key));
}

#[target_feature(enable = "avx512f")]
#[inline]
fn avx512_xor(block: [u8; BLOCK], key: MaskingKey) -> [u8; BLOCK] {
    let key = _mm512_set1_epi32(i32::from_ne_bytes(key.0));
    // SAFETY: both types are 64 bytes without padding, and every pattern of bits is a value of both.
    let block = unsafe { transmute::<[u8; BLOCK], __m512i>(block) };
    // SAFETY: as above.
    unsafe { transmute::<__m512i, [u8; BLOCK]>(_mm512_xor_si512(block, key)) }
}

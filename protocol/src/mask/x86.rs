//! The portable code compiled for AVX2 and AVX-512, which vectorises it as well as intrinsics would.

use super::portable::{Between, InPlace, Within, long};
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
    runs_here: || is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
    in_place: avx512_in_place,
    copy: avx512_copy,
    shift: avx512_shift,
};

#[target_feature(enable = "avx2")]
fn avx2_in_place(buf: &mut [u8], key: MaskingKey) {
    long(&mut InPlace(buf), key);
}

#[target_feature(enable = "avx2")]
fn avx2_copy(src: &[u8], dst: &mut [u8], key: MaskingKey) {
    long(&mut Between(src, dst), key);
}

#[target_feature(enable = "avx2")]
fn avx2_shift(buf: &mut [u8], distance: usize, key: MaskingKey) {
    long(&mut Within { buf, distance }, key);
}

#[target_feature(enable = "avx512f,avx512bw")]
fn avx512_in_place(buf: &mut [u8], key: MaskingKey) {
    long(&mut InPlace(buf), key);
}

#[target_feature(enable = "avx512f,avx512bw")]
fn avx512_copy(src: &[u8], dst: &mut [u8], key: MaskingKey) {
    long(&mut Between(src, dst), key);
}

#[target_feature(enable = "avx512f,avx512bw")]
fn avx512_shift(buf: &mut [u8], distance: usize, key: MaskingKey) {
    long(&mut Within { buf, distance }, key);
}

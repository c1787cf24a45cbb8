//! A byte at a time, as RFC 6455 5.3 writes it down: the kernel that the others are checked against.

use super::{Kernel, MaskingKey};

pub(super) const KERNEL: Kernel = Kernel { name: "scalar", runs_here: || true, in_place, copy, shift };

fn in_place(buf: &mut [u8], key: MaskingKey) {
    for (i, byte) in buf.iter_mut().enumerate() {
        *byte ^= key.0[i & 3];
    }
}

fn copy(src: &[u8], dst: &mut [u8], key: MaskingKey) {
    for (i, (from, to)) in src.iter().zip(dst).enumerate() {
        *to = from ^ key.0[i & 3];
    }
}

fn shift(buf: &mut [u8], distance: usize, key: MaskingKey) {
    for i in 0..buf.len() - distance {
        buf[i] = buf[i + distance] ^ key.0[i & 3];
    }
}

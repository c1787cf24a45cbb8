//! The algorithm of every kernel but the scalar one, and the kernel that does it in 64-bit words.
//!
//! Nothing is done byte by byte at the ends: the first and the last block may overlap. The last one is loaded
//! before anything is stored, which makes the overlap harmless, also when source and destination are the same
//! or overlap.

use super::{Kernel, MaskingKey};

pub(super) const KERNEL: Kernel = Kernel { name: "portable", runs_here: || true, in_place, copy, shift };

/// Up to this many bytes are two loads and two stores, done without asking for a kernel.
pub(super) const SHORT: usize = 64;

/// Bytes of a block in [`long`]: one cache line, one AVX-512 register.
pub(super) const BLOCK: usize = 64;

/// Where a payload is read from and written to. Both slices are equally long.
pub(super) trait Place {
    fn source(&self) -> &[u8];
    fn target(&mut self) -> &mut [u8];
}

/// Source and target are the same.
pub(super) struct InPlace<'a>(pub(super) &'a mut [u8]);

/// From one buffer to another.
pub(super) struct Between<'a>(pub(super) &'a [u8], pub(super) &'a mut [u8]);

/// From `distance` to the start of one buffer.
pub(super) struct Within<'a> {
    pub(super) buf: &'a mut [u8],
    pub(super) distance: usize,
}

impl Place for InPlace<'_> {
    #[inline(always)]
    fn source(&self) -> &[u8] {
        self.0
    }
    #[inline(always)]
    fn target(&mut self) -> &mut [u8] {
        self.0
    }
}

impl Place for Between<'_> {
    #[inline(always)]
    fn source(&self) -> &[u8] {
        self.0
    }
    #[inline(always)]
    fn target(&mut self) -> &mut [u8] {
        self.1
    }
}

impl Place for Within<'_> {
    #[inline(always)]
    fn source(&self) -> &[u8] {
        &self.buf[self.distance..]
    }
    #[inline(always)]
    fn target(&mut self) -> &mut [u8] {
        let len = self.buf.len() - self.distance;
        &mut self.buf[..len]
    }
}

fn in_place(buf: &mut [u8], key: MaskingKey) {
    long(&mut InPlace(buf), key, xor);
}

fn copy(src: &[u8], dst: &mut [u8], key: MaskingKey) {
    long(&mut Between(src, dst), key, xor);
}

fn shift(buf: &mut [u8], distance: usize, key: MaskingKey) {
    long(&mut Within { buf, distance }, key, xor);
}

/// Payloads of more than [`SHORT`] bytes; `xor` does one block in the widest registers there are.
#[inline(always)]
pub(super) fn long(
    place: &mut impl Place,
    key: MaskingKey,
    xor: impl Fn([u8; BLOCK], MaskingKey) -> [u8; BLOCK],
) {
    let len = place.source().len();
    let Some(&tail) = place.source().last_chunk() else { return short(place, key) };
    let tail = xor(tail, key.rotated(len));
    let mut at = 0;
    // A block is stored at or before where it was loaded, so no store reaches a block that is yet to be
    // loaded.
    while at < len - BLOCK {
        let Some(&block) = place.source()[at..].first_chunk() else { break };
        let Some(target) = place.target()[at..].first_chunk_mut() else { break };
        *target = xor(block, key);
        at += BLOCK;
    }
    if let Some(target) = place.target().last_chunk_mut() {
        *target = tail;
    }
}

/// Payloads of up to [`SHORT`] bytes.
#[inline(always)]
pub(super) fn short(place: &mut impl Place, key: MaskingKey) {
    match place.source().len() {
        33.. => two_blocks::<32>(place, key),
        16.. => two_blocks::<16>(place, key),
        8.. => two_blocks::<8>(place, key),
        4.. => two_blocks::<4>(place, key),
        0 => {}
        len => {
            // One to three bytes: the first, the middle and the last one are all of them.
            let at = [0, len / 2, len - 1];
            let bytes = at.map(|at| place.source()[at] ^ key.0[at]);
            for (at, byte) in at.into_iter().zip(bytes) {
                place.target()[at] = byte;
            }
        }
    }
}

/// The first and the last `N` bytes of a payload that has from `N` to `2 * N`.
#[inline(always)]
fn two_blocks<const N: usize>(place: &mut impl Place, key: MaskingKey) {
    let source = place.source();
    let (Some(&head), Some(&tail)) = (source.first_chunk::<N>(), source.last_chunk::<N>()) else { return };
    // N is a multiple of 4, so the tail's phase is that of the end.
    let (head, tail) = (xor(head, key), xor(tail, key.rotated(source.len())));
    let target = place.target();
    if let Some(first) = target.first_chunk_mut() {
        *first = head;
    }
    if let Some(last) = target.last_chunk_mut() {
        *last = tail;
    }
}

/// One block, whose length is 4 or a multiple of 8, in registers.
#[inline(always)]
fn xor<const N: usize>(mut block: [u8; N], key: MaskingKey) -> [u8; N] {
    let word = u32::from_ne_bytes(key.0);
    let double = u64::from(word) << 32 | u64::from(word);
    let (doubles, rest) = block.as_chunks_mut::<8>();
    for bytes in doubles {
        *bytes = (u64::from_ne_bytes(*bytes) ^ double).to_ne_bytes();
    }
    if let Some(bytes) = rest.first_chunk_mut() {
        *bytes = (u32::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    block
}

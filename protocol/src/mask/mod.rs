//! Masking and unmasking (RFC 6455 5.3): byte `i` of a payload is XORed with byte `i % 4` of the key, so that
//! doing it twice gives the payload back.
//!
//! One algorithm, several instruction sets. Payloads of up to 64 bytes are done right here with overlapping
//! loads from both ends; longer ones go through the kernel that was chosen once for this machine. The
//! environment variable `SPARRING_KERNEL` overrides the choice (`scalar`, `portable`, `avx2`, `avx512`); a
//! name that is unknown or that the processor cannot run is passed over, and [`kernel`] tells what was taken.

mod portable;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;
use std::sync::OnceLock;

/// The four bytes that a payload is masked with, in wire order (RFC 6455 5.3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MaskingKey([u8; 4]);

impl MaskingKey {
    /// The key that changes nothing.
    pub(crate) const ZERO: MaskingKey = MaskingKey([0; 4]);

    /// A key from its bytes in wire order.
    #[inline]
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        MaskingKey(bytes)
    }

    /// The key's bytes in wire order.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0
    }

    /// The key for the part of the payload that starts `n` bytes further on.
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

/// Masks or unmasks where the payload lies.
#[inline]
pub fn in_place(buf: &mut [u8], key: MaskingKey) {
    if buf.len() <= portable::SHORT {
        portable::short(&mut portable::InPlace(buf), key);
    } else {
        chosen().in_place(buf, key);
    }
}

/// Masks or unmasks from `src` to `dst`.
///
/// # Panics
///
/// When the lengths differ.
#[inline]
pub fn copy(src: &[u8], dst: &mut [u8], key: MaskingKey) {
    assert_eq!(src.len(), dst.len(), "source and destination differ in length");
    if src.len() <= portable::SHORT {
        portable::short(&mut portable::Between(src, dst), key);
    } else {
        chosen().copy(src, dst, key);
    }
}

/// Masks or unmasks `buf[src]` while moving it forward, to where `to` says. Source and destination may
/// overlap, and may be the same. What lies beyond the destination, up to the source's end, is left as it
/// falls.
///
/// # Panics
///
/// When `to` is beyond the start of `src`, or `src` is not within `buf`.
#[inline]
pub fn shift(buf: &mut [u8], src: Range<usize>, to: usize, key: MaskingKey) {
    assert!(to <= src.start, "a shift moves forward only");
    // Cut to what is touched: everything below then starts at offset 0 or at the distance.
    let buf = &mut buf[to..src.end];
    let distance = src.start - to;
    if src.len() <= portable::SHORT {
        portable::short(&mut portable::Within { buf, distance }, key);
    } else {
        chosen().shift(buf, distance, key);
    }
}

/// The name of the kernel in use: `avx512`, `avx2`, `portable` or `scalar`.
pub fn kernel() -> &'static str {
    chosen().name
}

/// One instruction set's way to mask payloads of more than [`portable::SHORT`] bytes.
///
/// The functions are unsafe to call where `runs_here` is false; [`available`] hands out no such kernel.
struct Kernel {
    name: &'static str,
    runs_here: fn() -> bool,
    in_place: unsafe fn(&mut [u8], MaskingKey),
    copy: unsafe fn(&[u8], &mut [u8], MaskingKey),
    shift: unsafe fn(&mut [u8], usize, MaskingKey),
}

/// Every kernel of this architecture, the best first.
static KERNELS: &[Kernel] = &[
    #[cfg(target_arch = "x86_64")]
    x86::AVX512,
    #[cfg(target_arch = "x86_64")]
    x86::AVX2,
    portable::KERNEL,
    scalar::KERNEL,
];

/// The kernels that this processor runs, the best first.
fn available() -> impl Iterator<Item = &'static Kernel> {
    KERNELS.iter().filter(|kernel| (kernel.runs_here)())
}

/// The kernel in use, chosen at the first call.
#[inline]
fn chosen() -> &'static Kernel {
    static CHOSEN: OnceLock<&Kernel> = OnceLock::new();
    CHOSEN.get_or_init(|| choose(std::env::var("SPARRING_KERNEL").ok().as_deref()))
}

/// The kernel asked for, else the best.
fn choose(asked_for: Option<&str>) -> &'static Kernel {
    available()
        .find(|kernel| Some(kernel.name) == asked_for)
        .or_else(|| available().next())
        .expect("the portable kernel runs everywhere")
}

#[expect(unsafe_code, reason = "kernels for instruction sets that not every processor has")]
impl Kernel {
    #[inline]
    fn in_place(&self, buf: &mut [u8], key: MaskingKey) {
        // SAFETY: `available` is the only source of kernels, and it gives those whose instructions this
        // processor has.
        unsafe { (self.in_place)(buf, key) }
    }

    /// `src` and `dst` are equally long.
    #[inline]
    fn copy(&self, src: &[u8], dst: &mut [u8], key: MaskingKey) {
        // SAFETY: as above.
        unsafe { (self.copy)(src, dst, key) }
    }

    /// Moves `buf[distance..]` to the start of `buf`.
    #[inline]
    fn shift(&self, buf: &mut [u8], distance: usize, key: MaskingKey) {
        // SAFETY: as above.
        unsafe { (self.shift)(buf, distance, key) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: MaskingKey = MaskingKey([0x37, 0xfa, 0x21, 0x3d]);

    /// The oracle: RFC 6455 5.3, word for word.
    fn oracle(payload: &[u8], key: MaskingKey) -> Vec<u8> {
        payload.iter().enumerate().map(|(i, byte)| byte ^ key.0[i % 4]).collect()
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 131 + (i >> 8) * 17) as u8).collect()
    }

    /// Lengths around every size at which an algorithm turns, and some long ones.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..=300).chain([511, 1000, 1023, 1024, 1025, 4096, 16_411])
    }

    #[test]
    fn test_rfc6455_5_7_masked_hello() {
        let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        in_place(&mut payload, KEY);
        assert_eq!(&payload, b"Hello");
    }

    #[test]
    fn test_rotated_key_fits_the_rest_of_the_payload() {
        let masked = oracle(&bytes(40), KEY);
        for n in 0..40 {
            assert_eq!(oracle(&masked[n..], KEY.rotated(n)), bytes(40)[n..], "{n}");
        }
    }

    #[test]
    fn test_in_place_against_the_oracle_at_every_length_alignment_and_phase() {
        for len in lengths() {
            for alignment in 0..64 {
                let key = KEY.rotated(alignment);
                let mut buf = bytes(alignment + len + 8);
                let before = buf.clone();
                let payload = alignment..alignment + len;
                in_place(&mut buf[payload.clone()], key);
                assert_eq!(
                    buf[payload.clone()],
                    oracle(&before[payload.clone()], key),
                    "{len} at {alignment}"
                );
                assert_eq!(buf[..alignment], before[..alignment]);
                assert_eq!(buf[payload.end..], before[payload.end..]);
            }
        }
    }

    #[test]
    fn test_every_kernel_masks_in_place_as_the_oracle_does() {
        for kernel in available() {
            for len in lengths().filter(|&len| len > portable::SHORT) {
                for alignment in [0, 1, 3, 6, 14, 31, 33, 63] {
                    let key = KEY.rotated(alignment);
                    let mut buf = bytes(alignment + len);
                    let expected = oracle(&buf[alignment..], key);
                    kernel.in_place(&mut buf[alignment..], key);
                    assert_eq!(buf[alignment..], expected, "{} {len} at {alignment}", kernel.name);
                }
            }
        }
    }

    #[test]
    fn test_every_kernel_copies_as_the_oracle_does() {
        for len in lengths() {
            for alignment in [0, 1, 6, 8, 14, 63] {
                let src = bytes(alignment + len);
                let src = &src[alignment..];
                let key = KEY.rotated(len);
                let mut dst = vec![0; len];
                copy(src, &mut dst, key);
                assert_eq!(dst, oracle(src, key), "{len} at {alignment}");
                for kernel in available().filter(|_| len > portable::SHORT) {
                    let mut dst = vec![0; len];
                    kernel.copy(src, &mut dst, key);
                    assert_eq!(dst, oracle(src, key), "{} {len} at {alignment}", kernel.name);
                }
            }
        }
    }

    #[test]
    fn test_shift_against_the_oracle_at_every_length_and_distance() {
        for len in lengths() {
            let distances = (0..=if len <= 300 { 300 } else { 70 }).chain([len, len + 1, 2 * len]);
            for distance in distances {
                check_shift(len, distance, 5, shift);
            }
        }
    }

    #[test]
    fn test_every_kernel_shifts_as_the_oracle_does() {
        for kernel in available() {
            for len in lengths().filter(|&len| len > portable::SHORT) {
                for distance in [0, 1, 4, 7, 8, 12, 31, 32, 33, 63, 64, 65, 100, len - 1, len, len + 1] {
                    check_shift(len, distance, 2, |buf, src, to, key| {
                        kernel.shift(&mut buf[to..src.end], src.start - to, key);
                    });
                }
            }
        }
    }

    /// Shifts a payload of `len` bytes by `distance`, with `to` bytes before the destination and some beyond
    /// the source.
    fn check_shift(
        len: usize,
        distance: usize,
        to: usize,
        shift: impl Fn(&mut [u8], Range<usize>, usize, MaskingKey),
    ) {
        let src = to + distance..to + distance + len;
        let mut buf = bytes(src.end + 9);
        let before = buf.clone();
        let key = KEY.rotated(distance);
        shift(&mut buf, src.clone(), to, key);
        assert_eq!(buf[to..to + len], oracle(&before[src.clone()], key), "{len} bytes by {distance}");
        assert_eq!(buf[..to], before[..to], "before the destination");
        assert_eq!(buf[src.end..], before[src.end..], "beyond the source");
    }

    #[test]
    #[should_panic(expected = "forward only")]
    fn test_shift_backward_panics() {
        shift(&mut [0; 8], 2..4, 3, KEY);
    }

    #[test]
    #[should_panic(expected = "differ in length")]
    fn test_copy_of_unequal_lengths_panics() {
        copy(&[0; 3], &mut [0; 4], KEY);
    }

    #[test]
    fn test_kernel_can_be_asked_for_by_name_and_unknown_names_give_the_best() {
        for kernel in available() {
            assert_eq!(choose(Some(kernel.name)).name, kernel.name);
        }
        let best = available().next().unwrap().name;
        assert_eq!(choose(None).name, best);
        assert_eq!(choose(Some("mmx")).name, best);
        assert!(available().any(|kernel| kernel.name == super::kernel()));
    }

    proptest! {
        #[test]
        fn test_random_payloads_cut_anywhere(
            payload in prop::collection::vec(any::<u8>(), 0..400),
            key in any::<[u8; 4]>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let key = MaskingKey::from_bytes(key);
            let cut = cut.index(payload.len() + 1);
            let mut buf = payload.clone();
            let (head, tail) = buf.split_at_mut(cut);
            in_place(head, key);
            in_place(tail, key.rotated(cut));
            prop_assert_eq!(&buf, &oracle(&payload, key));
            in_place(&mut buf, key);
            prop_assert_eq!(buf, payload);
        }
    }
}

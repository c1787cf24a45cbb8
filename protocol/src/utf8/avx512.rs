//! UTF-8 validation in AVX-512 registers.
//!
//! Every byte is compared with the three bytes before it, which are loaded from memory instead of
//! being shifted together from two registers: at this width a core has only one unit for shuffles.
//! Two rules suffice:
//!
//! * A lead byte is followed by a continuation in the range that this lead allows. A table of all
//!   64 lead bytes has the classes that each rejects, one of 16 entries the class of the next byte.
//!   Both are bit sets, whose AND is the fault.
//! * A continuation after a byte that is not a lead must be required by a lead two or three bytes
//!   earlier, and must stand where it is required.
//!
//! John Keiser and Daniel Lemire had the idea of deciding by AND of bit sets from tables, in
//! "Validating UTF-8 In Less Than One Instruction Per Byte" (2020). simdutf8 implements it for
//! narrower registers with three tables of 16 entries, because wider look-ups (VBMI) are newer.
//! This one is twice as fast here, for mixed scripts in 4 KiB.
#![expect(
    unsafe_code,
    reason = "loads before and behind the text are masked, which slices cannot say"
)]

use std::arch::x86_64::*;

/// ASCII, or another lead.
const NO_CONTINUATION: u8 = 1 << 0;
/// A continuation from 0x80 to 0x8f.
const LOWEST: u8 = 1 << 1;
/// From 0x90 to 0x9f.
const LOW: u8 = 1 << 2;
/// From 0xa0 to 0xbf.
const HIGH: u8 = 1 << 3;
/// A continuation, whatever its range. This is the top bit, because a comparison leaves its result
/// there.
const CONTINUATION: u8 = 1 << 7;

/// Class of a byte, by its high four bits.
const KIND: [u8; 16] = {
    let mut table = [NO_CONTINUATION; 16];
    table[0x8] = CONTINUATION | LOWEST;
    table[0x9] = CONTINUATION | LOW;
    table[0xa] = CONTINUATION | HIGH;
    table[0xb] = CONTINUATION | HIGH;
    table
};

/// Classes that must not follow a lead byte, by its low six bits (Unicode, table 3-7).
const REFUSED: [u8; 64] = {
    const ALL: u8 = NO_CONTINUATION | LOWEST | LOW | HIGH;
    let mut table = [NO_CONTINUATION; 64];
    // Overlong forms of two bytes.
    table[0x00] = ALL;
    table[0x01] = ALL;
    // 0xe0 and 0xf0: overlong forms of three and four bytes.
    table[0x20] = NO_CONTINUATION | LOWEST | LOW;
    table[0x30] = NO_CONTINUATION | LOWEST;
    // 0xed: surrogates.
    table[0x2d] = NO_CONTINUATION | HIGH;
    // From 0xf4 on: beyond the last character.
    table[0x34] = NO_CONTINUATION | LOW | HIGH;
    let mut lead = 0x35;
    while lead < 0x40 {
        table[lead] = ALL;
        lead += 1;
    }
    table
};

/// Bytes of a register.
const LEN: usize = 64;
/// Registers between two checks for ASCII.
const GROUP: usize = 4;

/// Returns whether the processor can run [`is_utf8`].
pub(crate) fn runs_here() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("gfni")
}

/// Returns whether this is a UTF-8 string.
///
/// # Safety
///
/// The processor must pass [`runs_here`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
pub(crate) unsafe fn is_utf8(text: &[u8]) -> bool {
    let mut validator = Validator::new();
    let mut at = 0;
    if text.len() >= LEN {
        // SAFETY: the masks leave out what lies before the text, and the registers end within it.
        unsafe { validator.read(text.as_ptr(), [!0, !0 << 1, !0 << 2, !0 << 3]) };
        // The rest is aligned, unless fewer than three bytes would lie before it.
        let aligned = LEN - text.as_ptr().addr() % LEN;
        at = if aligned >= 3 { aligned } else { LEN };
    }
    while at + GROUP * LEN <= text.len() {
        // SAFETY: three bytes at least lie before `at`, and the group ends within the text.
        unsafe { validator.read_group(text.as_ptr().add(at)) };
        at += GROUP * LEN;
    }
    while at + LEN <= text.len() {
        // SAFETY: as above.
        unsafe { validator.read(text.as_ptr().add(at), [!0; 4]) };
        at += LEN;
    }
    // The rest, perhaps empty: the zeros behind it reveal a character that is cut at the end.
    let rest = !(!0 << (text.len() - at));
    let before = if at == 0 { [0, 0, 0] } else { [0b1, 0b11, 0b111] };
    let masks = [rest, rest << 1 | before[0], rest << 2 | before[1], rest << 3 | before[2]];
    // SAFETY: the masks leave out what lies behind the text, and before it.
    unsafe { validator.read(text.as_ptr().add(at), masks) };
    validator.is_valid()
}

struct Validator {
    refused: __m512i,
    kind: __m512i,
    fault: __m512i,
}

impl Validator {
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    #[inline]
    fn new() -> Self {
        // SAFETY: each table is as long as the register that it is loaded into.
        let (refused, kind) = unsafe {
            (_mm512_loadu_si512(REFUSED.as_ptr().cast()), _mm_loadu_si128(KIND.as_ptr().cast()))
        };
        // The shorter table is repeated in every lane of 16 bytes, since a look-up stays within a
        // lane.
        Validator { refused, kind: _mm512_broadcast_i32x4(kind), fault: _mm512_setzero_si512() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    #[inline]
    fn is_valid(&self) -> bool {
        _mm512_test_epi8_mask(self.fault, self.fault) == 0
    }

    /// Reads the register at `at`. `masks[n]` selects the bytes of the text in the register that
    /// starts `n` bytes before it.
    ///
    /// # Safety
    ///
    /// Every byte that its mask selects is valid for reads.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    #[inline]
    unsafe fn read(&mut self, at: *const u8, masks: [u64; 4]) {
        let bytes = |back: usize| {
            // SAFETY: bytes that the mask leaves out are not accessed, by the instruction's
            // definition.
            unsafe { _mm512_maskz_loadu_epi8(masks[back], at.wrapping_sub(back).cast()) }
        };
        self.check(bytes(0), bytes(1), bytes(2), bytes(3));
    }

    /// Reads [`GROUP`] registers.
    ///
    /// # Safety
    ///
    /// The registers, and the three bytes before them, are valid for reads.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    #[inline]
    unsafe fn read_group(&mut self, at: *const u8) {
        // SAFETY: the caller's promise; the registers start at most three bytes before `at`.
        let bytes =
            |i: usize, back: usize| unsafe { _mm512_loadu_si512(at.add(i * LEN).sub(back).cast()) };
        let any = (1..GROUP).fold(_mm512_or_si512(bytes(0, 0), bytes(0, 3)), |any, i| {
            _mm512_or_si512(any, bytes(i, 0))
        });
        if _mm512_movepi8_mask(any) == 0 {
            return;
        }
        for i in 0..GROUP {
            self.check(bytes(i, 0), bytes(i, 1), bytes(i, 2), bytes(i, 3));
        }
    }

    /// Checks `bytes` and their predecessors; `third` are the bytes that come three before those of
    /// `bytes`, and so on.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    #[inline]
    fn check(&mut self, bytes: __m512i, first: __m512i, second: __m512i, third: __m512i) {
        let every = |byte: u8| _mm512_set1_epi8(byte.cast_signed());
        // After a lead its table decides; after any other byte a continuation is wrong.
        let is_lead = _mm512_cmpge_epu8_mask(first, every(0xc0));
        let refused =
            _mm512_mask_permutexvar_epi8(every(CONTINUATION), is_lead, first, self.refused);
        let kind = _mm512_shuffle_epi8(self.kind, high_half(bytes));
        // The top bit is set where a lead of three or four bytes requires a continuation, which is
        // valid there.
        let of_three = _mm512_subs_epu8(second, every(0xe0 - CONTINUATION));
        let of_four = _mm512_subs_epu8(third, every(0xf0 - CONTINUATION));
        let asked_for = _mm512_and_si512(_mm512_or_si512(of_three, of_four), every(CONTINUATION));
        let fault = _mm512_xor_si512(_mm512_and_si512(kind, refused), asked_for);
        self.fault = _mm512_or_si512(self.fault, fault);
    }
}

/// Returns the high four bits of every byte in the place of its low ones. A product of bit matrices
/// replaces a shift, which does not work on bytes, and a mask.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn high_half(bytes: __m512i) -> __m512i {
    const SHIFT_BY_FOUR: i64 = 0x1020_4080_0000_0000;
    _mm512_gf2p8affine_epi64_epi8::<0>(bytes, _mm512_set1_epi64(SHIFT_BY_FOUR))
}

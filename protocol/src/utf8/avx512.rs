//! UTF-8 validation in AVX-512 registers.
//!
//! Every byte is looked at together with the three before it, which are loaded from where they lie instead of being shifted
//! together from two registers: shuffles are what a core has only one unit for at this width. It takes two rules:
//!
//! * What follows a lead byte is a continuation, and one in the range that this lead allows. A table of all 64 lead bytes
//!   says what each refuses, one of 16 entries what kind the byte behind it is; both are bit sets, whose AND is the fault.
//! * A continuation that follows no lead stands where a lead two or three bytes earlier asks for one, and nowhere else.
//!
//! The idea of deciding by AND of looked-up bit sets is that of John Keiser and Daniel Lemire, "Validating UTF-8 In Less Than
//! One Instruction Per Byte" (2020), which simdutf8 implements for narrower registers: three tables of 16 entries there,
//! because wider look-ups (VBMI) are newer. This one is twice as fast here, for mixed scripts in 4 KiB.
#![expect(unsafe_code, reason = "loads before and behind the text are masked, which slices cannot say")]

use std::arch::x86_64::*;

/// ASCII, or another lead.
const NO_CONTINUATION: u8 = 1 << 0;
/// A continuation from 0x80 to 0x8f.
const LOWEST: u8 = 1 << 1;
/// From 0x90 to 0x9f.
const LOW: u8 = 1 << 2;
/// From 0xa0 to 0xbf.
const HIGH: u8 = 1 << 3;
/// A continuation, whatever its range. The top bit, because a comparison leaves its result there.
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
    // Two bytes for what one could say.
    table[0x00] = ALL;
    table[0x01] = ALL;
    // 0xe0 and 0xf0: three and four bytes for what fewer could say.
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
/// Registers between two looks at whether all is ASCII.
const GROUP: usize = 4;

/// The processor can run [`is_utf8`].
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
/// [`runs_here`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
pub(crate) unsafe fn is_utf8(text: &[u8]) -> bool {
    let mut validator = Validator::new();
    let mut at = 0;
    if text.len() >= LEN {
        // SAFETY: the masks leave out what lies before the text, and the registers end within it.
        unsafe { validator.read(text.as_ptr(), [!0, !0 << 1, !0 << 2, !0 << 3]) };
        // What follows is aligned, unless fewer than three bytes would lie before it.
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
    // The rest, perhaps empty: the zeros behind it show a character that is cut at the end.
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
        let (refused, kind) =
            unsafe { (_mm512_loadu_si512(REFUSED.as_ptr().cast()), _mm_loadu_si128(KIND.as_ptr().cast())) };
        // The shorter one in every lane of 16 bytes, within which it is looked up.
        Validator { refused, kind: _mm512_broadcast_i32x4(kind), fault: _mm512_setzero_si512() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    #[inline]
    fn is_valid(&self) -> bool {
        _mm512_test_epi8_mask(self.fault, self.fault) == 0
    }

    /// Reads the register at `at`; `masks[n]` says which bytes of the register that starts `n` before it are the text's.
    ///
    /// # Safety
    ///
    /// Every byte that its mask does not leave out is valid for reads.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    #[inline]
    unsafe fn read(&mut self, at: *const u8, masks: [u64; 4]) {
        let bytes = |back: usize| {
            // SAFETY: bytes that the mask leaves out are not accessed, by the instruction's definition.
            unsafe { _mm512_maskz_loadu_epi8(masks[back], at.wrapping_sub(back).cast()) }
        };
        self.check(bytes(0), bytes(1), bytes(2), bytes(3));
    }

    /// Reads [`GROUP`] registers.
    ///
    /// # Safety
    ///
    /// They, and the three bytes before them, are valid for reads.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    #[inline]
    unsafe fn read_group(&mut self, at: *const u8) {
        // SAFETY: the caller's promise; the registers start at most three bytes before `at`.
        let bytes = |i: usize, back: usize| unsafe { _mm512_loadu_si512(at.add(i * LEN).sub(back).cast()) };
        let any = (1..GROUP)
            .fold(_mm512_or_si512(bytes(0, 0), bytes(0, 3)), |any, i| _mm512_or_si512(any, bytes(i, 0)));
        if _mm512_movepi8_mask(any) == 0 {
            return;
        }
        for i in 0..GROUP {
            self.check(bytes(i, 0), bytes(i, 1), bytes(i, 2), bytes(i, 3));
        }
    }

    /// `third` are the bytes that come three before those of `bytes`, and so on.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    #[inline]
    fn check(&mut self, bytes: __m512i, first: __m512i, second: __m512i, third: __m512i) {
        let every = |byte: u8| _mm512_set1_epi8(byte.cast_signed());
        // Behind a lead what its table refuses, behind anything else a continuation.
        let is_lead = _mm512_cmpge_epu8_mask(first, every(0xc0));
        let refused = _mm512_mask_permutexvar_epi8(every(CONTINUATION), is_lead, first, self.refused);
        let kind = _mm512_shuffle_epi8(self.kind, high_half(bytes));
        // The top bit is set where a lead of three or four bytes asks for a continuation: there it is right.
        let of_three = _mm512_subs_epu8(second, every(0xe0 - CONTINUATION));
        let of_four = _mm512_subs_epu8(third, every(0xf0 - CONTINUATION));
        let asked_for = _mm512_and_si512(_mm512_or_si512(of_three, of_four), every(CONTINUATION));
        let fault = _mm512_xor_si512(_mm512_and_si512(kind, refused), asked_for);
        self.fault = _mm512_or_si512(self.fault, fault);
    }
}

/// The high four bits of every byte, in the place of its low ones: a product of bit matrices in place of a shift, which does
/// not know bytes, and a mask.
#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn high_half(bytes: __m512i) -> __m512i {
    const SHIFT_BY_FOUR: i64 = 0x1020_4080_0000_0000;
    _mm512_gf2p8affine_epi64_epi8::<0>(bytes, _mm512_set1_epi64(SHIFT_BY_FOUR))
}

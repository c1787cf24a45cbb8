//! The kernel for any processor of the architecture: it uses only registers that all of them have.
#![expect(unsafe_code, reason = "a kernel works on raw pointers")]

use super::MaskingKey;
use super::algorithm::{Baseline, Register, ends, long};
use super::kernel::Kernel;
use super::span::Span;

pub(super) const KERNEL: Kernel = Kernel {
    name: "portable",
    runs_here: || true,
    mask: mask::<false>,
    mask_text: mask::<true>,
    is_utf8: |text| simdutf8::basic::from_utf8(text).is_ok(),
};

/// # Safety
///
/// `span.len` is more than [`SHORT`](super::SHORT).
unsafe fn mask<const LOOK: bool>(span: &Span<'_>, key: MaskingKey) -> bool {
    const { assert!(Baseline::LEN == 16) };
    // SAFETY: each arm matches the lengths that its function requires.
    unsafe {
        match span.len {
            ..=128 => ends::<Baseline, 4, LOOK>(span, key),
            _ => long::<Baseline, 4, LOOK>(span, key),
        }
    }
}

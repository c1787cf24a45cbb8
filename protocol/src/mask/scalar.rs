//! A byte at a time, as RFC 6455 5.3 writes it down: the kernel that the others are checked against.
#![expect(unsafe_code, reason = "a kernel works on raw pointers")]

use super::MaskingKey;
use super::kernel::Kernel;
use super::span::Span;

pub(super) const KERNEL: Kernel = Kernel {
    name: "scalar",
    runs_here: || true,
    mask,
    mask_text: mask,
    is_utf8: |text| std::str::from_utf8(text).is_ok(),
};

/// # Safety
///
/// None beyond the span's.
unsafe fn mask(span: &Span<'_>, key: MaskingKey) -> bool {
    let key = key.to_bytes();
    let mut all = 0;
    for i in 0..span.len {
        // SAFETY: `i` lies within the span; where source and target overlap, the target is at or before the
        // source, so that nothing is written that is yet to be read.
        unsafe {
            let byte = span.source.add(i).read() ^ key[i % 4];
            span.target.add(i).write(byte);
            all |= byte;
        }
    }
    all.is_ascii()
}

//! The kernel that masks byte by byte, as in RFC 6455 5.3. Tests compare the others with it.
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
/// The requirements of the span are the only ones.
unsafe fn mask(span: &Span<'_>, key: MaskingKey) -> bool {
    let key = key.to_bytes();
    let mut all = 0;
    for i in 0..span.len {
        // SAFETY: `i` lies within the span. Where source and target overlap, the target is at or
        // before the source, so that no unread byte is overwritten.
        unsafe {
            let byte = span.source.add(i).read() ^ key[i % 4];
            span.target.add(i).write(byte);
            all |= byte;
        }
    }
    all.is_ascii()
}

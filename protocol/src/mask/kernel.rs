//! Instruction sets, one of which is chosen once.

#![expect(unsafe_code, reason = "kernels for instruction sets that not every processor has")]

use std::sync::OnceLock;

use super::span::Span;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{MaskingKey, portable, scalar};

/// The functions of one instruction set that touch every byte of a payload.
///
/// The functions are unsafe to call where `runs_here` is false; [`available`] does not return such
/// a kernel.
pub(super) struct Kernel {
    pub(super) name: &'static str,
    pub(super) runs_here: fn() -> bool,
    /// Masks a span of more than [`SHORT`](super::SHORT) bytes. The result has no meaning.
    pub(super) mask: unsafe fn(&Span<'_>, MaskingKey) -> bool,
    /// Masks such a span; returns whether all bytes that it wrote are ASCII.
    pub(super) mask_text: unsafe fn(&Span<'_>, MaskingKey) -> bool,
    /// Returns whether this is a UTF-8 string.
    pub(super) is_utf8: unsafe fn(&[u8]) -> bool,
}

/// Every kernel of this architecture, in order of preference.
static KERNELS: &[Kernel] = &[
    #[cfg(target_arch = "x86_64")]
    x86::AVX512,
    #[cfg(target_arch = "x86_64")]
    x86::AVX2,
    portable::KERNEL,
    scalar::KERNEL,
];

/// Returns the kernels that this processor runs, in order of preference.
pub(super) fn available() -> impl Iterator<Item = &'static Kernel> {
    KERNELS.iter().filter(|kernel| (kernel.runs_here)())
}

/// Returns the kernel in use, chosen at the first call.
#[inline]
pub(super) fn chosen() -> &'static Kernel {
    static CHOSEN: OnceLock<&Kernel> = OnceLock::new();
    CHOSEN.get_or_init(|| choose(std::env::var("SPARRING_KERNEL").ok().as_deref()))
}

/// Returns the requested kernel, else the preferred one.
pub(super) fn choose(asked_for: Option<&str>) -> &'static Kernel {
    available()
        .find(|kernel| Some(kernel.name) == asked_for)
        .or_else(|| available().next())
        .expect("the portable kernel runs everywhere")
}

impl Kernel {
    /// Returns whether this is a UTF-8 string.
    #[inline]
    pub(super) fn is_utf8(&self, text: &[u8]) -> bool {
        // SAFETY: `available` is the only source of kernels, and returns those whose instructions
        // this processor has.
        unsafe { (self.is_utf8)(text) }
    }
}

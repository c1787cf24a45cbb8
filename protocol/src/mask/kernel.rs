//! Which instruction set is used, chosen once.

#![expect(unsafe_code, reason = "kernels for instruction sets that not every processor has")]

use std::sync::OnceLock;

use super::span::Span;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{MaskingKey, portable, scalar};

/// One instruction set's way to touch every byte of a payload.
///
/// The functions are unsafe to call where `runs_here` is false; [`available`] hands out no such kernel.
pub(super) struct Kernel {
    pub(super) name: &'static str,
    pub(super) runs_here: fn() -> bool,
    /// Masks a span of more than [`SHORT`](super::SHORT) bytes. What it returns says nothing.
    pub(super) mask: unsafe fn(&Span<'_>, MaskingKey) -> bool,
    /// The same; says whether all that it wrote is ASCII.
    pub(super) mask_text: unsafe fn(&Span<'_>, MaskingKey) -> bool,
    /// True if this is a UTF-8 string.
    pub(super) is_utf8: unsafe fn(&[u8]) -> bool,
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
pub(super) fn available() -> impl Iterator<Item = &'static Kernel> {
    KERNELS.iter().filter(|kernel| (kernel.runs_here)())
}

/// The kernel in use, chosen at the first call.
#[inline]
pub(super) fn chosen() -> &'static Kernel {
    static CHOSEN: OnceLock<&Kernel> = OnceLock::new();
    CHOSEN.get_or_init(|| choose(std::env::var("SPARRING_KERNEL").ok().as_deref()))
}

/// The kernel asked for, else the best.
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
        // SAFETY: `available` is the only source of kernels, and it gives those whose instructions this
        // processor has.
        unsafe { (self.is_utf8)(text) }
    }
}

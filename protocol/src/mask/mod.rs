//! Masking (RFC 6455 5.3).
use std::ops::Range;

/// The four bytes that a payload is masked with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MaskingKey([u8; 4]);

impl std::fmt::Debug for MaskingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d] = self.0;
        write!(f, "MaskingKey({a:02x} {b:02x} {c:02x} {d:02x})")
    }
}

impl MaskingKey {
    /// In wire order.
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        MaskingKey(bytes)
    }
    /// In wire order.
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0
    }
    /// The key for a payload that starts `n` bytes further on.
    pub fn rotated(self, n: usize) -> Self {
        let mut bytes = self.0;
        bytes.rotate_left(n % 4);
        MaskingKey(bytes)
    }
}

/// Masks or unmasks in place.
pub fn in_place(_buf: &mut [u8], _key: MaskingKey) {
    unimplemented!()
}
/// Masks or unmasks from `src` to `dst`.
pub fn copy(_src: &[u8], _dst: &mut [u8], _key: MaskingKey) {
    unimplemented!()
}
/// Unmasks while moving forward in one buffer.
pub fn shift(_buf: &mut [u8], _src: Range<usize>, _to: usize, _key: MaskingKey) {
    unimplemented!()
}
/// Name of the kernel chosen.
pub fn kernel() -> &'static str {
    unimplemented!()
}

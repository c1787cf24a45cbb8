//! Incremental UTF-8.
use thiserror::Error;

/// The bytes cannot be the start of any UTF-8 string.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not valid UTF-8")]
pub struct InvalidUtf8;

/// Validates UTF-8 that comes in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8 {
    carry: [u8; 3],
    len: u8,
}

impl Utf8 {
    /// Reads on.
    pub fn update(&mut self, _bytes: &[u8]) -> Result<(), InvalidUtf8> {
        unimplemented!()
    }
    /// The end of the text; resets.
    pub fn finish(&mut self) -> Result<(), InvalidUtf8> {
        unimplemented!()
    }
}

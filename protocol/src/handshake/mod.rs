//! The opening handshake (RFC 6455 4).
pub mod client;
pub mod server;

/// What is taken of a request's or a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, its final empty line included. Beyond: 431.
    pub bytes: usize,
    /// Bytes of the request target. Beyond: 414.
    pub target: usize,
    /// Header fields. Beyond: 431.
    pub fields: usize,
}

impl Default for HeadLimits {
    /// 16 KiB, 8 KiB, 100 fields.
    fn default() -> Self {
        HeadLimits { bytes: 16 << 10, target: 8 << 10, fields: 100 }
    }
}

/// base64(SHA-1(key + GUID)).
pub fn accept_key(_key: &str) -> String {
    unimplemented!()
}

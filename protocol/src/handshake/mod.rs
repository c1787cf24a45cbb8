//! The opening handshake (RFC 6455 4), on HTTP/1.1 (RFC 9112), for both ends.

pub mod client;
pub mod deflate;
mod field;
mod head;
pub mod server;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// Limits of a request's or a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, including the final empty line. Beyond: 431.
    pub bytes: usize,
    /// Bytes of the request target. Beyond: 414.
    pub target: usize,
    /// Header fields. Beyond: 431.
    pub fields: usize,
}

impl Default for HeadLimits {
    /// Returns 16 KiB, 8 KiB, 100 fields.
    fn default() -> Self {
        HeadLimits { bytes: 16 << 10, target: 8 << 10, fields: 100 }
    }
}

/// Text that both ends append to the key (RFC 6455 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Returns the value of Sec-WebSocket-Accept, which proves that the server read the key:
/// base64(SHA-1(key + GUID)) (RFC 6455 4.2.2).
pub fn accept_key(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_key_is_that_of_rfc6455_1_3() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}

//! The client's side (RFC 6455 4.1).
pub use super::HeadLimits;
use thiserror::Error;

/// An opening handshake's request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Host, with port where it is not the default.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// 16 random bytes.
    pub nonce: [u8; 16],
    /// The Origin field.
    pub origin: Option<&'a str>,
    /// In order of preference.
    pub subprotocols: &'a [&'a str],
    /// Further fields.
    pub headers: &'a [(&'a str, &'a str)],
}

impl Request<'_> {
    /// Appends the request to `out`.
    pub fn encode(&self, _out: &mut Vec<u8>) {
        unimplemented!()
    }
}

/// Why a response does not open a WebSocket.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseError {
    /// Another status than 101.
    #[error("the server answered \"{status} {reason}\" instead of 101")]
    Status {
        /// The status code.
        status: u16,
        /// The reason phrase.
        reason: String,
    },
}

/// Finds the end of the response head.
pub fn find_response(
    _buffered: &[u8],
    _scanned: &mut usize,
    _limits: &HeadLimits,
) -> Result<Option<usize>, ResponseError> {
    unimplemented!()
}

/// Checks the response.
pub fn check_response(_head: &[u8], _nonce: &[u8; 16], _subprotocols: &[&str]) -> Result<(), ResponseError> {
    unimplemented!()
}

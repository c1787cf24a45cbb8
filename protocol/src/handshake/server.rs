//! The server's side (RFC 6455 4.2).
pub use super::HeadLimits;
use thiserror::Error;

/// Finds the end of the request head.
pub fn find_head(
    _buffered: &[u8],
    _scanned: &mut usize,
    _limits: &HeadLimits,
) -> Result<Option<usize>, Refusal> {
    unimplemented!()
}

/// Answers a request head.
pub fn answer(_head: &[u8], _limits: &HeadLimits) -> Result<Accepted, Refusal> {
    unimplemented!()
}

/// A request that is a right opening handshake.
#[derive(Clone, Debug)]
pub struct Accepted {}

impl Accepted {
    /// Path and query.
    pub fn target(&self) -> &str {
        unimplemented!()
    }
    /// The authority the request is for.
    pub fn host(&self) -> &str {
        unimplemented!()
    }
    /// The Origin field, where there is one.
    pub fn origin(&self) -> Option<&str> {
        unimplemented!()
    }
    /// The 101, complete.
    pub fn response(&self) -> &[u8] {
        unimplemented!()
    }
}

/// Why a handshake is refused, and the HTTP answer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{rule}: {detail}")]
pub struct Refusal {
    status: u16,
    rule: &'static str,
    section: &'static str,
    detail: &'static str,
}

impl Refusal {
    /// HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }
    /// Short kebab-case name.
    pub fn rule(&self) -> &'static str {
        self.rule
    }
    /// The document and section, such as `RFC 9112 3.2`.
    pub fn section(&self) -> &'static str {
        self.section
    }
    /// One line.
    pub fn detail(&self) -> &'static str {
        self.detail
    }
    /// The complete HTTP answer.
    pub fn response(&self) -> Vec<u8> {
        unimplemented!()
    }
    /// 403: the Origin is not allowed.
    pub const fn forbidden_origin() -> Self {
        Refusal { status: 403, rule: "forbidden-origin", section: "", detail: "" }
    }
    /// 404: no WebSocket under this path.
    pub const fn unknown_path() -> Self {
        Refusal { status: 404, rule: "unknown-path", section: "", detail: "" }
    }
    /// 408: the request did not come in time.
    pub const fn timeout() -> Self {
        Refusal { status: 408, rule: "handshake-timeout", section: "", detail: "" }
    }
    /// 503: draining or full.
    pub const fn unavailable() -> Self {
        Refusal { status: 503, rule: "unavailable", section: "", detail: "" }
    }
}

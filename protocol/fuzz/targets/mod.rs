//! What is fuzzed: for each target a function that takes any bytes and panics where a property does not hold.
//!
//! Both cargo-fuzz and the tests on stable run these functions. The properties: no panic; the same events,
//! and the same error at the same byte, however the bytes are cut; memory bounded by what has arrived; what
//! is parsed and encoded again is the same bytes. Where there is an independent oracle it is asked.

pub mod close;
pub mod connection;
pub mod handshake;
pub mod header;
pub mod input;
pub mod mask;
pub mod model;
pub mod request;
pub mod response;
pub mod utf8;

/// The body of a target.
pub type Target = fn(&[u8]);

/// Every target, under the name of its binary and of its folder in the corpus.
pub const ALL: [(&str, Target); 8] = [
    ("request", request::target),
    ("response", response::target),
    ("handshake", handshake::target),
    ("header", header::target),
    ("connection", connection::target),
    ("close", close::target),
    ("utf8", utf8::target),
    ("mask", mask::target),
];

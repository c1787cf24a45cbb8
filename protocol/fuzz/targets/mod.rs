//! Fuzz targets: functions that take any bytes and panic where a property does not hold.
//!
//! Both cargo-fuzz and the tests on stable run these functions. The properties: there is no panic.
//! The events are the same, and the error comes at the same byte, however the bytes are cut. Memory
//! is bounded by the bytes that have arrived. Parsing and encoding again gives the same bytes. An
//! independent oracle checks the result where there is one.

pub mod close;
pub mod connection;
pub mod deflate_negotiation;
pub mod handshake;
pub mod header;
pub mod inflate;
pub mod input;
pub mod mask;
pub mod model;
pub mod request;
pub mod response;
pub mod utf8;

/// Function of a target.
pub type Target = fn(&[u8]);

/// Every target, under the name of its binary and of its folder in the corpus.
pub const ALL: [(&str, Target); 10] = [
    ("request", request::target),
    ("response", response::target),
    ("handshake", handshake::target),
    ("deflate_negotiation", deflate_negotiation::target),
    ("header", header::target),
    ("connection", connection::target),
    ("close", close::target),
    ("inflate", inflate::target),
    ("utf8", utf8::target),
    ("mask", mask::target),
];

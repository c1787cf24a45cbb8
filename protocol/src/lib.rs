//! WebSocket (RFC 6455) without I/O, for both ends of a connection.
//!
//! Bytes come in as slices and go out as slices or events. This crate does not open sockets, read
//! clocks, start threads or generate random numbers: masking keys and nonces are arguments. The
//! [`Connection`] reads frames and reports their meaning to the caller, [`frame`] writes them, and
//! [`handshake`] does the opening handshake. [`deflate`] inflates and deflates messages. [`mask`],
//! [`text`] and [`utf8`] touch every byte and are optimized for that.
//!
//! Every check happens as soon as its bytes have arrived, in the order of those bytes. Therefore
//! any way of cutting the input gives the same events and the same error.

pub mod close;
mod connection;
pub mod deflate;
mod error;
pub mod frame;
pub mod handshake;
mod header;
pub mod mask;
mod message;
mod opcode;
mod role;
pub mod text;
pub mod utf8;

pub use close::Close;
pub use connection::Connection;
pub use error::ProtocolError;
pub use frame::{
    client_header_len, encode_close, encode_control, server_header_len, write_server_header_before,
};
pub use header::Header;
pub use mask::MaskingKey;
pub use message::{Chunk, Control, Event, Limits};
pub use opcode::{MessageKind, Opcode};
pub use role::Role;
pub use utf8::{InvalidUtf8, Utf8};

//! TLS over the seam: [`Tls`] stands between an engine and a handler that knows nothing of it.
//!
//! Ciphertext is decrypted in the receive buffer, and the plaintext of a read goes to the handler
//! in one call of [`received`]. The output of a call is sent as few records. Between calls a
//! connection keeps only rustls' state and the beginning of a record that has not arrived whole.
//!
//! The handler is told of a connection when TCP has opened it ([`opened`]), so that its deadline
//! covers the TLS handshake. Output that it writes before waits until [`secured`]. A close with
//! [`CloseMode::Flush`] sends close_notify. The peer's close_notify, or a FIN without it, is
//! [`eof`]. A connection that fails sends an alert and ends with [`Cause::Layer`]; see
//! [`TlsError::of`].
//!
//! With a [`HandshakeThread`] the handshakes of accepted connections happen on a thread of their
//! own, and the others need not wait for their cryptography. Meanwhile reading is paused.
//!
//! Connections of plain listeners pass through with one branch for each call.
//!
//! [`received`]: crate::Handler::received
//! [`opened`]: crate::Handler::opened
//! [`secured`]: crate::Handler::secured
//! [`eof`]: crate::Handler::eof
//! [`CloseMode::Flush`]: crate::CloseMode::Flush
//! [`Cause::Layer`]: crate::Cause::Layer

mod adaptor;
mod config;
mod error;
mod handshakes;
mod layer;
mod resumption;
mod session;

pub use adaptor::{Tls, TlsConn};
pub use config::{
    ClientSettings, ServerSettings, TlsClient, TlsIdentity, TlsServer, TlsSettings, TlsVersion,
    TlsVersions, Trust, client_config, server_config,
};
pub use error::{TlsError, webpki_error};
pub use handshakes::HandshakeThread;
pub use resumption::Sessions;

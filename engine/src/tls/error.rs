//! What can be wrong with a TLS connection.

/// Why a connection ended that was to be secured, or was.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum TlsError {
    /// The first bytes are not those of a TLS record.
    #[error("the other end does not speak TLS")]
    NotTls,
    /// The connection ended before its TLS handshake.
    #[error("the connection ended in the TLS handshake")]
    Unfinished,
    /// The keys have encrypted as many records as is safe (RFC 8446 5.5), and the connection uses TLS 1.2,
    /// which cannot change them.
    #[error(
        "the keys of TLS 1.2 are used up after as many records as are safe; TLS 1.3 would have changed them"
    )]
    KeysExhausted,
    /// The server asks for a client certificate, and ends the connection for want of one.
    #[error("the server wants a client certificate")]
    CertificateWanted,
    /// The other end broke the protocol, could not be trusted, or sent an alert (RFC 8446 6).
    #[error("TLS: {0}")]
    Protocol(#[from] rustls::Error),
}

//! Errors of a TLS connection.

use rustls::{CertificateError, OtherError};

use crate::connection::Cause;

/// Error that ended a connection in or after its TLS handshake.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum TlsError {
    /// The peer's first bytes are not a TLS record.
    #[error("the other end does not speak TLS")]
    NotTls,
    /// The connection ended before its TLS handshake was complete.
    #[error("the connection ended in the TLS handshake")]
    Unfinished,
    /// The keys have encrypted as many records as is safe (RFC 8446 5.5), and the connection uses
    /// TLS 1.2, which cannot change them.
    #[error(
        "the keys of TLS 1.2 are used up after as many records as are safe; TLS 1.3 would have changed them"
    )]
    KeysExhausted,
    /// The server asked for a client certificate, and ended the connection without one.
    #[error("the server wants a client certificate")]
    CertificateWanted,
    /// The peer violated the protocol, has an untrusted certificate, or sent an alert (RFC 8446 6).
    #[error("TLS: {0}")]
    Protocol(#[from] rustls::Error),
}

impl TlsError {
    /// Returns the TLS error that ended a connection; `None` for another cause.
    #[must_use]
    pub fn of(cause: &Cause) -> Option<&Self> {
        if let Cause::Layer(error) = cause { error.downcast_ref() } else { None }
    }
}

/// Returns the error of the library that checks certificates for rustls, where rustls has no own
/// error.
#[must_use]
pub fn webpki_error(error: &CertificateError) -> Option<&webpki::Error> {
    match error {
        CertificateError::Other(OtherError(source)) => source.downcast_ref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;

    use super::*;

    /// Error of another type with the same text as one of the library's.
    #[derive(Debug)]
    struct CaUsedAsEndEntity;

    impl fmt::Display for CaUsedAsEndEntity {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("CaUsedAsEndEntity")
        }
    }

    impl std::error::Error for CaUsedAsEndEntity {}

    #[test]
    fn a_certificate_error_is_known_by_its_type() {
        let library = OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity));
        assert_eq!(
            webpki_error(&CertificateError::Other(library)),
            Some(&webpki::Error::CaUsedAsEndEntity)
        );
        let look_alike = OtherError(Arc::new(CaUsedAsEndEntity));
        assert_eq!(webpki_error(&CertificateError::Other(look_alike)), None);
        assert_eq!(webpki_error(&CertificateError::Expired), None);
    }
}

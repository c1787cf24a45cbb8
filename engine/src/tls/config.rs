//! What each end of a TLS connection brings along.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedCipherSuite,
};

/// Which connections of a worker are TLS, and how.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Of each listener, in the order of [`Config::listeners`](crate::Config::listeners); what is not there is plain.
    pub listeners: Vec<Option<Arc<ServerConfig>>>,
    /// What connections made by [`Worker::connect`](crate::Worker::connect) trust; `None`: they are plain.
    pub connects: Option<TlsClient>,
    /// The answer to a client that does not speak TLS, sent as it is before the connection is closed.
    pub answer_to_plain: Vec<u8>,
}

/// The client's side: whom it trusts, and whom it means to reach.
#[derive(Clone, Debug)]
pub struct TlsClient {
    /// Made by [`client_config`], or otherwise.
    pub config: Arc<ClientConfig>,
    /// The name or address that the server's certificate must bear.
    pub server: ServerName<'static>,
}

/// Whose certificates a client takes.
#[derive(Debug)]
pub enum Trust {
    /// Those that lead to one of these.
    Roots(RootCertStore),
    /// Anybody's. What is sent is still encrypted, but nobody knows to whom.
    Anybody,
}

/// A server's side for TLS 1.2 and 1.3 that shows `chain`, its own certificate first. No early data; a session is resumed by
/// one ticket, of which the server keeps nothing.
///
/// # Errors
///
/// When the key is not the certificate's, or of a kind that is not known.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.ticketer = ring::Ticketer::new()?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// A client's side for TLS 1.2 and 1.3. AES-128-GCM comes first, the fastest where the processor knows AES. Sessions are
/// never resumed: each handshake is a whole one, and costs the same as any other.
///
/// # Errors
///
/// When the library's own settings do not go together.
pub fn client_config(trust: Trust) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(fastest_first(ring::default_provider()));
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = match trust {
        Trust::Roots(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
        Trust::Anybody => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(algorithms)))
            .with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn fastest_first(mut provider: CryptoProvider) -> CryptoProvider {
    let is_fastest = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).contains("AES_128_GCM");
    provider.cipher_suites.sort_by_key(|suite| (suite.tls13().is_none(), !is_fastest(suite)));
    provider
}

/// Takes every certificate. The handshake's signatures are checked all the same: a server must have the key to what it shows.
#[derive(Debug)]
struct Credulous(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_suite_of_each_version_comes_first() {
        let suites = fastest_first(ring::default_provider()).cipher_suites;
        let first_old = suites.iter().position(|suite| suite.tls13().is_none()).expect("TLS 1.2 is there");
        let name = |n: usize| format!("{:?}", suites[n].suite());
        assert_eq!(name(0), "TLS13_AES_128_GCM_SHA256");
        assert!(name(first_old).contains("AES_128_GCM"), "{}", name(first_old));
    }
}

//! TLS settings of servers and clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedCipherSuite,
};

use super::error::webpki_error;

/// TLS settings of a worker's connections.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Server settings of each listener, in the order of
    /// [`Config::listeners`](crate::Config::listeners). A listener without them is plain.
    pub listeners: Vec<Option<Arc<ServerConfig>>>,
    /// Client settings of outgoing connections ([`Worker::connect`](crate::WorkerCore::connect)).
    /// `None`: they are plain.
    pub connects: Option<TlsClient>,
    /// Answer to a client that does not use TLS, sent unencrypted before the connection is closed.
    pub answer_to_plain: Vec<u8>,
}

/// Client settings: trusted certificates, and the expected server.
#[derive(Clone, Debug)]
pub struct TlsClient {
    /// Settings of the library, from [`client_config`].
    pub config: Arc<ClientConfig>,
    /// Name or address that the server's certificate must have.
    pub server: ServerName<'static>,
    certificate: Arc<NoClientCertificate>,
}

impl TlsClient {
    /// Creates the settings of a client of `server`.
    ///
    /// # Errors
    ///
    /// Those of [`client_config`].
    pub fn new(trust: Trust, server: ServerName<'static>) -> Result<Self, Error> {
        let certificate = Arc::new(NoClientCertificate::default());
        Ok(Self { config: config(trust, certificate.clone())?, server, certificate })
    }

    /// Returns true if `alert` is the answer of a server that asked for a client certificate and
    /// got none.
    pub(super) fn misses_certificate(&self, alert: AlertDescription) -> bool {
        // TLS 1.2 has no alert for this case, so servers choose among these.
        alert == AlertDescription::CertificateRequired
            || (self.certificate.is_wanted.load(Ordering::Relaxed)
                && matches!(
                    alert,
                    AlertDescription::HandshakeFailure
                        | AlertDescription::NoCertificate
                        | AlertDescription::BadCertificate
                        | AlertDescription::CertificateUnknown
                        | AlertDescription::AccessDenied
                ))
    }
}

/// Server certificates that a client accepts.
#[derive(Debug)]
pub enum Trust {
    /// Certificates with a chain to one of these authorities.
    Roots(RootCertStore),
    /// These certificates, and those with a chain to one of them. A given certificate is accepted
    /// even if it is marked as an authority (CA:TRUE), as self-signed ones often are.
    Certificates(Vec<CertificateDer<'static>>),
    /// All certificates of every kind. The traffic is encrypted, but the server is not
    /// authenticated.
    Anybody,
}

/// Creates server settings for TLS 1.2 and 1.3 that present `chain`, the server's own certificate
/// first. They have no early data. Clients can resume a session with a stateless ticket, of which
/// the server sends one per connection.
///
/// # Errors
///
/// The key does not belong to the certificate, or the library does not support its kind.
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

/// Creates client settings for TLS 1.2 and 1.3. AES-128-GCM comes first, which is the fastest on
/// processors with AES instructions. Sessions are never resumed, so that every handshake costs the
/// same.
///
/// # Errors
///
/// [`Trust::Certificates`] is empty, or one of them cannot be used as an authority. The library
/// rejects its own default cipher suites, key exchange groups or protocol versions.
pub fn client_config(trust: Trust) -> Result<Arc<ClientConfig>, Error> {
    config(trust, Arc::default())
}

fn config(trust: Trust, certificate: Arc<NoClientCertificate>) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(fastest_first(ring::default_provider()));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Roots(roots) => builder.with_root_certificates(roots),
        Trust::Certificates(given) => {
            let verifier = AcceptGivenCertificates::new(given, provider)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        Trust::Anybody => {
            let schemes = provider.signature_verification_algorithms.supported_schemes();
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(schemes)))
        }
    };
    let mut config = builder.with_client_cert_resolver(certificate);
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn fastest_first(mut provider: CryptoProvider) -> CryptoProvider {
    let is_fastest =
        |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).contains("AES_128_GCM");
    provider.cipher_suites.sort_by_key(|suite| (suite.tls13().is_none(), !is_fastest(suite)));
    provider
}

/// Answers a server's request for a client certificate with none, and records the request.
#[derive(Debug, Default)]
struct NoClientCertificate {
    is_wanted: AtomicBool,
}

impl ResolvesClientCert for NoClientCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.is_wanted.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Accepts the given certificates, and those with a chain to one of them.
#[derive(Debug)]
struct AcceptGivenCertificates {
    given: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

impl AcceptGivenCertificates {
    fn new(
        given: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        given.iter().try_for_each(|certificate| roots.add(certificate.clone()))?;
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self { given, chains: chains.map_err(|error| Error::General(error.to_string()))? })
    }
}

impl ServerCertVerifier for AcceptGivenCertificates {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.chains.verify_server_cert(certificate, intermediates, server, ocsp, now) {
            // The library rejected the certificate only because it is marked as an authority. The
            // library checks the validity period before that mark.
            Err(Error::InvalidCertificate(error))
                if webpki_error(&error) == Some(&webpki::Error::CaUsedAsEndEntity)
                    && self.given.iter().any(|given| given == certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, server)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Signature schemes that the library cannot verify, but that a server with an unusual key may
/// need.
const UNVERIFIED_SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED448,
    SignatureScheme::RSA_PKCS1_SHA1,
    SignatureScheme::ECDSA_SHA1_Legacy,
];

/// Accepts every certificate. The handshake's signatures are not verified either, because the
/// library cannot read certificates of versions other than X.509 v3, or with short or unusual keys.
/// A signature would prove nothing: an impostor has a certificate of its own.
#[derive(Debug)]
struct AcceptAnyCertificate(Vec<SignatureScheme>);

impl ServerCertVerifier for AcceptAnyCertificate {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.iter().copied().chain(UNVERIFIED_SCHEMES).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if rustls was built with another version of webpki than the one whose errors
    /// `webpki_error` reads.
    #[test]
    fn only_a_given_authority_is_accepted_as_a_server() {
        let authority = || {
            let mut params = rcgen::CertificateParams::new(vec!["h".to_owned()]).expect("a name");
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = rcgen::KeyPair::generate().expect("a key");
            params.self_signed(&key).expect("a certificate").der().clone()
        };
        let (given, other) = (authority(), authority());
        let verifier =
            AcceptGivenCertificates::new(vec![given.clone()], Arc::new(ring::default_provider()))
                .expect("one");
        let verify = |certificate: &CertificateDer<'_>, name: &'static str| {
            let server = ServerName::try_from(name).expect("a name");
            verifier.verify_server_cert(certificate, &[], &server, &[], UnixTime::now()).map(|_| ())
        };
        assert_eq!(verify(&given, "h"), Ok(()));
        assert!(verify(&given, "i").is_err() && verify(&other, "h").is_err());
    }

    #[test]
    fn the_fastest_suite_of_each_version_comes_first() {
        let suites = fastest_first(ring::default_provider()).cipher_suites;
        let first_old =
            suites.iter().position(|suite| suite.tls13().is_none()).expect("TLS 1.2 is there");
        let name = |n: usize| format!("{:?}", suites[n].suite());
        assert_eq!(name(0), "TLS13_AES_128_GCM_SHA256");
        assert!(name(first_old).contains("AES_128_GCM"), "{}", name(first_old));
    }
}

//! TLS settings of servers and clients.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
};

use super::error::webpki_error;
use super::resumption::Sessions;

/// The protocol that both ends name in their hellos (ALPN, RFC 7301): a WebSocket begins with
/// HTTP/1.1. An end that names none is accepted.
const PROTOCOL: &[u8] = b"http/1.1";

/// TLS settings of a worker's connections.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Server settings of each listener, in the order of
    /// [`Config::listeners`](crate::Config::listeners). A listener without them is plain.
    pub listeners: Vec<Option<TlsServer>>,
    /// Client settings of outgoing connections ([`Worker::connect`](crate::WorkerCore::connect)).
    /// The upper 32 bits of [`Connect::tag`](crate::Connect::tag) are the index of those of a
    /// connection, which is plain where there are none.
    pub connects: Vec<TlsClient>,
    /// Answer to a client that does not use TLS, sent unencrypted before the connection is closed.
    pub answer_to_plain: Vec<u8>,
}

/// Server settings that can be replaced while connections are open. Clones share them.
#[derive(Clone, Debug)]
pub struct TlsServer(Arc<RwLock<Arc<ServerConfig>>>);

impl TlsServer {
    /// Replaces the settings for connections that are accepted from now on.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Returns the settings of a connection that is accepted now.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<Arc<ServerConfig>> for TlsServer {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(RwLock::new(config)))
    }
}

/// Version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// Versions of TLS that an end agrees to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsVersions {
    /// The lowest.
    pub min: TlsVersion,
    /// The highest.
    pub max: TlsVersion,
}

impl Default for TlsVersions {
    fn default() -> Self {
        Self { min: TlsVersion::Tls12, max: TlsVersion::Tls13 }
    }
}

impl TlsVersions {
    fn supported(self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [(TlsVersion::Tls13, &TLS13), (TlsVersion::Tls12, &TLS12)];
        let is_meant = |version: &TlsVersion| (self.min..=self.max).contains(version);
        all.into_iter().filter(|(version, _)| is_meant(version)).map(|(_, name)| name).collect()
    }
}

/// A certificate chain, the own certificate first, and its private key.
#[derive(Debug)]
pub struct TlsIdentity {
    /// The chain.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first certificate.
    pub key: PrivateKeyDer<'static>,
}

/// Settings of a client, whichever the server is.
#[derive(Debug)]
pub struct ClientSettings {
    /// Accepted certificates.
    pub trust: Trust,
    /// The certificate for a server that asks for one. `None`: it gets none.
    pub identity: Option<TlsIdentity>,
    /// Versions to offer.
    pub versions: TlsVersions,
}

impl From<Trust> for ClientSettings {
    fn from(trust: Trust) -> Self {
        Self { trust, identity: None, versions: TlsVersions::default() }
    }
}

/// Settings of a server besides its certificate.
#[derive(Debug, Default)]
pub struct ServerSettings {
    /// Versions to accept.
    pub versions: TlsVersions,
    /// Authorities of the clients, each of which must have a certificate of one of them. `None`:
    /// clients are not asked for one.
    pub client_authorities: Option<RootCertStore>,
}

/// Client settings: trusted certificates, and the expected server.
#[derive(Clone, Debug)]
pub struct TlsClient {
    /// Settings of the library, from [`client_config`].
    pub config: Arc<ClientConfig>,
    /// Name or address that the server's certificate must have.
    pub server: ServerName<'static>,
    certificate: Arc<ClientCertificate>,
}

impl TlsClient {
    /// Creates the settings of a client of `server`.
    ///
    /// # Errors
    ///
    /// Those of [`client_config`].
    pub fn new(
        settings: impl Into<ClientSettings>,
        server: ServerName<'static>,
    ) -> Result<Self, Error> {
        let (config, certificate) = config(settings.into())?;
        Ok(Self { config, server, certificate })
    }

    /// Returns two clients with these settings that share `sessions`. The first has whole
    /// handshakes and keeps their sessions. The second resumes one where one is kept.
    #[must_use]
    pub fn resuming(&self, sessions: &Sessions) -> [Self; 2] {
        [false, true].map(|resumes| {
            let mut config = (*self.config).clone();
            config.resumption = Resumption::store(sessions.store(resumes));
            Self { config: Arc::new(config), ..self.clone() }
        })
    }

    /// Returns true if `alert` is the answer of a server that asked for a client certificate and
    /// got none.
    pub(super) fn misses_certificate(&self, alert: AlertDescription) -> bool {
        // TLS 1.2 has no alert for this case, so servers choose among these.
        alert == AlertDescription::CertificateRequired
            || (self.certificate.own.is_none()
                && self.certificate.is_wanted.load(Ordering::Relaxed)
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

/// Creates server settings that present `chain`, the server's own certificate
/// first. They have no early data. Clients can resume a session with a stateless ticket, of which
/// the server sends one per connection.
///
/// # Errors
///
/// The key does not belong to the certificate, or the library does not support its kind. No
/// authority of clients is given.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    settings: ServerSettings,
) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&settings.versions.supported())?;
    let builder = match settings.client_authorities {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| Error::General(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.ticketer = ring::Ticketer::new()?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Creates client settings. AES-128-GCM comes first, which is the fastest on processors with AES
/// instructions. Sessions are not resumed, so that every handshake costs the same.
///
/// # Errors
///
/// [`Trust::Certificates`] is empty, or one of them cannot be used as an authority. The library
/// rejects its own default cipher suites, key exchange groups or protocol versions.
pub fn client_config(settings: impl Into<ClientSettings>) -> Result<Arc<ClientConfig>, Error> {
    config(settings.into()).map(|(config, _)| config)
}

fn config(settings: ClientSettings) -> Result<(Arc<ClientConfig>, Arc<ClientCertificate>), Error> {
    let provider = Arc::new(fastest_first(ring::default_provider()));
    let certificate = Arc::new(ClientCertificate::new(settings.identity, &provider)?);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&settings.versions.supported())?;
    let builder = match settings.trust {
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
    let mut config = builder.with_client_cert_resolver(certificate.clone());
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok((Arc::new(config), certificate))
}

fn fastest_first(mut provider: CryptoProvider) -> CryptoProvider {
    let is_fastest =
        |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).contains("AES_128_GCM");
    provider.cipher_suites.sort_by_key(|suite| (suite.tls13().is_none(), !is_fastest(suite)));
    provider
}

/// Answers a server's request for a client certificate, and records the request.
#[derive(Debug)]
struct ClientCertificate {
    /// The answer; `None` where there is no certificate.
    own: Option<Arc<CertifiedKey>>,
    is_wanted: AtomicBool,
}

impl ClientCertificate {
    fn new(identity: Option<TlsIdentity>, provider: &CryptoProvider) -> Result<Self, Error> {
        let own = identity
            .map(|TlsIdentity { chain, key }| CertifiedKey::from_der(chain, key, provider))
            .transpose()?;
        Ok(Self { own: own.map(Arc::new), is_wanted: AtomicBool::new(false) })
    }
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.is_wanted.store(true, Ordering::Relaxed);
        // It is shown to whatever authorities the server names: the server's answer says more than
        // silence.
        self.own.clone()
    }

    fn has_certs(&self) -> bool {
        self.own.is_some()
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

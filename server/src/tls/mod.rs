//! Certificate and key of the wss:// listeners.

mod der;
mod files;
mod key_file;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use engine::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use engine::rustls::{self, RootCertStore, ServerConfig};
use engine::tls::{ServerSettings, TlsServer, TlsVersions, server_config};
use rcgen::{CertificateParams, DnType, KeyPair};
use sha2::{Digest, Sha256};

use files::{NamedFile, read_authorities, read_identity};

/// Source of the certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Two files in PEM.
    Files {
        /// Certificate chain, the server's own first.
        certificate: PathBuf,
        /// Private key in PKCS #8, PKCS #1 or SEC 1, not encrypted.
        key: PathBuf,
    },
    /// Created at the start for names and addresses, and not stored.
    SelfSigned {
        /// Names besides localhost and the loopback addresses.
        names: Vec<String>,
    },
}

/// Requirements on the clients of wss:// listeners: certificates and versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// File in PEM with the authorities of clients, each of which must have a certificate of one of
    /// them. `None`: clients are not asked for one.
    pub client_authorities: Option<PathBuf>,
    /// Versions to agree to.
    pub versions: TlsVersions,
}

/// Error of a certificate or key, in one line: the file, the cause, the remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages explain the fields")]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read {file} ({source}): give a file that this user may read")]
    Unreadable { file: NamedFile, source: io::Error },
    /// A file does not have the expected content.
    #[error("cannot use {file}: it holds {found}; {remedy}")]
    Content { file: NamedFile, found: String, remedy: String },
    /// The two files are exchanged.
    #[error("{certificate} holds a private key, and {key} a certificate: exchange the two")]
    Exchanged { certificate: NamedFile, key: NamedFile },
    /// Certificate and key are valid but do not belong together.
    #[error("the key {key} does not belong to the certificate {certificate}: {remedy}")]
    NotAPair { certificate: NamedFile, key: NamedFile, remedy: String },
    /// The files are valid, but TLS cannot be set up with them.
    #[error(
        "cannot set up TLS with {} of --tls-cert and {} of --tls-key ({source}): create both anew, or use \
         --tls-self-signed",
        certificate.display(), key.display()
    )]
    Library {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The library's error.
        source: rustls::Error,
    },
    /// The authorities of clients cannot be used.
    #[error(
        "cannot use {file} for client certificates ({source}): give certificates of authorities, X.509 \
         version 3, in PEM"
    )]
    Authorities { file: NamedFile, source: rustls::Error },
    /// The certificate could not be created.
    #[error("cannot make a certificate ({0}): give one with --tls-cert and --tls-key")]
    SelfSigned(String),
}

/// Certificate and key, ready for use.
pub(crate) struct LoadedIdentity {
    pub(crate) config: Arc<ServerConfig>,
    /// SHA-256 of the server's certificate, in the form that browsers show.
    pub(crate) fingerprint: String,
}

impl Identity {
    pub(crate) fn load(&self, options: &TlsOptions) -> Result<LoadedIdentity, IdentityError> {
        let client_authorities =
            options.client_authorities.as_deref().map(authorities).transpose()?;
        let settings = ServerSettings { versions: options.versions, client_authorities };
        match self {
            Self::Files { certificate, key } => from_files(certificate, key, settings),
            Self::SelfSigned { names } => self_signed(names, settings),
        }
    }

    /// Returns true if it lies in files, which can be read again.
    pub(crate) fn is_in_files(&self) -> bool {
        matches!(self, Self::Files { .. })
    }
}

/// Certificate of a server that is running, and the files to read it from again.
#[derive(Clone, Debug)]
pub(crate) struct Reload {
    pub(crate) identity: Identity,
    pub(crate) options: TlsOptions,
    pub(crate) server: TlsServer,
}

impl Reload {
    /// Reads the files again, and uses them for new connections. Open connections stay. Where a
    /// file cannot be used, everything stays as it is.
    pub(crate) fn reload(&self) {
        match self.identity.load(&self.options) {
            Ok(loaded) => {
                self.server.replace(loaded.config);
                let fingerprint = loaded.fingerprint;
                tracing::info!(fingerprint, "certificate reloaded: new connections get it");
            }
            Err(error) => tracing::error!(
                "certificate not reloaded, new connections get the old one: {error}"
            ),
        }
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, IdentityError> {
    let file = NamedFile { flag: "--tls-client-ca", path: path.to_owned() };
    let mut roots = RootCertStore::empty();
    for certificate in read_authorities(file.clone())? {
        roots
            .add(certificate)
            .map_err(|source| IdentityError::Authorities { file: file.clone(), source })?;
    }
    Ok(roots)
}

fn from_files(
    certificate: &Path,
    key: &Path,
    settings: ServerSettings,
) -> Result<LoadedIdentity, IdentityError> {
    let named = NamedFile { flag: "--tls-cert", path: certificate.to_owned() };
    let (chain, secret) =
        read_identity(named, NamedFile { flag: "--tls-key", path: key.to_owned() })?;
    loaded(chain, secret, settings).map_err(|source| IdentityError::Library {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    })
}

/// Validity of a created certificate from now on, and before now because clocks differ.
const VALID: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const ALREADY: Duration = Duration::from_secs(24 * 60 * 60);

fn self_signed(
    names: &[String],
    settings: ServerSettings,
) -> Result<LoadedIdentity, IdentityError> {
    let failed = |error: rcgen::Error| IdentityError::SelfSigned(error.to_string());
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    let is_new = |name: &&String| {
        // The wildcard address is not a name of the server.
        let is_wildcard = name.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        !is_wildcard && !all.contains(name)
    };
    let mut more: Vec<String> = names.iter().filter(is_new).cloned().collect();
    more.dedup();
    all.extend(more);
    let mut params = CertificateParams::new(all).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, "sparring-server, self-signed");
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - ALREADY).into(), (now + VALID).into());
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    loaded(vec![certificate.into()], secret, settings)
        .map_err(|error| IdentityError::SelfSigned(error.to_string()))
}

fn loaded(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    settings: ServerSettings,
) -> Result<LoadedIdentity, rustls::Error> {
    let fingerprint = fingerprint(&chain[0]);
    Ok(LoadedIdentity { config: server_config(chain, key, settings)?, fingerprint })
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let bytes = Sha256::digest(certificate);
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_of_our_own_has_a_fingerprint_of_its_own() {
        let options = TlsOptions::default();
        let identity =
            Identity::SelfSigned { names: vec!["box.example".to_owned(), "0.0.0.0".to_owned()] };
        let (one, other) =
            (identity.load(&options).expect("one"), identity.load(&options).expect("another"));
        assert_eq!(one.fingerprint.len(), 32 * 3 - 1);
        assert_ne!(one.fingerprint, other.fingerprint);
    }

    #[test]
    fn an_error_of_the_library_comes_with_a_remedy() {
        let error = IdentityError::Library {
            certificate: "a.pem".into(),
            key: "b.pem".into(),
            source: rustls::Error::FailedToGetRandomBytes,
        };
        let said = error.to_string();
        for part in [
            "a.pem of --tls-cert",
            "b.pem of --tls-key",
            "random",
            ": create both",
            "--tls-self-signed",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn errors_name_flag_file_and_remedy() {
        let folder = std::env::temp_dir().join(format!("sparring-identity-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let (one, other) =
            (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
        let certificate = params.self_signed(&one).expect("a certificate");
        let pem = |label: &str, der: &[u8]| {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
        };
        let right = write("certificate.pem", &pem("CERTIFICATE", certificate.der()));
        let key = write("key.pem", &pem("PRIVATE KEY", &one.serialize_der()));
        let strange_key = write("strange.pem", &pem("PRIVATE KEY", &other.serialize_der()));
        let junk_key = write("junk-key.pem", &pem("PRIVATE KEY", b"junk"));
        let junk = write("junk.pem", &pem("CERTIFICATE", b"junk"));
        let empty = write("empty.pem", "nothing\n");
        let missing = folder.join("missing.pem");
        let load = |certificate: &Path, key: &Path| {
            Identity::Files { certificate: certificate.to_owned(), key: key.to_owned() }
                .load(&TlsOptions::default())
                .map(|_| ())
        };
        load(&right, &key).expect("a pair");
        for (certificate, key, says) in [
            (&missing, &key, ["--tls-cert", "missing.pem", "No such file"]),
            (&empty, &key, ["--tls-cert", "empty.pem", "BEGIN CERTIFICATE"]),
            (&key, &right, ["--tls-cert", "key.pem", "exchange the two"]),
            (&junk, &key, ["--tls-cert", "junk.pem", "X.509"]),
            (&right, &missing, ["--tls-key", "missing.pem", "No such file"]),
            (&right, &right, ["--tls-key", "certificate.pem", "no private key"]),
            (&right, &junk_key, ["--tls-key", "junk-key.pem", "P-256"]),
            (&right, &strange_key, ["--tls-key", "strange.pem", "made together"]),
        ] {
            let error = load(certificate, key).expect_err("an error").to_string();
            assert!(
                says.iter().all(|part| error.contains(part)) && !error.contains('\n'),
                "{says:?}: {error}"
            );
        }
        for (authorities, says) in [
            (&missing, ["missing.pem of --tls-client-ca", "No such file"]),
            (&key, ["key.pem of --tls-client-ca", "certificate"]),
            (&junk, ["junk.pem of --tls-client-ca", "client certificates"]),
        ] {
            let options =
                TlsOptions { client_authorities: Some(authorities.clone()), ..Default::default() };
            let identity = Identity::Files { certificate: right.clone(), key: key.clone() };
            let error = identity.load(&options).map(|_| ()).expect_err("an error").to_string();
            assert!(says.iter().all(|part| error.contains(part)), "{says:?}: {error}");
        }
        std::fs::remove_dir_all(&folder).expect("the folder");
    }
}

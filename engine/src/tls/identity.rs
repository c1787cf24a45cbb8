//! Certificate chain and private key from two PEM files, and the remedy for other files.

use std::io;
use std::path::{Path, PathBuf};

use rustls::Error;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::key_file::{self, Diagnosis};

/// File that a flag names.
#[derive(Clone, Copy, Debug)]
pub struct NamedFile<'a> {
    /// The flag, for messages.
    pub flag: &'static str,
    /// The file.
    pub path: &'a Path,
}

/// Error of a certificate or key, in one line: the file, the cause, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read {} of {flag} ({source}): give a file that this user may read", path.display())]
    Unreadable {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A file does not have the expected content.
    #[error("cannot use {} of {flag}: it holds {found}; {remedy}", path.display())]
    Content {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The file's content.
        found: String,
        /// The remedy, with a command where one helps.
        remedy: String,
    },
    /// The two files are exchanged.
    #[error(
        "{} of {certificate_flag} holds a private key, and {} of {key_flag} a certificate: exchange the two",
        certificate.display(), key.display()
    )]
    Exchanged {
        /// The certificate's flag.
        certificate_flag: &'static str,
        /// The file named as the certificate's.
        certificate: PathBuf,
        /// The key's flag.
        key_flag: &'static str,
        /// The file named as the key's.
        key: PathBuf,
    },
    /// Certificate and key are valid but do not belong together.
    #[error(
        "the key {} of {key_flag} does not belong to the certificate {} of {certificate_flag}: {remedy}",
        key.display(), certificate.display()
    )]
    NotAPair {
        /// The certificate's flag.
        certificate_flag: &'static str,
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's flag.
        key_flag: &'static str,
        /// The key's file.
        key: PathBuf,
        /// The remedy.
        remedy: String,
    },
}

/// Reads a certificate chain and its private key from PEM files, and checks that they belong
/// together.
///
/// # Errors
///
/// [`IdentityError`], with the `openssl` command that converts the file where there is one.
pub fn read_identity(
    certificate: NamedFile<'_>,
    key: NamedFile<'_>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IdentityError> {
    let (certificate_bytes, key_bytes) = (certificate.read()?, key.read()?);
    let chain = chain_of(&certificate_bytes);
    let secret = PrivateKeyDer::from_pem_slice(&key_bytes);
    if chain.is_err() && secret.is_err() {
        let is_exchanged = key_file::has_private_key(&certificate_bytes) && chain_of(&key_bytes).is_ok();
        if is_exchanged {
            return Err(IdentityError::Exchanged {
                certificate_flag: certificate.flag,
                certificate: certificate.path.to_owned(),
                key_flag: key.flag,
                key: key.path.to_owned(),
            });
        }
    }
    let chain = chain
        .map_err(|_| certificate.content(key_file::no_certificate(&certificate_bytes, certificate.path)))?;
    let secret = secret.map_err(|_| key.content(key_file::no_private_key(&key_bytes, key.path)))?;
    match check(&chain, &secret) {
        Ok(()) => Ok((chain, secret)),
        Err(Error::InvalidCertificate(error)) => {
            Err(certificate.content(key_file::unusable_certificate(&error, key.path)))
        }
        Err(Error::InconsistentKeys(_)) => Err(IdentityError::NotAPair {
            certificate_flag: certificate.flag,
            certificate: certificate.path.to_owned(),
            key_flag: key.flag,
            key: key.path.to_owned(),
            remedy: pair_remedy(&chain, &secret, certificate.path, key.path),
        }),
        Err(error) => Err(key.content(key_file::unusable_key(&secret, &error, key.path))),
    }
}

impl NamedFile<'_> {
    fn read(self) -> Result<Vec<u8>, IdentityError> {
        let Self { flag, path } = self;
        std::fs::read(path).map_err(|source| IdentityError::Unreadable {
            flag,
            path: path.to_owned(),
            source,
        })
    }

    fn content(self, Diagnosis { found, remedy }: Diagnosis) -> IdentityError {
        IdentityError::Content { flag: self.flag, path: self.path.to_owned(), found, remedy }
    }
}

fn chain_of(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let chain = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>()?;
    if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) }
}

/// Checks that the key's kind is supported, and that it belongs to the first certificate.
fn check(chain: &[CertificateDer<'static>], key: &PrivateKeyDer<'static>) -> Result<(), Error> {
    CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &ring::default_provider()).map(|_| ())
}

fn pair_remedy(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    certificate_path: &Path,
    key_path: &Path,
) -> String {
    let is_of = |n: &usize| !matches!(check(&chain[*n..], key), Err(Error::InconsistentKeys(_)));
    match (1..chain.len()).find(is_of) {
        Some(n) => format!("it belongs to certificate {} of that file, which has to come first", n + 1),
        None => format!(
            "give the two that were made together, the certificate of this end first in its file; `openssl \
             x509 -in {} -noout -pubkey` and `openssl pkey -in {} -pubout` print the same for a pair",
            key_file::quoted(certificate_path),
            key_file::quoted(key_path)
        ),
    }
}

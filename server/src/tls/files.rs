//! Certificate chain and private key from two PEM files, and error messages that say how to fix
//! files that cannot be used.

use std::fmt;
use std::path::{Path, PathBuf};

use engine::rustls::Error;
use engine::rustls::crypto::ring;
use engine::rustls::pki_types::pem::{self, PemObject};
use engine::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use engine::rustls::sign::CertifiedKey;

use super::IdentityError;
use super::key_file::{self, Diagnosis};

/// File that a flag names.
#[derive(Clone, Debug)]
pub struct NamedFile {
    /// The flag, for messages.
    pub flag: &'static str,
    /// The file.
    pub path: PathBuf,
}

impl fmt::Display for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.path.display(), self.flag)
    }
}

/// Reads a certificate chain and its private key from PEM files, and checks that they belong
/// together.
///
/// # Errors
///
/// [`IdentityError`], with the `openssl` command that converts the file where there is one.
pub(super) fn read_identity(
    certificate: NamedFile,
    key: NamedFile,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IdentityError> {
    let (certificate_bytes, key_bytes) = (certificate.read()?, key.read()?);
    let chain = chain_of(&certificate_bytes);
    let secret = PrivateKeyDer::from_pem_slice(&key_bytes);
    if chain.is_err()
        && secret.is_err()
        && key_file::has_private_key(&certificate_bytes)
        && chain_of(&key_bytes).is_ok()
    {
        return Err(IdentityError::Exchanged { certificate, key });
    }
    let Ok(chain) = chain else {
        let content = key_file::no_certificate(&certificate_bytes, &certificate.path);
        return Err(certificate.holds(content));
    };
    let Ok(secret) = secret else {
        let content = key_file::no_private_key(&key_bytes, &key.path);
        return Err(key.holds(content));
    };
    match check(&chain, &secret) {
        Ok(()) => Ok((chain, secret)),
        Err(Error::InvalidCertificate(error)) => {
            let content = key_file::unusable_certificate(&error, &key.path);
            Err(certificate.holds(content))
        }
        Err(Error::InconsistentKeys(_)) => {
            let remedy = pair_remedy(&chain, &secret, &certificate.path, &key.path);
            Err(IdentityError::NotAPair { certificate, key, remedy })
        }
        Err(error) => {
            let content = key_file::unusable_key(&secret, &error, &key.path);
            Err(key.holds(content))
        }
    }
}

/// Reads certificates of authorities from a PEM file.
///
/// # Errors
///
/// [`IdentityError`], with the `openssl` command that converts the file where there is one.
pub(super) fn read_authorities(
    file: NamedFile,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bytes = file.read()?;
    chain_of(&bytes).map_err(|_| {
        let content = key_file::no_certificate(&bytes, &file.path);
        file.holds(content)
    })
}

impl NamedFile {
    fn read(&self) -> Result<Vec<u8>, IdentityError> {
        std::fs::read(&self.path)
            .map_err(|source| IdentityError::Unreadable { file: self.clone(), source })
    }

    fn holds(self, Diagnosis { found, remedy }: Diagnosis) -> IdentityError {
        IdentityError::Content { file: self, found, remedy }
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
        Some(n) => {
            format!("it belongs to certificate {} of that file, which must come first", n + 1)
        }
        None => format!(
            "give a key and a certificate that were made together, with the server's own \
             certificate first in its file; `openssl x509 -in {} -noout -pubkey` and `openssl pkey \
             -in {} -pubout` print the same for a pair",
            key_file::quoted(certificate_path),
            key_file::quoted(key_path)
        ),
    }
}

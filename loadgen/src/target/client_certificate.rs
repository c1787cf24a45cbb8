//! The certificate that the generator shows to a server that asks for one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use engine::rustls::Error;
use engine::rustls::crypto::ring;
use engine::rustls::pki_types::pem::PemObject;
use engine::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use engine::rustls::sign::CertifiedKey;
use engine::tls::TlsIdentity;

/// Files with a certificate chain, the client's own certificate first, and its private key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// File of the chain.
    pub certificate: PathBuf,
    /// File of the key.
    pub key: PathBuf,
}

impl ClientCertificate {
    /// Reads both files, and checks that they belong together. The error names flag, file, cause
    /// and remedy.
    pub(crate) fn load(&self) -> anyhow::Result<TlsIdentity> {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        let pem = read("--cert", &self.certificate)?;
        let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| {
            anyhow!(
                "{certificate} of --cert has no certificate in PEM: expected the client's own first, as \
                 in --cert client.pem --key client-key.pem"
            )
        })?;
        let pem = read("--key", &self.key)?;
        let Ok(secret) = PrivateKeyDer::from_pem_slice(&pem) else {
            if String::from_utf8_lossy(&pem).contains("ENCRYPTED") {
                bail!(
                    "{key} of --key is encrypted: decrypt it with `openssl pkey -in {key} -out plain.pem`"
                );
            }
            bail!(
                "{key} of --key has no private key in PEM: expected that of the certificate, as in --cert \
                 client.pem --key client-key.pem"
            );
        };
        match CertifiedKey::from_der(chain.clone(), secret.clone_key(), &ring::default_provider()) {
            Ok(_) => Ok(TlsIdentity { chain, key: secret }),
            Err(Error::InconsistentKeys(_)) => Err(anyhow!(
                "{key} of --key does not belong to {certificate} of --cert: give files that were made \
                 together, with the client's own certificate first"
            )),
            Err(error) => Err(anyhow!(
                "{certificate} of --cert and {key} of --key cannot be used ({error}): expected RSA, ECDSA \
                 on P-256 or P-384, or Ed25519"
            )),
        }
    }
}

fn read(flag: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        anyhow!(
            "cannot read {} of {flag} ({error}): give a file that this user may read",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn unusable_files_are_named_with_their_flag() {
        let folder = std::env::temp_dir().join(format!("sparring-client-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).expect("a file");
            path
        };
        let keys = [(); 2].map(|()| KeyPair::generate().expect("a key"));
        let params = CertificateParams::new(vec!["client".to_owned()]).expect("a name");
        let made = params.self_signed(&keys[0]).expect("a certificate");
        let right = write("right.pem", &made.pem());
        let key = write("key.pem", &keys[0].serialize_pem());
        let other = write("other.pem", &keys[1].serialize_pem());
        let label = "ENCRYPTED PRIVATE KEY";
        let encrypted = format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        let encrypted = write("encrypted.pem", &encrypted);
        let missing = folder.join("missing.pem");
        let load = |certificate: &Path, key: &Path| {
            ClientCertificate { certificate: certificate.to_owned(), key: key.to_owned() }.load()
        };
        load(&right, &key).expect("a pair");
        for (certificate, key, says) in [
            (&missing, &key, ["missing.pem of --cert", "cannot read"]),
            (&key, &key, ["key.pem of --cert", "as in --cert client.pem"]),
            (&right, &missing, ["missing.pem of --key", "cannot read"]),
            (&right, &right, ["right.pem of --key", "as in --cert client.pem"]),
            (&right, &encrypted, ["encrypted.pem of --key", "openssl pkey"]),
            (&right, &other, ["other.pem of --key", "does not belong to"]),
        ] {
            let error = load(certificate, key).expect_err("unusable").to_string();
            assert!(says.iter().all(|part| error.contains(part)), "{says:?}: {error}");
        }
        fs::remove_dir_all(&folder).expect("the folder");
    }
}

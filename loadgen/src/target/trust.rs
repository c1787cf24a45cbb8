//! Certificates that a client of wss:// accepts, and the remedy for one that it rejects.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use anyhow::{anyhow, ensure};
use engine::rustls::pki_types::pem::{self, PemObject};
use engine::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use engine::rustls::{AlertDescription, CertificateError, Error, InvalidMessage, RootCertStore};
use engine::tls::{self, ClientSettings, TlsClient, TlsError, TlsVersions, webpki_error};
use engine::webpki;

use super::client_certificate::ClientCertificate;

/// Certificates that a client accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Certificates of the authorities that this system knows.
    #[default]
    System,
    /// Certificates in this PEM file, and certificates of authorities in it, and no others.
    Authorities(PathBuf),
    /// All certificates.
    Anybody,
}

impl Trust {
    /// Returns the flag that asks for it, where it is not the default.
    pub(crate) fn flag(&self) -> Option<&'static str> {
        match self {
            Self::System => None,
            Self::Authorities(_) => Some("--ca"),
            Self::Anybody => Some("--insecure"),
        }
    }

    /// Returns the client's side of TLS with `host`. An error names file, cause and remedy.
    pub(crate) fn client(
        &self,
        host: &str,
        certificate: Option<&ClientCertificate>,
        versions: TlsVersions,
    ) -> anyhow::Result<TlsClient> {
        let server = ServerName::try_from(host.to_owned()).map_err(|_| {
            anyhow!(
                "`{host}` is no name that a certificate could bear: wss:// needs a host name or an address"
            )
        })?;
        let identity = certificate.map(ClientCertificate::load).transpose()?;
        let settings = |trust| ClientSettings { trust, identity, versions };
        let client = match self {
            Self::System => TlsClient::new(settings(tls::Trust::Roots(system()?)), server),
            Self::Authorities(path) => {
                let trust = tls::Trust::Certificates(certificates(path)?);
                return TlsClient::new(settings(trust), server)
                    .map_err(|error| unusable(path, &error));
            }
            Self::Anybody => TlsClient::new(settings(tls::Trust::Anybody), server),
        };
        client.map_err(|error| {
            anyhow!(
                "cannot set up TLS ({error}): this is a fault of this program, use ws:// until it is fixed"
            )
        })
    }
}

fn system() -> anyhow::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Old or unusual certificates that cannot be parsed are skipped silently.
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    let cause =
        || found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
    ensure!(
        taken > 0,
        "this system knows no authorities ({}): install ca-certificates, or give --ca FILE or --insecure",
        cause()
    );
    Ok(roots)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(path).map_err(|error| {
        anyhow!(
            "cannot read {} of --ca ({error}): give a file that this user may read",
            path.display()
        )
    })?;
    let certificates =
        CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, pem::Error>>();
    let certificates = certificates.map_err(|error| unusable(path, &error))?;
    if certificates.is_empty() {
        return Err(unusable(path, &"nothing of the kind in it"));
    }
    Ok(certificates)
}

/// Returns the error for a file without a certificate that could be an authority's.
fn unusable(path: &Path, cause: &dyn fmt::Display) -> anyhow::Error {
    anyhow!(
        "{} of --ca has no certificate in PEM ({cause}): give the authority's, or that of the server itself \
         where it is self-signed",
        path.display()
    )
}

/// Returns the reason why TLS failed and, where there is one, the remedy.
pub(crate) fn explain(error: &TlsError) -> String {
    match error {
        TlsError::NotTls => {
            "the server does not speak TLS at this port: use ws://, or its port for wss://"
                .to_owned()
        }
        TlsError::CertificateWanted => {
            "the server wants a client certificate: give one with --cert FILE and --key FILE"
                .to_owned()
        }
        TlsError::Unfinished => "the server closed the connection in the TLS handshake".to_owned(),
        TlsError::Protocol(Error::InvalidCertificate(error)) => untrusted(error),
        TlsError::Protocol(Error::AlertReceived(alert)) => refused(*alert),
        TlsError::Protocol(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "the server sends something that is not TLS".to_owned()
        }
        TlsError::Protocol(error) => format!("TLS: {error}"),
        error @ TlsError::KeysExhausted => error.to_string(),
    }
}

/// Returns the reason why a server ended the TLS handshake, and the remedy.
fn refused(alert: AlertDescription) -> String {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRevoked, CertificateUnknown,
        DecryptError, NoApplicationProtocol, ProtocolVersion, UnknownCA, UnsupportedCertificate,
    };
    match alert {
        // The only certificate that a server judges is the client's.
        BadCertificate
        | CertificateExpired
        | CertificateRevoked
        | CertificateUnknown
        | UnknownCA
        | UnsupportedCertificate
        | DecryptError
        | AccessDenied => format!(
            "the server rejects the client certificate (alert {alert:?}): give one with --cert and --key \
             that is valid now and issued by an authority that the server knows"
        ),
        ProtocolVersion => format!(
            "the server agrees to none of the offered versions of TLS (alert {alert:?}): see --tls-min \
             and --tls-max"
        ),
        NoApplicationProtocol => format!(
            "the server does not speak http/1.1 at this port (alert {alert:?}): a WebSocket begins with it"
        ),
        _ => format!("the server gave up in the TLS handshake (alert {alert:?})"),
    }
}

fn untrusted(error: &CertificateError) -> String {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext,
        NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    const RENEW: &str = "have it renewed, look at the clock, or take any with --insecure";
    const MAKE: &str = "(`openssl req -x509 ... -addext subjectAltName=DNS:NAME` or `=IP:ADDRESS`), or take any \
                        with --insecure";
    let (cause, remedy) = match error {
        // A bad signature: it names an authority that is known here, and whose key did not sign it.
        // Two authorities that were made by the same program often bear the same name.
        UnknownIssuer | BadSignature => (
            "was not issued by an authority known here".to_owned(),
            "give the authority's with --ca FILE, or take anybody's with --insecure".to_owned(),
        ),
        NotValidForNameContext { presented, .. } if presented.is_empty() => {
            ("names no host".to_owned(), format!("make it with one {MAKE}"))
        }
        NotValidForNameContext { presented, .. } => (
            format!("is for {}, not for the host of the URL", presented.join(", ")),
            "use one of these, or take any with --insecure".to_owned(),
        ),
        NotValidForName => ("is not for the host of the URL".to_owned(), RENEW.to_owned()),
        ExpiredContext { time, not_after } => {
            (format!("expired {} ago", days(*not_after, *time)), RENEW.to_owned())
        }
        Expired => ("has expired".to_owned(), RENEW.to_owned()),
        NotValidYetContext { time, not_before } => {
            (format!("is valid only in {}", days(*time, *not_before)), RENEW.to_owned())
        }
        NotValidYet => ("is not valid yet".to_owned(), RENEW.to_owned()),
        other => match webpki_error(other) {
            // What `openssl req -x509` makes when it is not told otherwise.
            Some(webpki::Error::CaUsedAsEndEntity) => (
                "is an authority's (CA:TRUE), which is a server's only where it is known itself"
                    .to_owned(),
                "give that certificate with --ca FILE, or take any with --insecure".to_owned(),
            ),
            Some(webpki::Error::UnsupportedCertVersion) => (
                "is older than X.509 version 3 and names no host".to_owned(),
                format!("make one that does {MAKE}"),
            ),
            _ => (format!("cannot be checked ({other})"), "take any with --insecure".to_owned()),
        },
    };
    format!("the server's certificate {cause}: {remedy}")
}

/// Returns the time between the two, in whole days where it is more than one.
fn days(from: UnixTime, to: UnixTime) -> String {
    const DAY: u64 = 24 * 60 * 60;
    let seconds = to.as_secs().saturating_sub(from.as_secs());
    let span = Duration::from_secs(if seconds > DAY { seconds / DAY * DAY } else { seconds });
    humantime::format_duration(span).to_string()
}

/// Returns a blocking TLS client over `stream` that accepts any certificate.
pub(crate) fn probe<S: io::Read + io::Write>(
    host: &str,
    stream: S,
) -> io::Result<engine::rustls::StreamOwned<engine::rustls::ClientConnection, S>> {
    let TlsClient { config, server, .. } =
        Trust::Anybody.client(host, None, TlsVersions::default()).map_err(io::Error::other)?;
    let client = engine::rustls::ClientConnection::new(Arc::clone(&config), server)
        .map_err(io::Error::other)?;
    Ok(engine::rustls::StreamOwned::new(client, stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_read_or_the_file_is_named() {
        let error = Trust::Authorities("/no/such/file".into())
            .client("h", None, TlsVersions::default())
            .expect_err("no file")
            .to_string();
        assert!(error.contains("--ca") && error.contains("/no/such/file"), "{error}");
        let empty = Trust::Authorities("/dev/null".into())
            .client("h", None, TlsVersions::default())
            .expect_err("nothing in it")
            .to_string();
        assert!(
            empty.contains("--ca") && empty.contains("/dev/null") && empty.contains("self-signed"),
            "{empty}"
        );
        let name = Trust::Anybody
            .client("a b", None, TlsVersions::default())
            .expect_err("a space")
            .to_string();
        assert!(name.contains("`a b`"), "{name}");
        for host in ["localhost", "127.0.0.1", "::1"] {
            Trust::Anybody.client(host, None, TlsVersions::default()).expect(host);
        }
    }

    #[test]
    fn what_can_be_done_is_said() {
        let protocol = |error| explain(&TlsError::Protocol(Error::InvalidCertificate(error)));
        let unknown = protocol(CertificateError::UnknownIssuer);
        assert!(unknown.contains("--ca") && unknown.contains("--insecure"), "{unknown}");
        let expected = ServerName::try_from("h").expect("a name");
        let presented = vec!["a.example".to_owned()];
        let other = protocol(CertificateError::NotValidForNameContext { expected, presented });
        assert!(other.contains("a.example") && other.contains("--insecure"), "{other}");
        let at = |days: u64| UnixTime::since_unix_epoch(Duration::from_secs(days * 86_400 + 7));
        let expired = protocol(CertificateError::ExpiredContext { time: at(20), not_after: at(3) });
        assert!(
            expired.contains("expired 17days ago") && expired.contains("--insecure"),
            "{expired}"
        );
        assert!(explain(&TlsError::NotTls).contains("ws://"));
        let alert = |alert| explain(&TlsError::Protocol(Error::AlertReceived(alert)));
        let rejected = alert(AlertDescription::CertificateExpired);
        assert!(
            rejected.contains("client certificate") && rejected.contains("--cert"),
            "{rejected}"
        );
        assert!(alert(AlertDescription::ProtocolVersion).contains("--tls-min"));
        assert!(alert(AlertDescription::NoApplicationProtocol).contains("http/1.1"));
        assert!(explain(&TlsError::CertificateWanted).contains("--cert FILE and --key FILE"));
    }
}

//! Description of files that were given as a certificate or a private key.

use std::path::Path;

use rustls::pki_types::PrivateKeyDer;
use rustls::{CertificateError, Error};

use super::der::{Der, Kind};

/// Content of an unusable file, and its remedy.
#[derive(Debug)]
pub(super) struct Diagnosis {
    pub(super) found: String,
    pub(super) remedy: String,
}

fn diagnosis(found: impl Into<String>, remedy: impl Into<String>) -> Diagnosis {
    Diagnosis { found: found.into(), remedy: remedy.into() }
}

/// Command that creates a key which every TLS client supports.
const CREATE_KEY: &str = "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem`";

fn create_key() -> String {
    format!("create one with {CREATE_KEY}, and a certificate for it")
}

/// Remedy for a kind of key that is not supported.
fn no_conversion() -> String {
    format!("no conversion exists: {}", create_key())
}

/// Returns the path as an argument for a shell.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+' | '@' | ',' | ':');
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Label of each PEM section.
fn labels(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let label = |line: &str| {
        let label = line.trim_end().strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
        // No existing label is longer.
        Some(label.escape_debug().take(40).collect())
    };
    text.lines().filter_map(label).collect()
}

/// Returns true where the file has a private key in PEM, encrypted or not.
pub(super) fn has_private_key(bytes: &[u8]) -> bool {
    labels(bytes).iter().any(|label| label.ends_with("PRIVATE KEY"))
}

/// Returns true for the header of an encrypted section (RFC 1421 4.6.1.1).
fn has_encrypted_section(bytes: &[u8]) -> bool {
    bytes.split(|&byte| byte == b'\n').any(|line| line.starts_with(b"Proc-Type: 4,ENCRYPTED"))
}

/// Content of a file in which no usable private key was found.
pub(super) fn no_private_key(bytes: &[u8], path: &Path) -> Diagnosis {
    let (labels, file) = (labels(bytes), quoted(path));
    let has = |wanted: &str| labels.iter().any(|label| label == wanted);
    let decrypt = || {
        format!("decrypt it with `openssl pkey -in {file} -out plain-key.pem`, which asks for its password")
    };
    if has("ENCRYPTED PRIVATE KEY") || has_encrypted_section(bytes) {
        return diagnosis("an encrypted private key", decrypt());
    }
    if has("DSA PRIVATE KEY") {
        return diagnosis("a DSA key", no_conversion());
    }
    if has("OPENSSH PRIVATE KEY") {
        return diagnosis(
            "a key in the format of OpenSSH",
            format!("openssl does not convert it: {}", create_key()),
        );
    }
    if labels.iter().any(|label| label.ends_with("PRIVATE KEY")) {
        let remedy =
            format!("copy the file again, with every line; `openssl pkey -in {file} -noout` checks it");
        return diagnosis("a damaged private key in PEM", remedy);
    }
    let belongs = "give the file with the private key that belongs to it";
    if has("CERTIFICATE") || has("TRUSTED CERTIFICATE") || has("X509 CERTIFICATE") {
        return diagnosis("a certificate and no private key", belongs);
    }
    if labels.iter().any(|label| label.ends_with("CERTIFICATE REQUEST")) {
        return diagnosis("a certificate request and no private key", belongs);
    }
    if labels.iter().any(|label| label.ends_with("PUBLIC KEY")) {
        return diagnosis("a public key alone", belongs);
    }
    if labels.iter().any(|label| label.ends_with("PARAMETERS")) {
        return diagnosis("parameters alone and no private key", create_key());
    }
    if let Some(label) = labels.first() {
        return diagnosis(format!("`{label}` and no private key"), create_key());
    }
    let convert = |command: &str| format!("convert it with `{command} -in {file} -out key.pem`");
    match Der::of(bytes) {
        Some(Der::Key) => diagnosis("a private key in DER", convert("openssl pkey -inform DER")),
        Some(Der::EncryptedKey) => {
            let remedy = format!(
                "decrypt and convert it with `openssl pkcs8 -inform DER -in {file} -out key.pem`, which asks \
                 for its password"
            );
            diagnosis("an encrypted private key in DER", remedy)
        }
        Some(Der::DsaKey) => diagnosis("a DSA key in DER", no_conversion()),
        Some(Der::Pkcs12) => {
            diagnosis("a PKCS #12 container", convert("openssl pkcs12 -nocerts -nodes") + &certificate_too())
        }
        Some(Der::Certificate) => diagnosis("a certificate in DER and no private key", belongs),
        Some(Der::Request) => diagnosis("a certificate request in DER and no private key", belongs),
        Some(Der::PublicKey) => diagnosis("a public key in DER alone", belongs),
        Some(Der::Pkcs7) => diagnosis("certificates in PKCS #7 and no private key", belongs),
        None => nothing(bytes, "-----BEGIN PRIVATE KEY-----"),
    }
}

fn certificate_too() -> String {
    "; its certificate comes with -nokeys in place of -nocerts".to_owned()
}

/// Content of a file without PEM or DER.
fn nothing(bytes: &[u8], begins: &str) -> Diagnosis {
    // UTF-16 has a zero byte beside each letter.
    let letters: Vec<u8> = bytes.iter().copied().filter(|&byte| byte != 0).collect();
    if letters.windows(11).any(|window| window == b"-----BEGIN ") {
        return diagnosis(
            "PEM whose lines begin with something else",
            "save it as ASCII, without a byte order mark and without spaces before the lines",
        );
    }
    let found = if bytes.is_empty() { "nothing" } else { "neither PEM nor DER" };
    diagnosis(found, format!("a file in PEM is needed, with {begins}"))
}

/// Content of a file in which no usable certificate was found.
pub(super) fn no_certificate(bytes: &[u8], path: &Path) -> Diagnosis {
    let (labels, file) = (labels(bytes), quoted(path));
    let has = |wanted: &str| labels.iter().any(|label| label == wanted);
    let convert = |command: &str| format!("convert it with `{command} -in {file} -out certificate.pem`");
    let sign = "have an authority sign it, and give the certificate that it returns";
    if has("CERTIFICATE") {
        let remedy =
            format!("copy the file again, with every line; `openssl x509 -in {file} -noout` checks it");
        return diagnosis("a damaged certificate in PEM", remedy);
    }
    if has("TRUSTED CERTIFICATE") || has("X509 CERTIFICATE") {
        return diagnosis("a certificate in a form of openssl's own", convert("openssl x509"));
    }
    if labels.iter().any(|label| label.ends_with("CERTIFICATE REQUEST")) {
        return diagnosis("a certificate request, which nobody has signed", sign);
    }
    if has("PKCS7") || has("CMS") {
        return diagnosis("certificates in PKCS #7", convert("openssl pkcs7 -print_certs"));
    }
    let belongs = "give the file with the certificate that belongs to it";
    if has_private_key(bytes) {
        return diagnosis("a private key and no certificate", belongs);
    }
    if labels.iter().any(|label| label.ends_with("PUBLIC KEY")) {
        return diagnosis("a public key and no certificate", belongs);
    }
    let needed = "a file in PEM is needed, with -----BEGIN CERTIFICATE-----";
    if let Some(label) = labels.first() {
        return diagnosis(format!("`{label}` and no certificate"), needed);
    }
    match Der::of(bytes) {
        Some(Der::Certificate) => diagnosis("a certificate in DER", convert("openssl x509 -inform DER")),
        Some(Der::Pkcs12) => {
            let remedy = convert("openssl pkcs12 -nokeys") + "; its key comes with -nocerts -nodes instead";
            diagnosis("a PKCS #12 container", remedy)
        }
        Some(Der::Pkcs7) => {
            diagnosis("certificates in PKCS #7", convert("openssl pkcs7 -inform DER -print_certs"))
        }
        Some(Der::Request) => diagnosis("a certificate request, which nobody has signed", sign),
        Some(Der::Key | Der::EncryptedKey | Der::DsaKey) => {
            diagnosis("a private key in DER and no certificate", belongs)
        }
        Some(Der::PublicKey) => diagnosis("a public key in DER and no certificate", belongs),
        None => nothing(bytes, "-----BEGIN CERTIFICATE-----"),
    }
}

/// Remedy for a certificate that cannot be read or has an old version.
pub(super) fn unusable_certificate(error: &CertificateError, key: &Path) -> Diagnosis {
    let remedy = format!(
        "a certificate of X.509 version 3 is needed, as `openssl req -x509 -key {} -subj /CN=localhost \
         -addext subjectAltName=DNS:localhost -out certificate.pem` makes one",
        quoted(key)
    );
    diagnosis(format!("a certificate that cannot be used ({error})"), remedy)
}

/// Remedy for a private key that the library rejects.
pub(super) fn unusable_key(key: &PrivateKeyDer<'_>, error: &Error, path: &Path) -> Diagnosis {
    let file = quoted(path);
    match Kind::of(key) {
        Kind::ExplicitCurve => diagnosis(
            "a key that spells its curve out in place of naming it",
            format!(
                "name the curve with `openssl pkey -in {file} -ec_param_enc named_curve -out key.pem`, and \
                 create the certificate anew"
            ),
        ),
        Kind::Unsupported(found) => diagnosis(found, no_conversion()),
        Kind::Supported(kind) => diagnosis(
            format!("{kind} that cannot be used ({error})"),
            format!(
                "`openssl pkey -in {file} -noout -check` checks it, and `openssl pkey -in {file} -out \
                 key.pem` writes it anew"
            ),
        ),
        Kind::Unknown => diagnosis(
            format!("a key of an unknown kind ({error})"),
            format!("`openssl pkey -in {file} -noout -text` shows it; {}", create_key()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(label: &str) -> Vec<u8> {
        format!("text before it\n-----BEGIN {label}-----\r\nAAAA\n-----END {label}-----\n").into_bytes()
    }

    #[test]
    fn sections_of_other_kinds_are_named_in_place_of_a_key() {
        for (label, found, remedy) in [
            ("ENCRYPTED PRIVATE KEY", "an encrypted private key", "`openssl pkey -in k.pem"),
            ("DSA PRIVATE KEY", "a DSA key", "genpkey"),
            ("OPENSSH PRIVATE KEY", "a key in the format of OpenSSH", "genpkey"),
            ("PRIVATE KEY", "a damaged private key in PEM", "`openssl pkey -in k.pem -noout`"),
            ("EC PRIVATE KEY", "a damaged private key in PEM", "every line"),
            ("CERTIFICATE", "a certificate and no private key", "belongs to it"),
            ("NEW CERTIFICATE REQUEST", "a certificate request and no private key", "belongs to it"),
            ("RSA PUBLIC KEY", "a public key alone", "belongs to it"),
            ("EC PARAMETERS", "parameters alone and no private key", "genpkey"),
            ("X509 CRL", "`X509 CRL` and no private key", "genpkey"),
        ] {
            let Diagnosis { found: said, remedy: to_do } = no_private_key(&pem(label), Path::new("k.pem"));
            assert_eq!(said, found);
            assert!(to_do.contains(remedy), "{label}: {to_do}");
        }
        let legacy = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n";
        assert_eq!(no_private_key(legacy, Path::new("k.pem")).found, "an encrypted private key");
    }

    #[test]
    fn sections_of_other_kinds_are_named_in_place_of_a_certificate() {
        for (label, found, remedy) in [
            ("CERTIFICATE", "a damaged certificate in PEM", "`openssl x509 -in c.pem -noout`"),
            ("TRUSTED CERTIFICATE", "a certificate in a form of openssl's own", "`openssl x509 -in c.pem"),
            ("CERTIFICATE REQUEST", "a certificate request, which nobody has signed", "sign it"),
            ("PKCS7", "certificates in PKCS #7", "`openssl pkcs7 -print_certs -in c.pem"),
            ("PRIVATE KEY", "a private key and no certificate", "belongs to it"),
            ("PUBLIC KEY", "a public key and no certificate", "belongs to it"),
            ("X509 CRL", "`X509 CRL` and no certificate", "BEGIN CERTIFICATE"),
        ] {
            let Diagnosis { found: said, remedy: to_do } = no_certificate(&pem(label), Path::new("c.pem"));
            assert_eq!(said, found);
            assert!(to_do.contains(remedy), "{label}: {to_do}");
        }
    }

    #[test]
    fn binary_files_come_with_the_command_that_converts_them() {
        let path = Path::new("it's a.der");
        let key = no_private_key(include_bytes!("fixtures/pkcs8-p256.der"), path);
        assert_eq!(key.found, "a private key in DER");
        let command = r"`openssl pkey -inform DER -in 'it'\''s a.der' -out key.pem`";
        assert!(key.remedy.contains(command), "{}", key.remedy);
        let container = no_private_key(include_bytes!("fixtures/pkcs12.der"), path);
        assert_eq!(container.found, "a PKCS #12 container");
        let certificate = no_certificate(include_bytes!("fixtures/certificate.der"), path);
        assert_eq!(certificate.found, "a certificate in DER");
        let exchanged = no_certificate(include_bytes!("fixtures/pkcs8-p256.der"), path);
        assert_eq!(exchanged.found, "a private key in DER and no certificate");
    }

    #[test]
    fn text_without_a_section_is_told_from_nothing() {
        let found = |bytes: &[u8]| no_private_key(bytes, Path::new("k")).found;
        assert_eq!(found(b""), "nothing");
        assert_eq!(found(b"hello\n"), "neither PEM nor DER");
        let indented = "PEM whose lines begin with something else";
        assert_eq!(found(b"  -----BEGIN PRIVATE KEY-----\n"), indented);
        let wide: Vec<u8> = "-----BEGIN PRIVATE KEY-----".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(found(&wide), indented);
    }

    #[test]
    fn a_label_from_a_file_is_escaped_and_cut() {
        let said = no_certificate(&pem(&format!("\u{1b}[31m{}", "A".repeat(1000))), Path::new("c")).found;
        assert!(said.starts_with("`\\u{1b}[31mAAA") && said.len() < 80, "{said}");
    }
}

//! Description of files that were given as a certificate or a private key.

use std::path::Path;

use engine::rustls::pki_types::PrivateKeyDer;
use engine::rustls::{CertificateError, Error};

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

/// Remedy where a new key is needed. The command creates a key that every TLS client supports.
const CREATE: &str = "create one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem`, \
                      and a certificate for it";

/// Remedy for a kind of key that is not supported.
const NO_CONVERSION: &str = "no conversion exists: {create}";
/// Remedy where the file has the wrong one of both contents.
const GIVE_KEY: &str = "give the file with the private key that belongs to it";
const GIVE_CERTIFICATE: &str = "give the file with the certificate that belongs to it";
const SIGN: &str = "have an authority sign it, and give the certificate that it returns";

/// Fills the places of a remedy: `{create}`, and `{file}` for the file as an argument for a shell.
fn filled(remedy: &str, path: &Path) -> String {
    remedy.replace("{create}", CREATE).replace("{file}", &quoted(path))
}

/// Returns the path as an argument for a shell.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+' | '@' | ',' | ':')
    };
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

/// Returns true if the file has a private key in PEM, encrypted or not.
pub(super) fn has_private_key(bytes: &[u8]) -> bool {
    labels(bytes).iter().any(|label| label.ends_with("PRIVATE KEY"))
}

/// Returns true for the header of an encrypted section (RFC 1421 4.6.1.1).
fn has_encrypted_section(bytes: &[u8]) -> bool {
    bytes.split(|&byte| byte == b'\n').any(|line| line.starts_with(b"Proc-Type: 4,ENCRYPTED"))
}

/// Files without a usable private key, by the end of a PEM label: content and remedy. The first
/// rule that a section matches applies.
const PEM_WITHOUT_KEY: &[(&str, &str, &str)] = &[
    ("ENCRYPTED PRIVATE KEY", "an encrypted private key", DECRYPT),
    ("DSA PRIVATE KEY", "a DSA key", NO_CONVERSION),
    (
        "OPENSSH PRIVATE KEY",
        "a key in the format of OpenSSH",
        "openssl does not convert it: {create}",
    ),
    (
        "PRIVATE KEY",
        "a damaged private key in PEM",
        "copy the file again, with every line; `openssl pkey -in {file} -noout` checks it",
    ),
    ("CERTIFICATE", "a certificate and no private key", GIVE_KEY),
    ("CERTIFICATE REQUEST", "a certificate request and no private key", GIVE_KEY),
    ("PUBLIC KEY", "a public key alone", GIVE_KEY),
    ("PARAMETERS", "parameters alone and no private key", "{create}"),
];

const DECRYPT: &str =
    "decrypt it with `openssl pkey -in {file} -out plain-key.pem`, which asks for its password";

/// Files without a usable certificate, likewise.
const PEM_WITHOUT_CERTIFICATE: &[(&str, &str, &str)] = &[
    ("TRUSTED CERTIFICATE", OPENSSL_CERTIFICATE, CONVERT_CERTIFICATE),
    ("X509 CERTIFICATE", OPENSSL_CERTIFICATE, CONVERT_CERTIFICATE),
    (
        "CERTIFICATE",
        "a damaged certificate in PEM",
        "copy the file again, with every line; `openssl x509 -in {file} -noout` checks it",
    ),
    ("CERTIFICATE REQUEST", "a certificate request, which nobody has signed", SIGN),
    ("PKCS7", "certificates in PKCS #7", CONVERT_PKCS7),
    ("CMS", "certificates in PKCS #7", CONVERT_PKCS7),
    ("PRIVATE KEY", "a private key and no certificate", GIVE_CERTIFICATE),
    ("PUBLIC KEY", "a public key and no certificate", GIVE_CERTIFICATE),
];

const OPENSSL_CERTIFICATE: &str = "a certificate in a form of openssl's own";
const CONVERT_CERTIFICATE: &str = "convert it with `openssl x509 -in {file} -out certificate.pem`";
const CONVERT_PKCS7: &str =
    "convert it with `openssl pkcs7 -print_certs -in {file} -out certificate.pem`";

/// Applies the rules for PEM labels.
fn by_label(labels: &[String], rules: &[(&str, &str, &str)], path: &Path) -> Option<Diagnosis> {
    let matches = |end: &str| labels.iter().any(|label| label.ends_with(end));
    let (_, found, remedy) = rules.iter().find(|(end, ..)| matches(end))?;
    Some(diagnosis(*found, filled(remedy, path)))
}

/// Content of a file in which no usable private key was found.
pub(super) fn no_private_key(bytes: &[u8], path: &Path) -> Diagnosis {
    let labels = labels(bytes);
    if has_encrypted_section(bytes) {
        return diagnosis("an encrypted private key", filled(DECRYPT, path));
    }
    if let Some(diagnosis) = by_label(&labels, PEM_WITHOUT_KEY, path) {
        return diagnosis;
    }
    if let Some(label) = labels.first() {
        return diagnosis(format!("`{label}` and no private key"), CREATE);
    }
    let (found, remedy) = match Der::of(bytes) {
        Some(Der::Key) => (
            "a private key in DER",
            "convert it with `openssl pkey -inform DER -in {file} -out key.pem`",
        ),
        Some(Der::EncryptedKey) => (
            "an encrypted private key in DER",
            "decrypt and convert it with `openssl pkcs8 -inform DER -in {file} -out key.pem`, which asks for its \
             password",
        ),
        Some(Der::DsaKey) => ("a DSA key in DER", NO_CONVERSION),
        Some(Der::Pkcs12) => (
            "a PKCS #12 container",
            "convert it with `openssl pkcs12 -nocerts -nodes -in {file} -out key.pem`; its certificate comes with \
             -nokeys in place of -nocerts",
        ),
        Some(Der::Certificate) => ("a certificate in DER and no private key", GIVE_KEY),
        Some(Der::Request) => ("a certificate request in DER and no private key", GIVE_KEY),
        Some(Der::PublicKey) => ("a public key in DER alone", GIVE_KEY),
        Some(Der::Pkcs7) => ("certificates in PKCS #7 and no private key", GIVE_KEY),
        None => return nothing(bytes, "-----BEGIN PRIVATE KEY-----"),
    };
    diagnosis(found, filled(remedy, path))
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
    let labels = labels(bytes);
    if let Some(diagnosis) = by_label(&labels, PEM_WITHOUT_CERTIFICATE, path) {
        return diagnosis;
    }
    if let Some(label) = labels.first() {
        let needed = "a file in PEM is needed, with -----BEGIN CERTIFICATE-----";
        return diagnosis(format!("`{label}` and no certificate"), needed);
    }
    let (found, remedy) = match Der::of(bytes) {
        Some(Der::Certificate) => (
            "a certificate in DER",
            "convert it with `openssl x509 -inform DER -in {file} -out certificate.pem`",
        ),
        Some(Der::Pkcs12) => (
            "a PKCS #12 container",
            "convert it with `openssl pkcs12 -nokeys -in {file} -out certificate.pem`; its key comes with -nocerts \
             -nodes instead",
        ),
        Some(Der::Pkcs7) => (
            "certificates in PKCS #7",
            "convert it with `openssl pkcs7 -inform DER -print_certs -in {file} -out certificate.pem`",
        ),
        Some(Der::Request) => ("a certificate request, which nobody has signed", SIGN),
        Some(Der::Key | Der::EncryptedKey | Der::DsaKey) => {
            ("a private key in DER and no certificate", GIVE_CERTIFICATE)
        }
        Some(Der::PublicKey) => ("a public key in DER and no certificate", GIVE_CERTIFICATE),
        None => return nothing(bytes, "-----BEGIN CERTIFICATE-----"),
    };
    diagnosis(found, filled(remedy, path))
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
        Kind::Unsupported(found) => diagnosis(found, filled(NO_CONVERSION, path)),
        Kind::Supported(kind) => diagnosis(
            format!("{kind} that cannot be used ({error})"),
            format!(
                "`openssl pkey -in {file} -noout -check` checks it, and `openssl pkey -in {file} -out \
                 key.pem` writes it anew"
            ),
        ),
        Kind::Unknown => diagnosis(
            format!("a key of an unknown kind ({error})"),
            format!("`openssl pkey -in {file} -noout -text` shows it; {CREATE}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(label: &str) -> Vec<u8> {
        format!("text before it\n-----BEGIN {label}-----\r\nAAAA\n-----END {label}-----\n")
            .into_bytes()
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
            (
                "NEW CERTIFICATE REQUEST",
                "a certificate request and no private key",
                "belongs to it",
            ),
            ("RSA PUBLIC KEY", "a public key alone", "belongs to it"),
            ("EC PARAMETERS", "parameters alone and no private key", "genpkey"),
            ("X509 CRL", "`X509 CRL` and no private key", "genpkey"),
        ] {
            let Diagnosis { found: said, remedy: to_do } =
                no_private_key(&pem(label), Path::new("k.pem"));
            assert_eq!(said, found);
            assert!(to_do.contains(remedy), "{label}: {to_do}");
        }
        let legacy =
            b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n";
        assert_eq!(no_private_key(legacy, Path::new("k.pem")).found, "an encrypted private key");
    }

    #[test]
    fn sections_of_other_kinds_are_named_in_place_of_a_certificate() {
        for (label, found, remedy) in [
            ("CERTIFICATE", "a damaged certificate in PEM", "`openssl x509 -in c.pem -noout`"),
            (
                "TRUSTED CERTIFICATE",
                "a certificate in a form of openssl's own",
                "`openssl x509 -in c.pem",
            ),
            ("CERTIFICATE REQUEST", "a certificate request, which nobody has signed", "sign it"),
            ("PKCS7", "certificates in PKCS #7", "`openssl pkcs7 -print_certs -in c.pem"),
            ("PRIVATE KEY", "a private key and no certificate", "belongs to it"),
            ("PUBLIC KEY", "a public key and no certificate", "belongs to it"),
            ("X509 CRL", "`X509 CRL` and no certificate", "BEGIN CERTIFICATE"),
        ] {
            let Diagnosis { found: said, remedy: to_do } =
                no_certificate(&pem(label), Path::new("c.pem"));
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
        let wide: Vec<u8> =
            "-----BEGIN PRIVATE KEY-----".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(found(&wide), indented);
    }

    #[test]
    fn a_label_from_a_file_is_escaped_and_cut() {
        let said =
            no_certificate(&pem(&format!("\u{1b}[31m{}", "A".repeat(1000))), Path::new("c")).found;
        assert!(said.starts_with("`\\u{1b}[31mAAA") && said.len() < 80, "{said}");
    }
}

//! Contents of files that were given as a certificate or a private key, named as people know them.

use std::path::Path;

use rustls::pki_types::PrivateKeyDer;
use rustls::{CertificateError, Error};

/// Content of an unusable file, and what to do about it.
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

/// Remedy where the file's kind of key is not supported at all.
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

// ---- PEM

/// Label of each PEM section.
fn labels(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let label = |line: &str| {
        let label = line.trim_end().strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
        // No label that exists is longer.
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
                "decrypt and convert it with `openssl pkcs8 -inform DER -in {file} -out key.pem`, which asks for its \
                 password"
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
    // UTF-16 has a zero beside each letter.
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
        "a certificate of X.509 version 3 is needed, as `openssl req -x509 -key {} -subj /CN=localhost -addext \
         subjectAltName=DNS:localhost -out certificate.pem` makes one",
        quoted(key)
    );
    diagnosis(format!("a certificate that cannot be used ({error})"), remedy)
}

/// Remedy for a private key that was read, and that the library rejects.
pub(super) fn unusable_key(key: &PrivateKeyDer<'_>, error: &Error, path: &Path) -> Diagnosis {
    let file = quoted(path);
    match Kind::of(key) {
        Kind::ExplicitCurve => diagnosis(
            "a key that spells its curve out in place of naming it",
            format!(
                "name the curve with `openssl pkey -in {file} -ec_param_enc named_curve -out key.pem`, and create the \
                 certificate anew"
            ),
        ),
        Kind::Unsupported(found) => diagnosis(found, no_conversion()),
        Kind::Supported(kind) => diagnosis(
            format!("{kind} that cannot be used ({error})"),
            format!(
                "`openssl pkey -in {file} -noout -check` checks it, and `openssl pkey -in {file} -out key.pem` writes it anew"
            ),
        ),
        Kind::Unknown => diagnosis(
            format!("a key of an unknown kind ({error})"),
            format!("`openssl pkey -in {file} -noout -text` shows it; {}", create_key()),
        ),
    }
}

// ---- DER

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const CONTEXT_0: u8 = 0xA0;

/// Takes one element off the front: its tag and its content. An indefinite length, as some PKCS #12 files
/// have, reaches to the end.
fn take<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match first {
        0x80 => (rest.len(), rest),
        0..=0x7F => (usize::from(first), rest),
        _ => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            let digits = digits.iter().try_fold(0usize, |length, &byte| {
                length.checked_mul(256).map(|length| length | usize::from(byte))
            });
            (digits?, rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some((tag, content))
}

fn take_tagged<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    take(bytes).filter(|(found, _)| *found == tag).map(|(_, content)| content)
}

/// Content of a binary file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Der {
    Key,
    EncryptedKey,
    DsaKey,
    PublicKey,
    Certificate,
    Request,
    Pkcs7,
    Pkcs12,
}

impl Der {
    /// Tells the structures apart by their first elements.
    fn of(bytes: &[u8]) -> Option<Self> {
        let mut file = bytes;
        let mut body = take_tagged(&mut file, SEQUENCE)?;
        match (take(&mut body)?, take(&mut body)) {
            // RFC 7292 4.
            ((INTEGER, [3]), Some((SEQUENCE, _))) => Some(Self::Pkcs12),
            // RFC 5958 2 and RFC 5915 3.
            ((INTEGER, [0 | 1]), Some((SEQUENCE | OCTET_STRING, _))) => Some(Self::Key),
            // RFC 8017 A.1.2 has eight numbers after the version, a DSA key five.
            ((INTEGER, [0]), Some((INTEGER, _))) => {
                let more = std::iter::from_fn(|| take_tagged(&mut body, INTEGER)).count();
                Some(if more == 4 { Self::DsaKey } else { Self::Key })
            }
            ((OBJECT, _), _) => Some(Self::Pkcs7),
            ((SEQUENCE, mut inner), Some((second, _))) => match (take(&mut inner)?, second) {
                ((OBJECT, _), OCTET_STRING) => Some(Self::EncryptedKey),
                ((OBJECT, _), BIT_STRING) => Some(Self::PublicKey),
                ((CONTEXT_0, _), _) => Some(Self::Certificate),
                // A subject follows the version of a request (RFC 2986 4.1), an algorithm the number of a certificate.
                ((INTEGER, _), _) => {
                    let subject = take_tagged(&mut inner, SEQUENCE)?;
                    let is_request = subject.first().is_none_or(|&tag| tag == SET);
                    Some(if is_request { Self::Request } else { Self::Certificate })
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// Kind of a private key, for messages.
#[derive(Debug)]
enum Kind {
    /// The library supports keys of this kind, so this one is damaged or incomplete.
    Supported(&'static str),
    /// No support.
    Unsupported(String),
    /// The parameters of its curve in place of the curve's name.
    ExplicitCurve,
    Unknown,
}

/// Algorithms of keys that are not supported, by the DER of their object identifiers.
const UNSUPPORTED: &[(&[u8], &str)] = &[
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0A], "an RSA key for PSS signatures alone"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x38, 0x04, 0x01], "a DSA key"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x03, 0x01], "a Diffie-Hellman key"),
    (&[0x2B, 0x65, 0x6E], "an X25519 key, which cannot sign"),
    (&[0x2B, 0x65, 0x6F], "an X448 key, which cannot sign"),
    (&[0x2B, 0x65, 0x71], "an Ed448 key"),
];

const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
const ED25519: &[u8] = &[0x2B, 0x65, 0x70];
const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2B, 0x81, 0x04, 0x00, 0x22];

/// Names of curves that are not supported.
const CURVES: &[(&[u8], &str)] = &[
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x01], "prime192v1 (P-192)"),
    (&[0x2B, 0x81, 0x04, 0x00, 0x21], "secp224r1 (P-224)"),
    (&[0x2B, 0x81, 0x04, 0x00, 0x23], "secp521r1 (P-521)"),
    (&[0x2B, 0x81, 0x04, 0x00, 0x0A], "secp256k1"),
    (&[0x2B, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07], "brainpoolP256r1"),
    (&[0x2B, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0B], "brainpoolP384r1"),
    (&[0x2B, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0D], "brainpoolP512r1"),
    (&[0x2A, 0x81, 0x1C, 0xCF, 0x55, 0x01, 0x82, 0x2D], "SM2"),
];

impl Kind {
    fn of(key: &PrivateKeyDer<'_>) -> Self {
        let kind = match key {
            PrivateKeyDer::Pkcs1(key) => Self::of_rsa(key.secret_pkcs1_der()),
            PrivateKeyDer::Sec1(key) => Self::of_sec1(key.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(key) => Self::of_pkcs8(key.secret_pkcs8_der()),
            _ => None,
        };
        kind.unwrap_or(Self::Unknown)
    }

    fn of_pkcs8(mut der: &[u8]) -> Option<Self> {
        let mut body = take_tagged(&mut der, SEQUENCE)?;
        take_tagged(&mut body, INTEGER)?;
        let mut algorithm = take_tagged(&mut body, SEQUENCE)?;
        let name = take_tagged(&mut algorithm, OBJECT)?;
        match name {
            RSA => Self::of_rsa(take_tagged(&mut body, OCTET_STRING)?),
            EC => Some(Self::of_curve(take(&mut algorithm)?)),
            ED25519 => Some(Self::Supported("an Ed25519 key")),
            _ => {
                let (_, text) = UNSUPPORTED.iter().find(|(known, _)| *known == name)?;
                Some(Self::Unsupported((*text).to_owned()))
            }
        }
    }

    fn of_sec1(mut der: &[u8]) -> Option<Self> {
        let mut body = take_tagged(&mut der, SEQUENCE)?;
        take_tagged(&mut body, INTEGER)?;
        take_tagged(&mut body, OCTET_STRING)?;
        let mut parameters = take_tagged(&mut body, CONTEXT_0)?;
        Some(Self::of_curve(take(&mut parameters)?))
    }

    fn of_curve((tag, content): (u8, &[u8])) -> Self {
        match (tag, content) {
            (SEQUENCE, _) => Self::ExplicitCurve,
            (OBJECT, P256 | P384) => Self::Supported("an ECDSA key"),
            (_, name) => {
                let known = CURVES.iter().find(|(known, _)| *known == name);
                let name = known.map_or("another curve than P-256 and P-384", |(_, name)| name);
                Self::Unsupported(format!("an ECDSA key on {name}"))
            }
        }
    }

    /// RFC 8017 A.1.2. The library signs with 2048 to 4096 bits, and with exponents from 65537.
    fn of_rsa(mut der: &[u8]) -> Option<Self> {
        let mut body = take_tagged(&mut der, SEQUENCE)?;
        take_tagged(&mut body, INTEGER)?;
        let bits = bits(take_tagged(&mut body, INTEGER)?);
        let exponent_bits = self::bits(take_tagged(&mut body, INTEGER)?);
        Some(if !(2048..=4096).contains(&bits) {
            Self::Unsupported(format!("an RSA key of {bits} bits, and 2048 to 4096 are supported"))
        } else if !(17..=33).contains(&exponent_bits) {
            Self::Unsupported("an RSA key with a public exponent other than 65537".to_owned())
        } else {
            Self::Supported("an RSA key")
        })
    }
}

/// Length of a positive number without leading zeros.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    number[zeros..].first().map_or(0, |first| (number.len() - zeros) * 8 - first.leading_zeros() as usize)
}

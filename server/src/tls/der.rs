//! DER parsing that recognises certificates, private keys, and the kinds of keys.

use engine::rustls::pki_types::PrivateKeyDer;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const CONTEXT_0: u8 = 0xA0;

/// Takes the first element: its tag and its content. An indefinite length, which some PKCS #12
/// files have, extends to the end.
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
pub(super) enum Der {
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
    /// Recognises a structure by its first elements.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
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
                // A subject follows the version of a request (RFC 2986 4.1), an algorithm the
                // number of a certificate.
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
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The library supports this kind, so the key is damaged or incomplete.
    Supported(&'static str),
    /// The library does not support this kind.
    Unsupported(String),
    /// The key has the parameters of its curve in place of the curve's name.
    ExplicitCurve,
    /// The kind was not recognised.
    Unknown,
}

/// Unsupported algorithms of keys, by the DER of their object identifiers.
const UNSUPPORTED: &[(&[u8], &str)] = &[
    (
        &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0A],
        "an RSA key for PSS signatures alone",
    ),
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

/// Names of unsupported curves.
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
    pub(super) fn of(key: &PrivateKeyDer<'_>) -> Self {
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

/// Length of a positive number in bits.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    number[zeros..]
        .first()
        .map_or(0, |first| (number.len() - zeros) * 8 - first.leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use engine::rustls::pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

    use super::*;

    // As openssl 3 writes them.
    const PKCS8_P256: &[u8] = include_bytes!("fixtures/pkcs8-p256.der");
    const PKCS8_ED25519: &[u8] = include_bytes!("fixtures/pkcs8-ed25519.der");
    const PKCS8_X25519: &[u8] = include_bytes!("fixtures/pkcs8-x25519.der");
    const SEC1_P256: &[u8] = include_bytes!("fixtures/sec1-p256.der");
    const SEC1_P521: &[u8] = include_bytes!("fixtures/sec1-p521.der");
    const SEC1_EXPLICIT_CURVE: &[u8] = include_bytes!("fixtures/sec1-explicit-curve.der");
    const PKCS1_RSA_1024: &[u8] = include_bytes!("fixtures/pkcs1-rsa-1024.der");
    const ENCRYPTED_KEY: &[u8] = include_bytes!("fixtures/encrypted-key.der");
    const PUBLIC_KEY: &[u8] = include_bytes!("fixtures/public-key.der");
    const CERTIFICATE: &[u8] = include_bytes!("fixtures/certificate.der");
    const REQUEST: &[u8] = include_bytes!("fixtures/request.der");
    const PKCS7: &[u8] = include_bytes!("fixtures/pkcs7.der");
    const PKCS12: &[u8] = include_bytes!("fixtures/pkcs12.der");

    const FILES: [(&[u8], Der); 13] = [
        (PKCS8_P256, Der::Key),
        (PKCS8_ED25519, Der::Key),
        (PKCS8_X25519, Der::Key),
        (SEC1_P256, Der::Key),
        (SEC1_P521, Der::Key),
        (SEC1_EXPLICIT_CURVE, Der::Key),
        (PKCS1_RSA_1024, Der::Key),
        (ENCRYPTED_KEY, Der::EncryptedKey),
        (PUBLIC_KEY, Der::PublicKey),
        (CERTIFICATE, Der::Certificate),
        (REQUEST, Der::Request),
        (PKCS7, Der::Pkcs7),
        (PKCS12, Der::Pkcs12),
    ];

    /// A sequence of `count` numbers of one byte.
    fn numbers(count: u8) -> Vec<u8> {
        let elements = (0..count).flat_map(|_| [INTEGER, 1, 0]);
        [SEQUENCE, 3 * count].into_iter().chain(elements).collect()
    }

    fn kinds_of(bytes: &[u8]) -> [Kind; 3] {
        [
            Kind::of(&PrivatePkcs8KeyDer::from(bytes.to_vec()).into()),
            Kind::of(&PrivateSec1KeyDer::from(bytes.to_vec()).into()),
            Kind::of(&PrivatePkcs1KeyDer::from(bytes.to_vec()).into()),
        ]
    }

    #[test]
    fn files_are_told_apart() {
        for (n, (bytes, expected)) in FILES.into_iter().enumerate() {
            assert_eq!(Der::of(bytes), Some(expected), "file {n}");
        }
        // Keys of RSA (RFC 8017 A.1.2) and of DSA in the format of openssl itself.
        assert_eq!(Der::of(&numbers(9)), Some(Der::Key));
        assert_eq!(Der::of(&numbers(6)), Some(Der::DsaKey));
        for bytes in [&b""[..], b"0", b"text", &[SEQUENCE, 0], &[SEQUENCE, 3, INTEGER, 1, 7]] {
            assert_eq!(Der::of(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn kinds_of_keys_are_told_apart() {
        let [p256, ..] = kinds_of(PKCS8_P256);
        assert_eq!(p256, Kind::Supported("an ECDSA key"));
        let [ed25519, ..] = kinds_of(PKCS8_ED25519);
        assert_eq!(ed25519, Kind::Supported("an Ed25519 key"));
        let [x25519, ..] = kinds_of(PKCS8_X25519);
        assert_eq!(x25519, Kind::Unsupported("an X25519 key, which cannot sign".to_owned()));
        let [.., rsa] = kinds_of(PKCS1_RSA_1024);
        let text = "an RSA key of 1024 bits, and 2048 to 4096 are supported";
        assert_eq!(rsa, Kind::Unsupported(text.to_owned()));
        let [_, p256, _] = kinds_of(SEC1_P256);
        assert_eq!(p256, Kind::Supported("an ECDSA key"));
        let [_, p521, _] = kinds_of(SEC1_P521);
        assert_eq!(p521, Kind::Unsupported("an ECDSA key on secp521r1 (P-521)".to_owned()));
        let [_, explicit, _] = kinds_of(SEC1_EXPLICIT_CURVE);
        assert_eq!(explicit, Kind::ExplicitCurve);
        // The bytes are not a key in this format.
        assert_eq!(kinds_of(CERTIFICATE), [Kind::Unknown, Kind::Unknown, Kind::Unknown]);
    }

    #[test]
    fn elements_are_read_with_every_form_of_length() {
        let read = |bytes: &'static [u8]| {
            let mut rest = bytes;
            take(&mut rest).map(|(tag, content)| (tag, content, rest))
        };
        assert_eq!(read(&[4, 1, 9, 8]), Some((4, &[9][..], &[8][..])));
        assert_eq!(read(&[4, 0]), Some((4, &[][..], &[][..])));
        assert_eq!(read(&[4, 0x81, 1, 9, 8]), Some((4, &[9][..], &[8][..])));
        assert_eq!(read(&[4, 0x82, 0, 1, 9]), Some((4, &[9][..], &[][..])));
        assert_eq!(read(&[4, 0x80, 9, 8]), Some((4, &[9, 8][..], &[][..])));
        let too_long = &[4, 0x89, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        for bytes in [
            &[][..],
            &[4],
            &[4, 1],
            &[4, 2, 9],
            &[4, 0x82, 1],
            &[4, 0x84, 255, 255, 255, 255],
            too_long,
        ] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn damaged_files_are_read_without_a_panic() {
        for (bytes, _) in FILES {
            for length in 0..bytes.len() {
                assert_eq!(Der::of(&bytes[..length]), None);
                kinds_of(&bytes[..length]);
            }
            let mut damaged = bytes.to_vec();
            for at in 0..bytes.len() {
                for byte in [0, 1, 0x7F, 0x80, 0x84, 0xFF, bytes[at] ^ 1] {
                    damaged[at] = byte;
                    let _ = (Der::of(&damaged), kinds_of(&damaged));
                }
                damaged[at] = bytes[at];
            }
        }
    }

    #[test]
    fn leading_zeros_are_no_bits_of_a_number() {
        for (number, expected) in
            [(&[][..], 0), (&[0], 0), (&[1], 1), (&[0, 0x80], 8), (&[1, 0, 1], 17)]
        {
            assert_eq!(bits(number), expected, "{number:?}");
        }
    }
}

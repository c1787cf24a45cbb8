//! User and password of a URL, which become Basic authorization (RFC 7617).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A user and a password, in the form of the field. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(String);

impl Credentials {
    /// Reads `USER:PASSWORD` of a URL, percent-encoded. The error does not show the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let decode = |part: &str| {
            decoded(part).ok_or("percent-encode user and password, as in user:p%40ss@host")
        };
        let (user, password) = (decode(user)?, decode(password)?);
        if user.is_empty() {
            return Err("it has no user before the @, as in user:password@host".to_owned());
        }
        // RFC 7617 2.
        if user.contains(&b':')
            || [&user, &password].iter().any(|p| p.iter().any(u8::is_ascii_control))
        {
            return Err(
                "a user with a colon, or a control character, cannot be sent (RFC 7617)".to_owned()
            );
        }
        Ok(Self(STANDARD.encode([&user[..], b":", &password[..]].concat())))
    }

    /// Returns the value of the Authorization field.
    pub(crate) fn field(&self) -> String {
        format!("Basic {}", self.0)
    }

    /// Returns `text`, a URL, without user and password.
    pub(crate) fn redacted(text: &str) -> String {
        let start = text.find("://").map_or(0, |scheme| scheme + 3);
        let (scheme, rest) = text.split_at(start);
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        match rest[..end].rfind('@') {
            Some(at) => format!("{scheme}...{}", &rest[at..]),
            None => text.to_owned(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(...)")
    }
}

/// Returns the bytes of a percent-encoded text (RFC 3986 2.1).
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let digits = part.get(..2).filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_become_a_basic_field() {
        let field = |text| Credentials::parse(text).map(|credentials| credentials.field());
        // RFC 7617 2.
        assert_eq!(field("Aladdin:open%20sesame"), Ok("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".into()));
        assert_eq!(field("user"), Ok(format!("Basic {}", STANDARD.encode("user:"))));
        assert_eq!(field("u:p:q%40"), Ok(format!("Basic {}", STANDARD.encode("u:p:q@"))));
        for text in ["", ":secret", "a%3Ab:secret", "u:secret%", "u:secret%zz", "u:secret%0A"] {
            let said = field(text).expect_err(text);
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        let credentials = Credentials::parse("user:secret").expect("credentials");
        assert_eq!(format!("{credentials:?}"), "Credentials(...)");
        for (text, shown) in [
            ("ws://user:secret@h/a@b", "ws://...@h/a@b"),
            ("user:secret@h", "...@h"),
            ("ws://h/a@b", "ws://h/a@b"),
        ] {
            assert_eq!(Credentials::redacted(text), shown);
        }
    }
}

//! A place to connect to that is not the URL's: `--connect-to`.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use super::url::{Authority, UrlError};

/// A host and its port, as `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(Authority);

impl Place {
    /// Returns the host, an IPv6 address without brackets and zone.
    pub(crate) fn host(&self) -> &str {
        &self.0.host
    }

    /// Returns all addresses of the host in the resolver's order, each once, and at least one.
    pub(crate) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        self.0.resolve(self.0.port)
    }
}

impl FromStr for Place {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let authority = Authority::parse(text)?;
        authority.map(Self).ok_or_else(|| {
            UrlError::new(format!(
                "`{text}` is not a valid place: expected HOST:PORT, as in 127.0.0.1:9001 or [::1]:9001"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_host_and_a_port() {
        for (text, host, address) in [
            ("127.0.0.1:80", "127.0.0.1", "127.0.0.1:80"),
            ("[::1]:9", "::1", "[::1]:9"),
            ("[fe80::1%lo]:9", "fe80::1", "[fe80::1%1]:9"),
        ] {
            let place: Place = text.parse().expect(text);
            assert_eq!(place.host(), host);
            assert_eq!(place.resolve().expect(text)[0].to_string(), address);
        }
        for text in
            ["", "h", "h:", ":80", "h:0", "h:65536", "::1:80", "ws://h:80/", "h:80/", "u@h:1"]
        {
            let said = text.parse::<Place>().expect_err(text).to_string();
            assert!(said.contains("is not a valid") && said.contains("expected"), "{text}: {said}");
        }
    }
}

//! Places to connect to that are not the URL's: `--connect-to`, and an HTTP proxy.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use super::credentials::Credentials;
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

/// An HTTP proxy that makes tunnels (CONNECT, RFC 9110 9.3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub(crate) place: Place,
    pub(crate) credentials: Option<Credentials>,
}

impl FromStr for Proxy {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let expected = "expected http://[USER:PASSWORD@]HOST:PORT, as in http://127.0.0.1:3128";
        let invalid = |why: &str| {
            let shown = Credentials::redacted(text);
            UrlError::new(format!("`{shown}` is not a valid proxy: {why}"))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid(expected))?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(invalid(&format!("it is reached without TLS, {expected}")));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(invalid(expected));
        }
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(u, p)| (Some(u), p));
        let credentials = user.map(Credentials::parse).transpose().map_err(|why| invalid(&why))?;
        Ok(Self { place: place.parse().map_err(|_| invalid(expected))?, credentials })
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

    #[test]
    fn a_proxy_is_an_http_url_whose_password_is_never_shown() {
        let proxy: Proxy = "http://user:secret@127.0.0.1:3128/".parse().expect("a proxy");
        assert_eq!(proxy.place.host(), "127.0.0.1");
        assert!(proxy.credentials.is_some() && !format!("{proxy:?}").contains("secret"));
        assert!("http://h:1".parse::<Proxy>().is_ok_and(|proxy| proxy.credentials.is_none()));
        for text in ["h:3128", "https://h:1", "http://h", "http://u:secret@h:1/x", "http://:s@h:1"]
        {
            let said = text.parse::<Proxy>().expect_err(text).to_string();
            assert!(said.contains("is not a valid proxy") && !said.contains("secret"), "{said}");
        }
    }
}

//! Where to connect: `ws://host[:port]/path?query`, `wss://` likewise, or `tcp://host:port`.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use thiserror::Error;

use crate::load::Transport;

/// Stands for a free port in a URL and in the command of `--spawn`.
pub const PORT_PLACEHOLDER: &str = "{port}";

/// A URL that this generator can drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// What is spoken.
    pub transport: Transport,
    /// Host name or address, an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: Port,
    /// Path and query, as they go into the request; `/` where none is given. Empty for `tcp`.
    pub target: String,
}

/// The port of a [`Url`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one.
    Number(u16),
    /// `{port}`: a free one is chosen when the server is started.
    Chosen,
}

/// Why a text is no such URL.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UrlError {
    /// None of the schemes.
    #[error("`{0}` is neither ws://, wss:// nor tcp://")]
    Scheme(String),
    /// Nothing between the slashes.
    #[error("no host in `{0}`")]
    NoHost(String),
    /// The port is no number of a port.
    #[error("`{0}` is no port: 1 to 65535, or {PORT_PLACEHOLDER} together with --spawn")]
    Port(String),
    /// A raw TCP service has no default port.
    #[error("tcp:// needs a port: tcp://{0}:PORT")]
    NoPort(String),
    /// Raw TCP has no request that a path could stand in.
    #[error("tcp:// takes no path: `{0}`")]
    Path(String),
    /// A user name before the host.
    #[error("user information before the host is not supported: `{0}`")]
    UserInfo(String),
    /// RFC 6455 3: a fragment must not be used.
    #[error("a WebSocket URL has no fragment (`#`): `{0}`")]
    Fragment(String),
    /// Brackets without an IPv6 address in them.
    #[error("`[{0}]` is no IPv6 address")]
    Ipv6(String),
    /// A byte that would break the request line.
    #[error("`{0}` has characters that must be percent-encoded")]
    Character(String),
}

impl Url {
    /// The same URL with `port` for its placeholder.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        match self.port {
            Port::Number(_) => self.clone(),
            Port::Chosen => Self { port: Port::Number(port), ..self.clone() },
        }
    }

    /// The value of the Host field: the port is left out where it is the scheme's default (RFC 6455 4.1).
    #[must_use]
    pub fn host_field(&self) -> String {
        let host = self.bracketed_host();
        match self.port {
            Port::Number(port) if Some(port) == default_port(self.transport) => host,
            Port::Number(port) => format!("{host}:{port}"),
            Port::Chosen => format!("{host}:{PORT_PLACEHOLDER}"),
        }
    }

    fn bracketed_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport.scheme(), self.bracketed_host())?;
        match self.port {
            Port::Number(port) => write!(f, ":{port}")?,
            Port::Chosen => write!(f, ":{PORT_PLACEHOLDER}")?,
        }
        f.write_str(&self.target)
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UrlError::Scheme(text.to_owned()))?;
        let transport = match scheme.to_ascii_lowercase().as_str() {
            "ws" => Transport::Ws,
            "tcp" => Transport::Tcp,
            "wss" => Transport::Wss,
            _ => return Err(UrlError::Scheme(text.to_owned())),
        };
        if rest.contains('#') {
            return Err(UrlError::Fragment(text.to_owned()));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(UrlError::UserInfo(text.to_owned()));
        }
        let (host, port) = split_authority(authority)?;
        if host.is_empty() {
            return Err(UrlError::NoHost(text.to_owned()));
        }
        if !is_printable(&host) || !is_printable(target) {
            return Err(UrlError::Character(text.to_owned()));
        }
        let port = match (port, default_port(transport)) {
            (Some(PORT_PLACEHOLDER), _) => Port::Chosen,
            (Some(number), _) => Port::Number(parse_port(number)?),
            (None, Some(default)) => Port::Number(default),
            (None, None) => return Err(UrlError::NoPort(host)),
        };
        let target = match transport {
            Transport::Ws | Transport::Wss => request_target(target),
            Transport::Tcp if matches!(target, "" | "/") => String::new(),
            Transport::Tcp => return Err(UrlError::Path(text.to_owned())),
        };
        Ok(Self { transport, host, port, target })
    }
}

/// Returns all addresses of a host in the resolver's order, each once, and at least one.
///
/// # Errors
///
/// Fails with the error of the resolver.
pub(crate) fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in (host, port).to_socket_addrs()? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(addresses) }
}

/// RFC 6455 3.
fn default_port(transport: Transport) -> Option<u16> {
    match transport {
        Transport::Ws => Some(80),
        Transport::Wss => Some(443),
        Transport::Tcp => None,
    }
}

/// Host without brackets, and the text behind the colon.
fn split_authority(authority: &str) -> Result<(String, Option<&str>), UrlError> {
    let Some(bracketed) = authority.strip_prefix('[') else {
        return Ok(match authority.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (authority.to_owned(), None),
        });
    };
    let (address, after) = bracketed.split_once(']').ok_or_else(|| UrlError::Ipv6(bracketed.to_owned()))?;
    address.parse::<Ipv6Addr>().map_err(|_| UrlError::Ipv6(address.to_owned()))?;
    match after.strip_prefix(':') {
        Some(port) => Ok((address.to_owned(), Some(port))),
        None if after.is_empty() => Ok((address.to_owned(), None)),
        None => Err(UrlError::Port(after.to_owned())),
    }
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(UrlError::Port(text.to_owned())),
    }
}

/// RFC 6455 3: an empty path is `/`, also before a query.
fn request_target(target: &str) -> String {
    if target.starts_with('/') { target.to_owned() } else { format!("/{target}") }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn error(text: &str) -> UrlError {
        text.parse::<Url>().expect_err(text)
    }

    #[test]
    fn all_parts_are_read() {
        let read = url("ws://example.org:9001/chat/room?x=1&y=/2");
        assert_eq!(read.transport, Transport::Ws);
        assert_eq!((read.host.as_str(), read.port), ("example.org", Port::Number(9001)));
        assert_eq!(read.target, "/chat/room?x=1&y=/2");
        assert_eq!(read.host_field(), "example.org:9001");
        assert_eq!(read.to_string(), "ws://example.org:9001/chat/room?x=1&y=/2");
    }

    #[test]
    fn what_is_left_out_has_the_defaults_of_the_scheme() {
        let read = url("WS://localhost");
        assert_eq!((read.port, read.target.as_str()), (Port::Number(80), "/"));
        assert_eq!(read.host_field(), "localhost");
        let secure = url("wss://localhost");
        assert_eq!((secure.port, secure.transport), (Port::Number(443), Transport::Wss));
        assert_eq!(
            (secure.host_field(), secure.to_string()),
            ("localhost".into(), "wss://localhost:443/".into())
        );
        assert_eq!(url("wss://h:80/").host_field(), "h:80");
        assert_eq!(url("ws://h?q").target, "/?q");
        assert_eq!(error("tcp://h"), UrlError::NoPort("h".into()));
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets() {
        let read = url("ws://[::1]:9001/");
        assert_eq!((read.host.as_str(), read.port), ("::1", Port::Number(9001)));
        assert_eq!(read.host_field(), "[::1]:9001");
        assert_eq!(url("ws://[::1]").host_field(), "[::1]");
        assert_eq!(error("ws://[::1"), UrlError::Ipv6("::1".into()));
        assert_eq!(error("ws://[x]/"), UrlError::Ipv6("x".into()));
        assert_eq!(error("ws://[::1]9/"), UrlError::Port("9".into()));
    }

    #[test]
    fn the_placeholder_becomes_the_port() {
        let read = url("ws://127.0.0.1:{port}/a");
        assert_eq!(read.port, Port::Chosen);
        assert_eq!(read.with_port(7).to_string(), "ws://127.0.0.1:7/a");
        assert_eq!(url("tcp://h:1").with_port(7).port, Port::Number(1));
    }

    #[test]
    fn what_cannot_be_driven_is_refused_with_its_name() {
        assert!(matches!(error("http://h/"), UrlError::Scheme(_)));
        assert!(matches!(error("localhost:9001"), UrlError::Scheme(_)));
        assert!(matches!(error("ws:///x"), UrlError::NoHost(_)));
        assert!(matches!(error("ws://:80/x"), UrlError::NoHost(_)));
        assert_eq!(error("ws://h:0/"), UrlError::Port("0".into()));
        assert_eq!(error("ws://h:65536/"), UrlError::Port("65536".into()));
        assert_eq!(error("ws://h:/"), UrlError::Port(String::new()));
        assert!(matches!(error("ws://u:p@h/"), UrlError::UserInfo(_)));
        assert!(matches!(error("ws://h/#top"), UrlError::Fragment(_)));
        assert!(matches!(error("tcp://h:1/x"), UrlError::Path(_)));
        assert!(matches!(error("ws://h/a b"), UrlError::Character(_)));
        assert!(matches!(error("ws://h/\r\nX: y"), UrlError::Character(_)));
    }
}

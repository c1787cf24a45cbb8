//! Where to connect: `ws://host[:port]/path?query`, `wss://` likewise, or `tcp://host:port`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::str::FromStr;

use engine::socket;
use thiserror::Error;

use crate::load::Transport;

/// Stands for a free port in a URL and in the command of `--spawn`.
pub const PORT_PLACEHOLDER: &str = "{port}";

/// A URL that this generator can drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Protocol on the connections.
    pub transport: Transport,
    /// Host name or address, an IPv6 address without its brackets and its zone.
    pub host: String,
    /// Zone of an IPv6 address, as it was written behind the `%`: the interface that leads there
    /// (see [`socket::interface_index`]). Only this machine needs it, so no request has it.
    pub zone: Option<String>,
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

/// A text that is not a valid [`Url`].
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UrlError {
    /// None of the schemes.
    #[error("`{text}` is not a valid URL: expected ws://, wss:// or tcp://{}", scheme_hint(.text))]
    Scheme {
        /// The text.
        text: String,
    },
    /// Nothing between the slashes.
    #[error("`{0}` is not a valid URL: it has no host, expected one as in ws://127.0.0.1:9001/")]
    NoHost(String),
    /// The port is not a port's number.
    #[error("`{0}` is not a valid port: expected 1 to 65535, or {PORT_PLACEHOLDER} together with --spawn")]
    Port(String),
    /// A raw TCP service has no default port.
    #[error("`tcp://{0}` is not a valid URL: raw TCP has no default port, expected tcp://{0}:PORT")]
    NoPort(String),
    /// Raw TCP has no request that a path could stand in.
    #[error("`{0}` is not a valid URL: raw TCP has no paths, expected tcp://HOST:PORT")]
    Path(String),
    /// A user name before the host.
    #[error("`{0}` is not a valid URL: user information is not supported, leave out the part up to the @")]
    UserInfo(String),
    /// RFC 6455 3: a fragment must not be used.
    #[error("`{0}` is not a valid URL: WebSocket has no fragments, leave out the part from the # on")]
    Fragment(String),
    /// Brackets without an IPv6 address in them.
    #[error("`[{0}]` is not a valid host: expected an IPv6 address in the brackets, as in [::1]")]
    Ipv6(String),
    /// A link-local address exists on every link.
    #[error(
        "`[{0}]` is not a valid host: a link-local address needs the interface that leads there, as in \
         [{0}%25eth0] (`ip link` lists them)"
    )]
    NoZone(String),
    /// A byte that would break the request line.
    #[error("`{0}` is not a valid URL: percent-encode spaces, control characters and all that is not ASCII")]
    Character(String),
}

impl Url {
    /// The same URL with `port` for its placeholder.
    pub fn with_port(&self, port: u16) -> Self {
        match self.port {
            Port::Number(_) => self.clone(),
            Port::Chosen => Self { port: Port::Number(port), ..self.clone() },
        }
    }

    /// The value of the Host field: the port is left out where it is the scheme's default (RFC 6455
    /// 4.1).
    pub fn host_field(&self) -> String {
        let host = self.bracketed_host();
        match self.port {
            Port::Number(port) if Some(port) == default_port(self.transport) => host,
            Port::Number(port) => format!("{host}:{port}"),
            Port::Chosen => format!("{host}:{PORT_PLACEHOLDER}"),
        }
    }

    /// Returns the index of the zone's interface, 0 without a zone.
    ///
    /// # Errors
    ///
    /// Names an interface that does not exist.
    pub(crate) fn scope(&self) -> io::Result<u32> {
        let Some(zone) = &self.zone else { return Ok(0) };
        socket::interface_index(zone).map_err(|error| {
            io::Error::other(format!(
                "the zone of `[{}%{zone}]` is no network interface of this machine ({error}): choose one of \
                 `ip link`",
                self.host
            ))
        })
    }

    /// Returns all addresses of the host in the resolver's order, each once, and at least one.
    ///
    /// # Errors
    ///
    /// Fails with the error of the resolver, or names the interface that does not exist.
    pub(crate) fn resolve(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let (Ok(address), Some(_)) = (self.host.parse::<Ipv6Addr>(), &self.zone) {
            return Ok(vec![SocketAddrV6::new(address, port, 0, self.scope()?).into()]);
        }
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in (self.host.as_str(), port).to_socket_addrs()? {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(addresses)
    }

    fn bracketed_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "{}://[{}%{zone}]", self.transport.scheme(), self.host)?,
            None => write!(f, "{}://{}", self.transport.scheme(), self.bracketed_host())?,
        }
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
        let no_scheme = || UrlError::Scheme { text: text.to_owned() };
        let (scheme, rest) = text.split_once("://").ok_or_else(no_scheme)?;
        let transport = match scheme.to_ascii_lowercase().as_str() {
            "ws" => Transport::Ws,
            "tcp" => Transport::Tcp,
            "wss" => Transport::Wss,
            _ => return Err(no_scheme()),
        };
        if rest.contains('#') {
            return Err(UrlError::Fragment(text.to_owned()));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(UrlError::UserInfo(text.to_owned()));
        }
        let (host, zone, port) = split_authority(authority)?;
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
        Ok(Self { transport, host, zone, port, target })
    }
}

/// Returns a source address with any port. One that is link-local lies on the link of the
/// destination, which has this scope.
pub(crate) fn source(ip: IpAddr, scope: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, 0, 0, scope).into(),
        ip => SocketAddr::new(ip, 0),
    }
}

/// Returns the end of the error for `text`, which has none of the schemes: the URL that was
/// probably meant.
fn scheme_hint(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "" | "http" => "ws",
        "https" => "wss",
        _ => return String::new(),
    };
    // A path where it is missing: for the eye, a URL ends with one.
    let slash = if rest.contains(['/', '?']) { "" } else { "/" };
    let meant = format!("{scheme}://{rest}{slash}");
    if meant.parse::<Url>().is_ok() { format!(", as in {meant}") } else { String::new() }
}

/// RFC 6455 3.
fn default_port(transport: Transport) -> Option<u16> {
    match transport {
        Transport::Ws => Some(80),
        Transport::Wss => Some(443),
        Transport::Tcp => None,
    }
}

/// Splits into the host without brackets, its zone, and the text behind the colon.
fn split_authority(authority: &str) -> Result<(String, Option<String>, Option<&str>), UrlError> {
    let Some(bracketed) = authority.strip_prefix('[') else {
        return Ok(match authority.split_once(':') {
            Some((host, port)) => (host.to_owned(), None, Some(port)),
            None => (authority.to_owned(), None, None),
        });
    };
    let (address, after) = bracketed.split_once(']').ok_or_else(|| UrlError::Ipv6(bracketed.to_owned()))?;
    let (host, zone) = match address.split_once('%') {
        Some((host, zone)) => (host, Some(zone)),
        None => (address, None),
    };
    let no_address = || UrlError::Ipv6(address.to_owned());
    let ip = host.parse::<Ipv6Addr>().map_err(|_| no_address())?;
    match zone {
        Some(zone) if zone.is_empty() || !is_printable(zone) => return Err(no_address()),
        None if ip.is_unicast_link_local() => return Err(UrlError::NoZone(host.to_owned())),
        _ => {}
    }
    let (host, zone) = (host.to_owned(), zone.map(str::to_owned));
    match after.strip_prefix(':') {
        Some(port) => Ok((host, zone, Some(port))),
        None if after.is_empty() => Ok((host, zone, None)),
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
    fn a_zone_scopes_the_address_and_no_request() {
        for zone in ["25lo", "lo", "251", "25251"] {
            let text = format!("ws://[fe80::1%{zone}]:9001/a");
            let read = url(&text);
            assert_eq!((read.host.as_str(), read.zone.as_deref()), ("fe80::1", Some(zone)));
            assert_eq!((read.host_field(), read.to_string()), ("[fe80::1]:9001".into(), text));
        }
        // The first interface of every network namespace is lo.
        for zone in ["25lo", "lo", "1"] {
            let addresses = url(&format!("ws://[fe80::1%{zone}]/")).resolve(7).expect("an address");
            let [SocketAddr::V6(address)] = addresses[..] else { panic!("{addresses:?}") };
            assert_eq!((address.scope_id(), address.port()), (1, 7));
        }
        for zone in ["25none0", "none0", "254000000000", "2599999999999"] {
            let error = url(&format!("ws://[fe80::1%{zone}]/")).resolve(7).expect_err("no interface");
            let said = error.to_string();
            assert!(said.contains(&format!("`[fe80::1%{zone}]`")) && said.contains("`ip link`"), "{said}");
        }
        assert_eq!(error("ws://[fe80::1]/"), UrlError::NoZone("fe80::1".into()));
        assert!(error("ws://[fe80::1]/").to_string().contains("[fe80::1%25eth0]"));
        assert!(matches!(error("ws://[fe80::1%]/"), UrlError::Ipv6(_)));
        assert!(matches!(error("ws://[fe80::1%a b]/"), UrlError::Ipv6(_)));
    }

    #[test]
    fn a_link_local_source_lies_on_the_link_of_the_destination() {
        let at = |ip: &str| source(ip.parse().expect("an address"), 7).to_string();
        assert_eq!(at("fe80::2"), "[fe80::2%7]:0");
        assert_eq!((at("fd00::2"), at("127.0.0.1")), ("[fd00::2]:0".into(), "127.0.0.1:0".into()));
    }

    #[test]
    fn a_missing_scheme_is_named() {
        for (text, meant) in [
            ("127.0.0.1:9001", "ws://127.0.0.1:9001/"),
            ("localhost:9001/path", "ws://localhost:9001/path"),
            ("[::1]:9001", "ws://[::1]:9001/"),
            ("localhost", "ws://localhost/"),
            ("http://h/a?b", "ws://h/a?b"),
            ("HTTPS://h", "wss://h/"),
        ] {
            assert!(error(text).to_string().ends_with(&format!("as in {meant}")), "{}", error(text));
        }
        let said = error("localhost").to_string();
        assert_eq!(
            said,
            "`localhost` is not a valid URL: expected ws://, wss:// or tcp://, as in ws://localhost/"
        );
        for text in ["ftp://h/", "", "a b", "ws:/h", "fe80::1"] {
            let said = error(text).to_string();
            assert!(said.ends_with("expected ws://, wss:// or tcp://"), "{said}");
        }
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
        assert!(matches!(error("http://h/"), UrlError::Scheme { .. }));
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

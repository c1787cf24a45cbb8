//! URLs of servers: `ws://host[:port]/path?query`, `wss://` likewise, or `tcp://host:port`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::str::FromStr;

use engine::socket;
use thiserror::Error;

use super::credentials::Credentials;
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
    /// User and password, which the Authorization field has.
    pub credentials: Option<Credentials>,
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

/// A text that is not a valid [`Url`]: the fault and its remedy.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct UrlError(String);

impl UrlError {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

impl Url {
    /// The same URL with `port` for its placeholder.
    pub(crate) fn with_port(&self, port: u16) -> Self {
        match self.port {
            Port::Number(_) => self.clone(),
            Port::Chosen => Self { port: Port::Number(port), ..self.clone() },
        }
    }

    /// The value of the Host field: the port is left out where it is the scheme's default (RFC 6455
    /// 4.1).
    pub(crate) fn host_field(&self) -> String {
        match self.port {
            Port::Number(port) if Some(port) == default_port(self.transport) => {
                self.bracketed_host()
            }
            port => format!("{}:{port}", self.bracketed_host()),
        }
    }

    /// Returns the field that has user and password, name and value.
    pub(crate) fn authorization(&self) -> Option<(String, String)> {
        let credentials = self.credentials.as_ref()?;
        Some(("Authorization".to_owned(), credentials.field()))
    }

    /// Returns the index of the zone's interface, 0 without a zone.
    pub(crate) fn scope(&self) -> io::Result<u32> {
        scope(&self.host, self.zone.as_deref())
    }

    /// Returns all addresses of the host in the resolver's order, each once, and at least one.
    pub(crate) fn resolve(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        let (host, zone) = (self.host.clone(), self.zone.clone());
        Authority { host, zone, port }.resolve(port)
    }

    fn bracketed_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

/// A host with its port, of a URL or alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    /// Name or address, an IPv6 address without its brackets and its zone.
    pub(crate) host: String,
    pub(crate) zone: Option<String>,
    pub(crate) port: u16,
}

impl Authority {
    /// Reads `HOST:PORT`; `None` where it is neither this nor something with a better error.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, UrlError> {
        let (host, zone, port) = split_authority(text)?;
        let port = port.and_then(|port| port.parse().ok()).filter(|&port| port != 0);
        let is_host =
            is_printable(&host) && !host.is_empty() && !host.contains(['/', '@', '?', '#']);
        Ok(port.filter(|_| is_host).map(|port| Self { host, zone, port }))
    }

    /// Returns all addresses of the host in the resolver's order, each once, and at least one.
    pub(crate) fn resolve(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let (Ok(address), Some(zone)) = (self.host.parse::<Ipv6Addr>(), &self.zone) {
            let scope = scope(&self.host, Some(zone))?;
            return Ok(vec![SocketAddrV6::new(address, port, 0, scope).into()]);
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
}

/// Returns the index of a zone's interface, 0 without a zone.
fn scope(host: &str, zone: Option<&str>) -> io::Result<u32> {
    let Some(zone) = zone else { return Ok(0) };
    socket::interface_index(zone).map_err(|error| {
        io::Error::other(format!(
            "the zone of `[{host}%{zone}]` is no network interface of this machine ({error}): choose one of \
             `ip link`"
        ))
    })
}

/// The URL without user and password.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.as_ref().map(|zone| format!("[{}%{zone}]", self.host));
        let (scheme, host) =
            (self.transport.scheme(), zone.unwrap_or_else(|| self.bracketed_host()));
        write!(f, "{scheme}://{host}:{}{}", self.port, self.target)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(port) => write!(f, "{port}"),
            Self::Chosen => f.write_str(PORT_PLACEHOLDER),
        }
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let shown = Credentials::redacted(text);
        let invalid = |fault: &str| UrlError(format!("`{shown}` is not a valid URL: {fault}"));
        let no_scheme =
            || invalid(&format!("expected ws://, wss:// or tcp://{}", scheme_hint(text)));
        let (scheme, rest) = text.split_once("://").ok_or_else(no_scheme)?;
        let transport = match scheme.to_ascii_lowercase().as_str() {
            "ws" => Transport::Ws,
            "tcp" => Transport::Tcp,
            "wss" => Transport::Wss,
            _ => return Err(no_scheme()),
        };
        let refuse =
            |is_wrong: bool, fault: &str| if is_wrong { Err(invalid(fault)) } else { Ok(()) };
        // RFC 6455 3: a fragment must not be used.
        refuse(rest.contains('#'), "WebSocket has no fragments, leave out the part from the # on")?;
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, authority) =
            authority.rsplit_once('@').map_or((None, authority), |(user, at)| (Some(user), at));
        let credentials = user.map(Credentials::parse).transpose().map_err(|why| invalid(&why))?;
        refuse(
            credentials.is_some() && transport == Transport::Tcp,
            "raw TCP has no authorization, leave out the part up to the @",
        )?;
        let (host, zone, port) = split_authority(authority)?;
        refuse(host.is_empty(), "it has no host, expected one as in ws://127.0.0.1:9001/")?;
        refuse(
            !is_printable(&host) || !is_printable(target),
            "percent-encode spaces, control characters and all that is not ASCII",
        )?;
        let port = match (port, default_port(transport)) {
            (Some(PORT_PLACEHOLDER), _) => Port::Chosen,
            (Some(number), _) => match number.parse() {
                Ok(port) if port != 0 => Port::Number(port),
                _ => return Err(invalid_port(number)),
            },
            (None, Some(default)) => Port::Number(default),
            (None, None) => {
                return Err(UrlError(format!(
                    "`tcp://{host}` is not a valid URL: raw TCP has no default port, expected tcp://{host}:PORT"
                )));
            }
        };
        let target = match transport {
            Transport::Tcp if matches!(target, "" | "/") => String::new(),
            Transport::Tcp => {
                return Err(invalid("raw TCP has no paths, expected tcp://HOST:PORT"));
            }
            // RFC 6455 3: an empty path is `/`, also before a query.
            _ if target.starts_with('/') => target.to_owned(),
            _ => format!("/{target}"),
        };
        Ok(Self { transport, host, zone, port, credentials, target })
    }
}

/// Returns a source address with any port; a link-local one is on the link of this scope.
pub(crate) fn source(ip: IpAddr, scope: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, 0, 0, scope).into(),
        ip => SocketAddr::new(ip, 0),
    }
}

/// Returns the end of the error for `text` without a known scheme: the URL that was probably meant.
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
        let (host, port) =
            authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p)));
        return Ok((host.to_owned(), None, port));
    };
    let invalid =
        |host: &str, fault: &str| UrlError(format!("`[{host}]` is not a valid host: {fault}"));
    let no_address =
        |text: &str| invalid(text, "expected an IPv6 address in the brackets, as in [::1]");
    let (address, after) = bracketed.split_once(']').ok_or_else(|| no_address(bracketed))?;
    let (host, zone) =
        address.split_once('%').map_or((address, None), |(host, zone)| (host, Some(zone)));
    let ip = host.parse::<Ipv6Addr>().map_err(|_| no_address(address))?;
    match zone {
        Some(zone) if zone.is_empty() || !is_printable(zone) => return Err(no_address(address)),
        // A link-local address exists on every link.
        None if ip.is_unicast_link_local() => {
            let fault = format!(
                "a link-local address needs the interface that leads there, as in [{host}%25eth0] \
                 (`ip link` lists them)"
            );
            return Err(invalid(host, &fault));
        }
        _ => {}
    }
    let port = after.strip_prefix(':');
    if port.is_none() && !after.is_empty() {
        return Err(invalid_port(after));
    }
    Ok((host.to_owned(), zone.map(str::to_owned), port))
}

fn invalid_port(text: &str) -> UrlError {
    UrlError(format!(
        "`{text}` is not a valid port: expected 1 to 65535, or {PORT_PLACEHOLDER} together with --spawn"
    ))
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

    fn error(text: &str) -> String {
        text.parse::<Url>().expect_err(text).to_string()
    }

    /// Checks that a text is refused with this quotation and with this advice.
    fn is_refused(text: &str, quoted: &str, advice: &str) {
        let said = error(text);
        assert!(
            said.starts_with(&format!("`{quoted}` is not a valid ")) && said.contains(advice),
            "{said}"
        );
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
        is_refused("tcp://h", "tcp://h", "no default port");
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets() {
        let read = url("ws://[::1]:9001/");
        assert_eq!((read.host.as_str(), read.port), ("::1", Port::Number(9001)));
        assert_eq!(read.host_field(), "[::1]:9001");
        assert_eq!(url("ws://[::1]").host_field(), "[::1]");
        is_refused("ws://[::1", "[::1]", "IPv6");
        is_refused("ws://[x]/", "[x]", "IPv6");
        is_refused("ws://[::1]9/", "9", "1 to 65535");
    }

    #[test]
    fn user_and_password_are_read_and_never_shown() {
        let read = url("ws://user:pa%40ss@h:9/a@b");
        assert_eq!((read.host.as_str(), read.port), ("h", Port::Number(9)));
        assert!(read.credentials.is_some());
        assert_eq!((read.to_string(), read.host_field()), ("ws://h:9/a@b".into(), "h:9".into()));
        assert!(!format!("{read:?}").contains("pa"), "{read:?}");
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
            let error =
                url(&format!("ws://[fe80::1%{zone}]/")).resolve(7).expect_err("no interface");
            let said = error.to_string();
            assert!(
                said.contains(&format!("`[fe80::1%{zone}]`")) && said.contains("`ip link`"),
                "{said}"
            );
        }
        is_refused("ws://[fe80::1]/", "[fe80::1]", "[fe80::1%25eth0]");
        is_refused("ws://[fe80::1%]/", "[fe80::1%]", "IPv6");
        is_refused("ws://[fe80::1%a b]/", "[fe80::1%a b]", "IPv6");
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
            assert!(error(text).ends_with(&format!("as in {meant}")), "{}", error(text));
        }
        let said = error("localhost");
        assert_eq!(
            said,
            "`localhost` is not a valid URL: expected ws://, wss:// or tcp://, as in ws://localhost/"
        );
        for text in ["ftp://h/", "", "a b", "ws:/h", "fe80::1"] {
            let said = error(text);
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
        for (text, quoted, advice) in [
            ("http://h/", "http://h/", "expected ws://"),
            ("ws:///x", "ws:///x", "no host"),
            ("ws://:80/x", "ws://:80/x", "no host"),
            ("ws://h:0/", "0", "--spawn"),
            ("ws://h:65536/", "65536", "1 to 65535"),
            ("ws://h:/", "", "1 to 65535"),
            ("ws://:p@h/", "ws://...@h/", "user:password@host"),
            ("tcp://u:p@h:1", "tcp://...@h:1", "up to the @"),
            ("http://u:p@h/", "http://...@h/", "expected ws://"),
            ("ws://h/#top", "ws://h/#top", "from the # on"),
            ("tcp://h:1/x", "tcp://h:1/x", "no paths"),
            ("ws://h/a b", "ws://h/a b", "percent-encode"),
            ("ws://h/\r\nX: y", "ws://h/\r\nX: y", "percent-encode"),
        ] {
            is_refused(text, quoted, advice);
        }
    }
}

//! Configuration of the server, independent of the command line.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use engine::socket::{Congestion, interface_index, url_authority};
use engine::{EngineChoice, Spin, UringConfig, affinity};
use protocol::Limits;
use protocol::handshake::HeadLimits;

use crate::admission::Admission;
use crate::connection::Heartbeat;
use crate::deflate::DeflateSettings;
use crate::error::ServeError;
use crate::faults::FaultSettings;
use crate::injected_cost::InjectedCost;
use crate::limiter::AddressLimits;
use crate::proxy::Networks;
use crate::rate::Rates;
use crate::tls::{Identity, TlsOptions};

/// Way in which connections are spread over the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// A worker keeps what the kernel gives to its listener, which it chooses by hash.
    Kernel,
    /// The worker with the fewest connections gets the next one.
    #[default]
    Even,
}

/// Protocol of a listener's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// WebSocket messages.
    #[default]
    WebSocket,
    /// Raw bytes.
    Tcp,
}

/// Scheme of a listener's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// Raw bytes.
    Tcp,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::Ws, Self::Wss, Self::Tcp];

    /// Returns the text before the `://`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Tcp => "tcp",
        }
    }

    /// Returns the protocol of its connections.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Ws | Self::Wss => Protocol::WebSocket,
            Self::Tcp => Protocol::Tcp,
        }
    }

    /// Returns the URL under which a listener is reached.
    #[must_use]
    pub fn url(self, address: SocketAddr) -> String {
        let path = if self == Self::Tcp { "" } else { "/" };
        format!("{}://{}{path}", self.name(), url_authority(address))
    }
}

impl Protocol {
    /// Returns the scheme of a listener without one.
    #[must_use]
    pub fn scheme(self) -> Scheme {
        match self {
            Self::WebSocket => Scheme::Ws,
            Self::Tcp => Scheme::Tcp,
        }
    }
}

/// Settings of a worker's WebSocket echo.
#[derive(Clone, Debug)]
pub struct EchoSettings {
    /// Limits of messages.
    pub limits: Limits,
    /// Limits of requests.
    pub head: HeadLimits,
    /// Admitted paths and Origins, and accepted subprotocols.
    pub admission: Admission,
    /// Rate limits of a WebSocket.
    pub rates: Rates,
    /// Time limit of the opening handshake. Zero: none.
    pub handshake_timeout: Duration,
    /// Time limit of a message or frame from its first byte to its last. Zero: none.
    pub message_timeout: Duration,
    /// Pings and the idle timeout.
    pub heartbeat: Heartbeat,
    /// Compression. `None`: it is declined.
    pub deflate: Option<DeflateSettings>,
    /// CPU time to burn for each message. `None`: none.
    pub burn: Option<InjectedCost>,
    /// Proxies whose requests name the client. `None`: every peer is the client.
    pub trusted_proxies: Option<Networks>,
    /// Faults on request. `None`: none, and URLs may say what they like.
    pub faults: Option<FaultSettings>,
}

impl Default for EchoSettings {
    /// The protocol crate's limits, every path, no rate limits, 5 s for a handshake, 2 min for a
    /// message, a ping after 30 s of silence, and no compression.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            head: HeadLimits::default(),
            admission: Admission::default(),
            rates: Rates::default(),
            handshake_timeout: Duration::from_secs(5),
            message_timeout: Duration::from_secs(120),
            heartbeat: Heartbeat { ping_interval: Duration::from_secs(30), ..Heartbeat::default() },
            deflate: None,
            burn: None,
            trusted_proxies: None,
            faults: None,
        }
    }
}

/// Configuration of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on. Each has one line on standard output.
    pub listen: Vec<ListenAddress>,
    /// Certificate and key of the wss:// listeners, which need one.
    pub identity: Option<Identity>,
    /// Requirements of wss:// listeners on their clients.
    pub tls: TlsOptions,
    /// Protocol of the echo.
    pub protocol: Protocol,
    /// Proxies whose connections begin with a header of the PROXY protocol. `None`: none do. For
    /// WebSocket alone.
    pub proxy_protocol: Option<Networks>,
    /// Settings of the WebSocket echo.
    pub settings: EchoSettings,
    /// Engine of all workers.
    pub engine: EngineChoice,
    /// Processor of each worker; the length is the number of workers. See [`place_workers`].
    pub cpus: Vec<usize>,
    /// Way in which connections are spread over several workers.
    pub spread: Spread,
    /// Most open connections of the process; further ones get a 503. `None`: what the limit on open
    /// files allows.
    pub max_connections: Option<u64>,
    /// Limits of each client address.
    pub address_limits: AddressLimits,
    /// Unsent bytes of a connection above which it is not read from.
    pub high_water: usize,
    /// Way in which idle workers wait.
    pub spin: Spin,
    /// Congestion control of the connections. `None`: the kernel's default.
    pub congestion: Option<Congestion>,
    /// Sizes and limits of the io_uring engine.
    pub uring: UringConfig,
    /// Bytes of a receive buffer of the other engines.
    pub receive_buffer: usize,
    /// Time after which a connection is dropped whose peer accepts no output. Zero: never.
    pub write_timeout: Duration,
    /// Time that a connection may take to close after the server has closed it.
    pub close_timeout: Duration,
    /// Longest time that a drain waits for the peers. Zero: without a limit.
    pub drain_timeout: Duration,
    /// Address of metrics and health checks. `None`: they are not served.
    pub admin: Option<ListenAddress>,
}

impl Default for Config {
    /// One worker on the first allowed processor, and a free port of the loopback interface.
    fn default() -> Self {
        let engine = engine::Config::default();
        Self {
            listen: vec![ListenAddress { scheme: None, host: "127.0.0.1".to_owned(), port: 0 }],
            identity: None,
            tls: TlsOptions::default(),
            protocol: Protocol::default(),
            proxy_protocol: None,
            settings: EchoSettings::default(),
            engine: EngineChoice::Auto,
            cpus: affinity::allowed()
                .map_or_else(|_| vec![0], |cpus| cpus.into_iter().take(1).collect()),
            spread: Spread::default(),
            max_connections: None,
            address_limits: AddressLimits::default(),
            high_water: engine.high_water,
            spin: engine.spin,
            congestion: None,
            uring: engine.uring,
            receive_buffer: engine.receive_buffer,
            write_timeout: engine.write_stall,
            close_timeout: engine.linger.time,
            drain_timeout: Duration::from_secs(5),
            admin: None,
        }
    }
}

/// Address for `--listen`: `host:port`, or a URL without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// Scheme, where one is given.
    pub scheme: Option<Scheme>,
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// Port. 0: a free one.
    pub port: u16,
}

/// Error of a text that is not a [`ListenAddress`].
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ListenAddressError {
    /// The scheme is not known.
    #[error("the scheme must be ws://, wss:// or tcp://, or left out")]
    Scheme,
    /// Something follows the port.
    #[error("no path: every path is answered")]
    Path,
    /// The port is missing, or not a number from 0 to 65535.
    #[error("a port is needed, as in 127.0.0.1:9001 (0 takes a free one)")]
    Port,
    /// The host is missing.
    #[error("a host is needed, as in 127.0.0.1:9001")]
    Host,
    /// The host has colons but no brackets.
    #[error("an IPv6 address stands in brackets, as in [::1]:9001")]
    Brackets,
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some((scheme, rest)) => {
                let scheme =
                    Scheme::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(scheme));
                (Some(scheme.ok_or(ListenAddressError::Scheme)?), rest)
            }
        };
        let authority =
            if scheme.is_some() { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
        if authority.contains('/') {
            return Err(ListenAddressError::Path);
        }
        let (host, port) = authority.rsplit_once(':').ok_or(ListenAddressError::Port)?;
        let port = port.parse().map_err(|_| ListenAddressError::Port)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            return Err(ListenAddressError::Brackets);
        }
        let host = bracketed.unwrap_or(host).to_owned();
        if host.is_empty() {
            Err(ListenAddressError::Host)
        } else {
            Ok(Self { scheme, host, port })
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl ListenAddress {
    /// Returns true if its connections use TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.scheme == Some(Scheme::Wss)
    }

    /// Resolves the host to its first address. Errors name the flag.
    ///
    /// # Errors
    ///
    /// [`ServeError::Resolve`], [`ServeError::Zone`].
    pub fn resolve(&self, flag: &'static str) -> Result<SocketAddr, ServeError> {
        if let Some((address, zone)) = self.zoned() {
            let index = interface_index(zone).map_err(|source| ServeError::Zone {
                flag,
                listen: self.to_string(),
                zone: zone.to_owned(),
                source,
            })?;
            return Ok(SocketAddrV6::new(address, self.port, 0, index).into());
        }
        let failed = |source| ServeError::Resolve { flag, host: self.host.clone(), source };
        let first = self.addresses().map_err(failed)?.next();
        first.ok_or_else(|| failed(io::Error::new(io::ErrorKind::NotFound, "no address found")))
    }

    /// Splits `fe80::1%eth0` into the address and its zone (RFC 4007 11).
    fn zoned(&self) -> Option<(Ipv6Addr, &str)> {
        let (address, zone) = self.host.split_once('%')?;
        Some((address.parse().ok()?, zone))
    }

    /// Returns the host as in a certificate, without a zone.
    pub(crate) fn name(&self) -> String {
        self.zoned().map_or_else(|| self.host.clone(), |(address, _)| address.to_string())
    }

    fn addresses(&self) -> io::Result<impl Iterator<Item = SocketAddr>> {
        (self.host.as_str(), self.port).to_socket_addrs()
    }

    /// Describes addresses that a user may expect a listener on `bound` to cover, and that it does
    /// not. `None` where it covers all of them.
    pub(crate) fn not_covered(&self, bound: SocketAddr) -> Option<String> {
        let all = if self.zoned().is_some() { None } else { self.addresses().ok() };
        self.not_covered_of(bound, all.into_iter().flatten())
    }

    fn not_covered_of(
        &self,
        bound: SocketAddr,
        all: impl Iterator<Item = SocketAddr>,
    ) -> Option<String> {
        let (host, port) = (&self.host, bound.port());
        if bound.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            return Some(format!(
                "--listen {bound} covers IPv6 alone: for IPv4 give --listen 0.0.0.0:{port} beside it"
            ));
        }
        let other =
            all.map(|address| SocketAddr::new(address.ip(), port)).find(|other| *other != bound)?;
        Some(format!(
            "--listen {host}:{port} covers {bound} alone: for {other} give --listen '{other}' beside it"
        ))
    }
}

/// Error of a placement of workers.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlacementError {
    /// This process may not use a processor.
    #[error("processor {cpu} is not among those this process may use ({})", list(.allowed))]
    NotAllowed {
        /// The processor.
        cpu: usize,
        /// The allowed processors.
        allowed: Vec<usize>,
    },
}

fn list(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// Returns the processor of each worker.
///
/// The default is one worker on each physical core among the `allowed` processors. A given number
/// of workers takes distinct cores before siblings of one core. `listed` processors are taken in
/// that order, by default with one worker each. More workers than processors share them in turn.
/// `siblings` is that of [`affinity::spread`].
///
/// # Errors
///
/// [`PlacementError`] where a listed processor is not allowed.
pub fn place_workers(
    threads: Option<usize>,
    listed: Option<&[usize]>,
    allowed: &[usize],
    siblings: impl Fn(usize) -> Vec<usize>,
) -> Result<Vec<usize>, PlacementError> {
    if let Some(&cpu) = listed.into_iter().flatten().find(|cpu| !allowed.contains(cpu)) {
        return Err(PlacementError::NotAllowed { cpu, allowed: allowed.to_vec() });
    }
    let order = listed.map_or_else(|| affinity::spread(allowed, &siblings), <[usize]>::to_vec);
    let core = |&cpu: &usize| siblings(cpu).into_iter().chain([cpu]).min();
    let natural = match listed {
        Some(listed) => listed.len(),
        None => allowed.iter().map(core).collect::<BTreeSet<_>>().len(),
    };
    Ok(order.into_iter().cycle().take(threads.unwrap_or(natural)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Option<Scheme>, String, u16), ListenAddressError> {
        text.parse().map(|a: ListenAddress| (a.scheme, a.host, a.port))
    }

    #[test]
    fn says_what_a_listener_does_not_cover() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let missing = |listen: &str, bound, all: &[&str]| {
            let listen: ListenAddress = listen.parse().expect("an address");
            listen.not_covered_of(address(bound), all.iter().map(|text| address(text)))
        };
        let both = ["127.0.0.1:0", "[::1]:0"];
        let hint = missing("localhost:0", "127.0.0.1:5", &both).expect("::1 is not covered");
        assert!(
            hint.contains("covers 127.0.0.1:5 alone") && hint.contains("--listen '[::1]:5' beside"),
            "{hint}"
        );
        let hint = missing("localhost:0", "[::1]:5", &both).expect("127.0.0.1 is not covered");
        assert!(hint.contains("--listen '127.0.0.1:5' beside"), "{hint}");
        let hint = missing("[::]:0", "[::]:5", &["[::]:0"]).expect("IPv4 is not covered");
        assert!(hint.contains("IPv6 alone") && hint.contains("--listen 0.0.0.0:5"), "{hint}");
        assert_eq!(missing("127.0.0.1:0", "127.0.0.1:5", &["127.0.0.1:0"]), None);
        assert_eq!(missing("localhost:0", "127.0.0.1:5", &["127.0.0.1:0", "127.0.0.1:0"]), None);
    }

    #[test]
    fn zones_are_interfaces_by_name_or_number() {
        let resolve =
            |text: &str| text.parse::<ListenAddress>().expect("an address").resolve("--listen");
        let by_name = resolve("[fe80::1%lo]:5").expect("loopback");
        let SocketAddr::V6(address) = by_name else { panic!("{by_name}") };
        assert_ne!(address.scope_id(), 0);
        assert_eq!((address.ip().to_string(), address.port()), ("fe80::1".to_owned(), 5));
        assert_eq!(
            resolve(&format!("[fe80::1%{}]:5", address.scope_id())).expect("its number"),
            by_name
        );
        assert_eq!(resolve("ws://[fe80::1%25lo]:5/").expect("as in URLs"), by_name);
        // An announced URL can be given again.
        assert_eq!(Scheme::Ws.url(by_name), "ws://[fe80::1%25lo]:5/");
        assert_eq!(resolve(&Scheme::Ws.url(by_name)).expect("a URL"), by_name);
        for text in ["[fe80::1%no-such]:5", "[fe80::1%4000000000]:5", "[fe80::1%]:5"] {
            let zone = text.split(['%', ']']).nth(1).expect("a zone");
            let error = resolve(text).expect_err(text).to_string();
            assert!(error.contains(&format!("`{zone}`")) && error.contains("--listen"), "{error}");
            assert!(error.contains("ip link"), "{error}");
        }
        let zoned: ListenAddress = "[fe80::1%lo]:5".parse().expect("an address");
        assert_eq!((zoned.not_covered(by_name), zoned.name()), (None, "fe80::1".to_owned()));
    }

    #[test]
    fn addresses_with_and_without_a_scheme() {
        assert_eq!(parse("127.0.0.1:9001"), Ok((None, "127.0.0.1".to_owned(), 9001)));
        assert_eq!(parse("ws://localhost:0/"), Ok((Some(Scheme::Ws), "localhost".to_owned(), 0)));
        assert_eq!(
            parse("WSS://localhost:443/"),
            Ok((Some(Scheme::Wss), "localhost".to_owned(), 443))
        );
        assert_eq!(parse("tcp://[::1]:80"), Ok((Some(Scheme::Tcp), "::1".to_owned(), 80)));
        assert_eq!(parse("https://localhost:1/"), Err(ListenAddressError::Scheme));
        assert_eq!(parse("ws://localhost:1/chat"), Err(ListenAddressError::Path));
        assert_eq!(parse("127.0.0.1"), Err(ListenAddressError::Port));
        assert_eq!(parse("127.0.0.1:70000"), Err(ListenAddressError::Port));
        assert_eq!(parse("::1:9001"), Err(ListenAddressError::Brackets));
        assert_eq!(parse(":9001"), Err(ListenAddressError::Host));
    }

    #[test]
    fn addresses_are_shown_as_they_are_read() {
        for text in ["localhost:9001", "[::1]:9001"] {
            assert_eq!(text.parse::<ListenAddress>().map(|a| a.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn urls_of_listeners() {
        let address = "[::1]:9001".parse().expect("address");
        assert_eq!(Scheme::Ws.url(address), "ws://[::1]:9001/");
        assert_eq!(Scheme::Wss.url(address), "wss://[::1]:9001/");
        assert_eq!(Scheme::Tcp.url(address), "tcp://[::1]:9001");
    }

    /// Two cores of two threads each, siblings side by side.
    fn pairs(cpu: usize) -> Vec<usize> {
        vec![cpu & !1, cpu | 1]
    }

    #[test]
    fn one_worker_on_each_physical_core() {
        assert_eq!(place_workers(None, None, &[0, 1, 2, 3], pairs), Ok(vec![0, 2]));
        assert_eq!(place_workers(None, None, &[1, 2], pairs), Ok(vec![1, 2]));
        assert_eq!(place_workers(None, None, &[5, 6], |_| Vec::new()), Ok(vec![5, 6]));
    }

    #[test]
    fn wishes_are_followed() {
        assert_eq!(place_workers(Some(3), None, &[0, 1, 2, 3], pairs), Ok(vec![0, 2, 1]));
        assert_eq!(place_workers(Some(3), None, &[0, 1], |_| Vec::new()), Ok(vec![0, 1, 0]));
        assert_eq!(place_workers(None, Some(&[3, 1]), &[0, 1, 2, 3], pairs), Ok(vec![3, 1]));
        assert_eq!(place_workers(Some(1), Some(&[3, 1]), &[0, 1, 2, 3], pairs), Ok(vec![3]));
        let refused = place_workers(None, Some(&[9]), &[0, 1], pairs);
        assert_eq!(refused, Err(PlacementError::NotAllowed { cpu: 9, allowed: vec![0, 1] }));
    }
}

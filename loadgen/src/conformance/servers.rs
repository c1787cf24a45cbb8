//! The servers that cases run against.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use thiserror::Error;

use super::relay::relay;
use crate::load::Transport;
use crate::target::url::{Port, Url};

/// Path and Origin that the restricted server lets in.
pub(super) const PATH: &str = "/chat";
pub(super) const ORIGIN: &str = "http://good.example";

/// Flags of the six variants of our server, in the order of [`Servers::own`].
///
/// A connection that is silent has a second, which is more than a control connection pauses on a
/// busy machine.
pub const FLAGS: [&[&str]; 6] = [
    &[],
    &["--max-message", "64KiB", "--max-fragments", "100"],
    &["--path", PATH, "--origin", ORIGIN],
    &["--handshake-timeout", "1s", "--idle-timeout", "1s"],
    &["--message-timeout", "300ms", "--subprotocol", "chat"],
    &["--deflate", "takeover", "--max-message", "1MiB"],
];

/// Variant of the server that a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Any server, with its default limits.
    Default,
    /// Ours, with 64 KiB to a message and 100 fragments.
    Small,
    /// Ours, with one path and one Origin.
    Restricted,
    /// Ours, with short deadlines for handshakes and silence.
    ShortDeadlines,
    /// Ours, with a short deadline for messages and a subprotocol.
    MessagePolicy,
    /// Any server, ours with compression.
    Deflate,
    /// Ours, with compression and 1 MiB to a message.
    DeflateSmall,
}

/// The servers that cases run against: one foreign server, or six of ours with different limits.
#[derive(Debug)]
pub struct Servers {
    pub(super) host: String,
    pub(super) path: String,
    /// Time for each answer. Only a server that does not answer takes so long.
    patience: Duration,
    /// True if a relay adds TLS on the way to the server.
    behind_tls: bool,
    /// Those of ours in the order of the variants, or a foreign one.
    addresses: Vec<SocketAddr>,
    /// Process of the first one, where it is ours.
    pid: Option<u32>,
}

/// Reason why a server cannot be tested.
#[derive(Debug, Error)]
pub enum ConformanceError {
    /// Raw bytes have no protocol to conform to.
    #[error("{0} cannot be tested: expected a ws:// or wss:// URL")]
    NotWebSocket(Url),
    /// The URL has no port yet.
    #[error("{0} cannot be tested: {{port}} stands for a server that --spawn starts")]
    NoPort(Url),
    /// The host cannot be resolved or reached.
    #[error("{url} cannot be tested: {source}; start the server, or check host and port")]
    Unreachable {
        /// The server.
        url: Url,
        /// The error of the system.
        source: io::Error,
    },
}

impl Servers {
    /// Returns six of our servers, started with [`FLAGS`]. `pid` is the process of the first one.
    /// Over `wss` each is reached by a relay that adds TLS.
    ///
    /// # Errors
    ///
    /// Fails if no relay can be set up.
    pub fn own(
        addresses: [SocketAddr; 6],
        pid: u32,
        transport: Transport,
        patience: Duration,
    ) -> io::Result<Self> {
        let behind_tls = transport == Transport::Wss;
        let reach = |address| if behind_tls { relay(address, "localhost") } else { Ok(address) };
        let addresses = addresses.into_iter().map(reach).collect::<io::Result<Vec<_>>>()?;
        let host = addresses[0].to_string();
        Ok(Self { host, path: "/echo".into(), patience, behind_tls, addresses, pid: Some(pid) })
    }

    /// Returns a running server that accepts connections at `url`. It has `patience` for each
    /// answer.
    ///
    /// # Errors
    ///
    /// Fails with a [`ConformanceError`] where nothing answers there.
    pub fn foreign(url: &Url, patience: Duration) -> Result<Self, ConformanceError> {
        if !url.transport.is_websocket() {
            return Err(ConformanceError::NotWebSocket(url.clone()));
        }
        let Port::Number(port) = url.port else {
            return Err(ConformanceError::NoPort(url.clone()));
        };
        let reach = || {
            let mut last = io::ErrorKind::NotFound.into();
            let connects =
                |address: &SocketAddr| match TcpStream::connect_timeout(address, patience) {
                    Ok(_) => true,
                    Err(error) => {
                        last = error;
                        false
                    }
                };
            let found = url.resolve(port)?.into_iter().find(connects);
            let Some(address) = found else { return Err(last) };
            let behind_tls = url.transport == Transport::Wss;
            Ok((if behind_tls { relay(address, &url.host)? } else { address }, behind_tls))
        };
        let (address, behind_tls) =
            reach().map_err(|source| ConformanceError::Unreachable { url: url.clone(), source })?;
        let (host, path) = (url.host_field(), url.target.clone());
        Ok(Self { host, path, patience, behind_tls, addresses: vec![address], pid: None })
    }

    fn address(&self, variant: Variant) -> Option<SocketAddr> {
        let place = match variant {
            Variant::Deflate if self.pid.is_none() => Variant::Default as usize,
            Variant::DeflateSmall => Variant::Deflate as usize,
            _ => variant as usize,
        };
        self.addresses.get(place).copied()
    }

    /// Returns the process of the default server, where it is ours.
    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }
}

/// One of the servers, as a case meets it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) patience: Duration,
    pub(super) pid: Option<u32>,
    /// True if the server does TLS.
    pub(super) tls: bool,
}

impl Target {
    pub(super) fn of(servers: &Servers, variant: Variant) -> Option<Self> {
        let Servers { host, path, patience, .. } = servers;
        let path = if variant == Variant::Restricted { PATH } else { path };
        let (host, path, patience, pid) = (host.clone(), path.to_owned(), *patience, servers.pid());
        let tls = servers.behind_tls;
        Some(Self { address: servers.address(variant)?, host, path, patience, pid, tls })
    }
}

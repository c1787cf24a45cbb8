//! Where the cases play: one foreign server, or three of ours with different limits.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::program::Program;
use crate::relay::relay;

/// What the choosy server lets in.
pub(crate) const PATH: &str = "/chat";
pub(crate) const ORIGIN: &str = "http://good.example";

/// Which server a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// Any, with its default limits.
    Usual,
    /// Ours, with 64 KiB to a message and 100 fragments.
    Small,
    /// Ours, with one path and one Origin.
    Choosy,
    /// Ours, with short deadlines for handshakes and silence.
    Hurried,
    /// Ours, with a short deadline for messages and a subprotocol.
    Policed,
}

#[derive(Debug)]
pub(crate) struct Playground {
    pub(crate) host: String,
    pub(crate) path: String,
    /// Only a server that will not answer takes this long.
    pub(crate) patience: Duration,
    /// Whether a relay adds TLS on the way to the server.
    behind_tls: bool,
    usual: SocketAddr,
    limited: Option<Limited>,
}

#[derive(Debug)]
struct Limited {
    small: SocketAddr,
    choosy: SocketAddr,
    hurried: SocketAddr,
    policed: SocketAddr,
    pid: u32,
}

impl Playground {
    /// `reach` tells under which address a program is reached.
    pub(crate) fn own(
        [usual, small, choosy, hurried, policed]: [&Program; 5],
        reach: impl Fn(&Program) -> SocketAddr,
        patience: Duration,
    ) -> Self {
        let limited = Limited {
            small: reach(small),
            choosy: reach(choosy),
            hurried: reach(hurried),
            policed: reach(policed),
            pid: usual.pid(),
        };
        let direct = usual.address();
        let usual = reach(usual);
        let (host, behind_tls) = (usual.to_string(), usual != direct);
        Self { host, path: "/echo".into(), patience, behind_tls, usual, limited: Some(limited) }
    }

    pub(crate) fn foreign(url: &str, patience: Duration) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let default_port = match scheme {
            "ws" => 80,
            "wss" => 443,
            _ => return Err("the URL must start with ws:// or wss://".to_owned()),
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        let authority = if host.contains(':') { host.to_owned() } else { format!("{host}:{default_port}") };
        let mut found = authority.to_socket_addrs().map_err(|error| error.to_string())?;
        let mut usual = found.next().ok_or("no such host")?;
        TcpStream::connect_timeout(&usual, patience).map_err(|error| format!("nothing answers: {error}"))?;
        if scheme == "wss" {
            let name = authority.rsplit_once(':').map_or(host, |(name, _)| name);
            let name = name.trim_start_matches('[').trim_end_matches(']');
            usual = relay(usual, name).map_err(|error| error.to_string())?;
        }
        let behind_tls = scheme == "wss";
        Ok(Self { host: host.into(), path: path.into(), patience, behind_tls, usual, limited: None })
    }

    pub(crate) fn address(&self, on: On) -> Option<SocketAddr> {
        match (on, &self.limited) {
            (On::Usual, _) => Some(self.usual),
            (On::Small, limited) => limited.as_ref().map(|limited| limited.small),
            (On::Choosy, limited) => limited.as_ref().map(|limited| limited.choosy),
            (On::Hurried, limited) => limited.as_ref().map(|limited| limited.hurried),
            (On::Policed, limited) => limited.as_ref().map(|limited| limited.policed),
        }
    }

    /// The usual server's process, where it is ours.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.limited.as_ref().map(|limited| limited.pid)
    }
}

/// One server of the playground, as a case meets it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) patience: Duration,
    pub(crate) pid: Option<u32>,
    /// Whether the server does TLS.
    pub(crate) tls: bool,
}

impl Target {
    pub(crate) fn of(playground: &Playground, on: On) -> Option<Self> {
        let Playground { host, path, patience, .. } = playground;
        let path = if on == On::Choosy { PATH } else { path };
        let (host, path, patience, pid) = (host.clone(), path.to_owned(), *patience, playground.pid());
        let tls = playground.behind_tls;
        Some(Self { address: playground.address(on)?, host, path, patience, pid, tls })
    }
}

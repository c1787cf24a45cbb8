//! Reasons why a run has no result.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitStatus;
use std::time::Duration;

use engine::EngineError;
use thiserror::Error;

use super::plan::PlanError;
use crate::format::count;
use crate::result::InvalidKind;
use crate::target::spawn::{LastWords, SpawnError};
use crate::target::trust::TrustError;

/// A run that has no result; the texts name cause and remedy.
#[derive(Debug, Error)]
pub enum RunError {
    /// The plan cannot be carried out: a matter of usage.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The host's name leads to no address.
    #[error("cannot resolve host `{host}`: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// The error of the resolver.
        source: io::Error,
    },
    /// More connections than descriptors.
    #[error(
        "{needed} file descriptors are needed for {}, but the limit is {limit}: raise it with \
         `ulimit -n {needed}` (the hard limit too), or lower -c",
        count(*connections, "connection")
    )]
    Descriptors {
        /// Number of all descriptors that are needed.
        needed: u64,
        /// Connections asked for.
        connections: u64,
        /// The limit in force, already raised to the hard one.
        limit: u64,
    },
    /// More connections than one address has ports.
    #[error(
        "{connections} connections to one address need as many local ports, but there are {ports} for \
         each source address of {sources} (net.ipv4.ip_local_port_range): name more of them with \
         --source-ip (127.0.0.1-127.0.0.9 on loopback), \
         `sysctl net.ipv4.ip_local_port_range='1024 65535'` as root, or lower -c"
    )]
    Ports {
        /// Connections asked for.
        connections: u64,
        /// Ports in the range.
        ports: u32,
        /// Addresses to connect from.
        sources: usize,
    },
    /// An address to connect from that is of the other family.
    #[error(
        "--source-ip {source_ip} cannot reach {to}: IPv4 and IPv6 do not mix; name a source address \
         of the server's family"
    )]
    SourceFamily {
        /// The address.
        source_ip: IpAddr,
        /// The server's.
        to: SocketAddr,
    },
    /// A link-local address to connect from, and a server whose link is not known.
    #[error(
        "--source-ip {source_ip} cannot reach {to}: a link-local address reaches its own link alone; \
         name the server's link-local address and its zone in the URL, as in ws://[fe80::1%25eth0]:9001/"
    )]
    SourceLink {
        /// The address.
        source_ip: IpAddr,
        /// The server's.
        to: SocketAddr,
    },
    /// An address to connect from that is not this machine's.
    #[error("--source-ip {source_ip}: {source}: it must be an address of this machine (`ip addr`)")]
    SourceAddress {
        /// The address.
        source_ip: IpAddr,
        /// The error of bind(2).
        source: io::Error,
    },
    /// Nobody can be trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A thread cannot be kept on its processor.
    #[error("cannot pin a thread to processor {cpu}: {source}; see --cpus")]
    Pin {
        /// The processor.
        cpu: usize,
        /// The error of sched_setaffinity(2).
        source: io::Error,
    },
    /// The server of `--spawn` did not start, or is not what is listening.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The engine does not run here.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No connection at any of the host's addresses.
    #[error("{detail} ({})", were_open(*open, *connections))]
    Connect {
        /// The addresses that were tried, and the errors of the kernel.
        detail: String,
        /// Connections that were open by then.
        open: u64,
        /// Connections wanted.
        connections: u32,
    },
    /// The other end is no WebSocket server, or refuses us.
    #[error("opening handshake with {url} failed: {detail} ({})", were_open(*open, *connections))]
    Handshake {
        /// The URL.
        url: String,
        /// The fault of the answer.
        detail: String,
        /// Connections that were open by then.
        open: u64,
        /// Connections wanted.
        connections: u32,
    },
    /// The server of `--spawn` ended by itself.
    #[error("the server ended during the run ({status}){said}")]
    ServerEnded {
        /// Its exit status.
        status: ExitStatus,
        /// Its last words on standard error, ready to be appended.
        said: LastWords,
    },
    /// A connection was lost before the load began.
    #[error(
        "the server closed a connection before the load began: {cause} ({})",
        were_open(*open, *connections)
    )]
    LostEarly {
        /// Reason why it was lost.
        cause: String,
        /// Connections that were open at that time.
        open: u64,
        /// Connections wanted.
        connections: u32,
    },
    /// All attempts to open connections failed for too long.
    #[error("{cause}; gave up after {:.1} s ({})", .after.as_secs_f64(), were_open(*open, *connections))]
    NoneStays {
        /// Reason why the last attempt failed.
        cause: String,
        /// Time for which all attempts had failed.
        after: Duration,
        /// Connections that were open at that time.
        open: u64,
        /// Connections wanted.
        connections: u32,
    },
    /// Every connection was lost.
    #[error("the server closed {}: {cause}{said}", all_connections(*connections))]
    AllClosed {
        /// Number of all connections.
        connections: u32,
        /// The last one's cause.
        cause: String,
        /// The spawned server's last words on standard error, ready to be appended.
        said: LastWords,
    },
    /// No echo for too long.
    #[error(
        "the server stopped answering: no echo for {}, {} due{said}",
        format!("{:.1} s", .after.as_secs_f64()),
        if *outstanding == 1 { "1 message is".to_owned() } else { format!("{outstanding} messages are") }
    )]
    StoppedAnswering {
        /// Messages sent and not back.
        outstanding: u64,
        /// Time without an echo.
        after: Duration,
        /// The spawned server's last words on standard error, ready to be appended.
        said: LastWords,
    },
    /// A worker did not do what it was told: a fault of this program, reported instead of hanging.
    #[error("a worker thread of the generator did not {0} in time; please report this")]
    Stuck(&'static str),
    /// A worker thread panicked.
    #[error("a worker thread of the generator panicked")]
    Panicked,
    /// The user ended the run before anything was measured.
    #[error("interrupted before anything was measured")]
    Interrupted,
    /// A system call the run cannot do without.
    #[error("{what}: {source}")]
    System {
        /// The call and its object.
        what: &'static str,
        /// The error of the kernel.
        source: io::Error,
    },
}

/// Says how many of the connections were open.
fn were_open(open: u64, connections: u32) -> String {
    share(open, connections.into(), "open")
}

/// Says of how many connections something was true.
pub(super) fn share(part: u64, all: u64, what: &str) -> String {
    let (noun, verb) = (
        if all == 1 { "connection" } else { "connections" },
        if part == 1 || all == 1 { "was" } else { "were" },
    );
    format!("{part} of {all} {noun} {verb} {what}")
}

fn all_connections(connections: u32) -> String {
    if connections == 1 { "the only connection".to_owned() } else { format!("all {connections} connections") }
}

impl RunError {
    /// Returns the error as one line that may be stored. It leaves out the output of the server,
    /// which may name private paths and hosts.
    pub fn summary(&self) -> String {
        let text = self.to_string();
        let line = text.lines().next().unwrap_or_default();
        line.split("; the last it wrote").next().unwrap_or_default().to_owned()
    }

    /// Returns true where a run with a begun load ends with what was measured until then, because
    /// the server or an engine ended it.
    pub(super) fn has_result(&self) -> bool {
        self.kind().is_some()
    }

    /// Returns the reason why such a run is not valid.
    pub(super) fn kind(&self) -> Option<InvalidKind> {
        match self {
            Self::ServerEnded { .. } => Some(InvalidKind::ServerEnded),
            Self::AllClosed { .. } | Self::NoneStays { .. } => Some(InvalidKind::AllClosed),
            Self::StoppedAnswering { .. } => Some(InvalidKind::StoppedAnswering),
            Self::Engine(_) => Some(InvalidKind::EngineFailed),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_their_nouns() {
        let were_open = |open, connections| {
            RunError::Connect { detail: "refused".to_owned(), open, connections }.to_string()
        };
        assert_eq!(were_open(0, 1), "refused (0 of 1 connection was open)");
        assert_eq!(were_open(1, 4), "refused (1 of 4 connections was open)");
        assert_eq!(were_open(0, 4), "refused (0 of 4 connections were open)");
        let due = |outstanding| {
            let (after, said) = (Duration::from_secs(5), LastWords::default());
            RunError::StoppedAnswering { outstanding, after, said }.to_string()
        };
        assert!(due(1).ends_with("1 message is due") && due(2).ends_with("2 messages are due"));
        let closed = |connections| {
            let (cause, said) = ("reset".to_owned(), LastWords::default());
            RunError::AllClosed { connections, cause, said }.to_string()
        };
        assert_eq!(closed(1), "the server closed the only connection: reset");
        assert_eq!(closed(2), "the server closed all 2 connections: reset");
    }
}

//! Reasons why a run has no result.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use engine::EngineError;
use thiserror::Error;

use super::plan::PlanError;
use crate::result::InvalidKind;
use crate::target::spawn::{Role, SpawnError};

/// A run that has no result; the texts name cause and remedy.
#[derive(Debug, Error)]
pub enum RunError {
    /// The plan cannot be carried out: a matter of usage.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// This machine, its limits or its certificates do not allow the run.
    #[error("{0:#}")]
    Setup(anyhow::Error),
    /// The host's name leads to no address.
    #[error("cannot resolve host `{host}`: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// The error of the resolver.
        source: io::Error,
    },
    /// The server of `--spawn` or the proxy of `--via` did not start, or is not what is listening.
    #[error(transparent)]
    Spawn(SpawnError),
    /// The engine does not run here.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No connection at any of the host's addresses.
    #[error("{detail} ({opened})")]
    Connect {
        /// The addresses that were tried, and the errors of the kernel.
        detail: String,
        /// The connections that were open by then.
        opened: Opened,
    },
    /// The peer is not a WebSocket server, or refuses the handshake.
    #[error("opening handshake with {url} failed: {detail} ({opened})")]
    Handshake {
        /// The URL.
        url: String,
        /// The fault of the answer.
        detail: String,
        /// The connections that were open by then.
        opened: Opened,
    },
    /// The messages before the load of a connection were not as expected.
    #[error("the first messages with {url} failed: {detail} ({opened})")]
    FirstMessages {
        /// The URL.
        url: String,
        /// The fault of the server's messages.
        detail: String,
        /// The connections that were open by then.
        opened: Opened,
    },
    /// The server of `--spawn` ended by itself.
    #[error("the server ended during the run ({status}){said}")]
    ServerEnded {
        /// Its exit status.
        status: ExitStatus,
        /// Its last lines on standard error.
        said: String,
    },
    /// The proxy of `--via` ended by itself.
    #[error("the proxy (--via) ended during the run ({status}){said}")]
    ProxyEnded {
        /// Its exit status.
        status: ExitStatus,
        /// Its last lines on standard error.
        said: String,
    },
    /// A connection was lost before the load began.
    #[error("the server closed a connection before the load began: {cause} ({opened})")]
    LostEarly {
        /// Reason why it was lost.
        cause: String,
        /// The connections that were open at that time.
        opened: Opened,
    },
    /// All attempts to open connections failed for too long.
    #[error("{cause}; gave up after {:.1} s ({opened})", .after.as_secs_f64())]
    NoneStays {
        /// Reason why the last attempt failed.
        cause: String,
        /// Time for which all attempts had failed.
        after: Duration,
        /// The connections that were open at that time.
        opened: Opened,
    },
    /// The instant of `--start-at` passed before the load could begin.
    #[error(
        "--start-at had passed by {:.1} s when all connections were open: choose a later instant, \
         as in +30s",
        .late.as_secs_f64()
    )]
    StartPassed {
        /// Time since that instant.
        late: Duration,
    },
    /// Every connection was lost.
    #[error(
        "the server closed {}: {cause}{said}",
        if *connections == 1 { "the only connection".to_owned() } else { format!("all {connections} connections") }
    )]
    AllClosed {
        /// Number of all connections.
        connections: u32,
        /// The last one's cause.
        cause: String,
        /// The spawned server's last lines on standard error.
        said: String,
    },
    /// No echo for too long.
    #[error(
        "the server stopped answering: no echo for {:.1} s, {} due{said}",
        .after.as_secs_f64(),
        if *outstanding == 1 { "1 message is".to_owned() } else { format!("{outstanding} messages are") }
    )]
    StoppedAnswering {
        /// Messages sent and not back.
        outstanding: u64,
        /// Time without an echo.
        after: Duration,
        /// The spawned server's last lines on standard error.
        said: String,
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

impl From<SpawnError> for RunError {
    fn from(error: SpawnError) -> Self {
        if matches!(error, SpawnError::Interrupted) {
            Self::Interrupted
        } else {
            Self::Spawn(error)
        }
    }
}

/// Number of connections that were open, of all that a run needs.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Open connections.
    pub open: u64,
    /// All connections.
    pub connections: u32,
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&share(self.open, self.connections.into(), "open"))
    }
}

/// Text before a message of the server in an error.
pub(super) const ANSWERED: &str = "; it answered: ";

/// Says of how many connections something was true.
pub(super) fn share(part: u64, all: u64, what: &str) -> String {
    let (noun, verb) = (
        if all == 1 { "connection" } else { "connections" },
        if part == 1 || all == 1 { "was" } else { "were" },
    );
    format!("{part} of {all} {noun} {verb} {what}")
}

impl RunError {
    /// Returns the error for a program that ended by itself, by its part in the run.
    pub(super) fn ended(role: Role, status: ExitStatus, said: String) -> Self {
        match role {
            Role::Server | Role::ServerBehind => Self::ServerEnded { status, said },
            Role::Proxy => Self::ProxyEnded { status, said },
        }
    }

    /// Returns the error as one line that may be stored. It leaves out the output of the server,
    /// which may name private paths and hosts, and its answer to a login.
    pub(crate) fn summary(&self) -> String {
        let text = self.to_string();
        let line = text.lines().next().unwrap_or_default();
        let line = line.split("; the last it wrote").next().unwrap_or_default();
        line.split(ANSWERED).next().unwrap_or_default().to_owned()
    }

    /// Returns the reason why a run is not valid that this error ended once the load had begun.
    /// Such a run ends with what was measured until then. `None` for other errors.
    pub(super) fn kind(&self) -> Option<InvalidKind> {
        match self {
            Self::ServerEnded { .. } => Some(InvalidKind::ServerEnded),
            Self::ProxyEnded { .. } => Some(InvalidKind::ProxyEnded),
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
            let opened = Opened { open, connections };
            RunError::Connect { detail: "refused".to_owned(), opened }.to_string()
        };
        assert_eq!(were_open(0, 1), "refused (0 of 1 connection was open)");
        assert_eq!(were_open(1, 4), "refused (1 of 4 connections was open)");
        assert_eq!(were_open(0, 4), "refused (0 of 4 connections were open)");
        let due = |outstanding| {
            let (after, said) = (Duration::from_secs(5), String::new());
            RunError::StoppedAnswering { outstanding, after, said }.to_string()
        };
        assert!(due(1).ends_with("1 message is due") && due(2).ends_with("2 messages are due"));
        let closed = |connections| {
            let (cause, said) = ("reset".to_owned(), String::new());
            RunError::AllClosed { connections, cause, said }.to_string()
        };
        assert_eq!(closed(1), "the server closed the only connection: reset");
        assert_eq!(closed(2), "the server closed all 2 connections: reset");
    }
}

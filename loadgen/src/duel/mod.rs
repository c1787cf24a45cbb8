//! Two servers in interleaved pairs: which is slower, and how sure can one be?
//!
//! A replicate is a run against a freshly started server: processes differ more from each other than the seconds within one.
//! The order is ABBA, so that a machine that becomes slower or faster meanwhile weighs on both sides alike. Each pair has a
//! run of each side under a load that saturates (throughput, server CPU, memory) and one at a fixed rate (latencies). A run
//! that failed, is invalid or was disturbed is repeated, within bounds, and then its pair is replaced.

mod calibration;
mod session;

use std::time::Duration;

use thiserror::Error;

pub use calibration::SHARE_OF_CAPACITY;
pub use session::measure;

use crate::experiment::Fault;
use crate::result::SessionKind;
use crate::run::Plan;
use crate::target::spawn::Spawn;

/// What a session of pairs is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// [`SessionKind::Ab`], or [`SessionKind::Aa`] where both sides are the same server and its noise is recorded.
    pub kind: SessionKind,
    /// The servers A and B.
    pub servers: [Spawn; 2],
    /// Their names, and what the caller knows of them.
    pub sides: [Side; 2],
    /// The load that saturates; its `rate_per_s`, `spawn`, `arm` and `pair` are not looked at.
    pub load: Plan,
    /// The runs at a fixed rate.
    pub fixed: Fixed,
    /// How many pairs.
    pub pairs: u32,
    /// A name for the session.
    pub tag: Option<String>,
    /// What a reader must know, found out before.
    pub marks: Vec<String>,
}

/// Name of a side, and what the caller knows of its server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Side {
    /// Name in tables and results.
    pub name: String,
    /// Version of somebody else's server.
    pub version: Option<String>,
    /// Commit that the server was built from; `None`: what it says itself.
    pub commit: Option<String>,
}

/// At which rate latencies are measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fixed {
    /// At [`SHARE_OF_CAPACITY`] of what side A does in a short run.
    Calibrated,
    /// At this one, messages a second.
    Rate(f64),
    /// Not at all: three gates instead of five.
    Off,
}

/// Reason why there is no comparison. Nothing was measured then.
#[derive(Debug, Error)]
pub enum DuelError {
    /// A server failed from the start.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The first run shows no capacity to take a share of.
    #[error(
        "side A answered nothing in the calibration run: give the fixed rate with -R, or leave it out with --saturation-only"
    )]
    NoCapacity,
    /// The user ended it before the first pair was complete.
    #[error("interrupted before a pair was complete; nothing was stored")]
    Interrupted,
}

impl Options {
    /// Returns the number of runs of the session, without repeats.
    #[must_use]
    pub fn runs(&self) -> u32 {
        self.pairs * 2 * if self.fixed == Fixed::Off { 1 } else { 2 }
    }

    /// About how long the session takes.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let calibration =
            if self.fixed == Fixed::Calibrated { calibration::duration(&self.load) } else { Duration::ZERO };
        session::run_duration(&self.load) * self.runs() + calibration
    }
}

/// A span for people, rounded.
#[must_use]
pub fn about(span: Duration) -> String {
    let seconds = span.as_secs_f64().ceil();
    if seconds < 90.0 { format!("{seconds} s") } else { format!("{:.0} min", seconds / 60.0) }
}

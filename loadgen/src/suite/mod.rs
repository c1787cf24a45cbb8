//! Suites: fixed scenarios, one stored session, one table. [`measure`] measures those of `scripts/bench.sh`,
//! against our own server. [`interleaved::measure`] compares several servers.

mod arms;
mod check;
pub mod interleaved;
mod places;
mod scenarios;
mod session;
mod setup;
mod trial;

use std::path::PathBuf;

use engine::{EngineError, EngineKind};
use thiserror::Error;

pub use arms::{Arm, ArmError, Served, arm_name, counts, named};
pub use check::complaints;
pub use places::Places;
pub use scenarios::{Spec, Suite};
pub use setup::{Checkout, Setup};

use crate::experiment::{self, Fault, Notes};
use crate::host::machine::Machine;
use crate::result::Scenario;
use crate::run::{Progress, execute};
use session::Session;

/// What a session of a suite is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which suite.
    pub suite: Suite,
    /// What every session is given.
    pub setup: Setup,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Complete, and every scenario has a valid run.
    Fine,
    /// A server failed, or a smoke session found a fault.
    Failed,
    /// Complete, but a scenario has no valid run.
    Invalid,
    /// The user ended it; what was measured is stored.
    Interrupted,
}

impl Outcome {
    /// Returns the outcome of `session`. Wrong echoes are an error in any case.
    #[must_use]
    pub fn of(session: &experiment::Session) -> Self {
        let document = &session.document;
        let is_smoke = document.session.suite.as_deref() == Some(Suite::Smoke.name());
        let has_valid_run =
            |scenario: &Scenario| document.runs.iter().any(|run| run.scenario == scenario.name && run.valid);
        if session.fault.is_some() {
            Self::Failed
        } else if document.session.interrupted {
            Self::Interrupted
        } else if is_smoke {
            // A very short load on a busy machine may well be invalid as a measurement, and smoke only checks
            // that everything works.
            if complaints(document).is_empty() { Self::Fine } else { Self::Failed }
        } else if document.scenarios.iter().all(has_valid_run) {
            Self::Fine
        } else {
            Self::Invalid
        }
    }

    /// The exit code of the command: 0 fine, 1 failed, 13 invalid, 130 interrupted.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Failed => 1,
            Self::Invalid => 13,
            // What shells report for a program that Ctrl-C ended.
            Self::Interrupted => 130,
        }
    }
}

/// Reason why a session has no result. Nothing was measured then.
#[derive(Debug, Error)]
pub enum SuiteError {
    /// A flag that cannot be used.
    #[error("{flag} `{value}`: {reason}")]
    Usage {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What it must be.
        reason: &'static str,
    },
    /// No server to measure.
    #[error("no server at {}: build it with `cargo build --release`, or name it with --server", .0.display())]
    NoServer(PathBuf),
    /// The engine asked for does not run here.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// There is nothing to set against each other.
    #[error("fewer than two arms can run here: {left_out} Name servers with --arm NAME=COMMAND.")]
    FewArms {
        /// Which were left out and why.
        left_out: String,
    },
    /// A server failed from the start.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The user ended it before the first run was complete.
    #[error("interrupted before anything was measured; nothing was stored")]
    Interrupted,
}

/// Measures a session of a suite.
///
/// What happens meanwhile goes to `notes`, a line each, and to `progress`. Call it from the main thread, as
/// [`execute`].
///
/// # Errors
/// Fails with a [`SuiteError`]. Nothing was measured then, and nothing is left running.
pub fn measure(
    options: &Options,
    machine: Machine,
    progress: &mut dyn Progress,
    notes: Notes<'_>,
) -> Result<experiment::Session, SuiteError> {
    let session = Session::prepare(options, &machine, &EngineKind::probe)?;
    session.announce(notes);
    session.measure(machine, &execute, progress, notes)
}

impl Options {
    /// Checks everything that can be checked before the first run.
    ///
    /// # Errors
    /// Fails with [`SuiteError::Usage`] or [`SuiteError::NoServer`].
    pub fn check(&self) -> Result<(), SuiteError> {
        self.setup.check()?;
        self.setup.check_server()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Document, example};

    fn outcome(document: &Document) -> Outcome {
        Outcome::of(&experiment::Session { document: document.clone(), fault: None })
    }

    #[test]
    fn the_outcome_follows_from_the_runs() {
        let document = example::document();
        assert_eq!(outcome(&document), Outcome::Fine);
        let mut invalid = document.clone();
        invalid.runs[1].valid = false;
        assert_eq!(outcome(&invalid), Outcome::Invalid);
        // A second, valid run of the same scenario is enough.
        invalid.runs.push(document.runs[1].clone());
        assert_eq!(outcome(&invalid), Outcome::Fine);
        invalid.session.interrupted = true;
        assert_eq!(outcome(&invalid), Outcome::Interrupted);
        let mut missing = document;
        missing.runs.remove(1);
        assert_eq!(outcome(&missing), Outcome::Invalid);
    }

    #[test]
    fn a_fault_is_an_error_whatever_else_is_true() {
        let mut document = example::document();
        document.session.interrupted = true;
        let fault = Some(Fault { run: "echo".to_owned(), reason: "why".to_owned() });
        assert_eq!(Outcome::of(&experiment::Session { document, fault }), Outcome::Failed);
    }

    #[test]
    fn smoke_judges_correctness_and_not_validity() {
        let mut document = example::document();
        document.runs[1].valid = false;
        assert_eq!(outcome(&document), Outcome::Invalid);
        document.session.suite = Some("smoke".to_owned());
        assert_eq!(outcome(&document), Outcome::Fine);
        document.runs[0].integrity.lost = 1;
        assert_eq!(outcome(&document), Outcome::Failed);
    }
}

//! The suites: fixed scenarios, one stored session, one table. [`main`] makes those of `scripts/bench.sh`, against our own server;
//! [`interleaved::main`] sets several servers side by side.

mod arms;
mod check;
pub mod interleaved;
mod peers;
mod places;
mod promises;
mod scenarios;
mod session;
mod setup;
mod side_by_side;
mod trial;

use std::io::{self, Write};
use std::path::PathBuf;

use engine::{EngineError, EngineKind};
use thiserror::Error;

pub use arms::{Arm, ArmError, Served, counts, named};
pub use check::complaints;
pub use peers::{peers_markdown, peers_text};
pub use places::Places;
pub use promises::PROMISES;
pub use scenarios::{Spec, Suite, client_frame_bytes};
pub use setup::{Checkout, Setup};
pub use side_by_side::{Promise, promises_table, side_by_side_table};

use crate::machine::Machine;
use crate::result::{Document, Store, StoreError, Summary, advisory, derived_lines, summary_table};
use crate::run::{Progress, RunError, execute};
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
    /// A smoke session found something that does not work.
    Failed,
    /// Complete, but a scenario has no valid run.
    Invalid,
    /// The user ended it; what was measured is stored.
    Interrupted,
}

impl Outcome {
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

/// Why a session has no result. Nothing is stored then.
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
    /// A run could not be made.
    #[error("scenario {scenario}: {source}")]
    Run {
        /// The scenario.
        scenario: String,
        /// Why.
        source: RunError,
    },
    /// The user ended it before the first run was complete.
    #[error("interrupted before anything was measured; nothing was stored")]
    Interrupted,
    /// The result could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The table could not be printed.
    #[error("cannot print the result: {0}")]
    Print(#[from] io::Error),
}

impl SuiteError {
    /// The exit code of the command: 2 for a flag that cannot be used, 1 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage { .. }) { 2 } else { 1 }
    }
}

/// Runs a suite, stores its session, and prints the table, the file and the change since the last session on `out`.
///
/// What happens meanwhile goes to `notes`, a line each, and to `progress`. Call it from the main thread, as
/// [`execute`].
///
/// # Errors
/// See [`SuiteError`]; nothing is stored then, and nothing left running.
pub fn main(
    options: &Options,
    progress: &mut dyn Progress,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> Result<Outcome, SuiteError> {
    options.setup.check()?;
    options.setup.check_server()?;
    let machine = Machine::here();
    let session = Session::prepare(options, &machine, &EngineKind::probe)?;
    session.announce(notes)?;
    let document = session.measure(machine, &execute, progress, notes)?;
    let store = Store::new(&options.setup.results);
    let path = store.save(&document)?;
    print(&document, out)?;
    writeln!(out, "\nstored in {}\n", path.display())?;
    print_change(&store, &document, out)?;
    judge(options.suite, &document, out)
}

fn print(document: &Document, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", summary_table(document))?;
    for (index, line) in derived_lines(document).iter().enumerate() {
        writeln!(out, "{}{line}", if index == 0 { "\n" } else { "" })?;
    }
    Ok(())
}

fn print_change(store: &Store, document: &Document, out: &mut dyn Write) -> Result<(), SuiteError> {
    let (change, unreadable) = store.change_of(document)?;
    for error in unreadable {
        writeln!(out, "skipped: {error}")?;
    }
    match change {
        Some(change) => writeln!(out, "{}", advisory(&change))?,
        None => writeln!(
            out,
            "No earlier valid session of this machine has these scenarios: nothing to compare with."
        )?,
    }
    Ok(())
}

fn judge(suite: Suite, document: &Document, out: &mut dyn Write) -> Result<Outcome, SuiteError> {
    if suite == Suite::Smoke && !document.session.interrupted {
        let complaints = complaints(document);
        for complaint in &complaints {
            writeln!(out, "FAILED {complaint}")?;
        }
        // A blink of load on a busy machine may well be invalid as a measurement; that is not what smoke asks.
        return Ok(if complaints.is_empty() { Outcome::Fine } else { Outcome::Failed });
    }
    Ok(outcome(document))
}

fn outcome(document: &Document) -> Outcome {
    if document.session.interrupted {
        Outcome::Interrupted
    } else if Summary::all(document).iter().all(|summary| summary.valid) {
        Outcome::Fine
    } else {
        Outcome::Invalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::example;

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
    }

    #[test]
    fn smoke_judges_correctness_and_not_validity() {
        let mut document = example::document();
        document.runs[1].valid = false;
        let mut out = Vec::new();
        assert_eq!(judge(Suite::Smoke, &document, &mut out).expect("prints"), Outcome::Fine);
        assert_eq!(judge(Suite::Quick, &document, &mut out).expect("prints"), Outcome::Invalid);
        document.runs[0].integrity.lost = 1;
        assert_eq!(judge(Suite::Smoke, &document, &mut out).expect("prints"), Outcome::Failed);
        assert!(String::from_utf8(out).expect("text").contains("FAILED echo"));
    }
}

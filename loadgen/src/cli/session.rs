//! The flags and the making of a session of many runs, for `experiment`, `duel` and `aa`.

use std::path::{Path, PathBuf};

use clap::Args;
use engine::EngineKind;

use super::output::{FormatArguments, Output, open_output};
use super::terminal::Terminal;
use super::{Failure, OUTPUT, say};
use crate::experiment::{Experiment, Runner, RunnerError, Session, Setup};
use crate::host::machine::Machine;
use crate::result::Store;
use crate::run::{RunError, execute};

/// The usual folder of results.
const RESULTS: &str = "bench-results";

/// Folder and name of a session, and its display.
#[derive(Debug, Args)]
pub(super) struct SessionArguments {
    /// Store the session in this folder [default: bench-results].
    #[arg(long, value_name = "DIR", conflicts_with = "no_store", help_heading = OUTPUT)]
    results: Option<PathBuf>,

    /// Do not store it.
    #[arg(long, help_heading = OUTPUT)]
    no_store: bool,

    /// Write the session as JSON too; - is standard output, which then has nothing else.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    json: Option<PathBuf>,

    /// A name for the session.
    #[arg(long, value_name = "NAME", help_heading = OUTPUT)]
    pub(super) tag: Option<String>,

    /// Resume an interrupted session of the same command: its runs are kept, and the whole replaces
    /// it.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    resume: Option<PathBuf>,

    /// Neither progress nor notes: the result alone.
    #[arg(short, long, help_heading = OUTPUT)]
    pub(super) quiet: bool,

    /// Check the flags, print what would be measured and how long it takes, and start nothing.
    #[arg(long, help_heading = OUTPUT)]
    pub(super) dry_run: bool,

    #[command(flatten)]
    pub(super) format: FormatArguments,
}

impl SessionArguments {
    /// Returns the folder to store in, and to look for earlier sessions in. `usual` is true where
    /// the usual folder is made when it is not there.
    pub(super) fn results(&self, usual: bool) -> Option<&Path> {
        let default = Path::new(RESULTS);
        let folder = self.results.as_deref().or_else(|| (usual || default.is_dir()).then_some(default));
        folder.filter(|_| !self.no_store)
    }

    pub(super) fn output(&self) -> Result<Option<Output>, Failure> {
        self.json.as_deref().map(open_output).transpose()
    }

    /// Prints what the experiment would measure.
    pub(super) fn announce(
        &self,
        experiment: &Experiment,
        setup: &Setup,
        machine: &Machine,
    ) -> Result<(), Failure> {
        let runner = self.runner(experiment, setup, machine)?;
        if !self.quiet {
            runner.announce(&mut |line| say(line));
        }
        Ok(())
    }

    /// Makes a session; `terminal` shows each of its runs.
    pub(super) fn make(
        &self,
        runner: Runner<'_>,
        machine: Machine,
        terminal: &mut Terminal,
    ) -> Result<Session, Failure> {
        if !self.quiet {
            runner.announce(&mut |line| say(line));
        }
        let notes = terminal.notes();
        let mut notes = |line: &str| {
            if !self.quiet {
                notes(line);
            }
        };
        let made = runner.measure(machine, &execute, terminal, &mut notes);
        terminal.close();
        Ok(made?)
    }

    /// Returns the runner of an experiment, which resumes a session where that was asked for.
    pub(super) fn runner<'a>(
        &self,
        experiment: &'a Experiment,
        setup: &'a Setup,
        machine: &Machine,
    ) -> Result<Runner<'a>, Failure> {
        let runner = Runner::new(experiment, setup, machine, &EngineKind::probe)?;
        match &self.resume {
            Some(path) => Ok(runner.resume(Store::load(path)?, machine)?),
            None => Ok(runner),
        }
    }

    /// Removes the session that was resumed, once the whole is stored.
    pub(super) fn replace(&self, stored: Option<&PathBuf>) -> Result<(), Failure> {
        match (&self.resume, stored) {
            (Some(path), Some(stored)) if path != stored => std::fs::remove_file(path).map_err(|error| {
                Failure::Error(format!("--resume: cannot remove {}: {error}", path.display()))
            }),
            _ => Ok(()),
        }
    }
}

impl From<RunnerError> for Failure {
    fn from(error: RunnerError) -> Self {
        match error {
            RunnerError::Setup(_) | RunnerError::Resume(_) | RunnerError::Plan { .. } => {
                Self::Usage(error.to_string())
            }
            RunnerError::Interrupted => Self::Run(RunError::Interrupted),
            error => Self::Error(error.to_string()),
        }
    }
}

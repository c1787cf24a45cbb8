//! Experiments: servers x scenarios x rounds, carried out by one runner.
//!
//! A round runs every scenario once on every arm, one arm right after the other, so that a slow
//! stretch of the machine falls on all arms alike. The arm that begins changes from round to round:
//! with two arms the order is A B, B A, A B. Every run has a freshly started server, because
//! processes differ more from each other than the seconds within one.

mod arm;
mod check;
mod file;
mod repeats;
mod runner;
mod setup;
mod trial;

use std::time::Duration;

use serde::Serialize;

use crate::compare::Promise;
use crate::host::machine::short_hash;
use crate::result::{Document, ExperimentRecord, Presentation};

pub(crate) use arm::{Arm, Scenario, arm_name, counts, named};
pub(crate) use check::complaints;
pub(crate) use file::{built_in, did_you_mean};
pub(crate) use repeats::Fault;
pub(crate) use runner::{Runner, RunnerError};
pub(crate) use setup::{Checkout, Setup, SetupError, url};
pub(crate) use trial::SHARE_OF_CAPACITY;

/// Everything that defines what an experiment measures, and what is judged and shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Experiment {
    pub(crate) name: String,
    pub(crate) description: String,
    /// The servers. Where there are several, the others are compared with the first.
    pub(crate) arms: Vec<Arm>,
    /// The loads, in the order in which a round runs them.
    pub(crate) scenarios: Vec<Scenario>,
    /// Runs of each arm in each scenario.
    pub(crate) rounds: u32,
    pub(crate) show: Presentation,
    /// True if a server that is not ours must echo messages of many lengths before it is
    /// measured.
    pub(crate) try_echoes: bool,
    /// True if the generator spins in scenarios about latency. The time that a sleeping thread
    /// needs to wake would be part of every latency, and hide the difference of the arms.
    pub(crate) spin: bool,
    pub(crate) promises: Vec<Promise>,
}

impl Experiment {
    /// Returns true if the session is judged pair by pair, so that rounds with a run that cannot
    /// be used are replaced.
    pub(crate) fn is_of_pairs(&self) -> bool {
        matches!(self.show, Presentation::Verdict | Presentation::Noise)
    }

    /// Returns the number of arms that must be able to run.
    pub(crate) fn needed_arms(&self) -> usize {
        if self.arms.len() > 1 || !self.show.is_of_our_server() { 2 } else { 1 }
    }

    /// Sets the times of all runs, where they are given.
    pub(crate) fn set_times(&mut self, warmup: Option<Duration>, measure: Option<Duration>) {
        for scenario in &mut self.scenarios {
            scenario.load.warmup = warmup.unwrap_or(scenario.load.warmup);
            // Stages have times of their own.
            if scenario.load.stages.is_none() {
                scenario.load.measure = measure.unwrap_or(scenario.load.measure);
            }
        }
    }

    /// Returns the facts that the stored session has: the hash is the same for the same experiment.
    pub(crate) fn record(&self) -> ExperimentRecord {
        // Serialising plain values does not fail.
        let json = serde_json::to_string(self).unwrap_or_default();
        let (hash, promises) = (short_hash(json.as_bytes()), self.promises.clone());
        ExperimentRecord { hash, rounds: self.rounds, show: self.show, promises }
    }
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) document: Document,
    /// The first fault of a server for which its figures must not be trusted. The command then ends
    /// with an error.
    pub(crate) fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Complete, and every scenario has a valid run.
    Fine,
    /// A server failed, or an experiment about correctness found a fault.
    Failed,
    /// Complete, but a scenario has no valid run.
    Invalid,
    /// The user ended it; the finished runs are stored.
    Interrupted,
}

impl Outcome {
    pub(crate) fn of(session: &Session) -> Self {
        let Document { scenarios, runs, session: stored, .. } = &session.document;
        let is_of_correctness = stored
            .experiment
            .as_ref()
            .is_some_and(|record| record.show == Presentation::Correctness);
        let has_valid_run = |name: &str| runs.iter().any(|run| run.scenario == name && run.valid);
        if session.fault.is_some() {
            Self::Failed
        } else if stored.interrupted {
            Self::Interrupted
        } else if is_of_correctness {
            // A very short load on a busy machine may well be invalid as a measurement.
            if complaints(&session.document).is_empty() { Self::Fine } else { Self::Failed }
        } else if scenarios.iter().all(|scenario| has_valid_run(&scenario.name)) {
            Self::Fine
        } else {
            Self::Invalid
        }
    }
}

//! The runner of every experiment.

use std::time::{Duration, Instant};

use thiserror::Error;

use super::check::complaints_of;
use super::repeats::{Cell, Execute, Fault, Notes, Repeats};
use super::setup::Probe;
use super::trial::{calibration, rate, trials};
use super::{Arm, Experiment, Scenario, Session, Setup};
use crate::format::{about, count};
use crate::host::machine::Machine;
use crate::load::Load;
use crate::result::{self, Document, Presentation, Run, SessionKind, Start};
use crate::run::{Plan, PlanError, Progress};
use crate::target::subject::{Subject, Tool};

/// Time to start a server, to connect, to settle and to end, per run: for the announcement alone.
const AROUND_A_RUN: Duration = Duration::from_millis(400);
/// Time of a trial of an echo, with the start of its server: for the announcement alone.
const A_TRIAL: Duration = Duration::from_millis(500);
const BURN: &str = "--burn-per-message";
/// Rounds of every four that may be replaced where they have a run that failed or is not valid.
const REPLACED: u32 = 2;

#[derive(Debug, Error)]
pub(crate) enum RunnerError {
    #[error("fewer than two arms can run here: {0} Name servers with --arm NAME=COMMAND.")]
    FewArms(String),
    #[error("the server cannot run here: {0}")]
    NoServer(String),
    #[error("scenario {scenario}: {source}")]
    Plan { scenario: String, source: PlanError },
    #[error("no scenario can run here: {0}")]
    NoScenario(String),
    #[error("--resume: cannot resume the session: {0}")]
    Resume(&'static str),
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The calibration run shows no capacity to take a share of.
    #[error(
        "arm {0} answered nothing in the calibration run: give the fixed rate with -R, or leave it out with --saturation-only"
    )]
    NoCapacity(String),
    /// No run tells what a message costs the first arm, so nothing is known to burn.
    #[error(
        "the CPU time of the server is not known here, so a server cannot be slowed by a share of it"
    )]
    NoCost,
    /// The user ended it before the first run was complete.
    #[error("interrupted before anything was measured")]
    Interrupted,
}

/// An experiment on this machine: which of its runs can be made, and which were made.
pub(crate) struct Runner<'a> {
    experiment: &'a Experiment,
    setup: &'a Setup,
    /// The arms, in the order of the experiment, as the result has them.
    arms: Vec<result::Arm>,
    rows: Vec<Row>,
    /// Trials that servers that are not ours must pass first.
    trials: Vec<Plan>,
    marks: Vec<String>,
    runs: Vec<Run>,
    resumed: Option<result::Session>,
}

/// The cells of a scenario, in the order of the arms.
struct Row {
    scenario: Scenario,
    cells: Vec<Cell>,
}

impl<'a> Runner<'a> {
    /// Decides which arms and scenarios can run here. Fails if nothing is left to measure or to
    /// compare.
    pub(crate) fn new(
        experiment: &'a Experiment,
        setup: &'a Setup,
        machine: &Machine,
        probe: Probe<'_>,
    ) -> Result<Self, RunnerError> {
        let arms = experiment.arms.iter().map(|arm| stored_arm(experiment, setup, arm, probe));
        let arms: Vec<result::Arm> = arms.collect();
        let mut runner = Self {
            experiment,
            setup,
            rows: Vec::new(),
            trials: Vec::new(),
            marks: setup.marks.clone(),
            runs: Vec::new(),
            resumed: None,
            arms,
        };
        let left_out = runner
            .arms
            .iter()
            .filter_map(|arm| Some(left_out_mark(&arm.name, arm.left_out.as_ref()?)));
        runner.marks.extend(left_out.collect::<Vec<_>>());
        for scenario in &experiment.scenarios {
            // One about the session's engine would be the scenario without an engine's name again.
            if scenario.engine == Some(setup.server_engine) {
                continue;
            }
            match obstacle(scenario, setup, machine, probe) {
                Some(why) => {
                    runner.marks.push(format!("{} was left out: {why}.", scenario.full_name()));
                }
                None => {
                    let cells = runner.cells(scenario);
                    runner.rows.push(Row { scenario: scenario.clone(), cells });
                }
            }
        }
        if runner.is_of_one_arm() && runner.arms[0].subject.build.as_deref() == Some("debug") {
            runner.marks.push("the server is a debug build: its figures mean nothing.".to_owned());
        }
        let any = Scenario::new("echo", Load::default());
        let others = runner.present().filter(|(arm, _)| experiment.try_echoes && !arm.is_own());
        let trials = others.flat_map(|(arm, _)| trials(&setup.plan_of(&any, arm, false, false)));
        runner.trials = trials.collect();
        runner.check_arms()?;
        for cell in runner.rows.iter().flat_map(|row| &row.cells) {
            let scenario = cell.plan.scenario.clone();
            cell.plan.check().map_err(|source| RunnerError::Plan { scenario, source })?;
        }
        Ok(runner)
    }

    fn is_of_one_arm(&self) -> bool {
        self.arms.len() == 1
    }

    fn present(&self) -> impl DoubleEndedIterator<Item = (&'a Arm, &result::Arm)> {
        self.experiment.arms.iter().zip(&self.arms).filter(|(_, stored)| stored.left_out.is_none())
    }

    fn cells(&self, scenario: &Scenario) -> Vec<Cell> {
        // A very short load on a busy machine may well be invalid.
        let is_for_correctness = self.experiment.show == Presentation::Correctness;
        let cell = |(arm, stored): (&Arm, &result::Arm)| {
            let plan =
                self.setup.plan_of(scenario, arm, self.is_of_one_arm(), self.experiment.spin);
            Cell::new(plan, stored.subject.build.as_deref(), is_for_correctness)
        };
        self.present().filter(|(arm, _)| arm.takes(scenario)).map(cell).collect()
    }

    /// Resumes an interrupted session of the same experiment: keeps its runs, and makes the others.
    /// Fails if the session is complete, or is of another experiment, machine or server.
    pub(crate) fn resume(
        mut self,
        document: Document,
        machine: &Machine,
    ) -> Result<Self, RunnerError> {
        let Document {
            session, machine: measured_on, tool, arms, subject, scenarios, runs, ..
        } = document;
        let refuse = |why| Err(RunnerError::Resume(why));
        let here = Tool::this(self.setup.plan.placement.engine.name());
        let before: Vec<Subject> = if arms.is_empty() {
            vec![subject]
        } else {
            arms.into_iter().map(|arm| arm.subject).collect()
        };
        let hash = |subject: &Subject| subject.binary_hash.clone();
        if !session.interrupted {
            return refuse("it is complete");
        } else if measured_on.id != machine.id {
            return refuse("it was measured on another machine");
        } else if (tool.engine, tool.binary_hash) != (here.engine, here.binary_hash) {
            return refuse("the generator is another build or has another engine");
        } else if session
            .experiment
            .as_ref()
            .is_none_or(|one| one.hash != self.experiment.record().hash)
        {
            return refuse("it is of another experiment, or of other flags");
        } else if !before.iter().map(hash).eq(self.arms.iter().map(|arm| hash(&arm.subject))) {
            return refuse("a server was built anew since");
        }
        for (arm, subject) in self.experiment.arms.iter().zip(&before) {
            if arm.burn_share.is_some() {
                let command = subject.command.as_deref().unwrap_or_default();
                let Some((_, burnt)) = command.split_once(&format!("{BURN} ")) else {
                    return refuse("it does not tell what its slowed servers burn");
                };
                self.burn(&arm.name, burnt);
            }
        }
        for Row { scenario, cells } in &mut self.rows {
            let name = scenario.full_name();
            let Some(stored) = scenarios.iter().find(|scenario| scenario.name == name) else {
                continue;
            };
            let rate = stored.parameters.rate_per_s;
            if scenario.share_of_capacity.is_some() && rate.is_some() {
                scenario.share_of_capacity = None;
                cells.iter_mut().for_each(|cell| cell.plan.load.rate_per_s = rate);
            }
            // A rate that is still to be measured is part of the hash.
            let is_settled = scenario.share_of_capacity.is_none();
            let hash = cells.first().map(|cell| cell.plan.stored_scenario().hash);
            if is_settled && hash.as_ref() != Some(&stored.hash) {
                return refuse("a scenario has other settings");
            }
        }
        // A run that was cut short is made again.
        self.runs = runs.into_iter().filter(|run| !run.interrupted).collect();
        self.resumed = Some(session);
        Ok(self)
    }

    fn check_arms(&self) -> Result<(), RunnerError> {
        let left_out = || self.marks.join(" ");
        match (self.present().count(), self.experiment.needed_arms()) {
            (0, 1) => Err(RunnerError::NoServer(left_out())),
            (present, needed) if present < needed => Err(RunnerError::FewArms(left_out())),
            _ if self.rows.iter().all(|row| row.cells.is_empty()) => {
                Err(RunnerError::NoScenario(left_out()))
            }
            _ => Ok(()),
        }
    }

    /// Tells what is about to happen and how long it takes.
    pub(crate) fn announce(&self, notes: Notes<'_>) {
        let Experiment { name, rounds, .. } = self.experiment;
        let on = format!(" on {} arms", self.present().count());
        notes(&format!(
            "{name}: {}{}, {}, {}, about {}",
            count(self.rows.len() as u64, "scenario"),
            if self.is_of_one_arm() { "" } else { &on },
            count((*rounds).into(), "round"),
            count(self.runs_left() as u64, "run"),
            about(self.duration())
        ));
        let cpus = |cpus: &[usize]| match cpus {
            [] => "no particular CPU".to_owned(),
            cpus => format!(
                "CPU {}",
                cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            ),
        };
        let placement = &self.setup.plan.placement;
        let (server, generator) = (cpus(&self.setup.server_cpus), cpus(&placement.cpus));
        notes(&format!(
            "server on {server}, generator on {generator} (engine {})",
            placement.engine.name()
        ));
        self.marks.iter().for_each(|mark| notes(&format!("NOTE: {mark}")));
    }

    fn runs_of_a_round(&self) -> usize {
        self.rows.iter().map(|row| row.cells.len()).sum()
    }

    fn runs_left(&self) -> usize {
        (self.runs_of_a_round() * self.experiment.rounds as usize).saturating_sub(self.runs.len())
    }

    fn duration(&self) -> Duration {
        let of_plan =
            |plan: &Plan| plan.load.settle + plan.load.warmup + plan.load.measure + AROUND_A_RUN;
        let cells = self.rows.iter().flat_map(|row| &row.cells);
        let round: Duration = cells.map(|cell| of_plan(&cell.plan)).sum();
        let left = self.runs_left() as f64 / self.runs_of_a_round().max(1) as f64;
        let calibrated = self.rows.iter().filter(|row| row.scenario.share_of_capacity.is_some());
        let calibrated = calibrated.filter_map(|row| row.cells.first());
        let calibrations: Duration = calibrated.map(|cell| of_plan(&calibration(&cell.plan))).sum();
        let trials = A_TRIAL * u32::try_from(self.trials.len()).unwrap_or(u32::MAX);
        trials + calibrations + round.mul_f64(left)
    }

    /// Makes every run.
    ///
    /// A session that the user ends early has the runs until then, and is marked. Call it from the
    /// main thread, as [`execute`](crate::run::execute). Where it fails nothing was measured, and
    /// nothing is left running.
    pub(crate) fn measure(
        mut self,
        machine: Machine,
        execute: Execute<'_>,
        progress: &mut dyn Progress,
        notes: Notes<'_>,
    ) -> Result<Session, RunnerError> {
        let start = Start::now();
        progress.expect(self.duration());
        let name = if self.is_of_one_arm() { name_of_only } else { name_of };
        let mut repeats = Repeats::new(execute, name, progress, notes);
        repeats.allow(self.trials.len());
        let mut is_interrupted = self.make_trials(&mut repeats);
        // An arm that failed has a mark that says it was left out.
        repeats.marks.clear();
        repeats.allow(self.runs_left());
        if !is_interrupted {
            self.check_arms()?;
            is_interrupted = match self.calibrate(&mut repeats) {
                Err(RunnerError::Interrupted) if !self.runs.is_empty() => true,
                calibrated => calibrated.map(|()| false)?,
            };
        }
        is_interrupted = is_interrupted || self.make_runs(&mut repeats);
        if self.runs.is_empty() {
            return Err(repeats.fault.map_or(RunnerError::Interrupted, RunnerError::Fault));
        }
        self.marks.append(&mut repeats.marks);
        Ok(Session {
            document: self.document(start, is_interrupted, machine),
            fault: repeats.fault,
        })
    }

    fn document(mut self, start: Start, interrupted: bool, machine: Machine) -> Document {
        let order = match self.arms.len() {
            1 => "rounds",
            2 => "abba",
            _ => "rounds of arms, rotated",
        };
        let kind = match self.experiment.show {
            Presentation::Verdict => SessionKind::Ab,
            Presentation::Noise => SessionKind::Aa,
            _ => SessionKind::Suite,
        };
        let mut session = result::Session {
            suite: Some(self.experiment.name.clone()),
            experiment: Some(self.experiment.record()),
            tag: self.setup.tag.clone(),
            order: order.to_owned(),
            interrupted,
            ..result::Session::new(kind, start)
        };
        if let Some(before) = self.resumed.take() {
            (session.start, session.duration_ns) =
                (before.start, before.duration_ns + session.duration_ns);
            session.argv = before.argv;
            self.marks.push("it was interrupted and resumed.".to_owned());
            let has = |mark: &String| !self.marks.contains(mark);
            session.marks = before.marks.into_iter().filter(has).collect();
        }
        session.marks.append(&mut self.marks);
        // The scenario is the same for all arms: their differences are in their subjects.
        let plans = self.rows.iter().filter_map(|row| row.cells.first());
        let scenarios = plans.map(|cell| cell.plan.stored_scenario()).collect();
        // Among other people's servers ours is the one whose commit is known.
        let present = || self.present().map(|(_, stored)| &stored.subject);
        let known =
            present().rfind(|subject| subject.commit.is_some()).or_else(|| present().next_back());
        let subject = known.cloned().unwrap_or_default();
        let arms = if self.is_of_one_arm() { Vec::new() } else { self.arms };
        let engine = self.setup.plan.placement.engine.name();
        Document {
            subject,
            arms,
            scenarios,
            runs: self.runs,
            ..Document::new(session, engine, machine)
        }
    }

    /// Leaves out servers that do not echo correctly. Returns true if the user ended the
    /// session.
    fn make_trials(&mut self, repeats: &mut Repeats<'_>) -> bool {
        for plan in std::mem::take(&mut self.trials) {
            let (arm, what) = (plan.arm.clone(), plan.scenario.clone());
            if self.present().all(|(present, _)| present.name != arm) {
                continue;
            }
            let attempted = repeats.make(&mut Cell::new(plan, None, true), 0);
            if attempted.is_interrupted {
                return true;
            }
            let complaints = attempted.run.map(|run| complaints_of(&run).join("; "));
            let why = complaints.or(attempted.failure).unwrap_or_default();
            if why.is_empty() {
                repeats.note(&format!("[echo] {arm:<16} {what}"));
            } else {
                self.leave_out(
                    &arm,
                    &format!("it does not echo correctly ({what}): {why}"),
                    repeats,
                );
            }
        }
        false
    }

    /// Measures the capacity of the first arm where a scenario has a share of it as its rate.
    fn calibrate(&mut self, repeats: &mut Repeats<'_>) -> Result<(), RunnerError> {
        let slowed: Vec<&Arm> =
            self.experiment.arms.iter().filter(|arm| arm.burn_share.is_some()).collect();
        let mut is_burn_known = self.resumed.is_some() || slowed.is_empty();
        for at in 0..self.rows.len() {
            let Row { scenario, cells } = &self.rows[at];
            let share = scenario.share_of_capacity;
            let Some(first) = cells.first().filter(|_| share.is_some() || !is_burn_known) else {
                continue;
            };
            let mut cell = Cell::new(calibration(&first.plan), None, false);
            let arm = cell.plan.arm.clone();
            let attempted = repeats.make(&mut cell, 0);
            if attempted.is_interrupted {
                return Err(RunnerError::Interrupted);
            }
            let (Some(run), false) = (attempted.run, cell.is_given_up()) else {
                return Err(repeats
                    .fault
                    .take()
                    .map_or(RunnerError::NoCapacity(arm), RunnerError::Fault));
            };
            if let Some(share) = share {
                let did = run.rate_per_s;
                let Some(rate) = rate(did, share) else { return Err(RunnerError::NoCapacity(arm)) };
                repeats.note(&format!(
                    "arm {arm} did {did:.0} msg/s: latencies are measured at {rate:.0}"
                ));
                self.rows[at]
                    .cells
                    .iter_mut()
                    .for_each(|cell| cell.plan.load.rate_per_s = Some(rate));
            }
            if let (false, Some(server)) = (is_burn_known, &run.server) {
                let cost = server.cpu_ns_per_message;
                for arm in &slowed {
                    let burnt = format!("{:.2}ns", cost * arm.burn_share.unwrap_or_default());
                    repeats.note(&format!(
                        "arm {} burns {burnt} of {cost:.0} ns for each message",
                        arm.name
                    ));
                    self.burn(&arm.name, &burnt);
                }
                is_burn_known = true;
            }
        }
        if is_burn_known { Ok(()) } else { Err(RunnerError::NoCost) }
    }

    /// Has the server of an arm burn CPU time for each message, as in `25ns`.
    fn burn(&mut self, arm: &str, burnt: &str) {
        let cells =
            self.rows.iter_mut().flat_map(|row| &mut row.cells).filter(|cell| cell.plan.arm == arm);
        for spawn in cells.filter_map(|cell| cell.plan.target.spawn.as_mut()) {
            spawn.command.extend([BURN, burnt].map(str::to_owned));
        }
        let subjects = self.arms.iter_mut().filter(|one| one.name == arm);
        for command in subjects.filter_map(|arm| arm.subject.command.as_mut()) {
            *command += &format!(" {BURN} {burnt}");
        }
    }

    /// Removes an arm from the rest of the session. Its finished runs are kept.
    fn leave_out(&mut self, name: &str, why: &str, repeats: &mut Repeats<'_>) {
        self.rows.iter_mut().for_each(|row| row.cells.retain(|cell| cell.plan.arm != name));
        if !self.runs.iter().any(|run| run.arm == name) {
            let arm = self.arms.iter_mut().find(|arm| arm.name == name);
            arm.into_iter().for_each(|arm| arm.left_out = Some(why.to_owned()));
        }
        let mark = left_out_mark(name, why);
        repeats.note(&format!("NOTE: {mark}"));
        self.marks.push(mark);
    }

    /// Makes the runs of all rounds. Returns true if the user ended it early.
    fn make_runs(&mut self, repeats: &mut Repeats<'_>) -> bool {
        let (began, mut all) = (Instant::now(), self.runs_left());
        let (mut round, mut wanted, mut made) = (0, self.experiment.rounds, 0);
        while round < wanted {
            let mut is_whole = true;
            for (row, arm) in self.order(round) {
                let mut cells = self.rows[row].cells.iter_mut();
                let Some(cell) = cells.find(|cell| cell.plan.arm == arm) else { continue };
                let is_made = |run: &&Run| {
                    run.pair == round && run.arm == arm && run.scenario == cell.plan.scenario
                };
                if let Some(made) = self.runs.iter().find(is_made) {
                    is_whole &= is_worth_keeping(made);
                    continue;
                }
                if cell.is_given_up() {
                    continue;
                }
                let attempted = repeats.make(cell, round);
                let (is_given_up, is_hopeless) = (cell.is_given_up(), cell.is_hopeless());
                made += 1;
                is_whole &= attempted.run.as_ref().is_some_and(is_worth_keeping);
                let mut is_interrupted = attempted.is_interrupted;
                if let Some(run) = attempted.run {
                    is_interrupted |= run.interrupted;
                    let left = began.elapsed() / made * (all as u32).saturating_sub(made);
                    repeats.note(&line(wanted, &run, !self.is_of_one_arm(), left));
                    self.keep(row, run);
                }
                if is_interrupted {
                    return true;
                }
                if let Some(why) = attempted.failure.filter(|_| is_hopeless) {
                    self.leave_out(&arm, &why, repeats);
                }
                if is_given_up && (self.experiment.is_of_pairs() || !self.can_go_on()) {
                    return false;
                }
            }
            // The validity of a run does not depend on its speed, so that replacing favours no arm.
            let most = self.experiment.rounds + self.experiment.rounds / 4 * REPLACED;
            if self.experiment.is_of_pairs() && !is_whole && wanted < most {
                wanted += 1;
                all += self.runs_of_a_round();
            }
            round += 1;
        }
        false
    }

    fn keep(&mut self, row: usize, run: Run) {
        // Compact runs do not name the engine of a server that is not ours.
        for arm in
            self.arms.iter_mut().filter(|arm| arm.name == run.arm && arm.subject.engine.is_none())
        {
            arm.subject.engine = run.server.as_ref().and_then(|server| server.engine.clone());
        }
        let is_checked = self.experiment.show == Presentation::Correctness;
        let cell = self.rows[row].cells.iter().find(|cell| cell.plan.arm == run.arm);
        self.runs.push(match cell.filter(|_| !is_checked) {
            Some(cell) => run.compact(&cell.plan.load),
            None => run,
        });
    }

    /// Returns the runs of a round: the rows, each with its arms in their order. The arm that
    /// begins changes from round to round, so that no place in the order belongs to an arm.
    fn order(&self, round: u32) -> Vec<(usize, String)> {
        let of_row = |(row, Row { cells, .. }): (usize, &Row)| {
            let mut arms: Vec<_> = cells.iter().map(|cell| (row, cell.plan.arm.clone())).collect();
            let first = round as usize % arms.len().max(1);
            arms.rotate_left(first);
            arms
        };
        self.rows.iter().enumerate().flat_map(of_row).collect()
    }

    /// Returns true while a scenario has as many arms as a comparison needs.
    fn can_go_on(&self) -> bool {
        let left = |row: &Row| row.cells.iter().filter(|cell| !cell.is_given_up()).count();
        self.rows.iter().any(|row| left(row) >= self.experiment.needed_arms())
    }
}

/// Returns an arm as the result has it, with the reason why it cannot take part.
fn stored_arm(experiment: &Experiment, setup: &Setup, arm: &Arm, probe: Probe<'_>) -> result::Arm {
    let first = experiment.scenarios.iter().find(|scenario| arm.takes(scenario));
    let refused =
        || arm.engine.and_then(|engine| probe(engine).err()).map(|error| error.to_string());
    result::Arm {
        name: arm.name.clone(),
        subject: first.map(|scenario| setup.subject(scenario, arm)).unwrap_or_default(),
        version: arm.version.clone(),
        proxy: arm.via.as_ref().and_then(|words| Subject::of_command(words, None).command),
        conformance: arm.conformance,
        left_out: arm.absent.clone().or_else(refused),
    }
}

/// Returns true unless a replacement would be no better: every run of a debug build is invalid.
fn is_worth_keeping(run: &Run) -> bool {
    run.valid || run.invalid().any(|(kind, _)| kind.is_of_the_build())
}

fn name_of(plan: &Plan) -> String {
    format!("{}, arm {}, round {}", plan.scenario, plan.arm, plan.pair + 1)
}

fn name_of_only(plan: &Plan) -> String {
    format!("{}, round {}", plan.scenario, plan.pair + 1)
}

/// A line for a run, with the time that is left.
fn line(rounds: u32, run: &Run, has_arms: bool, left: Duration) -> String {
    let validity = if run.valid { "" } else { "  INVALID" };
    let repeated = if run.repeated.is_empty() { "" } else { "  repeated" };
    let cpu = run.server.as_ref().map_or(0.0, |server| server.cpu_ns_per_message / 1000.0);
    let arm = if has_arms { format!("{:<17}", run.arm) } else { String::new() };
    let left = if left.is_zero() { String::new() } else { format!("  {} left", about(left)) };
    format!(
        "[{}/{rounds}] {:<17}{arm}{:>12.0} msg/s{cpu:>9.3} us/msg{validity}{repeated}{left}",
        run.pair + 1,
        run.scenario,
        run.rate_per_s
    )
}

fn left_out_mark(name: &str, why: &str) -> String {
    format!("arm {name} was left out: {}.", why.trim_end_matches('.'))
}

/// Returns the reason why a scenario cannot run here.
fn obstacle(
    scenario: &Scenario,
    setup: &Setup,
    machine: &Machine,
    probe: Probe<'_>,
) -> Option<String> {
    if let Some(Err(error)) = scenario.engine.map(probe) {
        // Where the session fell back, its own mark has already said what is wrong with io_uring.
        let fell_back = setup.server_engine == engine::EngineKind::Epoll;
        return Some(if fell_back { "it needs io_uring".to_owned() } else { error.to_string() });
    }
    let needed = scenario.descriptors();
    let limit = machine.limits.nofile_hard.filter(|&limit| limit < needed)?;
    Some(format!("it needs {needed} descriptors, the hard limit is {limit}"))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell as Counter, RefCell};
    use std::collections::BTreeMap;
    use std::ops::Range;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use engine::{EngineError, EngineKind};

    use super::*;
    use crate::compare::sides::default_thresholds;
    use crate::compare::{Conclusion, Verdict};
    use crate::experiment::arm::ArmScenarios;
    use crate::experiment::{Outcome, built_in};
    use crate::load::Load;
    use crate::result::{Disturbance, InvalidKind, example};
    use crate::run::{RunError, Silent, Snapshot};
    use crate::target::spawn::{Role, SpawnError};

    fn named(name: &str) -> Experiment {
        built_in().into_iter().find(|experiment| experiment.name == name).expect("built in")
    }

    fn setup() -> Setup {
        let checkout =
            Some(crate::experiment::Checkout { commit: "0123456789ab".into(), dirty: true });
        let server = "/home/somebody/sparring-server".into();
        Setup { checkout, tag: Some("t".into()), ..Setup::new(server, EngineKind::Uring) }
    }

    /// Two servers that are not ours, under one load.
    fn duel(pairs: u32) -> Experiment {
        let arm = |name: &str, command: &str| Arm {
            command: Some(vec![command.to_owned(), "{port}".to_owned()]),
            ..Arm::own(name)
        };
        Experiment {
            name: "duel".into(),
            description: String::new(),
            arms: vec![arm("A", "old"), arm("B", "new")],
            scenarios: vec![Scenario::new("echo", Load::default())],
            rounds: pairs,
            show: Presentation::Verdict,
            try_echoes: false,
            spin: false,
            promises: Vec::new(),
        }
    }

    /// The same with a second scenario at a rate, or at a share of the capacity.
    fn duel_with_rate(pairs: u32, rate: Option<f64>) -> Experiment {
        let mut duel = duel(pairs);
        let load = Load { rate_per_s: rate, ..Load::default() };
        let share_of_capacity = rate.is_none().then_some(0.5);
        duel.scenarios.push(Scenario { share_of_capacity, ..Scenario::new("echo-fixed", load) });
        duel
    }

    /// Three arms of our own server and one that takes scenarios about latency.
    fn engines(rounds: u32) -> Experiment {
        Experiment { rounds, ..named("engines") }
    }

    /// Ours and three others, the last of which cannot be had.
    fn peers() -> Experiment {
        let mut peers = Experiment { rounds: 3, ..named("peers") };
        let others =
            ["one=one {port}", "two=two {port}"].map(|arm| arm.parse::<Arm>().expect("an arm"));
        peers.arms = [Arm::own("ours")].into_iter().chain(others).collect();
        peers.arms.push(Arm::absent("bun=npm is not installed").expect("an arm"));
        peers
    }

    fn everything_works(_: EngineKind) -> Result<(), EngineError> {
        Ok(())
    }

    fn only_epoll_works(kind: EngineKind) -> Result<(), EngineError> {
        if kind == EngineKind::Epoll { Ok(()) } else { Err(EngineError::Missing) }
    }

    fn runner<'a>(experiment: &'a Experiment, setup: &'a Setup) -> Runner<'a> {
        Runner::new(experiment, setup, &Machine::default(), &everything_works).expect("can run")
    }

    /// A run that takes no time. The server of arm B is a tenth more expensive.
    fn instant(plan: &Plan, _: &mut dyn Progress) -> Result<Run, RunError> {
        let mut run = example::run(&plan.scenario, 30_000);
        (run.arm, run.pair) = (plan.arm.clone(), plan.pair);
        let server = run.server.as_mut().expect("known");
        server.cpu_ns_per_message *=
            1.0 + f64::from(plan.pair) / 1000.0 + if plan.arm == "B" { 0.1 } else { 0.0 };
        Ok(run)
    }

    fn session_with(
        experiment: &Experiment,
        setup: &Setup,
        execute: Execute<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Session, RunnerError> {
        runner(experiment, setup).measure(Machine::default(), execute, progress, &mut |_| {})
    }

    fn session(experiment: &Experiment, execute: Execute<'_>) -> Result<Session, RunnerError> {
        session_with(experiment, &setup(), execute, &mut Silent)
    }

    fn measured(experiment: &Experiment, execute: Execute<'_>) -> Document {
        session(experiment, execute).expect("measured").document
    }

    fn cells(document: &Document, scenario: &str) -> Vec<(u32, String)> {
        let of = document.runs.iter().filter(|run| run.scenario == scenario);
        of.map(|run| (run.pair, run.arm.clone())).collect()
    }

    fn names(runner: &Runner<'_>) -> Vec<String> {
        runner.rows.iter().map(|row| row.scenario.full_name()).collect()
    }

    fn announced(runner: &Runner<'_>) -> String {
        let mut notes = String::new();
        runner.announce(&mut |line| notes.extend([line, "\n"]));
        notes
    }

    /// Says "stop" after a number of questions.
    struct StopAfter(u32);

    impl Progress for StopAfter {
        fn tick(&mut self, _: &Snapshot) {}

        fn interrupted(&mut self) -> bool {
            self.0 = self.0.saturating_sub(1);
            self.0 == 0
        }
    }

    #[test]
    fn every_plan_can_be_carried_out_and_names_its_engine() {
        let setup = setup();
        for experiment in built_in().into_iter().filter(|experiment| !experiment.arms.is_empty()) {
            let runner = runner(&experiment, &setup);
            assert_eq!(runner.rows.len(), experiment.scenarios.len());
            for plan in runner.rows.iter().flat_map(|row| &row.cells).map(|cell| &cell.plan) {
                plan.check().expect("can be carried out");
                assert_eq!(plan.placement.engine, EngineKind::Uring, "one generator for all");
                let command = &plan.target.spawn.as_ref().expect("starts a server").command;
                let at = command.iter().position(|word| word == "--engine").expect("named");
                if experiment.arms.len() == 1 {
                    assert_eq!(Some(command[at + 1].as_str()), plan.target.known.engine.as_deref());
                }
                let has = |pair: [&str; 2]| command.windows(2).any(|words| words == pair);
                assert_eq!(has(["--spin", "always"]), plan.arm == "uring-spin");
                assert_eq!(
                    has(["--protocol", "tcp"]),
                    plan.scenario.starts_with("tcp"),
                    "{command:?}"
                );
            }
        }
    }

    #[test]
    fn every_experiment_of_the_scripts_can_be_carried_out() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/experiments");
        let (setup, mut read) = (setup(), 0);
        for entry in std::fs::read_dir(folder).expect("experiments") {
            let path = entry.expect("an entry").path();
            let file = path.to_str().expect("UTF-8");
            let experiment =
                Experiment::read(file, crate::load::Catalogue::built_in()).expect(file);
            assert_eq!(
                path.file_stem().and_then(|stem| stem.to_str()),
                Some(experiment.name.as_str())
            );
            for plan in runner(&experiment, &setup)
                .rows
                .iter()
                .flat_map(|row| &row.cells)
                .map(|cell| &cell.plan)
            {
                plan.check().expect(file);
            }
            read += 1;
        }
        assert!(read >= 10, "{read}");
    }

    #[test]
    fn tls_is_served_with_a_certificate_that_the_generator_accepts() {
        let load = Load { transport: crate::load::Transport::Wss, ..Load::default() };
        let experiment =
            Experiment { scenarios: vec![Scenario::new("tls", load)], ..named("quick") };
        let setup = setup();
        let plan = runner(&experiment, &setup).rows[0].cells[0].plan.clone();
        plan.check().expect("can be carried out");
        let command = plan.target.spawn.expect("starts a server").command;
        assert!(command.contains(&"wss://127.0.0.1:{port}".to_owned()), "{command:?}");
        assert!(command.contains(&"--tls-self-signed".to_owned()));
    }

    #[test]
    fn congestion_control_is_part_of_the_scenario() {
        let experiment = named("quick");
        let without = setup();
        let mut with = setup();
        with.plan.placement.congestion = Some("reno".parse().expect("every kernel has it"));
        let hash = |setup: &Setup| {
            let plan = runner(&experiment, setup).rows[0].cells[0].plan.clone();
            let words = plan.target.spawn.as_ref().expect("starts a server").command.join(" ");
            (plan.stored_scenario(), words.contains("--congestion reno"))
        };
        let ((with, is_set), (without, is_unset)) = (hash(&with), hash(&without));
        assert!(is_set && !is_unset && with.hash != without.hash);
        assert_eq!(
            [with.generator.congestion, with.server.congestion],
            [Some("reno".into()), Some("reno".into())]
        );
    }

    #[test]
    fn scenarios_that_cannot_run_here_are_left_out_and_named() {
        let experiment = named("full");
        let setup = Setup { server_engine: EngineKind::Epoll, ..setup() };
        let mut machine = Machine::default();
        machine.limits.nofile_hard = Some(4096);
        let runner =
            Runner::new(&experiment, &setup, &machine, &only_epoll_works).expect("some can");
        let left = names(&runner);
        for absent in ["echo@epoll", "echo@tokio-uring", "text-4000x1"] {
            assert!(!left.contains(&absent.to_owned()), "{left:?}");
        }
        let marks = runner.marks.join(" ");
        assert!(marks.contains("echo@tokio-uring was left out: it needs io_uring."), "{marks}");
        assert!(marks.contains("text-4000x1 was left out: it needs 4256 descriptors"), "{marks}");
        assert!(announced(&runner).contains("NOTE: text-4000x1"));
    }

    #[test]
    fn the_announcement_has_scenarios_rounds_runs_and_time() {
        let setup = setup();
        let (full, engines, duel) = (named("full"), engines(10), duel_with_rate(10, Some(1.0)));
        let text = announced(&runner(&full, &setup));
        assert!(text.starts_with("full: 16 scenarios, 10 rounds, 160 runs, about "), "{text}");
        let text = announced(&runner(&engines, &setup));
        assert!(
            text.starts_with("engines: 11 scenarios on 4 arms, 10 rounds, 360 runs, about "),
            "{text}"
        );
        // 12.5 s a run with the default times.
        let text = announced(&runner(&duel, &setup));
        assert!(
            text.starts_with("duel: 2 scenarios on 2 arms, 10 rounds, 40 runs, about 8 min"),
            "{text}"
        );
    }

    #[test]
    fn a_session_of_one_arm_runs_round_by_round() {
        let document = measured(&Experiment { rounds: 3, ..named("full") }, &instant);
        assert_eq!(document.runs.len(), 48);
        let names: Vec<&str> =
            document.scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
        for (index, run) in document.runs.iter().enumerate() {
            assert_eq!((run.scenario.as_str(), run.pair as usize), (names[index % 16], index / 16));
        }
        assert!(document.arms.is_empty());
        assert_eq!(
            (document.session.order.as_str(), document.subject.dirty),
            ("rounds", Some(true))
        );
        assert_eq!(document.subject.commit.as_deref(), Some("0123456789ab"));
        let record = document.session.experiment.as_ref().expect("recorded");
        assert_eq!((record.hash.len(), record.rounds, record.show), (12, 3, Presentation::Figures));
        let json = serde_json::to_string(&document).expect("JSON");
        assert!(!json.contains("somebody"), "{json}");
    }

    #[test]
    fn the_hash_changes_with_the_experiment_and_with_nothing_else() {
        let hash = |experiment: &Experiment| experiment.record().hash;
        let quick = named("quick");
        assert_eq!(hash(&quick), hash(&quick.clone()));
        let mut others = vec![quick.clone(); 4];
        others[0].rounds = 7;
        others[1].scenarios[0].load.connections = 65;
        others[2].arms[0].flags = vec!["--spin".into()];
        others[3].scenarios.pop();
        assert!(others.iter().all(|other| hash(other) != hash(&quick)));
    }

    #[test]
    fn every_round_has_every_arm_and_each_begins_in_turn() {
        let document = measured(&engines(3), &instant);
        let order = |round, names: [&str; 3]| names.map(|name| (round, name.to_owned()));
        let expected = [
            order(0, ["uring", "epoll", "tokio-uring"]),
            order(1, ["epoll", "tokio-uring", "uring"]),
            order(2, ["tokio-uring", "uring", "epoll"]),
        ];
        assert_eq!(cells(&document, "echo"), expected.concat());
        assert_eq!(cells(&document, "echo-1x1").len(), 12);
        let engines: Vec<_> =
            document.arms.iter().map(|arm| arm.subject.engine.as_deref()).collect();
        assert_eq!(engines, [Some("uring"), Some("epoll"), Some("tokio-uring"), Some("uring")]);
        assert!(
            document.arms.iter().all(|arm| arm.subject.commit.as_deref() == Some("0123456789ab"))
        );
        assert!(document.scenarios.iter().all(|scenario| scenario.server.engine.is_none()));
        assert!(document.runs.iter().all(|run| run.series.is_empty()));
        assert_eq!(document.session.order, "rounds of arms, rotated");
    }

    #[test]
    fn a_load_that_cannot_be_carried_out_is_refused_at_once() {
        let mut experiment = named("quick");
        experiment.scenarios[1].load.connections = 0;
        let setup = setup();
        let refused =
            Runner::new(&experiment, &setup, &Machine::default(), &everything_works).err();
        let text = refused.expect("refused").to_string();
        assert!(text.starts_with("scenario pipeline: -c must be"), "{text}");
    }

    #[test]
    fn a_resumed_duel_replaces_pairs_that_were_invalid() {
        let (duel, setup) = (duel(8), setup());
        let with_invalid = |plan: &Plan, progress: &mut dyn Progress| {
            instant(plan, progress).map(|run| Run { valid: plan.pair > 0, ..run })
        };
        let cut = session_with(&duel, &setup, &with_invalid, &mut StopAfter(12))
            .expect("some runs")
            .document;
        assert!(!cut.runs[0].valid && cut.runs.len() >= 4);
        let resumed =
            runner(&duel, &setup).resume(cut, &Machine::default()).expect("the same experiment");
        let resumed = resumed
            .measure(Machine::default(), &instant, &mut Silent, &mut |_| {})
            .expect("measured");
        assert_eq!(resumed.document.runs.len(), 18);
    }

    #[test]
    fn two_arms_alternate_and_each_has_its_server() {
        let order = RefCell::new(Vec::new());
        let watched = |plan: &Plan, progress: &mut dyn Progress| {
            let command = plan.target.spawn.as_ref().expect("a server").command[0].clone();
            assert_eq!(command == "old", plan.arm == "A");
            let rate = if plan.load.rate_per_s.is_some() { "r" } else { "" };
            order.borrow_mut().push(format!("{}{rate}", plan.arm));
            instant(plan, progress)
        };
        let document = measured(&duel_with_rate(3, Some(500.0)), &watched);
        assert_eq!(order.borrow().join(" "), "A B Ar Br B A Br Ar A B Ar Br");
        assert_eq!(document.runs.len(), 12);
        assert_eq!(document.scenarios[1].parameters.rate_per_s, Some(500.0));
        assert_eq!(document.arms[0].subject.command.as_deref(), Some("old {port}"));
        assert_eq!(
            (document.session.order.as_str(), document.session.kind),
            ("abba", SessionKind::Ab)
        );
    }

    #[test]
    fn the_commit_of_an_arm_is_that_of_the_subject() {
        let mut duel = duel(2);
        duel.arms[1].commit = Some("0123456789ab".to_owned());
        let document = measured(&duel, &instant);
        assert_eq!(document.subject.commit.as_deref(), Some("0123456789ab"));
        assert_eq!(document.subject, document.arms[1].subject);
    }

    #[test]
    fn a_share_of_the_capacity_is_measured_on_the_first_arm() {
        let first = RefCell::new(None);
        let watched = |plan: &Plan, progress: &mut dyn Progress| {
            first.borrow_mut().get_or_insert((
                plan.arm.clone(),
                plan.load.rate_per_s,
                plan.load.measure,
            ));
            instant(plan, progress)
        };
        let document = measured(&duel_with_rate(1, None), &watched);
        assert_eq!(*first.borrow(), Some(("A".to_owned(), None, Duration::from_secs(3))));
        // 15,000 a second, of which half.
        assert_eq!(document.scenarios[1].parameters.rate_per_s, Some(7_500.0));
        assert_eq!(document.runs.len(), 4, "the calibration run is not stored");
    }

    #[test]
    fn a_slowed_server_burns_a_share_of_the_cost_of_a_message() {
        let mut slowed = Experiment { rounds: 2, ..named("quick") };
        slowed.arms.push(Arm { burn_share: Some(0.04), ..Arm::own("slow") });
        slowed.scenarios.truncate(2);
        let setup = setup();
        let cut = session_with(&slowed, &setup, &instant, &mut StopAfter(5))
            .expect("three runs")
            .document;
        // A message costs 4,000 ns in the calibration run, which is the first.
        let command = cut.arms[1].subject.command.clone().expect("known");
        assert!(command.ends_with(" --burn-per-message 160.00ns"), "{command}");
        assert_eq!(cut.runs.len(), 3);
        let burnt = |plan: &Plan, progress: &mut dyn Progress| {
            let words = plan.target.spawn.as_ref().expect("a server").command.join(" ");
            assert_eq!(words.contains("--burn-per-message 160.00ns"), plan.arm == "slow");
            instant(plan, progress)
        };
        let resumed =
            runner(&slowed, &setup).resume(cut, &Machine::default()).expect("the same experiment");
        let resumed = resumed
            .measure(Machine::default(), &burnt, &mut Silent, &mut |_| {})
            .expect("measured");
        assert_eq!(resumed.document.runs.len(), 8);
    }

    #[test]
    fn a_more_expensive_server_is_found() {
        let comparison = Conclusion::of_arms(&measured(&duel(10), &instant), &default_thresholds);
        assert_eq!(comparison.overall, Some(Verdict::Regressed));
    }

    #[test]
    fn a_pair_with_an_invalid_run_is_replaced_within_bounds() {
        let with_invalid = |pairs: u32| {
            move |plan: &Plan, progress: &mut dyn Progress| {
                instant(plan, progress).map(|run| Run { valid: plan.pair >= pairs, ..run })
            }
        };
        assert_eq!(measured(&duel(10), &with_invalid(1)).runs.len(), 22);
        assert_eq!(measured(&duel(10), &with_invalid(99)).runs.len(), 28);
        // The ratios of other experiments do without such a round.
        assert_eq!(cells(&measured(&engines(10), &with_invalid(99)), "echo").len(), 30);
    }

    #[test]
    fn rounds_of_debug_builds_are_not_replaced() {
        let debug = |plan: &Plan, progress: &mut dyn Progress| {
            let mut run = instant(plan, progress)?;
            run.invalidate(InvalidKind::DebugGenerator, "the generator is a debug build");
            Ok(run)
        };
        let document = measured(&duel(10), &debug);
        assert_eq!((document.runs.len(), attempts(&document).iter().sum::<usize>()), (20, 0));
    }

    fn attempts(document: &Document) -> Vec<usize> {
        document.runs.iter().map(|run| run.repeated.len()).collect()
    }

    /// The generator waited for its processor in the first `count` runs.
    fn disturbed(count: u32) -> impl Fn(&Plan, &mut dyn Progress) -> Result<Run, RunError> {
        let made = Counter::new(0);
        move |plan, progress| {
            made.set(made.get() + 1);
            let waited = if made.get() <= count { 0.5 } else { 0.0 };
            let disturbance =
                Some(Disturbance { generator_waited: waited, ..Disturbance::default() });
            // Something to know the attempt by.
            instant(plan, progress).map(|run| Run {
                disturbance,
                rate_per_s: f64::from(made.get()),
                ..run
            })
        }
    }

    fn on_processors(server: usize, generator: usize) -> Setup {
        let mut setup = setup();
        setup.server_cpus = vec![server];
        setup.plan.placement.cpus = vec![generator];
        setup
    }

    #[test]
    fn repeats_a_disturbed_run_and_says_so() {
        let session = session_with(&duel(8), &on_processors(0, 1), &disturbed(1), &mut Silent);
        let document = session.expect("measured").document;
        assert_eq!(attempts(&document)[..3], [1, 0, 0]);
        assert_eq!(document.runs[0].rate_per_s, 2.0, "the attempt that was not disturbed counts");
        assert_eq!(
            document.runs[0].repeated,
            ["the generator waited 50.0 % of the window for its processor"]
        );
        assert_eq!(document.runs.len(), 16);
        // Sixteen runs, of which a quarter may be repeated.
        let always =
            session_with(&duel(8), &on_processors(0, 1), &disturbed(u32::MAX), &mut Silent);
        let always = always.expect("measured").document;
        assert_eq!(attempts(&always)[..4], [2, 2, 0, 0]);
        assert_eq!(attempts(&always).iter().sum::<usize>(), 4);
        // On a shared processor one waits for the other.
        let shared =
            session_with(&duel(8), &on_processors(0, 0), &disturbed(u32::MAX), &mut Silent);
        assert_eq!(attempts(&shared.expect("measured").document).iter().sum::<usize>(), 0);
    }

    #[test]
    fn a_session_that_the_user_ends_is_kept_and_marked() {
        for experiment in [named("quick"), engines(3), duel(5)] {
            let setup = setup();
            let made =
                session_with(&experiment, &setup, &instant, &mut StopAfter(5)).expect("four runs");
            assert_eq!((made.document.runs.len(), made.document.session.interrupted), (4, true));
            assert_eq!(Outcome::of(&made), Outcome::Interrupted);
            let error = session_with(&experiment, &setup, &instant, &mut StopAfter(1))
                .expect_err("nothing");
            assert!(matches!(error, RunnerError::Interrupted));
        }
        let cut = |plan: &Plan, progress: &mut dyn Progress| {
            instant(plan, progress)
                .map(|run| Run { interrupted: plan.scenario == "pipeline", ..run })
        };
        assert_eq!(measured(&named("quick"), &cut).runs.len(), 2);
    }

    #[test]
    fn an_interrupted_session_is_resumed() {
        for experiment in [named("quick"), engines(3), duel_with_rate(5, None)] {
            let setup = setup();
            let whole = session(&experiment, &instant).expect("measured").document;
            let cut = session_with(&experiment, &setup, &instant, &mut StopAfter(6))
                .expect("some runs")
                .document;
            let made = RefCell::new(0);
            let counted = |plan: &Plan, progress: &mut dyn Progress| {
                *made.borrow_mut() += 1;
                instant(plan, progress)
            };
            let (start, runs) = (cut.session.start, cut.runs.len());
            let resumed = runner(&experiment, &setup)
                .resume(cut, &Machine::default())
                .expect("the same experiment");
            let resumed = resumed.measure(Machine::default(), &counted, &mut Silent, &mut |_| {});
            let resumed = resumed.expect("measured").document;
            assert_eq!(resumed.runs, whole.runs);
            assert_eq!(
                *made.borrow(),
                whole.runs.len() - runs,
                "no run is made twice, and no calibration"
            );
            assert_eq!((resumed.session.start, resumed.session.interrupted), (start, false));
            assert_eq!(resumed.scenarios, whole.scenarios);
            assert!(resumed.session.marks.iter().any(|mark| mark.contains("resumed")));
        }
    }

    #[test]
    fn resumes_only_the_same_interrupted_experiment() {
        let (quick, setup) = (named("quick"), setup());
        let refusal = |document: Document| {
            runner(&quick, &setup)
                .resume(document, &Machine::default())
                .err()
                .expect("refused")
                .to_string()
        };
        let complete = measured(&quick, &instant);
        assert!(refusal(complete.clone()).contains("complete"));
        let mut elsewhere = complete.clone();
        (elsewhere.session.interrupted, elsewhere.machine.id) = (true, "another".to_owned());
        assert!(refusal(elsewhere).contains("another machine"));
        let other = session_with(&named("full"), &setup, &instant, &mut StopAfter(3))
            .expect("some")
            .document;
        assert!(refusal(other).contains("another experiment"));
        let mut rebuilt = Document { ..complete };
        rebuilt.session.interrupted = true;
        rebuilt.subject.binary_hash = Some("0123456789ab".into());
        assert!(refusal(rebuilt).contains("built anew"));
    }

    /// Returns a function whose runs of an arm in a scenario fail in these attempts, counted from
    /// 0.
    fn failing(
        arm: &'static str,
        attempts: Range<u32>,
    ) -> impl Fn(&Plan, &mut dyn Progress) -> Result<Run, RunError> {
        let made = Counter::new(0);
        move |plan, progress| {
            if plan.arm != arm || plan.scenario != "echo" {
                return instant(plan, progress);
            }
            made.set(made.get() + 1);
            if attempts.contains(&(made.get() - 1)) {
                Err(RunError::Panicked)
            } else {
                instant(plan, progress)
            }
        }
    }

    #[test]
    fn repeats_a_run_that_failed() {
        let made = session(&engines(3), &failing("epoll", 1..2)).expect("measured");
        assert_eq!(cells(&made.document, "echo").len(), 9);
        let repeated: Vec<&Run> =
            made.document.runs.iter().filter(|run| !run.repeated.is_empty()).collect();
        assert_eq!((repeated.len(), repeated[0].pair, repeated[0].arm.as_str()), (1, 1, "epoll"));
        assert!(made.fault.is_none());
    }

    #[test]
    fn an_arm_goes_on_after_a_run_that_always_fails() {
        let made = session(&engines(3), &failing("epoll", 1..4)).expect("measured");
        assert_eq!(cells(&made.document, "echo").len(), 8);
        let marks = &made.document.session.marks;
        assert!(
            marks.iter().any(|mark| mark.starts_with("echo, arm epoll, round 2: ")),
            "{marks:?}"
        );
        assert!(made.fault.is_none());
    }

    #[test]
    fn an_arm_that_always_fails_is_left_out_of_the_scenario() {
        let made = session(&engines(3), &failing("epoll", 0..99)).expect("measured");
        assert_eq!(
            (cells(&made.document, "echo").len(), cells(&made.document, "pipeline").len()),
            (6, 9)
        );
        let fault = made.fault.expect("an error").to_string();
        assert!(fault.starts_with("echo, arm epoll, round 1: "), "{fault}");
        let made = session(&named("quick"), &failing("A", 0..99)).expect("the others");
        assert_eq!((cells(&made.document, "echo").len(), made.document.runs.len()), (0, 42));
        assert_eq!(Outcome::of(&made), Outcome::Failed);
        let nothing = |_: &Plan, _: &mut dyn Progress| Err(RunError::Panicked);
        let error = session(&engines(3), &nothing).expect_err("nothing to store").to_string();
        assert!(error.starts_with("echo, arm uring, round 1: "), "{error}");
    }

    fn cannot_run() -> RunError {
        let (status, said) = (ExitStatus::from_raw(127 << 8), String::new());
        SpawnError::Ended { role: Role::Server, status, said, port_in_use: false }.into()
    }

    #[test]
    fn an_arm_that_cannot_start_is_left_out_at_once() {
        let failed = Counter::new(0);
        let failing = |plan: &Plan, progress: &mut dyn Progress| {
            if plan.arm != "epoll" {
                return instant(plan, progress);
            }
            failed.set(failed.get() + 1);
            Err(cannot_run())
        };
        let made = session(&engines(3), &failing).expect("measured");
        assert_eq!(failed.get(), 1);
        assert!(made.document.arms[1].left_out.as_ref().is_some_and(|why| why.contains("127")));
        assert_eq!(cells(&made.document, "echo").len(), 6);
        assert!(made.fault.is_some());
    }

    #[test]
    fn a_server_that_cannot_start_ends_a_session_of_one_arm_at_once() {
        let made = Counter::new(0);
        let failing = |_: &Plan, _: &mut dyn Progress| {
            made.set(made.get() + 1);
            Err(cannot_run())
        };
        let error = session(&named("full"), &failing).expect_err("failed").to_string();
        assert!(error.starts_with("echo, round 1: the server ended"), "{error}");
        assert_eq!(made.get(), 1);
    }

    #[test]
    fn refused_engines_are_left_out() {
        let (engines, setup) = (engines(3), setup());
        let no_tokio = |kind| match kind {
            EngineKind::TokioUring => Err(EngineError::Missing),
            _ => Ok(()),
        };
        let runner =
            Runner::new(&engines, &setup, &Machine::default(), &no_tokio).expect("three arms");
        let left_out: Vec<bool> = runner.arms.iter().map(|arm| arm.left_out.is_some()).collect();
        assert_eq!(left_out, [false, false, true, false]);
        assert!(runner.marks.iter().any(|mark| mark.starts_with("arm tokio-uring was left out")));
        let error = Runner::new(&engines, &setup, &Machine::default(), &only_epoll_works)
            .err()
            .expect("one");
        assert!(error.to_string().contains("--arm NAME=COMMAND"), "{error}");
    }

    #[test]
    fn an_absent_server_is_named_and_the_others_are_measured() {
        let document = measured(&peers(), &instant);
        assert_eq!(document.arms[3].left_out.as_deref(), Some("npm is not installed"));
        assert_eq!(cells(&document, "echo").len(), 9);
        let marks = &document.session.marks;
        assert!(
            marks.contains(&"arm bun was left out: npm is not installed.".to_owned()),
            "{marks:?}"
        );
        assert_eq!(document.arms[1].subject.command.as_deref(), Some("one {port}"));
        assert_eq!(document.arms[1].subject.commit, None);
    }

    #[test]
    fn other_servers_must_echo_correctly_first() {
        let tried = RefCell::new(Vec::new());
        let one_corrupts = |plan: &Plan, progress: &mut dyn Progress| {
            let mut run = instant(plan, progress)?;
            if plan.load.messages.is_some() {
                plan.check().expect("can be carried out");
                let mebibytes = plan.load.message_bytes.mean() as usize >> 20;
                tried.borrow_mut().push((plan.arm.clone(), plan.load.fragments, mebibytes));
                run.integrity.corrupted = u64::from(plan.arm == "one" && plan.load.fragments == 3);
            }
            Ok(run)
        };
        let document = measured(&peers(), &one_corrupts);
        let tried = tried.into_inner();
        let of = |name: &str| tried.iter().filter(|(arm, ..)| arm == name).count();
        // Our own server has tests of its own. A server that failed in three attempts is not tried
        // again.
        assert_eq!((of("ours"), of("one"), of("two")), (0, 4, 3));
        assert!(tried.contains(&("two".to_owned(), 1, 16)), "{tried:?}");
        let why = document.arms[1].left_out.as_deref().expect("left out");
        assert!(why.contains("fragments") && why.contains("corrupted: 1"), "{why}");
        assert!(document.runs.iter().all(|run| run.arm == "ours" || run.arm == "two"));
        let all_fail = |plan: &Plan, progress: &mut dyn Progress| match plan.load.messages {
            Some(_) => Err(RunError::Panicked),
            None => instant(plan, progress),
        };
        let error = session(&peers(), &all_fail).expect_err("only ours is left").to_string();
        assert!(error.contains("arm two was left out"), "{error}");
    }

    #[test]
    fn output_of_a_server_that_died_is_not_stored() {
        let words =
            "it ended; the last it wrote to standard error:\n    at /home/somebody/server.js";
        let error =
            || RunError::Resolve { host: "h".to_owned(), source: std::io::Error::other(words) };
        let died = |plan: &Plan, progress: &mut dyn Progress| match plan.arm.as_str() {
            "one" => Err(error()),
            _ => instant(plan, progress),
        };
        assert!(error().to_string().contains("somebody"));
        let stored = serde_json::to_string(&measured(&peers(), &died)).expect("JSON");
        assert!(
            stored.contains("it ended") && !stored.contains("/home/somebody/server"),
            "{stored}"
        );
    }

    /// Returns a function whose runs of arm B fail `attempts` times in these pairs.
    fn failing_pairs(
        pairs: Range<u32>,
        attempts: u32,
    ) -> impl Fn(&Plan, &mut dyn Progress) -> Result<Run, RunError> {
        let made = RefCell::new(BTreeMap::new());
        move |plan, progress| {
            let mut made = made.borrow_mut();
            let attempt: &mut u32 = made.entry((plan.arm.clone(), plan.pair)).or_default();
            *attempt += 1;
            let fails = plan.arm == "B" && pairs.contains(&plan.pair) && *attempt <= attempts;
            if fails { Err(RunError::Panicked) } else { instant(plan, progress) }
        }
    }

    fn arms_of(document: &Document, pair: u32) -> Vec<&str> {
        document.runs.iter().filter(|run| run.pair == pair).map(|run| run.arm.as_str()).collect()
    }

    #[test]
    fn a_pair_whose_run_fails_in_every_attempt_is_replaced() {
        let made = session(&duel(8), &failing_pairs(3..4, 99)).expect("made");
        let document = made.document;
        // The other run of that pair is kept, and a ninth pair replaces the pair.
        assert_eq!((document.runs.len(), arms_of(&document, 3)), (17, vec!["A"]));
        assert_eq!(arms_of(&document, 8), ["A", "B"]);
        let marks = &document.session.marks;
        assert!(
            marks.iter().any(|mark| mark.starts_with("echo, arm B, round 4: a worker")),
            "{marks:?}"
        );
        assert!(made.fault.is_none(), "it was named, and enough pairs are there");
        assert_eq!(crate::compare::sides::pairs(&document, "echo").len(), 8);
    }

    #[test]
    fn a_server_that_never_works_ends_the_duel() {
        for duel in [duel(8), duel_with_rate(8, Some(500.0)), duel_with_rate(8, None)] {
            let made = session(&duel, &failing_pairs(0..99, 99)).expect("made");
            assert_eq!(made.document.runs.len(), 1, "arm A of the first pair");
            let fault = made.fault.expect("an error").to_string();
            assert!(fault.starts_with("echo, arm B, round 1: "), "{fault}");
        }
        let made = session(&duel(8), &failing_pairs(5..99, 99)).expect("made");
        assert!((0..5).all(|pair| arms_of(&made.document, pair).len() == 2));
        assert!(made.fault.is_some() && !made.document.session.interrupted);
        let nothing = |_: &Plan, _: &mut dyn Progress| Err(RunError::Panicked);
        for duel in [duel(8), duel_with_rate(8, None)] {
            let error = session(&duel, &nothing).expect_err("failed").to_string();
            assert!(error.starts_with("echo") && error.contains("arm A, round 1: "), "{error}");
        }
    }

    #[test]
    fn wrong_echoes_are_an_error_also_where_a_repeat_has_none() {
        for attempts in [1, 99] {
            let made = Counter::new(0);
            let wrong = |plan: &Plan, progress: &mut dyn Progress| {
                let mut run = instant(plan, progress)?;
                if plan.arm == "A" && plan.pair == 1 {
                    made.set(made.get() + 1);
                    if made.get() <= attempts {
                        run.integrity.corrupted = 1;
                        run.invalidate(InvalidKind::WrongEchoes, "1 echo was not what was sent");
                    }
                }
                Ok(run)
            };
            let session = session(&duel(8), &wrong).expect("made");
            let fault = session.fault.expect("an error").to_string();
            assert_eq!(fault, "echo, arm A, round 2: 1 echo was not what was sent");
            assert!(session.document.session.marks.contains(&format!("{fault}.")));
            // A pair that stays wrong is stored and replaced.
            assert_eq!(session.document.runs.len(), if attempts == 1 { 16 } else { 18 });
        }
    }

    #[test]
    fn where_correctness_is_asked_failures_alone_are_repeated() {
        let made = session(&named("smoke"), &failing("A", 0..1)).expect("measured");
        assert_eq!(
            (attempts(&made.document).iter().sum::<usize>(), made.document.runs.len()),
            (1, 8)
        );
        assert_eq!(Outcome::of(&made), Outcome::Fine);
        let invalid = |plan: &Plan, progress: &mut dyn Progress| {
            let mut run = instant(plan, progress)?;
            run.invalidate(InvalidKind::LateSends, "late");
            Ok(run)
        };
        let made = session(&named("smoke"), &invalid).expect("measured");
        assert_eq!(
            (attempts(&made.document).iter().sum::<usize>(), Outcome::of(&made)),
            (0, Outcome::Fine)
        );
        assert_eq!(
            Outcome::of(&session(&named("quick"), &invalid).expect("measured")),
            Outcome::Invalid
        );
    }

    #[test]
    fn arms_about_latency_take_no_other_scenario() {
        let engines = engines(1);
        let of_latency = |scenario: &&Scenario| scenario.is_about_latency();
        let names: Vec<&str> = engines
            .scenarios
            .iter()
            .filter(of_latency)
            .map(|scenario| scenario.name.as_str())
            .collect();
        assert_eq!(names, ["echo-1x1", "rate-1x1", "rate-64x1"]);
        assert_eq!(engines.arms[3].takes, ArmScenarios::Latency);
        assert_eq!(runner(&engines, &setup()).runs_of_a_round(), 11 * 3 + 3);
    }

    #[test]
    fn every_run_has_a_line_with_the_time_that_is_left() {
        let (duel, setup) = (duel(2), setup());
        let mut notes = String::new();
        let mut note = |line: &str| notes.extend([line, "\n"]);
        runner(&duel, &setup)
            .measure(Machine::default(), &instant, &mut Silent, &mut note)
            .expect("made");
        assert_eq!(notes.lines().count(), 4, "{notes}");
        assert!(
            notes.contains(
                "[1/2] echo             B                       15000 msg/s    4.400 us/msg"
            ),
            "{notes}"
        );
    }
}

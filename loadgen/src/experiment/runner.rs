//! The runner of every experiment.

use std::time::{Duration, Instant};

use engine::EngineError;
use thiserror::Error;

use super::check::complaints_of;
use super::setup::{Probe, SetupError};
use super::trial::{Trial, trials};
use super::{Arm, Cell, Execute, Experiment, Fault, Notes, Repeats, Scenario, Session, Setup, calibration};
use crate::format::{about, count};
use crate::host::machine::Machine;
use crate::result::{self, Document, Run, SessionKind, Show, Start};
use crate::run::{Plan, PlanError, Progress};
use crate::target::subject::{Subject, Tool};

/// Time to start a server, to connect, to settle and to end, per run: for the announcement alone.
const AROUND_A_RUN: Duration = Duration::from_millis(400);
/// Time of a trial of an echo, with the start of its server: for the announcement alone.
const A_TRIAL: Duration = Duration::from_millis(500);
/// Flag of our own server that makes it slower.
const BURN: &str = "--burn-per-message";
/// Rounds of every four that may be replaced where they have a run that failed or is not valid.
const REPLACED: u32 = 2;

/// Reason why an experiment has no result. Nothing was measured then.
#[derive(Debug, Error)]
pub enum RunnerError {
    /// A flag or a file that cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The engine that was asked for does not run here.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// There is nothing to compare.
    #[error("fewer than two arms can run here: {left_out} Name servers with --arm NAME=COMMAND.")]
    FewArms {
        /// The arms that were left out, and why.
        left_out: String,
    },
    /// The only server cannot run here.
    #[error("the server cannot run here: {0}")]
    NoServer(String),
    /// A load that cannot be carried out.
    #[error("scenario {scenario}: {source}")]
    Plan {
        /// Name of the scenario.
        scenario: String,
        /// Fault of its load.
        source: PlanError,
    },
    /// No scenario can run here.
    #[error("no scenario can run here: {0}")]
    NoScenario(String),
    /// The session to resume is of something else.
    #[error("--resume: cannot resume the session: {0}")]
    Resume(String),
    /// A server failed from the start.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The calibration run shows no capacity to take a share of.
    #[error(
        "arm {0} answered nothing in the calibration run: give the fixed rate with -R, or leave it out with --saturation-only"
    )]
    NoCapacity(String),
    /// No run tells what a message costs the first arm, so nothing is known to burn.
    #[error("the CPU time of the server is not known here, so a server cannot be slowed by a share of it")]
    NoCost,
    /// The user ended it before the first run was complete.
    #[error("interrupted before anything was measured; nothing was stored")]
    Interrupted,
}

/// An experiment on this machine: which of its runs can be made, and which were made.
pub struct Runner<'a> {
    experiment: &'a Experiment,
    setup: &'a Setup,
    kind: SessionKind,
    /// The arms, in the order of the experiment, as the result has them.
    arms: Vec<result::Arm>,
    /// The scenarios that can run here.
    rows: Vec<Row>,
    /// Trials that servers that are not ours must pass first.
    trials: Vec<Trial>,
    marks: Vec<String>,
    /// The runs so far.
    runs: Vec<Run>,
    /// Runs and repeats that are still to be made, for the time that is left.
    runs_left: usize,
    /// Session that this one resumes.
    resumed: Option<result::Session>,
}

/// The cells of a scenario, in the order of the arms.
struct Row {
    scenario: Scenario,
    cells: Vec<Cell>,
}

impl<'a> Runner<'a> {
    /// Decides which arms and scenarios can run here.
    ///
    /// # Errors
    ///
    /// Fails where nothing is left to measure or to compare.
    pub fn new(
        experiment: &'a Experiment,
        setup: &'a Setup,
        machine: &Machine,
        probe: Probe<'_>,
    ) -> Result<Self, RunnerError> {
        let mut marks = setup.marks.clone();
        let any = Scenario::new("echo", crate::load::Load::default());
        let arms: Vec<result::Arm> = experiment
            .arms
            .iter()
            .map(|arm| {
                let first = experiment.scenarios.iter().find(|scenario| arm.takes(scenario));
                let subject = first.map_or_else(Subject::default, |scenario| setup.subject(scenario, arm));
                let refused =
                    arm.engine.and_then(|engine| probe(engine).err()).map(|error| error.to_string());
                let left_out = arm.absent.clone().or(refused);
                marks.extend(left_out.as_ref().map(|why| left_out_mark(&arm.name, why)));
                let (name, version) = (arm.name.clone(), arm.version.clone());
                result::Arm { name, subject, version, conformance: arm.conformance, left_out }
            })
            .collect();
        let is_present = |arm: &&Arm| arms.iter().any(|one| one.name == arm.name && one.left_out.is_none());
        let present: Vec<&Arm> = experiment.arms.iter().filter(is_present).collect();
        let is_only = experiment.arms.len() == 1;
        let mut rows = Vec::new();
        for scenario in &experiment.scenarios {
            if scenario.engine == Some(setup.server_engine) {
                // It would be the scenario without an engine's name again.
                continue;
            }
            if let Some(why) = obstacle(scenario, setup, machine, probe) {
                marks.push(format!("{} was left out: {why}.", scenario.full_name()));
                continue;
            }
            let cells = present.iter().filter(|arm| arm.takes(scenario)).map(|arm| {
                let plan = setup.plan_of(scenario, arm, is_only, experiment.spin);
                let build = arms.iter().find(|one| one.name == arm.name);
                let build = build.and_then(|one| one.subject.build.as_deref());
                match experiment.show {
                    // A very short load on a busy machine may well be invalid.
                    Show::Correctness => Cell::for_correctness(plan, build),
                    _ => Cell::new(plan, build),
                }
            });
            rows.push(Row { scenario: scenario.clone(), cells: cells.collect() });
        }
        if is_only && arms[0].subject.build.as_deref() == Some("debug") {
            marks.push("the server is a debug build: its figures mean nothing.".to_owned());
        }
        let others = present.iter().filter(|arm| experiment.try_echoes && !arm.is_own());
        let trials =
            others.flat_map(|arm| trials(&setup.plan_of(&any, arm, false, false))).collect::<Vec<_>>();
        let kind = match experiment.show {
            Show::Verdict => SessionKind::Ab,
            Show::Noise => SessionKind::Aa,
            _ => SessionKind::Suite,
        };
        let mut runner = Self {
            experiment,
            setup,
            kind,
            arms,
            rows,
            trials,
            marks,
            runs: Vec::new(),
            runs_left: 0,
            resumed: None,
        };
        runner.check_arms()?;
        for cell in runner.rows.iter().flat_map(|row| &row.cells) {
            let scenario = cell.plan.scenario.clone();
            cell.plan.check().map_err(|source| RunnerError::Plan { scenario, source })?;
        }
        runner.runs_left = runner.runs_of_a_round() * experiment.rounds as usize;
        Ok(runner)
    }

    /// Resumes an interrupted session of the same experiment: keeps its runs, and makes the others.
    ///
    /// # Errors
    ///
    /// Fails where the session is complete, or is of another experiment, machine or server.
    pub fn resume(mut self, document: Document, machine: &Machine) -> Result<Self, RunnerError> {
        let Document { session, machine: measured_on, tool, arms, subject, scenarios, runs, .. } = document;
        let refuse = |why: &str| Err(RunnerError::Resume(why.to_owned()));
        if !session.interrupted {
            return refuse("it is complete");
        }
        if measured_on.id != machine.id {
            return refuse("it was measured on another machine");
        }
        let here = Tool::this(self.setup.plan.placement.engine.name());
        if (&tool.engine, &tool.binary_hash) != (&here.engine, &here.binary_hash) {
            return refuse("the generator is another build or has another engine");
        }
        if session.experiment.as_ref().map(|record| &record.hash) != Some(&self.experiment.record().hash) {
            return refuse("it is of another experiment, or of other flags");
        }
        let before: Vec<Subject> =
            if arms.is_empty() { vec![subject] } else { arms.into_iter().map(|arm| arm.subject).collect() };
        if !before.iter().map(|one| &one.binary_hash).eq(self.arms.iter().map(|arm| &arm.subject.binary_hash))
        {
            return refuse("a server was built anew since");
        }
        for (arm, subject) in self.experiment.arms.iter().zip(&before) {
            if arm.burn_share.is_none() {
                continue;
            }
            let command = subject.command.as_deref().unwrap_or_default();
            let Some((_, burnt)) = command.split_once(&format!("{BURN} ")) else {
                return refuse("it does not tell what its slowed servers burn");
            };
            self.burn(&arm.name, burnt);
        }
        for row in &mut self.rows {
            let name = row.scenario.full_name();
            let stored = scenarios.iter().find(|scenario| scenario.name == name);
            let rate = stored.and_then(|scenario| scenario.parameters.rate_per_s);
            if row.scenario.share_of_capacity.is_some() && rate.is_some() {
                row.scenario.share_of_capacity = None;
                row.cells.iter_mut().for_each(|cell| cell.plan.load.rate_per_s = rate);
            }
            let hash = row.cells.first().map(|cell| cell.plan.stored_scenario().hash);
            let is_same = |stored: &result::Scenario| Some(&stored.hash) == hash.as_ref();
            // A rate that is still to be measured is part of the hash.
            let is_settled = row.scenario.share_of_capacity.is_none();
            if is_settled && stored.is_some_and(|stored| !is_same(stored)) {
                return refuse("a scenario has other settings");
            }
        }
        // A run that was cut short is made again.
        self.runs = runs.into_iter().filter(|run| !run.interrupted).collect();
        self.runs_left = self.runs_left.saturating_sub(self.runs.len());
        self.resumed = Some(session);
        Ok(self)
    }

    fn check_arms(&self) -> Result<(), RunnerError> {
        let present = self.arms.iter().filter(|arm| arm.left_out.is_none()).count();
        let left_out = || self.marks.join(" ");
        if present == 0 && self.experiment.arms.len() == 1 {
            return Err(RunnerError::NoServer(left_out()));
        }
        if present < self.experiment.arms.len().min(2) {
            return Err(RunnerError::FewArms { left_out: left_out() });
        }
        if self.rows.iter().all(|row| row.cells.is_empty()) {
            return Err(RunnerError::NoScenario(left_out()));
        }
        Ok(())
    }

    /// Tells what is about to happen and how long it takes.
    pub fn announce(&self, notes: Notes<'_>) {
        let Experiment { name, rounds, arms, .. } = self.experiment;
        let present = self.arms.iter().filter(|arm| arm.left_out.is_none()).count();
        let on = if arms.len() > 1 { format!(" on {present} arms") } else { String::new() };
        notes(&format!(
            "{name}: {}{on}, {}, {}, about {}",
            count(self.rows.len() as u64, "scenario"),
            count((*rounds).into(), "round"),
            count(self.runs_left as u64, "run"),
            about(self.duration())
        ));
        let cpus = |cpus: &[usize]| match cpus {
            [] => "no particular CPU".to_owned(),
            cpus => format!("CPU {}", cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        };
        let placement = &self.setup.plan.placement;
        notes(&format!(
            "server on {}, generator on {} (engine {})",
            cpus(&self.setup.server_cpus),
            cpus(&placement.cpus),
            placement.engine.name()
        ));
        self.marks.iter().for_each(|mark| notes(&format!("NOTE: {mark}")));
    }

    fn runs_of_a_round(&self) -> usize {
        self.rows.iter().map(|row| row.cells.len()).sum()
    }

    /// Returns about how long the session takes.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let of_plan = |plan: &Plan| plan.load.settle + plan.load.warmup + plan.load.measure + AROUND_A_RUN;
        let of_row = |row: &Row| row.cells.iter().map(|cell| of_plan(&cell.plan)).sum::<Duration>();
        let round: Duration = self.rows.iter().map(of_row).sum();
        let all = round * self.experiment.rounds;
        let made =
            self.runs.len() as f64 / (self.runs_of_a_round() as f64 * f64::from(self.experiment.rounds));
        let calibrated = self.rows.iter().filter(|row| row.scenario.share_of_capacity.is_some());
        let calibration = calibrated.filter_map(|row| row.cells.first());
        let calibration: Duration = calibration.map(|cell| of_plan(&calibration::plan(&cell.plan))).sum();
        let trials = A_TRIAL * u32::try_from(self.trials.len()).unwrap_or(u32::MAX);
        trials + calibration + all.mul_f64((1.0 - made).clamp(0.0, 1.0))
    }

    /// Makes every run.
    ///
    /// Events go to `notes`, a line each, and to `progress`. A session that the user ends early has
    /// the runs until then, and is marked. Call it from the main thread, as
    /// [`execute`](crate::run::execute).
    ///
    /// # Errors
    ///
    /// Fails where nothing was measured. Nothing is left running then.
    pub fn measure(
        mut self,
        machine: Machine,
        execute: Execute<'_>,
        progress: &mut dyn Progress,
        notes: Notes<'_>,
    ) -> Result<Session, RunnerError> {
        let start = Start::now();
        progress.expect(self.duration());
        let name = if self.experiment.arms.len() == 1 { name_of_only } else { name_of };
        let mut trials = Repeats::new(execute, self.trials.len(), name);
        let mut is_interrupted = self.make_trials(&mut trials, progress, notes);
        let mut repeats = Repeats::new(execute, self.runs_left, name);
        repeats.fault = trials.fault;
        if !is_interrupted {
            self.check_arms()?;
            let all = self.runs_of_a_round() * self.experiment.rounds as usize;
            self.runs_left = all.saturating_sub(self.runs.len());
            is_interrupted = match self.calibrate(&mut repeats, progress, notes) {
                Err(RunnerError::Interrupted) if !self.runs.is_empty() => true,
                calibrated => calibrated.map(|()| false)?,
            };
        }
        is_interrupted = is_interrupted || self.make_runs(&mut repeats, progress, notes);
        if self.runs.is_empty() {
            return Err(repeats.fault.map_or(RunnerError::Interrupted, RunnerError::Fault));
        }
        self.marks.append(&mut repeats.marks);
        let fault = repeats.fault;
        Ok(Session { document: self.document(start, is_interrupted, machine), fault })
    }

    fn document(mut self, start: Start, interrupted: bool, machine: Machine) -> Document {
        let order = match self.experiment.arms.len() {
            1 => "rounds",
            2 => "abba",
            _ => "rounds of arms, rotated",
        };
        let mut session = result::Session {
            suite: Some(self.experiment.name.clone()),
            experiment: Some(self.experiment.record()),
            tag: self.setup.tag.clone(),
            order: order.to_owned(),
            interrupted,
            ..result::Session::new(self.kind, start)
        };
        if let Some(before) = self.resumed {
            (session.start, session.duration_ns) = (before.start, before.duration_ns + session.duration_ns);
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
        let present = || self.arms.iter().filter(|arm| arm.left_out.is_none());
        let known = present().rfind(|arm| arm.subject.commit.is_some()).or_else(|| present().next_back());
        let subject = known.map(|arm| arm.subject.clone()).unwrap_or_default();
        let arms = if self.experiment.arms.len() == 1 { Vec::new() } else { self.arms };
        let engine = self.setup.plan.placement.engine.name();
        Document { subject, arms, scenarios, runs: self.runs, ..Document::new(session, engine, machine) }
    }

    /// Leaves out servers that do not echo correctly. Returns true where the user ended the
    /// session.
    fn make_trials(
        &mut self,
        repeats: &mut Repeats<'_>,
        progress: &mut dyn Progress,
        notes: Notes<'_>,
    ) -> bool {
        for Trial { what, plan } in std::mem::take(&mut self.trials) {
            let arm = plan.arm.clone();
            if !self.arms.iter().any(|one| one.name == arm && one.left_out.is_none()) {
                continue;
            }
            let made = repeats.make(&mut Cell::for_correctness(plan, None), 0, progress, notes);
            if made.is_interrupted {
                return true;
            }
            let complaints = made.run.map(|run| complaints_of(&run).join("; "));
            let why = complaints.or(made.failure).unwrap_or_default();
            if why.is_empty() {
                notes(&format!("[echo] {arm:<16} {what}"));
            } else {
                self.leave_out(&arm, &format!("it does not echo correctly ({what}): {why}"), notes);
            }
        }
        false
    }

    /// Measures the capacity of the first arm where a scenario has a share of it as its rate.
    fn calibrate(
        &mut self,
        repeats: &mut Repeats<'_>,
        progress: &mut dyn Progress,
        notes: Notes<'_>,
    ) -> Result<(), RunnerError> {
        let burns = |arm: &Arm| arm.burn_share.is_some();
        let mut is_burn_known = self.resumed.is_some() || !self.experiment.arms.iter().any(burns);
        for at in 0..self.rows.len() {
            let Row { scenario, cells } = &self.rows[at];
            let share = scenario.share_of_capacity;
            let Some(first) = cells.first().filter(|_| share.is_some() || !is_burn_known) else { continue };
            let mut cell = Cell::new(calibration::plan(&first.plan), None);
            let arm = cell.plan.arm.clone();
            let made = repeats.make(&mut cell, 0, progress, notes);
            if made.is_interrupted {
                return Err(RunnerError::Interrupted);
            }
            let (Some(run), false) = (made.run, cell.is_given_up()) else {
                return Err(repeats.fault.take().map_or(RunnerError::NoCapacity(arm), RunnerError::Fault));
            };
            if let Some(share) = share {
                let Some(rate) = calibration::rate(run.rate_per_s, share) else {
                    return Err(RunnerError::NoCapacity(arm));
                };
                let did = run.rate_per_s;
                notes(&format!("arm {arm} did {did:.0} msg/s: latencies are measured at {rate:.0}"));
                self.rows[at].cells.iter_mut().for_each(|cell| cell.plan.load.rate_per_s = Some(rate));
            }
            if let (false, Some(server)) = (is_burn_known, &run.server) {
                let cost = server.cpu_ns_per_message;
                for arm in self.experiment.arms.iter().filter(|arm| burns(arm)) {
                    let burnt = format!("{:.2}ns", cost * arm.burn_share.unwrap_or_default());
                    notes(&format!("arm {} burns {burnt} of {cost:.0} ns for each message", arm.name));
                    self.burn(&arm.name, &burnt);
                }
                is_burn_known = true;
            }
        }
        if is_burn_known { Ok(()) } else { Err(RunnerError::NoCost) }
    }

    /// Has the server of an arm burn CPU time for each message, as in `25ns`.
    fn burn(&mut self, arm: &str, burnt: &str) {
        let flags = [BURN.to_owned(), burnt.to_owned()];
        let cells = self.rows.iter_mut().flat_map(|row| &mut row.cells);
        for cell in cells.filter(|cell| cell.plan.arm == arm) {
            cell.plan.target.spawn.iter_mut().for_each(|spawn| spawn.command.extend(flags.clone()));
        }
        let subjects = self.arms.iter_mut().filter(|one| one.name == arm);
        for command in subjects.filter_map(|arm| arm.subject.command.as_mut()) {
            *command += &format!(" {}", flags.join(" "));
        }
    }

    /// Removes an arm from the rest of the session. Its finished runs are kept.
    fn leave_out(&mut self, name: &str, why: &str, notes: Notes<'_>) {
        self.rows.iter_mut().for_each(|row| row.cells.retain(|cell| cell.plan.arm != name));
        if !self.runs.iter().any(|run| run.arm == name) {
            let arm = self.arms.iter_mut().find(|arm| arm.name == name);
            arm.into_iter().for_each(|arm| arm.left_out = Some(why.to_owned()));
        }
        let mark = left_out_mark(name, why);
        notes(&format!("NOTE: {mark}"));
        self.marks.push(mark);
    }

    /// Makes the runs of all rounds. Returns true where the user ended it early.
    fn make_runs(
        &mut self,
        repeats: &mut Repeats<'_>,
        progress: &mut dyn Progress,
        notes: Notes<'_>,
    ) -> bool {
        let began = Instant::now();
        let (mut round, mut wanted) = (0, self.experiment.rounds);
        let (mut made, mut all) = (0, self.runs_left);
        while round < wanted {
            let mut is_whole = true;
            for row in 0..self.rows.len() {
                for arm in self.order(row, round) {
                    let row = &mut self.rows[row];
                    let Some(cell) = row.cells.iter_mut().find(|cell| cell.plan.arm == arm) else { continue };
                    let is_made =
                        |run: &Run| run.pair == round && run.arm == arm && run.scenario == cell.plan.scenario;
                    if let Some(made) = self.runs.iter().find(|run| is_made(run)) {
                        is_whole &= is_worth_keeping(made);
                        continue;
                    }
                    if cell.is_given_up() {
                        continue;
                    }
                    let load = cell.plan.load.clone();
                    let outcome = repeats.make(cell, round, progress, notes);
                    let (is_given_up, is_hopeless) = (cell.is_given_up(), cell.is_hopeless());
                    made += 1;
                    is_whole &= outcome.run.as_ref().is_some_and(is_worth_keeping);
                    let mut is_interrupted = outcome.is_interrupted;
                    if let Some(run) = outcome.run {
                        // Compact runs do not name the engine of a server that is not ours.
                        let subjects = self.arms.iter_mut().filter(|one| one.name == arm);
                        let engine = run.server.as_ref().and_then(|server| server.engine.clone());
                        subjects.for_each(|one| {
                            one.subject.engine = one.subject.engine.take().or_else(|| engine.clone());
                        });
                        let is_checked = self.experiment.show == Show::Correctness;
                        let run = if is_checked { run } else { run.compact(&load) };
                        let left = began.elapsed() / made * (all as u32).saturating_sub(made);
                        notes(&line(round, wanted, &run, self.experiment.arms.len() > 1, left));
                        is_interrupted |= run.interrupted;
                        self.runs.push(run);
                    }
                    if is_interrupted {
                        return true;
                    }
                    if let Some(why) = outcome.failure.filter(|_| is_hopeless) {
                        self.leave_out(&arm, &why, notes);
                    }
                    if is_given_up && (self.experiment.is_of_pairs() || !self.can_go_on()) {
                        return false;
                    }
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

    /// Returns the arms of a scenario in the order of a round. The arm that begins changes from
    /// round to round, so that no place in the order belongs to an arm.
    fn order(&self, row: usize, round: u32) -> Vec<String> {
        let cells = self.rows[row].cells.iter();
        let mut arms: Vec<String> = cells.map(|cell| cell.plan.arm.clone()).collect();
        let first = round as usize % arms.len().max(1);
        arms.rotate_left(first);
        arms
    }

    /// Returns true while a scenario has as many arms as a comparison needs.
    fn can_go_on(&self) -> bool {
        let needed = self.experiment.arms.len().min(2);
        let is_left = |row: &Row| row.cells.iter().filter(|cell| !cell.is_given_up()).count() >= needed;
        self.rows.iter().any(is_left)
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
fn line(round: u32, rounds: u32, run: &Run, has_arms: bool, left: Duration) -> String {
    let validity = if run.valid { "" } else { "  INVALID" };
    let repeated = if run.repeated.is_empty() { "" } else { "  repeated" };
    let cpu = run.server.as_ref().map_or(0.0, |server| server.cpu_ns_per_message / 1000.0);
    let arm = if has_arms { format!("{:<17}", run.arm) } else { String::new() };
    let left = if left.is_zero() { String::new() } else { format!("  {} left", about(left)) };
    format!(
        "[{}/{rounds}] {:<17}{arm}{:>12.0} msg/s{cpu:>9.3} us/msg{validity}{repeated}{left}",
        round + 1,
        run.scenario,
        run.rate_per_s
    )
}

fn left_out_mark(name: &str, why: &str) -> String {
    format!("arm {name} was left out: {}.", why.trim_end_matches('.'))
}

/// Returns the reason why a scenario cannot run here.
fn obstacle(scenario: &Scenario, setup: &Setup, machine: &Machine, probe: Probe<'_>) -> Option<String> {
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

    use engine::EngineKind;

    use super::*;
    use crate::compare::sides::default_thresholds;
    use crate::compare::{Comparison, Verdict};
    use crate::experiment::{Outcome, Takes, built_in};
    use crate::load::Load;
    use crate::result::{Disturbance, InvalidKind, example};
    use crate::run::{RunError, Silent, Snapshot};
    use crate::target::spawn::SpawnError;

    fn named(name: &str) -> Experiment {
        built_in().into_iter().find(|experiment| experiment.name == name).expect("built in")
    }

    fn setup() -> Setup {
        let checkout = Some(crate::experiment::Checkout { commit: "0123456789ab".into(), dirty: true });
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
            show: Show::Verdict,
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
        let others = ["one=one {port}", "two=two {port}"].map(|arm| arm.parse::<Arm>().expect("an arm"));
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
                assert_eq!(has(["--protocol", "tcp"]), plan.scenario.starts_with("tcp"), "{command:?}");
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
            let experiment = Experiment::read(file, crate::load::Catalogue::built_in()).expect(file);
            assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(experiment.name.as_str()));
            for plan in
                runner(&experiment, &setup).rows.iter().flat_map(|row| &row.cells).map(|cell| &cell.plan)
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
        let experiment = Experiment { scenarios: vec![Scenario::new("tls", load)], ..named("quick") };
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
        let runner = Runner::new(&experiment, &setup, &machine, &only_epoll_works).expect("some can");
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
        assert!(text.starts_with("engines: 11 scenarios on 4 arms, 10 rounds, 360 runs, about "), "{text}");
        // 12.5 s a run with the default times.
        let text = announced(&runner(&duel, &setup));
        assert!(text.starts_with("duel: 2 scenarios on 2 arms, 10 rounds, 40 runs, about 8 min"), "{text}");
    }

    #[test]
    fn a_session_of_one_arm_runs_round_by_round() {
        let document = measured(&Experiment { rounds: 3, ..named("full") }, &instant);
        assert_eq!(document.runs.len(), 48);
        let names: Vec<&str> = document.scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
        for (index, run) in document.runs.iter().enumerate() {
            assert_eq!((run.scenario.as_str(), run.pair as usize), (names[index % 16], index / 16));
        }
        assert!(document.arms.is_empty());
        assert_eq!((document.session.order.as_str(), document.subject.dirty), ("rounds", Some(true)));
        assert_eq!(document.subject.commit.as_deref(), Some("0123456789ab"));
        let record = document.session.experiment.as_ref().expect("recorded");
        assert_eq!((record.hash.len(), record.rounds, record.show), (12, 3, Show::Figures));
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
        let engines: Vec<_> = document.arms.iter().map(|arm| arm.subject.engine.as_deref()).collect();
        assert_eq!(engines, [Some("uring"), Some("epoll"), Some("tokio-uring"), Some("uring")]);
        assert!(document.arms.iter().all(|arm| arm.subject.commit.as_deref() == Some("0123456789ab")));
        assert!(document.scenarios.iter().all(|scenario| scenario.server.engine.is_none()));
        assert!(document.runs.iter().all(|run| run.series.is_empty()));
        assert_eq!(document.session.order, "rounds of arms, rotated");
    }

    #[test]
    fn a_load_that_cannot_be_carried_out_is_refused_at_once() {
        let mut experiment = named("quick");
        experiment.scenarios[1].load.connections = 0;
        let setup = setup();
        let refused = Runner::new(&experiment, &setup, &Machine::default(), &everything_works).err();
        let text = refused.expect("refused").to_string();
        assert!(text.starts_with("scenario pipeline: -c must be"), "{text}");
    }

    #[test]
    fn a_resumed_duel_replaces_pairs_that_were_invalid() {
        let (duel, setup) = (duel(8), setup());
        let spoiled = |plan: &Plan, progress: &mut dyn Progress| {
            instant(plan, progress).map(|run| Run { valid: plan.pair > 0, ..run })
        };
        let cut = session_with(&duel, &setup, &spoiled, &mut StopAfter(12)).expect("some runs").document;
        assert!(!cut.runs[0].valid && cut.runs.len() >= 4);
        let resumed = runner(&duel, &setup).resume(cut, &Machine::default()).expect("the same experiment");
        let resumed =
            resumed.measure(Machine::default(), &instant, &mut Silent, &mut |_| {}).expect("measured");
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
        assert_eq!((document.session.order.as_str(), document.session.kind), ("abba", SessionKind::Ab));
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
            first.borrow_mut().get_or_insert((plan.arm.clone(), plan.load.rate_per_s, plan.load.measure));
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
        let cut = session_with(&slowed, &setup, &instant, &mut StopAfter(5)).expect("three runs").document;
        // A message costs 4,000 ns in the calibration run, which is the first.
        let command = cut.arms[1].subject.command.clone().expect("known");
        assert!(command.ends_with(" --burn-per-message 160.00ns"), "{command}");
        assert_eq!(cut.runs.len(), 3);
        let burnt = |plan: &Plan, progress: &mut dyn Progress| {
            let words = plan.target.spawn.as_ref().expect("a server").command.join(" ");
            assert_eq!(words.contains("--burn-per-message 160.00ns"), plan.arm == "slow");
            instant(plan, progress)
        };
        let resumed = runner(&slowed, &setup).resume(cut, &Machine::default()).expect("the same experiment");
        let resumed =
            resumed.measure(Machine::default(), &burnt, &mut Silent, &mut |_| {}).expect("measured");
        assert_eq!(resumed.document.runs.len(), 8);
    }

    #[test]
    fn a_more_expensive_server_is_found() {
        let comparison = Comparison::of_arms(&measured(&duel(10), &instant), &default_thresholds);
        assert_eq!(comparison.overall(), Some(Verdict::Regressed));
    }

    #[test]
    fn a_pair_with_an_invalid_run_is_replaced_within_bounds() {
        let spoiled = |pairs: u32| {
            move |plan: &Plan, progress: &mut dyn Progress| {
                instant(plan, progress).map(|run| Run { valid: plan.pair >= pairs, ..run })
            }
        };
        assert_eq!(measured(&duel(10), &spoiled(1)).runs.len(), 22);
        assert_eq!(measured(&duel(10), &spoiled(99)).runs.len(), 28);
        // The ratios of other experiments do without such a round.
        assert_eq!(cells(&measured(&engines(10), &spoiled(99)), "echo").len(), 30);
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

    /// The generator waited for its processor in the first `spoiled` runs.
    fn disturbed(spoiled: u32) -> impl Fn(&Plan, &mut dyn Progress) -> Result<Run, RunError> {
        let made = Counter::new(0);
        move |plan, progress| {
            made.set(made.get() + 1);
            let waited = if made.get() <= spoiled { 0.5 } else { 0.0 };
            let disturbance = Some(Disturbance { generator_waited: waited, ..Disturbance::default() });
            // Something to know the attempt by.
            instant(plan, progress).map(|run| Run { disturbance, rate_per_s: f64::from(made.get()), ..run })
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
        let always = session_with(&duel(8), &on_processors(0, 1), &disturbed(u32::MAX), &mut Silent);
        let always = always.expect("measured").document;
        assert_eq!(attempts(&always)[..4], [2, 2, 0, 0]);
        assert_eq!(attempts(&always).iter().sum::<usize>(), 4);
        // On a shared processor one waits for the other.
        let shared = session_with(&duel(8), &on_processors(0, 0), &disturbed(u32::MAX), &mut Silent);
        assert_eq!(attempts(&shared.expect("measured").document).iter().sum::<usize>(), 0);
    }

    #[test]
    fn a_session_that_the_user_ends_is_kept_and_marked() {
        for experiment in [named("quick"), engines(3), duel(5)] {
            let setup = setup();
            let made = session_with(&experiment, &setup, &instant, &mut StopAfter(5)).expect("four runs");
            assert_eq!((made.document.runs.len(), made.document.session.interrupted), (4, true));
            assert_eq!(Outcome::of(&made), Outcome::Interrupted);
            let error = session_with(&experiment, &setup, &instant, &mut StopAfter(1)).expect_err("nothing");
            assert!(matches!(error, RunnerError::Interrupted));
        }
        let cut = |plan: &Plan, progress: &mut dyn Progress| {
            instant(plan, progress).map(|run| Run { interrupted: plan.scenario == "pipeline", ..run })
        };
        assert_eq!(measured(&named("quick"), &cut).runs.len(), 2);
    }

    #[test]
    fn an_interrupted_session_is_resumed() {
        for experiment in [named("quick"), engines(3), duel_with_rate(5, None)] {
            let setup = setup();
            let whole = session(&experiment, &instant).expect("measured").document;
            let cut =
                session_with(&experiment, &setup, &instant, &mut StopAfter(6)).expect("some runs").document;
            let made = RefCell::new(0);
            let counted = |plan: &Plan, progress: &mut dyn Progress| {
                *made.borrow_mut() += 1;
                instant(plan, progress)
            };
            let (start, runs) = (cut.session.start, cut.runs.len());
            let resumed =
                runner(&experiment, &setup).resume(cut, &Machine::default()).expect("the same experiment");
            let resumed = resumed.measure(Machine::default(), &counted, &mut Silent, &mut |_| {});
            let resumed = resumed.expect("measured").document;
            assert_eq!(resumed.runs, whole.runs);
            assert_eq!(*made.borrow(), whole.runs.len() - runs, "no run is made twice, and no calibration");
            assert_eq!((resumed.session.start, resumed.session.interrupted), (start, false));
            assert_eq!(resumed.scenarios, whole.scenarios);
            assert!(resumed.session.marks.iter().any(|mark| mark.contains("resumed")));
        }
    }

    #[test]
    fn resumes_only_the_same_interrupted_experiment() {
        let (quick, setup) = (named("quick"), setup());
        let refusal = |document: Document| {
            runner(&quick, &setup).resume(document, &Machine::default()).err().expect("refused").to_string()
        };
        let complete = measured(&quick, &instant);
        assert!(refusal(complete.clone()).contains("complete"));
        let mut elsewhere = complete.clone();
        (elsewhere.session.interrupted, elsewhere.machine.id) = (true, "another".to_owned());
        assert!(refusal(elsewhere).contains("another machine"));
        let other = session_with(&named("full"), &setup, &instant, &mut StopAfter(3)).expect("some").document;
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
        let repeated: Vec<&Run> = made.document.runs.iter().filter(|run| !run.repeated.is_empty()).collect();
        assert_eq!((repeated.len(), repeated[0].pair, repeated[0].arm.as_str()), (1, 1, "epoll"));
        assert!(made.fault.is_none());
    }

    #[test]
    fn an_arm_goes_on_after_a_run_that_always_fails() {
        let made = session(&engines(3), &failing("epoll", 1..4)).expect("measured");
        assert_eq!(cells(&made.document, "echo").len(), 8);
        let marks = &made.document.session.marks;
        assert!(marks.iter().any(|mark| mark.starts_with("echo, arm epoll, round 2: ")), "{marks:?}");
        assert!(made.fault.is_none());
    }

    #[test]
    fn an_arm_that_always_fails_is_left_out_of_the_scenario() {
        let made = session(&engines(3), &failing("epoll", 0..99)).expect("measured");
        assert_eq!((cells(&made.document, "echo").len(), cells(&made.document, "pipeline").len()), (6, 9));
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
        SpawnError::Ended { status, said, port_in_use: false }.into()
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
        let runner = Runner::new(&engines, &setup, &Machine::default(), &no_tokio).expect("three arms");
        let left_out: Vec<bool> = runner.arms.iter().map(|arm| arm.left_out.is_some()).collect();
        assert_eq!(left_out, [false, false, true, false]);
        assert!(runner.marks.iter().any(|mark| mark.starts_with("arm tokio-uring was left out")));
        let error = Runner::new(&engines, &setup, &Machine::default(), &only_epoll_works).err().expect("one");
        assert!(error.to_string().contains("--arm NAME=COMMAND"), "{error}");
    }

    #[test]
    fn an_absent_server_is_named_and_the_others_are_measured() {
        let document = measured(&peers(), &instant);
        assert_eq!(document.arms[3].left_out.as_deref(), Some("npm is not installed"));
        assert_eq!(cells(&document, "echo").len(), 9);
        let marks = &document.session.marks;
        assert!(marks.contains(&"arm bun was left out: npm is not installed.".to_owned()), "{marks:?}");
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
        let words = "it ended; the last it wrote to standard error:\n    at /home/somebody/server.js";
        let error = || RunError::Resolve { host: "h".to_owned(), source: std::io::Error::other(words) };
        let died = |plan: &Plan, progress: &mut dyn Progress| match plan.arm.as_str() {
            "one" => Err(error()),
            _ => instant(plan, progress),
        };
        assert!(error().to_string().contains("somebody"));
        let stored = serde_json::to_string(&measured(&peers(), &died)).expect("JSON");
        assert!(stored.contains("it ended") && !stored.contains("/home/somebody/server"), "{stored}");
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
        assert!(marks.iter().any(|mark| mark.starts_with("echo, arm B, round 4: a worker")), "{marks:?}");
        assert!(made.fault.is_none(), "it was named, and enough pairs are there");
        assert_eq!(crate::compare::sides::pairs(&document, "echo").0.len(), 8);
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
        assert_eq!((attempts(&made.document).iter().sum::<usize>(), made.document.runs.len()), (1, 8));
        assert_eq!(Outcome::of(&made), Outcome::Fine);
        let invalid = |plan: &Plan, progress: &mut dyn Progress| {
            let mut run = instant(plan, progress)?;
            run.invalidate(InvalidKind::LateSends, "late");
            Ok(run)
        };
        let made = session(&named("smoke"), &invalid).expect("measured");
        assert_eq!((attempts(&made.document).iter().sum::<usize>(), Outcome::of(&made)), (0, Outcome::Fine));
        assert_eq!(Outcome::of(&session(&named("quick"), &invalid).expect("measured")), Outcome::Invalid);
    }

    #[test]
    fn arms_about_latency_take_no_other_scenario() {
        let engines = engines(1);
        let of_latency = |scenario: &&Scenario| scenario.is_about_latency();
        let names: Vec<&str> =
            engines.scenarios.iter().filter(of_latency).map(|scenario| scenario.name.as_str()).collect();
        assert_eq!(names, ["echo-1x1", "rate-1x1", "rate-64x1"]);
        assert_eq!(engines.arms[3].takes, Takes::Latency);
        assert_eq!(runner(&engines, &setup()).runs_of_a_round(), 11 * 3 + 3);
    }

    #[test]
    fn every_run_has_a_line_with_the_time_that_is_left() {
        let (duel, setup) = (duel(2), setup());
        let mut notes = String::new();
        let mut note = |line: &str| notes.extend([line, "\n"]);
        runner(&duel, &setup).measure(Machine::default(), &instant, &mut Silent, &mut note).expect("made");
        assert_eq!(notes.lines().count(), 4, "{notes}");
        assert!(
            notes.contains("[1/2] echo             B                       15000 msg/s    4.400 us/msg"),
            "{notes}"
        );
    }
}

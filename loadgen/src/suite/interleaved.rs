//! Several arms side by side: every round runs each scenario on each arm, one right after the other, so that what the
//! machine does meanwhile falls on all arms alike.

use std::time::Duration;

use engine::EngineKind;

use super::arms::{Arm, Served};
use super::check::complaints_of;
use super::peers::peers_text;
use super::places::Places;
use super::scenarios::Spec;
use super::session::{AROUND_A_RUN, Probe, own_server, plan_of};
use super::setup::{Ground, Setup};
use super::side_by_side::{promises_table, side_by_side_table};
use super::trial::{Trial, any_spec, trials};
use super::{PROMISES, SuiteError};
use crate::duel::about;
use crate::experiment::Session as Measured;
use crate::experiment::{Cell, Execute, Notes, Repeats};
use crate::host::machine::Machine;
use crate::result::table::count;
use crate::result::{self, Document, Run, Scenario, SessionKind, Start};
use crate::run::{Plan, Progress, Wait, execute};
use crate::target::subject::Subject;

/// What an interleaved session is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// The session's name, where there is no tag.
    pub suite: &'static str,
    /// The sides; the first is what the others are set against.
    pub arms: Vec<Arm>,
    /// What is run.
    pub scenarios: Vec<Spec>,
    /// How often.
    pub rounds: u32,
    /// Load that is not counted, per run.
    pub warmup: Duration,
    /// The measured window, per run.
    pub measure: Duration,
    /// What every session is given.
    pub setup: Setup,
}

/// The suite of our own engines, which are held to [`PROMISES`].
pub const ENGINES: &str = "engines";
/// The suite of other people's servers.
pub const PEERS: &str = "peers";

/// A trial of an echo, with the start of its server: for the announcement alone.
const A_TRIAL: Duration = Duration::from_millis(500);

/// Measures a session. See [`super::measure`].
///
/// # Errors
/// Fails with a [`SuiteError`]. Nothing was measured then, and nothing is left running.
pub fn measure(
    options: &Options,
    machine: Machine,
    progress: &mut dyn Progress,
    notes: Notes<'_>,
) -> Result<Measured, SuiteError> {
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
        if self.arms.iter().any(|arm| matches!(arm.server, Served::Own { .. })) {
            self.setup.check_server()?;
        }
        Ok(())
    }
}

/// What an interleaved session shows.
#[must_use]
pub fn text(document: &Document, width: usize) -> String {
    match document.session.suite.as_deref() {
        Some(PEERS) => peers_text(document, width),
        Some(ENGINES) => {
            let promises = promises_table(document, PROMISES, width).map(|table| format!("\n\n{table}"));
            side_by_side_table(document, width) + &promises.unwrap_or_default()
        }
        _ => side_by_side_table(document, width),
    }
}

/// The cells of a scenario, in the order of the arms.
struct Row {
    cells: Vec<Cell>,
}

/// What is made of the options on this machine.
pub(super) struct Session<'a> {
    options: &'a Options,
    engine: EngineKind,
    places: Option<Places>,
    arms: Vec<result::Arm>,
    /// What other people's servers must echo first.
    trials: Vec<Trial>,
    rows: Vec<Row>,
    marks: Vec<String>,
    /// What was measured so far.
    runs: Vec<Run>,
}

impl<'a> Session<'a> {
    /// Settles the engine, the processors, and which cells this machine can run.
    pub(super) fn prepare(
        options: &'a Options,
        machine: &Machine,
        probe: Probe<'_>,
    ) -> Result<Self, SuiteError> {
        let Ground { engine, places, mut marks } = Ground::settle(&options.setup, probe)?;
        let places = places.as_ref();
        let side = |arm: &Arm| result::Arm { left_out: obstacle(arm, probe), ..side(arm, options, places) };
        let arms: Vec<result::Arm> = options.arms.iter().map(side).collect();
        for arm in &arms {
            marks.extend(arm.left_out.as_ref().map(|why| left_out(&arm.name, why)));
        }
        let is_here = |(arm, side): (&'a Arm, &result::Arm)| side.left_out.is_none().then_some(arm);
        let present: Vec<&Arm> = options.arms.iter().zip(&arms).filter_map(is_here).collect();
        let descriptors = machine.limits.nofile_hard;
        let specs = options.scenarios.iter().filter(|spec| fits(spec, descriptors, &mut marks));
        let rows: Vec<Row> = specs.map(|spec| row(spec, &present, &arms, options, engine, places)).collect();
        let others = present.iter().filter(|arm| matches!(arm.server, Served::Command(_)));
        let trials =
            others.flat_map(|arm| trials(&plan(&any_spec(), arm, options, engine, places))).collect();
        let places = places.cloned();
        let runs = Vec::new();
        let session = Self { options, engine, places, arms, trials, rows, marks, runs };
        session.check_arms()?;
        Ok(session)
    }

    /// Whether there is anything to set against each other.
    fn check_arms(&self) -> Result<(), SuiteError> {
        let present = self.arms.iter().filter(|arm| arm.left_out.is_none()).count();
        if present < 2 {
            return Err(SuiteError::FewArms { left_out: self.marks.join(" ") });
        }
        Ok(())
    }

    /// Says what is about to happen and how long it takes.
    pub(super) fn announce(&self, notes: Notes<'_>) {
        let Options { suite, rounds, .. } = self.options;
        let runs = self.runs_of_a_round();
        notes(&format!(
            "suite {suite}: {} on {} arms, {} a round, {}, about {}",
            count(self.rows.len() as u64, "scenario"),
            self.arms.iter().filter(|arm| arm.left_out.is_none()).count(),
            count(runs as u64, "run"),
            count((*rounds).into(), "round"),
            about(self.duration()),
        ));
        notes(&match &self.places {
            Some(places) => format!("server on CPU {}, generator on CPU {}", places.server, places.client),
            None => "nothing pinned".to_owned(),
        });
        self.marks.iter().for_each(|mark| notes(&format!("NOTE: {mark}")));
    }

    fn runs_of_a_round(&self) -> usize {
        self.rows.iter().map(|row| row.cells.len()).sum()
    }

    /// Returns about how long the session takes.
    fn duration(&self) -> Duration {
        let Options { rounds, warmup, measure, .. } = self.options;
        let run = *warmup + *measure + AROUND_A_RUN;
        let trials = A_TRIAL * u32::try_from(self.trials.len()).unwrap_or(u32::MAX);
        trials + run * u32::try_from(self.runs_of_a_round()).unwrap_or(u32::MAX) * *rounds
    }

    /// Makes every run. What the user ends early is a session of what was measured until then.
    pub(super) fn measure(
        mut self,
        machine: Machine,
        execute: Execute<'_>,
        progress: &mut dyn Progress,
        notes: Notes<'_>,
    ) -> Result<Measured, SuiteError> {
        let start = Start::now();
        progress.expect(self.duration());
        let mut trials = Repeats::new(execute, self.trials.len(), name);
        let mut interrupted = self.make_trials(&mut trials, progress, notes);
        let cells: usize = self.rows.iter().map(|row| row.cells.len()).sum();
        let mut repeats = Repeats::new(execute, cells * self.options.rounds as usize, name);
        repeats.fault = trials.fault;
        if !interrupted {
            self.check_arms()?;
            interrupted = self.make_runs(&mut repeats, progress, notes);
        }
        if self.runs.is_empty() {
            return Err(repeats.fault.map_or(SuiteError::Interrupted, SuiteError::Fault));
        }
        self.marks.extend(repeats.marks);
        let session = result::Session {
            suite: Some(self.options.suite.to_owned()),
            tag: self.options.setup.tag.clone(),
            order: "rounds of arms, rotated".to_owned(),
            interrupted,
            marks: self.marks,
            ..result::Session::new(SessionKind::Suite, start)
        };
        let scenarios = self.rows.iter().filter_map(scenario).collect();
        // Among other people's servers ours is the one that is known.
        let present = || self.arms.iter().filter(|arm| arm.left_out.is_none());
        let known = present().rfind(|arm| arm.subject.commit.is_some()).or_else(|| present().next_back());
        let subject = known.map(|arm| arm.subject.clone()).unwrap_or_default();
        let (arms, runs) = (self.arms, self.runs);
        let document = Document {
            subject,
            arms,
            scenarios,
            runs,
            ..Document::new(session, self.engine.name(), machine)
        };
        Ok(Measured { document, fault: repeats.fault })
    }

    /// Leaves out what does not echo right. Whether the user ended the session meanwhile.
    fn make_trials(
        &mut self,
        repeats: &mut Repeats<'_>,
        progress: &mut dyn Progress,
        notes: Notes<'_>,
    ) -> bool {
        for Trial { what, plan } in std::mem::take(&mut self.trials) {
            let arm = plan.arm.clone();
            if !self.arms.iter().any(|side| side.name == arm && side.left_out.is_none()) {
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
                self.leave_out(&arm, &format!("it does not echo right ({what}): {why}"), notes);
            }
        }
        false
    }

    /// Removes an arm from the rest of the session. Its finished runs are kept.
    fn leave_out(&mut self, name: &str, why: &str, notes: Notes<'_>) {
        self.rows.iter_mut().for_each(|row| row.cells.retain(|cell| cell.plan.arm != name));
        if !self.runs.iter().any(|run| run.arm == name) {
            let arm = self.arms.iter_mut().find(|arm| arm.name == name);
            arm.into_iter().for_each(|arm| arm.left_out = Some(why.to_owned()));
        }
        let mark = left_out(name, why);
        notes(&format!("NOTE: {mark}"));
        self.marks.push(mark);
    }

    /// Whether the user ended them early.
    fn make_runs(
        &mut self,
        repeats: &mut Repeats<'_>,
        progress: &mut dyn Progress,
        notes: Notes<'_>,
    ) -> bool {
        for round in 0..self.options.rounds {
            for row in 0..self.rows.len() {
                // Whoever comes first in one round comes last in the next: no place in the order is anybody's own.
                let mut arms: Vec<String> =
                    self.rows[row].cells.iter().map(|cell| cell.plan.arm.clone()).collect();
                let first = round as usize % arms.len().max(1);
                arms.rotate_left(first);
                for arm in arms {
                    let mut cells = self.rows[row].cells.iter_mut();
                    let Some(cell) = cells.find(|cell| cell.plan.arm == arm && !cell.is_given_up()) else {
                        continue;
                    };
                    let made = repeats.make(cell, round, progress, notes);
                    let is_hopeless = cell.is_hopeless();
                    let mut interrupted = made.is_interrupted;
                    if let Some(run) = made.run.map(|run| run.compact(&cell.plan.load)) {
                        notes(&line(self.options.rounds, &run));
                        interrupted |= run.interrupted;
                        self.runs.push(run);
                    }
                    if interrupted {
                        return true;
                    }
                    if let Some(why) = made.failure.filter(|_| is_hopeless) {
                        self.leave_out(&arm, &why, notes);
                    }
                }
            }
        }
        false
    }
}

fn name(plan: &Plan) -> String {
    format!("{}, arm {}, round {}", plan.scenario, plan.arm, plan.pair + 1)
}

fn line(rounds: u32, run: &Run) -> String {
    let validity = if run.valid { "" } else { "  INVALID" };
    let cpu = run.server.as_ref().map_or(0.0, |server| server.cpu_ns_per_message / 1000.0);
    format!(
        "[{}/{rounds}] {:<13}{:<16}{:>12.0} msg/s{cpu:>8.2} us/msg{validity}",
        run.pair + 1,
        run.scenario,
        run.arm,
        run.rate_per_s
    )
}

fn left_out(name: &str, why: &str) -> String {
    format!("arm {name} was left out: {}.", why.trim_end_matches('.'))
}

/// Why an arm cannot take part.
fn obstacle(arm: &Arm, probe: Probe<'_>) -> Option<String> {
    match &arm.server {
        Served::Own { engine, .. } => probe(*engine).err().map(|error| error.to_string()),
        Served::Command(_) => None,
        Served::Absent(why) => Some(why.clone()),
    }
}

fn fits(spec: &Spec, descriptors: Option<u64>, marks: &mut Vec<String>) -> bool {
    let needed = spec.descriptors();
    let Some(limit) = descriptors.filter(|&limit| limit < needed) else { return true };
    let name = spec.full_name();
    marks.push(format!("{name} was left out: it needs {needed} descriptors, the hard limit is {limit}."));
    false
}

fn row(
    spec: &Spec,
    present: &[&Arm],
    sides: &[result::Arm],
    options: &Options,
    engine: EngineKind,
    places: Option<&Places>,
) -> Row {
    let cell = |arm: &&Arm| {
        let side = sides.iter().find(|side| side.name == arm.name);
        let build = side.and_then(|side| side.subject.build.as_deref());
        Cell::new(plan(spec, arm, options, engine, places), build)
    };
    let cells = present.iter().filter(|arm| arm.takes(spec)).map(cell).collect();
    Row { cells }
}

fn plan(spec: &Spec, arm: &Arm, options: &Options, engine: EngineKind, places: Option<&Places>) -> Plan {
    plan_of(spec, engine, words(arm, spec, options, places), places).with(|plan| {
        plan.arm = arm.name.clone();
        plan.load.warmup = options.warmup;
        plan.load.measure = options.measure;
        // The time that a sleeping generator needs to wake would be part of every latency, and hide what the arms differ in.
        let is_apart = places.is_some_and(|places| places.mark.is_none());
        plan.placement.wait = (spec.is_about_latency() && is_apart).then_some(Wait::Spin);
        plan.placement.congestion = options.setup.congestion.clone();
    })
}

fn words(arm: &Arm, spec: &Spec, options: &Options, places: Option<&Places>) -> Vec<String> {
    match &arm.server {
        Served::Command(words) => words.clone(),
        Served::Absent(_) => Vec::new(),
        Served::Own { engine, spin } => {
            let mut words = own_server(&options.setup, *engine, spec.load.transport, places);
            if *spin {
                words.extend(["--spin".to_owned(), "always".to_owned()]);
            }
            words
        }
    }
}

/// The same for all arms: what differs between them is in their subjects.
fn scenario(row: &Row) -> Option<Scenario> {
    let plan = &row.cells.first()?.plan;
    Some(plan.stored_scenario())
}

fn side(arm: &Arm, options: &Options, places: Option<&Places>) -> result::Arm {
    let (name, version) = (arm.name.clone(), arm.version.clone());
    let subject = subject(arm, options, places);
    result::Arm { name, subject, version, conformance: arm.conformance, left_out: None }
}

fn subject(arm: &Arm, options: &Options, places: Option<&Places>) -> Subject {
    let Some(spec) = options.scenarios.iter().find(|spec| arm.takes(spec)) else {
        return Subject::default();
    };
    let asked = Subject::of_command(&words(arm, spec, options, places));
    let Served::Own { engine, .. } = arm.server else { return asked };
    let (checkout, engine) = (options.setup.checkout.as_ref(), Some(engine.name().to_owned()));
    let commit = checkout.map(|checkout| checkout.commit.clone()).or(asked.commit);
    let dirty = checkout.map(|checkout| checkout.dirty).or(asked.dirty);
    Subject { engine, commit, dirty, ..asked }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use engine::EngineError;

    use super::*;
    use crate::result::example;
    use crate::run::{RunError, Silent};
    use crate::suite::Checkout;
    use crate::target::spawn::{LastWords, SpawnError};

    fn options() -> Options {
        Options {
            suite: "engines",
            arms: Arm::engines(),
            scenarios: Spec::side_by_side(),
            rounds: 3,
            warmup: Duration::from_millis(300),
            measure: Duration::from_millis(1200),
            setup: Setup {
                server: "/home/somebody/sparring-server".into(),
                results: "unused".into(),
                checkout: Some(Checkout { commit: "0123456789ab".into(), dirty: true }),
                tag: None,
                engine: None,
                congestion: None,
            },
        }
    }

    fn everything_works(_: EngineKind) -> Result<(), EngineError> {
        Ok(())
    }

    fn prepare(options: &Options) -> Session<'_> {
        Session::prepare(options, &Machine::default(), &everything_works).expect("prepared")
    }

    /// A run that takes no time and says which plan it was made for.
    fn instant(plan: &Plan, _: &mut dyn Progress) -> Result<Run, RunError> {
        Ok(Run { pair: plan.pair, arm: plan.arm.clone(), ..example::run(&plan.scenario, 1000) })
    }

    fn session(options: &Options, execute: Execute<'_>) -> Result<Measured, SuiteError> {
        prepare(options).measure(Machine::default(), execute, &mut Silent, &mut |_| {})
    }

    fn measured(options: &Options, execute: Execute<'_>) -> Result<Document, SuiteError> {
        session(options, execute).map(|session| session.document)
    }

    fn cells(document: &Document, scenario: &str) -> Vec<(u32, String)> {
        let of = document.runs.iter().filter(|run| run.scenario == scenario);
        of.map(|run| (run.pair, run.arm.clone())).collect()
    }

    #[test]
    fn every_plan_can_be_carried_out() {
        let options = options();
        for row in &prepare(&options).rows {
            assert!(row.cells.len() >= 3);
            for Cell { plan, .. } in &row.cells {
                plan.check().expect("can be carried out");
                let words = &plan.target.spawn.as_ref().expect("starts a server").command;
                assert_eq!(
                    words.windows(2).any(|pair| pair == ["--spin", "always"]),
                    plan.arm == "uring-spin"
                );
                assert_eq!(plan.placement.engine, EngineKind::Uring, "one generator for all arms");
            }
        }
    }

    #[test]
    fn every_round_has_every_arm_and_each_is_first_in_its_turn() {
        let document = measured(&options(), &instant).expect("measured");
        let order = |round, names: [&str; 3]| names.map(|name| (round, name.to_owned()));
        let expected = [
            order(0, ["uring", "epoll", "tokio-uring"]),
            order(1, ["epoll", "tokio-uring", "uring"]),
            order(2, ["tokio-uring", "uring", "epoll"]),
        ];
        assert_eq!(cells(&document, "echo"), expected.concat());
        assert_eq!(cells(&document, "echo-1x1").len(), 12);
        let names: Vec<&str> = document.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names, ["uring", "epoll", "tokio-uring", "uring-spin"]);
        let engines: Vec<_> = document.arms.iter().map(|arm| arm.subject.engine.as_deref()).collect();
        assert_eq!(engines, [Some("uring"), Some("epoll"), Some("tokio-uring"), Some("uring")]);
        assert!(document.arms.iter().all(|arm| arm.subject.commit.as_deref() == Some("0123456789ab")));
        assert!(document.scenarios.iter().all(|scenario| scenario.server.engine.is_none()));
        assert!(document.runs.iter().all(|run| run.series.is_empty()));
    }

    #[test]
    fn ten_rounds_of_everything_stay_below_two_mebibytes() {
        let options = Options { rounds: 1, ..options() };
        let busy = |plan: &Plan, _: &mut dyn Progress| {
            Ok(Run { pair: plan.pair, arm: plan.arm.clone(), ..example::long_run() })
        };
        let document =
            measured(&Options { scenarios: vec![Spec::side_by_side()[0].clone()], ..options.clone() }, &busy);
        let json = document.expect("measured").to_json().expect("JSON");
        let lines = json.lines().filter(|line| line.starts_with("    {\"scenario\":"));
        let made: usize = lines.map(str::len).sum();
        let runs: usize = prepare(&options).rows.iter().map(|row| row.cells.len()).sum();
        let bytes = made / 3 * runs * 10;
        assert!(bytes < 2 << 20, "{bytes} bytes for {runs} runs, ten times");
    }

    #[test]
    fn what_is_ended_early_is_kept_and_marked() {
        let options = options();
        let made = RefCell::new(0);
        let fourth = |plan: &Plan, progress: &mut dyn Progress| {
            *made.borrow_mut() += 1;
            if *made.borrow() > 4 { Err(RunError::Interrupted) } else { instant(plan, progress) }
        };
        let document = measured(&options, &fourth).expect("measured");
        assert_eq!((document.runs.len(), document.session.interrupted), (4, true));
        let at_once = |_: &Plan, _: &mut dyn Progress| Err(RunError::Interrupted);
        assert!(matches!(measured(&options, &at_once), Err(SuiteError::Interrupted)));
    }

    /// Returns a function whose runs of `epoll` in `echo` fail in these attempts, counted from 0.
    fn failing(attempts: std::ops::Range<u32>) -> impl Fn(&Plan, &mut dyn Progress) -> Result<Run, RunError> {
        let made = std::cell::Cell::new(0);
        move |plan, progress| {
            if plan.arm != "epoll" || plan.scenario != "echo" {
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
        let session = session(&options(), &failing(1..2)).expect("measured");
        assert_eq!(cells(&session.document, "echo").len(), 9);
        let repeated: Vec<&Run> =
            session.document.runs.iter().filter(|run| !run.repeated.is_empty()).collect();
        assert_eq!((repeated.len(), repeated[0].pair, repeated[0].arm.as_str()), (1, 1, "epoll"));
        assert!(session.fault.is_none());
    }

    #[test]
    fn a_run_that_fails_in_all_attempts_is_named_and_the_arm_goes_on() {
        let session = session(&options(), &failing(1..4)).expect("measured");
        assert_eq!(cells(&session.document, "echo").len(), 8);
        let marks = &session.document.session.marks;
        assert!(marks.iter().any(|mark| mark.starts_with("echo, arm epoll, round 2: ")), "{marks:?}");
        assert!(session.fault.is_none());
    }

    #[test]
    fn an_arm_that_always_fails_is_left_out_of_the_scenario_and_the_others_go_on() {
        let session = session(&options(), &failing(0..99)).expect("measured");
        let document = &session.document;
        assert_eq!(cells(document, "echo").len(), 6);
        assert_eq!(cells(document, "pipeline").len(), 9);
        let marks = &document.session.marks;
        assert!(marks.iter().any(|mark| mark.starts_with("echo, arm epoll, round 1: ")), "{marks:?}");
        let fault = session.fault.expect("an error").to_string();
        assert!(fault.starts_with("echo, arm epoll, round 1: "), "{fault}");
        let nothing = |_: &Plan, _: &mut dyn Progress| Err(RunError::Panicked);
        let error = measured(&options(), &nothing).expect_err("nothing to store").to_string();
        assert!(error.starts_with("echo, arm uring, round 1: "), "{error}");
    }

    #[test]
    fn an_arm_that_cannot_be_run_is_left_out_at_once() {
        let failed = RefCell::new(0);
        let failing = |plan: &Plan, progress: &mut dyn Progress| {
            if plan.arm != "epoll" {
                return instant(plan, progress);
            }
            *failed.borrow_mut() += 1;
            let (status, said) =
                (std::os::unix::process::ExitStatusExt::from_raw(127 << 8), LastWords::default());
            Err(SpawnError::Ended { status, said, port_in_use: false }.into())
        };
        let session = session(&options(), &failing).expect("measured");
        assert_eq!(*failed.borrow(), 1);
        assert!(session.document.arms[1].left_out.as_ref().is_some_and(|why| why.contains("127")));
        assert_eq!(cells(&session.document, "echo").len(), 6);
        assert!(session.fault.is_some());
    }

    #[test]
    fn engines_that_are_refused_are_left_out_until_nothing_is_left_to_compare() {
        let options = options();
        let no_tokio = |kind| match kind {
            EngineKind::TokioUring => Err(EngineError::Missing),
            _ => Ok(()),
        };
        let session = Session::prepare(&options, &Machine::default(), &no_tokio).expect("prepared");
        let left_out: Vec<bool> = session.arms.iter().map(|arm| arm.left_out.is_some()).collect();
        assert_eq!(left_out, [false, false, true, false]);
        assert!(session.marks.iter().any(|mark| mark.starts_with("arm tokio-uring was left out")));
        let only_epoll = |kind| if kind == EngineKind::Epoll { Ok(()) } else { Err(EngineError::Missing) };
        let error = Session::prepare(&options, &Machine::default(), &only_epoll).err().expect("one arm");
        assert!(error.to_string().contains("--arm NAME=COMMAND"), "{error}");
    }

    #[test]
    fn somebody_elses_server_is_a_command() {
        let arm: Arm = "theirs=node server.js {port}".parse().expect("an arm");
        let options = Options { arms: vec![Arm::own(EngineKind::Uring, false), arm], ..options() };
        let document = measured(&options, &instant).expect("measured");
        assert_eq!(cells(&document, "echo").len(), 6);
        let theirs = &document.arms[1].subject;
        assert_eq!(
            (theirs.command.as_deref(), theirs.commit.as_ref()),
            (Some("node server.js {port}"), None)
        );
        // Raw bytes are for our own server alone.
        assert_eq!(cells(&document, "tcp").len(), 3);
    }

    /// Ours and three others, the last of which cannot be had.
    fn peers() -> Options {
        let others = ["one=one {port}", "two=two {port}"].map(|arm| arm.parse::<Arm>().expect("an arm"));
        let absent = Arm::absent("bun=npm is not installed").expect("an arm");
        let ours = Arm::own(EngineKind::Uring, false);
        let arms = [ours].into_iter().chain(others).chain([absent]).collect();
        Options { suite: PEERS, arms, scenarios: Spec::peers(), ..options() }
    }

    #[test]
    fn what_cannot_be_had_is_named_and_the_others_are_measured() {
        let document = measured(&peers(), &instant).expect("measured");
        assert_eq!(document.arms[3].left_out.as_deref(), Some("npm is not installed"));
        assert_eq!(cells(&document, "echo").len(), 9);
        let marks = &document.session.marks;
        assert!(marks.contains(&"arm bun was left out: npm is not installed.".to_owned()), "{marks:?}");
    }

    #[test]
    fn other_peoples_servers_must_echo_right_before_they_are_measured() {
        let tried = RefCell::new(Vec::new());
        let one_corrupts = |plan: &Plan, progress: &mut dyn Progress| {
            let mut run = instant(plan, progress)?;
            if plan.load.messages.is_some() {
                plan.check().expect("can be carried out");
                tried.borrow_mut().push((
                    plan.arm.clone(),
                    plan.load.fragments,
                    plan.load.message_bytes.mean() as usize >> 20,
                ));
                run.integrity.corrupted = u64::from(plan.arm == "one" && plan.load.fragments == 3);
            }
            Ok(run)
        };
        let document = measured(&peers(), &one_corrupts).expect("measured");
        let tried = tried.into_inner();
        let of = |name: &str| tried.iter().filter(|(arm, ..)| arm == name).count();
        // Our own server has separate tests. A server that has failed in three attempts is not tried again.
        assert_eq!((of("uring"), of("one"), of("two")), (0, 4, 3));
        assert!(tried.contains(&("two".to_owned(), 1, 16)), "{tried:?}");
        let why = document.arms[1].left_out.as_deref().expect("left out");
        assert!(why.contains("fragments") && why.contains("corrupted: 1"), "{why}");
        let arms = |run: &Run| run.arm.clone();
        assert!(document.runs.iter().map(arms).all(|arm| arm == "uring" || arm == "two"));
        let all_fail = |plan: &Plan, progress: &mut dyn Progress| match plan.load.messages {
            Some(_) => Err(RunError::Panicked),
            None => instant(plan, progress),
        };
        let error = measured(&peers(), &all_fail).expect_err("only ours is left").to_string();
        assert!(error.contains("arm two was left out"), "{error}");
    }

    #[test]
    fn what_a_server_wrote_before_it_died_is_not_stored() {
        let words = "it ended; the last it wrote to standard error:\n    at /home/somebody/server.js";
        let error = || RunError::Resolve { host: "h".to_owned(), source: std::io::Error::other(words) };
        let died = |plan: &Plan, progress: &mut dyn Progress| match plan.arm.as_str() {
            "one" => Err(error()),
            _ => instant(plan, progress),
        };
        assert!(error().to_string().contains("somebody"));
        let document = measured(&peers(), &died).expect("measured");
        let stored = serde_json::to_string(&document).expect("JSON");
        assert!(stored.contains("it ended") && !stored.contains("/home/somebody/server"), "{stored}");
    }
}

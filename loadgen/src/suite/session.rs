//! A session of a suite: its scenarios settled for this machine, then run round by round.

use std::time::Duration;

use engine::{EngineError, EngineKind};

use super::places::Places;
use super::scenarios::{Spec, Suite};
use super::setup::{Ground, Setup};
use super::{Options, SuiteError};
use crate::duel::about;
use crate::experiment::Session as Measured;
use crate::experiment::{Cell, Execute, Fault, Notes, Repeats};
use crate::host::machine::Machine;
use crate::load::Transport;
use crate::report::format::count;
use crate::result::{Document, Run, SessionKind, Start};
use crate::run::{Plan, Progress};
use crate::target::spawn::Spawn;
use crate::target::subject::Subject;
use crate::target::url::{PORT_PLACEHOLDER, Port, Url};

/// Starting the server, connecting, settling and ending it, per run: for the announcement alone.
pub(super) const AROUND_A_RUN: Duration = Duration::from_millis(400);

/// What the suite is made of on this machine.
pub(super) struct Session {
    suite: Suite,
    tag: Option<String>,
    subject: Subject,
    engine: EngineKind,
    places: Option<Places>,
    /// In the order of a round, `pair` not yet set.
    plans: Vec<Plan>,
    marks: Vec<String>,
}

/// Whether an engine works here.
pub(super) type Probe<'a> = &'a dyn Fn(EngineKind) -> Result<(), EngineError>;

impl Session {
    /// Settles the engine, the processors and which scenarios this machine can run.
    pub(super) fn prepare(
        options: &Options,
        machine: &Machine,
        probe: Probe<'_>,
    ) -> Result<Self, SuiteError> {
        let Ground { engine, places, mut marks } = Ground::settle(&options.setup, probe)?;
        let descriptors = machine.limits.nofile_hard;
        let specs = runnable(options.suite.specs(), engine, descriptors, probe, &mut marks);
        let plans: Vec<Plan> =
            specs.iter().map(|spec| plan(spec, options, engine, places.as_ref())).collect();
        let subject = subject(options, engine, &plans);
        if subject.build.as_deref() == Some("debug") {
            marks.push("the server is a debug build: its figures mean nothing.".to_owned());
        }
        Ok(Self {
            suite: options.suite,
            tag: options.setup.tag.clone(),
            subject,
            engine,
            places,
            plans,
            marks,
        })
    }

    /// Says what is about to happen and how long it takes.
    pub(super) fn announce(&self, notes: Notes<'_>) {
        let (suite, rounds) = (self.suite.name(), self.suite.rounds());
        let runs = self.plans.len() * rounds as usize;
        let places = match &self.places {
            Some(places) => format!("server on CPU {}, generator on CPU {}", places.server, places.client),
            None => "nothing pinned".to_owned(),
        };
        notes(&format!(
            "suite {suite}: {}, {}, about {}",
            count(self.plans.len() as u64, "scenario"),
            count(runs as u64, "run"),
            about(self.duration())
        ));
        notes(&format!("engine {}, {places}", self.engine.name()));
        self.marks.iter().for_each(|mark| notes(&format!("NOTE: {mark}")));
    }

    /// Returns about how long the session takes.
    fn duration(&self) -> Duration {
        let run = self.suite.warmup() + self.suite.measure() + AROUND_A_RUN;
        run * u32::try_from(self.plans.len()).unwrap_or(u32::MAX) * self.suite.rounds()
    }

    /// Makes every run, round by round: a slow stretch of the machine then falls on all scenarios and not on one.
    pub(super) fn measure(
        mut self,
        machine: Machine,
        execute: Execute<'_>,
        progress: &mut dyn Progress,
        notes: Notes<'_>,
    ) -> Result<Measured, SuiteError> {
        let start = Start::now();
        progress.expect(self.duration());
        let Made { runs, interrupted, marks, fault } = self.make_runs(execute, progress, notes);
        if runs.is_empty() {
            return Err(fault.map_or(SuiteError::Interrupted, SuiteError::Fault));
        }
        self.marks.extend(marks);
        let session = crate::result::Session {
            suite: Some(self.suite.name().to_owned()),
            tag: self.tag,
            order: "rounds".to_owned(),
            interrupted,
            marks: self.marks,
            ..crate::result::Session::new(SessionKind::Suite, start)
        };
        let scenarios = self.plans.iter().map(Plan::stored_scenario).collect();
        let subject = self.subject;
        let document =
            Document { subject, scenarios, runs, ..Document::new(session, self.engine.name(), machine) };
        Ok(Measured { document, fault })
    }

    fn make_runs(&self, execute: Execute<'_>, progress: &mut dyn Progress, notes: Notes<'_>) -> Made {
        let total = self.plans.len() * self.suite.rounds() as usize;
        let mut repeats = Repeats::new(execute, total, |plan| {
            format!("scenario {}, round {}", plan.scenario, plan.pair + 1)
        });
        // A very short load on a busy machine may well be invalid, and smoke only checks that everything
        // works.
        let cell = if self.suite == Suite::Smoke { Cell::for_correctness } else { Cell::new };
        let build = self.subject.build.as_deref();
        let mut cells: Vec<Cell> = self.plans.iter().map(|plan| cell(plan.clone(), build)).collect();
        let (mut runs, mut number, mut interrupted) = (Vec::with_capacity(total), 0, false);
        'session: for round in 0..self.suite.rounds() {
            for cell in &mut cells {
                number += 1;
                if cell.is_given_up() {
                    continue;
                }
                let made = repeats.make(cell, round, progress, notes);
                if let Some(run) = made.run {
                    notes(&line(number, total, &run));
                    interrupted |= run.interrupted;
                    runs.push(run);
                }
                interrupted |= made.is_interrupted;
                // All scenarios have the same server, so one that cannot be started fails in all of them.
                if interrupted || cell.is_hopeless() {
                    break 'session;
                }
            }
        }
        Made { runs, interrupted, marks: repeats.marks, fault: repeats.fault }
    }
}

/// Runs of a session, with its fault and its notes.
struct Made {
    runs: Vec<Run>,
    interrupted: bool,
    marks: Vec<String>,
    fault: Option<Fault>,
}

fn line(number: usize, total: usize, run: &Run) -> String {
    let validity = if run.valid { "" } else { "  INVALID" };
    format!("[{number}/{total}] {:<17}{:>12.0} msg/s{validity}", run.scenario, run.rate_per_s)
}

/// The scenarios that this machine can run; the others are named in `marks`.
fn runnable(
    specs: Vec<Spec>,
    default: EngineKind,
    descriptors: Option<u64>,
    probe: Probe<'_>,
    marks: &mut Vec<String>,
) -> Vec<Spec> {
    let mut runnable = Vec::with_capacity(specs.len());
    for spec in specs {
        let name = spec.full_name();
        let needed = spec.descriptors();
        if spec.engine == Some(default) {
            // It would be the scenario without an engine's name over again.
            continue;
        }
        if let Some(Err(error)) = spec.engine.map(probe) {
            // Where the session fell back, its own mark has already said what is wrong with io_uring here.
            let why =
                if default == EngineKind::Epoll { "it needs io_uring".to_owned() } else { error.to_string() };
            marks.push(format!("{name} was left out: {why}."));
        } else if descriptors.is_some_and(|limit| limit < needed) {
            let limit = descriptors.unwrap_or_default();
            marks.push(format!(
                "{name} was left out: it needs {needed} descriptors, the hard limit is {limit}."
            ));
        } else {
            runnable.push(spec);
        }
    }
    runnable
}

fn plan(spec: &Spec, options: &Options, default: EngineKind, places: Option<&Places>) -> Plan {
    let engine = spec.engine.unwrap_or(default);
    let setup = &options.setup;
    let command = own_server(setup, engine, spec.load.transport, places);
    plan_of(spec, default, command, places).with(|plan| {
        plan.placement.congestion = setup.congestion.clone();
        plan.target.known.congestion = setup.congestion.as_ref().map(ToString::to_string);
        plan.target.known.engine = Some(engine.name().to_owned());
        plan.target.known.threads = Some(1);
        plan.load.warmup = options.suite.warmup();
        plan.load.measure = options.suite.measure();
    })
}

/// What every run of `spec` has in common, whoever serves it by `command`.
pub(super) fn plan_of(
    spec: &Spec,
    generator: EngineKind,
    command: Vec<String>,
    places: Option<&Places>,
) -> Plan {
    let transport = spec.load.transport;
    let target = if transport.is_websocket() { "/" } else { "" };
    let url = Url {
        transport,
        host: "127.0.0.1".to_owned(),
        zone: None,
        port: Port::Chosen,
        target: target.to_owned(),
    };
    Plan::new(url, generator).with(|plan| {
        plan.scenario = spec.full_name();
        plan.load = spec.load.clone();
        plan.placement.cpus = places.map(|places| places.client).into_iter().collect();
        plan.target.spawn =
            Some(Spawn { command, cpus: places.map(|places| places.server).into_iter().collect() });
    })
}

/// Our own server's command line: everything that matters named, nothing left to a default that may change.
pub(super) fn own_server(
    setup: &Setup,
    engine: EngineKind,
    transport: Transport,
    places: Option<&Places>,
) -> Vec<String> {
    let mut words = vec![
        setup.server.to_string_lossy().into_owned(),
        "--listen".to_owned(),
        format!("127.0.0.1:{PORT_PLACEHOLDER}"),
        "--threads".to_owned(),
        "1".to_owned(),
        "--engine".to_owned(),
        engine.name().to_owned(),
        "--protocol".to_owned(),
        if transport.is_websocket() { "ws" } else { "tcp" }.to_owned(),
        "--stats".to_owned(),
    ];
    // Nothing but the load is to happen on the connections.
    words.extend(["--ping-interval", "0", "--idle-timeout", "0"].map(str::to_owned));
    if let Some(congestion) = &setup.congestion {
        words.extend(["--congestion".to_owned(), congestion.to_string()]);
    }
    if let Some(places) = places {
        words.extend(["--cpus".to_owned(), places.server.to_string()]);
    }
    words
}

/// The server's identity: what the caller knows of the checkout wins over what the server says.
fn subject(options: &Options, engine: EngineKind, plans: &[Plan]) -> Subject {
    let first = plans.first().and_then(|plan| plan.target.spawn.as_ref());
    let asked = Subject::of_command(first.map_or(&[], |spawn| &spawn.command));
    let engine = Some(engine.name().to_owned());
    match &options.setup.checkout {
        Some(checkout) => {
            Subject { commit: Some(checkout.commit.clone()), dirty: Some(checkout.dirty), engine, ..asked }
        }
        None => Subject { engine, ..asked },
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::PathBuf;

    use super::*;
    use crate::result::{InvalidKind, Scenario, example};
    use crate::run::{RunError, Silent};
    use crate::suite::Checkout;
    use crate::target::spawn::{LastWords, SpawnError};

    fn options(suite: Suite) -> Options {
        let setup = Setup {
            server: PathBuf::from("/home/somebody/sparring-server"),
            results: PathBuf::from("unused"),
            checkout: Some(Checkout { commit: "0123456789ab".into(), dirty: true }),
            tag: Some("t".into()),
            engine: None,
            congestion: None,
        };
        Options { suite, setup }
    }

    fn everything_works(_: EngineKind) -> Result<(), EngineError> {
        Ok(())
    }

    fn only_epoll_works(kind: EngineKind) -> Result<(), EngineError> {
        if kind == EngineKind::Epoll { Ok(()) } else { Err(EngineError::Missing) }
    }

    fn roomy() -> Machine {
        Machine::default()
    }

    fn names(session: &Session) -> Vec<&str> {
        session.plans.iter().map(|plan| plan.scenario.as_str()).collect()
    }

    /// A run that takes no time and says which plan it was made for.
    fn instant(plan: &Plan, _: &mut dyn Progress) -> Result<Run, RunError> {
        let mut run = example::run(&plan.scenario, 1000);
        run.pair = plan.pair;
        Ok(run)
    }

    fn announced(session: &Session) -> String {
        let mut notes = String::new();
        session.announce(&mut |line| notes.extend([line, "\n"]));
        notes
    }

    fn measured(session: Session, execute: Execute<'_>, progress: &mut dyn Progress) -> Document {
        session.measure(roomy(), execute, progress, &mut |_| {}).expect("measured").document
    }

    #[test]
    fn every_plan_can_be_carried_out_and_names_its_engine() {
        for suite in [Suite::Quick, Suite::Full, Suite::Smoke] {
            let session = Session::prepare(&options(suite), &roomy(), &everything_works).expect("prepared");
            assert_eq!(session.plans.len(), suite.specs().len());
            for plan in &session.plans {
                plan.check().expect("can be carried out");
                let command = &plan.target.spawn.as_ref().expect("starts a server").command;
                let engine =
                    command.iter().position(|word| word == "--engine").map(|at| command[at + 1].as_str());
                assert_eq!(engine, plan.target.known.engine.as_deref());
                assert_ne!(engine, Some("auto"));
                assert!(command.contains(&"127.0.0.1:{port}".to_owned()));
                let raw = command.windows(2).any(|pair| pair == ["--protocol", "tcp"]);
                assert_eq!(raw, plan.scenario.starts_with("tcp"), "{command:?}");
            }
        }
    }

    #[test]
    fn the_congestion_control_is_set_on_both_sides_and_part_of_the_scenario() {
        let reno = "reno".parse().expect("every kernel has it");
        let mut options = options(Suite::Quick);
        options.setup.congestion = Some(reno);
        let with = Session::prepare(&options, &roomy(), &everything_works).expect("prepared");
        options.setup.congestion = None;
        let without = Session::prepare(&options, &roomy(), &everything_works);
        for (with, without) in with.plans.iter().zip(&without.expect("prepared").plans) {
            let words = &with.target.spawn.as_ref().expect("starts a server").command;
            assert!(words.windows(2).any(|pair| pair == ["--congestion", "reno"]), "{words:?}");
            let (with, without) = (with.stored_scenario(), without.stored_scenario());
            let of_both = |scenario: &Scenario| {
                [&scenario.generator, &scenario.server].map(|setting| setting.congestion.clone())
            };
            assert_eq!(of_both(&with), [Some("reno".to_owned()), Some("reno".to_owned())]);
            assert_eq!(of_both(&without), [None, None]);
            assert_ne!(with.hash, without.hash);
        }
    }

    #[test]
    fn one_generator_drives_all_engines() {
        let session =
            Session::prepare(&options(Suite::Quick), &roomy(), &everything_works).expect("prepared");
        assert!(session.plans.iter().all(|plan| plan.placement.engine == EngineKind::Uring));
        assert!(names(&session).contains(&"echo@epoll") && names(&session).contains(&"echo@tokio-uring"));
    }

    #[test]
    fn without_io_uring_the_session_runs_on_epoll_and_says_so() {
        let session =
            Session::prepare(&options(Suite::Quick), &roomy(), &only_epoll_works).expect("prepared");
        assert_eq!(names(&session), ["echo", "pipeline", "text", "large", "tcp", "tcp-pipeline"]);
        assert!(session.plans.iter().all(|plan| plan.target.known.engine.as_deref() == Some("epoll")));
        assert!(
            session.marks.iter().any(|mark| mark.starts_with("io_uring is not available")),
            "{:?}",
            session.marks
        );
        assert!(session.marks.iter().any(|mark| mark.starts_with("echo@tokio-uring")), "{:?}", session.marks);
        assert!(announced(&session).contains("NOTE: io_uring is not available"));
    }

    #[test]
    fn an_engine_asked_for_by_name_never_falls_back() {
        let mut options = options(Suite::Quick);
        options.setup.engine = Some(EngineKind::Uring);
        assert!(matches!(
            Session::prepare(&options, &roomy(), &only_epoll_works),
            Err(SuiteError::Engine(EngineError::Missing))
        ));
    }

    #[test]
    fn a_scenario_beyond_the_descriptors_is_left_out_and_named() {
        let mut machine = roomy();
        machine.limits.nofile_hard = Some(4096);
        let session = Session::prepare(&options(Suite::Full), &machine, &everything_works).expect("prepared");
        assert!(!names(&session).contains(&"text-4000x1"));
        assert!(session.marks.iter().any(|mark| mark.contains("text-4000x1") && mark.contains("4256")));
    }

    #[test]
    fn full_announces_its_duration() {
        let session = Session::prepare(&options(Suite::Full), &roomy(), &everything_works).expect("prepared");
        let notes = announced(&session);
        assert!(notes.starts_with("suite full: 16 scenarios, 48 runs, about 5 min"), "{notes}");
    }

    #[test]
    fn rounds_are_interleaved_and_the_document_is_whole() {
        let session = Session::prepare(&options(Suite::Full), &roomy(), &everything_works).expect("prepared");
        let names: Vec<String> = names(&session).into_iter().map(str::to_owned).collect();
        let document = measured(session, &instant, &mut Silent);
        assert_eq!(document.runs.len(), 48);
        for (index, run) in document.runs.iter().enumerate() {
            assert_eq!((run.scenario.as_str(), run.pair as usize), (names[index % 16].as_str(), index / 16));
        }
        assert_eq!(document.session.order, "rounds");
        assert_eq!(document.subject.commit.as_deref(), Some("0123456789ab"));
        assert_eq!(document.subject.dirty, Some(true));
        let command = document.subject.command.expect("known");
        assert!(command.starts_with("sparring-server --listen"), "{command}");
        let json = serde_json::to_string(&document.scenarios).expect("JSON");
        assert!(!json.contains("somebody"), "{json}");
    }

    /// Says "stop" after a number of questions.
    struct StopAfter(u32);

    impl Progress for StopAfter {
        fn tick(&mut self, _: &crate::run::Snapshot) {}

        fn interrupted(&mut self) -> bool {
            self.0 = self.0.saturating_sub(1);
            self.0 == 0
        }
    }

    #[test]
    fn what_was_measured_before_ctrl_c_is_kept_and_marked() {
        let session =
            Session::prepare(&options(Suite::Quick), &roomy(), &everything_works).expect("prepared");
        let document = measured(session, &instant, &mut StopAfter(3));
        assert_eq!(document.runs.len(), 2);
        assert!(document.session.interrupted);
    }

    #[test]
    fn an_interrupted_run_is_the_last_and_is_kept() {
        let session =
            Session::prepare(&options(Suite::Quick), &roomy(), &everything_works).expect("prepared");
        let cut = |plan: &Plan, progress: &mut dyn Progress| {
            instant(plan, progress).map(|run| Run { interrupted: plan.scenario == "pipeline", ..run })
        };
        let document = measured(session, &cut, &mut Silent);
        assert_eq!(document.runs.len(), 2);
        assert!(document.session.interrupted);
    }

    #[test]
    fn ctrl_c_before_the_first_run_leaves_nothing() {
        let session =
            Session::prepare(&options(Suite::Quick), &roomy(), &everything_works).expect("prepared");
        let result = session.measure(roomy(), &instant, &mut StopAfter(1), &mut |_| {});
        assert!(matches!(result, Err(SuiteError::Interrupted)));
    }

    /// Measures a quick session in which `text` has these outcomes, one for each attempt, and the last one
    /// for all later attempts.
    fn with_text(suite: Suite, outcomes: &[Outcome]) -> Measured {
        let session = Session::prepare(&options(suite), &roomy(), &everything_works).expect("prepared");
        let made = RefCell::new(0);
        let execute = |plan: &Plan, progress: &mut dyn Progress| {
            let mut run = instant(plan, progress)?;
            if plan.scenario != "text" {
                return Ok(run);
            }
            let outcome = outcomes[(*made.borrow()).min(outcomes.len() - 1)];
            *made.borrow_mut() += 1;
            match outcome {
                Outcome::Fine => {}
                Outcome::Fails => return Err(RunError::Panicked),
                Outcome::Invalid(kind) => run.invalidate(kind, "why"),
            }
            Ok(run)
        };
        session.measure(roomy(), &execute, &mut Silent, &mut |_| {}).expect("measured")
    }

    #[derive(Clone, Copy)]
    enum Outcome {
        Fine,
        Fails,
        Invalid(InvalidKind),
    }
    use Outcome::{Fails, Fine, Invalid};

    fn text_runs(measured: &Measured) -> Vec<&Run> {
        measured.document.runs.iter().filter(|run| run.scenario == "text").collect()
    }

    #[test]
    fn repeats_a_run_that_failed_or_is_invalid_once() {
        for first in [
            Fails,
            Invalid(InvalidKind::LateSends),
            Invalid(InvalidKind::Standstill),
            Invalid(InvalidKind::RateNotKept),
            Invalid(InvalidKind::LostConnections),
        ] {
            let measured = with_text(Suite::Quick, &[first, Fine]);
            let runs = text_runs(&measured);
            assert_eq!((runs.len(), runs[0].valid, runs[0].repeated.len()), (1, true, 1));
            assert_eq!(measured.document.runs.len(), 8);
            assert!(measured.fault.is_none());
        }
    }

    #[test]
    fn keeps_the_only_attempt_that_has_a_result() {
        let measured = with_text(Suite::Quick, &[Invalid(InvalidKind::LateSends), Fails]);
        let runs = text_runs(&measured);
        assert_eq!((runs.len(), runs[0].valid, runs[0].repeated.len()), (1, false, 2));
    }

    #[test]
    fn a_run_that_stays_invalid_is_kept_and_repeated_in_the_first_round_alone() {
        let measured = with_text(Suite::Full, &[Invalid(InvalidKind::BusyGenerator)]);
        let attempts: Vec<usize> = text_runs(&measured).iter().map(|run| run.repeated.len()).collect();
        assert_eq!(attempts, [2, 0, 0]);
        assert_eq!(measured.document.runs.len(), 48);
    }

    #[test]
    fn a_scenario_that_always_fails_is_named_and_the_others_are_measured() {
        let measured = with_text(Suite::Full, &[Fails]);
        assert_eq!((text_runs(&measured).len(), measured.document.runs.len()), (0, 45));
        let marks = &measured.document.session.marks;
        assert_eq!(marks.iter().filter(|mark| mark.starts_with("scenario text, round 1: ")).count(), 1);
        assert!(marks.iter().any(|mark| mark.ends_with("; it is not run again.")), "{marks:?}");
        let fault = measured.fault.expect("an error").to_string();
        assert!(fault.starts_with("scenario text, round 1: a worker thread"), "{fault}");
    }

    #[test]
    fn smoke_repeats_failures_alone() {
        let measured = with_text(Suite::Smoke, &[Fails, Fine]);
        assert_eq!((text_runs(&measured)[0].repeated.len(), measured.document.runs.len()), (1, 8));
        let measured = with_text(Suite::Smoke, &[Invalid(InvalidKind::LateSends)]);
        assert_eq!((text_runs(&measured)[0].repeated.len(), text_runs(&measured)[0].valid), (0, false));
    }

    #[test]
    fn a_server_that_cannot_be_run_ends_the_session_at_once() {
        let session = Session::prepare(&options(Suite::Full), &roomy(), &everything_works).expect("prepared");
        let made = RefCell::new(0);
        let failing = |_: &Plan, _: &mut dyn Progress| {
            *made.borrow_mut() += 1;
            let (status, said) =
                (std::os::unix::process::ExitStatusExt::from_raw(127 << 8), LastWords::default());
            Err(SpawnError::Ended { status, said, port_in_use: false }.into())
        };
        let error = session.measure(roomy(), &failing, &mut Silent, &mut |_| {}).expect_err("failed");
        assert!(error.to_string().starts_with("scenario echo, round 1: the server ended"), "{error}");
        assert_eq!(*made.borrow(), 1);
    }

    #[test]
    fn a_debug_build_of_the_server_makes_every_run_invalid() {
        let mut session =
            Session::prepare(&options(Suite::Smoke), &roomy(), &everything_works).expect("prepared");
        session.subject.build = Some("debug".into());
        let document = measured(session, &instant, &mut Silent);
        assert!(document.runs.iter().all(|run| !run.valid && run.invalid_reasons.len() == 1));
    }
}

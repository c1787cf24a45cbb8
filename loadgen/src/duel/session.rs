//! The runs of a duel, in their order.

use std::time::{Duration, Instant};

use super::{DuelError, Fixed, Options, Side, about, calibration};
use crate::compare::sides::SIDES;
use crate::experiment::{Cell, Execute, Notes, Repeats, Session};
use crate::host::machine::Machine;
use crate::result::{Arm, Document, Run, Start};
use crate::run::{Plan, Progress};
use crate::target::subject::Subject;

/// Starting the server, connecting, draining and ending it, per run: for the announcement alone.
const AROUND_A_RUN: Duration = Duration::from_millis(300);

/// Pairs of every four that may be replaced where they have a run that failed or is not valid.
const REPLACED: u32 = 2;

/// How long a run of this plan takes.
pub(super) fn run_duration(plan: &Plan) -> Duration {
    plan.load.settle + plan.load.warmup + plan.load.measure + AROUND_A_RUN
}

/// Measures all pairs and returns the session, without its verdict.
///
/// If the user ends it early, it has the pairs that were complete by then, and is marked. If a server fails
/// in every attempt, it ends early and has all finished runs.
///
/// # Errors
/// See [`DuelError`].
pub fn measure(
    options: &Options,
    machine: Machine,
    execute: Execute<'_>,
    progress: &mut dyn Progress,
    notes: Notes<'_>,
) -> Result<Session, DuelError> {
    let start = Start::now();
    let subjects = options.servers.each_ref().map(|server| Subject::of_command(&server.command));
    progress.expect(options.duration());
    let repeats = Repeats::new(execute, options.runs() as usize, name);
    let mut pairs = Pairs { options, progress, notes, subjects, repeats, runs: Vec::new() };
    let loads = pairs.loads()?;
    let interrupted = pairs.make(&loads);
    let Pairs { subjects, runs, repeats, .. } = pairs;
    if runs.is_empty() {
        return Err(repeats.fault.map_or(DuelError::Interrupted, DuelError::Fault));
    }
    let mut arms = Vec::new();
    for (side, subject) in options.sides.iter().zip(subjects) {
        let Side { name, version, commit } = side.clone();
        let engine =
            runs.iter().find(|run| run.arm == name).and_then(|run| run.server.as_ref()?.engine.clone());
        let subject = Subject { engine, commit: commit.or(subject.commit), ..subject };
        arms.push(Arm { name, subject, version, ..Arm::default() });
    }
    let session = crate::result::Session {
        tag: options.tag.clone().or_else(|| named(&options.sides)),
        order: "abba".to_owned(),
        interrupted,
        marks: options.marks.iter().cloned().chain(repeats.marks).collect(),
        ..crate::result::Session::new(options.kind, start)
    };
    let document = Document {
        subject: arms[1].subject.clone(),
        arms,
        scenarios: loads.iter().map(Plan::stored_scenario).collect(),
        runs,
        ..Document::new(session, options.load.placement.engine.name(), machine)
    };
    Ok(Session { document, fault: repeats.fault })
}

/// Returns a tag of the names of both sides, where they have others than the default.
fn named([a, b]: &[Side; 2]) -> Option<String> {
    let is_default = [&a.name, &b.name] == SIDES;
    (!is_default).then(|| format!("{}-against-{}", b.name, a.name))
}

/// Returns true unless a replacement would be no better: every run of a debug build is invalid.
fn is_worth_keeping(run: &Run) -> bool {
    run.valid || run.invalid().any(|(kind, _)| kind.is_of_the_build())
}

fn name(plan: &Plan) -> String {
    format!("{}, side {}, pair {}", plan.scenario, plan.arm, plan.pair + 1)
}

/// A session that is under way.
struct Pairs<'a> {
    options: &'a Options,
    progress: &'a mut dyn Progress,
    notes: Notes<'a>,
    subjects: [Subject; 2],
    repeats: Repeats<'a>,
    runs: Vec<Run>,
}

impl Pairs<'_> {
    /// The loads of a pair: one that saturates, and one at a fixed rate where that is wanted.
    fn loads(&mut self) -> Result<Vec<Plan>, DuelError> {
        let saturating = self.options.load.clone().with(|plan| plan.load.rate_per_s = None);
        let rate = match self.options.fixed {
            Fixed::Off => return Ok(vec![saturating]),
            Fixed::Rate(rate) => rate,
            Fixed::Calibrated => self.calibrate(&saturating)?,
        };
        let scenario = format!("{}-fixed", saturating.scenario);
        let fixed = saturating.clone().with(|plan| {
            plan.scenario = scenario;
            plan.load.rate_per_s = Some(rate);
        });
        Ok(vec![saturating, fixed])
    }

    fn calibrate(&mut self, load: &Plan) -> Result<f64, DuelError> {
        let mut cell = self.cell(&calibration::plan(load), 0);
        let made = self.repeats.make(&mut cell, 0, self.progress, self.notes);
        if made.is_interrupted {
            return Err(DuelError::Interrupted);
        }
        let (Some(run), false) = (made.run, cell.is_given_up()) else {
            return Err(self.repeats.fault.take().map_or(DuelError::NoCapacity, DuelError::Fault));
        };
        let rate = calibration::rate(run.rate_per_s).ok_or(DuelError::NoCapacity)?;
        (self.notes)(&format!(
            "side {} did {:.0} msg/s: latencies are measured at {rate:.0}",
            run.arm, run.rate_per_s
        ));
        Ok(rate)
    }

    fn cell(&self, load: &Plan, side: usize) -> Cell {
        let spawn = Some(self.options.servers[side].clone());
        let plan = load.clone().with(|plan| {
            plan.arm.clone_from(&self.options.sides[side].name);
            plan.target.spawn = spawn;
        });
        Cell::new(plan, self.subjects[side].build.as_deref())
    }

    /// Measures the pairs, and replaces pairs with a run that failed or is not valid, within bounds. Returns
    /// true where the user ended it early. Then only complete pairs are kept.
    fn make(&mut self, loads: &[Plan]) -> bool {
        let began = Instant::now();
        let mut cells: Vec<[Cell; 2]> =
            loads.iter().map(|load| [self.cell(load, 0), self.cell(load, 1)]).collect();
        let (mut pair, mut wanted) = (0, self.options.pairs);
        while pair < wanted {
            let complete = self.runs.len();
            // ABBA: the side that begins changes from pair to pair.
            let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
            let mut is_whole = true;
            for cells in &mut cells {
                for side in order {
                    let cell = &mut cells[side];
                    let made = self.repeats.make(cell, pair, self.progress, self.notes);
                    if made.is_interrupted {
                        self.runs.truncate(complete);
                        return true;
                    }
                    is_whole &= made.run.as_ref().is_some_and(is_worth_keeping);
                    self.runs.extend(made.run);
                    if cell.is_given_up() {
                        return false;
                    }
                }
            }
            // The validity of a run does not depend on its speed, so replacing its pair favours no side.
            if !is_whole && wanted < self.options.pairs + self.options.pairs / 4 * REPLACED {
                wanted += 1;
            }
            self.note(pair, wanted, &loads[0].scenario, began.elapsed());
            pair += 1;
        }
        false
    }

    /// A line for a pair, with the time that is left.
    fn note(&mut self, pair: u32, wanted: u32, scenario: &str, elapsed: Duration) {
        let done = pair + 1;
        let left = elapsed / done * (wanted - done);
        let side = |name: &str| {
            let is_it = |run: &&Run| run.pair == pair && run.arm == name && run.scenario == scenario;
            let run = self.runs.iter().find(is_it)?;
            let cpu = run.server.as_ref().map_or(0.0, |server| server.cpu_ns_per_message / 1000.0);
            Some(format!("{name} {:.0} msg/s {cpu:.3} us/msg", run.rate_per_s))
        };
        let sides: Vec<String> = self.options.sides.iter().filter_map(|one| side(&one.name)).collect();
        let of_pair = || self.runs.iter().filter(|run| run.pair == pair);
        let count =
            |count: usize, word: &str| if count > 0 { format!("  {count} {word}") } else { String::new() };
        let invalid = count(of_pair().filter(|run| !run.valid).count(), "INVALID")
            + &count(of_pair().map(|run| run.repeated.len()).sum(), "repeated");
        let left = if done == wanted { String::new() } else { format!("  {} left", about(left)) };
        (self.notes)(&format!("pair {done}/{wanted}  {}{invalid}{left}", sides.join("  ")));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::compare::Comparison;
    use crate::compare::sides::default_thresholds;
    use crate::report::text::comparison::headline;
    use crate::result::{Disturbance, InvalidKind, SessionKind, example};
    use crate::run::{RunError, Silent, Snapshot};
    use crate::target::spawn::Spawn;

    fn options(pairs: u32, fixed: Fixed) -> Options {
        let server = |name: &str| Spawn::parse(&format!("/nonexistent/{name} {{port}}")).expect("a command");
        let url = "ws://127.0.0.1:{port}/".parse().expect("url");
        Options {
            sides: SIDES.map(|name| Side { name: name.to_owned(), ..Side::default() }),
            kind: SessionKind::Ab,
            servers: [server("old"), server("new")],
            load: Plan::new(url, engine::EngineKind::Epoll).with(|plan| plan.scenario = "echo".into()),
            fixed,
            pairs,
            tag: Some("t".into()),
            marks: Vec::new(),
        }
    }

    /// A run that takes no time: side B's server is a tenth dearer.
    fn instant(plan: &Plan, _: &mut dyn Progress) -> Result<Run, RunError> {
        let mut run = example::run(&plan.scenario, 30_000);
        (run.arm, run.pair) = (plan.arm.clone(), plan.pair);
        let server = run.server.as_mut().expect("known");
        server.cpu_ns_per_message *=
            1.0 + f64::from(plan.pair) / 1000.0 + if plan.arm == "B" { 0.1 } else { 0.0 };
        Ok(run)
    }

    fn made(
        options: &Options,
        execute: Execute<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Document, DuelError> {
        session(options, execute, progress).map(|session| session.document)
    }

    fn session(
        options: &Options,
        execute: Execute<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Session, DuelError> {
        measure(options, Machine::default(), execute, progress, &mut |_| {})
    }

    #[test]
    fn pairs_alternate_and_every_run_has_a_server_of_its_side() {
        let order = RefCell::new(Vec::new());
        let watched = |plan: &Plan, progress: &mut dyn Progress| {
            let command = plan.target.spawn.as_ref().expect("a server").command[0].clone();
            assert_eq!(command.ends_with("old"), plan.arm == "A");
            order.borrow_mut().push(format!(
                "{}{}",
                plan.arm,
                if plan.load.rate_per_s.is_some() { "r" } else { "" }
            ));
            instant(plan, progress)
        };
        let document = made(&options(3, Fixed::Rate(500.0)), &watched, &mut Silent).expect("made");
        assert_eq!(order.borrow().join(" "), "A B Ar Br B A Br Ar A B Ar Br");
        assert_eq!(document.runs.len(), 12);
        let names: Vec<&str> = document.scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
        assert_eq!(names, ["echo", "echo-fixed"]);
        assert_eq!(document.scenarios[1].parameters.rate_per_s, Some(500.0));
        assert_eq!(document.arms[0].subject.command.as_deref(), Some("old {port}"));
        assert_eq!(document.subject, document.arms[1].subject);
        assert_eq!((document.session.order.as_str(), document.session.interrupted), ("abba", false));
    }

    #[test]
    fn named_sides_are_told_apart() {
        let mut named = options(2, Fixed::Off);
        (named.sides[0].name, named.sides[1].name) = ("old".to_owned(), "new".to_owned());
        named.sides[1].commit = Some("0123456789ab".to_owned());
        named.tag = None;
        let document = made(&named, &instant, &mut Silent).expect("a session");
        let order: Vec<&str> = document.runs.iter().map(|run| run.arm.as_str()).collect();
        assert_eq!(order, ["old", "new", "new", "old"]);
        assert_eq!(document.session.tag.as_deref(), Some("new-against-old"));
        assert_eq!(document.subject.commit.as_deref(), Some("0123456789ab"));
        let comparison = Comparison::of_arms(&document, &default_thresholds);
        assert!(headline(&comparison).starts_with("new against old: "));
    }

    #[test]
    fn the_rate_is_calibrated_on_side_a_before_the_first_pair() {
        let first = RefCell::new(None);
        let watched = |plan: &Plan, progress: &mut dyn Progress| {
            first.borrow_mut().get_or_insert((plan.arm.clone(), plan.load.rate_per_s, plan.load.measure));
            instant(plan, progress)
        };
        let document = made(&options(1, Fixed::Calibrated), &watched, &mut Silent).expect("made");
        assert_eq!(*first.borrow(), Some(("A".to_owned(), None, Duration::from_secs(3))));
        // 15,000 a second, of which half.
        assert_eq!(document.scenarios[1].parameters.rate_per_s, Some(7_500.0));
        assert_eq!(document.runs.len(), 4, "the calibration run is not stored");
    }

    #[test]
    fn replaces_a_pair_with_an_invalid_run_within_bounds() {
        let spoiled = |pairs: u32| {
            move |plan: &Plan, progress: &mut dyn Progress| {
                instant(plan, progress).map(|run| Run { valid: plan.pair >= pairs, ..run })
            }
        };
        let pairs = |document: Document| document.runs.len() / 2;
        assert_eq!(pairs(made(&options(10, Fixed::Off), &spoiled(1), &mut Silent).expect("made")), 11);
        assert_eq!(pairs(made(&options(10, Fixed::Off), &spoiled(99), &mut Silent).expect("made")), 14);
    }

    #[test]
    fn pairs_of_debug_builds_are_not_replaced() {
        let debug = |plan: &Plan, progress: &mut dyn Progress| {
            let mut run = instant(plan, progress)?;
            run.invalidate(InvalidKind::DebugGenerator, "the generator is a debug build");
            Ok(run)
        };
        let document = made(&options(10, Fixed::Off), &debug, &mut Silent).expect("made");
        assert_eq!((document.runs.len(), attempts(&document).iter().sum::<usize>()), (20, 0));
    }

    /// The generator waited for its processor in the first `spoiled` runs.
    fn disturbed(spoiled: u32) -> impl Fn(&Plan, &mut dyn Progress) -> Result<Run, RunError> {
        let made = std::cell::Cell::new(0);
        move |plan, progress| {
            made.set(made.get() + 1);
            let waited = if made.get() <= spoiled { 0.5 } else { 0.0 };
            let disturbance = Some(Disturbance { generator_waited: waited, ..Disturbance::default() });
            // Something to know the attempt by.
            instant(plan, progress).map(|run| Run { disturbance, rate_per_s: f64::from(made.get()), ..run })
        }
    }

    fn apart(pairs: u32) -> Options {
        let mut options = options(pairs, Fixed::Off);
        options.servers.iter_mut().for_each(|server| server.cpus = vec![0]);
        options.load.placement.cpus = vec![1];
        options
    }

    fn attempts(document: &Document) -> Vec<usize> {
        document.runs.iter().map(|run| run.repeated.len()).collect()
    }

    #[test]
    fn repeats_a_disturbed_run_and_says_so() {
        let document = made(&apart(8), &disturbed(1), &mut Silent).expect("made");
        assert_eq!(attempts(&document)[..3], [1, 0, 0]);
        assert_eq!(document.runs[0].rate_per_s, 2.0, "the attempt that was not disturbed counts");
        assert_eq!(
            document.runs[0].repeated,
            ["the generator waited 50.0 % of the window for its processor"]
        );
        assert_eq!(document.runs.len(), 16);
    }

    #[test]
    fn repeating_is_bounded_for_a_run_and_for_a_session() {
        let always = made(&apart(8), &disturbed(u32::MAX), &mut Silent).expect("made");
        // Sixteen runs, of which a quarter may be made again.
        assert_eq!(attempts(&always)[..4], [2, 2, 0, 0]);
        assert_eq!(attempts(&always).iter().sum::<usize>(), 4);
        assert!(always.runs.iter().all(|run| run.valid));
    }

    #[test]
    fn who_shares_a_processor_waits_for_the_other_and_repeats_nothing() {
        let mut shared = apart(8);
        shared.load.placement.cpus = vec![0];
        for options in [shared, options(8, Fixed::Off)] {
            let document = made(&options, &disturbed(u32::MAX), &mut Silent).expect("made");
            assert_eq!(attempts(&document).iter().sum::<usize>(), 0);
        }
    }

    #[test]
    fn a_dearer_server_is_found() {
        let document = made(&options(10, Fixed::Off), &instant, &mut Silent).expect("made");
        let comparison = Comparison::of_arms(&document, &default_thresholds);
        assert_eq!(comparison.overall(), Some(crate::compare::Verdict::Regressed));
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
    fn what_is_left_of_a_session_that_was_ended_are_complete_pairs() {
        let document = made(&options(5, Fixed::Off), &instant, &mut StopAfter(8)).expect("three pairs");
        assert_eq!(document.runs.len(), 6);
        assert!(document.session.interrupted);
        assert!(matches!(
            made(&options(5, Fixed::Off), &instant, &mut StopAfter(2)),
            Err(DuelError::Interrupted)
        ));
    }

    /// Returns a function whose runs of side B fail `attempts` times in these pairs. All other runs succeed.
    fn failing(
        pairs: std::ops::Range<u32>,
        attempts: u32,
    ) -> impl Fn(&Plan, &mut dyn Progress) -> Result<Run, RunError> {
        let made = std::cell::RefCell::new(std::collections::BTreeMap::new());
        move |plan, progress| {
            let mut made = made.borrow_mut();
            let attempt: &mut u32 = made.entry((plan.arm.clone(), plan.pair)).or_default();
            *attempt += 1;
            let fails = plan.arm == "B" && pairs.contains(&plan.pair) && *attempt <= attempts;
            if fails { Err(RunError::Panicked) } else { instant(plan, progress) }
        }
    }

    fn sides_of(document: &Document, pair: u32) -> Vec<&str> {
        document.runs.iter().filter(|run| run.pair == pair).map(|run| run.arm.as_str()).collect()
    }

    #[test]
    fn repeats_a_failed_run_and_loses_no_other() {
        let session = session(&options(3, Fixed::Off), &failing(1..2, 1), &mut Silent).expect("made");
        let document = session.document;
        assert!(session.fault.is_none());
        assert_eq!(attempts(&document), [0, 0, 1, 0, 0, 0]);
        assert_eq!(sides_of(&document, 1), ["B", "A"]);
        assert!(document.runs[2].repeated[0].contains("panicked"), "{:?}", document.runs[2].repeated);
    }

    #[test]
    fn replaces_a_pair_whose_run_fails_in_every_attempt() {
        let session = session(&options(8, Fixed::Off), &failing(3..4, 99), &mut Silent).expect("made");
        let document = session.document;
        // The other run of that pair is kept, and a ninth pair replaces the pair.
        assert_eq!((document.runs.len(), sides_of(&document, 3)), (17, vec!["A"]));
        assert_eq!(sides_of(&document, 8), ["A", "B"]);
        let marks = &document.session.marks;
        assert!(marks.iter().any(|mark| mark.starts_with("echo, side B, pair 4: a worker")), "{marks:?}");
        assert!(session.fault.is_none(), "it was named, and enough pairs are there");
        assert_eq!(crate::compare::sides::pairs(&document, "echo").0.len(), 8);
    }

    #[test]
    fn a_server_that_never_works_ends_the_duel_and_keeps_what_was_measured() {
        for fixed in [Fixed::Off, Fixed::Rate(500.0), Fixed::Calibrated] {
            let session = session(&options(8, fixed), &failing(0..99, 99), &mut Silent).expect("made");
            assert_eq!(session.document.runs.len(), 1, "side A of the first pair");
            let fault = session.fault.expect("an error").to_string();
            assert!(fault.starts_with("echo, side B, pair 1: "), "{fault}");
        }
        let nothing = |_: &Plan, _: &mut dyn Progress| Err(RunError::Panicked);
        for fixed in [Fixed::Off, Fixed::Calibrated] {
            let error = made(&options(8, fixed), &nothing, &mut Silent).expect_err("failed").to_string();
            assert!(error.starts_with("echo, side A, pair 1: "), "{error}");
        }
    }

    #[test]
    fn a_server_that_dies_for_good_ends_the_duel_and_keeps_all_runs() {
        let session = session(&options(8, Fixed::Off), &failing(5..99, 99), &mut Silent).expect("made");
        let document = session.document;
        assert!(document.runs.len() >= 11, "{}", document.runs.len());
        assert!((0..5).all(|pair| sides_of(&document, pair).len() == 2));
        assert!(session.fault.is_some_and(|fault| fault.to_string().starts_with("echo, side B, pair ")));
        assert!(!document.session.interrupted);
    }

    /// Returns a function whose run of side A in the second pair has wrong echoes, in its first `attempts`
    /// attempts.
    fn wrong(attempts: u32) -> impl Fn(&Plan, &mut dyn Progress) -> Result<Run, RunError> {
        let made = std::cell::Cell::new(0);
        move |plan, progress| {
            let mut run = instant(plan, progress)?;
            if plan.arm == "A" && plan.pair == 1 {
                made.set(made.get() + 1);
                run.integrity.corrupted = u64::from(made.get() <= attempts);
                if made.get() <= attempts {
                    run.invalidate(InvalidKind::WrongEchoes, "1 echo was not what was sent");
                }
            }
            Ok(run)
        }
    }

    #[test]
    fn wrong_echoes_are_an_error_also_where_a_repeat_has_none() {
        for attempts in [1, 99] {
            let session = session(&options(8, Fixed::Off), &wrong(attempts), &mut Silent).expect("made");
            let document = session.document;
            let fault = session.fault.expect("an error").to_string();
            assert_eq!(fault, "echo, side A, pair 2: 1 echo was not what was sent");
            let mark = "echo, side A, pair 2: 1 echo was not what was sent.".to_owned();
            assert!(document.session.marks.contains(&mark), "{:?}", document.session.marks);
            // All other pairs are there. A pair that stays wrong is stored and replaced.
            assert_eq!(document.runs.len(), if attempts == 1 { 16 } else { 18 });
            assert_eq!(document.runs.iter().filter(|run| !run.valid).count(), usize::from(attempts > 1));
        }
    }

    #[test]
    fn an_interrupted_repeat_keeps_complete_pairs() {
        let disturb = disturbed(u32::MAX);
        let made_runs = std::cell::Cell::new(0);
        let cut = |plan: &Plan, progress: &mut dyn Progress| {
            made_runs.set(made_runs.get() + 1);
            if made_runs.get() > 7 { Err(RunError::Interrupted) } else { disturb(plan, progress) }
        };
        let document = made(&apart(8), &cut, &mut Silent).expect("a pair");
        assert_eq!((document.runs.len(), document.session.interrupted), (2, true));
    }

    #[test]
    fn the_time_it_takes_is_known_beforehand() {
        // 12.4 s a run with the default times.
        assert_eq!(about(options(10, Fixed::Rate(1.0)).duration()), "8 min");
        assert_eq!(about(options(1, Fixed::Off).duration()), "25 s");
        let mut notes = String::new();
        let mut note = |line: &str| notes.extend([line, "\n"]);
        measure(&options(2, Fixed::Off), Machine::default(), &instant, &mut Silent, &mut note).expect("made");
        assert!(
            notes.contains("pair 1/2  A 15000 msg/s 4.000 us/msg  B 15000 msg/s 4.400 us/msg"),
            "{notes}"
        );
        assert!(notes.lines().next().is_some_and(|line| line.ends_with(" left")), "{notes}");
    }
}

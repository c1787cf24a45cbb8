//! The runs of a duel, in their order.

use std::io::Write;
use std::time::{Duration, Instant};

use super::{DuelError, Fixed, Options, about, calibration, disturbance};
use crate::compare::sides::SIDES;
use crate::machine::Machine;
use crate::result::{Arm, Document, InvalidKind, Run, SCHEMA, Scenario, Utc};
use crate::run::{Plan, Progress, RunError};
use crate::subject::{Subject, Tool};

/// How a run is made; tests put something quicker in its place.
pub type Execute<'a> = &'a dyn Fn(&Plan, &mut dyn Progress) -> Result<Run, RunError>;

/// Starting the server, connecting, draining and ending it, per run: for the announcement alone.
const AROUND_A_RUN: Duration = Duration::from_millis(300);

/// For every four pairs so many more may be made, one for each that has a run that is not valid.
const MADE_UP: u32 = 2;

/// How long a run of this plan takes.
pub(super) fn run_duration(plan: &Plan) -> Duration {
    plan.settle + plan.warmup + plan.measure + AROUND_A_RUN
}

/// Makes every pair and returns the document, not yet judged. What happens meanwhile goes to `notes`, a line each.
///
/// Ended early by the user, the document has the pairs that were complete by then, and says so.
///
/// # Errors
/// See [`DuelError`].
pub fn measure(
    options: &Options,
    machine: Machine,
    execute: Execute<'_>,
    progress: &mut dyn Progress,
    notes: &mut dyn Write,
) -> Result<Document, DuelError> {
    let (start, began) = (Utc::now(), Instant::now());
    let subjects = options.servers.each_ref().map(|server| Subject::of_command(&server.command));
    let repeats =
        if disturbance::is_told(options) { options.runs() / disturbance::SHARE_REPEATED } else { 0 };
    let mut pairs =
        Pairs { options, execute, progress, notes, subjects: &subjects, runs: Vec::new(), repeats };
    let loads = pairs.loads()?;
    let interrupted = pairs.make(&loads)?;
    let runs = pairs.runs;
    if runs.is_empty() {
        return Err(DuelError::Interrupted);
    }
    let mut arms = Vec::new();
    for (name, subject) in SIDES.iter().zip(subjects) {
        let engine =
            runs.iter().find(|run| run.arm == *name).and_then(|run| run.server.as_ref()?.engine.clone());
        let subject = Subject { engine, ..subject };
        arms.push(Arm { name: (*name).to_owned(), subject, ..Arm::default() });
    }
    Ok(Document {
        schema: SCHEMA,
        tool: Tool::this(options.load.engine.name()),
        subject: arms[1].subject.clone(),
        arms,
        machine,
        session: crate::result::Session {
            kind: options.kind,
            suite: None,
            tag: options.tag.clone(),
            start,
            duration_ns: u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
            order: "abba".to_owned(),
            interrupted,
            marks: options.marks.clone(),
        },
        scenarios: loads.iter().map(|load| Scenario::new(&load.scenario, load.parameters())).collect(),
        runs,
        counts: Vec::new(),
        verdict: None,
    })
}

/// A session that is under way.
struct Pairs<'a> {
    options: &'a Options,
    execute: Execute<'a>,
    progress: &'a mut dyn Progress,
    notes: &'a mut dyn Write,
    subjects: &'a [Subject; 2],
    runs: Vec<Run>,
    /// How many runs may still be made again.
    repeats: u32,
}

impl Pairs<'_> {
    /// The loads of a pair: one that saturates, and one at a fixed rate where that is wanted.
    fn loads(&mut self) -> Result<Vec<Plan>, DuelError> {
        let saturating = Plan { rate_per_s: None, ..self.options.load.clone() };
        let rate = match self.options.fixed {
            Fixed::Off => return Ok(vec![saturating]),
            Fixed::Rate(rate) => rate,
            Fixed::Calibrated => self.calibrate(&saturating)?,
        };
        let scenario = format!("{}-fixed", saturating.scenario);
        let fixed = Plan { scenario, rate_per_s: Some(rate), ..saturating.clone() };
        Ok(vec![saturating, fixed])
    }

    fn calibrate(&mut self, load: &Plan) -> Result<f64, DuelError> {
        let run = self.run(&calibration::plan(load), 0, 0)?.ok_or(DuelError::Interrupted)?;
        let rate = calibration::rate(run.rate_per_s).ok_or(DuelError::NoCapacity)?;
        writeln!(self.notes, "side A did {:.0} msg/s: latencies are measured at {rate:.0}", run.rate_per_s)?;
        Ok(rate)
    }

    /// Makes the pairs; whether the user ended it early. Only complete pairs are kept. Those that have an invalid run are made
    /// up, within limits.
    fn make(&mut self, loads: &[Plan]) -> Result<bool, DuelError> {
        let began = Instant::now();
        let (mut pair, mut wanted) = (0, self.options.pairs);
        while pair < wanted {
            let complete = self.runs.len();
            // ABBA: the side that begins changes from pair to pair.
            let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
            for load in loads {
                for side in order {
                    let Some(run) = self.undisturbed(load, side, pair)? else {
                        self.runs.truncate(complete);
                        return Ok(true);
                    };
                    self.runs.push(run);
                }
            }
            // Whether a run is valid does not depend on how fast it was: making it up favours no side.
            let spoiled = self.runs[complete..].iter().any(|run| !run.valid);
            if spoiled && wanted < self.options.pairs + self.options.pairs / 4 * MADE_UP {
                wanted += 1;
            }
            self.note(pair, wanted, &loads[0].scenario, began.elapsed())?;
            pair += 1;
        }
        Ok(false)
    }

    /// One run that nothing else disturbed, if it can be had; `None` where the user ended it.
    fn undisturbed(&mut self, load: &Plan, side: usize, pair: u32) -> Result<Option<Run>, DuelError> {
        let mut repeated = Vec::new();
        loop {
            let Some(run) = self.run(load, side, pair)? else { return Ok(None) };
            let again = repeated.len() + 1 < disturbance::ATTEMPTS as usize && self.repeats > 0;
            match disturbance::of(&run) {
                Some(why) if again => repeated.push(why),
                _ => return Ok(Some(Run { repeated, ..run })),
            }
            self.repeats -= 1;
        }
    }

    /// One run; `None` where the user ended it.
    fn run(&mut self, load: &Plan, side: usize, pair: u32) -> Result<Option<Run>, DuelError> {
        if self.progress.interrupted() {
            return Ok(None);
        }
        let name = SIDES[side];
        let spawn = Some(self.options.servers[side].clone());
        let plan = Plan { arm: name.to_owned(), pair, spawn, ..load.clone() };
        let mut run = match (self.execute)(&plan, self.progress) {
            Ok(run) if run.interrupted => return Ok(None),
            Ok(run) => run,
            Err(RunError::Interrupted) => return Ok(None),
            Err(source) => return Err(DuelError::Run { side: name, pair, source }),
        };
        if run.integrity.total() > 0 {
            return Err(DuelError::WrongEcho { side: name, pair, count: run.integrity.total() });
        }
        if self.subjects[side].build.as_deref() == Some("debug") {
            run.invalidate(InvalidKind::DebugServer, "the server is a debug build");
        }
        Ok(Some(run))
    }

    /// A line for a pair, with the time that is left.
    fn note(&mut self, pair: u32, wanted: u32, scenario: &str, elapsed: Duration) -> std::io::Result<()> {
        let done = pair + 1;
        let left = elapsed / done * (wanted - done);
        let side = |name: &str| {
            let is_it = |run: &&Run| run.pair == pair && run.arm == name && run.scenario == scenario;
            let run = self.runs.iter().find(is_it)?;
            let cpu = run.server.as_ref().map_or(0.0, |server| server.cpu_ns_per_message / 1000.0);
            Some(format!("{name} {:.0} msg/s {cpu:.3} us/msg", run.rate_per_s))
        };
        let sides: Vec<String> = SIDES.iter().filter_map(|name| side(name)).collect();
        let of_pair = || self.runs.iter().filter(|run| run.pair == pair);
        let count =
            |count: usize, word: &str| if count > 0 { format!("  {count} {word}") } else { String::new() };
        let invalid = count(of_pair().filter(|run| !run.valid).count(), "INVALID")
            + &count(of_pair().map(|run| run.repeated.len()).sum(), "repeated");
        let left = if done == wanted { String::new() } else { format!("  {} left", about(left)) };
        writeln!(self.notes, "pair {done}/{wanted}  {}{invalid}{left}", sides.join("  "))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::compare::Comparison;
    use crate::compare::sides::default_thresholds;
    use crate::result::{Disturbance, SessionKind, example};
    use crate::run::{Silent, Snapshot};
    use crate::spawn::Spawn;

    fn options(pairs: u32, fixed: Fixed) -> Options {
        let server = |name: &str| Spawn::parse(&format!("/nonexistent/{name} {{port}}")).expect("a command");
        let url = "ws://127.0.0.1:{port}/".parse().expect("url");
        Options {
            kind: SessionKind::Ab,
            servers: [server("old"), server("new")],
            load: Plan { scenario: "echo".into(), ..Plan::new(url, engine::EngineKind::Epoll) },
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
        measure(options, Machine::default(), execute, progress, &mut Vec::new())
    }

    #[test]
    fn pairs_alternate_and_every_run_has_a_server_of_its_side() {
        let order = RefCell::new(Vec::new());
        let watched = |plan: &Plan, progress: &mut dyn Progress| {
            let command = plan.spawn.as_ref().expect("a server").command[0].clone();
            assert_eq!(command.ends_with("old"), plan.arm == "A");
            order.borrow_mut().push(format!(
                "{}{}",
                plan.arm,
                if plan.rate_per_s.is_some() { "r" } else { "" }
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
    fn the_rate_is_calibrated_on_side_a_before_the_first_pair() {
        let first = RefCell::new(None);
        let watched = |plan: &Plan, progress: &mut dyn Progress| {
            first.borrow_mut().get_or_insert((plan.arm.clone(), plan.rate_per_s, plan.measure));
            instant(plan, progress)
        };
        let document = made(&options(1, Fixed::Calibrated), &watched, &mut Silent).expect("made");
        assert_eq!(*first.borrow(), Some(("A".to_owned(), None, Duration::from_secs(3))));
        // 15,000 a second, of which half.
        assert_eq!(document.scenarios[1].parameters.rate_per_s, Some(7_500.0));
        assert_eq!(document.runs.len(), 4, "the calibration run is not stored");
    }

    #[test]
    fn a_pair_with_an_invalid_run_is_made_up_within_limits() {
        let spoiled = |pairs: u32| {
            move |plan: &Plan, progress: &mut dyn Progress| {
                instant(plan, progress).map(|run| Run { valid: plan.pair >= pairs, ..run })
            }
        };
        let pairs = |document: Document| document.runs.len() / 2;
        assert_eq!(pairs(made(&options(10, Fixed::Off), &spoiled(1), &mut Silent).expect("made")), 11);
        assert_eq!(pairs(made(&options(10, Fixed::Off), &spoiled(99), &mut Silent).expect("made")), 14);
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
        options.load.cpus = vec![1];
        options
    }

    fn attempts(document: &Document) -> Vec<usize> {
        document.runs.iter().map(|run| run.repeated.len()).collect()
    }

    #[test]
    fn a_run_that_something_disturbed_is_made_again_and_says_so() {
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
        shared.load.cpus = vec![0];
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

    #[test]
    fn a_server_that_fails_or_echoes_wrong_is_named_with_its_pair() {
        let failing = |plan: &Plan, progress: &mut dyn Progress| {
            if plan.arm == "B" && plan.pair == 1 { Err(RunError::Panicked) } else { instant(plan, progress) }
        };
        let error = made(&options(3, Fixed::Off), &failing, &mut Silent).expect_err("failed").to_string();
        assert!(error.starts_with("side B, pair 2: "), "{error}");
        let wrong = |plan: &Plan, progress: &mut dyn Progress| {
            instant(plan, progress).map(|mut run| {
                run.integrity.corrupted = u64::from(plan.arm == "A");
                run
            })
        };
        let error = made(&options(3, Fixed::Off), &wrong, &mut Silent).expect_err("failed").to_string();
        assert!(error.starts_with("side A, pair 1: 1 echoes were not what was sent"), "{error}");
    }

    #[test]
    fn the_time_it_takes_is_known_beforehand() {
        // 12.4 s a run with the default times.
        assert_eq!(about(options(10, Fixed::Rate(1.0)).duration()), "8 min");
        assert_eq!(about(options(1, Fixed::Off).duration()), "25 s");
        let mut notes = Vec::new();
        measure(&options(2, Fixed::Off), Machine::default(), &instant, &mut Silent, &mut notes)
            .expect("made");
        let notes = String::from_utf8(notes).expect("text");
        assert!(
            notes.contains("pair 1/2  A 15000 msg/s 4.000 us/msg  B 15000 msg/s 4.400 us/msg"),
            "{notes}"
        );
        assert!(notes.lines().next().is_some_and(|line| line.ends_with(" left")), "{notes}");
    }
}

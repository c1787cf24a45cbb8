//! Runs of an experiment, which are repeated within bounds.
//!
//! A run is repeated where it failed, is invalid, or was disturbed by something else on the machine. The rule
//! looks at the fault and never at the speed of a run, so that repeating favours no arm. A run that stays bad
//! is kept and named, and the other runs are kept as well.

use thiserror::Error;

use super::disturbance;
use crate::result::{InvalidKind, Run};
use crate::run::{Plan, Progress, RunError, wrong_echoes};
use crate::target::spawn::SpawnError;

/// Function that carries out a run. Tests replace it by a quicker one.
pub type Execute<'a> = &'a dyn Fn(&Plan, &mut dyn Progress) -> Result<Run, RunError>;

/// Receiver of lines about events during the session. No result is lost where the lines cannot be shown.
pub type Notes<'a> = &'a mut dyn FnMut(&str);

/// Most attempts at one run.
const ATTEMPTS: u32 = 3;
/// Divisor of a session's number of runs. The quotient is the number of repeats for runs that failed or are
/// invalid.
const SHARE_BAD: u32 = 2;
/// The same divisor for disturbed runs, which are valid. On a machine that is always busy repeating does not
/// help.
const SHARE_DISTURBED: u32 = 4;
/// Exit codes with which a shell and the generator's guard report a command that cannot be run.
const CANNOT_RUN: [i32; 2] = [126, 127];

/// Fault of a server for which its figures must not be trusted.
#[derive(Debug, Error)]
#[error("{run}: {reason}")]
pub struct Fault {
    /// Name of the run.
    pub run: String,
    /// Description of the fault.
    pub reason: String,
}

/// All runs of one scenario on one arm.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Plan of every run.
    pub(crate) plan: Plan,
    /// True for a debug build of the server, whose figures mean nothing.
    is_debug: bool,
    /// True where only echoes matter and not figures, so that only failures are repeated.
    is_for_correctness: bool,
    has_succeeded: bool,
    /// Failed attempts since the last successful one.
    failures: u32,
    is_hopeless: bool,
    /// True once a run stayed invalid in all its attempts, because the next run would too.
    is_always_invalid: bool,
}

impl Cell {
    /// Returns a cell without runs. `build` is that of the server, where it is known.
    pub(crate) fn new(plan: Plan, build: Option<&str>) -> Self {
        Self {
            plan,
            is_debug: build == Some("debug"),
            is_for_correctness: false,
            has_succeeded: false,
            failures: 0,
            is_hopeless: false,
            is_always_invalid: false,
        }
    }

    /// Returns a cell whose runs must echo correctly, at any speed.
    pub(crate) fn for_correctness(plan: Plan, build: Option<&str>) -> Self {
        Self { is_for_correctness: true, ..Self::new(plan, build) }
    }

    /// Returns true where its server cannot be started at all.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.is_hopeless
    }

    /// Returns true where another run is not worth the time. A cell with an earlier success gets twice the
    /// attempts.
    pub(crate) fn is_given_up(&self) -> bool {
        let most = if self.has_succeeded { 2 * ATTEMPTS } else { ATTEMPTS };
        self.is_hopeless || self.failures >= most
    }

    /// Counts an attempt. Returns its fault, if it has one.
    fn judge(&mut self, result: &Result<Run, RunError>) -> Option<Doubt> {
        let doubt = match result {
            Ok(run) => self.doubt(run),
            Err(error) => {
                self.is_hopeless |= !self.has_succeeded && is_hopeless(error);
                Some(Doubt { kind: DoubtKind::Failed, why: error.summary() })
            }
        };
        if doubt.as_ref().is_some_and(|doubt| doubt.kind == DoubtKind::Failed) {
            self.failures += 1;
        } else {
            (self.failures, self.has_succeeded) = (0, true);
        }
        doubt
    }

    fn doubt(&self, run: &Run) -> Option<Doubt> {
        let doubt = |kind, why| Some(Doubt { kind, why });
        let reasons = broken(run);
        if !reasons.is_empty() {
            doubt(DoubtKind::Failed, reasons.join("; "))
        } else if self.is_for_correctness || run.invalid().any(|(kind, _)| kind.is_of_the_build()) {
            // Every run of a debug build is invalid, so a repeat would be invalid too.
            None
        } else if !run.valid {
            doubt(DoubtKind::Invalid, run.invalid_reasons.join("; "))
        } else {
            let why = disturbance::of(run).filter(|_| disturbance::is_told(&self.plan))?;
            doubt(DoubtKind::Disturbed, why)
        }
    }

    /// Returns true where another attempt may help.
    fn can_improve(&self, doubt: &Doubt) -> bool {
        match doubt.kind {
            DoubtKind::Failed => !self.is_given_up(),
            DoubtKind::Invalid => !self.is_always_invalid,
            DoubtKind::Disturbed => true,
        }
    }
}

/// Fault of an attempt.
#[derive(Debug)]
struct Doubt {
    kind: DoubtKind,
    why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DoubtKind {
    /// The attempt has no result, or the result of a server that is broken.
    Failed,
    Invalid,
    Disturbed,
}

#[derive(Debug)]
struct Attempt {
    result: Result<Run, RunError>,
    doubt: Option<Doubt>,
}

/// Run with all its attempts.
#[derive(Debug)]
pub(crate) struct Made {
    /// The attempt that counts; `None` where none had a result.
    pub(crate) run: Option<Run>,
    /// Reason why the last attempt failed, without text that must not be stored.
    pub(crate) failure: Option<String>,
    /// True where the user ended the session meanwhile.
    pub(crate) is_interrupted: bool,
}

impl Made {
    fn interrupted(run: Option<Run>) -> Self {
        Self { run, failure: None, is_interrupted: true }
    }
}

/// Executor of a session's runs, with a record of their faults.
pub(crate) struct Repeats<'a> {
    execute: Execute<'a>,
    /// Function that names a run in sentences.
    name: fn(&Plan) -> String,
    /// Remaining repeats of the session for runs that failed or are invalid.
    left_for_bad: u32,
    /// Remaining repeats of the session for disturbed runs.
    left_for_disturbed: u32,
    /// Notes for the reader of the session, one sentence each.
    pub(crate) marks: Vec<String>,
    /// The first fault that ends the command with an error.
    pub(crate) fault: Option<Fault>,
}

impl<'a> Repeats<'a> {
    /// Returns the executor for a session of `runs` runs.
    pub(crate) fn new(execute: Execute<'a>, runs: usize, name: fn(&Plan) -> String) -> Self {
        let runs = u32::try_from(runs).unwrap_or(u32::MAX);
        // Even the shortest session can repeat a run.
        let left = |share: u32| (runs / share).max(ATTEMPTS - 1);
        let (left_for_bad, left_for_disturbed) = (left(SHARE_BAD), left(SHARE_DISTURBED));
        Self { execute, name, left_for_bad, left_for_disturbed, marks: Vec::new(), fault: None }
    }

    /// Carries out the run `pair` of a cell, in as many attempts as it needs and may have.
    pub(crate) fn make(
        &mut self,
        cell: &mut Cell,
        pair: u32,
        progress: &mut dyn Progress,
        notes: Notes<'_>,
    ) -> Made {
        let plan = cell.plan.clone().with(|plan| plan.pair = pair);
        let name = (self.name)(&plan);
        let mut attempts = Vec::new();
        loop {
            if progress.interrupted() {
                return Made::interrupted(chosen(attempts));
            }
            let mut result = (self.execute)(&plan, progress);
            if let Ok(run) = &mut result
                && cell.is_debug
            {
                run.invalidate(InvalidKind::DebugServer, "the server is a debug build");
            }
            let is_interrupted = match &result {
                Ok(run) => run.interrupted,
                Err(error) => matches!(error, RunError::Interrupted),
            };
            if is_interrupted {
                // A complete attempt tells more than one that was cut short.
                let cut = result.ok();
                return Made::interrupted(chosen(attempts).or(cut));
            }
            let doubt = cell.judge(&result);
            self.note_wrong_echoes(&name, &result, notes);
            let is_last = attempts.len() + 1 >= ATTEMPTS as usize;
            let again = doubt.as_ref().filter(|doubt| !is_last && cell.can_improve(doubt));
            let again = again.filter(|doubt| self.take_repeat(doubt.kind));
            if let Some(doubt) = again {
                notes(&format!("repeating {name}: {}", doubt.why));
            }
            let is_over = again.is_none();
            attempts.push(Attempt { result, doubt });
            if is_over {
                return self.conclude(cell, &name, attempts, notes);
            }
        }
    }

    /// Takes one of the session's remaining repeats. Returns false where there was none.
    fn take_repeat(&mut self, kind: DoubtKind) -> bool {
        let left = match kind {
            DoubtKind::Failed | DoubtKind::Invalid => &mut self.left_for_bad,
            DoubtKind::Disturbed => &mut self.left_for_disturbed,
        };
        let is_left = *left > 0;
        *left = left.saturating_sub(1);
        is_left
    }

    /// Notes wrong echoes, so that a repeat does not hide them.
    fn note_wrong_echoes(&mut self, name: &str, result: &Result<Run, RunError>, notes: Notes<'_>) {
        let Ok(Run { integrity, .. }) = result else { return };
        if integrity.faults() > 0 {
            let reason = wrong_echoes(integrity.faults());
            notes(&format!("NOTE: {name}: {reason}"));
            let mark = format!("{name}: {reason}.");
            if !self.marks.contains(&mark) {
                self.marks.push(mark);
            }
            self.fault.get_or_insert(Fault { run: name.to_owned(), reason });
        }
    }

    fn conclude(&mut self, cell: &mut Cell, name: &str, attempts: Vec<Attempt>, notes: Notes<'_>) -> Made {
        let mut failure = None;
        let is_repeated = attempts.len() > 1;
        match attempts.last() {
            Some(Attempt { doubt: Some(Doubt { kind: DoubtKind::Failed, why }), result }) => {
                let is_given_up = cell.is_given_up();
                // The user sees the full error. The output of the server is not stored.
                let reason = result.as_ref().err().map_or_else(|| why.clone(), ToString::to_string);
                if is_given_up || attempts.iter().all(|attempt| attempt.result.is_err()) {
                    let end = if is_given_up { "; it is not run again" } else { "" };
                    let mark = format!("{name}: {}{end}.", why.trim_end_matches('.'));
                    notes(&format!("NOTE: {mark}"));
                    if reason.len() > why.len() {
                        notes(&reason);
                    }
                    self.marks.push(mark);
                }
                if is_given_up {
                    self.fault.get_or_insert(Fault { run: name.to_owned(), reason });
                }
                failure = Some(why.clone());
            }
            Some(Attempt { doubt: Some(Doubt { kind: DoubtKind::Invalid, .. }), .. }) if is_repeated => {
                cell.is_always_invalid = true;
            }
            _ => {}
        }
        Made { run: chosen(attempts), failure, is_interrupted: false }
    }
}

/// Returns the attempt that counts: the last valid one, else the last with a result. It names the reasons why
/// the others do not count.
fn chosen(mut attempts: Vec<Attempt>) -> Option<Run> {
    let is_valid = |attempt: &Attempt| attempt.result.as_ref().is_ok_and(|run| run.valid);
    let valid = attempts.iter().rposition(is_valid);
    let index = valid.or_else(|| attempts.iter().rposition(|attempt| attempt.result.is_ok()))?;
    let run = attempts.remove(index).result.ok()?;
    let repeated = attempts.into_iter().filter_map(|attempt| Some(attempt.doubt?.why)).collect();
    Some(Run { repeated, ..run })
}

/// Returns the reasons why a run shows a server that does not work. Empty where the server or the machine may
/// only be slow.
fn broken(run: &Run) -> Vec<String> {
    use InvalidKind::{CutTail, NoEcho, Outstanding, OutstandingLimit, RateNotKept};
    let is_slow = |kind| matches!(kind, NoEcho | OutstandingLimit | Outstanding | CutTail | RateNotKept);
    let reasons = run.invalid().filter(|(kind, _)| kind.is_servers() && !is_slow(*kind));
    let mut reasons: Vec<String> = reasons.map(|(_, reason)| reason.to_owned()).collect();
    if reasons.is_empty() && run.integrity.faults() > 0 {
        reasons.push(wrong_echoes(run.integrity.faults()));
    }
    reasons
}

/// Returns true where another attempt would fail in the same way.
fn is_hopeless(error: &RunError) -> bool {
    match error {
        RunError::Plan(_) | RunError::Setup(_) | RunError::Engine(_) => true,
        RunError::Spawn(SpawnError::Ended { status, .. }) => {
            status.code().is_some_and(|code| CANNOT_RUN.contains(&code))
        }
        // The timeout was long enough for any start, so the server listens elsewhere.
        RunError::Spawn(SpawnError::NotListening { .. }) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;
    use crate::result::{Disturbance, example};
    use crate::run::Silent;
    use crate::target::spawn::Spawn;

    /// Outcome of an attempt.
    #[derive(Debug, Clone, Copy)]
    enum Becomes {
        Fine,
        Fails,
        Exits(i32),
        Invalid(InvalidKind),
        Disturbed,
        Wrong,
        Cut,
        Interrupted,
    }
    use Becomes::{Cut, Disturbed, Exits, Fails, Fine, Interrupted, Invalid, Wrong};

    fn attempt(becomes: Becomes, number: u32) -> Result<Run, RunError> {
        let quiet = Disturbance::default();
        let rate_per_s = f64::from(number);
        let mut run =
            Run { disturbance: Some(quiet), repeated: Vec::new(), rate_per_s, ..example::run("echo", 1000) };
        match becomes {
            Fine => {}
            Fails => return Err(RunError::Panicked),
            Exits(code) => {
                let (status, said) = (ExitStatus::from_raw(code << 8), String::new());
                return Err(SpawnError::Ended { status, said, port_in_use: false }.into());
            }
            Invalid(kind) => run.invalidate(kind, "why"),
            Disturbed => run.disturbance = Some(Disturbance { generator_waited: 0.5, ..quiet }),
            Wrong => {
                run.integrity.lost = 2;
                run.invalidate(InvalidKind::WrongEchoes, "2 echoes were not what was sent");
            }
            Cut => run.interrupted = true,
            Interrupted => return Err(RunError::Interrupted),
        }
        Ok(run)
    }

    fn plan() -> Plan {
        let spawn = Some(Spawn { command: vec!["server".to_owned()], cpus: vec![0] });
        let url = "ws://127.0.0.1:{port}/".parse().expect("url");
        Plan::new(url, engine::EngineKind::Epoll).with(|plan| {
            plan.target.spawn = spawn;
            plan.placement.cpus = vec![1];
        })
    }

    /// Runs of one cell in a session. The attempts have the given outcomes, and succeed after the last of
    /// these.
    struct Made {
        runs: Vec<super::Made>,
        attempts: u32,
        cell: Cell,
        marks: Vec<String>,
        fault: Option<String>,
    }

    fn session(cell: Cell, runs: usize, script: &[Becomes]) -> Made {
        let script = RefCell::new(VecDeque::from(script.to_vec()));
        let attempts = RefCell::new(0);
        let execute = |_: &Plan, _: &mut dyn Progress| {
            *attempts.borrow_mut() += 1;
            attempt(script.borrow_mut().pop_front().unwrap_or(Fine), *attempts.borrow())
        };
        let mut repeats = Repeats::new(&execute, runs, |plan| format!("run {}", plan.pair + 1));
        let mut cell = cell;
        let numbers = 0..u32::try_from(runs).expect("few");
        let runs = numbers.map(|pair| repeats.make(&mut cell, pair, &mut Silent, &mut |_| {})).collect();
        let (marks, fault) = (repeats.marks, repeats.fault.map(|fault| fault.to_string()));
        Made { runs, attempts: *attempts.borrow(), cell, marks, fault }
    }

    fn cell() -> Cell {
        Cell::new(plan(), None)
    }

    #[test]
    fn repeats_what_went_wrong_once_and_keeps_the_good_attempt() {
        let kinds = [
            InvalidKind::LostConnections,
            InvalidKind::NoEcho,
            InvalidKind::OutstandingLimit,
            InvalidKind::RateNotKept,
            InvalidKind::LateSends,
            InvalidKind::BusyGenerator,
            InvalidKind::Clock,
            InvalidKind::Standstill,
        ];
        for once in kinds.map(Invalid).into_iter().chain([Fails, Exits(98), Disturbed]) {
            for before in [&[][..], &[Fine, Fine]] {
                let made = session(cell(), 8, &[before, &[once]].concat());
                let run = made.runs[before.len()].run.as_ref().expect("a run");
                assert_eq!((run.valid, run.repeated.len(), made.attempts), (true, 1, 9), "{once:?}");
                assert!(made.runs.iter().all(|made| made.run.is_some()) && made.fault.is_none());
            }
        }
    }

    #[test]
    fn repeats_are_bounded_for_a_run_and_for_a_session() {
        for always in [Disturbed, Invalid(InvalidKind::LateSends), Fails] {
            let made = session(cell(), 1, &[always; 9]);
            assert_eq!(made.attempts, ATTEMPTS, "{always:?}");
        }
        let made = session(cell(), 16, &[Disturbed; 99]);
        assert_eq!(made.attempts, 16 + 16 / SHARE_DISTURBED);
        // Every other attempt fails.
        let made = session(cell(), 16, &[Fails, Fine].repeat(16));
        assert_eq!(made.attempts, 16 + 16 / SHARE_BAD);
    }

    #[test]
    fn a_run_that_stays_invalid_is_kept_and_later_ones_are_not_repeated() {
        let made = session(cell(), 8, &[Invalid(InvalidKind::RateNotKept); 99]);
        let repeated: Vec<usize> =
            made.runs.iter().filter_map(|made| Some(made.run.as_ref()?.repeated.len())).collect();
        assert_eq!(repeated, [2, 0, 0, 0, 0, 0, 0, 0]);
        assert!(made.fault.is_none() && made.marks.is_empty());
    }

    #[test]
    fn a_valid_attempt_counts_before_an_invalid_one() {
        let made = session(cell(), 1, &[Disturbed, Invalid(InvalidKind::LateSends), Fails]);
        let run = made.runs[0].run.as_ref().expect("a run");
        assert_eq!((run.valid, run.rate_per_s), (true, 1.0));
        assert_eq!(run.repeated.len(), 2);
    }

    #[test]
    fn a_run_of_a_debug_build_is_not_repeated_for_being_invalid() {
        let build = Invalid(InvalidKind::DebugGenerator);
        assert_eq!(session(cell(), 1, &[build]).attempts, 1);
        let made = session(Cell::new(plan(), Some("debug")), 1, &[Disturbed]);
        let run = made.runs[0].run.as_ref().expect("a run");
        assert_eq!((made.attempts, run.valid), (1, false));
    }

    #[test]
    fn a_cell_whose_attempts_all_fail_is_given_up() {
        for always in [Fails, Invalid(InvalidKind::LostConnections)] {
            let from_the_start = session(cell(), 1, &[always; 99]);
            assert!(from_the_start.cell.is_given_up());
            assert!(from_the_start.fault.is_some_and(|fault| fault.starts_with("run 1: ")));
            assert!(
                from_the_start.marks[0].ends_with("; it is not run again."),
                "{:?}",
                from_the_start.marks
            );
            // A cell with an earlier success has the attempts of two runs.
            let later = |runs| session(cell(), runs, &[&[Fine][..], &[always; 99]].concat());
            assert!(!later(2).cell.is_given_up() && later(2).fault.is_none());
            assert!(later(9).cell.is_given_up() && later(9).fault.is_some());
        }
    }

    #[test]
    fn a_command_that_cannot_be_run_is_tried_once() {
        let made = session(cell(), 1, &[Exits(127); 9]);
        assert_eq!((made.attempts, made.cell.is_hopeless()), (1, true));
        // A server that is being rebuilt becomes available again.
        let made = session(cell(), 2, &[Fine, Exits(127)]);
        assert_eq!((made.attempts, made.cell.is_hopeless()), (3, false));
    }

    #[test]
    fn wrong_echoes_are_named_also_where_a_repeat_has_none() {
        let made = session(cell(), 2, &[Wrong, Fine]);
        assert!(made.runs.iter().all(|made| made.run.as_ref().is_some_and(|run| run.valid)));
        assert_eq!(made.fault.as_deref(), Some("run 1: 2 echoes were not what was sent"));
        assert_eq!(made.marks, ["run 1: 2 echoes were not what was sent."]);
    }

    #[test]
    fn an_interrupted_repeat_leaves_the_complete_attempt() {
        for end in [Interrupted, Cut] {
            let made = session(cell(), 1, &[Disturbed, end]);
            let run = made.runs[0].run.as_ref().expect("the first attempt");
            assert!(made.runs[0].is_interrupted && !run.interrupted && run.valid, "{end:?}");
        }
        let cut = session(cell(), 1, &[Fails, Cut]);
        assert!(cut.runs[0].run.as_ref().is_some_and(|run| run.interrupted));
        assert!(session(cell(), 1, &[Interrupted]).runs[0].run.is_none());
    }

    #[test]
    fn where_correctness_is_asked_speed_is_not_looked_at() {
        let made = session(
            Cell::for_correctness(plan(), None),
            3,
            &[Disturbed, Invalid(InvalidKind::LateSends), Fails],
        );
        assert_eq!(made.attempts, 4);
    }
}

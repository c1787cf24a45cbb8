//! Runs of an experiment, which are repeated within bounds.
//!
//! A run is repeated where it failed, is invalid, or was disturbed by something else on the
//! machine. The rule looks at the fault and never at the speed of a run, so that repeating favours
//! no arm. A run that stays bad is kept and named, and the other runs are kept as well.

use thiserror::Error;

use crate::result::{InvalidKind, Run};
use crate::run::{Plan, Progress, RunError, wrong_echoes};
use crate::target::spawn::SpawnError;

/// Function that carries out a run. Tests replace it by a quicker one.
pub(super) type Execute<'a> = &'a dyn Fn(&Plan, &mut dyn Progress) -> Result<Run, RunError>;

/// Receiver of lines about events during the session. No result is lost where the lines cannot be
/// shown.
pub(super) type Notes<'a> = &'a mut dyn FnMut(&str);

const ATTEMPTS: u32 = 3;
/// Divisor of a session's number of runs. The quotient is the number of repeats for runs that
/// failed or are invalid.
const SHARE_BAD: u32 = 2;
/// The same divisor for disturbed runs, which are valid. On a machine that is always busy repeating
/// does not help.
const SHARE_DISTURBED: u32 = 4;
/// Exit codes with which a shell and the generator's guard report a command that cannot be run.
const CANNOT_RUN: [i32; 2] = [126, 127];
/// A thread of the server or of the generator may wait for its processor for this share of the
/// window.
const MOST_WAITED: f64 = 0.02;
/// The hypervisor may take this share of the window from a processor. It is counted in ticks of 10
/// ms.
const MOST_STOLEN: f64 = 0.05;

/// Fault of a server for which its figures must not be trusted.
#[derive(Debug, Error)]
#[error("{run}: {reason}")]
pub(crate) struct Fault {
    run: String,
    reason: String,
}

/// All runs of one scenario on one arm.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) plan: Plan,
    /// True for a debug build of the server, whose figures mean nothing.
    is_debug: bool,
    /// True if only echoes matter and not figures, so that only failures are repeated.
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
    pub(super) fn new(plan: Plan, build: Option<&str>, is_for_correctness: bool) -> Self {
        Self {
            plan,
            is_debug: build == Some("debug"),
            is_for_correctness,
            has_succeeded: false,
            failures: 0,
            is_hopeless: false,
            is_always_invalid: false,
        }
    }

    /// Returns true if its server cannot be started at all.
    pub(super) fn is_hopeless(&self) -> bool {
        self.is_hopeless
    }

    /// Returns true if another run is not worth the time. A cell with an earlier success gets
    /// twice the attempts.
    pub(super) fn is_given_up(&self) -> bool {
        let most = if self.has_succeeded { 2 * ATTEMPTS } else { ATTEMPTS };
        self.is_hopeless || self.failures >= most
    }

    fn judge(&mut self, result: &Result<Run, RunError>) -> Option<AttemptFault> {
        let fault = match result {
            Ok(run) => self.fault_of(run),
            Err(error) => {
                self.is_hopeless |= !self.has_succeeded && is_hopeless(error);
                Some(AttemptFault { kind: FaultKind::Failed, why: error.summary() })
            }
        };
        if fault.as_ref().is_some_and(|fault| fault.kind == FaultKind::Failed) {
            self.failures += 1;
        } else {
            (self.failures, self.has_succeeded) = (0, true);
        }
        fault
    }

    fn fault_of(&self, run: &Run) -> Option<AttemptFault> {
        let fault = |kind, why| Some(AttemptFault { kind, why });
        let reasons = broken(run);
        if !reasons.is_empty() {
            fault(FaultKind::Failed, reasons.join("; "))
        } else if self.is_for_correctness || run.invalid().any(|(kind, _)| kind.is_of_the_build()) {
            // Every run of a debug build is invalid, so a repeat would be invalid too.
            None
        } else if !run.valid {
            fault(FaultKind::Invalid, run.invalid_reasons.join("; "))
        } else {
            let why = disturbance(run).filter(|_| has_own_processors(&self.plan))?;
            fault(FaultKind::Disturbed, why)
        }
    }

    fn can_improve(&self, fault: &AttemptFault) -> bool {
        match fault.kind {
            FaultKind::Failed => !self.is_given_up(),
            FaultKind::Invalid => !self.is_always_invalid,
            FaultKind::Disturbed => true,
        }
    }
}

#[derive(Debug)]
struct AttemptFault {
    kind: FaultKind,
    why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FaultKind {
    /// The attempt has no result, or the result of a server that is broken.
    Failed,
    Invalid,
    Disturbed,
}

#[derive(Debug)]
struct Attempt {
    result: Result<Run, RunError>,
    fault: Option<AttemptFault>,
}

#[derive(Debug)]
pub(super) struct Attempted {
    /// The attempt that counts; `None` where none had a result.
    pub(super) run: Option<Run>,
    /// Reason why the last attempt failed, without text that must not be stored.
    pub(super) failure: Option<String>,
    /// True if the user ended the session meanwhile.
    pub(super) is_interrupted: bool,
}

/// Executor of a session's runs, with a record of their faults.
pub(super) struct Repeats<'a> {
    execute: Execute<'a>,
    progress: &'a mut dyn Progress,
    notes: Notes<'a>,
    name: fn(&Plan) -> String,
    /// Remaining repeats of the session for runs that failed or are invalid.
    left_for_bad: u32,
    /// Remaining repeats of the session for disturbed runs.
    left_for_disturbed: u32,
    /// Notes for the reader of the session, one sentence each.
    pub(super) marks: Vec<String>,
    pub(super) fault: Option<Fault>,
}

impl<'a> Repeats<'a> {
    /// Returns an executor that may repeat nothing yet. Events go to `notes`, a line each, and to
    /// `progress`.
    pub(super) fn new(
        execute: Execute<'a>,
        name: fn(&Plan) -> String,
        progress: &'a mut dyn Progress,
        notes: Notes<'a>,
    ) -> Self {
        let (left_for_bad, left_for_disturbed) = (0, 0);
        let marks = Vec::new();
        Self {
            execute,
            progress,
            notes,
            name,
            left_for_bad,
            left_for_disturbed,
            marks,
            fault: None,
        }
    }

    /// Allows the repeats of `runs` runs.
    pub(super) fn allow(&mut self, runs: usize) {
        let runs = u32::try_from(runs).unwrap_or(u32::MAX);
        // Even the shortest session can repeat a run.
        let left = |share: u32| (runs / share).max(ATTEMPTS - 1);
        (self.left_for_bad, self.left_for_disturbed) = (left(SHARE_BAD), left(SHARE_DISTURBED));
    }

    pub(super) fn note(&mut self, line: &str) {
        (self.notes)(line);
    }

    /// Carries out the run `pair` of a cell, in as many attempts as it needs and may have.
    pub(super) fn make(&mut self, cell: &mut Cell, pair: u32) -> Attempted {
        let plan = cell.plan.clone().with(|plan| plan.pair = pair);
        let name = (self.name)(&plan);
        let mut attempts = Vec::new();
        let interrupted = |run| Attempted { run, failure: None, is_interrupted: true };
        loop {
            if self.progress.interrupted() {
                return interrupted(chosen(attempts));
            }
            let mut result = (self.execute)(&plan, self.progress);
            match &mut result {
                Err(RunError::Interrupted) => return interrupted(chosen(attempts)),
                // A complete attempt tells more than one that was cut short.
                Ok(run) if run.interrupted => return interrupted(chosen(attempts).or(result.ok())),
                Ok(run) if cell.is_debug => {
                    run.invalidate(InvalidKind::DebugServer, "the server is a debug build");
                }
                _ => {}
            }
            let fault = cell.judge(&result);
            self.note_wrong_echoes(&name, &result);
            let is_last = attempts.len() + 1 >= ATTEMPTS as usize;
            let again = fault.as_ref().filter(|fault| !is_last && cell.can_improve(fault));
            let again = again.filter(|fault| self.take_repeat(fault.kind));
            if let Some(fault) = again {
                (self.notes)(&format!("repeating {name}: {}", fault.why));
            }
            let is_over = again.is_none();
            attempts.push(Attempt { result, fault });
            if is_over {
                return self.conclude(cell, &name, attempts);
            }
        }
    }

    /// Takes one of the session's remaining repeats. Returns false if there was none.
    fn take_repeat(&mut self, kind: FaultKind) -> bool {
        let left = match kind {
            FaultKind::Failed | FaultKind::Invalid => &mut self.left_for_bad,
            FaultKind::Disturbed => &mut self.left_for_disturbed,
        };
        let is_left = *left > 0;
        *left = left.saturating_sub(1);
        is_left
    }

    /// Notes wrong echoes, so that a repeat does not hide them.
    fn note_wrong_echoes(&mut self, name: &str, result: &Result<Run, RunError>) {
        let Ok(Run { integrity, .. }) = result else { return };
        if integrity.faults() > 0 {
            let reason = wrong_echoes(integrity.faults());
            self.note(&format!("NOTE: {name}: {reason}"));
            let mark = format!("{name}: {reason}.");
            if !self.marks.contains(&mark) {
                self.marks.push(mark);
            }
            self.fault.get_or_insert(Fault { run: name.to_owned(), reason });
        }
    }

    fn conclude(&mut self, cell: &mut Cell, name: &str, attempts: Vec<Attempt>) -> Attempted {
        let mut failure = None;
        let is_repeated = attempts.len() > 1;
        match attempts.last() {
            Some(Attempt {
                fault: Some(AttemptFault { kind: FaultKind::Failed, why }),
                result,
            }) => {
                let is_given_up = cell.is_given_up();
                // The user sees the full error. The output of the server is not stored.
                let reason = result.as_ref().err().map_or_else(|| why.clone(), ToString::to_string);
                if is_given_up || attempts.iter().all(|attempt| attempt.result.is_err()) {
                    let end = if is_given_up { "; it is not run again" } else { "" };
                    let mark = format!("{name}: {}{end}.", why.trim_end_matches('.'));
                    self.note(&format!("NOTE: {mark}"));
                    if reason.len() > why.len() {
                        self.note(&reason);
                    }
                    self.marks.push(mark);
                }
                if is_given_up {
                    self.fault.get_or_insert(Fault { run: name.to_owned(), reason });
                }
                failure = Some(why.clone());
            }
            Some(Attempt {
                fault: Some(AttemptFault { kind: FaultKind::Invalid, .. }), ..
            }) if is_repeated => {
                cell.is_always_invalid = true;
            }
            _ => {}
        }
        Attempted { run: chosen(attempts), failure, is_interrupted: false }
    }
}

/// Returns the attempt that counts: the last valid one, else the last with a result. It names the
/// reasons why the others do not count.
fn chosen(mut attempts: Vec<Attempt>) -> Option<Run> {
    let is_valid = |attempt: &Attempt| attempt.result.as_ref().is_ok_and(|run| run.valid);
    let valid = attempts.iter().rposition(is_valid);
    let index = valid.or_else(|| attempts.iter().rposition(|attempt| attempt.result.is_ok()))?;
    let run = attempts.remove(index).result.ok()?;
    let repeated = attempts.into_iter().filter_map(|attempt| Some(attempt.fault?.why)).collect();
    Some(Run { repeated, ..run })
}

/// Returns true if server and generator each have processors of their own, so that waiting tells
/// of others.
fn has_own_processors(plan: &Plan) -> bool {
    let server = plan.target.spawn.as_ref().map_or(&[][..], |spawn| &spawn.cpus);
    !plan.placement.cpus.is_empty()
        && !server.is_empty()
        && server.iter().all(|cpu| !plan.placement.cpus.contains(cpu))
}

/// Returns what disturbed a run; `None` where nothing did, or nothing is known.
fn disturbance(run: &Run) -> Option<String> {
    let found = run.disturbance?;
    let waits =
        [("server", found.server_waited.unwrap_or(0.0)), ("generator", found.generator_waited)];
    let (who, waited) = waits.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let percent = |share: f64| share * 100.0;
    if waited > MOST_WAITED {
        Some(format!("the {who} waited {:.1} % of the window for its processor", percent(waited)))
    } else if found.stolen > MOST_STOLEN {
        Some(format!("the hypervisor took {:.0} % of the window", percent(found.stolen)))
    } else {
        None
    }
}

/// Returns the reasons why a run shows a server that does not work. Empty if the server or the
/// machine may only be slow.
fn broken(run: &Run) -> Vec<String> {
    use InvalidKind::{CutTail, NoEcho, Outstanding, OutstandingLimit, RateNotKept};
    let is_slow =
        |kind| matches!(kind, NoEcho | OutstandingLimit | Outstanding | CutTail | RateNotKept);
    let reasons = run.invalid().filter(|(kind, _)| kind.is_servers() && !is_slow(*kind));
    let mut reasons: Vec<String> = reasons.map(|(_, reason)| reason.to_owned()).collect();
    if reasons.is_empty() && run.integrity.faults() > 0 {
        reasons.push(wrong_echoes(run.integrity.faults()));
    }
    reasons
}

/// Returns true if another attempt would fail in the same way.
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
    use crate::target::spawn::{Role, Spawn};

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
        let mut run = Run {
            disturbance: Some(quiet),
            repeated: Vec::new(),
            rate_per_s,
            ..example::run("echo", 1000)
        };
        match becomes {
            Fine => {}
            Fails => return Err(RunError::Panicked),
            Exits(code) => {
                let (status, said) = (ExitStatus::from_raw(code << 8), String::new());
                return Err(SpawnError::Ended {
                    role: Role::Server,
                    status,
                    said,
                    port_in_use: false,
                }
                .into());
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
        let spawn =
            Some(Spawn { command: vec!["server".to_owned()], cpus: vec![0], ..Spawn::default() });
        let url = "ws://127.0.0.1:{port}/".parse().expect("url");
        Plan::new(url, engine::EngineKind::Epoll).with(|plan| {
            plan.target.spawn = spawn;
            plan.placement.cpus = vec![1];
        })
    }

    /// Runs of one cell in a session. The attempts have the given outcomes, and succeed after the
    /// last of these.
    struct Attempts {
        runs: Vec<Attempted>,
        attempts: u32,
        cell: Cell,
        marks: Vec<String>,
        fault: Option<String>,
    }

    fn session(cell: Cell, runs: usize, script: &[Becomes]) -> Attempts {
        let script = RefCell::new(VecDeque::from(script.to_vec()));
        let attempts = RefCell::new(0);
        let execute = |_: &Plan, _: &mut dyn Progress| {
            *attempts.borrow_mut() += 1;
            attempt(script.borrow_mut().pop_front().unwrap_or(Fine), *attempts.borrow())
        };
        let (mut progress, mut notes) = (Silent, |_: &str| {});
        let name = |plan: &Plan| format!("run {}", plan.pair + 1);
        let mut repeats = Repeats::new(&execute, name, &mut progress, &mut notes);
        repeats.allow(runs);
        let mut cell = cell;
        let numbers = 0..u32::try_from(runs).expect("few");
        let runs = numbers.map(|pair| repeats.make(&mut cell, pair)).collect();
        let (marks, fault) = (repeats.marks, repeats.fault.map(|fault| fault.to_string()));
        Attempts { runs, attempts: *attempts.borrow(), cell, marks, fault }
    }

    fn cell() -> Cell {
        Cell::new(plan(), None, false)
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
                assert_eq!(
                    (run.valid, run.repeated.len(), made.attempts),
                    (true, 1, 9),
                    "{once:?}"
                );
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
        let made = session(Cell::new(plan(), Some("debug"), false), 1, &[Disturbed]);
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
            Cell::new(plan(), None, true),
            3,
            &[Disturbed, Invalid(InvalidKind::LateSends), Fails],
        );
        assert_eq!(made.attempts, 4);
    }

    fn said(server: Option<f64>, generator: f64, stolen: f64) -> Option<String> {
        let found =
            Some(Disturbance { server_waited: server, generator_waited: generator, stolen });
        disturbance(&Run { disturbance: found, ..example::run("echo", 1000) })
    }

    #[test]
    fn what_others_took_is_named() {
        assert_eq!(said(Some(0.02), 0.02, 0.05), None);
        assert!(
            said(Some(0.031), 0.0, 0.0).is_some_and(|why| why.contains("the server waited 3.1 %"))
        );
        assert!(
            said(Some(0.03), 0.2, 0.0)
                .is_some_and(|why| why.contains("the generator waited 20.0 %"))
        );
        assert!(said(None, 0.0, 0.06).is_some_and(|why| why.contains("hypervisor took 6 %")));
        assert_eq!(disturbance(&Run { disturbance: None, ..example::run("echo", 1000) }), None);
    }
}

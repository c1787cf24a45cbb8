//! Known faults that are played against the generator, and its expected judgement of each.

use std::time::Duration;

use engine::EngineKind;
use serde::Serialize;

use super::server::{Behaviour, Place};
use super::trial::{Figures, Outcome, Trial, WARMUP};
use super::{ATTEMPTS, Finding, SelfcheckError, nanos};
use crate::format::grouped;
use crate::result::{InvalidKind, Run};
use crate::run::Progress;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// A server that answers fewer messages than it is asked for.
    #[default]
    Overload,
    /// A server that is silent on every second connection for longer than the window.
    Silence,
    /// The generator itself is stopped for a while.
    Standstill,
    ServerEnd,
    /// A server whose work is done in threads and processes that end.
    ServerCpu,
}

/// Judgement of a [`Case`] by the generator, and the verdict on it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Judgement {
    pub(crate) case: Case,
    /// Verdict on the generator's judgement.
    pub(crate) finding: Finding,
    /// Sentence about the events and the generator's judgement.
    pub(crate) observed: String,
    /// Deviations from the expected judgement, a sentence each.
    pub(crate) deviations: Vec<String>,
    /// Number of times that the case was played. The last time counts.
    pub(crate) attempts: u32,
    pub(crate) runs: Vec<Figures>,
}

const SECOND: Duration = Duration::from_secs(1);
/// Messages a second that the overloaded server answers.
const CAPACITY: u32 = 700;
/// Messages a second that the overloaded server is asked for.
const OVERLOAD: u32 = 1400;
/// Silence of the half-silent server, from the first message on. It ends after the window.
const SILENCE: Duration = Duration::from_millis(2800);
/// Time at which the generator is stopped, from the first message on, and length of the stop.
const STOP: (Duration, Duration) = (SECOND, Duration::from_millis(700));
/// Difference allowed between a time and what the generator says of it.
const LOOK: Duration = Duration::from_millis(100);
/// Messages a second of the cases that are neither overload nor a closed loop.
const RATE: u32 = 200;
/// CPU time of the work on one message.
const WORK: Duration = Duration::from_millis(2);
/// Largest CPU time beside the work, as a share of it: reading, writing, a thread.
const MOST_OVERHEAD: f64 = 0.5;
/// Share by which costs of the same work may differ.
const SPREAD: f64 = 0.15;
/// Share for messages that are in work at the borders of the window, and for the clock's ticks.
const BORDERS: f64 = 0.05;
/// Places of the work, run by run.
const PLACES: [&str; 3] =
    ["in the connection's thread", "in a thread for each", "in a process for each connection"];
/// Share of the window that threads must have waited to explain a deviation.
const HELD_UP: f64 = 0.05;

impl Case {
    pub(crate) const ALL: [Self; 5] =
        [Self::Overload, Self::Silence, Self::Standstill, Self::ServerEnd, Self::ServerCpu];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Overload => "overload",
            Self::Silence => "silence",
            Self::Standstill => "standstill",
            Self::ServerEnd => "server-end",
            Self::ServerCpu => "server-cpu",
        }
    }

    /// Plays the case, and repeats it where something disturbed it. Takes some seconds. A wrong
    /// judgement of the generator is not an error but a [`Finding`].
    pub(crate) fn play(
        self,
        engine: EngineKind,
        progress: &mut dyn Progress,
    ) -> Result<Judgement, SelfcheckError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let trials = self.trials();
            let outcomes: Result<Vec<_>, _> =
                trials.iter().map(|trial| trial.make(engine, progress)).collect();
            let judgement = Judgement { attempts, ..self.judge(&outcomes?) };
            if judgement.finding != Finding::Disturbed || attempts == ATTEMPTS {
                return Ok(judgement);
            }
        }
    }

    fn trials(self) -> Vec<Trial> {
        let trial = |behaviour| Trial {
            behaviour,
            connections: 4,
            rate_per_s: None,
            stop: None,
            flags: "",
        };
        let open = |behaviour| Trial { rate_per_s: Some(RATE), ..trial(behaviour) };
        match self {
            Self::Overload => vec![Trial {
                connections: 16,
                rate_per_s: Some(OVERLOAD),
                // The drain may end before all echoes are back, which are not lost.
                flags: "--timeout 1s",
                ..trial(Behaviour::Capacity(CAPACITY))
            }],
            Self::Silence => {
                vec![Trial { connections: 8, ..trial(Behaviour::HalfSilent(SILENCE)) }]
            }
            Self::Standstill => vec![Trial { stop: Some(STOP), ..trial(Behaviour::Echo) }],
            Self::ServerEnd => vec![open(Behaviour::EndAfter(SECOND))],
            Self::ServerCpu => {
                let [connection, thread, process] =
                    [Place::Connection, Place::Thread, Place::Process]
                        .map(|place| open(Behaviour::Work(place, WORK)));
                vec![connection, thread, Trial { flags: "--messages-per-connection 75", ..process }]
            }
        }
    }

    fn judge(self, outcomes: &[Outcome]) -> Judgement {
        let mut judge = Judge::default();
        let runs: Option<Vec<&Run>> =
            outcomes.iter().map(|outcome| judge.result(outcome)).collect();
        let observed = match runs.as_deref() {
            None | Some([]) => "the generator gave no result".to_owned(),
            Some(runs @ [run, ..]) => {
                runs.iter().for_each(|run| judge.note_disturbance(run, self == Self::Standstill));
                judge.judge_verdict(self, run, outcomes[0].exit_status);
                judge.judge_figures(self, run);
                if self == Self::ServerCpu {
                    judge.judge_costs(&costs_ms(runs));
                }
                self.observed(run, runs)
            }
        };
        Judgement {
            case: self,
            finding: judge.finding(),
            observed,
            deviations: judge.deviations.into_iter().map(|(_, sentence)| sentence).collect(),
            attempts: 1,
            runs: outcomes.iter().filter_map(Outcome::figures).collect(),
        }
    }

    /// Describes the events and the generator's judgement, in a sentence.
    fn observed(self, run: &Run, runs: &[&Run]) -> String {
        let kinds = kinds(run).map(name).collect::<Vec<_>>().join(", ");
        let said = if kinds.is_empty() { "valid".to_owned() } else { format!("INVALID ({kinds})") };
        match self {
            Self::Overload => format!(
                "a server of {CAPACITY} messages a second was asked for {}: {} came back, {said}",
                grouped(OVERLOAD.into()),
                grouped(run.rate_per_s)
            ),
            Self::Silence => format!(
                "every second connection was silent for {}: max {}, {said}",
                millis(SILENCE),
                millis(Duration::from_nanos(run.latency_ns.corrected.max))
            ),
            Self::Standstill => {
                let (stopped, seen) = (millis(STOP.1), millis(standstill(run)));
                format!("the generator was stopped for {stopped}: it saw {seen}, {said}")
            }
            Self::ServerEnd => format!(
                "the server ended {} into the load: {} echoes kept, load of {}, {said}",
                millis(SECOND),
                run.received,
                millis(load_of(run))
            ),
            Self::ServerCpu => {
                let costs = costs_ms(runs);
                let costs =
                    costs.iter().zip(PLACES).map(|(cost, place)| format!("{cost:.2} ms {place}"));
                let costs = costs.collect::<Vec<_>>().join(", ");
                format!("a message took {:.2} ms of CPU time: {costs}", WORK.as_secs_f64() * 1e3)
            }
        }
    }
}

/// Returns the reasons why a run is not valid, except those of the build.
fn kinds(run: &Run) -> impl Iterator<Item = InvalidKind> {
    run.invalid_kinds.iter().copied().filter(|kind| !kind.is_of_the_build())
}

/// Returns the longest standstill that the generator saw.
fn standstill(run: &Run) -> Duration {
    Duration::from_nanos(run.standstill.map_or(0, |standstill| standstill.longest_ns))
}

/// Returns the length of a load that ended early.
fn load_of(run: &Run) -> Duration {
    Duration::from_nanos(run.ended_early.as_ref().map_or(0, |ended| ended.after_ns))
}

fn millis(span: Duration) -> String {
    format!("{} ms", grouped((span.as_secs_f64() * 1e3).round()))
}

/// Returns the name as it is in the document.
fn name(kind: InvalidKind) -> String {
    let value = serde_json::to_value(kind).ok();
    value.as_ref().and_then(serde_json::Value::as_str).unwrap_or("unknown").to_owned()
}

fn status(exit_status: Option<i32>) -> String {
    exit_status.map_or("none, ended by a signal".to_owned(), |status| status.to_string())
}

/// Returns the server's CPU time for each message of each run, in milliseconds.
fn costs_ms(runs: &[&Run]) -> Vec<f64> {
    let cost =
        |run: &&Run| run.server.as_ref().map_or(0.0, |server| server.cpu_ns_per_message / 1e6);
    runs.iter().map(cost).collect()
}

/// Collector of deviations from the expected judgement.
#[derive(Debug, Default)]
struct Judge {
    deviations: Vec<(Finding, String)>,
    /// True if something is known to have disturbed a run.
    is_disturbed: bool,
}

impl Judge {
    /// Returns the finding. A known disturbance may explain a deviation.
    fn finding(&self) -> Finding {
        let worst = self.deviations.iter().map(|(finding, _)| *finding).max().unwrap_or_default();
        if self.is_disturbed { worst.min(Finding::Disturbed) } else { worst }
    }

    fn wrong(&mut self, is_wrong: bool, sentence: impl Into<String>) {
        self.deviations.extend(is_wrong.then(|| (Finding::Wrong, sentence.into())));
    }

    fn disturbed(&mut self, is_off: bool, sentence: impl Into<String>) {
        self.deviations.extend(is_off.then(|| (Finding::Disturbed, sentence.into())));
    }

    /// Notes a disturbance; where `is_stopped`, the standstill belongs to the case.
    fn note_disturbance(&mut self, run: &Run, is_stopped: bool) {
        let has_standstill = run.invalid_kinds.contains(&InvalidKind::Standstill);
        let others = run.disturbance.unwrap_or_default();
        let waited = others.generator_waited.max(others.server_waited.unwrap_or(0.0));
        self.is_disturbed |= has_standstill && !is_stopped || waited.max(others.stolen) > HELD_UP;
    }

    /// Returns the result of a run, if there is one, and checks its message counts.
    fn result<'a>(&mut self, outcome: &'a Outcome) -> Option<&'a Run> {
        let Some(run) = &outcome.run else {
            let (status, complaint) = (status(outcome.exit_status), &outcome.complaint);
            self.wrong(true, format!("there is no result (exit status {status}): {complaint}"));
            return None;
        };
        let Some(messages) = run.messages else {
            self.wrong(true, "the result has no counts of the messages");
            return Some(run);
        };
        let outcomes = messages.echoed + messages.wrong + messages.lost + messages.outstanding;
        let is_balanced =
            messages.planned == messages.sent + messages.not_sent && messages.sent == outcomes;
        self.wrong(!is_balanced, format!("the message counts do not add up: {messages:?}"));
        let faults = messages.wrong + run.integrity.faults();
        self.wrong(
            faults > 0,
            format!("a correct server is blamed for faults: {:?}", run.integrity),
        );
        Some(run)
    }

    /// Checks that a run is invalid for the expected reason, and only for that.
    fn judge_verdict(&mut self, case: Case, run: &Run, exit_status: Option<i32>) {
        let (required, also, expected_status) = match case {
            Case::Overload => (InvalidKind::RateNotKept, Some(InvalidKind::Outstanding), 13),
            Case::Silence => (InvalidKind::CutTail, None, 13),
            Case::Standstill => (InvalidKind::Standstill, None, 13),
            Case::ServerEnd => (InvalidKind::ServerEnded, Some(InvalidKind::LostConnections), 1),
            // Only its figures are judged.
            Case::ServerCpu => return,
        };
        self.wrong(
            kinds(run).all(|kind| kind != required),
            format!("it does not say {}", name(required)),
        );
        // A busy machine gives the last two to any run.
        let expected =
            [Some(required), also, Some(InvalidKind::LateSends), Some(InvalidKind::Standstill)];
        for kind in kinds(run).filter(|kind| !expected.contains(&Some(*kind))) {
            self.wrong(true, format!("it says {}", name(kind)));
        }
        self.wrong(
            exit_status != Some(expected_status),
            format!("exit status {}, expected {expected_status}", status(exit_status)),
        );
        let ends_early = case == Case::ServerEnd;
        let not = if ends_early { " not" } else { "" };
        self.wrong(
            run.ended_early.is_some() != ends_early,
            format!("it does{not} say that the load ended early"),
        );
    }

    /// Checks that the figures are those of the arithmetic. A busy machine makes everything slower.
    fn judge_figures(&mut self, case: Case, run: &Run) {
        let lost = run.integrity.total() + run.errors.total();
        if matches!(case, Case::Overload | Case::Silence) {
            self.wrong(lost > 0, format!("{lost} messages or connections are called lost"));
        }
        match case {
            Case::Overload => {
                // A turn may come late and never comes early.
                let (low, high) = (f64::from(CAPACITY) * 0.85, f64::from(CAPACITY) * 1.1);
                self.wrong(run.rate_per_s > high, format!("more than {high:.0} echoes a second"));
                self.disturbed(
                    run.rate_per_s < low,
                    format!("fewer than {low:.0} echoes a second"),
                );
            }
            Case::Silence => {
                let max = run.latency_ns.corrected.max;
                // The histogram has three digits.
                let low = nanos(SILENCE).saturating_sub(nanos(SILENCE) / 500);
                self.wrong(max < low, format!("the longest latency is less than {SILENCE:?}"));
                self.disturbed(
                    max > low + nanos(SECOND),
                    format!("it is much longer than {SILENCE:?}"),
                );
            }
            Case::Standstill => {
                let seen = standstill(run);
                let (low, high) = (STOP.1.saturating_sub(LOOK + LOOK / 2), STOP.1 + LOOK * 3);
                self.wrong(seen < low, format!("less than {}", millis(low)));
                self.disturbed(seen > high, format!("more than {}", millis(high)));
            }
            Case::ServerEnd => {
                let after = load_of(run);
                let planned = |span: Duration| f64::from(RATE) * span.as_secs_f64();
                // Late echoes of the warm-up come in the window.
                let (expected, most) = (planned(after.saturating_sub(WARMUP)), planned(after));
                let received = run.received as f64;
                let is_short = after < SECOND.saturating_sub(LOOK);
                self.wrong(is_short, format!("the load is shorter than {SECOND:?}"));
                self.disturbed(
                    after > SECOND * 2,
                    format!("the load is much longer than {SECOND:?}"),
                );
                self.wrong(
                    received > most,
                    format!("more than the {most:.0} echoes that were planned"),
                );
                self.disturbed(
                    received < expected / 2.0,
                    format!("fewer than half of the {expected:.0} echoes that were planned"),
                );
                self.wrong(received == 0.0, "nothing of what was measured is kept");
            }
            Case::ServerCpu => {}
        }
    }

    /// Checks that the same work costs the same everywhere, and its own cost.
    fn judge_costs(&mut self, costs_ms: &[f64]) {
        let work = WORK.as_secs_f64() * 1e3;
        for (cost, place) in costs_ms.iter().zip(PLACES) {
            let (low, highest) = (work * (1.0 - BORDERS), work * (1.0 + MOST_OVERHEAD));
            self.wrong(*cost < low, format!("{place}: less than the {work:.2} ms that were spent"));
            self.wrong(*cost > highest, format!("{place}: more than {highest:.2} ms"));
            let high = costs_ms[0] * (1.0 + SPREAD);
            self.disturbed(*cost > high, format!("{place}: more than {high:.2} ms"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{
        Censored, Disturbance, EndedEarly, Errors, Integrity, Messages, Server, Standstill, example,
    };

    /// Returns a run whose generator judges the case as expected.
    fn rightly_judged(case: Case) -> Outcome {
        let mut run = example::run("run", 1000);
        run.disturbance = None;
        run.messages =
            Some(Messages { planned: 1000, sent: 1000, echoed: 1000, ..Messages::default() });
        let (kinds, exit_status) = match case {
            Case::Overload => {
                let messages = Messages {
                    planned: 3220,
                    sent: 3220,
                    echoed: 2200,
                    outstanding: 1020,
                    ..Messages::default()
                };
                run.messages = Some(messages);
                run.censored = Some(Censored { count: 1020, exact_up_to: 40.0, youngest_ns: None });
                run.rate_per_s = 699.5;
                (vec![InvalidKind::RateNotKept, InvalidKind::Outstanding], 13)
            }
            Case::Silence => {
                run.latency_ns.corrected.max = 2_801_000_000;
                (vec![InvalidKind::CutTail], 13)
            }
            Case::Standstill => {
                run.standstill =
                    Some(Standstill { total_ns: 650_000_000, longest_ns: 650_000_000 });
                (vec![InvalidKind::Standstill], 13)
            }
            Case::ServerEnd => {
                run.ended_early =
                    Some(EndedEarly { after_ns: 1_010_000_000, cause: "the server ended".into() });
                run.received = 140;
                run.errors = Errors { closed: 4, ..Errors::default() };
                (vec![InvalidKind::ServerEnded, InvalidKind::LostConnections], 1)
            }
            Case::ServerCpu => {
                run.server = Some(Server { cpu_ns_per_message: 2_050_000.0, ..Server::default() });
                (vec![], 0)
            }
        };
        kinds.into_iter().for_each(|kind| run.invalidate(kind, "as it is"));
        Outcome { exit_status: Some(exit_status), run: Some(run), complaint: String::new() }
    }

    /// Returns the judgement where the generator's result has this change.
    fn judged(case: Case, change: impl FnOnce(&mut Run)) -> Judgement {
        let mut outcome = rightly_judged(case);
        change(outcome.run.as_mut().expect("a run"));
        case.judge(&[outcome])
    }

    fn finding(case: Case, change: impl FnOnce(&mut Run)) -> Finding {
        judged(case, change).finding
    }

    /// All cases except the one that has several runs.
    const SINGLE: [Case; 4] = [Case::Overload, Case::Silence, Case::Standstill, Case::ServerEnd];

    fn replace_kinds(run: &mut Run, kinds: &[InvalidKind]) {
        (run.invalid_kinds, run.invalid_reasons) = (Vec::new(), Vec::new());
        kinds.iter().for_each(|kind| run.invalidate(*kind, "as it is"));
    }

    #[test]
    fn right_judgements_are_found_right() {
        for case in SINGLE {
            let judgement = judged(case, |_| ());
            assert_eq!(
                (judgement.finding, &judgement.deviations[..]),
                (Finding::Right, &[][..]),
                "{case:?}"
            );
            // Reasons that a debug build or a busy machine gives to every run change nothing.
            let late = |run: &mut Run| {
                run.invalidate(InvalidKind::DebugGenerator, "a debug build");
                run.invalidate(InvalidKind::LateSends, "the generator sent late");
            };
            assert_eq!(finding(case, late), Finding::Right, "{case:?}");
        }
    }

    #[test]
    fn valid_run_is_wrong_in_every_case() {
        for case in SINGLE {
            let valid = |run: &mut Run| replace_kinds(run, &[]);
            assert_eq!(finding(case, valid), Finding::Wrong, "{case:?}");
            let other = |run: &mut Run| replace_kinds(run, &[InvalidKind::LostMessages]);
            assert_eq!(finding(case, other), Finding::Wrong, "{case:?}");
        }
    }

    #[test]
    fn missing_result_and_other_exit_status_are_wrong() {
        for case in Case::ALL {
            let none = Outcome { exit_status: Some(1), run: None, complaint: "no".to_owned() };
            let judgement = case.judge(&[none]);
            assert_eq!(judgement.finding, Finding::Wrong);
            assert!(
                judgement.deviations[0] == "there is no result (exit status 1): no",
                "{judgement:?}"
            );
        }
        for (case, exit_status) in SINGLE.into_iter().zip([Some(1), Some(0), None, Some(13)]) {
            let outcome = Outcome { exit_status, ..rightly_judged(case) };
            assert_eq!(case.judge(&[outcome]).finding, Finding::Wrong, "{case:?}");
        }
    }

    #[test]
    fn accusations_and_unbalanced_books_are_wrong() {
        for case in SINGLE {
            let messages = |change: fn(&mut Messages)| {
                finding(case, |run| change(run.messages.as_mut().expect("counted")))
            };
            assert_eq!(messages(|messages| messages.sent += 1), Finding::Wrong);
            assert_eq!(messages(|messages| messages.echoed -= 1), Finding::Wrong);
            assert_eq!(
                messages(|messages| (messages.echoed, messages.wrong) = (messages.echoed - 1, 1)),
                Finding::Wrong
            );
            let lost =
                |run: &mut Run| run.integrity = Integrity { lost: 3, ..Integrity::default() };
            assert_eq!(finding(case, lost), Finding::Wrong);
            assert_eq!(finding(case, |run| run.messages = None), Finding::Wrong);
        }
        let gone = |run: &mut Run| {
            run.integrity = Integrity { lost: 3, lost_with_connection: 3, ..Integrity::default() }
        };
        assert_eq!(
            finding(Case::ServerEnd, gone),
            Finding::Right,
            "they were under way when it ended"
        );
        assert_eq!(finding(Case::Overload, gone), Finding::Wrong);
    }

    #[test]
    fn figures_beyond_arithmetic_are_wrong() {
        let rate = |rate| finding(Case::Overload, |run| run.rate_per_s = rate);
        assert_eq!([rate(1400.0), rate(400.0)], [Finding::Wrong, Finding::Disturbed]);
        let max = |max| finding(Case::Silence, |run| run.latency_ns.corrected.max = max);
        assert_eq!([max(2_000_000_000), max(9_000_000_000)], [Finding::Wrong, Finding::Disturbed]);
        let seen = |longest_ns| {
            finding(Case::Standstill, |run| {
                run.standstill = Some(Standstill { total_ns: longest_ns, longest_ns });
            })
        };
        assert_eq!([seen(300_000_000), seen(2_000_000_000)], [Finding::Wrong, Finding::Disturbed]);
        assert_eq!(finding(Case::Standstill, |run| run.standstill = None), Finding::Wrong);
        let received = |received| finding(Case::ServerEnd, |run| run.received = received);
        assert_eq!(
            [received(0), received(50), received(900)],
            [Finding::Wrong, Finding::Disturbed, Finding::Wrong]
        );
        assert_eq!(finding(Case::ServerEnd, |run| run.ended_early = None), Finding::Wrong);
        let early =
            |run: &mut Run| run.ended_early = Some(EndedEarly { after_ns: 5, cause: "no".into() });
        assert_eq!(finding(Case::Overload, early), Finding::Wrong);
    }

    #[test]
    fn known_disturbance_explains_what_is_off() {
        let held_up = Disturbance { server_waited: Some(0.4), ..Disturbance::default() };
        for case in SINGLE {
            assert_eq!(
                finding(case, |run| run.disturbance = Some(held_up)),
                Finding::Right,
                "{case:?}"
            );
            let valid = |run: &mut Run| {
                replace_kinds(run, &[]);
                run.disturbance = Some(held_up);
            };
            assert_eq!(finding(case, valid), Finding::Disturbed, "{case:?}");
        }
        let stood_still = |run: &mut Run| replace_kinds(run, &[InvalidKind::Standstill]);
        assert_eq!(finding(Case::Silence, stood_still), Finding::Disturbed);
    }

    #[test]
    fn same_work_must_cost_the_same_everywhere() {
        let costs = |costs_ms: [f64; 3]| {
            let outcomes = costs_ms.map(|cost| {
                let mut outcome = rightly_judged(Case::ServerCpu);
                let server = outcome.run.as_mut().and_then(|run| run.server.as_mut());
                server.expect("a server").cpu_ns_per_message = cost * 1e6;
                outcome
            });
            Case::ServerCpu.judge(&outcomes)
        };
        assert_eq!(costs([2.06, 2.12, 2.10]).finding, Finding::Right);
        assert_eq!(costs([2.06, 1.98, 2.20]).finding, Finding::Right);
        assert_eq!(costs([2.06, 0.27, 2.10]).finding, Finding::Wrong);
        assert_eq!(costs([2.06, 2.10, 1.60]).finding, Finding::Wrong);
        assert_eq!(costs([2.06, 4.12, 2.10]).finding, Finding::Wrong);
        assert_eq!(costs([2.06, 2.60, 2.10]).finding, Finding::Disturbed);
        let judgement = costs([2.06, 0.27, 2.10]);
        assert!(
            judgement.observed.contains("0.27 ms in a thread for each"),
            "{}",
            judgement.observed
        );
        assert_eq!(judgement.runs.len(), 3);
    }

    #[test]
    fn cases_have_names_that_fit_the_table() {
        assert!(Case::ALL.iter().all(|case| case.name().len() <= 10));
        let names = Case::ALL.map(|case| serde_json::to_value(case).expect("JSON"));
        assert_eq!(
            names.map(|name| name.as_str().map(str::to_owned)),
            Case::ALL.map(|case| Some(case.name().to_owned()))
        );
    }
}

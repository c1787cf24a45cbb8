//! The making of an experiment from its flags to its exit code, for `experiment`, `duel` and `aa`.

use std::path::Path;

use clap::Args;
use engine::EngineKind;

use super::compare::noises;
use super::keep::{cannot_print, keep, no_fault};
use super::output::Output;
use super::session::SessionArguments;
use super::terminal::Terminal;
use super::{
    Failure, INCONCLUSIVE, INTERRUPTED, INVALID, REGRESSED, catch_signals, print, print_line, start_log,
};
use crate::compare::noise::{MIN_RECORDED, Noises, of_session};
use crate::compare::sessions::last_change;
use crate::compare::{Comparison, Conclusion, MIN_PAIRS, Metric, Threshold, ThresholdSource, Verdict, sides};
use crate::experiment::{Experiment, Outcome, Runner, Session, Setup, complaints};
use crate::format::count;
use crate::host::machine::Machine;
use crate::report::Blocks;
use crate::report::text::{self, comparison::comparison, notes::notes};
use crate::result::{Document, Show, Store};

/// Pairs of the duels whose noise `aa` shows, where nothing else is said.
pub(super) const DUEL_PAIRS: u32 = 10;

/// Metrics to judge, and their thresholds.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Verdict")]
pub(super) struct JudgeArguments {
    /// Repeat a regression in a second session, and exit with 11 only where that finds it too.
    #[arg(long)]
    confirm: bool,

    /// Exit with 12 where nothing can be said.
    #[arg(long)]
    fail_inconclusive: bool,

    /// Another threshold, as in server-cpu=3% (throughput, server-cpu, memory, p50, p99).
    /// Repeatable.
    #[arg(long, value_name = "METRIC=PERCENT", value_parser = given_threshold)]
    threshold: Vec<(Metric, f64)>,

    /// Judge this metric alone, and show the others; what a bisection looks for. Repeatable.
    #[arg(long, value_name = "METRIC")]
    only: Vec<Metric>,
}

fn given_threshold(text: &str) -> Result<(Metric, f64), String> {
    let (metric, percent) = text.split_once('=').ok_or("METRIC=PERCENT is needed, as in server-cpu=3%")?;
    let number =
        percent.trim_end_matches('%').trim().parse::<f64>().map_err(|error| format!("{percent}: {error}"))?;
    if number > 0.0 && number <= 100.0 {
        Ok((metric.parse()?, number / 100.0))
    } else {
        Err("above 0, at most 100".into())
    }
}

/// An experiment with everything that decides about its session.
pub(super) struct Making<'a> {
    pub(super) experiment: &'a Experiment,
    pub(super) setup: &'a Setup,
    /// Where the session goes.
    pub(super) session: &'a SessionArguments,
    /// Folder to store it in.
    pub(super) results: Option<&'a Path>,
    pub(super) judge: &'a JudgeArguments,
    /// Pairs of the duels whose noise is shown.
    pub(super) duel_pairs: u32,
}

/// A session with its conclusion.
struct Concluded {
    document: Document,
    text: String,
    /// The comparison of two arms that are judged.
    comparison: Option<Comparison>,
    code: u8,
}

impl Making<'_> {
    /// Carries it out: measures, judges, stores, prints. Returns the exit code.
    pub(super) fn carry_out(&self) -> Result<u8, Failure> {
        let Self { experiment, setup, session, results, judge, .. } = *self;
        let machine = Machine::here();
        if session.dry_run {
            return session.announce(experiment, setup, &machine).map(|()| 0);
        }
        start_log();
        results.map_or(Ok(()), |folder| Store::new(folder).check(&machine.id))?;
        let noises = match results.filter(|_| experiment.show == Show::Verdict) {
            Some(results) => noises(results, &machine.id)?,
            None => Noises::default(),
        };
        let mut output = session.output()?;
        let to_error = output.as_ref().is_some_and(Output::is_standard);
        let tell = |text: &str| print(text, to_error).map_err(cannot_print);
        let mut terminal = Terminal::new(catch_signals()?, session.quiet);
        let made =
            session.make(session.runner(experiment, setup, &machine)?, machine.clone(), &mut terminal)?;
        let (first, fault) = (self.conclude(&made, None, &noises), made.fault);
        let stored = keep(&first.document, results, output.as_mut(), &first.text, to_error)?;
        session.replace(stored.as_ref())?;
        if let (Show::Figures, Some(results), false) = (experiment.show, results, to_error) {
            print_line("")?;
            session.format.print(&change(&Store::new(results), &first.document)?, false)?;
        }
        no_fault(fault)?;
        if first.code != REGRESSED || !judge.confirm {
            return Ok(first.code);
        }
        tell("\nregressed: a second session has to confirm it\n")?;
        let again = session.make(
            Runner::new(experiment, setup, &machine, &EngineKind::probe)?,
            machine,
            &mut terminal,
        )?;
        let name = stored.map_or_else(|| "the first session".to_owned(), |path| path.display().to_string());
        let second = self.conclude(&again, Some(&name), &noises);
        keep(&second.document, results, None, &second.text, to_error)?;
        no_fault(again.fault)?;
        let code = match second.code {
            REGRESSED if !is_confirmed(first.comparison.as_ref(), second.comparison.as_ref()) => 0,
            code => code,
        };
        let word = if code == REGRESSED { "CONFIRMED" } else { "NOT CONFIRMED" };
        tell(&format!("{word} by a second session"))?;
        Ok(code)
    }

    /// Judges a session.
    fn conclude(&self, session: &Session, repeats: Option<&str>, noises: &Noises) -> Concluded {
        match self.experiment.show {
            Show::Verdict => self.verdict(session.document.clone(), repeats, noises),
            Show::Noise => self.noise(session.document.clone()),
            _ => self.figures(session),
        }
    }

    fn verdict(&self, mut document: Document, repeats: Option<&str>, noises: &Noises) -> Concluded {
        let JudgeArguments { only, threshold, .. } = self.judge;
        let judged = if only.is_empty() { &Metric::ALL[..] } else { only };
        let compared = Comparison::of_arms_in(&document, judged, &|scenario, metric| {
            if let Some((_, relative)) = threshold.iter().rfind(|(given, _)| *given == metric) {
                return Threshold { relative: *relative, source: ThresholdSource::Given };
            }
            let noise = noises.find(scenario, metric, self.experiment.rounds as usize);
            Threshold::of(metric, noise.map(|(noise, _)| noise.p95))
        });
        let mut conclusion = Conclusion::of(&compared);
        conclusion.notes.extend(repeats.map(|first| format!("Repeats {first} to confirm a regression.")));
        document.verdict = Some(conclusion.into());
        let noise = document
            .scenarios
            .iter()
            .find_map(|scenario| noises.find(scenario, Metric::ServerCpu, MIN_PAIRS));
        let noise = match noise {
            Some((_, file)) => format!("noise of this machine: {file}"),
            None => "noise of this machine: not recorded for this load (`sparring-loadgen aa`)".to_owned(),
        };
        let blocks = Blocks::default().then(comparison(&compared)).notes(vec![noise]).notes(notes(&document));
        let code = self.judge.exit_code(&document, &compared, self.experiment.rounds as usize);
        self.concluded(document, &blocks, Some(compared), code)
    }

    fn concluded(
        &self,
        document: Document,
        blocks: &Blocks,
        comparison: Option<Comparison>,
        code: u8,
    ) -> Concluded {
        Concluded { document, text: blocks.render(self.session.format.format()), comparison, code }
    }

    fn noise(&self, mut document: Document) -> Concluded {
        document.verdict = Some(Conclusion::of_noise(of_session(&document, self.duel_pairs as usize)).into());
        let recorded = |scenario: &crate::result::Scenario| sides::pairs(&document, &scenario.name).0.len();
        let fewest = document.scenarios.iter().map(recorded).min().unwrap_or(0);
        let few = (fewest < MIN_RECORDED).then(|| {
            format!("only {}: noise needs at least {MIN_RECORDED}", count(fewest as u64, "valid pair"))
        });
        let blocks = text::session(&document, None).notes(few.into_iter().collect());
        let code = match (document.session.interrupted, fewest < MIN_RECORDED) {
            (true, _) => INTERRUPTED,
            (false, true) => INVALID,
            (false, false) => 0,
        };
        self.concluded(document, &blocks, None, code)
    }

    fn figures(&self, session: &Session) -> Concluded {
        let outcome = Outcome::of(session);
        let document = session.document.clone();
        let is_failed = self.experiment.show == Show::Correctness && outcome == Outcome::Failed;
        let faults = if is_failed { complaints(&document) } else { Vec::new() };
        let faults = faults.into_iter().map(|complaint| format!("FAILED {complaint}")).collect();
        let blocks = text::session(&document, None).notes(faults);
        let code = match outcome {
            Outcome::Fine => 0,
            Outcome::Failed => 1,
            Outcome::Invalid => INVALID,
            Outcome::Interrupted => INTERRUPTED,
        };
        self.concluded(document, &blocks, None, code)
    }
}

/// Returns the change since the last session of this machine, after the session was stored.
fn change(store: &Store, document: &Document) -> Result<Blocks, Failure> {
    let (change, unreadable) = last_change(store, document)?;
    let skipped = unreadable.iter().map(|error| format!("skipped: {error}")).collect();
    let none = || {
        let none = "No earlier valid session of this machine has these scenarios: nothing to compare with.";
        Blocks::default().notes(vec![none.to_owned()])
    };
    Ok(Blocks::default().notes(skipped).then(change.as_ref().map_or_else(none, text::since)))
}

impl JudgeArguments {
    /// Returns the first flag that was typed.
    pub(super) fn first_flag(&self) -> Option<&'static str> {
        let given = [
            (self.confirm, "--confirm"),
            (self.fail_inconclusive, "--fail-inconclusive"),
            (!self.threshold.is_empty(), "--threshold"),
            (!self.only.is_empty(), "--only"),
        ];
        given.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag))
    }

    /// Returns the exit code of a comparison for which `pairs` pairs were asked.
    fn exit_code(&self, document: &Document, comparison: &Comparison, pairs: usize) -> u8 {
        if document.session.interrupted {
            return INTERRUPTED;
        }
        // Enough pairs were made, and too few of them can be used; or none.
        let sound = comparison.judgements.iter().map(|judgement| judgement.pairs).min().unwrap_or(0);
        if sound == 0 || (sound < MIN_PAIRS && pairs >= MIN_PAIRS) {
            return INVALID;
        }
        match comparison.overall() {
            None => INVALID,
            Some(Verdict::Regressed) => REGRESSED,
            Some(Verdict::Inconclusive) if self.fail_inconclusive => INCONCLUSIVE,
            Some(_) => 0,
        }
    }
}

/// Returns true where the same metric of the same scenario regressed in both.
fn is_confirmed(first: Option<&Comparison>, second: Option<&Comparison>) -> bool {
    let regressed = |comparison: Option<&Comparison>| {
        let judgements = comparison.into_iter().flat_map(|comparison| &comparison.judgements);
        let worse = judgements.filter(|judgement| judgement.verdict == Some(Verdict::Regressed));
        worse.map(|judgement| (judgement.scenario.clone(), judgement.metric)).collect::<Vec<_>>()
    };
    let first = regressed(first);
    regressed(second).iter().any(|metric| first.contains(metric))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::compare::sides::default_thresholds;

    #[test]
    fn the_exit_code_follows_from_the_verdict() {
        let code_of = |document: &Document, pairs, fail_inconclusive| {
            let comparison = Comparison::of_arms(document, &default_thresholds);
            let judge = JudgeArguments { fail_inconclusive, ..JudgeArguments::default() };
            judge.exit_code(document, &comparison, pairs)
        };
        let code = |document: &Document| code_of(document, 10, false);
        assert_eq!(code(&duel(10, 1.0)), 0);
        assert_eq!(code(&duel(10, 1.1)), REGRESSED);
        assert_eq!(code(&duel(10, 0.9)), 0);
        assert_eq!(code_of(&duel(3, 1.1), 3, false), 0);
        assert_eq!(code_of(&duel(3, 1.1), 3, true), INCONCLUSIVE);
        let mut broken = duel(10, 1.1);
        broken.runs.iter_mut().skip(3).for_each(|run| run.valid = false);
        assert_eq!(code(&broken), INVALID);
        let mut cut = duel(10, 1.1);
        cut.session.interrupted = true;
        assert_eq!(code(&cut), INTERRUPTED);
    }

    #[test]
    fn a_regression_is_confirmed_by_the_same_metric() {
        let of = |document: &Document| Some(Comparison::of_arms(document, &default_thresholds));
        let is_confirmed =
            |a: &Option<Comparison>, b: &Option<Comparison>| is_confirmed(a.as_ref(), b.as_ref());
        let slower = of(&duel(10, 1.1));
        assert!(is_confirmed(&slower, &slower) && !is_confirmed(&slower, &of(&duel(10, 1.0))));
        let mut other = duel(10, 1.0);
        other.runs.iter_mut().filter(|run| run.arm == "B").for_each(|run| run.rate_per_s *= 0.9);
        let other = of(&other);
        assert_eq!(other.as_ref().and_then(Comparison::overall), Some(Verdict::Regressed));
        assert!(!is_confirmed(&slower, &other));
    }
}

//! The flags of a session of many runs, and its making up to the exit code: for `experiment`,
//! `duel`, `aa` and `ci`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use engine::EngineKind;

use super::compare::noises;
use super::output::{FormatArguments, Output, rescue};
use super::terminal::Terminal;
use super::{INCONCLUSIVE, INTERRUPTED, INVALID, OUTPUT, REGRESSED, print, say, start_log};
use crate::compare::noise::{MIN_RECORDED, Noises, of_session};
use crate::compare::sessions::last_change;
use crate::compare::{Conclusion, MIN_PAIRS, Metric, Threshold, ThresholdSource, Verdict, sides};
use crate::experiment::{Experiment, Fault, Outcome, Runner, Session, Setup, complaints};
use crate::format::count;
use crate::host::machine::Machine;
use crate::report::Blocks;
use crate::report::text::{self, comparison::comparison, notes::notes, proxied::proxied};
use crate::result::{Document, Presentation, Scenario, SessionVerdict, Store};
use crate::run::execute;

/// The usual folder of results.
const RESULTS: &str = "bench-results";
/// Pairs of the duels whose noise `aa` shows, where nothing else is said.
pub(super) const DUEL_PAIRS: u32 = 10;

/// Folder and name of a session, and its display.
#[derive(Debug, Args)]
pub(super) struct SessionArguments {
    /// Store the session in this folder [default: bench-results].
    #[arg(long, value_name = "DIR", conflicts_with = "no_store", help_heading = OUTPUT)]
    results: Option<PathBuf>,

    /// Do not store it.
    #[arg(long, help_heading = OUTPUT)]
    no_store: bool,

    /// Write the session as JSON too; - is standard output, which then has nothing else.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    json: Option<PathBuf>,

    /// A name for the session.
    #[arg(long, value_name = "NAME", help_heading = OUTPUT)]
    pub(super) tag: Option<String>,

    /// Resume an interrupted session of the same command: its runs are kept, and the whole replaces
    /// it.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    resume: Option<PathBuf>,

    /// Neither progress nor notes: the result alone.
    #[arg(short, long, help_heading = OUTPUT)]
    quiet: bool,

    /// Check the flags, print what would be measured and how long it takes, and start nothing.
    #[arg(long, help_heading = OUTPUT)]
    pub(super) dry_run: bool,
}

impl SessionArguments {
    /// Returns the folder to store in, and to look for earlier sessions in. `usual` is true if
    /// the usual folder is made when it is not there.
    pub(super) fn results(&self, usual: bool) -> Option<&Path> {
        let default = Path::new(RESULTS);
        let folder =
            self.results.as_deref().or_else(|| (usual || default.is_dir()).then_some(default));
        folder.filter(|_| !self.no_store)
    }

    /// Returns true if standard output belongs to the document.
    pub(super) fn has_standard_output(&self) -> bool {
        self.json.as_deref() == Some(Path::new("-"))
    }
}

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
    let (metric, percent) =
        text.split_once('=').ok_or("METRIC=PERCENT is needed, as in server-cpu=3%")?;
    let number = percent
        .trim_end_matches('%')
        .trim()
        .parse::<f64>()
        .map_err(|error| format!("{percent}: {error}"))?;
    if number > 0.0 && number <= 100.0 {
        Ok((metric.parse()?, number / 100.0))
    } else {
        Err("above 0, at most 100".into())
    }
}

impl JudgeArguments {
    pub(super) fn first_flag(&self) -> Option<&'static str> {
        let given = [
            (self.confirm, "--confirm"),
            (self.fail_inconclusive, "--fail-inconclusive"),
            (!self.threshold.is_empty(), "--threshold"),
            (!self.only.is_empty(), "--only"),
        ];
        given.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag))
    }

    /// Returns the exit code of a conclusion for which `pairs` pairs were asked.
    fn exit_code(&self, document: &Document, conclusion: &Conclusion, pairs: usize) -> u8 {
        if document.session.interrupted {
            return INTERRUPTED;
        }
        if let Some(placebo) = &conclusion.placebo {
            match conclusion.overall {
                // Each regressed metric was controlled by pairs of its own.
                Some(Verdict::Regressed) => return REGRESSED,
                _ if placebo.cannot_tell() => return 0,
                _ => {}
            }
        }
        // Enough pairs were made, and too few of them can be used; or none.
        let sound =
            conclusion.judgements.iter().map(|judgement| judgement.pairs).min().unwrap_or(0);
        if sound == 0 || (sound < MIN_PAIRS && pairs >= MIN_PAIRS) {
            return INVALID;
        }
        match conclusion.overall {
            None => INVALID,
            Some(Verdict::Regressed) => REGRESSED,
            Some(Verdict::Inconclusive) if self.fail_inconclusive => INCONCLUSIVE,
            Some(_) => 0,
        }
    }
}

/// An experiment with everything that decides about its session.
pub(super) struct ExperimentCommand<'a> {
    pub(super) experiment: &'a Experiment,
    pub(super) setup: &'a Setup,
    pub(super) session: &'a SessionArguments,
    pub(super) results: Option<&'a Path>,
    pub(super) judge: &'a JudgeArguments,
    pub(super) format: FormatArguments,
    /// Pairs of the duels whose noise is shown.
    pub(super) duel_pairs: u32,
}

/// A session with its judgement.
pub(super) struct Concluded {
    pub(super) document: Document,
    pub(super) blocks: Blocks,
    code: u8,
    fault: Option<Fault>,
}

/// The sessions that a command has made.
#[derive(Default)]
pub(super) struct Finished {
    /// The session, and a second one where that had to confirm a regression. None in a dry run.
    pub(super) sessions: Vec<Concluded>,
    /// Sentence about the second session.
    pub(super) confirmation: Option<String>,
    /// The exit code, unless there is a fault.
    pub(super) code: u8,
    pub(super) fault: Option<Fault>,
}

impl Finished {
    fn of(mut concluded: Concluded) -> Self {
        let (code, fault) = (concluded.code, concluded.fault.take());
        Self { sessions: vec![concluded], code, fault, confirmation: None }
    }
}

impl ExperimentCommand<'_> {
    /// Carries it out: measures, judges, stores, prints. Returns the exit code.
    pub(super) fn carry_out(&self) -> anyhow::Result<u8> {
        let finished = self.finish()?;
        finished.fault.map_or(Ok(finished.code), |fault| Err(fault.into()))
    }

    /// Does the same, and returns the sessions too.
    pub(super) fn finish(&self) -> anyhow::Result<Finished> {
        let Self { experiment, setup, session, results, judge, .. } = *self;
        let machine = Machine::here();
        let runner = || Runner::new(experiment, setup, &machine, &EngineKind::probe);
        let runner_of_first = match &session.resume {
            Some(path) => runner()?.resume(Store::load(path)?, &machine)?,
            None => runner()?,
        };
        if session.dry_run {
            self.announce(&runner_of_first);
            return Ok(Finished::default());
        }
        start_log();
        results.map_or(Ok(()), |folder| Store::new(folder).check(&machine.id))?;
        let noises = match results.filter(|_| experiment.show == Presentation::Verdict) {
            Some(results) => noises(results, &machine.id)?,
            None => Noises::default(),
        };
        let mut output =
            session.json.as_deref().map(|path| Output::open("--json", path)).transpose()?;
        let to_error = output.as_ref().is_some_and(Output::is_standard);
        let mut terminal = Terminal::start(session.quiet)?;
        let first = self.make(runner_of_first, &machine, &mut terminal)?;
        let first = self.conclude(first, None, &noises);
        let stored = self.keep(&first, output.as_mut(), to_error)?;
        if let (Some(path), Some(stored)) = (&session.resume, &stored)
            && path != stored
        {
            let failed = || format!("--resume: cannot remove {}", path.display());
            std::fs::remove_file(path).with_context(failed)?;
        }
        if let (Presentation::Figures, Some(results), false) = (experiment.show, results, to_error)
        {
            print("", false)?;
            self.format.print(&change(&Store::new(results), &first.document)?, false)?;
        }
        let mut finished = Finished::of(first);
        if finished.fault.is_some() || finished.code != REGRESSED || !judge.confirm {
            return Ok(finished);
        }
        print("\nregressed: a second session has to confirm it\n", to_error)?;
        let second = self.make(runner()?, &machine, &mut terminal)?;
        let name = stored
            .map_or_else(|| "the first session".to_owned(), |path| path.display().to_string());
        let mut second = self.conclude(second, Some(&name), &noises);
        self.keep(&second, None, to_error)?;
        finished.fault = second.fault.take();
        finished.code = match second.code {
            REGRESSED if !is_confirmed(&finished.sessions[0].document, &second.document) => 0,
            code => code,
        };
        finished.sessions.push(second);
        if finished.fault.is_none() {
            let word = if finished.code == REGRESSED { "CONFIRMED" } else { "NOT CONFIRMED" };
            let confirmation = format!("{word} by a second session");
            print(&confirmation, to_error)?;
            finished.confirmation = Some(confirmation);
        }
        Ok(finished)
    }

    fn announce(&self, runner: &Runner<'_>) {
        if !self.session.quiet {
            runner.announce(&mut |line| say(line));
        }
    }

    /// Makes a session; `terminal` shows each of its runs.
    fn make(
        &self,
        runner: Runner<'_>,
        machine: &Machine,
        terminal: &mut Terminal,
    ) -> anyhow::Result<Session> {
        self.announce(&runner);
        let (screen, quiet) = (terminal.screen.clone(), self.session.quiet);
        let mut notes = |line: &str| {
            if !quiet {
                screen.say(line);
            }
        };
        let made = runner.measure(machine.clone(), &execute, terminal, &mut notes);
        terminal.screen.close();
        Ok(made?)
    }

    fn conclude(&self, session: Session, repeats: Option<&str>, noises: &Noises) -> Concluded {
        let outcome = Outcome::of(&session);
        let Session { mut document, fault } = session;
        let (blocks, code) = match self.experiment.show {
            Presentation::Verdict => self.verdict(&mut document, repeats, noises),
            Presentation::Noise => self.noise(&mut document),
            show => figures(&document, show, outcome),
        };
        Concluded { blocks, document, code, fault }
    }

    fn verdict(
        &self,
        document: &mut Document,
        repeats: Option<&str>,
        noises: &Noises,
    ) -> (Blocks, u8) {
        let JudgeArguments { only, threshold, .. } = self.judge;
        let judged = if only.is_empty() { &Metric::ALL[..] } else { only };
        let pairs = self.experiment.rounds as usize;
        let mut conclusion =
            Conclusion::of_arms_in(document, judged, &|scenario, metric| match threshold
                .iter()
                .rfind(|(given, _)| *given == metric)
            {
                Some((_, relative)) => {
                    Threshold { relative: *relative, source: ThresholdSource::Given }
                }
                None => noises.threshold(scenario, metric, pairs),
            });
        let mut scenarios = document.scenarios.iter();
        let noise =
            scenarios.find_map(|scenario| noises.find(scenario, Metric::ServerCpu, MIN_PAIRS));
        let noise = match noise {
            Some((_, file)) => format!("noise of this machine: {file}"),
            None => "noise of this machine: not recorded for this load (`sparring-loadgen aa`)"
                .to_owned(),
        };
        let blocks = comparison(&conclusion).notes(vec![noise]).notes(notes(document));
        let blocks = blocks.then(proxied(document));
        let code = self.judge.exit_code(document, &conclusion, pairs);
        conclusion
            .notes
            .extend(repeats.map(|first| format!("Repeats {first} to confirm a regression.")));
        document.verdict = Some(SessionVerdict::Comparison(conclusion));
        (blocks, code)
    }

    /// Stores the session and writes it to the file of `--json`. Then prints its text and the name
    /// of the stored file, and returns that name.
    ///
    /// `to_error` is true if standard output belongs to a document, so that the text goes to
    /// standard error. The text also goes there where the session cannot be written. Then the
    /// document goes to standard output, so that no result is lost.
    fn keep(
        &self,
        Concluded { document, blocks, .. }: &Concluded,
        json: Option<&mut Output>,
        to_error: bool,
    ) -> anyhow::Result<Option<PathBuf>> {
        let text = blocks.render(self.format.format());
        // The session is stored before anything is printed, so that the result is kept where the
        // terminal is gone.
        let stored = self.results.map(|folder| Store::new(folder).save(document)).transpose();
        let has_standard_output = json.as_deref().is_some_and(Output::is_standard);
        let written = json.map_or(Ok(()), |output| output.write_document(document));
        let kept = stored.map_err(anyhow::Error::from).and_then(|path| written.map(|()| path));
        let path = kept.as_ref().ok().and_then(Option::as_ref);
        let where_stored =
            path.map(|path| format!("\n\nstored in {}", path.display())).unwrap_or_default();
        let printed = print(&format!("{text}{where_stored}"), to_error || kept.is_err());
        match kept {
            Err(failure) if !has_standard_output => Err(rescue(document, &failure)),
            Err(failure) => Err(failure),
            Ok(path) => {
                let at = path.iter().map(|path| format!(" (it is stored in {})", path.display()));
                printed.with_context(|| {
                    format!("cannot print the result{}", at.collect::<String>())
                })?;
                Ok(path)
            }
        }
    }

    fn noise(&self, document: &mut Document) -> (Blocks, u8) {
        let noise = of_session(document, self.duel_pairs as usize);
        document.verdict = Some(SessionVerdict::Comparison(Conclusion::of_noise(noise)));
        let recorded = |scenario: &Scenario| sides::pairs(document, &scenario.name).len();
        let fewest = document.scenarios.iter().map(recorded).min().unwrap_or(0);
        let few = (fewest < MIN_RECORDED).then(|| {
            format!(
                "only {}: noise needs at least {MIN_RECORDED}",
                count(fewest as u64, "valid pair")
            )
        });
        let code = match (document.session.interrupted, few.is_some()) {
            (true, _) => INTERRUPTED,
            (false, true) => INVALID,
            (false, false) => 0,
        };
        (text::session(document, None).notes(few.into_iter().collect()), code)
    }
}

fn figures(document: &Document, show: Presentation, outcome: Outcome) -> (Blocks, u8) {
    let is_failed = show == Presentation::Correctness && outcome == Outcome::Failed;
    let faults = if is_failed { complaints(document) } else { Vec::new() };
    let faults = faults.into_iter().map(|complaint| format!("FAILED {complaint}")).collect();
    let code = match outcome {
        Outcome::Fine => 0,
        Outcome::Failed => 1,
        Outcome::Invalid => INVALID,
        Outcome::Interrupted => INTERRUPTED,
    };
    (text::session(document, None).notes(faults), code)
}

/// Returns the change since the last session of this machine, after the session was stored.
fn change(store: &Store, document: &Document) -> anyhow::Result<Blocks> {
    let (change, unreadable) = last_change(store, document)?;
    let skipped = unreadable.iter().map(|error| format!("skipped: {error}")).collect();
    let none = || {
        let none = "No earlier valid session of this machine has these scenarios: nothing to compare with.";
        Blocks::default().notes(vec![none.to_owned()])
    };
    Ok(Blocks::default().notes(skipped).then(change.as_ref().map_or_else(none, text::since)))
}

/// Returns true if the same metric of the same scenario regressed in both.
fn is_confirmed(first: &Document, second: &Document) -> bool {
    let regressed = |document| {
        let judgements = Conclusion::stored(document).into_iter().flat_map(|one| &one.judgements);
        let worse = judgements.filter(|judgement| judgement.verdict == Some(Verdict::Regressed));
        worse.map(|judgement| (&judgement.scenario, judgement.metric)).collect::<Vec<_>>()
    };
    let first = regressed(first);
    regressed(second).iter().any(|metric| first.contains(metric))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::{controlled, duel};
    use crate::compare::sides::default_thresholds;

    #[test]
    fn the_exit_code_follows_from_the_verdict() {
        let code_of = |document: &Document, pairs, fail_inconclusive| {
            let conclusion = Conclusion::of_arms(document, &default_thresholds);
            let judge = JudgeArguments { fail_inconclusive, ..JudgeArguments::default() };
            judge.exit_code(document, &conclusion, pairs)
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
    fn a_placebo_decides_who_is_to_blame() {
        let code = |change: &dyn Fn(&mut Document), placebo, head| {
            let mut document = controlled(10, placebo, head);
            change(&mut document);
            let conclusion = Conclusion::of_arms(&document, &default_thresholds);
            let judge = JudgeArguments { fail_inconclusive: true, ..JudgeArguments::default() };
            judge.exit_code(&document, &conclusion, 10)
        };
        let invalidate = |document: &mut Document, arm: &str| {
            let most = document.runs.iter_mut().filter(|run| run.arm == arm && run.pair > 2);
            most.for_each(|run| run.valid = false);
        };
        assert_eq!(code(&|_| {}, 1.0, 1.1), REGRESSED);
        assert_eq!(code(&|_| {}, 1.0, 1.0), 0);
        // The runner cannot tell.
        assert_eq!(code(&|_| {}, 1.1, 1.3), 0);
        assert_eq!(code(&|document| document.runs.clear(), 1.0, 1.0), 0);
        let without_base = move |document: &mut Document| invalidate(document, "base");
        assert_eq!(code(&without_base, 1.0, 1.3), 0);
        // The head cannot.
        let without_head = move |document: &mut Document| invalidate(document, "head");
        assert_eq!(code(&without_head, 1.0, 1.3), INVALID);
        assert_eq!(code(&|document| document.session.interrupted = true, 1.0, 1.3), INTERRUPTED);
    }

    #[test]
    fn a_regression_is_confirmed_by_the_same_metric() {
        let judged = |mut document: Document| {
            let conclusion = Conclusion::of_arms(&document, &default_thresholds);
            document.verdict = Some(SessionVerdict::Comparison(conclusion));
            document
        };
        let slower = judged(duel(10, 1.1));
        assert!(is_confirmed(&slower, &slower) && !is_confirmed(&slower, &judged(duel(10, 1.0))));
        let mut other = duel(10, 1.0);
        other.runs.iter_mut().filter(|run| run.arm == "B").for_each(|run| run.rate_per_s *= 0.9);
        let other = judged(other);
        let overall = Conclusion::stored(&other).and_then(|conclusion| conclusion.overall);
        assert_eq!(overall, Some(Verdict::Regressed));
        assert!(!is_confirmed(&slower, &other));
    }
}

//! `sparring-loadgen duel`: two servers in interleaved pairs, and a verdict.

use clap::Args;
use engine::EngineKind;

use super::compare::noises;
use super::keep::{cannot_print, keep, no_fault};
use super::output::Output;
use super::pairs::{PairsArguments, run_notes};
use super::terminal::Terminal;
use super::{
    Failure, INCONCLUSIVE, INTERRUPTED, INVALID, REGRESSED, SERVER, catch_signals, print, start_log, terminal,
};
use crate::compare::noise::Noises;
use crate::compare::{Comparison, Conclusion, MIN_PAIRS, Metric, Threshold, ThresholdSource, Verdict, table};
use crate::duel::{Options, Side};
use crate::host::machine::Machine;
use crate::result::{Document, SessionKind};
use crate::suite::arm_name;
use crate::target::subject::is_commit;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen duel 'old/sparring-server --listen 127.0.0.1:{port}' \\
                        'new/sparring-server --listen 127.0.0.1:{port}'
  sparring-loadgen duel 'node a.js {port}' 'node b.js {port}' --name-a ws-8.17 --name-b ws-8.18 --scenario pipeline
  sparring-loadgen duel 'a {port}' 'b {port}' -R 50k --pairs 20 --confirm

Every run has a freshly started server; the order is A B, B A, A B, ...; each pair runs saturated (throughput, server CPU
and memory are judged) and at a fixed rate (p50 and p99): at -R, or at half of what A does in a short run. For each metric:
the ratio B / A (Hodges-Lehmann) with its 95 % interval, and an exact signed-rank test, corrected for the number of
metrics (Holm). improved, regressed: certain, and beyond the threshold. unchanged: the whole interval within it.
Threshold: 2 % (p99 and memory 5 %), or twice the machine's noise where `aa` has recorded it. Ctrl-C gives the verdict
so far.

A run that failed, is invalid or was disturbed is repeated, then its pair is replaced, then named; what was measured is
stored whatever happens. A server that fails in every attempt ends the duel.

Exit status: 0 not regressed; 1 error, a server that fails in every attempt, or an echo that was not what was sent; 2 wrong
usage; 11 regressed; 12 inconclusive, with --fail-inconclusive; 13 the measurement is invalid; 130, 143, 129 ended by SIGINT
(Ctrl-C), SIGTERM, SIGHUP.";

/// A verdict needs at least 8 pairs. The commands are split as a shell would but run without one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DuelArguments {
    /// The server to compare with; {port} becomes a free port.
    #[arg(value_name = "COMMAND A")]
    a: String,

    /// The server in question.
    #[arg(value_name = "COMMAND B")]
    b: String,

    #[command(flatten)]
    sides: SideArguments,

    /// Pairs of runs.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,

    /// Repeat a regression in a second session, and exit with 11 only where that finds it too.
    #[arg(long)]
    confirm: bool,

    /// Exit with 12 where nothing can be said.
    #[arg(long)]
    fail_inconclusive: bool,

    /// Another threshold, as in server-cpu=3% (throughput, server-cpu, memory, p50, p99). May be repeated.
    #[arg(long, value_name = "METRIC=PERCENT", value_parser = given_threshold)]
    threshold: Vec<(Metric, f64)>,

    /// Judge this metric alone, and show the others; what a bisection looks for. May be repeated.
    #[arg(long, value_name = "METRIC")]
    only: Vec<Metric>,

    #[command(flatten)]
    session: PairsArguments,
}

/// Names of the sides, and what is known of their servers.
#[derive(Debug, Args)]
struct SideArguments {
    /// A name for side A in tables, pages and results.
    #[arg(long, value_name = "NAME", value_parser = arm_name, default_value = "A", help_heading = SERVER)]
    name_a: String,

    /// A name for side B.
    #[arg(long, value_name = "NAME", value_parser = arm_name, default_value = "B", help_heading = SERVER)]
    name_b: String,

    /// The version of the server of side A, for the result.
    #[arg(long, value_name = "VERSION", help_heading = SERVER)]
    version_a: Option<String>,

    /// The version of the server of side B.
    #[arg(long, value_name = "VERSION", help_heading = SERVER)]
    version_b: Option<String>,

    /// The commit that the server of side A was built from [default: what our own server says].
    #[arg(long, value_name = "HASH", value_parser = commit, help_heading = SERVER)]
    commit_a: Option<String>,

    /// The commit that the server of side B was built from.
    #[arg(long, value_name = "HASH", value_parser = commit, help_heading = SERVER)]
    commit_b: Option<String>,
}

impl SideArguments {
    fn sides(&self) -> Result<[Side; 2], Failure> {
        if self.name_a == self.name_b {
            return Err(Failure::Usage(format!(
                "--name-a and --name-b are both `{}`: give two",
                self.name_a
            )));
        }
        let side = |name: &String, version: &Option<String>, commit: &Option<String>| Side {
            name: name.clone(),
            version: version.clone(),
            commit: commit.clone(),
        };
        Ok([
            side(&self.name_a, &self.version_a, &self.commit_a),
            side(&self.name_b, &self.version_b, &self.commit_b),
        ])
    }
}

fn commit(text: &str) -> Result<String, String> {
    match is_commit(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not a valid commit: expected 7 to 64 hexadecimal digits")),
    }
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

impl DuelArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let sides = self.sides.sides()?;
        let options = |engine| {
            let options = self.session.options(SessionKind::Ab, [&self.a, &self.b], self.pairs, engine)?;
            Ok::<_, Failure>(Options { sides: sides.clone(), ..options })
        };
        let checked = options(EngineKind::Uring)?;
        if self.session.is_only_checked(&checked) {
            return Ok(0);
        }
        start_log();
        let (engine, _) =
            self.session.plan.placement.engine.settle().map_err(|error| Failure::Run(error.into()))?;
        let options = options(engine)?;
        let machine = Machine::here();
        self.session.check(&machine)?;
        let noises = match self.session.results() {
            Some(results) => noises(results, &machine.id)?,
            None => Noises::default(),
        };
        let mut output = self.session.output()?;
        let mut terminal = Terminal::new(catch_signals()?, self.session.quiet);
        let results = self.session.results();
        let session = self.session.make(&options, machine.clone(), &mut terminal)?;
        let (document, comparison, text) = self.conclude(session.document, None, &noises);
        let to_error = output.as_ref().is_some_and(Output::is_standard);
        let stored = keep(&document, results, output.as_mut(), &text, to_error)?;
        no_fault(session.fault)?;
        let code = self.exit_code(&document, &comparison);
        if code != REGRESSED || !self.confirm {
            return Ok(code);
        }
        let tell = |text: &str| print(text, to_error).map_err(cannot_print);
        tell("\nregressed: a second session has to confirm it\n")?;
        let again = self.session.make(&options, machine, &mut terminal)?;
        let first = stored.map_or_else(|| "the first session".to_owned(), |path| path.display().to_string());
        let (document, second, text) = self.conclude(again.document, Some(&first), &noises);
        keep(&document, results, None, &text, to_error)?;
        no_fault(again.fault)?;
        let code = match self.exit_code(&document, &second) {
            REGRESSED if !confirmed(&comparison, &second) => 0,
            code => code,
        };
        let word = if code == REGRESSED { "CONFIRMED" } else { "NOT CONFIRMED" };
        tell(&format!("{word} by a second session"))?;
        Ok(code)
    }

    /// Judges a session. Returns it with the text to print.
    fn conclude(
        &self,
        mut document: Document,
        repeats: Option<&str>,
        noises: &Noises,
    ) -> (Document, Comparison, String) {
        let judged = if self.only.is_empty() { &Metric::ALL[..] } else { &self.only };
        let comparison = Comparison::of_arms_in(&document, judged, &|scenario, metric| {
            if let Some((_, relative)) = self.threshold.iter().rfind(|(given, _)| *given == metric) {
                return Threshold { relative: *relative, source: ThresholdSource::Given };
            }
            let noise = noises.find(scenario, metric, self.pairs as usize);
            Threshold::of(metric, noise.map(|(noise, _)| noise.p95))
        });
        let mut conclusion = Conclusion::of(&comparison);
        conclusion.notes.extend(repeats.map(|first| format!("Repeats {first} to confirm a regression.")));
        document.verdict = Some(conclusion.into());
        let mut lines = vec![String::new(), table::text(&comparison, terminal::width())];
        if document.session.interrupted {
            lines[0] = "INTERRUPTED: the verdict so far".to_owned();
        }
        let noise = document
            .scenarios
            .iter()
            .find_map(|scenario| noises.find(scenario, Metric::ServerCpu, MIN_PAIRS));
        lines.push(match noise {
            Some((_, file)) => format!("noise of this machine: {file}"),
            None => "noise of this machine: not recorded for this load (`sparring-loadgen aa`)".to_owned(),
        });
        lines.extend(run_notes(&document));
        (document, comparison, lines.join("\n"))
    }

    fn exit_code(&self, document: &Document, comparison: &Comparison) -> u8 {
        if document.session.interrupted {
            return INTERRUPTED;
        }
        // Enough pairs were made, and too few of them can be used; or none.
        let sound = comparison.judgements.iter().map(|judgement| judgement.pairs).min().unwrap_or(0);
        if sound == 0 || (sound < MIN_PAIRS && self.pairs as usize >= MIN_PAIRS) {
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
fn confirmed(first: &Comparison, second: &Comparison) -> bool {
    let regressed = |comparison: &Comparison| {
        let worse =
            comparison.judgements.iter().filter(|judgement| judgement.verdict == Some(Verdict::Regressed));
        worse.map(|judgement| (judgement.scenario.clone(), judgement.metric)).collect::<Vec<_>>()
    };
    let first = regressed(first);
    regressed(second).iter().any(|metric| first.contains(metric))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Arguments, Command};
    use super::*;
    use crate::compare::example::duel;
    use crate::compare::sides::default_thresholds;
    use crate::duel::Fixed;
    use crate::load::Payload;

    fn typed(more: &[&str]) -> Result<DuelArguments, String> {
        let words = ["sparring-loadgen", "duel", "a {port}", "b {port}"].iter().chain(more);
        let parsed = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        match parsed.command {
            Some(Command::Duel(duel)) => Ok(*duel),
            _ => Err("not duel".to_owned()),
        }
    }

    fn options(more: &[&str]) -> Result<Options, String> {
        let typed = typed(more)?;
        typed
            .session
            .options(SessionKind::Ab, [&typed.a, &typed.b], typed.pairs, EngineKind::Epoll)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn flags_reach_the_session() {
        let plain = options(&[]).expect("two commands are enough");
        assert_eq!((plain.pairs, plain.fixed, plain.load.load.connections), (10, Fixed::Calibrated, 64));
        assert_eq!(plain.servers[1].command, ["b", "{port}"]);
        let options = options(&["--pairs", "8", "-R", "5k", "-c", "9", "--spawn-cpus", "0", "--tag", "x"])
            .expect("flags");
        assert_eq!(
            (options.pairs, options.fixed, options.load.load.connections),
            (8, Fixed::Rate(5000.0), 9)
        );
        assert_eq!((options.servers[0].cpus.as_slice(), options.load.load.rate_per_s), (&[0][..], None));
        assert_eq!((options.load.scenario.as_str(), options.tag.as_deref()), ("x", Some("x")));
    }

    #[test]
    fn sides_have_names_and_what_is_known_of_them() {
        let named = [
            "--name-a",
            "ws-8.17",
            "--name-b=ws-8.18",
            "--version-b",
            "8.18.0",
            "--commit-a",
            "0123456789ab",
        ];
        let sides = typed(&named).expect("flags").sides.sides().expect("two names");
        assert_eq!(sides.each_ref().map(|side| side.name.as_str()), ["ws-8.17", "ws-8.18"]);
        assert_eq!(
            (sides[1].version.as_deref(), sides[0].commit.as_deref()),
            (Some("8.18.0"), Some("0123456789ab"))
        );
        let same = typed(&["--name-a", "x", "--name-b", "x"]).expect("flags").sides.sides();
        assert!(same.is_err_and(|error| error.to_string().contains("both `x`")));
        assert!(typed(&["--name-a", "a b"]).is_err() && typed(&["--commit-b", "main"]).is_err());
    }

    #[test]
    fn metrics_to_judge_are_named() {
        let only = typed(&["--only", "server-cpu", "--only", "p99"]).expect("metrics").only;
        assert_eq!(only, [Metric::ServerCpu, Metric::P99]);
        assert!(typed(&["--only", "speed"]).is_err_and(|error| error.contains("one of throughput")));
    }

    #[test]
    fn a_scenario_is_a_load_by_name() {
        let load = options(&["--scenario", "text", "--saturation-only"]).expect("known");
        assert_eq!(
            (load.load.load.message_bytes, load.load.load.payload, load.fixed),
            (1024.into(), Payload::TextMixed, Fixed::Off)
        );
        assert_eq!(load.load.scenario, "text");
        assert_eq!(options(&["--scenario", "tcp"]).expect("known").load.load.message_bytes, 38.into());
    }

    #[test]
    fn unusable_flags_are_named() {
        for (flags, named) in [
            (&["--scenario", "fast"][..], "`fast` is unknown"),
            (&["--pairs", "0"], "--pairs"),
            (&["-R", "5k", "--saturation-only"], "--saturation-only"),
            (&["--threshold", "speed=3%"], "throughput"),
            (&["--threshold", "p99"], "METRIC=PERCENT"),
            (&["--threshold", "p99=-1%"], "above 0"),
            (&["-c", "0"], "-c"),
        ] {
            let error = options(flags).expect_err(named);
            assert!(error.contains(named), "{flags:?}: {error}");
        }
    }

    #[test]
    fn the_exit_code_follows_from_the_verdict() {
        let code = |flags: &[&str], document: &Document| {
            let comparison = Comparison::of_arms(document, &default_thresholds);
            typed(flags).expect("flags").exit_code(document, &comparison)
        };
        assert_eq!(code(&[], &duel(10, 1.0)), 0);
        assert_eq!(code(&[], &duel(10, 1.1)), REGRESSED);
        assert_eq!(code(&[], &duel(10, 0.9)), 0);
        let few = ["--pairs", "3"];
        assert_eq!(code(&few, &duel(3, 1.1)), 0);
        assert_eq!(code(&["--pairs", "3", "--fail-inconclusive"], &duel(3, 1.1)), INCONCLUSIVE);
        let mut broken = duel(10, 1.1);
        broken.runs.iter_mut().skip(3).for_each(|run| run.valid = false);
        assert_eq!(code(&[], &broken), INVALID);
        let mut cut = duel(10, 1.1);
        cut.session.interrupted = true;
        assert_eq!(code(&[], &cut), INTERRUPTED);
    }

    #[test]
    fn a_regression_is_confirmed_by_the_same_metric() {
        let of = |document: &Document| Comparison::of_arms(document, &default_thresholds);
        let slower = of(&duel(10, 1.1));
        assert!(confirmed(&slower, &slower) && !confirmed(&slower, &of(&duel(10, 1.0))));
        let mut other = duel(10, 1.0);
        other.runs.iter_mut().filter(|run| run.arm == "B").for_each(|run| run.rate_per_s *= 0.9);
        assert_eq!(of(&other).overall(), Some(Verdict::Regressed));
        assert!(!confirmed(&slower, &of(&other)));
    }
}

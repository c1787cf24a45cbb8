//! `sparring-loadgen history`: a figure over the commits of a branch.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;

use super::{Failure, print_line, say, terminal};
use crate::compare::sides::newer_side;
use crate::compare::table::{figure, percent};
use crate::compare::{Metric, sides::is_sound};
use crate::host::machine::Machine;
use crate::report::history_chart;
use crate::result::table::count;
use crate::result::text_table::TextTable;
use crate::result::{Document, Selection, Store, Stored, median};

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen history echo server-cpu                    the branch that is checked out, on this machine
  sparring-loadgen history echo p99 --branch v1.0 --svg p99.svg

  sparring-loadgen history hot-path-1 instructions            what scripts/instructions.sh has counted

Metrics: throughput, server-cpu, p50, p99, p99.9, memory, enters, switches, faults, instructions, generator-cpu. Each line is a stored session, its figure
the median of its valid runs. Sessions of different days are not interleaved: a step between two of them may be the
machine's. `duel` or scripts/ab.sh decides.

Exit status: 0 shown; 1 nothing to show, or no git; 2 wrong usage.";

/// In the order of git log, the newest last.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct HistoryArguments {
    /// The scenario, by name.
    scenario: String,

    /// The metric, by name.
    metric: Metric,

    /// The branch, or any revision: its ancestors are shown.
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    branch: String,

    /// The machine: its id, or the beginning of that [default: this one].
    #[arg(long, value_name = "ID")]
    machine: Option<String>,

    /// The folder of results.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    results: PathBuf,

    /// Write a chart too.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// A session's figure and where its commit stands in the branch.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    /// From 0, the oldest commit that has a session.
    at: usize,
    commit: String,
    subject: String,
    start: String,
    runs: usize,
    /// In the unit that is shown.
    value: f64,
}

impl HistoryArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let machine = self.machine.clone().unwrap_or_else(|| Machine::here().id);
        let scenario = Some(self.scenario.clone());
        let selection = Selection { machine: Some(machine.clone()), scenario, ..Selection::default() };
        let (found, unreadable) = Store::new(&self.results).select(&selection)?;
        unreadable.iter().for_each(|error| say(&format!("sparring-loadgen: {error}")));
        let (points, others) = self.points(&log(&self.branch)?, &found);
        if points.is_empty() {
            let (scenario, branch, results) = (&self.scenario, &self.branch, self.results.display());
            return Err(Failure::Error(format!(
                "no session of {scenario} by a commit of {branch} on machine {machine} in {results}; \
                 `sparring-loadgen list` shows what there is (--machine)"
            )));
        }
        print_line(&format!(
            "{} {} ({}), machine {machine}\n",
            self.scenario,
            self.metric.name(),
            self.metric.unit()
        ))?;
        print_line(&table(&points, terminal::width()))?;
        if others > 0 {
            print_line(&format!(
                "LEFT OUT: {} whose scenario of this name has other parameters",
                count(others as u64, "session")
            ))?;
        }
        let is_counted = self.metric == Metric::Instructions;
        print_line(if is_counted {
            "\nCounted, not measured: exact, where compiler and kernels of the CPU are the same"
        } else {
            "\nADVISORY: sessions of different times; a step may be the machine's (`duel` decides)"
        })?;
        if let Some(path) = &self.svg {
            let places: Vec<(usize, f64)> = points.iter().map(|point| (point.at, point.value)).collect();
            let commits = points.last().map_or(0, |point| point.at + 1);
            let title = format!("{}: {}", self.scenario, self.metric.label());
            fs::write(path, history_chart(&title, commits, &places))
                .map_err(|error| Failure::Error(format!("--svg {}: {error}", path.display())))?;
        }
        Ok(0)
    }

    /// The figures of the sessions by commits of `log` (oldest first), and how many sessions were another scenario of that name.
    fn points(&self, log: &[(String, String)], found: &[Stored]) -> (Vec<Point>, usize) {
        let place = |document: &Document| {
            let commit = document.subject.commit.as_deref()?;
            log.iter().position(|(hash, _)| hash.starts_with(commit))
        };
        let mut placed: Vec<(usize, &Document)> =
            found.iter().filter_map(|stored| Some((place(&stored.document)?, &stored.document))).collect();
        placed.sort_by_key(|(at, document)| (*at, document.session.start));
        let hash = |document: &Document| {
            let own = document.scenarios.iter().find(|scenario| scenario.name == self.scenario);
            own.map(|scenario| scenario.hash.clone())
        };
        // The newest session has the present meaning of the name.
        let newest = placed.last().and_then(|(_, document)| hash(document));
        let all = placed.len();
        placed.retain(|(_, document)| hash(document) == newest);
        let others = all - placed.len();
        let first = placed.first().map_or(0, |(at, _)| *at);
        let points = placed.iter().filter_map(|(at, document)| self.point(*at, first, &log[*at], document));
        (points.collect(), others)
    }

    fn point(
        &self,
        at: usize,
        first: usize,
        (hash, subject): &(String, String),
        document: &Document,
    ) -> Option<Point> {
        let load = &document.scenarios.iter().find(|scenario| scenario.name == self.scenario)?.parameters;
        let runs = newer_side(document).filter(|run| run.scenario == self.scenario && is_sound(run));
        let measured = runs.filter_map(|run| self.metric.of(run, load));
        let counted = document.counts.iter().filter(|count| count.scenario == self.scenario);
        let counted =
            counted.filter(|count| count.counter == self.metric.name()).map(|count| count.per_message);
        let values: Vec<f64> = measured.chain(counted).collect();
        let dirty = if document.subject.dirty == Some(true) { "+" } else { "" };
        Some(Point {
            at: at - first,
            commit: format!("{}{dirty}", hash.get(..12).unwrap_or(hash)),
            subject: subject.clone(),
            start: document.session.start.to_string().chars().take(16).collect(),
            runs: values.len(),
            value: self.metric.shown(median(values)?),
        })
    }
}

/// The commits that lead to `revision`, oldest first, with their subjects.
fn log(revision: &str) -> Result<Vec<(String, String)>, Failure> {
    let asked = Command::new("git")
        .args(["log", "--reverse", "--format=%H%x09%s", "--end-of-options", revision])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Failure::Error(format!("cannot run git, which knows the order of commits: {error}"))
        })?;
    if !asked.status.success() {
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        let why = said.lines().next().unwrap_or("it does not say why");
        return Err(Failure::Error(format!("git knows no history of `{revision}` here (--branch): {why}")));
    }
    let text = String::from_utf8_lossy(&asked.stdout);
    let commits = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(commits.map(|(hash, subject)| (hash.to_owned(), subject.to_owned())).collect())
}

/// Characters of the plot beside the figures.
const PLOT: usize = 30;
/// Characters of a commit's subject.
const SUBJECT: usize = 36;

fn table(points: &[Point], width: usize) -> String {
    let low = points.iter().map(|point| point.value).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|point| point.value).fold(f64::NEG_INFINITY, f64::max);
    let range = format!("{:<width$}{}", figure(low), figure(high), width = PLOT - figure(high).len());
    let header = ["commit", "measured", "subject", range.as_str(), "median", "change", "runs"];
    let mut table = TextTable::new(header, 4, [6, 2, 1, 3]);
    let mut before: Option<f64> = None;
    for point in points {
        let place = if high > low { (point.value - low) / (high - low) } else { 0.5 };
        let at = (place * (PLOT - 1) as f64).round() as usize;
        table.add_row(vec![
            point.commit.clone(),
            point.start.clone(),
            point.subject.chars().take(SUBJECT).collect(),
            format!("{}o{}", ".".repeat(at), ".".repeat(PLOT - 1 - at)),
            figure(point.value),
            before.map_or_else(String::new, |before| percent(point.value / before)),
            point.runs.to_string(),
        ]);
        before = Some(point.value);
    }
    table.text(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Utc, example};

    fn arguments(metric: Metric) -> HistoryArguments {
        HistoryArguments {
            scenario: "echo".into(),
            metric,
            branch: "HEAD".into(),
            machine: None,
            results: "bench-results".into(),
            svg: None,
        }
    }

    fn session(commit: &str, at_s: u64, rate: f64) -> Stored {
        let mut document = example::document();
        document.subject.commit = Some(commit.to_owned());
        document.session.start = Utc::from_unix_ms(1_800_000_000_000 + at_s * 1000);
        document.runs.iter_mut().for_each(|run| run.rate_per_s = rate);
        Stored { path: "f.json".into(), document }
    }

    fn branch() -> Vec<(String, String)> {
        ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"]
            .map(|hash| (hash.into(), format!("Do {}", &hash[..1])))
            .into()
    }

    #[test]
    fn sessions_are_in_the_order_of_the_branch() {
        let found = [
            session("cccccccccccc", 1, 3.0),
            session("aaaaaaaaaaaa", 2, 1.0),
            session("eeeeeeeeeeee", 3, 9.0),
        ];
        let (points, others) = arguments(Metric::Throughput).points(&branch(), &found);
        let seen: Vec<(usize, &str, f64)> =
            points.iter().map(|p| (p.at, p.subject.as_str(), p.value)).collect();
        assert_eq!(seen, [(0, "Do a", 1.0), (2, "Do c", 3.0)]);
        assert_eq!(others, 0);
        let text = table(&points, 130);
        let last = text.lines().last().expect("lines");
        assert!(last.contains("cccccccccccc") && last.contains("+200.0 %") && last.contains(".o "), "{text}");
        let narrow = table(&points, 80);
        assert!(narrow.lines().all(|line| line.len() <= 80), "{narrow}");
        assert!(
            narrow.contains("+200.0 %") && narrow.contains("not shown in 80 columns: runs, subject"),
            "{narrow}"
        );
    }

    #[test]
    fn another_definition_of_the_scenario_is_left_out() {
        let mut old = session("aaaaaaaaaaaa", 1, 1.0);
        let scenario = &mut old.document.scenarios[0];
        scenario.parameters.connections = 1;
        scenario.rehash();
        let (points, others) =
            arguments(Metric::ServerCpu).points(&branch(), &[old, session("bbbbbbbbbbbb", 2, 2.0)]);
        assert_eq!((points.len(), others), (1, 1));
        assert_eq!(points[0].value, 4.0);
    }

    #[test]
    fn what_was_counted_has_a_point_too() {
        let mut stored = session("aaaaaaaaaaaa", 1, 1.0);
        stored.document.runs.clear();
        stored.document.counts = vec![crate::result::Count {
            scenario: "echo".into(),
            counter: "instructions".into(),
            per_message: 480.25,
            messages: 100_000,
        }];
        let points = |metric| arguments(metric).points(&branch(), std::slice::from_ref(&stored)).0;
        assert_eq!(points(Metric::Instructions)[0].value, 480.25);
        assert!(points(Metric::ServerCpu).is_empty());
    }

    #[test]
    fn invalid_runs_have_no_point() {
        let mut bad = session("aaaaaaaaaaaa", 1, 1.0);
        bad.document.runs.iter_mut().for_each(|run| run.valid = false);
        assert!(arguments(Metric::Throughput).points(&branch(), &[bad]).0.is_empty());
    }
}

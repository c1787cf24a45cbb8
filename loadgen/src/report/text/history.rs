//! A figure over the commits of a branch.

use crate::compare::Metric;
use crate::compare::sides::{is_sound, newer_side};
use crate::report::format::{change, count, figure};
use crate::report::html::history_chart;
use crate::report::{Blocks, Table};
use crate::result::{Document, Stored, median};

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

/// A figure of stored sessions, in the order of their commits.
pub(crate) struct History<'a> {
    scenario: &'a str,
    metric: Metric,
    points: Vec<Point>,
    /// Sessions that have another scenario of this name.
    others: usize,
}

impl<'a> History<'a> {
    /// Returns the figures of the sessions `found` by the commits of `log` (hash and subject, oldest first).
    pub(crate) fn new(scenario: &'a str, metric: Metric, log: &[(String, String)], found: &[Stored]) -> Self {
        let (points, others) = points(scenario, metric, log, found);
        Self { scenario, metric, points, others }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Returns the table of a history on `machine`.
    pub(crate) fn blocks(&self, machine: &str) -> Blocks {
        let (name, unit) = (self.metric.name(), self.metric.unit());
        let mut notes = Vec::new();
        if self.others > 0 {
            let sessions = count(self.others as u64, "session");
            notes.push(format!("LEFT OUT: {sessions} whose scenario of this name has other parameters"));
        }
        notes.push(if self.metric == Metric::Instructions {
            "Counted, not measured: exact, where compiler and kernels of the CPU are the same".to_owned()
        } else {
            "ADVISORY: sessions of different times; a step may be the machine's (`duel` decides)".to_owned()
        });
        let title = format!("{} {name} ({unit}), machine {machine}", self.scenario);
        Blocks::default().title(title).table(table(&self.points)).notes(notes)
    }

    /// Returns the chart as an SVG file.
    pub(crate) fn chart(&self) -> String {
        let places: Vec<(usize, f64)> = self.points.iter().map(|point| (point.at, point.value)).collect();
        let commits = self.points.last().map_or(0, |point| point.at + 1);
        history_chart(&format!("{}: {}", self.scenario, self.metric.label()), commits, &places)
    }
}

/// The figures of the sessions by commits of `log` (oldest first), and how many sessions were another scenario of that name.
fn points(scenario: &str, metric: Metric, log: &[(String, String)], found: &[Stored]) -> (Vec<Point>, usize) {
    let place = |document: &Document| {
        let commit = document.subject.commit.as_deref()?;
        log.iter().position(|(hash, _)| hash.starts_with(commit))
    };
    let mut placed: Vec<(usize, &Document)> =
        found.iter().filter_map(|stored| Some((place(&stored.document)?, &stored.document))).collect();
    placed.sort_by_key(|(at, document)| (*at, document.session.start));
    let hash = |document: &Document| {
        let own = document.scenarios.iter().find(|one| one.name == scenario);
        own.map(|one| one.hash.clone())
    };
    // The newest session has the present meaning of the name.
    let newest = placed.last().and_then(|(_, document)| hash(document));
    let all = placed.len();
    placed.retain(|(_, document)| hash(document) == newest);
    let others = all - placed.len();
    let first = placed.first().map_or(0, |(at, _)| *at);
    let points =
        placed.iter().filter_map(|(at, document)| point(scenario, metric, (*at, first), &log[*at], document));
    (points.collect(), others)
}

fn point(
    scenario: &str,
    metric: Metric,
    (at, first): (usize, usize),
    (hash, subject): &(String, String),
    document: &Document,
) -> Option<Point> {
    let load = &document.scenarios.iter().find(|one| one.name == scenario)?.parameters;
    let runs = newer_side(document).filter(|run| run.scenario == scenario && is_sound(run));
    let measured = runs.filter_map(|run| metric.of(run, load));
    let counted = document.counts.iter().filter(|count| count.scenario == scenario);
    let counted = counted.filter(|count| count.counter == metric.name()).map(|count| count.per_message);
    let values: Vec<f64> = measured.chain(counted).collect();
    let dirty = if document.subject.dirty == Some(true) { "+" } else { "" };
    Some(Point {
        at: at - first,
        commit: format!("{}{dirty}", hash.get(..12).unwrap_or(hash)),
        subject: subject.clone(),
        start: document.session.start.to_string().chars().take(16).collect(),
        runs: values.len(),
        value: metric.shown(median(values)?),
    })
}

/// Characters of the plot beside the figures.
const PLOT: usize = 30;
/// Characters of a commit's subject.
const SUBJECT: usize = 36;

fn table(points: &[Point]) -> Table {
    let low = points.iter().map(|point| point.value).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|point| point.value).fold(f64::NEG_INFINITY, f64::max);
    let range = format!("{:<width$}{}", figure(low), figure(high), width = PLOT - figure(high).len());
    let header = ["commit", "measured", "subject", range.as_str(), "median", "change", "runs"];
    let mut table = Table::new(header, 4, [6, 2, 1, 3]);
    let mut before: Option<f64> = None;
    for point in points {
        let place = if high > low { (point.value - low) / (high - low) } else { 0.5 };
        let at = (place * (PLOT - 1) as f64).round() as usize;
        table.add_row([
            point.commit.clone(),
            point.start.clone(),
            point.subject.chars().take(SUBJECT).collect(),
            format!("{}o{}", ".".repeat(at), ".".repeat(PLOT - 1 - at)),
            figure(point.value),
            before.map_or_else(String::new, |before| change(point.value / before)),
            point.runs.to_string(),
        ]);
        before = Some(point.value);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Format;
    use crate::result::{Utc, example};

    fn points(metric: Metric, found: &[Stored]) -> (Vec<Point>, usize) {
        super::points("echo", metric, &branch(), found)
    }

    fn table(points: &[Point], width: usize) -> String {
        Blocks::default().table(super::table(points)).render(Format::Terminal { width })
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
        let (points, others) = points(Metric::Throughput, &found);
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
        let (points, others) = points(Metric::ServerCpu, &[old, session("bbbbbbbbbbbb", 2, 2.0)]);
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
        let points = |metric| points(metric, std::slice::from_ref(&stored)).0;
        assert_eq!(points(Metric::Instructions)[0].value, 480.25);
        assert!(points(Metric::ServerCpu).is_empty());
    }

    #[test]
    fn invalid_runs_have_no_point() {
        let mut bad = session("aaaaaaaaaaaa", 1, 1.0);
        bad.document.runs.iter_mut().for_each(|run| run.valid = false);
        assert!(points(Metric::Throughput, &[bad]).0.is_empty());
    }
}

//! A figure over the commits of a branch.

use crate::compare::Metric;
use crate::compare::sides::{is_sound, newer_side};
use crate::format::{change, commit, count, figure};
use crate::report::html::history_chart;
use crate::report::{Blocks, Table};
use crate::result::{Count, Document, Stored, median};

/// A session's figure and where its commit stands in the branch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    /// From 0, the oldest commit that has a session.
    at: usize,
    commit: String,
    subject: String,
    start: String,
    runs: usize,
    /// In the unit that is shown.
    value: f64,
}

/// Returns a figure of stored sessions in the order of their commits, of which `others` have
/// another scenario of this name.
pub(crate) fn history(
    scenario: &str,
    metric: Metric,
    machine: &str,
    points: &[Point],
    others: usize,
) -> Blocks {
    let sessions = count(others as u64, "session");
    let left_out = format!("LEFT OUT: {sessions} whose scenario of this name has other parameters");
    let what_it_is = if metric == Metric::Instructions {
        "Counted, not measured: exact, where compiler and kernels of the CPU are the same"
    } else {
        "ADVISORY: sessions of different times; a step may be the machine's (`duel` decides)"
    };
    let notes = (others > 0).then_some(left_out).into_iter().chain([what_it_is.to_owned()]);
    let title = format!("{scenario} {} ({}), machine {machine}", metric.name(), metric.unit());
    Blocks::default().title(title).table(table(points)).notes(notes.collect())
}

pub(crate) fn chart(scenario: &str, metric: Metric, points: &[Point]) -> String {
    let places: Vec<(usize, f64)> = points.iter().map(|point| (point.at, point.value)).collect();
    let commits = points.last().map_or(0, |point| point.at + 1);
    history_chart(&format!("{scenario}: {}", metric.label()), commits, &places)
}

/// Returns the figures of the sessions by commits of `log` (hash and subject, oldest first), and
/// how many sessions were another scenario of that name.
pub(crate) fn points(
    scenario: &str,
    metric: Metric,
    log: &[(String, String)],
    found: &[Stored],
) -> (Vec<Point>, usize) {
    let place = |document: &Document| {
        let commit = document.subject.commit.as_deref()?;
        log.iter().position(|(hash, _)| hash.starts_with(commit))
    };
    let mut placed: Vec<(usize, &Document)> = found
        .iter()
        .filter_map(|stored| Some((place(&stored.document)?, &stored.document)))
        .collect();
    placed.sort_by_key(|(at, document)| (*at, document.session.start));
    let hash = |document: &Document| document.scenario(scenario).map(|one| one.hash.clone());
    // The newest session has the present meaning of the name.
    let newest = placed.last().and_then(|(_, document)| hash(document));
    let all = placed.len();
    placed.retain(|(_, document)| hash(document) == newest);
    let others = all - placed.len();
    let first = placed.first().map_or(0, |(at, _)| *at);
    let point = |(at, document): &(usize, &Document)| {
        let load = &document.scenario(scenario)?.parameters;
        let runs = newer_side(document).filter(|run| run.scenario == scenario && is_sound(run));
        let measured = runs.filter_map(|run| metric.of(run, load));
        let is_it = |count: &&Count| count.scenario == scenario && count.counter == metric.name();
        let counted = document.counts.iter().filter(is_it).map(|count| count.per_message);
        let values: Vec<f64> = measured.chain(counted).collect();
        let ((hash, subject), dirty) = (&log[*at], document.subject.dirty == Some(true));
        Some(Point {
            at: at - first,
            commit: commit(Some(hash)).to_owned() + if dirty { "+" } else { "" },
            subject: subject.clone(),
            start: document.session.start.to_string().chars().take(16).collect(),
            runs: values.len(),
            value: metric.shown(median(values)?),
        })
    };
    (placed.iter().filter_map(point).collect(), others)
}

/// Characters of the plot beside the figures.
const PLOT: usize = 30;
const SUBJECT: usize = 36;

fn table(points: &[Point]) -> Table {
    let low = points.iter().map(|point| point.value).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|point| point.value).fold(f64::NEG_INFINITY, f64::max);
    let range =
        format!("{:<width$}{}", figure(low), figure(high), width = PLOT - figure(high).len());
    let header = ["commit", "measured", "subject", range.as_str(), "median", "change", "runs"];
    let before = std::iter::once(None).chain(points.iter().map(Some));
    let rows = points.iter().zip(before).map(|(point, before)| {
        let place = if high > low { (point.value - low) / (high - low) } else { 0.5 };
        let at = (place * (PLOT - 1) as f64).round() as usize;
        [
            point.commit.clone(),
            point.start.clone(),
            point.subject.chars().take(SUBJECT).collect(),
            format!("{}o{}", ".".repeat(at), ".".repeat(PLOT - 1 - at)),
            figure(point.value),
            before.map_or_else(String::new, |before| change(point.value / before.value)),
            point.runs.to_string(),
        ]
    });
    Table::new(header, 4, [6, 2, 1, 3]).rows(rows)
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
        assert!(
            last.contains("cccccccccccc") && last.contains("+200.0 %") && last.contains(".o "),
            "{text}"
        );
        let narrow = table(&points, 80);
        assert!(narrow.lines().all(|line| line.len() <= 80), "{narrow}");
        assert!(
            narrow.contains("+200.0 %")
                && narrow.contains("not shown in 80 columns: runs, subject"),
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

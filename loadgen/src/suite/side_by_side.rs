//! What an interleaved session shows: each arm's figures, and their ratios to the first arm's, round by round.

use std::collections::{BTreeMap, BTreeSet};

use crate::compare::sides::is_sound;
use crate::compare::statistics::{Estimate, ratio_of_pairs};
use crate::compare::{Metric, Promise};
use crate::experiment::{Experiment, built_in};
use crate::result::table::{count, grouped, latency, optional, repeated_runs, us};
use crate::result::text_table::TextTable;
use crate::result::{Document, Run, Scenario, Summary};

/// The runs of one arm of one scenario.
pub(super) fn runs_of<'a>(document: &'a Document, scenario: &str, arm: &str) -> Vec<&'a Run> {
    document.runs.iter().filter(|run| run.scenario == scenario && run.arm == arm).collect()
}

/// `of` / `against`, over the rounds in which both runs are sound.
fn ratio(
    document: &Document,
    scenario: &Scenario,
    metric: Metric,
    of: &str,
    against: &str,
) -> Option<Estimate> {
    ratio_where(is_sound, document, scenario, metric, of, against)
}

/// `of` / `against`, over the rounds in which both runs count.
pub(super) fn ratio_where(
    counts: fn(&Run) -> bool,
    document: &Document,
    scenario: &Scenario,
    metric: Metric,
    of: &str,
    against: &str,
) -> Option<Estimate> {
    let (of, against) = (runs_of(document, &scenario.name, of), runs_of(document, &scenario.name, against));
    let figure = |run: &Run| metric.of(run, &scenario.parameters);
    let pairs: Vec<(f64, f64)> = of
        .iter()
        .filter(|run| counts(run))
        .filter_map(|run| {
            let other = against.iter().find(|other| other.pair == run.pair && counts(other))?;
            // A figure of nothing has no ratio; it happens where a run got no processor to speak of.
            Some((figure(other)?, figure(run)?)).filter(|&(a, b)| a > 0.0 && b > 0.0)
        })
        .collect();
    ratio_of_pairs(&pairs)
}

/// Every scenario's arms below each other, with what must be known of the session below the table.
#[must_use]
pub fn side_by_side_table(document: &Document, width: usize) -> String {
    let names: Vec<&str> =
        document.arms.iter().filter(|arm| arm.left_out.is_none()).map(|arm| arm.name.as_str()).collect();
    let Some(first) = names.first() else { return String::new() };
    let over_first = |what: &str| format!("{what}\n/ {first}'s (95 %)");
    let header = [
        "\nscenario".to_owned(),
        "\narm".to_owned(),
        "\nmsg/s".to_owned(),
        "server\nus/msg".to_owned(),
        "enters\n/msg".to_owned(),
        "p50\nus".to_owned(),
        "p99\nus".to_owned(),
        "p99.9\nus".to_owned(),
        over_first("server CPU"),
        over_first("p50"),
    ];
    let mut table = TextTable::new(header, 2, [4, 7, 9, 6, 3]);
    for scenario in &document.scenarios {
        add_rows(&mut table, document, scenario, &names);
    }
    let mut text = table.text(width);
    for line in remarks(document) {
        text.push('\n');
        text.push_str(&line);
    }
    let promises = promises_table(document, width).map(|table| format!("\n\n{table}"));
    text + &promises.unwrap_or_default()
}

fn add_rows(table: &mut TextTable, document: &Document, scenario: &Scenario, names: &[&str]) {
    let mut shown = scenario.name.as_str();
    for (index, name) in names.iter().enumerate() {
        let Some(summary) = Summary::of(scenario, &runs_of(document, &scenario.name, name)) else {
            continue;
        };
        let set_against_first = |metric| match index {
            0 => "1".to_owned(),
            _ => ratio(document, scenario, metric, name, names[0]).map_or("-".to_owned(), shown_ratio),
        };
        table.add_row([
            std::mem::take(&mut shown).to_owned(),
            if summary.valid { (*name).to_owned() } else { format!("{name} INVALID") },
            grouped(summary.rate_per_s),
            optional(summary.server_cpu_ns.map(us), 2),
            optional(summary.enters_per_message, 3),
            latency(summary.p50),
            latency(summary.p99),
            latency(summary.p99_9),
            set_against_first(Metric::ServerCpu),
            set_against_first(Metric::P50),
        ]);
    }
}

/// An estimate with its interval.
pub(super) fn shown_ratio(estimate: Estimate) -> String {
    match estimate.interval {
        Some((low, high)) => format!("{:.3} ({low:.3}-{high:.3})", estimate.shift),
        None => format!("{:.3}", estimate.shift),
    }
}

/// What a reader of the table must know.
fn remarks(document: &Document) -> Vec<String> {
    let rounds = document.runs.iter().map(|run| run.pair + 1).max().unwrap_or(0);
    let how = format!(
        "{}. Figures are medians over rounds, percentiles those of all rounds together; ratios are \
         taken\nwithin each round, and their interval holds the true one with 95 %.",
        count(rounds.into(), "round")
    );
    let few = (rounds < 6).then(|| "Six rounds are the fewest that bound an interval.".to_owned());
    let mut invalid: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for run in document.runs.iter().filter(|run| !run.valid) {
        let cells = invalid.entry(run.invalid_reasons.join("; ")).or_default();
        cells.insert(format!("{} on {}", run.scenario, run.arm));
    }
    let invalid = invalid.into_iter().map(|(reasons, cells)| {
        format!("INVALID: {reasons} ({})", cells.into_iter().collect::<Vec<_>>().join(", "))
    });
    let marks = document.session.marks.iter().map(|mark| format!("NOTE: {mark}"));
    let interrupted =
        document.session.interrupted.then(|| "INTERRUPTED: what was measured until then.".to_owned());
    let repeated = repeated_runs(document);
    [how].into_iter().chain(few).chain(invalid).chain(repeated).chain(marks).chain(interrupted).collect()
}

/// Returns the promises of a session. An earlier build stored the name of the suite alone.
fn promises_of(document: &Document) -> Vec<Promise> {
    if let Some(record) = &document.session.experiment {
        return record.promises.clone();
    }
    let of_name = |one: &Experiment| Some(&one.name) == document.session.suite.as_ref();
    built_in().into_iter().find(of_name).map(|one| one.promises).unwrap_or_default()
}

/// Returns the promises of a session and their outcome; `None` where it has none.
#[must_use]
pub fn promises_table(document: &Document, width: usize) -> Option<String> {
    let promises = promises_of(document);
    let mut table = TextTable::new(["figure", "scenario", "at most", "measured (95 %)", ""], 2, [2]);
    for promise in &promises {
        let Some(estimate) = promise.estimate(document) else { continue };
        let row = [
            promise.figure(),
            promise.scenario.clone(),
            promise.at_most.map_or_else(String::new, |limit| format!("{limit:.2}")),
            shown_ratio(estimate),
            promise.outcome(&estimate).name().to_owned(),
        ];
        table.add_row(row);
    }
    (!table.is_empty()).then(|| table.text(width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Over;
    use crate::result::{Arm, ExperimentRecord, Show, example};

    /// Ten rounds of two arms: `slow` takes `factor` times the CPU, in rounds that differ by much more than that.
    fn document(factor: f64, rounds: u32) -> Document {
        let mut document = example::document();
        document.scenarios.truncate(1);
        let arm = |name: &str| Arm { name: name.to_owned(), ..Arm::default() };
        document.arms = vec![arm("quick"), arm("slow")];
        let run = |pair: u32, arm: &str, factor: f64| {
            let mut run = Run { pair, arm: arm.to_owned(), ..example::run("echo", 20_000) };
            let cpu = 3000.0 * (1.0 + f64::from(pair)) * factor;
            run.server.as_mut().expect("known").cpu_ns_per_message = cpu;
            run
        };
        let round =
            |pair| [run(pair, "quick", 1.0), run(pair, "slow", factor * (1.0 + 0.001 * f64::from(pair)))];
        document.runs = (0..rounds).flat_map(round).collect();
        document
    }

    fn promise(at_most: f64) -> Promise {
        let over = Some(Over { arm: Some("slow".to_owned()), ..Over::default() });
        let (scenario, arm) = ("echo".to_owned(), Some("quick".to_owned()));
        Promise { scenario, arm, metric: Metric::ServerCpu, over, at_most: Some(at_most) }
    }

    fn promised(document: &Document, promise: Promise) -> Option<String> {
        let mut document = document.clone();
        let promises = vec![promise];
        let record = ExperimentRecord { hash: String::new(), rounds: 10, show: Show::Arms, promises };
        document.session.experiment = Some(record);
        promises_table(&document, 80)
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        let document = document(1.25, 10);
        let estimate =
            ratio(&document, &document.scenarios[0], Metric::ServerCpu, "slow", "quick").expect("pairs");
        assert!((estimate.shift - 1.255).abs() < 0.01, "{estimate:?}");
        let (low, high) = estimate.interval.expect("ten rounds");
        assert!(low > 1.24 && high < 1.27, "{estimate:?}");
    }

    #[test]
    fn a_round_with_an_invalid_run_does_not_count() {
        let mut document = document(1.25, 10);
        for run in &mut document.runs[..18] {
            run.valid = false;
            run.invalid_reasons = vec!["The generator was the limit.".to_owned()];
        }
        let estimate =
            ratio(&document, &document.scenarios[0], Metric::ServerCpu, "slow", "quick").expect("a pair");
        assert_eq!(estimate.interval, None);
        let text = side_by_side_table(&document, 120);
        assert_eq!(
            text.matches("INVALID: The generator was the limit. (echo on quick, echo on slow)").count(),
            1,
            "{text}"
        );
        document.runs.iter_mut().for_each(|run| run.valid = false);
        assert!(side_by_side_table(&document, 120).contains("slow INVALID"));
    }

    #[test]
    fn a_figure_of_nothing_spoils_its_round_alone() {
        let mut document = document(1.25, 10);
        document.runs[3].server.as_mut().expect("known").cpu_ns_per_message = 0.0;
        let estimate =
            ratio(&document, &document.scenarios[0], Metric::ServerCpu, "slow", "quick").expect("pairs");
        assert!((estimate.shift - 1.255).abs() < 0.01, "{estimate:?}");
    }

    #[test]
    fn the_table_has_a_line_for_each_arm_and_fits_the_width() {
        let mut document = document(1.25, 10);
        document.arms[1].name = "tokio-uring-16ch".to_owned();
        document.scenarios[0].name = "tcp-pipeline".to_owned();
        for run in &mut document.runs {
            run.scenario = "tcp-pipeline".to_owned();
            run.rate_per_s = 12_345_678.0;
            if run.arm == "slow" {
                run.arm = "tokio-uring-16ch".to_owned();
            }
        }
        let text = side_by_side_table(&document, 120);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[2].starts_with("tcp-pipeline  quick ")
                && lines[3].starts_with("              tokio-uring-16ch")
        );
        assert!(lines.iter().all(|line| line.len() <= 120), "{text}");
        assert!(text.contains("10 rounds"), "{text}");
        let text = side_by_side_table(&document, 80);
        let (table, _) = text.split_once("10 rounds").expect("remarks");
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(table.contains("/ quick's (95 %)") && table.contains("not shown in 80 columns"), "{table}");
    }

    #[test]
    fn a_promise_is_kept_missed_or_open() {
        let word = |document: &Document, at_most| {
            let text = promised(document, promise(at_most)).expect("measured");
            text.lines().last().and_then(|line| line.split_whitespace().last()).expect("a word").to_owned()
        };
        let ten = document(1.25, 10);
        assert_eq!((word(&ten, 0.81), word(&ten, 0.75)), ("kept".to_owned(), "MISSED".to_owned()));
        // The interval lies on both sides of the limit, or there is none.
        assert_eq!(
            (word(&ten, 0.797), word(&document(1.25, 3), 0.81)),
            ("open".to_owned(), "open".to_owned())
        );
        let elsewhere = Promise { scenario: "text".to_owned(), ..promise(1.0) };
        assert_eq!(promised(&ten, elsewhere), None);
    }

    #[test]
    fn a_session_ended_early_says_so() {
        let mut document = document(1.25, 2);
        document.session.interrupted = true;
        let text = side_by_side_table(&document, 120);
        assert!(text.contains("INTERRUPTED") && text.contains("Six rounds"), "{text}");
    }
}

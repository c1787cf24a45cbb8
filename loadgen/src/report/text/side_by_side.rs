//! The arms of an interleaved session: each one's figures, and their ratios to the first one's,
//! round by round.

use super::notes::notes;
use crate::compare::rounds::Figure;
use crate::compare::sides::default_thresholds;
use crate::compare::sides::is_sound;
use crate::compare::statistics::Estimate;
use crate::compare::{Conclusion, Metric, Verdict};
use crate::format::{count, grouped, latency, optional, us};
use crate::report::{Blocks, Table};
use crate::result::{Arm, Document, Run, Scenario, Summary};

/// Returns every scenario's arms below each other, and which promises are kept where the session
/// has those arms.
pub(super) fn side_by_side(document: &Document) -> Blocks {
    let Some(first) = first(document) else { return Blocks::default() };
    let mut header = header(&["scenario", "arm"], first);
    header.push("\nverdict".to_owned());
    let against_first = |arm: &Arm| {
        let names = [first.to_owned(), arm.name.clone()];
        Conclusion::of_two(document, names, &Metric::ALL, &default_thresholds)
    };
    let comparisons: Vec<Conclusion> = document.arms.iter().map(against_first).collect();
    let mut rows = Vec::new();
    for scenario in &document.scenarios {
        let mut shown = scenario.name.as_str();
        for (Arm { name, .. }, comparison) in document.arms.iter().zip(&comparisons) {
            let Some(figures) = figures(document, scenario, [name, first], is_sound) else {
                continue;
            };
            let verdict = if name == first { String::new() } else { verdict(comparison, scenario) };
            let names = vec![std::mem::take(&mut shown).to_owned(), name.clone()];
            rows.push([names, figures, vec![verdict]].concat());
        }
    }
    let table = Table::new(header, 2, [4, 7, 9, 6, 3]).rows(rows);
    Blocks::default()
        .table(table)
        .legend(legend(document))
        .notes(notes(document))
        .then(promises(document))
}

/// Returns the verdict over the judged metrics of a scenario. A change that is not one of the
/// ratios beside it has the names of its metrics.
fn verdict(comparison: &Conclusion, scenario: &Scenario) -> String {
    let judged = || comparison.judgements.iter().filter(|one| one.scenario == scenario.name);
    let Some(overall) = Verdict::overall(judged().filter_map(|one| one.verdict)) else {
        return "-".to_owned();
    };
    let changed: Vec<Metric> =
        judged().filter(|one| one.verdict == Some(overall)).map(|one| one.metric).collect();
    let is_shown = changed.iter().any(|metric| matches!(metric, Metric::ServerCpu | Metric::P50));
    if is_shown || matches!(overall, Verdict::Unchanged | Verdict::Inconclusive) {
        return overall.name().to_owned();
    }
    let names: Vec<&str> = changed.into_iter().map(Metric::name).collect();
    format!("{}: {}", overall.name(), names.join(", "))
}

/// Returns what the others are set against: the first server that took part.
pub(super) fn first(document: &Document) -> Option<&str> {
    document.arms.iter().find(|arm| arm.left_out.is_none()).map(|arm| arm.name.as_str())
}

/// Returns the header of a table of arms: names, then the columns of [`figures`].
pub(super) fn header(names: &[&str], first: &str) -> Vec<String> {
    let figures = ["\nmsg/s", "server\nus/msg", "enters\n/msg", "p50\nus", "p99\nus", "p99.9\nus"]
        .map(str::to_owned);
    let over_first = ["server CPU", "p50"].map(|what| format!("{what}\n/ {first}'s (95 %)"));
    let names = names.iter().map(|name| format!("\n{name}"));
    names.chain(figures).chain(over_first).chain(["valid\nrounds".to_owned()]).collect()
}

/// Returns the figures of an arm, and their ratios to the first one's; `None` where it has no run.
/// Runs of which only the cost `counts` show that cost, and a bound of the rate.
pub(super) fn figures(
    document: &Document,
    scenario: &Scenario,
    [arm, first]: [&str; 2],
    counts: fn(&Run) -> bool,
) -> Option<Vec<String>> {
    let runs = document.runs_of(&scenario.name, arm);
    let costed: Vec<&Run> = runs.iter().copied().filter(|run| counts(run)).collect();
    let summary = Summary::of(scenario, if costed.is_empty() { &runs } else { &costed })?;
    let sound = runs.iter().filter(|run| is_sound(run)).count();
    let (bound, validity) = match (sound, costed.is_empty()) {
        (0, true) => ("", "INVALID".to_owned()),
        (0, false) => (">", "limited".to_owned()),
        _ => ("", format!("{sound} of {}", runs.len())),
    };
    let relative =
        |metric, counts| relative(document, scenario, metric, [arm, first], counts, shown_ratio);
    Some(vec![
        format!("{bound}{}", grouped(summary.rate_per_s)),
        optional(summary.server_cpu_ns.map(us), 2),
        optional(summary.enters_per_message, 3),
        latency(summary.p50),
        latency(summary.p99),
        latency(summary.p99_9),
        relative(Metric::ServerCpu, counts),
        relative(Metric::P50, is_sound),
        validity,
    ])
}

pub(super) fn shown_ratio(estimate: Estimate) -> String {
    match estimate.interval {
        Some((low, high)) => format!("{:.3} ({low:.3}-{high:.3})", estimate.shift),
        None => format!("{:.3}", estimate.shift),
    }
}

/// Returns the ratio of an arm to the first one, over the rounds in which both runs count.
pub(super) fn relative(
    document: &Document,
    scenario: &Scenario,
    metric: Metric,
    [arm, first]: [&str; 2],
    counts: fn(&Run) -> bool,
    shown: fn(Estimate) -> String,
) -> String {
    let itself =
        || document.runs_of(&scenario.name, arm).into_iter().any(counts).then(|| "1".to_owned());
    let of = |arm| Figure { scenario: &scenario.name, arm, metric };
    let other = || of(arm).over(of(first), document, counts).map(shown);
    if arm == first { itself() } else { other() }.unwrap_or_else(|| "-".to_owned())
}

fn legend(document: &Document) -> Vec<String> {
    let rounds = document.rounds();
    let mut legend = vec![format!(
        "{}. Figures are medians over rounds, percentiles those of all rounds together; ratios are \
         taken\nwithin each round, and their interval holds the true one with 95 %.",
        count(rounds.into(), "round")
    )];
    legend.push(
        "The verdict is over the judged metrics of the scenario, against the first arm, with the default\n\
         thresholds: the noise of the machine does not raise them."
            .to_owned(),
    );
    legend.extend(
        (rounds < 6).then(|| "Six rounds are the fewest that bound an interval.".to_owned()),
    );
    legend
}

/// Returns the promises of the session and their outcome.
pub(crate) fn promises(document: &Document) -> Blocks {
    let rows = document.promises().iter().map(|promise| {
        let estimate = promise.estimate(document);
        let outcome = estimate.as_ref().map(|estimate| promise.outcome(estimate));
        [
            promise.figure(),
            promise.scenario.clone(),
            promise.at_most.map_or_else(String::new, |limit| format!("{limit}")),
            estimate.map_or_else(|| "-".to_owned(), shown_ratio),
            outcome.unwrap_or("not measured").to_owned(),
        ]
    });
    let header = ["figure", "scenario", "at most", "measured (95 %)", "outcome"];
    Blocks::default().table(Table::new(header, 2, [1, 2]).rows(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::rounds;
    use crate::report::Format;

    fn text(document: &Document, width: usize) -> String {
        side_by_side(document).render(Format::Terminal { width })
    }

    #[test]
    fn an_arm_without_a_valid_run_says_so() {
        let mut document = rounds(1.25, 10);
        for run in &mut document.runs {
            run.valid = false;
            run.invalid_reasons = vec!["The generator was the limit.".to_owned()];
        }
        let text = text(&document, 120);
        assert!(
            text.lines().any(|line| line.contains(" slow ") && line.contains("INVALID")),
            "{text}"
        );
        let note = "INVALID echo quick, echo slow: The generator was the limit. (and 19 like it)";
        assert_eq!(text.matches(note).count(), 1, "{text}");
    }

    #[test]
    fn the_table_has_a_line_for_each_arm_and_fits_the_width() {
        let mut document = rounds(1.25, 10);
        document.arms[1].name = "tokio-uring-16ch".to_owned();
        document.scenarios[0].name = "tcp-pipeline".to_owned();
        for run in &mut document.runs {
            run.scenario = "tcp-pipeline".to_owned();
            run.rate_per_s = 12_345_678.0;
            if run.arm == "slow" {
                run.arm = "tokio-uring-16ch".to_owned();
            }
        }
        let text = super::tests::text(&document, 120);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[2].starts_with("tcp-pipeline  quick ")
                && lines[3].starts_with("              tokio-uring-16ch")
        );
        assert!(lines[..4].iter().all(|line| line.len() <= 120), "{text}");
        assert!(text.contains("10 rounds"), "{text}");
        let text = super::tests::text(&document, 80);
        let (table, _) = text.split_once("10 rounds").expect("remarks");
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(
            table.contains("/ quick's (95 %)") && table.contains("not shown in 80 columns"),
            "{table}"
        );
    }

    #[test]
    fn a_session_ended_early_says_so() {
        let mut document = rounds(1.25, 2);
        document.session.interrupted = true;
        let text = super::tests::text(&document, 120);
        assert!(text.contains("INTERRUPTED") && text.contains("Six rounds"), "{text}");
    }
}

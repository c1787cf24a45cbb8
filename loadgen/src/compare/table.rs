//! A comparison as text for people.

use super::MIN_PAIRS;
use super::sides::Comparison;
use super::verdict::{Judgement, ThresholdSource, Verdict};
use crate::result::table::grouped;
use crate::result::text_table::TextTable;

/// So many metrics are named in the headline.
const NAMED: usize = 3;

/// The verdict in a line, the metrics as a table of at most `width` columns, and what is to be said
/// about them.
#[must_use]
pub fn text(comparison: &Comparison, width: usize) -> String {
    let mut lines = vec![headline(comparison)];
    if comparison.judgements.is_empty() {
        lines.extend(comparison.left_out.iter().map(|line| format!("LEFT OUT: {line}")));
        return lines.join("\n");
    }
    lines.extend([String::new(), table(comparison, width)]);
    lines.extend(remarks(comparison));
    lines.join("\n")
}

/// The verdict in a line: what it is, of which metrics, and what would settle it.
#[must_use]
pub fn headline(comparison: &Comparison) -> String {
    let advisory = if comparison.interleaved { "" } else { "ADVISORY: " };
    let [a, b] = &comparison.sides;
    let Some(overall) = comparison.overall() else {
        return format!("{advisory}{b} against {a}: nothing was judged");
    };
    let mut line = format!("{advisory}{b} against {a}: {}", overall.name().to_uppercase());
    if matches!(overall, Verdict::Improved | Verdict::Regressed) {
        line.push_str(&format!(" ({})", named(comparison, overall)));
    }
    if overall == Verdict::Inconclusive {
        line.push_str(&settle(comparison));
    }
    line
}

/// The metrics with this verdict, the first three by name.
fn named(comparison: &Comparison, verdict: Verdict) -> String {
    let is_it = |judgement: &&Judgement| judgement.verdict == Some(verdict);
    let all: Vec<&Judgement> = comparison.judgements.iter().filter(is_it).collect();
    let mut names: Vec<String> = all
        .iter()
        .take(NAMED)
        .map(|j| format!("{} {} {}", j.scenario, j.metric.name(), percent(j.ratio)))
        .collect();
    if all.len() > NAMED {
        names.push(format!("{} more", all.len() - NAMED));
    }
    names.join(", ")
}

fn settle(comparison: &Comparison) -> String {
    let what = if comparison.interleaved { "pairs" } else { "runs of each" };
    match comparison.more_pairs() {
        Some(more) => format!("; about {more} more {what} would settle it"),
        None => format!("; more {what} will hardly settle it: longer runs or a quieter machine may"),
    }
}

fn table(comparison: &Comparison, width: usize) -> String {
    let unit = if comparison.interleaved { "pairs" } else { "runs" };
    let [a, b] = comparison.sides.each_ref().map(String::as_str);
    let header = ["scenario", "metric", a, b, "change", "95 % interval", unit, "p", "threshold", "verdict"];
    let mut table = TextTable::new(header, 2, [7, 6, 8, 2, 3, 5]);
    for judgement in &comparison.judgements {
        table.add_row(row(judgement));
    }
    table.text(width)
}

fn row(judgement: &Judgement) -> Vec<String> {
    let metric = judgement.metric;
    vec![
        judgement.scenario.clone(),
        format!("{} {}", metric.name(), metric.unit()),
        figure(metric.shown(judgement.a)),
        figure(metric.shown(judgement.b)),
        percent(judgement.ratio),
        judgement
            .interval
            .map_or_else(|| "-".to_owned(), |(low, high)| format!("{} to {}", percent(low), percent(high))),
        judgement.pairs.to_string(),
        format!("{:.3}", judgement.p_adjusted.unwrap_or(judgement.p)),
        judgement.threshold.map_or_else(String::new, |threshold| {
            let mark = if threshold.source == ThresholdSource::Noise { "*" } else { "" };
            format!("{:.1} %{mark}", threshold.relative * 100.0)
        }),
        judgement.verdict.map_or("shown", Verdict::name).to_owned(),
    ]
}

/// A ratio as a change: `+5.0 %`.
#[must_use]
pub fn percent(ratio: f64) -> String {
    let change = (ratio - 1.0) * 100.0;
    // What rounds to nothing has no sign.
    if change.abs() < 0.05 { "0.0 %".to_owned() } else { format!("{change:+.1} %") }
}

/// A figure with the digits that mean something.
#[must_use]
pub fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1000.0.. => grouped(value),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// What the table does not say.
fn remarks(comparison: &Comparison) -> Vec<String> {
    let judged = || comparison.judgements.iter().filter(|judgement| judgement.verdict.is_some());
    let mut remarks = vec![String::new()];
    if judged().any(|judgement| judgement.threshold.is_some_and(|t| t.source == ThresholdSource::Noise)) {
        remarks
            .push("* twice this machine's noise between identical servers, as `aa` recorded it".to_owned());
    }
    let is_open = |judgement: &Judgement| judgement.verdict == Some(Verdict::Inconclusive);
    if judged().any(|judgement| judgement.pairs < MIN_PAIRS && is_open(judgement)) {
        let unit = if comparison.interleaved { "valid pairs" } else { "valid runs of each" };
        remarks.push(format!("a metric with fewer than {MIN_PAIRS} {unit} is inconclusive"));
    }
    let [a, b] = &comparison.sides;
    remarks.push(format!(
        "change: {b} / {a}, Hodges-Lehmann; p: {}, Holm over the {} judged; `shown`: never judged",
        if comparison.interleaved { "exact signed ranks over pairs" } else { "Mann-Whitney, not paired" },
        judged().count(),
    ));
    if !comparison.interleaved {
        remarks.push(
            "Advisory because the sessions were not interleaved: the machine itself may have changed"
                .to_owned(),
        );
    }
    remarks.extend(comparison.left_out.iter().map(|line| format!("LEFT OUT: {line}")));
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::compare::sides::default_thresholds;
    use crate::compare::{Metric, Threshold, sides};

    fn of(pairs: u32, factor: f64) -> String {
        text(&Comparison::of_arms(&duel(pairs, factor), &default_thresholds), 120)
    }

    #[test]
    fn the_verdict_comes_first_and_every_metric_has_a_line() {
        let text = of(10, 1.06);
        assert!(text.starts_with("B against A: REGRESSED (echo server-cpu +6.2 %)\n"), "{text}");
        let line = text.lines().find(|line| line.contains("server-cpu us/msg")).expect("a line");
        for part in ["echo", "4.01", "4.25", "+6.2 %", " to +6.", "10", "0.006", "2.0 %", "regressed"] {
            assert!(line.contains(part), "{part} not in {line}");
        }
        assert!(text.contains("shown"), "{text}");
        let widest = text.lines().map(str::len).max().expect("lines");
        assert!(widest <= 120, "{widest}:\n{text}");
    }

    #[test]
    fn the_table_fits_80_columns_with_long_names() {
        let mut document = duel(10, 1.06);
        document.scenarios[0].name = "a-scenario-whose-name-is-quite-long".to_owned();
        for run in &mut document.runs {
            run.scenario.clone_from(&document.scenarios[0].name);
            run.rate_per_s *= 1e5;
        }
        let text = text(&Comparison::of_arms(&document, &default_thresholds), 80);
        let (table, _) = text.split_once("\n\n").expect("a headline").1.split_once("\n\n").expect("remarks");
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(table.contains("regressed") && table.contains("+6.2 %"), "{table}");
        assert!(table.contains("not shown in 80 columns: p, pairs, threshold"), "{table}");
    }

    #[test]
    fn what_is_open_says_what_would_settle_it() {
        let text = of(3, 1.06);
        assert!(
            text.contains("INCONCLUSIVE") && text.contains("about 5 more pairs would settle it"),
            "{text}"
        );
        assert!(text.contains("fewer than 8 valid pairs"), "{text}");
    }

    #[test]
    fn a_threshold_from_noise_is_marked_and_explained() {
        let noisy = |_: &crate::result::Scenario, metric: Metric| Threshold::of(metric, Some(0.1));
        let text = text(&sides::Comparison::of_arms(&duel(10, 1.06), &noisy), 120);
        assert!(text.starts_with("B against A: UNCHANGED\n"), "{text}");
        assert!(text.contains("20.0 %*") && text.contains("* twice this machine's noise"), "{text}");
    }

    #[test]
    fn unpaired_sessions_are_advisory() {
        let text = text(&Comparison::of_sessions(&duel(10, 1.0), &duel(10, 1.0), &default_thresholds), 120);
        assert!(text.starts_with("ADVISORY: ") && text.contains("not interleaved"), "{text}");
    }

    #[test]
    fn figures_have_the_digits_that_mean_something() {
        let shown = [0.0312, 3.456, 34.56, 345.6, 345_678.9].map(figure);
        assert_eq!(shown, ["0.031", "3.46", "34.6", "346", "345,679"]);
        assert_eq!((percent(1.05), percent(0.999)), ("+5.0 %".to_owned(), "-0.1 %".to_owned()));
    }
}

//! A comparison: its verdict, its metrics, and what is to be said about them.

use crate::compare::sessions::Change;
use crate::compare::{
    Conclusion, Judgement, MIN_PAIRS, Metric, Threshold, ThresholdSource, Verdict,
};
use crate::format::{change, change_interval, commit, count, figure, share};
use crate::report::{Blocks, Table};
use crate::result::Scenario;

const NAMED: usize = 3;

pub(crate) fn comparison(conclusion: &Conclusion) -> Blocks {
    Blocks::default()
        .title(headline(conclusion))
        .table(table(conclusion, |_| true))
        .notes(remarks(conclusion))
}

/// The verdict in a line: what it is, of which metrics, and what would settle it.
pub(crate) fn headline(conclusion: &Conclusion) -> String {
    let advisory = if conclusion.interleaved { "" } else { "ADVISORY: " };
    let [a, b] = &conclusion.sides;
    if let Some(why) = failed_control(conclusion) {
        return format!("{b} against {a}: THIS RUNNER CANNOT TELL: {why}");
    }
    let Some(overall) = conclusion.overall else {
        return format!("{advisory}{b} against {a}: nothing was judged");
    };
    let mut line = format!("{advisory}{b} against {a}: {}", overall.name().to_uppercase());
    if matches!(overall, Verdict::Improved | Verdict::Regressed) {
        let is_it = |judgement: &&Judgement| judgement.verdict == Some(overall);
        line.push_str(&format!(" ({})", named(conclusion.judgements.iter().filter(is_it))));
    }
    if overall == Verdict::Inconclusive {
        line.push_str(&needed_to_decide(conclusion));
    }
    line
}

/// Returns the reason why the placebo forbids a verdict; `None` where it does not. A regression
/// needs no more: each of its metrics was controlled.
fn failed_control(conclusion: &Conclusion) -> Option<String> {
    let placebo = conclusion.placebo.as_ref().filter(|placebo| placebo.cannot_tell())?;
    let a = &conclusion.sides[0];
    if placebo.changed().next().is_some() {
        return Some(format!("{a} against itself differs ({})", named(placebo.changed())));
    }
    if conclusion.overall == Some(Verdict::Regressed) {
        return None;
    }
    let Some(few) = placebo.too_few() else {
        return Some(format!("{a} has no valid pairs with itself"));
    };
    let pairs = count(few.pairs as u64, "valid pair");
    Some(format!("{a} has only {pairs} with itself in {}, of {MIN_PAIRS} needed", few.scenario))
}

/// The metrics with their changes, the first three by name.
fn named<'a>(judgements: impl Iterator<Item = &'a Judgement>) -> String {
    let all: Vec<&Judgement> = judgements.collect();
    let mut names: Vec<String> = all
        .iter()
        .take(NAMED)
        .map(|j| format!("{} {} {}", j.scenario, j.metric.name(), change(j.ratio)))
        .collect();
    if all.len() > NAMED {
        names.push(format!("{} more", all.len() - NAMED));
    }
    names.join(", ")
}

fn needed_to_decide(conclusion: &Conclusion) -> String {
    let what = if conclusion.interleaved { "pairs" } else { "runs of each" };
    match conclusion.more_pairs() {
        Some(more) => format!("; about {more} more {what} would settle it"),
        None => {
            format!("; more {what} will hardly settle it: longer runs or a quieter machine may")
        }
    }
}

/// The metrics that are wanted. What decides stands to the left: the rest may be beyond the edge of
/// a phone.
///
/// The change is estimated over pairs, or over all runs of both sides. It may differ from the ratio
/// of the medians, which is why each of them is named.
pub(crate) fn table(conclusion: &Conclusion, is_wanted: impl Fn(&Judgement) -> bool) -> Table {
    let (estimate, unit) = if conclusion.interleaved {
        ("paired\nchange", "pairs")
    } else {
        ("estimated\nchange", "runs")
    };
    let [a, b] = conclusion.sides.each_ref().map(|name| format!("{name}\nmedian"));
    let [scenario, metric, verdict, interval, unit, p, threshold] =
        ["scenario", "metric", "verdict", "95 % interval", unit, "p", "threshold"]
            .map(|name| format!("\n{name}"));
    let mut header =
        vec![scenario, metric, verdict, estimate.to_owned(), interval, a, b, unit, p, threshold];
    header.extend(conclusion.placebo.as_ref().map(|placebo| format!("{}\nchange", placebo.name)));
    let wanted = conclusion.judgements.iter().filter(|one| is_wanted(one));
    let rows = wanted.map(|judgement| {
        let placebo = conclusion.placebo.as_ref().map(|placebo| {
            let same = placebo.same_metric(judgement);
            same.map_or_else(|| "-".to_owned(), |same| change(same.ratio))
        });
        row(judgement).into_iter().chain(placebo).collect::<Vec<String>>()
    });
    Table::new(header, 3, [8, 7, 9, 5, 6, 4]).rows(rows)
}

/// A change that was found, in a sentence.
pub(crate) fn shown_change(judgement: &Judgement) -> String {
    let Judgement { metric, ratio, interval, a, b, .. } = judgement;
    let verdict = judgement.verdict.map_or("shown", Verdict::name);
    let [a, b] = [a, b].map(|value| figure(metric.shown(*value)));
    let threshold = judgement
        .threshold
        .map_or_else(String::new, |one| format!("; the threshold is {}", share(one.relative, 1)));
    let (ratio, interval) = (change(*ratio), change_interval(*interval));
    format!(
        "{verdict} by {ratio} (95 % interval {interval}), from {a} to {b} {}{threshold}",
        metric.unit()
    )
}

fn row(judgement: &Judgement) -> [String; 10] {
    let metric = judgement.metric;
    [
        judgement.scenario.clone(),
        format!("{} {}", metric.name(), metric.unit()),
        judgement.verdict.map_or("shown", Verdict::name).to_owned(),
        change(judgement.ratio),
        change_interval(judgement.interval),
        figure(metric.shown(judgement.a)),
        figure(metric.shown(judgement.b)),
        judgement.pairs.to_string(),
        format!("{:.3}", judgement.p_adjusted.unwrap_or(judgement.p)),
        judgement.threshold.map_or_else(String::new, threshold),
    ]
}

/// A threshold, with a star where it comes from the machine's noise.
pub(super) fn threshold(threshold: Threshold) -> String {
    let mark = if threshold.source == ThresholdSource::Noise { "*" } else { "" };
    share(threshold.relative, 1) + mark
}

pub(crate) fn remarks(conclusion: &Conclusion) -> Vec<String> {
    let judged = || conclusion.judgements.iter().filter(|judgement| judgement.verdict.is_some());
    let mut remarks = Vec::new();
    if judged()
        .any(|judgement| judgement.threshold.is_some_and(|t| t.source == ThresholdSource::Noise))
    {
        remarks.push(
            "* twice this machine's noise between identical servers, as `aa` recorded it"
                .to_owned(),
        );
    }
    let is_open = |judgement: &Judgement| judgement.verdict == Some(Verdict::Inconclusive);
    if judged().any(|judgement| judgement.pairs < MIN_PAIRS && is_open(judgement)) {
        let unit = if conclusion.interleaved { "valid pairs" } else { "valid runs of each" };
        remarks.push(format!("a metric with fewer than {MIN_PAIRS} {unit} is inconclusive"));
    }
    let [a, b] = &conclusion.sides;
    if let Some(placebo) = &conclusion.placebo {
        let placebo = &placebo.name;
        remarks.push(format!(
            "{placebo}: {a} once more; a change of {b} counts only if it shows against both, and if \
             {placebo} is not called changed"
        ));
    }
    let (estimate, test) = if conclusion.interleaved {
        ("over pairs", "exact signed ranks over pairs")
    } else {
        ("over all runs of both", "Mann-Whitney, not paired")
    };
    if !conclusion.judgements.is_empty() {
        remarks.extend([
            format!("change: {b} / {a}, estimated {estimate} (Hodges-Lehmann); it may differ from the ratio of the medians"),
            format!("p: {test}, Holm over the {} judged; `shown`: never judged", judged().count()),
        ]);
    }
    if !conclusion.interleaved && !conclusion.judgements.is_empty() {
        remarks.push(
            "Advisory because the sessions were not interleaved: the machine itself may have changed"
                .to_owned(),
        );
    }
    remarks.extend(conclusion.notes.iter().map(|line| format!("LEFT OUT: {line}")));
    remarks
}

/// Returns the change since an earlier session, with what it cannot say.
pub(crate) fn since(Change { earlier, comparison, cautions }: &Change) -> Blocks {
    let file = earlier.file_name();
    let commit = commit(earlier.document.subject.commit.as_deref());
    let of = |scenario: &str, metric| {
        let found = comparison
            .judgements
            .iter()
            .find(|one| one.scenario == scenario && one.metric == metric);
        found.map_or_else(|| "-".to_owned(), |found| change(found.ratio))
    };
    let rows = earlier.document.scenarios.iter().map(|Scenario { name, .. }| {
        let [rate, cpu, p50, p99] =
            [Metric::Throughput, Metric::ServerCpu, Metric::P50, Metric::P99];
        [name.clone(), of(name, rate), of(name, cpu), of(name, p50), of(name, p99)]
    });
    let table =
        Table::new(["scenario", "msg/s", "server CPU/msg", "p50", "p99"], 1, [3]).rows(rows);
    let mut notes = cautions.clone();
    notes.push(
        "Advisory because the two sessions were not interleaved: between them the machine itself may have become\n\
         faster or slower, and nothing here can tell that from a change of the server."
            .to_owned(),
    );
    let title =
        format!("ADVISORY: change since {file} (commit {commit}), estimated over the runs of both");
    Blocks::default().title(title).table(table).notes(notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Metric;
    use crate::compare::example::{controlled, duel};
    use crate::compare::sessions::change_between;
    use crate::compare::sides::default_thresholds;
    use crate::report::Format;
    use crate::result::{Stored, example};

    fn text(compared: &Conclusion, width: usize) -> String {
        comparison(compared).render(Format::Terminal { width })
    }

    fn of(pairs: u32, factor: f64) -> String {
        text(&Conclusion::of_arms(&duel(pairs, factor), &default_thresholds), 120)
    }

    #[test]
    fn the_verdict_comes_first_and_every_metric_has_a_line() {
        let text = of(10, 1.06);
        assert!(text.starts_with("B against A: REGRESSED (echo server-cpu +6.2 %)\n"), "{text}");
        let line = text.lines().find(|line| line.contains("server-cpu us/msg")).expect("a line");
        for part in
            ["echo", "4.01", "4.25", "+6.2 %", " to +6.", "10", "0.006", "2.0 %", "regressed"]
        {
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
        let text = super::tests::text(&Conclusion::of_arms(&document, &default_thresholds), 80);
        let (table, _) = text.split_once("\n\n").expect("remarks");
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
        let text = super::tests::text(&Conclusion::of_arms(&duel(10, 1.06), &noisy), 120);
        assert!(text.starts_with("B against A: UNCHANGED\n"), "{text}");
        assert!(
            text.contains("20.0 %*") && text.contains("* twice this machine's noise"),
            "{text}"
        );
    }

    #[test]
    fn a_placebo_has_a_column_and_may_forbid_the_verdict() {
        let of = |placebo: f64, head: f64, invalid: u32| {
            let mut document = controlled(10, placebo, head);
            let runs = document.runs.iter_mut();
            runs.filter(|run| run.pair < invalid).for_each(|run| run.valid = false);
            text(&Conclusion::of_arms(&document, &default_thresholds), 160)
        };
        let red = of(1.0, 1.06, 0);
        assert!(
            red.starts_with("head against base: REGRESSED (echo server-cpu +6.2 %)\n"),
            "{red}"
        );
        let header = red.lines().take(4).collect::<String>();
        assert!(header.contains("placebo") && red.contains("placebo: base once more"), "{red}");
        let doubtful = of(1.1, 1.2, 0);
        let start = "head against base: THIS RUNNER CANNOT TELL: base against itself differs \
                     (echo server-cpu +10.";
        assert!(doubtful.starts_with(start), "{doubtful}");
        assert!(!doubtful.contains("regressed"), "{doubtful}");
        let few = of(1.0, 1.0, 3);
        assert!(few.contains("base has only 7 valid pairs with itself in echo, of 8"), "{few}");
        let none = of(1.0, 1.0, 10);
        assert!(none.contains("TELL: base has no valid pairs with itself"), "{none}");
    }

    #[test]
    fn unpaired_sessions_are_advisory() {
        let text = super::tests::text(
            &Conclusion::of_sessions(&duel(10, 1.0), &duel(10, 1.0), &default_thresholds),
            120,
        );
        assert!(text.starts_with("ADVISORY: ") && text.contains("not interleaved"), "{text}");
        assert!(text.contains("estimated") && text.contains("over all runs of both"), "{text}");
        assert!(of(10, 1.06).contains(" paired ") && of(10, 1.06).contains("estimated over pairs"));
    }

    #[test]
    fn the_change_is_headed_advisory_and_says_why() {
        let path = "m/20260301T093000Z-abcdef012345-quick.json".into();
        let earlier = Stored { path, document: example::document() };
        let change = change_between(earlier, &example::document()).expect("comparable");
        let text = since(&change).render(Format::Terminal { width: 160 });
        assert!(text.starts_with(
            "ADVISORY: change since 20260301T093000Z-abcdef012345-quick.json (commit abcdef012345), estimated"
        ));
        assert!(text.contains("not interleaved"), "{text}");
        let line = text.lines().find(|line| line.starts_with("tcp")).expect("a line for tcp");
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>().join(" "),
            "tcp 0.0 % 0.0 % 0.0 % 0.0 %"
        );
    }
}

//! Figures as JSON: the Bencher Metric Format, and the custom formats of github-action-benchmark.

use std::collections::BTreeMap;

use serde::Serialize;

use super::figures::Figure;
use crate::format::{count, figure};

/// A metric of the Bencher Metric Format.
#[derive(Serialize)]
struct BmfMetric {
    value: f64,
    lower_value: f64,
    upper_value: f64,
}

/// Returns figures as Bencher Metric Format: benchmarks are scenarios with their arms, measures are
/// metrics by their slugs, in the units of stored documents. The bounds are the lowest and the
/// highest run.
pub(super) fn bmf(figures: &[Figure<'_>]) -> anyhow::Result<String> {
    let mut benchmarks: BTreeMap<String, BTreeMap<String, BmfMetric>> = BTreeMap::new();
    for one in figures {
        let metric =
            BmfMetric { value: one.value, lower_value: one.lowest, upper_value: one.highest };
        // A slug has no dot.
        let measure = one.metric.name().replace('.', "-");
        benchmarks.entry(one.place()).or_default().insert(measure, metric);
    }
    Ok(serde_json::to_string_pretty(&benchmarks)? + "\n")
}

/// A result of `customSmallerIsBetter` and `customBiggerIsBetter`.
#[derive(Serialize)]
struct CustomBenchmark {
    name: String,
    unit: &'static str,
    value: f64,
    range: String,
    extra: String,
}

/// Returns the figures of one direction, because the tool takes one direction for each file. Units
/// are those of tables.
pub(super) fn github_action_benchmark(
    figures: &[Figure<'_>],
    is_bigger_better: bool,
) -> anyhow::Result<String> {
    let fits = figures.iter().filter(|one| one.metric.higher_is_better() == is_bigger_better);
    let result = |one: &Figure<'_>| {
        let [lowest, highest] =
            [one.lowest, one.highest].map(|value| figure(one.metric.shown(value)));
        CustomBenchmark {
            name: format!("{} {}", one.place(), one.metric.name()),
            unit: one.metric.unit(),
            value: one.metric.shown(one.value),
            range: format!("{lowest} to {highest}"),
            extra: count(one.runs as u64, "run"),
        }
    };
    Ok(serde_json::to_string_pretty(&fits.map(result).collect::<Vec<_>>())? + "\n")
}

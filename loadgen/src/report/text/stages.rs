//! The stages of a run, a line each.

use crate::format::{grouped, span};
use crate::report::Table;
use crate::result::{Run, StageRecord};

/// Returns the table; empty for a run without stages.
pub(super) fn table(run: &Run) -> Table {
    let header = [
        "stage",
        "planned rate",
        "time",
        "msg/s",
        "p50",
        "p99",
        "max",
        "lag p99",
        "errors",
        "valid",
    ];
    Table::new(header, 2, [7, 4, 6, 2, 8]).rows(run.stages.iter().map(row))
}

fn row(stage: &StageRecord) -> Vec<String> {
    let latency = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), span);
    let corrected = &stage.latency_ns.corrected;
    let rate = match stage.from_per_s == stage.to_per_s {
        true => grouped(stage.to_per_s),
        false => format!("{} to {}", grouped(stage.from_per_s), grouped(stage.to_per_s)),
    };
    let bound = |q: f64| match stage.censored {
        Some(censored) if censored.bounds(q) => ">=",
        _ => "",
    };
    vec![
        stage.number.to_string(),
        rate,
        span(stage.span_ns),
        grouped(stage.rate_per_s),
        format!("{}{}", bound(0.5), latency(corrected.p50)),
        format!("{}{}", bound(0.99), latency(corrected.p99)),
        format!("{}{}", bound(1.0), latency((corrected.count > 0).then_some(corrected.max))),
        latency(stage.latency_ns.lag.p99),
        grouped(stage.errors as f64),
        if stage.valid { "yes" } else { "NO" }.to_owned(),
    ]
}

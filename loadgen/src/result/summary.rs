//! A scenario's runs in one line: medians of what was measured per run, percentiles of the merged
//! histograms.

use hdrhistogram::Histogram;

use super::document::{Document, Run, Scenario};
use super::latency::percentile;

/// The figures of one scenario over its valid runs, or over all of them where none is valid.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    pub(crate) scenario: String,
    /// The server's engine, or the generator's where the server's is not known.
    pub(crate) engine: String,
    /// True if the runs behind the figures were valid.
    pub(crate) valid: bool,
    /// True if one of them was ended early by the user.
    pub(crate) interrupted: bool,
    pub(crate) rate_per_s: f64,
    pub(crate) bytes_per_s: f64,
    /// Server CPU per message, nanoseconds.
    pub(crate) server_cpu_ns: Option<f64>,
    pub(crate) server_user_ns: Option<f64>,
    /// System calls that wait for or submit I/O, per message, in the server.
    pub(crate) enters_per_message: Option<f64>,
    /// Corrected latency, nanoseconds: median, 99th and 99.9th percentile.
    pub(crate) p50: Option<u64>,
    pub(crate) p99: Option<u64>,
    pub(crate) p99_9: Option<u64>,
    /// Generator CPU per message, nanoseconds.
    pub(crate) client_cpu_ns: f64,
    /// Utilisation of the generator's busiest thread, 0 to 1.
    pub(crate) client_utilisation: f64,
}

impl Summary {
    /// One summary per scenario of `document` that has runs, in the document's order.
    pub(crate) fn all(document: &Document) -> Vec<Self> {
        let runs_of = |scenario: &Scenario| {
            document.runs.iter().filter(|run| run.scenario == scenario.name).collect::<Vec<_>>()
        };
        document
            .scenarios
            .iter()
            .filter_map(|scenario| Self::of(scenario, &runs_of(scenario)))
            .collect()
    }

    /// The summary of some runs of a scenario: of one side of a comparison, say. `None` where there
    /// are no runs.
    pub(crate) fn of(scenario: &Scenario, all: &[&Run]) -> Option<Self> {
        let valid: Vec<&Run> = all.iter().copied().filter(|run| run.valid).collect();
        let runs = if valid.is_empty() { all } else { &valid };
        let over = |figure: &dyn Fn(&Run) -> Option<f64>| {
            median(runs.iter().filter_map(|run| figure(run)).collect())
        };
        let latencies = merged(runs);
        let latency = |q| percentile(latencies.as_ref()?, q);
        let engine = scenario.server.engine.as_ref().or(scenario.generator.engine.as_ref());
        Some(Self {
            scenario: scenario.name.clone(),
            engine: engine.cloned().unwrap_or_default(),
            valid: !valid.is_empty(),
            interrupted: runs.iter().any(|run| run.interrupted),
            rate_per_s: over(&|run| Some(run.rate_per_s))?,
            bytes_per_s: over(&|run| Some(run.bytes_per_s))?,
            server_cpu_ns: over(&|run| run.server.as_ref()?.cpu_ns()),
            server_user_ns: over(&|run| run.server.as_ref()?.user_ns_per_message),
            enters_per_message: over(&|run| {
                run.server.as_ref()?.enters_per_message(&scenario.parameters)
            }),
            p50: latency(0.5),
            p99: latency(0.99),
            p99_9: latency(0.999),
            client_cpu_ns: over(&|run| Some(run.client.cpu_ns_per_message))?,
            client_utilisation: over(&|run| {
                Some(run.client.cpu_utilisation.iter().copied().fold(0.0, f64::max))
            })?,
        })
    }
}

/// Returns the corrected latencies of several runs as one histogram: percentiles are never
/// averaged. If the histogram of one run cannot be read, the scenario has none.
pub(crate) fn merged(runs: &[&Run]) -> Option<Histogram<u64>> {
    let mut each = runs.iter().map(|run| run.latency_ns.corrected.histogram().ok().flatten());
    let first = each.next()??;
    each.try_fold(first, |mut sum, next| sum.add(&next?).ok().map(|()| sum))
}

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::example;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 9.0, 2.0]), Some(3.0));
    }

    #[test]
    fn an_invalid_run_does_not_count_where_there_is_a_valid_one() {
        let mut document = example::document();
        let mut bad = document.runs[0].clone();
        bad.valid = false;
        bad.rate_per_s = 1.0;
        document.runs.push(bad);
        let summary = &Summary::all(&document)[0];
        assert!(summary.valid);
        assert!((summary.rate_per_s - 100_000.0).abs() < 1e-9);
    }

    #[test]
    fn a_scenario_without_a_valid_run_is_shown_as_invalid() {
        let mut document = example::document();
        document.runs[0].valid = false;
        let summary = &Summary::all(&document)[0];
        assert!(!summary.valid);
    }

    #[test]
    fn percentiles_come_from_the_merged_histogram() {
        let mut document = example::document();
        // Alone neither run carries a p99.9; together they do.
        document.runs = vec![example::run("echo", 60_000), example::run("echo", 60_000)];
        assert_eq!(document.runs[0].latency_ns.corrected.p99_9, None);
        let summary = &Summary::all(&document)[0];
        assert!(summary.p99_9.is_some());
    }

    #[test]
    fn raw_messages_are_counted_by_their_bytes() {
        let mut document = example::document();
        let of = |document: &Document, scenario: &str| {
            let all = Summary::all(document);
            all.iter()
                .find(|summary| summary.scenario == scenario)
                .and_then(|s| s.enters_per_message)
        };
        // 6,000 enters for 200,000 messages of a WebSocket.
        assert_eq!(of(&document, "echo"), Some(0.03));
        document.runs = vec![example::run("tcp", 60_000)];
        let tcp = document
            .scenarios
            .iter()
            .find(|scenario| scenario.name == "tcp")
            .expect("the scenario");
        let bytes = tcp.parameters.message_bytes.largest() as u64;
        let server = document.runs[0].server.as_mut().expect("a server");
        server.counters.insert("bytes_in".into(), 200_000 * bytes);
        // Reads, of which one may hold many messages.
        server.counters.insert("messages".into(), 10);
        assert_eq!(of(&document, "tcp"), Some(0.03));
    }

    #[test]
    fn a_scenario_that_was_not_reached_has_no_line() {
        let mut document = example::document();
        document.runs.retain(|run| run.scenario != "echo");
        assert!(Summary::all(&document).iter().all(|summary| summary.scenario != "echo"));
    }
}

//! Figures as OpenMetrics text, with the time of the session, for example to backfill Prometheus.

use std::fmt::Write as _;

use super::figures::Figure;
use crate::compare::Metric;
use crate::result::Document;

/// Name of a metric's family without the program's name, and the factor to the base unit in which
/// OpenMetrics has it.
fn family(metric: Metric) -> (String, f64) {
    let seconds = 1e-9;
    let (name, factor) = match metric {
        Metric::Throughput => ("messages_per_second", 1.0),
        Metric::ServerCpu => ("server_cpu_seconds_per_message", seconds),
        Metric::GeneratorCpu => ("generator_cpu_seconds_per_message", seconds),
        Metric::P50 => ("latency_p50_seconds", seconds),
        Metric::P99 => ("latency_p99_seconds", seconds),
        Metric::P99_9 => ("latency_p99_9_seconds", seconds),
        Metric::Memory => ("server_memory_bytes_per_connection", 1.0),
        other => return (format!("server_{}_per_message", other.name()), 1.0),
    };
    (name.to_owned(), factor)
}

pub(super) fn openmetrics(document: &Document, figures: &[Figure<'_>]) -> String {
    let time = document.session.start.unix_ns() as f64 / 1e9;
    let mut text = String::new();
    for metric in Metric::ALL {
        let of_metric: Vec<_> = figures.iter().filter(|one| one.metric == metric).collect();
        if of_metric.is_empty() {
            continue;
        }
        let (name, factor) = family(metric);
        // Writing to memory does not fail.
        let _ = writeln!(text, "# TYPE sparring_{name} gauge");
        let help = format!("Median over the valid runs: {}.", metric.name());
        let _ = writeln!(text, "# HELP sparring_{name} {}", escaped(&help));
        for one in of_metric {
            let places = [("scenario", Some(one.scenario)), ("arm", one.arm)];
            let labels =
                labels(places.into_iter().filter_map(|(name, value)| Some((name, value?))));
            let _ = writeln!(text, "sparring_{name}{{{labels}}} {} {time:.3}", one.value * factor);
        }
    }
    let facts = [
        ("version", Some(document.tool.version.as_str())),
        ("machine", Some(document.machine.id.as_str())),
        ("commit", document.subject.commit.as_deref()),
        ("tag", document.session.tag.as_deref()),
        ("experiment", document.session.suite.as_deref()),
    ];
    let labels = labels(facts.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let _ = write!(
        text,
        "# TYPE sparring_session info\n# HELP sparring_session The measured session.\n\
         sparring_session_info{{{labels}}} 1 {time:.3}\n# EOF\n"
    );
    text
}

fn labels<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let label = |(name, value): (&str, &str)| format!("{name}=\"{}\"", escaped(value));
    labels.map(label).collect::<Vec<_>>().join(",")
}

/// Returns a label's value, or a help text, as OpenMetrics escapes it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

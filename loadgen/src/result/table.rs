//! Results as text for people: one table a session, the ratios derived from it, the change since the last one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::change::Change;
use super::document::{Document, Run};
use super::summary::Summary;
use super::text_table::TextTable;

/// The session as one table of at most `width` columns, with the reasons of invalid runs below it.
#[must_use]
pub fn summary_table(document: &Document, width: usize) -> String {
    let header = [
        "\nscenario",
        "server\nengine",
        "\nmsg/s",
        "\nMB/s",
        "server\nus/msg",
        "of it\nuser",
        "enters\n/msg",
        "p50\nus",
        "p99\nus",
        "p99.9\nus",
        "gen.\nus/msg",
        "gen.\nCPU %",
        "\nvalid",
    ];
    // Left out first: what is derived, then what is about the generator.
    let mut table = TextTable::new(header, 2, [3, 5, 6, 11, 10, 9, 1, 4]);
    for summary in Summary::all(document) {
        table.add_row(row(&summary));
    }
    let mut text = table.text(width);
    for reason in invalid_reasons(document) {
        text.push_str(&format!("\n{reason}"));
    }
    text
}

fn row(summary: &Summary) -> Vec<String> {
    vec![
        short_name(&summary.scenario).to_owned(),
        summary.engine.clone(),
        grouped(summary.rate_per_s),
        optional(Some(summary.bytes_per_s / 1e6), 1),
        optional(summary.server_cpu_ns.map(us), 2),
        optional(summary.server_user_ns.map(us), 2),
        optional(summary.enters_per_message, 3),
        latency(summary.p50),
        latency(summary.p99),
        latency(summary.p99_9),
        optional(Some(us(summary.client_cpu_ns)), 2),
        optional(Some(summary.client_utilisation * 100.0), 0),
        validity(summary).to_owned(),
    ]
}

fn validity(summary: &Summary) -> &'static str {
    match (summary.valid, summary.interrupted) {
        (false, _) => "NO",
        (true, true) => "cut",
        (true, false) => "yes",
    }
}

/// The scenario without `@engine`: the engine has a column of its own.
fn short_name(scenario: &str) -> &str {
    scenario.split_once('@').map_or(scenario, |(name, _)| name)
}

/// Returns the reasons why runs were repeated: each kind of reason once, in the words of its first run.
pub(crate) fn repeated_runs(document: &Document) -> Vec<String> {
    reasons(document, |run| &run.repeated).into_iter().map(|reason| format!("REPEATED {reason}")).collect()
}

/// Returns each kind of reason once for each scenario and arm, in the words of its first run.
pub(crate) fn reasons(document: &Document, of: impl Fn(&Run) -> &[String]) -> Vec<String> {
    let mut reasons: BTreeMap<(&str, &str, &str), (&str, u32)> = BTreeMap::new();
    for run in &document.runs {
        for reason in of(run) {
            // The figures in it differ from run to run.
            let kind = reason
                .split(|c: char| c.is_ascii_digit())
                .find(|part| !part.trim().is_empty())
                .unwrap_or(reason);
            reasons.entry((&run.scenario, &run.arm, kind)).or_insert((reason, 0)).1 += 1;
        }
    }
    let lines = reasons.into_iter().map(|((scenario, arm, _), (reason, runs))| {
        let more = if runs > 1 { format!(" (and {} like it)", runs - 1) } else { String::new() };
        let arm = if document.arms.is_empty() { String::new() } else { format!(" {arm}") };
        format!("{scenario}{arm}: {reason}{more}")
    });
    lines.collect()
}

/// One line per invalid run and per interrupted session.
fn invalid_reasons(document: &Document) -> Vec<String> {
    let of_runs = document.runs.iter().filter(|run| !run.valid).map(|run| {
        format!("INVALID {} (round {}): {}", run.scenario, run.pair + 1, run.invalid_reasons.join("; "))
    });
    let marks = document.session.marks.iter().map(|mark| format!("NOTE: {mark}"));
    let interrupted =
        document.session.interrupted.then(|| "INTERRUPTED: what was measured until then.".to_owned());
    of_runs.chain(marks).chain(interrupted).collect()
}

/// What the table does not show at a glance: WebSocket against raw TCP, generator against server.
///
/// Only pairs that are there, on the server's default engine, and valid on both sides.
#[must_use]
pub fn derived_lines(document: &Document) -> Vec<String> {
    let summaries = Summary::all(document);
    let find = |name: &str| summaries.iter().find(|summary| summary.scenario == name && summary.valid);
    let mut lines = Vec::new();
    for (ws, tcp) in [("echo", "tcp"), ("pipeline", "tcp-pipeline")] {
        let ratio = || Some(find(ws)?.server_cpu_ns? / find(tcp)?.server_cpu_ns?);
        if let Some(ratio) = ratio() {
            lines.push(format!(
                "{ws} / {tcp}: {ratio:.3} of the server CPU per message, user and system: what WebSocket adds to raw TCP"
            ));
        }
    }
    for name in ["echo", "pipeline"] {
        let ratio = || Some(find(name)?.client_cpu_ns / find(name)?.server_cpu_ns?);
        if let Some(ratio) = ratio() {
            lines.push(format!("{name}: the generator spends {ratio:.2} of the server's CPU per message"));
        }
    }
    lines
}

/// The change since an earlier session, with what it cannot say.
#[must_use]
pub fn advisory(change: &Change, width: usize) -> String {
    let file = change.against.file_name().unwrap_or_default().to_string_lossy();
    let commit = change.commit.as_deref().unwrap_or("unknown").chars().take(12).collect::<String>();
    let header = ["scenario", "engine", "msg/s", "server CPU/msg", "p50", "p99"];
    let mut table = TextTable::new(header, 2, [1, 4]);
    for scenario in &change.scenarios {
        table.add_row(vec![
            short_name(&scenario.scenario).to_owned(),
            scenario.engine.clone(),
            optional(Some(scenario.rate), 3),
            optional(scenario.server_cpu, 3),
            optional(scenario.p50, 3),
            optional(scenario.p99, 3),
        ]);
    }
    let table = table.text(width);
    let mut text = format!("ADVISORY: change against {file} (commit {commit}), as now / then\n{table}\n");
    for caution in &change.cautions {
        text.push_str(caution);
        text.push('\n');
    }
    text.push_str(
        "Advisory because the two sessions were not interleaved: between them the machine itself may have become\n\
         faster or slower, and nothing here can tell that from a change of the server.",
    );
    text
}

pub(crate) fn us(ns: f64) -> f64 {
    ns / 1000.0
}

/// A figure with `decimals`, or a hyphen where it is not known.
pub(crate) fn optional(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// Microseconds with the digits that mean something: the histogram carries three.
pub(crate) fn latency(ns: Option<u64>) -> String {
    let value = ns.map(|ns| us(ns as f64));
    optional(value, if value.is_some_and(|us| us < 100.0) { 1 } else { 0 })
}

/// Formats a number of things: `1 message`, `2,000 messages`.
pub(crate) fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(n as f64), if n == 1 { "" } else { "s" })
}

/// A whole number with a comma every three digits.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a span for people, rounded to seconds or minutes.
#[must_use]
pub(crate) fn about(span: Duration) -> String {
    let seconds = span.as_secs_f64().ceil();
    if seconds < 90.0 { format!("{seconds} s") } else { format!("{:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::result::{change_between, example};

    #[test]
    fn one_thing_is_singular() {
        assert_eq!([0, 1, 2000].map(|n| count(n, "thread")), ["0 threads", "1 thread", "2,000 threads"]);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (value, text) in [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(grouped(value), text);
        }
    }

    #[test]
    fn a_latency_shows_three_digits_and_an_unknown_one_a_hyphen() {
        assert_eq!(latency(Some(12_345)), "12.3");
        assert_eq!(latency(Some(123_456)), "123");
        assert_eq!(latency(None), "-");
    }

    #[test]
    fn the_table_has_a_line_per_scenario() {
        let text = summary_table(&example::document(), 120);
        let line = text.lines().find(|line| line.starts_with("echo")).expect("a line for echo");
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(&cells[..7], ["echo", "uring", "100,000", "3.2", "4.00", "0.20", "0.030"]);
        assert_eq!(&cells[10..], ["3.00", "75", "yes"]);
        assert_eq!(text.lines().count(), 4, "two lines of header, two scenarios:\n{text}");
    }

    #[test]
    fn the_widest_table_fits_any_width() {
        let mut document = example::document();
        document.scenarios[0].server.engine = Some("tokio-uring".into());
        document.scenarios[1].name = "tcp-pipeline".into();
        let run = &mut document.runs[1];
        run.scenario = "tcp-pipeline".into();
        (run.rate_per_s, run.bytes_per_s) = (12_345_678.0, 12_345.6e6);
        run.client.cpu_utilisation = vec![1.0];
        let server = run.server.as_mut().expect("present");
        (server.cpu_ns_per_message, server.user_ns_per_message) = (1_234_567.0, Some(123_456.0));
        for width in [120, 80, 60, 40] {
            let text = summary_table(&document, width);
            let widest = text.lines().map(|line| line.chars().count()).max().expect("has lines");
            assert!(widest <= width, "{widest} columns:\n{text}");
            assert_eq!(text.contains("not shown in"), width < 120, "{text}");
            assert!(text.contains("12,345,678") && text.contains("yes"), "{text}");
        }
    }

    #[test]
    fn an_invalid_run_is_shown_with_its_reason() {
        let mut document = example::document();
        document.runs[1].valid = false;
        document.runs[1].invalid_reasons = vec!["The generator was the limit.".into()];
        document.session.marks = vec!["io_uring was refused.".into()];
        document.session.interrupted = true;
        let text = summary_table(&document, 120);
        assert!(text.contains("INVALID tcp (round 1): The generator was the limit."), "{text}");
        assert!(text.contains("NOTE: io_uring was refused."), "{text}");
        assert!(text.contains("INTERRUPTED"), "{text}");
        let line = text.lines().find(|line| line.starts_with("tcp")).expect("a line for tcp");
        assert!(line.ends_with("NO"), "{line}");
    }

    #[test]
    fn websocket_is_set_against_raw_tcp_and_generator_against_server() {
        let lines = derived_lines(&example::document());
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("echo / tcp: 1.000"), "{lines:?}");
        assert!(lines[1].starts_with("echo: the generator spends 0.75"), "{lines:?}");
    }

    #[test]
    fn nothing_is_derived_from_an_invalid_run() {
        let mut document = example::document();
        document.runs[0].valid = false;
        assert_eq!(derived_lines(&document), Vec::<String>::new());
    }

    #[test]
    fn the_change_is_headed_advisory_and_says_why() {
        let path = Path::new("m/20260301T093000Z-abcdef012345-quick.json");
        let change = change_between(path, &example::document(), &example::document()).expect("comparable");
        let text = advisory(&change, 80);
        assert!(text.starts_with(
            "ADVISORY: change against 20260301T093000Z-abcdef012345-quick.json (commit abcdef012345), as now / then"
        ));
        assert!(text.contains("not interleaved"), "{text}");
        let line = text.lines().find(|line| line.starts_with("tcp")).expect("a line for tcp");
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["tcp", "uring", "1.000", "1.000", "1.000", "1.000"]
        );
    }
}

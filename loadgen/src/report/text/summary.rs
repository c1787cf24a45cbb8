//! The runs of one server: a line for each scenario, and the ratios between scenarios.

use super::notes::notes;
use super::side_by_side::promises;
use crate::format::{grouped, latency, optional, us};
use crate::report::{Blocks, Table};
use crate::result::{Document, Summary};

/// Returns the table of a session without arms, with what follows from it.
pub(super) fn summary(document: &Document) -> Blocks {
    Blocks::default()
        .table(table(document))
        .notes(notes(document))
        .legend(derived_lines(document))
        .then(promises(document))
}

pub(super) fn table(document: &Document) -> Table {
    let header = "\nscenario|server\nengine|\nmsg/s|\nMB/s|server\nus/msg|of it\nuser|enters\n/msg|\
                  p50\nus|p99\nus|p99.9\nus|gen.\nus/msg|gen.\nCPU %|\nvalid";
    // Left out first: what is derived, then what is about the generator.
    let table = Table::new(header.split('|'), 2, [3, 5, 6, 11, 10, 9, 1, 4]);
    table.rows(Summary::all(document).iter().map(row))
}

fn row(summary: &Summary) -> Vec<String> {
    let validity = match (summary.valid, summary.interrupted) {
        (false, _) => "NO",
        (true, true) => "cut",
        (true, false) => "yes",
    };
    vec![
        // The engine has a column of its own.
        summary.scenario.split('@').next().unwrap_or_default().to_owned(),
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
        validity.to_owned(),
    ]
}

/// Ratios that the table does not have: WebSocket against raw TCP, generator against server.
///
/// Only pairs that are there, on the server's default engine, and valid on both sides.
fn derived_lines(document: &Document) -> Vec<String> {
    let summaries = Summary::all(document);
    let find =
        |name: &str| summaries.iter().find(|summary| summary.scenario == name && summary.valid);
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
            lines.push(format!(
                "{name}: the generator spends {ratio:.2} of the server's CPU per message"
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Format;
    use crate::result::example;

    fn text(document: &Document, width: usize) -> String {
        summary(document).render(Format::Terminal { width })
    }

    #[test]
    fn the_table_has_a_line_per_scenario() {
        let text = super::tests::text(&example::document(), 120);
        let line = text.lines().find(|line| line.starts_with("echo")).expect("a line for echo");
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(&cells[..7], ["echo", "uring", "100,000", "3.2", "4.00", "0.20", "0.030"]);
        assert_eq!(&cells[10..], ["3.00", "75", "yes"]);
        let table = text.split("\n\n").next().expect("a table");
        assert_eq!(table.lines().count(), 4, "two lines of header, two scenarios:\n{text}");
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
            let text = Blocks::default().table(table(&document)).render(Format::Terminal { width });
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
        let text = super::tests::text(&document, 120);
        assert!(text.contains("INVALID tcp: The generator was the limit."), "{text}");
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
}

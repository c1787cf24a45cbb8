//! The arms of an interleaved session: each one's figures, and their ratios to the first one's, round by round.

use super::notes::notes;
use crate::compare::rounds::{ratio, runs_of};
use crate::compare::sides::is_sound;
use crate::compare::{Metric, PROMISES};
use crate::report::format::{self, count, grouped, latency, optional, us};
use crate::report::{Blocks, Table};
use crate::result::{Document, Scenario, Summary};

/// Returns every scenario's arms below each other, and which promises are kept where the session has those arms.
pub(super) fn side_by_side(document: &Document) -> Blocks {
    Blocks::default()
        .table(table(document))
        .legend(legend(document))
        .notes(notes(document))
        .table(promises(document))
}

fn table(document: &Document) -> Table {
    let present = document.arms.iter().filter(|arm| arm.left_out.is_none());
    let names: Vec<&str> = present.map(|arm| arm.name.as_str()).collect();
    let over_first = |what: &str| format!("{what}\n/ {}'s (95 %)", names.first().unwrap_or(&""));
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
    let mut table = Table::new(header, 2, [4, 7, 9, 6, 3]);
    for scenario in &document.scenarios {
        add_rows(&mut table, document, scenario, &names);
    }
    table
}

fn add_rows(table: &mut Table, document: &Document, scenario: &Scenario, names: &[&str]) {
    let mut shown = scenario.name.as_str();
    for (index, name) in names.iter().enumerate() {
        let Some(summary) = Summary::of(scenario, &runs_of(document, &scenario.name, name)) else {
            continue;
        };
        let set_against_first = |metric| match index {
            0 => "1".to_owned(),
            _ => ratio(document, scenario, metric, [name, names[0]], is_sound)
                .map_or("-".to_owned(), format::ratio),
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

/// What the figures are.
fn legend(document: &Document) -> Vec<String> {
    let rounds = document.runs.iter().map(|run| run.pair + 1).max().unwrap_or(0);
    let mut legend = vec![format!(
        "{}. Figures are medians over rounds, percentiles those of all rounds together; ratios are \
         taken\nwithin each round, and their interval holds the true one with 95 %.",
        count(rounds.into(), "round")
    )];
    legend.extend((rounds < 6).then(|| "Six rounds are the fewest that bound an interval.".to_owned()));
    legend
}

/// The promises that the session has something about.
fn promises(document: &Document) -> Table {
    let header = ["promised", "of", "scenario", "at most", "measured (95 %)", "outcome"];
    let mut table = Table::new(header, 3, [3]);
    // A name may mean something else in a session of somebody's own servers.
    let is_held = document.session.suite.as_deref() == Some("engines");
    for promise in PROMISES.iter().filter(|_| is_held) {
        let Some(estimate) = promise.measured(document) else { continue };
        table.add_row([
            format!("{} / {}", promise.arm, promise.against),
            promise.metric.name().to_owned(),
            promise.scenario.to_owned(),
            format!("{:.2}", promise.at_most),
            format::ratio(estimate),
            promise.outcome(&estimate).name().to_owned(),
        ]);
    }
    table
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
        assert!(text.contains("slow INVALID"), "{text}");
        let note = "INVALID echo slow: The generator was the limit. (and 9 like it)";
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
        assert!(lines.iter().all(|line| line.len() <= 120), "{text}");
        assert!(text.contains("10 rounds"), "{text}");
        let text = super::tests::text(&document, 80);
        let (table, _) = text.split_once("10 rounds").expect("remarks");
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(table.contains("/ quick's (95 %)") && table.contains("not shown in 80 columns"), "{table}");
    }

    #[test]
    fn a_session_ended_early_says_so() {
        let mut document = rounds(1.25, 2);
        document.session.interrupted = true;
        let text = super::tests::text(&document, 120);
        assert!(text.contains("INTERRUPTED") && text.contains("Six rounds"), "{text}");
    }
}

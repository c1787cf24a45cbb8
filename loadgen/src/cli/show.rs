//! `sparring-loadgen show`: one stored session.

use std::path::Path;

use clap::Args;

use super::pairs::run_notes;
use super::selection::SelectionArguments;
use super::{Failure, compare, print_line, print_plain, terminal};
use crate::compare::Metric;
use crate::compare::table::{self, percent};
use crate::result::table::count;
use crate::result::text_table::{TextTable, wrapped};
use crate::result::{Document, SessionKind, SessionVerdict, Stored};
use crate::suite::{self, interleaved, peers_markdown};
use crate::target::subject::Subject;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen show last                  the newest session
  sparring-loadgen show last --tag quick      the newest of that suite
  sparring-loadgen show a1b2c3d               the newest of a commit
  sparring-loadgen show result.json           a file, wherever it lies";

/// Prints a session: its figures, machine and subjects.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ShowArguments {
    /// A file, a tag, a commit (hash or a name that git knows), or `last`; of several the newest.
    what: String,

    /// The table over all scenarios as Markdown, and nothing else, of other people's servers side
    /// by side (suite `peers`).
    #[arg(long)]
    markdown: bool,

    #[command(flatten)]
    selection: SelectionArguments,
}

impl ShowArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let newest = self.selection.named(&self.what)?.pop();
        if let Some(stored) = newest {
            if self.markdown {
                return print_plain(&markdown(&stored)?).map(|()| 0);
            }
            print_line(&text(&self.selection.results, &stored, terminal::width())?)?;
        }
        Ok(0)
    }
}

fn markdown(stored: &Stored) -> Result<String, Failure> {
    let document = &stored.document;
    if document.session.suite.as_deref() != Some(interleaved::PEERS) {
        let file = stored.path.display();
        return Err(Failure::Usage(format!(
            "--markdown is for sessions of scripts/peers.sh, which {file} is not"
        )));
    }
    Ok(peers_markdown(document))
}

fn text(results: &Path, stored: &Stored, width: usize) -> Result<String, Failure> {
    let document = &stored.document;
    let mut lines: Vec<String> = head(stored).iter().map(|line| wrapped(line, width, INDENT)).collect();
    lines.push(String::new());
    match document.session.kind {
        SessionKind::Ab => {
            lines.push(table::text(&compare::concluded(results, document)?, width));
            lines.extend(run_notes(document));
        }
        SessionKind::Aa => lines.push(noise_table(document, width)),
        SessionKind::Count => lines.extend(document.counts.iter().map(|count| {
            format!("{}: {:.1} {} per message", count.scenario, count.per_message, count.counter)
        })),
        SessionKind::Suite if !document.arms.is_empty() => lines.push(interleaved::text(document, width)),
        SessionKind::Single | SessionKind::Suite => lines.push(suite::text(document, width)),
    }
    Ok(lines.join("\n"))
}

/// Columns before the text of a line.
const INDENT: usize = 13;

fn head(stored: &Stored) -> Vec<String> {
    let Document { session, machine, tool, arms, subject, .. } = &stored.document;
    let tag = session.tag.as_ref().map(|tag| format!(", tag {tag}")).unwrap_or_default();
    let mut lines = vec![
        stored.path.display().to_string(),
        format!("  measured   {}, {:.0} s{tag}", session.start, session.duration_ns as f64 / 1e9),
        format!(
            "  machine    {} ({}, {}, {}, {}, Linux {})",
            machine.id,
            machine.cpu,
            count(machine.cores.into(), "core"),
            count(machine.threads.into(), "thread"),
            machine.virtualisation,
            machine.kernel
        ),
        format!(
            "  generator  {} {} (commit {}, {}, engine {})",
            tool.name,
            tool.version,
            short(tool.commit.as_deref()),
            tool.build,
            tool.engine
        ),
    ];
    lines.extend(session.command().map(|command| format!("  command    {command}")));
    match arms.as_slice() {
        [] => lines.push(format!("  server     {}", of_subject(subject))),
        arms => {
            lines.extend(arms.iter().map(|arm| format!("  {:<10} {}", arm.name, of_subject(&arm.subject))));
        }
    }
    lines
}

/// A server in a line.
pub(super) fn of_subject(subject: &Subject) -> String {
    let command = subject.command.as_deref().unwrap_or("not started by the generator");
    let dirty = if subject.dirty == Some(true) { " with changes" } else { "" };
    let build = subject.build.as_ref().map(|build| format!(", {build}")).unwrap_or_default();
    format!("{command} (commit {}{dirty}{build})", short(subject.commit.as_deref()))
}

fn short(commit: Option<&str>) -> &str {
    commit.map_or("unknown", |commit| commit.get(..12).unwrap_or(commit))
}

/// Returns the noise that `aa` recorded.
pub(super) fn noise_table(document: &Document, width: usize) -> String {
    let noises = document.verdict.as_ref().map(SessionVerdict::noise).unwrap_or_default();
    let header = ["scenario", "metric", "pairs recorded", "noise", "smallest threshold"];
    let mut table = TextTable::new(header, 2, [2]);
    for noise in noises {
        let default = noise.metric.default_threshold();
        let from = if 2.0 * noise.p95 > default { "" } else { " (default)" };
        table.add_row(vec![
            noise.scenario.clone(),
            Metric::name(noise.metric).to_owned(),
            noise.recorded.to_string(),
            percent(1.0 + noise.p95).trim_start_matches('+').to_owned(),
            format!("{:.1} %{from}", 100.0 * default.max(2.0 * noise.p95)),
        ]);
    }
    let pairs = noises.first().map_or(0, |noise| noise.pairs);
    format!(
        "{}\n\nnoise: in 95 of 100 duels of {pairs} pairs between identical servers the estimate stays within it",
        table.text(width)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::compare::{Comparison, Conclusion, Threshold, ThresholdSource};
    use crate::result::example;

    #[test]
    fn a_session_is_shown_with_its_machine_and_its_servers() {
        let stored = |document| Stored { path: "r/m/f.json".into(), document };
        let of = |document| text(Path::new("/nonexistent"), &stored(document), 80).expect("shown");
        let single = of(example::document());
        for part in
            ["r/m/f.json", "2026-03-01", "AMD EPYC", "uring", "commit abcdef012345, release", "echo / tcp"]
        {
            assert!(single.contains(part), "{part} not in {single}");
        }
        let duel = of(duel(8, 1.06));
        assert!(duel.contains("\n  A          sparring-server") && duel.contains("REGRESSED"), "{duel}");
    }

    #[test]
    fn a_duel_is_shown_with_the_thresholds_it_had() {
        let mut document = duel(8, 1.06);
        let given =
            |_: &crate::result::Scenario, _| Threshold { relative: 0.25, source: ThresholdSource::Given };
        document.verdict = Some(Conclusion::of(&Comparison::of_arms(&document, &given)).into());
        let stored = Stored { path: "f.json".into(), document };
        let text = text(Path::new("/nonexistent"), &stored, 120).expect("shown");
        assert!(text.contains("UNCHANGED") && text.contains("25.0 %") && !text.contains("2.0 %"), "{text}");
    }

    #[test]
    fn only_other_peoples_servers_have_a_table_in_markdown() {
        let stored = |document| Stored { path: "r/m/f.json".into(), document };
        let error = markdown(&stored(example::document())).expect_err("a suite of ours").to_string();
        assert!(error.contains("scripts/peers.sh") && error.contains("r/m/f.json"), "{error}");
        let mut peers = duel(8, 1.25);
        (peers.session.kind, peers.session.suite) = (SessionKind::Suite, Some("peers".to_owned()));
        assert!(markdown(&stored(peers)).expect("a table").starts_with("| server |"));
    }

    #[test]
    fn several_servers_are_shown_side_by_side() {
        let mut document = duel(8, 1.25);
        (document.session.kind, document.session.suite) = (SessionKind::Suite, Some("engines".to_owned()));
        for (arm, name) in document.arms.iter_mut().zip(["epoll", "uring"]) {
            document
                .runs
                .iter_mut()
                .filter(|run| run.arm == arm.name)
                .for_each(|run| run.arm = name.to_owned());
            arm.name = name.to_owned();
        }
        let text =
            text(Path::new("/nonexistent"), &Stored { path: "f.json".into(), document }, 80).expect("shown");
        assert!(text.contains("/ epoll's (95 %)") && text.contains("\nuring / epoll "), "{text}");
        assert!(text.contains("MISSED"), "{text}");
    }
}

//! Lists: of stored sessions, and of scenarios.

use std::path::Path;

use crate::format::commit;
use crate::load::Catalogue;
use crate::load::catalogue::Scenario;
use crate::report::{Blocks, Format, Table};
use crate::result::{Document, SessionKind, Stored};
use crate::target::subject::Subject;

/// Returns the stored sessions, a line each. Files are named below the folder of results, as `show`
/// and `compare` take them.
pub(crate) fn sessions(found: &[Stored], root: &Path) -> Table {
    let header =
        ["start", "machine", "kind", "commit", "tag", "scenarios", "runs", "valid", "file"];
    // The name of a file has its machine, start, commit and tag.
    let table = Table::new(header, header.len(), [1, 0, 3, 4, 5, 6, 7, 2]);
    table.rows(found.iter().map(|Stored { path, document }| {
        let runs = document.runs.len();
        [
            document.session.start.to_string().chars().take(16).collect(),
            document.machine.id.clone(),
            kind(document),
            commits(document),
            document.session.tag.clone().unwrap_or_else(|| "-".to_owned()),
            document.scenarios.len().to_string(),
            runs.to_string(),
            match document.runs.iter().filter(|run| run.valid).count() {
                valid if valid == runs => "all".to_owned(),
                valid => valid.to_string(),
            },
            path.strip_prefix(root).unwrap_or(path).display().to_string(),
        ]
    }))
}

/// `quick`, `duel`, `noise`, `run`; with a star where it was interrupted.
pub(crate) fn kind(document: &Document) -> String {
    let name = match document.session.kind {
        SessionKind::Single => "run",
        SessionKind::Suite => document.session.suite.as_deref().unwrap_or("experiment"),
        SessionKind::Ab => "duel",
        SessionKind::Aa => "noise",
        SessionKind::Count => "count",
    };
    format!("{name}{}", if document.session.interrupted { "*" } else { "" })
}

/// `abcdef012345`, `A..B` of a comparison, with a plus where there were changes beside the commit.
fn commits(document: &Document) -> String {
    let short = |subject: &Subject| {
        let commit = subject.commit.as_deref().map_or("-", |_| commit(subject.commit.as_deref()));
        format!("{commit}{}", if subject.dirty == Some(true) { "+" } else { "" })
    };
    match document.arms.as_slice() {
        [] => short(&document.subject),
        arms => arms.iter().map(|arm| short(&arm.subject)).collect::<Vec<_>>().join(".."),
    }
}

/// Returns the scenarios, a line each. A description is not cut.
pub(crate) fn scenarios(catalogue: &Catalogue, format: Format) -> String {
    let scenarios = catalogue.scenarios();
    let width = scenarios.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    let line = |one: &Scenario| format!("{:<width$}  {}", one.name, one.description);
    match format {
        Format::Terminal { .. } => scenarios.iter().map(line).collect::<Vec<_>>().join("\n"),
        Format::Markdown => {
            let rows = scenarios.iter().map(|one| [one.name.clone(), one.description.clone()]);
            let table = Table::new(["scenario", "description"], 2, []).rows(rows);
            Blocks::default().table(table).render(format)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(found: &[Stored], root: &Path, width: usize) -> String {
        Blocks::default().table(sessions(found, root)).render(Format::Terminal { width })
    }
    use crate::compare::example::duel;
    use crate::result::example;

    #[test]
    fn a_session_is_a_line() {
        let mut dirty = example::document();
        dirty.subject.dirty = Some(true);
        dirty.session.interrupted = true;
        dirty.runs[0].valid = false;
        let stored = |document| Stored { path: "r/m/f.json".into(), document };
        let both = [stored(dirty), stored(duel(8, 1.0))];
        let text = table(&both, Path::new("r"), 160);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[1][..4], ["2026-03-01T09:30", "0123456789ab", "quick*", "abcdef012345+"]);
        assert_eq!(lines[1][4..], ["-", "2", "2", "1", "m/f.json"]);
        assert_eq!(lines[2][2..8], ["duel", "abcdef012345..abcdef012345", "-", "1", "16", "all"]);
    }

    #[test]
    fn the_table_fits_80_columns_and_keeps_the_file() {
        let name = "20260301T093000Z-abcdef012345-scaling-of-16-threads.json";
        let stored =
            Stored { path: format!("r/0123456789ab/{name}").into(), document: duel(8, 1.0) };
        let text = table(&[stored], Path::new("r"), 80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains(&format!("0123456789ab/{name}")), "{text}");
        assert!(text.contains("not shown in 80 columns: machine, start"), "{text}");
    }
}

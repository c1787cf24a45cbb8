//! Sessions as the CSV that Apache Otava imports: a row for each, oldest first.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};

use super::figures::figures;
use crate::result::Stored;

/// Columns before the figures.
const FACTS: [&str; 3] = ["time", "commit", "machine"];

/// Figures of sessions in the order of their time.
#[derive(Debug)]
pub(crate) struct Series {
    columns: BTreeSet<String>,
    /// Figures that a session lacks. Otava takes no empty cell, so they have no column.
    left_out: BTreeSet<String>,
    rows: Vec<([String; FACTS.len()], BTreeMap<String, f64>)>,
}

impl Series {
    /// Returns the series of these sessions. Fails if they have no figure in common.
    pub(crate) fn of(sessions: &[Stored]) -> anyhow::Result<Self> {
        let mut sessions: Vec<&Stored> = sessions.iter().collect();
        sessions.sort_by_key(|stored| stored.document.session.start);
        let row = |stored: &&Stored| {
            let document = &stored.document;
            let commit = document.subject.commit.clone().unwrap_or_default();
            let start = document.session.start.to_string();
            let figures = figures(document);
            let name = |place: String, metric: &str| format!("{place} {metric}");
            let cells = figures
                .iter()
                .map(|one| (name(one.place(), one.metric.name()), one.metric.shown(one.value)));
            ([start, commit, document.machine.id.clone()], cells.collect::<BTreeMap<_, _>>())
        };
        let rows: Vec<_> = sessions.iter().map(row).collect();
        let all: BTreeSet<String> =
            rows.iter().flat_map(|(_, cells)| cells.keys().cloned()).collect();
        let (columns, left_out): (BTreeSet<_>, BTreeSet<_>) = all
            .into_iter()
            .partition(|column| rows.iter().all(|(_, cells)| cells.contains_key(column)));
        ensure!(
            !columns.is_empty(),
            "no figure is in all of the {} sessions: choose them with --scenario or --tag",
            rows.len()
        );
        Ok(Self { columns, left_out, rows })
    }

    /// Returns the number of figures that some sessions lack.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out.len()
    }

    pub(super) fn csv(&self) -> anyhow::Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(FACTS.into_iter().chain(self.columns.iter().map(String::as_str)))?;
        for (facts, cells) in &self.rows {
            let figures = self.columns.iter().map(|column| cells[column].to_string());
            writer.write_record(facts.iter().cloned().chain(figures))?;
        }
        let bytes = writer.into_inner().context("cannot write the table")?;
        String::from_utf8(bytes).context("cannot write the table")
    }
}

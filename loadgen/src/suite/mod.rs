//! Tables of experiments.

mod peers;
mod side_by_side;

pub use peers::{peers_markdown, peers_text};
pub use side_by_side::{promises_table, side_by_side_table};

use crate::result::table::repeated_runs;
use crate::result::{Document, Show, Store, StoreError, advisory, derived_lines, summary_table};

/// The scenario among those of the peers whose latencies are shown.
pub(super) const AT_A_RATE: &str = "rate-20k";
/// The scenario among those of the peers whose memory is shown.
pub(super) const MOSTLY_IDLE: &str = "idle-4000";

/// Returns what a session shows. An earlier build stored the name of the suite alone.
#[must_use]
pub fn show_of(document: &Document) -> Show {
    let recorded = document.session.experiment.as_ref().map(|record| record.show);
    recorded.unwrap_or(match document.session.suite.as_deref() {
        Some("peers") => Show::Peers,
        _ if !document.arms.is_empty() => Show::Arms,
        _ => Show::Figures,
    })
}

/// Returns the tables of a session.
#[must_use]
pub fn text(document: &Document, width: usize) -> String {
    match show_of(document) {
        Show::Peers => peers_text(document, width),
        Show::Arms => side_by_side_table(document, width),
        _ => figures_text(document, width),
    }
}

fn figures_text(document: &Document, width: usize) -> String {
    let table = [summary_table(document, width)].into_iter().chain(repeated_runs(document));
    let promises = promises_table(document, width);
    let parts = [table.collect::<Vec<_>>(), derived_lines(document), promises.into_iter().collect()];
    let parts = parts.into_iter().filter(|lines| !lines.is_empty());
    parts.map(|lines| lines.join("\n")).collect::<Vec<_>>().join("\n\n")
}

/// Returns the change since the last session of this machine, after the session was stored.
///
/// # Errors
/// Fails where the folder cannot be read.
pub fn change_text(store: &Store, document: &Document, width: usize) -> Result<String, StoreError> {
    let (change, unreadable) = store.change_of(document)?;
    let mut lines: Vec<String> = unreadable.iter().map(|error| format!("skipped: {error}")).collect();
    lines.push(match change {
        Some(change) => advisory(&change, width),
        None => "No earlier valid session of this machine has these scenarios: nothing to compare with."
            .to_owned(),
    });
    Ok(lines.join("\n"))
}

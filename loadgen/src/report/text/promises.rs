//! Figures that an experiment holds to a limit.

use super::side_by_side::shown_ratio;
use crate::report::{Blocks, Table};
use crate::result::Document;

/// Returns the promises that the session has something about.
pub(crate) fn promises(document: &Document) -> Blocks {
    let mut table = Table::new(["figure", "scenario", "at most", "measured (95 %)", "outcome"], 2, [1, 2]);
    for promise in document.promises() {
        let Some(estimate) = promise.estimate(document) else { continue };
        table.add_row([
            promise.figure(),
            promise.scenario.clone(),
            promise.at_most.map_or_else(String::new, |limit| format!("{limit}")),
            shown_ratio(estimate),
            promise.outcome(&estimate).name().to_owned(),
        ]);
    }
    Blocks::default().table(table)
}

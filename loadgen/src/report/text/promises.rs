//! Figures that an experiment holds to a limit.

use super::side_by_side::shown_ratio;
use crate::report::{Blocks, Table};
use crate::result::Document;

pub(crate) fn promises(document: &Document) -> Blocks {
    let rows = document.promises().iter().map(|promise| {
        let estimate = promise.estimate(document);
        let outcome = estimate.as_ref().map(|estimate| promise.outcome(estimate));
        [
            promise.figure(),
            promise.scenario.clone(),
            promise.at_most.map_or_else(String::new, |limit| format!("{limit}")),
            estimate.map_or_else(|| "-".to_owned(), shown_ratio),
            outcome.unwrap_or("not measured").to_owned(),
        ]
    });
    let header = ["figure", "scenario", "at most", "measured (95 %)", "outcome"];
    Blocks::default().table(Table::new(header, 2, [1, 2]).rows(rows))
}

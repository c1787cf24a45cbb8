//! What the conformance battery saw.

use crate::conformance::{CaseResult, summary};
use crate::report::{Blocks, Table};
use crate::target::url::Url;

/// Returns the cases, of which only those that `is_shown`, and the counts of all verdicts.
pub(crate) fn cases(url: &Url, results: &[CaseResult], is_shown: impl Fn(&CaseResult) -> bool) -> Blocks {
    let header = ["id", "verdict", "seen", "expected", "sent", "section"];
    let mut table = Table::new(header, header.len(), [5, 4, 3]);
    for result in results.iter().filter(|result| is_shown(result)) {
        let CaseResult { id, sent, expected, seen, verdict, section } = result;
        let cells = [id.as_str(), verdict.name(), seen, expected, sent, section];
        table.add_row(cells.map(str::to_owned));
    }
    Blocks::default().table(table).legend(vec![format!("{url}: {}", summary(results))])
}

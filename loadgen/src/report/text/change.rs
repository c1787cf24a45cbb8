//! The change since an earlier session.

use super::summary::short_name;
use crate::report::format::{commit, optional};
use crate::report::{Blocks, Table};
use crate::result::Change;

/// Returns the change since an earlier session, with what it cannot say.
pub(crate) fn change(change: &Change) -> Blocks {
    let file = change.against.file_name().unwrap_or_default().to_string_lossy();
    let commit = commit(change.commit.as_deref());
    let header = ["scenario", "engine", "msg/s", "server CPU/msg", "p50", "p99"];
    let mut table = Table::new(header, 2, [1, 4]);
    for scenario in &change.scenarios {
        table.add_row([
            short_name(&scenario.scenario).to_owned(),
            scenario.engine.clone(),
            optional(Some(scenario.rate), 3),
            optional(scenario.server_cpu, 3),
            optional(scenario.p50, 3),
            optional(scenario.p99, 3),
        ]);
    }
    let mut notes = change.cautions.clone();
    notes.push(
        "Advisory because the two sessions were not interleaved: between them the machine itself may have become\n\
         faster or slower, and nothing here can tell that from a change of the server."
            .to_owned(),
    );
    Blocks::default()
        .title(format!("ADVISORY: change against {file} (commit {commit}): figures of now / figures of then"))
        .table(table)
        .notes(notes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::report::Format;
    use crate::result::{change_between, example};

    #[test]
    fn the_change_is_headed_advisory_and_says_why() {
        let path = Path::new("m/20260301T093000Z-abcdef012345-quick.json");
        let found = change_between(path, &example::document(), &example::document()).expect("comparable");
        let text = change(&found).render(Format::Terminal { width: 160 });
        assert!(text.starts_with(
            "ADVISORY: change against 20260301T093000Z-abcdef012345-quick.json (commit abcdef012345): figures"
        ));
        assert!(text.contains("not interleaved"), "{text}");
        let line = text.lines().find(|line| line.starts_with("tcp")).expect("a line for tcp");
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["tcp", "uring", "1.000", "1.000", "1.000", "1.000"]
        );
    }
}

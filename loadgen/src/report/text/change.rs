//! The change since an earlier session.

use crate::compare::Metric;
use crate::compare::sessions::Change;
use crate::format::{change, commit};
use crate::report::{Blocks, Table};

pub(crate) fn since(Change { earlier, comparison, cautions }: &Change) -> Blocks {
    let file = earlier.path.file_name().unwrap_or_default().to_string_lossy();
    let commit = commit(earlier.document.subject.commit.as_deref());
    let mut table = Table::new(["scenario", "msg/s", "server CPU/msg", "p50", "p99"], 1, [3]);
    for scenario in &earlier.document.scenarios {
        let of = |metric: Metric| {
            let judgements = &comparison.judgements;
            let found = judgements.iter().find(|one| one.scenario == scenario.name && one.metric == metric);
            found.map_or_else(|| "-".to_owned(), |found| change(found.ratio))
        };
        let [rate, cpu, p50, p99] = [Metric::Throughput, Metric::ServerCpu, Metric::P50, Metric::P99].map(of);
        table.add_row([scenario.name.clone(), rate, cpu, p50, p99]);
    }
    let mut notes = cautions.clone();
    notes.push(
        "Advisory because the two sessions were not interleaved: between them the machine itself may have become\n\
         faster or slower, and nothing here can tell that from a change of the server."
            .to_owned(),
    );
    let title = format!("ADVISORY: change since {file} (commit {commit}), estimated over the runs of both");
    Blocks::default().title(title).table(table).notes(notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::sessions::change_between;
    use crate::report::Format;
    use crate::result::{Stored, example};

    #[test]
    fn the_change_is_headed_advisory_and_says_why() {
        let path = "m/20260301T093000Z-abcdef012345-quick.json".into();
        let earlier = Stored { path, document: example::document() };
        let change = change_between(earlier, &example::document()).expect("comparable");
        let text = since(&change).render(Format::Terminal { width: 160 });
        assert!(text.starts_with(
            "ADVISORY: change since 20260301T093000Z-abcdef012345-quick.json (commit abcdef012345), estimated"
        ));
        assert!(text.contains("not interleaved"), "{text}");
        let line = text.lines().find(|line| line.starts_with("tcp")).expect("a line for tcp");
        assert_eq!(line.split_whitespace().collect::<Vec<_>>().join(" "), "tcp 0.0 % 0.0 % 0.0 % 0.0 %");
    }
}

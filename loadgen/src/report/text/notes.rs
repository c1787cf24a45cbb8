//! Notes that qualify the figures of a session.

use std::collections::{BTreeMap, BTreeSet};

use crate::result::{Agreed, Document, Run};

/// Returns why runs are invalid or were repeated, the session's marks, and whether it was ended
/// early.
pub(crate) fn notes(document: &Document) -> Vec<String> {
    notes_where(document, |run| !run.valid)
}

/// Returns the notes of a session in which the reasons of the runs `is_named` are listed.
pub(super) fn notes_where(document: &Document, is_named: impl Fn(&Run) -> bool) -> Vec<String> {
    let invalid = reasons(document, |run| if is_named(run) { &run.invalid_reasons } else { &[] });
    let invalid = invalid.into_iter().map(|reason| format!("INVALID {reason}"));
    let repeated = reasons(document, |run| &run.repeated);
    let repeated = repeated.into_iter().map(|reason| format!("REPEATED {reason}"));
    let marks = document.session.marks.iter().map(|mark| format!("NOTE: {mark}"));
    let is_cut = document.session.interrupted;
    let interrupted = is_cut.then(|| "INTERRUPTED: what was measured until then.".to_owned());
    invalid.chain(repeated).chain(compression(document)).chain(marks).chain(interrupted).collect()
}

/// Returns lines for scenarios whose messages went without the compression that was offered, and
/// for those whose arms agreed on different compression.
fn compression(document: &Document) -> Vec<String> {
    let mut plain = BTreeSet::new();
    let mut agreed = BTreeMap::<&str, Vec<Option<Agreed>>>::new();
    for run in &document.runs {
        let Some(compression) = run.compression else { continue };
        if compression.sent_uncompressed > 0 {
            plain.insert(place(document, run));
        }
        let answers = agreed.entry(&run.scenario).or_default();
        if !answers.contains(&compression.agreed) {
            answers.push(compression.agreed);
        }
    }
    let plain = plain.into_iter().map(|place| {
        format!("UNCOMPRESSED {place}: the server agreed to no compression, messages went without")
    });
    let mixed = agreed.into_iter().filter(|(_, answers)| answers.len() > 1).map(|(scenario, _)| {
        format!("NOTE: {scenario}: runs agreed on different compression, which is compared here")
    });
    plain.chain(mixed).collect()
}

/// Returns the scenario of a run, and its arm where there are several.
fn place(document: &Document, run: &Run) -> String {
    let arm = if document.arms.is_empty() { String::new() } else { format!(" {}", run.arm) };
    format!("{}{arm}", run.scenario)
}

/// Places of a reason that are named; the others are counted.
const NAMED: usize = 4;

/// Returns each kind of reason once, in the words of its first run, with the scenarios and arms
/// that have it.
fn reasons(document: &Document, of: impl Fn(&Run) -> &[String]) -> Vec<String> {
    let mut reasons: BTreeMap<&str, (&str, u32, BTreeSet<String>)> = BTreeMap::new();
    for run in &document.runs {
        for reason in of(run) {
            // The figures in it differ from run to run.
            let mut parts = reason.split(|c: char| c.is_ascii_digit());
            let kind = parts.find(|part| !part.trim().is_empty()).unwrap_or(reason);
            let (_, times, places) = reasons.entry(kind).or_insert((reason, 0, BTreeSet::new()));
            *times += 1;
            places.insert(place(document, run));
        }
    }
    let line = |(reason, times, places): (&str, u32, BTreeSet<String>)| {
        let others = places.len().saturating_sub(NAMED);
        let others = if others > 0 { format!(" and {others} more") } else { String::new() };
        let places = places.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
        let more = if times > 1 { format!(" (and {} like it)", times - 1) } else { String::new() };
        format!("{places}{others}: {reason}{more}")
    };
    reasons.into_values().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::result::{Compression, example};

    #[test]
    fn arm_that_was_not_compressed_is_named() {
        let mut document = duel(2, 1.0);
        document.runs.iter_mut().for_each(|run| run.repeated = Vec::new());
        let before = notes(&document);
        for run in &mut document.runs {
            run.compression = Some(example::compression(1000));
        }
        assert_eq!(notes(&document), before);
        for run in document.runs.iter_mut().filter(|run| run.arm == "B") {
            run.compression = Some(Compression { sent_uncompressed: 7, ..Compression::default() });
        }
        let lines = notes(&document);
        assert!(lines[0].starts_with("UNCOMPRESSED echo B: the server agreed to no"), "{lines:?}");
        assert!(lines[1].starts_with("NOTE: echo: runs agreed on different"), "{lines:?}");
    }

    #[test]
    fn reasons_that_differ_in_their_figures_are_one() {
        let mut document = duel(3, 1.0);
        for (index, run) in document.runs.iter_mut().enumerate() {
            (run.valid, run.repeated) = (false, Vec::new());
            run.invalid_reasons = vec![
                format!("the generator did not run for {index}.5ms"),
                format!("{index} of 64 were lost"),
            ];
        }
        assert_eq!(
            notes(&document),
            [
                "INVALID echo A, echo B: 0 of 64 were lost (and 5 like it)",
                "INVALID echo A, echo B: the generator did not run for 0.5ms (and 5 like it)",
            ]
        );
        document.runs.iter_mut().for_each(|run| run.valid = true);
        document.runs[1].repeated = vec!["the server waited 9.1 % of it".to_owned(); 2];
        document.session.marks = vec!["a mark.".to_owned()];
        document.session.interrupted = true;
        assert_eq!(
            notes(&document),
            [
                "REPEATED echo B: the server waited 9.1 % of it (and 1 like it)",
                "NOTE: a mark.",
                "INTERRUPTED: what was measured until then."
            ]
        );
    }
}

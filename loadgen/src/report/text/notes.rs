//! What a reader must know of a session before its figures are believed.

use std::collections::BTreeMap;

use crate::result::{Document, Run};

/// Returns why runs are invalid or were repeated, the session's marks, and whether it was ended early.
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
    invalid.chain(repeated).chain(marks).chain(interrupted).collect()
}

/// Returns each kind of reason once for each scenario and arm, in the words of its first run.
fn reasons(document: &Document, of: impl Fn(&Run) -> &[String]) -> Vec<String> {
    let mut reasons: BTreeMap<(&str, &str, &str), (&str, u32)> = BTreeMap::new();
    for run in &document.runs {
        for reason in of(run) {
            // The figures in it differ from run to run.
            let kind = reason
                .split(|c: char| c.is_ascii_digit())
                .find(|part| !part.trim().is_empty())
                .unwrap_or(reason);
            reasons.entry((&run.scenario, &run.arm, kind)).or_insert((reason, 0)).1 += 1;
        }
    }
    let lines = reasons.into_iter().map(|((scenario, arm, _), (reason, runs))| {
        let more = if runs > 1 { format!(" (and {} like it)", runs - 1) } else { String::new() };
        let arm = if document.arms.is_empty() { String::new() } else { format!(" {arm}") };
        format!("{scenario}{arm}: {reason}{more}")
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;

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
                "INVALID echo A: 0 of 64 were lost (and 2 like it)",
                "INVALID echo A: the generator did not run for 0.5ms (and 2 like it)",
                "INVALID echo B: 1 of 64 were lost (and 2 like it)",
                "INVALID echo B: the generator did not run for 1.5ms (and 2 like it)",
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

//! Requirements of a smoke session: everything works, at any speed.

use crate::result::{Document, Messages, Run};

/// Every complaint about `document`, one sentence each; none when all is well.
pub(crate) fn complaints(document: &Document) -> Vec<String> {
    let missing = document
        .scenarios
        .iter()
        .filter(|scenario| !document.runs.iter().any(|run| run.scenario == scenario.name))
        .map(|scenario| format!("{}: has no run", scenario.name));
    let of_runs = document.runs.iter().flat_map(|run| {
        complaints_of(run)
            .into_iter()
            .map(move |complaint| format!("{}: {complaint}", run.scenario))
    });
    missing.chain(of_runs).collect()
}

/// Faults of one run, one sentence each.
pub(super) fn complaints_of(run: &Run) -> Vec<String> {
    let mut complaints = Vec::new();
    if run.received == 0 {
        complaints.push("no message came back".to_owned());
    }
    if run.integrity.total() > 0 {
        complaints.push(format!("echoes were not what was sent: {:?}", run.integrity));
    }
    if run.errors.total() > 0 {
        complaints.push(format!("there were errors: {:?}", run.errors));
    }
    let latency = &run.latency_ns.corrected;
    let in_histogram = match latency.histogram() {
        Ok(histogram) => histogram.map_or(0, |histogram| histogram.len()),
        Err(error) => {
            complaints.push(error.to_string());
            return complaints;
        }
    };
    if latency.count != in_histogram {
        complaints
            .push(format!("{} latencies, but {in_histogram} in the histogram", latency.count));
    }
    let Some(messages) = run.messages else { return complaints };
    let Messages { planned, not_sent, sent, echoed, wrong, lost, outstanding } = messages;
    if planned != sent + not_sent || sent != echoed + wrong + lost + outstanding {
        complaints.push(format!("the counts do not add up: {messages:?}"));
    }
    // An open loop has a latency for every planned message that was sent, a closed one for every
    // echo of the window, and for what was outstanding at its end.
    let (fewest, most) = match run.latency_ns.lag.count {
        0 => (run.received, sent),
        _ => (run.offered().saturating_sub(not_sent), run.offered()),
    };
    if !(fewest..=most).contains(&latency.count) {
        complaints.push(format!("{} latencies for {fewest} to {most} messages", latency.count));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Latency, example};

    #[test]
    fn a_sound_session_has_no_complaint() {
        assert_eq!(complaints(&example::document()), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_scenario() {
        let complains = |break_it: fn(&mut Document), word: &str| {
            let mut document = example::document();
            break_it(&mut document);
            let complaints = complaints(&document);
            assert_eq!(complaints.len(), 1, "{complaints:?}");
            assert!(
                complaints[0].starts_with("echo: ") && complaints[0].contains(word),
                "{complaints:?}"
            );
        };
        complains(|document| drop(document.runs.remove(0)), "no run");
        complains(|document| document.runs[0].integrity.reordered = 1, "reordered: 1");
        complains(|document| document.runs[0].errors.timeout = 2, "timeout: 2");
        complains(|document| document.runs[0].received += 1, "200000 latencies for 200001");
        complains(
            |document| document.runs[0].messages.as_mut().expect("counted").outstanding = 1,
            "do not add up",
        );
        complains(|document| document.runs[0].latency_ns.corrected.hdr = Some("?".into()), "hdr");
        complains(
            |document| {
                document.runs[0].received = 0;
                document.runs[0].latency_ns.corrected = Latency::default();
            },
            "no message",
        );
    }
}

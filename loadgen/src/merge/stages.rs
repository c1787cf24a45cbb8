//! Sums of the stages of shards.

use std::collections::BTreeSet;
use std::time::Duration;

use super::combine::{censored_of, sum_of};
use super::{MergeError, Part};
use crate::result::{InvalidKind, Latencies, Latency, StageRecord, per_second};

/// A stage of a part.
type PartStage<'a> = (&'a Part, &'a StageRecord);

/// Returns the stages that all parts were together, by their numbers.
pub(super) fn stages(parts: &[Part]) -> Result<Vec<StageRecord>, MergeError> {
    let all = || parts.iter().flat_map(|part| part.run().stages.iter().map(move |one| (part, one)));
    let numbers: BTreeSet<u32> = all().map(|(_, stage)| stage.number).collect();
    let of = |number| all().filter(|(_, stage)| stage.number == number).collect::<Vec<_>>();
    numbers.into_iter().filter_map(|number| combined(&of(number)).transpose()).collect()
}

fn combined(each: &[PartStage<'_>]) -> Result<Option<StageRecord>, MergeError> {
    let Some((_, first)) = each.first() else { return Ok(None) };
    let sum = |count: fn(&StageRecord) -> u64| each.iter().map(|(_, one)| count(one)).sum::<u64>();
    let histogram = |latency: fn(&Latencies) -> Option<&Latency>| {
        sum_of(each.iter().map(|(part, one)| (*part, latency(&one.latency_ns))))
    };
    let corrected = histogram(|latencies| Some(&latencies.corrected))?;
    let uncorrected = histogram(|latencies| latencies.uncorrected.as_ref())?;
    let lag = histogram(|latencies| Some(&latencies.lag))?;
    let (span_ns, received) =
        (each.iter().map(|(_, one)| one.span_ns).max().unwrap_or(0), sum(|one| one.received));
    let reasons: Vec<(InvalidKind, String)> = each.iter().flat_map(reasons).collect();
    let (invalid_kinds, invalid_reasons) = reasons.into_iter().unzip();
    Ok(Some(StageRecord {
        number: first.number,
        start_ns: first.start_ns,
        span_ns,
        from_per_s: first.from_per_s,
        to_per_s: first.to_per_s,
        valid: each.iter().all(|(_, one)| one.valid),
        invalid_reasons,
        invalid_kinds,
        offered: sum(|one| one.offered),
        not_sent: sum(|one| one.not_sent),
        received,
        rate_per_s: per_second(received as f64, Duration::from_nanos(span_ns)),
        errors: sum(|one| one.errors),
        censored: censored_of(each.iter().filter_map(|(_, one)| one.censored), corrected.as_ref()),
        latency_ns: Latencies {
            corrected: corrected.as_ref().map(Latency::of).unwrap_or_default(),
            uncorrected: Some(uncorrected.as_ref().map(Latency::of).unwrap_or_default()),
            lag: lag.as_ref().map(Latency::of).unwrap_or_default(),
            ..Latencies::default()
        },
    }))
}

/// Returns the reasons of a shard's stage, with the name of the shard.
fn reasons((part, stage): &PartStage<'_>) -> Vec<(InvalidKind, String)> {
    let kinds = stage.invalid_kinds.iter().copied().chain(std::iter::repeat(InvalidKind::Unknown));
    let name = part.name();
    let named = stage.invalid_reasons.iter().map(|reason| format!("{name}: {reason}"));
    kinds.zip(named).collect()
}

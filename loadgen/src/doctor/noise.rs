//! Other users of the machine.

use super::activity::control_groups;
use super::{Evidence, Finding, Severity, finding, fine, hint, invalidates, severity};
use crate::format::count;

/// Shares of the processors' time that others had: limits of a hint and of INVALIDATES.
const STEAL_SEEN: f64 = 0.002;
const STEAL_INVALIDATES: f64 = 0.02;
/// Per cent of the last ten seconds in which something waited.
const PRESSURE_SEEN: f64 = 2.0;
const PRESSURE_INVALIDATES: f64 = 10.0;
/// Share of the time from which on a disk counts as busy.
const DISK_BUSY: f64 = 0.01;
/// A process is named from this share of a processor on.
const BUSY: f64 = 0.02;
/// All others together, in processors.
const BUSY_INVALIDATES: f64 = 0.25;
const NAMED: usize = 4;

pub(super) fn hypervisor(evidence: &Evidence<'_>) -> Option<Finding> {
    let flags = evidence.system.field("proc/cpuinfo", "flags")?;
    if !flags.split(' ').any(|flag| flag == "hypervisor") {
        return fine("none");
    }
    hint(
        "this is a virtual machine",
        "its neighbours come and go: the same program differs by several per cent from hour to hour",
        "compare only what was measured in turns (scripts/ab.sh), or take a machine of your own",
    )
}

pub(super) fn quota(evidence: &Evidence<'_>) -> Option<Finding> {
    let used_up = evidence.growth(|activity| activity.quota_used_up).unwrap_or(0);
    let groups = control_groups(evidence.system)?;
    let quotas = groups.iter().filter_map(|group| group.quota(evidence.system));
    let Some((processors, file)) = quotas.min_by(|a, b| a.0.total_cmp(&b.0)) else {
        return fine("none");
    };
    let mut seen = format!("this control group may use {processors:.2} processors ({file})");
    if used_up > 0 {
        seen += &format!(", and was stopped {} while we looked", count(used_up, "time"));
    }
    invalidates(
        seen,
        "a group that has used up its share of 100 ms stands still for the rest of it",
        "start the container without --cpus (use --cpuset-cpus), or the service without CPUQuota",
    )
}

pub(super) fn steal(evidence: &Evidence<'_>) -> Option<Finding> {
    let stolen = evidence.growth(|activity| activity.steal)?;
    let ticks = evidence.growth(|activity| Some(activity.ticks))?;
    let share = stolen as f64 / ticks.max(1) as f64;
    let severity = severity(share, STEAL_SEEN, STEAL_INVALIDATES);
    let why = match severity {
        Severity::Invalidates => "programs stood still without knowing it",
        _ => "it shows in the highest percentiles",
    };
    finding(
        severity,
        format!("{:.1} % of the processors' time went to other virtual machines", share * 100.0),
        why,
        "another host or time of day, or a machine with processors of its own",
    )
}

/// Pressure stall information: per cent of the last ten seconds in which some task waited for it.
pub(super) fn pressure(evidence: &Evidence<'_>) -> Option<Finding> {
    let waited = |what: &str| -> Option<f64> {
        let text = evidence.system.text(&format!("proc/pressure/{what}"))?;
        let mut words =
            text.lines().find(|line| line.starts_with("some"))?.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix("avg10=")?.parse().ok())
    };
    let some: Vec<(&str, f64)> = ["cpu", "memory", "io"]
        .into_iter()
        .filter_map(|what| Some((what, waited(what)?)))
        .collect();
    // Tasks wait for I/O also while an idle io_uring server waits for its clients.
    let is_disk_idle =
        evidence.after.disk_busy_since(evidence.before).is_some_and(|share| share < DISK_BUSY);
    let counts = |what: &str| what != "io" || !is_disk_idle;
    some.first()?;
    let worst =
        some.iter().filter(|(what, _)| counts(what)).map(|(_, share)| *share).fold(0.0, f64::max);
    let shares = some.iter().map(|(what, share)| {
        let idle = if counts(what) || *share < PRESSURE_SEEN {
            ""
        } else {
            " (not for a disk: all were idle)"
        };
        format!("{what} {share:.1} %{idle}")
    });
    finding(
        severity(worst, PRESSURE_SEEN, PRESSURE_INVALIDATES),
        format!("tasks waited within the last 10 s: {}", shares.collect::<Vec<_>>().join(", ")),
        "somebody else's work was in the way, and would be in the way of a measurement",
        "end what is busy, and wait ten seconds: top, iotop",
    )
}

pub(super) fn others(evidence: &Evidence<'_>) -> Option<Finding> {
    let busy = evidence.after.busy_since(evidence.before, BUSY)?;
    let sum: f64 = busy.iter().map(|process| process.share).sum();
    if busy.is_empty() {
        return fine("no other process was busy while we looked");
    }
    let named = busy.iter().take(NAMED);
    let named =
        named.map(|each| format!("{} ({}) {:.0} %", each.name, each.pid, each.share * 100.0));
    let more = if busy.len() > NAMED {
        format!(" and {} more", busy.len() - NAMED)
    } else {
        String::new()
    };
    finding(
        severity(sum, 0.0, BUSY_INVALIDATES),
        format!(
            "busy, in per cent of one processor: {}{more}",
            named.collect::<Vec<_>>().join(", ")
        ),
        "they take turns with server and generator on the same processors",
        format!("end or stop them, if they are yours: kill -STOP {}", busy[0].pid),
    )
}

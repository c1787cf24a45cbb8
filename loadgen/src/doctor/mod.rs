//! Everything on this machine that would invalidate a measurement, and the command that fixes it.
//!
//! Everything is read from `proc` and `sys` below a folder that the caller names; nothing is
//! changed. Every check is a function from what was read to one [`Finding`], or to none where the
//! kernel does not say: a check that cannot be made is reported as [`Severity::Unknown`], never as
//! fine.

mod activity;
mod limits;
mod network;
mod noise;
mod processors;

use std::fmt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::host::system::System;
use activity::Activity;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Nothing to fix.
    Fine,
    /// The kernel does not tell, or not to us.
    Unknown,
    /// Known to make figures worse, or to limit what can be measured; a measurement is still one.
    Hint,
    /// A measurement made now is not to be trusted, or cannot be made as asked.
    Invalidates,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fine => "fine",
            Self::Unknown => "unknown",
            Self::Hint => "hint",
            Self::Invalidates => "INVALIDATES",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The check's name, the same in every version.
    pub(crate) check: &'static str,
    pub(crate) severity: Severity,
    /// The observation.
    pub(crate) seen: String,
    /// Reason why it matters; empty if it does not.
    pub(crate) why: String,
    /// Command or advice that fixes it; empty if there is nothing to fix.
    pub(crate) fix: String,
}

/// Returns a finding without remedy, whose check is named later.
fn fine(seen: impl Into<String>) -> Option<Finding> {
    finding(Severity::Fine, seen, "", "")
}

fn hint(
    seen: impl Into<String>,
    why: impl Into<String>,
    fix: impl Into<String>,
) -> Option<Finding> {
    finding(Severity::Hint, seen, why, fix)
}

fn invalidates(
    seen: impl Into<String>,
    why: impl Into<String>,
    fix: impl Into<String>,
) -> Option<Finding> {
    finding(Severity::Invalidates, seen, why, fix)
}

fn finding(
    severity: Severity,
    seen: impl Into<String>,
    why: impl Into<String>,
    fix: impl Into<String>,
) -> Option<Finding> {
    Some(Finding { check: "", severity, seen: seen.into(), why: why.into(), fix: fix.into() })
}

/// Returns the severity of a share by the limits of a hint and of an invalid measurement.
fn severity(share: f64, hint: f64, invalidates: f64) -> Severity {
    match share {
        share if share >= invalidates => Severity::Invalidates,
        share if share >= hint => Severity::Hint,
        _ => Severity::Fine,
    }
}

/// Load that is going to be measured, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intent {
    /// Connections from one address.
    pub(crate) connections: Option<u32>,
    /// The generator's processors.
    pub(crate) cpus: Vec<usize>,
    /// The server's.
    pub(crate) server_cpus: Vec<usize>,
    pub(crate) is_debug_build: bool,
}

struct Evidence<'a> {
    system: &'a System,
    intent: &'a Intent,
    before: &'a Activity,
    after: &'a Activity,
}

impl Evidence<'_> {
    /// Returns the growth of a counter while the machine was watched.
    fn growth(&self, counter: impl Fn(&Activity) -> Option<u64>) -> Option<u64> {
        Some(counter(self.after)?.saturating_sub(counter(self.before)?))
    }
}

type Check = (&'static str, fn(&Evidence<'_>) -> Option<Finding>);

const CHECKS: &[Check] = &[
    ("build", limits::build),
    ("io_uring", limits::io_uring),
    ("descriptors", limits::descriptors),
    ("memlock", limits::memlock),
    ("memory", limits::memory),
    ("ports", network::ports),
    ("time-wait", network::time_wait),
    ("backlog", network::backlog),
    ("congestion", network::congestion),
    ("conntrack", network::conntrack),
    ("processors", processors::count),
    ("smt", processors::smt),
    ("governor", processors::governor),
    ("turbo", processors::turbo),
    ("throttling", processors::throttling),
    ("c-states", processors::idle_states),
    ("clocksource", processors::clocksource),
    ("hypervisor", noise::hypervisor),
    ("quota", noise::quota),
    ("steal", noise::steal),
    ("pressure", noise::pressure),
    ("others", noise::others),
];

/// Examines the machine whose `proc` and `sys` lie below `root` (`/` for this one), watching it for
/// `watch` to see what else is going on. The worst findings come first.
pub(crate) fn examine(root: &Path, watch: Duration, intent: &Intent) -> Vec<Finding> {
    let system = System::below(root);
    let before = Activity::now(&system);
    thread::sleep(watch);
    let after = Activity::now(&system);
    judge(&Evidence { system: &system, intent, before: &before, after: &after })
}

fn judge(evidence: &Evidence<'_>) -> Vec<Finding> {
    let unknown = || finding(Severity::Unknown, "the kernel does not tell", "", "");
    let findings = CHECKS.iter().filter_map(|(name, check)| {
        let found = check(evidence).or_else(unknown)?;
        // Only a finding that is not fine has a reason and a remedy.
        let is_fine = found.severity == Severity::Fine;
        let text = |text: String| if is_fine { String::new() } else { text };
        Some(Finding { check: name, why: text(found.why), fix: text(found.fix), ..found })
    });
    let mut findings: Vec<Finding> = findings.collect();
    // Stable: within a severity they stay in the order of the table.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

#[cfg(test)]
mod tests;

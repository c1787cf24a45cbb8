//! What the machine does: counters that are read twice.

use std::collections::BTreeMap;

use super::system::{System, field};

/// Ticks of `/proc/stat` and `/proc/PID/stat` in a second (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Counters at one moment.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Seconds since the machine was started.
    uptime: f64,
    /// Ticks in which some processor of this machine was not ours but the hypervisor's.
    steal: Option<u64>,
    /// Ticks of all processors.
    ticks: u64,
    /// How often processors were slowed down because of their heat.
    throttled: Option<u64>,
    /// How often this process's control group had used up its quota.
    quota_used_up: Option<u64>,
    /// Processor time of each process, ticks, and its name.
    processes: BTreeMap<u32, (String, u64)>,
}

/// A process that was busy while we looked.
#[derive(Debug, PartialEq)]
pub(super) struct Busy {
    pub(super) pid: u32,
    pub(super) name: String,
    /// In processors: 0.5 is half of one.
    pub(super) share: f64,
}

impl Activity {
    pub(super) fn now(system: &System) -> Self {
        let cpu = system.field("proc/stat", "cpu").unwrap_or_default();
        let ticks: Vec<u64> = cpu.split_ascii_whitespace().filter_map(|tick| tick.parse().ok()).collect();
        Self {
            uptime: system
                .text("proc/uptime")
                .and_then(|text| text.split(' ').next()?.parse().ok())
                .unwrap_or(0.0),
            // user nice system idle iowait irq softirq steal; what guests use is part of user already: proc_stat(5).
            steal: ticks.get(7).copied(),
            ticks: ticks.iter().take(8).sum(),
            throttled: throttled(system),
            quota_used_up: quota_used_up(system),
            processes: processes(system),
        }
    }

    /// Share of the processors' time since `before` that the hypervisor gave to others.
    pub(super) fn stolen_since(&self, before: &Self) -> Option<f64> {
        let stolen = self.steal?.saturating_sub(before.steal?);
        let ticks = self.ticks.saturating_sub(before.ticks);
        Some(if ticks == 0 { 0.0 } else { stolen as f64 / ticks as f64 })
    }

    pub(super) fn throttled_since(&self, before: &Self) -> Option<u64> {
        Some(self.throttled?.saturating_sub(before.throttled?))
    }

    pub(super) fn quota_used_up_since(&self, before: &Self) -> Option<u64> {
        Some(self.quota_used_up?.saturating_sub(before.quota_used_up?))
    }

    /// Processes that used more than `least` of a processor since `before`, the busiest first; this one is left out.
    /// `None` where no time has passed, or no process can be seen.
    pub(super) fn busy_since(&self, before: &Self, least: f64) -> Option<Vec<Busy>> {
        let seconds = self.uptime - before.uptime;
        if seconds <= 0.0 || self.processes.is_empty() {
            return None;
        }
        let used = |(&pid, (name, ticks)): (&u32, &(String, u64))| {
            // One that is new has used all it has used since then.
            let then = before.processes.get(&pid).map_or(0, |(_, ticks)| *ticks);
            let share = ticks.saturating_sub(then) as f64 / TICKS_PER_SECOND / seconds;
            Busy { pid, name: name.clone(), share }
        };
        let others = self.processes.iter().filter(|(pid, _)| **pid != std::process::id());
        let mut busy: Vec<Busy> = others.map(used).filter(|process| process.share > least).collect();
        busy.sort_by(|a, b| b.share.total_cmp(&a.share));
        Some(busy)
    }
}

fn throttled(system: &System) -> Option<u64> {
    let count = |cpu: usize| {
        system.value::<u64>(&format!("sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"))
    };
    let counts: Vec<u64> = system.online().into_iter().filter_map(count).collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

fn quota_used_up(system: &System) -> Option<u64> {
    control_groups(system)
        .iter()
        .filter_map(|group| field(&system.text(&format!("{group}/cpu.stat"))?, "nr_throttled")?.parse().ok())
        .max()
}

/// The folders of this process's control group (version 2) and all around it: a quota of any of them binds.
pub(super) fn control_groups(system: &System) -> Vec<String> {
    let line = system.text("proc/self/cgroup").unwrap_or_default();
    let path = line.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
    let mut groups = vec!["sys/fs/cgroup".to_owned()];
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let parent = groups.last().map(String::as_str).unwrap_or_default();
        groups.push(format!("{parent}/{part}"));
    }
    groups
}

fn processes(system: &System) -> BTreeMap<u32, (String, u64)> {
    let pids = system.names("proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, process(&system.text(&format!("proc/{pid}/stat"))?)?))).collect()
}

/// Name and ticks out of `/proc/PID/stat`. The name in parentheses may hold anything, also parentheses.
fn process(stat: &str) -> Option<(String, u64)> {
    let (head, fields) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some((name.to_owned(), number(14)? + number(15)?))
}

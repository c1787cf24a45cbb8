//! Activity of the machine: counters that are read twice.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::host::cgroup::{Version, own_groups};
use crate::host::procfs::parse_stat;
use crate::host::system::{System, number};

#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Seconds since the machine was started.
    uptime: f64,
    /// Ticks in which the hypervisor withheld a processor from this machine.
    pub(super) steal: Option<u64>,
    pub(super) ticks: u64,
    /// Number of times that processors were slowed down because of their heat.
    pub(super) throttled: Option<u64>,
    /// Number of periods in which a control group of this process had used up its quota.
    pub(super) quota_used_up: Option<u64>,
    /// Time in which each disk was busy, ms; `None` where the kernel does not say.
    disks: Option<BTreeMap<String, u64>>,
    /// Name of each process, and its CPU time in nanoseconds.
    processes: BTreeMap<u32, (String, u64)>,
}

/// A process that was busy while we looked.
#[derive(Debug, PartialEq)]
pub(super) struct Busy {
    pub(super) pid: u32,
    pub(super) name: String,
    /// Share in processors: 0.5 is half of one.
    pub(super) share: f64,
}

impl Activity {
    pub(super) fn now(system: &System) -> Self {
        let cpu = system.field("proc/stat", "cpu").unwrap_or_default();
        let ticks: Vec<u64> =
            cpu.split_ascii_whitespace().filter_map(|tick| tick.parse().ok()).collect();
        let uptime =
            system.text("proc/uptime").and_then(|text| text.split(' ').next()?.parse().ok());
        Self {
            uptime: uptime.unwrap_or(0.0),
            // user nice system idle iowait irq softirq steal: proc_stat(5).
            steal: ticks.get(7).copied(),
            ticks: ticks.iter().take(8).sum(),
            throttled: throttled(system),
            quota_used_up: quota_used_up(system),
            disks: disks(system),
            processes: processes(system),
        }
    }

    /// Returns the share of the time since `before` in which the busiest disk was busy. `None`
    /// where no time has passed, or the kernel does not say.
    pub(super) fn disk_busy_since(&self, before: &Self) -> Option<f64> {
        let (then, seconds) = (before.disks.as_ref()?, self.uptime - before.uptime);
        let busy =
            |(name, ms): (&String, &u64)| ms.saturating_sub(then.get(name).copied().unwrap_or(*ms));
        let most = self.disks.as_ref()?.iter().map(busy).max().unwrap_or(0);
        (seconds > 0.0).then(|| most as f64 / 1000.0 / seconds)
    }

    /// Returns the processes that used more than `least` of a processor since `before`, the busiest
    /// first. The calling process is left out. `None` where no time has passed, or no process can
    /// be seen.
    pub(super) fn busy_since(&self, before: &Self, least: f64) -> Option<Vec<Busy>> {
        let seconds = self.uptime - before.uptime;
        if seconds <= 0.0 || self.processes.is_empty() {
            return None;
        }
        let used = |(&pid, (name, ns)): (&u32, &(String, u64))| {
            // A process that started after `before` counts with its whole CPU time.
            let then = before.processes.get(&pid).map_or(0, |(_, ns)| *ns);
            Busy { pid, name: name.clone(), share: ns.saturating_sub(then) as f64 / 1e9 / seconds }
        };
        let others = self.processes.iter().filter(|(pid, _)| **pid != std::process::id());
        let mut busy: Vec<Busy> =
            others.map(used).filter(|process| process.share > least).collect();
        busy.sort_by(|a, b| b.share.total_cmp(&a.share));
        Some(busy)
    }
}

fn throttled(system: &System) -> Option<u64> {
    let count = |cpu: usize| {
        system.value::<u64>(&format!(
            "sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"
        ))
    };
    system.online().into_iter().filter_map(count).reduce(|sum, count| sum + count)
}

fn quota_used_up(system: &System) -> Option<u64> {
    let count = |group: &ControlGroup| {
        number(&system.text(&format!("{}/cpu.stat", group.folder))?, "nr_throttled")
    };
    control_groups(system)?.iter().filter_map(count).max()
}

/// A control group that limits the CPU time of this process.
pub(super) struct ControlGroup {
    folder: String,
    version: Version,
}

impl ControlGroup {
    /// Returns its quota in processors, and the name of the file that sets it.
    pub(super) fn quota(&self, system: &System) -> Option<(f64, &'static str)> {
        let read = |name: &str| system.text(&format!("{}/{name}", self.folder));
        let (quota, period, file) = match self.version {
            Version::V2 => {
                let max = read("cpu.max")?;
                let (quota, period) = max.split_once(' ')?;
                (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?, "cpu.max")
            }
            Version::V1 => {
                let number = |name: &str| read(name)?.parse::<f64>().ok();
                (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?, "cpu.cfs_quota_us")
            }
        };
        // Version 1 reports a quota of -1 where none is set.
        (quota > 0.0 && period > 0.0).then(|| (quota / period, file))
    }
}

/// Returns this process's control groups and their ancestors, because the quota of each of them
/// limits the process.
pub(super) fn control_groups(system: &System) -> Option<Vec<ControlGroup>> {
    let (membership, mounts) =
        (system.text("proc/self/cgroup")?, system.text("proc/self/mountinfo")?);
    let groups = own_groups(&membership, &mounts, "cpu");
    let folders = groups
        .into_iter()
        .flat_map(|group| group.folders.into_iter().map(move |it| (it, group.version)));
    let relative = |(folder, version): (PathBuf, Version)| {
        // `System` takes paths relative to the root that it examines.
        let folder = folder.strip_prefix("/").unwrap_or(&folder).to_str()?.to_owned();
        Some(ControlGroup { folder, version })
    };
    Some(folders.filter_map(relative).collect())
}

/// Returns the time in which each block device had a request, ms: field 13 of `/proc/diskstats`.
fn disks(system: &System) -> Option<BTreeMap<String, u64>> {
    let text = system.text("proc/diskstats")?;
    let disk = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(((*fields.get(2)?).to_owned(), fields.get(12)?.parse().ok()?))
    };
    Some(text.lines().filter_map(disk).collect())
}

fn processes(system: &System) -> BTreeMap<u32, (String, u64)> {
    let process = |name: String| {
        let pid = name.parse().ok()?;
        let stat = parse_stat(&system.text(&format!("proc/{pid}/stat"))?)?;
        Some((pid, (stat.name, stat.own.total_ns)))
    };
    system.names("proc").into_iter().filter_map(process).collect()
}

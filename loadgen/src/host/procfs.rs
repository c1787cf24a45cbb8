//! Costs and sockets of processes, by `/proc`: proc(5).

use std::array;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::system::{kib, number};
use crate::host::cgroup::{Cgroup, Version};

/// The kernel's unit of user and system time in `/proc/PID/stat`, nanoseconds: 1/100 s on every
/// architecture that Rust's Linux targets have (`USER_HZ`).
pub(super) const TICK_NS: u64 = 10_000_000;

/// CPU time in nanoseconds, and page faults with and without a read from a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) total_ns: u64,
    pub(crate) user_ns: u64,
    pub(crate) system_ns: u64,
    pub(crate) faults: u64,
}

impl Cost {
    fn in_ticks(user: u64, system: u64, faults: u64) -> Self {
        let (user_ns, system_ns) = (user * TICK_NS, system * TICK_NS);
        Self { total_ns: user_ns + system_ns, user_ns, system_ns, faults }
    }

    fn with(self, other: Self, combine: fn(u64, u64) -> u64) -> Self {
        Self {
            total_ns: combine(self.total_ns, other.total_ns),
            user_ns: combine(self.user_ns, other.user_ns),
            system_ns: combine(self.system_ns, other.system_ns),
            faults: combine(self.faults, other.faults),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        self.with(other, |sum, part| sum + part)
    }

    fn since(self, earlier: Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }
}

/// Origin of the server's CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CostSource {
    /// The server's own control group (version 2). Counts everything that ran in it, in
    /// microseconds.
    CgroupV2,
    /// The server's own control group (version 1, `cpuacct`). Counts in nanoseconds.
    CgroupV1,
    /// `/proc`. Live processes are counted in nanoseconds; processes that have ended and were
    /// waited for, in ticks.
    #[default]
    Procfs,
    /// The server's metrics over HTTP. Counts in ticks, where they do not say otherwise.
    Metrics,
}

impl CostSource {
    /// Returns the unit of the least exact count, in nanoseconds.
    pub const fn resolution_ns(self) -> u64 {
        match self {
            Self::CgroupV2 => 1_000,
            Self::CgroupV1 => 1,
            Self::Procfs | Self::Metrics => TICK_NS,
        }
    }
}

/// Key of a process: its number, which may be given again, and the time of its start.
pub(super) type ProcessKey = (u32, u64);

/// CPU time and other costs of a server, as last read.
///
/// A server is all descendants of one process, the root, which itself does not belong to it. The
/// root inherits the children of processes that end (`PR_SET_CHILD_SUBREAPER`) and waits for them.
/// So the kernel adds the time of an ended process to the children's time of a process that lives.
/// Only the time of processes that are never waited for is lost (SIGCHLD ignored).
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuUsage {
    /// Counters by process and thread. A thread that has ended keeps its last values.
    threads: BTreeMap<(u32, u32), ThreadCounters>,
    /// Cost of each living process: its own, and that of the children that it waited for.
    living: BTreeMap<ProcessKey, (Cost, Cost)>,
    /// Cost of processes that have ended without a wait, as last read.
    unwaited: Cost,
    tree: Cost,
    /// CPU time of the tree by ticks alone, in nanoseconds.
    ticks_ns: u64,
    /// Number of tick counters in that sum. Each is rounded down to whole ticks.
    tick_counters: u64,
    /// CPU time of the server's control group, where it has one.
    group: Option<(Cost, Version)>,
}

/// Nanoseconds of a thread on a CPU and waiting for one, and its context switches.
type ThreadCounters = [u64; 4];

/// CPU time that passed between two looks, nanoseconds, and what happened. `None` where the source
/// does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuSpent {
    /// Total CPU time of all threads and processes, also of those that have ended.
    pub(crate) total_ns: u64,
    /// CPU time in user space, sampled by the timer tick.
    pub(crate) user_ns: Option<u64>,
    /// CPU time in the kernel, sampled by the timer tick.
    pub(crate) system_ns: Option<u64>,
    /// Time of the thread with the least idle time; ended threads count as one.
    pub(crate) busiest_ns: Option<u64>,
    /// Time that the thread which waited most for other processes was runnable without a CPU.
    pub(crate) waited_ns: Option<u64>,
    /// Voluntary context switches. `None` where ended threads did much of the work.
    pub(crate) voluntary_switches: Option<u64>,
    /// Context switches because something else was to run. `None` in the same cases.
    pub(crate) involuntary_switches: Option<u64>,
    pub(crate) faults: Option<u64>,
    /// Origin of the CPU time.
    pub(crate) source: CostSource,
    /// Unit of the least exact count of that origin.
    pub(crate) resolution_ns: u64,
    /// True if processes ended without a wait, so that part of their time is missing.
    pub(crate) is_incomplete: bool,
    /// Total CPU time by `/proc/PID/stat`, where it differs by more than the error of ticks.
    pub(crate) other_total_ns: Option<u64>,
}

/// Divisor of a CPU time by which two accounts of it may differ: they are read in turn.
const SKEW: u64 = 50;
/// Divisor of the CPU time of ended threads up to which context switches are known.
const UNSEEN: u64 = 20;
/// Attempts to read a tree while processes end.
const TREE_ATTEMPTS: usize = 5;

impl CpuUsage {
    /// Reads the costs of the descendants of `root` and of their control group.
    pub(crate) fn look(&mut self, root: u32, cgroup: Option<&Cgroup>) {
        let tree = settled_tree(root);
        let mut living = BTreeMap::new();
        (self.ticks_ns, self.tick_counters) = (0, 0);
        for (&pid, stat) in &tree {
            let is_server = pid != root;
            let own = if is_server { own_cost(pid, stat) } else { Cost::default() };
            living.insert((pid, stat.start), (own, stat.children));
            let ticks = if is_server { stat.own } else { Cost::default() }.plus(stat.children);
            self.ticks_ns += ticks.total_ns;
            self.tick_counters += 2 + 2 * u64::from(stat.children != Cost::default());
            if is_server {
                self.look_at_threads(pid);
            }
        }
        self.unwaited = self.unwaited.plus(unwaited(&self.living, &living));
        self.living = living;
        self.tree = self
            .living
            .values()
            .fold(self.unwaited, |sum, (own, children)| sum.plus(*own).plus(*children));
        self.ticks_ns += self.unwaited.total_ns;
        self.group = cgroup.and_then(|cgroup| Some((cgroup.times()?, cgroup.version)));
    }

    fn look_at_threads(&mut self, pid: u32) {
        for tid in tasks(pid) {
            let counters = self.threads.entry((pid, tid)).or_default();
            if let Some((on_cpu, waiting)) = schedstat(pid, tid) {
                (counters[0], counters[1]) = (on_cpu, waiting);
            }
            let status =
                fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
            if let Some((voluntary, involuntary)) = parse_switches(&status) {
                (counters[2], counters[3]) = (voluntary, involuntary);
            }
        }
    }

    pub(crate) fn since(&self, earlier: &Self) -> CpuSpent {
        let tree = self.tree.since(earlier.tree);
        let group = self
            .group
            .zip(earlier.group)
            .map(|((now, version), (then, _))| (now.since(then), version));
        let error_ns = self.tick_error_ns(tree.total_ns);
        let (times, source) = match group {
            Some((times, version)) if tree.total_ns <= times.total_ns + error_ns => {
                (times, version.into())
            }
            // The server has left the group, or has none.
            _ => (tree, CostSource::Procfs),
        };
        // The samples of the timer tick give the proportion, not the sum.
        let sampled = u128::from(times.user_ns + times.system_ns).max(1);
        let part = |part_ns| (u128::from(times.total_ns) * u128::from(part_ns) / sampled) as u64;
        let ticks_ns = self.ticks_ns.saturating_sub(earlier.ticks_ns);
        let differs = times.total_ns.abs_diff(ticks_ns) > error_ns;
        CpuSpent {
            total_ns: times.total_ns,
            user_ns: Some(part(times.user_ns)),
            system_ns: Some(part(times.system_ns)),
            faults: Some(tree.faults),
            source,
            resolution_ns: source.resolution_ns(),
            is_incomplete: source == CostSource::Procfs && self.unwaited != earlier.unwaited,
            other_total_ns: differs.then_some(ticks_ns),
            ..self.threads_since(earlier, times.total_ns)
        }
    }

    /// Returns the figures that are known per thread. `total_ns` is the CPU time of all threads.
    fn threads_since(&self, earlier: &Self, total_ns: u64) -> CpuSpent {
        let each = self.threads.iter().map(|(thread, now)| {
            let then = earlier.threads.get(thread).copied().unwrap_or_default();
            array::from_fn(|counter| now[counter].saturating_sub(then[counter]))
        });
        let each: Vec<ThreadCounters> = each.collect();
        let sum = |counter: usize| each.iter().map(|counters| counters[counter]).sum::<u64>();
        let unseen_ns = total_ns.saturating_sub(sum(0));
        let busiest_ns = each.iter().map(|[spent, waited, ..]| spent + waited).max().unwrap_or(0);
        // Threads of one server may wait for each other: at most what the others have spent.
        let held_up = |[spent, waited, ..]: &ThreadCounters| {
            waited.saturating_sub(total_ns.saturating_sub(*spent))
        };
        let is_known = unseen_ns <= (total_ns / UNSEEN).max(TICK_NS);
        CpuSpent {
            busiest_ns: Some(busiest_ns.max(unseen_ns)),
            waited_ns: Some(each.iter().map(held_up).max().unwrap_or(0)),
            voluntary_switches: is_known.then(|| sum(2)),
            involuntary_switches: is_known.then(|| sum(3)),
            ..CpuSpent::default()
        }
    }

    /// Returns the largest difference of ticks from scheduler time. Every counter is rounded down
    /// to whole ticks, and the kernel updates the time of a running thread at the next tick.
    fn tick_error_ns(&self, total_ns: u64) -> u64 {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        (self.tick_counters + self.threads.len().min(processors) as u64) * TICK_NS + total_ns / SKEW
    }
}

/// Returns the cost of a living process without its children, but with its threads that have ended.
pub(super) fn own_cost(pid: u32, stat: &Stat) -> Cost {
    let exact = engine::process_cpu_time(pid).and_then(|time| u64::try_from(time.as_nanos()).ok());
    Cost { total_ns: exact.unwrap_or(stat.own.total_ns), ..stat.own }
}

/// Returns the cost of ended processes by which no living process has grown.
pub(super) fn unwaited(
    then: &BTreeMap<ProcessKey, (Cost, Cost)>,
    now: &BTreeMap<ProcessKey, (Cost, Cost)>,
) -> Cost {
    let (mut ended, mut waited_for, mut count) = (Cost::default(), Cost::default(), 0);
    for (process, (own, children)) in then {
        match now.get(process) {
            Some((_, grown)) => waited_for = waited_for.plus(grown.since(*children)),
            None => {
                ended = ended.plus(*own).plus(*children);
                count += 1;
            }
        }
    }
    let missing = ended.since(waited_for);
    // User and system time are rounded down to whole ticks, once for each process that waits.
    let error_ns = 2 * TICK_NS * now.len().min(count) as u64;
    if missing.total_ns > error_ns { missing } else { Cost::default() }
}

pub(crate) fn tasks(pid: u32) -> Vec<u32> {
    numbers_in(&format!("/proc/{pid}/task")).collect()
}

/// Returns the entries of a folder whose names are numbers.
fn numbers_in(folder: &str) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Returns the time that the hypervisor gave to others while a processor had work, in nanoseconds:
/// for these processors, or for all where none is named.
pub(crate) fn stolen_ns(cpus: &[usize]) -> BTreeMap<usize, u64> {
    let mut stolen = parse_stolen(&fs::read_to_string("/proc/stat").unwrap_or_default());
    stolen.retain(|cpu, _| cpus.is_empty() || cpus.contains(cpu));
    stolen
}

/// `cpuN user nice system idle iowait irq softirq steal ...`, in ticks.
fn parse_stolen(stat: &str) -> BTreeMap<usize, u64> {
    let line = |line: &str| {
        let mut fields = line.strip_prefix("cpu")?.split_ascii_whitespace();
        let cpu = fields.next()?.parse().ok()?;
        let ticks = fields.nth(7)?.parse::<u64>().ok()?;
        Some((cpu, ticks * TICK_NS))
    };
    // The line `cpu  ...` of all together has a number of ticks where the others have their own.
    stat.lines().filter(|line| !line.starts_with("cpu ")).filter_map(line).collect()
}

/// Returns the time a thread has spent on a CPU, and runnable without one, nanoseconds. Unlike
/// ticks, `schedstat` is exact.
pub(crate) fn schedstat(pid: u32, tid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    let mut times = text.split_ascii_whitespace().map(str::parse);
    Some((times.next()?.ok()?, times.next()?.ok()?))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) name: String,
    parent: u32,
    pub(crate) group: u32,
    /// Time of its start, in ticks since the start of the machine.
    pub(super) start: u64,
    /// Cost of all its threads, also of those that have ended.
    pub(crate) own: Cost,
    /// Cost of children that have ended and were waited for, with that of their own children.
    pub(super) children: Cost,
}

pub(super) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The program's name in parentheses may hold anything: fields count from the last one.
pub(crate) fn parse_stat(text: &str) -> Option<Stat> {
    let (head, fields) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        name: name.to_owned(),
        parent: u32::try_from(number(4)?).ok()?,
        group: u32::try_from(number(5)?).ok()?,
        start: number(22)?,
        own: Cost::in_ticks(number(14)?, number(15)?, number(10)? + number(12)?),
        children: Cost::in_ticks(number(16)?, number(17)?, number(11)? + number(13)?),
    })
}

/// Returns the descendants of a process, without the process itself.
pub(crate) fn descendants(root: u32) -> BTreeMap<u32, Stat> {
    let mut tree = tree(root);
    tree.remove(&root);
    tree
}

/// Returns a process and its descendants.
fn tree(root: u32) -> BTreeMap<u32, Stat> {
    let mut all: BTreeMap<u32, Stat> =
        numbers_in("/proc").filter_map(|pid| Some((pid, stat(pid)?))).collect();
    // A process whose parent ends during the read has another parent by now.
    let is_torn = |stat: &Stat| !all.contains_key(&stat.parent);
    let torn: Vec<u32> =
        all.iter().filter(|(_, stat)| is_torn(stat)).map(|(&pid, _)| pid).collect();
    all.extend(torn.into_iter().filter_map(|pid| Some((pid, stat(pid)?))));
    let is_below = |pid: &u32| {
        let mut line =
            std::iter::successors(Some(*pid), |pid| Some(all.get(pid)?.parent)).take(all.len());
        line.any(|pid| pid == root)
    };
    let below: Vec<u32> = all.keys().copied().filter(is_below).collect();
    all.retain(|pid, _| below.binary_search(pid).is_ok());
    all
}

/// Returns the [`tree`] at a moment between two ends of processes. There the cost of an ended
/// process counts once: as its own, or as its parent's.
pub(super) fn settled_tree(root: u32) -> BTreeMap<u32, Stat> {
    let mut seen = tree(root);
    for _ in 1..TREE_ATTEMPTS {
        let is_as_before = |(pid, then): (&u32, &Stat)| {
            stat(*pid).is_some_and(|now| (now.start, now.children) == (then.start, then.children))
        };
        if seen.iter().all(is_as_before) {
            break;
        }
        seen = tree(root);
    }
    seen
}

/// Returns the voluntary and the other context switches of a thread.
fn parse_switches(status: &str) -> Option<(u64, u64)> {
    Some((
        number(status, "voluntary_ctxt_switches")?,
        number(status, "nonvoluntary_ctxt_switches")?,
    ))
}

/// Memory of a set of processes, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident in all.
    pub(crate) resident: u64,
    /// Resident and not backed by a file: what connections make grow.
    pub(crate) anonymous: u64,
}

/// Returns the sum over processes.
pub(crate) fn memory(pids: &[u32]) -> Memory {
    let read = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/status")).ok();
    let each = pids.iter().filter_map(read).map(|status| parse_memory(&status));
    each.fold(Memory::default(), |sum, part| Memory {
        resident: sum.resident + part.resident,
        anonymous: sum.anonymous + part.anonymous,
    })
}

fn parse_memory(status: &str) -> Memory {
    let bytes = |name| kib(status, name).unwrap_or(0) * 1024;
    Memory { resident: bytes("VmRSS"), anonymous: bytes("RssAnon") }
}

/// Returns the inodes of the sockets that listen at one of `addresses`.
pub(crate) fn listeners_at(addresses: &[SocketAddr]) -> BTreeSet<u64> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let text =
        tables.into_iter().filter_map(|path| fs::read_to_string(path).ok()).collect::<String>();
    parse_listeners(&text, addresses)
}

fn parse_listeners(table: &str, addresses: &[SocketAddr]) -> BTreeSet<u64> {
    let serves = |listener: SocketAddr| {
        addresses.iter().any(|wanted| {
            let (at, to) = (listener.ip().to_canonical(), wanted.ip().to_canonical());
            listener.port() == wanted.port() && (at == to || at.is_unspecified())
        })
    };
    table
        .lines()
        .filter_map(parse_listener)
        .filter(|(at, _)| serves(*at))
        .map(|(_, inode)| inode)
        .collect()
}

/// Returns address and inode of a line of `/proc/net/tcp` or `tcp6` in state LISTEN.
fn parse_listener(line: &str) -> Option<(SocketAddr, u64)> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (ip, port) = fields.get(1)?.split_once(':')?;
    let at = SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    Some((at, fields.get(9)?.parse().ok()?))
}

/// The kernel prints an address as 32-bit words, each in the machine's byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    if hex.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let octets: [u8; 16] = [word(0)?, word(8)?, word(16)?, word(24)?].concat().try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

/// Returns the inodes of the sockets that these processes hold.
pub(crate) fn sockets_of(pids: &[u32]) -> BTreeSet<u64> {
    let links =
        pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/fd"))).flatten().flatten();
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    links.filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "4242 (a ) b) S 1 77 77 0 -1 4194560 1 2 3 4 250 31 7 5 20 0 1 0 12 13 14";
        let expected = Stat {
            name: "a ) b".to_owned(),
            parent: 1,
            group: 77,
            start: 12,
            own: Cost::in_ticks(250, 31, 4),
            children: Cost::in_ticks(7, 5, 6),
        };
        assert_eq!(expected.own.total_ns, 2_810_000_000);
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat("4242 (x) S 1"), None);
    }

    #[test]
    fn stolen_time_is_that_of_each_processor() {
        let stat = "cpu  9 0 9 9 9 0 9 70 0 0\ncpu0 1 2 3 4 5 6 7 30 0 0\ncpu12 1 2 3 4 5 6 7 40 0 0\nintr 5 6\ncpufreq\n";
        assert_eq!(parse_stolen(stat), BTreeMap::from([(0, 300_000_000), (12, 400_000_000)]));
        assert!(stolen_ns(&[]).len() >= stolen_ns(&[0]).len());
    }

    #[test]
    fn context_switches_are_told_apart() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
        assert_eq!(parse_switches(status), Some((150, 545)));
        assert_eq!(parse_switches("Name:\tkthread\n"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t     512 kB\n";
        assert_eq!(parse_memory(status), Memory { resident: 2 << 20, anonymous: 512 << 10 });
        assert_eq!(parse_memory("Name:\tkthread\n"), Memory::default());
    }

    #[test]
    fn listeners_are_found_by_address_or_wildcard() {
        let word = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        let zero = word([0; 4]);
        let line = |ip: &str, port: &str, state: &str, inode: u64| {
            format!(
                "  0: {ip}:{port} {zero}:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 {inode} 1\n"
            )
        };
        let loopback6 = format!("{zero}{zero}{zero}{}", word([0, 0, 0, 1]));
        let table = line(&word([127, 0, 0, 1]), "2329", "0A", 11)
            + &line(&zero, "2329", "0A", 12)
            + &line(&zero, "232A", "0A", 13)
            + &line(&zero, "2329", "01", 14)
            + &line(&zero.repeat(4), "2329", "0A", 15)
            + &line(&loopback6, "2329", "0A", 16)
            + &line(&word([10, 0, 0, 1]), "2329", "0A", 17);
        let find = |at: &str| parse_listeners(&table, &[at.parse().expect("address")]);
        assert_eq!(find("127.0.0.1:9001"), BTreeSet::from([11, 12, 15]));
        assert_eq!(find("[::1]:9001"), BTreeSet::from([12, 15, 16]));
        assert_eq!(find("127.0.0.1:9003"), BTreeSet::new());
    }

    #[test]
    fn the_sockets_of_this_process_are_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("address");
        let found = listeners_at(&[at]);
        assert_eq!(found.len(), 1);
        assert!(sockets_of(&[std::process::id()]).is_superset(&found));
        drop(listener);
        assert!(listeners_at(&[at]).is_empty());
    }

    fn cost(total_ns: u64) -> Cost {
        Cost { total_ns, user_ns: total_ns, ..Cost::default() }
    }

    /// Returns a usage whose tree has spent `tree_ns` by the clock and `ticks_ns` by ticks, and
    /// whose control group has spent `group_ns`.
    fn usage(tree_ns: u64, ticks_ns: u64, group_ns: Option<u64>) -> CpuUsage {
        let group = group_ns.map(|ns| (cost(ns), Version::V2));
        CpuUsage { tree: cost(tree_ns), ticks_ns, group, ..CpuUsage::default() }
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn ended_threads_count_in_the_total() {
        let mut now = usage(SECOND, SECOND, None);
        now.threads.insert((1, 2), [200_000_000, 50_000_000, 5, 6]);
        let spent = now.since(&CpuUsage::default());
        assert_eq!(
            (spent.total_ns, spent.source, spent.other_total_ns),
            (SECOND, CostSource::Procfs, None)
        );
        // Threads that started and ended did 0.8 s of it. The kernel keeps no counts of their
        // switches.
        assert_eq!((spent.busiest_ns, spent.voluntary_switches), (Some(800_000_000), None));
        now.threads.insert((1, 3), [800_000_000, 0, 0, 0]);
        assert_eq!(now.since(&CpuUsage::default()).voluntary_switches, Some(5));
    }

    #[test]
    fn user_and_system_time_add_up_to_the_total() {
        let mut now = usage(SECOND, SECOND, None);
        (now.tree.user_ns, now.tree.system_ns) = (100_000_000, 300_000_000);
        let spent = now.since(&CpuUsage::default());
        assert_eq!((spent.user_ns, spent.system_ns), (Some(250_000_000), Some(750_000_000)));
    }

    #[test]
    fn accounts_that_differ_by_more_than_ticks_are_told() {
        let other = |now: CpuUsage| now.since(&CpuUsage::default()).other_total_ns;
        assert_eq!(other(usage(SECOND, SECOND - SECOND / 60, None)), None);
        assert_eq!(other(usage(SECOND, SECOND / 2, None)), Some(SECOND / 2));
        let many = CpuUsage { tick_counters: 60, ..usage(SECOND, SECOND / 2, None) };
        assert_eq!(other(many), None);
    }

    #[test]
    fn a_control_group_counts_what_nobody_waited_for() {
        let source = |now: CpuUsage| {
            let spent = now.since(&usage(0, 0, Some(0)));
            (spent.total_ns, spent.source)
        };
        let group = Some(2 * SECOND);
        assert_eq!(source(usage(SECOND, SECOND, group)), (2 * SECOND, CostSource::CgroupV2));
        // The server has moved itself to another group.
        assert_eq!(source(usage(4 * SECOND, 4 * SECOND, group)), (4 * SECOND, CostSource::Procfs));
        assert_eq!(source(usage(SECOND, SECOND, None)), (SECOND, CostSource::Procfs));
        let is_incomplete = |group| {
            let now = CpuUsage { unwaited: cost(SECOND), ..usage(SECOND, SECOND, group) };
            now.since(&usage(0, 0, Some(0))).is_incomplete
        };
        assert!(is_incomplete(None) && !is_incomplete(group));
    }

    #[test]
    fn an_ended_process_keeps_its_cost_when_nobody_waited() {
        let then =
            BTreeMap::from([((1, 0), (cost(5), cost(SECOND))), ((2, 0), (cost(SECOND), cost(7)))]);
        let with_children = |children| BTreeMap::from([((1, 0), (cost(6), cost(children)))]);
        assert_eq!(unwaited(&then, &with_children(SECOND)), cost(SECOND + 7));
        assert_eq!(unwaited(&then, &with_children(2 * SECOND)), Cost::default());
        // The same process number with another time of start.
        let again = BTreeMap::from([((2, 9), (cost(1), cost(0)))]);
        assert_eq!(unwaited(&then, &again), cost(2 * SECOND + 12));
    }

    #[test]
    fn threads_that_wait_for_each_other_are_not_held_up_by_others() {
        let mut usage = usage(1000, 0, None);
        usage.threads.insert((1, 2), [600, 500, 0, 0]);
        usage.threads.insert((1, 3), [400, 450, 0, 0]);
        // Thread 2 may have waited 400 for thread 3, and 3 all of its time for 2.
        assert_eq!(usage.since(&CpuUsage::default()).waited_ns, Some(100));
    }

    #[test]
    fn descendants_have_threads_and_memory() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
        let me = std::process::id();
        let mut usage = CpuUsage::default();
        usage.look(me, None);
        let found = descendants(me);
        let (ran, memory) = (usage.since(&CpuUsage::default()), memory(&[child.id()]));
        child.kill().expect("our own child");
        child.wait().expect("killed");
        assert!(found.contains_key(&child.id()) && !found.contains_key(&me));
        assert!(ran.faults > Some(0) && ran.total_ns > 0 && memory.resident > 0);
        usage.look(me, None);
        assert!(!descendants(me).contains_key(&child.id()));
        // We have waited for it, so none of its cost is lost.
        assert!(usage.since(&CpuUsage::default()).faults >= ran.faults);
    }
}

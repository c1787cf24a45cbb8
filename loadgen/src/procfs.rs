//! What `/proc` tells about processes: proc(5).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The kernel's unit of user and system time in `/proc/PID/stat`, nanoseconds: 1/100 s on every architecture that Rust's
/// Linux targets have (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

/// The processes of a process group.
pub(crate) fn group_members(group: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|stat| stat.group == group)).collect()
}

/// CPU time of a set of processes, thread by thread, and what else they cost, as last seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuUsage {
    /// Nanoseconds on a CPU, and waiting for one, by process and thread. A thread that has ended keeps its last values.
    threads: BTreeMap<(u32, u32), (u64, u64)>,
    /// User and system time by process, nanoseconds in whole ticks.
    ticks: BTreeMap<u32, (u64, u64)>,
    /// Context switches by process and thread, voluntary and not.
    switches: BTreeMap<(u32, u32), (u64, u64)>,
    /// Page faults by process, with and without a read from a disk.
    faults: BTreeMap<u32, u64>,
}

/// CPU time that passed between two looks, nanoseconds, and what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuSpent {
    /// In all, exact.
    pub(crate) total_ns: u64,
    /// In user space, in whole ticks.
    pub(crate) user_ns: u64,
    /// In the kernel, in whole ticks.
    pub(crate) system_ns: u64,
    /// Of the thread that had least idle time: on a CPU or waiting for one.
    pub(crate) busiest_ns: u64,
    /// Of the thread that waited most for a CPU that something else had: other processes, not other threads of these.
    pub(crate) waited_ns: u64,
    /// Context switches because a thread waited for something.
    pub(crate) voluntary_switches: u64,
    /// Context switches because something else was to run.
    pub(crate) involuntary_switches: u64,
    /// Page faults.
    pub(crate) faults: u64,
}

impl CpuUsage {
    /// Looks again, at these processes.
    pub(crate) fn look(&mut self, pids: &[u32]) {
        for &pid in pids {
            for tid in tasks(pid) {
                if let Some(times) = schedstat(pid, tid) {
                    self.threads.insert((pid, tid), times);
                }
                if let Some(switches) = switches(pid, tid) {
                    self.switches.insert((pid, tid), switches);
                }
            }
            if let Some(stat) = stat(pid) {
                self.ticks.insert(pid, (stat.user_ns, stat.system_ns));
                self.faults.insert(pid, stat.faults);
            }
        }
    }

    /// What was spent since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> CpuSpent {
        let each = self.threads.iter().map(|(thread, &(on_cpu, waiting))| {
            let then = earlier.threads.get(thread).copied().unwrap_or_default();
            (on_cpu.saturating_sub(then.0), waiting.saturating_sub(then.1))
        });
        let each: Vec<(u64, u64)> = each.collect();
        let total_ns = each.iter().map(|(spent, _)| spent).sum::<u64>();
        let busiest_ns = each.iter().map(|(spent, waited)| spent + waited).max().unwrap_or(0);
        // Threads of one server may share a processor and wait for each other: at most what the others have spent.
        let waited_ns = each.iter().map(|(spent, waited)| waited.saturating_sub(total_ns - spent)).max();
        let (user_ns, system_ns) = passed(&self.ticks, &earlier.ticks);
        let (voluntary_switches, involuntary_switches) = passed(&self.switches, &earlier.switches);
        let faults = self.faults.iter().map(|(pid, now)| {
            let then = earlier.faults.get(pid).copied().unwrap_or_default();
            now.saturating_sub(then)
        });
        CpuSpent {
            total_ns,
            user_ns,
            system_ns,
            busiest_ns,
            waited_ns: waited_ns.unwrap_or(0),
            voluntary_switches,
            involuntary_switches,
            faults: faults.sum(),
        }
    }
}

/// By how much two counters have grown, over all of their owners.
fn passed<K: Ord>(now: &BTreeMap<K, (u64, u64)>, earlier: &BTreeMap<K, (u64, u64)>) -> (u64, u64) {
    let each = now.iter().map(|(owner, now)| {
        let then = earlier.get(owner).copied().unwrap_or_default();
        (now.0.saturating_sub(then.0), now.1.saturating_sub(then.1))
    });
    each.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
}

/// The threads of a process.
pub(crate) fn tasks(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Time that the hypervisor gave to others while these processors had work, nanoseconds in whole ticks, by processor. None
/// named are all.
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

/// Time a thread has spent on a CPU, and runnable without one, nanoseconds (`schedstat`, exact where tick-sampled accounting
/// is not).
pub(crate) fn schedstat(pid: u32, tid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    let mut times = text.split_ascii_whitespace().map(str::parse);
    Some((times.next()?.ok()?, times.next()?.ok()?))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    group: u32,
    user_ns: u64,
    system_ns: u64,
    /// Page faults of all threads, also of those that have ended.
    faults: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The program's name in parentheses may hold anything, also spaces and parentheses: fields count from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        group: u32::try_from(number(5)?).ok()?,
        user_ns: number(14)? * TICK_NS,
        system_ns: number(15)? * TICK_NS,
        faults: number(10)? + number(12)?,
    })
}

/// Context switches of a thread, voluntary and not.
fn switches(pid: u32, tid: u32) -> Option<(u64, u64)> {
    parse_switches(&fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?)
}

fn parse_switches(status: &str) -> Option<(u64, u64)> {
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().parse::<u64>().ok()
    };
    Some((number("voluntary_ctxt_switches")?, number("nonvoluntary_ctxt_switches")?))
}

/// Memory of a set of processes, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident in all.
    pub(crate) resident: u64,
    /// Resident and not backed by a file: what connections make grow.
    pub(crate) anonymous: u64,
}

/// The sum over processes.
pub(crate) fn memory(pids: &[u32]) -> Memory {
    let read = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/status")).ok();
    let each = pids.iter().filter_map(read).map(|status| parse_memory(&status));
    each.fold(Memory::default(), |sum, part| Memory {
        resident: sum.resident + part.resident,
        anonymous: sum.anonymous + part.anonymous,
    })
}

fn parse_memory(status: &str) -> Memory {
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0)
    };
    Memory { resident: kib("VmRSS") * 1024, anonymous: kib("RssAnon") * 1024 }
}

/// Inodes of the sockets that listen at one of `addresses`, or at all addresses with its port.
pub(crate) fn listeners_at(addresses: &[SocketAddr]) -> BTreeSet<u64> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let text = tables.into_iter().filter_map(|path| fs::read_to_string(path).ok()).collect::<String>();
    parse_listeners(&text, addresses)
}

fn parse_listeners(table: &str, addresses: &[SocketAddr]) -> BTreeSet<u64> {
    table.lines().filter_map(parse_listener).filter(|(at, _)| serves(*at, addresses)).map(|l| l.1).collect()
}

fn serves(listener: SocketAddr, addresses: &[SocketAddr]) -> bool {
    addresses.iter().any(|wanted| {
        let (at, to) = (listener.ip().to_canonical(), wanted.ip().to_canonical());
        listener.port() == wanted.port() && (at == to || at.is_unspecified())
    })
}

/// Address and inode of a line of `/proc/net/tcp` or `tcp6` in state LISTEN.
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
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Inodes of the sockets that these processes hold.
pub(crate) fn sockets_of(pids: &[u32]) -> BTreeSet<u64> {
    let links =
        pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok()).flatten().flatten();
    let targets = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "4242 (a ) b) S 1 77 77 0 -1 4194560 1 2 3 4 250 31 0 0 20 0 1 0 12 13 14";
        let expected = Stat { group: 77, user_ns: 2_500_000_000, system_ns: 310_000_000, faults: 4 };
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

    #[test]
    fn a_thread_that_ended_keeps_its_cost() {
        let mut usage = CpuUsage::default();
        usage.threads.insert((1, 2), (500, 10));
        usage.ticks.insert(1, (TICK_NS, 0));
        let before = usage.clone();
        usage.threads.insert((1, 2), (800, 30));
        usage.threads.insert((1, 3), (50, 0));
        usage.ticks.insert(1, (TICK_NS, 2 * TICK_NS));
        // Thread 2 ends here: nothing overwrites what was seen of it.
        usage.look(&[]);
        let spent =
            CpuSpent { total_ns: 350, system_ns: 2 * TICK_NS, busiest_ns: 320, ..CpuSpent::default() };
        assert_eq!(usage.since(&before), spent);
    }

    #[test]
    fn threads_that_wait_for_each_other_are_not_held_up_by_others() {
        let mut usage = CpuUsage::default();
        usage.threads.insert((1, 2), (600, 500));
        usage.threads.insert((1, 3), (400, 450));
        // Thread 2 may have waited 400 for thread 3, and 3 all of its time for 2.
        assert_eq!(usage.since(&CpuUsage::default()).waited_ns, 100);
    }

    #[test]
    fn this_process_has_threads_and_memory() {
        let me = [std::process::id()];
        let mut usage = CpuUsage::default();
        usage.look(&me);
        assert!(usage.since(&CpuUsage::default()).faults > 0);
        assert!(usage.since(&CpuUsage::default()).total_ns > 0);
        assert!(memory(&me).resident > memory(&me).anonymous);
    }
}

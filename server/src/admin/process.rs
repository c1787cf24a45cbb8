//! CPU time and memory of this process: clock_getcpuclockid(3), proc(5).

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The kernel's unit of times in `/proc/self/stat`, in milliseconds: 1/100 s on every architecture
/// that Rust's Linux targets have (`USER_HZ`).
const TICK_MS: u64 = 10;

/// Figures of this process at one moment. `None`: `/proc` does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProcessFigures {
    /// CPU time of all threads, also of those that have ended.
    pub(super) cpu: Duration,
    /// The part of it in user space and in the kernel, sampled by the timer tick.
    pub(super) modes: Option<[Duration; 2]>,
    /// Page faults, with and without a read from a disk.
    pub(super) faults: Option<u64>,
    pub(super) threads: Option<u64>,
    /// Resident memory, in bytes.
    pub(super) resident: Option<u64>,
    /// The part of it that no file backs.
    pub(super) anonymous: Option<u64>,
}

impl ProcessFigures {
    pub(super) fn read() -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).ok();
        let (stat, status) = (read("stat"), read("status"));
        let field = |number| stat_field(stat.as_deref()?, number);
        let kib = |name| status_kib(status.as_deref()?, name);
        let ticks = |number| Some(Duration::from_millis(TICK_MS * field(number)?));
        Self {
            cpu: engine::process_cpu_time(std::process::id()).unwrap_or_default(),
            modes: ticks(14).zip(ticks(15)).map(Into::into),
            faults: field(10).zip(field(12)).map(|(minor, major)| minor + major),
            threads: field(20),
            resident: kib("VmRSS").map(|kib| kib << 10),
            anonymous: kib("RssAnon").map(|kib| kib << 10),
        }
    }
}

/// Returns the time since 1970 at which this process started, by the time since boot.
pub(super) fn start() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let started = Duration::from_millis(TICK_MS * stat_field(&stat, 22)?);
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let up = Duration::new(up.tv_sec.cast_unsigned(), u32::try_from(up.tv_nsec).ok()?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    now.checked_sub(up.saturating_sub(started))
}

/// Returns a field of `/proc/PID/stat` by its number in proc(5). The program's name in parentheses
/// may hold anything: fields count from the last one.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn status_kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_fields_count_from_the_name() {
        let stat = "42 (a ) b) S 1 77 77 0 -1 4194560 1 2 3 4 250 31 7 5 20 0 8 0 12 13 14";
        let fields = [10, 12, 14, 15, 20, 22].map(|number| stat_field(stat, number));
        assert_eq!(fields, [1, 3, 250, 31, 8, 12].map(Some));
        assert_eq!(stat_field("42 (x) S", 14), None);
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t     512 kB\n";
        assert_eq!((status_kib(status, "VmRSS"), status_kib(status, "Vm")), (Some(2048), None));
    }

    #[test]
    fn this_process_has_started_and_spent_time() {
        let (first, started) = (ProcessFigures::read(), start().expect("known"));
        let sum: u64 = (0..1_000_000_u64).map(std::hint::black_box).sum();
        assert!(sum > 0);
        let second = ProcessFigures::read();
        assert!(second.cpu > first.cpu && second.faults >= first.faults);
        assert!(second.threads > Some(0) && second.resident > second.anonymous);
        assert!(UNIX_EPOCH + started < SystemTime::now());
    }
}

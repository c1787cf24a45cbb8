//! Instructions and cycles of other processes, where the host has counters for them:
//! perf_event_open(2).

use std::io;

use anyhow::anyhow;
use perf_event::events::{Event, Hardware};
use perf_event::{Builder, Counter};
use rustix::io::Errno;

use crate::host::procfs;

/// Instructions and cycles, or the reason why they are not counted, with the remedy.
pub(crate) type Counted = anyhow::Result<(u64, u64)>;

fn explained(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            anyhow!("not allowed here: sudo sysctl kernel.perf_event_paranoid=1, or CAP_PERFMON")
        }
        // ENOENT, or EOPNOTSUPP, or ENODEV: this machine does not have the event.
        io::ErrorKind::NotFound | io::ErrorKind::Unsupported => {
            anyhow!("this machine has no counters for them, as is usual in virtual machines")
        }
        _ => anyhow!("perf_event_open(2) says: {error}"),
    }
}

/// Counts what processes do from now on, their threads and those that they start.
#[derive(Debug)]
pub(crate) struct Counting {
    instructions: Vec<Counter>,
    cycles: Vec<Counter>,
}

impl Counting {
    /// Begins to count.
    pub(crate) fn start(pids: &[u32]) -> anyhow::Result<Self> {
        let count = |event| counters(pids, event).map_err(explained);
        Ok(Self {
            instructions: count(Hardware::INSTRUCTIONS)?,
            cycles: count(Hardware::CPU_CYCLES)?,
        })
    }

    /// Returns the instructions and cycles since the start.
    pub(crate) fn read(&mut self) -> Counted {
        let sum = |counters: &mut [Counter]| {
            let sum = counters.iter_mut().map(Counter::read).sum::<io::Result<u64>>();
            sum.map_err(|error| anyhow!("the counters cannot be read: {error}"))
        };
        Ok((sum(&mut self.instructions)?, sum(&mut self.cycles)?))
    }
}

/// Returns a running counter for each thread of these processes.
fn counters(pids: &[u32], event: impl Event + Clone) -> io::Result<Vec<Counter>> {
    let threads = pids.iter().flat_map(|&pid| procfs::tasks(pid));
    let counters = threads.map(|tid| counter(tid, event.clone()));
    // A thread that has ended since it was listed has nothing to count.
    let ended = |error: &io::Error| error.raw_os_error() == Some(Errno::SRCH.raw_os_error());
    counters.filter(|counter| !counter.as_ref().is_err_and(ended)).collect()
}

fn counter(tid: u32, event: impl Event) -> io::Result<Counter> {
    let mut builder = Builder::new(event);
    builder.observe_pid(tid.cast_signed()).any_cpu().include_kernel().inherit(true);
    let mut counter = builder.build()?;
    counter.enable()?;
    Ok(counter)
}

#[cfg(test)]
mod tests {
    use perf_event::events::Software;

    use super::*;

    /// The kernel's own counters are there also where the processor's are not.
    #[test]
    fn the_threads_of_a_process_are_counted() {
        let me = [std::process::id()];
        let mut counting = match counters(&me, Software::PAGE_FAULTS) {
            Ok(counting) => counting,
            Err(error) => return println!("skipped: {}", explained(error)),
        };
        assert!(!counting.is_empty());
        // Inherited by a thread that is started now.
        let pages = std::thread::spawn(|| vec![1u8; 16 << 20].len()).join().expect("no panic");
        let faults: u64 =
            counting.iter_mut().map(|counter| counter.read().expect("readable")).sum();
        assert!(pages > 0 && faults > 0, "{faults}");
    }

    #[test]
    fn where_nothing_can_be_counted_the_reason_is_a_line() {
        let said = match Counting::start(&[std::process::id()]) {
            Ok(mut counting) => {
                let (instructions, cycles) = counting.read().expect("readable");
                assert!(instructions > 0 && cycles > 0);
                return;
            }
            Err(error) => error.to_string(),
        };
        assert!(said.len() > 20 && !said.contains('\n'), "{said}");
        let denied = explained(io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(denied.contains("perf_event_paranoid"), "{denied}");
    }
}

//! Lists of processors, their order, and pinning.

use std::collections::BTreeSet;
use std::io;
use std::num::ParseIntError;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Error of a list of processors.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CpuListError {
    /// An item is not a number.
    #[error("`{item}` is not a processor number")]
    Number {
        /// The item of the list.
        item: String,
        /// Reason why the item is not a number.
        source: ParseIntError,
    },
    /// A range that ends before it begins.
    #[error("`{0}` ends before it begins")]
    Backwards(String),
    /// A number beyond what the kernel's sets hold here.
    #[error("processor {0} is beyond {max}", max = CpuSet::MAX_CPU - 1)]
    TooLarge(usize),
}

/// Parses a list such as `0,2-5` (the format of cpuset(7)) and keeps its order.
///
/// # Errors
///
/// [`CpuListError`] names the item that is not valid.
pub fn parse_cpu_list(list: &str) -> Result<Vec<usize>, CpuListError> {
    let number = |text: &str| {
        let n = text
            .trim()
            .parse::<usize>()
            .map_err(|source| CpuListError::Number { item: text.trim().to_owned(), source })?;
        if n >= CpuSet::MAX_CPU { Err(CpuListError::TooLarge(n)) } else { Ok(n) }
    };
    let mut cpus = Vec::new();
    for item in list.split(',') {
        match item.split_once('-') {
            None => cpus.push(number(item)?),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return Err(CpuListError::Backwards(item.trim().to_owned()));
                }
                cpus.extend(first..=last);
            }
        }
    }
    Ok(cpus)
}

/// Returns the processors that this thread may run on, in ascending order.
///
/// # Errors
///
/// Fails with the error of sched_getaffinity(2).
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Pins the calling thread to one processor.
///
/// # Errors
///
/// Fails with the error of sched_setaffinity(2): the processor does not exist, or this process may
/// not use it.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Orders processors so that distinct physical cores come before siblings of one core.
///
/// `siblings` returns the processors that share a processor's core, itself included; see
/// [`siblings`]. A processor for which it returns none counts as a core of its own.
#[must_use]
pub fn spread(cpus: &[usize], siblings: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    let mut used: Vec<BTreeSet<usize>> = Vec::new();
    for &cpu in cpus {
        let core = siblings(cpu).into_iter().chain([cpu]).min().unwrap_or(cpu);
        let round = used.iter().position(|cores| !cores.contains(&core)).unwrap_or(used.len());
        if round == used.len() {
            used.push(BTreeSet::new());
            rounds.push(Vec::new());
        }
        used[round].insert(core);
        rounds[round].push(cpu);
    }
    rounds.concat()
}

/// Returns the processors that share a physical core with `cpu`, from
/// `topology/thread_siblings_list` in sysfs. Empty if sysfs has no such file.
#[must_use]
pub fn siblings(cpu: usize) -> Vec<usize> {
    std::fs::read_to_string(format!(
        "/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    ))
    .ok()
    .and_then(|list| parse_cpu_list(list.trim()).ok())
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_in_order() {
        assert_eq!(parse_cpu_list("3,0-2, 7"), Ok(vec![3, 0, 1, 2, 7]));
        assert!(
            matches!(parse_cpu_list("1,x"), Err(CpuListError::Number { item, .. }) if item == "x")
        );
        assert!(matches!(parse_cpu_list(""), Err(CpuListError::Number { .. })));
        assert_eq!(parse_cpu_list("4-2"), Err(CpuListError::Backwards("4-2".to_owned())));
        assert_eq!(parse_cpu_list("0-99999999"), Err(CpuListError::TooLarge(99_999_999)));
    }

    #[test]
    fn distinct_cores_before_siblings() {
        // Two cores of two threads each, numbered side by side, then as most servers number them.
        assert_eq!(spread(&[0, 1, 2, 3], |c| vec![c & !1, c | 1]), [0, 2, 1, 3]);
        assert_eq!(spread(&[0, 1, 2, 3], |c| vec![c % 2, c % 2 + 2]), [0, 1, 2, 3]);
        assert_eq!(spread(&[5, 1], |_| Vec::new()), [5, 1]);
    }

    #[test]
    fn this_thread_may_run_somewhere() {
        let cpus = allowed().expect("affinity");
        assert!(!cpus.is_empty());
        pin(cpus[0]).expect("an allowed processor");
        assert_eq!(allowed().expect("affinity"), [cpus[0]]);
    }
}

//! Lists of processors on the command line.

use std::io;
use std::thread;

use anyhow::Context as _;
use engine::affinity;
use rustix::thread::CpuSet;

use super::usage;

/// A type of its own, since clap takes a `Vec` for a flag that may be repeated.
#[derive(Clone, Debug)]
pub(super) struct CpuList(pub(super) Vec<usize>);

pub(super) fn cpu_list(text: &str) -> Result<CpuList, affinity::CpuListError> {
    affinity::parse_cpu_list(text).map(CpuList)
}

/// Fails if `flag` lists a processor that is not `allowed`.
pub(super) fn check_cpus(
    flag: &str,
    list: Option<&CpuList>,
    allowed: &[usize],
) -> anyhow::Result<()> {
    let Some(cpu) = list.into_iter().flat_map(|list| &list.0).find(|cpu| !allowed.contains(cpu))
    else {
        return Ok(());
    };
    let allowed = allowed.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    Err(usage(format!(
        "{flag}: processor {cpu} is not among those this process may use ({allowed})"
    )))
}

/// Fails if `--cpus`, `--spawn-cpus` or `--via-cpus` lists a processor that the kernel does not
/// give to a thread of this process.
pub(super) fn check_own_cpus(
    cpus: Option<&CpuList>,
    spawn_cpus: Option<&CpuList>,
    via_cpus: Option<&CpuList>,
) -> anyhow::Result<()> {
    for (flag, list) in [("--cpus", cpus), ("--spawn-cpus", spawn_cpus), ("--via-cpus", via_cpus)] {
        let Some(CpuList(cpus)) = list else { continue };
        let context = || format!("{flag}: cannot start a thread");
        if assignable(cpus.clone()).with_context(context)?.len() < cpus.len() {
            let allowed = assignable((0..CpuSet::MAX_CPU).collect()).with_context(context)?;
            check_cpus(flag, list, &allowed)?;
        }
    }
    Ok(())
}

/// Returns the processors to which the kernel lets a thread of this process be moved.
///
/// The mask does not say that. A process may leave the mask that taskset(1) gave it, but not its
/// control group's processors. So a thread of its own tries: the kernel refuses others with EINVAL.
fn assignable(cpus: Vec<usize>) -> io::Result<Vec<usize>> {
    let is_given = |cpu: &usize| {
        !affinity::pin(*cpu).is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput)
    };
    let probe =
        thread::Builder::new().spawn(move || cpus.into_iter().filter(is_given).collect())?;
    probe.join().map_err(|_| io::Error::other("the thread panicked"))
}

//! Lists of processors on the command line.

use engine::affinity;

use super::Failure;

/// A type of its own, since clap takes a `Vec` for a flag that may be repeated.
#[derive(Clone, Debug)]
pub(super) struct CpuList(pub(super) Vec<usize>);

pub(super) fn cpu_list(text: &str) -> Result<CpuList, affinity::CpuListError> {
    affinity::parse_cpu_list(text).map(CpuList)
}

/// Fails where `flag` lists a processor that is not `allowed`.
pub(super) fn check_cpus(flag: &str, list: Option<&CpuList>, allowed: &[usize]) -> Result<(), Failure> {
    let Some(cpu) = list.into_iter().flat_map(|list| &list.0).find(|cpu| !allowed.contains(cpu)) else {
        return Ok(());
    };
    let allowed = allowed.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    Err(Failure::Usage(format!(
        "{flag}: processor {cpu} is not among those this process may use ({allowed})"
    )))
}

/// Fails where a flag lists a processor that this process may not use.
pub(super) fn check_own_cpus(lists: [(&str, Option<&CpuList>); 2]) -> Result<(), Failure> {
    let allowed = affinity::allowed().map_err(|error| Failure::Error(format!("--cpus: {error}")))?;
    lists.into_iter().try_for_each(|(flag, list)| check_cpus(flag, list, &allowed))
}

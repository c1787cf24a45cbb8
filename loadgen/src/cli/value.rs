//! Values that several commands take: times, sizes, lists of processors.

use std::time::Duration;

use bytesize::ByteSize;
use engine::affinity;

/// A type of its own, since clap takes a `Vec` for a flag that may be repeated.
#[derive(Clone, Debug)]
pub(super) struct CpuList(pub(super) Vec<usize>);

pub(super) fn cpu_list(text: &str) -> Result<CpuList, affinity::CpuListError> {
    affinity::parse_cpu_list(text).map(CpuList)
}

/// Beyond this a time is a slip of the pen, and sums of it with a clock might not fit.
const MAX_TIME: Duration = Duration::from_secs(100 * 24 * 60 * 60);

pub(super) fn time(text: &str) -> Result<Duration, String> {
    let span = if text == "0" { Ok(Duration::ZERO) } else { humantime::parse_duration(text) };
    let span = span.map_err(|error| format!("{error}, as in 500ms or 10s"))?;
    if span > MAX_TIME { Err("at most 100days".to_owned()) } else { Ok(span) }
}

pub(super) fn size(text: &str) -> Result<usize, String> {
    let size = text.parse::<ByteSize>().map_err(|_| "a size is needed, as in 4096 or 64KiB".to_owned())?;
    usize::try_from(size.as_u64()).map_err(|error| error.to_string())
}

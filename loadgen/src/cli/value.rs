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

/// Messages a second: `50`, `50k`, `1.5M`, or so many in a time, as in `50/1s` and `200/100ms`.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let (count, span) = match text.split_once('/') {
        Some((count, span)) => (count, time(span)?),
        None => (text, Duration::from_secs(1)),
    };
    let (digits, unit) = match count.as_bytes().last() {
        Some(b'k' | b'K') => (&count[..count.len() - 1], 1e3),
        Some(b'm' | b'M') => (&count[..count.len() - 1], 1e6),
        _ => (count, 1.0),
    };
    let number = digits.parse::<f64>().ok().filter(|number| number.is_finite());
    let number = number.ok_or("a rate is needed, as in 500, 50k, 50/1s or 200/100ms")?;
    if span.is_zero() {
        Err("so many in no time is no rate".to_owned())
    } else {
        Ok(number * unit / span.as_secs_f64())
    }
}

pub(super) fn size(text: &str) -> Result<usize, String> {
    let size = text.parse::<ByteSize>().map_err(|_| "a size is needed, as in 4096 or 64KiB".to_owned())?;
    usize::try_from(size.as_u64()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_in_all_forms() {
        for (text, per_s) in [
            ("50", 50.0),
            ("50k", 50e3),
            ("1.5M", 1.5e6),
            ("50/1s", 50.0),
            ("200/100ms", 2000.0),
            ("1k/2s", 500.0),
        ] {
            assert_eq!(rate(text), Ok(per_s), "{text}");
        }
        for text in ["", "k", "many", "5/", "/1s", "5/0", "5/soon", "inf", "NaN"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}

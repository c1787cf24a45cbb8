//! The interval log that `HistogramLogProcessor` and its relatives read: a histogram for each
//! second.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

/// The maximum of each line is in milliseconds, by the tools' custom; the histograms are in
/// nanoseconds.
const NS_PER_MS: f64 = 1e6;

/// Returns the log of a window that began at `start` and lasted for `window`. Entry k is the second
/// k, and empty where no echo came in it. The last entry may be shorter than a second. Fails where a
/// histogram counts more than the format can hold.
pub(crate) fn interval_log(
    start: SystemTime,
    window: Duration,
    seconds: &[Option<Histogram<u32>>],
) -> anyhow::Result<Vec<u8>> {
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment(
            "[Logged with sparring-loadgen: corrected latencies in nanoseconds, maxima in milliseconds]",
        )
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(NS_PER_MS)
        .begin_log_with(&mut log, &mut serializer)?;
    for (second, histogram) in (0..).zip(seconds) {
        let Some(histogram) = histogram else { continue };
        let at = Duration::from_secs(second);
        let length = window.saturating_sub(at).min(Duration::from_secs(1));
        let written = writer.write_histogram(histogram, at, length, None);
        written.context("cannot write a second's histogram")?;
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    fn second(ns: u64) -> Histogram<u32> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("bounds");
        (0..100).for_each(|_| histogram.record(ns).expect("in range"));
        histogram
    }

    #[test]
    fn what_was_written_reads_back() {
        let (first, third) = (second(1_000_000), second(3_000_000));
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let window = Duration::from_millis(2250);
        let log = interval_log(start, window, &[Some(first), None, Some(third.clone())]).expect("written");
        let entries: Vec<_> = IntervalLogIterator::new(&log).collect::<Result<_, _>>().expect("readable");
        assert!(
            matches!(entries[0], LogEntry::StartTime(at) if at == Duration::from_millis(1_700_000_000_250))
        );
        let intervals: Vec<_> = entries
            .iter()
            .filter_map(|entry| if let LogEntry::Interval(interval) = entry { Some(interval) } else { None })
            .collect();
        let times: Vec<_> = intervals.iter().map(|interval| interval.start_timestamp().as_secs()).collect();
        assert_eq!(times, [0, 2]);
        let spans: Vec<_> = intervals.iter().map(|interval| interval.duration().as_millis()).collect();
        assert_eq!(spans, [1000, 250]);
        let bytes = STANDARD.decode(intervals[1].encoded_histogram()).expect("base64");
        let back: Histogram<u32> =
            Deserializer::new().deserialize(&mut bytes.as_slice()).expect("a histogram");
        assert_eq!(back, third);
        assert!((intervals[1].max() - 3.0).abs() < 0.05);
    }
}

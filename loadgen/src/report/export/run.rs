//! One run as other programs read it: CSV, and the two formats of the HdrHistogram tools.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use crate::result::Second;

/// Nanoseconds to the milliseconds that the tools expect.
const NS_PER_MS: f64 = 1e6;

/// Columns of the seconds and their units; latencies are the corrected ones, nanoseconds.
const HEADER: &str = "second,sent,received,errors,p50_ns,p99_ns,max_ns,span_ns\n";

const SECOND_NS: u64 = 1_000_000_000;

/// Returns the seconds of the measured window, from 0. The last one may have a shorter span. A cell
/// is empty if the second does not carry the figure.
pub(crate) fn csv(series: &[Second]) -> String {
    let cell = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    series.iter().fold(HEADER.to_owned(), |mut text, entry| {
        let Second { second, sent, received, errors, p50, p99, max, span_ns } = *entry;
        let (p50, p99, max, span) = (cell(p50), cell(p99), cell(max), span_ns.unwrap_or(SECOND_NS));
        // Writing to memory does not fail.
        let _ = writeln!(text, "{second},{sent},{received},{errors},{p50},{p99},{max},{span}");
        text
    })
}

/// Lines for each halving of the distance to 100 %, the tools' default.
const TICKS_PER_HALF: u32 = 5;

/// The percentile distribution that `HistogramLogProcessor` writes and
/// hdrhistogram.github.io/HdrHistogram/plotFiles.html draws, of a histogram of nanoseconds.
pub(crate) fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    // The library reports only the quantile 100 % of an empty histogram, which is useless.
    let steps = histogram.iter_quantiles(TICKS_PER_HALF).filter(|_| !histogram.is_empty());
    let mut count = 0;
    for step in steps {
        count += step.count_since_last_iteration();
        let (value, quantile) =
            (step.value_iterated_to() as f64 / NS_PER_MS, step.quantile_iterated_to());
        let _ = write!(text, "{value:12.6} {quantile:2.12} {count:10}");
        // The last line stands for 100 %, which is infinitely far out.
        let _ = match quantile < 1.0 {
            true => writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(text),
        };
    }
    text + &footer(histogram)
}

fn footer(histogram: &Histogram<u64>) -> String {
    let (mean, deviation) = (histogram.mean() / NS_PER_MS, histogram.stdev() / NS_PER_MS);
    let max = histogram.max() as f64 / NS_PER_MS;
    format!(
        "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]\n\
         #[Max     = {max:12.6}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]\n",
        histogram.len(),
        buckets(histogram.high()),
        SUB_BUCKETS,
    )
}

/// With three digits: 2 * 10^3, rounded up to a power of two.
const SUB_BUCKETS: u64 = 2048;

/// Halves of the range that the sub-buckets do not reach, and the one they do.
fn buckets(highest: u64) -> u32 {
    (0..).find(|&shift| (SUB_BUCKETS << shift) > highest).unwrap_or(0) + 1
}

/// Returns the interval log that `HistogramLogProcessor` and its relatives read, of a window that
/// began at `start` and lasted for `window`. Entry k is the second k, and empty if no echo came
/// in it. The last entry may be shorter than a second. Histograms are in nanoseconds, maxima in
/// milliseconds. Fails if a histogram counts more than the format can hold.
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

    #[test]
    fn a_second_is_a_line_and_what_is_not_known_is_empty() {
        let full = Second {
            sent: 9,
            received: 8,
            errors: 1,
            p50: Some(5),
            p99: Some(6),
            max: Some(7),
            ..Second::default()
        };
        let bare = Second { second: 1, span_ns: Some(250_000_000), ..Second::default() };
        assert_eq!(
            csv(&[full, bare]),
            format!("{HEADER}0,9,8,1,5,6,7,1000000000\n1,0,0,0,,,,250000000\n")
        );
        assert_eq!(csv(&[]), HEADER);
    }

    #[test]
    fn the_lines_are_those_of_the_tools() {
        let mut histogram =
            Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("bounds");
        (1..=1000).for_each(|us| histogram.record(us * 1000).expect("in range"));
        let text = hgrm(&histogram);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[2], "    0.001000 0.000000000000          1           1.00");
        let median = lines.iter().find(|line| line.contains(" 0.500000000000 ")).expect("a line");
        assert_eq!(*median, "    0.500223 0.500000000000        500           2.00");
        let last = lines[lines.len() - 4].split_whitespace().collect::<Vec<_>>();
        assert_eq!((last[1], last[2], last.len()), ("1.000000000000", "1000", 3));
        assert!(lines[lines.len() - 2].contains("Total count    =         1000]"), "{text}");
        // As the Java implementation computes them for these bounds.
        assert!(
            text.ends_with("#[Buckets =           26, SubBuckets     =         2048]\n"),
            "{text}"
        );
    }

    #[test]
    fn of_nothing_there_is_the_frame() {
        let text = hgrm(&Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds"));
        assert_eq!(text.lines().count(), 5);
        assert!(text.contains("Total count    =            0]"), "{text}");
    }

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
        let log = interval_log(start, window, &[Some(first), None, Some(third.clone())])
            .expect("written");
        let entries: Vec<_> =
            IntervalLogIterator::new(&log).collect::<Result<_, _>>().expect("readable");
        assert!(
            matches!(entries[0], LogEntry::StartTime(at) if at == Duration::from_millis(1_700_000_000_250))
        );
        let intervals: Vec<_> = entries
            .iter()
            .filter_map(|entry| {
                if let LogEntry::Interval(interval) = entry { Some(interval) } else { None }
            })
            .collect();
        let times: Vec<_> =
            intervals.iter().map(|interval| interval.start_timestamp().as_secs()).collect();
        assert_eq!(times, [0, 2]);
        let spans: Vec<_> =
            intervals.iter().map(|interval| interval.duration().as_millis()).collect();
        assert_eq!(spans, [1000, 250]);
        let bytes = STANDARD.decode(intervals[1].encoded_histogram()).expect("base64");
        let back: Histogram<u32> =
            Deserializer::new().deserialize(&mut bytes.as_slice()).expect("a histogram");
        assert_eq!(back, third);
        assert!((intervals[1].max() - 3.0).abs() < 0.05);
    }
}

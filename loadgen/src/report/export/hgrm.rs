//! The percentile distribution that `HistogramLogProcessor` writes and
//! hdrhistogram.github.io/HdrHistogram/plotFiles.html draws.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

/// Nanoseconds to the milliseconds that the tools expect.
const NS_PER_MS: f64 = 1e6;
/// Lines for each halving of the distance to 100 %, the tools' default.
const TICKS_PER_HALF: u32 = 5;

/// The distribution of `histogram` (nanoseconds), values in milliseconds.
pub(crate) fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    // Of an empty histogram the library tells the quantile 100 % alone, which says nothing.
    let steps = histogram.iter_quantiles(TICKS_PER_HALF).filter(|_| !histogram.is_empty());
    let mut count = 0;
    for step in steps {
        count += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to() as f64 / NS_PER_MS, step.quantile_iterated_to());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_those_of_the_tools() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("bounds");
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
        assert!(text.ends_with("#[Buckets =           26, SubBuckets     =         2048]\n"), "{text}");
    }

    #[test]
    fn of_nothing_there_is_the_frame() {
        let text = hgrm(&Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds"));
        assert_eq!(text.lines().count(), 5);
        assert!(text.contains("Total count    =            0]"), "{text}");
    }
}

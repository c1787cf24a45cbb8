//! A latency distribution as it is stored: the figures people read, and the histogram everything
//! else derives from.

use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A percentile is stored only where at least this many samples lie above it; fewer make it an
/// anecdote.
const SAMPLES_ABOVE: f64 = 100.0;

/// Quantiles around which a coarse histogram is fine: those that tables show, and the maximum.
const QUANTILES: [f64; 4] = [0.5, 0.99, 0.999, 1.0];
/// Factors from a percentile to values that are fine too: a percentile of several runs together is
/// not quite that of one.
const MARGIN: [f64; 3] = [0.97, 1.0, 1.03];

/// One latency distribution, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Arithmetic mean; 0 where there are no samples.
    pub mean: f64,
    /// Median; like all percentiles absent if fewer than 100 samples lie above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<u64>,
    /// 90th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p90: Option<u64>,
    /// 99th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<u64>,
    /// 99.9th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_9: Option<u64>,
    /// 99.99th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_99: Option<u64>,
    /// Highest sample, to the histogram's precision; 0 where there are none.
    pub max: u64,
    /// The histogram (HdrHistogram V2, deflated) in base64; absent if it is empty or not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hdr: Option<String>,
}

/// Why a stored histogram cannot be read.
#[derive(Debug, Error)]
pub enum HistogramError {
    /// Not base64.
    #[error("field hdr is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// Not an HdrHistogram.
    #[error("field hdr is not a V2 HdrHistogram: {0}")]
    Hdr(#[from] hdrhistogram::serialization::DeserializeError),
}

impl Latency {
    /// The figures of `histogram` (nanoseconds) and the histogram itself.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let percentile = |q| percentile(histogram, q);
        Self {
            count: histogram.len(),
            // Tenths of a nanosecond are what a stored session keeps.
            mean: (histogram.mean() * 10.0).round() / 10.0,
            p50: percentile(0.5),
            p90: percentile(0.9),
            p99: percentile(0.99),
            p99_9: percentile(0.999),
            p99_99: percentile(0.9999),
            max: histogram.max(),
            hdr: encode(histogram),
        }
    }

    /// Returns the same figures with a histogram of about 300 bytes. Around the percentiles it has
    /// two significant digits, and elsewhere eight buckets for each power of two.
    pub(super) fn coarsened(&self) -> Result<Self, HistogramError> {
        let Some(fine) = self.histogram()? else { return Ok(self.clone()) };
        let kept = QUANTILES.map(|q| fine.value_at_quantile(q) as f64);
        let kept = kept.iter().flat_map(|value| MARGIN.map(|factor| (value * factor) as u64));
        let coarse = thinned(&fine, 2, &kept.collect::<Vec<_>>()).as_ref().and_then(encode);
        Ok(Self { hdr: coarse.or_else(|| self.hdr.clone()), ..self.clone() })
    }

    /// The stored histogram; `None` where none is stored.
    ///
    /// # Errors
    /// When the field is not what this program writes.
    pub fn histogram(&self) -> Result<Option<Histogram<u64>>, HistogramError> {
        let Some(hdr) = &self.hdr else { return Ok(None) };
        let bytes = STANDARD.decode(hdr)?;
        let mut histogram: Histogram<u64> =
            Deserializer::new().deserialize(&mut bytes.as_slice())?;
        // The histogram must grow when it is added to one with longer latencies.
        histogram.auto(true);
        Ok(Some(histogram))
    }
}

/// The value at quantile `q` (0 to 1), or `None` where fewer than 100 samples lie above it.
pub(crate) fn percentile<C: Counter>(histogram: &Histogram<C>, q: f64) -> Option<u64> {
    // A hair of tolerance: 100,000 * (1 - 0.999) is 99.99999999999999 in binary floating point.
    let above = histogram.len() as f64 * (1.0 - q);
    (above >= SAMPLES_ABOVE - 1e-6).then(|| histogram.value_at_quantile(q))
}

/// Returns the histogram with `digits` significant digits in the eighths that hold the `kept`
/// values, and one bucket for each other [`eighth`].
///
/// Samples stay within their eighth. So the counts below and above a kept value are exact.
fn thinned(fine: &Histogram<u64>, digits: u8, kept: &[u64]) -> Option<Histogram<u64>> {
    let mut thin = Histogram::new_with_bounds(fine.low(), fine.high(), digits).ok()?;
    for bucket in fine.iter_recorded() {
        let value = bucket.value_iterated_to();
        let eighth = eighth(value);
        let is_kept = kept.iter().any(|kept| eighth.contains(kept));
        let value = if is_kept { value } else { u64::midpoint(*eighth.start(), *eighth.end()) };
        thin.record_n(value, bucket.count_since_last_iteration()).ok()?;
    }
    Some(thin)
}

/// Returns the eighth of the range from a power of two to the next that holds `value`.
fn eighth(value: u64) -> RangeInclusive<u64> {
    let shift = value.max(8).ilog2() - 3;
    let start = value >> shift << shift;
    start..=start + ((1 << shift) - 1)
}

fn encode(histogram: &Histogram<u64>) -> Option<String> {
    let mut bytes = Vec::new();
    // Writing to memory fails only for counts above i64::MAX; the figures are still stored then.
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).ok()?;
    Some(STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coarse_histogram_keeps_figures_and_percentiles() {
        let fine = crate::result::example::long_run().latency_ns.corrected;
        let coarse = fine.coarsened().expect("readable");
        assert_eq!(Latency { hdr: None, ..coarse.clone() }, Latency { hdr: None, ..fine.clone() });
        let size = |latency: &Latency| latency.hdr.as_ref().map_or(0, String::len);
        assert!(
            size(&coarse) < 1000 && size(&coarse) * 10 < size(&fine),
            "{} of {}",
            size(&coarse),
            size(&fine)
        );
        let [fine, coarse] =
            [&fine, &coarse].map(|stored| stored.histogram().expect("readable").expect("there"));
        assert_eq!(coarse.len(), fine.len());
        // Two digits: the bucket of a value is at most 1/128 of it.
        for q in [0.49, 0.5, 0.51, 0.989, 0.99, 0.999, 1.0] {
            let (coarse, fine) =
                (coarse.value_at_quantile(q) as f64, fine.value_at_quantile(q) as f64);
            assert!((coarse / fine - 1.0).abs() <= 1.0 / 128.0, "{q}: {coarse} {fine}");
        }
        for q in [0.1, 0.3, 0.7, 0.9, 0.97] {
            let (coarse, fine) =
                (coarse.value_at_quantile(q) as f64, fine.value_at_quantile(q) as f64);
            assert!((coarse / fine - 1.0).abs() <= 1.0 / 8.0, "{q}: {coarse} {fine}");
        }
        assert_eq!(Latency::default().coarsened().expect("nothing to read"), Latency::default());
    }

    fn histogram_of(samples: u64) -> Histogram<u64> {
        let mut histogram =
            Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds are legal");
        for sample in 1..=samples {
            histogram.record(sample * 1000).expect("sample is in range");
        }
        histogram
    }

    #[test]
    fn a_percentile_needs_a_hundred_samples_above_it() {
        assert_eq!(Latency::of(&histogram_of(199)).p50, None);
        assert!(Latency::of(&histogram_of(200)).p50.is_some());
        assert_eq!(Latency::of(&histogram_of(200)).p90, None);
        assert!(Latency::of(&histogram_of(100_000)).p99_9.is_some());
        assert_eq!(Latency::of(&histogram_of(100_000)).p99_99, None);
    }

    #[test]
    fn a_stored_histogram_reads_back_equal() {
        let histogram = histogram_of(5000);
        let stored = Latency::of(&histogram);
        let back = stored.histogram().expect("readable").expect("present");
        assert_eq!(back, histogram);
        assert_eq!(stored.count, 5000);
    }

    #[test]
    fn an_empty_histogram_stores_no_figures() {
        assert_eq!(Latency::of(&histogram_of(0)), Latency::default());
        assert!(Latency::default().histogram().expect("readable").is_none());
    }

    #[test]
    fn a_broken_histogram_is_an_error_that_names_the_field() {
        let broken = Latency { hdr: Some("!".into()), ..Latency::default() };
        assert!(broken.histogram().expect_err("not base64").to_string().contains("hdr"));
        let short = Latency { hdr: Some("AAAA".into()), ..Latency::default() };
        assert!(short.histogram().expect_err("not a histogram").to_string().contains("hdr"));
    }
}

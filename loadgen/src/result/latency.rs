//! A latency distribution as it is stored: the figures people read, and the histogram everything else derives from.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A percentile is stored only where at least this many samples lie above it; fewer make it an anecdote.
const SAMPLES_ABOVE: f64 = 100.0;

/// One latency distribution, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Arithmetic mean; 0 where there are no samples.
    pub mean: f64,
    /// Median; like all percentiles `null` where fewer than 100 samples lie above it.
    pub p50: Option<u64>,
    /// 90th percentile.
    pub p90: Option<u64>,
    /// 99th percentile.
    pub p99: Option<u64>,
    /// 99.9th percentile.
    pub p99_9: Option<u64>,
    /// 99.99th percentile.
    pub p99_99: Option<u64>,
    /// Highest sample, to the histogram's precision; 0 where there are none.
    pub max: u64,
    /// The histogram (HdrHistogram V2, deflated) in base64; `null` where it is empty or stored elsewhere in the run.
    #[serde(default)]
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
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self { hdr: encode(histogram), ..Self::figures(histogram) }
    }

    /// The figures alone, for a distribution whose histogram is stored elsewhere in the run.
    #[must_use]
    pub fn figures(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: percentile(histogram, 0.5),
            p90: percentile(histogram, 0.9),
            p99: percentile(histogram, 0.99),
            p99_9: percentile(histogram, 0.999),
            p99_99: percentile(histogram, 0.9999),
            max: histogram.max(),
            hdr: None,
        }
    }

    /// The same figures, with the histogram at two significant digits: a fifth of the size, for sessions of very many runs.
    ///
    /// # Errors
    /// As [`Latency::histogram`].
    pub fn coarsened(&self) -> Result<Self, HistogramError> {
        let Some(fine) = self.histogram()? else { return Ok(self.clone()) };
        let coarse = Histogram::new_with_bounds(fine.low(), fine.high(), 2).ok().and_then(|mut coarse| {
            coarse.add(&fine).ok()?;
            encode(&coarse)
        });
        Ok(Self { hdr: coarse.or_else(|| self.hdr.clone()), ..self.clone() })
    }

    /// The stored histogram; `None` where none is stored.
    ///
    /// # Errors
    /// When the field is not what [`Latency::of`] writes.
    pub fn histogram(&self) -> Result<Option<Histogram<u64>>, HistogramError> {
        let Some(hdr) = &self.hdr else { return Ok(None) };
        let bytes = STANDARD.decode(hdr)?;
        let mut histogram: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice())?;
        // The histogram must grow when it is added to one with longer latencies.
        histogram.auto(true);
        Ok(Some(histogram))
    }
}

/// The value at quantile `q` (0 to 1), or `None` where fewer than 100 samples lie above it.
#[must_use]
pub fn percentile<C: Counter>(histogram: &Histogram<C>, q: f64) -> Option<u64> {
    // A hair of tolerance: 100,000 * (1 - 0.999) is 99.99999999999999 in binary floating point.
    let above = histogram.len() as f64 * (1.0 - q);
    (above >= SAMPLES_ABOVE - 1e-6).then(|| histogram.value_at_quantile(q))
}

/// `None` for an empty histogram, which says nothing that `count` does not.
fn encode(histogram: &Histogram<u64>) -> Option<String> {
    if histogram.is_empty() {
        return None;
    }
    let mut bytes = Vec::new();
    // Writing to memory fails only for counts above i64::MAX; the figures are still stored then.
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).ok()?;
    Some(STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coarse_histogram_keeps_the_figures_and_merges() {
        let fine = crate::result::example::long_run().latency_ns.corrected;
        let coarse = fine.coarsened().expect("readable");
        assert_eq!(Latency { hdr: None, ..coarse.clone() }, Latency { hdr: None, ..fine.clone() });
        let size = |latency: &Latency| latency.hdr.as_ref().map_or(0, String::len);
        assert!(size(&coarse) * 3 < size(&fine), "{} of {}", size(&coarse), size(&fine));
        let histogram = coarse.histogram().expect("readable").expect("there");
        assert_eq!(histogram.len(), fine.count);
        let p99 = percentile(&histogram, 0.99).expect("carried") as f64;
        assert!((p99 / fine.p99.expect("carried") as f64 - 1.0).abs() < 0.02);
        assert_eq!(Latency::default().coarsened().expect("nothing to read"), Latency::default());
    }

    fn histogram_of(samples: u64) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds are legal");
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

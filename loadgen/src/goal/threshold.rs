//! What a run has to reach: `p99<2ms`, `rate>=50k`, `errors<1`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use thiserror::Error;

use crate::result::{GoalJudgement, Run, percentile};

/// A condition on one figure of a run. Latencies are the corrected ones: from the planned send to the echo.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Threshold {
    metric: Metric,
    comparison: Comparison,
    /// In the metric's unit: nanoseconds, messages a second, a count, bytes.
    limit: f64,
    /// As it was typed, without white space.
    text: String,
}

/// The figure.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    /// A percentile of the latency, as a quantile.
    Quantile(f64),
    Mean,
    Max,
    /// Echoes received a second.
    Rate,
    /// Errors and wrong echoes of any kind.
    Errors,
    /// The server's processor time for each message.
    ServerCpu,
    /// The server's resident memory.
    Rss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// Why a threshold cannot be understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ThresholdError {
    /// No comparison in it.
    #[error("`{0}` is no threshold: one looks like p99<2ms, rate>=50k or errors<1")]
    Shape(String),
    /// A figure that is not known.
    #[error("`{0}` is no figure of a run: pN (as in p99.9), mean, max, rate, errors, server-cpu or rss")]
    Metric(String),
    /// A percentile that is none.
    #[error("p{0}: a percentile is more than 0 and less than 100")]
    Percentile(String),
    /// A limit that is not of the figure's kind.
    #[error("`{value}` is no limit for {metric}: {wanted}")]
    Limit {
        /// What was typed.
        value: String,
        /// For which figure.
        metric: String,
        /// What would be right.
        wanted: &'static str,
    },
}

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let text: String = text.split_whitespace().collect();
        let shape = || ThresholdError::Shape(text.clone());
        let at = text.find(['<', '>']).ok_or_else(shape)?;
        let (name, rest) = text.split_at(at);
        let (comparison, value) = Comparison::split(rest).ok_or_else(shape)?;
        let metric = Metric::parse(name)?;
        let limit = metric.limit(value).ok_or_else(|| ThresholdError::Limit {
            value: value.to_owned(),
            metric: name.to_owned(),
            wanted: metric.wanted(),
        })?;
        Ok(Self { metric, comparison, limit, text })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Threshold {
    /// Whether it is about the server's process, which is known only where the generator started it.
    pub(crate) fn needs_spawn(&self) -> bool {
        matches!(self.metric, Metric::ServerCpu | Metric::Rss)
    }

    /// Whether more load makes it harder to reach: only of such is there a highest rate.
    pub(crate) fn limits_rate(&self) -> bool {
        self.metric != Metric::Rate && matches!(self.comparison, Comparison::Below | Comparison::AtMost)
    }

    /// Echoes that a run must have so that it can be judged at all.
    pub(crate) fn samples(&self) -> u64 {
        match self.metric {
            // See `percentile`: a hundred samples above it.
            Metric::Quantile(q) => (100.0 / (1.0 - q) - 1e-6).ceil() as u64,
            _ => 1,
        }
    }

    /// Holds it against a run.
    pub(crate) fn judge(&self, run: &Run) -> GoalJudgement {
        let value = self.metric.of(run);
        let at_least = value.is_some() && self.metric.is_bound(run);
        // A lower bound can show that a figure is high and cannot show that it is low.
        let can_be_met = !at_least || matches!(self.comparison, Comparison::Above | Comparison::AtLeast);
        let met = can_be_met && value.is_some_and(|value| self.comparison.holds(value, self.limit));
        let text = match value {
            Some(value) if at_least => {
                format!("{self}: at least {} (messages had no echo yet)", self.metric.show(value))
            }
            Some(value) => format!("{self}: {}", self.metric.show(value)),
            None => format!("{self}: cannot be judged, {}", self.unknown(run)),
        };
        GoalJudgement { threshold: self.text.clone(), value, met, text, at_least }
    }

    fn unknown(&self, run: &Run) -> String {
        match self.metric {
            Metric::ServerCpu | Metric::Rss => "the server's process is not known (--spawn)".to_owned(),
            _ => {
                format!("{} samples are too few: it needs {}", run.latency_ns.corrected.count, self.samples())
            }
        }
    }
}

impl Comparison {
    fn split(text: &str) -> Option<(Self, &str)> {
        let signs = [("<=", Self::AtMost), (">=", Self::AtLeast), ("<", Self::Below), (">", Self::Above)];
        signs.into_iter().find_map(|(sign, comparison)| Some((comparison, text.strip_prefix(sign)?)))
    }

    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
            Self::Above => value > limit,
            Self::AtLeast => value >= limit,
        }
    }
}

impl Metric {
    fn parse(name: &str) -> Result<Self, ThresholdError> {
        if let Some(number) =
            name.strip_prefix('p').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        {
            let percent: f64 = number.parse().map_err(|_| ThresholdError::Metric(name.to_owned()))?;
            let is_percentile = percent > 0.0 && percent < 100.0;
            return is_percentile
                .then_some(Self::Quantile(percent / 100.0))
                .ok_or_else(|| ThresholdError::Percentile(number.to_owned()));
        }
        match name {
            "mean" => Ok(Self::Mean),
            "max" => Ok(Self::Max),
            "rate" => Ok(Self::Rate),
            "errors" => Ok(Self::Errors),
            "server-cpu" => Ok(Self::ServerCpu),
            "rss" => Ok(Self::Rss),
            _ => Err(ThresholdError::Metric(name.to_owned())),
        }
    }

    fn limit(self, value: &str) -> Option<f64> {
        match self {
            Self::Quantile(_) | Self::Mean | Self::Max | Self::ServerCpu => {
                humantime::parse_duration(value).ok().map(|span| span.as_nanos() as f64)
            }
            Self::Rate => count(value),
            Self::Errors => value.parse::<u64>().ok().map(|count| count as f64),
            Self::Rss => value.parse::<ByteSize>().ok().map(|size| size.as_u64() as f64),
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Quantile(_) | Self::Mean | Self::Max | Self::ServerCpu => "a time, as in 2ms or 800us",
            Self::Rate => "messages a second, as in 50000 or 50k",
            Self::Errors => "a count, as in 1",
            Self::Rss => "a size, as in 200MiB",
        }
    }

    fn of(self, run: &Run) -> Option<f64> {
        let latency = &run.latency_ns.corrected;
        let some = |value: f64| (latency.count > 0).then_some(value);
        match self {
            Self::Quantile(q) => {
                let histogram = latency.histogram().ok()??;
                percentile(&histogram, q).map(|ns| ns as f64)
            }
            Self::Mean => some(latency.mean),
            Self::Max => some(latency.max as f64),
            Self::Rate => Some(run.rate_per_s),
            Self::Errors => Some((run.errors.total() + run.integrity.total()) as f64),
            Self::ServerCpu => run.server.as_ref().map(|server| server.cpu_ns_per_message),
            Self::Rss => run.server.as_ref()?.rss_bytes.map(|bytes| bytes as f64),
        }
    }

    /// Returns true where the figure of this run is a lower bound.
    fn is_bound(self, run: &Run) -> bool {
        run.censored.is_some_and(|censored| match self {
            Self::Quantile(q) => censored.bounds(q),
            Self::Mean | Self::Max => true,
            Self::Rate | Self::Errors | Self::ServerCpu | Self::Rss => false,
        })
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Quantile(_) | Self::Mean | Self::Max | Self::ServerCpu => {
                format!("{:?}", Duration::from_nanos(round(value)))
            }
            Self::Rate => format!("{value:.0} a second"),
            Self::Errors => format!("{value:.0}"),
            Self::Rss => ByteSize::b(value as u64).to_string(),
        }
    }
}

/// To four digits: nobody reads more, and the histogram has three.
fn round(ns: f64) -> u64 {
    let unit = 10f64.powf((ns.max(1.0).log10().floor() - 3.0).max(0.0));
    ((ns / unit).round() * unit) as u64
}

/// A number of messages: `50000`, `50k`, `1.5M`.
fn count(text: &str) -> Option<f64> {
    let (number, unit) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => text.strip_suffix('M').map_or((text, 1.0), |number| (number, 1e6)),
    };
    let value = number.parse::<f64>().ok()? * unit;
    (value.is_finite() && value >= 0.0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Latency, example};

    fn threshold(text: &str) -> Threshold {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// A run of 20,000 echoes that took 1 us to 20 ms, evenly.
    fn run() -> Run {
        let mut run = example::document().runs.remove(0);
        let mut histogram =
            hdrhistogram::Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("bounds");
        (1..=20_000).for_each(|us| histogram.record(us * 1000).expect("in range"));
        run.latency_ns.corrected = Latency::of(&histogram);
        run
    }

    fn met(text: &str, run: &Run) -> bool {
        threshold(text).judge(run).met
    }

    #[test]
    fn latencies_are_held_against_times() {
        let run = run();
        assert!(met("p99 < 20ms", &run) && !met("p99<19ms", &run));
        assert!(met("p50<=10.1ms", &run) || met("p50<=11ms", &run));
        assert!(met("max<21ms", &run) && met("mean>9ms", &run) && !met("mean>=11ms", &run));
        let judgement = threshold("p99<19ms").judge(&run);
        assert!(judgement.text.starts_with("p99<19ms: 19.8"), "{}", judgement.text);
        assert!(judgement.value.is_some_and(|ns| (ns - 19.8e6).abs() < 0.02e6));
    }

    #[test]
    fn what_the_sample_does_not_carry_is_not_met() {
        let judgement = threshold("p99.9<1h").judge(&run());
        assert_eq!((judgement.met, judgement.value), (false, None));
        assert!(judgement.text.contains("20000 samples are too few: it needs 100000"), "{}", judgement.text);
    }

    #[test]
    fn rates_errors_and_the_server_are_held_against_their_kind() {
        let mut run = run();
        run.rate_per_s = 50_000.0;
        assert!(met("rate>=50k", &run) && !met("rate>0.05M", &run) && met("rate<50001", &run));
        assert!(met("errors<1", &run));
        run.integrity.lost = 1;
        run.errors.closed = 1;
        assert!(met("errors<=2", &run) && !met("errors<2", &run));
        let server = run.server.as_mut().expect("the example has one");
        (server.cpu_ns_per_message, server.rss_bytes) = (3500.0, Some(100 << 20));
        assert!(met("server-cpu<4us", &run) && !met("server-cpu<3us", &run));
        assert!(met("rss<=100MiB", &run) && !met("rss<100MB", &run));
        run.server = None;
        assert!(threshold("rss<1GiB").judge(&run).text.contains("--spawn"));
    }

    #[test]
    fn what_is_no_threshold_is_told() {
        for (text, part) in [
            ("p99", "looks like"),
            ("p99=2ms", "looks like"),
            ("p100<2ms", "less than 100"),
            ("p0<2ms", "less than 100"),
            ("p9x<2ms", "p9x"),
            ("jitter<2ms", "jitter"),
            ("p99<2", "a time"),
            ("p99<", "a time"),
            ("rate>fast", "messages a second"),
            ("rate>-1", "messages a second"),
            ("errors<0.5", "a count"),
            ("rss<many", "a size"),
            ("<2ms", "no figure"),
        ] {
            let error = text.parse::<Threshold>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn some_limit_the_rate_and_others_do_not() {
        let limiting = ["p99<2ms", "max<=1s", "errors<1", "server-cpu<4us", "rss<1GB"];
        assert!(limiting.iter().all(|text| threshold(text).limits_rate()));
        assert!(["rate>1k", "rate<1k", "p99>2ms"].iter().all(|text| !threshold(text).limits_rate()));
        assert!(threshold("rss<1GB").needs_spawn() && !threshold("p99<2ms").needs_spawn());
        assert_eq!(threshold("p99<2ms").samples(), 10_000);
    }
}

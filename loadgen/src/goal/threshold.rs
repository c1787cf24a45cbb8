//! Goals of a run, or of one of its stages: `p99<2ms`, `rate>=50k`, `stage2:errors<1`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use crate::load::value::rate;
use crate::result::{Censored, GoalJudgement, Latency, Run, percentile};

/// A condition on one figure of a run. Latencies are the corrected ones: from the planned send to
/// the echo.
#[derive(Clone, Debug)]
pub(crate) struct Threshold {
    /// Number of the stage that it is about, from 1; `None`: the whole run.
    stage: Option<u32>,
    metric: Metric,
    /// True if the figure must stay below the limit, false if it must exceed it.
    is_upper: bool,
    /// True if the limit itself will do.
    is_inclusive: bool,
    /// In the metric's unit: nanoseconds, messages a second, a count, bytes.
    limit: f64,
    /// As it was typed, without white space.
    text: String,
}

/// Figures that a run and a stage have.
#[derive(Clone, Copy)]
struct Figures<'a> {
    latency: &'a Latency,
    censored: Option<Censored>,
    rate_per_s: f64,
    errors: u64,
}

impl<'a> Figures<'a> {
    /// Returns those of the run, or of a stage; `None` where the run has no such stage.
    fn of(run: &'a Run, stage: Option<u32>) -> Option<Self> {
        let Some(number) = stage else {
            return Some(Self {
                latency: &run.latency_ns.corrected,
                censored: run.censored,
                rate_per_s: run.rate_per_s,
                errors: run.errors.total() + run.integrity.total(),
            });
        };
        let stage = run.stages.iter().find(|stage| stage.number == number)?;
        Some(Self {
            latency: &stage.latency_ns.corrected,
            censored: stage.censored,
            rate_per_s: stage.rate_per_s,
            errors: stage.errors,
        })
    }
}

/// Reads the stage of a threshold: `stage2`.
fn parse_stage(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("stage").and_then(|number| number.parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| {
        format!("`{text}` is not a valid stage: expected its number, as in stage2:p99<2ms")
    })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    /// A percentile of the latency, as a quantile.
    Quantile(f64),
    Mean,
    Max,
    Rate,
    Errors,
    ServerCpu,
    Rss,
}

struct Unit {
    expected: &'static str,
    read: fn(&str) -> Option<f64>,
    show: fn(f64) -> String,
}

const TIME: Unit = Unit {
    expected: "a time, as in 2ms or 800us",
    read: |text| Some(humantime::parse_duration(text).ok()?.as_nanos() as f64),
    show: |ns| format!("{:?}", Duration::from_nanos(round(ns))),
};
const RATE: Unit = Unit {
    expected: "messages a second, as in 50000 or 50k",
    read: |text| rate(text).ok().filter(|rate| *rate >= 0.0),
    show: |rate| format!("{rate:.0} a second"),
};
const COUNT: Unit = Unit {
    expected: "a count, as in 1",
    read: |text| text.parse::<u64>().ok().map(|count| count as f64),
    show: |count| format!("{count:.0}"),
};
const SIZE: Unit = Unit {
    expected: "a size, as in 200MiB",
    read: |text| Some(text.parse::<ByteSize>().ok()?.as_u64() as f64),
    show: |bytes| ByteSize::b(bytes as u64).to_string(),
};

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text: String = text.split_whitespace().collect();
        let Some(at) = text.find(['<', '>']) else {
            return Err(format!(
                "`{text}` is not a threshold: one looks like p99<2ms, rate>=50k or errors<1"
            ));
        };
        let (name, value) = (&text[..at], &text[at + 1..]);
        let (stage, name) = match name.split_once(':') {
            Some((stage, name)) => (Some(parse_stage(stage)?), name),
            None => (None, name),
        };
        let metric = Metric::parse(name)?;
        if stage.is_some() && matches!(metric, Metric::ServerCpu | Metric::Rss) {
            return Err(format!("{name} is measured for the whole run, not for a stage"));
        }
        let limit = value.strip_prefix('=').unwrap_or(value);
        let unit = metric.unit();
        let read = (unit.read)(limit);
        let read =
            read.ok_or_else(|| format!("`{limit}` is not a limit for {name}: {}", unit.expected))?;
        let (is_upper, is_inclusive) = (text[at..].starts_with('<'), value.starts_with('='));
        Ok(Self { stage, metric, is_upper, is_inclusive, limit: read, text })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Threshold {
    /// Returns the number of the stage that it is about.
    pub(crate) fn stage(&self) -> Option<u32> {
        self.stage
    }

    /// Returns true if it is about the server's process, which is known only where the generator
    /// started it or reads its metrics.
    pub(crate) fn needs_server(&self) -> bool {
        matches!(self.metric, Metric::ServerCpu | Metric::Rss)
    }

    /// Returns true if more load makes it harder to reach: only of such is there a highest rate.
    pub(crate) fn limits_rate(&self) -> bool {
        self.metric != Metric::Rate && self.is_upper
    }

    /// Echoes that a run must have so that it can be judged at all.
    pub(crate) fn samples(&self) -> u64 {
        match self.metric {
            // See `percentile`: a hundred samples above it.
            Metric::Quantile(q) => (100.0 / (1.0 - q) - 1e-6).ceil() as u64,
            _ => 1,
        }
    }

    pub(crate) fn judge(&self, run: &Run) -> GoalJudgement {
        let figures = Figures::of(run, self.stage);
        let value = figures.and_then(|figures| self.metric.of(run, figures));
        let is_bound = |figures: Figures<'_>| self.metric.is_bound(figures.censored);
        let at_least = value.is_some() && figures.is_some_and(is_bound);
        let holds = |value: f64| {
            let is_within = if self.is_upper { value < self.limit } else { value > self.limit };
            is_within || (self.is_inclusive && value == self.limit)
        };
        // A lower bound can show that a figure is high and cannot show that it is low.
        let met = !(at_least && self.is_upper) && value.is_some_and(holds);
        let show = self.metric.unit().show;
        let shown = match value {
            Some(value) if at_least => {
                format!("at least {} (messages had no echo yet)", show(value))
            }
            Some(value) => show(value),
            None if self.needs_server() => {
                "cannot be judged, it is not known (--spawn, --server-metrics)".to_owned()
            }
            None if figures.is_none() => "cannot be judged, the stage was not reached".to_owned(),
            None => {
                let count = figures.map_or(0, |figures| figures.latency.count);
                let needed = self.samples();
                format!("cannot be judged, {count} samples are too few: it needs {needed}")
            }
        };
        let text = format!("{self}: {shown}");
        GoalJudgement { threshold: self.text.clone(), value, met, text, at_least }
    }
}

impl Metric {
    fn parse(name: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "`{name}` is not a figure of a run: pN (as in p99.9), mean, max, rate, errors, server-cpu or rss"
            )
        };
        Ok(match name {
            "mean" => Self::Mean,
            "max" => Self::Max,
            "rate" => Self::Rate,
            "errors" => Self::Errors,
            "server-cpu" => Self::ServerCpu,
            "rss" => Self::Rss,
            _ => {
                let number = name
                    .strip_prefix('p')
                    .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
                let percent =
                    number.and_then(|number| number.parse::<f64>().ok()).ok_or_else(unknown)?;
                if percent <= 0.0 || percent >= 100.0 {
                    return Err(format!("{name}: a percentile is more than 0 and less than 100"));
                }
                Self::Quantile(percent / 100.0)
            }
        })
    }

    fn unit(self) -> Unit {
        match self {
            Self::Quantile(_) | Self::Mean | Self::Max | Self::ServerCpu => TIME,
            Self::Rate => RATE,
            Self::Errors => COUNT,
            Self::Rss => SIZE,
        }
    }

    fn of(self, run: &Run, figures: Figures<'_>) -> Option<f64> {
        let latency = figures.latency;
        let some = |value: f64| (latency.count > 0).then_some(value);
        match self {
            Self::Quantile(q) => percentile(&latency.histogram().ok()??, q).map(|ns| ns as f64),
            Self::Mean => some(latency.mean),
            Self::Max => some(latency.max as f64),
            Self::Rate => Some(figures.rate_per_s),
            Self::Errors => Some(figures.errors as f64),
            Self::ServerCpu => run.server.as_ref()?.cpu_ns(),
            Self::Rss => run.server.as_ref()?.rss_bytes.map(|bytes| bytes as f64),
        }
    }

    /// Returns true if the figure is a lower bound.
    fn is_bound(self, censored: Option<Censored>) -> bool {
        censored.is_some_and(|censored| match self {
            Self::Quantile(q) => censored.bounds(q),
            Self::Mean | Self::Max => true,
            Self::Rate | Self::Errors | Self::ServerCpu | Self::Rss => false,
        })
    }
}

/// Rounds to four digits, since the histogram has three.
fn round(ns: f64) -> u64 {
    let unit = 10f64.powf((ns.max(1.0).log10().floor() - 3.0).max(0.0));
    ((ns / unit).round() * unit) as u64
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
        assert!(
            judgement.text.contains("20000 samples are too few: it needs 100000"),
            "{}",
            judgement.text
        );
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
        run.server.as_mut().expect("known").cpu_uncertainty = Some(0.021);
        assert!(!met("server-cpu<4us", &run) && met("rss<=100MiB", &run));
        run.server = None;
        assert!(threshold("rss<1GiB").judge(&run).text.contains("--server-metrics"));
    }

    #[test]
    fn a_stage_is_held_against_its_own_figures() {
        let mut run = example::staged_run();
        assert!(met("stage1:p50<1ms", &run) && met("stage2:p50<1ms", &run));
        assert!(met("stage1:max<1ms", &run) && !met("stage2:max<1ms", &run));
        assert!(met("stage1:rate>=1k", &run) && !met("stage1:rate>1k", &run));
        assert!(met("stage1:errors<1", &run) && !met("stage2:errors<1", &run));
        assert!(met("errors<1", &run), "the whole run has counts of its own");
        let few = threshold("stage1:p99<1ms").judge(&run);
        assert!(!few.met && few.text.contains("1000 samples are too few"), "{}", few.text);
        let missing = threshold("stage3:p50<1s").judge(&run);
        assert!(!missing.met && missing.text.contains("not reached"), "{}", missing.text);
        run.stages[0].censored = Some(Censored { count: 1, exact_up_to: 99.0, youngest_ns: None });
        assert!(!met("stage1:max<1ms", &run) && met("stage1:p50<1ms", &run));
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
            ("<2ms", "not a figure"),
            ("stage:p99<2ms", "as in stage2:p99<2ms"),
            ("stage0:p99<2ms", "as in stage2:p99<2ms"),
            ("phase2:p99<2ms", "as in stage2:p99<2ms"),
            ("stage2:jitter<2ms", "jitter"),
            ("stage2:rss<1GB", "for the whole run"),
        ] {
            let error = text.parse::<Threshold>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn some_limit_the_rate_and_others_do_not() {
        let limiting = ["p99<2ms", "max<=1s", "errors<1", "server-cpu<4us", "rss<1GB"];
        assert!(limiting.iter().all(|text| threshold(text).limits_rate()));
        assert!(
            ["rate>1k", "rate<1k", "p99>2ms"].iter().all(|text| !threshold(text).limits_rate())
        );
        assert!(threshold("rss<1GB").needs_server() && !threshold("p99<2ms").needs_server());
        assert_eq!(threshold("p99<2ms").samples(), 10_000);
    }
}

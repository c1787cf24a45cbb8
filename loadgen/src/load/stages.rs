//! Stages: the rate of an open loop as it changes over time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::value::{rate, time};

/// Most stages of a load: each has a histogram on every worker.
const MOST: usize = 100;
const EXAMPLE: &str = "as in 10k:30s,50k:10s,50k:1m,0:5s";

/// One stage.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stage {
    /// Messages a second at its end.
    rate_per_s: f64,
    span: Duration,
}

/// The stages of a load, in their order. Written `10k:30s,50k:10s,50k:1m,0:5s`.
///
/// In each stage the rate changes evenly, from that at the end of the stage before to its own. The
/// first stage has its own rate throughout. A stage without length changes the rate at once. At
/// least one stage has a length, and at least one a rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Stages(Vec<Stage>);

/// A stage with the rate at its beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ramp {
    /// Its number, from 1.
    pub(crate) number: u32,
    /// Time from the first stage to its beginning.
    pub(crate) start: Duration,
    pub(crate) span: Duration,
    /// Messages a second at its beginning and at its end.
    pub(crate) from: f64,
    pub(crate) to: f64,
}

impl Stages {
    /// Returns the number of stages.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the time that they take together.
    pub fn total(&self) -> Duration {
        self.0.iter().map(|stage| stage.span).sum()
    }

    /// Returns the rate at the beginning, which is also that of the warm-up.
    pub(crate) fn first_rate(&self) -> f64 {
        self.0.first().map_or(0.0, |stage| stage.rate_per_s)
    }

    /// Returns the highest rate, messages a second.
    pub(crate) fn highest_rate(&self) -> f64 {
        self.0.iter().map(|stage| stage.rate_per_s).fold(0.0, f64::max)
    }

    /// Returns the stages that have a length, with their numbers.
    pub(crate) fn ramps(&self) -> Vec<Ramp> {
        let (mut start, mut from) = (Duration::ZERO, self.first_rate());
        let ramp = |(stage, number): (&Stage, u32)| {
            let Stage { rate_per_s: to, span } = *stage;
            let ramp = Ramp { number, start, span, from, to };
            (start, from) = (start + span, to);
            ramp
        };
        self.0.iter().zip(1..).map(ramp).filter(|ramp| !ramp.span.is_zero()).collect()
    }
}

/// Reads one stage, as in `50k:10s`.
fn stage(text: &str) -> Result<Stage, String> {
    let invalid = |why: String| format!("`{text}` is not a valid stage: {why}");
    let (per_s, span) = text
        .rsplit_once(':')
        .ok_or_else(|| invalid(format!("expected a rate and a time, {EXAMPLE}")))?;
    let rate_per_s = rate(per_s).map_err(&invalid)?;
    if rate_per_s < 0.0 {
        return Err(invalid(format!("expected a rate of 0 or more, {EXAMPLE}")));
    }
    if span.starts_with('-') {
        return Err(invalid(format!("time does not go backwards: expected 0s or more, {EXAMPLE}")));
    }
    let span = time(span).map_err(invalid)?;
    // Adding nothing turns -0 into 0.
    Ok(Stage { rate_per_s: rate_per_s + 0.0, span })
}

impl FromStr for Stages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(format!("expected a rate and a time for each stage, {EXAMPLE}"));
        }
        let stages = Self(text.split(',').map(stage).collect::<Result<_, String>>()?);
        if stages.count() > MOST {
            Err(format!("{} stages are too many: expected at most {MOST}", stages.count()))
        } else if stages.total().is_zero() {
            Err(format!("the stages take no time: expected a longer one, {EXAMPLE}"))
        } else if stages.0.iter().all(|stage| stage.rate_per_s == 0.0) {
            Err(format!("no stage has messages: expected a rate above 0, {EXAMPLE}"))
        } else {
            Ok(stages)
        }
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = |Stage { rate_per_s: rate, span }: &Stage| {
            let has = |unit: f64| *rate > 0.0 && rate % unit == 0.0;
            let rate = match () {
                () if has(1e6) => format!("{}M", rate / 1e6),
                () if has(1e3) => format!("{}k", rate / 1e3),
                () => rate.to_string(),
            };
            format!("{rate}:{}", humantime::format_duration(*span).to_string().replace(' ', ""))
        };
        f.write_str(&self.0.iter().map(stage).collect::<Vec<_>>().join(","))
    }
}

impl Serialize for Stages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(text: &str) -> Stages {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn each_stage_begins_at_the_rate_of_the_one_before() {
        let ramps = stages("10k:30s,50k:10s,50k:1m,0:5s").ramps();
        let shown = ramps.iter().map(|r| (r.number, r.start.as_secs(), r.from, r.to));
        let shown: Vec<_> = shown.collect();
        let expected =
            [(1, 0, 10e3, 10e3), (2, 30, 10e3, 50e3), (3, 40, 50e3, 50e3), (4, 100, 50e3, 0.0)];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_stage_without_length_changes_the_rate_at_once() {
        let ramps = stages("0:0s,1k:2s,5k:0,5k:3s").ramps();
        let shown = ramps.iter().map(|r| (r.number, r.from, r.to, r.span.as_secs()));
        assert_eq!(shown.collect::<Vec<_>>(), [(2, 0.0, 1e3, 2), (4, 5e3, 5e3, 3)]);
    }

    #[test]
    fn written_stages_are_read_back() {
        for (text, written) in [
            ("10k:30s,50k:10s,50k:1m,0:5s", "10k:30s,50k:10s,50k:1m,0:5s"),
            ("2M:90s,1500.5:500ms", "2M:1m30s,1500.5:500ms"),
            ("50/100ms:1s,0:0", "500:1s,0:0s"),
        ] {
            let read = stages(text);
            assert_eq!(read.to_string(), written);
            assert_eq!(stages(written), read);
        }
    }

    #[test]
    fn what_is_no_stage_is_told_with_an_example() {
        for (text, part) in [
            ("", "for each stage"),
            ("10k", "a rate and a time"),
            ("10k:30s,", "a rate and a time"),
            ("10k:-5s", "time does not go backwards"),
            ("-1:5s", "a rate of 0 or more"),
            ("10q:5s", "expected a number"),
            ("10k:5", "as in 500ms or 10s"),
            ("10k:5parsecs", "as in 500ms or 10s"),
            ("10k:0s,20k:0", "take no time"),
            ("0:5s,0:10s", "no stage has messages"),
            (&vec!["1:1s"; 101].join(","), "at most 100"),
        ] {
            let error = text.parse::<Stages>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

//! Conclusion of a session: a comparison, recorded noise, or the goals of a run.

use serde::{Deserialize, Serialize};

use super::metric::Metric;

/// Names of the two sides of a duel that has no others, as runs carry them.
pub const SIDES: [&str; 2] = ["A", "B"];

pub(crate) fn default_sides() -> [String; 2] {
    SIDES.map(str::to_owned)
}

/// The verdict of a stored session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SessionVerdict {
    /// Goals that a run reached and missed.
    Goals(Goals),
    /// Conclusion of a comparison, or recorded noise.
    Comparison(Conclusion),
    /// One that a later version has added.
    Unknown(serde_json::Value),
}

/// The conclusion of a comparison, or of recorded noise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    /// Names of the sides: the second was compared with the first.
    #[serde(default = "default_sides")]
    pub sides: [String; 2],
    /// The worst of the judged metrics; `null` where none was judged.
    pub overall: Option<Verdict>,
    /// True if the runs of both sides alternated.
    #[serde(default)]
    pub interleaved: bool,
    /// Each metric; none where only noise was recorded.
    pub judgements: Vec<Judgement>,
    /// Differences between identical servers on the machine, in a session that recorded them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<Noise>,
    /// The control by a third arm, which is the first side once more; `None` where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placebo: Option<Placebo>,
    /// Notes to the reader, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The control of a comparison: the first side once more, in the same rounds. It tells what the
/// machine calls changed where nothing changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Placebo {
    /// Its name among the arms.
    pub name: String,
    /// The judged metrics of the placebo against the first side: the same server twice.
    pub same: Vec<Judgement>,
    /// The judged metrics of the second side against the placebo.
    pub other: Vec<Judgement>,
}

/// The noise of one metric in one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// The scenario in which it was recorded.
    pub scenario: String,
    /// Which figure.
    pub metric: Metric,
    /// Pairs of the duels it is about.
    pub pairs: usize,
    /// Pairs that were recorded.
    pub recorded: usize,
    /// The 95th percentile of the absolute estimate of such duels, relative: 0.01 is 1 %.
    pub p95: f64,
}

/// Verdict of a comparison on a metric, or on all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Significant, beyond the threshold, to the better.
    Improved,
    /// Significant, beyond the threshold, to the worse.
    Regressed,
    /// The whole interval lies inside the threshold.
    Unchanged,
    /// Neither can be said.
    Inconclusive,
}

impl Verdict {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Improved => "improved",
            Self::Regressed => "regressed",
            Self::Unchanged => "unchanged",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// The verdict over several metrics: the worst of them, and an improvement only where nothing
    /// else is in doubt.
    pub(crate) fn overall(each: impl IntoIterator<Item = Self>) -> Option<Self> {
        let weight = |verdict: &Self| match verdict {
            Self::Regressed => 3,
            Self::Inconclusive => 2,
            Self::Improved => 1,
            Self::Unchanged => 0,
        };
        each.into_iter().max_by_key(weight)
    }
}

/// By how much a figure must change to matter, and why so much.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// Relative: 0.02 is 2 %.
    pub relative: f64,
    /// Where it comes from.
    pub source: ThresholdSource,
}

/// Where a threshold comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThresholdSource {
    /// The metric's own; the machine's noise is smaller or was not recorded.
    Default,
    /// Twice the machine's noise, as `aa` recorded it.
    Noise,
    /// The user's own.
    Given,
}

impl Threshold {
    /// The larger of the metric's default and twice the machine's `noise` (relative; `None` where
    /// it was not recorded).
    pub(crate) fn of(metric: Metric, noise: Option<f64>) -> Self {
        let default = metric.default_threshold();
        match noise.map(|noise| 2.0 * noise) {
            Some(relative) if relative > default => {
                Self { relative, source: ThresholdSource::Noise }
            }
            _ => Self { relative: default, source: ThresholdSource::Default },
        }
    }
}

/// One metric of two sides, judged or only shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The scenario in which it was measured.
    pub scenario: String,
    /// Which figure.
    pub metric: Metric,
    /// The median over side A's runs.
    pub a: f64,
    /// The median over side B's runs.
    pub b: f64,
    /// B / A: the Hodges-Lehmann estimate over the pairs.
    pub ratio: f64,
    /// Its 95 % interval; `null` where there are too few pairs for one.
    pub interval: Option<(f64, f64)>,
    /// Pairs behind it.
    pub pairs: usize,
    /// Two-sided p-value of "no change", of this metric alone.
    pub p: f64,
    /// The same, corrected for the other judged metrics (Holm); `null` if the metric is only shown.
    pub p_adjusted: Option<f64>,
    /// By how much it must change to matter; `null` where it is only shown.
    pub threshold: Option<Threshold>,
    /// `null` where the metric is only shown.
    pub verdict: Option<Verdict>,
    /// Pairs that would probably settle an inconclusive verdict, beyond those made; `null` where
    /// there is nothing to settle, or where no reasonable number would.
    pub more_pairs: Option<usize>,
}

/// Outcome of thresholds and of a search for a rate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Goals {
    /// True if everything was reached.
    pub met: bool,
    /// The thresholds against the run, or against the confirmation of a search.
    pub thresholds: Vec<GoalJudgement>,
    /// The search, where there was one. Its trials stand for the document's runs, in the same
    /// order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub find_rate: Option<FoundRate>,
}

/// Outcome of a threshold in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoalJudgement {
    /// The threshold, as it was asked for.
    pub threshold: String,
    /// The figure: nanoseconds, messages a second, a count or bytes; `null` where the run does not
    /// carry it.
    pub value: Option<f64>,
    /// True if it was reached. A threshold that cannot be judged was not.
    pub met: bool,
    /// The same for people.
    pub text: String,
    /// True if `value` is a lower bound, because messages had no echo when the run ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
}

/// Outcome of a trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialOutcome {
    /// All thresholds were met.
    Met,
    /// Some were not, or the server did not keep up: why.
    Missed(String),
    /// The generator was the limit: why. Nothing is known about the server at this rate.
    GeneratorLimit(String),
}

/// One trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The rate that was tried, messages a second.
    pub rate_per_s: f64,
    /// The measured window that was asked for, nanoseconds.
    pub measure_ns: u64,
    /// A trial at full length.
    pub is_confirmation: bool,
    /// Its outcome.
    pub outcome: TrialOutcome,
}

/// Result of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoundRate {
    /// The highest rate that was confirmed, messages a second.
    pub rate_per_s: Option<f64>,
    /// Reason why no higher rate, or none at all, was found, in a sentence.
    pub conclusion: String,
    /// All trials in their order.
    pub trials: Vec<Trial>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> SessionVerdict {
        serde_json::from_str(json).expect("a verdict")
    }

    #[test]
    fn each_kind_of_verdict_is_known() {
        let goals = read(r#"{ "met": true, "thresholds": [], "added_later": 1 }"#);
        assert_eq!(goals, SessionVerdict::Goals(Goals { met: true, ..Goals::default() }));
        let noise = read(
            r#"{ "interleaved": true, "judgements": [],
                 "noise": [{ "scenario": "echo", "metric": "p50", "pairs": 10, "recorded": 31, "p95": 0.1 }] }"#,
        );
        let SessionVerdict::Comparison(Conclusion { noise, .. }) = noise else {
            panic!("{noise:?}")
        };
        assert_eq!(noise.len(), 1);
    }

    #[test]
    fn a_verdict_of_a_later_version_is_kept() {
        let json = r#"{"ranking":["a","b"]}"#;
        let verdict = read(json);
        assert!(matches!(verdict, SessionVerdict::Unknown(_)));
        assert_eq!(serde_json::to_string(&verdict).expect("JSON"), json);
    }
}

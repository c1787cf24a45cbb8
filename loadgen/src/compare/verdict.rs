//! The rule that makes a verdict of two sides' figures.

use super::metric::Metric;
use super::statistics::{Estimate, holm, signed_rank};
pub use crate::result::{Judgement, Threshold, ThresholdSource, Verdict};

/// The chance of calling any unchanged metric of a comparison changed.
pub const SIGNIFICANCE: f64 = 0.05;
/// The gates of a full comparison: three under saturation, two at a fixed rate. Five tests corrected together need eight
/// pairs to be able to find anything (`2^(1-8) * 5 < 0.05`).
pub const MIN_PAIRS: usize = 8;
/// More pairs than this are not asked for: longer runs or a quieter machine help more.
const MOST_PAIRS_ASKED: f64 = 200.0;

/// One metric of two sides, before the correction for the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// The scenario in which it was measured.
    pub scenario: String,
    /// Which figure.
    pub metric: Metric,
    /// The median over side A's runs.
    pub a: f64,
    /// The median over side B's runs.
    pub b: f64,
    /// B / A over the pairs.
    pub estimate: Estimate,
    /// Pairs behind it.
    pub pairs: usize,
}

/// Judges the gated metrics of a comparison, all of them together; in the order given.
///
#[must_use]
pub fn judge(gates: Vec<(Compared, Threshold)>) -> Vec<Judgement> {
    let adjusted = holm(&gates.iter().map(|(compared, _)| compared.estimate.p).collect::<Vec<_>>());
    let count = gates.len();
    let each = gates.into_iter().zip(adjusted).map(|((compared, threshold), p_adjusted)| {
        let verdict = verdict(&compared, p_adjusted, threshold);
        Judgement {
            p_adjusted: Some(p_adjusted),
            threshold: Some(threshold),
            verdict: Some(verdict),
            more_pairs: more_pairs(verdict, &compared, threshold, count),
            ..show(compared)
        }
    });
    each.collect()
}

/// A metric that is shown beside the judged ones.
#[must_use]
pub fn show(compared: Compared) -> Judgement {
    Judgement {
        scenario: compared.scenario,
        metric: compared.metric,
        a: compared.a,
        b: compared.b,
        ratio: compared.estimate.shift,
        interval: compared.estimate.interval,
        pairs: compared.pairs,
        p: compared.estimate.p,
        p_adjusted: None,
        threshold: None,
        verdict: None,
        more_pairs: None,
    }
}

fn verdict(compared: &Compared, p_adjusted: f64, threshold: Threshold) -> Verdict {
    let limit = threshold.relative.ln_1p();
    let Some((low, high)) = compared.estimate.interval.filter(|_| compared.pairs >= MIN_PAIRS) else {
        return Verdict::Inconclusive;
    };
    let shift = compared.estimate.shift.ln();
    if low.ln() >= -limit && high.ln() <= limit {
        Verdict::Unchanged
    } else if p_adjusted <= SIGNIFICANCE && shift.abs() > limit {
        let better = (shift > 0.0) == compared.metric.higher_is_better();
        if better { Verdict::Improved } else { Verdict::Regressed }
    } else {
        Verdict::Inconclusive
    }
}

/// How many pairs more would settle an inconclusive verdict, if estimate and spread stay what they are.
///
/// An interval shrinks with the square root of the pairs. Inside the threshold it must shrink until it fits; beyond,
/// until it excludes "no change" at the level that is left for the strictest of the gates.
fn more_pairs(verdict: Verdict, compared: &Compared, threshold: Threshold, gates: usize) -> Option<usize> {
    if verdict != Verdict::Inconclusive {
        return None;
    }
    let made = compared.pairs;
    let least = MIN_PAIRS.max(pairs_to_be_significant(gates)).saturating_sub(made);
    let Some((low, high)) = compared.estimate.interval else { return Some(least.max(1)) };
    let (shift, half) = (compared.estimate.shift.ln().abs(), (high.ln() - low.ln()) / 2.0);
    let limit = threshold.relative.ln_1p();
    let shrink = if shift > limit {
        // Quantiles of the normal distribution: what is asked of one gate of five against what the interval shows.
        shift / (half * 2.576 / 1.960)
    } else {
        (limit - shift) / half
    };
    let wanted = made as f64 / (shrink * shrink);
    (wanted <= MOST_PAIRS_ASKED).then(|| (wanted.ceil() as usize).saturating_sub(made).max(least).max(1))
}

/// The fewest pairs with which the strictest of `gates` corrected tests can be significant at all.
fn pairs_to_be_significant(gates: usize) -> usize {
    (1..64).find(|&pairs| signed_rank::smallest_p(pairs) * gates as f64 <= SIGNIFICANCE).unwrap_or(64)
}

#[cfg(test)]
mod tests {
    use super::super::statistics::ratio_of_pairs;
    use super::*;

    /// Pairs whose ratio is `ratio`, give or take up to `spread`.
    fn compared(metric: Metric, ratio: f64, spread: f64, pairs: usize) -> Compared {
        let samples: Vec<(f64, f64)> = (0..pairs)
            .map(|i| {
                // Spread evenly and in no order, symmetric about zero.
                let place = ((i * 7 % pairs) as f64 + 0.5) / pairs as f64 * 2.0 - 1.0;
                (100.0, 100.0 * ratio * (place * spread).exp())
            })
            .collect();
        let estimate = ratio_of_pairs(&samples).expect("ratios");
        Compared { scenario: "echo".to_owned(), metric, a: 100.0, b: 100.0 * ratio, estimate, pairs }
    }

    fn judged(metric: Metric, ratio: f64, spread: f64, pairs: usize) -> Judgement {
        let gates = vec![(compared(metric, ratio, spread, pairs), Threshold::of(metric, None))];
        judge(gates).remove(0)
    }

    fn says(metric: Metric, ratio: f64, spread: f64, pairs: usize) -> Verdict {
        judged(metric, ratio, spread, pairs).verdict.expect("judged")
    }

    #[test]
    fn certain_and_large_is_a_change_in_the_metrics_own_direction() {
        assert_eq!(says(Metric::Throughput, 1.05, 0.02, 10), Verdict::Improved);
        assert_eq!(says(Metric::Throughput, 0.95, 0.02, 10), Verdict::Regressed);
        assert_eq!(says(Metric::ServerCpu, 1.05, 0.02, 10), Verdict::Regressed);
        assert_eq!(says(Metric::ServerCpu, 0.95, 0.02, 10), Verdict::Improved);
    }

    #[test]
    fn certain_and_small_is_no_change() {
        let judgement = judged(Metric::ServerCpu, 1.01, 0.004, 10);
        assert!(judgement.p_adjusted.is_some_and(|p| p < 0.05));
        assert_eq!(judgement.verdict, Some(Verdict::Unchanged));
    }

    #[test]
    fn what_is_not_certain_is_inconclusive_and_says_how_many_pairs_it_wants() {
        let wide = judged(Metric::ServerCpu, 1.0, 0.05, 10);
        assert_eq!(wide.verdict, Some(Verdict::Inconclusive));
        assert!(wide.more_pairs.is_some_and(|more| (5..100).contains(&more)), "{wide:?}");
        let likely = judged(Metric::ServerCpu, 1.04, 0.12, 10);
        assert_eq!(likely.verdict, Some(Verdict::Inconclusive));
        assert!(likely.more_pairs.is_some_and(|more| (2..60).contains(&more)), "{likely:?}");
        let hopeless = judged(Metric::ServerCpu, 1.019_9, 0.2, 10);
        assert_eq!((hopeless.verdict, hopeless.more_pairs), (Some(Verdict::Inconclusive), None));
        assert_eq!(judged(Metric::ServerCpu, 1.0, 0.001, 10).more_pairs, None);
    }

    #[test]
    fn fewer_than_eight_pairs_decide_nothing() {
        assert_eq!(says(Metric::ServerCpu, 2.0, 0.01, 7), Verdict::Inconclusive);
        assert_eq!(judged(Metric::ServerCpu, 2.0, 0.01, 7).more_pairs, Some(1));
        assert_eq!(judged(Metric::ServerCpu, 2.0, 0.01, 3).more_pairs, Some(5));
        assert_eq!(says(Metric::ServerCpu, 2.0, 0.01, 8), Verdict::Regressed);
        assert_eq!(pairs_to_be_significant(5), MIN_PAIRS);
    }

    #[test]
    fn eight_pairs_all_on_one_side_are_enough_for_five_gates_and_seven_are_not() {
        let gates = |pairs: usize| {
            let of = |metric: Metric, ratio: f64| {
                (compared(metric, ratio, 0.001, pairs), Threshold::of(metric, None))
            };
            let still =
                [Metric::Throughput, Metric::P50, Metric::P99, Metric::Memory].map(|metric| of(metric, 1.0));
            judge([vec![of(Metric::ServerCpu, 1.1)], still.to_vec()].concat()).remove(0)
        };
        assert_eq!(gates(8).verdict, Some(Verdict::Regressed));
        assert!(gates(8).p_adjusted.is_some_and(|p| p <= SIGNIFICANCE));
        assert!(gates(7).p_adjusted.is_some_and(|p| p > SIGNIFICANCE));
    }

    #[test]
    fn a_noisy_machine_raises_the_threshold_and_a_quiet_one_does_not_lower_it() {
        let of = |noise| Threshold::of(Metric::ServerCpu, noise);
        assert_eq!(of(None), Threshold { relative: 0.02, source: ThresholdSource::Default });
        assert_eq!(of(Some(0.005)).source, ThresholdSource::Default);
        assert_eq!(of(Some(0.03)), Threshold { relative: 0.06, source: ThresholdSource::Noise });
        let gate = (compared(Metric::ServerCpu, 1.05, 0.02, 10), of(Some(0.03)));
        assert_ne!(judge(vec![gate]).remove(0).verdict, Some(Verdict::Regressed));
    }

    #[test]
    fn the_worst_metric_is_the_verdict() {
        use Verdict::{Improved, Inconclusive, Regressed, Unchanged};
        assert_eq!(Verdict::overall([Improved, Regressed, Inconclusive]), Some(Regressed));
        assert_eq!(Verdict::overall([Improved, Inconclusive]), Some(Inconclusive));
        assert_eq!(Verdict::overall([Unchanged, Improved]), Some(Improved));
        assert_eq!(Verdict::overall([Unchanged]), Some(Unchanged));
        assert_eq!(Verdict::overall([]), None);
    }
}

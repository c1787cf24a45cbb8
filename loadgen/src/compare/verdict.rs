//! The rule that makes a verdict of two sides' figures.

use super::statistics::{holm, signed_rank};
pub(crate) use crate::result::{Judgement, Threshold, ThresholdSource, Verdict};

/// The chance of calling any unchanged metric of a comparison changed.
const SIGNIFICANCE: f64 = 0.05;
/// The judged metrics of a full comparison: three under saturation, two at a fixed rate. Five tests
/// corrected together need eight pairs to be able to find anything (`2^(1-8) * 5 < 0.05`).
pub(crate) const MIN_PAIRS: usize = 8;
/// More pairs than this are not asked for: longer runs or a quieter machine help more.
const MOST_PAIRS_ASKED: f64 = 200.0;

/// Judges metrics that have a threshold, all of them together.
pub(crate) fn judge(judgements: &mut [Judgement]) {
    let adjusted = holm(&judgements.iter().map(|judgement| judgement.p).collect::<Vec<_>>());
    let count = judgements.len();
    for (judgement, p_adjusted) in judgements.iter_mut().zip(adjusted) {
        let limit = judgement.threshold.map_or(0.0, |threshold| threshold.relative.ln_1p());
        let verdict = verdict(judgement, p_adjusted, limit);
        let is_open = verdict == Verdict::Inconclusive;
        judgement.more_pairs = if is_open { more_pairs(judgement, limit, count) } else { None };
        (judgement.p_adjusted, judgement.verdict) = (Some(p_adjusted), Some(verdict));
    }
}

/// `limit`: logarithm of the threshold.
fn verdict(judgement: &Judgement, p_adjusted: f64, limit: f64) -> Verdict {
    let Some((low, high)) = judgement.interval.filter(|_| judgement.pairs >= MIN_PAIRS) else {
        return Verdict::Inconclusive;
    };
    let shift = judgement.ratio.ln();
    if low.ln() >= -limit && high.ln() <= limit {
        Verdict::Unchanged
    } else if p_adjusted <= SIGNIFICANCE && shift.abs() > limit {
        let better = (shift > 0.0) == judgement.metric.higher_is_better();
        if better { Verdict::Improved } else { Verdict::Regressed }
    } else {
        Verdict::Inconclusive
    }
}

/// Number of further pairs that would decide an inconclusive verdict, if estimate and spread stay
/// what they are.
///
/// The width of an interval falls with the square root of the number of pairs. An estimate within
/// the threshold needs an interval within the threshold. An estimate beyond it needs an interval
/// that excludes "no change" at the level of the strictest judged metric.
fn more_pairs(judgement: &Judgement, limit: f64, tests: usize) -> Option<usize> {
    let made = judgement.pairs;
    let least = MIN_PAIRS.max(pairs_to_be_significant(tests)).saturating_sub(made);
    let Some((low, high)) = judgement.interval else { return Some(least.max(1)) };
    let (shift, half) = (judgement.ratio.ln().abs(), (high.ln() - low.ln()) / 2.0);
    let shrink = if shift > limit {
        // Quantiles of the normal distribution: what is required of one judged metric of five
        // against what the interval shows.
        shift / (half * 2.576 / 1.960)
    } else {
        (limit - shift) / half
    };
    let wanted = made as f64 / (shrink * shrink);
    (wanted <= MOST_PAIRS_ASKED)
        .then(|| (wanted.ceil() as usize).saturating_sub(made).max(least).max(1))
}

/// The fewest pairs with which the strictest of `tests` corrected tests can be significant at all.
fn pairs_to_be_significant(tests: usize) -> usize {
    (1..64)
        .find(|&pairs| signed_rank::smallest_p(pairs) * tests as f64 <= SIGNIFICANCE)
        .unwrap_or(64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Metric;

    /// A judged metric of pairs whose ratio is `ratio`, give or take up to `spread`.
    fn judgement(
        metric: Metric,
        ratio: f64,
        spread: f64,
        pairs: usize,
        noise: Option<f64>,
    ) -> Judgement {
        // Spread evenly and in no order, symmetric about zero.
        let place = |i: usize| ((i * 7 % pairs) as f64 + 0.5) / pairs as f64 * 2.0 - 1.0;
        let sample = |i: usize| (100.0, 100.0 * ratio * (place(i) * spread).exp());
        let samples = (0..pairs).map(sample).collect::<Vec<_>>();
        let judgement = Judgement::of_pairs("echo", metric, &samples).expect("ratios");
        Judgement { threshold: Some(Threshold::of(metric, noise)), ..judgement }
    }

    fn first(mut judgements: Vec<Judgement>) -> Judgement {
        judge(&mut judgements);
        judgements.remove(0)
    }

    fn judged(metric: Metric, ratio: f64, spread: f64, pairs: usize) -> Judgement {
        first(vec![judgement(metric, ratio, spread, pairs, None)])
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
    fn eight_pairs_all_on_one_side_are_enough_for_five_metrics_and_seven_are_not() {
        let judgements = |pairs: usize| {
            let of = |metric: Metric, ratio: f64| judgement(metric, ratio, 0.001, pairs, None);
            let still = [Metric::Throughput, Metric::P50, Metric::P99, Metric::Memory]
                .map(|metric| of(metric, 1.0));
            first([vec![of(Metric::ServerCpu, 1.1)], still.to_vec()].concat())
        };
        assert_eq!(judgements(8).verdict, Some(Verdict::Regressed));
        assert!(judgements(8).p_adjusted.is_some_and(|p| p <= SIGNIFICANCE));
        assert!(judgements(7).p_adjusted.is_some_and(|p| p > SIGNIFICANCE));
    }

    #[test]
    fn a_noisy_machine_raises_the_threshold_and_a_quiet_one_does_not_lower_it() {
        let of = |noise| Threshold::of(Metric::ServerCpu, noise);
        assert_eq!(of(None), Threshold { relative: 0.02, source: ThresholdSource::Default });
        assert_eq!(of(Some(0.005)).source, ThresholdSource::Default);
        assert_eq!(of(Some(0.03)), Threshold { relative: 0.06, source: ThresholdSource::Noise });
        let judgement = judgement(Metric::ServerCpu, 1.05, 0.02, 10, Some(0.03));
        assert_ne!(first(vec![judgement]).verdict, Some(Verdict::Regressed));
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

//! The statistics of a comparison: rank tests, their estimates, and the correction for several of
//! them.
//!
//! Everything here is exact where that can be had, by counting all assignments that the null
//! hypothesis makes equally likely (see [`signed_rank`] for pairs, [`rank_sum`] for two unpaired
//! samples). Figures of load tests are skewed and have outliers; ranks need no assumption about
//! their shape, and an outlier weighs no more than the largest rank.
//!
//! Figures enter as natural logarithms of ratios: "5 % slower" is then the same distance at every
//! level and for every unit, and the estimate is a factor.

pub(crate) mod binomial;
pub(crate) mod change_points;
mod normal;
pub(crate) mod rank_sum;
pub(crate) mod signed_rank;
mod student;

/// A shift between two sides, on the scale of the samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) shift: f64,
    /// The confidence interval of the level asked for; `None` where so few samples bound it on no
    /// side.
    pub(crate) interval: Option<(f64, f64)>,
    /// Two-sided p-value of "there is no shift".
    pub(crate) p: f64,
}

/// The confidence level of every interval that is shown.
pub(crate) const CONFIDENCE: f64 = 0.95;

/// The factor between pairs `(before, after)`: estimate and interval of `after / before`, and the
/// p-value of "no change".
///
/// `None` without pairs, or with a pair of a figure that is not above zero and so has no ratio.
pub(crate) fn ratio_of_pairs(pairs: &[(f64, f64)]) -> Option<Estimate> {
    let logs: Vec<f64> =
        pairs.iter().map(|&(before, after)| log_ratio(before, after)).collect::<Option<_>>()?;
    Some(as_factor(signed_rank::estimate(&logs, CONFIDENCE)?))
}

/// The difference between pairs `(before, after)`: estimate and interval of `after - before`, and
/// the p-value of "no change".
pub(crate) fn difference_of_pairs(pairs: &[(f64, f64)]) -> Option<Estimate> {
    let differences: Vec<f64> = pairs.iter().map(|(before, after)| after - before).collect();
    signed_rank::estimate(&differences, CONFIDENCE)
}

/// The factor between two samples that were not paired, as [`ratio_of_pairs`].
pub(crate) fn ratio_of_samples(before: &[f64], after: &[f64]) -> Option<Estimate> {
    let logs = |sample: &[f64]| {
        sample.iter().map(|&figure| log_ratio(1.0, figure)).collect::<Option<Vec<_>>>()
    };
    Some(as_factor(rank_sum::estimate(&logs(before)?, &logs(after)?, CONFIDENCE)?))
}

/// `ln(after / before)`; `None` where that is not a number.
pub(crate) fn log_ratio(before: f64, after: f64) -> Option<f64> {
    let both = before.is_finite() && after.is_finite() && before > 0.0 && after > 0.0;
    both.then(|| (after / before).ln())
}

/// From logarithms back to factors.
fn as_factor(log: Estimate) -> Estimate {
    Estimate {
        shift: log.shift.exp(),
        interval: log.interval.map(|(low, high)| (low.exp(), high.exp())),
        p: log.p,
    }
}

/// The middle of sorted values, or the mean of the two in the middle.
fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[half - 1], sorted[half])
    } else {
        sorted[half]
    }
}

/// The `k`-th smallest and the `k`-th largest of sorted values, from 1; `None` where `k` is 0.
fn order_interval(sorted: &[f64], k: usize) -> Option<(f64, f64)> {
    let low = *sorted.get(k.checked_sub(1)?)?;
    Some((low, *sorted.get(sorted.len().checked_sub(k)?)?))
}

/// Number of the smallest values of a distribution (`probabilities` of 0, 1, 2, ...) together have
/// at most `tail`.
fn values_within(probabilities: &[f64], tail: f64) -> usize {
    let mut sum = 0.0;
    let within = |&probability: &f64| {
        sum += probability;
        // A hair of tolerance: the sum of many small numbers may miss the round one they make.
        sum <= tail * (1.0 + 1e-12)
    };
    probabilities.iter().copied().take_while(within).count()
}

/// Both tails of a distribution at one of its values, doubled: the usual two-sided p-value.
fn two_sided(probabilities: &[f64], at: usize) -> f64 {
    let below: f64 = probabilities[..=at].iter().sum();
    let above: f64 = probabilities[at..].iter().sum();
    (2.0 * below.min(above)).min(1.0)
}

/// The ranks of `values` in their order, **doubled** so that the mean of tied ranks is a whole
/// number.
///
/// Equal values share the mean of the ranks they take up together (midranks). Values must not be
/// NaN.
fn doubled_midranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let tied = order[first..]
            .iter()
            .take_while(|&&index| values[index] == values[order[first]])
            .count();
        // Ranks first + 1 to first + tied, whose mean is half the sum of the outer two.
        for &index in &order[first..first + tied] {
            ranks[index] = 2 * first + tied + 1;
        }
        first += tied;
    }
    ranks
}

/// Adjusts p-values so that the chance of *any* false rejection among them stays what it is for
/// one.
///
/// S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979):
/// the smallest is multiplied by their number, the next by one less, and so on; none becomes
/// smaller than the one before. In the order given.
pub(crate) fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut least: f64 = 0.0;
    for (position, &index) in order.iter().enumerate() {
        let hypotheses_left = (p_values.len() - position) as f64;
        least = least.max(p_values[index] * hypotheses_left).min(1.0);
        adjusted[index] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests;

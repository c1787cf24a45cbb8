//! Paired samples: Wilcoxon's signed-rank test and the Hodges-Lehmann estimate.
//!
//! F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1 (1945); J. W.
//! Pratt, "Remarks on zeros and ties in the Wilcoxon signed rank procedures", JASA 54 (1959);
//! Hollander, Wolfe, Chicken, "Nonparametric Statistical Methods", chapter 3.
//!
//! - **Ties** among the absolute differences get the mean of their ranks, and the p-value counts
//!   the sign assignments of just those ranks: it stays exact, conditionally on the ties.
//! - **Zeros** take part in the ranking and then have no sign (Pratt). Dropping them before the
//!   ranking, as Wilcoxon did, can make a result more significant by adding evidence for "no
//!   change".
//! - The **interval** comes from the order statistics of the Walsh averages at the quantiles of the
//!   distribution without ties; with ties it covers at least as much as it says.

use super::{Estimate, doubled_midranks, middle, normal, order_interval, two_sided, values_within};

/// Most differences for which every assignment of signs is counted. The work grows with the third
/// power: at this size it is some million additions.
pub(crate) const EXACT_UP_TO: usize = 200;

/// Estimate of the shift, its interval at `confidence`, and the p-value.
///
/// `None` without differences, or with one that is not finite.
pub(crate) fn estimate(differences: &[f64], confidence: f64) -> Option<Estimate> {
    if differences.is_empty() || differences.iter().any(|difference| !difference.is_finite()) {
        return None;
    }
    let averages = walsh_averages(differences);
    let interval = order_interval(&averages, interval_rank(differences.len(), confidence));
    Some(Estimate { shift: middle(&averages), interval, p: p_value(differences) })
}

/// The Hodges-Lehmann estimate alone: the median of the Walsh averages; zero of no differences.
/// They must be finite.
pub(crate) fn shift(differences: &[f64]) -> f64 {
    if differences.is_empty() { 0.0 } else { middle(&walsh_averages(differences)) }
}

/// Two-sided p-value of "the differences are symmetric about zero"; 1 where all are zero.
/// Differences must be finite.
pub(crate) fn p_value(differences: &[f64]) -> f64 {
    let magnitudes: Vec<f64> = differences.iter().map(|difference| difference.abs()).collect();
    let ranks = doubled_midranks(&magnitudes);
    let signed = || differences.iter().zip(&ranks).filter(|(difference, _)| **difference != 0.0);
    let kept: Vec<usize> = signed().map(|(_, &rank)| rank).collect();
    let positive: usize =
        signed().filter(|(difference, _)| **difference > 0.0).map(|(_, &rank)| rank).sum();
    if kept.len() <= EXACT_UP_TO {
        return two_sided(&sign_sums(&kept), positive);
    }
    // Undoubled: mean and variance of a sum in which each rank is there or not.
    let total: usize = kept.iter().sum();
    let squares: f64 = kept.iter().map(|&rank| (rank as f64 / 2.0).powi(2)).sum();
    normal::two_sided((positive as f64 - total as f64 / 2.0) / 2.0, (squares / 4.0).sqrt())
}

/// The smallest two-sided p-value that `pairs` pairs can give: all on one side.
pub(crate) fn smallest_p(pairs: usize) -> f64 {
    i32::try_from(pairs).map_or(0.0, |pairs| 2f64.powi(1 - pairs)).min(1.0)
}

/// All means of two differences (each with itself too), sorted.
fn walsh_averages(differences: &[f64]) -> Vec<f64> {
    let mut averages: Vec<f64> = (0..differences.len())
        .flat_map(|i| {
            (i..differences.len()).map(move |j| f64::midpoint(differences[i], differences[j]))
        })
        .collect();
    averages.sort_by(f64::total_cmp);
    averages
}

/// Which Walsh average, from each end, bounds the interval; 0 where none does.
fn interval_rank(pairs: usize, confidence: f64) -> usize {
    let tail = (1.0 - confidence) / 2.0;
    if pairs <= EXACT_UP_TO {
        // Without ties the rank sums take every whole value: no doubling.
        return values_within(&sign_sums(&(1..=pairs).collect::<Vec<_>>()), tail);
    }
    let n = pairs as f64;
    let deviation = (n * (n + 1.0) * (2.0 * n + 1.0) / 24.0).sqrt();
    (n * (n + 1.0) / 4.0 - normal::half_width(confidence) * deviation).floor().max(0.0) as usize
}

/// The distribution of the sum of those `ranks` whose sign is positive, when each is so with
/// probability one half.
fn sign_sums(ranks: &[usize]) -> Vec<f64> {
    let mut probabilities = vec![0.0; ranks.iter().sum::<usize>() + 1];
    probabilities[0] = 1.0;
    let mut highest = 0;
    for &rank in ranks {
        highest += rank;
        // Downwards, so that what is read has not been changed yet.
        for sum in (0..=highest).rev() {
            let with = if sum >= rank { probabilities[sum - rank] } else { 0.0 };
            probabilities[sum] = f64::midpoint(probabilities[sum], with);
        }
    }
    probabilities
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::statistics::CONFIDENCE;

    /// The largest rank sum of the rarer sign that is still significant at 5 %, two-sided, by
    /// number of pairs: Wilcoxon and Wilcox, "Some Rapid Approximate Statistical Procedures"
    /// (1964), table 2.
    const CRITICAL: [(usize, usize); 17] = [
        (6, 0),
        (7, 2),
        (8, 3),
        (9, 5),
        (10, 8),
        (11, 10),
        (12, 13),
        (13, 17),
        (14, 21),
        (15, 25),
        (16, 29),
        (17, 34),
        (18, 40),
        (19, 46),
        (20, 52),
        (25, 89),
        (30, 137),
    ];

    #[test]
    fn the_published_critical_values_are_found() {
        for (pairs, critical) in CRITICAL {
            assert_eq!(interval_rank(pairs, CONFIDENCE), critical + 1, "{pairs} pairs");
        }
        assert_eq!(interval_rank(5, CONFIDENCE), 0, "five pairs are never significant");
    }

    #[test]
    fn the_smallest_p_values_are_those_of_the_design() {
        for (pairs, p) in [(6, 0.03125), (8, 0.007_812_5), (10, 0.001_953_125)] {
            let all_positive: Vec<f64> = (1..=pairs).map(|i| i as f64).collect();
            assert_eq!((p_value(&all_positive), smallest_p(pairs)), (p, p));
        }
        assert_eq!((smallest_p(0), smallest_p(1)), (1.0, 1.0));
    }

    /// Hollander and Wolfe, example 3.1: Hamilton depression scale before and after a tranquilizer.
    #[test]
    #[allow(clippy::approx_constant, reason = "a measured 3.14")]
    fn the_textbook_example_comes_out() {
        let before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30];
        let after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29];
        let differences: Vec<f64> = before.iter().zip(after).map(|(x, y)| y - x).collect();
        let estimate = estimate(&differences, 0.96).expect("finite");
        assert!((estimate.p - 0.039_062_5).abs() < 1e-12);
        assert!((estimate.shift + 0.46).abs() < 1e-9, "{estimate:?}");
        let (low, high) = estimate.interval.expect("nine pairs");
        assert!((low + 0.786).abs() < 1e-9 && (high + 0.010).abs() < 1e-9, "{estimate:?}");
    }

    #[test]
    fn zeros_count_against_a_change() {
        assert_eq!(p_value(&[0.0; 7]), 1.0);
        let all_up = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        assert!(p_value(&[&all_up[..], &[0.0, 0.0]].concat()) >= p_value(&all_up));
    }

    #[test]
    fn what_cannot_be_ranked_has_no_estimate() {
        assert_eq!(estimate(&[], CONFIDENCE), None);
        assert_eq!(estimate(&[1.0, f64::NAN], CONFIDENCE), None);
        assert_eq!(estimate(&[f64::INFINITY], CONFIDENCE), None);
        assert_eq!(estimate(&[1.0], CONFIDENCE).expect("one").interval, None);
    }

    #[test]
    fn the_normal_approximation_continues_the_exact_count() {
        let sample = |n: usize| {
            (1..=n).map(|i| if i % 5 == 0 { -(i as f64) } else { i as f64 }).collect::<Vec<_>>()
        };
        let (few, many) = (sample(EXACT_UP_TO), sample(EXACT_UP_TO + 1));
        assert!(p_value(&few) < 1e-6 && p_value(&many) < 1e-6);
        let balanced: Vec<f64> =
            (1..=301).map(|i| if i % 2 == 0 { f64::from(i) } else { -f64::from(i) }).collect();
        assert!(p_value(&balanced) > 0.5);
        let exact = interval_rank(EXACT_UP_TO, CONFIDENCE) as f64;
        let n = EXACT_UP_TO as f64;
        let approximate = n * (n + 1.0) / 4.0
            - normal::half_width(CONFIDENCE) * (n * (n + 1.0) * (2.0 * n + 1.0) / 24.0).sqrt();
        assert!((exact - approximate).abs() < 5.0, "{exact} {approximate}");
    }
}

//! Unpaired samples: the Wilcoxon-Mann-Whitney rank-sum test and the shift estimate that belongs to
//! it.
//!
//! H. B. Mann, D. R. Whitney, "On a test of whether one of two random variables is stochastically
//! larger than the other", Ann. Math. Stat. 18 (1947); Hollander, Wolfe, Chicken, "Nonparametric
//! Statistical Methods", chapter 4.
//!
//! Ties get the mean of their ranks, and the p-value counts the divisions of just those ranks into
//! two groups.

use super::{Estimate, doubled_midranks, middle, normal, order_interval, two_sided, values_within};

/// Most samples of both sides together for which every division is counted.
pub(crate) const EXACT_UP_TO: usize = 80;

/// Estimate of `after - before`, its interval at `confidence`, and the two-sided p-value of "no
/// shift".
///
/// `None` where a side is empty or has a value that is not finite.
pub(crate) fn estimate(before: &[f64], after: &[f64], confidence: f64) -> Option<Estimate> {
    if before.is_empty()
        || after.is_empty()
        || before.iter().chain(after).any(|value| !value.is_finite())
    {
        return None;
    }
    let mut shifts: Vec<f64> =
        before.iter().flat_map(|x| after.iter().map(move |y| y - x)).collect();
    shifts.sort_by(f64::total_cmp);
    let interval = order_interval(&shifts, interval_rank(before.len(), after.len(), confidence));
    Some(Estimate { shift: middle(&shifts), interval, p: p_value(before, after) })
}

/// Two-sided p-value of "both samples come from one distribution"; 1 where a side is empty. Values
/// must be finite.
pub(crate) fn p_value(before: &[f64], after: &[f64]) -> f64 {
    let ranks = doubled_midranks(&[before, after].concat());
    let sum: usize = ranks[before.len()..].iter().sum();
    if ranks.len() <= EXACT_UP_TO {
        return two_sided(&group_sums(&ranks, after.len()), sum);
    }
    let (n, group) = (ranks.len() as f64, after.len() as f64);
    let mean = (n + 1.0) / 2.0;
    let spread: f64 = ranks.iter().map(|&rank| (rank as f64 / 2.0 - mean).powi(2)).sum();
    // Drawing without replacement from the ranks as they are, ties included.
    let variance = group * (n - group) / (n * (n - 1.0)) * spread;
    normal::two_sided(sum as f64 / 2.0 - group * mean, variance.sqrt())
}

/// Which difference, from each end, bounds the interval; 0 where none does.
fn interval_rank(before: usize, after: usize, confidence: f64) -> usize {
    let tail = (1.0 - confidence) / 2.0;
    if before + after <= EXACT_UP_TO {
        let sums = group_sums(&(1..=before + after).collect::<Vec<_>>(), after);
        // The smallest sum is that of the ranks 1 to `after`: from there on it is Mann and
        // Whitney's U.
        return values_within(&sums[after * (after + 1) / 2..], tail);
    }
    let (m, n) = (before as f64, after as f64);
    let deviation = (m * n * (m + n + 1.0) / 12.0).sqrt();
    (m * n / 2.0 - normal::half_width(confidence) * deviation).floor().max(0.0) as usize
}

/// The distribution of the sum of `group` of the `ranks`, every choice being equally likely.
fn group_sums(ranks: &[usize], group: usize) -> Vec<f64> {
    let highest: usize = ranks.iter().sum();
    // By how many were chosen: how many choices have which sum.
    let mut choices = vec![vec![0.0; highest + 1]; group + 1];
    choices[0][0] = 1.0;
    for &rank in ranks {
        for chosen in (1..=group).rev() {
            let (fewer, these) = choices.split_at_mut(chosen);
            for sum in rank..=highest {
                these[0][sum] += fewer[chosen - 1][sum - rank];
            }
        }
    }
    let mut sums = choices.swap_remove(group);
    let all: f64 = sums.iter().sum();
    sums.iter_mut().for_each(|count| *count /= all);
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::statistics::CONFIDENCE;

    /// The largest U that is still significant at 5 %, two-sided: Milton, "An extended table of
    /// critical values for the Mann-Whitney (Wilcoxon) two-sample statistic", JASA 59 (1964).
    const CRITICAL: [(usize, usize, usize); 9] = [
        (4, 4, 0),
        (5, 5, 2),
        (6, 6, 5),
        (7, 7, 8),
        (8, 8, 13),
        (10, 10, 23),
        (5, 10, 8),
        (15, 15, 64),
        (20, 20, 127),
    ];

    #[test]
    fn the_published_critical_values_are_found() {
        for (m, n, critical) in CRITICAL {
            assert_eq!(interval_rank(m, n, CONFIDENCE), critical + 1, "{m} and {n}");
            assert_eq!(interval_rank(n, m, CONFIDENCE), critical + 1, "{n} and {m}");
        }
        assert_eq!(interval_rank(3, 3, CONFIDENCE), 0, "three against three are never significant");
    }

    /// Hollander and Wolfe, example 4.1: permeability of the human chorioamnion.
    #[test]
    fn the_textbook_example_comes_out() {
        let at_term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46];
        let early = [1.15, 0.88, 0.90, 0.74, 1.21];
        let estimate = estimate(&at_term, &early, 0.96).expect("finite");
        // One-sided 0.1272 in the book.
        assert!((estimate.p - 0.2544).abs() < 5e-5, "{estimate:?}");
        assert!((estimate.shift + 0.305).abs() < 1e-9, "{estimate:?}");
        let (low, high) = estimate.interval.expect("bounded");
        assert!((low + 0.76).abs() < 1e-9 && (high - 0.15).abs() < 1e-9, "{estimate:?}");
    }

    #[test]
    fn what_cannot_be_ranked_has_no_estimate() {
        assert_eq!(estimate(&[], &[1.0], CONFIDENCE), None);
        assert_eq!(estimate(&[1.0], &[f64::NAN], CONFIDENCE), None);
        assert_eq!(estimate(&[1.0], &[2.0], CONFIDENCE).expect("two").interval, None);
    }

    #[test]
    fn the_normal_approximation_continues_the_exact_count() {
        let sample = |n: usize, shift: f64| {
            (0..n).map(|i| (i * 37 % 101) as f64 + shift).collect::<Vec<_>>()
        };
        let exact = p_value(&sample(40, 0.0), &sample(40, 12.5));
        let approximate = p_value(&sample(41, 0.0), &sample(40, 12.5));
        assert!((exact / approximate - 1.0).abs() < 0.25, "{exact} {approximate}");
        assert!(p_value(&[1.0; 60], &[1.0; 60]) >= 1.0);
    }
}

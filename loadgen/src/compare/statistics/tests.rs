//! Against other implementations (`fixtures.json`, made by `fixtures.R`), against plain
//! enumeration, and by properties.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Fixtures {
    paired: Vec<Paired>,
    unpaired: Vec<Unpaired>,
    holm: Vec<Corrected>,
    shares: Vec<Counted>,
}

#[derive(Deserialize)]
struct Paired {
    differences: Vec<f64>,
    #[serde(flatten)]
    expected: Expected,
}

#[derive(Deserialize)]
struct Unpaired {
    before: Vec<f64>,
    after: Vec<f64>,
    #[serde(flatten)]
    expected: Expected,
}

#[derive(Deserialize)]
struct Expected {
    by: String,
    p: f64,
    shift: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
}

#[derive(Deserialize)]
struct Corrected {
    p: Vec<f64>,
    adjusted: Vec<f64>,
}

#[derive(Deserialize)]
struct Counted {
    count: usize,
    of: usize,
    low: f64,
    high: f64,
}

fn fixtures() -> Fixtures {
    serde_json::from_str(include_str!("fixtures.json")).expect("the committed fixtures")
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
}

impl Expected {
    fn check(&self, found: Estimate) {
        let by = &self.by;
        assert!(close(found.p, self.p), "{by}: {found:?}, expected p {}", self.p);
        let Some(shift) = self.shift else { return };
        // R finds it as the root of the test's statistic, to a tolerance, where there is more than
        // one candidate.
        assert!((found.shift - shift).abs() < 1e-4, "{by}: {found:?}, expected {shift}");
        let (low, high) = found.interval.expect("an interval");
        let bounds = (self.low.expect("low"), self.high.expect("high"));
        assert!(
            close(low, bounds.0) && close(high, bounds.1),
            "{by}: {found:?}, expected {bounds:?}"
        );
    }
}

#[test]
fn other_implementations_agree_on_pairs() {
    for Paired { differences, expected } in fixtures().paired {
        expected.check(signed_rank::estimate(&differences, CONFIDENCE).expect("finite"));
    }
}

#[test]
fn other_implementations_agree_on_unpaired_samples() {
    for Unpaired { before, after, expected } in fixtures().unpaired {
        expected.check(rank_sum::estimate(&before, &after, CONFIDENCE).expect("finite"));
    }
}

#[test]
fn another_implementation_agrees_on_the_correction() {
    for Corrected { p, adjusted } in fixtures().holm {
        let found = holm(&p);
        assert!(
            found.iter().zip(&adjusted).all(|(&a, &b)| close(a, b)),
            "{found:?}, expected {adjusted:?}"
        );
    }
}

#[test]
fn another_implementation_agrees_on_shares() {
    for Counted { count, of, low, high } in fixtures().shares {
        let found = binomial::interval(count, of, CONFIDENCE);
        assert!(
            close(found.0, low) && close(found.1, high),
            "{count} of {of}: {found:?}, expected {low} {high}"
        );
    }
}

#[test]
fn a_figure_without_a_ratio_has_no_estimate() {
    assert_eq!(ratio_of_pairs(&[]), None);
    assert_eq!(ratio_of_pairs(&[(1.0, 2.0), (0.0, 1.0)]), None);
    assert_eq!(ratio_of_pairs(&[(1.0, -2.0)]), None);
    assert_eq!(ratio_of_samples(&[1.0], &[f64::NAN]), None);
    let twice = ratio_of_pairs(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]).expect("ratios");
    assert!(close(twice.shift, 2.0) && close(twice.p, 0.25), "{twice:?}");
}

/// The p-value of signed ranks by its definition: every assignment of signs, one by one.
fn enumerated_signs(differences: &[f64]) -> f64 {
    let magnitudes: Vec<f64> = differences.iter().map(|d| d.abs()).collect();
    let ranks = doubled_midranks(&magnitudes);
    let kept: Vec<usize> = (0..ranks.len()).filter(|&i| differences[i] != 0.0).collect();
    let seen: usize = kept.iter().filter(|&&i| differences[i] > 0.0).map(|&i| ranks[i]).sum();
    let (mut below, mut above) = (0u32, 0u32);
    for signs in 0..1u32 << kept.len() {
        let positive = kept.iter().enumerate().filter(|(bit, _)| signs >> bit & 1 == 1);
        let sum: usize = positive.map(|(_, &i)| ranks[i]).sum();
        below += u32::from(sum <= seen);
        above += u32::from(sum >= seen);
    }
    (2.0 * f64::from(below.min(above)) / f64::from(1u32 << kept.len())).min(1.0)
}

/// The p-value of a rank sum by its definition: every division into two groups.
fn enumerated_groups(before: &[f64], after: &[f64]) -> f64 {
    let ranks = doubled_midranks(&[before, after].concat());
    let seen: usize = ranks[before.len()..].iter().sum();
    let (mut below, mut above, mut all) = (0u32, 0u32, 0u32);
    for chosen in 0..1u32 << ranks.len() {
        if chosen.count_ones() as usize == after.len() {
            let sum: usize =
                (0..ranks.len()).filter(|i| chosen >> i & 1 == 1).map(|i| ranks[i]).sum();
            (below, above, all) =
                (below + u32::from(sum <= seen), above + u32::from(sum >= seen), all + 1);
        }
    }
    (2.0 * f64::from(below.min(above)) / f64::from(all)).min(1.0)
}

/// Small whole numbers: many ties, many zeros.
fn coarse(sizes: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec((-4i32..=4).prop_map(f64::from), sizes)
}

fn fine(sizes: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(-1.0..1.0f64, sizes)
}

proptest! {
    #[test]
    fn signed_ranks_are_what_enumeration_says(differences in coarse(1..11)) {
        prop_assert!(close(signed_rank::p_value(&differences), enumerated_signs(&differences)));
    }

    #[test]
    fn rank_sums_are_what_enumeration_says(before in coarse(1..7), after in coarse(1..6)) {
        prop_assert!(close(rank_sum::p_value(&before, &after), enumerated_groups(&before, &after)));
    }

    #[test]
    fn the_direction_of_the_pairs_changes_signs_alone(differences in fine(1..30)) {
        let mirrored: Vec<f64> = differences.iter().map(|d| -d).collect();
        let (one, other) = (
            signed_rank::estimate(&differences, CONFIDENCE).expect("finite"),
            signed_rank::estimate(&mirrored, CONFIDENCE).expect("finite"),
        );
        prop_assert!(close(one.p, other.p) && close(one.shift, -other.shift));
        match (one.interval, other.interval) {
            (Some((low, high)), Some((mirrored_low, mirrored_high))) => {
                prop_assert!(close(low, -mirrored_high) && close(high, -mirrored_low));
            }
            (None, None) => prop_assert!(differences.len() < 6),
            _ => prop_assert!(false, "one side has an interval"),
        }
    }

    /// A 95 % interval leaves zero out exactly where the test says 5 %: they are two views of one
    /// thing.
    #[test]
    fn interval_and_test_agree(differences in fine(6..40), shift in -0.5..0.5f64) {
        let differences: Vec<f64> = differences.iter().map(|d| d + shift).collect();
        let estimate = signed_rank::estimate(&differences, CONFIDENCE).expect("finite");
        let (low, high) = estimate.interval.expect("six and more");
        prop_assert!(low <= estimate.shift && estimate.shift <= high);
        prop_assert_eq!(low > 0.0 || high < 0.0, estimate.p <= 0.05);
    }

    #[test]
    fn interval_and_rank_sum_agree(before in fine(4..20), after in fine(4..20), shift in -0.8..0.8f64) {
        let after: Vec<f64> = after.iter().map(|y| y + shift).collect();
        let estimate = rank_sum::estimate(&before, &after, CONFIDENCE).expect("finite");
        let (low, high) = estimate.interval.expect("four and more");
        prop_assert!(low <= estimate.shift && estimate.shift <= high);
        prop_assert_eq!(low > 0.0 || high < 0.0, estimate.p <= 0.05);
    }

    #[test]
    fn the_estimate_follows_what_is_added(differences in fine(1..30), added in -10.0..10.0f64) {
        let moved: Vec<f64> = differences.iter().map(|d| d + added).collect();
        let (was, is) = (
            signed_rank::estimate(&differences, CONFIDENCE).expect("finite"),
            signed_rank::estimate(&moved, CONFIDENCE).expect("finite"),
        );
        prop_assert!(close(was.shift + added, is.shift));
    }

    #[test]
    fn an_adjusted_p_value_lies_between_its_own_and_bonferronis(p in prop::collection::vec(0.0..=1.0f64, 1..8)) {
        for (&own, adjusted) in p.iter().zip(holm(&p)) {
            prop_assert!(own <= adjusted && adjusted <= (own * p.len() as f64).min(1.0).max(own));
        }
    }
}

#[test]
fn the_smallest_is_multiplied_most_and_none_overtakes_another() {
    let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
    // R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
        assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
    }
    assert_eq!(holm(&[]), [0.0; 0]);
    assert_eq!(holm(&[0.7, 0.9]), [1.0, 1.0]);
}

#[test]
fn tied_values_share_the_mean_of_their_ranks() {
    assert_eq!(doubled_midranks(&[3.0, 1.0, 2.0]), [6, 2, 4]);
    assert_eq!(doubled_midranks(&[1.0, 2.0, 2.0, 3.0]), [2, 5, 5, 8]);
    assert_eq!(doubled_midranks(&[0.0, -0.0, 1.0]), [3, 3, 6]);
    assert_eq!(doubled_midranks(&[]), [0; 0]);
}

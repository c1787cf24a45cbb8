//! A share of trials, and what it can have been by chance.

/// The Clopper-Pearson interval of a share: `successes` of `trials`, at `confidence` (0 to 1, both
/// excluded).
///
/// C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case
/// of the binomial", Biometrika 26 (1934): the shares that two one-sided tests, each at half of the
/// error, do not reject. The coverage is at least `confidence`. Without trials the interval is 0 to
/// 1.
pub(crate) fn interval(successes: usize, trials: usize, confidence: f64) -> (f64, f64) {
    let tail = (1.0 - confidence) / 2.0;
    let low = if successes == 0 {
        0.0
    } else {
        // The probability of at least this number grows with the share.
        share_where(|share| at_least(successes, trials, share) < tail)
    };
    let high = if successes >= trials {
        1.0
    } else {
        share_where(|share| 1.0 - at_least(successes + 1, trials, share) > tail)
    };
    (low, high)
}

fn share_where(is_below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if is_below(middle) { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

fn at_least(successes: usize, trials: usize, share: f64) -> f64 {
    let n = trials as f64;
    let chance = |k: f64| {
        let ways = libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0);
        (ways + k * share.ln() + (n - k) * (-share).ln_1p()).exp()
    };
    (successes..=trials).map(|k| chance(k as f64)).sum::<f64>().min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where no success was seen both limits have a closed form.
    #[test]
    fn no_success_and_nothing_but_successes_have_closed_forms() {
        for trials in [1, 5, 20, 59, 300] {
            let limit = 1.0 - 0.025f64.powf(1.0 / trials as f64);
            let (low, high) = interval(0, trials, 0.95);
            assert!(low == 0.0 && (high - limit).abs() < 1e-9, "{trials}: {high} {limit}");
            let (low, high) = interval(trials, trials, 0.95);
            assert!(high == 1.0 && (low - (1.0 - limit)).abs() < 1e-9, "{trials}: {low}");
        }
        assert_eq!(interval(0, 0, 0.95), (0.0, 1.0));
    }
}

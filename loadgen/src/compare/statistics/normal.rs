//! The normal distribution, for samples too large to count every assignment.

/// Two-sided p-value of a statistic `distance` away from its mean, with standard deviation
/// `deviation`.
///
/// Half a step is taken off the distance, since the statistic takes whole values (continuity
/// correction).
pub(super) fn two_sided(distance: f64, deviation: f64) -> f64 {
    if deviation <= 0.0 {
        return 1.0;
    }
    let z = (distance.abs() - 0.5).max(0.0) / deviation;
    libm::erfc(z / std::f64::consts::SQRT_2).min(1.0)
}

/// Number of standard deviations around the mean that hold the share `confidence` (0 to 1, both
/// excluded).
pub(super) fn half_width(confidence: f64) -> f64 {
    let (mut low, mut high) = (0.0, 40.0);
    // Bisection: no closed form exists, and a hundred halvings are as exact as the type.
    for _ in 0..100 {
        let z = f64::midpoint(low, high);
        if libm::erf(z / std::f64::consts::SQRT_2) < confidence { low = z } else { high = z }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_tails_are_the_published_ones() {
        for (confidence, z) in
            [(0.90, 1.644_853_626_951), (0.95, 1.959_963_984_540), (0.99, 2.575_829_303_549)]
        {
            assert!((half_width(confidence) - z).abs() < 1e-9);
            // One step of correction is taken off a distance in steps.
            assert!((two_sided(10.0 * z + 0.5, 10.0) - (1.0 - confidence)).abs() < 1e-9);
        }
        assert_eq!(two_sided(5.0, 0.0), 1.0);
    }
}

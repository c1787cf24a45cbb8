//! Student's t distribution, for the test between two stretches of a series.

/// Steps of the continued fraction, far more than it takes to converge.
const MOST_STEPS: u32 = 300;

/// Two-sided p-value of the statistic `t` with `freedom` degrees of freedom, above 0.
///
/// It is the regularised incomplete beta function at `freedom / (freedom + t^2)`, with the
/// parameters `freedom / 2` and 1/2 (Abramowitz, Stegun, "Handbook of Mathematical Functions",
/// 26.7.1).
pub(super) fn two_sided(t: f64, freedom: f64) -> f64 {
    if t.is_infinite() {
        return 0.0;
    }
    incomplete_beta(freedom / (freedom + t * t), freedom / 2.0, 0.5)
}

fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges quickly only on this side of the mean.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let log_beta = libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b);
    (a * x.ln() + b * (-x).ln_1p() - log_beta).exp() / (a * fraction(x, a, b))
}

/// The continued fraction of 26.5.8 in the same book, from its front: Lentz's method keeps the
/// ratios of neighbouring numerators and denominators.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    let nonzero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut numerators, mut denominators, mut value) = (1.0, 0.0, 1.0);
    for step in 1..=MOST_STEPS {
        let m = f64::from(step / 2);
        let term = if step % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        numerators = nonzero(1.0 + term / numerators);
        denominators = 1.0 / nonzero(1.0 + term * denominators);
        let factor = numerators * denominators;
        value *= factor;
        if (factor - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_quantiles_have_their_tails() {
        // Two-sided 5 %, 1 % and 0.1 %, from any table of the distribution.
        for (freedom, quantiles) in [
            (1.0, [12.706_204_736, 63.656_741_163, 636.619_248_769]),
            (5.0, [2.570_581_836, 4.032_142_984, 6.868_826_626]),
            (30.0, [2.042_272_456, 2.749_995_654, 3.645_958_635]),
        ] {
            for (t, p) in quantiles.into_iter().zip([0.05, 0.01, 0.001]) {
                let found = two_sided(t, freedom);
                assert!((found / p - 1.0).abs() < 1e-7, "{freedom} {t}: {found}");
            }
        }
        assert_eq!((two_sided(0.0, 7.0), two_sided(f64::INFINITY, 7.0)), (1.0, 0.0));
    }
}

//! Seeded randomness of faults.

use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood 2014): every seed gives an own sequence, the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.0;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a time from the exponential distribution with this mean; at most 37 times the mean.
    pub(super) fn exponential(&mut self, mean: Duration) -> Duration {
        // Above 0 and at most 1, so that the logarithm is finite.
        let uniform = ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        mean.mul_f64(-uniform.ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_is_the_published_one() {
        let mut random = SplitMix64::new(1_234_567);
        let expected =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(expected.map(|_| random.next()), expected);
    }

    #[test]
    fn exponential_times_have_their_mean_and_are_bounded() {
        let (mut random, mean) = (SplitMix64::new(7), Duration::from_millis(10));
        let times: Vec<Duration> = (0..100_000).map(|_| random.exponential(mean)).collect();
        let average = times.iter().sum::<Duration>() / 100_000;
        assert!(average.abs_diff(mean) < Duration::from_micros(200), "{average:?}");
        assert!(times.iter().all(|&time| time < mean * 37));
        // Half of them are below the median, the mean times the logarithm of 2.
        let below = times.iter().filter(|&&time| time < mean.mul_f64(2_f64.ln())).count();
        assert!(below.abs_diff(50_000) < 1000, "{below}");
    }
}

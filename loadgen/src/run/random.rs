//! Seeded randomness for masking keys, nonces and payloads.

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014). A
/// number costs one addition and a mix, and all seeds are equally good. The sequence is the same on
/// every machine, so that a run can be repeated from its seed.
///
/// Not for secrets. RFC 6455 10.3 asks for unpredictable masking keys against intermediaries that
/// could be deceived; a generator attacks no proxy and must be fast and repeatable.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The sequence of `seed` that belongs to `stream`; streams of one seed have nothing in common.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut base = Self(seed);
        Self(base.next() ^ Self(stream).next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`; the bias is far below what payloads care about.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * bound as u128;
        (wide >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_the_reference_implementation() {
        // The first numbers of seed 1234567 in the authors' C program.
        let mut random = Random(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let take = |seed, stream| Random::new(seed, stream).next();
        assert_eq!(take(1, 2), take(1, 2));
        assert_ne!(take(1, 2), take(1, 3));
        assert_ne!(take(1, 2), take(2, 2));
        let mut random = Random::new(7, 7);
        assert!((0..1000).all(|_| random.below(3) < 3));
    }
}

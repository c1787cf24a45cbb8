//! A server that is slower by a known amount, to prove with that a comparison of two servers finds it.

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

/// CPU time to burn for each message, nanoseconds; above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burn(f64);

impl Burn {
    /// So many nanoseconds a message; `None` of nothing, and of what is no number.
    #[must_use]
    pub fn per_message(ns: f64) -> Option<Self> {
        (ns > 0.0 && ns.is_finite()).then_some(Self(ns))
    }
}

impl fmt::Display for Burn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ns", self.0)
    }
}

/// Burns by counted steps, because reading a clock for each message costs about as much as is to be burnt.
#[derive(Debug)]
pub(crate) struct Treadmill {
    steps_per_message: f64,
    /// The part of a step that is still owed.
    owed: f64,
}

impl Treadmill {
    const TRIALS: u32 = 20;
    const STEPS_OF_A_TRIAL: u64 = 100_000;

    /// Measures the speed of this thread's processor: some milliseconds.
    pub(crate) fn new(burn: Burn) -> Self {
        // A trial can be slower than the processor is, never faster.
        let trials = (0..Self::TRIALS).map(|_| {
            let began = Instant::now();
            step(Self::STEPS_OF_A_TRIAL);
            began.elapsed().as_nanos() as f64
        });
        let ns = trials.fold(f64::INFINITY, f64::min);
        Self::of(burn, ns / Self::STEPS_OF_A_TRIAL as f64)
    }

    fn of(burn: Burn, ns_per_step: f64) -> Self {
        Self { steps_per_message: burn.0 / ns_per_step, owed: 0.0 }
    }

    /// Burns for so many messages. What is less than a step is owed to the next.
    pub(crate) fn burn(&mut self, messages: u64) {
        let steps = self.steps(messages);
        step(steps);
    }

    fn steps(&mut self, messages: u64) -> u64 {
        self.owed += self.steps_per_message * messages as f64;
        let steps = self.owed.floor();
        self.owed -= steps;
        steps as u64
    }
}

/// Each step needs the result of the one before, so that no processor does two at a time.
#[inline(never)]
fn step(steps: u64) {
    let mut state = black_box(1u64);
    for _ in 0..steps {
        state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_burnt_is_the_product_to_a_step() {
        let burn = Burn::per_message(2.5).expect("more than nothing");
        let mut treadmill = Treadmill::of(burn, 2.0);
        let steps: Vec<u64> = (0..8).map(|_| treadmill.steps(1)).collect();
        assert_eq!(steps, [1, 1, 1, 2, 1, 1, 1, 2]);
        assert_eq!(treadmill.steps(1000), 1250);
    }

    #[test]
    fn nothing_is_not_burnt() {
        assert!(Burn::per_message(0.0).is_none() && Burn::per_message(-1.0).is_none());
        assert!(Burn::per_message(f64::NAN).is_none() && Burn::per_message(f64::INFINITY).is_none());
    }

    #[test]
    fn the_processor_has_a_speed() {
        let treadmill = Treadmill::new(Burn::per_message(1000.0).expect("more than nothing"));
        assert!(treadmill.steps_per_message > 1.0, "{treadmill:?}");
    }
}

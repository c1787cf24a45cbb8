//! Injected CPU cost, which makes the server slower by a known amount, to verify that a comparison
//! finds it.

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

/// CPU time to burn for each message, in nanoseconds, above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InjectedCost(f64);

impl InjectedCost {
    /// Creates a cost of `ns` nanoseconds per message. `None` unless it is finite and above zero.
    #[must_use]
    pub fn per_message(ns: f64) -> Option<Self> {
        (ns > 0.0 && ns.is_finite()).then_some(Self(ns))
    }
}

impl fmt::Display for InjectedCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ns", self.0)
    }
}

/// Burner of CPU time by counted steps, because a reading of the clock costs about as much as one
/// message burns.
#[derive(Debug)]
pub(crate) struct CpuBurner {
    steps_per_message: f64,
    /// Fraction of a step that is left over.
    carried: f64,
}

impl CpuBurner {
    const TRIALS: u32 = 20;
    const STEPS_OF_A_TRIAL: u64 = 100_000;

    /// Creates a burner, and measures the processor's speed for some milliseconds.
    pub(crate) fn new(burn: InjectedCost) -> Self {
        // Interruptions make a trial slower, never faster.
        let trials = (0..Self::TRIALS).map(|_| {
            let began = Instant::now();
            step(Self::STEPS_OF_A_TRIAL);
            began.elapsed().as_nanos() as f64
        });
        let ns = trials.fold(f64::INFINITY, f64::min);
        Self::of(burn, ns / Self::STEPS_OF_A_TRIAL as f64)
    }

    fn of(burn: InjectedCost, ns_per_step: f64) -> Self {
        Self { steps_per_message: burn.0 / ns_per_step, carried: 0.0 }
    }

    /// Burns the cost of `messages` messages. A fraction of a step is carried over.
    pub(crate) fn burn(&mut self, messages: u64) {
        let steps = self.steps(messages);
        step(steps);
    }

    fn steps(&mut self, messages: u64) -> u64 {
        self.carried += self.steps_per_message * messages as f64;
        let steps = self.carried.floor();
        self.carried -= steps;
        steps as u64
    }
}

/// Executes steps. Each needs the result of the one before, so that no processor overlaps two.
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
        let burn = InjectedCost::per_message(2.5).expect("more than nothing");
        let mut burner = CpuBurner::of(burn, 2.0);
        let steps: Vec<u64> = (0..8).map(|_| burner.steps(1)).collect();
        assert_eq!(steps, [1, 1, 1, 2, 1, 1, 1, 2]);
        assert_eq!(burner.steps(1000), 1250);
    }

    #[test]
    fn nothing_is_not_burnt() {
        assert!(
            InjectedCost::per_message(0.0).is_none() && InjectedCost::per_message(-1.0).is_none()
        );
        assert!(
            InjectedCost::per_message(f64::NAN).is_none()
                && InjectedCost::per_message(f64::INFINITY).is_none()
        );
    }

    #[test]
    fn the_processor_has_a_speed() {
        let burner = CpuBurner::new(InjectedCost::per_message(1000.0).expect("more than nothing"));
        assert!(burner.steps_per_message > 1.0, "{burner:?}");
    }
}

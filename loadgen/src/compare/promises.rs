//! The figures that the engines are held to.

use super::metric::Metric;
use super::rounds::ratio;
use super::sides::is_sound;
use super::statistics::Estimate;
use crate::result::Document;

/// A figure that the project promises: in `scenario`, `arm` takes at most `at_most` of what `against` takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Promise {
    pub(crate) scenario: &'static str,
    pub(crate) metric: Metric,
    pub(crate) arm: &'static str,
    pub(crate) against: &'static str,
    /// The limit of the ratio.
    pub(crate) at_most: f64,
}

/// Whether a promise is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PromiseOutcome {
    /// The whole interval lies within it.
    Kept,
    /// The whole interval lies beyond it.
    Missed,
    /// The interval is too wide: more rounds.
    Open,
}

impl Promise {
    /// Returns the measured ratio; `None` where the session has none.
    pub(crate) fn measured(&self, document: &Document) -> Option<Estimate> {
        let scenario = document.scenarios.iter().find(|scenario| scenario.name == self.scenario)?;
        ratio(document, scenario, self.metric, [self.arm, self.against], is_sound)
    }

    /// Judges the measured ratio.
    pub(crate) fn outcome(&self, estimate: &Estimate) -> PromiseOutcome {
        match estimate.interval {
            Some((_, high)) if high <= self.at_most => PromiseOutcome::Kept,
            Some((low, _)) if low > self.at_most => PromiseOutcome::Missed,
            _ => PromiseOutcome::Open,
        }
    }
}

impl PromiseOutcome {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Missed => "MISSED",
            Self::Open => "open",
        }
    }
}

const fn cpu(scenario: &'static str, against: &'static str, at_most: f64) -> Promise {
    Promise { scenario, metric: Metric::ServerCpu, arm: "uring", against, at_most }
}

const fn p50(scenario: &'static str, at_most: f64) -> Promise {
    Promise { scenario, metric: Metric::P50, arm: "uring-spin", against: "epoll", at_most }
}

/// io_uring in server CPU: ahead where many connections share a turn, never far behind elsewhere. With spinning, in latency:
/// ahead where a single message is what counts.
pub(crate) const PROMISES: &[Promise] = &[
    cpu("echo", "epoll", 0.94),
    cpu("echo", "tokio-uring", 0.94),
    cpu("echo-512x1", "epoll", 0.90),
    cpu("echo-512x1", "tokio-uring", 0.90),
    cpu("pipeline", "epoll", 1.03),
    cpu("pipeline", "tokio-uring", 1.03),
    cpu("text", "epoll", 1.03),
    cpu("text", "tokio-uring", 1.03),
    cpu("large", "epoll", 1.03),
    cpu("large", "tokio-uring", 1.03),
    cpu("tcp", "epoll", 1.03),
    cpu("tcp", "tokio-uring", 1.03),
    cpu("tcp-pipeline", "epoll", 1.03),
    cpu("tcp-pipeline", "tokio-uring", 1.03),
    cpu("text-4000x1", "epoll", 1.03),
    cpu("text-4000x1", "tokio-uring", 1.03),
    cpu("echo-1x1", "epoll", 1.15),
    cpu("echo-1x1", "tokio-uring", 1.15),
    p50("echo-1x1", 0.45),
    p50("rate-1x1", 0.50),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{Arm, Spec};

    #[test]
    fn every_promise_is_about_a_cell_that_is_measured() {
        let (arms, specs) = (Arm::engines(), Spec::side_by_side());
        for promise in PROMISES {
            let spec = specs.iter().find(|spec| spec.name == promise.scenario).expect("a scenario");
            for name in [promise.arm, promise.against] {
                let arm = arms.iter().find(|arm| arm.name == name).expect("an arm");
                assert!(arm.takes(spec), "{promise:?}");
            }
        }
    }

    #[test]
    fn a_promise_is_kept_missed_or_open() {
        let outcome = |rounds: u32, at_most| {
            let metric = Metric::ServerCpu;
            let promise = Promise { scenario: "echo", metric, arm: "quick", against: "slow", at_most };
            let document = crate::compare::example::rounds(1.25, rounds);
            promise.outcome(&promise.measured(&document).expect("measured"))
        };
        assert_eq!([0.81, 0.75].map(|at_most| outcome(10, at_most).name()), ["kept", "MISSED"]);
        // The interval lies on both sides of the limit, or there is none.
        assert_eq!([(10, 0.797), (3, 0.81)].map(|(n, at_most)| outcome(n, at_most).name()), ["open"; 2]);
    }
}

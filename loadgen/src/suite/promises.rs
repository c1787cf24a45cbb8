//! The figures that the engines are held to.

use super::side_by_side::Promise;
use crate::compare::Metric;

const fn cpu(scenario: &'static str, against: &'static str, at_most: f64) -> Promise {
    Promise { scenario, metric: Metric::ServerCpu, arm: "uring", against, at_most }
}

const fn p50(scenario: &'static str, at_most: f64) -> Promise {
    Promise { scenario, metric: Metric::P50, arm: "uring-spin", against: "epoll", at_most }
}

/// io_uring in server CPU: ahead where many connections share a turn, never far behind elsewhere. With spinning, in latency:
/// ahead where a single message is what counts.
pub const PROMISES: &[Promise] = &[
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
}

//! The fixed rate at which latencies are compared.

use std::time::Duration;

use super::session::run_duration;
use crate::run::Plan;

/// Of the baseline's capacity: busy enough for queues to show, and far enough from the edge that neither a few percent less
/// capacity nor a moment of standstill make an overload.
///
/// After a standstill everything that was due comes late until the backlog is gone: the higher the rate, the longer. On a
/// busy machine 4 of 22 runs were valid at 0.7 of the capacity (the lag of the others was more than half of their latency, or the rate
/// was not kept), 11 of 22 at 0.5; the median latency was the same, 24 us.
pub const SHARE_OF_CAPACITY: f64 = 0.5;

/// What the capacity is measured with: the load itself, but shorter.
pub(super) fn plan(load: &Plan) -> Plan {
    let longest = Duration::from_secs(3);
    load.clone().with(|plan| {
        plan.load.measure = load.load.measure.min(longest);
        plan.load.warmup = load.load.warmup.min(Duration::from_secs(1));
    })
}

pub(super) fn duration(load: &Plan) -> Duration {
    run_duration(&plan(load))
}

/// The rate for a capacity, rounded down to two digits: a short run does not know more, and a round number is the same again
/// next time.
pub(super) fn rate(capacity: f64) -> Option<f64> {
    let rate = capacity * SHARE_OF_CAPACITY;
    if rate < 1.0 || !rate.is_finite() {
        return None;
    }
    let step = 10f64.powf(rate.log10().floor() - 1.0).max(1.0);
    Some((rate / step).floor() * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_a_round_share_of_the_capacity() {
        assert_eq!(rate(275_084.0), Some(130_000.0));
        assert_eq!(rate(4_196_234.0), Some(2_000_000.0));
        assert_eq!(rate(100.0), Some(50.0));
        assert_eq!(rate(9.0), Some(4.0));
        assert_eq!((rate(0.0), rate(f64::NAN)), (None, None));
    }

    #[test]
    fn the_calibration_run_is_short() {
        let load = Plan::new("ws://h/".parse().expect("url"), engine::EngineKind::Epoll);
        assert_eq!(plan(&load).load.measure, Duration::from_secs(3));
        let short = load.with(|plan| plan.load.measure = Duration::from_millis(200));
        assert_eq!(plan(&short).load.measure, Duration::from_millis(200));
    }
}

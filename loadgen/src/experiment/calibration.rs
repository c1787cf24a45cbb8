//! The fixed rate at which latencies are compared.

use std::time::Duration;

use crate::run::Plan;

/// Usual share of the capacity: busy enough for queues to show, and far enough from the edge that
/// neither a few percent less capacity nor a moment of standstill make an overload.
///
/// After a standstill everything that was due comes late until the backlog is gone: the higher the
/// rate, the longer. On a busy machine 4 of 22 runs were valid at 0.7 of the capacity (the lag of
/// the others was more than half of their latency, or the rate was not kept), 11 of 22 at 0.5; the
/// median latency was the same, 24 us.
pub(crate) const SHARE_OF_CAPACITY: f64 = 0.5;

/// Returns the plan that measures the capacity: the load as a closed loop, but shorter.
pub(super) fn plan(fixed: &Plan) -> Plan {
    fixed.clone().with(|plan| {
        plan.load.rate_per_s = None;
        plan.load.measure = plan.load.measure.min(Duration::from_secs(3));
        plan.load.warmup = plan.load.warmup.min(Duration::from_secs(1));
    })
}

/// Returns the rate for a share of a capacity, rounded down to two digits: a short run does not
/// know more, and a round number is the same again next time. `None` below one message a second.
pub(super) fn rate(capacity: f64, share: f64) -> Option<f64> {
    let rate = capacity * share;
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
        assert_eq!(rate(275_084.0, SHARE_OF_CAPACITY), Some(130_000.0));
        assert_eq!(rate(4_196_234.0, 0.5), Some(2_000_000.0));
        assert_eq!(rate(100.0, 0.5), Some(50.0));
        assert_eq!(rate(9.0, 0.5), Some(4.0));
        assert_eq!((rate(0.0, 0.5), rate(f64::NAN, 0.5)), (None, None));
    }

    #[test]
    fn the_calibration_run_is_short() {
        let load = Plan::new("ws://h/".parse().expect("url"), engine::EngineKind::Epoll);
        assert_eq!(plan(&load).load.measure, Duration::from_secs(3));
        let short = load.with(|plan| plan.load.measure = Duration::from_millis(200));
        assert_eq!(plan(&short).load.measure, Duration::from_millis(200));
    }
}

//! Runs before the first round: what a server must echo right, and its capacity.

use std::time::Duration;

use crate::load::{Load, Payload};
use crate::run::Plan;

/// Sizes around every change of the frame header, and one that no read holds.
const SIZES: [usize; 6] = [3, 125, 126, 65_535, 65_536, 1 << 20];
/// Every server here takes messages of this size.
const LARGEST: usize = 16 << 20;
const TIMES: u64 = 4;
/// A trial ends with its last echo; this is for a server that does not echo.
const AT_MOST: Duration = Duration::from_secs(10);

/// Usual share of the capacity. It is high enough for queues to appear. It is low enough that
/// neither a few percent less capacity nor a short standstill causes an overload.
///
/// After a standstill messages are late until the backlog is gone, and longer at a higher rate. On
/// a busy machine 11 of 22 runs were valid at 0.5 of the capacity, and 4 of 22 at 0.7. In the other
/// runs at 0.7 lag was more than half of the latency, or the rate was not kept. The median latency
/// was the same, 24 us.
pub(crate) const SHARE_OF_CAPACITY: f64 = 0.5;

/// Returns the trials of a server, named by what they try. `plan` is its plan for any scenario.
pub(super) fn trials(plan: &Plan) -> [Plan; 3] {
    let trial = |what: &str, plan: Plan| plan.with(|plan| plan.scenario = what.to_owned());
    let several = plan.clone().with(|plan| {
        plan.load.connections = 4;
        plan.load.idle = 0;
        plan.load.pipeline = 2;
        (plan.load.rate_per_s, plan.load.stages) = (None, None);
        plan.placement.wait = None;
        plan.load.message_bytes = SIZES.into();
        plan.load.messages = Some(TIMES * SIZES.len() as u64);
        plan.load.settle = Duration::ZERO;
        plan.load.warmup = Duration::ZERO;
        plan.load.measure = AT_MOST;
    });
    let fragmented = several.clone().with(|plan| {
        set_kind(&mut plan.load, Payload::TextMixed);
        plan.load.fragments = 3;
    });
    let largest = several.clone().with(|plan| {
        plan.load.connections = 1;
        plan.load.pipeline = 1;
        plan.load.message_bytes = LARGEST.into();
        plan.load.messages = Some(1);
    });
    [
        trial(
            "binary, up to 1 MiB",
            several.with(|plan| set_kind(&mut plan.load, Payload::Binary)),
        ),
        trial("text in fragments, up to 1 MiB", fragmented),
        trial("16 MiB", largest.with(|plan| set_kind(&mut plan.load, Payload::Binary))),
    ]
}

/// Sets the kind of generated messages. The user's own are what they are.
fn set_kind(load: &mut Load, payload: Payload) {
    if !load.has_own_messages() {
        load.payload = payload;
    }
}

/// Returns the plan that measures the capacity: the load as a closed loop, but shorter.
pub(super) fn calibration(fixed: &Plan) -> Plan {
    fixed.clone().with(|plan| {
        (plan.load.rate_per_s, plan.load.stages) = (None, None);
        plan.load.measure = plan.load.measure.min(Duration::from_secs(3));
        plan.load.warmup = plan.load.warmup.min(Duration::from_secs(1));
    })
}

/// Returns the rate for a share of a capacity, rounded down to two digits. A short run measures no
/// more digits, and a rounded rate is more likely to be the same the next time. `None` below one
/// message a second.
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
        assert_eq!(calibration(&load).load.measure, Duration::from_secs(3));
        let short = load.with(|plan| plan.load.measure = Duration::from_millis(200));
        assert_eq!(calibration(&short).load.measure, Duration::from_millis(200));
    }
}

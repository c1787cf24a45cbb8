//! What a server must echo right before it is measured: its figures would be those of something
//! else.

use std::time::Duration;

use crate::load::Payload;
use crate::run::Plan;

/// Sizes around every change of the frame header, and one that no read holds.
const SIZES: [usize; 6] = [3, 125, 126, 65_535, 65_536, 1 << 20];
/// Every server here takes messages of this size.
const LARGEST: usize = 16 << 20;
/// How often each comes.
const TIMES: u64 = 4;
/// A trial ends with its last echo; this is for a server that does not echo.
const AT_MOST: Duration = Duration::from_secs(10);

/// A trial and the word for what it tries.
pub(super) struct Trial {
    pub(super) what: &'static str,
    pub(super) plan: Plan,
}

/// The trials of a server, whose plan for any scenario is `plan`.
pub(super) fn trials(plan: &Plan) -> [Trial; 3] {
    let trial = |what, plan: Plan| Trial { what, plan: plan.with(|plan| plan.scenario = what.to_owned()) };
    let several = plan.clone().with(|plan| {
        plan.load.connections = 4;
        plan.load.idle = 0;
        plan.load.pipeline = 2;
        plan.load.rate_per_s = None;
        plan.placement.wait = None;
        plan.load.message_bytes = SIZES.into();
        plan.load.messages = Some(TIMES * SIZES.len() as u64);
        plan.load.settle = Duration::ZERO;
        plan.load.warmup = Duration::ZERO;
        plan.load.measure = AT_MOST;
    });
    let fragmented = several.clone().with(|plan| {
        plan.load.payload = Payload::TextMixed;
        plan.load.fragments = 3;
    });
    let largest = several.clone().with(|plan| {
        plan.load.connections = 1;
        plan.load.pipeline = 1;
        plan.load.message_bytes = LARGEST.into();
        plan.load.messages = Some(1);
    });
    [
        trial("binary, up to 1 MiB", several.with(|plan| plan.load.payload = Payload::Binary)),
        trial("text in fragments, up to 1 MiB", fragmented),
        trial("16 MiB", largest.with(|plan| plan.load.payload = Payload::Binary)),
    ]
}

//! What a server must echo right before it is measured: its figures would be those of something else.

use std::time::Duration;

use super::scenarios::Spec;
use crate::result::Payload;
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
    let trial = |what, plan: Plan| Trial { what, plan: Plan { scenario: what.to_owned(), ..plan } };
    let several = Plan {
        connections: 4,
        idle: 0,
        pipeline: 2,
        rate_per_s: None,
        wait: None,
        message_sizes: SIZES.map(|size| (size, 1)).to_vec(),
        messages: Some(TIMES * SIZES.len() as u64),
        settle: Duration::ZERO,
        warmup: Duration::ZERO,
        measure: AT_MOST,
        ..plan.clone()
    };
    let fragmented = Plan { payload: Payload::TextMixed, fragments: 3, ..several.clone() };
    let largest = Plan {
        connections: 1,
        pipeline: 1,
        message_sizes: Vec::new(),
        message_bytes: LARGEST,
        messages: Some(1),
        ..several.clone()
    };
    [
        trial("binary, up to 1 MiB", Plan { payload: Payload::Binary, ..several }),
        trial("text in fragments, up to 1 MiB", fragmented),
        trial("16 MiB", Plan { payload: Payload::Binary, ..largest }),
    ]
}

/// The scenario whose plans trials are made from: which one does not matter.
pub(super) fn any_spec() -> Spec {
    Spec::peers()[0]
}

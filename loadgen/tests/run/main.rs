//! Runs against correct and faulty servers: counts, and ends.

#![allow(unreachable_pub, reason = "modules of a test")]

mod checker;
mod ci;
mod command;
mod compression;
mod conservation;
mod control_frames;
mod duel;
mod echo;
mod endings;
mod faults;
mod foreign;
mod open_loop;
mod openings;
mod shapes;
mod spawn;
mod stages;
mod tls;
mod via;

use std::time::Duration;

use engine::EngineKind;
use loadgen::result::{InvalidKind, Messages, Run};
use loadgen::run::{Plan, RunError, Silent, execute};

/// Returns the engines that work here; prints the others.
fn engines() -> Vec<EngineKind> {
    let works = |kind: &EngineKind| match kind.probe() {
        Ok(()) => true,
        Err(reason) => {
            println!("skipped: {kind}: {reason}");
            false
        }
    };
    EngineKind::ALL.into_iter().filter(works).collect()
}

/// Returns the plan of a short run: four connections, a quarter of a second.
fn plan(url: &str, engine: EngineKind) -> Plan {
    Plan::new(url.parse().expect("url"), engine).with(|plan| {
        plan.load.connections = 4;
        plan.load.settle = Duration::ZERO;
        plan.load.warmup = Duration::from_millis(10);
        plan.load.measure = Duration::from_millis(250);
        plan.load.connect_timeout = Duration::from_secs(20);
        plan.load.answer_timeout = Duration::from_secs(20);
    })
}

/// Ends the run after `messages`, however slow the machine, in place of after a time.
fn counted(plan: &mut Plan, messages: u64) {
    plan.load.messages = Some(messages);
    (plan.load.warmup, plan.load.measure) = (Duration::ZERO, Duration::from_secs(3600));
}

fn run(plan: &Plan) -> Run {
    execute(plan, &mut Silent).unwrap_or_else(|error| panic!("{}: {error}", plan.placement.engine))
}

fn failure(plan: &Plan) -> RunError {
    execute(plan, &mut Silent).expect_err("the run cannot succeed")
}

/// Checks every property of a closed loop that was not cut short.
fn assert_consistent(run: &Run) {
    let latencies = &run.latency_ns;
    assert_balanced(run);
    // This includes the messages that were outstanding at the end of the window.
    assert!(latencies.corrected.count >= run.received);
    assert!(latencies.uncorrected.is_none() && latencies.lag.count == 0);
    let stored = latencies.corrected.histogram().expect("readable");
    assert_eq!(stored.map_or(0, |histogram| histogram.len()), latencies.corrected.count);
    assert_eq!(run.offered(), run.sent);
    assert!(run.phases.measure > 0);
}

/// Checks the conservation of messages, which holds for every run.
fn assert_balanced(run: &Run) {
    let messages = run.messages.expect("counted");
    let Messages { planned, not_sent, sent, echoed, wrong, lost, outstanding } = messages;
    assert_eq!(planned, sent + not_sent, "{messages:?}");
    assert_eq!(sent, echoed + wrong + lost + outstanding, "{messages:?}");
    assert_eq!(lost, run.integrity.lost);
    assert!(run.integrity.lost_with_connection <= lost);
    assert!(!run.invalid_kinds.contains(&InvalidKind::Imbalance), "{:?}", run.invalid_reasons);
    let sums = run
        .series
        .iter()
        .fold((0, 0), |sum, second| (sum.0 + second.sent, sum.1 + second.received));
    assert_eq!(sums, (run.sent, run.received), "the series adds up to the totals");
    if let Some(censored) = run.censored {
        assert!(censored.count <= outstanding && (0.0..=100.0).contains(&censored.exact_up_to));
    }
}

/// Returns the reasons that do not come from a debug build or a shared machine.
fn reasons(run: &Run) -> Vec<&str> {
    let is_ours = |kind: InvalidKind| {
        kind.is_of_the_build() || matches!(kind, InvalidKind::Standstill | InvalidKind::CutTail)
    };
    run.invalid().filter(|(kind, _)| !is_ours(*kind)).map(|(_, reason)| reason).collect()
}

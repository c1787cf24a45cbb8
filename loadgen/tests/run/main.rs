//! Runs against servers, right and wrong ones: what is counted, and how it ends when it goes wrong.

#![allow(unreachable_pub, reason = "modules of a test")]

mod checker;
mod command;
mod duel;
mod echo;
mod endings;
mod open_loop;
mod shapes;
mod spawn;
mod tls;

use std::time::Duration;

use engine::EngineKind;
use loadgen::result::Run;
use loadgen::run::{Plan, RunError, Silent, execute};

/// The engines that work here; says which do not.
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

/// A short run: four connections, a quarter of a second.
fn plan(url: &str, engine: EngineKind) -> Plan {
    Plan {
        connections: 4,
        settle: Duration::ZERO,
        warmup: Duration::from_millis(10),
        measure: Duration::from_millis(250),
        connect_timeout: Duration::from_secs(20),
        answer_timeout: Duration::from_secs(20),
        ..Plan::new(url.parse().expect("url"), engine)
    }
}

/// Ends after `messages`, however slow the machine, in place of after a time.
fn counted(plan: &mut Plan, messages: u64) {
    plan.messages = Some(messages);
    (plan.warmup, plan.measure) = (Duration::ZERO, Duration::from_secs(3600));
}

fn run(plan: &Plan) -> Run {
    execute(plan, &mut Silent).unwrap_or_else(|error| panic!("{}: {error}", plan.engine))
}

fn failure(plan: &Plan) -> RunError {
    execute(plan, &mut Silent).expect_err("the run cannot succeed")
}

/// Everything that must hold of any run.
fn assert_consistent(run: &Run) {
    let latencies = &run.latency_ns;
    assert_eq!(latencies.corrected.count, run.received);
    assert_eq!(latencies.uncorrected.count, run.received);
    let stored = latencies.corrected.histogram().expect("readable");
    assert_eq!(stored.map_or(0, |histogram| histogram.len()), run.received);
    assert_eq!(run.offered, run.sent);
    assert!(run.phases.measure > 0);
}

/// Reasons other than that tests run in debug builds.
fn reasons(run: &Run) -> Vec<&str> {
    run.invalid_reasons.iter().map(String::as_str).filter(|reason| !reason.contains("debug build")).collect()
}

//! The open loop: every planned message is sent and accounted for, however late, and latency begins
//! at the planned time.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::EngineKind;
use loadgen::load::Arrival;
use loadgen::result::{Errors, Integrity, Run};
use loadgen::run::{Phase, Plan, Progress, Snapshot, Wait, execute};

use super::echo::{Echo, Fault};
use super::{assert_balanced, engines, plan, run};

/// Returns a plan of 2,000 messages per second for a quarter of a second, after a warm-up of a
/// tenth.
fn open(url: &str, engine: EngineKind) -> Plan {
    plan(url, engine).with(|plan| {
        plan.load.rate_per_s = Some(2000.0);
        plan.load.warmup = Duration::from_millis(100);
    })
}

/// Checks every property of an open loop that came to its end.
fn assert_accounted(run: &Run) {
    assert_balanced(run);
    let latencies = &run.latency_ns;
    for latency in [&latencies.corrected, latencies.uncorrected(), &latencies.lag] {
        // If the machine stands still at the end of the window, some messages are unsent.
        let not_sent = run.messages.map_or(0, |messages| messages.not_sent);
        let all = run.offered().saturating_sub(not_sent)..=run.offered();
        assert!(
            all.contains(&latency.count),
            "{} of {}: every sent message has its sample",
            latency.count,
            run.offered()
        );
        let stored = latency.histogram().expect("readable").expect("stored");
        assert_eq!(stored.len(), latency.count);
    }
    assert!(latencies.corrected.max >= latencies.uncorrected().max);
    assert!(latencies.corrected.max >= latencies.lag.max);
    assert_eq!((run.integrity, run.errors), (Integrity::default(), Errors::default()));
}

#[test]
fn every_planned_message_is_sent_and_has_its_latency() {
    let burst = Arrival::Burst(NonZeroU32::new(50).expect("not zero"));
    for engine in engines() {
        for (arrival, threads) in [(Arrival::Constant, 1), (Arrival::Constant, 3), (burst, 2)] {
            let server = Echo::ws(Fault::None);
            let run = run(&open(&server.ws_url(), engine).with(|plan| {
                plan.load.arrival = arrival;
                plan.placement.threads = threads;
            }));
            assert_accounted(&run);
            assert_eq!(run.offered(), 500, "{arrival} with {threads} threads on {engine}");
            // This includes the messages of the warm-up.
            let messages = run.messages.expect("counted");
            assert_eq!(messages.planned, 700);
            assert_eq!(server.seen.messages.load(Ordering::Relaxed), messages.sent);
        }
    }
}

#[test]
fn poisson_arrivals_are_accounted_for_too() {
    let server = Echo::ws(Fault::None);
    let plan =
        open(&server.ws_url(), EngineKind::Epoll).with(|plan| plan.load.arrival = Arrival::Poisson);
    let run = run(&plan);
    assert_accounted(&run);
    // The mean is 500, with a standard deviation of 22.
    assert!((380..620).contains(&run.offered()), "{}", run.offered());
}

#[test]
fn raw_bytes_have_an_open_loop_too() {
    for engine in engines() {
        let server = Echo::tcp(38, Fault::None);
        let run =
            run(&open(&server.tcp_url(), engine).with(|plan| plan.load.message_bytes = 38.into()));
        assert_accounted(&run);
        assert_eq!(run.offered(), 500);
    }
}

#[test]
fn both_ways_of_waiting_work_and_are_recorded() {
    for engine in engines() {
        for wait in [Wait::Sleep, Wait::Spin] {
            let server = Echo::ws(Fault::None);
            let run =
                run(&open(&server.ws_url(), engine).with(|plan| plan.placement.wait = Some(wait)));
            assert_accounted(&run);
            assert_eq!(run.client.wait, wait.name());
        }
    }
}

/// The server stops for 300 ms. The message at which it stopped waits as long; messages that are
/// planned meanwhile wait for the rest of it.
#[test]
fn a_stall_delays_every_message_planned_in_it() {
    for engine in engines() {
        let server = Echo::ws(Fault::Stall);
        let run = run(&open(&server.ws_url(), engine).with(|plan| plan.load.connections = 1));
        assert_accounted(&run);
        let corrected = run.latency_ns.corrected.histogram().expect("readable").expect("stored");
        // However slow the machine: messages that are planned at most 200 ms after the stall began
        // wait at least 100 ms.
        let waited = corrected.len() - corrected.count_between(0, 99_000_000);
        assert!(run.latency_ns.corrected.max >= 298_000_000, "{}", run.latency_ns.corrected.max);
        assert!(waited >= 300, "{waited} of {}", corrected.len());
    }
}

/// The server takes 10 ms for each message, and one may be outstanding: from the second on all wait
/// for their turn.
#[test]
fn waiting_for_a_full_connection_counts_as_lag() {
    for engine in engines() {
        let server = Echo::ws(Fault::Slow);
        let plan = open(&server.ws_url(), engine).with(|plan| {
            plan.load.connections = 1;
            plan.load.max_outstanding = 1;
        });
        let never_sent = run(&plan);
        assert_balanced(&never_sent);
        assert!(never_sent.offered() == 500 && never_sent.latency_ns.corrected.count < 500);
        let run = run(&plan.with(|plan| plan.load.warmup = Duration::ZERO));
        assert_balanced(&run);
        assert!(run.invalid_reasons.iter().any(|reason| reason.contains("--max-outstanding")));
        assert_eq!(run.offered(), 500, "what was never sent is offered all the same");
        assert_eq!(run.messages.map(|messages| messages.planned), Some(500));
        assert!(run.latency_ns.corrected.count < 100 && run.sent < 100);
        assert!(run.latency_ns.lag.max > 30_000_000, "{}", run.latency_ns.lag.max);
        assert_eq!(run.integrity, Integrity::default());
    }
}

/// The plan is so far behind that the run ends before any message that was planned for the window
/// is sent.
#[test]
fn an_impossible_plan_is_offered_all_the_same() {
    let server = Echo::ws(Fault::None);
    let plan = open(&server.ws_url(), EngineKind::Epoll).with(|plan| {
        plan.load.rate_per_s = Some(1e9);
        plan.load.connections = 1;
        plan.load.max_outstanding = 1 << 20;
        plan.load.warmup = Duration::from_millis(300);
        plan.load.measure = Duration::from_millis(200);
        plan.load.answer_timeout = Duration::from_secs(10);
    });
    let run = run(&plan);
    assert_balanced(&run);
    assert_eq!(run.offered(), 200_000_000);
    assert_eq!(run.messages.map(|messages| messages.planned), Some(500_000_000));
    assert!(!run.valid);
    assert_eq!(run.integrity, Integrity::default(), "what the server may still answer is not lost");
}

/// Interrupts when some messages are back.
struct Impatient(bool);

impl Progress for Impatient {
    fn tick(&mut self, at: &Snapshot) {
        self.0 |= at.phase == Phase::Measure && at.received > 300;
    }

    fn interrupted(&mut self) -> bool {
        self.0
    }
}

#[test]
fn an_interruption_ends_the_plan() {
    let server = Echo::ws(Fault::None);
    let plan = open(&server.ws_url(), EngineKind::Epoll)
        .with(|plan| plan.load.measure = Duration::from_secs(3600));
    let run = execute(&plan, &mut Impatient(false)).expect("a result");
    assert_accounted(&run);
    assert!(run.interrupted && run.offered() > 0);
}

//! Every fault is counted exactly, and valid echoes are never counted as faults, however they
//! arrive.

use std::sync::atomic::Ordering;

use engine::EngineKind;
use loadgen::load::Payload;
use loadgen::result::{Errors, Integrity, Run};
use loadgen::run::Plan;

use super::echo::{Echo, Fault};
use super::{assert_consistent, counted, engines, plan, reasons, run};

/// Runs a plan against a server with `fault`, on every engine, and checks each run.
fn on_every_engine(fault: Fault, change: impl Fn(&mut Plan), check: impl Fn(&Run)) {
    for engine in engines() {
        let server = Echo::ws(fault);
        let mut plan = plan(&server.ws_url(), engine);
        plan.load.pipeline = 4;
        change(&mut plan);
        let run = run(&plan);
        assert_consistent(&run);
        check(&run);
    }
}

fn assert_integrity(fault: Fault, expected: Integrity) {
    on_every_engine(
        fault,
        |plan| plan.load.answer_timeout = std::time::Duration::from_secs(3),
        |run| {
            assert_eq!(run.integrity, expected, "{fault:?} on {}", run.client.engine);
            assert_eq!(run.errors, Errors::default());
            assert!(run.received > 0);
            let reason = match (expected.lost, expected.faults()) {
                (0, wrong) => format!("{wrong} echoes were not what was sent"),
                (lost, _) => {
                    format!("{lost} messages never came back on connections that stayed open")
                }
            };
            assert_eq!(reasons(run), [reason]);
        },
    );
}

#[test]
fn valid_echoes_of_any_size_are_accepted() {
    for payload in [Payload::Binary, Payload::TextAscii, Payload::TextMixed] {
        for len in [0, 1, 15, 16, 125, 126, 1024, 65_536] {
            let server = Echo::ws(Fault::None);
            let mut plan = plan(&server.ws_url(), EngineKind::Epoll);
            (plan.load.payload, plan.load.message_bytes) = (payload, len.into());
            counted(&mut plan, 40);
            let run = run(&plan);
            assert_consistent(&run);
            assert_eq!(
                (run.integrity, run.errors),
                (Integrity::default(), Errors::default()),
                "{payload:?} {len}"
            );
            assert!(
                run.received > 0 && reasons(&run).is_empty(),
                "{payload:?} {len}: {:?}",
                reasons(&run)
            );
        }
    }
}

#[test]
fn large_messages_and_several_threads_on_every_engine() {
    let change = |plan: &mut Plan| {
        (plan.load.payload, plan.load.message_bytes) = (Payload::TextMixed, 300_000.into());
        (plan.placement.threads, plan.load.pipeline) = (2, 2);
        counted(plan, 40);
    };
    on_every_engine(Fault::None, change, |run| {
        assert_eq!((run.integrity, run.errors), (Integrity::default(), Errors::default()));
        assert_eq!((run.client.cpu_utilisation.len(), run.latency_ns.connect.count), (2, 4));
        assert!(run.received > 0 && reasons(run).is_empty());
    });
}

#[test]
fn fragments_and_single_bytes_are_accepted() {
    for engine in engines() {
        for fault in [Fault::Fragments, Fault::Trickle] {
            let server = Echo::ws(fault);
            let run = run(&plan(&server.ws_url(), engine));
            assert_consistent(&run);
            assert_eq!(
                (run.integrity, run.errors),
                (Integrity::default(), Errors::default()),
                "{fault:?}"
            );
            let pongs = server.seen.pongs.load(Ordering::Relaxed);
            // The last pongs may still be on their way.
            assert_eq!(pongs > 0, fault == Fault::Fragments);
        }
    }
}

#[test]
fn corruption_is_counted_once_wherever_it_is() {
    for at in [0, 8, 31] {
        assert_integrity(Fault::Corrupt(at), Integrity { corrupted: 4, ..Integrity::default() });
    }
    assert_integrity(Fault::Shorten, Integrity { corrupted: 4, ..Integrity::default() });
}

#[test]
fn reordering_is_counted_once() {
    assert_integrity(Fault::Reorder, Integrity { reordered: 4, ..Integrity::default() });
}

#[test]
fn duplicates_are_counted_once() {
    assert_integrity(Fault::Duplicate, Integrity { duplicated: 4, ..Integrity::default() });
}

#[test]
fn dropped_messages_are_lost() {
    assert_integrity(Fault::Drop, Integrity { lost: 4, ..Integrity::default() });
}

#[test]
fn a_wrong_opcode_is_counted_once() {
    assert_integrity(Fault::WrongOpcode, Integrity { wrong_opcode: 4, ..Integrity::default() });
}

#[test]
fn raw_echoes_are_checked_too() {
    for engine in engines() {
        for len in [1, 15, 38, 100_000] {
            let server = Echo::tcp(len, Fault::None);
            let mut plan = plan(&server.tcp_url(), engine);
            (plan.load.message_bytes, plan.load.pipeline) = (len.into(), 3);
            counted(&mut plan, 400);
            let right = run(&plan);
            assert_consistent(&right);
            assert_eq!(
                (right.integrity, right.errors),
                (Integrity::default(), Errors::default()),
                "{len} bytes"
            );
            assert!(right.received > 0);

            plan.target.url =
                Echo::tcp(len, Fault::Corrupt(len / 2)).tcp_url().parse().expect("url");
            let wrong = run(&plan);
            assert_eq!(
                wrong.integrity,
                Integrity { corrupted: 4, ..Integrity::default() },
                "{len} bytes"
            );
        }
    }
}

//! Shapes of messages, and connections that open and close.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::EngineKind;
use loadgen::load::{Arrival, Mask, Payload};
use loadgen::result::{Errors, Integrity, Run};
use loadgen::run::Plan;

use super::echo::{Echo, Fault, Seen};
use super::{assert_balanced, counted, engines, plan, reasons, run};

/// Time for repeated events at 50 ms or less; several of them happen even on a busy machine.
const A_WHILE: Duration = Duration::from_secs(1);

/// Runs a plan against a correct server, on every engine; every echo must be as it was sent.
fn on_every_engine(change: impl Fn(&mut Plan), check: impl Fn(&Plan, &Run, &Seen)) {
    for engine in engines() {
        let server = Echo::ws(Fault::None);
        let mut plan = plan(&server.ws_url(), engine);
        counted(&mut plan, 400);
        change(&mut plan);
        let run = run(&plan);
        assert_eq!(
            (run.integrity, run.errors),
            (Integrity::default(), Errors::default()),
            "{engine}"
        );
        assert!(run.received > 0 && reasons(&run).is_empty(), "{engine}: {:?}", reasons(&run));
        check(&plan, &run, &server.seen);
    }
}

fn count(of: &std::sync::atomic::AtomicU64) -> u64 {
    of.load(Ordering::Relaxed)
}

#[test]
fn several_sizes_are_echoed_and_checked() {
    for sizes in ["64:9,4096:1", "0:1,5:1,40:1,100000:1"] {
        let change = |plan: &mut Plan| {
            plan.load.message_bytes = sizes.parse().expect("sizes");
            (plan.load.payload, plan.load.pipeline) = (Payload::TextMixed, 3);
        };
        on_every_engine(change, |plan, _, _| assert!(plan.load.message_bytes.weighted().len() > 1));
    }
    let server = Echo::tcp(7, Fault::None);
    let mut raw = plan(&server.tcp_url(), EngineKind::Epoll);
    // The server echoes seven bytes at a time, so that cuts fall anywhere.
    (raw.load.message_bytes, raw.load.pipeline) = ("7:1,49:1,21:2".parse().expect("sizes"), 2);
    counted(&mut raw, 400);
    let run = run(&raw);
    assert_eq!((run.integrity, run.errors), (Integrity::default(), Errors::default()));
    assert!(run.received > 0);
}

#[test]
fn a_message_in_fragments_is_one_message() {
    let change = |plan: &mut Plan| (plan.load.fragments, plan.load.pipeline) = (3, 2);
    on_every_engine(change, |_, _, seen| {
        assert_eq!(count(&seen.frames), 3 * count(&seen.messages));
    });
}

#[test]
fn masking_keys_are_fresh_or_fixed() {
    let keys = |seen: &Seen| seen.keys.lock().expect("keys").len();
    on_every_engine(|_| {}, |_, _, seen| assert!(keys(seen) > 1));
    on_every_engine(|plan| plan.load.mask = Mask::Fixed, |_, _, seen| assert_eq!(keys(seen), 1));
}

#[test]
fn without_verification_echoes_are_not_checked() {
    for (fault, len) in [(Fault::Corrupt(20), 32), (Fault::Reorder, 32), (Fault::Corrupt(2), 5)] {
        let server = Echo::ws(fault);
        let mut plan = plan(&server.ws_url(), EngineKind::Epoll);
        (plan.load.verify, plan.load.pipeline, plan.load.message_bytes) = (false, 4, len.into());
        let run = run(&plan);
        assert_eq!(run.integrity, Integrity::default(), "{fault:?}");
        assert!(run.received > 0 && !plan.load.verify);
    }
}

#[test]
fn a_number_of_messages_is_sent_and_no_more() {
    let change = |plan: &mut Plan| {
        counted(plan, 1003);
        (plan.placement.threads, plan.load.pipeline) = (3, 2);
    };
    let check = |_: &Plan, run: &Run, seen: &Seen| {
        assert_eq!((run.sent, run.received, count(&seen.messages)), (1003, 1003, 1003));
        assert_eq!(run.latency_ns.corrected.count, 1003);
        assert!(!run.interrupted && run.phases.measure < 600_000_000_000);
    };
    on_every_engine(change, check);
    for engine in engines() {
        let server = Echo::ws(Fault::None);
        let mut open = plan(&server.ws_url(), engine);
        change(&mut open);
        open.load.rate_per_s = Some(5000.0);
        let run = run(&open);
        assert_eq!(
            (run.offered(), run.latency_ns.corrected.count, count(&server.seen.messages)),
            (1003, 1003, 1003)
        );
    }
}

#[test]
fn idle_connections_stay_open_and_all_ping() {
    let change = |plan: &mut Plan| {
        (plan.load.idle, plan.placement.threads) = (5, 2);
        (plan.load.messages, plan.load.measure) = (None, A_WHILE);
        plan.load.ping_interval = Some(Duration::from_millis(20));
    };
    on_every_engine(change, |_, run, seen| {
        assert_eq!((count(&seen.connections), run.latency_ns.connect.count), (9, 9));
        let pings = run.pings.expect("asked for");
        // In a quarter of a second each of them has pinged, however coarse the timers.
        assert!(pings.sent >= 9 && pings.answered > 0 && pings.answered <= pings.sent, "{pings:?}");
        assert_eq!(count(&seen.closes), 9, "idle ones are closed by a Close too");
    });
}

#[test]
fn connections_come_from_the_addresses_in_turn() {
    let sources = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|ip| ip.parse().expect("an address"));
    let change = |plan: &mut Plan| {
        (plan.placement.source_ips, plan.load.connections) = (sources.to_vec(), 6);
    };
    on_every_engine(change, |_, _, seen| {
        let peers = seen.peers.lock().expect("peers");
        assert_eq!(peers.iter().copied().collect::<HashSet<_>>(), HashSet::from(sources));
        assert!(
            sources.iter().all(|source| peers.iter().filter(|peer| *peer == source).count() == 2)
        );
    });
}

#[test]
fn the_opening_handshake_has_the_given_fields() {
    let change = |plan: &mut Plan| {
        plan.target.headers = vec![("X-Trace".to_owned(), "a b".to_owned())];
        plan.target.subprotocols = vec!["chat".to_owned(), "echo".to_owned()];
        plan.target.origin = Some("http://example.org".to_owned());
    };
    on_every_engine(change, |_, _, seen| {
        for head in seen.heads.lock().expect("heads").iter() {
            for part in [
                "X-Trace: a b\r\n",
                "Sec-WebSocket-Protocol: chat, echo\r\n",
                "Origin: http://example.org\r\n",
            ] {
                assert!(head.contains(part), "{part} not in: {head}");
            }
        }
    });
}

#[test]
fn connections_are_opened_no_faster_than_requested() {
    let change = |plan: &mut Plan| {
        (plan.load.connections, plan.load.connect_rate, plan.placement.threads) =
            (40, Some(200.0), 2);
    };
    on_every_engine(change, |_, run, _| {
        assert!(run.phases.connect >= 195_000_000, "{}", run.phases.connect);
    });
}

#[test]
fn a_connection_is_replaced_after_its_messages() {
    for pipeline in [1, 4] {
        let change = |plan: &mut Plan| {
            (plan.load.messages_per_connection, plan.load.pipeline) = (Some(10), pipeline);
        };
        on_every_engine(change, |_, run, seen| {
            let cycles = run.cycles.expect("asked for");
            assert!(cycles.count > 0 && cycles.rate_per_s > 0.0);
            let (connections, messages) = (count(&seen.connections), count(&seen.messages));
            assert!(connections > 4 && messages <= 10 * connections, "{messages} on {connections}");
            assert!(messages >= 10 * (connections - 4), "all but the last ones have sent theirs");
            assert!(run.latency_ns.connect.count > 0 && run.latency_ns.connect.count < connections);
            let parts = [&run.latency_ns.tcp_connect, &run.latency_ns.handshake];
            assert!(parts.iter().all(|part| {
                part.as_ref().is_some_and(|p| p.count == run.latency_ns.connect.count)
            }));
        });
    }
}

#[test]
fn raw_connections_are_replaced_too() {
    for engine in engines() {
        let server = Echo::tcp(38, Fault::None);
        let mut plan = plan(&server.tcp_url(), engine);
        (plan.load.message_bytes, plan.load.messages_per_connection) = (38.into(), Some(1));
        counted(&mut plan, 400);
        let run = run(&plan);
        assert_eq!((run.integrity, run.errors), (Integrity::default(), Errors::default()));
        assert!(run.cycles.is_some_and(|cycles| cycles.count > 0));
    }
}

#[test]
fn an_open_loop_goes_on_while_connections_are_replaced() {
    let change = |plan: &mut Plan| {
        (plan.load.messages_per_connection, plan.load.rate_per_s) = (Some(5), Some(500.0));
        // At random intervals the window ends with the last echo, however slow the machine.
        plan.load.arrival = Arrival::Poisson;
        counted(plan, 125);
    };
    for engine in engines() {
        let server = Echo::ws(Fault::None);
        let mut plan = plan(&server.ws_url(), engine);
        change(&mut plan);
        let run = run(&plan);
        assert_eq!((run.integrity, run.errors), (Integrity::default(), Errors::default()));
        assert_eq!(run.latency_ns.corrected.count, run.offered(), "none is lost in between");
        assert!(
            run.cycles.is_some_and(|cycles| cycles.count > 0)
                && count(&server.seen.connections) > 4
        );
    }
}

#[test]
fn a_connection_is_replaced_after_its_time() {
    let change = |plan: &mut Plan| {
        plan.load.lifetime = Some(Duration::from_millis(50));
        (plan.load.messages, plan.load.measure) = (None, A_WHILE);
    };
    on_every_engine(change, |_, run, seen| {
        assert!(run.cycles.is_some_and(|cycles| cycles.count > 0) && count(&seen.connections) > 4);
    });
}

#[test]
fn lost_connections_are_opened_again_and_counted() {
    for engine in engines() {
        let server = Echo::ws(Fault::Disconnect);
        let mut plan = plan(&server.ws_url(), engine);
        (plan.load.reconnect, plan.load.measure) = (true, A_WHILE);
        let run = run(&plan);
        assert!(run.errors.closed > 4 && count(&server.seen.connections) > 4, "{:?}", run.errors);
        assert_balanced(&run);
        assert!(run.received > 0 && !run.valid && run.integrity.faults() == 0);
        assert_eq!(run.integrity.lost, run.integrity.lost_with_connection);
        assert!(run.outages.is_some_and(|outages| outages.count > 4));
    }
}

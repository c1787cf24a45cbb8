//! Conservation of messages: every planned message has one outcome in any event. A message that the
//! server may still answer is never counted as its fault.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::EngineKind;
use loadgen::load::{Arrival, Payload};
use loadgen::result::{Integrity, InvalidKind, Latencies, Run};
use loadgen::target::trust::Trust;

use super::echo::{Echo, Fault};
use super::{assert_balanced, counted, engines, plan, run};

/// Returns whether a run is invalid for this reason.
fn has(run: &Run, kind: InvalidKind) -> bool {
    run.invalid_kinds.contains(&kind)
}

#[test]
fn every_message_has_one_outcome_under_every_fault() {
    let faults = [
        Fault::None,
        Fault::Corrupt(3),
        Fault::Shorten,
        Fault::Reorder,
        Fault::Drop,
        Fault::Duplicate,
        Fault::WrongOpcode,
        Fault::Silent,
        Fault::Disconnect,
        Fault::DisconnectFirst,
        Fault::Close,
        Fault::Masked,
        Fault::Fragments,
        Fault::Greeting("hello"),
        Fault::Merge,
        Fault::Rotate(3),
        Fault::Once,
    ];
    let mut sent = 0;
    for engine in engines() {
        for fault in [
            Fault::None,
            Fault::Drop,
            Fault::Close,
            Fault::Rotate(3),
            Fault::Silent,
            Fault::Greeting("hello"),
        ] {
            let server = Echo::wss(fault);
            let run = run(&plan(&server.wss_url(), engine).with(|plan| {
                plan.target.trust = Trust::Anybody;
                plan.load.pipeline = 3;
                plan.load.reconnect = !fault.keeps_connections();
                plan.load.answer_timeout = Duration::from_millis(400);
            }));
            assert_balanced(&run);
            sent += run.messages.map_or(0, |messages| messages.sent);
        }
        for fault in faults {
            for (rate, reconnect) in
                [(None, false), (Some(400.0), false), (None, true), (Some(400.0), true)]
            {
                // The engines differ only in how connections end.
                if engine != EngineKind::Epoll && (rate.is_some() || fault.keeps_connections()) {
                    continue;
                }
                let server = Echo::ws(fault);
                let run = run(&plan(&server.ws_url(), engine).with(|plan| {
                    plan.load.rate_per_s = rate;
                    plan.load.reconnect = reconnect;
                    plan.load.pipeline = 3;
                    plan.load.measure = Duration::from_millis(150);
                    plan.load.answer_timeout = Duration::from_millis(400);
                }));
                assert_balanced(&run);
                let messages = run.messages.expect("counted");
                sent += messages.sent;
                let all_echoed = messages.echoed == messages.sent;
                assert!(fault != Fault::None || all_echoed, "{messages:?}");
            }
        }
    }
    assert!(sent > 1000);
}

#[test]
fn messages_in_flight_on_a_closed_connection_are_lost_with_it() {
    for engine in engines() {
        let server = Echo::ws(Fault::Rotate(10));
        let plan = plan(&server.ws_url(), engine).with(|plan| {
            plan.load.connections = 1;
            plan.load.pipeline = 8;
            plan.load.reconnect = true;
        });
        let run = run(&plan);
        assert_balanced(&run);
        let integrity = run.integrity;
        assert!(
            integrity.lost > 0 && integrity.lost == integrity.lost_with_connection,
            "{integrity:?}"
        );
        assert_eq!(integrity.faults(), 0);
        assert!(run.invalid_reasons.iter().any(|reason| reason.ends_with("ends of 1 connection")));
        let outages = run.outages.expect("the connection was down");
        assert!(outages.count > 0 && outages.longest_ns <= outages.total_ns);
    }
}

/// Messages that were due while no connection was open had to wait for the server.
#[test]
fn downtime_is_latency_and_not_lag() {
    let down = Duration::from_millis(1500);
    for engine in engines() {
        let server = Echo::ws(Fault::Down(down));
        let run = run(&plan(&server.ws_url(), engine).with(|plan| {
            plan.load.connections = 1;
            plan.load.rate_per_s = Some(100.0);
            plan.load.reconnect = true;
            plan.load.measure = Duration::from_secs(3);
        }));
        assert_balanced(&run);
        let Latencies { corrected, lag, .. } = &run.latency_ns;
        let uncorrected = run.latency_ns.uncorrected();
        assert!(uncorrected.max >= 1_300_000_000, "{engine}: {}", uncorrected.max);
        assert!(
            corrected.max >= uncorrected.max && lag.max * 2 < uncorrected.max,
            "{engine}: {}",
            lag.max
        );
        let outages = run.outages.expect("the connection was down");
        assert!(outages.count == 1 && outages.longest_ns >= 1_500_000_000, "{outages:?}");
    }
}

/// Covers messages with a length that no sent message has, while messages are due, and all messages
/// while none are due.
#[test]
fn unsolicited_messages_are_named_and_are_not_echoes() {
    for engine in engines() {
        for (payload, text) in [
            (Payload::TextAscii, "Request served by 1781505b56ee58"),
            (Payload::TextAscii, "hi"),
            (Payload::Binary, "welcome, whoever you are, to this server of ours"),
        ] {
            let server = Echo::ws(Fault::Greeting(text));
            let run = run(&plan(&server.ws_url(), engine).with(|plan| {
                plan.load.payload = payload;
                plan.load.connections = 8;
            }));
            assert_balanced(&run);
            assert_eq!(run.integrity, Integrity { unsolicited: 8, ..Integrity::default() });
            assert_eq!(run.messages.map(|messages| messages.wrong), Some(0));
            assert!(
                run.invalid_reasons
                    .contains(&"8 messages came that nobody had asked for".to_owned())
            );
        }
    }
}

/// Connections that are opened under load get their greeting while a message is due already. One
/// greeting is as long as the messages.
#[test]
fn greetings_of_replaced_connections_are_not_echoes() {
    for engine in engines() {
        for text in ["hello", "Request served by 1781505b56ee58"] {
            let server = Echo::ws(Fault::Greeting(text));
            let change = plan(&server.ws_url(), engine).with(|plan| {
                plan.load.messages_per_connection = Some(3);
                plan.load.payload = Payload::TextAscii;
            });
            let run = run(&change);
            assert_balanced(&run);
            let Integrity { unsolicited, .. } = run.integrity;
            assert_eq!(run.integrity, Integrity { unsolicited, ..Integrity::default() }, "{text}");
            let connections = server.seen.connections.load(Ordering::Relaxed);
            assert!(
                unsolicited > 4 && unsolicited <= connections,
                "{unsolicited} of {connections}"
            );
        }
    }
}

/// Covers the end of the whole load, and of a connection that is replaced.
#[test]
fn an_echo_before_the_close_tells_a_greeting_from_it() {
    for engine in engines() {
        for per_connection in [None, Some(1)] {
            let server = Echo::ws(Fault::LateGreeting("Request served by 1781505b56ee58"));
            let run = run(&plan(&server.ws_url(), engine).with(|plan| {
                plan.load.payload = Payload::TextAscii;
                plan.load.connections = 1;
                plan.load.messages_per_connection = per_connection;
                if per_connection.is_none() {
                    counted(plan, 1);
                }
            }));
            assert_balanced(&run);
            let connections = server.seen.connections.load(Ordering::Relaxed);
            let Integrity { unsolicited, .. } = run.integrity;
            assert_eq!(run.integrity, Integrity { unsolicited, ..Integrity::default() });
            assert!((1..=connections).contains(&unsolicited), "{unsolicited} of {connections}");
        }
    }
}

#[test]
fn overload_is_a_missed_rate_and_not_a_server_fault() {
    for engine in engines() {
        for (warmup, window) in [(0, 600), (800, 400)] {
            let server = Echo::ws(Fault::Capacity(500));
            let run = run(&plan(&server.ws_url(), engine).with(|plan| {
                plan.load.rate_per_s = Some(2000.0);
                plan.load.connections = 16;
                plan.load.warmup = Duration::from_millis(warmup);
                plan.load.measure = Duration::from_millis(window);
                plan.load.answer_timeout = Duration::from_millis(300);
            }));
            assert_balanced(&run);
            assert!(has(&run, InvalidKind::RateNotKept), "{:?}", run.invalid_reasons);
            assert!(has(&run, InvalidKind::Outstanding), "{:?}", run.invalid_reasons);
            assert_eq!(run.integrity, Integrity::default(), "the server may still answer them");
            assert_eq!(run.censored.map(|censored| censored.count > 0), Some(true));
        }
    }
}

#[test]
fn a_closed_loop_includes_latencies_of_outstanding_messages() {
    for engine in engines() {
        let late = Duration::from_millis(900);
        let server = Echo::ws(Fault::HalfLate(late));
        let run = run(&plan(&server.ws_url(), engine).with(|plan| plan.load.connections = 6));
        assert_balanced(&run);
        assert!(run.latency_ns.corrected.max >= 600_000_000, "{}", run.latency_ns.corrected.max);
        assert!(has(&run, InvalidKind::CutTail), "{:?}", run.invalid_reasons);
        let reason =
            run.invalid_reasons.iter().find(|reason| reason.contains("waiting for an echo"));
        assert!(
            reason.is_some_and(|reason| reason.starts_with("3 of 6 connections")),
            "{reason:?}"
        );
        assert_eq!(run.integrity, Integrity::default());
        assert_eq!(
            run.messages.map(|messages| messages.outstanding),
            Some(0),
            "they came in the drain"
        );
    }
}

#[test]
fn unanswered_messages_are_lost_after_the_answer_timeout() {
    // The silence is longer than the drain. When the run ends, the server has not been silent long
    // enough for its messages to be lost.
    let server = Echo::ws(Fault::HalfLate(Duration::from_secs(30)));
    let plan = plan(&server.ws_url(), EngineKind::Epoll).with(|plan| {
        plan.load.connections = 6;
        plan.load.measure = Duration::from_millis(300);
        plan.load.answer_timeout = Duration::from_millis(700);
    });
    let run = run(&plan);
    assert_balanced(&run);
    assert!(!run.valid);
    // The server was silent for longer than the answer timeout, on connections that stayed open, so
    // the messages are lost.
    assert_eq!(run.integrity, Integrity { lost: 3, ..Integrity::default() });
}

#[test]
fn unsent_messages_of_a_limited_plan_are_reported() {
    let server = Echo::ws(Fault::Disconnect);
    let mut plan = plan(&server.ws_url(), EngineKind::Epoll);
    super::counted(&mut plan, 1000);
    let run = run(&plan);
    assert_balanced(&run);
    let messages = run.messages.expect("counted");
    assert_eq!(messages.planned, 1000);
    assert!(messages.not_sent > 900, "{messages:?}");
}

/// Checks the window of a plan with a number and a rate: it is as long as the plan and does not end
/// with the last echo.
#[test]
fn the_rate_divides_by_the_planned_window() {
    for (rate, messages, arrival) in [
        (100.0, 40, Arrival::Constant),
        (100.0, 40, Arrival::Burst(NonZeroU32::new(10).expect("not zero"))),
    ] {
        let server = Echo::ws(Fault::None);
        let mut plan = plan(&server.ws_url(), EngineKind::Epoll);
        super::counted(&mut plan, messages);
        (plan.load.rate_per_s, plan.load.arrival) = (Some(rate), arrival);
        let run = run(&plan);
        assert_balanced(&run);
        assert_eq!((run.offered(), run.received, run.phases.measure), (40, 40, 400_000_000));
        assert!((run.rate_per_s - 100.0).abs() < 1e-6, "{}", run.rate_per_s);
    }
    let server = Echo::ws(Fault::None);
    let one = plan(&server.ws_url(), EngineKind::Epoll).with(|plan| {
        plan.load.rate_per_s = Some(0.01);
        plan.load.warmup = Duration::ZERO;
        plan.load.measure = Duration::from_millis(500);
    });
    let run = run(&one);
    assert_eq!((run.received, run.rate_per_s), (1, 2.0));
}

/// A connection that ends while messages are due removes none of them from the plan.
#[test]
fn every_planned_message_is_counted_while_connections_end() {
    for engine in engines() {
        let server = Echo::ws(Fault::Disconnect);
        let run = run(&plan(&server.ws_url(), engine).with(|plan| {
            plan.load.rate_per_s = Some(2000.0);
            plan.load.reconnect = true;
        }));
        assert_balanced(&run);
        // The warm-up is 10 ms, and the window 250 ms.
        assert_eq!(run.messages.map(|messages| messages.planned), Some(520), "{engine}");
        assert_eq!(run.offered(), 500, "{engine}");
    }
}

#[test]
fn idle_connections_send_nothing_after_they_are_reopened() {
    for engine in engines() {
        let server = Echo::ws(Fault::DropIdle);
        let run = run(&plan(&server.ws_url(), engine).with(|plan| {
            plan.load.idle = 3;
            plan.load.pipeline = 3;
            plan.load.reconnect = true;
            plan.load.measure = Duration::from_secs(1);
        }));
        assert_balanced(&run);
        assert_eq!(run.integrity.faults(), 0, "{engine}: {:?}", run.integrity);
        assert!(
            run.outages.is_some_and(|outages| outages.count >= 3),
            "{engine}: {:?}",
            run.outages
        );
    }
}

/// Silence counts from the time when a message is due, not from the last echo.
#[test]
fn sparse_traffic_does_not_count_as_silence() {
    for engine in engines() {
        let server = Echo::ws(Fault::Delay(Duration::from_millis(250)));
        let run = run(&plan(&server.ws_url(), engine).with(|plan| {
            plan.load.connections = 1;
            plan.load.rate_per_s = Some(0.5);
            plan.load.warmup = Duration::ZERO;
            plan.load.measure = Duration::from_secs(5);
            plan.load.answer_timeout = Duration::from_millis(1500);
        }));
        assert_balanced(&run);
        assert_eq!(run.ended_early, None, "{engine}");
        assert_eq!(run.messages.map(|messages| messages.echoed), Some(3), "{engine}");
    }
}

#[test]
fn overload_is_found_with_a_limited_number_of_messages() {
    let server = Echo::ws(Fault::Capacity(500));
    let mut plan = plan(&server.ws_url(), EngineKind::Epoll);
    super::counted(&mut plan, 1000);
    (plan.load.rate_per_s, plan.load.arrival, plan.load.connections) =
        (Some(2000.0), Arrival::Poisson, 16);
    let run = run(&plan);
    assert_balanced(&run);
    assert_eq!(run.messages.map(|messages| messages.sent), Some(1000));
    assert!(has(&run, InvalidKind::RateNotKept), "{:?}", run.invalid_reasons);
}

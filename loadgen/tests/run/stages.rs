//! Loads with stages: the plan of each, and a server that misbehaves in one of them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use engine::EngineKind;
use loadgen::load::Stages;
use loadgen::result::{InvalidKind, Run};
use loadgen::run::Plan;

use super::echo::{Echo, Fault};
use super::{assert_balanced, engines, plan, run};

const BYTES: usize = 32;
/// Messages of each stage of [`THIRDS`].
const THIRD: u64 = 200;
const THIRDS: &str = "400:500ms,400:500ms,400:500ms";

fn staged(url: &str, engine: EngineKind, stages: &str) -> Plan {
    let stages: Stages = stages.parse().expect("stages");
    plan(url, engine).with(|plan| {
        plan.load.measure = stages.total();
        plan.load.stages = Some(stages);
        plan.load.warmup = Duration::ZERO;
    })
}

/// Starts a raw echo server for one connection. `answer` gets the number of a message and its
/// bytes, and returns the bytes to send now. Returns its URL.
fn raw_server(mut answer: impl FnMut(u64, &[u8]) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("tcp://{}", listener.local_addr().expect("an address"));
    let mut serve = move |mut stream: TcpStream| {
        let mut message = [0; BYTES];
        let mut number = 0;
        while stream.read_exact(&mut message).is_ok() {
            if stream.write_all(&answer(number, &message)).is_err() {
                return;
            }
            number += 1;
        }
    };
    thread::spawn(move || serve(listener.accept().expect("a connection").0));
    url
}

fn on_one_connection(url: &str) -> Run {
    let plan = staged(url, EngineKind::Epoll, THIRDS).with(|plan| {
        plan.load.connections = 1;
        plan.load.message_bytes = BYTES.into();
    });
    run(&plan)
}

#[test]
fn each_stage_has_the_messages_of_its_plan() {
    for engine in engines() {
        for threads in [1, 3] {
            let server = Echo::ws(Fault::None);
            let stages = "200:250ms,1k:500ms,1k:0s,2k:0,2k:100ms,0:300ms";
            let plan = staged(&server.ws_url(), engine, stages).with(|plan| {
                plan.placement.threads = threads;
                plan.load.warmup = Duration::from_millis(100);
            });
            let run = run(&plan);
            assert_balanced(&run);
            let of = |run: &Run| run.stages.iter().map(|one| (one.number, one.offered)).collect();
            let planned: Vec<(u32, u64)> = of(&run);
            assert_eq!(planned, [(1, 50), (2, 300), (5, 200), (6, 300)], "{engine}");
            assert_eq!(run.offered(), 850);
            assert_eq!(run.messages.expect("counted").planned, 870, "with the warm-up");
            let received: u64 = run.stages.iter().map(|stage| stage.received).sum();
            assert_eq!(received, run.received, "stages add up to the window");
            for stage in &run.stages {
                let answered = stage.latency_ns.corrected.count;
                assert_eq!(answered + stage.not_sent, stage.offered, "{stage:?}");
                assert_eq!(stage.latency_ns.lag.count, answered);
            }
            assert!((run.rate_per_s - run.received as f64 / 1.15).abs() < 20.0, "of the whole");
        }
    }
}

#[test]
fn a_server_that_stalls_in_a_stage_is_slow_there() {
    let mut held = Vec::new();
    let url = raw_server(move |number, message| {
        held.extend_from_slice(message);
        let is_held = (THIRD..2 * THIRD).contains(&number);
        if is_held { Vec::new() } else { std::mem::take(&mut held) }
    });
    let run = on_one_connection(&url);
    assert_balanced(&run);
    let [first, second, _] = &run.stages[..] else { panic!("three stages: {:?}", run.stages) };
    // A message of the second stage waits at least until the third begins.
    let slow = second.latency_ns.corrected.histogram().expect("readable").expect("stored");
    assert!(slow.count_between(245_000_000, u64::MAX) >= THIRD / 2);
    assert!(first.latency_ns.corrected.p50 < second.latency_ns.corrected.p50);
    assert!(second.invalid_kinds.contains(&InvalidKind::RateNotKept), "{second:?}");
    assert!(!second.valid && !run.valid);
    let named = |number: u32| {
        let start = format!("stage {number}: the rate was not kept");
        run.invalid_reasons.iter().any(|reason| reason.starts_with(&start))
    };
    assert_eq!([1, 2, 3].map(named), [false, true, false], "{:?}", run.invalid_reasons);
}

#[test]
fn a_server_that_corrupts_in_a_stage_is_wrong_there() {
    let url = raw_server(|number, message| {
        let mut echo = message.to_vec();
        // The last byte: the number of the message stays right.
        echo[BYTES - 1] ^= u8::from((THIRD..2 * THIRD).contains(&number));
        echo
    });
    let run = on_one_connection(&url);
    let errors: Vec<u64> = run.stages.iter().map(|stage| stage.errors).collect();
    assert_eq!(run.integrity.corrupted, THIRD);
    assert_eq!(errors[0], 0, "{errors:?}");
    // The echo of a message at the border may come a moment later.
    assert_eq!(errors[1] + errors[2], THIRD, "{errors:?}");
    assert!(errors[1] > errors[2], "{errors:?}");
}

//! Runs against the server with faults on request: what goes wrong is measured and named.

use std::time::Duration;

use engine::EngineKind;
use loadgen::result::Run;
use server::config::{Config, EchoSettings};
use server::{FaultSettings, Server};

use super::{assert_balanced, counted, plan, reasons, run};

/// Runs 100 messages over one connection, of which one is in flight.
fn run_with(target: &str, default: Option<&str>) -> Run {
    let default = default.map(|text| text.parse().expect("faults"));
    let faults = Some(FaultSettings::new(default, 1 << 20));
    let settings = EchoSettings { faults, ..EchoSettings::default() };
    let server = Server::start(&Config { settings, ..Config::default() }).expect("a server");
    let url = format!("ws://{}{target}", server.addresses()[0]);
    let plan = plan(&url, EngineKind::Epoll).with(|plan| {
        plan.load.connections = 1;
        counted(plan, 100);
    });
    let run = run(&plan);
    assert_balanced(&run);
    run
}

#[test]
fn notes_name_the_faults_of_the_server() {
    for (target, default, says) in [
        ("/?delay=1ms", None, "with faults on purpose: delay=1ms"),
        ("/", Some("ping=7"), "with faults on purpose: ping=7"),
        ("/", None, "this run asked for none"),
    ] {
        let run = run_with(target, default);
        let notes = run.notes.iter().filter(|note| note.contains("faults")).collect::<Vec<_>>();
        assert!(notes.len() == 1 && notes[0].contains(says), "{target}: {:?}", run.notes);
        assert_eq!(reasons(&run), [""; 0], "{target}");
    }
}

/// The delay of the server is in the latency, whatever the machine does.
#[test]
fn latency_has_the_delay() {
    let run = run_with("/faults/delay=20ms", None);
    let histogram = run.latency_ns.corrected.histogram().expect("readable").expect("latencies");
    let (least, turn) = (Duration::from_nanos(histogram.min()), Duration::from_millis(5));
    assert!(least + turn >= Duration::from_millis(20), "{least:?}");
}

/// Fragments, pings and stalls change no message.
#[test]
fn valid_faults_leave_the_echoes_right() {
    let run = run_with("/?fragment=3&ping=2&stall=1ms@10&seed=4", None);
    assert_eq!((run.received, run.integrity.faults()), (100, 0));
    assert_eq!(reasons(&run), [""; 0]);
}

/// Messages that are cut are counted as wrong, each of them.
#[test]
fn cut_messages_are_wrong_echoes() {
    let run = run_with("/?truncate=1@10", None);
    let messages = run.messages.expect("counted");
    assert_eq!((messages.wrong, messages.sent), (10, 100), "{messages:?}");
}

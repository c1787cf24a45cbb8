//! End of a run when the server fails, or the user interrupts it.

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engine::EngineKind;
use loadgen::result::{Errors, Integrity};
use loadgen::run::{Phase, Plan, Progress, RunError, Snapshot, execute};

use super::echo::{Echo, Fault};
use super::{assert_balanced, assert_consistent, engines, failure, plan, reasons, run};

/// Time limit far beyond the needs of these tests, and far below a hang.
const BOUND: Duration = Duration::from_secs(60);

/// Returns the errors of runs against a server with `fault`, on every engine.
fn errors(fault: Fault, change: impl Fn(&mut Plan)) -> Vec<String> {
    let error = |engine| {
        let server = Echo::ws(fault);
        let mut plan = plan(&server.ws_url(), engine);
        change(&mut plan);
        let began = Instant::now();
        let error = failure(&plan).to_string();
        assert!(began.elapsed() < BOUND, "{error}");
        error
    };
    engines().into_iter().map(error).collect()
}

/// Returns the causes that ended the load early against a server with `fault`, on every engine.
/// Checks that each result has the measurements until then.
fn early_ends(fault: Fault, change: impl Fn(&mut Plan)) -> Vec<String> {
    let end = |engine| {
        let server = Echo::ws(fault);
        let mut plan = plan(&server.ws_url(), engine);
        change(&mut plan);
        let began = Instant::now();
        let run = run(&plan);
        assert!(began.elapsed() < BOUND, "{:?}", run.ended_early);
        assert_balanced(&run);
        assert!(!run.valid && run.messages.is_some_and(|messages| messages.sent > 0));
        assert!(run.phases.measure < 600_000_000_000, "the window ends with the load");
        run.ended_early.expect("it ended early").cause
    };
    engines().into_iter().map(end).collect()
}

fn assert_all(errors: &[String], parts: &[&str]) {
    for error in errors {
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} not in: {error}");
    }
}

#[test]
fn reports_a_port_without_a_listener() {
    let at = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    for engine in engines() {
        let error = failure(&plan(&format!("ws://{at}/"), engine));
        assert!(matches!(error, RunError::Connect { .. }), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}

#[test]
fn reports_failed_handshakes() {
    assert_all(&errors(Fault::NotFound, |_| {}), &["handshake", "404"]);
    assert_all(&errors(Fault::WrongAccept, |_| {}), &["handshake", "Accept"]);
    assert_all(&errors(Fault::HangUp, |_| {}), &["handshake", "without answering"]);
    let quick = |plan: &mut Plan| plan.load.connect_timeout = Duration::from_millis(300);
    assert_all(&errors(Fault::Mute, quick), &["handshake", "no answer within 300ms"]);
}

/// RFC 6455 4.1: every condition under which a client must fail the connection.
#[test]
fn reports_answers_that_open_no_websocket() {
    let answers = [
        ("101 Switching Protocols", "200 OK", "200 OK"),
        (
            "101 Switching Protocols",
            "301 Moved Permanently\r\nLocation: /",
            "301 Moved Permanently",
        ),
        ("101 Switching Protocols", "503 Service Unavailable", "503 Service Unavailable"),
        ("HTTP/1.1", "HTTP/1.0", "HTTP/1.1"),
        ("Upgrade: websocket\r\n", "", "Upgrade"),
        ("Upgrade: websocket", "Upgrade: h2c", "Upgrade"),
        ("Connection: Upgrade\r\n", "", "Connection"),
        ("Connection: Upgrade", "Connection: keep-alive", "Connection"),
        ("Sec-WebSocket-Accept: ", "X-Accept: ", "Sec-WebSocket-Accept"),
        (
            "\r\n\r\n",
            "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
            "permessage-deflate",
        ),
        ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n", "chat"),
        ("\r\n\r\n", "\r\nno field at all\r\n\r\n", "malformed"),
    ];
    for (right, wrong, said) in answers {
        assert_all(&errors(Fault::Instead(right, wrong), |_| {}), &["handshake", said]);
    }
    assert_all(&errors(Fault::EndlessHead, |_| {}), &["handshake", "longer than"]);
}

#[test]
fn reports_a_server_that_stops_answering() {
    let patient_enough = |plan: &mut Plan| plan.load.answer_timeout = Duration::from_millis(400);
    let long = |plan: &mut Plan| {
        patient_enough(plan);
        plan.load.measure = Duration::from_secs(3600);
    };
    assert_all(&early_ends(Fault::Silent, long), &["stopped answering", "4 messages are due"]);
    assert_all(&early_ends(Fault::Silent, patient_enough), &["stopped answering"]);
    assert_all(&early_ends(Fault::Once, long), &["stopped answering", "4 messages are due"]);
}

#[test]
fn reports_a_server_that_closes_everything() {
    let long = |plan: &mut Plan| plan.load.measure = Duration::from_secs(3600);
    assert_all(&early_ends(Fault::Disconnect, long), &["closed all 4 connections"]);
    assert_all(
        &early_ends(Fault::Close, long),
        &["closed all 4 connections", "1001", "gone fishing"],
    );
    assert_all(&early_ends(Fault::Masked, long), &["broke the protocol", "masked", "5.1"]);
}

#[test]
fn one_lost_connection_makes_the_result_invalid() {
    for engine in engines() {
        let run = run(&plan(&Echo::ws(Fault::DisconnectFirst).ws_url(), engine));
        assert_consistent(&run);
        assert_eq!(run.errors, Errors { closed: 1, ..Errors::default() });
        let lost = Integrity { lost: 1, lost_with_connection: 1, ..Integrity::default() };
        assert_eq!(run.integrity, lost, "messages of a lost connection are not echo faults");
        assert_eq!(run.integrity.faults(), 0);
        assert_eq!(reasons(&run), ["1 of 4 connections was lost"]);
        assert!(!run.valid && run.received > 0);
    }
}

#[test]
fn reports_surplus_bytes() {
    let server = Echo::tcp(38, Fault::Surplus);
    let mut plan = plan(&server.tcp_url(), EngineKind::Epoll);
    plan.load.message_bytes = 38.into();
    let run = run(&plan);
    assert_balanced(&run);
    let cause = run.ended_early.expect("it ended early").cause;
    assert!(cause.contains("more bytes than it was sent"), "{cause}");
}

#[test]
fn connects_to_names_and_addresses_of_both_families() {
    // The server listens at one address only: if the name resolves to others first, the generator
    // tries them and goes on.
    let server = Echo::ws(Fault::None);
    let url = format!("ws://localhost:{}/", server.at.port());
    for engine in engines() {
        assert!(run(&plan(&url, engine)).received > 0);
    }
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: no IPv6 here");
        return;
    }
    let server = Echo::ws_at("[::1]:0", Fault::None);
    for engine in engines() {
        assert!(run(&plan(&server.ws_url(), engine)).received > 0);
    }
    let error = failure(&plan("ws://no-such-host.invalid/", EngineKind::Epoll));
    assert!(matches!(error, RunError::Resolve { .. }), "{error}");
}

/// Interrupts in a phase, once there are measurements.
struct Impatient(Phase, bool);

impl Progress for Impatient {
    fn tick(&mut self, at: &Snapshot) {
        self.1 |= at.phase == self.0 && (at.received > 100 || self.0 != Phase::Measure);
    }

    fn interrupted(&mut self) -> bool {
        self.1
    }
}

#[test]
fn an_interruption_gives_a_result() {
    for engine in engines() {
        let server = Echo::ws(Fault::None);
        let plan = plan(&server.ws_url(), engine)
            .with(|plan| plan.load.measure = Duration::from_secs(3600));
        let run = execute(&plan, &mut Impatient(Phase::Measure, false)).expect("a result");
        assert_consistent(&run);
        assert!(run.interrupted && run.received > 0 && reasons(&run).is_empty());
        assert_eq!((run.integrity, run.errors), (Integrity::default(), Errors::default()));
        assert!(run.phases.measure < 60_000_000_000);
        assert_eq!(
            server.seen.closes.load(Ordering::Relaxed),
            4,
            "every connection is closed by a Close"
        );
    }
}

#[test]
fn an_interruption_before_the_window_gives_nothing() {
    let server = Echo::ws(Fault::None);
    let plan = plan(&server.ws_url(), EngineKind::Epoll)
        .with(|plan| plan.load.warmup = Duration::from_secs(3600));
    let error =
        execute(&plan, &mut Impatient(Phase::Warmup, false)).expect_err("nothing was measured");
    assert!(matches!(error, RunError::Interrupted));
}

#[test]
fn a_series_has_all_seconds_of_the_window() {
    let server = Echo::ws(Fault::None);
    let plan = plan(&server.ws_url(), EngineKind::Epoll)
        .with(|plan| plan.load.measure = Duration::from_millis(1200));
    let run = run(&plan);
    assert_consistent(&run);
    let spans: Vec<_> = run.series.iter().map(|second| second.span_ns).collect();
    assert_eq!(spans, [None, Some(200_000_000)]);
    assert!(run.received > 0);
    let max = run.series.iter().filter_map(|second| second.max).max();
    assert!(max.is_some_and(|max| max.abs_diff(run.latency_ns.corrected.max) <= max / 100));
}

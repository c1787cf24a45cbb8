//! Ends of a run: every line of the table in `loadgen/README.md`.

use std::fs;
use std::process::{Child, Output, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use loadgen::result::{Document, Run};
use rustix::process::{Pid, Signal, kill_process};

use super::echo::{Echo, Fault};
use super::{FINE, Scratch, ended, loadgen, output, run, text};

/// Time limit far beyond the needs of these tests.
const BOUND: Duration = Duration::from_secs(60);

/// Returns the run of an output whose document is on standard output.
fn stored(output: &Output) -> Run {
    let document: Document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    let run = document.runs.into_iter().last().expect("a run");
    let messages = run.messages.expect("counted");
    assert_eq!(messages.planned, messages.sent + messages.not_sent);
    assert_eq!(
        messages.sent,
        messages.echoed + messages.wrong + messages.lost + messages.outstanding
    );
    run
}

/// Flags of a very short run.
const SHORT: [&str; 6] = ["-c", "4", "-d", "600ms", "-w", "20ms"];

/// Runs the program against a server with `fault`.
fn against(fault: Fault, flags: &[&str]) -> Output {
    let server = Echo::ws(fault);
    let url = server.ws_url();
    output(&[&["run", &url, "--engine", "epoll", "--json", "-", "--timeout", "1s"], flags].concat())
}

/// Runs the program against a server with `fault`. Returns its exit code and the stored run.
fn ending(fault: Fault, flags: &[&str]) -> (Option<i32>, Run) {
    let output = against(fault, flags);
    (output.status.code(), stored(&output))
}

#[test]
fn ends_with_0_when_the_time_is_over_or_the_messages_are_back() {
    let (code, run) = ending(Fault::None, &SHORT);
    assert_eq!((code, run.ended_early), (Some(FINE), None));
    let (code, run) = ending(Fault::None, &["-n", "100"]);
    assert_eq!((code, run.received), (Some(FINE), 100));
}

#[test]
fn ends_with_13_when_the_run_is_invalid_without_a_fault() {
    for (fault, flags, reason) in [
        (
            Fault::Capacity(300),
            &[&SHORT[2..], &["-c", "8", "-R", "2k"]].concat()[..],
            "rate was not kept",
        ),
        (
            Fault::Capacity(300),
            &[&SHORT[2..], &["-c", "8", "-R", "2k"]].concat(),
            "no echo when the run ended",
        ),
        (Fault::DisconnectFirst, &SHORT, "1 of 4 connections was lost"),
        (Fault::Rotate(20), &[&SHORT[..], &["--reconnect"]].concat(), "ends of 4 connections"),
    ] {
        let (code, run) = ending(fault, flags);
        assert_eq!(code, Some(13), "{:?}", run.invalid_reasons);
        assert!(
            run.invalid_reasons.iter().any(|said| said.contains(reason)),
            "{:?}",
            run.invalid_reasons
        );
        assert_eq!(run.integrity.faults(), 0);
    }
}

#[test]
fn ends_with_1_when_an_echo_is_wrong() {
    for fault in [
        Fault::Corrupt(5),
        Fault::Shorten,
        Fault::Reorder,
        Fault::Duplicate,
        Fault::Drop,
        Fault::WrongOpcode,
        Fault::Greeting("hello"),
    ] {
        let (code, run) = ending(fault, &[&SHORT[..], &["--pipeline", "4"]].concat());
        assert_eq!(
            (code, run.integrity.faults()),
            (Some(1), 4),
            "{fault:?}: {:?}",
            run.invalid_reasons
        );
        assert!(run.received > 0, "{fault:?}");
    }
}

#[test]
fn ends_with_1_and_a_result_when_the_server_gives_up() {
    for (fault, cause) in [
        (Fault::Disconnect, "closed all 4 connections"),
        (Fault::Close, "gone fishing"),
        (Fault::Once, "stopped answering"),
        (Fault::Merge, "stopped answering"),
    ] {
        let output = against(fault, &["-c", "4", "-d", "1h", "-w", "0"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("ENDED EARLY") && said.contains(cause) && said.contains("messages "),
            "{said}"
        );
        let run = stored(&output);
        assert!(run.ended_early.is_some_and(|ended| ended.cause.contains(cause)));
        assert!(run.messages.is_some_and(|messages| messages.sent > 0));
    }
}

/// Waits until the server has answered a message, then sends a signal.
fn interrupt(child: Child, server: &Echo, signal: Signal) -> Output {
    let began = Instant::now();
    while server.seen.messages.load(Ordering::Relaxed) < 100 && began.elapsed() < BOUND {
        thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&child), signal).expect("our own child");
    ended(child)
}

/// Returns true if this process ignores the signal, as under nohup(1). The program then does too.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("hexadecimal");
    mask & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn ends_with_the_signals_code_and_a_result() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        if is_ignored(signal) {
            println!("skipped: {signal:?} is ignored here");
            continue;
        }
        let server = Echo::ws(Fault::None);
        let url = server.ws_url();
        let start = |window: &[&str]| {
            let words =
                [&["run", &url, "-c", "4", "--engine", "epoll", "--json", "-"], window].concat();
            loadgen(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
        };
        let ended = interrupt(start(&["-w", "0", "-d", "1h"]), &server, signal);
        assert_eq!(ended.status.code(), Some(code), "{}", text(&ended.stderr));
        let run = stored(&ended);
        assert!(run.interrupted && run.received > 0);

        server.seen.messages.store(0, Ordering::Relaxed);
        let before = interrupt(start(&["-w", "1h", "-d", "1h"]), &server, signal);
        assert_eq!(before.status.code(), Some(code));
        assert!(
            text(&before.stderr).contains("before anything was measured"),
            "{}",
            text(&before.stderr)
        );
    }
}

#[test]
fn ends_with_1_when_nothing_can_be_measured() {
    let refused = run("ws://127.0.0.1:1/", &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("refused") && refused.stdout.is_empty());
    let no_server = run("ws://127.0.0.1:{port}/", &["--spawn", "/no/such/server {port}"]);
    assert_eq!(no_server.status.code(), Some(1));
}

/// Device that can be opened and fails on writes, as a disk that has become full does.
const FULL: &str = "/dev/full";

#[test]
fn ends_with_1_and_prints_a_document_it_cannot_write() {
    let server = Echo::ws(Fault::None);
    let output = run(&server.ws_url(), &["--json", FULL]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--json /dev/full") && said.contains("standard output"), "{said}");
    assert!(
        stored(&output).received > 0 && said.contains("msg/s"),
        "the table goes where the document does not"
    );

    // A file that cannot be written does not prevent the others from being written.
    let scratch = Scratch::new("ends");
    let json = scratch.file("a.json");
    let output = run(&server.ws_url(), &["--json", &json, "--csv", FULL]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("--csv /dev/full") && text(&output.stdout).contains("msg/s")
    );
    serde_json::from_slice::<Document>(&fs::read(&json).expect("written")).expect("a document");
}

#[test]
fn ends_with_2_and_1_before_anything_is_measured() {
    assert_eq!(output(&["run", "ws://127.0.0.1:1/", "-c", "0"]).status.code(), Some(2));
    let unwritable = run("ws://127.0.0.1:1/", &["--json", "/no/such/folder/a.json"]);
    assert_eq!(unwritable.status.code(), Some(1));
    assert!(text(&unwritable.stderr).contains("--json /no/such/folder/a.json"));
}

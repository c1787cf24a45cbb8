//! The program on a terminal, which script(1) provides.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{InMemoryTerm, TermLike};

use super::echo::{Echo, Fault};

/// Time limit far beyond the needs of these tests.
const BOUND: Duration = Duration::from_secs(60);

/// Starts the program on a terminal; prints a line and returns `None` where script(1) is missing.
fn on_terminal(arguments: &[&str]) -> Option<Child> {
    behind(&[], arguments)
}

/// Starts the program on a terminal, by another program.
fn behind(starter: &[&str], arguments: &[&str]) -> Option<Child> {
    let words = [starter, &[env!("CARGO_BIN_EXE_sparring-loadgen")], arguments].concat();
    let command = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let child = Command::new("script")
        .args([
            "--quiet",
            "--return",
            "--command",
            // The command is not the shell's last one, whose process it might take over: a session
            // leader stays in its session.
            &format!("stty rows 24 cols 120; {command}; exit $?"),
            "/dev/null",
        ])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env_remove("COLUMNS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    if child.is_err() {
        println!("skipped: script(1) is not installed (apt-get install bsdutils)");
    }
    child.ok()
}

/// Returns everything that was written to the terminal, and the visible part at the end.
fn seen(child: &mut Child) -> (String, String) {
    let mut written = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut written).expect("readable");
    let written = String::from_utf8_lossy(&written).into_owned();
    let screen = InMemoryTerm::new(24, 120);
    screen.write_str(&written).expect("in memory");
    (written, screen.contents())
}

fn exit_code(child: &mut Child) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return status.code();
        }
        if began.elapsed() > BOUND {
            let _ = child.kill();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_view_is_live_and_leaves_only_the_table() {
    let server = Echo::ws(Fault::None);
    let url = server.ws_url();
    let words = ["run", &url, "-c", "4", "-d", "2500ms", "-w", "100ms", "--engine", "epoll"];
    let Some(mut child) = on_terminal(&words) else { return };
    let (written, screen) = seen(&mut child);
    exit_code(&mut child);
    for part in ["warm-up", "measure", "4 connections", "errors", "latency  p50", "█", " s left"]
    {
        assert!(written.contains(part), "{part} was never shown:\n{written}");
    }
    assert!(screen.contains("rate ") && screen.contains("generator"), "{screen}");
    for part in ["warm-up", "█", "░"] {
        assert!(!screen.contains(part), "{part} is left:\n{screen}");
    }
    assert!(!written.contains("\u{1b}[?25l"), "the cursor is never hidden");
    assert!(!written.contains("0/0"), "nothing is shown before something is known:\n{written}");
    let invalid = if cfg!(debug_assertions) { "\u{1b}[31mINVALID\u{1b}[0m" } else { "" };
    assert!(written.contains(invalid), "{written}");
}

#[test]
fn a_dumb_terminal_gets_no_view_and_no_colour() {
    let server = Echo::ws(Fault::None);
    let url = server.ws_url();
    let words = ["run", &url, "-c", "4", "-d", "300ms", "-w", "0", "--engine", "epoll"];
    for variable in ["TERM=dumb", "NO_COLOR=1"] {
        // CI makes no difference, unlike in some programs.
        let Some(mut child) = behind(&["env", "CI=true", variable], &words) else { return };
        let (written, screen) = seen(&mut child);
        exit_code(&mut child);
        assert!(
            screen.contains("rate ") && !written.contains("\u{1b}[31m"),
            "{variable}: {written}"
        );
        assert_eq!(written.contains("measure"), variable == "NO_COLOR=1", "{written}");
        assert!(variable != "TERM=dumb" || !written.contains('\u{1b}'), "{written}");
    }
}

#[test]
fn a_quiet_run_shows_only_why_it_is_invalid() {
    let server = Echo::ws(Fault::None);
    let url = server.ws_url();
    let Some(mut child) =
        on_terminal(&["run", &url, "-d", "300ms", "-w", "0", "--engine", "epoll", "-q"])
    else {
        return;
    };
    let (written, screen) = seen(&mut child);
    // A debug build is not valid, and reports that.
    let expected = if cfg!(debug_assertions) { "sparring-loadgen: INVALID: " } else { "" };
    assert!(screen.starts_with(expected) && written.lines().count() <= 1, "{written}");
}

/// Covers `sparring-loadgen run ... &`, and timeout(1): the kernel stops a background process when
/// it sets the modes of its terminal (SIGTTOU, termios(3)).
#[test]
fn a_background_run_shows_nothing_and_is_not_stopped() {
    let server = Echo::ws(Fault::None);
    let url = server.ws_url();
    let words = ["run", &url, "-c", "4", "-d", "300ms", "-w", "0", "--engine", "epoll"];
    let Some(mut child) = behind(&["timeout", "-s", "KILL", "30"], &words) else { return };
    let (written, screen) = seen(&mut child);
    assert!(exit_code(&mut child).is_some_and(|code| code != 137), "stopped: {written}");
    assert!(screen.contains("rate ") && !written.contains("measure"), "{written}");
}

#[test]
fn the_second_ctrl_c_ends_it_at_once_and_clears_the_view() {
    // The server never answers, so the first Ctrl-C alone does not end the run for an hour.
    let server = Echo::ws(Fault::Silent);
    let url = server.ws_url();
    let words =
        ["run", &url, "-c", "4", "-d", "1h", "-w", "0", "--engine", "epoll", "--timeout", "1h"];
    let Some(mut child) = on_terminal(&words) else { return };
    let began = Instant::now();
    while server.seen.messages.load(Ordering::Relaxed) < 4 && began.elapsed() < BOUND {
        thread::sleep(Duration::from_millis(5));
    }
    let mut keyboard = child.stdin.take().expect("piped");
    let typing = thread::spawn(move || {
        // The first Ctrl-C may come before the window; each one after it must end the run.
        while keyboard.write_all(b"\x03").and_then(|()| keyboard.flush()).is_ok() {
            thread::sleep(Duration::from_millis(300));
        }
    });
    let (_, screen) = seen(&mut child);
    assert_eq!(exit_code(&mut child), Some(130));
    for part in ["measure", "drain", "░"] {
        assert!(!screen.contains(part), "{part} is left:\n{screen}");
    }
    drop(typing);
}

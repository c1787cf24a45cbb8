//! The program itself: exit codes, output streams and files, and servers that it starts.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use loadgen::result::{Document, SCHEMA, SessionKind};
use rustix::process::{Pid, Signal, kill_process};

use super::echo::{Echo, Fault};

/// Time limit far beyond the needs of these tests.
const BOUND: Duration = Duration::from_secs(60);
/// Exit code of a good run: debug builds measure, but report that the run is not valid.
pub(super) const FINE: i32 = if cfg!(debug_assertions) { 13 } else { 0 };
/// Environment variable with the fault of the server that this test program becomes.
const SERVE: &str = "SPARRING_TEST_SERVE";

pub(super) fn loadgen(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparring-loadgen"));
    command.args(arguments).stdin(Stdio::null());
    command
}

pub(super) fn output(arguments: &[&str]) -> Output {
    loadgen(arguments).output().expect("the program runs")
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts the exit code, and that the one line on standard error has these parts.
pub(super) fn assert_fails(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = output(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} not in: {said}");
    assert!(output.stdout.is_empty());
}

/// Flags of a very short run.
const SHORT: [&str; 8] = ["-c", "4", "-d", "300ms", "-w", "20ms", "--engine", "epoll"];

fn short(more: &[&str]) -> Vec<String> {
    ["run"].iter().chain(&SHORT).chain(more).map(|&word| word.to_owned()).collect()
}

pub(super) fn run_short(more: &[&str]) -> Output {
    let words = short(more);
    output(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(super) fn document(output: &Output) -> Document {
    let said = text(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn unusable_flags_end_with_2_and_their_name() {
    assert_fails(&["run", "https://localhost/"], 2, &["https://", "wss://"]);
    assert_fails(&["run", "ws://localhost/", "-c", "0"], 2, &["-c must be"]);
    assert_fails(&["run", "ws://localhost/", "--engine", "kqueue"], 2, &["--engine"]);
    assert_fails(
        &["run", "ws://localhost/", "--congestion", "no-such"],
        2,
        &["--congestion", "reno"],
    );
    assert_fails(&["run", "ws://localhost/", "--spawn", "open 'quote"], 2, &["--spawn"]);
    assert_fails(&["run", "ws://localhost:{port}/"], 2, &["{port}", "--spawn"]);
    assert_fails(&["suite", "slow"], 2, &["slow"]);
    assert_fails(&["run", "ws://localhost/", "-c", "-5"], 2, &["--connections", "as in 500"]);
    let same = ["run", "ws://localhost/", "--json", "/tmp/same", "--csv", "/tmp/same"];
    assert_fails(&same, 2, &["--json and --csv name the same file"]);
}

#[test]
fn flags_without_effect_are_reported() {
    assert_fails(&["run", "ws://localhost/", "--arrival", "poisson"], 2, &["--arrival needs -R"]);
    assert_fails(
        &["run", "ws://localhost/", "--max-outstanding", "5"],
        2,
        &["--max-outstanding needs -R"],
    );
    assert_fails(
        &["run", "ws://localhost/", "--spawn-timeout", "5s"],
        2,
        &["--spawn-timeout needs --spawn"],
    );
    assert_fails(&["run", "ws://localhost/", "--trial", "5s"], 2, &["--find-rate"]);
    assert_fails(
        &["run", "ws://localhost/", "--find-rate", "p99<2ms", "-n", "5"],
        2,
        &["--messages"],
    );
}

/// With `| head`, the reader closes the pipe early; the file is complete all the same.
#[test]
fn a_closed_pipe_loses_only_the_table() {
    let server = Echo::ws(Fault::None);
    let folder = scratch("reader");
    let file = folder.join("result.json");
    let words = short(&[&server.ws_url(), "--json", file.to_str().expect("UTF-8")]);
    let words = words.iter().map(String::as_str).collect::<Vec<_>>();
    let mut child =
        loadgen(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().expect("ends").code(), Some(FINE));
    serde_json::from_slice::<Document>(&std::fs::read(&file).expect("written"))
        .expect("a document");
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn an_impossible_run_ends_with_1_before_measuring() {
    assert_fails(&["run", "ws://no-such-host.invalid/"], 1, &["no-such-host.invalid"]);
    assert_fails(
        &["run", "ws://127.0.0.1:1/", "--json", "/no/such/folder/result.json"],
        1,
        &["--json"],
    );
    let many = ["run", "ws://127.0.0.1:1/", "-c", "16777216"];
    let output = output(&many);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("ulimit -n") || said.contains("ip_local_port_range"), "{said}");
}

#[test]
fn only_the_table_goes_to_standard_output() {
    let server = Echo::ws(Fault::None);
    let output = run_short(&[&server.ws_url()]);
    let (table, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(FINE), "{said}");
    for part in ["msg/s", "latency", "every one checked", "errors     none", "generator"] {
        assert!(table.contains(part), "{part} not in: {table}");
    }
    assert_eq!(said, "");
}

#[test]
fn a_quiet_run_prints_only_why_it_is_invalid() {
    let server = Echo::ws(Fault::None);
    let quiet = run_short(&[&server.ws_url(), "--quiet"]);
    let said = text(&quiet.stderr);
    assert_eq!((quiet.status.code(), text(&quiet.stdout)), (Some(FINE), String::new()));
    // A test is a debug build, whose runs are not valid.
    let expected = if cfg!(debug_assertions) {
        "sparring-loadgen: INVALID: the generator is a debug"
    } else {
        ""
    };
    assert!(said.starts_with(expected) && said.lines().count() <= 1, "{said}");
    let server = Echo::ws(Fault::DisconnectFirst);
    let quiet = run_short(&[&server.ws_url(), "--quiet", "--threshold", "max<1ns"]);
    let said = text(&quiet.stderr);
    assert_eq!((quiet.status.code(), text(&quiet.stdout)), (Some(13), String::new()));
    for part in ["INVALID: ", "1 of 4 connections was lost", "threshold MISSED: max<1ns"] {
        assert!(said.contains(part), "{part} not in: {said}");
    }
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn json_replaces_the_table_on_standard_output() {
    let server = Echo::ws(Fault::None);
    let output = run_short(&[&server.ws_url(), "--json", "-", "--tag", "trial"]);
    assert_eq!(output.status.code(), Some(FINE));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let schema =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results/schema.json"));
    let schema = serde_json::from_slice(&schema.expect("the schema is there")).expect("JSON");
    jsonschema::validate(&schema, &json).expect("the document follows the schema");
    let document = document(&output);
    assert_eq!((document.schema, document.session.kind), (SCHEMA, SessionKind::Single));
    assert_eq!(
        (document.tool.engine.as_str(), document.session.tag.as_deref()),
        ("epoll", Some("trial"))
    );
    assert_eq!((document.scenarios.len(), document.runs.len()), (1, 1));
    let run = &document.runs[0];
    assert_eq!(run.scenario, document.scenarios[0].name);
    assert!(run.latency_ns.corrected.count >= run.received);
    assert!(run.received > 0 && !run.interrupted && run.server.is_none());
    assert!(text(&output.stderr).contains("msg/s"), "the table goes where the document does not");
}

#[test]
fn an_open_loop_prints_its_plan_and_its_latencies() {
    let server = Echo::ws(Fault::None);
    let output = run_short(&[&server.ws_url(), "-R", "1k", "--json", "-", "--arrival", "poisson"]);
    let table = text(&output.stderr);
    for part in
        ["1,000 messages a second (poisson)", "planned)", "server ", "lag ", "waits by sleeping"]
    {
        assert!(table.contains(part), "{part} not in: {table}");
    }
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let schema =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results/schema.json"));
    let schema = serde_json::from_slice(&schema.expect("the schema is there")).expect("JSON");
    jsonschema::validate(&schema, &json).expect("the document follows the schema");
    let parameters = &document(&output).scenarios[0].parameters;
    assert_eq!(parameters.rate_per_s, Some(1000.0));
}

#[test]
fn a_json_file_is_complete_or_missing() {
    let folder = scratch("json");
    let file = folder.join("result.json");
    let name = file.to_str().expect("UTF-8");
    assert_eq!(run_short(&["ws://127.0.0.1:1/", "--json", name]).status.code(), Some(1));
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 0);
    let server = Echo::ws(Fault::None);
    assert_eq!(run_short(&[&server.ws_url(), "--json", name]).status.code(), Some(FINE));
    let stored = std::fs::read(&file).expect("written");
    serde_json::from_slice::<Document>(&stored).expect("a document");
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 1);
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn wrong_echoes_are_an_error_with_a_result() {
    let server = Echo::ws(Fault::Corrupt(3));
    let output = run_short(&[&server.ws_url(), "--json", "-"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(document(&output).runs[0].integrity.corrupted, 4);
    assert!(text(&output.stderr).contains("4 corrupted"));
}

#[test]
fn lost_connections_are_invalid() {
    let server = Echo::ws(Fault::DisconnectFirst);
    let output = run_short(&[&server.ws_url(), "--json", "-"]);
    assert_eq!(output.status.code(), Some(13));
    assert_eq!(document(&output).runs[0].errors.closed, 1);
    let server = Echo::ws(Fault::DisconnectFirst);
    let allowed = run_short(&[&server.ws_url(), "--json", "-", "--allow-invalid"]);
    assert_eq!(allowed.status.code(), Some(0));
    assert!(!document(&allowed).runs[0].valid && text(&allowed.stderr).contains("INVALID"));
}

#[test]
fn ctrl_c_gives_a_result_and_twice_ends_at_once() {
    let server = Echo::ws(Fault::None);
    let url = server.ws_url();
    let words =
        ["run", &url, "-d", "1h", "-w", "0", "--settle", "0", "--engine", "epoll", "--json", "-"];
    let mut child =
        loadgen(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    until("messages flow", || {
        server.seen.messages.load(Ordering::Relaxed) > 10_000 || ended(&mut child)
    });
    kill_process(Pid::from_child(&child), Signal::INT).expect("our own child");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    let run = &document(&output).runs[0];
    assert!(run.interrupted && run.received > 0 && run.phases.measure < 3_600_000_000_000);

    // A server that never answers delays the drain; the second signal ends it at once.
    let server = Echo::ws(Fault::Silent);
    let url = server.ws_url();
    let words = ["run", &url, "-d", "1h", "-w", "0", "--engine", "epoll", "--timeout", "1h"];
    let mut child =
        loadgen(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
    until("messages flow", || {
        server.seen.messages.load(Ordering::Relaxed) >= 64 || ended(&mut child)
    });
    let pid = Pid::from_child(&child);
    until("the second signal ends it", || {
        let _ = kill_process(pid, Signal::INT);
        ended(&mut child)
    });
    assert_eq!(child.wait().expect("ended").code(), Some(130));
}

#[test]
fn the_version_is_readable_by_people_and_programs() {
    let line = text(&output(&["--version"]).stdout);
    assert!(line.starts_with("sparring-loadgen ") && line.lines().count() == 1, "{line}");
    let facts = text(&output(&["--version", "--verbose"]).stdout);
    for key in
        ["version", "commit", "dirty", "profile", "rustc", "engine uring", "engine epoll", "kernel"]
    {
        assert!(
            facts.lines().any(|line| line.starts_with(&format!("{key}: "))),
            "{key} not in: {facts}"
        );
    }
}

#[test]
fn the_version_may_go_to_a_closed_pipe() {
    let mut command = loadgen(&["--version", "--verbose"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

// Servers that the program starts: this test program, in another role.

/// Not a test: the spawned server. `SPARRING_TEST_SERVE` is the port and the fault.
#[test]
#[ignore = "the server that other tests spawn"]
fn serve() {
    let Ok(role) = std::env::var(SERVE) else { return };
    let (port, fault) = role.split_once(' ').expect("port and fault");
    let fault = match fault {
        "exit" => Fault::Exit,
        "corrupt" => Fault::Corrupt(3),
        "not-found" => Fault::NotFound,
        _ => Fault::None,
    };
    let server = Echo::ws_at(&format!("127.0.0.1:{port}"), fault);
    // The test runner has begun a line of its own.
    println!("\nlistening on {} (engine blocking, 1 thread, congestion cubic)", server.ws_url());
    println!(r#"{{"messages": 12, "enters": 3}}"#);
    loop {
        thread::sleep(BOUND);
    }
}

/// Returns the command of a server, for --spawn.
pub(super) fn server_command(fault: &str) -> String {
    let this = std::env::current_exe().expect("this program");
    let name = "command::serve";
    format!(
        "env '{SERVE}={{port}} {fault}' '{}' --exact {name} --ignored --nocapture",
        this.display()
    )
}

pub(super) const SPAWNED: &str = "ws://127.0.0.1:{port}/";

#[test]
fn a_spawned_server_is_measured_and_ended() {
    let output = run_short(&[
        SPAWNED,
        "--spawn",
        &server_command("none"),
        "--congestion",
        "reno",
        "--json",
        "-",
    ]);
    assert_eq!(output.status.code(), Some(FINE), "{}", text(&output.stderr));
    let document = document(&output);
    let server = document.runs[0].server.as_ref().expect("its cost");
    assert!(server.cpu_ns_per_message > 0.0 && server.rss_bytes.is_some_and(|bytes| bytes > 0));
    assert_eq!((server.engine.as_deref(), server.counters["messages"]), (Some("blocking"), 12));
    // The generator's own congestion control comes from a flag, the server's from its output.
    let scenario = &document.scenarios[0];
    assert_eq!(scenario.generator.congestion.as_deref(), Some("reno"));
    assert_eq!(scenario.server.congestion.as_deref(), Some("cubic"));
    let command = document.subject.command.expect("named");
    assert!(!command.contains(env!("CARGO_MANIFEST_DIR")), "{command}");
}

#[test]
fn a_server_that_dies_is_reported_with_its_stderr() {
    let command = server_command("exit");
    let output = output(&[
        "run", SPAWNED, "--spawn", &command, "-d", "1h", "--engine", "epoll", "--json", "-",
    ]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in
        ["ENDED EARLY", "the server ended during the run", "exit status: 3", "as the test wants it"]
    {
        assert!(said.contains(part), "{part} not in: {said}");
    }
    let run = &document(&output).runs[0];
    assert!(run.messages.is_some_and(|messages| messages.sent > 0) && run.ended_early.is_some());
    assert!(
        !text(&output.stdout).contains("as the test wants it"),
        "what a server writes is not stored"
    );
}

#[test]
fn a_server_that_does_not_start_is_reported_with_its_stderr() {
    let fails = |command: &str, parts: &[&str]| {
        assert_fails(&["run", SPAWNED, "--engine", "epoll", "--spawn", command], 1, parts);
    };
    fails("/no/such/server", &["cannot run `/no/such/server`", "127"]);
    fails(
        "sh -c 'echo my reasons >&2; exit 4'",
        &["before it accepted", "exit status: 4", "my reasons"],
    );
    let words =
        ["run", SPAWNED, "--engine", "epoll", "--spawn", "sleep 3600", "--spawn-timeout", "200ms"];
    assert_fails(&words, 1, &["does not accept", "--spawn-timeout"]);
    let words = ["run", SPAWNED, "--engine", "epoll", "--spawn", "true", "--spawn-cpus", "1000"];
    assert_fails(&words, 2, &["--spawn-cpus: processor 1000 is not among those"]);
}

#[test]
fn another_process_on_the_port_is_not_the_server() {
    let taken = Echo::ws(Fault::None);
    let words = ["run", &taken.ws_url(), "--engine", "epoll", "--spawn", "sleep 3600"];
    assert_fails(&words, 1, &["already listens"]);

    // Another process takes the port while the server is starting.
    let at = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let folder = scratch("port");
    let marker = folder.join("started");
    let command = format!("sh -c 'touch {}; exec sleep 3600'", marker.display());
    let url = format!("ws://{at}/");
    let words = ["run", &url, "--engine", "epoll", "--spawn", &command];
    let child = loadgen(&words).stderr(Stdio::piped()).spawn().expect("runs");
    until("the server starts", || marker.exists());
    let _somebody = TcpListener::bind(at).expect("still free");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("does not belong to the server"),
        "{}",
        text(&output.stderr)
    );
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn a_server_ends_with_its_generator() {
    let at = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let command = server_command("none").replace("{port}", &at.port().to_string());
    let url = format!("ws://{at}/");
    let words = ["run", &url, "-d", "1h", "--engine", "epoll", "--spawn", &command];
    let mut child = loadgen(&words).stdout(Stdio::null()).spawn().expect("runs");
    until("the server listens", || listens(at) || ended(&mut child));
    child.kill().expect("our own child");
    child.wait().expect("killed");
    until("the server has ended", || !listens(at));
}

pub(super) fn listens(at: SocketAddr) -> bool {
    TcpStream::connect(at).is_ok()
}

pub(super) fn ended(child: &mut Child) -> bool {
    child.try_wait().is_ok_and(|status| status.is_some())
}

pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < BOUND, "{what}: not within {BOUND:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns a folder of this test's own.
pub(super) fn scratch(name: &str) -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("sparring-loadgen-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

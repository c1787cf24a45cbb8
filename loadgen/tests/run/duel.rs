//! Comparisons from their user's view: exit codes, stored sessions, and refused arguments.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use loadgen::result::{Document, SessionKind, SessionVerdict};
use rustix::process::{Pid, Signal, kill_process};

use super::command::{assert_fails, loadgen, output, scratch, server_command, text};

/// Flags of very short runs, saturated on their own.
pub(super) const SHORT: [&str; 11] = [
    "--saturation-only",
    "-c",
    "4",
    "-d",
    "60ms",
    "-w",
    "10ms",
    "--settle",
    "0",
    "--engine",
    "epoll",
];

/// Returns the arguments of a duel of two servers, stored in `folder`.
fn duel<'a>(a: &'a str, b: &'a str, folder: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let results = folder.to_str().expect("UTF-8");
    [&["duel", a, b, "--results", results], &SHORT[..], more].concat()
}

/// Returns all files below a folder.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .map(|entries| entries.flatten().collect::<Vec<_>>())
        .unwrap_or_default();
    let below = entries.into_iter().map(|entry| entry.path());
    below.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn assert_schema(json: &serde_json::Value) {
    let schema = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results/schema.json"));
    let schema = serde_json::from_slice(&schema.expect("the schema is there")).expect("JSON");
    jsonschema::validate(&schema, json).expect("the document follows the schema");
}

#[test]
fn a_duel_is_judged_printed_and_stored() {
    let folder = scratch("duel");
    let server = server_command("none");
    let output = output(&duel(&server, &server, &folder, &["--pairs", "2", "--tag", "trial"]));
    let (table, notes) = (text(&output.stdout), text(&output.stderr));
    // Two pairs decide nothing. A debug build measures nothing, nor does a short stall of a busy
    // machine.
    assert!(matches!(output.status.code(), Some(0 | 13)), "{table}{notes}");
    assert!(table.contains("B against A: ") && table.contains("stored in "), "{table}");
    assert!(notes.starts_with("duel: 1 scenario on 2 arms, 2 rounds, 4 runs, about "), "{notes}");
    assert!(notes.contains("[1/2] trial            A ") && notes.contains(" left"), "{notes}");
    let stored = files(&folder);
    assert_eq!(stored.len(), 1, "{stored:?}");
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(&stored[0]).expect("stored")).expect("JSON");
    assert_schema(&json);
    let document: Document = serde_json::from_value(json).expect("a document");
    assert_eq!(
        (document.session.kind, document.arms.len(), document.runs.len()),
        (SessionKind::Ab, 2, 4)
    );
    let order: Vec<&str> = document.runs.iter().map(|run| run.arm.as_str()).collect();
    assert_eq!(order, ["A", "B", "B", "A"]);
    let Some(SessionVerdict::Comparison(conclusion)) = document.verdict else {
        panic!("not compared")
    };
    assert!(conclusion.interleaved);
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn a_dry_run_checks_the_flags_and_starts_nothing() {
    let folder = scratch("duel-dry");
    let marker = folder.join("started");
    let server = format!("touch {}", marker.display());
    let dry =
        |more: &[&str]| output(&duel(&server, &server, &folder, &[&["--dry-run"], more].concat()));
    let fine = dry(&["--pairs", "2"]);
    assert_eq!(fine.status.code(), Some(0));
    assert!(
        text(&fine.stderr).starts_with("duel: 1 scenario on 2 arms, 2 rounds, 4 runs"),
        "{}",
        text(&fine.stderr)
    );
    for wrong in [&["--scenario", "nosuch"][..], &["--pairs", "0"], &["-R", "5k"]] {
        assert_eq!(dry(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert!(!marker.exists() && files(&folder).is_empty());
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn a_broken_server_ends_the_duel_with_its_side_and_stderr() {
    let folder = scratch("duel-bad");
    let good = server_command("none");
    let fails =
        |a: &str, b: &str, parts: &[&str]| assert_fails(&duel(a, b, &folder, &["-q"]), 1, parts);
    fails("/no/such/server", &good, &["arm A, round 1: ", "cannot run `/no/such/server`"]);
    fails(
        "sh -c 'echo my reasons >&2; exit 4'",
        &good,
        &["arm A, round 1: ", "exit status: 4", "my reasons"],
    );
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}/", taken.local_addr().expect("its address"));
    assert_fails(
        &duel(&good, &good, &folder, &["-q", "--url", &url]),
        1,
        &["arm A, round 1: ", "already listens"],
    );
    assert_eq!(files(&folder), Vec::<PathBuf>::new(), "nothing was measured");
    fs::remove_dir_all(&folder).expect("our own folder");
}

/// Returns the only session that is stored in a folder. It must follow the schema.
pub(super) fn stored(folder: &Path) -> Document {
    let stored: Vec<PathBuf> = files(folder)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    assert_eq!(stored.len(), 1, "{stored:?}");
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(&stored[0]).expect("stored")).expect("JSON");
    assert_schema(&json);
    serde_json::from_value(json).expect("a document")
}

#[test]
fn good_runs_beside_a_broken_server_are_stored() {
    let good = server_command("none");
    for (bad, part) in [
        ("/no/such/server".to_owned(), "cannot run `/no/such/server`"),
        (server_command("corrupt"), "echoes were not what was sent"),
    ] {
        let folder = scratch("duel-one-bad");
        let output = output(&duel(&good, &bad, &folder, &["--pairs", "2"]));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("arm B, round 1: ") && said.contains(part), "{said}");
        let document = stored(&folder);
        assert!(document.runs.iter().any(|run| run.arm == "A"));
        let marks = &document.session.marks;
        assert!(marks.iter().any(|mark| mark.starts_with("load, arm B, round 1: ")), "{marks:?}");
        fs::remove_dir_all(&folder).expect("our own folder");
    }
}

/// Returns the command of a server that runs `first` in a shell before it serves.
pub(super) fn server_after(folder: &Path, first: &str) -> String {
    let script = folder.join("server.sh");
    // The port is the script's argument, in quotes of its own.
    let serve = server_command("none").replace("{port}", "'\"$1\"'");
    fs::write(&script, format!("{first}\nexec {serve}\n")).expect("written");
    format!("sh '{}' {{port}}", script.display())
}

#[test]
fn repeats_a_run_whose_server_failed_once() {
    let folder = scratch("duel-flaky");
    let flag = folder.join("failed");
    let flaky = server_after(
        &folder,
        &format!("test -e '{0}' || {{ : > '{0}'; exit 3; }}", flag.display()),
    );
    let output = output(&duel(&server_command("none"), &flaky, &folder, &["--pairs", "2"]));
    let said = text(&output.stdout);
    assert!(matches!(output.status.code(), Some(0 | 13)), "{said}{}", text(&output.stderr));
    assert!(
        said.contains("REPEATED load B: the server ended") && said.contains("exit status: 3"),
        "{said}"
    );
    let document = stored(&folder);
    assert_eq!(document.runs.len(), 4);
    let repeated = &document.runs[1].repeated;
    assert!(repeated.first().is_some_and(|why| why.contains("exit status: 3")), "{repeated:?}");
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn a_session_that_cannot_be_stored_goes_to_standard_output() {
    let folder = scratch("duel-unstored");
    let results = folder.join("results");
    // A file replaces the folder.
    let gone = server_after(&folder, &format!("rm -rf '{0}'; : > '{0}'", results.display()));
    let output = output(&duel(&server_command("none"), &gone, &results, &["--pairs", "1"]));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot create ") && said.contains("B against A: "), "{said}");
    let document: Document =
        serde_json::from_slice(&output.stdout).expect("a document and nothing else");
    assert_eq!(document.runs.len(), 2);
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn results_that_cannot_be_stored_are_refused_before_measuring() {
    let server = server_command("none");
    let results = Path::new("/proc/none");
    assert_fails(&duel(&server, &server, results, &[]), 1, &["cannot create /proc/none"]);
    let arms = [format!("--arm=a={server}"), format!("--arm=b={server}")];
    assert_fails(
        &["experiment", "arms", &arms[0], &arms[1], "--results", "/proc/none"],
        1,
        &["cannot create /proc/none"],
    );
}

#[test]
fn an_arm_that_cannot_be_run_is_named_and_the_others_are_stored() {
    let folder = scratch("arms");
    let server = server_command("none");
    let arms = [
        format!("--arm=one={server}"),
        format!("--arm=two={server}"),
        "--arm=bad=/no/such {port}".to_owned(),
    ];
    let short = ["--scenarios=echo", "--rounds=1", "-d=60ms", "-w=10ms", "--engine=epoll"];
    let results = format!("--results={}", folder.display());
    let words: Vec<&str> = ["experiment", "arms", &results]
        .into_iter()
        .chain(arms.iter().map(String::as_str))
        .chain(short)
        .collect();
    let output = output(&words);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("cannot run `/no/such`") && said.contains("arm bad was left out"),
        "{said}"
    );
    let document = stored(&folder);
    assert_eq!(document.runs.len(), 2);
    assert!(document.arms[2].left_out.is_some());
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn an_interrupted_experiment_is_resumed() {
    let folder = scratch("resume");
    let server = server_command("none");
    let arms = [format!("--arm=one={server}"), format!("--arm=two={server}")];
    let results = format!("--results={}", folder.display());
    let short = ["--scenarios=echo", "--rounds=6", "-d=200ms", "-w=10ms", "--engine=epoll"];
    let words: Vec<&str> =
        ["experiment", "arms", &results, &arms[0], &arms[1]].into_iter().chain(short).collect();
    let mut child =
        loadgen(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut notes = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.starts_with("[2/") {
        line.clear();
        assert_ne!(notes.read_line(&mut line).expect("text"), 0, "it ended by itself");
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("our own child");
    let mut rest = String::new();
    notes.read_to_string(&mut rest).expect("text");
    assert_eq!(child.wait_with_output().expect("ends").status.code(), Some(130), "{rest}");
    let cut = stored(&folder);
    assert!(cut.session.interrupted && cut.runs.len() < 12);
    let file = files(&folder).remove(0);
    let resume = format!("--resume={}", file.display());
    let other = [&words[..], &[&resume, "--rounds=7"]].concat();
    assert_eq!(output(&other).status.code(), Some(2), "--rounds twice");
    let ended = output(&[&words[..], &[&resume]].concat());
    let said = text(&ended.stderr);
    assert!(matches!(ended.status.code(), Some(0 | 13)), "{said}");
    let whole = stored(&folder);
    assert_eq!((whole.runs.len(), whole.session.interrupted), (12, false));
    assert_eq!(whole.runs[..cut.runs.len() - 1], cut.runs[..cut.runs.len() - 1]);
    assert_eq!(whole.session.start, cut.session.start);
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn unusable_commands_and_flags_end_with_2() {
    let folder = scratch("duel-usage");
    let fails = |a: &str, more: &[&str], parts: &[&str]| {
        assert_fails(&duel(a, "b {port}", &folder, more), 2, parts);
    };
    fails("open 'quote", &[], &["command A", "quote"]);
    assert_fails(
        &["duel", "a {port}", "b {port}", "--scenario", "fast"],
        2,
        &["`fast` is unknown"],
    );
    fails(
        "a {port}",
        &["--scenario", "tcp", "--url", "ws://127.0.0.1:{port}/"],
        &["`tcp` needs a tcp:// URL"],
    );
    fails("a {port}", &["--pairs", "0"], &["--pairs"]);
    assert_fails(&["duel", "only one {port}"], 2, &["COMMAND B"]);
    assert_fails(&["aa", "a {port}", "--pairs", "7"], 2, &["--pairs"]);
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn a_signal_gives_the_verdict_so_far_and_its_own_exit_code() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let folder = scratch("duel-cut");
        let server = server_command("none");
        let mut child = loadgen(&duel(&server, &server, &folder, &["--pairs", "1000"]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut notes = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.starts_with("[3/") {
            line.clear();
            assert_ne!(notes.read_line(&mut line).expect("text"), 0, "it ended by itself");
        }
        kill_process(Pid::from_child(&child), signal).expect("our own child");
        if signal == Signal::HUP {
            // Both the kernel and a shell send it.
            let _ = kill_process(Pid::from_child(&child), signal);
        }
        let mut rest = String::new();
        notes.read_to_string(&mut rest).expect("text");
        let output = child.wait_with_output().expect("ends");
        let table = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{table}{rest}");
        assert!(table.contains("\nINTERRUPTED: "), "{table}");
        let document = stored(&folder);
        assert!(document.session.interrupted && document.runs.len() >= 4);
        fs::remove_dir_all(&folder).expect("our own folder");
    }
}

#[test]
fn a_session_behind_nohup_outlives_its_terminal() {
    let folder = scratch("duel-nohup");
    let flag = folder.join("started");
    // The server shows that the first run has begun. Then the signal of a closed terminal comes,
    // which has been ignored since before the start.
    let server = server_after(&folder, &format!(": > '{}'", flag.display()));
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_sparring-loadgen")]);
    command.args(duel(&server, &server, &folder, &["--pairs", "2", "-q"]));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().expect("runs");
    let began = Instant::now();
    while !flag.exists() && began.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&child), Signal::HUP).expect("our own child");
    let output = child.wait_with_output().expect("ends");
    assert!(matches!(output.status.code(), Some(0 | 13)), "{}", text(&output.stderr));
    assert_eq!(stored(&folder).runs.len(), 4);
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn noise_is_recorded_and_stored() {
    let folder = scratch("noise");
    let (results, server) = (folder.to_str().expect("UTF-8"), server_command("none"));
    let words = [&["aa", &server, "--pairs", "8", "--results", results], &SHORT[..]].concat();
    let output = output(&words);
    assert!(
        matches!(output.status.code(), Some(0 | 13)),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(&files(&folder)[0]).expect("stored")).expect("JSON");
    assert_schema(&json);
    assert_eq!(json["session"]["kind"], "aa");
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn recorded_pairs_are_judged_and_damaged_recordings_refused() {
    let folder = scratch("proof");
    let (server, json) = (server_command("none"), folder.join("pair.json"));
    let kept = ["--pairs", "2", "--tag", "same", "-q", "--json", json.to_str().expect("UTF-8")];
    output(&duel(&server, &server, &folder, &kept));
    let mut session: serde_json::Value =
        serde_json::from_slice(&fs::read(&json).expect("written")).expect("JSON");
    // A debug build measures nothing, and a disturbed run may not either; this test is not about
    // the measurement.
    for run in session["runs"].as_array_mut().expect("runs") {
        run["valid"] = true.into();
    }
    let recording = folder.join("pairs.jsonl");
    let record = |lines: &str| fs::write(&recording, lines).expect("written");
    let name = recording.to_str().expect("UTF-8");
    let words = [
        "proof",
        name,
        "--pairs",
        "8",
        "--draws",
        "100",
        "--results",
        folder.to_str().expect("UTF-8"),
    ];
    let line = format!("{session}\n");
    record(&line.repeat(4));
    let judged = output(&words);
    // Equal servers may appear to differ in 60 ms: then the goal is missed.
    assert!(matches!(judged.status.code(), Some(0 | 10)), "{}", text(&judged.stderr));
    let said = text(&judged.stdout);
    assert!(
        said.contains("16 runs recorded") && said.contains("identical servers: 8 pairs"),
        "{said}"
    );
    record(&line.repeat(3));
    assert_fails(&words, 1, &["pairs.jsonl", "6 valid pairs", "fewer than a block of 8"]);
    record(&format!("{line}{}", &line[..line.len() / 2]));
    assert_fails(&words, 1, &["line 2", "truncated"]);
    session["schema"] = 99.into();
    record(&format!("{line}{session}\n"));
    assert_fails(&words, 1, &["line 2", "schema 99"]);
    record("");
    assert_fails(&words, 1, &["pairs.jsonl", "tag `same`"]);
    fs::remove_dir_all(&folder).expect("our own folder");
}

/// Writes a changed copy of a stored session of the repository; returns its path.
fn changed(folder: &Path, name: &str, change: impl Fn(&mut serde_json::Value)) -> String {
    let committed = files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results")));
    let quick = committed
        .iter()
        .find(|path| path.to_string_lossy().ends_with("-quick.json"))
        .expect("there is one");
    let mut json = serde_json::from_slice(&fs::read(quick).expect("readable")).expect("JSON");
    change(&mut json);
    let path = folder.join(name);
    fs::write(&path, json.to_string()).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn incomparable_and_unreadable_files_are_refused() {
    let folder = scratch("compare-bad");
    let good = changed(&folder, "good.json", |_| {});
    let newer = changed(&folder, "newer.json", |json| json["schema"] = 99.into());
    let other =
        changed(&folder, "other.json", |json| json["machine"]["id"] = "ffffffffffff".into());
    let text = fs::read_to_string(&good).expect("readable");
    let cut = folder.join("cut.json");
    fs::write(&cut, &text[..text.len() / 2]).expect("written");
    let cut = cut.to_str().expect("UTF-8");
    for command in ["compare", "report"] {
        let page = folder.join("page.html");
        let page = page.to_str().expect("UTF-8");
        let fails = |base: &str, parts: &[&str]| {
            let more: &[&str] = if command == "report" { &["-o", page] } else { &[] };
            assert_fails(&[&[command, base, &good], more].concat(), 1, parts);
        };
        fails(&newer, &["newer.json", "schema 99"]);
        fails(cut, &["cut.json", "truncated"]);
        fails(&other, &["machines differ", "ffffffffffff", "--force"]);
        fails("gone.json", &["gone.json"]);
        assert!(!Path::new(page).exists());
    }
    let forced = output(&["compare", &other, &good, "--force"]);
    assert_eq!(forced.status.code(), Some(0));
    let said = super::command::text(&forced.stdout);
    assert!(said.contains("ADVISORY: ") && said.contains("FORCED: The machines differ"), "{said}");
    assert_fails(&["compare", &good], 1, &["not an interleaved session"]);
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn stored_sessions_are_listed_shown_and_made_a_page() {
    let folder = scratch("list");
    let machine = folder.join("0123456789ab");
    fs::create_dir_all(&machine).expect("made");
    let file = changed(&machine, "20260101T000000Z-x-quick.json", |json| {
        json["session"]["tag"] = "mine".into();
    });
    let results = folder.to_str().expect("UTF-8");
    let listed = output(&["list", "--results", results, "--tag", "mine", "--scenario", "echo"]);
    assert_eq!(listed.status.code(), Some(0));
    let below = file.strip_prefix(results).expect("it lies there").trim_start_matches('/');
    assert!(text(&listed.stdout).contains(below), "{}", text(&listed.stdout));
    let none = output(&["list", "--results", results, "--tag", "other"]);
    assert!(none.stdout.is_empty() && text(&none.stderr).contains("no stored session"));
    let shown = output(&["show", "mine", "--results", results]);
    assert!(text(&shown.stdout).contains("pipeline"), "{}", text(&shown.stderr));
    let page = folder.join("page.html");
    let charts = folder.join("charts");
    let words = [
        "report",
        &file,
        "-o",
        page.to_str().expect("UTF-8"),
        "--svg",
        charts.to_str().expect("UTF-8"),
    ];
    assert_eq!(output(&words).status.code(), Some(0));
    assert!(fs::read_to_string(&page).expect("written").starts_with("<!DOCTYPE html>"));
    assert!(files(&charts).len() >= 8);
    // A damaged file is named, and does not hide the others.
    fs::write(machine.join("20260102T000000Z-x-quick.json"), "{").expect("written");
    let listed = output(&["list", "--results", results]);
    assert_eq!(listed.status.code(), Some(1));
    assert!(text(&listed.stdout).contains(below) && text(&listed.stderr).contains("truncated"));
    fs::remove_dir_all(&folder).expect("our own folder");
}

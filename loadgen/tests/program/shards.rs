//! Several generators and one result: `run --shard`, `--start-at` and `merge`.

use std::fs;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use loadgen::result::{Document, InvalidKind, Latency, Run};

use super::echo::{Echo, Fault};
use super::{FINE, Scratch, ended, loadgen, output, text};

/// Time from the start of the programs to their load, far beyond the needs of these tests.
const UNTIL_START: Duration = Duration::from_secs(5);

/// The load of all shards: messages at a rate that is not a multiple of their number.
const LOAD: [&str; 10] = ["-c", "10", "-R", "2001", "-d", "1s", "-w", "100ms", "--engine", "epoll"];

fn instant(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// Documents of the shards of one load, each by the name of its file.
struct Shards(Scratch);

impl Shards {
    fn start(&self, url: &str, name: &str, shard: &str, at: &str, more: &[&str]) -> Child {
        let file = self.0.file(name);
        let own = ["run", url, "--shard", shard, "--start-at", at, "--json", &file, "--quiet"];
        let mut command = loadgen(&[&own, &LOAD[..], more].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
    }

    /// Makes all documents once: four shards, and others in place of the third.
    fn all() -> &'static Self {
        static ALL: OnceLock<Shards> = OnceLock::new();
        ALL.get_or_init(|| {
            // A static is never dropped, so the folder is one that cargo cleans. Another user's
            // build has none for us.
            let name = format!("shards-{}", rustix::process::getuid().as_raw());
            let of_cargo = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
            let folder = [of_cargo, std::env::temp_dir().join(&name)].into_iter().find(|folder| {
                let _ = fs::remove_dir_all(folder);
                fs::create_dir_all(folder).is_ok()
            });
            let shards = Self(Scratch(folder.expect("a folder")));
            let server = Echo::ws(Fault::None);
            let (url, port) = (server.ws_url(), server.at.port());
            // The server's clock is another one under this name.
            let skewed = format!("ws://localhost:{port}/");
            let start = SystemTime::now() + UNTIL_START;
            let (at, later) = (instant(start), instant(start + Duration::from_secs(2)));
            let mut running: Vec<Child> = (1..=4)
                .map(|number| {
                    let shard = format!("{number}/4");
                    shards.start(&url, &format!("{number}.json"), &shard, &at, &[])
                })
                .collect();
            running.push(shards.start(&skewed, "skewed.json", "3/4", &at, &[]));
            running.push(shards.start(&url, "size.json", "3/4", &at, &["-s", "64"]));
            running.push(shards.start(&url, "later.json", "3/4", &later, &[]));
            let mut killed = shards.start(&url, "killed.json", "3/4", &at, &[]);
            killed.kill().expect("our own child");
            killed.wait().expect("our own child");
            for child in running {
                let output = ended(child);
                let said = text(&output.stderr);
                // On a busy machine the generator may be late, and the shard INVALID.
                assert!(matches!(output.status.code(), Some(0 | 13)), "{said}");
            }
            shards
        })
    }

    fn document(&self, name: &str) -> Document {
        let json = fs::read_to_string(self.0.file(name)).expect("written");
        serde_json::from_str(&json).expect("a document")
    }

    /// Merges the documents of these names.
    fn merge(&self, names: &[&str]) -> (Output, Run) {
        let files: Vec<String> = names.iter().map(|name| self.0.file(name)).collect();
        let files = files.iter().map(String::as_str);
        let words: Vec<&str> = ["merge", "--json", "-"].into_iter().chain(files).collect();
        let output = output(&words);
        let document: Document = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
        (output, document.runs.into_iter().next().expect("a run"))
    }
}

/// Returns the reasons that lie in the shards' being one load at one time.
fn reasons_of_merging(run: &Run) -> Vec<(InvalidKind, String)> {
    let is_of_merging = |kind: InvalidKind| {
        matches!(
            kind,
            InvalidKind::MissingShard
                | InvalidKind::RepeatedShard
                | InvalidKind::OtherLoad
                | InvalidKind::ClockSkew
                | InvalidKind::WindowsApart
                | InvalidKind::InterruptedShard
        )
    };
    let reasons = run.invalid().filter(|(kind, _)| is_of_merging(*kind));
    reasons.map(|(kind, text)| (kind, text.to_owned())).collect()
}

/// Asserts that the merged run is invalid for one reason of merging, which has these words.
fn assert_invalid(names: &[&str], kind: InvalidKind, words: &[&str]) {
    let (output, run) = Shards::all().merge(names);
    let reasons = reasons_of_merging(&run);
    let [(found, reason)] = &reasons[..] else { panic!("one reason: {reasons:?}") };
    assert_eq!((output.status.code(), *found), (Some(13), kind), "{reason}");
    assert!(words.iter().all(|word| reason.contains(word)), "{words:?}: {reason}");
    assert!(text(&output.stderr).contains(&format!("INVALID: {reason}")));
}

#[test]
fn four_processes_are_one_load() {
    let shards = Shards::all();
    let (output, run) = shards.merge(&["1.json", "2.json", "3.json", "4.json"]);
    assert_eq!(reasons_of_merging(&run), []);
    let is_fine = run.invalid().all(|(kind, _)| kind.is_of_the_build());
    assert!(!is_fine || output.status.code() == Some(FINE), "{}", text(&output.stderr));
    // Message k of the window is due after k / 2001 s: neither rate nor connections divide by 4.
    assert_eq!(run.offered, Some(2001));
    assert_eq!(run.messages.expect("counted").planned, 2001 + 201);
    assert_eq!(run.latency_ns.connect.count, 10);
    let connections: Vec<u64> = run.shards.iter().map(|shard| shard.connections).collect();
    assert_eq!(connections, [3, 3, 2, 2]);

    let parts: Vec<Document> =
        (1..=4).map(|number| shards.document(&format!("{number}.json"))).collect();
    let loads: Vec<_> = parts.iter().map(|part| &part.scenarios[0].parameters).collect();
    assert!(loads.windows(2).all(|pair| pair[0] == pair[1]) && loads[0].connections == 10);
    let read = |latency: &Latency| latency.histogram().expect("readable").expect("stored");
    let mut all = read(&parts[0].runs[0].latency_ns.corrected);
    for part in &parts[1..] {
        all.add(read(&part.runs[0].latency_ns.corrected)).expect("it grows");
    }
    assert_eq!(read(&run.latency_ns.corrected), all);
    assert_eq!(run.latency_ns.corrected.p90, Some(all.value_at_quantile(0.9)));
    let clock = |part: &Document| part.runs[0].shard.as_ref().expect("a shard").clock.is_some();
    assert!(parts.iter().all(clock));
}

#[test]
fn a_merged_document_is_shown_like_any_other() {
    let shards = Shards::all();
    let whole = shards.0.file("whole.json");
    let files = ["1.json", "2.json", "3.json", "4.json"].map(|name| shards.0.file(name));
    let files = files.iter().map(String::as_str);
    let words: Vec<&str> = ["merge", "--json", &whole].into_iter().chain(files).collect();
    let merged = output(&words);
    let shown = output(&["show", &whole]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    for text in [text(&merged.stdout), text(&shown.stdout)] {
        assert!(text.contains("shard") && text.contains("skew"), "{text}");
        assert!(text.contains("10 connections open after"), "{text}");
    }
    let page = shards.0.file("page.html");
    let report = output(&["report", &whole, "-o", &page]);
    assert_eq!(report.status.code(), Some(0), "{}", text(&report.stderr));
    let one = output(&["show", &shards.0.file("2.json")]);
    let one = text(&one.stdout);
    assert!(one.contains("2/4 with 3 of 10 connections") && one.contains("ms +-"), "{one}");
}

#[test]
fn a_killed_shard_makes_the_whole_invalid() {
    let shards = Shards::all();
    assert!(!fs::exists(shards.0.file("killed.json")).expect("the folder is readable"));
    let names = ["1.json", "2.json", "4.json"];
    assert_invalid(&names, InvalidKind::MissingShard, &["shard 3/4 is missing"]);
}

#[test]
fn a_skewed_shard_makes_the_whole_invalid() {
    let names = ["1.json", "2.json", "skewed.json", "4.json"];
    assert_invalid(&names, InvalidKind::ClockSkew, &["shard 3/4", "ms behind"]);
}

#[test]
fn a_shard_with_another_size_makes_it_invalid() {
    let names = ["1.json", "2.json", "size.json", "4.json"];
    let words = ["shard 3/4 had another load: message_bytes is 64, not 32"];
    assert_invalid(&names, InvalidKind::OtherLoad, &words);
}

#[test]
fn a_repeated_shard_makes_the_whole_invalid() {
    let names = ["1.json", "2.json", "3.json", "3.json", "4.json"];
    assert_invalid(&names, InvalidKind::RepeatedShard, &["shard 3/4 is there twice"]);
}

#[test]
fn a_shard_that_measured_later_makes_it_invalid() {
    let names = ["1.json", "2.json", "later.json", "4.json"];
    assert_invalid(&names, InvalidKind::WindowsApart, &["shard 3/4 measured 1.000 s"]);
}

#[test]
fn a_goal_is_one_of_the_whole_load() {
    let shards = Shards::all();
    let files = ["1.json", "2.json", "3.json", "4.json"].map(|name| shards.0.file(name));
    let files = files.iter().map(String::as_str);
    let words = ["merge", "--allow-invalid", "-q", "--threshold", "rate>1M"];
    let missed = output(&words.into_iter().chain(files).collect::<Vec<_>>());
    assert_eq!(missed.status.code(), Some(10), "{}", text(&missed.stderr));
    assert!(text(&missed.stderr).contains("threshold MISSED: rate>1M"));
    assert!(missed.stdout.is_empty());
}

#[test]
fn the_load_begins_at_the_instant_that_was_asked_for() {
    let server = Echo::ws(Fault::None);
    let shards = Shards(Scratch::new("start-at"));
    let start = instant(SystemTime::now() + Duration::from_secs(2));
    let child = shards.start(&server.ws_url(), "1.json", "1/1", &start, &[]);
    let output = ended(child);
    let run = shards.document("1.json").runs.remove(0);
    assert!(matches!(output.status.code(), Some(0 | 13)), "{}", text(&output.stderr));
    let shard = run.shard.expect("a shard");
    assert_eq!(shard.load_start.to_string(), start);
    // The order to begin is given 2 ms before; a millisecond is lost in rounding.
    let connected: SystemTime = humantime::parse_rfc3339(&run.start.to_string()).expect("a time");
    let begun = connected + Duration::from_nanos(run.phases.connect + run.phases.settle);
    let asked = humantime::parse_rfc3339(&start).expect("a time");
    assert!(begun >= asked - Duration::from_millis(3), "{begun:?} {asked:?}");
}

#[test]
fn the_clock_of_a_server_over_tls_is_read() {
    let record = |url: &str, more: &[&str]| {
        let output = super::run(url, &[&["--shard", "1/1", "--json", "-"], more].concat());
        let document: Document = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
        let run = document.runs.into_iter().next().expect("a run");
        run.shard.expect("a shard")
    };
    let secure = record(&Echo::wss(Fault::None).wss_url(), &["--insecure"]);
    let clock = secure.clock.unwrap_or_else(|| panic!("{secure:?}"));
    // Both ends have the clock of this machine.
    assert!(clock.low_ns <= 0 && clock.high_ns >= 0, "{clock:?}");
    let raw = record(&Echo::tcp(32, Fault::None).tcp_url(), &[]);
    assert_eq!(raw.clock_unknown.as_deref(), Some("a tcp:// server has no Date"));
}

#[test]
fn a_start_that_has_passed_is_an_error() {
    let server = Echo::ws(Fault::None);
    let url = server.ws_url();
    let run = |flags: &[&str]| {
        let output = output(&[&["run", &url], flags].concat());
        (output.status.code(), text(&output.stderr))
    };
    let (code, said) = run(&["--start-at", "2026-03-01T09:30:00Z"]);
    let expected = "--start-at 2026-03-01T09:30:00.000Z has passed: expected";
    assert!(code == Some(2) && said.contains(expected), "{said}");
    // The pause before the load is longer than the time that is left.
    let (code, said) = run(&["--start-at", "+1s", "--settle", "1500ms", "--engine", "epoll"]);
    assert!(code == Some(1) && said.contains("--start-at had passed by"), "{said}");
}

#[test]
fn unusable_flags_of_shards_name_value_and_example() {
    for (flags, words) in [
        (&["--shard", "5/4"][..], &["--shard", "'5/4'", "expected 1/4 to 4/4"][..]),
        (&["--shard", "0/4"], &["--shard", "'0/4'", "expected 1/4 to 4/4"]),
        (&["--shard", "x"], &["--shard", "'x'", "as in 1/4 to 4/4, or auto"]),
        (&["--shard", "auto"], &["--shard", "SLURM_PROCID", "SPARRING_SHARDS"]),
        (&["--start-at", "soon"], &["--start-at", "'soon'", "as in 2026-03-01T09:30:00Z or +10s"]),
        (&["--start-at", "+soon"], &["--start-at", "'+soon'", "10s"]),
        (&["--shard", "4/4", "-c", "3"], &["-c 3 has nothing for --shard 4/4"]),
        (&["--shard", "4/4", "-n", "3"], &["-n 3 has nothing for --shard 4/4"]),
        (&["--shard", "2/4", "-c", "10", "-t", "4"], &["-t 4", "--shard 2/4 has 3 of -c 10"]),
        (&["--shard", "1/4", "--spawn", "server"], &["--spawn and --shard"]),
        (&["--shard", "1/4", "--find-rate", "p99<2ms"], &["--find-rate and --shard"]),
        (&["--shard", "1/4", "--threshold", "p99<2ms"], &["--threshold and --shard", "merge"]),
        (&["--start-at", "+1s", "--find-rate", "p99<2ms"], &["--find-rate and --start-at"]),
    ] {
        let mut command = loadgen(&[&["run", "ws://127.0.0.1:1/"], flags].concat());
        for name in ["SLURM_PROCID", "JOB_COMPLETION_INDEX"] {
            command.env_remove(name);
        }
        let output = command.output().expect("it runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    }
}

#[test]
fn merge_refuses_what_is_no_shard() {
    let server = Echo::ws(Fault::None);
    let scratch = Scratch::new("no-shard");
    let file = scratch.file("run.json");
    super::run(&server.ws_url(), &["--json", &file]);
    let refused = output(&["merge", &file]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("run.json is not the document of a shard: expected one of"), "{said}");
    assert_eq!(output(&["merge"]).status.code(), Some(2));
    assert_eq!(output(&["merge", &scratch.file("none.json")]).status.code(), Some(1));
    let cost = output(&["merge", &file, "--threshold", "server-cpu<2us"]);
    assert_eq!(cost.status.code(), Some(2), "{}", text(&cost.stderr));
}

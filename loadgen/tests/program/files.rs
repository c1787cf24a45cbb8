use std::fs;
use std::process::Command;

use super::echo::{Echo, Fault};
use super::{FINE, Scratch, run, text};

#[test]
fn every_format_has_the_measurements() {
    let (server, scratch) = (Echo::ws(Fault::None), Scratch::new("files"));
    let [csv, hlog, hgrm, json] =
        ["a.csv", "a.hlog", "a.hgrm", "a.json"].map(|name| scratch.file(name));
    let output = run(
        &server.ws_url(),
        &["--csv", &csv, "--hdr-log", &hlog, "--hgrm", &hgrm, "--json", &json],
    );
    assert_eq!(output.status.code(), Some(FINE), "{}", text(&output.stderr));
    let document: serde_json::Value =
        serde_json::from_slice(&fs::read(&json).expect("written")).expect("JSON");
    let run = &document["runs"][0];
    let lines: Vec<String> =
        fs::read_to_string(&csv).expect("written").lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "a header, a whole second and a part of one: {lines:?}");
    let cells = |line: &String, cell: usize| {
        line.split(',').nth(cell).and_then(|text| text.parse::<u64>().ok())
    };
    let sum = |cell| lines[1..].iter().filter_map(|line| cells(line, cell)).sum::<u64>();
    assert_eq!(
        (sum(1), sum(2)),
        (run["sent"].as_u64().expect("a count"), run["received"].as_u64().expect("a count"))
    );
    assert_eq!(sum(7), 1_200_000_000, "the spans are the window");
    let log = fs::read_to_string(&hlog).expect("written");
    assert_eq!(log.lines().filter(|line| !line.starts_with('#')).count(), 2, "{log}");
    let count = run["latency_ns"]["corrected"]["count"].as_u64().expect("a count");
    let distribution = fs::read_to_string(&hgrm).expect("written");
    assert!(distribution.contains(&format!("Total count    = {count:>12}]")), "{distribution}");
    assert_eq!(fs::read_dir(&scratch.0).expect("a folder").count(), 4, "nothing else is left");
    read_by_python(&hlog, count);
}

/// Reads the log with the HdrHistogram project's own Python reader, where that is installed.
fn read_by_python(hlog: &str, count: u64) {
    const READ: &str = "import sys
from hdrh.log import HistogramLogReader
from hdrh.histogram import HdrHistogram
reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, 60_000_000_000, 2))
print(sum(h.get_total_count() for h in iter(reader.get_next_interval_histogram, None)))";
    let python = std::env::var("SPARRING_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let known = Command::new(&python).args(["-c", "import hdrh"]).output();
    if !known.is_ok_and(|known| known.status.success()) {
        println!("skipped: Python's hdrhistogram is not installed (pip install hdrhistogram)");
        return;
    }
    let output = Command::new(&python).args(["-c", READ, hlog]).output().expect("it was there");
    assert_eq!(text(&output.stdout).trim(), count.to_string(), "{}", text(&output.stderr));
}

#[test]
fn only_one_format_goes_to_standard_output() {
    let server = Echo::ws(Fault::None);
    let output = run(&server.ws_url(), &["--csv", "-"]);
    let csv = text(&output.stdout);
    assert!(csv.starts_with("second,") && csv.lines().count() == 3, "{csv}");
    assert!(text(&output.stderr).contains("msg/s"), "the table goes elsewhere");
    let both = run(&server.ws_url(), &["--csv", "-", "--json", "-"]);
    assert_eq!(both.status.code(), Some(2));
    let said = text(&both.stderr);
    assert!(said.contains("--json -") && said.contains("--csv -"), "{said}");
}

#[test]
fn unwritable_files_are_reported_before_the_run() {
    for flag in ["--csv", "--hdr-log", "--hgrm"] {
        let output = run("ws://127.0.0.1:1/", &[flag, "/no/such/folder/file"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(&format!("{flag} /no/such/folder/file")), "{flag}");
    }
}

#[test]
fn prints_the_requested_percentiles() {
    let server = Echo::ws(Fault::None);
    let output = run(&server.ws_url(), &["--percentiles", "25,p50,99.9999"]);
    let table = text(&output.stdout);
    assert!(table.contains("p25 ") && table.contains("p99.9999 (too few samples)"), "{table}");
    let wrong = run(&server.ws_url(), &["--percentiles", "50,100"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("--percentiles"));
}

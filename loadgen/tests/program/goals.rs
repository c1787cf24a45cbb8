use std::process::Output;

use loadgen::result::{Document, Goals, SessionKind, SessionVerdict};

use super::echo::{Echo, Fault};
use super::{output, run, text};

fn document(output: &Output) -> Document {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)))
}

fn goals_of(document: Document) -> Goals {
    let Some(SessionVerdict::Goals(goals)) = document.verdict else {
        panic!("{:?}", document.verdict)
    };
    goals
}

#[test]
fn a_missed_threshold_ends_with_10_and_is_stored() {
    let server = Echo::ws(Fault::None);
    let goals =
        ["--threshold", "p50<1h", "--threshold", "max<1ns", "--allow-invalid", "--json", "-"];
    let missed = run(&server.ws_url(), &goals);
    assert_eq!(missed.status.code(), Some(10), "{}", text(&missed.stderr));
    let table = text(&missed.stderr);
    assert!(table.contains("met:    p50<1h") && table.contains("MISSED: max<1ns"), "{table}");
    let goals = goals_of(document(&missed));
    assert!(!goals.met && goals.thresholds[0].met);
    assert_eq!(goals.thresholds[1].threshold, "max<1ns");
    let met = run(&server.ws_url(), &["--threshold", "errors<1", "--allow-invalid"]);
    assert_eq!(met.status.code(), Some(0), "{}", text(&met.stderr));
}

#[test]
fn invalid_goals_are_rejected() {
    for (flags, part) in [
        (&["--threshold", "p99=2ms"][..], "p99<2ms"),
        (&["--threshold", "rss<1GB"], "--spawn"),
        (&["--find-rate", "rate>5k"], "--find-rate"),
        (&["--find-rate", "p99<2ms", "-R", "5k"], "--rate"),
        (&["--rate-range", "1k..2k"], "--find-rate"),
        (&["--find-rate", "p99<2ms", "--rate-range", "2k..1k"], "--rate-range"),
    ] {
        let output = run("ws://127.0.0.1:1/", flags);
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(text(&output.stderr).contains(part), "{flags:?}: {}", text(&output.stderr));
    }
}

/// Runs a short search of a range whose lowest rate every machine sustains, and whose highest none
/// does.
fn search(threshold: &str) -> Output {
    let server = Echo::ws(Fault::None);
    let url = server.ws_url();
    let load = [
        "run", &url, "-c", "2", "-d", "300ms", "-w", "20ms", "--trial", "100ms", "--engine",
        "epoll",
    ];
    let goal =
        ["--find-rate", threshold, "--rate-range", "200..300", "--allow-invalid", "--json", "-"];
    output(&[&load[..], &goal].concat())
}

#[test]
fn a_search_reports_that_even_the_lowest_rate_misses() {
    let found = search("max<1ns");
    assert_eq!(found.status.code(), Some(10), "{}", text(&found.stderr));
    let document = document(&found);
    let search = goals_of(document).find_rate.expect("searched");
    assert_eq!(search.rate_per_s, None);
    // A disturbed machine is not the server's fault, and is the conclusion instead.
    let conclusion = search.conclusion;
    assert!(
        conclusion.contains("the lowest rate")
            || conclusion.contains("the generator was the limit"),
        "{conclusion}"
    );
    assert!(text(&found.stderr).contains("trial 1:"), "{}", text(&found.stderr));
}

#[test]
fn the_trials_of_a_search_are_its_runs() {
    let document = document(&search("max<1h"));
    let trials = goals_of(document.clone()).find_rate.expect("searched").trials;
    assert_eq!(trials.len(), document.runs.len());
    assert!(trials.len() >= 2);
    let names: Vec<&str> =
        document.scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
    assert!(document.runs.iter().all(|run| names.contains(&run.scenario.as_str())), "{names:?}");
    assert_eq!(
        (document.session.kind, document.session.order.as_str()),
        (SessionKind::Single, "search")
    );
    let schema =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results/schema.json"));
    let schema = serde_json::from_slice(&schema.expect("the schema is there")).expect("JSON");
    let json = serde_json::to_value(&document).expect("JSON");
    jsonschema::validate(&schema, &json).expect("the document follows the schema");
}

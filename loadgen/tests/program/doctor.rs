use std::thread;

use engine::affinity;

use super::{output, text};

/// True for debug builds, which invalidate every measurement.
const IS_INVALID: bool = cfg!(debug_assertions);

#[test]
fn the_table_names_every_check_and_sets_the_exit_code() {
    let output = output(&["doctor", "--watch", "10ms"]);
    let table = text(&output.stdout);
    let faults = table.lines().filter(|line| line.starts_with("INVALIDATES")).count();
    assert_eq!(output.status.code(), Some(i32::from(faults > 0)), "{table}");
    assert!(!IS_INVALID || table.contains("cargo build --release"), "{table}");
    for check in ["descriptors", "ports", "backlog", "governor", "steal", "io_uring", "congestion"]
    {
        assert!(table.contains(check), "{check} not in: {table}");
    }
}

#[test]
fn json_is_for_programs() {
    let output = output(&["doctor", "--watch", "0", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON alone");
    assert_eq!(report["schema"], 2);
    let findings = report["findings"].as_array().expect("a list");
    let invalidates = findings.iter().any(|finding| finding["severity"] == "invalidates");
    assert_eq!(report["invalidates"], invalidates);
    assert_eq!(output.status.code(), Some(i32::from(invalidates)));
    assert!(
        findings.iter().all(|finding| finding["check"].is_string() && finding["fix"].is_string())
    );
}

#[test]
fn wrong_usage_is_named() {
    let output = output(&["doctor", "--root", "/no/such/folder"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--root /no/such/folder"));
}

/// Number of a processor that no machine has, and that the kernel's type for sets of processors
/// holds.
const ABSENT: &str = "1023";

#[test]
fn absent_processors_are_refused_with_the_allowed_ones() {
    for arguments in [
        &["doctor", "--watch", "0", "--cpus", ABSENT][..],
        &["doctor", "--watch", "0", "--spawn-cpus", ABSENT],
        &["run", "ws://127.0.0.1:1/", "--cpus", ABSENT],
        &["run", "ws://127.0.0.1:{port}/", "--spawn", "true", "--spawn-cpus", ABSENT],
        &["duel", "true {port}", "true {port}", "--spawn-cpus", ABSENT],
        &["aa", "true {port}", "--cpus", ABSENT],
    ] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let (said, flag) = (text(&output.stderr), arguments[arguments.len() - 2]);
        let expected = format!("{flag}: processor 1023 is not among those this process may use (");
        assert!(said.contains(&expected), "{arguments:?}: {said}");
    }
}

#[test]
fn processors_beyond_the_mask_are_used_within_the_cpuset() {
    let cpus = affinity::allowed().expect("a mask");
    let [first, .., last] = cpus[..] else {
        println!("skipped: there is only one processor");
        return;
    };
    let (first, last) = (first.to_string(), last.to_string());
    let commands = [
        vec!["doctor", "--watch", "0", "--cpus", &last, "--spawn-cpus", &first],
        vec!["run", "ws://127.0.0.1:{port}/", "--spawn", "true", "--spawn-cpus", &first],
        vec!["run", "ws://127.0.0.1:1/", "--cpus", &first],
    ];
    // Child processes inherit the mask of the thread that starts them.
    let narrowed = thread::scope(|scope| {
        let start = || {
            affinity::pin(*cpus.last().expect("two")).expect("allowed");
            commands.iter().map(|arguments| output(arguments)).collect::<Vec<_>>()
        };
        scope.spawn(start).join().expect("no panic")
    });
    for (output, arguments) in narrowed.iter().zip(&commands) {
        let said = text(&output.stderr) + &text(&output.stdout);
        assert_ne!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(!said.contains("have to share it"), "{arguments:?}: {said}");
    }
}

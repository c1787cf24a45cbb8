use super::{output, text};

/// Debug builds spoil every measurement.
const SPOILED: bool = cfg!(debug_assertions);

#[test]
fn the_table_names_every_check_and_the_exit_code_says_whether_one_spoils() {
    let output = output(&["doctor", "--watch", "10ms"]);
    let table = text(&output.stdout);
    let spoils = table.lines().filter(|line| line.starts_with("SPOILS")).count();
    assert_eq!(output.status.code(), Some(i32::from(spoils > 0)), "{table}");
    assert!(!SPOILED || table.contains("cargo build --release"), "{table}");
    for check in ["descriptors", "ports", "backlog", "governor", "steal", "io_uring", "congestion"] {
        assert!(table.contains(check), "{check} not in: {table}");
    }
}

#[test]
fn json_is_for_programs() {
    let output = output(&["doctor", "--watch", "0", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON alone");
    assert_eq!(report["schema"], 1);
    let findings = report["findings"].as_array().expect("a list");
    let spoiled = findings.iter().any(|finding| finding["severity"] == "spoils");
    assert_eq!(report["spoiled"], spoiled);
    assert_eq!(output.status.code(), Some(i32::from(spoiled)));
    assert!(findings.iter().all(|finding| finding["check"].is_string() && finding["fix"].is_string()));
}

#[test]
fn wrong_usage_is_named() {
    let output = output(&["doctor", "--root", "/no/such/folder"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--root /no/such/folder"));
}

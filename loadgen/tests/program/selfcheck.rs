use std::time::Duration;

use super::echo::{Echo, Fault};
use super::{output, text};

/// Environment variable with the port of the server that this test program becomes.
const PORT: &str = "SPARRING_TEST_PORT";

/// Not a test: the server that the self-check stops.
#[test]
#[ignore = "the server that another test spawns"]
fn serve() {
    let Ok(port) = std::env::var(PORT) else { return };
    let server = Echo::ws_at(&format!("127.0.0.1:{port}"), Fault::None);
    // The test runner has begun a line of its own.
    println!("\nlistening on {} (engine blocking, 1 thread)", server.ws_url());
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

#[test]
fn a_stall_is_measured_as_calculated() {
    let this = std::env::current_exe().expect("this program");
    let command = format!(
        "env '{PORT}={{port}}' '{}' --exact selfcheck::serve --ignored --nocapture",
        this.display()
    );
    let report =
        selfcheck(&["--only", "stall", "--stall", "500ms", "-d", "2s", "--server", &command]);
    assert_eq!(report["cases"], serde_json::json!([]));
    let quantiles = report["quantiles"].as_array().expect("a list");
    assert_eq!(quantiles.len(), 2);
    for quantile in quantiles {
        let ns = |name: &str| quantile[name].as_u64().expect("nanoseconds");
        assert!(ns("expected") >= 400_000_000 && ns("corrected") > 380_000_000, "{quantile}");
        assert!(ns("uncorrected") < ns("corrected"), "{quantile}");
    }
}

/// Returns the report of the self-check, which must not find a fault of the generator.
fn selfcheck(flags: &[&str]) -> serde_json::Value {
    let output = output(&[&["selfcheck", "--engine", "epoll", "--json"], flags].concat());
    let said = text(&output.stderr);
    // 13: other tests kept the machine busy, which makes everything longer and nothing shorter.
    assert!(matches!(output.status.code(), Some(0 | 13)), "{said}{}", text(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Returns the cases by their names. None of them may be wrong.
fn cases(report: &serde_json::Value) -> Vec<(&str, &serde_json::Value)> {
    let cases = report["cases"].as_array().expect("a list");
    let named =
        |case: &'_ serde_json::Value| case["finding"] == "right" || case["finding"] == "disturbed";
    assert!(cases.iter().all(named), "{report}");
    cases.iter().map(|case| (case["case"].as_str().expect("a name"), &case["runs"])).collect()
}

#[test]
fn misbehaving_servers_are_detected() {
    let report = selfcheck(&["--only", "overload,silence", "--only", "standstill,server-end"]);
    assert!(report.get("quantiles").is_none(), "{report}");
    let cases = cases(&report);
    assert_eq!(
        cases.iter().map(|case| case.0).collect::<Vec<_>>(),
        ["overload", "silence", "standstill", "server-end"]
    );
    for (name, runs) in cases {
        let run = &runs[0];
        assert_eq!(run["exit_status"], if name == "server-end" { 1 } else { 13 }, "{name}: {run}");
        assert_eq!(run["messages"]["wrong"], 0, "{name}: {run}");
        assert_eq!(run["ended_early"].is_null(), name != "server-end", "{name}: {run}");
    }
}

#[test]
fn threads_and_processes_that_end_are_counted() {
    let report = selfcheck(&["--only", "server-cpu"]);
    let cases = cases(&report);
    let costs =
        cases[0].1.as_array().expect("a list").iter().map(|run| &run["server_cpu_ns_per_message"]);
    let costs: Vec<_> = costs.map(|cost| cost.as_f64().expect("a cost")).collect();
    assert!(costs.len() == 3 && costs.iter().all(|cost| *cost > 1_000_000.0), "{costs:?}");
}

#[test]
fn wrong_usage_is_named() {
    for (flags, part) in [
        (&["--stall", "1s", "-d", "1s", "--server", "true"][..], "--stall"),
        (&["--server", "open 'quote"], "--server"),
        (&["--engine", "kqueue"], "--engine"),
        (&["--only", "overload,weather"], "weather"),
        (&["--only", "overload", "--server", "true"], "--server needs"),
    ] {
        let output = output(&[&["selfcheck"], flags].concat());
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
    }
}

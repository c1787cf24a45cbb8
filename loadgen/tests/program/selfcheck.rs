use std::time::Duration;

use super::echo::{Echo, Fault};
use super::{output, text};

/// Names the port to the server that this test program becomes.
const PORT: &str = "SPARRING_TEST_PORT";

/// Not a test: the server that is stopped.
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
fn a_stall_is_seen_as_arithmetic_says_it() {
    let this = std::env::current_exe().expect("this program");
    let command =
        format!("env '{PORT}={{port}}' '{}' --exact selfcheck::serve --ignored --nocapture", this.display());
    let flags = ["--stall", "500ms", "-d", "2s", "--engine", "epoll", "--json", "--server", &command];
    let output = output(&[&["selfcheck"], &flags[..]].concat());
    let said = text(&output.stderr);
    // 13: the machine was busy with other tests, and the latencies are longer than they should be: never shorter.
    assert!(matches!(output.status.code(), Some(0 | 13)), "{said}{}", text(&output.stdout));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let quantiles = report["quantiles"].as_array().expect("a list");
    assert_eq!(quantiles.len(), 2);
    for quantile in quantiles {
        let ns = |name: &str| quantile[name].as_u64().expect("nanoseconds");
        assert!(ns("expected") >= 400_000_000 && ns("corrected") > 380_000_000, "{quantile}");
        assert!(ns("uncorrected") < ns("corrected"), "{quantile}");
    }
}

#[test]
fn wrong_usage_is_named() {
    for (flags, part) in [
        (&["--stall", "1s", "-d", "1s", "--server", "true"][..], "--stall"),
        (&["--server", "open 'quote"], "--server"),
        (&["--engine", "kqueue"], "--engine"),
    ] {
        let output = output(&[&["selfcheck"], flags].concat());
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
    }
}

//! The helper that refuses io_uring to a command really does so, and does nothing else.

use std::env;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Output};

use engine::{EngineChoice, EngineError, EngineKind};

/// Variable that is set in the process that runs under the filter.
const UNDER_THE_FILTER: &str = "SPARRING_TEST_UNDER_THE_FILTER";

/// Returns the helper's path. `cargo test` builds examples beside the folder of the test binaries,
/// but not when it runs one test file.
fn helper() -> PathBuf {
    let test = env::current_exe().expect("a test has a path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps/TEST");
    let helper = profile.join("examples/without_io_uring");
    assert!(
        helper.exists(),
        "{} is not built: run `cargo build --examples` first",
        helper.display()
    );
    helper
}

fn under_the_filter(words: &[&str]) -> Output {
    Command::new(helper()).args(words).output().expect("the helper runs")
}

/// Runs the body in a child process, because a filter cannot be removed again.
#[test]
fn io_uring_is_refused_under_the_filter_and_epoll_is_not() {
    if env::var_os(UNDER_THE_FILTER).is_some() {
        assert!(EngineKind::Epoll.probe().is_ok());
        for kind in [EngineKind::Uring, EngineKind::TokioUring] {
            assert!(kind.probe().is_err(), "{} works under the filter", kind.name());
        }
        let error = EngineKind::Uring.probe().expect_err("refused");
        assert!(
            matches!(&error, EngineError::Refused { call: "io_uring_setup", source } if source.kind() == io::ErrorKind::PermissionDenied)
                || matches!(error, EngineError::Disabled { .. }),
            "{error}"
        );
        return;
    }
    let test = env::current_exe().expect("a test has a path");
    let output = Command::new(helper())
        .arg(test)
        .args(["--exact", "io_uring_is_refused_under_the_filter_and_epoll_is_not"])
        .env(UNDER_THE_FILTER, "1")
        .output()
        .expect("the helper runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Covers a ring that can be created and not used.
#[test]
fn a_call_refused_after_the_setup_is_named() {
    if let Some(call) = env::var_os(UNDER_THE_FILTER) {
        let call = call.to_str().expect("text");
        let refused = EngineKind::Uring.probe().expect_err("refused");
        assert!(
            matches!(&refused, EngineError::Refused { call: named, .. } if *named == call),
            "{refused}"
        );
        let (kind, reason) = EngineChoice::Auto.resolve().expect("epoll works");
        assert_eq!(kind, EngineKind::Epoll);
        assert!(reason.starts_with(&format!("{call} is refused")), "{reason}");
        let named = EngineChoice::Named(EngineKind::TokioUring).resolve();
        // The epoll engine registers nothing with io_uring.
        assert_eq!(named.is_err(), call == "io_uring_enter", "{named:?}");
        return;
    }
    if EngineKind::Uring.probe().is_err() {
        println!("skipped: io_uring is refused here anyway");
        return;
    }
    let test = env::current_exe().expect("a test has a path");
    for call in ["io_uring_enter", "io_uring_register"] {
        let output = Command::new(helper())
            .args(["--only", call])
            .arg(&test)
            .args(["--exact", "a_call_refused_after_the_setup_is_named"])
            .env(UNDER_THE_FILTER, call)
            .output()
            .expect("the helper runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{call}: {text}");
    }
}

#[test]
fn passes_on_output_and_status_of_the_command() {
    let output = under_the_filter(&["sh", "-c", "echo here; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"here\n");
}

#[test]
fn a_missing_command_is_named() {
    let output = under_the_filter(&["no-such-command"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-command"));
}

#[test]
fn shows_its_usage_without_a_command() {
    let output = under_the_filter(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage"));
}

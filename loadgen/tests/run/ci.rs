//! `ci` from its user's view: three arms, Markdown, annotations, and exit codes. Verdicts are
//! tested on recorded noise (`src/compare/placebo.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

use loadgen::result::SessionVerdict;

use super::command::{assert_fails, loadgen, scratch, server_command, text};
use super::duel::{SHORT, files, server_after, stored};

/// Runs `ci` as on a runner of GitHub Actions, with the summary of the job in `folder`.
fn on_github(base: &str, head: &str, folder: &Path, more: &[&str]) -> Output {
    let results = format!("--results={}", folder.join("results").display());
    let words = [&["ci", "--base", base, "--head", head, &results][..], &SHORT, more].concat();
    let mut command = loadgen(&words);
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", folder.join("summary.md"));
    command.env("TMPDIR", folder).output().expect("the program runs")
}

fn annotations(output: &Output) -> Vec<String> {
    let said = text(&output.stdout);
    said.lines().filter(|line| line.starts_with("::")).map(str::to_owned).collect()
}

#[test]
fn three_arms_are_judged_and_reported_to_the_ci_system() {
    let folder = scratch("ci");
    let places = folder.join("places");
    let server = server_after(&folder, &format!("pwd >> '{}'", places.display()));
    let markdown = folder.join("report.md");
    fs::write(folder.join("summary.md"), "before\n").expect("written");
    let flags = ["--rounds=8", &format!("--markdown={}", markdown.display()), "--head-dir=/"];
    let output = on_github(&server, &server, &folder, &flags);
    let (said, notes) = (text(&output.stdout), text(&output.stderr));
    // The runs of a debug build are not valid, so that nothing can be told.
    let codes: &[i32] = if cfg!(debug_assertions) { &[0] } else { &[0, 11, 13] };
    assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{said}{notes}");
    assert!(said.contains("head against base: "), "{said}");
    let report = fs::read_to_string(&markdown).expect("written");
    assert!(report.starts_with("### head against base: ") && report.ends_with('\n'), "{report}");
    let summary = fs::read_to_string(folder.join("summary.md")).expect("there");
    assert_eq!(summary, format!("before\n{report}"));
    let lines = annotations(&output);
    assert!(lines[0].contains(" title=sparring::head against base: "), "{lines:?}");
    if cfg!(debug_assertions) {
        assert!(
            lines[0].starts_with("::warning ") && lines[0].contains("CANNOT TELL"),
            "{lines:?}"
        );
    }
    let document = stored(&folder.join("results"));
    let arms: Vec<&str> = document.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(arms, ["base", "placebo", "head"]);
    let order: Vec<&str> = document.runs.iter().map(|run| run.arm.as_str()).take(6).collect();
    assert_eq!(order, ["base", "placebo", "head", "placebo", "head", "base"]);
    assert!(document.runs.len() >= 24, "{}", document.runs.len());
    let Some(SessionVerdict::Comparison(conclusion)) = document.verdict else {
        panic!("not compared")
    };
    assert_eq!(conclusion.placebo.map(|placebo| placebo.name).as_deref(), Some("placebo"));
    // Each arm had a folder of its own, and that of the placebo is gone.
    let places = fs::read_to_string(&places).expect("written");
    let places: BTreeSet<&str> = places.lines().collect();
    assert!(places.len() == 3 && places.contains("/"), "{places:?}");
    let temporary = places.iter().find(|place| place.contains("sparring-placebo-"));
    assert!(temporary.is_some_and(|place| !Path::new(place).exists()), "{places:?}");
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn a_server_that_fails_is_an_error_with_an_annotation() {
    let folder = scratch("ci-bad");
    let good = server_command("none");
    let output = on_github(&good, "/no/such/server {port}", &folder, &["-q"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let lines = annotations(&output);
    assert!(lines.len() == 1 && lines[0].starts_with("::error title=sparring::"), "{lines:?}");
    assert!(lines[0].contains("arm head") && lines[0].contains("/no/such/server"), "{lines:?}");
    let summary = fs::read_to_string(folder.join("summary.md")).expect("there");
    assert!(summary.contains("cannot run `/no/such/server`"), "{summary}");
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn unusable_flags_of_ci_end_with_2_and_start_nothing() {
    let servers = ["ci", "--base", "a {port}", "--head", "b {port}"];
    for (more, part) in [
        (&["--rounds", "7"][..], "--rounds"),
        (&["--base-dir", "/no/such"], "--base-dir `/no/such` is not a valid folder"),
        (&["--placebo-dir", "/no/such"], "--placebo-dir"),
        (&["--base-name", "placebo"], "beside `placebo`"),
        (&["--head-name", "base"], "beside `placebo`"),
        (&["--head-commit", "main"], "is not a valid commit"),
        (&["--threshold", "p99"], "METRIC=PERCENT"),
        (&["--scenario", "nosuch"], "`nosuch` is unknown"),
    ] {
        assert_fails(&[&servers[..], more].concat(), 2, &[part]);
    }
    assert_fails(&servers[..3], 2, &["--head"]);
    let folder = scratch("ci-dry");
    let marker = format!("touch {}", folder.join("started").display());
    let output = on_github(&marker, &marker, &folder, &["--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let plan = "ci: 1 scenario on 3 arms, 10 rounds, 30 runs";
    assert!(text(&output.stderr).starts_with(plan), "{}", text(&output.stderr));
    assert_eq!(files(&folder), Vec::<std::path::PathBuf>::new());
    fs::remove_dir_all(&folder).expect("our own folder");
}

//! Exported sessions, read by the programs that they are for. Readers that are not installed are
//! named as skipped (`pip install junitparser prometheus_client apache-otava`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Scratch, output, text};

/// Returns the examples of stored sessions of all schemas.
fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/result/examples");
    let files = fs::read_dir(folder).expect("the folder of examples").flatten();
    files.map(|file| file.path()).collect()
}

fn example(name: &str) -> String {
    let found = examples().into_iter().find(|path| path.ends_with(name)).expect("an example");
    found.to_str().expect("UTF-8").to_owned()
}

/// Runs a Python script with a file as its argument. Returns its output; `None` where the module is
/// not there.
fn python(module: &str, script: &str, file: &str) -> Option<String> {
    let python = std::env::var("SPARRING_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let run = |words: &[&str]| Command::new(&python).args(words).stdin(Stdio::null()).output();
    let has = run(&["-c", &format!("import {module}")]);
    if !has.is_ok_and(|output| output.status.success()) {
        println!("skipped: no {module} in {python}");
        return None;
    }
    let output = run(&["-c", script, file]).expect("python runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    Some(text(&output.stdout))
}

fn exported(session: &str, format: &str, file: &str) {
    let output = output(&["export", session, "--format", format, "-o", file]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn sessions_of_every_schema_are_shown_and_exported() {
    for path in examples() {
        let path = path.to_str().expect("UTF-8");
        for words in [
            &["show", path][..],
            &["show", path, "--markdown"],
            &["export", path, "--format", "markdown"],
            &["export", path, "--format", "junit"],
        ] {
            let output = output(words);
            let said = text(&output.stdout);
            assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
            assert!(said.lines().count() > 3, "{words:?}: {said}");
        }
        let shown = text(&output(&["show", path, "--markdown"]).stdout);
        let exported = text(&output(&["export", path, "--format", "markdown"]).stdout);
        assert_eq!(shown, exported, "export and show print the same Markdown");
    }
}

#[test]
fn every_command_that_shows_sessions_takes_markdown() {
    for command in ["show", "compare", "duel", "history", "list", "aa", "experiment", "ci"] {
        let help = text(&output(&[command, "--help"]).stdout);
        assert!(help.contains("--markdown"), "{command}");
    }
}

#[test]
fn unusable_flags_of_export_end_with_2_and_missing_sessions_with_1() {
    let quick = example("schema_2_quick.json");
    for (words, code, part) in [
        (&["export", &quick][..], 2, "--format"),
        (&["export", &quick, "--format", "xml"], 2, "junit"),
        (&["export", &quick, &quick, "--format", "bmf"], 2, "only otava-csv"),
        (&["export", &quick, "--format", "bmf", "--bigger-is-better"], 2, "github-action"),
        (&["export", "/no/such.json", "--format", "bmf"], 1, "/no/such.json"),
    ] {
        let output = output(words);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(part), "{words:?}: {said}");
    }
}

#[test]
fn junitparser_reads_verdicts() {
    let scratch = Scratch::new("junit");
    let file = scratch.file("verdict.xml");
    exported(&example("schema_2_quick.json"), "junit", &file);
    let script = "import sys\nfrom junitparser import JUnitXml\nxml = JUnitXml.fromfile(sys.argv[1])\n\
                  cases = [case for suite in xml for case in suite]\n\
                  assert xml.tests == len(cases), (xml.tests, len(cases))\n\
                  print(len(cases), xml.failures, [case.classname for case in cases])";
    let Some(said) = python("junitparser", script, &file) else { return };
    assert_eq!(said.trim(), "2 0 ['echo', 'pipeline']");
}

#[test]
fn prometheus_reads_openmetrics() {
    let scratch = Scratch::new("openmetrics");
    let file = scratch.file("metrics.txt");
    let script = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
                  families = list(parse(open(sys.argv[1]).read()))\n\
                  samples = [s for f in families for s in f.samples]\n\
                  assert all(s.timestamp for s in samples)\n\
                  print(sorted(f.name for f in families)[-1], len(families), len(samples) > 10)";
    for name in ["schema_2_quick.json", "schema_1_noise.json"] {
        exported(&example(name), "openmetrics", &file);
        let module = "prometheus_client.openmetrics.parser";
        let Some(said) = python(module, script, &file) else { return };
        let words: Vec<&str> = said.split_whitespace().collect();
        assert_eq!((words[0], words[2]), ("sparring_session", "True"), "{said}");
    }
}

/// Sessions of twelve days, the last six of which are slower by a tenth.
fn series(scratch: &Scratch) -> Vec<String> {
    let example = fs::read_to_string(example("schema_2_quick.json")).expect("an example");
    let session = |day: u32| {
        let mut value: serde_json::Value = serde_json::from_str(&example).expect("JSON");
        value["session"]["start"] = format!("2026-03-{:02}T09:30:00.000Z", day + 1).into();
        for run in value["runs"].as_array_mut().expect("runs") {
            let spread = 1.0 + f64::from(day * 7 % 5) / 1000.0;
            let rate = run["rate_per_s"].as_f64().expect("a rate");
            run["rate_per_s"] = (rate * spread * if day < 6 { 1.0 } else { 0.9 }).into();
        }
        let path = scratch.file(&format!("{day}.json"));
        fs::write(&path, value.to_string()).expect("written");
        path
    };
    (0..12).map(session).collect()
}

#[test]
fn otava_finds_the_step_in_exported_sessions() {
    let scratch = Scratch::new("otava");
    let (csv, config) = (scratch.file("echo.csv"), scratch.file("otava.yaml"));
    let sessions = series(&scratch);
    let mut words = vec!["export", "--format", "otava-csv", "-o", &csv];
    words.extend(sessions.iter().rev().map(String::as_str));
    let output = output(&words);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = fs::read_to_string(&csv).expect("written");
    assert_eq!(table.lines().count(), 13);
    let yaml = format!(
        "tests:\n  echo:\n    type: csv\n    file: '{csv}'\n    time_column: time\n    attributes: [commit]\n    \
         metrics:\n      throughput: {{ column: echo throughput, direction: 1 }}\n"
    );
    fs::write(&config, yaml).expect("written");
    let script = "import sys\nfrom otava.main import main\n\
                  sys.argv = ['otava', 'analyze', 'echo', '--config-file', sys.argv[1], '--since=2026-01-01']\nmain()";
    let Some(said) = python("otava.main", script, &config) else { return };
    assert!(said.contains("2026-03-07 09:30:00"), "{said}");
    let change = said.lines().find(|line| line.contains('%')).expect("a change point");
    assert!(change.contains("-9.") || change.contains("-10."), "{said}");
}

//! Stored sessions from their user's view: the files that are read, and their presentation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, mkfifoat};

use super::{Scratch, loadgen, output, text};

/// Time limit far beyond that of reading a file.
const BOUND: Duration = Duration::from_secs(60);

/// Returns a stored session of the repository.
fn session() -> PathBuf {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench-results");
    let machines = fs::read_dir(results).expect("the folder of results").flatten();
    let files =
        machines.filter_map(|machine| fs::read_dir(machine.path()).ok()).flatten().flatten();
    let mut sessions: Vec<PathBuf> = files
        .map(|file| file.path())
        .filter(|path| path.to_string_lossy().ends_with("-quick.json"))
        .collect();
    sessions.sort();
    sessions.pop().expect("a session of the suite quick")
}

/// Returns the exit code and standard error of a program that must not hang.
fn ended(arguments: &[&str]) -> (Option<i32>, String) {
    let mut child =
        loadgen(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let began = Instant::now();
    while child.try_wait().expect("our own child").is_none() {
        if began.elapsed() > BOUND {
            child.kill().expect("our own child");
            panic!("{arguments:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("it has ended");
    (output.status.code(), text(&output.stderr))
}

#[test]
fn only_regular_files_are_read() {
    let scratch = Scratch::new("stored");
    let machine = scratch.0.join("0123456789ab");
    fs::create_dir_all(&machine).expect("a folder");
    let in_store = machine.join("20260301T093000Z-abcdef012345-quick.json");
    for fifo in [scratch.0.join("x"), scratch.0.join("x.json"), in_store] {
        mkfifoat(CWD, fifo, Mode::RUSR | Mode::WUSR).expect("made");
    }
    let (fifo, named, results, page) =
        (scratch.file("x"), scratch.file("x.json"), scratch.file(""), scratch.file("page.html"));
    for arguments in [
        &["show", &fifo][..],
        &["show", &named],
        &["compare", &fifo, &named],
        &["report", &fifo, "-o", &page],
        &["proof", &fifo],
        &["list", "--results", &results],
    ] {
        let (code, said) = ended(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        assert!(
            said.contains("it is a FIFO, and only regular files are read"),
            "{arguments:?}: {said}"
        );
    }
    let (code, said) = ended(&["show", "/dev/null"]);
    assert!(code == Some(1) && said.contains("/dev/null: it is a device"), "{said}");
    let (code, said) = ended(&["show", &results]);
    assert!(code == Some(1) && said.contains("it is a directory"), "{said}");
    // History has other sessions to show, or reports that there is none; it does not wait for a
    // writer.
    let (code, said) =
        ended(&["history", "echo", "p99", "--results", &results, "--machine", "0123456789ab"]);
    assert!(code == Some(1) && said.contains("it is a FIFO"), "{said}");
}

#[test]
fn a_session_compares_with_itself() {
    let session = session();
    let path = session.to_str().expect("UTF-8");
    let output = output(&["compare", path, path]);
    let (said, why) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{why}");
    assert!(said.contains("UNCHANGED") && said.contains("A and B are the same session"), "{said}");
}

#[test]
fn a_file_that_list_names_can_be_shown() {
    let session = session();
    let results = session.parent().and_then(Path::parent).expect("below a machine");
    let below = session.strip_prefix(results).expect("it is below it").to_str().expect("UTF-8");
    let results = results.to_str().expect("UTF-8");
    assert!(text(&output(&["list", "--results", results]).stdout).contains(below));
    let shown = output(&["show", below, "--results", results]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
}

#[test]
fn every_table_fits_the_requested_width() {
    let session = session();
    let path = session.to_str().expect("UTF-8");
    let results =
        session.parent().and_then(Path::parent).expect("below a machine").to_str().expect("UTF-8");
    for arguments in
        [&["show", path][..], &["compare", path, path], &["list", "--results", results]]
    {
        for (columns, width) in [(None, 80), (Some("60"), 60), (Some("0"), 80)] {
            let mut command = loadgen(arguments);
            match columns {
                Some(columns) => command.env("COLUMNS", columns),
                None => command.env_remove("COLUMNS"),
            };
            let printed = text(&command.output().expect("it runs").stdout);
            // Sentences and paths are not broken.
            let table = printed.lines().filter(|line| {
                let is_sentence =
                    ["  ", "/", "A  /", "B  /"].iter().any(|start| line.starts_with(start));
                line.contains("  ") && !is_sentence
            });
            for line in table {
                assert!(line.chars().count() <= width, "{arguments:?} in {width} columns: {line}");
            }
            assert!(printed.contains(&format!("not shown in {width} columns: ")), "{printed}");
        }
    }
}

#[test]
fn every_table_has_a_markdown_form() {
    let session = session();
    let path = session.to_str().expect("UTF-8");
    let results =
        session.parent().and_then(Path::parent).expect("below a machine").to_str().expect("UTF-8");
    let machine =
        session.parent().and_then(Path::file_name).and_then(|id| id.to_str()).expect("UTF-8");
    for arguments in [
        &["show", path][..],
        &["compare", path, path],
        &["list", "--results", results],
        &["scenarios"],
        &["doctor", "--watch", "0"],
        &["history", "echo", "server-cpu", "--results", results, "--machine", machine],
    ] {
        let printed = output(&[arguments, &["--markdown"]].concat());
        let said = text(&printed.stdout);
        if arguments[0] == "history" && printed.status.code() == Some(1) {
            println!("skipped: git knows none of the commits here");
            continue;
        }
        let rows = said.lines().filter(|line| line.starts_with("| ")).count();
        let has_rule = said.lines().any(|line| line.starts_with("| ---"));
        assert!(has_rule && rows > 2 && !said.contains("not shown in"), "{arguments:?}: {said}");
    }
}

/// Runs the program with a variable of the environment; its output goes into a pipe.
fn piped(arguments: &[&str], variable: Option<(&str, &str)>) -> String {
    let mut command: Command = loadgen(arguments);
    ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"].into_iter().for_each(|name| {
        command.env_remove(name);
    });
    command.envs(variable);
    text(&command.output().expect("it runs").stdout)
}

#[test]
fn a_pipe_has_no_colour_unless_it_is_forced() {
    let session = session();
    let path = session.to_str().expect("UTF-8");
    let compare = ["compare", path, path];
    assert!(!piped(&compare, None).contains('\u{1b}'));
    let forced = piped(&compare, Some(("CLICOLOR_FORCE", "1")));
    assert!(forced.contains("\u{1b}[33mADVISORY\u{1b}[0m"), "{forced}");
    // Output for programs never has colour.
    let json = piped(&["doctor", "--json", "--watch", "0"], Some(("CLICOLOR_FORCE", "1")));
    assert!(!json.contains('\u{1b}'), "{json}");
}

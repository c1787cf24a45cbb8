//! Shell completions and manual pages.

use std::fs;
use std::process::{Command, Stdio};

use super::{Scratch, loadgen, output, text};

/// Lets a program read this text, without an error or a warning. Returns its output; `None`, said,
/// where the machine has no such program.
fn read_by(program: &str, arguments: &[&str], input: &str) -> Option<String> {
    let scratch = Scratch::new(program);
    let file = scratch.file("input");
    fs::write(&file, input).expect("a temporary file");
    let read = Command::new(program)
        .args(arguments)
        .stdin(fs::File::open(&file).expect("written"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output();
    match read {
        Ok(read) => {
            assert!(read.status.success() && read.stderr.is_empty(), "{}", text(&read.stderr));
            Some(text(&read.stdout))
        }
        Err(error) => {
            eprintln!("skipped: {program}: {error}");
            None
        }
    }
}

#[test]
fn completions_are_scripts_with_commands_and_flags() {
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = output(&["completions", shell]);
        let (script, ok) = (text(&script.stdout), script.status.success());
        assert!(ok && script.contains("duel") && script.contains("messages-per-connection"));
        read_by(shell, &[check], &script);
    }
    let unknown = output(&["completions", "csh"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("bash"), "the known shells are named");
}

#[test]
fn manual_pages_are_rendered_without_a_warning() {
    let scratch = Scratch::new("man");
    let folder = scratch.file("man1");
    let written = loadgen(&["man", "--out", &folder]).status().expect("the program runs");
    assert!(written.success());
    let mut names: Vec<_> = fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert!(names.iter().any(|name| name == "sparring-loadgen.1"), "{names:?}");
    assert!(names.iter().any(|name| name == "sparring-loadgen-run.1"), "{names:?}");
    assert!(names.iter().all(|name| !name.contains("guard")), "hidden commands: {names:?}");
    let main = fs::read_to_string(scratch.file("man1/sparring-loadgen.1")).expect("written");
    assert_eq!(main, text(&output(&["man"]).stdout));
    for name in names {
        let page = fs::read_to_string(scratch.file(&format!("man1/{name}"))).expect("written");
        let shown = read_by("groff", &["-man", "-ww", "-Wbreak", "-Kutf8", "-Tascii"], &page);
        assert!(shown.is_none_or(|shown| shown.contains("(1)")), "{name}");
    }
}

//! Checks of scripts/deploy: the server works under its seccomp profile, on every engine.

mod program;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use program::{client_frame, connect, engines, expect, read_head};
use rustix::process::{Pid, Signal, kill_process};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/deploy");

/// Returns the server's command under the profile; prints a line and returns `None` where the
/// filter cannot be set.
fn under_seccomp(arguments: &[&str]) -> Option<Command> {
    let (script, profile) =
        (format!("{DEPLOY}/under_seccomp.py"), format!("{DEPLOY}/seccomp.json"));
    let probe = Command::new("python3").args([&script, &profile, "/bin/true"]).output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            println!(
                "skipped: no seccomp here: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
            return None;
        }
        Err(error) => {
            println!("skipped: no python3 here: {error}");
            return None;
        }
    }
    let mut command = Command::new("python3");
    command.args([&script, &profile, env!("CARGO_BIN_EXE_sparring-server")]).args(arguments);
    Some(command)
}

#[test]
fn the_server_lives_under_the_container_profile() {
    for engine in engines() {
        let arguments = [
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--threads",
            "2",
            "--engine",
            &engine,
        ];
        let Some(mut command) = under_seccomp(&arguments) else { return };
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.split('/').nth(2).and_then(|address| address.parse().ok());
        let mut stream =
            connect(address.unwrap_or_else(|| panic!("{engine} does not start: {line}")));
        stream.write_all(program::REQUEST).expect("request");
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
        for _ in 0..3 {
            stream.write_all(&client_frame(1, b"hello")).expect("frame");
            expect(&mut stream, b"\x81\x05hello");
        }
        kill_process(Pid::from_raw(child.id() as i32).expect("a process"), Signal::TERM)
            .expect("signal");
        expect(&mut stream, b"\x88\x02\x03\xe9");
        drop(stream);
        assert_eq!(child.wait().expect("its end").code(), Some(0), "{engine}");
    }
}

/// Number of connections that the generator opens at once by default.
const DEFAULT_LOAD: usize = 64;

/// Returns the limits in the unit, the container and the server's README, without addresses.
fn example_flags() -> Vec<(&'static str, Vec<String>)> {
    let read = |name: &str| std::fs::read_to_string(format!("{DEPLOY}/{name}")).expect("a file");
    // A command may continue on the next line.
    let words = |text: &str, begins: &str| {
        let text = text.replace("\\\n", " ");
        let line =
            text.lines().find(|line| line.trim_start().starts_with(begins)).expect("the command");
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        words.into_iter().skip_while(|word| !word.starts_with("--")).collect::<Vec<_>>()
    };
    let container = read("Containerfile").replace(['[', ']', ',', '"'], " ");
    let examples = [
        ("unit", words(&read("sparring-server.service"), "ExecStart=")),
        ("container", words(&container, "CMD")),
        ("README", words(&read("../../server/README.md"), "sparring-server --listen 0.0.0.0:8080")),
    ];
    let is_address = |flag: &str| ["--listen", "--admin"].contains(&flag);
    let limits = |words: Vec<String>| {
        words.chunks(2).filter(|pair| !is_address(&pair[0])).flatten().cloned().collect::<Vec<_>>()
    };
    examples.into_iter().map(|(name, words)| (name, limits(words))).collect()
}

/// A load-test target that is started as in the examples serves the generator's default load.
#[test]
fn examples_serve_the_default_load() {
    for (name, flags) in example_flags() {
        assert!(flags.iter().any(|flag| flag == "--connect-rate-per-ip"), "{name}: {flags:?}");
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let server = program::Program::start(&[&["--threads", "1"], &flags[..]].concat());
        let mut open: Vec<_> = (0..DEFAULT_LOAD).map(|_| server.connect()).collect();
        open.iter_mut().for_each(|stream| stream.write_all(program::REQUEST).expect("request"));
        for stream in &mut open {
            let head = read_head(stream);
            assert!(head.starts_with("HTTP/1.1 101 "), "{name}: {head}");
        }
    }
}

/// Where descriptors are missing, nginx opens fewer connections than its configuration says.
#[test]
fn nginx_has_a_descriptor_for_each_connection() {
    let text = std::fs::read_to_string(format!("{DEPLOY}/nginx.conf")).expect("the configuration");
    let number = |directive: &str| -> u32 {
        let words = text.lines().filter_map(|line| line.trim().strip_suffix(';')?.split_once(' '));
        let found =
            words.into_iter().find(|(name, _)| *name == directive).map(|(_, value)| value.parse());
        found.unwrap_or_else(|| panic!("no {directive}")).expect("a number")
    };
    assert!(number("worker_rlimit_nofile") > number("worker_connections"));
}

/// The profile is valid for container engines, and allows io_uring.
#[test]
fn the_profile_allows_io_uring_and_no_more_than_needed() {
    let text = std::fs::read_to_string(format!("{DEPLOY}/seccomp.json")).expect("the profile");
    let profile: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let settings = profile["syscalls"].as_array().expect("rules");
    let names: Vec<&str> = settings
        .iter()
        .flat_map(|rule| rule["names"].as_array().expect("names"))
        .filter_map(|n| n.as_str())
        .collect();
    for wanted in ["io_uring_setup", "io_uring_enter", "io_uring_register", "epoll_pwait2"] {
        assert!(names.contains(&wanted), "{wanted}");
    }
    for dangerous in
        ["mount", "ptrace", "bpf", "unshare", "setns", "keyctl", "perf_event_open", "init_module"]
    {
        assert!(!names.contains(&dangerous), "{dangerous}");
    }
}

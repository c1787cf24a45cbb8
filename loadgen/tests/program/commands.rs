//! Commands of the README and of the README of each folder, run as they stand there. Only the
//! server, its ports, the programs and the times are replaced.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::documents::{commands, documents, root};
use super::{Scratch, loadgen, text};

/// Commands that are not run here, by their beginning, and the reason.
const ELSEWHERE: [(&str, &str); 13] = [
    ("duel ", "loadgen/tests/run/duel.rs runs it"),
    ("ci ", "loadgen/tests/run/ci.rs runs it"),
    ("aa ", "loadgen/tests/run/duel.rs runs it"),
    ("run ws://127.0.0.1:{port}/ --via ", "needs a proxy; loadgen/tests/run/via.rs has some"),
    ("proof ", "takes a minute in a debug build; duel.rs runs it"),
    ("history ", "needs a git checkout; stored.rs runs it"),
    ("compare HEAD~1 HEAD", "needs a session of each commit; stored.rs compares"),
    ("selfcheck", "selfcheck.rs runs it"),
    ("merge ", "needs the documents of shards; shards.rs merges"),
    ("run ws://127.0.0.1:9001/ -R 20k --shard $i/4", "is part of a loop; shards.rs runs shards"),
    ("run ws://192.0.2.7:9001/", "is for two hosts; metrics.rs runs it"),
    ("agent ", "never ends by itself; metrics.rs runs it"),
    ("echo ", "never ends by itself; echo_client.rs and scripts/autobahn.sh run it"),
];

/// Server of the documents: one listener for ws and one for wss.
struct Server {
    child: Child,
    urls: Vec<String>,
}

impl Server {
    /// Starts the server with these arguments, of which `listeners` are `--listen`.
    fn start(program: &Path, folder: &Path, arguments: &[String]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let listeners = arguments.iter().filter(|word| *word == "--listen").count();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let lines = output.lines().map(|line| line.expect("UTF-8"));
        let url = |line: String| line.split_whitespace().nth(2).map(str::to_owned);
        let urls: Vec<String> = lines.filter_map(url).take(listeners).collect();
        assert_eq!(urls.len(), listeners, "{arguments:?}");
        Self { child, urls }
    }

    /// Ends the server with SIGTERM. Returns its exit status.
    fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("our own child");
        self.child.wait().expect("our own child").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the server's program, which cargo builds with the tests of the workspace.
fn server_program() -> Option<PathBuf> {
    let program =
        Path::new(env!("CARGO_BIN_EXE_sparring-loadgen")).with_file_name("sparring-server");
    program.is_file().then_some(program)
}

/// Returns a folder from which the commands of the documents find what they name.
fn checkout(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    for name in ["bench-results", "scripts"] {
        symlink(root().join(name), scratch.file(name)).expect("a link");
    }
    for (name, message) in [
        ("order.json", "{\"id\":{seq},\"user\":\"user-{connection}\",\"salt\":\"{random:16}\"}"),
        ("request.json", "{\"id\":{seq}}"),
    ] {
        fs::write(scratch.file(name), message).expect("written");
    }
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(scratch.file("chain.pem"), key.cert.pem()).expect("written");
    fs::write(scratch.file("key.pem"), key.signing_key.serialize_pem()).expect("written");
    scratch
}

/// Returns the arguments of a server with free ports of loopback in place of its own.
fn with_free_ports(arguments: &[String]) -> Vec<String> {
    let free = |word: &String| match word.rsplit_once(':') {
        Some((address, port)) if port.trim_end_matches('/').parse::<u16>().is_ok() => {
            let end = if port.ends_with('/') { "/" } else { "" };
            format!("{}:0{end}", address.replace("0.0.0.0", "127.0.0.1"))
        }
        _ => word.clone(),
    };
    arguments.iter().map(free).collect()
}

/// Returns the arguments of a generator's command with this server and these programs, and with
/// times that suit a test.
fn shortened(arguments: &[String], program: &Path, server: &Server) -> Vec<String> {
    let program = program.to_str().expect("UTF-8");
    let [plain, secure] = [0, 1].map(|index| {
        let url: &str = &server.urls[index];
        url.split('/').nth(2).expect("an address")
    });
    let replace = |word: &String| match word.as_str() {
        "URL" => server.urls[0].clone(),
        word => word
            .replace("127.0.0.1:9001", plain)
            .replace("127.0.0.1:9443", secure)
            .replace("target/release/sparring-server", program)
            .replace("=sparring-server", &format!("={program}")),
    };
    let mut words: Vec<String> = arguments.iter().map(replace).collect();
    if let Some(duration) = words.iter().position(|word| word == "-d") {
        words.drain(duration..duration + 2);
    }
    let stages = words.iter().position(|word| word == "--stages");
    if let Some(stages) = stages {
        words[stages + 1] = "200:100ms,400:100ms,400:100ms,0:50ms".to_owned();
    }
    let more: &[&str] = match words[0].as_str() {
        "run" if stages.is_some() => &["-w", "20ms"],
        "run" => &["-d", "300ms", "-w", "20ms"],
        "experiment" if !words.iter().any(|word| word == "--dry-run") => &["--dry-run"],
        _ => &[],
    };
    words.extend(more.iter().map(|&word| word.to_owned()));
    words
}

/// Returns the documents that are called README.md, with their commands for this program.
fn commands_of(name: &str) -> Vec<(PathBuf, Vec<String>)> {
    let readmes = documents().into_iter().filter(|path| path.ends_with("README.md"));
    let near =
        readmes.filter(|path| path.strip_prefix(root()).is_ok_and(|p| p.components().count() <= 2));
    near.flat_map(|path| {
        let document = fs::read_to_string(&path).expect("readable");
        let found = commands(&document, |word| word.rsplit('/').next() == Some(name));
        found.into_iter().map(move |words| (path.clone(), words)).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn every_command_of_the_readmes_runs() {
    let Some(program) = server_program() else {
        println!("skipped: sparring-server is not built beside sparring-loadgen (cargo build)");
        return;
    };
    let checkout = checkout("commands");
    let arguments = "--listen 127.0.0.1:0 --listen wss://127.0.0.1:0/ --tls-self-signed";
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let server = Server::start(&program, &checkout.0, &arguments);
    let mut faults = Vec::new();
    let mut ran = BTreeSet::new();
    for (path, words) in commands_of("sparring-loadgen") {
        let line = words[1..].join(" ");
        if words[1].starts_with('-') || ELSEWHERE.iter().any(|(begin, _)| line.starts_with(begin)) {
            continue;
        }
        let arguments = shortened(&words[1..], &program, &server);
        if !ran.insert(arguments.clone()) {
            continue;
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output =
            loadgen(&arguments).current_dir(&checkout.0).output().expect("the program runs");
        // 1: something on this machine invalidates a measurement. 10: a goal is missed.
        let allowed: &[i32] = match arguments[0] {
            "doctor" => &[0, 1],
            "run" => &[0, 10, 13],
            _ => &[0],
        };
        let (said, path) = (text(&output.stderr), path.display());
        if said.contains("fewer than two arms can run here: io_uring is not available") {
            println!("skipped: {line}: io_uring is refused here");
        } else if !output.status.code().is_some_and(|code| allowed.contains(&code)) {
            faults.push(format!("{path}: {arguments:?}: {:?}\n{said}", output.status));
        }
    }
    assert_eq!(server.stop(), Some(0));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(ran.len() > 14, "{} commands", ran.len());
}

#[test]
fn every_server_of_the_readmes_starts_and_drains() {
    let Some(program) = server_program() else {
        println!("skipped: sparring-server is not built beside sparring-loadgen (cargo build)");
        return;
    };
    let checkout = checkout("servers");
    let mut ran = 0;
    for (path, words) in commands_of("sparring-server") {
        if words[1] == "--help" {
            continue;
        }
        let arguments = with_free_ports(&words[1..]);
        let server = Server::start(&program, &checkout.0, &arguments);
        assert_eq!(server.stop(), Some(0), "{}: {arguments:?}", path.display());
        ran += 1;
    }
    assert!(ran >= 5, "{ran} commands");
}

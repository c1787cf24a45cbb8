//! The program from its user's view: its output, its files, its exit codes.

#![allow(unreachable_pub, reason = "modules of a test")]

mod answers;
mod changes;
mod commands;
mod doctor;
mod documents;
#[path = "../run/echo.rs"]
#[allow(dead_code, reason = "shared with other tests, which use the rest of it")]
mod echo;
mod ends;
mod exported;
mod files;
mod first_messages;
mod goals;
mod metrics;
mod misbehaving;
mod modules;
mod packaging;
mod selfcheck;
mod shards;
mod stored;
mod tables;
mod terminal;
mod wording;

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Exit code of a good run: debug builds measure, but report that the run is not valid.
const FINE: i32 = if cfg!(debug_assertions) { 13 } else { 0 };

fn loadgen(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparring-loadgen"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    loadgen(arguments).output().expect("the program runs")
}

/// Runs the program for a little more than a second against `url`.
fn run(url: &str, more: &[&str]) -> Output {
    let short = ["run", url, "-c", "4", "-d", "1200ms", "-w", "20ms", "--engine", "epoll"];
    output(&[&short, more].concat())
}

/// Waits for the end of a program. It must come within a time far beyond the needs of these tests.
fn ended(mut child: Child) -> Output {
    let began = Instant::now();
    while child.try_wait().expect("our own child").is_none() {
        if began.elapsed() > Duration::from_secs(60) {
            let _ = child.kill();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("ended")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder of its own, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("sparring-program-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

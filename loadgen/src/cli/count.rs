//! `sparring-loadgen count`: instructions of a message, counted by callgrind and stored commit by
//! commit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::output::FormatArguments;
use crate::host::machine::Machine;
use crate::load::Load;
use crate::report::text;
use crate::result::{Count, Document, Scenario, Session, SessionKind, Setting, Start, Store};
use crate::target::subject::{Subject, Tool, file_hash};

const EXAMPLES: &str = "\
Example:
  sparring-loadgen count target/release/examples/hot_path
  sparring-loadgen history hot-path-1 instructions

The program is the example hot_path of sparring-server, which echoes so many reads of so many frames without any socket; \
scripts/instructions.sh builds it and calls this. It is counted at two lengths, and what a message costs is the difference, \
start-up left out: engine and kernel are not in it, the copy of each read is. The count is exact, also on a busy machine, and \
compares between commits where compiler and kernels of the CPU are the same.

Exit status: 0 stored; 1 no valgrind, or a program that does not run under it; 2 wrong usage.";

/// Frames in one read, each a workload of its own.
const FRAMES: [u32; 2] = [1, 16];
const PAYLOAD: u32 = 32;
/// Messages of the shorter and of the longer count.
const MESSAGES: [u32; 2] = [20_000, 120_000];

/// Count the instructions that a message costs the server's own code, and store them. Needs
/// valgrind and no quiet machine.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CountArguments {
    /// The example hot_path of sparring-server, built from the same checkout as this program.
    program: PathBuf,

    /// The folder of results.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    results: PathBuf,

    /// A name for the session.
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,

    #[command(flatten)]
    format: FormatArguments,
}

impl CountArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let start = Start::now();
        let counts =
            FRAMES.map(|frames| self.per_message(frames)).into_iter().collect::<Result<_, _>>()?;
        let session = Session {
            suite: Some("instructions".to_owned()),
            tag: self.tag.clone(),
            ..Session::new(SessionKind::Count, start)
        };
        let document = Document {
            subject: subject(&self.program),
            scenarios: FRAMES.map(scenario).to_vec(),
            counts,
            ..Document::new(session, "callgrind", Machine::here())
        };
        let path = Store::new(&self.results).save(&document)?;
        let stored = vec![format!("stored in {}", path.display())];
        self.format.print(&text::session(&document, None).notes(stored), false)?;
        Ok(0)
    }

    fn per_message(&self, frames: u32) -> anyhow::Result<Count> {
        let (few, many) =
            (self.count(MESSAGES[0] / frames, frames)?, self.count(MESSAGES[1] / frames, frames)?);
        let messages = u64::from(MESSAGES[1] - MESSAGES[0]);
        let per_message = many.saturating_sub(few) as f64 / messages as f64;
        Ok(Count {
            scenario: name(frames),
            counter: "instructions".to_owned(),
            per_message,
            messages,
        })
    }

    fn count(&self, reads: u32, frames: u32) -> anyhow::Result<u64> {
        let asked = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(&self.program)
            .args([reads, frames, PAYLOAD].map(|number| number.to_string()))
            // Every CPU of the last ten years has it, and valgrind knows it: counts compare between
            // machines too.
            .env("SPARRING_KERNEL", "avx2")
            .stdin(Stdio::null())
            .output();
        let asked = match asked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(anyhow!("valgrind is not installed: apt-get install valgrind"))
            }
            asked => asked.context("cannot run valgrind"),
        }?;
        let said = String::from_utf8_lossy(&asked.stderr);
        collected(&said).filter(|_| asked.status.success()).ok_or_else(|| {
            let last = said
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty())
                .unwrap_or("it said nothing");
            anyhow!("{} does not run under valgrind: {last}", self.program.display())
        })
    }
}

fn name(frames: u32) -> String {
    format!("hot-path-{frames}")
}

fn scenario(frames: u32) -> Scenario {
    let load = Load {
        connections: 1,
        pipeline: frames,
        message_bytes: (PAYLOAD as usize).into(),
        warmup: Duration::ZERO,
        measure: Duration::ZERO,
        verify: false,
        seed: 0,
        ..Load::default()
    };
    let engine = Some("callgrind".to_owned());
    let generator = Setting { engine, threads: Some(1), congestion: None, proxy: None };
    Scenario::new(name(frames), load, generator, Setting::default())
}

/// The checkout is this program's own.
fn subject(program: &Path) -> Subject {
    let tool = Tool::this("");
    Subject {
        command: program.file_name().map(|name| name.to_string_lossy().into_owned()),
        commit: tool.commit,
        dirty: option_env!("SPARRING_DIRTY").and_then(|dirty| dirty.parse().ok()),
        binary_hash: file_hash(program).ok(),
        engine: None,
        build: program_profile(program),
        rustc: option_env!("SPARRING_RUSTC").filter(|rustc| *rustc != "unknown").map(str::to_owned),
    }
}

/// The folder that cargo builds a profile's examples in.
fn program_profile(program: &Path) -> Option<String> {
    let path = fs::canonicalize(program).ok()?;
    Some(path.parent()?.parent()?.file_name()?.to_str()?.to_owned())
}

/// `==1== Collected : 12345`.
fn collected(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_what_callgrind_says() {
        let said = "==7== Callgrind, a call-graph generating cache profiler\n==7== \n==7== Collected : 60176283\n";
        assert_eq!(collected(said), Some(60_176_283));
        assert_eq!(
            collected("==7== Process terminating with default action of signal 4 (SIGILL)\n"),
            None
        );
    }

    #[test]
    fn workloads_are_told_apart() {
        let [one, sixteen] = FRAMES.map(scenario);
        assert_eq!((one.name.as_str(), sixteen.name.as_str()), ("hot-path-1", "hot-path-16"));
        assert_ne!(one.hash, sixteen.hash);
    }
}

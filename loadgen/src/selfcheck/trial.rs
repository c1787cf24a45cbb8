//! One run of the generator, started as a user starts it, against a server of this program.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use engine::EngineKind;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;

use super::server::Behaviour;
use super::stall::stand_still;
use super::{MYSELF, SelfcheckError};
use crate::result::{Document, EndedEarly, InvalidKind, Messages, Run, Standstill};
use crate::run::{Progress, RunError};

/// Interval of the checks that the run has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Time before each window.
pub(super) const WARMUP: Duration = Duration::from_millis(300);
const WINDOW: Duration = Duration::from_secs(2);
/// Time allowed in addition to the longest run with all of its timeouts.
const LONGEST: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    pub(super) behaviour: Behaviour,
    pub(super) connections: u32,
    /// Messages a second of an open loop.
    pub(super) rate_per_s: Option<u32>,
    /// Time at which the generator is stopped, from the first message on, and length of the stop.
    /// The server then announces that message and does nothing else.
    pub(super) stop: Option<(Duration, Duration)>,
    pub(super) flags: &'static str,
}

#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Exit status; `None` where a signal ended it.
    pub(super) exit_status: Option<i32>,
    pub(super) run: Option<Run>,
    /// The last line on its standard error.
    pub(super) complaint: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Exit status of the generator; `null` where a signal ended it.
    pub(crate) exit_status: Option<i32>,
    /// Reasons why the result is not valid.
    pub(crate) invalid_kinds: Vec<InvalidKind>,
    /// The same reasons in sentences.
    pub(crate) invalid_reasons: Vec<String>,
    pub(crate) messages: Option<Messages>,
    /// Echoes a second.
    pub(crate) rate_per_s: f64,
    /// Longest latency, in nanoseconds.
    pub(crate) max_ns: u64,
    /// Periods in which the generator did not run.
    pub(crate) standstill: Option<Standstill>,
    /// Cause that ended the load early.
    pub(crate) ended_early: Option<EndedEarly>,
    pub(crate) server_cpu_ns_per_message: Option<f64>,
}

impl Trial {
    /// Carries out the run. Asks `progress` whether the user wants it to end.
    pub(super) fn make(
        &self,
        engine: EngineKind,
        progress: &mut dyn Progress,
    ) -> Result<Outcome, SelfcheckError> {
        let failed = |source| RunError::System { what: "cannot start the generator", source };
        let listener = self.stop.map(|_| announcements()).transpose().map_err(failed)?;
        let behaviour =
            listener.as_ref().map_or(self.behaviour, |(_, port)| Behaviour::Announce(*port));
        let child = Command::new(MYSELF)
            .arg0("sparring-loadgen")
            .args(self.arguments(engine, behaviour))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (id, group) = (child.id(), Pid::from_child(&child));
        let reader = thread::spawn(move || child.wait_with_output());
        let began = Instant::now();
        let (mut is_interrupted, mut stop, mut announced) = (false, self.stop, None);
        while !reader.is_finished() {
            is_interrupted |= progress.interrupted();
            if is_interrupted || began.elapsed() > LONGEST {
                // The kernel ends its server with it. An ended process is not an error.
                let _ = kill_process_group(group, Signal::KILL);
                break;
            }
            if announced.is_none() && listener.as_ref().is_some_and(|(at, _)| at.accept().is_ok()) {
                announced = Some(Instant::now());
            }
            let is_due = |(after, _): &mut _| announced.is_some_and(|at| at.elapsed() >= *after);
            if let Some((_, span)) = stop.take_if(is_due) {
                stand_still(&[id], span);
            }
            thread::sleep(LOOK_EVERY);
        }
        let output = reader.join().map_err(|_| RunError::Panicked)?.map_err(failed)?;
        if is_interrupted {
            return Err(RunError::Interrupted.into());
        }
        Ok(Outcome::of(&output))
    }

    fn arguments(&self, engine: EngineKind, behaviour: Behaviour) -> Vec<String> {
        let line = format!(
            "run ws://127.0.0.1:{{port}}/ --json - --quiet --engine {} -c {} -w {}ms -d {}ms {} {} --spawn",
            engine.name(),
            self.connections,
            WARMUP.as_millis(),
            WINDOW.as_millis(),
            self.rate_per_s.map(|rate| format!("-R {rate}")).unwrap_or_default(),
            self.flags
        );
        let command = behaviour.command();
        let command = shlex::try_join(command.iter().map(String::as_str)).unwrap_or_default();
        line.split_ascii_whitespace().map(str::to_owned).chain([command]).collect()
    }
}

/// Returns a listener to which the server announces the first message, and its port.
fn announcements() -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

impl Outcome {
    fn of(output: &Output) -> Self {
        let document = serde_json::from_slice::<Document>(&output.stdout).ok();
        let stderr = String::from_utf8_lossy(&output.stderr);
        Self {
            exit_status: output.status.code(),
            run: document.and_then(|mut document| document.runs.pop()),
            complaint: stderr.lines().last().unwrap_or_default().to_owned(),
        }
    }

    /// Returns the part of the outcome that is stored.
    pub(super) fn figures(&self) -> Option<Figures> {
        let run = self.run.as_ref()?;
        Some(Figures {
            exit_status: self.exit_status,
            invalid_kinds: run.invalid_kinds.clone(),
            invalid_reasons: run.invalid_reasons.clone(),
            messages: run.messages,
            rate_per_s: run.rate_per_s,
            max_ns: run.latency_ns.corrected.max,
            standstill: run.standstill,
            ended_early: run.ended_early.clone(),
            server_cpu_ns_per_message: run.server.as_ref().map(|server| server.cpu_ns_per_message),
        })
    }
}

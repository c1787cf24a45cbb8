//! A worker: a thread on its own processor, with its own listening sockets, engine and handler.

use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use engine::{Counters, EngineKind, Handler, Inbox, Worker, affinity};

use crate::error::ServeError;
use crate::stats::Tally;

/// Wakes a worker to drain: no new connections, a farewell to the open ones, the end when they are gone.
pub const DRAIN: u64 = 1;
/// Wakes a worker to end at once.
pub const STOP: u64 = 2;

/// What a worker tells the thread that started it.
#[derive(Debug)]
pub(crate) enum Report {
    /// It accepts connections.
    Started,
    /// It has ended.
    Ended(Result<(Counters, Tally), ServeError>),
}

/// A handler that the server can run.
pub(crate) trait Service: Handler {
    fn tally(&self) -> Tally;
}

/// The part of a handler that is the same whatever it echoes: its start and its end.
#[derive(Debug)]
pub(crate) struct Life {
    reports: Option<Sender<Report>>,
    drain_timeout: Duration,
    draining: bool,
}

impl Default for Life {
    fn default() -> Self {
        Self { reports: None, drain_timeout: Duration::from_secs(5), draining: false }
    }
}

impl Life {
    pub(crate) fn started(&mut self) {
        if let Some(reports) = &self.reports {
            // Nobody listens any more when another worker has failed to start; then STOP is on its way.
            let _ = reports.send(Report::Started);
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Begins a drain when the bits call for one; whether the handler is to take leave of its connections now.
    pub(crate) fn woken<H: Handler>(&mut self, w: &mut Worker<'_, H>, bits: u64) -> bool {
        if bits & STOP != 0 {
            w.stop();
        }
        let begins = bits & DRAIN != 0 && !self.draining;
        if begins {
            self.draining = true;
            let listeners = (0..u16::MAX).take_while(|&n| w.local_addr(n).is_some()).count();
            (0..listeners as u16).for_each(|listener| w.listening(listener, false));
            w.set_alarm(Some(w.now() + self.drain_timeout));
        }
        begins
    }

    /// Ends the worker when a drain has no connections left to wait for.
    pub(crate) fn turn_end<H: Handler>(&mut self, w: &mut Worker<'_, H>) {
        if self.draining && w.connections() == 0 {
            w.stop();
        }
    }
}

/// What a worker starts with.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) index: usize,
    pub(crate) cpu: usize,
    pub(crate) engine: EngineKind,
    pub(crate) config: engine::Config,
    pub(crate) inbox: Inbox,
    pub(crate) reports: Sender<Report>,
    pub(crate) drain_timeout: Duration,
}

/// Starts a worker's thread. The handler is built on it.
pub(crate) fn spawn<S: Service>(
    plan: Plan,
    build: impl FnOnce(Life) -> S + Send + 'static,
) -> Result<JoinHandle<()>, ServeError> {
    thread::Builder::new()
        .name(format!("worker-{}", plan.index))
        .spawn(move || {
            let ending = Ending(Some(plan.reports.clone()));
            ending.report(work(plan, build));
        })
        .map_err(ServeError::system("starting a worker's thread"))
}

fn work<S: Service>(plan: Plan, build: impl FnOnce(Life) -> S) -> Result<(Counters, Tally), ServeError> {
    let Plan { cpu, engine, config, inbox, reports, drain_timeout, .. } = plan;
    affinity::pin(cpu).map_err(|source| ServeError::Pin { cpu, source })?;
    let mut handler = build(Life { reports: Some(reports), drain_timeout, draining: false });
    let counters = engine::run(engine, &config, inbox, &mut handler)?;
    Ok((counters, handler.tally()))
}

/// Reports a worker's end, also that of one that panics: otherwise the process would wait for it for ever.
struct Ending(Option<Sender<Report>>);

impl Ending {
    fn report(mut self, result: Result<(Counters, Tally), ServeError>) {
        if let Some(reports) = self.0.take() {
            let _ = reports.send(Report::Ended(result));
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(reports) = self.0.take() {
            let _ = reports.send(Report::Ended(Err(ServeError::Panicked)));
        }
    }
}

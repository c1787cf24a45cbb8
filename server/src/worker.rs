//! Worker: a thread on its own processor, with own listening sockets, engine and handler.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use engine::tls::Tls;
use engine::{ConnId, Counters, EngineKind, Handler, Inbox, Nanos, Worker, affinity};

use crate::error::ServeError;
use crate::limiter::{ConnectionLimiter, LimitReached, RefusedConnections};
use crate::snapshot::{Snapshot, SnapshotSlot, WorkerMetrics};
use crate::stats::EchoCounters;

/// Wake bit that begins a drain: new connections are refused, open ones are closed, and the drain
/// ends with the last.
pub const DRAIN: u64 = 1;
/// Wake bit that ends a worker at once.
pub const STOP: u64 = 2;
/// Wake bit that makes a worker publish its metrics.
pub(crate) const PUBLISH: u64 = 4;

/// Event that a worker reports to the thread that started it.
#[derive(Debug)]
pub(crate) enum WorkerEvent {
    /// The worker accepts connections.
    Started,
    /// The worker's drain is over. It continues to refuse new connections until it is stopped.
    Drained {
        /// Connections that were still open at the drain timeout.
        cut: usize,
    },
    /// The worker has ended.
    Ended(Result<(Counters, EchoCounters), ServeError>),
}

/// Handler that the server can run.
pub(crate) trait Service: Handler {
    fn echo_counters(&self) -> EchoCounters;
}

impl<S: Service> Service for Tls<S> {
    fn echo_counters(&self) -> EchoCounters {
        self.inner().echo_counters()
    }
}

/// Phase of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// A drain has begun, and messages that have arrived are still echoed.
    Draining {
        /// Latest time at which connections are closed.
        until: Nanos,
        /// Bytes received at the last check.
        received: u64,
        /// Consecutive checks without new bytes.
        quiet: u32,
    },
    /// All connections have been closed by the server.
    Closing,
    /// All connections are gone, or the drain timeout has passed.
    Drained,
}

/// Part of a handler that all protocols share: start, drain and end of a worker, and admission.
#[derive(Debug)]
pub(crate) struct WorkerLifecycle {
    events: Option<Sender<WorkerEvent>>,
    drain_timeout: Duration,
    /// Time at which the drain ends in any case.
    drain_end: Nanos,
    phase: Phase,
    /// Time of the drain's next step.
    step_at: Option<Nanos>,
    /// Time at which the handler wants an alarm.
    handler_at: Option<Nanos>,
    limiter: ConnectionLimiter,
    refused: RefusedConnections,
    slot: Arc<SnapshotSlot>,
}

impl Default for WorkerLifecycle {
    /// A worker that reports to nobody and admits every connection.
    fn default() -> Self {
        let refused = RefusedConnections::default();
        Self::new(
            None,
            Duration::from_secs(5),
            ConnectionLimiter::default(),
            refused,
            Arc::default(),
        )
    }
}

impl WorkerLifecycle {
    /// Consecutive checks without new bytes after which a drain closes the connections. Messages
    /// that have arrived before are echoed first. The kernel delivers them at once, but the engines
    /// may need several turns to receive all.
    const QUIET_CHECKS: u32 = 4;
    const CHECK_INTERVAL: Duration = Duration::from_millis(5);
    /// Longest time that peers which continue to send delay the close.
    const MAX_DRAINING: Duration = Duration::from_millis(200);

    fn new(
        events: Option<Sender<WorkerEvent>>,
        drain_timeout: Duration,
        limiter: ConnectionLimiter,
        refused: RefusedConnections,
        slot: Arc<SnapshotSlot>,
    ) -> Self {
        let (drain_end, phase, step_at) = (Nanos::NEVER, Phase::Serving, None);
        Self {
            events,
            drain_timeout,
            drain_end,
            phase,
            step_at,
            handler_at: None,
            limiter,
            refused,
            slot,
        }
    }

    fn report(&self, report: WorkerEvent) {
        if let Some(events) = &self.events {
            // The receiver is gone when another worker has failed to start; then STOP follows.
            let _ = events.send(report);
        }
    }

    pub(crate) fn started(&mut self) {
        self.report(WorkerEvent::Started);
    }

    /// Admits a connection. Its end must be reported with [`leave`](WorkerLifecycle::leave).
    ///
    /// # Errors
    ///
    /// The limit that refuses the connection; during a drain all are refused.
    pub(crate) fn enter(
        &mut self,
        peer: Option<SocketAddr>,
        now: Nanos,
    ) -> Result<(), LimitReached> {
        self.limiter.enter(peer, now)
    }

    /// Counts a connection for its client, which [`enter`](WorkerLifecycle::enter) was not told.
    ///
    /// # Errors
    ///
    /// The limit per address that refuses the connection.
    pub(crate) fn enter_client(&self, client: SocketAddr, now: Nanos) -> Result<(), LimitReached> {
        self.limiter.enter_client(client, now)
    }

    /// Reports the end of an admitted connection, with the `peer` of
    /// [`enter`](WorkerLifecycle::enter).
    pub(crate) fn leave(&mut self, peer: Option<SocketAddr>) {
        self.limiter.leave(peer);
    }

    /// Adds a refused connection that is being closed. It must be
    /// [removed](WorkerLifecycle::remove_refused) when it is closed.
    pub(crate) fn add_refused(&mut self, id: ConnId) {
        self.refused.add(id);
    }

    /// Removes a refused connection that has closed.
    pub(crate) fn remove_refused(&mut self, id: ConnId) {
        self.refused.remove(id);
    }

    /// Returns whether connections have to keep their peer address.
    pub(crate) fn wants_peers(&self) -> bool {
        self.limiter.wants_peers()
    }

    /// Handles wake bits. With [`PUBLISH`] among them the handler passes its `metrics`.
    pub(crate) fn woken<H: Handler>(
        &mut self,
        w: &mut Worker<'_, H>,
        bits: u64,
        metrics: Option<WorkerMetrics>,
    ) {
        if let Some(metrics) = metrics {
            let (counters, load, open) = (w.counters(), w.load(), self.limiter.open_here() as u64);
            let cpu = engine::thread_cpu_time();
            self.slot.publish(Snapshot { counters, load, open, cpu, metrics });
        }
        if bits & STOP != 0 {
            w.stop();
        }
        if bits & DRAIN != 0 && self.phase == Phase::Serving {
            let now = w.now();
            let (until, received) = (now + Self::MAX_DRAINING, w.counters().bytes_in);
            self.phase = Phase::Draining { until, received, quiet: 0 };
            self.set_step(w, Some(now + Self::CHECK_INTERVAL));
            if !self.drain_timeout.is_zero() {
                self.drain_end = now + self.drain_timeout;
            }
        }
    }

    fn set_step<H: Handler>(&mut self, w: &mut Worker<'_, H>, at: Option<Nanos>) {
        self.step_at = at;
        self.set_alarm(w);
    }

    fn set_alarm<H: Handler>(&self, w: &mut Worker<'_, H>) {
        w.set_alarm(self.step_at.into_iter().chain(self.handler_at).min());
    }

    /// Sets or unsets the time at which the handler wants an alarm, as precise as the engine can.
    pub(crate) fn set_handler_alarm<H: Handler>(
        &mut self,
        w: &mut Worker<'_, H>,
        at: Option<Nanos>,
    ) {
        if self.handler_at != at {
            self.handler_at = at;
            self.set_alarm(w);
        }
    }

    /// Makes the next turn come at once, because a handler has work left.
    pub(crate) fn hurry<H: Handler>(w: &mut Worker<'_, H>) {
        w.set_alarm(Some(w.now()));
    }

    /// Continues a drain. Returns whether the handler is to close its connections now. `has_work`:
    /// messages have arrived that the handler has not echoed yet.
    pub(crate) fn alarm<H: Handler>(&mut self, w: &mut Worker<'_, H>, has_work: bool) -> bool {
        if self.step_at.is_none_or(|at| w.now() < at) {
            // It was set to hurry, or for the handler.
            self.set_alarm(w);
            return false;
        }
        self.set_step(w, None);
        let Phase::Draining { until, received, quiet } = self.phase else { return false };
        let so_far = w.counters().bytes_in;
        let quiet = if so_far == received && !has_work { quiet + 1 } else { 0 };
        let closes = quiet >= Self::QUIET_CHECKS || w.now() >= until;
        if closes {
            self.phase = Phase::Closing;
            self.set_step(w, (self.drain_end != Nanos::NEVER).then_some(self.drain_end));
        } else {
            self.phase = Phase::Draining { until, received: so_far, quiet };
            let next = w.now() + Self::CHECK_INTERVAL;
            self.set_step(w, Some(next));
        }
        closes
    }

    /// Aborts the excess of refused connections, and checks whether a drain is over.
    pub(crate) fn turn_end<H: Handler>(&mut self, w: &mut Worker<'_, H>) {
        self.refused.take_excess().for_each(|id| w.abort(id));
        let open = self.limiter.open_here();
        if self.phase == Phase::Closing && (open == 0 || w.now() >= self.drain_end) {
            self.phase = Phase::Drained;
            self.report(WorkerEvent::Drained { cut: open });
        }
    }
}

/// Everything that a worker's thread needs.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) index: usize,
    pub(crate) cpu: usize,
    pub(crate) engine: EngineKind,
    pub(crate) config: engine::Config,
    pub(crate) inbox: Inbox,
    pub(crate) events: Sender<WorkerEvent>,
    pub(crate) drain_timeout: Duration,
    pub(crate) limiter: ConnectionLimiter,
    pub(crate) refused: RefusedConnections,
    pub(crate) slot: Arc<SnapshotSlot>,
}

/// Starts a worker's thread, which builds the handler.
pub(crate) fn spawn<S: Service>(
    plan: Plan,
    build: impl FnOnce(WorkerLifecycle) -> Result<S, ServeError> + Send + 'static,
) -> Result<JoinHandle<()>, ServeError> {
    thread::Builder::new()
        .name(format!("worker-{}", plan.index))
        .spawn(move || {
            let ending = Ending(Some(plan.events.clone()));
            ending.report(work(plan, build));
        })
        .map_err(ServeError::system("starting a worker's thread"))
}

fn work<S: Service>(
    plan: Plan,
    build: impl FnOnce(WorkerLifecycle) -> Result<S, ServeError>,
) -> Result<(Counters, EchoCounters), ServeError> {
    let Plan { cpu, engine, config, inbox, events, drain_timeout, limiter, refused, slot, .. } =
        plan;
    affinity::pin(cpu).map_err(|source| ServeError::Pin { cpu, source })?;
    let mut handler =
        build(WorkerLifecycle::new(Some(events), drain_timeout, limiter, refused, slot))?;
    let counters = engine::run(engine, &config, inbox, &mut handler)?;
    Ok((counters, handler.echo_counters()))
}

/// Reports a worker's end, also after a panic, for which the process would otherwise wait for ever.
struct Ending(Option<Sender<WorkerEvent>>);

impl Ending {
    fn report(mut self, result: Result<(Counters, EchoCounters), ServeError>) {
        if let Some(events) = self.0.take() {
            let _ = events.send(WorkerEvent::Ended(result));
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(events) = self.0.take() {
            let _ = events.send(WorkerEvent::Ended(Err(ServeError::Panicked)));
        }
    }
}

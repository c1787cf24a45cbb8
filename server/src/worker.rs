//! A worker: a thread on its own processor, with its own listening sockets, engine and handler.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use engine::tls::Tls;
use engine::{ConnId, Counters, EngineKind, Handler, Inbox, Nanos, Worker, affinity};

use crate::board::{Board, Ledger, Snapshot};
use crate::error::ServeError;
use crate::gate::{Gate, LimitReached, RefusedConnections};
use crate::stats::Tally;

/// Wakes a worker to drain: new connections are told to go, a farewell to the open ones, the end when they are gone.
pub const DRAIN: u64 = 1;
/// Wakes a worker to end at once.
pub const STOP: u64 = 2;
/// Wakes a worker to show its counters.
pub(crate) const SHOW: u64 = 4;

/// What a worker tells the thread that started it.
#[derive(Debug)]
pub(crate) enum Report {
    /// It accepts connections.
    Started,
    /// Its drain is over; so many connections were cut off. It goes on telling new ones to go until it is stopped.
    Drained {
        /// Connections that were still open when the time was up.
        cut: usize,
    },
    /// It has ended.
    Ended(Result<(Counters, Tally), ServeError>),
}

/// A handler that the server can run.
pub(crate) trait Service: Handler {
    fn tally(&self) -> Tally;
}

impl<S: Service> Service for Tls<S> {
    fn tally(&self) -> Tally {
        self.inner().tally()
    }
}

/// How far a worker's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// A drain has begun, and what has arrived is still being echoed.
    Emptying {
        /// Then at the latest leave is taken.
        until: Nanos,
        /// Bytes received when last looked at.
        received: u64,
        /// Looks since then that found no more.
        quiet: u32,
    },
    /// Leave was taken of all connections.
    Parting,
    /// All are gone, or the time was up.
    Drained,
}

/// The part of a handler that is the same whatever it echoes: its start and its end, and who is let in.
#[derive(Debug)]
pub(crate) struct Life {
    reports: Option<Sender<Report>>,
    drain_timeout: Duration,
    /// The drain ends then, whoever is left.
    drain_end: Nanos,
    phase: Phase,
    gate: Gate,
    refused: RefusedConnections,
    board: Arc<Board>,
}

impl Default for Life {
    /// Of a worker that nobody watches, in which everybody is let in.
    fn default() -> Self {
        let refused = RefusedConnections::default();
        Self::new(None, Duration::from_secs(5), Gate::default(), refused, Arc::default())
    }
}

impl Life {
    /// What has arrived when a drain begins is echoed first: until so many looks in a row, [`LOOK`](Self::LOOK) apart, find
    /// nothing more. The kernel hands over what it has at once, but the engines may need several turns to take all of it.
    const QUIET_LOOKS: u32 = 4;
    const LOOK: Duration = Duration::from_millis(5);
    /// Whoever goes on sending does not hold the drain up for longer than this.
    const EMPTYING: Duration = Duration::from_millis(200);

    fn new(
        reports: Option<Sender<Report>>,
        drain_timeout: Duration,
        gate: Gate,
        refused: RefusedConnections,
        board: Arc<Board>,
    ) -> Self {
        let (drain_end, phase) = (Nanos::NEVER, Phase::Serving);
        Self { reports, drain_timeout, drain_end, phase, gate, refused, board }
    }

    fn report(&self, report: Report) {
        if let Some(reports) = &self.reports {
            // Nobody listens any more when another worker has failed to start; then STOP is on its way.
            let _ = reports.send(report);
        }
    }

    pub(crate) fn started(&mut self) {
        self.report(Report::Started);
    }

    /// Lets a connection in, which must [`leave`](Life::leave) then.
    ///
    /// # Errors
    ///
    /// 503 beyond the limits and during a drain.
    pub(crate) fn enter(&mut self, peer: Option<SocketAddr>, now: Nanos) -> Result<(), LimitReached> {
        self.gate.enter(peer, now)
    }

    /// `peer` as at [`enter`](Life::enter).
    pub(crate) fn leave(&mut self, peer: Option<SocketAddr>) {
        self.gate.leave(peer);
    }

    /// Notes a refused connection that is being closed. It must be [removed](Life::forget_refused) after
    /// that.
    pub(crate) fn note_refused(&mut self, id: ConnId) {
        self.refused.add(id);
    }

    /// Removes a refused connection that has closed.
    pub(crate) fn forget_refused(&mut self, id: ConnId) {
        self.refused.remove(id);
    }

    /// Whether connections have to remember where they come from.
    pub(crate) fn wants_peers(&self) -> bool {
        self.gate.wants_peers()
    }

    /// Does what the bits call for; with [`SHOW`] among them the handler gives its `ledger`.
    pub(crate) fn woken<H: Handler>(&mut self, w: &mut Worker<'_, H>, bits: u64, ledger: Option<Ledger>) {
        if let Some(ledger) = ledger {
            let (counters, load, open) = (w.counters(), w.load(), self.gate.open_here() as u64);
            self.board.show(Snapshot { counters, load, open, ledger });
        }
        if bits & STOP != 0 {
            w.stop();
        }
        if bits & DRAIN != 0 && self.phase == Phase::Serving {
            let now = w.now();
            let (until, received) = (now + Self::EMPTYING, w.counters().bytes_in);
            self.phase = Phase::Emptying { until, received, quiet: 0 };
            w.set_alarm(Some(now + Self::LOOK));
            if !self.drain_timeout.is_zero() {
                self.drain_end = now + self.drain_timeout;
            }
        }
    }

    /// Goes on with a drain; whether the handler is to take leave of its connections now.
    pub(crate) fn alarm<H: Handler>(&mut self, w: &mut Worker<'_, H>) -> bool {
        let Phase::Emptying { until, received, quiet } = self.phase else { return false };
        let so_far = w.counters().bytes_in;
        let quiet = if so_far == received { quiet + 1 } else { 0 };
        let takes_leave = quiet >= Self::QUIET_LOOKS || w.now() >= until;
        if takes_leave {
            self.phase = Phase::Parting;
            w.set_alarm((self.drain_end != Nanos::NEVER).then_some(self.drain_end));
        } else {
            self.phase = Phase::Emptying { until, received: so_far, quiet };
            w.set_alarm(Some(w.now() + Self::LOOK));
        }
        takes_leave
    }

    /// Aborts the excess of refused connections, and checks whether a drain is over.
    pub(crate) fn turn_end<H: Handler>(&mut self, w: &mut Worker<'_, H>) {
        self.refused.take_excess().for_each(|id| w.abort(id));
        let open = self.gate.open_here();
        if self.phase == Phase::Parting && (open == 0 || w.now() >= self.drain_end) {
            self.phase = Phase::Drained;
            self.report(Report::Drained { cut: open });
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
    pub(crate) gate: Gate,
    pub(crate) refused: RefusedConnections,
    pub(crate) board: Arc<Board>,
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
    let Plan { cpu, engine, config, inbox, reports, drain_timeout, gate, refused, board, .. } = plan;
    affinity::pin(cpu).map_err(|source| ServeError::Pin { cpu, source })?;
    let mut handler = build(Life::new(Some(reports), drain_timeout, gate, refused, board));
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

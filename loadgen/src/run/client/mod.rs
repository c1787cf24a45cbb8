//! One worker's connections: the handler that the engine drives.
//!
//! `opening`, `receiving`, `sending` and `ending` handle the four events of a connection. `watch`
//! checks the worker's own time. This module has their shared state and the callbacks of the
//! engine.

mod answers;
mod compression;
mod ending;
mod first_messages;
mod opening;
mod receiving;
mod sending;
mod watch;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use engine::{Cause, CloseMode, ConnId, Handler, Nanos, Origin, Output, Worker};
use protocol::{Connection, Limits, Role};

use super::check::PartialEcho;
use super::error::{Opened, RunError};
use super::ledger::Ledger;
use super::outgoing::Outgoing;
use super::pace::PaceMeter;
use super::random::Random;
use super::schedule::{Schedule, Shard};
use super::shared::{Gauges, Position, Report, Shared, orders};
use super::tally::Tally;
use crate::load::Transport;
use crate::target::opening::{Failures, Opening};
use answers::Answers;
use compression::Compression;
use ending::describe;
use receiving::Echo;
use sending::NextWrite;
use watch::Watch;

/// Connections of one worker being opened at the same time: enough to hide the round trips, few
/// enough for the queue of any listener.
const CONNECTING_AT_ONCE: usize = 256;
/// Messages that one enter carries in an open loop. They leave one after another, and all count as
/// sent just before it: more of them would make the last one's time a lie.
const SENDS_PER_ENTER: u32 = 16;
/// Longest time from our Close to the end of the connection.
const CLOSING_TIME: Duration = Duration::from_secs(1);
/// Time after which the end of an open connection is no longer a consequence of how it was opened.
const LIVED: Duration = Duration::from_secs(1);
/// Normal closure (RFC 6455 7.4.1).
const NORMAL_CLOSURE: u16 = 1000;

/// State that the engine keeps for a connection.
pub struct Conn {
    link: u32,
    protocol: Connection,
}

const _: () = assert!(size_of::<Conn>() <= 64);

/// State that the worker keeps for a connection.
#[derive(Default)]
struct ConnectionState {
    id: Option<ConnId>,
    stage: Stage,
    ledger: Ledger,
    arriving: PartialEcho,
    /// Messages that this connection may still send.
    left: u32,
    /// First message whose bytes the engine does not have yet.
    unwritten: u64,
    /// True if the connection is in the list of those with room in their pipeline, or to be closed.
    is_dirty: bool,
    /// The next attempt to write messages that have not been handed to the engine.
    next_write: NextWrite,
    /// True if the connection is complete. When it has closed, another one replaces it.
    is_retired: bool,
    /// True if the TLS handshake is to resume a session, and after it, if it has.
    resumes: bool,
    ends_at: Nanos,
    ping_at: Nanos,
    /// Message that took the place of this one, and may turn out not to be an echo of it.
    held: Option<Box<(u64, Echo)>>,
    /// Time of the last receive from the peer.
    heard_at: Nanos,
    /// Time since which the connection is waiting to be reopened.
    down_since: Option<Nanos>,
    /// Time of the last opening, and the first message that could be sent then.
    opened_at: Nanos,
    first: u64,
    /// Failed attempts to open it since the last success, and the time of the first of them.
    failures: u32,
    failing_since: Nanos,
}

impl ConnectionState {
    fn new(ledger: Ledger) -> Self {
        let (left, never) = (u32::MAX, Nanos::NEVER);
        Self { ledger, left, ends_at: never, ping_at: never, ..Self::default() }
    }

    /// Returns true if the open connection has lived for a while, or an echo has come.
    fn has_lived(&self, now: Nanos) -> bool {
        now.since(self.opened_at) >= LIVED
            || self.ledger.next() - self.first > u64::from(self.ledger.outstanding())
    }

    /// Takes messages off what the connection may send, where that is limited.
    #[inline]
    fn spend(&mut self, count: u32) {
        if self.left != u32::MAX {
            self.left -= count;
        }
    }
}

#[derive(Default)]
enum Stage {
    /// Not begun, or given up.
    #[default]
    Closed,
    /// Connecting since `began`, from the address of index `first` on, after these failures.
    Connecting {
        began: Nanos,
        first: usize,
        failures: Failures,
    },
    /// The request is out, or waits for TLS.
    Handshaking {
        times: OpeningTimes,
        opening: Box<Opening>,
    },
    /// The first messages are being exchanged since `began`. `to_skip`: messages of the server that
    /// are still to be skipped.
    FirstMessages {
        began: Nanos,
        to_skip: u32,
    },
    Open,
    /// We have ended it, or know that it has ended.
    Closing,
}

/// Times at which the parts of a connection's opening began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpeningTimes {
    /// Connecting.
    pub(crate) began: Nanos,
    /// The TLS handshake, where there is one.
    pub(crate) connected: Nanos,
    /// The opening handshake.
    pub(crate) secured: Nanos,
}

/// The worker's part of what a connection may cost: 1 KiB with the engine's and the ring.
const _: () = assert!(size_of::<ConnectionState>() <= 256);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkerPhase {
    Connecting,
    /// All connections are open, or some cannot be opened; waiting for orders.
    Waiting,
    Loading,
    /// The load has ended, and nothing more is sent.
    Draining,
    Closing,
}

/// Handler of one worker's connections. A *link* is the place of a connection.
pub struct Client {
    shared: Arc<Shared>,
    worker: usize,
    shard: Shard,
    idle_shard: Shard,
    reports: Sender<Report>,
    links: Vec<ConnectionState>,
    /// Links of a closed loop with room in their pipeline; all of one turn are filled together.
    dirty: Vec<u32>,
    /// Links with messages to be written in the next turn.
    next_turn: Vec<u32>,
    /// Links with messages to be written when the unsent bytes before them have left.
    held_back: Vec<u32>,
    /// Time at which the latter are tried again.
    write_again_at: Nanos,
    /// The plan of an open loop, once the load has begun.
    schedule: Option<Schedule>,
    outgoing: Outgoing,
    /// State of compression; `None` where none is offered.
    compression: Option<Box<Compression>>,
    /// State of own messages, of answers that are not echoes, and of first messages; `None` where
    /// the load has none of them.
    answers: Option<Box<Answers>>,
    /// True if messages are generated and echoed, without compression.
    is_plain: bool,
    limits: Limits,
    tally: Tally,
    phase: WorkerPhase,
    /// The address of each server that the last connection was made to, tried first by the next.
    addresses: Vec<usize>,
    /// TLS handshakes that were begun, where sessions are resumed.
    tls_handshakes: u64,
    /// Links that have been told to connect.
    begun: usize,
    /// Those of them that are not open yet.
    opening: usize,
    /// Links in [`Stage::Open`].
    open: usize,
    /// Connections of the engine that have not been reported closed.
    live: usize,
    /// Links whose connection the engine has reported closed in this turn, and the cause.
    gone: Vec<(u32, Cause)>,
    /// Links whose connection has done its part and is about to be replaced.
    retiring: usize,
    /// Links whose connection is complete, to be reopened.
    reopen: Vec<u32>,
    /// Links whose connection was lost, with the time at which to reopen them.
    retries: BinaryHeap<Reverse<(Nanos, u32)>>,
    /// Random spread of these times.
    jitter: Random,
    /// Echoes received when all attempts to open began to fail; `None` while one succeeds.
    failing: Option<u64>,
    /// Messages that may still be sent in the window; all bits set where that is not limited.
    budget: u64,
    started: Nanos,
    outstanding: u64,
    /// The turn's time, and where it lies.
    now: Nanos,
    position: Position,
    /// Second of the window at the end of the last turn.
    second: Option<u32>,
    is_drained: bool,
    /// Meter of an open loop's echoes against its plan, once the load has begun.
    pace: Option<PaceMeter>,
    watch: Watch,
    /// Time since which messages of an open loop are due and no connection is open.
    blocked_since: Option<Nanos>,
    /// The last such period.
    downtime: (Nanos, Nanos),
    /// Time at which the connections were closed at the end of the run.
    ended_at: Option<Nanos>,
}

impl Client {
    /// Returns the handler of the connections of worker number `worker`.
    pub(crate) fn new(shared: Arc<Shared>, worker: usize, reports: Sender<Report>) -> Self {
        let shard = shared.shard(worker);
        let idle_shard = shared.idle_shard(worker);
        // Streams belong to the workers of all processes.
        let stream = u64::from(shard.worker);
        let random = Random::new(shared.load.seed, 1 + stream);
        let loaded = |_| {
            ConnectionState::new(match shared.load.is_open_loop() {
                false => Ledger::closed(shared.load.pipeline),
                true => Ledger::open(shared.load.max_outstanding),
            })
        };
        let idle = |_| ConnectionState::new(Ledger::default());
        let idle = (0..idle_shard.count()).map(idle);
        let links: Vec<_> = (0..shard.count()).map(loaded).chain(idle).collect();
        Self {
            worker,
            shard,
            idle_shard,
            reports,
            compression: Compression::new(&shared, links.len()),
            answers: Answers::new(&shared, links.len()),
            is_plain: shared.load.offer().is_none() && !shared.judges_answers(),
            links,
            dirty: Vec::with_capacity(shard.count() as usize),
            next_turn: Vec::new(),
            held_back: Vec::new(),
            write_again_at: Nanos::NEVER,
            schedule: None,
            outgoing: Outgoing::new(&shared.load, &shared.content, random),
            limits: Limits::default(),
            tally: Tally::for_load(&shared.load),
            phase: WorkerPhase::Connecting,
            addresses: vec![0; shared.destinations.len()],
            tls_handshakes: 0,
            begun: 0,
            opening: 0,
            open: 0,
            live: 0,
            gone: Vec::new(),
            retiring: 0,
            reopen: Vec::new(),
            retries: BinaryHeap::new(),
            jitter: Random::new(shared.load.seed, (1 << 63) + stream),
            failing: None,
            budget: shared.budget(worker),
            started: Nanos(0),
            outstanding: 0,
            now: Nanos(0),
            position: Position::Before,
            second: None,
            is_drained: false,
            pace: None,
            watch: Watch::default(),
            blocked_since: None,
            downtime: (Nanos(0), Nanos(0)),
            ended_at: None,
            shared,
        }
    }

    pub(crate) fn into_tally(mut self) -> Tally {
        self.finish_counts();
        self.tally
    }

    /// Returns the number of a connection over all workers and processes. Idle connections follow
    /// the others.
    pub(super) fn number(&self, link: u32) -> u32 {
        match link.checked_sub(self.shard.count()) {
            None => self.shard.number(link),
            Some(idle) => self.shard.connections + self.idle_shard.number(idle),
        }
    }

    fn report(&self, report: Report) {
        // The coordinator is gone only when the run is over; then the report is not needed.
        let _ = self.reports.send(report);
    }

    /// Ends the run.
    fn report_failure(&self, error: impl FnOnce(Opened) -> RunError) {
        self.write_gauges();
        self.report(Report::Failed(error(self.shared.opened())));
    }

    /// Looks once per turn where in the run it lies.
    #[inline]
    fn begin_turn(&mut self, now: Nanos) {
        if now != self.now {
            self.tally.clock_went_back |= now < self.now;
            self.now = now;
            self.position = self.shared.window.position(now);
            if self.watch.next.is_some_and(|next| now >= next) {
                self.look();
            }
        }
    }

    fn begin_load(&mut self, w: &mut Worker<'_, Self>) {
        self.phase = WorkerPhase::Loading;
        if self.shared.load.replaces_connections() {
            self.tally.forget_opened();
        }
        self.begin_watch();
        self.wake_at(Nanos::NEVER, w);
        let window = &self.shared.window;
        let load = &self.shared.load;
        let (epoch, start, end) = (window.epoch(), window.start(), window.end());
        self.schedule = Schedule::of(load, epoch, self.shard);
        match load.rate_per_s {
            None => match &mut self.tally.staged {
                Some(staged) => staged.stages.begin(epoch),
                None => (0..self.shard.count()).for_each(|link| self.mark(link)),
            },
            Some(per_s) => {
                // A limited number of messages takes so long on average.
                let limit = load.messages.filter(|_| load.ends_with_last_echo());
                let limit = limit.map(|messages| messages as f64 / per_s);
                let limit = limit.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                let expected = limit.map_or(end, |span| end.min(start + span));
                self.pace = Some(PaceMeter::new(epoch, start, expected, limit.is_some()));
            }
        }
    }

    /// Reports the second that has passed to the live view.
    #[cold]
    fn next_second(&mut self) {
        if let Some(done) = self.second {
            self.shared.gauges[self.worker].finish_second(done, self.tally.interval(done));
        }
        self.second = self.position.second();
    }

    fn write_gauges(&self) {
        let Gauges { open, sent, received, outstanding, faults, .. } =
            &self.shared.gauges[self.worker];
        open.store(self.open as u64, Ordering::Relaxed);
        sent.store(self.tally.sent.total, Ordering::Relaxed);
        received.store(self.tally.received.total, Ordering::Relaxed);
        outstanding.store(self.outstanding, Ordering::Relaxed);
        faults.store(self.tally.faults(), Ordering::Relaxed);
    }
}

impl Handler for Client {
    type Conn = Conn;

    fn start(&mut self, w: &mut Worker<'_, Self>) {
        self.begin_turn(w.now());
        self.started = w.now();
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        self.shared.gauges[self.worker].tid.store(tid.unsigned_abs().into(), Ordering::Relaxed);
        self.connect_more(w);
    }

    fn opened(&mut self, id: ConnId, from: Origin, out: &mut Output<'_>) -> Conn {
        self.begin_turn(out.now());
        self.live += 1;
        let link = match from {
            Origin::Connected { tag } => tag as u32,
            Origin::Accepted { .. } => unreachable!("this handler has no listeners"),
        };
        let destination = self.destination(link);
        if let Some(address) = self.address_of(link) {
            self.addresses[destination] = address;
            self.shared.destinations[destination].use_address(address);
        }
        let state = &mut self.links[link as usize];
        state.id = Some(id);
        if self.phase == WorkerPhase::Closing {
            state.stage = Stage::Closing;
            self.opening -= 1;
            out.close(CloseMode::Abort);
        } else if let Stage::Connecting { began, .. } = state.stage {
            let times = OpeningTimes { began, connected: self.now, secured: self.now };
            match self.shared.load.transport {
                Transport::Tcp => self.handshake_done(link, times, None, out),
                Transport::Ws | Transport::Wss => self.request(link, times, out),
            }
        }
        Conn { link, protocol: Connection::new(Role::Client) }
    }

    fn secured(&mut self, _: ConnId, c: &mut Conn, is_resumed: bool, out: &mut Output<'_>) {
        self.begin_turn(out.now());
        let state = &mut self.links[c.link as usize];
        if let Stage::Handshaking { times, .. } = &mut state.stage {
            (times.secured, state.resumes) = (self.now, is_resumed);
        }
    }

    fn connect_failed(&mut self, w: &mut Worker<'_, Self>, tag: u64, error: io::Error) {
        self.begin_turn(w.now());
        let link = tag as u32;
        let addresses = &self.shared.destinations[self.destination(link)].addresses;
        let to = self.address_of(link).map(|index| addresses[index]);
        if let (Some(to), Stage::Connecting { failures, .. }) =
            (to, &mut self.links[link as usize].stage)
        {
            failures.push((to, error));
        }
        if self.is_over() || !self.connect(link, w) {
            self.not_connected(link);
        }
    }

    #[inline]
    fn received(&mut self, _: ConnId, c: &mut Conn, bytes: &mut [u8], out: &mut Output<'_>) {
        self.begin_turn(out.now());
        let state = &mut self.links[c.link as usize];
        state.heard_at = self.now;
        match (&state.stage, self.shared.load.transport.is_websocket()) {
            (Stage::Open | Stage::Closing, true) => {
                if self.is_plain {
                    self.read_frames::<false, false>(c, bytes, out);
                } else {
                    self.read_otherwise(c, bytes, out);
                }
            }
            (Stage::FirstMessages { .. }, _) => self.read_otherwise(c, bytes, out),
            (Stage::Open, false) => self.read_raw(c.link, bytes, out),
            (Stage::Handshaking { .. }, _) => {
                if let Some(response) = self.read_response(c.link, bytes, out) {
                    if response.deflate.is_some() {
                        c.protocol = Connection::with_deflate(Role::Client);
                    }
                    // Nearly always nothing follows the response.
                    self.read_otherwise(c, &mut bytes[response.used..], out);
                }
            }
            (Stage::Closing | Stage::Closed | Stage::Connecting { .. }, _) => {}
        }
    }

    fn eof(&mut self, _: ConnId, c: &mut Conn, out: &mut Output<'_>) {
        self.begin_turn(out.now());
        match self.links[c.link as usize].stage {
            Stage::Open => {
                self.tally.errors.closed += 1;
                self.end(c.link, describe(&Cause::PeerClosed), out);
            }
            Stage::Handshaking { .. } => {
                let detail = "the server closed the connection without answering".to_owned();
                self.handshake_failed(c.link, detail, out);
            }
            Stage::FirstMessages { .. } => {
                let detail = format!("the server {}", describe(&Cause::PeerClosed));
                self.first_messages_failed(c.link, detail, out);
            }
            _ => out.close(CloseMode::Flush),
        }
    }

    fn drained(&mut self, _: ConnId, c: &mut Conn, out: &mut Output<'_>) {
        self.begin_turn(out.now());
        self.write_in_this_turn(c.link);
    }

    fn deadline(&mut self, _: ConnId, c: &mut Conn, out: &mut Output<'_>) {
        self.begin_turn(out.now());
        match self.links[c.link as usize].stage {
            Stage::Open => self.on_time(c.link, out),
            Stage::Handshaking { .. } => {
                self.tally.errors.timeout += 1;
                let detail = format!("no answer within {:?}", self.shared.load.connect_timeout);
                self.handshake_failed(c.link, detail, out);
            }
            Stage::FirstMessages { .. } => self.first_messages_late(c.link, out),
            _ => out.close(CloseMode::Abort),
        }
    }

    fn closed(&mut self, _: ConnId, c: Conn, cause: Cause) {
        self.live -= 1;
        self.links[c.link as usize].id = None;
        // The next step depends on the current time, which is not known here.
        self.gone.push((c.link, cause));
    }

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        self.begin_turn(w.now());
        // In an open loop, the next due message may set an earlier alarm after this.
        self.wake_at(Nanos::NEVER, w);
    }

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        // The window may have been set or moved within this turn: look again.
        self.now = w.now();
        self.position = self.shared.window.position(self.now);
        self.handle_gone();
        if bits & orders::STOP != 0 {
            return w.stop();
        }
        if bits & orders::END != 0 {
            self.look();
        }
        if bits & orders::LOAD != 0 && self.phase == WorkerPhase::Waiting {
            self.begin_load(w);
        }
        if bits & orders::CLOSE != 0 && self.phase != WorkerPhase::Closing {
            self.close_all(w);
        }
    }

    #[inline]
    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        self.begin_turn(w.now());
        self.handle_gone();
        self.reopen(w);
        if self.has_to_write() {
            self.write_on(w);
        }
        match self.phase {
            WorkerPhase::Connecting => self.connect_more(w),
            WorkerPhase::Loading if self.schedule.is_some() => self.send_due(w),
            WorkerPhase::Loading if self.position == Position::After || self.budget == 0 => {
                self.end_load(w);
            }
            WorkerPhase::Loading if !self.dirty.is_empty() => self.refill(w),
            WorkerPhase::Closing if self.live == 0 => w.stop(),
            _ => {}
        }
        if self.phase == WorkerPhase::Draining && self.outstanding == 0 && !self.is_drained {
            self.is_drained = true;
            self.report(Report::Drained);
        }
        self.tally.enter_repeated();
        if self.failing.is_some_and(|received| received != self.tally.received.total) {
            self.succeed();
        }
        self.write_gauges();
        if self.position.second() != self.second {
            self.next_second();
        }
    }
}

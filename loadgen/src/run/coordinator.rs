//! Leads the workers through the phases of a run and watches that it comes to an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use engine::{Counters, Nanos};

use super::error::RunError;
use super::plan::Plan;
use super::progress::{Phase, Progress, Snapshot};
use super::shared::{Gauges, Report, Shared, orders};
use super::tally::{GROWS, Tally, interval};
use super::worker::WorkerThread;
use crate::host::perf::{CountError, Counting};
use crate::host::procfs::{self, CpuSpent, CpuUsage, Memory};
use crate::result::Phases;
use crate::target::spawn::{LastWords, Server};

/// A time of so many seconds, or the longest that makes sense.
fn bounded(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 1e7))
}

/// How often progress is told and everything is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Interval at which the server's threads are sampled within the window, so that the load of each one is
/// known.
const LOOK_AT_SERVER: Duration = Duration::from_secs(1);
/// What workers may take to do what needs nobody else.
const GRACE: Duration = Duration::from_secs(5);
/// From the order to begin to the first message of an open loop: every worker hears of it before.
const LEAD: Duration = Duration::from_millis(2);
/// A server that dies closes its connections a little before it can be seen to be dead.
const DYING: Duration = Duration::from_millis(300);

/// Everything a run yields.
pub(super) struct Measured {
    pub(super) tally: Tally,
    pub(super) counters: Counters,
    pub(super) phases: Phases,
    /// The window as it was in the end.
    pub(super) window: Duration,
    pub(super) interrupted: bool,
    /// Reason why the load ended early, where the server or an engine ended it.
    pub(super) broken: Option<Broken>,
    /// CPU time of each worker thread in the window.
    pub(super) threads_cpu_ns: Vec<u64>,
    /// Time that the worker thread which waited most was runnable without a processor.
    pub(super) threads_waited_ns: u64,
    /// Time that the hypervisor took from the processor that lost most, of those the run is confined to.
    pub(super) stolen_ns: u64,
    /// `None` where the server was not started here.
    pub(super) counted: Option<Counted>,
    pub(super) server: Option<ServerCost>,
}

/// Cause of an early end of the load.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) error: RunError,
    /// Time of the end, from the beginning of the load.
    pub(super) after: Duration,
}

/// What was spent in the window.
#[derive(Default)]
struct Spent {
    threads_cpu_ns: Vec<u64>,
    threads_waited_ns: u64,
    stolen_ns: u64,
    server: CpuSpent,
    counted: Option<Counted>,
}

/// Instructions and cycles of the server in the window, or why they are not known.
pub(super) type Counted = Result<(u64, u64), CountError>;

/// What a run cost the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerCost {
    pub(super) cpu: CpuSpent,
    /// Before the first connection.
    pub(super) before: Memory,
    /// At the end of the window.
    pub(super) after: Memory,
}

pub(super) struct Coordinator<'a> {
    plan: &'a Plan,
    progress: &'a mut dyn Progress,
    server: Option<&'a mut Server>,
    shared: Arc<Shared>,
    workers: Vec<WorkerThread>,
    /// The processors that workers and server are confined to; empty where one of them is not.
    cpus: Vec<usize>,
    reports: Receiver<Report>,
    /// Thread numbers by worker, once known.
    tids: Vec<u32>,
    connected: u32,
    drained: u32,
    /// Workers that have lost all their connections.
    deserted: u32,
    last_loss: String,
    phase: Phase,
    phase_began: Instant,
    phase_planned: Duration,
    last_tick: Option<Instant>,
    /// The last second that was told.
    second: Option<u32>,
    /// Echoes at the last look, and when their number last changed.
    received: u64,
    received_at: Instant,
    is_interrupted: bool,
    /// Workers that have stopped sending.
    load_ended: u32,
    broken: Option<Broken>,
    /// The server's memory before the first connection.
    memory_before: Memory,
}

/// The processors that the run can be on, with those of its workers; none where it may be on any.
fn confined(plan: &Plan, workers: &[usize]) -> Vec<usize> {
    let server = plan.target.spawn.as_ref().map(|spawn| spawn.cpus.as_slice());
    if workers.is_empty() || server.is_some_and(<[usize]>::is_empty) {
        return Vec::new();
    }
    [workers, server.unwrap_or_default()].concat()
}

impl<'a> Coordinator<'a> {
    /// Starts the workers; they begin to connect.
    pub(super) fn start(
        plan: &'a Plan,
        shared: Arc<Shared>,
        cpus: &[usize],
        server: Option<&'a mut Server>,
        progress: &'a mut dyn Progress,
    ) -> Result<Self, RunError> {
        let (sender, reports) = channel();
        let mut coordinator = Self {
            plan,
            progress,
            server,
            tids: vec![0; plan.placement.threads as usize],
            shared,
            workers: Vec::new(),
            cpus: confined(plan, cpus),
            reports,
            connected: 0,
            drained: 0,
            deserted: 0,
            last_loss: String::new(),
            phase: Phase::Connect,
            phase_began: Instant::now(),
            phase_planned: Duration::ZERO,
            last_tick: None,
            second: None,
            received: 0,
            received_at: Instant::now(),
            is_interrupted: false,
            load_ended: 0,
            broken: None,
            memory_before: Memory::default(),
        };
        coordinator.memory_before = coordinator.server_memory();
        coordinator.enter(Phase::Connect, Duration::ZERO);
        coordinator.start_workers(&sender, cpus)?;
        Ok(coordinator)
    }

    fn start_workers(&mut self, sender: &Sender<Report>, cpus: &[usize]) -> Result<(), RunError> {
        for index in 0..self.plan.placement.threads as usize {
            let cpu = cpus.get(index).copied();
            let worker = WorkerThread::start(self.plan, &self.shared, sender, index, cpu);
            match worker {
                Ok(worker) => self.workers.push(worker),
                Err(error) => {
                    self.stop();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Leads the run through its phases. Nothing of it is left running afterwards.
    pub(super) fn run(mut self) -> Result<Measured, RunError> {
        match self.phases() {
            Ok(measured) => Ok(measured),
            Err(error) => {
                self.stop();
                Err(self.explain(error))
            }
        }
    }

    fn phases(&mut self) -> Result<Measured, RunError> {
        let mut phases = Phases { connect: self.connect()?, ..Phases::default() };
        phases.settle = self.rest(Phase::Settle, self.plan.load.settle)?;
        if self.is_interrupted {
            return Err(RunError::Interrupted);
        }
        let lead = if self.plan.load.rate_per_s.is_some() { LEAD } else { Duration::ZERO };
        let epoch = Nanos::monotonic() + lead;
        let start = epoch + self.plan.load.warmup;
        self.shared.window.set(epoch, start, start + self.plan.load.measure);
        self.received_at = Instant::now();
        self.order(orders::LOAD);
        // From here on there is a result to report, whatever happens.
        let warmup = self.rest(Phase::Warmup, lead + self.plan.load.warmup);
        phases.warmup = self.or_broken(warmup)?.unwrap_or_else(|| self.phase_ns());
        if self.is_interrupted {
            return Err(RunError::Interrupted);
        }
        let spent = self.measure()?;
        let failing = self.check_failing(Duration::ZERO);
        self.or_broken(failing)?;
        // A wish to end that comes later changes nothing of the result.
        let interrupted = self.is_interrupted;
        let end = self.shared.window.end();
        let after = self.server_memory();
        phases.measure = end.since(start).as_nanos() as u64;
        let drained = self.drain(end);
        self.or_broken(drained)?;
        phases.drain = Nanos::monotonic().since(end).as_nanos() as u64;
        let (tally, counters) = self.close()?;
        Ok(Measured {
            tally,
            counters,
            phases,
            window: end.since(start),
            interrupted,
            broken: self.broken.take().map(|broken| Broken { error: self.explain(broken.error), ..broken }),
            threads_cpu_ns: spent.threads_cpu_ns,
            threads_waited_ns: spent.threads_waited_ns,
            stolen_ns: spent.stolen_ns,
            counted: spent.counted,
            server: self.server.is_some().then_some(ServerCost {
                cpu: spent.server,
                before: self.memory_before,
                after,
            }),
        })
    }

    /// Turns an early end of the load into an early end of the window. The result is what was measured until
    /// then.
    fn or_broken<T>(&mut self, phase: Result<T, RunError>) -> Result<Option<T>, RunError> {
        match phase {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.has_result() => {
                let after = Nanos::monotonic().since(self.shared.window.epoch());
                self.broken.get_or_insert(Broken { error, after });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    // The phases.

    /// Until every connection is open; the workers have begun as they were started.
    fn connect(&mut self) -> Result<u64, RunError> {
        // Each connection has its own time limits; this is for the case that one of them does not work.
        let all = self.plan.load.all_connections() as u32;
        let rounds = 1 + all / (self.plan.placement.threads * 256);
        let attempts = 2 * rounds * self.shared.addresses.len() as u32;
        let paced = self.plan.load.connect_rate.map_or(Duration::ZERO, |rate| bounded(f64::from(all) / rate));
        let deadline =
            Instant::now() + self.plan.load.connect_timeout.saturating_mul(attempts) + paced + GRACE;
        while self.connected < self.plan.placement.threads {
            if Instant::now() > deadline {
                let failing = self.shared.any_failing().map(|(since, why)| self.none_stays(since, why));
                return Err(failing.unwrap_or(RunError::Stuck("open its connections")));
            }
            self.wait(deadline)?;
            if self.is_interrupted {
                return Err(RunError::Interrupted);
            }
        }
        Ok(self.phase_ns())
    }

    /// Lets a phase of fixed length pass; returns how long it took.
    fn rest(&mut self, phase: Phase, span: Duration) -> Result<u64, RunError> {
        self.enter(phase, span);
        let end = Instant::now() + span;
        while Instant::now() < end && !self.is_interrupted {
            self.wait(end)?;
        }
        Ok(self.phase_ns())
    }

    /// The measured window: what it cost.
    fn measure(&mut self) -> Result<Spent, RunError> {
        let mut server = CpuUsage::default();
        let stolen = procfs::stolen_ns(&self.cpus);
        let threads = self.threads_times();
        self.look_at_server(&mut server);
        let server_before = server.clone();
        let counting = self.server.as_ref().map(|server| Counting::start(&server.pids()));
        self.enter(Phase::Measure, self.plan.load.measure);
        let window = self.pass_window(&mut server);
        self.or_broken(window)?;
        // The two clocks are read one after the other, so a small remainder does not mean that the window was
        // cut short.
        let is_cut = self.broken.is_some() || self.is_interrupted || self.has_last_echo();
        if is_cut {
            self.shared.window.end_at(Nanos::monotonic().min(self.shared.window.end()));
            self.order(orders::END);
        }
        let now = self.threads_times();
        let passed = || now.iter().zip(&threads);
        self.look_at_server(&mut server);
        let counted = counting.map(|counting| counting.and_then(|mut counting| counting.read()));
        let stolen_now = procfs::stolen_ns(&self.cpus);
        let lost =
            stolen_now.iter().map(|(cpu, now)| now.saturating_sub(stolen.get(cpu).copied().unwrap_or(*now)));
        Ok(Spent {
            threads_cpu_ns: passed().map(|(now, then)| now.0.saturating_sub(then.0)).collect(),
            threads_waited_ns: passed().map(|(now, then)| now.1.saturating_sub(then.1)).max().unwrap_or(0),
            stolen_ns: lost.max().unwrap_or(0),
            server: server.since(&server_before),
            counted,
        })
    }

    /// Returns true where all echoes of a limited number of messages are back, which ends the window.
    fn has_last_echo(&self) -> bool {
        self.plan.load.ends_with_last_echo() && self.drained == self.plan.placement.threads
    }

    /// Waits until the end of the window.
    fn pass_window(&mut self, server: &mut CpuUsage) -> Result<(), RunError> {
        // The remainder of the window is shorter than an interval, because sampling takes time.
        let end = Instant::now() + self.shared.window.end().since(Nanos::monotonic());
        let mut looked = Instant::now();
        while Instant::now() < end && !self.is_interrupted && self.broken.is_none() {
            if self.has_last_echo() {
                break;
            }
            self.wait(end)?;
            if looked.elapsed() >= LOOK_AT_SERVER {
                looked = Instant::now();
                self.look_at_server(server);
            }
        }
        Ok(())
    }

    /// Waits until all outstanding messages are back or have timed out. Does not wait for a load that ended
    /// early, because nothing more comes.
    fn drain(&mut self, window_end: Nanos) -> Result<(), RunError> {
        // What was due in the window may be sent a moment later, so the drain begins when nothing more is
        // sent.
        let sent = Instant::now() + GRACE;
        while self.broken.is_none() && self.load_ended < self.plan.placement.threads && Instant::now() < sent
        {
            self.wait(sent)?;
        }
        self.enter(Phase::Drain, Duration::ZERO);
        // A little more than the time after which a message is lost.
        let deadline = Instant::now() + self.plan.load.answer_timeout + TICK;
        while self.broken.is_none() && self.drained < self.plan.placement.threads && Instant::now() < deadline
        {
            self.wait(deadline)?;
        }
        let silent = self.silence();
        if self.drained < self.plan.placement.threads && silent > Nanos::monotonic().since(window_end) + TICK
        {
            return Err(self.stopped_answering(silent));
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(Tally, Counters), RunError> {
        self.enter(Phase::Close, Duration::ZERO);
        self.order(orders::CLOSE);
        if !self.all_finished_within(GRACE) {
            self.order(orders::STOP);
            if !self.all_finished_within(GRACE) {
                return Err(RunError::Stuck("stop"));
            }
        }
        let mut tally = Tally::new(self.shared.seconds, self.shared.load.rate_per_s.is_some());
        let mut counters = Counters::default();
        for worker in self.workers.drain(..) {
            let (part, counted) = worker.join()?;
            tally.add(&part);
            counters += counted;
        }
        Ok((tally, counters))
    }

    /// Ends the workers at once. One that does not end is left behind: the error that led here matters more.
    fn stop(&mut self) {
        self.order(orders::STOP);
        self.all_finished_within(GRACE);
        self.workers.clear();
    }

    fn all_finished_within(&self, bound: Duration) -> bool {
        let began = Instant::now();
        while !self.workers.iter().all(WorkerThread::is_finished) {
            if began.elapsed() > bound {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn order(&self, bits: u64) {
        self.workers.iter().for_each(|worker| worker.remote.wake(bits));
    }

    // Watching.

    /// Waits for a report, for the next tick or for `until`, whichever comes first, and deals with it.
    fn wait(&mut self, until: Instant) -> Result<(), RunError> {
        let now = Instant::now();
        let next_tick = self.last_tick.map_or(now, |last| last + TICK);
        let span = until.min(next_tick).saturating_duration_since(now);
        match self.reports.recv_timeout(span) {
            Ok(report) => self.hear(report)?,
            Err(RecvTimeoutError::Timeout) => {}
            // All workers have ended, and none has said why.
            Err(RecvTimeoutError::Disconnected) => return Err(RunError::Panicked),
        }
        if Instant::now() >= next_tick {
            self.tick()?;
        }
        Ok(())
    }

    fn hear(&mut self, report: Report) -> Result<(), RunError> {
        let (open, connections) = (self.total(|gauges| &gauges.open), self.plan.load.connections);
        match report {
            Report::Started { worker, tid } => self.tids[worker] = tid,
            Report::Connected => self.connected += 1,
            Report::LoadEnded => self.load_ended += 1,
            Report::Drained => self.drained += 1,
            Report::Deserted(cause) => {
                self.deserted += 1;
                self.last_loss = cause;
                return self.check_deserted();
            }
            Report::ConnectFailed(detail) => return Err(RunError::Connect { detail, open, connections }),
            Report::LostEarly(cause) => return Err(RunError::LostEarly { cause, open, connections }),
            Report::GaveUp { since, why } => return Err(self.none_stays(since, why)),
            Report::LostAtOnce(cause) => self.progress.note(&format!("{cause}; opening connections again")),
            Report::HandshakeFailed(detail) => {
                let url = self.plan.target.url.with_port(self.shared.addresses[0].port()).to_string();
                return Err(RunError::Handshake { url, detail, open, connections });
            }
            Report::Failed(error) => return Err(error.into()),
            Report::Unpinned { cpu, source } => return Err(RunError::Pin { cpu, source }),
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), RunError> {
        let received = self.total(|gauges| &gauges.received);
        // Silence begins when something is due.
        if received != self.received || self.outstanding() == 0 {
            self.received = received;
            self.received_at = Instant::now();
        }
        self.tell();
        self.is_interrupted |= self.progress.interrupted();
        if let Some(status) = self.server.as_mut().and_then(|server| server.exit_status()) {
            return Err(RunError::ServerEnded { status, said: LastWords::default() });
        }
        self.check_failing(self.plan.load.answer_timeout)?;
        let loading = matches!(self.phase, Phase::Warmup | Phase::Measure);
        if loading && self.silence() >= self.plan.load.answer_timeout && self.outstanding() > 0 {
            return Err(self.stopped_answering(self.silence()));
        }
        Ok(())
    }

    fn check_deserted(&self) -> Result<(), RunError> {
        if self.deserted < self.plan.placement.threads || matches!(self.phase, Phase::Drain | Phase::Close) {
            return Ok(());
        }
        let (connections, cause) = (self.plan.load.connections, self.last_loss.clone());
        Err(RunError::AllClosed { connections, cause, said: LastWords::default() })
    }

    /// Ends the run where all attempts to open connections fail: none is open, and for `patience` all
    /// attempts have failed without an echo between them.
    fn check_failing(&self, patience: Duration) -> Result<(), RunError> {
        let is_of_use = self.total(|gauges| &gauges.open) > 0 || self.total(|gauges| &gauges.received) > 0;
        if is_of_use || !matches!(self.phase, Phase::Settle | Phase::Warmup | Phase::Measure) {
            return Ok(());
        }
        match self.shared.all_failing() {
            Some((since, why)) if Nanos::monotonic().since(since) >= patience => {
                Err(self.none_stays(since, why))
            }
            _ => Ok(()),
        }
    }

    fn none_stays(&self, since: Nanos, cause: String) -> RunError {
        let (open, connections) = (self.total(|gauges| &gauges.open), self.plan.load.connections);
        RunError::NoneStays { cause, after: Nanos::monotonic().since(since), open, connections }
    }

    fn stopped_answering(&self, after: Duration) -> RunError {
        RunError::StoppedAnswering { outstanding: self.outstanding(), after, said: LastWords::default() }
    }

    /// How long no echo has come.
    fn silence(&self) -> Duration {
        self.received_at.elapsed()
    }

    fn outstanding(&self) -> u64 {
        self.total(|gauges| &gauges.outstanding)
    }

    /// Adds what the server has to say. That it died explains whatever else went wrong.
    fn explain(&mut self, error: RunError) -> RunError {
        let Some(server) = self.server.as_mut() else { return error };
        let began = Instant::now();
        let may_explain =
            !matches!(error, RunError::Interrupted | RunError::Engine(_) | RunError::Pin { .. });
        while may_explain && began.elapsed() < DYING {
            if let Some(status) = server.exit_status() {
                server.wait_for_last_words();
                return RunError::ServerEnded { status, said: server.last_words() };
            }
            thread::sleep(Duration::from_millis(5));
        }
        match error {
            RunError::AllClosed { connections, cause, .. } => {
                RunError::AllClosed { connections, cause, said: server.last_words() }
            }
            RunError::StoppedAnswering { outstanding, after, .. } => {
                RunError::StoppedAnswering { outstanding, after, said: server.last_words() }
            }
            other => other,
        }
    }

    fn enter(&mut self, phase: Phase, planned: Duration) {
        self.phase = phase;
        self.phase_began = Instant::now();
        self.phase_planned = planned;
        self.tell();
    }

    fn phase_ns(&self) -> u64 {
        u64::try_from(self.phase_began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn tell(&mut self) {
        self.last_tick = Some(Instant::now());
        let at = Snapshot {
            phase: self.phase,
            elapsed: self.phase_began.elapsed(),
            planned: self.phase_planned,
            open: self.total(|gauges| &gauges.open),
            connections: self.plan.load.all_connections(),
            sent: self.total(|gauges| &gauges.sent),
            received: self.total(|gauges| &gauges.received),
            errors: self.total(|gauges| &gauges.faults),
        };
        self.progress.tick(&at);
        self.tell_second();
    }

    /// Tells a second's latencies once all workers have done with it.
    fn tell_second(&mut self) {
        let mut gauges = self.shared.gauges.iter();
        let Some(second) = gauges.next().and_then(|gauges| gauges.last_second(|_| ())).map(|last| last.0)
        else {
            return;
        };
        if self.second == Some(second) {
            return;
        }
        let mut sum = interval();
        let add = |gauges: &Gauges| {
            let added = gauges.last_second(|part| part.map(|part| sum.add(part).expect(GROWS)));
            added.is_some_and(|(of, _)| of == second)
        };
        if self.shared.gauges.iter().all(add) {
            self.second = Some(second);
            self.progress.second(&sum);
        }
    }

    fn total(&self, gauge: impl Fn(&Gauges) -> &AtomicU64) -> u64 {
        self.shared.gauges.iter().map(|gauges| gauge(gauges).load(Ordering::Relaxed)).sum()
    }

    /// Of each worker thread, nanoseconds on a processor and waiting for one.
    fn threads_times(&self) -> Vec<(u64, u64)> {
        let me = std::process::id();
        self.tids.iter().map(|&tid| procfs::schedstat(me, tid).unwrap_or_default()).collect()
    }

    fn look_at_server(&self, usage: &mut CpuUsage) {
        if let Some(server) = &self.server {
            server.look(usage);
        }
    }

    fn server_memory(&self) -> Memory {
        self.server.as_ref().map(|server| procfs::memory(&server.pids())).unwrap_or_default()
    }
}

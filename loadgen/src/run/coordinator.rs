//! Leads the workers through the phases of a run and watches that it comes to an end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, SystemTimeError};

use engine::{Counters, Nanos};

use super::error::RunError;
use super::plan::Plan;
use super::progress::{Phase, Progress, Snapshot};
use super::server_meter::{MetricsFacts, ProcessMeter, ServerCost, ServerMeter};
use super::shared::{Gauges, Report, Shared, orders};
use super::started::Started;
use super::tally::{GROWS, Tally, interval};
use super::worker::WorkerThread;
use crate::host::perf::{Counted, Counting};
use crate::host::procfs;
use crate::result::{Phases, Utc};
use crate::target::metrics::{Endpoint, MetricsError, Reading};

/// Interval of progress reports and of all checks.
const TICK: Duration = Duration::from_millis(100);
/// Time that workers may take for something that depends on no other party.
const GRACE: Duration = Duration::from_secs(5);
/// Time from the order to begin to the first message, so that every worker hears of it.
const LEAD: Duration = Duration::from_millis(2);
/// A server that dies closes its connections a little before it can be seen to be dead.
const DYING: Duration = Duration::from_millis(300);

pub(super) struct Measured {
    pub(super) tally: Tally,
    pub(super) counters: Counters,
    pub(super) phases: Phases,
    /// Instant of the system's clock at which the load began.
    pub(super) load_start: Utc,
    /// The window as it was in the end.
    pub(super) window: Duration,
    pub(super) interrupted: bool,
    /// Reason why the load ended early, where the server or an engine ended it, and the time of the
    /// end from the beginning of the load.
    pub(super) broken: Option<(RunError, Duration)>,
    pub(super) spent: Spent,
    pub(super) server: Option<ServerCost>,
    /// Cost of the proxy before the server.
    pub(super) proxy: Option<ServerCost>,
    /// Facts from the server's metrics, where it has a URL of metrics.
    pub(super) metrics: Option<Result<MetricsFacts, MetricsError>>,
}

#[derive(Default)]
pub(super) struct Spent {
    pub(super) threads_cpu_ns: Vec<u64>,
    /// Time that the worker thread which waited most was runnable without a processor.
    pub(super) threads_waited_ns: u64,
    /// Time that the hypervisor took from the run's processor that lost most.
    pub(super) stolen_ns: u64,
    /// Counters of the server's processors; `None` where the server was not started here.
    pub(super) counted: Option<Counted>,
}

pub(super) struct Coordinator<'a> {
    plan: &'a Plan,
    progress: &'a mut dyn Progress,
    meter: ServerMeter<'a>,
    proxy: Option<ProcessMeter<'a>>,
    shared: Arc<Shared>,
    workers: Vec<WorkerThread>,
    /// The processors that workers and server are confined to; empty if one of them is not.
    cpus: Vec<usize>,
    reports: Receiver<Report>,
    /// Numbers of workers whose connections are all open, that have stopped sending, that have all
    /// echoes back, and that have lost all connections.
    connected: u32,
    load_ended: u32,
    drained: u32,
    deserted: u32,
    phase: Phase,
    phase_began: Instant,
    phase_planned: Duration,
    last_tick: Option<Instant>,
    /// The last second that was told.
    second: Option<u32>,
    /// Echoes at the last tick, and when their number last changed.
    received: u64,
    received_at: Instant,
    is_interrupted: bool,
    broken: Option<(RunError, Duration)>,
}

/// Returns the processors that the run can be on; none where it may be on any.
fn confined(plan: &Plan, workers: &[usize]) -> Vec<usize> {
    let is_free = plan.target.spawn.is_some() && plan.server_cpus().is_empty()
        || plan.target.via.is_some() && plan.proxy_cpus().is_empty();
    if workers.is_empty() || is_free {
        return Vec::new();
    }
    [workers, plan.server_cpus(), plan.proxy_cpus()].concat()
}

impl<'a> Coordinator<'a> {
    /// Starts the workers; they begin to connect.
    pub(super) fn start(
        plan: &'a Plan,
        shared: Arc<Shared>,
        cpus: &[usize],
        started: &'a mut Started,
        metrics: Option<(Endpoint, Reading)>,
        progress: &'a mut dyn Progress,
    ) -> Result<Self, RunError> {
        let (sender, reports) = channel();
        let now = Instant::now();
        let mut coordinator = Self {
            plan,
            progress,
            meter: ServerMeter::new(started.server.as_mut(), metrics),
            proxy: started.proxy.as_mut().map(ProcessMeter::new),
            shared,
            workers: Vec::new(),
            cpus: confined(plan, cpus),
            reports,
            connected: 0,
            load_ended: 0,
            drained: 0,
            deserted: 0,
            phase: Phase::Connect,
            phase_began: now,
            phase_planned: Duration::ZERO,
            last_tick: None,
            second: None,
            received: 0,
            received_at: now,
            is_interrupted: false,
            broken: None,
        };
        coordinator.enter(Phase::Connect, Duration::ZERO);
        for index in 0..plan.placement.threads as usize {
            let cpu = cpus.get(index).copied();
            let worker = WorkerThread::start(plan, &coordinator.shared, &sender, index, cpu);
            let worker = worker.inspect_err(|_| coordinator.stop())?;
            coordinator.workers.push(worker);
        }
        Ok(coordinator)
    }

    /// Leads the run through its phases. Nothing of it is left running afterwards.
    pub(super) fn run(mut self) -> Result<Measured, RunError> {
        self.phases().map_err(|error| {
            self.stop();
            self.explain(error)
        })
    }

    fn phases(&mut self) -> Result<Measured, RunError> {
        let load = &self.plan.load;
        let mut phases = Phases { connect: self.connect()?, ..Phases::default() };
        phases.settle = self.rest(Phase::Settle, load.settle)?;
        if self.is_interrupted {
            return Err(RunError::Interrupted);
        }
        let lead = if load.is_open_loop() { LEAD } else { Duration::ZERO };
        let (epoch, load_start) = self.epoch(lead)?;
        phases.settle = self.phase_ns();
        let start = epoch + load.warmup;
        self.shared.window.set(epoch, start, start + load.measure);
        self.received_at = Instant::now();
        self.order(orders::LOAD);
        // From here on there is a result to report, whatever happens.
        let warmup = self.rest(Phase::Warmup, lead + load.warmup);
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
        phases.measure = end.since(start).as_nanos() as u64;
        let drained = self.drain(end);
        self.or_broken(drained)?;
        phases.drain = Nanos::monotonic().since(end).as_nanos() as u64;
        let (tally, counters) = self.close()?;
        let broken = self.broken.take().map(|(error, after)| (self.explain(error), after));
        let (server, metrics) = self.meter.cost(start, end);
        let proxy = self.proxy.as_ref().map(ProcessMeter::cost);
        let window = end.since(start);
        Ok(Measured {
            tally,
            counters,
            phases,
            load_start,
            window,
            interrupted,
            broken,
            spent,
            server,
            proxy,
            metrics,
        })
    }

    /// Turns an early end of the load into an early end of the window, with a result.
    fn or_broken<T>(&mut self, phase: Result<T, RunError>) -> Result<Option<T>, RunError> {
        match phase {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind().is_some() => {
                let after = Nanos::monotonic().since(self.shared.window.epoch());
                self.broken.get_or_insert((error, after));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    // The phases.

    /// Waits until every connection is open; the workers have begun as they were started.
    fn connect(&mut self) -> Result<u64, RunError> {
        // Each connection has its own limits; this is for the case that one of them fails.
        let (load, threads) = (&self.plan.load, self.plan.placement.threads);
        let all = self.plan.all_own_connections() as u32;
        let steps = 2 + u32::from(load.has_first_messages());
        let addresses = self.shared.destinations.iter().map(|to| to.addresses.len() as u32).max();
        let attempts = steps * (1 + all / (threads * 256)) * addresses.unwrap_or(1);
        let paced = f64::from(load.all_connections() as u32);
        let paced = load.connect_rate.map_or(0.0, |rate| (paced / rate).clamp(0.0, 1e7));
        let limit =
            load.connect_timeout.saturating_mul(attempts) + Duration::from_secs_f64(paced) + GRACE;
        let is_done = |own: &Self| own.connected >= threads || own.is_interrupted;
        if !self.wait_until(Instant::now() + limit, is_done)? {
            let failing = self.shared.any_failing().map(|(since, why)| self.none_stays(since, why));
            return Err(failing.unwrap_or(RunError::Stuck("open its connections")));
        }
        if self.is_interrupted {
            return Err(RunError::Interrupted);
        }
        Ok(self.phase_ns())
    }

    /// Lets a phase of fixed length pass; returns how long it took.
    fn rest(&mut self, phase: Phase, span: Duration) -> Result<u64, RunError> {
        self.enter(phase, span);
        self.wait_until(Instant::now() + span, |own| own.is_interrupted)?;
        Ok(self.phase_ns())
    }

    /// Returns the beginning of the load by both clocks, `lead` from now at the earliest. Waits for
    /// the instant of `--start-at`.
    fn epoch(&mut self, lead: Duration) -> Result<(Nanos, Utc), RunError> {
        let Some(start) = self.plan.placement.start_at else {
            return Ok((Nanos::monotonic() + lead, Utc::at(SystemTime::now() + lead)));
        };
        let is_late = |error: SystemTimeError| RunError::StartPassed { late: error.duration() };
        start.duration_since(SystemTime::now() + lead).map_err(is_late)?;
        // The clock may be set meanwhile.
        while let Ok(left) = start.duration_since(SystemTime::now() + lead)
            && !left.is_zero()
        {
            self.phase_planned = self.phase_began.elapsed() + left;
            self.wait_until(Instant::now() + left, |own| own.is_interrupted)?;
            if self.is_interrupted {
                return Err(RunError::Interrupted);
            }
        }
        let (here, now) = (Nanos::monotonic(), SystemTime::now());
        let epoch = match start.duration_since(now) {
            Ok(left) => here + left,
            Err(passed) => Nanos(here.0.saturating_sub(passed.duration().as_nanos() as u64)),
        };
        Ok((epoch, Utc::at(start)))
    }

    /// Waits until the end of the measured window. Returns the generator's costs.
    fn measure(&mut self) -> Result<Spent, RunError> {
        let stolen = procfs::stolen_ns(&self.cpus);
        let threads = self.threads_times();
        self.proxy.iter_mut().for_each(ProcessMeter::begin_window);
        self.meter.begin_window();
        let counting = self.meter.process().map(|process| Counting::start(&process.pids()));
        self.enter(Phase::Measure, self.plan.load.measure);
        // The remainder of the window is shorter than an interval, because sampling takes time.
        let end = Instant::now() + self.shared.window.end().since(Nanos::monotonic());
        // A small remainder between the two clocks does not mean that the window was cut short.
        let is_cut = |own: &Self| own.broken.is_some() || own.is_interrupted || own.has_last_echo();
        let window = self.wait_until(end, is_cut);
        self.or_broken(window)?;
        if is_cut(self) {
            self.shared.window.end_at(Nanos::monotonic().min(self.shared.window.end()));
            self.order(orders::END);
        }
        let now = self.threads_times();
        let passed = || now.iter().zip(&threads);
        self.proxy.iter_mut().for_each(ProcessMeter::end_window);
        self.meter.end_window();
        let counted = counting.map(|counting| counting.and_then(|mut counting| counting.read()));
        let lost = procfs::stolen_ns(&self.cpus)
            .into_iter()
            .map(|(cpu, now)| now.saturating_sub(stolen.get(&cpu).copied().unwrap_or(now)));
        Ok(Spent {
            threads_cpu_ns: passed().map(|(now, then)| now.0.saturating_sub(then.0)).collect(),
            threads_waited_ns: passed()
                .map(|(now, then)| now.1.saturating_sub(then.1))
                .max()
                .unwrap_or(0),
            stolen_ns: lost.max().unwrap_or(0),
            counted,
        })
    }

    /// Returns true if the last echo of a limited number of messages is back.
    fn has_last_echo(&self) -> bool {
        self.plan.load.ends_with_last_echo() && self.is_drained()
    }

    fn is_drained(&self) -> bool {
        self.drained >= self.plan.placement.threads
    }

    /// Waits until all outstanding messages are back or have timed out. Does not wait for a load
    /// that ended early, because nothing more comes.
    fn drain(&mut self, window_end: Nanos) -> Result<(), RunError> {
        // What was due in the window may be sent a moment later.
        let threads = self.plan.placement.threads;
        self.wait_until(Instant::now() + GRACE, |own| {
            own.broken.is_some() || own.load_ended >= threads
        })?;
        self.enter(Phase::Drain, Duration::ZERO);
        // A little more than the time after which a message is lost.
        let deadline = Instant::now() + self.plan.load.answer_timeout + TICK;
        self.wait_until(deadline, |own| own.broken.is_some() || own.is_drained())?;
        if !self.is_drained() && self.silence() > Nanos::monotonic().since(window_end) + TICK {
            return Err(self.stopped_answering());
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
        let mut tally = Tally::for_load(&self.plan.load);
        let mut counters = Counters::default();
        for worker in self.workers.drain(..) {
            let (part, counted) = worker.thread.join().map_err(|_| RunError::Panicked)?;
            tally.add(&part);
            counters += counted;
        }
        Ok((tally, counters))
    }

    /// Ends the workers at once. One that does not end is left behind.
    fn stop(&mut self) {
        self.order(orders::STOP);
        self.all_finished_within(GRACE);
        self.workers.clear();
    }

    fn all_finished_within(&self, bound: Duration) -> bool {
        let began = Instant::now();
        while !self.workers.iter().all(|worker| worker.thread.is_finished()) {
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

    /// Watches the run until `is_done` returns true, or until `end`. Returns true if it is done.
    fn wait_until(
        &mut self,
        end: Instant,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<bool, RunError> {
        while !is_done(self) {
            let now = Instant::now();
            if now >= end {
                return Ok(false);
            }
            let next_tick = self.last_tick.map_or(now, |last| last + TICK);
            match self.reports.recv_timeout(end.min(next_tick).saturating_duration_since(now)) {
                Ok(report) => self.hear(report)?,
                Err(RecvTimeoutError::Timeout) => {}
                // All workers have ended, and none has said why.
                Err(RecvTimeoutError::Disconnected) => return Err(RunError::Panicked),
            }
            if Instant::now() >= next_tick {
                self.tick()?;
            }
        }
        Ok(true)
    }

    fn hear(&mut self, report: Report) -> Result<(), RunError> {
        match report {
            Report::Connected => self.connected += 1,
            Report::LoadEnded => self.load_ended += 1,
            Report::Drained => self.drained += 1,
            Report::AllConnectionsLost(cause) => {
                self.deserted += 1;
                let is_last = self.deserted >= self.plan.placement.threads;
                if is_last && !matches!(self.phase, Phase::Drain | Phase::Close) {
                    let connections = self.plan.own_connections();
                    return Err(RunError::AllClosed { connections, cause, said: String::new() });
                }
            }
            Report::LostAtOnce(cause) => {
                self.progress.note(&format!("{cause}; opening connections again"));
            }
            Report::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), RunError> {
        let received = self.shared.total(|gauges| &gauges.received);
        // Silence begins when something is due.
        if received != self.received || self.outstanding() == 0 {
            self.received = received;
            self.received_at = Instant::now();
        }
        self.tell();
        self.is_interrupted |= self.progress.interrupted();
        if self.phase == Phase::Measure {
            self.processes().for_each(ProcessMeter::sample);
        }
        if let Some(error) = self.processes().find_map(ProcessMeter::ended) {
            return Err(error);
        }
        let patience = self.plan.load.answer_timeout;
        self.check_failing(patience)?;
        let loading = matches!(self.phase, Phase::Warmup | Phase::Measure);
        if loading && self.silence() >= patience && self.outstanding() > 0 {
            return Err(self.stopped_answering());
        }
        Ok(())
    }

    /// Ends the run where all attempts to open connections fail: none is open, and for `patience`
    /// all attempts have failed without an echo between them.
    fn check_failing(&self, patience: Duration) -> Result<(), RunError> {
        let is_of_use = self.shared.total(|gauges| &gauges.open) > 0
            || self.shared.total(|gauges| &gauges.received) > 0;
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
        let after = Nanos::monotonic().since(since);
        RunError::NoneStays { cause, after, opened: self.shared.opened() }
    }

    fn stopped_answering(&self) -> RunError {
        let (outstanding, after) = (self.outstanding(), self.silence());
        RunError::StoppedAnswering { outstanding, after, said: String::new() }
    }

    /// Returns the time for which no echo has come.
    fn silence(&self) -> Duration {
        self.received_at.elapsed()
    }

    fn outstanding(&self) -> u64 {
        self.shared.total(|gauges| &gauges.outstanding)
    }

    /// Adds what server or proxy have to say. That one died explains whatever else went wrong.
    fn explain(&mut self, mut error: RunError) -> RunError {
        let began = Instant::now();
        let may_explain =
            !matches!(error, RunError::Interrupted | RunError::Engine(_) | RunError::Setup(_));
        while may_explain && self.meter.process().is_some() && began.elapsed() < DYING {
            for server in self.processes().map(ProcessMeter::server) {
                if let Some(status) = server.exit_status() {
                    server.wait_for_output();
                    return RunError::ended(server.role(), status, server.stderr_tail());
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
        let Some(server) = self.processes().next().map(ProcessMeter::server) else { return error };
        if let RunError::AllClosed { said, .. } | RunError::StoppedAnswering { said, .. } =
            &mut error
        {
            *said = server.stderr_tail();
        }
        error
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
            open: self.shared.total(|gauges| &gauges.open),
            connections: self.plan.all_own_connections(),
            sent: self.shared.total(|gauges| &gauges.sent),
            received: self.shared.total(|gauges| &gauges.received),
            errors: self.shared.total(|gauges| &gauges.faults),
        };
        self.progress.tick(&at);
        self.tell_second();
    }

    /// Tells a second's latencies once all workers have done with it.
    fn tell_second(&mut self) {
        let lasts: Vec<_> = self.shared.gauges.iter().map(Gauges::last_second).collect();
        let second = lasts.first().and_then(|last| last.as_ref()).map(|(second, _)| *second);
        let is_done = lasts.iter().all(|last| last.as_ref().map(|(second, _)| *second) == second);
        if second.is_none() || second == self.second || !is_done {
            return;
        }
        let mut sum = interval();
        for part in lasts.iter().filter_map(|last| last.as_ref()?.1.as_ref()) {
            sum.add(&**part).expect(GROWS);
        }
        drop(lasts);
        self.second = second;
        self.progress.second(&sum);
    }

    /// Returns the nanoseconds of each worker thread on a processor and waiting for one.
    fn threads_times(&self) -> Vec<(u64, u64)> {
        let tids =
            self.shared.gauges.iter().map(|gauges| gauges.tid.load(Ordering::Relaxed) as u32);
        tids.map(|tid| procfs::schedstat(std::process::id(), tid).unwrap_or_default()).collect()
    }

    /// Returns what was started for the run: first the program that the generator connects to.
    fn processes(&mut self) -> impl Iterator<Item = &mut ProcessMeter<'a>> {
        self.proxy.iter_mut().chain(self.meter.process())
    }
}

//! The server's cost in the window: that of its processes, where it was started here, or by its
//! metrics.
//!
//! A reading of metrics takes a while, and the server reads its clocks at an instant within that
//! time which nobody else knows. The first reading begins with the window, so a part of the window
//! is missing. Its CPU time is that of the rest, for which the server had the same load. The second
//! reading begins with the end of the window, when the load ends. What is not known of both
//! instants, and the resolution of the server's clock, make the uncertainty.

use std::time::{Duration, Instant};

use engine::Nanos;

use super::error::RunError;
use crate::host::procfs::{self, CostSource, CpuSpent, CpuUsage, Memory};
use crate::target::metrics::{Endpoint, MetricsError, Reading};
use crate::target::spawn::{Announced, Server};
use crate::target::subject::Subject;

/// Interval at which threads of a server's processes are sampled within the window.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Cost of the server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServerCost {
    pub(super) cpu: CpuSpent,
    /// Largest error of the CPU time as a share of it, where it comes from metrics.
    pub(super) uncertainty: Option<f64>,
    /// Resident memory at the end of the window.
    pub(super) resident: Option<u64>,
    /// Growth of memory that no file backs, from before the first connection.
    pub(super) growth: Option<i64>,
}

/// Facts about a server from its metrics.
#[derive(Clone, Debug)]
pub(super) struct MetricsFacts {
    pub(super) announced: Announced,
    pub(super) subject: Subject,
}

/// Meter of the server's cost.
pub(super) enum ServerMeter<'a> {
    /// The server is not known.
    Absent,
    /// The server was started here.
    Spawned(Box<ProcessMeter<'a>>),
    /// The server has metrics.
    Metrics(Box<MetricsMeter>),
}

/// Meter of a server or a proxy that was started here.
pub(super) struct ProcessMeter<'a> {
    server: &'a mut Server,
    usage: CpuUsage,
    sampled_at: Instant,
    at_begin: CpuUsage,
    /// Memory before the first connection, and at the end of the window.
    before: Memory,
    after: Memory,
}

pub(super) struct MetricsMeter {
    endpoint: Endpoint,
    /// Readings before the first connection and at both borders of the window.
    before: Reading,
    begin: Option<Result<Reading, MetricsError>>,
    end: Option<Result<Reading, MetricsError>>,
}

impl<'a> ServerMeter<'a> {
    /// Returns the meter of a server without connections.
    pub(super) fn new(
        server: Option<&'a mut Server>,
        metrics: Option<(Endpoint, Reading)>,
    ) -> Self {
        match (server, metrics) {
            (Some(server), _) => Self::Spawned(Box::new(ProcessMeter::new(server))),
            (None, Some((endpoint, before))) => {
                let meter = MetricsMeter { endpoint, before, begin: None, end: None };
                Self::Metrics(Box::new(meter))
            }
            (None, None) => Self::Absent,
        }
    }

    /// Returns the meter of a server that was started here.
    pub(super) fn process(&mut self) -> Option<&mut ProcessMeter<'a>> {
        if let Self::Spawned(meter) = self { Some(meter) } else { None }
    }

    pub(super) fn begin_window(&mut self) {
        match self {
            Self::Absent => {}
            Self::Spawned(meter) => meter.begin_window(),
            Self::Metrics(meter) => meter.begin = Some(meter.endpoint.read()),
        }
    }

    pub(super) fn end_window(&mut self) {
        match self {
            Self::Absent => {}
            Self::Spawned(meter) => meter.end_window(),
            Self::Metrics(meter) => meter.end = Some(meter.endpoint.read()),
        }
    }

    /// Returns the cost in a window, with facts from the server's metrics or the reason why nothing
    /// is known.
    pub(super) fn cost(
        &mut self,
        begin: Nanos,
        end: Nanos,
    ) -> (Option<ServerCost>, Option<Result<MetricsFacts, MetricsError>>) {
        match self {
            Self::Absent => (None, None),
            Self::Spawned(meter) => (Some(meter.cost()), None),
            Self::Metrics(meter) => match meter.cost(begin, end) {
                Ok((cost, facts)) => (Some(cost), Some(Ok(facts))),
                Err(error) => (None, Some(Err(error))),
            },
        }
    }
}

impl<'a> ProcessMeter<'a> {
    /// Returns the meter of a process without connections.
    pub(super) fn new(server: &'a mut Server) -> Self {
        Self {
            before: procfs::memory(&server.pids()),
            server,
            usage: CpuUsage::default(),
            sampled_at: Instant::now(),
            at_begin: CpuUsage::default(),
            after: Memory::default(),
        }
    }

    pub(super) fn server(&mut self) -> &mut Server {
        self.server
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.server.pids()
    }

    /// Returns the error for its end, where it has ended.
    pub(super) fn ended(&mut self) -> Option<RunError> {
        let status = self.server.exit_status()?;
        Some(RunError::ended(self.server.role(), status, String::new()))
    }

    pub(super) fn begin_window(&mut self) {
        self.look();
        self.at_begin = self.usage.clone();
    }

    /// Samples the threads of its processes now and then, because those that end take their
    /// counters with them.
    pub(super) fn sample(&mut self) {
        if self.sampled_at.elapsed() >= SAMPLE_INTERVAL {
            self.look();
        }
    }

    pub(super) fn end_window(&mut self) {
        self.look();
        self.after = procfs::memory(&self.server.pids());
    }

    fn look(&mut self) {
        self.sampled_at = Instant::now();
        self.server.look(&mut self.usage);
    }

    /// Returns the cost of the window.
    pub(super) fn cost(&self) -> ServerCost {
        ServerCost {
            cpu: self.usage.since(&self.at_begin),
            uncertainty: None,
            resident: Some(self.after.resident),
            growth: Some(self.after.anonymous as i64 - self.before.anonymous as i64),
        }
    }
}

impl MetricsMeter {
    fn cost(
        &mut self,
        begin: Nanos,
        end: Nanos,
    ) -> Result<(ServerCost, MetricsFacts), MetricsError> {
        let (Some(first), Some(last)) = (self.begin.take(), self.end.take()) else {
            return Err(MetricsError::Late);
        };
        let (first, last) = (first?, last?);
        if !first.is_same_process(&self.before) || !last.is_same_process(&first) {
            return Err(MetricsError::Restarted);
        }
        let (cpu, uncertainty) = spent(&first, &last, begin, end)?;
        let growth = last.anonymous.zip(self.before.anonymous);
        let cost = ServerCost {
            cpu,
            uncertainty: Some(uncertainty),
            resident: last.resident,
            growth: growth.map(|(after, before)| after as i64 - before as i64),
        };
        let counters = last.counters_since(&first);
        let engine = last.subject.engine.clone();
        let announced = Announced { engine, counters, ..Announced::default() };
        Ok((cost, MetricsFacts { announced, subject: last.subject }))
    }
}

/// Returns what the server has spent in a window, by readings that began at its borders, and the
/// largest error of the CPU time as a share of it.
fn spent(
    first: &Reading,
    last: &Reading,
    begin: Nanos,
    end: Nanos,
) -> Result<(CpuSpent, f64), MetricsError> {
    let half = first.ended.since(first.began) / 2;
    let (window, known) = (end.since(begin), end.since(first.began + half));
    if known <= half {
        return Err(MetricsError::Late);
    }
    let scale = |amount: u64| (amount as f64 * window.as_secs_f64() / known.as_secs_f64()) as u64;
    let grown = |now: u64, then: u64| scale(now.saturating_sub(then));
    let both = |now: Option<u64>, then: Option<u64>| Some(grown(now?, then?));
    let total_ns = grown(last.cpu_ns, first.cpu_ns);
    // The samples of the timer tick give the proportion, not the sum.
    let user = both(last.user_ns, first.user_ns);
    let system = both(last.system_ns, first.system_ns);
    let sampled = user.zip(system).filter(|(user, system)| user + system > 0);
    let parts = sampled.map(|(user, system)| {
        let share = user as f64 / (user + system) as f64;
        let user_ns = (total_ns as f64 * share) as u64;
        (user_ns, total_ns - user_ns)
    });
    let resolution_ns = first.resolution_ns.max(last.resolution_ns);
    let cpu = CpuSpent {
        total_ns,
        user_ns: parts.map(|(user, _)| user),
        system_ns: parts.map(|(_, system)| system),
        busiest_ns: last.busiest_since(first).map(scale),
        faults: both(last.faults, first.faults),
        source: CostSource::Metrics,
        resolution_ns,
        ..CpuSpent::default()
    };
    // The server may have worked at its mean rate for all of the time that is not known.
    let unknown = (half + last.ended.since(end)).as_secs_f64() / known.as_secs_f64();
    let rounding = if total_ns == 0 { 1.0 } else { resolution_ns as f64 / total_ns as f64 };
    Ok((cpu, (unknown + rounding).min(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn reading(began_ms: u64, ended_ms: u64, cpu_ms: u64, resolution_ns: u64) -> Reading {
        let at = |ms: u64| Nanos(ms * MS);
        let cpu_ns = cpu_ms * MS;
        Reading {
            began: at(began_ms),
            ended: at(ended_ms),
            cpu_ns,
            resolution_ns,
            ..Reading::default()
        }
    }

    /// Returns CPU time and uncertainty in a window from 1 s to 2 s.
    fn spent_between(first: &Reading, last: &Reading) -> Result<(u64, f64), MetricsError> {
        let (cpu, uncertainty) = spent(first, last, Nanos(1000 * MS), Nanos(2000 * MS))?;
        Ok((cpu.total_ns, uncertainty))
    }

    #[test]
    fn readings_at_once_are_as_exact_as_the_clock() {
        let spent = spent_between(&reading(1000, 1000, 70, 1), &reading(2000, 2000, 570, 1));
        let (cpu_ns, uncertainty) = spent.expect("read");
        assert_eq!(cpu_ns, 500 * MS);
        assert!(uncertainty < 1e-8, "{uncertainty}");
        let coarse =
            spent_between(&reading(1000, 1000, 70, 10 * MS), &reading(2000, 2000, 570, 10 * MS));
        assert!((coarse.expect("read").1 - 0.02).abs() < 1e-9);
    }

    #[test]
    fn a_slow_reading_scales_the_time_and_makes_it_uncertain() {
        // The first reading is of the window's 100th millisecond, 100 ms more or less.
        let spent = spent_between(&reading(1000, 1200, 50, 0), &reading(2000, 2045, 500, 0));
        let (cpu_ns, uncertainty) = spent.expect("read");
        assert_eq!(cpu_ns, 500 * MS);
        assert!((uncertainty - 145.0 / 900.0).abs() < 1e-9, "{uncertainty}");
        let late = spent_between(&reading(1000, 2200, 50, 0), &reading(2200, 2300, 500, 0));
        assert!(matches!(late, Err(MetricsError::Late)));
    }

    #[test]
    fn a_server_that_spent_nothing_is_not_known() {
        let idle = reading(2000, 2000, 50, 1);
        let spent = spent_between(&reading(1000, 1000, 50, 1), &idle);
        assert_eq!(spent.expect("read"), (0, 1.0));
    }
}

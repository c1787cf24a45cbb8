//! Check of the generator's lag, and of its latencies for a server that stands still for a known
//! time.
//!
//! A server is stopped (SIGSTOP) for a time S within a window W of an open loop at a constant rate.
//! A message that is planned at a time x before the server continues takes at least x. So at any
//! rate the share of messages that take longer than x is (S - x) / W. Hence the quantile q is S -
//! (1 - q) W. The corrected histogram must say so. Each connection may have only one message
//! outstanding, as in generators without a plan. So nearly all messages of the stall are sent late.
//! The uncorrected histogram, from the actual send, hides the stall.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use engine::EngineKind;
use hdrhistogram::Histogram;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::{ATTEMPTS, Finding, SelfcheckError, Spread, latencies, nanos, spread};
use crate::result::Latency;
use crate::run::{Phase, Plan, Progress, RunError, Snapshot, execute};
use crate::target::spawn::{Role, Server, Spawn};

#[derive(Clone, Debug)]
pub(crate) struct StallCheck {
    /// The server to start; `{port}` in its command becomes a free port.
    pub(crate) server: Spawn,
    pub(crate) engine: EngineKind,
    /// Time for which the server is stopped.
    pub(crate) stall: Duration,
    /// The measured window; at least twice the stall.
    pub(crate) window: Duration,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stall {
    /// Planned to sent, without any stall, nanoseconds.
    pub(crate) lag_ns: Spread,
    /// Time for which the server was stopped, nanoseconds.
    pub(crate) stall_ns: u64,
    /// The window it stood still in, nanoseconds.
    pub(crate) window_ns: u64,
    pub(crate) rate_per_s: f64,
    pub(crate) quantiles: Vec<Quantile>,
}

/// A quantile of a run with a stall, nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quantile {
    /// 0 to 1.
    pub(crate) q: f64,
    pub(crate) expected: u64,
    /// Time from the planned send.
    pub(crate) corrected: u64,
    /// Time from the actual send.
    pub(crate) uncorrected: u64,
    pub(crate) finding: Finding,
}

const RATE: f64 = 1_000.0;
/// Each has one message of the stall that was sent in time: few in any window.
const CONNECTIONS: u32 = 8;
/// Quantiles at which histogram and arithmetic are compared. They lie within the stall.
const QUANTILES: [f64; 2] = [0.95, 0.99];
/// Shorter stalls drown in the timer's error.
const LEAST_STALL: Duration = Duration::from_millis(100);
/// Shorter windows have too few messages.
const LEAST_WINDOW: Duration = Duration::from_secs(1);

impl StallCheck {
    /// Carries out the check, which takes some seconds. `progress` watches the runs. A fault of the
    /// generator is not an error but a [`Finding`].
    pub(crate) fn make(&self, progress: &mut dyn Progress) -> Result<Stall, SelfcheckError> {
        if self.stall < LEAST_STALL || self.window < LEAST_WINDOW.max(self.stall * 2) {
            return Err(SelfcheckError::Usage(format!(
                "-d {:?} must be at least 1s and twice --stall {:?}, which must be 100ms or longer",
                self.window, self.stall
            )));
        }
        let lag_ns = self.lag(progress)?;
        let mut attempts = 1..ATTEMPTS;
        loop {
            let stalled = self.stalled(lag_ns, progress)?;
            if stalled.finding() != Finding::Disturbed || attempts.next().is_none() {
                return Ok(stalled);
            }
        }
    }

    fn plan(&self) -> Plan {
        let url = "ws://127.0.0.1:{port}/".parse().unwrap_or_else(|error| unreachable!("{error}"));
        Plan::new(url, self.engine).with(|plan| {
            plan.load.connections = CONNECTIONS;
            plan.load.rate_per_s = Some(RATE);
            plan.load.warmup = Duration::from_millis(200);
            plan.load.measure = self.window;
            plan.load.answer_timeout = self.stall * 3 + Duration::from_secs(10);
        })
    }

    /// Measures the generator's own lateness, with a server that does not stand still.
    fn lag(&self, progress: &mut dyn Progress) -> Result<Spread, SelfcheckError> {
        let plan = self.plan().with(|plan| plan.target.spawn = Some(self.server.clone()));
        let run = execute(&plan, progress)?;
        let (errors, faults) = (run.errors.total(), run.integrity.total());
        if errors + faults > 0 {
            let why = "this server cannot be used to check the generator";
            return Err(anyhow!("{errors} errors and {faults} wrong echoes: {why}").into());
        }
        Ok(spread(&histogram(&run.latency_ns.lag)?))
    }

    /// Measures a stall, and compares the histograms with arithmetic.
    fn stalled(
        &self,
        lag_ns: Spread,
        progress: &mut dyn Progress,
    ) -> Result<Stall, SelfcheckError> {
        let mut at = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let plan = self.plan().with(|plan| plan.load.max_outstanding = 1);
        let mut wait = || !progress.interrupted();
        let server = Server::start(
            Role::Server,
            &self.server,
            &plan.target.url,
            &mut at,
            plan.target.start_timeout,
            &mut wait,
        )
        .map_err(RunError::from)?;
        let plan = plan.with(|plan| plan.target.url = plan.target.url.with_port(at[0].port()));
        let mut watch = Watch { progress, pids: server.pids(), check: self, stop: None };
        let run = execute(&plan, &mut watch)?;
        let stall = watch
            .stop
            .and_then(|stop| stop.join().ok())
            .context("the run ended before the server was stopped")?;
        server.end();
        let corrected = histogram(&run.latency_ns.corrected)?;
        let uncorrected = histogram(run.latency_ns.uncorrected())?;
        let compare = |q| {
            self.compare(q, stall, corrected.value_at_quantile(q), uncorrected.value_at_quantile(q))
        };
        Ok(Stall {
            lag_ns,
            stall_ns: nanos(stall),
            window_ns: nanos(self.window),
            rate_per_s: RATE,
            quantiles: QUANTILES.into_iter().map(compare).collect(),
        })
    }

    fn compare(&self, q: f64, stall: Duration, corrected: u64, uncorrected: u64) -> Quantile {
        let expected = nanos(stall.saturating_sub(self.window.mul_f64(1.0 - q)));
        // Signals take a moment to arrive, and what has piled up takes a moment to be echoed.
        let (less, more) =
            (nanos(self.stall) / 50 + 5_000_000, nanos(self.stall) / 10 + 50_000_000);
        let finding = if corrected + less < expected || uncorrected > expected / 2 {
            Finding::Wrong
        } else if corrected > expected + more {
            Finding::Disturbed
        } else {
            Finding::Right
        };
        Quantile { q, expected, corrected, uncorrected, finding }
    }
}

impl Stall {
    /// Returns the worst finding of all quantiles.
    pub(crate) fn finding(&self) -> Finding {
        self.quantiles.iter().map(|quantile| quantile.finding).max().unwrap_or(Finding::Wrong)
    }
}

/// Stops the server once, a third into what is left of the window.
struct Watch<'a> {
    progress: &'a mut dyn Progress,
    pids: Vec<u32>,
    check: &'a StallCheck,
    /// Says in the end how long the server stood still.
    stop: Option<JoinHandle<Duration>>,
}

impl Progress for Watch<'_> {
    fn tick(&mut self, at: &Snapshot) {
        if at.phase == Phase::Measure && self.stop.is_none() {
            let (pids, stall) = (self.pids.clone(), self.check.stall);
            let before = (self.check.window - stall) / 3;
            self.stop = Some(thread::spawn(move || {
                thread::sleep(before);
                stand_still(&pids, stall)
            }));
        }
        self.progress.tick(at);
    }

    fn second(&mut self, latencies: &Histogram<u32>) {
        self.progress.second(latencies);
    }

    fn interrupted(&mut self) -> bool {
        self.progress.interrupted()
    }
}

/// Stops processes for `span`; returns for how long in fact.
pub(super) fn stand_still(pids: &[u32], span: Duration) -> Duration {
    let signal = |signal: Signal| {
        for pid in pids.iter().filter_map(|&pid| Pid::from_raw(pid.cast_signed())) {
            // Fails only where the process has ended, and then the run fails too.
            let _ = kill_process(pid, signal);
        }
    };
    signal(Signal::STOP);
    let began = Instant::now();
    thread::sleep(span);
    let lasted = began.elapsed();
    signal(Signal::CONT);
    lasted
}

/// A stored latency's histogram; empty if there are no samples.
fn histogram(latency: &Latency) -> anyhow::Result<Histogram<u64>> {
    Ok(latency.histogram()?.unwrap_or_else(latencies))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn check() -> StallCheck {
        StallCheck {
            server: Spawn { command: vec!["server".to_owned()], ..Spawn::default() },
            engine: EngineKind::Epoll,
            stall: Duration::from_secs(1),
            window: Duration::from_secs(10),
        }
    }

    fn of(q: f64, corrected: u64, uncorrected: u64) -> Finding {
        check().compare(q, Duration::from_secs(1), corrected, uncorrected).finding
    }

    #[test]
    fn a_second_in_ten_is_nine_tenths_at_the_99th_percentile() {
        let quantile = check().compare(0.99, Duration::from_secs(1), 901_000_000, 400_000);
        assert_eq!((quantile.expected, quantile.finding), (SECOND * 9 / 10, Finding::Right));
        assert_eq!(check().compare(0.95, Duration::from_secs(1), 0, 0).expected, SECOND / 2);
    }

    #[test]
    fn a_stall_that_is_hidden_is_wrong_and_a_longer_one_disturbed() {
        assert_eq!(of(0.99, 870_000_000, 400_000), Finding::Wrong);
        assert_eq!(of(0.99, 400_000, 400_000), Finding::Wrong);
        assert_eq!(of(0.99, 900_000_000, 900_000_000), Finding::Wrong);
        assert_eq!(of(0.99, 1_200_000_000, 400_000), Finding::Disturbed);
        let stalled = |findings: &[Finding]| {
            let quantile = |finding: &Finding| Quantile {
                finding: *finding,
                ..check().compare(0.99, Duration::from_secs(1), 0, 0)
            };
            let lag_ns = Spread { p50: 1, p99: 2, max: 3 };
            let quantiles = findings.iter().map(quantile).collect();
            Stall { lag_ns, stall_ns: SECOND, window_ns: 10 * SECOND, rate_per_s: RATE, quantiles }
        };
        assert_eq!(stalled(&[Finding::Right, Finding::Disturbed]).finding(), Finding::Disturbed);
        assert_eq!(stalled(&[]).finding(), Finding::Wrong);
    }

    #[test]
    fn times_without_room_are_refused() {
        let short = StallCheck { window: Duration::from_millis(1500), ..check() };
        let error = short.make(&mut crate::run::Silent).expect_err("refused").to_string();
        assert!(error.contains("-d 1.5s") && error.contains("--stall 1s"), "{error}");
    }
}

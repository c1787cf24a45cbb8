//! Checks of the generator itself: known faults are played against it, and it must report them.
//!
//! The check `stall` compares latencies with arithmetic. The other checks start the generator as a
//! user does, against a server of this program with a known fault. They judge exit status and
//! result. They need nothing but this program.

mod cases;
mod server;
mod stall;
mod trial;

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use thiserror::Error;

use crate::run::RunError;
use crate::target::spawn::Spawn;

pub(crate) use cases::{Case, Judgement};
pub(crate) use server::{COMMAND as SERVER, serve};
pub(crate) use stall::{Quantile, Stall, StallCheck};

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Lateness of a one-millisecond sleep, in nanoseconds.
    pub(crate) timer_error_ns: Spread,
    pub(crate) clock_ns: f64,
    /// Result of the check `stall`, where it was carried out.
    #[serde(flatten)]
    pub(crate) stall: Option<Stall>,
    /// Results of the other checks, in the order in which they were carried out.
    pub(crate) cases: Vec<Judgement>,
}

/// Three figures of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Spread {
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Highest.
    pub(crate) max: u64,
}

/// Verdict on a figure, or on a judgement of the generator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Finding {
    /// The figure is as expected.
    #[default]
    Right,
    /// The figure deviates, and a busy machine explains it.
    Disturbed,
    /// The figure deviates, and only the generator explains it.
    Wrong,
}

/// Reason why there is nothing to report.
#[derive(Debug, Error)]
pub(crate) enum SelfcheckError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

const SLEEPS: u32 = 200;
const LOOKS: u32 = 100_000;
const ATTEMPTS: u32 = 3;
/// This program. The link still leads to it after its file was replaced by a newer build.
const MYSELF: &str = "/proc/self/exe";

impl Report {
    /// Measures timer and clock. The checks are to be added.
    pub(crate) fn begin() -> Self {
        Self {
            timer_error_ns: timer_error(),
            clock_ns: clock_cost(),
            stall: None,
            cases: Vec::new(),
        }
    }

    /// Returns the worst finding of all checks that were carried out.
    pub(crate) fn finding(&self) -> Finding {
        let stall = self.stall.iter().map(Stall::finding);
        let cases = self.cases.iter().map(|judgement| judgement.finding);
        stall.chain(cases).max().unwrap_or(Finding::Right)
    }
}

/// Returns the server of the check `stall` where the user names none. It is in this program.
pub(crate) fn own_server() -> Spawn {
    Spawn { command: server::Behaviour::Echo.command(), ..Spawn::default() }
}

fn timer_error() -> Spread {
    let mut late = latencies();
    let span = Duration::from_millis(1);
    for _ in 0..SLEEPS {
        let began = Instant::now();
        thread::sleep(span);
        late.saturating_record(nanos(began.elapsed().saturating_sub(span)));
    }
    spread(&late)
}

fn clock_cost() -> f64 {
    let began = Instant::now();
    for _ in 0..LOOKS {
        black_box(Instant::now());
    }
    began.elapsed().as_nanos() as f64 / f64::from(LOOKS)
}

fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are legal")
}

fn spread(histogram: &Histogram<u64>) -> Spread {
    let at = |q| histogram.value_at_quantile(q);
    Spread { p50: at(0.5), p99: at(0.99), max: histogram.max() }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_counts() {
        let judged = |finding| Judgement { finding, ..Judgement::default() };
        let mut report = Report { cases: vec![judged(Finding::Right)], ..Report::begin() };
        assert_eq!(report.finding(), Finding::Right);
        report.cases.insert(0, judged(Finding::Disturbed));
        assert_eq!(report.finding(), Finding::Disturbed);
        report.cases.push(judged(Finding::Wrong));
        assert_eq!(report.finding(), Finding::Wrong);
    }
}

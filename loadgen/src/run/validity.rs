//! Whether the figures of a run are the server's, or something else was the limit.
//!
//! What makes a run invalid:
//!
//! * a debug build, a lost connection, a wrong echo, no echo at all;
//! * in an open loop: sends so late that the latency is the generator's ([`LAG_SHARE`], [`LAG_FLOOR`]), fewer echoes than
//!   planned ([`RECEIVED_SHARE`]), a connection with as much outstanding as it may have;
//! * in a closed loop: a thread of the generator had no idle time while the server's busiest thread had
//!   ([`BUSY`], [`IDLE`]): then the generator set the rate;
//! * trouble with time: an alarm that rang very late ([`LATE`]), a clock that went backwards.
//!
//! Where who was the limit cannot be known, a note says so: two ends without idle time are a pair whose rate belongs to both;
//! a server that was not started here is not watched; a thread that spins is never idle.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::coordinator::Measured;
use super::plan::{Plan, Wait};
use super::tally::Tally;
use crate::procfs::{CpuSpent, Disagreement};
use crate::result::InvalidKind;

/// The lag's 99th percentile may be this share of the latency's ...
const LAG_SHARE: f64 = 0.5;
/// ... or this much, which is what the kernel's timers take.
const LAG_FLOOR: Duration = Duration::from_micros(100);
/// The echoes that must come back within the window, of those planned in it.
const RECEIVED_SHARE: f64 = 0.99;
/// A thread of the generator that was on its processor for so much of the window had no idle time.
const BUSY: f64 = 0.95;
/// The server had idle time where its busiest thread ran, or waited for a processor, for less than this share.
const IDLE: f64 = 0.90;
/// An alarm that rings so late is not the kernel's ordinary lateness: the machine stood still.
const LATE: Duration = Duration::from_millis(100);

/// What a reader must know before believing the figures.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Why they must not be compared with others; empty where they may.
    pub(super) reasons: Vec<(InvalidKind, String)>,
    /// What else is worth knowing.
    pub(super) notes: Vec<String>,
}

impl Verdict {
    fn doubt(&mut self, kind: InvalidKind, reason: impl Into<String>) {
        self.reasons.push((kind, reason.into()));
    }
}

pub(super) fn judge(plan: &Plan, measured: &Measured) -> Verdict {
    let mut verdict = Verdict::default();
    let tally = &measured.tally;
    if cfg!(debug_assertions) {
        verdict.doubt(InvalidKind::DebugGenerator, "the generator is a debug build: build it with --release");
    }
    echoes(plan, tally, &mut verdict);
    if plan.rate_per_s.is_some() {
        open_loop(plan, measured, &mut verdict);
    } else {
        closed_loop(plan, measured, &mut verdict);
    }
    time(tally, &mut verdict);
    if let Some(server) = &measured.server {
        accounts(&server.cpu, &mut verdict);
    }
    verdict
}

fn echoes(plan: &Plan, tally: &Tally, verdict: &mut Verdict) {
    let (errors, integrity) = (tally.errors.total(), tally.integrity.total());
    if errors > 0 {
        verdict.doubt(
            InvalidKind::LostConnections,
            format!("{errors} of {} connections were lost", plan.connections),
        );
    }
    if integrity > 0 {
        verdict.doubt(InvalidKind::WrongEchoes, format!("{integrity} echoes were not what was sent"));
    }
    if tally.received.measured == 0 {
        verdict.doubt(InvalidKind::NoEcho, "no echo was received in the window");
    }
}

fn open_loop(plan: &Plan, measured: &Measured, verdict: &mut Verdict) {
    let tally = &measured.tally;
    if tally.was_full {
        verdict.doubt(
            InvalidKind::OutstandingLimit,
            format!(
                "a connection had {} messages outstanding (--max-outstanding): the server does not keep up",
                plan.max_outstanding
            ),
        );
    }
    if let Some(parts) = &tally.parts {
        lag(plan, measured, high(&parts.lag), high(&tally.latency), verdict);
    }
    let missing = tally.offered.saturating_sub(tally.received.measured) as f64;
    // What is always under way when the window ends, at this rate and with the usual latency, is not missing.
    let under_way = tally.offered as f64 / measured.window.as_secs_f64().max(1e-9)
        * Duration::from_nanos(tally.latency.value_at_quantile(0.5)).as_secs_f64();
    if missing > (1.0 - RECEIVED_SHARE) * tally.offered as f64 + under_way {
        verdict.doubt(InvalidKind::RateNotKept, format!(
            "{} of {} planned messages came back within the window, less than {:.0} %: the rate was not kept",
            tally.received.measured,
            tally.offered,
            RECEIVED_SHARE * 100.0
        ));
    }
}

fn lag(plan: &Plan, measured: &Measured, lag: Duration, latency: Duration, verdict: &mut Verdict) {
    if lag.as_secs_f64() <= latency.as_secs_f64() * LAG_SHARE {
        return;
    }
    let busy = busiest(measured) > BUSY;
    let remedy = match plan.wait {
        _ if busy && plan.wait != Some(Wait::Spin) => {
            "a thread had no idle time: more threads (-t) or a lower rate"
        }
        Some(Wait::Spin) => "more threads (-t), or processors that nobody else uses",
        _ => "--wait spin, or processors that nobody else uses",
    };
    let text = format!(
        "p99 of the lag, {:?}, is more than {:.0} % of the latency's, {:?}",
        rounded(lag),
        LAG_SHARE * 100.0,
        rounded(latency)
    );
    if lag > LAG_FLOOR {
        verdict.doubt(InvalidKind::LateSends, format!("the generator sent late: {text} ({remedy})"));
    } else {
        verdict.notes.push(format!("much of the latency is the generator's own: {text} ({remedy})"));
    }
}

fn closed_loop(plan: &Plan, measured: &Measured, verdict: &mut Verdict) {
    if plan.wait == Some(Wait::Spin) {
        return verdict.notes.push(
            "threads that spin are never idle: whether the generator was the limit is not known (--wait sleep)".to_owned(),
        );
    }
    let busy = busiest(measured);
    if busy <= BUSY {
        return;
    }
    let window_ns = measured.window.as_nanos() as f64;
    let generator = format!("a thread of the generator was busy {:.0} % of the window", busy * 100.0);
    match measured.server.map(|server| server.cpu.busiest_ns as f64 / window_ns.max(1.0)) {
        Some(server) if server < IDLE => verdict.doubt(InvalidKind::BusyGenerator, format!(
            "the generator was the limit: {generator}, the server's busiest thread {:.0} %: more threads (-t)",
            server * 100.0
        )),
        Some(_) => verdict.notes.push(format!(
            "{generator}, and so was one of the server's: the rate is that of the pair, more threads (-t) would tell"
        )),
        None => verdict
            .notes
            .push(format!("{generator}: it may have been the limit, not the server; more threads (-t) would tell")),
    }
}

/// Notes where the kernel's accounts of the server's CPU time leave a doubt.
fn accounts(spent: &CpuSpent, verdict: &mut Verdict) {
    if let Some(Disagreement { used_ns, ticks_ns }) = spent.disagreement {
        let (used, ticks) = (used_ns as f64 / 1e9, ticks_ns as f64 / 1e9);
        verdict.notes.push(format!(
            "the server's CPU time is {used:.2} s by the scheduler and {ticks:.2} s by /proc/PID/stat, which ticks do not \
             explain: one of them does not know all of its processes; its cost is from the first"
        ));
    }
    if spent.is_incomplete {
        verdict.notes.push(
            "processes of the server ended and nobody waited for them (SIGCHLD ignored?): part of their cost is missing, unless \
             the server may have a control group of its own"
                .to_owned(),
        );
    }
}

fn time(tally: &Tally, verdict: &mut Verdict) {
    if tally.clock_went_back {
        verdict.doubt(InvalidKind::Clock, "the clock went backwards");
    }
    if tally.latest_alarm > LATE {
        let late = rounded(tally.latest_alarm);
        verdict.doubt(
            InvalidKind::Standstill,
            format!("the generator did not run for {late:?}: the machine stood still"),
        );
    }
}

/// The share of the window in which the busiest thread of the generator was on its processor.
fn busiest(measured: &Measured) -> f64 {
    let window_ns = measured.window.as_nanos() as f64;
    measured.threads_cpu_ns.iter().map(|&ns| ns as f64 / window_ns.max(1.0)).fold(0.0, f64::max)
}

/// The 99th percentile; of a small sample that is its highest value.
fn high(histogram: &Histogram<u64>) -> Duration {
    Duration::from_nanos(histogram.value_at_quantile(0.99))
}

/// To microseconds: nobody needs more of a span that is said in a sentence.
fn rounded(span: Duration) -> Duration {
    Duration::from_micros(span.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use engine::{Counters, EngineKind, Nanos};

    use super::super::coordinator::ServerCost;
    use super::super::ledger::Times;
    use super::*;
    use crate::procfs::Memory;
    use crate::result::Phases;

    const WINDOW: Duration = Duration::from_secs(1);

    fn plan(rate_per_s: Option<f64>, wait: Wait) -> Plan {
        let url = "ws://127.0.0.1:9001/".parse().expect("url");
        Plan { rate_per_s, wait: Some(wait), ..Plan::new(url, EngineKind::Epoll) }
    }

    fn measured(tally: Tally, busy: f64, server: Option<f64>) -> Measured {
        let ns = |share: f64| (share * 1e9) as u64;
        let memory = Memory::default();
        Measured {
            tally,
            counters: Counters::default(),
            phases: Phases::default(),
            window: WINDOW,
            interrupted: false,
            threads_cpu_ns: vec![ns(busy / 2.0), ns(busy)],
            threads_waited_ns: 0,
            stolen_ns: 0,
            counted: None,
            server: server.map(|share| ServerCost {
                cpu: CpuSpent { busiest_ns: ns(share), ..CpuSpent::default() },
                before: memory,
                after: memory,
            }),
        }
    }

    fn closed() -> Tally {
        let mut tally = Tally::new(1, false);
        tally.received(1_000_000, Some(0));
        tally.settle();
        tally
    }

    /// 1,000 messages planned, `back` of them received within the window, each `lag` and `latency` after it was due.
    fn open(back: u64, lag: u64, latency: u64) -> Tally {
        let mut tally = Tally::new(1, true);
        let times = Times { due: Nanos(1), sent: Nanos(1 + lag) };
        for i in 0..1000 {
            let second = (i < back).then_some(0);
            tally.received_planned(times, Nanos(1 + latency), Some(0), second);
        }
        tally.offered = 1000;
        tally
    }

    fn kinds(plan: &Plan, measured: &Measured) -> Vec<(InvalidKind, String)> {
        let reasons = judge(plan, measured).reasons;
        reasons.into_iter().filter(|(kind, _)| !kind.is_of_the_build()).collect()
    }

    fn reasons(plan: &Plan, measured: &Measured) -> Vec<String> {
        kinds(plan, measured).into_iter().map(|(_, reason)| reason).collect()
    }

    #[test]
    fn a_busy_generator_before_an_idle_server_was_the_limit() {
        let plan = plan(None, Wait::Sleep);
        let judged = |busy, server| {
            let measured = measured(closed(), busy, server);
            (reasons(&plan, &measured), judge(&plan, &measured).notes)
        };
        let (reasons, notes) = judged(0.97, Some(0.6));
        assert!(
            reasons[0].contains("generator was the limit") && reasons[0].contains("60 %") && notes.is_empty()
        );
        let (reasons, notes) = judged(0.97, Some(0.97));
        assert!(reasons.is_empty() && notes[0].contains("that of the pair"));
        let (reasons, notes) = judged(0.97, None);
        assert!(reasons.is_empty() && notes[0].contains("may have been the limit"));
        assert_eq!(judged(0.9, Some(0.6)), (vec![], vec![]));
    }

    #[test]
    fn accounts_of_cpu_time_that_differ_are_noted() {
        let mut measured = measured(closed(), 0.5, Some(0.5));
        let disagreement = Some(Disagreement { used_ns: 1_600_000_000, ticks_ns: 1_200_000_000 });
        let cpu = &mut measured.server.as_mut().expect("a server").cpu;
        (cpu.disagreement, cpu.is_incomplete) = (disagreement, true);
        let notes = judge(&plan(None, Wait::Sleep), &measured).notes;
        assert!(notes[0].contains("1.60 s") && notes[0].contains("1.20 s"), "{notes:?}");
        assert!(notes[1].contains("nobody waited"), "{notes:?}");
    }

    #[test]
    fn who_spins_is_never_idle() {
        let plan = plan(None, Wait::Spin);
        let measured = measured(closed(), 1.0, Some(0.5));
        assert_eq!(reasons(&plan, &measured), Vec::<String>::new());
        assert!(judge(&plan, &measured).notes[0].contains("spin"));
    }

    #[test]
    fn lag_that_is_most_of_the_latency_makes_it_the_generators() {
        let plan = plan(Some(1000.0), Wait::Sleep);
        let judged = |lag, latency| judge(&plan, &measured(open(1000, lag, latency), 0.5, None));
        let late = judged(600_000, 1_000_000).reasons;
        assert!(
            late.iter()
                .any(|(kind, reason)| *kind == InvalidKind::LateSends && reason.contains("--wait spin")),
            "{late:?}"
        );
        assert!(judged(60_000, 100_000).notes[0].contains("generator's own"));
        assert_eq!(judged(400_000, 1_000_000).notes, Vec::<String>::new());
        let busy = judge(&plan, &measured(open(1000, 600_000, 1_000_000), 0.97, None)).reasons;
        assert!(busy.iter().any(|(_, reason)| reason.contains("-t")), "{busy:?}");
    }

    #[test]
    fn a_rate_that_was_not_kept_is_no_measurement_at_that_rate() {
        let plan = plan(Some(1000.0), Wait::Sleep);
        let judged = |back, latency| reasons(&plan, &measured(open(back, 1, latency), 0.5, None));
        assert!(judged(980, 1_000)[0].contains("980 of 1000"));
        assert_eq!(judged(995, 1_000), Vec::<String>::new());
        // At 1,000 a second and 20 ms each, 20 are always under way.
        assert_eq!(judged(975, 20_000_000), Vec::<String>::new());
        assert!(!judged(900, 20_000_000).is_empty());
    }

    #[test]
    fn each_reason_says_whose_it_is() {
        let plan = plan(Some(1000.0), Wait::Sleep);
        let judged = |tally| {
            let kinds = kinds(&plan, &measured(tally, 0.5, None)).into_iter();
            kinds.map(|(kind, _)| (kind, kind.is_servers())).collect::<Vec<_>>()
        };
        assert_eq!(judged(open(900, 1, 1_000)), [(InvalidKind::RateNotKept, true)]);
        assert_eq!(judged(open(1000, 600_000, 1_000_000)), [(InvalidKind::LateSends, false)]);
        let (mut full, mut still) = (open(1000, 1, 1_000), open(1000, 1, 1_000));
        full.was_full = true;
        still.latest_alarm = Duration::from_secs(1);
        assert_eq!(judged(full), [(InvalidKind::OutstandingLimit, true)]);
        assert_eq!(judged(still), [(InvalidKind::Standstill, false)]);
    }

    #[test]
    fn other_reasons_are_said_in_words() {
        let plan = plan(None, Wait::Sleep);
        let mut tally = closed();
        tally.errors.closed = 2;
        tally.integrity.lost = 3;
        tally.clock_went_back = true;
        tally.latest_alarm = Duration::from_millis(150);
        assert_eq!(
            reasons(&plan, &measured(tally, 0.5, None)),
            [
                "2 of 64 connections were lost",
                "3 echoes were not what was sent",
                "the clock went backwards",
                "the generator did not run for 150ms: the machine stood still"
            ]
        );
        assert_eq!(
            reasons(&plan, &measured(Tally::new(1, false), 0.5, None)),
            ["no echo was received in the window"]
        );
    }
}

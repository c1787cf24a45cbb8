//! Rules that tell whether the figures of a run are the server's, or something else was the limit.
//!
//! A run is invalid if messages or connections were lost or wrong. It is invalid if the generator
//! limited the rate, was late or stood still. In a closed loop it is invalid if the percentiles
//! leave out waiting connections. In an open loop it is invalid if the plan was not kept
//! ([`Pace`](super::pace::Pace)).
//!
//! None of these rules depends on how fast the server is. A limit of the lag as a share of the
//! latency would drop the runs of fast servers sooner than those of slow ones.
//!
//! Where the limit cannot be known, a note says so. If both ends have no idle time, the rate
//! belongs to both. A server that was not started here is not sampled. A thread that spins is never
//! idle.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::coordinator::Measured;
use super::error::share;
use super::pace::Pace;
use super::plan::{Plan, Wait};
use super::stage_tally::StageTallies;
use super::tally::{CompressionTally, Parts, Spans, Tally};
use crate::format::count;
use crate::host::procfs::CpuSpent;
use crate::load::{Arrival, Stages};
use crate::result::{Integrity, InvalidKind, MAX_CPU_UNCERTAINTY};
use crate::target::metrics::MetricsError;

/// Longest valid 99th percentile of the lag. In recorded runs it is some 15 us where nothing
/// disturbs them, and some milliseconds where something does, whatever the server. Few runs lie
/// between the two.
const LATEST: Duration = Duration::from_micros(500);
/// Share of the latency's 99th percentile from which on a note says that this much of it is lag.
const LAG_SHARE: f64 = 0.5;
/// Share of the planned messages that may be unsent at the end.
const UNSENT_SHARE: f64 = 0.01;
/// Ordinary lateness of the kernel's timers, which needs no note.
const LAG_FLOOR: Duration = Duration::from_micros(100);
/// Part of the interval between two bursts that sending a burst may take.
const BURST_SHARE: f64 = 0.1;
/// Multiple of the 99th percentile after which a waiting connection is not represented by the
/// percentiles. All three conditions must hold: this one, [`CUT_PART`] and [`CUT_FLOOR`].
const CUT_FACTOR: u32 = 10;
/// Divisor of the window that gives the shortest such wait, up to [`LONGEST_STANDSTILL`].
const CUT_PART: u32 = 10;
/// Shortest such wait, whatever the window.
const CUT_FLOOR: Duration = Duration::from_millis(50);
/// Share of the connections that may wait so long: that above the 99th percentile.
const CUT_SHARE: f64 = 0.01;
/// A thread of the generator that was on its processor for so much of the window had no idle time.
const BUSY: f64 = 0.95;
/// The server had idle time where its busiest thread was busy for less than this share.
const IDLE: f64 = 0.90;
/// Longest valid standstill. A longer one is not the kernel's ordinary lateness.
const LONGEST_STANDSTILL: Duration = Duration::from_millis(100);
/// Largest valid share of the window that all standstills together may take.
const STANDSTILL_SHARE: f64 = 0.1;

/// Validity of the figures.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Reasons why they must not be compared with others; empty if they may.
    pub(super) reasons: Vec<(InvalidKind, String)>,
    pub(super) notes: Vec<String>,
    /// The reasons of each stage; empty for a load without stages.
    pub(super) stages: Vec<Vec<(InvalidKind, String)>>,
}

impl Verdict {
    fn doubt(&mut self, kind: InvalidKind, reason: impl Into<String>) {
        self.reasons.push((kind, reason.into()));
    }

    fn doubt_if(&mut self, is_doubtful: bool, kind: InvalidKind, reason: impl Into<String>) {
        self.reasons.extend(is_doubtful.then(|| (kind, reason.into())));
    }
}

pub(super) fn judge(plan: &Plan, measured: &Measured) -> Verdict {
    let mut verdict = Verdict::default();
    let tally = &measured.tally;
    verdict.doubt_if(
        cfg!(debug_assertions),
        InvalidKind::DebugGenerator,
        "the generator is a debug build: build it with --release",
    );
    if let Some((error, _)) = &measured.broken
        && let Some(kind) = error.kind()
    {
        verdict.doubt(kind, error.summary());
    }
    echoes(plan, tally, &mut verdict);
    compression(plan, tally, &mut verdict);
    faults(tally, &mut verdict);
    if plan.load.is_open_loop() {
        open_loop(plan, measured, &mut verdict);
    } else {
        closed_loop(plan, measured, &mut verdict);
        // Where the load broke, no connection was answered.
        if measured.broken.is_none() {
            cut_tail(plan, measured, &mut verdict);
        }
    }
    time(measured, &mut verdict);
    if let Some(imbalance) = &tally.imbalance {
        let reason =
            format!("the generator's counts do not add up ({imbalance}); please report this");
        verdict.doubt(InvalidKind::Imbalance, reason);
    }
    for (who, cost) in [("server", measured.server), ("proxy", measured.proxy)] {
        if let Some(cost) = cost {
            accounts(who, &cost.cpu, &mut verdict);
        }
    }
    metrics(plan, measured, &mut verdict);
    verdict
}

/// Rejects a run whose server was started again, and notes where its metrics do not give its cost.
fn metrics(plan: &Plan, measured: &Measured, verdict: &mut Verdict) {
    match &measured.metrics {
        Some(Err(error @ MetricsError::Restarted)) => {
            verdict.doubt(InvalidKind::ServerRestarted, error.to_string());
        }
        Some(Err(error)) => verdict.notes.push(format!(
            "the server's cost is not known, its metrics could not be read: {error}"
        )),
        _ => {}
    }
    let Some(uncertainty) = measured.server.and_then(|server| server.uncertainty) else { return };
    if uncertainty > MAX_CPU_UNCERTAINTY {
        verdict.notes.push(format!(
            "the server's CPU time is not known: its metrics leave {:.1} % of it uncertain, at most \
             {:.0} % are of use: a longer window (-d) or a faster answer would help",
            uncertainty * 100.0,
            MAX_CPU_UNCERTAINTY * 100.0
        ));
    } else if plan.placement.shard.is_some_and(|shard| shard.count() > 1) {
        verdict.notes.push(
            "the server's CPU time is that of all shards, for each message of this one: `merge` \
             divides it by all messages"
                .to_owned(),
        );
    }
}

fn echoes(plan: &Plan, tally: &Tally, verdict: &mut Verdict) {
    let Integrity { lost, lost_with_connection, unsolicited, .. } = tally.integrity;
    let lost = lost - lost_with_connection;
    let wrong = tally.integrity.faults() - lost - unsolicited;
    let outstanding = tally.outstanding.count;
    let messages = |number| count(number, "message");
    for (number, kind, reason) in [
        (tally.errors.total(), InvalidKind::LostConnections, connections(plan, tally)),
        (wrong, InvalidKind::WrongEchoes, wrong_echoes(wrong)),
        (
            lost,
            InvalidKind::LostMessages,
            format!("{} never came back on connections that stayed open", messages(lost)),
        ),
        (
            unsolicited,
            InvalidKind::Unsolicited,
            format!("{} came that nobody had asked for", messages(unsolicited)),
        ),
        (
            outstanding,
            InvalidKind::Outstanding,
            format!("{} had no echo when the run ended", messages(outstanding)),
        ),
    ] {
        verdict.doubt_if(number > 0, kind, reason);
    }
    let no_echo = "no echo was received in the window";
    verdict.doubt_if(tally.received.measured == 0, InvalidKind::NoEcho, no_echo);
}

/// Rejects a run whose connections agreed on different compression, and notes where the server
/// agreed to none.
fn compression(plan: &Plan, tally: &Tally, verdict: &mut Verdict) {
    let CompressionTally { answer, is_mixed, sent_uncompressed, .. } = tally.compression;
    verdict.doubt_if(
        is_mixed,
        InvalidKind::MixedCompression,
        "connections agreed on different compression, so that the figures are a mix",
    );
    if plan.load.offer().is_some() && answer == Some(None) {
        verdict.notes.push(
            "the server declined permessage-deflate: messages went without compression".to_owned(),
        );
    } else if sent_uncompressed > 0 && !is_mixed {
        verdict.notes.push(
            "the server allows no window that the generator can keep to: messages went without \
             compression"
                .to_owned(),
        );
    }
}

/// Notes that the server answers with faults on purpose (`sparring-server --faults`).
fn faults(tally: &Tally, verdict: &mut Verdict) {
    let named: Vec<&str> = tally.faults.iter().map(String::as_str).collect();
    if named.is_empty() {
        return;
    }
    let more = if named.len() < Tally::MAX_FAULTS { "" } else { ", and maybe others" };
    let note = if named == ["none"] {
        "the server answers with faults where a URL asks for them, and this run asked for none"
            .to_owned()
    } else {
        format!("the server answers with faults on purpose: {}{more}", named.join(", "))
    };
    verdict.notes.push(note);
}

/// Describes the connection errors: ends, and connections that never opened.
fn connections(plan: &Plan, tally: &Tally) -> String {
    let (ends, all) = (tally.ends, plan.all_own_connections());
    let unopened = tally.unopened;
    let mut parts = Vec::new();
    if ends > 0 && !plan.load.reconnect && !plan.load.replaces_connections() {
        parts.push(share(ends, all, "lost"));
    } else if ends > 0 {
        parts.push(format!("{} of {}", count(ends, "end"), count(all, "connection")));
    }
    if unopened > 0 {
        parts.push(format!("{} could not be opened", count(unopened, "connection")));
    }
    parts.join(", ")
}

fn open_loop(plan: &Plan, measured: &Measured, verdict: &mut Verdict) {
    let tally = &measured.tally;
    verdict.doubt_if(
        tally.was_full,
        InvalidKind::OutstandingLimit,
        format!(
            "a connection had {} outstanding (--max-outstanding): the server does not keep up",
            count(plan.load.max_outstanding.into(), "message")
        ),
    );
    if let Some(staged) = &tally.staged {
        return stages(plan, measured, &staged.stages, verdict);
    }
    let burst = plan.load.burst();
    let kept = OpenLoop {
        parts: tally.parts.as_ref(),
        latency: &tally.latency,
        rate_per_s: plan.load.rate_per_s.unwrap_or_default(),
        planned: tally.messages().planned,
        not_sent: tally.not_sent,
        not_kept: tally.paces.into_iter().rev().find(|pace| !pace.is_kept(burst)),
    };
    kept.judge(plan, measured, verdict);
}

/// Judges each stage by itself. A reason or note of a stage is one of the run, with its number.
fn stages(plan: &Plan, measured: &Measured, tallies: &StageTallies, verdict: &mut Verdict) {
    let ramps = plan.load.stages.as_ref().map(Stages::ramps).unwrap_or_default();
    let share = f64::from(plan.own_connections()) / f64::from(plan.load.connections);
    for ((index, tally), ramp) in tallies.each.iter().enumerate().zip(ramps) {
        let is_kept = tallies.is_kept(index, plan.load.burst(), share);
        let stage = OpenLoop {
            parts: Some(&tally.parts),
            latency: &tally.latency,
            rate_per_s: ramp.from.max(ramp.to),
            planned: tally.planned,
            not_sent: tally.not_sent,
            not_kept: (!is_kept).then_some(tally.pace),
        };
        let mut own = Verdict::default();
        stage.judge(plan, measured, &mut own);
        let named = |text: &String| format!("stage {}: {text}", ramp.number);
        verdict.notes.extend(own.notes.iter().map(named));
        verdict.reasons.extend(own.reasons.iter().map(|(kind, text)| (*kind, named(text))));
        verdict.stages.push(own.reasons);
    }
}

/// Figures that tell whether a plan was kept: of a run, or of one of its stages.
struct OpenLoop<'a> {
    parts: Option<&'a Parts>,
    latency: &'a Histogram<u64>,
    /// The highest planned rate.
    rate_per_s: f64,
    planned: u64,
    not_sent: u64,
    /// The pace with which the echoes fell behind, if they did.
    not_kept: Option<Pace>,
}

impl OpenLoop<'_> {
    fn judge(&self, plan: &Plan, measured: &Measured, verdict: &mut Verdict) {
        if let Some(parts) = self.parts {
            let longest = longest_lag(plan, self.rate_per_s);
            let (lagged, latency) = (high(&parts.lag), high(self.latency));
            lag(plan, measured, (lagged, longest), latency, verdict);
        }
        verdict.doubt_if(
            self.not_sent as f64 > UNSENT_SHARE * self.planned as f64 && !is_held_up(measured),
            InvalidKind::LateSends,
            format!(
                "the generator was late: {} of {} not sent in time ({})",
                self.not_sent,
                count(self.planned, "planned message"),
                remedy(plan, measured)
            ),
        );
        if let Some(pace) = self.not_kept {
            verdict.doubt(
                InvalidKind::RateNotKept,
                format!(
                    "the rate was not kept: {} of {} came back, and the backlog grew",
                    pace.received,
                    count(pace.planned, "planned message")
                ),
            );
        }
    }
}

/// Rejects a closed loop in which connections waited too long. A waiting connection sends nothing,
/// so the percentiles are those of the other connections.
fn cut_tail(plan: &Plan, measured: &Measured, verdict: &mut Verdict) {
    let tally = &measured.tally;
    let p99 = high(&tally.latency);
    let long = (measured.window / CUT_PART).clamp(CUT_FLOOR, LONGEST_STANDSTILL);
    let limit = (p99 * CUT_FACTOR).max(long);
    let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    let waiting = tally.waiting.count_between(limit_ns, u64::MAX);
    let longest = rounded(Duration::from_nanos(tally.waiting.max()));
    verdict.doubt_if(
        waiting as f64 > CUT_SHARE * f64::from(plan.own_connections()),
        InvalidKind::CutTail,
        format!(
            "{} for an echo when the window ended, for up to {longest:?}, and p99 is {:?}: \
             in a closed loop they send nothing meanwhile, and the percentiles are those of the others",
            share(waiting, plan.own_connections().into(), "waiting"),
            rounded(p99)
        ),
    );
}

/// Returns true if connections were full or gone: messages waited for the server.
fn is_held_up(measured: &Measured) -> bool {
    measured.tally.was_full || measured.tally.ends > 0 || measured.broken.is_some()
}

/// Returns the longest lag of a plan. Sending a burst may take a part of its interval.
fn longest_lag(plan: &Plan, rate_per_s: f64) -> Duration {
    let interval_s = match plan.load.arrival {
        Arrival::Burst(size) if rate_per_s > 0.0 => f64::from(size.get()) / rate_per_s,
        _ => 0.0,
    };
    Duration::try_from_secs_f64(interval_s * BURST_SHARE).map_or(LATEST, |part| part.max(LATEST))
}

fn lag(
    plan: &Plan,
    measured: &Measured,
    (lag, longest): (Duration, Duration),
    latency: Duration,
    verdict: &mut Verdict,
) {
    let remedy = remedy(plan, measured);
    if lag > longest && !is_held_up(measured) {
        verdict.doubt(
            InvalidKind::LateSends,
            format!(
                "the generator sent late: p99 of the lag is {:?}, more than {longest:?} ({remedy})",
                rounded(lag)
            ),
        );
    } else if lag > LAG_FLOOR && lag.as_secs_f64() > latency.as_secs_f64() * LAG_SHARE {
        verdict.notes.push(format!(
            "much of the latency is the generator's own: p99 of the lag is {:?}, of the latency {:?} ({remedy})",
            rounded(lag),
            rounded(latency)
        ));
    }
}

/// Returns advice against late sends.
fn remedy(plan: &Plan, measured: &Measured) -> &'static str {
    match plan.placement.wait {
        Some(Wait::Spin) => "more threads (-t), or processors that nobody else uses",
        _ if busiest(measured) > BUSY => {
            "a thread had no idle time: more threads (-t) or a lower rate"
        }
        _ => "--wait spin, or processors that nobody else uses",
    }
}

fn closed_loop(plan: &Plan, measured: &Measured, verdict: &mut Verdict) {
    if plan.placement.wait == Some(Wait::Spin) {
        return verdict.notes.push(
            "threads that spin are never idle: whether the generator was the limit is not known (--wait sleep)".to_owned(),
        );
    }
    let busy = busiest(measured);
    if busy <= BUSY {
        return;
    }
    let window_ns = measured.window.as_nanos() as f64;
    let generator =
        format!("a thread of the generator was busy {:.0} % of the window", busy * 100.0);
    let behind = [("server", measured.server), ("proxy", measured.proxy)];
    let busiest = behind.into_iter().filter_map(|(who, cost)| Some((who, cost?.cpu.busiest_ns?)));
    let busiest = busiest.max_by_key(|&(_, busiest_ns)| busiest_ns);
    match busiest.map(|(who, busiest_ns)| (who, busiest_ns as f64 / window_ns.max(1.0))) {
        Some((who, share)) if share < IDLE => verdict.doubt(InvalidKind::BusyGenerator, format!(
            "the generator was the limit: {generator}, the {who}'s busiest thread {:.0} %: more threads (-t)",
            share * 100.0
        )),
        Some((who, _)) => verdict.notes.push(format!(
            "{generator}, and so was one of the {who}'s: the rate is that of the pair, more threads (-t) would tell"
        )),
        None => verdict
            .notes
            .push(format!("{generator}: it may have been the limit, not the server; more threads (-t) would tell")),
    }
}

/// Notes where the kernel's accounts of the CPU time of server or proxy are in doubt.
fn accounts(who: &str, spent: &CpuSpent, verdict: &mut Verdict) {
    if let Some(ticks_ns) = spent.other_total_ns {
        let (used, ticks) = (spent.total_ns as f64 / 1e9, ticks_ns as f64 / 1e9);
        verdict.notes.push(format!(
            "the {who}'s CPU time is {used:.2} s by the scheduler and {ticks:.2} s by /proc/PID/stat, which ticks do not \
             explain: one of them does not know all of its processes; its cost is from the first"
        ));
    }
    if spent.is_incomplete {
        verdict.notes.push(format!(
            "processes of the {who} ended and nobody waited for them (SIGCHLD ignored?): part of \
             their cost is missing, unless the {who} may have a control group of its own"
        ));
    }
}

fn time(measured: &Measured, verdict: &mut Verdict) {
    let tally = &measured.tally;
    verdict.doubt_if(tally.clock_went_back, InvalidKind::Clock, "the clock went backwards");
    let Spans { total, longest, .. } = tally.standstill;
    // Each thread has its own standstills.
    let threads = measured.spent.threads_cpu_ns.len().max(1) as f64;
    let share = total.as_secs_f64() / threads / measured.window.as_secs_f64().max(1e-9);
    verdict.doubt_if(
        longest > LONGEST_STANDSTILL || share > STANDSTILL_SHARE,
        InvalidKind::Standstill,
        format!(
            "the generator did not run for {:?} of the window, at most {:?} at a time: it was stopped, or \
             something else had its processor",
            rounded(total),
            rounded(longest)
        ),
    );
}

/// Returns the share of the window in which the generator's busiest thread ran.
fn busiest(measured: &Measured) -> f64 {
    let busiest_ns = measured.spent.threads_cpu_ns.iter().max().copied().unwrap_or_default();
    busiest_ns as f64 / (measured.window.as_nanos() as f64).max(1.0)
}

/// The 99th percentile; of a small sample that is its highest value.
fn high(histogram: &Histogram<u64>) -> Duration {
    Duration::from_nanos(histogram.value_at_quantile(0.99))
}

/// Rounds to microseconds, enough for a span in a sentence.
fn rounded(span: Duration) -> Duration {
    Duration::from_micros(span.as_micros() as u64)
}

/// Returns the reason why a run with `count` wrong echoes is not valid.
pub(crate) fn wrong_echoes(count: u64) -> String {
    let echoes = if count == 1 { "echo was" } else { "echoes were" };
    format!("{count} {echoes} not what was sent")
}

#[cfg(test)]
mod tests {
    use engine::{Counters, EngineKind, Nanos};

    use super::super::coordinator::Spent;
    use super::super::ledger::Times;
    use super::super::pace::Pace;
    use super::super::server_meter::ServerCost;
    use super::*;
    use crate::result::{Phases, Utc};

    const WINDOW: Duration = Duration::from_secs(1);

    fn plan(rate_per_s: Option<f64>, wait: Wait) -> Plan {
        let url = "ws://127.0.0.1:9001/".parse().expect("url");
        Plan::new(url, EngineKind::Epoll).with(|plan| {
            plan.load.rate_per_s = rate_per_s;
            plan.placement.wait = Some(wait);
        })
    }

    fn measured(tally: Tally, busy: f64, server: Option<f64>) -> Measured {
        let ns = |share: f64| (share * 1e9) as u64;
        Measured {
            tally,
            counters: Counters::default(),
            phases: Phases::default(),
            load_start: Utc::now(),
            window: WINDOW,
            interrupted: false,
            broken: None,
            spent: Spent { threads_cpu_ns: vec![ns(busy / 2.0), ns(busy)], ..Spent::default() },
            server: server.map(|share| ServerCost {
                cpu: CpuSpent { busiest_ns: Some(ns(share)), ..CpuSpent::default() },
                ..ServerCost::default()
            }),
            proxy: None,
            metrics: None,
        }
    }

    fn closed() -> Tally {
        let mut tally = Tally::new(1, false);
        tally.received(1_000_000, Some(0));
        tally.enter_repeated();
        tally
    }

    /// Returns the tally of 1,000 planned messages, each back `latency` after it was due and sent
    /// `lag` after it. `back` of the 500 messages planned in the second half of the window came
    /// back within it.
    fn open(back: u64, lag: u64, latency: u64) -> Tally {
        let mut tally = Tally::new(1, true);
        let times = Times { due: Nanos(1), sent: Nanos(1 + lag) };
        (0..1000).for_each(|_| tally.received_planned(times, Nanos(1 + latency), Some(0), Some(0)));
        tally.offered = 1000;
        tally.paces = [Pace { planned: 500, received: back, under_way: 1 }; 2];
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
            reasons[0].contains("generator was the limit")
                && reasons[0].contains("60 %")
                && notes.is_empty()
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
        let cpu = &mut measured.server.as_mut().expect("a server").cpu;
        (cpu.total_ns, cpu.other_total_ns, cpu.is_incomplete) =
            (1_600_000_000, Some(1_200_000_000), true);
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
    fn lag_is_held_against_a_fixed_span_whatever_the_server() {
        let plan = plan(Some(1000.0), Wait::Sleep);
        let judged = |lag, latency| judge(&plan, &measured(open(500, lag, latency), 0.5, None));
        for latency in [700_000, 7_000_000, 700_000_000] {
            let late = judged(600_000, latency).reasons;
            let is_late = |(kind, reason): &(InvalidKind, String)| {
                *kind == InvalidKind::LateSends && reason.contains("--wait spin")
            };
            assert!(late.iter().any(is_late), "{late:?}");
            assert!(!judged(400_000, latency).reasons.iter().any(is_late));
        }
        assert!(judged(400_000, 700_000).notes[0].contains("generator's own"));
        assert_eq!(judged(60_000, 100_000).notes, Vec::<String>::new());
        let busy = judge(&plan, &measured(open(500, 600_000, 1_000_000), 0.97, None)).reasons;
        assert!(busy.iter().any(|(_, reason)| reason.contains("-t")), "{busy:?}");
    }

    /// The choice of dropped runs must not depend on the side: in recorded duels both sides lose
    /// about the same number.
    #[test]
    fn late_sends_drop_runs_of_both_sides_alike() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results");
        let recording = std::path::Path::new(root).join("2cb6ad84d164/proof/pairs.jsonl");
        let lines = std::fs::read_to_string(&recording).expect("the recording is readable");
        let mut dropped = std::collections::BTreeMap::<&str, (u32, u32)>::new();
        for line in lines.lines() {
            let document = crate::result::parse(line, &recording).expect("a session");
            for run in document.runs.iter().filter(|run| run.latency_ns.lag.count > 0) {
                let side = dropped.entry(if run.arm == "A" { "A" } else { "B" }).or_default();
                side.0 += 1;
                side.1 += u32::from(
                    run.latency_ns.lag.p99.is_some_and(|lag| lag > LATEST.as_nanos() as u64),
                );
            }
        }
        let [(all_a, a), (all_b, b)] = ["A", "B"].map(|side| dropped[side]);
        println!("dropped for late sends: {a} of {all_a} runs of side A, {b} of {all_b} of side B");
        assert!(all_a == all_b && all_a >= 200);
        // Two standard deviations of the number of heads when a fair coin is thrown for each
        // dropped run.
        assert!(f64::from(a.abs_diff(b)) <= 2.0 * f64::from(a + b).sqrt(), "{a} and {b}");
    }

    #[test]
    fn a_rate_that_was_not_kept_is_no_measurement_at_that_rate() {
        let plan = plan(Some(1000.0), Wait::Sleep);
        let judged = |back| reasons(&plan, &measured(open(back, 1, 1_000), 0.5, None));
        assert!(judged(350)[0].contains("350 of 500 planned messages came back"));
        assert_eq!(judged(495), Vec::<String>::new());
    }

    #[test]
    fn each_reason_says_whose_it_is() {
        let plan = plan(Some(1000.0), Wait::Sleep);
        let judged = |tally| {
            let kinds = kinds(&plan, &measured(tally, 0.5, None)).into_iter();
            kinds.map(|(kind, _)| (kind, kind.is_servers())).collect::<Vec<_>>()
        };
        assert_eq!(judged(open(300, 1, 1_000)), [(InvalidKind::RateNotKept, true)]);
        assert_eq!(judged(open(500, 600_000, 1_000_000)), [(InvalidKind::LateSends, false)]);
        let (mut full, mut still) = (open(500, 600_000, 1_000_000), open(500, 1, 1_000));
        full.was_full = true;
        still.standstill.add(Duration::from_secs(1));
        assert_eq!(judged(full), [(InvalidKind::OutstandingLimit, true)]);
        assert_eq!(judged(still), [(InvalidKind::Standstill, false)]);
        let mut unsent = open(500, 1, 1_000);
        (unsent.sent.total, unsent.not_sent) = (1000, 500);
        assert_eq!(judged(unsent), [(InvalidKind::LateSends, false)]);
        let mut late = open(500, 1, 1_000);
        late.unanswered(5_000_000_000, Some(0));
        assert_eq!(judged(late), [(InvalidKind::Outstanding, true)]);
    }

    #[test]
    fn many_short_standstills_are_one_long_one() {
        let plan = plan(None, Wait::Sleep);
        let still = |count| {
            let mut tally = closed();
            (0..count).for_each(|_| tally.standstill.add(Duration::from_millis(50)));
            kinds(&plan, &measured(tally, 0.5, None)).len()
        };
        // There are two threads, and the window is a second.
        assert_eq!((still(3), still(5)), (0, 1));
    }

    #[test]
    fn connections_that_wait_longer_than_the_percentiles_say_are_named() {
        let plan = plan(None, Wait::Sleep);
        let waiting = |connections, ms| {
            let mut tally = closed();
            (0..connections).for_each(|_| tally.waits_at_end(Duration::from_millis(ms)));
            (0..64).for_each(|_| tally.waits_at_end(Duration::from_millis(2)));
            kinds(&plan, &measured(tally, 0.5, None))
        };
        let cut = waiting(4, 2000);
        assert_eq!(cut[0].0, InvalidKind::CutTail);
        assert!(
            cut[0].1.contains("4 of 64 connections") && cut[0].1.contains("up to 2"),
            "{cut:?}"
        );
        assert_eq!(waiting(1, 2000).len(), 1);
        // Less than a tenth of the one-second window.
        assert_eq!((waiting(4, 90), waiting(0, 0)), (vec![], vec![]));
    }

    #[test]
    fn other_reasons_are_said_in_words() {
        let plan = plan(None, Wait::Sleep);
        let mut tally = closed();
        (tally.errors.closed, tally.ends, tally.unopened) = (2, 2, 1);
        tally.integrity = Integrity {
            lost: 8,
            lost_with_connection: 5,
            corrupted: 2,
            unsolicited: 1,
            ..Integrity::default()
        };
        tally.clock_went_back = true;
        tally.imbalance = Some("sent: 3 were counted, the connections have 4".to_owned());
        assert_eq!(
            reasons(&plan, &measured(tally, 0.5, None)),
            [
                "2 of 64 connections were lost, 1 connection could not be opened",
                "2 echoes were not what was sent",
                "3 messages never came back on connections that stayed open",
                "1 message came that nobody had asked for",
                "the clock went backwards",
                "the generator's counts do not add up (sent: 3 were counted, the connections have 4); please report this"
            ]
        );
        let mut tally = closed();
        (tally.errors.closed, tally.ends) = (152, 152);
        let reconnecting = plan.clone().with(|plan| {
            plan.load.reconnect = true;
            plan.load.connections = 8;
        });
        assert_eq!(
            reasons(&reconnecting, &measured(tally, 0.5, None)),
            ["152 ends of 8 connections"]
        );
        assert_eq!(
            reasons(&plan, &measured(Tally::new(1, false), 0.5, None)),
            ["no echo was received in the window"]
        );
    }
}

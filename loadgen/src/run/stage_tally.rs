//! Counts of the stages of a load: on each worker, and their sum.
//!
//! A message belongs to the stage in which it was planned, with its latency and its lag. An echo or
//! an error also counts in the stage in which it came. These are read when a stage begins and when
//! it is half over. From the second reading to the end of the stage its echoes are compared with
//! its plan ([`Pace`]).

use std::time::Duration;

use engine::Nanos;
use hdrhistogram::Histogram;

use super::ledger::Times;
use super::pace::Pace;
use super::rate_curve::RateCurve;
use super::tally::{GROWS, Outstanding, Parts, coarse_histogram, duration_ns, histogram};
use crate::load::Load;

/// Counts of one stage.
#[derive(Debug)]
pub(crate) struct StageTally {
    /// Messages planned in it.
    pub(crate) planned: u64,
    /// The part of them that was not sent.
    pub(crate) not_sent: u64,
    /// Echoes received within it.
    pub(crate) received: u64,
    /// Errors within it, and messages planned in it that were found to be lost at the end.
    pub(crate) errors: u64,
    /// Pace of its second half.
    pub(crate) pace: Pace,
    /// Time from the planned send to the echo.
    pub(crate) latency: Histogram<u64>,
    /// The parts of the latency.
    pub(crate) parts: Parts,
    /// Messages planned in it without an echo at the end.
    pub(crate) outstanding: Outstanding,
}

impl StageTally {
    fn new() -> Self {
        Self {
            planned: 0,
            not_sent: 0,
            received: 0,
            errors: 0,
            pace: Pace::default(),
            latency: histogram(),
            parts: Parts { uncorrected: coarse_histogram(), lag: coarse_histogram() },
            outstanding: Outstanding::default(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.planned += other.planned;
        self.not_sent += other.not_sent;
        self.received += other.received;
        self.errors += other.errors;
        self.pace.add(other.pace);
        self.latency.add(&other.latency).expect(GROWS);
        self.parts.add(&other.parts);
        self.outstanding.merge(other.outstanding);
    }
}

/// Counts of a worker at a border.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    received: u64,
    errors: u64,
    /// Messages sent and without an echo.
    under_way: u64,
}

/// The stages of a load that have a length.
#[derive(Debug)]
pub(crate) struct StageTallies {
    pub(crate) each: Vec<StageTally>,
    pub(crate) curve: RateCurve,
    /// Beginning and middle of each stage, and the end of the last one, once the load has begun.
    borders: Vec<Nanos>,
    /// Counts at the borders that have passed.
    readings: Vec<Reading>,
    /// True once the window has ended.
    is_over: bool,
    /// The stage of the last message that was looked up.
    last: usize,
}

impl StageTallies {
    /// Returns the empty counts of a load; `None` where it has no stages.
    pub(crate) fn for_load(load: &Load) -> Option<Box<Self>> {
        let curve = RateCurve::of(load)?;
        let count = (curve.segments() - curve.of_warmup()) / 2;
        Some(Box::new(Self {
            each: (0..count).map(|_| StageTally::new()).collect(),
            curve,
            borders: Vec::new(),
            readings: Vec::new(),
            is_over: false,
            last: 0,
        }))
    }

    /// Begins a load whose first message is due at `epoch` at the earliest.
    pub(crate) fn begin(&mut self, epoch: Nanos) {
        let segments = self.curve.of_warmup()..self.curve.segments();
        let mut bounds = segments.map(|segment| self.curve.bounds(segment));
        self.borders = bounds.clone().map(|(start, _)| epoch + start).collect();
        self.borders.extend(bounds.next_back().map(|(_, end)| epoch + end));
    }

    /// Returns the next point in time at which [`read`](Self::read) is to be called.
    pub(crate) fn next(&self) -> Nanos {
        let next = self.borders.get(self.readings.len()).filter(|_| !self.is_over);
        next.copied().unwrap_or(Nanos::NEVER)
    }

    /// Notes the counts of the worker at `now`.
    pub(crate) fn read(&mut self, now: Nanos, received: u64, errors: u64, under_way: u64) {
        while self.next() <= now {
            self.readings.push(Reading { received, errors, under_way });
        }
    }

    /// Ends the window, where it has not ended yet: stages that are not over end with it.
    pub(crate) fn finish(&mut self, received: u64, errors: u64) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let end = Reading { received, errors, under_way: 0 };
        let reading = |border: usize| self.readings.get(border).copied().unwrap_or(end);
        for (index, stage) in self.each.iter_mut().enumerate() {
            let [start, middle, end] = [0, 1, 2].map(|border| reading(2 * index + border));
            stage.received = end.received - start.received;
            stage.errors = end.errors - start.errors;
            stage.pace.received = end.received - middle.received;
            stage.pace.under_way = middle.under_way;
        }
    }

    /// Counts the messages that were planned in each segment of the curve: those that were sent,
    /// and `rest` of those that were not.
    pub(crate) fn plan(&mut self, sent: &[u64], rest: impl Fn(Nanos, Nanos) -> u64) {
        let sent = sent.iter().skip(self.curve.of_warmup());
        let halves = sent.zip(self.borders.windows(2)).enumerate();
        for (half, (sent, border)) in halves {
            let not_sent = rest(border[0], border[1]);
            let stage = &mut self.each[half / 2];
            stage.planned += sent + not_sent;
            stage.not_sent += not_sent;
            // A window that was cut short before the middle has no pace.
            if half % 2 == 1 && half < self.readings.len() {
                stage.pace.planned += sent + not_sent;
            }
        }
    }

    /// Returns the stage in which a message was planned, if in any.
    fn stage_of(&mut self, due: Nanos) -> Option<&mut StageTally> {
        let begin = |stage: usize| self.borders.get(2 * stage).copied();
        if due < begin(0)? || due >= *self.borders.last()? {
            return None;
        }
        // Nearly always it is the stage of the message before.
        while due < begin(self.last)? {
            self.last -= 1;
        }
        while due >= begin(self.last + 1)? {
            self.last += 1;
        }
        self.each.get_mut(self.last)
    }

    /// Counts the echo of a message by the time at which it was planned.
    pub(crate) fn received(&mut self, times: Times, sent: Nanos, now: Nanos) {
        let Some(stage) = self.stage_of(times.due) else { return };
        stage.latency.record(duration_ns(times.due, now)).expect(GROWS);
        stage.parts.record(times.due, sent, now);
    }

    /// Counts a message without an echo at the end, of at least this age.
    pub(crate) fn unanswered(&mut self, due: Nanos, age_ns: u64) {
        let Some(stage) = self.stage_of(due) else { return };
        stage.latency.record(age_ns).expect(GROWS);
        stage.outstanding.merge(Outstanding { count: 1, in_latency: 1, youngest_ns: Some(age_ns) });
    }

    /// Counts a message that was found to be lost at the end.
    pub(crate) fn lost(&mut self, due: Nanos) {
        if let Some(stage) = self.stage_of(due) {
            stage.errors += 1;
        }
    }

    /// Returns true if the echoes of each stage keep up with its plan. `share` is the part of the
    /// load's connections that is counted here.
    pub(crate) fn are_kept(&self, burst: u32, share: f64) -> bool {
        (0..self.each.len()).all(|index| self.is_kept(index, burst, share))
    }

    /// Returns true if the echoes of a stage keep up with its plan.
    pub(crate) fn is_kept(&self, index: usize, burst: u32, share: f64) -> bool {
        let StageTally { pace, latency, .. } = &self.each[index];
        let segment = self.curve.of_warmup() + 2 * index + 1;
        let (middle, end) = self.curve.bounds(segment);
        // Where even the fastest echo takes longer than half of the stage, those of its first half
        // say nothing about its second.
        let fastest = Duration::from_nanos(latency.min());
        if !latency.is_empty() && fastest > end - middle {
            return true;
        }
        let growth = self.curve.growth(middle, end, pace.under_way as f64 / share) * share;
        pace.is_kept_while_growing(burst, growth)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.each.iter_mut().zip(&other.each).for_each(|(sum, part)| sum.add(part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tallies(stages: &str) -> StageTallies {
        let stages = Some(stages.parse().expect("stages"));
        let load = Load { stages, warmup: Duration::from_secs(1), ..Load::default() };
        let mut tallies = *StageTallies::for_load(&load).expect("stages");
        tallies.begin(Nanos(0));
        tallies
    }

    const SECOND: u64 = 1_000_000_000;

    /// Plays a server that answers up to `capacity` messages a second, each after `latency_s` at
    /// the earliest. Returns whether each stage is kept.
    fn kept(stages: &str, capacity: f64, latency_s: f64) -> Vec<bool> {
        let mut tallies = tallies(stages);
        let planned = |s: f64| tallies.curve.count_at(Duration::from_secs_f64(s.max(0.0)));
        let (step, mut answered, mut at) = (0.001, 0.0_f64, 0.0);
        let mut log = Vec::new();
        while at <= 40.0 {
            log.push((at, answered, planned(at)));
            at += step;
            answered = planned(at - latency_s).min(answered + capacity * step);
        }
        for (at, answered, planned) in log {
            let now = Nanos((at * 1e9).round() as u64);
            tallies.read(now, answered as u64, 0, (planned - answered) as u64);
        }
        let total = tallies.readings.last().expect("readings").received;
        tallies.finish(total, 0);
        let sent = (0..tallies.curve.segments()).map(|segment| {
            let (start, end) = tallies.curve.bounds(segment);
            (tallies.curve.count_at(end) - tallies.curve.count_at(start)).round() as u64
        });
        tallies.plan(&sent.collect::<Vec<_>>(), |_, _| 0);
        (0..tallies.each.len()).map(|index| tallies.is_kept(index, 1, 1.0)).collect()
    }

    #[test]
    fn a_server_that_keeps_up_is_kept_in_every_stage() {
        for stages in ["1k:4s,50k:4s,50k:2s,0:4s", "0:0s,20k:3s,1k:0s,1k:3s,40k:0s,40k:3s"] {
            for latency in [0.0005, 0.02, 0.2, 0.9] {
                let kept = kept(stages, 1e9, latency);
                assert!(kept.iter().all(|kept| *kept), "{stages} {latency}: {kept:?}");
            }
        }
    }

    #[test]
    fn a_server_that_is_too_slow_is_named_in_the_stage_alone() {
        assert_eq!(
            kept("1k:4s,1k:4s,50k:4s,1k:4s,1k:9s", 20e3, 0.001),
            [true, true, false, true, true]
        );
        assert_eq!(kept("1k:4s,50k:0s,50k:2s,1k:0s,1k:9s", 45e3, 0.05), [true, false, true]);
    }

    #[test]
    fn counts_are_those_of_the_time_and_of_the_plan() {
        let mut tallies = tallies("100:1s,300:1s");
        tallies.read(Nanos(SECOND - 1), 90, 0, 10);
        assert_eq!(tallies.next(), Nanos(SECOND));
        for (half, received, errors) in
            [(2, 100, 0), (3, 150, 1), (4, 200, 1), (5, 270, 1), (6, 400, 4)]
        {
            tallies.read(Nanos(half * SECOND / 2), received, errors, 7);
        }
        assert_eq!(tallies.next(), Nanos::NEVER);
        tallies.finish(410, 9);
        tallies.plan(&[100, 50, 50, 75, 100], |_, _| 1);
        let of = |stage: &StageTally| {
            let StageTally { planned, not_sent, received, errors, pace, .. } = stage;
            (*planned, *not_sent, *received, *errors, *pace)
        };
        let pace = |planned, received| Pace { planned, received, under_way: 7 };
        assert_eq!(of(&tallies.each[0]), (102, 2, 100, 1, pace(51, 50)));
        assert_eq!(of(&tallies.each[1]), (177, 2, 200, 3, pace(101, 130)));
        let echo = |due| (Times { due: Nanos(due), sent: Nanos(due + 5) }, Nanos(due + 9));
        for due in [SECOND, 3 * SECOND - 1, 2 * SECOND, 2 * SECOND - 1, SECOND - 1, 3 * SECOND] {
            let (times, now) = echo(due);
            tallies.received(times, times.sent, now);
        }
        assert_eq!(
            tallies.each.iter().map(|stage| stage.latency.len()).collect::<Vec<_>>(),
            [2, 2]
        );
        assert_eq!(tallies.each[1].parts.lag.max(), 5);
        tallies.lost(Nanos(SECOND));
        tallies.unanswered(Nanos(2 * SECOND), 77);
        assert_eq!((tallies.each[0].errors, tallies.each[1].outstanding.count), (2, 1));
    }

    #[test]
    fn a_window_that_is_cut_ends_the_stage_with_it() {
        let mut tallies = tallies("100:1s,300:1s");
        tallies.read(Nanos(2 * SECOND + 5), 100, 0, 0);
        tallies.finish(120, 2);
        assert_eq!(tallies.next(), Nanos::NEVER);
        let received: Vec<_> = tallies.each.iter().map(|stage| stage.received).collect();
        assert_eq!((received, tallies.each[1].errors), (vec![0, 20], 2));
        tallies.plan(&[100, 50, 50, 20, 0], |_, _| 0);
        assert_eq!(tallies.each[1].pace.planned, 0, "nothing to judge before its middle");
    }
}

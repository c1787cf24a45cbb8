//! The rate of a load with stages as a curve over time, and its integral: the number of messages
//! planned until then.
//!
//! Message `k` is due when the integral reaches `k`. The rate is linear in each segment, so the
//! integral is a parabola and its inverse a square root. Each stage has two segments, its halves,
//! because the echoes of its second half show whether the server keeps up. Before the stages comes
//! the warm-up, at the rate with which the first stage begins.

use std::time::Duration;

use engine::Nanos;

use crate::load::Load;
use crate::load::stages::Ramp;

/// A part of the time in which the rate changes evenly. Times are nanoseconds from the beginning of
/// the load.
#[derive(Clone, Copy, Debug)]
struct Segment {
    start: u64,
    end: u64,
    /// Messages planned before it and before its end.
    before: f64,
    through: f64,
    /// Messages a second at its beginning, and the change of that in a second.
    rate: f64,
    slope: f64,
}

impl Segment {
    /// Returns the time at which the integral is `count`, which lies within the segment. Rounding
    /// never moves it out of the segment.
    fn time_of(&self, count: f64) -> f64 {
        let within = count - self.before;
        if within <= 0.0 {
            return self.start as f64;
        }
        // The smaller root of a quadratic equation, in the form that does not cancel.
        let root = (self.rate * self.rate + 2.0 * self.slope * within).max(0.0).sqrt();
        let seconds = 2.0 * within / (self.rate + root);
        (self.start as f64 + seconds * 1e9).min((self.end - 1) as f64)
    }

    /// Returns the integral at a time within the segment.
    fn count_at(&self, time: u64) -> f64 {
        let seconds = (time - self.start) as f64 / 1e9;
        let count = self.before + (self.rate + self.slope * seconds / 2.0) * seconds;
        if time == self.end { self.through } else { count.min(self.through) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct RateCurve {
    segments: Vec<Segment>,
    /// Number of segments before the first stage.
    of_warmup: usize,
}

impl RateCurve {
    /// Returns the curve of a load with stages; `None` for another load.
    pub(crate) fn of(load: &Load) -> Option<Self> {
        let stages = load.stages.as_ref()?;
        let mut curve = Self { segments: Vec::new(), of_warmup: 0 };
        let rate = stages.first_rate();
        if !load.warmup.is_zero() {
            curve.push(load.warmup, rate, rate);
            curve.of_warmup = 1;
        }
        stages.ramps().iter().for_each(|ramp| curve.push_halves(ramp));
        Some(curve)
    }

    fn push(&mut self, span: Duration, from: f64, to: f64) {
        let (start, before) =
            self.segments.last().map_or((0, 0.0), |last| (last.end, last.through));
        let ns = span.as_nanos() as u64;
        // Multiplied first: whole numbers of messages stay whole.
        let through = before + (from + to) / 2.0 * ns as f64 / 1e9;
        let slope = (to - from) / span.as_secs_f64();
        self.segments.push(Segment { start, end: start + ns, before, through, rate: from, slope });
    }

    fn push_halves(&mut self, ramp: &Ramp) {
        self.push(ramp.span, ramp.from, ramp.to);
        let Some(whole) = self.segments.pop() else { return };
        let half = (ramp.span.as_nanos() / 2) as u64;
        let middle = whole.start + half;
        let (before, rate) = (whole.count_at(middle), whole.rate + whole.slope * half as f64 / 1e9);
        self.segments.push(Segment { end: middle, through: before, ..whole });
        self.segments.push(Segment { start: middle, before, rate, ..whole });
    }

    /// Returns the number of segments.
    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Returns the number of segments before the first stage. After it each stage has two.
    pub(crate) fn of_warmup(&self) -> usize {
        self.of_warmup
    }

    /// Returns the times from the beginning of the load at which a segment begins and ends.
    pub(crate) fn bounds(&self, segment: usize) -> (Duration, Duration) {
        let Segment { start, end, .. } = self.segments[segment];
        (Duration::from_nanos(start), Duration::from_nanos(end))
    }

    /// Returns the segment in which the integral reaches `count`, from `first` on; the number of
    /// segments where there are fewer messages.
    #[inline]
    pub(crate) fn segment_of(&self, count: f64, first: usize) -> usize {
        let later = self.segments[first..].iter().take_while(|segment| count >= segment.through);
        first + later.count()
    }

    /// Returns the time of message `count` in nanoseconds, which lies in `segment`: infinite beyond
    /// the last one.
    #[inline]
    pub(crate) fn time_of(&self, count: f64, segment: usize) -> f64 {
        self.segments.get(segment).map_or(f64::INFINITY, |segment| segment.time_of(count))
    }

    /// Returns the number of messages planned before a time, which need not be a whole one.
    pub(crate) fn count_at(&self, time: Duration) -> f64 {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let segment = self.segments.iter().find(|segment| ns < segment.end);
        let all = || self.segments.last().map_or(0.0, |last| last.through);
        segment.map_or_else(all, |segment| segment.count_at(ns))
    }

    /// Returns the first message that is due at `end` or later, times from `epoch` on.
    pub(crate) fn first_at(&self, end: Nanos, epoch: Nanos) -> u64 {
        let due = |count: u64| {
            let offset = self.time_of(count as f64, self.segment_of(count as f64, 0)).round();
            Nanos(epoch.0.saturating_add(offset as u64))
        };
        let all = self.segments.last().map_or(0.0, |last| last.through);
        let (mut low, mut high) = (0, all.ceil() as u64);
        while low < high {
            let middle = low.midpoint(high);
            if due(middle) < end { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Returns the growth of the number of messages under way from `from` to `end`, for a server
    /// whose echoes take the same time throughout. `under_way` is their number at `from`, of the
    /// whole load.
    pub(crate) fn growth(&self, from: Duration, end: Duration, under_way: f64) -> f64 {
        let began = (self.count_at(from) - under_way).max(0.0);
        let segment = self.segment_of(began, 0);
        let began = Duration::from_nanos(self.time_of(began, segment) as u64);
        let each = from.saturating_sub(began);
        let at_end = self.count_at(end) - self.count_at(end.saturating_sub(each));
        (at_end - under_way).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(stages: &str, warmup: Duration) -> RateCurve {
        let stages = Some(stages.parse().expect("stages"));
        RateCurve::of(&Load { stages, warmup, ..Load::default() }).expect("has stages")
    }

    /// Returns the time of each message, nanoseconds.
    fn times(curve: &RateCurve) -> Vec<u64> {
        let time = |count: u64| curve.time_of(count as f64, curve.segment_of(count as f64, 0));
        let times = (0..).map(time).take_while(|time| time.is_finite());
        times.map(|time| time.round() as u64).collect()
    }

    #[test]
    fn message_k_is_due_when_the_integral_reaches_k() {
        for stages in ["1k:1s,5k:2s,5k:500ms,0:1s", "0:0s,3000:3s", "777.7:1s,50:3s,9k:0,9k:33ms"] {
            for warmup in [Duration::ZERO, Duration::from_millis(300)] {
                let curve = curve(stages, warmup);
                let times = times(&curve);
                assert!(times.len() > 1000 && times.is_sorted(), "{stages}");
                for (count, time) in times.iter().enumerate() {
                    let integral = curve.count_at(Duration::from_nanos(*time));
                    // A nanosecond at the highest rate is less than a hundred-thousandth.
                    assert!((integral - count as f64).abs() < 1e-4, "{stages}: {count} {integral}");
                }
            }
        }
    }

    #[test]
    fn planned_messages_of_a_stage_are_the_integral_of_its_rate() {
        let second = Duration::from_secs(1);
        let curve = curve("1k:1s,5k:2s,5k:500ms,0:1s,2k:0s,2k:1s", second);
        let times = times(&curve);
        let planned = |from: f64, to: f64| {
            let within = (from * 1e9) as u64..(to * 1e9) as u64;
            times.iter().filter(|time| within.contains(time)).count()
        };
        // The warm-up has the rate of the first stage; a ramp has the mean of both its rates.
        let counts = [(0.0, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 4.5), (4.5, 5.5), (5.5, 6.5)];
        let counts = counts.map(|(from, to)| planned(from, to));
        assert_eq!(counts, [1000, 1000, 6000, 2500, 2500, 2000]);
        // At a border the next stage has the message.
        assert_eq!((times[1000], times[2000], times[8000]), (1e9 as u64, 2e9 as u64, 4e9 as u64));
        // A stage that ends within a message has that message: it began within the stage.
        let curve = super::tests::curve("999.5:1s,3:0s,3:1s", Duration::ZERO);
        let times = super::tests::times(&curve);
        assert_eq!(times.iter().filter(|time| **time < 1_000_000_000).count(), 1000);
        assert_eq!(times.len(), 1003);
    }

    #[test]
    fn first_message_at_a_time_is_found_by_the_same_arithmetic() {
        let curve = curve("1k:1s,5k:2s,0:1s", Duration::ZERO);
        let (times, epoch) = (times(&curve), Nanos(77));
        for end in (0..4_100_000_000).step_by(1_234_567) {
            let expected = times.iter().filter(|time| **time < end).count() as u64;
            assert_eq!(curve.first_at(Nanos(77 + end), epoch), expected, "{end}");
        }
    }

    #[test]
    fn messages_under_way_grow_with_the_rate() {
        let curve = curve("1k:1s,5k:2s,5k:1s,1k:0,1k:1s", Duration::ZERO);
        let at = Duration::from_secs_f64;
        // Each takes 100 ms: 290 lie between 1.9 s and 2 s, and 490 between 2.9 s and 3 s.
        let grown = curve.growth(at(2.0), at(3.0), 290.0);
        assert!((grown - 200.0).abs() < 1.0, "{grown}");
        assert!(curve.growth(at(3.5), at(4.0), 500.0) < 1e-6);
        assert!(curve.growth(at(3.9), at(4.5), 500.0) < 1e-6, "a falling rate needs none");
        // What is under way began 20 ms before a step: 600 are planned in the last 120 ms.
        let step = super::tests::curve("1k:1s,5k:0,5k:200ms", Duration::ZERO);
        let grown = step.growth(at(1.1), at(1.2), 520.0);
        assert!((grown - 80.0).abs() < 1.0, "{grown}");
    }
}

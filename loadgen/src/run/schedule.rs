//! Times at which the messages of an open loop are due.
//!
//! A schedule stores only the next message of its worker and calculates the ones after it. So late
//! messages take no memory, and none is omitted. Message `k` of the run belongs to connection `k
//! mod c`; connection `i` belongs to worker `i mod t`. Hence each worker's messages lie evenly
//! among those of the others, and no worker needs to know how far the others are.
//!
//! Poisson arrivals are a process of each connection, with a random sequence of its own. Their sum
//! is a Poisson process. So no planned time depends on the number of workers.
//!
//! With stages, message `k` is due when the integral of the rate reaches `k` ([`RateCurve`]), and
//! Poisson arrivals are drawn on the scale of that integral.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use engine::Nanos;

use super::random::Random;
use super::rate_curve::RateCurve;
use crate::load::{Arrival, Load};

/// The part of a schedule that one worker sends.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    arrival: Arrival,
    epoch: Nanos,
    /// Nanoseconds from one message of the run to the next, on average; with stages 1, so that
    /// Poisson arrivals count messages.
    gap: f64,
    shard: Shard,
    /// True if times are not multiples of the gap.
    is_irregular: bool,
    /// The rate as it changes; `None` where it stays the same.
    stages: Option<Box<Stages>>,
    /// The next message of each connection, the earliest first; empty where arrivals are not
    /// random.
    arrivals: BinaryHeap<Reverse<NextArrival>>,
    /// Index of the next message's connection among those of the worker. `round` counts the earlier
    /// passes over all of them. `offset` is the message's planned time in nanoseconds after the
    /// epoch.
    link: u32,
    round: u64,
    offset: f64,
}

/// State of a plan with stages.
#[derive(Clone, Debug)]
struct Stages {
    curve: RateCurve,
    /// Segment of the next message.
    segment: usize,
    /// Earlier messages of the worker in each segment.
    planned: Vec<u64>,
    /// The next message by its number, or by its place on the scale of the integral.
    count: f64,
}

/// The next message of a connection with random arrivals.
#[derive(Clone, Debug)]
struct NextArrival {
    /// Nanoseconds after the epoch; with stages a place on the scale of the integral.
    offset: f64,
    link: u32,
    random: Random,
}

impl NextArrival {
    /// Proceeds to the next message: adds an exponentially distributed gap.
    fn draw(&mut self, mean_gap: f64) {
        // In (0, 1]: a logarithm of zero would never be due.
        let uniform = ((self.random.next() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        self.offset += -uniform.ln() * mean_gap;
    }
}

impl Ord for NextArrival {
    fn cmp(&self, other: &Self) -> Ordering {
        self.offset.total_cmp(&other.offset).then(self.link.cmp(&other.link))
    }
}

impl PartialOrd for NextArrival {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for NextArrival {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for NextArrival {}

/// A worker's part of the connections: every `threads`-th from `worker` on. Both count the workers
/// of all processes that share the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) worker: u32,
    pub(crate) threads: u32,
    pub(crate) connections: u32,
}

impl Shard {
    /// Returns the number of its connections.
    pub(crate) fn count(self) -> u32 {
        self.connections / self.threads + u32::from(self.worker < self.connections % self.threads)
    }

    /// Returns the number, over all workers, of the worker's connection `link`.
    #[inline]
    pub(crate) fn number(self, link: u32) -> u32 {
        link * self.threads + self.worker
    }
}

impl Schedule {
    /// Returns the schedule of an open loop from `epoch` on; `None` for a closed loop.
    pub(crate) fn of(load: &Load, epoch: Nanos, shard: Shard) -> Option<Self> {
        let arrival = load.arrival;
        let stages = RateCurve::of(load).map(|curve| {
            let planned = vec![0; curve.segments()];
            Box::new(Stages { curve, segment: 0, planned, count: 0.0 })
        });
        let gap = match (&stages, load.rate_per_s) {
            (Some(_), _) => 1.0,
            (None, rate_per_s) => 1e9 / rate_per_s?,
        };
        let mut schedule = Self {
            arrival,
            epoch,
            gap,
            shard,
            is_irregular: stages.is_some() || arrival == Arrival::Poisson,
            stages,
            arrivals: BinaryHeap::new(),
            link: 0,
            round: 0,
            offset: 0.0,
        };
        match arrival {
            Arrival::Poisson => schedule.begin_random(load.seed),
            Arrival::Constant | Arrival::Burst(_) => schedule.compute(),
        }
        schedule.follow_curve();
        Some(schedule)
    }

    /// Returns the time at which the next message is due.
    #[inline]
    pub(crate) fn due(&self) -> Nanos {
        Nanos(self.epoch.0.saturating_add(self.offset.round() as u64))
    }

    /// Returns the worker's connection that it is due on.
    #[inline]
    pub(crate) fn link(&self) -> u32 {
        self.link
    }

    /// Proceeds to the message after it.
    #[inline]
    pub(crate) fn advance(&mut self) {
        if self.is_irregular {
            return self.advance_irregular();
        }
        self.step();
    }

    fn advance_irregular(&mut self) {
        if let Some(stages) = &mut self.stages
            && let Some(planned) = stages.planned.get_mut(stages.segment)
        {
            *planned += 1;
        }
        if self.arrival == Arrival::Poisson {
            self.draw();
        } else {
            self.step();
        }
        self.follow_curve();
    }

    /// Proceeds at even intervals.
    #[inline]
    fn step(&mut self) {
        self.link += 1;
        if self.link == self.shard.count() {
            self.link = 0;
            self.round += 1;
        }
        self.compute();
    }

    /// Turns the place of the next message on the scale of the integral into a time, where there
    /// are stages.
    fn follow_curve(&mut self) {
        let Some(stages) = &mut self.stages else { return };
        stages.count = self.offset;
        stages.segment = stages.curve.segment_of(stages.count, stages.segment);
        self.offset = stages.curve.time_of(stages.count, stages.segment);
    }

    /// Returns the messages before the next one in each segment of the load's [`RateCurve`]; empty
    /// without stages.
    pub(crate) fn planned(&self) -> &[u64] {
        self.stages.as_ref().map(|stages| &stages.planned[..]).unwrap_or_default()
    }

    /// Counts the messages that are still due before `end`, or the expected number of them.
    pub(crate) fn until(&self, end: Nanos) -> u64 {
        if let Some(stages) = &self.stages {
            return self.until_on_curve(stages, end);
        }
        let span = end.0.saturating_sub(self.epoch.0) as f64;
        if self.arrival == Arrival::Poisson {
            return ((span - self.offset) / self.worker_gap()).max(0.0).round() as u64;
        }
        let mut rest = self.clone();
        // Whole rounds at once, then message by message: the arithmetic of `due` alone decides what
        // is before the end.
        let rounds = (span / self.connection_gap()) as u64;
        let skipped = rounds.saturating_sub(1).saturating_sub(self.round);
        rest.round += skipped;
        rest.compute();
        let mut count = skipped * u64::from(self.shard.count());
        while rest.due() < end {
            count += 1;
            rest.advance();
        }
        count
    }

    fn until_on_curve(&self, stages: &Stages, end: Nanos) -> u64 {
        if self.arrival == Arrival::Poisson {
            let end = stages.curve.count_at(end.since(self.epoch));
            return ((end - stages.count) / self.worker_gap()).max(0.0).round() as u64;
        }
        let first = stages.curve.first_at(end, self.epoch);
        // A whole burst is due with its first message.
        let first = first.next_multiple_of(match self.arrival {
            Arrival::Burst(size) => size.get().into(),
            Arrival::Constant | Arrival::Poisson => 1,
        });
        let Shard { worker, threads, connections } = self.shard;
        let of_round = |count: u64| count.saturating_sub(worker.into()).div_ceil(threads.into());
        let (rounds, rest) = (first / u64::from(connections), first % u64::from(connections));
        let all = rounds * u64::from(self.shard.count()) + of_round(rest);
        let before = self.round * u64::from(self.shard.count()) + u64::from(self.link);
        all.saturating_sub(before)
    }

    #[inline]
    fn compute(&mut self) {
        let number = u64::from(self.shard.number(self.link));
        let k = self.round * u64::from(self.shard.connections) + number;
        let k = match self.arrival {
            Arrival::Burst(size) => k - k % u64::from(size.get()),
            Arrival::Constant | Arrival::Poisson => k,
        };
        // Exact to a nanosecond for as long as a run can last: 2^53 ns are 104 days.
        self.offset = k as f64 * self.gap;
    }

    /// Draws the first message of each connection.
    fn begin_random(&mut self, seed: u64) {
        let mean_gap = self.connection_gap();
        let first = |link| {
            // A stream of its own: the plan does not depend on what is sent.
            let random = Random::new(seed, u64::MAX - u64::from(self.shard.number(link)));
            let mut first = NextArrival { offset: 0.0, link, random };
            first.draw(mean_gap);
            Reverse(first)
        };
        self.arrivals = (0..self.shard.count()).map(first).collect();
        self.take_earliest();
    }

    /// Draws the connection's message after the present one, and takes the earliest of all.
    fn draw(&mut self) {
        let mean_gap = self.connection_gap();
        if let Some(mut present) = self.arrivals.peek_mut() {
            present.0.draw(mean_gap);
        }
        self.take_earliest();
    }

    fn take_earliest(&mut self) {
        if let Some(Reverse(next)) = self.arrivals.peek() {
            (self.offset, self.link) = (next.offset, next.link);
        }
    }

    /// Returns the average time between two messages of a connection.
    fn connection_gap(&self) -> f64 {
        self.gap * f64::from(self.shard.connections)
    }

    fn worker_gap(&self) -> f64 {
        self.connection_gap() / f64::from(self.shard.count())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::super::process_shard::ProcessShard;
    use super::*;

    const EPOCH: Nanos = Nanos(5_000);

    fn schedules(arrival: Arrival, rate: f64, connections: u32, threads: u32) -> Vec<Schedule> {
        let shard = |worker| Shard { worker, threads, connections };
        let load = Load { arrival, rate_per_s: Some(rate), ..Load::default() };
        (0..threads).filter_map(|w| Schedule::of(&load, EPOCH, shard(w))).collect()
    }

    /// A load with stages, of which one is a step and one has no messages.
    fn staged(arrival: Arrival) -> Load {
        let stages = "1k:100ms,50k:1s,50k:200ms,0:100ms,0:50ms,7777.7:0s,7777.7:333ms".parse().ok();
        Load { arrival, stages, warmup: std::time::Duration::from_millis(70), ..Load::default() }
    }

    /// All messages before `end`: when they are due, and on which connection, in order.
    fn messages(schedules: Vec<Schedule>, end: Nanos) -> Vec<(u64, u32)> {
        let mut all = Vec::new();
        for mut schedule in schedules {
            let expected = schedule.until(end);
            let before = all.len();
            while schedule.due() < end {
                all.push((schedule.due().0 - EPOCH.0, schedule.shard.number(schedule.link())));
                schedule.advance();
            }
            if schedule.arrival != Arrival::Poisson {
                assert_eq!(expected, (all.len() - before) as u64);
            }
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn connections_of_workers_differ_by_one_at_most() {
        for (connections, threads) in [(64, 16), (512, 16), (10, 4), (3, 5), (1, 1)] {
            let shards: Vec<_> =
                (0..threads).map(|worker| Shard { worker, threads, connections }).collect();
            let counts = shards.iter().map(|shard| shard.count());
            let (least, most) = (counts.clone().min(), counts.max());
            assert!(least.zip(most).is_some_and(|(least, most)| most - least <= 1));
            let mut numbers: Vec<_> = shards
                .iter()
                .flat_map(|shard| (0..shard.count()).map(|link| shard.number(link)))
                .collect();
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..connections), "each connection has one worker");
        }
    }

    #[test]
    fn message_k_is_due_after_k_gaps_on_connection_k_mod_c_whatever_the_threads() {
        for (connections, threads) in [(1, 1), (64, 1), (10, 4), (7, 7)] {
            let all = messages(
                schedules(Arrival::Constant, 3_000_000.0, connections, threads),
                Nanos(105_000),
            );
            assert_eq!(all.len(), 300);
            for (k, (due, connection)) in all.into_iter().enumerate() {
                assert_eq!(
                    (due, connection),
                    ((k as f64 * 1e9 / 3e6).round() as u64, k as u32 % connections)
                );
            }
        }
    }

    #[test]
    fn each_worker_has_its_messages_at_even_distances() {
        let [first, ..] = &schedules(Arrival::Constant, 1e6, 8, 4)[..] else { panic!("four") };
        let all = messages(vec![first.clone()], Nanos(EPOCH.0 + 40_000));
        assert!(all.windows(2).all(|pair| pair[1].0 - pair[0].0 == 4_000), "{all:?}");
    }

    #[test]
    fn a_burst_is_due_at_once() {
        let burst = Arrival::Burst(NonZeroU32::new(16).expect("not zero"));
        let all = messages(schedules(burst, 16_000.0, 5, 2), Nanos(EPOCH.0 + 3_000_000));
        assert_eq!(all.len(), 48);
        assert!(
            all.iter().enumerate().all(|(k, (due, _))| *due == k as u64 / 16 * 1_000_000),
            "{all:?}"
        );
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_their_law() {
        for threads in [1, 3] {
            let all = messages(
                schedules(Arrival::Poisson, 100_000.0, 9, threads),
                Nanos(EPOCH.0 + 1_000_000_000),
            );
            // 100,000 with a standard deviation of 316.
            assert!((98_500..101_500).contains(&all.len()), "{}", all.len());
            let gaps: Vec<f64> =
                all.windows(2).map(|pair| (pair[1].0 - pair[0].0) as f64).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance =
                gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            assert!((0.97..1.03).contains(&(variance.sqrt() / mean)), "{}", variance.sqrt() / mean);
            for connection in 0..9 {
                let share = all.iter().filter(|message| message.1 == connection).count();
                assert!((10_500..11_800).contains(&share), "{share}");
            }
            assert_eq!(
                all,
                messages(
                    schedules(Arrival::Poisson, 1e5, 9, threads),
                    Nanos(EPOCH.0 + 1_000_000_000)
                )
            );
        }
    }

    /// Each arrival is planned to the nanosecond, whichever process and thread sends it.
    #[test]
    fn shards_together_plan_what_one_process_plans() {
        let burst = Arrival::Burst(NonZeroU32::new(16).expect("not zero"));
        let end = Nanos(EPOCH.0 + 50_000_000);
        for arrival in [Arrival::Constant, Arrival::Poisson, burst] {
            for (connections, rate) in [(28, 100_000.0), (61, 33_333.3)] {
                let whole = messages(schedules(arrival, rate, connections, 1), end);
                assert!(whole.len() > 1000);
                for (count, threads) in [(1, 3), (2, 1), (3, 2), (4, 1), (4, 7), (7, 1), (7, 4)] {
                    let shards = (1..=count).flat_map(|number| {
                        let shard = ProcessShard::new(number, count).expect("a shard");
                        let load = Load { arrival, rate_per_s: Some(rate), ..Load::default() };
                        (0..threads).filter_map(move |worker| {
                            let part = shard.worker(worker, threads, connections);
                            Schedule::of(&load, EPOCH, part)
                        })
                    });
                    let union = messages(shards.collect(), end);
                    assert_eq!(union, whole, "{arrival}: {count} shards of {threads} threads");
                }
            }
        }
    }

    /// With stages too, whatever the arrivals.
    #[test]
    fn shards_together_plan_the_same_stages() {
        let burst = Arrival::Burst(NonZeroU32::new(16).expect("not zero"));
        for arrival in [Arrival::Constant, Arrival::Poisson, burst] {
            let load = staged(arrival);
            let of = |count: u32, threads: u32, connections: u32| {
                let shards = (1..=count).flat_map(|number| {
                    let shard = ProcessShard::new(number, count).expect("a shard");
                    (0..threads).map(move |worker| shard.worker(worker, threads, connections))
                });
                messages(
                    shards.filter_map(|part| Schedule::of(&load, EPOCH, part)).collect(),
                    Nanos(u64::MAX - 1),
                )
            };
            for connections in [28, 61] {
                let whole = of(1, 1, connections);
                assert!((40_000..42_000).contains(&whole.len()), "{arrival}: {}", whole.len());
                for (count, threads) in [(1, 3), (2, 1), (3, 2), (4, 7), (7, 4)] {
                    let union = of(count, threads, connections);
                    assert!(union == whole, "{arrival}: {count} shards of {threads} threads");
                }
            }
        }
    }

    #[test]
    fn planned_messages_are_counted_in_their_segments() {
        let curve = RateCurve::of(&staged(Arrival::Constant)).expect("stages");
        let (mut planned, mut rest) = (vec![0; curve.segments()], vec![0; curve.segments()]);
        for worker in 0..3 {
            let shard = Shard { worker, threads: 3, connections: 10 };
            let load = staged(Arrival::Constant);
            let mut schedule = Schedule::of(&load, EPOCH, shard).expect("an open loop");
            let before = schedule.clone();
            while schedule.due() != Nanos::NEVER {
                schedule.advance();
            }
            for (segment, count) in schedule.planned().iter().enumerate() {
                let (start, end) = curve.bounds(segment);
                planned[segment] += count;
                rest[segment] += before.until(EPOCH + end) - before.until(EPOCH + start);
            }
        }
        // The integrals: 70 and 100 ms of 1k, a ramp whose halves are 1/4 and 3/4, and so on.
        let halves = [70, 50, 50, 6_625, 18_875, 5_000, 5_000, 1_875, 625, 0, 0];
        assert_eq!((&planned[..11], &planned), (&halves[..], &rest));
        assert_eq!(planned[11..].iter().sum::<u64>(), 2_590, "of 2,589.97");
    }

    #[test]
    fn bursts_and_random_arrivals_follow_the_stages() {
        let shard = Shard { worker: 0, threads: 1, connections: 7 };
        let all = |arrival| {
            let schedule = Schedule::of(&staged(arrival), EPOCH, shard).expect("an open loop");
            messages(vec![schedule], Nanos(u64::MAX - 1))
        };
        let constant = all(Arrival::Constant);
        let burst = all(Arrival::Burst(NonZeroU32::new(16).expect("not zero")));
        for (k, (due, _)) in burst.iter().enumerate().take(constant.len()) {
            assert_eq!(*due, constant[k - k % 16].0);
        }
        // 25,500 in the ramp with a standard deviation of 160, and more than twice as many in its
        // second half.
        let random = all(Arrival::Poisson);
        let within = |from: u64, to: u64| {
            let span = from * 1_000_000..to * 1_000_000;
            random.iter().filter(|(due, _)| span.contains(due)).count()
        };
        let halves = [within(170, 670), within(670, 1170)];
        assert!((6_300..6_950).contains(&halves[0]), "{halves:?}");
        assert!((18_300..19_450).contains(&halves[1]), "{halves:?}");
        assert_eq!(within(1_470, 1_520), 0, "no messages where the rate is 0");
    }

    #[test]
    fn what_is_left_is_counted_without_walking_there() {
        let mut schedules = schedules(Arrival::Constant, 1e6, 64, 1);
        let schedule = &mut schedules[0];
        (0..1000).for_each(|_| schedule.advance());
        assert_eq!(schedule.until(Nanos(EPOCH.0 + 3_600_000_000_000)), 3_600_000_000 - 1000);
        assert_eq!(schedule.until(EPOCH), 0);
    }
}

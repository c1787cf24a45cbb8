//! Times at which the messages of an open loop are due.
//!
//! A schedule stores only the next message of its worker and calculates the ones after it. So late
//! messages take no memory, and none is omitted. Message `k` of the run belongs to connection `k
//! mod c`; connection `i` belongs to worker `i mod t`. Hence each worker's messages lie evenly
//! among those of the others, and no worker needs to know how far the others are.
//!
//! Poisson arrivals are a process of each connection, with a random sequence of its own. Their sum
//! is a Poisson process. So no planned time depends on the number of workers.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use engine::Nanos;

use super::random::Random;
use crate::load::Arrival;

/// The part of a schedule that one worker sends.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    arrival: Arrival,
    epoch: Nanos,
    /// Nanoseconds from one message of the run to the next, on average.
    gap: f64,
    shard: Shard,
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

/// The next message of a connection with random arrivals.
#[derive(Clone, Debug)]
struct NextArrival {
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
    /// Returns a schedule of `rate_per_s` messages over all connections, from `epoch` on.
    pub(crate) fn new(
        arrival: Arrival,
        rate_per_s: f64,
        epoch: Nanos,
        shard: Shard,
        seed: u64,
    ) -> Self {
        let mut schedule = Self {
            arrival,
            epoch,
            gap: 1e9 / rate_per_s,
            shard,
            arrivals: BinaryHeap::new(),
            link: 0,
            round: 0,
            offset: 0.0,
        };
        match arrival {
            Arrival::Poisson => schedule.begin_random(seed),
            Arrival::Constant | Arrival::Burst(_) => schedule.compute(),
        }
        schedule
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
        if self.arrival == Arrival::Poisson {
            return self.draw();
        }
        self.link += 1;
        if self.link == self.shard.count() {
            self.link = 0;
            self.round += 1;
        }
        self.compute();
    }

    /// Counts the messages that are still due before `end`, or the expected number of them.
    pub(crate) fn until(&self, end: Nanos) -> u64 {
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
        let schedule = |w| Schedule::new(arrival, rate, EPOCH, shard(w), 1);
        (0..threads).map(schedule).collect()
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
                        (0..threads).map(move |worker| {
                            let part = shard.worker(worker, threads, connections);
                            Schedule::new(arrival, rate, EPOCH, part, 1)
                        })
                    });
                    let union = messages(shards.collect(), end);
                    assert_eq!(union, whole, "{arrival}: {count} shards of {threads} threads");
                }
            }
        }
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

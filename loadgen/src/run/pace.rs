//! Comparison of an open loop's echoes with its plan.
//!
//! A server that is too slow answers fewer messages than are planned, for the whole time. So echoes are
//! counted in two periods and compared with the messages planned in the same time. The first is from the
//! middle of the load (warm-up included) to the end of the window, the second from the middle of the window
//! to its end. The number of outstanding messages at the border does not matter: a server that keeps up has
//! as many outstanding at the end, however long each of them takes.

use engine::Nanos;

/// Share of the planned messages that must come back.
const SHARE: f64 = 0.99;
/// Standard deviations by which the number of outstanding messages may differ between the two ends by chance.
const DEVIATIONS: f64 = 3.0;

/// Messages planned and received from a border to the end of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Messages planned in that time.
    pub(crate) planned: u64,
    /// Echoes received in that time, whenever their messages were planned.
    pub(crate) received: u64,
    /// Messages sent and without an echo at the border.
    pub(crate) under_way: u64,
}

impl Pace {
    pub(crate) fn add(&mut self, other: Self) {
        self.planned += other.planned;
        self.received += other.received;
        self.under_way += other.under_way;
    }

    /// Returns true where the echoes keep up with a plan that has `burst` messages at once.
    pub(crate) fn is_kept(self, burst: u32) -> bool {
        let missing = self.planned.saturating_sub(self.received) as f64;
        // The number of outstanding messages fluctuates by its square root. An excess over a quarter of the
        // plan is a backlog, not a fluctuation.
        let under_way = (self.under_way as f64).min(self.planned as f64 / 4.0);
        let chance = f64::from(burst) + DEVIATIONS * under_way.sqrt();
        missing <= (1.0 - SHARE) * self.planned as f64 + chance
    }
}

/// One worker's part of the paces.
#[derive(Clone, Debug)]
pub(crate) struct PaceMeter {
    /// The two borders, and the end of the window.
    marks: [Nanos; 3],
    /// Echoes and outstanding messages at each mark, once it was passed.
    readings: [Option<(u64, u64)>; 3],
    planned: [u64; 2],
}

impl PaceMeter {
    /// Returns a meter for a load that begins at `epoch`, with a window from `start` to `end`.
    pub(crate) fn new(epoch: Nanos, start: Nanos, end: Nanos) -> Self {
        let middle = |from: Nanos| Nanos(from.0.midpoint(end.0));
        Self { marks: [middle(epoch), middle(start), end], readings: [None; 3], planned: [0; 2] }
    }

    /// Returns the next point in time at which [`read`](Self::read) is to be called.
    pub(crate) fn next(&self) -> Nanos {
        let next = self.readings.iter().position(Option::is_none);
        next.map_or(Nanos::NEVER, |index| self.marks[index])
    }

    /// Notes that, at `now`, `received` echoes have come and `under_way` messages are without one.
    pub(crate) fn read(&mut self, now: Nanos, received: u64, under_way: u64) {
        for (mark, reading) in self.marks.iter().zip(&mut self.readings) {
            if now >= *mark && reading.is_none() {
                *reading = Some((received, under_way));
            }
        }
    }

    /// Counts messages that were planned, due at this time.
    #[inline]
    pub(crate) fn plan(&mut self, due: Nanos, count: u64) {
        self.planned[0] += if due >= self.marks[0] { count } else { 0 };
        self.planned[1] += if due >= self.marks[1] { count } else { 0 };
    }

    /// Returns the two borders.
    pub(crate) fn borders(&self) -> [Nanos; 2] {
        [self.marks[0], self.marks[1]]
    }

    /// Counts messages that were planned after each border and never sent.
    pub(crate) fn plan_rest(&mut self, rest: [u64; 2]) {
        self.planned = [self.planned[0] + rest[0], self.planned[1] + rest[1]];
    }

    /// Returns both paces; empty where the window was cut short.
    pub(crate) fn paces(&self) -> [Pace; 2] {
        let Some((total, _)) = self.readings[2] else { return [Pace::default(); 2] };
        let pace = |index: usize| {
            let (before, under_way) = self.readings[index].unwrap_or_default();
            Pace { planned: self.planned[index], received: total - before, under_way }
        };
        [pace(0), pace(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the paces of a load at `rate` messages a second with `capacity` answers a second. Each answer
    /// comes `latency_s` after its message was sent, where there is no backlog.
    fn paces(rate: f64, capacity: f64, latency_s: f64, warmup_s: f64, window_s: f64) -> [Pace; 2] {
        let (start, end) = (warmup_s, warmup_s + window_s);
        let answers = |at: f64| ((at - latency_s).max(0.0) * rate.min(capacity)).floor() as u64;
        let planned = |at: f64| (at * rate).ceil() as u64;
        let pace = |from: f64| Pace {
            planned: planned(end) - planned(from),
            received: answers(end) - answers(from),
            under_way: planned(from) - answers(from),
        };
        [pace(end / 2.0), pace(f64::midpoint(start, end))]
    }

    fn is_kept(paces: [Pace; 2]) -> bool {
        paces.iter().all(|pace| pace.is_kept(1))
    }

    #[test]
    fn finds_overload_at_any_length_of_warmup_and_window() {
        for rate in [100.0, 1000.0, 50_000.0, 1e6] {
            for share in [0.05, 0.3, 0.7, 0.9] {
                for warmup in [0.0, 0.5, 1.0, 2.0, 10.0] {
                    for window in [1.0, 2.0, 4.0, 30.0] {
                        let paces = paces(rate, rate * share, 0.001, warmup, window);
                        let enough = rate * (warmup + window) / 2.0 * (1.0 - share) > 30.0;
                        assert!(!enough || !is_kept(paces), "{rate} {share} {warmup} {window}: {paces:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn keeps_a_server_that_is_slow_and_keeps_up() {
        for rate in [1.0, 20.0, 1000.0, 50_000.0] {
            for latency in [0.0001, 0.02, 0.2, 0.45] {
                for (warmup, window) in [(0.0, 1.0), (0.5, 2.0), (2.0, 10.0)] {
                    let paces = paces(rate, f64::INFINITY, latency, warmup, window);
                    assert!(is_kept(paces), "{rate} {latency} {warmup} {window}: {paces:?}");
                }
            }
        }
    }

    #[test]
    fn a_worker_reads_at_the_borders() {
        let mut meter = PaceMeter::new(Nanos(0), Nanos(100), Nanos(300));
        assert_eq!(meter.next(), Nanos(150));
        (0..30).for_each(|i| meter.plan(Nanos(10 * i), 1));
        meter.read(Nanos(155), 12, 3);
        assert_eq!(meter.next(), Nanos(200));
        meter.read(Nanos(310), 27, 1);
        assert_eq!(meter.next(), Nanos::NEVER);
        let expected = [
            Pace { planned: 15, received: 15, under_way: 3 },
            Pace { planned: 10, received: 0, under_way: 1 },
        ];
        assert_eq!(meter.paces(), expected);
    }

    #[test]
    fn a_window_cut_short_is_not_judged() {
        let mut meter = PaceMeter::new(Nanos(0), Nanos(100), Nanos(300));
        meter.plan(Nanos(250), 1000);
        meter.read(Nanos(220), 1, 1);
        assert_eq!(meter.paces(), [Pace::default(); 2]);
    }
}

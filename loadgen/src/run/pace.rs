//! Comparison of an open loop's echoes with its plan.
//!
//! A server that is too slow answers fewer messages than are planned, for the whole time. So echoes
//! are counted in two periods and compared with the messages planned in the same time. The first is
//! from the middle of the load (warm-up included) to the end of the window, the second from the
//! middle of the window to its end. The number of outstanding messages at the border does not
//! matter: a server that keeps up has as many outstanding at the end, however long each of them
//! takes.

use engine::Nanos;

/// Share of the planned messages that must come back.
const SHARE: f64 = 0.99;
/// Standard deviations by which the outstanding messages at both ends may differ.
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

    /// Returns true if the echoes keep up with a plan that has `burst` messages at once.
    pub(crate) fn is_kept(self, burst: u32) -> bool {
        self.is_kept_while_growing(burst, 0.0)
    }

    /// Returns true if the echoes keep up with a plan whose rate rises, so that the outstanding
    /// messages of a server that keeps up grow by this number.
    pub(crate) fn is_kept_while_growing(self, burst: u32, growth: f64) -> bool {
        let missing = self.planned.saturating_sub(self.received) as f64;
        // The number of outstanding messages fluctuates by its square root. An excess over a
        // quarter of the plan is a backlog, not a fluctuation.
        let under_way = (self.under_way as f64).min(self.planned as f64 / 4.0);
        let chance = f64::from(burst) + DEVIATIONS * under_way.sqrt();
        missing <= (1.0 - SHARE) * self.planned as f64 + chance + growth
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PaceMeter {
    borders: [Nanos; 2],
    /// End of the judged time, where it is known.
    end: Nanos,
    /// Echoes, and messages under way, at each border once it has passed.
    readings: [Option<(u64, u64)>; 2],
    /// Echoes at the end, once it has passed.
    total: Option<u64>,
    planned: [u64; 2],
}

impl PaceMeter {
    /// Returns a meter for a load that begins at `epoch`, with a window from `start` to `end`.
    /// Where `is_limited`, the number of messages is limited, and [`finish`](Self::finish) ends the
    /// judged time.
    pub(crate) fn new(epoch: Nanos, start: Nanos, end: Nanos, is_limited: bool) -> Self {
        let middle = |from: Nanos| Nanos(from.0.midpoint(end.0));
        let borders = [middle(epoch), middle(start)];
        let end = if is_limited { Nanos::NEVER } else { end };
        Self { borders, end, readings: [None; 2], total: None, planned: [0; 2] }
    }

    /// Returns the next point in time at which [`read`](Self::read) is to be called.
    pub(crate) fn next(&self) -> Nanos {
        if self.total.is_some() {
            return Nanos::NEVER;
        }
        let next = self.readings.iter().position(Option::is_none);
        next.map_or(self.end, |index| self.borders[index])
    }

    /// Notes that, at `now`, `received` echoes have come and `under_way` messages are without one.
    pub(crate) fn read(&mut self, now: Nanos, received: u64, under_way: u64) {
        for (border, reading) in self.borders.iter().zip(&mut self.readings) {
            if now >= *border && reading.is_none() && self.total.is_none() {
                *reading = Some((received, under_way));
            }
        }
        if now >= self.end {
            self.finish(received);
        }
    }

    /// Ends the judged time, where it has not ended yet, when `received` echoes have come.
    pub(crate) fn finish(&mut self, received: u64) {
        self.total.get_or_insert(received);
    }

    /// Counts messages that were planned, due at this time.
    #[inline]
    pub(crate) fn plan(&mut self, due: Nanos, count: u64) {
        self.planned[0] += if due >= self.borders[0] { count } else { 0 };
        self.planned[1] += if due >= self.borders[1] { count } else { 0 };
    }

    /// Counts messages that were planned after each border and never sent.
    pub(crate) fn plan_rest(&mut self, rest_after: impl Fn(Nanos) -> u64) {
        let planned = self.planned.iter_mut().zip(self.borders);
        planned.for_each(|(planned, border)| *planned += rest_after(border));
    }

    /// Returns both paces; an empty one where the load ended before its border.
    pub(crate) fn paces(&self) -> [Pace; 2] {
        let pace = |index: usize| match (self.readings[index], self.total) {
            (Some((before, under_way)), Some(total)) => {
                Pace { planned: self.planned[index], received: total - before, under_way }
            }
            _ => Pace::default(),
        };
        [pace(0), pace(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the paces of a load at `rate` messages a second with `capacity` answers a second.
    /// Each answer comes `latency_s` after its message was sent, where there is no backlog.
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
                        assert!(
                            !enough || !is_kept(paces),
                            "{rate} {share} {warmup} {window}: {paces:?}"
                        );
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
        let mut meter = PaceMeter::new(Nanos(0), Nanos(100), Nanos(300), false);
        assert_eq!(meter.next(), Nanos(150));
        (0..30).for_each(|i| meter.plan(Nanos(10 * i), 1));
        meter.read(Nanos(155), 12, 3);
        assert_eq!(meter.next(), Nanos(200));
        meter.read(Nanos(310), 27, 1);
        let expected = [
            Pace { planned: 15, received: 15, under_way: 3 },
            Pace { planned: 10, received: 0, under_way: 1 },
        ];
        assert_eq!(meter.paces(), expected);
    }

    #[test]
    fn a_window_cut_short_is_judged_from_the_borders_that_have_passed() {
        let mut meter = PaceMeter::new(Nanos(0), Nanos(100), Nanos(300), false);
        meter.plan(Nanos(160), 1000);
        meter.read(Nanos(180), 5, 1);
        meter.finish(15);
        assert_eq!(meter.next(), Nanos::NEVER, "a border that is not read any more wakes nobody");
        meter.read(Nanos(400), 900, 1);
        let judged = Pace { planned: 1000, received: 10, under_way: 1 };
        assert_eq!(meter.paces(), [judged, Pace::default()]);
        assert!(!judged.is_kept(1));
    }

    #[test]
    fn a_limited_number_of_messages_is_judged_when_the_last_is_sent() {
        let mut meter = PaceMeter::new(Nanos(0), Nanos(0), Nanos(100), true);
        meter.plan(Nanos(60), 50);
        meter.read(Nanos(50), 40, 2);
        // The last one is due later than the average would have it.
        meter.read(Nanos(105), 60, 2);
        meter.finish(70);
        assert_eq!(meter.paces()[1], Pace { planned: 50, received: 30, under_way: 2 });
    }
}

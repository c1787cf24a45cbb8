//! What one worker counts.

use engine::Nanos;
use hdrhistogram::Histogram;

use crate::result::{Errors, Integrity, Second};

/// The longest latency that is told apart; longer ones count as this.
const LONGEST_NS: u64 = 60_000_000_000;

/// An empty histogram of latencies in nanoseconds: 1 ns to 60 s, three digits, 221 KB.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are constant and legal")
}

/// One worker's counts; the sum of all workers' is the run's.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Sent to received, of messages received in the window.
    pub(crate) latency: Histogram<u64>,
    /// Start of connecting to open.
    pub(crate) connect: Histogram<u64>,
    /// Messages sent, over the whole run and in the window.
    pub(crate) sent: Count,
    /// Echoes received; one that came again counts neither here nor in `latency`.
    pub(crate) received: Count,
    pub(crate) errors: Errors,
    pub(crate) integrity: Integrity,
    /// One entry for each second that the window may have.
    pub(crate) series: Vec<Second>,
}

/// A count over the whole run, and the part of it in the window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) total: u64,
    pub(crate) measured: u64,
}

impl Tally {
    /// Empty, for a window of at most `seconds`.
    pub(crate) fn new(seconds: u32) -> Self {
        Self {
            latency: histogram(),
            connect: histogram(),
            sent: Count::default(),
            received: Count::default(),
            errors: Errors::default(),
            integrity: Integrity::default(),
            series: (0..seconds).map(|second| Second { second, ..Second::default() }).collect(),
        }
    }

    /// Messages were sent, in this second of the window if in any.
    #[inline]
    pub(crate) fn sent(&mut self, count: u32, second: Option<u32>) {
        let count = u64::from(count);
        self.sent.total += count;
        if let Some(second) = second {
            self.sent.measured += count;
            if let Some(entry) = self.series.get_mut(second as usize) {
                entry.sent += count;
            }
        }
    }

    /// An echo came back after `latency`, in this second of the window if in any.
    #[inline]
    pub(crate) fn received(&mut self, latency_ns: u64, second: Option<u32>) {
        self.received.total += 1;
        if let Some(second) = second {
            self.received.measured += 1;
            self.latency.saturating_record(latency_ns);
            if let Some(entry) = self.series.get_mut(second as usize) {
                entry.received += 1;
                entry.max = entry.max.max(Some(latency_ns));
            }
        }
    }

    /// A connection opened `latency` after it was begun.
    pub(crate) fn connected(&mut self, began: Nanos, now: Nanos) {
        self.connect.saturating_record(duration_ns(began, now));
    }

    /// Something went wrong, in this second of the window if in any; what exactly is counted by the caller.
    pub(crate) fn failed(&mut self, second: Option<u32>) {
        if let Some(entry) = second.and_then(|second| self.series.get_mut(second as usize)) {
            entry.errors += 1;
        }
    }

    /// Errors and integrity faults of any kind so far.
    #[inline]
    pub(crate) fn faults(&self) -> u64 {
        self.errors.total() + self.integrity.total()
    }

    /// Adds another worker's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        let same_bounds = "all histograms of a run have the same bounds";
        self.latency.add(&other.latency).expect(same_bounds);
        self.connect.add(&other.connect).expect(same_bounds);
        self.sent.add(other.sent);
        self.received.add(other.received);
        add_errors(&mut self.errors, other.errors);
        add_integrity(&mut self.integrity, other.integrity);
        for (sum, part) in self.series.iter_mut().zip(&other.series) {
            sum.sent += part.sent;
            sum.received += part.received;
            sum.errors += part.errors;
            sum.max = sum.max.max(part.max);
        }
    }
}

impl Count {
    fn add(&mut self, other: Self) {
        self.total += other.total;
        self.measured += other.measured;
    }
}

/// From `earlier` to `later`, at least one nanosecond: the histogram has no zero.
#[inline]
pub(crate) fn duration_ns(earlier: Nanos, later: Nanos) -> u64 {
    later.0.saturating_sub(earlier.0).max(1)
}

fn add_errors(sum: &mut Errors, part: Errors) {
    let Errors { connect, handshake, protocol, closed, io, timeout } = part;
    sum.connect += connect;
    sum.handshake += handshake;
    sum.protocol += protocol;
    sum.closed += closed;
    sum.io += io;
    sum.timeout += timeout;
}

fn add_integrity(sum: &mut Integrity, part: Integrity) {
    let Integrity { lost, duplicated, reordered, corrupted, wrong_opcode } = part;
    sum.lost += lost;
    sum.duplicated += duplicated;
    sum.reordered += reordered;
    sum.corrupted += corrupted;
    sum.wrong_opcode += wrong_opcode;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_window_is_measured() {
        let mut tally = Tally::new(2);
        tally.sent(1, None);
        tally.sent(1, Some(0));
        tally.received(10, None);
        tally.received(20, Some(1));
        tally.received(30, Some(1));
        tally.received(70_000_000_000, Some(2));
        assert_eq!((tally.sent.total, tally.sent.measured), (2, 1));
        assert_eq!((tally.received.total, tally.received.measured), (4, 3));
        assert_eq!(tally.latency.len(), tally.received.measured);
        assert_eq!((tally.series[1].received, tally.series[1].max), (2, Some(30)));
        assert_eq!(tally.series[0].max, None);
    }

    #[test]
    fn the_sum_of_workers_is_the_runs() {
        let mut a = Tally::new(1);
        let mut b = Tally::new(1);
        a.received(10, Some(0));
        b.received(30, Some(0));
        b.sent(1, Some(0));
        b.errors.closed = 2;
        b.integrity.lost = 3;
        b.failed(Some(0));
        b.connected(Nanos(5), Nanos(5));
        a.add(&b);
        assert_eq!((a.latency.len(), a.received.measured, a.sent.measured), (2, 2, 1));
        assert_eq!((a.faults(), a.connect.len()), (5, 1));
        let expected =
            Second { second: 0, sent: 1, received: 2, errors: 1, max: Some(30), p50: None, p99: None };
        assert_eq!(a.series, [expected]);
    }
}

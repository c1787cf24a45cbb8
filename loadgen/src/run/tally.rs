//! Counts of one worker.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::Nanos;
use hdrhistogram::{Counter, CreationError, Histogram};
use protocol::handshake::deflate::Parameters;

use super::client::OpeningTimes;
use super::ledger::Times;
use super::pace::Pace;
use super::stage_tally::StageTallies;
use crate::load::Load;
use crate::result::{CompressedMessages, Errors, Integrity, Messages, Pings, Second, percentile};

/// Longest latency that a histogram holds without growing: 60 s.
const USUAL_NS: u64 = 60_000_000_000;

/// Seconds of a window that have a histogram of their own, at most: an hour, 55 MB for each worker.
const MAX_INTERVALS: u32 = 3600;

/// Entries of a series, at most: a day. A longer window has a shorter series than itself.
const MAX_SERIES: u32 = 24 * 3600;

/// Returns an empty histogram of latencies in nanoseconds: from 1 ns on, three digits, 221 KB up to
/// 60 s. It grows with longer latencies.
pub(crate) fn histogram() -> Histogram<u64> {
    growing(Histogram::new_with_bounds(1, USUAL_NS, 3))
}

/// Returns the same with two digits, 30 KB.
pub(crate) fn coarse_histogram() -> Histogram<u64> {
    growing(Histogram::new_with_bounds(1, USUAL_NS, 2))
}

/// The histogram of one second: two digits and smaller counts, 15 KB.
pub(crate) type Interval = Histogram<u32>;

pub(crate) fn interval() -> Box<Interval> {
    Box::new(growing(Histogram::new_with_bounds(1, USUAL_NS, 2)))
}

fn growing<C: Counter>(histogram: Result<Histogram<C>, CreationError>) -> Histogram<C> {
    let mut histogram = histogram.expect("the bounds are constant and legal");
    histogram.auto(true);
    histogram
}

pub(crate) const GROWS: &str = "a histogram that grows takes every value";

/// One worker's counts; the sum of all workers' is the run's.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Time from the send to the echo, of messages received in the window. In an open loop from the
    /// planned time, of messages planned in the window.
    pub(crate) latency: Histogram<u64>,
    /// The parts of the latency in an open loop. A worker with stages has them in `staged` until
    /// it ends.
    pub(crate) parts: Option<Parts>,
    /// Counts of each stage; `None` for a load without stages.
    pub(crate) staged: Option<Box<Staged>>,
    /// Time from the start of connecting to the open connection; its parts follow. It covers the
    /// connections that were opened before the load. If connections are replaced during the load,
    /// it covers those opened in the window.
    pub(crate) connect: Histogram<u64>,
    pub(crate) tcp_connect: Histogram<u64>,
    pub(crate) tls_handshake: Histogram<u64>,
    /// Whole and resumed TLS handshakes apart, where sessions are resumed.
    pub(crate) tls_kinds: Option<Box<[Histogram<u64>; 2]>>,
    pub(crate) handshake: Histogram<u64>,
    /// Time from there to the end of the first messages; `None` where the load has none.
    pub(crate) first_messages: Option<Histogram<u64>>,
    /// Connections that were complete in the window and were closed for another.
    pub(crate) cycles: u64,
    pub(crate) pings: Pings,
    /// Messages that an open loop planned in the window.
    pub(crate) offered: u64,
    /// Messages sent, over the whole run and in the window.
    pub(crate) sent: Count,
    /// Echoes received; one that came again counts neither here nor in `latency`.
    pub(crate) received: Count,
    /// Bytes of the answers in the window, where they are not generated messages.
    pub(crate) answer_bytes: u64,
    /// Messages whose echo was received and is wrong; included in `received`.
    pub(crate) wrong: u64,
    /// Messages that were planned and not sent, over the whole run.
    pub(crate) not_sent: u64,
    /// Messages without an echo at the end, on connections that were open.
    pub(crate) outstanding: Outstanding,
    /// Time for which each connection had waited for its oldest echo when the window ended.
    pub(crate) waiting: Histogram<u32>,
    /// Paces of an open loop's echoes against its plan.
    pub(crate) paces: [Pace; 2],
    /// Connections that ended before they were complete.
    pub(crate) ends: u64,
    /// Failed attempts to open a connection.
    pub(crate) unopened: u64,
    /// Periods in which a connection was down and being reopened.
    pub(crate) outages: Spans,
    /// Description of the first count that does not add up, if there is one.
    pub(crate) imbalance: Option<String>,
    pub(crate) errors: Errors,
    pub(crate) integrity: Integrity,
    pub(crate) compression: CompressionTally,
    /// Faults that the server says connections have, up to a bound.
    pub(crate) faults: BTreeSet<String>,
    /// One entry for each second that the window may have.
    pub(crate) series: Vec<Second>,
    /// The latencies of each second of `series`, up to [`MAX_INTERVALS`].
    pub(crate) intervals: Vec<Option<Box<Interval>>>,
    /// A connection of an open loop had as much outstanding as it may.
    pub(crate) was_full: bool,
    /// Periods within the window in which a worker should have run and did not.
    pub(crate) standstill: Spans,
    pub(crate) clock_went_back: bool,
    /// Echoes with the same latency in the same second, entered together.
    repeated: RepeatedSample,
    /// Second in which echoes of a closed loop count that come after the window. Their messages
    /// were outstanding when it ended. Their latencies belong to the result, or a server that
    /// answers late would look fast.
    last_second: Option<u32>,
}

/// Messages without an echo at the end of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outstanding {
    pub(crate) count: u64,
    /// Messages that are in the latencies, with their age as a lower bound.
    pub(crate) in_latency: u64,
    /// Age of the youngest of these, in nanoseconds.
    pub(crate) youngest_ns: Option<u64>,
}

/// Number and lengths of periods of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans {
    pub(crate) count: u64,
    pub(crate) total: Duration,
    pub(crate) longest: Duration,
}

impl Spans {
    pub(crate) fn add(&mut self, span: Duration) {
        self.merge(Self { count: 1, total: span, longest: span });
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }
}

/// The two parts of a latency in an open loop.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) uncorrected: Histogram<u64>,
    pub(crate) lag: Histogram<u64>,
}

impl Parts {
    fn new() -> Self {
        Self { uncorrected: histogram(), lag: histogram() }
    }

    #[inline]
    pub(super) fn record(&mut self, due: Nanos, sent: Nanos, now: Nanos) {
        self.uncorrected.record(duration_ns(sent, now)).expect(GROWS);
        self.lag.record(duration_ns(due, sent)).expect(GROWS);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.uncorrected.add(&other.uncorrected).expect(GROWS);
        self.lag.add(&other.lag).expect(GROWS);
    }
}

/// Counts of a load with stages.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) stages: Box<StageTallies>,
    parts: Parts,
}

#[derive(Clone, Copy, Debug, Default)]
struct RepeatedSample {
    latency_ns: u64,
    second: Option<u32>,
    count: u64,
}

/// A count over the whole run, and the part of it in the window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) total: u64,
    pub(crate) measured: u64,
}

impl Tally {
    /// Returns the empty tally of a load whose window is at most [`Load::measure`] long.
    pub(crate) fn for_load(load: &Load) -> Self {
        let seconds = load.measure.as_nanos().div_ceil(1_000_000_000);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX).min(MAX_SERIES);
        let mut tally = Self::new(seconds, load.is_open_loop());
        tally.first_messages = load.has_first_messages().then(histogram);
        tally.tls_kinds =
            (load.tls_resume_percent > 0).then(|| Box::new([histogram(), histogram()]));
        if let Some(stages) = StageTallies::for_load(load) {
            let parts = tally.parts.take().unwrap_or_else(Parts::new);
            tally.staged = Some(Box::new(Staged { stages, parts }));
        }
        tally
    }

    pub(super) fn new(seconds: u32, is_open_loop: bool) -> Self {
        Self {
            latency: histogram(),
            parts: is_open_loop.then(Parts::new),
            staged: None,
            connect: histogram(),
            tcp_connect: histogram(),
            tls_handshake: histogram(),
            tls_kinds: None,
            handshake: histogram(),
            first_messages: None,
            cycles: 0,
            pings: Pings::default(),
            offered: 0,
            sent: Count::default(),
            received: Count::default(),
            answer_bytes: 0,
            wrong: 0,
            not_sent: 0,
            outstanding: Outstanding::default(),
            waiting: *interval(),
            paces: [Pace::default(); 2],
            ends: 0,
            unopened: 0,
            outages: Spans::default(),
            imbalance: None,
            errors: Errors::default(),
            integrity: Integrity::default(),
            compression: CompressionTally::default(),
            faults: BTreeSet::new(),
            series: (0..seconds).map(|second| Second { second, ..Second::default() }).collect(),
            intervals: (0..seconds.min(MAX_INTERVALS)).map(|_| None).collect(),
            was_full: false,
            standstill: Spans::default(),
            clock_went_back: false,
            repeated: RepeatedSample::default(),
            last_second: None,
        }
    }

    /// Counts sent messages, in this second of the window if in any.
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

    /// Counts an echo of a closed loop, in this second of the window if in any.
    ///
    /// Messages that left in one send come back in one read: their latency is the same, and one
    /// entry does for all.
    #[inline]
    pub(crate) fn received(&mut self, latency_ns: u64, second: Option<u32>) {
        if latency_ns != self.repeated.latency_ns || second != self.repeated.second {
            self.enter_repeated();
            (self.repeated.latency_ns, self.repeated.second) = (latency_ns, second);
        }
        self.repeated.count += 1;
    }

    /// Enters echoes that were held back, at the end of every turn.
    #[inline]
    pub(crate) fn enter_repeated(&mut self) {
        let RepeatedSample { latency_ns, second, count } = self.repeated;
        if count == 0 {
            return;
        }
        self.repeated.count = 0;
        self.arrived(count, second);
        if let Some(second) = second.or(self.last_second) {
            self.latency.record_n(latency_ns, count).expect(GROWS);
            self.in_second(second, latency_ns, count);
        }
    }

    /// Ends the window. The messages of later echoes were outstanding then. In a closed loop their
    /// latencies count in `last_second`, where there is one.
    pub(crate) fn end_window(&mut self, last_second: Option<u32>) {
        self.enter_repeated();
        self.last_second = last_second;
    }

    /// Records how long a connection had waited for its oldest echo at the window's end.
    pub(crate) fn waits_at_end(&mut self, waited: Duration) {
        self.waiting
            .record(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX).max(1))
            .expect(GROWS);
    }

    /// Records a message without an echo at the end: a latency of at least `age_ns`. `second` is
    /// the second of the window that the message counts in, if it counts in one.
    pub(crate) fn unanswered(&mut self, age_ns: u64, second: Option<u32>) {
        self.outstanding.count += 1;
        let Some(second) = second else { return };
        self.latency.record(age_ns).expect(GROWS);
        self.in_second(second, age_ns, 1);
        self.outstanding.merge(Outstanding { count: 0, in_latency: 1, youngest_ns: Some(age_ns) });
    }

    pub(crate) fn messages(&self) -> Messages {
        Messages {
            planned: self.sent.total + self.not_sent,
            not_sent: self.not_sent,
            sent: self.sent.total,
            echoed: self.received.total - self.wrong,
            wrong: self.wrong,
            lost: self.integrity.lost,
            outstanding: self.outstanding.count,
        }
    }

    /// Counts an echo of an open loop, by the seconds in which it was planned and arrived.
    #[inline]
    pub(crate) fn received_planned(
        &mut self,
        times: Times,
        now: Nanos,
        planned: Option<u32>,
        arrived: Option<u32>,
    ) {
        self.arrived(1, arrived);
        let Some(second) = planned else { return };
        let corrected = duration_ns(times.due, now);
        self.latency.record(corrected).expect(GROWS);
        self.in_second(second, corrected, 1);
        // The time of compressing is added for a whole turn, and an echo may be back before.
        let sent = times.sent.min(now);
        match &mut self.parts {
            Some(parts) => parts.record(times.due, sent, now),
            None => self.received_in_stage(times, sent, now),
        }
    }

    #[cold]
    fn received_in_stage(&mut self, times: Times, sent: Nanos, now: Nanos) {
        if let Some(staged) = &mut self.staged {
            staged.parts.record(times.due, sent, now);
            staged.stages.received(times, sent, now);
        }
    }

    /// Puts the parts of the latency in their place, at the end of a worker with stages.
    pub(crate) fn finish_stages(&mut self) {
        if let Some(staged) = &mut self.staged {
            self.parts = Some(std::mem::replace(&mut staged.parts, Parts::new()));
        }
    }

    #[inline]
    fn arrived(&mut self, count: u64, second: Option<u32>) {
        self.received.total += count;
        if let Some(second) = second {
            self.received.measured += count;
            if let Some(entry) = self.series.get_mut(second as usize) {
                entry.received += count;
            }
        }
    }

    #[inline]
    fn in_second(&mut self, second: u32, latency_ns: u64, count: u64) {
        if let Some(entry) = self.series.get_mut(second as usize) {
            entry.max = entry.max.max(Some(latency_ns));
        }
        if let Some(histogram) = self.intervals.get_mut(second as usize) {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            histogram.get_or_insert_with(interval).record_n(latency_ns, count).expect(GROWS);
        }
    }

    pub(crate) fn opened(&mut self, times: OpeningTimes, is_resumed: bool, now: Nanos) {
        let OpeningTimes { began, connected, secured } = times;
        self.connect.record(duration_ns(began, now)).expect(GROWS);
        self.tcp_connect.record(duration_ns(began, connected)).expect(GROWS);
        if secured > connected {
            self.tls_handshake.record(duration_ns(connected, secured)).expect(GROWS);
            if let Some(kinds) = &mut self.tls_kinds {
                let kind = &mut kinds[usize::from(is_resumed)];
                kind.record(duration_ns(connected, secured)).expect(GROWS);
            }
        }
        self.handshake.record(duration_ns(secured, now)).expect(GROWS);
    }

    /// Counts the time that the first messages of a connection took.
    pub(crate) fn exchanged(&mut self, began: Nanos, now: Nanos) {
        if let Some(histogram) = &mut self.first_messages {
            histogram.record(duration_ns(began, now)).expect(GROWS);
        }
    }

    pub(crate) fn forget_opened(&mut self) {
        let parts = [&mut self.tcp_connect, &mut self.tls_handshake, &mut self.handshake];
        let kinds = self.tls_kinds.iter_mut().flat_map(|kinds| kinds.iter_mut());
        let all = parts.into_iter().chain([&mut self.connect]).chain(&mut self.first_messages);
        all.chain(kinds).for_each(Histogram::reset);
    }

    /// Counts a fault, in this second of the window if in any; its kind is counted by the caller.
    pub(crate) fn failed(&mut self, second: Option<u32>) {
        if let Some(entry) = second.and_then(|second| self.series.get_mut(second as usize)) {
            entry.errors += 1;
        }
    }

    /// Returns the errors of connections and the wrong echoes so far. Messages that were lost with
    /// their connection are not counted again.
    #[inline]
    pub(crate) fn faults(&self) -> u64 {
        self.errors.total() + self.integrity.faults()
    }

    /// Returns the latencies of a second so far, where there were any.
    pub(crate) fn interval(&self, second: u32) -> Option<&Interval> {
        self.intervals.get(second as usize)?.as_deref()
    }

    /// Returns the series, with the percentiles that each second carries.
    pub(crate) fn seconds(&self) -> Vec<Second> {
        let each = self.series.iter().enumerate().map(|(index, second)| {
            let histogram = self.intervals.get(index).and_then(Option::as_deref);
            let quantile = |q| histogram.and_then(|histogram| percentile(histogram, q));
            Second { p50: quantile(0.5), p99: quantile(0.99), ..*second }
        });
        each.collect()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.latency, &other.latency),
            (&mut self.connect, &other.connect),
            (&mut self.tcp_connect, &other.tcp_connect),
            (&mut self.tls_handshake, &other.tls_handshake),
            (&mut self.handshake, &other.handshake),
        ] {
            sum.add(part).expect(GROWS);
        }
        if let (Some(sum), Some(part)) = (&mut self.first_messages, &other.first_messages) {
            sum.add(part).expect(GROWS);
        }
        self.answer_bytes += other.answer_bytes;
        if let Some(part) = &other.parts {
            self.parts.get_or_insert_with(Parts::new).add(part);
        }
        if let (Some(sum), Some(part)) = (&mut self.staged, &other.staged) {
            sum.stages.add(&part.stages);
        }
        if let (Some(sum), Some(part)) = (&mut self.tls_kinds, &other.tls_kinds) {
            sum.iter_mut().zip(&part[..]).for_each(|(sum, part)| sum.add(part).expect(GROWS));
        }
        for (sum, part) in [
            (&mut self.cycles, other.cycles),
            (&mut self.pings.sent, other.pings.sent),
            (&mut self.pings.answered, other.pings.answered),
            (&mut self.offered, other.offered),
            (&mut self.sent.total, other.sent.total),
            (&mut self.sent.measured, other.sent.measured),
            (&mut self.received.total, other.received.total),
            (&mut self.received.measured, other.received.measured),
            (&mut self.wrong, other.wrong),
            (&mut self.not_sent, other.not_sent),
            (&mut self.ends, other.ends),
            (&mut self.unopened, other.unopened),
        ] {
            *sum += part;
        }
        self.outstanding.merge(other.outstanding);
        self.waiting.add(&other.waiting).expect(GROWS);
        self.paces.iter_mut().zip(other.paces).for_each(|(sum, part)| sum.add(part));
        self.outages.merge(other.outages);
        self.standstill.merge(other.standstill);
        self.imbalance = self.imbalance.take().or_else(|| other.imbalance.clone());
        self.errors += other.errors;
        self.integrity += other.integrity;
        self.compression.merge(&other.compression);
        other.faults.iter().for_each(|faults| self.add_faults(faults));
        self.was_full |= other.was_full;
        self.clock_went_back |= other.clock_went_back;
        self.series.iter_mut().zip(&other.series).for_each(|(sum, part)| add_second(sum, part));
        for (sum, part) in self.intervals.iter_mut().zip(&other.intervals) {
            if let Some(part) = part {
                sum.get_or_insert_with(interval).add(&**part).expect(GROWS);
            }
        }
    }
}

/// Counts of compressed messages, over the whole run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CompressionTally {
    /// Answer of the first connection that was opened: parameters, or `None` inside where the
    /// server declined. `None` outside: none was opened.
    pub(crate) answer: Option<Option<Parameters>>,
    /// True if another connection got another answer.
    pub(crate) is_mixed: bool,
    pub(crate) sent: CompressedMessages,
    pub(crate) sent_uncompressed: u64,
    /// Messages that were compressed while they were sent.
    pub(crate) compressed_on_send: u64,
    pub(crate) received: CompressedMessages,
    pub(crate) same_bytes: u64,
    pub(crate) inflated: u64,
    pub(crate) received_uncompressed: u64,
}

impl Tally {
    /// Most different faults that are kept.
    pub(crate) const MAX_FAULTS: usize = 4;

    /// Records the faults that the server says a connection has.
    pub(crate) fn add_faults(&mut self, faults: &str) {
        if self.faults.len() < Self::MAX_FAULTS && !self.faults.contains(faults) {
            self.faults.insert(faults.to_owned());
        }
    }
}

impl CompressionTally {
    /// Notes the server's answer to the offer on one connection.
    pub(crate) fn answered(&mut self, answer: Option<Parameters>) {
        self.is_mixed |= *self.answer.get_or_insert(answer) != answer;
    }

    /// Counts a compressed message that was sent.
    #[inline]
    pub(crate) fn has_sent(&mut self, payload_len: usize, message_len: usize) {
        self.sent.messages += 1;
        self.sent.payload_bytes += payload_len as u64;
        self.sent.message_bytes += message_len as u64;
    }

    fn merge(&mut self, other: &Self) {
        self.is_mixed |= other.is_mixed;
        if let Some(answer) = other.answer {
            self.answered(answer);
        }
        self.sent += other.sent;
        self.received += other.received;
        self.sent_uncompressed += other.sent_uncompressed;
        self.compressed_on_send += other.compressed_on_send;
        self.same_bytes += other.same_bytes;
        self.inflated += other.inflated;
        self.received_uncompressed += other.received_uncompressed;
    }
}

impl Outstanding {
    pub(super) fn merge(&mut self, other: Self) {
        self.youngest_ns = self.youngest_ns.into_iter().chain(other.youngest_ns).min();
        self.count += other.count;
        self.in_latency += other.in_latency;
    }
}

/// Adds the counts of a second to those of another.
pub(super) fn add_second(sum: &mut Second, part: &Second) {
    sum.sent += part.sent;
    sum.received += part.received;
    sum.errors += part.errors;
    sum.max = sum.max.max(part.max);
}

/// Returns the time between the two, at least one nanosecond: the histogram has no zero.
#[inline]
pub(crate) fn duration_ns(earlier: Nanos, later: Nanos) -> u64 {
    later.0.saturating_sub(earlier.0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(seconds: u32) -> Tally {
        Tally::new(seconds, false)
    }

    #[test]
    fn only_the_window_is_measured() {
        let mut tally = closed(2);
        tally.sent(1, None);
        tally.sent(1, Some(0));
        tally.received(10, None);
        tally.received(20, Some(1));
        tally.received(30, Some(1));
        tally.received(70_000_000_000, Some(2));
        tally.enter_repeated();
        assert_eq!((tally.sent.total, tally.sent.measured), (2, 1));
        assert_eq!((tally.received.total, tally.received.measured), (4, 3));
        assert_eq!(tally.latency.len(), tally.received.measured);
        assert_eq!((tally.series[1].received, tally.series[1].max), (2, Some(30)));
        assert_eq!(tally.series[0].max, None);
    }

    #[test]
    fn echoes_alike_are_entered_together_and_all_of_them() {
        let mut tally = closed(2);
        for (latency, second, count) in [(100, 0, 16), (100, 1, 3), (200, 1, 1), (100, 1, 2)] {
            (0..count).for_each(|_| tally.received(latency, Some(second)));
        }
        tally.enter_repeated();
        tally.enter_repeated();
        assert_eq!(
            (tally.latency.len(), tally.latency.count_at(100), tally.received.total),
            (22, 21, 22)
        );
        assert_eq!((tally.series[0].received, tally.series[1].received), (16, 6));
    }

    #[test]
    fn an_open_loop_counts_latencies_where_they_were_planned_and_echoes_where_they_came() {
        let mut tally = Tally::new(2, true);
        let times = Times { due: Nanos(1_000), sent: Nanos(1_300) };
        tally.received_planned(times, Nanos(2_000), Some(0), Some(1));
        tally.received_planned(times, Nanos(2_000), Some(1), None);
        tally.received_planned(times, Nanos(2_000), None, Some(0));
        assert_eq!((tally.latency.len(), tally.received.measured, tally.received.total), (2, 2, 3));
        let parts = tally.parts.as_ref().expect("an open loop");
        assert_eq!(
            (parts.uncorrected.max(), parts.lag.max(), tally.latency.max()),
            (700, 300, 1_000)
        );
        let series = tally.seconds();
        assert_eq!((series[0].received, series[1].received), (1, 1));
        assert_eq!((series[0].max, series[1].max), (Some(1_000), Some(1_000)));
    }

    #[test]
    fn lag_and_service_time_add_up_for_an_early_echo() {
        let mut tally = Tally::new(1, true);
        let times = Times { due: Nanos(1_000), sent: Nanos(2_500) };
        tally.received_planned(times, Nanos(2_000), Some(0), Some(0));
        let parts = tally.parts.as_ref().expect("an open loop");
        assert_eq!(
            (parts.uncorrected.max(), parts.lag.max(), tally.latency.max()),
            (1, 1_000, 1_000)
        );
    }

    #[test]
    fn latencies_beyond_the_usual_range_keep_their_length() {
        let mut tally = closed(1);
        tally.received(71_500_000_000, Some(0));
        let mut other = closed(1);
        other.received(3_000_000_000_000, Some(0));
        tally.enter_repeated();
        other.enter_repeated();
        tally.add(&other);
        assert!(tally.latency.max().abs_diff(3_000_000_000_000) < 3_000_000_000);
        assert!(tally.latency.min().abs_diff(71_500_000_000) < 100_000_000);
        assert!(
            tally.intervals[0].as_ref().is_some_and(|interval| interval.max() > 2_900_000_000_000)
        );
    }

    #[test]
    fn a_closed_loop_counts_what_was_outstanding_at_the_end_of_the_window() {
        let mut tally = closed(1);
        tally.received(10, Some(0));
        tally.end_window(Some(0));
        tally.received(4_000_000_000, None);
        tally.enter_repeated();
        tally.unanswered(9_000_000_000, Some(0));
        tally.unanswered(7_000_000_000, Some(0));
        tally.unanswered(1, None);
        assert_eq!((tally.received.total, tally.received.measured, tally.latency.len()), (2, 1, 4));
        assert_eq!(tally.intervals[0].as_ref().map(|interval| interval.len()), Some(4));
        let expected = Outstanding { count: 3, in_latency: 2, youngest_ns: Some(7_000_000_000) };
        assert_eq!(tally.outstanding, expected);
        let mut sum = closed(1);
        sum.add(&tally);
        assert_eq!(sum.outstanding, expected);
    }

    #[test]
    fn a_second_has_the_percentiles_that_it_carries() {
        let mut tally = closed(2);
        (0..300).for_each(|i| tally.received(1_000 + i, Some(0)));
        (0..20_000).for_each(|i| tally.received(1_000_000 + i, Some(1)));
        tally.enter_repeated();
        let series = tally.seconds();
        assert!(series[0].p50.is_some() && series[0].p99.is_none());
        assert!(series[1].p99.is_some_and(|p99| (1_000_000..1_040_000).contains(&p99)));
    }

    #[test]
    fn answers_that_differ_are_mixed_within_a_worker_and_between_workers() {
        let agreed = |bits| {
            Some(Parameters {
                server_no_context_takeover: true,
                client_no_context_takeover: true,
                server_max_window_bits: bits,
                client_max_window_bits: 15,
            })
        };
        let sum = |workers: &[&[Option<Parameters>]]| {
            let mut sum = CompressionTally::default();
            for answers in workers {
                let mut worker = CompressionTally::default();
                answers.iter().for_each(|answer| worker.answered(*answer));
                sum.merge(&worker);
            }
            (sum.answer, sum.is_mixed)
        };
        assert_eq!(
            sum(&[&[agreed(15), agreed(15)], &[], &[agreed(15)]]),
            (Some(agreed(15)), false)
        );
        assert_eq!(sum(&[&[None], &[None]]), (Some(None), false));
        assert!(sum(&[&[agreed(15), None]]).1 && sum(&[&[None], &[agreed(15)]]).1);
        assert!(sum(&[&[agreed(15)], &[agreed(14)]]).1);
        assert_eq!(sum(&[&[]]), (None, false));
    }

    #[test]
    fn the_sum_of_workers_is_the_runs() {
        let mut a = closed(1);
        let mut b = closed(1);
        a.received(10, Some(0));
        b.received(30, Some(0));
        b.sent(1, Some(0));
        b.errors.closed = 2;
        b.integrity.lost = 3;
        b.failed(Some(0));
        b.opened(
            OpeningTimes { began: Nanos(5), connected: Nanos(5), secured: Nanos(5) },
            false,
            Nanos(5),
        );
        a.enter_repeated();
        b.enter_repeated();
        a.add(&b);
        assert_eq!((a.latency.len(), a.received.measured, a.sent.measured), (2, 2, 1));
        assert_eq!((a.faults(), a.connect.len()), (5, 1));
        let expected =
            Second { sent: 1, received: 2, errors: 1, max: Some(30), ..Second::default() };
        assert_eq!(a.seconds(), [expected]);
        assert_eq!(a.intervals[0].as_ref().map(|interval| interval.len()), Some(2));
    }
}

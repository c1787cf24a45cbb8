//! State that the coordinator and the workers of a run share.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use engine::Nanos;
use protocol::deflate::{MAX_WINDOW_BITS, MIN_DEFLATE_BITS};

use super::answers::Rules;
use super::compressed::Precompressed;
use super::destination::{Destination, Secured};
use super::error::{Opened, RunError};
use super::first_messages::FirstMessages;
use super::own::{OwnMessages, Source};
use super::payload::Content;
use super::plan::{Plan, PlanError};
use super::process_shard::ProcessShard;
use super::schedule::Shard;
use super::tally::Interval;
use crate::load::{Deflate, Load, Match};

/// Number of windows with which messages are compressed.
const WINDOWS: usize = (MAX_WINDOW_BITS - MIN_DEFLATE_BITS) as usize + 1;

/// Orders of the coordinator to a worker, as bits of a wake.
pub(crate) mod orders {
    /// Begin the load; the window is set.
    pub(crate) const LOAD: u64 = 1;
    /// The window's end was moved to now.
    pub(crate) const END: u64 = 1 << 1;
    /// Give up what is outstanding, close all connections, then stop.
    pub(crate) const CLOSE: u64 = 1 << 2;
    /// Stop at once.
    pub(crate) const STOP: u64 = 1 << 3;
}

/// Messages of a worker to the coordinator.
#[derive(Debug)]
pub(crate) enum Report {
    /// All its connections are open.
    Connected,
    /// A connection was closed as soon as it was open, for the first time in the run.
    LostAtOnce(String),
    /// All its connections are lost. Holds the reason of the last loss.
    AllConnectionsLost(String),
    /// Nothing more is sent: the window has ended, or all messages are sent.
    LoadEnded,
    /// All outstanding messages are back, after the load has ended.
    Drained,
    Failed(RunError),
}

/// The measured window, in the engines' time. Set by the coordinator before the load begins; the
/// end moves when the user interrupts. Workers look once per turn: the same turn is never half
/// inside.
#[derive(Debug)]
pub(crate) struct Window {
    epoch: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
}

/// Position of a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    Before,
    Inside(u32),
    After,
}

impl Window {
    pub(crate) fn unset() -> Self {
        let never = || AtomicU64::new(u64::MAX);
        Self { epoch: never(), start: never(), end: never() }
    }

    /// Sets the begin of the load to `epoch`, and the window from `start` to `end`.
    pub(crate) fn set(&self, epoch: Nanos, start: Nanos, end: Nanos) {
        self.epoch.store(epoch.0, Ordering::Release);
        self.start.store(start.0, Ordering::Release);
        self.end.store(end.0, Ordering::Release);
    }

    pub(crate) fn end_at(&self, end: Nanos) {
        self.end.store(end.0, Ordering::Release);
    }

    /// Returns the time at which the first message of an open loop is due.
    pub(crate) fn epoch(&self) -> Nanos {
        Nanos(self.epoch.load(Ordering::Acquire))
    }

    pub(crate) fn start(&self) -> Nanos {
        Nanos(self.start.load(Ordering::Acquire))
    }

    pub(crate) fn end(&self) -> Nanos {
        Nanos(self.end.load(Ordering::Acquire))
    }

    /// Returns the second in which it ends; `None` where it was ended before it began.
    pub(crate) fn last_second(&self) -> Option<u32> {
        let last = self.end().0.checked_sub(self.start().0)?.checked_sub(1)?;
        Some((last / 1_000_000_000) as u32)
    }

    #[inline]
    pub(crate) fn position(&self, now: Nanos) -> Position {
        if now >= self.end() {
            return Position::After;
        }
        let start = self.start.load(Ordering::Acquire);
        match now.0.checked_sub(start) {
            None => Position::Before,
            Some(since) => Position::Inside((since / 1_000_000_000) as u32),
        }
    }
}

impl Position {
    #[inline]
    pub(crate) fn second(self) -> Option<u32> {
        match self {
            Self::Inside(second) => Some(second),
            Self::Before | Self::After => None,
        }
    }
}

/// A worker's totals, for the coordinator to look at while the run lasts: each on a cache line of
/// its worker's own, written once per turn.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Gauges {
    /// Number of the worker's thread (gettid(2)), once it runs.
    pub(crate) tid: AtomicU64,
    pub(crate) open: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) outstanding: AtomicU64,
    pub(crate) faults: AtomicU64,
    failing: Mutex<Option<Failing>>,
    last: Mutex<Option<LastSecond>>,
}

/// Time since which all attempts to connect have failed, and the reason of the last failure.
type Failing = (Nanos, String);
/// The last whole second of the window and its latencies, where there were any.
type LastSecond = (u32, Option<Box<Interval>>);

/// Locks a value that no panic leaves half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gauges {
    /// Notes that an attempt to open a connection has failed.
    pub(crate) fn fails(&self, now: Nanos, why: String) {
        let mut failing = lock(&self.failing);
        let since = failing.as_ref().map_or(now, |(since, _)| *since);
        *failing = Some((since, why));
    }

    pub(crate) fn succeeds(&self) {
        *lock(&self.failing) = None;
    }

    fn failing(&self) -> Option<Failing> {
        lock(&self.failing).clone()
    }

    pub(crate) fn finish_second(&self, second: u32, latencies: Option<&Interval>) {
        *lock(&self.last) = Some((second, latencies.map(|latencies| Box::new(latencies.clone()))));
    }

    /// Returns the second that the worker has done with last.
    pub(crate) fn last_second(&self) -> MutexGuard<'_, Option<LastSecond>> {
        lock(&self.last)
    }
}

/// Everything that the workers of a run need to know.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) load: Load,
    /// The part of it that this process takes.
    pub(crate) process: ProcessShard,
    /// TLS with the servers; `None` where there is none.
    pub(crate) secured: Option<Secured>,
    /// The servers, which connections take in turn.
    pub(crate) destinations: Vec<Destination>,
    /// True once it was reported that connections are closed as soon as they are open.
    pub(crate) has_told: AtomicBool,
    pub(crate) content: Content,
    /// The user's own messages, in place of those.
    pub(crate) own: Option<OwnMessages>,
    /// Messages before the load of each connection.
    pub(crate) first_messages: Option<FirstMessages>,
    /// Time from 1970 to the beginning of the engines' clock, in nanoseconds.
    pub(crate) epoch_ns: u64,
    /// Compressed bodies without and with context takeover, for each window that can be negotiated,
    /// from the smallest to the largest. What the server chose is compressed for when the first
    /// connection gets it.
    pub(super) precompressed: [[OnceLock<Precompressed>; WINDOWS]; 2],
    /// IPv4 and IPv6 addresses to connect from, in turn. Empty for the kernel's choice.
    pub(crate) source_ips: (Vec<IpAddr>, Vec<IpAddr>),
    pub(crate) window: Window,
    /// One for each worker.
    pub(crate) gauges: Vec<Gauges>,
}

impl Shared {
    /// Returns what the workers of `plan` need, which connect to the `addresses` of each server
    /// without TLS.
    pub(crate) fn new(plan: &Plan, addresses: Vec<Vec<SocketAddr>>) -> Result<Self, PlanError> {
        let destinations = plan.target.urls().zip(addresses);
        let destinations =
            destinations.map(|(url, addresses)| Destination::new(plan, url, addresses));
        let shared = Self {
            load: plan.load.clone(),
            process: plan.placement.process(),
            secured: None,
            destinations: destinations.collect(),
            has_told: AtomicBool::new(false),
            content: Content::of(&plan.load),
            own: OwnMessages::of(&plan.load)?,
            first_messages: FirstMessages::of(&plan.load)?,
            epoch_ns: since_1970().saturating_sub(Nanos::monotonic().0),
            precompressed: Default::default(),
            source_ips: plan.placement.source_ips.iter().copied().partition(IpAddr::is_ipv4),
            window: Window::unset(),
            gauges: (0..plan.placement.threads).map(|_| Gauges::default()).collect(),
        };
        if plan.load.deflate != Deflate::Off && !plan.load.compresses_own_messages_on_send() {
            // Nearly always the server agrees to what is offered.
            let takes_over = plan.load.deflate == Deflate::Takeover;
            shared.precompressed(plan.load.deflate_window_bits, takes_over);
        }
        Ok(shared)
    }

    /// Returns the rule for answers, and the messages.
    pub(crate) fn rules(&self) -> Rules<'_> {
        let source = self.own.as_ref().map_or(Source::Generated(&self.content), Source::Own);
        Rules { matching: &self.load.matching, source, verify: self.load.verify }
    }

    /// Returns true if messages of the server are assembled before they are judged.
    pub(crate) fn assembles_answers(&self) -> bool {
        self.judges_answers() || self.first_messages.is_some()
    }

    /// Returns true if answers are not the plain echoes of generated messages.
    pub(crate) fn judges_answers(&self) -> bool {
        self.own.is_some() || self.load.matching != Match::Echo
    }

    /// Returns the bodies that are compressed for a window of 9 to 15 bits, without or with context
    /// takeover.
    #[inline]
    pub(crate) fn precompressed(&self, window_bits: u8, takes_over: bool) -> &Precompressed {
        let sets = &self.precompressed[usize::from(takes_over)];
        let set = &sets[usize::from(window_bits - MIN_DEFLATE_BITS)];
        let settings = || self.load.compressor(window_bits);
        set.get_or_init(|| match &self.own {
            None => Precompressed::new(&self.content, settings(), takes_over),
            Some(own) => Precompressed::of_own(own, settings()),
        })
    }

    pub(crate) fn shard(&self, worker: usize) -> Shard {
        self.process.worker(worker as u32, self.gauges.len() as u32, self.load.connections)
    }

    pub(crate) fn idle_shard(&self, worker: usize) -> Shard {
        Shard { connections: self.load.idle, ..self.shard(worker) }
    }

    /// Returns the address from which a connection is made, by its number; `None` for the kernel's
    /// choice.
    pub(crate) fn source_ip(&self, to: &SocketAddr, number: u32) -> Option<IpAddr> {
        let (of_four, of_six) = &self.source_ips;
        let sources = if to.is_ipv4() { of_four } else { of_six };
        sources.get(number as usize % sources.len().max(1)).copied()
    }

    /// Returns the messages that a worker may send; all bits set where that is not limited.
    pub(crate) fn budget(&self, worker: usize) -> u64 {
        let (worker, threads) = (worker as u64, self.gauges.len() as u64);
        self.limited_messages()
            .map_or(u64::MAX, |own| own / threads + u64::from(worker < own % threads))
    }

    /// Returns the number of this process's messages that ends the window. Where the plan has it at
    /// even intervals, the window is as long as they take, and the number limits nothing.
    pub(crate) fn limited_messages(&self) -> Option<u64> {
        let all = self.load.messages.filter(|_| self.load.ends_with_last_echo());
        all.map(|all| self.process.part(all))
    }

    fn own_connections(&self) -> u32 {
        self.process.connections(self.load.connections)
    }

    /// Returns the sum of a gauge over all workers.
    pub(crate) fn total(&self, gauge: impl Fn(&Gauges) -> &AtomicU64) -> u64 {
        self.gauges.iter().map(|gauges| gauge(gauges).load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn opened(&self) -> Opened {
        Opened { open: self.total(|gauges| &gauges.open), connections: self.own_connections() }
    }

    /// Returns the index of the server of a connection, by its number.
    pub(crate) fn destination(&self, number: u32) -> usize {
        number as usize % self.destinations.len()
    }

    /// Returns the addresses that connections were made to; `None` where there was none.
    pub(crate) fn addresses_in_use(&self) -> Option<String> {
        let mut used: Vec<String> = Vec::new();
        for address in self.destinations.iter().flat_map(Destination::addresses_in_use) {
            if !used.contains(&address) {
                used.push(address);
            }
        }
        (!used.is_empty()).then(|| used.join(", "))
    }

    /// Returns the time since which opening connections has failed on every worker, and the reason;
    /// `None` while it succeeds on one of them.
    pub(crate) fn all_failing(&self) -> Option<(Nanos, String)> {
        let failing: Option<Vec<_>> = self.gauges.iter().map(Gauges::failing).collect();
        failing?.into_iter().max_by_key(|(since, _)| *since)
    }

    /// Returns the time since which opening connections has failed on a worker, and the reason, for
    /// the worker that has failed longest.
    pub(crate) fn any_failing(&self) -> Option<(Nanos, String)> {
        self.gauges.iter().filter_map(Gauges::failing).min_by_key(|(since, _)| *since)
    }
}

/// Returns the time of the system's clock.
fn since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use engine::EngineKind;

    use super::*;

    #[test]
    fn gauges_of_two_workers_share_no_cache_line() {
        let url = "ws://127.0.0.1:9001/".parse().expect("url");
        let plan = Plan::new(url, EngineKind::Epoll).with(|plan| plan.placement.threads = 16);
        let address = "127.0.0.1:9001".parse().expect("an address");
        let shared =
            Shared::new(&plan, vec![vec![address]]).expect("a plan that can be carried out");
        let places: Vec<usize> =
            shared.gauges.iter().map(|gauges| std::ptr::from_ref(gauges).addr()).collect();
        assert!(places.iter().all(|place| place.is_multiple_of(128)), "{places:x?}");
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] == size_of::<Gauges>()));
        assert!(size_of::<Gauges>().is_multiple_of(128));
        // What all workers read in each turn lies apart from what one of them writes.
        let window = std::ptr::from_ref(&shared.window).addr();
        assert!(places.iter().all(|place| place.abs_diff(window) >= 128));
    }

    #[test]
    fn the_window_contains_its_start_but_not_its_end() {
        let window = Window::unset();
        assert_eq!(window.position(Nanos(1 << 62)), Position::Before);
        window.set(Nanos(500), Nanos(1_000), Nanos(2_000_001_000));
        assert_eq!(window.epoch(), Nanos(500));
        assert_eq!(window.position(Nanos(999)), Position::Before);
        assert_eq!(window.position(Nanos(1_000)), Position::Inside(0));
        assert_eq!(window.position(Nanos(1_000_001_000)), Position::Inside(1));
        assert_eq!(window.position(Nanos(2_000_001_000)), Position::After);
        window.end_at(Nanos(500));
        assert_eq!(window.position(Nanos(999)).second(), None);
    }
}

//! Snapshots of the workers' metrics.
//!
//! A worker counts for itself, without atomics. Its counters are copied only when a snapshot is
//! requested.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Counters, Load};

use crate::faults::FaultCounters;
use crate::stats::{DeflateCounters, EchoCounters};

/// Metrics of a worker's handler.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerMetrics {
    pub(crate) echo_counters: EchoCounters,
    /// Opened WebSockets.
    pub(crate) opened: u64,
    /// Pages sent to browsers.
    pub(crate) pages: u64,
    /// Health checks answered on the WebSocket's port.
    pub(crate) probes: u64,
    /// Refusals by rule.
    pub(crate) refusals: Vec<(&'static str, u64)>,
    pub(crate) closes: Closes,
    pub(crate) deflate: DeflateCounters,
    pub(crate) faults: FaultCounters,
}

/// Counts of close codes, by the closing side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closes {
    pub(crate) by_client: CloseCodes,
    pub(crate) by_server: CloseCodes,
}

/// Count of each close code. Codes that libraries and applications choose share two counts, so that
/// a client cannot create new ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CloseCodes([u64; CloseCodes::LABELS.len()]);

impl CloseCodes {
    /// 1005 stands for a Close without a code (RFC 6455 7.4.1), 3xxx for libraries and 4xxx for
    /// applications (7.4.2).
    pub(crate) const LABELS: [&str; 15] = [
        "1000", "1001", "1002", "1003", "1005", "1007", "1008", "1009", "1010", "1011", "1012",
        "1013", "1014", "3xxx", "4xxx",
    ];

    /// Counts a valid code, or a Close without one.
    pub(crate) fn count(&mut self, code: Option<u16>) {
        let place = match code {
            None => 4,
            Some(code @ 1000..=1003) => usize::from(code) - 1000,
            Some(code @ 1007..=1014) => usize::from(code) - 1007 + 5,
            Some(3000..=3999) => 13,
            Some(_) => 14,
        };
        self.0[place] += 1;
    }

    /// Iterates over labels and counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Self::LABELS.into_iter().zip(self.0)
    }
}

/// State of a worker at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) counters: Counters,
    pub(crate) load: Load,
    /// Admitted connections that are open.
    pub(crate) open: u64,
    /// CPU time of the worker's thread.
    pub(crate) cpu: Duration,
    pub(crate) metrics: WorkerMetrics,
}

#[derive(Debug, Default)]
struct Shown {
    edition: u64,
    snapshot: Snapshot,
}

/// Slot for the latest snapshot of a worker, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct SnapshotSlot {
    shown: Mutex<Shown>,
    changed: Condvar,
}

impl SnapshotSlot {
    /// Publishes a new snapshot. A reader holds the lock only while it copies.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = Shown { edition: shown.edition + 1, snapshot };
        self.changed.notify_all();
    }

    /// Number of snapshots so far.
    pub(crate) fn edition(&self) -> u64 {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).edition
    }

    /// Waits until `end` for a snapshot newer than `edition`. Returns the latest one, and whether
    /// it is newer.
    pub(crate) fn newer_than(&self, edition: u64, end: Instant) -> (Snapshot, bool) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        while shown.edition == edition {
            let left = end.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                break;
            }
            shown =
                self.changed.wait_timeout(shown, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        (shown.snapshot.clone(), shown.edition != edition)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn every_code_that_may_be_sent_has_its_place() {
        let mut codes = CloseCodes::default();
        for code in (0..=4999).filter(|&code| protocol::close::is_sendable(code)) {
            codes.count(Some(code));
        }
        codes.count(None);
        for (label, count) in codes.iter() {
            assert_eq!(count, if label.ends_with("xxx") { 1000 } else { 1 }, "{label}");
        }
    }

    #[test]
    fn slots_of_two_workers_share_no_cache_line() {
        let slots: Vec<Arc<SnapshotSlot>> = (0..16).map(|_| Arc::default()).collect();
        let mut places: Vec<usize> = slots.iter().map(|slot| Arc::as_ptr(slot).addr()).collect();
        places.sort_unstable();
        let size = size_of::<SnapshotSlot>();
        assert!(size.is_multiple_of(128) && places.iter().all(|place| place.is_multiple_of(128)));
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= size), "{places:x?}");
    }

    #[test]
    fn an_old_snapshot_says_so() {
        let slot = SnapshotSlot::default();
        assert!(!slot.newer_than(0, Instant::now()).1);
        slot.publish(Snapshot { open: 7, ..Snapshot::default() });
        let (snapshot, is_new) = slot.newer_than(0, Instant::now());
        assert_eq!((snapshot.open, is_new, slot.edition()), (7, true, 1));
        assert!(!slot.newer_than(1, Instant::now()).1);
    }
}

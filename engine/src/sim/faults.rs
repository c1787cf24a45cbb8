//! Faults of a simulation, and their frequency.

use std::ops::AddAssign;
use std::time::Duration;

use crate::sim::Random;

/// Frequency of each fault, in per mille of its occasions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// An enter consumes fewer entries than are queued.
    pub short_submits: u32,
    /// An enter fails: EINTR, EAGAIN (no memory for requests) or EBUSY (completions must be collected first).
    pub failed_enters: u32,
    /// A waiting worker wakes without a reason.
    pub signals: u32,
    /// A send accepts less than what fits.
    pub short_sends: u32,
    /// A send accepts nothing: EAGAIN, or ENOBUFS and ENOMEM where it does not wait.
    pub refused_sends: u32,
    /// A receive ends with ENOBUFS although buffers are offered.
    pub enobufs: u32,
    /// A multishot operation ends with a completion that carries a result: no F_MORE.
    pub missing_more: u32,
    /// A receive ends with EAGAIN or EINTR.
    pub interrupted_receives: u32,
    /// A receive takes less than has arrived.
    pub short_receives: u32,
    /// A completion of a receive arrives, with a buffer, after its connection is gone.
    pub stale: u32,
    /// An accept fails: EMFILE, ENFILE, ENOMEM, ECONNABORTED and the like.
    pub accept_errors: u32,
    /// A socket for an outgoing connection cannot be created.
    pub socket_errors: u32,
    /// A connect is refused, or never answered.
    pub connect_errors: u32,
    /// A connection is reset. The occasions are deliveries of bytes.
    pub resets: u32,
    /// A direction stands still for a while. The occasions are deliveries of bytes.
    pub stalls: u32,
    /// Longest standstill.
    pub stall: Duration,
    /// An enter that does not wait leaves ready operations for later.
    pub lazy_enters: u32,
    /// Operations progress outside of any enter, as with a ring without deferred task work.
    pub unasked_work: u32,
    /// Prompt sends are executed after their enter has returned.
    pub late_sends: bool,
}

impl Faults {
    /// Returns faults that may end no connection: each is absent, rare or frequent.
    #[must_use]
    pub fn survivable(random: &mut Random) -> Self {
        let mut often = || random.pick(&[0, 0, 20, 200]);
        Self {
            short_submits: often(),
            failed_enters: often().min(50),
            signals: often().min(50),
            short_sends: often(),
            refused_sends: often(),
            enobufs: often(),
            missing_more: often(),
            interrupted_receives: often().min(100),
            short_receives: often(),
            stale: often() * 2,
            accept_errors: often(),
            stalls: often().min(50),
            stall: Duration::from_millis(20),
            lazy_enters: often(),
            unasked_work: often().min(100),
            late_sends: often() > 0,
            ..Self::default()
        }
    }

    /// Returns faults that may also end a connection, with a cause.
    #[must_use]
    pub fn deadly(random: &mut Random) -> Self {
        let survivable = Self::survivable(random);
        let mut rarely = || random.pick(&[0, 2, 10]);
        Self {
            resets: rarely(),
            socket_errors: rarely() * 5,
            connect_errors: rarely() * 10,
            stalls: rarely() * 5,
            stall: Duration::from_millis(random.pick(&[20, 500, 3000])),
            ..survivable
        }
    }
}

/// Number of times that each fault has happened.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "each is explained at its namesake in `Faults`")]
pub struct Happened {
    pub short_submits: u64,
    pub failed_enters: u64,
    pub signals: u64,
    pub short_sends: u64,
    pub refused_sends: u64,
    pub enobufs: u64,
    pub missing_more: u64,
    pub interrupted_receives: u64,
    pub short_receives: u64,
    pub stale: u64,
    pub accept_errors: u64,
    pub socket_errors: u64,
    pub connect_errors: u64,
    pub resets: u64,
    pub stalls: u64,
    pub late_sends: u64,
    pub unasked_work: u64,
    /// Completions that found no room in the queue.
    pub overflows: u64,
    /// Bytes that reached the peer.
    pub bytes: u64,
    /// Opened connections.
    pub connections: u64,
    /// Half-closes of a direction while the other one continued.
    pub half_closes: u64,
    /// Turns of all workers.
    pub turns: u64,
}

impl Happened {
    /// Returns all counts with their names.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 22] {
        [
            ("short submits", self.short_submits),
            ("failed enters", self.failed_enters),
            ("signals", self.signals),
            ("short sends", self.short_sends),
            ("refused sends", self.refused_sends),
            ("ENOBUFS", self.enobufs),
            ("missing F_MORE", self.missing_more),
            ("interrupted receives", self.interrupted_receives),
            ("short receives", self.short_receives),
            ("stale completions", self.stale),
            ("accept errors", self.accept_errors),
            ("socket errors", self.socket_errors),
            ("connect errors", self.connect_errors),
            ("resets", self.resets),
            ("stalls", self.stalls),
            ("late sends", self.late_sends),
            ("unasked work", self.unasked_work),
            ("overflows", self.overflows),
            ("bytes", self.bytes),
            ("connections", self.connections),
            ("half-closes", self.half_closes),
            ("turns", self.turns),
        ]
    }
}

impl AddAssign for Happened {
    fn add_assign(&mut self, o: Self) {
        self.short_submits += o.short_submits;
        self.failed_enters += o.failed_enters;
        self.signals += o.signals;
        self.short_sends += o.short_sends;
        self.refused_sends += o.refused_sends;
        self.enobufs += o.enobufs;
        self.missing_more += o.missing_more;
        self.interrupted_receives += o.interrupted_receives;
        self.short_receives += o.short_receives;
        self.stale += o.stale;
        self.accept_errors += o.accept_errors;
        self.socket_errors += o.socket_errors;
        self.connect_errors += o.connect_errors;
        self.resets += o.resets;
        self.stalls += o.stalls;
        self.late_sends += o.late_sends;
        self.unasked_work += o.unasked_work;
        self.overflows += o.overflows;
        self.bytes += o.bytes;
        self.connections += o.connections;
        self.half_closes += o.half_closes;
        self.turns += o.turns;
    }
}

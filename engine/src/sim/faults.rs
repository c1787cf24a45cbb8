//! Faults of a simulation, and their frequency.

use std::ops::AddAssign;
use std::time::Duration;

use crate::sim::Random;

/// Frequency of each fault, in per mille of its occasions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// An enter consumes fewer entries than are queued.
    pub short_submits: u32,
    /// An enter fails: EINTR, EAGAIN (no memory for requests) or EBUSY (completions must be
    /// collected first).
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
    /// A connection cannot be handed over to another ring: ENFILE, ENOMEM, or its worker has ended.
    pub hand_over_errors: u32,
    /// Prompt sends are executed after their enter has returned.
    pub late_sends: bool,
    /// The kernel cannot be asked for the address of a connection's peer.
    pub untold_peers: bool,
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
            untold_peers: often() > 0,
            hand_over_errors: often(),
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

/// Declares the counts of a simulation with their names.
macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident: $name:literal,)*) => {
        /// Number of times that each fault has happened, and other counts.
        #[derive(Clone, Copy, Debug, Default)]
        #[allow(missing_docs, reason = "faults are explained at their namesakes in `Faults`")]
        pub struct Happened {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Happened {
            /// Returns all counts with their names.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field)),*]
            }
        }

        impl AddAssign for Happened {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counts! {
    short_submits: "short submits",
    failed_enters: "failed enters",
    signals: "signals",
    short_sends: "short sends",
    refused_sends: "refused sends",
    enobufs: "ENOBUFS",
    missing_more: "missing F_MORE",
    interrupted_receives: "interrupted receives",
    short_receives: "short receives",
    stale: "stale completions",
    accept_errors: "accept errors",
    socket_errors: "socket errors",
    connect_errors: "connect errors",
    resets: "resets",
    stalls: "stalls",
    late_sends: "late sends",
    unasked_work: "unasked work",
    hand_over_errors: "refused hand-overs",
    /// Connections that were handed over to another ring.
    hand_overs: "hand-overs",
    /// Completions that found no room in the queue.
    overflows: "overflows",
    /// Bytes that reached the peer.
    bytes: "bytes",
    /// Opened connections.
    connections: "connections",
    /// Half-closes of a direction while the other one continued.
    half_closes: "half-closes",
    /// Turns of all workers.
    turns: "turns",
}

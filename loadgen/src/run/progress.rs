//! Reports of a run while it lasts.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The phases of a run; between two of them all threads have finished the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Opening connections.
    Connect,
    /// Rest, so that what connecting set in motion ebbs away.
    Settle,
    /// Load that is not counted.
    Warmup,
    /// Load that is counted.
    Measure,
    /// No more sending; what is outstanding comes back.
    Drain,
    /// Closing connections, ending the server.
    Close,
}

impl Phase {
    /// Returns its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Settle => "settle",
            Self::Warmup => "warm-up",
            Self::Measure => "measure",
            Self::Drain => "drain",
            Self::Close => "close",
        }
    }
}

/// State of a run: totals since its start, over all threads.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Current phase.
    pub phase: Phase,
    /// Time since its beginning.
    pub elapsed: Duration,
    /// Its length; zero where that is not known.
    pub planned: Duration,
    /// Connections open (and through the opening handshake).
    pub open: u64,
    /// Connections wanted.
    pub connections: u64,
    /// Messages sent.
    pub sent: u64,
    /// Echoes received.
    pub received: u64,
    /// Errors and integrity faults of any kind.
    pub errors: u64,
}

/// Receiver of the reports, on the thread of [`execute`](super::execute).
pub trait Progress {
    /// Announces about how long a session takes, or a run of its own.
    fn expect(&mut self, _total: Duration) {}

    /// Reports the state at every change of phase, and about ten times a second between.
    fn tick(&mut self, at: &Snapshot);

    /// Reports the latencies of the last whole second of the window, nanoseconds, over all threads.
    fn second(&mut self, _latencies: &Histogram<u32>) {}

    /// Reports a message that the user should see before the run is over.
    fn note(&mut self, _text: &str) {}

    /// Returns true if the user wants the run to end now, with a result.
    fn interrupted(&mut self) -> bool {
        false
    }
}

/// Ignores all reports, and never interrupts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn tick(&mut self, _: &Snapshot) {}
}

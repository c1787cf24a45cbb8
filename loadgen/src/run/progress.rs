//! What a run tells while it lasts.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The phases of a run; between two of them all threads have finished the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Starting the server, where there is one to start.
    Start,
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
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Connect => "connect",
            Self::Settle => "settle",
            Self::Warmup => "warm-up",
            Self::Measure => "measure",
            Self::Drain => "drain",
            Self::Close => "close",
        }
    }
}

/// Where a run stands: totals since its start, over all threads.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// The phase it is in.
    pub phase: Phase,
    /// How long that has lasted.
    pub elapsed: Duration,
    /// How long it will last; zero where nobody knows.
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

/// Who is told, and who may end a run early. Called on the thread that called [`execute`](super::execute).
pub trait Progress {
    /// Before a session, or a run of its own: about how long all of it takes.
    fn expect(&mut self, _total: Duration) {}

    /// At every change of phase, and about ten times a second between.
    fn tick(&mut self, at: &Snapshot);

    /// Within the window, once a second: the latencies of the last whole one, nanoseconds, over all threads.
    fn second(&mut self, _latencies: &Histogram<u32>) {}

    /// Reports a message that the user should see before the run is over.
    fn note(&mut self, _text: &str) {}

    /// Asked as often: whether the user wants the run to end now. What was measured so far is then the result.
    fn interrupted(&mut self) -> bool {
        false
    }
}

/// Tells nobody, and nobody interrupts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn tick(&mut self, _: &Snapshot) {}
}

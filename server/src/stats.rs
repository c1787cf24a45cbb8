//! What the server counted, printed at the end as one line of JSON.

use std::ops::AddAssign;

use engine::Counters;
use serde::Serialize;

/// What a worker's handler counts. Plain additions: every worker has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages echoed; for raw TCP, which has none, reads echoed.
    pub messages: u64,
    /// Handshakes refused with an HTTP status and connections failed with a close code for what they sent.
    pub refused: u64,
}

/// The sums over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// [`Tally::messages`].
    pub messages: u64,
    /// Payload bytes of TCP received.
    pub bytes_in: u64,
    /// Payload bytes of TCP that the kernel took.
    pub bytes_out: u64,
    /// Turns of the event loops.
    pub turns: u64,
    /// System calls that submit or wait.
    pub enters: u64,
    /// Completions taken in, or readiness events.
    pub completions: u64,
    /// Receives that ended because no buffer was free.
    pub enobufs: u64,
    /// Times a completion queue overflowed.
    pub overflows: u64,
    /// Sends that took less than everything.
    pub partial_sends: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed.
    pub closed: u64,
    /// [`Tally::refused`].
    pub refused: u64,
    /// Connections that the end of a drain cut off.
    #[serde(skip)]
    pub cut: u64,
}

impl Stats {
    /// One line, without the line's end.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers with fixed names")
    }
}

impl AddAssign<(Counters, Tally)> for Stats {
    fn add_assign(&mut self, (counters, tally): (Counters, Tally)) {
        self.messages += tally.messages;
        self.bytes_in += counters.bytes_in;
        self.bytes_out += counters.bytes_out;
        self.turns += counters.turns;
        self.enters += counters.enters;
        self.completions += counters.completions;
        self.enobufs += counters.enobufs;
        self.overflows += counters.overflows;
        self.partial_sends += counters.partial_sends;
        self.accepted += counters.accepted;
        self.closed += counters.closed;
        self.refused += tally.refused;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up_to_one_line() {
        let mut stats = Stats::default();
        let counters = Counters { bytes_in: 10, enters: 3, accepted: 1, ..Counters::default() };
        stats += (counters, Tally { messages: 2, refused: 1 });
        stats += (counters, Tally { messages: 5, refused: 0 });
        assert_eq!(
            stats.to_json(),
            "{\"messages\":7,\"bytes_in\":20,\"bytes_out\":0,\"turns\":0,\"enters\":6,\"completions\":0,\"enobufs\":0,\
             \"overflows\":0,\"partial_sends\":0,\"accepted\":2,\"closed\":0,\"refused\":1}"
        );
    }
}

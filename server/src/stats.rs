//! Counters of the server, printed at the end as one line of JSON.

use std::ops::AddAssign;

use engine::Counters;
use serde::Serialize;

/// Counters of a worker's handler. Plain additions: every worker has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EchoCounters {
    /// Echoed messages; for raw TCP, echoed reads.
    pub messages: u64,
    /// Handshakes refused with an HTTP status, and connections failed with a close code.
    pub refused: u64,
}

/// Counters of compressed messages and of connections that agreed on compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeflateCounters {
    /// WebSockets whose handshake agreed on compression.
    pub connections: u64,
    /// Messages that were returned as they came.
    pub passed: u64,
    /// Messages that were inflated and compressed again.
    pub recompressed: u64,
    /// Bytes of compressed messages that were inflated.
    pub bytes_in: u64,
    /// Bytes that came out.
    pub bytes_inflated: u64,
}

/// Sums over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// [`EchoCounters::messages`].
    pub messages: u64,
    /// Bytes received, as TCP payload.
    pub bytes_in: u64,
    /// Bytes that the kernel has accepted for sending, as TCP payload.
    pub bytes_out: u64,
    /// Turns of the event loops.
    pub turns: u64,
    /// System calls that submit or wait.
    pub enters: u64,
    /// Completions handled, or readiness events.
    pub completions: u64,
    /// Receives that ended because no buffer was offered.
    pub enobufs: u64,
    /// Overflows of the completion queues.
    pub overflows: u64,
    /// Sends of which the kernel accepted a part, or nothing.
    pub partial_sends: u64,
    /// Accepted connections.
    pub accepted: u64,
    /// Closed connections.
    pub closed: u64,
    /// [`EchoCounters::refused`].
    pub refused: u64,
    /// Connections that the drain timeout cut off.
    #[serde(skip)]
    pub cut: u64,
}

impl Stats {
    /// Returns one line of JSON without a line break.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers with fixed names")
    }
}

impl AddAssign<(Counters, EchoCounters)> for Stats {
    fn add_assign(&mut self, (counters, echo_counters): (Counters, EchoCounters)) {
        self.messages += echo_counters.messages;
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
        self.refused += echo_counters.refused;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up_to_one_line() {
        let mut stats = Stats::default();
        let counters = Counters { bytes_in: 10, enters: 3, accepted: 1, ..Counters::default() };
        stats += (counters, EchoCounters { messages: 2, refused: 1 });
        stats += (counters, EchoCounters { messages: 5, refused: 0 });
        assert_eq!(
            stats.to_json(),
            "{\"messages\":7,\"bytes_in\":20,\"bytes_out\":0,\"turns\":0,\"enters\":6,\"completions\":0,\"enobufs\":0,\
             \"overflows\":0,\"partial_sends\":0,\"accepted\":2,\"closed\":0,\"refused\":1}"
        );
    }
}

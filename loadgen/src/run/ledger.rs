//! What a connection has sent and not yet got back.

use engine::Nanos;

/// Marks a slot whose message is back. No message is ever sent at this point in time.
const BACK: Nanos = Nanos::NEVER;

/// How far beyond the depth of the pipeline a connection may get while an early message is missing. A message that is
/// not back after so many times the depth of later ones is given up as lost, and its place in the pipeline is filled.
const PATIENCE: u32 = 4;

/// The sequence numbers of one connection. The times of sending lie outside, in a ring of [`ring_len`] slots for each
/// connection, so that a deep pipeline costs memory only where there is one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ledger {
    /// The oldest message that is not back; equal to `next` where all are.
    oldest: u64,
    /// The next to be sent.
    next: u64,
    /// One more than the highest that came back ("NextExp" of RFC 4737 4.2).
    expected: u64,
    outstanding: u32,
}

/// What the arrival of a message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It was due; no later one had come before it.
    InOrder {
        /// When it was sent.
        sent: Nanos,
    },
    /// It was due, but a later one had come before it.
    Late {
        /// When it was sent.
        sent: Nanos,
    },
    /// It had come before.
    Again,
}

/// Whose slot of the ring a message that is sent has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// A free one's.
    Free,
    /// That of the oldest message, which is given up as lost.
    TakenFromLost,
}

/// Slots of a ring for a pipeline of this depth; a power of two.
pub(crate) fn ring_len(pipeline: u32) -> usize {
    (pipeline * PATIENCE).next_power_of_two() as usize
}

impl Ledger {
    /// Messages sent and neither back nor given up.
    #[inline]
    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// The sequence number of the oldest message that is not back.
    #[inline]
    pub(crate) fn oldest(&self) -> Option<u64> {
        (self.outstanding > 0).then_some(self.oldest)
    }

    /// The sequence number of the message that is sent next.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Whether a message of this number was ever sent.
    pub(crate) fn has_sent(&self, sequence: u64) -> bool {
        sequence < self.next
    }

    /// Enters a message sent at `now`, with the number [`next`](Self::next).
    #[inline]
    pub(crate) fn send(&mut self, ring: &mut [Nanos], now: Nanos) -> Slot {
        let is_full = self.next - self.oldest == ring.len() as u64;
        if is_full {
            self.clear(ring, self.oldest);
        }
        ring[slot(ring, self.next)] = now;
        self.next += 1;
        self.outstanding += 1;
        if is_full { Slot::TakenFromLost } else { Slot::Free }
    }

    /// Enters the arrival of a message that [was sent](Self::has_sent).
    #[inline]
    pub(crate) fn receive(&mut self, ring: &mut [Nanos], sequence: u64) -> Arrival {
        debug_assert!(self.has_sent(sequence));
        if sequence < self.oldest || ring[slot(ring, sequence)] == BACK {
            return Arrival::Again;
        }
        let sent = ring[slot(ring, sequence)];
        self.clear(ring, sequence);
        if sequence < self.expected {
            return Arrival::Late { sent };
        }
        self.expected = sequence + 1;
        Arrival::InOrder { sent }
    }

    fn clear(&mut self, ring: &mut [Nanos], sequence: u64) {
        ring[slot(ring, sequence)] = BACK;
        self.outstanding -= 1;
        while self.oldest < self.next && ring[slot(ring, self.oldest)] == BACK {
            self.oldest += 1;
        }
    }
}

#[inline]
fn slot(ring: &[Nanos], sequence: u64) -> usize {
    sequence as usize & (ring.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(pipeline: u32, count: u64) -> (Ledger, Vec<Nanos>) {
        let mut ledger = Ledger::default();
        let mut ring = vec![BACK; ring_len(pipeline)];
        for i in 0..count {
            assert_eq!(ledger.send(&mut ring, Nanos(i)), Slot::Free);
        }
        (ledger, ring)
    }

    #[test]
    fn messages_in_order_come_back_with_their_times() {
        let (mut ledger, mut ring) = sent(4, 4);
        for i in 0..4 {
            assert_eq!(ledger.oldest(), Some(i));
            assert_eq!(ledger.receive(&mut ring, i), Arrival::InOrder { sent: Nanos(i) });
        }
        assert_eq!((ledger.outstanding(), ledger.oldest()), (0, None));
        assert!(!ledger.has_sent(4));
    }

    #[test]
    fn the_one_that_was_overtaken_is_late() {
        let (mut ledger, mut ring) = sent(4, 4);
        assert_eq!(ledger.receive(&mut ring, 1), Arrival::InOrder { sent: Nanos(1) });
        assert_eq!(ledger.receive(&mut ring, 2), Arrival::InOrder { sent: Nanos(2) });
        assert_eq!(ledger.receive(&mut ring, 0), Arrival::Late { sent: Nanos(0) });
        assert_eq!(ledger.receive(&mut ring, 3), Arrival::InOrder { sent: Nanos(3) });
    }

    #[test]
    fn the_second_arrival_is_known_before_and_after_older_ones_are_back() {
        let (mut ledger, mut ring) = sent(4, 4);
        ledger.receive(&mut ring, 1);
        assert_eq!(ledger.receive(&mut ring, 1), Arrival::Again);
        ledger.receive(&mut ring, 0);
        assert_eq!(ledger.receive(&mut ring, 0), Arrival::Again);
        assert_eq!(ledger.receive(&mut ring, 1), Arrival::Again);
        assert_eq!(ledger.outstanding(), 2);
    }

    #[test]
    fn a_missing_message_is_given_up_after_four_times_the_depth() {
        let (mut ledger, mut ring) = sent(2, 2);
        ledger.receive(&mut ring, 1);
        for i in 2..8 {
            assert_eq!(ledger.send(&mut ring, Nanos(i)), Slot::Free);
            assert!(matches!(ledger.receive(&mut ring, i), Arrival::InOrder { .. }));
        }
        assert_eq!(ledger.outstanding(), 1);
        assert_eq!(ledger.send(&mut ring, Nanos(8)), Slot::TakenFromLost);
        assert_eq!((ledger.outstanding(), ledger.oldest()), (1, Some(8)));
        assert_eq!(ledger.receive(&mut ring, 0), Arrival::Again);
    }

    #[test]
    fn rings_are_powers_of_two() {
        assert_eq!((ring_len(1), ring_len(3), ring_len(16)), (4, 16, 64));
    }
}

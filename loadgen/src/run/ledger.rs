//! The messages that a connection has sent and not yet got back.

use std::time::Duration;

use engine::Nanos;

/// Marks a slot whose message is back. No message is ever due at this point in time.
const BACK: Nanos = Nanos::NEVER;

/// Multiple of its depth that a connection may send while an early message is missing. That one is
/// then given up as lost, and its place is filled.
const PATIENCE: u32 = 4;

/// First length of an open loop's ring, which doubles when it must.
const FIRST_LEN: u32 = PATIENCE;

/// Times at which a message was due and sent. In a closed loop both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) due: Nanos,
    pub(crate) sent: Nanos,
}

/// The sequence numbers of one connection and the times of those outstanding.
///
/// Times lie in a ring of a power of two of slots, by sequence number. In an open loop a second
/// half of the ring holds the times of sending; the first half alone tells which slots are taken.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    ring: Box<[Nanos]>,
    /// Slots of the ring, and as many as it may get.
    len: u32,
    max_len: u32,
    /// Messages sent and neither back nor given up.
    outstanding: u32,
    /// The oldest message that is not back; equal to `next` where all are.
    oldest: u64,
    /// The next to be sent.
    next: u64,
    /// One more than the highest that came back ("NextExp" of RFC 4737 4.2).
    expected: u64,
    /// Messages that will not come back.
    lost: u64,
    /// True once a message of this connection has come back.
    has_answered: bool,
}

impl Default for Ledger {
    /// Returns the ledger of a connection that sends nothing.
    fn default() -> Self {
        Self::new(vec![BACK], 1, 1)
    }
}

impl Ledger {
    /// Returns the ledger of a closed loop with a pipeline of this depth.
    pub(crate) fn closed(pipeline: u32) -> Self {
        let len = ring_len(pipeline);
        Self::new(vec![BACK; len as usize], len, len)
    }

    /// Returns the ledger of an open loop. It begins small and grows with what is outstanding.
    pub(crate) fn open(max_outstanding: u32) -> Self {
        Self::new(vec![BACK; 2 * FIRST_LEN as usize], FIRST_LEN, ring_len(max_outstanding))
    }

    fn new(ring: Vec<Nanos>, len: u32, max_len: u32) -> Self {
        Self {
            ring: ring.into(),
            len,
            max_len,
            outstanding: 0,
            oldest: 0,
            next: 0,
            expected: 0,
            lost: 0,
            has_answered: false,
        }
    }

    /// Messages sent and neither back nor given up.
    #[inline]
    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Returns the number of the oldest message that is not back.
    #[inline]
    pub(crate) fn oldest(&self) -> Option<u64> {
        (self.outstanding > 0).then_some(self.oldest)
    }

    /// Returns the number of the oldest message that is not back, or of the next where all are.
    pub(crate) fn oldest_or_next(&self) -> u64 {
        self.oldest
    }

    /// Returns the numbers of the outstanding messages, oldest first.
    pub(crate) fn due(&self) -> impl Iterator<Item = u64> + '_ {
        (self.oldest..self.next).filter(|&sequence| self.ring[self.slot(sequence)] != BACK)
    }

    /// Returns true if a message is outstanding.
    pub(crate) fn is_due(&self, sequence: u64) -> bool {
        (self.oldest..self.next).contains(&sequence) && self.ring[self.slot(sequence)] != BACK
    }

    /// Returns the time of sending of an outstanding message.
    pub(crate) fn sent_at(&self, sequence: u64) -> Option<Nanos> {
        self.is_due(sequence).then(|| self.times(self.slot(sequence)))?.map(|times| times.sent)
    }

    /// Returns the number of the message that is sent next.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Returns the number of messages that came back, right or wrong.
    pub(crate) fn answered(&self) -> u64 {
        self.next - u64::from(self.outstanding) - self.lost
    }

    /// Returns true if a message has come back on the current connection of this place.
    pub(crate) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Returns the number of messages that will not come back.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Returns the outstanding messages, oldest first, and true if a later one has come back.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = (Times, bool)> + '_ {
        let all = self.oldest..self.next;
        all.filter_map(|sequence| {
            Some((self.times(self.slot(sequence))?, sequence < self.expected))
        })
    }

    /// Returns true if the counts agree with the slots of the ring: each outstanding message has
    /// one slot, and no other message has one.
    pub(crate) fn is_balanced(&self) -> bool {
        let slots = self.unanswered().count() as u64;
        let taken =
            self.ring[..self.len as usize].iter().filter(|&&due| due != BACK).count() as u64;
        slots == u64::from(self.outstanding) && taken == slots && self.lost + slots <= self.next
    }

    pub(crate) fn has_sent(&self, sequence: u64) -> bool {
        sequence < self.next
    }

    /// Enters the message of the number [`next`](Self::next). Returns the number of messages (0 or
    /// 1) that are given up as lost to make room for it.
    #[inline]
    pub(crate) fn send(&mut self, times: Times) -> u64 {
        let mut lost = 0;
        if self.next - self.oldest == u64::from(self.len) {
            lost = self.make_room();
        }
        let at = self.slot(self.next);
        self.ring[at] = times.due;
        if let Some(sent) = self.ring.get_mut(at + self.len as usize) {
            *sent = times.sent;
        }
        self.next += 1;
        self.outstanding += 1;
        lost
    }

    /// Moves the time of sending of the messages from `first` on. In a closed loop they are due
    /// then, too.
    pub(crate) fn delay_from(&mut self, first: u64, by: Duration) {
        for sequence in first.max(self.oldest)..self.next {
            let at = self.slot(sequence);
            if self.ring[at] != BACK {
                let second_half = at + self.len as usize;
                let at = if second_half < self.ring.len() { second_half } else { at };
                self.ring[at] = self.ring[at] + by;
            }
        }
    }

    /// Enters the arrival of a message that [was sent](Self::has_sent). Returns its times, and true
    /// where a later message had come before it; `None` where it had come before itself.
    #[inline]
    pub(crate) fn receive(&mut self, sequence: u64) -> Option<(Times, bool)> {
        debug_assert!(self.has_sent(sequence));
        let times = self.times(self.slot(sequence)).filter(|_| sequence >= self.oldest)?;
        self.clear(sequence);
        self.has_answered = true;
        let is_late = sequence < self.expected;
        self.expected = self.expected.max(sequence + 1);
        Some((times, is_late))
    }

    /// Gives up the outstanding messages for a new connection in this place. Returns how many
    /// messages are lost. Sequence numbers continue, so that an echo of the old connection is not
    /// taken for one of the new.
    pub(crate) fn begin_anew(&mut self) -> u32 {
        self.ring.fill(BACK);
        let lost = std::mem::take(&mut self.outstanding);
        self.lost += u64::from(lost);
        (self.oldest, self.expected, self.has_answered) = (self.next, self.next, false);
        lost
    }

    /// Gives up the outstanding messages for which `is_lost` returns true. Returns how many.
    pub(crate) fn give_up(&mut self, mut is_lost: impl FnMut(Times, bool) -> bool) -> u32 {
        let mut count = 0;
        for sequence in self.oldest..self.next {
            let at = self.slot(sequence);
            if self.times(at).is_some_and(|times| is_lost(times, sequence < self.expected)) {
                self.ring[at] = BACK;
                count += 1;
            }
        }
        self.outstanding -= count;
        self.lost += u64::from(count);
        self.pass_answered();
        count
    }

    fn clear(&mut self, sequence: u64) {
        let at = self.slot(sequence);
        self.ring[at] = BACK;
        self.outstanding -= 1;
        self.pass_answered();
    }

    /// Moves on to the oldest outstanding message.
    #[inline]
    fn pass_answered(&mut self) {
        while self.oldest < self.next && self.ring[self.slot(self.oldest)] == BACK {
            self.oldest += 1;
        }
    }

    #[cold]
    fn make_room(&mut self) -> u64 {
        if self.len < self.max_len {
            self.grow();
            return 0;
        }
        self.clear(self.oldest);
        self.lost += 1;
        1
    }

    /// Doubles the ring (of an open loop: a closed one has all that it may have).
    fn grow(&mut self) {
        let (old, len) = (self.len as usize, self.len as usize * 2);
        let mut ring = vec![BACK; 2 * len];
        for sequence in self.oldest..self.next {
            let (from, to) = (sequence as usize & (old - 1), sequence as usize & (len - 1));
            ring[to] = self.ring[from];
            ring[to + len] = self.ring[from + old];
        }
        self.ring = ring.into();
        self.len *= 2;
    }

    /// Returns the times in a slot; `None` where its message is back.
    #[inline]
    fn times(&self, at: usize) -> Option<Times> {
        let due = self.ring[at];
        let sent = self.ring.get(at + self.len as usize).copied().unwrap_or(due);
        (due != BACK).then_some(Times { due, sent })
    }

    #[inline]
    fn slot(&self, sequence: u64) -> usize {
        sequence as usize & (self.len as usize - 1)
    }
}

fn ring_len(depth: u32) -> u32 {
    depth.saturating_mul(PATIENCE).checked_next_power_of_two().unwrap_or(1 << 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(time: u64) -> Times {
        Times { due: Nanos(time), sent: Nanos(time) }
    }

    fn sent(pipeline: u32, count: u64) -> Ledger {
        let mut ledger = Ledger::closed(pipeline);
        for i in 0..count {
            assert_eq!(ledger.send(at(i)), 0);
        }
        ledger
    }

    #[test]
    fn messages_in_order_come_back_with_their_times() {
        let mut ledger = sent(4, 4);
        for i in 0..4 {
            assert_eq!(ledger.oldest(), Some(i));
            assert_eq!(ledger.receive(i), Some((at(i), false)));
        }
        assert_eq!((ledger.outstanding(), ledger.oldest()), (0, None));
        assert!(!ledger.has_sent(4));
    }

    #[test]
    fn time_of_sending_is_moved_for_the_messages_asked_for() {
        let by = Duration::from_nanos(50);
        let mut closed = sent(4, 4);
        closed.delay_from(2, by);
        for (sequence, time) in [(0, 0), (1, 1), (2, 52), (3, 53)] {
            assert_eq!(closed.receive(sequence), Some((at(time), false)));
        }
        closed.delay_from(0, by);
        assert_eq!(closed.outstanding(), 0);
        let mut open = Ledger::open(64);
        assert_eq!((0..9).map(|i| open.send(at(i))).sum::<u64>(), 0);
        open.delay_from(8, by);
        assert_eq!(open.receive(7), Some((at(7), false)));
        let moved = Times { due: Nanos(8), sent: Nanos(58) };
        assert_eq!(open.receive(8), Some((moved, false)));
        assert!(open.is_balanced());
    }

    #[test]
    fn the_one_that_was_overtaken_is_late() {
        let mut ledger = sent(4, 4);
        assert_eq!(ledger.receive(1), Some((at(1), false)));
        assert_eq!(ledger.receive(2), Some((at(2), false)));
        assert_eq!(ledger.receive(0), Some((at(0), true)));
        assert_eq!(ledger.receive(3), Some((at(3), false)));
    }

    #[test]
    fn the_second_arrival_is_known_before_and_after_older_ones_are_back() {
        let mut ledger = sent(4, 4);
        ledger.receive(1);
        assert_eq!(ledger.receive(1), None);
        ledger.receive(0);
        assert_eq!(ledger.receive(0), None);
        assert_eq!(ledger.receive(1), None);
        assert_eq!(ledger.outstanding(), 2);
    }

    #[test]
    fn a_missing_message_is_given_up_after_four_times_the_depth() {
        let mut ledger = sent(2, 2);
        ledger.receive(1);
        for i in 2..8 {
            assert_eq!(ledger.send(at(i)), 0);
            assert!(matches!(ledger.receive(i), Some((_, false))));
        }
        assert_eq!(ledger.outstanding(), 1);
        assert_eq!(ledger.send(at(8)), 1);
        assert_eq!((ledger.outstanding(), ledger.oldest()), (1, Some(8)));
        assert_eq!(ledger.receive(0), None);
    }

    #[test]
    fn an_open_loop_grows_with_what_is_outstanding_and_keeps_both_times() {
        let mut ledger = Ledger::open(4096);
        let times = |i: u64| Times { due: Nanos(10 * i), sent: Nanos(10 * i + 3) };
        for i in 0..3000 {
            assert_eq!(ledger.send(times(i)), 0);
            // Out of step with the powers of two.
            if i == 5 {
                (0..3).for_each(|i| assert_eq!(ledger.receive(i), Some((times(i), false))));
            }
        }
        assert_eq!(ledger.outstanding(), 2997);
        (3..3000).for_each(|i| assert_eq!(ledger.receive(i), Some((times(i), false))));
        assert_eq!(ledger.outstanding(), 0);
    }

    #[test]
    fn an_open_loop_gives_up_after_four_times_what_may_be_outstanding() {
        let mut ledger = Ledger::open(2);
        ledger.send(at(0));
        for i in 1..8 {
            assert_eq!(ledger.send(at(i)), 0);
            ledger.receive(i);
        }
        assert_eq!(ledger.send(at(8)), 1);
    }

    #[test]
    fn a_new_connection_owes_nothing_and_counts_on() {
        let mut ledger = sent(4, 3);
        ledger.receive(1);
        assert_eq!(ledger.begin_anew(), 2);
        assert_eq!((ledger.outstanding(), ledger.next(), ledger.oldest()), (0, 3, None));
        assert_eq!((ledger.next(), ledger.answered(), ledger.lost()), (3, 1, 2));
        assert_eq!(ledger.receive(2), None);
        ledger.send(at(9));
        assert_eq!(ledger.receive(3), Some((at(9), false)));
    }

    #[test]
    fn gives_up_chosen_messages_only() {
        let mut ledger = Ledger::open(8);
        (0..5).for_each(|i| assert_eq!(ledger.send(at(10 * i)), 0));
        ledger.receive(2);
        let unanswered: Vec<_> =
            ledger.unanswered().map(|(times, overtaken)| (times.due.0, overtaken)).collect();
        assert_eq!(unanswered, [(0, true), (10, true), (30, false), (40, false)]);
        assert_eq!(ledger.give_up(|times, overtaken| overtaken || times.sent == Nanos(40)), 3);
        assert_eq!((ledger.outstanding(), ledger.oldest()), (1, Some(3)));
        assert_eq!((ledger.answered(), ledger.lost()), (1, 3));
        assert!(ledger.is_balanced());
    }

    /// Event in the history of one place's messages.
    #[derive(Clone, Debug)]
    enum Step {
        Send,
        /// Receive the echo of a message this many places behind the last one sent.
        Receive(u64),
        Replace,
        GiveUpOvertaken,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Send),
            4 => (0..40_u64).prop_map(Step::Receive),
            1 => Just(Step::Replace),
            1 => Just(Step::GiveUpOvertaken),
        ];
        proptest::collection::vec(step, 0..300)
    }

    proptest! {
        /// Sent messages are those that came back, are lost or are outstanding, after every step of
        /// every history.
        #[test]
        fn every_message_has_one_outcome(steps in steps(), is_open in any::<bool>(), depth in 1..9_u32) {
            let mut ledger = if is_open { Ledger::open(depth) } else { Ledger::closed(depth) };
            let (mut sent, mut answered, mut lost) = (0_u64, 0_u64, 0_u64);
            for (time, step) in (0..).zip(steps) {
                match step {
                    Step::Send => {
                        sent += 1;
                        lost += ledger.send(at(time));
                    }
                    Step::Receive(behind) if behind < sent => {
                        answered += u64::from(ledger.receive(sent - 1 - behind).is_some());
                    }
                    Step::Receive(_) => {}
                    Step::Replace => lost += u64::from(ledger.begin_anew()),
                    Step::GiveUpOvertaken => lost += u64::from(ledger.give_up(|_, overtaken| overtaken)),
                }
                prop_assert!(ledger.is_balanced());
                prop_assert_eq!((ledger.next(), ledger.answered(), ledger.lost()), (sent, answered, lost));
                prop_assert_eq!(sent, answered + lost + u64::from(ledger.outstanding()));
            }
        }
    }

    #[test]
    fn a_connection_with_one_message_at_a_time_is_small() {
        let bytes = |ledger: &Ledger| size_of::<Ledger>() + size_of_val(&*ledger.ring);
        assert!(bytes(&Ledger::closed(1)) <= 128);
        assert!(bytes(&Ledger::open(4096)) <= 128);
    }
}

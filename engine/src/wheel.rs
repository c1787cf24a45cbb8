//! Coarse timing wheel with one entry per slot. It is never early. It is late by at most two ticks
//! and the length of a turn, and by a turn more for every [`PER_TURN`] deadlines that pass at once.
//!
//! To move a deadline later, which can happen with every message, only the new time is written. The
//! entry stays in its bucket, and moves to the right one when the bucket's tick comes.

use std::time::Duration;

use crate::time::Nanos;

/// Duration of a tick.
pub(crate) const TICK: Duration = Duration::from_millis(10);
const TICK_NS: u64 = TICK.as_nanos() as u64;
/// Number of buckets, a power of two: 41 s. Later deadlines wait in the last bucket, and are queued
/// again when its tick comes.
const BUCKETS: u64 = 4096;
const NIL: u32 = u32::MAX;
/// Set in the `prev` of the first entry of a bucket, beside the bucket's index.
const HEAD: u32 = 1 << 31;
/// Most deadlines that a turn handles. A deadline often closes its connection, which takes some 10
/// us, and input that has arrived meanwhile waits for the end of the turn.
pub(crate) const PER_TURN: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Nanos,
    next: u32,
    /// Entry before this one; of a bucket's first one the bucket, with [`HEAD`]; NIL where the
    /// entry is not queued.
    prev: u32,
}

const IDLE: Entry = Entry { at: Nanos::NEVER, next: NIL, prev: NIL };

const _: () = assert!(size_of::<Entry>() == 16, "every connection has one");

/// Deadlines of numbered slots.
#[derive(Debug)]
pub(crate) struct Wheel {
    entries: Vec<Entry>,
    heads: Box<[u32]>,
    occupied: Box<[u64]>,
    queued: usize,
    /// Last tick that has been handled.
    done: u64,
    /// Last tick that has been begun: later than `done` where slots of it are still to be handled.
    begun: u64,
}

impl Wheel {
    /// An empty wheel at time `now`, with memory for `slots` slots.
    pub(crate) fn new(now: Nanos, slots: usize) -> Self {
        Self {
            entries: Vec::with_capacity(slots),
            heads: vec![NIL; BUCKETS as usize].into_boxed_slice(),
            occupied: vec![0; (BUCKETS / 64) as usize].into_boxed_slice(),
            queued: 0,
            done: now.0 / TICK_NS,
            begun: now.0 / TICK_NS,
        }
    }

    /// Sets the deadline of `slot`. [`Nanos::NEVER`] unsets it.
    pub(crate) fn set(&mut self, slot: u32, at: Nanos) {
        if at == Nanos::NEVER && self.entries.len() <= slot as usize {
            return;
        }
        if self.entries.len() <= slot as usize {
            self.entries.resize(slot as usize + 1, IDLE);
        }
        let entry = &mut self.entries[slot as usize];
        let earlier = at < entry.at;
        entry.at = at;
        if entry.prev == NIL {
            if at != Nanos::NEVER {
                self.insert(slot);
            }
        } else if earlier {
            // Its bucket may come after the new time. A later time needs nothing: see `expire`.
            self.remove(slot);
            self.insert(slot);
        }
    }

    /// Moves slots whose deadline has passed at `now` to `due`, until it has `most`, and unsets
    /// their deadlines.
    pub(crate) fn expire(&mut self, now: Nanos, most: usize, due: &mut Vec<u32>) {
        let current = now.0 / TICK_NS;
        if self.queued > 0 {
            // After a long sleep, one round over all buckets visits every entry.
            let first = (self.done + 1).max((current + 1).saturating_sub(BUCKETS));
            for tick in first..=current {
                self.begun = tick;
                if !self.expire_tick(tick, now, most, due) {
                    return;
                }
                self.done = tick;
            }
        }
        self.done = self.done.max(current);
        self.begun = self.done;
    }

    /// Handles the entries of a tick; returns whether that were all.
    fn expire_tick(&mut self, tick: u64, now: Nanos, most: usize, due: &mut Vec<u32>) -> bool {
        // Entries that are queued again go to later ticks than `begun`, never to this bucket.
        let mut slot = self.heads[(tick % BUCKETS) as usize];
        while slot != NIL {
            if due.len() >= most {
                return false;
            }
            let Entry { at, next, .. } = self.entries[slot as usize];
            self.remove(slot);
            if at == Nanos::NEVER {
                // The deadline was unset.
            } else if at <= now {
                self.entries[slot as usize].at = Nanos::NEVER;
                due.push(slot);
            } else {
                self.insert(slot);
            }
            slot = next;
        }
        true
    }

    /// Time at which [`Wheel::expire`] is to be called next: never too late, perhaps for nothing.
    pub(crate) fn next(&self) -> Option<Nanos> {
        if self.queued == 0 {
            return None;
        }
        let start = (self.done + 1) % BUCKETS;
        let words = BUCKETS / 64;
        // One round from the word of `start` on; that word's lower bits come last.
        for step in 0..=words {
            let index = (start / 64 + step) % words;
            let mut word = self.occupied[index as usize];
            if step == 0 {
                word &= u64::MAX << (start % 64);
            }
            if word != 0 {
                let bucket = index * 64 + u64::from(word.trailing_zeros());
                let ticks_on = (bucket + BUCKETS - start) % BUCKETS;
                return Some(Nanos((self.done + 1 + ticks_on) * TICK_NS));
            }
        }
        None
    }

    /// Queues an entry in the bucket of the first tick that begins at or after its time.
    fn insert(&mut self, slot: u32) {
        let at = self.entries[slot as usize].at;
        let tick = at.0.div_ceil(TICK_NS).clamp(self.begun + 1, self.begun + BUCKETS - 1);
        let bucket = (tick % BUCKETS) as u32;
        let head = self.heads[bucket as usize];
        let entry = &mut self.entries[slot as usize];
        (entry.next, entry.prev) = (head, HEAD | bucket);
        if head != NIL {
            self.entries[head as usize].prev = slot;
        }
        self.heads[bucket as usize] = slot;
        self.occupied[(bucket / 64) as usize] |= 1 << (bucket % 64);
        self.queued += 1;
    }

    fn remove(&mut self, slot: u32) {
        let Entry { next, prev, .. } = self.entries[slot as usize];
        if prev & HEAD == 0 {
            self.entries[prev as usize].next = next;
        } else {
            let bucket = prev & !HEAD;
            self.heads[bucket as usize] = next;
            if next == NIL {
                self.occupied[(bucket / 64) as usize] &= !(1 << (bucket % 64));
            }
        }
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        let entry = &mut self.entries[slot as usize];
        (entry.next, entry.prev) = (NIL, NIL);
        self.queued -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Nanos {
        Nanos(n * 1_000_000)
    }

    fn due(wheel: &mut Wheel, now: Nanos) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.expire(now, usize::MAX, &mut due);
        due.sort_unstable();
        due
    }

    /// Expires in turns of at most `most` slots.
    fn due_in_turns(wheel: &mut Wheel, now: Nanos, most: usize) -> Vec<u32> {
        let mut all = Vec::new();
        loop {
            let next = wheel.next();
            let mut due = Vec::new();
            wheel.expire(now, most, &mut due);
            assert!(due.len() <= most);
            assert!(due.is_empty() || next.is_some_and(|next| next <= now), "the rest would wait");
            all.extend_from_slice(&due);
            if due.len() < most {
                return all;
            }
        }
    }

    #[test]
    fn never_early_and_once() {
        let mut wheel = Wheel::new(ms(1000), 4);
        wheel.set(3, ms(1055));
        assert_eq!(wheel.next(), Some(ms(1060)));
        assert!(due(&mut wheel, ms(1054)).is_empty());
        assert_eq!(due(&mut wheel, ms(1060)), [3]);
        assert_eq!(wheel.next(), None);
        assert!(due(&mut wheel, ms(5000)).is_empty());
    }

    #[test]
    fn moved_later_earlier_and_unset() {
        let mut wheel = Wheel::new(ms(0), 4);
        wheel.set(0, ms(100));
        wheel.set(0, ms(300));
        wheel.set(1, ms(300));
        wheel.set(1, ms(50));
        wheel.set(2, ms(60));
        wheel.set(2, Nanos::NEVER);
        assert_eq!(due(&mut wheel, ms(200)), [1]);
        assert_eq!(due(&mut wheel, ms(310)), [0]);
        assert_eq!(wheel.queued, 0);
    }

    #[test]
    fn beyond_one_round_and_after_a_long_sleep() {
        let mut wheel = Wheel::new(ms(0), 4);
        wheel.set(0, ms(100_000));
        wheel.set(1, ms(41_000));
        assert_eq!(due(&mut wheel, ms(60_000)), [1]);
        assert!(due(&mut wheel, ms(99_999)).is_empty());
        assert_eq!(due(&mut wheel, ms(1_000_000)), [0]);
    }

    /// Checks that slots whose deadline is set anew between turns do not hold back the others.
    #[test]
    fn a_burst_is_handled_in_turns_without_starving() {
        let mut wheel = Wheel::new(ms(0), 100);
        (0..100).for_each(|slot| wheel.set(slot, ms(50)));
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10 {
            assert_eq!(wheel.next(), Some(ms(50)));
            let mut due = Vec::new();
            wheel.expire(ms(57), 10, &mut due);
            assert_eq!(due.len(), 10);
            for slot in due {
                seen.insert(slot);
                wheel.set(slot, ms(51));
            }
        }
        assert_eq!(seen.len(), 100);
        assert_eq!(due(&mut wheel, ms(60)).len(), 100);
    }

    proptest! {
        /// Against a list: due when passed, never before, and `next` never sleeps past a deadline
        /// by more than a tick.
        #[test]
        fn agrees_with_a_list(
            ops in prop::collection::vec((0u32..8, 0u64..120_000, 1u64..3_000), 1..200),
            most in 1usize..9,
        ) {
            let mut wheel = Wheel::new(ms(5), 1);
            let mut list = [Nanos::NEVER; 8];
            let mut now = 5;
            for (slot, ahead, step) in ops {
                let at = if ahead > 110_000 { Nanos::NEVER } else { ms(now + ahead) };
                wheel.set(slot, at);
                list[slot as usize] = at;
                now += step;
                if let Some(next) = wheel.next() {
                    let first = list.iter().min().copied().unwrap_or(Nanos::NEVER);
                    prop_assert!(next <= first + 2 * TICK);
                }
                for slot in due_in_turns(&mut wheel, ms(now), most) {
                    prop_assert!(list[slot as usize] <= ms(now));
                    list[slot as usize] = Nanos::NEVER;
                }
                for at in list {
                    prop_assert!(at + 2 * TICK > ms(now));
                }
            }
        }
    }
}

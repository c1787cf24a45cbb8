//! Which receive buffers are offered to the kernel.
//!
//! The kernel takes buffers in the order in which they were offered. With all of them in the ring each would come round only
//! after all the others, and would be out of the cache by then; and all would have been written to, however few are needed.
//! So only as many are offered as the turns take, and the rest lie idle, the last one used on top. Where buffers come well filled it
//! is one at a time, and receives queue for it ([`ReceiveQueue`](super::receive_queue::ReceiveQueue)).

/// Offered at the start, and never fewer afterwards but where buffers come well filled.
const LEAST: usize = 4;
/// What the offered buffers hold together, at most, when filled as those of the round before: well inside a core's own cache.
const BYTES: usize = 256 << 10;
/// So many rounds without need make the set smaller.
const WINDOW: u32 = 1024;

/// The offered buffers' number, and the idle ones. A round is from one [`HotSet::end_round`] to the next: what one enter took.
pub(super) struct HotSet {
    all: usize,
    /// Bytes from which on a buffer is well filled.
    large: usize,
    /// Those of the last round that took any were well filled, on average.
    one_by_one: bool,
    /// Used again from the end.
    idle: Vec<u16>,
    offered: usize,
    wanted: usize,
    /// Taken by the kernel in this round.
    taken: usize,
    /// Bytes in those.
    filled: usize,
    /// The kernel wanted one more than there was.
    dry: bool,
    /// Most that a round of this window took.
    most: usize,
    rounds: u32,
}

impl HotSet {
    /// Of `all` buffers, none of them offered yet; `large` bytes fill one well.
    pub(super) fn new(all: usize, large: usize) -> Self {
        let idle = (0..all).rev().map(|id| id as u16).collect();
        Self {
            all,
            large,
            one_by_one: false,
            idle,
            offered: 0,
            wanted: LEAST.min(all),
            taken: 0,
            filled: 0,
            dry: false,
            most: 0,
            rounds: 0,
        }
    }

    /// The kernel took an offered buffer and put so many bytes into it.
    pub(super) fn taken(&mut self, bytes: usize) {
        self.offered -= 1;
        self.taken += 1;
        self.filled += bytes;
    }

    /// A receive ended because no buffer was offered.
    pub(super) fn ran_dry(&mut self) {
        self.dry = true;
    }

    /// Nothing names this buffer any more.
    pub(super) fn put(&mut self, id: u16) {
        self.idle.push(id);
    }

    /// Buffers come well filled: one is offered at a time.
    pub(super) fn one_by_one(&self) -> bool {
        self.one_by_one
    }

    /// Buffers that the kernel has not taken.
    pub(super) fn offered(&self) -> usize {
        self.offered
    }

    /// A buffer to offer, while there are fewer than wanted.
    pub(super) fn next(&mut self) -> Option<u16> {
        if self.offered >= self.wanted {
            return None;
        }
        let id = self.idle.pop()?;
        self.offered += 1;
        Some(id)
    }

    /// Settles how many the next round may need: what this one took and a quarter more, twice as many as before where that was too
    /// few, and fewer only after a whole window in which fewer would have done; but no more than go into the cache, and one where
    /// they come well filled.
    pub(super) fn end_round(&mut self) {
        if let Some(average) = self.filled.checked_div(self.taken) {
            self.one_by_one = average >= self.large;
        }
        let in_cache = (self.taken * BYTES).checked_div(self.filled).unwrap_or(self.all);
        let room = if self.one_by_one { 1 } else { in_cache.max(LEAST) };
        let doubled = if self.dry { self.wanted * 2 } else { 0 };
        self.most = self.most.max(self.taken);
        self.rounds += 1;
        if self.rounds == WINDOW {
            self.wanted = with_room(self.most);
            (self.rounds, self.most) = (0, 0);
        }
        let needed = self.wanted.max(with_room(self.taken)).max(doubled);
        self.wanted = needed.min(room).min(self.all);
        (self.taken, self.filled, self.dry) = (0, 0, false);
    }
}

fn with_room(taken: usize) -> usize {
    taken + taken / 4 + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round in which the kernel takes `n` of what is offered, and all of it comes back. What was offered, at the end.
    fn round(set: &mut HotSet, n: usize) -> Vec<u16> {
        round_of(set, n, 32)
    }

    /// The same with so many bytes in each.
    fn round_of(set: &mut HotSet, n: usize, bytes: usize) -> Vec<u16> {
        let mut taken = Vec::new();
        for id in 0..n {
            if set.offered == 0 {
                set.ran_dry();
                break;
            }
            set.taken(bytes);
            taken.push(id as u16);
        }
        set.end_round();
        taken.drain(..).for_each(|id| set.put(id));
        std::iter::from_fn(|| set.next()).collect()
    }

    #[test]
    fn as_many_are_offered_as_are_taken_and_some_more() {
        let mut set = HotSet::new(128, 12 << 10);
        assert_eq!(round(&mut set, 0), [0, 1, 2, 3], "few at the start");
        round(&mut set, 40);
        assert_eq!(set.wanted, 8, "too few: twice as many");
        for _ in 0..4 {
            round(&mut set, 40);
        }
        assert_eq!((set.wanted, set.offered), (64, 64));
        for _ in 0..2 * WINDOW {
            round(&mut set, 8);
        }
        assert_eq!((set.wanted, set.offered), (12, 12), "fewer after a window that took fewer");
    }

    #[test]
    fn full_buffers_come_one_at_a_time() {
        let mut set = HotSet::new(128, 12 << 10);
        for _ in 0..20 {
            round_of(&mut set, 40, 64 << 10);
        }
        assert_eq!((set.wanted, set.one_by_one()), (1, true));
        round_of(&mut set, 0, 0);
        assert!(set.one_by_one(), "a round that took nothing says nothing");
        for _ in 0..20 {
            round_of(&mut set, 40, 8 << 10);
        }
        assert_eq!((set.wanted, set.one_by_one()), (32, false), "256 KiB of them");
    }

    #[test]
    fn never_more_than_there_are() {
        let mut set = HotSet::new(2, 12 << 10);
        assert_eq!(round(&mut set, 0), [0, 1]);
        for _ in 0..10 {
            round(&mut set, 5);
        }
        assert_eq!((set.wanted, set.offered), (2, 2));
    }

    #[test]
    fn the_last_one_used_is_used_first() {
        let mut set = HotSet::new(8, 12 << 10);
        assert_eq!(round(&mut set, 0), [0, 1, 2, 3]);
        set.taken(1);
        set.put(0);
        assert_eq!(set.next(), Some(0));
    }
}

//! Number of receive buffers that the kernel is offered.
//!
//! The kernel takes buffers in the order in which they were offered. If all were offered, each
//! would be used again only after all others, when it has left the cache. Also, all of their memory
//! would be in use, even if few buffers are needed. So only as many are offered as a turn needs.
//! The others are idle, and the one used last is offered first. Where receives are large, one
//! buffer is offered at a time, and receives queue for it
//! ([`ReceiveQueue`](super::receive_queue::ReceiveQueue)).

/// Buffers offered at the start, and at least afterwards unless receives are large.
const LEAST: usize = 4;
/// Bytes that the offered buffers hold together at most, when filled as those of the round before:
/// well inside a core's own cache.
const CACHED_BYTES: usize = 256 << 10;
/// Rounds without need after which fewer buffers are offered.
const WINDOW: u32 = 1024;

/// Counts of offered and idle buffers. A round is the time between two calls of
/// [`Supply::end_round`]: the receives of one enter.
pub(super) struct Supply {
    /// Number of all buffers.
    all: usize,
    /// Bytes from which on a buffer counts as well filled.
    large: usize,
    /// True if the buffers of the last non-empty round held at least `large` bytes on average.
    one_by_one: bool,
    /// Idle buffers; the last one is used next.
    idle: Vec<u16>,
    /// Buffers that the kernel has been offered and has not taken.
    offered: usize,
    /// Buffers to be offered at the same time.
    wanted: usize,
    /// Buffers that the kernel has taken in this round.
    taken: usize,
    /// Bytes in those.
    filled: usize,
    /// True if the kernel found no buffer in this round.
    dry: bool,
    /// Most buffers taken in a round of this window.
    most: usize,
    /// Rounds of this window.
    rounds: u32,
}

impl Supply {
    /// A supply of `all` buffers, none of them offered. A buffer of `large` bytes or more counts as
    /// well filled.
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

    /// Records that the kernel has put `bytes` bytes into an offered buffer.
    pub(super) fn taken(&mut self, bytes: usize) {
        self.offered -= 1;
        self.taken += 1;
        self.filled += bytes;
    }

    /// Records that a receive has ended because no buffer was offered.
    pub(super) fn ran_dry(&mut self) {
        self.dry = true;
    }

    /// Makes a buffer idle.
    pub(super) fn put(&mut self, id: u16) {
        self.idle.push(id);
    }

    /// Returns whether one buffer is offered at a time, because receives are large.
    pub(super) fn is_one_by_one(&self) -> bool {
        self.one_by_one
    }

    /// Number of buffers that the kernel has been offered and has not taken.
    pub(super) fn offered(&self) -> usize {
        self.offered
    }

    /// Takes an idle buffer to offer, while fewer are offered than wanted.
    pub(super) fn next(&mut self) -> Option<u16> {
        if self.offered >= self.wanted {
            return None;
        }
        let id = self.idle.pop()?;
        self.offered += 1;
        Some(id)
    }

    /// Decides how many buffers the next round is offered: what this one took and a quarter more,
    /// and twice as many as before where that was too few. The number falls only after a whole
    /// window in which fewer would have sufficed. It is bounded by the cache, and is one where
    /// receives are large.
    pub(super) fn end_round(&mut self) {
        if let Some(average) = self.filled.checked_div(self.taken) {
            self.one_by_one = average >= self.large;
        }
        let in_cache = (self.taken * CACHED_BYTES).checked_div(self.filled).unwrap_or(self.all);
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

    /// A round in which the kernel takes `n` buffers, all of which are returned. The buffers that
    /// are offered next.
    fn round(set: &mut Supply, n: usize) -> Vec<u16> {
        round_of(set, n, 32)
    }

    /// The same with `bytes` bytes in each buffer.
    fn round_of(set: &mut Supply, n: usize, bytes: usize) -> Vec<u16> {
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
        let mut set = Supply::new(128, 12 << 10);
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
        let mut set = Supply::new(128, 12 << 10);
        for _ in 0..20 {
            round_of(&mut set, 40, 64 << 10);
        }
        assert_eq!((set.wanted, set.is_one_by_one()), (1, true));
        round_of(&mut set, 0, 0);
        assert!(set.is_one_by_one(), "a round that took nothing says nothing");
        for _ in 0..20 {
            round_of(&mut set, 40, 8 << 10);
        }
        assert_eq!((set.wanted, set.is_one_by_one()), (32, false), "256 KiB of them");
    }

    #[test]
    fn never_more_than_there_are() {
        let mut set = Supply::new(2, 12 << 10);
        assert_eq!(round(&mut set, 0), [0, 1]);
        for _ in 0..10 {
            round(&mut set, 5);
        }
        assert_eq!((set.wanted, set.offered), (2, 2));
    }

    #[test]
    fn the_last_one_used_is_used_first() {
        let mut set = Supply::new(8, 12 << 10);
        assert_eq!(round(&mut set, 0), [0, 1, 2, 3]);
        set.taken(1);
        set.put(0);
        assert_eq!(set.next(), Some(0));
    }
}

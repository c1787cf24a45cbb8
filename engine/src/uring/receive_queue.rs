//! Whose receive comes next, where what comes is large.
//!
//! A large message costs least while it is in the cache: received, worked on and sent before the next one is received. So where
//! receives bring much, one buffer is offered at a time ([`HotSet::one_by_one`](super::hot_set::HotSet::one_by_one)), and a
//! connection's receive does not go on by itself: it joins a queue, and is made again for one buffer.

use std::collections::VecDeque;

/// So many receives in a row one connection may have because it has more to read, and so many those known to have something
/// before one that is not: nobody waits without end.
const IN_A_ROW: u32 = 8;

/// Connections, by slot, whose next receive waits.
#[derive(Default)]
pub(super) struct ReceiveQueue {
    /// Something has arrived there.
    ready: VecDeque<u32>,
    /// Have been emptied. Whether more has come nobody knows; a receive made too early finds nothing and costs a detour through the
    /// kernel's polling, so they rest for as long as others are ready.
    resting: VecDeque<u32>,
    /// Put in front since one was last put behind.
    fronted: u32,
    /// Taken since one of the resting was last given precedence.
    taken: u32,
}

impl ReceiveQueue {
    /// A receive found no buffer.
    pub(super) fn found_no_buffer(&mut self, slot: u32) {
        self.ready.push_back(slot);
    }

    /// A large receive left something.
    pub(super) fn has_more(&mut self, slot: u32) {
        if self.fronted < IN_A_ROW {
            self.fronted += 1;
            self.ready.push_front(slot);
        } else {
            self.fronted = 0;
            self.ready.push_back(slot);
        }
    }

    /// A large receive took everything there was.
    pub(super) fn had_all(&mut self, slot: u32) {
        self.fronted = 0;
        self.resting.push_back(slot);
    }

    /// Whose receive comes next.
    pub(super) fn next(&mut self) -> Option<u32> {
        self.taken += 1;
        if self.taken > IN_A_ROW || self.ready.is_empty() {
            self.taken = 0;
            self.resting.pop_front().or_else(|| self.ready.pop_front())
        } else {
            self.ready.pop_front()
        }
    }

    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.resting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_have_something_come_first_and_in_order() {
        let mut queue = ReceiveQueue::default();
        queue.had_all(1);
        queue.found_no_buffer(2);
        queue.found_no_buffer(3);
        queue.had_all(4);
        queue.has_more(5);
        let order: Vec<u32> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, [5, 2, 3, 1, 4]);
        assert!(queue.is_empty());
    }

    /// Receives until that of `slot`, while `again` says what becomes of those before.
    fn receives_until(slot: u32, queue: &mut ReceiveQueue, again: fn(&mut ReceiveQueue, u32)) -> u32 {
        for n in 1..1000 {
            match queue.next().expect("somebody waits") {
                s if s == slot => return n,
                other => again(queue, other),
            }
        }
        panic!("{slot} waits without end");
    }

    #[test]
    fn one_that_always_has_more_keeps_nobody_out() {
        let mut queue = ReceiveQueue::default();
        queue.has_more(1);
        queue.found_no_buffer(2);
        assert_eq!(receives_until(2, &mut queue, ReceiveQueue::has_more), IN_A_ROW + 1);
        queue.had_all(3);
        assert!(receives_until(3, &mut queue, ReceiveQueue::has_more) <= IN_A_ROW + 1);
    }

    #[test]
    fn those_who_find_no_buffer_again_and_again_keep_nobody_out() {
        let mut queue = ReceiveQueue::default();
        queue.had_all(3);
        queue.found_no_buffer(1);
        queue.found_no_buffer(2);
        assert_eq!(receives_until(3, &mut queue, ReceiveQueue::found_no_buffer), IN_A_ROW + 1);
    }
}

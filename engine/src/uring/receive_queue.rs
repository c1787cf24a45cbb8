//! Order of receives where they are large.
//!
//! A large message costs least while it is in the cache: received, handled and sent before the next
//! one is received. So if receives are large, one buffer is offered at a time
//! ([`Supply`](super::supply::Supply)), and a connection's receive is not armed again at once. The
//! connection joins a queue, and receives into one buffer when it reaches the front.

use std::collections::VecDeque;

/// Most consecutive receives for one connection that has more to read, so that the others are not
/// starved. It is also the most ready connections that receive before a resting one.
const IN_A_ROW: u32 = 16;

/// Connections, by slot, whose next receive waits.
#[derive(Default)]
pub(super) struct ReceiveQueue {
    /// Connections with something to read.
    ready: VecDeque<u32>,
    /// Connections whose last receive took everything, and which may have nothing to read. A
    /// receive that is armed too early finds nothing and has to be polled by the kernel. So these
    /// connections wait while others are ready.
    resting: VecDeque<u32>,
    /// Connections put in front since one was last put at the back.
    fronted: u32,
    /// Connections taken since a resting one last had precedence.
    taken: u32,
}

impl ReceiveQueue {
    /// Adds a connection whose receive found no buffer.
    pub(super) fn found_no_buffer(&mut self, slot: u32) {
        self.ready.push_back(slot);
    }

    /// Adds a connection whose large receive left bytes.
    pub(super) fn has_more(&mut self, slot: u32) {
        if self.fronted < IN_A_ROW {
            self.fronted += 1;
            self.ready.push_front(slot);
        } else {
            self.fronted = 0;
            self.ready.push_back(slot);
        }
    }

    /// Adds a connection whose large receive took everything.
    pub(super) fn took_all(&mut self, slot: u32) {
        self.fronted = 0;
        self.resting.push_back(slot);
    }

    /// Takes the connection that receives next.
    pub(super) fn next(&mut self) -> Option<u32> {
        self.taken += 1;
        if self.taken > IN_A_ROW || self.ready.is_empty() {
            self.taken = 0;
            self.resting.pop_front().or_else(|| self.ready.pop_front())
        } else {
            self.ready.pop_front()
        }
    }

    /// Returns whether no connection waits.
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
        queue.took_all(1);
        queue.found_no_buffer(2);
        queue.found_no_buffer(3);
        queue.took_all(4);
        queue.has_more(5);
        let order: Vec<u32> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, [5, 2, 3, 1, 4]);
        assert!(queue.is_empty());
    }

    /// Number of receives until that of `slot`; `again` puts the connections before it back.
    fn receives_until(
        slot: u32,
        queue: &mut ReceiveQueue,
        again: fn(&mut ReceiveQueue, u32),
    ) -> u32 {
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
        queue.took_all(3);
        assert!(receives_until(3, &mut queue, ReceiveQueue::has_more) <= IN_A_ROW + 1);
    }

    #[test]
    fn those_who_find_no_buffer_again_and_again_keep_nobody_out() {
        let mut queue = ReceiveQueue::default();
        queue.took_all(3);
        queue.found_no_buffer(1);
        queue.found_no_buffer(2);
        assert_eq!(receives_until(3, &mut queue, ReceiveQueue::found_no_buffer), IN_A_ROW + 1);
    }
}

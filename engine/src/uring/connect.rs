//! Outgoing connections.

use std::io;

use crate::connection::State;
use crate::connection::{Connect, Origin};
use crate::handler::Handler;
use crate::outgoing;
use crate::time::Nanos;
use crate::token::OpKind;
use crate::uring::Core;
use crate::uring::ring::{Completion, Op, Ring, TargetAddress};
use crate::uring::slot::{Connecting, Marks, Slot};

/// Slots for outgoing connections, behind those that the kernel fills on accept.
pub(super) struct FreeSlots {
    free: Vec<u32>,
    next: u32,
    end: u32,
}

impl FreeSlots {
    pub(super) fn new(first: u32, count: u32) -> Self {
        Self { free: Vec::new(), next: first, end: first.saturating_add(count) }
    }

    /// A free slot, the one freed last first.
    fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let slot = (self.next < self.end).then_some(self.next)?;
            self.next += 1;
            Some(slot)
        })
    }

    pub(super) fn put(&mut self, slot: u32) {
        self.free.push(slot);
    }
}

impl<R: Ring, H: Handler> Core<'_, R, H> {
    pub(super) fn begin_connect(&mut self, connect: &Connect) {
        let Some(slot) = self.connects.take() else {
            self.failed_connects.push((connect.tag, outgoing::too_many(self.config.max_connects)));
            return;
        };
        if let Err(error) = self.ring.socket(slot, connect.to, connect.from) {
            self.connects.put(slot);
            self.failed_connects.push((connect.tag, error));
            return;
        }
        self.make_room(slot);
        let timer = self.now.limit_after(connect.timeout);
        let s = &mut self.slots[slot as usize];
        s.state = State::Connecting;
        let target = TargetAddress::new(connect.to);
        let connecting =
            s.extra().connect.insert(Connecting { tag: connect.tag, target, timed_out: false, error: None });
        // The address lies in the connection's box until `opened`, long after the entry has been consumed.
        let to = &raw const connecting.target;
        let token = s.token(OpKind::Connect, slot);
        self.set_timer(slot, timer);
        self.push(token, Op::Connect { slot, to });
    }

    /// Makes the table long enough for a slot.
    pub(super) fn make_room(&mut self, slot: u32) {
        if self.slots.len() <= slot as usize {
            self.slots.resize_with(slot as usize + 1, Slot::free);
        }
    }

    pub(super) fn time_out_connect(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        if let Some(connecting) = s.extra.as_mut().and_then(|e| e.connect.as_mut()) {
            connecting.timed_out = true;
            let target = s.token(OpKind::Connect, slot);
            let token = s.token(OpKind::Cancel, slot);
            self.push(token, Op::Cancel { target });
        }
    }

    pub(super) fn on_connect(&mut self, handler: &mut H, c: Completion) {
        let slot = c.token.slot();
        let Some(s) = self.live(c.token) else { return };
        let Some(connecting) = s.extra.as_mut().and_then(|e| e.connect.as_mut()) else { return };
        if c.result == 0 {
            let tag = connecting.tag;
            s.extra = None;
            self.set_timer(slot, Nanos::NEVER);
            self.counters.connected += 1;
            self.open_connection(handler, slot, Origin::Connected { tag });
        } else {
            connecting.error = Some(if connecting.timed_out {
                outgoing::timed_out()
            } else {
                io::Error::from_raw_os_error(-c.result)
            });
            self.set_timer(slot, Nanos::NEVER);
            self.close_descriptor(slot);
        }
    }

    /// The connection is there: the handler gives it its state, and it is read from.
    pub(super) fn open_connection(&mut self, handler: &mut H, slot: u32, from: Origin) {
        self.open += 1;
        let s = &mut self.slots[slot as usize];
        s.state = State::Open;
        if matches!(from, Origin::Accepted { .. }) {
            s.marks.set(Marks::ACCEPTED);
        }
        let id = s.id(slot);
        let mut out = self.record.begin(self.now, 0, 0);
        let conn = handler.opened(id, from, &mut out);
        self.slots[slot as usize].conn = Some(conn);
        self.absorb(slot, crate::uring::Source::Nowhere);
        self.rearm.push(slot);
    }
}

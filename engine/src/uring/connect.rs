//! Outgoing connections, until they are open.

use std::io;

use crate::connection::{Connect, State};
use crate::outgoing;
use crate::time::Nanos;
use crate::token::OpKind;
use crate::uring::address::Address;
use crate::uring::closing::close_descriptor;
use crate::uring::queues::Queues;
use crate::uring::ring::{Op, Ring};
use crate::uring::slots::{Connecting, Slot, Slots};
use crate::uring::timers::Timers;

/// Slots for outgoing connections, behind those that the kernel fills on accept, and attempts that
/// got none.
pub(super) struct Connects {
    freed: Vec<u32>,
    /// First slot that has not been used yet.
    unused: u32,
    first: u32,
    end: u32,
    /// Failed attempts that have not been reported: tag and reason.
    failed: Vec<(u64, io::Error)>,
}

impl Connects {
    /// `count` slots from `first` on.
    pub(super) fn new(first: u32, count: u32) -> Self {
        let end = first.saturating_add(count);
        Self { freed: Vec::new(), unused: first, first, end, failed: Vec::new() }
    }

    /// A free slot; the one freed last comes first.
    fn take(&mut self) -> io::Result<u32> {
        if let Some(slot) = self.freed.pop() {
            return Ok(slot);
        }
        if self.unused == self.end {
            return Err(outgoing::too_many((self.end - self.first) as usize));
        }
        self.unused += 1;
        Ok(self.unused - 1)
    }

    /// Frees the slot of a connection that is gone.
    pub(super) fn put(&mut self, slot: u32) {
        self.freed.push(slot);
    }

    /// Returns whether failed attempts are to be reported.
    pub(super) fn has_reports(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Takes the failed attempts that have not been reported.
    pub(super) fn take_failed(&mut self) -> Vec<(u64, io::Error)> {
        std::mem::take(&mut self.failed)
    }

    /// Begins a connection.
    pub(super) fn begin<C, R: Ring>(
        &mut self,
        connect: &Connect,
        slots: &mut Slots<C>,
        queues: &mut Queues<R>,
        timers: &mut Timers,
    ) {
        let slot = self.take().and_then(|slot| {
            let made = queues.make_socket(slot, connect.to, connect.from);
            made.map(|()| slot).inspect_err(|_| self.freed.push(slot))
        });
        let slot = match slot {
            Ok(slot) => slot,
            Err(error) => return self.failed.push((connect.tag, error)),
        };
        slots.grow_to(slot);
        let s = &mut slots[slot];
        s.state = State::Connecting;
        let target = Address::of(connect.to);
        let connecting = s.extra().connect.insert(Connecting {
            tag: connect.tag,
            target,
            timed_out: false,
            error: None,
        });
        // The address lies in the connection's box until the connect has ended, long after its
        // entry has been consumed.
        let to = &raw const connecting.target;
        timers.set(slot, s, timers.now.limit_after(connect.timeout));
        queues.push(s.token(OpKind::Connect, slot), Op::Connect { slot, to });
    }
}

/// Ends an attempt whose time is over.
pub(super) fn time_out<C, R: Ring>(slot: u32, s: &mut Slot<C>, queues: &mut Queues<R>) {
    if let Some(connecting) = s.extra.as_mut().and_then(|e| e.connect.as_mut()) {
        connecting.timed_out = true;
        let target = s.token(OpKind::Connect, slot);
        queues.push(s.token(OpKind::Cancel, slot), Op::Cancel { target });
    }
}

/// Handles the end of an attempt. Returns the tag of a successful one; a failed one is reported
/// when its slot is free.
pub(super) fn on_connect<C, R: Ring>(
    slot: u32,
    s: &mut Slot<C>,
    result: i32,
    queues: &mut Queues<R>,
    timers: &mut Timers,
) -> Option<u64> {
    timers.set(slot, s, Nanos::NEVER);
    let connecting = s.extra.as_mut().and_then(|e| e.connect.as_mut())?;
    if result == 0 {
        let tag = connecting.tag;
        s.extra = None;
        return Some(tag);
    }
    connecting.error = Some(if connecting.timed_out {
        outgoing::timed_out()
    } else {
        io::Error::from_raw_os_error(-result)
    });
    close_descriptor(slot, s, queues);
    None
}

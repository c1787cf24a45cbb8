//! State of a worker that a simulation checks between turns.

use std::fmt::Write;

use bytes::BytesMut;

use crate::connection::State;
use crate::handler::Handler;
use crate::uring::core::Core;
use crate::uring::ring::{BufferRing, Ring};

/// Largest numbers of bytes that a single connection holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeldBytes {
    /// Output that the kernel has not accepted.
    pub(crate) unsent: usize,
    /// Input that arrived during a pause.
    pub(crate) stashed: usize,
}

impl<R: Ring, B: BufferRing, H: Handler> Core<'_, R, B, H> {
    pub(crate) fn ring(&mut self) -> &mut R {
        self.queues.ring()
    }

    pub(crate) fn held_bytes(&self) -> HeldBytes {
        let mut most = HeldBytes::default();
        for (_, s) in self.slots.iter() {
            let stash = s.extra.as_ref().map_or(0, |e| e.stash.iter().map(BytesMut::len).sum());
            most.unsent = most.unsent.max(self.outbound.unsent(s));
            most.stashed = most.stashed.max(stash);
        }
        most
    }

    /// Number of slots with a connection.
    pub(crate) fn used_slots(&self) -> usize {
        self.slots.iter().filter(|(_, s)| s.state != State::Closed).count()
    }

    /// Writes the state as text.
    pub(crate) fn dump(&self, text: &mut String) {
        let (open, outstanding) = (self.slots.open, self.queues.outstanding);
        let (retained, alarm) = (self.memory.receive.retained, self.timers.alarm);
        let _ = writeln!(
            text,
            "  open {open}, outstanding {outstanding}, retained buffers {retained}, alarm {alarm:?}"
        );
        for (slot, s) in self.slots.iter().filter(|(_, s)| s.state != State::Closed) {
            let _ = writeln!(
                text,
                "  slot {slot}.{}: {:?} {:?}, unsent {} (backlog {}), timer {:?}, deadline {:?}",
                s.generation,
                s.state,
                s.flags,
                self.outbound.unsent(s),
                s.backlog_bytes(),
                s.timer(),
                s.deadline
            );
        }
    }
}

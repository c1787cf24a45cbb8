//! What a simulation looks at between turns.

use std::fmt::Write;

use bytes::BytesMut;

use crate::connection::State;
use crate::handler::Handler;
use crate::uring::Core;
use crate::uring::ring::Ring;

/// What a connection holds, at most over all connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    /// Bytes of output that the kernel has not taken.
    pub(crate) unsent: usize,
    /// Bytes that arrived in a pause.
    pub(crate) stashed: usize,
}

impl<R: Ring, H: Handler> Core<'_, R, H> {
    pub(crate) fn ring(&mut self) -> &mut R {
        &mut self.ring
    }

    pub(crate) fn held(&self) -> Held {
        let mut most = Held::default();
        for s in &self.slots {
            let stash = s.extra.as_ref().map_or(0, |e| e.stash.iter().map(BytesMut::len).sum());
            most.unsent = most.unsent.max(s.unsent());
            most.stashed = most.stashed.max(stash);
        }
        most
    }

    /// Slots that are not free.
    pub(crate) fn used_slots(&self) -> usize {
        self.slots.iter().filter(|s| s.state != State::Closed).count()
    }

    /// The state, for people.
    pub(crate) fn dump(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "  open {}, outstanding {}, held buffers {}, alarm {:?}",
            self.open, self.outstanding, self.held, self.alarm
        );
        for (slot, s) in self.slots.iter().enumerate().filter(|(_, s)| s.state != State::Closed) {
            let _ = writeln!(
                text,
                "  slot {slot}.{}: {:?} {:?}, unsent {} (backlog {}), timer {:?}, deadline {:?}",
                s.generation,
                s.state,
                s.marks,
                s.unsent(),
                s.backlog_bytes(),
                s.timer,
                s.deadline
            );
        }
    }
}

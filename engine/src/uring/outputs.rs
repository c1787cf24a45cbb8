//! Output of the connections that have some: an idle connection has only an index.

use crate::uring::pieces::Chain;

/// Place of a connection's output in [`Outputs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutputIndex(u32);

impl OutputIndex {
    /// The connection has no output.
    pub(super) const NONE: Self = Self(u32::MAX);
}

/// Output of one connection.
#[derive(Clone, Copy, Default)]
struct Pending {
    /// Output of this turn.
    written: Chain,
    /// Output of the send in progress.
    sending: Chain,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.written.is_empty() && self.sending.is_empty()
    }
}

/// Output of a worker's connections.
#[derive(Default)]
pub(super) struct Outputs {
    all: Vec<Pending>,
    free: Vec<OutputIndex>,
}

impl Outputs {
    /// Returns the bytes of a connection's output.
    pub(super) fn bytes(&self, of: OutputIndex) -> usize {
        self.all.get(of.0 as usize).map_or(0, |p| p.written.bytes + p.sending.bytes)
    }

    /// Returns the connection's output of this turn, to append to.
    pub(super) fn written(&mut self, of: &mut OutputIndex) -> &mut Chain {
        if *of == OutputIndex::NONE {
            *of = self.free.pop().unwrap_or_else(|| {
                self.all.push(Pending::default());
                OutputIndex(self.all.len() as u32 - 1)
            });
        }
        &mut self.all[of.0 as usize].written
    }

    /// Takes the connection's output of this turn.
    pub(super) fn take_written(&mut self, of: &mut OutputIndex) -> Chain {
        self.take(of, |pending| &mut pending.written)
    }

    /// Makes the connection's output of this turn that of the send in progress. Returns it; `None`
    /// where there is none.
    pub(super) fn begin_send(&mut self, of: OutputIndex) -> Option<&mut Chain> {
        let pending = self.all.get_mut(of.0 as usize)?;
        debug_assert!(pending.sending.is_empty(), "two sends at a time");
        pending.sending = std::mem::take(&mut pending.written);
        Some(&mut pending.sending)
    }

    /// Takes the output of the send in progress, which has ended.
    pub(super) fn take_sending(&mut self, of: &mut OutputIndex) -> Chain {
        self.take(of, |pending| &mut pending.sending)
    }

    fn take(&mut self, of: &mut OutputIndex, part: impl Fn(&mut Pending) -> &mut Chain) -> Chain {
        let Some(pending) = self.all.get_mut(of.0 as usize) else { return Chain::EMPTY };
        let chain = std::mem::take(part(pending));
        if pending.is_empty() {
            self.free.push(*of);
            *of = OutputIndex::NONE;
        }
        chain
    }
}

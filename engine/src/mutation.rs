//! Faults put into the engine on purpose, to show that the simulator finds faults of their kind.

use std::cell::Cell;

/// Whether a [`Mutation`] is switched on. Only builds with the feature `sim` have mutations; elsewhere this is `false`.
#[cfg(feature = "sim")]
macro_rules! mutated {
    ($mutation:ident) => {
        $crate::mutation::is_on($crate::mutation::Mutation::$mutation)
    };
}

/// A fault that the engine's code contains in builds with the feature `sim`, and has when switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A completion is taken for the connection that has the slot now, whatever its generation.
    GenerationUnchecked,
    /// A receive buffer goes back to the ring when the handler returns, although an echo out of it has yet to be sent.
    BufferReturnedEarly,
    /// A multishot receive is taken to go on when its completion says that it does not.
    MoreIgnored,
    /// What is left of a backlog when its connection is closed gently is dropped after the next progress.
    BacklogTailDropped,
    /// The receive buffers of a send that failed go back to the ring twice.
    BufferReturnedTwice,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::GenerationUnchecked,
        Self::BufferReturnedEarly,
        Self::MoreIgnored,
        Self::BacklogTailDropped,
        Self::BufferReturnedTwice,
    ];
}

thread_local! {
    /// Of this thread only: tests run side by side.
    static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Switches one mutation on for this thread, or all off; off again when the guard is dropped, also by a panic.
#[must_use]
pub fn switch_on(mutation: Option<Mutation>) -> Guard {
    ON.set(mutation);
    Guard(())
}

/// See [`switch_on`].
#[derive(Debug)]
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        ON.set(None);
    }
}

pub(crate) fn is_on(mutation: Mutation) -> bool {
    ON.get() == Some(mutation)
}

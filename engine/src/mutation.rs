//! Faults that are put into the engine on purpose, to show that the simulator finds faults of their
//! kind.

use std::cell::Cell;

/// True if a [`Mutation`] is switched on. Only builds with the feature `sim` have mutations;
/// elsewhere this is `false`.
#[cfg(feature = "sim")]
macro_rules! mutated {
    ($mutation:ident) => {
        $crate::mutation::is_on($crate::mutation::Mutation::$mutation)
    };
}

/// Fault that can be switched on in the engine, in builds with the feature `sim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A completion counts for the connection that has the slot now, whatever its generation.
    GenerationUnchecked,
    /// A receive buffer is returned when the handler returns, although an echo in it has not been
    /// sent.
    BufferReturnedEarly,
    /// A multishot receive counts as armed although its completion says that it has ended.
    MoreIgnored,
    /// The rest of a draining connection's backlog is dropped once the kernel has accepted part of
    /// it.
    BacklogTailDropped,
    /// A receive buffer of a send that failed is returned twice.
    BufferReturnedTwice,
    /// A worker keeps its descriptor of a connection that it has handed over.
    HandedOverKept,
}

impl Mutation {
    /// All mutations.
    pub const ALL: [Self; 6] = [
        Self::GenerationUnchecked,
        Self::BufferReturnedEarly,
        Self::MoreIgnored,
        Self::BacklogTailDropped,
        Self::BufferReturnedTwice,
        Self::HandedOverKept,
    ];
}

thread_local! {
    /// Mutation of this thread: tests run in parallel.
    static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Switches a mutation on for this thread, in place of any other. `None` switches all off. Dropping
/// the guard, also during a panic, switches all off.
#[must_use]
pub fn switch_on(mutation: Option<Mutation>) -> Guard {
    ON.set(mutation);
    Guard(())
}

/// Guard of [`switch_on`], which switches the mutation off when it is dropped.
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

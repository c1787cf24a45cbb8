//! Common parts of all experiments, whatever their order: carrying out and repeating runs.

mod disturbance;
mod repeats;

pub use disturbance::{MOST_STOLEN, MOST_WAITED};
pub(crate) use repeats::{Cell, Repeats};
pub use repeats::{Execute, Fault, Notes};

use crate::result::Document;

/// Result of an experiment.
#[derive(Debug)]
pub struct Session {
    /// Document to store.
    pub document: Document,
    /// The first fault of a server for which its figures must not be trusted. The command then ends with an
    /// error.
    pub fault: Option<Fault>,
}

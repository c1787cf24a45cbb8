//! What every experiment has in common, whatever its order: how its runs are made and repeated.

mod disturbance;
mod repeats;

pub use disturbance::{MOST_STOLEN, MOST_WAITED};
pub(crate) use repeats::{Cell, Repeats};
pub use repeats::{Execute, Fault, Notes};

use crate::result::Document;

/// What an experiment measured.
#[derive(Debug)]
pub struct Session {
    /// What is stored.
    pub document: Document,
    /// The first fault of a server for which its figures must not be trusted: the command ends with an error.
    pub fault: Option<Fault>,
}

//! The server of a run: where it is, whom to trust, how to open a connection, its clock, how to
//! start it, and what it is.

pub mod clock;
pub(crate) mod opening;
pub mod spawn;
pub mod subject;
pub mod trust;
pub mod url;

//! The server of a run: where it is, whom to trust, how to open a connection, how to start it, and
//! what it is.

pub(crate) mod opening;
pub mod spawn;
pub mod subject;
pub mod trust;
pub mod url;

//! The server of a run: where it is, whom to trust, how to open a connection, its clock, how to
//! start it, and what it is.

pub mod client_certificate;
pub mod clock;
pub mod credentials;
pub(crate) mod opening;
pub mod place;
pub mod spawn;
pub mod subject;
pub(crate) mod template;
pub mod trust;
pub mod url;

//! The server of a run: where it is, whom to trust, how to open a connection, its clock, how to
//! start it, what it is, and its metrics.

pub mod client_certificate;
pub mod clock;
pub mod credentials;
mod http;
pub mod metrics;
pub(crate) mod opening;
pub mod place;
pub mod spawn;
pub mod subject;
pub(crate) mod template;
pub mod trust;
pub mod url;

//! A load generator for WebSocket servers: latencies that are honest, echoes that are checked,
//! results that are kept.
//!
//! [`run`] makes one run against one server, `experiment` a whole session of them. [`result`] is
//! the stored document. [`mod@echo`] measures nothing: it is the strict other end for a server
//! under test.
#![forbid(unsafe_code)]

pub(crate) mod agent;
pub mod cli;
pub(crate) mod compare;
pub mod conformance;
pub(crate) mod doctor;
pub mod echo;
pub(crate) mod experiment;
pub(crate) mod format;
pub(crate) mod goal;
pub(crate) mod host;
pub mod load;
pub(crate) mod merge;
pub(crate) mod report;
pub mod result;
pub mod run;
pub(crate) mod selfcheck;
pub mod target;

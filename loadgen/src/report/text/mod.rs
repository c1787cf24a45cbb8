//! Contents of every rendering: which titles, tables and notes there are of a document or a
//! comparison.

pub(crate) mod comparison;
pub(crate) mod findings;
pub(crate) mod history;
pub(crate) mod list;
pub(crate) mod notes;
mod peers;
pub(crate) mod proof;
pub(crate) mod proxied;
mod run;
pub(crate) mod selfcheck;
pub(crate) mod sessions;
mod side_by_side;
mod stages;
mod summary;

pub(crate) use comparison::since;
pub(crate) use notes::notes;
pub(crate) use peers::over_all;
pub(crate) use run::run;
pub(crate) use sessions::{session, stored};
pub(crate) use side_by_side::promises;

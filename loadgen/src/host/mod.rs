//! The machine that measures: its description, and what processes and processors have spent.

pub(crate) mod accounts;
pub(crate) mod cgroup;
pub(crate) mod machine;
pub(crate) mod perf;
pub(crate) mod procfs;
pub(crate) mod regular;
pub(crate) mod system;

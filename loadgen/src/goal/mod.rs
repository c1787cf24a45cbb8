//! Goals of a run: thresholds, and the search for the highest rate that meets them.

pub(crate) mod search;
pub(crate) mod threshold;

//! Goals of a run: thresholds, and the search for the highest rate that meets them.

pub mod search;
pub mod threshold;

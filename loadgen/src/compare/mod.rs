//! Comparing two sides: the statistics, the metrics that are judged, and the rule of the verdict.

pub mod statistics;

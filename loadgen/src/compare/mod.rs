//! Comparing two sides: the statistics, the metrics that are judged, and the rule of the verdict.
//!
//! [`sides`] pairs the runs of a document up, [`statistics`] makes estimates of them, [`judge`] a verdict; [`noise`] says
//! what the machine does to identical servers, below which nothing is judged a change; [`proof`] how often a verdict is wrong.

mod conclusion;
#[cfg(test)]
pub(crate) mod example;
pub mod noise;
mod promise;
pub mod proof;
pub(crate) mod rounds;
pub mod sessions;
pub mod sides;
pub mod statistics;
mod verdict;

use crate::result::metric;
pub use crate::result::{Conclusion, Metric, Over, Promise};
pub use promise::PromiseOutcome;
pub use sides::Comparison;
pub use verdict::{
    Compared, Judgement, MIN_PAIRS, SIGNIFICANCE, Threshold, ThresholdSource, Verdict, judge, show,
};

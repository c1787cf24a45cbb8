//! Comparing two sides: the statistics, the metrics that are judged, and the rule of the verdict.
//!
//! [`sides`] pairs the runs of a document up, [`statistics`] makes estimates of them, [`judge`] a verdict; [`noise`] says
//! what the machine does to identical servers, below which nothing is judged a change; [`proof`] how often a verdict is wrong.

#[cfg(test)]
pub(crate) mod example;
pub(crate) mod noise;
mod promise;
pub(crate) mod proof;
pub(crate) mod rounds;
pub(crate) mod sessions;
pub(crate) mod sides;
pub(crate) mod statistics;
mod verdict;

use crate::result::metric;
pub(crate) use crate::result::{Conclusion, Metric, Promise};
pub(crate) use verdict::{Judgement, MIN_PAIRS, Threshold, ThresholdSource, Verdict};

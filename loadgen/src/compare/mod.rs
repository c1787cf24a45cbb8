//! Comparing two sides: the statistics, the metrics that are judged, and the rule of the verdict.
//!
//! [`sides`] forms pairs of the runs of a document, [`statistics`] estimates the effect, and
//! [`judge`] gives the verdict. [`noise`] measures the noise floor from identical servers: no
//! smaller effect counts as a change. [`placebo`] controls a verdict by an arm that is the first
//! side once more. [`proof`] measures how often a verdict is wrong.

#[cfg(test)]
pub(crate) mod example;
pub(crate) mod noise;
mod placebo;
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

//! Comparing two sides: the statistics, the metrics that are judged, and the rule of the verdict.
//!
//! [`sides`] forms pairs of the runs of a document, [`statistics`] estimates the effect, and
//! [`judge`] gives the verdict. [`noise`] measures the noise floor from identical servers: no
//! smaller effect counts as a change. [`placebo`] controls a verdict by an arm that is the first
//! side once more. [`proof`] measures how often a verdict is wrong.
//!
//! [`history`] finds change points over commits, [`cause`] tells the code from the machine by
//! duels, and [`bisect`] finds a commit by pairs that are added where they tell most.

pub(crate) mod bisect;
pub(crate) mod cause;
#[cfg(test)]
pub(crate) mod example;
pub(crate) mod history;
pub(crate) mod noise;
mod placebo;
mod promise;
pub(crate) mod proof;
#[cfg(test)]
pub(crate) mod recorded;
pub(crate) mod rounds;
pub(crate) mod sessions;
pub(crate) mod sides;
pub(crate) mod statistics;
mod verdict;

use crate::result::metric;
pub(crate) use crate::result::{Conclusion, Metric, Promise};
pub(crate) use verdict::{Judgement, MIN_PAIRS, Threshold, ThresholdSource, Verdict};

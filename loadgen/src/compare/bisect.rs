//! A bisection under noise: which commit made a figure change.
//!
//! GOOD and BAD differ. Each measurement is some pairs of runs of GOOD against another commit. The
//! commits before the first changed one are like GOOD, all others like BAD. A posterior over "the
//! first changed commit" is kept, and the next pairs go where they tell most: where the odds that
//! the commit is changed are nearest to even (M. Horstein, "Sequential transmission using noiseless
//! feedback", IEEE Trans. Inf. Theory 9, 1963). No commit is ever excluded for good, so a wrong
//! first impression is corrected by later pairs.
//!
//! Log-ratios of pairs follow Student's t with five degrees of freedom: their tails are those of
//! recorded pairs, and one disturbed pair decides little. Size of the change and spread of the
//! pairs are not known. Both are summed over, on a grid around what the pairs of BAD say.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::sides::{pairs, samples};
use super::statistics::{CONFIDENCE, Estimate, log_ratio, signed_rank};
use crate::result::{Document, Metric, Utc};

/// Pairs of a measurement.
const BATCH: usize = 4;
/// Pairs of a measurement of BAD, before anything else is measured.
const BAD_BATCH: usize = 10;
/// BAD differs from GOOD if the signed-rank test says so at this level. It is asked after each
/// measurement of BAD, up to seven times, so equal commits are called different in about 1 %.
const DIFFERENT: f64 = 0.002;
/// Pairs of BAD after which it is taken for equal to GOOD.
const MOST_OF_BAD: usize = 70;
/// A commit that has been built is measured again unless another one tells this much more.
const REBUILD: f64 = 0.8;
/// Degrees of freedom of the distribution of log-ratios.
const FREEDOM: f64 = 5.0;
/// Points of the grid, for the size of the change and for the spread.
const SIZES: usize = 17;
const SPREADS: [f64; 7] = [0.4, 0.55, 0.75, 1.0, 1.35, 1.8, 2.5];

/// Some pairs of GOOD and another commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Measurement {
    commit: String,
    /// Start of the session, by which it is told apart.
    start: Utc,
    /// Logarithms of the commit's figure over GOOD's, pair by pair.
    log_ratios: Vec<f64>,
}

/// State of a bisection: everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bisection {
    schema: u32,
    scenario: String,
    metric: Metric,
    /// Probability at which it ends.
    confidence: f64,
    most_pairs: usize,
    good: String,
    /// Commits after GOOD, oldest first. The last one is BAD.
    commits: Vec<String>,
    /// Commits that cannot be measured.
    skipped: BTreeSet<String>,
    measurements: Vec<Measurement>,
}

/// Next step of a bisection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Measure pairs of GOOD and this commit.
    Measure { commit: String, pairs: usize },
    /// The change is one of these commits': one, unless its neighbours cannot be measured.
    Found { commits: Vec<String>, probability: f64 },
    /// GOOD and BAD do not differ.
    NoDifference,
    /// The most pairs are used up. These are the likeliest commits.
    Undecided { commits: Vec<String>, probability: f64 },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum BisectError {
    #[error("there are no commits between GOOD and BAD")]
    NoCommits,
    #[error("`{0}` is not a commit of this bisection")]
    NotACommit(String),
    #[error("BAD (`{0}`) cannot be skipped: begin with an earlier one")]
    SkippedBad(String),
    #[error("the session is no duel of GOOD (`{0}`) and a commit of this bisection")]
    OtherCommits(String),
    #[error("the session has no valid pair of {0} {1}")]
    NoPairs(String, &'static str),
    #[error("the session has been added before")]
    Again,
}

/// Probability of each commit to be the first changed one, and the size of the change.
struct Posterior {
    first: Vec<f64>,
    /// Mean and standard deviation of the log-ratio.
    size: (f64, f64),
}

impl Posterior {
    /// Returns the probability that commit `index` is changed.
    fn is_changed(&self, index: usize) -> f64 {
        self.first[..=index].iter().sum::<f64>().min(1.0)
    }
}

impl Bisection {
    /// Begins with the commits after `good`, oldest first, of which the last is BAD.
    pub(crate) fn new(
        (scenario, metric): (&str, Metric),
        good: &str,
        commits: Vec<String>,
        confidence: f64,
        most_pairs: usize,
    ) -> Result<Self, BisectError> {
        if commits.is_empty() {
            return Err(BisectError::NoCommits);
        }
        Ok(Self {
            schema: 1,
            scenario: scenario.to_owned(),
            metric,
            confidence,
            most_pairs,
            good: good.to_owned(),
            commits,
            skipped: BTreeSet::new(),
            measurements: Vec::new(),
        })
    }

    fn place(&self, commit: &str) -> Option<usize> {
        self.commits.iter().position(|own| is_same(own, commit))
    }

    /// Adds the pairs of a stored duel of GOOD and another commit. Returns the number of pairs.
    pub(crate) fn add(&mut self, duel: &Document) -> Result<usize, BisectError> {
        let commit = |arm: usize| duel.arms.get(arm).and_then(|arm| arm.subject.commit.as_deref());
        let is_good = commit(0).is_some_and(|own| is_same(own, &self.good));
        let place = commit(1).filter(|_| is_good).and_then(|own| self.place(own));
        let place = place.ok_or_else(|| BisectError::OtherCommits(self.good.clone()))?;
        if self.measurements.iter().any(|one| one.start == duel.session.start) {
            return Err(BisectError::Again);
        }
        let log_ratios = self.log_ratios(duel);
        if log_ratios.is_empty() {
            return Err(BisectError::NoPairs(self.scenario.clone(), self.metric.name()));
        }
        let (commit, start) = (self.commits[place].clone(), duel.session.start);
        let added = log_ratios.len();
        self.measurements.push(Measurement { commit, start, log_ratios });
        Ok(added)
    }

    fn log_ratios(&self, duel: &Document) -> Vec<f64> {
        let is_meant = |one: &&crate::result::Scenario| {
            one.name.starts_with(&self.scenario) && self.metric.is_judged(&one.parameters)
        };
        let Some(scenario) = duel.scenarios.iter().find(is_meant) else { return Vec::new() };
        let figures = samples(&pairs(duel, &scenario.name), scenario, self.metric);
        figures.into_iter().flatten().filter_map(|(a, b)| log_ratio(a, b)).collect()
    }

    /// Records that a commit cannot be measured: it does not build, or does not run.
    pub(crate) fn skip(&mut self, commit: &str) -> Result<(), BisectError> {
        let place = self.place(commit);
        let place = place.ok_or_else(|| BisectError::NotACommit(commit.to_owned()))?;
        if place + 1 == self.commits.len() {
            return Err(BisectError::SkippedBad(commit.to_owned()));
        }
        self.skipped.insert(self.commits[place].clone());
        Ok(())
    }

    /// Returns the number of pairs that were measured.
    pub(crate) fn pairs(&self) -> usize {
        self.measurements.iter().map(|one| one.log_ratios.len()).sum()
    }

    fn log_ratios_of(&self, commit: &str) -> Vec<f64> {
        let own = self.measurements.iter().filter(|one| one.commit == *commit);
        own.flat_map(|one| one.log_ratios.iter().copied()).collect()
    }

    /// Returns the ratio of the change and its 95 % interval; `None` before BAD was measured.
    pub(crate) fn ratio(&self) -> Option<Estimate> {
        let (mean, deviation) = self.posterior()?.size;
        let interval = (mean - 1.96 * deviation, mean + 1.96 * deviation);
        let interval = Some((interval.0.exp(), interval.1.exp()));
        Some(Estimate { shift: mean.exp(), interval, p: DIFFERENT })
    }

    pub(crate) fn next_step(&self) -> Step {
        let bad = self.commits.len() - 1;
        let of_bad = self.log_ratios_of(&self.commits[bad]);
        let is_different = signed_rank::p_value(&of_bad) <= DIFFERENT;
        if !is_different || of_bad.len() < BAD_BATCH {
            let commit = self.commits[bad].clone();
            return match of_bad.len() {
                MOST_OF_BAD.. => Step::NoDifference,
                _ => Step::Measure { commit, pairs: BAD_BATCH },
            };
        }
        let Some(posterior) = self.posterior() else { return Step::NoDifference };
        let (commits, probability) = self.likeliest(&posterior);
        let place = self.most_telling(&posterior);
        match place {
            Some(place) if probability < self.confidence && self.pairs() < self.most_pairs => {
                Step::Measure { commit: self.commits[place].clone(), pairs: BATCH }
            }
            Some(_) if probability < self.confidence => Step::Undecided { commits, probability },
            _ => Step::Found { commits, probability },
        }
    }

    /// Returns the likeliest commits so far, and their probability; `None` before BAD was measured.
    pub(crate) fn odds(&self) -> Option<(Vec<String>, f64)> {
        Some(self.likeliest(&self.posterior()?))
    }

    /// Returns the likeliest commits that no measurement can tell apart, and their probability.
    fn likeliest(&self, posterior: &Posterior) -> (Vec<String>, f64) {
        let mut best: (Vec<String>, f64) = (Vec::new(), 0.0);
        let mut group: (Vec<String>, f64) = (Vec::new(), 0.0);
        for (commit, probability) in self.commits.iter().zip(&posterior.first) {
            group.0.push(commit.clone());
            group.1 += probability;
            // A group ends with a commit that can be measured.
            if !self.skipped.contains(commit) {
                let ended = std::mem::take(&mut group);
                if ended.1 > best.1 {
                    best = ended;
                }
            }
        }
        best
    }

    /// Returns the place of the commit whose next pair tells most; `None` where BAD is the only one
    /// that can be measured.
    fn most_telling(&self, posterior: &Posterior) -> Option<usize> {
        let can = |place: &usize| !self.skipped.contains(&self.commits[*place]);
        let doubt = |place: usize| entropy(posterior.is_changed(place));
        let best_of = |places: &mut dyn Iterator<Item = usize>| {
            places.max_by(|&a, &b| doubt(a).total_cmp(&doubt(b)))
        };
        let all = 0..self.commits.len() - 1;
        let best = best_of(&mut all.clone().filter(can))?;
        let is_built =
            |place: &usize| self.measurements.iter().any(|one| one.commit == self.commits[*place]);
        let built = best_of(&mut all.filter(can).filter(is_built));
        Some(built.filter(|&place| doubt(place) >= REBUILD * doubt(best)).unwrap_or(best))
    }

    /// Returns `None` without pairs of BAD.
    fn posterior(&self) -> Option<Posterior> {
        let of_bad = self.log_ratios_of(self.commits.last()?);
        let Grid { sizes, spreads } = Grid::around(&of_bad)?;
        let measured: Vec<Vec<f64>> =
            self.commits.iter().map(|commit| self.log_ratios_of(commit)).collect();
        let count = self.commits.len();
        let mut logs = Vec::with_capacity(count * sizes.len() * spreads.len());
        for &spread in &spreads {
            let of = |pairs: &[f64], size: f64| {
                pairs.iter().map(|pair| log_density(pair - size, spread)).sum::<f64>()
            };
            let like_good: Vec<f64> = measured.iter().map(|pairs| of(pairs, 0.0)).collect();
            for &size in &sizes {
                let like_bad: Vec<f64> = measured.iter().map(|pairs| of(pairs, size)).collect();
                let mut log: f64 = like_bad.iter().sum();
                for first in 0..count {
                    logs.push((first, size, log));
                    log += like_good[first] - like_bad[first];
                }
            }
        }
        Some(normalized(count, &logs))
    }
}

/// Returns true if both name one commit, of which either may have the first digits alone.
fn is_same(one: &str, other: &str) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn normalized(count: usize, logs: &[(usize, f64, f64)]) -> Posterior {
    let most = logs.iter().map(|(_, _, log)| *log).fold(f64::NEG_INFINITY, f64::max);
    let (mut first, mut all, mut sum, mut squares) = (vec![0.0; count], 0.0, 0.0, 0.0);
    for &(place, size, log) in logs {
        let weight = (log - most).exp();
        first[place] += weight;
        (all, sum, squares) = (all + weight, sum + weight * size, squares + weight * size * size);
    }
    first.iter_mut().for_each(|weight| *weight /= all);
    let mean = sum / all;
    Posterior { first, size: (mean, (squares / all - mean * mean).max(0.0).sqrt()) }
}

/// Possible sizes of the change and spreads of the pairs.
struct Grid {
    sizes: Vec<f64>,
    spreads: Vec<f64>,
}

impl Grid {
    fn around(of_bad: &[f64]) -> Option<Self> {
        let middle = signed_rank::estimate(of_bad, CONFIDENCE)?.shift;
        let mut distances: Vec<f64> = of_bad.iter().map(|pair| (pair - middle).abs()).collect();
        distances.sort_by(f64::total_cmp);
        // The median distance from the middle of a normal distribution, over its deviation. Pairs
        // that are equal to the last digit still have some spread.
        let spread = (distances[distances.len() / 2] / 0.6745).max(1e-4);
        let reach = 5.0 * spread / (of_bad.len() as f64).sqrt();
        let step = |number: usize| 2.0 * number as f64 / (SIZES - 1) as f64 - 1.0;
        let sizes = (0..SIZES).map(|number| middle + reach * step(number));
        // Beyond zero it would be another change than that of BAD.
        let sizes: Vec<f64> = sizes.filter(|size| size * middle > 0.0).collect();
        (!sizes.is_empty())
            .then_some(Self { sizes, spreads: SPREADS.map(|factor| factor * spread).to_vec() })
    }
}

/// Logarithm of the density of Student's t, but for a constant.
fn log_density(distance: f64, spread: f64) -> f64 {
    let scaled = distance / spread;
    -spread.ln() - (FREEDOM + 1.0) / 2.0 * (scaled * scaled / FREEDOM).ln_1p()
}

/// Entropy of a choice with probability `p`, in bits: how much an answer tells.
fn entropy(p: f64) -> f64 {
    let part = |p: f64| if p <= 0.0 { 0.0 } else { -p * p.log2() };
    part(p) + part(1.0 - p)
}

#[cfg(test)]
mod tests;

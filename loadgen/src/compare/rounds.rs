//! Figures of interleaved runs and their ratios, round by round.

use std::collections::BTreeMap;

use super::metric::Metric;
use super::statistics::{Estimate, ratio_of_pairs};
use crate::result::{Document, Run};

#[derive(Clone, Copy)]
pub(crate) struct Figure<'a> {
    pub(crate) scenario: &'a str,
    pub(crate) arm: &'a str,
    pub(crate) metric: Metric,
}

impl Figure<'_> {
    /// Returns its values by the round, over the runs that count. A figure of nothing has no ratio
    /// and is left out; it happens where a run got hardly any processor time.
    pub(super) fn values(
        self,
        document: &Document,
        counts: fn(&Run) -> bool,
    ) -> BTreeMap<u32, f64> {
        let Some(scenario) = document.scenario(self.scenario) else { return BTreeMap::new() };
        let value =
            |run: &Run| self.metric.of(run, &scenario.parameters).filter(|value| *value > 0.0);
        let runs = document.runs_of(self.scenario, self.arm).into_iter().filter(|run| counts(run));
        runs.filter_map(|run| Some((run.pair, value(run)?))).collect()
    }

    /// Returns the ratio of this figure to `lower`, over the rounds in which both runs count.
    pub(crate) fn over(
        self,
        lower: Figure<'_>,
        document: &Document,
        counts: fn(&Run) -> bool,
    ) -> Option<Estimate> {
        let below = lower.values(document, counts);
        let above = self.values(document, counts).into_iter();
        let pairs = above.filter_map(|(round, value)| Some((*below.get(&round)?, value)));
        ratio_of_pairs(&pairs.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::rounds;
    use crate::compare::sides::is_sound;

    fn estimate(document: &Document) -> Estimate {
        let of = |arm| Figure { scenario: "echo", arm, metric: Metric::ServerCpu };
        of("slow").over(of("quick"), document, is_sound).expect("pairs")
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        let estimate = estimate(&rounds(1.25, 10));
        assert!((estimate.shift - 1.255).abs() < 0.01, "{estimate:?}");
        let (low, high) = estimate.interval.expect("ten rounds");
        assert!(low > 1.24 && high < 1.27, "{estimate:?}");
    }

    #[test]
    fn a_round_with_an_invalid_run_does_not_count() {
        let mut document = rounds(1.25, 10);
        document.runs[..18].iter_mut().for_each(|run| run.valid = false);
        assert_eq!(estimate(&document).interval, None);
    }

    #[test]
    fn a_missing_figure_leaves_out_its_round_alone() {
        let mut document = rounds(1.25, 10);
        document.runs[3].server.as_mut().expect("known").cpu_ns_per_message = 0.0;
        let estimate = estimate(&document);
        assert!((estimate.shift - 1.255).abs() < 0.01, "{estimate:?}");
    }
}

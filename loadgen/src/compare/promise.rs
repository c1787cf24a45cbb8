//! Figures that an experiment holds to a limit.

use super::sides::is_sound;
use super::statistics::{Estimate, ratio_of_pairs};
use crate::result::{Document, Metric, Over, Promise, Run, Scenario};

/// Outcome of a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromiseOutcome {
    /// The whole interval lies within the limit.
    Kept,
    /// The whole interval lies beyond it.
    Missed,
    /// The interval is too wide: more rounds are needed.
    Open,
    /// It has no limit.
    Reported,
}

impl Promise {
    /// Returns the scenarios that it names.
    #[must_use]
    pub fn scenarios(&self) -> [Option<&str>; 2] {
        [Some(&self.scenario), self.over.as_ref().and_then(|over| over.scenario.as_deref())]
    }

    /// Returns the arms that it names.
    #[must_use]
    pub fn arms(&self) -> [Option<&str>; 2] {
        [self.arm.as_deref(), self.over.as_ref().and_then(|over| over.arm.as_deref())]
    }

    /// Returns the figure in words: `uring / epoll: server-cpu`.
    #[must_use]
    pub fn figure(&self) -> String {
        let of = |arm: &Option<String>, scenario: Option<&String>, metric: Metric| {
            let arm = arm.as_deref().unwrap_or_default();
            let scenario = scenario.map(String::as_str).unwrap_or_default();
            let parts: Vec<&str> =
                [arm, scenario, metric.name()].into_iter().filter(|part| !part.is_empty()).collect();
            parts.join(" ")
        };
        match &self.over {
            None => format!("{}, {}", of(&self.arm, None, self.metric), self.metric.unit()),
            Some(Over { scenario: None, arm: Some(arm), metric: None }) => {
                format!("{}: {} / {arm}", self.metric.name(), self.arm.as_deref().unwrap_or("A"))
            }
            Some(over) => {
                let below = of(&over.arm, over.scenario.as_ref(), over.metric.unwrap_or(self.metric));
                format!("{} / {below}", of(&self.arm, None, self.metric))
            }
        }
    }

    /// Returns the estimate over the rounds whose runs are sound: a ratio, or the figure itself.
    /// `None` where no round has it.
    #[must_use]
    pub fn estimate(&self, document: &Document) -> Option<Estimate> {
        let first = || document.runs.first().map(|run| run.arm.clone());
        let arm = self.arm.clone().or_else(first)?;
        let upper = figures(document, &self.scenario, &arm, self.metric);
        let Some(over) = &self.over else {
            let shown = |(_, value)| (1.0, self.metric.shown(value));
            return ratio_of_pairs(&upper.into_iter().map(shown).collect::<Vec<_>>());
        };
        let scenario = over.scenario.as_ref().unwrap_or(&self.scenario);
        let arm = over.arm.as_ref().unwrap_or(&arm);
        let lower = figures(document, scenario, arm, over.metric.unwrap_or(self.metric));
        let pairs: Vec<(f64, f64)> = upper
            .into_iter()
            .filter_map(|(pair, value)| {
                let (_, below) = lower.iter().find(|(other, _)| *other == pair)?;
                Some((*below, value))
            })
            .collect();
        ratio_of_pairs(&pairs)
    }

    /// Returns the outcome for an estimate.
    #[must_use]
    pub fn outcome(&self, estimate: &Estimate) -> PromiseOutcome {
        match (self.at_most, estimate.interval) {
            (None, _) => PromiseOutcome::Reported,
            (Some(limit), Some((_, high))) if high <= limit => PromiseOutcome::Kept,
            (Some(limit), Some((low, _))) if low > limit => PromiseOutcome::Missed,
            _ => PromiseOutcome::Open,
        }
    }
}

/// The rounds of a scenario on an arm with a sound run, and a figure of each. A figure of nothing
/// has no ratio; it happens where a run got hardly any processor time.
fn figures(document: &Document, scenario: &str, arm: &str, metric: Metric) -> Vec<(u32, f64)> {
    let Some(Scenario { parameters, .. }) = document.scenarios.iter().find(|one| one.name == scenario) else {
        return Vec::new();
    };
    let is_it = |run: &&Run| run.scenario == scenario && run.arm == arm && is_sound(run);
    let figure = |run: &Run| Some((run.pair, metric.of(run, parameters).filter(|value| *value > 0.0)?));
    document.runs.iter().filter(is_it).filter_map(figure).collect()
}

impl PromiseOutcome {
    /// Returns the word in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Missed => "MISSED",
            Self::Open => "open",
            Self::Reported => "reported",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::rounds;
    use crate::experiment::built_in;

    fn promise(at_most: Option<f64>) -> Promise {
        let over = Some(Over { arm: Some("slow".to_owned()), ..Over::default() });
        let (scenario, arm) = ("echo".to_owned(), Some("quick".to_owned()));
        Promise { scenario, arm, metric: Metric::ServerCpu, over, at_most }
    }

    #[test]
    fn a_promise_is_kept_missed_open_or_reported() {
        let outcome = |count: u32, at_most| {
            let promise = promise(at_most);
            let estimate = promise.estimate(&rounds(1.25, count)).expect("measured");
            promise.outcome(&estimate).name()
        };
        assert_eq!(
            [Some(0.81), Some(0.75), None].map(|limit| outcome(10, limit)),
            ["kept", "MISSED", "reported"]
        );
        // The interval lies on both sides of the limit, or there is none.
        assert_eq!([(10, 0.797), (3, 0.81)].map(|(n, limit)| outcome(n, Some(limit))), ["open"; 2]);
    }

    #[test]
    fn a_figure_by_itself_has_the_unit_of_its_metric() {
        let document = rounds(1.25, 10);
        let alone = Promise { over: None, ..promise(Some(20.0)) };
        let estimate = alone.estimate(&document).expect("measured");
        // 3 to 30 us over ten rounds.
        assert!((10.0..20.0).contains(&estimate.shift), "{estimate:?}");
        assert_eq!(alone.figure(), "quick server-cpu, us/msg");
        let elsewhere = Promise { scenario: "text".to_owned(), ..promise(None) };
        assert_eq!(elsewhere.estimate(&document), None);
    }

    #[test]
    fn built_in_promises_are_about_runs_that_are_made() {
        for experiment in built_in() {
            for promise in &experiment.promises {
                let scenario = experiment.scenarios.iter().find(|one| one.full_name() == promise.scenario);
                for name in promise.arms().into_iter().flatten() {
                    let arm = experiment.arms.iter().find(|arm| arm.name == name).expect("an arm");
                    assert!(arm.takes(scenario.expect("a scenario")), "{promise:?}");
                }
            }
        }
    }
}

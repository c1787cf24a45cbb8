//! Figures that an experiment holds to a limit.

use super::rounds::Figure;
use super::sides::is_sound;
use super::statistics::{Estimate, ratio_of_pairs};
use crate::result::{Document, Metric, Over, Promise};

impl Promise {
    pub(crate) fn scenarios(&self) -> [Option<&str>; 2] {
        [Some(&self.scenario), self.over.as_ref().and_then(|over| over.scenario.as_deref())]
    }

    pub(crate) fn arms(&self) -> [Option<&str>; 2] {
        [self.arm.as_deref(), self.over.as_ref().and_then(|over| over.arm.as_deref())]
    }

    /// Returns the figure in words: `uring / epoll: server-cpu`.
    pub(crate) fn figure(&self) -> String {
        let of = |arm: &Option<String>, scenario: &Option<String>, metric: Metric| {
            let named =
                arm.iter().chain(scenario).map(|name| format!("{name} ")).collect::<String>();
            named + metric.name()
        };
        let upper = of(&self.arm, &None, self.metric);
        match &self.over {
            None => format!("{upper}, {}", self.metric.unit()),
            Some(Over { scenario: None, arm: Some(arm), metric: None }) => {
                format!("{}: {} / {arm}", self.metric.name(), self.arm.as_deref().unwrap_or("A"))
            }
            Some(Over { scenario, arm, metric }) => {
                format!("{upper} / {}", of(arm, scenario, metric.unwrap_or(self.metric)))
            }
        }
    }

    /// Returns the estimate over the rounds whose runs are sound: a ratio, or the figure itself.
    /// `None` where no round has it.
    pub(crate) fn estimate(&self, document: &Document) -> Option<Estimate> {
        let arm = self.arm.as_ref().or_else(|| document.runs.first().map(|run| &run.arm))?;
        let upper = Figure { scenario: &self.scenario, arm, metric: self.metric };
        let Some(Over { scenario, arm, metric }) = &self.over else {
            let values = upper.values(document, is_sound).into_values();
            return ratio_of_pairs(
                &values.map(|value| (1.0, self.metric.shown(value))).collect::<Vec<_>>(),
            );
        };
        let lower = Figure {
            scenario: scenario.as_deref().unwrap_or(upper.scenario),
            arm: arm.as_deref().unwrap_or(upper.arm),
            metric: metric.unwrap_or(upper.metric),
        };
        upper.over(lower, document, is_sound)
    }

    /// Returns the outcome for an estimate. It is "kept" or "MISSED" if the whole interval lies
    /// within or beyond the limit, and else "open". Without a limit it is "reported".
    pub(crate) fn outcome(&self, estimate: &Estimate) -> &'static str {
        match (self.at_most, estimate.interval) {
            (None, _) => "reported",
            (Some(limit), Some((_, high))) if high <= limit => "kept",
            (Some(limit), Some((low, _))) if low > limit => "MISSED",
            _ => "open",
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
            promise.outcome(&estimate)
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
                let scenario =
                    experiment.scenarios.iter().find(|one| one.full_name() == promise.scenario);
                for name in promise.arms().into_iter().flatten() {
                    let arm = experiment.arms.iter().find(|arm| arm.name == name).expect("an arm");
                    assert!(arm.takes(scenario.expect("a scenario")), "{promise:?}");
                }
            }
        }
    }
}

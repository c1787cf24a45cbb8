//! The figures of a session: a median over runs for each scenario, arm and metric.

use crate::compare::Metric;
use crate::compare::sides::is_sound;
use crate::result::{Document, Scenario, median};

/// A metric of one arm in one scenario, over the valid runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure<'a> {
    pub(super) scenario: &'a str,
    /// The arm; `None` where the session has one side.
    pub(super) arm: Option<&'a str>,
    pub(super) metric: Metric,
    /// The median, in the unit of stored documents: nanoseconds, bytes.
    pub(super) value: f64,
    pub(super) lowest: f64,
    pub(super) highest: f64,
    pub(super) runs: usize,
}

impl Figure<'_> {
    /// Returns the scenario, and the arm where there are several.
    pub(super) fn place(&self) -> String {
        self.arm.map_or_else(|| self.scenario.to_owned(), |arm| format!("{}/{arm}", self.scenario))
    }
}

/// Returns every figure that all valid runs of a scenario and an arm carry.
pub(super) fn figures(document: &Document) -> Vec<Figure<'_>> {
    let arms = || {
        let named = document.arms.iter().map(|arm| Some(arm.name.as_str()));
        let only = document.arms.is_empty().then_some(None);
        named.chain(only)
    };
    let of = |scenario: &'_ Scenario, arm: Option<&'_ str>, metric: Metric| {
        let runs = document.runs.iter().filter(|run| {
            run.scenario == scenario.name && arm.is_none_or(|arm| run.arm == arm) && is_sound(run)
        });
        let measured: Option<Vec<f64>> =
            runs.map(|run| metric.of(run, &scenario.parameters)).collect();
        let counts = document.counts.iter();
        let counted = counts
            .filter(|one| one.scenario == scenario.name && one.counter == metric.name())
            .map(|one| one.per_message);
        measured.unwrap_or_default().into_iter().chain(counted).collect::<Vec<f64>>()
    };
    let mut figures = Vec::new();
    for scenario in &document.scenarios {
        for (arm, metric) in arms().flat_map(|arm| Metric::ALL.map(|metric| (arm, metric))) {
            let values = of(scenario, arm, metric);
            let (lowest, highest) = values
                .iter()
                .fold((f64::INFINITY, 0.0f64), |(low, high), &one| (low.min(one), high.max(one)));
            let runs = values.len();
            let figure = |value| {
                let scenario = scenario.name.as_str();
                Figure { scenario, arm, metric, value, lowest, highest, runs }
            };
            figures.extend(median(values).map(figure));
        }
    }
    figures
}

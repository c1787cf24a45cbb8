//! Ratios between the arms of an interleaved session, round by round.

use super::metric::Metric;
use super::statistics::{Estimate, ratio_of_pairs};
use crate::result::{Document, Run, Scenario};

/// Returns the runs of one arm of a scenario.
pub(crate) fn runs_of<'a>(document: &'a Document, scenario: &str, arm: &str) -> Vec<&'a Run> {
    document.runs.iter().filter(|run| run.scenario == scenario && run.arm == arm).collect()
}

/// Returns `of` / `against`, over the rounds in which both runs count.
pub(crate) fn ratio(
    document: &Document,
    scenario: &Scenario,
    metric: Metric,
    [of, against]: [&str; 2],
    counts: fn(&Run) -> bool,
) -> Option<Estimate> {
    let (of, against) = (runs_of(document, &scenario.name, of), runs_of(document, &scenario.name, against));
    let figure = |run: &Run| metric.of(run, &scenario.parameters);
    let pairs: Vec<(f64, f64)> = of
        .iter()
        .filter(|run| counts(run))
        .filter_map(|run| {
            let other = against.iter().find(|other| other.pair == run.pair && counts(other))?;
            // A figure of nothing has no ratio; it happens where a run got no processor to speak
            // of.
            Some((figure(other)?, figure(run)?)).filter(|&(a, b)| a > 0.0 && b > 0.0)
        })
        .collect();
    ratio_of_pairs(&pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::rounds;
    use crate::compare::sides::is_sound;

    fn estimate(document: &Document) -> Estimate {
        let scenario = &document.scenarios[0];
        ratio(document, scenario, Metric::ServerCpu, ["slow", "quick"], is_sound).expect("pairs")
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
    fn a_figure_of_nothing_spoils_its_round_alone() {
        let mut document = rounds(1.25, 10);
        document.runs[3].server.as_mut().expect("known").cpu_ns_per_message = 0.0;
        let estimate = estimate(&document);
        assert!((estimate.shift - 1.255).abs() < 0.01, "{estimate:?}");
    }
}

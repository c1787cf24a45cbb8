//! From the runs of two sides to figures that can be judged.

use std::collections::BTreeMap;

use super::metric::Metric;
use super::statistics::{Estimate, ratio_of_pairs, ratio_of_samples};
use super::verdict::{Compared, Judgement, Threshold, Verdict, judge, show};
use crate::format::count;
use crate::load::Load;
pub use crate::result::SIDES;
use crate::result::{Document, Run, Scenario, default_sides, median};

/// Returns the names of a document's two sides; the default names where it has not two.
fn names_of(document: &Document) -> [String; 2] {
    match &document.arms[..] {
        [a, b] => [a.name.clone(), b.name.clone()],
        _ => default_sides(),
    }
}

/// Two sides compared: every metric that both have.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Names of the sides: the second is compared with the first.
    pub sides: [String; 2],
    /// True where the runs of both sides alternated. Otherwise every verdict is advisory.
    pub interleaved: bool,
    /// The judged metrics of all scenarios, then the others.
    pub judgements: Vec<Judgement>,
    /// Parts that could not be compared and the reasons, one sentence each.
    pub left_out: Vec<String>,
}

/// Which threshold a metric has in a scenario.
pub type Thresholds<'a> = &'a dyn Fn(&Scenario, Metric) -> Threshold;

/// The metrics' own thresholds, for want of anything known about the machine.
#[must_use]
pub fn default_thresholds(_: &Scenario, metric: Metric) -> Threshold {
    Threshold::of(metric, None)
}

impl Comparison {
    /// Side B against side A of an interleaved session, pair by pair.
    #[must_use]
    pub fn of_arms(document: &Document, thresholds: Thresholds<'_>) -> Self {
        Self::of_arms_in(document, &Metric::ALL, thresholds)
    }

    /// The same, of which only the metrics `judged` are judged, where they are gated at all, and corrected for each other;
    /// all others are shown.
    #[must_use]
    pub fn of_arms_in(document: &Document, judged: &[Metric], thresholds: Thresholds<'_>) -> Self {
        Self::of_two(document, names_of(document), judged, thresholds)
    }

    /// The second of two arms against the first, in a session that may have more of them.
    #[must_use]
    pub fn of_two(
        document: &Document,
        names: [String; 2],
        judged: &[Metric],
        thresholds: Thresholds<'_>,
    ) -> Self {
        let mut collected = Collected { judged: judged.to_vec(), ..Collected::default() };
        for scenario in &document.scenarios {
            let (pairs, spoiled) = pairs_of(document, &names, &scenario.name);
            if spoiled > 0 {
                let (name, made) = (&scenario.name, count((pairs.len() + spoiled) as u64, "pair"));
                collected
                    .left_out
                    .push(format!("{name}: not counted, because a run is not valid: {spoiled} of {made}."));
            }
            if pairs.is_empty() {
                continue;
            }
            let samples = |metric: Metric| {
                let of = |run: &Run| metric.of(run, &scenario.parameters);
                pairs.iter().map(|(a, b)| Some((of(a)?, of(b)?))).collect::<Option<Vec<_>>>()
            };
            for metric in Metric::ALL {
                let estimated = samples(metric).and_then(|pairs| Some((ratio_of_pairs(&pairs)?, pairs)));
                let sides = estimated.map(|(estimate, pairs)| (estimate, pairs.into_iter().unzip()));
                collected.take(scenario, metric, sides, thresholds);
            }
        }
        Self { sides: names, ..collected.judge(true) }
    }

    /// The session `new` against the session `base`: scenarios of the same name, runs not paired.
    ///
    /// Whether the two may be compared at all is the caller's question.
    #[must_use]
    pub fn of_sessions(base: &Document, new: &Document, thresholds: Thresholds<'_>) -> Self {
        let mut collected = Collected { judged: Metric::ALL.to_vec(), ..Collected::default() };
        for scenario in &new.scenarios {
            let Some(before) = base.scenarios.iter().find(|before| before.name == scenario.name) else {
                collected.left_out.push(format!("{}: only in the newer session.", scenario.name));
                continue;
            };
            let samples = |document: &Document, load: &Load, metric: Metric| {
                let runs = newer_side(document).filter(|run| run.scenario == scenario.name && is_sound(run));
                runs.map(|run| metric.of(run, load)).collect::<Option<Vec<f64>>>()
            };
            for metric in Metric::ALL {
                let sides = samples(base, &before.parameters, metric)
                    .zip(samples(new, &scenario.parameters, metric))
                    .and_then(|(a, b)| Some((ratio_of_samples(&a, &b)?, (a, b))));
                collected.take(scenario, metric, sides, thresholds);
            }
        }
        for scenario in
            base.scenarios.iter().filter(|s| new.scenarios.iter().all(|other| other.name != s.name))
        {
            collected.left_out.push(format!("{}: only in the earlier session.", scenario.name));
        }
        let mut comparison = collected.judge(false);
        if base == new {
            // No statistics are needed to tell, and few runs would leave it open.
            for judgement in comparison.judgements.iter_mut().filter(|judgement| judgement.verdict.is_some())
            {
                judgement.verdict = Some(Verdict::Unchanged);
            }
        }
        comparison
    }

    /// The verdict over all judged metrics; `None` where none was judged.
    #[must_use]
    pub fn overall(&self) -> Option<Verdict> {
        Verdict::overall(self.judgements.iter().filter_map(|judgement| judgement.verdict))
    }

    /// Pairs that would probably settle what is inconclusive; `None` where nothing is, or no reasonable number would.
    #[must_use]
    pub fn more_pairs(&self) -> Option<usize> {
        let open =
            self.judgements.iter().filter(|judgement| judgement.verdict == Some(Verdict::Inconclusive));
        open.map(|judgement| judgement.more_pairs).collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

/// Returns true where a run's figures may be compared with others.
#[must_use]
pub fn is_sound(run: &Run) -> bool {
    run.valid && !run.interrupted
}

/// The runs of a session's server: of a comparison's sides that of the newer.
pub fn newer_side(document: &Document) -> impl Iterator<Item = &Run> {
    let side = document.arms.last().map(|arm| arm.name.as_str());
    document.runs.iter().filter(move |run| side.is_none_or(|side| run.arm == side))
}

/// The pairs of `scenario` both of whose runs are sound, in their order, and the number of complete pairs that are not.
#[must_use]
pub fn pairs<'a>(document: &'a Document, scenario: &str) -> (Vec<(&'a Run, &'a Run)>, usize) {
    pairs_of(document, &names_of(document), scenario)
}

fn pairs_of<'a>(
    document: &'a Document,
    names: &[String; 2],
    scenario: &str,
) -> (Vec<(&'a Run, &'a Run)>, usize) {
    let mut sides: BTreeMap<u32, [Option<&Run>; 2]> = BTreeMap::new();
    for run in document.runs.iter().filter(|run| run.scenario == scenario) {
        if let Some(side) = names.iter().position(|name| *name == run.arm) {
            sides.entry(run.pair).or_default()[side] = Some(run);
        }
    }
    let complete = sides.into_values().filter_map(|[a, b]| a.zip(b));
    let (sound, spoiled): (Vec<_>, Vec<_>) = complete.partition(|(a, b)| is_sound(a) && is_sound(b));
    (sound, spoiled.len())
}

/// An estimate and the values of both sides behind it.
type Sides = (Estimate, (Vec<f64>, Vec<f64>));

/// What has been compared so far.
#[derive(Default)]
struct Collected {
    /// Others are shown alone.
    judged: Vec<Metric>,
    gates: Vec<(Compared, Threshold)>,
    shown: Vec<Compared>,
    left_out: Vec<String>,
}

impl Collected {
    fn take(
        &mut self,
        scenario: &Scenario,
        metric: Metric,
        sides: Option<Sides>,
        thresholds: Thresholds<'_>,
    ) {
        let gated = metric.is_gated(&scenario.parameters) && self.judged.contains(&metric);
        let Some((estimate, (a, b))) = sides else {
            if gated {
                let (name, metric) = (&scenario.name, metric.name());
                self.left_out
                    .push(format!("{name}: {metric} is not known of every run, and was not judged."));
            }
            return;
        };
        let compared = Compared {
            scenario: scenario.name.clone(),
            metric,
            estimate,
            pairs: a.len().min(b.len()),
            a: median(a).unwrap_or_default(),
            b: median(b).unwrap_or_default(),
        };
        if gated {
            self.gates.push((compared, thresholds(scenario, metric)));
        } else {
            self.shown.push(compared);
        }
    }

    fn judge(self, interleaved: bool) -> Comparison {
        let mut judgements = judge(self.gates);
        judgements.extend(self.shown.into_iter().map(show));
        Comparison { sides: default_sides(), interleaved, judgements, left_out: self.left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;

    fn find(comparison: &Comparison, metric: Metric) -> &Judgement {
        comparison.judgements.iter().find(|judgement| judgement.metric == metric).expect("compared")
    }

    #[test]
    fn a_slower_side_is_found_and_the_other_metrics_are_not_blamed() {
        let comparison = Comparison::of_arms(&duel(10, 1.06), &default_thresholds);
        assert!(comparison.interleaved);
        assert_eq!(find(&comparison, Metric::ServerCpu).verdict, Some(Verdict::Regressed));
        assert_eq!(find(&comparison, Metric::Memory).verdict, Some(Verdict::Unchanged));
        assert_eq!(find(&comparison, Metric::Enters).verdict, None);
        assert_eq!(comparison.overall(), Some(Verdict::Regressed));
        assert!((find(&comparison, Metric::ServerCpu).ratio - 1.06).abs() < 0.01);
    }

    #[test]
    fn what_is_not_to_be_judged_is_shown_and_costs_no_certainty() {
        let document = duel(10, 1.06);
        let cpu = Comparison::of_arms_in(&document, &[Metric::ServerCpu], &default_thresholds);
        let judged = find(&cpu, Metric::ServerCpu);
        assert_eq!((judged.verdict, judged.p_adjusted), (Some(Verdict::Regressed), Some(judged.p)));
        assert_eq!(find(&cpu, Metric::Throughput).verdict, None);
        let memory = Comparison::of_arms_in(&document, &[Metric::Memory], &default_thresholds);
        assert_eq!(memory.overall(), Some(Verdict::Unchanged));
    }

    #[test]
    fn a_pair_with_an_invalid_run_does_not_count_and_is_named() {
        let mut document = duel(10, 1.0);
        document.runs[3].valid = false;
        document.runs[9].interrupted = true;
        let comparison = Comparison::of_arms(&document, &default_thresholds);
        assert_eq!(find(&comparison, Metric::Throughput).pairs, 8);
        assert_eq!(comparison.left_out, ["echo: not counted, because a run is not valid: 2 of 10 pairs."]);
    }

    #[test]
    fn a_gate_that_is_not_known_of_every_run_is_named() {
        let mut document = duel(8, 1.0);
        document.runs[0].server = None;
        let comparison = Comparison::of_arms(&document, &default_thresholds);
        assert!(comparison.judgements.iter().all(|judgement| judgement.metric != Metric::ServerCpu));
        assert!(
            comparison.left_out.iter().any(|line| line.contains("server-cpu")),
            "{:?}",
            comparison.left_out
        );
    }

    #[test]
    fn sessions_are_compared_unpaired_over_the_scenarios_that_both_have() {
        let (base, mut new) = (duel(10, 1.0), duel(10, 1.0));
        for run in &mut new.runs {
            run.server.as_mut().expect("known").cpu_ns_per_message *= 1.2;
        }
        new.scenarios.push(Scenario { name: "text".into(), ..new.scenarios[0].clone() });
        let comparison = Comparison::of_sessions(&base, &new, &default_thresholds);
        assert!(!comparison.interleaved);
        assert_eq!(find(&comparison, Metric::ServerCpu).verdict, Some(Verdict::Regressed));
        assert_eq!(comparison.left_out, ["text: only in the newer session."]);
    }

    #[test]
    fn a_session_against_itself_is_unchanged() {
        let session = duel(1, 1.5);
        let comparison = Comparison::of_sessions(&session, &session, &default_thresholds);
        assert_eq!(comparison.overall(), Some(Verdict::Unchanged));
        assert!(comparison.judgements.iter().all(|judgement| (judgement.ratio - 1.0).abs() < 1e-9));
    }

    #[test]
    fn one_open_question_asks_for_pairs_and_a_hopeless_one_for_none() {
        let three = Comparison::of_arms(&duel(3, 1.5), &default_thresholds);
        assert_eq!(three.overall(), Some(Verdict::Inconclusive));
        assert_eq!(three.more_pairs(), Some(5));
        assert_eq!(Comparison::of_arms(&duel(10, 1.0), &default_thresholds).more_pairs(), None);
    }
}

//! From the runs of two sides to a conclusion.

use std::collections::BTreeMap;

use super::metric::Metric;
use super::statistics::{Estimate, ratio_of_pairs, ratio_of_samples};
use super::verdict::{Judgement, Threshold, Verdict, judge};
use crate::format::count;
use crate::load::Load;
use crate::result::{
    Conclusion, Document, Noise, Run, SIDES, Scenario, SessionVerdict, default_sides, median,
};

pub(crate) type Thresholds<'a> = &'a dyn Fn(&Scenario, Metric) -> Threshold;

/// The metrics' own thresholds, for want of anything known about the machine.
pub(crate) fn default_thresholds(_: &Scenario, metric: Metric) -> Threshold {
    Threshold::of(metric, None)
}

impl Conclusion {
    /// Side B against side A of an interleaved session, pair by pair.
    pub(crate) fn of_arms(document: &Document, thresholds: Thresholds<'_>) -> Self {
        Self::of_arms_in(document, &Metric::ALL, thresholds)
    }

    /// The same for the metrics `judged`, as far as a verdict may depend on them. They are
    /// corrected for each other. All other metrics are only shown. A placebo arm controls the
    /// verdict where there is one.
    pub(crate) fn of_arms_in(
        document: &Document,
        judged: &[Metric],
        thresholds: Thresholds<'_>,
    ) -> Self {
        let of = |names| Self::of_two(document, names, judged, thresholds);
        let conclusion = of(names_of(document));
        match document.placebo() {
            Some(placebo) => conclusion.controlled_by(placebo, of),
            None => conclusion,
        }
    }

    /// The second of two arms against the first, in a session that may have more of them.
    pub(crate) fn of_two(
        document: &Document,
        names: [String; 2],
        judged: &[Metric],
        thresholds: Thresholds<'_>,
    ) -> Self {
        let mut compared = Compared::new(judged, thresholds);
        for scenario in &document.scenarios {
            let (pairs, invalid) = pairs_of(document, &names, &scenario.name);
            if invalid > 0 {
                let (name, made) = (&scenario.name, count((pairs.len() + invalid) as u64, "pair"));
                let note = format!(
                    "{name}: not counted, because a run is not valid: {invalid} of {made}."
                );
                compared.notes.push(note);
            }
            if !pairs.is_empty() {
                compared.add(scenario, |metric| {
                    Judgement::of_pairs(&scenario.name, metric, &samples(&pairs, scenario, metric)?)
                });
            }
        }
        compared.conclude(names, true)
    }

    /// The session `new` against the session `base`: scenarios of the same name, runs not paired.
    ///
    /// Returns whether the two may be compared at all is the caller's question.
    pub(crate) fn of_sessions(base: &Document, new: &Document, thresholds: Thresholds<'_>) -> Self {
        let mut compared = Compared::new(&Metric::ALL, thresholds);
        let named = |document: &Document, name: &str| {
            document.scenarios.iter().position(|s| s.name == name)
        };
        for scenario in &new.scenarios {
            let name = &scenario.name;
            let Some(before) = named(base, name) else {
                compared.notes.push(format!("{name}: only in the newer session."));
                continue;
            };
            let samples = |document: &Document, load: &Load, metric: Metric| {
                let runs =
                    newer_side(document).filter(|run| run.scenario == *name && is_sound(run));
                runs.map(|run| metric.of(run, load)).collect::<Option<Vec<f64>>>()
            };
            compared.add(scenario, |metric| {
                let a = samples(base, &base.scenarios[before].parameters, metric)?;
                let b = samples(new, &scenario.parameters, metric)?;
                Some(Judgement::shown(name, metric, ratio_of_samples(&a, &b)?, a, b))
            });
        }
        let earlier = base.scenarios.iter().filter(|scenario| named(new, &scenario.name).is_none());
        compared.notes.extend(
            earlier.map(|scenario| format!("{}: only in the earlier session.", scenario.name)),
        );
        let mut conclusion = compared.conclude(default_sides(), false);
        if base == new {
            // No statistics are needed to tell, and few runs would leave it open.
            let verdicts =
                conclusion.judgements.iter_mut().filter_map(|judgement| judgement.verdict.as_mut());
            verdicts
                .chain(&mut conclusion.overall)
                .for_each(|verdict| *verdict = Verdict::Unchanged);
        }
        conclusion
    }

    /// Returns the conclusion of a stored session; `None` where it has no verdict of a comparison,
    /// or one that this program cannot read.
    pub(crate) fn stored(document: &Document) -> Option<&Self> {
        let Some(SessionVerdict::Comparison(conclusion)) = &document.verdict else { return None };
        (!conclusion.judgements.is_empty()).then_some(conclusion)
    }

    pub(crate) fn of_noise(noise: Vec<Noise>) -> Self {
        Self { sides: default_sides(), interleaved: true, noise, ..Self::default() }
    }

    /// Pairs that would probably settle what is inconclusive; `None` where nothing is, or no
    /// reasonable number would.
    pub(crate) fn more_pairs(&self) -> Option<usize> {
        let open = self
            .judgements
            .iter()
            .filter(|judgement| judgement.verdict == Some(Verdict::Inconclusive));
        open.map(|judgement| judgement.more_pairs).collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

impl Judgement {
    fn shown(scenario: &str, metric: Metric, estimate: Estimate, a: Vec<f64>, b: Vec<f64>) -> Self {
        Self {
            scenario: scenario.to_owned(),
            metric,
            ratio: estimate.shift,
            interval: estimate.interval,
            p: estimate.p,
            pairs: a.len().min(b.len()),
            a: median(a).unwrap_or_default(),
            b: median(b).unwrap_or_default(),
            p_adjusted: None,
            threshold: None,
            verdict: None,
            more_pairs: None,
        }
    }

    pub(super) fn of_pairs(scenario: &str, metric: Metric, pairs: &[(f64, f64)]) -> Option<Self> {
        let (a, b) = pairs.iter().copied().unzip();
        Some(Self::shown(scenario, metric, ratio_of_pairs(pairs)?, a, b))
    }
}

struct Compared<'a> {
    /// Metrics to judge. Others are shown alone.
    judged: &'a [Metric],
    thresholds: Thresholds<'a>,
    judgements: Vec<Judgement>,
    shown: Vec<Judgement>,
    notes: Vec<String>,
}

impl<'a> Compared<'a> {
    fn new(judged: &'a [Metric], thresholds: Thresholds<'a>) -> Self {
        Self { judged, thresholds, judgements: Vec::new(), shown: Vec::new(), notes: Vec::new() }
    }

    /// Adds the metrics of a scenario that both sides have.
    fn add(&mut self, scenario: &Scenario, of: impl Fn(Metric) -> Option<Judgement>) {
        for metric in Metric::ALL {
            let is_judged = metric.is_judged(&scenario.parameters) && self.judged.contains(&metric);
            match of(metric) {
                Some(judgement) if is_judged => {
                    let threshold = Some((self.thresholds)(scenario, metric));
                    self.judgements.push(Judgement { threshold, ..judgement });
                }
                Some(judgement) => self.shown.push(judgement),
                None if is_judged => {
                    let (name, metric) = (&scenario.name, metric.name());
                    self.notes.push(format!(
                        "{name}: {metric} is not known of every run, and was not judged."
                    ));
                }
                None => {}
            }
        }
    }

    fn conclude(mut self, sides: [String; 2], interleaved: bool) -> Conclusion {
        judge(&mut self.judgements);
        let overall =
            Verdict::overall(self.judgements.iter().filter_map(|judgement| judgement.verdict));
        let (judgements, notes) = ([self.judgements, self.shown].concat(), self.notes);
        Conclusion { sides, overall, interleaved, judgements, notes, ..Conclusion::default() }
    }
}

/// Returns true if a run's figures may be compared with others.
pub(crate) fn is_sound(run: &Run) -> bool {
    run.valid && !run.interrupted
}

/// The runs of a session's server: of a comparison's sides that of the newer.
pub(crate) fn newer_side(document: &Document) -> impl Iterator<Item = &Run> {
    let side = document.arms.last().map(|arm| arm.name.as_str());
    document.runs.iter().filter(move |run| side.is_none_or(|side| run.arm == side))
}

/// Two runs of one round, the first that of side A.
type Pair<'a> = (&'a Run, &'a Run);

/// The pairs of `scenario` both of whose runs are sound, in their order.
pub(crate) fn pairs<'a>(document: &'a Document, scenario: &str) -> Vec<Pair<'a>> {
    pairs_of(document, &names_of(document), scenario).0
}

/// The same of any two arms.
pub(crate) fn pairs_of_two<'a>(
    document: &'a Document,
    names: [&str; 2],
    scenario: &str,
) -> Vec<Pair<'a>> {
    pairs_of(document, &names.map(str::to_owned), scenario).0
}

/// The same for two arms, and the number of complete pairs of which a run is not sound.
fn pairs_of<'a>(
    document: &'a Document,
    names: &[String; 2],
    scenario: &str,
) -> (Vec<Pair<'a>>, usize) {
    let mut sides: BTreeMap<u32, [Option<&Run>; 2]> = BTreeMap::new();
    for run in document.runs.iter().filter(|run| run.scenario == scenario) {
        if let Some(side) = names.iter().position(|name| *name == run.arm) {
            sides.entry(run.pair).or_default()[side] = Some(run);
        }
    }
    let complete = sides.into_values().filter_map(|[a, b]| a.zip(b));
    let (sound, invalid): (Vec<_>, Vec<_>) =
        complete.partition(|(a, b)| is_sound(a) && is_sound(b));
    (sound, invalid.len())
}

/// The figures of pairs; `None` where a run does not carry the metric.
pub(super) fn samples(
    pairs: &[Pair<'_>],
    scenario: &Scenario,
    metric: Metric,
) -> Option<Vec<(f64, f64)>> {
    let of = |run: &Run| metric.of(run, &scenario.parameters);
    pairs.iter().map(|(a, b)| Some((of(a)?, of(b)?))).collect()
}

/// Returns the names of a document's two sides, beside which there may be a placebo; the default
/// names where it has not two.
fn names_of(document: &Document) -> [String; 2] {
    match &document.arms[..] {
        [a, b] => [a.name.clone(), b.name.clone()],
        [a, _, b] if document.placebo().is_some() => [a.name.clone(), b.name.clone()],
        _ => SIDES.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::compare::noise;
    use crate::result::SessionKind;

    fn find(conclusion: &Conclusion, metric: Metric) -> &Judgement {
        conclusion.judgements.iter().find(|judgement| judgement.metric == metric).expect("compared")
    }

    #[test]
    fn a_slower_side_is_found_and_the_other_metrics_are_not_blamed() {
        let conclusion = Conclusion::of_arms(&duel(10, 1.06), &default_thresholds);
        assert!(conclusion.interleaved);
        assert_eq!(find(&conclusion, Metric::ServerCpu).verdict, Some(Verdict::Regressed));
        assert_eq!(find(&conclusion, Metric::Memory).verdict, Some(Verdict::Unchanged));
        assert_eq!(find(&conclusion, Metric::Enters).verdict, None);
        assert_eq!(conclusion.overall, Some(Verdict::Regressed));
        assert!((find(&conclusion, Metric::ServerCpu).ratio - 1.06).abs() < 0.01);
    }

    #[test]
    fn what_is_not_to_be_judged_is_shown_and_costs_no_certainty() {
        let document = duel(10, 1.06);
        let cpu = Conclusion::of_arms_in(&document, &[Metric::ServerCpu], &default_thresholds);
        let judged = find(&cpu, Metric::ServerCpu);
        assert_eq!((judged.verdict, judged.p_adjusted), (Some(Verdict::Regressed), Some(judged.p)));
        assert_eq!(find(&cpu, Metric::Throughput).verdict, None);
        let memory = Conclusion::of_arms_in(&document, &[Metric::Memory], &default_thresholds);
        assert_eq!(memory.overall, Some(Verdict::Unchanged));
    }

    #[test]
    fn a_pair_with_an_invalid_run_does_not_count_and_is_named() {
        let mut document = duel(10, 1.0);
        document.runs[3].valid = false;
        document.runs[9].interrupted = true;
        let conclusion = Conclusion::of_arms(&document, &default_thresholds);
        assert_eq!(find(&conclusion, Metric::Throughput).pairs, 8);
        assert_eq!(
            conclusion.notes,
            ["echo: not counted, because a run is not valid: 2 of 10 pairs."]
        );
    }

    #[test]
    fn a_judged_metric_that_some_runs_lack_is_named() {
        let mut document = duel(8, 1.0);
        document.runs[0].server = None;
        let conclusion = Conclusion::of_arms(&document, &default_thresholds);
        assert!(
            conclusion.judgements.iter().all(|judgement| judgement.metric != Metric::ServerCpu)
        );
        assert!(
            conclusion.notes.iter().any(|line| line.contains("server-cpu")),
            "{:?}",
            conclusion.notes
        );
    }

    #[test]
    fn sessions_are_compared_unpaired_over_the_scenarios_that_both_have() {
        let (base, mut new) = (duel(10, 1.0), duel(10, 1.0));
        for run in &mut new.runs {
            run.server.as_mut().expect("known").cpu_ns_per_message *= 1.2;
        }
        new.scenarios.push(Scenario { name: "text".into(), ..new.scenarios[0].clone() });
        let conclusion = Conclusion::of_sessions(&base, &new, &default_thresholds);
        assert!(!conclusion.interleaved);
        assert_eq!(find(&conclusion, Metric::ServerCpu).verdict, Some(Verdict::Regressed));
        assert_eq!(conclusion.notes, ["text: only in the newer session."]);
    }

    #[test]
    fn a_session_against_itself_is_unchanged() {
        let session = duel(1, 1.5);
        let conclusion = Conclusion::of_sessions(&session, &session, &default_thresholds);
        assert_eq!(conclusion.overall, Some(Verdict::Unchanged));
        assert!(conclusion.judgements.iter().all(|judgement| (judgement.ratio - 1.0).abs() < 1e-9));
    }

    #[test]
    fn one_open_question_asks_for_pairs_and_a_hopeless_one_for_none() {
        let three = Conclusion::of_arms(&duel(3, 1.5), &default_thresholds);
        assert_eq!(three.overall, Some(Verdict::Inconclusive));
        assert_eq!(three.more_pairs(), Some(5));
        assert_eq!(Conclusion::of_arms(&duel(10, 1.0), &default_thresholds).more_pairs(), None);
    }

    /// Against the schema that other programs read.
    fn assert_valid(document: &Document) {
        let schema =
            std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results/schema.json"));
        let schema = serde_json::from_slice(&schema.expect("the schema is there")).expect("JSON");
        let json = serde_json::to_value(document).expect("JSON");
        jsonschema::validate(&schema, &json).expect("the document follows the schema");
    }

    #[test]
    fn a_judged_duel_follows_the_schema_and_reads_back_equal() {
        for (pairs, factor) in [(10, 1.06), (3, 1.0)] {
            let mut document = duel(pairs, factor);
            let conclusion = Conclusion::of_arms(&document, &default_thresholds);
            document.verdict = Some(SessionVerdict::Comparison(conclusion));
            assert_valid(&document);
            let json = serde_json::to_string(&document).expect("JSON");
            assert_eq!(serde_json::from_str::<Document>(&json).expect("readable"), document);
        }
    }

    #[test]
    fn recorded_noise_follows_the_schema() {
        let mut document = duel(10, 1.0);
        document.session.kind = SessionKind::Aa;
        document.verdict = Some(SessionVerdict::Comparison(Conclusion::of_noise(
            noise::of_session(&document, 10),
        )));
        assert_valid(&document);
    }
}

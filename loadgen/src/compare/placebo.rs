//! The control of a verdict by a placebo arm: the first side once more, in the same rounds.
//!
//! The same rule judges the placebo against the first side. Where it calls that pair changed, the
//! machine calls servers changed that are the same, and no change of the other side is believed. A
//! change must also show against the placebo, so that one unlucky series of the first side does not
//! make it.

use super::MIN_PAIRS;
use super::verdict::{Judgement, Verdict};
use crate::result::{Conclusion, Placebo};

impl Conclusion {
    /// Returns the comparison after its control. `compare` compares the second of two arms with the
    /// first.
    pub(super) fn controlled_by(
        mut self,
        placebo: &str,
        compare: impl Fn([String; 2]) -> Self,
    ) -> Self {
        let [base, head] = self.sides.clone();
        let judged = |names| compare(names).judgements.into_iter().filter(is_judged).collect();
        let placebo = Placebo {
            name: placebo.to_owned(),
            same: judged([base, placebo.to_owned()]),
            other: judged([placebo.to_owned(), head]),
        };
        let is_believed = placebo.changed().next().is_none();
        for judgement in self.judgements.iter_mut().filter(|one| is_change(one)) {
            let other = placebo.other.iter().find(|one| is_same_metric(one, judgement));
            let is_seen_twice = other.is_some_and(|other| other.verdict == judgement.verdict);
            if !is_believed || !is_seen_twice {
                judgement.verdict = Some(Verdict::Inconclusive);
                judgement.more_pairs = other.and_then(|other| other.more_pairs);
            }
        }
        self.overall = Verdict::overall(self.judgements.iter().filter_map(|one| one.verdict));
        if !is_believed {
            self.overall = Some(Verdict::Inconclusive);
        }
        Self { placebo: Some(placebo), ..self }
    }
}

impl Placebo {
    /// Returns the metrics in which the same server was called changed.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &Judgement> {
        self.same.iter().filter(|judgement| is_change(judgement))
    }

    /// Returns the metric with the fewest valid pairs of the same server, if they are too few to
    /// control anything.
    pub(crate) fn too_few(&self) -> Option<&Judgement> {
        let fewest = self.same.iter().min_by_key(|judgement| judgement.pairs);
        fewest.filter(|judgement| judgement.pairs < MIN_PAIRS)
    }

    /// Returns true if nothing can be said about the other side on this machine.
    pub(crate) fn cannot_tell(&self) -> bool {
        self.same.is_empty() || self.too_few().is_some() || self.changed().next().is_some()
    }

    /// Returns the placebo's own comparison in the metric of another judgement.
    pub(crate) fn same_metric(&self, of: &Judgement) -> Option<&Judgement> {
        self.same.iter().find(|one| is_same_metric(one, of))
    }
}

fn is_judged(judgement: &Judgement) -> bool {
    judgement.verdict.is_some()
}

fn is_change(judgement: &Judgement) -> bool {
    matches!(judgement.verdict, Some(Verdict::Improved | Verdict::Regressed))
}

fn is_same_metric(one: &Judgement, other: &Judgement) -> bool {
    one.metric == other.metric && one.scenario == other.scenario
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::compare::example::controlled;
    use crate::compare::sides::{default_thresholds, is_sound};
    use crate::result::{Arm, Document, Metric, Run, SessionVerdict, parse};
    use crate::run::Random;

    const ARMS: [&str; 3] = ["base", "placebo", "head"];
    const CPU: Metric = Metric::ServerCpu;

    fn judged(document: &Document) -> Conclusion {
        Conclusion::of_arms(document, &default_thresholds)
    }

    fn verdict(conclusion: &Conclusion, metric: Metric) -> Option<Verdict> {
        conclusion.judgements.iter().find(|one| one.metric == metric)?.verdict
    }

    #[test]
    fn the_head_is_compared_with_the_base() {
        let conclusion = judged(&controlled(10, 1.0, 1.06));
        assert_eq!(conclusion.sides, ["base", "head"]);
        assert_eq!(conclusion.overall, Some(Verdict::Regressed));
        assert_eq!(verdict(&conclusion, CPU), Some(Verdict::Regressed));
        let placebo = conclusion.placebo.expect("controlled");
        assert!(!placebo.cannot_tell() && placebo.name == "placebo", "{placebo:?}");
        assert_eq!((placebo.same.len(), placebo.other.len()), (3, 3));
        let better = judged(&controlled(10, 1.0, 0.94));
        assert_eq!(verdict(&better, CPU), Some(Verdict::Improved));
        assert_eq!(judged(&controlled(10, 1.0, 1.0)).overall, Some(Verdict::Unchanged));
    }

    #[test]
    fn no_change_is_believed_where_the_placebo_changed() {
        for (placebo, head) in [(1.05, 1.2), (0.95, 1.2), (1.05, 0.8), (0.95, 1.0)] {
            let conclusion = judged(&controlled(10, placebo, head));
            assert_eq!(conclusion.overall, Some(Verdict::Inconclusive));
            assert!(!conclusion.judgements.iter().any(is_change), "{conclusion:?}");
            let placebo = conclusion.placebo.expect("controlled");
            let named: Vec<Metric> = placebo.changed().map(|one| one.metric).collect();
            assert!(placebo.cannot_tell() && named == [CPU], "{named:?}");
        }
    }

    #[test]
    fn a_change_that_one_of_two_bases_shows_is_inconclusive() {
        // Beyond the threshold of 2 % against the base alone.
        let conclusion = judged(&controlled(10, 1.016, 1.032));
        assert_eq!(conclusion.overall, Some(Verdict::Inconclusive));
        assert!(conclusion.placebo.is_some_and(|placebo| !placebo.cannot_tell()));
    }

    #[test]
    fn too_few_valid_runs_of_the_base_control_nothing() {
        let mut document = controlled(10, 1.0, 1.0);
        document.runs.iter_mut().filter(|run| run.pair < 3).for_each(|run| run.valid = false);
        let placebo = judged(&document).placebo.expect("controlled");
        assert!(placebo.cannot_tell() && placebo.too_few().is_some_and(|few| few.pairs == 7));
        document.runs.iter_mut().for_each(|run| run.valid = false);
        assert!(judged(&document).placebo.is_some_and(|placebo| placebo.cannot_tell()));
    }

    #[test]
    fn a_controlled_verdict_follows_the_schema_and_reads_back_equal() {
        let mut document = controlled(10, 1.0, 1.06);
        document.verdict = Some(SessionVerdict::Comparison(judged(&document)));
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results/schema.json");
        let schema = std::fs::read(schema).expect("the schema is there");
        let json = serde_json::to_string(&document).expect("JSON");
        let value = serde_json::from_str(&json).expect("JSON");
        jsonschema::validate(&serde_json::from_slice(&schema).expect("JSON"), &value)
            .expect("the document follows the schema");
        assert_eq!(parse(&json, Path::new("f.json")).expect("readable"), document);
    }

    /// The runs of one recorded session, all of the same server: four slots of a round, each with a
    /// run of every scenario.
    type Slots = [Vec<Run>; 4];

    /// Recorded sessions of identical servers, and a frame for their runs.
    fn recorded() -> (Document, Vec<Slots>) {
        let file = "../bench-results/2cb6ad84d164/proof/pairs.jsonl";
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let lines = std::fs::read_to_string(&file).expect("the recording is readable");
        let sessions = lines.lines().map(|line| parse(line, &file).expect("a session"));
        let same: Vec<Document> =
            sessions.filter(|one| one.session.tag.as_deref() == Some("same")).collect();
        let slots = |session: &Document| {
            [(0, "A"), (0, "B"), (1, "B"), (1, "A")].map(|(pair, arm)| {
                let runs = session.runs.iter().filter(|run| run.pair == pair && run.arm == arm);
                runs.cloned().collect::<Vec<Run>>()
            })
        };
        let whole = same.iter().filter(|session| session.runs.iter().all(is_sound));
        let rounds = whole.map(slots).collect();
        let arms = ARMS.map(|name| Arm { name: name.to_owned(), ..same[0].arms[0].clone() });
        (Document { arms: arms.to_vec(), runs: Vec::new(), ..same[0].clone() }, rounds)
    }

    /// Draws sessions of ten rounds from recorded noise, the same every time. `change` makes a run
    /// of an arm another.
    fn drawn(sessions: usize, change: impl Fn(&mut Run)) -> Vec<Conclusion> {
        let (frame, recorded) = recorded();
        assert!(recorded.len() > 20, "{}", recorded.len());
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        let mut draw = |below: usize| (random.next() >> 1) as usize % below;
        let mut session = || {
            let mut document = frame.clone();
            for round in 0..10 {
                let mut slots = recorded[draw(recorded.len())].to_vec();
                for arm in ARMS {
                    let mut runs = slots.swap_remove(draw(slots.len()));
                    for run in &mut runs {
                        (run.arm, run.pair) = (arm.to_owned(), round);
                        change(run);
                    }
                    document.runs.extend(runs);
                }
            }
            judged(&document)
        };
        (0..sessions).map(|_| session()).collect()
    }

    fn red(conclusions: &[Conclusion], metric: Metric) -> usize {
        let is_red = |conclusion: &&Conclusion| {
            conclusion.overall == Some(Verdict::Regressed)
                && verdict(conclusion, metric) == Some(Verdict::Regressed)
        };
        conclusions.iter().filter(is_red).count()
    }

    #[test]
    fn equal_servers_are_not_red_in_recorded_noise() {
        let drawn = drawn(300, |_| {});
        let red = drawn.iter().filter(|one| one.overall == Some(Verdict::Regressed)).count();
        let placebo = |one: &&Conclusion| one.placebo.as_ref().is_some_and(Placebo::cannot_tell);
        println!("{red} of 300 red, {} cannot tell", drawn.iter().filter(placebo).count());
        assert_eq!(red, 0);
    }

    #[test]
    fn a_slowdown_of_5_percent_is_red_in_recorded_noise() {
        for metric in [CPU, Metric::Throughput] {
            let slower = |run: &mut Run| {
                if run.arm == "head" && run.scenario == "echo" {
                    metric.worsen(run, 1.05);
                }
            };
            let drawn = drawn(100, slower);
            let found = red(&drawn, metric);
            println!("{}: {found} of 100 red", metric.name());
            assert!(found >= 95, "{}: {found} of 100", metric.name());
        }
    }

    #[test]
    fn a_runner_with_a_changed_placebo_is_never_red_in_recorded_noise() {
        let changed = |run: &mut Run| match run.arm.as_str() {
            "placebo" => CPU.worsen(run, 1.05),
            "head" => CPU.worsen(run, 1.2),
            _ => {}
        };
        let drawn = drawn(100, changed);
        let told =
            drawn.iter().filter(|one| !one.placebo.as_ref().is_some_and(Placebo::cannot_tell));
        let red = drawn.iter().filter(|one| one.overall == Some(Verdict::Regressed)).count();
        println!("{red} of 100 red, {} of 100 told", told.count());
        assert!(red <= 2, "{red} of 100");
    }
}

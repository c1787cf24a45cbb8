//! Frequency of wrong verdicts. Recorded pairs with a known answer are cut into blocks as large as
//! a duel. The code that judges a duel judges each block ([`Conclusion::of_arms`]).
//!
//! What is recorded are sessions of pairs: of a server against itself, and against the same server
//! slowed by a known amount. The answer of the first is "no change". Blocks that share no run are
//! independent trials, and their share has a binomial interval; there are few of them. Blocks drawn
//! from all pairs with replacement give a smooth estimate, whose trials are not independent. For
//! false verdicts their sides stay what they were: a bias of the procedure towards one of them must
//! show. Where a slowdown is simulated each pair has its sides at random, so that chance in the
//! recording does not help or hide it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Metric;
use super::sides::{Thresholds, is_sound};
use super::statistics::{CONFIDENCE, binomial};
use super::verdict::{Judgement, Threshold, Verdict};
use crate::result::{Arm, Conclusion, Document, Run, SIDES};
use crate::run::Random;

pub(crate) const POWER: f64 = 0.95;
pub(crate) const FALSE: f64 = 0.05;
const SAME: &str = "same";
/// Slowdowns beyond this are not looked for.
const LARGEST_SLOWDOWN: f64 = 0.5;
/// Halvings of it: to about a hundredth of a percent.
const HALVINGS: u32 = 12;

/// One pair: all of its runs, over all scenarios.
type Pair = Vec<Run>;

#[derive(Debug, Clone)]
struct Group {
    /// A document without runs, for the pairs of a block.
    frame: Document,
    pairs: Vec<Pair>,
}

/// Returns a session of several arms as sessions of two: the first arm and each other one, whose
/// name becomes the tag.
fn of_two_arms(document: Document) -> Vec<Document> {
    let [first, others @ ..] = &document.arms[..] else { return vec![document] };
    if others.len() < 2 {
        return vec![document];
    }
    let of = |other: &Arm| {
        let mut pair = Document { runs: Vec::new(), ..document.clone() };
        let names = [&first.name, &other.name];
        for run in &document.runs {
            let side = names.iter().position(|name| **name == run.arm);
            pair.runs.extend(side.map(|side| Run { arm: SIDES[side].to_owned(), ..run.clone() }));
        }
        let side = |arm: &Arm, name: &str| Arm { name: name.to_owned(), ..arm.clone() };
        pair.arms = vec![side(first, SIDES[0]), side(other, SIDES[1])];
        pair.session.tag = Some(other.name.clone());
        pair
    };
    others.iter().map(of).collect()
}

#[derive(Debug, Clone)]
pub(crate) struct Recording {
    /// Pairs of identical servers.
    same: Group,
    /// Pairs of a slowed server, by the session's tag.
    slowed: BTreeMap<String, Group>,
    /// Pairs left out because a run of theirs is not valid.
    invalid: usize,
    /// Attempts that were put aside because something else ran.
    repeated: usize,
    runs: usize,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum RecordingError {
    #[error("no session of pairs of one server against itself (tag `{SAME}`) is recorded")]
    Nothing,
    /// They do not belong together. Lines count from 1.
    #[error(
        "line {line}: the {what} is another than in the first session; record into another file"
    )]
    Differs { line: usize, what: &'static str },
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Share {
    pub(crate) count: usize,
    pub(crate) of: usize,
    /// The Clopper-Pearson interval at 95 %.
    pub(crate) interval: (f64, f64),
}

impl Share {
    fn new(count: usize, of: usize) -> Self {
        Self { count, of, interval: binomial::interval(count, of, CONFIDENCE) }
    }

    /// The share itself; `None` of nothing.
    pub(crate) fn share(&self) -> Option<f64> {
        (self.of > 0).then(|| self.count as f64 / self.of as f64)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Rate {
    /// Blocks that share no run, in the order of their recording.
    pub(crate) blocks: Share,
    /// Drawn blocks. They share runs: the interval is that of the drawing alone.
    pub(crate) drawn: Share,
}

/// Result of the recording for one judged metric.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MetricProof {
    pub(crate) scenario: String,
    pub(crate) metric: Metric,
    pub(crate) threshold: Threshold,
    /// 95 % of the estimates of drawn blocks of identical servers lie within this distance of 1.
    pub(crate) noise: f64,
    /// Identical servers called improved or regressed.
    pub(crate) false_verdicts: Rate,
    /// Identical servers of which side B was made worse by half the threshold, called regressed.
    pub(crate) half_called_regressed: Share,
    /// Made worse by twice the threshold, called regressed.
    pub(crate) twice_found: Share,
    /// The smallest slowdown that is found in [`POWER`] of the drawn blocks; `None` where not even
    /// `LARGEST_SLOWDOWN` is.
    pub(crate) smallest_found: Option<f64>,
}

/// Result of the recording for a server that was slowed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SlowedProof {
    pub(crate) tag: String,
    pub(crate) pairs: usize,
    /// Measured slowdown over all pairs, each judged metric: ratio and 95 % interval.
    pub(crate) measured: Vec<Judgement>,
    /// Share of verdicts that called each judged metric regressed.
    pub(crate) regressed: Vec<(String, Metric, Rate)>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Proof {
    pub(crate) block: usize,
    pub(crate) runs: usize,
    pub(crate) pairs: usize,
    /// Pairs left out because a run of theirs is not valid.
    pub(crate) invalid: usize,
    /// Attempts that were put aside because something else ran.
    pub(crate) repeated: usize,
    /// Identical servers of which any metric was called improved or regressed.
    pub(crate) any_false: Rate,
    pub(crate) metrics: Vec<MetricProof>,
    pub(crate) slowed: Vec<SlowedProof>,
}

impl Recording {
    /// Sorts recorded sessions by their tag; `same` are identical servers, all others side B
    /// slowed.
    ///
    /// Two consecutive pairs of a slowed server give one more of identical ones: their runs of side
    /// A.
    pub(crate) fn of(sessions: Vec<Document>) -> Result<Self, RecordingError> {
        // Pairs of a session of several arms share the runs of the first one.
        let shares_runs = sessions.iter().any(|session| session.arms.len() > 2);
        let runs = sessions.iter().map(|session| session.runs.len()).sum();
        let attempts =
            sessions.iter().flat_map(|session| &session.runs).map(|run| run.repeated.len());
        let repeated = attempts.sum();
        let sessions: Vec<Document> = sessions.into_iter().flat_map(of_two_arms).collect();
        let first = sessions.first().ok_or(RecordingError::Nothing)?.clone();
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let (mut same, mut invalid) = (Vec::new(), 0);
        for (line, session) in (1..).zip(sessions) {
            difference(&first, &session)
                .map_or(Ok(()), |what| Err(RecordingError::Differs { line, what }))?;
            let tag = session.session.tag.clone().unwrap_or_default();
            let frame = Document { runs: Vec::new(), verdict: None, ..session.clone() };
            let expected = 2 * session.scenarios.len();
            let (sound, unsound): (Vec<Pair>, Vec<Pair>) = split(session)
                .into_iter()
                .partition(|pair| pair.len() == expected && pair.iter().all(is_sound));
            invalid += unsound.len();
            if tag != SAME && !shares_runs {
                same.extend(neighbours(&sound));
            }
            let group = groups.entry(tag).or_insert(Group { frame, pairs: Vec::new() });
            group.pairs.extend(sound);
        }
        let mut identical = groups.remove(SAME).ok_or(RecordingError::Nothing)?;
        identical.pairs.extend(same);
        Ok(Self { same: identical, slowed: groups, invalid, repeated, runs })
    }

    /// Cuts and draws blocks of `block` pairs, `draws` of them, and counts the verdicts on each.
    pub(crate) fn prove(&self, block: usize, draws: usize, thresholds: Thresholds<'_>) -> Proof {
        let trials = Trials { block, draws, thresholds };
        let cut = trials.cut(&self.same);
        let drawn = trials.drawn(&self.same, false, |_| {});
        let judgements = judgements(drawn.first().or(cut.first()));
        Proof {
            block,
            runs: self.runs,
            pairs: self.same.pairs.len(),
            invalid: self.invalid,
            repeated: self.repeated,
            any_false: rate(&cut, &drawn, |conclusion| {
                judgements.iter().any(|judgement| is_change(conclusion, judgement))
            }),
            metrics: judgements
                .iter()
                .map(|judgement| self.of_metric(&trials, judgement, &cut, &drawn))
                .collect(),
            slowed: self.slowed.iter().map(|(tag, group)| of_slowed(&trials, tag, group)).collect(),
        }
    }

    fn of_metric(
        &self,
        trials: &Trials<'_>,
        judgement: &Judgement,
        cut: &[Conclusion],
        drawn: &[Conclusion],
    ) -> MetricProof {
        let found = |slowdown: f64| {
            let slowed =
                trials.drawn(&self.same, true, |block| worsen(block, judgement, 1.0 + slowdown));
            count(&slowed, |conclusion| verdict(conclusion, judgement) == Some(Verdict::Regressed))
        };
        let threshold =
            judgement.threshold.unwrap_or_else(|| Threshold::of(judgement.metric, None));
        MetricProof {
            scenario: judgement.scenario.clone(),
            metric: judgement.metric,
            threshold,
            noise: noise(&trials.drawn(&self.same, true, |_| {}), judgement),
            false_verdicts: rate(cut, drawn, |conclusion| is_change(conclusion, judgement)),
            half_called_regressed: found(threshold.relative / 2.0),
            twice_found: found(threshold.relative * 2.0),
            smallest_found: smallest(|slowdown| {
                found(slowdown).share().is_some_and(|share| share >= POWER)
            }),
        }
    }
}

/// Returns what differs from the first session of a recording, and must not.
fn difference(first: &Document, other: &Document) -> Option<&'static str> {
    let loads = |document: &Document| {
        document.scenarios.iter().map(|s| (s.name.clone(), s.hash.clone())).collect::<Vec<_>>()
    };
    let server =
        |document: &Document| document.arms.first().and_then(|arm| arm.subject.binary_hash.clone());
    if first.machine.id != other.machine.id {
        Some("machine")
    } else if loads(first) != loads(other) {
        Some("load")
    } else {
        let is_same =
            server(first) == server(other) && first.tool.binary_hash == other.tool.binary_hash;
        (!is_same).then_some("build of server or generator")
    }
}

/// The pairs of a session, in their order. Histograms and series are not looked at, and are many.
fn split(session: Document) -> Vec<Pair> {
    let mut pairs: BTreeMap<u32, Pair> = BTreeMap::new();
    for mut run in session.runs {
        let latencies = &mut run.latency_ns;
        [&mut latencies.corrected, &mut latencies.lag, &mut latencies.connect]
            .into_iter()
            .chain(&mut latencies.uncorrected)
            .for_each(|latency| latency.hdr = None);
        run.series = Vec::new();
        pairs.entry(run.pair).or_default().push(run);
    }
    pairs.into_values().collect()
}

/// The runs of side A of each two consecutive pairs, as a pair; every other one turned, as the
/// order of a duel is.
fn neighbours(pairs: &[Pair]) -> Vec<Pair> {
    let of_a =
        |pair: &Pair| pair.iter().filter(|run| run.arm == SIDES[0]).cloned().collect::<Pair>();
    let joined = pairs.chunks_exact(2).enumerate().map(|(index, two)| {
        let (mut a, mut b) = (of_a(&two[0]), of_a(&two[1]));
        if index % 2 == 1 {
            std::mem::swap(&mut a, &mut b);
        }
        b.iter_mut().for_each(|run| SIDES[1].clone_into(&mut run.arm));
        a.into_iter().chain(b).collect()
    });
    joined.collect()
}

impl Group {
    fn block(&self, pairs: Vec<Pair>) -> Document {
        let numbered = pairs.into_iter().zip(0..).flat_map(|(pair, number)| {
            pair.into_iter().map(move |run| Run { pair: number, ..run })
        });
        Document { runs: numbered.collect(), ..self.frame.clone() }
    }
}

struct Trials<'a> {
    block: usize,
    draws: usize,
    thresholds: Thresholds<'a>,
}

impl Trials<'_> {
    fn judge(&self, block: &Document) -> Conclusion {
        Conclusion::of_arms(block, self.thresholds)
    }

    /// Judges blocks that share no run.
    fn cut(&self, group: &Group) -> Vec<Conclusion> {
        let blocks = group.pairs.chunks_exact(self.block);
        blocks.map(|pairs| self.judge(&group.block(pairs.to_vec()))).collect()
    }

    /// Judges blocks drawn with replacement, the same every time: changed by `change`, and the
    /// sides of each pair at random where `are_sides_random`.
    fn drawn(
        &self,
        group: &Group,
        are_sides_random: bool,
        change: impl Fn(&mut Document),
    ) -> Vec<Conclusion> {
        if group.pairs.is_empty() {
            return Vec::new();
        }
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        let mut pair = || {
            let bits = random.next();
            let mut pair = group.pairs[(bits >> 1) as usize % group.pairs.len()].clone();
            if are_sides_random && bits & 1 == 1 {
                pair.iter_mut().for_each(|run| turn(&mut run.arm));
            }
            pair
        };
        let blocks =
            (0..self.draws).map(|_| group.block((0..self.block).map(|_| pair()).collect()));
        let changed = blocks.map(|mut block| {
            change(&mut block);
            self.judge(&block)
        });
        changed.collect()
    }
}

fn turn(arm: &mut String) {
    let other = if arm == SIDES[0] { SIDES[1] } else { SIDES[0] };
    other.clone_into(arm);
}

fn judgements(conclusion: Option<&Conclusion>) -> Vec<Judgement> {
    let all = conclusion.into_iter().flat_map(|conclusion| &conclusion.judgements);
    all.filter(|judgement| judgement.threshold.is_some()).cloned().collect()
}

fn find<'a>(conclusion: &'a Conclusion, judgement: &Judgement) -> Option<&'a Judgement> {
    conclusion
        .judgements
        .iter()
        .find(|one| one.scenario == judgement.scenario && one.metric == judgement.metric)
}

fn verdict(conclusion: &Conclusion, judgement: &Judgement) -> Option<Verdict> {
    find(conclusion, judgement)?.verdict
}

fn is_change(conclusion: &Conclusion, judgement: &Judgement) -> bool {
    matches!(verdict(conclusion, judgement), Some(Verdict::Improved | Verdict::Regressed))
}

fn count(conclusions: &[Conclusion], is_it: impl Fn(&Conclusion) -> bool) -> Share {
    Share::new(conclusions.iter().filter(|conclusion| is_it(conclusion)).count(), conclusions.len())
}

fn rate(cut: &[Conclusion], drawn: &[Conclusion], is_it: impl Fn(&Conclusion) -> bool) -> Rate {
    Rate { blocks: count(cut, &is_it), drawn: count(drawn, &is_it) }
}

fn worsen(block: &mut Document, judgement: &Judgement, factor: f64) {
    let worse = block
        .runs
        .iter_mut()
        .filter(|run| run.arm == SIDES[1] && run.scenario == judgement.scenario);
    worse.for_each(|run| judgement.metric.worsen(run, factor));
}

/// Within which distance of 1 the estimates lie, 95 of 100.
fn noise(drawn: &[Conclusion], judgement: &Judgement) -> f64 {
    let mut shifts: Vec<f64> = drawn
        .iter()
        .filter_map(|conclusion| find(conclusion, judgement))
        .map(|one| one.ratio.ln().abs())
        .collect();
    shifts.sort_by(f64::total_cmp);
    let last = (shifts.len() as f64 * POWER).ceil() as usize;
    shifts.get(last.saturating_sub(1)).copied().unwrap_or(f64::NAN).exp_m1()
}

fn smallest(is_found: impl Fn(f64) -> bool) -> Option<f64> {
    let (mut low, mut high) = (0.0, LARGEST_SLOWDOWN);
    if !is_found(high) {
        return None;
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if is_found(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

fn of_slowed(trials: &Trials<'_>, tag: &str, group: &Group) -> SlowedProof {
    let (cut, drawn) = (trials.cut(group), trials.drawn(group, false, |_| {}));
    let whole = judgements(Some(&trials.judge(&group.block(group.pairs.clone()))));
    let regressed = whole.iter().map(|judgement| {
        let rate = rate(&cut, &drawn, |conclusion| {
            verdict(conclusion, judgement) == Some(Verdict::Regressed)
        });
        (judgement.scenario.clone(), judgement.metric, rate)
    });
    SlowedProof {
        tag: tag.to_owned(),
        pairs: group.pairs.len(),
        regressed: regressed.collect(),
        measured: whole,
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::duel;
    use super::super::sides::default_thresholds;
    use super::*;
    use crate::result::SessionKind;

    /// `sessions` sessions of two pairs; side B costs `factor` as much, and every run a little that
    /// changes from session to session.
    fn sessions(tag: &str, sessions: u32, factor: f64) -> Vec<Document> {
        let session = |number: u32| {
            let mut document = duel(2, factor);
            document.session.tag = Some(tag.to_owned());
            for (index, run) in (0..).zip(&mut document.runs) {
                let spread = 1.0 + f64::from((number * 29 + index * 17) % 13) / 1300.0;
                run.server.as_mut().expect("known").cpu_ns_per_message *= spread;
            }
            document
        };
        (0..sessions).map(session).collect()
    }

    fn proof(sessions: Vec<Document>) -> Proof {
        Recording::of(sessions).expect("a recording").prove(8, 40, &default_thresholds)
    }

    fn of(proof: &Proof, metric: Metric) -> &MetricProof {
        proof.metrics.iter().find(|one| one.metric == metric).expect("judged")
    }

    #[test]
    fn identical_servers_and_slowed_ones_are_told_apart() {
        let all = [sessions(SAME, 8, 1.0), sessions("twice", 8, 1.04), sessions("half", 8, 1.01)]
            .concat();
        let proof = proof(all);
        // 16 pairs of identical servers, and one more of each two pairs of a slowed one.
        assert_eq!((proof.runs, proof.pairs, proof.any_false.blocks.of), (96, 32, 4));
        assert_eq!((proof.any_false.blocks.count, proof.any_false.drawn.count), (0, 0));
        let cpu = of(&proof, Metric::ServerCpu);
        assert_eq!(
            (cpu.twice_found.count, cpu.twice_found.of, cpu.half_called_regressed.count),
            (40, 40, 0)
        );
        let smallest = cpu.smallest_found.expect("found");
        assert!((0.02..0.03).contains(&smallest) && cpu.noise < 0.01, "{cpu:?}");
        let regressed = |tag: &str| {
            let slowed = proof.slowed.iter().find(|slowed| slowed.tag == tag).expect("recorded");
            slowed
                .regressed
                .iter()
                .find(|(_, metric, _)| *metric == Metric::ServerCpu)
                .expect("judged")
                .2
        };
        assert_eq!((regressed("twice").blocks.count, regressed("twice").blocks.of), (2, 2));
        assert_eq!((regressed("twice").drawn.count, regressed("half").drawn.count), (40, 0));
    }

    /// The method itself is on trial: blocks that change by more than the threshold by chance must
    /// be counted.
    #[test]
    fn a_false_verdict_is_counted() {
        let mut all = sessions(SAME, 8, 1.0);
        all.extend(sessions(SAME, 4, 1.1));
        let proof = proof(all);
        let cpu = of(&proof, Metric::ServerCpu).false_verdicts;
        assert_eq!((cpu.blocks.count, cpu.blocks.of), (1, 3));
        assert!(proof.any_false.blocks.interval.1 > 0.9, "{:?}", proof.any_false);
    }

    #[test]
    fn pairs_with_an_invalid_run_are_left_out_and_attempts_counted() {
        let mut all = sessions(SAME, 8, 1.0);
        all[0].runs[1].valid = false;
        let expected: usize =
            all.iter().flat_map(|one| &one.runs).map(|run| run.repeated.len()).sum();
        let proof = proof(all);
        assert_eq!((proof.pairs, proof.invalid, proof.repeated), (15, 1, expected));
        assert!(expected > 0);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let refused = |change: fn(&mut Document)| {
            let mut all = sessions(SAME, 2, 1.0);
            change(&mut all[1]);
            Recording::of(all).expect_err("refused").to_string()
        };
        assert!(refused(|one| one.machine.id = "other".into()).starts_with("line 2: the machine"));
        assert!(refused(|one| one.scenarios[0].hash = "other".into()).contains("load"));
        assert!(refused(|one| one.tool.binary_hash = Some("other".into())).contains("build"));
        let alone = sessions("twice", 2, 1.0);
        assert_eq!(
            Recording::of(alone).expect_err("nothing to compare with"),
            RecordingError::Nothing
        );
    }

    #[test]
    fn a_block_is_what_a_duel_stores() {
        let recording = Recording::of(sessions(SAME, 8, 1.0)).expect("a recording");
        let block = recording.same.block(recording.same.pairs[..8].to_vec());
        assert_eq!(
            (block.session.kind, block.arms.len(), block.runs.len()),
            (SessionKind::Ab, 2, 16)
        );
        let numbers: Vec<u32> = block.runs.iter().map(|run| run.pair).collect();
        assert_eq!((numbers[0], numbers[1], numbers[15]), (0, 0, 7));
    }
}

//! How often a verdict is wrong: recorded pairs whose answer is known, cut into blocks as large as a duel, each judged by the
//! code that judges a duel ([`Comparison::of_arms`]).
//!
//! What is recorded are sessions of pairs: of a server against itself, and against the same server slowed by a known amount.
//! The answer of the first is "no change". Blocks that share no run are independent trials, and their share has a binomial
//! interval; there are few of them. Blocks drawn from all pairs with replacement give a smooth estimate, whose trials are not
//! independent. For false verdicts their sides stay what they were: a bias of the procedure towards one of them must show. Where a
//! slowdown is simulated each pair has its sides at random, so that chance in the recording does not help or hide it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Metric;
use super::noise::Draw;
use super::sides::{Comparison, SIDES, Thresholds, is_sound};
use super::statistics::binomial;
use super::verdict::{Judgement, Threshold, Verdict};
use crate::result::{Arm, Document, Run, Scenario};

/// The share of slowdowns that must be found.
pub const POWER: f64 = 0.95;
/// The share of verdicts on identical servers that may say otherwise.
pub const FALSE: f64 = 0.05;
/// Slowdowns beyond this are not looked for.
const LARGEST_SLOWDOWN: f64 = 0.5;
/// Halvings of it: to about a hundredth of a percent.
const HALVINGS: u32 = 12;

/// One pair: all of its runs, over all scenarios.
type Pair = Vec<Run>;

/// The pairs of sessions with one tag.
#[derive(Debug, Clone)]
struct Group {
    /// A document without runs, for the pairs of a block.
    frame: Document,
    pairs: Vec<Pair>,
}

/// Returns a session of several arms as sessions of two: the first arm and each other one, whose name
/// becomes the tag.
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

/// Recorded pairs.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Of identical servers.
    same: Group,
    /// Of a slowed one, by the session's tag.
    slowed: BTreeMap<String, Group>,
    /// Pairs left out because a run of theirs is not valid.
    spoiled: usize,
    /// Attempts that were put aside because something else ran.
    repeated: usize,
    /// All runs.
    runs: usize,
}

/// Why sessions are no recording.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordingError {
    /// Nothing to judge.
    #[error("no session of pairs of one server against itself (tag `{SAME}`) is recorded")]
    Nothing,
    /// They do not belong together.
    #[error("line {line}: the {what} is another than in the first session; record into another file")]
    Differs {
        /// From 1.
        line: usize,
        /// What differs.
        what: &'static str,
    },
}

/// The tag of sessions of one server against itself.
pub const SAME: &str = "same";

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// How many were counted.
    pub count: usize,
    /// Of how many.
    pub of: usize,
    /// The Clopper-Pearson interval at 95 %.
    pub interval: (f64, f64),
}

impl Share {
    fn new(count: usize, of: usize) -> Self {
        Self { count, of, interval: binomial::interval(count, of, super::statistics::CONFIDENCE) }
    }

    /// The share itself; `None` of nothing.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        (self.of > 0).then(|| self.count as f64 / self.of as f64)
    }
}

/// A count over blocks that share no run, and over drawn ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// Blocks that share no run, in the order of their recording.
    pub blocks: Share,
    /// Drawn blocks. They share runs: the interval is that of the drawing alone.
    pub drawn: Share,
}

/// What the recording says of one judged metric.
#[derive(Debug, Clone, Serialize)]
pub struct OfMetric {
    /// In which scenario.
    pub scenario: String,
    /// Which.
    pub metric: Metric,
    /// What applies to it.
    pub threshold: Threshold,
    /// 95 % of the estimates of drawn blocks of identical servers lie within this distance of 1.
    pub noise: f64,
    /// Identical servers called improved or regressed.
    pub false_verdicts: Rate,
    /// Identical servers of which side B was made worse by half the threshold, called regressed.
    pub half_called_regressed: Share,
    /// Made worse by twice the threshold, called regressed.
    pub twice_found: Share,
    /// The smallest slowdown that is found in [`POWER`] of the drawn blocks; `None` where not even `LARGEST_SLOWDOWN` is.
    pub smallest_found: Option<f64>,
}

/// What the recording says of a server that was really slowed.
#[derive(Debug, Clone, Serialize)]
pub struct OfSlowed {
    /// The sessions' tag.
    pub tag: String,
    /// Its pairs.
    pub pairs: usize,
    /// What it cost more, over all pairs, each judged metric: ratio and 95 % interval.
    pub measured: Vec<Judgement>,
    /// How often each judged metric was called regressed.
    pub regressed: Vec<(String, Metric, Rate)>,
}

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// Pairs of a block.
    pub block: usize,
    /// Runs that were recorded.
    pub runs: usize,
    /// Pairs of identical servers.
    pub pairs: usize,
    /// Pairs left out because a run of theirs is not valid.
    pub spoiled: usize,
    /// Attempts that were put aside because something else ran.
    pub repeated: usize,
    /// Identical servers of which any metric was called improved or regressed.
    pub any_false: Rate,
    /// Each judged metric.
    pub metrics: Vec<OfMetric>,
    /// Each slowed server.
    pub slowed: Vec<OfSlowed>,
}

impl Recording {
    /// Sorts recorded sessions by their tag; `same` are identical servers, all others side B slowed.
    ///
    /// Two consecutive pairs of a slowed server give one more of identical ones: their runs of side A.
    ///
    /// # Errors
    /// Where they do not belong together, or none is of identical servers.
    pub fn of(sessions: Vec<Document>) -> Result<Self, RecordingError> {
        // Pairs of a session of several arms share the runs of the first one.
        let shares_runs = sessions.iter().any(|session| session.arms.len() > 2);
        let runs = sessions.iter().map(|session| session.runs.len()).sum();
        let attempts = sessions.iter().flat_map(|session| &session.runs).map(|run| run.repeated.len());
        let repeated = attempts.sum();
        let sessions: Vec<Document> = sessions.into_iter().flat_map(of_two_arms).collect();
        let first = sessions.first().ok_or(RecordingError::Nothing)?.clone();
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let (mut same, mut spoiled) = (Vec::new(), 0);
        for (index, session) in sessions.into_iter().enumerate() {
            belongs(&first, &session).map_err(|what| RecordingError::Differs { line: index + 1, what })?;
            let tag = session.session.tag.clone().unwrap_or_default();
            let frame = Document { runs: Vec::new(), verdict: None, ..session.clone() };
            let expected = 2 * session.scenarios.len();
            let (sound, unsound): (Vec<Pair>, Vec<Pair>) = split(session)
                .into_iter()
                .partition(|pair| pair.len() == expected && pair.iter().all(is_sound));
            spoiled += unsound.len();
            if tag != SAME && !shares_runs {
                same.extend(neighbours(&sound));
            }
            let group = groups.entry(tag).or_insert(Group { frame, pairs: Vec::new() });
            group.pairs.extend(sound);
        }
        let mut identical = groups.remove(SAME).ok_or(RecordingError::Nothing)?;
        identical.pairs.extend(same);
        Ok(Self { same: identical, slowed: groups, spoiled, repeated, runs })
    }

    /// Cuts and draws blocks of `block` pairs, `draws` of them, and counts what is said of each.
    #[must_use]
    pub fn prove(&self, block: usize, draws: usize, thresholds: Thresholds<'_>) -> Proof {
        let judge = Judge { block, thresholds };
        let cut = judge.all(self.same.cut(block));
        let drawn = judge.all(self.same.drawn(block, draws, Sides::AsTheyWere));
        let gates = gates(drawn.first().or(cut.first()));
        let metrics = gates.iter().map(|gate| self.of_metric(&judge, gate, draws, &cut, &drawn)).collect();
        let slowed = self.slowed.iter().map(|(tag, group)| of_slowed(&judge, tag, group, draws)).collect();
        let any = |said: &Comparison| gates.iter().any(|gate| is_change(verdict(said, gate)));
        Proof {
            block,
            runs: self.runs,
            pairs: self.same.pairs.len(),
            spoiled: self.spoiled,
            repeated: self.repeated,
            any_false: rate(&cut, &drawn, any),
            metrics,
            slowed,
        }
    }

    fn of_metric(
        &self,
        judge: &Judge<'_>,
        gate: &Gate,
        draws: usize,
        cut: &[Comparison],
        drawn: &[Comparison],
    ) -> OfMetric {
        let found = |slowdown: f64| {
            let mut group = self.same.drawn(judge.block, draws, Sides::AtRandom);
            group.iter_mut().for_each(|block| worsen(block, gate, 1.0 + slowdown));
            count(&judge.all(group), |said| verdict(said, gate) == Some(Verdict::Regressed))
        };
        let threshold = gate.threshold;
        OfMetric {
            scenario: gate.scenario.clone(),
            metric: gate.metric,
            threshold,
            noise: noise(&judge.all(self.same.drawn(judge.block, draws, Sides::AtRandom)), gate),
            false_verdicts: rate(cut, drawn, |said| is_change(verdict(said, gate))),
            half_called_regressed: found(threshold.relative / 2.0),
            twice_found: found(threshold.relative * 2.0),
            smallest_found: smallest(|slowdown| found(slowdown).share().is_some_and(|share| share >= POWER)),
        }
    }
}

/// What must not differ within a recording.
fn belongs(first: &Document, other: &Document) -> Result<(), &'static str> {
    let loads = |document: &Document| {
        document.scenarios.iter().map(|s| (s.name.clone(), s.hash.clone())).collect::<Vec<_>>()
    };
    let server = |document: &Document| document.arms.first().and_then(|arm| arm.subject.binary_hash.clone());
    if first.machine.id != other.machine.id {
        Err("machine")
    } else if loads(first) != loads(other) {
        Err("load")
    } else if server(first) != server(other) || first.tool.binary_hash != other.tool.binary_hash {
        Err("build of server or generator")
    } else {
        Ok(())
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

/// The runs of side A of each two consecutive pairs, as a pair; every other one turned, as the order of a duel is.
fn neighbours(pairs: &[Pair]) -> Vec<Pair> {
    let of_a = |pair: &Pair| pair.iter().filter(|run| run.arm == SIDES[0]).cloned().collect::<Pair>();
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
        let numbered = pairs
            .into_iter()
            .zip(0..)
            .flat_map(|(pair, number)| pair.into_iter().map(move |run| Run { pair: number, ..run }));
        Document { runs: numbered.collect(), ..self.frame.clone() }
    }

    /// Blocks that share no run.
    fn cut(&self, size: usize) -> Vec<Document> {
        self.pairs.chunks_exact(size).map(|pairs| self.block(pairs.to_vec())).collect()
    }

    /// Blocks drawn with replacement, the same every time.
    fn drawn(&self, size: usize, draws: usize, sides: Sides) -> Vec<Document> {
        if self.pairs.is_empty() {
            return Vec::new();
        }
        let mut draw = Draw(0x2545_f491_4f6c_dd1d);
        let mut pair = || {
            let bits = draw.next();
            let mut pair = self.pairs[(bits >> 1) as usize % self.pairs.len()].clone();
            if sides == Sides::AtRandom && bits & 1 == 1 {
                pair.iter_mut().for_each(|run| turn(&mut run.arm));
            }
            pair
        };
        (0..draws).map(|_| self.block((0..size).map(|_| pair()).collect())).collect()
    }
}

/// What becomes of the sides of drawn pairs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sides {
    AsTheyWere,
    AtRandom,
}

fn turn(arm: &mut String) {
    let other = if arm == SIDES[0] { SIDES[1] } else { SIDES[0] };
    other.clone_into(arm);
}

/// A metric that is judged.
struct Gate {
    scenario: String,
    metric: Metric,
    threshold: Threshold,
}

fn gates(comparison: Option<&Comparison>) -> Vec<Gate> {
    let judged = comparison.into_iter().flat_map(|comparison| &comparison.judgements);
    let gate = |judgement: &Judgement| {
        let (scenario, metric) = (judgement.scenario.clone(), judgement.metric);
        judgement.threshold.map(|threshold| Gate { scenario, metric, threshold })
    };
    judged.filter_map(gate).collect()
}

struct Judge<'a> {
    block: usize,
    thresholds: Thresholds<'a>,
}

impl Judge<'_> {
    fn all(&self, blocks: Vec<Document>) -> Vec<Comparison> {
        let thresholds = |scenario: &Scenario, metric| (self.thresholds)(scenario, metric);
        blocks.iter().map(|block| Comparison::of_arms(block, &thresholds)).collect()
    }
}

fn find<'a>(said: &'a Comparison, gate: &Gate) -> Option<&'a Judgement> {
    said.judgements.iter().find(|one| one.scenario == gate.scenario && one.metric == gate.metric)
}

fn verdict(said: &Comparison, gate: &Gate) -> Option<Verdict> {
    find(said, gate)?.verdict
}

fn is_change(verdict: Option<Verdict>) -> bool {
    matches!(verdict, Some(Verdict::Improved | Verdict::Regressed))
}

fn count(said: &[Comparison], is_it: impl Fn(&Comparison) -> bool) -> Share {
    Share::new(said.iter().filter(|said| is_it(said)).count(), said.len())
}

fn rate(cut: &[Comparison], drawn: &[Comparison], is_it: impl Fn(&Comparison) -> bool) -> Rate {
    Rate { blocks: count(cut, &is_it), drawn: count(drawn, &is_it) }
}

/// Makes side B of a block worse.
fn worsen(block: &mut Document, gate: &Gate, factor: f64) {
    let worse = block.runs.iter_mut().filter(|run| run.arm == SIDES[1] && run.scenario == gate.scenario);
    worse.for_each(|run| gate.metric.worsen(run, factor));
}

/// Within which distance of 1 the estimates lie, 95 of 100.
fn noise(drawn: &[Comparison], gate: &Gate) -> f64 {
    let mut shifts: Vec<f64> =
        drawn.iter().filter_map(|said| find(said, gate)).map(|one| one.ratio.ln().abs()).collect();
    shifts.sort_by(f64::total_cmp);
    let last = (shifts.len() as f64 * POWER).ceil() as usize;
    shifts.get(last.saturating_sub(1)).copied().unwrap_or(f64::NAN).exp_m1()
}

/// The smallest slowdown that `is_found`.
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

fn of_slowed(judge: &Judge<'_>, tag: &str, group: &Group, draws: usize) -> OfSlowed {
    let cut = judge.all(group.cut(judge.block));
    let drawn = judge.all(group.drawn(judge.block, draws, Sides::AsTheyWere));
    let whole = judge.all(vec![group.block(group.pairs.clone())]);
    let gates = gates(whole.first());
    let regressed = gates.iter().map(|gate| {
        let rate = rate(&cut, &drawn, |said| verdict(said, gate) == Some(Verdict::Regressed));
        (gate.scenario.clone(), gate.metric, rate)
    });
    let judged = |one: &Judgement| one.verdict.is_some();
    OfSlowed {
        tag: tag.to_owned(),
        pairs: group.pairs.len(),
        regressed: regressed.collect(),
        measured: whole.into_iter().flat_map(|whole| whole.judgements).filter(judged).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::duel;
    use super::super::sides::default_thresholds;
    use super::*;
    use crate::result::SessionKind;

    /// `sessions` sessions of two pairs; side B costs `factor` as much, and every run a little that changes from session to
    /// session.
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

    fn of(proof: &Proof, metric: Metric) -> &OfMetric {
        proof.metrics.iter().find(|one| one.metric == metric).expect("judged")
    }

    #[test]
    fn identical_servers_and_slowed_ones_are_told_apart() {
        let all = [sessions(SAME, 8, 1.0), sessions("twice", 8, 1.04), sessions("half", 8, 1.01)].concat();
        let proof = proof(all);
        // 16 pairs of identical servers, and one more of each two pairs of a slowed one.
        assert_eq!((proof.runs, proof.pairs, proof.any_false.blocks.of), (96, 32, 4));
        assert_eq!((proof.any_false.blocks.count, proof.any_false.drawn.count), (0, 0));
        let cpu = of(&proof, Metric::ServerCpu);
        assert_eq!((cpu.twice_found.count, cpu.twice_found.of, cpu.half_called_regressed.count), (40, 40, 0));
        let smallest = cpu.smallest_found.expect("found");
        assert!((0.02..0.03).contains(&smallest) && cpu.noise < 0.01, "{cpu:?}");
        let regressed = |tag: &str| {
            let slowed = proof.slowed.iter().find(|slowed| slowed.tag == tag).expect("recorded");
            slowed.regressed.iter().find(|(_, metric, _)| *metric == Metric::ServerCpu).expect("judged").2
        };
        assert_eq!((regressed("twice").blocks.count, regressed("twice").blocks.of), (2, 2));
        assert_eq!((regressed("twice").drawn.count, regressed("half").drawn.count), (40, 0));
    }

    /// The method itself is on trial: blocks that change by more than the threshold by chance must be counted.
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
        let expected: usize = all.iter().flat_map(|one| &one.runs).map(|run| run.repeated.len()).sum();
        let proof = proof(all);
        assert_eq!((proof.pairs, proof.spoiled, proof.repeated), (15, 1, expected));
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
        assert_eq!(Recording::of(alone).expect_err("nothing to compare with"), RecordingError::Nothing);
    }

    #[test]
    fn a_block_is_what_a_duel_stores() {
        let recording = Recording::of(sessions(SAME, 8, 1.0)).expect("a recording");
        let block = &recording.same.cut(8)[0];
        assert_eq!((block.session.kind, block.arms.len(), block.runs.len()), (SessionKind::Ab, 2, 16));
        let numbers: Vec<u32> = block.runs.iter().map(|run| run.pair).collect();
        assert_eq!((numbers[0], numbers[1], numbers[15]), (0, 0, 7));
    }
}

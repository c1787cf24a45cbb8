//! Recorded noise for tests: runs and pairs of identical servers
//! (`bench-results/2cb6ad84d164/proof/pairs.jsonl`), and what is drawn from them.

use std::sync::OnceLock;

use super::sides::{is_sound, pairs, samples};
use super::statistics::log_ratio;
use crate::result::{Document, Metric, SIDES, median, parse};
use crate::run::Random;

const RECORDING: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results/2cb6ad84d164/proof/pairs.jsonl");
const METRIC: Metric = Metric::ServerCpu;
const SCENARIO: &str = "echo";
/// Rounds of a session of `full`, and the recorded runs from one round to the next: a round of
/// `full` takes about 20 s, and the recording has a run every 5 s.
const ROUNDS: usize = 10;
const STRIDE: usize = 4;

fn sessions() -> Vec<Document> {
    let text = std::fs::read_to_string(RECORDING).expect("the recording");
    text.lines().map(|line| parse(line, RECORDING.as_ref()).expect("a session")).collect()
}

/// Server CPU of the valid runs of side A, which was the same server throughout, in the order of
/// their recording; their median is 1.
pub(crate) fn levels() -> &'static [f64] {
    static LEVELS: OnceLock<Vec<f64>> = OnceLock::new();
    LEVELS.get_or_init(|| {
        let all = sessions();
        let runs = all.iter().flat_map(|session| &session.runs);
        let load = &all[0].scenario(SCENARIO).expect("recorded").parameters;
        let values: Vec<f64> = runs
            .filter(|run| run.scenario == SCENARIO && run.arm == SIDES[0] && is_sound(run))
            .filter_map(|run| METRIC.of(run, load))
            .collect();
        let middle = median(values.clone()).expect("runs");
        values.into_iter().map(|value| value / middle).collect()
    })
}

/// Logarithms of the ratios of the valid pairs of identical servers.
pub(crate) fn log_ratios() -> &'static [f64] {
    static LOG_RATIOS: OnceLock<Vec<f64>> = OnceLock::new();
    LOG_RATIOS.get_or_init(|| {
        let same = sessions().into_iter().filter(|one| one.session.tag.as_deref() == Some("same"));
        let of = |document: Document| {
            let scenario = document.scenario(SCENARIO).expect("recorded");
            let figures = samples(&pairs(&document, SCENARIO), scenario, METRIC).expect("figures");
            figures.into_iter().filter_map(|(a, b)| log_ratio(a, b)).collect::<Vec<_>>()
        };
        same.flat_map(of).collect()
    })
}

/// Pairs of a duel whose second server takes `factor` times the time of the first. The sides of
/// each pair are drawn too, because both servers of the recording were the same.
pub(crate) fn duel(pairs: usize, factor: f64, random: &mut Random) -> Vec<f64> {
    let recorded = log_ratios();
    let mut pair = || {
        let noise = recorded[random.below(recorded.len())];
        factor.ln() + if random.next() & 1 == 0 { noise } else { -noise }
    };
    (0..pairs).map(|_| pair()).collect()
}

/// The figure of a session of `full`: the median of runs in the order and at about the distance in
/// time in which they were recorded, so that a slow stretch of the machine stays one.
pub(crate) fn session(level: f64, random: &mut Random) -> f64 {
    let runs = levels();
    let span = STRIDE * (ROUNDS - 1) + 1;
    let first = random.below(runs.len() - span + 1);
    let drawn = runs[first..first + span].iter().step_by(STRIDE);
    level * median(drawn.copied().collect()).expect("runs")
}

#[test]
fn the_recording_is_large_enough_to_draw_from() {
    assert!(levels().len() >= 200 && log_ratios().len() >= 70);
    let mut random = Random(1);
    let sessions: Vec<f64> = (0..500).map(|_| session(1.0, &mut random).ln()).collect();
    let deviation = (sessions.iter().map(|x| x * x).sum::<f64>() / 500.0).sqrt();
    assert!((0.006..0.012).contains(&deviation), "{deviation}");
}

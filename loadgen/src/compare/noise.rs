//! Noise of a machine, by two identical servers: recorded by `aa`, used as the floor of every
//! threshold.

use super::metric::Metric;
use super::sides::{pairs, samples};
use super::statistics::{log_ratio, signed_rank};
use crate::load::Load;
use crate::result::{Document, Noise, Scenario, SessionKind, Setting, Threshold};
use crate::run::Random;

/// Duels drawn from the recorded pairs.
const RESAMPLES: usize = 2000;
const SHARE: f64 = 0.95;
/// Fewer recorded pairs say nothing about the tail of a distribution.
pub(crate) const MIN_RECORDED: usize = 8;

/// The noise of every metric of a recorded session, for duels of `pairs` pairs.
pub(crate) fn of_session(document: &Document, pairs: usize) -> Vec<Noise> {
    let of = |scenario| Metric::ALL.map(|metric| of_metric(document, scenario, metric, pairs));
    document.scenarios.iter().flat_map(of).flatten().collect()
}

/// `None` where fewer than [`MIN_RECORDED`] pairs carry the metric.
fn of_metric(
    document: &Document,
    scenario: &Scenario,
    metric: Metric,
    duel_pairs: usize,
) -> Option<Noise> {
    let recorded = samples(&pairs(document, &scenario.name), scenario, metric)?;
    let logs: Vec<f64> = recorded.iter().map(|&(a, b)| log_ratio(a, b)).collect::<Option<_>>()?;
    if logs.len() < MIN_RECORDED || duel_pairs == 0 {
        return None;
    }
    Some(Noise {
        scenario: scenario.name.clone(),
        metric,
        pairs: duel_pairs,
        recorded: logs.len(),
        p95: resampled(&logs, duel_pairs).exp_m1(),
    })
}

/// The 95th percentile of the absolute estimate over duels of `pairs` pairs drawn from `logs` with
/// replacement. The seed is fixed, so that a stored session always says the same.
///
/// Both sides were the same, so each log-ratio might as well have come out with the other sign:
/// signs are drawn too.
fn resampled(logs: &[f64], pairs: usize) -> f64 {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut signed = || {
        let bits = random.next();
        let value = logs[(bits >> 1) as usize % logs.len()];
        if bits & 1 == 0 { value } else { -value }
    };
    let mut estimate =
        || signed_rank::shift(&(0..pairs).map(|_| signed()).collect::<Vec<_>>()).abs();
    let mut estimates: Vec<f64> = (0..RESAMPLES).map(|_| estimate()).collect();
    estimates.sort_by(f64::total_cmp);
    estimates[(RESAMPLES as f64 * SHARE).ceil() as usize - 1]
}

/// Recorded sessions, newest first, with the name of their file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Noises(Vec<(String, Document)>);

impl Noises {
    /// Out of the sessions of one machine, oldest first, with their files' names; those that
    /// recorded no noise are left out.
    pub(crate) fn among(sessions: impl IntoIterator<Item = (String, Document)>) -> Self {
        let recorded =
            sessions.into_iter().filter(|(_, document)| document.session.kind == SessionKind::Aa);
        let mut recorded: Vec<_> = recorded.collect();
        recorded.reverse();
        Self(recorded)
    }

    /// The newest recorded noise of `metric` under a load like `scenario`'s for duels of `pairs`
    /// pairs, and the file it comes from.
    pub(crate) fn find(
        &self,
        scenario: &Scenario,
        metric: Metric,
        pairs: usize,
    ) -> Option<(Noise, &str)> {
        self.0.iter().find_map(|(file, document)| {
            let mut recorded = document.scenarios.iter().filter(|one| is_like(one, scenario));
            let noise =
                recorded.find_map(|recorded| of_metric(document, recorded, metric, pairs))?;
            Some((noise, file.as_str()))
        })
    }

    /// The threshold of `metric` in a duel of `pairs` pairs on the machine.
    pub(crate) fn threshold(&self, scenario: &Scenario, metric: Metric, pairs: usize) -> Threshold {
        Threshold::of(metric, self.find(scenario, metric, pairs).map(|(noise, _)| noise.p95))
    }
}

/// Returns true if the noise of one scenario is that of the other. The exact fixed rate follows
/// the server's capacity, and the server's settings may be known in one of them alone.
fn is_like(one: &Scenario, other: &Scenario) -> bool {
    let essence = |scenario: &Scenario| {
        let load = scenario.parameters.canonical();
        let load = Load { rate_per_s: load.rate_per_s.map(|_| 0.0), seed: 0, ..load };
        let server = Setting { engine: None, threads: None, ..scenario.server.clone() };
        (load, scenario.generator.clone(), server)
    };
    essence(one) == essence(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;

    fn recorded(pairs: u32) -> Document {
        let mut document = duel(pairs, 1.0);
        document.session.kind = SessionKind::Aa;
        document
    }

    #[test]
    fn noise_is_what_the_estimate_does_when_nothing_changed() {
        let logs: Vec<f64> = (-10..=10).map(|i| 0.002 * f64::from(i)).collect();
        let (few, many) = (resampled(&logs, 8), resampled(&logs, 30));
        assert!(few > many && few <= 0.02 && many > 0.0, "{few} {many}");
        assert_eq!(resampled(&[0.0; 10], 8), 0.0);
        assert_eq!(resampled(&logs, 8), few, "the same every time");
    }

    /// For normal ratios the estimate's spread is known: its efficiency against the mean is 3 / pi.
    #[test]
    fn noise_of_normal_ratios_is_what_theory_says() {
        // Quantiles of the normal distribution: a sample as regular as one can be.
        let logs: Vec<f64> = (1..200).map(|i| 0.01 * quantile(f64::from(i) / 200.0)).collect();
        let expected = 1.96 * 0.01 / 10f64.sqrt() * (std::f64::consts::PI / 3.0).sqrt();
        assert!(
            (resampled(&logs, 10) / expected - 1.0).abs() < 0.1,
            "{} {expected}",
            resampled(&logs, 10)
        );
    }

    fn quantile(p: f64) -> f64 {
        let (mut low, mut high) = (-10.0, 10.0);
        for _ in 0..60 {
            let z = f64::midpoint(low, high);
            if 0.5 * libm::erfc(-z / std::f64::consts::SQRT_2) < p { low = z } else { high = z }
        }
        low
    }

    #[test]
    fn too_few_recorded_pairs_say_nothing() {
        assert!(of_session(&recorded(7), 10).is_empty());
        let noises = of_session(&recorded(12), 10);
        let cpu = noises.iter().find(|noise| noise.metric == Metric::ServerCpu).expect("recorded");
        assert_eq!((cpu.recorded, cpu.pairs), (12, 10));
        assert!(cpu.p95 > 0.0 && cpu.p95 < 0.01, "{cpu:?}");
    }

    #[test]
    fn the_newest_recording_of_a_like_load_counts() {
        let (old, new) = (recorded(10), recorded(12));
        let sessions = [
            ("old".to_owned(), old.clone()),
            ("new".to_owned(), new),
            ("duel".to_owned(), duel(20, 1.0)),
        ];
        let noises = Noises::among(sessions);
        let mut scenario = old.scenarios[0].clone();
        let (noise, file) = noises.find(&scenario, Metric::Throughput, 10).expect("recorded");
        assert_eq!((noise.recorded, file), (12, "new"));
        scenario.server.engine = None;
        assert!(noises.find(&scenario, Metric::Throughput, 10).is_some());
        scenario.parameters.connections += 1;
        assert!(noises.find(&scenario, Metric::Throughput, 10).is_none());
    }
}

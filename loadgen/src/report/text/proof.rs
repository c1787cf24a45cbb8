//! Share of wrong verdicts on a machine.

use super::comparison::threshold;
use crate::compare::ThresholdSource;
use crate::compare::proof::{FALSE, MetricProof, POWER, Proof, Rate, Share, SlowedProof};
use crate::format::{change, change_interval, count, share};
use crate::report::{Blocks, Table};

pub(crate) fn missed(proof: &Proof) -> Vec<String> {
    let mut missed = Vec::new();
    let is_false = |rate: &Rate| rate.drawn.share().is_some_and(|share| share > FALSE);
    if is_false(&proof.any_false) {
        missed.push(format!("identical servers are called changed in {}", rate(&proof.any_false)));
    }
    for of in
        proof.metrics.iter().filter(|of| of.twice_found.share().is_some_and(|share| share < POWER))
    {
        let (scenario, metric, found) = (&of.scenario, of.metric.name(), counted(&of.twice_found));
        missed.push(format!("{scenario} {metric}: twice the threshold is found in {found}"));
    }
    missed
}

/// Returns how often verdicts are wrong, metric by metric, and whether the goals are reached.
pub(crate) fn proof(proof: &Proof) -> Blocks {
    let (runs, pairs) = (count(proof.runs as u64, "run"), count(proof.pairs as u64, "pair"));
    let head = vec![
        format!(
            "{runs} recorded ({} put aside because something else ran), {} left out as invalid",
            count(proof.repeated as u64, "attempt"),
            count(proof.invalid as u64, "pair")
        ),
        format!(
            "identical servers: {pairs}, as duels of {}: any metric called changed in",
            proof.block
        ),
        format!("  {}", rate(&proof.any_false)),
    ];
    let mut legend = vec![
        "noise: in 95 of 100 duels of identical servers the estimate stays within it; smallest found: in 95 of 100 duels;"
            .to_owned(),
        "half, twice: side B made worse by that much of the threshold, called regressed in so many of the drawn duels"
            .to_owned(),
    ];
    if proof.metrics.iter().any(|of| of.threshold.source == ThresholdSource::Noise) {
        legend.push("* twice this machine's noise, as `aa` recorded it".to_owned());
    }
    let blocks = Blocks::default().notes(head).table(metrics(&proof.metrics)).notes(legend);
    let blocks = proof.slowed.iter().fold(blocks, |blocks, slowed| {
        let pairs = count(slowed.pairs as u64, "pair");
        let title = format!("{}: {pairs} against a server that was really slowed", slowed.tag);
        blocks.title(title).table(slowed_table(slowed))
    });
    let missed = missed(proof);
    let reached = missed.is_empty().then(|| {
        let (most, least) = (share(FALSE, 0), share(POWER, 0));
        format!("REACHED: at most {most} false, and at least {least} of what is twice the threshold found")
    });
    blocks.notes(
        reached
            .into_iter()
            .chain(missed.into_iter().map(|line| format!("MISSED: {line}")))
            .collect(),
    )
}

fn metrics(metrics: &[MetricProof]) -> Table {
    let header =
        "scenario|metric|noise|threshold|false: blocks|95 % interval|drawn|half|twice|smallest found"
            .split('|');
    let row = |of: &MetricProof| {
        let blocks = &of.false_verdicts.blocks;
        [
            of.scenario.clone(),
            of.metric.name().to_owned(),
            share(of.noise, 2),
            threshold(of.threshold),
            format!("{} of {}", blocks.count, blocks.of),
            between(blocks),
            part(&of.false_verdicts.drawn),
            part(&of.half_called_regressed),
            part(&of.twice_found),
            of.smallest_found.map_or_else(|| "none".to_owned(), |found| share(found, 2)),
        ]
    };
    Table::new(header, 2, [5, 4, 7, 6, 2]).rows(metrics.iter().map(row))
}

fn slowed_table(slowed: &SlowedProof) -> Table {
    let header = [
        "scenario",
        "metric",
        "measured",
        "95 % interval",
        "regressed: blocks",
        "95 % interval",
        "drawn",
    ];
    let rows = slowed.measured.iter().zip(&slowed.regressed).map(|(judgement, (_, _, rate))| {
        [
            judgement.scenario.clone(),
            judgement.metric.name().to_owned(),
            change(judgement.ratio),
            change_interval(judgement.interval),
            format!("{} of {}", rate.blocks.count, rate.blocks.of),
            between(&rate.blocks),
            part(&rate.drawn),
        ]
    });
    Table::new(header, 2, [5, 3, 6]).rows(rows)
}

fn rate(rate: &Rate) -> String {
    format!(
        "{} independent blocks; of {} drawn: {}",
        counted(&rate.blocks),
        rate.drawn.of,
        part(&rate.drawn)
    )
}

fn counted(share: &Share) -> String {
    format!("{} of {} ({})", share.count, share.of, between(share))
}

fn between(share: &Share) -> String {
    let (low, high) = share.interval;
    format!("{:.0} to {:.0} %", low * 100.0, high * 100.0)
}

fn part(part: &Share) -> String {
    part.share().map_or_else(|| "-".to_owned(), |part| share(part, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::proof::Recording;
    use crate::report::Format;

    fn text(proof: &Proof, width: usize) -> String {
        super::proof(proof).render(Format::Terminal { width })
    }

    use crate::compare::example::duel;
    use crate::compare::sides::default_thresholds;

    fn example(factor: f64) -> Proof {
        let tagged = |tag: &str, factor: f64| {
            let mut document = duel(16, factor);
            document.session.tag = Some(tag.to_owned());
            document
        };
        let sessions = vec![tagged("same", factor), tagged("slow-twice", 1.05)];
        Recording::of(sessions).expect("a recording").prove(8, 40, &default_thresholds)
    }

    #[test]
    fn goals_that_are_reached_are_said_to_be() {
        let text = super::tests::text(&example(1.0), 130);
        for part in
            ["64 runs recorded", "REACHED", "0 of 3 (0 to 71 %)", "slow-twice: 16 pairs", "+5."]
        {
            assert!(text.contains(part), "{part} not in {text}");
        }
        let widest = text.lines().map(str::len).max().expect("lines");
        assert!(widest <= 130, "{widest}:\n{text}");
    }

    #[test]
    fn a_method_that_cries_wolf_misses_its_goal() {
        let proof = example(1.1);
        assert!(!missed(&proof).is_empty());
        let text = super::tests::text(&proof, 130);
        assert!(text.contains("MISSED: identical servers are called changed in 2 of 3"), "{text}");
    }
}

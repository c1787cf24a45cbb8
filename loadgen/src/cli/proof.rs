//! `sparring-loadgen proof`: how often verdicts are wrong on this machine.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::compare::noises;
use super::output::open_output;
use super::{Failure, MISSED, OUTPUT, print, terminal};
use crate::compare::proof::{FALSE, OfMetric, OfSlowed, POWER, Proof, Rate, Recording, Share};
use crate::compare::table::percent;
use crate::compare::{Metric, Threshold, ThresholdSource};
use crate::host::regular;
use crate::result::table::count;
use crate::result::text_table::TextTable;
use crate::result::{Document, Scenario, parse};

const EXAMPLES: &str = "\
scripts/proof.py makes the recording: a file with a line for each session of two pairs, as `duel --json` writes it, with the
tag `same` where both sides are the same server, and any other where side B is one slowed by a known amount
(sparring-server --burn-per-message).

Its pairs are cut into blocks of --pairs, and each block is judged as a duel of so many pairs is, by the same code and
against the same thresholds. Blocks that share no run are few and independent: their share has a binomial interval
(Clopper-Pearson). Blocks drawn from all pairs tell the rate more finely. Slowdowns are simulated on drawn blocks of
identical servers by making one metric of side B worse, to find the smallest that is found 95 times of 100.

Exit status: 0 the goals are reached; 1 error; 2 wrong usage; 10 a goal is missed: more than 5 % of the blocks of identical
servers called changed, or less than 95 % of slowdowns by twice the threshold found.";

/// Cuts recorded pairs of known servers into blocks and counts false and missed verdicts.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ProofArguments {
    /// The recording: a stored session on each line.
    file: PathBuf,

    /// Pairs of a block.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(8..=1000))]
    pairs: u32,

    /// Blocks to draw.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    draws: u32,

    /// Where the machine's noise is looked for.
    #[arg(long, value_name = "DIR", default_value = "bench-results", help_heading = OUTPUT)]
    results: PathBuf,

    /// Write everything as JSON too; - is standard output, which then has nothing else.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    json: Option<PathBuf>,
}

impl ProofArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let sessions = self.sessions()?;
        let name = self.file.display();
        let machine = sessions.first().map(|first| first.machine.id.clone()).unwrap_or_default();
        let thresholds = self.thresholds(sessions.first(), &machine)?;
        let recording = Recording::of(sessions).with_context(|| name.to_string())?;
        let proof = recording.prove(self.pairs as usize, self.draws as usize, &thresholds);
        if proof.any_false.blocks.of == 0 {
            let (pairs, block) = (count(proof.pairs as u64, "valid pair"), self.pairs);
            let few = format!("{name}: {pairs} of identical servers: fewer than a block of {block}");
            return Err(Failure::Error(few));
        }
        let mut output = self.json.as_deref().map(open_output).transpose()?;
        let to_error = output.as_ref().is_some_and(super::output::Output::is_standard);
        print(&text(&proof, terminal::width()), to_error).context("cannot print")?;
        if let Some(output) = &mut output {
            let json = serde_json::to_string_pretty(&proof).context("--json")? + "\n";
            output.write_text(json.as_bytes()).context("--json")?;
        }
        Ok(if missed(&proof).is_empty() { 0 } else { MISSED })
    }

    fn sessions(&self) -> Result<Vec<Document>, Failure> {
        let text =
            regular::text(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let lines = text.lines().enumerate();
        let sessions = lines
            .map(|(index, line)| Ok(parse(line, &self.file).with_context(|| format!("line {}", index + 1))?));
        sessions.collect()
    }

    /// Returns the thresholds of a duel with this number of pairs. They are looked up once: the
    /// noise of a machine takes thousands of drawn duels.
    fn thresholds(
        &self,
        first: Option<&Document>,
        machine: &str,
    ) -> Result<impl Fn(&Scenario, Metric) -> Threshold + use<>, Failure> {
        let noises = noises(&self.results, machine)?;
        let mut known = Vec::new();
        for scenario in first.into_iter().flat_map(|first| &first.scenarios) {
            for metric in Metric::ALL {
                let noise = noises.find(scenario, metric, self.pairs as usize).map(|(noise, _)| noise.p95);
                known.push((scenario.name.clone(), metric, Threshold::of(metric, noise)));
            }
        }
        Ok(move |scenario: &Scenario, metric: Metric| {
            let found = known.iter().find(|(name, of, _)| *name == scenario.name && *of == metric);
            found.map_or_else(|| Threshold::of(metric, None), |(_, _, threshold)| *threshold)
        })
    }
}

/// The goals that were not reached, a sentence each.
fn missed(proof: &Proof) -> Vec<String> {
    let mut missed = Vec::new();
    let is_false = |rate: &Rate| rate.drawn.share().is_some_and(|share| share > FALSE);
    if is_false(&proof.any_false) {
        missed.push(format!("identical servers are called changed in {}", rate(&proof.any_false)));
    }
    for of in proof.metrics.iter().filter(|of| of.twice_found.share().is_some_and(|share| share < POWER)) {
        let (scenario, metric, found) = (&of.scenario, of.metric.name(), share(&of.twice_found));
        missed.push(format!("{scenario} {metric}: twice the threshold is found in {found}"));
    }
    missed
}

fn text(proof: &Proof, width: usize) -> String {
    let (runs, pairs) = (count(proof.runs as u64, "run"), count(proof.pairs as u64, "pair"));
    let block = proof.block;
    let mut lines = vec![
        format!(
            "{runs} recorded ({} put aside because something else ran), {} left out as invalid",
            count(proof.repeated as u64, "attempt"),
            count(proof.spoiled as u64, "pair")
        ),
        format!("identical servers: {pairs}, as duels of {block}: any metric called changed in"),
        format!("  {}", rate(&proof.any_false)),
        String::new(),
        metrics(&proof.metrics, width),
        String::new(),
        "noise: in 95 of 100 duels of identical servers the estimate stays within it; smallest found: in 95 of 100 duels;"
            .to_owned(),
        "half, twice: side B made worse by that much of the threshold, called regressed in so many of the drawn duels"
            .to_owned(),
    ];
    if proof.metrics.iter().any(|of| of.threshold.source == ThresholdSource::Noise) {
        lines.push("* twice this machine's noise, as `aa` recorded it".to_owned());
    }
    for slowed in &proof.slowed {
        lines.extend([String::new(), slowed_text(slowed, width)]);
    }
    lines.push(String::new());
    let missed = missed(proof);
    if missed.is_empty() {
        lines.push(format!(
            "REACHED: at most {:.0} % false, and at least {:.0} % of what is twice the threshold found",
            FALSE * 100.0,
            POWER * 100.0
        ));
    }
    lines.extend(missed.into_iter().map(|line| format!("MISSED: {line}")));
    lines.join("\n")
}

fn metrics(metrics: &[OfMetric], width: usize) -> String {
    let header = [
        "scenario",
        "metric",
        "noise",
        "threshold",
        "false: blocks",
        "95 % interval",
        "drawn",
        "half",
        "twice",
        "smallest found",
    ];
    let mut table = TextTable::new(header, 2, [5, 4, 7, 6, 2]);
    for of in metrics {
        let mark = if of.threshold.source == ThresholdSource::Noise { "*" } else { "" };
        let blocks = &of.false_verdicts.blocks;
        table.add_row(vec![
            of.scenario.clone(),
            of.metric.name().to_owned(),
            hundredths(of.noise),
            format!("{:.1} %{mark}", of.threshold.relative * 100.0),
            format!("{} of {}", blocks.count, blocks.of),
            between(blocks),
            part(&of.false_verdicts.drawn),
            part(&of.half_called_regressed),
            part(&of.twice_found),
            of.smallest_found.map_or_else(|| "none".to_owned(), hundredths),
        ]);
    }
    table.text(width)
}

fn slowed_text(slowed: &OfSlowed, width: usize) -> String {
    let header =
        ["scenario", "metric", "measured", "95 % interval", "regressed: blocks", "95 % interval", "drawn"];
    let mut table = TextTable::new(header, 2, [5, 3, 6]);
    for (judgement, (_, _, rate)) in slowed.measured.iter().zip(&slowed.regressed) {
        let interval = judgement
            .interval
            .map_or_else(|| "-".to_owned(), |(low, high)| format!("{} to {}", percent(low), percent(high)));
        table.add_row(vec![
            judgement.scenario.clone(),
            judgement.metric.name().to_owned(),
            percent(judgement.ratio),
            interval,
            format!("{} of {}", rate.blocks.count, rate.blocks.of),
            between(&rate.blocks),
            part(&rate.drawn),
        ]);
    }
    format!(
        "{}: {} against a server that was really slowed\n{}",
        slowed.tag,
        count(slowed.pairs as u64, "pair"),
        table.text(width)
    )
}

fn rate(rate: &Rate) -> String {
    format!("{} independent blocks; of {} drawn: {}", share(&rate.blocks), rate.drawn.of, part(&rate.drawn))
}

fn share(share: &Share) -> String {
    format!("{} of {} ({})", share.count, share.of, between(share))
}

fn between(share: &Share) -> String {
    let (low, high) = share.interval;
    format!("{:.0} to {:.0} %", low * 100.0, high * 100.0)
}

fn part(share: &Share) -> String {
    share.share().map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn hundredths(relative: f64) -> String {
    format!("{:.2} %", relative * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::compare::sides::default_thresholds;

    fn proof(factor: f64) -> Proof {
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
        let text = text(&proof(1.0), 130);
        for part in ["64 runs recorded", "REACHED", "0 of 3 (0 to 71 %)", "slow-twice: 16 pairs", "+5."] {
            assert!(text.contains(part), "{part} not in {text}");
        }
        let widest = text.lines().map(str::len).max().expect("lines");
        assert!(widest <= 130, "{widest}:\n{text}");
    }

    #[test]
    fn a_method_that_cries_wolf_misses_its_goal() {
        let proof = proof(1.1);
        assert!(!missed(&proof).is_empty());
        let text = text(&proof, 130);
        assert!(text.contains("MISSED: identical servers are called changed in 2 of 3"), "{text}");
    }
}

//! `sparring-loadgen proof`: how often verdicts are wrong on this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use super::compare::noises;
use super::output::{FormatArguments, Output};
use super::{MISSED, OUTPUT};
use crate::compare::proof::Recording;
use crate::compare::{Metric, Threshold};
use crate::format::count;
use crate::host::regular;
use crate::report::text::proof::{missed, proof};
use crate::result::{Document, Scenario, parse};

const EXAMPLES: &str = "\
The recording is a session of `experiment scripts/experiments/proof.toml`: a server beside itself (arm `same`) and beside
servers that are slowed by a known amount (sparring-server --burn-per-message). --resume resumes an interrupted one. A
file with a session of two arms on each line, with the arm as its tag, is a recording, too.

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
    /// The recording: a stored session, or one on each line.
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

    #[command(flatten)]
    format: FormatArguments,
}

impl ProofArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let sessions = self.sessions()?;
        let name = self.file.display();
        let thresholds = self.thresholds(sessions.first())?;
        let recording = Recording::of(sessions).with_context(|| name.to_string())?;
        let proven = recording.prove(self.pairs as usize, self.draws as usize, &thresholds);
        if proven.any_false.blocks.of == 0 {
            let (pairs, block) = (count(proven.pairs as u64, "valid pair"), self.pairs);
            bail!("{name}: {pairs} of identical servers: fewer than a block of {block}");
        }
        let mut output =
            self.json.as_deref().map(|path| Output::open("--json", path)).transpose()?;
        self.format.print(&proof(&proven), output.as_ref().is_some_and(Output::is_standard))?;
        if let Some(output) = &mut output {
            output.write((serde_json::to_string_pretty(&proven)? + "\n").as_bytes())?;
        }
        Ok(if missed(&proven).is_empty() { 0 } else { MISSED })
    }

    fn sessions(&self) -> anyhow::Result<Vec<Document>> {
        let text = regular::text(&self.file)
            .with_context(|| format!("cannot read {}", self.file.display()))?;
        // A stored session, or a session on each line.
        if let Ok(session) = parse(&text, &self.file) {
            return Ok(vec![session]);
        }
        let of_line = |(index, line): (usize, &str)| {
            parse(line, &self.file).with_context(|| format!("line {}", index + 1))
        };
        text.lines().enumerate().map(of_line).collect()
    }

    /// Returns the thresholds of a duel with this number of pairs. They are looked up once: the
    /// noise of a machine takes thousands of drawn duels.
    fn thresholds(
        &self,
        first: Option<&Document>,
    ) -> anyhow::Result<impl Fn(&Scenario, Metric) -> Threshold + use<>> {
        let noises = noises(&self.results, first.map_or("", |first| &first.machine.id))?;
        let scenarios = first.into_iter().flat_map(|first| &first.scenarios);
        let of = |scenario: &Scenario| {
            let of = |metric| noises.threshold(scenario, metric, self.pairs as usize);
            (scenario.name.clone(), Metric::ALL.map(|metric| (metric, of(metric))))
        };
        let known: BTreeMap<String, _> = scenarios.map(of).collect();
        Ok(move |scenario: &Scenario, metric: Metric| {
            let found =
                known.get(&scenario.name).into_iter().flatten().find(|(of, _)| *of == metric);
            found.map_or_else(|| Threshold::of(metric, None), |(_, threshold)| *threshold)
        })
    }
}

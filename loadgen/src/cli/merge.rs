//! `sparring-loadgen merge`: the documents of shards become the document of their load.

use std::path::PathBuf;

use clap::Args;

use super::goal::no_such_stage;
use super::output::{Files, FormatArguments, OutputArguments};
use super::run::{exit_code, missed_thresholds};
use super::{MISSED, OUTPUT, say, usage};
use crate::goal::threshold::Threshold;
use crate::merge::{MergeError, merge};
use crate::report::text;
use crate::result::{Document, Goals, Run, SessionVerdict, Store};

const MERGE_EXAMPLES: &str = "\
Examples:
  sparring-loadgen merge 1.json 2.json 3.json 4.json --json whole.json
  sparring-loadgen merge shard-*.json --threshold 'p99<2ms'

Each file is the document of `run --shard I/N --json FILE`. Histograms and counts are added, so \
that percentiles are those of all samples together.

The whole is INVALID where a shard was, and where a shard is missing or there twice, had another \
load, was ended before its time, has a clock that is more than 50 ms from the others, or measured \
at another time than the others. The reason names the shard.

";

/// Merges what several generators measured of one load.
#[derive(Debug, Args)]
#[command(after_help = format!("{MERGE_EXAMPLES}{}", super::EXIT_STATUS))]
pub(super) struct MergeArguments {
    /// The documents of all shards, in any order.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// A goal of the whole load, as in `run`. If it is missed, the exit status is 10. Repeatable:
    /// all must be met.
    #[arg(long, value_name = "'p99<2ms'")]
    threshold: Vec<Threshold>,

    /// Write the merged document as JSON; - is standard output, which then has nothing else.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    json: Option<PathBuf>,

    #[command(flatten)]
    format: FormatArguments,

    /// A name for the result.
    #[arg(long, value_name = "NAME", help_heading = OUTPUT)]
    tag: Option<String>,

    /// Exit with 0 although the whole is invalid; it still says so.
    #[arg(long, help_heading = OUTPUT)]
    allow_invalid: bool,

    /// No table: errors alone, and why the whole is INVALID or a goal was missed.
    #[arg(short, long, help_heading = OUTPUT)]
    quiet: bool,
}

impl MergeArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let mut files = Files::open(self.json.as_deref(), &OutputArguments::default())?;
        let document = self.document()?;
        let run = &document.runs[0];
        let of_server = self.threshold.iter().find(|threshold| threshold.needs_server());
        if let (Some(threshold), None) = (of_server, &run.server) {
            let why = "needs the cost of the server: give the shards --server-metrics";
            return Err(usage(format!("--threshold {threshold} {why}")));
        }
        let kept = files.write_document(&document);
        let to_error = files.have_standard_output();
        let printed = if self.quiet {
            complaints(&document).for_each(|line| say(&format!("sparring-loadgen: {line}")));
            Ok(())
        } else {
            self.format.print(&text::run(&document, &[]), to_error)
        };
        kept.and(printed)?;
        let is_missed = document.goals().is_some_and(|goals| !goals.met);
        // An interrupted shard makes the whole invalid. This command was not interrupted.
        let run = Run { interrupted: false, ..run.clone() };
        Ok(match exit_code(&run, self.allow_invalid) {
            0 if is_missed => MISSED,
            code => code,
        })
    }

    fn document(&self) -> anyhow::Result<Document> {
        let load = |path: &PathBuf| Ok((path.display().to_string(), Store::load(path)?));
        let documents = self.files.iter().map(load).collect::<anyhow::Result<Vec<_>>>()?;
        let mut document = merge(documents, self.tag.clone()).map_err(|error| match error {
            MergeError::NotAShard(_) => usage(error),
            error => error.into(),
        })?;
        if !self.threshold.is_empty() {
            let run = &document.runs[0];
            let scenario = document.scenario(&run.scenario).map(|scenario| &scenario.parameters);
            let wrong = scenario.and_then(|load| no_such_stage(self.threshold.iter(), load));
            if let Some(why) = wrong {
                return Err(usage(why));
            }
            let thresholds: Vec<_> =
                self.threshold.iter().map(|threshold| threshold.judge(run)).collect();
            let met = thresholds.iter().all(|each| each.met);
            let goals = Goals { met, thresholds, find_rate: None };
            document.verdict = Some(SessionVerdict::Goals(goals));
        }
        Ok(document)
    }
}

fn complaints(document: &Document) -> impl Iterator<Item = String> {
    let invalid = document.runs.iter().flat_map(|run| &run.invalid_reasons);
    let invalid = invalid.map(|reason| format!("INVALID: {reason}"));
    invalid.chain(missed_thresholds(document.goals()))
}

//! `sparring-loadgen export`: stored sessions in the formats of other programs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::output::Output;
use super::selection::{SelectionArguments, shown};
use super::{OUTPUT, say, usage};
use crate::report::export::{ExportFormat, Series, export};
use crate::result::Stored;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen export last --format junit -o verdict.xml                    for the list of tests of a CI system
  sparring-loadgen export last --format bmf                                     bencher run --adapter json --file
  sparring-loadgen export last --format github-action-benchmark                 tool: customSmallerIsBetter
  sparring-loadgen export last --format github-action-benchmark --bigger-is-better
  sparring-loadgen export quick --format otava-csv -o quick.csv                 a row for each session of `quick`

The formats have the medians over the valid runs of each scenario, arm and metric; junit has verdicts, and markdown what
`show --markdown` prints. Units: those of the document in bmf (nanoseconds, bytes), seconds and bytes in openmetrics, those of
tables elsewhere. otava-csv takes all sessions that a name means, oldest first, and the figures that all of them have; the
other formats take the newest.

Exit status: 0 written; 1 a file cannot be read or written, or has nothing to export; 2 wrong usage.";

/// Writes figures or verdicts of stored sessions.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArguments {
    /// A file, a tag, a commit (hash or a name that git knows), or `last`. Several for otava-csv.
    #[arg(required = true, value_name = "SESSION")]
    sessions: Vec<String>,

    /// The format.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: FormatName,

    /// In github-action-benchmark, the metrics of which more is better, in place of the others.
    #[arg(long)]
    bigger_is_better: bool,

    /// Write to this file [default: standard output].
    #[arg(short, long, value_name = "FILE", default_value = "-", hide_default_value = true, help_heading = OUTPUT)]
    output: PathBuf,

    #[command(flatten)]
    selection: SelectionArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// Bencher Metric Format, JSON.
    Bmf,
    /// JSON for github-action-benchmark.
    GithubActionBenchmark,
    /// JUnit XML, with verdicts as test cases.
    Junit,
    /// OpenMetrics text.
    Openmetrics,
    /// CSV that Apache Otava imports.
    OtavaCsv,
    /// Tables as Markdown.
    Markdown,
}

impl ExportArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let format = self.format()?;
        let sessions = self.sessions(format)?;
        if format == ExportFormat::OtavaCsv {
            let left_out = Series::of(&sessions)?.left_out();
            if left_out > 0 {
                say(&format!(
                    "NOTE: {left_out} figures have no column, because a session lacks them"
                ));
            }
        }
        let results = &self.selection.results;
        let text = export(&sessions, format, |stored| shown(results, stored))?;
        Output::open("--output", &self.output)?.write(text.as_bytes())?;
        Ok(0)
    }

    fn format(&self) -> anyhow::Result<ExportFormat> {
        let is_bigger_better = self.bigger_is_better;
        if is_bigger_better && self.format != FormatName::GithubActionBenchmark {
            return Err(usage("--bigger-is-better is for --format github-action-benchmark"));
        }
        Ok(match self.format {
            FormatName::Bmf => ExportFormat::Bmf,
            FormatName::GithubActionBenchmark => {
                ExportFormat::GithubActionBenchmark { is_bigger_better }
            }
            FormatName::Junit => ExportFormat::Junit,
            FormatName::Openmetrics => ExportFormat::OpenMetrics,
            FormatName::OtavaCsv => ExportFormat::OtavaCsv,
            FormatName::Markdown => ExportFormat::Markdown,
        })
    }

    fn sessions(&self, format: ExportFormat) -> anyhow::Result<Vec<Stored>> {
        if format != ExportFormat::OtavaCsv && self.sessions.len() > 1 {
            let given = self.sessions.len();
            return Err(usage(format!(
                "{given} sessions are too many: only otava-csv takes several"
            )));
        }
        let mut sessions: Vec<Stored> = Vec::new();
        for name in &self.sessions {
            let mut found = self.selection.named(name)?;
            if format != ExportFormat::OtavaCsv {
                found = found.pop().into_iter().collect();
            }
            found.retain(|one| sessions.iter().all(|other| other.path != one.path));
            sessions.extend(found);
        }
        Ok(sessions)
    }
}

//! Sessions in the formats of other programs.
//!
//! [`run`] has the files of one run: its seconds as CSV, and the formats of the HdrHistogram tools.
//! The other modules write the figures of a stored session, or its verdict.

mod figures;
mod json;
mod junit;
mod openmetrics;
mod otava;
pub(crate) mod run;
#[cfg(test)]
mod tests;

use anyhow::ensure;

use super::{Blocks, Format};
use crate::result::Stored;

pub(crate) use otava::Series;

/// Format of another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExportFormat {
    /// Bencher Metric Format.
    Bmf,
    /// JSON for github-action-benchmark, of the metrics of which more is better, or of the others.
    GithubActionBenchmark {
        is_bigger_better: bool,
    },
    Junit,
    OpenMetrics,
    OtavaCsv,
    Markdown,
}

/// Returns sessions in a format, of which only [`ExportFormat::OtavaCsv`] takes several. `blocks`
/// renders one for people.
pub(crate) fn export(
    sessions: &[Stored],
    format: ExportFormat,
    blocks: impl Fn(&Stored) -> anyhow::Result<Blocks>,
) -> anyhow::Result<String> {
    if format == ExportFormat::OtavaCsv {
        return Series::of(sessions)?.csv();
    }
    let [one] = sessions else {
        anyhow::bail!("{} sessions: only otava-csv takes several", sessions.len());
    };
    let document = &one.document;
    if format == ExportFormat::Junit {
        return junit::junit(document);
    }
    let figures = figures::figures(document);
    ensure!(
        !figures.is_empty() || format == ExportFormat::Markdown,
        "{} has no valid run, so that there is no figure to export",
        one.path.display()
    );
    match format {
        ExportFormat::Bmf => json::bmf(&figures),
        ExportFormat::GithubActionBenchmark { is_bigger_better } => {
            json::github_action_benchmark(&figures, is_bigger_better)
        }
        ExportFormat::OpenMetrics => Ok(openmetrics::openmetrics(document, &figures)),
        _ => Ok(blocks(one)?.render(Format::Markdown) + "\n"),
    }
}

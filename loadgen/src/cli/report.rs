//! `sparring-loadgen report`: stored sessions as a page.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::{compare, print_plain};
use crate::compare::Conclusion;
use crate::report::html::page;
use crate::result::{SessionKind, Store, Stored};

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen report duel.json -o report.html          both sides of a duel
  sparring-loadgen report old.json new.json -o report.html  two sessions; ADVISORY, since they were not interleaved
  sparring-loadgen report last --svg charts                 the newest session under bench-results, and its charts as files

The page needs nothing else: no network, no scripts. Light and dark follow the reader's system.

Exit status: 0 written; 1 a file cannot be read, or the sessions do not compare; 2 wrong usage.";

/// One page, readable offline and on a phone.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReportArguments {
    /// Stored sessions: files, tags, commits, or `last`. Two are compared, more are set side by
    /// side.
    #[arg(required = true, value_name = "FILES")]
    sessions: Vec<String>,

    /// Where the page goes.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,

    /// Write each chart into this folder as an SVG file too.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,

    /// Compare also sessions of different machines, builds, scenarios or engines. The page says so.
    #[arg(long)]
    force: bool,

    /// The folder of results.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    results: PathBuf,
}

impl ReportArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let store = Store::new(&self.results);
        let mut sessions = Vec::new();
        for what in &self.sessions {
            sessions.extend(store.named(what)?.pop());
        }
        let (conclusion, cautions) = self.compared(&sessions)?;
        let page = page(&sessions, conclusion.as_ref(), &cautions);
        write(&self.output, &page.html)?;
        if let Some(folder) = &self.svg {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot write {}", folder.display()))?;
            page.charts.iter().try_for_each(|(name, svg)| write(&folder.join(name), svg))?;
        }
        Ok(0)
    }

    /// Returns the comparison of the sides where there are two, and what must be known of it.
    fn compared(&self, sessions: &[Stored]) -> anyhow::Result<(Option<Conclusion>, Vec<String>)> {
        match sessions {
            [one] if one.document.session.kind == SessionKind::Ab => {
                Ok((Some(compare::concluded(&self.results, &one.document)?), Vec::new()))
            }
            [base, new] => {
                let (conclusion, notes) = compare::sessions(&self.results, base, new, self.force)?;
                Ok((Some(conclusion), notes))
            }
            _ => Ok((None, Vec::new())),
        }
    }
}

/// Writes a file and prints its name.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    print_plain(&path.display().to_string())
}

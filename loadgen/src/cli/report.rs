//! `sparring-loadgen report`: stored sessions as a page.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::history::log;
use super::{compare, print_plain, say, with_causes};
use crate::compare::history::History;
use crate::compare::{Conclusion, Metric};
use crate::report::html::{Site, SiteSession, page, site};
use crate::result::{Selection, SessionKind, Store, StoreError, Stored};

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen report duel.json -o report.html          both sides of a duel
  sparring-loadgen report old.json new.json -o report.html  two sessions; ADVISORY, since they were not interleaved
  sparring-loadgen report last --svg charts                 the newest session under bench-results, and its charts as files
  sparring-loadgen report --site site                       all stored sessions: an index, sessions, machines, histories

The pages need nothing else: no network, no scripts. Light and dark follow the reader's system. The histories of a site follow
the commits of the branch that is checked out, or the dates of the sessions where git knows none of them.

Exit status: 0 written; 1 a file cannot be read, or the sessions do not compare; 2 wrong usage.";

/// Figures over the commits that a site shows, as far as sessions have them.
const SHOWN: [Metric; 5] =
    [Metric::Throughput, Metric::ServerCpu, Metric::P99, Metric::Memory, Metric::Instructions];

/// One page, readable offline and on a phone.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReportArguments {
    /// Stored sessions: files, tags, commits, or `last`. Two are compared, more are set side by
    /// side.
    #[arg(required_unless_present = "site", value_name = "FILES")]
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

    /// Write a site of all stored sessions into this folder; files of the same names are replaced.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["sessions", "output", "svg", "force"])]
    site: Option<PathBuf>,

    /// The folder of results.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    results: PathBuf,
}

impl ReportArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        if let Some(folder) = &self.site {
            return self.write_site(folder);
        }
        let store = Store::new(&self.results);
        let mut sessions = Vec::new();
        for what in &self.sessions {
            sessions.extend(store.named(what)?.pop());
        }
        let (conclusion, cautions) = self.compared(&sessions)?;
        let page = page(&sessions, conclusion.as_ref(), &cautions, None);
        write(&self.output, &page.html)?;
        if let Some(folder) = &self.svg {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot write {}", folder.display()))?;
            page.charts.iter().try_for_each(|(name, svg)| write(&folder.join(name), svg))?;
        }
        Ok(0)
    }

    fn write_site(&self, folder: &Path) -> anyhow::Result<u8> {
        let (found, unreadable) = Store::new(&self.results).select(&Selection::default())?;
        unreadable.iter().for_each(|error| say(&format!("sparring-loadgen: {error}")));
        if found.is_empty() {
            let (what, root) = ("last".to_owned(), self.results.clone());
            return Err(StoreError::Nothing { what, root }.into());
        }
        let histories = histories(&found);
        let session = |stored: Stored| {
            let is_compared = stored.document.session.kind == SessionKind::Ab;
            let conclude = || compare::concluded(&self.results, &stored.document);
            let conclusion = is_compared.then(conclude).transpose()?;
            Ok(SiteSession { stored, conclusion })
        };
        let sessions = found.into_iter().map(session).collect::<anyhow::Result<_>>()?;
        let files = site(&Site { sessions, histories });
        for (name, text) in &files {
            let path = folder.join(name);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        print_plain(&folder.join("index.html").display().to_string())?;
        Ok(u8::from(!unreadable.is_empty()))
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

/// Returns the figures over commits of each machine that has two sessions of a scenario.
fn histories(found: &[Stored]) -> BTreeMap<String, Vec<History>> {
    let log = commits(found);
    let mut of_machines: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
    for stored in found {
        let machine = of_machines.entry(stored.document.machine.id.clone()).or_default();
        machine.push(stored.clone());
    }
    let of = |(id, found): (String, Vec<Stored>)| {
        let scenarios = found.iter().flat_map(|one| &one.document.scenarios);
        let names: BTreeSet<&str> = scenarios.map(|scenario| scenario.name.as_str()).collect();
        let figures = names.iter().flat_map(|name| SHOWN.map(|metric| (*name, metric)));
        let histories = figures.map(|(name, metric)| History::of(name, metric, &log, &found));
        let mut histories: Vec<History> = histories.filter(|one| one.points.len() > 1).collect();
        histories.iter_mut().for_each(History::find_changes);
        (id, histories)
    };
    of_machines.into_iter().map(of).collect()
}

/// Returns the commits of the branch that is checked out, oldest first. Where git is missing or
/// knows none of the sessions' commits, those of the sessions, in the order of their first one.
fn commits(found: &[Stored]) -> Vec<(String, String)> {
    let of_session = |stored: &Stored| stored.document.subject.commit.clone();
    let log = log("HEAD").unwrap_or_else(|error| {
        say(&format!("the histories follow the dates of the sessions: {}", with_causes(&error)));
        Vec::new()
    });
    let is_known = |commit: String| log.iter().any(|(hash, _)| hash.starts_with(commit.as_str()));
    if found.iter().filter_map(of_session).any(is_known) {
        return log;
    }
    let mut commits: Vec<(String, String)> = Vec::new();
    for commit in found.iter().filter_map(of_session) {
        if commits.iter().all(|(known, _)| *known != commit) {
            commits.push((commit, String::new()));
        }
    }
    commits
}

/// Writes a file and prints its name.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    print_plain(&path.display().to_string())
}

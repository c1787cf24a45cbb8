//! `sparring-loadgen history`: a figure over the commits of a branch.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use super::output::FormatArguments;
use super::say;
use crate::compare::Metric;
use crate::host::machine::Machine;
use crate::report::text::history::{chart, history, points};
use crate::result::{Selection, Store};

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen history echo server-cpu                    the branch that is checked out, on this machine
  sparring-loadgen history echo p99 --branch v1.0 --svg p99.svg

  sparring-loadgen history hot-path-1 instructions            what scripts/instructions.sh has counted

Metrics: throughput, server-cpu, p50, p99, p99.9, memory, enters, switches, faults, instructions, generator-cpu. Each line is a stored session, its figure
the median of its valid runs. Sessions of different days are not interleaved: a step between two of them may be the
machine's. `duel` or scripts/ab.sh decides.

Exit status: 0 shown; 1 nothing to show, or no git; 2 wrong usage.";

/// In the order of git log, the newest last.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct HistoryArguments {
    /// The scenario, by name.
    scenario: String,

    /// The metric, by name.
    metric: Metric,

    /// The branch, or any revision: its ancestors are shown.
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    branch: String,

    /// The machine: its id, or the beginning of that [default: this one].
    #[arg(long, value_name = "ID")]
    machine: Option<String>,

    /// The folder of results.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    results: PathBuf,

    /// Write a chart too.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    #[command(flatten)]
    format: FormatArguments,
}

impl HistoryArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let Self { scenario, metric, branch, results, .. } = self;
        let machine = self.machine.clone().unwrap_or_else(|| Machine::here().id);
        let (of_machine, of_scenario) = (Some(machine.clone()), Some(scenario.clone()));
        let selection =
            Selection { machine: of_machine, scenario: of_scenario, ..Selection::default() };
        let (found, unreadable) = Store::new(results).select(&selection)?;
        unreadable.iter().for_each(|error| say(&format!("sparring-loadgen: {error}")));
        let (points, others) = points(scenario, *metric, &log(branch)?, &found);
        if points.is_empty() {
            bail!(
                "no session of {scenario} by a commit of {branch} on machine {machine} in {}; \
                 `sparring-loadgen list` shows what there is (--machine)",
                results.display()
            );
        }
        self.format.print(&history(scenario, *metric, &machine, &points, others), false)?;
        if let Some(path) = &self.svg {
            let written = fs::write(path, chart(scenario, *metric, &points));
            written.with_context(|| format!("--svg {}", path.display()))?;
        }
        Ok(0)
    }
}

/// The commits that lead to `revision`, oldest first, with their subjects.
fn log(revision: &str) -> anyhow::Result<Vec<(String, String)>> {
    let asked = Command::new("git")
        .args(["log", "--reverse", "--format=%H%x09%s", "--end-of-options", revision])
        .stdin(Stdio::null())
        .output()
        .context("cannot run git, which knows the order of commits")?;
    let said = String::from_utf8_lossy(&asked.stderr);
    let why = said.lines().next().unwrap_or("it does not say why");
    ensure!(asked.status.success(), "git knows no history of `{revision}` here (--branch): {why}");
    let text = String::from_utf8_lossy(&asked.stdout);
    let commits = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(commits.map(|(hash, subject)| (hash.to_owned(), subject.to_owned())).collect())
}

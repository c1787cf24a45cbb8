//! `sparring-loadgen history`: a figure over the commits of a branch.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use super::confirm::Confirmer;
use super::output::{FormatArguments, Output};
use super::{OUTPUT, say, usage};
use crate::compare::Metric;
use crate::compare::history::History;
use crate::host::machine::Machine;
use crate::report::text::history::{chart, history};
use crate::result::{Selection, Store, Stored};

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen history echo server-cpu                    the branch that is checked out, on this machine
  sparring-loadgen history echo p99 --branch v1.0 --svg p99.svg
  sparring-loadgen history echo server-cpu --change-points    and where its level changed
  sparring-loadgen history echo server-cpu --confirm          and whether that was the code or the machine

  sparring-loadgen history hot-path-1 instructions            what scripts/instructions.sh has counted

Metrics: throughput, server-cpu, p50, p99, p99.9, memory, enters, switches, faults, instructions, generator-cpu. Each line is a stored session, its figure
the median of its valid runs. Sessions of different days are not interleaved: a step between two of them may be the
machine's. `duel` or scripts/ab.sh decides, and --confirm runs it for each change point.

Exit status: 0 shown; 1 nothing to show, or no git; 2 wrong usage; 130, 143, 129 a duel was ended by SIGINT (Ctrl-C),
SIGTERM, SIGHUP.";

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

    /// The machine: its id, or the beginning of that; `all` shows each machine, compared with
    /// itself alone [default: this one].
    #[arg(long, value_name = "ID")]
    machine: Option<String>,

    /// The folder of results.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    results: PathBuf,

    /// Find the commits at which the level changes (Hunter's variant of E-divisive). Sessions of
    /// another machine, generator version or server build are another epoch, and never compared.
    #[arg(long)]
    change_points: bool,

    /// Build the commits on both sides of each change point and compare them today
    /// (scripts/ab.sh): code, or the machine.
    #[arg(long)]
    confirm: bool,

    /// Pairs of each of these duels.
    #[arg(long, value_name = "N", default_value_t = 20, requires = "confirm",
        value_parser = clap::value_parser!(u32).range(8..=1000))]
    pairs: u32,

    /// Write a chart too.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Write sessions, epochs and change points as JSON too; - is standard output, which then has
    /// nothing else.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    json: Option<PathBuf>,

    #[command(flatten)]
    format: FormatArguments,
}

impl HistoryArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let Self { scenario, metric, branch, results, .. } = self;
        let confirmer = self.confirmer()?;
        let machine = self.machine.clone().unwrap_or_else(|| Machine::here().id);
        let (machine, name) = match machine.as_str() {
            "all" => (None, "all machines".to_owned()),
            id => (Some(id.to_owned()), format!("machine {id}")),
        };
        let found = self.sessions(machine)?;
        let mut shown = History::of(scenario, *metric, &log(branch)?, &found);
        if shown.points.is_empty() {
            bail!(
                "no session of {scenario} by a commit of {branch} on {name} in {}; \
                 `sparring-loadgen list` shows what there is (--machine)",
                results.display()
            );
        }
        let mut json = self.json.as_deref().map(|path| Output::open("--json", path)).transpose()?;
        if self.change_points || self.confirm {
            shown.find_changes();
        }
        if let Some(confirmer) = confirmer {
            shown.confirm(|commits| confirmer.duel(commits))?;
        }
        let to_error = json.as_ref().is_some_and(Output::is_standard);
        self.format.print(&history(&shown, &name), to_error)?;
        if let Some(output) = &mut json {
            output.write((serde_json::to_string_pretty(&shown)? + "\n").as_bytes())?;
        }
        if let Some(path) = &self.svg {
            let written = fs::write(path, chart(&shown));
            written.with_context(|| format!("--svg {}", path.display()))?;
        }
        Ok(0)
    }

    fn sessions(&self, machine: Option<String>) -> anyhow::Result<Vec<Stored>> {
        let scenario = Some(self.scenario.clone());
        let selection = Selection { machine, scenario, ..Selection::default() };
        let (found, unreadable) = Store::new(&self.results).select(&selection)?;
        unreadable.iter().for_each(|error| say(&format!("sparring-loadgen: {error}")));
        Ok(found)
    }

    fn confirmer(&self) -> anyhow::Result<Option<Confirmer<'_>>> {
        if !self.confirm {
            return Ok(None);
        }
        let here = Machine::here().id;
        if self.machine.as_deref().is_some_and(|id| !here.starts_with(id)) {
            let asked = self.machine.as_deref().unwrap_or_default();
            return Err(usage(format!(
                "--confirm measures on this machine, {here}, and --machine is `{asked}`: leave --machine out"
            )));
        }
        Confirmer::new(&self.scenario, self.metric, self.pairs, &self.results).map(Some)
    }
}

/// Returns the commits that lead to `revision`, oldest first, with their subjects.
pub(super) fn log(revision: &str) -> anyhow::Result<Vec<(String, String)>> {
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

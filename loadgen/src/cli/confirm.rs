//! Duels of two commits for `history --confirm`: scripts/ab.sh builds and compares them.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use super::{INTERRUPTED, INVALID, REGRESSED, say, usage};
use crate::compare::cause::Dueled;
use crate::compare::statistics::Estimate;
use crate::compare::{Conclusion, Metric};
use crate::format::commit;
use crate::result::{Document, Selection, Store};
use crate::run::RunError;

/// Everything that the duels have in common.
pub(super) struct Confirmer<'a> {
    script: PathBuf,
    /// Scenario without its engine.
    scenario: &'a str,
    engine: Option<&'a str>,
    metric: Metric,
    pairs: u32,
    results: &'a Path,
}

impl<'a> Confirmer<'a> {
    pub(super) fn new(
        scenario: &'a str,
        metric: Metric,
        pairs: u32,
        results: &'a Path,
    ) -> anyhow::Result<Self> {
        let (name, engine) = match scenario.split_once('@') {
            Some((name, engine)) => (name, Some(engine)),
            None => (scenario, None),
        };
        if !matches!(
            metric,
            Metric::Throughput | Metric::ServerCpu | Metric::Memory | Metric::P50 | Metric::P99
        ) {
            return Err(usage(format!(
                "--confirm cannot judge `{}`: a duel judges throughput, server-cpu, memory, p50 and p99",
                metric.name()
            )));
        }
        Ok(Self { script: script()?, scenario: name, engine, metric, pairs, results })
    }

    /// Builds two commits and compares them. A failure is a result; only a signal ends the program.
    pub(super) fn duel(&self, commits: &[String; 2]) -> anyhow::Result<Dueled> {
        let [a, b] = commits.each_ref().map(|one| commit(Some(one)));
        say(&format!("comparing {a} and {b} in {} pairs ...", self.pairs));
        let known = self.stored(commits)?.len();
        let code = self.run(commits)?;
        if !matches!(code, 0 | REGRESSED | INVALID) {
            return Ok(Dueled::Failed(format!("the duel of {a} and {b} failed")));
        }
        let mut found = self.stored(commits)?;
        ensure!(found.len() > known, "{} stored no duel of {a} and {b}", self.script.display());
        let estimate = found.pop().and_then(|duel| self.estimate(&duel));
        Ok(estimate.map_or_else(
            || Dueled::Failed(format!("the duel of {a} and {b} has no valid pair")),
            Dueled::Compared,
        ))
    }

    /// Runs the script, whose output goes to standard error. Returns its exit code.
    fn run(&self, [a, b]: &[String; 2]) -> anyhow::Result<u8> {
        let mut command = Command::new(&self.script);
        command.args([a, b, "--scenario", self.scenario, "--only", self.metric.name()]);
        command.args(["--pairs", &self.pairs.to_string()]).arg("--results").arg(self.results);
        command.args(self.engine.map(|engine| ["--engine", engine]).into_iter().flatten());
        if matches!(self.metric, Metric::Throughput | Metric::ServerCpu | Metric::Memory) {
            command.args(["--", "--saturation-only"]);
        }
        command.stdin(Stdio::null()).stdout(std::io::stderr());
        let status =
            command.status().with_context(|| format!("cannot run {}", self.script.display()))?;
        match (status.code(), status.signal()) {
            (Some(129 | 130 | 143), _) | (_, Some(_)) => bail!(RunError::Interrupted),
            (code, _) => Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(INTERRUPTED)),
        }
    }

    /// Returns the stored duels of both commits, oldest first.
    fn stored(&self, commits: &[String; 2]) -> anyhow::Result<Vec<Document>> {
        // A session may have the first digits alone.
        let [a, b] = commits.each_ref().map(|one| commit(Some(one)));
        let (found, _) = Store::new(self.results).select(&Selection::default())?;
        let duels = found.into_iter().map(|stored| stored.document);
        Ok(duels.filter(|one| one.is_duel_of(a, b)).collect())
    }

    fn estimate(&self, duel: &Document) -> Option<Estimate> {
        let judged = Conclusion::stored(duel)?.judgements.iter();
        let mut judged = judged.filter(|one| one.metric == self.metric && one.verdict.is_some());
        let one = judged.next()?;
        Some(Estimate { shift: one.ratio, interval: one.interval, p: one.p })
    }
}

/// Returns the script of the checkout.
fn script() -> anyhow::Result<PathBuf> {
    let asked = Command::new("git")
        .args(["rev-parse", "--show-toplevel"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let root = asked.ok().filter(|output| output.status.success()).map(|output| {
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n'))
    });
    let script = root.map(|root| root.join("scripts/ab.sh")).filter(|script| script.is_file());
    script
        .context("--confirm builds commits with scripts/ab.sh: start it in a checkout of sparring")
}

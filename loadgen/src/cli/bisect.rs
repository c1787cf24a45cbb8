//! `sparring-loadgen bisect`: which commit to measure next, for scripts/bisect.sh and its like.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::{print_plain, say, usage};
use crate::compare::Metric;
use crate::compare::bisect::{Bisection, Step};
use crate::format::{change, change_interval, commit, count, share};
use crate::host::regular;
use crate::result::Store;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen bisect begin state.json --metric server-cpu GOOD $(git rev-list --reverse GOOD..BAD)
  sparring-loadgen bisect next state.json           measure COMMIT PAIRS
  sparring-loadgen bisect add state.json duel.json  the stored duel of GOOD and COMMIT
  sparring-loadgen bisect skip state.json COMMIT    it does not build

scripts/bisect.sh does all of this for the server of a checkout. `next` prints one line on standard output:

  measure COMMIT PAIRS          a duel of GOOD and this commit tells most
  found PROBABILITY COMMIT      the change is this commit's; several where those between cannot be measured
  undecided PROBABILITY COMMIT  the likeliest, where the most pairs are used up
  none                          GOOD and BAD do not differ

Exit status: 0 fine; 1 a file cannot be read or written, or does not belong to the bisection; 2 wrong usage.";

/// Keeps the odds of each commit in a file. A figure changed once between GOOD and BAD: to the
/// worse or to the better.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BisectArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Begin a bisection: write its state into a new file.
    Begin(BeginArguments),
    /// Print what to do next.
    Next {
        /// The file of the state.
        state: PathBuf,
    },
    /// Add the pairs of stored duels of GOOD and a commit.
    Add {
        /// The file of the state.
        state: PathBuf,
        /// Stored sessions.
        #[arg(required = true)]
        sessions: Vec<PathBuf>,
    },
    /// Leave a commit out that cannot be measured.
    Skip {
        /// The file of the state.
        state: PathBuf,
        /// The commit.
        commit: String,
    },
}

#[derive(Debug, Args)]
struct BeginArguments {
    /// The file of the state, which must not exist.
    state: PathBuf,

    /// The commit before the change.
    good: String,

    /// All commits after it, oldest first. The last one has the change.
    #[arg(required = true)]
    commits: Vec<String>,

    /// The metric that changed: throughput, server-cpu, memory, p50 or p99.
    #[arg(long, value_name = "METRIC")]
    metric: Metric,

    /// The scenario of the duels.
    #[arg(long, value_name = "NAME", default_value = "echo")]
    scenario: String,

    /// The probability at which a commit is named.
    #[arg(long, value_name = "SHARE", default_value_t = 0.995, value_parser = confidence)]
    confidence: f64,

    /// Pairs after which it ends in any case.
    #[arg(long, value_name = "N", default_value_t = 400)]
    most_pairs: usize,
}

fn confidence(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.5..1.0).contains(share));
    share.ok_or_else(|| {
        format!(
            "`{text}` is not a valid share: expected 0.5 or more and less than 1, for example 0.99"
        )
    })
}

impl BisectArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        match &self.action {
            Action::Begin(begin) => begin.execute()?,
            Action::Next { state } => next(&load(state)?)?,
            Action::Add { state, sessions } => {
                let mut bisection = load(state)?;
                for path in sessions {
                    let added = bisection.add(&Store::load(path)?);
                    let added = added.with_context(|| path.display().to_string())?;
                    say(&format!("{} added", count(added as u64, "pair")));
                }
                save(&bisection, state)?;
            }
            Action::Skip { state, commit } => {
                let mut bisection = load(state)?;
                bisection.skip(commit)?;
                save(&bisection, state)?;
            }
        }
        Ok(0)
    }
}

impl BeginArguments {
    fn execute(&self) -> anyhow::Result<()> {
        let Self { state, metric, .. } = self;
        if !matches!(
            metric,
            Metric::Throughput | Metric::ServerCpu | Metric::Memory | Metric::P50 | Metric::P99
        ) {
            return Err(usage(format!(
                "--metric {}: a duel judges throughput, server-cpu, memory, p50 and p99",
                metric.name()
            )));
        }
        if state.exists() {
            return Err(usage(format!(
                "{} exists: `bisect next` continues it, or remove it to begin anew",
                state.display()
            )));
        }
        let figure = (self.scenario.as_str(), *metric);
        let commits = self.commits.clone();
        let bisection =
            Bisection::new(figure, &self.good, commits, self.confidence, self.most_pairs)?;
        save(&bisection, state)
    }
}

fn load(state: &Path) -> anyhow::Result<Bisection> {
    let name = || format!("cannot read {}", state.display());
    let text = regular::text(state).with_context(name)?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not the state of a bisection", state.display()))
}

/// Replaces the state as a whole, so that an interrupted program leaves the one before.
fn save(bisection: &Bisection, state: &Path) -> anyhow::Result<()> {
    let mut partial = state.as_os_str().to_owned();
    partial.push(".partial");
    let json = serde_json::to_string_pretty(bisection)? + "\n";
    let written = fs::write(&partial, json).and_then(|()| fs::rename(&partial, state));
    written.with_context(|| format!("cannot write {}", state.display()))
}

/// Prints a line for programs on standard output, and one for people on standard error.
fn next(bisection: &Bisection) -> anyhow::Result<()> {
    let step = bisection.next_step();
    let pairs = count(bisection.pairs() as u64, "pair");
    let figure = bisection
        .ratio()
        .map(|one| format!("{} ({})", change(one.shift), change_interval(one.interval)));
    let figure = figure.unwrap_or_default();
    let names = |commits: &[String]| {
        let names: Vec<&str> = commits.iter().map(|one| commit(Some(one))).collect();
        names.join(" or ")
    };
    let (line, sentence) = match &step {
        Step::Measure { commit: hash, pairs: wanted } => (
            format!("measure {hash} {wanted}"),
            bisection.odds().map_or_else(String::new, |(commits, odds)| {
                format!("after {pairs}: {} with {}", names(&commits), share(odds, 1))
            }),
        ),
        Step::Found { commits, probability } => (
            format!("found {probability:.4} {}", commits.join(" ")),
            format!("{}: {figure}, with {} after {pairs}", names(commits), share(*probability, 1)),
        ),
        Step::Undecided { commits, probability } => (
            format!("undecided {probability:.4} {}", commits.join(" ")),
            format!(
                "undecided after {pairs}: {} is the likeliest, with {}",
                names(commits),
                share(*probability, 1)
            ),
        ),
        Step::NoDifference => {
            ("none".to_owned(), format!("GOOD and BAD do not differ: {figure}, after {pairs}"))
        }
    };
    if !sentence.is_empty() {
        say(&sentence);
    }
    print_plain(&line)
}

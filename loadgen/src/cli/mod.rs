//! The command line: one module for each command, with what was typed, its translation, and what is
//! printed.

mod agent;
mod bisect;
mod ci;
mod colour;
mod compare;
mod confirm;
mod conformance;
mod count;
mod cpus;
mod doctor;
mod echo;
mod experiment;
mod export;
mod foreign_flags;
mod goal;
mod history;
mod merge;
mod output;
mod packaging;
mod pairs;
mod plan;
mod proof;
mod report;
mod run;
mod scenarios;
mod selection;
mod selfcheck;
mod session;
mod terminal;
mod version;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use engine::{EngineChoice, EngineError, EngineKind};
use rustix::io::Errno;
use tracing_subscriber::EnvFilter;

use crate::experiment::{RunnerError, SetupError};
use crate::run::{PlanError, RunError};
use crate::target::spawn;

// Headings of flags that several commands have.
pub(crate) use crate::load::{LOAD, TLS};
const SERVER: &str = "Server";
const WORKERS: &str = "Workers";
const LIMITS: &str = "Limits";
const OUTPUT: &str = "Output";

const EXIT_STATUS: &str = "\
Exit status: 0 fine; 1 error, or an echo that was not what was sent; 2 wrong usage; 10 a threshold was \
missed, or no rate meets it; 13 the measurement is invalid (see run --help); 130, 143, 129 ended by \
SIGINT (Ctrl-C), SIGTERM, SIGHUP, with the result of what was measured.";

/// A load generator for WebSocket (RFC 6455) echo servers: honest latencies, every echo checked,
/// results that are kept.
#[derive(Debug, Parser)]
#[command(
    name = "sparring-loadgen",
    disable_version_flag = true,
    arg_required_else_help = true,
    after_help = EXIT_STATUS,
    max_term_width = 104
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Print the version.
    #[arg(short = 'V', long)]
    version: bool,

    /// With --version: lines `key: value` with commit, profile, engines available here, and masking
    /// kernel.
    #[arg(long, requires = "version")]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive one server with one load and print what was measured.
    Run(Box<run::RunArguments>),
    /// Merge the documents of shards (`run --shard`) into that of their whole load, exactly.
    Merge(merge::MergeArguments),
    /// List the scenarios: loads with a name, for `run`, `duel`, `aa` and experiments.
    Scenarios(scenarios::ScenariosArguments),
    /// Run an experiment: servers x scenarios x rounds, by its name or from a file, and store the
    /// session.
    #[command(alias = "suite")]
    Experiment(Box<experiment::ExperimentArguments>),
    /// Run the conformance battery against any WebSocket echo server.
    Conformance(conformance::ConformanceArguments),
    /// Connect to a server as a client that sends every message back: the strict other end for a
    /// server under test.
    Echo(echo::EchoArguments),
    /// Serve CPU time and memory of a server on this host, for `run --server-metrics`.
    Agent(agent::AgentArguments),
    /// Report everything on this machine that would invalidate a measurement, and the command that
    /// fixes it. Changes nothing.
    Doctor(doctor::DoctorArguments),
    /// Compare two servers in interleaved pairs of runs: improved, regressed, unchanged or
    /// inconclusive.
    Duel(Box<pairs::DuelArguments>),
    /// Compare a server with its base on a runner of a CI system, with a control: a table as
    /// Markdown, annotations, and an exit code.
    Ci(Box<ci::CiArguments>),
    /// Record this machine's noise: one server against itself.
    Aa(Box<pairs::AaArguments>),
    /// List the stored sessions.
    List(selection::ListArguments),
    /// Show one stored session.
    Show(selection::ShowArguments),
    /// Write stored sessions in the formats of other programs: Bencher, github-action-benchmark,
    /// JUnit, OpenMetrics, Otava, Markdown.
    Export(export::ExportArguments),
    /// Compare two stored sessions, or the sides of an interleaved one.
    Compare(compare::CompareArguments),
    /// Count the instructions that a message costs the server's own code, and store them. Needs
    /// valgrind, and no quiet machine.
    Count(count::CountArguments),
    /// Show a figure over the commits of a branch.
    History(history::HistoryArguments),
    /// Find the commit that changed a figure, under noise: say which one to measure next
    /// (scripts/bisect.sh).
    Bisect(bisect::BisectArguments),
    /// Make a page of stored sessions: verdict, charts, machine; or a site of all of them.
    Report(report::ReportArguments),
    /// Say how often verdicts on this machine are wrong, from recorded pairs of known servers
    /// (scripts/experiments/proof.toml).
    Proof(proof::ProofArguments),
    /// Check the generator itself: it must report servers with known faults, and a stall of its
    /// own.
    Selfcheck(selfcheck::SelfcheckArguments),
    /// Print a script with which a shell completes commands and flags.
    Completions(packaging::CompletionsArguments),
    /// Print the manual page, or write a page for each command.
    Man(packaging::ManArguments),
    /// The servers of selfcheck.
    #[command(name = crate::selfcheck::SERVER, hide = true)]
    SelfcheckServer { behaviour: String, port: Option<u16> },
    /// Becomes the server of --spawn.
    #[command(name = spawn::GUARD, hide = true)]
    SpawnGuard {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// A refusal of what was typed: exit code 2. Other errors are exit code 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

fn usage(reason: impl Display) -> anyhow::Error {
    Usage(reason.to_string()).into()
}

/// Returns true for a refusal of what was typed.
fn is_usage(error: &anyhow::Error) -> bool {
    let is_of_plan = matches!(error.downcast_ref(), Some(RunError::Plan(_)));
    let is_of_session =
        matches!(error.downcast_ref(), Some(RunnerError::Resume(_) | RunnerError::Plan { .. }));
    let is_of_setup = error.is::<PlanError>() || error.is::<SetupError>();
    error.is::<Usage>() || is_of_plan || is_of_session || is_of_setup
}

/// Returns the text of an error with its causes. A typed error that names its cause is not followed
/// by it again.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// The exit codes beside 0 (fine), 1 (error) and 2 (usage).
const MISSED: u8 = 10;
const REGRESSED: u8 = 11;
const INCONCLUSIVE: u8 = 12;
const INVALID: u8 = 13;
/// Exit code of a command that a signal ended. The program ends with that signal's own code.
const INTERRUPTED: u8 = 130;

/// The whole program. A wrong command line ends it with 2.
#[must_use]
pub fn main() -> ExitCode {
    colour::choose();
    let arguments = Arguments::try_parse()
        .unwrap_or_else(|error| foreign_flags::explain(error, std::env::args_os()).exit());
    if arguments.version {
        // A reader that has closed the pipe, as `grep -q` does, has read enough.
        let _ = print_plain(&if arguments.verbose { version::facts() } else { version::line() });
        return ExitCode::SUCCESS;
    }
    let ended = match &arguments.command {
        Some(Command::Run(run)) => run.execute(),
        Some(Command::Merge(merge)) => merge.execute(),
        Some(Command::Scenarios(scenarios)) => scenarios.execute(),
        Some(Command::Conformance(conformance)) => conformance.execute(),
        Some(Command::Experiment(experiment)) => experiment.execute(),
        Some(Command::Echo(echo)) => echo.execute(),
        Some(Command::Agent(agent)) => agent.execute(),
        Some(Command::Doctor(doctor)) => doctor.execute(),
        Some(Command::Selfcheck(selfcheck)) => selfcheck.execute(),
        Some(Command::Duel(duel)) => duel.execute(),
        Some(Command::Ci(ci)) => ci.execute(),
        Some(Command::Aa(aa)) => aa.execute(),
        Some(Command::List(list)) => list.execute(),
        Some(Command::Show(show)) => show.execute(),
        Some(Command::Export(export)) => export.execute(),
        Some(Command::Compare(compare)) => compare.execute(),
        Some(Command::Count(count)) => count.execute(),
        Some(Command::History(history)) => history.execute(),
        Some(Command::Bisect(bisect)) => bisect.execute(),
        Some(Command::Report(report)) => report.execute(),
        Some(Command::Proof(proof)) => proof.execute(),
        Some(Command::Completions(completions)) => completions.execute(),
        Some(Command::Man(man)) => man.execute(),
        Some(Command::SelfcheckServer { behaviour, port }) => selfcheck::serve(behaviour, *port),
        Some(Command::SpawnGuard { arguments }) => Ok(spawn::guard(arguments) as u8),
        None => Err(usage("a subcommand is needed: see --help")),
    };
    match ended {
        Ok(INTERRUPTED) => ExitCode::from(terminal::interrupted_code()),
        Ok(code) => ExitCode::from(code),
        Err(error) if is_usage(&error) => {
            Arguments::command().error(ErrorKind::ValueValidation, with_causes(&error)).exit()
        }
        Err(error) => {
            say(&format!("sparring-loadgen: {}", with_causes(&error)));
            let is_interrupted = matches!(error.downcast_ref(), Some(RunError::Interrupted))
                || matches!(error.downcast_ref(), Some(RunnerError::Interrupted));
            ExitCode::from(if is_interrupted { terminal::interrupted_code() } else { 1 })
        }
    }
}

/// Prints lines that programs read on standard output, never in colour.
fn print_plain(text: &str) -> anyhow::Result<()> {
    printed(writeln!(io::stdout(), "{text}"))
}

/// Prints a line on standard error. An error is ignored, since there is no other place to report
/// it.
fn say(line: &str) {
    let _ = writeln!(anstream::stderr(), "{}", colour::highlight(line));
}

/// Prints lines to the stream that no document uses, in colour where that takes it.
fn print(text: &str, to_error: bool) -> anyhow::Result<()> {
    let text = colour::highlight(text);
    printed(match to_error {
        true => writeln!(anstream::stderr(), "{text}"),
        false => writeln!(anstream::stdout(), "{text}"),
    })
}

/// A closed pipe (`| head`) or a closed terminal is not an error, so that the rest is not lost.
fn printed(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if is_gone(&error) => Ok(()),
        result => result.context("cannot print"),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe || Errno::from_io_error(error) == Some(Errno::IO)
}

/// Returns the engine that was chosen, and a note where it is not the usual one.
fn resolve_engine(choice: EngineChoice) -> Result<(EngineKind, Option<String>), EngineError> {
    let (engine, why) = choice.resolve()?;
    let fell_back = choice == EngineChoice::Auto && engine == EngineKind::Epoll;
    Ok((engine, fell_back.then(|| format!("io_uring is not available, this ran on epoll. {why}"))))
}

fn start_log() {
    let filter =
        EnvFilter::builder().with_default_directive(tracing::Level::WARN.into()).from_env_lossy();
    let ansi = colour::is_on_standard_error();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(ansi)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_printed_once() {
        let cause = || io::Error::other("the disk is full");
        let text = |error: anyhow::Error| with_causes(&error);
        let plain = anyhow::Error::new(cause()).context("cannot write a.json").context("--json");
        assert_eq!(text(plain), "--json: cannot write a.json: the disk is full");
        let typed = crate::result::StoreError::Io {
            action: "read",
            path: "a.json".into(),
            source: cause(),
        };
        assert_eq!(text(typed.into()), "cannot read a.json: the disk is full");
    }

    #[test]
    fn the_command_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_engine_asked_for_by_name_never_falls_back() {
        for kind in EngineKind::ALL {
            let resolved = resolve_engine(EngineChoice::Named(kind)).ok();
            assert_eq!(resolved, kind.probe().is_ok().then_some((kind, None)));
        }
        let (engine, mark) = resolve_engine(EngineChoice::Auto).expect("epoll is everywhere");
        assert_eq!(engine == EngineKind::Epoll, mark.is_some());
        assert!(mark.is_none_or(|mark| mark.starts_with("io_uring is not available")));
    }
}

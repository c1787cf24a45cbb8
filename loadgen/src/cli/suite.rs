//! `sparring-loadgen suite`: a whole session of scenarios against our own server.

use std::io;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use engine::EngineKind;
use engine::socket::Congestion;

use crate::suite::{self, Checkout, Options, Suite};

use super::terminal::Terminal;
use super::{EXIT_STATUS, Failure, catch_signals, start_log};

#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(super) struct SuiteArguments {
    /// Which set of scenarios: smoke takes seconds, quick about a minute, full says beforehand.
    #[arg(value_enum)]
    suite: SuiteName,

    /// The server's executable [default: sparring-server beside this program].
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,

    /// The folder of results.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    results: PathBuf,

    /// The commit the server was built from [default: what it says itself].
    #[arg(long, value_name = "HASH")]
    commit: Option<String>,

    /// The source had changes beside that commit.
    #[arg(long, requires = "commit")]
    dirty: bool,

    /// A name for the session.
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,

    /// The engine of both sides, but for scenarios about an engine [default: uring, or epoll where io_uring is refused].
    #[arg(long, value_name = "uring|tokio-uring|epoll")]
    engine: Option<EngineKind>,

    /// Congestion control of both sides, one of net.ipv4.tcp_available_congestion_control [default: the kernel's].
    #[arg(long, value_name = "NAME")]
    congestion: Option<Congestion>,

    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SuiteName {
    Quick,
    Full,
    Smoke,
}

impl From<SuiteName> for Suite {
    fn from(name: SuiteName) -> Self {
        match name {
            SuiteName::Quick => Self::Quick,
            SuiteName::Full => Self::Full,
            SuiteName::Smoke => Self::Smoke,
        }
    }
}

impl SuiteArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        start_log();
        let options = self.options()?;
        let mut terminal = Terminal::new(catch_signals()?, self.quiet);
        let outcome = suite::main(&options, &mut terminal, &mut io::stdout(), &mut io::stderr());
        terminal.clear();
        match outcome {
            Ok(outcome) => Ok(outcome.exit_code()),
            Err(error) if error.exit_code() == 2 => Err(Failure::Usage(error.to_string())),
            Err(error) => Err(Failure::Error(error.to_string())),
        }
    }

    fn options(&self) -> Result<Options, Failure> {
        let beside = || std::env::current_exe().map(|path| path.with_file_name("sparring-server"));
        let server = self.server.clone().map_or_else(beside, Ok);
        Ok(Options {
            suite: self.suite.into(),
            server: server.map_err(|error| Failure::Error(format!("--server: {error}")))?,
            results: self.results.clone(),
            checkout: self.commit.clone().map(|commit| Checkout { commit, dirty: self.dirty }),
            tag: self.tag.clone(),
            engine: self.engine,
            congestion: self.congestion.clone(),
        })
    }
}

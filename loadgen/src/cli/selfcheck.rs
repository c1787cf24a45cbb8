//! `sparring-loadgen selfcheck`: checks of the generator itself, by faults that are known.

use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use engine::EngineChoice;

use super::terminal::{self, Terminal};
use super::{INVALID, OUTPUT, print, print_plain, start_log, usage};
use crate::load::value::time;
use crate::report::text::selfcheck::{case, conclusion, heading, stall};
use crate::report::{Blocks, Field, Format};
use crate::selfcheck::{Case, Finding, Report, SelfcheckError, StallCheck, own_server};
use crate::target::spawn::{Role, Spawn};

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen selfcheck
  sparring-loadgen selfcheck --only overload,server-cpu
  sparring-loadgen selfcheck --only stall --server 'node echo.js {port}' --stall 1s -d 10s

Measures how late timers ring here and how late the generator sends. Then it plays known faults against the generator:

  stall       A server is stopped (SIGSTOP) for a known time under a constant rate: the latencies from the planned send must
              be what arithmetic says, stall - (1 - q) x window at the quantile q, and those from the actual send must not,
              because they hide the stall.
  overload    A server answers fewer messages a second than it is asked for: the run must be INVALID, and no message be
              called wrong or lost.
  silence     A server is silent on every second connection for longer than the window: the longest latency must be at least
              the silence, and the run INVALID.
  standstill  The generator itself is stopped for a known time: it must say so.
  server-end  The server ends in the middle of the window: what was measured must be kept.
  server-cpu  A server spends a known CPU time on each message, in the connection's thread, in a thread for each message and
              in a process for each connection: its cost must be the same.

Exit status: 0 the generator measures what it says; 1 it does not, or an error; 2 wrong usage; 13 the machine was too
busy to tell.";

/// Name of the check that is not a case.
const STALL: &str = "stall";

/// Takes some thirty seconds, on loopback.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SelfcheckArguments {
    /// Carry out only these checks; may be repeated.
    #[arg(long, value_parser = checks(), value_name = "NAME,...", value_delimiter = ',')]
    only: Vec<String>,

    /// The echo server to stop in the check stall; {port} becomes a free port at 127.0.0.1
    /// [default: a plain one in this program].
    #[arg(long, value_name = "COMMAND")]
    server: Option<String>,

    /// Time for which it is stopped.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1s")]
    stall: Duration,

    /// Measured window of the check stall.
    #[arg(short, long, value_name = "TIME", value_parser = time, default_value = "4s")]
    duration: Duration,

    /// The event loop: auto takes uring where the kernel allows it, else epoll; one named never
    /// falls back.
    #[arg(long, value_name = "auto|uring|tokio-uring|epoll", default_value = "auto")]
    engine: EngineChoice,

    /// One JSON object on standard output instead of the table.
    #[arg(long, help_heading = OUTPUT)]
    json: bool,

    /// Neither progress nor table.
    #[arg(short, long, help_heading = OUTPUT)]
    quiet: bool,
}

/// Names in `--only`.
fn checks() -> PossibleValuesParser {
    [STALL].into_iter().chain(Case::ALL.map(Case::name)).collect::<Vec<_>>().into()
}

pub(super) fn serve(behaviour: &str, port: Option<u16>) -> anyhow::Result<u8> {
    crate::selfcheck::serve(behaviour, port)?;
    Ok(0)
}

impl SelfcheckArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let server = self.server()?;
        let wants = |name: &str| self.only.is_empty() || self.only.iter().any(|only| only == name);
        if self.server.is_some() && !wants(STALL) {
            return Err(usage("--server needs the check stall: add it to --only"));
        }
        start_log();
        let (engine, _) = self.engine.resolve()?;
        let check_stall = StallCheck { server, engine, stall: self.stall, window: self.duration };
        let mut terminal = Terminal::start(self.quiet)?;
        let mut report = Report::begin();
        self.print(heading(&report))?;
        if wants(STALL) {
            let made = check_stall.make(&mut terminal);
            terminal.screen.erase();
            self.print(stall(report.stall.insert(made.map_err(failure)?)))?;
        }
        for known in Case::ALL.into_iter().filter(|case| wants(case.name())) {
            let played = known.play(engine, &mut terminal);
            terminal.screen.erase();
            let judgement = played.map_err(failure)?;
            self.print(case(&judgement))?;
            report.cases.push(judgement);
        }
        if self.json {
            print_plain(&serde_json::to_string_pretty(&report)?)?;
        }
        let finding = report.finding();
        if !self.json && !self.quiet {
            print(&format!("\n{}", conclusion(finding)), false)?;
        }
        Ok(match finding {
            Finding::Right => 0,
            Finding::Wrong => 1,
            Finding::Disturbed => INVALID,
        })
    }

    /// Prints fields for people, where any are wanted.
    fn print(&self, fields: Vec<Field>) -> anyhow::Result<()> {
        if self.json || self.quiet {
            return Ok(());
        }
        let format = Format::Terminal { width: terminal::width() };
        print(&Blocks::default().fields(fields).render(format), false)
    }

    fn server(&self) -> anyhow::Result<Spawn> {
        let Some(command) = &self.server else { return Ok(own_server()) };
        let invalid = |_| usage(format!("--server `{command}` is not a command"));
        Spawn::parse(Role::Server, command).map_err(invalid)
    }
}

fn failure(error: SelfcheckError) -> anyhow::Error {
    match error {
        SelfcheckError::Usage(reason) => usage(reason),
        SelfcheckError::Run(error) => error.into(),
        SelfcheckError::Other(error) => error,
    }
}

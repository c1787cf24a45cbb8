//! `sparring-loadgen selfcheck`: checks of the generator itself, by faults that are known.

use std::time::Duration;

use anyhow::Context as _;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use engine::EngineChoice;

use super::terminal::{self, Terminal};
use super::{Failure, INVALID, OUTPUT, catch_signals, print_line, print_plain, start_log};
use crate::load::value::time;
use crate::report::text::selfcheck::{case, conclusion, heading, stall};
use crate::report::{Blocks, Field, Format};
use crate::selfcheck::{Case, Finding, Report, SelfcheckError, StallCheck, own_server};
use crate::target::spawn::Spawn;

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

/// Takes some thirty seconds, on loopback.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SelfcheckArguments {
    /// Carry out only these checks; may be repeated.
    #[arg(long, value_enum, value_name = "NAME,...", value_delimiter = ',')]
    only: Vec<Check>,

    /// The echo server to stop in the check stall; {port} becomes a free port at 127.0.0.1 [default: a plain
    /// one in this program].
    #[arg(long, value_name = "COMMAND")]
    server: Option<String>,

    /// Time for which it is stopped.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1s")]
    stall: Duration,

    /// Measured window of the check stall.
    #[arg(short, long, value_name = "TIME", value_parser = time, default_value = "4s")]
    duration: Duration,

    /// The event loop: auto takes uring where the kernel allows it, else epoll; one named never falls back.
    #[arg(long, value_name = "auto|uring|tokio-uring|epoll", default_value = "auto")]
    engine: EngineChoice,

    /// One JSON object on standard output instead of the table.
    #[arg(long, help_heading = OUTPUT)]
    json: bool,

    /// Neither progress nor table.
    #[arg(short, long, help_heading = OUTPUT)]
    quiet: bool,
}

/// Name in `--only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Stall,
    Case(Case),
}

impl ValueEnum for Check {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Check; 6] = {
            let [a, b, c, d, e] = Case::ALL;
            [Check::Stall, Check::Case(a), Check::Case(b), Check::Case(c), Check::Case(d), Check::Case(e)]
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Stall => "stall",
            Self::Case(case) => case.name(),
        }))
    }
}

/// Carries out the hidden subcommand that becomes a server.
pub(super) fn serve(behaviour: &str, port: Option<u16>) -> Result<u8, Failure> {
    crate::selfcheck::serve(behaviour, port).map(|()| 0).map_err(|error| Failure::Caused(error.into()))
}

impl SelfcheckArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let server = self.server()?;
        let has_stall = self.only.is_empty() || self.only.contains(&Check::Stall);
        if self.server.is_some() && !has_stall {
            return Err(Failure::Usage("--server needs the check stall: add it to --only".to_owned()));
        }
        start_log();
        let (engine, _) = self.engine.settle().map_err(|error| Failure::Run(error.into()))?;
        let check_stall = StallCheck { server, engine, stall: self.stall, window: self.duration };
        let mut terminal = Terminal::new(catch_signals()?, self.quiet);
        let mut report = Report::begin();
        self.print(heading(&report))?;
        let checks = Check::value_variants().iter();
        for check in checks.filter(|check| self.only.is_empty() || self.only.contains(check)) {
            let text = self.make(*check, &check_stall, &mut report, &mut terminal);
            terminal.erase();
            self.print(text.map_err(failure)?)?;
        }
        if self.json {
            let text = serde_json::to_string_pretty(&report);
            print_plain(&text.context("cannot write the report as JSON")?)?;
        }
        let finding = report.finding();
        if !self.json && !self.quiet {
            print_line(&format!("\n{}", conclusion(finding)))?;
        }
        Ok(match finding {
            Finding::Right => 0,
            Finding::Wrong => 1,
            Finding::Disturbed => INVALID,
        })
    }

    /// Carries out a check and adds it to the report. Returns its text for people.
    fn make(
        &self,
        check: Check,
        check_stall: &StallCheck,
        report: &mut Report,
        terminal: &mut Terminal,
    ) -> Result<Vec<Field>, SelfcheckError> {
        match check {
            Check::Stall => Ok(stall(report.stall.insert(check_stall.make(terminal)?))),
            Check::Case(known) => {
                report.cases.push(known.play(check_stall.engine, terminal)?);
                Ok(report.cases.last().map(case).unwrap_or_default())
            }
        }
    }

    /// Prints fields for people, where any are wanted.
    fn print(&self, fields: Vec<Field>) -> Result<(), Failure> {
        if self.json || self.quiet {
            return Ok(());
        }
        print_line(&Blocks::default().fields(fields).render(Format::Terminal { width: terminal::width() }))
    }

    fn server(&self) -> Result<Spawn, Failure> {
        let Some(command) = &self.server else { return Ok(own_server()) };
        Spawn::parse(command).map_err(|_| Failure::Usage(format!("--server `{command}` is no command")))
    }
}

fn failure(error: SelfcheckError) -> Failure {
    match error {
        SelfcheckError::Usage(reason) => Failure::Usage(reason),
        SelfcheckError::Run(error) => error.into(),
        SelfcheckError::Other(error) => error.into(),
    }
}

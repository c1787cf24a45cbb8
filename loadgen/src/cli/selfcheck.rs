//! `sparring-loadgen selfcheck`: whether the generator measures what it says.

use std::env;
use std::io::{self, Write as _};
use std::time::Duration;

use clap::Args;
use engine::EngineChoice;

use super::report::{line, span};
use super::terminal::Terminal;
use super::value::time;
use super::{Failure, INVALID, OUTPUT, catch_signals, start_log};
use crate::result::table::grouped;
use crate::selfcheck::{Check, Finding, Quantile, Report, SelfcheckError, Spread, finding};
use crate::spawn::Spawn;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen selfcheck
  sparring-loadgen selfcheck --server 'node echo.js {port}' --stall 1s -d 10s

Measures how late timers ring here and how late the generator sends. Then it stops a server (SIGSTOP) for a known time
under a constant rate: the latencies from the planned send must be what arithmetic says, stall - (1 - q) x window at the
quantile q, and those from the actual send must not, because they hide the stall.

Exit status: 0 the generator measures what it says; 1 it does not, or an error; 2 wrong usage; 13 the machine was too
busy to tell.";

/// Some ten seconds, on loopback.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SelfcheckArguments {
    /// The echo server to stop; {port} becomes a free port at 127.0.0.1 [default: sparring-server beside this program].
    #[arg(long, value_name = "COMMAND")]
    server: Option<String>,

    /// How long it stands still.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1s")]
    stall: Duration,

    /// The measured window.
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

impl SelfcheckArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let server = self.server()?;
        start_log();
        let (engine, _) = self.engine.settle().map_err(|error| Failure::Run(error.into()))?;
        let check = Check { server, engine, stall: self.stall, window: self.duration };
        let mut terminal = Terminal::new(catch_signals()?, self.quiet);
        let report = check.make(&mut terminal);
        terminal.clear();
        let report = report.map_err(|error| match error {
            SelfcheckError::Times { .. } => Failure::Usage(error.to_string()),
            SelfcheckError::Run(error) => error.into(),
            error => Failure::Error(error.to_string()),
        })?;
        let text = if self.json {
            serde_json::to_string_pretty(&report).map_err(|error| Failure::Error(error.to_string()))?
        } else {
            table(&report)
        };
        if self.json || !self.quiet {
            writeln!(io::stdout(), "{text}")
                .map_err(|error| Failure::Error(format!("cannot print: {error}")))?;
        }
        Ok(match finding(&report.quantiles) {
            Finding::Right => 0,
            Finding::Wrong => 1,
            Finding::Disturbed => INVALID,
        })
    }

    fn server(&self) -> Result<Spawn, Failure> {
        if let Some(command) = &self.server {
            return Spawn::parse(command)
                .map_err(|_| Failure::Usage(format!("--server `{command}` is no command")));
        }
        let beside = env::current_exe().map(|path| path.with_file_name("sparring-server"));
        let program = beside.ok().filter(|path| path.is_file()).ok_or_else(|| {
            let remedy = "build it, or name an echo server with --server 'COMMAND {port}'";
            Failure::Error(format!("there is no sparring-server beside this program: {remedy}"))
        })?;
        let words = [&program.to_string_lossy(), "--listen", "127.0.0.1:{port}", "--threads", "1"];
        Ok(Spawn { command: words.map(str::to_owned).into(), cpus: Vec::new() })
    }
}

fn table(report: &Report) -> String {
    let spread =
        |Spread { p50, p99, max }: Spread| format!("p50 {}  p99 {}  max {}", span(p50), span(p99), span(max));
    let mut lines = vec![
        line("timer", &format!("a sleep of 1 ms ends late by {}", spread(report.timer_error_ns))),
        line("clock", &format!("a look at it takes {:.0} ns", report.clock_ns)),
        line("lag", &format!("at {} msg/s {}", grouped(report.rate_per_s), spread(report.lag_ns))),
        line(
            "stall",
            &format!(
                "the server stood still for {} of {} at {} msg/s",
                span(report.stall_ns),
                span(report.window_ns),
                grouped(report.rate_per_s)
            ),
        ),
    ];
    lines.extend(report.quantiles.iter().map(quantile));
    let verdict = match finding(&report.quantiles) {
        Finding::Right => "The generator measures what it says.",
        Finding::Wrong => "WRONG: the generator does not measure what it says here; please report this.",
        Finding::Disturbed => "DISTURBED: the machine is too busy to tell; see sparring-loadgen doctor.",
    };
    lines.extend([String::new(), verdict.to_owned()]);
    lines.join("\n")
}

fn quantile(quantile: &Quantile) -> String {
    let Quantile { q, expected, corrected, uncorrected, finding } = *quantile;
    let word = match finding {
        Finding::Right => "right",
        Finding::Wrong => "WRONG",
        Finding::Disturbed => "disturbed",
    };
    let text = format!(
        "{word}: {} from the planned send, arithmetic says {}; {} from the actual send",
        span(corrected),
        span(expected),
        span(uncorrected)
    );
    line(&format!("  p{:.0}", q * 100.0), &text)
}

//! `sparring-loadgen conformance`: the conformance battery against any echo server.

use std::time::Duration;

use clap::Args;

use super::output::FormatArguments;
use super::usage;
use crate::conformance::{CaseResult, Servers, Verdict, run};
use crate::load::value::time;
use crate::report::text::findings::cases;
use crate::target::url::Url;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen conformance ws://127.0.0.1:9001/
  sparring-loadgen conformance wss://127.0.0.1:9443/ --failures     whatever certificate it shows
  COLUMNS=200 sparring-loadgen conformance ws://127.0.0.1:9001/ > table.txt

Each case has a control connection, which must go on echoing. Verdicts:
  OK        as the RFC asks
  lax       tolerated, dropped without a status or a close code, or refused with another status than the most exact one
  wrong     another answer than the right one
  broken    the server ended, or the control connection was disturbed
  skipped   needs limits that only flags of sparring-server set, or compression, which the server declines

Some cases send 64 MiB. Test only servers that are yours.

Exit status: 0 all OK (or skipped); 1 not all OK; 2 wrong usage, or nothing answers.";

/// Sends some 400 usual, unusual and hostile inputs and prints for each what is expected and what
/// is seen.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConformanceArguments {
    /// The server: ws://HOST[:PORT]/PATH, or wss://.
    url: Url,

    /// Longest time for each answer.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "3s")]
    patience: Duration,

    /// Print only the cases that are neither OK nor skipped.
    #[arg(long)]
    failures: bool,

    #[command(flatten)]
    format: FormatArguments,
}

impl ConformanceArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        if self.patience.is_zero() {
            return Err(usage("--patience must be longer than zero"));
        }
        if self.url.credentials.is_some() {
            return Err(usage(format!(
                "user and password in the URL are not sent by the battery: give {} alone",
                self.url
            )));
        }
        engine::socket::raise_file_limit();
        let results = run(&Servers::foreign(&self.url, self.patience).map_err(usage)?);
        let is_shown = |result: &CaseResult| !self.failures || !is_fine(result);
        self.format.print(&cases(&self.url, &results, is_shown), false)?;
        Ok(u8::from(!results.iter().all(is_fine)))
    }
}

fn is_fine(result: &CaseResult) -> bool {
    matches!(result.verdict, Verdict::Ok | Verdict::Skipped)
}

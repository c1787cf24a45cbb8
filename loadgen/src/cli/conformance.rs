//! `sparring-loadgen conformance`: the conformance battery against any echo server.

use std::time::Duration;

use clap::Args;

use super::terminal;
use super::{Failure, print_line};
use crate::conformance::{CaseResult, Servers, Verdict, run, summary};
use crate::load::value::time;
use crate::result::text_table::TextTable;
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
  skipped   needs limits that only flags of sparring-server set

Some cases send 64 MiB. Test only servers that are yours.

Exit status: 0 all OK (or skipped); 1 not all OK; 2 wrong usage, or nothing answers.";

/// Sends some 350 usual, unusual and hostile inputs and prints for each what is expected and what
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
}

impl ConformanceArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        if self.patience.is_zero() {
            return Err(Failure::Usage("--patience must be longer than zero".to_owned()));
        }
        engine::socket::raise_file_limit();
        let servers = Servers::foreign(&self.url, self.patience);
        let results = run(&servers.map_err(Failure::usage)?);
        let table = table(&results, self.failures);
        if !table.is_empty() {
            print_line(&table.text(terminal::width()))?;
        }
        print_line(&format!("\n{}: {}", self.url, summary(&results)))?;
        Ok(u8::from(!results.iter().all(is_fine)))
    }
}

fn is_fine(result: &CaseResult) -> bool {
    matches!(result.verdict, Verdict::Ok | Verdict::Skipped)
}

fn table(results: &[CaseResult], only_failures: bool) -> TextTable {
    let header = ["id", "verdict", "seen", "expected", "sent", "section"];
    let mut table = TextTable::new(header, header.len(), [5, 4, 3]);
    for result in results.iter().filter(|result| !only_failures || !is_fine(result)) {
        let CaseResult { id, sent, expected, seen, verdict, section } = result;
        let cells = [id.as_str(), verdict.name(), seen, expected, sent, section];
        table.add_row(cells.map(str::to_owned));
    }
    table
}

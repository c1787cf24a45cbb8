//! `sparring-loadgen scenarios`: the loads that have a name.

use std::path::PathBuf;

use clap::Args;

use super::output::FormatArguments;
use super::usage;
use crate::load::Catalogue;
use crate::report::text::list::scenarios;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen scenarios
  sparring-loadgen scenarios --catalogue mine.toml      with those of a file
  sparring-loadgen run ws://127.0.0.1:9001/ --catalogue mine.toml --scenario chat

A file has a table for each scenario; a key of `load` that it leaves out has the default of its flag:
  [[scenario]]
  name = \"chat\"
  description = \"short text on many connections\"
  load = { connections = 2000, message_bytes = \"64:9,4096:1\", payload = \"text-mixed\", \
rate_per_s = 20000.0 }

The load of a stored session has the same keys (`parameters`).";

/// The scenarios of --scenario, with one line about each.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ScenariosArguments {
    /// A file with more scenarios.
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,

    #[command(flatten)]
    format: FormatArguments,
}

impl ScenariosArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let catalogue = Catalogue::with(self.catalogue.as_deref());
        let catalogue = catalogue.map_err(|error| usage(format!("{error:#}")))?;
        self.format.print_text(&scenarios(&catalogue, self.format.format()), false)?;
        Ok(0)
    }
}

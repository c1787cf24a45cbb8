//! `sparring-loadgen list`: the stored sessions, a line each.

use clap::Args;

use super::output::FormatArguments;
use super::selection::SelectionArguments;
use super::{Failure, say};
use crate::report::Blocks;
use crate::report::text::list::sessions;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen list                                 every stored session, oldest first
  sparring-loadgen list --scenario echo --commit HEAD   those of the commit that is checked out

Files that cannot be read are named on standard error, and the others listed: exit status 1 then, else 0.";

/// Sessions under bench-results, oldest first.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ListArguments {
    #[command(flatten)]
    selection: SelectionArguments,

    #[command(flatten)]
    format: FormatArguments,
}

impl ListArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let (found, unreadable) = self.selection.store().select(&self.selection.selection())?;
        if found.is_empty() {
            say(&format!("no stored session fits in {}", self.selection.results.display()));
        } else {
            let table = sessions(&found, self.selection.store().root());
            self.format.print(&Blocks::default().table(table), false)?;
        }
        for error in &unreadable {
            say(&format!("sparring-loadgen: {error}"));
        }
        Ok(u8::from(!unreadable.is_empty()))
    }
}

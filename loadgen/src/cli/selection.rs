//! Flags that pick stored sessions, and `sparring-loadgen list` and `show`.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;

use super::output::FormatArguments;
use super::{compare, say, usage};
use crate::report::Blocks;
use crate::report::text::{self, list};
use crate::result::{Presentation, Selection, SessionKind, Store, Stored};

const LIST_EXAMPLES: &str = "\
Examples:
  sparring-loadgen list                                 every stored session, oldest first
  sparring-loadgen list --scenario echo --commit HEAD   those of the commit that is checked out

Files that cannot be read are named on standard error, and the others listed: exit status 1 then, else 0.";

const SHOW_EXAMPLES: &str = "\
Examples:
  sparring-loadgen show last                  the newest session
  sparring-loadgen show last --tag quick      the newest of that experiment
  sparring-loadgen show a1b2c3d               the newest of a commit
  sparring-loadgen show result.json           a file, wherever it lies
  sparring-loadgen show last --markdown       for a pull request";

/// Where results lie, and which of them are meant.
#[derive(Debug, Args)]
pub(super) struct SelectionArguments {
    /// The folder of results.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    pub(super) results: PathBuf,

    #[command(flatten)]
    pub(super) only: Selection,
}

/// Sessions under bench-results, oldest first.
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(super) struct ListArguments {
    #[command(flatten)]
    selection: SelectionArguments,

    #[command(flatten)]
    format: FormatArguments,
}

/// Prints a session: its figures, machine and subjects.
#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub(super) struct ShowArguments {
    /// A file, a tag, a commit (hash or a name that git knows), or `last`; of several the newest.
    what: String,

    /// The table over all scenarios, and nothing else, of other people's servers side by side
    /// (experiment `peers`).
    #[arg(long)]
    summary: bool,

    /// The figures that the experiment holds to a limit, and nothing else.
    #[arg(long, conflicts_with = "summary")]
    promises: bool,

    #[command(flatten)]
    selection: SelectionArguments,

    #[command(flatten)]
    format: FormatArguments,
}

impl SelectionArguments {
    pub(super) fn store(&self) -> Store {
        Store::new(&self.results)
    }

    /// The sessions that `what` names among those that fit, oldest first; at least one.
    pub(super) fn named(&self, what: &str) -> anyhow::Result<Vec<Stored>> {
        let mut found = self.store().named(what)?;
        found.retain(|stored| self.only.fits(&stored.document));
        ensure!(!found.is_empty(), "no session that `{what}` names fits the other flags");
        Ok(found)
    }
}

impl ListArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let (found, unreadable) = self.selection.store().select(&self.selection.only)?;
        if found.is_empty() {
            say(&format!("no stored session fits in {}", self.selection.results.display()));
        } else {
            let table = list::sessions(&found, &self.selection.results);
            self.format.print(&Blocks::default().table(table), false)?;
        }
        unreadable.iter().for_each(|error| say(&format!("sparring-loadgen: {error}")));
        Ok(u8::from(!unreadable.is_empty()))
    }
}

impl ShowArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        if let Some(stored) = self.selection.named(&self.what)?.pop() {
            self.format.print(&self.blocks(&stored)?, false)?;
        }
        Ok(0)
    }

    fn blocks(&self, stored: &Stored) -> anyhow::Result<Blocks> {
        let document = &stored.document;
        if self.summary && document.show() != Presentation::Peers {
            let file = stored.path.display();
            return Err(usage(format!(
                "--summary is for sessions of scripts/peers.sh, which {file} is not"
            )));
        }
        if self.summary {
            return Ok(text::over_all(document));
        }
        if self.promises {
            return Ok(text::promises(document));
        }
        shown(&self.selection.results, stored)
    }
}

/// Returns a session as `show` prints it, with the thresholds that are known in a folder of
/// results.
pub(super) fn shown(results: &Path, stored: &Stored) -> anyhow::Result<Blocks> {
    let document = &stored.document;
    let is_compared = document.session.kind == SessionKind::Ab;
    let conclusion = is_compared.then(|| compare::concluded(results, document)).transpose()?;
    Ok(text::stored(stored, conclusion.as_ref()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Arguments, Command};
    use super::*;
    use crate::compare::example::duel;
    use crate::report::Format;
    use crate::result::{Document, example};

    fn blocks(flags: &[&str], document: Document) -> Result<Blocks, String> {
        let words =
            [&["sparring-loadgen", "show", "last", "--results", "/nonexistent"], flags].concat();
        let parsed = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let Some(Command::Show(show)) = parsed.command else { return Err("not show".to_owned()) };
        show.blocks(&Stored { path: "r/m/f.json".into(), document })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_other_peoples_servers_have_a_summary() {
        let error = blocks(&["--summary"], example::document()).expect_err("a suite of ours");
        assert!(error.contains("scripts/peers.sh") && error.contains("r/m/f.json"), "{error}");
        let mut peers = duel(8, 1.25);
        (peers.session.kind, peers.session.suite) = (SessionKind::Suite, Some("peers".to_owned()));
        let summary = blocks(&["--summary"], peers).expect("a table").render(Format::Markdown);
        assert!(summary.starts_with("| server |"), "{summary}");
    }
}

//! `sparring-loadgen show`: one stored session.

use clap::Args;

use super::output::FormatArguments;
use super::selection::SelectionArguments;
use super::{Failure, compare};
use crate::report::{Blocks, text};
use crate::result::{SessionKind, Show, Stored};

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen show last                  the newest session
  sparring-loadgen show last --tag quick      the newest of that experiment
  sparring-loadgen show a1b2c3d               the newest of a commit
  sparring-loadgen show result.json           a file, wherever it lies
  sparring-loadgen show last --markdown       for a pull request";

/// Prints a session: its figures, machine and subjects.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
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

impl ShowArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        if let Some(stored) = self.selection.named(&self.what)?.pop() {
            self.format.print(&self.blocks(&stored)?, false)?;
        }
        Ok(0)
    }

    fn blocks(&self, stored: &Stored) -> Result<Blocks, Failure> {
        let document = &stored.document;
        if self.summary && document.show() != Show::Peers {
            let file = stored.path.display();
            return Err(Failure::Usage(format!(
                "--summary is for sessions of scripts/peers.sh, which {file} is not"
            )));
        }
        if self.summary {
            return Ok(text::over_all(document));
        }
        if self.promises {
            return Ok(text::promises(document));
        }
        let is_compared = document.session.kind == SessionKind::Ab;
        let comparison =
            is_compared.then(|| compare::concluded(&self.selection.results, document)).transpose()?;
        Ok(text::stored(stored, comparison.as_ref()))
    }
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
        let words = [&["sparring-loadgen", "show", "last", "--results", "/nonexistent"], flags].concat();
        let parsed = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let Some(Command::Show(show)) = parsed.command else { return Err("not show".to_owned()) };
        show.blocks(&Stored { path: "r/m/f.json".into(), document }).map_err(|error| error.to_string())
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

//! Outputs of a measured session: a file in the folder of results, `--json`, and the table.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::output::{Output, open_output};
use super::{Failure, print};
use crate::experiment::Fault;
use crate::result::{Document, Store};

/// Stores the session and writes it to the file of `--json`. Then prints `text` and the name of the stored
/// file, and returns that name.
///
/// `to_error` is true where standard output belongs to a document, so that the text goes to standard error.
/// The text also goes there where the session cannot be written. Then the document goes to standard output,
/// so that no result is lost.
pub(super) fn keep(
    document: &Document,
    results: Option<&Path>,
    json: Option<&mut Output>,
    text: &str,
    to_error: bool,
) -> Result<Option<PathBuf>, Failure> {
    // The session is stored before anything is printed, so that the result is kept where the terminal is
    // gone.
    let stored = results.map(|folder| Store::new(folder).save(document)).transpose();
    let has_standard_output = json.as_deref().is_some_and(Output::is_standard);
    let written = json.map_or(Ok(()), |output| output.write(document));
    let written = written.context("--json").map_err(Failure::from);
    let kept = stored.map_err(Failure::from).and_then(|path| written.map(|()| path));
    let path = kept.as_ref().ok().and_then(Option::as_ref);
    let where_stored = path.map(|path| format!("\n\nstored in {}", path.display())).unwrap_or_default();
    let printed = print(&format!("{text}{where_stored}"), to_error || kept.is_err());
    if let Err(failure) = kept {
        if !has_standard_output {
            let written = open_output(Path::new("-"))?.write(document);
            written.with_context(|| format!("{failure}; standard output"))?;
        }
        return Err(failure);
    }
    let at = path.map(|path| format!(" (it is stored in {})", path.display())).unwrap_or_default();
    printed.with_context(|| format!("cannot print the result{at}"))?;
    kept
}

/// Returns the failure to print a result that is stored.
pub(super) fn cannot_print(error: io::Error) -> Failure {
    Failure::Caused(anyhow::Error::new(error).context("cannot print the result"))
}

/// Fails where a server's figures must not be trusted.
pub(super) fn no_fault(fault: Option<Fault>) -> Result<(), Failure> {
    fault.map_or(Ok(()), |fault| Err(Failure::Caused(fault.into())))
}

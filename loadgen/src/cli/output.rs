//! Where a result goes: `--json FILE`, or `-` for standard output.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::result::Document;

/// A place for a document, checked before anything is measured.
#[derive(Debug)]
pub(super) enum Output {
    /// `-`.
    Standard,
    /// A file that is there in whole or not at all: written beside its place and renamed.
    File { path: PathBuf, partial: PathBuf, file: File },
    /// Something else with a name, such as a pipe or a device.
    Special(File),
}

impl Output {
    /// Opens the place; a file that is already there keeps its content until there is a new one.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Standard);
        }
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return File::options().write(true).open(path).map(Self::Special);
        }
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        let partial = path.with_file_name(name);
        let file = File::create_new(&partial)?;
        Ok(Self::File { path: path.to_owned(), partial, file })
    }

    /// Whether standard output belongs to the document alone.
    pub(super) fn is_standard(&self) -> bool {
        matches!(self, Self::Standard)
    }

    /// Writes the document.
    pub(super) fn write(&mut self, document: &Document) -> io::Result<()> {
        let mut json = serde_json::to_vec_pretty(document)?;
        json.push(b'\n');
        match self {
            Self::Standard => io::stdout().lock().write_all(&json),
            Self::Special(file) => file.write_all(&json),
            Self::File { path, partial, file } => {
                file.write_all(&json)?;
                fs::rename(partial, path)
            }
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Self::File { partial, .. } = self {
            // Gone where the document was written, and no use where it was not.
            let _ = fs::remove_file(partial);
        }
    }
}

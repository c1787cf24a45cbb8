//! The folder of results: one immutable file per session, below the machine that measured it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use thiserror::Error;

use super::document::{Document, SCHEMA, Scenario};
use super::migrate::migrate;
use crate::host::regular;

/// `bench-results/`: `<machine id>/<UTC time>-<commit>-<tag or experiment>.json`.
///
/// A file is never written again, so merges of branches never conflict; every index is derived from
/// the files.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

const USUAL_BYTES: usize = 256 << 10;

#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// The file system refused to `read`, `write`, `write to` or `create`.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// The file ends in the middle of its last line.
    #[error("{} is truncated (it ends at line {line}); restore it from version control or delete it", path.display())]
    Truncated { path: PathBuf, line: usize },
    /// The file is not a document of this schema.
    #[error("{} is not a stored result: {source}", path.display())]
    NotAResult { path: PathBuf, source: serde_json::Error },
    /// A newer program wrote it.
    #[error(
        "{} has schema {found}, this program reads up to {SCHEMA}: use the program that wrote it or a newer one",
        path.display()
    )]
    HigherSchema { path: PathBuf, found: u64 },
    /// The document cannot be written as JSON.
    #[error("cannot write the result as JSON: {0}")]
    Encode(#[from] serde_json::Error),
    /// No session has this name.
    #[error(
        "`{what}` is no file, and no stored session of {} has that commit or tag; `sparring-loadgen list` shows what there is",
        root.display()
    )]
    Nothing { what: String, root: PathBuf },
}

impl Store {
    /// The store in the folder `root`, which need not exist yet.
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Checks, before the measurement, that a session of the machine `machine_id` can be stored. It
    /// writes and removes a file of a session's usual size.
    pub(crate) fn check(&self, machine_id: &str) -> Result<(), StoreError> {
        let folder = self.folder(machine_id)?;
        let path = folder.join(format!(".check.{}", std::process::id()));
        let written = write(&path, &[0; USUAL_BYTES]);
        // Removing fails where the file was not created.
        let _ = fs::remove_file(&path);
        written.map_err(io_error("write to", &folder))
    }

    /// Returns the folder of a machine, and creates it where it does not exist.
    fn folder(&self, machine_id: &str) -> Result<PathBuf, StoreError> {
        let folder = self.root.join(machine_id);
        fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
        Ok(folder)
    }

    /// Writes `document` into a new file and says which.
    ///
    /// The file appears whole or not at all: it is written under a temporary name and renamed.
    pub(crate) fn save(&self, document: &Document) -> Result<PathBuf, StoreError> {
        let folder = self.folder(&document.machine.id)?;
        let path = free_path(&folder, &stem(document));
        let json = document.to_json()?;
        // JSON has no NaN and no infinity: such a figure becomes null and would be found out only
        // by the next reader.
        parse(&json, &path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let written =
            write(&temporary, json.as_bytes()).and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|error| {
            // What could not be finished is of no use to anybody; the first error is the one to
            // report.
            let _ = fs::remove_file(&temporary);
            io_error("write", &path)(error)
        })?;
        Ok(path)
    }

    pub(super) fn machines(&self) -> Result<Vec<String>, StoreError> {
        let folders = entries(&self.root)?.into_iter().filter(|path| path.is_dir());
        Ok(folders
            .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect())
    }

    /// The files of the machine `machine_id`, oldest first: their names begin with the time.
    pub(crate) fn sessions(&self, machine_id: &str) -> Result<Vec<PathBuf>, StoreError> {
        let mut files = entries(&self.root.join(machine_id))?;
        files.retain(|path| is_session(path));
        Ok(files)
    }

    pub(crate) fn load(path: &Path) -> Result<Document, StoreError> {
        let text = regular::text(path).map_err(io_error("read", path))?;
        parse(&text, path)
    }
}

pub(crate) fn parse(text: &str, path: &Path) -> Result<Document, StoreError> {
    let not_a_result = |source| StoreError::NotAResult { path: path.to_owned(), source };
    let mut value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| match error.is_eof() {
            true => StoreError::Truncated { path: path.to_owned(), line: error.line() },
            false => not_a_result(error),
        })?;
    // The version first: under a higher one nothing else in the file may mean what this program
    // thinks.
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        None => Err(not_a_result(serde_json::Error::custom("it has no field `schema`"))),
        Some(found) if found > u64::from(SCHEMA) => {
            Err(StoreError::HigherSchema { path: path.to_owned(), found })
        }
        Some(_) => {
            migrate(&mut value);
            let mut document: Document = serde_json::from_value(value).map_err(not_a_result)?;
            document.scenarios.iter_mut().for_each(Scenario::rehash);
            Ok(document)
        }
    }
}

/// Returns what a folder holds, in alphabetical order; nothing where the folder does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("read", folder))?,
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

/// Returns whether the file is a session and not the temporary name of one that is being written.
fn is_session(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    !hidden && path.extension().is_some_and(|extension| extension == "json")
}

fn stem(document: &Document) -> String {
    let session = &document.session;
    let commit = document
        .subject
        .commit
        .as_deref()
        .map_or_else(|| "unknown".to_owned(), |c| name_part(c, 12));
    let label =
        session.tag.as_deref().or(session.suite.as_deref()).map(|label| name_part(label, 40));
    let label = label.filter(|label| !label.is_empty()).unwrap_or_else(|| "session".to_owned());
    format!("{}-{commit}-{label}", session.start.compact())
}

/// `text` as part of a file name: what could be a separator or surprise a shell becomes a hyphen.
fn name_part(text: &str, longest: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
    text.chars().take(longest).map(plain).collect()
}

/// The first name that is free: two sessions of one second must not replace each other.
fn free_path(folder: &Path, stem: &str) -> PathBuf {
    let first = folder.join(format!("{stem}.json"));
    if !first.exists() {
        return first;
    }
    let numbered = (2u32..).map(|n| folder.join(format!("{stem}-{n}.json")));
    numbered.into_iter().find(|path| !path.exists()).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::example;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("sparring-store-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_session_is_stored_below_its_machine_and_reads_back_equal() {
        let folder = Folder::new("equal");
        let store = Store::new(&folder.0);
        let document = example::document();
        let path = store.save(&document).expect("stored");
        assert_eq!(path, folder.0.join("0123456789ab/20260301T093000Z-abcdef012345-quick.json"));
        assert_eq!(Store::load(&path).expect("readable"), document);
        assert_eq!(store.sessions("0123456789ab").expect("readable"), [path]);
        assert!(store.sessions("no such machine").expect("readable").is_empty());
    }

    #[test]
    fn two_sessions_of_one_second_are_two_files_and_nothing_else_is_left() {
        let folder = Folder::new("two");
        let store = Store::new(&folder.0);
        let document = example::document();
        let first = store.save(&document).expect("stored");
        let second = store.save(&document).expect("stored");
        assert_ne!(first, second);
        assert_eq!(
            fs::read_dir(first.parent().expect("has a parent")).expect("readable").count(),
            2
        );
    }

    #[test]
    fn a_file_that_is_being_written_is_no_session() {
        assert!(!is_session(Path::new("m/.20260301T093000Z-a-quick.json.17")));
        assert!(!is_session(Path::new("m/.x.json")));
        assert!(!is_session(Path::new("m/notes.md")));
        assert!(is_session(Path::new("m/x.json")));
    }

    #[test]
    fn a_tag_names_the_file_and_cannot_leave_the_folder() {
        let mut document = example::document();
        document.session.tag = Some("../../etc/pass wd".to_owned());
        assert_eq!(stem(&document), "20260301T093000Z-abcdef012345-..-..-etc-pass-wd");
        document.session.tag = Some(String::new());
        document.subject.commit = None;
        assert_eq!(stem(&document), "20260301T093000Z-unknown-session");
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let mut value = serde_json::to_value(example::document()).expect("encodes");
        value["added_later"] = 1.into();
        value["runs"][0]["server"]["added_later"] = "x".into();
        let back = parse(&value.to_string(), Path::new("f")).expect("readable");
        assert_eq!(back, example::document());
    }

    #[test]
    fn a_higher_schema_is_refused_whatever_else_changed() {
        let text = format!("{{\"schema\": {}, \"runs\": \"renamed\"}}", SCHEMA + 1);
        let error = parse(&text, Path::new("f.json")).expect_err("refused");
        assert!(matches!(error, StoreError::HigherSchema { .. }), "{error}");
        assert!(
            error.to_string().contains("f.json") && error.to_string().contains("newer"),
            "{error}"
        );
    }

    #[test]
    fn a_file_cut_anywhere_is_called_truncated() {
        let text = example::document().to_json().expect("encodes").trim_end().to_owned();
        for end in [0, 1, 100, text.len() / 2, text.len() - 1] {
            let error = parse(&text[..end], Path::new("f.json")).expect_err("refused");
            assert!(matches!(error, StoreError::Truncated { .. }), "cut at {end}: {error}");
        }
    }

    #[test]
    fn something_else_is_refused_with_what_is_wrong() {
        for (text, word) in
            [("[]", "schema"), ("{}", "schema"), ("{\"schema\": 1}", "tool"), ("<html>", "line 1")]
        {
            let error = parse(text, Path::new("f.json")).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_figure_that_json_cannot_hold_is_not_stored() {
        let folder = Folder::new("nan");
        let mut document = example::document();
        document.runs[0].rate_per_s = f64::NAN;
        assert!(matches!(
            Store::new(&folder.0).save(&document),
            Err(StoreError::NotAResult { .. })
        ));
        assert!(Store::new(&folder.0).sessions("0123456789ab").expect("readable").is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_found_before_measuring() {
        let folder = Folder::new("check");
        let store = Store::new(&folder.0);
        store.check("0123456789ab").expect("writable");
        let machine = folder.0.join("0123456789ab");
        assert_eq!(fs::read_dir(&machine).expect("made").count(), 0, "nothing is left");
        // A file has the place of the machine's folder.
        fs::write(folder.0.join("full"), "").expect("written");
        let error = store.check("full").expect_err("refused").to_string();
        assert!(error.starts_with("cannot create ") && error.contains("/full"), "{error}");
        let error = Store::new("/proc").check("self").expect_err("refused").to_string();
        assert!(error.starts_with("cannot write to /proc/self: "), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let store = Store::new("/proc/none");
        let error = store.save(&example::document()).expect_err("refused").to_string();
        assert!(error.starts_with("cannot create /proc/none/"), "{error}");
    }
}

//! Flags that pick stored sessions, and the errors of files that cannot be read.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::result::{Selection, SelectionError, Store, StoreError, Stored};

/// Where results lie, and which of them are meant.
#[derive(Debug, Args)]
pub(super) struct SelectionArguments {
    /// The folder of results.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    pub(super) results: PathBuf,

    /// Only sessions of this machine (an id, or its beginning).
    #[arg(long, value_name = "ID")]
    pub(super) machine: Option<String>,

    /// Only sessions that have this scenario.
    #[arg(long, value_name = "NAME")]
    pub(super) scenario: Option<String>,

    /// Only sessions of this commit (a hash, its beginning, or a name that git knows).
    #[arg(long, value_name = "COMMIT")]
    pub(super) commit: Option<String>,

    /// Only sessions with this tag, or of this experiment.
    #[arg(long, value_name = "NAME")]
    pub(super) tag: Option<String>,
}

impl SelectionArguments {
    pub(super) fn store(&self) -> Store {
        Store::new(&self.results)
    }

    pub(super) fn selection(&self) -> Selection {
        let commit = self.commit.as_ref().map(|name| {
            let is_hash = name.len() >= 4 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            let resolved = if is_hash { None } else { crate::result::commit_of(name) };
            resolved.unwrap_or_else(|| name.to_ascii_lowercase())
        });
        Selection {
            machine: self.machine.clone(),
            scenario: self.scenario.clone(),
            commit,
            tag: self.tag.clone(),
        }
    }

    /// The sessions that `what` names among those that fit, oldest first; at least one.
    pub(super) fn named(&self, what: &str) -> Result<Vec<Stored>, Failure> {
        let mut found = self.store().named(what)?;
        let selection = self.selection();
        found.retain(|stored| selection.fits(&stored.document));
        if found.is_empty() {
            return Err(Failure::Error(format!("no session that `{what}` names fits the other flags")));
        }
        Ok(found)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Caused(error.into())
    }
}

impl From<SelectionError> for Failure {
    fn from(error: SelectionError) -> Self {
        Self::Caused(error.into())
    }
}

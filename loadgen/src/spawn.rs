//! The server that a run starts and ends.

use thiserror::Error;

/// A server to start: `--spawn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spawn {
    /// Program and arguments, `{port}` not yet replaced. Run without a shell.
    pub command: Vec<String>,
    /// The processors it is confined to; empty: wherever it may run.
    pub cpus: Vec<usize>,
}

/// Why a server could not be started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// Not a command line.
    #[error("--spawn `{0}` is no command: it is empty, or a quote is not closed")]
    Command(String),
}

impl Spawn {
    /// Splits `command` into words as a POSIX shell would.
    ///
    /// # Errors
    ///
    /// [`SpawnError::Command`].
    pub fn parse(command: &str) -> Result<Self, SpawnError> {
        match shlex::split(command) {
            Some(words) if !words.is_empty() => Ok(Self { command: words, cpus: Vec::new() }),
            _ => Err(SpawnError::Command(command.to_owned())),
        }
    }
}

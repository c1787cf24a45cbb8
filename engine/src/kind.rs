//! Which engine: the names, and the choice.

use std::fmt;
use std::str::FromStr;

use crate::error::EngineError;

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// Raw io_uring.
    Uring,
    /// The tokio-uring runtime.
    TokioUring,
    /// epoll(7).
    Epoll,
}

/// What was asked for: an engine by name, or whichever works best here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the kernel allows it, epoll otherwise.
    Auto,
    /// This one and no other.
    Named(EngineKind),
}

/// A name that is no engine's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown engine `{0}`: one of auto, uring, tokio-uring, epoll")]
pub struct UnknownEngine(String);

impl EngineKind {
    /// All engines, the default first.
    pub const ALL: [Self; 3] = [Self::Uring, Self::TokioUring, Self::Epoll];

    /// The name on command lines and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::TokioUring => "tokio-uring",
            Self::Epoll => "epoll",
        }
    }

    /// Whether this engine works here: sets up a small instance of what it needs and lets it go again.
    ///
    /// # Errors
    ///
    /// Why not, with the remedy.
    pub fn probe(self) -> Result<(), EngineError> {
        match self {
            Self::Uring => crate::uring::probe(),
            Self::TokioUring => crate::tokio_uring::probe(),
            Self::Epoll => Ok(()),
        }
    }
}

impl EngineChoice {
    /// Settles the choice: the engine, and a sentence that says why this one.
    ///
    /// # Errors
    ///
    /// An engine asked for by name never falls back: when it does not work here, that is the error.
    pub fn settle(self) -> Result<(EngineKind, String), EngineError> {
        match self {
            Self::Named(kind) => kind.probe().map(|()| (kind, "asked for by name".to_owned())),
            Self::Auto => Ok(match EngineKind::Uring.probe() {
                Ok(()) => (EngineKind::Uring, "io_uring is available".to_owned()),
                Err(error) => (EngineKind::Epoll, error.to_string()),
            }),
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        Self::ALL.into_iter().find(|k| k.name() == name).ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

impl FromStr for EngineChoice {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        if name == "auto" { Ok(Self::Auto) } else { name.parse().map(Self::Named) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in EngineKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.name().parse(), Ok(EngineChoice::Named(kind)));
        }
        assert_eq!("auto".parse(), Ok(EngineChoice::Auto));
        assert!("io_uring".parse::<EngineChoice>().unwrap_err().to_string().contains("tokio-uring"));
    }

    #[test]
    fn epoll_always_works() {
        let (kind, _) = EngineChoice::Named(EngineKind::Epoll).settle().expect("epoll");
        assert_eq!(kind, EngineKind::Epoll);
    }
}

//! Names of the engines, and the choice among them.

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

/// A user's choice of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the kernel allows it, epoll otherwise.
    Auto,
    /// This engine and no other.
    Named(EngineKind),
}

/// Error of a name that no engine has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown engine `{0}`: one of auto, uring, tokio-uring, epoll")]
pub struct UnknownEngine(String);

impl EngineKind {
    /// All engines, the default first.
    pub const ALL: [Self; 3] = [Self::Uring, Self::TokioUring, Self::Epoll];

    /// Returns the name on command lines and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::TokioUring => "tokio-uring",
            Self::Epoll => "epoll",
        }
    }

    /// Checks that this engine works on this machine: sets up a small io_uring instance and uses
    /// it. [`EngineKind::Epoll`] needs no check and always works.
    ///
    /// # Errors
    ///
    /// The reason why it does not work, and the remedy.
    pub fn probe(self) -> Result<(), EngineError> {
        match self {
            Self::Uring => crate::uring::probe(),
            #[cfg(feature = "tokio-uring")]
            Self::TokioUring => crate::tokio_uring::probe(),
            #[cfg(not(feature = "tokio-uring"))]
            Self::TokioUring => Err(EngineError::NotBuilt { engine: self.name() }),
            Self::Epoll => Ok(()),
        }
    }
}

impl EngineChoice {
    /// Resolves the choice to an engine and the reason for it, in words.
    ///
    /// # Errors
    ///
    /// The reason why an engine that was asked for by name does not work here: it never falls back.
    pub fn resolve(self) -> Result<(EngineKind, String), EngineError> {
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
        Self::ALL
            .into_iter()
            .find(|k| k.name() == name)
            .ok_or_else(|| UnknownEngine(name.to_owned()))
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
        assert!(
            "io_uring".parse::<EngineChoice>().unwrap_err().to_string().contains("tokio-uring")
        );
    }

    #[cfg(not(feature = "tokio-uring"))]
    #[test]
    fn an_engine_that_was_not_built_is_named() {
        let error = EngineChoice::Named(EngineKind::TokioUring).resolve().expect_err("not built");
        assert!(error.to_string().contains("built without the engine tokio-uring"), "{error}");
    }

    #[test]
    fn epoll_always_works() {
        let (kind, _) = EngineChoice::Named(EngineKind::Epoll).resolve().expect("epoll");
        assert_eq!(kind, EngineKind::Epoll);
    }
}

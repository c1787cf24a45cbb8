//! What every session is given, and what this machine offers it.

use std::path::PathBuf;

use engine::EngineKind;
use engine::socket::Congestion;

use super::SuiteError;
use super::places::Places;
use super::session::Probe;
use crate::target::subject::is_commit;

/// What every session is given, whichever its suite.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The executable of our own server.
    pub server: PathBuf,
    /// The folder of results.
    pub results: PathBuf,
    /// What our own server was built from; where it is not given, the server is asked.
    pub checkout: Option<Checkout>,
    /// A name for the session.
    pub tag: Option<String>,
    /// The engine of the generator; where there is only our own server also its engine, but for scenarios about one. `None`
    /// is `uring`, or `epoll` on a host that refuses io_uring, which the result then says.
    pub engine: Option<EngineKind>,
    /// Congestion control of the generator and of our own server; `None`: the kernel's default.
    pub congestion: Option<Congestion>,
}

/// The state of the source a server was built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// The commit.
    pub commit: String,
    /// Whether there were changes beside it.
    pub dirty: bool,
}

impl Setup {
    /// Checks what can be checked before anything runs.
    pub(super) fn check(&self) -> Result<(), SuiteError> {
        let usage =
            |flag, value: &str, reason| Err(SuiteError::Usage { flag, value: value.to_owned(), reason });
        if let Some(tag) = &self.tag {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if tag.is_empty() || tag.len() > 40 || !tag.chars().all(plain) {
                return usage("--tag", tag, "must be 1 to 40 letters, digits, dots, hyphens or underscores");
            }
        }
        match &self.checkout {
            Some(checkout) if !is_commit(&checkout.commit) => {
                usage("--commit", &checkout.commit, "must be a commit's hash, 7 to 64 hexadecimal digits")
            }
            _ => Ok(()),
        }
    }

    /// Whether our own server is there.
    pub(super) fn check_server(&self) -> Result<(), SuiteError> {
        if self.server.is_file() { Ok(()) } else { Err(SuiteError::NoServer(self.server.clone())) }
    }
}

/// What this machine offers a session.
pub(super) struct Ground {
    /// The session's engine.
    pub(super) engine: EngineKind,
    /// Where server and generator run; `None`: nothing is pinned.
    pub(super) places: Option<Places>,
    /// What is not as it should be.
    pub(super) marks: Vec<String>,
}

impl Ground {
    /// Settles the engine and the processors.
    pub(super) fn settle(setup: &Setup, probe: Probe<'_>) -> Result<Self, SuiteError> {
        let mut marks = Vec::new();
        let engine = match (setup.engine, probe(setup.engine.unwrap_or(EngineKind::Uring))) {
            (asked, Ok(())) => asked.unwrap_or(EngineKind::Uring),
            (Some(_), Err(error)) => return Err(error.into()),
            (None, Err(error)) => {
                marks.push(format!("io_uring is not available, this ran on epoll. {error}"));
                EngineKind::Epoll
            }
        };
        let places = Places::here();
        marks.extend(places.as_ref().and_then(|places| places.mark.clone()));
        Ok(Self { engine, places, marks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> Setup {
        Setup {
            server: std::env::current_exe().expect("a test has a path"),
            results: PathBuf::from("unused"),
            checkout: None,
            tag: None,
            engine: None,
            congestion: None,
        }
    }

    #[test]
    fn unusable_flags_are_named_and_end_with_code_2() {
        assert!(setup().check().is_ok() && setup().check_server().is_ok());
        for tag in ["", "a b", "../x", &"x".repeat(41)] {
            let error = Setup { tag: Some(tag.to_owned()), ..setup() }.check().expect_err("refused");
            assert!(error.to_string().starts_with("--tag"), "{error}");
        }
        let checkout = Some(Checkout { commit: "main".into(), dirty: false });
        let error = Setup { checkout, ..setup() }.check().expect_err("refused");
        assert!(error.to_string().starts_with("--commit `main`"), "{error}");
        assert!(matches!(error, SuiteError::Usage { .. }));
        let error =
            Setup { server: "/no/such/server".into(), ..setup() }.check_server().expect_err("refused");
        let text = error.to_string();
        assert!(text.contains("/no/such/server") && text.contains("cargo build"), "{text}");
    }
}

//! The sides of an interleaved session: what serves, and by which name.

use std::str::FromStr;

use engine::EngineKind;

use super::scenarios::Spec;
use crate::result::Conformance;
use crate::target::spawn::Spawn;
use crate::target::url::PORT_PLACEHOLDER;

/// One side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// In tables and results.
    pub name: String,
    /// What serves.
    pub server: Served,
    /// The version of somebody else's server.
    pub version: Option<String>,
    /// What the conformance battery says of it.
    pub conformance: Option<Conformance>,
}

/// What serves an arm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// Our own server.
    Own {
        /// On this engine.
        engine: EngineKind,
        /// Never blocking while it is idle (`--spin always`): for scenarios that are about latency.
        spin: bool,
    },
    /// Somebody's WebSocket echo server: the words of its command, `{port}` for the port.
    Command(Vec<String>),
    /// Nothing: a server that cannot be had here, and why. It is named in the result, so that nobody misses it unawares.
    Absent(String),
}

/// An `--arm` that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArmError {
    /// Nothing stands behind a name.
    #[error("`{0}` is not NAME=COMMAND, as in 'ws=node server.js {{port}}'")]
    Form(String),
    /// Not the counts of the battery.
    #[error("`{0}` is not NAME=OK,LAX,WRONG,BROKEN,SKIPPED, as in 'ws=259,53,14,0,26'")]
    Counts(String),
    /// A name that does not fit tables.
    #[error("the name `{0}` must be 1 to 16 letters, digits, dots, hyphens or underscores")]
    Name(String),
    /// The command cannot be split into words.
    #[error("the command of arm `{0}` cannot be split into words: a quote is open, or there is nothing")]
    Words(String),
    /// The command does not say where the port goes.
    #[error("the command of arm `{0}` needs {{port}} where the server's port goes")]
    Port(String),
}

impl Arm {
    /// Our own server on `engine`.
    #[must_use]
    pub fn own(engine: EngineKind, spin: bool) -> Self {
        let name = if spin { format!("{engine}-spin") } else { engine.name().to_owned() };
        Self::new(name, Served::Own { engine, spin })
    }

    fn new(name: String, server: Served) -> Self {
        Self { name, server, version: None, conformance: None }
    }

    /// `NAME=WHY`: a server that cannot be had here.
    ///
    /// # Errors
    ///
    /// [`ArmError::Form`], [`ArmError::Name`].
    pub fn absent(text: &str) -> Result<Self, ArmError> {
        let (name, why) = named(text)?;
        Ok(Self::new(name, Served::Absent(why.to_owned())))
    }

    /// Our own server on every engine; the first is what the others are set against.
    #[must_use]
    pub fn engines() -> Vec<Self> {
        let all = [EngineKind::Uring, EngineKind::Epoll, EngineKind::TokioUring];
        let spinning = Self::own(EngineKind::Uring, true);
        all.into_iter().map(|engine| Self::own(engine, false)).chain([spinning]).collect()
    }

    /// Whether it takes part in a scenario: a spinning server only where latency is the question, somebody else's only
    /// where WebSocket is spoken.
    #[must_use]
    pub fn takes(&self, spec: &Spec) -> bool {
        match self.server {
            Served::Own { spin, .. } => !spin || spec.is_about_latency(),
            Served::Command(_) => spec.load.transport.is_websocket(),
            Served::Absent(_) => false,
        }
    }
}

impl FromStr for Arm {
    type Err = ArmError;

    /// `NAME=COMMAND`; the command is split as a shell would.
    fn from_str(text: &str) -> Result<Self, ArmError> {
        let (name, command) = named(text)?;
        let Ok(spawn) = Spawn::parse(command) else { return Err(ArmError::Words(name)) };
        if !spawn.command.iter().any(|word| word.contains(PORT_PLACEHOLDER)) {
            return Err(ArmError::Port(name));
        }
        Ok(Self::new(name, Served::Command(spawn.command)))
    }
}

/// The name of an arm, and what is said of it behind the `=`.
///
/// # Errors
///
/// [`ArmError::Form`], [`ArmError::Name`].
pub fn named(text: &str) -> Result<(String, &str), ArmError> {
    let (name, said) = text.split_once('=').ok_or_else(|| ArmError::Form(text.to_owned()))?;
    Ok((arm_name(name)?, said))
}

/// Checks a name of an arm.
///
/// # Errors
///
/// Fails with [`ArmError::Name`] where it does not fit tables.
pub fn arm_name(name: &str) -> Result<String, ArmError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !(1..=16).contains(&name.len()) || !name.chars().all(plain) {
        return Err(ArmError::Name(name.to_owned()));
    }
    Ok(name.to_owned())
}

/// `NAME=OK,LAX,WRONG,BROKEN,SKIPPED`: what the conformance battery counted.
///
/// # Errors
///
/// [`ArmError::Form`], [`ArmError::Name`], [`ArmError::Counts`].
pub fn counts(text: &str) -> Result<(String, Conformance), ArmError> {
    let (name, said) = named(text)?;
    let numbers: Result<Vec<u32>, _> = said.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[ok, lax, wrong, broken, skipped]) => Ok((name, Conformance { ok, lax, wrong, broken, skipped })),
        _ => Err(ArmError::Counts(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_is_a_name_and_a_command() {
        let arm: Arm = "ws-8=node 'my server.js' --port={port}".parse().expect("an arm");
        assert_eq!(arm.name, "ws-8");
        let Served::Command(words) = arm.server else { panic!("a command") };
        assert_eq!(words, ["node", "my server.js", "--port={port}"]);
    }

    #[test]
    fn what_is_no_arm_says_what_is_missing() {
        let error = |text: &str| text.parse::<Arm>().expect_err("no arm").to_string();
        assert!(error("node server.js {port}").contains("NAME=COMMAND"));
        assert!(error("a b=node {port}").contains("`a b`"));
        assert!(error("=node {port}").contains("1 to 16"));
        assert!(error("ws=node 'server.js {port}").contains("words"));
        assert!(error("ws=").contains("words"));
        assert!(error("ws=node server.js").contains("{port}"));
    }

    #[test]
    fn a_server_that_cannot_be_had_has_a_reason_and_takes_part_in_nothing() {
        let arm = Arm::absent("bun=npm is not installed: sudo apt-get install npm").expect("an arm");
        assert_eq!(arm.server, Served::Absent("npm is not installed: sudo apt-get install npm".to_owned()));
        assert!(Spec::peers().iter().all(|spec| !arm.takes(spec)));
        assert!(Arm::absent("bun").is_err() && Arm::absent("b u n=x").is_err());
    }

    #[test]
    fn the_battery_counts_five_things() {
        let counted = Conformance { ok: 259, lax: 53, wrong: 14, broken: 0, skipped: 26 };
        assert_eq!(counts("ws=259,53,14,0,26"), Ok(("ws".to_owned(), counted)));
        for text in ["ws=259,53,14,0", "ws=1,2,3,4,5,6", "ws=1,2,3,4,x", "ws=-1,0,0,0,0"] {
            assert_eq!(counts(text), Err(ArmError::Counts(text.to_owned())));
        }
    }

    #[test]
    fn the_engines_are_named_by_themselves() {
        let names: Vec<String> = Arm::engines().into_iter().map(|arm| arm.name).collect();
        assert_eq!(names, ["uring", "epoll", "tokio-uring", "uring-spin"]);
    }
}

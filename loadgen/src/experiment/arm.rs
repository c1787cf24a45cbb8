//! The arms of an experiment: which server serves, and under which name.

use std::str::FromStr;

use clap::ValueEnum;
use engine::EngineKind;
use serde::{Deserialize, Serialize};

use super::scenario::{Scenario, engine_name};
use crate::result::Conformance;
use crate::run::Wait;
use crate::target::spawn::Spawn;
use crate::target::url::PORT_PLACEHOLDER;

/// Longest name of an arm: it is a column of tables.
const MAX_NAME: usize = 16;

/// One configuration under comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Arm {
    /// Name in tables and results.
    pub(crate) name: String,
    /// Words of the command that starts the server, with `{port}` for its port. `None`: our own
    /// server.
    pub(crate) command: Option<Vec<String>>,
    /// Reason why the server cannot be had here. The arm is named in the result and has no runs.
    pub(crate) absent: Option<String>,
    /// Engine of our own server. `None`: the scenario's, otherwise the session's.
    #[serde(serialize_with = "engine_name")]
    pub(crate) engine: Option<EngineKind>,
    /// Further flags of our own server.
    pub(crate) flags: Vec<String>,
    /// Scenarios in which it takes part.
    pub(crate) takes: Takes,
    /// The way in which the generator waits against this arm. `None`: as in the other arms.
    pub(crate) wait: Option<Wait>,
    /// CPU time that our own server burns for each message, as a share of what a message costs the
    /// first arm: a server that is slower by a known amount. A short run before the first round
    /// measures that cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) burn_share: Option<f64>,
    /// Version of somebody else's server, for the result.
    #[serde(skip)]
    pub(crate) version: Option<String>,
    /// Commit of the server, for the result. `None`: what our own server says.
    #[serde(skip)]
    pub(crate) commit: Option<String>,
    /// Counts of the conformance battery, for the result.
    #[serde(skip)]
    pub(crate) conformance: Option<Conformance>,
}

/// Scenarios in which an arm takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Takes {
    /// All that the server can serve.
    #[default]
    All,
    /// Scenarios about the time of a message.
    Latency,
}

/// An arm that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ArmError {
    /// The text has no name.
    #[error("`{0}` is not NAME=COMMAND, as in 'ws=node server.js {{port}}'")]
    Form(String),
    /// The text has no counts of the battery.
    #[error("`{0}` is not NAME=OK,LAX,WRONG,BROKEN,SKIPPED, as in 'ws=259,53,14,0,26'")]
    Counts(String),
    /// The name does not fit tables.
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
    /// Returns an arm of our own server.
    pub(crate) fn own(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Returns true for our own server.
    pub(crate) fn is_own(&self) -> bool {
        self.command.is_none() && self.absent.is_none()
    }

    /// Reads `NAME=WHY`: a server that cannot be had here.
    pub(crate) fn absent(text: &str) -> Result<Self, ArmError> {
        let (name, why) = named(text)?;
        Ok(Self { absent: Some(why.to_owned()), ..Self::own(name) })
    }

    /// Returns an arm of the server that `command` starts, split into words as a shell would.
    pub(crate) fn of_command(name: String, command: &str) -> Result<Self, ArmError> {
        let Ok(spawn) = Spawn::parse(command) else { return Err(ArmError::Words(name)) };
        if !spawn.command.iter().any(|word| word.contains(PORT_PLACEHOLDER)) {
            return Err(ArmError::Port(name));
        }
        Ok(Self { command: Some(spawn.command), ..Self::own(name) })
    }

    /// Returns true where it takes part in a scenario. Raw bytes are for our own server alone.
    pub(crate) fn takes(&self, scenario: &Scenario) -> bool {
        let can_serve = self.is_own() || scenario.load.transport.is_websocket();
        self.absent.is_none() && can_serve && (self.takes == Takes::All || scenario.is_about_latency())
    }
}

impl FromStr for Arm {
    type Err = ArmError;

    /// `NAME=COMMAND`; the command is split as a shell would.
    fn from_str(text: &str) -> Result<Self, ArmError> {
        let (name, command) = named(text)?;
        Self::of_command(name, command)
    }
}

/// Returns the name of an arm and the text after the `=`.
pub(crate) fn named(text: &str) -> Result<(String, &str), ArmError> {
    let (name, said) = text.split_once('=').ok_or_else(|| ArmError::Form(text.to_owned()))?;
    Ok((arm_name(name)?, said))
}

/// Checks a name of an arm.
pub(crate) fn arm_name(name: &str) -> Result<String, ArmError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(is_plain) {
        return Err(ArmError::Name(name.to_owned()));
    }
    Ok(name.to_owned())
}

/// Reads `NAME=OK,LAX,WRONG,BROKEN,SKIPPED`: counts of the conformance battery.
pub(crate) fn counts(text: &str) -> Result<(String, Conformance), ArmError> {
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
    use crate::load::{Load, Transport};

    #[test]
    fn an_arm_is_a_name_and_a_command() {
        let arm: Arm = "ws-8=node 'my server.js' --port={port}".parse().expect("an arm");
        assert_eq!(arm.name, "ws-8");
        assert_eq!(arm.command.expect("a command"), ["node", "my server.js", "--port={port}"]);
    }

    #[test]
    fn a_text_that_is_not_an_arm_says_what_is_missing() {
        let error = |text: &str| text.parse::<Arm>().expect_err("no arm").to_string();
        assert!(error("node server.js {port}").contains("NAME=COMMAND"));
        assert!(error("a b=node {port}").contains("`a b`"));
        assert!(error("=node {port}").contains("1 to 16"));
        assert!(error("ws=node 'server.js {port}").contains("words"));
        assert!(error("ws=").contains("words"));
        assert!(error("ws=node server.js").contains("{port}"));
    }

    #[test]
    fn an_absent_server_has_a_reason_and_takes_no_scenario() {
        let arm = Arm::absent("bun=npm is not installed: sudo apt-get install npm").expect("an arm");
        assert_eq!(arm.absent.as_deref(), Some("npm is not installed: sudo apt-get install npm"));
        assert!(!arm.takes(&Scenario::new("echo", Load::default())));
        assert!(Arm::absent("bun").is_err() && Arm::absent("b u n=x").is_err());
    }

    #[test]
    fn raw_bytes_are_for_our_own_server() {
        let tcp = Scenario::new("tcp", Load { transport: Transport::Tcp, ..Load::default() });
        let theirs: Arm = "ws=node {port}".parse().expect("an arm");
        assert!(Arm::own("ours").takes(&tcp) && !theirs.takes(&tcp));
    }

    #[test]
    fn the_battery_counts_five_things() {
        let counted = Conformance { ok: 259, lax: 53, wrong: 14, broken: 0, skipped: 26 };
        assert_eq!(counts("ws=259,53,14,0,26"), Ok(("ws".to_owned(), counted)));
        for text in ["ws=259,53,14,0", "ws=1,2,3,4,5,6", "ws=1,2,3,4,x", "ws=-1,0,0,0,0"] {
            assert_eq!(counts(text), Err(ArmError::Counts(text.to_owned())));
        }
    }
}

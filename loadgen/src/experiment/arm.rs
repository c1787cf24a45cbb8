//! The two sides of an experiment's table: which server serves, and which load.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use engine::EngineKind;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::load::Load;
use crate::result::Conformance;
use crate::run::Wait;
use crate::target::spawn::{Role, SERVER_PLACEHOLDER, Spawn};
use crate::target::url::PORT_PLACEHOLDER;

/// Longest name of an arm: it is a column of tables.
const MAX_NAME: usize = 16;
/// Descriptors that a process needs beside its connections: listeners, rings, files, standard
/// streams.
const SPARE_DESCRIPTORS: u64 = 256;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Arm {
    pub(crate) name: String,
    /// Words of the command that starts the server, with `{port}` for its port. `None`: our own
    /// server.
    #[serde(default, deserialize_with = "words")]
    pub(crate) command: Option<Vec<String>>,
    /// Words of the command that starts a proxy before the server, with `{port}` for its port and
    /// `{server}` for the server's address.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub(crate) via: Option<Vec<String>>,
    /// Reason why the server cannot be had here. The arm is named in the result and has no runs.
    pub(crate) absent: Option<String>,
    /// Engine of our own server. `None`: the scenario's, otherwise the session's.
    #[serde(default, serialize_with = "engine_name", deserialize_with = "engine")]
    pub(crate) engine: Option<EngineKind>,
    #[serde(default)]
    pub(crate) flags: Vec<String>,
    #[serde(default)]
    pub(crate) takes: ArmScenarios,
    /// The way in which the generator waits against this arm. `None`: as in the other arms.
    pub(crate) wait: Option<Wait>,
    /// CPU time that our own server burns for each message, as a share of what a message costs the
    /// first arm: a server that is slower by a known amount. A short run before the first round
    /// measures that cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) burn_share: Option<f64>,
    /// Working directory of the server; `None`: that of this program.
    #[serde(skip)]
    pub(crate) directory: Option<PathBuf>,
    /// Version of another project's server, for the result.
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
pub(crate) enum ArmScenarios {
    /// All that the server can serve.
    #[default]
    All,
    /// Scenarios about the time of a message.
    Latency,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ArmError {
    #[error("`{0}` is not NAME=COMMAND, as in 'ws=node server.js {{port}}'")]
    Form(String),
    #[error("`{0}` is not NAME=OK,LAX,WRONG,BROKEN,SKIPPED, as in 'ws=259,53,14,0,26'")]
    Counts(String),
    #[error("the name `{0}` must be 1 to 16 letters, digits, dots, hyphens or underscores")]
    Name(String),
    #[error(
        "the command of arm `{0}` cannot be split into words: a quote is open, or there is nothing"
    )]
    Words(String),
    #[error("the command of arm `{0}` needs {{port}} where the server's port goes")]
    Port(String),
    #[error(
        "the proxy of arm `{0}` (via) needs {{port}} where its port goes, and {{server}} where HOST:PORT of the server goes"
    )]
    Via(String),
    #[error("arm `{0}`{1}")]
    Keys(String, &'static str),
}

impl Arm {
    pub(crate) fn own(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub(crate) fn is_own(&self) -> bool {
        self.command.is_none() && self.absent.is_none()
    }

    /// Reads `NAME=WHY`: a server that cannot be had here.
    pub(crate) fn absent(text: &str) -> Result<Self, ArmError> {
        let (name, why) = named(text)?;
        Ok(Self { absent: Some(why), ..Self::own(name) })
    }

    /// Returns the arm if it can be used.
    pub(super) fn checked(self) -> Result<Self, ArmError> {
        let name = arm_name(&self.name)?;
        let has_command = self.command.is_some();
        let is_ours = self.engine.is_some() || !self.flags.is_empty() || self.burn_share.is_some();
        if self.command.as_ref().is_some_and(Vec::is_empty) {
            Err(ArmError::Words(name))
        } else if has_command
            && self.command.iter().flatten().all(|word| !word.contains(PORT_PLACEHOLDER))
        {
            Err(ArmError::Port(name))
        } else if self.via.as_ref().is_some_and(|words| {
            let has = |text: &str| words.iter().any(|word| word.contains(text));
            !has(PORT_PLACEHOLDER) || !has(SERVER_PLACEHOLDER)
        }) {
            Err(ArmError::Via(name))
        } else if has_command && self.absent.is_some() {
            Err(ArmError::Keys(name, " has a command and `absent`: give one"))
        } else if self.burn_share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            Err(ArmError::Keys(name, ": burn_share is not valid: expected more than 0, at most 1"))
        } else if has_command && is_ours {
            Err(ArmError::Keys(
                name,
                " has a command: `engine`, `flags` and `burn_share` are for our own server",
            ))
        } else {
            Ok(self)
        }
    }

    /// Returns true if it takes part in a scenario. Raw bytes are for our own server alone.
    pub(crate) fn takes(&self, scenario: &Scenario) -> bool {
        let can_serve = self.is_own() || scenario.load.transport.is_websocket();
        self.absent.is_none()
            && can_serve
            && (self.takes == ArmScenarios::All || scenario.is_about_latency())
    }
}

impl FromStr for Arm {
    type Err = ArmError;

    /// `NAME=COMMAND`; the command is split as a shell would.
    fn from_str(text: &str) -> Result<Self, ArmError> {
        let (name, command) = named(text)?;
        Self { command: Some(split(&command)), ..Self::own(name) }.checked()
    }
}

fn split(command: &str) -> Vec<String> {
    Spawn::parse(Role::Server, command).map(|spawn| spawn.command).unwrap_or_default()
}

fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(|command| split(&command)))
}

fn engine<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<EngineKind>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| name.parse().map_err(D::Error::custom)).transpose()
}

fn engine_name<S: Serializer>(
    engine: &Option<EngineKind>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(engine.map_or("", EngineKind::name))
}

/// Returns the name of an arm and the text after the `=`.
pub(crate) fn named(text: &str) -> Result<(String, String), ArmError> {
    let (name, said) = text.split_once('=').ok_or_else(|| ArmError::Form(text.to_owned()))?;
    Ok((arm_name(name)?, said.to_owned()))
}

/// Checks that a name of an arm fits tables.
pub(crate) fn arm_name(name: &str) -> Result<String, ArmError> {
    is_name(name, MAX_NAME).then(|| name.to_owned()).ok_or_else(|| ArmError::Name(name.to_owned()))
}

/// Returns true for 1 to `longest` letters, digits, dots, hyphens or underscores.
pub(super) fn is_name(text: &str, longest: usize) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=longest).contains(&text.len()) && text.chars().all(is_plain)
}

/// Reads `NAME=OK,LAX,WRONG,BROKEN,SKIPPED`: counts of the conformance battery.
pub(crate) fn counts(text: &str) -> Result<(String, Conformance), ArmError> {
    let (name, said) = named(text)?;
    let numbers: Result<Vec<u32>, _> = said.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[ok, lax, wrong, broken, skipped]) => {
            Ok((name, Conformance { ok, lax, wrong, broken, skipped }))
        }
        _ => Err(ArmError::Counts(text.to_owned())),
    }
}

/// A load with a name, in an experiment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Scenario {
    /// Its name in the catalogue, or the name that the caller gave it.
    pub(crate) name: String,
    pub(crate) load: Load,
    /// Engine of our own server, where the scenario is about one; otherwise the session's.
    #[serde(serialize_with = "engine_name", skip_serializing_if = "Option::is_none")]
    pub(crate) engine: Option<EngineKind>,
    /// Share of the first arm's capacity that becomes the rate of the load. A short run before the
    /// first round measures the capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) share_of_capacity: Option<f64>,
}

impl Scenario {
    /// Returns a scenario that is about no engine and has the rate of its load.
    pub(crate) fn new(name: impl Into<String>, load: Load) -> Self {
        Self { name: name.into(), load, engine: None, share_of_capacity: None }
    }

    /// Returns the number of descriptors that server and generator need for it, each.
    pub(crate) fn descriptors(&self) -> u64 {
        self.load.all_connections() + SPARE_DESCRIPTORS
    }

    /// Returns true if its figure is the time of a message, and not the capacity of a server.
    pub(crate) fn is_about_latency(&self) -> bool {
        self.load.connections == 1 || self.load.is_open_loop()
    }

    /// Returns the name in results: `echo`, or `echo@epoll` where the scenario is about an engine.
    pub(crate) fn full_name(&self) -> String {
        match self.engine {
            Some(engine) => format!("{}@{}", self.name, engine.name()),
            None => self.name.clone(),
        }
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
        let arm =
            Arm::absent("bun=npm is not installed: sudo apt-get install npm").expect("an arm");
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

//! Experiments as files, and those that come with the program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::EngineKind;
use serde::Deserialize;
use thiserror::Error;

use super::{Arm, ArmError, Experiment, Scenario, Takes, arm_name};
use crate::compare::Promise;
use crate::load::catalogue::{self, nearest};
use crate::load::{Catalogue, span};
use crate::result::Show;
use crate::run::Wait;

/// The experiments that come with the program, by name.
const BUILT_IN: [(&str, &str); 6] = [
    ("smoke", include_str!("built_in/smoke.toml")),
    ("quick", include_str!("built_in/quick.toml")),
    ("full", include_str!("built_in/full.toml")),
    ("engines", include_str!("built_in/engines.toml")),
    ("arms", include_str!("built_in/arms.toml")),
    ("peers", include_str!("built_in/peers.toml")),
];

/// Keys of an experiment file, of an arm and of a promise, for a hint where one is mistyped.
const KEYS: [&str; 25] = [
    "name",
    "description",
    "rounds",
    "warmup",
    "measure",
    "show",
    "try_echoes",
    "spin",
    "scenarios",
    "arm",
    "scenario",
    "promise",
    "command",
    "absent",
    "engine",
    "flags",
    "takes",
    "wait",
    "burn_share",
    "share_of_capacity",
    "metric",
    "over",
    "at_most",
    "aliases",
    "load",
];

/// Reason why an experiment cannot be used.
#[derive(Debug, Error)]
pub enum ExperimentError {
    /// No experiment and no file has this name.
    #[error("experiment `{name}` is unknown{}: expected {}, or the path of a file",
            nearest.as_ref().map(|nearest| format!(", did you mean `{nearest}`")).unwrap_or_default(),
            built_in_names())]
    Unknown {
        /// The name that was given.
        name: String,
        /// The most similar name, if one is similar.
        nearest: Option<String>,
    },
    /// The file cannot be read.
    #[error("cannot read the experiment {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The file is not an experiment.
    #[error("the experiment {file} is not valid: {cause}")]
    Invalid {
        /// The file, or the name of a built-in experiment.
        file: String,
        /// The fault, with its line where there is one.
        cause: String,
    },
}

/// Returns the names of the experiments that come with the program, for messages.
#[must_use]
pub fn built_in_names() -> String {
    BUILT_IN.map(|(name, _)| name).join(", ")
}

/// Returns the experiments that come with the program.
///
/// # Panics
///
/// Never: a test reads all of them.
#[must_use]
pub fn built_in() -> Vec<Experiment> {
    let read = |(name, text): (&str, &str)| {
        let experiment = Experiment::parse(text, name, Catalogue::built_in());
        experiment.unwrap_or_else(|error| unreachable!("a test reads it: {error}"))
    };
    BUILT_IN.map(read).into()
}

/// The contents of an experiment file.
#[derive(Deserialize)]
struct File {
    name: String,
    description: String,
    #[serde(default = "one")]
    rounds: u32,
    #[serde(default, with = "span::option")]
    warmup: Option<Duration>,
    #[serde(default, with = "span::option")]
    measure: Option<Duration>,
    #[serde(default)]
    show: Show,
    #[serde(default)]
    try_echoes: bool,
    #[serde(default)]
    spin: bool,
    scenarios: Vec<Entry>,
    #[serde(default, rename = "arm")]
    arms: Vec<ArmEntry>,
    /// Scenarios of this file alone, as in a catalogue.
    #[serde(default, rename = "scenario")]
    own_scenarios: Vec<catalogue::Scenario>,
    #[serde(default, rename = "promise")]
    promises: Vec<Promise>,
}

fn one() -> u32 {
    1
}

/// A scenario to run: `echo`, `echo@epoll` for one about an engine, or a share of the capacity.
#[derive(Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "expected the name of a scenario, or a table of `scenario`, `share_of_capacity` and `name`"
)]
enum Entry {
    Name(String),
    Share { scenario: String, name: Option<String>, share_of_capacity: f64 },
}

#[derive(Deserialize)]
struct ArmEntry {
    name: String,
    command: Option<String>,
    absent: Option<String>,
    engine: Option<String>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    takes: Takes,
    wait: Option<Wait>,
    burn_share: Option<f64>,
}

impl Experiment {
    /// Reads the built-in experiment of this name, or the file at this path. Scenarios come from
    /// `catalogue`.
    ///
    /// # Errors
    ///
    /// Fails where there is neither, or where the file has a key, a scenario or an arm that cannot
    /// be used.
    pub fn read(name: &str, catalogue: &Catalogue) -> Result<Self, ExperimentError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(text, name, catalogue);
        }
        let path = Path::new(name);
        if !name.contains('/') && !name.ends_with(".toml") && !path.exists() {
            let nearest = nearest(name, BUILT_IN.iter().map(|(name, _)| *name));
            return Err(ExperimentError::Unknown { name: name.to_owned(), nearest });
        }
        let unreadable = |source| ExperimentError::Unreadable { path: path.to_owned(), source };
        let text = crate::host::regular::text(path).map_err(unreadable)?;
        Self::parse(&text, name, catalogue)
    }

    fn parse(text: &str, file: &str, catalogue: &Catalogue) -> Result<Self, ExperimentError> {
        let invalid = |cause: String| ExperimentError::Invalid { file: file.to_owned(), cause };
        let mut unknown = Vec::new();
        let document = toml::Deserializer::parse(text).map_err(|error| invalid(error.to_string()))?;
        let read: File = serde_ignored::deserialize(document, |key| unknown.push(key.to_string()))
            .map_err(|error| invalid(error.to_string()))?;
        if let Some(path) = unknown.first() {
            let key = path.rsplit('.').next().unwrap_or(path);
            let hint = nearest(key, KEYS.into_iter());
            let hint = hint.map(|nearest| format!(", did you mean `{nearest}`")).unwrap_or_default();
            return Err(invalid(format!("the key `{path}` is unknown{hint}")));
        }
        let catalogue =
            catalogue.clone().joined_with(read.own_scenarios).map_err(|fault| invalid(fault.to_string()))?;
        let mut arms = Vec::new();
        for entry in read.arms {
            arms.push(entry.arm().map_err(|error| invalid(error.to_string()))?);
        }
        if arms.is_empty() && read.show.is_of_our_server() {
            arms.push(Arm::own(crate::compare::sides::SIDES[0]));
        }
        let mut scenarios = Vec::new();
        for entry in read.scenarios {
            let mut scenario = entry.scenario(&catalogue).map_err(&invalid)?;
            scenario.load.warmup = read.warmup.unwrap_or(scenario.load.warmup);
            scenario.load.measure = read.measure.unwrap_or(scenario.load.measure);
            scenarios.push(scenario);
        }
        let experiment = Self {
            name: read.name,
            description: read.description,
            arms,
            scenarios,
            rounds: read.rounds,
            show: read.show,
            try_echoes: read.try_echoes,
            spin: read.spin,
            promises: read.promises,
        };
        experiment.check().map_err(invalid)?;
        Ok(experiment)
    }

    /// Checks that names are unique and that promises are about runs of the experiment.
    ///
    /// # Errors
    ///
    /// Fails with a sentence about the first fault.
    pub fn check(&self) -> Result<(), String> {
        let twice = |names: &[String]| {
            (1..names.len()).find(|&at| names[..at].contains(&names[at])).map(|at| names[at].clone())
        };
        let arms: Vec<String> = self.arms.iter().map(|arm| arm.name.clone()).collect();
        let scenarios: Vec<String> = self.scenarios.iter().map(Scenario::full_name).collect();
        if self.rounds == 0 {
            return Err("`rounds` is 0: expected at least 1".to_owned());
        }
        if self.is_of_pairs() && self.arms.len() != 2 {
            return Err(format!("a verdict and noise are about two arms, not {}", self.arms.len()));
        }
        let of_engine = self.scenarios.iter().find(|scenario| scenario.engine.is_some());
        if let (Some(scenario), true) = (of_engine, self.arms.iter().any(|arm| arm.engine.is_some())) {
            let name = scenario.full_name();
            return Err(format!(
                "the scenario `{name}` names an engine, and an arm names one, too: give one"
            ));
        }
        if let Some(name) = twice(&arms) {
            return Err(format!("two arms have the name `{name}`"));
        }
        if let Some(name) = twice(&scenarios) {
            return Err(format!("the scenario `{name}` is listed twice"));
        }
        for promise in &self.promises {
            for (what, name, known) in promise
                .scenarios()
                .map(|name| ("scenario", name, &scenarios))
                .into_iter()
                .chain(promise.arms().map(|name| ("arm", name, &arms)))
            {
                let Some(name) = name.filter(|name| !known.iter().any(|one| one == name)) else { continue };
                let nearest = nearest(name, known.iter().map(String::as_str));
                let hint = nearest.map(|nearest| format!(", did you mean `{nearest}`")).unwrap_or_default();
                return Err(format!("a promise names the {what} `{name}`, which it does not have{hint}"));
            }
        }
        Ok(())
    }
}

impl Entry {
    fn scenario(self, catalogue: &Catalogue) -> Result<Scenario, String> {
        let (name, own_name, share) = match self {
            Self::Name(name) => (name, None, None),
            Self::Share { scenario, name, share_of_capacity } => (scenario, name, Some(share_of_capacity)),
        };
        let (base, engine) = name.split_once('@').map_or((name.as_str(), None), |(b, e)| (b, Some(e)));
        let found = catalogue.find(base).map_err(|error| error.to_string())?;
        let engine = engine.map(str::parse::<EngineKind>).transpose().map_err(|error| error.to_string())?;
        let share = share.map(|share| match share {
            share if share > 0.0 && share <= 1.0 => Ok(share),
            share => {
                Err(format!("share_of_capacity `{share}` is not valid: expected more than 0, at most 1"))
            }
        });
        let share_of_capacity = share.transpose()?;
        let usual =
            if share_of_capacity.is_some() { format!("{}-fixed", found.name) } else { found.name.clone() };
        let name = own_name.unwrap_or(usual);
        Ok(Scenario { name, load: found.load.clone(), engine, share_of_capacity })
    }
}

impl ArmEntry {
    fn arm(self) -> Result<Arm, String> {
        let text = |error: ArmError| error.to_string();
        let name = arm_name(&self.name).map_err(text)?;
        if self.command.is_some() && self.absent.is_some() {
            return Err(format!("arm `{name}` has a command and `absent`: give one"));
        }
        if self.burn_share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Err(format!("arm `{name}`: burn_share is not valid: expected more than 0, at most 1"));
        }
        let base = match (&self.command, self.absent) {
            (Some(command), _) => Arm::of_command(name.clone(), command).map_err(text)?,
            (None, absent) => Arm { absent, ..Arm::own(name.clone()) },
        };
        let is_ours = self.engine.is_some() || !self.flags.is_empty() || self.burn_share.is_some();
        if self.command.is_some() && is_ours {
            return Err(format!(
                "arm `{name}` has a command: `engine`, `flags` and `burn_share` are for our own server"
            ));
        }
        let engine = self.engine.map(|engine| engine.parse::<EngineKind>()).transpose();
        let engine = engine.map_err(|error| format!("arm `{name}`: {error}"))?;
        let Self { flags, takes, wait, burn_share, .. } = self;
        Ok(Arm { engine, flags, takes, wait, burn_share, ..base })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::scenario;

    fn parse(text: &str) -> Result<Experiment, String> {
        Experiment::parse(text, "my.toml", Catalogue::built_in()).map_err(|error| error.to_string())
    }

    fn with(line: &str) -> String {
        format!("name = \"x\"\ndescription = \"a test\"\n{line}\n")
    }

    #[test]
    fn built_in_experiments_can_be_read_and_are_named_by_their_file() {
        for ((name, _), experiment) in BUILT_IN.iter().zip(built_in()) {
            assert_eq!(experiment.name, *name);
            assert!(experiment.scenarios.iter().all(|scenario| scenario.full_name().len() <= 17));
            assert!((10..=100).contains(&experiment.description.len()), "{name}");
        }
    }

    #[test]
    fn full_has_the_scenarios_and_times_of_quick() {
        let read = |name| Experiment::read(name, Catalogue::built_in()).expect("built in");
        let (quick, full) = (read("quick"), read("full"));
        assert!(quick.scenarios.iter().all(|scenario| full.scenarios.contains(scenario)));
    }

    #[test]
    fn peers_are_asked_for_what_every_server_has() {
        let peers = Experiment::read("peers", Catalogue::built_in()).expect("built in");
        let is_plain = |s: &Scenario| s.load.transport == crate::load::Transport::Ws && s.engine.is_none();
        assert!(peers.scenarios.iter().all(is_plain) && peers.try_echoes);
        assert!(peers.arms.is_empty());
    }

    #[test]
    fn a_file_is_read_with_its_own_scenarios_arms_and_promises() {
        let experiment = parse(&with(
            r#"
rounds = 6
warmup = "100ms"
measure = 1000000
show = "arms"
scenarios = ["echo", "echo@epoll", "mine", { scenario = "pipeline", share_of_capacity = 0.5 }]
[[scenario]]
name = "mine"
description = "ten connections"
load = { connections = 10 }
[[arm]]
name = "ours"
flags = ["--spin", "always"]
takes = "latency"
wait = "spin"
[[arm]]
name = "theirs"
command = "node server.js {port}"
[[promise]]
scenario = "echo"
arm = "theirs"
metric = "server_cpu"
over = { arm = "ours" }
at_most = 0.94
"#,
        ))
        .expect("valid");
        let names: Vec<String> = experiment.scenarios.iter().map(scenario::Scenario::full_name).collect();
        assert_eq!(names, ["echo", "echo@epoll", "mine", "pipeline-fixed"]);
        let load = &experiment.scenarios[2].load;
        assert_eq!(
            (load.connections, load.warmup, load.measure),
            (10, Duration::from_millis(100), Duration::from_millis(1))
        );
        assert_eq!(experiment.arms[0].flags, ["--spin", "always"]);
        assert_eq!(experiment.arms[1].command.as_ref().map(Vec::len), Some(3));
        assert_eq!((experiment.rounds, experiment.promises.len()), (6, 1));
    }

    #[test]
    fn a_wrong_name_is_refused_with_the_nearest_valid_one() {
        for (line, found, nearest) in [
            ("scenarios = [\"ecko\"]", "`ecko`", "`echo`"),
            ("scenarios = []\nround = 2", "`round`", "`rounds`"),
            ("scenarios = []\n[[arm]]\nname = \"a\"\ncomand = \"x {port}\"", "comand`", "`command`"),
            ("scenarios = []\n[[arm]]\nname = \"a\"\nengine = \"epol\"", "`epol`", "epoll"),
            ("scenarios = [\"echo@uringg\"]", "`uringg`", "uring"),
            ("scenarios = []\n[[arm]]\nname = \"a\"\ncommand = \"x\"", "arm `a`", "{port}"),
            ("scenarios = []\nshow = \"verdicts\"", "`verdicts`", "`verdict`"),
            (
                "scenarios = [\"echo\"]\n[[scenario]]\nname = \"y\"\ndescription = \"z\"\nload = { conections = 1 }",
                "conections`",
                "`connections`",
            ),
            ("scenarios = [\"echo\"]\n[[promise]]\nscenario = \"eco\"\nmetric = \"p50\"", "`eco`", "`echo`"),
            (
                "scenarios = [\"echo\"]\n[[promise]]\nscenario = \"echo\"\nmetric = \"server_cpus\"",
                "`server_cpus`",
                "`server_cpu`",
            ),
            ("scenarios = [\"echo\", \"echo\"]", "`echo`", "twice"),
            (
                "scenarios = [{ scenario = \"echo\", share_of_capacity = 0.5, nmae = \"x\" }]",
                "table of `scenario`",
                "`name`",
            ),
            ("scenarios = [\"echo\"]\nshow = \"verdict\"", "two arms", "not 0"),
            ("scenarios = [\"echo\"]\n[[arm]]\nname = \"a\"\nburn_share = 2.0", "burn_share", "at most 1"),
            ("scenarios = [\"echo\"]\nrounds = 0", "rounds", "at least 1"),
        ] {
            let error = parse(&with(line)).expect_err(line);
            assert!(error.contains(found) && error.contains(nearest), "{line}: {error}");
            assert!(error.contains("my.toml"), "{error}");
        }
        let error = Experiment::read("quik", Catalogue::built_in()).expect_err("unknown").to_string();
        assert!(error.contains("did you mean `quick`"), "{error}");
        let error = Experiment::read("no/such.toml", Catalogue::built_in()).expect_err("no file").to_string();
        assert!(error.contains("no/such.toml"), "{error}");
    }
}

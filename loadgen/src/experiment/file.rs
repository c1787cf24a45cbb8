//! Experiments as files, and those that come with the program.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use engine::EngineKind;
use serde::de::value::Error;
use serde::de::{DeserializeOwned, Error as _, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};

use super::{Arm, Experiment, Scenario};
use crate::compare::Promise;
use crate::load::catalogue::{self, nearest};
use crate::load::{Catalogue, span};
use crate::result::{Over, Presentation, SIDES};

/// The experiments that come with the program, by name.
const BUILT_IN: [(&str, &str); 6] = [
    ("smoke", include_str!("built_in/smoke.toml")),
    ("quick", include_str!("built_in/quick.toml")),
    ("full", include_str!("built_in/full.toml")),
    ("engines", include_str!("built_in/engines.toml")),
    ("arms", include_str!("built_in/arms.toml")),
    ("peers", include_str!("built_in/peers.toml")),
];

pub(crate) fn built_in() -> Vec<Experiment> {
    let read = |(name, text): (&str, &str)| {
        let experiment = Experiment::parse(text, name, Catalogue::built_in());
        experiment.unwrap_or_else(|error| unreachable!("a test reads it: {error}"))
    };
    BUILT_IN.map(read).into()
}

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
    show: Presentation,
    #[serde(default)]
    try_echoes: bool,
    #[serde(default)]
    spin: bool,
    scenarios: Vec<Entry>,
    #[serde(default)]
    arm: Vec<Arm>,
    /// Scenarios of this file alone, as in a catalogue.
    #[serde(default)]
    scenario: Vec<catalogue::Scenario>,
    #[serde(default)]
    promise: Vec<Promise>,
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

impl Experiment {
    /// Reads the built-in experiment of this name, or the file at this path. Scenarios come from
    /// `catalogue`. Fails if there is neither, or where the file has a key, a scenario or an arm
    /// that cannot be used.
    pub(crate) fn read(name: &str, catalogue: &Catalogue) -> anyhow::Result<Self> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(text, name, catalogue);
        }
        let path = Path::new(name);
        if !name.contains('/') && !name.ends_with(".toml") && !path.exists() {
            let known = BUILT_IN.map(|(name, _)| name);
            let (hint, known) = (did_you_mean(name, known), known.join(", "));
            bail!("experiment `{name}` is unknown{hint}: expected {known}, or the path of a file");
        }
        let text = crate::host::regular::text(path)
            .with_context(|| format!("cannot read the experiment {name}"))?;
        Self::parse(&text, name, catalogue)
    }

    fn parse(text: &str, file: &str, catalogue: &Catalogue) -> anyhow::Result<Self> {
        let read = File::parse(text).and_then(|file| file.experiment(catalogue));
        read.map_err(|fault| anyhow!("the experiment {file} is not valid: {fault:#}"))
    }

    /// Checks that names are unique and that promises are about runs of the experiment.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let arms: Vec<String> = self.arms.iter().map(|arm| arm.name.clone()).collect();
        let scenarios: Vec<String> = self.scenarios.iter().map(Scenario::full_name).collect();
        ensure!(self.rounds > 0, "`rounds` is 0: expected at least 1");
        ensure!(
            !self.is_of_pairs() || arms.len() == 2,
            "a verdict and noise are about two arms, not {}",
            arms.len()
        );
        let of_engine = self.scenarios.iter().find(|scenario| scenario.engine.is_some());
        if let (Some(scenario), true) =
            (of_engine, self.arms.iter().any(|arm| arm.engine.is_some()))
        {
            let name = scenario.full_name();
            bail!("the scenario `{name}` names an engine, and an arm names one, too: give one");
        }
        let twice =
            |names: &[String]| (1..names.len()).find(|&at| names[..at].contains(&names[at]));
        if let Some(at) = twice(&arms) {
            bail!("two arms have the name `{}`", arms[at]);
        }
        if let Some(at) = twice(&scenarios) {
            bail!("the scenario `{}` is listed twice", scenarios[at]);
        }
        for promise in &self.promises {
            let of_scenarios = promise.scenarios().map(|name| ("scenario", name, &scenarios));
            let of_arms = promise.arms().map(|name| ("arm", name, &arms));
            for (what, name, known) in of_scenarios.into_iter().chain(of_arms) {
                let Some(name) = name.filter(|name| !known.iter().any(|one| one == name)) else {
                    continue;
                };
                let hint = did_you_mean(name, known.iter().map(String::as_str));
                bail!("a promise names the {what} `{name}`, which it does not have{hint}");
            }
        }
        Ok(())
    }
}

pub(crate) fn did_you_mean<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let nearest = nearest(name, names.into_iter());
    nearest.map(|nearest| format!(", did you mean `{nearest}`")).unwrap_or_default()
}

impl File {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut unknown = Vec::new();
        let document = toml::Deserializer::parse(text)?;
        let file = serde_ignored::deserialize(document, |key| unknown.push(key.to_string()))?;
        if let Some(path) = unknown.first() {
            let known = [keys::<Self>(), keys::<Arm>(), keys::<Promise>(), keys::<Over>()];
            let known = known.into_iter().flatten().chain(keys::<catalogue::Scenario>());
            bail!(
                "the key `{path}` is unknown{}",
                did_you_mean(path.rsplit('.').next().unwrap_or(path), known)
            );
        }
        Ok(file)
    }

    fn experiment(self, catalogue: &Catalogue) -> anyhow::Result<Experiment> {
        let catalogue = catalogue.clone().joined_with(self.scenario)?;
        let mut arms = self.arm.into_iter().map(Arm::checked).collect::<Result<Vec<_>, _>>()?;
        if arms.is_empty() && self.show.is_of_our_server() {
            arms.push(Arm::own(SIDES[0]));
        }
        let scenarios = self.scenarios.into_iter().map(|entry| entry.scenario(&catalogue));
        let mut experiment = Experiment {
            name: self.name,
            description: self.description,
            arms,
            scenarios: scenarios.collect::<anyhow::Result<_>>()?,
            rounds: self.rounds,
            show: self.show,
            try_echoes: self.try_echoes,
            spin: self.spin,
            promises: self.promise,
        };
        experiment.set_times(self.warmup, self.measure);
        experiment.check()?;
        Ok(experiment)
    }
}

fn keys<T: DeserializeOwned>() -> Vec<&'static str> {
    let mut keys = Vec::new();
    // Nothing is read: the structure names its keys before it asks for the first of them.
    let _ = T::deserialize(Keys(&mut keys));
    keys
}

struct Keys<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Keys<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("only structures have keys"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.extend(keys);
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl Entry {
    fn scenario(self, catalogue: &Catalogue) -> anyhow::Result<Scenario> {
        let (base, name, share_of_capacity) = match self {
            Self::Name(name) => (name, None, None),
            Self::Share { scenario, name, share_of_capacity } => {
                (scenario, name, Some(share_of_capacity))
            }
        };
        let (base, engine) =
            base.split_once('@').map_or((base.as_str(), None), |(b, e)| (b, Some(e)));
        let found = catalogue.find(base)?;
        let engine = engine.map(str::parse::<EngineKind>).transpose()?;
        if let Some(share) = share_of_capacity.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            bail!("share_of_capacity `{share}` is not valid: expected more than 0, at most 1");
        }
        if share_of_capacity.is_some() && found.load.stages.is_some() {
            bail!(
                "share_of_capacity needs a scenario with one rate, and `{}` has stages",
                found.name
            );
        }
        let suffix = if share_of_capacity.is_some() { "-fixed" } else { "" };
        let name = name.unwrap_or_else(|| format!("{}{suffix}", found.name));
        Ok(Scenario { name, load: found.load.clone(), engine, share_of_capacity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Experiment, String> {
        Experiment::parse(text, "my.toml", Catalogue::built_in())
            .map_err(|error| format!("{error:#}"))
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
        let is_plain =
            |s: &Scenario| s.load.transport == crate::load::Transport::Ws && s.engine.is_none();
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
via = "relay {port} {server}"
[[promise]]
scenario = "echo"
arm = "theirs"
metric = "server_cpu"
over = { arm = "ours" }
at_most = 0.94
"#,
        ))
        .expect("valid");
        let names: Vec<String> = experiment.scenarios.iter().map(Scenario::full_name).collect();
        assert_eq!(names, ["echo", "echo@epoll", "mine", "pipeline-fixed"]);
        let load = &experiment.scenarios[2].load;
        assert_eq!(
            (load.connections, load.warmup, load.measure),
            (10, Duration::from_millis(100), Duration::from_millis(1))
        );
        assert_eq!(experiment.arms[0].flags, ["--spin", "always"]);
        assert_eq!(experiment.arms[1].command.as_ref().map(Vec::len), Some(3));
        let relay = ["relay", "{port}", "{server}"].map(str::to_owned);
        assert_eq!(experiment.arms[1].via.as_deref(), Some(&relay[..]));
        assert_eq!((experiment.rounds, experiment.promises.len()), (6, 1));
    }

    #[test]
    fn a_wrong_name_is_refused_with_the_nearest_valid_one() {
        for (line, found, nearest) in [
            ("scenarios = [\"ecko\"]", "`ecko`", "`echo`"),
            ("scenarios = []\nround = 2", "`round`", "`rounds`"),
            (
                "scenarios = []\n[[arm]]\nname = \"a\"\ncomand = \"x {port}\"",
                "comand`",
                "`command`",
            ),
            ("scenarios = []\n[[arm]]\nname = \"a\"\nengine = \"epol\"", "`epol`", "epoll"),
            ("scenarios = [\"echo@uringg\"]", "`uringg`", "uring"),
            ("scenarios = []\n[[arm]]\nname = \"a\"\ncommand = \"x\"", "arm `a`", "{port}"),
            ("scenarios = []\n[[arm]]\nname = \"a\"\nvia = \"x {port}\"", "arm `a`", "{server}"),
            ("scenarios = []\nshow = \"verdicts\"", "`verdicts`", "`verdict`"),
            (
                "scenarios = [\"echo\"]\n[[scenario]]\nname = \"y\"\ndescription = \"z\"\nload = { conections = 1 }",
                "conections`",
                "`connections`",
            ),
            (
                "scenarios = [\"echo\"]\n[[promise]]\nscenario = \"eco\"\nmetric = \"p50\"",
                "`eco`",
                "`echo`",
            ),
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
            (
                "scenarios = [\"echo\"]\n[[arm]]\nname = \"a\"\nburn_share = 2.0",
                "burn_share",
                "at most 1",
            ),
            ("scenarios = [\"echo\"]\nrounds = 0", "rounds", "at least 1"),
        ] {
            let error = parse(&with(line)).expect_err(line);
            assert!(error.contains(found) && error.contains(nearest), "{line}: {error}");
            assert!(error.contains("my.toml"), "{error}");
        }
        let error =
            Experiment::read("quik", Catalogue::built_in()).expect_err("unknown").to_string();
        assert!(error.contains("did you mean `quick`"), "{error}");
        let error = Experiment::read("no/such.toml", Catalogue::built_in())
            .expect_err("no file")
            .to_string();
        assert!(error.contains("no/such.toml"), "{error}");
    }
}

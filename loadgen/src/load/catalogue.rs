//! The catalogue of scenarios.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;

use super::{Deflate, Load, Match, PayloadFile, PayloadOrder, PrivateText, Stages};

/// The scenarios that come with the program.
static BUILT_IN: LazyLock<Catalogue> = LazyLock::new(|| {
    let parsed = Catalogue::parse(include_str!("catalogue.toml"), Path::new("catalogue.toml"));
    parsed.unwrap_or_else(|error| unreachable!("a test reads the built-in catalogue: {error:#}"))
});

/// Named loads, in the order in which they are listed.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Catalogue {
    #[serde(rename = "scenario")]
    scenarios: Vec<Scenario>,
}

/// A load with a name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Scenario {
    /// Its name on the command line, in tables and in documents.
    pub name: String,
    /// Former names, which stored sessions may have.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its description, one line.
    pub description: String,
    /// The load. A field that a catalogue leaves out has the default of its flag.
    pub load: Load,
}

impl Catalogue {
    /// Returns the scenarios that come with the program.
    pub(crate) fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// Returns the built-in scenarios and those of `file`, which replace equal names.
    pub(crate) fn with(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file else { return Ok(Self::built_in().clone()) };
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the catalogue {}", path.display()))?;
        Self::built_in().clone().joined_with(Self::parse(&text, path)?.scenarios)
    }

    /// Returns the catalogue with further scenarios, which replace those of the same name.
    pub(crate) fn joined_with(mut self, own: Vec<Scenario>) -> anyhow::Result<Self> {
        let mut own = checked(own)?;
        for Scenario { name, load, .. } in &mut own {
            load.read_files().map_err(|error| anyhow!("the scenario `{name}`: {error}"))?;
        }
        for scenario in own {
            self.scenarios.retain(|known| known.name != scenario.name);
            self.scenarios.push(scenario);
        }
        Ok(self)
    }

    fn parse(text: &str, path: &Path) -> anyhow::Result<Self> {
        let parse = || {
            let mut unknown = Vec::new();
            let document = toml::Deserializer::parse(text)?;
            let catalogue: Self =
                serde_ignored::deserialize(document, |key| unknown.push(key.to_string()))?;
            if let Some(key) = unknown.first() {
                return Err(unknown_key(key));
            }
            Ok(Self { scenarios: checked(catalogue.scenarios)? })
        };
        parse().with_context(|| format!("the catalogue {} is not valid", path.display()))
    }

    pub(crate) fn scenarios(&self) -> &[Scenario] {
        &self.scenarios
    }

    /// Returns the scenario of this name, present or former. An error has the most similar one.
    pub(crate) fn find(&self, name: &str) -> anyhow::Result<&Scenario> {
        let is_former = |scenario: &&Scenario| scenario.aliases.iter().any(|alias| alias == name);
        let found = self.scenarios.iter().find(|scenario| scenario.name == name);
        found.or_else(|| self.scenarios.iter().find(is_former)).ok_or_else(|| {
            let names = self.scenarios.iter().map(|scenario| scenario.name.as_str());
            let hint = did_you_mean(name, names);
            anyhow!("scenario `{name}` is unknown{hint}: `sparring-loadgen scenarios` lists all")
        })
    }

    /// Returns the present name of a scenario. `@engine` or `-fixed` behind it is kept.
    pub(crate) fn present_name(&self, name: &str) -> String {
        let fixed = name.strip_suffix("-fixed").map(str::len);
        let (base, rest) = name.split_at(name.find('@').or(fixed).unwrap_or(name.len()));
        let present = self.find(base).map_or(base, |scenario| scenario.name.as_str());
        format!("{present}{rest}")
    }
}

/// Returns the most similar of `names`, if one is similar.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let similarity = |other: &str| strsim::jaro_winkler(name, other);
    let best = names.map(|other| (similarity(other), other)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.7).then(|| best.1.to_owned())
}

/// Returns the end of an error about `name`: the [`nearest`] one, if one is similar.
fn did_you_mean<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    nearest(name, names).map(|nearest| format!(", did you mean `{nearest}`")).unwrap_or_default()
}

/// Checks that loads have no unknown key and that names are unique. The measured time of a load
/// with stages is theirs.
fn checked(mut scenarios: Vec<Scenario>) -> anyhow::Result<Vec<Scenario>> {
    for scenario in &mut scenarios {
        set_stage_time(scenario)?;
    }
    for (index, scenario) in scenarios.iter().enumerate() {
        if let Some(key) = scenario.load.unknown.keys().next() {
            return Err(unknown_key(key));
        }
        if scenarios[..index].iter().any(|other| other.name == scenario.name) {
            bail!("two scenarios have the name `{}`", scenario.name);
        }
    }
    Ok(scenarios)
}

fn set_stage_time(scenario: &mut Scenario) -> anyhow::Result<()> {
    let load = &mut scenario.load;
    let Some(total) = load.stages.as_ref().map(Stages::total) else { return Ok(()) };
    let has_own_time = load.measure != Load::default().measure && load.measure != total;
    for (key, is_given) in [
        ("measure_ns", has_own_time),
        ("rate_per_s", load.rate_per_s.is_some()),
        ("messages", load.messages.is_some()),
    ] {
        if is_given {
            bail!("scenario `{}` has stages, which leave no room for `{key}`", scenario.name);
        }
    }
    load.measure = total;
    Ok(())
}

fn unknown_key(path: &str) -> anyhow::Error {
    let key = path.rsplit('.').next().unwrap_or(path);
    // Values other than the defaults, with which a field may be left out.
    let load = Load {
        deflate: Deflate::On,
        deflate_window_bits: 9,
        deflate_memory_level: 9,
        payload_file: PayloadFile::named(),
        payload_lines: PayloadFile::named(),
        payload_order: PayloadOrder::Random,
        template: true,
        matching: Match::Any,
        skip_first: 1,
        first_message: Some(PrivateText::from("")),
        expect_first: Some(PrivateText::from("")),
        stages: "1:1s".parse().ok(),
        ..Load::default()
    };
    let known = serde_json::to_value(load).unwrap_or_default();
    let known = known.as_object().into_iter().flat_map(|load| load.keys().map(String::as_str));
    let hint = did_you_mean(key, known.chain(["name", "aliases", "description", "load"]));
    anyhow!("the key `{path}` is unknown{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Transport;

    fn parse(text: &str) -> Result<Catalogue, String> {
        Catalogue::parse(text, Path::new("my.toml")).map_err(|error| format!("{error:#}"))
    }

    /// Bytes of a client's frame for a payload: header, masking key, payload (RFC 6455 section
    /// 5.2).
    const fn client_frame_bytes(payload: usize) -> usize {
        let header = match payload {
            0..=125 => 6,
            126..=65_535 => 8,
            _ => 14,
        };
        header + payload
    }

    #[test]
    fn built_in_names_are_unique_and_described() {
        let scenarios = Catalogue::built_in().scenarios();
        let mut names: Vec<&str> = scenarios
            .iter()
            .flat_map(|s| s.aliases.iter().chain([&s.name]))
            .map(String::as_str)
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        for scenario in scenarios {
            assert!((10..=100).contains(&scenario.description.len()), "{}", scenario.name);
        }
    }

    #[test]
    fn raw_tcp_moves_the_bytes_of_the_frames() {
        for (raw, framed) in [("tcp", "echo"), ("tcp-pipeline", "pipeline")] {
            let load =
                |name: &str| Catalogue::built_in().find(name).expect("built in").load.clone();
            assert_eq!(load(raw).transport, Transport::Tcp);
            assert_eq!(
                load(raw).message_bytes.largest(),
                client_frame_bytes(load(framed).message_bytes.largest())
            );
        }
    }

    #[test]
    fn former_names_are_found() {
        let catalogue = Catalogue::built_in();
        assert_eq!(catalogue.find("echo-ws-pipe").expect("an alias").name, "echo-ws-pipeline");
        assert_eq!(catalogue.present_name("echo-ws-10"), "echo-ws-limited");
        assert_eq!(catalogue.present_name("echo@epoll"), "echo@epoll");
        assert_eq!(catalogue.present_name("echo-ws-10-fixed"), "echo-ws-limited-fixed");
        assert_eq!(catalogue.present_name("mine"), "mine");
    }

    #[test]
    fn unknown_names_and_keys_are_refused_with_the_nearest() {
        let unknown = Catalogue::built_in().find("ehco").expect_err("unknown").to_string();
        assert!(unknown.contains("`ehco`") && unknown.contains("did you mean `echo`"), "{unknown}");
        let error =
            parse("[[scenario]]\nname = \"a\"\ndescription = \"b\"\nload = { conections = 3 }")
                .expect_err("a key");
        assert!(error.contains("conections` is unknown, did you mean `connections`"), "{error}");
        let twice = "[[scenario]]\nname = \"a\"\ndescription = \"b\"\nload = {}\n";
        assert!(
            parse(&twice.repeat(2)).expect_err("twice").contains("two scenarios have the name `a`")
        );
        assert!(parse("[[scenario]]\nname = 3").is_err_and(|error| error.contains("my.toml")));
    }

    #[test]
    fn files_of_messages_are_read_with_their_scenario() {
        let own = parse(
            "[[scenario]]\nname = \"mine\"\ndescription = \"b\"\n\
             load = { payload_file = \"/no/such/file\", match = \"any\", first_message = \"hi\" }",
        )
        .expect("a catalogue");
        let joined = Catalogue::built_in().clone().joined_with(own.scenarios);
        let error = joined.expect_err("no such file").to_string();
        let begin = "the scenario `mine`: `/no/such/file`: cannot open it";
        assert!(error.starts_with(begin), "{error}");
        let error = parse(
            "[[scenario]]\nname = \"a\"\ndescription = \"b\"\nload = { payload_lime = \"x\" }",
        );
        assert!(error.is_err_and(|error| error.contains("did you mean `payload_lines`")));
    }

    #[test]
    fn stages_of_a_scenario_are_its_measured_time() {
        let of = |load: &str| {
            let start = "[[scenario]]\nname = \"mine\"\ndescription = \"b\"\nload = {";
            parse(&format!("{start} stages = \"1k:30s,5k:10s\"{load} }}"))
        };
        let own = of("").expect("a catalogue");
        assert_eq!(own.find("mine").expect("own").load.measure.as_secs(), 40);
        for (key, value) in [("measure_ns", "\"5s\""), ("rate_per_s", "5"), ("messages", "5")] {
            let error = of(&format!(", {key} = {value}")).expect_err(key);
            assert!(error.contains("`mine` has stages") && error.contains(key), "{error}");
        }
    }

    #[test]
    fn own_scenarios_join_and_replace() {
        let own = parse(
            "[[scenario]]\nname = \"mine\"\ndescription = \"b\"\n\
             load = { message_bytes = \"2KiB\", lifetime_ns = \"5s\" }",
        )
        .expect("a catalogue");
        let load = &own.find("mine").expect("own").load;
        assert_eq!(
            (load.message_bytes.largest(), load.lifetime.map(|span| span.as_secs())),
            (2048, Some(5))
        );
    }
}

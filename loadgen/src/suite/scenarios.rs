//! The scenarios of the suites, as data.

use std::time::Duration;

use engine::EngineKind;

use crate::load::{Catalogue, Load};

/// A suite: which scenarios, how long each, how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// The main scenarios once: about a minute.
    Quick,
    /// All scenarios three times: some minutes.
    Full,
    /// The main scenarios for a blink, checked for correctness and not for speed: seconds.
    Smoke,
}

/// A scenario of the catalogue in a suite, before its engine is settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Its name in the catalogue.
    pub name: String,
    /// Its load.
    pub load: Load,
    /// The server's engine where the scenario is about an engine; otherwise the session's.
    pub engine: Option<EngineKind>,
}

/// `quick` and `smoke`. Behind `@` stands the engine of a scenario about one.
const MAIN: [&str; 8] =
    ["echo", "pipeline", "text", "large", "tcp", "tcp-pipeline", "echo@tokio-uring", "echo@epoll"];

/// Scenarios that `full` has beside [`MAIN`].
const MORE: [&str; 8] = [
    "echo-1x1",
    "echo-512x1",
    "text-4000x1",
    "text-16k",
    "text-1m",
    "echo-ws",
    "echo-ws-pipeline",
    "echo-ws-limited",
];

/// Scenarios of an interleaved session: the main ones, few and many connections, and fixed rates.
const SIDE_BY_SIDE: [&str; 11] = [
    "echo",
    "pipeline",
    "text",
    "large",
    "tcp",
    "tcp-pipeline",
    "echo-1x1",
    "echo-512x1",
    "text-4000x1",
    "rate-1x1",
    "rate-64x1",
];

/// Scenarios of other people's servers: capacity with small and large messages, few and many
/// connections; latencies at a rate that most of them keep; memory, beside the latency of a single
/// message.
const PEERS: [&str; 7] = ["echo", "pipeline", "text", "large", "echo-512x1", AT_A_RATE, MOSTLY_IDLE];

/// The scenario among those of the peers whose latencies are shown.
pub(super) const AT_A_RATE: &str = "rate-20k";
/// The scenario among those of the peers whose memory is shown.
pub(super) const MOSTLY_IDLE: &str = "idle-4000";

/// Descriptors a process needs beside its connections: listeners, rings, files, standard streams.
const SPARE_DESCRIPTORS: u64 = 256;

impl Suite {
    /// The name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
            Self::Smoke => "smoke",
        }
    }

    /// Its scenarios, in the order in which a round makes them.
    #[must_use]
    pub fn specs(self) -> Vec<Spec> {
        match self {
            Self::Quick | Self::Smoke => specs(&MAIN),
            Self::Full => specs(&[MAIN, MORE].concat()),
        }
    }

    /// How often each scenario is run.
    #[must_use]
    pub fn rounds(self) -> u32 {
        match self {
            Self::Quick | Self::Smoke => 1,
            Self::Full => 3,
        }
    }

    /// Load that is not counted, per run. As in `quick`, so in `full`: sessions of both compare.
    #[must_use]
    pub fn warmup(self) -> Duration {
        match self {
            Self::Quick | Self::Full => Duration::from_secs(1),
            Self::Smoke => Duration::from_millis(100),
        }
    }

    /// The measured window, per run.
    #[must_use]
    pub fn measure(self) -> Duration {
        match self {
            Self::Quick | Self::Full => Duration::from_secs(5),
            Self::Smoke => Duration::from_millis(400),
        }
    }
}

impl std::str::FromStr for Suite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Quick, Self::Full, Self::Smoke].into_iter().find(|suite| suite.name() == text);
        known.ok_or_else(|| format!("unknown suite `{text}`: one of quick, full, smoke"))
    }
}

impl Spec {
    /// The scenarios in which several servers are set side by side.
    #[must_use]
    pub fn side_by_side() -> Vec<Self> {
        specs(&SIDE_BY_SIDE)
    }

    /// The scenarios in which other people's servers are set beside ours.
    #[must_use]
    pub fn peers() -> Vec<Self> {
        specs(&PEERS)
    }

    /// Descriptors that server and generator need for it, each.
    #[must_use]
    pub fn descriptors(&self) -> u64 {
        self.load.all_connections() + SPARE_DESCRIPTORS
    }

    /// Whether its question is how long a message takes, and not how much a server can do.
    #[must_use]
    pub fn is_about_latency(&self) -> bool {
        self.load.connections == 1 || self.load.rate_per_s.is_some()
    }

    /// The name in results: `echo`, or `echo@epoll` where the scenario is about an engine.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.engine {
            Some(engine) => format!("{}@{}", self.name, engine.name()),
            None => self.name.clone(),
        }
    }
}

/// Returns built-in scenarios by their names.
fn specs(names: &[&str]) -> Vec<Spec> {
    let spec = |name: &&str| {
        let (base, engine) = name.split_once('@').unwrap_or((name, ""));
        let scenario = Catalogue::built_in().find(base);
        let scenario = scenario.unwrap_or_else(|error| unreachable!("a test builds every suite: {error}"));
        Spec { name: scenario.name.clone(), load: scenario.load.clone(), engine: engine.parse().ok() }
    };
    names.iter().map(spec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Transport;

    #[test]
    fn names_are_unique_and_fit_the_table() {
        let specs = Suite::Full.specs();
        let mut names: Vec<String> = specs.iter().map(Spec::full_name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), specs.len());
        assert!(specs.iter().all(|spec| spec.name.len() <= 16));
    }

    #[test]
    fn peers_are_asked_for_what_any_server_has() {
        let specs = Spec::peers();
        assert!(specs.iter().all(|spec| spec.load.transport == Transport::Ws && spec.engine.is_none()));
        assert!(specs.iter().any(|spec| spec.name == AT_A_RATE && spec.load.rate_per_s.is_some()));
        assert!(specs.iter().any(|spec| spec.name == MOSTLY_IDLE && spec.descriptors() == 4257));
    }

    #[test]
    fn side_by_side_no_scenario_is_about_an_engine() {
        let specs = Spec::side_by_side();
        assert!(specs.iter().all(|spec| spec.engine.is_none() && spec.name.len() <= 16));
        let mut names: Vec<String> = specs.iter().map(Spec::full_name).collect();
        names.dedup();
        assert_eq!(names.len(), specs.len());
        let latency: Vec<_> =
            specs.iter().filter(|s| s.is_about_latency()).map(|s| s.name.as_str()).collect();
        assert_eq!(latency, ["echo-1x1", "rate-1x1", "rate-64x1"]);
    }

    #[test]
    fn full_holds_quick_unchanged() {
        let full = Suite::Full.specs();
        assert!(Suite::Quick.specs().iter().all(|spec| full.contains(spec)));
        assert_eq!(Suite::Quick.measure(), Suite::Full.measure());
        assert_eq!(Suite::Quick.warmup(), Suite::Full.warmup());
    }

    #[test]
    fn suites_are_known_by_their_names() {
        for suite in [Suite::Quick, Suite::Full, Suite::Smoke] {
            assert_eq!(suite.name().parse(), Ok(suite));
        }
        assert!("fast".parse::<Suite>().is_err_and(|error| error.contains("quick")));
    }
}

//! A scenario of an experiment.

use engine::EngineKind;
use serde::{Serialize, Serializer};

use crate::load::Load;

/// Descriptors that a process needs beside its connections: listeners, rings, files, standard
/// streams.
const SPARE_DESCRIPTORS: u64 = 256;

/// A load with a name, in an experiment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Scenario {
    /// Its name in the catalogue, or the name that the caller gave it.
    pub(crate) name: String,
    /// The traffic.
    pub(crate) load: Load,
    /// Engine of our own server, where the scenario is about one; otherwise the session's.
    #[serde(serialize_with = "engine_name", skip_serializing_if = "Option::is_none")]
    pub(crate) engine: Option<EngineKind>,
    /// Share of the first arm's capacity that becomes the rate of the load. A short run before the
    /// first round measures the capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) share_of_capacity: Option<f64>,
}

pub(super) fn engine_name<S: Serializer>(
    engine: &Option<EngineKind>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(engine.map_or("", EngineKind::name))
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

    /// Returns true where its figure is the time of a message, and not the capacity of a server.
    pub(crate) fn is_about_latency(&self) -> bool {
        self.load.connections == 1 || self.load.rate_per_s.is_some()
    }

    /// Returns the name in results: `echo`, or `echo@epoll` where the scenario is about an engine.
    pub(crate) fn full_name(&self) -> String {
        match self.engine {
            Some(engine) => format!("{}@{}", self.name, engine.name()),
            None => self.name.clone(),
        }
    }
}

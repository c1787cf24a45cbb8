//! The experiment of a session, as far as a reader of the session needs it.

use serde::{Deserialize, Serialize};

use super::{Document, Metric, SessionKind};

/// Facts about the experiment that made a session. Its name is
/// [`Session::suite`](super::Session::suite).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExperimentRecord {
    /// Hash of everything that defines it: the same for the same experiment. Empty if an earlier
    /// build made the session.
    pub hash: String,
    /// Runs of each arm in each scenario that were asked for.
    pub rounds: u32,
    /// Tables and judgement.
    pub show: Presentation,
    /// Figures that are held to a limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub promises: Vec<Promise>,
}

/// Tables and judgement of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presentation {
    /// The figures of each scenario, and the change since the last session.
    #[default]
    Figures,
    /// Correctness of every echo, at any speed.
    Correctness,
    /// The arms of each scenario side by side, with ratios to the first, and promises.
    Arms,
    /// A table for each scenario, and one over all of them.
    Peers,
    /// A verdict for each metric of the second arm against the first.
    Verdict,
    /// The noise of the machine: both arms are the same server.
    Noise,
}

impl Presentation {
    /// Returns true if an experiment without arms is about our own server.
    pub(crate) fn is_of_our_server(self) -> bool {
        matches!(self, Self::Figures | Self::Correctness)
    }
}

/// A figure, or the ratio of two figures of the same round, and its limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promise {
    /// The scenario, as runs name it.
    pub scenario: String,
    /// The arm; `None`: the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// The figure.
    pub metric: Metric,
    /// The figure that it is divided by; `None`: it is a figure by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Over>,
    /// The limit, in the unit that tables show without a ratio; `None`: the figure is
    /// reported and not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
}

/// The lower part of a ratio. What it leaves out is as in the upper part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Over {
    /// The scenario.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// The arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// The figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
}

impl Document {
    /// Returns what the session is about. An earlier build stored the name of the experiment alone.
    pub(crate) fn show(&self) -> Presentation {
        let recorded = self.session.experiment.as_ref().map(|record| record.show);
        recorded.unwrap_or(match (self.session.kind, self.session.suite.as_deref()) {
            (SessionKind::Ab, _) => Presentation::Verdict,
            (SessionKind::Aa, _) => Presentation::Noise,
            (_, Some("peers")) => Presentation::Peers,
            _ if !self.arms.is_empty() => Presentation::Arms,
            _ => Presentation::Figures,
        })
    }

    /// Returns the figures that are held to a limit.
    pub(crate) fn promises(&self) -> &[Promise] {
        self.session.experiment.as_ref().map_or(&[], |record| &record.promises)
    }
}

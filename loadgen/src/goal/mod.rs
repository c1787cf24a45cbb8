//! Goals of a run: thresholds, and the search for the highest rate that meets them.

pub mod search;
pub mod threshold;

use serde::{Deserialize, Serialize};

use search::Found;
use threshold::Judgement;

/// Outcome of thresholds and of a search, for the stored document.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct GoalReport {
    /// True where everything was reached.
    pub(crate) met: bool,
    /// The thresholds against the run, or against the confirmation of a search.
    pub(crate) thresholds: Vec<Judgement>,
    /// The search, where there was one. Its trials stand for the document's runs, in the same order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) find_rate: Option<Found>,
}

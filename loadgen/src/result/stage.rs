//! Figures of the stages of a load (`--stages`).

use serde::{Deserialize, Serialize};

use super::document::{Censored, Latencies};
use super::invalid::InvalidKind;

/// One stage of a run. Stages without length, and those that were not reached, have none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// Its number in the load, from 1.
    pub number: u32,
    /// Time from the beginning of the measured window to its own, in nanoseconds.
    pub start_ns: u64,
    /// Its length, in nanoseconds; of a window that was cut short, the part within it.
    pub span_ns: u64,
    /// Planned messages a second at its beginning.
    pub from_per_s: f64,
    /// Planned messages a second at its end.
    pub to_per_s: f64,
    /// True if its figures may be compared with others, as far as its lag and its rate tell.
    pub valid: bool,
    /// Reasons why not, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid_reasons: Vec<String>,
    /// Kinds of these reasons, in the same order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid_kinds: Vec<InvalidKind>,
    /// Messages planned in it.
    pub offered: u64,
    /// The part of them that was not sent.
    #[serde(default, skip_serializing_if = "super::document::is_default")]
    pub not_sent: u64,
    /// Echoes received within it, whenever their messages were planned.
    pub received: u64,
    /// `received` per second of it.
    pub rate_per_s: f64,
    /// Errors within it, and messages planned in it that never came back.
    #[serde(default, skip_serializing_if = "super::document::is_default")]
    pub errors: u64,
    /// Latencies of the messages planned in it, whenever their echoes came.
    pub latency_ns: Latencies,
    /// Reason why some figures of `latency_ns` are lower bounds; `null` where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub censored: Option<Censored>,
}

//! Facts about the shards of a load: in the document of one, and in the merged document of all.

use serde::{Deserialize, Serialize};

use super::utc::Utc;
use crate::target::clock::ClockOffset;

/// The part of a load that a run took (`--shard`). The parameters are those of the whole load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// Its number, from 1.
    pub number: u32,
    /// Number of all shards.
    pub count: u32,
    /// Instant of the machine's clock at which the load began.
    pub load_start: Utc,
    /// The server's clock against the machine's; `null` where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockOffset>,
    /// Reason why it is not known, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_unknown: Option<String>,
}

impl ShardRecord {
    /// Returns its name, as in `--shard 2/4`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.number, self.count)
    }
}

/// One shard of a merged run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardLine {
    /// Its number, from 1.
    pub number: u32,
    /// True if its messages are in the merged figures. A shard of another load, or one that is
    /// there twice, is not.
    pub counted: bool,
    /// True if its own run was valid.
    pub valid: bool,
    /// Identifier of its machine, which other machines of the same kind share.
    pub machine: String,
    /// Its connections, idle ones included.
    pub connections: u64,
    /// Echoes received within its window.
    pub received: u64,
    /// The same per second.
    pub rate_per_s: f64,
    /// 99th percentile of its corrected latency, in nanoseconds, where its sample carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<u64>,
    /// 99th percentile of its lag, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_p99: Option<u64>,
    /// Instant of its clock at which its load began.
    pub load_start: Utc,
    /// Its clock against that of the shard in the middle; `null` where one of them is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skew: Option<ClockOffset>,
}

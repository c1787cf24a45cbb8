//! Origin of processes' CPU time.

use serde::{Deserialize, Serialize};

/// Origin of the server's CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CostSource {
    /// The server's own control group (version 2). Counts everything that ran in it, in microseconds.
    CgroupV2,
    /// The server's own control group (version 1, `cpuacct`). Counts in nanoseconds.
    CgroupV1,
    /// `/proc`. Live processes are counted in nanoseconds; processes that have ended and were waited for, in
    /// ticks.
    #[default]
    Procfs,
}

impl CostSource {
    /// Returns the unit of the least exact count, in nanoseconds.
    pub const fn resolution_ns(self) -> u64 {
        match self {
            Self::CgroupV2 => 1_000,
            Self::CgroupV1 => 1,
            Self::Procfs => 10_000_000,
        }
    }
}

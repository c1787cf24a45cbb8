//! The stored result: one document, one schema, for everything that stores.
//!
//! [`Document`] and the types below it are the file, field by field (`bench-results/schema.json`
//! says the same to other programs). Reading ignores fields it does not know, so that a newer tool
//! may add some; it refuses a document whose `schema` is higher than [`SCHEMA`], because then the
//! meaning of a known field may have changed.
//!
//! Nothing in a document names the host, the user, a home directory or the environment.

mod compact;
mod document;
#[cfg(test)]
pub(crate) mod example;
mod experiment;
mod invalid;
mod latency;
pub(crate) mod metric;
mod migrate;
mod rounded;
mod route;
#[cfg(test)]
mod schema_tests;
mod selection;
mod shard;
mod stage;
mod store;
mod summary;
mod utc;
mod verdict;

pub use crate::host::procfs::CostSource;
pub use crate::target::clock::ClockOffset;
pub(crate) use document::per_second;
pub use document::{
    Agreed, Arm, Censored, Client, CompressedMessages, Compression, Conformance, Count, Cycles,
    Disturbance, Document, EndedEarly, Errors, Integrity, Latencies, MAX_CPU_UNCERTAINTY,
    MessageCost, Messages, Outages, Phases, Pings, Run, SCHEMA, Scenario, Second, Server, Session,
    SessionKind, Setting, Standstill, Start,
};
pub use experiment::{ExperimentRecord, Over, Presentation, Promise};
pub use invalid::InvalidKind;
pub(crate) use latency::percentile;
pub use latency::{HistogramError, Latency};
pub(crate) use metric::MANY_CONNECTIONS;
pub use metric::Metric;
pub use route::Route;
pub(crate) use selection::{Selection, Stored, commit_of};
pub use shard::{ShardLine, ShardRecord};
pub use stage::StageRecord;
pub(crate) use store::{Store, StoreError, parse};
pub(crate) use summary::{Summary, median, merged};
pub use utc::Utc;
pub(crate) use verdict::default_sides;
pub use verdict::{
    Conclusion, FoundRate, GoalJudgement, Goals, Judgement, Noise, Placebo, SIDES, SessionVerdict,
    Threshold, ThresholdSource, Trial, TrialOutcome, Verdict,
};

//! The real uring engine, as server and as client, on a simulated kernel and network
//! (`engine::sim`): thousands of seeds, each with its own sizes, faults and connections. The
//! invariants are in `story.rs` and in the simulated kernel.
//!
//! `SPARRING_SIM_SEEDS=N` runs N seeds. `SPARRING_SIM_SEED=N` runs one seed and prints its setting.

mod client;
mod mutations;
mod plan;
mod regressions;
mod seeds;
mod server;
mod story;

/// Bit that ends a worker.
const STOP: u64 = 1;

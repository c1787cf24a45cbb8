//! The real uring engine, as server and as client, on a simulated kernel and network (`engine::sim`): thousands of seeds, each
//! with its own sizes, faults and connections. What must hold is in `story.rs` and in the simulated kernel.
//!
//! `SPARRING_SIM_SEEDS=N` runs so many seeds, `SPARRING_SIM_SEED=N` one, and tells what it consists of.

mod client;
mod mutations;
mod plan;
mod regressions;
mod seeds;
mod server;
mod story;

/// The bit that ends a worker.
const STOP: u64 = 1;

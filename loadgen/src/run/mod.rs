//! One run: a set of connections, one load, one result.
//!
//! The `coordinator` leads the workers through the phases; each worker is an engine that drives a
//! `client`, the handler of its share of the connections. A message goes through `outgoing` (built
//! from `payload`) and `ledger` (entered as sent), and its echo through `check`, `ledger` and
//! `tally`. When it is over, `assemble` makes of it what is stored.
//!
//! In a closed loop every connection keeps [`pipeline`](crate::load::Load::pipeline) messages
//! outstanding. All places that become free in one turn of the engine are filled in one send for
//! each connection. In an open loop ([`is_open_loop`](crate::load::Load::is_open_loop)) messages
//! leave when the `schedule` says, however many are outstanding, and latency runs from the planned
//! time.
//!
//! A message counts as sent at the clock reading just before the turn's sends leave. An echo counts
//! as received at the clock reading at the beginning of the turn. So latencies are exact to one
//! turn, and to one enter.

mod answers;
mod assemble;
mod check;
mod client;
mod compressed;
mod coordinator;
mod destination;
mod error;
mod first_messages;
mod ledger;
mod outgoing;
mod own;
mod pace;
mod payload;
mod plan;
mod preflight;
mod process_shard;
mod progress;
mod random;
mod rate_curve;
mod rehearsal;
mod schedule;
mod server_meter;
mod shared;
mod stage_tally;
mod started;
mod tally;
mod target;
mod template;
mod validity;
mod worker;

#[doc(hidden)]
pub use client::{Client, Conn};
pub use error::{Opened, RunError};
pub(crate) use plan::{MAX_RATE, require};
pub use plan::{Placement, Plan, PlanError, Wait};
pub use process_shard::ProcessShard;
pub use progress::{Phase, Progress, Silent, Snapshot};
pub(crate) use random::Random;
#[doc(hidden)]
pub use rehearsal::{Counted, Rehearsal, WorkerEvent};
pub use target::Target;
pub(crate) use target::check_tls;
pub(crate) use validity::wrong_echoes;

use std::sync::Arc;

use hdrhistogram::Histogram;

use crate::result::{Run, Utc};
use crate::target::clock;
use crate::target::subject::Subject;

use assemble::{Context, assemble};
use coordinator::Coordinator;
use destination::Secured;
use shared::Shared;
use started::Started;
use tally::CompressionTally;

/// Carries out `plan` and returns what was measured.
///
/// Blocks for the length of the run, and never longer than its timeouts allow.
///
/// A run with wrong echoes or lost connections is a result, with its counts and with
/// [`valid`](Run::valid) unset. A run whose server ended, closed all connections or stopped
/// answering once the load had begun is a result too ([`ended_early`](Run::ended_early)). A run
/// that could not be carried out is an error.
///
/// # Errors
///
/// Fails with a [`RunError`]. Nothing is left running then.
pub fn execute(plan: &Plan, progress: &mut dyn Progress) -> Result<Run, RunError> {
    let Outcome { run, error, .. } = measure(plan, progress)?;
    if let Some(error) = error {
        progress.note(&error.to_string());
    }
    Ok(run)
}

/// A run with what is too much to store of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The part that is stored.
    pub(crate) run: Run,
    /// The corrected latencies (nanoseconds) of each second of [`Run::series`]; `None` where there
    /// were none, and after the first hour.
    pub(crate) seconds: Vec<Option<Histogram<u32>>>,
    /// Error that ended the load early, with the last output of a spawned server.
    pub(crate) error: Option<RunError>,
    /// The server as its metrics describe it.
    pub(crate) subject: Option<Subject>,
}

/// Carries out `plan` as [`execute`] does, and returns the histogram of each second, too.
pub(crate) fn measure(plan: &Plan, progress: &mut dyn Progress) -> Result<Outcome, RunError> {
    plan.check()?;
    preflight::check_limits(plan)?;
    let cpus = preflight::place(plan);
    let plan = &plan.clone().with(|changed| {
        changed.placement.wait = Some(preflight::wait(plan, &cpus));
        changed.load.measure = plan.load.window();
    });
    // The port of `{port}` is not known yet.
    let mut addresses = preflight::resolve(plan, 0)?;
    let secured = Secured::of(plan)?;
    preflight::check_ports(plan)?;
    let metrics = plan.target.metrics.as_ref().map(preflight::first_reading).transpose()?;
    let mut started = Started::start(plan, &mut addresses[0], &mut || !progress.interrupted())?;
    let clock = plan.placement.shard.map(|_| {
        let client = secured.as_ref().and_then(|secured| secured.settings.connects.first());
        clock::offset(&plan.target.url, &addresses[0], client).map_err(|error| format!("{error:#}"))
    });
    let shared = Arc::new(Shared { secured, ..Shared::new(plan, addresses)? });
    let start = Utc::now();
    let mut measured =
        Coordinator::start(plan, shared.clone(), &cpus, &mut started, metrics, progress)?.run()?;
    let facts = measured.metrics.as_ref().and_then(|facts| facts.as_ref().ok().cloned());
    let (announced, subject) = facts.map(|facts| (facts.announced, facts.subject)).unzip();
    let mut said = started.end();
    said.server = said.server.or(announced);
    let address = shared.addresses_in_use();
    let CompressionTally { answer, compressed_on_send, .. } = measured.tally.compression;
    let agreed = answer.flatten().filter(|_| compressed_on_send > 0);
    let compress_ns = compressed::ns_per_message(&plan.load, shared.rules().source, agreed);
    let message_cost = shared.judges_answers().then(|| shared.rules().cost());
    let cpus = &cpus;
    let context = Context { plan, start, cpus, said, address, compress_ns, message_cost, clock };
    let run = assemble(context, &measured);
    let intervals = std::mem::take(&mut measured.tally.intervals);
    let seconds =
        intervals.into_iter().take(run.series.len()).map(|histogram| Some(*histogram?)).collect();
    let error = measured.broken.map(|(error, _)| error);
    Ok(Outcome { run, seconds, error, subject })
}

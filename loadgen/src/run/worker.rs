//! The worker threads of a run.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::anyhow;
use engine::tls::{Tls, TlsSettings};
use engine::{Config, Counters, EngineKind, Inbox, Linger, Remote, Spin, UringConfig, affinity};

use super::client::Client;
use super::error::RunError;
use super::plan::{Plan, Wait};
use super::preflight;
use super::shared::{Report, Shared};
use super::tally::Tally;

/// Longest time of a gentle close.
const LINGER: Duration = Duration::from_secs(1);
/// Places for connections in all that are closing, at most.
const MAX_SPARE: u32 = 4096;
const MAX_CQ_ENTRIES: u32 = 32_768;

pub(super) struct WorkerThread {
    pub(super) remote: Remote,
    pub(super) thread: JoinHandle<(Tally, Counters)>,
}

impl WorkerThread {
    pub(super) fn start(
        plan: &Plan,
        shared: &Arc<Shared>,
        reports: &Sender<Report>,
        index: usize,
        cpu: Option<usize>,
    ) -> Result<Self, RunError> {
        let failed = |what| move |source| RunError::System { what, source };
        let (remote, inbox) = engine::remote().map_err(failed("cannot make an eventfd"))?;
        let config = config(plan, shared.shard(index).count() + shared.idle_shard(index).count());
        let tls = shared.secured.as_ref().map(|secured| secured.settings.clone());
        let (kind, reports) = (plan.placement.engine, reports.clone());
        let shared = shared.clone();
        let work = move || {
            // Made in its thread, so that its memory shares no cache line with that of another.
            let client = Client::new(shared, index, reports.clone());
            let (client, ran) = work(client, tls, kind, &config, inbox, cpu);
            let counters = ran.unwrap_or_else(|error| {
                // Without a receiver of the report, the run has failed for another reason.
                let _ = reports.send(Report::Failed(error));
                Counters::default()
            });
            (client.into_tally(), counters)
        };
        let thread = thread::Builder::new().name(format!("load-{index}")).spawn(work);
        Ok(Self { remote, thread: thread.map_err(failed("cannot start a thread"))? })
    }
}

fn work(
    mut client: Client,
    tls: Option<TlsSettings>,
    kind: EngineKind,
    config: &Config,
    inbox: Inbox,
    cpu: Option<usize>,
) -> (Client, Result<Counters, RunError>) {
    if let Some(cpu) = cpu
        && let Err(error) = affinity::pin(cpu)
    {
        let error = anyhow!("cannot pin a thread to processor {cpu}: {error}; see --cpus");
        return (client, Err(RunError::Setup(error)));
    }
    // The kernel may let a thread sleep 50 us longer than it asked, to wake several at once: here
    // that would be lag. Where it is refused, it shows as such.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let ran = match tls {
        None => engine::run(kind, config, inbox, &mut client),
        Some(tls) => {
            let mut outer = Tls::new(client, tls);
            let ran = engine::run(kind, config, inbox, &mut outer);
            client = outer.into_inner();
            ran
        }
    };
    (client, ran.map_err(RunError::from))
}

/// Places for connections that begin while the ones before them are still closing.
pub(super) fn spare(plan: &Plan, connections: u32) -> u32 {
    if plan.load.replaces_connections() || plan.load.reconnect {
        connections.min(MAX_SPARE)
    } else {
        0
    }
}

pub(super) fn config(plan: &Plan, connections: u32) -> Config {
    let uring = UringConfig::default();
    let cq_entries =
        connections.saturating_mul(2).next_power_of_two().clamp(uring.cq_entries, MAX_CQ_ENTRIES);
    Config {
        max_accepted: 0,
        max_connects: connections as usize + spare(plan, connections) as usize,
        // What is unsent is bounded by the pipeline. Ceasing to read above some bound could only
        // end in a deadlock with a server that does the same.
        high_water: usize::MAX,
        write_stall: plan.load.answer_timeout,
        spin: if plan.placement.wait == Some(Wait::Spin) { Spin::Always } else { Spin::Off },
        linger: Linger { bytes: u64::MAX, time: LINGER },
        congestion: plan.placement.congestion.clone(),
        local_ports: preflight::local_ports(plan),
        uring: UringConfig { cq_entries, ..uring },
        ..Config::default()
    }
}

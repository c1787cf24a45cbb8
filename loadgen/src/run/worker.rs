//! The worker threads of a run.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::anyhow;
use engine::tls::Tls;
use engine::{Config, Counters, EngineKind, Handler, Inbox, Linger, Remote, Spin, UringConfig, affinity};

use super::client::Client;
use super::error::RunError;
use super::plan::{Plan, Wait};
use super::preflight;
use super::shared::{Report, Shared};
use super::tally::Tally;

/// How long a gentle close may take; the run waits no longer for anything.
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
        let client = Client::new(shared.clone(), index, reports.clone());
        let tls = shared.tls.clone();
        let (reports, kind, config) = (
            reports.clone(),
            plan.placement.engine,
            config(plan, shared.shard(index).count() + shared.idle_shard(index).count()),
        );
        let thread = thread::Builder::new()
            .name(format!("load-{index}"))
            .spawn(move || match tls {
                None => work(kind, &config, inbox, client, |client| client, cpu, &reports),
                Some(tls) => {
                    work(kind, &config, inbox, Tls::new(client, tls), Tls::into_inner, cpu, &reports)
                }
            })
            .map_err(failed("cannot start a thread"))?;
        Ok(Self { remote, thread })
    }
}

/// The whole life of a worker whose client is `handler`, or inside it.
fn work<H: Handler>(
    kind: EngineKind,
    config: &Config,
    inbox: Inbox,
    mut handler: H,
    client: impl FnOnce(H) -> Client,
    cpu: Option<usize>,
    reports: &Sender<Report>,
) -> (Tally, Counters) {
    // Where nobody listens to a report any more, the run has failed for another reason.
    let failed = |error| drop(reports.send(Report::Failed(error)));
    let pinned = cpu.map_or(Ok(()), |cpu| {
        affinity::pin(cpu).map_err(|error| {
            RunError::Setup(anyhow!("cannot pin a thread to processor {cpu}: {error}; see --cpus"))
        })
    });
    // The kernel may let a thread sleep 50 us longer than it asked, to wake several at once: here that would be lag. Where it
    // is refused, it shows as such.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let ran = pinned.and_then(|()| Ok(engine::run(kind, config, inbox, &mut handler)?));
    let counters = ran.map_err(failed).unwrap_or_default();
    (client(handler).into_tally(), counters)
}

/// Places for connections that begin while the ones before them are still closing.
pub(super) fn spare(plan: &Plan, connections: u32) -> u32 {
    if plan.load.replaces_connections() || plan.load.reconnect { connections.min(MAX_SPARE) } else { 0 }
}

pub(super) fn config(plan: &Plan, connections: u32) -> Config {
    let uring = UringConfig::default();
    let cq_entries =
        connections.saturating_mul(2).next_power_of_two().clamp(uring.cq_entries, MAX_CQ_ENTRIES);
    Config {
        max_accepted: 0,
        max_connects: connections as usize + spare(plan, connections) as usize,
        // What is unsent is bounded by the pipeline. Ceasing to read above some bound could only end in a deadlock with a
        // server that does the same.
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

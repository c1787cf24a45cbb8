//! One worker of a run without its thread and without the coordinator: for simulations of the
//! engine under it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use engine::{Config, Nanos};

use super::client::Client;
use super::plan::Plan;
use super::shared::{Report, Shared, orders};
use super::worker;
use crate::result::{Errors, Integrity, Messages};

/// Coordinator's part of a run, for a simulation that replaces it.
#[derive(Debug)]
pub struct Rehearsal {
    shared: Arc<Shared>,
    reports: Receiver<Report>,
}

/// Event of the worker.
#[derive(Debug, PartialEq, Eq)]
pub enum WorkerEvent {
    /// All connections are open.
    Connected,
    /// A connection could not be opened.
    Unopened(String),
    /// After the window everything is back.
    Drained,
    /// All connections are gone.
    AllConnectionsLost,
}

/// Counts of the worker over the whole run.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Outcomes of all messages.
    pub messages: Messages,
    /// Description of the first count that does not add up, if there is one.
    pub imbalance: Option<String>,
    /// Faults of connections.
    pub errors: Errors,
    /// Faults of echoes.
    pub integrity: Integrity,
    /// Compressed messages that came.
    pub compressed: u64,
}

impl Rehearsal {
    /// Waking the worker with these bits ends it, and its connections before.
    pub const CLOSE: u64 = orders::CLOSE;

    /// Waking the worker with these bits ends it at once.
    pub const STOP: u64 = orders::STOP;

    /// Returns the only worker of `plan`, which connects to one of the `addresses`.
    pub fn new(plan: &Plan, addresses: Vec<SocketAddr>) -> (Self, Client) {
        let shared = Shared::new(plan, vec![addresses]).expect("a plan that was checked");
        let shared = Arc::new(shared);
        let (sender, reports) = channel();
        let client = Client::new(shared.clone(), 0, sender);
        (Self { shared, reports }, client)
    }

    /// Returns the engine's configuration of a run.
    pub fn config(plan: &Plan) -> Config {
        worker::config(plan, plan.load.connections)
    }

    /// Sets the window; waking the worker with the bits returned begins the load.
    pub fn load(&self, start: Nanos, span: Duration) -> u64 {
        self.shared.window.set(start, start, start + span);
        orders::LOAD
    }

    /// Returns the next event of the worker, if there is one.
    pub fn next_event(&self) -> Option<WorkerEvent> {
        self.reports.try_iter().find_map(|report| match report {
            Report::Connected => Some(WorkerEvent::Connected),
            Report::Failed(error) => Some(WorkerEvent::Unopened(error.to_string())),
            Report::AllConnectionsLost(_) => Some(WorkerEvent::AllConnectionsLost),
            Report::Drained => Some(WorkerEvent::Drained),
            Report::LostAtOnce(_) | Report::LoadEnded => None,
        })
    }

    /// Returns the addresses that connections were made to.
    pub fn addresses_in_use(&self) -> Option<String> {
        self.shared.addresses_in_use()
    }

    /// Returns the counts.
    pub fn outcome(client: Client) -> Counted {
        let tally = client.into_tally();
        let (messages, errors, integrity) = (tally.messages(), tally.errors, tally.integrity);
        let compressed = tally.compression.received.messages;
        Counted { messages, imbalance: tally.imbalance, errors, integrity, compressed }
    }
}

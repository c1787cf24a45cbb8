//! The io_uring engine.
//!
//! [`core`] is the turn. One enter submits the operations that the previous turn has queued, and
//! waits for completions. Sends are completed first, which releases receive buffers. Everything
//! else is then reported to the handler in the order of the completions. Timers, wakes and the
//! turn's end follow. Finally the output is queued, with one send for each connection, and receives
//! are armed again. `engine/README.md` explains when a receive buffer is free, and how a connection
//! closes.

mod accept;
pub(crate) mod address;
mod buf_ring;
mod closing;
mod connect;
pub(crate) mod core;
mod events;
mod inbound;
#[cfg(feature = "sim")]
pub(crate) mod inspect;
mod kernel;
mod memory;
mod message;
mod outbound;
mod outputs;
mod pieces;
mod queues;
mod receive_buffers;
mod receive_queue;
pub(crate) mod ring;
mod setup;
mod slots;
mod supply;
mod timers;

use crate::accounting::Counters;
use crate::config::{Config, SendCompletions, UringConfig};
use crate::error::EngineError;
use crate::handler::Handler;
use crate::outgoing;
use crate::remote::Inbox;
use kernel::KernelRing;

/// Sizes of a ring that only tests whether rings work.
const SMALL: UringConfig = UringConfig {
    sq_entries: 8,
    cq_entries: 16,
    buffers: 2,
    buffer_size: 64,
    send_completions: SendCompletions::Auto,
    flush_after: 0,
    large_receive: 0,
    silent_sends: 0,
};

/// Checks that the engine works here, with a small ring of everything that it needs.
pub(crate) fn probe() -> Result<(), EngineError> {
    if let Some(error) = setup::too_old() {
        return Err(error);
    }
    KernelRing::new(&SMALL, 1, 1)?.0.try_enter()
}

/// Checks that rings can be set up and entered here. Another user of io_uring needs nothing else.
#[cfg(feature = "tokio-uring")]
pub(crate) fn probe_calls() -> Result<(), EngineError> {
    setup::try_enter(&mut setup::ring(&SMALL)?)
}

/// See [`crate::run`].
pub(crate) fn run<H: Handler>(
    config: &Config,
    inbox: Inbox,
    handler: &mut H,
) -> Result<Counters, EngineError> {
    let accepted = if config.listeners.is_empty() { 0 } else { as_slots(config.max_accepted) };
    let (ring, buffers) = KernelRing::new(&config.uring, accepted, as_slots(config.max_connects))?;
    let ring = ring.with_outgoing(outgoing::Options::of(config));
    core::Core::new((ring, buffers), config, inbox, accepted)?.run(handler)
}

fn as_slots(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

//! Event loops behind one completion-shaped handler.
//!
//! [`run`] drives one worker on the calling thread: its listeners, its connections, its timers. The
//! engine reports events to a [`Handler`]. The handler writes into an [`Output`] for a connection,
//! and makes requests of its [`Worker`]. Three engines implement this seam:
//!
//! * [`EngineKind::Uring`]: io_uring with multishot receives, provided buffers and direct
//!   descriptors (Linux 6.1 or later);
//! * [`EngineKind::Epoll`]: readiness, for hosts where io_uring is switched off, and as a reference
//!   for the others;
//! * [`EngineKind::TokioUring`]: the tokio-uring runtime, to show what that runtime costs. The
//!   cargo feature of that name builds it.
//!
//! The seam is completion-shaped: readiness can emulate completions easily, but not the reverse. A
//! process uses one engine, compiled for its handler. This crate has no WebSocket.
//! `engine/README.md` explains the design.
#![allow(unsafe_code, reason = "system interfaces; every block carries its argument")]

#[cfg(feature = "sim")]
#[macro_use]
mod mutation;
/// Constant `false`: this build has no mutations.
#[cfg(not(feature = "sim"))]
macro_rules! mutated {
    ($mutation:ident) => {
        false
    };
}

mod accounting;
pub mod affinity;
mod config;
mod connection;
mod epoll;
mod error;
mod handler;
mod incoming;
mod kind;
mod lifecycle;
mod outgoing;
mod output;
mod pool;
mod remote;
#[cfg(feature = "sim")]
pub mod sim;
pub mod socket;
mod spread;
mod table;
mod time;
pub mod tls;
mod token;
#[cfg(feature = "tokio-uring")]
mod tokio_uring;
mod uring;
mod wheel;

pub use accounting::{Counters, Load};
pub use config::{Config, Linger, Listener, SendCompletions, Spin, UringConfig};
pub use connection::{Cause, CloseMode, ConnId, Connect, Origin};
pub use error::EngineError;
pub use handler::{Handler, Worker, WorkerCore};
pub use kind::{EngineChoice, EngineKind, UnknownEngine};
pub use output::{Commands, Output, Record, Segment};
pub use pool::BufferPool;
pub use remote::{Inbox, Remote, remote};
pub use spread::{SpreadMember, spread};
pub use time::{Nanos, process_cpu_time, thread_cpu_time};
pub use {rustls, webpki};

/// Drives one worker on the calling thread until the handler calls [`WorkerCore::stop`].
///
/// The caller pins the thread where it wants to (see [`affinity`]). The listeners of `config` stay
/// the caller's; the engine only accepts on them. Returns the worker's counters. Connections still
/// open at the stop are closed with [`Cause::Shutdown`].
///
/// # Errors
///
/// [`EngineError`] where the engine cannot be set up, with cause and remedy, or where the kernel
/// refuses a call without which the run cannot continue. A fault of one connection is never an
/// error of the run: it reaches the handler as [`Handler::closed`] with its [`Cause`].
pub fn run<H: Handler>(
    kind: EngineKind,
    config: &Config,
    inbox: Inbox,
    handler: &mut H,
) -> Result<Counters, EngineError> {
    match kind {
        EngineKind::Uring => uring::run(config, inbox, handler),
        #[cfg(feature = "tokio-uring")]
        EngineKind::TokioUring => tokio_uring::run(config, inbox, handler),
        #[cfg(not(feature = "tokio-uring"))]
        EngineKind::TokioUring => Err(EngineError::NotBuilt { engine: kind.name() }),
        EngineKind::Epoll => epoll::run(config, inbox, handler),
    }
}

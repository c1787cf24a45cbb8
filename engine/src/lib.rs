//! Event loops behind one completion-shaped handler.
//!
//! [`run`] drives one worker on the calling thread: its listeners, its connections, its timers. What happens is told to
//! a [`Handler`]; what the handler wants done it writes into an [`Output`] (per connection) or asks of its [`Worker`].
//! Three engines stand behind the same seam:
//!
//! * [`EngineKind::Uring`]: raw io_uring, multishot receives, provided buffers, direct descriptors (Linux 6.1 or later);
//! * [`EngineKind::Epoll`]: readiness, for hosts where io_uring is switched off, and the oracle for the others;
//! * [`EngineKind::TokioUring`]: the tokio-uring runtime, kept to show what that runtime costs.
//!
//! The seam is completion-shaped because emulating completions on readiness is easy and the reverse is not. The engine
//! is chosen once per process and monomorphised per handler. This crate knows no WebSocket.
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
mod table;
mod time;
pub mod tls;
mod token;
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
pub use time::{Nanos, process_cpu_time};
pub use {rustls, webpki};

/// Drives one worker on the calling thread until the handler calls [`Worker::stop`].
///
/// The caller has pinned the thread where it wants to (see [`affinity`]) and built one handler for it. Descriptors of
/// `config.listeners` stay the caller's; the engine only accepts on them.
///
/// Returns what the engine counted. Connections still open at the stop are closed with [`Cause::Shutdown`].
///
/// # Errors
///
/// [`EngineError`] when the engine cannot be set up (the error names cause and remedy) or the kernel refuses it in
/// mid-run in a way that has no way on. A fault of a single connection is never an error of the run: it reaches the
/// handler as [`Handler::closed`] with its [`Cause`].
pub fn run<H: Handler>(
    kind: EngineKind,
    config: &Config,
    inbox: Inbox,
    handler: &mut H,
) -> Result<Counters, EngineError> {
    match kind {
        EngineKind::Uring => uring::run(config, inbox, handler),
        EngineKind::TokioUring => tokio_uring::run(config, inbox, handler),
        EngineKind::Epoll => epoll::run(config, inbox, handler),
    }
}

//! What a handler can ask of its worker.

use std::net::SocketAddr;

use crate::accounting::{Counters, Load};
use crate::handler::{ConnId, Connect, Handler};
use crate::output::Output;
use crate::time::Nanos;

/// The engine's side of [`Worker`]. Engines and adaptors implement it; a test of a handler may too.
pub trait WorkerCore<H: Handler> {
    /// See [`Worker::now`].
    fn now(&self) -> Nanos;
    /// See [`Worker::clock`].
    fn clock(&self) -> Nanos;
    /// See [`Worker::connect`].
    fn connect(&mut self, connect: Connect);
    /// See [`Worker::with`]; `f` is called at most once. Whether it was called.
    fn with(&mut self, id: ConnId, f: &mut dyn FnMut(&mut H::Conn, &mut Output<'_>)) -> bool;
    /// Aborts a connection; see [`Worker::abort`].
    fn abort(&mut self, id: ConnId);
    /// See [`Worker::connections`].
    fn connections(&self) -> usize;
    /// See [`Worker::ids`].
    fn ids(&self) -> Vec<ConnId>;
    /// See [`Worker::set_alarm`].
    fn set_alarm(&mut self, at: Option<Nanos>);
    /// See [`Worker::listening`].
    fn listening(&mut self, listener: u16, on: bool);
    /// See [`Worker::local_addr`].
    fn local_addr(&self, listener: u16) -> Option<SocketAddr>;
    /// See [`Worker::stop`].
    fn stop(&mut self);
    /// See [`Worker::counters`].
    fn counters(&self) -> Counters;
    /// See [`Worker::load`].
    fn load(&self) -> Load;
}

/// A handler's view of the worker that drives it.
pub struct Worker<'a, H: Handler> {
    core: &'a mut dyn WorkerCore<H>,
}

impl<'a, H: Handler> Worker<'a, H> {
    /// A view of `core`.
    pub fn new(core: &'a mut dyn WorkerCore<H>) -> Self {
        Self { core }
    }

    /// The time at which the turn began: one clock read for all events of the turn.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.core.now()
    }

    /// Reads the clock.
    #[must_use]
    pub fn clock(&self) -> Nanos {
        self.core.clock()
    }

    /// Begins a connection. [`Handler::opened`] or [`Handler::connect_failed`] follows in a later turn, never from
    /// within this call.
    pub fn connect(&mut self, connect: Connect) {
        self.core.connect(connect);
    }

    /// Calls `f` with a connection's state and its output; `None` when the connection is gone or closing.
    pub fn with<R>(&mut self, id: ConnId, f: impl FnOnce(&mut H::Conn, &mut Output<'_>) -> R) -> Option<R> {
        let (mut f, mut result) = (Some(f), None);
        self.core.with(id, &mut |conn, out| {
            if let Some(f) = f.take() {
                result = Some(f(conn, out));
            }
        });
        result
    }

    /// Discards the unsent output of a connection and closes it, also while it is already closing gently.
    /// Does nothing when the connection is gone.
    pub fn abort(&mut self, id: ConnId) {
        self.core.abort(id);
    }

    /// Number of open connections of this worker, those that are closing included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.core.connections()
    }

    /// The open connections that are not closing. Allocates: for drains, not for every turn.
    #[must_use]
    pub fn ids(&self) -> Vec<ConnId> {
        self.core.ids()
    }

    /// Sets or unsets the worker's one alarm, as precise as the engine can. A point in the past rings in the next turn.
    pub fn set_alarm(&mut self, at: Option<Nanos>) {
        self.core.set_alarm(at);
    }

    /// Goes on or ceases accepting at a listener (index in [`Config::listeners`](crate::Config::listeners)). Ceasing leaves
    /// the socket open: the kernel goes on queueing connections.
    pub fn listening(&mut self, listener: u16, on: bool) {
        self.core.listening(listener, on);
    }

    /// The address a listener is bound to.
    #[must_use]
    pub fn local_addr(&self, listener: u16) -> Option<SocketAddr> {
        self.core.local_addr(listener)
    }

    /// What this worker has counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.core.counters()
    }

    /// What this worker has in hand. Looks at every connection: for reports, not for every turn.
    #[must_use]
    pub fn load(&self) -> Load {
        self.core.load()
    }

    /// Ends the run after this turn. What was written in it is still offered to the kernel once; connections still open
    /// are closed with [`Cause::Shutdown`](crate::Cause::Shutdown).
    pub fn stop(&mut self) {
        self.core.stop();
    }
}

//! The seam between an engine and its user: what the engine calls, and what it can be asked.

use std::io;
use std::net::SocketAddr;

use crate::accounting::{Counters, Load};
use crate::connection::{Cause, ConnId, Connect, Origin};
use crate::output::Output;
use crate::time::Nanos;

/// User of one worker: the server's echo, the generator's connections, or an adaptor such as TLS.
///
/// All calls come on the worker's thread, one at a time. A handler reads no clock (the time comes
/// with [`Output::now`] and [`WorkerCore::now`]), no randomness of the operating system and no
/// signals, so that a simulator can drive it.
///
/// Calls of a turn come in this order:
///
/// 1. [`connect_failed`](Self::connect_failed), [`opened`](Self::opened),
///    [`received`](Self::received), [`eof`](Self::eof), [`drained`](Self::drained) and
///    [`closed`](Self::closed), for what has happened since the turn before;
/// 2. [`deadline`](Self::deadline), for each connection whose deadline has passed;
/// 3. [`alarm`](Self::alarm);
/// 4. [`woken`](Self::woken);
/// 5. [`turn_end`](Self::turn_end).
///
/// Then everything that was written in the turn is sent. An engine may send earlier, never later.
/// The order of calls on `Output` is the order on the wire, across all calls of a turn.
pub trait Handler: Sized + 'static {
    /// The handler's state of one connection, inline in the engine's table. Keep it small (at most
    /// 64 bytes).
    type Conn: 'static;

    /// Called once, before anything else.
    fn start(&mut self, w: &mut Worker<'_, Self>);

    /// Creates the state of a new connection. Output written here is sent first.
    fn opened(&mut self, id: ConnId, from: Origin, out: &mut Output<'_>) -> Self::Conn;

    /// Reports that the connection's TLS handshake has succeeded and that output written before is
    /// on its way. `is_resumed`: it has resumed an earlier session. Only
    /// [`Tls`](crate::tls::Tls) calls it; plain connections have no such step.
    fn secured(
        &mut self,
        _id: ConnId,
        _c: &mut Self::Conn,
        _is_resumed: bool,
        _out: &mut Output<'_>,
    ) {
    }

    /// Reports that the [`WorkerCore::connect`] with this `tag` failed. Its slot is free: a connect
    /// begun here can take it, at [`Config::max_connects`](crate::Config::max_connects) too.
    fn connect_failed(&mut self, w: &mut Worker<'_, Self>, tag: u64, error: io::Error);

    /// Handles received bytes. The handler consumes all of them and copies what it needs later. It
    /// may write to `bytes` and send ranges of them with [`Output::echo`].
    ///
    /// Not called while paused, nor after [`Output::close`] or [`eof`](Self::eof).
    fn received(&mut self, id: ConnId, c: &mut Self::Conn, bytes: &mut [u8], out: &mut Output<'_>);

    /// Reports the peer's FIN: the peer sends nothing more, but may still read. The connection
    /// stays open in the other direction until the handler closes it.
    fn eof(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>);

    /// Reports that the kernel has accepted all of a backlog.
    ///
    /// Called only where a turn had ended with a backlog: a handler that sees a large
    /// [`Output::unsent`] within its own turn is told nothing when the kernel then accepts
    /// everything. `unsent` can be above zero again, by what was written in this turn. The
    /// tokio-uring engine also calls it where the peer was not slow.
    fn drained(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>);

    /// Reports that the connection's deadline ([`Output::set_deadline`]) has passed. The deadline
    /// is unset again.
    fn deadline(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>);

    /// Takes back the state of a connection that has ended: exactly once for every
    /// [`opened`](Self::opened), as the last call for the connection, and never from within another
    /// call.
    fn closed(&mut self, id: ConnId, c: Self::Conn, cause: Cause);

    /// Reports that the worker's alarm ([`WorkerCore::set_alarm`]) has passed. The alarm is unset
    /// again.
    fn alarm(&mut self, w: &mut Worker<'_, Self>);

    /// Reports calls of [`Remote::wake`](crate::Remote::wake): the bits of all calls since the last
    /// report, joined.
    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64);

    /// Called when all of a turn's events have been reported: the last opportunity to write before
    /// the turn's output is sent.
    fn turn_end(&mut self, w: &mut Worker<'_, Self>);
}

/// Worker that drives a handler, as the handler sees it.
pub type Worker<'a, H> = dyn WorkerCore<H> + 'a;

/// Requests that a handler can make of its worker. Engines and adaptors implement it; a test of a
/// handler may too.
pub trait WorkerCore<H: Handler> {
    /// Returns the time at which the turn began: one reading of the clock for all events of the
    /// turn.
    fn now(&self) -> Nanos;

    /// Reads the clock.
    fn clock(&self) -> Nanos;

    /// Begins a connection. [`Handler::opened`] or [`Handler::connect_failed`] follows in a later
    /// turn, never from within this call.
    fn connect(&mut self, connect: Connect);

    /// Calls `f` at most once with a connection's state and output. Returns whether it was called:
    /// not when the connection is gone or closing. [`Worker`] has `with`, which takes any closure
    /// and returns its result.
    fn call(&mut self, id: ConnId, f: &mut dyn FnMut(&mut H::Conn, &mut Output<'_>)) -> bool;

    /// Discards the unsent output of a connection and closes it, also while it drains or lingers.
    /// Does nothing when the connection is gone.
    fn abort(&mut self, id: ConnId);

    /// Returns the number of connections of this worker, those that are closing included.
    fn connections(&self) -> usize;

    /// Returns the ids of all open connections that are not closing. Allocates: meant for a
    /// shutdown, not for every turn.
    fn ids(&self) -> Vec<ConnId>;

    /// Sets or unsets the worker's one alarm, as precise as the engine can. A time in the past
    /// fires in the next turn.
    fn set_alarm(&mut self, at: Option<Nanos>);

    /// Starts or stops accepting at a listener (index in
    /// [`Config::listeners`](crate::Config::listeners)). The socket stays open, and the kernel
    /// continues to queue connections.
    fn listening(&mut self, listener: u16, on: bool);

    /// Returns the address that a listener is bound to.
    fn local_addr(&self, listener: u16) -> Option<SocketAddr>;

    /// Ends the run after this turn. The turn's output is still offered to the kernel once.
    /// Connections still open are closed with [`Cause::Shutdown`].
    fn stop(&mut self);

    /// Returns the worker's counters.
    fn counters(&self) -> Counters;

    /// Returns the worker's connections and backlogs at this moment. Visits every connection: meant
    /// for reports, not for every turn.
    fn load(&self) -> Load;
}

impl<H: Handler> dyn WorkerCore<H> + '_ {
    /// Calls `f` with a connection's state and output. Returns `None` when the connection is gone
    /// or closing.
    pub fn with<R>(
        &mut self,
        id: ConnId,
        f: impl FnOnce(&mut H::Conn, &mut Output<'_>) -> R,
    ) -> Option<R> {
        let (mut f, mut result) = (Some(f), None);
        self.call(id, &mut |conn, out| {
            if let Some(f) = f.take() {
                result = Some(f(conn, out));
            }
        });
        result
    }
}

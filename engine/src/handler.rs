//! The handler: what the engine tells its user.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::output::Output;
use crate::time::Nanos;
use crate::tls::TlsError;
use crate::worker::Worker;

/// A connection of one worker: its place in the table and how often that place has been used.
///
/// An id outlives its connection harmlessly: the generation no longer matches, and nothing is found under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Index in the worker's table.
    pub slot: u32,
    /// How many connections had this slot before.
    pub generation: u32,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A listener accepted it.
    Accepted {
        /// Index in [`Config::listeners`](crate::Config::listeners).
        listener: u16,
        /// The other end, where the listener was told to learn it
        /// ([`Listener::peer_addresses`](crate::Listener::peer_addresses)) or the engine has it for nothing.
        peer: Option<SocketAddr>,
    },
    /// [`Worker::connect`] made it.
    Connected {
        /// The caller's own mark, from [`Connect::tag`].
        tag: u64,
    },
}

/// A connection to be made; its outcome is [`Handler::opened`] or [`Handler::connect_failed`].
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    /// Where to.
    pub to: SocketAddr,
    /// Source address; port 0 lets the kernel choose one at connect time (`IP_BIND_ADDRESS_NO_PORT`).
    pub from: Option<SocketAddr>,
    /// The caller's own mark, handed back.
    pub tag: u64,
    /// After this span the attempt fails with [`io::ErrorKind::TimedOut`]. Coarse (tens of milliseconds), never early.
    pub timeout: Duration,
}

/// How a connection is ended by its own side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// Send everything, half-close, read and discard until the other end closes (bounded by
    /// [`Linger`](crate::Linger)), then close. A plain close with unread input would send a reset, which can destroy
    /// the last bytes at the other end.
    Flush,
    /// Drop what is unsent and close.
    Abort,
}

/// Why a connection is gone.
#[derive(Debug)]
pub enum Cause {
    /// Both sides closed, the other end's FIN came first or answered ours.
    PeerClosed,
    /// Our side closed and did not wait to the end ([`CloseMode::Abort`], or the linger's bounds were reached).
    Closed,
    /// The other end reset the connection.
    Reset,
    /// The other end took none of our bytes for [`Config::write_stall`](crate::Config::write_stall).
    WriteStalled,
    /// Another error of the socket.
    Io(io::Error),
    /// Its TLS failed. Boxed, so that no connection is larger for it.
    Tls(Box<TlsError>),
    /// [`Worker::stop`] ended the run.
    Shutdown,
}

/// One worker's user: the server's echo, the generator's connections, an adaptor such as TLS.
///
/// All calls come on the worker's thread, one at a time. A handler reads no clock (time comes with [`Output::now`] and
/// [`Worker::now`]), no randomness of the operating system and no signals, so that a simulator can drive it.
///
/// A turn of the engine: take in completions; for each, call the handler; timers; [`woken`](Handler::woken);
/// [`turn_end`](Handler::turn_end); then everything written in the turn leaves, one send for each connection.
/// **The order of calls on `Output` is the order on the wire**, across all calls of a turn.
pub trait Handler: Sized + 'static {
    /// What the handler keeps for each connection, inline in the engine's table. Keep it small (at most 64 bytes).
    type Conn: 'static;

    /// Once, before anything else.
    fn start(&mut self, w: &mut Worker<'_, Self>);

    /// A connection is open. What is written to `out` goes first.
    fn opened(&mut self, id: ConnId, from: Origin, out: &mut Output<'_>) -> Self::Conn;

    /// The connection's TLS handshake is done, and what was written so far is on its way. Only [`Tls`](crate::tls::Tls) calls
    /// it; of a plain connection there is nothing to tell.
    fn secured(&mut self, _id: ConnId, _c: &mut Self::Conn, _out: &mut Output<'_>) {}

    /// Reports that the [`Worker::connect`] with this `tag` failed. Its place is free: a connect begun here
    /// can take it, at [`Config::max_connects`](crate::Config::max_connects) too.
    fn connect_failed(&mut self, w: &mut Worker<'_, Self>, tag: u64, error: io::Error);

    /// Bytes have arrived. The handler consumes all of them: what it needs later it keeps itself. It may write to
    /// `bytes` and have ranges of them sent by [`Output::echo`].
    ///
    /// Not called while paused, nor after [`Output::close`] or [`eof`](Handler::eof).
    fn received(&mut self, id: ConnId, c: &mut Self::Conn, bytes: &mut [u8], out: &mut Output<'_>);

    /// The other end sends nothing more (FIN). It may still read: the connection stays open in the other direction until
    /// the handler closes it.
    fn eof(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>);

    /// Bytes that had been held back, because the other end was slow, have all gone to the kernel.
    ///
    /// It comes only where a turn had ended with bytes held back: a handler that sees a large [`Output::unsent`] within its own
    /// turn hears nothing when the kernel then takes all of it. `unsent` may be above zero again, by what was written in this
    /// turn. On the tokio-uring engine it can also come when nobody was slow.
    fn drained(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>);

    /// The connection's deadline ([`Output::set_deadline`]) has passed. It is unset again.
    fn deadline(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>);

    /// The connection is gone: exactly once for every [`opened`](Handler::opened), and nothing comes after it.
    fn closed(&mut self, id: ConnId, c: Self::Conn, cause: Cause);

    /// The worker's alarm ([`Worker::set_alarm`]) has passed. It is unset again.
    fn alarm(&mut self, w: &mut Worker<'_, Self>);

    /// [`Remote::wake`](crate::Remote::wake) was called: the bits of all calls since the last, joined.
    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64);

    /// All of the turn's events have been told; the last chance to write before the turn's sends leave.
    fn turn_end(&mut self, w: &mut Worker<'_, Self>);
}

/// An absolute point for a span from `now`, `None` for a zero span (the command lines' "off").
pub(crate) fn point(now: Nanos, span: Duration) -> Option<Nanos> {
    (!span.is_zero()).then(|| now + span)
}

//! Values that name a connection, its beginning and its end.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Identity of a connection within its worker: a slot of the table and the slot's generation.
///
/// An id that outlives its connection is harmless: its generation no longer matches, so that
/// nothing is found under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Index in the worker's table.
    pub slot: u32,
    /// Number of connections that had this slot before.
    pub generation: u32,
}

/// Source of a connection: a listener, or the worker's own connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A listener accepted it.
    Accepted {
        /// Index in [`Config::listeners`](crate::Config::listeners).
        listener: u16,
        /// The peer's address, where [`Listener::peer_addresses`](crate::Listener::peer_addresses)
        /// is set or the engine knows it at no cost.
        peer: Option<SocketAddr>,
    },
    /// [`Worker::connect`](crate::WorkerCore::connect) made it.
    Connected {
        /// The caller's mark, from [`Connect::tag`].
        tag: u64,
    },
}

/// An outgoing connection to make. Its outcome is [`Handler::opened`](crate::Handler::opened) or
/// [`Handler::connect_failed`](crate::Handler::connect_failed).
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    /// Target address.
    pub to: SocketAddr,
    /// Source address. With port 0 the kernel chooses one at connect time
    /// (`IP_BIND_ADDRESS_NO_PORT`, ip(7)).
    pub from: Option<SocketAddr>,
    /// The caller's mark, which the outcome carries.
    pub tag: u64,
    /// Time limit of the attempt, which then fails with [`io::ErrorKind::TimedOut`]. Coarse (tens
    /// of milliseconds), never early.
    pub timeout: Duration,
}

/// Way in which the handler ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// Send everything, half-close, then discard input until the peer closes, within the bounds of
    /// [`Linger`](crate::Linger). A plain close with unread input would send a reset, which can
    /// destroy the last bytes at the peer.
    Flush,
    /// Send everything, then close without waiting for the peer. For a peer that has sent its last
    /// bytes: the close sends the FIN then, and no half-close is needed. Bytes that arrive later
    /// are answered with a reset.
    Finish,
    /// Discard the unsent output and close.
    Abort,
}

/// Reason why a connection has ended.
#[derive(Debug)]
pub enum Cause {
    /// Both sides closed: the peer's FIN came first, or answered ours.
    PeerClosed,
    /// Our side closed without waiting for the peer: [`CloseMode::Finish`], [`CloseMode::Abort`],
    /// or the bounds of the linger were reached.
    Closed,
    /// The peer reset the connection.
    Reset,
    /// The peer accepted none of our bytes for [`Config::write_stall`](crate::Config::write_stall).
    WriteStalled,
    /// Another error of the socket.
    Io(io::Error),
    /// A layer between engine and handler, such as TLS, ended the connection. The engine does not
    /// look inside.
    Layer(Box<dyn Error + Send + Sync>),
    /// [`Worker::stop`](crate::WorkerCore::stop) ended the run.
    Shutdown,
}

/// State of a connection, the same in every engine.
///
/// ```text
/// Connecting -> Open -> Draining -> Lingering -> Closing -> Closed
///                  \________\____________\_______/
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The connect is in progress. The handler knows nothing of the connection yet.
    Connecting,
    /// The handler sends and receives.
    Open,
    /// The handler has closed the connection. Its output is still sent, its input is discarded.
    Draining,
    /// All output and our FIN are sent. Input is discarded until the peer's FIN.
    Lingering,
    /// The connection has ended. The last operations end, and the handler is told.
    Closing,
    /// The slot has no connection.
    Closed,
}

impl State {
    /// Returns whether output is still sent.
    pub(crate) fn sends(self) -> bool {
        matches!(self, Self::Open | Self::Draining)
    }
}

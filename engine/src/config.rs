//! What a worker is told before it starts.

use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::socket::Congestion;

/// A socket to accept on.
#[derive(Debug)]
pub struct Listener {
    /// Bound and listening, with `TCP_NODELAY` set (connections inherit it); see [`socket::listen`](crate::socket::listen).
    pub socket: TcpListener,
    /// Learn the other end's address of every connection. On io_uring this costs one accept operation per connection in
    /// place of one for all.
    pub peer_addresses: bool,
}

/// How long a connection that was closed with [`CloseMode::Flush`](crate::CloseMode::Flush) is read from, waiting for the
/// other end to close.
#[derive(Clone, Copy, Debug)]
pub struct Linger {
    /// At most this many bytes are read and discarded.
    pub bytes: u64,
    /// At most this long.
    pub time: Duration,
}

/// Whether an idle worker spins on its completions before it blocks in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spin {
    /// Block at once.
    Off,
    /// Spin for this long first.
    For(Duration),
    /// Never block.
    Always,
}

/// Whether sends on io_uring have completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendCompletions {
    /// None for a send that takes everything, in turns of few sends, where a probe at the start shows that such sends finish inside
    /// the enter; in turns of many, completions that are there when the enter returns. Otherwise as [`SendCompletions::All`].
    #[default]
    Auto,
    /// Every send has a completion, and its buffers come back only then.
    All,
}

/// Bytes of a receive buffer: a message of 64 KiB comes in one receive, header and all. A second one, for its last bytes, would
/// cost the kernel more than they do: it may well acknowledge each receive with a segment of its own.
const RECEIVE_BUFFER: usize = 68 << 10;

/// Sizes of the io_uring engine.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Entries of the submission queue; the kernel rounds up to a power of two.
    pub sq_entries: u32,
    /// Entries of the completion queue; likewise.
    pub cq_entries: u32,
    /// Receive buffers in the ring, a power of two of at most 32,768.
    pub buffers: u16,
    /// Bytes of a receive buffer.
    pub buffer_size: u32,
    /// Completions of sends.
    pub send_completions: SendCompletions,
    /// Bytes of output after which it is sent before the turn goes on. The other ends then work on it while the rest of the
    /// turn is done, and the buffers it lies in are still in the cache; an enter costs little beside so many bytes.
    pub flush_after: usize,
    /// Bytes from which on a receive is large: connections that bring as much are read one after another, each into one buffer,
    /// so that a message is received, worked on and sent while it is in the cache.
    pub large_receive: usize,
    /// A turn of more sends than this has completions for all of them. See [`SendCompletions::Auto`].
    pub silent_sends: usize,
}

impl Default for UringConfig {
    fn default() -> Self {
        Self {
            sq_entries: 1024,
            cq_entries: 4096,
            buffers: 128,
            buffer_size: RECEIVE_BUFFER as u32,
            send_completions: SendCompletions::Auto,
            flush_after: 96 << 10,
            large_receive: 12 << 10,
            silent_sends: 12,
        }
    }
}

/// Everything a worker needs to know.
#[derive(Debug)]
pub struct Config {
    /// Sockets to accept on.
    pub listeners: Vec<Listener>,
    /// Accepted connections open at once, at most; beyond it the worker ceases to accept until some have gone.
    pub max_accepted: usize,
    /// Outgoing connections open at once, at most; beyond it [`Worker::connect`](crate::WorkerCore::connect) fails.
    pub max_connects: usize,
    /// Unsent bytes of a connection above which its reads pause until they have drained.
    pub high_water: usize,
    /// A connection whose other end takes nothing for this long while bytes wait is dropped; zero: never.
    pub write_stall: Duration,
    /// Bounds of a gentle close.
    pub linger: Linger,
    /// Whether to spin while idle.
    pub spin: Spin,
    /// Congestion control of outgoing connections; `None`: the kernel's default. Accepted ones have their listener's, see
    /// [`socket::listen_with`](crate::socket::listen_with).
    pub congestion: Option<Congestion>,
    /// Ports for outgoing connections (`IP_LOCAL_PORT_RANGE`, ip(7), Linux 6.3; older kernels ignore it), both ends within
    /// `net.ipv4.ip_local_port_range`; `None`: all of that. With a range the kernel takes ports of both parities from the
    /// start. Without one it first looks through all odd ones, for every connection again once they are taken: thousands
    /// of connections to one address then cost half a millisecond each.
    pub local_ports: Option<RangeInclusive<u16>>,
    /// Bytes of the receive buffer of the engines that are not io_uring's.
    pub receive_buffer: usize,
    /// The io_uring engine's sizes.
    pub uring: UringConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            max_accepted: 8192,
            max_connects: 8192,
            high_water: 1 << 20,
            write_stall: Duration::from_secs(30),
            linger: Linger { bytes: 1 << 20, time: Duration::from_secs(2) },
            spin: Spin::Off,
            congestion: None,
            local_ports: None,
            receive_buffer: RECEIVE_BUFFER,
            uring: UringConfig::default(),
        }
    }
}

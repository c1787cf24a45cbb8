//! Configuration of a worker.

use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::socket::Congestion;
use crate::spread::SpreadMember;

/// Socket on which a worker accepts connections.
#[derive(Debug)]
pub struct Listener {
    /// Bound and listening socket with `TCP_NODELAY`, which connections inherit; see
    /// [`socket::listen`](crate::socket::listen).
    pub socket: TcpListener,
    /// True if [`Origin::Accepted`](crate::Origin::Accepted) has the peer's address. On io_uring
    /// this costs one operation more for each connection.
    pub peer_addresses: bool,
}

/// Bounds of the linger: how long input of a connection that was closed with
/// [`CloseMode::Flush`](crate::CloseMode::Flush) is discarded until the peer's FIN.
#[derive(Clone, Copy, Debug)]
pub struct Linger {
    /// Most bytes that are discarded.
    pub bytes: u64,
    /// Longest time.
    pub time: Duration,
}

/// Way in which an idle worker waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spin {
    /// Blocks in the kernel at once.
    Off,
    /// Polls for completions for this long, then blocks.
    For(Duration),
    /// Polls and never blocks.
    Always,
}

/// Policy for completions of sends on io_uring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendCompletions {
    /// In turns of few sends, a send that is accepted whole has no completion. In turns of many,
    /// every send has one, which is there when the enter returns. As [`SendCompletions::All`] where
    /// a test at the start shows that sends do not finish inside the enter.
    #[default]
    Auto,
    /// Every send has a completion, and its buffers are returned only then.
    All,
}

/// Bytes of a receive buffer: a message of 64 KiB and its header fit into one receive. A second
/// receive, for the last bytes, would cost the kernel more than they do: it may acknowledge each
/// receive with a segment of its own.
const RECEIVE_BUFFER: usize = 68 << 10;

/// Sizes and limits of the io_uring engine.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Entries of the submission queue. The kernel rounds up to a power of two.
    pub sq_entries: u32,
    /// Entries of the completion queue. The kernel rounds up to a power of two.
    pub cq_entries: u32,
    /// Number of receive buffers, a power of two of at most 32,768.
    pub buffers: u16,
    /// Bytes of a receive buffer.
    pub buffer_size: u32,
    /// Policy for completions of sends.
    pub send_completions: SendCompletions,
    /// Bytes of output after which it is sent before the turn continues. The peers then handle it
    /// during the rest of the turn, and its buffers are still in the cache. The extra enter costs
    /// little beside this number of bytes.
    pub flush_after: usize,
    /// Bytes from which on a receive is large. Connections with large receives are read one after
    /// another, each into one buffer, so that a message is received, handled and sent while it is
    /// in the cache.
    pub large_receive: usize,
    /// Most sends of a turn that have no completions; see [`SendCompletions::Auto`].
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

/// Configuration of a worker.
#[derive(Debug)]
pub struct Config {
    /// Listeners of the worker.
    pub listeners: Vec<Listener>,
    /// Most accepted connections at a time. Beyond it the worker stops accepting until some have
    /// gone.
    pub max_accepted: usize,
    /// Most outgoing connections at a time. Beyond it
    /// [`Worker::connect`](crate::WorkerCore::connect) fails.
    pub max_connects: usize,
    /// Unsent bytes of a connection above which it is not read from until the kernel has accepted
    /// all of them.
    pub high_water: usize,
    /// Time after which a connection ends whose peer accepts none of its unsent bytes. Zero: never.
    pub write_stall: Duration,
    /// Bounds of the linger.
    pub linger: Linger,
    /// Way in which an idle worker waits.
    pub spin: Spin,
    /// Congestion control of outgoing connections. `None`: the kernel's default. Accepted
    /// connections have their listener's, see [`socket::listen_with`](crate::socket::listen_with).
    pub congestion: Option<Congestion>,
    /// Ports of outgoing connections (`IP_LOCAL_PORT_RANGE`, ip(7), Linux 6.3; older kernels ignore
    /// it). Both ends lie within `net.ipv4.ip_local_port_range`. `None`: all ports of that range.
    /// With an own range the kernel uses ports of both parities from the start. Otherwise it tries
    /// all odd ports first, for every connection again once they are taken: thousands of
    /// connections to one address then cost half a millisecond each.
    pub local_ports: Option<RangeInclusive<u16>>,
    /// The worker's end of a [`spread`](crate::spread()) of accepted connections over several
    /// workers, which have the same listeners. `None`: the worker keeps what it accepts. io_uring
    /// needs Linux 6.7 for it; on older kernels the worker keeps what it accepts.
    pub spread: Option<SpreadMember>,
    /// Bytes of a receive buffer of the epoll and tokio-uring engines.
    pub receive_buffer: usize,
    /// Sizes and limits of the io_uring engine.
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
            spread: None,
            receive_buffer: RECEIVE_BUFFER,
            uring: UringConfig::default(),
        }
    }
}

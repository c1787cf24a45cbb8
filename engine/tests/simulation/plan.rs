//! Everything that a seed decides before the run: faults, sizes, and the actions of each
//! connection.

use std::time::Duration;

use engine::sim::{Faults, Random};
use engine::{CloseMode, Config, Linger, SendCompletions, Spin};

/// Way in which an end closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// When everything is done, or the peer has closed.
    Last,
    /// After this number of bytes, whatever the peer's state.
    After(usize, CloseMode),
}

/// Actions planned for a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Bytes that the client sends, and the server sends back.
    pub(crate) total: usize,
    /// Most bytes on their way at once.
    pub(crate) window: usize,
    /// Most bytes of one write.
    pub(crate) write: usize,
    pub(crate) client: End,
    pub(crate) server: End,
    /// True if the client does not close when all is back, but waits for the server to do so.
    pub(crate) waits: bool,
    /// Rate of pauses at each end, per mille of its calls.
    pub(crate) pauses: u32,
    /// Rate at which the server holds its output until the turn ends, per mille of its calls.
    pub(crate) holds: u32,
    /// True if the server continues for a while after the client's FIN.
    pub(crate) dawdles: bool,
}

/// Everything about a seed.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) faults: Faults,
    /// True if no connection may fail.
    pub(crate) gentle: bool,
    pub(crate) server: Config,
    /// Number of workers of the server, which spread their connections evenly.
    pub(crate) servers: usize,
    pub(crate) client: Config,
    pub(crate) peer_addresses: bool,
    pub(crate) parallel: usize,
    pub(crate) plans: Vec<Plan>,
    /// Number of turns after which both workers are stopped, whatever is open.
    pub(crate) stop_after: Option<u64>,
}

impl Setting {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let gentle = random.chance(400);
        let faults = if gentle { Faults::survivable(random) } else { Faults::deadly(random) };
        let (mut server, mut client) = (config(random), config(random));
        let servers = random.pick(&[1, 2, 3]);
        // Nothing is handed over to a worker with few free places.
        let tables: &[_] = if servers == 1 { &[1, 3, 8, 8192] } else { &[8, 70, 8192, 8192] };
        server.max_accepted = random.pick(tables);
        server.high_water = random.pick(&[300, 5_000, 60_000]);
        client.max_connects = random.pick(&[2, 8, 64]);
        if gentle {
            // A connection may wait long for others to make room.
            (server.write_stall, client.write_stall) = (Duration::ZERO, Duration::ZERO);
            // An end that stops reading while both have much to send would stall the peer's write.
            (server.linger.bytes, client.linger.bytes) = (1 << 20, 1 << 20);
        } else {
            client.high_water = random.pick(&[300, 5_000, 60_000, 1 << 20]);
        }
        let smallest = server.uring.buffer_size.min(client.uring.buffer_size) as usize;
        let plans = (0..random.between(1, 24))
            .map(|_| Plan::draw(random, gentle, 200 * smallest))
            .collect();
        let stop_after =
            random.chance(if gentle { 0 } else { 100 }).then(|| random.between(1, 200) as u64);
        Self {
            faults,
            gentle,
            server,
            servers,
            client,
            peer_addresses: random.chance(500),
            parallel: random.pick(&[1, 4, 12]),
            plans,
            stop_after,
        }
    }
}

/// Returns a configuration like `config`, without its listeners.
pub(crate) fn like(config: &Config) -> Config {
    Config {
        max_accepted: config.max_accepted,
        max_connects: config.max_connects,
        high_water: config.high_water,
        write_stall: config.write_stall,
        linger: config.linger,
        spin: config.spin,
        uring: config.uring,
        ..Config::default()
    }
}

fn config(random: &mut Random) -> Config {
    let mut config = Config {
        write_stall: Duration::from_millis(random.pick(&[500, 30_000])),
        linger: Linger { bytes: random.pick(&[1_000, 1 << 20]), time: Duration::from_secs(2) },
        spin: random.pick(&[Spin::Off, Spin::Off, Spin::For(Duration::from_micros(2))]),
        ..Config::default()
    };
    config.uring.sq_entries = random.pick(&[1, 2, 8, 64]);
    config.uring.cq_entries = random.pick(&[2, 4, 16, 64, 256]);
    config.uring.buffers = random.pick(&[2, 4, 8, 32]);
    config.uring.buffer_size = random.pick(&[16, 64, 512, 4096]);
    config.uring.send_completions = random.pick(&[SendCompletions::Auto, SendCompletions::All]);
    config.uring.flush_after = random.pick(&[1, 500, 20_000, usize::MAX]);
    config.uring.large_receive = random.pick(&[1, 40, 1000, usize::MAX]);
    config.uring.silent_sends = random.pick(&[0, 1, 3, 12]);
    config
}

impl Plan {
    fn draw(random: &mut Random, gentle: bool, most: usize) -> Self {
        // The first two bytes identify the connection: nothing comes back before.
        let window = random.pick(&[2, 100, 3_000, 50_000, 300_000]);
        let total =
            random.pick(&[2, 40, 600, 6_000, 6_000, 60_000, 300_000]).min(most).min(100 * window);
        let total = random.between(total / 2, total).max(2);
        let end = |random: &mut Random, last| match random.below(6) {
            0 => End::After(random.between(1, total), CloseMode::Flush),
            1 if !gentle => End::After(random.between(1, total), CloseMode::Abort),
            2 => last,
            _ => End::Last,
        };
        let client = end(random, End::Last);
        // The client has sent its last bytes when the server has returned all of them.
        let server = end(random, End::After(total, CloseMode::Finish));
        Self {
            total,
            window,
            write: random.pick(&[1, 20, 1_000, 20_000]).max(total / 500),
            client,
            server,
            waits: client == End::Last && server != End::Last,
            pauses: random.pick(&[0, 0, 50, 300]),
            holds: random.pick(&[0, 100, 500]),
            dawdles: random.chance(100),
        }
    }
}

/// Returns a byte of a connection's stream: its number first, then bytes that no other connection
/// sends.
pub(crate) fn byte(tag: u16, at: usize) -> u8 {
    match at {
        0 | 1 => tag.to_le_bytes()[at],
        _ => (at as u32 ^ u32::from(tag) << 16).wrapping_mul(0x9e37_79b1).to_le_bytes()[3],
    }
}

//! Everything that a seed decides: the load, the sizes and the faults.

use std::time::Duration;

use engine::sim::{Faults, Random};
use engine::{Config, EngineKind, SendCompletions};
use loadgen::load::{Arrival, Deflate, Payload};
use loadgen::run::{Plan, Rehearsal};
use protocol::handshake::deflate::ServerPolicy;

use server::config::EchoSettings;
use server::{DeflateEcho, DeflateSettings, Heartbeat};

/// Everything about a seed.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) faults: Faults,
    /// True if no message may be lost.
    pub(crate) gentle: bool,
    pub(crate) plan: Plan,
    pub(crate) settings: EchoSettings,
    pub(crate) server: Config,
    pub(crate) client: Config,
    pub(crate) peer_addresses: bool,
    /// True if the server drains under load.
    pub(crate) drains: bool,
}

impl Setting {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let gentle = random.chance(600);
        let faults = if gentle { Faults::survivable(random) } else { Faults::deadly(random) };
        let plan = plan(random);
        let (mut server, mut client) = (Config::default(), Rehearsal::config(&plan));
        sizes(random, &mut server, 64);
        sizes(random, &mut client, 64);
        server.high_water = random.pick(&[500, 20_000, 1 << 20]);
        server.max_accepted = random.pick(&[16, 8192]);
        if gentle {
            (server.write_stall, client.write_stall) = (Duration::ZERO, Duration::ZERO);
        }
        // A heartbeat ends a connection that stands still, which in a gentle world happens for a
        // while.
        let ping_interval = random.pick(&[0, if gentle { 500 } else { 30 }]);
        let heartbeat = Heartbeat {
            ping_interval: Duration::from_millis(ping_interval),
            ..Heartbeat::default()
        };
        let policy = ServerPolicy {
            takeover: random.chance(500),
            max_window_bits: random.between(9, 15) as u8,
        };
        let echo = random.pick(&[DeflateEcho::Passthrough, DeflateEcho::Recompress]);
        let deflate = DeflateSettings { policy, echo, memory_level: random.between(1, 9) as u8 };
        let settings = EchoSettings {
            heartbeat,
            deflate: random.chance(800).then_some(deflate),
            handshake_timeout: Duration::from_secs(60),
            ..EchoSettings::default()
        };
        let drains = !gentle && random.chance(300);
        Self {
            faults,
            gentle,
            plan,
            settings,
            server,
            client,
            peer_addresses: random.chance(500),
            drains,
        }
    }
}

fn plan(random: &mut Random) -> Plan {
    let url = "ws://127.0.0.1:80/echo".parse().expect("a URL");
    let payload =
        random.pick(&[Payload::Binary, Payload::TextAscii, Payload::TextMixed, Payload::TextJson]);
    // Sizes on both sides of the borders at which a frame's header grows, and far beyond a receive
    // buffer.
    let message_bytes = random.pick(&[0, 1, 32, 125, 126, 1_000, 5_000, 66_000]);
    let connections = random.between(1, 8) as u32;
    let deepest = (60_000 / (message_bytes.max(1) * connections as usize)).clamp(1, 32);
    let rate_per_s = random.pick(&[None, None, Some(20_000.0), Some(500_000.0)]);
    Plan::new(url, EngineKind::Uring).with(|plan| {
        plan.load.payload = payload;
        plan.load.message_bytes = message_bytes.into();
        plan.load.connections = connections;
        plan.load.pipeline = random.between(1, deepest) as u32;
        plan.load.rate_per_s = rate_per_s.filter(|_| message_bytes <= 5_000);
        plan.load.arrival = random.pick(&[Arrival::Constant, Arrival::Poisson]);
        plan.load.max_outstanding = random.pick(&[1, 8, 64]);
        plan.load.seed = random.word();
        plan.load.connect_timeout = Duration::from_secs(60);
        plan.load.deflate =
            random.pick(&[Deflate::Off, Deflate::Off, Deflate::On, Deflate::Takeover]);
        if plan.load.deflate != Deflate::Off {
            plan.load.deflate_window_bits = random.between(9, 15) as u8;
            plan.load.deflate_memory_level = random.between(1, 9) as u8;
            plan.load.fragments = random.pick(&[1, 1, 3]);
            plan.load.verify = random.chance(900);
        }
    })
}

fn sizes(random: &mut Random, config: &mut Config, smallest: u32) {
    config.uring.sq_entries = random.pick(&[2, 8, 64]);
    config.uring.cq_entries = random.pick(&[4, 16, 256]);
    config.uring.buffers = random.pick(&[2, 8, 32]);
    config.uring.buffer_size = random.pick(&[smallest, 512, 4096]);
    config.uring.send_completions = random.pick(&[SendCompletions::Auto, SendCompletions::All]);
    config.uring.flush_after = random.pick(&[1, 500, 20_000, usize::MAX]);
    config.uring.large_receive = random.pick(&[1, 40, 1000, usize::MAX]);
    config.uring.silent_sends = random.pick(&[0, 1, 3, 12]);
}

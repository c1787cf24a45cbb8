//! The plan of a run.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use engine::EngineKind;
use engine::socket::Congestion;
use protocol::deflate::{MAX_WINDOW_BITS, MIN_DEFLATE_BITS};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::process_shard::ProcessShard;
use crate::format::count;
use crate::load::{Deflate, Load, Mask, Transport};
use crate::result::{Scenario, Setting};
use crate::target::metrics::MetricsUrl;
use crate::target::opening::HandshakeRequest;
use crate::target::spawn::Spawn;
use crate::target::trust::Trust;
use crate::target::url::{Port, Url};

/// Longest message, bytes: a turn's output must fit in memory several times over.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Deepest pipeline, in messages per connection.
const MAX_PIPELINE: u32 = 65_536;
/// Most messages outstanding on a connection of an open loop that can be asked for.
const MAX_OUTSTANDING: u32 = 1 << 20;
/// Most frames of a message: what servers take by default.
const MAX_FRAGMENTS: u32 = 262_144;
/// Most bytes outstanding over all connections: one turn may hold them in memory.
const MAX_OUTSTANDING_BYTES: u64 = 2 << 30;
/// Most bytes of the compressors of all connections with context takeover.
const MAX_COMPRESSOR_BYTES: u64 = 8 << 30;
/// Most connections of one run: what the worker's tables number.
const MAX_CONNECTIONS: u32 = 1 << 24;
/// Highest rate of an open loop, messages a second: one in a nanosecond.
pub(crate) const MAX_RATE: f64 = 1e9;

/// Way in which a thread of the generator waits when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Blocks in the kernel: costs nothing, and wakes some 10 to 100 us late.
    Sleep,
    /// Looks again and again: exact, and takes a whole processor.
    Spin,
}

impl Wait {
    /// Returns the name in the result and on the command line.
    pub fn name(self) -> &'static str {
        if self == Self::Spin { "spin" } else { "sleep" }
    }
}

/// One run: a load against a target, from a place, with the labels that its result gets.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenario's name in the result.
    pub scenario: String,
    /// The side of a comparison; `A` where there is one side.
    pub arm: String,
    /// The pair or round that the run belongs to, from 0.
    pub pair: u32,
    /// The traffic.
    pub load: Load,
    /// The server.
    pub target: Target,
    /// The generator's threads and processors.
    pub placement: Placement,
}

/// The server of a run: where it is, how to open a connection, and how to start it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its URL. The scheme is [`Load::transport`], too.
    pub url: Url,
    /// The Origin field of the opening handshake.
    pub origin: Option<String>,
    /// Subprotocols to offer, the preferred one first.
    pub subprotocols: Vec<String>,
    /// Further fields of the opening handshake.
    pub headers: Vec<(String, String)>,
    /// The accepted certificates, over `wss`.
    pub trust: Trust,
    /// The server to start for this run and to end with it.
    pub spawn: Option<Spawn>,
    /// Longest time until a started server accepts.
    pub start_timeout: Duration,
    /// The metrics of a server that was not started here.
    pub metrics: Option<MetricsUrl>,
    /// Settings of the server, where the caller knows them: only recorded.
    pub known: Setting,
}

/// The place of the generator.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The event loop.
    pub engine: EngineKind,
    /// Worker threads.
    pub threads: u32,
    /// The worker threads' CPUs in their order; empty: chosen, away from the server's.
    pub cpus: Vec<usize>,
    /// The way in which threads wait. `None`: the most exact one that costs the server nothing.
    pub wait: Option<Wait>,
    /// Congestion control of the connections; `None`: the kernel's default.
    pub congestion: Option<Congestion>,
    /// Addresses to connect from, in turn; empty: the kernel's choice.
    pub source_ips: Vec<IpAddr>,
    /// The part of the load that this process takes; `None`: it is the only one.
    pub shard: Option<ProcessShard>,
    /// Instant of the system's clock at which the load begins; `None`: as soon as it can.
    pub start_at: Option<SystemTime>,
}

/// A plan that cannot be carried out, in the words of the command line.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct PlanError(pub(crate) String);

impl Plan {
    /// Returns a plan with the command line's defaults.
    pub fn new(url: Url, engine: EngineKind) -> Self {
        let load = Load { transport: url.transport, ..Load::default() };
        Self {
            scenario: "run".to_owned(),
            arm: "A".to_owned(),
            pair: 0,
            load,
            target: Target::new(url),
            placement: Placement::new(engine),
        }
    }

    /// Returns the plan after a change.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks that the plan can be carried out at all, before anything is touched. The error is the
    /// first thing that is wrong, by the name of its flag.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        let Self { load, placement, .. } = self;
        for (flag, value, least, most) in [
            ("-c", load.connections.into(), 1, MAX_CONNECTIONS.into()),
            ("-t", placement.threads.into(), 1, 1024),
            ("--pipeline", load.pipeline.into(), 1, MAX_PIPELINE.into()),
            ("--max-outstanding", load.max_outstanding.into(), 1, MAX_OUTSTANDING.into()),
            ("--fragments", load.fragments.into(), 1, MAX_FRAGMENTS.into()),
            ("-n", load.messages.unwrap_or(1), 1, u64::MAX - 1),
            (
                "--messages-per-connection",
                load.messages_per_connection.unwrap_or(1).into(),
                1,
                u64::from(u32::MAX) - 1,
            ),
            ("-c and --idle together", load.all_connections(), 1, MAX_CONNECTIONS.into()),
            (
                "--deflate-window-bits",
                load.deflate_window_bits.into(),
                MIN_DEFLATE_BITS.into(),
                MAX_WINDOW_BITS.into(),
            ),
            ("--deflate-memory-level", load.deflate_memory_level.into(), 1, 9),
        ] {
            in_range(flag, value, least, most)?;
        }
        for &(size, weight) in load.message_bytes.weighted() {
            in_range("-s", size as u64, 0, MAX_MESSAGE_BYTES as u64)?;
            in_range("a weight in -s", weight.into(), 1, 1_000_000)?;
        }
        for (flag, rate) in [("-R", load.rate_per_s), ("--connect-rate", load.connect_rate)] {
            let rate = rate.unwrap_or(1.0);
            let reason =
                format!("{flag} must be more than 0 and at most {MAX_RATE} a second, not {rate}");
            require(rate > 0.0 && rate <= MAX_RATE, reason)?;
        }
        for (flag, span) in [
            ("-d", Some(load.measure)),
            ("--connect-timeout", Some(load.connect_timeout)),
            ("--timeout", Some(load.answer_timeout)),
            ("--spawn-timeout", Some(self.target.start_timeout)),
            ("--ping-interval", load.ping_interval),
            ("--channel-lifetime", load.lifetime),
        ] {
            require(span != Some(Duration::ZERO), format!("{flag} must be longer than zero"))?;
        }
        self.check_transport()?;
        self.check_compression()?;
        self.check_shard()?;
        self.check_sums()
    }

    /// Checks that the shard has a part of everything, and that its start is still to come.
    fn check_shard(&self) -> Result<(), PlanError> {
        let Self { load, target, placement, .. } = self;
        if let Some(start) = placement.start_at {
            let time = humantime::format_rfc3339_millis(start);
            let reason =
                format!("--start-at {time} has passed: expected a time to come, as in +10s");
            require(start > SystemTime::now(), reason)?;
        }
        let Some(shard) = placement.shard else { return Ok(()) };
        require(
            target.spawn.is_none(),
            "--spawn and --shard do not go together: the server would end with this shard while \
             others still need it, so start it before them",
        )?;
        let messages = load.messages.unwrap_or(u64::MAX);
        for (flag, all) in [("-c", load.connections.into()), ("-n", messages)] {
            let reason = format!(
                "{flag} {all} has nothing for --shard {shard}: expected one for each shard"
            );
            require(shard.part(all) > 0, reason)?;
        }
        Ok(())
    }

    /// Checks what needs frames or messages, and that the opening handshake can be written.
    fn check_transport(&self) -> Result<(), PlanError> {
        let Self { load, target, .. } = self;
        check_tls(&target.trust, target.url.transport)?;
        if target.url.transport.is_websocket() {
            return target.request(&target.url, load).check().map_err(|error| {
                PlanError(format!("--header, --origin, --subprotocol or the URL: {error}"))
            });
        }
        for (flag, is_given) in [
            ("--fragments", load.fragments > 1),
            ("--mask", load.mask != Mask::Random),
            ("--ping-interval", load.ping_interval.is_some()),
            ("--deflate", load.deflate != Deflate::Off),
            ("--origin", target.origin.is_some()),
            ("--subprotocol", !target.subprotocols.is_empty()),
            ("--header", !target.headers.is_empty()),
        ] {
            require(
                !is_given,
                format!("{flag} needs a ws:// URL: over tcp:// there are only bytes"),
            )?;
        }
        require(
            load.message_bytes.weighted().iter().all(|(size, _)| *size > 0),
            "-s 0 needs a ws:// URL: over tcp:// an empty message is nothing at all",
        )
    }

    /// Checks that flags of compression have an effect, and that the compressors fit in memory.
    fn check_compression(&self) -> Result<(), PlanError> {
        let Self { load, .. } = self;
        let usual = Load::default();
        for (flag, is_given) in [
            ("--deflate-window-bits", load.deflate_window_bits != usual.deflate_window_bits),
            ("--deflate-memory-level", load.deflate_memory_level != usual.deflate_memory_level),
        ] {
            require(
                !is_given || load.deflate != Deflate::Off,
                format!("{flag} needs --deflate on or takeover: nothing is compressed otherwise"),
            )?;
        }
        if load.deflate != Deflate::Takeover {
            return Ok(());
        }
        let each = (4_u64 << load.deflate_window_bits) + (512 << load.deflate_memory_level);
        let bytes = each.saturating_mul(self.own_connections().into());
        require(
            bytes <= MAX_COMPRESSOR_BYTES,
            format!(
                "-c and --deflate takeover together need {bytes} bytes for compressors: at most \
                 {MAX_COMPRESSOR_BYTES}, so fewer connections, smaller --deflate-window-bits or \
                 --deflate on"
            ),
        )
    }

    /// Checks what several parts decide together.
    fn check_sums(&self) -> Result<(), PlanError> {
        let Self { load, target, placement: Placement { threads, cpus, .. }, .. } = self;
        let connections = self.own_connections();
        let has = match self.placement.shard {
            None => format!("-c is {connections}"),
            Some(shard) => format!("--shard {shard} has {connections} of -c {}", load.connections),
        };
        require(
            connections >= *threads,
            format!("-t {threads} needs at least as many connections, but {has}"),
        )?;
        let depth = if load.rate_per_s.is_some() { 1 } else { load.pipeline };
        let each = u64::from(depth).saturating_mul(load.message_bytes.largest() as u64);
        let (bytes, most) = (each.saturating_mul(connections.into()), MAX_OUTSTANDING_BYTES);
        require(
            bytes <= most,
            format!(
                "-c, --pipeline and -s together make {bytes} bytes outstanding at once: at most {most}"
            ),
        )?;
        let fits = cpus.is_empty() || cpus.len() == *threads as usize;
        let (cpus, threads) =
            (count(cpus.len() as u64, "processor"), count((*threads).into(), "thread"));
        require(fits, format!("--cpus names {cpus} for {threads} (-t): one each"))?;
        require(
            target.url.port != Port::Chosen || target.spawn.is_some(),
            "{port} in the URL needs --spawn: otherwise nobody knows which port is meant",
        )
    }

    /// Returns the number of connections with messages that this process opens.
    pub(crate) fn own_connections(&self) -> u32 {
        self.placement.process().connections(self.load.connections)
    }

    /// Returns the number of connections that this process opens, idle ones included.
    pub(crate) fn all_own_connections(&self) -> u64 {
        let idle = self.placement.process().connections(self.load.idle);
        u64::from(self.own_connections()) + u64::from(idle)
    }

    /// Returns the processors of a server that the run starts; none where it may use any.
    pub(crate) fn server_cpus(&self) -> &[usize] {
        self.target.spawn.as_ref().map(|spawn| spawn.cpus.as_slice()).unwrap_or_default()
    }

    /// Returns the plan's scenario as it is stored: all that decides whether results compare.
    pub(crate) fn stored_scenario(&self) -> Scenario {
        let generator = Setting {
            engine: Some(self.placement.engine.name().to_owned()),
            threads: Some(self.placement.threads),
            congestion: self.placement.congestion.as_ref().map(ToString::to_string),
        };
        Scenario::new(&self.scenario, self.load.clone(), generator, self.target.known.clone())
    }
}

impl Target {
    /// Returns the request of the opening handshake with the server at `url`.
    pub(crate) fn request(&self, url: &Url, load: &Load) -> HandshakeRequest {
        HandshakeRequest {
            deflate: load.offer(),
            host: url.host_field(),
            target: url.target.clone(),
            origin: self.origin.clone(),
            subprotocols: self.subprotocols.clone(),
            headers: self.headers.clone(),
        }
    }

    /// Returns a server that is running, with a plain opening handshake.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            origin: None,
            subprotocols: Vec::new(),
            headers: Vec::new(),
            trust: Trust::default(),
            spawn: None,
            start_timeout: Duration::from_secs(20),
            metrics: None,
            known: Setting::default(),
        }
    }
}

impl Placement {
    /// Returns one thread at the kernel's choice.
    pub fn new(engine: EngineKind) -> Self {
        Self {
            engine,
            threads: 1,
            cpus: Vec::new(),
            wait: None,
            congestion: None,
            source_ips: Vec::new(),
            shard: None,
            start_at: None,
        }
    }

    /// Returns the part of the load that this process takes.
    pub(crate) fn process(&self) -> ProcessShard {
        self.shard.unwrap_or(ProcessShard::WHOLE)
    }
}

fn in_range(flag: &str, value: u64, least: u64, most: u64) -> Result<(), PlanError> {
    let reason = format!("{flag} must be {least} to {most}, not {value}");
    require((least..=most).contains(&value), reason)
}

/// Refuses a plan where a condition is not met.
pub(crate) fn require(is_met: bool, reason: impl Into<String>) -> Result<(), PlanError> {
    if is_met { Ok(()) } else { Err(PlanError(reason.into())) }
}

/// Checks that certificates are shown where a flag says which of them to trust.
pub(crate) fn check_tls(trust: &Trust, transport: Transport) -> Result<(), PlanError> {
    let Some(flag) = trust.flag() else { return Ok(()) };
    let reason = format!("{flag} needs a wss:// URL: no certificate is shown otherwise");
    require(transport == Transport::Wss, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(url: &str) -> Plan {
        Plan::new(url.parse().expect("url"), EngineKind::Epoll)
    }

    #[test]
    fn the_defaults_can_be_carried_out() {
        assert_eq!(plan("ws://127.0.0.1:9001/").check(), Ok(()));
    }

    #[test]
    fn what_cannot_be_carried_out_names_its_flag() {
        let refused = |change: fn(&mut Plan)| {
            let mut plan = plan("tcp://127.0.0.1:9001");
            change(&mut plan);
            plan.check().expect_err("cannot be carried out").to_string()
        };
        assert!(refused(|p| p.load.connections = 0).starts_with("-c "));
        assert!(refused(|p| p.placement.threads = 65).starts_with("-t 65"));
        assert!(refused(|p| p.load.pipeline = 0).starts_with("--pipeline"));
        assert!(refused(|p| p.load.max_outstanding = 0).starts_with("--max-outstanding"));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let plan = plan("ws://h/").with(|plan| plan.load.rate_per_s = Some(rate));
            assert!(
                plan.check().is_err_and(|error| error.to_string().starts_with("-R ")),
                "{rate}"
            );
        }
        assert!(refused(|p| p.load.message_bytes = 0.into()).starts_with("-s 0"));
        assert!(refused(|p| p.load.message_bytes = usize::MAX.into()).starts_with("-s "));
        assert!(
            refused(|p| p.load.message_bytes = MAX_MESSAGE_BYTES.into())
                .starts_with("-c, --pipeline and -s")
        );
        assert!(refused(|p| p.placement.cpus = vec![0, 1]).starts_with("--cpus"));
        assert!(refused(|p| p.load.measure = Duration::ZERO).starts_with("-d"));
        assert!(refused(|p| p.target.url.port = Port::Chosen).contains("--spawn"));
    }

    #[test]
    fn compression_that_cannot_be_had_names_its_flag() {
        let refused = |url, change: fn(&mut Load)| {
            let mut plan = plan(url);
            change(&mut plan.load);
            plan.check().expect_err("cannot be carried out").to_string()
        };
        let (ws, tcp) = ("ws://h/", "tcp://h:1");
        assert!(
            refused(tcp, |load| load.deflate = Deflate::On).starts_with("--deflate needs a ws")
        );
        for bits in [0, 8, 16] {
            let mut plan = plan(ws);
            (plan.load.deflate, plan.load.deflate_window_bits) = (Deflate::On, bits);
            let error = plan.check().expect_err("no such window").to_string();
            assert_eq!(error, format!("--deflate-window-bits must be 9 to 15, not {bits}"));
        }
        for level in [0, 10] {
            let mut plan = plan(ws);
            (plan.load.deflate, plan.load.deflate_memory_level) = (Deflate::On, level);
            let error = plan.check().expect_err("no such level").to_string();
            assert_eq!(error, format!("--deflate-memory-level must be 1 to 9, not {level}"));
        }
        let alone = refused(ws, |load| load.deflate_window_bits = 9);
        assert!(alone.starts_with("--deflate-window-bits needs --deflate on"), "{alone}");
        let alone = refused(ws, |load| load.deflate_memory_level = 9);
        assert!(alone.starts_with("--deflate-memory-level needs --deflate on"), "{alone}");
        let many = refused(ws, |load| {
            (load.deflate, load.connections) = (Deflate::Takeover, 1_000_000);
        });
        assert!(many.starts_with("-c and --deflate takeover together need"), "{many}");
        for deflate in [Deflate::On, Deflate::Takeover] {
            let fine = plan(ws).with(|plan| {
                (plan.load.deflate, plan.load.deflate_window_bits) = (deflate, 9);
                (plan.load.deflate_memory_level, plan.load.fragments) = (1, 3);
            });
            assert_eq!(fine.check(), Ok(()));
        }
    }

    #[test]
    fn stored_scenario_has_the_load_and_both_settings() {
        let plan = plan("tcp://127.0.0.1:9001").with(|plan| {
            plan.load.pipeline = 16;
            plan.target.known.engine = Some("uring".to_owned());
        });
        let stored = plan.stored_scenario();
        assert_eq!((stored.name.as_str(), &stored.parameters), ("run", &plan.load));
        assert_eq!(stored.parameters.transport, Transport::Tcp);
        assert_eq!(
            (stored.generator.engine.as_deref(), stored.generator.threads),
            (Some("epoll"), Some(1))
        );
        assert_eq!((stored.server.engine.as_deref(), stored.server.threads), (Some("uring"), None));
    }
}

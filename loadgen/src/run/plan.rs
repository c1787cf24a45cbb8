//! What a run is to do.

use std::net::IpAddr;
use std::time::Duration;

use engine::EngineKind;
use engine::socket::Congestion;
use thiserror::Error;

use crate::opening::Ask;
use crate::result::table::count;
use crate::result::{Arrival, Mask, Parameters, Payload, Transport};
use crate::spawn::Spawn;
use crate::trust::Trust;
use crate::url::{Port, Url};

/// The longest message that is sent, in bytes: a turn's output must fit in memory several times over.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// The deepest pipeline, in messages per connection.
pub const MAX_PIPELINE: u32 = 65_536;
/// The most messages outstanding on a connection of an open loop that can be asked for.
pub const MAX_OUTSTANDING: u32 = 1 << 20;
/// The most frames of a message: what servers take by default.
pub const MAX_FRAGMENTS: u32 = 262_144;
/// Bytes outstanding at once over all connections, at most: they may all leave in one turn, which holds them in memory.
pub const MAX_OUTSTANDING_BYTES: u64 = 2 << 30;
/// The most connections of one run: what the worker's tables number.
pub const MAX_CONNECTIONS: u32 = 1 << 24;

/// The highest rate of an open loop, in messages a second: beyond it they would be due at distances of less than a nanosecond.
pub const MAX_RATE: f64 = 1e9;

/// How a thread of the generator waits when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Blocks in the kernel: costs nothing, and wakes some 10 to 100 us late.
    Sleep,
    /// Looks again and again: exact, and takes a whole processor.
    Spin,
}

impl Wait {
    /// As it is written in the result and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sleep => "sleep",
            Self::Spin => "spin",
        }
    }
}

/// Everything that defines a run. Start from [`Plan::new`] and change what is different.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenario's name in the result.
    pub scenario: String,
    /// Which side of a comparison; `A` where there is one side.
    pub arm: String,
    /// The pair or round it belongs to, from 0.
    pub pair: u32,
    /// Where to.
    pub url: Url,
    /// Open connections, over all threads.
    pub connections: u32,
    /// Worker threads of the generator.
    pub threads: u32,
    /// The worker threads' CPUs in their order; empty: chosen at the end of the allowed set, away from the server's.
    pub cpus: Vec<usize>,
    /// Messages kept outstanding on each connection of a closed loop.
    pub pipeline: u32,
    /// An open loop: messages a second over all connections, whatever comes back. `None`: a closed loop.
    pub rate_per_s: Option<f64>,
    /// How they are spread over time.
    pub arrival: Arrival,
    /// Messages outstanding on a connection of an open loop, at most. A connection that reaches it gets no more until it has
    /// room, and the run is invalid.
    pub max_outstanding: u32,
    /// How threads wait. `None`: as is most exact without taking a processor from the server.
    pub wait: Option<Wait>,
    /// Bytes of each message: the payload over `ws`, everything over `tcp`.
    pub message_bytes: usize,
    /// Sizes and how often each comes, in place of `message_bytes`; empty: that one alone.
    pub message_sizes: Vec<(usize, u32)>,
    /// Frames of each message.
    pub fragments: u32,
    /// Masking keys.
    pub mask: Mask,
    /// Whether echoes are compared with what was sent. Otherwise they are only counted.
    pub verify: bool,
    /// Messages to be sent in the window, over all connections; it ends when they are back. `None`: as many as fit.
    pub messages: Option<u64>,
    /// Further connections, which only stay open.
    pub idle: u32,
    /// Connections begun a second, over all threads; `None`: as fast as it goes.
    pub connect_rate: Option<f64>,
    /// Addresses to connect from, in turn; empty: the kernel's choice.
    pub source_ips: Vec<IpAddr>,
    /// The Origin field of the opening handshake.
    pub origin: Option<String>,
    /// Subprotocols to offer, the preferred one first.
    pub subprotocols: Vec<String>,
    /// Further fields of the opening handshake.
    pub headers: Vec<(String, String)>,
    /// Every connection, idle or not, sends a ping so often.
    pub ping_interval: Option<Duration>,
    /// Messages of a connection, after which it is closed and another takes its place.
    pub messages_per_connection: Option<u32>,
    /// The time after which a connection is closed and another takes its place.
    pub lifetime: Option<Duration>,
    /// Connections that are lost are opened again; they count as errors all the same.
    pub reconnect: bool,
    /// What messages are made of. Over `tcp` there are no kinds of message: the bytes alone.
    pub payload: Payload,
    /// The generator's engine.
    pub engine: EngineKind,
    /// Congestion control of the generator's connections; `None`: the kernel's default.
    pub congestion: Option<Congestion>,
    /// Rest between connecting and the first message.
    pub settle: Duration,
    /// Load that is not counted.
    pub warmup: Duration,
    /// The measured window.
    pub measure: Duration,
    /// For an attempt to connect, and again for the opening handshake.
    pub connect_timeout: Duration,
    /// Without any echo for so long, while some are due, the server counts as dead; so do messages that are not back so
    /// long after the end of the window.
    pub answer_timeout: Duration,
    /// Payloads, masking keys and nonces derive from it.
    pub seed: u64,
    /// The server to start for this run and to end with it.
    pub spawn: Option<Spawn>,
    /// Whose certificates are taken, over `wss`.
    pub trust: Trust,
    /// How long that server may take until it accepts.
    pub start_timeout: Duration,
    /// The server's engine, where the caller knows it: only recorded.
    pub server_engine: Option<String>,
    /// The server's threads, where the caller knows them: only recorded.
    pub server_threads: Option<u32>,
    /// The server's congestion control, where it is not the kernel's default and the caller knows it: only recorded.
    pub server_congestion: Option<String>,
}

/// A plan that cannot be carried out, in the words of the command line.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// A number out of its range.
    #[error("{flag} must be {range}, not {value}")]
    Range {
        /// The flag.
        flag: &'static str,
        /// What it may be.
        range: String,
        /// What it was.
        value: u64,
    },
    /// A thread without connections would measure nothing.
    #[error("-t {threads} needs at least as many connections, but -c is {connections}")]
    IdleThreads {
        /// Threads asked for.
        threads: u32,
        /// Connections asked for.
        connections: u32,
    },
    /// All first messages together would not fit in memory.
    #[error(
        "-c, --pipeline and -s together make {bytes} bytes outstanding at once: at most {MAX_OUTSTANDING_BYTES}"
    )]
    TooMuchOutstanding {
        /// Their product.
        bytes: u64,
    },
    /// Empty messages leave no trace in a stream of bytes.
    #[error("-s 0 needs a ws:// URL: over tcp:// an empty message is nothing at all")]
    EmptyOverTcp,
    /// The number of processors is not that of threads.
    #[error("--cpus names {} for {} (-t): one each", count(*cpus as u64, "processor"), count(u64::from(*threads), "thread"))]
    CpuCount {
        /// Processors named.
        cpus: usize,
        /// Threads asked for.
        threads: u32,
    },
    /// No rate at all, or one that no clock could keep.
    #[error("{flag} must be more than 0 and at most {MAX_RATE} a second, not {rate}")]
    Rate {
        /// The flag.
        flag: &'static str,
        /// What it was.
        rate: String,
    },
    /// Raw bytes have no frames and no opening handshake.
    #[error("{0} needs a ws:// URL: over tcp:// there are only bytes")]
    NeedsWebSocket(&'static str),
    /// There is no certificate to be trusted.
    #[error("{0} needs a wss:// URL: no certificate is shown otherwise")]
    NeedsTls(&'static str),
    /// The opening handshake's request could not be written as it is meant.
    #[error("--header, --origin, --subprotocol or the URL: {0}")]
    Handshake(String),
    /// A span that must not be zero.
    #[error("{0} must be longer than zero")]
    Zero(&'static str),
    /// `{port}` without a server to start.
    #[error("{{port}} in the URL needs --spawn: otherwise nobody knows which port is meant")]
    PortWithoutSpawn,
}

impl Plan {
    /// A plan with the command line's defaults.
    #[must_use]
    pub fn new(url: Url, engine: EngineKind) -> Self {
        Self {
            scenario: "run".to_owned(),
            arm: "A".to_owned(),
            pair: 0,
            url,
            connections: 64,
            threads: 1,
            cpus: Vec::new(),
            pipeline: 1,
            rate_per_s: None,
            arrival: Arrival::Constant,
            max_outstanding: 4096,
            wait: None,
            message_bytes: 32,
            message_sizes: Vec::new(),
            fragments: 1,
            mask: Mask::Random,
            verify: true,
            messages: None,
            idle: 0,
            connect_rate: None,
            source_ips: Vec::new(),
            origin: None,
            subprotocols: Vec::new(),
            headers: Vec::new(),
            ping_interval: None,
            messages_per_connection: None,
            lifetime: None,
            reconnect: false,
            payload: Payload::Binary,
            engine,
            congestion: None,
            settle: Duration::from_millis(100),
            warmup: Duration::from_secs(2),
            measure: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(5),
            seed: 1,
            spawn: None,
            trust: Trust::default(),
            start_timeout: Duration::from_secs(20),
            server_engine: None,
            server_threads: None,
            server_congestion: None,
        }
    }

    /// Returns the measured window. A limited number of messages at even intervals has a window of its own:
    /// the time that they are planned to take.
    #[must_use]
    pub fn window(&self) -> Duration {
        match (self.messages, self.rate_per_s) {
            (Some(messages), Some(rate)) if !self.ends_with_last_echo() => {
                let planned_ns = (messages as f64 * (1e9 / rate)).round();
                Duration::from_nanos(planned_ns as u64).min(self.measure)
            }
            _ => self.measure,
        }
    }

    /// Returns true where connections are closed and replaced during the load.
    pub(super) fn replaces_connections(&self) -> bool {
        self.messages_per_connection.is_some() || self.lifetime.is_some()
    }

    /// Returns true where the number of messages is limited and does not determine the window, which then
    /// ends with the last echo. That is so in a closed loop, and where the plan does not reach that number at
    /// an even interval from its beginning.
    pub(super) fn ends_with_last_echo(&self) -> bool {
        let Some(messages) = self.messages else { return false };
        self.rate_per_s.is_none()
            || match self.arrival {
                Arrival::Constant => false,
                Arrival::Burst(size) => messages % u64::from(size.get()) != 0,
                Arrival::Poisson => true,
            }
    }

    /// Whether the plan can be carried out at all, before anything is touched.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, by the name of its flag.
    pub fn check(&self) -> Result<(), PlanError> {
        in_range("-c", self.connections.into(), 1, MAX_CONNECTIONS.into())?;
        in_range("-t", self.threads.into(), 1, 1024)?;
        in_range("--pipeline", self.pipeline.into(), 1, MAX_PIPELINE.into())?;
        in_range("--max-outstanding", self.max_outstanding.into(), 1, MAX_OUTSTANDING.into())?;
        if let Some(rate) = self.rate_per_s
            && !(rate > 0.0 && rate <= MAX_RATE)
        {
            return Err(PlanError::Rate { flag: "-R", rate: rate.to_string() });
        }
        for (size, weight) in self.sizes() {
            let flag = if self.message_sizes.is_empty() { "-s" } else { "--payload-size-list" };
            in_range(flag, size as u64, 0, MAX_MESSAGE_BYTES as u64)?;
            in_range("a weight in --payload-size-list", weight.into(), 1, 1_000_000)?;
        }
        in_range("--fragments", self.fragments.into(), 1, MAX_FRAGMENTS.into())?;
        in_range("-n", self.messages.unwrap_or(1), 1, u64::MAX - 1)?;
        in_range(
            "--messages-per-connection",
            self.messages_per_connection.unwrap_or(1).into(),
            1,
            u64::from(u32::MAX) - 1,
        )?;
        in_range("-c and --idle together", self.all_connections(), 1, MAX_CONNECTIONS.into())?;
        self.check_transport()?;
        if self.connections < self.threads {
            let (threads, connections) = (self.threads, self.connections);
            return Err(PlanError::IdleThreads { threads, connections });
        }
        let depth = if self.rate_per_s.is_some() { 1 } else { self.pipeline };
        let largest = self.sizes().iter().map(|(size, _)| *size).max().unwrap_or_default();
        let each = u64::from(depth).saturating_mul(largest as u64);
        let bytes = each.saturating_mul(self.connections.into());
        if bytes > MAX_OUTSTANDING_BYTES {
            return Err(PlanError::TooMuchOutstanding { bytes });
        }
        if !self.cpus.is_empty() && self.cpus.len() != self.threads as usize {
            return Err(PlanError::CpuCount { cpus: self.cpus.len(), threads: self.threads });
        }
        for (flag, span) in [
            ("-d", self.measure),
            ("--connect-timeout", self.connect_timeout),
            ("--timeout", self.answer_timeout),
            ("--spawn-timeout", self.start_timeout),
            ("--ping-interval", self.ping_interval.unwrap_or(Duration::MAX)),
            ("--channel-lifetime", self.lifetime.unwrap_or(Duration::MAX)),
        ] {
            if span.is_zero() {
                return Err(PlanError::Zero(flag));
            }
        }
        if self.url.port == Port::Chosen && self.spawn.is_none() {
            return Err(PlanError::PortWithoutSpawn);
        }
        Ok(())
    }

    /// What needs frames or messages, and whether the opening handshake can be written.
    fn check_transport(&self) -> Result<(), PlanError> {
        if self.connect_rate.is_some_and(|rate| !(rate > 0.0 && rate <= MAX_RATE)) {
            return Err(PlanError::Rate {
                flag: "--connect-rate",
                rate: self.connect_rate.unwrap_or_default().to_string(),
            });
        }
        if let Some(flag) = self.trust.flag().filter(|_| self.url.transport != Transport::Wss) {
            return Err(PlanError::NeedsTls(flag));
        }
        if self.url.transport.is_websocket() {
            return self.ask().check().map_err(|error| PlanError::Handshake(error.to_string()));
        }
        let needs_ws = [
            ("--fragments", self.fragments > 1),
            ("--mask", self.mask != Mask::Random),
            ("--ping-interval", self.ping_interval.is_some()),
            ("--origin", self.origin.is_some()),
            ("--subprotocol", !self.subprotocols.is_empty()),
            ("--header", !self.headers.is_empty()),
        ];
        if let Some((flag, _)) = needs_ws.into_iter().find(|(_, is_given)| *is_given) {
            return Err(PlanError::NeedsWebSocket(flag));
        }
        if self.sizes().iter().any(|(size, _)| *size == 0) { Err(PlanError::EmptyOverTcp) } else { Ok(()) }
    }

    /// The sizes of messages, and how often each comes.
    #[must_use]
    pub fn sizes(&self) -> Vec<(usize, u32)> {
        if self.message_sizes.is_empty() { vec![(self.message_bytes, 1)] } else { self.message_sizes.clone() }
    }

    /// The mean size of a message, bytes.
    #[must_use]
    pub fn mean_bytes(&self) -> f64 {
        let sizes = self.sizes();
        let weights: f64 = sizes.iter().map(|(_, weight)| f64::from(*weight)).sum();
        sizes.iter().map(|(size, weight)| *size as f64 * f64::from(*weight)).sum::<f64>() / weights
    }

    /// Connections in all, with those that only stay open.
    #[must_use]
    pub fn all_connections(&self) -> u64 {
        u64::from(self.connections) + u64::from(self.idle)
    }

    /// The opening handshake's request.
    pub(crate) fn ask(&self) -> Ask {
        Ask {
            host: self.url.host_field(),
            target: self.url.target.clone(),
            origin: self.origin.clone(),
            subprotocols: self.subprotocols.clone(),
            headers: self.headers.clone(),
        }
    }

    /// What defines the load, as it is stored and hashed.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        Parameters {
            transport: self.url.transport,
            connections: self.connections,
            pipeline: self.pipeline,
            message_bytes: self.mean_bytes().round() as u64,
            payload: self.payload,
            rate_per_s: self.rate_per_s,
            arrival: self.rate_per_s.map(|_| self.arrival),
            threads: self.threads,
            engine: self.engine.name().to_owned(),
            server_engine: self.server_engine.clone(),
            server_threads: self.server_threads,
            warmup_ns: nanos(self.warmup),
            measure_ns: nanos(self.measure),
            verify: self.verify,
            message_sizes: (!self.message_sizes.is_empty()).then(|| sizes_text(&self.message_sizes)),
            fragments: (self.fragments > 1).then_some(self.fragments),
            idle: (self.idle > 0).then_some(self.idle),
            messages_per_connection: self.messages_per_connection,
            lifetime_ns: self.lifetime.map(nanos),
            ping_interval_ns: self.ping_interval.map(nanos),
            messages: self.messages,
            seed: self.seed,
            mask_keys_per_connection: (self.mask == Mask::Fixed).then_some(1),
            congestion: self.congestion.as_ref().map(ToString::to_string),
            server_congestion: self.server_congestion.clone(),
        }
    }
}

fn sizes_text(sizes: &[(usize, u32)]) -> String {
    sizes.iter().map(|(size, weight)| format!("{size}:{weight}")).collect::<Vec<_>>().join(",")
}

fn in_range(flag: &'static str, value: u64, least: u64, most: u64) -> Result<(), PlanError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(PlanError::Range { flag, range: format!("{least} to {most}"), value })
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
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
        assert!(refused(|p| p.connections = 0).starts_with("-c "));
        assert!(refused(|p| p.threads = 65).starts_with("-t 65"));
        assert!(refused(|p| p.pipeline = 0).starts_with("--pipeline"));
        assert!(refused(|p| p.max_outstanding = 0).starts_with("--max-outstanding"));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let plan = Plan { rate_per_s: Some(rate), ..plan("ws://h/") };
            assert!(plan.check().is_err_and(|error| error.to_string().starts_with("-R ")), "{rate}");
        }
        assert!(refused(|p| p.message_bytes = 0).starts_with("-s 0"));
        assert!(refused(|p| p.message_bytes = usize::MAX).starts_with("-s "));
        assert!(refused(|p| p.message_bytes = MAX_MESSAGE_BYTES).starts_with("-c, --pipeline and -s"));
        assert!(refused(|p| p.cpus = vec![0, 1]).starts_with("--cpus"));
        assert!(refused(|p| p.measure = Duration::ZERO).starts_with("-d"));
        assert!(refused(|p| p.url.port = Port::Chosen).contains("--spawn"));
    }

    #[test]
    fn the_stored_parameters_are_those_of_the_plan() {
        let parameters = Plan { pipeline: 16, ..plan("tcp://127.0.0.1:9001") }.parameters();
        assert_eq!((parameters.transport, parameters.pipeline), (Transport::Tcp, 16));
        assert_eq!((parameters.engine.as_str(), parameters.measure_ns), ("epoll", 10_000_000_000));
        assert_eq!((parameters.rate_per_s, parameters.arrival), (None, None));
        let open = Plan { rate_per_s: Some(5e4), ..plan("ws://h/") }.parameters();
        assert_eq!((open.rate_per_s, open.arrival), (Some(5e4), Some(Arrival::Constant)));
    }
}

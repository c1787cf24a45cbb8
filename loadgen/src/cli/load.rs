//! The flags that define a load, which every command that makes runs has.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use engine::socket::Congestion;
use engine::{EngineChoice, EngineKind};

use super::shape::ShapeArguments;
use super::value::{CpuList, cpu_list, rate, size, small_count, time};
use super::{LIMITS, LOAD, MESSAGES, SERVER, TLS, WORKERS};
use crate::result::{Arrival, Payload};
use crate::run::{Plan, Wait};
use crate::trust::Trust;
use crate::url::Url;

#[derive(Debug, Args)]
pub(super) struct LoadArguments {
    /// Connections, over all threads [default: 64].
    #[arg(short, long, value_name = "N", value_parser = small_count, help_heading = LOAD)]
    connections: Option<u32>,

    /// Messages kept outstanding on each connection of a closed loop; an open loop (-R) is not bound by it
    /// [default: 1].
    #[arg(long, value_name = "N", help_heading = LOAD)]
    pipeline: Option<u32>,

    /// Open loop: so many messages a second over all connections, as planned beforehand, whatever comes back. 500, 50k,
    /// 50/1s, 200/100ms.
    #[arg(short = 'R', long, value_name = "RATE", value_parser = rate, help_heading = LOAD)]
    rate: Option<f64>,

    /// Open loop: so many a second on each connection.
    #[arg(long, value_name = "RATE", value_parser = rate, conflicts_with = "rate", help_heading = LOAD)]
    rate_per_connection: Option<f64>,

    /// How the planned messages follow each other: at even distances, as independent users, or N at the same instant.
    /// [default: constant]
    #[arg(long, value_name = "constant|poisson|burst:N", help_heading = LOAD)]
    arrival: Option<Arrival>,

    /// Messages outstanding on a connection of an open loop, at most; reaching it makes the run invalid [default: 4096].
    #[arg(long, value_name = "N", value_parser = small_count, help_heading = LOAD)]
    max_outstanding: Option<u32>,

    /// How long to measure [default: 10s].
    #[arg(short, long, value_name = "TIME", value_parser = time, help_heading = LOAD)]
    duration: Option<Duration>,

    /// Load before that which does not count [default: 2s].
    #[arg(short, long, value_name = "TIME", value_parser = time, help_heading = LOAD)]
    warmup: Option<Duration>,

    /// Rest between connecting and the first message.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "100ms", help_heading = LOAD)]
    settle: Duration,

    /// Bytes of each message; over tcp:// the raw bytes sent and expected back [default: 32].
    #[arg(short, long, value_name = "SIZE", value_parser = size, help_heading = MESSAGES)]
    size: Option<usize>,

    /// Text messages (see --text-kind).
    #[arg(long, conflicts_with = "binary", help_heading = MESSAGES)]
    text: bool,

    /// Binary messages of seeded random bytes (the default).
    #[arg(long, help_heading = MESSAGES)]
    binary: bool,

    /// What text is made of: Latin, Cyrillic, CJK and emoji, or ASCII alone. Implies --text.
    #[arg(long, value_enum, value_name = "KIND", conflicts_with = "binary", help_heading = MESSAGES)]
    text_kind: Option<TextKind>,

    /// Payloads, masking keys (a fresh one for each frame) and nonces derive from it.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = MESSAGES)]
    seed: u64,

    #[command(flatten)]
    shape: ShapeArguments,

    #[command(flatten)]
    tls: TlsArguments,

    /// How long it may take until it accepts [default: 20s].
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = SERVER)]
    spawn_timeout: Option<Duration>,

    /// Worker threads.
    #[arg(short, long, value_name = "N", default_value_t = 1, help_heading = WORKERS)]
    threads: u32,

    /// Processors of the worker threads, one each [default: the last ones allowed, away from --spawn-cpus].
    #[arg(long, value_name = "LIST", value_parser = cpu_list, help_heading = WORKERS)]
    pub(super) cpus: Option<CpuList>,

    /// The event loop: auto takes uring where the kernel allows it, else epoll; one named never falls back.
    #[arg(long, value_name = "auto|uring|tokio-uring|epoll", default_value = "auto", help_heading = WORKERS)]
    pub(super) engine: EngineChoice,

    /// Congestion control of the connections, one of net.ipv4.tcp_available_congestion_control [default: the kernel's].
    #[arg(long, value_name = "NAME", help_heading = WORKERS)]
    congestion: Option<Congestion>,

    /// How a thread waits: sleep costs nothing and wakes late, spin is exact and takes a whole processor [default: spin in an
    /// open loop against --spawn-cpus on other cores, else sleep].
    #[arg(long, value_enum, value_name = "spin|sleep", help_heading = WORKERS)]
    wait: Option<WaitName>,

    /// For connecting, and again for the handshakes.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10s", help_heading = LIMITS)]
    connect_timeout: Duration,

    /// Longest time without any echo; then the server counts as dead. The run waits as long for the last echoes.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5s", help_heading = LIMITS)]
    timeout: Duration,
}

/// Whose certificates are taken.
#[derive(Clone, Debug, Args)]
pub(super) struct TlsArguments {
    /// Trust the certificates in this file, PEM, in place of the system's authorities: those of authorities, or the
    /// server's own.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure", help_heading = TLS)]
    ca: Option<PathBuf>,

    /// Take any certificate, unread: whoever answers is believed to be the server.
    #[arg(long, help_heading = TLS)]
    insecure: bool,
}

impl TlsArguments {
    pub(super) fn trust(&self) -> Trust {
        match &self.ca {
            Some(path) => Trust::Authorities(path.clone()),
            None if self.insecure => Trust::Anybody,
            None => Trust::System,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TextKind {
    Mixed,
    Ascii,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WaitName {
    Spin,
    Sleep,
}

impl From<WaitName> for Wait {
    fn from(name: WaitName) -> Self {
        match name {
            WaitName::Spin => Self::Spin,
            WaitName::Sleep => Self::Sleep,
        }
    }
}

impl LoadArguments {
    /// The first of these flags that says something of an open loop alone.
    pub(super) fn of_open_loop(&self) -> Option<&'static str> {
        let arrival = self.arrival.map(|_| "--arrival");
        arrival.or_else(|| self.max_outstanding.map(|_| "--max-outstanding"))
    }

    /// Whether it is said how long a server may take to start.
    pub(super) fn has_spawn_timeout(&self) -> bool {
        self.spawn_timeout.is_some()
    }

    /// The plan of this load against `url`, driven by `engine`, not yet checked; without a server to start.
    pub(super) fn plan(&self, url: Url, engine: EngineKind) -> Plan {
        self.change(Plan::new(url, engine))
    }

    /// A plan with what these flags say.
    pub(super) fn change(&self, preset: Plan) -> Plan {
        let connections = self.connections.unwrap_or(preset.connections);
        self.shape.shape(Plan {
            connections,
            threads: self.threads,
            cpus: self.cpus.clone().map(|list| list.0).unwrap_or_default(),
            pipeline: self.pipeline.unwrap_or(preset.pipeline),
            rate_per_s: self.rate_per_s(connections),
            arrival: self.arrival.unwrap_or(preset.arrival),
            max_outstanding: self.max_outstanding.unwrap_or(preset.max_outstanding),
            wait: self.wait.map(Wait::from),
            message_bytes: self.size.unwrap_or(preset.message_bytes),
            payload: self.payload().unwrap_or(preset.payload),
            congestion: self.congestion.clone(),
            settle: self.settle,
            warmup: self.warmup.unwrap_or_else(|| self.shape.warmup(preset.warmup)),
            measure: self.duration.unwrap_or_else(|| self.shape.measure(preset.measure)),
            connect_timeout: self.connect_timeout,
            answer_timeout: self.timeout,
            seed: self.seed,
            start_timeout: self.spawn_timeout.unwrap_or(preset.start_timeout),
            trust: self.tls.trust(),
            ..preset
        })
    }

    fn rate_per_s(&self, connections: u32) -> Option<f64> {
        self.rate.or_else(|| Some(self.rate_per_connection? * f64::from(connections)))
    }

    fn payload(&self) -> Option<Payload> {
        match (self.text_kind, self.text) {
            (Some(TextKind::Ascii), _) => Some(Payload::TextAscii),
            (Some(TextKind::Mixed), _) | (None, true) => Some(Payload::TextMixed),
            (None, false) => self.binary.then_some(Payload::Binary),
        }
    }
}

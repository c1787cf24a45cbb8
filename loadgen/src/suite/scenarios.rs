//! The scenarios of the suites, as data.

use std::time::Duration;

use engine::EngineKind;

use crate::result::{Payload, Transport};

/// A suite: which scenarios, how long each, how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// The main scenarios once: about a minute.
    Quick,
    /// All scenarios three times: some minutes.
    Full,
    /// The main scenarios for a blink, checked for correctness and not for speed: seconds.
    Smoke,
}

/// One scenario before its engine is settled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spec {
    /// Its name in tables and results, `@engine` apart.
    pub name: &'static str,
    /// What is spoken.
    pub transport: Transport,
    /// Open connections.
    pub connections: u32,
    /// Connections beside them that only stay open.
    pub idle: u32,
    /// Messages in flight on each of `connections`.
    pub pipeline: u32,
    /// Bytes of each message: the payload over `ws`, everything over `tcp`.
    pub message_bytes: usize,
    /// What messages are made of.
    pub payload: Payload,
    /// Messages after which a connection is closed and another opened in its place.
    pub messages_per_connection: Option<u32>,
    /// An open loop: messages a second over all connections; `None`: a closed loop.
    pub rate_per_s: Option<f64>,
    /// The server's engine where the scenario is about an engine; otherwise the session's.
    pub engine: Option<EngineKind>,
}

/// The bytes a client's frame has for a payload of `payload` bytes: header, masking key, payload (RFC 6455 section 5.2).
///
/// Raw TCP is measured with frames of this length, so that both move the same bytes through the same system calls.
#[must_use]
pub const fn client_frame_bytes(payload: usize) -> usize {
    let header = match payload {
        0..=125 => 6,
        126..=65_535 => 8,
        _ => 14,
    };
    header + payload
}

const KIB: usize = 1024;

const fn ws(
    name: &'static str,
    connections: u32,
    pipeline: u32,
    message_bytes: usize,
    payload: Payload,
) -> Spec {
    let (transport, rate_per_s, engine) = (Transport::Ws, None, None);
    let messages_per_connection = None;
    Spec {
        name,
        transport,
        connections,
        idle: 0,
        pipeline,
        message_bytes,
        payload,
        messages_per_connection,
        rate_per_s,
        engine,
    }
}

const fn tcp(name: &'static str, connections: u32, pipeline: u32, payload_bytes: usize) -> Spec {
    Spec {
        transport: Transport::Tcp,
        ..ws(name, connections, pipeline, client_frame_bytes(payload_bytes), Payload::Binary)
    }
}

const ECHO: Spec = ws("echo", 64, 1, 32, Payload::Binary);

/// `quick` and `smoke`.
const MAIN: [Spec; 8] = [
    ECHO,
    ws("pipeline", 64, 16, 32, Payload::Binary),
    ws("text", 64, 1, KIB, Payload::TextMixed),
    ws("large", 8, 1, 64 * KIB, Payload::TextMixed),
    tcp("tcp", 64, 1, 32),
    tcp("tcp-pipeline", 64, 16, 32),
    Spec { engine: Some(EngineKind::TokioUring), ..ECHO },
    Spec { engine: Some(EngineKind::Epoll), ..ECHO },
];

/// What `full` has beside [`MAIN`].
const MORE: [Spec; 8] = [
    ws("echo-1x1", 1, 1, 32, Payload::Binary),
    ws("echo-512x1", 512, 1, 32, Payload::Binary),
    ws("text-4000x1", 4000, 1, 125, Payload::TextMixed),
    ws("text-16k", 16, 1, 16 * KIB, Payload::TextMixed),
    ws("text-1m", 4, 1, 1024 * KIB, Payload::TextMixed),
    ARENA,
    Spec { name: "echo-ws-pipe", pipeline: 16, ..ARENA },
    Spec { name: "echo-ws-10", messages_per_connection: Some(10), ..ARENA },
];

/// The WebSocket profiles of the HttpArena benchmark, with the fewest of their connections.
const ARENA: Spec = ws("echo-ws", 512, 1, 5, Payload::TextAscii);

/// What the sides of an interleaved session are compared in: the main scenarios, few and many connections, and fixed rates.
const SIDE_BY_SIDE: [Spec; 11] = [
    MAIN[0],
    MAIN[1],
    MAIN[2],
    MAIN[3],
    MAIN[4],
    MAIN[5],
    MORE[0],
    MORE[1],
    MORE[2],
    Spec { rate_per_s: Some(5_000.0), ..ws("rate-1x1", 1, 1, 32, Payload::Binary) },
    Spec { rate_per_s: Some(80_000.0), ..ws("rate-64x1", 64, 1, 32, Payload::Binary) },
];

/// What other people's servers are compared in: capacity with small and large messages, few and many connections; latencies at
/// a rate that most of them keep; memory, beside the latency of a single message.
const PEERS: [Spec; 7] = [
    MAIN[0],
    MAIN[1],
    MAIN[2],
    MAIN[3],
    MORE[1],
    Spec { name: AT_A_RATE, rate_per_s: Some(20_000.0), ..ECHO },
    Spec { name: MOSTLY_IDLE, idle: 4000, ..ws("", 1, 1, 32, Payload::Binary) },
];

/// The scenario among those of the peers whose latencies are shown.
pub(super) const AT_A_RATE: &str = "rate-20k";
/// The scenario among those of the peers whose memory is shown.
pub(super) const MOSTLY_IDLE: &str = "idle-4000";

/// Descriptors a process needs beside its connections: listeners, rings, files, standard streams.
const SPARE_DESCRIPTORS: u64 = 256;

impl Suite {
    /// The name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
            Self::Smoke => "smoke",
        }
    }

    /// Its scenarios, in the order in which a round makes them.
    #[must_use]
    pub fn specs(self) -> Vec<Spec> {
        match self {
            Self::Quick | Self::Smoke => MAIN.to_vec(),
            Self::Full => [MAIN.as_slice(), MORE.as_slice()].concat(),
        }
    }

    /// The scenario of any suite that has this name, `@engine` apart.
    #[must_use]
    pub fn find(name: &str) -> Option<Spec> {
        Self::Full.specs().into_iter().find(|spec| spec.name == name && spec.engine.is_none())
    }

    /// How often each scenario is run.
    #[must_use]
    pub fn rounds(self) -> u32 {
        match self {
            Self::Quick | Self::Smoke => 1,
            Self::Full => 3,
        }
    }

    /// Load that is not counted, per run. As in `quick`, so in `full`: sessions of both compare.
    #[must_use]
    pub fn warmup(self) -> Duration {
        match self {
            Self::Quick | Self::Full => Duration::from_secs(1),
            Self::Smoke => Duration::from_millis(100),
        }
    }

    /// The measured window, per run.
    #[must_use]
    pub fn measure(self) -> Duration {
        match self {
            Self::Quick | Self::Full => Duration::from_secs(5),
            Self::Smoke => Duration::from_millis(400),
        }
    }
}

impl std::str::FromStr for Suite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Quick, Self::Full, Self::Smoke].into_iter().find(|suite| suite.name() == text);
        known.ok_or_else(|| format!("unknown suite `{text}`: one of quick, full, smoke"))
    }
}

impl Spec {
    /// The scenarios in which several servers are set side by side.
    #[must_use]
    pub fn side_by_side() -> Vec<Self> {
        SIDE_BY_SIDE.to_vec()
    }

    /// The scenarios in which other people's servers are set beside ours.
    #[must_use]
    pub fn peers() -> Vec<Self> {
        PEERS.to_vec()
    }

    /// Descriptors that server and generator need for it, each.
    #[must_use]
    pub fn descriptors(&self) -> u64 {
        u64::from(self.connections) + u64::from(self.idle) + SPARE_DESCRIPTORS
    }

    /// Whether its question is how long a message takes, and not how much a server can do.
    #[must_use]
    pub fn is_about_latency(&self) -> bool {
        self.connections == 1 || self.rate_per_s.is_some()
    }

    /// The name in results: `echo`, or `echo@epoll` where the scenario is about an engine.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.engine {
            Some(engine) => format!("{}@{}", self.name, engine.name()),
            None => self.name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_lengths_are_the_rfcs() {
        // RFC 6455 section 5.2: 2 bytes and a key of 4, with 2 or 8 bytes more of length from 126 and 65,536 on.
        for (payload, frame) in [
            (0, 6),
            (32, 38),
            (125, 131),
            (126, 134),
            (65_535, 65_543),
            (65_536, 65_550),
            (1 << 20, (1 << 20) + 14),
        ] {
            assert_eq!(client_frame_bytes(payload), frame);
        }
    }

    #[test]
    fn names_are_unique_and_fit_the_table() {
        let specs = Suite::Full.specs();
        let mut names: Vec<String> = specs.iter().map(Spec::full_name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), specs.len());
        assert!(specs.iter().all(|spec| spec.name.len() <= 12));
    }

    #[test]
    fn peers_are_asked_for_what_any_server_has() {
        let specs = Spec::peers();
        assert!(specs.iter().all(|spec| spec.transport == Transport::Ws && spec.engine.is_none()));
        assert!(specs.iter().any(|spec| spec.name == AT_A_RATE && spec.rate_per_s.is_some()));
        assert!(specs.iter().any(|spec| spec.name == MOSTLY_IDLE && spec.descriptors() == 4257));
    }

    #[test]
    fn side_by_side_no_scenario_is_about_an_engine() {
        let specs = Spec::side_by_side();
        assert!(specs.iter().all(|spec| spec.engine.is_none() && spec.name.len() <= 12));
        let mut names: Vec<String> = specs.iter().map(Spec::full_name).collect();
        names.dedup();
        assert_eq!(names.len(), specs.len());
        let latency: Vec<_> = specs.iter().filter(|s| s.is_about_latency()).map(|s| s.name).collect();
        assert_eq!(latency, ["echo-1x1", "rate-1x1", "rate-64x1"]);
    }

    #[test]
    fn raw_tcp_moves_the_bytes_that_websocket_moves() {
        let specs = Suite::Quick.specs();
        let find =
            |name: &str| specs.iter().find(|spec| spec.full_name() == name).copied().expect("is there");
        for (ws, tcp) in [("echo", "tcp"), ("pipeline", "tcp-pipeline")] {
            let (ws, tcp) = (find(ws), find(tcp));
            assert_eq!((ws.connections, ws.pipeline), (tcp.connections, tcp.pipeline));
            assert_eq!(client_frame_bytes(ws.message_bytes), tcp.message_bytes);
        }
    }

    #[test]
    fn full_holds_quick_unchanged() {
        let full = Suite::Full.specs();
        assert!(Suite::Quick.specs().iter().all(|spec| full.contains(spec)));
        assert_eq!(Suite::Quick.measure(), Suite::Full.measure());
        assert_eq!(Suite::Quick.warmup(), Suite::Full.warmup());
    }

    #[test]
    fn suites_are_known_by_their_names() {
        for suite in [Suite::Quick, Suite::Full, Suite::Smoke] {
            assert_eq!(suite.name().parse(), Ok(suite));
        }
        assert!("fast".parse::<Suite>().is_err_and(|error| error.contains("quick")));
    }
}

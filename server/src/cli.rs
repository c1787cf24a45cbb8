//! Command line, and its translation into a [`Config`].

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use engine::socket::{Congestion, url_authority};
use engine::tls::{TlsVersion, TlsVersions};
use engine::{EngineChoice, EngineKind, SendCompletions, Spin, UringConfig, affinity};
use protocol::Limits;
use protocol::handshake::HeadLimits;
use protocol::handshake::deflate::ServerPolicy;
use tracing_subscriber::EnvFilter;

use crate::admission::{Admission, Origins};
use crate::config::{
    Config, EchoSettings, ListenAddress, ListenAddressError, Protocol, Spread, place_workers,
};
use crate::connection::Heartbeat;
use crate::counted::counted;
use crate::deflate::{DeflateEcho, DeflateSettings};
use crate::error::ServeError;
use crate::faults::{FaultError, FaultSettings};
use crate::injected_cost::InjectedCost;
use crate::limiter::AddressLimits;
use crate::proxy::Networks;
use crate::rate::{Rate, RatePolicy, Rates};
use crate::server::Server;
use crate::stats::Stats;
use crate::tls::{Identity, TlsOptions};
use crate::{signals, version};

const LISTENING: &str = "Listening";
const PROXIES: &str = "Behind proxies";
const WORKERS: &str = "Workers";
const LIMITS: &str = "Limits (0 is off)";
const COMPRESSION: &str = "Compression";
const TIMES: &str = "Time limits (0 is off)";
const URING: &str = "io_uring";
const TESTING: &str = "Testing clients";
const OUTPUT: &str = "Output";

const EXAMPLES: &str = "\
Examples:
  sparring-server                                       ws://127.0.0.1:9001/, a worker on each core
  sparring-server --listen 0.0.0.0:8080 --max-connections-per-ip 1000 --connect-rate-per-ip 1000
                                                        reachable from elsewhere, with limits for each address
  sparring-server --listen ws://127.0.0.1:9001 --listen wss://127.0.0.1:9443 --tls-self-signed
                                                        TLS on a second port, with a certificate of its own
  sparring-server --admin 127.0.0.1:9100                with metrics and health at http://127.0.0.1:9100/metrics
  sparring-server --engine epoll --stats                another engine; counters at the end
  sparring-server --protocol tcp                        raw bytes, the limit to measure against

Standard output has one line for each listener, `listening on URL (engine ..., N threads)`, once it accepts.
A browser finds a console at http://ADDRESS/.
SIGHUP reads --tls-cert and --tls-key again, for new connections. SIGTERM or SIGINT drains: new connections get a 503, what has arrived is echoed, every WebSocket is closed with 1001. A second
signal ends the server at once.
Exit status: 0 drained, 1 error, 2 wrong usage, 3 the drain timeout cut connections off, 130 or 143 ended by a second signal.";

/// A WebSocket (RFC 6455) echo server for load testing: one worker per core, each on an io_uring of
/// its own.
///
/// Returns every message as one frame of the same kind with the same bytes. Sizes and times have
/// units (64KiB, 64MiB, 50us, 5s). 0 switches a limit off.
#[derive(Debug, Parser)]
#[command(name = "sparring-server", disable_version_flag = true, after_help = EXAMPLES, max_term_width = 110)]
struct Arguments {
    /// Address to listen on: HOST:PORT, ws://HOST:PORT/, or wss://HOST:PORT/ for TLS. Port 0 takes
    /// a free port. A link-local address has its interface: [fe80::1%eth0]:9001. Repeatable.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9001", help_heading = LISTENING)]
    listen: Vec<ListenAddress>,

    /// Certificate chain of wss:// listeners in PEM, the server's own certificate first.
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = LISTENING)]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate in PEM, not encrypted.
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = LISTENING)]
    tls_key: Option<PathBuf>,

    /// Create a certificate for localhost, the loopback addresses and the hosts of wss://
    /// listeners, and print its fingerprint.
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key"], help_heading = LISTENING)]
    tls_self_signed: bool,

    /// Ask clients of wss:// listeners for a certificate of one of the authorities in this file,
    /// PEM, and refuse others.
    #[arg(long, value_name = "FILE", help_heading = LISTENING)]
    tls_client_ca: Option<PathBuf>,

    /// Lowest version of TLS to agree to.
    #[arg(long, value_enum, value_name = "1.2|1.3", default_value = "1.2", hide_possible_values = true, help_heading = LISTENING)]
    tls_min: Version,

    /// Highest version of TLS to agree to.
    #[arg(long, value_enum, value_name = "1.2|1.3", default_value = "1.3", hide_possible_values = true, help_heading = LISTENING)]
    tls_max: Version,

    /// Only path to serve; other paths get a 404 [default: every path].
    #[arg(long, value_name = "PATH", value_parser = path, help_heading = LISTENING)]
    path: Option<String>,

    /// Admit pages of this Origin (scheme://host[:port], or * for all); others get a 403. Requests
    /// without an Origin are always admitted. Repeatable [default: on loopback and wildcard
    /// addresses only the server's own page, else all].
    #[arg(long = "origin", value_name = "ORIGIN", value_parser = origin, help_heading = LISTENING)]
    origins: Vec<String>,

    /// Subprotocol to accept. Among several, the client's first choice is used. Repeatable.
    #[arg(long = "subprotocol", value_name = "NAME", value_parser = subprotocol, help_heading = LISTENING)]
    subprotocols: Vec<String>,

    /// Echo WebSocket messages, or raw bytes.
    #[arg(long, value_enum, default_value_t = Mode::Ws, help_heading = LISTENING)]
    protocol: Mode,

    /// Congestion control of the connections, one of net.ipv4.tcp_available_congestion_control
    /// [default: the kernel's].
    #[arg(long, value_name = "NAME", help_heading = LISTENING)]
    congestion: Option<Congestion>,

    /// Serve metrics (/metrics) and health checks (/healthz, /readyz) on this address, HOST:PORT.
    #[arg(long, value_name = "ADDRESS", value_parser = admin, help_heading = LISTENING)]
    admin: Option<ListenAddress>,

    /// Proxies whose connections begin with a header of the PROXY protocol, version 1 or 2, such as
    /// 10.0.0.0/8,127.0.0.1. Limits and log lines then have the client's address. Connections of
    /// others have no header.
    #[arg(long, value_name = "NETWORKS", help_heading = PROXIES)]
    proxy_protocol: Option<Networks>,

    /// Proxies whose requests name the client in X-Forwarded-For or Forwarded (RFC 7239), such as
    /// 10.0.0.0/8,127.0.0.1. Limits and log lines then have the client's address.
    #[arg(long, value_name = "NETWORKS", help_heading = PROXIES)]
    trusted_proxy: Option<Networks>,

    /// Number of workers [default: one for each allowed physical core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = WORKERS)]
    threads: Option<u16>,

    /// Processors of the workers, such as 0,2-5 [default: distinct physical cores first].
    #[arg(long, value_name = "LIST", value_parser = cpu_list, help_heading = WORKERS)]
    cpus: Option<CpuList>,

    /// Event loop. auto uses uring where the kernel allows it, else epoll; a named engine never
    /// falls back [default: auto].
    #[arg(long, value_name = "auto|uring|tokio-uring|epoll", help_heading = WORKERS)]
    engine: Option<EngineChoice>,

    /// Spread of connections over several workers: even gives each to the worker with the fewest,
    /// kernel leaves each where the kernel's hash puts it. On uring, even needs Linux 6.7.
    #[arg(long, value_enum, default_value_t = Spreading::Even, help_heading = WORKERS)]
    spread: Spreading,

    /// Time to spin before an idle worker blocks in the kernel: 0, a time, or always. Trades CPU
    /// for latency. Not for tokio-uring.
    #[arg(long, value_name = "0|TIME|always", value_parser = spin, default_value = "0", help_heading = WORKERS)]
    spin: Spin,

    /// Most open connections; further ones get a 503 [default: what the limit on open files
    /// allows].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, help_heading = LIMITS)]
    max_connections: u64,

    /// Most open connections of one IPv4 address or IPv6 /64; further ones get a 503.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = LIMITS)]
    max_connections_per_ip: u32,

    /// Most new connections per second of one IPv4 address or IPv6 /64; further ones get a 503.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = LIMITS)]
    connect_rate_per_ip: u64,

    /// Most messages, pings and pongs per second of a WebSocket. --rate-policy says what happens
    /// beyond.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = LIMITS)]
    message_rate: u64,

    /// Most bytes per second from a WebSocket. --rate-policy says what happens beyond.
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value = "0", help_heading = LIMITS)]
    byte_rate: u64,

    /// Action when a WebSocket exceeds its rate: pause reading until it is within the rate again,
    /// or close with 1008. A WebSocket that is 5 s ahead of its rate is closed in any case.
    #[arg(long, value_enum, default_value_t = Policy::Pause, help_heading = LIMITS)]
    rate_policy: Policy,

    /// Largest message, all fragments together, from 1 to 2GiB. A larger one is answered with Close
    /// 1009.
    #[arg(long, value_name = "SIZE", value_parser = message_size, default_value = "64MiB", help_heading = LIMITS)]
    max_message: u64,

    /// Most fragments of a message. More are answered with Close 1008.
    #[arg(long, value_name = "N", default_value_t = 262_144, help_heading = LIMITS)]
    max_fragments: u32,

    /// Most bytes of a request with its header fields, from 1KiB to 1MiB; its target may have half
    /// of them. A longer one gets a 431.
    #[arg(long, value_name = "SIZE", value_parser = head_size, default_value = "16KiB", help_heading = LIMITS)]
    max_head: usize,

    /// Unsent bytes of a connection above which it is not read from until all are sent. Here 0 is
    /// the strictest value.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1MiB", help_heading = LIMITS)]
    high_water: usize,

    /// Compress messages (permessage-deflate, RFC 7692): agree to it without context takeover, with
    /// it where the client wants it, or decline.
    #[arg(long, value_enum, default_value_t = Deflate::Off, help_heading = COMPRESSION)]
    deflate: Deflate,

    /// Way in which compressed messages are echoed: as the client's compressor made them, checked,
    /// or inflated and compressed again. Where the bytes that came would be invalid as an answer,
    /// they are compressed again in any case.
    #[arg(long, value_enum, default_value_t = Echo::Passthrough, help_heading = COMPRESSION)]
    deflate_echo: Echo,

    /// Largest window to agree to, in bits: 9 (512 bytes) to 15 (32 KiB).
    #[arg(long, value_name = "BITS", default_value_t = 15, value_parser = clap::value_parser!(u8).range(9..=15), help_heading = COMPRESSION)]
    deflate_window_bits: u8,

    /// Memory of a compressor, from 1 (260 KiB with the largest window) to 9 (480 KiB).
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=9), help_heading = COMPRESSION)]
    deflate_memory_level: u8,

    /// Time limit of the opening handshake. Beyond it the connection gets a 408 and is dropped.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5s", help_heading = TIMES)]
    handshake_timeout: Duration,

    /// Time limit of a message from its first byte to its last. Beyond it the WebSocket is closed
    /// with 1008.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "2min", help_heading = TIMES)]
    message_timeout: Duration,

    /// Time after which a connection is dropped that accepts no output.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30s", help_heading = TIMES)]
    write_timeout: Duration,

    /// Time to wait for the peer after a Close. 0 does not wait.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "2s", help_heading = TIMES)]
    close_timeout: Duration,

    /// Time after which a silent WebSocket is pinged. After two unanswered pings it is dropped.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30s", help_heading = TIMES)]
    ping_interval: Duration,

    /// Time after which a silent WebSocket is closed with 1001.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "0", help_heading = TIMES)]
    idle_timeout: Duration,

    /// Time that a drain waits for the peers to close.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5s", help_heading = TIMES)]
    drain_timeout: Duration,

    /// Bytes of a receive buffer [default: 68KiB].
    #[arg(long, value_name = "SIZE", value_parser = buffer_size, help_heading = URING)]
    buffer_size: Option<u32>,

    /// Number of receive buffers of a worker, a power of two.
    #[arg(long, value_name = "N", value_parser = buffers, default_value = "128", help_heading = URING)]
    buffers: u16,

    /// Entries of a worker's submission queue. The kernel rounds up to a power of two.
    #[arg(long, value_name = "N", value_parser = entries, default_value = "1024", help_heading = URING)]
    sq_entries: u32,

    /// Entries of a worker's completion queue. The kernel rounds up to a power of two.
    #[arg(long, value_name = "N", value_parser = entries, default_value = "4096", help_heading = URING)]
    cq_entries: u32,

    /// Completions of sends. auto avoids them in turns of few sends, where a test at the start
    /// shows that sends finish inside the call that submits them.
    #[arg(long, value_enum, default_value_t = Completions::Auto, help_heading = URING)]
    send_completions: Completions,

    /// CPU time to burn for each message, such as 25ns: makes the server slower by a known amount,
    /// to verify a comparison.
    #[arg(long, value_name = "TIME", value_parser = burn, hide = true, help_heading = WORKERS)]
    burn_per_message: Option<InjectedCost>,

    /// Answer with faults that the URL asks for, to test clients: /?delay=5ms&close=1011@100, or
    /// /faults/delay=5ms/close=1011@100. A value gives faults to connections whose URL names none.
    /// They are delay, stall, close, abort, refuse, fragment, ping, truncate, greet and seed; one
    /// that is not valid gets a 400 that says what is.
    #[arg(long, value_name = "FAULTS", num_args = 0..=1, require_equals = true, default_missing_value = "", help_heading = TESTING)]
    faults: Option<String>,

    /// Print the counters of all workers at the end, as one line of JSON.
    #[arg(long, help_heading = OUTPUT)]
    stats: bool,

    /// Log level on standard error: off, error, warn, info, debug, trace, or filters as in RUST_LOG
    /// [default: RUST_LOG, else info].
    #[arg(long, value_name = "LEVEL", value_parser = log_filter, help_heading = OUTPUT)]
    log: Option<String>,

    /// Format of log lines.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, help_heading = OUTPUT)]
    log_format: LogFormat,

    /// Print a script with which this shell completes the flags.
    #[arg(long, value_name = "SHELL", help_heading = OUTPUT)]
    completions: Option<Shell>,

    /// Print the manual page.
    #[arg(long, help_heading = OUTPUT)]
    man: bool,

    /// Print the version.
    #[arg(short = 'V', long, help_heading = OUTPUT)]
    version: bool,

    /// With --version: print commit, profile, available engines and masking kernel as lines `key:
    /// value`.
    #[arg(long, requires = "version", help_heading = OUTPUT)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Spreading {
    Kernel,
    Even,
}

impl From<Spreading> for Spread {
    fn from(spreading: Spreading) -> Self {
        match spreading {
            Spreading::Kernel => Self::Kernel,
            Spreading::Even => Self::Even,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Version {
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
}

impl From<Version> for TlsVersion {
    fn from(version: Version) -> Self {
        match version {
            Version::Tls12 => Self::Tls12,
            Version::Tls13 => Self::Tls13,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Ws,
    Tcp,
}

impl From<Mode> for Protocol {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Ws => Self::WebSocket,
            Mode::Tcp => Self::Tcp,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Policy {
    Pause,
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Deflate {
    Off,
    On,
    Takeover,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Echo {
    Passthrough,
    Recompress,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    /// One JSON object to a line.
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Completions {
    Auto,
    All,
}

/// List of processors. An own type, because clap takes a `Vec` for a repeatable flag.
#[derive(Clone, Debug)]
struct CpuList(Vec<usize>);

fn cpu_list(text: &str) -> Result<CpuList, affinity::CpuListError> {
    affinity::parse_cpu_list(text).map(CpuList)
}

/// Longest time limit. A longer one is a mistake, and its sum with a clock might overflow.
const MAX_TIME: Duration = Duration::from_secs(100 * 24 * 60 * 60);

fn time(text: &str) -> Result<Duration, String> {
    let span = if text == "0" { Ok(Duration::ZERO) } else { humantime::parse_duration(text) };
    let span = span.map_err(|error| format!("{error}, as in 500ms or 5s; 0 is off"))?;
    if span > MAX_TIME { Err("at most 100days".to_owned()) } else { Ok(span) }
}

fn path(text: &str) -> Result<String, String> {
    let graphic = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
    let right = text.starts_with('/') && graphic;
    if right {
        Ok(text.to_owned())
    } else {
        Err("a path without a query is needed, as in /chat".to_owned())
    }
}

/// Parses an Origin as browsers send it, without a path (RFC 6454 6.2).
fn origin(text: &str) -> Result<String, String> {
    let is_one = text.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty()
            && !rest.is_empty()
            && rest.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
    });
    let right = is_one || text == "*" || text == "null";
    if right {
        Ok(text.to_owned())
    } else {
        Err("an Origin is needed, as in https://example.com:8080, or *".to_owned())
    }
}

/// Parses a subprotocol (RFC 6455 11.3.4): a token (RFC 9110 5.6.2).
fn subprotocol(text: &str) -> Result<String, String> {
    let is_token = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if is_token {
        Ok(text.to_owned())
    } else {
        Err("a name without spaces or separators is needed".to_owned())
    }
}

fn admin(text: &str) -> Result<ListenAddress, String> {
    let address: ListenAddress =
        text.parse().map_err(|error: ListenAddressError| error.to_string())?;
    if address.scheme.is_some() {
        Err("HOST:PORT is needed, without a scheme".to_owned())
    } else {
        Ok(address)
    }
}

fn spin(text: &str) -> Result<Spin, String> {
    if text == "always" {
        return Ok(Spin::Always);
    }
    Ok(match time(text)? {
        Duration::ZERO => Spin::Off,
        span => Spin::For(span),
    })
}

fn bytes(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| "a size is needed, as in 4096 or 64MiB".to_owned())
}

fn size(text: &str) -> Result<usize, String> {
    usize::try_from(bytes(text)?).map_err(|error| error.to_string())
}

/// Largest value of `--max-message`.
const MAX_MESSAGE: u64 = 2 << 30;

fn message_size(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("at least 1 byte".to_owned()),
        size if size > MAX_MESSAGE => Err("at most 2GiB".to_owned()),
        size => Ok(size),
    }
}

fn head_size(text: &str) -> Result<usize, String> {
    let size = Some(size(text)?).filter(|size| (1 << 10..=1 << 20).contains(size));
    size.ok_or_else(|| "from 1KiB to 1MiB, as in 16KiB".to_owned())
}

fn buffer_size(text: &str) -> Result<u32, String> {
    let allowed = 256..=16 << 20;
    let size = u32::try_from(bytes(text)?).ok().filter(|size| allowed.contains(size));
    size.ok_or_else(|| "from 256 to 16MiB".to_owned())
}

fn buffers(text: &str) -> Result<u16, String> {
    let count =
        text.parse::<u16>().ok().filter(|&n| n.is_power_of_two() && (2..=32_768).contains(&n));
    count.ok_or_else(|| "a power of two from 2 to 32768".to_owned())
}

fn entries(text: &str) -> Result<u32, String> {
    let count = text.parse::<u32>().ok().filter(|n| (8..=65_536).contains(n));
    count.ok_or_else(|| "from 8 to 65536".to_owned())
}

/// Parses a CPU time with fractions: a hundredth of a message of 200 ns is 2 ns.
fn burn(text: &str) -> Result<InjectedCost, String> {
    let ns = text
        .strip_suffix("ns")
        .and_then(|ns| ns.trim().parse::<f64>().ok())
        .filter(|&ns| ns <= 1e9);
    ns.and_then(InjectedCost::per_message)
        .ok_or_else(|| "nanoseconds above 0 are needed, as in 25ns or 2.5ns".to_owned())
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

impl Arguments {
    /// Translates the flags. The error names flags that contradict each other.
    fn config(&self) -> Result<Config, String> {
        let protocol = Protocol::from(self.protocol);
        let differs = |listen: &&ListenAddress| {
            listen.scheme.is_some_and(|scheme| scheme.protocol() != protocol)
        };
        if let Some(other) = self.listen.iter().find(differs) {
            let scheme = protocol.scheme().name();
            return Err(format!(
                "--listen {other}: its scheme is not that of --protocol {scheme} ({scheme}://)"
            ));
        }
        if self.spin != Spin::Off
            && self.engine == Some(EngineChoice::Named(EngineKind::TokioUring))
        {
            return Err(
                "--spin: the runtime of --engine tokio-uring decides by itself how it waits"
                    .to_owned(),
            );
        }
        if protocol == Protocol::Tcp && (self.message_rate > 0 || self.byte_rate > 0) {
            return Err(
                "--message-rate and --byte-rate: raw bytes of --protocol tcp have no rates"
                    .to_owned(),
            );
        }
        if protocol == Protocol::Tcp && self.burn_per_message.is_some() {
            return Err(
                "--burn-per-message: raw bytes of --protocol tcp are no messages".to_owned()
            );
        }
        if protocol == Protocol::Tcp && self.faults.is_some() {
            return Err("--faults: raw bytes of --protocol tcp have no URL that asks for faults, \
                 and no messages"
                .to_owned());
        }
        let proxies = [
            ("--proxy-protocol", self.proxy_protocol.is_some()),
            ("--trusted-proxy", self.trusted_proxy.is_some()),
        ];
        if protocol == Protocol::Tcp
            && let Some((flag, _)) = proxies.into_iter().find(|(_, is_on)| *is_on)
        {
            return Err(format!(
                "{flag}: it is for WebSocket, not for raw bytes of --protocol tcp"
            ));
        }
        let allowed = affinity::allowed().map_err(|error| format!("--cpus: {error}"))?;
        let listed = self.cpus.as_ref().map(|list| list.0.as_slice());
        let cpus =
            place_workers(self.threads.map(usize::from), listed, &allowed, affinity::siblings)
                .map_err(|error| format!("--cpus: {error}"))?;
        Ok(Config {
            listen: self.listen.clone(),
            identity: self.identity()?,
            tls: self.tls()?,
            protocol,
            proxy_protocol: self.proxy_protocol.clone(),
            settings: self.settings()?,
            engine: self.engine.unwrap_or(EngineChoice::Auto),
            cpus,
            spread: self.spread.into(),
            max_connections: Some(self.max_connections).filter(|&max| max > 0),
            address_limits: AddressLimits {
                connections: self.max_connections_per_ip,
                connect_rate: Rate::per_second(self.connect_rate_per_ip),
            },
            high_water: self.high_water,
            spin: self.spin,
            congestion: self.congestion.clone(),
            uring: self.uring(),
            receive_buffer: self
                .buffer_size
                .map_or(engine::Config::default().receive_buffer, |n| n as usize),
            write_timeout: self.write_timeout,
            close_timeout: self.close_timeout,
            drain_timeout: self.drain_timeout,
            admin: self.admin.clone(),
        })
    }

    fn identity(&self) -> Result<Option<Identity>, String> {
        let identity = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(Identity::Files { certificate: certificate.clone(), key: key.clone() })
            }
            _ if self.tls_self_signed => {
                let secure = self.listen.iter().filter(|listen| listen.is_tls());
                Some(Identity::SelfSigned { names: secure.map(ListenAddress::name).collect() })
            }
            _ => None,
        };
        match (self.listen.iter().find(|listen| listen.is_tls()), &identity) {
            (Some(listen), None) => Err(format!(
                "--listen wss://{listen}/ needs a certificate: give --tls-cert and --tls-key, or --tls-self-signed"
            )),
            (None, Some(_)) => {
                let flag = if self.tls_self_signed { "--tls-self-signed" } else { "--tls-cert" };
                Err(format!("{flag} is for listeners of wss://, and there is none: see --listen"))
            }
            _ => Ok(identity),
        }
    }

    fn faults(&self) -> Result<Option<FaultSettings>, String> {
        let Some(text) = self.faults.as_deref() else { return Ok(None) };
        let default = Some(text).filter(|text| !text.is_empty()).map(str::parse).transpose();
        let default = default.map_err(|error: FaultError| format!("--faults: {error}"))?;
        Ok(Some(FaultSettings::new(default, self.high_water)))
    }

    fn tls(&self) -> Result<TlsOptions, String> {
        let versions = TlsVersions { min: self.tls_min.into(), max: self.tls_max.into() };
        let options = TlsOptions { client_authorities: self.tls_client_ca.clone(), versions };
        if versions.min > versions.max {
            return Err(
                "--tls-min 1.3 is above --tls-max 1.2: expected a version between them, as in \
                        --tls-min 1.2"
                    .to_owned(),
            );
        }
        if options == TlsOptions::default() || self.listen.iter().any(ListenAddress::is_tls) {
            return Ok(options);
        }
        let flag = match &self.tls_client_ca {
            Some(file) => format!("--tls-client-ca {}", file.display()),
            None => "--tls-min and --tls-max".to_owned(),
        };
        Err(format!("{flag}: for listeners of wss://, as in --listen wss://127.0.0.1:9443/"))
    }

    fn settings(&self) -> Result<EchoSettings, String> {
        let any = u32::MAX;
        let max_fragments = if self.max_fragments == 0 { any } else { self.max_fragments };
        Ok(EchoSettings {
            limits: Limits { max_message: self.max_message, max_fragments },
            head: HeadLimits {
                bytes: self.max_head,
                target: self.max_head / 2,
                ..HeadLimits::default()
            },
            admission: self.admission(),
            rates: Rates {
                messages: Rate::per_second(self.message_rate),
                bytes: Rate::per_second(self.byte_rate),
                policy: match self.rate_policy {
                    Policy::Pause => RatePolicy::Pause,
                    Policy::Close => RatePolicy::Close,
                },
            },
            handshake_timeout: self.handshake_timeout,
            message_timeout: self.message_timeout,
            heartbeat: Heartbeat {
                idle_timeout: self.idle_timeout,
                ping_interval: self.ping_interval,
            },
            deflate: self.deflate(),
            burn: self.burn_per_message,
            trusted_proxies: self.trusted_proxy.clone(),
            faults: self.faults()?,
        })
    }

    fn deflate(&self) -> Option<DeflateSettings> {
        let takeover = match self.deflate {
            Deflate::Off => return None,
            Deflate::On => false,
            Deflate::Takeover => true,
        };
        let policy = ServerPolicy { takeover, max_window_bits: self.deflate_window_bits };
        let echo = match self.deflate_echo {
            Echo::Passthrough => DeflateEcho::Passthrough,
            Echo::Recompress => DeflateEcho::Recompress,
        };
        Some(DeflateSettings { policy, echo, memory_level: self.deflate_memory_level })
    }

    fn admission(&self) -> Admission {
        let origins = match &self.origins[..] {
            [] => Origins::Guarded,
            listed if listed.iter().any(|origin| origin == "*") => Origins::Any,
            listed => Origins::Listed(listed.to_vec()),
        };
        Admission { path: self.path.clone(), origins, subprotocols: self.subprotocols.clone() }
    }

    fn uring(&self) -> UringConfig {
        UringConfig {
            sq_entries: self.sq_entries,
            cq_entries: self.cq_entries,
            buffers: self.buffers,
            buffer_size: self.buffer_size.unwrap_or(UringConfig::default().buffer_size),
            send_completions: match self.send_completions {
                Completions::Auto => SendCompletions::Auto,
                Completions::All => SendCompletions::All,
            },
            ..UringConfig::default()
        }
    }
}

/// Exit status of a drain whose timeout has cut connections off.
const CUT_OFF: u8 = 3;

/// Runs the program. A wrong command line ends it with exit status 2.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.version {
        say(&if arguments.verbose { version::facts() } else { version::line() });
        return ExitCode::SUCCESS;
    }
    if arguments.man || arguments.completions.is_some() {
        say(for_packages(arguments.completions).trim_end());
        return ExitCode::SUCCESS;
    }
    let config = arguments.config().unwrap_or_else(|message| {
        Arguments::command().error(ErrorKind::ValueValidation, message).exit();
    });
    start_log(arguments.log.as_deref(), arguments.log_format);
    match serve(&arguments, &config) {
        Ok(Stats { cut: 0, .. }) => ExitCode::SUCCESS,
        Ok(Stats { cut, .. }) => {
            tracing::warn!("the drain timeout cut {} off", counted(cut, "connection"));
            ExitCode::from(CUT_OFF)
        }
        Err(error) => {
            eprintln!("sparring-server: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns what a package installs beside the program: completions for a shell, or the manual page.
fn for_packages(shell: Option<Shell>) -> String {
    let (mut command, mut text) = (Arguments::command(), Vec::new());
    match shell {
        Some(shell) => {
            clap_complete::generate(shell, &mut command, "sparring-server", &mut text);
        }
        None => Man::new(command.version(version::VERSION))
            .render(&mut text)
            .expect("memory takes every byte"),
    }
    String::from_utf8(text).expect("made from text")
}

fn serve(arguments: &Arguments, config: &Config) -> Result<Stats, ServeError> {
    let reloads = config.identity.as_ref().is_some_and(Identity::is_in_files);
    let signals = signals::catch(reloads).map_err(ServeError::system("catching signals"))?;
    let server = Server::start(config)?;
    signals
        .act(server.drain(), server.reload())
        .map_err(ServeError::system("starting the signals' thread"))?;
    let (engine, reason) = server.engine();
    // The reason for the engine is shown where an engine was asked for, or where the choice is
    // unusual.
    if arguments.engine == Some(EngineChoice::Auto)
        || config.engine == EngineChoice::Auto && engine != EngineKind::Uring
    {
        eprintln!("engine {engine}: {reason}");
    }
    if let (Some(fingerprint), true) = (server.fingerprint(), arguments.tls_self_signed) {
        eprintln!("self-signed certificate, SHA-256 fingerprint {fingerprint}");
    }
    if let Some(address) = server.admin() {
        eprintln!("admin at http://{}/: metrics, healthz, readyz", url_authority(address));
    }
    server.announcements().for_each(|line| say(&line));
    let stats = server.wait()?;
    if arguments.stats {
        say(&stats.to_json());
    }
    Ok(stats)
}

/// Prints a line at once. A closed pipe does not end the server.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn start_log(filter: Option<&str>, format: LogFormat) {
    let info = || EnvFilter::builder().with_default_directive(tracing::Level::INFO.into());
    let filter = match filter {
        Some(filter) => EnvFilter::new(filter),
        None => info().from_env_lossy(),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let words = ["sparring-server"].iter().chain(arguments);
        Arguments::try_parse_from(words).map_err(|error| error.to_string())?.config()
    }

    #[test]
    fn the_command_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_libraries() {
        let config = config(&[]).expect("defaults");
        assert_eq!(config.listen[0].to_string(), "127.0.0.1:9001");
        assert_eq!(config.settings.limits, Limits::default());
        let settings = EchoSettings::default();
        assert_eq!(config.settings.handshake_timeout, settings.handshake_timeout);
        assert_eq!(config.settings.message_timeout, settings.message_timeout);
        assert_eq!(config.settings.heartbeat, settings.heartbeat);
        assert_eq!(
            (config.settings.rates, config.settings.admission),
            (settings.rates, settings.admission)
        );
        assert_eq!((config.settings.burn, settings.burn), (None, None));
        let engine = engine::Config::default();
        assert_eq!(config.high_water, engine.high_water);
        assert_eq!(
            (config.write_timeout, config.close_timeout),
            (engine.write_stall, engine.linger.time)
        );
        assert_eq!(
            (config.max_connections, config.address_limits),
            (None, AddressLimits::default())
        );
        assert_eq!(config.spin, Spin::Off);
        assert_eq!(config.spread, Spread::Even);
        assert_eq!(format!("{:?}", config.uring), format!("{:?}", engine.uring));
        assert_eq!(config.receive_buffer, engine.receive_buffer);
        assert!(!config.cpus.is_empty());
    }

    #[test]
    fn values_have_units() {
        let config = config(&[
            "--max-message",
            "1MiB",
            "--max-fragments",
            "0",
            "--idle-timeout",
            "90s",
            "--spread",
            "kernel",
            "--spin",
            "50us",
            "--buffer-size",
            "16KiB",
            "--engine",
            "epoll",
        ])
        .expect("flags");
        assert_eq!(
            config.settings.limits,
            Limits { max_message: 1 << 20, max_fragments: u32::MAX }
        );
        assert_eq!(config.settings.heartbeat.idle_timeout, Duration::from_secs(90));
        assert_eq!(config.spin, Spin::For(Duration::from_micros(50)));
        assert_eq!(config.spread, Spread::Kernel);
        assert_eq!((config.uring.buffer_size, config.receive_buffer), (16 << 10, 16 << 10));
        assert_eq!(config.engine, EngineChoice::Named(EngineKind::Epoll));
    }

    #[test]
    fn wrong_values_name_their_flag() {
        for (flag, value) in [
            ("--listen", "localhost"),
            ("--listen", "wss://localhost:1/"),
            ("--listen", "https://localhost:1/"),
            ("--threads", "0"),
            ("--cpus", "0-x"),
            ("--cpus", "1023"),
            ("--engine", "kqueue"),
            ("--protocol", "http"),
            ("--max-message", "0"),
            ("--max-message", "large"),
            ("--max-message", "2049MiB"),
            ("--max-message", "8GiB"),
            ("--max-fragments", "-1"),
            ("--handshake-timeout", "5"),
            ("--idle-timeout", "1000years"),
            ("--spin", "never"),
            ("--buffers", "100"),
            ("--buffer-size", "8"),
            ("--sq-entries", "0"),
            ("--send-completions", "none"),
            ("--congestion", "no-such"),
            ("--burn-per-message", "25"),
            ("--burn-per-message", "0ns"),
            ("--burn-per-message", "2s"),
            ("--max-connections", "-1"),
            ("--message-rate", "fast"),
            ("--byte-rate", "1s"),
            ("--rate-policy", "reset"),
            ("--origin", "example.com"),
            ("--origin", "https://example.com/"),
            ("--subprotocol", "two words"),
            ("--admin", "http://127.0.0.1:1"),
            ("--admin", "9100"),
            ("--log-format", "xml"),
            ("--log", "server=loud"),
        ] {
            let error = config(&[&format!("{flag}={value}")]).expect_err(flag);
            assert!(error.contains(flag), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn the_largest_message_has_a_maximum() {
        assert_eq!(
            config(&["--max-message", "2GiB"]).expect("a size").settings.limits.max_message,
            2 << 30
        );
        let error = config(&["--max-message", "8GiB"]).expect_err("too large");
        assert!(error.contains("8GiB") && error.contains("at most 2GiB"), "{error}");
    }

    #[test]
    fn limits_are_off_at_zero() {
        let off = config(&[
            "--max-connections=0",
            "--message-rate=0",
            "--byte-rate=0",
            "--connect-rate-per-ip=0",
        ]);
        let off = off.expect("flags");
        assert_eq!((off.max_connections, off.settings.rates), (None, Rates::default()));
        assert!(!off.address_limits.are_on());
        let on = config(&[
            "--max-connections=7",
            "--byte-rate=1MiB",
            "--rate-policy=close",
            "--connect-rate-per-ip=5",
        ]);
        let on = on.expect("flags");
        assert_eq!(
            (on.max_connections, on.settings.rates.bytes),
            (Some(7), Rate::per_second(1 << 20))
        );
        assert_eq!(on.settings.rates.policy, RatePolicy::Close);
        assert_eq!(on.address_limits.connect_rate, Rate::per_second(5));
    }

    #[test]
    fn what_is_burnt_has_fractions_and_is_not_in_the_help() {
        let burn = config(&["--burn-per-message", "2.5ns"]).expect("a flag").settings.burn;
        assert_eq!(burn, InjectedCost::per_message(2.5));
        assert!(!Arguments::command().render_long_help().to_string().contains("burn"));
    }

    #[test]
    fn origins_are_listed_or_all() {
        let origins =
            |arguments: &[&str]| config(arguments).expect("flags").settings.admission.origins;
        assert_eq!(origins(&[]), Origins::Guarded);
        let listed = vec!["http://a".to_owned(), "null".to_owned()];
        assert_eq!(origins(&["--origin", "http://a", "--origin", "null"]), Origins::Listed(listed));
        assert_eq!(origins(&["--origin", "http://a", "--origin", "*"]), Origins::Any);
    }

    #[test]
    fn an_engine_that_cannot_spin_says_so() {
        assert!(config(&["--engine", "tokio-uring", "--spin", "0"]).is_ok());
        let error = config(&["--engine", "tokio-uring", "--spin", "50us"]).expect_err("spinning");
        assert!(error.contains("--spin") && error.contains("--engine"), "{error}");
    }

    #[test]
    fn certificates_go_with_listeners_of_wss() {
        let own =
            config(&["--listen=ws://127.0.0.1:0", "--listen=wss://box:0", "--tls-self-signed"])
                .expect("flags");
        assert_eq!(own.identity, Some(Identity::SelfSigned { names: vec!["box".to_owned()] }));
        let files = config(&["--listen=wss://127.0.0.1:0", "--tls-cert=c.pem", "--tls-key=k.pem"])
            .expect("flags");
        assert!(matches!(files.identity, Some(Identity::Files { .. })));
        for (arguments, says) in [
            (&["--listen=wss://127.0.0.1:0"][..], "--tls-self-signed"),
            (&["--tls-self-signed"], "--listen"),
            (&["--tls-cert=c.pem", "--tls-key=k.pem"], "--listen"),
            (&["--listen=wss://127.0.0.1:0", "--tls-cert=c.pem"], "--tls-key"),
            (&["--listen=wss://127.0.0.1:0", "--tls-key=k.pem"], "--tls-cert"),
            (
                &[
                    "--listen=wss://127.0.0.1:0",
                    "--tls-cert=c.pem",
                    "--tls-key=k.pem",
                    "--tls-self-signed",
                ],
                "--tls-self-signed",
            ),
            (&["--listen=wss://127.0.0.1:0", "--tls-self-signed", "--protocol=tcp"], "--protocol"),
        ] {
            let error = config(arguments).expect_err("flags that do not go together");
            assert!(error.contains(says), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn scheme_and_protocol_agree() {
        assert!(config(&["--listen", "tcp://127.0.0.1:0", "--protocol", "tcp"]).is_ok());
        let error =
            config(&["--listen", "ws://127.0.0.1:0/", "--protocol", "tcp"]).expect_err("mixed");
        assert!(error.contains("--listen") && error.contains("--protocol"), "{error}");
        let error = config(&["--protocol", "tcp", "--byte-rate", "1MiB"])
            .expect_err("a limit that would not hold");
        assert!(error.contains("--byte-rate") && error.contains("--protocol"), "{error}");
        let error =
            config(&["--protocol", "tcp", "--burn-per-message", "9ns"]).expect_err("no messages");
        assert!(error.contains("--burn-per-message") && error.contains("--protocol"), "{error}");
    }
}

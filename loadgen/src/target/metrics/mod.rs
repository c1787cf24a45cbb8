//! What a server on another host has spent, by its metrics: `--server-metrics`.
//!
//! Prometheus' text format over HTTP/1.1. `sparring-server --admin` and `sparring-loadgen agent`
//! serve all of it, and every program with a client library of Prometheus the three figures of the
//! process.

mod exposition;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use engine::Nanos;
use httparse::{EMPTY_HEADER, Response, Status};
use thiserror::Error;

use self::exposition::{Sample, WrongLine, samples};
use super::http::{self, Bounds};
use super::subject::{Subject, is_commit};
use super::url::{Port, Url};

/// Longest time of a reading, and the most bytes of its answer.
const BOUNDS: Bounds = Bounds { bytes: 8 << 20, time: Duration::from_secs(2) };
/// Path of a URL that has none.
const USUAL_PATH: &str = "/metrics";
/// Resolution of a CPU time whose exporter names none: client libraries of Prometheus read
/// `/proc/self/stat`, which counts in ticks.
const TICK_NS: u64 = 10_000_000;
/// Difference of two times of start up to which they are of one process. Many exporters calculate
/// it from the time of boot, which moves when the clock is set.
const SAME_START_S: f64 = 2.0;

/// The needed metric: CPU time of the process, in seconds.
pub(crate) const CPU: &str = "process_cpu_seconds_total";
pub(crate) const RESIDENT: &str = "process_resident_memory_bytes";
pub(crate) const START: &str = "process_start_time_seconds";
pub(crate) const THREADS: &str = "process_threads";
/// Resident memory that no file backs.
pub(crate) const ANONYMOUS: &str = "sparring_anonymous_memory_bytes";
/// Most by which two readings of the CPU time may be wrong.
pub(crate) const RESOLUTION: &str = "sparring_cpu_resolution_seconds";
/// The part of the CPU time in each [`MODE`].
pub(crate) const CPU_BY_MODE: &str = "sparring_cpu_mode_seconds_total";
pub(crate) const MODE: &str = "mode";
pub(crate) const FAULTS: &str = "sparring_page_faults_total";
/// Time of each thread on a processor or waiting for one.
pub(crate) const THREAD_BUSY: &str = "sparring_thread_busy_seconds_total";
/// CPU time of each worker of `sparring-server`.
const WORKER_CPU: &str = "sparring_worker_cpu_seconds_total";
const BUILD: &str = "sparring_build_info";

/// Counters of `sparring-server`, by the names that `--stats` gives them.
const COUNTERS: [(&str, &str, Option<&str>); 12] = [
    ("messages", "sparring_messages_total", None),
    ("bytes_in", "sparring_bytes_total", Some("in")),
    ("bytes_out", "sparring_bytes_total", Some("out")),
    ("turns", "sparring_worker_turns_total", None),
    ("enters", "sparring_worker_enters_total", None),
    ("completions", "sparring_worker_completions_total", None),
    ("enobufs", "sparring_worker_enobufs_total", None),
    ("overflows", "sparring_worker_overflows_total", None),
    ("partial_sends", "sparring_worker_partial_sends_total", None),
    ("accepted", "sparring_accepted_total", None),
    ("closed", "sparring_worker_closed_total", None),
    ("refused", "sparring_refusals_total", None),
];

/// URL of metrics: `http://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsUrl(Url);

impl FromStr for MetricsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = |fault: &str| {
            format!(
                "`{text}` is not a valid URL of metrics: {fault}, expected \
                 http://HOST:PORT{USUAL_PATH}, for example http://127.0.0.1:9100{USUAL_PATH}"
            )
        };
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return Err(invalid("https is not supported"));
            }
            _ => return Err(invalid("it does not begin with http://")),
        };
        let mut url: Url = format!("ws://{rest}")
            .parse()
            .map_err(|error: super::url::UrlError| error.to_string().replace("ws://", "http://"))?;
        if url.port == Port::Chosen {
            return Err(invalid("the port has to be known"));
        }
        if !rest.contains('/') {
            url.target = url.target.replacen('/', USUAL_PATH, 1);
        }
        Ok(Self(url))
    }
}

impl fmt::Display for MetricsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string().replacen("ws://", "http://", 1))
    }
}

/// Reason why metrics could not be read.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// The host's name leads to no address.
    #[error("cannot resolve host `{0}`: {1}")]
    Resolve(String, io::Error),
    /// Nothing accepts there.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The answer did not come in time.
    #[error("no whole answer came within {BOUNDS_S} s", BOUNDS_S = BOUNDS.time.as_secs())]
    Silent,
    /// The answer is too long.
    #[error("the answer has more than {} MiB", BOUNDS.bytes >> 20)]
    TooLong,
    /// The connection failed, or ended within the answer.
    #[error("{0}")]
    Io(io::Error),
    /// The answer is not one of HTTP/1.1.
    #[error("the answer is not HTTP/1.1: {0}")]
    NotHttp(String),
    /// Another status than 200.
    #[error("it answers {0}, expected 200")]
    Status(String),
    /// The answer is not in the text format.
    #[error("line {0} of the answer is not in Prometheus' text format: `{1}`")]
    Format(usize, String),
    /// A metric is missing, or there for several processes.
    #[error("{0}")]
    Metric(String),
    /// The process was started again between two readings.
    #[error("the server was started again between two readings of its metrics")]
    Restarted,
    /// The window ended before the first reading had come.
    #[error("the window ended before its first reading had come")]
    Late,
}

/// Figures of the server at one moment between two instants.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) began: Nanos,
    pub(crate) ended: Nanos,
    pub(crate) cpu_ns: u64,
    pub(crate) resolution_ns: u64,
    pub(crate) user_ns: Option<u64>,
    pub(crate) system_ns: Option<u64>,
    pub(crate) faults: Option<u64>,
    pub(crate) resident: Option<u64>,
    pub(crate) anonymous: Option<u64>,
    /// Time of its start, in seconds since 1970.
    pub(crate) start_s: Option<f64>,
    /// Busy time of each of its threads, by their names in the metrics.
    pub(crate) threads: BTreeMap<String, u64>,
    /// Its own counters, by the names that `--stats` gives them.
    pub(crate) counters: BTreeMap<String, u64>,
    /// The server, where it is `sparring-server`.
    pub(crate) subject: Subject,
}

/// An endpoint that serves metrics.
#[derive(Debug)]
pub(crate) struct Endpoint {
    url: MetricsUrl,
    addresses: Vec<SocketAddr>,
}

impl Endpoint {
    pub(crate) fn resolve(url: &MetricsUrl) -> Result<Self, MetricsError> {
        let Port::Number(port) = url.0.port else { unreachable!("checked when it was parsed") };
        let failed = |error| MetricsError::Resolve(url.0.host.clone(), error);
        Ok(Self { url: url.clone(), addresses: url.0.resolve(port).map_err(failed)? })
    }

    /// Reads the metrics, within [`BOUNDS`] after connecting.
    pub(crate) fn read(&self) -> Result<Reading, MetricsError> {
        let mut stream =
            http::connect(&self.addresses, BOUNDS.time).map_err(MetricsError::Connect)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: text/plain;version=0.0.4\r\n\
             Connection: close\r\n\r\n",
            self.url.0.target,
            self.url.0.host_field()
        );
        // The server cannot read its clocks before it has the request.
        let began = Nanos::monotonic();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => MetricsError::Silent,
            io::ErrorKind::FileTooLarge => MetricsError::TooLong,
            _ => MetricsError::Io(error),
        };
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let content = http::read_until(&mut stream, BOUNDS, content).map_err(failed)?;
        let ended = Nanos::monotonic();
        let content = content.unwrap_or_else(|| Err(ended_early()))?;
        Ok(Reading { began, ended, ..Reading::parse(&content)? })
    }
}

fn ended_early() -> MetricsError {
    MetricsError::Io(io::Error::other("the connection ended within the answer"))
}

/// Returns the content of an answer once it is whole.
fn content(bytes: &[u8], is_end: bool) -> Option<Result<String, MetricsError>> {
    let mut fields = [EMPTY_HEADER; 64];
    let mut head = Response::new(&mut fields);
    let length = match head.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return None,
        Err(error) => return Some(Err(MetricsError::NotHttp(error.to_string()))),
    };
    let field = |name: &str| {
        let found = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.map(|field| String::from_utf8_lossy(field.value).trim().to_ascii_lowercase())
    };
    let body = &bytes[length..];
    let content = match (field("Transfer-Encoding"), field("Content-Length")) {
        (Some(coding), _) if coding == "chunked" => match joined(body) {
            Ok(content) => content?,
            Err(error) => return Some(Err(error)),
        },
        (Some(coding), _) => {
            return Some(Err(MetricsError::NotHttp(format!("transfer coding `{coding}`"))));
        }
        (None, Some(length)) => match length.parse() {
            Ok(length) => body.get(..length)?.to_vec(),
            Err(_) => return Some(Err(MetricsError::NotHttp("its Content-Length".to_owned()))),
        },
        (None, None) => is_end.then(|| body.to_vec())?,
    };
    let content = String::from_utf8_lossy(&content).into_owned();
    Some(match (head.code, field("Content-Encoding")) {
        (Some(200), None) => Ok(content),
        (Some(200), Some(coding)) => {
            Err(MetricsError::NotHttp(format!("content coding `{coding}`")))
        }
        (code, _) => Err(MetricsError::Status(status(code, head.reason, &content))),
    })
}

/// Describes a status with the first line of its content, where that is plain text.
fn status(code: Option<u16>, reason: Option<&str>, content: &str) -> String {
    const SHOWN: usize = 120;
    let line: String = content.lines().next().unwrap_or_default().chars().take(SHOWN).collect();
    let line =
        if line.is_empty() || line.contains('<') { String::new() } else { format!(" ({line})") };
    format!("{} {}{line}", code.unwrap_or_default(), reason.unwrap_or_default())
}

/// Joins the chunks of a body (RFC 9112 7.1); `None` while the last one has not come.
fn joined(mut body: &[u8]) -> Result<Option<Vec<u8>>, MetricsError> {
    let invalid = |what: &str| MetricsError::NotHttp(what.to_owned());
    let mut content = Vec::new();
    loop {
        let (begin, length) = match httparse::parse_chunk_size(body) {
            Ok(Status::Complete(found)) => found,
            Ok(Status::Partial) => return Ok(None),
            Err(_) => return Err(invalid("a chunk without its size")),
        };
        if length == 0 {
            return Ok(Some(content));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(chunk) = body[begin..].get(..length) else { return Ok(None) };
        content.extend_from_slice(chunk);
        body = match &body[begin + length..] {
            [b'\r', b'\n', rest @ ..] => rest,
            [] | [b'\r'] => return Ok(None),
            _ => return Err(invalid("a chunk that is longer than its size")),
        };
    }
}

/// Nanoseconds of a number of seconds; `None` for what is no time.
fn nanos(seconds: f64) -> Option<u64> {
    (seconds.is_finite() && seconds >= 0.0).then(|| (seconds * 1e9).round() as u64)
}

fn whole(value: f64) -> Option<u64> {
    (value.is_finite() && value >= 0.0).then_some(value as u64)
}

impl Reading {
    fn parse(text: &str) -> Result<Self, MetricsError> {
        let all =
            samples(text).map_err(|WrongLine(line, text)| MetricsError::Format(line, text))?;
        let of = |name: &'static str| all.iter().filter(move |sample| sample.name == name);
        let single = |name: &'static str| {
            let mut found = of(name);
            match (found.next(), found.count()) {
                (sample, 0) => Ok(sample.map(|sample| sample.value)),
                (_, more) => Err(MetricsError::Metric(format!(
                    "it has {} series of {name}, expected those of one process",
                    more + 1
                ))),
            }
        };
        let cpu_ns = single(CPU)?.and_then(nanos).ok_or_else(|| {
            MetricsError::Metric(format!(
                "it has no {CPU}, expected the metrics of one process, as `sparring-server --admin` \
                 and `sparring-loadgen agent` serve them"
            ))
        })?;
        let mode = |wanted: &str| {
            let found = of(CPU_BY_MODE).find(|sample| sample.label(MODE) == Some(wanted));
            found.and_then(|sample| nanos(sample.value))
        };
        let threads = [(THREAD_BUSY, "thread"), (WORKER_CPU, "worker")].into_iter();
        let threads = threads.flat_map(|(name, label)| {
            of(name).filter_map(move |sample| {
                Some((sample.label(label)?.to_owned(), nanos(sample.value)?))
            })
        });
        Ok(Self {
            cpu_ns,
            resolution_ns: single(RESOLUTION)?.and_then(nanos).unwrap_or(TICK_NS),
            user_ns: mode("user"),
            system_ns: mode("system"),
            faults: single(FAULTS)?.and_then(whole),
            resident: single(RESIDENT)?.and_then(whole),
            anonymous: single(ANONYMOUS)?.and_then(whole),
            start_s: single(START)?,
            threads: threads.collect(),
            counters: COUNTERS.into_iter().filter_map(|counter| sum(&all, counter)).collect(),
            subject: of(BUILD).next().map(subject).unwrap_or_default(),
            ..Self::default()
        })
    }

    /// Returns true if this reading is of the process that `earlier` was of.
    pub(crate) fn is_same_process(&self, earlier: &Self) -> bool {
        match self.start_s.zip(earlier.start_s) {
            Some((now, then)) => (now - then).abs() <= SAME_START_S,
            // A process that has just started has spent less.
            None => self.cpu_ns >= earlier.cpu_ns,
        }
    }

    /// Returns the time for which the busiest thread was busy; `None` where threads are not known.
    pub(crate) fn busiest_since(&self, earlier: &Self) -> Option<u64> {
        let each = self.threads.iter().map(|(name, now)| {
            now.saturating_sub(earlier.threads.get(name).copied().unwrap_or_default())
        });
        each.max()
    }

    pub(crate) fn counters_since(&self, earlier: &Self) -> BTreeMap<String, u64> {
        let grown = |(name, now): (&String, &u64)| {
            let then = earlier.counters.get(name).copied().unwrap_or_default();
            (name.clone(), now.saturating_sub(then))
        };
        self.counters.iter().map(grown).collect()
    }
}

/// Returns a counter by its short name, summed over all workers.
fn sum(
    all: &[Sample],
    (name, metric, direction): (&str, &str, Option<&str>),
) -> Option<(String, u64)> {
    let of = all.iter().filter(|sample| {
        sample.name == metric && direction.is_none_or(|is| sample.label("direction") == Some(is))
    });
    let each: Vec<u64> = of.filter_map(|sample| whole(sample.value)).collect();
    (!each.is_empty()).then(|| (name.to_owned(), each.iter().sum()))
}

/// Describes `sparring-server` by its build information.
fn subject(build: &Sample) -> Subject {
    let label = |name| build.label(name).filter(|value| !value.is_empty() && *value != "unknown");
    Subject {
        commit: label("commit").filter(|commit| is_commit(commit)).map(str::to_owned),
        build: label("profile").map(str::to_owned),
        engine: label("engine").map(str::to_owned),
        ..Subject::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_the_usual_path_where_it_has_none() {
        let read = |text: &str| text.parse::<MetricsUrl>().map(|url| url.to_string());
        for (text, whole) in [
            ("http://h:9100", "http://h:9100/metrics"),
            ("HTTP://h", "http://h:80/metrics"),
            ("http://[::1]:9100/", "http://[::1]:9100/"),
            ("http://h:9100/a?b=c", "http://h:9100/a?b=c"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(whole));
        }
        for text in
            ["https://h/", "h:9100", "ws://h/", "http://h:{port}/", "http:///", "http://h:0"]
        {
            let error = read(text).expect_err(text);
            assert!(error.starts_with('`') && error.contains("is not a valid"), "{error}");
        }
    }

    #[test]
    fn the_metrics_of_our_server_are_read() {
        let text = "sparring_build_info{version=\"1\",commit=\"0123abc\",profile=\"release\",engine=\"uring\"} 1\n\
            process_cpu_seconds_total 1.000000001\nprocess_resident_memory_bytes 2048\n\
            process_start_time_seconds 1.7e9\nsparring_cpu_resolution_seconds 0.000000001\n\
            sparring_cpu_mode_seconds_total{mode=\"user\"} 0.5\n\
            sparring_worker_cpu_seconds_total{worker=\"0\"} 0.25\n\
            sparring_worker_cpu_seconds_total{worker=\"1\"} 0.75\n\
            sparring_worker_enters_total{worker=\"0\"} 3\nsparring_worker_enters_total{worker=\"1\"} 4\n\
            sparring_bytes_total{direction=\"in\"} 10\nsparring_bytes_total{direction=\"out\"} 20\n";
        let reading = Reading::parse(text).expect("metrics");
        assert_eq!((reading.cpu_ns, reading.resolution_ns), (1_000_000_001, 1));
        assert_eq!((reading.resident, reading.anonymous), (Some(2048), None));
        assert_eq!((reading.user_ns, reading.system_ns), (Some(500_000_000), None));
        let before = Reading::default();
        assert_eq!(reading.busiest_since(&before), Some(750_000_000));
        let counters = reading.counters_since(&before);
        let expected = [("bytes_in", 10), ("bytes_out", 20), ("enters", 7)];
        assert_eq!(counters, expected.map(|(name, count)| (name.to_owned(), count)).into());
        let Subject { commit, build, engine, .. } = reading.subject;
        assert_eq!(
            [commit, build, engine].map(Option::unwrap_or_default),
            ["0123abc", "release", "uring"]
        );
        let plain = Reading::parse("process_cpu_seconds_total 1\n").expect("enough");
        assert_eq!((plain.resolution_ns, plain.busiest_since(&before)), (TICK_NS, None));
    }

    #[test]
    fn a_process_is_known_by_its_start_or_its_growing_time() {
        let of = |start_s, cpu_ns| Reading { start_s, cpu_ns, ..Reading::default() };
        assert!(of(Some(101.0), 5).is_same_process(&of(Some(100.0), 9)));
        assert!(!of(Some(110.0), 99).is_same_process(&of(Some(100.0), 9)));
        assert!(of(None, 9).is_same_process(&of(Some(100.0), 9)));
        assert!(!of(None, 8).is_same_process(&of(None, 9)));
    }

    #[test]
    fn an_answer_may_have_chunks_a_length_or_an_end() {
        let whole = |answer: &str, is_end| {
            content(answer.as_bytes(), is_end).map(|content| content.map_err(|e| e.to_string()))
        };
        let ok = |text: &str| Some(Ok(text.to_owned()));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nup\r\n3\r\n 1\n\r\n0\r\n";
        assert_eq!(whole(chunked, false), ok("up 1\n"));
        for length in 0..chunked.len() - 2 {
            assert_eq!(whole(&chunked[..length], true), None, "{length}");
        }
        let length = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nup 1\n";
        assert_eq!(whole(length, false), ok("up 1\n"));
        assert_eq!(whole(&length[..length.len() - 1], true), None);
        let end = "HTTP/1.1 200 OK\r\n\r\nup 1\n";
        assert_eq!((whole(end, false), whole(end, true)), (None, ok("up 1\n")));
        let coded = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n";
        assert!(whole(coded, true).is_some_and(|answer| answer.is_err()));
    }
}

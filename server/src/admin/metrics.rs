//! The workers' counters in Prometheus' text format (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::time::Duration;

use engine::{Counters, EngineKind, Load};

use super::process::ProcessFigures;
use crate::faults::FaultCounters;
use crate::snapshot::{CloseCodes, Snapshot};
use crate::stats::DeflateCounters;
use crate::version;

/// Media type of the format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counter of each worker: name, description, and value.
type PerWorker = (&'static str, &'static str, fn(&Counters) -> u64);

const PER_WORKER: [PerWorker; 8] = [
    ("turns", "Turns of the event loop.", |c| c.turns),
    ("enters", "System calls that submit or wait.", |c| c.enters),
    ("completions", "Completions handled, or readiness events.", |c| c.completions),
    ("partial_sends", "Sends of which the kernel accepted only a part, or nothing.", |c| {
        c.partial_sends
    }),
    ("enobufs", "Receives that ended because no buffer was free.", |c| c.enobufs),
    ("overflows", "Times the completion queue overflowed.", |c| c.overflows),
    ("accept_pauses", "Pauses of accepting, because descriptors or slots were exhausted.", |c| {
        c.accept_pauses
    }),
    ("closed", "Connections closed.", |c| c.closed),
];

/// Text of the metrics.
struct Text(String);

impl Text {
    /// Begins a metric family. Every name has the program's name before it, except those that are
    /// the same for all programs.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let prefix = prefix(name);
        let _ = write!(self.0, "# HELP {prefix}{name} {help}\n# TYPE {prefix}{name} {kind}\n");
    }

    /// Writes a sample. Labels are constants or numbers, so that nothing needs escaping.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "{}{name}", prefix(name));
        for (n, (label, is)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{is}\"", if n == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// Returns the beginning of a metric's full name.
fn prefix(name: &str) -> &'static str {
    if name.starts_with("process_") { "" } else { "sparring_" }
}

/// Facts about the program beside those of its workers.
pub(super) struct Program {
    pub(super) engine: EngineKind,
    pub(super) draining: bool,
    /// Time since 1970 at which it started.
    pub(super) start: Option<Duration>,
    pub(super) process: ProcessFigures,
}

/// Returns the metrics of all workers. A worker that did not answer has its last snapshot.
pub(super) fn exposition(workers: &[(Snapshot, bool)], program: &Program) -> String {
    let mut text = Text(String::with_capacity(8 << 10));
    build_info(&mut text, program.engine);
    process(&mut text, program);
    totals(&mut text, workers);
    deflate(&mut text, workers);
    faults(&mut text, workers);
    refusals(&mut text, workers);
    closes(&mut text, workers);
    per_worker(&mut text, workers);
    let draining = u64::from(program.draining);
    text.single("draining", "gauge", "1 while the server is going down.", draining);
    text.0
}

/// Formats a time in seconds, to the nanosecond.
fn seconds(time: Duration) -> impl Display {
    format!("{}.{:09}", time.as_secs(), time.subsec_nanos())
}

/// Writes the figures of the process. The names that begin with `process_` are those of Prometheus'
/// client libraries.
fn process(text: &mut Text, program: &Program) {
    let ProcessFigures { cpu, modes, faults, threads, resident, anonymous } = program.process;
    let what = "CPU time of the process, ended threads included.";
    text.single("process_cpu_seconds_total", "counter", what, seconds(cpu));
    let what = "Unit in which that time is counted.";
    text.single("cpu_resolution_seconds", "gauge", what, seconds(Duration::from_nanos(1)));
    if let Some(start) = program.start {
        let what = "Start of the process, in seconds since 1970.";
        text.single("process_start_time_seconds", "gauge", what, seconds(start));
    }
    for (name, kind, what, value) in [
        ("process_resident_memory_bytes", "gauge", "Resident memory.", resident),
        ("anonymous_memory_bytes", "gauge", "Resident memory that no file backs.", anonymous),
        ("process_threads", "gauge", "Threads of the process.", threads),
        ("page_faults_total", "counter", "Page faults, with and without a read.", faults),
    ] {
        value.into_iter().for_each(|value| text.single(name, kind, what, value));
    }
    if let Some([user, system]) = modes {
        let name = "cpu_mode_seconds_total";
        text.family(name, "counter", "CPU time in user space and in the kernel, sampled.");
        text.sample(name, &[("mode", "user")], seconds(user));
        text.sample(name, &[("mode", "system")], seconds(system));
    }
}

/// Writes a constant with labels, in the form of the build information of Prometheus' own programs.
fn build_info(text: &mut Text, engine: EngineKind) {
    text.family("build_info", "gauge", "1, with what is running in its labels.");
    let labels = [
        ("version", version::VERSION),
        ("commit", version::COMMIT),
        ("profile", version::PROFILE),
        ("engine", engine.name()),
    ];
    text.sample("build_info", &labels, 1);
}

fn totals(text: &mut Text, workers: &[(Snapshot, bool)]) {
    let sum =
        |f: fn(&Snapshot) -> u64| workers.iter().map(|(snapshot, _)| f(snapshot)).sum::<u64>();
    let mut load = Load::default();
    workers.iter().for_each(|(snapshot, _)| load += snapshot.load);
    let turned_away = load.connections.saturating_sub(sum(|s| s.open));
    text.family(
        "connections",
        "gauge",
        "Connections by state: admitted, or refused and being closed.",
    );
    text.sample("connections", &[("state", "open")], sum(|s| s.open));
    text.sample("connections", &[("state", "turned_away")], turned_away);
    text.single(
        "backlog_bytes",
        "gauge",
        "Bytes of output that the kernel has not accepted yet.",
        load.unsent,
    );
    text.single(
        "paused_readers",
        "gauge",
        "Connections that are not read from, because a limit is exceeded.",
        load.not_read,
    );
    text.single("accepted_total", "counter", "Connections accepted.", sum(|s| s.counters.accepted));
    text.single("websockets_total", "counter", "WebSockets opened.", sum(|s| s.metrics.opened));
    text.single("pages_total", "counter", "Pages sent to browsers.", sum(|s| s.metrics.pages));
    text.single(
        "probes_total",
        "counter",
        "Health checks of load balancers that were answered on the WebSocket's port.",
        sum(|s| s.metrics.probes),
    );
    text.single(
        "messages_total",
        "counter",
        "Messages echoed.",
        sum(|s| s.metrics.echo_counters.messages),
    );
    text.family("bytes_total", "counter", "Payload bytes of TCP.");
    text.sample("bytes_total", &[("direction", "in")], sum(|s| s.counters.bytes_in));
    text.sample("bytes_total", &[("direction", "out")], sum(|s| s.counters.bytes_out));
}

fn deflate(text: &mut Text, workers: &[(Snapshot, bool)]) {
    let sum = |f: fn(&DeflateCounters) -> u64| {
        workers.iter().map(|(snapshot, _)| f(&snapshot.metrics.deflate)).sum::<u64>()
    };
    text.single(
        "deflate_websockets_total",
        "counter",
        "WebSockets whose handshake agreed on compression.",
        sum(|d| d.connections),
    );
    text.family(
        "deflate_messages_total",
        "counter",
        "Compressed messages echoed: as they came, or compressed again.",
    );
    for (echo, count) in
        [("passthrough", sum(|d| d.passed)), ("recompress", sum(|d| d.recompressed))]
    {
        text.sample("deflate_messages_total", &[("echo", echo)], count);
    }
    text.family("deflate_bytes_total", "counter", "Bytes inflated, before and after.");
    text.sample("deflate_bytes_total", &[("form", "compressed")], sum(|d| d.bytes_in));
    text.sample("deflate_bytes_total", &[("form", "inflated")], sum(|d| d.bytes_inflated));
}

fn faults(text: &mut Text, workers: &[(Snapshot, bool)]) {
    text.family("faults_total", "counter", "Faults on request (--faults), by their name.");
    for (n, name) in FaultCounters::NAMES.into_iter().enumerate() {
        let of_worker = |(snapshot, _): &(Snapshot, bool)| {
            snapshot.metrics.faults.iter().nth(n).map_or(0, |(_, count)| count)
        };
        let count: u64 = workers.iter().map(of_worker).sum();
        text.sample("faults_total", &[("fault", name)], count);
    }
}

fn refusals(text: &mut Text, workers: &[(Snapshot, bool)]) {
    let mut by_rule = BTreeMap::new();
    for (rule, count) in workers.iter().flat_map(|(snapshot, _)| &snapshot.metrics.refusals) {
        *by_rule.entry(*rule).or_insert(0) += count;
    }
    text.family(
        "refusals_total",
        "counter",
        "Connections, requests and frames refused, by the rule they broke.",
    );
    by_rule
        .iter()
        .for_each(|(rule, &count)| text.sample("refusals_total", &[("rule", rule)], count));
}

fn closes(text: &mut Text, workers: &[(Snapshot, bool)]) {
    text.family("closes_total", "counter", "WebSockets closed, by who closed first and the code.");
    let by = |who: fn(&Snapshot) -> &CloseCodes| {
        let mut counts = [0; CloseCodes::LABELS.len()];
        for (snapshot, _) in workers {
            who(snapshot).iter().zip(&mut counts).for_each(|((_, count), sum)| *sum += count);
        }
        counts
    };
    let both = [
        ("client", by(|s| &s.metrics.closes.by_client)),
        ("server", by(|s| &s.metrics.closes.by_server)),
    ];
    for (who, counts) in both {
        for (code, count) in CloseCodes::LABELS.into_iter().zip(counts) {
            text.sample("closes_total", &[("by", who), ("code", code)], count);
        }
    }
}

fn per_worker(text: &mut Text, workers: &[(Snapshot, bool)]) {
    let numbers: Vec<String> = (0..workers.len()).map(|n| n.to_string()).collect();
    text.family("worker_up", "gauge", "1 for a worker that has just answered.");
    for (number, (_, is_of_now)) in numbers.iter().zip(workers) {
        text.sample("worker_up", &[("worker", number)], u64::from(*is_of_now));
    }
    text.family(
        "worker_connections",
        "gauge",
        "Connections of each worker, refused ones included.",
    );
    for (number, (snapshot, _)) in numbers.iter().zip(workers) {
        text.sample("worker_connections", &[("worker", number)], snapshot.load.connections);
    }
    text.family("worker_cpu_seconds_total", "counter", "CPU time of each worker's thread.");
    for (number, (snapshot, _)) in numbers.iter().zip(workers) {
        text.sample("worker_cpu_seconds_total", &[("worker", number)], seconds(snapshot.cpu));
    }
    for (name, help, value) in PER_WORKER {
        let name = format!("worker_{name}_total");
        text.family(&name, "counter", help);
        for (number, (snapshot, _)) in numbers.iter().zip(workers) {
            text.sample(&name, &[("worker", number)], value(&snapshot.counters));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::snapshot::WorkerMetrics;

    #[test]
    fn workers_are_added_up_and_told_apart() {
        let worker = |turns, refusals| {
            let mut metrics = WorkerMetrics { refusals, ..WorkerMetrics::default() };
            metrics.closes.by_client.count(Some(4321));
            let counters = Counters { turns, bytes_in: 10, ..Counters::default() };
            let load = Load { connections: 3, not_read: 1, unsent: 100 };
            let cpu = Duration::from_millis(1500);
            (Snapshot { counters, load, open: 2, cpu, metrics }, turns > 5)
        };
        let text = exposition(
            &[worker(5, vec![("unmasked-frame", 2)]), worker(7, vec![("unmasked-frame", 1)])],
            &Program {
                engine: EngineKind::Epoll,
                draining: true,
                start: Some(Duration::from_millis(1_700_000_000_250)),
                process: ProcessFigures {
                    cpu: Duration::from_nanos(12_000_000_345),
                    modes: Some([4, 8].map(Duration::from_secs)),
                    faults: Some(7),
                    threads: Some(3),
                    resident: Some(2048),
                    anonymous: None,
                },
            },
        );
        for line in [
            "sparring_connections{state=\"open\"} 4",
            "sparring_connections{state=\"turned_away\"} 2",
            "sparring_backlog_bytes 200",
            "sparring_paused_readers 2",
            "sparring_bytes_total{direction=\"in\"} 20",
            "sparring_refusals_total{rule=\"unmasked-frame\"} 3",
            "sparring_closes_total{by=\"client\",code=\"4xxx\"} 2",
            "sparring_worker_up{worker=\"0\"} 0",
            "sparring_worker_up{worker=\"1\"} 1",
            "sparring_worker_turns_total{worker=\"1\"} 7",
            "sparring_worker_connections{worker=\"1\"} 3",
            "sparring_worker_cpu_seconds_total{worker=\"1\"} 1.500000000",
            "process_cpu_seconds_total 12.000000345",
            "process_start_time_seconds 1700000000.250000000",
            "process_resident_memory_bytes 2048",
            "process_threads 3",
            "sparring_cpu_resolution_seconds 0.000000001",
            "sparring_cpu_mode_seconds_total{mode=\"system\"} 8.000000000",
            "sparring_page_faults_total 7",
            "sparring_draining 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        // What is not known has no metric.
        assert!(!text.contains("anonymous"), "{text}");
    }
}

//! The figures of a run that are compared: which are judged, which are shown beside, and by how
//! much one must change to matter.

use serde::{Deserialize, Serialize};

use super::Run;
use crate::load::Load;

/// Smallest number of connections with which the growth of the server's memory is mostly due to
/// them. With fewer connections it is mostly that of the server's start, and the whole memory
/// varies less.
pub(crate) const MANY_CONNECTIONS: u32 = 1000;

/// A figure of one run, with a direction in which it is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Echoes per second.
    Throughput,
    /// CPU of the whole server process per message, nanoseconds.
    #[serde(alias = "server-cpu")]
    ServerCpu,
    /// Median of the corrected latency, nanoseconds.
    P50,
    /// Its 99th percentile.
    P99,
    /// Its 99.9th percentile.
    #[serde(alias = "p99.9")]
    P99_9,
    /// The server's resident memory per connection, bytes: its growth from 1,000 connections on,
    /// all of it below.
    Memory,
    /// `io_uring_enter` (or `epoll_wait`) calls of the server per message.
    Enters,
    /// Context switches of the server per message.
    Switches,
    /// Page faults of the server per message.
    Faults,
    /// Instructions of the server per message.
    Instructions,
    /// CPU of the generator per message, nanoseconds: changes of it are not the server's.
    #[serde(alias = "generator-cpu")]
    GeneratorCpu,
    /// Server CPU in user space per message, nanoseconds. Sampled by the timer tick, hence coarse.
    #[serde(alias = "server-user")]
    ServerUser,
    /// CPU of the proxy before the server per message, nanoseconds.
    #[serde(alias = "proxy-cpu")]
    ProxyCpu,
    /// Median of the time from the planned to the actual send, nanoseconds.
    #[serde(alias = "lag-p50")]
    LagP50,
    /// Its 99th percentile.
    #[serde(alias = "lag-p99")]
    LagP99,
    /// Time until all connections were open, nanoseconds.
    Opening,
    /// Median of the TLS handshake, nanoseconds.
    #[serde(alias = "tls-handshake")]
    TlsHandshake,
}

struct Facts {
    name: &'static str,
    label: &'static str,
    unit: &'static str,
    /// Its own unit over the one that is shown.
    divisor: f64,
    threshold: f64,
}

impl Metric {
    /// Metrics of a comparison, in the order in which they are shown.
    pub const ALL: [Self; 11] = [
        Self::Throughput,
        Self::ServerCpu,
        Self::P50,
        Self::P99,
        Self::P99_9,
        Self::Memory,
        Self::Enters,
        Self::Switches,
        Self::Faults,
        Self::Instructions,
        Self::GeneratorCpu,
    ];

    fn facts(self) -> Facts {
        let (name, label, unit, divisor, threshold) = match self {
            Self::Throughput => ("throughput", "messages per second", "msg/s", 1.0, 0.02),
            Self::ServerCpu => ("server-cpu", "server CPU, us per message", "us/msg", 1e3, 0.02),
            Self::P50 => ("p50", "p50 latency, us", "us", 1e3, 0.02),
            Self::P99 => ("p99", "p99 latency, us", "us", 1e3, 0.05),
            Self::P99_9 => ("p99.9", "p99.9 latency, us", "us", 1e3, 0.10),
            Self::Memory => ("memory", "server memory, bytes per connection", "B/conn", 1.0, 0.05),
            Self::Enters => ("enters", "server enters per message", "/msg", 1.0, 0.02),
            Self::Switches => {
                ("switches", "server context switches per message", "/msg", 1.0, 0.10)
            }
            Self::Faults => ("faults", "server page faults per message", "/msg", 1.0, 0.10),
            Self::Instructions => {
                ("instructions", "server instructions per message", "/msg", 1.0, 0.005)
            }
            Self::GeneratorCpu => {
                ("generator-cpu", "generator CPU, us per message", "us/msg", 1e3, 0.02)
            }
            Self::ServerUser => {
                ("server-user", "server CPU in user space, us per message", "us/msg", 1e3, 0.10)
            }
            Self::ProxyCpu => ("proxy-cpu", "proxy CPU, us per message", "us/msg", 1e3, 0.02),
            Self::LagP50 => ("lag-p50", "p50 of the lag, us", "us", 1e3, 0.10),
            Self::LagP99 => ("lag-p99", "p99 of the lag, us", "us", 1e3, 0.10),
            Self::Opening => {
                ("opening", "time until all connections were open, us", "us", 1e3, 0.05)
            }
            Self::TlsHandshake => {
                ("tls-handshake", "p50 of the TLS handshake, us", "us", 1e3, 0.05)
            }
        };
        Facts { name, label, unit, divisor, threshold }
    }

    /// On the command line, in results and in tables.
    pub(crate) fn name(self) -> &'static str {
        self.facts().name
    }

    /// Label with the unit of [`Metric::shown`].
    pub(crate) fn label(self) -> &'static str {
        self.facts().label
    }

    pub(crate) fn unit(self) -> &'static str {
        self.facts().unit
    }

    /// A value of it in the unit people read: nanoseconds become microseconds.
    pub(crate) fn shown(self, value: f64) -> f64 {
        value / self.facts().divisor
    }

    /// Relative change that is too small to act on, however certain it is.
    pub(crate) fn default_threshold(self) -> f64 {
        self.facts().threshold
    }

    pub(crate) fn higher_is_better(self) -> bool {
        self == Self::Throughput
    }

    /// Returns whether the metric is judged under this load. Other metrics are only shown.
    ///
    /// Few metrics are judged, because each judged metric makes the tests of the others stricter.
    /// They are throughput, server CPU and memory in a closed loop, and latencies at a fixed rate.
    pub(crate) fn is_judged(self, load: &Load) -> bool {
        match self {
            Self::Throughput | Self::ServerCpu | Self::Memory => !load.is_open_loop(),
            Self::P50 | Self::P99 => load.is_open_loop(),
            _ => false,
        }
    }

    /// Its value in a run; `None` where the run does not carry it.
    pub(crate) fn of(self, run: &Run, load: &Load) -> Option<f64> {
        let latency = &run.latency_ns.corrected;
        match self {
            Self::Throughput => Some(run.rate_per_s),
            Self::ServerCpu => run.server.as_ref()?.cpu_ns(),
            Self::P50 => latency.p50.map(|ns| ns as f64),
            Self::P99 => latency.p99.map(|ns| ns as f64),
            Self::P99_9 => latency.p99_9.map(|ns| ns as f64),
            Self::Memory => memory(run, load.connections + load.idle),
            Self::Enters => run.server.as_ref()?.enters_per_message(load),
            Self::Switches => {
                let server = run.server.as_ref()?;
                Some(
                    server.voluntary_switches_per_message?
                        + server.involuntary_switches_per_message?,
                )
            }
            Self::Faults => run.server.as_ref()?.page_faults_per_message,
            Self::Instructions => run.server.as_ref()?.instructions_per_message,
            Self::GeneratorCpu => Some(run.client.cpu_ns_per_message),
            Self::ServerUser => run.server.as_ref()?.user_ns_per_message,
            Self::ProxyCpu => run.proxy.as_ref().map(|proxy| proxy.cpu_ns_per_message),
            Self::LagP50 => run.latency_ns.lag.p50.map(|ns| ns as f64),
            Self::LagP99 => run.latency_ns.lag.p99.map(|ns| ns as f64),
            Self::Opening => Some(run.phases.connect as f64),
            Self::TlsHandshake => run.latency_ns.tls_handshake.as_ref()?.p50.map(|ns| ns as f64),
        }
    }

    /// Makes it worse in a run: a `factor` above 1 makes more of what is better small, and of what
    /// is worse large. Metrics outside [`Metric::ALL`] stay as they are.
    pub(crate) fn worsen(self, run: &mut Run, factor: f64) {
        let whole =
            |value: &mut Option<u64>| *value = value.map(|n| (n as f64 * factor).round() as u64);
        let scale = |value: &mut Option<f64>| *value = value.map(|n| n * factor);
        let latency = &mut run.latency_ns.corrected;
        match (self, &mut run.server) {
            (Self::Throughput, _) => run.rate_per_s /= factor,
            (Self::GeneratorCpu, _) => run.client.cpu_ns_per_message *= factor,
            (Self::P50, _) => whole(&mut latency.p50),
            (Self::P99, _) => whole(&mut latency.p99),
            (Self::P99_9, _) => whole(&mut latency.p99_9),
            (Self::ServerCpu, Some(server)) => server.cpu_ns_per_message *= factor,
            (Self::Memory, Some(server)) => {
                whole(&mut server.rss_bytes);
                scale(&mut server.rss_bytes_per_connection);
            }
            (Self::Enters, Some(server)) => {
                server
                    .counters
                    .entry("enters".to_owned())
                    .and_modify(|n| *n = (*n as f64 * factor) as u64);
            }
            (Self::Switches, Some(server)) => {
                scale(&mut server.voluntary_switches_per_message);
                scale(&mut server.involuntary_switches_per_message);
            }
            (Self::Faults, Some(server)) => scale(&mut server.page_faults_per_message),
            (Self::Instructions, Some(server)) => scale(&mut server.instructions_per_message),
            _ => {}
        }
    }
}

fn memory(run: &Run, connections: u32) -> Option<f64> {
    let server = run.server.as_ref()?;
    if connections >= MANY_CONNECTIONS {
        return server.rss_bytes_per_connection;
    }
    Some(server.rss_bytes? as f64 / f64::from(connections.max(1)))
}

impl std::str::FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|metric| metric.name() == text);
        known.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|metric| metric.name()).collect();
            format!("unknown metric `{text}`: one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::example;

    #[test]
    fn metrics_are_known_by_their_names() {
        for metric in Metric::ALL {
            assert_eq!(metric.name().parse(), Ok(metric));
        }
        assert!("speed".parse::<Metric>().is_err_and(|error| error.contains("throughput")));
    }

    #[test]
    fn five_metrics_are_judged_over_both_loads() {
        let closed = example::document().scenarios[0].parameters.clone();
        let open = Load { rate_per_s: Some(1000.0), ..closed.clone() };
        let judged =
            |load: &Load| Metric::ALL.into_iter().filter(|m| m.is_judged(load)).collect::<Vec<_>>();
        assert_eq!(judged(&closed), [Metric::Throughput, Metric::ServerCpu, Metric::Memory]);
        assert_eq!(judged(&open), [Metric::P50, Metric::P99]);
    }

    #[test]
    fn every_metric_can_be_made_worse() {
        let document = example::document();
        let load = &document.scenarios[0].parameters;
        for metric in Metric::ALL {
            let before = metric.of(&document.runs[0], load);
            let mut worse = document.runs[0].clone();
            metric.worsen(&mut worse, 1.25);
            let factor = if metric.higher_is_better() { 1.0 / 1.25 } else { 1.25 };
            let ratio = metric.of(&worse, load).zip(before).map(|(after, before)| after / before);
            assert!(
                ratio.is_some_and(|ratio| (ratio - factor).abs() < 1e-4),
                "{metric:?}: {ratio:?}"
            );
        }
    }

    #[test]
    fn figures_come_from_the_run() {
        let document = example::document();
        let (run, load) = (&document.runs[0], &document.scenarios[0].parameters);
        let of = |metric: Metric| metric.of(run, load).map(|value| metric.shown(value));
        assert_eq!(of(Metric::Throughput), Some(100_000.0));
        assert_eq!((of(Metric::ServerCpu), of(Metric::GeneratorCpu)), (Some(4.0), Some(3.0)));
        assert_eq!((of(Metric::Enters), of(Metric::Memory)), (Some(0.03), Some(93_750.0)));
        assert!(of(Metric::P50).is_some_and(|us| (100.0..150.0).contains(&us)));
        let many = Load { connections: 4000, ..load.clone() };
        assert_eq!(Metric::Memory.of(run, &many), Some(250.5));
        let idle = Load { connections: 1, idle: 4000, ..load.clone() };
        assert_eq!(Metric::Memory.of(run, &idle), Some(250.5));
        let unknown = Run { server: None, ..run.clone() };
        assert_eq!(
            (Metric::Memory.of(&unknown, load), Metric::ServerCpu.of(&unknown, load)),
            (None, None)
        );
    }
}

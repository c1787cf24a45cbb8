//! Runs of an experiment, of which a session has hundreds: their figures, without details of one
//! run.

use super::document::{Latencies, Messages, Phases, Run};
use super::latency::Latency;
use super::metric::MANY_CONNECTIONS;
use crate::load::{Load, Transport};

impl Run {
    /// Returns the run with every figure that tables and comparisons show, in about a kilobyte.
    ///
    /// Leaves out the phases (except connecting at a given rate), the seconds, and most latencies
    /// of connecting. Also leaves out facts that the scenario or the machine already states, and
    /// counters from which no figure is calculated. `messages` is left out where all came back.
    /// Notes of valid runs and the reason why nothing was counted are those of the first round
    /// alone. Histograms are coarse between the percentiles.
    pub(crate) fn compact(mut self, load: &Load) -> Self {
        let latencies = &mut self.latency_ns;
        latencies.connect = Latency::default();
        (latencies.tcp_connect, latencies.handshake) = (None, None);
        latencies.first_messages = None;
        let Latencies { tls_handshake, tls_full, tls_resumed, .. } = latencies;
        let handshakes = tls_handshake.iter_mut().chain(tls_full).chain(tls_resumed);
        handshakes.for_each(|handshake| handshake.hdr = None);
        // A histogram that cannot be read is kept as it is, so that its reader reports it.
        if let Ok(coarse) = latencies.corrected.coarsened() {
            latencies.corrected = coarse;
        }
        for part in latencies.uncorrected.iter_mut().chain([&mut latencies.lag]) {
            part.hdr = None;
        }
        for stage in &mut self.stages {
            let latencies = &mut stage.latency_ns;
            if let Ok(coarse) = latencies.corrected.coarsened() {
                latencies.corrected = coarse;
            }
            (latencies.uncorrected, latencies.lag.hdr) = (None, None);
        }
        let counters = match load.transport {
            Transport::Ws | Transport::Wss => ["enters", "messages"],
            Transport::Tcp => ["enters", "bytes_in"],
        };
        for server in self.server.iter_mut().chain(&mut self.proxy) {
            server.cpus.clear();
            (server.engine, server.congestion) = (None, None);
            server.system_ns_per_message = None;
            // Metric::Memory takes one of them.
            if load.connections + load.idle >= MANY_CONNECTIONS {
                server.rss_bytes = None;
            } else {
                server.rss_bytes_per_connection = None;
            }
            server.cost_resolution_ns = None;
            server.not_counted = server.not_counted.take().filter(|_| self.pair == 0);
            server.counters.retain(|name, _| counters.contains(&name.as_str()));
        }
        self.client.engine.clear();
        self.client.cpus.clear();
        self.client.sent_per_enter = None;
        let share = |share: &mut f64| *share = (*share * 1e4).round() / 1e4;
        if let Some(disturbance) = &mut self.disturbance {
            disturbance.server_waited.iter_mut().for_each(share);
            [&mut disturbance.generator_waited, &mut disturbance.stolen]
                .into_iter()
                .for_each(share);
        }
        if !load.is_open_loop() {
            (self.offered, self.latency_ns.uncorrected) = (None, None);
        }
        let all_came_back = |messages: &Messages| {
            messages.echoed == messages.planned && messages.planned == messages.sent
        };
        self.messages =
            self.messages.filter(|messages| !all_came_back(messages) || messages.wrong > 0);
        if self.valid && self.pair > 0 {
            self.notes.clear();
        }
        self.address = None;
        // The time until all connections are open is a figure where their pace is given.
        let connect = if load.connect_rate.is_some() { self.phases.connect } else { 0 };
        self.phases = Phases { connect, ..Phases::default() };
        self.series.clear();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Metric, Run, Summary, example};

    #[test]
    fn a_compact_run_has_every_figure() {
        let mut document = example::document();
        document.runs = vec![example::long_run()];
        let metrics = |document: &super::super::Document| {
            let load = &document.scenarios[0].parameters;
            Metric::ALL.map(|metric| metric.of(&document.runs[0], load))
        };
        let (before, summary) = (metrics(&document), Summary::all(&document).remove(0));
        let load = document.scenarios[0].parameters.clone();
        document.runs = document.runs.into_iter().map(|run| run.compact(&load)).collect();
        assert_eq!(metrics(&document), before);
        let compact = Summary::all(&document).remove(0);
        let close = |a: Option<u64>, b: Option<u64>| {
            a.zip(b).is_some_and(|(a, b)| a.abs_diff(b) as f64 <= 0.01 * b as f64)
        };
        assert!(close(compact.p50, summary.p50) && close(compact.p99, summary.p99));
        let percentiles =
            |of: &Summary| Summary { p50: None, p99: None, p99_9: None, ..of.clone() };
        assert_eq!(percentiles(&compact), percentiles(&summary));
    }

    #[test]
    fn notes_of_valid_runs_are_kept_of_the_first_round() {
        let load = example::document().scenarios[0].parameters.clone();
        let kept = |pair, valid| {
            let mut run =
                Run { pair, valid, notes: vec!["busy".to_owned()], ..example::run("echo", 1000) };
            run.server.as_mut().expect("known").not_counted = Some("no counters".to_owned());
            let run = run.compact(&load);
            (run.notes.len(), run.server.is_some_and(|server| server.not_counted.is_some()))
        };
        assert_eq!(
            [kept(0, true), kept(1, true), kept(1, false)],
            [(1, true), (0, false), (1, false)]
        );
    }
}

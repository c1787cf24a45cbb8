//! Sums of the figures of shards. Every field of a run has its rule here: no literal leaves one to
//! a default.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::judge::skews;
use super::stages::stages;
use super::{MergeError, Part, common, distinct};
use crate::load::Load;
use crate::result::{
    Censored, Client, Compression, Cycles, Disturbance, EndedEarly, Errors, Integrity, Latencies,
    Latency, MessageCost, Messages, Outages, Phases, Pings, Run, Second, Server, ShardLine,
    Standstill, per_second,
};
use crate::run::ProcessShard;

/// Returns the run that all parts were together. It is not judged yet.
pub(super) fn combined(parts: &[Part]) -> Result<Run, MergeError> {
    let (load, first) = (parts[0].load(), parts[0].run());
    let runs = || parts.iter().map(Part::run);
    let sum = |count: fn(&Run) -> u64| runs().map(count).sum::<u64>();
    let longest =
        |phase: fn(&Phases) -> u64| runs().map(|run| phase(&run.phases)).max().unwrap_or(0);
    let phases = Phases {
        connect: longest(|phases| phases.connect),
        settle: longest(|phases| phases.settle),
        warmup: longest(|phases| phases.warmup),
        measure: longest(|phases| phases.measure),
        drain: longest(|phases| phases.drain),
    };
    let window = Duration::from_nanos(phases.measure);
    let received = sum(|run| run.received);
    let latencies = Histograms::of(parts)?;
    let cycles = runs().filter_map(|run| run.cycles).map(|cycles| cycles.count);
    Ok(Run {
        scenario: first.scenario.clone(),
        arm: first.arm.clone(),
        pair: 0,
        start: runs().map(|run| run.start).min().unwrap_or(first.start),
        address: addresses(parts),
        phases,
        valid: false,
        invalid_reasons: Vec::new(),
        invalid_kinds: Vec::new(),
        notes: Vec::new(),
        interrupted: runs().any(|run| run.interrupted),
        offered: first.offered.map(|_| sum(Run::offered)),
        sent: sum(|run| run.sent),
        received,
        messages: messages(parts),
        rate_per_s: per_second(received as f64, window),
        bytes_per_s: bytes_per_s(parts, received, window),
        errors: runs().fold(Errors::default(), |mut sum, run| {
            sum += run.errors;
            sum
        }),
        integrity: runs().fold(Integrity::default(), |mut sum, run| {
            sum += run.integrity;
            sum
        }),
        censored: censored(parts, &latencies),
        latency_ns: latencies.figures(load),
        ended_early: ended_early(parts),
        outages: outages(parts),
        standstill: standstill(parts),
        cycles: load.replaces_connections().then(|| {
            let count = cycles.sum();
            Cycles { count, rate_per_s: per_second(count as f64, window) }
        }),
        pings: load.ping_interval.map(|_| {
            runs().filter_map(|run| run.pings).fold(Pings::default(), |sum, pings| {
                let Pings { sent, answered } = pings;
                Pings { sent: sum.sent + sent, answered: sum.answered + answered }
            })
        }),
        message_cost: message_cost(parts),
        compression: compression(parts),
        server: server(parts, received),
        // A shard starts no proxy.
        proxy: None,
        client: client(parts, received),
        disturbance: disturbance(parts),
        shard: None,
        shards: Vec::new(),
        repeated: runs().flat_map(|run| run.repeated.clone()).collect(),
        stages: stages(parts)?,
        series: series(parts),
    })
}

/// Returns the rate of message bytes. Lengths of the user's own messages are known to each part.
fn bytes_per_s(parts: &[Part], received: u64, window: Duration) -> f64 {
    if parts[0].run().message_cost.is_none() {
        return per_second(received as f64 * parts[0].load().message_bytes.mean(), window);
    }
    let bytes = |run: &Run| run.bytes_per_s * run.phases.measure as f64 / 1e9;
    per_second(parts.iter().map(|part| bytes(part.run())).sum(), window)
}

/// Returns the mean over the generators.
fn message_cost(parts: &[Part]) -> Option<MessageCost> {
    let costs: Vec<MessageCost> = parts.iter().filter_map(|part| part.run().message_cost).collect();
    let mean =
        |cost: fn(&MessageCost) -> f64| costs.iter().map(cost).sum::<f64>() / costs.len() as f64;
    (!costs.is_empty()).then(|| MessageCost {
        build_ns: mean(|cost| cost.build_ns),
        check_ns: mean(|cost| cost.check_ns),
    })
}

/// Returns the cost of the server, whose metrics the shards have read. Each has divided the same
/// CPU time by its own messages.
fn server(parts: &[Part], received: u64) -> Option<Server> {
    let each = || parts.iter().filter_map(|part| Some((part.run().server.as_ref()?, part)));
    let (first, _) = each().next()?;
    let mean = |figure: fn(&Server) -> Option<f64>| {
        let sums: Option<Vec<f64>> = each()
            .map(|(server, part)| Some(figure(server)? * part.run().received as f64))
            .collect();
        let sums = sums?;
        let mean = sums.iter().sum::<f64>() / sums.len() as f64;
        Some(if received == 0 { 0.0 } else { mean / received as f64 })
    };
    let most = |figure: fn(&Server) -> Option<f64>| {
        each().filter_map(|(server, _)| figure(server)).reduce(f64::max)
    };
    let load = parts[0].load();
    let growth = each().filter_map(|(server, part)| {
        let own = part.run().shard.as_ref()?;
        let own = ProcessShard::new(own.number, own.count)?.part(load.all_connections());
        Some(server.rss_bytes_per_connection? * own as f64)
    });
    Some(Server {
        cpu_ns_per_message: mean(|server| Some(server.cpu_ns_per_message))?,
        cpu_uncertainty: most(|server| server.cpu_uncertainty),
        user_ns_per_message: mean(|server| server.user_ns_per_message),
        system_ns_per_message: mean(|server| server.system_ns_per_message),
        page_faults_per_message: mean(|server| server.page_faults_per_message),
        rss_bytes: each().filter_map(|(server, _)| server.rss_bytes).max(),
        // The same growth, at slightly different times.
        rss_bytes_per_connection: growth
            .reduce(f64::max)
            .map(|bytes| bytes / load.all_connections() as f64),
        ..first.clone()
    })
}

/// Returns each address that a shard had connections to.
fn addresses(parts: &[Part]) -> Option<String> {
    let of = |part: &Part| part.run().address.clone();
    let all: Vec<String> = parts.iter().filter_map(of).collect();
    let each = distinct(all.iter().flat_map(|addresses| addresses.split(", ")));
    (!each.is_empty()).then(|| each.join(", "))
}

fn messages(parts: &[Part]) -> Option<Messages> {
    let each: Option<Vec<Messages>> = parts.iter().map(|part| part.run().messages).collect();
    let sum = |sum: Messages, part: Messages| {
        let Messages { planned, not_sent, sent, echoed, wrong, lost, outstanding } = part;
        Messages {
            planned: sum.planned + planned,
            not_sent: sum.not_sent + not_sent,
            sent: sum.sent + sent,
            echoed: sum.echoed + echoed,
            wrong: sum.wrong + wrong,
            lost: sum.lost + lost,
            outstanding: sum.outstanding + outstanding,
        }
    };
    each?.into_iter().reduce(sum)
}

/// The latencies of all parts.
struct Histograms {
    corrected: Option<Histogram<u64>>,
    uncorrected: Option<Histogram<u64>>,
    lag: Option<Histogram<u64>>,
    connect: Option<Histogram<u64>>,
    tcp_connect: Option<Histogram<u64>>,
    tls_handshake: Option<Histogram<u64>>,
    tls_full: Option<Histogram<u64>>,
    tls_resumed: Option<Histogram<u64>>,
    handshake: Option<Histogram<u64>>,
    first_messages: Option<Histogram<u64>>,
}

impl Histograms {
    fn of(parts: &[Part]) -> Result<Self, MergeError> {
        let add = |latency: fn(&Latencies) -> Option<&Latency>| sum(parts, latency);
        Ok(Self {
            corrected: add(|latencies| Some(&latencies.corrected))?,
            uncorrected: add(|latencies| latencies.uncorrected.as_ref())?,
            lag: add(|latencies| Some(&latencies.lag))?,
            connect: add(|latencies| Some(&latencies.connect))?,
            tcp_connect: add(|latencies| latencies.tcp_connect.as_ref())?,
            tls_handshake: add(|latencies| latencies.tls_handshake.as_ref())?,
            tls_full: add(|latencies| latencies.tls_full.as_ref())?,
            tls_resumed: add(|latencies| latencies.tls_resumed.as_ref())?,
            handshake: add(|latencies| latencies.handshake.as_ref())?,
            first_messages: add(|latencies| latencies.first_messages.as_ref())?,
        })
    }

    /// Returns the figures by the function that a single run has them from.
    fn figures(&self, load: &Load) -> Latencies {
        let of = |sum: &Option<Histogram<u64>>| sum.as_ref().map(Latency::of);
        let kind = |sum| (load.tls_resume_percent > 0).then(|| of(sum).unwrap_or_default());
        Latencies {
            corrected: of(&self.corrected).unwrap_or_default(),
            uncorrected: load.is_open_loop().then(|| of(&self.uncorrected).unwrap_or_default()),
            lag: of(&self.lag).unwrap_or_default(),
            connect: of(&self.connect).unwrap_or_default(),
            tcp_connect: Some(of(&self.tcp_connect).unwrap_or_default()),
            tls_handshake: of(&self.tls_handshake),
            tls_full: kind(&self.tls_full),
            tls_resumed: kind(&self.tls_resumed),
            handshake: Some(of(&self.handshake).unwrap_or_default()),
            first_messages: of(&self.first_messages),
        }
    }
}

/// Returns the sum of a histogram over the parts; `None` where all are empty.
fn sum(
    parts: &[Part],
    latency: fn(&Latencies) -> Option<&Latency>,
) -> Result<Option<Histogram<u64>>, MergeError> {
    sum_of(parts.iter().map(|part| (part, latency(&part.run().latency_ns))))
}

/// Returns the sum of histograms, each with the part that has it.
pub(super) fn sum_of<'a>(
    each: impl Iterator<Item = (&'a Part, Option<&'a Latency>)>,
) -> Result<Option<Histogram<u64>>, MergeError> {
    let mut sum: Option<Histogram<u64>> = None;
    for (part, latency) in each {
        let Some(latency) = latency else { continue };
        let file = || part.file.clone();
        let histogram = latency.histogram();
        let histogram =
            histogram.map_err(|source| MergeError::Histogram { file: file(), source })?;
        let Some(histogram) = histogram else {
            if latency.count > 0 {
                return Err(MergeError::NoHistogram(file()));
            }
            continue;
        };
        match &mut sum {
            None => sum = Some(histogram),
            // A histogram that grows takes every value.
            Some(sum) => sum.add(&histogram).map_err(|_| MergeError::NoHistogram(file()))?,
        }
    }
    Ok(sum)
}

fn censored(parts: &[Part], latencies: &Histograms) -> Option<Censored> {
    let each = parts.iter().filter_map(|part| part.run().censored);
    censored_of(each, latencies.corrected.as_ref())
}

/// Returns the sum of lower bounds in the sum of `latencies`.
pub(super) fn censored_of(
    each: impl Iterator<Item = Censored> + Clone,
    latencies: Option<&Histogram<u64>>,
) -> Option<Censored> {
    let count = each.clone().map(|censored| censored.count).sum();
    // Without its age, the youngest message bounds every percentile.
    let youngest_ns = each.map(|censored| censored.youngest_ns.unwrap_or(0)).min()?;
    Some(Censored::of(latencies?, count, youngest_ns))
}

/// Returns the first early end.
fn ended_early(parts: &[Part]) -> Option<EndedEarly> {
    let ends = parts.iter().filter_map(|part| Some((part.run().ended_early.as_ref()?, part)));
    let (first, part) = ends.min_by_key(|(end, _)| end.after_ns)?;
    let cause = format!("{}: {}", part.name(), first.cause);
    Some(EndedEarly { after_ns: first.after_ns, cause })
}

fn outages(parts: &[Part]) -> Option<Outages> {
    let each = parts.iter().filter_map(|part| part.run().outages);
    each.reduce(|sum, Outages { count, total_ns, longest_ns }| Outages {
        count: sum.count + count,
        total_ns: sum.total_ns + total_ns,
        longest_ns: sum.longest_ns.max(longest_ns),
    })
}

fn standstill(parts: &[Part]) -> Option<Standstill> {
    let each = parts.iter().filter_map(|part| part.run().standstill);
    each.reduce(|sum, Standstill { total_ns, longest_ns }| Standstill {
        total_ns: sum.total_ns + total_ns,
        longest_ns: sum.longest_ns.max(longest_ns),
    })
}

/// Returns the sums, with the parameters that all connections agreed on; `None` where there are
/// none. The time of compressing is the mean over the messages.
fn compression(parts: &[Part]) -> Option<Compression> {
    let each: Vec<Compression> = parts.iter().filter_map(|part| part.run().compression).collect();
    let sum = |count: fn(&Compression) -> u64| each.iter().map(count).sum::<u64>();
    let timed =
        each.iter().filter_map(|one| Some((one.compress_ns_per_message?, one.sent.messages)));
    let (ns, timed) = timed.fold((0.0, 0), |(ns, all), (each, messages)| {
        (ns + each * messages as f64, all + messages)
    });
    Some(Compression {
        agreed: common(each.iter().map(|one| one.agreed))?,
        sent: each.iter().map(|one| one.sent).sum(),
        sent_uncompressed: sum(|one| one.sent_uncompressed),
        received: each.iter().map(|one| one.received).sum(),
        same_bytes: sum(|one| one.same_bytes),
        inflated: sum(|one| one.inflated),
        received_uncompressed: sum(|one| one.received_uncompressed),
        compress_ns_per_message: (timed > 0).then(|| ns / timed as f64),
    })
}

/// Returns the cost over all generators. Their processors are those of several machines, and have
/// no numbers in common.
fn client(parts: &[Part], received: u64) -> Client {
    let each = || parts.iter().map(|part| (&part.run().client, part.run()));
    let cpu_ns = each().map(|(client, run)| client.cpu_ns_per_message * run.received as f64);
    let cpu_ns = cpu_ns.sum::<f64>();
    let enters = each().map(|(client, run)| {
        let sent = run.messages.map_or(run.sent, |messages| messages.sent) as f64;
        client.sent_per_enter.filter(|each| *each > 0.0).map(|each| (sent, sent / each))
    });
    let enters: Option<Vec<(f64, f64)>> = enters.collect();
    let (sent, enters) = enters
        .unwrap_or_default()
        .iter()
        .fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    Client {
        engine: distinct(each().map(|(client, _)| client.engine.as_str())).join(", "),
        cpus: Vec::new(),
        cpu_ns_per_message: if received == 0 { 0.0 } else { cpu_ns / received as f64 },
        cpu_utilisation: each().flat_map(|(client, _)| client.cpu_utilisation.clone()).collect(),
        sent_per_enter: (enters > 0.0).then(|| sent / enters),
        wait: distinct(each().map(|(client, _)| client.wait.as_str())).join(", "),
    }
}

/// Returns what the most disturbed generator lost.
fn disturbance(parts: &[Part]) -> Option<Disturbance> {
    let each = parts.iter().filter_map(|part| part.run().disturbance);
    each.reduce(|most, Disturbance { server_waited: _, generator_waited, stolen }| Disturbance {
        server_waited: None,
        generator_waited: most.generator_waited.max(generator_waited),
        stolen: most.stolen.max(stolen),
    })
}

/// Returns the sums of each second. Percentiles of a second cannot be added, and a run has no
/// histograms of its seconds.
fn series(parts: &[Part]) -> Vec<Second> {
    let mut sums = BTreeMap::<u32, Second>::new();
    for part in parts.iter().flat_map(|part| &part.run().series) {
        let Second { second, span_ns, sent, received, errors, p50: _, p99: _, max } = *part;
        let first = Second { second, span_ns, ..Second::default() };
        let sum = sums.entry(second).or_insert(first);
        // A second that is whole in one part is whole.
        sum.span_ns = sum.span_ns.zip(span_ns).map(|(a, b)| a.max(b));
        sum.sent += sent;
        sum.received += received;
        sum.errors += errors;
        sum.max = sum.max.max(max);
    }
    sums.into_values().collect()
}

/// Returns a line for each shard, by their numbers.
pub(super) fn lines(counted: &[Part], left_out: &[Part]) -> Vec<ShardLine> {
    let skews = skews(counted);
    let counted = counted.iter().zip(skews).map(|(part, skew)| (part, true, skew));
    let left_out = left_out.iter().map(|part| (part, false, None));
    let line = |(part, counted, skew): (&Part, bool, _)| {
        let (run, shard, load) = (part.run(), &part.shard, part.load());
        let process = ProcessShard::new(shard.number, shard.count);
        let connections = |all| process.map_or(0, |process| process.part(u64::from(all)));
        ShardLine {
            number: shard.number,
            counted,
            valid: run.valid,
            machine: part.document.machine.id.clone(),
            connections: connections(load.connections) + connections(load.idle),
            received: run.received,
            rate_per_s: run.rate_per_s,
            p99: run.latency_ns.corrected.p99,
            lag_p99: run.latency_ns.lag.p99,
            load_start: shard.load_start,
            skew,
        }
    };
    let mut lines: Vec<ShardLine> = counted.chain(left_out).map(line).collect();
    lines.sort_by_key(|line| line.number);
    lines
}

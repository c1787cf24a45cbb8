//! Stored results of a run.

use std::time::Duration;

use super::coordinator::Measured;
use super::plan::{Plan, Wait};
use super::process_shard::ProcessShard;
use super::server_meter::ServerCost;
use super::stage_tally::StageTally;
use super::started::Said;
use super::tally::{CompressionTally, Outstanding, Tally, add_second};
use super::validity::{Verdict, judge};
use crate::host::perf::Counted;
use crate::load::Stages;
use crate::load::stages::Ramp;
use crate::result::{
    Agreed, Censored, Client, ClockOffset, Compression, Cycles, Disturbance, EndedEarly,
    InvalidKind, Latencies, Latency, MessageCost, Outages, Run, Second, Server, ShardRecord,
    StageRecord, Standstill, Utc, per_second,
};
use crate::target::spawn::Announced;

/// Facts beside the measurement itself.
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    pub(super) start: Utc,
    pub(super) cpus: &'a [usize],
    /// Facts that server and proxy printed, where they were started here.
    pub(super) said: Said,
    /// Addresses that connections were made to.
    pub(super) address: Option<String>,
    /// Time to compress a message, where that is done while sending.
    pub(super) compress_ns: Option<f64>,
    /// Time to build a message and to check its answer, where they are not generated and echoed.
    pub(super) message_cost: Option<MessageCost>,
    /// The server's clock, or the reason why it is not known, where other processes share the load.
    pub(super) clock: Option<Result<ClockOffset, String>>,
}

pub(super) fn assemble(context: Context<'_>, measured: &Measured) -> Run {
    let Context { plan, start, cpus, said, address, compress_ns, message_cost, clock } = context;
    let tally = &measured.tally;
    let received = tally.received.measured;
    let per_second = |count| per_second(count, measured.window);
    let Verdict { reasons, notes, stages } = judge(plan, measured);
    let (invalid_kinds, invalid_reasons): (Vec<_>, Vec<_>) = reasons.into_iter().unzip();
    Run {
        scenario: plan.scenario.clone(),
        arm: plan.arm.clone(),
        pair: plan.pair,
        start,
        address,
        phases: measured.phases,
        valid: invalid_reasons.is_empty(),
        invalid_reasons,
        invalid_kinds,
        notes,
        interrupted: measured.interrupted,
        offered: plan.load.is_open_loop().then_some(tally.offered),
        sent: tally.sent.measured,
        received,
        messages: Some(tally.messages()),
        rate_per_s: per_second(received as f64),
        bytes_per_s: per_second(match message_cost {
            None => received as f64 * plan.load.message_bytes.mean(),
            Some(_) => tally.answer_bytes as f64,
        }),
        errors: tally.errors,
        integrity: tally.integrity,
        latency_ns: latencies(tally),
        censored: censored(tally),
        ended_early: measured
            .broken
            .as_ref()
            .map(|(error, after)| EndedEarly { after_ns: nanos(*after), cause: error.summary() }),
        outages: (tally.outages.count > 0).then(|| Outages {
            count: tally.outages.count,
            total_ns: nanos(tally.outages.total),
            longest_ns: nanos(tally.outages.longest),
        }),
        standstill: (tally.standstill.count > 0).then(|| Standstill {
            total_ns: nanos(tally.standstill.total),
            longest_ns: nanos(tally.standstill.longest),
        }),
        cycles: plan
            .load
            .replaces_connections()
            .then(|| Cycles { count: tally.cycles, rate_per_s: per_second(tally.cycles as f64) }),
        pings: plan.load.ping_interval.map(|_| tally.pings),
        message_cost,
        compression: plan.load.offer().map(|_| compression(&tally.compression, compress_ns)),
        server: said.server.zip(measured.server).map(|(said, cost)| {
            let counted = measured.spent.counted.as_ref();
            Server {
                cpus: numbers(plan.server_cpus()),
                ..figures(plan, said, &cost, measured, counted)
            }
        }),
        proxy: said.proxy.zip(measured.proxy).map(|(said, cost)| Server {
            cpus: numbers(plan.proxy_cpus()),
            ..figures(plan, said, &cost, measured, None)
        }),
        client: client(plan, cpus, measured),
        disturbance: Some(disturbance(measured)),
        shard: plan.placement.shard.map(|shard| shard_record(shard, measured, clock)),
        shards: Vec::new(),
        repeated: Vec::new(),
        stages: stage_records(plan, measured, stages),
        series: series(tally.seconds(), measured.window),
    }
}

/// Returns the figures of the stages that were begun.
fn stage_records(
    plan: &Plan,
    measured: &Measured,
    reasons: Vec<Vec<(InvalidKind, String)>>,
) -> Vec<StageRecord> {
    let ramps = plan.load.stages.as_ref().map(Stages::ramps).unwrap_or_default();
    let tallies = measured.tally.staged.as_ref();
    let tallies = tallies.map(|staged| &staged.stages.each[..]).unwrap_or_default();
    let begun = ramps.into_iter().zip(tallies).zip(reasons);
    let begun = begun.filter(|((ramp, _), _)| ramp.start < measured.window);
    begun.map(|((ramp, tally), own)| stage_record(ramp, tally, own, measured.window)).collect()
}

fn stage_record(
    ramp: Ramp,
    tally: &StageTally,
    reasons: Vec<(InvalidKind, String)>,
    window: Duration,
) -> StageRecord {
    let span = ramp.span.min(window.saturating_sub(ramp.start));
    let (invalid_kinds, invalid_reasons): (Vec<_>, Vec<_>) = reasons.into_iter().unzip();
    let Outstanding { in_latency, youngest_ns, .. } = tally.outstanding;
    StageRecord {
        number: ramp.number,
        start_ns: nanos(ramp.start),
        span_ns: nanos(span),
        from_per_s: ramp.from,
        to_per_s: ramp.to,
        valid: invalid_reasons.is_empty(),
        invalid_reasons,
        invalid_kinds,
        offered: tally.planned,
        not_sent: tally.not_sent,
        received: tally.received,
        rate_per_s: per_second(tally.received as f64, span),
        errors: tally.errors,
        latency_ns: Latencies {
            corrected: Latency::of(&tally.latency),
            uncorrected: Some(Latency::of(&tally.parts.uncorrected)),
            lag: Latency::of(&tally.parts.lag),
            ..Latencies::default()
        },
        censored: youngest_ns.map(|youngest| Censored::of(&tally.latency, in_latency, youngest)),
    }
}

fn shard_record(
    shard: ProcessShard,
    measured: &Measured,
    clock: Option<Result<ClockOffset, String>>,
) -> ShardRecord {
    let (clock, clock_unknown) = match clock {
        Some(Ok(offset)) => (Some(offset), None),
        Some(Err(reason)) => (None, Some(reason)),
        None => (None, None),
    };
    ShardRecord {
        number: shard.number(),
        count: shard.count(),
        load_start: measured.load_start,
        clock,
        clock_unknown,
    }
}

fn compression(tally: &CompressionTally, compress_ns: Option<f64>) -> Compression {
    Compression {
        agreed: tally.answer.flatten().map(|agreed| Agreed {
            server_no_context_takeover: agreed.server_no_context_takeover,
            client_no_context_takeover: agreed.client_no_context_takeover,
            server_max_window_bits: agreed.server_max_window_bits,
            client_max_window_bits: agreed.client_max_window_bits,
        }),
        sent: tally.sent,
        sent_uncompressed: tally.sent_uncompressed,
        received: tally.received,
        same_bytes: tally.same_bytes,
        inflated: tally.inflated,
        received_uncompressed: tally.received_uncompressed,
        compress_ns_per_message: compress_ns,
    }
}

/// Returns the messages that are in the latencies with a lower bound.
fn censored(tally: &Tally) -> Option<Censored> {
    let Outstanding { in_latency: count, youngest_ns, .. } = tally.outstanding;
    Some(Censored::of(&tally.latency, count, youngest_ns?))
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A closed loop has no plan that a message could be late for: corrected and uncorrected are the
/// same, and there is no lag.
fn latencies(tally: &Tally) -> Latencies {
    let parts = tally.parts.as_ref();
    let kind = |resumed: bool| {
        let kinds = tally.tls_kinds.as_ref();
        kinds.map(|kinds| Latency::of(&kinds[usize::from(resumed)]))
    };
    Latencies {
        corrected: Latency::of(&tally.latency),
        uncorrected: parts.map(|parts| Latency::of(&parts.uncorrected)),
        lag: parts.map(|parts| Latency::of(&parts.lag)).unwrap_or_default(),
        connect: Latency::of(&tally.connect),
        tcp_connect: Some(Latency::of(&tally.tcp_connect)),
        tls_handshake: (!tally.tls_handshake.is_empty()).then(|| Latency::of(&tally.tls_handshake)),
        tls_full: kind(false),
        tls_resumed: kind(true),
        handshake: Some(Latency::of(&tally.handshake)),
        first_messages: tally.first_messages.as_ref().map(Latency::of),
    }
}

/// Returns the cost of a server or of a proxy. `counted` is what the processor's own counters say,
/// or why they say nothing.
fn figures(
    plan: &Plan,
    said: Announced,
    cost: &ServerCost,
    measured: &Measured,
    counted: Option<&Counted>,
) -> Server {
    let each = |amount: u64| per_message(amount, measured.tally.received.measured);
    let count = counted.and_then(|counted| counted.as_ref().ok());
    Server {
        engine: said.engine,
        congestion: said.congestion,
        counters: said.counters,
        cpus: Vec::new(),
        cpu_ns_per_message: each(cost.cpu.total_ns),
        cpu_uncertainty: cost.uncertainty,
        user_ns_per_message: cost.cpu.user_ns.map(each),
        system_ns_per_message: cost.cpu.system_ns.map(each),
        cost_source: Some(cost.cpu.source),
        cost_resolution_ns: Some(cost.cpu.resolution_ns),
        voluntary_switches_per_message: cost.cpu.voluntary_switches.map(each),
        involuntary_switches_per_message: cost.cpu.involuntary_switches.map(each),
        page_faults_per_message: cost.cpu.faults.map(each),
        instructions_per_message: count.map(|(instructions, _)| each(*instructions)),
        cycles_per_message: count.map(|(_, cycles)| each(*cycles)),
        not_counted: counted.and_then(|counted| Some(counted.as_ref().err()?.to_string())),
        rss_bytes: cost.resident,
        rss_bytes_per_connection: cost
            .growth
            .map(|bytes| bytes as f64 / plan.all_own_connections() as f64),
    }
}

/// A proxy belongs to the run: the time that it was on a processor is not a disturbance.
fn disturbance(measured: &Measured) -> Disturbance {
    let window_ns = (measured.window.as_nanos() as f64).max(1.0);
    let proxys_ns = measured.proxy.map_or(0, |proxy| proxy.cpu.total_ns);
    let share = |waited_ns: u64| waited_ns.saturating_sub(proxys_ns) as f64 / window_ns;
    Disturbance {
        server_waited: measured.server.and_then(|server| server.cpu.waited_ns).map(share),
        generator_waited: share(measured.spent.threads_waited_ns),
        stolen: measured.spent.stolen_ns as f64 / window_ns,
    }
}

fn client(plan: &Plan, cpus: &[usize], measured: &Measured) -> Client {
    let window_ns = measured.window.as_nanos() as f64;
    let spent = &measured.spent.threads_cpu_ns;
    let (sent, enters) = (measured.tally.sent.total, measured.counters.enters);
    Client {
        engine: plan.placement.engine.name().to_owned(),
        cpus: numbers(cpus),
        cpu_ns_per_message: per_message(spent.iter().sum(), measured.tally.received.measured),
        // Both edges are read a moment late: a busy thread may seem to have been on its CPU a
        // moment longer than it could.
        cpu_utilisation: spent
            .iter()
            .map(|&ns| (ns as f64 / window_ns.max(1.0)).min(1.0))
            .collect(),
        sent_per_enter: (enters > 0).then(|| sent as f64 / enters as f64),
        wait: plan.placement.wait.unwrap_or(Wait::Sleep).name().to_owned(),
    }
}

fn per_message(amount: u64, messages: u64) -> f64 {
    if messages == 0 { 0.0 } else { amount as f64 / messages as f64 }
}

fn numbers(cpus: &[usize]) -> Vec<u32> {
    cpus.iter().filter_map(|&cpu| u32::try_from(cpu).ok()).collect()
}

/// Returns the seconds of the window. The last one has its length where the window ends within it.
fn series(mut series: Vec<Second>, window: Duration) -> Vec<Second> {
    let kept =
        series.iter().filter(|entry| Duration::from_secs(entry.second.into()) < window).count();
    // Between a cut and the worker's notice of it, a further second may have begun.
    let beyond = series.split_off(kept);
    if let Some(last) = series.last_mut() {
        beyond.iter().for_each(|second| add_second(last, second));
        let span = window - Duration::from_secs(last.second.into());
        last.span_ns = (span < Duration::from_secs(1)).then(|| nanos(span));
    }
    series
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::{Counters, EngineKind};

    use super::super::coordinator::Spent;
    use super::*;
    use crate::host::procfs::CpuSpent;
    use crate::result::{CostSource, Phases};
    use crate::target::spawn::Spawn;

    fn measured(window: Duration) -> Measured {
        let mut tally = Tally::new(3, false);
        tally.sent(300, Some(0));
        (0..200).for_each(|i| tally.received(1000 + i, Some(1)));
        tally.enter_repeated();
        Measured {
            tally,
            counters: Counters { enters: 100, ..Counters::default() },
            phases: Phases::default(),
            load_start: Utc::now(),
            window,
            interrupted: false,
            broken: None,
            spent: Spent {
                threads_cpu_ns: vec![500_000_000, 3_000_000_000],
                threads_waited_ns: 30_000_000,
                stolen_ns: 10_000_000,
                counted: Some(Ok((800_000, 400_000))),
            },
            server: Some(ServerCost {
                cpu: CpuSpent {
                    total_ns: 2000,
                    user_ns: Some(400),
                    system_ns: Some(1600),
                    busiest_ns: Some(0),
                    waited_ns: Some(4_000_000),
                    voluntary_switches: Some(20),
                    involuntary_switches: Some(10),
                    faults: Some(2),
                    source: CostSource::CgroupV2,
                    resolution_ns: 1000,
                    is_incomplete: false,
                    other_total_ns: None,
                },
                uncertainty: None,
                resident: Some(500_000),
                growth: Some(64_000),
            }),
            proxy: None,
            metrics: None,
        }
    }

    fn run(measured: &Measured) -> Run {
        let url = "ws://127.0.0.1:9001/".parse().expect("url");
        let spawn = Spawn { command: vec!["server".to_owned()], cpus: vec![0], ..Spawn::default() };
        let plan = Plan::new(url, EngineKind::Epoll).with(|plan| plan.target.spawn = Some(spawn));
        let counters = [("messages".to_owned(), 7)].into();
        let server =
            Some(Announced { engine: Some("uring".to_owned()), counters, ..Announced::default() });
        let said = Said { server, proxy: Some(Announced::default()) };
        let context = Context {
            plan: &plan,
            start: Utc::now(),
            cpus: &[3, 2],
            said,
            address: None,
            compress_ns: None,
            message_cost: None,
            clock: None,
        };
        assemble(context, measured)
    }

    #[test]
    fn rates_and_costs_are_those_of_the_window() {
        let run = run(&measured(Duration::from_secs(2)));
        assert_eq!((run.sent, run.received, run.offered()), (300, 200, 300));
        let messages = run.messages.expect("counted");
        assert_eq!((messages.planned, messages.sent, messages.echoed), (300, 300, 200));
        assert_eq!((run.rate_per_s, run.bytes_per_s), (100.0, 3200.0));
        assert_eq!(run.client.cpu_ns_per_message, 17_500_000.0);
        assert_eq!(run.client.cpu_utilisation, [0.25, 1.0]);
        assert_eq!(run.client.sent_per_enter, Some(3.0));
        let server = run.server.expect("known");
        assert_eq!((server.cpu_ns_per_message, server.user_ns_per_message), (10.0, Some(2.0)));
        assert_eq!(
            (server.cost_source, server.cost_resolution_ns),
            (Some(CostSource::CgroupV2), Some(1000))
        );
        assert_eq!(server.voluntary_switches_per_message, Some(0.1));
        assert_eq!(server.involuntary_switches_per_message, Some(0.05));
        assert_eq!(server.page_faults_per_message, Some(0.01));
        assert_eq!(server.instructions_per_message, Some(4000.0));
        assert_eq!((server.cycles_per_message, server.not_counted), (Some(2000.0), None));
        assert_eq!(
            (server.rss_bytes, server.rss_bytes_per_connection),
            (Some(500_000), Some(1000.0))
        );
        assert_eq!((server.counters["messages"], server.cpus), (7, vec![0]));
    }

    #[test]
    fn what_held_the_run_up_is_a_share_of_the_window() {
        let run = run(&measured(Duration::from_secs(2)));
        let expected =
            Disturbance { server_waited: Some(0.002), generator_waited: 0.015, stolen: 0.005 };
        assert_eq!(run.disturbance, Some(expected));
    }

    #[test]
    fn a_proxy_has_a_cost_of_its_own_and_disturbs_nothing() {
        let mut measured = measured(Duration::from_secs(2));
        let alone = run(&measured);
        measured.proxy = measured.server.map(|server| {
            let cpu = CpuSpent { total_ns: 24_000_000, user_ns: Some(0), ..server.cpu };
            ServerCost { cpu, ..server }
        });
        let run = run(&measured);
        assert_eq!((&alone.server, alone.proxy), (&run.server, None));
        let proxy = run.proxy.expect("known");
        assert_eq!((proxy.cpu_ns_per_message, proxy.rss_bytes), (120_000.0, Some(500_000)));
        assert_eq!((proxy.cpus, proxy.instructions_per_message), (Vec::new(), None));
        // The server waited for 4 ms and the generator for 30 ms, of which 24 ms were the proxy's.
        let found = run.disturbance.expect("known");
        assert_eq!((found.server_waited, found.generator_waited), (Some(0.0), 0.003));
    }

    #[test]
    fn what_the_host_does_not_count_is_not_known_and_the_reason_is() {
        let mut measured = measured(Duration::from_secs(2));
        measured.spent.counted = Some(Err(anyhow::anyhow!("no counters")));
        let server = run(&measured).server.expect("known");
        assert_eq!((server.instructions_per_message, server.cycles_per_message), (None, None));
        assert_eq!(server.not_counted.as_deref(), Some("no counters"));
    }

    #[test]
    fn a_closed_loop_stores_one_histogram_of_what_was_received() {
        let run = run(&measured(Duration::from_secs(2)));
        let Latencies { corrected, uncorrected, lag, .. } = run.latency_ns;
        assert!(corrected.count == run.received && corrected.hdr.is_some());
        assert_eq!((uncorrected, lag), (None, Latency::default()));
    }

    #[test]
    fn the_last_second_of_the_series_is_as_long_as_the_window_has_it() {
        let series = |ms| run(&measured(Duration::from_millis(ms))).series;
        let spans = |ms| series(ms).iter().map(|second| second.span_ns).collect::<Vec<_>>();
        assert_eq!(spans(2000), [None, None]);
        assert_eq!(spans(2900), [None, None, Some(900_000_000)]);
        assert_eq!(spans(900), [Some(900_000_000)]);
        let all = run(&measured(Duration::from_millis(2900)));
        let sums = all
            .series
            .iter()
            .fold((0, 0), |sum, second| (sum.0 + second.sent, sum.1 + second.received));
        assert_eq!(sums, (all.sent, all.received));
    }
}

//! A document for tests: two scenarios, one run each.

use std::time::Duration;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::StageRecord;
use super::document::{
    Agreed, Client, CompressedMessages, Compression, Disturbance, Document, Errors, Integrity,
    Latencies, Messages, Phases, Run, SCHEMA, Scenario, Second, Server, Session, SessionKind,
    Setting,
};
use super::latency::Latency;
use super::utc::Utc;
use crate::host::machine::{Limits, Machine};
use crate::host::procfs::CostSource;
use crate::load::{Load, Transport};
use crate::target::subject::{Subject, Tool};

/// 2026-03-01T09:30:00Z.
const START: u64 = 1_772_357_400_000;

pub(crate) fn document() -> Document {
    Document {
        schema: SCHEMA,
        tool: tool(),
        subject: subject(),
        arms: Vec::new(),
        machine: machine(),
        session: session(),
        scenarios: vec![scenario("echo", Transport::Ws), scenario("tcp", Transport::Tcp)],
        runs: vec![run("echo", 200_000), run("tcp", 200_000)],
        counts: Vec::new(),
        verdict: None,
    }
}

fn tool() -> Tool {
    Tool {
        name: "sparring-loadgen".into(),
        version: "0.1.0".into(),
        commit: Some("abcdef0123456789".into()),
        binary_hash: Some("aaaaaaaaaaaa".into()),
        engine: "uring".into(),
        build: "release".into(),
    }
}

fn subject() -> Subject {
    Subject {
        command: Some("sparring-server --listen 127.0.0.1:0".into()),
        commit: Some("abcdef0123456789".into()),
        dirty: Some(false),
        binary_hash: Some("bbbbbbbbbbbb".into()),
        engine: Some("uring".into()),
        build: Some("release".into()),
        rustc: Some("rustc 1.95.0".into()),
    }
}

fn machine() -> Machine {
    Machine {
        id: "0123456789ab".into(),
        cpu: "AMD EPYC 9B14".into(),
        cores: 2,
        threads: 4,
        smt: Some(true),
        memory_bytes: 24 << 30,
        kernel: "6.12.9".into(),
        governor: None,
        mitigations: vec!["spectre_v2: Mitigation: Retpolines".into()],
        virtualisation: "QEMU".into(),
        congestion_control: Some("cubic".into()),
        limits: Limits {
            nofile_soft: Some(1024),
            nofile_hard: Some(1_048_576),
            memlock_soft: None,
            io_uring_disabled: Some(0),
        },
        load_at_start: 0.25,
    }
}

fn session() -> Session {
    Session {
        kind: SessionKind::Suite,
        argv: ["sparring-loadgen", "suite", "quick"].map(str::to_owned).to_vec(),
        experiment: None,
        suite: Some("quick".into()),
        tag: None,
        start: Utc::from_unix_ms(START),
        duration_ns: 12_000_000_000,
        order: "rounds".into(),
        interrupted: false,
        marks: Vec::new(),
    }
}

fn scenario(name: &str, transport: Transport) -> Scenario {
    let (warmup, measure) = (Duration::from_secs(1), Duration::from_secs(5));
    let load = Load { transport, warmup, measure, ..Load::default() };
    let setting = |congestion: &str| Setting {
        engine: Some("uring".into()),
        threads: Some(1),
        congestion: Some(congestion.into()),
        proxy: None,
    };
    Scenario::new(name, load, setting("reno"), setting("cubic"))
}

/// A run of two seconds at 100,000 echoes a second when `received` is 200,000.
pub(crate) fn run(scenario: &str, received: u64) -> Run {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds are legal");
    for sample in 0..received {
        histogram.record(100_000 + sample * 7 % 50_000).expect("sample is in range");
    }
    let mut connect = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds are legal");
    connect.record_n(150_000, 64).expect("sample is in range");
    Run {
        scenario: scenario.into(),
        arm: "A".into(),
        pair: 0,
        start: Utc::from_unix_ms(START),
        address: Some("127.0.0.1:9001".into()),
        phases: Phases {
            connect: 9_000_000,
            settle: 50_000_000,
            warmup: 1_000_000_000,
            measure: 2_000_000_000,
            drain: 1_000_000,
        },
        valid: true,
        invalid_reasons: Vec::new(),
        invalid_kinds: Vec::new(),
        notes: Vec::new(),
        interrupted: false,
        offered: None,
        sent: received,
        received,
        messages: Some(Messages {
            planned: received,
            sent: received,
            echoed: received,
            ..Messages::default()
        }),
        rate_per_s: received as f64 / 2.0,
        bytes_per_s: received as f64 * 16.0,
        errors: Errors::default(),
        integrity: Integrity::default(),
        latency_ns: Latencies {
            corrected: Latency::of(&histogram),
            uncorrected: None,
            lag: Latency::default(),
            tcp_connect: None,
            tls_handshake: None,
            tls_full: None,
            tls_resumed: None,
            handshake: None,
            first_messages: None,
            connect: Latency::of(&connect),
        },
        censored: None,
        ended_early: None,
        outages: None,
        standstill: None,
        cycles: None,
        pings: None,
        message_cost: None,
        compression: None,
        server: Some(Server {
            engine: Some("uring".into()),
            congestion: Some("cubic".into()),
            cpus: vec![0],
            cpu_ns_per_message: 4_000.0,
            cpu_uncertainty: None,
            cost_source: Some(CostSource::CgroupV2),
            cost_resolution_ns: Some(1_000),
            user_ns_per_message: Some(200.0),
            system_ns_per_message: Some(3_800.0),
            rss_bytes: Some(6_000_000),
            rss_bytes_per_connection: Some(250.5),
            voluntary_switches_per_message: Some(0.015),
            involuntary_switches_per_message: Some(0.005),
            page_faults_per_message: Some(0.0001),
            instructions_per_message: Some(9_000.0),
            cycles_per_message: Some(8_000.0),
            not_counted: None,
            counters: BTreeMap::from([("enters".into(), 6_000), ("messages".into(), 200_000)]),
        }),
        proxy: None,
        client: Client {
            engine: "uring".into(),
            cpus: vec![1],
            cpu_ns_per_message: 3_000.0,
            cpu_utilisation: vec![0.75],
            sent_per_enter: Some(30.0),
            wait: "sleep".into(),
        },
        disturbance: Some(Disturbance {
            server_waited: Some(0.001),
            generator_waited: 0.002,
            stolen: 0.0,
        }),
        shard: None,
        shards: Vec::new(),
        repeated: vec!["the server waited 9.0 % of the window for its processor".into()],
        stages: Vec::new(),
        series: vec![
            Second {
                span_ns: None,
                second: 0,
                sent: received / 2,
                received: received / 2,
                errors: 0,
                p50: Some(120_000),
                p99: None,
                max: Some(149_999),
            },
            Second { second: 1, ..Second::default() },
        ],
    }
}

/// A run whose histogram is as scattered as a long run's on a busy machine: every value from 20 us
/// to 20 ms.
pub(crate) fn long_run() -> Run {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds are legal");
    let mut state = 1u64;
    for _ in 0..2_000_000 {
        // Knuth's MMIX generator: the counts must not be regular, or they would compress better
        // than real ones.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let exponent = f64::from(u32::try_from(state >> 43).unwrap_or(0)) / f64::from(1u32 << 21);
        let second = f64::from(u32::try_from((state >> 22) & 0x1f_ffff).unwrap_or(0))
            / f64::from(1u32 << 21);
        let value = 20_000.0 * 1000f64.powf(exponent * second * second);
        histogram.record(value as u64).expect("sample is in range");
    }
    let series = (0..10).map(|second| Second {
        span_ns: None,
        second,
        sent: 200_000,
        received: 200_000,
        errors: 0,
        p50: Some(100_000),
        p99: Some(10_000_000),
        max: Some(19_999_999),
    });
    let latency_ns =
        Latencies { corrected: Latency::of(&histogram), ..run("echo", 200_000).latency_ns };
    Run { latency_ns, series: series.collect(), ..run("echo", 200_000) }
}

/// A run with two stages of a second, of which the second has one message in ten that takes 50 ms.
pub(crate) fn staged_run() -> Run {
    let mut run = run("echo", 3_000);
    let stage = |number: u32, from_per_s: f64, to_per_s: f64| {
        let offered = f64::midpoint(from_per_s, to_per_s) as u64;
        let mut histogram =
            Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds are legal");
        for sample in 0..offered {
            let latency = if number == 2 && sample % 10 == 0 { 50_000_000 } else { 100_000 };
            histogram.record(latency).expect("sample is in range");
        }
        StageRecord {
            number,
            start_ns: u64::from(number - 1) * 1_000_000_000,
            span_ns: 1_000_000_000,
            from_per_s,
            to_per_s,
            valid: true,
            invalid_reasons: Vec::new(),
            invalid_kinds: Vec::new(),
            offered,
            not_sent: 0,
            received: offered,
            rate_per_s: offered as f64,
            errors: u64::from(number - 1),
            latency_ns: Latencies {
                corrected: Latency::of(&histogram),
                uncorrected: Some(Latency::of(&histogram)),
                lag: Latency::of(&histogram),
                ..Latencies::default()
            },
            censored: None,
        }
    };
    run.offered = Some(3_000);
    run.stages = vec![stage(1, 1_000.0, 1_000.0), stage(2, 1_000.0, 3_000.0)];
    run
}

/// Compression of a run with this number of messages.
pub(crate) fn compression(messages: u64) -> Compression {
    let compressed = |each| CompressedMessages {
        messages,
        payload_bytes: messages * each,
        message_bytes: messages * 32,
    };
    Compression {
        agreed: Some(Agreed {
            server_no_context_takeover: true,
            client_no_context_takeover: false,
            server_max_window_bits: 15,
            client_max_window_bits: 12,
        }),
        sent: compressed(8),
        received: compressed(10),
        same_bytes: messages - 10,
        inflated: 10,
        compress_ns_per_message: Some(1_500.0),
        ..Compression::default()
    }
}

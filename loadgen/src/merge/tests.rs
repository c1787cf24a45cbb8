use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::*;
use crate::result::{
    Agreed, Censored, ClockOffset, Compression, Latency, Outages, Second, Utc, example, parse,
};

const COUNT: u32 = 4;
const MS: i64 = 1_000_000;

/// Latencies of a shard as a run records them: most short, some long, one beyond a minute.
fn samples(number: u32) -> Vec<u64> {
    let mut state = u64::from(number);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let mut samples: Vec<u64> = (0..50_000)
        .map(|index| {
            20_000 + next() % 80_000 + if index % 97 == 0 { next() % 40_000_000 } else { 0 }
        })
        .collect();
    samples.extend((number == 3).then_some(90_000_000_000));
    samples
}

fn histogram(samples: &[u64]) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds are legal");
    histogram.auto(true);
    samples.iter().for_each(|sample| histogram.record(*sample).expect("it grows"));
    histogram
}

/// The document of a shard with these latencies.
fn shard(number: u32) -> (String, Document) {
    let mut document = example::document();
    document.session.kind = SessionKind::Single;
    document.scenarios.truncate(1);
    document.scenarios[0].parameters.connections = 10;
    document.runs.truncate(1);
    let run = &mut document.runs[0];
    let samples = samples(number);
    run.latency_ns.corrected = Latency::of(&histogram(&samples));
    run.latency_ns.lag = Latency::of(&histogram(&samples[..1000]));
    (run.sent, run.received) = (samples.len() as u64, samples.len() as u64);
    let messages = run.messages.as_mut().expect("counted");
    (messages.planned, messages.sent, messages.echoed) = (run.sent, run.sent, run.sent);
    (run.server, run.repeated) = (None, Vec::new());
    run.client.cpu_ns_per_message = f64::from(number) * 1000.0;
    run.shard = Some(ShardRecord {
        number,
        count: COUNT,
        load_start: Utc::from_unix_ms(1_772_357_410_000),
        clock: Some(ClockOffset { low_ns: 0, high_ns: 2 * MS }),
        clock_unknown: None,
    });
    (format!("{number}.json"), document)
}

fn all() -> Vec<(String, Document)> {
    (1..=COUNT).map(shard).collect()
}

fn merged(documents: Vec<(String, Document)>) -> Document {
    merge(documents, None).expect("shards")
}

/// Merges shards of which the third is changed. Returns the merged run.
fn with_third(change: impl FnOnce(&mut Document)) -> Run {
    let mut documents = all();
    change(&mut documents[2].1);
    merged(documents).runs.remove(0)
}

/// Asserts that the one reason why a run is invalid is of this kind, and has these words.
fn assert_invalid(run: &Run, kind: InvalidKind, words: &[&str]) {
    let reasons: Vec<_> = run.invalid().collect();
    let [(found, reason)] = reasons[..] else { panic!("one reason: {reasons:?}") };
    assert!(!run.valid && found == kind, "{reasons:?}");
    assert!(words.iter().all(|word| reason.contains(word)), "{words:?}: {reason}");
}

#[test]
fn shards_divide_the_cost_of_the_server_by_all_messages() {
    let parts: Vec<_> = (1..=COUNT)
        .map(|number| {
            let (name, mut document) = shard(number);
            let run = &mut document.runs[0];
            let mut server = example::run("echo", 1000).server.expect("known");
            // Each reads 80 ms, and one is less certain than the others.
            server.cpu_ns_per_message = 80e6 / run.received as f64;
            server.cpu_uncertainty = Some(if number == 2 { 0.004 } else { 0.001 });
            run.server = Some(server);
            (name, document)
        })
        .collect();
    let run = merge(parts, None).expect("shards").runs.remove(0);
    let server = run.server.expect("read");
    let cpu_ns = server.cpu_ns_per_message * run.received as f64;
    assert!((cpu_ns - 80e6).abs() < 1.0, "{cpu_ns}");
    assert_eq!((server.cpu_uncertainty, server.rss_bytes), (Some(0.004), Some(6_000_000)));
}

#[test]
fn percentiles_are_those_of_all_samples_together() {
    let run = merged(all()).runs.remove(0);
    let everything: Vec<u64> = (1..=COUNT).flat_map(samples).collect();
    let of_all = histogram(&everything);
    // The stored bytes have the range of the histogram too, which depends on the way it grew.
    let figures = |latency: Latency| Latency { hdr: None, ..latency };
    let stored = run.latency_ns.corrected.histogram().expect("readable").expect("stored");
    assert_eq!(figures(run.latency_ns.corrected), figures(Latency::of(&of_all)));
    assert_eq!(stored, of_all);
    for millionth in (1..=1_000_000).step_by(997) {
        let q = f64::from(millionth) / 1e6;
        assert_eq!(stored.value_at_quantile(q), of_all.value_at_quantile(q), "{q}");
    }
    let lags: Vec<u64> = (1..=COUNT).flat_map(|number| samples(number)[..1000].to_vec()).collect();
    assert_eq!(run.latency_ns.lag, Latency::of(&histogram(&lags)));
    assert_eq!((run.valid, run.invalid_reasons), (true, Vec::new()));
}

#[test]
fn stages_are_those_of_all_samples_together() {
    let mut documents = all();
    for (number, (_, document)) in (1..).zip(&mut documents) {
        let run = &mut document.runs[0];
        run.stages = example::staged_run().stages;
        run.stages[1].latency_ns.corrected = Latency::of(&histogram(&samples(number)));
        // The third was cut short.
        run.stages.truncate(if number == 3 { 1 } else { 2 });
    }
    let stages = merged(documents).runs.remove(0).stages;
    let [first, second] = &stages[..] else { panic!("two stages: {stages:?}") };
    assert_eq!(
        (first.number, first.offered, first.received, first.rate_per_s),
        (1, 4000, 4000, 4e3)
    );
    assert_eq!((second.offered, second.errors, second.from_per_s), (6000, 3, 1e3));
    let everything: Vec<u64> = [1, 2, 4].into_iter().flat_map(samples).collect();
    let stored = second.latency_ns.corrected.histogram().expect("readable").expect("stored");
    assert_eq!(stored, histogram(&everything));
}

#[test]
fn order_of_the_documents_does_not_matter() {
    let mut reversed = all();
    reversed.reverse();
    assert_eq!(merged(all()), merged(reversed));
}

#[test]
fn counts_and_costs_are_those_of_all() {
    let documents = all();
    let received: u64 = documents.iter().map(|(_, document)| document.runs[0].received).sum();
    let document = merged(documents);
    let run = &document.runs[0];
    assert_eq!(
        (run.sent, run.received, run.latency_ns.corrected.count),
        (received, received, received)
    );
    assert_eq!(run.messages.expect("counted").planned, received);
    assert_eq!(run.latency_ns.connect.count, 4 * 64);
    // The window is two seconds long.
    assert!((run.rate_per_s - received as f64 / 2.0).abs() < 1e-9);
    // The generators' CPU times are 1, 2, 3 and 4 us for about as many messages.
    assert!((run.client.cpu_ns_per_message - 2_500.0).abs() < 0.1, "{:?}", run.client);
    assert_eq!(run.client.cpu_utilisation.len(), 4);
    let series: Vec<_> = run.series.iter().map(|second| (second.second, second.sent)).collect();
    assert_eq!(series, [(0, 400_000), (1, 0)]);
    let Second { p50, p99, max, .. } = run.series[0];
    assert_eq!((p50, p99, max), (None, None, Some(149_999)));
    let [scenario] = &document.scenarios[..] else { panic!("one") };
    assert_eq!((scenario.parameters.connections, scenario.generator.threads), (10, Some(4)));
    assert_eq!((run.shards.len(), &run.shard, &run.server), (4, &None, &None));
    let connections: Vec<u64> = run.shards.iter().map(|line| line.connections).collect();
    assert_eq!(connections, [3, 3, 2, 2]);
    assert!(run.shards.iter().all(|line| line.counted && line.valid && line.p99.is_some()));
}

#[test]
fn a_merged_document_is_stored_and_read_back() {
    let document = merged(all());
    let json = document.to_json().expect("JSON");
    let read = parse(&json, Path::new("whole.json")).expect("a document");
    assert_eq!(read.runs[0].shards.len(), 4);
    assert_eq!(read.runs[0].latency_ns, document.runs[0].latency_ns);
}

#[test]
fn rare_counts_are_added_too() {
    let mut documents = all();
    for (number, (_, document)) in (1..).zip(&mut documents) {
        let run = &mut document.runs[0];
        (run.errors.closed, run.integrity.lost) = (number, 2 * number);
        run.outages = Some(Outages { count: 1, total_ns: 5, longest_ns: number });
        run.compression =
            Some(Compression { compress_ns_per_message: None, ..example::compression(1000) });
        let histogram = run.latency_ns.corrected.histogram().expect("readable").expect("stored");
        run.censored = Some(Censored::of(&histogram, number, 10_000_000 * number));
        run.invalidate(InvalidKind::Outstanding, "messages had no echo");
    }
    let run = merged(documents).runs.remove(0);
    assert_eq!((run.errors.closed, run.integrity.lost), (10, 20));
    assert_eq!(run.outages, Some(Outages { count: 4, total_ns: 20, longest_ns: 4 }));
    let compression = run.compression.expect("offered");
    assert_eq!((compression.sent.messages, compression.inflated), (4000, 40));
    let everything: Vec<u64> = (1..=COUNT).flat_map(samples).collect();
    let expected = Censored::of(&histogram(&everything), 10, 10_000_000);
    assert_eq!(run.censored, Some(expected));
    assert_invalid(&run, InvalidKind::Outstanding, &["every shard: messages had no echo"]);
}

#[test]
fn reasons_of_a_shard_bear_its_name() {
    let late = |document: &mut Document| {
        document.runs[0].invalidate(InvalidKind::LateSends, "the generator sent late");
        document.runs[0].notes.push("busy".to_owned());
    };
    let run = with_third(late);
    assert_invalid(&run, InvalidKind::LateSends, &["shard 3/4: the generator sent late"]);
    assert_eq!(run.notes, ["shard 3/4: busy"]);
    let interrupted = with_third(|document| document.runs[0].interrupted = true);
    assert_invalid(&interrupted, InvalidKind::InterruptedShard, &["shard 3/4 was ended"]);
    let agreed = |document: &mut Document| {
        let agreed = Agreed {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            server_max_window_bits: 9,
            client_max_window_bits: 9,
        };
        let agreed = Some(agreed);
        document.runs[0].compression = Some(Compression { agreed, ..Compression::default() });
    };
    let mixed = with_third(agreed);
    assert_invalid(&mixed, InvalidKind::MixedCompression, &["different compression"]);
}

#[test]
fn a_missing_shard_is_named() {
    let mut documents = all();
    documents.remove(2);
    let run = merged(documents).runs.remove(0);
    assert_invalid(&run, InvalidKind::MissingShard, &["shard 3/4 is missing"]);
    let run = merged(vec![shard(1)]).runs.remove(0);
    assert_invalid(&run, InvalidKind::MissingShard, &["shards 2/4, 3/4, 4/4 are missing"]);
}

#[test]
fn a_shard_that_is_there_twice_is_named_and_counts_once() {
    let mut documents = all();
    documents.push(("again.json".to_owned(), shard(3).1));
    let run = merged(documents).runs.remove(0);
    let words = ["shard 3/4 is there twice", "3.json", "again.json"];
    assert_invalid(&run, InvalidKind::RepeatedShard, &words);
    assert_eq!(run.received, merged(all()).runs[0].received);
    let counted: Vec<_> = run.shards.iter().map(|line| (line.number, line.counted)).collect();
    assert_eq!(counted, [(1, true), (2, true), (3, true), (3, false), (4, true)]);
}

#[test]
fn a_shard_of_another_load_is_named_and_does_not_count() {
    let other = |document: &mut Document| {
        document.scenarios[0].parameters.message_bytes = 64.into();
    };
    let run = with_third(other);
    let words = ["shard 3/4 had another load: message_bytes is 64, not 32"];
    assert_invalid(&run, InvalidKind::OtherLoad, &words);
    assert_eq!(run.received, 3 * 50_000);
    // The first document may be the different one.
    let mut documents = all();
    other(&mut documents[0].1);
    let run = merged(documents).runs.remove(0);
    assert_invalid(&run, InvalidKind::OtherLoad, &["shard 1/4", "is 64, not 32"]);
    let seed = with_third(|document| document.scenarios[0].parameters.seed = 9);
    assert_invalid(&seed, InvalidKind::OtherLoad, &["shard 3/4", "seed is 9, not 1"]);
    let count = |document: &mut Document| {
        document.runs[0].shard.as_mut().expect("a shard").count = 5;
    };
    let run = with_third(count);
    let kinds: Vec<_> = run.invalid().collect();
    assert_eq!(kinds[0], (InvalidKind::MissingShard, "shard 3/4 is missing"));
    let expected = "shard 3/5 is one of 5 shards, and the others are of 4";
    assert_eq!(kinds[1], (InvalidKind::OtherLoad, expected));
}

/// Returns a change of the clock of a shard, which makes it ahead of the others.
fn ahead(ms: i64) -> impl Fn(&mut Document) {
    move |document| {
        let shard = document.runs[0].shard.as_mut().expect("a shard");
        shard.clock = Some(ClockOffset { low_ns: -ms * MS, high_ns: (2 - ms) * MS });
    }
}

#[test]
fn a_clock_more_than_50_ms_off_is_named() {
    let run = with_third(ahead(200));
    let words = ["the clock of shard 3/4 is at least 198 ms ahead of that of shard"];
    assert_invalid(&run, InvalidKind::ClockSkew, &words);
    let skew = run.shards[2].skew.expect("known");
    assert_eq!((skew.low_ns, skew.high_ns), (198 * MS, 202 * MS));
    let run = with_third(ahead(-200));
    assert_invalid(&run, InvalidKind::ClockSkew, &["shard 3/4 is at least 198 ms behind"]);
    assert!(with_third(ahead(40)).valid && with_third(ahead(-40)).valid);
    // None is far from the middle, but two of them from each other.
    let mut documents = all();
    ahead(30)(&mut documents[0].1);
    ahead(-30)(&mut documents[3].1);
    let run = merged(documents).runs.remove(0);
    assert_invalid(
        &run,
        InvalidKind::ClockSkew,
        &["shard 1/4 is at least 58 ms ahead", "shard 4/4"],
    );
}

#[test]
fn a_clock_that_is_not_known_closely_is_noted() {
    let bounded = |document: &mut Document| {
        let shard = document.runs[0].shard.as_mut().expect("a shard");
        shard.clock = Some(ClockOffset { low_ns: -500 * MS, high_ns: 500 * MS });
    };
    let run = with_third(bounded);
    assert!(
        run.valid && run.notes.iter().any(|note| note.contains("the clock of shard")),
        "{run:?}"
    );
    assert!(run.notes[0].contains("3/4") && run.notes[0].contains("ms"), "{:?}", run.notes);
    let unknown = |document: &mut Document| {
        let shard = document.runs[0].shard.as_mut().expect("a shard");
        (shard.clock, shard.clock_unknown) = (None, Some("it has no Date".to_owned()));
    };
    let run = with_third(unknown);
    let note = "shard 3/4: the skew of the clock is not known, because it has no Date";
    assert_eq!((run.valid, run.notes), (true, vec![note.to_owned()]));
    let mut documents = all();
    documents.iter_mut().for_each(|(_, document)| unknown(document));
    let run = merged(documents).runs.remove(0);
    assert_eq!((run.valid, run.notes.len()), (true, 1));
    assert!(run.notes[0].starts_with("every shard: the skew"), "{:?}", run.notes);
}

#[test]
fn a_shard_that_measured_at_another_time_is_named() {
    let later = |ms: u64| {
        move |document: &mut Document| {
            let shard = document.runs[0].shard.as_mut().expect("a shard");
            shard.load_start = Utc::from_unix_ms(1_772_357_410_000 + ms);
        }
    };
    // The window is two seconds long, and begins a second after the load.
    let run = with_third(later(300));
    let words = ["shard 3/4 measured 2.000 s from 2026-03-01T09:30:11.300Z", "--start-at"];
    assert_invalid(&run, InvalidKind::WindowsApart, &words);
    assert_invalid(&with_third(later(60_000)), InvalidKind::WindowsApart, &["shard 3/4"]);
    assert!(with_third(later(190)).valid);
    let short = |document: &mut Document| document.runs[0].phases.measure /= 2;
    assert_invalid(&with_third(short), InvalidKind::WindowsApart, &["shard 3/4 measured 1.000 s"]);
}

#[test]
fn what_is_no_shard_is_refused() {
    let refused = |change: fn(&mut Document)| {
        let mut documents = all();
        change(&mut documents[2].1);
        merge(documents, None).expect_err("no shard").to_string()
    };
    let error = refused(|document| document.runs[0].shard = None);
    assert!(error.starts_with("3.json is not the document of a shard"), "{error}");
    assert_eq!(refused(|document| document.runs.clear()), error);
    let error = refused(|document| document.runs[0].latency_ns.corrected.hdr = None);
    assert!(error.starts_with("3.json has figures without their histogram"), "{error}");
    let broken = |document: &mut Document| {
        document.runs[0].latency_ns.corrected.hdr = Some("AAAA".to_owned());
    };
    assert!(refused(broken).starts_with("3.json: field hdr"));
    let whole = merged(all());
    let again = merge(vec![("whole.json".to_owned(), whole)], None).expect_err("merged already");
    assert!(matches!(again, MergeError::NotAShard(_)));
}

#[test]
fn one_shard_of_one_is_a_whole_load() {
    let (file, mut document) = shard(1);
    document.runs[0].shard.as_mut().expect("a shard").count = 1;
    document.runs[0].phases.measure =
        u64::try_from(Duration::from_secs(2).as_nanos()).expect("fits");
    let before = document.runs[0].latency_ns.clone();
    let run = merged(vec![(file, document)]).runs.remove(0);
    assert_eq!((run.valid, run.latency_ns.corrected), (true, before.corrected));
}

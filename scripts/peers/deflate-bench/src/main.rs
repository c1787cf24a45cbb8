//! Compressors for permessage-deflate on messages of JSON: time, size and memory of a stream.
//!
//! All ways are sampled in turn, and the best sample of each counts. Every message of a sample
//! differs, so that context takeover is not flattered.

mod ways;

use std::time::{Duration, Instant};

use ways::{Way, all};

/// Messages of a sample.
const MESSAGES: u64 = 16;

fn main() {
    let rounds = match std::env::args().nth(1).map(|n| n.parse()) {
        None => 100,
        Some(Ok(rounds)) => rounds,
        Some(Err(_)) => {
            eprintln!("usage: deflate-bench [ROUNDS, by default 100]");
            std::process::exit(2);
        }
    };
    println!("| JSON | compressor | deflate, us | to | inflate, us |");
    println!("|---|---|---:|---:|---:|");
    for (name, len) in
        [("128 B", 128), ("1 KiB", 1 << 10), ("16 KiB", 16 << 10), ("1 MiB", 1 << 20)]
    {
        let mut ways = all();
        let mut best = vec![(Duration::MAX, 0, Duration::MAX); ways.len()];
        for round in 0..rounds {
            let seed = |n| (round * MESSAGES + n) * 100_000;
            let messages: Vec<Vec<u8>> = (0..MESSAGES).map(|n| json(seed(n), len)).collect();
            for (way, best) in ways.iter_mut().zip(&mut best) {
                let (deflate, size, inflate) = sample(&mut *way.1, &messages);
                *best = (best.0.min(deflate), size, best.2.min(inflate));
            }
        }
        for ((way, _), (deflate, size, inflate)) in ways.iter().zip(best) {
            let each = |time: Duration| time.as_secs_f64() * 1e6 / MESSAGES as f64;
            let part = size as f64 / (len as u64 * MESSAGES) as f64;
            let (deflate, inflate) = (each(deflate), each(inflate));
            println!("| {name} | {way} | {deflate:.2} | {:.0} % | {inflate:.2} |", 100.0 * part);
        }
    }
}

/// Deflates and inflates each message. Returns the time of both, and the compressed bytes.
fn sample(way: &mut dyn Way, messages: &[Vec<u8>]) -> (Duration, usize, Duration) {
    let (mut deflate, mut size, mut inflate) = (Duration::ZERO, 0, Duration::ZERO);
    for message in messages {
        let began = Instant::now();
        let payload = way.deflate(message);
        let between = Instant::now();
        let len = way.inflate(&payload);
        inflate += between.elapsed();
        deflate += between - began;
        size += payload.len();
        assert_eq!(len, message.len());
    }
    (deflate, size, inflate)
}

/// Records with varying values, as an API returns them.
fn json(seed: u64, len: usize) -> Vec<u8> {
    let records = (seed..).flat_map(|n| {
        let value = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let (name, score, active) = (value >> 12, value % 9973, value % 3 == 0);
        format!("{{\"id\":{n},\"name\":\"user-{name}\",\"score\":{score},\"active\":{active}}},")
            .into_bytes()
    });
    records.take(len).collect()
}

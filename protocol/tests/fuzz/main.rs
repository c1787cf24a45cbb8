//! The fuzz targets on stable Rust: over the stored corpus, and over inputs mutated from it by a
//! seeded generator.
//!
//! By default the number of inputs is fixed, so that every run is the same.
//! `SPARRING_FUZZ_SECONDS=60` runs each target for that long instead; `SPARRING_FUZZ_SEED=1`
//! changes the seed.

mod mutate;
#[path = "../../fuzz/targets/mod.rs"]
pub mod targets;

use std::path::Path;
use std::time::{Duration, Instant};

use mutate::Mutator;
use targets::Target;

/// Mutated inputs for each target, unless a time is given.
const INPUTS: u64 = 20_000;

/// Returns the stored inputs of a target, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Guard that prints the input when a target panics.
struct Running<'a> {
    name: &'a str,
    input: &'a [u8],
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("target {} with the input b\"{}\"", self.name, self.input.escape_ascii());
        }
    }
}

fn run(name: &str, target: Target, input: &[u8]) {
    let running = Running { name, input };
    target(running.input);
}

fn number_from(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("`{value}` is not a valid {variable}: expected a number")),
    )
}

fn over_corpus_and_mutations(name: &str) {
    let (_, target) = targets::ALL.into_iter().find(|(known, _)| *known == name).unwrap();
    let seeds = corpus(name);
    assert!(!seeds.is_empty(), "{name} has no corpus");
    for seed in &seeds {
        run(name, target, seed);
    }
    let mut mutator = Mutator::new(number_from("SPARRING_FUZZ_SEED").unwrap_or(0), &seeds);
    match number_from("SPARRING_FUZZ_SECONDS") {
        None => (0..INPUTS).for_each(|_| run(name, target, &mutator.next())),
        Some(seconds) => {
            let end = Instant::now() + Duration::from_secs(seconds);
            while Instant::now() < end {
                run(name, target, &mutator.next());
            }
        }
    }
}

#[test]
fn request_target_passes_corpus_and_mutations() {
    over_corpus_and_mutations("request");
}

#[test]
fn response_target_passes_corpus_and_mutations() {
    over_corpus_and_mutations("response");
}

#[test]
fn handshake_target_passes_corpus_and_mutations() {
    over_corpus_and_mutations("handshake");
}

#[test]
fn deflate_negotiation_target_passes_corpus_and_mutations() {
    over_corpus_and_mutations("deflate_negotiation");
}

#[test]
fn header_target_passes_corpus_and_mutations() {
    over_corpus_and_mutations("header");
}

#[test]
fn connection_target_passes_corpus_and_mutations() {
    over_corpus_and_mutations("connection");
}

#[test]
fn close_target_passes_corpus_and_mutations() {
    over_corpus_and_mutations("close");
}

#[test]
fn inflate_target_passes_corpus_and_mutations() {
    over_corpus_and_mutations("inflate");
}

#[test]
fn utf8_target_passes_corpus_and_mutations() {
    over_corpus_and_mutations("utf8");
}

#[test]
fn mask_target_passes_corpus_and_mutations() {
    over_corpus_and_mutations("mask");
}

#[test]
fn every_target_has_a_binary_and_a_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, _) in targets::ALL {
        let binary = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(binary.contains(&format!("targets::{name}::target")), "{name}");
        assert!(!corpus(name).is_empty(), "{name}");
    }
}

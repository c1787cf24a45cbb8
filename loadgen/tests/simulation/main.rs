//! The generator's client against the server's echo, on the real uring engine in a simulated world
//! (`engine::sim`).
//!
//! `SPARRING_SIM_SEEDS=N` runs N seeds. `SPARRING_SIM_SEED=N` runs one seed and prints its setting.

mod duel;
mod setting;

use duel::Duel;

/// Number of seeds in an ordinary test run.
const SEEDS: u64 = 300;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")))
}

#[test]
fn every_echo_comes_back_or_its_connection_fails() {
    let seeds = match number("SPARRING_SIM_SEED") {
        Some(seed) => {
            println!("{:#?}", Duel::new(seed).setting());
            seed..seed + 1
        }
        None => 0..number("SPARRING_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    let (mut sent, mut received, mut compressed) = (0, 0, 0);
    for seed in seeds {
        let outcome = Duel::new(seed).run().unwrap_or_else(|what| {
            panic!(
                "seed {seed}: {what}\n\
                 again with: SPARRING_SIM_SEED={seed} cargo test -p sparring-loadgen --test simulation every_echo"
            )
        });
        sent += outcome.messages.sent;
        received += outcome.messages.echoed;
        compressed += outcome.compressed;
    }
    println!("{count} seeds: {sent} messages, {received} echoes, {compressed} of them compressed");
    assert!(count == 1 || received > count, "hardly anything came back");
    assert!(count == 1 || compressed > count, "hardly anything was compressed");
}

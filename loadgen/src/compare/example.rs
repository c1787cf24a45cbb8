//! Sessions for tests: figures with a little spread, always the same.

use crate::result::SIDES;
use crate::result::{Arm, Document, Run, SessionKind, example};

/// `pairs` pairs in ABBA order over the scenario `echo`; side B's server costs `factor` as much
/// CPU.
pub(crate) fn duel(pairs: u32, factor: f64) -> Document {
    let mut document = example::document();
    document.scenarios.truncate(1);
    document.session.kind = SessionKind::Ab;
    document.session.suite = None;
    document.session.order = "abba".to_owned();
    document.session.argv =
        ["sparring-loadgen", "duel", "a {port}", "b {port}"].map(str::to_owned).to_vec();
    let subject = document.subject.clone();
    document.arms = SIDES
        .map(|name| Arm { name: name.to_owned(), subject: subject.clone(), ..Arm::default() })
        .to_vec();
    let run = example::run("echo", 30_000);
    document.runs.clear();
    for pair in 0..pairs {
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            let mut run = run.clone();
            // Deterministic, small, and other for every run.
            let spread = 1.0 + f64::from((pair * 7 + side * 3) % 11) / 2_000.0;
            run.arm = SIDES[side as usize].to_owned();
            run.pair = pair;
            run.rate_per_s *= spread;
            run.client.cpu_ns_per_message *= spread;
            let server = run.server.as_mut().expect("known");
            server.cpu_ns_per_message *= spread * if side == 1 { factor } else { 1.0 };
            document.runs.push(run);
        }
    }
    document
}

/// Rounds of two arms: `slow` takes `factor` times the CPU, in rounds that differ by much more than
/// that.
pub(crate) fn rounds(factor: f64, rounds: u32) -> Document {
    let mut document = example::document();
    document.scenarios.truncate(1);
    let arm = |name: &str| Arm { name: name.to_owned(), ..Arm::default() };
    document.arms = vec![arm("quick"), arm("slow")];
    let run = |pair: u32, arm: &str, factor: f64| {
        let mut run = Run { pair, arm: arm.to_owned(), ..example::run("echo", 20_000) };
        let cpu = 3000.0 * (1.0 + f64::from(pair)) * factor;
        run.server.as_mut().expect("known").cpu_ns_per_message = cpu;
        run
    };
    let round = |pair| {
        [run(pair, "quick", 1.0), run(pair, "slow", factor * (1.0 + 0.001 * f64::from(pair)))]
    };
    document.runs = (0..rounds).flat_map(round).collect();
    document
}

/// `rounds` rounds of a base, the base once more, and a head, as [`duel`] has pairs. The servers of
/// the last two cost so much more CPU than that of the first.
pub(crate) fn controlled(rounds: u32, placebo: f64, head: f64) -> Document {
    let mut document = duel(rounds, head);
    let names = ["base", "placebo", "head"];
    document.session.order = "rounds of arms, rotated".to_owned();
    document.arms.insert(1, document.arms[0].clone());
    for (arm, name) in document.arms.iter_mut().zip(names) {
        arm.name = name.to_owned();
    }
    let mut runs = Vec::new();
    for mut run in std::mem::take(&mut document.runs) {
        let is_base = run.arm == SIDES[0];
        run.arm = names[if is_base { 0 } else { 2 }].to_owned();
        if is_base {
            let mut once_more = Run { arm: names[1].to_owned(), ..run.clone() };
            let spread = 1.0 + f64::from((run.pair * 5 + 3) % 11) / 2_000.0;
            once_more.rate_per_s *= spread;
            once_more.server.as_mut().expect("known").cpu_ns_per_message *= spread * placebo;
            runs.push(once_more);
        }
        runs.push(run);
    }
    document.runs = runs;
    document
}

//! A duel for tests: figures with a little spread, always the same.

use super::sides::SIDES;
use crate::result::{Arm, Document, SessionKind, example};

/// `pairs` pairs in ABBA order over the scenario `echo`; side B's server costs `factor` as much CPU.
pub(crate) fn duel(pairs: u32, factor: f64) -> Document {
    let mut document = example::document();
    document.scenarios.truncate(1);
    document.session.kind = SessionKind::Ab;
    document.session.suite = None;
    document.session.order = "abba".to_owned();
    document.session.argv = ["sparring-loadgen", "duel", "a {port}", "b {port}"].map(str::to_owned).to_vec();
    let subject = document.subject.clone();
    document.arms =
        SIDES.map(|name| Arm { name: name.to_owned(), subject: subject.clone(), ..Arm::default() }).to_vec();
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

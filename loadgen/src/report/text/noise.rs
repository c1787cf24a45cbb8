//! The noise of a machine, as `aa` recorded it.

use crate::compare::noise::Noise;
use crate::report::format::share;
use crate::report::{Blocks, Table};
use crate::result::Document;

pub(crate) fn noise(document: &Document) -> Blocks {
    let stored = document.verdict.as_ref().and_then(|verdict| verdict.get("noise"));
    let noises: Vec<Noise> =
        stored.and_then(|noise| serde_json::from_value(noise.clone()).ok()).unwrap_or_default();
    let header = ["scenario", "metric", "pairs recorded", "noise", "smallest threshold"];
    let mut table = Table::new(header, 2, [2]);
    for noise in &noises {
        let default = noise.metric.default_threshold();
        let from = if 2.0 * noise.p95 > default { "" } else { " (default)" };
        table.add_row([
            noise.scenario.clone(),
            noise.metric.name().to_owned(),
            noise.recorded.to_string(),
            share(noise.p95, 1),
            share(default.max(2.0 * noise.p95), 1) + from,
        ]);
    }
    let pairs = noises.first().map_or(0, |noise| noise.pairs);
    Blocks::default().table(table).legend(vec![format!(
        "noise: in 95 of 100 duels of {pairs} pairs between identical servers the estimate stays within it"
    )])
}

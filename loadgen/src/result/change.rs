//! The change against an earlier session, as ratios. Advisory: the two sessions were not interleaved.

use std::path::{Path, PathBuf};

use super::document::Document;
use super::store::{Store, StoreError};
use super::summary::Summary;

/// What changed since an earlier session of the same machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The file of the earlier session.
    pub against: PathBuf,
    /// Its server's commit.
    pub commit: Option<String>,
    /// The scenarios both sessions have, in the newer session's order.
    pub scenarios: Vec<ScenarioChange>,
    /// What else differs and could be the reason, one sentence each.
    pub cautions: Vec<String>,
}

/// One scenario's figures as newer / earlier.
#[derive(Debug, Clone, PartialEq)]
pub struct ScenarioChange {
    /// [`super::Scenario::name`] in the newer session.
    pub scenario: String,
    /// The engine that served it.
    pub engine: String,
    /// Echoes per second.
    pub rate: f64,
    /// Server CPU per message.
    pub server_cpu: Option<f64>,
    /// Median latency.
    pub p50: Option<f64>,
    /// 99th percentile of latency.
    pub p99: Option<f64>,
}

impl Store {
    /// The change of `newer` against the last session of its machine that has something comparable.
    ///
    /// Files that cannot be read are skipped and returned beside, so that one damaged file does not hide the others.
    ///
    /// # Errors
    /// When the machine's folder cannot be read.
    pub fn change_of(&self, newer: &Document) -> Result<(Option<Change>, Vec<StoreError>), StoreError> {
        let mut unreadable = Vec::new();
        for path in self.sessions(&newer.machine.id)?.into_iter().rev() {
            match Self::load(&path) {
                Ok(earlier) if earlier.session.start < newer.session.start => {
                    let change = change_between(&path, &earlier, newer);
                    if change.is_some() {
                        return Ok((change, unreadable));
                    }
                }
                Ok(_) => {}
                Err(error) => unreadable.push(error),
            }
        }
        Ok((None, unreadable))
    }
}

/// The change from `earlier`, stored at `path`, to `newer`; `None` where no scenario compares.
///
/// Scenarios compare where their hashes are equal and both have valid, complete runs; sessions only where the machine
/// and the build profile are the same.
#[must_use]
pub fn change_between(path: &Path, earlier: &Document, newer: &Document) -> Option<Change> {
    if earlier.machine.id != newer.machine.id || earlier.subject.build != newer.subject.build {
        return None;
    }
    let before: Vec<Summary> = Summary::all(earlier).into_iter().filter(is_comparable).collect();
    let scenarios: Vec<ScenarioChange> = Summary::all(newer)
        .iter()
        .filter(|summary| is_comparable(summary))
        .filter_map(|after| Some(ratios(before.iter().find(|before| before.hash == after.hash)?, after)))
        .collect();
    (!scenarios.is_empty()).then(|| Change {
        against: path.to_owned(),
        commit: earlier.subject.commit.clone(),
        scenarios,
        cautions: cautions(earlier, newer),
    })
}

fn is_comparable(summary: &Summary) -> bool {
    summary.valid && !summary.interrupted
}

fn ratios(before: &Summary, after: &Summary) -> ScenarioChange {
    let of_options = |after: Option<f64>, before: Option<f64>| Some(after? / before?);
    let of_percentiles = |after: Option<u64>, before: Option<u64>| Some(after? as f64 / before? as f64);
    ScenarioChange {
        scenario: after.scenario.clone(),
        engine: after.engine.clone(),
        rate: after.rate_per_s / before.rate_per_s,
        server_cpu: of_options(after.server_cpu_ns, before.server_cpu_ns),
        p50: of_percentiles(after.p50, before.p50),
        p99: of_percentiles(after.p99, before.p99),
    }
}

/// What else differs between two sessions and could be the reason of a change, one sentence each.
pub(crate) fn cautions(earlier: &Document, newer: &Document) -> Vec<String> {
    let mut cautions = Vec::new();
    if earlier.machine.kernel != newer.machine.kernel {
        let (was, is) = (&earlier.machine.kernel, &newer.machine.kernel);
        cautions.push(format!("The kernel was another: {was}, now {is}."));
    }
    if earlier.tool.binary_hash != newer.tool.binary_hash {
        cautions.push("The generator was another build; part of the change may be its own.".to_owned());
    }
    if earlier.subject.dirty == Some(true) {
        cautions.push("The earlier session measured uncommitted changes.".to_owned());
    }
    for mark in &earlier.session.marks {
        cautions.push(format!("The earlier session is marked: {mark}"));
    }
    cautions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Utc, example};

    fn later(rate: f64) -> Document {
        let mut document = example::document();
        document.session.start = Utc::from_unix_ms(1_800_000_000_000);
        document.runs[0].rate_per_s = rate;
        document.runs[0].server.as_mut().expect("present").cpu_ns_per_message = 2_000.0;
        document
    }

    #[test]
    fn ratios_are_newer_over_earlier() {
        let change =
            change_between(Path::new("f"), &example::document(), &later(150_000.0)).expect("comparable");
        let echo = &change.scenarios[0];
        assert_eq!(echo.scenario, "echo");
        assert!((echo.rate - 1.5).abs() < 1e-9);
        assert!((echo.server_cpu.expect("known") - 0.5).abs() < 1e-9);
        assert_eq!((echo.p50, echo.p99), (Some(1.0), Some(1.0)));
        assert_eq!(change.cautions, Vec::<String>::new());
    }

    #[test]
    fn what_is_not_the_same_does_not_compare() {
        let newer = later(1.0);
        let compares = |change: &dyn Fn(&mut Document)| {
            let mut earlier = example::document();
            change(&mut earlier);
            change_between(Path::new("f"), &earlier, &newer).is_some()
        };
        assert!(compares(&|_| {}));
        assert!(!compares(&|earlier| earlier.machine.id = "other".into()));
        assert!(!compares(&|earlier| earlier.subject.build = Some("ci".into())));
        assert!(!compares(&|earlier| earlier.scenarios.iter_mut().for_each(|s| s.hash = "other".into())));
        assert!(!compares(&|earlier| earlier.runs.iter_mut().for_each(|run| run.valid = false)));
        assert!(!compares(&|earlier| earlier.runs.iter_mut().for_each(|run| run.interrupted = true)));
    }

    #[test]
    fn other_possible_reasons_are_named() {
        let mut earlier = example::document();
        earlier.machine.kernel = "5.15".into();
        earlier.tool.binary_hash = None;
        earlier.subject.dirty = Some(true);
        earlier.session.marks.push("server and generator shared a core.".into());
        let change = change_between(Path::new("f"), &earlier, &later(1.0)).expect("comparable");
        assert_eq!(change.cautions.len(), 4, "{:?}", change.cautions);
    }

    #[test]
    fn the_last_comparable_session_is_found_past_a_damaged_and_an_invalid_one() {
        let folder = std::env::temp_dir().join(format!("sparring-change-{}", std::process::id()));
        let store = Store::new(&folder);
        let good = store.save(&example::document()).expect("stored");
        let mut invalid = example::document();
        invalid.session.start = Utc::from_unix_ms(1_790_000_000_000);
        invalid.runs.iter_mut().for_each(|run| run.valid = false);
        store.save(&invalid).expect("stored");
        std::fs::write(folder.join("0123456789ab/20270101T000000Z-x-y.json"), "{").expect("written");
        let newer = later(1.0);
        store.save(&newer).expect("stored");

        let (change, unreadable) = store.change_of(&newer).expect("readable folder");
        std::fs::remove_dir_all(&folder).expect("own folder");
        assert_eq!(change.expect("found").against, good);
        assert_eq!(unreadable.len(), 1);
    }

    #[test]
    fn the_first_session_has_nothing_to_compare_with() {
        let (change, unreadable) =
            Store::new("/nonexistent").change_of(&example::document()).expect("no folder");
        assert!(change.is_none() && unreadable.is_empty());
    }
}

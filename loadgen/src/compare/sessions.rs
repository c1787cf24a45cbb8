//! Conditions under which two stored sessions may be compared.

use super::sides::default_thresholds;
use crate::result::{Conclusion, Document, Scenario, Store, StoreError, Stored};

/// An earlier session, and what changed since.
#[derive(Debug)]
pub(crate) struct Change {
    /// The earlier session, without scenarios that are others now.
    pub(crate) earlier: Stored,
    pub(crate) comparison: Conclusion,
    /// Further differences, see [`cautions_between`].
    pub(crate) cautions: Vec<String>,
}

/// Returns the change of `newer` against the last session of its machine that has something
/// comparable.
///
/// Files that cannot be read are skipped and returned beside, so that one damaged file does not
/// hide the others.
pub(crate) fn last_change(
    store: &Store,
    newer: &Document,
) -> Result<(Option<Change>, Vec<StoreError>), StoreError> {
    let mut unreadable = Vec::new();
    for path in store.sessions(&newer.machine.id)?.into_iter().rev() {
        match Store::load(&path) {
            Ok(document) if document.session.start < newer.session.start => {
                if let Some(change) = change_between(Stored { path, document }, newer) {
                    return Ok((Some(change), unreadable));
                }
            }
            Ok(_) => {}
            Err(error) => unreadable.push(error),
        }
    }
    Ok((None, unreadable))
}

/// `None` where no scenario compares.
pub(crate) fn change_between(mut earlier: Stored, newer: &Document) -> Option<Change> {
    let is_the_same = |before: &Scenario| {
        newer
            .scenarios
            .iter()
            .any(|after| (&after.name, &after.hash) == (&before.name, &before.hash))
    };
    earlier.document.scenarios.retain(is_the_same);
    if !refusals(&earlier.document, newer).is_empty() {
        return None;
    }
    let comparison = Conclusion::of_sessions(&earlier.document, newer, &default_thresholds);
    let cautions = cautions_between(&earlier.document, newer);
    (!comparison.judgements.is_empty()).then_some(Change { earlier, comparison, cautions })
}

/// Why `new` does not compare with `base`, one sentence each; none where it does.
pub(crate) fn refusals(base: &Document, new: &Document) -> Vec<String> {
    let mut refusals = Vec::new();
    if base.machine.id != new.machine.id {
        let (was, is) = (&base.machine, &new.machine);
        refusals.push(format!(
            "The machines differ: {} ({}), now {} ({}).",
            was.id, was.cpu, is.id, is.cpu
        ));
    }
    if base.subject.build != new.subject.build {
        let name = |document: &Document| {
            document.subject.build.clone().unwrap_or_else(|| "unknown".to_owned())
        };
        refusals.push(format!(
            "The server's build profiles differ: {}, now {}.",
            name(base),
            name(new)
        ));
    }
    if part(base) != part(new) {
        let (was, is) = (part(base), part(new));
        refusals.push(format!("They are different parts of a load: {was}, now {is} (merge)."));
    }
    let shared = shared_scenarios(base, new);
    if shared.is_empty() {
        refusals.push(format!("They share no scenario: {}, now {}.", names(base), names(new)));
    }
    for (before, after) in shared.iter().filter(|(before, after)| before.hash != after.hash) {
        let different = differences(before, after).join(", ");
        refusals.push(format!("The scenario {} is another: {different}.", after.name));
    }
    refusals
}

/// Returns the part of its load that a session measured.
pub(super) fn part(document: &Document) -> String {
    let shard = document.runs.iter().find_map(|run| run.shard.as_ref());
    shard.map_or_else(|| "the whole".to_owned(), |shard| format!("shard {}", shard.name()))
}

/// Returns what else differs and could be the reason of a change, one sentence each.
pub(crate) fn cautions_between(earlier: &Document, newer: &Document) -> Vec<String> {
    let mut cautions = Vec::new();
    if earlier.machine.kernel != newer.machine.kernel {
        let (was, is) = (&earlier.machine.kernel, &newer.machine.kernel);
        cautions.push(format!("The kernel was another: {was}, now {is}."));
    }
    if earlier.tool.binary_hash != newer.tool.binary_hash {
        cautions
            .push("The generator was another build; part of the change may be its own.".to_owned());
    }
    if earlier.subject.dirty == Some(true) {
        cautions.push("The earlier session measured uncommitted changes.".to_owned());
    }
    for mark in &earlier.session.marks {
        cautions.push(format!("The earlier session is marked: {mark}"));
    }
    cautions
}

fn shared_scenarios<'a>(
    base: &'a Document,
    new: &'a Document,
) -> Vec<(&'a Scenario, &'a Scenario)> {
    let before = |after: &Scenario| base.scenarios.iter().find(|before| before.name == after.name);
    new.scenarios.iter().filter_map(|after| Some((before(after)?, after))).collect()
}

fn names(document: &Document) -> String {
    document.scenarios.iter().map(|scenario| scenario.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// Returns `server engine uring, now epoll` for each value that differs.
fn differences(before: &Scenario, after: &Scenario) -> Vec<String> {
    let object = |value: serde_json::Result<serde_json::Value>| match value {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let fields = |scenario: &Scenario| {
        let mut fields = object(serde_json::to_value(&scenario.parameters));
        for (end, setting) in [("generator", &scenario.generator), ("server", &scenario.server)] {
            let setting = object(serde_json::to_value(setting));
            fields.extend(setting.into_iter().map(|(key, value)| (format!("{end} {key}"), value)));
        }
        fields
    };
    let (before, after) = (fields(before), fields(after));
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let text =
        |fields: &serde_json::Map<String, serde_json::Value>, key: &str| match fields.get(key) {
            None | Some(serde_json::Value::Null) => "none".to_owned(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
    let differing = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    differing
        .map(|key| format!("{key} {}, now {}", text(&before, key), text(&after, key)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{ShardRecord, Utc, example};

    fn refused(change: impl Fn(&mut Document)) -> Vec<String> {
        let mut new = example::document();
        change(&mut new);
        refusals(&example::document(), &new)
    }

    #[test]
    fn what_is_not_the_same_is_refused_and_named() {
        assert!(refused(|_| {}).is_empty());
        let one = |change: fn(&mut Document), parts: &[&str]| {
            let refusals = refused(change);
            assert_eq!(refusals.len(), 1, "{refusals:?}");
            assert!(
                parts.iter().all(|part| refusals[0].contains(part)),
                "{parts:?} not in {refusals:?}"
            );
        };
        one(
            |new| new.machine.id = "ffffffffffff".into(),
            &["machines", "0123456789ab", "ffffffffffff"],
        );
        one(|new| new.subject.build = Some("ci".into()), &["release", "ci"]);
        one(
            |new| new.scenarios.iter_mut().for_each(|s| s.name.push('2')),
            &["no scenario", "echo2"],
        );
        one(
            |new| {
                new.scenarios[0].server.engine = Some("epoll".into());
                new.scenarios[0].rehash();
            },
            &["echo", "server engine uring, now epoll"],
        );
        one(
            |new| {
                new.runs[0].shard = Some(ShardRecord {
                    number: 2,
                    count: 4,
                    load_start: new.runs[0].start,
                    clock: None,
                    clock_unknown: None,
                });
            },
            &["different parts of a load: the whole, now shard 2/4"],
        );
    }

    #[test]
    fn another_generator_is_marked_and_not_refused() {
        let mut new = example::document();
        new.tool.binary_hash = None;
        assert!(refusals(&example::document(), &new).is_empty());
        assert!(cautions_between(&example::document(), &new)[0].contains("generator"));
    }

    fn stored(document: Document) -> Stored {
        Stored { path: "f.json".into(), document }
    }

    fn later() -> Document {
        let mut document = example::document();
        document.session.start = Utc::from_unix_ms(1_800_000_000_000);
        document.runs[0].rate_per_s *= 1.5;
        document
    }

    #[test]
    fn a_change_is_newer_over_earlier_where_the_scenario_is_the_same() {
        let change = change_between(stored(example::document()), &later()).expect("comparable");
        let first = &change.comparison.judgements[0];
        assert_eq!((first.scenario.as_str(), first.metric.name()), ("echo", "throughput"));
        assert!((first.ratio - 1.5).abs() < 1e-9 && change.cautions.is_empty(), "{change:?}");
        let compares = |change: &dyn Fn(&mut Document)| {
            let mut earlier = example::document();
            change(&mut earlier);
            change_between(stored(earlier), &later()).is_some()
        };
        assert!(compares(&|earlier| earlier.scenarios[0].hash = "other".into()));
        assert!(!compares(&|earlier| earlier.machine.id = "other".into()));
        assert!(!compares(&|earlier| earlier.subject.build = Some("ci".into())));
        assert!(!compares(&|earlier| earlier
            .scenarios
            .iter_mut()
            .for_each(|s| s.hash = "other".into())));
        assert!(!compares(&|earlier| earlier.runs.iter_mut().for_each(|run| run.valid = false)));
        assert!(!compares(&|earlier| earlier
            .runs
            .iter_mut()
            .for_each(|run| run.interrupted = true)));
    }

    #[test]
    fn other_possible_reasons_are_named() {
        let mut earlier = example::document();
        earlier.machine.kernel = "5.15".into();
        earlier.tool.binary_hash = None;
        earlier.subject.dirty = Some(true);
        earlier.session.marks.push("server and generator shared a core.".into());
        assert_eq!(cautions_between(&earlier, &later()).len(), 4);
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
        std::fs::write(folder.join("0123456789ab/20270101T000000Z-x-y.json"), "{")
            .expect("written");
        store.save(&later()).expect("stored");
        let (change, unreadable) = last_change(&store, &later()).expect("readable folder");
        std::fs::remove_dir_all(&folder).expect("own folder");
        assert_eq!((change.expect("found").earlier.path, unreadable.len()), (good, 1));
        let (change, unreadable) =
            last_change(&Store::new("/nonexistent"), &later()).expect("no folder");
        assert!(
            change.is_none() && unreadable.is_empty(),
            "the first session has nothing to compare with"
        );
    }
}

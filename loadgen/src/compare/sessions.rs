//! Whether two stored sessions may be compared at all.

use crate::result::{Document, Scenario, cautions};

/// Why `new` does not compare with `base`, one sentence each; none where it does.
#[must_use]
pub fn refusals(base: &Document, new: &Document) -> Vec<String> {
    let mut refusals = Vec::new();
    if base.machine.id != new.machine.id {
        let (was, is) = (&base.machine, &new.machine);
        refusals.push(format!("The machines differ: {} ({}), now {} ({}).", was.id, was.cpu, is.id, is.cpu));
    }
    if base.subject.build != new.subject.build {
        let name =
            |document: &Document| document.subject.build.clone().unwrap_or_else(|| "unknown".to_owned());
        refusals.push(format!("The server's build profiles differ: {}, now {}.", name(base), name(new)));
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

/// What else differs and could be the reason of a change, one sentence each.
#[must_use]
pub fn cautions_between(base: &Document, new: &Document) -> Vec<String> {
    cautions(base, new)
}

fn shared_scenarios<'a>(base: &'a Document, new: &'a Document) -> Vec<(&'a Scenario, &'a Scenario)> {
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
    let text = |fields: &serde_json::Map<String, serde_json::Value>, key: &str| match fields.get(key) {
        None | Some(serde_json::Value::Null) => "none".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let differing = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    differing.map(|key| format!("{key} {}, now {}", text(&before, key), text(&after, key))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::example;

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
            assert!(parts.iter().all(|part| refusals[0].contains(part)), "{parts:?} not in {refusals:?}");
        };
        one(|new| new.machine.id = "ffffffffffff".into(), &["machines", "0123456789ab", "ffffffffffff"]);
        one(|new| new.subject.build = Some("ci".into()), &["release", "ci"]);
        one(|new| new.scenarios.iter_mut().for_each(|s| s.name.push('2')), &["no scenario", "echo2"]);
        one(
            |new| {
                new.scenarios[0].server.engine = Some("epoll".into());
                new.scenarios[0].rehash();
            },
            &["echo", "server engine uring, now epoll"],
        );
    }

    #[test]
    fn another_generator_is_marked_and_not_refused() {
        let mut new = example::document();
        new.tool.binary_hash = None;
        assert!(refusals(&example::document(), &new).is_empty());
        assert!(cautions_between(&example::document(), &new)[0].contains("generator"));
    }
}

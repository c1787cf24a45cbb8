//! Documents of earlier schemas, brought to the present one.

use serde_json::{Map, Value, json};

use crate::load::Catalogue;

/// Brings a document of schema 1 to schema 2.
///
/// Schema 1 kept the settings of both ends among the `parameters` of a load, sizes with weights
/// beside their mean, and had other names for some scenarios.
pub(super) fn migrate(document: &mut Value) {
    if document.get("schema").and_then(Value::as_u64) != Some(1) {
        return;
    }
    document["schema"] = json!(2);
    for scenario in entries(document, "scenarios") {
        rename(scenario, "name");
        if let Some(parameters) = scenario.get_mut("parameters").and_then(Value::as_object_mut) {
            let ends = settings(parameters);
            scenario.extend(ends);
        }
    }
    for list in ["runs", "counts"] {
        for entry in entries(document, list) {
            rename(entry, "scenario");
        }
    }
    if let Some(verdict) = document.get_mut("verdict") {
        for list in ["judgements", "noise"] {
            for entry in entries(verdict, list) {
                rename(entry, "scenario");
            }
        }
    }
}

fn entries<'a>(
    document: &'a mut Value,
    list: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = document.get_mut(list).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn rename(entry: &mut Map<String, Value>, key: &str) {
    if let Some(name) = entry.get(key).and_then(Value::as_str) {
        let present = Catalogue::built_in().present_name(name);
        entry.insert(key.to_owned(), present.into());
    }
}

/// Takes the settings of both ends out of the parameters, which become a load.
fn settings(parameters: &mut Map<String, Value>) -> Map<String, Value> {
    let mut setting = |prefix: &str| {
        let keys = ["engine", "threads", "congestion"];
        let found = keys.map(|key| (key.to_owned(), parameters.remove(&format!("{prefix}{key}"))));
        let found = found
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.filter(|v| !v.is_null())?)));
        Value::Object(found.collect())
    };
    let ends = [("server".to_owned(), setting("server_")), ("generator".to_owned(), setting(""))];
    if let Some(sizes) = parameters.remove("message_sizes").filter(|sizes| !sizes.is_null()) {
        parameters.insert("message_bytes".to_owned(), sizes);
    }
    if parameters.remove("mask_keys_per_connection").is_some_and(|keys| !keys.is_null()) {
        parameters.insert("mask".to_owned(), json!("fixed"));
    }
    // `null` stood for the default.
    parameters.retain(|key, value| key != "arrival" || !value.is_null());
    ends.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;
    use crate::result::Scenario;

    #[test]
    fn parameters_of_schema_1_become_a_load_and_settings() {
        let mut document = json!({
            "schema": 1,
            "scenarios": [{ "name": "echo-ws-10", "hash": "0", "parameters": {
                "transport": "ws", "connections": 9, "pipeline": 1, "message_bytes": 467, "payload": "binary",
                "rate_per_s": null, "threads": 2, "engine": "uring", "server_engine": "epoll", "server_threads": null,
                "warmup_ns": 0, "measure_ns": 5, "verify": true, "seed": 1, "message_sizes": "64:9,4096:1",
                "mask_keys_per_connection": 1
            }}],
            "runs": [{ "scenario": "echo-ws-10" }, { "scenario": "echo@epoll" }],
            "verdict": { "judgements": [{ "scenario": "echo-ws-10-fixed" }] },
        });
        migrate(&mut document);
        assert_eq!(document["schema"], 2);
        assert_eq!(document["verdict"]["judgements"][0]["scenario"], "echo-ws-limited-fixed");
        assert_eq!(
            (&document["runs"][0]["scenario"], &document["runs"][1]["scenario"]),
            (&json!("echo-ws-limited"), &json!("echo@epoll"))
        );
        let scenario: Scenario =
            serde_json::from_value(document["scenarios"][0].take()).expect("a scenario");
        assert_eq!(scenario.name, "echo-ws-limited");
        assert_eq!(
            (scenario.generator.engine.as_deref(), scenario.generator.threads),
            (Some("uring"), Some(2))
        );
        assert_eq!(
            (scenario.server.engine.as_deref(), scenario.server.threads),
            (Some("epoll"), None)
        );
        let load = scenario.parameters;
        assert_eq!(
            (load.message_bytes.to_string().as_str(), load.mask),
            ("64:9,4096:1", crate::load::Mask::Fixed)
        );
        assert_eq!((load.connections, load.settle), (9, Load::default().settle));
    }
}

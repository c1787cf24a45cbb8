//! `bench-results/schema.json` against what this program writes and against every committed result.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::{
    Arm, ClockOffset, Compression, Count, InvalidKind, MessageCost, SCHEMA, Scenario, SessionKind,
    Setting, ShardLine, ShardRecord, Utc, example, parse,
};
use crate::load::{Deflate, Load, Payload};

fn results_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench-results")
}

fn validator() -> Validator {
    let text =
        fs::read_to_string(results_folder().join("schema.json")).expect("schema.json is readable");
    let schema: Value = serde_json::from_str(&text).expect("schema.json is JSON");
    jsonschema::meta::validate(&schema).expect("schema.json is a JSON Schema");
    jsonschema::draft202012::new(&schema).expect("schema.json compiles")
}

fn example_value() -> Value {
    serde_json::to_value(example::document()).expect("the document is JSON")
}

fn complaints(validator: &Validator, value: &Value) -> Vec<String> {
    validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

#[test]
fn what_is_written_is_valid() {
    assert_eq!(complaints(&validator(), &example_value()), Vec::<String>::new());
}

#[test]
fn stages_are_described() {
    let mut document = example::document();
    let stages = Some("1k:1s,3k:1s".parse().expect("stages"));
    let load = Load { stages, measure: std::time::Duration::from_secs(2), ..Load::default() };
    document.scenarios[0].parameters = load;
    document.runs[0].stages = example::staged_run().stages;
    document.runs[0].stages[1].invalid_kinds = vec![InvalidKind::RateNotKept];
    document.runs[0].stages[1].invalid_reasons = vec!["the rate was not kept".to_owned()];
    let value = serde_json::to_value(&document).expect("JSON");
    assert_eq!(complaints(&validator(), &value), Vec::<String>::new());
    let text = document.to_json().expect("JSON");
    let read = parse(&text, Path::new("a.json")).expect("a document");
    assert_eq!(read.runs[0].stages.len(), 2);
    assert_eq!(read.scenarios[0].parameters, document.scenarios[0].parameters);
    let plain = serde_json::to_value(Load::default()).expect("JSON");
    assert!(plain.get("stages").is_none(), "a load without stages is stored as before");
}

#[test]
fn arms_have_names() {
    let mut document = example::document();
    let subject = document.subject.clone();
    document.arms = ["uring-spin", "theirs"]
        .map(|name| Arm { name: name.into(), subject: subject.clone(), ..Arm::default() })
        .to_vec();
    document.runs[0].arm = "uring-spin".into();
    document.runs[0].series.clear();
    let value = serde_json::to_value(document).expect("the document is JSON");
    assert_eq!(complaints(&validator(), &value), Vec::<String>::new());
}

#[test]
fn a_result_without_a_known_server_is_valid() {
    let mut document = example::document();
    document.subject = crate::target::subject::Subject::default();
    document.runs[0].server = None;
    document.runs[1].invalidate(InvalidKind::BusyGenerator, "The generator was the limit.");
    let value = serde_json::to_value(document).expect("the document is JSON");
    assert_eq!(complaints(&validator(), &value), Vec::<String>::new());
}

#[test]
fn what_was_counted_has_no_runs() {
    let mut document = example::document();
    document.session.kind = SessionKind::Count;
    document.runs.clear();
    let missing = serde_json::to_value(&document).expect("the document is JSON");
    assert!(!validator().is_valid(&missing), "nothing was counted");
    document.counts = vec![Count {
        scenario: document.scenarios[0].name.clone(),
        counter: "instructions".into(),
        per_message: 480.2,
        messages: 100_000,
    }];
    let value = serde_json::to_value(&document).expect("the document is JSON");
    assert_eq!(complaints(&validator(), &value), Vec::<String>::new());
    assert_eq!(parse(&value.to_string(), Path::new("f.json")).expect("it reads"), document);
}

/// The committed results, and those in the folder that `SPARRING_RESULTS` names: the gate's own.
fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os("SPARRING_RESULTS").map(PathBuf::from);
    [results_folder()].into_iter().chain(named).collect()
}

/// The sessions of all machines in a folder of results.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let machines = fs::read_dir(folder).expect("the folder of results is readable").flatten();
    let folders = machines.filter_map(|machine| fs::read_dir(machine.path()).ok());
    // Beside the machines' folders are notes, and in them recordings for `proof`.
    let is_result = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "json");
    folders.flat_map(|files| files.flatten().map(|file| file.path())).filter(is_result).collect()
}

#[test]
fn every_stored_result_is_valid_and_reads() {
    let validator = validator();
    for folder in folders() {
        let files = files_in(&folder);
        println!("{} results in {}", files.len(), folder.display());
        files.iter().for_each(|file| check_stored(&validator, file));
    }
}

/// Every line of a recording is a session.
#[test]
fn every_stored_recording_reads() {
    for folder in folders() {
        let machines = fs::read_dir(&folder).expect("the folder of results is readable").flatten();
        let recordings = machines.map(|machine| machine.path().join("proof/pairs.jsonl"));
        for recording in recordings.filter(|recording| recording.exists()) {
            let lines = fs::read_to_string(&recording).expect("the recording is readable");
            let sessions: Vec<_> =
                lines.lines().map(|line| parse(line, &recording).expect("a session")).collect();
            println!("{} sessions in {}", sessions.len(), recording.display());
            assert!(sessions.iter().all(|session| session.runs.len() % 4 == 0));
        }
    }
}

fn check_stored(validator: &Validator, file: &Path) {
    let text = fs::read_to_string(file).expect("the result is readable");
    let document = parse(&text, file).expect("the result reads");
    let value: Value = serde_json::from_str(&text).expect("the result is JSON");
    assert_eq!(complaints(validator, &value), Vec::<String>::new(), "{}", file.display());
    let folder =
        file.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    assert_eq!(
        folder,
        Some(document.machine.id),
        "{} lies in another machine's folder",
        file.display()
    );
}

/// A change that breaks a document.
type Break = fn(&mut Value);

#[test]
fn a_broken_document_is_refused() {
    let breaks: [(&str, Break); 13] = [
        ("a field is missing", |v| drop(v.as_object_mut().expect("object").remove("machine"))),
        ("a higher schema", |v| v["schema"] = json!(3)),
        ("a count is negative", |v| v["runs"][0]["received"] = json!(-1)),
        ("a count is no integer", |v| v["runs"][0]["sent"] = json!(0.5)),
        ("a figure is null", |v| v["runs"][0]["rate_per_s"] = Value::Null),
        ("a counter is null", |v| v["runs"][0]["latency_ns"]["corrected"]["count"] = Value::Null),
        ("the histogram is no base64", |v| {
            v["runs"][0]["latency_ns"]["corrected"]["hdr"] = json!("{}");
        }),
        ("invalid without a reason", |v| v["runs"][0]["valid"] = json!(false)),
        ("valid with a reason", |v| v["runs"][0]["invalid_reasons"] = json!(["x"])),
        ("valid with a kind", |v| v["runs"][0]["invalid_kinds"] = json!(["clock"])),
        ("a time in another form", |v| v["session"]["start"] = json!("2026-03-01 09:30")),
        ("an unknown transport", |v| v["scenarios"][0]["parameters"]["transport"] = json!("udp")),
        ("no runs", |v| v["runs"] = json!([])),
    ];
    let validator = validator();
    for (what, break_it) in breaks {
        let mut value = example_value();
        break_it(&mut value);
        assert!(!validator.is_valid(&value), "accepted although: {what}");
    }
}

#[test]
fn each_run_is_a_line_of_a_stored_document() {
    let mut document = example::document();
    document.session.marks = vec!["\n  \"runs\": []".to_owned()];
    let json = document.to_json().expect("the document is JSON");
    assert_eq!(parse(&json, Path::new("f.json")).expect("it reads"), document);
    let runs = json.lines().filter(|line| line.starts_with("    {\"scenario\":")).count();
    assert_eq!(runs, document.runs.len());
}

/// A session as it was stored under schema 1.
#[test]
fn schema_1_is_still_read() {
    let document =
        parse(include_str!("examples/schema_1_count.json"), Path::new("schema_1_count.json"))
            .expect("it reads");
    assert_eq!((document.schema, document.session.kind), (2, SessionKind::Count));
    let [one, sixteen] = &document.scenarios[..] else { panic!("two scenarios") };
    assert_eq!((one.generator.engine.as_deref(), one.parameters.pipeline), (Some("callgrind"), 1));
    assert_eq!((sixteen.name.as_str(), sixteen.parameters.pipeline), ("hot-path-16", 16));
    assert_ne!(one.hash, sixteen.hash);
    assert_eq!(
        complaints(&validator(), &serde_json::to_value(document).expect("JSON")),
        Vec::<String>::new()
    );
}

/// Sessions as they were stored under each schema, in `examples/schema_VERSION_KIND.json`.
#[test]
fn every_schema_has_stored_examples_that_are_still_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/result/examples");
    let files = fs::read_dir(folder).expect("the folder of examples").flatten();
    let mut examples: Vec<PathBuf> = files.map(|file| file.path()).collect();
    examples.sort();
    let mut versions = BTreeSet::new();
    let validator = validator();
    for file in examples {
        let text = fs::read_to_string(&file).expect("an example");
        let written: Value = serde_json::from_str(&text).expect("JSON");
        let version = written["schema"].as_u64().expect("a version");
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name.starts_with(&format!("schema_{version}_")), "{name}");
        versions.insert(version);
        let document = parse(&text, &file).expect("it reads");
        assert_eq!(u64::from(document.schema), u64::from(SCHEMA), "{name}");
        let now = serde_json::to_value(&document).expect("JSON");
        assert_eq!(complaints(&validator, &now), Vec::<String>::new(), "{name}");
        // Nothing was lost on the way.
        let length = |value: &Value, list: &str| value[list].as_array().map_or(0, Vec::len);
        for list in ["scenarios", "runs", "arms", "counts"] {
            assert_eq!(length(&now, list), length(&written, list), "{name}: {list}");
        }
        let figures = |value: &Value| -> Vec<Option<f64>> {
            let runs = value["runs"].as_array().into_iter().flatten();
            runs.map(|run| run["rate_per_s"].as_f64()).collect()
        };
        assert_eq!(figures(&now), figures(&written), "{name}");
        let again = parse(&now.to_string(), &file).expect("it reads back");
        assert_eq!(again, document, "{name}");
    }
    assert_eq!(versions, (1..=u64::from(SCHEMA)).collect(), "an example of every version");
}

/// The schema is known by its id, in which the version is that of the documents.
#[test]
fn the_schema_has_an_id_with_its_version() {
    let text = fs::read_to_string(results_folder().join("schema.json")).expect("readable");
    let schema: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(schema["$id"], json!(format!("urn:sparring:session:{SCHEMA}")));
    assert_eq!(schema["properties"]["schema"]["const"], json!(SCHEMA));
}

#[test]
fn unknown_fields_are_valid() {
    let mut value = example_value();
    value["runs"][0]["server"]["cache_misses_per_message"] = json!(12);
    assert!(validator().is_valid(&value));
}

#[test]
fn shards_of_a_load_are_stored() {
    let mut document = example::document();
    let load_start = Utc::from_unix_ms(1_772_357_410_000);
    let clock = ClockOffset { low_ns: -3, high_ns: 4 };
    document.runs[0].shard = Some(ShardRecord {
        number: 2,
        count: 4,
        load_start,
        clock: Some(clock),
        clock_unknown: None,
    });
    let line = ShardLine {
        number: 1,
        counted: true,
        valid: true,
        machine: document.machine.id.clone(),
        connections: 16,
        received: 5,
        rate_per_s: 2.5,
        p99: None,
        lag_p99: Some(7),
        load_start,
        skew: Some(clock),
    };
    let other = ShardLine { skew: None, counted: false, number: 2, ..line.clone() };
    document.runs[1].shards = vec![line, other];
    let json = document.to_json().expect("the document is JSON");
    assert_eq!(parse(&json, Path::new("f.json")).expect("it reads"), document);
    let value: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(complaints(&validator(), &value), Vec::<String>::new());
}

#[test]
fn compression_of_a_run_is_stored() {
    let mut document = example::document();
    document.runs[0].compression = Some(example::compression(1000));
    let declined = Compression { sent_uncompressed: 7, ..Compression::default() };
    document.runs[1].compression = Some(declined);
    let parameters = &mut document.scenarios[0].parameters;
    (parameters.deflate, parameters.deflate_window_bits) = (Deflate::Takeover, 12);
    (parameters.deflate_memory_level, parameters.payload) = (9, Payload::TextJson);
    document.scenarios[0].rehash();
    let json = document.to_json().expect("the document is JSON");
    assert_eq!(parse(&json, Path::new("f.json")).expect("it reads"), document);
    let value: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(complaints(&validator(), &value), Vec::<String>::new());
    assert_eq!(value["runs"][1]["compression"]["agreed"], Value::Null);
    let load = document.scenarios[0].parameters.clone();
    let run = document.runs.remove(0);
    assert_eq!(run.clone().compact(&load).compression, run.compression);
}

#[test]
fn own_messages_of_a_run_are_stored() {
    let file = json!({ "bytes": 40, "sha256": "0".repeat(64) });
    let parameters = json!({
        "payload_file": file, "payload_lines": file, "payload_order": "random", "template": true,
        "match": "id:a.0=b", "skip_first": 2, "first_message": "secret", "expect_first": "secret",
    });
    let mut document = example::document();
    document.scenarios[0].parameters = serde_json::from_value(parameters).expect("a load");
    document.scenarios[0].rehash();
    let run = &mut document.runs[0];
    run.message_cost = Some(MessageCost { build_ns: 80.5, check_ns: 120.0 });
    run.latency_ns.first_messages = Some(run.latency_ns.corrected.clone());
    let text = document.to_json().expect("the document is JSON");
    assert!(!text.contains("secret"), "{text}");
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(complaints(&validator(), &value), Vec::<String>::new());
    let read = parse(&text, Path::new("f.json")).expect("it reads");
    assert_eq!(read.to_json().expect("the document is JSON"), text);
    let mut named = value;
    named["scenarios"][0]["parameters"]["payload_file"] = json!("/home/me/orders.json");
    assert!(!validator().is_valid(&named), "a path");
}

/// Hash of the default load before there was compression. Sessions of before compare with those of
/// after.
#[test]
fn scenarios_without_compression_keep_their_hash() {
    let scenario = Scenario::new("echo", Load::default(), Setting::default(), Setting::default());
    assert_eq!(scenario.hash, "7e1fb4076125");
}

/// Kibibytes of the largest session of each suite. `engines` has 432 runs, `peers` 546.
const LIMITS: [(&str, usize); 3] = [("quick", 60), ("engines", 500), ("peers", 600)];

#[test]
fn committed_sessions_stay_small() {
    for file in files_in(&results_folder()) {
        let text = fs::read_to_string(&file).expect("the result is readable");
        let document = parse(&text, &file).expect("the result reads");
        let limit =
            LIMITS.iter().find(|(suite, _)| document.session.suite.as_deref() == Some(suite));
        let bytes = text.len();
        assert!(
            limit.is_none_or(|(_, kib)| bytes <= kib * 1024),
            "{}: {bytes} bytes",
            file.display()
        );
    }
}

#[test]
fn a_quick_session_of_six_rounds_stays_below_60_kib() {
    let mut document = example::document();
    let load = document.scenarios[0].parameters.clone();
    document.runs = (0..48).map(|_| example::run("echo", 400_000).compact(&load)).collect();
    document.scenarios = (0..8).map(|_| document.scenarios[0].clone()).collect();
    let bytes = document.to_json().expect("the document is JSON").len();
    assert!(bytes <= 60 * 1024, "{bytes} bytes");
}

#[test]
fn a_compact_session_is_read_back() {
    let mut document = example::document();
    let scenarios = document.scenarios.iter();
    let loads: Vec<_> = scenarios.map(|scenario| scenario.parameters.clone()).collect();
    document.runs =
        document.runs.into_iter().zip(&loads).map(|(run, load)| run.compact(load)).collect();
    let json = document.to_json().expect("the document is JSON");
    assert_eq!(parse(&json, Path::new("f.json")).expect("it reads"), document);
    let value: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(complaints(&validator(), &value), Vec::<String>::new());
}

/// Fields that an earlier build of this schema wrote out have their defaults where they are absent.
#[test]
fn fields_with_their_defaults_may_be_written_out() {
    let document = example::document();
    let mut value = example_value();
    let run = &mut value["runs"][0];
    let none = ["connect", "handshake", "protocol", "closed", "io", "timeout"];
    run["errors"] = none.iter().map(|error| ((*error).to_owned(), json!(0))).collect();
    (run["invalid_reasons"], run["interrupted"], run["censored"]) =
        (json!([]), json!(false), Value::Null);
    let empty = json!({ "count": 0, "mean": 0.0, "p50": null, "p90": null, "p99": null, "p99_9": null,
                        "p99_99": null, "max": 0, "hdr": null });
    (run["latency_ns"]["lag"], run["latency_ns"]["tls_handshake"]) = (empty, Value::Null);
    assert_eq!(parse(&value.to_string(), Path::new("f.json")).expect("it reads"), document);
}

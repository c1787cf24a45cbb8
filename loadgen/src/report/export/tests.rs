//! Formats against the schemas and the grammars of their readers. `tests/program/exported.rs` has
//! the readers themselves.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::compare::example::{controlled, duel};
use crate::compare::sides::default_thresholds;
use crate::result::{
    Conclusion, Count, Document, GoalJudgement, Goals, SessionKind, SessionVerdict, Utc, example,
};

fn exported(document: Document, format: ExportFormat) -> String {
    let stored = Stored { path: "r/m/f.json".into(), document };
    export(&[stored], format, |_| Ok(Blocks::default().title("a session"))).expect("exported")
}

fn judged(mut document: Document) -> Document {
    let conclusion = Conclusion::of_arms(&document, &default_thresholds);
    document.verdict = Some(SessionVerdict::Comparison(conclusion));
    document
}

/// The schema that Bencher publishes, and what its documentation says about names and slugs.
#[test]
fn bmf_follows_its_schema() {
    let metric = json!({
        "type": "object",
        "required": ["value"],
        "properties": {
            "value": { "type": "number" },
            "lower_value": { "type": "number" },
            "upper_value": { "type": "number" }
        }
    });
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema",
        "type": "object",
        "minProperties": 1,
        "propertyNames": { "maxLength": 1024, "minLength": 1 },
        "additionalProperties": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": { "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "maxLength": 64 },
            "additionalProperties": metric
        }
    });
    for document in [example::document(), duel(8, 1.1), controlled(8, 1.0, 1.1)] {
        let value: Value =
            serde_json::from_str(&exported(document, ExportFormat::Bmf)).expect("JSON");
        jsonschema::validate(&schema, &value).expect("the schema");
    }
    let value: Value =
        serde_json::from_str(&exported(duel(8, 1.1), ExportFormat::Bmf)).expect("JSON");
    let cpu = &value["echo/B"]["server-cpu"];
    let figure = |key: &str| cpu[key].as_f64().expect("a number");
    assert!(figure("lower_value") <= figure("value") && figure("value") <= figure("upper_value"));
    assert!((4_400.0..4_450.0).contains(&figure("value")), "{cpu}");
}

#[test]
fn github_action_benchmark_has_a_file_for_each_direction() {
    let schema = json!({
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "required": ["name", "unit", "value"],
            "properties": {
                "name": { "type": "string", "minLength": 1 },
                "unit": { "type": "string", "minLength": 1 },
                "value": { "type": "number" },
                "range": { "type": "string" },
                "extra": { "type": "string" }
            },
            "additionalProperties": false
        }
    });
    let names = |is_bigger_better| {
        let format = ExportFormat::GithubActionBenchmark { is_bigger_better };
        let value: Value = serde_json::from_str(&exported(duel(8, 1.1), format)).expect("JSON");
        jsonschema::validate(&schema, &value).expect("the schema");
        let names = value.as_array().expect("an array").iter();
        names.map(|one| one["name"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(true), ["echo/A throughput", "echo/B throughput"]);
    let smaller = names(false);
    assert!(smaller.contains(&"echo/B server-cpu".to_owned()), "{smaller:?}");
    assert!(smaller.iter().all(|name| !name.ends_with("throughput")));
}

/// Returns the elements of XML with their attributes, after reading all of it.
fn elements(xml: &str) -> Vec<(String, Vec<(String, String)>)> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(xml);
    let mut found = Vec::new();
    loop {
        match reader.read_event().expect("well-formed") {
            Event::Eof => return found,
            Event::Start(element) | Event::Empty(element) => {
                let attributes = element.attributes().map(|attribute| {
                    let attribute = attribute.expect("an attribute");
                    let value = attribute
                        .normalized_value(quick_xml::XmlVersion::Implicit1_0)
                        .expect("escaped");
                    let key = attribute.key.as_ref();
                    (key.to_string(), value.into_owned())
                });
                found.push((element.name().as_ref().to_owned(), attributes.collect()));
            }
            _ => {}
        }
    }
}

fn outcomes(document: Document) -> Vec<String> {
    let elements = elements(&exported(document, ExportFormat::Junit));
    let mut outcomes: Vec<String> = Vec::new();
    for (name, attributes) in elements {
        let value = |key: &str| {
            attributes.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
        };
        match name.as_str() {
            "testcase" => outcomes.push(format!("{} {}", value("classname"), value("name"))),
            "failure" | "skipped" => {
                let last = outcomes.last_mut().expect("within a case");
                last.push_str(&format!(" {name}: {}", value("message")));
            }
            _ => {}
        }
    }
    outcomes
}

#[test]
fn junit_has_a_failure_for_each_regressed_metric() {
    let cases = outcomes(judged(controlled(10, 1.0, 1.06)));
    let failed: Vec<&String> = cases.iter().filter(|case| case.contains(" failure: ")).collect();
    assert_eq!(failed.len(), 1, "{cases:?}");
    let start = "echo server-cpu: head against base failure: regressed by +6.";
    assert!(failed[0].starts_with(start), "{failed:?}");
    assert!(cases.contains(&"control placebo: base against itself".to_owned()), "{cases:?}");
    assert!(cases.contains(&"echo valid runs of head".to_owned()), "{cases:?}");
    let equal = outcomes(judged(controlled(10, 1.0, 1.0)));
    assert!(equal.iter().all(|case| !case.contains(" failure: ")), "{equal:?}");
}

#[test]
fn junit_has_no_failure_where_the_runner_cannot_tell() {
    let cases = outcomes(judged(controlled(10, 1.1, 1.3)));
    assert!(cases.iter().all(|case| !case.contains(" failure: ")), "{cases:?}");
    let told = "control placebo: base against itself skipped: head against base: THIS RUNNER";
    assert!(cases.iter().any(|case| case.starts_with(told)), "{cases:?}");
}

#[test]
fn junit_names_missed_goals_and_scenarios_without_a_valid_run() {
    let mut document = example::document();
    document.runs.iter_mut().for_each(|run| {
        run.valid = false;
        run.invalid_reasons = vec!["a < b & \"c\"\u{1b}[0m".to_owned()];
    });
    let threshold = |threshold: &str, met| GoalJudgement {
        threshold: threshold.to_owned(),
        value: None,
        met,
        text: "p99 is 3 ms".to_owned(),
        at_least: false,
    };
    let thresholds = vec![threshold("p99<2ms", false), threshold("errors<1", true)];
    let goals = Goals { met: false, thresholds, find_rate: None };
    document.verdict = Some(SessionVerdict::Goals(goals));
    let cases = outcomes(document);
    let invalid = "echo valid runs failure: no valid run in 1 run: a < b & \"c\"[0m";
    assert_eq!(cases[0], invalid);
    assert_eq!(cases[2..], ["echo p99<2ms failure: p99 is 3 ms", "echo errors<1"]);
}

#[test]
fn openmetrics_has_types_base_units_times_and_an_end() {
    let mut document = duel(8, 1.1);
    document.arms[1].name = "a\"b\\c".to_owned();
    document.runs.iter_mut().filter(|run| run.arm == "B").for_each(|run| {
        run.arm = "a\"b\\c".to_owned();
    });
    let text = exported(document, ExportFormat::OpenMetrics);
    let time = "1772357400.000";
    let line =
        "sparring_server_cpu_seconds_per_message{scenario=\"echo\",arm=\"a\\\"b\\\\c\"} 0.00000";
    assert!(text.lines().any(|one| one.starts_with(line) && one.ends_with(time)), "{text}");
    assert!(text.contains("# TYPE sparring_latency_p99_seconds gauge\n"), "{text}");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let types: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let unique: std::collections::BTreeSet<_> = types.iter().collect();
    assert_eq!(types.len(), unique.len(), "each family once");
}

#[test]
fn otava_csv_has_a_row_for_each_session_and_no_empty_cell() {
    let session = |day: u64, change: fn(&mut Document)| {
        let mut document = example::document();
        document.session.start = Utc::from_unix_ms(1_772_357_400_000 + day * 86_400_000);
        change(&mut document);
        Stored { path: format!("{day}.json").into(), document }
    };
    let without_server = |document: &mut Document| document.runs[0].server = None;
    let odd = |document: &mut Document| document.machine.id = "a,\"b\"".to_owned();
    let sessions = [session(2, odd), session(0, |_| {}), session(1, without_server)];
    let series = Series::of(&sessions).expect("figures in common");
    assert!(series.left_out() > 0);
    let csv = series.csv().expect("CSV");
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let header: Vec<String> =
        reader.headers().expect("a header").iter().map(str::to_owned).collect();
    assert_eq!(header[..3], ["time", "commit", "machine"]);
    assert!(header.contains(&"echo p99".to_owned()), "{header:?}");
    assert!(!header.contains(&"echo server-cpu".to_owned()), "{header:?}");
    let rows: Vec<csv::StringRecord> =
        reader.records().collect::<Result<_, _>>().expect("rows of one length");
    assert_eq!(rows.len(), 3);
    assert!(rows.windows(2).all(|two| two[0][0] < two[1][0]), "oldest first");
    assert!(rows.iter().flat_map(|row| row.iter()).all(|cell| !cell.is_empty()));
    assert_eq!(&rows[2][2], "a,\"b\"");
}

#[test]
fn what_has_no_figure_is_refused_and_named() {
    let mut document = example::document();
    document.runs.iter_mut().for_each(|run| run.valid = false);
    let stored = Stored { path: "r/m/f.json".into(), document };
    let export = |sessions: &[Stored], format| export(sessions, format, |_| Ok(Blocks::default()));
    let one = std::slice::from_ref(&stored);
    let error = export(one, ExportFormat::Bmf).expect_err("nothing").to_string();
    assert!(error.starts_with("r/m/f.json has no valid run"), "{error}");
    assert!(export(one, ExportFormat::OtavaCsv).is_err());
    assert!(export(&[stored.clone(), stored], ExportFormat::Junit).is_err());
}

#[test]
fn counted_instructions_are_figures() {
    let path = Path::new("schema_1.json");
    let mut document = example::document();
    (document.session.kind, document.runs) = (SessionKind::Count, Vec::new());
    document.counts = vec![Count {
        scenario: "echo".to_owned(),
        counter: "instructions".to_owned(),
        per_message: 479.5,
        messages: 9,
    }];
    let stored = Stored { path: path.to_owned(), document };
    let text = export(&[stored], ExportFormat::OpenMetrics, |_| Ok(Blocks::default()));
    let text = text.expect("exported");
    let line = "sparring_server_instructions_per_message{scenario=\"echo\"} 479.5 ";
    assert!(text.contains(line), "{text}");
}

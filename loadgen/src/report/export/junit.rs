//! A session's verdict as JUnit XML: test cases that CI systems show.
//!
//! Each judged metric, each threshold and the runs of each scenario are a case. Regressed is a
//! failure, inconclusive is skipped.

use std::io;

use anyhow::Context as _;
use quick_xml::events::{BytesDecl, BytesText, Event};
use quick_xml::writer::Writer;

use crate::compare::sides::is_sound;
use crate::format::count;
use crate::report::text::comparison::{headline, shown_change};
use crate::result::{Conclusion, Document, Judgement, SessionVerdict, Verdict};

enum Outcome {
    Passed,
    Failed { kind: &'static str, why: String },
    Skipped(String),
}

struct Case {
    /// The scenario.
    class: String,
    name: String,
    outcome: Outcome,
}

/// Returns the test cases of a session as XML.
pub(super) fn junit(document: &Document) -> anyhow::Result<String> {
    let judged = match &document.verdict {
        Some(SessionVerdict::Comparison(conclusion)) => of_comparison(conclusion),
        Some(SessionVerdict::Goals(goals)) => {
            let scenario = document.scenarios.first().map_or("run", |one| one.name.as_str());
            let case = |goal: &crate::result::GoalJudgement| Case {
                class: scenario.to_owned(),
                name: goal.threshold.clone(),
                outcome: if goal.met {
                    Outcome::Passed
                } else {
                    failed("missed", goal.text.clone())
                },
            };
            goals.thresholds.iter().map(case).collect()
        }
        _ => Vec::new(),
    };
    let cases: Vec<Case> = of_runs(document).into_iter().chain(judged).collect();
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    write(&mut writer, document, &cases).context("cannot write XML")?;
    Ok(String::from_utf8(writer.into_inner()).context("cannot write XML")? + "\n")
}

fn failed(kind: &'static str, why: String) -> Outcome {
    Outcome::Failed { kind, why }
}

fn of_comparison(conclusion: &Conclusion) -> Vec<Case> {
    let [a, b] = &conclusion.sides;
    let case = |judgement: &Judgement| {
        let outcome = match judgement.verdict? {
            Verdict::Regressed => failed("regressed", shown_change(judgement)),
            Verdict::Inconclusive => Outcome::Skipped(shown_change(judgement)),
            Verdict::Improved | Verdict::Unchanged => Outcome::Passed,
        };
        let name = format!("{}: {b} against {a}", judgement.metric.name());
        Some(Case { class: judgement.scenario.clone(), name, outcome })
    };
    let placebo = conclusion.placebo.as_ref().map(|placebo| Case {
        class: "control".to_owned(),
        name: format!("{}: {a} against itself", placebo.name),
        outcome: match placebo.cannot_tell() {
            true => Outcome::Skipped(headline(conclusion)),
            false => Outcome::Passed,
        },
    });
    conclusion.judgements.iter().filter_map(case).chain(placebo).collect()
}

/// Returns a case for the runs of each scenario and arm, which need one that is valid.
fn of_runs(document: &Document) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for run in &document.runs {
        let arm = if document.arms.is_empty() { String::new() } else { format!(" of {}", run.arm) };
        let name = format!("valid runs{arm}");
        if cases.iter().any(|case| case.class == run.scenario && case.name == name) {
            continue;
        }
        let runs = document.runs_of(&run.scenario, &run.arm);
        let outcome = match runs.iter().any(|run| is_sound(run)) {
            true => Outcome::Passed,
            false => {
                let reasons = runs.iter().flat_map(|run| &run.invalid_reasons);
                let why = reasons.last().cloned().unwrap_or_else(|| "interrupted".to_owned());
                failed(
                    "invalid",
                    format!("no valid run in {}: {why}", count(runs.len() as u64, "run")),
                )
            }
        };
        cases.push(Case { class: run.scenario.clone(), name, outcome });
    }
    cases
}

fn write(writer: &mut Writer<Vec<u8>>, document: &Document, cases: &[Case]) -> io::Result<()> {
    let session = &document.session;
    let name = session.tag.as_ref().or(session.suite.as_ref());
    let name = format!("sparring {}", name.map_or("session", String::as_str));
    let (tests, failures, skipped) = (
        cases.len().to_string(),
        cases.iter().filter(|case| matches!(case.outcome, Outcome::Failed { .. })).count(),
        cases.iter().filter(|case| matches!(case.outcome, Outcome::Skipped(_))).count(),
    );
    let (failures, skipped) = (failures.to_string(), skipped.to_string());
    let time = format!("{:.3}", session.duration_ns as f64 / 1e9);
    let start = session.start.to_string();
    let totals =
        [("tests", tests.as_str()), ("failures", &failures), ("errors", "0"), ("time", &time)];
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let suites = writer.create_element("testsuites").with_attributes(totals);
    suites.write_inner_content(|writer| {
        let suite = writer
            .create_element("testsuite")
            .with_attribute(("name", legal(&name).as_str()))
            .with_attributes(totals)
            .with_attributes([
                ("skipped", skipped.as_str()),
                ("timestamp", start.trim_end_matches('Z')),
            ]);
        suite.write_inner_content(|writer| {
            cases.iter().try_for_each(|case| write_case(writer, case))
        })?;
        Ok(())
    })?;
    Ok(())
}

fn write_case(writer: &mut Writer<Vec<u8>>, case: &Case) -> io::Result<()> {
    let (class, name) = (legal(&case.class), legal(&case.name));
    let element = writer.create_element("testcase").with_attributes([
        ("classname", class.as_str()),
        ("name", &name),
        ("time", "0"),
    ]);
    match &case.outcome {
        Outcome::Passed => element.write_empty()?,
        Outcome::Skipped(why) => element.write_inner_content(|writer| {
            let why = legal(why);
            writer
                .create_element("skipped")
                .with_attribute(("message", why.as_str()))
                .write_empty()?;
            Ok(())
        })?,
        Outcome::Failed { kind, why } => element.write_inner_content(|writer| {
            let why = legal(why);
            let failure = writer.create_element("failure");
            let failure = failure.with_attributes([("type", *kind), ("message", why.as_str())]);
            failure.write_text_content(BytesText::new(&why))?;
            Ok(())
        })?,
    };
    Ok(())
}

/// Returns a text without the control characters that XML 1.0 does not allow.
fn legal(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

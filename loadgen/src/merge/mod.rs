//! Merging of the documents of shards (`run --shard`) into the document of their whole load.
//!
//! `combine` adds counts and histograms, so that percentiles are those of all samples together.
//! `judge` tells whether the shards were one load at one time. A shard that cannot be added is left
//! out, and the whole is invalid.

mod combine;
mod judge;
mod stages;

use std::collections::BTreeMap;

use thiserror::Error;

use crate::load::Load;
use crate::result::{
    Document, HistogramError, InvalidKind, Run, SCHEMA, Scenario, Session, SessionKind, Setting,
    ShardRecord,
};
use crate::target::subject::argv;

/// Documents that cannot be merged.
#[derive(Debug, Error)]
pub(crate) enum MergeError {
    /// A matter of usage.
    #[error(
        "{0} is not the document of a shard: \
         expected one of `run --shard I/N --json FILE`, with one run"
    )]
    NotAShard(String),
    #[error("{file}: {source}")]
    Histogram { file: String, source: HistogramError },
    #[error("{0} has figures without their histogram, which cannot be added")]
    NoHistogram(String),
}

/// The document of one shard.
#[derive(Clone, Debug)]
struct Part {
    /// The name of its file.
    file: String,
    document: Document,
    shard: ShardRecord,
}

impl Part {
    fn new((file, document): (String, Document)) -> Result<Self, MergeError> {
        let shard = match &document.runs[..] {
            [run] => run.shard.clone().filter(|_| document.scenario(&run.scenario).is_some()),
            _ => None,
        };
        match shard {
            Some(shard) => Ok(Self { file, document, shard }),
            None => Err(MergeError::NotAShard(file)),
        }
    }

    fn run(&self) -> &Run {
        &self.document.runs[0]
    }

    fn scenario(&self) -> &Scenario {
        let named = self.document.scenario(&self.run().scenario);
        named.unwrap_or(&self.document.scenarios[0])
    }

    fn load(&self) -> &Load {
        &self.scenario().parameters
    }

    fn name(&self) -> String {
        format!("shard {}", self.shard.name())
    }

    fn is_like(&self, other: &Self) -> bool {
        self.shard.count == other.shard.count && self.load() == other.load()
    }
}

/// Reasons why the whole is not valid.
type Reasons = Vec<(InvalidKind, String)>;

/// Merges documents, each with the name of its file, in any order.
pub(crate) fn merge(
    documents: Vec<(String, Document)>,
    tag: Option<String>,
) -> Result<Document, MergeError> {
    let parts = documents.into_iter().map(Part::new).collect::<Result<Vec<_>, _>>()?;
    let (counted, left_out, mut reasons) = sorted(parts);
    let mut run = combine::combined(&counted)?;
    let lines = combine::lines(&counted, &left_out);
    reasons.extend(judge::reasons(&counted));
    run.shards = lines;
    run.notes = judge::notes(&counted);
    run.valid = reasons.is_empty();
    (run.invalid_kinds, run.invalid_reasons) = reasons.into_iter().unzip();
    Ok(document(&counted, run, tag))
}

/// Returns the parts that are added, by their numbers, those that are left out, and the reasons why
/// they are, and why others are missing.
fn sorted(parts: Vec<Part>) -> (Vec<Part>, Vec<Part>, Reasons) {
    let reference = usual(&parts).clone();
    let (mut reasons, mut left_out) = (Vec::new(), Vec::new());
    let mut counted = BTreeMap::<u32, Part>::new();
    for part in parts {
        if !part.is_like(&reference) {
            let reason = format!("{} {}", part.name(), difference(&part, &reference));
            reasons.push((InvalidKind::OtherLoad, reason));
        } else if let Some(first) = counted.get(&part.shard.number) {
            let (name, files) = (part.name(), [&first.file, &part.file]);
            let reason = format!("{name} is there twice ({} and {})", files[0], files[1]);
            reasons.push((InvalidKind::RepeatedShard, reason));
        } else {
            counted.insert(part.shard.number, part);
            continue;
        }
        left_out.push(part);
    }
    let count = reference.shard.count;
    let is_there = |number: &u32| {
        let is_left_out = |part: &Part| part.shard.count == count && part.shard.number == *number;
        counted.contains_key(number) || left_out.iter().any(is_left_out)
    };
    let missing: Vec<u32> = (1..=count).filter(|number| !is_there(number)).collect();
    if !missing.is_empty() {
        reasons.insert(0, (InvalidKind::MissingShard, missing_shards(&missing, count)));
    }
    (counted.into_values().collect(), left_out, reasons)
}

/// Returns a part of the load that most of them have; of two loads as frequent, the first.
fn usual(parts: &[Part]) -> &Part {
    let alike = |part: &Part| parts.iter().filter(|other| part.is_like(other)).count();
    let mut usual = &parts[0];
    for part in parts {
        if alike(part) > alike(usual) {
            usual = part;
        }
    }
    usual
}

/// Describes the difference of a part from the others.
fn difference(part: &Part, reference: &Part) -> String {
    let (own, others) = (part.shard.count, reference.shard.count);
    if own != others {
        return format!("is one of {own} shards, and the others are of {others}");
    }
    let fields = |part: &Part| match serde_json::to_value(part.load()) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (own, others) = (fields(part), fields(reference));
    let names: std::collections::BTreeSet<_> = own.keys().chain(others.keys()).collect();
    let shown = |value: Option<&serde_json::Value>| {
        value.map_or_else(|| "not set".to_owned(), ToString::to_string)
    };
    let different = names.into_iter().filter(|name| own.get(*name) != others.get(*name));
    let different = different
        .map(|name| format!("{name} is {}, not {}", shown(own.get(name)), shown(others.get(name))));
    format!("had another load: {}", different.collect::<Vec<_>>().join(", "))
}

fn missing_shards(missing: &[u32], count: u32) -> String {
    const NAMED: usize = 10;
    let names: Vec<String> =
        missing.iter().take(NAMED).map(|number| format!("{number}/{count}")).collect();
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match &names[..] {
        [name] => format!("shard {name} is missing"),
        names => format!("shards {}{more} are missing", names.join(", ")),
    }
}

/// Returns the value that all have, if there is one.
fn common<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// Returns each value once, in its first place.
fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut kept = Vec::new();
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

fn document(counted: &[Part], run: Run, tag: Option<String>) -> Document {
    let first = &counted[0];
    let documents = || counted.iter().map(|part| &part.document);
    let generators = || counted.iter().map(|part| &part.scenario().generator);
    let generator = Setting {
        engine: common(generators().map(|setting| setting.engine.clone())).flatten(),
        threads: generators().map(|setting| setting.threads).sum(),
        congestion: common(generators().map(|setting| setting.congestion.clone())).flatten(),
        proxy: None,
    };
    let parameters = first.load().clone();
    let scenario = Scenario::new(&run.scenario, parameters, generator, Setting::default());
    let mut marks = distinct(documents().flat_map(|document| &document.session.marks).cloned());
    if common(documents().map(|document| &document.machine.id)).is_none() {
        marks.push("the shards ran on machines of several kinds".to_owned());
    }
    let build = |document: &Document| (document.tool.commit.clone(), document.tool.build.clone());
    if common(documents().map(build)).is_none() {
        marks.push("the shards ran several builds of the generator".to_owned());
    }
    let sessions = || documents().map(|document| &document.session);
    let start = sessions().map(|session| session.start).min().unwrap_or(run.start);
    Document {
        schema: SCHEMA,
        tool: first.document.tool.clone(),
        subject: first.document.subject.clone(),
        arms: Vec::new(),
        machine: first.document.machine.clone(),
        session: Session {
            kind: SessionKind::Single,
            argv: argv(std::env::args_os()),
            suite: None,
            experiment: None,
            tag,
            start,
            duration_ns: sessions().map(|session| session.duration_ns).max().unwrap_or(0),
            order: "shards".to_owned(),
            interrupted: run.interrupted,
            marks,
        },
        scenarios: vec![scenario],
        runs: vec![run],
        counts: Vec::new(),
        verdict: None,
    }
}

#[cfg(test)]
mod tests;

//! A session as the command that made it shows it, and what is known of it beside its figures.

use super::notes::notes;
use super::{comparison, peers, proxied, run, side_by_side, summary};
use crate::compare::Conclusion;
use crate::format::{commit, count, grouped, share};
use crate::host::machine::Machine;
use crate::load::{Arrival, Deflate, Load, Match, Payload, PayloadOrder, Transport};
use crate::report::{Blocks, Field, Table};
use crate::result::{Count, Document, Presentation, SessionKind, SessionVerdict, Stored};
use crate::target::subject::Subject;

/// Returns a session as its command shows it. `comparison` is that of its two sides, where it has
/// two.
pub(crate) fn session(document: &Document, comparison: Option<&Conclusion>) -> Blocks {
    match document.session.kind {
        SessionKind::Count => return Blocks::default().table(counts(document)),
        SessionKind::Single => return run(document, &[]),
        SessionKind::Ab | SessionKind::Aa | SessionKind::Suite => {}
    }
    match document.show() {
        Presentation::Verdict => {
            let compared = comparison.map(comparison::comparison).unwrap_or_default();
            compared.notes(notes(document)).then(proxied::proxied(document))
        }
        Presentation::Noise => noise(document).notes(notes(document)),
        Presentation::Figures | Presentation::Correctness => summary::summary(document),
        Presentation::Peers => {
            peers::each(document).title("all of them").then(peers::over_all(document))
        }
        Presentation::Arms => side_by_side::side_by_side(document).then(proxied::proxied(document)),
    }
}

/// Returns a session with its most telling table first, for a page that is read from its top.
pub(crate) fn leading(document: &Document) -> Blocks {
    if document.show() == Presentation::Peers {
        peers::over_all(document).then(peers::each(document))
    } else {
        session(document, None)
    }
}

/// Returns a stored session with its file and what is known of its servers and its machine.
pub(crate) fn stored(stored: &Stored, comparison: Option<&Conclusion>) -> Blocks {
    Blocks::default()
        .title(stored.path.display().to_string())
        .fields(fields(&stored.document))
        .then(session(&stored.document, comparison))
}

/// Returns what is known of a session beside its figures.
pub(crate) fn fields(document: &Document) -> Vec<Field> {
    let Document { session, machine, tool, arms, subject, .. } = document;
    let tag = session.tag.as_ref().map(|tag| format!(", tag {tag}")).unwrap_or_default();
    let mut fields = vec![
        Field::new(
            "measured",
            format!("{}, {:.0} s{tag}", session.start, session.duration_ns as f64 / 1e9),
        ),
        Field::new(
            "machine",
            format!("{}, load {:.2} at the start", self::machine(machine), machine.load_at_start),
        ),
        Field::new(
            "generator",
            format!(
                "{} {} (commit {}, {}, engine {})",
                tool.name,
                tool.version,
                commit(tool.commit.as_deref()),
                tool.build,
                tool.engine
            ),
        ),
    ];
    fields.extend(session.command().map(|command| Field::new("command", command)));
    if arms.is_empty() {
        fields.push(Field::new("server", server(subject)));
    }
    fields.extend(arms.iter().map(|arm| Field::new(&arm.name, server(&arm.subject))));
    fields
}

/// Returns the machine in a line, without its load at a time.
pub(crate) fn machine(machine: &Machine) -> String {
    let Machine { id, cpu, cores, threads, memory_bytes, kernel, governor, virtualisation, .. } =
        machine;
    let governor = governor.as_ref().map(|name| format!(", governor {name}")).unwrap_or_default();
    format!(
        "{id} ({cpu}, {}, {}, {:.0} GiB, {virtualisation}{governor}, Linux {kernel})",
        count((*cores).into(), "core"),
        count((*threads).into(), "thread"),
        *memory_bytes as f64 / f64::from(1 << 30),
    )
}

pub(crate) fn server(subject: &Subject) -> String {
    let command = subject.command.as_deref().unwrap_or("not started by the generator");
    let dirty = if subject.dirty == Some(true) { " with changes" } else { "" };
    let build = subject.build.as_ref().map(|build| format!(", {build}")).unwrap_or_default();
    let engine =
        subject.engine.as_ref().map(|engine| format!(", engine {engine}")).unwrap_or_default();
    format!("{command} (commit {}{dirty}{build}{engine})", commit(subject.commit.as_deref()))
}

pub(crate) fn load(load: &Load) -> String {
    let size = match load.message_bytes.weighted() {
        [(bytes, _)] if *bytes >= 1024 && bytes % 1024 == 0 => format!("{} KiB", bytes / 1024),
        [(1, _)] => "1 byte".to_owned(),
        _ => format!("{} bytes", load.message_bytes),
    };
    let size = match (&load.payload_file, &load.payload_lines) {
        (Some(_), _) => format!("a file of {size}"),
        (None, Some(_)) => format!("lines of {size} on average"),
        (None, None) => size,
    };
    let kind = match (load.transport, load.payload) {
        (Transport::Tcp, _) => "a raw stream",
        (_, Payload::Binary) => "binary",
        _ if load.has_own_messages() => "text",
        (_, Payload::TextAscii) => "ASCII text",
        (_, Payload::TextMixed) => "text of mixed scripts",
        (_, Payload::TextJson) => "JSON",
    };
    let deflate = match load.deflate {
        Deflate::Off => "",
        Deflate::On => ", compressed",
        Deflate::Takeover => ", compressed with context takeover",
    };
    let arrival = Some(load.arrival).filter(|arrival| *arrival != Arrival::default());
    let arrival = arrival.map(|arrival| format!(" ({arrival})")).unwrap_or_default();
    let rate = match (&load.stages, load.rate_per_s) {
        (Some(stages), _) => format!(", stages {stages}{arrival}"),
        (None, Some(rate)) => format!(", {} messages a second{arrival}", grouped(rate)),
        (None, None) => format!(" x {}", load.pipeline),
    };
    let idle = match load.idle {
        0 => String::new(),
        idle => format!(", beside {} idle connections", grouped(idle.into())),
    };
    let order = match load.payload_order {
        PayloadOrder::InTurn => "",
        PayloadOrder::Random => " in random order",
    };
    let template = if load.template && load.has_own_messages() { " with placeholders" } else { "" };
    let matching = match &load.matching {
        Match::Echo => String::new(),
        other => format!(", answers matched by {other}"),
    };
    let first = if load.has_first_messages() { ", after first messages" } else { "" };
    let tls = match (load.transport, load.tls_resume_percent) {
        (Transport::Wss, 0) => " over TLS".to_owned(),
        (Transport::Wss, percent) => format!(" over TLS ({percent} % resumed)"),
        _ => String::new(),
    };
    let connections = count(load.connections.into(), "connection");
    format!(
        "{connections}{tls}{rate}, {size} of {kind}{order}{template}{deflate}{matching}{first}{idle}"
    )
}

fn noise(document: &Document) -> Blocks {
    let noises = match &document.verdict {
        Some(SessionVerdict::Comparison(conclusion)) => &conclusion.noise[..],
        _ => &[],
    };
    let header = ["scenario", "metric", "pairs recorded", "noise", "smallest threshold"];
    let rows = noises.iter().map(|noise| {
        let default = noise.metric.default_threshold();
        let from = if 2.0 * noise.p95 > default { "" } else { " (default)" };
        [
            noise.scenario.clone(),
            noise.metric.name().to_owned(),
            noise.recorded.to_string(),
            share(noise.p95, 1),
            share(default.max(2.0 * noise.p95), 1) + from,
        ]
    });
    let table = Table::new(header, 2, [2]).rows(rows);
    let pairs = noises.first().map_or(0, |noise| noise.pairs);
    Blocks::default().table(table).legend(vec![format!(
        "noise: in 95 of 100 duels of {pairs} pairs between identical servers the estimate stays within it"
    )])
}

fn counts(document: &Document) -> Table {
    let row = |one: &Count| {
        let bytes = document.scenario(&one.scenario);
        let bytes = bytes.map_or_else(String::new, |scenario| {
            let Load { message_bytes, pipeline, .. } = &scenario.parameters;
            format!("{message_bytes} bytes, {pipeline} to a read")
        });
        [format!("{} {}", one.scenario, one.counter), bytes, format!("{:.1}", one.per_message)]
    };
    let table = Table::new(["counted", "of a message of", "per message"], 2, []);
    table.rows(document.counts.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::compare::noise::of_session;
    use crate::compare::{Conclusion, Threshold, ThresholdSource};
    use crate::experiment::built_in;
    use crate::report::Format;
    use crate::result::{Scenario, example};

    const WIDE: Format = Format::Terminal { width: 120 };

    fn shown(document: Document) -> String {
        let comparison = Conclusion::of_arms(&document, &crate::compare::sides::default_thresholds);
        let path = "r/m/f.json".into();
        stored(&Stored { path, document }, Some(&comparison)).render(Format::Terminal { width: 80 })
    }

    #[test]
    fn a_session_is_shown_with_its_machine_and_its_servers() {
        let single = shown(example::document());
        for part in [
            "r/m/f.json\n",
            "2026-03-01",
            "AMD EPYC",
            "uring",
            "commit abcdef012345, release",
            "echo / tcp",
        ] {
            assert!(single.contains(part), "{part} not in {single}");
        }
        let duel = shown(duel(8, 1.06));
        assert!(
            duel.contains("\n  A          sparring-server") && duel.contains("REGRESSED"),
            "{duel}"
        );
    }

    #[test]
    fn a_duel_is_shown_with_the_thresholds_it_had() {
        let document = duel(8, 1.06);
        let given = |_: &Scenario, _| Threshold { relative: 0.25, source: ThresholdSource::Given };
        let conclusion = Conclusion::of_arms(&document, &given);
        let text = session(&document, Some(&conclusion)).render(WIDE);
        assert!(
            text.contains("UNCHANGED") && text.contains("25.0 %") && !text.contains(" 2.0 %"),
            "{text}"
        );
    }

    #[test]
    fn several_servers_are_shown_side_by_side() {
        let mut document = duel(8, 1.25);
        (document.session.kind, document.session.suite) =
            (SessionKind::Suite, Some("engines".to_owned()));
        for (arm, name) in document.arms.iter_mut().zip(["epoll", "uring"]) {
            let own = document.runs.iter_mut().filter(|run| run.arm == arm.name);
            own.for_each(|run| run.arm = name.to_owned());
            arm.name = name.to_owned();
        }
        let engines = built_in().into_iter().find(|one| one.name == "engines").expect("built in");
        document.session.experiment = Some(engines.record());
        let text = session(&document, None).render(Format::Terminal { width: 80 });
        assert!(
            text.contains("/ epoll's (95 %)") && text.contains("\nserver-cpu: uring / epoll "),
            "{text}"
        );
        assert!(
            text.lines().any(|line| line.starts_with("      ") && line.ends_with("regressed")),
            "{text}"
        );
        assert!(text.contains("MISSED"), "{text}");
    }

    #[test]
    fn every_kind_of_session_has_its_tables_in_markdown() {
        let mut noisy = duel(10, 1.0);
        noisy.session.kind = SessionKind::Aa;
        noisy.verdict =
            Some(SessionVerdict::Comparison(Conclusion::of_noise(of_session(&noisy, 8))));
        let mut counted = example::document();
        counted.session.kind = SessionKind::Count;
        counted.counts = vec![Count {
            scenario: "echo".to_owned(),
            counter: "instructions".to_owned(),
            per_message: 480.25,
            messages: 9,
        }];
        let mut single = example::document();
        single.session.kind = SessionKind::Single;
        let mut arms = duel(8, 1.0);
        arms.session.kind = SessionKind::Suite;
        let mut peers = arms.clone();
        peers.session.suite = Some("peers".to_owned());
        for document in [example::document(), duel(10, 1.0), noisy, counted, single, arms, peers] {
            let comparison =
                Conclusion::of_arms(&document, &crate::compare::sides::default_thresholds);
            let text = session(&document, Some(&comparison)).render(Format::Markdown);
            let mut lines = text.lines().skip_while(|line| !line.starts_with('|'));
            let (header, rule) = (lines.next().expect("a table"), lines.next().expect("a rule"));
            assert!(rule.starts_with("| ---"), "{text}");
            assert_eq!(header.matches('|').count(), rule.matches('|').count(), "{text}");
        }
    }

    #[test]
    fn loads_are_told_apart_in_a_line() {
        let rate = Load { rate_per_s: Some(2e4), connections: 1, idle: 5, ..Load::default() };
        assert_eq!(
            load(&rate),
            format!(
                "1 connection, 20,000 messages a second, {} bytes of binary, beside 5 idle connections",
                rate.message_bytes
            )
        );
        let staged = Load { stages: "10k:30s,0:5s".parse().ok(), ..Load::default() };
        assert_eq!(load(&staged), "64 connections, stages 10k:30s,0:5s, 32 bytes of binary");
        let raw = Load {
            transport: Transport::Tcp,
            message_bytes: 2048.into(),
            pipeline: 3,
            ..Load::default()
        };
        assert!(load(&raw).ends_with(" x 3, 2 KiB of a raw stream"), "{}", load(&raw));
        let json =
            Load { payload: Payload::TextJson, deflate: Deflate::Takeover, ..Load::default() };
        let own =
            Load { matching: "id:id".parse().expect("a rule"), skip_first: 1, ..Load::default() };
        let shown = load(&own);
        assert!(
            shown.ends_with(" of binary, answers matched by id:id, after first messages"),
            "{shown}"
        );
        let file = serde_json::json!({ "bytes": 40, "sha256": "0".repeat(64) });
        let file: Load = serde_json::from_value(serde_json::json!({
            "payload_lines": file, "message_bytes": 40, "payload": "text-mixed",
            "payload_order": "random", "template": true,
        }))
        .expect("a load");
        let shown = load(&file);
        let end = " lines of 40 bytes on average of text in random order with placeholders";
        assert!(shown.ends_with(end), "{shown}");
        let shown = load(&json);
        assert!(shown.ends_with(" of JSON, compressed with context takeover"), "{shown}");
    }
}

//! Other people's servers beside ours: a table for each scenario, one over all of them, and whose
//! comparison it is.

use super::notes::notes_where;
use super::sessions::load;
use super::side_by_side::{figures, first, header, relative};
use crate::compare::Metric;
use crate::compare::sides::is_sound;
use crate::compare::statistics::Estimate;
use crate::format::{count, grouped, latency, optional, us};
use crate::report::{Blocks, Table};
use crate::result::{Arm, Conformance, Document, InvalidKind, Run, Scenario, Summary, median};

/// Bias of the authors of the table.
const BIAS: &str = "\
BIAS: whoever wrote the first server also wrote this comparison, the generator, the battery, and the few lines around
every other library. One machine, loopback, one core for the server and one for the generator. The others follow their
libraries' examples, with the fastest build that we found documented; their authors may tune them better. Add a server,
or show a better one: scripts/peers.sh --server NAME=COMMAND; scripts/peers/README.md says how to correct one of these.";

pub(super) fn each(document: &Document) -> Blocks {
    let Some(first) = first(document) else { return Blocks::default() };
    document.scenarios.iter().fold(Blocks::default(), |blocks, scenario| {
        let about = format!("{}: {}", scenario.name, load(&scenario.parameters));
        blocks.title(about).table(scenario_table(document, scenario, first))
    })
}

/// Returns the table over all scenarios, with the versions, what is not valid, and whose comparison
/// it is.
pub(crate) fn over_all(document: &Document) -> Blocks {
    let Some(first) = first(document) else { return Blocks::default() };
    let mut notes = origin(document);
    notes.extend(remarks(document));
    notes.extend([String::new(), BIAS.to_owned()]);
    Blocks::default()
        .table(summary_table(document, first))
        .legend(legend(document, first))
        .notes(notes)
}

fn scenario_table(document: &Document, scenario: &Scenario, first: &str) -> Table {
    let is_idle = scenario.parameters.idle > 0;
    let mut header = header(&["server"], first);
    header.extend(is_idle.then(|| "bytes\n/conn".to_owned()));
    let columns = header.len();
    let row = |arm: &Arm| {
        let why = || vec![if arm.left_out.is_some() { "left out" } else { "no run" }.to_owned()];
        let figures =
            figures(document, scenario, [&arm.name, first], is_costed).unwrap_or_else(why);
        let mut row = [vec![arm.name.clone()], figures].concat();
        if is_idle && row.len() + 1 == columns {
            row.push(memory(scenario, &document.runs_of(&scenario.name, &arm.name)));
        }
        row.resize(columns, String::new());
        row
    };
    Table::new(header, 1, [3, 8, 6, 4, 2]).rows(document.arms.iter().map(row))
}

/// Growth of the server's memory for each connection, bytes.
fn memory(scenario: &Scenario, runs: &[&Run]) -> String {
    let sound = runs.iter().filter(|run| is_sound(run));
    let growth = sound.filter_map(|run| Metric::Memory.of(run, &scenario.parameters)).collect();
    median(growth).map_or("-".to_owned(), grouped)
}

/// The scenario that shows latencies.
fn at_a_rate(document: &Document) -> Option<&Scenario> {
    document.scenarios.iter().find(|scenario| scenario.parameters.is_open_loop())
}

/// The scenario that shows the memory of a connection.
fn mostly_idle(document: &Document) -> Option<&Scenario> {
    document.scenarios.iter().find(|scenario| scenario.parameters.idle > 0)
}

fn legend(document: &Document, first: &str) -> Vec<String> {
    let name =
        |scenario: Option<&Scenario>| scenario.map_or("none", |scenario| &scenario.name).to_owned();
    let (rate, idle) = (name(at_a_rate(document)), name(mostly_idle(document)));
    [
        format!(
            "Rate and server CPU per message at echo; server CPU per message as a multiple of {first}'s;"
        ),
        format!(
            "latencies at {rate}, us; memory per connection at {idle}, bytes; the battery's OK/lax/wrong/broken."
        ),
        "~ the interval holds 1; ? too few rounds for an interval; - nothing valid.".to_owned(),
    ]
    .into()
}

/// Header of a column of figures, and the figure of an arm.
type Column<'a> = (String, Box<dyn Fn(&Arm) -> String + 'a>);

fn columns<'a>(document: &'a Document, first: &'a str) -> Vec<Column<'a>> {
    let summary = |arm: &Arm, scenario: &Scenario| {
        let summary = Summary::of(scenario, &document.runs_of(&scenario.name, &arm.name));
        summary.filter(|summary| summary.valid)
    };
    let mut columns: Vec<Column<'a>> = Vec::new();
    if let Some(echo) = document.scenario(ECHO) {
        let rate = move |arm: &Arm| {
            summary(arm, echo).map_or("-".to_owned(), |one| grouped(one.rate_per_s))
        };
        let cost = move |arm: &Arm| {
            optional(summary(arm, echo).and_then(|one| one.server_cpu_ns).map(us), 2)
        };
        columns.push((format!("{ECHO}\nmsg/s"), Box::new(rate)));
        columns.push((format!("{ECHO}\nus/msg"), Box::new(cost)));
    }
    for scenario in document.scenarios.iter().filter(|one| !one.parameters.is_open_loop()) {
        let multiple = move |arm: &Arm| {
            let arms = [arm.name.as_str(), first];
            relative(document, scenario, Metric::ServerCpu, arms, is_costed, certainty)
        };
        columns.push((format!("{}\nx CPU", scenario.name), Box::new(multiple)));
    }
    if let Some(scenario) = at_a_rate(document) {
        for (at, name) in ["\np50", "\np99", "\np99.9"].into_iter().enumerate() {
            let percentile = move |one: Summary| [one.p50, one.p99, one.p99_9][at];
            let figure = move |arm: &Arm| latency(summary(arm, scenario).and_then(percentile));
            columns.push((name.to_owned(), Box::new(figure)));
        }
    }
    if let Some(scenario) = mostly_idle(document) {
        let figure = |arm: &Arm| memory(scenario, &document.runs_of(&scenario.name, &arm.name));
        columns.push(("bytes\n/conn".to_owned(), Box::new(figure)));
    }
    columns
}

fn summary_table(document: &Document, first: &str) -> Table {
    let columns = columns(document, first);
    let names = columns.iter().map(|(name, _)| name.as_str());
    let header: Vec<&str> = ["\nserver"].into_iter().chain(names).chain(["\nbattery"]).collect();
    let at = |name: &str| header.iter().position(|cell| *cell == name);
    let of_scenarios = (1..header.len()).rev().filter(|&column| header[column].ends_with("x CPU"));
    let figures = ["\np99.9", "\np50", "echo\nus/msg"].into_iter().filter_map(at);
    let optional_columns: Vec<usize> = figures.chain(of_scenarios).chain(at("\nbattery")).collect();
    let row = |arm: &Arm| {
        let figures =
            columns.iter().enumerate().map(|(at, (_, figure))| match (&arm.left_out, at) {
                (None, _) => figure(arm),
                (Some(_), 0) => "left out".to_owned(),
                (Some(_), _) => String::new(),
            });
        let battery = arm.conformance.map_or("-".to_owned(), counted);
        [arm.name.clone()].into_iter().chain(figures).chain([battery]).collect::<Vec<_>>()
    };
    Table::new(header, 1, optional_columns).rows(document.arms.iter().map(row))
}

/// The scenario whose rate and cost are shown over all.
const ECHO: &str = "echo";

/// A multiple, and whether it is certain.
fn certainty(Estimate { shift, interval, .. }: Estimate) -> String {
    match interval {
        None => format!("{shift:.2} ?"),
        Some((low, high)) if low <= 1.0 && high >= 1.0 => format!("{shift:.2} ~"),
        Some(_) => format!("{shift:.2}"),
    }
}

fn counted(counts: Conformance) -> String {
    let Conformance { ok, lax, wrong, broken, .. } = counts;
    format!("{ok}/{lax}/{wrong}/{broken}")
}

fn origin(document: &Document) -> Vec<String> {
    let rounds = document.rounds();
    let machine = &document.machine;
    let mut lines = vec![
        format!(
            "{rounds} {}, a fresh server for each run. Figures are medians over valid rounds, percentiles \
             those\nof all valid rounds together; multiples are taken within each round.",
            if rounds == 1 { "round" } else { "interleaved rounds" }
        ),
        format!(
            "{}, {} ({}), Linux {}, {}",
            machine.cpu,
            count(machine.cores.into(), "core"),
            machine.virtualisation,
            machine.kernel,
            document.session.start
        ),
    ];
    let versions: Vec<String> = document
        .arms
        .iter()
        .filter_map(|arm| Some(format!("{} {}", arm.name, arm.version.as_ref()?)))
        .collect();
    // Some four to a line.
    for (index, few) in versions.chunks(4).enumerate() {
        lines.push(format!("{}{}", if index == 0 { "versions: " } else { "    " }, few.join(", ")));
    }
    lines
}

/// Returns true if the cost of a message is known, also of a server that could have done more
/// than was asked for.
fn is_costed(run: &Run) -> bool {
    is_sound(run) || (!run.interrupted && is_limited(run))
}

/// Returns true if the generator was the limit, and nothing else is wrong.
fn is_limited(run: &Run) -> bool {
    !run.valid
        && !run.invalid_kinds.is_empty()
        && run.invalid().all(|(kind, _)| kind == InvalidKind::BusyGenerator)
}

fn remarks(document: &Document) -> Vec<String> {
    let limited = document.runs.iter().any(is_limited).then(|| {
        "limited: the generator was the limit. The server can do more than the rate; what a message costs it is measured.".to_owned()
    });
    let notes = notes_where(document, |run| !run.valid && !is_limited(run));
    limited.into_iter().chain(notes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;
    use crate::report::Format;
    use crate::result::example;

    const AT_A_RATE: &str = "rate-20k";
    const MOSTLY_IDLE: &str = "idle-4000";

    fn peers_text(document: &Document, width: usize) -> String {
        each(document).then(over_all(document)).render(Format::Terminal { width })
    }

    fn peers_markdown(document: &Document) -> String {
        over_all(document).render(Format::Markdown)
    }

    /// Ours, a server of `factor` times the CPU, one whose runs are all invalid, and one that is
    /// not there.
    fn document(factor: f64, rounds: u32) -> Document {
        let mut document = example::document();
        document.session.suite = Some("peers".to_owned());
        let echo = document.scenarios[0].clone();
        let load = echo.parameters.clone();
        let rate = Load { rate_per_s: Some(20_000.0), ..load.clone() };
        let idle = Load { connections: 1, idle: 4000, ..load };
        let named = |name: &str, load| {
            Scenario::new(name, load, echo.generator.clone(), echo.server.clone())
        };
        document.scenarios = vec![echo.clone(), named(AT_A_RATE, rate), named(MOSTLY_IDLE, idle)];
        let battery = Conformance { ok: 259, lax: 53, wrong: 14, broken: 0, skipped: 26 };
        let arm = |name: &str| Arm { name: name.to_owned(), ..Arm::default() };
        document.arms = vec![
            arm("sparring"),
            Arm { version: Some("8.23.0".to_owned()), conformance: Some(battery), ..arm("ws") },
            arm("slow"),
            Arm { left_out: Some("npm is not installed".to_owned()), ..arm("bun") },
        ];
        document.session.marks = vec!["arm bun was left out: npm is not installed.".to_owned()];
        document.runs.clear();
        for (pair, scenario) in (0..rounds).flat_map(|pair| {
            ["echo", AT_A_RATE, MOSTLY_IDLE].into_iter().map(move |scenario| (pair, scenario))
        }) {
            for (name, factor) in [("sparring", 1.0), ("ws", factor), ("slow", 9.0)] {
                let mut run = Run { pair, arm: name.to_owned(), ..example::run(scenario, 20_000) };
                let server = run.server.as_mut().expect("known");
                server.cpu_ns_per_message = 3000.0 * (1.0 + f64::from(pair)) * factor;
                server.rss_bytes_per_connection = Some(1000.0 * factor);
                if name == "slow" {
                    let reason = format!("{pair} of 20000 planned messages came back");
                    run.invalidate(InvalidKind::RateNotKept, reason);
                }
                document.runs.push(run);
            }
        }
        document
    }

    fn line<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        let found = text.lines().rfind(|line| line.trim_start_matches("| ").starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in\n{text}")).split_whitespace().collect()
    }

    #[test]
    fn every_server_has_a_line_in_every_table_whatever_became_of_it() {
        let text = peers_text(&document(1.25, 6), 120);
        for (name, times) in [("\nsparring ", 4), ("\nws ", 4), ("\nslow ", 4), ("\nbun ", 4)] {
            assert_eq!(text.matches(name).count(), times, "{name} in\n{text}");
        }
        assert!(text.contains("echo: 64 connections x 1, 32 bytes of binary"), "{text}");
        assert!(
            text.contains("rate-20k: 64 connections, 20,000 messages a second, 32 bytes of binary"),
            "{text}"
        );
        assert!(
            text.contains("idle-4000: 1 connection x 1, 32 bytes of binary, beside 4,000 idle"),
            "{text}"
        );
        assert_eq!(text.matches("left out").count(), 5, "{text}");
        assert_eq!(
            text.matches("INVALID echo slow, idle-4000 slow, rate-20k slow: 0 of 20000 planned")
                .count(),
            1,
            "{text}"
        );
        assert!(text.contains("versions: ws 8.23.0") && text.ends_with(BIAS), "{text}");
    }

    #[test]
    fn tables_fit_80_columns() {
        let mut document = document(1.25, 6);
        let long = "a-server-with-a-long-name";
        document.arms[1].name = long.to_owned();
        document
            .runs
            .iter_mut()
            .filter(|run| run.arm == "ws")
            .for_each(|run| run.arm = long.to_owned());
        document.runs.iter_mut().for_each(|run| run.rate_per_s *= 1e4);
        let text = peers_text(&document, 80);
        let rows = text
            .lines()
            .filter(|line| ["sparring ", long, "server "].iter().any(|s| line.starts_with(s)));
        let rows: Vec<&str> = rows.collect();
        assert!(rows.len() >= 12 && rows.iter().all(|row| row.chars().count() <= 80), "{text}");
        assert!(text.contains("not shown in 80 columns: enters /msg"), "{text}");
    }

    #[test]
    fn the_table_over_all_has_multiples_memory_and_the_battery() {
        let text = peers_text(&document(1.25, 6), 120);
        let ws = line(&text, "ws ");
        assert_eq!((ws[3], ws[4], ws.last()), ("1.25", "1.25", Some(&"259/53/14/0")));
        assert_eq!(ws[ws.len() - 2], "1,250");
        let sparring = line(&text, "sparring ");
        assert_eq!((sparring[3], sparring.last()), ("1", Some(&"-")));
        // What is not valid has no figure there.
        assert_eq!(line(&text, "slow ")[1..], ["-"; 9]);
    }

    #[test]
    fn a_multiple_says_how_certain_it_is() {
        assert!(peers_text(&document(1.25, 2), 120).contains("1.25 ?"));
        let mut even = document(1.0, 8);
        for run in even.runs.iter_mut().filter(|run| run.arm == "ws" && run.pair % 2 == 0) {
            run.server.as_mut().expect("known").cpu_ns_per_message *= 1.1;
        }
        let text = peers_text(&even, 120);
        assert!(line(&text, "ws ").contains(&"~"), "{text}");
    }

    #[test]
    fn where_the_generator_was_the_limit_the_cost_counts_and_the_rate_is_a_bound() {
        let mut document = document(1.25, 6);
        for run in
            document.runs.iter_mut().filter(|run| run.arm == "sparring" && run.scenario == "echo")
        {
            run.rate_per_s = 47_000.0;
            run.invalidate(InvalidKind::BusyGenerator, "the generator was the limit");
        }
        let text = peers_text(&document, 120);
        assert!(text.contains(">47,000") && text.contains("limited: the generator"), "{text}");
        assert!(!text.contains("INVALID echo sparring"), "{text}");
        assert_eq!((line(&text, "ws ")[3], line(&text, "sparring ")[1]), ("1.25", "-"));
        // With anything else wrong it does not.
        document.runs[0].invalidate(InvalidKind::Standstill, "the machine stood still");
        assert!(peers_text(&document, 120).contains("INVALID echo sparring: the machine"));
    }

    #[test]
    fn without_the_first_server_the_next_one_is_the_measure() {
        let mut document = document(1.25, 6);
        document.runs.retain(|run| run.arm != "sparring");
        document.arms[0].left_out = Some("io_uring is not available".to_owned());
        let text = peers_text(&document, 120);
        assert!(text.contains("/ ws's (95 %)"), "{text}");
        assert_eq!(line(&text, "ws ")[3], "1");
    }

    #[test]
    fn markdown_is_a_table_and_what_must_be_known_of_it() {
        let text = peers_markdown(&document(1.25, 6));
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("| server | echo msg/s | echo us/msg | echo x CPU |"),
            "{text}"
        );
        assert_eq!(lines[0].matches('|').count(), lines[1].matches('|').count());
        assert!(
            lines[2..6]
                .iter()
                .all(|line| line.matches('|').count() == lines[0].matches('|').count())
        );
        assert!(
            text.contains("BIAS")
                && text.contains("INVALID echo slow")
                && text.contains("NOTE: arm bun")
        );
    }

    #[test]
    fn a_session_of_nothing_has_no_table() {
        let mut document = document(1.0, 1);
        document.arms.clear();
        assert_eq!(
            (peers_text(&document, 120), peers_markdown(&document)),
            (String::new(), String::new())
        );
    }
}

//! Other people's servers beside ours: a table for each scenario, one over all of them, and whose comparison it is.

use crate::compare::Metric;
use crate::compare::sides::is_sound;
use crate::compare::statistics::Estimate;
use crate::load::Payload;
use crate::result::table::{count, grouped, latency, optional, repeated_runs, us};
use crate::result::text_table::TextTable;
use crate::result::{Arm, Conformance, Document, InvalidKind, Run, Scenario, Summary, median};

use super::side_by_side::{ratio_where, runs_of, shown_ratio};
use super::{AT_A_RATE, MOSTLY_IDLE};

/// What a reader must know of whoever made the table.
const BIAS: &str = "\
BIAS: whoever wrote the first server also wrote this comparison, the generator, the battery, and the few lines around
every other library. One machine, loopback, one core for the server and one for the generator. The others follow their
libraries' examples, with the fastest build that we found documented; their authors may tune them better. Add a server,
or show a better one: scripts/peers.sh --server NAME=COMMAND; scripts/peers/README.md says how to correct one of these.";

/// Rows below a header: in the terminal or in Markdown.
struct Grid {
    header: Vec<String>,
    /// Columns that a narrow terminal does without, the least important first.
    optional: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    fn plain(self, width: usize) -> String {
        let mut table = TextTable::new(self.header, 1, self.optional);
        self.rows.into_iter().for_each(|row| table.add_row(row));
        table.text(width)
    }

    fn markdown(self) -> String {
        let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
        let header: Vec<String> = self.header.iter().map(|cell| cell.trim().replace('\n', " ")).collect();
        let rule: Vec<String> =
            (0..header.len()).map(|column| if column == 0 { "---" } else { "---:" }.to_owned()).collect();
        let rows = self.rows.iter().map(|row| line(row));
        [line(&header), line(&rule)].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
    }
}

/// What a session of other people's servers prints.
#[must_use]
pub fn peers_text(document: &Document, width: usize) -> String {
    let Some(first) = first(document) else { return String::new() };
    let of_scenario = |scenario: &Scenario| {
        format!("{}\n{}", about(scenario), scenario_grid(document, scenario, first).plain(width))
    };
    let mut parts: Vec<String> = document.scenarios.iter().map(of_scenario).collect();
    parts.push(format!("all of them: {}\n{}", legend(first), summary_grid(document, first).plain(width)));
    parts.push(remarks(document).join("\n"));
    parts.push(BIAS.to_owned());
    parts.join("\n\n")
}

/// The table over all scenarios as Markdown, with the versions, what is not valid, and whose comparison it is.
#[must_use]
pub fn peers_markdown(document: &Document) -> String {
    let Some(first) = first(document) else { return String::new() };
    let table = summary_grid(document, first).markdown();
    let remarks = remarks(document).join("\n");
    format!("{table}\n\n{}\n\n```text\n{remarks}\n\n{BIAS}\n```", capitalised(&legend(first)))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// What the others are set against: the first server that took part.
fn first(document: &Document) -> Option<&str> {
    document.arms.iter().find(|arm| arm.left_out.is_none()).map(|arm| arm.name.as_str())
}

/// A scenario in a line.
fn about(scenario: &Scenario) -> String {
    let load = &scenario.parameters;
    let size = match load.message_bytes.weighted() {
        [(bytes, _)] if *bytes >= 1024 && bytes % 1024 == 0 => format!("{} KiB", bytes / 1024),
        _ => format!("{} bytes", load.message_bytes),
    };
    let kind = match load.payload {
        Payload::Binary => "binary",
        Payload::TextAscii => "ASCII text",
        Payload::TextMixed => "text of mixed scripts",
    };
    let rate = match load.rate_per_s {
        Some(rate) => format!(", {} messages a second", grouped(rate)),
        None => format!(" x {}", load.pipeline),
    };
    let idle = match load.idle {
        0 => String::new(),
        idle => format!(", beside {idle} idle connections"),
    };
    let connections = count(load.connections.into(), "connection");
    format!("{}: {connections}{rate}, {size} of {kind}{idle}", scenario.name)
}

fn scenario_grid(document: &Document, scenario: &Scenario, first: &str) -> Grid {
    let with_memory = scenario.parameters.idle > 0;
    let mut header: Vec<String> =
        ["\nserver", "\nmsg/s", "server\nus/msg"].into_iter().map(str::to_owned).collect();
    header.push(format!("server CPU\n/ {first}'s (95 %)"));
    header.extend(["p50\nus", "p99\nus", "p99.9\nus", "valid\nrounds"].map(str::to_owned));
    if with_memory {
        header.push("bytes\n/conn".to_owned());
    }
    let columns = header.len();
    let narrow = vec![6, 4, 2];
    let row = |arm: &Arm| {
        let runs = runs_of(document, &scenario.name, &arm.name);
        let costed: Vec<&Run> = runs.iter().copied().filter(|run| is_costed(run)).collect();
        let shown = if costed.is_empty() { &runs } else { &costed };
        let Some(summary) = Summary::of(scenario, shown) else {
            let why = if arm.left_out.is_some() { "left out" } else { "no run" };
            let mut row = vec![arm.name.clone(), why.to_owned()];
            row.resize(columns, String::new());
            return row;
        };
        let sound = runs.iter().filter(|run| is_sound(run)).count();
        let mut row = vec![
            arm.name.clone(),
            if sound == 0 && !costed.is_empty() {
                format!(">{}", grouped(summary.rate_per_s))
            } else {
                grouped(summary.rate_per_s)
            },
            optional(summary.server_cpu_ns.map(us), 2),
            against(document, scenario, &arm.name, first).map_or("-".to_owned(), |ratio| match ratio {
                Against::Itself => "1".to_owned(),
                Against::Other(estimate) => shown_ratio(estimate),
            }),
            latency(summary.p50),
            latency(summary.p99),
            latency(summary.p99_9),
            match (sound, costed.is_empty()) {
                (0, true) => "INVALID".to_owned(),
                (0, false) => "limited".to_owned(),
                _ => format!("{sound} of {}", runs.len()),
            },
        ];
        if with_memory {
            row.push(memory(scenario, &runs));
        }
        row
    };
    Grid { rows: document.arms.iter().map(row).collect(), header, optional: narrow }
}

/// Whether what a message costs the server is known: also where it could have done more than the generator asked for.
fn is_costed(run: &Run) -> bool {
    is_sound(run) || (!run.interrupted && is_limited(run))
}

/// Whether the generator was the limit, and nothing else is wrong.
fn is_limited(run: &Run) -> bool {
    !run.valid && run.invalid().all(|(kind, _)| kind == InvalidKind::BusyGenerator)
}

/// A server's CPU per message against the first one's.
enum Against {
    Itself,
    Other(Estimate),
}

fn against(document: &Document, scenario: &Scenario, arm: &str, first: &str) -> Option<Against> {
    if arm == first {
        let runs = runs_of(document, &scenario.name, arm);
        return runs.iter().any(|run| is_costed(run)).then_some(Against::Itself);
    }
    ratio_where(is_costed, document, scenario, Metric::ServerCpu, arm, first).map(Against::Other)
}

/// Growth of the server's memory for each connection, bytes.
fn memory(scenario: &Scenario, runs: &[&Run]) -> String {
    let sound = runs.iter().filter(|run| is_sound(run));
    let growth = sound.filter_map(|run| Metric::Memory.of(run, &scenario.parameters)).collect();
    median(growth).map_or("-".to_owned(), grouped)
}

fn legend(first: &str) -> String {
    format!(
        "rate and server CPU per message at echo; server CPU per message as a multiple of {first}'s;\n\
         latencies at {AT_A_RATE}, us; memory per connection at {MOSTLY_IDLE}, bytes; the battery's OK/lax/wrong/broken.\n\
         ~ the interval holds 1; ? too few rounds for an interval; - nothing valid."
    )
}

fn summary_grid(document: &Document, first: &str) -> Grid {
    let closed: Vec<&Scenario> =
        document.scenarios.iter().filter(|s| s.parameters.rate_per_s.is_none()).collect();
    let named = |name: &str| document.scenarios.iter().find(|scenario| scenario.name == name);
    let mut header = vec!["\nserver".to_owned()];
    if named(ECHO).is_some() {
        header.extend(["msg/s", "us/msg"].map(|what| format!("{ECHO}\n{what}")));
    }
    header.extend(closed.iter().map(|scenario| format!("{}\nx CPU", scenario.name)));
    if named(AT_A_RATE).is_some() {
        header.extend(["\np50", "\np99", "\np99.9"].map(str::to_owned));
    }
    if named(MOSTLY_IDLE).is_some() {
        header.push("bytes\n/conn".to_owned());
    }
    header.push("\nbattery".to_owned());
    let columns = header.len();
    let at = |name: &str| header.iter().position(|cell| cell == name);
    let times = |cell: &String| cell.ends_with("x CPU");
    let of_scenarios = (1..columns).rev().filter(|&column| times(&header[column]));
    let figures = ["\np99.9", "\np50", "echo\nus/msg"].into_iter().filter_map(at);
    let narrow = figures.chain(of_scenarios).chain(at("\nbattery")).collect();
    let row = |arm: &Arm| {
        let mut row = vec![arm.name.clone()];
        if arm.left_out.is_some() {
            row.push("left out".to_owned());
            row.resize(columns - 1, String::new());
        } else {
            let figures = |name: &str| {
                let runs = runs_of(document, name, &arm.name);
                Summary::of(named(name)?, &runs).filter(|summary| summary.valid)
            };
            if named(ECHO).is_some() {
                let summary = figures(ECHO);
                row.push(summary.as_ref().map_or("-".to_owned(), |summary| grouped(summary.rate_per_s)));
                row.push(optional(summary.and_then(|summary| summary.server_cpu_ns).map(us), 2));
            }
            row.extend(closed.iter().map(|scenario| multiple(document, scenario, &arm.name, first)));
            if named(AT_A_RATE).is_some() {
                let percentiles = figures(AT_A_RATE).map_or([None; 3], |s| [s.p50, s.p99, s.p99_9]);
                row.extend(percentiles.map(latency));
            }
            if let Some(scenario) = named(MOSTLY_IDLE) {
                row.push(memory(scenario, &runs_of(document, MOSTLY_IDLE, &arm.name)));
            }
        }
        row.push(arm.conformance.map_or("-".to_owned(), counted));
        row
    };
    Grid { rows: document.arms.iter().map(row).collect(), header, optional: narrow }
}

/// The scenario whose rate and cost are shown over all.
const ECHO: &str = "echo";

/// How many times the first one's CPU per message, and whether that is certain.
fn multiple(document: &Document, scenario: &Scenario, arm: &str, first: &str) -> String {
    match against(document, scenario, arm, first) {
        None => "-".to_owned(),
        Some(Against::Itself) => "1".to_owned(),
        Some(Against::Other(Estimate { shift, interval, .. })) => match interval {
            None => format!("{shift:.2} ?"),
            Some((low, high)) if low <= 1.0 && high >= 1.0 => format!("{shift:.2} ~"),
            Some(_) => format!("{shift:.2}"),
        },
    }
}

fn counted(counts: Conformance) -> String {
    let Conformance { ok, lax, wrong, broken, .. } = counts;
    format!("{ok}/{lax}/{wrong}/{broken}")
}

/// What a reader of the tables must know.
fn remarks(document: &Document) -> Vec<String> {
    let rounds = document.runs.iter().map(|run| run.pair + 1).max().unwrap_or(0);
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
    if document.runs.iter().any(is_limited) {
        lines.push(
            "limited: the generator was the limit. The server can do more than the rate; what a message costs it is measured.".to_owned(),
        );
    }
    lines.extend(invalid(document));
    lines.extend(repeated_runs(document));
    lines.extend(document.session.marks.iter().map(|mark| format!("NOTE: {mark}")));
    if document.session.interrupted {
        lines.push("INTERRUPTED: what was measured until then.".to_owned());
    }
    lines
}

/// One line for each scenario of a server with invalid runs; of several reasons the first.
fn invalid(document: &Document) -> Vec<String> {
    let mut lines = Vec::new();
    for arm in &document.arms {
        for scenario in &document.scenarios {
            let runs = runs_of(document, &scenario.name, &arm.name);
            let bad: Vec<&&Run> = runs.iter().filter(|run| !run.valid && !is_limited(run)).collect();
            if let Some(reason) = bad.iter().find_map(|run| run.invalid_reasons.first()) {
                let (bad, of, name) = (bad.len(), runs.len() as u64, &scenario.name);
                lines.push(format!(
                    "INVALID: {} in {bad} of {} of {name}: {reason}.",
                    arm.name,
                    count(of, "round")
                ));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;
    use crate::result::example;

    /// Ours, a server of `factor` times the CPU, one whose runs are all invalid, and one that is not there.
    fn document(factor: f64, rounds: u32) -> Document {
        let mut document = example::document();
        document.session.suite = Some("peers".to_owned());
        let echo = document.scenarios[0].clone();
        let load = echo.parameters.clone();
        let rate = Load { rate_per_s: Some(20_000.0), ..load.clone() };
        let idle = Load { connections: 1, idle: 4000, ..load };
        let named = |name: &str, load| Scenario::new(name, load, echo.generator.clone(), echo.server.clone());
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
        assert!(text.contains("idle-4000: 1 connection x 1, 32 bytes of binary, beside 4000 idle"), "{text}");
        assert_eq!(text.matches("left out").count(), 5, "{text}");
        assert_eq!(
            text.matches("INVALID: slow in 6 of 6 rounds of echo: 0 of 20000 planned").count(),
            1,
            "{text}"
        );
        assert!(text.contains("versions: ws 8.23.0") && text.ends_with(BIAS), "{text}");
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    }

    #[test]
    fn tables_fit_80_columns() {
        let mut document = document(1.25, 6);
        let long = "a-server-with-a-long-name";
        document.arms[1].name = long.to_owned();
        document.runs.iter_mut().filter(|run| run.arm == "ws").for_each(|run| run.arm = long.to_owned());
        document.runs.iter_mut().for_each(|run| run.rate_per_s *= 1e4);
        let text = peers_text(&document, 80);
        let rows =
            text.lines().filter(|line| ["sparring ", long, "server "].iter().any(|s| line.starts_with(s)));
        let rows: Vec<&str> = rows.collect();
        assert!(rows.len() >= 12 && rows.iter().all(|row| row.chars().count() <= 80), "{text}");
        assert!(text.contains("not shown in 80 columns: p99.9"), "{text}");
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
        for run in document.runs.iter_mut().filter(|run| run.arm == "sparring" && run.scenario == "echo") {
            run.rate_per_s = 47_000.0;
            run.invalidate(InvalidKind::BusyGenerator, "the generator was the limit");
        }
        let text = peers_text(&document, 120);
        assert!(text.contains(">47,000") && text.contains("limited: the generator"), "{text}");
        assert!(!text.contains("INVALID: sparring"), "{text}");
        assert_eq!((line(&text, "ws ")[3], line(&text, "sparring ")[1]), ("1.25", "-"));
        // With anything else wrong it does not.
        document.runs[0].invalidate(InvalidKind::Standstill, "the machine stood still");
        assert!(peers_text(&document, 120).contains("INVALID: sparring in 1 of 6 rounds of echo"));
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
        assert!(lines[0].starts_with("| server | echo msg/s | echo us/msg | echo x CPU |"), "{text}");
        assert_eq!(lines[0].matches('|').count(), lines[1].matches('|').count());
        assert!(lines[2..6].iter().all(|line| line.matches('|').count() == lines[0].matches('|').count()));
        assert!(text.contains("BIAS") && text.contains("INVALID: slow") && text.contains("NOTE: arm bun"));
    }

    #[test]
    fn the_readme_shows_a_stored_session_as_it_is() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let readme = std::fs::read_to_string(root.join("README.md")).expect("readable");
        let Some((_, part)) = readme.split_once("<!-- bench:peers -->") else {
            return println!("skipped: README.md has no table of other people's servers");
        };
        let (part, _) = part.split_once("<!-- /bench:peers -->").expect("the end of the table is marked");
        let start = part.find("bench-results/").expect("the file of the session is named");
        let (file, _) = part[start..].split_once('`').expect("in backticks");
        let path = root.join(file);
        let stored = std::fs::read_to_string(&path).expect("the session is stored");
        let document = crate::result::parse(&stored, &path).expect("a document");
        assert!(part.contains(&peers_markdown(&document)), "scripts/peers.sh --readme {file} puts it there");
    }

    #[test]
    fn a_session_of_nothing_has_no_table() {
        let mut document = document(1.0, 1);
        document.arms.clear();
        assert_eq!((peers_text(&document, 120), peers_markdown(&document)), (String::new(), String::new()));
    }
}

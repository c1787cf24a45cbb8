//! Stored sessions as one page: self-contained, without scripts, for light and dark, readable on a phone.

mod charts;
mod svg;

use std::fmt::Write as _;

use crate::compare::table::{figure, headline, percent};
use crate::compare::{Comparison, Judgement, ThresholdSource, Verdict};
use crate::host::machine::Machine;
use crate::load::Load;
use crate::load::{Payload, Transport};
use crate::result::table::count;
use crate::result::{Document, Run, Stored};
use crate::target::subject::Subject;

use svg::{COLOURS, escape};

/// A figure over the commits of a branch as an SVG file: `points` are the medians of sessions, by the commit's place.
#[must_use]
pub fn history_chart(title: &str, commits: usize, points: &[(usize, f64)]) -> String {
    let places: Vec<(f64, f64)> = points.iter().map(|&(at, value)| (at as f64, value)).collect();
    let x = svg::Scale::marked(-0.5..=commits as f64 - 0.5, Vec::new());
    let y = svg::Scale::linear(points.iter().map(|(_, value)| *value), false, figure);
    let mut chart = svg::Chart::new(title, "commits, the newest to the right", x, y);
    chart.line(0, &places, true);
    for point in places {
        chart.dot(0, point, true, &figure(point.1));
    }
    chart.file()
}

/// A page, and its charts as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The whole page.
    pub html: String,
    /// Names and contents of the charts as SVG files.
    pub charts: Vec<(String, String)>,
}

/// What is known beside the sessions themselves.
#[derive(Debug, Default)]
pub struct Context {
    /// The comparison of the sides, where there are two.
    pub comparison: Option<Comparison>,
    /// What a reader must know: refusals that were forced, another generator.
    pub notes: Vec<String>,
}

/// One side: a session's server, or one of the servers of a session.
struct Side<'a> {
    name: String,
    subject: &'a Subject,
    runs: Vec<&'a Run>,
}

impl Side<'_> {
    /// As it fits beside an axis.
    fn short(&self) -> String {
        self.name.chars().take(9).collect()
    }
}

/// The runs of one side in one scenario.
type SideRuns<'a> = Vec<&'a Run>;

/// The sides of all sessions in their order.
fn sides_of(documents: &[Document]) -> Vec<Side<'_>> {
    let mut sides = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        if document.arms.is_empty() {
            // Two sessions are A and B, as in a duel; more are numbered.
            let name = match (documents.len(), index) {
                (1, _) => "runs".to_owned(),
                (2, 0) => "A".to_owned(),
                (2, _) => "B".to_owned(),
                _ => format!("{}", index + 1),
            };
            sides.push(Side { name, subject: &document.subject, runs: document.runs.iter().collect() });
        }
        for arm in &document.arms {
            let name =
                if documents.len() == 1 { arm.name.clone() } else { format!("{} {}", index + 1, arm.name) };
            let runs = document.runs.iter().filter(|run| run.arm == arm.name).collect();
            sides.push(Side { name, subject: &arm.subject, runs });
        }
    }
    sides
}

fn runs_of<'a>(sides: &[Side<'a>], scenario: &str) -> Vec<SideRuns<'a>> {
    sides
        .iter()
        .map(|side| side.runs.iter().copied().filter(|run| run.scenario == scenario).collect())
        .collect()
}

/// Makes the page of these sessions, at least one.
#[must_use]
pub fn report(sessions: &[Stored], context: &Context) -> Report {
    let documents: Vec<Document> = sessions.iter().map(|stored| stored.document.clone()).collect();
    let sides = sides_of(&documents);
    let mut charts = Vec::new();
    let mut body = verdict(context, &sides, &documents);
    body.push_str(&key(&sides));
    if let Some(comparison) = &context.comparison {
        body.push_str(&judgements(comparison));
    }
    body.push_str(&notes(&documents, context));
    for (name, load) in scenarios(&documents) {
        let _ = write!(
            body,
            "<h2>{}</h2>\n<p class=\"soft\">{}</p>\n<div class=\"charts\">\n",
            escape(name),
            escape(&describe(load))
        );
        for named in charts::of_scenario(load, &sides, &runs_of(&sides, name)) {
            body.push_str(&named.chart.inline());
            charts.push((format!("{}-{}.svg", file_name(name), named.name), named.chart.file()));
        }
        body.push_str("</div>\n");
    }
    body.push_str(&machines(&documents));
    body.push_str(&reproduce(sessions));
    Report { html: page(&title(context, &sides), &body), charts }
}

fn page(title: &str, body: &str) -> String {
    let (title, page_style) = (escape(title), include_str!("page.css"));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
         <style>\n{COLOURS}{page_style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn title(context: &Context, sides: &[Side<'_>]) -> String {
    match &context.comparison {
        Some(comparison) => headline(comparison),
        None if sides.len() == 1 => "A measured session".to_owned(),
        None => format!("{} measured servers", sides.len()),
    }
}

/// The verdict in a box, the first thing on the page.
fn verdict(context: &Context, sides: &[Side<'_>], documents: &[Document]) -> String {
    let class = context.comparison.as_ref().and_then(Comparison::overall).map_or("", Verdict::name);
    let advisory = context.comparison.as_ref().is_some_and(|comparison| !comparison.interleaved);
    let advisory = if advisory {
        "<p>Advisory: the sessions were not interleaved, and between them the machine itself may have changed.</p>\n"
    } else {
        ""
    };
    let runs: usize = documents.iter().map(|document| document.runs.len()).sum();
    let runs = count(runs as u64, "run");
    let when: Vec<String> = documents.iter().map(|document| document.session.start.to_string()).collect();
    let when = escape(&when.join(" and "));
    format!(
        "<div class=\"verdict {class}\">\n<h1>{}</h1>\n{advisory}<p class=\"soft\">{runs}, measured {when}</p>\n</div>\n",
        escape(&title(context, sides))
    )
}

/// Which colour is which server.
fn key(sides: &[Side<'_>]) -> String {
    let mut text = String::new();
    for (index, side) in sides.iter().enumerate() {
        let colour = index % svg::SIDES;
        let _ = writeln!(
            text,
            "<p><span class=\"key\" style=\"background: var(--s{colour})\"></span><b>{}</b> <code>{}</code></p>",
            escape(&side.name),
            escape(&subject(side.subject))
        );
    }
    text
}

fn subject(subject: &Subject) -> String {
    let command = subject.command.as_deref().unwrap_or("not started by the generator");
    let commit = subject.commit.as_deref().map_or("unknown", |commit| commit.get(..12).unwrap_or(commit));
    let dirty = if subject.dirty == Some(true) { " with changes" } else { "" };
    let engine = subject.engine.as_ref().map(|engine| format!(", engine {engine}")).unwrap_or_default();
    format!("{command} (commit {commit}{dirty}{engine})")
}

/// Judged metrics as a table, the others folded away below, in a softer colour. What decides stands to the left: the rest may be
/// beyond the edge of a phone.
fn judgements(comparison: &Comparison) -> String {
    let unit = if comparison.interleaved { "pairs" } else { "runs" };
    let head = format!(
        "<div class=\"scroll\"><table>\n<tr><th>scenario</th><th>metric</th><th>verdict</th><th class=\"n\">change</th>\
         <th class=\"n\">95 % interval</th><th class=\"n\">A</th><th class=\"n\">B</th><th class=\"n\">{unit}</th>\
         <th class=\"n\">p</th><th class=\"n\">threshold</th></tr>\n"
    );
    let (judged, shown): (Vec<_>, Vec<_>) =
        comparison.judgements.iter().partition(|judgement| judgement.verdict.is_some());
    let table = |rows: &[&Judgement]| {
        let rows: String = rows.iter().map(|judgement| judgement_row(judgement)).collect();
        format!("{head}{rows}</table></div>\n")
    };
    let mut text = if judged.is_empty() { String::new() } else { table(&judged) };
    if !shown.is_empty() {
        let count = shown.len();
        let rows = table(&shown);
        let _ = write!(
            text,
            "<details>\n<summary>{count} further figures, shown and never judged</summary>\n{rows}</details>\n"
        );
    }
    let judged = judged.len();
    let test =
        if comparison.interleaved { "exact signed ranks over pairs" } else { "Mann-Whitney, not paired" };
    let [a, b] = comparison.sides.each_ref().map(|name| escape(name));
    let _ = writeln!(
        text,
        "<p class=\"soft\">change: {b} / {a}, Hodges-Lehmann. p: {test}, Holm over the {judged} judged. Threshold with *: twice this \
         machine's noise between identical servers.</p>"
    );
    text
}

fn judgement_row(judgement: &Judgement) -> String {
    let Judgement { metric, interval, threshold, verdict, .. } = judgement;
    let interval = interval
        .map_or_else(|| "-".to_owned(), |(low, high)| format!("{} to {}", percent(low), percent(high)));
    let threshold = threshold.map_or_else(String::new, |threshold| {
        let mark = if threshold.source == ThresholdSource::Noise { "*" } else { "" };
        format!("{:.1} %{mark}", threshold.relative * 100.0)
    });
    let word = verdict.map_or("shown", Verdict::name);
    let class = if verdict.is_some() { "" } else { " class=\"shown\"" };
    format!(
        "<tr{class}><td>{}</td><td>{} {}</td><td class=\"word-{word}\">{word}</td><td class=\"n\">{}</td>\
         <td class=\"n\">{interval}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
         <td class=\"n\">{:.3}</td><td class=\"n\">{threshold}</td></tr>\n",
        escape(&judgement.scenario),
        metric.name(),
        metric.unit(),
        percent(judgement.ratio),
        figure(metric.shown(judgement.a)),
        figure(metric.shown(judgement.b)),
        judgement.pairs,
        judgement.p_adjusted.unwrap_or(judgement.p),
    )
}

/// What must be known before a figure is believed.
fn notes(documents: &[Document], context: &Context) -> String {
    let left_out = context.comparison.iter().flat_map(|comparison| comparison.left_out.iter().cloned());
    let of_documents = documents.iter().flat_map(|document| {
        let interrupted =
            document.session.interrupted.then(|| "A session was ended early by its user.".to_owned());
        let invalid = document.runs.iter().filter(|run| !run.valid).count();
        let runs = count(document.runs.len() as u64, "run");
        let reasons = document.runs.iter().find(|run| !run.valid).map(|run| run.invalid_reasons.join("; "));
        let invalid =
            reasons.map(|reasons| format!("not valid: {invalid} of {runs}, the first because: {reasons}"));
        document.session.marks.iter().cloned().chain(interrupted).chain(invalid).collect::<Vec<_>>()
    });
    let mut text = String::new();
    for note in context.notes.iter().cloned().chain(left_out).chain(of_documents) {
        let _ = writeln!(text, "<p class=\"note\">{}</p>", escape(&note));
    }
    text
}

/// Every scenario once, in the order of the first session that has it.
fn scenarios(documents: &[Document]) -> Vec<(&str, &Load)> {
    let mut found: Vec<(&str, &Load)> = Vec::new();
    for scenario in documents.iter().flat_map(|document| &document.scenarios) {
        if found.iter().all(|(name, _)| *name != scenario.name) {
            found.push((&scenario.name, &scenario.parameters));
        }
    }
    found
}

fn describe(load: &Load) -> String {
    let kind = match (load.transport, load.payload) {
        (Transport::Tcp, _) => "raw bytes",
        (_, Payload::Binary) => "binary",
        (_, Payload::TextAscii) => "ASCII text",
        (_, Payload::TextMixed) => "text of mixed scripts",
    };
    let how = match load.rate_per_s {
        Some(rate) => {
            format!("open loop at {} msg/s: latency from the planned time of sending", figure(rate))
        }
        None => format!("closed loop, {} in flight on each: saturated", load.pipeline),
    };
    let tls = if load.transport == Transport::Wss { " over TLS" } else { "" };
    format!(
        "{}{tls}, {} bytes {kind}, {how}; {} s measured",
        count(load.connections.into(), "connection"),
        load.message_bytes,
        load.measure.as_secs_f64(),
    )
}

fn machines(documents: &[Document]) -> String {
    let mut text = "<h2>Machine</h2>\n".to_owned();
    let mut seen: Vec<&str> = Vec::new();
    for document in documents {
        if !seen.contains(&document.machine.id.as_str()) {
            seen.push(&document.machine.id);
            text.push_str(&machine(document));
        }
    }
    text
}

fn machine(document: &Document) -> String {
    let Machine { id, cpu, cores, threads, memory_bytes, kernel, governor, virtualisation, .. } =
        &document.machine;
    let tool = &document.tool;
    let commit = tool.commit.as_deref().map_or("unknown", |commit| commit.get(..12).unwrap_or(commit));
    let rows = [
        ("id", id.clone()),
        (
            "processor",
            format!(
                "{cpu}, {}, {}, governor {}",
                count((*cores).into(), "core"),
                count((*threads).into(), "thread"),
                governor.as_deref().unwrap_or("unknown")
            ),
        ),
        ("memory", format!("{:.0} GiB", *memory_bytes as f64 / f64::from(1 << 30))),
        ("kernel", format!("Linux {kernel}, virtualisation {virtualisation}")),
        ("load at the start", format!("{:.2}", document.machine.load_at_start)),
        (
            "generator",
            format!(
                "{} {} (commit {commit}, {} build, engine {})",
                tool.name, tool.version, tool.build, tool.engine
            ),
        ),
    ];
    let rows: String =
        rows.map(|(name, value)| format!("<tr><td>{name}</td><td>{}</td></tr>\n", escape(&value))).concat();
    format!("<div class=\"scroll\"><table class=\"machine\">\n{rows}</table></div>\n")
}

/// The commands that lead here again.
fn reproduce(sessions: &[Stored]) -> String {
    let mut text = "<h2>How to reproduce</h2>\n<pre>".to_owned();
    for stored in sessions {
        let document = &stored.document;
        let _ =
            writeln!(text, "# {}", escape(&stored.path.file_name().unwrap_or_default().to_string_lossy()));
        text.push_str(&escape(&command(document)));
        text.push('\n');
    }
    text.push_str("</pre>\n");
    text
}

fn command(document: &Document) -> String {
    document
        .session
        .command()
        .unwrap_or_else(|| "not recorded: an earlier build measured this session".to_owned())
}

/// A scenario's name as part of a file's.
fn file_name(scenario: &str) -> String {
    scenario
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::compare::sides::default_thresholds;
    use crate::result::example;

    fn stored(document: Document) -> Stored {
        Stored { path: "r/m/20260301T093000Z.json".into(), document }
    }

    fn of(document: Document) -> Report {
        let comparison = Some(Comparison::of_arms(&document, &default_thresholds));
        report(&[stored(document)], &Context { comparison, notes: Vec::new() })
    }

    #[test]
    fn the_verdict_comes_first() {
        let html = of(duel(10, 1.1)).html;
        let main = html.split_once("<main>").expect("a page").1.trim_start();
        assert!(
            main.starts_with("<div class=\"verdict regressed\">\n<h1>B against A: REGRESSED"),
            "{}",
            &main[..200]
        );
        assert!(
            html.contains("Machine")
                && html.contains("AMD EPYC")
                && html.contains("sparring-loadgen duel &#39;a {port}&#39;")
        );
    }

    #[test]
    fn what_is_not_judged_is_folded_away() {
        let html = of(duel(10, 1.1)).html;
        let (open, folded) = html.split_once("<details>").expect("something is shown alone");
        assert!(open.contains(">server-cpu us/msg<") && !open.contains(">enters /msg<"));
        let folded = folded.split_once("</details>").expect("closed").0;
        assert!(folded.contains(">enters /msg<") && !folded.contains("word-regressed"));
    }

    #[test]
    fn a_page_needs_nothing_from_anywhere() {
        let Report { html, charts } = of(duel(10, 1.1));
        assert_eq!(
            charts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["echo-throughput.svg", "echo-server-cpu.svg", "echo-percentiles.svg", "echo-series.svg"]
        );
        for text in charts.iter().map(|(_, svg)| svg).chain([&html]) {
            let without_namespace = text.replace("http://www.w3.org/2000/svg", "");
            for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
                assert!(!without_namespace.contains(outside), "{outside}");
            }
            assert!(text.contains("prefers-color-scheme: dark"));
        }
        assert!(html.contains("width=device-width"));
    }

    #[test]
    fn names_out_of_a_file_cannot_become_markup() {
        let mut document = duel(8, 1.0);
        for name in ["<script>alert(1)</script>", "\"><img>"] {
            document.arms[0].subject.command = Some(name.to_owned());
            document.machine.cpu = name.to_owned();
            document.session.marks = vec![name.to_owned()];
            document.scenarios[0].name = name.to_owned();
            document.runs.iter_mut().for_each(|run| run.scenario = name.to_owned());
            let Report { html, charts } = of(document.clone());
            assert!(!html.contains("<script") && !html.contains("<img"));
            assert!(charts.iter().all(|(file, svg)| !file.contains(['<', '/']) && !svg.contains("<script")));
        }
    }

    #[test]
    fn one_session_and_many_have_pages_without_a_verdict() {
        let one = report(&[stored(example::document())], &Context::default());
        assert!(one.html.contains("<h1>A measured session</h1>") && one.charts.len() > 4);
        let many = [example::document(), example::document(), duel(8, 1.0)].map(stored);
        assert!(report(&many, &Context::default()).html.contains("<h1>4 measured servers</h1>"));
    }

    #[test]
    fn a_history_is_a_chart_with_a_dot_for_each_session() {
        let svg = history_chart("a & b", 4, &[(0, 3.0), (1, 3.1), (1, 3.2), (3, 4.0)]);
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.starts_with("<svg") && svg.contains("a &amp; b"));
    }

    #[test]
    fn what_spoils_a_session_is_said() {
        let mut document = duel(8, 1.0);
        document.runs[0].valid = false;
        document.runs[0].invalid_reasons = vec!["The generator was the limit.".into()];
        document.session.interrupted = true;
        let html = of(document).html;
        assert!(html.contains("not valid: 1 of 16 runs, the first because: The generator was the limit."));
        assert!(html.contains("ended early"));
    }
}

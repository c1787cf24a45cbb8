//! Stored sessions as one page: self-contained, without scripts, for light and dark, readable on a
//! phone.

mod charts;
mod history;
mod site;
mod svg;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::text::comparison::{headline, remarks, table};
use super::text::notes;
use super::text::sessions::{fields, leading, load, server};
use super::{Block, Blocks, Table};
use crate::compare::{Conclusion, Judgement, Verdict};
use crate::format::{count, tone};
use crate::load::Load;
use crate::result::{Arm, Document, Run, SIDES, Stored};
use crate::target::subject::Subject;
use charts::NamedChart;
pub(crate) use history::history_chart;
pub(crate) use site::{Site, SiteSession, site};
use svg::COLOURS;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) html: String,
    /// Names and contents of the charts as SVG files.
    pub(crate) charts: Vec<(String, String)>,
}

/// One side: a session's server, or one of the servers of a session.
struct Side<'a> {
    name: String,
    session: &'a Stored,
    subject: &'a Subject,
    runs: Vec<&'a Run>,
}

fn sides_of(sessions: &[Stored]) -> Vec<Side<'_>> {
    let mut sides = Vec::new();
    for (number, session) in (1..).zip(sessions) {
        let Document { arms, subject, runs, .. } = &session.document;
        if arms.is_empty() {
            // Two sessions are A and B, as in a duel; more are numbered.
            let name = match (sessions.len(), number) {
                (1, _) => "runs".to_owned(),
                (2, number) => SIDES[number - 1].to_owned(),
                _ => number.to_string(),
            };
            sides.push(Side { name, session, subject, runs: runs.iter().collect() });
        }
        for Arm { name, subject, .. } in arms {
            let runs = runs.iter().filter(|run| run.arm == *name).collect();
            let name = if sessions.len() == 1 { name.clone() } else { format!("{number} {name}") };
            sides.push(Side { name, session, subject, runs });
        }
    }
    sides
}

/// Returns the page of these sessions, at least one. `comparison` is that of the sides, where there
/// are two; `cautions` is what a reader must know of it. `home` leads to other pages, where there
/// are some.
pub(crate) fn page(
    sessions: &[Stored],
    comparison: Option<&Conclusion>,
    cautions: &[String],
    home: Option<&Markup>,
) -> Page {
    let sides = sides_of(sessions);
    let title = match comparison {
        Some(comparison) => headline(comparison),
        None if sides.len() == 1 => "A measured session".to_owned(),
        None => format!("{} measured servers", sides.len()),
    };
    let drawn = |(name, load)| (name, load, charts::of_scenario(name, load, &sides));
    let drawn: Vec<(&str, &Load, Vec<NamedChart>)> =
        scenarios(sessions).into_iter().map(drawn).collect();
    let body = html! {
        (verdict(&title, comparison, sessions, &sides))
        @if let Some(comparison) = comparison { (judgements(comparison)) }
        @for caution in cautions { p.note { (caution) } }
        @for stored in sessions {
            @if comparison.is_some() {
                (blocks(&Blocks::default().notes(notes(&stored.document))))
            } @else {
                @if sessions.len() > 1 { h2 { (stored.file_name()) } }
                (blocks(&leading(&stored.document)))
            }
        }
        @if !drawn.is_empty() { h2 { "Charts" } }
        @for (name, load, charts) in &drawn { (scenario(name, load, charts, drawn.len() <= MOST_OPEN)) }
        h2 { "Sessions, and how to repeat them" }
        @for stored in sessions {
            h3 { (stored.file_name()) }
            (blocks(&Blocks::default().fields(self::fields(&stored.document))))
        }
    };
    let html = layout(&title, home, &body);
    let file = |name: &str, named: &NamedChart| {
        (format!("{}-{}.svg", file_name(name), named.name), named.chart.file().into_string())
    };
    let charts =
        drawn.iter().flat_map(|(name, _, charts)| charts.iter().map(|named| file(name, named)));
    Page { charts: charts.collect(), html: html.into_string() }
}

/// A whole page: everything that it needs is in it.
fn layout(title: &str, home: Option<&Markup>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(COLOURS)) (PreEscaped(include_str!("page.css"))) }
            }
            body {
                main {
                    @if let Some(home) = home { nav { (home) } }
                    (body)
                }
            }
        }
    }
}

/// The verdict in a box, the first thing on the page, and which colour is which server of which
/// file.
fn verdict(
    title: &str,
    comparison: Option<&Conclusion>,
    sessions: &[Stored],
    sides: &[Side<'_>],
) -> Markup {
    let class = comparison.and_then(|comparison| comparison.overall).map_or("", Verdict::name);
    let origin = |stored: &Stored| {
        let (measured, runs) =
            (stored.document.session.start, count(stored.document.runs.len() as u64, "run"));
        html! { span.soft { " " (runs) ", measured " (measured) ", " (stored.file_name()) } }
    };
    // Where there are more, their commands are below.
    let has_commands = sides.len() <= 2;
    html! {
        div class={ "verdict " (class) } {
            h1 { (title) }
            @for (index, side) in sides.iter().enumerate() {
                div.side {
                    span.key style={ "background: var(--s" (index % svg::SIDES) ")" } {}
                    b { (side.name) }
                    @if has_commands { " " code { (server(side.subject)) } br; }
                    @if sessions.len() > 1 { (origin(side.session)) }
                }
            }
            @if let [one] = sessions { p { (origin(one)) } }
        }
    }
}

/// Judged metrics as a table, the others folded away below, in a softer colour.
fn judgements(comparison: &Conclusion) -> Markup {
    let is_judged = |judgement: &Judgement| judgement.verdict.is_some();
    let shown = comparison.judgements.iter().filter(|judgement| !is_judged(judgement)).count();
    html! {
        (blocks(&Blocks::default().table(table(comparison, is_judged))))
        @if shown > 0 {
            details {
                summary { (shown) " further figures, shown and never judged" }
                div.shown { (blocks(&Blocks::default().table(table(comparison, |one| !is_judged(one))))) }
            }
        }
        @for remark in remarks(comparison) { p.soft { (remark) } }
    }
}

/// Scenarios of a page whose charts are shown at once. Of more the table says more.
const MOST_OPEN: usize = 3;

/// The charts of a scenario; those that say little are folded away.
fn scenario(name: &str, load: &Load, charts: &[NamedChart], is_one_of_few: bool) -> Markup {
    let (open, folded): (Vec<&NamedChart>, Vec<&NamedChart>) =
        charts.iter().partition(|named| is_one_of_few && named.leads);
    let drawn = |charts: &[&NamedChart]| html! { div.charts { @for named in charts { (named.chart.inline()) } } };
    let measured = load.measure.as_secs_f64();
    let about = html! { b { (name) } ": " (self::load(load)) "; " (measured) " s measured" };
    html! {
        @if !open.is_empty() { p { (about) } (drawn(&open)) }
        @if !folded.is_empty() {
            details {
                summary {
                    @if open.is_empty() { (about) } @else { (count(folded.len() as u64, "further chart")) }
                }
                (drawn(&folded))
            }
        }
    }
}

fn blocks(blocks: &Blocks) -> Markup {
    html! {
        @for block in &blocks.0 {
            @match block {
                Block::Title(title) => h3 { (title) },
                Block::Fields(fields) => div.scroll {
                    table.fields { @for field in fields { tr { td { (field.label) } td { (field.text) } } } }
                },
                Block::Table(table) => (cells(table)),
                Block::Legend(lines) => @for line in lines { p.soft { (line) } },
                Block::Notes(notes) => @for note in notes { p.note { (note) } },
            }
        }
    }
}

fn cells(table: &Table) -> Markup {
    let side = |column: usize| if column < table.names { "" } else { "n" };
    let class = |column: usize, cell: &str| {
        let tone = tone(cell).map(|tone| format!("{tone:?}").to_lowercase()).unwrap_or_default();
        format!("{} {tone}", side(column)).trim().to_owned()
    };
    html! {
        div.scroll {
            table {
                tr { @for column in 0..table.header.len() { th class=(side(column)) { (table.title(column)) } } }
                @for row in &table.rows {
                    tr { @for (column, cell) in row.iter().enumerate() { td class=(class(column, cell)) { (cell) } } }
                }
            }
        }
    }
}

/// Every scenario once, in the order of the first session that has it.
fn scenarios(sessions: &[Stored]) -> Vec<(&str, &Load)> {
    let mut found: Vec<(&str, &Load)> = Vec::new();
    for scenario in sessions.iter().flat_map(|stored| &stored.document.scenarios) {
        if found.iter().all(|(name, _)| *name != scenario.name) {
            found.push((&scenario.name, &scenario.parameters));
        }
    }
    found
}

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
    use crate::result::{Document, example};

    fn stored(document: Document) -> Stored {
        Stored { path: "r/m/20260301T093000Z.json".into(), document }
    }

    fn of(document: Document) -> Page {
        let comparison = Conclusion::of_arms(&document, &default_thresholds);
        page(&[stored(document)], Some(&comparison), &[], None)
    }

    #[test]
    fn the_verdict_comes_first() {
        let html = of(duel(10, 1.1)).html;
        let main = html.split_once("<main>").expect("a page").1.trim_start();
        assert!(
            main.starts_with("<div class=\"verdict regressed\"><h1>B against A: REGRESSED"),
            "{}",
            &main[..200]
        );
        assert!(html.contains("AMD EPYC") && html.contains("sparring-loadgen duel 'a {port}'"));
    }

    #[test]
    fn what_is_not_judged_is_folded_away() {
        let html = of(duel(10, 1.1)).html;
        let (open, folded) = html.split_once("<details>").expect("something is shown alone");
        assert!(open.contains(">server-cpu us/msg<") && !open.contains(">enters /msg<"));
        let folded = folded.split_once("</details>").expect("closed").0;
        assert!(open.contains("<td class=\"bad\">regressed</td>"), "{open}");
        assert!(folded.contains(">enters /msg<") && !folded.contains("class=\"bad\""));
    }

    #[test]
    fn a_page_needs_nothing_from_anywhere() {
        let Page { html, charts } = of(duel(10, 1.1));
        assert_eq!(
            charts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            [
                "echo-throughput.svg",
                "echo-server-cpu.svg",
                "echo-percentiles.svg",
                "echo-series.svg"
            ]
        );
        for text in charts.iter().map(|(_, svg)| svg).chain([&html]) {
            let without_namespace = text.replace("http://www.w3.org/2000/svg", "");
            for outside in
                ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"]
            {
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
            let Page { html, charts } = of(document.clone());
            assert!(!html.contains("<script") && !html.contains("<img"));
            assert!(
                charts
                    .iter()
                    .all(|(file, svg)| !file.contains(['<', '/']) && !svg.contains("<script"))
            );
        }
    }

    #[test]
    fn one_session_and_many_have_pages_without_a_verdict() {
        let one = page(&[stored(example::document())], None, &[], None);
        assert!(one.html.contains("<h1>A measured session</h1>") && one.charts.len() > 4);
        let many = [example::document(), example::document(), duel(8, 1.0)].map(stored);
        assert!(page(&many, None, &[], None).html.contains("<h1>4 measured servers</h1>"));
    }

    #[test]
    fn shows_why_runs_are_invalid() {
        let mut document = duel(8, 1.0);
        document.runs[0].valid = false;
        document.runs[0].invalid_reasons = vec!["The generator was the limit.".into()];
        document.session.interrupted = true;
        let html = of(document).html;
        assert!(html.contains("INVALID echo A: The generator was the limit."));
        assert!(html.contains("INTERRUPTED"));
    }

    #[test]
    fn each_side_has_its_file_and_date() {
        let sessions = [1, 2].map(|day| Stored {
            path: format!("r/m/2026030{day}T000000Z-quick.json").into(),
            document: example::document(),
        });
        let html = page(&sessions, None, &[], None).html;
        let (head, _) = html.split_once("<table").expect("the box comes first");
        for part in
            ["20260301T000000Z-quick.json", "20260302T000000Z-quick.json", "2026-03-01T09:30"]
        {
            assert!(head.contains(part), "{part} not in {head}");
        }
    }

    #[test]
    fn a_session_without_a_verdict_leads_with_its_table() {
        let html = page(&[stored(example::document())], None, &[], None).html;
        let table = html.find("<th class=\"n\">msg/s</th>").expect("a table");
        assert!(html.find("<svg").is_none_or(|chart| table < chart), "{html}");
    }
}

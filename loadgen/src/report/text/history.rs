//! A figure over the commits of a branch.

use crate::compare::Metric;
use crate::compare::history::{Change, History, Point};
use crate::format::{change, commit, count, figure};
use crate::report::html::history_chart;
use crate::report::{Blocks, Table};

/// Returns a figure of stored sessions in the order of their commits. `machine` is the one that was
/// asked for.
pub(crate) fn history(history: &History, machine: &str) -> Blocks {
    let metric = history.metric;
    let title = format!("{} {} ({}), {machine}", history.scenario, metric.name(), metric.unit());
    let blocks = Blocks::default().title(title).table(table(history));
    let blocks = match history.change_points.as_deref() {
        None => blocks,
        Some([]) => blocks.notes(vec!["no change points".to_owned()]),
        Some(changes) => blocks.title("change points").table(changes_of(history, changes)),
    };
    blocks.notes(notes(history))
}

fn notes(history: &History) -> Vec<String> {
    let others = count(history.others as u64, "session");
    let left_out = format!("LEFT OUT: {others} whose scenario of this name has other parameters");
    let mut notes = Vec::new();
    if history.epochs.len() > 1 {
        let epochs = (1..).zip(&history.epochs);
        notes.extend(epochs.map(|(number, epoch)| format!("epoch {number}: {}", epoch.text())));
        notes.push("sessions of different epochs are not compared".to_owned());
    }
    if history.others > 0 {
        notes.push(left_out);
    }
    let changes = history.change_points.iter().flatten();
    let is_confirmed = changes.clone().all(|change| change.confirmation.is_some());
    if history.change_points.is_some() {
        notes.push(
            "p: t-test at the best of many places, so one below 0.005 may still be chance"
                .to_owned(),
        );
    }
    if history.metric == Metric::Instructions {
        notes.push(
            "Counted, not measured: exact, where compiler and kernels of the CPU are the same"
                .to_owned(),
        );
    } else if history.change_points.is_some() && !is_confirmed {
        notes.push(
            "ADVISORY: sessions of different times; a step may be the machine's (--confirm decides)"
                .to_owned(),
        );
    } else if history.change_points.is_none() {
        notes.push(
            "ADVISORY: sessions of different times; a step may be the machine's (`duel` decides)"
                .to_owned(),
        );
    }
    notes
}

/// Returns the chart of a history as an SVG file.
pub(crate) fn chart(history: &History) -> String {
    history_chart(history).file().into_string()
}

/// Characters of the plot beside the figures.
const PLOT: usize = 30;
const SUBJECT: usize = 36;

fn subject(point: &Point) -> String {
    point.subject.chars().take(SUBJECT).collect()
}

fn table(history: &History) -> Table {
    let History { points, epochs, .. } = history;
    let low = points.iter().map(|point| point.value).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|point| point.value).fold(f64::NEG_INFINITY, f64::max);
    let range =
        format!("{:<width$}{}", figure(low), figure(high), width = PLOT - figure(high).len());
    let mut header = vec!["commit", "measured", "subject", &range];
    let (has_epochs, has_steps) = (epochs.len() > 1, history.change_points.is_some());
    header.extend(has_epochs.then_some("epoch"));
    header.extend(has_steps.then_some("step"));
    let names = header.len();
    header.extend(["median", "change", "runs"]);
    let step_at = |index: usize| {
        let mut steps = history.change_points.iter().flatten();
        steps.find(|step| step.first == index).map_or_else(String::new, |step| change(step.ratio))
    };
    let rows = points.iter().enumerate().map(|(index, point)| {
        let place = if high > low { (point.value - low) / (high - low) } else { 0.5 };
        let at = (place * (PLOT - 1) as f64).round() as usize;
        let before = history.before(index).map(|before| &points[before]);
        let mut row = vec![
            point.short(),
            measured(point),
            subject(point),
            format!("{}o{}", ".".repeat(at), ".".repeat(PLOT - 1 - at)),
        ];
        row.extend(has_epochs.then(|| (point.epoch + 1).to_string()));
        row.extend(has_steps.then(|| step_at(index)));
        row.extend([
            figure(point.value),
            before.map_or_else(String::new, |before| change(point.value / before.value)),
            point.runs.to_string(),
        ]);
        row
    });
    Table::new(header, names, [names + 2, 2, 1, 3]).rows(rows)
}

fn measured(point: &Point) -> String {
    point.start.to_string().chars().take(16).collect()
}

fn changes_of(history: &History, changes: &[Change]) -> Table {
    let is_confirmed = changes.iter().any(|change| change.confirmation.is_some());
    let mut header = vec!["after", "first seen", "subject"];
    header.extend(is_confirmed.then_some("cause"));
    let names = header.len();
    header.extend(["step", "before", "after it", "commits", "p"]);
    let rows = changes.iter().map(|step| {
        let [last, first] = [step.last, step.first].map(|index| &history.points[index]);
        let mut row = vec![last.short(), first.short(), subject(first)];
        if is_confirmed {
            row.push(step.confirmation.as_ref().map_or_else(String::new, |one| {
                let [a, b] = one.commits.each_ref().map(|one| commit(Some(one)));
                let is_beyond = *one.commits[0] != *last.commit || *one.commits[1] != *first.commit;
                let beyond = if is_beyond { format!(" (of {a}..{b})") } else { String::new() };
                one.text() + &beyond
            }));
        }
        row.extend([
            change(step.ratio),
            figure(step.before),
            figure(step.after),
            step.commits.to_string(),
            if step.p < 0.0005 { "< 0.001".to_owned() } else { format!("{:.3}", step.p) },
        ]);
        row
    });
    Table::new(header, names, [names + 4, 2, names + 1, names + 2]).rows(rows)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::compare::cause::Dueled;
    use crate::report::Format;
    use crate::result::{Stored, Utc, example};

    fn session(number: usize, rate: f64) -> Stored {
        let mut document = example::document();
        document.subject.commit = Some(format!("{number:012x}"));
        document.session.start = Utc::from_unix_ms(1_800_000_000_000 + number as u64 * 60_000);
        document.runs.iter_mut().for_each(|run| run.rate_per_s = rate);
        Stored { path: "f.json".into(), document }
    }

    fn of(found: &[Stored]) -> History {
        let log: Vec<(String, String)> =
            (0..32).map(|n| (format!("{n:012x}cccc"), format!("Do {n}"))).collect();
        History::of("echo", Metric::Throughput, &log, found)
    }

    fn stepped() -> Vec<Stored> {
        (0..12)
            .map(|n| session(2 * n, if n < 6 { 100.0 } else { 110.0 } + (n % 3) as f64))
            .collect()
    }

    fn text(history: &History, width: usize) -> String {
        super::history(history, "machine m").render(Format::Terminal { width })
    }

    #[test]
    fn the_table_has_a_line_for_each_session() {
        let history = of(&[session(2, 3.0), session(0, 1.0)]);
        let wide = text(&history, 130);
        let last = wide.lines().find(|line| line.starts_with("000000000002")).expect("a line");
        assert!(last.contains("+200.0 %") && last.contains(".o "), "{wide}");
        assert!(wide.contains("ADVISORY: sessions of different times"), "{wide}");
        let narrow = text(&history, 80);
        assert!(
            narrow.contains("+200.0 %")
                && narrow.contains("not shown in 80 columns: runs, subject"),
            "{narrow}"
        );
    }

    #[test]
    fn change_points_are_marked_and_listed() {
        let mut history = of(&stepped());
        assert!(!text(&history, 200).contains("change points"));
        history.find_changes();
        let said = text(&history, 200);
        let marked = |line: &&str| line.starts_with("00000000000c") && line.contains("+9.9 %  ");
        assert!(said.lines().any(|line| marked(&line)), "{said}");
        let line = said.lines().find(|line| line.starts_with("00000000000a  00000000000c"));
        let line = line.unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains("Do 12") && line.contains("< 0.001"), "{said}");
        assert!(said.contains("(--confirm decides)"), "{said}");
        let svg = chart(&history);
        assert!(svg.contains("class=\"change\"") && svg.contains("+9.9 %"), "{svg}");
    }

    #[test]
    fn a_cause_is_named() {
        let mut history = of(&stepped());
        history.find_changes();
        let Ok(()) = history
            .confirm(|_| Ok::<_, Infallible>(Dueled::Failed("it does not build".to_owned())));
        let said = text(&history, 200);
        assert!(said.contains("cannot tell: it does not build"), "{said}");
        assert!(!said.contains("ADVISORY"), "{said}");
    }

    #[test]
    fn epochs_are_told_apart() {
        let mut found = stepped();
        found[6..].iter_mut().for_each(|one| one.document.machine.id = "other".into());
        let mut history = of(&found);
        history.find_changes();
        let said = text(&history, 200);
        assert!(
            said.contains("no change points") && said.contains("epoch 2: machine other"),
            "{said}"
        );
        let first = said.lines().find(|line| line.starts_with("00000000000c")).expect("a line");
        assert!(!first.contains('%'), "{first}");
    }
}

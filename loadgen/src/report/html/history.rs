//! The chart of a figure over the commits of a branch.

use super::svg::{Chart, Scale};
use crate::compare::history::{Change, History};
use crate::format::{change, figure};

/// Returns a figure over the commits of a branch: a dot for each session, in the colour of its
/// epoch, and the levels between change points where those were looked for.
pub(crate) fn history_chart(history: &History) -> Chart {
    let points = &history.points;
    let commits = points.last().map_or(0, |point| point.at + 1);
    let title = format!("{}: {}", history.scenario, history.metric.label());
    let x = Scale::marked(-0.5..=commits as f64 - 0.5, Vec::new());
    let y = Scale::linear(points.iter().map(|point| point.value), false, figure);
    let mut chart = Chart::new(&title, "commits, the newest to the right", x, y);
    let changes = history.change_points.as_deref().unwrap_or_default();
    for step in changes {
        let [last, first] = [step.last, step.first].map(|index| points[index].at as f64);
        chart.change(f64::midpoint(last, first), &change(step.ratio));
    }
    for epoch in 0..history.epochs.len() {
        let of_epoch = || points.iter().filter(move |point| point.epoch == epoch);
        let line: Vec<(f64, f64)> =
            of_epoch().map(|point| (point.at as f64, point.value)).collect();
        chart.line(epoch, &line, true);
        levels(history, changes, epoch).iter().for_each(|level| chart.line(epoch, level, false));
        for point in of_epoch() {
            let says = format!("{}: {} {}", point.short(), figure(point.value), point.subject);
            chart.dot(epoch, (point.at as f64, point.value), true, &says);
        }
    }
    chart
}

/// Returns the levels of an epoch that has change points, each from its first to its last session.
fn levels(history: &History, changes: &[Change], epoch: usize) -> Vec<[(f64, f64); 2]> {
    let of_epoch = |index: &usize| history.points[*index].epoch == epoch;
    let places: Vec<usize> = (0..history.points.len()).filter(of_epoch).collect();
    let at = |index: usize| history.points[index].at as f64;
    let own: Vec<&Change> = changes.iter().filter(|step| of_epoch(&step.first)).collect();
    let (Some(&begin), Some(&end)) = (places.first(), places.last()) else { return Vec::new() };
    let starts = std::iter::once(begin).chain(own.iter().map(|step| step.first));
    let ends = own.iter().map(|step| step.last).chain([end]);
    let values = own.first().map(|step| step.before).into_iter();
    let values = values.chain(own.iter().map(|step| step.after));
    let levels = starts.zip(ends).zip(values);
    levels.map(|((from, to), value)| [(at(from), value), (at(to), value)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Metric;
    use crate::result::{Stored, example};

    #[test]
    fn a_history_is_a_chart_with_a_dot_for_each_session() {
        let session = |commit: usize, rate: f64| {
            let mut document = example::document();
            document.subject.commit = Some(format!("{commit:012x}"));
            document.runs.iter_mut().for_each(|run| run.rate_per_s = rate);
            Stored { path: "f.json".into(), document }
        };
        let log: Vec<(String, String)> =
            (0..16).map(|n| (format!("{n:012x}"), "a & b".to_owned())).collect();
        let rate = |n: usize| if n < 6 { 100.0 } else { 110.0 } + (n % 3) as f64;
        let found: Vec<Stored> = (0..12).map(|n| session(n, rate(n))).collect();
        let mut history = History::of("echo", Metric::Throughput, &log, &found);
        let svg = history_chart(&history).file().into_string();
        assert_eq!(
            (svg.matches("<circle").count(), svg.matches("class=\"change\"").count()),
            (12, 0)
        );
        assert!(svg.starts_with("<svg") && svg.contains("a &amp; b"));
        history.find_changes();
        let svg = history_chart(&history).file().into_string();
        assert_eq!(svg.matches("class=\"change\"").count(), 1);
        // Two levels beside the line of the sessions.
        assert_eq!(svg.matches("class=\"line s0\"").count(), 2);
    }
}

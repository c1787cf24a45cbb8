//! The charts of a scenario.

use super::Side;
use super::svg::{Chart, Scale};
use crate::compare::{Metric, sides::is_sound};
use crate::format::figure;
use crate::load::Load;
use crate::result::{Run, Second, StageRecord, median, merged, percentile};

/// A chart and the name of its file.
pub(super) struct NamedChart {
    pub(super) name: &'static str,
    pub(super) chart: Chart,
    /// Shown at once: it is about what is judged, and has something to tell apart.
    pub(super) leads: bool,
}

/// One side in a scenario.
struct SideRuns<'a> {
    name: &'a str,
    /// The name as it fits beside an axis.
    short: String,
    runs: Vec<&'a Run>,
}

/// All charts of a scenario that its runs have something for.
pub(super) fn of_scenario(scenario: &str, load: &Load, sides: &[Side<'_>]) -> Vec<NamedChart> {
    let of_sides = sides.iter().map(|Side { name, runs, .. }| {
        let runs = runs.iter().copied().filter(|run| run.scenario == scenario).collect();
        SideRuns { name, short: name.chars().take(9).collect(), runs }
    });
    let sides: Vec<SideRuns<'_>> = of_sides.collect();
    let repeats = sides.iter().any(|side| side.runs.len() > 1);
    let named = |name, leads| move |chart| NamedChart { name, chart, leads };
    let dots = |metric: Metric, name| dots(metric, load, &sides).map(named(name, repeats));
    // At a fixed rate every run does the same; what differs is how long it takes.
    let first = match load.is_open_loop() {
        false => dots(Metric::Throughput, "throughput"),
        true => dots(Metric::P99, "p99"),
    };
    let charts = [
        first,
        dots(Metric::ServerCpu, "server-cpu"),
        percentiles(&sides).map(named("percentiles", load.is_open_loop())),
        stages(&sides).map(named("stages", true)),
        series(&sides).map(named("series", false)),
    ];
    charts.into_iter().flatten().collect()
}

/// Every run of every side as a dot, a row for each side, with the median as a mark.
fn dots(metric: Metric, load: &Load, sides: &[SideRuns<'_>]) -> Option<Chart> {
    let value = |run: &Run| metric.of(run, load).map(|value| metric.shown(value));
    let all: Vec<f64> =
        sides.iter().flat_map(|side| &side.runs).filter_map(|run| value(run)).collect();
    if all.is_empty() {
        return None;
    }
    // Rows from the top downwards, in the order of the sides.
    let row = |side: usize| (sides.len() - side) as f64 - 0.5;
    let names = sides.iter().enumerate().map(|(index, side)| (row(index), side.short.clone()));
    let y = Scale::marked(0.0..=sides.len() as f64, names.collect());
    let x = Scale::linear(all.iter().copied(), false, figure);
    let mut chart =
        Chart::new(metric.label(), "each dot a run; the line the median of the valid ones", x, y);
    for (side, SideRuns { name, runs, .. }) in sides.iter().enumerate() {
        let sound = runs.iter().filter(|run| is_sound(run)).filter_map(|run| value(run)).collect();
        if let Some(median) = median(sound) {
            chart.mark(side, median, row(side), 0.4);
        }
        for (index, run) in runs.iter().enumerate() {
            let Some(x) = value(run) else { continue };
            // Spread over the row, so that equal runs do not hide each other.
            let spread = ((index * 5 % 9) as f64 / 8.0 - 0.5) * 0.5;
            let says = format!("{name} run {}: {} {}", run.pair + 1, figure(x), metric.unit());
            chart.dot(side, (x, row(side) + spread), is_sound(run), &says);
        }
    }
    Some(chart)
}

/// Latency over the share of messages that took no longer, on a scale of nines: 90 %, 99 %, 99.9 %
/// at equal distances.
fn percentiles(sides: &[SideRuns<'_>]) -> Option<Chart> {
    let curves: Vec<Vec<(f64, f64)>> = sides.iter().map(|side| curve(&side.runs)).collect();
    let points = || curves.iter().flatten();
    let nines = points().map(|(nines, _)| *nines).fold(0.0, f64::max);
    if nines <= 0.0 {
        return None;
    }
    let ticks = (0u8..=8)
        .map(f64::from)
        .filter(|at| *at <= nines + 1e-9)
        .map(|at| (at, share(at)))
        .collect();
    let y = Scale::logarithmic(points().map(|(_, us)| *us), figure);
    let x = Scale::marked(0.0..=nines, ticks);
    let mut chart =
        Chart::new("latency percentiles, us", "share of messages that took no longer", x, y);
    chart.key(sides.iter().map(|side| side.short.as_str()));
    for (side, curve) in curves.iter().enumerate().filter(|(_, curve)| !curve.is_empty()) {
        chart.line(side, curve, false);
    }
    Some(chart)
}

/// Nines and microseconds of the merged runs, as far as the sample carries them.
fn curve(runs: &[&Run]) -> Vec<(f64, f64)> {
    let sound: Vec<&Run> = runs.iter().copied().filter(|run| is_sound(run)).collect();
    let Some(merged) = merged(&sound) else { return Vec::new() };
    let steps = (0..=320).map(|step| f64::from(step) / 40.0);
    steps
        .map_while(|nines| {
            Some((nines, percentile(&merged, 1.0 - 10f64.powf(-nines))? as f64 / 1000.0))
        })
        .collect()
}

/// `90 %`, `99 %`, `99.9 %` for one, two, three nines.
fn share(nines: f64) -> String {
    match nines as u32 {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        nines => {
            format!("99{}{} %", if nines > 2 { "." } else { "" }, "9".repeat(nines as usize - 2))
        }
    }
}

/// The 99th percentile of each stage, each dot a run; where the sample of a stage is too small for
/// it, its highest latency.
fn stages(sides: &[SideRuns<'_>]) -> Option<Chart> {
    let points = |run: &Run| {
        let stages = run.stages.iter().filter(|stage| stage.latency_ns.corrected.count > 0);
        let point = |stage: &StageRecord| {
            let corrected = &stage.latency_ns.corrected;
            let us = corrected.p99.unwrap_or(corrected.max) as f64 / 1e3;
            (f64::from(stage.number), us, stage.valid)
        };
        stages.map(point).collect::<Vec<_>>()
    };
    let runs = || sides.iter().flat_map(|side| &side.runs);
    let all: Vec<_> = runs().flat_map(|run| points(run)).collect();
    let most = all.iter().map(|(number, ..)| *number).fold(0.0, f64::max);
    if all.is_empty() {
        return None;
    }
    let mut numbers: Vec<f64> = all.iter().map(|(number, ..)| *number).collect();
    numbers.sort_by(f64::total_cmp);
    numbers.dedup();
    let step = numbers.len().div_ceil(10);
    let ticks = numbers.iter().step_by(step).map(|number| (*number, format!("{number:.0}")));
    let x = Scale::marked(0.5..=most + 0.5, ticks.collect());
    let y = Scale::logarithmic(all.iter().map(|(_, us, _)| *us), figure);
    let mut chart = Chart::new("p99 in each stage, us", "stage of the load; each dot a run", x, y);
    chart.key(sides.iter().map(|side| side.short.as_str()));
    for (side, SideRuns { name, runs, .. }) in sides.iter().enumerate() {
        for run in runs {
            for (number, us, valid) in points(run) {
                let says =
                    format!("{name} run {}, stage {number:.0}: {} us", run.pair + 1, figure(us));
                chart.dot(side, (number, us), valid && is_sound(run), &says);
            }
        }
    }
    Some(chart)
}

fn series(sides: &[SideRuns<'_>]) -> Option<Chart> {
    let rate = |second: &Second| {
        let span_s = second.span_ns.map_or(1.0, |ns| ns as f64 / 1e9);
        (f64::from(second.second), second.received as f64 / span_s)
    };
    let points = |run: &Run| run.series.iter().map(rate).collect::<Vec<(f64, f64)>>();
    let of_side = |(side, SideRuns { runs, .. }): (usize, &SideRuns<'_>)| {
        runs.iter().map(|run| (side, points(run))).collect::<Vec<_>>()
    };
    let lines: Vec<_> = sides.iter().enumerate().flat_map(of_side).collect();
    let longest =
        lines.iter().map(|(_, points)| points.len()).max().filter(|longest| *longest >= 2)?;
    let all = lines.iter().flat_map(|(_, points)| points.iter());
    let x = Scale::linear([0.0, (longest - 1) as f64], true, |second| format!("{second:.0}"));
    let y = Scale::linear(all.map(|(_, received)| *received), true, figure);
    let mut chart =
        Chart::new("echoes in each second", "second of the measured window; each line a run", x, y);
    chart.key(sides.iter().map(|side| side.short.as_str()));
    for (side, points) in lines.iter().filter(|(_, points)| points.len() >= 2) {
        chart.line(*side, points, true);
    }
    Some(chart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::report::html::sides_of;
    use crate::result::{Document, Stored};

    fn stored(document: Document) -> [Stored; 1] {
        [Stored { path: "f.json".into(), document }]
    }

    #[test]
    fn nines_are_named_by_their_share() {
        let names: Vec<String> = (0u8..=5).map(|nines| share(f64::from(nines))).collect();
        assert_eq!(names, ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]);
    }

    #[test]
    fn every_run_is_a_dot_and_an_invalid_one_is_hollow() {
        let mut document = duel(8, 1.0);
        document.runs[0].valid = false;
        let stored = stored(document);
        let sides = sides_of(&stored);
        let charts = of_scenario("echo", &stored[0].document.scenarios[0].parameters, &sides);
        let names: Vec<&str> = charts.iter().map(|chart| chart.name).collect();
        assert_eq!(names, ["throughput", "server-cpu", "percentiles", "series"]);
        let svg = charts[0].chart.file().into_string();
        assert_eq!(svg.matches("<circle").count(), 16);
        assert_eq!(svg.matches(" hollow\"").count(), 1);
    }

    #[test]
    fn a_curve_ends_where_the_sample_does() {
        let document = duel(1, 1.0);
        let run = &document.runs[0];
        // 30,000 samples carry 99.6 %: a hundred above it.
        let curve = curve(&[run]);
        let last = curve.last().expect("points").0;
        assert!((2.3..2.6).contains(&last), "{last}");
        assert!(curve.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }

    #[test]
    fn each_stage_of_each_run_is_a_dot() {
        let mut document = duel(1, 1.0);
        let stages = crate::result::example::staged_run().stages;
        document.runs.iter_mut().for_each(|run| run.stages = stages.clone());
        document.runs[0].stages[1].valid = false;
        let stored = stored(document);
        let sides = sides_of(&stored);
        let charts = of_scenario("echo", &stored[0].document.scenarios[0].parameters, &sides);
        let chart = charts.iter().find(|chart| chart.name == "stages").expect("a chart");
        let svg = chart.chart.file().into_string();
        assert_eq!(svg.matches("<circle").count(), 4);
        assert_eq!(svg.matches(" hollow\"").count(), 1);
    }

    #[test]
    fn runs_without_figures_have_no_chart() {
        let mut document = duel(1, 1.0);
        for run in &mut document.runs {
            run.series.clear();
            run.server = None;
            run.latency_ns.corrected = crate::result::Latency::default();
        }
        let stored = stored(document);
        let sides = sides_of(&stored);
        let charts = of_scenario("echo", &stored[0].document.scenarios[0].parameters, &sides);
        assert_eq!(charts.iter().map(|chart| chart.name).collect::<Vec<_>>(), ["throughput"]);
    }
}

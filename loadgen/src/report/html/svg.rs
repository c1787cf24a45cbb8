//! The frame of a chart: scales, axes, and the text of an SVG document.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use maud::{Markup, PreEscaped, html};

/// Size in user units: small, so that text stays readable where a phone shows it one to one.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 42.0;

/// Colours for light and dark, of page and stand-alone file alike.
pub(super) const COLOURS: &str = include_str!("colours.css");

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// Where the axis is marked, and with what.
    ticks: Vec<(f64, String)>,
}

impl Scale {
    /// A linear scale that holds all of `values`, and zero where `from_zero`.
    pub(super) fn linear(
        values: impl IntoIterator<Item = f64>,
        from_zero: bool,
        label: fn(f64) -> String,
    ) -> Self {
        let (mut low, mut high) = bounds(values);
        if from_zero {
            low = low.min(0.0);
        }
        let margin = if high > low { (high - low) * 0.06 } else { high.abs().max(1.0) * 0.05 };
        high += margin;
        if !from_zero {
            low -= margin;
        }
        let step = nice_step((high - low) / 4.0);
        let first = (low / step).ceil() as i64;
        let last = (high / step).floor() as i64;
        let ticks = (first..=last).map(|n| n as f64 * step).map(|at| (at, label(at))).collect();
        Self { low, high, logarithmic: false, ticks }
    }

    /// A logarithmic scale that holds all of `values`, which are above zero: marks at 1, 2, 5, 10,
    /// ...
    pub(super) fn logarithmic(
        values: impl IntoIterator<Item = f64>,
        label: fn(f64) -> String,
    ) -> Self {
        let (low, high) = bounds(values.into_iter().filter(|value| *value > 0.0));
        let (low, high) = (low.max(1e-9) / 1.1, high.max(low).max(1e-9) * 1.1);
        let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let dense = high / low < 200.0;
        let marks: &[f64] = if dense { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let all =
            decades.flat_map(|decade| marks.iter().map(move |mark| mark * 10f64.powi(decade)));
        let ticks = all.filter(|at| (low..=high).contains(at)).map(|at| (at, label(at))).collect();
        Self { low, high, logarithmic: true, ticks }
    }

    /// A linear scale with marks of one's own.
    pub(super) fn marked(range: RangeInclusive<f64>, ticks: Vec<(f64, String)>) -> Self {
        Self { low: *range.start(), high: *range.end(), logarithmic: false, ticks }
    }

    /// 0 at the low end, 1 at the high one.
    fn place(&self, value: f64) -> f64 {
        let on = |value: f64| if self.logarithmic { value.max(1e-12).ln() } else { value };
        (on(value) - on(self.low)) / (on(self.high) - on(self.low)).max(f64::MIN_POSITIVE)
    }
}

fn bounds(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .into_iter()
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// The next of 1, 2, 5, 10, ... times a power of ten.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(f64::MIN_POSITIVE).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= least * 0.999);
    step.unwrap_or(10.0) * power
}

#[derive(Debug)]
pub(crate) struct Chart {
    x: Scale,
    y: Scale,
    body: Vec<Markup>,
    title: String,
}

impl Chart {
    /// Axes with their marks; `y` may be a scale without any.
    pub(super) fn new(title: &str, x_label: &str, x: Scale, y: Scale) -> Self {
        let mut chart = Self { x, y, body: Vec::new(), title: title.to_owned() };
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for (at, label) in chart.x.ticks.clone() {
            let x = chart.at_x(at);
            chart
                .body
                .push(html! { line.grid x1=(tenths(x)) y1=(TOP) x2=(tenths(x)) y2=(bottom) {} });
            // The last mark's label would be cut off by the edge.
            let half = 3.4 * label.chars().count() as f64;
            let anchor = if x + half > WIDTH { "end" } else { "middle" };
            chart.text(
                if anchor == "end" { WIDTH - 2.0 } else { x },
                bottom + 15.0,
                anchor,
                &label,
            );
        }
        for (at, label) in chart.y.ticks.clone() {
            let y = chart.at_y(at);
            chart
                .body
                .push(html! { line.grid x1=(LEFT) y1=(tenths(y)) x2=(right) y2=(tenths(y)) {} });
            chart.text(LEFT - 6.0, y + 4.0, "end", &label);
        }
        chart.body.push(html! { path.axis d={ "M" (LEFT) " " (TOP) "V" (bottom) "H" (right) } {} });
        chart.text(f64::midpoint(LEFT, right), HEIGHT - 8.0, "middle", x_label);
        chart.body.push(html! { text.title x="4" y="16" { (title) } });
        chart
    }

    fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn at_y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        self.body.push(html! { text x=(tenths(x)) y=(tenths(y)) text-anchor=(anchor) { (text) } });
    }

    /// A line through `points`, in the colour of side number `side`; `faint` where it is one of
    /// many.
    pub(super) fn line(&mut self, side: usize, points: &[(f64, f64)], faint: bool) {
        let mut path = String::new();
        for (index, &(x, y)) in points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", self.at_x(x), self.at_y(y));
        }
        let class = format!("line s{}{}", side % SIDES, if faint { " faint" } else { "" });
        self.body.push(html! { path class=(class) d=(path) {} });
    }

    /// A dot that says what it is where a pointer rests on it; hollow where its run is not valid.
    pub(super) fn dot(&mut self, side: usize, (x, y): (f64, f64), sound: bool, says: &str) {
        let (x, y) = (tenths(self.at_x(x)), tenths(self.at_y(y)));
        let class = format!("dot s{}{}", side % SIDES, if sound { "" } else { " hollow" });
        self.body.push(html! { circle class=(class) cx=(x) cy=(y) r="4" { title { (says) } } });
    }

    /// Which colour is which side, in the upper right corner.
    pub(super) fn key<'n>(
        &mut self,
        names: impl ExactSizeIterator<Item = &'n str> + DoubleEndedIterator,
    ) {
        let mut right = WIDTH - RIGHT;
        for (side, name) in names.enumerate().rev() {
            let class = format!("k{}", side % SIDES);
            self.body.push(
                html! { text class=(class) x=(tenths(right)) y="16" text-anchor="end" { (name) } },
            );
            // About the width of a letter at this size: the exact one is the reader's font's.
            right -= 8.0 * name.chars().count() as f64 + 10.0;
        }
    }

    /// A short upright line, for a median.
    pub(super) fn mark(&mut self, side: usize, x: f64, y: f64, half: f64) {
        self.line(side, &[(x, y - half), (x, y + half)], false);
    }

    /// A line over the whole height, for a change of level, with what it says at its top.
    pub(super) fn change(&mut self, x: f64, says: &str) {
        let (place, bottom) = (self.at_x(x), HEIGHT - BOTTOM);
        self.body.push(html! {
            line.change x1=(tenths(place)) y1=(TOP) x2=(tenths(place)) y2=(bottom) {}
        });
        let anchor = if place > f64::midpoint(LEFT, WIDTH) { "end" } else { "start" };
        let beside = if anchor == "end" { -4.0 } else { 4.0 };
        self.text(place + beside, TOP + 10.0, anchor, says);
    }

    pub(super) fn inline(&self) -> Markup {
        self.document(html! {})
    }

    pub(crate) fn file(&self) -> Markup {
        self.document(html! {
            style { (PreEscaped(COLOURS)) }
            rect.paper width="100%" height="100%" {}
        })
    }

    fn document(&self, before: Markup) -> Markup {
        html! {
            svg.chart xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img"
                aria-label=(self.title) {
                (before)
                @for element in &self.body { (element) }
            }
        }
    }
}

/// A place in user units, as exact as a screen shows it.
fn tenths(place: f64) -> String {
    format!("{place:.1}")
}

/// Colours there are; the sides beyond take them again.
pub(super) const SIDES: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn scales_are_marked_at_round_figures() {
        let whole = |value: f64| format!("{value:.0}");
        assert_eq!(labels(&Scale::linear([3.0, 97.0], true, whole)), ["0", "50", "100"]);
        assert_eq!(labels(&Scale::linear([100.0, 104.0], false, whole)), ["100", "102", "104"]);
        assert_eq!(
            labels(&Scale::logarithmic([90.0, 1100.0], whole)),
            ["100", "200", "500", "1000"]
        );
        assert_eq!(
            labels(&Scale::logarithmic([1.0, 1e5], whole)),
            ["1", "10", "100", "1000", "10000", "100000"]
        );
    }

    #[test]
    fn a_scale_of_nothing_or_of_one_value_can_be_drawn() {
        let whole = |value: f64| format!("{value:.0}");
        for scale in [
            Scale::linear([], true, whole),
            Scale::linear([5.0], false, whole),
            Scale::linear([0.0], false, whole),
            Scale::logarithmic([], whole),
            Scale::logarithmic([7.0], whole),
        ] {
            assert!(scale.place(5.0).is_finite(), "{scale:?}");
        }
    }

    #[test]
    fn text_cannot_become_markup() {
        let scale = || Scale::marked(0.0..=1.0, Vec::new());
        assert!(
            !Chart::new("<script>", "<x>", scale(), scale())
                .file()
                .into_string()
                .contains("<script>")
        );
    }
}

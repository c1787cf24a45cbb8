//! Change points of a series: places at which its level changes.
//!
//! M. Fleming and others, "Hunter: Using Change Point Detection to Hunt for Performance
//! Regressions", ICPE 2023 (Apache Otava is its implementation). It divides a series as E-divisive
//! does (D. S. Matteson, N. A. James, "A Nonparametric Approach for Multiple Change Point Analysis
//! of Multivariate Data", JASA 109, 2014), and replaces its permutation test by Student's t-test:
//! so a short series can have change points, and the same series always has the same ones.
//!
//! 1. **Divide**: within windows that overlap by half, the best candidate of all stretches is kept
//!    if the t-test between both of its sides says so at a relaxed level. Then the next one is
//!    looked for.
//! 2. **Merge**: the weakest change point is removed until all that are left are significant at the
//!    level asked for, and large enough. Its neighbours are then tested anew.
//!
//! Otava's merge tests the removed point's successor and the one after that anew, and not its
//! predecessor, whose right side has become another one. Here both neighbours are.

use super::student;

/// Values of a window. Otava's usual window of 50 misses most levels that last for six to ten
/// values and return, because their test is against all the rest of the window: of steps of 3 % in
/// recorded noise it finds 58 %, and a window of 16 finds 93 % (both at 0.1 %).
const WINDOW: usize = 16;
/// The level of the test. A loose one pays, because a duel can acquit what it finds by chance.
pub(crate) const MOST_P: f64 = 0.005;

/// A place at which the level changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ChangePoint {
    /// Index of the first value of the new level.
    pub(crate) index: usize,
    /// Mean from the change point before to this one.
    pub(crate) before: f64,
    /// Mean from here to the next one.
    pub(crate) after: f64,
    /// Two-sided p-value of the t-test between both. It was chosen among many, so it says less than
    /// that of a test planned beforehand.
    pub(crate) p: f64,
}

impl ChangePoint {
    /// Ratio of the new level to the old one.
    pub(crate) fn ratio(&self) -> f64 {
        self.after / self.before
    }

    /// The larger of both relative changes, from either side.
    fn magnitude(&self) -> f64 {
        (self.ratio() - 1.0).abs().max((1.0 / self.ratio() - 1.0).abs())
    }

    /// Tests the stretch `from..index` against `index..to`.
    fn between(series: &[f64], from: usize, index: usize, to: usize) -> Self {
        let ((before, spread), (after, other)) =
            (moments(&series[from..index]), moments(&series[index..to]));
        let (n, m) = ((index - from) as f64, (to - index) as f64);
        let freedom = n + m - 2.0;
        let p = if freedom < 1.0 {
            1.0
        } else {
            let pooled = ((n - 1.0) * spread + (m - 1.0) * other) / freedom;
            let t = (after - before) / (pooled * (1.0 / n + 1.0 / m)).sqrt();
            // Two stretches without spread and of one level.
            if t.is_nan() { 1.0 } else { student::two_sided(t, freedom) }
        };
        Self { index, before, after, p }
    }
}

/// Returns the change points of finite values, the earliest first: significant below `max_p`, and
/// of a relative change above `min_change`.
pub(crate) fn change_points(series: &[f64], max_p: f64, min_change: f64) -> Vec<ChangePoint> {
    let relaxed = match max_p {
        p if p < 0.05 => 10.0 * p,
        p if p < 0.5 => 2.0 * p,
        p => p,
    };
    merge(series, tested(series, &divide(series, relaxed)), max_p, min_change)
}

/// Returns the candidates of all windows.
fn divide(series: &[f64], max_p: f64) -> Vec<usize> {
    let (mut found, mut start) = (Vec::new(), 0);
    while start < series.len() {
        let window = &series[start..series.len().min(start + WINDOW)];
        let here = divide_window(window, max_p);
        let last = here.last().map_or(0, |index| start + index);
        found.extend(here.into_iter().map(|index| start + index));
        start = last.max(start + WINDOW / 2);
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn divide_window(window: &[f64], max_p: f64) -> Vec<usize> {
    let distances = Distances::of(window);
    let mut borders = vec![0, window.len()];
    loop {
        let stretches = borders.windows(2).map(|pair| (pair[0], pair[1]));
        let candidates =
            stretches.filter_map(|(from, to)| Some((distances.candidate(from, to)?, from, to)));
        let first_best =
            candidates.reduce(|best, next| if next.0.1 > best.0.1 { next } else { best });
        let Some(((index, _), from, to)) = first_best else { break };
        if ChangePoint::between(window, from, index, to).p > max_p {
            break;
        }
        borders.push(index);
        borders.sort_unstable();
    }
    borders[1..borders.len() - 1].to_vec()
}

fn tested(series: &[f64], indices: &[usize]) -> Vec<ChangePoint> {
    let from = |place: usize| if place == 0 { 0 } else { indices[place - 1] };
    let to = |place: usize| indices.get(place + 1).copied().unwrap_or(series.len());
    let of = |place: usize| ChangePoint::between(series, from(place), indices[place], to(place));
    (0..indices.len()).map(of).collect()
}

fn merge(
    series: &[f64],
    mut points: Vec<ChangePoint>,
    max_p: f64,
    min_change: f64,
) -> Vec<ChangePoint> {
    let place_of = |points: &[ChangePoint], weakness: &dyn Fn(&ChangePoint) -> f64| {
        let places = (0..points.len()).rev();
        places.max_by(|&a, &b| weakness(&points[a]).total_cmp(&weakness(&points[b])))
    };
    while let Some(least_certain) = place_of(&points, &|point| point.p) {
        let mut weakest = least_certain;
        if points[weakest].p < max_p {
            weakest = place_of(&points, &|point| -point.magnitude()).unwrap_or(weakest);
            if points[weakest].magnitude() > min_change {
                break;
            }
        }
        points.remove(weakest);
        let indices: Vec<usize> = points.iter().map(|point| point.index).collect();
        points = tested(series, &indices);
    }
    points
}

/// Mean and variance of a stretch, the latter over the number of its values.
fn moments(stretch: &[f64]) -> (f64, f64) {
    let count = stretch.len() as f64;
    let mean = stretch.iter().sum::<f64>() / count;
    (mean, stretch.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count)
}

/// Sums of the distances between the values of a window.
struct Distances {
    values: usize,
    /// Sum over the first `row` values against the first `column`.
    sums: Vec<f64>,
}

impl Distances {
    fn of(window: &[f64]) -> Self {
        let values = window.len();
        let mut sums = vec![0.0; (values + 1) * (values + 1)];
        for (row, a) in window.iter().enumerate() {
            let mut of_row = 0.0;
            for (column, b) in window.iter().enumerate() {
                of_row += (a - b).abs();
                sums[(row + 1) * (values + 1) + column + 1] =
                    sums[row * (values + 1) + column + 1] + of_row;
            }
        }
        Self { values, sums }
    }

    /// Sum of the distances between two stretches.
    fn between(&self, (from, to): (usize, usize), (begin, end): (usize, usize)) -> f64 {
        let at = |row: usize, column: usize| self.sums[row * (self.values + 1) + column];
        at(to, end) - at(from, end) - at(to, begin) + at(from, begin)
    }

    /// Sum of the distances of all pairs within a stretch, over its length less one.
    fn within(&self, from: usize, to: usize) -> f64 {
        let others = (to - from - 1) as f64;
        if others < 1.0 { 0.0 } else { self.between((from, to), (from, to)) / 2.0 / others }
    }

    /// The best place to divide `from..to`, and how far its sides are apart: those from `from` to
    /// the place, and from there to any later one. `None` where there is nothing to divide.
    fn candidate(&self, from: usize, to: usize) -> Option<(usize, f64)> {
        let mut best: Option<(usize, f64)> = None;
        for place in from + 1..to {
            for end in place + 1..=to {
                let (n, m) = ((place - from) as f64, (end - place) as f64);
                let apart = self.between((from, place), (place, end))
                    - m * self.within(from, place)
                    - n * self.within(place, end);
                let apart = 2.0 / (n + m) * apart;
                if best.is_none_or(|(_, most)| apart > most) {
                    best = Some((place, apart));
                }
            }
        }
        best
    }
}

#[cfg(test)]
mod tests;

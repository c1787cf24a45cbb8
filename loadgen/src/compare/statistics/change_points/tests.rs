//! By properties, and against Apache Otava where Python has it.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::compare::recorded;
use crate::run::Random;

/// A series of levels, each with its number of values, and noise of about `noise` relative.
fn series(levels: &[(f64, usize)], noise: f64, seed: u64) -> Vec<f64> {
    let mut random = Random(seed);
    let mut uniform = || random.next() as f64 / u64::MAX as f64 - 0.5;
    let mut value = |level: f64| {
        let spread: f64 = (0..6).map(|_| uniform()).sum();
        level * (1.0 + noise * spread)
    };
    levels.iter().flat_map(|&(level, count)| vec![level; count]).map(&mut value).collect()
}

fn indices(series: &[f64]) -> Vec<usize> {
    change_points(series, MOST_P, 0.005).iter().map(|point| point.index).collect()
}

#[test]
fn a_step_is_found_where_it_is() {
    let stepped = series(&[(100.0, 12), (103.0, 14), (101.0, 9)], 0.005, 1);
    let found = change_points(&stepped, MOST_P, 0.005);
    assert_eq!(found.iter().map(|point| point.index).collect::<Vec<_>>(), [12, 26]);
    assert!((found[0].ratio() - 1.03).abs() < 0.005 && found[0].p < 1e-6, "{found:?}");
    assert!((found[1].before - 103.0).abs() < 0.5, "{found:?}");
}

#[test]
fn a_level_that_returns_soon_is_found() {
    let back = series(&[(100.0, 9), (103.0, 7), (100.0, 7), (97.0, 8), (100.0, 9)], 0.004, 5);
    assert_eq!(indices(&back), [9, 16, 23, 31]);
}

#[test]
fn nothing_is_found_in_nothing() {
    for quiet in [&[][..], &[1.0], &[1.0, 2.0], &[5.0; 40]] {
        assert!(indices(quiet).is_empty(), "{quiet:?}");
    }
}

#[test]
fn a_step_without_noise_is_certain() {
    let found = change_points(&[vec![4.0; 6], vec![5.0; 6]].concat(), MOST_P, 0.01);
    assert_eq!(found, [ChangePoint { index: 6, before: 4.0, after: 5.0, p: 0.0 }]);
}

#[test]
fn a_step_that_is_too_small_is_left_out() {
    let small = series(&[(100.0, 20), (100.6, 20)], 0.001, 3);
    assert_eq!(change_points(&small, MOST_P, 0.001).len(), 1);
    assert!(change_points(&small, MOST_P, 0.01).is_empty());
}

proptest! {
    #[test]
    fn the_unit_does_not_matter(values in prop::collection::vec(90.0..110.0f64, 0..70)) {
        // A power of two: no rounding.
        let scaled: Vec<f64> = values.iter().map(|value| value * 1024.0).collect();
        prop_assert_eq!(indices(&values), indices(&scaled));
    }

    #[test]
    fn what_is_found_is_in_order_significant_and_large(
        values in prop::collection::vec(90.0..110.0f64, 0..70)
    ) {
        let found = change_points(&values, 0.05, 0.01);
        prop_assert!(found.windows(2).all(|pair| pair[0].index < pair[1].index));
        for point in found {
            prop_assert!(point.p < 0.05 && point.magnitude() > 0.01, "{:?}", point);
            prop_assert!((1..values.len()).contains(&point.index), "{:?}", point);
        }
    }
}

/// Otava's change points of the series, with the retest of both neighbours as here.
const ORACLE: &str = r"
import json, sys
from otava import analysis
def merge(points, series, max_p, least):
    tester = analysis.TTestSignificanceTester(max_p)
    while points:
        weakest = max(points, key=lambda c: c.stats.pvalue)
        if weakest.stats.pvalue < max_p:
            weakest = min(points, key=lambda c: c.stats.change_magnitude())
            if weakest.stats.change_magnitude() > least:
                break
        del points[points.index(weakest)]
        intervals = tester.get_intervals(points)
        points = [tester.change_point(c.to_candidate(), series, intervals) for c in points]
    return points
asked = json.load(sys.stdin)
window, max_p, least = asked['window'], asked['max_p'], asked['min_change']
found = []
for series in asked['series']:
    own, _ = analysis.compute_change_points(list(series), window, max_p, least)
    weak = analysis.split(list(series), window, 10 * max_p)
    both = merge(weak, list(series), max_p, least)
    found.append({'otava': [int(c.index) for c in own], 'both': [[int(c.index), float(c.stats.pvalue)] for c in both]})
json.dump(found, sys.stdout)
";

#[derive(Deserialize)]
struct Found {
    otava: Vec<usize>,
    both: Vec<(usize, f64)>,
}

/// Python, as the tests of the server name it.
fn python() -> String {
    std::env::var("SPARRING_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn ask_otava(all: &[Vec<f64>], min_change: f64) -> Vec<Found> {
    let asked = serde_json::json!({
        "series": all, "window": WINDOW, "max_p": MOST_P, "min_change": min_change
    });
    let mut child = Command::new(python())
        .args(["-c", ORACLE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    child.stdin.take().expect("piped").write_all(asked.to_string().as_bytes()).expect("series");
    let output = child.wait_with_output().expect("python");
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).expect("change points")
}

/// Synthetic series with and without steps, and stretches of recorded runs with and without.
fn trials() -> Vec<Vec<f64>> {
    let mut all = Vec::new();
    for seed in 0..16 {
        for noise in [0.002, 0.01, 0.02] {
            let n = 5 + seed as usize % 9;
            all.push(series(&[(100.0, 3 * n)], noise, seed));
            all.push(series(&[(100.0, n), (103.0, n), (99.0, n), (104.0, 2 * n)], noise, seed));
        }
    }
    let runs = recorded::levels();
    for (start, step) in (0..runs.len() - 60).step_by(12).zip([0, 10, 20, 30].into_iter().cycle()) {
        let mut values = runs[start..start + 60].to_vec();
        values[60 - step..].iter_mut().for_each(|value| *value *= 1.04);
        all.push(values);
    }
    all
}

#[test]
fn otava_finds_the_same_change_points() {
    let has_it = Command::new(python())
        .args(["-c", "import otava.analysis"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_it {
        println!("skipped: no otava in {} (pip install apache-otava)", python());
        return;
    }
    let all = trials();
    let (mut points, mut as_released) = (0, 0);
    for (values, found) in all.iter().zip(ask_otava(&all, 0.005)) {
        let own = change_points(values, MOST_P, 0.005);
        let own_indices: Vec<usize> = own.iter().map(|point| point.index).collect();
        let indices: Vec<usize> = found.both.iter().map(|(index, _)| *index).collect();
        assert_eq!(own_indices, indices, "{values:?}");
        for (point, (_, p)) in own.iter().zip(found.both) {
            assert!((point.p - p).abs() <= 1e-6 * p + 1e-14, "{point:?} {p}");
        }
        points += own.len();
        as_released += usize::from(own_indices == found.otava);
    }
    assert!(points > 100, "{points} change points");
    println!("{points} change points; as released {as_released} of {} series agree", all.len());
    // Its merge does not test the neighbour before a removed point anew.
    assert!(as_released * 100 >= all.len() * 90, "{as_released} of {}", all.len());
}

//! Numbers as people read them.

use std::time::Duration;

pub(crate) fn us(ns: f64) -> f64 {
    ns / 1000.0
}

/// Formats a figure with `decimals`, or a hyphen where it is not known.
pub(crate) fn optional(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// Formats a latency in microseconds with the digits that mean something: the histogram carries
/// three.
pub(crate) fn latency(ns: Option<u64>) -> String {
    let value = ns.map(|ns| us(ns as f64));
    optional(value, if value.is_some_and(|us| us < 100.0) { 1 } else { 0 })
}

/// Formats nanoseconds in the unit that people read most easily, with three digits or so.
pub(crate) fn span(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..100_000 => format!("{:.1} us", ns as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

/// Returns a time rounded to seconds or minutes, for what is still to come.
pub(crate) fn about(span: Duration) -> String {
    let seconds = span.as_secs_f64().ceil();
    if seconds < 90.0 { format!("{seconds} s") } else { format!("{:.0} min", seconds / 60.0) }
}

/// Formats a number of things: `1 message`, `2,000 messages`.
pub(crate) fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(n as f64), if n == 1 { "" } else { "s" })
}

/// Formats a whole number with a comma every three digits.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a figure of unknown size with the digits that mean something.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1000.0.. => grouped(value),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Formats a ratio as a change: `+5.0 %`.
pub(crate) fn change(ratio: f64) -> String {
    let change = (ratio - 1.0) * 100.0;
    // What rounds to nothing has no sign.
    if change.abs() < 0.05 { "0.0 %".to_owned() } else { format!("{change:+.1} %") }
}

/// Formats the interval of a ratio as changes, or a hyphen where there is none.
pub(crate) fn change_interval(interval: Option<(f64, f64)>) -> String {
    interval.map_or_else(
        || "-".to_owned(),
        |(low, high)| format!("{} to {}", change(low), change(high)),
    )
}

pub(crate) fn share(share: f64, decimals: usize) -> String {
    format!("{:.decimals$} %", share * 100.0)
}

/// The first digits of a commit, enough to tell it apart.
pub(crate) fn commit(commit: Option<&str>) -> &str {
    commit.map_or("unknown", |commit| commit.get(..12).unwrap_or(commit))
}

/// Meaning of a word that every rendering marks in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A fault, or a change to the worse.
    Bad,
    /// Something that is not certain, or not complete.
    Doubtful,
    /// A change to the better.
    Good,
}

/// Returns the meaning of a verdict or a problem; `None` of any other word.
pub(crate) fn tone(word: &str) -> Option<Tone> {
    match word {
        "INVALID" | "REGRESSED" | "regressed" | "MISSED" | "FAILED" | "INVALIDATES" | "WRONG"
        | "NO" => Some(Tone::Bad),
        "INCONCLUSIVE" | "inconclusive" | "CANNOT" | "INTERRUPTED" | "ENDED" | "FORCED"
        | "ADVISORY" | "limited" => Some(Tone::Doubtful),
        "IMPROVED" | "improved" => Some(Tone::Good),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_singular() {
        assert_eq!(
            [0, 1, 2000].map(|n| count(n, "thread")),
            ["0 threads", "1 thread", "2,000 threads"]
        );
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (value, text) in
            [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.8, "1,234,568")]
        {
            assert_eq!(grouped(value), text);
        }
    }

    #[test]
    fn a_latency_shows_three_digits_and_an_unknown_one_a_hyphen() {
        let shown = [Some(12_345), Some(123_456), None].map(latency);
        assert_eq!(shown, ["12.3", "123", "-"]);
    }

    #[test]
    fn spans_have_the_unit_that_fits() {
        let spans = [999, 1_500, 336_400, 2_120_000, 3_500_000_000].map(span);
        assert_eq!(spans, ["999 ns", "1.5 us", "336 us", "2.12 ms", "3.50 s"]);
    }

    #[test]
    fn figures_have_the_digits_that_mean_something() {
        let shown = [0.0312, 3.456, 34.56, 345.6, 345_678.9].map(figure);
        assert_eq!(shown, ["0.031", "3.46", "34.6", "346", "345,679"]);
        assert_eq!([1.05, 0.999, 1.0004].map(change), ["+5.0 %", "-0.1 %", "0.0 %"]);
        assert_eq!(change_interval(Some((0.98, 1.02))), "-2.0 % to +2.0 %");
    }
}

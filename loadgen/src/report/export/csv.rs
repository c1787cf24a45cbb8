//! One line for each second.

use std::fmt::Write as _;

use crate::result::Second;

/// Columns and their units; latencies are the corrected ones, nanoseconds.
const HEADER: &str = "second,sent,received,errors,p50_ns,p99_ns,max_ns,span_ns\n";

const SECOND_NS: u64 = 1_000_000_000;

/// Returns the seconds of the measured window, from 0. The last one may have a shorter span. A cell
/// is empty where the second does not carry the figure.
pub(crate) fn csv(series: &[Second]) -> String {
    let cell = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    series.iter().fold(HEADER.to_owned(), |mut text, entry| {
        let Second { second, sent, received, errors, p50, p99, max, span_ns } = *entry;
        let (p50, p99, max, span) = (cell(p50), cell(p99), cell(max), span_ns.unwrap_or(SECOND_NS));
        // Writing to memory does not fail.
        let _ = writeln!(text, "{second},{sent},{received},{errors},{p50},{p99},{max},{span}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_a_line_and_what_is_not_known_is_empty() {
        let full = Second {
            sent: 9,
            received: 8,
            errors: 1,
            p50: Some(5),
            p99: Some(6),
            max: Some(7),
            ..Second::default()
        };
        let bare = Second { second: 1, span_ns: Some(250_000_000), ..Second::default() };
        assert_eq!(csv(&[full, bare]), format!("{HEADER}0,9,8,1,5,6,7,1000000000\n1,0,0,0,,,,250000000\n"));
        assert_eq!(csv(&[]), HEADER);
    }
}

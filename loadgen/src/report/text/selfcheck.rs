//! Findings of `selfcheck`.

use crate::format::{grouped, span};
use crate::report::Field;
use crate::selfcheck::{Finding, Judgement, Quantile, Report, Spread, Stall};

fn spread(Spread { p50, p99, max }: Spread) -> String {
    format!("p50 {}  p99 {}  max {}", span(p50), span(p99), span(max))
}

/// Returns how exact this machine keeps time.
pub(crate) fn heading(report: &Report) -> Vec<Field> {
    vec![
        Field::new(
            "timer",
            format!("a sleep of 1 ms ends late by {}", spread(report.timer_error_ns)),
        ),
        Field::new("clock", format!("a look at it takes {:.0} ns", report.clock_ns)),
    ]
}

/// Returns what a server that stood still was reported as.
pub(crate) fn stall(of: &Stall) -> Vec<Field> {
    let rate = grouped(of.rate_per_s);
    let stood = format!(
        "the server stood still for {} of {} at {rate} msg/s",
        span(of.stall_ns),
        span(of.window_ns)
    );
    let mut lines = vec![
        Field::new("lag", format!("at {rate} msg/s {}", spread(of.lag_ns))),
        Field::new("stall", format!("{}: {stood}", word(of.finding()))),
    ];
    lines.extend(of.quantiles.iter().map(quantile));
    lines
}

fn quantile(quantile: &Quantile) -> Field {
    let Quantile { q, expected, corrected, uncorrected, finding } = *quantile;
    let text = format!(
        "{}: {} from the planned send, arithmetic says {}; {} from the actual send",
        word(finding),
        span(corrected),
        span(expected),
        span(uncorrected)
    );
    Field::new(format!("  p{:.0}", q * 100.0), text)
}

/// Returns what a known fault was reported as.
pub(crate) fn case(judgement: &Judgement) -> Vec<Field> {
    let Judgement { case, finding, observed, deviations, attempts, .. } = judgement;
    let again = if *attempts > 1 { format!(" ({attempts} attempts)") } else { String::new() };
    let first = Field::new(case.name(), format!("{}: {observed}{again}", word(*finding)));
    let others = deviations.iter().map(|deviation| Field::new("", format!("  {deviation}")));
    [first].into_iter().chain(others).collect()
}

fn word(finding: Finding) -> &'static str {
    match finding {
        Finding::Right => "right",
        Finding::Wrong => "WRONG",
        Finding::Disturbed => "disturbed",
    }
}

pub(crate) fn conclusion(finding: Finding) -> &'static str {
    match finding {
        Finding::Right => "The generator measures what it says.",
        Finding::Wrong => {
            "WRONG: the generator does not measure what it says here; please report this."
        }
        Finding::Disturbed => {
            "DISTURBED: the machine is too busy to tell; see sparring-loadgen doctor."
        }
    }
}

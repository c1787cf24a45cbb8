//! Latency and CPU time that proxies add, in a session with a server behind one.

use super::side_by_side::first;
use crate::compare::Metric;
use crate::compare::sides::{is_sound, pairs_of_two};
use crate::compare::statistics::{Estimate, difference_of_pairs};
use crate::format::{latency, optional, us};
use crate::report::{Blocks, Table};
use crate::result::{Arm, Document, Run, Scenario, median};

/// Returns the arms of every scenario with the CPU time of server and proxy, and what each arm has
/// beyond the first one. Empty where no server is behind a proxy.
pub(crate) fn proxied(document: &Document) -> Blocks {
    let Some(first) = first(document) else { return Blocks::default() };
    if document.runs.iter().all(|run| run.proxy.is_none()) {
        return Blocks::default();
    }
    let mut rows = Vec::new();
    for scenario in &document.scenarios {
        let mut shown = scenario.name.as_str();
        for Arm { name, .. } in &document.arms {
            let Some(figures) = figures(document, scenario, [first, name]) else { continue };
            let names = vec![std::mem::take(&mut shown).to_owned(), name.clone()];
            rows.push([names, figures].concat());
        }
    }
    if rows.is_empty() {
        return Blocks::default();
    }
    let header = [
        "\nscenario",
        "\narm",
        "p50\nus",
        "p99\nus",
        "server\nus/msg",
        "proxy\nus/msg",
        "p50 added\nus (95 %)",
        "p99 added\nus (95 %)",
        "CPU added\nus/msg (95 %)",
    ];
    let legend = format!(
        "added: difference to {first} within each round. The CPU time added is that of the proxy, and \
         what\nthe server takes more or less behind it."
    );
    Blocks::default().table(Table::new(header, 2, [3, 7, 2]).rows(rows)).legend(vec![legend])
}

/// Returns the CPU time of server and proxy together for a message, nanoseconds.
fn cpu_of_both(run: &Run) -> Option<f64> {
    let proxy = run.proxy.as_ref().map_or(0.0, |proxy| proxy.cpu_ns_per_message);
    Some(run.server.as_ref()?.cpu_ns_per_message + proxy)
}

/// Returns the figures of an arm; `None` where it has no valid run.
fn figures(
    document: &Document,
    scenario: &Scenario,
    [first, arm]: [&str; 2],
) -> Option<Vec<String>> {
    let runs = document.runs_of(&scenario.name, arm);
    let sound: Vec<&Run> = runs.into_iter().filter(|run| is_sound(run)).collect();
    let of = |metric: Metric| move |run: &Run| metric.of(run, &scenario.parameters);
    let middle = |value: &dyn Fn(&Run) -> Option<f64>| {
        let values: Option<Vec<f64>> = sound.iter().map(|run| value(run)).collect();
        values.and_then(median)
    };
    let pairs = pairs_of_two(document, [first, arm], &scenario.name);
    let added = |value: &dyn Fn(&Run) -> Option<f64>| {
        let pairs: Option<Vec<_>> =
            pairs.iter().map(|(before, after)| Some((value(before)?, value(after)?))).collect();
        let estimate = pairs.filter(|_| arm != first).and_then(|pairs| difference_of_pairs(&pairs));
        estimate.map(shown).unwrap_or_default()
    };
    let (p50, p99) = (of(Metric::P50), of(Metric::P99));
    Some(vec![
        latency(middle(&p50).map(|ns| ns as u64)),
        latency(middle(&p99).map(|ns| ns as u64)),
        optional(Some(us(middle(&of(Metric::ServerCpu))?)), 2),
        optional(middle(&of(Metric::ProxyCpu)).map(us), 2),
        added(&p50),
        added(&p99),
        added(&cpu_of_both),
    ])
}

/// Formats a difference in nanoseconds as microseconds.
fn shown(difference: Estimate) -> String {
    let number = |ns: f64| format!("{:+.2}", us(ns));
    let shift = number(difference.shift);
    match difference.interval {
        Some((low, high)) => format!("{shift} ({} to {})", number(low), number(high)),
        None => shift,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::rounds;
    use crate::report::Format;
    use crate::result::Server;

    /// Returns ten rounds in which the second arm is behind a proxy that takes 9 us for a message.
    fn document() -> Document {
        let mut document = rounds(1.0, 10);
        for run in document.runs.iter_mut().filter(|run| run.arm == "slow") {
            run.proxy = Some(Server { cpu_ns_per_message: 9_000.0, ..Server::default() });
            run.latency_ns.corrected.p50 = run.latency_ns.corrected.p50.map(|ns| ns + 35_000);
        }
        document
    }

    #[test]
    fn latency_and_cpu_time_that_a_proxy_adds_are_shown() {
        let text = proxied(&document()).render(Format::Terminal { width: 160 });
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("  ")).collect();
        let find = |arm: &str| rows.iter().find(|row| row.contains(arm)).expect("a row");
        let (direct, behind) = (find(" quick "), find(" slow "));
        assert!(!direct.contains('+') && direct.trim_end().ends_with('-'), "{text}");
        assert!(behind.contains(" 9.00 ") && behind.contains("+35.00 (+35.00 to"), "{text}");
        let cpu = behind.split_whitespace().filter(|word| word.starts_with("+9.")).count();
        assert!(cpu > 0, "{text}");
    }

    #[test]
    fn nothing_is_shown_without_a_proxy() {
        let text = proxied(&rounds(1.25, 10)).render(Format::Terminal { width: 160 });
        assert_eq!(text.trim(), "");
    }
}

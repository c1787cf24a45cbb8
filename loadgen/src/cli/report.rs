//! A run as text for people.

use std::fmt::Write as _;

use crate::load::Payload;
use crate::result::table::{self, count, grouped};
use crate::result::text_table::wrapped_figures;
use crate::result::{
    Censored, EndedEarly, Errors, Integrity, Latencies, Latency, Messages, Outages, Run, Server, percentile,
};
use crate::run::Plan;

/// Fewest connections with which the growth of the server's memory is theirs.
const MANY_CONNECTIONS: u32 = 1000;

/// Returns the figures of one run in a dozen lines of at most `width` columns, and its notes as
/// whole lines below. `percentiles` are those of the latency to show, 0 to 100; none: the usual
/// ones.
pub(super) fn report(plan: &Plan, run: &Run, percentiles: &[f64], width: usize) -> String {
    let mut lines = vec![line("rate", &rate(plan, run)), line("latency", &bounded_latency(run, percentiles))];
    if plan.load.rate_per_s.is_some() {
        lines.extend(parts(run, percentiles));
    }
    lines.extend([line("connect", &connect(plan, run))]);
    lines.extend(opening(plan, run, percentiles));
    lines.extend([line("echoes", &echoes(plan, run.integrity)), line("errors", &errors(run.errors))]);
    lines.extend(run.messages.map(|messages| line("messages", &outcomes(messages))));
    lines.extend(run.outages.map(|outages| line("outages", &outage(outages))));
    lines.extend(run.server.as_ref().map(|server| line("server", &server_cost(plan, server))));
    lines.extend(run.server.as_ref().and_then(counters));
    lines.push(line("generator", &generator(plan, run)));
    let figures = lines.iter().map(|line| wrapped_figures(line, width, INDENT));
    let mut lines: Vec<String> =
        [wrapped_figures(&heading(plan, run), width, 2), String::new()].into_iter().chain(figures).collect();
    if run.interrupted {
        lines.push(line("", "INTERRUPTED: the figures are those of the part that was measured"));
    }
    if let Some(EndedEarly { after_ns, cause }) = &run.ended_early {
        let text = format!(
            "ENDED EARLY after {} of load: {cause}; the figures are those of what was measured",
            span(*after_ns)
        );
        lines.push(line("", &text));
    }
    lines.extend(run.notes.iter().map(|note| line("", &format!("note: {note}"))));
    lines.extend(run.invalid_reasons.iter().map(|reason| line("", &format!("INVALID: {reason}"))));
    lines.join("\n")
}

/// Columns before the text of a line.
const INDENT: usize = 13;

pub(super) fn line(label: &str, text: &str) -> String {
    format!("  {label:<10} {text}").trim_end().to_owned()
}

fn heading(plan: &Plan, run: &Run) -> String {
    let kind = match plan.load.payload {
        Payload::Binary => "binary",
        Payload::TextAscii => "ASCII text",
        Payload::TextMixed => "mixed-script text",
    };
    format!(
        "{}: {}{}{}, {} B {kind}, {}, engine {}, {}",
        place(plan, run),
        count(plan.load.connections.into(), "connection"),
        if plan.load.idle > 0 {
            format!(" and {} idle", grouped(plan.load.idle.into()))
        } else {
            String::new()
        },
        load(plan),
        sizes(plan),
        count(plan.placement.threads.into(), "thread"),
        run.client.engine,
        window(run.phases.measure),
    )
}

/// Returns the URL, with the address in use where the URL has a host name.
fn place(plan: &Plan, run: &Run) -> String {
    let is_address = plan.target.url.host.parse::<std::net::IpAddr>().is_ok();
    match run.address.as_deref().filter(|_| !is_address) {
        Some(address) => format!("{} at {address}", plan.target.url),
        None => plan.target.url.to_string(),
    }
}

/// Seconds; of a shorter one, as `-n` may end it, so much that it is not nothing.
fn window(ns: u64) -> String {
    if ns < 100_000_000 { span(ns) } else { format!("{:.1} s", ns as f64 / 1e9) }
}

fn sizes(plan: &Plan) -> String {
    let sizes = plan.load.message_bytes.weighted();
    let each: Vec<String> = sizes.iter().map(|(size, _)| grouped(*size as f64)).collect();
    each.join(" to ")
}

fn load(plan: &Plan) -> String {
    match plan.load.rate_per_s {
        None => format!(" x {} deep", plan.load.pipeline),
        Some(rate) => format!(", {} msg/s planned ({})", grouped(rate), plan.load.arrival),
    }
}

fn rate(plan: &Plan, run: &Run) -> String {
    let planned = match plan.load.rate_per_s {
        None => String::new(),
        Some(_) => format!(" of {} planned", grouped(run.offered() as f64)),
    };
    format!(
        "{} msg/s, {:.1} MB/s each way ({} received{planned})",
        grouped(run.rate_per_s),
        run.bytes_per_s / 1e6,
        grouped(run.received as f64),
    )
}

/// Where the latency of an open loop comes from, with a line that explains where it is not the server alone.
fn parts(run: &Run, percentiles: &[f64]) -> Vec<String> {
    let Latencies { corrected, lag, .. } = &run.latency_ns;
    let uncorrected = run.latency_ns.uncorrected();
    let part = |name, part| line(name, &latency(part, percentiles));
    let mut lines = vec![part("  server", uncorrected), part("  lag", lag)];
    if differ(corrected, uncorrected) {
        lines.push(line(
            "",
            "latency runs from the planned send to the echo: of that, server from the actual send, lag before it",
        ));
    }
    lines
}

/// Returns true where some figure is more than a tenth apart, so that a reader would wonder.
fn differ(a: &Latency, b: &Latency) -> bool {
    let figures = |latency: &Latency| [latency.p50, latency.p99, latency.p99_9, Some(latency.max)];
    let is_apart = |(a, b): (Option<u64>, Option<u64>)| match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) * 10 > a.max(b),
        _ => false,
    };
    figures(a).into_iter().zip(figures(b)).any(is_apart)
}

/// Formats the latency of the run, with a mark at each figure that is a lower bound.
fn bounded_latency(run: &Run, percentiles: &[f64]) -> String {
    let text = marked(&run.latency_ns.corrected, percentiles, run.censored);
    let Some(Censored { count, .. }) = run.censored else { return text };
    format!("{text}  (>=: {} had no echo)", table::count(count, "message"))
}

/// Percentiles only where the sample carries them.
fn latency(latency: &Latency, percentiles: &[f64]) -> String {
    marked(latency, percentiles, None)
}

fn marked(latency: &Latency, percentiles: &[f64], censored: Option<Censored>) -> String {
    if latency.count == 0 {
        return "no samples".to_owned();
    }
    let mark = |q: f64| if censored.is_some_and(|censored| censored.bounds(q)) { ">=" } else { "" };
    let mut text =
        if percentiles.is_empty() { usual(latency, mark) } else { wanted(latency, percentiles, mark) };
    let all = mark(1.0);
    let _ = write!(text, "max {all}{}  mean {all}{}", span(latency.max), span(latency.mean as u64));
    text
}

/// The percentiles that were asked for. One that the sample does not carry is said to be missing.
fn wanted(latency: &Latency, percentiles: &[f64], mark: impl Fn(f64) -> &'static str) -> String {
    let histogram = latency.histogram().ok().flatten();
    percentiles.iter().fold(String::new(), |mut text, percent| {
        let q = percent / 100.0;
        let value = histogram.as_ref().and_then(|histogram| percentile(histogram, q));
        let value =
            value.map_or_else(|| "(too few samples)".to_owned(), |ns| format!("{}{}", mark(q), span(ns)));
        let _ = write!(text, "p{percent} {value}  ");
        text
    })
}

fn usual(latency: &Latency, mark: impl Fn(f64) -> &'static str) -> String {
    let percentiles = [
        ("p50", 0.5, latency.p50),
        ("p90", 0.9, latency.p90),
        ("p99", 0.99, latency.p99),
        ("p99.9", 0.999, latency.p99_9),
        ("p99.99", 0.9999, latency.p99_99),
    ];
    let shown = percentiles.iter().filter_map(|&(name, q, ns)| Some((name, mark(q), span(ns?))));
    shown.map(|(name, mark, span)| format!("{name} {mark}{span}  ")).collect()
}

/// The parts of connecting and the rate of cycles, where connections come and go; pings, where there are some.
fn opening(plan: &Plan, run: &Run, percentiles: &[f64]) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(cycles) = run.cycles {
        let text = format!(
            "{} connections/s ({} closed and replaced)",
            grouped(cycles.rate_per_s),
            grouped(cycles.count as f64)
        );
        lines.push(line("cycles", &text));
    }
    let has_tls = run.latency_ns.tls_handshake.is_some();
    if run.cycles.is_some() || has_tls || plan.load.connections >= MANY_CONNECTIONS {
        let parts = [
            ("  tcp", &run.latency_ns.tcp_connect),
            ("  tls", &run.latency_ns.tls_handshake),
            ("  upgrade", &run.latency_ns.handshake),
        ];
        lines.extend(
            parts.iter().filter_map(|(name, part)| Some(line(name, &latency(part.as_ref()?, percentiles)))),
        );
    }
    lines.extend(run.pings.map(|pings| {
        line(
            "pings",
            &format!("{} sent, {} answered", grouped(pings.sent as f64), grouped(pings.answered as f64)),
        )
    }));
    lines
}

fn echoes(plan: &Plan, faults: Integrity) -> String {
    if !plan.load.verify && faults.total() == 0 {
        return "counted, not looked at (--no-verify)".to_owned();
    }
    integrity(faults)
}

fn connect(plan: &Plan, run: &Run) -> String {
    let each = &run.latency_ns.connect;
    format!(
        "{} open after {}; each {}",
        count(plan.load.all_connections(), "connection"),
        span(run.phases.connect),
        latency(each, &[])
    )
}

fn integrity(integrity: Integrity) -> String {
    let Integrity { lost, lost_with_connection, duplicated, reordered, corrupted, wrong_opcode, unsolicited } =
        integrity;
    listed(
        "all as they were sent (every one checked)",
        &[
            (lost - lost_with_connection, "lost"),
            (lost_with_connection, "lost with their connections"),
            (duplicated, "duplicated"),
            (reordered, "reordered"),
            (corrupted, "corrupted"),
            (wrong_opcode, "with the wrong opcode"),
            (unsolicited, "that nobody asked for"),
        ],
    )
}

/// Formats the outcomes of all messages, warm-up and drain included. Both sums hold.
fn outcomes(messages: Messages) -> String {
    let Messages { planned, not_sent, sent, echoed, wrong, lost, outstanding } = messages;
    let sum = |parts: &[(u64, &str)]| {
        let some =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", grouped(*n as f64)));
        some.collect::<Vec<_>>().join(" + ")
    };
    let mut text = format!("{} sent", grouped(sent as f64));
    if not_sent > 0 {
        text =
            format!("{} planned = {text} + {} not sent", grouped(planned as f64), grouped(not_sent as f64));
    }
    let outcomes = [(echoed, "echoed"), (wrong, "wrong"), (lost, "lost"), (outstanding, "outstanding")];
    if sent > 0 {
        let separator = if not_sent > 0 { "; sent = " } else { " = " };
        text += &format!("{separator}{}", sum(&outcomes));
    }
    text
}

fn outage(outages: Outages) -> String {
    let Outages { count, total_ns, longest_ns } = outages;
    format!(
        "a connection was being opened again {}: {} in all, {} at most",
        table::count(count, "time"),
        span(total_ns),
        span(longest_ns)
    )
}

fn errors(errors: Errors) -> String {
    let Errors { connect, handshake, protocol, closed, io, timeout } = errors;
    listed(
        "none",
        &[
            (connect, "not connected"),
            (handshake, "handshakes failed"),
            (protocol, "protocol errors"),
            (closed, "closed by the server"),
            (io, "failed reads or writes"),
            (timeout, "timed out"),
        ],
    )
}

fn listed(none: &str, counts: &[(u64, &str)]) -> String {
    let some =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", grouped(*n as f64)));
    let some = some.collect::<Vec<_>>().join(", ");
    if some.is_empty() { none.to_owned() } else { some }
}

fn server_cost(plan: &Plan, server: &Server) -> String {
    let mut text = format!("{:.2} us CPU per message", server.cpu_ns_per_message / 1e3);
    if let (Some(user), Some(system)) = (server.user_ns_per_message, server.system_ns_per_message) {
        let _ = write!(text, " (user {:.2}, system {:.2}, sampled)", user / 1e3, system / 1e3);
    }
    if let Some(enters) = server.enters_per_message(&plan.load) {
        let _ = write!(text, ", {enters:.3} enters per message");
    }
    if let Some(voluntary) = server.voluntary_switches_per_message
        && let Some(involuntary) = server.involuntary_switches_per_message
    {
        let _ = write!(text, ", {:.3} context switches", voluntary + involuntary);
    }
    if let Some(faults) = server.page_faults_per_message {
        let _ = write!(text, ", {faults:.4} page faults");
    }
    if let Some(rss) = server.rss_bytes {
        let _ = write!(text, ", {:.1} MB resident", rss as f64 / 1e6);
    }
    // With few connections the growth is that of a server that has begun to work.
    if let Some(growth) =
        server.rss_bytes_per_connection.filter(|_| plan.load.connections >= MANY_CONNECTIONS)
    {
        let _ = write!(text, " ({} B for each connection)", grouped(growth));
    }
    if let Some(engine) = &server.engine {
        let _ = write!(text, ", engine {engine}");
    }
    text
}

/// Returns the counts of the processor, or the reason why there are none.
fn counters(server: &Server) -> Option<String> {
    let (instructions, cycles) = (server.instructions_per_message, server.cycles_per_message);
    let counted = instructions.zip(cycles).map(|(instructions, cycles)| {
        format!("{} instructions, {} cycles per message", grouped(instructions), grouped(cycles))
    });
    let why = server.not_counted.as_ref();
    let text = counted.or_else(|| why.map(|why| format!("instructions and cycles not counted: {why}")));
    text.map(|text| line("", &text))
}

fn generator(plan: &Plan, run: &Run) -> String {
    let client = &run.client;
    let busy: Vec<String> =
        client.cpu_utilisation.iter().map(|share| format!("{:.0} %", share * 100.0)).collect();
    let mut text =
        format!("{:.2} us CPU per message, threads busy {}", client.cpu_ns_per_message / 1e3, busy.join(" "));
    if let Some(sent) = client.sent_per_enter {
        let _ = write!(text, ", {sent:.1} sent per enter");
    }
    if plan.load.rate_per_s.is_some() {
        let _ = write!(text, ", waits by {}", if client.wait == "spin" { "spinning" } else { "sleeping" });
    }
    text
}

/// Nanoseconds in the unit that people read most easily, three digits or so.
pub(super) fn span(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..100_000 => format!("{:.1} us", ns as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_spans_have_units() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,568"],
            [0.0, 999.0, 1000.0, 1_234_567.8].map(grouped).as_slice()
        );
        let spans = [999, 1_500, 336_400, 2_120_000, 3_500_000_000].map(span);
        assert_eq!(spans, ["999 ns", "1.5 us", "336 us", "2.12 ms", "3.50 s"]);
    }

    #[test]
    fn the_report_fits_80_columns_and_sentences_are_whole() {
        let url = "ws://a-host-with-a-rather-long-name.example:9001/path".parse().expect("url");
        let mut plan = Plan::new(url, engine::EngineKind::Epoll);
        (plan.load.connections, plan.load.rate_per_s) = (1_000_000, Some(1e6));
        let mut run = crate::result::example::run("echo", 20_000);
        run.rate_per_s = 12_345_678.0;
        let sentence = "The generator was the limit. ".repeat(5);
        run.invalid_reasons = vec![sentence.trim_end().to_owned()];
        let text = report(&plan, &run, &[], 80);
        assert!(text.contains(sentence.trim_end()), "{text}");
        let mut figures = text.lines().filter(|line| !line.contains("INVALID"));
        assert!(figures.all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("\n             mean 150 us"), "{text}");
    }

    #[test]
    fn only_what_happened_is_listed() {
        assert_eq!(errors(Errors::default()), "none");
        assert_eq!(
            errors(Errors { closed: 2, timeout: 1, ..Errors::default() }),
            "2 closed by the server, 1 timed out"
        );
        assert!(integrity(Integrity::default()).contains("every one checked"));
        assert_eq!(integrity(Integrity { lost: 1500, ..Integrity::default() }), "1,500 lost");
        let with_connection = Integrity { lost: 3, lost_with_connection: 3, ..Integrity::default() };
        assert_eq!(integrity(with_connection), "3 lost with their connections");
    }

    #[test]
    fn sums_of_messages_show_every_term_that_is_not_zero() {
        let right = Messages { planned: 1200, sent: 1200, echoed: 1200, ..Messages::default() };
        assert_eq!(outcomes(right), "1,200 sent = 1,200 echoed");
        let broken =
            Messages { planned: 9, not_sent: 2, sent: 7, echoed: 4, wrong: 1, lost: 1, outstanding: 1 };
        assert_eq!(
            outcomes(broken),
            "9 planned = 7 sent + 2 not sent; sent = 4 echoed + 1 wrong + 1 lost + 1 outstanding"
        );
    }

    #[test]
    fn percentiles_that_the_sample_does_not_carry_are_not_shown() {
        let few = Latency { count: 300, p50: Some(5_000), max: 9_000, mean: 5_500.0, ..Latency::default() };
        assert_eq!(latency(&few, &[]), "p50 5.0 us  max 9.0 us  mean 5.5 us");
        let censored = Some(Censored { count: 3, exact_up_to: 80.0 });
        assert_eq!(marked(&few, &[], censored), "p50 5.0 us  max >=9.0 us  mean >=5.5 us");
        assert_eq!(latency(&Latency::default(), &[]), "no samples");
    }

    #[test]
    fn chosen_percentiles_are_shown_or_named_as_missing() {
        let mut histogram = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 1_000_000, 3).expect("bounds");
        (1..=1000).for_each(|ns| histogram.record(ns).expect("in range"));
        let shown = latency(&Latency::of(&histogram), &[25.0, 87.5, 99.9]);
        assert!(
            shown.starts_with("p25 250 ns  p87.5 875 ns  p99.9 (too few samples)  max 1.0 us"),
            "{shown}"
        );
    }
}

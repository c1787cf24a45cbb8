//! The figures of one run.

use super::notes::notes;
use super::sessions::load;
use super::{stages, summary};
use crate::format::{count, grouped, span};
use crate::load::{Load, Match};
use crate::report::{Blocks, Field, Table};
use crate::result::{
    Censored, ClockOffset, CompressedMessages, Compression, Document, Errors, Integrity, Latencies,
    Latency, MANY_CONNECTIONS, MessageCost, Messages, Run, Scenario, Server, ShardLine,
    ShardRecord, percentile,
};
use crate::run::ProcessShard;

/// Returns the figures of a session's run in a dozen lines, with its notes and its goals. Of a
/// search it is the last run, below a line for each trial. `percentiles` are those of the latency
/// to show, 0 to 100; none: the usual ones.
pub(crate) fn run(document: &Document, percentiles: &[f64]) -> Blocks {
    let Some(run) = document.runs.last() else { return Blocks::default().notes(notes(document)) };
    let Some(scenario) = document.scenario(&run.scenario) else { return Blocks::default() };
    let trials = Blocks::default();
    let trials =
        if document.runs.len() > 1 { trials.table(summary::table(document)) } else { trials };
    trials
        .title(heading(scenario, run))
        .fields([figures(&scenario.parameters, run, percentiles), goals(document)].concat())
        .table(stages::table(run))
        .table(shards(run))
        .legend(explanation(run))
        .notes(remarks(run))
}

/// Returns what the table of shards needs to be read.
fn explanation(run: &Run) -> Vec<String> {
    let text = "skew: the clock of a shard minus that of the shard whose clock is in the middle";
    (!run.shards.is_empty()).then(|| text.to_owned()).into_iter().collect()
}

/// Returns a line for each shard of a merged run.
fn shards(run: &Run) -> Table {
    let header = ["shard", "connections", "msg/s", "p99", "lag p99", "skew", "valid"];
    let line = |line: &ShardLine| {
        let latency = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), span);
        let valid = match (line.counted, line.valid) {
            (false, _) => "left out",
            (true, false) => "NO",
            (true, true) => "yes",
        };
        [
            line.number.to_string(),
            grouped(line.connections as f64),
            grouped(line.rate_per_s),
            latency(line.p99),
            latency(line.lag_p99),
            line.skew.map_or_else(|| "not known".to_owned(), offset),
            valid.to_owned(),
        ]
    };
    Table::new(header, 1, [1, 4]).rows(run.shards.iter().map(line))
}

/// Formats bounds of a difference of two clocks: their middle, and the distance of both from it.
fn offset(bounds: ClockOffset) -> String {
    let (low, high) = (bounds.low_ns as f64 / 1e6, bounds.high_ns as f64 / 1e6);
    format!("{:+.1} ms +-{:.1}", f64::midpoint(low, high), (high - low) / 2.0)
}

/// Describes the part of a load that a run took.
fn shard(load: &Load, shard: &ShardRecord) -> String {
    let process = ProcessShard::new(shard.number, shard.count);
    let own = process.map_or(0, |process| process.part(load.connections.into()));
    let clock = match (&shard.clock, &shard.clock_unknown) {
        (Some(clock), _) => format!("the server's clock is {} from this machine's", offset(*clock)),
        (None, Some(why)) => format!("the server's clock is not known: {why}"),
        (None, None) => "the server's clock is not known".to_owned(),
    };
    let (own, all) = (grouped(own as f64), count(load.connections.into(), "connection"));
    format!("{} with {own} of {all}; {clock}", shard.name())
}

fn remarks(run: &Run) -> Vec<String> {
    let interrupted = "INTERRUPTED: the figures are those of the part that was measured".to_owned();
    let ended = run.ended_early.as_ref().map(|end| {
        let (after, cause) = (span(end.after_ns), &end.cause);
        format!(
            "ENDED EARLY after {after} of load: {cause}; the figures are those of what was measured"
        )
    });
    let notes = run.notes.iter().map(|note| format!("note: {note}"));
    let invalid = run.invalid_reasons.iter().map(|reason| format!("INVALID: {reason}"));
    run.interrupted
        .then_some(interrupted)
        .into_iter()
        .chain(ended)
        .chain(notes)
        .chain(invalid)
        .collect()
}

fn goals(document: &Document) -> Vec<Field> {
    let Some(goals) = document.goals() else { return Vec::new() };
    let judged = goals.thresholds.iter().map(|each| {
        Field::new(
            "threshold",
            format!("{} {}", if each.met { "met:   " } else { "MISSED:" }, each.text),
        )
    });
    let found = goals.find_rate.iter().map(|found| {
        let rate =
            found.rate_per_s.map_or("none".to_owned(), |rate| format!("{} msg/s", grouped(rate)));
        Field::new("found", format!("{rate}; {}", found.conclusion))
    });
    judged.chain(found).collect()
}

fn figures(load: &Load, run: &Run, percentiles: &[f64]) -> Vec<Field> {
    let mut fields = vec![
        Field::new("rate", rate(load, run)),
        Field::new("latency", bounded_latency(run, percentiles)),
    ];
    if load.is_open_loop() {
        fields.extend(parts(&run.latency_ns, percentiles));
    }
    fields.extend(run.shard.iter().map(|own| Field::new("shard", shard(load, own))));
    fields.push(Field::new("connect", connect(load, run)));
    fields.extend(opening(load, run, percentiles));
    fields.extend([
        Field::new("echoes", echoes(load, run.integrity)),
        Field::new("errors", errors(run.errors)),
    ]);
    fields.extend(run.messages.map(|messages| Field::new("messages", outcomes(messages))));
    fields.extend(run.outages.map(|outages| {
        let (times, all, most) =
            (count(outages.count, "time"), span(outages.total_ns), span(outages.longest_ns));
        Field::new(
            "outages",
            format!("a connection was being opened again {times}: {all} in all, {most} at most"),
        )
    }));
    fields.extend(run.message_cost.map(|cost| Field::new("", message_cost(cost))));
    fields.extend(run.compression.iter().flat_map(compression));
    fields
        .extend(run.server.as_ref().map(|server| Field::new("server", server_cost(load, server))));
    fields.extend(run.server.as_ref().and_then(counters));
    fields.extend(run.proxy.as_ref().map(|proxy| Field::new("proxy", server_cost(load, proxy))));
    fields.push(Field::new("generator", generator(load, run)));
    fields
}

/// The connections' addresses and the load. The URL is not in the document, because it may name a
/// host.
fn heading(scenario: &Scenario, run: &Run) -> String {
    let address = run.address.as_ref().map(|address| format!("://{address}")).unwrap_or_default();
    let ns = run.phases.measure;
    format!(
        "{}{address}: {}, {}, engine {}, {}",
        scenario.parameters.transport.scheme(),
        load(&scenario.parameters),
        count(scenario.generator.threads.unwrap_or(1).into(), "thread"),
        run.client.engine,
        // Of a short one, as `-n` may end it, so much that it is not nothing.
        if ns < 100_000_000 { span(ns) } else { format!("{:.1} s", ns as f64 / 1e9) },
    )
}

fn rate(load: &Load, run: &Run) -> String {
    let planned = || format!(" of {} planned", grouped(run.offered() as f64));
    format!(
        "{} msg/s, {:.1} MB/s each way ({} received{})",
        grouped(run.rate_per_s),
        run.bytes_per_s / 1e6,
        grouped(run.received as f64),
        load.is_open_loop().then(planned).unwrap_or_default(),
    )
}

/// Where the latency of an open loop comes from, with a line that explains where it is not the
/// server alone.
fn parts(latencies: &Latencies, percentiles: &[f64]) -> Vec<Field> {
    let uncorrected = latencies.uncorrected();
    let part = |name, part| Field::new(name, latency(part, percentiles));
    let mut fields = vec![part("  server", uncorrected), part("  lag", &latencies.lag)];
    // Figures that are more than a tenth apart make a reader wonder.
    let figures = |latency: &Latency| [latency.p50, latency.p99, latency.p99_9, Some(latency.max)];
    let is_apart = |(a, b): (Option<u64>, Option<u64>)| match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) * 10 > a.max(b),
        _ => false,
    };
    if figures(&latencies.corrected).into_iter().zip(figures(uncorrected)).any(is_apart) {
        let what = "latency runs from the planned send to the echo: of that, server from the actual send, lag before it";
        fields.push(Field::new("", what));
    }
    fields
}

/// Formats the latency of the run, with a mark at each figure that is a lower bound.
fn bounded_latency(run: &Run, percentiles: &[f64]) -> String {
    let text = marked(&run.latency_ns.corrected, percentiles, run.censored);
    let Some(censored) = run.censored else { return text };
    format!("{text}  (>=: {} had no echo)", count(censored.count, "message"))
}

fn latency(latency: &Latency, percentiles: &[f64]) -> String {
    marked(latency, percentiles, None)
}

fn marked(latency: &Latency, percentiles: &[f64], censored: Option<Censored>) -> String {
    if latency.count == 0 {
        return "no samples".to_owned();
    }
    let mark = |q: f64| if censored.is_some_and(|censored| censored.bounds(q)) { ">=" } else { "" };
    let all = mark(1.0);
    let (max, mean) = (span(latency.max), span(latency.mean as u64));
    let Latency { p50, p90, p99, p99_9, p99_99, .. } = *latency;
    let usual = [(50.0, p50), (90.0, p90), (99.0, p99), (99.9, p99_9), (99.99, p99_99)];
    let histogram = latency.histogram().ok().flatten();
    let value = |percent: f64| percentile(histogram.as_ref()?, percent / 100.0);
    let wanted = percentiles.iter().map(|&percent| (percent, value(percent)));
    let usual = usual.into_iter().filter(|(_, value)| percentiles.is_empty() && value.is_some());
    let each = wanted.chain(usual).map(|(percent, value)| match value {
        Some(ns) => format!("p{percent} {}{}  ", mark(percent / 100.0), span(ns)),
        None => format!("p{percent} (too few samples)  "),
    });
    each.collect::<String>() + &format!("max {all}{max}  mean {all}{mean}")
}

/// The parts of connecting and the rate of cycles, where connections come and go; pings, where
/// there are some.
fn opening(load: &Load, run: &Run, percentiles: &[f64]) -> Vec<Field> {
    let count = |n: u64| grouped(n as f64);
    let cycles = run.cycles.map(|cycles| {
        let (rate, all) = (grouped(cycles.rate_per_s), count(cycles.count));
        Field::new("cycles", format!("{rate} connections/s ({all} closed and replaced)"))
    });
    let Latencies { tcp_connect, tls_handshake, tls_full, tls_resumed, handshake, .. } =
        &run.latency_ns;
    let has_parts =
        cycles.is_some() || tls_handshake.is_some() || load.connections >= MANY_CONNECTIONS;
    let parts = [("  tcp", tcp_connect), ("  tls", tls_handshake), ("  upgrade", handshake)];
    let parts = parts.into_iter();
    let parts = parts.filter_map(|(name, part)| Some((name, part.as_ref().filter(|_| has_parts)?)));
    let first = run.latency_ns.first_messages.as_ref().map(|part| ("  first", part));
    let parts = parts.chain(first);
    let parts = parts.map(|(name, part)| Field::new(name, latency(part, percentiles)));
    let kinds = [("  tls full", tls_full), ("  tls resumed", tls_resumed)].into_iter();
    let kinds = kinds.filter_map(|(name, part)| Some((name, part.as_ref()?)));
    let kinds = kinds.map(|(name, part)| {
        let handshakes = format!("{} of {}", count(part.count), count_of(tls_handshake));
        let shown = match part.count {
            0 => handshakes,
            _ => format!("{handshakes}; {}", latency(part, percentiles)),
        };
        Field::new(name, shown)
    });
    let pings = run.pings.map(|pings| {
        Field::new(
            "pings",
            format!("{} sent, {} answered", count(pings.sent), count(pings.answered)),
        )
    });
    cycles.into_iter().chain(parts).chain(kinds).chain(pings).collect()
}

/// Returns the number of samples, for people.
fn count_of(part: &Option<Latency>) -> String {
    grouped(part.as_ref().map_or(0.0, |part| part.count as f64))
}

fn connect(load: &Load, run: &Run) -> String {
    let own = run.shard.as_ref().and_then(|own| ProcessShard::new(own.number, own.count));
    let own = own.unwrap_or(ProcessShard::WHOLE);
    let all = own.part(load.connections.into()) + own.part(load.idle.into());
    let (connections, after) = (count(all, "connection"), span(run.phases.connect));
    format!("{connections} open after {after}; each {}", latency(&run.latency_ns.connect, &[]))
}

fn echoes(load: &Load, faults: Integrity) -> String {
    if !load.verify && faults.total() == 0 {
        return "counted, not looked at (--no-verify)".to_owned();
    }
    integrity(faults).unwrap_or_else(|| match &load.matching {
        Match::Echo => "all as they were sent (every one checked)".to_owned(),
        Match::Prefix => "answers that all begin with what was sent (--match prefix)".to_owned(),
        Match::Contains => "answers that all contain what was sent (--match contains)".to_owned(),
        Match::Id { answer, .. } => {
            format!("answers that all have the value of a message in `{answer}` (--match id)")
        }
        Match::Any => "answers that were counted, not looked at (--match any)".to_owned(),
    })
}

fn message_cost(cost: MessageCost) -> String {
    let MessageCost { build_ns, check_ns } = cost;
    let [build, check] = [build_ns, check_ns].map(|ns| span(ns.round() as u64));
    format!("building one takes {build}, checking its answer {check} (in gen. CPU)")
}

/// Returns the faults of echoes; `None` where there is none.
fn integrity(integrity: Integrity) -> Option<String> {
    let Integrity {
        lost,
        lost_with_connection,
        duplicated,
        reordered,
        corrupted,
        wrong_opcode,
        unsolicited,
    } = integrity;
    listed(
        ", ",
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
    let [planned, left, all] = [planned, not_sent, sent].map(|n| grouped(n as f64));
    let (text, separator) = match not_sent {
        0 => (format!("{all} sent"), " = "),
        _ => (format!("{planned} planned = {all} sent + {left} not sent"), "; sent = "),
    };
    let outcomes =
        [(echoed, "echoed"), (wrong, "wrong"), (lost, "lost"), (outstanding, "outstanding")];
    match listed(" + ", &outcomes) {
        Some(outcomes) => format!("{text}{separator}{outcomes}"),
        None => text,
    }
}

/// The negotiated parameters with the ratios, and the forms in which the echoes came.
fn compression(compression: &Compression) -> Vec<Field> {
    let Compression { agreed, sent, received, same_bytes, inflated, .. } = *compression;
    let plain = [compression.sent_uncompressed, compression.received_uncompressed]
        .map(|n| grouped(n as f64));
    let Some(agreed) = agreed else {
        let [sent, _] = plain;
        return vec![Field::new("deflate", format!("DECLINED by the server: {sent} sent plain"))];
    };
    let takeover = match (agreed.client_no_context_takeover, agreed.server_no_context_takeover) {
        (true, true) => "no context takeover",
        (false, false) => "context takeover",
        (false, true) => "context takeover by the generator alone",
        (true, false) => "context takeover by the server alone",
    };
    let (client, server) = (agreed.client_max_window_bits, agreed.server_max_window_bits);
    let windows = match client == server {
        true => format!("windows of {client} bits"),
        false => format!("windows of {client} bits there, {server} back"),
    };
    let cost = compression
        .compress_ns_per_message
        .map(|ns| format!(", compressing takes {} for each (not in the latency)", span(ns as u64)));
    let ratio = |of: CompressedMessages| {
        (of.payload_bytes > 0 && of.message_bytes > 0)
            .then(|| format!("{:.2}:1", of.message_bytes as f64 / of.payload_bytes as f64))
    };
    let ratios = match (ratio(sent), ratio(received)) {
        (Some(sent), Some(received)) => format!(", {sent} there, {received} back"),
        (Some(sent), None) => format!(", {sent} there"),
        _ => String::new(),
    };
    let forms = listed(
        ", ",
        &[
            (same_bytes, "with the bytes that were sent"),
            (inflated, "inflated"),
            (received.messages - same_bytes - inflated, "compressed and not checked"),
            (compression.received_uncompressed, "plain"),
        ],
    );
    let plain_sent = match compression.sent_uncompressed {
        0 => String::new(),
        _ => format!(", {} sent plain", plain[0]),
    };
    let mut fields = vec![Field::new(
        "deflate",
        format!("{takeover}, {windows}{ratios}{plain_sent}{}", cost.unwrap_or_default()),
    )];
    fields.extend(forms.map(|forms| Field::new("", format!("echoes: {forms}"))));
    fields
}

fn errors(errors: Errors) -> String {
    let Errors { connect, handshake, protocol, closed, io, timeout } = errors;
    let counts = [
        (connect, "not connected"),
        (handshake, "handshakes failed"),
        (protocol, "protocol errors"),
        (closed, "closed by the server"),
        (io, "failed reads or writes"),
        (timeout, "timed out"),
    ];
    listed(", ", &counts).unwrap_or_else(|| "none".to_owned())
}

/// Returns the counts that are not zero; `None` where all are.
fn listed(separator: &str, counts: &[(u64, &str)]) -> Option<String> {
    let some = counts.iter().filter(|(n, _)| *n > 0);
    let some: Vec<String> =
        some.map(|(n, what)| format!("{} {what}", grouped(*n as f64))).collect();
    (!some.is_empty()).then(|| some.join(separator))
}

fn server_cost(load: &Load, server: &Server) -> String {
    let parts = server.user_ns_per_message.zip(server.system_ns_per_message);
    let parts = parts.filter(|_| server.cpu_ns().is_some());
    let switches =
        server.voluntary_switches_per_message.zip(server.involuntary_switches_per_message);
    // With few connections the growth is that of a server that has begun to work.
    let growth = server.rss_bytes_per_connection.filter(|_| load.connections >= MANY_CONNECTIONS);
    let texts = [
        Some(cpu(server)),
        parts.map(|(user, system)| {
            format!(" (user {:.2}, system {:.2}, sampled)", user / 1e3, system / 1e3)
        }),
        server.enters_per_message(load).map(|enters| format!(", {enters:.3} enters per message")),
        switches.map(|(voluntary, forced)| format!(", {:.3} context switches", voluntary + forced)),
        server.page_faults_per_message.map(|faults| format!(", {faults:.4} page faults")),
        server.rss_bytes.map(|rss| format!(", {:.1} MB resident", rss as f64 / 1e6)),
        growth.map(|growth| format!(" ({} B for each connection)", grouped(growth))),
        server.engine.as_ref().map(|engine| format!(", engine {engine}")),
    ];
    texts.into_iter().flatten().collect()
}

/// Formats the CPU time, with its uncertainty where that is worth a thought.
fn cpu(server: &Server) -> String {
    const WORTH_SHOWING: f64 = 0.001;
    let share = server.cpu_uncertainty.filter(|&share| share > WORTH_SHOWING);
    let share = share.map(|share| format!(" +-{:.1} %", share * 100.0)).unwrap_or_default();
    match server.cpu_ns() {
        Some(ns) => format!("{:.2} us CPU per message{share}", ns / 1e3),
        None => format!("CPU per message not known ({})", share.trim_start()),
    }
}

/// Returns the counts of the processor, or the reason why there are none.
fn counters(server: &Server) -> Option<Field> {
    let counted = server.instructions_per_message.zip(server.cycles_per_message);
    let counted = counted.map(|(instructions, cycles)| {
        format!("{} instructions, {} cycles per message", grouped(instructions), grouped(cycles))
    });
    let why = || {
        server.not_counted.as_ref().map(|why| format!("instructions and cycles not counted: {why}"))
    };
    counted.or_else(why).map(|text| Field::new("", text))
}

fn generator(load: &Load, run: &Run) -> String {
    let client = &run.client;
    let busy: Vec<String> =
        client.cpu_utilisation.iter().map(|share| format!("{:.0} %", share * 100.0)).collect();
    let wait = if client.wait == "spin" { "spinning" } else { "sleeping" };
    let texts = [
        Some(format!("{:.2} us CPU per message", client.cpu_ns_per_message / 1e3)),
        Some(format!(", threads busy {}", busy.join(" "))),
        client.sent_per_enter.map(|sent| format!(", {sent:.1} sent per enter")),
        load.is_open_loop().then(|| format!(", waits by {wait}")),
    ];
    texts.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Format;
    use crate::result::example;

    #[test]
    fn the_figures_fit_80_columns_and_sentences_are_whole() {
        let mut document = example::document();
        document.runs.truncate(1);
        let load = &mut document.scenarios[0].parameters;
        (load.connections, load.rate_per_s) = (1_000_000, Some(1e6));
        let run = &mut document.runs[0];
        run.rate_per_s = 12_345_678.0;
        let sentence = "The generator was the limit. ".repeat(5);
        run.invalid_reasons = vec![sentence.trim_end().to_owned()];
        let text = super::run(&document, &[]).render(Format::Terminal { width: 80 });
        assert!(text.contains(sentence.trim_end()), "{text}");
        let mut figures = text.lines().filter(|line| !line.contains("INVALID"));
        assert!(figures.all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("\n             mean 150 us"), "{text}");
    }

    #[test]
    fn goals_are_shown_with_the_run() {
        let mut document = example::document();
        let goals = serde_json::json!({
            "met": false,
            "thresholds": [{ "threshold": "p99<1ms", "value": 2e6, "met": false, "text": "p99<1ms: it is 2 ms" }],
            "find_rate": { "rate_per_s": 5000.0, "conclusion": "p99 grows", "trials": [] },
        });
        document.verdict = serde_json::from_value(goals).expect("goals");
        let text = super::run(&document, &[]).render(Format::Terminal { width: 80 });
        assert!(
            text.contains(
                "  threshold  MISSED: p99<1ms: it is 2 ms\n  found      5,000 msg/s; p99 grows"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_proxy_has_a_line_of_its_own() {
        let mut document = example::document();
        document.runs.truncate(1);
        let proxy = Server { cpu_ns_per_message: 9_870.0, ..Server::default() };
        document.runs[0].proxy = Some(proxy);
        let text = super::run(&document, &[]).render(Format::Terminal { width: 80 });
        assert!(text.contains("\n  server     4.00 us CPU per message"), "{text}");
        assert!(text.contains("\n  proxy      9.87 us CPU per message"), "{text}");
    }

    #[test]
    fn only_what_happened_is_listed() {
        assert_eq!(errors(Errors::default()), "none");
        assert_eq!(
            errors(Errors { closed: 2, timeout: 1, ..Errors::default() }),
            "2 closed by the server, 1 timed out"
        );
        let load = Load::default();
        assert!(echoes(&load, Integrity::default()).contains("every one checked"));
        let any = Load { matching: Match::Any, ..load.clone() };
        assert!(echoes(&any, Integrity::default()).contains("not looked at"));
        let lost = Integrity { lost: 1500, ..Integrity::default() };
        assert_eq!(echoes(&load, lost), "1,500 lost");
        let with_connection =
            Integrity { lost: 3, lost_with_connection: 3, ..Integrity::default() };
        assert_eq!(echoes(&load, with_connection), "3 lost with their connections");
    }

    #[test]
    fn compression_is_shown_with_its_ratios() {
        let shown = |compression: &Compression| {
            let mut document = example::document();
            document.runs.truncate(1);
            document.runs[0].compression = Some(*compression);
            let text = super::run(&document, &[]).render(Format::Terminal { width: 80 });
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let whole = example::compression(2000);
        let text = shown(&whole);
        assert!(
            text.contains(
                "deflate context takeover by the generator alone, windows of 12 bits there, 15 \
                 back, 4.00:1 there, 3.20:1 back, compressing takes 1.5 us for each (not in the \
                 latency) echoes: 1,990 with the bytes that were sent, 10 inflated"
            ),
            "{text}"
        );
        let declined = Compression { sent_uncompressed: 7, ..Compression::default() };
        assert!(shown(&declined).contains("deflate DECLINED by the server: 7 sent plain"));
        let unchecked = Compression { same_bytes: 0, inflated: 0, ..whole };
        assert!(shown(&unchecked).contains("echoes: 2,000 compressed and not checked"));
    }

    #[test]
    fn sums_of_messages_show_every_term_that_is_not_zero() {
        let right = Messages { planned: 1200, sent: 1200, echoed: 1200, ..Messages::default() };
        assert_eq!(outcomes(right), "1,200 sent = 1,200 echoed");
        let broken = Messages {
            planned: 9,
            not_sent: 2,
            sent: 7,
            echoed: 4,
            wrong: 1,
            lost: 1,
            outstanding: 1,
        };
        assert_eq!(
            outcomes(broken),
            "9 planned = 7 sent + 2 not sent; sent = 4 echoed + 1 wrong + 1 lost + 1 outstanding"
        );
    }

    #[test]
    fn percentiles_that_the_sample_does_not_carry_are_not_shown() {
        let few = Latency {
            count: 300,
            p50: Some(5_000),
            max: 9_000,
            mean: 5_500.0,
            ..Latency::default()
        };
        assert_eq!(latency(&few, &[]), "p50 5.0 us  max 9.0 us  mean 5.5 us");
        let censored = Some(Censored { count: 3, exact_up_to: 80.0, youngest_ns: None });
        assert_eq!(marked(&few, &[], censored), "p50 5.0 us  max >=9.0 us  mean >=5.5 us");
        assert_eq!(latency(&Latency::default(), &[]), "no samples");
    }

    #[test]
    fn chosen_percentiles_are_shown_or_named_as_missing() {
        let mut histogram =
            hdrhistogram::Histogram::<u64>::new_with_bounds(1, 1_000_000, 3).expect("bounds");
        (1..=1000).for_each(|ns| histogram.record(ns).expect("in range"));
        let shown = latency(&Latency::of(&histogram), &[25.0, 87.5, 99.9]);
        assert!(
            shown.starts_with("p25 250 ns  p87.5 875 ns  p99.9 (too few samples)  max 1.0 us"),
            "{shown}"
        );
    }
}

//! Settings of the kernel's TCP.

use super::{Evidence, Finding, fine, hint, invalidates};

/// Below this a burst of connects meets a full queue, and is repeated only after a second.
const ENOUGH_BACKLOG: u32 = 4096;
/// The kernel's own default range has this many.
const ENOUGH_PORTS: u32 = 28_000;
const WIDEST_RANGE: &str = "sudo sysctl net.ipv4.ip_local_port_range='1024 65535'";

fn local_ports(evidence: &Evidence<'_>) -> Option<u32> {
    Some(evidence.system.local_ports()?.len() as u32)
}

pub(super) fn ports(evidence: &Evidence<'_>) -> Option<Finding> {
    let ports = local_ports(evidence)?;
    let seen = format!("{ports} local ports for connections to one address");
    match evidence.intent.connections {
        Some(connections) if connections > ports => {
            let why = format!("{connections} connections (-c) from one address need as many");
            invalidates(seen, why, WIDEST_RANGE)
        }
        None if ports < ENOUGH_PORTS => {
            hint(seen, "more connections than that are refused", WIDEST_RANGE)
        }
        _ => fine(seen),
    }
}

/// Connections that were closed keep their port for a minute.
pub(super) fn time_wait(evidence: &Evidence<'_>) -> Option<Finding> {
    let sockets = evidence.system.field("proc/net/sockstat", "TCP")?;
    let mut words = sockets.split_ascii_whitespace();
    let waiting: u32 = words.find(|word| *word == "tw").and_then(|_| words.next())?.parse().ok()?;
    let ports = local_ports(evidence)?;
    let seen = format!("{waiting} closed connections still hold their port");
    if waiting > ports / 2 {
        return hint(
            seen,
            format!("of {ports} ports; connects become slow, or fail, when few are left"),
            "wait a minute, or sudo sysctl net.ipv4.tcp_tw_reuse=1",
        );
    }
    fine(seen)
}

pub(super) fn backlog(evidence: &Evidence<'_>) -> Option<Finding> {
    let sysctl = |name: &str| {
        evidence.system.value::<u32>(&format!("proc/sys/net/{}", name.replace('.', "/")))
    };
    let queues = ["core.somaxconn", "ipv4.tcp_max_syn_backlog"].into_iter();
    let queues: Vec<(&str, u32)> = queues.filter_map(|name| Some((name, sysctl(name)?))).collect();
    let &(_, somaxconn) = queues.first()?;
    let seen: Vec<String> =
        queues.iter().map(|(name, length)| format!("net.{name} = {length}")).collect();
    let seen = seen.join(", ");
    let short = queues.iter().filter(|(_, length)| *length < ENOUGH_BACKLOG);
    let short: Vec<String> =
        short.map(|(name, _)| format!("net.{name}={ENOUGH_BACKLOG}")).collect();
    // With SYN cookies, which are on by default, the second queue alone loses nothing.
    if somaxconn >= ENOUGH_BACKLOG {
        return fine(seen);
    }
    hint(
        seen,
        "a burst of connects finds the queue full, and a connect that was dropped is repeated after a second",
        format!("sudo sysctl -w {}", short.join(" ")),
    )
}

pub(super) fn congestion(evidence: &Evidence<'_>) -> Option<Finding> {
    let name = evidence.system.text("proc/sys/net/ipv4/tcp_congestion_control")?;
    if name.starts_with("bbr") {
        return hint(
            name,
            "it paces what is sent by timers, which shows in latencies; compare only with results that have it too",
            "--congestion cubic on both sides, or sudo sysctl net.ipv4.tcp_congestion_control=cubic",
        );
    }
    fine(name)
}

/// Tracking follows every packet on loopback too. Its counters are there only where it is loaded.
pub(super) fn conntrack(evidence: &Evidence<'_>) -> Option<Finding> {
    let number =
        |name: &str| evidence.system.value::<u32>(&format!("proc/sys/net/netfilter/{name}"));
    let Some((count, max)) = number("nf_conntrack_count").zip(number("nf_conntrack_max")) else {
        return evidence
            .system
            .text("proc/sys/net/core/somaxconn")
            .and_then(|_| fine("not loaded"));
    };
    let seen = format!("the firewall follows {count} connections of at most {max}");
    let room = max.saturating_sub(count);
    if evidence.intent.connections.is_some_and(|connections| connections > room) {
        return invalidates(
            seen,
            "packets of further connections are dropped",
            "sudo sysctl net.netfilter.nf_conntrack_max=1048576",
        );
    }
    if count == 0 {
        return fine(seen);
    }
    hint(
        seen,
        "every packet costs both sides a look-up, on loopback too",
        "sudo iptables -t raw -I PREROUTING -i lo -j NOTRACK; sudo iptables -t raw -I OUTPUT -o lo -j NOTRACK",
    )
}

//! Processors: how many, which belong together, how fast they run and how deep they sleep.

use std::collections::BTreeSet;

use super::{Evidence, Finding, Intent, fine, hint, invalidates};
use crate::format::count as many;

/// Waking from states that take longer than this shows among latencies of tens of microseconds.
const DEEP_SLEEP_US: u64 = 10;
/// Reading one of these costs a system call, or a slow device.
const SLOW_CLOCKS: [&str; 5] = ["hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"];

const CPUS: &str = "sys/devices/system/cpu";

pub(super) fn count(evidence: &Evidence<'_>) -> Option<Finding> {
    let Intent { cpus: ours, server_cpus: servers, .. } = evidence.intent;
    let shared: Vec<usize> = ours.iter().copied().filter(|cpu| servers.contains(cpu)).collect();
    if !shared.is_empty() {
        return invalidates(
            format!("generator and server are to share {}", listed(&shared)),
            "each waits while the other works: neither is measured",
            "--cpus and --spawn-cpus without a processor in common",
        );
    }
    let allowed = evidence.system.allowed();
    let seen = format!(
        "this process may use {} ({})",
        many(allowed.len() as u64, "processor"),
        listed(&allowed)
    );
    let chosen = |cpus: &Vec<usize>| if cpus.is_empty() { allowed.clone() } else { cpus.clone() };
    match chosen(ours).into_iter().chain(chosen(servers)).collect::<BTreeSet<_>>().len() {
        0 => None,
        1 => invalidates(
            seen,
            "generator and server have to share it: each waits while the other works",
            "taskset with more of them, or a machine that has more; or the server on another machine",
        ),
        _ => fine(seen),
    }
}

/// Threads of one core share its units: each runs at about half the speed.
pub(super) fn smt(evidence: &Evidence<'_>) -> Option<Finding> {
    let system = evidence.system;
    let online = system.online();
    online.first()?;
    let cores: BTreeSet<Vec<usize>> = online.iter().map(|&cpu| system.siblings(cpu)).collect();
    let Intent { cpus: ours, server_cpus: servers, .. } = evidence.intent;
    let is_servers_core = |cpu: &&usize| {
        system.siblings(**cpu).iter().any(|sibling| sibling != *cpu && servers.contains(sibling))
    };
    if let Some(cpu) = ours.iter().find(is_servers_core) {
        return invalidates(
            format!("processor {cpu} of the generator is on a core with one of the server"),
            "the two slow each other down, by as much as either has to do",
            "--cpus and --spawn-cpus on different cores: lscpu --extended=CPU,CORE",
        );
    }
    if cores.len() == online.len() {
        return fine("every processor is a core of its own, as far as one can see");
    }
    let seen = format!(
        "{} on {}",
        many(online.len() as u64, "processor"),
        many(cores.len() as u64, "core")
    );
    if !ours.is_empty() && !servers.is_empty() {
        return fine(format!("{seen}; generator and server are on different ones"));
    }
    let pairs: Vec<String> =
        cores.iter().filter(|core| core.len() > 1).take(2).map(|core| listed(core)).collect();
    hint(
        format!("{seen} (such as {})", pairs.join(" and ")),
        "server and generator on threads of one core slow each other down",
        "--cpus and --spawn-cpus on different cores, or: echo off | sudo tee /sys/devices/system/cpu/smt/control",
    )
}

/// Returns a list of processors as the kernel and taskset(1) write it: `0-2,5`.
fn listed(cpus: &[usize]) -> String {
    let ranges = cpus.chunk_by(|cpu, next| cpu + 1 == *next).map(|range| match range {
        [cpu] => cpu.to_string(),
        _ => format!("{}-{}", range[0], range[range.len() - 1]),
    });
    ranges.collect::<Vec<_>>().join(",")
}

pub(super) fn governor(evidence: &Evidence<'_>) -> Option<Finding> {
    let system = evidence.system;
    let online = system.online();
    let read = |cpu: &usize| system.text(&format!("{CPUS}/cpu{cpu}/cpufreq/scaling_governor"));
    let governors: BTreeSet<String> = online.iter().filter_map(read).collect();
    if governors.is_empty() {
        // Usual in virtual machines: the host decides.
        return online.first().and_then(|_| fine("the kernel does not choose the frequency here"));
    }
    let seen = governors.iter().cloned().collect::<Vec<_>>().join(", ");
    if governors.iter().all(|governor| governor == "performance") {
        return fine(seen);
    }
    invalidates(
        seen,
        "the frequency follows the load: a light load is measured on a slow processor",
        "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    )
}

pub(super) fn turbo(evidence: &Evidence<'_>) -> Option<Finding> {
    // Each file, and its contents with turbo on and off.
    const SWITCHES: [(&str, &str, &str); 2] =
        [("intel_pstate/no_turbo", "0", "1"), ("cpufreq/boost", "1", "0")];
    let system = evidence.system;
    let read = |(file, on, off)| Some((system.text(&format!("{CPUS}/{file}"))?, file, on, off));
    match SWITCHES.into_iter().find_map(read) {
        None => system.online().first().and_then(|_| fine("the kernel does not control it here")),
        Some((text, _, on, _)) if text != on => fine("off"),
        Some((_, file, _, off)) => hint(
            "on",
            "the frequency depends on temperature and on what other cores do; a long run is slower than a short one",
            format!("echo {off} | sudo tee /{CPUS}/{file}"),
        ),
    }
}

pub(super) fn throttling(evidence: &Evidence<'_>) -> Option<Finding> {
    match evidence.growth(|activity| activity.throttled) {
        None => {
            evidence.system.online().first().and_then(|_| fine("the machine does not count it"))
        }
        Some(0) => fine("no processor was slowed down because of its heat while we looked"),
        Some(times) => invalidates(
            format!("processors were slowed down {} because of their heat", many(times, "time")),
            "they run at whatever speed keeps them cool",
            "better cooling, fewer busy processors, or a lower fixed frequency: sudo cpupower frequency-set -u 2GHz",
        ),
    }
}

pub(super) fn idle_states(evidence: &Evidence<'_>) -> Option<Finding> {
    let system = evidence.system;
    let &cpu = system.online().first()?;
    let folder = format!("{CPUS}/cpu{cpu}/cpuidle");
    let state = |name: String| {
        let read = |what: &str| system.text(&format!("{folder}/{name}/{what}"));
        let on = read("disable").is_none_or(|disabled| disabled == "0");
        let latency_us: u64 = read("latency")?.parse().ok()?;
        on.then(|| (latency_us, read("name").unwrap_or(name.clone())))
    };
    let deepest = system
        .names(&folder)
        .into_iter()
        .filter(|name| name.starts_with("state"))
        .filter_map(state)
        .max();
    let Some((latency_us, name)) = deepest else { return fine("the kernel uses none here") };
    let seen = format!("the deepest is {name}, {latency_us} us from waking");
    if latency_us <= DEEP_SLEEP_US {
        return fine(seen);
    }
    hint(
        seen,
        "a light load pays for waking up: it has longer latencies than a heavy one",
        format!("sudo cpupower idle-set -D {DEEP_SLEEP_US}"),
    )
}

pub(super) fn clocksource(evidence: &Evidence<'_>) -> Option<Finding> {
    let folder = "sys/devices/system/clocksource/clocksource0";
    let current = evidence.system.text(&format!("{folder}/current_clocksource"))?;
    if !SLOW_CLOCKS.contains(&current.as_str()) {
        return fine(current);
    }
    let available =
        evidence.system.text(&format!("{folder}/available_clocksource")).unwrap_or_default();
    let better = available.split_ascii_whitespace().find(|name| !SLOW_CLOCKS.contains(name));
    let fix = match better {
        Some(name) => format!("echo {name} | sudo tee /{folder}/current_clocksource"),
        None => "the kernel found no better one: dmesg | grep -i clocksource says why".to_owned(),
    };
    invalidates(current, "every look at the clock costs a microsecond or more, on both sides", fix)
}

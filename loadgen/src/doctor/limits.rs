//! The build, and what the kernel allows this process.

use super::{Evidence, Finding, fine, hint, invalidates};

/// Descriptors beside those of connections: see the preflight of a run.
const BESIDE_CONNECTIONS: u64 = 128;
/// Number that suffices for every load that one machine's ports carry.
const MANY_DESCRIPTORS: u64 = 65_536;
/// Bytes that the rings of some threads lock, on kernels that count them.
const ENOUGH_MEMLOCK: u64 = 8 << 20;
/// The first kernel whose io_uring the uring engine uses.
const URING_FROM: (u32, u32) = (6, 1);
/// Below this share of available memory the kernel begins to reclaim.
const LITTLE_MEMORY: f64 = 0.05;

pub(super) fn build(evidence: &Evidence<'_>) -> Option<Finding> {
    if !evidence.intent.is_debug_build {
        return fine("an optimised build");
    }
    invalidates(
        "the generator is a debug build",
        "it costs many times what an optimised one does: every result is marked INVALID",
        "cargo build --release",
    )
}

pub(super) fn io_uring(evidence: &Evidence<'_>) -> Option<Finding> {
    const EPOLL: &str = "--engine auto takes epoll, which costs a server more";
    let release = evidence.system.text("proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?);
    if version < URING_FROM {
        return hint(
            format!("Linux {release}"),
            format!("io_uring is used from Linux 6.1 on: {EPOLL}"),
            "a newer kernel, or --engine epoll on both sides to say that it is meant",
        );
    }
    match evidence.system.value::<u8>("proc/sys/kernel/io_uring_disabled") {
        Some(2) => hint(
            "io_uring is switched off (kernel.io_uring_disabled = 2)",
            EPOLL,
            "sudo sysctl kernel.io_uring_disabled=0",
        ),
        Some(1) => hint(
            "io_uring is for root and one group alone (kernel.io_uring_disabled = 1)",
            format!("for others {EPOLL}"),
            "sudo sysctl kernel.io_uring_disabled=0, or join the group that kernel.io_uring_group names",
        ),
        // The switch exists since Linux 6.6.
        _ => fine(format!("Linux {release} has it, and no sysctl forbids it")),
    }
}

/// The soft limit does not matter: both programs raise it to the hard one.
pub(super) fn descriptors(evidence: &Evidence<'_>) -> Option<Finding> {
    let (_, hard) = evidence.system.limit("Max open files")?;
    let amount = if hard == u64::MAX { "unlimited".to_owned() } else { hard.to_string() };
    let seen = format!("at most {amount} for a process");
    let fix = |n: u64| {
        format!(
            "sudo prlimit --pid $$ --nofile={n}:{n} (this shell), or LimitNOFILE={n} for a service"
        )
    };
    match evidence.intent.connections.map(|n| u64::from(n) + BESIDE_CONNECTIONS) {
        Some(needed) if needed > hard => invalidates(
            seen,
            format!("-c needs {needed} in the generator, and about as many in a server beside it"),
            fix(needed.next_power_of_two()),
        ),
        None if hard < MANY_DESCRIPTORS => {
            let possible = hard.saturating_sub(BESIDE_CONNECTIONS);
            let why = format!("no more than about {possible} connections are possible");
            hint(seen, why, fix(MANY_DESCRIPTORS))
        }
        _ => fine(seen),
    }
}

pub(super) fn memlock(evidence: &Evidence<'_>) -> Option<Finding> {
    let (_, hard) = evidence.system.limit("Max locked memory")?;
    let seen = if hard == u64::MAX {
        "unlimited".to_owned()
    } else {
        format!("at most {} KiB", hard >> 10)
    };
    if hard >= ENOUGH_MEMLOCK {
        return fine(seen);
    }
    hint(
        seen,
        "rings with their buffers may not fit where the kernel counts them as locked: --engine auto then takes epoll",
        "sudo prlimit --pid $$ --memlock=unlimited:unlimited (this shell), or LimitMEMLOCK=infinity for a service",
    )
}

pub(super) fn memory(evidence: &Evidence<'_>) -> Option<Finding> {
    let kib = |name| evidence.system.memory_kib(name);
    let (total, available) = (kib("MemTotal")?, kib("MemAvailable")?);
    let seen = format!("{} of {} MiB available", available >> 10, total >> 10);
    if (available as f64) >= total as f64 * LITTLE_MEMORY {
        return fine(seen);
    }
    invalidates(
        seen,
        "the kernel reclaims memory, and programs wait for it",
        "end what uses it: ps -eo pid,rss,comm --sort=-rss | head",
    )
}

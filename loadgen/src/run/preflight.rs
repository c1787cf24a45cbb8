//! Checks and choices before anything is started: addresses, descriptors, ports, processors.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::anyhow;
use engine::{affinity, socket};

use super::error::RunError;
use super::plan::{Plan, PlanError, Wait};
use super::worker::spare;
use crate::format::count;
use crate::host::system::System;
use crate::target::metrics::{Endpoint, MetricsUrl, Reading};
use crate::target::spawn::inherited_limits;
use crate::target::url::{self, Port, Url};

/// Descriptors of a worker beside its connections: ring or epoll, eventfd, timers.
const PER_THREAD: u64 = 8;
/// Descriptors of the process: standard streams, pipes to a server, files read in between.
const PER_PROCESS: u64 = 64;

/// Returns the addresses of each server that its sources can reach, in the resolver's order. `port`
/// is that of `{port}`.
pub(super) fn resolve(plan: &Plan, port: u16) -> Result<Vec<Vec<SocketAddr>>, RunError> {
    plan.target.urls().map(|url| resolve_url(plan, url, port)).collect()
}

fn resolve_url(plan: &Plan, url: &Url, chosen: u16) -> Result<Vec<SocketAddr>, RunError> {
    let port = if let Port::Number(port) = url.port { port } else { chosen };
    let (host, resolved) = match &plan.target.connect_to {
        Some(place) => (place.host(), place.resolve()),
        None => (url.host.as_str(), url.resolve(port)),
    };
    let failed = |source| RunError::Resolve { host: host.to_owned(), source };
    let mut addresses = resolved.map_err(failed)?;
    check_families(plan, &addresses)?;
    addresses.retain(|to| {
        plan.placement.source_ips.is_empty()
            || plan.placement.source_ips.iter().any(|&from| reaches(from, to))
    });
    Ok(addresses)
}

/// Reads the server's metrics before anything is started.
///
/// # Errors
///
/// [`RunError::Plan`]: nothing is known by these metrics.
pub(super) fn first_reading(url: &MetricsUrl) -> Result<(Endpoint, Reading), RunError> {
    let read = |endpoint: Endpoint| endpoint.read().map(|reading| (endpoint, reading));
    Endpoint::resolve(url).and_then(read).map_err(|error| {
        RunError::Plan(PlanError(format!(
            "--server-metrics {url} cannot be read: {error}; `sparring-server --admin`, or \
             `sparring-loadgen agent` on the server's host, serves what is needed"
        )))
    })
}

/// Returns true if a connection from one to the other is possible: both are of the same family,
/// and where the source is link-local, the destination lies on a known link.
fn reaches(from: IpAddr, to: &SocketAddr) -> bool {
    match (from, to) {
        (IpAddr::V4(_), SocketAddr::V4(_)) => true,
        (IpAddr::V6(from), SocketAddr::V6(to)) => {
            !from.is_unicast_link_local() || to.scope_id() != 0
        }
        _ => false,
    }
}

fn check_families(plan: &Plan, addresses: &[SocketAddr]) -> Result<(), RunError> {
    let lonely = plan
        .placement
        .source_ips
        .iter()
        .find(|&&source| !addresses.iter().any(|to| reaches(source, to)));
    let Some(&source_ip) = lonely else { return Ok(()) };
    // A source that reaches no address of its own family is link-local.
    let (to, why) = match addresses.iter().find(|to| to.is_ipv6() == source_ip.is_ipv6()) {
        Some(to) => (
            to,
            "a link-local address reaches its own link alone; name the server's link-local address and its \
             zone in the URL, as in ws://[fe80::1%25eth0]:9001/",
        ),
        None => (
            &addresses[0],
            "IPv4 and IPv6 do not mix; name a source address of the server's family",
        ),
    };
    Err(RunError::Setup(anyhow!("--source-ip {source_ip} cannot reach {to}: {why}")))
}

pub(super) fn check_limits(plan: &Plan) -> Result<(), RunError> {
    // A server that this run starts inherits the limits from before.
    inherited_limits();
    let limit = socket::raise_file_limit();
    socket::raise_memlock_limit();
    let connections = plan.all_own_connections();
    let spare = u64::from(spare(plan, plan.own_connections()));
    let needed = connections + spare + u64::from(plan.placement.threads) * PER_THREAD + PER_PROCESS;
    if needed <= limit {
        return Ok(());
    }
    Err(RunError::Setup(anyhow!(
        "{needed} file descriptors are needed for {}, but the limit is {limit}: raise it with \
         `ulimit -n {needed}` (the hard limit too), or lower -c",
        count(connections, "connection")
    )))
}

/// Checks that there are ports for all connections, and that their sources exist.
pub(super) fn check_ports(plan: &Plan) -> Result<(), RunError> {
    for &source_ip in &plan.placement.source_ips {
        // Port 0: whether the address is one of this machine's is all that is asked.
        let from = url::source(source_ip, plan.target.url.scope().unwrap_or_default());
        if let Err(error) = std::net::UdpSocket::bind(from) {
            return Err(RunError::Setup(anyhow!(
                "--source-ip {source_ip}: {error}: it must be an address of this machine (`ip addr`)"
            )));
        }
    }
    let Some(ports) = port_range().map(|range| range.len() as u32) else { return Ok(()) };
    let sources = plan.placement.source_ips.len().max(1);
    let connections = plan.all_own_connections();
    if connections <= u64::from(ports) * sources as u64 {
        return Ok(());
    }
    Err(RunError::Setup(anyhow!(
        "{connections} connections to one address need as many local ports, but there are {ports} for \
         each source address of {sources} (net.ipv4.ip_local_port_range): name more of them with \
         --source-ip (127.0.0.1-127.0.0.9 on loopback), \
         `sysctl net.ipv4.ip_local_port_range='1024 65535'` as root, or lower -c"
    )))
}

fn port_range() -> Option<RangeInclusive<u16>> {
    System::below(Path::new("/")).local_ports()
}

/// Returns the port range to set on sockets if the connections need more than half of its odd ports
/// for each source address. The kernel then uses odd and even ports alike
/// ([`engine::Config::local_ports`]). Otherwise returns `None`, because other programs bind to the
/// even ports.
pub(super) fn local_ports(plan: &Plan) -> Option<RangeInclusive<u16>> {
    crowded(port_range()?, plan.all_own_connections(), plan.placement.source_ips.len())
}

/// Returns the range, where more than half of its odd ports are needed for each source address.
fn crowded(
    range: RangeInclusive<u16>,
    connections: u64,
    sources: usize,
) -> Option<RangeInclusive<u16>> {
    let of_each = connections.div_ceil(sources.max(1) as u64);
    (of_each > range.len() as u64 / 4).then_some(range)
}

/// Returns the workers' processors: those asked for, else the last of the allowed ones, away from
/// the server's. Empty, and the scheduler decides, where there are fewer than threads.
pub(super) fn place(plan: &Plan) -> Vec<usize> {
    if !plan.placement.cpus.is_empty() {
        return plan.placement.cpus.clone();
    }
    let (allowed, threads) =
        (affinity::allowed().unwrap_or_default(), plan.placement.threads as usize);
    choose(&allowed, plan.server_cpus(), threads, affinity::siblings)
}

/// Returns the way in which threads wait by default. In an open loop, which needs exact times, a
/// thread spins if its core is known to be free for it. That is known only if the server was
/// started on other cores.
pub(super) fn wait(plan: &Plan, cpus: &[usize]) -> Wait {
    plan.placement.wait.unwrap_or_else(|| {
        let is_free = || cores_are_free(cpus, plan.server_cpus(), affinity::siblings);
        if plan.load.is_open_loop() && is_free() { Wait::Spin } else { Wait::Sleep }
    })
}

/// Returns true if each of `cpus` is known to be alone on its core.
fn cores_are_free(
    cpus: &[usize],
    servers: &[usize],
    siblings: impl Fn(usize) -> Vec<usize>,
) -> bool {
    let shares = |cpu: usize, other: usize| cpu == other || siblings(cpu).contains(&other);
    let is_alone = |(index, &cpu): (usize, &usize)| {
        !servers.iter().any(|&server| shares(cpu, server))
            && !cpus[..index].iter().any(|&other| shares(cpu, other))
    };
    !cpus.is_empty() && !servers.is_empty() && cpus.iter().enumerate().all(is_alone)
}

fn choose(
    allowed: &[usize],
    servers: &[usize],
    threads: usize,
    siblings: impl Fn(usize) -> Vec<usize>,
) -> Vec<usize> {
    let mut free: Vec<usize> =
        allowed.iter().copied().filter(|cpu| !servers.contains(cpu)).collect();
    if free.is_empty() {
        free = allowed.to_vec();
    }
    // From the end: servers and interrupts usually begin with the first. Distinct cores first, and
    // those that share no core with the server before those that do.
    free.reverse();
    let mut order = affinity::spread(&free, &siblings);
    order.sort_by_key(|&cpu| siblings(cpu).iter().any(|sibling| servers.contains(sibling)));
    if order.len() < threads {
        return Vec::new();
    }
    order.truncate(threads);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_resolved() {
        let resolve = |url: &str| {
            resolve(&Plan::new(url.parse().expect("url"), engine::EngineKind::Epoll), 7)
        };
        assert_eq!(
            resolve("ws://127.0.0.1:{port}/").expect("an address"),
            [["127.0.0.1:7".parse::<SocketAddr>().expect("address")]]
        );
        assert!(resolve("ws://[::1]/").expect("an address")[0][0].is_ipv6());
        let error = resolve("ws://no-such-host.invalid/").expect_err("RFC 2606 reserves .invalid");
        assert!(error.to_string().contains("no-such-host.invalid"));
    }

    #[test]
    fn ports_of_both_parities_are_asked_for_where_one_would_run_short() {
        let range = 32768..=60999;
        assert_eq!(crowded(range.clone(), 7_000, 0), None);
        assert_eq!(crowded(range.clone(), 7_059, 0), Some(range.clone()));
        assert_eq!(crowded(range.clone(), 14_000, 2), None);
        assert_eq!(crowded(range.clone(), 15_000, 2), Some(range));
    }

    #[test]
    fn too_many_connections_are_refused_with_the_remedy() {
        let mut plan =
            Plan::new("ws://127.0.0.1:1/".parse().expect("url"), engine::EngineKind::Epoll);
        plan.load.connections = 1 << 24;
        let error =
            check_limits(&plan).map_or_else(|error| error.to_string(), |()| "ulimit -n".to_owned());
        assert!(error.contains("ulimit -n"), "{error}");
        let error = check_ports(&plan).expect_err("no machine has so many ports").to_string();
        assert!(error.contains("ip_local_port_range") && error.contains("--source-ip"), "{error}");
        plan.load.connections = 40_000;
        plan.placement.source_ips =
            (1..=3).map(|n| std::net::Ipv4Addr::new(127, 0, 0, n).into()).collect();
        assert!(check_ports(&plan).is_ok());
    }

    #[test]
    fn a_link_local_source_needs_a_zone_in_the_url() {
        let error = |url: &str| {
            let mut plan = Plan::new(url.parse().expect("url"), engine::EngineKind::Epoll);
            plan.placement.source_ips = vec!["fe80::2".parse().expect("address")];
            resolve(&plan, 7).map(|_| ()).map_err(|error| error.to_string())
        };
        let refused = error("ws://[::1]/").expect_err("no zone");
        assert!(refused.contains("its own link") && refused.contains("%25eth0"), "{refused}");
        assert!(!refused.contains("do not mix"), "{refused}");
        let refused = error("ws://127.0.0.1/").expect_err("another family");
        assert!(refused.contains("do not mix") && !refused.contains("link-local"), "{refused}");
        // The first interface of every network namespace is lo.
        assert_eq!(error("ws://[fe80::1%25lo]/"), Ok(()));
    }

    #[test]
    fn a_source_that_cannot_be_one_is_named() {
        let mut plan =
            Plan::new("ws://127.0.0.1:1/".parse().expect("url"), engine::EngineKind::Epoll);
        for source in ["::1", "192.0.2.1"] {
            plan.placement.source_ips = vec![source.parse().expect("address")];
            let checked = resolve(&plan, 1).and_then(|_| check_ports(&plan));
            let error = checked.expect_err("not from there").to_string();
            assert!(error.contains(source) && error.contains("--source-ip"), "{error}");
        }
    }

    #[test]
    fn spinning_is_for_cores_that_nobody_else_needs() {
        let alone = |_| Vec::new();
        let pairs = |cpu: usize| vec![cpu & !1, cpu | 1];
        assert!(cores_are_free(&[1], &[0], alone));
        assert!(cores_are_free(&[3, 2], &[0, 1], alone));
        assert!(!cores_are_free(&[1], &[0], pairs));
        assert!(!cores_are_free(&[2, 3], &[0], pairs));
        assert!(!cores_are_free(&[1], &[1], alone));
        assert!(!cores_are_free(&[1], &[], alone), "the server may be anywhere");
        assert!(!cores_are_free(&[], &[0], alone), "and so may we");
    }

    #[test]
    fn threads_get_cores_of_their_own_at_the_end_away_from_the_server() {
        let alone = |_| Vec::new();
        assert_eq!(choose(&[0, 1, 2, 3], &[], 2, alone), [3, 2]);
        assert_eq!(choose(&[0, 1, 2, 3], &[3], 1, alone), [2]);
        assert_eq!(choose(&[0, 1], &[0, 1], 1, alone), [1]);
        assert_eq!(choose(&[0, 1], &[], 3, alone), [0; 0]);
        // Two cores of two threads each.
        let pairs = |cpu: usize| vec![cpu & !1, cpu | 1];
        assert_eq!(choose(&[0, 1, 2, 3], &[], 2, pairs), [3, 1]);
        assert_eq!(choose(&[0, 1, 2, 3], &[3], 2, pairs), [1, 0]);
        assert_eq!(choose(&[0, 1, 2, 3], &[2], 1, pairs), [1]);
    }
}

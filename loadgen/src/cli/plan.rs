//! The flags of a plan, for every command that carries out runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use engine::socket::Congestion;
use engine::{EngineChoice, EngineKind};

use super::cpus::{CpuList, cpu_list};
use super::{SERVER, TLS, WORKERS, usage};
use crate::load::value::time;
use crate::load::{CONNECTIONS, Load, LoadArguments, Transport};
use crate::run::{Placement, Plan, Target, Wait};
use crate::target::client_certificate::ClientCertificate;
use crate::target::place::Place;
use crate::target::trust::Trust;
use crate::target::url::Url;

#[derive(Debug, Args)]
pub(super) struct PlanArguments {
    #[command(flatten)]
    pub(super) load: LoadArguments,

    #[command(flatten)]
    pub(super) target: TargetArguments,

    #[command(flatten)]
    pub(super) placement: PlacementArguments,
}

/// The server and the opening handshake, apart from the URL.
#[derive(Debug, Args)]
pub(super) struct TargetArguments {
    /// Connect to this place. The URL still gives Host, the name in TLS and the path.
    #[arg(long, value_name = "HOST:PORT", help_heading = CONNECTIONS)]
    connect_to: Option<Place>,

    /// The Host field of the opening handshake [default: the URL's].
    #[arg(long, value_name = "HOST[:PORT]", help_heading = CONNECTIONS)]
    host: Option<String>,

    /// A further field of the opening handshake, as in 'Authorization: Bearer x'. Repeatable.
    /// {connection} is the number of the connection. The handshake's own fields come from the URL,
    /// --subprotocol, and RFC 6455.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header, help_heading = CONNECTIONS)]
    header: Vec<(String, String)>,

    /// A subprotocol to offer, the preferred one first. Repeatable.
    #[arg(long, value_name = "NAME", help_heading = CONNECTIONS)]
    subprotocol: Vec<String>,

    /// The Origin field of the opening handshake.
    #[arg(long, value_name = "ORIGIN", help_heading = CONNECTIONS)]
    origin: Option<String>,

    #[command(flatten)]
    tls: TlsArguments,

    /// The server's name in TLS, which its certificate must have [default: the URL's host].
    #[arg(long, value_name = "NAME", help_heading = TLS)]
    sni: Option<String>,

    /// Longest time until the server accepts connections [default: 20s].
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = SERVER)]
    pub(super) spawn_timeout: Option<Duration>,
}

/// The certificates to accept.
#[derive(Clone, Debug, Args)]
pub(super) struct TlsArguments {
    /// Trust the certificates in this file, PEM, in place of the system's authorities: those of
    /// authorities, or the server's own.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure", help_heading = TLS)]
    ca: Option<PathBuf>,

    /// Accept any certificate unchecked: the server's identity is not verified.
    #[arg(long, help_heading = TLS)]
    insecure: bool,

    /// A certificate for servers that ask for one: a file in PEM, the client's own certificate
    /// first.
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    cert: Option<PathBuf>,

    /// The private key of --cert, PEM, not encrypted.
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    key: Option<PathBuf>,
}

/// The placement of the generator.
#[derive(Debug, Args)]
pub(super) struct PlacementArguments {
    /// Worker threads.
    #[arg(short, long, value_name = "N", default_value_t = 1, help_heading = WORKERS)]
    pub(super) threads: u32,

    /// Processors of the worker threads, one each [default: the last ones allowed, away from
    /// --spawn-cpus].
    #[arg(long, value_name = "LIST", value_parser = cpu_list, help_heading = WORKERS)]
    pub(super) cpus: Option<CpuList>,

    /// The event loop: auto takes uring where the kernel allows it, else epoll. A named engine
    /// never falls back.
    #[arg(long, value_name = "auto|uring|tokio-uring|epoll", default_value = "auto", help_heading = WORKERS)]
    pub(super) engine: EngineChoice,

    /// Congestion control of the connections, one of net.ipv4.tcp_available_congestion_control
    /// [default: the kernel's].
    #[arg(long, value_name = "NAME", help_heading = WORKERS)]
    congestion: Option<Congestion>,

    /// Waiting of an idle thread. sleep uses no CPU time and wakes late. spin is exact and uses a
    /// whole processor [default: spin in an open loop against --spawn-cpus on other cores, else
    /// sleep].
    #[arg(long, value_enum, value_name = "spin|sleep", hide_possible_values = true, help_heading = WORKERS)]
    wait: Option<Wait>,

    /// Addresses to connect from, in turn: 127.0.0.1,127.0.0.5-127.0.0.9. Each has the whole range
    /// of local ports.
    #[arg(long, value_name = "LIST", value_parser = addresses, help_heading = CONNECTIONS)]
    source_ip: Option<Addresses>,
}

/// A type of its own, since clap takes a `Vec` for a flag that may be repeated.
#[derive(Clone, Debug)]
struct Addresses(Vec<IpAddr>);

impl PlanArguments {
    /// Returns the plan against `url`, driven by `engine`, not yet checked and without a server to
    /// start. Its name is that of the scenario, if one was named.
    pub(super) fn plan(&self, url: Url, engine: EngineKind) -> anyhow::Result<Plan> {
        let Self { load: LoadArguments { load, scenario, .. }, target, placement } = self;
        if let Some(name) = scenario
            && (load.transport.is_websocket() != url.transport.is_websocket()
                || (load.transport == Transport::Wss && url.transport != Transport::Wss))
        {
            let scheme = load.transport.scheme();
            return Err(usage(format!("scenario `{name}` needs a {scheme}:// URL, not {url}")));
        }
        let load = Load { transport: url.transport, ..load.clone() };
        let plan = Plan::new(url, engine);
        Ok(Plan {
            scenario: scenario.clone().unwrap_or(plan.scenario),
            load,
            target: Target {
                connect_to: target.connect_to.clone(),
                host: target.host.clone(),
                sni: target.sni.clone(),
                origin: target.origin.clone(),
                subprotocols: target.subprotocol.clone(),
                headers: target.header.clone(),
                trust: target.tls.trust(),
                certificate: target.tls.certificate()?,
                start_timeout: target.spawn_timeout.unwrap_or(plan.target.start_timeout),
                ..plan.target
            },
            placement: Placement {
                engine,
                threads: placement.threads,
                cpus: placement.cpus.clone().map(|list| list.0).unwrap_or_default(),
                wait: placement.wait,
                congestion: placement.congestion.clone(),
                source_ips: placement.source_ip.clone().map(|list| list.0).unwrap_or_default(),
                shard: None,
                start_at: None,
            },
            ..plan
        })
    }
}

impl TlsArguments {
    pub(super) fn trust(&self) -> Trust {
        match &self.ca {
            Some(path) => Trust::Authorities(path.clone()),
            None if self.insecure => Trust::Anybody,
            None => Trust::System,
        }
    }

    /// Returns the client's certificate.
    pub(super) fn certificate(&self) -> anyhow::Result<Option<ClientCertificate>> {
        let lacks = |flag: &str, path: &PathBuf, other: &str| {
            usage(format!(
                "{flag} {} needs {other} FILE, as in --cert client.pem --key client-key.pem",
                path.display()
            ))
        };
        match (self.cert.clone(), self.key.clone()) {
            (Some(certificate), Some(key)) => Ok(Some(ClientCertificate { certificate, key })),
            (Some(certificate), None) => Err(lacks("--cert", &certificate, "--key")),
            (None, Some(key)) => Err(lacks("--key", &key, "--cert")),
            (None, None) => Ok(None),
        }
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("expected a name, a colon and a value, as in 'Authorization: Bearer x'")?;
    let (name, value) = (name.trim(), value.trim());
    match OF_THE_HANDSHAKE.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)) {
        Some((own, instead)) => Err(format!("the handshake writes {own} itself: {instead}")),
        None => Ok((name.to_owned(), value.to_owned())),
    }
}

/// Fields that the opening handshake writes or that would change its meaning, with what to use
/// instead.
const OF_THE_HANDSHAKE: [(&str, &str); 9] = [
    ("Host", "it is the host of the URL, or that of --host NAME"),
    ("Upgrade", "it is always websocket; tcp:// in the URL sends raw bytes without a handshake"),
    ("Connection", "it is always Upgrade; --messages-per-connection N has connections end"),
    ("Sec-WebSocket-Key", "it is fresh for every connection, from --seed"),
    ("Sec-WebSocket-Version", "it is always 13, the one of RFC 6455"),
    ("Sec-WebSocket-Protocol", "--subprotocol NAME offers one"),
    ("Sec-WebSocket-Extensions", "this generator offers no extension"),
    ("Content-Length", "the request has no body; -s SIZE is the length of messages"),
    ("Transfer-Encoding", "the request has no body; --fragments N splits messages"),
];

const MAX_ADDRESSES: u128 = 65_536;

fn addresses(text: &str) -> Result<Addresses, String> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let parse = |text: &str| {
            text.trim().parse::<IpAddr>().map_err(|_| match text.contains('%') {
                true => format!(
                    "`{text}` is not a valid address: it has a zone. Name the zone in the URL, \
                     as in ws://[fe80::1%25eth0]/"
                ),
                false => format!(
                    "`{text}` is not a valid address: expected an IPv4 or IPv6 address, or a range, \
                     as in 127.0.0.1-127.0.0.9"
                ),
            })
        };
        all.extend(range(parse(first)?, parse(last)?).ok_or_else(|| {
            format!(
                "`{part}` is not a valid range: expected ascending addresses of one family, at most \
                 {MAX_ADDRESSES}, as in 127.0.0.1-127.0.0.9"
            )
        })?);
    }
    Ok(Addresses(all))
}

fn range(first: IpAddr, last: IpAddr) -> Option<Vec<IpAddr>> {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => u128::from(address),
    };
    let (from, to) = (number(first), number(last));
    let is_range = first.is_ipv4() == last.is_ipv4() && from <= to && to - from < MAX_ADDRESSES;
    let address = |number: u128| match u32::try_from(number) {
        Ok(number) if first.is_ipv4() => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    };
    is_range.then(|| (from..=to).map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::opening::HandshakeRequest;

    #[test]
    fn lists_of_addresses_have_ranges() {
        let list = |text| {
            addresses(text).map(|list| list.0.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let four = ["127.0.0.1", "127.0.0.254", "127.0.0.255", "127.0.1.0"];
        assert_eq!(list("127.0.0.1,127.0.0.254-127.0.1.0").expect("a list"), four);
        assert_eq!(list("::1-::2").expect("a list"), ["::1", "::2"]);
        for text in ["", "localhost", "127.0.0.2-127.0.0.1", "127.0.0.1-::1", "10.0.0.0-11.0.0.0"] {
            assert!(addresses(text).is_err(), "{text}");
        }
        let error = addresses("localhost").expect_err("a name");
        assert!(error.starts_with("`localhost` is not a valid address: expected"), "{error}");
        assert!(addresses("fe80::1%eth0").expect_err("a zone").contains("URL"));
    }

    #[test]
    fn a_header_has_a_name_and_a_value() {
        assert_eq!(header("X-A: b: c"), Ok(("X-A".to_owned(), "b: c".to_owned())));
        assert!(header("X-A").is_err());
    }

    #[test]
    fn a_header_of_the_handshake_has_a_hint() {
        for (own, instead) in OF_THE_HANDSHAKE {
            let error = header(&format!("{}: x", own.to_ascii_lowercase())).expect_err(own);
            assert!(error.contains(own) && error.contains(instead), "{error}");
            // The handshake refuses the same.
            let request = HandshakeRequest {
                host: "h".to_owned(),
                target: "/".to_owned(),
                headers: vec![(own.to_owned(), "x".to_owned())],
                ..HandshakeRequest::default()
            };
            assert!(request.check().is_err(), "{own}");
        }
        let host = header("host: x").expect_err("Host");
        assert!(host.contains("--host"), "{host}");
        assert!(header("Origin: http://h").is_ok());
    }
}

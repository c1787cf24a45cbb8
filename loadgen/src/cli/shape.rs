//! The flags that shape a load beside its amount: what messages look like, and how connections come and go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::value::{count, rate, size, small_count, time};
use super::{CONNECTIONS, LOAD, MESSAGES};
use crate::result::{Mask, Payload};
use crate::run::Plan;

#[derive(Debug, Args)]
pub(super) struct ShapeArguments {
    /// Send so many messages in all, then end; -d is then the longest it may take [default: 1h], and -w is 0.
    #[arg(short = 'n', long, value_name = "N", value_parser = count, help_heading = LOAD)]
    messages: Option<u64>,

    /// Several sizes and how often each comes, as in 64:9,4096:1.
    #[arg(long, value_name = "SIZE:WEIGHT,...", value_parser = sizes, conflicts_with = "size", help_heading = MESSAGES)]
    payload_size_list: Option<Sizes>,

    /// Send each message in so many frames.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = MESSAGES)]
    fragments: u32,

    /// Masking keys: a fresh one for each frame, or the same for all.
    #[arg(long, value_enum, value_name = "random|fixed", default_value = "random", help_heading = MESSAGES)]
    mask: MaskName,

    /// Count echoes without looking at what is in them.
    #[arg(long, help_heading = MESSAGES)]
    no_verify: bool,

    /// Further connections, which only stay open.
    #[arg(long, value_name = "N", value_parser = small_count, default_value_t = 0, help_heading = CONNECTIONS)]
    idle: u32,

    /// Begin so many connections a second at most (500, 10k, 50/100ms) [default: 256 at the same time on each thread].
    #[arg(long, value_name = "RATE", value_parser = rate, help_heading = CONNECTIONS)]
    connect_rate: Option<f64>,

    /// Addresses to connect from, in turn: 127.0.0.1,127.0.0.5-127.0.0.9. Each has as many ports as there are.
    #[arg(long, value_name = "LIST", value_parser = addresses, help_heading = CONNECTIONS)]
    source_ip: Option<Addresses>,

    /// A further field of the opening handshake, as in 'Authorization: Bearer x'. Repeatable. Fields that the handshake
    /// itself has come from the URL, --subprotocol, and RFC 6455.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header, help_heading = CONNECTIONS)]
    header: Vec<(String, String)>,

    /// A subprotocol to offer, the preferred one first. Repeatable.
    #[arg(long, value_name = "NAME", help_heading = CONNECTIONS)]
    subprotocol: Vec<String>,

    /// The Origin field of the opening handshake.
    #[arg(long, value_name = "ORIGIN", help_heading = CONNECTIONS)]
    origin: Option<String>,

    /// Every connection, idle or not, sends a ping so often.
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = CONNECTIONS)]
    ping_interval: Option<Duration>,

    /// Close a connection after so many messages, when all are back, and open another in its place.
    #[arg(long, value_name = "N", help_heading = CONNECTIONS)]
    messages_per_connection: Option<u32>,

    /// Close a connection after so long, when all messages are back, and open another in its place.
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = CONNECTIONS)]
    channel_lifetime: Option<Duration>,

    /// Open lost connections again, after pauses that grow from 0.1 s to 5 s while attempts fail. They count as errors.
    #[arg(long, help_heading = CONNECTIONS)]
    reconnect: bool,
}

/// Loads that are known by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum KnownLoad {
    EchoWs,
    EchoWsPipeline,
    EchoWsLimited,
    Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MaskName {
    Random,
    Fixed,
}

/// Types of their own, since clap takes a `Vec` for a flag that may be repeated.
#[derive(Clone, Debug)]
struct Sizes(Vec<(usize, u32)>);
#[derive(Clone, Debug)]
struct Addresses(Vec<IpAddr>);

/// A run that ends by the number of its messages may take so long.
const LONGEST: Duration = Duration::from_secs(3600);

impl KnownLoad {
    /// Its load, before any flag.
    pub(super) fn preset(self, plan: Plan) -> Plan {
        let arena = |plan| Plan { connections: 512, message_bytes: 5, payload: Payload::TextAscii, ..plan };
        let plan = match self {
            Self::EchoWs => arena(plan),
            Self::EchoWsPipeline => Plan { pipeline: 16, ..arena(plan) },
            Self::EchoWsLimited => Plan { messages_per_connection: Some(10), ..arena(plan) },
            Self::Connect => Plan { messages_per_connection: Some(1), ..plan },
        };
        match self.to_possible_value() {
            Some(named) => Plan { scenario: named.get_name().to_owned(), ..plan },
            None => plan,
        }
    }
}

impl ShapeArguments {
    /// What these flags make of a plan.
    pub(super) fn shape(&self, plan: Plan) -> Plan {
        Plan {
            messages: self.messages,
            message_sizes: self.payload_size_list.clone().map(|list| list.0).unwrap_or_default(),
            fragments: self.fragments,
            mask: if self.mask == MaskName::Fixed { Mask::Fixed } else { Mask::Random },
            verify: !self.no_verify,
            idle: self.idle,
            connect_rate: self.connect_rate,
            source_ips: self.source_ip.clone().map(|list| list.0).unwrap_or_default(),
            headers: self.header.clone(),
            subprotocols: self.subprotocol.clone(),
            origin: self.origin.clone(),
            ping_interval: self.ping_interval,
            messages_per_connection: self.messages_per_connection.or(plan.messages_per_connection),
            lifetime: self.channel_lifetime,
            reconnect: self.reconnect,
            ..plan
        }
    }

    /// The window where none was named.
    pub(super) fn measure(&self, default: Duration) -> Duration {
        if self.messages.is_some() { LONGEST } else { default }
    }

    /// The warm-up where none was named.
    pub(super) fn warmup(&self, default: Duration) -> Duration {
        if self.messages.is_some() { Duration::ZERO } else { default }
    }
}

fn sizes(text: &str) -> Result<Sizes, String> {
    let one = |part: &str| {
        let (bytes, weight) = part.split_once(':').unwrap_or((part, "1"));
        let weight = weight.parse().map_err(|_| format!("`{weight}` is no weight, as in 64:9,4096:1"))?;
        Ok((size(bytes)?, weight))
    };
    text.split(',').map(one).collect::<Result<_, String>>().map(Sizes)
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a name, a colon and a value are needed")?;
    let (name, value) = (name.trim(), value.trim());
    match OF_THE_HANDSHAKE.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)) {
        Some((own, instead)) => Err(format!("the handshake writes {own} itself: {instead}")),
        None => Ok((name.to_owned(), value.to_owned())),
    }
}

/// Fields that the opening handshake writes, or that would change what it asks for, and what to use instead.
const OF_THE_HANDSHAKE: [(&str, &str); 9] = [
    ("Host", "it is the host of the URL; /etc/hosts leads a name to another address"),
    ("Upgrade", "it is always websocket; tcp:// in the URL sends raw bytes without a handshake"),
    ("Connection", "it is always Upgrade; --messages-per-connection N has connections end"),
    ("Sec-WebSocket-Key", "it is fresh for every connection, from --seed"),
    ("Sec-WebSocket-Version", "it is always 13, the one of RFC 6455"),
    ("Sec-WebSocket-Protocol", "--subprotocol NAME offers one"),
    ("Sec-WebSocket-Extensions", "this generator offers no extension"),
    ("Content-Length", "the request has no body; -s SIZE is the length of messages"),
    ("Transfer-Encoding", "the request has no body; --fragments N splits messages"),
];

/// Addresses in a list, at most: more are a slip of the pen.
const MAX_ADDRESSES: u128 = 65_536;

fn addresses(text: &str) -> Result<Addresses, String> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let parse = |text: &str| {
            text.trim().parse::<IpAddr>().map_err(|_| match text.contains('%') {
                true => format!(
                    "`{text}` has a zone: that of the URL holds here too, as in ws://[fe80::1%25eth0]/"
                ),
                false => format!("`{text}` is no address, as in 127.0.0.1-127.0.0.9"),
            })
        };
        all.extend(range(parse(first)?, parse(last)?).ok_or_else(|| {
            format!("`{part}` is no range of addresses: it goes up, in one family, {MAX_ADDRESSES} at most")
        })?);
    }
    Ok(Addresses(all))
}

fn range(first: IpAddr, last: IpAddr) -> Option<Vec<IpAddr>> {
    let count = |first: u128, last: u128| Some(last.checked_sub(first)? + 1).filter(|n| *n <= MAX_ADDRESSES);
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (u32::from(first), u32::from(last));
            count(first.into(), last.into())?;
            Some((first..=last).map(|n| Ipv4Addr::from(n).into()).collect())
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let (first, last) = (u128::from(first), u128::from(last));
            count(first, last)?;
            Some((first..=last).map(|n| Ipv6Addr::from(n).into()).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opening::Ask;

    #[test]
    fn lists_of_addresses_have_ranges() {
        let list =
            |text| addresses(text).map(|list| list.0.iter().map(ToString::to_string).collect::<Vec<_>>());
        let four = ["127.0.0.1", "127.0.0.254", "127.0.0.255", "127.0.1.0"];
        assert_eq!(list("127.0.0.1,127.0.0.254-127.0.1.0").expect("a list"), four);
        assert_eq!(list("::1-::2").expect("a list"), ["::1", "::2"]);
        for text in ["", "localhost", "127.0.0.2-127.0.0.1", "127.0.0.1-::1", "10.0.0.0-11.0.0.0"] {
            assert!(addresses(text).is_err(), "{text}");
        }
        assert!(addresses("fe80::1%eth0").expect_err("a zone").contains("URL"));
    }

    #[test]
    fn sizes_have_weights_and_units() {
        assert_eq!(sizes("64:9,4KiB:1,7").map(|list| list.0), Ok(vec![(64, 9), (4096, 1), (7, 1)]));
        for text in ["", "64:", "64:x", "many:1", "64:-1"] {
            assert!(sizes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_has_a_name_and_a_value() {
        assert_eq!(header("X-A: b: c"), Ok(("X-A".to_owned(), "b: c".to_owned())));
        assert!(header("X-A").is_err());
    }

    #[test]
    fn a_header_of_the_handshake_is_answered_with_what_to_use() {
        for (own, instead) in OF_THE_HANDSHAKE {
            let error = header(&format!("{}: x", own.to_ascii_lowercase())).expect_err(own);
            assert!(error.contains(own) && error.contains(instead), "{error}");
            // The handshake refuses the same.
            let ask = Ask {
                host: "h".to_owned(),
                target: "/".to_owned(),
                headers: vec![(own.to_owned(), "x".to_owned())],
                ..Ask::default()
            };
            assert!(ask.check().is_err(), "{own}");
        }
        let host = header("host: x").expect_err("Host");
        assert!(host.contains("URL"), "{host}");
        assert!(header("Origin: http://h").is_ok());
    }
}

//! Header of the PROXY protocol, versions 1 and 2 (haproxy.org, doc/proxy-protocol.txt).
//!
//! A proxy writes it before anything else, TLS included. It names the client that the proxy has a
//! connection from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use engine::Cause;
use thiserror::Error;

/// Bytes with which a header of version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses of version 2.
const FIXED: usize = 16;
/// Most bytes of a line of version 1, with its end.
const MAX_LINE: usize = 107;
/// Most bytes of a header of version 2. The format allows 65,551; nginx accepts as many as this.
pub(super) const MAX_HEADER: usize = 4096;

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProxyHeader {
    /// The client. `None`: the connection is the proxy's own, as for a health check, or the client
    /// has no address.
    pub(super) client: Option<SocketAddr>,
    /// Length of the header.
    pub(super) len: usize,
}

/// Reason for refusing what begins a connection of a trusted proxy.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum ProxyHeaderError {
    #[error(
        "the connection does not begin with a header of the PROXY protocol: have the proxy send one \
         (HAProxy: send-proxy-v2), or take its address out of --proxy-protocol"
    )]
    NotProxy,
    #[error("the line of PROXY protocol version 1 is malformed")]
    Line,
    #[error("the line of PROXY protocol version 1 does not end within 107 bytes")]
    LineTooLong,
    #[error("the PROXY protocol has a version or command that is not known")]
    Command,
    #[error("the PROXY protocol names a family or transport that is not a stream of TCP or UNIX")]
    Family,
    #[error("the header of the PROXY protocol is shorter than its addresses")]
    Short,
    #[error("the header of the PROXY protocol is longer than 4096 bytes")]
    TooLong,
    #[error("the connection ended within the header of the PROXY protocol")]
    Unfinished,
    #[error("the header of the PROXY protocol was not complete within --handshake-timeout")]
    Late,
}

impl ProxyHeaderError {
    /// Returns the error that ended a connection, if it was one of these.
    pub(crate) fn of(cause: &Cause) -> Option<&Self> {
        if let Cause::Layer(error) = cause { error.downcast_ref() } else { None }
    }
}

/// Reads the header from the first bytes of a connection. `Ok(None)`: more bytes are needed. The
/// same bytes give the same result however they are cut.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let begins = |whole: &[u8]| {
        let len = bytes.len().min(whole.len());
        bytes[..len] == whole[..len]
    };
    if begins(SIGNATURE) {
        parse_binary(bytes)
    } else if begins(b"PROXY ") {
        parse_line(bytes)
    } else {
        Err(ProxyHeaderError::NotProxy)
    }
}

fn parse_line(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let seen = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
        return if seen.len() < MAX_LINE { Ok(None) } else { Err(ProxyHeaderError::LineTooLong) };
    };
    let line = seen[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let client = client_of_line(line.ok_or(ProxyHeaderError::Line)?)?;
    Ok(Some(ProxyHeader { client, len: end + 1 }))
}

fn client_of_line(line: &str) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let wrong = ProxyHeaderError::Line;
    let parts: Vec<&str> = line.split(' ').collect();
    let address = |family: &str, text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let port = |text: &str| {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| is_plain && (text == "0" || !text.starts_with('0')))
    };
    match parts[..] {
        // What follows has to be ignored.
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family, from, to, from_port, to_port] => {
            let from = address(family, from).zip(port(from_port)).ok_or(wrong)?;
            address(family, to).zip(port(to_port)).ok_or(wrong)?;
            Ok(Some(from.into()))
        }
        _ => Err(wrong),
    }
}

fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let is_local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(ProxyHeaderError::Command),
    };
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    // Bytes of the addresses; those of a UNIX socket are two paths.
    let addresses_len = match family {
        // The receiver has to ignore what a local connection says.
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return Err(ProxyHeaderError::Family),
    };
    let Some(&[high, low]) = bytes.get(14..FIXED).and_then(|len| len.first_chunk()) else {
        return Ok(None);
    };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    if rest < addresses_len {
        return Err(ProxyHeaderError::Short);
    }
    let len = FIXED + rest;
    if len > MAX_HEADER {
        return Err(ProxyHeaderError::TooLong);
    }
    // What follows the addresses (TLVs) is skipped.
    let Some(addresses) = bytes.get(FIXED..len) else { return Ok(None) };
    let client = if is_local { None } else { client_of_binary(family, addresses) };
    Ok(Some(ProxyHeader { client, len }))
}

fn client_of_binary(family: u8, addresses: &[u8]) -> Option<SocketAddr> {
    let (ip, ports): (IpAddr, _) = match family {
        0x11 => (Ipv4Addr::from(*addresses.first_chunk::<4>()?).into(), &addresses[8..]),
        0x21 => (Ipv6Addr::from(*addresses.first_chunk::<16>()?).into(), &addresses[32..]),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*ports.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn client(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address"))
    }

    /// A header of version 2 with the commands `PROXY` or `LOCAL`.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &len, rest].concat()
    }

    #[test]
    fn lines_name_the_client() {
        let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe \
                       ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65534\r\n";
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.7 127.0.0.1 5000 9001\r\n", client("192.0.2.7:5000")),
            ("PROXY TCP6 2001:db8::7 ::1 0 9001\r\n", client("[2001:db8::7]:0")),
            (longest, client("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:65535")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 what ever 1 2\r\n", None),
        ] {
            let with_more = [line.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
            let found = Ok(Some(ProxyHeader { client: expected, len: line.len() }));
            assert_eq!(parse(&with_more), found, "{line}");
        }
    }

    #[test]
    fn malformed_lines_are_refused() {
        for line in [
            "PROXY TCP4 192.0.2.7 127.0.0.1 5000 9001\n",
            "PROXY TCP4 192.0.2.7 127.0.0.1 5000\r\n",
            "PROXY TCP4 192.0.2.7 127.0.0.1 5000 9001 \r\n",
            "PROXY TCP4  192.0.2.7 127.0.0.1 5000 9001\r\n",
            "PROXY TCP4 192.0.2.7 127.0.0.1 05000 9001\r\n",
            "PROXY TCP4 192.0.2.7 127.0.0.1 65536 9001\r\n",
            "PROXY TCP4 192.0.2.7 127.0.0.1 +5 9001\r\n",
            "PROXY TCP4 ::1 ::1 5000 9001\r\n",
            "PROXY TCP6 192.0.2.7 127.0.0.1 5000 9001\r\n",
            "PROXY UDP4 192.0.2.7 127.0.0.1 5000 9001\r\n",
            "PROXY \r\n",
            "PROXY tcp4 192.0.2.7 127.0.0.1 5000 9001\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(ProxyHeaderError::Line), "{line}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(MAX_LINE));
        assert_eq!(parse(long.as_bytes()), Err(ProxyHeaderError::LineTooLong));
        assert_eq!(parse(&long.as_bytes()[..MAX_LINE - 1]), Ok(None));
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"PROXy", b"\x16\x03\x01", b"\r\nG", b"x"] {
            assert_eq!(parse(other), Err(ProxyHeaderError::NotProxy));
        }
    }

    #[test]
    fn binary_headers_name_the_client() {
        let v4 = [192, 0, 2, 7, 127, 0, 0, 1, 0x13, 0x88, 0x23, 0x29];
        let with_tlv = [&v4[..], &[0x04, 0, 2, 0, 0]].concat();
        let mut v6 = [0; 36];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        v6[32..34].copy_from_slice(&[0, 80]);
        for (header, expected) in [
            (binary(1, 0x11, &v4), client("192.0.2.7:5000")),
            (binary(1, 0x11, &with_tlv), client("192.0.2.7:5000")),
            (binary(1, 0x21, &v6), client("[2001::]:80")),
            (binary(1, 0x31, &[7; 216]), None),
            (binary(1, 0x00, b"anything"), None),
            (binary(0, 0x11, &v4), None),
            (binary(0, 0x00, &[]), None),
            // What a local connection says is ignored.
            (binary(0, 0xff, &[1]), None),
        ] {
            let with_more = [&header[..], b"more"].concat();
            let found = Ok(Some(ProxyHeader { client: expected, len: header.len() }));
            assert_eq!(parse(&with_more), found);
        }
    }

    #[test]
    fn malformed_binary_headers_are_refused() {
        for (header, error) in [
            (binary(2, 0x11, &[0; 12]), ProxyHeaderError::Command),
            (binary(0x11, 0x11, &[0; 12]), ProxyHeaderError::Command),
            (binary(1, 0x12, &[0; 12]), ProxyHeaderError::Family),
            (binary(1, 0x41, &[0; 12]), ProxyHeaderError::Family),
            (binary(1, 0x11, &[0; 11]), ProxyHeaderError::Short),
            (binary(1, 0x21, &[0; 35]), ProxyHeaderError::Short),
            (binary(1, 0x31, &[0; 215]), ProxyHeaderError::Short),
            (binary(1, 0x11, &[0; MAX_HEADER - FIXED + 1]), ProxyHeaderError::TooLong),
        ] {
            assert_eq!(parse(&header), Err(error));
        }
        assert!(parse(&binary(1, 0x11, &[0; MAX_HEADER - FIXED])).is_ok_and(|h| h.is_some()));
    }

    fn beginnings() -> impl Strategy<Value = Vec<u8>> {
        let start = prop_oneof![
            Just(b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 9001\r\n".to_vec()),
            Just(b"PROXY UNKNOWN\r\n".to_vec()),
            Just(b"PROXY TCP6 ::1 ::2 1 2".to_vec()),
            (
                0_u8..3,
                prop_oneof![Just(0x11), Just(0x21), Just(0x31), any::<u8>()],
                vec(any::<u8>(), 0..250)
            )
                .prop_map(|(command, family, rest)| binary(command, family, &rest)),
            Just(SIGNATURE.to_vec()),
            Just(Vec::new()),
        ];
        let change = proptest::option::of((any::<prop::sample::Index>(), any::<u8>()));
        (start, change, vec(any::<u8>(), 0..40)).prop_map(|(mut bytes, change, more)| {
            bytes.extend(more);
            if let Some((place, byte)) = change.filter(|_| !bytes.is_empty()) {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes
        })
    }

    proptest! {
        /// Whatever comes, however it is cut: the same result, at the same byte, and no more bytes
        /// are wanted than the limits allow.
        #[test]
        fn cuts_do_not_change_the_result(bytes in beginnings()) {
            let whole = parse(&bytes);
            let first = (0..=bytes.len()).map(|end| parse(&bytes[..end])).find(|r| *r != Ok(None));
            match first {
                None => prop_assert_eq!(whole, Ok(None)),
                Some(first) => prop_assert_eq!(whole, first),
            }
            if let Ok(Some(header)) = whole {
                prop_assert!(header.len <= bytes.len() && header.len <= MAX_HEADER);
                // What follows the header has no influence.
                prop_assert_eq!(parse(&bytes[..header.len]), whole);
            }
        }
    }
}

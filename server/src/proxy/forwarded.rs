//! Clients that trusted proxies name in a request: `Forwarded` (RFC 7239) and `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

use httparse::Header;
use protocol::handshake::server::Refusal;

use super::networks::Networks;
use crate::admission::Rejection;

/// Returns the client of a request that came from the trusted `peer`: the last address of the
/// chain that no trusted proxy has. An element without an address, such as `unknown`, ends the
/// chain. Without a chain it is the peer itself.
///
/// # Errors
///
/// 400 where a chain is malformed, or both fields name different clients: a proxy writes one of
/// them, and the client may have sent the other.
pub(super) fn client(
    fields: &[Header<'_>],
    peer: SocketAddr,
    trusted: &Networks,
) -> Result<SocketAddr, Rejection> {
    let mut clients = Vec::new();
    let x_forwarded_for = chain(fields, "X-Forwarded-For", hops_of_list)?;
    let forwarded = chain(fields, "Forwarded", hops_of_forwarded)?;
    for hops in [x_forwarded_for, forwarded].into_iter().flatten() {
        clients.push(last_untrusted(&hops, peer, trusted));
    }
    match clients[..] {
        [] => Ok(peer),
        [client] => Ok(client),
        [a, b, ..] if a.ip() == b.ip() => Ok(if a.port() == 0 { b } else { a }),
        [a, b, ..] => {
            const DIFFER: Refusal =
                Refusal::of_server(400, "forwarded-fields-differ", "RFC 7239 8.1", "");
            let detail = format!(
                "X-Forwarded-For names the client {}, and Forwarded names {}: have the proxy remove the \
                 field that it does not write itself (nginx: proxy_set_header Forwarded \"\")",
                a.ip(),
                b.ip()
            );
            Err(Rejection::with_detail(DIFFER, detail))
        }
    }
}

/// One element of a chain; `None`: it has no address.
type Hop = Option<SocketAddr>;

/// Returns the chain of all lines of a field, the client's own end first. `None`: there is no line.
fn chain(
    fields: &[Header<'_>],
    name: &'static str,
    read: fn(&str) -> Option<Vec<Hop>>,
) -> Result<Option<Vec<Hop>>, Rejection> {
    const MALFORMED: Refusal = Refusal::of_server(400, "malformed-forwarded", "RFC 7239 4", "");
    let mut lines = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).peekable();
    if lines.peek().is_none() {
        return Ok(None);
    }
    let hops: Option<Vec<Vec<Hop>>> =
        lines.map(|field| std::str::from_utf8(field.value).ok().and_then(read)).collect();
    let hops = hops.ok_or_else(|| {
        let detail = format!(
            "the {name} field is malformed: have the proxy write one of its own in place of the client's"
        );
        Rejection::with_detail(MALFORMED, detail)
    })?;
    Ok(Some(hops.concat()))
}

fn last_untrusted(hops: &[Hop], peer: SocketAddr, trusted: &Networks) -> SocketAddr {
    let mut client = peer;
    for hop in hops.iter().rev() {
        let Some(address) = *hop else { break };
        client = address;
        if !trusted.contain(address.ip()) {
            break;
        }
    }
    client
}

/// Reads `client, proxy, proxy`. What has no address is part of the chain all the same: anybody can
/// send it, and the proxy has added its own element behind.
fn hops_of_list(line: &str) -> Option<Vec<Hop>> {
    Some(line.split(',').map(str::trim).filter(|text| !text.is_empty()).map(node).collect())
}

/// Reads `for=192.0.2.43;proto=http, for="[2001:db8::17]:4711"` (RFC 7239 4).
fn hops_of_forwarded(line: &str) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    for element in split_outside_quotes(line, ',')? {
        if element.trim().is_empty() {
            continue;
        }
        let mut hop = None;
        for pair in split_outside_quotes(element, ';')? {
            if pair.trim().is_empty() {
                continue;
            }
            let (name, value) = pair.trim().split_once('=')?;
            let value = unquoted(value)?;
            if !is_token(name) {
                return None;
            }
            if name.eq_ignore_ascii_case("for") {
                // Once at most (RFC 7239 4).
                hop = if hop.is_none() { Some(node(&value)) } else { return None };
            }
        }
        hops.push(hop.flatten());
    }
    Some(hops)
}

/// Splits at a separator outside of quoted strings. `None`: a quoted string does not end.
fn split_outside_quotes(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            c if c == separator && !is_quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!is_quoted).then_some(parts)
}

/// Returns a token, or the content of a quoted string (RFC 9110 5.6.4).
fn unquoted(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix('"') else {
        return is_token(text).then(|| text.to_owned());
    };
    let (mut content, mut chars) = (String::new(), rest.chars());
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(content),
            '\\' => content.push(chars.next()?),
            c => content.push(c),
        }
    }
}

fn is_token(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

/// Reads an address, with or without a port; an IPv6 address may stand in brackets. The port is 0
/// where there is none, or one that is obfuscated (RFC 7239 6.3).
fn node(text: &str) -> Hop {
    let plain = |text: &str| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0));
    if let Some(address) = plain(text) {
        return Some(address);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let is_obfuscated = port.is_empty() || port.trim_start_matches(':').starts_with('_');
    if is_obfuscated { plain(host) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(&str, &str)]) -> Result<String, String> {
        let fields: Vec<_> =
            fields.iter().map(|&(name, value)| Header { name, value: value.as_bytes() }).collect();
        let trusted = "127.0.0.0/8,10.0.0.0/8,2001:db8:1::/48".parse().expect("networks");
        let peer = "127.0.0.1:5".parse().expect("an address");
        client(&fields, peer, &trusted)
            .map(|client| client.to_string())
            .map_err(|declined| declined.detail().to_owned())
    }

    fn x(value: &str) -> Result<String, String> {
        of(&[("x-forwarded-for", value)])
    }

    fn forwarded(value: &str) -> Result<String, String> {
        of(&[("Forwarded", value)])
    }

    #[test]
    fn client_is_the_last_that_no_trusted_proxy_has() {
        for (chain, expected) in [
            ("192.0.2.1", "192.0.2.1:0"),
            ("192.0.2.1:77", "192.0.2.1:77"),
            ("2001:db8::1", "[2001:db8::1]:0"),
            ("[2001:db8::1]:77", "[2001:db8::1]:77"),
            // The client has written what stands before its own address.
            ("198.51.100.9, 192.0.2.1", "192.0.2.1:0"),
            ("198.51.100.9,192.0.2.1 ,10.0.0.1, 2001:db8:1::2", "192.0.2.1:0"),
            ("garbage \"=, 192.0.2.1", "192.0.2.1:0"),
            // All are trusted.
            ("10.0.0.2, 10.0.0.1", "10.0.0.2:0"),
            // No address: the last proxy that is known.
            ("unknown", "127.0.0.1:5"),
            ("192.0.2.1, unknown, 10.0.0.1", "10.0.0.1:0"),
            ("", "127.0.0.1:5"),
        ] {
            assert_eq!(x(chain).as_deref(), Ok(expected), "{chain}");
        }
        assert_eq!(of(&[]).as_deref(), Ok("127.0.0.1:5"));
        let two = [("X-Forwarded-For", "198.51.100.9"), ("X-Forwarded-For", "192.0.2.1")];
        assert_eq!(of(&two).as_deref(), Ok("192.0.2.1:0"));
    }

    #[test]
    fn forwarded_is_read_as_rfc7239_says() {
        for (line, expected) in [
            ("for=192.0.2.43", "192.0.2.43:0"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "[2001:db8:cafe::17]:4711"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60:0"),
            ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17:0"),
            ("for=192.0.2.43,for=\"10.0.0.7:80\" ; proto=https", "192.0.2.43:0"),
            ("for=\"_gazonk\"", "127.0.0.1:5"),
            ("for=unknown", "127.0.0.1:5"),
            ("proto=http", "127.0.0.1:5"),
            ("for=\"192.0.2.1:_port\"", "192.0.2.1:0"),
            ("for=\"a, for=5.6.7.8;x=\", for=192.0.2.1", "192.0.2.1:0"),
        ] {
            assert_eq!(forwarded(line).as_deref(), Ok(expected), "{line}");
        }
        for wrong in [
            "for=\"",
            "for=\", for=192.0.2.1",
            "for",
            "for=a=b",
            "for=1.1.1.1;for=2.2.2.2",
            "for=\"a\"b",
            "f r=1.1.1.1",
            "for=[::1]",
            "=x",
        ] {
            assert!(forwarded(wrong).is_err_and(|e| e.contains("Forwarded field")), "{wrong}");
        }
    }

    #[test]
    fn a_field_that_the_proxy_did_not_write_is_not_believed() {
        let both = |x, forwarded| of(&[("X-Forwarded-For", x), ("Forwarded", forwarded)]);
        assert_eq!(both("192.0.2.1", "for=\"192.0.2.1:7\"").as_deref(), Ok("192.0.2.1:7"));
        let error = both("192.0.2.1", "for=198.51.100.9").expect_err("they differ");
        assert!(error.contains("192.0.2.1") && error.contains("Forwarded \"\""), "{error}");
    }
}

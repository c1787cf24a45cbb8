//! This project's client request, built from any parts and read by its server, and the response
//! read by its client.

use protocol::handshake::HeadLimits;
use protocol::handshake::client::{Request, check_response};
use protocol::handshake::server::{answer, find_head};

use super::request::check_refusal;

/// Input: parts of the request, one per line: host, target, origin, subprotocols, then names and
/// values of fields.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (host, target, origin, subprotocols) = (next(), next(), next(), next());
    let subprotocols: Vec<&str> = subprotocols.split_terminator(',').collect();
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    check(&Request {
        host,
        target,
        nonce: *b"the sample nonce",
        origin: Some(origin).filter(|origin| !origin.is_empty()),
        subprotocols: &subprotocols,
        deflate: None,
        headers: &headers,
    });
}

fn check(request: &Request<'_>) {
    let limits =
        HeadLimits { bytes: usize::MAX, target: usize::MAX, fields: 7 + request.headers.len() };
    if request.check().is_err() {
        return;
    }
    let mut head = Vec::new();
    request.encode(&mut head);
    // No part can end the head early or begin a second request.
    assert_eq!(find_head(&head, &mut 0, &limits), Ok(Some(head.len())), "{}", head.escape_ascii());
    match answer(&head, &limits) {
        Err(refusal) => check_refusal(&refusal, false),
        Ok(accepted) => {
            assert_eq!(accepted.target(), request.target);
            assert_eq!(accepted.host(), request.host);
            assert_eq!(accepted.origin(), origin(request));
            check_response(accepted.response(), &request.nonce, request.subprotocols, None)
                .unwrap();
        }
    }
}

/// Returns the origin as it arrives: trimmed, and also where it is one of the further fields.
fn origin<'a>(request: &Request<'a>) -> Option<&'a str> {
    let further = request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("Origin"));
    request
        .origin
        .or(further.map(|(_, value)| *value))
        .map(|origin| origin.trim_matches([' ', '\t']))
}

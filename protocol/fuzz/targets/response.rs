//! A client reads any response: the end of the head, and whether it opens the WebSocket.

use protocol::handshake::HeadLimits;
use protocol::handshake::client::{FinalResponse, ResponseError, check_response, find_response};

use super::input::Input;
use super::request::find_however_cut;

/// Nonce of the request; its Sec-WebSocket-Accept is that of RFC 6455 1.3.
const NONCE: [u8; 16] = *b"the sample nonce";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Limits that a few bytes reach.
const SMALL: HeadLimits = HeadLimits { bytes: 200, target: 0, fields: 8 };

/// Searches for the head in growing buffers, and checks it.
pub fn target(data: &[u8]) {
    let input = Input::parse(data);
    let limits = if input.option(0) { SMALL } else { HeadLimits::default() };
    let subprotocols: &[&str] = if input.option(1) { &["chat", "superchat"] } else { &[] };
    let find = |buffered: &[u8], scanned: &mut usize| find_response(buffered, scanned, &limits);
    match find_however_cut(&input, find) {
        Err(error) => check_error(&error),
        Ok(None) => assert!(input.bytes.len() < limits.bytes, "bounded by the limit"),
        Ok(Some(end)) => {
            let head = &input.bytes[..end];
            assert!(end <= limits.bytes && head.ends_with(b"\r\n\r\n"));
            check(head, subprotocols);
        }
    }
    check(input.bytes, subprotocols);
    skip_interim(input.bytes, &limits);
}

/// Checks that interim responses are skipped in the same way for any split of the bytes, and within
/// the limits.
fn skip_interim(bytes: &[u8], limits: &HeadLimits) {
    let mut growing = FinalResponse::default();
    let by_byte = (0..=bytes.len()).find_map(|end| growing.find(&bytes[..end], limits).transpose());
    let whole = FinalResponse::default().find(bytes, limits);
    assert_eq!(by_byte.clone().map_or(Ok(None), |found| found.map(Some)), whole);
    match by_byte {
        Some(Ok(head)) => {
            assert!(head.end <= limits.bytes && bytes[head.clone()].ends_with(b"\r\n\r\n"));
            check(&bytes[head], &[]);
        }
        Some(Err(error)) => check_error(&error),
        None => assert!(bytes.len() < limits.bytes, "bounded by the limit"),
    }
}

fn check(head: &[u8], subprotocols: &[&str]) {
    match check_response(head, &NONCE, subprotocols, None) {
        Err(error) => check_error(&error),
        Ok(parameters) => {
            assert_eq!(parameters, None);
            assert!(head.windows(ACCEPT.len()).any(|window| window == ACCEPT));
        }
    }
}

/// Checks that quoted text of the server may be shown on a terminal.
pub fn check_error(error: &ResponseError) {
    assert!(!error.rule().is_empty());
    let shown = error.to_string();
    assert!(!shown.contains(char::is_control) && shown.is_ascii(), "{shown:?}");
}

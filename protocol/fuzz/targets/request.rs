//! A server reads any request: the end of the head, and the answer.

use protocol::handshake::HeadLimits;
use protocol::handshake::client::{ResponseError, check_response, find_response};
use protocol::handshake::server::{Accepted, Refusal, answer, find_head};

use super::input::Input;

/// Limits that a few bytes reach.
const SMALL: HeadLimits = HeadLimits { bytes: 300, target: 20, fields: 8 };

/// Searches for the head in growing buffers, and answers it.
pub fn target(data: &[u8]) {
    let input = Input::parse(data);
    let limits = if input.option(0) { SMALL } else { HeadLimits::default() };
    let find = |buffered: &[u8], scanned: &mut usize| find_head(buffered, scanned, &limits);
    match find_however_cut(&input, find) {
        Err(refusal) => check_refusal(&refusal, is_to_head(input.bytes)),
        Ok(None) => assert!(input.bytes.len() < limits.bytes, "bounded by the limit"),
        Ok(Some(end)) => {
            let head = &input.bytes[..end];
            assert!(end <= limits.bytes && head.ends_with(b"\r\n\r\n"));
            match answer(head, &limits) {
                Ok(accepted) => check_accepted(&accepted, head, &limits),
                Err(refusal) => check_refusal(&refusal, is_to_head(head)),
            }
        }
    }
    // Bytes that are not a head get a refusal.
    if let Ok(accepted) = answer(input.bytes, &limits) {
        check_accepted(&accepted, input.bytes, &limits);
    }
}

/// Calls `find` with one more byte each time, then with the buffers that the pieces make: the
/// deciding byte and the result must be the same.
pub fn find_however_cut<E: std::fmt::Debug + PartialEq>(
    input: &Input<'_>,
    find: impl Fn(&[u8], &mut usize) -> Result<Option<usize>, E>,
) -> Result<Option<usize>, E> {
    let by_byte = find_in(input.bytes, 0..=input.bytes.len(), &find);
    let ends: Vec<usize> = input.pieces().iter().map(|piece| piece.end).collect();
    let in_pieces = find_in(input.bytes, ends.iter().copied(), &find);
    match (&by_byte, &in_pieces) {
        (Some((decided, found)), Some((end, same))) => {
            assert_eq!(found, same);
            let first = ends.iter().find(|&end| end >= decided);
            assert_eq!(Some(end), first, "decided by byte {decided} of pieces to {ends:?}");
        }
        _ => assert_eq!(by_byte, in_pieces),
    }
    by_byte.map_or(Ok(None), |(_, found)| found)
}

/// Result, and the number of bytes after which it was known.
type Found<E> = Option<(usize, Result<Option<usize>, E>)>;

fn find_in<E>(
    bytes: &[u8],
    mut ends: impl Iterator<Item = usize>,
    find: impl Fn(&[u8], &mut usize) -> Result<Option<usize>, E>,
) -> Found<E> {
    let mut scanned = 0;
    ends.find_map(|end| {
        let before = scanned;
        let found = find(&bytes[..end], &mut scanned);
        assert!(before <= scanned && scanned <= end);
        match found {
            Ok(None) => {
                assert_eq!(scanned, end, "what was looked at is remembered");
                None
            }
            found => Some((end, found)),
        }
    })
}

fn check_accepted(accepted: &Accepted, head: &[u8], limits: &HeadLimits) {
    assert!(accepted.target().starts_with('/'));
    assert!(accepted.target().len() <= limits.target + 1);
    assert!(!accepted.host().is_empty());
    let parts = [accepted.target(), accepted.host(), accepted.origin().unwrap_or_default()];
    for part in parts {
        assert!(!part.contains(|c: char| c.is_ascii_control()), "{part:?}");
        assert!(part.len() <= head.len());
    }
    let response = accepted.response();
    assert!(response.starts_with(b"HTTP/1.1 101 "));
    assert_eq!(find_response(response, &mut 0, &HeadLimits::default()), Ok(Some(response.len())));
}

/// Returns whether the answer must have no content (RFC 9110 9.3.2).
fn is_to_head(request: &[u8]) -> bool {
    request.starts_with(b"HEAD ") || request.starts_with(b"\r\nHEAD ")
}

/// Checks that a refusal is a valid response for this project's client.
pub fn check_refusal(refusal: &Refusal, to_head: bool) {
    assert!(!refusal.rule().is_empty() && !refusal.detail().is_empty());
    assert!(refusal.section().starts_with("RFC "));
    let response = refusal.response();
    let end = find_response(&response, &mut 0, &HeadLimits::default()).unwrap().unwrap();
    let content = &response[end..];
    assert_eq!(content.is_empty(), to_head, "{}", response.escape_ascii());
    match check_response(&response[..end], &[0; 16], &[], None) {
        Err(ResponseError::Status { status, .. }) => assert_eq!(status, refusal.status()),
        other => panic!("{other:?} instead of {refusal:?}"),
    }
}

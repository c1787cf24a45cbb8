//! Client and server negotiate permessage-deflate with each other and with any peer.

use protocol::handshake::HeadLimits;
use protocol::handshake::client::{Request, ResponseError, check_response};
use protocol::handshake::deflate::{Offer, Parameters, ServerPolicy};
use protocol::handshake::server::answer;

const NONCE: [u8; 16] = *b"the sample nonce";

/// Largest windows of a client that offers `client_max_window_bits` in some form, and of any other.
const ANY_WINDOW: std::ops::RangeInclusive<u8> = 8..=15;

/// Input: the server's policy, the client's windows, flags, and field values of any peer, one per
/// line.
pub fn target(data: &[u8]) {
    let [policy, windows, flags, lines @ ..] = data else { return };
    let policy = ServerPolicy { takeover: policy & 1 != 0, max_window_bits: policy >> 1 };
    let window = |bits: u8| Some(bits).filter(|bits| ANY_WINDOW.contains(bits));
    let offer = Offer {
        server_no_context_takeover: flags & 1 != 0,
        client_no_context_takeover: flags & 2 != 0,
        server_max_window_bits: window(windows & 15),
        client_max_window_bits: window(windows >> 4),
    };
    agree(offer, &policy);
    let lines: Vec<&[u8]> = lines.split(|&byte| byte == b'\n').collect();
    serve(&lines, &policy);
    check(&lines, &offer);
}

/// Checks that the client accepts the server's answer, whatever it offers, and with the same
/// parameters.
fn agree(offer: Offer, policy: &ServerPolicy) {
    let request = Request {
        host: "h",
        target: "/",
        nonce: NONCE,
        origin: None,
        subprotocols: &[],
        deflate: Some(offer),
        headers: &[],
    };
    assert_eq!(request.check(), Ok(()));
    let mut head = Vec::new();
    request.encode(&mut head);
    let mut accepted = answer(&head, &HeadLimits::default()).unwrap();
    let parameters = accepted.accept_deflate(policy);
    // No compressor of the server has a window of 256 bytes.
    assert_eq!(parameters.is_none(), offer.server_max_window_bits == Some(8));
    parameters.iter().for_each(check_windows);
    let checked = check_response(accepted.response(), &NONCE, &[], Some(&offer));
    assert_eq!(checked, Ok(parameters));
}

/// Checks that the server refuses or declines any offer, or accepts it with an answer for which the
/// offer leaves room.
fn serve(lines: &[&[u8]], policy: &ServerPolicy) {
    let request = with_fields(
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
        lines,
    );
    let limits = HeadLimits { bytes: usize::MAX, ..HeadLimits::default() };
    let Ok(mut accepted) = answer(&request, &limits) else { return };
    let declined = accepted.response().to_vec();
    let Some(parameters) = accepted.accept_deflate(policy) else {
        assert_eq!(accepted.response(), declined);
        return;
    };
    check_windows(&parameters);
    let text = request.escape_ascii().to_string();
    assert!(text.contains("permessage-deflate"), "{text}");
    let added = accepted.response()[declined.len() - 2..].escape_ascii().to_string();
    assert!(added.starts_with("Sec-WebSocket-Extensions: permessage-deflate"), "{added}");
    for parameter in ["client_max_window_bits", "server_max_window_bits"] {
        let is_limit = match parameter {
            "client_max_window_bits" => parameters.client_max_window_bits < 15,
            _ => parameters.server_max_window_bits < 15,
        };
        assert!(!is_limit || added.contains(parameter), "{added}");
    }
    assert!(!added.contains("client_max_window_bits") || text.contains("client_max_window_bits"));
    assert_eq!(accepted.accept_deflate(policy), None);
}

/// Checks that the client takes only what its offer allows, and that its errors can be shown.
fn check(lines: &[&[u8]], offer: &Offer) {
    let head = with_fields(
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        lines,
    );
    match check_response(&head, &NONCE, &[], Some(offer)) {
        Ok(None) => {}
        Ok(Some(agreed)) => {
            check_windows(&agreed);
            assert!(agreed.server_no_context_takeover || !offer.server_no_context_takeover);
            assert!(agreed.client_no_context_takeover || !offer.client_no_context_takeover);
            let (server, client) = (offer.server_max_window_bits, offer.client_max_window_bits);
            assert!(agreed.server_max_window_bits <= server.unwrap_or(15));
            assert!(agreed.client_max_window_bits <= client.unwrap_or(15));
        }
        Err(error) => {
            super::response::check_error(&error);
            assert!(error.to_string().len() < 350, "{error}");
        }
    }
    // Without an offer every extension is unoffered.
    if let Ok(agreed) = check_response(&head, &NONCE, &[], None) {
        assert_eq!(agreed, None);
        let with_offer = check_response(&head, &NONCE, &[], Some(offer));
        assert!(matches!(with_offer, Ok(None)), "{with_offer:?}");
    } else if let Ok(Some(_)) = check_response(&head, &NONCE, &[], Some(offer)) {
        let without = check_response(&head, &NONCE, &[], None);
        assert!(matches!(without, Err(ResponseError::UnofferedExtension { .. })), "{without:?}");
    }
}

fn check_windows(parameters: &Parameters) {
    assert!(ANY_WINDOW.contains(&parameters.server_max_window_bits), "{parameters:?}");
    assert!(ANY_WINDOW.contains(&parameters.client_max_window_bits), "{parameters:?}");
}

/// Returns the head that starts with `start` and has these lines of Sec-WebSocket-Extensions.
fn with_fields(start: &[u8], lines: &[&[u8]]) -> Vec<u8> {
    let field = |line: &&[u8]| [&b"Sec-WebSocket-Extensions: "[..], line, b"\r\n"].concat();
    let fields: Vec<u8> = lines.iter().flat_map(field).collect();
    [start, &fields, b"\r\n"].concat()
}

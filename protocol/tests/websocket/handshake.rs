//! The opening handshake: accepted requests, and the status of each rejected one.

use proptest::prelude::*;
use protocol::handshake::HeadLimits;
use protocol::handshake::client::{FinalResponse, MAX_INTERIM_RESPONSES};
use protocol::handshake::client::{
    Request, RequestError, ResponseError, check_response, find_response,
};
use protocol::handshake::deflate::{Offer, Parameters};
use protocol::handshake::server::{Accepted, Refusal, answer, find_head};

const LIMITS: HeadLimits = HeadLimits { bytes: 16 << 10, target: 8 << 10, fields: 100 };

const GOOD: [&str; 6] = [
    "GET /chat HTTP/1.1",
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

pub(crate) fn head(lines: &[&str]) -> Vec<u8> {
    format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}

/// Returns the good request with further lines.
pub(crate) fn with(more: &[&str]) -> Vec<u8> {
    head(&[&GOOD, more].concat())
}

/// Returns the good request with the line that starts with `name` replaced, or left out.
fn replaced(name: &str, line: Option<&str>) -> Vec<u8> {
    let lines: Vec<&str> = GOOD
        .iter()
        .filter_map(|&good| if good.starts_with(name) { line } else { Some(good) })
        .collect();
    assert_ne!(lines, GOOD, "{name} names a line");
    head(&lines)
}

/// Reads a request whole and byte by byte and requires the same of both.
fn serve(bytes: &[u8], limits: &HeadLimits) -> Result<Accepted, Refusal> {
    let whole = find_head(bytes, &mut 0, limits);
    let mut scanned = 0;
    let by_byte = (0..=bytes.len())
        .find_map(|len| find_head(&bytes[..len], &mut scanned, limits).transpose());
    assert_eq!(by_byte, whole.transpose(), "byte by byte and whole differ");
    let len = whole?.expect("the head is complete");
    answer(&bytes[..len], limits)
}

pub(crate) fn accepts(bytes: &[u8]) -> Accepted {
    serve(bytes, &LIMITS).unwrap_or_else(|refusal| panic!("{refusal:?}: {}", bytes.escape_ascii()))
}

fn refuses(bytes: &[u8], status: u16, rule: &str) -> Refusal {
    let refusal = serve(bytes, &LIMITS).expect_err(&bytes.escape_ascii().to_string());
    assert_eq!((refusal.status(), refusal.rule()), (status, rule), "{}", bytes.escape_ascii());
    refusal
}

#[test]
fn accepts_the_handshake_of_rfc6455_1_3() {
    let accepted =
        accepts(&with(&["Origin: http://example.com", "Sec-WebSocket-Protocol: chat, superchat"]));
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(accepted.response(), expected.as_bytes());
    assert_eq!(accepted.target(), "/chat");
    assert_eq!(accepted.host(), "server.example.com");
    assert_eq!(accepted.origin(), Some("http://example.com"));
}

#[test]
fn accepts_the_documents_curl_request() {
    let request = head(&[
        "GET / HTTP/1.1",
        "Host: 127.0.0.1:9001",
        "User-Agent: curl/8.5.0",
        "Accept: */*",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]);
    let accepted = accepts(&request);
    assert!(accepted.response().starts_with(b"HTTP/1.1 101 "));
    assert_eq!((accepted.target(), accepted.origin()), ("/", None));
}

#[test]
fn accepts_a_browser_request() {
    accepts(&head(&[
        "GET /ws?token=a%20b&x={1|2} HTTP/1.1",
        "Host: localhost:9001",
        "Connection: keep-alive, Upgrade",
        "Pragma: no-cache",
        "Cache-Control: no-cache",
        "Upgrade: websocket",
        "Origin: null",
        "Sec-WebSocket-Version: 13",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Accept-Language: de,en;q=0.9",
        "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    ]));
}

#[test]
fn accepts_odd_case_white_space_and_lists_over_lines() {
    accepts(&head(&[
        "GET / HTTP/1.1",
        "hOST:example.com",
        "UPGRADE: h2c",
        "upgrade:\tWebSocket \t",
        "connection: keep-alive",
        "CONNECTION: ,, x ,uPGRADE",
        "sec-websocket-KEY: dGhlIHNhbXBsZSBub25jZQ==  ",
        "Sec-Websocket-Version:13",
        "Sec-WebSocket-Protocol: a",
        "Sec-WebSocket-Protocol: b, c",
        "X-Latin: caf\u{e9}",
        "X-Empty:",
    ]));
}

#[test]
fn accepts_rfc6455_4_1_key_with_unused_bits_set() {
    accepts(&replaced("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==")));
}

#[test]
fn accepts_absolute_form_whose_authority_wins() {
    let cases = [
        ("ws://other.example:9001/chat?x", "other.example:9001", "/chat?x"),
        ("WSS://other.example", "other.example", "/"),
        ("http://[::1]:80?q", "[::1]:80", "/?q"),
    ];
    for (target, host, path) in cases {
        let accepted = accepts(&replaced("GET", Some(&format!("GET {target} HTTP/1.1"))));
        assert_eq!((accepted.host(), accepted.target()), (host, path));
    }
}

#[test]
fn accepts_one_empty_line_before_the_request() {
    accepts(&[b"\r\n", &with(&[])[..]].concat());
}

#[test]
fn accepts_content_length_of_zero() {
    accepts(&with(&["Content-Length: 0"]));
}

#[test]
fn head_ends_where_frames_begin() {
    let request = with(&[]);
    let bytes = [&request[..], b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"].concat();
    assert_eq!(find_head(&bytes, &mut 0, &LIMITS), Ok(Some(request.len())));
}

#[test]
fn refuses_other_methods_with_405_and_allow() {
    for method in ["POST", "HEAD", "OPTIONS", "PUT", "get", "CONNECT", "PRI"] {
        let refusal = refuses(
            &replaced("GET", Some(&format!("{method} / HTTP/1.1"))),
            405,
            "method-not-allowed",
        );
        let response = String::from_utf8(refusal.response()).unwrap();
        assert!(response.contains("\r\nAllow: GET\r\n"));
        assert_eq!(response.ends_with("\r\n\r\n"), method == "HEAD", "a HEAD has no content");
    }
}

#[test]
fn refusals_of_a_malformed_head_request_have_no_content() {
    let malformed: [(&[&str], u16, &str); 5] = [
        (&["HEAD / HTTP/1.1", "Host: a", "no colon"], 400, "malformed-field"),
        (&["HEAD / HTTP/1.1", "Host: a", "A: \0"], 400, "control-character"),
        (&["HEAD / HTTP/1.1\nHost: a"], 400, "bare-line-end"),
        (&["HEAD / HTTP/1.0"], 505, "http-version"),
        (&["HEAD / HTTP/3.0"], 505, "http-version"),
    ];
    for (lines, status, rule) in malformed {
        for empty_line_before in ["", "\r\n"] {
            let bytes = [empty_line_before.as_bytes(), &head(lines)].concat();
            let response = refuses(&bytes, status, rule).response();
            assert!(response.ends_with(b"\r\n\r\n"), "{}", response.escape_ascii());
        }
    }
    let header_and_more = refuses(b"HEADER\0/ HTTP/1.1", 400, "not-http").response();
    assert!(!header_and_more.ends_with(b"\r\n\r\n"), "another method");
}

#[test]
fn refuses_other_http_versions_with_505() {
    for version in ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/1.2"] {
        refuses(&replaced("GET", Some(&format!("GET / {version}"))), 505, "http-version");
    }
}

#[test]
fn refuses_malformed_request_lines() {
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / http/1.1",
        "GET / HTTP/11",
        "GET / HTTP/1.1x",
        "GET / FTP/1.1",
    ] {
        refuses(&replaced("GET", Some(line)), 400, "malformed-request");
    }
}

#[test]
fn refuses_malformed_targets() {
    for target in [
        "chat",
        "*",
        "host:80",
        "/a#b",
        "/caf\u{e9}",
        "ftp://host/",
        "ws://",
        "ws:///x",
        "ws://u@h/",
        "ws://h:x/",
    ] {
        refuses(&replaced("GET", Some(&format!("GET {target} HTTP/1.1"))), 400, "invalid-target");
    }
}

#[test]
fn refuses_missing_repeated_and_malformed_host() {
    refuses(&replaced("Host", None), 400, "missing-host");
    refuses(&with(&["host: server.example.com"]), 400, "repeated-host");
    for host in
        ["", "a b", "a:b", "a:1:2", "user@host", "a/b", "[::1", "[]", "[::1]x", "caf\u{e9}", ":80"]
    {
        refuses(&replaced("Host", Some(&format!("Host: {host}"))), 400, "invalid-host");
    }
    for host in ["h", "127.0.0.1:9001", "[::1]", "[fe80::1]:9001", "a.b-c_d", "h:"] {
        accepts(&replaced("Host", Some(&format!("Host: {host}"))));
    }
}

#[test]
fn refuses_without_upgrade_with_426() {
    for request in [
        replaced("Upgrade", None),
        replaced("Upgrade", Some("Upgrade: h2c")),
        replaced("Upgrade", Some("Upgrade: websocket2")),
        head(&["GET / HTTP/1.1", "Host: h"]),
    ] {
        let refusal = refuses(&request, 426, "no-upgrade");
        let response = String::from_utf8(refusal.response()).unwrap();
        assert!(response.contains("\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"));
    }
}

#[test]
fn refuses_connection_without_upgrade() {
    for line in [None, Some("Connection: keep-alive"), Some("Connection: upgraded")] {
        refuses(&replaced("Connection", line), 400, "connection-without-upgrade");
    }
}

#[test]
fn refuses_other_websocket_versions_with_426_and_ours() {
    for version in [None, Some("8"), Some("14"), Some("013"), Some("13, 8"), Some("")] {
        let line = version.map(|version| format!("Sec-WebSocket-Version: {version}"));
        let refusal =
            refuses(&replaced("Sec-WebSocket-Version", line.as_deref()), 426, "websocket-version");
        let response = String::from_utf8(refusal.response()).unwrap();
        assert!(response.contains("\r\nSec-WebSocket-Version: 13\r\n"));
    }
    refuses(&with(&["Sec-WebSocket-Version: 13"]), 400, "repeated-websocket-version");
}

#[test]
fn refuses_missing_repeated_and_malformed_key() {
    refuses(&replaced("Sec-WebSocket-Key", None), 400, "missing-key");
    refuses(&with(&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]), 400, "repeated-key");
    for key in [
        "",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZTE=",
        "dGhlIHNhbXBsZSBub25jZTEy",
        "dGhlIHNhbXBsZSBub25jZSBidXQgdG9vIGxvbmc=",
        "dGhlIHNhbXBs ZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25jZ_==",
        "!!!!!!!!!!!!!!!!!!!!!!==",
    ] {
        let line = format!("Sec-WebSocket-Key: {key}");
        refuses(&replaced("Sec-WebSocket-Key", Some(&line)), 400, "invalid-key");
    }
}

#[test]
fn refuses_a_body() {
    for line in [
        "Content-Length: 5",
        "Content-Length: 0, 5",
        "Content-Length: x",
        "Content-Length:",
        "Transfer-Encoding: chunked",
    ] {
        refuses(&with(&[line]), 400, "request-body");
    }
    refuses(&with(&["Content-Length: 0", "Content-Length: 5"]), 400, "request-body");
}

#[test]
fn refuses_malformed_subprotocols_extensions_and_origins() {
    for list in ["", ",", "a b", "a;b", "\"a\""] {
        let line = format!("Sec-WebSocket-Protocol: {list}");
        refuses(&with(&[&line]), 400, "invalid-subprotocols");
    }
    for list in ["", "permessage-deflate;", "permessage-deflate; =1", "a=b", "a; b=\"c d\""] {
        let line = format!("Sec-WebSocket-Extensions: {list}");
        refuses(&with(&[&line]), 400, "invalid-extensions");
    }
    refuses(&with(&["Origin: http://a", "Origin: http://a"]), 400, "invalid-origin");
    refuses(&with(&["Origin: http://caf\u{e9}"]), 400, "invalid-origin");
}

#[test]
fn refuses_bare_line_feeds_folding_nul_and_space_before_colon() {
    let bare = String::from_utf8(with(&[])).unwrap().replacen("\r\n", "\n", 1);
    refuses(bare.as_bytes(), 400, "bare-line-end");
    refuses(&with(&["X-A: a\rb"]), 400, "bare-line-end");
    refuses(&with(&["X-A: a\0b"]), 400, "control-character");
    refuses(&with(&["X-A: a\x1bb"]), 400, "control-character");
    for line in
        ["X-A: a\r\n b", "X-A: a\r\n\tb", "Host : h", "X-A a", ": empty", "X-A\u{e9}: b", "X A: b"]
    {
        refuses(&with(&[line]), 400, "malformed-field");
    }
    refuses(&head(&["GET / HTTP/1.1", " Host: h"]), 400, "malformed-field");
}

#[test]
fn names_the_http2_preface_at_once() {
    for preface in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"PRI * HTTP/2"] {
        let refused = find_head(preface, &mut 0, &LIMITS).unwrap_err();
        assert_eq!((refused.status(), refused.rule()), (400, "http2-preface"));
        assert!(refused.detail().contains("HTTP/1.1"));
    }
}

#[test]
fn a_head_is_answered_as_a_get_but_opens_nothing() {
    let plain = refuses(&head(&["HEAD /x HTTP/1.1", "Host: a"]), 426, "no-upgrade");
    assert!(plain.asks_for_no_upgrade() && plain.is_to_head());
    assert!(plain.response().ends_with(b"\r\n\r\n"));
    refuses(&replaced("GET", Some("HEAD / HTTP/1.1")), 405, "method-not-allowed");
}

#[test]
fn an_empty_line_of_a_list_is_valid_beside_another() {
    for lines in [
        &["Sec-WebSocket-Protocol:", "Sec-WebSocket-Protocol: chat"][..],
        &["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: ,"],
        &["Sec-WebSocket-Extensions: ,", "Sec-WebSocket-Extensions: permessage-deflate"],
        &["Connection:", "Upgrade: ,"],
    ] {
        assert!(answer(&with(lines), &LIMITS).is_ok(), "{lines:?}");
    }
    assert!(answer(&replaced("Connection", Some("Connection: , Upgrade")), &LIMITS).is_ok());
}

#[test]
fn refuses_junk_without_waiting_for_the_end_of_a_head() {
    let junk: [&[u8]; 7] = [
        b"\x81\x85\x37\xfa\x21\x3d",
        b"\0",
        b" GET",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"{\"json\"",
        b"\r\n\r\n",
        b"ANDAMETHODTHATISLONGERTHANANYTHATEXISTS",
    ];
    for bytes in junk {
        let refused = find_head(bytes, &mut 0, &LIMITS).unwrap_err();
        assert_eq!(
            (refused.status(), refused.rule()),
            (400, "not-http"),
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn detects_tls_on_a_plain_port_however_it_is_cut() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for bytes in [&hello[..1], &hello[..2], &hello[..], b"\x16\x09"] {
        let refused = find_head(bytes, &mut 0, &LIMITS).unwrap_err();
        assert_eq!(
            (refused.status(), refused.rule()),
            (400, "tls-on-plain-port"),
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn refuses_target_over_the_limit_with_414() {
    let at_limit = format!("GET /{} HTTP/1.1", "x".repeat(LIMITS.target - 1));
    accepts(&replaced("GET", Some(&at_limit)));
    let beyond = format!("GET /{} HTTP/1.1", "x".repeat(LIMITS.target));
    refuses(&replaced("GET", Some(&beyond)), 414, "target-too-long");
    let endless = format!("GET /{}", "x".repeat(20_000));
    refuses(endless.as_bytes(), 414, "target-too-long");
}

#[test]
fn refuses_head_over_the_limit_with_431() {
    let room = LIMITS.bytes - with(&["X-Long: "]).len();
    accepts(&with(&[&format!("X-Long: {}", "x".repeat(room))]));
    refuses(&with(&[&format!("X-Long: {}", "x".repeat(room + 1))]), 431, "head-too-long");
}

#[test]
fn refuses_too_many_fields_with_431() {
    let more: Vec<&str> = vec!["X: y"; LIMITS.fields - 5];
    accepts(&with(&more));
    refuses(&with(&vec!["X: y"; LIMITS.fields - 4]), 431, "too-many-fields");
}

#[test]
fn answer_is_strict_without_find_head() {
    assert_eq!(answer(b"", &LIMITS).unwrap_err().status(), 400);
    assert_eq!(
        answer(b"GET / HTTP/1.1\nHost: h\n\n", &LIMITS).unwrap_err().rule(),
        "bare-line-end"
    );
    let more = [&with(&[])[..], b"more"].concat();
    assert_eq!(answer(&more, &LIMITS).unwrap_err().rule(), "malformed-request");
}

#[test]
fn refusals_are_complete_http_answers() {
    let refusals = [
        answer(b"", &LIMITS).unwrap_err(),
        answer(&replaced("GET", Some("PUT / HTTP/1.1")), &LIMITS).unwrap_err(),
        answer(&replaced("Upgrade", None), &LIMITS).unwrap_err(),
        Refusal::forbidden_origin(),
        Refusal::unknown_path(),
        Refusal::timeout(),
        Refusal::too_many_connections(),
        Refusal::too_many_from_address(),
        Refusal::connecting_too_fast(),
        Refusal::going_down(),
    ];
    for refusal in refusals {
        let response = refusal.response();
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(len) = parsed.parse(&response).unwrap() else {
            panic!("{refusal:?}")
        };
        assert_eq!(parsed.code, Some(refusal.status()));
        let field = |name: &str| {
            let found = parsed.headers.iter().find(|field| field.name == name).unwrap();
            std::str::from_utf8(found.value).unwrap()
        };
        assert_eq!(field("Content-Length"), (response.len() - len).to_string());
        assert!(field("Connection").starts_with("close"));
        assert!(!refusal.section().is_empty() && !refusal.detail().is_empty());
    }
}

pub(crate) const NONCE: [u8; 16] = *b"the sample nonce";

pub(crate) const SWITCH: [&str; 4] = [
    "HTTP/1.1 101 Switching Protocols",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
];

/// Checks the good response with the line that starts with `name` replaced, or left out.
fn check(name: &str, line: Option<&str>) -> Result<Option<Parameters>, ResponseError> {
    let lines: Vec<&str> = SWITCH
        .iter()
        .filter_map(|&good| if good.starts_with(name) { line } else { Some(good) })
        .collect();
    check_response(&head(&lines), &NONCE, &["chat", "superchat"], None)
}

fn check_with(more: &[&str]) -> Result<Option<Parameters>, ResponseError> {
    check_response(&head(&[&SWITCH, more].concat()), &NONCE, &["chat", "superchat"], None)
}

#[test]
fn client_accepts_the_response_of_rfc6455_1_3() {
    assert_eq!(check_with(&[]), Ok(None));
    assert_eq!(check_with(&["Sec-WebSocket-Protocol: chat"]), Ok(None));
    assert_eq!(check_with(&["Sec-WebSocket-Extensions:"]), Ok(None));
    assert_eq!(check("Connection", Some("connection: keep-alive, UPGRADE")), Ok(None));
    assert_eq!(check("Upgrade", Some("upgrade: WebSocket")), Ok(None));
}

#[test]
fn client_refuses_other_statuses_and_quotes_them_escaped() {
    let status = |line| check("HTTP", Some(line)).unwrap_err();
    let expected =
        ResponseError::Status { status: 404, reason: "Not Found".into(), location: None };
    assert_eq!(status("HTTP/1.1 404 Not Found"), expected);
    assert_eq!(expected.to_string(), "the server answered \"404 Not Found\" instead of 101");
    assert_eq!(status("HTTP/1.0 503 Busy").rule(), "status");
    assert_eq!(
        status("HTTP/1.1 200 a\tb").to_string(),
        "the server answered \"200 a\\tb\" instead of 101"
    );
    assert_eq!(status("HTTP/1.0 101 Switching"), ResponseError::NotHttp);
}

#[test]
fn client_refuses_missing_and_wrong_switch_fields() {
    assert_eq!(check("Upgrade", None), Err(ResponseError::Upgrade));
    assert_eq!(check("Upgrade", Some("Upgrade: h2c")), Err(ResponseError::Upgrade));
    assert_eq!(check_with(&["Upgrade: websocket"]), Err(ResponseError::Upgrade));
    assert_eq!(check("Connection", None), Err(ResponseError::Connection));
    assert_eq!(check("Connection", Some("Connection: close")), Err(ResponseError::Connection));
}

#[test]
fn client_refuses_missing_repeated_and_wrong_accept() {
    assert_eq!(check("Sec-WebSocket-Accept", None), Err(ResponseError::NoAccept));
    assert_eq!(check_with(&[SWITCH[3]]), Err(ResponseError::NoAccept));
    for accept in ["", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo", "S3PPLMBITXAQ9KYGZZHZRBK+XOO="] {
        let line = format!("Sec-WebSocket-Accept: {accept}");
        assert_eq!(check("Sec-WebSocket-Accept", Some(&line)), Err(ResponseError::WrongAccept));
    }
}

#[test]
fn client_refuses_what_it_did_not_offer() {
    let extension = check_with(&["Sec-WebSocket-Extensions: permessage-deflate"]).unwrap_err();
    assert_eq!(extension, ResponseError::UnofferedExtension { name: "permessage-deflate".into() });
    let malformed = check_with(&["Sec-WebSocket-Extensions: a b"]).unwrap_err();
    assert_eq!(malformed, ResponseError::MalformedExtensions { value: "a b".into() });
    for name in ["other", "Chat", "chat, superchat", ""] {
        let line = format!("Sec-WebSocket-Protocol: {name}");
        let expected = ResponseError::UnofferedSubprotocol { name: name.into() };
        assert_eq!(check_with(&[&line]), Err(expected));
    }
    let twice = ["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: chat"];
    assert_eq!(check_with(&twice).unwrap_err().rule(), "unoffered-subprotocol");
}

#[test]
fn client_refuses_non_http_at_once_and_endless_heads() {
    for bytes in [&b"\x15\x03\x01"[..], b"SSH-2.0-x\r\n", b"HTTP/2", b"<html>", b"\r\n"] {
        assert_eq!(find_response(bytes, &mut 0, &LIMITS), Err(ResponseError::NotHttp));
    }
    let (mut scanned, endless) = (0, [&b"HTTP/1.1 101 x\r\nA: "[..], &[b'a'; 20_000]].concat());
    let found = (1..endless.len())
        .find_map(|len| find_response(&endless[..len], &mut scanned, &LIMITS).transpose());
    assert_eq!(found, Some(Err(ResponseError::HeadTooLong { limit: LIMITS.bytes })));
    let bare = find_response(b"HTTP/1.1 101 x\nA: b\n\n", &mut 0, &LIMITS).unwrap_err();
    assert_eq!(bare.rule(), "malformed-response");
}

fn status_with(line: &str, field: &str) -> String {
    check_response(&head(&[line, field]), &NONCE, &[], None).unwrap_err().to_string()
}

#[test]
fn names_location_of_a_redirect() {
    let found = status_with("HTTP/1.1 302 Found", "Location: ws://127.0.0.1:9001/a?b=\"c\"");
    let said = "the server answered \"302 Found\" instead of 101: it redirects to ws://127.0.0.1:9001/a?b=\\\"c\\\"";
    assert_eq!(found, said);
    assert!(!status_with("HTTP/1.1 201 Created", "Location: /x").contains("/x"), "no redirect");
    assert!(!status_with("HTTP/1.1 302 Found", "X: y").contains("redirects"), "leads nowhere");
    let odd = status_with("HTTP/1.1 307 x", "Location: /\t\u{9b}31m");
    assert!(odd.ends_with("redirects to /\\t\\xc2\\x9b31m"), "{odd}");
}

#[test]
fn bounds_what_it_quotes_of_the_server() {
    let long = "\u{e9}".repeat(3000);
    let fields = ["Location", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"];
    for field in fields.map(|name| format!("{name}: {long}")) {
        let status = if field.starts_with("Location") { "HTTP/1.1 301 x" } else { SWITCH[0] };
        let lines = [&[status], &SWITCH[1..], &[&field]].concat();
        let said = check_response(&head(&lines), &NONCE, &[], None).unwrap_err().to_string();
        assert!(said.len() < 300 && said.contains("..."), "{} characters", said.len());
    }
    let reason = status_with(&format!("HTTP/1.1 500 {}", "a".repeat(3000)), "X: y");
    assert!(reason.len() < 300, "{} characters", reason.len());
}

/// Returns the result of the finder for `bytes` that arrive one by one. It must be equal to the
/// result for all of them at once.
fn find_final(bytes: &[u8]) -> Result<Option<std::ops::Range<usize>>, ResponseError> {
    let mut finder = FinalResponse::default();
    let by_byte = (0..=bytes.len()).find_map(|len| finder.find(&bytes[..len], &LIMITS).transpose());
    let whole = FinalResponse::default().find(bytes, &LIMITS);
    assert_eq!(by_byte.map_or(Ok(None), |found| found.map(Some)), whole);
    whole
}

#[test]
fn skips_interim_responses() {
    let switch = head(&SWITCH);
    for interim in [
        &[][..],
        &["HTTP/1.1 100 Continue"],
        &["HTTP/1.1 102 Processing", "HTTP/1.1 103 Early Hints"],
        &["HTTP/1.1 103", "HTTP/1.1 199 Whatever", "HTTP/1.0 100 Continue"],
        &["HTTP/1.1 100 x"; MAX_INTERIM_RESPONSES],
    ] {
        let before: Vec<u8> =
            interim.iter().flat_map(|&line| head(&[line, "Link: </a.css>; rel=preload"])).collect();
        let bytes = [&before[..], &switch, b"\x81\x00"].concat();
        let found = find_final(&bytes).unwrap().unwrap();
        assert_eq!(found, before.len()..before.len() + switch.len());
        assert_eq!(check_response(&bytes[found], &NONCE, &[], None), Ok(None));
        assert_eq!(find_final(&before), Ok(None), "the answer is still to come");
    }
}

#[test]
fn ends_at_101_and_other_final_responses() {
    let statuses =
        ["101 Switching Protocols", "200 OK", "404 Not Found", "1xx x", "1000 x", "10 x", "1:1 x"];
    for status in statuses {
        let first = head(&[&format!("HTTP/1.1 {status}")]);
        let bytes = [&first[..], &head(&SWITCH)].concat();
        assert_eq!(find_final(&bytes), Ok(Some(0..first.len())), "{status}");
    }
}

#[test]
fn refuses_interim_responses_without_end() {
    let one = head(&["HTTP/1.1 102 Processing"]);
    let many = one.repeat(MAX_INTERIM_RESPONSES + 1);
    let error = find_final(&many).unwrap_err();
    assert_eq!((error.rule(), &error), ("too-many-interim", &ResponseError::TooManyInterim));
    assert!(error.to_string().contains("more than 8 interim (1xx) responses"));
    // There are few of them, but together they are longer than one head may be.
    let long =
        head(&["HTTP/1.1 103 Early Hints", &format!("Link: {}", "a".repeat(LIMITS.bytes / 3))]);
    let error = find_final(&[&long.repeat(3)[..], &head(&SWITCH)].concat()).unwrap_err();
    assert_eq!(error, ResponseError::HeadTooLong { limit: LIMITS.bytes });
    let garbage = [&one[..], b"SSH-2.0-x\r\n"].concat();
    assert_eq!(find_final(&garbage), Err(ResponseError::NotHttp));
}

#[test]
fn request_check_names_the_part_that_is_wrong() {
    let good = Request {
        host: "h:1",
        target: "/",
        nonce: NONCE,
        origin: Some("http://a"),
        subprotocols: &["chat"],
        deflate: Some(Offer::default()),
        headers: &[("X-A", "b c")],
    };
    assert_eq!(good.check(), Ok(()));
    let part = |request: Request<'_>| request.check().map_err(|RequestError { part, .. }| part);
    for host in ["", "a b", "a\r\nX: y"] {
        assert_eq!(part(Request { host, ..good }), Err("host"));
    }
    for target in ["", "chat", "/a b", "/a\r\n", "/#x", "/\u{e9}"] {
        assert_eq!(part(Request { target, ..good }), Err("target"));
    }
    assert_eq!(part(Request { origin: Some("a\nb"), ..good }), Err("origin"));
    assert_eq!(part(Request { subprotocols: &["a b"], ..good }), Err("subprotocol"));
    for bits in (0..8).chain(16..=u8::MAX) {
        for offer in [
            Offer { server_max_window_bits: Some(bits), ..Offer::default() },
            Offer { client_max_window_bits: Some(bits), ..Offer::default() },
        ] {
            assert_eq!(part(Request { deflate: Some(offer), ..good }), Err("deflate"));
        }
    }
    for header in
        [("X A", "b"), ("", "b"), ("X-A", "b\r\nY: z"), ("host", "h"), ("sec-websocket-key", "k")]
    {
        assert_eq!(part(Request { headers: &[header], ..good }), Err("header"));
    }
    let twice = Request { headers: &[("ORIGIN", "http://b")], ..good };
    assert_eq!(part(twice), Err("header"), "the handshake writes the Origin already");
    assert_eq!(part(Request { origin: None, ..twice }), Ok(()));
}

proptest! {
    #[test]
    fn any_bytes_are_answered_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        line in "[A-Z]{0,5} ?[ -~]{0,30} ?HTTP/[0-9.]{0,3}",
        fields in prop::collection::vec("[ -~]{0,20}:? ?[ -~]{0,20}", 0..5),
    ) {
        let _ = find_head(&bytes, &mut 0, &LIMITS);
        let _ = answer(&bytes, &LIMITS);
        let _ = check_response(&bytes, &NONCE, &[], None);
        let lines: Vec<&str> = std::iter::once(&line).chain(&fields).map(String::as_str).collect();
        let request = head(&lines);
        let _ = answer(&request, &LIMITS);
        let _ = find_response(&request, &mut 0, &LIMITS);
        let _ = FinalResponse::default().find(&request, &LIMITS);
        let _ = check_response(&request, &NONCE, &[], None);
    }
}

#[test]
fn subprotocol_is_the_first_offered_that_is_known() {
    let mut accepted =
        accepts(&with(&["Sec-WebSocket-Protocol: mqtt , chat", "Sec-WebSocket-Protocol: v2"]));
    assert_eq!(accepted.select_subprotocol(|offered| offered == "soap"), None);
    let before = accepted.response().to_vec();
    assert!(!before.windows(22).any(|window| window == b"Sec-WebSocket-Protocol"));
    assert_eq!(
        accepted.select_subprotocol(|offered| ["v2", "chat"].contains(&offered)),
        Some("chat")
    );
    let expected = [&before[..before.len() - 2], b"Sec-WebSocket-Protocol: chat\r\n\r\n"].concat();
    assert_eq!(accepted.response(), expected);
}

//! The opening handshake (RFC 6455 4.2, RFC 9112).

use super::case::Case;
use super::observe::Answer;
use super::servers::{ORIGIN, PATH, Servers, Variant};
use super::wire::{BINARY, KEY, TEXT, frame};

const CLOSES: &[(&str, &str)] = &[("Connection", "close")];
const ALLOW: &[(&str, &str)] = &[("Allow", "GET"), ("Connection", "close")];
const VERSION: &[(&str, &str)] = &[("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")];

/// A request that can be made invalid in one place.
#[derive(Clone)]
struct Draft {
    line: String,
    fields: Vec<(String, String)>,
}

impl Draft {
    fn new(servers: &Servers) -> Self {
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            line: format!("GET {} HTTP/1.1", servers.path),
            fields: vec![
                field("Host", &servers.host),
                field("Upgrade", "websocket"),
                field("Connection", "Upgrade"),
                field("Sec-WebSocket-Key", KEY),
                field("Sec-WebSocket-Version", "13"),
            ],
        }
    }

    fn line(mut self, line: &str) -> Self {
        self.line = line.to_owned();
        self
    }

    /// The request line with another method.
    fn method(self, method: &str) -> Self {
        let line = self.line.replacen("GET", method, 1);
        self.line(&line)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(found, _)| found != name);
        self
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        let field = self
            .fields
            .iter_mut()
            .find(|(found, _)| found == name)
            .expect("a field of every request");
        value.clone_into(&mut field.1);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let fields = self.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        format!("{}\r\n{}\r\n", self.line, fields.collect::<String>()).into_bytes()
    }

    /// The bytes with one part of them replaced.
    fn replaced(&self, from: &str, to: &str) -> Vec<u8> {
        let text = String::from_utf8(self.bytes()).expect("text");
        assert!(text.contains(from), "{from} is not in the request");
        text.replacen(from, to, 1).into_bytes()
    }
}

pub(super) fn cases(servers: &Servers) -> Vec<Case> {
    let draft = Draft::new(servers);
    [
        accepted(&draft, servers),
        spellings(&draft),
        with_frames(&draft),
        http_refusals(&draft),
        malformed_fields(&draft),
        websocket_refusals(&draft, servers),
        offers(&draft),
        sizes(&draft, &servers.path),
        other_protocols(),
        deadlines(&draft),
        admission(&draft),
        guarded(&draft, servers),
    ]
    .concat()
}

fn opens(id: &str, sent: &str, section: &'static str, bytes: Vec<u8>) -> Case {
    Case::request(id, sent, section, bytes, Answer::Opens(Vec::new()))
}

fn bad(id: &str, sent: &str, section: &'static str, bytes: Vec<u8>) -> Case {
    Case::request(id, sent, section, bytes, Answer::Status(400, CLOSES))
}

fn accepted(d: &Draft, servers: &Servers) -> Vec<Case> {
    let Servers { host, path, .. } = servers;
    let line = |target: &str| d.clone().line(&format!("GET {target} HTTP/1.1")).bytes();
    let query =
        if path.contains('?') { format!("{path}&a=b") } else { format!("{path}?a=b&c=%20") };
    vec![
        opens("hs-plain", "a right request", "RFC 6455 4.2.2", d.bytes()),
        opens("hs-bytewise", "the same, byte by byte", "RFC 9112 2.2", d.bytes()).in_writes_of(1),
        opens("hs-pieces", "the same in writes of 7 bytes", "RFC 9112 2.2", d.bytes())
            .in_writes_of(7),
        opens("hs-query", "a target with a query", "RFC 6455 3", line(&query)),
        opens(
            "hs-absolute",
            "absolute-form target, http",
            "RFC 9112 3.2.2",
            line(&format!("http://{host}{path}")),
        ),
        opens(
            "hs-absolute-ws",
            "absolute-form target, ws",
            "RFC 6455 4.1",
            line(&format!("ws://{host}{path}")),
        ),
        opens(
            "hs-origin",
            "with an Origin",
            "RFC 6455 4.1",
            d.clone().with("Origin", &format!("http://{host}")).bytes(),
        ),
        opens(
            "hs-more-fields",
            "with fields that mean nothing",
            "RFC 6455 4.1",
            d.clone()
                .with("User-Agent", "x/1")
                .with("Cookie", "a=b; c=\"d\"")
                .with("X-Empty", "")
                .bytes(),
        ),
        opens(
            "hs-empty-body",
            "Content-Length: 0",
            "RFC 9112 6.3",
            d.clone().with("Content-Length", "0").bytes(),
        ),
    ]
}

fn spellings(d: &Draft) -> Vec<Case> {
    let text = String::from_utf8(d.bytes()).expect("text");
    let (line, fields) = text.split_once("\r\n").expect("a request line");
    let upper_names: String = fields
        .split_inclusive("\r\n")
        .map(|field| {
            field
                .split_once(':')
                .map_or(field.to_owned(), |(n, v)| format!("{}:{v}", n.to_uppercase()))
        })
        .collect();
    let mut reversed = d.clone();
    reversed.fields.reverse();
    vec![
        opens(
            "hs-upper-names",
            "field names in capitals",
            "RFC 9110 5.1",
            format!("{line}\r\n{upper_names}").into_bytes(),
        ),
        opens(
            "hs-upgrade-case",
            "Upgrade: WebSocket",
            "RFC 6455 4.2.1",
            d.clone().set("Upgrade", "WebSocket").bytes(),
        ),
        opens(
            "hs-connection-case",
            "Connection: upgrade",
            "RFC 6455 4.2.1",
            d.clone().set("Connection", "upgrade").bytes(),
        ),
        opens(
            "hs-connection-list",
            "Connection: keep-alive, Upgrade",
            "RFC 9110 7.6.1",
            d.clone().set("Connection", "keep-alive, Upgrade").bytes(),
        ),
        opens(
            "hs-connection-lines",
            "Connection over two lines",
            "RFC 9110 5.3",
            d.clone().set("Connection", "keep-alive").with("Connection", "Upgrade").bytes(),
        ),
        opens(
            "hs-connection-empties",
            "Connection: ,, Upgrade ,",
            "RFC 9110 5.6.1",
            d.clone().set("Connection", ",, Upgrade ,").bytes(),
        ),
        opens(
            "hs-upgrade-list",
            "Upgrade: h2c, websocket",
            "RFC 9110 7.8",
            d.clone().set("Upgrade", "h2c, websocket").bytes(),
        ),
        opens(
            "hs-upgrade-lines",
            "Upgrade over two lines",
            "RFC 9110 5.3",
            d.clone().set("Upgrade", "h2c").with("Upgrade", "websocket").bytes(),
        ),
        opens(
            "hs-no-space",
            "no space behind a colon",
            "RFC 9112 5",
            d.replaced("Upgrade: websocket", "Upgrade:websocket"),
        ),
        opens(
            "hs-many-spaces",
            "spaces and tabs around a value",
            "RFC 9112 5",
            d.replaced("Upgrade: websocket", "Upgrade: \t websocket \t"),
        ),
        opens("hs-order", "the fields in reverse", "RFC 9110 5.3", reversed.bytes()),
        opens(
            "hs-empty-line",
            "an empty line before the request",
            "RFC 9112 2.2",
            [b"\r\n".to_vec(), d.bytes()].concat(),
        ),
    ]
}

fn with_frames(d: &Draft) -> Vec<Case> {
    let reply = |opcode: u8, payload: &[u8]| (opcode, payload.to_vec());
    let two = [d.bytes(), frame(TEXT, b"one"), frame(BINARY, b"two")].concat();
    let replies = vec![reply(TEXT, b"one"), reply(BINARY, b"two")];
    let case = |id, sent, bytes, replies| {
        Case::request(id, sent, "RFC 6455 4.1", bytes, Answer::Opens(replies))
    };
    vec![
        case(
            "hs-frame-behind",
            "a frame in the request's segment",
            [d.bytes(), frame(TEXT, b"early")].concat(),
            vec![reply(TEXT, b"early")],
        ),
        case(
            "hs-frames-behind",
            "two frames in the request's segment",
            two.clone(),
            replies.clone(),
        ),
        case(
            "hs-frames-bytewise",
            "request and two frames byte by byte",
            two.clone(),
            replies.clone(),
        )
        .in_writes_of(1),
        case("hs-frames-cut", "request and two frames, cut", two, replies)
            .in_writes_of(d.bytes().len() + 4),
    ]
}

fn http_refusals(d: &Draft) -> Vec<Case> {
    let mut cases = Vec::new();
    for method in ["POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "get"] {
        let id = format!("hs-method-{method}");
        let bytes = d.clone().method(method).bytes();
        let sent = format!("method {method}");
        cases.push(Case::request(&id, &sent, "RFC 6455 4.1", bytes, Answer::Status(405, ALLOW)));
    }
    for version in ["1.0", "2.0", "0.9"] {
        let bytes = d.replaced("HTTP/1.1", &format!("HTTP/{version}"));
        let (id, sent) = (format!("hs-http-{version}"), format!("HTTP/{version}"));
        cases.push(Case::request(&id, &sent, "RFC 6455 4.1", bytes, Answer::Status(505, CLOSES)));
    }
    let line = |line: &str| d.clone().line(line).bytes();
    cases.extend([
        bad("hs-no-version", "a request line without a version", "RFC 9112 3", line("GET /")),
        bad("hs-two-spaces", "two spaces before the target", "RFC 9112 3", line("GET  / HTTP/1.1")),
        bad("hs-target-space", "a space in the target", "RFC 9112 3.2", line("GET /a b HTTP/1.1")),
        bad(
            "hs-target-relative",
            "target without a slash",
            "RFC 9112 3.2",
            line("GET chat HTTP/1.1"),
        ),
        bad("hs-target-star", "target *", "RFC 9112 3.2.4", line("GET * HTTP/1.1")),
        bad(
            "hs-target-fragment",
            "target with a fragment",
            "RFC 6455 3",
            line("GET /#there HTTP/1.1"),
        ),
        bad(
            "hs-target-scheme",
            "absolute-form target, ftp",
            "RFC 6455 4.2.1",
            line("GET ftp://localhost/ HTTP/1.1"),
        ),
        bad("hs-host-missing", "no Host", "RFC 9112 3.2", d.clone().without("Host").bytes()),
        bad("hs-host-twice", "Host twice", "RFC 9112 3.2", d.clone().with("Host", "b").bytes()),
        bad("hs-host-space", "Host: a b", "RFC 9112 3.2", d.clone().set("Host", "a b").bytes()),
        bad(
            "hs-host-user",
            "Host with user information",
            "RFC 9110 4.2.4",
            d.clone().set("Host", "me@localhost").bytes(),
        ),
        bad(
            "hs-body",
            "Content-Length: 5",
            "RFC 6455 4.1",
            d.clone().with("Content-Length", "5").bytes(),
        ),
        bad(
            "hs-chunked",
            "Transfer-Encoding: chunked",
            "RFC 6455 4.1",
            d.clone().with("Transfer-Encoding", "chunked").bytes(),
        ),
        bad(
            "hs-pipelined",
            "a refused request and a right one behind it",
            "RFC 9112 9.6",
            [d.clone().without("Host").bytes(), d.bytes()].concat(),
        ),
    ]);
    cases
}

fn malformed_fields(d: &Draft) -> Vec<Case> {
    vec![
        bad(
            "hs-bare-lf",
            "one line ends in LF alone",
            "RFC 9112 2.2",
            d.replaced("websocket\r\n", "websocket\n"),
        ),
        bad(
            "hs-all-lf",
            "all lines end in LF alone",
            "RFC 9112 2.2",
            String::from_utf8(d.bytes()).expect("text").replace("\r\n", "\n").into_bytes(),
        ),
        bad(
            "hs-bare-cr",
            "CR inside a value",
            "RFC 9112 2.2",
            d.clone().with("X-A", "a\rb").bytes(),
        ),
        bad(
            "hs-folded",
            "a folded value",
            "RFC 9112 5.2",
            d.replaced("Upgrade: websocket", "Upgrade:\r\n websocket"),
        ),
        bad(
            "hs-space-colon",
            "a space before a colon",
            "RFC 9112 5.1",
            d.replaced("Upgrade: websocket", "Upgrade : websocket"),
        ),
        bad(
            "hs-leading-space",
            "a space before the first field",
            "RFC 9112 2.2",
            d.replaced("Host:", " Host:"),
        ),
        bad(
            "hs-no-colon",
            "a line without a colon",
            "RFC 9112 5",
            d.replaced("Upgrade: websocket", "Nonsense\r\nUpgrade: websocket"),
        ),
        bad(
            "hs-no-name",
            "a field without a name",
            "RFC 9112 5",
            d.replaced("Upgrade: websocket", ": x\r\nUpgrade: websocket"),
        ),
        bad(
            "hs-name-space",
            "a space inside a name",
            "RFC 9110 5.1",
            d.clone().with("X A", "a").bytes(),
        ),
        bad(
            "hs-name-letter",
            "a letter beyond ASCII in a name",
            "RFC 9110 5.1",
            d.clone().with("X-\u{e4}", "a").bytes(),
        ),
        bad(
            "hs-nul-value",
            "NUL in a value",
            "RFC 9110 5.5",
            d.clone().with("X-A", "a\0b").bytes(),
        ),
        bad("hs-nul-name", "NUL in a name", "RFC 9110 5.1", d.clone().with("X\0A", "a").bytes()),
        bad(
            "hs-control-value",
            "ESC in a value",
            "RFC 9110 5.5",
            d.clone().with("X-A", "a\x1bb").bytes(),
        ),
        bad(
            "hs-nul-target",
            "NUL in the target",
            "RFC 9112 3.2",
            d.clone().line("GET /\0 HTTP/1.1").bytes(),
        ),
    ]
}

fn websocket_refusals(d: &Draft, servers: &Servers) -> Vec<Case> {
    let upgrade = |id: &str, sent: &str, draft: Draft| {
        Case::request(id, sent, "RFC 6455 4.2.1", draft.bytes(), Answer::Status(426, VERSION))
    };
    let no_websocket = |id: &str, sent: &str, draft: Draft| {
        // Our own servers have no page at this path.
        let is_ours = servers.pid().is_some();
        let answer =
            if is_ours { Answer::Status(426, VERSION) } else { Answer::StatusOrPage(426, VERSION) };
        Case::request(id, sent, "RFC 6455 4.2.1", draft.bytes(), answer)
    };
    let page = d.clone().without("Upgrade").set("Connection", "close");
    let mut cases = vec![
        no_websocket("hs-page", "a page, no upgrade asked for", page),
        no_websocket("hs-upgrade-missing", "no Upgrade", d.clone().without("Upgrade")),
        no_websocket("hs-upgrade-other", "Upgrade: h2c", d.clone().set("Upgrade", "h2c")),
        no_websocket(
            "hs-upgrade-part",
            "Upgrade: websockets",
            d.clone().set("Upgrade", "websockets"),
        ),
        upgrade(
            "hs-version-missing",
            "no Sec-WebSocket-Version",
            d.clone().without("Sec-WebSocket-Version"),
        ),
        bad(
            "hs-version-twice",
            "Sec-WebSocket-Version twice",
            "RFC 6455 11.3.5",
            d.clone().with("Sec-WebSocket-Version", "13").bytes(),
        ),
        bad(
            "hs-connection-missing",
            "no Connection",
            "RFC 6455 4.2.1",
            d.clone().without("Connection").bytes(),
        ),
        bad(
            "hs-connection-close",
            "Connection: close",
            "RFC 6455 4.2.1",
            d.clone().set("Connection", "close").bytes(),
        ),
        bad(
            "hs-connection-part",
            "Connection: Upgraded",
            "RFC 6455 4.2.1",
            d.clone().set("Connection", "Upgraded").bytes(),
        ),
        bad(
            "hs-key-missing",
            "no Sec-WebSocket-Key",
            "RFC 6455 4.2.1",
            d.clone().without("Sec-WebSocket-Key").bytes(),
        ),
        bad(
            "hs-key-twice",
            "Sec-WebSocket-Key twice",
            "RFC 6455 11.3.1",
            d.clone().with("Sec-WebSocket-Key", KEY).bytes(),
        ),
    ];
    let versions = [
        ("empty", ""),
        ("0", "0"),
        ("8", "8"),
        ("12", "12"),
        ("14", "14"),
        ("013", "013"),
        ("list", "13, 8"),
        ("letter", "x"),
    ];
    for (name, version) in versions {
        let draft = d.clone().set("Sec-WebSocket-Version", version);
        cases.push(upgrade(
            &format!("hs-version-{name}"),
            &format!("Sec-WebSocket-Version: {version}"),
            draft,
        ));
    }
    let keys = [
        ("empty", ""),
        ("15-bytes", "dGhlIHNhbXBsZSBub25j"),
        ("17-bytes", "dGhlIHNhbXBsZSBub25jZSE="),
        ("unpadded", "dGhlIHNhbXBsZSBub25jZQ"),
        ("letters", "dGhlIHNhbXBsZSBub25j!Q=="),
        ("joined", "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="),
        ("words", "not base64 at all......."),
    ];
    for (name, key) in keys {
        let bytes = d.clone().set("Sec-WebSocket-Key", key).bytes();
        cases.push(bad(
            &format!("hs-key-{name}"),
            &format!("key: {name}"),
            "RFC 6455 4.2.1",
            bytes,
        ));
    }
    cases
}

fn offers(d: &Draft) -> Vec<Case> {
    const EXTENSIONS: &str = "Sec-WebSocket-Extensions";
    const PROTOCOL: &str = "Sec-WebSocket-Protocol";
    let mut cases = Vec::new();
    let good = [
        ("unknown", EXTENSIONS, "x-unknown; a=1; b=\"c\""),
        ("deflate", EXTENSIONS, "permessage-deflate; client_max_window_bits"),
        ("list", EXTENSIONS, "x-a, x-b; c , x-d"),
        ("protocols", PROTOCOL, "chat, superchat"),
    ];
    for (name, field, value) in good {
        let bytes = d.clone().with(field, value).bytes();
        cases.push(opens(
            &format!("hs-offer-{name}"),
            &format!("{field}: {value}"),
            "RFC 6455 4.2.2",
            bytes,
        ));
    }
    let malformed = [
        ("semicolon", EXTENSIONS, ";"),
        ("no-name", EXTENSIONS, "; a=1"),
        ("no-parameter", EXTENSIONS, "x-a; =1"),
        ("no-value", EXTENSIONS, "x-a; b="),
        ("open-quote", EXTENSIONS, "x-a; b=\"c"),
        ("two-words", EXTENSIONS, "x a"),
        ("empty", PROTOCOL, ""),
        ("words", PROTOCOL, "a b"),
        ("at", PROTOCOL, "ch@t"),
    ];
    for (name, field, value) in malformed {
        let bytes = d.clone().with(field, value).bytes();
        let section = if field == PROTOCOL { "RFC 6455 11.3.4" } else { "RFC 6455 9.1" };
        cases.push(bad(
            &format!("hs-bad-offer-{name}"),
            &format!("{field}: {value}"),
            section,
            bytes,
        ));
    }
    cases.push(bad(
        "hs-origin-twice",
        "Origin twice",
        "RFC 6454 7",
        d.clone().with("Origin", "http://a").with("Origin", "http://b").bytes(),
    ));
    cases
}

/// Requests that any page in a browser could send to a server of its own machine.
fn guarded(d: &Draft, servers: &Servers) -> Vec<Case> {
    let host = &servers.host;
    let from = |origin: &str| d.clone().with("Origin", origin).bytes();
    let own = from(&format!("http://{host}"));
    let refused = |id: &str, sent: &str, bytes| {
        Case::request(id, sent, "RFC 6455 10.2", bytes, Answer::Status(403, CLOSES))
            .on(Variant::MessagePolicy)
    };
    let rebound =
        d.clone().set("Host", "evil.example").with("Origin", "http://evil.example").bytes();
    vec![
        opens("hs-guard-own", "the server's own Origin", "RFC 6455 10.2", own)
            .on(Variant::MessagePolicy),
        refused("hs-guard-foreign", "a foreign Origin on loopback", from("http://evil.example")),
        refused("hs-guard-port", "another port of the same host", from("http://127.0.0.1:1")),
        refused("hs-guard-null", "Origin: null on loopback", from("null")),
        refused("hs-guard-rebound", "a foreign name for this host", rebound),
    ]
}

fn sizes(d: &Draft, path: &str) -> Vec<Case> {
    let too_big = |id: &str, sent: &str, status, bytes| {
        let section = if status == 414 { "RFC 9110 15.5.15" } else { "RFC 6585 5" };
        Case::request(id, sent, section, bytes, Answer::Status(status, CLOSES))
    };
    let target =
        |len: usize| d.clone().line(&format!("GET {path}?{} HTTP/1.1", "a".repeat(len))).bytes();
    let fields = |n: usize| (0..n).fold(d.clone(), |draft, n| draft.with(&format!("X-{n}"), "a"));
    let long = |len: usize| d.clone().with("X-Long", &"a".repeat(len)).bytes();
    vec![
        opens("hs-target-4k", "a target of 4 KiB", "RFC 9112 3", target(4000)),
        opens("hs-fields-60", "65 fields", "RFC 9110 5.4", fields(60).bytes()),
        opens("hs-head-6k", "a head of 6 KiB", "RFC 9110 5.4", long(6000)),
        opens("hs-head-6k-pieces", "the same in writes of 200 bytes", "RFC 9110 5.4", long(6000))
            .in_writes_of(200),
        too_big("hs-target-9k", "a target of 9 KiB", 414, target(9 << 10)),
        too_big(
            "hs-target-endless",
            "a request line without an end",
            414,
            [&b"GET /"[..], &[b'a'; 20 << 10]].concat(),
        ),
        too_big("hs-fields-120", "125 fields", 431, fields(120).bytes()),
        too_big("hs-head-17k", "one field of 17 KiB", 431, long(17 << 10)),
        too_big("hs-head-17k-bytewise", "the same byte by byte", 431, long(17 << 10))
            .in_writes_of(1),
        too_big("hs-head-2m", "a head of 2 MiB", 431, long(2 << 20)),
    ]
}

fn other_protocols() -> Vec<Case> {
    let tls = [&[0x16, 3, 1, 0, 0xa5, 1, 0, 0, 0xa1, 3, 3][..], &[0x5a; 32], &[0; 64]].concat();
    let all: [(&str, &str, Vec<u8>); 6] = [
        ("hs-tls", "a TLS ClientHello", tls),
        ("hs-http2", "the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("hs-ssh", "an SSH banner", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()),
        ("hs-frame-first", "a frame without a handshake", frame(TEXT, b"hello")),
        ("hs-junk", "junk", (0..300u32).map(|n| (n * 131 + 7) as u8).collect()),
        ("hs-zeros", "zeros", vec![0; 300]),
    ];
    let case =
        |(id, sent, bytes)| Case::request(id, sent, "RFC 9112 3", bytes, Answer::StatusOrDrop);
    all.into_iter().map(case).collect()
}

fn deadlines(d: &Draft) -> Vec<Case> {
    let late = Answer::Status(408, CLOSES);
    let half = d.bytes()[..d.bytes().len() / 2].to_vec();
    let nearly = d.bytes()[..d.bytes().len() - 1].to_vec();
    vec![
        Case::request(
            "hs-late-half",
            "half a request, then nothing",
            "RFC 9110 15.5.9",
            half,
            late.clone(),
        )
        .on(Variant::ShortDeadlines),
        Case::request(
            "hs-late-last",
            "all but the last byte, then nothing",
            "RFC 9110 15.5.9",
            nearly,
            late,
        )
        .on(Variant::ShortDeadlines),
        Case::request("hs-late-empty", "nothing at all", "RFC 9112 9.5", Vec::new(), Answer::Drop)
            .on(Variant::ShortDeadlines),
    ]
}

fn admission(d: &Draft) -> Vec<Case> {
    let d = d.clone().line(&format!("GET {PATH} HTTP/1.1"));
    let line = |target: &str| d.clone().line(&format!("GET {target} HTTP/1.1"));
    let from = |origin: &str| d.clone().with("Origin", origin);
    let fine = |id, sent, draft: Draft| {
        opens(id, sent, "RFC 6455 4.2.2", draft.bytes()).on(Variant::Restricted)
    };
    let refused = |id, sent, status, draft: Draft| {
        let section = if status == 403 { "RFC 6455 10.2" } else { "RFC 6455 4.2.2" };
        Case::request(id, sent, section, draft.bytes(), Answer::Status(status, CLOSES))
            .on(Variant::Restricted)
    };
    vec![
        fine("hs-path", "the path that is served", d.clone()),
        fine("hs-path-query", "the same with a query", line(&format!("{PATH}?a"))),
        fine(
            "hs-path-absolute",
            "the same in absolute form",
            line(&format!("http://localhost{PATH}")),
        ),
        refused("hs-path-other", "another path", 404, line("/other")),
        refused("hs-path-root", "no path", 404, line("/")),
        refused("hs-path-below", "a path below the one", 404, line(&format!("{PATH}/more"))),
        fine("hs-origin-allowed", "the Origin that is allowed", from(ORIGIN)),
        refused("hs-origin-other", "another Origin", 403, from("http://evil.example")),
        refused(
            "hs-origin-longer",
            "an Origin that begins as the right one",
            403,
            from(&format!("{ORIGIN}.evil")),
        ),
        refused("hs-origin-null", "Origin: null", 403, from("null")),
    ]
}

//! The server's side: reads a request's head, writes a 101 or a refusal (RFC 6455 4.2).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use httparse::Header;
use thiserror::Error;

pub use super::HeadLimits;
use super::deflate::{Parameters, ServerPolicy, Stated};
use super::field::{self, Single};
use super::{accept_key, head};

/// Longest method before a head is refused; the longest registered one has 17 letters.
const MAX_METHOD: usize = 32;

/// Finds the end of the request head, the first empty line. `Ok(Some(n))`: the head is
/// `buffered[..n]`, and the bytes after it are frames. `Ok(None)`: more bytes are needed.
///
/// `scanned` starts at 0 and remembers the position that earlier calls reached, so that the cost is
/// linear however slowly the bytes come. `buffered` always starts with the first byte of the
/// connection.
///
/// # Errors
///
/// Rejects bytes other than HTTP/1 (TLS, the HTTP/2 preface, junk) at once, without waiting for the
/// end of a head. Also rejects bare line ends, control characters, and a head beyond the limits.
pub fn find_head(
    buffered: &[u8],
    scanned: &mut usize,
    limits: &HeadLimits,
) -> Result<Option<usize>, Refusal> {
    check_start(buffered)?;
    head::find_end(buffered, scanned, limits)
        .map_err(|fault| refuse_fault(fault, limits).to(buffered))
}

fn refuse_fault(fault: head::HeadFault, limits: &HeadLimits) -> Refusal {
    match fault {
        head::HeadFault::BareLineEnd => Refusal::BARE_LINE_END,
        head::HeadFault::ControlCharacter => Refusal::CONTROL_CHARACTER,
        head::HeadFault::TooLong { first_line } if first_line && limits.target < limits.bytes => {
            Refusal::TARGET_TOO_LONG
        }
        head::HeadFault::TooLong { .. } => Refusal::HEAD_TOO_LONG,
    }
}

/// Checks the method, the only thing to check before a line has ended. Its length is bounded, so
/// that each call may check it again.
fn check_start(buffered: &[u8]) -> Result<(), Refusal> {
    const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2";
    let buffered = match buffered {
        [b'\r'] => return Ok(()),
        [b'\r', b'\n', rest @ ..] => rest,
        _ => buffered,
    };
    let start = &buffered[..buffered.len().min(MAX_METHOD + 1)];
    let (method, ended) = match start.iter().position(|&byte| byte == b' ') {
        Some(end) => (&start[..end], true),
        None => (start, false),
    };
    let may_be_one = field::is_token(method) && method.len() <= MAX_METHOD;
    // A TLS handshake record (RFC 8446 5.1). The first byte alone decides, so that the result does
    // not depend on how the input is cut.
    if buffered.first() == Some(&22) {
        return Err(Refusal::TLS);
    }
    if start.starts_with(HTTP2_PREFACE) {
        return Err(Refusal::HTTP2);
    }
    if !may_be_one && (ended || !method.is_empty()) {
        return Err(Refusal::NOT_HTTP);
    }
    Ok(())
}

/// Answers a request head as [`find_head`] found it.
///
/// The caller checks paths and Origins: see [`Accepted::target`], [`Accepted::origin`],
/// [`Refusal::unknown_path`] and [`Refusal::forbidden_origin`].
///
/// # Errors
///
/// Returns the refusal for the first rule that the request breaks.
pub fn answer(head: &[u8], limits: &HeadLimits) -> Result<Accepted, Refusal> {
    if find_head(head, &mut 0, limits)? != Some(head.len()) {
        return Err(Refusal::MALFORMED);
    }
    let mut fields = vec![httparse::EMPTY_HEADER; limits.fields];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {}
        Ok(_) => return Err(Refusal::MALFORMED.to(head)),
        Err(error) => return Err(refuse_unparsed(error, head).to(head)),
    }
    accept(&request, limits).map_err(|refusal| refusal.to(head))
}

/// Converts an error of httparse to a refusal.
fn refuse_unparsed(error: httparse::Error, head: &[u8]) -> Refusal {
    match error {
        httparse::Error::Version if names_some_http_version(head) => Refusal::VERSION_NOT_SUPPORTED,
        httparse::Error::TooManyHeaders => Refusal::TOO_MANY_FIELDS,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Refusal::MALFORMED_FIELD,
        _ => Refusal::MALFORMED,
    }
}

/// Returns whether the request line is valid except for its version, `HTTP/` and two digits (RFC
/// 9112 2.3).
fn names_some_http_version(head: &[u8]) -> bool {
    let line = head.trim_ascii_start().split(|&byte| byte == b'\r').next().unwrap_or_default();
    let parts: Vec<&[u8]> = line.splitn(4, |&byte| byte == b' ').collect();
    let [method, target, version] = parts[..] else { return false };
    let is_version =
        matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']);
    !method.is_empty() && !target.is_empty() && is_version
}

/// Applies the rules in their order: HTTP first, then the WebSocket's.
fn accept(request: &httparse::Request<'_, '_>, limits: &HeadLimits) -> Result<Accepted, Refusal> {
    if request.version != Some(1) {
        return Err(Refusal::VERSION_NOT_SUPPORTED);
    }
    let is_head = request.method == Some("HEAD");
    if !is_head && request.method != Some("GET") {
        return Err(Refusal::METHOD_NOT_ALLOWED);
    }
    let target = request.path.unwrap_or_default();
    if target.len() > limits.target {
        return Err(Refusal::TARGET_TOO_LONG);
    }
    let fields = &*request.headers;
    let host = check_host(fields)?;
    let (authority, target) = split_target(target)?;
    check_no_body(fields)?;
    check_upgrade(fields)?;
    // Up to here a HEAD is answered like a GET (RFC 9110 9.3.2), but it opens no WebSocket.
    if is_head {
        return Err(Refusal::METHOD_NOT_ALLOWED);
    }
    let key = check_key(fields)?;
    check_lists(fields)?;
    Ok(Accepted {
        target: target.into_owned(),
        host: authority.unwrap_or(host).to_owned(),
        origin: check_origin(fields)?.map(str::to_owned),
        subprotocols: offered_subprotocols(fields),
        deflate_offer: offered_deflate(fields),
        response: switching_protocols(key),
    })
}

/// Returns the Host, of which there must be exactly one valid field (RFC 9112 3.2).
fn check_host<'a>(fields: &'a [Header<'a>]) -> Result<&'a str, Refusal> {
    match field::single(fields, "Host") {
        Single::Missing => Err(Refusal::MISSING_HOST),
        Single::Repeated => Err(Refusal::REPEATED_HOST),
        Single::One(value) => std::str::from_utf8(value)
            .ok()
            .filter(|host| is_authority(host))
            .ok_or(Refusal::INVALID_HOST),
    }
}

/// Returns whether this is `host [ ":" port ]` without user information (RFC 3986 3.2, RFC 9110
/// 4.2.4).
fn is_authority(authority: &str) -> bool {
    let is_digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(bracketed) = authority.strip_prefix('[') {
        let Some((address, port)) = bracketed.split_once(']') else { return false };
        let is_address = |byte: u8| byte.is_ascii_alphanumeric() || b":.".contains(&byte);
        return !address.is_empty()
            && address.bytes().all(is_address)
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_digits));
    }
    let (name, port) = authority.split_once(':').unwrap_or((authority, ""));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
    !name.is_empty() && name.bytes().all(is_name) && is_digits(port)
}

/// Returns the authority of an absolute-form target, which takes precedence over Host, and path and
/// query (RFC 9112 3.2).
fn split_target(target: &str) -> Result<(Option<&str>, std::borrow::Cow<'_, str>), Refusal> {
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(Refusal::INVALID_TARGET);
    }
    if target.starts_with('/') {
        return Ok((None, target.into()));
    }
    let (scheme, rest) = target.split_once("://").ok_or(Refusal::INVALID_TARGET)?;
    if !["ws", "wss", "http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(Refusal::INVALID_TARGET);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is_authority(authority) {
        return Err(Refusal::INVALID_TARGET);
    }
    let path = if path.starts_with('/') { path.into() } else { format!("/{path}").into() };
    Ok((Some(authority), path))
}

/// Refuses a body, which would take the place of the frames.
fn check_no_body(fields: &[Header<'_>]) -> Result<(), Refusal> {
    let has_length =
        field::values(fields, "Content-Length").any(|value| field::trim(value) != b"0");
    if has_length || field::values(fields, "Transfer-Encoding").next().is_some() {
        return Err(Refusal::BODY);
    }
    Ok(())
}

/// Checks Upgrade, Connection and version (RFC 6455 4.2.1).
fn check_upgrade(fields: &[Header<'_>]) -> Result<(), Refusal> {
    if !field::list_has(fields, "Upgrade", "websocket") {
        return Err(Refusal::NO_UPGRADE);
    }
    if !field::list_has(fields, "Connection", "upgrade") {
        return Err(Refusal::CONNECTION_WITHOUT_UPGRADE);
    }
    match field::single(fields, "Sec-WebSocket-Version") {
        Single::One(version) if field::trim(version) == b"13" => Ok(()),
        Single::Repeated => Err(Refusal::REPEATED_WEBSOCKET_VERSION),
        _ => Err(Refusal::WEBSOCKET_VERSION),
    }
}

/// Returns the key. There must be exactly one, the base64 of 16 bytes (RFC 6455 4.2.1).
fn check_key<'a>(fields: &'a [Header<'a>]) -> Result<&'a str, Refusal> {
    // The unused bits of the last letter may be set, as in RFC 6455 4.1's own example.
    const KEY: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
    );
    let value = match field::single(fields, "Sec-WebSocket-Key") {
        Single::Missing => return Err(Refusal::MISSING_KEY),
        Single::Repeated => return Err(Refusal::REPEATED_KEY),
        Single::One(value) => field::trim(value),
    };
    let mut nonce = [0; 18];
    match KEY.decode_slice(value, &mut nonce) {
        Ok(16) => std::str::from_utf8(value).map_err(|_| Refusal::INVALID_KEY),
        _ => Err(Refusal::INVALID_KEY),
    }
}

/// Checks the lists of subprotocols and extensions: the server may decline these offers, but they
/// must be valid (RFC 6455 4.2.1, 9.1).
fn check_lists(fields: &[Header<'_>]) -> Result<(), Refusal> {
    if !field::is_list(fields, "Sec-WebSocket-Protocol", field::count_tokens) {
        return Err(Refusal::INVALID_SUBPROTOCOLS);
    }
    if !field::is_list(fields, "Sec-WebSocket-Extensions", field::count_extensions) {
        return Err(Refusal::INVALID_EXTENSIONS);
    }
    Ok(())
}

/// Returns the subprotocols of a request with valid lists, the preferred one first (RFC 6455
/// 11.3.4).
fn offered_subprotocols(fields: &[Header<'_>]) -> Vec<String> {
    let offered = field::values(fields, "Sec-WebSocket-Protocol").flat_map(field::elements);
    offered.map(|token| String::from_utf8_lossy(token).into_owned()).collect()
}

/// Returns the first valid offer of permessage-deflate in a request with valid lists: the one that
/// the client prefers (RFC 7692 5). Offers whose parameters are invalid are declined (RFC 7692 7).
fn offered_deflate(fields: &[Header<'_>]) -> Option<Stated> {
    let lines = field::values(fields, "Sec-WebSocket-Extensions");
    lines.flat_map(field::extensions).flatten().find_map(|extension| Stated::read_offer(&extension))
}

/// Returns the Origin, of which there may be one, in visible ASCII (RFC 6454 7).
fn check_origin<'a>(fields: &'a [Header<'a>]) -> Result<Option<&'a str>, Refusal> {
    match field::single(fields, "Origin") {
        Single::Missing => Ok(None),
        Single::One(origin)
            if origin.iter().all(|&byte| byte == b' ' || byte.is_ascii_graphic()) =>
        {
            std::str::from_utf8(origin).map(Some).map_err(|_| Refusal::INVALID_ORIGIN)
        }
        _ => Err(Refusal::INVALID_ORIGIN),
    }
}

/// Returns the 101 answer (RFC 6455 4.2.2).
fn switching_protocols(key: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_key(key)
    )
    .into_bytes()
}

/// A valid opening handshake. Subprotocols are declined without
/// [`select_subprotocol`](Accepted::select_subprotocol), and permessage-deflate without
/// [`accept_deflate`](Accepted::accept_deflate). Other extensions are always declined.
#[derive(Clone, Debug)]
pub struct Accepted {
    target: String,
    host: String,
    origin: Option<String>,
    subprotocols: Vec<String>,
    deflate_offer: Option<Stated>,
    response: Vec<u8>,
}

impl Accepted {
    /// Path and query, starting with `/`; also those of an absolute-form target (RFC 9112 3.2).
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Host and port that the request is for: the authority of an absolute-form target, else the
    /// Host field.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The Origin field, which browsers send (RFC 6455 10.2).
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// Selects the first offered subprotocol that `is_known`, which is the one the client prefers,
    /// and names it in the answer. Without one the answer names none, and the client may close (RFC
    /// 6455 4.2.2).
    pub fn select_subprotocol(&mut self, is_known: impl Fn(&str) -> bool) -> Option<&str> {
        let chosen = self.subprotocols.iter().find(|offered| is_known(offered))?;
        add_field(&mut self.response, &format!("Sec-WebSocket-Protocol: {chosen}"));
        Some(chosen)
    }

    /// Accepts permessage-deflate if the client offers it, and names the parameters in the answer
    /// (RFC 7692 5.1). The client's first valid offer counts, and `policy` chooses within it.
    ///
    /// Returns what both ends have agreed on. `None`: there is no valid offer, or an earlier call
    /// has accepted it; then the answer stays as it is.
    pub fn accept_deflate(&mut self, policy: &ServerPolicy) -> Option<Parameters> {
        let (parameters, answer) = policy.accept(&self.deflate_offer.take()?);
        add_field(&mut self.response, &format!("Sec-WebSocket-Extensions: {answer}"));
        Some(parameters)
    }

    /// Adds a field to the answer. Neither part has line ends or other control characters.
    pub fn add_field(&mut self, name: &str, value: &str) {
        add_field(&mut self.response, &format!("{name}: {value}"));
    }

    /// The complete 101 answer.
    pub fn response(&self) -> &[u8] {
        &self.response
    }
}

/// Adds a line to a complete head.
fn add_field(head: &mut Vec<u8>, line: &str) {
    let empty_line = head.len() - 2;
    head.splice(empty_line..empty_line, line.bytes().chain(*b"\r\n"));
}

/// Reason for refusing an opening handshake, and the HTTP answer. It has no bytes of the client,
/// unless the caller adds them with [`Refusal::response_with`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{detail}")]
pub struct Refusal {
    status: u16,
    rule: &'static str,
    section: &'static str,
    detail: &'static str,
    /// True for the answer to a HEAD, which has no content (RFC 9110 9.3.2).
    to_head: bool,
}

/// Creates one row of the table below.
const fn refusal(
    status: u16,
    rule: &'static str,
    section: &'static str,
    detail: &'static str,
) -> Refusal {
    Refusal { status, rule, section, detail, to_head: false }
}

#[rustfmt::skip]
impl Refusal {
    const NOT_HTTP: Refusal = refusal(400, "not-http", "RFC 9112 3", "this is not an HTTP/1.1 request");
    const HTTP2: Refusal = refusal(
        400, "http2-preface", "RFC 9113 3.4", "this is HTTP/2, and only HTTP/1.1 is spoken here: have the client or proxy use HTTP/1.1",
    );
    const TLS: Refusal = refusal(
        400, "tls-on-plain-port", "RFC 9112 3", "this port speaks plain HTTP, not TLS: use ws:// or http://, or the port of a wss:// listener",
    );
    const BARE_LINE_END: Refusal = refusal(400, "bare-line-end", "RFC 9112 2.2", "a line ends without CR LF");
    const CONTROL_CHARACTER: Refusal = refusal(400, "control-character", "RFC 9110 5.5", "a control character in the head");
    const MALFORMED: Refusal = refusal(400, "malformed-request", "RFC 9112 3", "the request is malformed");
    const MALFORMED_FIELD: Refusal = refusal(400, "malformed-field", "RFC 9112 5", "a header field is malformed or folded");
    const INVALID_TARGET: Refusal = refusal(400, "invalid-target", "RFC 9112 3.2", "the request target is malformed");
    const MISSING_HOST: Refusal = refusal(400, "missing-host", "RFC 9112 3.2", "the Host field is missing");
    const REPEATED_HOST: Refusal = refusal(400, "repeated-host", "RFC 9112 3.2", "more than one Host field");
    const INVALID_HOST: Refusal = refusal(400, "invalid-host", "RFC 9112 3.2", "the Host field is malformed");
    const BODY: Refusal = refusal(400, "request-body", "RFC 6455 4.1", "an opening handshake has no body");
    const CONNECTION_WITHOUT_UPGRADE: Refusal =
        refusal(400, "connection-without-upgrade", "RFC 6455 4.2.1", "the Connection field lacks \"Upgrade\"");
    const REPEATED_WEBSOCKET_VERSION: Refusal =
        refusal(400, "repeated-websocket-version", "RFC 6455 11.3.5", "more than one Sec-WebSocket-Version field");
    const MISSING_KEY: Refusal = refusal(400, "missing-key", "RFC 6455 4.2.1", "the Sec-WebSocket-Key field is missing");
    const REPEATED_KEY: Refusal = refusal(400, "repeated-key", "RFC 6455 11.3.1", "more than one Sec-WebSocket-Key field");
    const INVALID_KEY: Refusal =
        refusal(400, "invalid-key", "RFC 6455 4.2.1", "Sec-WebSocket-Key is not the base64 of 16 bytes");
    const INVALID_SUBPROTOCOLS: Refusal =
        refusal(400, "invalid-subprotocols", "RFC 6455 11.3.4", "Sec-WebSocket-Protocol is malformed");
    const INVALID_EXTENSIONS: Refusal =
        refusal(400, "invalid-extensions", "RFC 6455 9.1", "Sec-WebSocket-Extensions is malformed");
    const INVALID_ORIGIN: Refusal = refusal(400, "invalid-origin", "RFC 6454 7", "the Origin field is malformed or repeated");
    const METHOD_NOT_ALLOWED: Refusal =
        refusal(405, "method-not-allowed", "RFC 6455 4.1", "an opening handshake is a GET");
    const TARGET_TOO_LONG: Refusal = refusal(414, "target-too-long", "RFC 9110 15.5.15", "the request target is too long");
    const NO_UPGRADE: Refusal = refusal(
        426,
        "no-upgrade",
        "RFC 6455 4.2.1",
        "this is a WebSocket endpoint, and the request asks for no upgrade: a proxy in between has to \
         forward Upgrade and Connection",
    );
    const WEBSOCKET_VERSION: Refusal =
        refusal(426, "websocket-version", "RFC 6455 4.4", "only version 13 of the WebSocket protocol is spoken here");
    const HEAD_TOO_LONG: Refusal = refusal(431, "head-too-long", "RFC 6585 5", "the request head is too long");
    const TOO_MANY_FIELDS: Refusal = refusal(431, "too-many-fields", "RFC 6585 5", "too many header fields");
    const VERSION_NOT_SUPPORTED: Refusal = refusal(
        505,
        "http-version",
        "RFC 6455 4.1",
        "only HTTP/1.1 is spoken here: have the client or proxy use it (nginx: proxy_http_version 1.1)",
    );
}

impl Refusal {
    /// Refusal for a rule of the caller's own.
    pub const fn of_server(
        status: u16,
        rule: &'static str,
        section: &'static str,
        detail: &'static str,
    ) -> Self {
        refusal(status, rule, section, detail)
    }

    /// 403: pages of this Origin may not connect (RFC 6455 10.2).
    pub const fn forbidden_origin() -> Self {
        refusal(403, "forbidden-origin", "RFC 6455 10.2", "this origin may not connect")
    }

    /// Returns whether this answers a valid GET or HEAD without an upgrade, such as a browser's for
    /// a page. The answer is a 426.
    pub fn asks_for_no_upgrade(&self) -> bool {
        self.rule == Self::NO_UPGRADE.rule
    }

    /// Returns whether this answers a method other than GET and HEAD. The request's fields have not
    /// been examined then.
    pub fn is_to_another_method(&self) -> bool {
        self.rule == Self::METHOD_NOT_ALLOWED.rule
    }

    /// Returns whether this answers another version than HTTP/1.1. The request's fields have not
    /// been examined then.
    pub fn is_to_another_version(&self) -> bool {
        self.rule == Self::VERSION_NOT_SUPPORTED.rule
    }

    /// Returns whether this answers a HEAD, whose answers have no content (RFC 9110 9.3.2).
    pub fn is_to_head(&self) -> bool {
        self.to_head
    }

    /// 400: plain HTTP, or any other bytes that are not TLS, on a port that speaks TLS.
    pub const fn plain_on_tls_port() -> Self {
        refusal(
            400,
            "plain-on-tls-port",
            "RFC 8446 4.1",
            "this port speaks TLS: use wss:// or https://",
        )
    }

    /// Refusal without an HTTP answer: the TLS handshake failed, and only an alert can follow.
    pub const fn tls_failed() -> Self {
        refusal(
            400,
            "tls-failed",
            "RFC 8446 6.2",
            "the TLS handshake or the TLS of the connection failed",
        )
    }

    /// 404: no WebSocket is served under this path.
    pub const fn unknown_path() -> Self {
        refusal(404, "unknown-path", "RFC 6455 4.2.2", "there is no WebSocket here")
    }

    /// 408: the handshake was not done by its deadline.
    pub const fn timeout() -> Self {
        refusal(408, "handshake-timeout", "RFC 9110 15.5.9", "the request did not come in time")
    }

    /// 503: the server's limit of connections is reached.
    pub const fn too_many_connections() -> Self {
        refusal(
            503,
            "too-many-connections",
            "RFC 6455 10.4",
            "the limit of open connections is reached",
        )
    }

    /// 503: the limit of connections from this address is reached.
    pub const fn too_many_from_address() -> Self {
        refusal(
            503,
            "too-many-from-address",
            "RFC 6455 10.4",
            "too many connections are open from this address",
        )
    }

    /// 503: connections from this address come faster than the limit.
    pub const fn connecting_too_fast() -> Self {
        refusal(
            503,
            "connecting-too-fast",
            "RFC 6455 10.4",
            "connections come too fast from this address",
        )
    }

    /// 503: the server is going down.
    pub const fn going_down() -> Self {
        refusal(503, "going-down", "RFC 9110 15.6.4", "this server is going down")
    }

    /// Returns this refusal for the request that starts with `bytes`: the method counts even where
    /// the rest of the request is malformed.
    fn to(self, bytes: &[u8]) -> Self {
        let to_head = bytes.strip_prefix(b"\r\n").unwrap_or(bytes).starts_with(b"HEAD ");
        Refusal { to_head, ..self }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Short, stable name for logs and counters.
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    /// Document and section that state the rule, such as `RFC 9112 3.2`.
    pub fn section(&self) -> &'static str {
        self.section
    }

    /// Description in one line.
    pub fn detail(&self) -> &'static str {
        self.detail
    }

    /// Returns the complete HTTP answer; after it the connection is closed.
    pub fn response(&self) -> Vec<u8> {
        self.response_with(self.detail)
    }

    /// Returns the complete HTTP answer with `detail` as its content. The caller escapes and bounds
    /// text from the client.
    pub fn response_with(&self, detail: &str) -> Vec<u8> {
        let content = format!("{detail}\n");
        format!(
            "HTTP/1.1 {} {}\r\n{}Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Length: {}\r\n\r\n{}",
            self.status,
            self.reason_phrase(),
            self.answer_fields(),
            content.len(),
            if self.to_head { "" } else { &content },
        )
        .into_bytes()
    }

    /// Returns the fields that this status requires, and the end of the connection.
    fn answer_fields(&self) -> &'static str {
        match self.status {
            // A redirect leads to the page of this server (RFC 9110 15.4).
            300..=399 => "Connection: close\r\nLocation: /\r\n",
            // RFC 9110 11.6.1 and 11.7.1 require a challenge.
            401 => "Connection: close\r\nWWW-Authenticate: Basic realm=\"sparring\"\r\n",
            407 => "Connection: close\r\nProxy-Authenticate: Basic realm=\"sparring\"\r\n",
            405 => "Connection: close\r\nAllow: GET\r\n",
            // RFC 9110 15.5.22 requires Upgrade in a 426, and 7.8 then requires it in Connection.
            426 => {
                "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            }
            503 => "Connection: close\r\nRetry-After: 1\r\n",
            _ => "Connection: close\r\n",
        }
    }

    fn reason_phrase(&self) -> &'static str {
        match self.status {
            301 => "Moved Permanently",
            302 => "Found",
            303 => "See Other",
            307 => "Temporary Redirect",
            308 => "Permanent Redirect",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            414 => "URI Too Long",
            426 => "Upgrade Required",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            505 => "HTTP Version Not Supported",
            // A phrase is optional (RFC 9112 4).
            _ => "",
        }
    }
}

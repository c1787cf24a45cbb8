//! The client's side: writes the request and checks the response (RFC 6455 4.1).

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httparse::Header;
use thiserror::Error;

pub use super::HeadLimits;
use super::deflate::{self, AnswerError, Offer, Parameters};
use super::field::{self, Single, quoted};
use super::{accept_key, head};

/// The request of an opening handshake.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Host, with the port where it is not the scheme's default.
    pub host: &'a str,
    /// Path and query, starting with `/`.
    pub target: &'a str,
    /// 16 fresh random bytes.
    pub nonce: [u8; 16],
    /// The Origin field; `None` omits it.
    pub origin: Option<&'a str>,
    /// Subprotocols to offer, the preferred one first.
    pub subprotocols: &'a [&'a str],
    /// Offer of permessage-deflate; `None` offers no extension.
    pub deflate: Option<Offer>,
    /// Further fields, name and value.
    pub headers: &'a [(&'a str, &'a str)],
}

/// A part of a [`Request`] that would not arrive unchanged.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{part} is malformed: {rule}")]
pub struct RequestError {
    /// The part: a field of [`Request`].
    pub part: &'static str,
    /// Required value.
    pub rule: &'static str,
}

impl Request<'_> {
    /// Checks that every part can stand where [`encode`](Request::encode) writes it, and that
    /// `headers` repeats no field that the handshake itself writes. `encode` writes the parts as
    /// they are.
    ///
    /// # Errors
    ///
    /// Returns the first invalid part, and the rule.
    pub fn check(&self) -> Result<(), RequestError> {
        let fail = |part, rule| Err(RequestError { part, rule });
        if self.host.is_empty() || !self.host.bytes().all(|byte| byte.is_ascii_graphic()) {
            return fail("host", "it is visible ASCII without spaces");
        }
        let graphic = self.target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !self.target.starts_with('/') || !graphic {
            return fail("target", "it starts with / and is visible ASCII without spaces and #");
        }
        if self.origin.is_some_and(|origin| !is_field_value(origin)) {
            return fail("origin", "it has no control characters");
        }
        if !self.subprotocols.iter().all(|name| field::is_token(name.as_bytes())) {
            return fail("subprotocol", "it is a token: letters, digits and !#$%&'*+-.^_`|~");
        }
        if self.deflate.is_some_and(|offer| !offer.is_valid()) {
            return fail("deflate", "its windows have 8 to 15 bits");
        }
        for (name, value) in self.headers {
            if !field::is_token(name.as_bytes()) || !is_field_value(value) {
                return fail(
                    "header",
                    "its name is a token and its value has no control characters",
                );
            }
            let origin = self.origin.map(|_| "Origin");
            if WRITTEN_BY_THE_HANDSHAKE
                .into_iter()
                .chain(origin)
                .any(|own| name.eq_ignore_ascii_case(own))
            {
                return fail("header", "the handshake writes this field itself");
            }
        }
        Ok(())
    }

    /// Appends the request to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut put =
            |parts: &[&str]| parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        put(&["GET ", self.target, " HTTP/1.1\r\nHost: ", self.host]);
        put(&["\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: "]);
        put(&[&STANDARD.encode(self.nonce), "\r\nSec-WebSocket-Version: 13\r\n"]);
        if let Some(origin) = self.origin {
            put(&["Origin: ", origin, "\r\n"]);
        }
        if !self.subprotocols.is_empty() {
            put(&["Sec-WebSocket-Protocol: ", &self.subprotocols.join(", "), "\r\n"]);
        }
        if let Some(offer) = self.deflate {
            put(&["Sec-WebSocket-Extensions: ", &offer.encode(), "\r\n"]);
        }
        for (name, value) in self.headers {
            put(&[name, ": ", value, "\r\n"]);
        }
        put(&["\r\n"]);
    }
}

/// Fields that a caller's `headers` must not repeat, or that would change the meaning of the
/// request.
const WRITTEN_BY_THE_HANDSHAKE: [&str; 9] = [
    "Host",
    "Upgrade",
    "Connection",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
    "Content-Length",
    "Transfer-Encoding",
];

fn is_field_value(value: &str) -> bool {
    !value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t')
}

/// Reason why a response opens no WebSocket (RFC 6455 4.1). Text from the server is escaped, and at
/// most 200 characters long.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseError {
    /// The response is not HTTP/1.1.
    #[error("the server does not answer in HTTP/1.1")]
    NotHttp,
    /// The head does not end, or is too long together with the interim responses before it.
    #[error(
        "the response's head, with the interim (1xx) responses before it, is longer than {limit} bytes"
    )]
    HeadTooLong {
        /// [`HeadLimits::bytes`].
        limit: usize,
    },
    /// No final response follows the interim ones.
    #[error(
        "the server sent more than {MAX_INTERIM_RESPONSES} interim (1xx) responses before its answer"
    )]
    TooManyInterim,
    /// The response has more fields than the limit.
    #[error("the response has too many header fields")]
    TooManyFields,
    /// The head is not valid HTTP.
    #[error("the response is malformed: {detail}")]
    Malformed {
        /// Description of the fault.
        detail: &'static str,
    },
    /// The status is not 101.
    #[error("the server answered \"{status} {reason}\" instead of 101{}", leading_to(.location.as_deref()))]
    Status {
        /// The status code.
        status: u16,
        /// The reason phrase, escaped.
        reason: String,
        /// Target of a redirect (3xx): its Location field, escaped.
        location: Option<String>,
    },
    /// The response lacks `Upgrade: websocket`.
    #[error("the response's Upgrade field is not \"websocket\"")]
    Upgrade,
    /// The response lacks `Connection: Upgrade`.
    #[error("the response's Connection field lacks \"Upgrade\"")]
    Connection,
    /// Sec-WebSocket-Accept is missing or repeated.
    #[error("the response has not exactly one Sec-WebSocket-Accept field")]
    NoAccept,
    /// Sec-WebSocket-Accept does not belong to the request's key.
    #[error("the response's Sec-WebSocket-Accept does not belong to the request's key")]
    WrongAccept,
    /// Sec-WebSocket-Extensions is not a list of extensions.
    #[error("the response's Sec-WebSocket-Extensions is malformed: \"{value}\"")]
    MalformedExtensions {
        /// The field's value, escaped.
        value: String,
    },
    /// The response uses an extension that was not offered.
    #[error("the server uses an extension that was not offered: \"{name}\"")]
    UnofferedExtension {
        /// The extension with its parameters, escaped.
        name: String,
    },
    /// The response accepts the offered extension more than once.
    #[error("the server accepts permessage-deflate more than once")]
    RepeatedExtension,
    /// The response accepts permessage-deflate with parameters that do not suit the offer.
    #[error(transparent)]
    Deflate(#[from] AnswerError),
    /// The response chooses a subprotocol that was not offered, or more than one.
    #[error("the server chose a subprotocol that was not offered: \"{name}\"")]
    UnofferedSubprotocol {
        /// The field's value, escaped.
        name: String,
    },
}

impl ResponseError {
    /// Short, stable name for logs and counters.
    pub fn rule(&self) -> &'static str {
        match self {
            ResponseError::NotHttp => "not-http",
            ResponseError::HeadTooLong { .. } => "head-too-long",
            ResponseError::TooManyInterim => "too-many-interim",
            ResponseError::TooManyFields => "too-many-fields",
            ResponseError::Malformed { .. } => "malformed-response",
            ResponseError::Status { .. } => "status",
            ResponseError::Upgrade => "upgrade",
            ResponseError::Connection => "connection",
            ResponseError::NoAccept => "no-accept",
            ResponseError::WrongAccept => "wrong-accept",
            ResponseError::MalformedExtensions { .. } => "malformed-extensions",
            ResponseError::UnofferedExtension { .. } => "unoffered-extension",
            ResponseError::RepeatedExtension => "repeated-extension",
            ResponseError::Deflate(error) => error.rule(),
            ResponseError::UnofferedSubprotocol { .. } => "unoffered-subprotocol",
        }
    }
}

/// Finds the end of the response's head, as [`find_head`](super::server::find_head) does for a
/// request. `Ok(Some(n))`: the head is `buffered[..n]`, and the bytes after it are frames.
///
/// # Errors
///
/// Rejects bytes other than HTTP/1.1 at once. Also rejects bare line ends, control characters, and
/// a head beyond the limits.
pub fn find_response(
    buffered: &[u8],
    scanned: &mut usize,
    limits: &HeadLimits,
) -> Result<Option<usize>, ResponseError> {
    const START: &[u8] = b"HTTP/1.";
    let here = buffered.len().min(START.len());
    if buffered[..here] != START[..here] {
        return Err(ResponseError::NotHttp);
    }
    head::find_end(buffered, scanned, limits).map_err(|fault| match fault {
        head::HeadFault::BareLineEnd => {
            ResponseError::Malformed { detail: "a line ends without CR LF" }
        }
        head::HeadFault::ControlCharacter => {
            ResponseError::Malformed { detail: "a control character in the head" }
        }
        head::HeadFault::TooLong { .. } => ResponseError::HeadTooLong { limit: limits.bytes },
    })
}

/// Most interim responses (1xx but 101) that are skipped before the final one.
pub const MAX_INTERIM_RESPONSES: usize = 8;

/// Search for the final response in bytes that arrive in parts. Interim responses before it are
/// skipped (RFC 9110 15.2). 101 is a final one, because the bytes after it are not HTTP.
#[derive(Clone, Debug, Default)]
pub struct FinalResponse {
    /// Index of the first byte of the current head.
    start: usize,
    /// Index up to which that head has been searched.
    scanned: usize,
    /// Number of interim responses before it.
    interim: usize,
}

impl FinalResponse {
    /// Continues the search in `buffered`, which has all bytes so far. `Ok(Some(range))`: the final
    /// response's head is `buffered[range]`. The bytes after it are frames, or the content of a
    /// refusal.
    ///
    /// # Errors
    ///
    /// Fails as [`find_response`] does. [`HeadLimits::bytes`] bounds the size of all heads
    /// together, [`MAX_INTERIM_RESPONSES`] their number.
    pub fn find(
        &mut self,
        buffered: &[u8],
        limits: &HeadLimits,
    ) -> Result<Option<Range<usize>>, ResponseError> {
        loop {
            let rest = &buffered[self.start..];
            let limit = HeadLimits { bytes: limits.bytes - self.start, ..*limits };
            let found =
                find_response(rest, &mut self.scanned, &limit).map_err(|error| match error {
                    ResponseError::HeadTooLong { .. } => {
                        ResponseError::HeadTooLong { limit: limits.bytes }
                    }
                    other => other,
                })?;
            let Some(len) = found else { return Ok(None) };
            if !is_interim(&rest[..len]) {
                return Ok(Some(self.start..self.start + len));
            }
            self.start += len;
            self.scanned = 0;
            self.interim += 1;
            if self.interim > MAX_INTERIM_RESPONSES {
                return Err(ResponseError::TooManyInterim);
            }
        }
    }
}

/// Returns whether the status line has 1xx, except 101.
fn is_interim(head: &[u8]) -> bool {
    match head.strip_prefix(b"HTTP/1.") {
        Some([_, b' ', status @ b'1', tens, units, b' ' | b'\r', ..]) => {
            [tens, units].iter().all(|digit| digit.is_ascii_digit())
                && [*status, *tens, *units] != *b"101"
        }
        _ => false,
    }
}

/// Checks the response's head against the request: its `nonce`, and the `subprotocols` and the
/// `deflate` it offered. Returns the parameters of permessage-deflate; `None`: the server declined
/// it, or it was not offered.
///
/// # Errors
///
/// Returns the first rule of RFC 6455 4.1 or RFC 7692 7 that the response breaks.
pub fn check_response(
    head: &[u8],
    nonce: &[u8; 16],
    subprotocols: &[&str],
    deflate: Option<&Offer>,
) -> Result<Option<Parameters>, ResponseError> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::TooManyFields),
        _ => return Err(ResponseError::Malformed { detail: "its head cannot be parsed" }),
    }
    let status = response.code.unwrap_or_default();
    if status != 101 {
        let reason = quoted(response.reason.unwrap_or_default().as_bytes());
        let location =
            field::values(response.headers, "Location").next().filter(|_| status / 100 == 3);
        return Err(ResponseError::Status { status, reason, location: location.map(quoted) });
    }
    // HTTP/1.0 cannot switch protocols (RFC 9110 7.8).
    if response.version != Some(1) {
        return Err(ResponseError::NotHttp);
    }
    check_switch(response.headers)?;
    check_accept(response.headers, nonce)?;
    let parameters = check_extensions(response.headers, deflate)?;
    check_subprotocol(response.headers, subprotocols)?;
    Ok(parameters)
}

fn check_switch(fields: &[Header<'_>]) -> Result<(), ResponseError> {
    match field::single(fields, "Upgrade") {
        Single::One(value) if field::trim(value).eq_ignore_ascii_case(b"websocket") => {}
        _ => return Err(ResponseError::Upgrade),
    }
    match field::list_has(fields, "Connection", "upgrade") {
        true => Ok(()),
        false => Err(ResponseError::Connection),
    }
}

fn check_accept(fields: &[Header<'_>], nonce: &[u8; 16]) -> Result<(), ResponseError> {
    let Single::One(accept) = field::single(fields, "Sec-WebSocket-Accept") else {
        return Err(ResponseError::NoAccept);
    };
    match field::trim(accept) == accept_key(&STANDARD.encode(nonce)).as_bytes() {
        true => Ok(()),
        false => Err(ResponseError::WrongAccept),
    }
}

/// Checks that the server uses at most the extension that was offered (RFC 6455 4.1, point 5), and
/// within the offer.
fn check_extensions(
    fields: &[Header<'_>],
    offer: Option<&Offer>,
) -> Result<Option<Parameters>, ResponseError> {
    let mut parameters = None;
    for line in field::values(fields, "Sec-WebSocket-Extensions") {
        for extension in field::extensions(line) {
            let Ok(extension) = extension else {
                return Err(ResponseError::MalformedExtensions { value: quoted(line) });
            };
            let Some(offer) = offer.filter(|_| extension.name == deflate::NAME.as_bytes()) else {
                return Err(ResponseError::UnofferedExtension { name: quoted(extension.text) });
            };
            if parameters.is_some() {
                return Err(ResponseError::RepeatedExtension);
            }
            parameters = Some(offer.check(&extension)?);
        }
    }
    Ok(parameters)
}

/// Checks that the server chose at most one of the offered subprotocols (RFC 6455 4.1, point 6).
fn check_subprotocol(fields: &[Header<'_>], subprotocols: &[&str]) -> Result<(), ResponseError> {
    match field::single(fields, "Sec-WebSocket-Protocol") {
        Single::Missing => Ok(()),
        Single::One(name)
            if subprotocols.iter().any(|offered| offered.as_bytes() == field::trim(name)) =>
        {
            Ok(())
        }
        Single::One(name) => Err(ResponseError::UnofferedSubprotocol { name: quoted(name) }),
        Single::Repeated => {
            Err(ResponseError::UnofferedSubprotocol { name: "more than one".into() })
        }
    }
}

/// Returns the end of a sentence about a refusal.
fn leading_to(location: Option<&str>) -> String {
    location.map(|location| format!(": it redirects to {location}")).unwrap_or_default()
}

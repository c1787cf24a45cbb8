//! The opening handshake of a connection that is being opened (RFC 6455 4.1).

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::anyhow;
use engine::Output;
use protocol::handshake::HeadLimits;
use protocol::handshake::client::{FinalResponse, Request, RequestError, check_response};
use protocol::handshake::deflate::{Offer, Parameters};

use super::template;

/// The request of an opening handshake.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandshakeRequest {
    /// The Host field.
    pub(crate) host: String,
    pub(crate) target: String,
    pub(crate) origin: Option<String>,
    pub(crate) subprotocols: Vec<String>,
    /// Compression to offer.
    pub(crate) deflate: Option<Offer>,
    pub(crate) headers: Vec<(String, String)>,
    /// True if `target` or values of `headers` have placeholders.
    pub(crate) is_template: bool,
}

impl HandshakeRequest {
    /// Checks that the request can be written. The error is the first part that is wrong.
    pub(crate) fn check(&self) -> Result<(), RequestError> {
        self.with_fields([0; 16], |request| request.check())
    }

    /// Returns the request of the connection of this number.
    pub(crate) fn of_connection(&self, number: u32) -> Cow<'_, Self> {
        if !self.is_template {
            return Cow::Borrowed(self);
        }
        let value = |(name, value): &(String, String)| {
            (name.clone(), template::expand(value, number).into_owned())
        };
        Cow::Owned(Self {
            target: template::expand(&self.target, number).into_owned(),
            headers: self.headers.iter().map(value).collect(),
            ..self.clone()
        })
    }

    /// Passes the request on in the form that the protocol takes.
    fn with_fields<T>(&self, nonce: [u8; 16], pass: impl FnOnce(Request<'_>) -> T) -> T {
        let headers: Vec<_> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (host, target, origin) = (&self.host, &self.target, self.origin.as_deref());
        pass(Request {
            host,
            target,
            nonce,
            origin,
            subprotocols: &self.offers(),
            deflate: self.deflate,
            headers: &headers,
        })
    }

    fn offers(&self) -> Vec<&str> {
        self.subprotocols.iter().map(String::as_str).collect()
    }
}

/// A valid response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    /// Bytes of this read that belong to it and to the interim responses before it.
    pub(crate) used: usize,
    /// Compression that the server has agreed to.
    pub(crate) deflate: Option<Parameters>,
    /// Faults that the server says the connection has, on request or for every connection.
    pub(crate) faults: Option<String>,
}

/// A request that has been sent, and the response so far.
#[derive(Debug)]
pub(crate) struct Opening {
    nonce: [u8; 16],
    /// The bytes of a response that did not come in one piece.
    head: Vec<u8>,
    response: FinalResponse,
}

impl Opening {
    /// Sends the request; the connection's deadline is set to `timeout` from now.
    pub(crate) fn begin(
        request: &HandshakeRequest,
        nonce: [u8; 16],
        timeout: Duration,
        out: &mut Output<'_>,
    ) -> Self {
        let mut bytes = Vec::new();
        request.with_fields(nonce, |request| request.encode(&mut bytes));
        out.append(&bytes);
        out.set_deadline(Some(out.now() + timeout));
        Self { nonce, head: Vec::new(), response: FinalResponse::default() }
    }

    /// Reads more of the response. Returns it once it is complete. Fails if it opens no WebSocket.
    pub(crate) fn read(
        &mut self,
        request: &HandshakeRequest,
        bytes: &[u8],
    ) -> anyhow::Result<Option<Response>> {
        // Nearly always the whole response comes in one piece, which needs no copy.
        let before = self.head.len();
        if before > 0 {
            self.head.extend_from_slice(bytes);
        }
        let all = if before > 0 { &self.head } else { bytes };
        let Some(found) = self.response.find(all, &HeadLimits::default())? else {
            if before == 0 {
                self.head.extend_from_slice(bytes);
            }
            return Ok(None);
        };
        let (head, content) = (&all[found.clone()], &all[found.end..]);
        let offer = request.deflate.as_ref();
        let deflate =
            check_response(head, &self.nonce, &request.offers(), offer).map_err(|error| {
                // The content is the server's own explanation.
                let said = quoted(&String::from_utf8_lossy(content));
                let colon = if said.is_empty() { "" } else { ": " };
                anyhow!("{error}{colon}{said}")
            })?;
        Ok(Some(Response { used: found.end - before, deflate, faults: faults_of(head) }))
    }
}

/// Returns the field with which sparring-server names the faults of a connection (`--faults`).
fn faults_of(head: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"X-Sparring-Faults";
    let mut fields = head.split(|&byte| byte == b'\n').filter_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then_some(value.strip_prefix(b":")?)
    });
    fields.next().map(|value| quoted(&String::from_utf8_lossy(value)))
}

/// Returns the server's text on one line, escaped, at most 200 characters.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 200;
    let (mut shown, mut len) = (String::new(), 0);
    for word in text.split_ascii_whitespace() {
        let space = if shown.is_empty() { "" } else { " " };
        for char in space.chars().chain(word.chars()) {
            let escaped = if matches!(char, '"' | '\'') {
                char.to_string()
            } else {
                char.escape_debug().to_string()
            };
            len += escaped.chars().count();
            if len > LONGEST {
                return shown + "...";
            }
            shown.push_str(&escaped);
        }
    }
    shown
}

/// Addresses where an attempt failed, with the error of the kernel for each.
pub(crate) type Failures = Vec<(SocketAddr, io::Error)>;

/// Describes for people which addresses were tried, and why none of them can be connected to.
pub(crate) fn describe_failures(failures: &[(SocketAddr, io::Error)]) -> String {
    let (addresses, errors): (Vec<_>, Vec<_>) =
        failures.iter().map(|(address, error)| (address.to_string(), error.to_string())).unzip();
    if errors.windows(2).all(|pair| pair[0] == pair[1]) {
        let error = errors.first().map(String::as_str).unwrap_or_default();
        return format!("cannot connect to {}: {error}", addresses.join(" or "));
    }
    let each: Vec<_> =
        addresses.iter().zip(&errors).map(|(at, error)| format!("{at}: {error}")).collect();
    format!("cannot connect to {}", each.join(", or to "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> Opening {
        Opening {
            nonce: *b"the sample nonce",
            head: Vec::new(),
            response: FinalResponse::default(),
        }
    }

    fn refused(response: &str, cut: usize) -> String {
        let mut opening = opening();
        let (first, second) = response.as_bytes().split_at(cut);
        let error = match opening.read(&HandshakeRequest::default(), first) {
            Ok(None) => {
                opening.read(&HandshakeRequest::default(), second).expect_err("no WebSocket")
            }
            other => other.expect_err("no WebSocket"),
        };
        error.to_string()
    }

    const HEAD: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 30\r\n\r\n";
    const STATUS: &str = "the server answered \"400 Bad Request\" instead of 101";

    #[test]
    fn passes_on_what_the_server_says() {
        for (content, shown) in [
            ("this port speaks TLS\u{1b}[31m\r\nmore", ": this port speaks TLS\\u{1b}[31m more"),
            ("{\"error\":\r\n  \"token missing\"}", ": {\"error\": \"token missing\"}"),
            ("<html>\n<h1>it's</h1>", ": <html> <h1>it's</h1>"),
            ("\u{202e}caf\u{e9}", ": \\u{202e}caf\u{e9}"),
            ("", ""),
            ("\r\n", ""),
        ] {
            let said = format!("{HEAD}{content}");
            for cut in [10, said.len()] {
                assert_eq!(refused(&said, cut), format!("{STATUS}{shown}"));
            }
        }
    }

    #[test]
    fn bounds_what_the_server_says() {
        for long in ["a".repeat(1000), "\u{1b}".repeat(1000), "\u{e9} ".repeat(1000)] {
            let shown = refused(&format!("{HEAD}{long}"), 10);
            assert!(shown.chars().count() <= STATUS.len() + 2 + 200 + 3, "{shown}");
        }
    }

    #[test]
    fn finds_the_faults_that_the_server_names() {
        let of = |fields: &str| faults_of(format!("HTTP/1.1 101 x\r\n{fields}\r\n").as_bytes());
        let named = of("A: b\r\nx-sparring-faults: delay=5ms&ping=2\r\nC: d\r\n");
        assert_eq!(named.as_deref(), Some("delay=5ms&ping=2"));
        assert_eq!(of("X-Sparring: a\r\nX-Sparring-Faultsy: a\r\n"), None);
    }

    #[test]
    fn skips_interim_responses_however_they_are_cut() {
        let interim =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
        let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let bytes = format!("{interim}{switch}frames");
        let end = interim.len() + switch.len();
        for cut in 0..bytes.len() {
            let (mut opening, (first, second)) = (opening(), bytes.as_bytes().split_at(cut));
            let used = match opening.read(&HandshakeRequest::default(), first).expect("right") {
                Some(response) => response.used,
                None => {
                    cut + opening
                        .read(&HandshakeRequest::default(), second)
                        .expect("right")
                        .expect("whole")
                        .used
                }
            };
            assert_eq!(used, end, "cut at {cut}");
        }
    }

    #[test]
    fn names_every_address_that_was_tried() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let [six, four] = ["[::1]:9", "127.0.0.1:9"].map(|at| at.parse().expect("an address"));
        assert_eq!(
            describe_failures(&[(four, refused())]),
            "cannot connect to 127.0.0.1:9: connection refused"
        );
        assert_eq!(
            describe_failures(&[(six, refused()), (four, refused())]),
            "cannot connect to [::1]:9 or 127.0.0.1:9: connection refused"
        );
        assert_eq!(
            describe_failures(&[(six, io::ErrorKind::TimedOut.into()), (four, refused())]),
            "cannot connect to [::1]:9: timed out, or to 127.0.0.1:9: connection refused"
        );
    }
}

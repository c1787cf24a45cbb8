//! The opening handshake of a connection that is being opened (RFC 6455 4.1).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use engine::Output;
use protocol::handshake::HeadLimits;
use protocol::handshake::client::{FinalResponse, Request, RequestError, ResponseError, check_response};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    /// The Host field.
    pub(crate) host: String,
    /// The request target.
    pub(crate) target: String,
    pub(crate) origin: Option<String>,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) headers: Vec<(String, String)>,
}

impl Ask {
    /// Checks that the request can be written as it is meant.
    ///
    /// # Errors
    ///
    /// The first part that is wrong, and the rule.
    pub(crate) fn check(&self) -> Result<(), RequestError> {
        self.request([0; 16], &self.subprotocols(), &self.fields()).check()
    }

    fn request<'a>(
        &'a self,
        nonce: [u8; 16],
        subprotocols: &'a [&'a str],
        headers: &'a [(&'a str, &'a str)],
    ) -> Request<'a> {
        let (host, target) = (&self.host, &self.target);
        Request { host, target, nonce, origin: self.origin.as_deref(), subprotocols, headers }
    }

    fn fields(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn subprotocols(&self) -> Vec<&str> {
        self.subprotocols.iter().map(String::as_str).collect()
    }
}

/// A request that has been sent, and what has come of the response.
#[derive(Debug)]
pub(crate) struct Opening {
    nonce: [u8; 16],
    /// What has come, where it did not come in one piece.
    head: Vec<u8>,
    response: FinalResponse,
}

impl Opening {
    /// Sends the request; the connection's deadline is set to `timeout` from now.
    pub(crate) fn begin(ask: &Ask, nonce: [u8; 16], timeout: Duration, out: &mut Output<'_>) -> Self {
        let mut bytes = Vec::new();
        ask.request(nonce, &ask.subprotocols(), &ask.fields()).encode(&mut bytes);
        out.append(&bytes);
        out.set_deadline(Some(out.now() + timeout));
        Self { nonce, head: Vec::new(), response: FinalResponse::default() }
    }

    /// Reads more of the response. Once the response is complete and valid, returns the number of `bytes`
    /// that belong to it and to the interim responses before it.
    ///
    /// # Errors
    ///
    /// Fails where the response opens no WebSocket.
    pub(crate) fn read(&mut self, ask: &Ask, bytes: &[u8]) -> Result<Option<usize>, Refused> {
        if self.head.is_empty() {
            // Nearly always the whole response comes in one piece.
            let Some(head) = self.response.find(bytes, &HeadLimits::default())? else {
                self.head.extend_from_slice(bytes);
                return Ok(None);
            };
            self.check(ask, &bytes[head.start..], head.len())?;
            return Ok(Some(head.end));
        }
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some(head) = self.response.find(&self.head, &HeadLimits::default())? else {
            return Ok(None);
        };
        self.check(ask, &self.head[head.start..], head.len())?;
        Ok(Some(head.end - before))
    }

    /// `response` has a head of `len` bytes and what came with it.
    fn check(&self, ask: &Ask, response: &[u8], len: usize) -> Result<(), Refused> {
        let (head, content) = response.split_at(len);
        check_response(head, &self.nonce, &ask.subprotocols())
            .map_err(|error| Refused { said: quoted(&String::from_utf8_lossy(content)), ..error.into() })
    }
}

/// A response that opens no WebSocket.
#[derive(Debug)]
pub(crate) struct Refused {
    error: ResponseError,
    /// The server's own explanation, escaped; empty where it gives none.
    said: String,
}

impl From<ResponseError> for Refused {
    fn from(error: ResponseError) -> Self {
        Self { error, said: String::new() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        if !self.said.is_empty() {
            write!(f, ": {}", self.said)?;
        }
        Ok(())
    }
}

/// Returns the server's text for display: on one line, control characters escaped, at most 200 characters.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 200;
    let (mut shown, mut len) = (String::new(), 0);
    for word in text.split_ascii_whitespace() {
        let space = if shown.is_empty() { "" } else { " " };
        for char in space.chars().chain(word.chars()) {
            let escaped =
                if matches!(char, '"' | '\'') { char.to_string() } else { char.escape_debug().to_string() };
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
    match errors.first() {
        Some(first) if errors.iter().all(|error| error == first) => {
            format!("cannot connect to {}: {first}", addresses.join(" or "))
        }
        _ => {
            let each = addresses.iter().zip(&errors).map(|(address, error)| format!("{address}: {error}"));
            format!("cannot connect to {}", each.collect::<Vec<_>>().join(", or to "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> Opening {
        Opening { nonce: *b"the sample nonce", head: Vec::new(), response: FinalResponse::default() }
    }

    fn refused(response: &str, cut: usize) -> String {
        let mut opening = opening();
        let (first, second) = response.as_bytes().split_at(cut);
        let error = match opening.read(&Ask::default(), first) {
            Ok(None) => opening.read(&Ask::default(), second).expect_err("no WebSocket"),
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
    fn skips_interim_responses_however_they_are_cut() {
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
        let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let bytes = format!("{interim}{switch}frames");
        let end = interim.len() + switch.len();
        for cut in 0..bytes.len() {
            let (mut opening, (first, second)) = (opening(), bytes.as_bytes().split_at(cut));
            let used = match opening.read(&Ask::default(), first).expect("right") {
                Some(used) => used,
                None => cut + opening.read(&Ask::default(), second).expect("right").expect("whole"),
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

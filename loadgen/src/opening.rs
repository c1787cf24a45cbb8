//! The opening handshake of a connection that is being opened (RFC 6455 4.1).

use std::fmt;
use std::time::Duration;

use engine::Output;
use protocol::handshake::HeadLimits;
use protocol::handshake::client::{Request, RequestError, ResponseError, check_response, find_response};

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
    scanned: usize,
}

impl Opening {
    /// Sends the request; the connection's deadline is set to `timeout` from now.
    pub(crate) fn begin(ask: &Ask, nonce: [u8; 16], timeout: Duration, out: &mut Output<'_>) -> Self {
        let mut bytes = Vec::new();
        ask.request(nonce, &ask.subprotocols(), &ask.fields()).encode(&mut bytes);
        out.append(&bytes);
        out.set_deadline(Some(out.now() + timeout));
        Self { nonce, head: Vec::new(), scanned: 0 }
    }

    /// Reads on in the response: how many of `bytes` belong to it once it is whole and right.
    ///
    /// # Errors
    ///
    /// A response that opens no WebSocket.
    pub(crate) fn read(&mut self, ask: &Ask, bytes: &[u8]) -> Result<Option<usize>, Refused> {
        if self.head.is_empty() {
            // Nearly always the whole response comes in one piece.
            let len = find_response(bytes, &mut self.scanned, &HeadLimits::default())?;
            match len {
                Some(len) => self.check(ask, bytes, len)?,
                None => self.head.extend_from_slice(bytes),
            }
            return Ok(len);
        }
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some(len) = find_response(&self.head, &mut self.scanned, &HeadLimits::default())? else {
            return Ok(None);
        };
        self.check(ask, &self.head, len)?;
        Ok(Some(len - before))
    }

    /// `response` has a head of `len` bytes and what came with it.
    fn check(&self, ask: &Ask, response: &[u8], len: usize) -> Result<(), Refused> {
        let (head, content) = response.split_at(len);
        check_response(head, &self.nonce, &ask.subprotocols())
            .map_err(|error| Refused { said: first_line(content), ..error.into() })
    }
}

/// A response that opens no WebSocket.
#[derive(Debug)]
pub(crate) struct Refused {
    error: ResponseError,
    /// The first line of what the server says about it, escaped; empty where it says nothing to people.
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

/// Of plain text; the first line of a document in a markup or data language says nothing.
fn first_line(content: &[u8]) -> String {
    const LONGEST: usize = 120;
    let line = content.trim_ascii_start().split(|byte| b"\r\n".contains(byte)).next().unwrap_or_default();
    if line.starts_with(b"<") || line.starts_with(b"{") {
        return String::new();
    }
    line[..line.len().min(LONGEST)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(response: &str, cut: usize) -> String {
        let mut opening = Opening { nonce: [0; 16], head: Vec::new(), scanned: 0 };
        let (first, second) = response.as_bytes().split_at(cut);
        let error = match opening.read(&Ask::default(), first) {
            Ok(None) => opening.read(&Ask::default(), second).expect_err("no WebSocket"),
            other => other.expect_err("no WebSocket"),
        };
        error.to_string()
    }

    #[test]
    fn what_the_server_says_is_passed_on() {
        let head = "HTTP/1.1 400 Bad Request\r\nContent-Length: 30\r\n\r\n";
        let status = "the server answered \"400 Bad Request\" instead of 101";
        let said = format!("{head}this port speaks TLS\u{1b}\r\nmore");
        for cut in [10, said.len()] {
            assert_eq!(refused(&said, cut), format!("{status}: this port speaks TLS\\x1b"));
        }
        for silent in ["", "\r\n", "<html>", "{}"] {
            let response = format!("{head}{silent}");
            assert_eq!(refused(&response, response.len()), status);
        }
        let long = format!("{head}{}", "a".repeat(1000));
        assert_eq!(refused(&long, long.len()).len(), status.len() + 2 + 120);
    }
}

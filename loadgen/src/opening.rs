//! The opening handshake of a connection that is being opened (RFC 6455 4.1).

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
    pub(crate) fn read(&mut self, ask: &Ask, bytes: &[u8]) -> Result<Option<usize>, ResponseError> {
        let limits = HeadLimits::default();
        if self.head.is_empty() {
            // Nearly always the whole response comes in one piece.
            if let Some(len) = find_response(bytes, &mut self.scanned, &limits)? {
                check_response(&bytes[..len], &self.nonce, &ask.subprotocols())?;
                return Ok(Some(len));
            }
            self.head.extend_from_slice(bytes);
            return Ok(None);
        }
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some(len) = find_response(&self.head, &mut self.scanned, &limits)? else {
            return Ok(None);
        };
        check_response(&self.head[..len], &self.nonce, &ask.subprotocols())?;
        Ok(Some(len - before))
    }
}

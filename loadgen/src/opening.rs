//! The opening handshake of a connection that is being opened (RFC 6455 4.1).

use std::time::Duration;

use engine::Output;
use protocol::handshake::HeadLimits;
use protocol::handshake::client::{Request, ResponseError, check_response, find_response};

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
    pub(crate) fn begin(
        host: &str,
        target: &str,
        nonce: [u8; 16],
        timeout: Duration,
        out: &mut Output<'_>,
    ) -> Self {
        let request = Request { host, target, nonce, origin: None, subprotocols: &[], headers: &[] };
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        out.append(&bytes);
        out.set_deadline(Some(out.now() + timeout));
        Self { nonce, head: Vec::new(), scanned: 0 }
    }

    /// Reads on in the response: how many of `bytes` belong to it once it is whole and right.
    ///
    /// # Errors
    ///
    /// A response that opens no WebSocket.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, ResponseError> {
        let limits = HeadLimits::default();
        if self.head.is_empty() {
            // Nearly always the whole response comes in one piece.
            if let Some(len) = find_response(bytes, &mut self.scanned, &limits)? {
                check_response(&bytes[..len], &self.nonce, &[])?;
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
        check_response(&self.head[..len], &self.nonce, &[])?;
        Ok(Some(len - before))
    }
}

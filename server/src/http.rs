//! Opening handshake of a connection (RFC 6455 4.2).

use std::time::SystemTime;

use engine::Output;
use protocol::handshake::deflate::Parameters;
use protocol::handshake::server::{answer, find_head};

use crate::admission::Rejection;
use crate::config::EchoSettings;
use crate::page::Page;

/// Incomplete head of a request.
#[derive(Debug, Default)]
pub(crate) struct Head {
    buffered: Vec<u8>,
    /// Bytes of `buffered` that have been searched for the end.
    scanned: usize,
}

/// State of a handshake after a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HandshakeState {
    /// The head is incomplete, and is kept.
    Incomplete,
    /// The request was answered with 101.
    Open {
        /// Index of the read at which frames begin.
        frames: usize,
        /// Compression that the answer agrees to.
        deflate: Option<Parameters>,
    },
    /// A browser requested the page, and it was sent.
    Page,
}

/// Context in which a request is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestContext<'a> {
    pub(crate) settings: &'a EchoSettings,
    pub(crate) page: &'a Page,
    /// True if the listener is reached under a loopback address.
    pub(crate) on_loopback: bool,
}

/// Continues to read a request. `head` exists only while the request is incomplete: most requests
/// arrive in one read and are never copied.
pub(crate) fn read(
    head: &mut Option<Box<Head>>,
    context: RequestContext<'_>,
    bytes: &[u8],
    out: &mut Output<'_>,
) -> Result<HandshakeState, Rejection> {
    let limits = &context.settings.head;
    let Some(kept) = head else {
        let mut scanned = 0;
        return match find_head(bytes, &mut scanned, limits)? {
            Some(end) => context.receive(&bytes[..end], end, out),
            None => {
                *head = Some(Box::new(Head { buffered: bytes.to_vec(), scanned }));
                Ok(HandshakeState::Incomplete)
            }
        };
    };
    let before = kept.buffered.len();
    kept.buffered.extend_from_slice(bytes);
    match find_head(&kept.buffered, &mut kept.scanned, limits)? {
        Some(end) => {
            // The end of the head was not in earlier reads, so it lies in this one.
            let progress = context.receive(&kept.buffered[..end], end - before, out)?;
            *head = None;
            Ok(progress)
        }
        None => Ok(HandshakeState::Incomplete),
    }
}

impl RequestContext<'_> {
    /// Answers a complete head. Frames begin at `frames` of the read.
    fn receive(
        self,
        head: &[u8],
        frames: usize,
        out: &mut Output<'_>,
    ) -> Result<HandshakeState, Rejection> {
        match answer(head, &self.settings.head) {
            Ok(mut request) => {
                self.settings.admission.admit(&mut request, self.on_loopback)?;
                let policy = self.settings.deflate.map(|settings| settings.policy);
                let deflate = policy.and_then(|policy| request.accept_deflate(&policy));
                out.append(request.response());
                Ok(HandshakeState::Open { frames, deflate })
            }
            Err(refusal) if refusal.asks_for_no_upgrade() && asks_for_root(head) => {
                self.page.write(!refusal.is_to_head(), SystemTime::now(), out);
                Ok(HandshakeState::Page)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }
}

/// Returns true if a valid request's target is `/`, with or without a query.
fn asks_for_root(head: &[u8]) -> bool {
    let target = head.trim_ascii_start().split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    target.split(|&byte| byte == b'?').next() == Some(b"/")
}

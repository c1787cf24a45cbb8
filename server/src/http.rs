//! Opening handshake of a connection (RFC 6455 4.2).

use std::borrow::Cow;
use std::time::SystemTime;

use engine::Output;
use protocol::handshake::HeadLimits;
use protocol::handshake::deflate::Parameters;
use protocol::handshake::server::{Accepted, Refusal, answer, find_head};

use crate::admission::Rejection;
use crate::config::EchoSettings;
use crate::faults::{FAULTS_FIELD, FaultSettings, FaultyOpening};
use crate::page::Page;

/// Incomplete head of a request.
#[derive(Debug, Default)]
pub(crate) struct Head {
    buffered: Vec<u8>,
    /// Bytes of `buffered` that have been searched for the end.
    scanned: usize,
}

/// Complete head of a request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) head: Cow<'a, [u8]>,
    /// Index of the read at which frames begin.
    pub(crate) frames: usize,
}

/// Answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HandshakeState {
    /// The request was answered with 101.
    Open {
        /// Index of the read at which frames begin.
        frames: usize,
        /// Compression that the answer agrees to.
        deflate: Option<Parameters>,
        /// Faults of the WebSocket.
        faults: Option<Box<FaultyOpening>>,
    },
    /// A browser requested the page, and it was sent.
    Page,
    /// A load balancer asked whether the server is healthy, and was told so.
    Healthy,
}

/// Context in which a request is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestContext<'a> {
    pub(crate) settings: &'a EchoSettings,
    pub(crate) page: &'a Page,
    /// True if the listener is reached under a loopback address.
    pub(crate) on_loopback: bool,
}

/// Continues to read a request; `None`: it is incomplete, and is kept. `head` exists only where a
/// request came in several reads: most arrive in one and are never copied.
pub(crate) fn read<'a>(
    head: &mut Option<Box<Head>>,
    limits: &HeadLimits,
    bytes: &'a [u8],
) -> Result<Option<Request<'a>>, Refusal> {
    let Some(kept) = head else {
        let mut scanned = 0;
        let end = find_head(bytes, &mut scanned, limits)?;
        if end.is_none() {
            *head = Some(Box::new(Head { buffered: bytes.to_vec(), scanned }));
        }
        return Ok(end.map(|end| Request { head: Cow::Borrowed(&bytes[..end]), frames: end }));
    };
    let before = kept.buffered.len();
    kept.buffered.extend_from_slice(bytes);
    let Some(end) = find_head(&kept.buffered, &mut kept.scanned, limits)? else { return Ok(None) };
    let mut whole = std::mem::take(&mut kept.buffered);
    whole.truncate(end);
    // The end of the head was not in earlier reads, so it lies in this one.
    Ok(Some(Request { head: Cow::Owned(whole), frames: end - before }))
}

impl RequestContext<'_> {
    /// Answers a complete head. Frames begin at `frames` of the read.
    pub(crate) fn receive(
        self,
        head: &[u8],
        frames: usize,
        out: &mut Output<'_>,
    ) -> Result<HandshakeState, Rejection> {
        match answer(head, &self.settings.head) {
            Ok(request) => self.open(request, frames, out),
            Err(refusal) if refusal.asks_for_no_upgrade() && asks_for_root(head) => {
                self.page.write(!refusal.is_to_head(), SystemTime::now(), out);
                Ok(HandshakeState::Page)
            }
            Err(refusal) if asks_for_health(head, &refusal) => {
                out.append(health(!refusal.is_to_head()));
                Ok(HandshakeState::Healthy)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }
}

impl RequestContext<'_> {
    /// Answers a valid opening handshake.
    fn open(
        self,
        mut request: Accepted,
        frames: usize,
        out: &mut Output<'_>,
    ) -> Result<HandshakeState, Rejection> {
        let target = request.target().to_owned();
        let (path, faults) = match &self.settings.faults {
            Some(settings) => settings.of_target(&target)?,
            None => (target.split('?').next().unwrap_or_default(), None),
        };
        self.settings.admission.admit(path, &mut request, self.on_loopback)?;
        if let Some(refusal) = faults.as_ref().and_then(|faults| faults.refusal()) {
            return Err(refusal);
        }
        if self.settings.faults.is_some() {
            request.add_field(FAULTS_FIELD, &FaultSettings::field(faults.as_deref()));
        }
        // The faults change frames, which the context of a compressor would not survive.
        let settings = self.settings.deflate.filter(|_| faults.is_none());
        let deflate = settings.and_then(|settings| request.accept_deflate(&settings.policy));
        out.append(request.response());
        Ok(HandshakeState::Open { frames, deflate, faults })
    }
}

/// Answer to a load balancer: the server accepts connections.
fn health(with_content: bool) -> &'static [u8] {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nAllow: GET, HEAD, OPTIONS\r\n\
        Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\nContent-Length: 3\r\n\r\nok\n";
    if with_content { ANSWER } else { &ANSWER[..ANSWER.len() - b"ok\n".len()] }
}

/// Returns true if a request without an upgrade is one that load balancers send: GET, HEAD or
/// OPTIONS of a health path, or OPTIONS of `/`. They may have HTTP/1.0, as HAProxy's default.
fn asks_for_health(head: &[u8], refusal: &Refusal) -> bool {
    let line = head.trim_ascii_start().split(|&byte| byte == b'\r').next().unwrap_or_default();
    let parts: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let [method, target, version] = parts[..] else { return false };
    let is_health = matches!(target, b"/healthz" | b"/readyz");
    let is_probe = match method {
        b"OPTIONS" => is_health || target == b"/",
        b"GET" | b"HEAD" => is_health,
        _ => false,
    };
    let is_valid = refusal.asks_for_no_upgrade()
        || (refusal.is_to_another_method() && method == b"OPTIONS" && version == b"HTTP/1.1")
        || (refusal.is_to_another_version() && version == b"HTTP/1.0");
    is_probe && is_valid && !asks_for_upgrade(head)
}

/// Returns true if a head has an Upgrade field, whose meaning has not been examined.
fn asks_for_upgrade(head: &[u8]) -> bool {
    const NAME: &[u8] = b"Upgrade:";
    head.split(|&byte| byte == b'\n')
        .any(|line| line.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME)))
}

/// Returns true if a valid request's target is `/`, with or without a query.
fn asks_for_root(head: &[u8]) -> bool {
    let target = head.trim_ascii_start().split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    target.split(|&byte| byte == b'?').next() == Some(b"/")
}

//! The opening handshake's stage of a connection (RFC 6455 4.2).

use engine::Output;
use protocol::handshake::server::{answer, find_head};

use crate::admission::Declined;
use crate::config::Rules;
use crate::page::Page;

/// A request head that has not arrived whole.
#[derive(Debug, Default)]
pub(crate) struct Head {
    buffered: Vec<u8>,
    /// How far `buffered` was searched for its end.
    scanned: usize,
}

/// How a handshake stands after a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More of the head has to come; it is kept.
    Incomplete,
    /// Answered with 101. Frames begin at this index of the read.
    Open(usize),
    /// A browser asked for the page and got it.
    Page,
}

/// What a request is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reception<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) page: &'a Page,
    /// Whether the listener is reached under a loopback address.
    pub(crate) on_loopback: bool,
}

/// Reads on in a request. `head` is there only while one is incomplete: most requests come in one read and are never
/// copied.
pub(crate) fn read(
    head: &mut Option<Box<Head>>,
    reception: Reception<'_>,
    bytes: &[u8],
    out: &mut Output<'_>,
) -> Result<Progress, Declined> {
    let limits = &reception.rules.head;
    let Some(kept) = head else {
        let mut scanned = 0;
        return match find_head(bytes, &mut scanned, limits)? {
            Some(end) => reception.receive(&bytes[..end], end, out),
            None => {
                *head = Some(Box::new(Head { buffered: bytes.to_vec(), scanned }));
                Ok(Progress::Incomplete)
            }
        };
    };
    let before = kept.buffered.len();
    kept.buffered.extend_from_slice(bytes);
    match find_head(&kept.buffered, &mut kept.scanned, limits)? {
        Some(end) => {
            // The head's end was not in what had come before, so it lies in this read.
            let progress = reception.receive(&kept.buffered[..end], end - before, out)?;
            *head = None;
            Ok(progress)
        }
        None => Ok(Progress::Incomplete),
    }
}

impl Reception<'_> {
    /// Answers a whole head, behind which frames begin at `frames` of the read.
    fn receive(self, head: &[u8], frames: usize, out: &mut Output<'_>) -> Result<Progress, Declined> {
        match answer(head, &self.rules.head) {
            Ok(mut request) => {
                self.rules.admission.admit(&mut request, self.on_loopback)?;
                out.append(request.response());
                Ok(Progress::Open(frames))
            }
            Err(refusal) if refusal.asks_for_no_upgrade() && asks_for_root(head) => {
                out.append(self.page.response(!refusal.is_to_head()));
                Ok(Progress::Page)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }
}

/// Returns true where a valid request's target is `/`, with or without a query.
fn asks_for_root(head: &[u8]) -> bool {
    let target = head.trim_ascii_start().split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    target.split(|&byte| byte == b'?').next() == Some(b"/")
}

//! The opening handshake's stage of a connection (RFC 6455 4.2).

use engine::Output;
use protocol::handshake::server::{Refusal, answer, find_head};

use crate::config::Rules;

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
}

/// Reads on in a request. `head` is there only while one is incomplete: most requests come in one read and are never
/// copied.
pub(crate) fn read(
    head: &mut Option<Box<Head>>,
    rules: &Rules,
    bytes: &[u8],
    out: &mut Output<'_>,
) -> Result<Progress, Refusal> {
    let Some(kept) = head else {
        let mut scanned = 0;
        return match find_head(bytes, &mut scanned, &rules.head)? {
            Some(end) => accept(&bytes[..end], rules, out).map(|()| Progress::Open(end)),
            None => {
                *head = Some(Box::new(Head { buffered: bytes.to_vec(), scanned }));
                Ok(Progress::Incomplete)
            }
        };
    };
    let before = kept.buffered.len();
    kept.buffered.extend_from_slice(bytes);
    match find_head(&kept.buffered, &mut kept.scanned, &rules.head)? {
        Some(end) => {
            accept(&kept.buffered[..end], rules, out)?;
            *head = None;
            // The head's end was not in what had come before, so it lies in this read.
            Ok(Progress::Open(end - before))
        }
        None => Ok(Progress::Incomplete),
    }
}

fn accept(head: &[u8], rules: &Rules, out: &mut Output<'_>) -> Result<(), Refusal> {
    let request = answer(head, &rules.head)?;
    rules.admission.check(&request)?;
    out.append(request.response());
    Ok(())
}

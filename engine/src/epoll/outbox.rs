//! Output of a turn: chains of segments, one for each connection that wrote something.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};

use crate::lifecycle::SendQueue;
use crate::output::{Record, Segment};

const NIL: u32 = u32::MAX;
/// Most segments that leave with one call.
pub(super) const SLICES: usize = 64;
const _: () = assert!(SLICES <= 1024, "sendmsg(2) accepts no more than IOV_MAX slices");

/// Segments of one connection in this turn, in order.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    pub(super) head: u32,
    tail: u32,
    bytes: usize,
}

impl Default for Chain {
    fn default() -> Self {
        Self { head: NIL, tail: NIL, bytes: 0 }
    }
}

impl Chain {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == NIL
    }
}

struct Node {
    segment: Segment,
    next: u32,
}

/// Segments of all connections; empty between turns.
#[derive(Default)]
pub(super) struct Outbox {
    nodes: Vec<Node>,
}

/// Outcome of sending a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ChainOutcome {
    /// The kernel has accepted all of it.
    Sent,
    /// The kernel has accepted the first `skip` bytes from node `at` on, and nothing behind them.
    Rest { at: u32, skip: usize },
}

impl Outbox {
    /// Appends a segment to a chain.
    pub(super) fn push(&mut self, chain: &mut Chain, segment: Segment) {
        let new = u32::try_from(self.nodes.len()).expect("segments of a turn");
        chain.bytes += segment_len(&segment);
        self.nodes.push(Node { segment, next: NIL });
        match self.nodes.get_mut(chain.tail as usize) {
            Some(tail) => tail.next = new,
            None => chain.head = new,
        }
        chain.tail = new;
    }

    /// Ends the turn. All chains are void.
    pub(super) fn clear(&mut self) {
        self.nodes.clear();
    }

    /// Offers a chain to the kernel; adds the accepted bytes to `bytes_out`. Sent buffers go to the
    /// record's pool.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        chain: Chain,
        record: &mut Record,
        input: &[u8],
        bytes_out: &mut u64,
    ) -> io::Result<ChainOutcome> {
        let mut at = chain.head;
        while at != NIL {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let (count, offered, next) = self.gather(at, record, input, &mut slices);
            let sent = send_slices(socket, &slices[..count])?;
            *bytes_out += sent as u64;
            if sent < offered {
                return Ok(ChainOutcome::Rest { at, skip: sent });
            }
            self.recycle(at, next, record);
            at = next;
        }
        Ok(ChainOutcome::Sent)
    }

    /// Moves the rest of a chain to a backlog.
    pub(super) fn move_to_backlog(
        &mut self,
        rest: ChainOutcome,
        record: &mut Record,
        input: &[u8],
        backlog: &mut SendQueue,
    ) {
        let ChainOutcome::Rest { mut at, mut skip } = rest else { return };
        // The pool lies in the record beside the arena of the segments.
        let mut pool = std::mem::take(record.pool());
        while let Some(node) = self.nodes.get_mut(at as usize) {
            at = node.next;
            let len = segment_len(&node.segment);
            let sent = skip.min(len);
            skip -= sent;
            match take(&mut node.segment) {
                Segment::Owned(buffer) if sent == len => pool.put(buffer),
                Segment::Owned(mut buffer) => {
                    bytes::Buf::advance(&mut buffer, sent);
                    backlog.push_owned(buffer, &mut pool);
                }
                _ if sent == len => {}
                segment => backlog.push_copy(&record.bytes(&segment, input)[sent..], &mut pool),
            }
        }
        *record.pool() = pool;
    }

    fn gather<'a>(
        &'a self,
        mut at: u32,
        record: &'a Record,
        input: &'a [u8],
        slices: &mut [IoSlice<'a>; SLICES],
    ) -> (usize, usize, u32) {
        let (mut count, mut bytes) = (0, 0);
        while count < SLICES
            && let Some(node) = self.nodes.get(at as usize)
        {
            let slice = record.bytes(&node.segment, input);
            slices[count] = IoSlice::new(slice);
            count += 1;
            bytes += slice.len();
            at = node.next;
        }
        (count, bytes, at)
    }

    fn recycle(&mut self, mut at: u32, end: u32, record: &mut Record) {
        while at != end {
            let node = &mut self.nodes[at as usize];
            at = node.next;
            if let Segment::Owned(buffer) = take(&mut node.segment) {
                record.pool().put(buffer);
            }
        }
    }
}

fn take(segment: &mut Segment) -> Segment {
    std::mem::replace(segment, Segment::Arena(0..0))
}

fn segment_len(segment: &Segment) -> usize {
    match segment {
        Segment::Echo(range) | Segment::Arena(range) => range.len(),
        Segment::Owned(buffer) => buffer.len(),
    }
}

/// Sends without blocking. A full send buffer accepts 0 bytes.
pub(super) fn send_slices(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        let outcome = match slices {
            [one] => send(socket, one, flags),
            several => sendmsg(socket, several, &mut SendAncillaryBuffer::default(), flags),
        };
        match outcome {
            Ok(sent) => return Ok(sent),
            Err(rustix::io::Errno::AGAIN) => return Ok(0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

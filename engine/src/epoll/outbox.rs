//! The output of a turn: chains of segments, one for each connection that wrote something.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};

use super::backlog::{Backlog, Spares};
use crate::output::{Record, Segment};

const NIL: u32 = u32::MAX;
/// Segments that leave with one call.
pub(super) const SLICES: usize = 64;

/// A connection's segments of this turn, in order.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    head: u32,
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

/// The segments of all connections; empty between turns.
#[derive(Default)]
pub(super) struct Outbox {
    nodes: Vec<Node>,
}

/// What became of a chain.
pub(super) enum Sent {
    /// All of it.
    All,
    /// The kernel's buffer is full: what follows the first `skip` bytes from node `at` on is left.
    Part { at: u32, skip: usize },
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

    /// Offers a chain to the kernel; adds what it took to `bytes_out`. Sent buffers go to the record's pool.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        chain: Chain,
        record: &mut Record,
        input: &[u8],
        bytes_out: &mut u64,
    ) -> io::Result<Sent> {
        let mut at = chain.head;
        while at != NIL {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let (count, wanted, next) = self.gather(at, record, input, &mut slices);
            let taken = send_slices(socket, &slices[..count])?;
            *bytes_out += taken as u64;
            if taken < wanted {
                return Ok(Sent::Part { at, skip: taken });
            }
            self.recycle(at, next, record);
            at = next;
        }
        Ok(Sent::All)
    }

    /// Moves what is left of a chain to a backlog.
    pub(super) fn hold_back(
        &mut self,
        left: Sent,
        record: &mut Record,
        input: &[u8],
        backlog: &mut Backlog,
        spares: &mut Spares,
    ) {
        let Sent::Part { mut at, mut skip } = left else { return };
        while let Some(node) = self.nodes.get_mut(at as usize) {
            at = node.next;
            let len = segment_len(&node.segment);
            let taken = skip.min(len);
            skip -= taken;
            match take(&mut node.segment) {
                Segment::Owned(buffer) if taken == len => record.pool().put(buffer),
                Segment::Owned(mut buffer) => {
                    bytes::Buf::advance(&mut buffer, taken);
                    backlog.push_owned(buffer);
                }
                piece => backlog.push_copy(&record.bytes(&piece, input)[taken..], spares),
            }
        }
    }

    /// Moves a whole chain to a backlog.
    pub(super) fn hold_back_all(
        &mut self,
        chain: Chain,
        record: &mut Record,
        input: &[u8],
        backlog: &mut Backlog,
        spares: &mut Spares,
    ) {
        self.hold_back(Sent::Part { at: chain.head, skip: 0 }, record, input, backlog, spares);
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
            let piece = record.bytes(&node.segment, input);
            slices[count] = IoSlice::new(piece);
            count += 1;
            bytes += piece.len();
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

/// Sends without blocking; a full buffer counts as nothing taken.
pub(super) fn send_slices(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        let outcome = match slices {
            [one] => send(socket, one, flags),
            several => sendmsg(socket, several, &mut SendAncillaryBuffer::default(), flags),
        };
        match outcome {
            Ok(taken) => return Ok(taken),
            Err(rustix::io::Errno::AGAIN) => return Ok(0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

//! Sockets of the epoll engine: their readiness, and their output.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::outbox::{Chain, ChainOutcome, Outbox, SLICES, send_slices};
use super::poller::{CONNECTION, Poller};
use crate::accounting::Counters;
use crate::connection::{ConnId, State};
use crate::lifecycle::{Io, SendQueue, Written};
use crate::output::{Record, Segment};
use crate::pool::BufferPool;

/// Most empty backlogs that are kept.
const MAX_SPARES: usize = 64;

/// Returns the key of a connection's events.
pub(super) fn key(slot: u32, generation: u32) -> u64 {
    (u64::from(generation) << 32) | u64::from(slot)
}

/// A connection's socket with its unsent output.
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    /// Output of this turn.
    queued: Chain,
    /// Output that the kernel has not accepted.
    pub(super) backlog: Option<Box<SendQueue>>,
    /// A receive may find something. Readiness is edge-triggered: it is remembered until a receive
    /// takes less than it could.
    pub(super) is_readable: bool,
    /// The peer's FIN or a reset was announced: something follows a short receive.
    pub(super) has_hangup: bool,
    /// The connection is in the list of those to read.
    pub(super) is_listed: bool,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// I/O of all connections.
pub(super) struct EpollIo {
    pub(super) poller: Poller,
    pub(super) outbox: Outbox,
    /// Empty backlogs for reuse: a stream of large messages may leave a backlog of each.
    #[expect(clippy::vec_box, reason = "a connection owns the box, so that an idle one is small")]
    spares: Vec<Box<SendQueue>>,
    /// Connections to read, left from the last turn and of this one.
    pub(super) readable: Vec<ConnId>,
}

impl EpollIo {
    pub(super) fn new(poller: Poller) -> Self {
        Self { poller, outbox: Outbox::default(), spares: Vec::new(), readable: Vec::new() }
    }

    /// Sends the queued output of a connection, behind its backlog.
    pub(super) fn transmit(
        &mut self,
        socket: &mut Socket,
        record: &mut Record,
        input: &[u8],
        counters: &mut Counters,
    ) -> io::Result<Written> {
        let chain = std::mem::take(&mut socket.queued);
        if chain.is_empty() {
            return Ok(Written::Done);
        }
        let mut rest = ChainOutcome::Rest { at: chain.head, skip: 0 };
        if socket.backlog.is_none() {
            rest = self.outbox.send(
                socket.fd.as_fd(),
                chain,
                record,
                input,
                &mut counters.bytes_out,
            )?;
            if rest == ChainOutcome::Sent {
                return Ok(Written::Done);
            }
            counters.partial_sends += 1;
        }
        let spares = &mut self.spares;
        let backlog = socket.backlog.get_or_insert_with(|| spares.pop().unwrap_or_default());
        self.outbox.move_to_backlog(rest, record, input, backlog);
        Ok(Written::Partly)
    }

    /// Sends output of the receive buffer directly: the common case of an echo server.
    fn send_echo(
        &mut self,
        socket: &mut Socket,
        bytes: &[u8],
        pool: &mut BufferPool,
        counters: &mut Counters,
    ) -> io::Result<Written> {
        let sent = send_slices(socket.fd.as_fd(), &[IoSlice::new(bytes)])?;
        counters.bytes_out += sent as u64;
        if sent == bytes.len() {
            return Ok(Written::Done);
        }
        counters.partial_sends += 1;
        let backlog = socket.backlog.insert(self.spares.pop().unwrap_or_default());
        backlog.push_copy(&bytes[sent..], pool);
        Ok(Written::Partly)
    }

    /// Sends from a connection's backlog; returns the number of bytes that the kernel has accepted.
    /// The backlog is gone when it was all of them.
    pub(super) fn send_backlog(
        &mut self,
        socket: &mut Socket,
        pool: &mut BufferPool,
        counters: &mut Counters,
    ) -> io::Result<usize> {
        let mut accepted = 0;
        while let Some(backlog) = socket.backlog.as_mut() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let (count, offered) = backlog.gather(&mut slices);
            let sent = send_slices(socket.fd.as_fd(), &slices[..count])?;
            accepted += sent;
            counters.bytes_out += sent as u64;
            backlog.advance(sent, pool);
            if backlog.bytes() == 0 {
                let room = MAX_SPARES - self.spares.len();
                self.spares.extend(socket.backlog.take().into_iter().take(room));
            } else if sent < offered {
                counters.partial_sends += u64::from(sent > 0);
                break;
            }
        }
        Ok(accepted)
    }
}

impl Io for EpollIo {
    type Socket = Socket;
    type Input<'a> = &'a mut [u8];

    fn register(&mut self, id: ConnId, fd: OwnedFd, _: State) -> io::Result<Socket> {
        self.poller.add(&fd, key(id.slot, id.generation), CONNECTION)?;
        Ok(Socket {
            fd,
            queued: Chain::default(),
            backlog: None,
            is_readable: false,
            has_hangup: false,
            is_listed: false,
        })
    }

    fn unsent(socket: &Socket) -> usize {
        socket.queued.bytes() + socket.backlog.as_ref().map_or(0, |backlog| backlog.bytes())
    }

    /// Output that echoes leaves at once, because the receive buffer is used again.
    fn write(
        &mut self,
        socket: &mut Socket,
        record: &mut Record,
        input: Option<&mut [u8]>,
        counters: &mut Counters,
    ) -> io::Result<Written> {
        let input = input.unwrap_or_default();
        match record.segments() {
            [] => return Ok(Written::Done),
            [Segment::Echo(range)] if socket.queued.is_empty() && socket.backlog.is_none() => {
                let bytes = &input[range.start as usize..range.end as usize];
                record.discard_segments();
                return self.send_echo(socket, bytes, record.pool(), counters);
            }
            _ => {}
        }
        let mut has_echo = false;
        for segment in record.take_segments() {
            has_echo |= matches!(segment, Segment::Echo(_));
            self.outbox.push(&mut socket.queued, segment);
        }
        if has_echo { self.transmit(socket, record, input, counters) } else { Ok(Written::Queued) }
    }

    #[inline]
    fn set_reading(&mut self, id: ConnId, socket: &mut Socket, is_on: bool) {
        if is_on && socket.is_readable && !socket.is_listed {
            socket.is_listed = true;
            self.readable.push(id);
        }
    }

    fn discard(&mut self, _: ConnId, socket: &mut Socket, _: &mut BufferPool) {
        socket.queued = Chain::default();
        socket.backlog = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Connection;

    #[test]
    fn an_idle_connection_with_a_full_handler_state_stays_small() {
        // With the table's generation and the wheel's entry: below 256 bytes for a connection.
        let size = size_of::<Connection<[u64; 8], Socket>>();
        assert!(size <= 176, "{size}");
    }
}

//! State of the kernel's side of one simulated ring.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use crate::sim::buffers::Buffers;
use crate::sim::socket::SocketId;
use crate::time::Nanos;
use crate::token::Token;
use crate::uring::address::Address;
use crate::uring::ring::{Completion, Op};

/// A queued entry. A send has the place of its bytes: what an entry points at must stay until it is
/// consumed.
pub(super) struct Entry {
    pub(super) token: Token,
    pub(super) op: Op,
    pub(super) pieces: Pieces,
}

/// Addresses and lengths of the pieces of a send.
pub(super) type Pieces = Vec<(*const u8, usize)>;

/// Operation in progress.
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) token: Token,
    pub(super) work: Work,
    pub(super) cancelled: bool,
    /// Time before which it does not progress.
    pub(super) due: Nanos,
}

pub(super) enum Work {
    Accept {
        listener: usize,
        multishot: bool,
        address: *mut Address,
    },
    Connect {
        socket: SocketId,
        refused: bool,
    },
    Receive {
        socket: SocketId,
        once: bool,
    },
    Send {
        socket: SocketId,
        pieces: Pieces,
        patient: bool,
    },
    Shutdown {
        slot: u32,
        socket: SocketId,
    },
    Poll,
    Watch {
        socket: SocketId,
    },
    /// `done`: the other ring has the socket.
    HandOver {
        slot: u32,
        socket: SocketId,
        to: usize,
        token: Token,
        done: bool,
    },
}

impl Work {
    pub(super) fn socket(&self) -> Option<SocketId> {
        match *self {
            Self::Connect { socket, .. }
            | Self::Receive { socket, .. }
            | Self::Send { socket, .. }
            | Self::Shutdown { socket, .. }
            | Self::Watch { socket }
            | Self::HandOver { socket, .. } => Some(socket),
            Self::Accept { .. } | Self::Poll => None,
        }
    }
}

/// State of one ring.
pub(super) struct Kernel {
    pub(super) queue: VecDeque<Entry>,
    pub(super) queue_size: usize,
    pub(super) completed: VecDeque<Completion>,
    pub(super) completed_size: usize,
    pub(super) overflow: VecDeque<Completion>,
    pub(super) pending: Vec<Pending>,
    /// Table of direct descriptors.
    pub(super) table: Vec<Option<SocketId>>,
    /// Number of descriptors, from the first on, that are chosen on accept.
    pub(super) accepted: usize,
    pub(super) buffers: Buffers,
    /// End of the wait, while the worker waits inside an enter.
    pub(super) waiting: Option<Nanos>,
    /// Descriptor that other rings know the ring by.
    pub(super) descriptor: Option<RawFd>,
    /// True if the eventfd is readable.
    pub(super) woken: bool,
    /// True if the worker ends: it waits alone, cancels and closes everything.
    pub(super) finishing: bool,
    /// True if the ring has been dropped.
    pub(super) gone: bool,
    /// Sends whose completion the engine has not collected.
    pub(super) unreaped: Vec<(Token, Pieces)>,
    /// Sockets that this enter has sent to.
    pub(super) sent_to: Vec<SocketId>,
    /// Late completions of receives of connections that are gone.
    pub(super) stale: Vec<(Nanos, Token)>,
    pub(super) next_id: u64,
    pub(super) failed_in_a_row: u32,
}

impl Kernel {
    pub(super) fn new(queue: usize, completed: usize, buffers: Buffers, accepted: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            queue_size: queue,
            completed: VecDeque::new(),
            completed_size: completed,
            overflow: VecDeque::new(),
            pending: Vec::new(),
            table: Vec::new(),
            accepted,
            buffers,
            waiting: None,
            descriptor: None,
            woken: false,
            finishing: false,
            gone: false,
            unreaped: Vec::new(),
            sent_to: Vec::new(),
            stale: Vec::new(),
            next_id: 0,
            failed_in_a_row: 0,
        }
    }

    pub(super) fn socket(&self, slot: u32) -> Option<SocketId> {
        self.table.get(slot as usize).copied().flatten()
    }

    /// Lowest direct descriptor that is free on accept.
    pub(super) fn free_slot(&self) -> Option<usize> {
        (0..self.accepted).find(|&slot| self.socket(slot as u32).is_none())
    }

    /// Send that has not read a buffer yet, or whose outcome the engine does not know.
    pub(super) fn send_out_of(&self, id: u16) -> Option<Token> {
        let inside =
            |pieces: &Pieces| pieces.iter().any(|&(start, _)| self.buffers.at(start) == Some(id));
        let queued = self.queue.iter().filter(|e| inside(&e.pieces)).map(|e| e.token);
        let late = self.pending.iter().filter_map(|p| match &p.work {
            Work::Send { pieces, .. } if inside(pieces) => Some(p.token),
            _ => None,
        });
        let unreaped =
            self.unreaped.iter().filter(|(_, pieces)| inside(pieces)).map(|(token, _)| *token);
        queued.chain(late).chain(unreaped).next()
    }
}

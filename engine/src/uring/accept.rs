//! Accepting.
//!
//! One multishot accept per listener serves best, but tells no peer address and takes connections as fast as they come, also
//! beyond what the table holds: the kernel would drop those with a bare FIN. Where addresses are wanted, or room gets short,
//! single accepts take its place, never more than there is room for; the rest waits in the listener's queue.

use std::os::fd::AsRawFd;

use rustix::io::Errno;

use crate::config::Config;
use crate::connection::Origin;
use crate::connection::State;
use crate::handler::Handler;
use crate::incoming;
use crate::socket::BACKLOG;
use crate::time::Nanos;
use crate::token::{OpKind, Token};
use crate::uring::Core;
use crate::uring::ring::{Completion, Op, PeerAddress, Ring};

/// Single accepts armed per listener.
const SINGLES: usize = 32;

/// Room in the table below which single accepts take over: what a multishot accept may take in one go is the queue of the
/// listener.
const BURST: usize = BACKLOG as usize;

/// An accept operation, armed or not. Its index is the slot of its token.
struct Acceptor {
    listener: u16,
    multishot: bool,
    armed: bool,
    cancelling: bool,
    /// Written by the kernel; boxed so that it stays in place.
    address: Box<PeerAddress>,
}

/// All accept operations of a worker.
pub(super) struct Acceptors {
    all: Vec<Acceptor>,
    /// Per listener: whether to accept.
    on: Vec<bool>,
    /// Accepted connections in the table.
    open: usize,
    /// There was no room when last looked at.
    full: bool,
    /// Something has changed: look at what should be armed.
    pub(super) check: bool,
    /// When to go on after an error.
    pub(super) retry: Nanos,
}

impl Acceptors {
    pub(super) fn new(config: &Config) -> Self {
        let listeners = 0..config.listeners.len() as u16;
        let acceptor = |listener, multishot| Acceptor {
            listener,
            multishot,
            armed: false,
            cancelling: false,
            address: Box::new(PeerAddress::new()),
        };
        let of_listener =
            |l| std::iter::once(acceptor(l, true)).chain((0..SINGLES).map(move |_| acceptor(l, false)));
        Self {
            all: listeners.clone().flat_map(of_listener).collect(),
            on: listeners.map(|_| true).collect(),
            open: 0,
            full: false,
            check: false,
            retry: Nanos::NEVER,
        }
    }

    pub(super) fn listening(&mut self, listener: u16, on: bool) {
        if let Some(state) = self.on.get_mut(usize::from(listener)) {
            *state = on;
            self.check = true;
        }
    }

    /// An accepted connection has left the table.
    pub(super) fn gone(&mut self) {
        self.open -= 1;
        self.check = true;
    }
}

impl<R: Ring, H: Handler> Core<'_, R, H> {
    /// Arms and cancels accepts so that they fit what is wanted and what there is room for.
    pub(super) fn queue_accepts(&mut self) {
        if !std::mem::take(&mut self.acceptors.check) {
            return;
        }
        let room = self.config.max_accepted.saturating_sub(self.acceptors.open);
        let full = room == 0;
        self.counters.accept_pauses += u64::from(full && !self.acceptors.full);
        self.acceptors.full = full;
        let mut singles = self.acceptors.all.iter().filter(|a| a.armed && !a.multishot).count();
        // Of the listener that is being looked at: its multishot accept comes first in the list.
        let mut multishot_armed = false;
        for index in 0..self.acceptors.all.len() {
            let a = &self.acceptors.all[index];
            let listener = &self.config.listeners[usize::from(a.listener)];
            let on = self.acceptors.on[usize::from(a.listener)] && self.acceptors.retry == Nanos::NEVER;
            let in_bursts = !listener.peer_addresses && room > BURST;
            let wanted = if a.multishot {
                multishot_armed = a.armed;
                in_bursts
            } else {
                !in_bursts && !multishot_armed && (a.armed || singles < room)
            };
            if on && wanted && !a.armed {
                singles += usize::from(!a.multishot);
                self.arm_accept(index);
            } else if !(on && wanted) && a.armed && !a.cancelling {
                self.cancel_accept(index);
            }
        }
    }

    fn arm_accept(&mut self, index: usize) {
        let a = &mut self.acceptors.all[index];
        a.armed = true;
        let listener = self.config.listeners[usize::from(a.listener)].socket.as_raw_fd();
        // The address is boxed and its box is dropped only with the worker, after all operations have ended.
        let op = Op::Accept { listener, multishot: a.multishot, address: &raw mut *a.address };
        self.push(Token::new(OpKind::Accept, index as u32, 0), op);
    }

    fn cancel_accept(&mut self, index: usize) {
        self.acceptors.all[index].cancelling = true;
        let target = Token::new(OpKind::Accept, index as u32, 0);
        self.push(Token::new(OpKind::Cancel, index as u32, 0), Op::Cancel { target });
    }

    pub(super) fn on_accept(&mut self, handler: &mut H, c: Completion) {
        let Some(a) = self.acceptors.all.get_mut(c.token.slot() as usize) else { return };
        if !c.more {
            (a.armed, a.cancelling) = (false, false);
            self.acceptors.check = true;
        }
        if c.result >= 0 {
            let peer = if a.multishot { None } else { a.address.take() };
            let from = Origin::Accepted { listener: a.listener, peer };
            self.accepted(handler, c.result.cast_unsigned(), from);
        } else {
            self.on_accept_error(-c.result);
        }
    }

    fn accepted(&mut self, handler: &mut H, slot: u32, from: Origin) {
        self.counters.accepted += 1;
        self.acceptors.open += 1;
        if self.config.max_accepted.saturating_sub(self.acceptors.open) <= BURST {
            self.acceptors.check = true;
        }
        self.make_room(slot);
        debug_assert!(
            self.slots[slot as usize].state == State::Closed,
            "the kernel chose a slot that is in use"
        );
        self.open_connection(handler, slot, from);
    }

    fn on_accept_error(&mut self, errno: i32) {
        match errno {
            // Cancelled by us.
            libc::ECANCELED | libc::EAGAIN => {}
            errno if incoming::is_passing(Errno::from_raw_os_error(errno)) => {}
            errno => {
                self.counters.accept_pauses += 1;
                self.acceptors.retry = self.now + incoming::RETRY;
                let error = std::io::Error::from_raw_os_error(errno);
                tracing::warn!(%error, "accepting pauses for a moment");
            }
        }
    }
}

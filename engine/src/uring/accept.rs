//! Accepting.
//!
//! One multishot accept per listener is cheapest. But it reports no peer address, and it also
//! accepts connections for which the table has no slot. The kernel would close those with a bare
//! FIN. If addresses are wanted, or few slots are free, single accepts replace it, never more than
//! there are free slots. The other connections wait in the listener's queue.

use std::os::fd::AsRawFd;

use rustix::io::Errno;

use crate::accounting::Counters;
use crate::config::Config;
use crate::connection::Origin;
use crate::incoming;
use crate::socket::BACKLOG;
use crate::time::Nanos;
use crate::token::{OpKind, Token};
use crate::uring::address::Address;
use crate::uring::queues::Queues;
use crate::uring::ring::{Completion, Op, Ring};

/// Single accepts armed per listener.
const SINGLES: usize = 32;

/// Room in the table below which single accepts take over: a multishot accept may take a listener's
/// whole queue at once.
const BURST: usize = BACKLOG as usize;

const _: () = assert!(
    SINGLES < BURST,
    "single accepts never take more than the room that they are armed for"
);

/// An accept operation, armed or not. Its index is the slot of its token.
struct Acceptor {
    listener: u16,
    multishot: bool,
    armed: bool,
    cancelling: bool,
    /// Peer address of a single accept, written by the kernel; boxed so that it stays in place.
    address: Box<Address>,
}

/// All accept operations of a worker.
pub(super) struct Acceptors<'c> {
    config: &'c Config,
    all: Vec<Acceptor>,
    /// True if each listener is to accept.
    on: Vec<bool>,
    /// Accepted connections in the table.
    open: usize,
    /// True if there was no room at the last check.
    full: bool,
    /// True if something has changed that decides which accepts are armed.
    check: bool,
    /// Time at which accepting continues after an error.
    retry: Nanos,
}

impl<'c> Acceptors<'c> {
    /// Acceptors of every listener, none of them armed.
    pub(super) fn new(config: &'c Config) -> Self {
        let listeners = 0..config.listeners.len() as u16;
        let acceptor = |listener, multishot| Acceptor {
            listener,
            multishot,
            armed: false,
            cancelling: false,
            address: Box::new(Address::unset()),
        };
        let of_listener = |l| {
            std::iter::once(acceptor(l, true)).chain((0..SINGLES).map(move |_| acceptor(l, false)))
        };
        Self {
            config,
            all: listeners.clone().flat_map(of_listener).collect(),
            on: listeners.map(|_| true).collect(),
            open: 0,
            full: false,
            check: true,
            retry: Nanos::NEVER,
        }
    }

    /// Starts or stops accepting at a listener.
    pub(super) fn listening(&mut self, listener: u16, on: bool) {
        if let Some(state) = self.on.get_mut(usize::from(listener)) {
            *state = on;
            self.check = true;
        }
    }

    /// Records that an accepted connection has left the table.
    pub(super) fn left(&mut self) {
        self.open -= 1;
        self.check = true;
    }

    /// Time at which accepting continues after an error.
    pub(super) fn retry(&self) -> Nanos {
        self.retry
    }

    /// Continues after an error whose time has passed.
    pub(super) fn retry_if_due(&mut self, now: Nanos) {
        if self.retry <= now {
            self.retry = Nanos::NEVER;
            self.check = true;
        }
    }

    /// Arms and cancels accepts by what is wanted and what there is room for.
    pub(super) fn arm<R: Ring>(&mut self, queues: &mut Queues<R>, counters: &mut Counters) {
        if !std::mem::take(&mut self.check) {
            return;
        }
        let room = self.config.max_accepted.saturating_sub(self.open);
        let full = room == 0;
        counters.accept_pauses += u64::from(full && !self.full);
        self.full = full;
        let mut singles = self.all.iter().filter(|a| a.armed && !a.multishot).count();
        // Of the current listener: its multishot accept comes first in the list.
        let mut multishot_armed = false;
        for (index, a) in (0..).zip(&mut self.all) {
            let listener = &self.config.listeners[usize::from(a.listener)];
            let on = self.on[usize::from(a.listener)] && self.retry == Nanos::NEVER;
            let in_bursts = !listener.peer_addresses && room > BURST;
            let wanted = if a.multishot {
                multishot_armed = a.armed;
                in_bursts
            } else {
                !in_bursts && !multishot_armed && (a.armed || singles < room)
            };
            let token = Token::new(OpKind::Accept, index, 0);
            if on && wanted && !a.armed {
                singles += usize::from(!a.multishot);
                a.armed = true;
                let listener = listener.socket.as_raw_fd();
                // The box of the address is dropped only with the worker, after all operations have
                // ended.
                let op =
                    Op::Accept { listener, multishot: a.multishot, address: &raw mut *a.address };
                queues.push(token, op);
            } else if !(on && wanted) && a.armed && !a.cancelling {
                a.cancelling = true;
                queues.push(Token::new(OpKind::Cancel, index, 0), Op::Cancel { target: token });
            }
        }
    }

    /// Handles the completion of an accept. Returns the slot and the origin of an accepted
    /// connection.
    pub(super) fn on_accept(
        &mut self,
        c: Completion,
        now: Nanos,
        counters: &mut Counters,
    ) -> Option<(u32, Origin)> {
        let a = self.all.get_mut(c.token.slot() as usize)?;
        if !c.more {
            (a.armed, a.cancelling) = (false, false);
            self.check = true;
        }
        if c.result < 0 {
            self.on_error(-c.result, now, counters);
            return None;
        }
        let peer = if a.multishot { None } else { a.address.take() };
        let origin = Origin::Accepted { listener: a.listener, peer };
        counters.accepted += 1;
        self.open += 1;
        if self.config.max_accepted.saturating_sub(self.open) <= BURST {
            self.check = true;
        }
        Some((c.result.cast_unsigned(), origin))
    }

    fn on_error(&mut self, errno: i32, now: Nanos, counters: &mut Counters) {
        // Cancelled, or an error of one connection.
        let passes = matches!(errno, libc::ECANCELED | libc::EAGAIN)
            || incoming::is_passing(Errno::from_raw_os_error(errno));
        if !passes {
            counters.accept_pauses += 1;
            self.retry = now + incoming::RETRY;
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::warn!(%error, "accepting pauses for a moment");
        }
    }
}

//! Accepting.
//!
//! One multishot accept per listener is cheapest. It reports no peer address; where one is wanted,
//! an operation of its own asks for it. It also accepts connections for which the table has no
//! slot. The kernel would close those with a bare FIN. So if few slots are free, or the kernel
//! cannot be asked for addresses, single accepts replace it, never more than there are free slots.
//! The other connections wait in the listener's queue.
//!
//! Workers that [spread](crate::spread()) their connections hand some of them over: the kernel puts
//! the socket into the other ring, and then closes the descriptor in this one.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use crate::accounting::Counters;
use crate::config::{Config, Listener};
use crate::connection::Origin;
use crate::incoming;
use crate::socket::BACKLOG;
use crate::spread::Membership;
use crate::time::Nanos;
use crate::token::{OpKind, Token};
use crate::uring::address::Address;
use crate::uring::queues::Queues;
use crate::uring::ring::{Completion, Op, Ring};
use crate::uring::slots::{Flags, Slot};

/// Single accepts armed per listener.
const SINGLES: usize = 32;

/// Room for each listener below which a worker gets no connections of others. Its single accepts
/// find a free descriptor then, also beside connections that are about to leave it.
pub(super) const ROOM_FOR_ACCEPTS: usize = 2 * SINGLES;

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

/// Question for the address of an accepted connection's peer.
struct Naming {
    slot: u32,
    listener: u16,
    /// Where the kernel writes the address; boxed so that it stays in place.
    address: Box<Address>,
}

/// An accepted connection.
pub(super) enum Accepted {
    /// It can be opened.
    Known(Origin),
    /// The address of its peer is to be asked for first.
    Unnamed { listener: u16 },
    /// Another worker is to have it.
    Elsewhere { listener: u16, worker: usize, ring: Arc<OwnedFd> },
}

/// A connection that is being handed over.
struct HandOver {
    slot: u32,
    listener: u16,
    worker: usize,
    /// Keeps the ring of the other worker open until the kernel is done with it.
    _ring: Arc<OwnedFd>,
}

/// All accept operations of a worker.
pub(super) struct Acceptors<'c> {
    config: &'c Config,
    all: Vec<Acceptor>,
    /// True if the kernel can be asked for the address of a connection's peer.
    names_peers: bool,
    /// Accepted connections whose peers are being asked for, in the order of the questions.
    naming: VecDeque<Naming>,
    /// Number of those, from the front, that the kernel has answered.
    answered: usize,
    /// Addresses for further questions.
    #[expect(clippy::vec_box, reason = "a question takes the box: its address stays in place")]
    spare: Vec<Box<Address>>,
    /// The worker's place among those that spread their connections evenly.
    spread: Option<Membership>,
    /// Connections that are being handed over to other workers.
    handing_over: Vec<HandOver>,
    /// Length of an address of each listener's family.
    address_lens: Vec<u32>,
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

/// Length of an address of a listener's family.
fn address_len(listener: &Listener) -> u32 {
    let local = listener.socket.local_addr();
    Address::len_of(local.unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into()))
}

impl<'c> Acceptors<'c> {
    /// Acceptors of every listener, none of them armed. `names_peers`: the kernel can be asked for
    /// the address of a connection's peer. `spread`: the worker's place among others.
    pub(super) fn new(config: &'c Config, names_peers: bool, spread: Option<Membership>) -> Self {
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
            names_peers,
            naming: VecDeque::new(),
            answered: 0,
            spare: Vec::new(),
            spread,
            handing_over: Vec::new(),
            all: listeners.clone().flat_map(of_listener).collect(),
            address_lens: config.listeners.iter().map(address_len).collect(),
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
        if let Some(spread) = &self.spread {
            spread.set_accepting(listener, on);
        }
    }

    /// Records that an accepted connection has left the table. `is_own`: it was counted for this
    /// worker.
    pub(super) fn left(&mut self, is_own: bool) {
        self.open -= 1;
        self.check = true;
        if let Some(spread) = self.spread.as_ref().filter(|_| is_own) {
            spread.count_end();
        }
    }

    /// Records that the worker ends: others hand nothing over any more.
    pub(super) fn leave(&self) {
        if let Some(spread) = &self.spread {
            spread.leave();
        }
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
            let in_bursts = (self.names_peers || !listener.peer_addresses) && room > BURST;
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

    /// Handles the completion of an accept. Returns the slot of an accepted connection.
    pub(super) fn on_accept(
        &mut self,
        c: Completion,
        now: Nanos,
        counters: &mut Counters,
    ) -> Option<(u32, Accepted)> {
        let a = self.all.get_mut(c.token.slot() as usize)?;
        if !c.more {
            (a.armed, a.cancelling) = (false, false);
            self.check = true;
        }
        if c.result < 0 {
            self.on_error(-c.result, now, counters);
            return None;
        }
        let listener = a.listener;
        let peer = if a.multishot { None } else { a.address.take() };
        let elsewhere = self.spread.as_ref().and_then(|spread| spread.place_in_ring(listener));
        let accepted = match elsewhere {
            Some((worker, ring)) => Accepted::Elsewhere { listener, worker, ring },
            None if peer.is_some() => Accepted::Known(Origin::Accepted { listener, peer }),
            None => self.without_peer(listener),
        };
        self.count_opened();
        Some((c.result.cast_unsigned(), accepted))
    }

    /// Records a connection that another worker has handed over.
    pub(super) fn take_over(&mut self, listener: u16) -> Accepted {
        self.count_opened();
        self.without_peer(listener)
    }

    /// An accepted connection of which nothing is known.
    fn without_peer(&self, listener: u16) -> Accepted {
        if self.config.listeners[usize::from(listener)].peer_addresses {
            Accepted::Unnamed { listener }
        } else {
            Accepted::Known(Origin::Accepted { listener, peer: None })
        }
    }

    /// Counts a connection that has come into the table.
    fn count_opened(&mut self) {
        self.open += 1;
        if self.config.max_accepted.saturating_sub(self.open) <= BURST {
            self.check = true;
        }
    }

    /// Hands an accepted connection over to the worker of `ring`.
    pub(super) fn hand_over<C, R: Ring>(
        &mut self,
        slot: u32,
        s: &mut Slot<C>,
        (listener, worker, ring): (u16, usize, Arc<OwnedFd>),
        queues: &mut Queues<R>,
    ) {
        let token = Token::new(OpKind::TakeOver, u32::from(listener), 0);
        let op = Op::HandOver { slot, to: ring.as_raw_fd(), token };
        s.flags.set(Flags::HANDED_OVER);
        self.handing_over.push(HandOver { slot, listener, worker, _ring: ring });
        queues.push(s.token(OpKind::HandOver, slot), op);
    }

    /// Handles the outcome of handing a connection over. Returns it if the other worker could not
    /// take it: then it is counted here.
    pub(super) fn on_hand_over(&mut self, c: Completion) -> Option<Accepted> {
        let at = self.handing_over.iter().position(|h| h.slot == c.token.slot())?;
        let HandOver { listener, worker, .. } = self.handing_over.swap_remove(at);
        if c.result >= 0 {
            return None;
        }
        if let Some(spread) = &self.spread {
            spread.keep(worker);
        }
        Some(self.without_peer(listener))
    }

    /// Asks for the address of the peer of an accepted connection. The question is answered by the
    /// enter that submits it, before the connection's first receive.
    pub(super) fn ask_peer<C, R: Ring>(
        &mut self,
        slot: u32,
        s: &mut Slot<C>,
        listener: u16,
        queues: &mut Queues<R>,
    ) {
        let mut address = self.spare.pop().unwrap_or_else(|| Box::new(Address::unset()));
        let op = Op::PeerAddress {
            slot,
            address: &raw mut *address,
            len: self.address_lens[usize::from(listener)],
        };
        s.flags.set(Flags::NAMING);
        // The box of the address is kept until the answer.
        self.naming.push_back(Naming { slot, listener, address });
        queues.push(s.token(OpKind::PeerAddress, slot), op);
    }

    /// Records that the kernel has answered the question for a connection's peer. One that it could
    /// not answer leaves the address unset.
    pub(super) fn peer_answered(&mut self, slot: u32) {
        // Answers come in the order of the questions, so the first one is meant.
        let mut open = self.naming.range(self.answered..);
        if let Some(place) = open.position(|naming| naming.slot == slot) {
            self.naming.swap(self.answered, self.answered + place);
            self.answered += 1;
        }
    }

    /// Returns the origin of a connection whose peer was asked for. Without an answer it has no
    /// address, and the question stays until there is one.
    pub(super) fn named(&mut self, slot: u32) -> Option<Origin> {
        let at = self.naming.iter().position(|naming| naming.slot == slot)?;
        let (listener, answered) = (self.naming[at].listener, at < self.answered);
        debug_assert!(answered, "a question is answered by the enter that submits it");
        self.answered -= usize::from(answered);
        let answer = if answered { self.naming.remove(at) } else { None };
        let peer = answer.and_then(|Naming { mut address, .. }| {
            let peer = address.take();
            if self.spare.len() < SINGLES {
                self.spare.push(address);
            }
            peer
        });
        Some(Origin::Accepted { listener, peer })
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

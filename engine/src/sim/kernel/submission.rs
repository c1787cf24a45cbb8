//! Consumption of entries by an enter.

use std::os::fd::RawFd;

use super::pieces_of;
use crate::sim::kernel_state::{Entry, Pending, Pieces, Work};
use crate::sim::socket::SocketId;
use crate::sim::world::World;
use crate::time::Nanos;
use crate::token::{OpKind, Token};
use crate::uring::address::Address;
use crate::uring::ring::{Op, SendMode};

impl World {
    pub(super) fn issue(&mut self, ring: usize, entry: Entry) {
        let Entry { token, op, pieces } = entry;
        // SAFETY: the header of an entry lives until it is consumed, which is now.
        if unsafe { pieces_of(op) } != pieces {
            self.violate(format!("the header of {token:?} changed before it was consumed"));
        }
        match op {
            Op::Accept { listener, multishot, address } => {
                self.issue_accept(ring, token, listener, multishot, address);
            }
            Op::PeerAddress { slot, address, .. } => {
                self.with_socket(ring, token, slot, |world, socket| {
                    let from = world.peer_address(socket);
                    if let Some(from) = from {
                        // SAFETY: the caller of `push` keeps the address in place until the
                        // completion is collected.
                        unsafe { address.write(Address::of(from)) };
                    }
                    world.post(ring, token, if from.is_some() { 0 } else { -libc::ENOTCONN });
                });
            }
            Op::HandOver { slot, to, token: arrival } => {
                self.with_socket(ring, token, slot, |world, socket| {
                    let to = world.rings.iter().position(|r| r.descriptor == Some(to));
                    match to.filter(|&to| to != ring) {
                        Some(to) => {
                            let due = Nanos(world.clock.0 + world.random.below(50_000) as u64);
                            let work =
                                Work::HandOver { slot, socket, to, token: arrival, done: false };
                            world.begin(ring, token, work, due);
                        }
                        None => world.post(ring, token, -libc::EBADFD),
                    }
                });
            }
            Op::Connect { slot, .. } => self.issue_connect(ring, token, slot),
            Op::Receive { slot, once } => self.with_socket(ring, token, slot, |world, socket| {
                let now = world.random.chance(700);
                world.start(ring, token, Work::Receive { socket, once }, now);
            }),
            Op::Send { slot, mode, .. } | Op::SendMessage { slot, mode, .. } => {
                self.with_socket(ring, token, slot, |w, socket| {
                    w.issue_send(ring, token, socket, pieces, mode);
                });
            }
            Op::Shutdown { slot } => self.with_socket(ring, token, slot, |world, socket| {
                let due = Nanos(world.clock.0 + world.random.below(100_000) as u64);
                world.begin(ring, token, Work::Shutdown { slot, socket }, due);
            }),
            Op::Cancel { target } => self.cancel(ring, token, target),
            Op::CancelAll => {
                // The kernel cannot cancel what another worker's thread does.
                let all = self.rings[ring].pending.iter_mut();
                all.filter(|p| !matches!(p.work, Work::HandOver { .. }))
                    .for_each(|p| p.cancelled = true);
                self.post(ring, token, 0);
            }
            Op::Close { slot } => self.close(ring, token, slot),
            Op::Poll { .. } => self.start(ring, token, Work::Poll, true),
            Op::Watch { slot } => self.with_socket(ring, token, slot, |world, socket| {
                world.start(ring, token, Work::Watch { socket }, true);
            }),
        }
    }

    /// Looks a descriptor up.
    fn with_socket(
        &mut self,
        ring: usize,
        token: Token,
        slot: u32,
        f: impl FnOnce(&mut Self, SocketId),
    ) {
        match self.rings[ring].socket(slot) {
            Some(socket) => f(self, socket),
            None => {
                self.violate(format!("{token:?} on slot {slot}, which is closed"));
                self.post(ring, token, -libc::EBADF);
            }
        }
    }

    /// Starts an operation. With `now` it is tried at once.
    fn start(&mut self, ring: usize, token: Token, work: Work, now: bool) {
        let id = self.begin(ring, token, work, self.clock);
        if now && self.rings[ring].pending.last().is_some_and(|p| self.is_ready(ring, p)) {
            self.run(ring, id);
        }
    }

    fn begin(&mut self, ring: usize, token: Token, work: Work, due: Nanos) -> u64 {
        let kernel = &mut self.rings[ring];
        kernel.next_id += 1;
        kernel.pending.push(Pending { id: kernel.next_id, token, work, cancelled: false, due });
        kernel.next_id
    }

    fn issue_accept(
        &mut self,
        ring: usize,
        token: Token,
        fd: RawFd,
        multishot: bool,
        address: *mut Address,
    ) {
        match self.listeners.iter().position(|l| l.fd == fd) {
            Some(listener) => {
                self.start(ring, token, Work::Accept { listener, multishot, address }, true);
            }
            None => self.post(ring, token, -libc::ENOTSOCK),
        }
    }

    fn issue_connect(&mut self, ring: usize, token: Token, slot: u32) {
        self.with_socket(ring, token, slot, |world, socket| {
            let wrong = world.random.chance(world.faults.connect_errors);
            world.happened.connect_errors += u64::from(wrong);
            let refused = wrong && world.random.chance(500);
            let answer = Nanos(world.clock.0 + world.random.below(500_000) as u64);
            let due = if wrong && !refused { Nanos::NEVER } else { answer };
            world.begin(ring, token, Work::Connect { socket, refused }, due);
        });
    }

    fn issue_send(
        &mut self,
        ring: usize,
        token: Token,
        socket: SocketId,
        pieces: Pieces,
        mode: SendMode,
    ) {
        let kernel = &self.rings[ring];
        let under_way = |p: &Pending| matches!(p.work, Work::Send { socket: s, .. } if s == socket);
        let unknown = kernel.unreaped.iter().any(|(t, _)| t.slot() == token.slot());
        if kernel.sent_to.contains(&socket) || unknown || kernel.pending.iter().any(under_way) {
            self.violate(format!("two sends in flight on one socket: {token:?}"));
        }
        self.rings[ring].sent_to.push(socket);
        match mode {
            SendMode::Silent => {
                let wanted = pieces.iter().map(|p| p.1).sum::<usize>() as i32;
                let result = self.send(ring, token, socket, &pieces, mode);
                if result != wanted {
                    self.rings[ring].unreaped.push((token, pieces));
                    self.post(ring, token, result);
                }
            }
            SendMode::Prompt if self.faults.late_sends && self.random.chance(500) => {
                self.happened.late_sends += 1;
                let due = Nanos(self.clock.0 + self.random.below(200_000) as u64);
                self.begin(ring, token, Work::Send { socket, pieces, patient: false }, due);
            }
            SendMode::Prompt => {
                let result = self.send(ring, token, socket, &pieces, mode);
                self.rings[ring].unreaped.push((token, pieces));
                self.post(ring, token, result);
            }
            SendMode::Patient => {
                let now = self.random.chance(700);
                self.start(ring, token, Work::Send { socket, pieces, patient: true }, now);
            }
        }
    }

    fn cancel(&mut self, ring: usize, token: Token, target: Token) {
        let wanted = |p: &&mut Pending| p.token == target && !p.cancelled;
        self.happen_before_cancel(ring, target);
        let result = match self.rings[ring].pending.iter_mut().find(wanted) {
            Some(pending) => {
                pending.cancelled = true;
                0
            }
            None => -libc::ENOENT,
        };
        self.post(ring, token, result);
    }

    /// Lets an operation progress just before its cancellation, as the seed decides.
    fn happen_before_cancel(&mut self, ring: usize, target: Token) {
        let found = self.rings[ring].pending.iter_mut().find(|p| p.token == target && !p.cancelled);
        let Some(pending) = found.filter(|_| self.random.chance(300)) else { return };
        if matches!(pending.work, Work::Connect { .. }) {
            pending.due = self.clock;
        }
        let id = pending.id;
        if self.rings[ring].pending.iter().any(|p| p.id == id && self.is_ready(ring, p)) {
            self.run(ring, id);
        }
    }

    fn close(&mut self, ring: usize, token: Token, slot: u32) {
        let finishing = self.rings[ring].finishing;
        let Some(socket) = self.rings[ring].socket(slot) else {
            if !finishing {
                self.violate(format!("slot {slot} was closed twice"));
            }
            return self.post(ring, token, -libc::EBADF);
        };
        let under_way = self.rings[ring].pending.iter().find(|p| p.work.socket() == Some(socket));
        if let Some(pending) = under_way.filter(|_| !finishing) {
            let what = format!("slot {slot} was closed while {:?} was under way", pending.token);
            self.violate(what);
        }
        self.rings[ring].table[slot as usize] = None;
        self.release(socket);
        if !finishing && self.random.chance(self.faults.stale) {
            let due = Nanos(self.clock.0 + self.random.below(2_000_000) as u64);
            let receive = Token::new(OpKind::Receive, slot, token.generation());
            self.rings[ring].stale.push((due, receive));
        }
        self.post(ring, token, 0);
    }
}

//! The simulated kernel's side of one ring: what an enter consumes, what is under way, what is completed.
//!
//! It keeps to what the real one guarantees (completions of one receive in their order, a completion queue that is full sends
//! everything after it to the overflow list and ends multishot operations, a send that does not wait finishes inside the enter)
//! and to nothing more: everything else is the seed's choice. And it looks where the real one would not.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io;
use std::os::fd::RawFd;

use crate::sim::buffers::Buffers;
use crate::sim::network::SocketId;
use crate::sim::world::World;
use crate::time::Nanos;
use crate::token::{OpKind, Token};
use crate::uring::ring::{Completion, Op, PeerAddress, SendMode, TargetAddress, Wait};

/// A queued entry. Of a send, where its bytes lie: what an entry points at must stay until it is consumed.
pub(super) struct Entry {
    token: Token,
    op: Op,
    pieces: Pieces,
}

/// Addresses and lengths of the pieces of a send.
type Pieces = Vec<(*const u8, usize)>;

/// An operation under way.
pub(super) struct Pending {
    id: u64,
    token: Token,
    work: Work,
    cancelled: bool,
    /// Nothing happens with it before.
    due: Nanos,
}

enum Work {
    Accept { listener: usize, multishot: bool, address: *mut PeerAddress },
    Connect { socket: SocketId, refused: bool },
    Receive { socket: SocketId },
    Send { socket: SocketId, pieces: Pieces, patient: bool },
    Shutdown { slot: u32, socket: SocketId },
    Poll,
}

impl Work {
    fn socket(&self) -> Option<SocketId> {
        match *self {
            Self::Connect { socket, .. }
            | Self::Receive { socket }
            | Self::Send { socket, .. }
            | Self::Shutdown { socket, .. } => Some(socket),
            Self::Accept { .. } | Self::Poll => None,
        }
    }
}

/// The state of one ring.
pub(super) struct Kernel {
    pub(super) queue: VecDeque<Entry>,
    pub(super) queue_size: usize,
    pub(super) completed: VecDeque<Completion>,
    completed_size: usize,
    pub(super) overflow: VecDeque<Completion>,
    pub(super) pending: Vec<Pending>,
    /// Direct descriptors.
    table: Vec<Option<SocketId>>,
    /// The first so many are chosen on accept.
    accepted: usize,
    pub(super) buffers: Buffers,
    /// Inside an enter that waits, until this point.
    pub(super) waiting: Option<Nanos>,
    /// The eventfd is readable.
    pub(super) woken: bool,
    /// The worker ends: it waits by itself, and cancels and closes all at once.
    pub(super) finishing: bool,
    /// The ring has been dropped.
    pub(super) gone: bool,
    /// Sends whose completion the engine has not taken in.
    unreaped: Vec<(Token, Pieces)>,
    /// Sockets that this enter has sent to.
    sent_to: Vec<SocketId>,
    /// Late completions of receives whose connections are gone.
    stale: Vec<(Nanos, Token)>,
    next_id: u64,
    failed_in_a_row: u32,
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

    fn socket(&self, slot: u32) -> Option<SocketId> {
        self.table.get(slot as usize).copied().flatten()
    }

    /// A send that has yet to read a buffer, or whose outcome the engine does not know.
    fn send_out_of(&self, id: u16) -> Option<Token> {
        let inside = |pieces: &Pieces| pieces.iter().any(|&(start, _)| self.buffers.at(start) == Some(id));
        let queued = self.queue.iter().filter(|e| inside(&e.pieces)).map(|e| e.token);
        let late = self.pending.iter().filter_map(|p| match &p.work {
            Work::Send { pieces, .. } if inside(pieces) => Some(p.token),
            _ => None,
        });
        let unreaped = self.unreaped.iter().filter(|(_, pieces)| inside(pieces)).map(|(token, _)| *token);
        queued.chain(late).chain(unreaped).next()
    }
}

/// The pieces of a send.
///
/// # Safety
///
/// A message header that `op` points at is valid.
unsafe fn pieces_of(op: Op) -> Pieces {
    match op {
        Op::Send { bytes, len, .. } => vec![(bytes, len as usize)],
        Op::SendMessage { message, .. } => {
            // SAFETY: as the caller says; the header's vector is as long as it tells.
            let pieces = unsafe { std::slice::from_raw_parts((*message).msg_iov, (*message).msg_iovlen) };
            pieces.iter().map(|p| (p.iov_base.cast_const().cast(), p.iov_len)).collect()
        }
        _ => Vec::new(),
    }
}

impl World {
    // ---- the calls of a ring

    /// # Safety
    ///
    /// Of [`Ring::push`](crate::uring::ring::Ring::push).
    pub(super) unsafe fn push(&mut self, ring: usize, token: Token, op: Op) -> bool {
        // SAFETY: what `op` points at is valid from now on.
        let pieces = unsafe { pieces_of(op) };
        let kernel = &mut self.rings[ring];
        let room = kernel.queue.len() < kernel.queue_size;
        if room {
            kernel.queue.push_back(Entry { token, op, pieces });
        }
        room
    }

    pub(super) fn enter(&mut self, ring: usize, wait: Wait) -> io::Result<()> {
        self.fail_enter(ring)?;
        let queued = self.rings[ring].queue.len();
        let short = !self.rings[ring].finishing && self.random.chance(self.faults.short_submits);
        let consumed = if short { self.random.below(queued + 1) } else { queued };
        self.happened.short_submits += u64::from(consumed < queued);
        self.rings[ring].sent_to.clear();
        for _ in 0..consumed {
            if let Some(entry) = self.rings[ring].queue.pop_front() {
                self.issue(ring, entry);
            }
        }
        if !(wait == Wait::No && self.random.chance(self.faults.lazy_enters)) {
            self.run_some(ring);
        }
        self.flush(ring);
        if let Wait::Until(until) = wait
            && consumed == queued
            && self.rings[ring].completed.is_empty()
            && until > self.clock
        {
            if self.rings[ring].finishing {
                self.wait_inside(ring, until);
            } else {
                self.rings[ring].waiting = Some(until);
            }
        }
        Ok(())
    }

    fn fail_enter(&mut self, ring: usize) -> io::Result<()> {
        let kernel = &mut self.rings[ring];
        kernel.failed_in_a_row += 1;
        if kernel.finishing || kernel.failed_in_a_row > 3 || !self.random.chance(self.faults.failed_enters) {
            self.rings[ring].failed_in_a_row = 0;
            return Ok(());
        }
        self.happened.failed_enters += 1;
        let errno = self.random.pick(&[libc::EINTR, libc::EAGAIN, libc::EBUSY]);
        Err(io::Error::from_raw_os_error(errno))
    }

    /// The end of a worker: it waits inside the call, and the world goes on around it.
    fn wait_inside(&mut self, ring: usize, until: Nanos) {
        let mut movable = Vec::new();
        while self.rings[ring].completed.is_empty() && self.clock < until {
            self.movable(&mut movable);
            if self.can_go_on(ring) {
                self.run_some(ring);
                self.flush(ring);
            } else if movable.is_empty() {
                let next = self.next_event(ring).into_iter().chain(self.next_move()).min();
                self.clock = next.unwrap_or(until).min(until).max(Nanos(self.clock.0 + 1));
            } else {
                let id = self.random.pick(&movable);
                self.carry(id);
                self.clock.0 += 1000;
            }
        }
    }

    /// A worker that waits inside an enter comes out of it.
    pub(super) fn leave_enter(&mut self, ring: usize) {
        self.rings[ring].waiting = None;
        self.run_some(ring);
        self.flush(ring);
    }

    /// Whether a waiting worker has reason to come out.
    pub(super) fn wakes(&self, ring: usize) -> bool {
        let kernel = &self.rings[ring];
        let Some(until) = kernel.waiting else { return true };
        !kernel.completed.is_empty() || self.clock >= until || self.can_go_on(ring)
    }

    fn can_go_on(&self, ring: usize) -> bool {
        let kernel = &self.rings[ring];
        !kernel.overflow.is_empty()
            || kernel.stale.iter().any(|(due, _)| *due <= self.clock)
            || kernel.pending.iter().any(|p| self.is_ready(ring, p))
    }

    /// When something can go on that cannot now, by the passing of time.
    pub(super) fn next_event(&self, ring: usize) -> Option<Nanos> {
        let kernel = &self.rings[ring];
        let pending = kernel.pending.iter().map(|p| p.due);
        let stale = kernel.stale.iter().map(|(due, _)| *due);
        pending
            .chain(stale)
            .chain(kernel.waiting)
            .filter(|due| *due > self.clock && *due < Nanos::NEVER)
            .min()
    }

    pub(super) fn completion(&mut self, ring: usize) -> Option<Completion> {
        let kernel = &mut self.rings[ring];
        let completion = kernel.completed.pop_front()?;
        if let Some(at) = kernel.unreaped.iter().position(|(token, _)| *token == completion.token) {
            kernel.unreaped.remove(at);
        }
        Some(completion)
    }

    pub(super) fn give_back(&mut self, ring: usize, id: u16) {
        let kernel = &mut self.rings[ring];
        if let Some(token) = kernel.send_out_of(id)
            && !kernel.finishing
        {
            return self
                .violate(format!("buffer {id} was given back before the send {token:?} out of it ended"));
        }
        if !self.rings[ring].buffers.give_back(id) {
            self.violate(format!("buffer {id} was given back twice"));
        }
    }

    pub(super) fn make_socket(&mut self, ring: usize, slot: u32, socket: SocketId) {
        self.put(ring, slot as usize, socket);
    }

    fn put(&mut self, ring: usize, slot: usize, socket: SocketId) {
        let table = &mut self.rings[ring].table;
        if table.len() <= slot {
            table.resize(slot + 1, None);
        }
        if table[slot].replace(socket).is_some() {
            self.violate(format!("slot {slot} was used again before its descriptor was closed"));
        }
    }

    // ---- submission

    fn issue(&mut self, ring: usize, entry: Entry) {
        let Entry { token, op, pieces } = entry;
        // SAFETY: the header of an entry lives until it is consumed, which is now.
        if unsafe { pieces_of(op) } != pieces {
            self.violate(format!("the header of {token:?} changed before it was consumed"));
        }
        match op {
            Op::Accept { listener, multishot, address } => {
                self.issue_accept(ring, token, listener, multishot, address);
            }
            Op::Connect { slot, .. } => self.issue_connect(ring, token, slot),
            Op::Receive { slot } => self.with_socket(ring, token, slot, |world, socket| {
                let now = world.random.chance(700);
                world.start(ring, token, Work::Receive { socket }, now);
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
                self.rings[ring].pending.iter_mut().for_each(|p| p.cancelled = true);
                self.post(ring, token, 0);
            }
            Op::Close { slot } => self.close(ring, token, slot),
            Op::Poll { .. } => self.start(ring, token, Work::Poll, true),
        }
    }

    /// Looks a descriptor up.
    fn with_socket(&mut self, ring: usize, token: Token, slot: u32, f: impl FnOnce(&mut Self, SocketId)) {
        match self.rings[ring].socket(slot) {
            Some(socket) => f(self, socket),
            None => {
                self.violate(format!("{token:?} on slot {slot}, which is closed"));
                self.post(ring, token, -libc::EBADF);
            }
        }
    }

    /// An operation is under way; `now`: it is tried at once.
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
        address: *mut PeerAddress,
    ) {
        match self.listeners.iter().position(|l| l.fd == fd) {
            Some(listener) => self.start(ring, token, Work::Accept { listener, multishot, address }, true),
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

    fn issue_send(&mut self, ring: usize, token: Token, socket: SocketId, pieces: Pieces, mode: SendMode) {
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
        let found = self.rings[ring].pending.iter_mut().find(|p| p.token == target && !p.cancelled);
        let result = match found {
            Some(pending) => {
                pending.cancelled = true;
                0
            }
            None => -libc::ENOENT,
        };
        self.post(ring, token, result);
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
        self.drop_socket(socket);
        if !finishing && self.random.chance(self.faults.stale) {
            let due = Nanos(self.clock.0 + self.random.below(2_000_000) as u64);
            let receive = Token::new(OpKind::Receive, slot, token.generation());
            self.rings[ring].stale.push((due, receive));
        }
        self.post(ring, token, 0);
    }

    // ---- what goes on by itself

    fn is_ready(&self, ring: usize, p: &Pending) -> bool {
        if p.cancelled {
            return true;
        }
        if p.due > self.clock {
            return false;
        }
        match p.work {
            Work::Accept { listener, .. } => !self.listeners[listener].queue.is_empty(),
            Work::Connect { socket, refused } => refused || self.listener_of(socket).is_some(),
            Work::Receive { socket } => self.sockets[socket].readable(),
            Work::Send { socket, patient, .. } => !patient || self.sockets[socket].writable(),
            Work::Shutdown { .. } => true,
            Work::Poll => self.rings[ring].woken,
        }
    }

    /// Carries on some of the operations that can go on, in any order.
    fn run_some(&mut self, ring: usize) {
        self.post_stale(ring);
        let ready = self.rings[ring].pending.iter().filter(|p| self.is_ready(ring, p)).map(|p| p.id);
        let mut ready: Vec<u64> = ready.collect();
        if ready.is_empty() {
            return;
        }
        let most = if self.random.chance(500) { ready.len() } else { self.random.between(1, ready.len()) };
        for n in 0..most {
            let other = self.random.between(n, ready.len() - 1);
            ready.swap(n, other);
            self.run(ring, ready[n]);
        }
    }

    fn post_stale(&mut self, ring: usize) {
        let due = |(at, _): &(Nanos, Token)| *at <= self.clock;
        let Some(at) = self.rings[ring].stale.iter().position(due) else { return };
        let (_, token) = self.rings[ring].stale.remove(at);
        let size = self.rings[ring].buffers.size();
        let len = self.random.between(1, size);
        let Some(buffer) = self.rings[ring].buffers.fill((0..len).map(|n| n as u8 ^ 0x55)) else { return };
        self.happened.stale += 1;
        self.complete(ring, Completion { token, result: len as i32, buffer: Some(buffer), more: true });
    }

    fn run(&mut self, ring: usize, id: u64) {
        let Some(at) = self.rings[ring].pending.iter().position(|p| p.id == id) else { return };
        let mut pending = self.rings[ring].pending.swap_remove(at);
        let goes_on = if pending.cancelled {
            self.post(ring, pending.token, -libc::ECANCELED);
            false
        } else {
            self.carry_on(ring, &mut pending)
        };
        if goes_on {
            self.rings[ring].pending.push(pending);
        }
    }

    /// Whether the operation is still under way.
    fn carry_on(&mut self, ring: usize, pending: &mut Pending) -> bool {
        let token = pending.token;
        match &pending.work {
            Work::Accept { listener, multishot, address } => {
                self.accept(ring, token, *listener, *multishot, *address)
            }
            Work::Connect { socket, refused } => self.connect(ring, token, *socket, *refused),
            Work::Receive { socket } => self.receive(ring, token, *socket),
            Work::Send { socket, pieces, patient } => {
                let mode = if *patient { SendMode::Patient } else { SendMode::Prompt };
                let result = self.send(ring, token, *socket, pieces, mode);
                if *patient && result == -libc::EAGAIN && !self.random.chance(50) {
                    return true;
                }
                self.rings[ring].unreaped.push((token, pieces.clone()));
                self.post(ring, token, result);
                false
            }
            Work::Shutdown { slot, socket } => self.shutdown(ring, token, *slot, *socket),
            Work::Poll => {
                self.rings[ring].woken = false;
                self.complete_multishot(ring, token, i32::from(libc::POLLIN), None)
            }
        }
    }

    fn accept(
        &mut self,
        ring: usize,
        token: Token,
        listener: usize,
        multishot: bool,
        address: *mut PeerAddress,
    ) -> bool {
        const ERRORS: [i32; 6] =
            [libc::ENFILE, libc::EMFILE, libc::ENOMEM, libc::ECONNABORTED, libc::EINTR, libc::ENOBUFS];
        if self.random.chance(self.faults.accept_errors) {
            self.happened.accept_errors += 1;
            let errno = self.random.pick(&ERRORS);
            self.post(ring, token, -errno);
            return false;
        }
        let Some(socket) = self.listeners[listener].queue.pop_front() else { return true };
        let kernel = &self.rings[ring];
        let Some(slot) = (0..kernel.accepted).find(|&s| kernel.socket(s as u32).is_none()) else {
            self.violate("accepted beyond the table".to_owned());
            self.drop_socket(socket);
            self.post(ring, token, -libc::ENFILE);
            return false;
        };
        self.put(ring, slot, socket);
        if multishot {
            return self.complete_multishot(ring, token, slot as i32, None);
        }
        if let Some(from) = self.peer_address(socket) {
            // SAFETY: the caller of `push` keeps the address in place until the completion is taken in; a target address has
            // the same layout, and is whole.
            unsafe { address.cast::<TargetAddress>().write(TargetAddress::new(from)) };
        }
        self.post(ring, token, slot as i32);
        false
    }

    fn connect(&mut self, ring: usize, token: Token, socket: SocketId, refused: bool) -> bool {
        if refused {
            self.post(ring, token, -libc::ECONNREFUSED);
            return false;
        }
        let Some(listener) = self.listener_of(socket) else { return true };
        self.join(socket, listener);
        self.post(ring, token, 0);
        false
    }

    /// Receives until nothing is there, or for as long as the seed says. Whether it goes on.
    fn receive(&mut self, ring: usize, token: Token, id: SocketId) -> bool {
        for _ in 0..self.random.between(1, 8) {
            if self.random.chance(self.faults.interrupted_receives) {
                self.happened.interrupted_receives += 1;
                let errno = self.random.pick(&[libc::EAGAIN, libc::EINTR]);
                self.post(ring, token, -errno);
                return false;
            }
            let socket = &mut self.sockets[id];
            if socket.incoming.is_empty() {
                if !socket.readable() {
                    return true;
                }
                let broken = socket.broken && !std::mem::replace(&mut socket.broken_told, true);
                self.post(ring, token, if broken { -libc::ECONNRESET } else { 0 });
                return false;
            }
            let injected = self.random.chance(self.faults.enobufs);
            if injected || self.rings[ring].buffers.is_dry() {
                self.happened.enobufs += 1;
                self.post(ring, token, -libc::ENOBUFS);
                return false;
            }
            if !self.receive_buffer(ring, token, id) {
                return false;
            }
        }
        true
    }

    /// Receives into one buffer. Whether the receive goes on.
    fn receive_buffer(&mut self, ring: usize, token: Token, id: SocketId) -> bool {
        let most = self.sockets[id].incoming.len().min(self.rings[ring].buffers.size());
        let short = self.random.chance(self.faults.short_receives);
        self.happened.short_receives += u64::from(short);
        let len = if short { self.random.between(1, most) } else { most };
        let bytes = self.sockets[id].incoming.drain(..len);
        let Some(buffer) = self.rings[ring].buffers.fill(bytes) else { return true };
        self.complete_multishot(ring, token, len as i32, Some(buffer))
    }

    fn shutdown(&mut self, ring: usize, token: Token, slot: u32, socket: SocketId) -> bool {
        // Looked up only now.
        if self.rings[ring].socket(slot) != Some(socket) && !self.rings[ring].finishing {
            self.violate(format!("{token:?} hit another connection"));
        }
        let result = if self.sockets[socket].broken { -libc::ENOTCONN } else { 0 };
        if result == 0 {
            self.half_close(socket);
        }
        self.post(ring, token, result);
        false
    }

    /// Sends what fits. The count, or an error number below zero.
    fn send(&mut self, ring: usize, token: Token, id: SocketId, pieces: &Pieces, mode: SendMode) -> i32 {
        self.look_at_pieces(ring, token, pieces);
        let socket = &mut self.sockets[id];
        if socket.broken {
            let told = std::mem::replace(&mut socket.broken_told, true);
            return if told { -libc::EPIPE } else { -libc::ECONNRESET };
        }
        if socket.fin_sent || socket.peer.is_none() {
            self.violate(format!("{token:?} on a socket that cannot send"));
            return -libc::EPIPE;
        }
        if self.random.chance(self.faults.refused_sends) {
            self.happened.refused_sends += 1;
            let errno = self.random.pick(&[libc::EAGAIN, libc::ENOBUFS, libc::ENOMEM, libc::EINTR]);
            return if mode == SendMode::Patient { -libc::EAGAIN } else { -errno };
        }
        let wanted: usize = pieces.iter().map(|p| p.1).sum();
        let mut most = self.room_for(id, wanted);
        if most > 1 && self.random.chance(self.faults.short_sends) {
            self.happened.short_sends += 1;
            most = self.random.between(1, most);
        }
        if most == 0 {
            return -libc::EAGAIN;
        }
        // SAFETY: the caller of `push` keeps the bytes in place until the send is completed, or this enter has returned.
        let slice = |&(start, len): &(*const u8, usize)| unsafe { std::slice::from_raw_parts(start, len) };
        let slices: Vec<&[u8]> = pieces.iter().map(slice).collect();
        self.take_to_send(id, most, &slices) as i32
    }

    /// The bytes of a send lie in no buffer that is not the engine's.
    fn look_at_pieces(&mut self, ring: usize, token: Token, pieces: &Pieces) {
        let buffers = &self.rings[ring].buffers;
        let given_back =
            |&(start, _): &(*const u8, usize)| buffers.at(start).filter(|&id| !buffers.is_engines(id));
        if let Some(id) = pieces.iter().find_map(given_back)
            && !self.rings[ring].finishing
        {
            self.violate(format!("{token:?} sends out of buffer {id}, which was given back"));
        }
    }

    // ---- completions

    fn post(&mut self, ring: usize, token: Token, result: i32) {
        self.complete(ring, Completion { token, result, buffer: None, more: false });
    }

    fn complete(&mut self, ring: usize, completion: Completion) {
        if self.has_room(ring) {
            self.rings[ring].completed.push_back(completion);
        } else {
            self.happened.overflows += 1;
            self.rings[ring].overflow.push_back(completion);
        }
    }

    /// Everything after the first completion that overflowed does so too: order is kept.
    fn has_room(&self, ring: usize) -> bool {
        let kernel = &self.rings[ring];
        kernel.overflow.is_empty() && kernel.completed.len() < kernel.completed_size
    }

    /// A result of a multishot operation; it goes on if there is room for the completion, and the seed wants it to.
    fn complete_multishot(&mut self, ring: usize, token: Token, result: i32, buffer: Option<u16>) -> bool {
        let ends = self.random.chance(self.faults.missing_more);
        self.happened.missing_more += u64::from(ends);
        let more = !ends && self.has_room(ring);
        self.complete(ring, Completion { token, result, buffer, more });
        more
    }

    /// Completions that found no room move up.
    fn flush(&mut self, ring: usize) {
        let kernel = &mut self.rings[ring];
        while kernel.completed.len() < kernel.completed_size
            && let Some(completion) = kernel.overflow.pop_front()
        {
            kernel.completed.push_back(completion);
        }
    }

    pub(super) fn dump_ring(&self, ring: usize, text: &mut String) {
        let kernel = &self.rings[ring];
        let _ = writeln!(
            text,
            "  ring: {} queued, {} completed, {} overflowed, {} buffers out, waits until {:?}",
            kernel.queue.len(),
            kernel.completed.len(),
            kernel.overflow.len(),
            kernel.buffers.out(),
            kernel.waiting
        );
        for p in &kernel.pending {
            let _ = writeln!(text, "    {:?} due {:?}, cancelled {}", p.token, p.due, p.cancelled);
        }
    }
}

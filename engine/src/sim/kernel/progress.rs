//! Progress of operations, in any order.

use crate::sim::kernel_state::{Pending, Pieces, Work};
use crate::sim::socket::SocketId;
use crate::sim::world::World;
use crate::time::Nanos;
use crate::token::Token;
use crate::uring::address::Address;
use crate::uring::ring::{Completion, SendMode};

impl World {
    pub(super) fn is_ready(&self, ring: usize, p: &Pending) -> bool {
        if p.cancelled {
            return true;
        }
        if p.due > self.clock {
            return false;
        }
        match p.work {
            Work::Accept { listener, .. } => !self.listeners[listener].queue.is_empty(),
            Work::Connect { socket, refused } => refused || self.listener_of(socket).is_some(),
            Work::Receive { socket, .. } => self.sockets[socket].readable(),
            Work::Send { socket, patient, .. } => !patient || self.sockets[socket].writable(),
            Work::Shutdown { .. } | Work::HandOver { .. } => true,
            Work::Poll => self.rings[ring].woken,
            Work::Watch { socket } => self.sockets[socket].broken,
        }
    }

    /// Advances some of the operations that can progress, in any order.
    pub(super) fn run_some(&mut self, ring: usize) {
        self.post_stale(ring);
        let ready =
            self.rings[ring].pending.iter().filter(|p| self.is_ready(ring, p)).map(|p| p.id);
        let mut ready: Vec<u64> = ready.collect();
        if ready.is_empty() {
            return;
        }
        let most =
            if self.random.chance(500) { ready.len() } else { self.random.between(1, ready.len()) };
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
        let Some(buffer) = self.rings[ring].buffers.fill((0..len).map(|n| n as u8 ^ 0x55)) else {
            return;
        };
        self.happened.stale += 1;
        let unread = self.random.chance(500);
        let result = len as i32;
        self.complete(ring, Completion { token, result, buffer: Some(buffer), more: true, unread });
    }

    pub(super) fn run(&mut self, ring: usize, id: u64) {
        let Some(at) = self.rings[ring].pending.iter().position(|p| p.id == id) else { return };
        let mut pending = self.rings[ring].pending.swap_remove(at);
        let goes_on = if pending.cancelled {
            self.post(ring, pending.token, -libc::ECANCELED);
            false
        } else {
            self.advance(ring, &mut pending)
        };
        if goes_on {
            self.rings[ring].pending.push(pending);
        }
    }

    /// Advances an operation. Returns whether it is still in progress.
    fn advance(&mut self, ring: usize, pending: &mut Pending) -> bool {
        let token = pending.token;
        match &mut pending.work {
            Work::Accept { listener, multishot, address } => {
                self.accept(ring, token, *listener, *multishot, *address)
            }
            Work::Connect { socket, refused } => self.connect(ring, token, *socket, *refused),
            Work::Receive { socket, once } => self.receive(ring, token, *socket, *once),
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
                self.complete_multishot(ring, token, i32::from(libc::POLLIN))
            }
            Work::HandOver { slot, socket, done: true, .. } => {
                self.rings[ring].table[*slot as usize] = None;
                self.release(*socket);
                self.post(ring, token, 0);
                false
            }
            Work::HandOver { socket, to, token: arrival, done, .. } => {
                if let Err(errno) = self.hand_over(*socket, *to, *arrival) {
                    self.post(ring, token, -errno);
                    return false;
                }
                // Its own completion comes behind that of the other ring.
                *done = true;
                pending.due = Nanos(self.clock.0 + self.random.below(50_000) as u64);
                true
            }
            Work::Watch { .. } => {
                self.post(ring, token, i32::from(libc::POLLERR | libc::POLLHUP));
                false
            }
        }
    }

    fn accept(
        &mut self,
        ring: usize,
        token: Token,
        listener: usize,
        multishot: bool,
        address: *mut Address,
    ) -> bool {
        const ERRORS: [i32; 6] = [
            libc::ENFILE,
            libc::EMFILE,
            libc::ENOMEM,
            libc::ECONNABORTED,
            libc::EINTR,
            libc::ENOBUFS,
        ];
        if self.random.chance(self.faults.accept_errors) {
            self.happened.accept_errors += 1;
            let errno = self.random.pick(&ERRORS);
            self.post(ring, token, -errno);
            return false;
        }
        let Some(socket) = self.listeners[listener].queue.pop_front() else { return true };
        let Some(slot) = self.rings[ring].free_slot() else {
            self.violate("accepted beyond the table".to_owned());
            self.drop_socket(socket);
            self.post(ring, token, -libc::ENFILE);
            return false;
        };
        self.put(ring, slot, socket);
        if multishot {
            return self.complete_multishot(ring, token, slot as i32);
        }
        if let Some(from) = self.peer_address(socket) {
            // SAFETY: the caller of `push` keeps the address in place until the completion is
            // collected.
            unsafe { address.write(Address::of(from)) };
        }
        self.post(ring, token, slot as i32);
        false
    }

    /// Puts a socket into the table of another ring. Fails with an error number.
    fn hand_over(&mut self, socket: SocketId, to: usize, arrival: Token) -> Result<(), i32> {
        if self.random.chance(self.faults.hand_over_errors) {
            self.happened.hand_over_errors += 1;
            return Err(self.random.pick(&[libc::ENFILE, libc::ENOMEM, libc::EOWNERDEAD]));
        }
        if self.rings[to].gone {
            return Err(libc::EOWNERDEAD);
        }
        let slot = self.rings[to].free_slot().ok_or(libc::ENFILE)?;
        self.happened.hand_overs += 1;
        self.put(to, slot, socket);
        self.post(to, arrival, slot as i32);
        Ok(())
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

    /// Receives until nothing is left, or as long as the seed allows. Returns whether the receive
    /// continues.
    fn receive(&mut self, ring: usize, token: Token, id: SocketId, once: bool) -> bool {
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
            if !self.receive_buffer(ring, token, id, once) {
                return false;
            }
        }
        true
    }

    /// Receives into one buffer. Returns whether the receive continues.
    fn receive_buffer(&mut self, ring: usize, token: Token, id: SocketId, once: bool) -> bool {
        let most = self.sockets[id].incoming.len().min(self.rings[ring].buffers.size());
        let short = self.random.chance(self.faults.short_receives);
        self.happened.short_receives += u64::from(short);
        let len = if short { self.random.between(1, most) } else { most };
        let bytes = self.sockets[id].incoming.drain(..len);
        let Some(buffer) = self.rings[ring].buffers.fill(bytes) else { return true };
        // Only a hint: more bytes may arrive right after.
        let unread = !self.sockets[id].incoming.is_empty() && !self.random.chance(100);
        let more = !once && self.goes_on(ring);
        self.complete(
            ring,
            Completion { token, result: len as i32, buffer: Some(buffer), more, unread },
        );
        more
    }

    fn shutdown(&mut self, ring: usize, token: Token, slot: u32, socket: SocketId) -> bool {
        // The descriptor is looked up only now.
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

    /// Sends what fits. Returns the number of bytes, or an error number below zero.
    pub(super) fn send(
        &mut self,
        ring: usize,
        token: Token,
        id: SocketId,
        pieces: &Pieces,
        mode: SendMode,
    ) -> i32 {
        self.check_pieces(ring, token, pieces);
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
        // SAFETY: the caller of `push` keeps the bytes in place until the send is completed, or
        // this enter has returned.
        let slice =
            |&(start, len): &(*const u8, usize)| unsafe { std::slice::from_raw_parts(start, len) };
        let slices: Vec<&[u8]> = pieces.iter().map(slice).collect();
        self.take_to_send(id, most, &slices) as i32
    }

    /// Checks that the bytes of a send lie in no buffer that is not the engine's.
    fn check_pieces(&mut self, ring: usize, token: Token, pieces: &Pieces) {
        let buffers = &self.rings[ring].buffers;
        let given_back = |&(start, _): &(*const u8, usize)| {
            buffers.at(start).filter(|&id| !buffers.is_engines(id))
        };
        if let Some(id) = pieces.iter().find_map(given_back)
            && !self.rings[ring].finishing
        {
            self.violate(format!("{token:?} sends out of buffer {id}, which was given back"));
        }
    }
}

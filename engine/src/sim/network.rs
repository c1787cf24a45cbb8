//! Simulated network: sockets of one host, joined in pairs. Each direction has a bounded send
//! buffer, a path that moves bytes as the seed decides, and a bounded receive buffer.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::sim::socket::{Socket, SocketId};
use crate::sim::world::World;
use crate::time::Nanos;

/// Most connections that wait for an accept. Later ones are not answered until there is room.
const QUEUE: usize = 64;

impl World {
    pub(super) fn new_socket(
        &mut self,
        from: Option<SocketAddr>,
        to: Option<SocketAddr>,
    ) -> SocketId {
        let sizes = [600, 4_000, 30_000, 200_000];
        // As the kernel does where the caller leaves the port open.
        let chosen =
            SocketAddr::from(([127, 0, 0, 1], 20_000 + (self.sockets.len() % 40_000) as u16));
        let from = from.or(to.map(|_| chosen));
        let socket = Socket {
            peer: None,
            from,
            to,
            outgoing: VecDeque::new(),
            send_buffer: self.random.pick(&sizes),
            incoming: VecDeque::new(),
            receive_buffer: self.random.pick(&sizes),
            fin_sent: false,
            fin_delivered: false,
            fin_arrived: false,
            broken: false,
            broken_told: false,
            orphan: false,
            stalled_until: Nanos(0),
        };
        self.sockets.push(socket);
        self.moving.push(self.sockets.len() - 1);
        self.sockets.len() - 1
    }

    /// Listener that a socket connects to, where it has room. Of several with one address it is
    /// always the same one of a socket, as with `SO_REUSEPORT`, and often the first.
    pub(super) fn listener_of(&self, id: SocketId) -> Option<usize> {
        let to = self.sockets[id].to;
        let all = self.listeners.iter().enumerate().filter(|(_, l)| Some(l.addr) == to);
        let count = all.clone().count();
        let hash = (id.wrapping_mul(0x9e37_79b9) >> 8) % (2 * count).max(1);
        let (listener, state) = all.clone().nth(if hash < count { hash } else { 0 })?;
        (state.queue.len() < QUEUE).then_some(listener)
    }

    /// Creates a connection: its other end waits in the listener's queue.
    pub(super) fn join(&mut self, id: SocketId, listener: usize) {
        let other = self.new_socket(None, None);
        self.sockets[other].peer = Some(id);
        self.sockets[id].peer = Some(other);
        self.listeners[listener].queue.push_back(other);
        self.happened.connections += 1;
    }

    /// Peer address that an accept reports for a socket.
    pub(super) fn peer_address(&self, id: SocketId) -> Option<SocketAddr> {
        self.sockets[self.sockets[id].peer?].from
    }

    /// Accepts bytes to be sent. Returns how many fitted.
    pub(super) fn take_to_send(&mut self, id: SocketId, most: usize, pieces: &[&[u8]]) -> usize {
        let socket = &mut self.sockets[id];
        let room = socket.room_to_send().min(most);
        let mut taken = 0;
        for piece in pieces {
            let n = piece.len().min(room - taken);
            socket.outgoing.extend(&piece[..n]);
            taken += n;
        }
        taken
    }

    /// Number of bytes, out of `wanted`, that a send could accept.
    pub(super) fn room_for(&self, id: SocketId, wanted: usize) -> usize {
        self.sockets[id].room_to_send().min(wanted)
    }

    pub(super) fn half_close(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id];
        self.happened.half_closes += u64::from(!socket.fin_arrived && !socket.fin_sent);
        socket.fin_sent = true;
    }

    /// Handles the close of a descriptor.
    pub(super) fn release(&mut self, id: SocketId) {
        if !self.rings.iter().any(|ring| ring.table.contains(&Some(id))) {
            self.drop_socket(id);
        }
    }

    /// Handles the close of the last descriptor. Unread input causes a reset (tcp(7)).
    pub(super) fn drop_socket(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id];
        socket.orphan = true;
        if socket.peer.is_none() {
            socket.broken = true;
        } else if !socket.incoming.is_empty() && !socket.broken {
            self.reset(id);
        } else {
            socket.fin_sent = true;
        }
        self.sockets[id].incoming = VecDeque::new();
    }

    /// Resets a connection. Arrived bytes stay readable, bytes in transit are lost.
    pub(super) fn reset(&mut self, id: SocketId) {
        let both = [Some(id), self.sockets[id].peer];
        for id in both.into_iter().flatten() {
            let socket = &mut self.sockets[id];
            socket.broken = true;
            socket.outgoing.clear();
            let from = socket.from;
            self.broken.extend(from);
        }
    }

    /// Lists the directions in which bytes can move now.
    pub(super) fn movable(&mut self, into: &mut Vec<SocketId>) {
        into.clear();
        let mut moving = std::mem::take(&mut self.moving);
        moving.retain(|&id| !self.sockets[id].is_dead());
        into.extend(moving.iter().copied().filter(|&id| self.can_move(id, self.clock)));
        self.moving = moving;
    }

    fn can_move(&self, id: SocketId, now: Nanos) -> bool {
        let socket = &self.sockets[id];
        let Some(peer) = socket.peer.map(|p| &self.sockets[p]) else { return false };
        if socket.broken || socket.stalled_until > now {
            return false;
        }
        if socket.outgoing.is_empty() {
            socket.fin_sent && !socket.fin_delivered
        } else {
            peer.orphan || peer.room_to_receive() > 0
        }
    }

    /// Time at which the next standstill ends.
    pub(super) fn next_move(&self) -> Option<Nanos> {
        let stalled = self.moving.iter().filter(|&&id| self.can_move(id, Nanos::NEVER));
        stalled.map(|&id| self.sockets[id].stalled_until).min()
    }

    /// Moves bytes along a direction that can move.
    pub(super) fn carry(&mut self, id: SocketId) {
        let Some(peer) = self.sockets[id].peer else { return };
        if self.random.chance(self.faults.stalls) {
            self.happened.stalls += 1;
            let most = (self.faults.stall.as_nanos() as usize).max(1);
            self.sockets[id].stalled_until = Nanos(self.clock.0 + self.random.below(most) as u64);
            return;
        }
        if self.random.chance(self.faults.resets) {
            self.happened.resets += 1;
            self.reset(id);
            return;
        }
        if self.sockets[id].outgoing.is_empty() {
            self.sockets[id].fin_delivered = true;
            self.sockets[peer].fin_arrived = true;
        } else if self.sockets[peer].orphan {
            // The reading end is closed.
            self.reset(id);
        } else {
            self.carry_bytes(id, peer);
        }
    }

    fn carry_bytes(&mut self, id: SocketId, peer: SocketId) {
        let most = self.sockets[id].outgoing.len().min(self.sockets[peer].room_to_receive());
        let n = match self.random.below(4) {
            0 => self.random.between(1, most.min(20)),
            1 => self.random.between(1, most),
            _ => most,
        };
        // Two sockets of one list.
        let mut outgoing = std::mem::take(&mut self.sockets[id].outgoing);
        self.sockets[peer].incoming.extend(outgoing.drain(..n));
        self.sockets[id].outgoing = outgoing;
        self.happened.bytes += n as u64;
    }
}

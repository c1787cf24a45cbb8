//! The engine's state and what is done with a connection. The order of a turn is in the parent module.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, Shutdown, SocketFlags};

use super::backlog::{Backlog, Spares};
use super::connection::{Connection, Phase};
use super::outbox::{Chain, Outbox, SLICES, Sent, send_slices};
use super::poller::{CONNECTION, Poller};
use crate::accounting::{Counters, Load};
use crate::config::Config;
use crate::connection::{Cause, CloseMode, ConnId, Connect, Origin};
use crate::handler::Handler;
use crate::handler::WorkerCore;
use crate::incoming::{self, Accepted, Gate};
use crate::outgoing;
use crate::output::{Commands, Output, Record, Segment};
use crate::table::Table;
use crate::time::Nanos;
use crate::wheel::Wheel;

/// Receives of one connection in one turn, at most: what is left then waits until the others have had their turn.
const RECEIVES_PER_TURN: usize = 4;
/// Accepts at one listener in one turn, at most.
const ACCEPTS_PER_TURN: usize = 64;
/// Keys of events: a connection's slot and generation, or one of these in the place of the slot.
pub(super) const INBOX: u32 = u32::MAX;
pub(super) const LISTENER: u32 = u32::MAX - 1;

pub(super) fn key(slot: u32, generation: u32) -> u64 {
    (u64::from(generation) << 32) | u64::from(slot)
}

/// A listener of the configuration.
pub(super) struct Door {
    /// As the handler wants it.
    wanted: bool,
    /// Registered for readiness.
    armed: bool,
    ready: bool,
}

/// Everything but the handler.
pub(super) struct Core<'a, H: Handler> {
    pub(super) config: &'a Config,
    pub(super) poller: Poller,
    table: Table<Connection<H::Conn>>,
    pub(super) wheel: Wheel,
    pub(super) record: Record,
    outbox: Outbox,
    spares: Spares,
    /// To be read; left from the last turn and of this one.
    readable: Vec<ConnId>,
    /// Being read.
    reading: Vec<ConnId>,
    /// With output or a close to see to at the end of the turn.
    dirty: Vec<ConnId>,
    /// Dead and not yet reported.
    gone: Vec<ConnId>,
    /// Failed attempts to connect, not yet reported.
    failed: Vec<(u64, io::Error)>,
    due: Vec<u32>,
    doors: Vec<Door>,
    gate: Gate,
    accepted: usize,
    outgoing: usize,
    /// Of their sockets.
    options: outgoing::Options,
    open: usize,
    pub(super) alarm: Nanos,
    pub(super) now: Nanos,
    pub(super) stopping: bool,
    pub(super) counters: Counters,
}

impl<'a, H: Handler> Core<'a, H> {
    pub(super) fn new(config: &'a Config, poller: Poller) -> io::Result<Self> {
        let slots = config.max_accepted.saturating_add(config.max_connects).min(LISTENER as usize);
        let now = Nanos::monotonic();
        let mut doors = Vec::with_capacity(config.listeners.len());
        for (index, listener) in config.listeners.iter().enumerate() {
            incoming::prepare(&listener.socket)?;
            poller.add(&listener.socket, key(LISTENER, index as u32), EventFlags::IN)?;
            doors.push(Door { wanted: true, armed: true, ready: false });
        }
        Ok(Self {
            config,
            poller,
            table: Table::new(slots),
            wheel: Wheel::new(now, slots),
            record: Record::new(),
            outbox: Outbox::default(),
            spares: Spares::default(),
            readable: Vec::new(),
            reading: Vec::new(),
            dirty: Vec::new(),
            gone: Vec::new(),
            failed: Vec::new(),
            due: Vec::new(),
            doors,
            gate: Gate::Open,
            accepted: 0,
            outgoing: 0,
            options: outgoing::Options::of(config),
            open: 0,
            alarm: Nanos::NEVER,
            now,
            stopping: false,
            counters: Counters::default(),
        })
    }

    /// Whether the next turn has something to do without any event.
    pub(super) fn has_work(&self) -> bool {
        !(self.readable.is_empty() && self.gone.is_empty() && self.failed.is_empty())
    }

    /// The next point at which a turn is needed without any event.
    pub(super) fn next_timer(&self) -> Nanos {
        let retry = if let Gate::Starved(at) = self.gate { at } else { Nanos::NEVER };
        self.wheel.next().unwrap_or(Nanos::NEVER).min(self.alarm).min(retry)
    }

    // ---- calls of the handler -------------------------------------------------------------------------------------

    /// Calls `f` for an open connection and carries out what it asked for.
    fn tell(&mut self, id: ConnId, f: impl FnOnce(&mut H::Conn, &mut Output<'_>)) -> bool {
        let Some(c) = self.table.get_mut(id).filter(|c| c.is_open()) else { return false };
        let unsent = c.unsent();
        let Some(state) = c.state.as_mut() else { return false };
        f(state, &mut self.record.begin(self.now, unsent, 0));
        self.settle(id, &[]);
        true
    }

    fn open(&mut self, handler: &mut H, id: ConnId, from: Origin) {
        self.open += 1;
        let state = handler.opened(id, from, &mut self.record.begin(self.now, 0, 0));
        if let Some(c) = self.table.get_mut(id) {
            c.state = Some(state);
        }
        self.settle(id, &[]);
    }

    fn deliver(&mut self, handler: &mut H, id: ConnId, input: &mut [u8]) {
        let Some(c) = self.table.get_mut(id) else { return };
        let unsent = c.unsent();
        let Some(state) = c.state.as_mut() else { return };
        handler.received(id, state, input, &mut self.record.begin(self.now, unsent, input.len()));
        self.settle(id, input);
    }

    /// Carries out what the handler asked for in the call that has just ended.
    fn settle(&mut self, id: ConnId, input: &[u8]) {
        let commands = self.record.take_commands();
        if commands.close == Some(CloseMode::Abort) {
            self.record.discard_segments();
            self.kill(id, Cause::Closed);
            return;
        }
        match self.record.segments() {
            [] => {}
            [Segment::Echo(range)] => {
                let range = range.start as usize..range.end as usize;
                self.send_echo(id, range, input);
            }
            _ => self.queue_segments(id, input),
        }
        if !commands.is_empty() {
            self.obey(id, commands);
        }
    }

    fn obey(&mut self, id: ConnId, commands: Commands) {
        let Some(c) = self.table.get_mut(id).filter(|c| c.is_open()) else { return };
        if let Some(at) = commands.deadline {
            c.deadline = at.unwrap_or(Nanos::NEVER);
        }
        if let Some(paused) = commands.pause {
            c.paused = paused;
        }
        if commands.close.is_some() {
            c.phase = Phase::Flushing { discarded: 0 };
            c.deadline = Nanos::NEVER;
            list(c, id, &mut self.dirty);
        }
        let timer = c.next_timer();
        self.wheel.set(id.slot, timer);
        self.read_later(id);
    }

    // ---- output ---------------------------------------------------------------------------------------------------

    /// The common case of an echo server: one range of the receive buffer, nothing before it.
    fn send_echo(&mut self, id: ConnId, range: Range<usize>, input: &[u8]) {
        let Some(c) = self.table.get_mut(id) else { return };
        if !c.queued.is_empty() || c.backlog.is_some() {
            return self.queue_segments(id, input);
        }
        self.record.discard_segments();
        let bytes = &input[range];
        match send_slices(c.socket.as_fd(), &[io::IoSlice::new(bytes)]) {
            Ok(taken) => {
                self.counters.bytes_out += taken as u64;
                if taken < bytes.len() {
                    self.counters.partial_sends += 1;
                    let mut backlog = self.spares.backlog();
                    backlog.push_copy(&bytes[taken..], &mut self.spares);
                    self.keep(id, backlog);
                }
            }
            Err(error) => self.kill(id, outgoing::cause(error)),
        }
    }

    /// Queues the call's segments. With an echo among them everything queued leaves at once, because the receive buffer is
    /// used again; otherwise at the end of the turn.
    fn queue_segments(&mut self, id: ConnId, input: &[u8]) {
        let Some(c) = self.table.get_mut(id) else { return };
        let mut echoes = false;
        for segment in self.record.take_segments() {
            echoes |= matches!(segment, Segment::Echo(_));
            self.outbox.push(&mut c.queued, segment);
        }
        if echoes {
            self.transmit(id, input);
        } else {
            list(c, id, &mut self.dirty);
        }
    }

    /// Sends what a connection has queued, behind what it has held back.
    fn transmit(&mut self, id: ConnId, input: &[u8]) {
        let Some(c) = self.table.get_mut(id) else { return };
        let chain = std::mem::take(&mut c.queued);
        if let Some(backlog) = c.backlog.as_mut() {
            self.outbox.hold_back_all(chain, &mut self.record, input, backlog, &mut self.spares);
            self.throttle(id);
            return;
        }
        let bytes_out = &mut self.counters.bytes_out;
        match self.outbox.send(c.socket.as_fd(), chain, &mut self.record, input, bytes_out) {
            Ok(Sent::All) => {}
            Ok(Sent::Part { at, skip }) => {
                self.counters.partial_sends += 1;
                let mut backlog = self.spares.backlog();
                let left = Sent::Part { at, skip };
                self.outbox.hold_back(left, &mut self.record, input, &mut backlog, &mut self.spares);
                self.keep(id, backlog);
            }
            Err(error) => self.kill(id, outgoing::cause(error)),
        }
    }

    /// A connection has begun to hold bytes back: the socket will tell when it is writable.
    fn keep(&mut self, id: ConnId, backlog: Box<Backlog>) {
        let Some(c) = self.table.get_mut(id) else { return };
        c.backlog = Some(backlog);
        self.expect_progress(id);
        self.throttle(id);
    }

    fn throttle(&mut self, id: ConnId) {
        if let Some(c) = self.table.get_mut(id) {
            c.throttled |= c.backlog.as_ref().is_some_and(|b| b.len() > self.config.high_water);
        }
    }

    fn expect_progress(&mut self, id: ConnId) {
        let limit = self.now.limit_after(self.config.write_stall);
        self.set_limit(id, limit);
    }

    fn set_limit(&mut self, id: ConnId, limit: Nanos) {
        if let Some(c) = self.table.get_mut(id) {
            c.limit = limit;
            self.wheel.set(id.slot, c.next_timer());
        }
    }

    /// The socket is writable: sends what was held back.
    fn send_backlog(&mut self, handler: &mut H, id: ConnId) {
        loop {
            let Some(c) = self.table.get_mut(id) else { return };
            let Some(backlog) = c.backlog.as_mut() else { return };
            let mut slices = [io::IoSlice::new(&[]); SLICES];
            let (count, wanted) = backlog.gather(&mut slices);
            match send_slices(c.socket.as_fd(), &slices[..count]) {
                Ok(0) => return,
                Ok(taken) => {
                    self.counters.bytes_out += taken as u64;
                    backlog.advance(taken, &mut self.spares, self.record.pool());
                    if backlog.is_empty() {
                        return self.drained(handler, id);
                    }
                    self.expect_progress(id);
                    if taken < wanted {
                        self.counters.partial_sends += 1;
                        return;
                    }
                }
                Err(error) => return self.kill(id, outgoing::cause(error)),
            }
        }
    }

    fn drained(&mut self, handler: &mut H, id: ConnId) {
        let Some(c) = self.table.get_mut(id) else { return };
        if let Some(empty) = c.backlog.take() {
            self.spares.put_backlog(empty);
        }
        c.throttled = false;
        list(c, id, &mut self.dirty);
        self.set_limit(id, Nanos::NEVER);
        self.read_later(id);
        self.tell(id, |c, out| handler.drained(id, c, out));
    }

    /// The end of the turn: everything that was written leaves, once for each connection.
    pub(super) fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for &id in &dirty {
            let Some(c) = self.table.get_mut(id) else { continue };
            c.dirty = false;
            if !c.queued.is_empty() {
                self.transmit(id, &[]);
            }
            self.half_close(id);
        }
        dirty.clear();
        self.dirty = dirty;
        self.outbox.clear();
        self.record.clear_arena();
    }

    /// Everything of a connection that the handler closed is sent: our FIN, then wait for the other end's.
    fn half_close(&mut self, id: ConnId) {
        let Some(c) = self.table.get_mut(id) else { return };
        let Phase::Flushing { discarded } = c.phase else { return };
        if c.backlog.is_some() {
            return;
        }
        if c.eof {
            return self.kill(id, Cause::PeerClosed);
        }
        if let Err(error) = rustix::net::shutdown(&c.socket, Shutdown::Write) {
            // ENOTCONN: a reset has come in between.
            let cause =
                if error == rustix::io::Errno::NOTCONN { Cause::Reset } else { Cause::Io(error.into()) };
            return self.kill(id, cause);
        }
        let linger = self.config.linger;
        if linger.time.is_zero() || discarded >= linger.bytes {
            return self.kill(id, Cause::Closed);
        }
        c.phase = Phase::Lingering { discarded };
        self.set_limit(id, self.now + linger.time);
        self.read_later(id);
    }

    // ---- input ----------------------------------------------------------------------------------------------------

    /// Takes in one event of a connection.
    pub(super) fn ready(&mut self, handler: &mut H, id: ConnId, flags: EventFlags) {
        let Some(c) = self.table.get_mut(id) else { return };
        if matches!(c.phase, Phase::Connecting { .. }) {
            return self.connect_ended(handler, id, flags);
        }
        let over = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        c.hangup |= over || flags.contains(EventFlags::RDHUP);
        c.readable |= over || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        // Nearly every event says that the socket is writable.
        let held_back = c.backlog.is_some();
        if over && !c.wants_input(self.config.linger.bytes) && self.is_broken(id) {
            return;
        }
        if held_back && flags.contains(EventFlags::OUT) {
            self.send_backlog(handler, id);
        }
        self.read_later(id);
    }

    /// A reset, when no receive is to come that would show it: the connection is paused, or its end has been read.
    fn is_broken(&mut self, id: ConnId) -> bool {
        let Some(c) = self.table.get_mut(id) else { return true };
        match outgoing::pending_error(&c.socket) {
            Err(error) => self.kill(id, outgoing::cause(error)),
            // Both directions are over, and it was not us who ended ours.
            Ok(()) if c.eof => self.kill(id, Cause::Reset),
            Ok(()) => return false,
        }
        true
    }

    fn read_later(&mut self, id: ConnId) {
        let discard_at_most = self.config.linger.bytes;
        if let Some(c) = self.table.get_mut(id).filter(|c| !c.listed && c.wants_input(discard_at_most)) {
            c.listed = true;
            self.readable.push(id);
        }
    }

    /// Reads every connection that has something, each a bounded number of times.
    pub(super) fn read_all(&mut self, handler: &mut H, buffer: &mut [u8]) {
        // Those with something left are listed anew meanwhile, for the next turn.
        std::mem::swap(&mut self.readable, &mut self.reading);
        for index in 0..self.reading.len() {
            let id = self.reading[index];
            self.read(handler, id, buffer);
            // Only now: what the handler asks for while it is read from needs no second entry.
            if let Some(c) = self.table.get_mut(id) {
                c.listed = false;
                self.read_later(id);
            }
        }
        self.reading.clear();
    }

    fn read(&mut self, handler: &mut H, id: ConnId, buffer: &mut [u8]) {
        for _ in 0..RECEIVES_PER_TURN {
            let Some(c) = self.table.get_mut(id) else { return };
            if !c.wants_input(self.config.linger.bytes) {
                return;
            }
            match rustix::net::recv(&c.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return self.ended(handler, id),
                Ok((_, len)) => {
                    // Everything was taken out; only an announced end may follow without a new event.
                    c.readable = len == buffer.len() || c.hangup;
                    self.counters.bytes_in += len as u64;
                    self.take_in(handler, id, &mut buffer[..len]);
                }
                Err(rustix::io::Errno::AGAIN) => {
                    c.readable = false;
                    return;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return self.kill(id, outgoing::cause(error.into())),
            }
        }
    }

    fn take_in(&mut self, handler: &mut H, id: ConnId, input: &mut [u8]) {
        let Some(c) = self.table.get_mut(id) else { return };
        match &mut c.phase {
            Phase::Open => self.deliver(handler, id, input),
            Phase::Flushing { discarded } => *discarded += input.len() as u64,
            Phase::Lingering { discarded } => {
                *discarded += input.len() as u64;
                if *discarded >= self.config.linger.bytes {
                    self.kill(id, Cause::Closed);
                }
            }
            Phase::Connecting { .. } | Phase::Dead(_) => {}
        }
    }

    /// The other end's FIN has been read.
    fn ended(&mut self, handler: &mut H, id: ConnId) {
        let Some(c) = self.table.get_mut(id) else { return };
        c.eof = true;
        match c.phase {
            Phase::Open => {
                self.tell(id, |c, out| handler.eof(id, c, out));
            }
            Phase::Lingering { .. } => self.kill(id, Cause::PeerClosed),
            Phase::Flushing { .. } | Phase::Connecting { .. } | Phase::Dead(_) => {}
        }
    }

    // ---- beginnings -----------------------------------------------------------------------------------------------

    /// Marks a listener as ready; accepting comes after all events of connections.
    pub(super) fn knock(&mut self, index: u32) {
        if let Some(door) = self.doors.get_mut(index as usize) {
            door.ready = true;
        }
    }

    /// Accepts where connections wait, and registers listeners as they are wanted now.
    pub(super) fn accept_all(&mut self, handler: &mut H) -> io::Result<()> {
        if matches!(self.gate, Gate::Starved(at) if at <= self.now) {
            self.gate = Gate::Open;
        }
        for index in 0..self.doors.len() {
            if std::mem::take(&mut self.doors[index].ready) {
                self.accept_at(handler, index);
            }
        }
        self.arrange_doors()
    }

    fn accept_at(&mut self, handler: &mut H, index: usize) {
        let config = self.config;
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.doors[index].wanted || self.gate != Gate::Open {
                return;
            }
            if self.accepted >= config.max_accepted {
                return self.shut_gate(Gate::Full);
            }
            match incoming::accept(&config.listeners[index].socket, SocketFlags::NONBLOCK) {
                Accepted::Connection(socket, peer) => {
                    let from = Origin::Accepted { listener: index as u16, peer };
                    let connection = Connection::new(socket, true, Phase::Open);
                    let Some(id) = self.admit(connection) else {
                        return self.shut_gate(Gate::Starved(self.now + incoming::RETRY));
                    };
                    self.accepted += 1;
                    self.counters.accepted += 1;
                    self.open(handler, id, from);
                }
                Accepted::Nothing => return,
                Accepted::Failed => {}
                Accepted::Starved => return self.shut_gate(Gate::Starved(self.now + incoming::RETRY)),
            }
        }
    }

    fn shut_gate(&mut self, gate: Gate) {
        self.gate = gate;
        self.counters.accept_pauses += 1;
    }

    /// Registers listeners that are to accept, and only those: readiness is reported again and again otherwise.
    pub(super) fn arrange_doors(&mut self) -> io::Result<()> {
        for (index, door) in self.doors.iter_mut().enumerate() {
            let armed = door.wanted && self.gate == Gate::Open;
            if door.armed != armed {
                let interest = if armed { EventFlags::IN } else { EventFlags::empty() };
                let listener = &self.config.listeners[index].socket;
                self.poller.modify(listener, key(LISTENER, index as u32), interest)?;
                door.armed = armed;
            }
        }
        Ok(())
    }

    /// A place in the table and a registration; `None` when the kernel or the table has no room.
    fn admit(&mut self, connection: Connection<H::Conn>) -> Option<ConnId> {
        let id = self.table.insert(connection).ok()?;
        let c = self.table.get_mut(id)?;
        if self.poller.add(&c.socket, key(id.slot, id.generation), CONNECTION).is_err() {
            self.table.remove(id);
            return None;
        }
        Some(id)
    }

    fn begin_connect(&mut self, connect: &Connect) -> io::Result<()> {
        if self.outgoing >= self.config.max_connects {
            return Err(outgoing::too_many(self.config.max_connects));
        }
        let socket = outgoing::begin(connect, &self.options)?;
        let connection = Connection::new(socket, false, Phase::Connecting { tag: connect.tag });
        let id = self
            .admit(connection)
            .ok_or_else(|| io::Error::other("no room for another descriptor in epoll"))?;
        self.outgoing += 1;
        self.set_limit(id, Nanos::monotonic().limit_after(connect.timeout));
        Ok(())
    }

    fn connect_ended(&mut self, handler: &mut H, id: ConnId, flags: EventFlags) {
        let Some(c) = self.table.get_mut(id) else { return };
        let Phase::Connecting { tag } = c.phase else { return };
        if let Err(error) = outgoing::pending_error(&c.socket) {
            return self.connect_failed(id, error);
        }
        if !flags.contains(EventFlags::OUT) {
            return;
        }
        c.phase = Phase::Open;
        self.counters.connected += 1;
        self.set_limit(id, Nanos::NEVER);
        self.open(handler, id, Origin::Connected { tag });
        self.ready(handler, id, flags);
    }

    fn connect_failed(&mut self, id: ConnId, error: io::Error) {
        self.wheel.set(id.slot, Nanos::NEVER);
        if let Some(Connection { phase: Phase::Connecting { tag }, .. }) = self.table.remove(id) {
            self.outgoing -= 1;
            self.failed.push((tag, error));
        }
    }

    // ---- ends -----------------------------------------------------------------------------------------------------

    /// The connection is over. The handler learns it in the next turn, never from within a call of its own.
    fn kill(&mut self, id: ConnId, cause: Cause) {
        let Some(c) = self.table.get_mut(id) else { return };
        if matches!(c.phase, Phase::Dead(_)) {
            return;
        }
        c.phase = Phase::Dead(cause);
        c.queued = Chain::default();
        c.backlog = None;
        (c.deadline, c.limit) = (Nanos::NEVER, Nanos::NEVER);
        self.wheel.set(id.slot, Nanos::NEVER);
        self.gone.push(id);
    }

    /// Reports the connections that have ended since the last turn.
    pub(super) fn report_gone(&mut self, handler: &mut H) {
        let mut gone = std::mem::take(&mut self.gone);
        for id in gone.drain(..) {
            self.bury(handler, id);
        }
        self.gone = gone;
    }

    /// Takes a connection out, closes its socket and tells the handler.
    fn bury(&mut self, handler: &mut H, id: ConnId) {
        let Some(c) = self.table.remove(id) else { return };
        let Connection { socket, state, phase, accepted, .. } = c;
        drop(socket);
        self.wheel.set(id.slot, Nanos::NEVER);
        if accepted {
            self.accepted -= 1;
            if self.gate == Gate::Full {
                self.gate = Gate::Open;
            }
        } else {
            self.outgoing -= 1;
        }
        if matches!(self.gate, Gate::Starved(_)) {
            self.gate = Gate::Open;
        }
        if let Some(state) = state {
            self.open -= 1;
            self.counters.closed += 1;
            handler.closed(id, state, if let Phase::Dead(cause) = phase { cause } else { Cause::Shutdown });
        }
    }

    /// Takes the attempts to connect that have failed since the last turn.
    pub(super) fn take_failed(&mut self) -> Vec<(u64, io::Error)> {
        std::mem::take(&mut self.failed)
    }

    /// Ends everything that is still there.
    pub(super) fn shut_down(&mut self, handler: &mut H) {
        let ids: Vec<ConnId> = self.table.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.bury(handler, id);
        }
    }

    // ---- time -----------------------------------------------------------------------------------------------------

    /// Sees to everything whose time has come.
    pub(super) fn expire(&mut self, handler: &mut H) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.now, &mut due);
        for slot in due.drain(..) {
            if let Some(id) = self.table.id_of(slot) {
                self.timer(handler, id);
            }
        }
        self.due = due;
    }

    fn timer(&mut self, handler: &mut H, id: ConnId) {
        let now = self.now;
        let Some(c) = self.table.get_mut(id) else { return };
        if c.limit <= now {
            c.limit = Nanos::NEVER;
            return match c.phase {
                Phase::Connecting { .. } => self.connect_failed(id, outgoing::timed_out()),
                Phase::Lingering { .. } => self.kill(id, Cause::Closed),
                Phase::Open | Phase::Flushing { .. } => self.kill(id, Cause::WriteStalled),
                Phase::Dead(_) => {}
            };
        }
        let passed = c.deadline <= now;
        if passed {
            c.deadline = Nanos::NEVER;
        }
        let timer = c.next_timer();
        self.wheel.set(id.slot, timer);
        if passed {
            self.tell(id, |c, out| handler.deadline(id, c, out));
        }
    }
}

/// Puts a connection on a list once.
fn list<C>(c: &mut Connection<C>, id: ConnId, dirty: &mut Vec<ConnId>) {
    if !c.dirty {
        c.dirty = true;
        dirty.push(id);
    }
}

impl<H: Handler> WorkerCore<H> for Core<'_, H> {
    fn now(&self) -> Nanos {
        self.now
    }

    fn clock(&self) -> Nanos {
        Nanos::monotonic()
    }

    fn connect(&mut self, connect: Connect) {
        if let Err(error) = self.begin_connect(&connect) {
            self.failed.push((connect.tag, error));
        }
    }

    fn call(&mut self, id: ConnId, f: &mut dyn FnMut(&mut H::Conn, &mut Output<'_>)) -> bool {
        self.tell(id, f)
    }

    fn abort(&mut self, id: ConnId) {
        self.kill(id, Cause::Closed);
    }

    fn connections(&self) -> usize {
        self.open
    }

    fn ids(&self) -> Vec<ConnId> {
        self.table.iter().filter(|(_, c)| c.is_open()).map(|(id, _)| id).collect()
    }

    fn set_alarm(&mut self, at: Option<Nanos>) {
        self.alarm = at.unwrap_or(Nanos::NEVER);
    }

    fn listening(&mut self, listener: u16, on: bool) {
        if let Some(door) = self.doors.get_mut(usize::from(listener)) {
            door.wanted = on;
        }
    }

    fn local_addr(&self, listener: u16) -> Option<SocketAddr> {
        self.config.listeners.get(usize::from(listener)).and_then(|l| l.socket.local_addr().ok())
    }

    fn stop(&mut self) {
        self.stopping = true;
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn load(&self) -> Load {
        let mut load = Load::default();
        for (_, c) in self.table.iter().filter(|(_, c)| c.state.is_some()) {
            load.add(c.paused || c.throttled, c.unsent());
        }
        load
    }
}

/// The span until a point, for a wait.
pub(super) fn span_until(at: Nanos, now: Nanos) -> Option<Duration> {
    (at != Nanos::NEVER).then(|| at.since(now))
}

//! The engine on epoll(7): readiness turned into the completions that a handler expects.
//!
//! Connections are registered once, edge-triggered, for both directions. One message in and one out
//! make three system calls: epoll_wait, which all connections of the turn share, recv and send.
//!
//! 1. Wait, and read the clock once.
//! 2. Report the connections that have ended, then handle the events: connects that have an
//!    outcome, and writable sockets with a backlog.
//! 3. Receive from every readable connection, a bounded number of times, into one buffer. An echo
//!    leaves directly after the call of `received`, because the buffer is used again.
//! 4. Accept; then deadlines, alarm, wakes and `turn_end`.
//! 5. Flush: all other output leaves, with one send for each connection.
//!
//! Output that the kernel does not accept goes to the connection's backlog. It leaves when the
//! socket is writable again.

mod outbox;
mod poller;
mod socket;

use std::io;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use self::poller::Poller;
use self::socket::{EpollIo, key};
use crate::config::Spin;
use crate::connection::{Cause, ConnId, State};
use crate::incoming::Accepted;
use crate::lifecycle::{Connections, Io};
use crate::time::Nanos;
use crate::{Config, Counters, EngineError, Handler, Inbox, outgoing};

/// Smallest receive buffer in bytes: a smaller one would spend a call on every few bytes.
const MIN_RECEIVE_BUFFER: usize = 512;
/// Most receives for one connection in a turn, so that the others are not starved.
const RECEIVES_PER_TURN: usize = 4;
/// Most accepts at one listener in a turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Keys of events have a connection's slot, or one of these in its place. Slots end below them.
const INBOX: u32 = u32::MAX;
const LISTENER: u32 = u32::MAX - 1;
const _: () = assert!(LISTENER < INBOX);

/// See [`crate::run`].
pub(crate) fn run<H: Handler>(
    config: &Config,
    inbox: Inbox,
    handler: &mut H,
) -> Result<Counters, EngineError> {
    Engine::new(config, inbox).map_err(setup_error)?.run(handler)
}

fn setup_error(source: io::Error) -> EngineError {
    if source.raw_os_error() == Some(Errno::MFILE.raw_os_error()) {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .unwrap_or(u64::MAX);
        return EngineError::Descriptors {
            wanted: limit.saturating_add(16),
            what: "an epoll instance",
            limit,
        };
    }
    EngineError::System { what: "setting up epoll", source }
}

/// Readiness of a listener.
#[derive(Clone, Copy, Default)]
struct ListenerEvents {
    /// The listener is registered for readiness.
    is_armed: bool,
    is_ready: bool,
}

struct Engine<'a, H: Handler> {
    config: &'a Config,
    connections: Connections<H, EpollIo>,
    listeners: Vec<ListenerEvents>,
    inbox: Inbox,
    is_woken: bool,
    /// Received bytes of any connection, for the length of one call.
    buffer: Box<[u8]>,
    /// Connections that are being read in this turn.
    reading: Vec<ConnId>,
}

impl<'a, H: Handler> Engine<'a, H> {
    fn new(config: &'a Config, inbox: Inbox) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(inbox.event(), key(INBOX, 0), EventFlags::IN)?;
        for (index, listener) in config.listeners.iter().enumerate() {
            poller.add(&listener.socket, key(LISTENER, index as u32), EventFlags::empty())?;
        }
        Ok(Self {
            config,
            connections: Connections::new(config, EpollIo::new(poller), LISTENER, &inbox)?,
            listeners: vec![ListenerEvents::default(); config.listeners.len()],
            inbox,
            is_woken: false,
            buffer: vec![0; config.receive_buffer.max(MIN_RECEIVE_BUFFER)].into_boxed_slice(),
            reading: Vec::new(),
        })
    }

    fn run(mut self, handler: &mut H) -> Result<Counters, EngineError> {
        handler.start(&mut self.connections);
        let system = EngineError::system("waiting on epoll");
        self.arm_listeners().map_err(&system)?;
        self.flush();
        while !self.connections.is_stopping {
            let ready = self.wait().map_err(&system)?;
            self.turn(handler, ready).map_err(&system)?;
        }
        self.connections.end_all();
        self.connections.report_closed(handler);
        Ok(self.connections.counters)
    }

    fn turn(&mut self, handler: &mut H, ready: usize) -> io::Result<()> {
        self.connections.now = Nanos::monotonic();
        self.connections.counters.turns += 1;
        self.connections.report_ended(handler);
        self.handle_events(handler, ready);
        self.read_all(handler);
        self.accept_all(handler);
        let mut bits = 0;
        if std::mem::take(&mut self.is_woken) {
            bits = self.inbox.take();
            self.connections.expect_handed_over();
        }
        self.connections.accept_handed_over(handler);
        self.connections.finish_turn(handler, bits);
        self.flush();
        self.arm_listeners()
    }

    /// Waits for the next event or timer, spinning first if configured; returns the number of
    /// events.
    fn wait(&mut self) -> io::Result<usize> {
        if self.connections.has_reports() || !self.connections.io.readable.is_empty() {
            return self.poll(Some(Duration::ZERO));
        }
        let until = self.connections.next_timer();
        let block = match self.config.spin {
            Spin::Off => return self.block(until),
            Spin::For(span) => (Nanos::monotonic() + span).min(until),
            Spin::Always => until,
        };
        loop {
            let ready = self.poll(Some(Duration::ZERO))?;
            if ready > 0 {
                return Ok(ready);
            }
            if Nanos::monotonic() >= block {
                break;
            }
        }
        if block == until { Ok(0) } else { self.block(until) }
    }

    fn block(&mut self, until: Nanos) -> io::Result<usize> {
        self.poll((until != Nanos::NEVER).then(|| until.since(Nanos::monotonic())))
    }

    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.connections.counters.enters += 1;
        self.connections.io.poller.wait(timeout)
    }

    fn handle_events(&mut self, handler: &mut H, ready: usize) {
        self.connections.counters.completions += ready as u64;
        for index in 0..ready {
            let (key, flags) = self.connections.io.poller.event(index);
            let (slot, generation) = (key as u32, (key >> 32) as u32);
            match slot {
                INBOX => self.is_woken = true,
                LISTENER => self.listeners[generation as usize].is_ready = true,
                _ => self.handle_event(handler, ConnId { slot, generation }, flags),
            }
        }
    }

    fn handle_event(&mut self, handler: &mut H, id: ConnId, flags: EventFlags) {
        let Some(mut c) = self.connections.table.get_mut(id) else { return };
        if c.state == State::Connecting {
            if !self.complete_connect(handler, id, flags) {
                return;
            }
            let Some(opened) = self.connections.table.get_mut(id) else { return };
            c = opened;
        }
        let is_over = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        c.io.has_hangup |= is_over || flags.contains(EventFlags::RDHUP);
        c.io.is_readable |= is_over || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        // Nearly every event says that the socket is writable.
        let has_backlog = c.io.backlog.is_some();
        if c.takes_input() {
            self.connections.io.set_reading(id, &mut c.io, true);
        } else if is_over && self.end_if_broken(id) {
            return;
        }
        if has_backlog && flags.contains(EventFlags::OUT) {
            self.send_backlog(handler, id);
        }
    }

    /// Handles the outcome of a connect; returns whether the connection is open.
    fn complete_connect(&mut self, handler: &mut H, id: ConnId, flags: EventFlags) -> bool {
        let Some(c) = self.connections.table.get_mut(id) else { return false };
        let outcome = outgoing::pending_error(&c.io);
        let is_connected = outcome.is_ok();
        if is_connected && !flags.contains(EventFlags::OUT) {
            return false;
        }
        self.connections.complete_connect(handler, id, outcome);
        is_connected
    }

    /// Ends a connection that was reset while nothing is received that would report it: it is
    /// paused, or its FIN has been received.
    fn end_if_broken(&mut self, id: ConnId) -> bool {
        let Some(c) = self.connections.table.get_mut(id) else { return true };
        let cause = match outgoing::pending_error(&c.io) {
            Err(error) => outgoing::cause(error),
            // Both directions have ended, and it was not this side that ended its own.
            Ok(()) if c.has_eof => Cause::Reset,
            Ok(()) => return false,
        };
        self.connections.end(id, cause);
        true
    }

    fn send_backlog(&mut self, handler: &mut H, id: ConnId) {
        let connections = &mut self.connections;
        let Some(c) = connections.table.get_mut(id) else { return };
        let (record, counters) = (&mut connections.record, &mut connections.counters);
        match connections.io.send_backlog(&mut c.io, record.pool(), counters) {
            Ok(_) if c.io.backlog.is_none() => connections.handle_drained(handler, id),
            Ok(0) => {}
            Ok(_) => connections.expect_progress(id),
            Err(error) => connections.end(id, outgoing::cause(error)),
        }
    }

    /// Reads every readable connection. Those with more to read are listed for the next turn.
    fn read_all(&mut self, handler: &mut H) {
        std::mem::swap(&mut self.connections.io.readable, &mut self.reading);
        for index in 0..self.reading.len() {
            let id = self.reading[index];
            self.read(handler, id);
            // Only now, so that commands of the handler make no second entry meanwhile.
            if let Some(c) = self.connections.table.get_mut(id) {
                c.io.is_listed = false;
                if c.takes_input() {
                    self.connections.io.set_reading(id, &mut c.io, true);
                }
            }
        }
        self.reading.clear();
    }

    fn read(&mut self, handler: &mut H, id: ConnId) {
        let connections = &mut self.connections;
        for _ in 0..RECEIVES_PER_TURN {
            let Some(c) = connections.table.get_mut(id) else { return };
            if !(c.io.is_readable && c.takes_input()) {
                return;
            }
            match recv(&c.io.fd, &mut *self.buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return connections.handle_eof(handler, id),
                Ok((_, len)) => {
                    // The socket is empty; only an announced end follows without a new event.
                    c.io.is_readable = len == self.buffer.len() || c.io.has_hangup;
                    connections.handle_received(handler, id, &mut self.buffer[..len]);
                }
                Err(Errno::AGAIN) => {
                    c.io.is_readable = false;
                    return;
                }
                Err(Errno::INTR) => {}
                Err(error) => return connections.end(id, outgoing::cause(error.into())),
            }
        }
    }

    fn accept_all(&mut self, handler: &mut H) {
        for (index, listener) in self.config.listeners.iter().enumerate() {
            if !std::mem::take(&mut self.listeners[index].is_ready) {
                continue;
            }
            for _ in 0..ACCEPTS_PER_TURN {
                if self.connections.accept(handler, index, &listener.socket) != Accepted::One {
                    break;
                }
            }
        }
    }

    /// Registers the listeners that accept, and no others: readiness is level-triggered, so that it
    /// would be reported in every turn.
    fn arm_listeners(&mut self) -> io::Result<()> {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let is_armed = self.connections.is_accepting(index);
            if listener.is_armed != is_armed {
                let interest = if is_armed { EventFlags::IN } else { EventFlags::empty() };
                let socket = &self.config.listeners[index].socket;
                self.connections.io.poller.modify(socket, key(LISTENER, index as u32), interest)?;
                listener.is_armed = is_armed;
            }
        }
        Ok(())
    }

    /// Sends all queued output, once for each connection.
    fn flush(&mut self) {
        let connections = &mut self.connections;
        let changed = connections.take_changed();
        for &id in &changed {
            let Some(c) = connections.table.get_mut(id) else { continue };
            c.is_listed = false;
            let (record, counters) = (&mut connections.record, &mut connections.counters);
            let outcome = connections.io.transmit(&mut c.io, record, &[], counters);
            connections.handle_written(id, outcome);
            connections.finish_draining(id);
        }
        connections.io.outbox.clear();
        connections.end_turn(changed);
    }
}

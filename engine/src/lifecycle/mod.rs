//! The lifecycle of connections, which the epoll and the tokio-uring engine share.
//!
//! [`Connections`] owns the table, the timers, the state of the listeners and the counters. It
//! calls the handler, applies what the handler asks for, and answers [`Worker`](crate::Worker). An
//! engine owns one `Connections`, moves the bytes behind [`Io`], and reports what its sockets do.
//!
//! A connection that ends is removed only when the engine reports it, so that `closed` never comes
//! from within another call. The epoll engine does so at the beginning of the next turn, the
//! tokio-uring engine when it finishes a turn. The same holds for `connect_failed`.

mod closing;
mod connection;
mod opening;
mod send_queue;
mod turn;
mod worker;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::DerefMut;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

pub(crate) use self::connection::Connection;
use self::connection::HandlerState;
pub(crate) use self::send_queue::SendQueue;
use crate::accounting::Counters;
use crate::config::{Config, Linger};
use crate::connection::{Cause, CloseMode, ConnId, State};
use crate::handler::Handler;
use crate::incoming::Listeners;
use crate::outgoing;
use crate::output::{Commands, Output, Record};
use crate::pool::BufferPool;
use crate::remote::Inbox;
use crate::spread::{Inlet, Membership};
use crate::table::Table;
use crate::time::Nanos;
use crate::wheel::Wheel;

/// I/O of an engine, as far as the lifecycle depends on it.
pub(crate) trait Io {
    /// I/O of one connection: its socket and its unsent output.
    type Socket: AsFd;
    /// Received bytes for one call of the handler, which can echo ranges of them.
    type Input<'a>: DerefMut<Target = [u8]>;

    /// Begins the I/O of a new socket, which is open or connecting.
    fn register(&mut self, id: ConnId, socket: OwnedFd, state: State) -> io::Result<Self::Socket>;

    /// Returns the number of bytes that the kernel has not accepted.
    fn unsent(socket: &Self::Socket) -> usize;

    /// Sends or queues the segments of one call. `input` holds the bytes that they echo.
    fn write(
        &mut self,
        socket: &mut Self::Socket,
        record: &mut Record,
        input: Option<Self::Input<'_>>,
        counters: &mut Counters,
    ) -> io::Result<Written>;

    /// Continues to receive, or stops because the handler has paused.
    fn set_reading(&mut self, id: ConnId, socket: &mut Self::Socket, is_on: bool);

    /// Discards the unsent output of a connection that has ended, and ends its operations.
    fn discard(&mut self, id: ConnId, socket: &mut Self::Socket, pool: &mut BufferPool);

    /// Decides whether a send whose time limit has passed is stalled. If it is not stalled, the
    /// caller gives the send a new limit of [`Config::write_stall`] from now.
    fn is_stalled(&mut self, _id: ConnId, _socket: &mut Self::Socket) -> bool {
        true
    }
}

/// Outcome of writing output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing is left to do.
    Done,
    /// The output leaves at the end of the turn.
    Queued,
    /// The kernel has not accepted everything. The rest leaves when the socket is writable.
    Partly,
}

/// Limits of the configuration.
pub(crate) struct Limits {
    max_accepted: usize,
    max_connects: usize,
    pub(crate) high_water: usize,
    write_stall: Duration,
    linger: Linger,
    outgoing: outgoing::Options,
}

/// Numbers of connections.
#[derive(Default)]
struct Counts {
    /// Accepted connections in the table.
    accepted: usize,
    /// Outgoing connections in the table, with those that are connecting.
    outgoing: usize,
    /// Connections that the handler has opened and not seen closed.
    opened: usize,
}

/// Connections that are ending or have ended. Open ones cost nothing here.
#[derive(Default)]
struct Ended {
    /// Connections to report as closed.
    connections: Vec<(ConnId, Cause)>,
    /// Tags and errors of failed connects to report.
    connects: Vec<(u64, io::Error)>,
    /// Discarded input of connections that drain or linger, in bytes.
    discarded: HashMap<ConnId, u64>,
}

/// Timers of the connections, and the worker's alarm.
struct Timers {
    wheel: Wheel,
    /// Slots whose time has come; empty between turns.
    due: Vec<u32>,
    alarm: Nanos,
}

/// All connections of one worker, with everything but their I/O.
pub(crate) struct Connections<H: Handler, I: Io> {
    pub(crate) table: Table<Connection<H::Conn, I::Socket>>,
    pub(crate) io: I,
    pub(crate) record: Record,
    timers: Timers,
    /// Connections with output or a close to handle at the end of the turn.
    changed: Vec<ConnId>,
    ended: Ended,
    listeners: Listeners,
    /// The worker's place among those that spread their connections evenly.
    spread: Option<Membership>,
    /// Other workers may have handed connections over.
    expects_handed_over: bool,
    counts: Counts,
    pub(crate) limits: Limits,
    /// Time at which the turn began.
    pub(crate) now: Nanos,
    pub(crate) is_stopping: bool,
    pub(crate) counters: Counters,
}

impl<H: Handler, I: Io> Connections<H, I> {
    /// Creates an empty table for the connections of `config`, of at most `max_slots`. Other
    /// workers wake the worker of `inbox` when they hand a connection over.
    pub(crate) fn new(config: &Config, io: I, max_slots: u32, inbox: &Inbox) -> io::Result<Self> {
        let slots = config.max_accepted.saturating_add(config.max_connects).min(max_slots as usize);
        let now = Nanos::monotonic();
        let inlet = || Inlet::Queue(VecDeque::new(), inbox.remote());
        Ok(Self {
            table: Table::new(slots),
            io,
            record: Record::new(),
            timers: Timers { wheel: Wheel::new(now, slots), due: Vec::new(), alarm: Nanos::NEVER },
            changed: Vec::new(),
            ended: Ended::default(),
            listeners: Listeners::new(&config.listeners)?,
            spread: config.spread.as_ref().map(|s| s.join(config.max_accepted, inlet())),
            expects_handed_over: false,
            counts: Counts::default(),
            limits: Limits {
                max_accepted: config.max_accepted,
                max_connects: config.max_connects,
                high_water: config.high_water,
                write_stall: config.write_stall,
                linger: config.linger,
                outgoing: outgoing::Options::of(config),
            },
            now,
            is_stopping: false,
            counters: Counters::default(),
        })
    }

    /// Calls `f` with an open connection's state, and applies what it asks for.
    fn call_handler(&mut self, id: ConnId, f: impl FnOnce(&mut H::Conn, &mut Output<'_>)) -> bool {
        self.call_with_input(id, None, |state, _, out| {
            if let HandlerState::Opened(state) = state {
                f(state, out);
            }
        })
    }

    /// Makes one call of the handler for an open connection: sends its output, then applies its
    /// commands.
    fn call_with_input(
        &mut self,
        id: ConnId,
        mut input: Option<I::Input<'_>>,
        f: impl FnOnce(&mut HandlerState<H::Conn>, &mut [u8], &mut Output<'_>),
    ) -> bool {
        let Some(c) = self.table.get_mut(id).filter(|c| c.state == State::Open) else {
            return false;
        };
        let unsent = I::unsent(&c.io);
        c.awaits_drain |= unsent > 0;
        let bytes = input.as_deref_mut().unwrap_or_default();
        let mut out = self.record.begin(self.now, unsent, bytes.len());
        f(&mut c.handler, bytes, &mut out);
        let commands = self.record.take_commands();
        if commands.close == Some(CloseMode::Abort) {
            self.record.discard_segments();
            self.end(id, Cause::Closed);
            return true;
        }
        if input.is_some() || !self.record.segments().is_empty() {
            match self.io.write(&mut c.io, &mut self.record, input, &mut self.counters) {
                Ok(Written::Done) => {}
                Ok(Written::Queued) => list(c, id, &mut self.changed),
                outcome => self.handle_written(id, outcome),
            }
        }
        if !commands.is_empty() {
            self.apply_commands(id, commands);
        }
        true
    }

    fn apply_commands(&mut self, id: ConnId, commands: Commands) {
        let Some(c) = self.table.get_mut(id).filter(|c| c.state == State::Open) else { return };
        if let Some(at) = commands.deadline {
            c.deadline = at.unwrap_or(Nanos::NEVER);
        }
        if let Some(is_paused) = commands.pause {
            c.is_paused = is_paused;
            self.io.set_reading(id, &mut c.io, !is_paused);
        }
        if let Some(mode) = commands.close {
            c.state = State::Draining;
            c.deadline = Nanos::NEVER;
            c.is_finishing = mode == CloseMode::Finish;
            c.has_discarded_all = c.is_finishing || self.limits.linger.bytes == 0;
            list(c, id, &mut self.changed);
            self.io.set_reading(id, &mut c.io, true);
        }
        self.timers.wheel.set(id.slot, c.next_timer());
    }

    /// Handles the outcome of writing output of a connection.
    pub(crate) fn handle_written(&mut self, id: ConnId, outcome: io::Result<Written>) {
        match outcome {
            Ok(Written::Done | Written::Queued) => {}
            Ok(Written::Partly) => {
                let Some(c) = self.table.get_mut(id) else { return };
                c.throttle(I::unsent(&c.io), self.limits.high_water);
                if c.limit == Nanos::NEVER {
                    self.expect_progress(id);
                }
            }
            Err(error) => self.end(id, outgoing::cause(error)),
        }
    }

    /// Restarts the time within which the kernel has to accept more of a connection's output.
    pub(crate) fn expect_progress(&mut self, id: ConnId) {
        if let Some(c) = self.table.get_mut(id) {
            c.awaits_drain = true;
        }
        self.set_limit(id, self.now.limit_after(self.limits.write_stall));
    }

    /// Handles the kernel's acceptance of all output of a connection.
    pub(crate) fn handle_drained(&mut self, handler: &mut H, id: ConnId) {
        let Some(c) = self.table.get_mut(id) else { return };
        c.is_throttled = false;
        let awaits_drain = std::mem::take(&mut c.awaits_drain);
        if c.state == State::Draining {
            list(c, id, &mut self.changed);
        }
        c.limit = Nanos::NEVER;
        self.timers.wheel.set(id.slot, c.next_timer());
        if c.takes_input() {
            self.io.set_reading(id, &mut c.io, true);
        }
        if awaits_drain {
            self.call_handler(id, |c, out| handler.drained(id, c, out));
        }
    }

    /// Continues to receive where the connection takes input.
    fn resume_reading(&mut self, id: ConnId) {
        if let Some(c) = self.table.get_mut(id).filter(|c| c.takes_input()) {
            self.io.set_reading(id, &mut c.io, true);
        }
    }

    /// Hands received bytes to the handler, or discards them when the connection is closing.
    pub(crate) fn handle_received(&mut self, handler: &mut H, id: ConnId, input: I::Input<'_>) {
        let len = input.len() as u64;
        self.counters.bytes_in += len;
        let is_open = self.call_with_input(id, Some(input), |state, bytes, out| {
            if let HandlerState::Opened(state) = state {
                handler.received(id, state, bytes, out);
            }
        });
        if !is_open {
            self.count_discarded(id, len);
        }
    }

    /// Handles the peer's FIN.
    pub(crate) fn handle_eof(&mut self, handler: &mut H, id: ConnId) {
        let Some(c) = self.table.get_mut(id) else { return };
        c.has_eof = true;
        if c.state == State::Lingering {
            return self.end(id, Cause::PeerClosed);
        }
        self.call_handler(id, |c, out| handler.eof(id, c, out));
    }

    /// Sets the engine's own time limit of a connection.
    pub(crate) fn set_limit(&mut self, id: ConnId, limit: Nanos) {
        if let Some(c) = self.table.get_mut(id) {
            c.limit = limit;
            self.timers.wheel.set(id.slot, c.next_timer());
        }
    }
}

/// Adds a connection to the list of those to handle at the end of the turn, unless it is already
/// there.
fn list<C, S>(c: &mut Connection<C, S>, id: ConnId, changed: &mut Vec<ConnId>) {
    if !c.is_listed {
        c.is_listed = true;
        changed.push(id);
    }
}

//! The engine's state and what is done with a connection. Who calls it when is in the parent module.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustix::net::{Shutdown, SocketFlags, shutdown};
use tokio::io::Interest;

use super::connection::{Connection, Phase, ReadBuffers, Write};
use super::tasks::{self, Shared};
use crate::accounting::{Counters, Load};
use crate::config::{Config, Linger};
use crate::connection::{Cause, CloseMode, ConnId, Connect, Origin};
use crate::handler::Handler;
use crate::handler::WorkerCore;
use crate::incoming::{self, Accepted, Gate};
use crate::outgoing;
use crate::output::{Commands, Output, Record, Segment};
use crate::table::Table;
use crate::time::Nanos;
use crate::wheel::Wheel;

/// What this engine reads of the configuration: tasks cannot borrow it.
pub(super) struct Settings {
    max_accepted: usize,
    max_connects: usize,
    high_water: usize,
    write_stall: Duration,
    linger: Linger,
    receive_buffer: usize,
    outgoing: outgoing::Options,
}

impl Settings {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            max_accepted: config.max_accepted,
            max_connects: config.max_connects,
            high_water: config.high_water,
            write_stall: config.write_stall,
            linger: config.linger,
            receive_buffer: config.receive_buffer.max(super::connection::FIRST_READ),
            outgoing: outgoing::Options::of(config),
        }
    }
}

/// A listener of the configuration.
struct Door {
    wanted: bool,
    addr: Option<SocketAddr>,
    /// The accepting task, while it is not to accept.
    task: Option<Waker>,
}

/// What came of an accept.
pub(super) enum Admission {
    /// One was taken; perhaps there are more.
    Next,
    /// The kernel's queue is empty.
    Empty,
    /// No more are to be taken now.
    Shut,
}

/// A write that takes longer than this is a slow one: until then the connection is not read from.
const PATIENCE: Duration = Duration::from_millis(10);

/// The task that is being polled, and which of its halves are due: to wake one of them is to have it polled in this pass.
#[derive(Default)]
struct Polled {
    id: Option<ConnId>,
    reader: bool,
    writer: bool,
}

impl Polled {
    fn wake_reader<C>(&mut self, id: ConnId, c: &mut Connection<C>) {
        if std::mem::take(&mut c.reader_waits) {
            if self.id == Some(id) { self.reader = true } else { wake(c) }
        }
    }

    fn wake_writer<C>(&mut self, id: ConnId, c: &mut Connection<C>) {
        if std::mem::take(&mut c.writer_waits) {
            if self.id == Some(id) { self.writer = true } else { wake(c) }
        }
    }
}

fn wake<C>(c: &Connection<C>) {
    if let Some(task) = &c.task {
        task.wake_by_ref();
    }
}

/// Everything but the handler and the operations in flight.
pub(super) struct Core<H: Handler> {
    settings: Settings,
    /// For spawning tasks.
    pub(super) shared: Weak<Shared<H>>,
    table: Table<Connection<H::Conn>>,
    polled: Polled,
    wheel: Wheel,
    record: Record,
    buffers: ReadBuffers,
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
    open: usize,
    alarm: Nanos,
    now: Nanos,
    /// The clock has been read for the turn that goes on.
    in_turn: bool,
    turn_wanted: bool,
    /// The main task, while it waits for a turn to be wanted.
    main: Option<Waker>,
    stopping: bool,
    counters: Counters,
}

impl<H: Handler> Core<H> {
    pub(super) fn new(config: &Config) -> Self {
        let slots = config.max_accepted.saturating_add(config.max_connects).min(u32::MAX as usize);
        let now = Nanos::monotonic();
        let doors = config.listeners.iter();
        let doors =
            doors.map(|l| Door { wanted: true, addr: l.socket.local_addr().ok(), task: None }).collect();
        Self {
            settings: Settings::of(config),
            shared: Weak::new(),
            table: Table::new(slots),
            polled: Polled::default(),
            wheel: Wheel::new(now, slots),
            record: Record::new(),
            buffers: ReadBuffers::default(),
            dirty: Vec::new(),
            gone: Vec::new(),
            failed: Vec::new(),
            due: Vec::new(),
            doors,
            gate: Gate::Open,
            accepted: 0,
            outgoing: 0,
            open: 0,
            alarm: Nanos::NEVER,
            now,
            in_turn: false,
            turn_wanted: false,
            main: None,
            stopping: false,
            counters: Counters::default(),
        }
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    // ---- turns ----------------------------------------------------------------------------------------------------

    /// Has the main task end the turn when the tasks that are ready now have run.
    pub(super) fn want_turn(&mut self) {
        if !std::mem::replace(&mut self.turn_wanted, true)
            && let Some(main) = self.main.take()
        {
            main.wake();
        }
    }

    /// Ready when a turn is to be ended.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.turn_wanted && self.main.as_ref().is_none_or(|w| !w.will_wake(cx.waker())) {
            self.main = Some(cx.waker().clone());
        }
        self.turn_wanted
    }

    /// The first event of a turn reads the clock.
    fn enter_turn(&mut self) {
        if !std::mem::replace(&mut self.in_turn, true) {
            self.now = Nanos::monotonic();
        }
        self.want_turn();
    }

    /// What belongs to no connection's task, and the end of the turn. Returns the next point at which a turn is needed without
    /// any event.
    pub(super) fn turn(&mut self, handler: &mut H, bits: u64) -> Nanos {
        self.enter_turn();
        self.counters.turns += 1;
        self.counters.enters += 1;
        self.turn_wanted = false;
        self.report_gone(handler);
        for (tag, error) in std::mem::take(&mut self.failed) {
            handler.connect_failed(self, tag, error);
        }
        if matches!(self.gate, Gate::Starved(at) if at <= self.now) {
            self.gate = Gate::Open;
        }
        self.expire(handler);
        if self.alarm <= self.now {
            self.alarm = Nanos::NEVER;
            handler.alarm(self);
        }
        if bits != 0 {
            handler.woken(self, bits);
        }
        handler.turn_end(self);
        self.end_turn();
        let retry = if let Gate::Starved(at) = self.gate { at } else { Nanos::NEVER };
        self.wheel.next().unwrap_or(Nanos::NEVER).min(self.alarm).min(retry)
    }

    /// Before the first turn.
    pub(super) fn start(&mut self, handler: &mut H) {
        handler.start(self);
        self.want_turn();
    }

    /// Everything that was written leaves, once for each connection.
    fn end_turn(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for &id in &dirty {
            if let Some(c) = self.table.get_mut(id) {
                c.dirty = false;
                self.flush(id);
                self.half_close(id);
            }
        }
        dirty.clear();
        self.dirty = dirty;
        self.record.clear_arena();
        self.arrange_doors();
        self.in_turn = false;
        if !(self.gone.is_empty() && self.failed.is_empty()) {
            self.want_turn();
        }
    }

    /// Has what was written to a connection leave.
    fn flush(&mut self, id: ConnId) {
        let Some(c) = self.table.get_mut(id) else { return };
        if c.outbox.unsent() > self.settings.high_water {
            c.throttled = true;
            c.held_back = true;
        }
        if c.outbox.has_chunks() && !c.outbox.is_writing() {
            self.polled.wake_writer(id, c);
            if c.limit == Nanos::NEVER {
                let patience = self.now + PATIENCE;
                self.set_limit(id, patience);
            }
        }
    }

    // ---- tasks of connections -------------------------------------------------------------------------------------

    /// The connection's task runs: this wakes it.
    pub(super) fn register(&mut self, id: ConnId, task: Waker) {
        if let Some(c) = self.table.get_mut(id) {
            c.task = Some(task);
        }
    }

    /// The task of `id` is being polled, for whatever reason.
    pub(super) fn begin_poll(&mut self, id: ConnId) {
        self.polled = Polled { id: Some(id), reader: true, writer: true };
    }

    /// Whether the reader of the task being polled is due.
    pub(super) fn take_reader(&mut self) -> bool {
        std::mem::take(&mut self.polled.reader)
    }

    /// Whether the writer of the task being polled is due.
    pub(super) fn take_writer(&mut self) -> bool {
        std::mem::take(&mut self.polled.writer)
    }

    /// Ends a task's poll; `false` when one of its halves has become due in it.
    pub(super) fn end_poll(&mut self) -> bool {
        let idle = !(self.polled.reader || self.polled.writer);
        if idle {
            self.polled.id = None;
        }
        idle
    }

    // ---- calls of the handler -------------------------------------------------------------------------------------

    /// Calls `f` for an open connection and carries out what it asked for.
    fn tell(&mut self, id: ConnId, f: impl FnOnce(&mut H::Conn, &mut Output<'_>)) -> bool {
        let Some(c) = self.table.get_mut(id).filter(|c| c.is_open()) else { return false };
        let unsent = c.outbox.unsent();
        c.held_back |= unsent > 0;
        let Some(state) = c.state.as_mut() else { return false };
        f(state, &mut self.record.begin(self.now, unsent, 0));
        self.settle(id, &[]);
        self.flush_later(id);
        true
    }

    fn open(&mut self, handler: &mut H, id: ConnId, from: Origin) {
        self.open += 1;
        let state = handler.opened(id, from, &mut self.record.begin(self.now, 0, 0));
        let Some(c) = self.table.get_mut(id) else { return };
        c.state = Some(state);
        let socket = c.socket.clone();
        self.settle(id, &[]);
        self.flush_later(id);
        if let (Some(shared), Some(socket)) = (self.shared.upgrade(), socket) {
            tasks::serve(&shared, id, socket);
        }
    }

    fn deliver(&mut self, handler: &mut H, id: ConnId, mut input: BytesMut) {
        let Some(c) = self.table.get_mut(id) else { return };
        let unsent = c.outbox.unsent();
        c.held_back |= unsent > 0;
        let Some(state) = c.state.as_mut() else { return };
        let mut out = self.record.begin(self.now, unsent, input.len());
        handler.received(id, state, &mut input, &mut out);
        if let [Segment::Echo(range)] = self.record.segments() {
            // The reply lies in the receive buffer: the buffer itself goes out.
            let range = range.start as usize..range.end as usize;
            self.record.discard_segments();
            input.truncate(range.end);
            input.advance(range.start);
            c.outbox.push_received(input);
            self.settle(id, &[]);
        } else {
            self.settle(id, &input);
            self.buffers.put(input);
        }
        // Nothing more of this connection arrives in this turn: its output need not wait for the end.
        self.flush(id);
    }

    fn flush_later(&mut self, id: ConnId) {
        if let Some(c) = self.table.get_mut(id).filter(|c| c.outbox.has_chunks()) {
            mark(c, id, &mut self.dirty);
        }
    }

    /// Carries out what the handler asked for in the call that has just ended.
    fn settle(&mut self, id: ConnId, input: &[u8]) {
        let commands = self.record.take_commands();
        if commands.close == Some(CloseMode::Abort) {
            self.record.discard_segments();
            return self.kill(id, Cause::Closed);
        }
        if !self.record.segments().is_empty() {
            self.queue_segments(id, input);
        }
        if !commands.is_empty() {
            self.obey(id, commands);
        }
    }

    fn queue_segments(&mut self, id: ConnId, input: &[u8]) {
        let Some(c) = self.table.get_mut(id) else { return };
        // The segments are taken out for the while: they lie in the record beside the arena they refer to.
        let mut pool = std::mem::take(self.record.pool());
        let mut segments = std::mem::take(self.record.segments_mut());
        for segment in segments.drain(..) {
            match segment {
                Segment::Owned(buffer) => c.outbox.push_owned(buffer, &mut self.buffers, &mut pool),
                piece => c.outbox.push_copy(self.record.bytes(&piece, input), &mut self.buffers),
            }
        }
        *self.record.segments_mut() = segments;
        *self.record.pool() = pool;
    }

    fn obey(&mut self, id: ConnId, commands: Commands) {
        let Some(c) = self.table.get_mut(id).filter(|c| c.is_open()) else { return };
        if let Some(at) = commands.deadline {
            c.deadline = at.unwrap_or(Nanos::NEVER);
        }
        if let Some(paused) = commands.pause {
            c.paused = paused;
            if paused
                && c.watch.is_none()
                && let (Some(shared), Some(socket)) = (self.shared.upgrade(), &c.socket)
            {
                c.watch = Some(tasks::watch(&shared, id, socket.clone()));
            }
        }
        if commands.close.is_some() {
            c.phase = Phase::Flushing { discarded: 0 };
            c.deadline = Nanos::NEVER;
            mark(c, id, &mut self.dirty);
        }
        if c.wants_input(self.settings.linger.bytes) {
            self.polled.wake_reader(id, c);
        }
        let timer = c.next_timer();
        self.wheel.set(id.slot, timer);
    }

    // ---- reading --------------------------------------------------------------------------------------------------

    /// A buffer for the next read, when one is to begin; `None` when the connection is over.
    pub(super) fn poll_read(&mut self, id: ConnId) -> Poll<Option<BytesMut>> {
        let Some(c) = self.table.get_mut(id).filter(|c| !c.is_dead()) else { return Poll::Ready(None) };
        if c.may_read(self.settings.linger.bytes) {
            return Poll::Ready(Some(self.buffers.take(c.read_size)));
        }
        c.reader_waits = true;
        Poll::Pending
    }

    /// Takes what has been read, when it may be told; whether to go on reading.
    pub(super) fn poll_arrival(
        &mut self,
        handler: &mut H,
        id: ConnId,
        arrival: &mut Option<(io::Result<usize>, BytesMut)>,
    ) -> Poll<bool> {
        let Some(c) = self.table.get_mut(id).filter(|c| !c.is_dead()) else { return Poll::Ready(false) };
        let failed = matches!(arrival, Some((Err(_), _)));
        if !failed && !c.wants_input(self.settings.linger.bytes) {
            c.reader_waits = true;
            return Poll::Pending;
        }
        let Some((outcome, buffer)) = arrival.take() else { return Poll::Ready(true) };
        self.enter_turn();
        self.counters.completions += 1;
        Poll::Ready(match outcome {
            Ok(0) => {
                self.buffers.put(buffer);
                self.ended(handler, id);
                false
            }
            Ok(len) => {
                self.counters.bytes_in += len as u64;
                self.take_in(handler, id, buffer);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.buffers.put(buffer);
                true
            }
            Err(error) => {
                self.kill(id, outgoing::cause(error));
                false
            }
        })
    }

    fn take_in(&mut self, handler: &mut H, id: ConnId, input: BytesMut) {
        let Some(c) = self.table.get_mut(id) else { return };
        c.fit_reads(input.len(), self.settings.receive_buffer);
        match &mut c.phase {
            Phase::Open => return self.deliver(handler, id, input),
            Phase::Flushing { discarded } => *discarded += input.len() as u64,
            Phase::Lingering { discarded } => {
                *discarded += input.len() as u64;
                if *discarded >= self.settings.linger.bytes {
                    self.kill(id, Cause::Closed);
                }
            }
            Phase::Connecting { .. } | Phase::Dead(_) => {}
        }
        self.buffers.put(input);
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

    // ---- writing --------------------------------------------------------------------------------------------------

    /// The next write, when there is one; `None` when the connection is over.
    pub(super) fn poll_write(&mut self, id: ConnId) -> Poll<Option<Write>> {
        let Some(c) = self.table.get_mut(id).filter(|c| !c.is_dead()) else { return Poll::Ready(None) };
        if let Some(write) = c.outbox.begin() {
            return Poll::Ready(Some(write));
        }
        c.writer_waits = true;
        Poll::Pending
    }

    /// A write has ended. Where it took everything, as it does unless the other end is slow, that is no event of a turn: the
    /// handler has nothing to hear.
    pub(super) fn wrote(&mut self, handler: &mut H, id: ConnId, outcome: io::Result<usize>, write: Write) {
        self.counters.completions += 1;
        let Some(c) = self.table.get_mut(id) else { return };
        let sent = match outcome {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return self.kill(id, outgoing::cause(error)),
        };
        self.counters.bytes_out += sent as u64;
        let all = c.outbox.end(write, sent, &mut self.buffers, self.record.pool());
        if c.is_dead() {
            return;
        }
        if c.outbox.unsent() > 0 {
            self.counters.partial_sends += u64::from(!all);
            self.enter_turn();
            return self.expect_progress(id);
        }
        (c.throttled, c.slow) = (false, false);
        if c.wants_input(self.settings.linger.bytes) {
            self.polled.wake_reader(id, c);
        }
        let held_back = std::mem::take(&mut c.held_back);
        let flushing = matches!(c.phase, Phase::Flushing { .. });
        if flushing {
            mark(c, id, &mut self.dirty);
        }
        self.set_limit(id, Nanos::NEVER);
        if flushing || held_back {
            self.enter_turn();
        }
        if held_back {
            self.tell(id, |c, out| handler.drained(id, c, out));
        }
    }

    /// The kernel has not taken everything: the connection is read from meanwhile, and dropped when nothing goes on.
    fn expect_progress(&mut self, id: ConnId) {
        let limit = self.now.limit_after(self.settings.write_stall);
        if let Some(c) = self.table.get_mut(id) {
            (c.slow, c.held_back) = (true, true);
            if c.wants_input(self.settings.linger.bytes) {
                self.polled.wake_reader(id, c);
            }
        }
        self.set_limit(id, limit);
    }

    fn set_limit(&mut self, id: ConnId, limit: Nanos) {
        if let Some(c) = self.table.get_mut(id) {
            c.limit = limit;
            self.wheel.set(id.slot, c.next_timer());
        }
    }

    /// Everything of a connection that the handler closed is sent: our FIN, then wait for the other end's.
    fn half_close(&mut self, id: ConnId) {
        let Some(c) = self.table.get_mut(id) else { return };
        let Phase::Flushing { discarded } = c.phase else { return };
        if c.outbox.unsent() > 0 {
            return;
        }
        if c.eof {
            return self.kill(id, Cause::PeerClosed);
        }
        if let Some(Err(error)) = c.socket.as_ref().map(|socket| shutdown(socket, Shutdown::Write)) {
            // ENOTCONN: a reset has come in between.
            let reset = error == rustix::io::Errno::NOTCONN;
            return self.kill(id, if reset { Cause::Reset } else { Cause::Io(error.into()) });
        }
        let linger = self.settings.linger;
        if linger.time.is_zero() || discarded >= linger.bytes {
            return self.kill(id, Cause::Closed);
        }
        c.phase = Phase::Lingering { discarded };
        self.polled.wake_reader(id, c);
        self.set_limit(id, self.now + linger.time);
    }

    /// Whether something of this turn still waits to be offered to the kernel.
    pub(super) fn is_writing(&self) -> bool {
        self.table.iter().any(|(_, c)| c.outbox.unsent() > 0)
    }

    // ---- beginnings -----------------------------------------------------------------------------------------------

    /// Ready when a listener is to accept.
    pub(super) fn poll_door(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<()> {
        let door = &mut self.doors[index];
        if door.wanted && self.gate == Gate::Open {
            return Poll::Ready(());
        }
        door.task = Some(cx.waker().clone());
        Poll::Pending
    }

    fn arrange_doors(&mut self) {
        if self.gate == Gate::Open {
            let doors = self.doors.iter_mut().filter(|d| d.wanted);
            doors.filter_map(|d| d.task.take()).for_each(Waker::wake);
        }
    }

    /// Accepts one connection, if any is to be accepted.
    pub(super) fn accept(&mut self, handler: &mut H, index: usize, listener: impl AsFd) -> Admission {
        if !self.doors[index].wanted || self.gate != Gate::Open {
            return Admission::Shut;
        }
        self.enter_turn();
        if self.accepted >= self.settings.max_accepted {
            return self.shut_gate(Gate::Full);
        }
        match incoming::accept(listener, SocketFlags::empty()) {
            Accepted::Connection(socket, peer) => self.admit(handler, index, socket, peer),
            Accepted::Nothing => Admission::Empty,
            Accepted::Failed => Admission::Next,
            Accepted::Starved => self.shut_gate(Gate::Starved(self.now + incoming::RETRY)),
        }
    }

    fn admit(
        &mut self,
        handler: &mut H,
        index: usize,
        socket: OwnedFd,
        peer: Option<SocketAddr>,
    ) -> Admission {
        let connection = Connection::new(Some(Rc::new(socket)), true, Phase::Open);
        let Ok(id) = self.table.insert(connection) else { return self.shut_gate(Gate::Full) };
        self.accepted += 1;
        self.counters.accepted += 1;
        self.open(handler, id, Origin::Accepted { listener: index as u16, peer });
        Admission::Next
    }

    fn shut_gate(&mut self, gate: Gate) -> Admission {
        self.gate = gate;
        self.counters.accept_pauses += 1;
        Admission::Shut
    }

    fn begin_connect(&mut self, connect: &Connect) -> io::Result<()> {
        if self.outgoing >= self.settings.max_connects {
            return Err(outgoing::too_many(self.settings.max_connects));
        }
        let socket = super::watch(outgoing::begin(connect, &self.settings.outgoing)?, Interest::WRITABLE)?;
        let connection = Connection::new(None, false, Phase::Connecting { tag: connect.tag, task: None });
        let Ok(id) = self.table.insert(connection) else {
            return Err(outgoing::too_many(self.settings.max_connects));
        };
        self.outgoing += 1;
        if let Some(shared) = self.shared.upgrade()
            && let Some(c) = self.table.get_mut(id)
            && let Phase::Connecting { task, .. } = &mut c.phase
        {
            *task = Some(tasks::connect(&shared, id, socket));
        }
        self.set_limit(id, Nanos::monotonic().limit_after(connect.timeout));
        Ok(())
    }

    /// The outcome of a connect that has not timed out before.
    pub(super) fn connect_ended(&mut self, handler: &mut H, id: ConnId, outcome: io::Result<Rc<OwnedFd>>) {
        self.enter_turn();
        let Some(c) = self.table.get_mut(id) else { return };
        let Phase::Connecting { tag, .. } = c.phase else { return };
        match outcome {
            Ok(socket) => {
                c.socket = Some(socket);
                c.phase = Phase::Open;
                self.counters.connected += 1;
                self.set_limit(id, Nanos::NEVER);
                self.open(handler, id, Origin::Connected { tag });
            }
            Err(error) => self.connect_failed(id, error),
        }
    }

    fn connect_failed(&mut self, id: ConnId, error: io::Error) {
        self.wheel.set(id.slot, Nanos::NEVER);
        let Some(c) = self.table.remove(id) else { return };
        self.outgoing -= 1;
        if let Phase::Connecting { tag, task } = c.phase {
            self.failed.push((tag, error));
            if let Some(task) = task {
                task.abort();
            }
        }
        self.want_turn();
    }

    // ---- ends -----------------------------------------------------------------------------------------------------

    /// The connection is over: its operations in flight are ended by a shutdown of the socket, never dropped. The handler
    /// learns it in the next turn, never from within a call of its own.
    fn kill(&mut self, id: ConnId, cause: Cause) {
        let Some(c) = self.table.get_mut(id).filter(|c| !c.is_dead()) else { return };
        c.phase = Phase::Dead(cause);
        c.outbox.clear(&mut self.buffers, self.record.pool());
        (c.deadline, c.limit) = (Nanos::NEVER, Nanos::NEVER);
        self.wheel.set(id.slot, Nanos::NEVER);
        self.gone.push(id);
        if let Some(socket) = &c.socket {
            // ENOTCONN after a reset: then nothing is in flight any more.
            let _ = shutdown(socket, Shutdown::Both);
        }
        self.polled.wake_reader(id, c);
        self.polled.wake_writer(id, c);
        self.want_turn();
    }

    /// Handles a reset that the watch has seen. While reads go on, a receive reports it, after the input that
    /// arrived before.
    pub(super) fn was_reset(&mut self, id: ConnId) {
        if self.table.get_mut(id).is_some_and(|c| c.is_open() && c.paused) {
            self.enter_turn();
            self.kill(id, Cause::Reset);
        }
    }

    fn report_gone(&mut self, handler: &mut H) {
        let mut gone = std::mem::take(&mut self.gone);
        for id in gone.drain(..) {
            self.bury(handler, id);
        }
        self.gone = gone;
    }

    /// Takes a connection out and tells the handler.
    fn bury(&mut self, handler: &mut H, id: ConnId) {
        let Some(mut c) = self.table.remove(id) else { return };
        self.polled.wake_reader(id, &mut c);
        self.polled.wake_writer(id, &mut c);
        self.wheel.set(id.slot, Nanos::NEVER);
        if c.accepted {
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
        if let Some(state) = c.state {
            self.open -= 1;
            self.counters.closed += 1;
            let cause = if let Phase::Dead(cause) = c.phase { cause } else { Cause::Shutdown };
            handler.closed(id, state, cause);
        }
    }

    /// Ends the operations of all connections.
    pub(super) fn kill_all(&mut self) {
        let ids: Vec<ConnId> =
            self.table.iter().filter(|(_, c)| c.socket.is_some()).map(|(id, _)| id).collect();
        for id in ids {
            self.kill(id, Cause::Shutdown);
        }
    }

    /// Ends everything that is still there.
    pub(super) fn shut_down(&mut self, handler: &mut H) {
        let ids: Vec<ConnId> = self.table.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.bury(handler, id);
        }
    }

    // ---- time -----------------------------------------------------------------------------------------------------

    fn expire(&mut self, handler: &mut H) {
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
                Phase::Open | Phase::Flushing { .. } if !c.slow => self.expect_progress(id),
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

/// Puts a connection on the list of the turn's end once.
fn mark<C>(c: &mut Connection<C>, id: ConnId, dirty: &mut Vec<ConnId>) {
    if !c.dirty {
        c.dirty = true;
        dirty.push(id);
    }
}

impl<H: Handler> WorkerCore<H> for Core<H> {
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
        self.doors.get(usize::from(listener)).and_then(|d| d.addr)
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
            load.add(c.paused || c.throttled, c.outbox.unsent());
        }
        load
    }
}

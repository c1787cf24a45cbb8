//! The worker's state, and what completions mean for it. The tasks that wait for them are in
//! `tasks`.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;

use super::socket::{FIRST_RECEIVE, Socket, TaskIo, Write};
use crate::config::Config;
use crate::connection::{Cause, ConnId, State};
use crate::handler::Handler;
use crate::incoming::Accepted;
use crate::lifecycle::{Connection, Connections, Io};
use crate::outgoing;
use crate::remote::Inbox;
use crate::time::Nanos;
use crate::wheel::TICK;

/// Time after which a send counts as slow. Until then the connection is not read from.
const PATIENCE: Duration = Duration::from_millis(10);
const _: () =
    assert!(PATIENCE.as_nanos() >= TICK.as_nanos(), "a timer cannot be finer than a tick");

/// Progress of the turn.
#[derive(Default)]
struct Turn {
    /// The clock has been read for this turn.
    has_begun: bool,
    /// The main task is to finish the turn.
    is_wanted: bool,
    /// The main task, while it waits until the turn is wanted.
    main: Option<Waker>,
}

/// Everything but the handler and the operations in flight.
pub(super) struct Core<H: Handler> {
    pub(super) connections: Connections<H, TaskIo>,
    turn: Turn,
    /// Wakers of listener tasks that wait until the worker may accept at their listener.
    listeners: Vec<Option<Waker>>,
    /// Most bytes of a receive.
    max_receive: usize,
}

impl<H: Handler> Core<H> {
    pub(super) fn new(config: &Config, inbox: &Inbox) -> io::Result<Self> {
        Ok(Self {
            connections: Connections::new(config, TaskIo::default(), u32::MAX, inbox)?,
            turn: Turn::default(),
            listeners: vec![None; config.listeners.len()],
            max_receive: config.receive_buffer.max(FIRST_RECEIVE),
        })
    }

    /// Starts the handler, before the first turn.
    pub(super) fn start(&mut self, handler: &mut H) {
        handler.start(&mut self.connections);
        self.want_turn();
    }

    /// Makes the main task finish the turn once the tasks that are ready now have run.
    pub(super) fn want_turn(&mut self) {
        if !std::mem::replace(&mut self.turn.is_wanted, true)
            && let Some(main) = self.turn.main.take()
        {
            main.wake();
        }
    }

    /// Returns whether the turn is to be finished. If not, the next `want_turn` wakes the calling
    /// task.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> bool {
        let turn = &mut self.turn;
        if !turn.is_wanted && turn.main.as_ref().is_none_or(|main| !main.will_wake(cx.waker())) {
            turn.main = Some(cx.waker().clone());
        }
        turn.is_wanted
    }

    /// Begins the turn at its first event: reads the clock.
    fn enter_turn(&mut self) {
        if !std::mem::replace(&mut self.turn.has_begun, true) {
            self.connections.now = Nanos::monotonic();
        }
        self.want_turn();
    }

    /// Finishes the turn. Returns the time at which the next turn must begin even if no event
    /// arrives. `wake`: the bits of a wake, if there was one.
    pub(super) fn turn(&mut self, handler: &mut H, wake: Option<u64>) -> Nanos {
        self.enter_turn();
        self.connections.counters.turns += 1;
        self.connections.counters.enters += 1;
        self.turn.is_wanted = false;
        self.connections.report_ended(handler);
        if wake.is_some() {
            self.connections.expect_handed_over();
        }
        self.connections.accept_handed_over(handler);
        self.connections.finish_turn(handler, wake.unwrap_or(0));
        self.flush_all();
        for (index, task) in self.listeners.iter_mut().enumerate() {
            if task.is_some() && self.connections.is_accepting(index) {
                task.take().into_iter().for_each(Waker::wake);
            }
        }
        self.turn.has_begun = false;
        if self.connections.has_reports() {
            self.want_turn();
        }
        self.connections.next_timer()
    }

    fn flush_all(&mut self) {
        let changed = self.connections.take_changed();
        for &id in &changed {
            if let Some(c) = self.connections.table.get_mut(id) {
                c.is_listed = false;
                self.flush(id);
                self.connections.finish_draining(id);
            }
        }
        self.connections.end_turn(changed);
    }

    /// Wakes the writer of a connection if a write can begin. Throttles reading above the
    /// high-water mark.
    fn flush(&mut self, id: ConnId) {
        let connections = &mut self.connections;
        let Some(c) = connections.table.get_mut(id) else { return };
        c.throttle(c.io.outbox.unsent(), connections.limits.high_water);
        if c.io.outbox.can_begin() {
            connections.io.wake_writer(id, &mut c.io);
            if c.limit == Nanos::NEVER {
                connections.set_limit(id, connections.now + PATIENCE);
            }
        }
    }

    /// Notes the task of a connection, which can be woken from now on.
    pub(super) fn register_task(&mut self, id: ConnId, task: Waker) {
        if let Some(c) = self.connections.table.get_mut(id) {
            c.io.task = Some(task);
        }
    }

    /// Returns a connection that has not ended.
    fn live(&mut self, id: ConnId) -> Option<&mut Connection<H::Conn, Socket>> {
        self.connections.table.get_mut(id).filter(|c| c.state != State::Closing)
    }

    /// Returns a buffer for the next receive, when one is to begin; `None` when the connection has
    /// ended.
    pub(super) fn poll_receive(&mut self, id: ConnId) -> Poll<Option<BytesMut>> {
        let Some(c) = self.live(id) else { return Poll::Ready(None) };
        if !(c.takes_input() && c.io.may_receive()) {
            c.io.reader_waits = true;
            return Poll::Pending;
        }
        let size = c.io.receive_size;
        Poll::Ready(Some(self.connections.record.pool().take_fitting(size)))
    }

    /// Handles a receive completion once the connection takes input, or at once if it is an error.
    /// Returns whether to receive again.
    pub(super) fn poll_received(
        &mut self,
        handler: &mut H,
        id: ConnId,
        completion: &mut Option<(io::Result<usize>, BytesMut)>,
    ) -> Poll<bool> {
        let max_receive = self.max_receive;
        let Some(c) = self.live(id) else { return Poll::Ready(false) };
        if !c.takes_input() && !matches!(completion, Some((Err(_), _))) {
            c.io.reader_waits = true;
            return Poll::Pending;
        }
        let Some((outcome, buffer)) = completion.take() else { return Poll::Ready(true) };
        if let Ok(len) = outcome {
            c.io.fit_receives(len, max_receive);
        }
        self.enter_turn();
        self.connections.counters.completions += 1;
        match outcome {
            Ok(0) => self.connections.handle_eof(handler, id),
            Ok(_) => {
                self.connections.handle_received(handler, id, buffer);
                // Nothing more of this connection arrives in this turn: its output need not wait.
                self.flush(id);
                return Poll::Ready(true);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Poll::Ready(true),
            Err(error) => self.connections.end(id, outgoing::cause(error)),
        }
        self.connections.record.pool().put(buffer);
        Poll::Ready(false)
    }

    /// Returns the next write, when there is one; `None` when the connection has ended.
    pub(super) fn poll_write(&mut self, id: ConnId) -> Poll<Option<Write>> {
        let Some(c) = self.live(id) else { return Poll::Ready(None) };
        if let Some(write) = c.io.outbox.begin() {
            return Poll::Ready(Some(write));
        }
        c.io.writer_waits = true;
        Poll::Pending
    }

    /// Handles a send completion: bytes accepted, or an error.
    ///
    /// The kernel accepts everything unless the peer is slow. A complete send begins a turn only if
    /// the connection expects a drain. Otherwise the handler is not told of the send.
    pub(super) fn handle_sent(
        &mut self,
        handler: &mut H,
        id: ConnId,
        outcome: io::Result<usize>,
        write: Write,
    ) {
        let connections = &mut self.connections;
        connections.counters.completions += 1;
        let Some(c) = connections.table.get_mut(id) else { return };
        let sent = match outcome {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                connections.end(id, outgoing::cause(error));
                return self.want_turn();
            }
        };
        connections.counters.bytes_out += sent as u64;
        let is_whole = c.io.outbox.end(write, sent, connections.record.pool());
        if c.state == State::Closing {
            return;
        }
        if c.io.outbox.unsent() > 0 {
            connections.counters.partial_sends += u64::from(!is_whole);
            connections.io.begin_slow_send(id, &mut c.io);
            self.enter_turn();
            return self.connections.expect_progress(id);
        }
        c.io.is_slow = false;
        if c.expects_drain() {
            self.enter_turn();
        }
        self.connections.handle_drained(handler, id);
    }

    /// Handles a reset that the watch of a paused connection has reported. While the connection is
    /// read, a receive reports it, after the input that arrived before.
    pub(super) fn handle_reset(&mut self, id: ConnId) {
        let c = self.connections.table.get_mut(id);
        if c.is_some_and(|c| c.state == State::Open && c.is_paused) {
            self.enter_turn();
            self.connections.end(id, Cause::Reset);
        }
    }

    /// Handles the outcome of a connect that has not timed out.
    pub(super) fn complete_connect(
        &mut self,
        handler: &mut H,
        id: ConnId,
        outcome: io::Result<()>,
    ) {
        self.enter_turn();
        if let Some(c) = self.connections.table.get_mut(id) {
            c.io.watch = None;
            if outcome.is_ok() {
                self.connections.io.serve(id, &c.io);
            }
        }
        self.connections.complete_connect(handler, id, outcome);
    }

    /// Returns whether output still waits for the kernel.
    pub(super) fn is_writing(&self) -> bool {
        self.connections.table.iter().any(|(_, c)| TaskIo::unsent(&c.io) > 0)
    }

    /// Returns whether the worker accepts at a listener; if not, the task is woken when it does.
    pub(super) fn poll_accepting(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<()> {
        if self.connections.is_accepting(index) {
            return Poll::Ready(());
        }
        self.listeners[index] = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Accepts one connection, if the worker accepts at this listener.
    pub(super) fn accept(&mut self, handler: &mut H, index: usize, socket: impl AsFd) -> Accepted {
        if self.connections.is_accepting(index) {
            self.enter_turn();
        }
        self.connections.accept(handler, index, socket)
    }
}

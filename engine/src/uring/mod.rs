//! The io_uring engine.
//!
//! A turn, from top to bottom ([`Core::submit_and_wait`], [`Core::go_on`]):
//!
//! 1. one enter: submits what the turn before has queued and waits for completions;
//! 2. completions are taken out of the queue;
//! 3. sends are settled first, errors before anything else: that is what frees receive buffers, which go back to the ring;
//! 4. the handler hears of everything else, in the order of the completions;
//! 5. timers, then the handler's turn end;
//! 6. output is queued, one send for each connection; receives are re-armed, large ones a few at a time; closes go on.
//!
//! **When a buffer is free again.** An echo lies in the receive buffer it came in, and its send has no completion when it
//! takes everything ([`SendMode::Silent`]). Such a send does not wait (MSG_DONTWAIT), so it finishes, one way or the other,
//! while the enter consumes its entry; if it did not take everything there is a completion that says so. Once an enter has
//! consumed all entries and all completions of that enter are taken in, every send without a completion has therefore
//! succeeded, and its buffers are free ([`Core::settle`]). A trial at the start shows whether the running kernel keeps to
//! this; where it does not, every send has a completion and buffers come back only then.
//!
//! In a turn of many sends they have completions all the same, which are there when the enter returns: the kernel notes every silent
//! send in a cache line that the other ends' processors read, which costs more than a completion. In a turn of few the completions
//! would end the wait, and cost an enter.

mod accept;
mod buf_ring;
mod close;
mod connect;
mod hot_set;
#[cfg(feature = "sim")]
pub(crate) mod inspect;
mod kernel;
mod pieces;
mod receive;
mod receive_queue;
pub(crate) mod ring;
mod send;
mod setup;
mod slot;

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::accounting::{Counters, Load};
use crate::config::{Config, SendCompletions, Spin, UringConfig};
use crate::connection::State;
use crate::connection::{Cause, CloseMode, ConnId, Connect};
use crate::error::EngineError;
use crate::handler::Handler;
use crate::handler::{Worker, WorkerCore};
use crate::outgoing;
use crate::output::{Output, Record, Segment};
use crate::remote::Inbox;
use crate::time::Nanos;
use crate::token::{OpKind, Token};
use crate::wheel::Wheel;

use accept::Acceptors;
use hot_set::HotSet;
use kernel::KernelRing;
use pieces::{Bytes, Pieces};
use receive_queue::ReceiveQueue;
use ring::{Completion, Full, Op, Ring, SendMode, Wait};
use send::Messages;
use slot::{Marks, Slot};

/// Sizes of a ring that only tests whether rings work.
const SMALL: UringConfig = UringConfig {
    sq_entries: 8,
    cq_entries: 16,
    buffers: 2,
    buffer_size: 64,
    send_completions: SendCompletions::Auto,
    flush_after: 0,
    large_receive: 0,
    silent_sends: 0,
};

/// Whether the engine works here, by a small ring of all that it needs.
pub(crate) fn probe() -> Result<(), EngineError> {
    if let Some(error) = setup::too_old() {
        return Err(error);
    }
    KernelRing::new(&SMALL, 1, 1)?.try_enter()
}

/// Checks that rings can be set up and entered here. Another user of io_uring needs nothing else.
pub(crate) fn probe_calls() -> Result<(), EngineError> {
    setup::try_enter(&mut setup::ring(&SMALL)?)
}

pub(crate) fn run<H: Handler>(
    config: &Config,
    inbox: Inbox,
    handler: &mut H,
) -> Result<Counters, EngineError> {
    let accepted = if config.listeners.is_empty() { 0 } else { as_slots(config.max_accepted) };
    let ring = KernelRing::new(&config.uring, accepted, as_slots(config.max_connects))?
        .with_outgoing(outgoing::Options::of(config));
    Core::new(ring, config, inbox, accepted)?.run(handler)
}

fn as_slots(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Where a call's echoes lie.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// The call had no bytes.
    Nowhere,
    /// In a receive buffer.
    Buffer(u16),
    /// In bytes that were stashed during a pause.
    Stash(&'a [u8]),
}

/// A worker: everything but the handler.
pub(crate) struct Core<'c, R, H: Handler> {
    ring: R,
    config: &'c Config,
    inbox: Inbox,
    /// Indexed by direct descriptor: first those that the kernel chooses on accept, then those of outgoing connections.
    slots: Vec<Slot<H::Conn>>,
    connects: connect::FreeSlots,
    acceptors: Acceptors,
    wheel: Wheel,
    record: Record,
    pieces: Pieces,
    messages: Messages,
    /// Sends that do not wait finish inside the enter that submits them.
    sends_finish: bool,
    /// How this turn's sends are made.
    send_mode: SendMode,
    /// Which receive buffers the ring has.
    hot: HotSet,
    /// Pieces that lie in each receive buffer.
    named: Vec<u16>,
    /// Receive buffers that are named.
    held: usize,
    /// Bytes of output since sends were last queued.
    written: usize,
    completions: Vec<Completion>,
    /// Completions before this one have had their sends settled.
    settled: usize,
    /// Connections with output in this turn.
    dirty: Vec<u32>,
    /// Connections with a silent send under way.
    silent: Vec<u32>,
    /// Connections whose receive has ended and goes on.
    rearm: Vec<u32>,
    /// Those who wait for a buffer of their own.
    queue: ReceiveQueue,
    /// Connections that are on their way out and may be a step further.
    leaving: Vec<u32>,
    /// Connections whose pause was lifted.
    resumed: Vec<u32>,
    /// Connections whose backlog has gone.
    drained: Vec<u32>,
    due: Vec<u32>,
    /// What a send left, while it is put into a backlog.
    rest: Vec<bytes::BytesMut>,
    failed_connects: Vec<(u64, io::Error)>,
    /// Operations whose last completion is still to come.
    outstanding: usize,
    open: usize,
    alarm: Nanos,
    now: Nanos,
    stopping: bool,
    fatal: Option<EngineError>,
    counters: Counters,
}

impl<'c, R: Ring, H: Handler> Core<'c, R, H> {
    pub(crate) fn new(
        mut ring: R,
        config: &'c Config,
        inbox: Inbox,
        accepted: u32,
    ) -> Result<Self, EngineError> {
        let sends_finish = config.uring.send_completions == SendCompletions::Auto
            && ring.sends_finish_inside_enter().map_err(EngineError::system("trial of sends"))?;
        let now = ring.clock();
        let capacity = accepted as usize + config.max_connects;
        let buffers = ring.buffers();
        Ok(Self {
            ring,
            config,
            inbox,
            slots: Vec::with_capacity(capacity),
            connects: connect::FreeSlots::new(accepted, as_slots(config.max_connects)),
            acceptors: Acceptors::new(config),
            wheel: Wheel::new(now, capacity),
            record: Record::new(),
            pieces: Pieces::new(),
            messages: Messages::new(),
            sends_finish,
            send_mode: SendMode::Prompt,
            hot: HotSet::new(buffers, config.uring.large_receive),
            named: vec![0; buffers],
            held: 0,
            written: 0,
            completions: Vec::with_capacity(config.uring.cq_entries as usize),
            settled: 0,
            dirty: Vec::new(),
            silent: Vec::new(),
            rearm: Vec::new(),
            queue: ReceiveQueue::default(),
            leaving: Vec::new(),
            resumed: Vec::new(),
            drained: Vec::new(),
            due: Vec::new(),
            rest: Vec::new(),
            failed_connects: Vec::new(),
            outstanding: 0,
            open: 0,
            alarm: Nanos::NEVER,
            now,
            stopping: false,
            fatal: None,
            counters: Counters::default(),
        })
    }

    fn run(mut self, handler: &mut H) -> Result<Counters, EngineError> {
        self.begin(handler);
        while !self.is_over() {
            self.submit_and_wait();
            self.go_on(handler);
        }
        self.finish(handler)
    }

    /// Before the first turn.
    pub(crate) fn begin(&mut self, handler: &mut H) {
        let event = self.inbox.event().as_raw_fd();
        self.push(Token::new(OpKind::Wake, 0, 0), Op::Poll { fd: event });
        self.acceptors.check = true;
        handler.start(&mut Worker::new(self));
        self.queue_all();
    }

    /// No further turn is wanted, or possible.
    pub(crate) fn is_over(&self) -> bool {
        self.stopping || self.fatal.is_some()
    }

    /// The first half of a turn: what the kernel does.
    pub(crate) fn submit_and_wait(&mut self) {
        if self.held * 2 > self.ring.buffers() {
            // Waiting would keep most buffers from the ring: submit and settle first.
            self.submit();
            self.collect();
            self.settle();
        }
        self.wait();
    }

    /// The second half of a turn: what comes of it.
    pub(crate) fn go_on(&mut self, handler: &mut H) {
        self.now = self.ring.clock();
        self.counters.turns += 1;
        self.collect();
        self.settle();
        self.dispatch(handler);
        self.timers(handler);
        handler.turn_end(&mut Worker::new(self));
        self.queue_all();
    }

    /// Everything that the turn has left to be submitted.
    fn queue_all(&mut self) {
        self.queue_output();
        // What nobody echoed went back in this turn.
        self.offer_buffers();
        self.queue_receives();
        self.step_leaving();
        self.queue_accepts();
    }

    /// Puts as many receive buffers into the ring as the next enter may take.
    fn offer_buffers(&mut self) {
        while let Some(id) = self.hot.next() {
            self.ring.offer(id);
        }
        self.ring.publish();
    }

    // ---- submitting and waiting

    /// Queues an operation.
    ///
    /// What it points at lives as [`Ring::push`] asks: bytes of receive buffers are given back and chunks of a backlog freed
    /// only when their send is settled; the arena is cleared only after a full submission in which all its sends were settled
    /// (or its bytes were copied, where sends may last longer); message headers and addresses stay until the entries are consumed.
    fn push(&mut self, token: Token, op: Op) {
        let finishes = self.sends_finish
            && matches!(op, Op::Send { mode, .. } | Op::SendMessage { mode, .. } if mode != SendMode::Patient);
        while self.fatal.is_none() {
            // SAFETY: as said above; each caller names the memory it passes.
            match unsafe { self.ring.push(token, op) } {
                Ok(()) => {
                    self.outstanding += usize::from(!finishes);
                    return;
                }
                Err(Full) => self.submit(),
            }
        }
    }

    /// Submits everything that is queued, without waiting.
    fn submit(&mut self) {
        let mut attempts = 0;
        while self.ring.unsubmitted() > 0 && self.fatal.is_none() {
            attempts += 1;
            self.enter(Wait::Submit, attempts);
        }
    }

    /// Submits, and waits for a completion or for the next point in time at which something is due.
    fn wait(&mut self) {
        let mut wait = self.next_wait();
        if wait != Wait::No && self.config.spin != Spin::Off {
            self.submit();
            // A submission that was refused has taken completions in: with those in hand there is nothing to wait for.
            wait = if self.completions.is_empty() { self.spin(wait) } else { Wait::No };
        }
        self.enter(wait, 1);
        self.submit();
    }

    fn next_wait(&self) -> Wait {
        let something_to_do = !self.completions.is_empty()
            || !self.failed_connects.is_empty()
            || !self.resumed.is_empty()
            || !self.drained.is_empty()
            || !self.leaving.is_empty()
            || !self.queue.is_empty();
        if something_to_do {
            return Wait::No;
        }
        let timer = self.wheel.next().unwrap_or(Nanos::NEVER);
        Wait::Until(self.alarm.min(timer).min(self.acceptors.retry))
    }

    /// Looks for completions without blocking, as long as configured; returns how to wait afterwards.
    fn spin(&mut self, wait: Wait) -> Wait {
        let Wait::Until(until) = wait else { return wait };
        let end = match self.config.spin {
            Spin::Off => return wait,
            Spin::For(span) => self.ring.clock() + span,
            Spin::Always => Nanos::NEVER,
        };
        loop {
            // The clock is read once for many looks: a look is two loads.
            for _ in 0..32 {
                if self.ring.ready() {
                    return Wait::No;
                }
                std::hint::spin_loop();
            }
            let now = self.ring.clock();
            if now >= until {
                return Wait::No;
            }
            if now >= end {
                return wait;
            }
        }
    }

    fn enter(&mut self, wait: Wait, attempt: u32) {
        self.counters.enters += 1;
        let Err(error) = self.ring.enter(wait) else { return };
        match error.raw_os_error() {
            // A signal: its handler has run, the turn goes on.
            Some(libc::EINTR) => {}
            // Completions must be taken in before the kernel accepts more (EBUSY), or memory for requests is short
            // (EAGAIN), which completions give back.
            Some(libc::EBUSY | libc::EAGAIN) if attempt < 1000 => {
                self.collect();
                if attempt > 10 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            _ => self.fatal = Some(EngineError::System { what: "io_uring_enter", source: error }),
        }
    }

    /// Takes in all completions, also those that found no room in the queue.
    fn collect(&mut self) {
        loop {
            while let Some(completion) = self.ring.completion() {
                if completion.buffer.is_some() {
                    self.hot.taken(completion.result.max(0).cast_unsigned() as usize);
                }
                self.completions.push(completion);
            }
            if !self.ring.overflowed() || self.fatal.is_some() {
                return;
            }
            self.counters.overflows += 1;
            self.counters.enters += 1;
            if let Err(source) = self.ring.enter(Wait::No)
                && !matches!(source.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
            {
                self.fatal = Some(EngineError::System { what: "io_uring_enter", source });
            }
        }
    }

    // ---- completions

    /// Settles sends: first those that tell of something, then, all entries being consumed and all completions taken in, the
    /// silent ones, which have taken everything. Then nothing refers to the buffers given back any more.
    fn settle(&mut self) {
        debug_assert!(
            self.fatal.is_some() || self.ring.unsubmitted() == 0,
            "settling before all is submitted"
        );
        // Not with every submission: one that makes room in a full queue comes between a header and its entry.
        self.messages.reuse();
        while self.settled < self.completions.len() {
            let completion = self.completions[self.settled];
            self.settled += 1;
            if completion.token.kind() == Some(OpKind::Send) {
                self.on_sent(completion);
            }
        }
        while let Some(slot) = self.silent.pop() {
            if self.slots[slot as usize].marks.any(Marks::SENDING) {
                self.on_sent_all(slot);
            }
        }
        // What a send that may last longer wrote into the arena was copied: nothing needs the arena now.
        self.record.clear_arena();
        self.hot.end_round();
        self.offer_buffers();
    }

    /// Tells the handler of everything that has happened.
    fn dispatch(&mut self, handler: &mut H) {
        for (tag, error) in std::mem::take(&mut self.failed_connects) {
            handler.connect_failed(&mut Worker::new(self), tag, error);
        }
        // What a flush collects waits for the next turn: this one must come to its end.
        let of_this_turn = self.completions.len();
        for next in 0..of_this_turn {
            let completion = self.completions[next];
            self.counters.completions += 1;
            self.on_completion(handler, completion, next >= self.settled);
            // What the last one wrote leaves at once anyway.
            if self.written >= self.config.uring.flush_after && next + 1 < of_this_turn {
                self.flush();
            }
        }
        self.completions.drain(..of_this_turn);
        self.settled -= of_this_turn;
        self.tell_drained(handler);
        self.deliver_stashes(handler);
    }

    /// Sends what the turn has written so far.
    #[cold]
    fn flush(&mut self) {
        self.queue_output();
        self.submit();
        self.collect();
        self.settle();
    }

    fn on_completion(&mut self, handler: &mut H, c: Completion, unsettled: bool) {
        let Some(kind) = c.token.kind() else {
            debug_assert!(false, "a completion without a token");
            return;
        };
        self.count_off(c);
        match kind {
            OpKind::Send if unsettled => self.on_sent(c),
            OpKind::Send | OpKind::Cancel => {}
            OpKind::Accept => self.on_accept(handler, c),
            OpKind::Wake => self.on_wake(handler, c.more),
            OpKind::Connect => self.on_connect(handler, c),
            OpKind::Receive => self.on_receive(handler, c),
            OpKind::Backlog => self.on_backlog(c),
            OpKind::Shutdown => self.on_shutdown(c),
            OpKind::Watch => self.on_watch(c),
            OpKind::Close => self.on_close(handler, c.token),
        }
    }

    fn on_wake(&mut self, handler: &mut H, more: bool) {
        let bits = self.inbox.take();
        if !more {
            let event = self.inbox.event().as_raw_fd();
            self.push(Token::new(OpKind::Wake, 0, 0), Op::Poll { fd: event });
        }
        if bits != 0 {
            handler.woken(&mut Worker::new(self), bits);
        }
    }

    /// Takes an operation off the count when this was its last completion. Sends that finish inside the enter were never counted.
    fn count_off(&mut self, c: Completion) {
        let finished = c.token.kind() == Some(OpKind::Send) && self.sends_finish;
        if !c.more && !finished {
            self.outstanding -= 1;
        }
    }

    /// The connection a completion belongs to; `None` for one that is gone.
    fn live(&mut self, token: Token) -> Option<&mut Slot<H::Conn>> {
        self.slots.get_mut(token.slot() as usize).filter(|s| s.owns(token))
    }

    // ---- what the handler asked for

    /// Takes over what a call of the handler wrote and asked for.
    fn absorb(&mut self, slot: u32, source: Source<'_>) {
        if !self.record.segments().is_empty() {
            let mut segments = std::mem::take(self.record.segments_mut());
            for segment in segments.drain(..) {
                self.absorb_segment(slot, segment, source);
            }
            *self.record.segments_mut() = segments;
            let s = &mut self.slots[slot as usize];
            if !s.marks.any(Marks::DIRTY) {
                s.marks.set(Marks::DIRTY);
                self.dirty.push(slot);
            }
        }
        let commands = self.record.take_commands();
        if !commands.is_empty() {
            if let Some(at) = commands.deadline {
                self.slots[slot as usize].deadline = at.unwrap_or(Nanos::NEVER);
                self.reschedule(slot);
            }
            match commands.pause {
                Some(true) => self.pause(slot),
                Some(false) => self.resume(slot),
                None => {}
            }
            match commands.close {
                Some(CloseMode::Flush) => self.begin_drain(slot),
                Some(CloseMode::Abort) => self.end(slot, Cause::Closed),
                None => {}
            }
        }
    }

    fn absorb_segment(&mut self, slot: u32, segment: Segment, source: Source<'_>) {
        let bytes = match (segment, source) {
            (Segment::Arena(range), _) => Bytes::Arena { start: range.start, end: range.end },
            (Segment::Owned(buffer), _) => Bytes::Owned(buffer),
            (Segment::Echo(range), Source::Buffer(id)) => {
                if !mutated!(BufferReturnedEarly) {
                    self.name_buffer(id);
                }
                Bytes::Buffer { id, start: range.start, end: range.end }
            }
            (Segment::Echo(range), Source::Stash(stash)) => {
                let mut copy = self.record.pool().take();
                copy.extend_from_slice(&stash[range.start as usize..range.end as usize]);
                Bytes::Owned(copy)
            }
            (Segment::Echo(_), Source::Nowhere) => unreachable!("Output::echo checks the range"),
        };
        self.written += bytes.len();
        self.pieces.append(&mut self.slots[slot as usize].chain, bytes);
    }

    // ---- time

    /// Puts the connection's earlier time into the wheel.
    fn reschedule(&mut self, slot: u32) {
        self.wheel.set(slot, self.slots[slot as usize].next_time());
    }

    fn set_timer(&mut self, slot: u32, at: Nanos) {
        self.slots[slot as usize].timer = at;
        self.reschedule(slot);
    }

    fn timers(&mut self, handler: &mut H) {
        if self.alarm <= self.now {
            self.alarm = Nanos::NEVER;
            handler.alarm(&mut Worker::new(self));
        }
        if self.acceptors.retry <= self.now {
            self.acceptors.retry = Nanos::NEVER;
            self.acceptors.check = true;
        }
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.now, &mut due);
        for slot in due.drain(..) {
            self.on_time(handler, slot);
        }
        self.due = due;
    }

    fn on_time(&mut self, handler: &mut H, slot: u32) {
        if self.slots[slot as usize].timer <= self.now {
            self.slots[slot as usize].timer = Nanos::NEVER;
            self.on_timer(slot);
        }
        let s = &mut self.slots[slot as usize];
        if s.deadline <= self.now {
            s.deadline = Nanos::NEVER;
            let (id, unsent) = (s.id(slot), s.unsent());
            if s.state == State::Open
                && let Some(conn) = s.conn.as_mut()
            {
                let mut out = self.record.begin(self.now, unsent, 0);
                handler.deadline(id, conn, &mut out);
                self.absorb(slot, Source::Nowhere);
            }
        }
        self.reschedule(slot);
    }

    /// The engine's own time for a connection has come.
    fn on_timer(&mut self, slot: u32) {
        let s = &self.slots[slot as usize];
        match s.state {
            State::Connecting => self.time_out_connect(slot),
            State::Open | State::Draining if s.backlog_bytes() > 0 => self.end(slot, Cause::WriteStalled),
            State::Lingering => self.end(slot, Cause::Closed),
            _ => {}
        }
    }
}

impl<R: Ring, H: Handler> WorkerCore<H> for Core<'_, R, H> {
    fn now(&self) -> Nanos {
        self.now
    }

    fn clock(&self) -> Nanos {
        self.ring.clock()
    }

    fn connect(&mut self, connect: Connect) {
        self.begin_connect(&connect);
    }

    fn with(&mut self, id: ConnId, f: &mut dyn FnMut(&mut H::Conn, &mut Output<'_>)) -> bool {
        let Some(s) = self.slots.get_mut(id.slot as usize) else { return false };
        if s.generation != id.generation || s.state != State::Open {
            return false;
        }
        let unsent = s.unsent();
        let Some(conn) = s.conn.as_mut() else { return false };
        let mut out = self.record.begin(self.now, unsent, 0);
        f(conn, &mut out);
        self.absorb(id.slot, Source::Nowhere);
        true
    }

    fn abort(&mut self, id: ConnId) {
        if self.slots.get(id.slot as usize).is_some_and(|s| s.generation == id.generation) {
            self.end(id.slot, Cause::Closed);
        }
    }

    fn connections(&self) -> usize {
        self.open
    }

    fn ids(&self) -> Vec<ConnId> {
        let open = |(slot, s): (usize, &Slot<H::Conn>)| (s.state == State::Open).then(|| s.id(slot as u32));
        self.slots.iter().enumerate().filter_map(open).collect()
    }

    fn set_alarm(&mut self, at: Option<Nanos>) {
        self.alarm = at.unwrap_or(Nanos::NEVER);
    }

    fn listening(&mut self, listener: u16, on: bool) {
        self.acceptors.listening(listener, on);
    }

    fn local_addr(&self, listener: u16) -> Option<std::net::SocketAddr> {
        self.config.listeners.get(usize::from(listener))?.socket.local_addr().ok()
    }

    fn stop(&mut self) {
        self.stopping = true;
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn load(&self) -> Load {
        let mut load = Load::default();
        for s in self.slots.iter().filter(|s| s.conn.is_some()) {
            load.add(s.marks.any(Marks::PAUSED | Marks::HELD_BACK), s.unsent());
        }
        load
    }
}

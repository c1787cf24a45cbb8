//! The worker's turn.
//!
//! [`Core::submit_and_wait`] and [`Core::finish_turn`] are a turn, from top to bottom. The parts
//! that the core owns do the work; each takes what it needs as arguments. [`super::events`] has the
//! meaning of each completion and the calls of the handler.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use crate::accounting::Counters;
use crate::config::Config;
use crate::connection::{Cause, State};
use crate::error::EngineError;
use crate::handler::Handler;
use crate::remote::Inbox;
use crate::spread::{Inlet, Membership};
use crate::token::{OpKind, Token};
use crate::uring::accept::{self, Acceptors};
use crate::uring::closing::Closing;
use crate::uring::connect::Connects;
use crate::uring::inbound::Inbound;
use crate::uring::memory::Memory;
use crate::uring::outbound::Outbound;
use crate::uring::queues::Queues;
use crate::uring::receive_buffers::ReceiveBuffers;
use crate::uring::ring::{BufferRing, Op, Ring, Wait};
use crate::uring::slots::{Flags, Slots};
use crate::uring::timers::Timers;

/// Most time that the end of a worker waits for operations that were cancelled.
const QUIESCE: Duration = Duration::from_secs(1);

/// A worker: everything but the handler.
pub(crate) struct Core<'c, R, B, H: Handler> {
    pub(super) config: &'c Config,
    pub(super) inbox: Inbox,
    // Before the memory that operations use: fields are dropped in order.
    pub(super) queues: Queues<R>,
    pub(super) memory: Memory<B>,
    pub(super) slots: Slots<H::Conn>,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound<'c>,
    pub(super) closing: Closing,
    pub(super) acceptors: Acceptors<'c>,
    pub(super) connects: Connects,
    pub(super) timers: Timers,
    pub(super) counters: Counters,
    /// Bits of wakes that have not been reported.
    pub(super) wakes: u64,
    pub(super) stopping: bool,
}

impl<'c, R: Ring, B: BufferRing, H: Handler> Core<'c, R, B, H> {
    /// A worker over a ring and its receive buffers, with `accepted` slots for accepted
    /// connections.
    pub(crate) fn new(
        (mut ring, buffers): (R, B),
        config: &'c Config,
        inbox: Inbox,
        accepted: u32,
    ) -> Result<Self, EngineError> {
        let uring = &config.uring;
        let sends_finish = uring.send_completions == crate::SendCompletions::Auto
            && ring.sends_finish_inside_enter().map_err(EngineError::system("trial of sends"))?;
        let names_peers =
            ring.tells_peer_addresses().map_err(EngineError::system("trial of peer addresses"))?;
        let spread = join(&mut ring, config, names_peers)?;
        let capacity = accepted as usize + config.max_connects;
        Ok(Self {
            config,
            inbox,
            timers: Timers::new(ring.clock(), capacity),
            queues: Queues::new(ring, sends_finish, uring.cq_entries as usize),
            memory: Memory::new(ReceiveBuffers::new(buffers, uring.large_receive)),
            slots: Slots::new(capacity),
            inbound: Inbound::new(uring.large_receive),
            outbound: Outbound::new(config),
            closing: Closing::default(),
            acceptors: Acceptors::new(config, names_peers, spread),
            connects: Connects::new(accepted, super::as_slots(config.max_connects)),
            counters: Counters::default(),
            wakes: 0,
            stopping: false,
        })
    }

    /// Runs turns until the handler stops the worker, or none is possible.
    pub(super) fn run(mut self, handler: &mut H) -> Result<Counters, EngineError> {
        self.begin(handler);
        while !self.is_over() {
            self.submit_and_wait();
            self.finish_turn(handler);
        }
        self.finish(handler)
    }

    /// Prepares the first turn.
    pub(crate) fn begin(&mut self, handler: &mut H) {
        self.watch_inbox();
        handler.start(self);
        self.queue_all();
    }

    /// Returns whether no further turn is wanted, or possible.
    pub(crate) fn is_over(&self) -> bool {
        self.stopping || self.queues.failure.is_some()
    }

    /// First half of a turn: submits operations, and waits for a completion or for the next timer.
    pub(crate) fn submit_and_wait(&mut self) {
        if self.memory.receive.is_short() {
            // A wait would keep most buffers from the kernel: completing the sends first returns
            // them.
            self.queues.submit();
            self.queues.collect();
            self.complete_sends();
        }
        let has_work = self.queues.collected() > 0
            || self.connects.has_reports()
            || self.inbound.has_work()
            || self.outbound.has_reports()
            || self.closing.has_work();
        let wait = if has_work {
            Wait::No
        } else {
            Wait::Until(self.timers.next().min(self.acceptors.retry()))
        };
        self.queues.wait(wait, self.config.spin);
    }

    /// Second half of a turn: handles completions, timers and wakes, and queues what follows from
    /// them.
    pub(crate) fn finish_turn(&mut self, handler: &mut H) {
        self.timers.now = self.queues.clock();
        self.counters.turns += 1;
        self.queues.collect();
        self.complete_sends();
        self.dispatch(handler);
        self.fire_timers(handler);
        self.report_wakes(handler);
        handler.turn_end(self);
        self.queue_all();
    }

    /// Queues everything that the turn has left to be submitted.
    fn queue_all(&mut self) {
        self.queue_sends();
        // Buffers without an echo were returned in this turn.
        self.memory.receive.offer();
        self.inbound.arm_receives(
            &mut self.slots,
            &mut self.queues,
            self.memory.receive.supply.offered(),
        );
        if self.closing.has_work() {
            self.closing.step(
                &mut self.slots,
                &mut self.queues,
                &mut self.timers,
                self.config.linger,
            );
        }
        self.acceptors.arm(&mut self.queues, &mut self.counters);
    }

    fn queue_sends(&mut self) {
        self.outbound.queue_sends(
            &mut self.slots,
            &mut self.memory,
            &mut self.queues,
            &mut self.timers,
        );
    }

    // ---- completions

    /// Completes sends: first those that have a completion, then the silent ones. All entries have
    /// been consumed and all completions collected by then, so a silent send without a completion
    /// has been accepted whole. Nothing refers to the receive buffers of completed sends any more.
    fn complete_sends(&mut self) {
        debug_assert!(
            self.queues.failure.is_some() || self.queues.is_submitted(),
            "sends are completed before all is submitted"
        );
        // Not with every submission: one that makes room in a full queue comes between a header and
        // its entry.
        self.outbound.reuse_headers();
        self.first_pass();
        while let Some(slot) = self.outbound.pop_silent() {
            let s = &mut self.slots[slot];
            if s.flags.any(Flags::SENDING) {
                self.outbound.complete_silent(s, &mut self.memory, &mut self.counters);
                self.after_send(slot);
            }
        }
        // Bytes of sends that may last longer were copied: nothing needs the arena now.
        self.memory.record.clear_arena();
        self.memory.receive.supply.end_round();
        self.memory.receive.offer();
    }

    /// First pass over new completions: takes over receive buffers and addresses, and completes
    /// sends before anything else, since that returns receive buffers.
    fn first_pass(&mut self) {
        while let Some(c) = self.queues.next_to_pass() {
            if let Some(id) = c.buffer {
                self.memory.receive.taken(id, c.result.max(0).cast_unsigned() as usize);
            } else {
                match c.token.kind() {
                    Some(OpKind::Send) => self.on_sent(c),
                    Some(OpKind::PeerAddress) => self.acceptors.peer_answered(c.token.slot()),
                    _ => {}
                }
            }
        }
    }

    /// Reports everything that has happened to the handler.
    fn dispatch(&mut self, handler: &mut H) {
        if self.connects.has_reports() {
            for (tag, error) in self.connects.take_failed() {
                handler.connect_failed(self, tag, error);
            }
            // An operation that the handler has queued may have collected completions.
            self.first_pass();
        }
        // Completions collected by a flush wait for the next turn, so that this one comes to its
        // end.
        let of_this_turn = self.queues.collected();
        for next in 0..of_this_turn {
            self.counters.completions += 1;
            self.on_completion(handler, self.queues.completion(next));
            // The output of the last completion is sent at once anyway.
            if self.outbound.should_flush() && next + 1 < of_this_turn {
                self.flush();
            }
        }
        self.queues.drop_handled(of_this_turn);
        self.report_drained(handler);
        if self.inbound.has_resumed() {
            self.deliver_stashes(handler);
        }
    }

    /// Sends what the turn has written so far.
    #[cold]
    fn flush(&mut self) {
        self.queue_sends();
        self.queues.submit();
        self.queues.collect();
        self.complete_sends();
    }

    // ---- timers and wakes

    /// Reports deadlines and the alarm, and handles the engine's own timers.
    fn fire_timers(&mut self, handler: &mut H) {
        self.acceptors.retry_if_due(self.timers.now);
        let due = self.timers.take_due();
        for &slot in &due {
            self.on_timer(handler, slot);
        }
        self.timers.put_back(due);
        if self.timers.take_alarm() {
            handler.alarm(self);
        }
    }

    fn report_wakes(&mut self, handler: &mut H) {
        let bits = std::mem::take(&mut self.wakes);
        if bits != 0 {
            handler.woken(self, bits);
        }
    }

    /// Asks the kernel to report wakes from other threads.
    pub(super) fn watch_inbox(&mut self) {
        let fd = self.inbox.event().as_raw_fd();
        self.queues.push(Token::new(OpKind::Wake, 0, 0), Op::Poll { fd });
    }

    // ---- the end of the run

    /// Ends the run. Offers the turn's output to the kernel once, and reports every connection
    /// closed. Afterwards no operation can touch memory that is about to be freed.
    pub(crate) fn finish(mut self, handler: &mut H) -> Result<Counters, EngineError> {
        self.acceptors.leave();
        self.queues.submit();
        self.queues.collect();
        if self.queues.failure.is_none() && self.queues.is_submitted() {
            self.complete_sends();
        }
        for slot in 0..self.slots.len() {
            let s = &mut self.slots[slot];
            if let Some(conn) = s.conn.take() {
                let cause =
                    s.extra.as_mut().and_then(|e| e.cause.take()).unwrap_or(Cause::Shutdown);
                let id = s.id(slot);
                self.counters.closed += 1;
                handler.closed(id, conn, cause);
            }
        }
        let is_quiet = self.quiesce();
        let counters = self.counted();
        let failure = self.queues.failure.take();
        if !is_quiet {
            // Operations are still in progress after a second: memory that the kernel may write to
            // is leaked, not freed.
            tracing::warn!(
                outstanding = self.queues.outstanding,
                "operations of the kernel did not end; their memory is leaked"
            );
            std::mem::forget(self);
        }
        failure.map_or(Ok(counters), Err)
    }

    /// Cancels everything, closes all descriptors, and waits for the last completion. Returns
    /// whether it came.
    fn quiesce(&mut self) -> bool {
        self.queues.push(Token::new(OpKind::Cancel, 0, 0), Op::CancelAll);
        for (slot, s) in self.slots.iter() {
            // One that is being handed over is closed with that, or with the ring.
            if s.state != State::Closed && !s.flags.any(Flags::HANDED_OVER) {
                self.queues.push(s.token(OpKind::Close, slot), Op::Close { slot });
            }
        }
        self.queues.submit();
        let end = self.queues.clock() + QUIESCE;
        self.queues.await_all(end, |c| {
            if c.token.kind() == Some(OpKind::HandOver) {
                // A connection that could not be handed over ends with this worker.
                self.acceptors.on_hand_over(c);
            }
        })
    }

    /// The worker's counters.
    pub(super) fn counted(&self) -> Counters {
        Counters { enters: self.queues.enters, overflows: self.queues.overflows, ..self.counters }
    }
}

/// Takes the worker's place among those that spread their connections evenly. `None` where there is
/// none, or the kernel cannot hand connections over.
fn join<R: Ring>(
    ring: &mut R,
    config: &Config,
    names_peers: bool,
) -> Result<Option<Membership>, EngineError> {
    let Some(spread) = &config.spread else { return Ok(None) };
    // A ring that was given a connection has to ask for its peer.
    let works = names_peers
        && ring.hands_over().unwrap_or_else(|error| {
            tracing::warn!(%error, "the trial of handing connections over failed");
            false
        });
    if !works {
        if spread.is_first() {
            tracing::info!(
                "the kernel spreads the connections over the workers, \
                 because it cannot hand them over between rings (Linux 6.7)"
            );
        }
        return Ok(None);
    }
    let descriptor = ring.descriptor().map_err(EngineError::system("descriptor of the ring"))?;
    let reserved = accept::ROOM_FOR_ACCEPTS * config.listeners.len();
    let capacity = config.max_accepted.saturating_sub(reserved);
    Ok(Some(spread.join(capacity, Inlet::Ring(Arc::new(descriptor)))))
}

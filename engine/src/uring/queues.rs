//! Submission and completion queues of a worker.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::Spin;
use crate::error::EngineError;
use crate::time::Nanos;
use crate::token::{OpKind, Token};
use crate::uring::ring::{Completion, Full, Op, Ring, SendMode, Wait};

/// Attempts of an enter that the kernel refuses for want of memory or of room for completions.
const ENTER_ATTEMPTS: u32 = 1000;
/// Attempts without a pause.
const PROMPT_ATTEMPTS: u32 = 10;
/// Polls of the completion queue between two readings of the clock: a poll is two loads.
const POLLS_PER_CLOCK: u32 = 32;

/// Operations on their way to the kernel, and completions on their way back.
pub(super) struct Queues<R> {
    ring: R,
    /// Completions that have been collected and not yet been handled.
    completions: Vec<Completion>,
    /// Number of those that have had their first pass.
    passed: usize,
    /// Operations whose last completion has not been handled. Sends that finish inside the enter
    /// are not counted.
    pub(super) outstanding: usize,
    /// True if sends that do not wait finish inside the enter that submits them.
    pub(super) sends_finish: bool,
    /// Error after which no turn is possible.
    pub(super) failure: Option<EngineError>,
    /// Calls of io_uring_enter(2).
    pub(super) enters: u64,
    /// Overflows of the completion queue.
    pub(super) overflows: u64,
}

impl<R: Ring> Queues<R> {
    /// Queues over `ring`, with memory for `completions` completions.
    pub(super) fn new(ring: R, sends_finish: bool, completions: usize) -> Self {
        Self {
            ring,
            completions: Vec::with_capacity(completions),
            passed: 0,
            outstanding: 0,
            sends_finish,
            failure: None,
            enters: 0,
            overflows: 0,
        }
    }

    #[cfg(feature = "sim")]
    pub(super) fn ring(&mut self) -> &mut R {
        &mut self.ring
    }

    pub(super) fn clock(&self) -> Nanos {
        self.ring.clock()
    }

    /// Returns whether an enter has consumed every queued operation.
    pub(super) fn is_submitted(&mut self) -> bool {
        self.ring.unsubmitted() == 0
    }

    /// Makes the socket of an outgoing connection in the direct descriptor `slot`.
    pub(super) fn make_socket(
        &mut self,
        slot: u32,
        to: SocketAddr,
        from: Option<SocketAddr>,
    ) -> io::Result<()> {
        self.ring.socket(slot, to, from)
    }

    /// Queues an operation, and submits where the queue is full. What the operation points at obeys
    /// the contract of [`Ring::push`]; each caller says why.
    pub(super) fn push(&mut self, token: Token, op: Op) {
        let finishes = self.sends_finish
            && matches!(op, Op::Send { mode, .. } | Op::SendMessage { mode, .. } if mode != SendMode::Patient);
        while self.failure.is_none() {
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
    pub(super) fn submit(&mut self) {
        let mut attempts = 0;
        while self.ring.unsubmitted() > 0 && self.failure.is_none() {
            attempts += 1;
            self.enter(Wait::Submit, attempts);
        }
    }

    /// Submits, and waits as `wait` says. An idle worker spins first where `spin` says so.
    pub(super) fn wait(&mut self, mut wait: Wait, spin: Spin) {
        if wait != Wait::No && spin != Spin::Off {
            self.submit();
            // A submission that was refused has collected completions: then there is nothing to
            // wait for.
            wait = if self.completions.is_empty() { self.spin(wait, spin) } else { Wait::No };
        }
        self.enter(wait, 1);
        self.submit();
    }

    /// Polls for completions without blocking, as long as configured; returns how to wait
    /// afterwards.
    fn spin(&mut self, wait: Wait, spin: Spin) -> Wait {
        let Wait::Until(until) = wait else { return wait };
        let end = match spin {
            Spin::Off => return wait,
            Spin::For(span) => self.ring.clock() + span,
            Spin::Always => Nanos::NEVER,
        };
        loop {
            for _ in 0..POLLS_PER_CLOCK {
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

    /// Enters the kernel once. `attempt` counts the calls that were refused in a row, this one
    /// included.
    pub(super) fn enter(&mut self, wait: Wait, attempt: u32) {
        self.enters += 1;
        let Err(error) = self.ring.enter(wait) else { return };
        match error.raw_os_error() {
            // A signal: its handler has run, and the turn continues.
            Some(libc::EINTR) => {}
            // The kernel accepts more after its completions were collected (EBUSY), or when memory
            // for requests is free again (EAGAIN), which completions bring about.
            Some(libc::EBUSY | libc::EAGAIN) if attempt < ENTER_ATTEMPTS => {
                self.collect();
                if attempt > PROMPT_ATTEMPTS {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            _ => self.failure = Some(EngineError::System { what: "io_uring_enter", source: error }),
        }
    }

    /// Collects all completions, also those that found no room in the completion queue.
    pub(super) fn collect(&mut self) {
        loop {
            while let Some(completion) = self.ring.completion() {
                self.completions.push(completion);
            }
            if !self.ring.overflowed() || self.failure.is_some() {
                return;
            }
            self.overflows += 1;
            self.enters += 1;
            if let Err(source) = self.ring.enter(Wait::No)
                && !matches!(source.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
            {
                self.failure = Some(EngineError::System { what: "io_uring_enter", source });
            }
        }
    }

    /// Number of collected completions.
    pub(super) fn collected(&self) -> usize {
        self.completions.len()
    }

    /// The oldest completion that has not had its first pass; it has it now.
    pub(super) fn next_to_pass(&mut self) -> Option<Completion> {
        let next = self.completions.get(self.passed).copied();
        self.passed += usize::from(next.is_some());
        next
    }

    /// The collected completion at `index`, oldest first.
    pub(super) fn completion(&self, index: usize) -> Completion {
        self.completions[index]
    }

    /// Drops the oldest `count` completions, which have been handled.
    pub(super) fn drop_handled(&mut self, count: usize) {
        self.completions.drain(..count);
        self.passed -= count;
    }

    /// Counts an operation as ended where this is its last completion.
    pub(super) fn count_ended(&mut self, c: Completion) {
        let was_not_counted = match c.token.kind() {
            Some(OpKind::Send) => self.sends_finish,
            // Another worker's operation.
            Some(OpKind::TakeOver) => true,
            _ => false,
        };
        if !c.more && !was_not_counted {
            self.outstanding -= 1;
        }
    }

    /// Waits until every outstanding operation has ended, at most until `end`. Passes each
    /// completion to `ended`. Returns whether all have.
    pub(super) fn await_all(&mut self, end: Nanos, mut ended: impl FnMut(Completion)) -> bool {
        loop {
            self.collect();
            while let Some(completion) = self.completions.pop() {
                self.count_ended(completion);
                ended(completion);
            }
            if self.outstanding == 0 {
                return true;
            }
            if self.failure.is_some() || self.ring.clock() >= end {
                return false;
            }
            self.enter(Wait::Until(end), 1);
        }
    }
}

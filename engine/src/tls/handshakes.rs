//! A thread for the handshakes of accepted connections.
//!
//! The keys and the signature of a handshake take some 200 us. On the worker they would delay the
//! messages of all other connections. The thread shares the worker's processor, and the kernel
//! gives it back as soon as the worker wakes: the thread has the policy SCHED_BATCH and so never
//! interrupts the worker, and the worker has a shorter slice (sched(7), sched_setattr(2)).

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::{fmt, io, mem};

use rustls::server::UnbufferedServerConnection;

use super::error::TlsError;
use super::session::{ReadResult, Sink, pump};
use crate::connection::ConnId;
use crate::remote::Remote;

/// Bit of [`Remote::wake`] with which the thread wakes its worker. The handler behind TLS never
/// sees it.
pub(super) const STEPS_DONE: u64 = 1 << 63;

/// The worker's slice in nanoseconds, the least that the kernel takes. It is honoured since Linux
/// 6.12.
const SLICE_NS: u64 = 100_000;

/// A thread that carries out the TLS handshakes of one worker's accepted connections.
pub struct HandshakeThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    queues: Mutex<Queues>,
    has_work: Condvar,
    remote: Remote,
}

#[derive(Default)]
struct Queues {
    waiting: VecDeque<Step>,
    done: Vec<Step>,
    is_over: bool,
}

/// Received bytes of a handshake, and what became of them.
pub(super) struct Step {
    pub(super) id: ConnId,
    pub(super) end: UnbufferedServerConnection,
    /// Received bytes; afterwards those that were not used.
    pub(super) bytes: Vec<u8>,
    /// Plaintext that came with the end of the handshake.
    pub(super) plain: Vec<u8>,
    /// Records to send, where there was an error too.
    pub(super) records: Records,
    pub(super) result: Result<ReadResult, TlsError>,
}

/// Records in memory of their own.
#[derive(Default)]
pub(super) struct Records {
    bytes: Vec<u8>,
    len: usize,
}

impl Records {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Sink for Records {
    fn reserve(&mut self, room: usize) -> &mut [u8] {
        self.bytes.resize(self.len + room, 0);
        &mut self.bytes[self.len..]
    }

    fn commit(&mut self, len: usize) {
        self.len += len;
    }
}

impl Step {
    pub(super) fn new(id: ConnId, end: UnbufferedServerConnection, bytes: Vec<u8>) -> Self {
        let (plain, records) = (Vec::new(), Records::default());
        Self { id, end, bytes, plain, records, result: Ok(ReadResult::default()) }
    }

    fn carry_out(&mut self) {
        let pumped = pump(&mut self.end, &mut self.bytes, &mut self.plain, &mut self.records);
        self.result = pumped.map(|(used, result)| {
            self.bytes.drain(..used);
            result
        });
    }
}

impl HandshakeThread {
    /// Starts the thread for the worker that `remote` wakes. It is to be called on the worker's
    /// thread: the new thread gets the same processors, and the calling one a shorter slice.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn start(remote: Remote) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { queues: Mutex::default(), has_work: Condvar::new(), remote });
        let of_thread = shared.clone();
        let work = move || {
            schedule(|attributes| attributes.policy = libc::SCHED_BATCH.cast_unsigned());
            of_thread.work();
        };
        let thread = thread::Builder::new().name("tls-handshakes".to_owned()).spawn(work)?;
        schedule(|attributes| attributes.runtime = SLICE_NS);
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn give(&self, step: Step) {
        self.shared.lock().waiting.push_back(step);
        self.shared.has_work.notify_one();
    }

    pub(super) fn take_done(&self) -> Vec<Step> {
        mem::take(&mut self.shared.lock().done)
    }
}

impl fmt::Debug for HandshakeThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeThread").finish_non_exhaustive()
    }
}

impl Drop for HandshakeThread {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.has_work.notify_one();
        // A panic there has been printed, and the worker ends anyway.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    /// A panic elsewhere leaves the queues complete.
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(mut step) = self.next() {
            step.carry_out();
            self.lock().done.push(step);
            self.remote.wake(STEPS_DONE);
        }
    }

    /// Waits for the next step; `None` once the worker has ended.
    fn next(&self) -> Option<Step> {
        let is_idle = |queues: &mut Queues| queues.waiting.is_empty() && !queues.is_over;
        let waited = self.has_work.wait_while(self.lock(), is_idle);
        let mut queues = waited.unwrap_or_else(PoisonError::into_inner);
        if queues.is_over { None } else { queues.waiting.pop_front() }
    }
}

/// `struct sched_attr` of sched_setattr(2), in its first version.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Changes how the kernel schedules this thread. Without it only other connections wait longer, so
/// a refusal is not an error.
fn schedule(change: impl FnOnce(&mut Attributes)) {
    const SIZE: u32 = size_of::<Attributes>() as u32;
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes at most SIZE bytes to the structure, which has SIZE bytes of plain
    // integers. 0 means this thread.
    let got = unsafe {
        libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0 as libc::c_uint)
    };
    if got == 0 {
        change(&mut attributes);
        attributes.size = SIZE;
        // SAFETY: the kernel reads `size` bytes of the structure, which has as many.
        unsafe {
            libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0 as libc::c_uint)
        };
    }
}

//! The engine on the tokio-uring runtime, kept to show what that runtime costs: no multishot operations, no buffer rings, no
//! direct descriptors.
//!
//! Every connection has a task with two halves, a reader and a writer, so that neither a receive nor a send in flight is ever
//! dropped, and that a reply leaves in the poll which has received its message. A turn is what one pass over the ready tasks has
//! done: the first event reads the clock and wakes the main task, which runs behind them, sees to timers and the inbox, calls
//! `turn_end` and wakes the tasks whose connections were written to from elsewhere. A send that takes everything is no event of
//! a turn.
//!
//! While a send is in flight no receive begins: most messages are answers to it, and a receive that finds its message there is
//! cheaper than one that has to wait for it. A send that has not ended after 10 to 30 ms is a slow one: receives go on beside it,
//! until it has all gone.
//!
//! Every send is an operation that takes its time, so bytes count as unsent until the runtime tells of its end; a handler that
//! has seen unsent bytes at the start of a call always hears `drained`, also where nobody was slow.
//!
//! A reply that lies in the receive buffer leaves in that buffer; others are copied together. Listeners and connects wait for
//! readiness, off the hot path, because those waits have to be called back. All timers are one timerfd(2), in nanoseconds,
//! where the runtime's own are in milliseconds.
//!
//! [`Config::spin`](crate::Config::spin) is ignored: the runtime decides how it waits. `Counters::enters` counts turns, as the
//! runtime does not tell how often it enters the kernel. Completions are waited for with epoll(7), which is why
//! `DEFER_TASKRUN` is not set: nothing would run the deferred work.

mod connection;
mod core;
mod operations;
mod tasks;

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio_uring::Runtime;
use rustix::process::{Resource, getrlimit};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use self::core::Core;
use self::tasks::Shared;
use crate::incoming;
use crate::time::Nanos;
use crate::{Config, Counters, EngineError, Handler, Inbox};

/// A ring that was let go of gives its locked memory back late: so often, and so long each time, set-up is tried again.
const MEMLOCK_RETRIES: u32 = 10;
const MEMLOCK_PAUSE: Duration = Duration::from_millis(50);
/// Rings are not made smaller than this.
const MIN_ENTRIES: u32 = 64;
/// After a stop, what was written last is offered to the kernel for so many passes of a millisecond at most.
const LAST_PASSES: u32 = 20;
/// Operations on sockets that are shut down end at once; this is for a machine that is busy with other things.
const END_PASSES: u32 = 10_000;

/// See [`crate::run`].
pub(crate) fn run<H: Handler>(
    config: &Config,
    inbox: Inbox,
    handler: &mut H,
) -> Result<Counters, EngineError> {
    let runtime = build(config.uring.sq_entries, config.uring.cq_entries)?;
    // SAFETY: the tasks hold the only clones beside `shared`; they are dropped with the runtime below, and `shared` ends with
    // this function, while the caller's exclusive borrow of the handler lasts longer. Nothing here uses `handler` directly.
    let shared = unsafe { Shared::new(Core::new(config), NonNull::from(handler)) };
    let outcome = runtime.block_on(drive(config, &inbox, &shared));
    if shared.flights.are_over() {
        drop(runtime);
    } else {
        debug_assert!(outcome.is_err(), "operations are still in flight");
        tracing::warn!(
            "operations did not end: their memory is leaked, because the kernel may still write to it"
        );
        std::mem::forget(runtime);
    }
    assert!(!shared.has_panicked(), "a call of the handler has panicked, as told above");
    outcome.map_err(EngineError::system("setting up the tasks of tokio-uring"))?;
    Ok(shared.enter(|core, _| core.counters()))
}

/// Checks that the runtime can be set up and used here. Without io_uring_enter(2) the runtime would wait for
/// ever, because it ignores errors of that call.
pub(crate) fn probe() -> Result<(), EngineError> {
    crate::uring::probe_calls()?;
    build(MIN_ENTRIES, 2 * MIN_ENTRIES).map(drop)
}

fn build(sq_entries: u32, cq_entries: u32) -> Result<Runtime, EngineError> {
    // Once over all sizes: what old rings held is either given back by then or not at all.
    let (mut shrink, mut waited) = (0, 0);
    loop {
        let sq = (sq_entries >> shrink).max(MIN_ENTRIES);
        let cq = (cq_entries >> shrink).max(2 * sq);
        match build_patiently(sq, cq, &mut waited) {
            Ok(runtime) => return Ok(runtime),
            Err(error) if is(&error, libc::ENOMEM) && sq > MIN_ENTRIES => shrink += 1,
            Err(error) => return Err(setup_error(error, sq, cq)),
        }
    }
}

/// Tries for a while where memory is short; `waited` says how often it has paused.
fn build_patiently(sq_entries: u32, cq_entries: u32, waited: &mut u32) -> io::Result<Runtime> {
    loop {
        match build_once(sq_entries, cq_entries, true) {
            // COOP_TASKRUN came with Linux 5.19, SINGLE_ISSUER with 6.0.
            Err(error) if is(&error, libc::EINVAL) => return build_once(sq_entries, cq_entries, false),
            Err(error) if is(&error, libc::ENOMEM) && *waited < MEMLOCK_RETRIES => {
                *waited += 1;
                std::thread::sleep(MEMLOCK_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn build_once(sq_entries: u32, cq_entries: u32, flags: bool) -> io::Result<Runtime> {
    let mut ring = ::tokio_uring::uring_builder();
    ring.setup_clamp().setup_cqsize(cq_entries);
    if flags {
        ring.setup_single_issuer().setup_coop_taskrun();
    }
    Runtime::new(::tokio_uring::builder().entries(sq_entries).uring_builder(&ring))
}

fn is(error: &io::Error, errno: i32) -> bool {
    error.raw_os_error() == Some(errno)
}

fn setup_error(source: io::Error, sq_entries: u32, cq_entries: u32) -> EngineError {
    let limit = |resource| getrlimit(resource).current.unwrap_or(u64::MAX);
    match source.raw_os_error() {
        Some(libc::ENOMEM) => {
            let limit = format!("{} KiB", limit(Resource::Memlock) >> 10);
            EngineError::Memlock { sq_entries, cq_entries, limit }
        }
        Some(libc::EMFILE) => {
            let limit = limit(Resource::Nofile);
            EngineError::Descriptors {
                wanted: limit.saturating_add(16),
                what: "the tokio-uring runtime",
                limit,
            }
        }
        // The raw engine's probe knows what stands behind a refusal.
        _ => match crate::uring::probe() {
            Err(reason) => reason,
            Ok(()) => EngineError::System { what: "setting up the tokio-uring runtime", source },
        },
    }
}

/// The main task: starts the others, ends the turns, and stops.
async fn drive<H: Handler>(config: &Config, inbox: &Inbox, shared: &Rc<Shared<H>>) -> io::Result<()> {
    let mut timer = Timer::new()?;
    let wakes = watch(inbox.event().try_clone_to_owned()?, Interest::READABLE)?;
    shared.enter(Core::start);
    for (index, listener) in config.listeners.iter().enumerate() {
        incoming::prepare(&listener.socket)?;
        let socket = watch(listener.socket.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        tasks::listen(shared, index, socket);
    }
    while !shared.has_panicked() && !shared.enter(|core, _| core.is_stopping()) {
        let bits = poll_fn(|cx| {
            let rang = timer.poll_ring(cx)?;
            let bits = poll_wakes(&wakes, inbox, cx)?;
            if rang || bits != 0 || shared.enter(|core, _| core.poll_turn(cx)) {
                return Poll::Ready(io::Result::Ok(bits));
            }
            Poll::Pending
        });
        let bits = bits.await?;
        if !shared.has_panicked() {
            let next = shared.enter(|core, handler| core.turn(handler, bits));
            timer.set(next)?;
        }
    }
    finish(shared).await;
    Ok(())
}

/// Offers to the kernel what was written last, then reports every connection closed, and awaits the ends of all operations.
///
/// A runtime that is dropped with operations in flight frees their memory first and cancels them afterwards (tokio-uring 0.5,
/// `Driver::drop`): what arrives in between would be written to memory that belongs to somebody else by then.
async fn finish<H: Handler>(shared: &Rc<Shared<H>>) {
    wait_until(LAST_PASSES, || shared.has_panicked() || !shared.enter(|core, _| core.is_writing())).await;
    shared.enter(|core, _| core.kill_all());
    if !shared.has_panicked() {
        shared.enter(Core::shut_down);
    }
    wait_until(END_PASSES, || shared.flights.are_over()).await;
}

/// For so many passes of a millisecond at most. The runtime submits when it parks.
async fn wait_until(passes: u32, is_so: impl Fn() -> bool) {
    for _ in 0..passes {
        if is_so() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Registers a descriptor with the runtime's own epoll instance.
fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, stays so, and names one description until it is dropped, which the registration does
    // after it has ended itself.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// The bits of new wakes, or 0 for none; then the task is woken by the next.
fn poll_wakes(event: &AsyncFd<OwnedFd>, inbox: &Inbox, cx: &mut Context<'_>) -> io::Result<u64> {
    while let Poll::Ready(guard) = event.poll_read_ready(cx) {
        guard?.clear_ready();
        let bits = inbox.take();
        if bits != 0 {
            return Ok(bits);
        }
    }
    Ok(0)
}

/// One timerfd(2) for everything that the engine waits for.
struct Timer {
    event: AsyncFd<OwnedFd>,
    /// When it rings; [`Nanos::NEVER`] while it is not set.
    at: Nanos,
}

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let event = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { event: watch(event, Interest::READABLE)?, at: Nanos::NEVER })
    }

    /// Rings at `at`, or earlier for nothing: a time that moves away leaves the timer as it is.
    fn set(&mut self, at: Nanos) -> io::Result<()> {
        if at >= self.at {
            return Ok(());
        }
        // A zero time would unset the timer.
        let at_ns = at.0.max(1);
        let value = Timespec {
            tv_sec: (at_ns / 1_000_000_000).cast_signed(),
            tv_nsec: (at_ns % 1_000_000_000).cast_signed(),
        };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: never, it_value: value };
        timerfd_settime(self.event.get_ref(), TimerfdTimerFlags::ABSTIME, &spec)?;
        self.at = at;
        Ok(())
    }

    /// Whether it has rung; if not, the task is woken when it does.
    fn poll_ring(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        match self.poll_expiry(cx) {
            Poll::Ready(outcome) => outcome.map(|()| {
                self.at = Nanos::NEVER;
                true
            }),
            Poll::Pending => Ok(false),
        }
    }

    fn poll_expiry(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.event.poll_read_ready(cx))?;
            match rustix::io::read(self.event.get_ref(), &mut [0u8; 8]) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

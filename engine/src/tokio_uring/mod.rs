//! The engine on the tokio-uring runtime, kept to show what that runtime costs: it has no multishot
//! operations, no buffer rings and no direct descriptors.
//!
//! Every connection has a task with two halves, a reader and a writer. So neither a receive nor a
//! send in flight is ever dropped, and a reply leaves in the poll that has received its message. A
//! turn is one pass over the ready tasks. Its first event reads the clock and wakes the main task,
//! which runs behind them. The main task calls the handler for timers, wakes and `turn_end`, and
//! wakes the tasks whose connections were written to. A send that is accepted whole is no event of
//! a turn.
//!
//! While a send is in flight no receive begins; `Socket::may_receive` says why. A send that has not
//! ended after 10 to 30 ms is slow: receives continue beside it, until everything is accepted.
//!
//! Every send is an operation that takes time, so bytes count as unsent until its completion. A
//! handler that has seen unsent bytes at the start of a call always hears `drained`, even where the
//! peer was not slow.
//!
//! A reply that lies in the receive buffer leaves in that buffer; other replies are copied
//! together. Listeners and connects wait for readiness, off the hot path, because those waits must
//! be cancelled. All timers are one timerfd(2), in nanoseconds; the runtime's own have
//! milliseconds.
//!
//! [`Config::spin`](crate::Config::spin) is ignored: the runtime decides how it waits.
//! `Counters::enters` counts turns, because the runtime does not tell how often it enters the
//! kernel. The runtime waits for completions with epoll(7). `DEFER_TASKRUN` is not set, because
//! nothing would run the deferred work.

mod core;
mod operations;
mod socket;
mod tasks;

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio_uring::Runtime;
use rustix::process::{Resource, getrlimit};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use self::core::Core;
use self::tasks::Shared;
use crate::time::Nanos;
use crate::{Config, Counters, EngineError, Handler, Inbox};

/// Retries of the set-up, and the pause before each: a dropped ring returns its locked memory late.
const MEMLOCK_RETRIES: u32 = 10;
const MEMLOCK_PAUSE: Duration = Duration::from_millis(50);
/// Entries of the smallest submission queue.
const MIN_ENTRIES: u32 = 64;
/// Most passes, of a millisecond each, in which the last output is offered to the kernel after a
/// stop.
const LAST_PASSES: u32 = 20;
/// Most passes until all operations have ended. Those on sockets that are shut down end at once,
/// unless the machine is busy with other things.
const END_PASSES: u32 = 10_000;

/// A descriptor whose readiness is awaited.
type Watched = AsyncFd<Rc<OwnedFd>>;

/// See [`crate::run`].
pub(crate) fn run<H: Handler>(
    config: &Config,
    inbox: Inbox,
    handler: &mut H,
) -> Result<Counters, EngineError> {
    let runtime = build(config.uring.sq_entries, config.uring.cq_entries)?;
    let setup_error = EngineError::system("setting up the tasks of tokio-uring");
    let core = Core::new(config, &inbox).map_err(&setup_error)?;
    // SAFETY: the tasks hold the only clones beside `shared`. They are dropped with the runtime
    // below, and `shared` ends with this function, while the caller's exclusive borrow of the
    // handler lasts longer. Nothing here uses `handler` directly.
    let shared = unsafe { Shared::new(core, NonNull::from(handler)) };
    let outcome = runtime.block_on(drive(config, &inbox, &shared));
    if shared.in_flight.is_empty() {
        drop(runtime);
    } else {
        debug_assert!(outcome.is_err(), "operations are still in flight");
        tracing::warn!(
            "operations did not end: their memory is leaked, because the kernel may still write to it"
        );
        std::mem::forget(runtime);
    }
    assert!(!shared.has_panicked(), "a call of the handler has panicked, as reported above");
    outcome.map_err(setup_error)?;
    Ok(shared.enter(|core, _| core.connections.counters))
}

/// Checks that the runtime can be set up and used here. Without io_uring_enter(2) the runtime would
/// wait for ever, because it ignores errors of that call.
pub(crate) fn probe() -> Result<(), EngineError> {
    crate::uring::probe_calls()?;
    build(MIN_ENTRIES, 2 * MIN_ENTRIES).map(drop)
}

fn build(sq_entries: u32, cq_entries: u32) -> Result<Runtime, EngineError> {
    // The retries are for all sizes together: old rings have returned their memory by then, or
    // never will.
    let (mut shrink, mut waited) = (0, 0);
    loop {
        let sq = (sq_entries >> shrink).max(MIN_ENTRIES);
        let cq = (cq_entries >> shrink).max(2 * sq);
        match build_with_retries(sq, cq, &mut waited) {
            Ok(runtime) => return Ok(runtime),
            Err(error) if is(&error, libc::ENOMEM) && sq > MIN_ENTRIES => shrink += 1,
            Err(error) => return Err(setup_error(error, sq, cq)),
        }
    }
}

/// Retries for a while where locked memory is short; `waited` counts the pauses.
fn build_with_retries(sq_entries: u32, cq_entries: u32, waited: &mut u32) -> io::Result<Runtime> {
    loop {
        match build_once(sq_entries, cq_entries, true) {
            // COOP_TASKRUN came with Linux 5.19, SINGLE_ISSUER with 6.0.
            Err(error) if is(&error, libc::EINVAL) => {
                return build_once(sq_entries, cq_entries, false);
            }
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
        // The raw engine's probe knows the reason of a refusal.
        _ => match crate::uring::probe() {
            Err(reason) => reason,
            Ok(()) => EngineError::System { what: "setting up the tokio-uring runtime", source },
        },
    }
}

/// Runs the main task: starts the listeners' tasks, finishes the turns, and stops.
async fn drive<H: Handler>(
    config: &Config,
    inbox: &Inbox,
    shared: &Rc<Shared<H>>,
) -> io::Result<()> {
    let mut timer = Timer::new()?;
    let wakes = watch_readable(inbox.event())?;
    shared.enter(Core::start);
    for (index, listener) in config.listeners.iter().enumerate() {
        tasks::listen(shared, index, watch_readable(listener.socket.as_fd())?);
    }
    while !shared.has_panicked() && !shared.enter(|core, _| core.connections.is_stopping) {
        let wake = poll_fn(|cx| {
            let has_fired = timer.poll_fired(cx)?;
            let wake = poll_wakes(&wakes, inbox, cx)?;
            if has_fired || wake.is_some() || shared.enter(|core, _| core.poll_turn(cx)) {
                return Poll::Ready(io::Result::Ok(wake));
            }
            Poll::Pending
        });
        let wake = wake.await?;
        if !shared.has_panicked() {
            let next = shared.enter(|core, handler| core.turn(handler, wake));
            shared.start_tasks();
            timer.set(next)?;
        }
    }
    finish(shared).await;
    Ok(())
}

/// Offers the last output to the kernel, reports every connection closed, and awaits the end of all
/// operations.
///
/// A runtime that is dropped with operations in flight frees their memory first and cancels them
/// afterwards (tokio-uring 0.5, `Driver::drop`). Input that arrives in between would be written to
/// memory with another owner.
async fn finish<H: Handler>(shared: &Rc<Shared<H>>) {
    wait_until(LAST_PASSES, || shared.has_panicked() || !shared.enter(|core, _| core.is_writing()))
        .await;
    shared.enter(|core, _| core.connections.end_all());
    if !shared.has_panicked() {
        shared.enter(|core, handler| core.connections.report_closed(handler));
    }
    wait_until(END_PASSES, || shared.in_flight.is_empty()).await;
}

/// Waits for a condition, at most for `passes` of a millisecond. The runtime submits when it parks.
async fn wait_until(passes: u32, condition: impl Fn() -> bool) {
    for _ in 0..passes {
        if condition() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn watch_readable(fd: BorrowedFd<'_>) -> io::Result<Watched> {
    tasks::watch(Rc::new(fd.try_clone_to_owned()?), Interest::READABLE)
}

/// Returns the bits of new wakes, 0 where connections were handed over. `None` without a wake; the
/// task is woken by the next one.
fn poll_wakes(event: &Watched, inbox: &Inbox, cx: &mut Context<'_>) -> io::Result<Option<u64>> {
    let Poll::Ready(guard) = event.poll_read_ready(cx) else { return Ok(None) };
    guard?.clear_ready();
    Ok(Some(inbox.take()))
}

/// The engine's one timerfd(2).
struct Timer {
    event: Watched,
    /// Time at which the timer fires; [`Nanos::NEVER`] while it is not set.
    at: Nanos,
}

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let event = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { event: tasks::watch(Rc::new(event), Interest::READABLE)?, at: Nanos::NEVER })
    }

    /// Sets the timer to `at`, unless it fires earlier: then a turn without events comes first.
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

    /// Returns whether the timer has fired; if not, the task is woken when it does.
    fn poll_fired(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
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

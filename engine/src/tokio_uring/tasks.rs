//! The tasks: one for each connection, each listener, each connect, and each paused connection.
//!
//! They own the operations in flight and nothing else. What a completion means is decided in
//! [`Core`], in calls that never span an await.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use super::core::Core;
use super::operations::{self, InFlight};
use super::socket::{OwnedTask, Polled, TaskRequest};
use crate::connection::ConnId;
use crate::handler::Handler;
use crate::incoming::Accepted;
use crate::outgoing;

/// Consecutive accepts at one listener before the other tasks run.
const ACCEPTS_IN_A_ROW: usize = 64;

/// State that all tasks of a worker share.
pub(super) struct Shared<H: Handler> {
    core: RefCell<Core<H>>,
    handler: NonNull<H>,
    polled: Rc<Polled>,
    pub(super) in_flight: InFlight,
    /// A task has panicked, in a call of the handler: the run ends with a panic of its own.
    has_panicked: Cell<bool>,
}

impl<H: Handler> Shared<H> {
    /// # Safety
    ///
    /// `handler` stays valid, and nobody else uses it, until the last clone of the returned value
    /// is gone.
    pub(super) unsafe fn new(core: Core<H>, handler: NonNull<H>) -> Rc<Self> {
        Rc::new(Self {
            polled: core.connections.io.polled.clone(),
            core: RefCell::new(core),
            handler,
            in_flight: InFlight::default(),
            has_panicked: Cell::new(false),
        })
    }

    /// Calls `f` with the worker's state and the handler.
    pub(super) fn enter<R>(&self, f: impl FnOnce(&mut Core<H>, &mut H) -> R) -> R {
        let mut core = self.core.borrow_mut();
        // SAFETY: valid and unshared by the contract of `new`. The borrow of `core`, which lasts as
        // long, admits one call at a time, and `f` cannot hold it over an await.
        f(&mut core, unsafe { &mut *self.handler.as_ptr() })
    }

    /// Starts the tasks that calls of this turn have requested.
    pub(super) fn start_tasks(self: &Rc<Self>) {
        let connections = &mut self.core.borrow_mut().connections;
        for request in connections.io.requests.drain(..) {
            let (id, task) = match request {
                TaskRequest::Serve(id, socket) => {
                    serve(self, id, socket);
                    continue;
                }
                TaskRequest::Connect(id, socket) => (id, connect(self, id, socket)),
                TaskRequest::WatchReset(id, socket) => (id, watch_reset(self, id, socket)),
            };
            if let Some(c) = connections.table.get_mut(id) {
                c.io.watch = Some(OwnedTask(task));
            }
        }
    }

    pub(super) fn has_panicked(&self) -> bool {
        self.has_panicked.get()
    }
}

/// Ends the run when a task unwinds: the runtime would continue without it.
struct PanicGuard<H: Handler>(Rc<Shared<H>>);

impl<H: Handler> Drop for PanicGuard<H> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.has_panicked.set(true);
            if let Ok(mut core) = self.0.core.try_borrow_mut() {
                core.want_turn();
            }
        }
    }
}

fn spawn<H: Handler>(
    shared: &Rc<Shared<H>>,
    task: impl Future<Output = ()> + 'static,
) -> AbortHandle {
    let guard = PanicGuard(shared.clone());
    let task = async move {
        let _guard = guard;
        task.await;
    };
    ::tokio_uring::spawn(task).abort_handle()
}

/// Registers a descriptor with the runtime's own epoll instance.
pub(super) fn watch(fd: Rc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Rc<OwnedFd>>> {
    // SAFETY: the clone of the `Rc` keeps the descriptor open, and the same, until the registration
    // has ended itself.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Starts the task of an open connection: a reader and a writer, of which the due ones are polled.
fn serve<H: Handler>(shared: &Rc<Shared<H>>, id: ConnId, socket: Rc<OwnedFd>) {
    let core = shared.clone();
    spawn(shared, async move {
        let (mut reader, mut writer) =
            (pin!(read(&core, id, &socket)), pin!(write(&core, id, &socket)));
        let (mut reads, mut writes) = (true, true);
        let task = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        core.enter(|core, _| core.register_task(id, task));
        let both = poll_fn(|cx| {
            core.polled.begin(id);
            loop {
                if core.polled.take_reader() && reads {
                    reads = reader.as_mut().poll(cx).is_pending();
                }
                if core.polled.take_writer() && writes {
                    writes = writer.as_mut().poll(cx).is_pending();
                }
                if core.polled.end() {
                    return if reads || writes { Poll::Pending } else { Poll::Ready(()) };
                }
            }
        });
        both.await;
    });
}

async fn read<H: Handler>(shared: &Rc<Shared<H>>, id: ConnId, socket: &Rc<OwnedFd>) {
    while let Some(buffer) = poll_fn(|_| shared.enter(|core, _| core.poll_receive(id))).await {
        // Never dropped in flight: a pause or a close waits here for the operation's end.
        let mut completion = Some(operations::receive(socket, &shared.in_flight, buffer).await);
        let handled = poll_fn(|_| {
            shared.enter(|core, handler| core.poll_received(handler, id, &mut completion))
        });
        if !handled.await {
            return;
        }
    }
}

async fn write<H: Handler>(shared: &Rc<Shared<H>>, id: ConnId, socket: &Rc<OwnedFd>) {
    while let Some(write) = poll_fn(|_| shared.enter(|core, _| core.poll_write(id))).await {
        let (outcome, write) = operations::send(socket, &shared.in_flight, write).await;
        shared.enter(|core, handler| core.handle_sent(handler, id, outcome, write));
    }
}

/// Reports a reset of a connection that is not read, until the task is aborted.
fn watch_reset<H: Handler>(shared: &Rc<Shared<H>>, id: ConnId, socket: Rc<OwnedFd>) -> AbortHandle {
    let core = shared.clone();
    spawn(shared, async move {
        // Where the kernel has no room for a registration, a reset is detected after the pause.
        let Ok(socket) = watch(socket, Interest::ERROR) else { return };
        while let Ok(mut ready) = socket.ready(Interest::ERROR).await {
            core.enter(|core, _| core.handle_reset(id));
            ready.clear_ready();
        }
    })
}

/// Accepts at a listener. Readiness and accept4(2) replace accepts on the ring: an accept in flight
/// could not be cancelled when the worker ceases to listen.
pub(super) fn listen<H: Handler>(
    shared: &Rc<Shared<H>>,
    index: usize,
    listener: AsyncFd<Rc<OwnedFd>>,
) {
    let core = shared.clone();
    spawn(shared, async move {
        loop {
            poll_fn(|cx| core.enter(|core, _| core.poll_accepting(index, cx))).await;
            let Ok(mut ready) = listener.readable().await else { return };
            for _ in 0..ACCEPTS_IN_A_ROW {
                match core.enter(|core, handler| core.accept(handler, index, listener.get_ref())) {
                    Accepted::One => {}
                    Accepted::QueueEmpty => {
                        ready.clear_ready();
                        break;
                    }
                    Accepted::Stopped => break,
                }
            }
            // A flood of connections leaves time for the open ones.
            tokio::task::yield_now().await;
        }
    });
}

/// Waits for the outcome of a connect.
fn connect<H: Handler>(shared: &Rc<Shared<H>>, id: ConnId, socket: Rc<OwnedFd>) -> AbortHandle {
    let core = shared.clone();
    spawn(shared, async move {
        let outcome = connected(socket).await;
        core.enter(|core, handler| core.complete_connect(handler, id, outcome));
    })
}

async fn connected(socket: Rc<OwnedFd>) -> io::Result<()> {
    let socket = watch(socket, Interest::WRITABLE)?;
    let _ = socket.writable().await?;
    outgoing::pending_error(socket.get_ref())?;
    // The ring's operations on a socket that does not block fail with EAGAIN instead of waiting.
    Ok(rustix::io::ioctl_fionbio(socket.get_ref(), false)?)
}

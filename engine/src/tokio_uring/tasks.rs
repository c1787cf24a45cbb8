//! The tasks: one for each connection, each listener and each connect under way.
//!
//! They own the operations in flight and nothing else: what a completion means is decided in [`Core`], in
//! calls that never span an await.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use super::connection::Watch;
use super::core::{Admission, Core};
use super::operations::{self, Flights};
use crate::connection::ConnId;
use crate::handler::Handler;
use crate::outgoing;

/// What all tasks of a worker share.
pub(super) struct Shared<H: Handler> {
    core: RefCell<Core<H>>,
    handler: NonNull<H>,
    pub(super) flights: Flights,
    /// A task has panicked, in a call of the handler: the run ends with a panic of its own.
    panicked: Cell<bool>,
}

impl<H: Handler> Shared<H> {
    /// # Safety
    ///
    /// `handler` stays valid, and nobody else uses it, until the last clone of the returned value is gone.
    pub(super) unsafe fn new(core: Core<H>, handler: NonNull<H>) -> Rc<Self> {
        let shared = Rc::new(Self {
            core: RefCell::new(core),
            handler,
            flights: Flights::default(),
            panicked: Cell::new(false),
        });
        shared.core.borrow_mut().shared = Rc::downgrade(&shared);
        shared
    }

    /// The engine's state and the handler, for the length of `f`.
    pub(super) fn enter<R>(&self, f: impl FnOnce(&mut Core<H>, &mut H) -> R) -> R {
        let mut core = self.core.borrow_mut();
        // SAFETY: valid and unshared by the contract of `new`; the borrow of `core`, which lasts as long, admits one call at a
        // time, and `f` cannot hold it over an await.
        f(&mut core, unsafe { &mut *self.handler.as_ptr() })
    }

    pub(super) fn has_panicked(&self) -> bool {
        self.panicked.get()
    }
}

/// Ends the run when a task unwinds: the runtime itself would swallow it.
struct Alert<H: Handler>(Rc<Shared<H>>);

impl<H: Handler> Drop for Alert<H> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.set(true);
            if let Ok(mut core) = self.0.core.try_borrow_mut() {
                core.want_turn();
            }
        }
    }
}

fn spawn<H: Handler>(shared: Rc<Shared<H>>, task: impl Future<Output = ()> + 'static) -> AbortHandle {
    let task = async move {
        let _alert = Alert(shared);
        task.await;
    };
    ::tokio_uring::spawn(task).abort_handle()
}

/// Starts the task of an open connection: a reader and a writer, of which the one that is due is polled.
pub(super) fn serve<H: Handler>(shared: &Rc<Shared<H>>, id: ConnId, socket: Rc<OwnedFd>) {
    let core = shared.clone();
    spawn(shared.clone(), async move {
        let (mut reader, mut writer) = (pin!(read(&core, id, &socket)), pin!(write(&core, id, &socket)));
        let (mut reads, mut writes) = (true, true);
        let task = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        core.enter(|core, _| core.register(id, task));
        let both = poll_fn(|cx| {
            core.enter(|core, _| core.begin_poll(id));
            loop {
                if core.enter(|core, _| core.take_reader()) && reads {
                    reads = reader.as_mut().poll(cx).is_pending();
                }
                if core.enter(|core, _| core.take_writer()) && writes {
                    writes = writer.as_mut().poll(cx).is_pending();
                }
                if core.enter(|core, _| core.end_poll()) {
                    return if reads || writes { Poll::Pending } else { Poll::Ready(()) };
                }
            }
        });
        both.await;
    });
}

async fn read<H: Handler>(shared: &Shared<H>, id: ConnId, socket: &Rc<OwnedFd>) {
    while let Some(buffer) = poll_fn(|_| shared.enter(|core, _| core.poll_read(id))).await {
        // Never dropped in flight: a pause or a close waits here for its end.
        let (outcome, buffer) = operations::receive(socket, &shared.flights, buffer).await;
        let mut arrival = Some((outcome, buffer));
        let go_on = poll_fn(|_| shared.enter(|core, handler| core.poll_arrival(handler, id, &mut arrival)));
        if !go_on.await {
            return;
        }
    }
}

async fn write<H: Handler>(shared: &Shared<H>, id: ConnId, socket: &Rc<OwnedFd>) {
    while let Some(write) = poll_fn(|_| shared.enter(|core, _| core.poll_write(id))).await {
        let (outcome, write) = operations::send(socket, &shared.flights, write).await;
        shared.enter(|core, handler| core.wrote(handler, id, outcome, write));
    }
}

/// Reports a reset of a connection that is not read from, until the watch is dropped.
pub(super) fn watch<H: Handler>(shared: &Rc<Shared<H>>, id: ConnId, socket: Rc<OwnedFd>) -> Watch {
    let core = shared.clone();
    let task = spawn(shared.clone(), async move {
        // SAFETY: the clone of the `Rc` keeps the descriptor open, and the same, until the registration has ended.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::ERROR) };
        // Where the kernel has no room for a registration, the reset is detected at the end of the pause.
        let Ok(socket) = socket else { return };
        while let Ok(mut ready) = socket.ready(Interest::ERROR).await {
            core.enter(|core, _| core.was_reset(id));
            ready.clear_ready();
        }
    });
    Watch(task)
}

/// Connections that a listener's task accepts before the other tasks run.
const ACCEPTS_IN_A_ROW: usize = 64;

/// Accepts at a listener. Readiness and accept4(2) in place of accepts on the ring: an accept in flight could not be called
/// back when the worker ceases to listen.
pub(super) fn listen<H: Handler>(shared: &Rc<Shared<H>>, index: usize, listener: AsyncFd<OwnedFd>) {
    let core = shared.clone();
    spawn(shared.clone(), async move {
        loop {
            poll_fn(|cx| core.enter(|core, _| core.poll_door(index, cx))).await;
            let Ok(mut ready) = listener.readable().await else { return };
            for _ in 0..ACCEPTS_IN_A_ROW {
                match core.enter(|core, handler| core.accept(handler, index, listener.get_ref())) {
                    Admission::Next => {}
                    Admission::Empty => {
                        ready.clear_ready();
                        break;
                    }
                    Admission::Shut => break,
                }
            }
            // A flood of connections leaves room for the open ones.
            tokio::task::yield_now().await;
        }
    });
}

/// Waits for the outcome of a connect. The socket comes non-blocking, which the ring's operations do not want.
pub(super) fn connect<H: Handler>(
    shared: &Rc<Shared<H>>,
    id: ConnId,
    socket: AsyncFd<OwnedFd>,
) -> AbortHandle {
    let core = shared.clone();
    spawn(shared.clone(), async move {
        let outcome = match socket.writable().await {
            Ok(_) => outgoing::pending_error(socket.get_ref()),
            Err(error) => Err(error),
        };
        let socket = socket.into_inner();
        // One that does not block would fail with EAGAIN in place of waiting.
        let outcome = outcome.and_then(|()| Ok(rustix::io::ioctl_fionbio(&socket, false)?));
        core.enter(|core, handler| core.connect_ended(handler, id, outcome.map(|()| Rc::new(socket))));
    })
}

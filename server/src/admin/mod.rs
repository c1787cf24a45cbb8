//! Metrics and health checks, served on a separate address by a separate thread.
//!
//! The thread wakes the workers for each snapshot of the metrics, so that they publish their
//! counters. They have no other part in it. The thread serves many requests side by side, each
//! within a bounded time and size. So a slow or silent client delays no other one.

mod metrics;
mod process;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use engine::{EngineKind, Remote};
use metrics::Program;
use process::ProcessFigures;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Shutdown;

use crate::config::ListenAddress;
use crate::counted::counted;
use crate::error::ServeError;
use crate::limiter::ConnectionCount;
use crate::snapshot::{Snapshot, SnapshotSlot};
use crate::worker::PUBLISH;

/// Time that a connection has to send its request. It has the same time again to take the answer
/// and to close.
const REQUEST_TIME: Duration = Duration::from_secs(2);
/// Most connections at a time. A further connection replaces the oldest one.
const MAX_CONNECTIONS: usize = 64;
/// Most bytes of a request's head.
const REQUEST_BYTES: usize = 8 << 10;
/// Time within which a worker answers, unless it hangs or is very busy.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// Pause after a failed accept, for example without descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// Bound listener that is not served yet.
#[derive(Debug)]
pub(crate) struct AdminListener(TcpListener, SocketAddr);

/// Slot of a worker's snapshots, and the handle that wakes the worker.
struct WorkerHandle {
    remote: Remote,
    slot: Arc<SnapshotSlot>,
}

/// Running admin thread. It ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AdminListener {
    /// Binds the address. This happens before any worker runs, so that a port in use is an error of
    /// the start.
    ///
    /// # Errors
    ///
    /// [`ServeError::Resolve`], [`ServeError::Listen`].
    pub(crate) fn bind(address: &ListenAddress) -> Result<Self, ServeError> {
        let wanted = address.resolve("--admin")?;
        let failed = |source| ServeError::listen("--admin", wanted, source);
        let listener = TcpListener::bind(wanted).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self(listener, address))
    }

    /// Starts the thread that serves requests.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(crate) fn serve(
        self,
        engine: EngineKind,
        workers: Vec<(Remote, Arc<SnapshotSlot>)>,
        connection_count: Arc<ConnectionCount>,
    ) -> Result<Admin, ServeError> {
        let Self(listener, address) = self;
        let failed = ServeError::system("starting the admin thread");
        let ending = Arc::new(AtomicBool::new(false));
        let own = listener.try_clone().map_err(&failed)?;
        own.set_nonblocking(true).map_err(&failed)?;
        let server = AdminServer {
            engine,
            workers: workers
                .into_iter()
                .map(|(remote, slot)| WorkerHandle { remote, slot })
                .collect(),
            connection_count,
            start: process::start(),
            ending: Arc::clone(&ending),
        };
        let thread = thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || server.answer_all(&own))
            .map_err(&failed)?;
        Ok(Admin { listener, address, ending, thread: Some(thread) })
    }
}

impl Admin {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // On Linux the shutdown makes a listener ready.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Response to a request.
struct Answer {
    status: &'static str,
    content_type: &'static str,
    content: String,
}

impl Answer {
    fn text(status: &'static str, content: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", content: format!("{content}\n") }
    }

    fn bytes(&self, with_content: bool) -> Vec<u8> {
        let Self { status, content_type, content } = self;
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\n{allow}Content-Type: {content_type}\r\n\
             X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nContent-Length: {}\r\n\r\n{}",
            content.len(),
            if with_content { content } else { "" },
        )
        .into_bytes()
    }
}

/// Subject of a request.
enum Request {
    /// Request for a path, with or without the content of the answer.
    Get { path: String, with_content: bool },
    /// Request that is answered by an error.
    Wrong(Answer),
}

/// Connection and its progress.
struct Connection {
    stream: TcpStream,
    deadline: Instant,
    stage: Stage,
}

enum Stage {
    /// The request is incomplete. Holds the bytes so far.
    Reading(Vec<u8>),
    /// The answer is being written. Holds the rest of it.
    Writing { answer: Vec<u8>, sent: usize },
    /// Input is discarded until the peer closes, because unread input would turn the close into a
    /// reset.
    Closing,
}

impl Connection {
    fn new(stream: TcpStream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, deadline: now + REQUEST_TIME, stage: Stage::Reading(Vec::new()) })
    }

    fn interest(&self) -> PollFlags {
        if matches!(self.stage, Stage::Writing { .. }) { PollFlags::OUT } else { PollFlags::IN }
    }

    /// Reads more input. Returns the request once it is complete.
    ///
    /// # Errors
    ///
    /// Fails with the socket's error, and at its end. The connection is over then.
    fn read(&mut self) -> io::Result<Option<Request>> {
        let mut bytes = [0; 1024];
        loop {
            let len = match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            let Stage::Reading(head) = &mut self.stage else { continue };
            head.extend_from_slice(&bytes[..len]);
            if head.windows(4).any(|window| window == b"\r\n\r\n") {
                return Ok(Some(request(head)));
            }
            if head.len() > REQUEST_BYTES {
                let answer =
                    Answer::text("431 Request Header Fields Too Large", "the request is too long");
                return Ok(Some(Request::Wrong(answer)));
            }
        }
    }

    fn begin_answer(&mut self, answer: Vec<u8>, now: Instant) {
        self.stage = Stage::Writing { answer, sent: 0 };
        self.deadline = now + REQUEST_TIME;
    }

    /// Writes more of the answer, and half-closes behind it.
    fn write(&mut self) -> io::Result<()> {
        let Stage::Writing { answer, sent } = &mut self.stage else { return Ok(()) };
        while *sent < answer.len() {
            match self.stream.write(&answer[*sent..]) {
                Ok(len) => *sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.stage = Stage::Closing;
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Begins the answer to a connection that is out of time. Returns false if there is nothing
    /// to answer.
    fn time_out(&mut self, now: Instant) -> bool {
        let is_reading = matches!(self.stage, Stage::Reading(_));
        if is_reading {
            let answer = Answer::text("408 Request Timeout", "the request did not come in time");
            self.begin_answer(answer.bytes(true), now);
        }
        is_reading
    }
}

fn request(head: &[u8]) -> Request {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let whole = request.parse(head).is_ok_and(|status| status.is_complete());
    let (Some(method), Some(target), true) = (request.method, request.path, whole) else {
        return Request::Wrong(Answer::text("400 Bad Request", "this is not an HTTP/1.1 request"));
    };
    if !["GET", "HEAD"].contains(&method) {
        return Request::Wrong(Answer::text(
            "405 Method Not Allowed",
            "only GET and HEAD are answered here",
        ));
    }
    let path = target.split('?').next().unwrap_or_default().to_owned();
    Request::Get { path, with_content: method == "GET" }
}

/// State of the admin thread.
struct AdminServer {
    engine: EngineKind,
    workers: Vec<WorkerHandle>,
    connection_count: Arc<ConnectionCount>,
    /// Time since 1970 at which the process started. It is calculated once, because a clock that is
    /// set must not move it.
    start: Option<Duration>,
    ending: Arc<AtomicBool>,
}

/// Snapshots of all workers, each with true if it is current. They are taken for the first
/// request of a pass that needs them, and the other requests of the pass share them.
#[derive(Default)]
struct Snapshots(Option<Vec<(Snapshot, bool)>>);

impl AdminServer {
    fn answer_all(&self, listener: &TcpListener) {
        let mut connections: Vec<Connection> = Vec::new();
        while !self.ending.load(Ordering::Acquire) {
            let ready = wait(listener, &connections);
            let mut is_ready = ready.into_iter().map(|flags| !flags.is_empty());
            let accepts = is_ready.next().unwrap_or_default();
            let (now, mut look) = (Instant::now(), Snapshots::default());
            connections.retain_mut(|connection| {
                let is_ready = is_ready.next().unwrap_or_default();
                let goes_on = !is_ready || self.go_on(connection, &mut look, now).is_ok();
                goes_on && (now < connection.deadline || connection.time_out(now))
            });
            if accepts && accept(listener, &mut connections).is_err() {
                thread::sleep(RETRY);
            }
            let excess = connections.len().saturating_sub(MAX_CONNECTIONS);
            connections.drain(..excess);
        }
    }

    fn go_on(
        &self,
        connection: &mut Connection,
        look: &mut Snapshots,
        now: Instant,
    ) -> io::Result<()> {
        if !matches!(connection.stage, Stage::Writing { .. })
            && let Some(request) = connection.read()?
        {
            let answer = match request {
                Request::Get { path, with_content } => self.page(&path, look).bytes(with_content),
                Request::Wrong(answer) => answer.bytes(true),
            };
            connection.begin_answer(answer, now);
        }
        connection.write()
    }

    fn page(&self, path: &str, look: &mut Snapshots) -> Answer {
        match path {
            "/metrics" => self.metrics(self.look(look)),
            "/healthz" => health(self.look(look)),
            "/readyz" if self.connection_count.is_closed() => {
                Answer::text("503 Service Unavailable", "draining")
            }
            "/readyz" => Answer::text("200 OK", "ready"),
            _ => Answer::text("404 Not Found", "here are /metrics, /healthz and /readyz"),
        }
    }

    /// Asks all workers for a snapshot at once, and waits for them together.
    fn look<'a>(&self, look: &'a mut Snapshots) -> &'a [(Snapshot, bool)] {
        look.0.get_or_insert_with(|| {
            let editions: Vec<u64> =
                self.workers.iter().map(|worker| worker.slot.edition()).collect();
            self.workers.iter().for_each(|worker| worker.remote.wake(PUBLISH));
            let end = Instant::now() + ANSWER_TIME;
            let asked = self.workers.iter().zip(editions);
            asked.map(|(worker, edition)| worker.slot.newer_than(edition, end)).collect()
        })
    }

    fn metrics(&self, workers: &[(Snapshot, bool)]) -> Answer {
        let program = Program {
            engine: self.engine,
            draining: self.connection_count.is_closed(),
            start: self.start,
            process: ProcessFigures::read(),
        };
        let content = metrics::exposition(workers, &program);
        Answer { status: "200 OK", content_type: metrics::CONTENT_TYPE, content }
    }
}

fn health(answers: &[(Snapshot, bool)]) -> Answer {
    let silent = answers.iter().filter(|(_, is_of_now)| !is_of_now).count();
    let verb = if silent == 1 { "does" } else { "do" };
    match silent {
        0 => Answer::text("200 OK", "healthy"),
        _ => Answer::text(
            "503 Service Unavailable",
            &format!("{silent} of {} {verb} not answer", counted(answers.len() as u64, "worker")),
        ),
    }
}

/// Waits until something is ready or a time is up. Returns the flags of the listener, then those of
/// the connections.
fn wait(listener: &TcpListener, connections: &[Connection]) -> Vec<PollFlags> {
    let mut all = vec![PollFd::new(listener, PollFlags::IN)];
    all.extend(connections.iter().map(|c| PollFd::new(&c.stream, c.interest())));
    let next = connections.iter().map(|connection| connection.deadline).min();
    let left = next.map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    // An interrupted wait counts as a short one.
    let _ = poll(&mut all, timeout.as_ref());
    all.iter().map(PollFd::revents).collect()
}

/// Accepts the connections that wait at the listener, at most as many at once as are served side by
/// side.
fn accept(listener: &TcpListener, connections: &mut Vec<Connection>) -> io::Result<()> {
    for _ in 0..MAX_CONNECTIONS {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        };
        // A connection that its client has closed already is ignored.
        connections.extend(Connection::new(stream, Instant::now()));
    }
    Ok(())
}

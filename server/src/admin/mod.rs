//! Metrics and health, told on an address of their own by a thread of their own.
//!
//! The workers know nothing of it but that they are woken for each look at the metrics, to show their counters. Requests are
//! taken one at a time, each within a bounded time and of a bounded size.

mod metrics;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use engine::Remote;
use rustix::net::Shutdown;

use crate::board::{Board, Snapshot};
use crate::config::ListenAddress;
use crate::error::ServeError;
use crate::gate::Census;
use crate::worker::SHOW;

/// A request has this long from its first byte to its last, and as long again to take the answer.
const REQUEST_TIME: Duration = Duration::from_secs(2);
/// A request's head, at most.
const REQUEST_BYTES: usize = 8 << 10;
/// A worker that does not answer within this time hangs, or is very busy.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// After a failed accept, for want of descriptors perhaps.
const RETRY: Duration = Duration::from_millis(100);

/// A bound address that nobody serves yet.
#[derive(Debug)]
pub(crate) struct Post(TcpListener, SocketAddr);

/// What can be asked, and how to wake the worker that knows.
struct Watched {
    remote: Remote,
    board: Arc<Board>,
}

/// The running thread; it ends with this value.
#[derive(Debug)]
pub(crate) struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Post {
    /// Binds before any worker runs, so that a port in use is an error of the start.
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

    /// Answers from now on.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub(crate) fn serve(
        self,
        workers: Vec<(Remote, Arc<Board>)>,
        census: Arc<Census>,
    ) -> Result<Admin, ServeError> {
        let Self(listener, address) = self;
        let failed = ServeError::system("starting the admin thread");
        let ending = Arc::new(AtomicBool::new(false));
        let own = listener.try_clone().map_err(&failed)?;
        let desk = Desk {
            workers: workers.into_iter().map(|(remote, board)| Watched { remote, board }).collect(),
            census,
            ending: Arc::clone(&ending),
        };
        let thread = thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || desk.answer_all(&own))
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
        // On Linux this ends an accept that waits.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An answer.
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

/// What the thread knows.
struct Desk {
    workers: Vec<Watched>,
    census: Arc<Census>,
    ending: Arc<AtomicBool>,
}

impl Desk {
    fn answer_all(&self, listener: &TcpListener) {
        while !self.ending.load(Ordering::Acquire) {
            match listener.accept() {
                // Whoever asks and goes away is no matter.
                Ok((stream, _)) => drop(self.answer(stream)),
                Err(_) => thread::sleep(RETRY),
            }
        }
    }

    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_write_timeout(Some(REQUEST_TIME))?;
        let answer = match read_head(&mut stream) {
            Ok(head) => self.answer_to(&head),
            Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
                (Answer::text("408 Request Timeout", "the request did not come in time"), true)
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                (Answer::text("431 Request Header Fields Too Large", "the request is too long"), true)
            }
            Err(error) => return Err(error),
        };
        stream.write_all(&answer.0.bytes(answer.1))?;
        stream.shutdown(std::net::Shutdown::Write)
    }

    /// The answer, and whether its content goes with it.
    fn answer_to(&self, head: &[u8]) -> (Answer, bool) {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        let whole = request.parse(head).is_ok_and(|status| status.is_complete());
        let (Some(method), Some(target), true) = (request.method, request.path, whole) else {
            return (Answer::text("400 Bad Request", "this is not an HTTP/1.1 request"), true);
        };
        if !["GET", "HEAD"].contains(&method) {
            return (Answer::text("405 Method Not Allowed", "only GET and HEAD are answered here"), true);
        }
        (self.page(target.split('?').next().unwrap_or_default()), method == "GET")
    }

    fn page(&self, path: &str) -> Answer {
        match path {
            "/metrics" => self.metrics(),
            "/healthz" => self.health(),
            "/readyz" if self.census.is_closed() => Answer::text("503 Service Unavailable", "draining"),
            "/readyz" => Answer::text("200 OK", "ready"),
            _ => Answer::text("404 Not Found", "here are /metrics, /healthz and /readyz"),
        }
    }

    /// Asks all workers at once, and waits for them together: each one's snapshot, and whether it is of now.
    fn ask(&self) -> Vec<(Snapshot, bool)> {
        let editions: Vec<u64> = self.workers.iter().map(|worker| worker.board.edition()).collect();
        self.workers.iter().for_each(|worker| worker.remote.wake(SHOW));
        let end = Instant::now() + ANSWER_TIME;
        let asked = self.workers.iter().zip(editions);
        asked.map(|(worker, edition)| worker.board.newer_than(edition, end)).collect()
    }

    fn metrics(&self) -> Answer {
        let content = metrics::exposition(&self.ask(), self.census.is_closed());
        Answer { status: "200 OK", content_type: metrics::CONTENT_TYPE, content }
    }

    fn health(&self) -> Answer {
        let answers = self.ask();
        let silent = answers.iter().filter(|(_, is_of_now)| !is_of_now).count();
        match silent {
            0 => Answer::text("200 OK", "healthy"),
            _ => Answer::text(
                "503 Service Unavailable",
                &format!("{silent} of {} workers do not answer", answers.len()),
            ),
        }
    }
}

/// Reads to the empty line, within [`REQUEST_TIME`] however slowly the bytes come.
fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let end = Instant::now() + REQUEST_TIME;
    let mut head = Vec::new();
    let mut bytes = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() > REQUEST_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => head.extend_from_slice(&bytes[..len]),
        }
    }
    Ok(head)
}

//! Metrics of a server that has none, on its own host: what `run --server-metrics` reads.
//!
//! Requests are answered one after the other. Each has a bounded size and time, so a slow client
//! delays the others by that time at most.

mod exposition;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use httparse::{EMPTY_HEADER, Request};
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::host::accounts::Account;

pub(crate) use exposition::Build;
use exposition::{CONTENT_TYPE, exposition};

/// Time in which a request must come, and again in which its answer must be taken.
const REQUEST_TIME: Duration = Duration::from_millis(500);
/// Most bytes of a request.
const REQUEST_BYTES: usize = 8 << 10;
/// Pause after a failed accept, for example without descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// A server whose metrics are served.
pub(crate) struct Agent {
    pub(crate) account: Account,
    /// The server in words, as in `process 12`.
    pub(crate) name: String,
    pub(crate) build: Build,
}

/// Returns a socket that becomes readable with a signal to end.
///
/// # Errors
///
/// The signals cannot be watched.
pub(crate) fn end_signals() -> io::Result<UnixStream> {
    let (end, sender) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(end)
}

impl Agent {
    /// Serves until `end` is readable or at its end.
    ///
    /// # Errors
    ///
    /// The sockets cannot be waited for.
    pub(crate) fn serve(mut self, listener: &TcpListener, end: &UnixStream) -> anyhow::Result<()> {
        listener.set_nonblocking(true).context("cannot listen")?;
        loop {
            let mut both = [PollFd::new(listener, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
            match poll(&mut both, None) {
                Err(rustix::io::Errno::INTR) => continue,
                ready => ready.context("cannot wait for requests")?,
            };
            if !both[1].revents().is_empty() {
                return Ok(());
            }
            match listener.accept() {
                // A client that goes away has no use for an error.
                Ok((stream, _)) => drop(self.answer(stream)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    }

    fn answer(&mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        let answer = match read_head(&mut stream)? {
            Some(head) => self.response(&head),
            None => response(
                "431 Request Header Fields Too Large",
                TEXT,
                "the request is too long\n",
                true,
            ),
        };
        stream.set_write_timeout(Some(REQUEST_TIME))?;
        stream.write_all(&answer)?;
        stream.shutdown(Shutdown::Write)
    }

    /// Returns the answer to a request.
    fn response(&mut self, head: &[u8]) -> Vec<u8> {
        let mut fields = [EMPTY_HEADER; 64];
        let mut request = Request::new(&mut fields);
        let is_whole = request.parse(head).is_ok_and(|status| status.is_complete());
        let (Some(method), Some(target), true) = (request.method, request.path, is_whole) else {
            return response("400 Bad Request", TEXT, "this is not an HTTP/1.1 request\n", true);
        };
        if !["GET", "HEAD"].contains(&method) {
            let only = "only GET and HEAD are answered here\n";
            return response("405 Method Not Allowed", TEXT, only, true);
        }
        let (status, kind, content) = self.page(target.split('?').next().unwrap_or_default());
        response(status, kind, &content, method == "GET")
    }

    fn page(&mut self, path: &str) -> (&'static str, &'static str, String) {
        let name = &self.name;
        match path {
            "/metrics" => match self.account.read() {
                Some(figures) => {
                    let text = exposition(&figures, self.account.source(), &self.build);
                    ("200 OK", CONTENT_TYPE, text)
                }
                None => ("503 Service Unavailable", TEXT, format!("{name} has ended\n")),
            },
            "/" => ("200 OK", TEXT, format!("sparring-loadgen agent: {name} is at /metrics\n")),
            _ => ("404 Not Found", TEXT, "here are / and /metrics\n".to_owned()),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn response(status: &str, kind: &str, content: &str, with_content: bool) -> Vec<u8> {
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\n{allow}Content-Type: {kind}\r\n\
         X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nContent-Length: {}\r\n\r\n{}",
        content.len(),
        if with_content { content } else { "" },
    )
    .into_bytes()
}

/// Reads the head of a request; `None` where it is too long.
///
/// # Errors
///
/// The head has not come in time, or the client has gone.
fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let (mut head, mut piece) = (Vec::new(), [0; 1024]);
    let end = Instant::now() + REQUEST_TIME;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let length = match stream.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            length => length?,
        };
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..length]);
        if head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            return Ok(Some(head));
        }
        if head.len() > REQUEST_BYTES {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::target::metrics::{Endpoint, MetricsUrl};

    const BUILD: Build = [("version", "1"), ("commit", "c"), ("profile", "debug")];

    /// The agent of this process, in a thread.
    struct Running {
        at: SocketAddr,
        end: UnixStream,
        thread: Option<JoinHandle<()>>,
    }

    impl Running {
        fn start() -> Self {
            let account = Account::of_process(std::process::id()).expect("this process");
            let agent = Agent { account, name: "process x".to_owned(), build: BUILD };
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let at = listener.local_addr().expect("bound");
            let (end, other) = UnixStream::pair().expect("sockets");
            let thread = thread::spawn(move || agent.serve(&listener, &other).expect("it serves"));
            Self { at, end, thread: Some(thread) }
        }

        fn ask(&self, request: &[u8]) -> String {
            let mut stream = TcpStream::connect(self.at).expect("it accepts");
            stream.write_all(request).expect("taken");
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.end.shutdown(Shutdown::Both);
            self.thread.take().expect("running").join().expect("no panic");
        }
    }

    #[test]
    fn the_generator_reads_the_figures_of_the_agent() {
        let agent = Running::start();
        let url: MetricsUrl = format!("http://{}", agent.at).parse().expect("a URL");
        let endpoint = Endpoint::resolve(&url).expect("an address");
        let [first, last] = [(); 2].map(|()| endpoint.read().expect("metrics"));
        assert!(first.cpu_ns > 0 && last.cpu_ns >= first.cpu_ns);
        assert!(last.is_same_process(&first) && last.busiest_since(&first).is_some());
        assert!(first.resident > first.anonymous && first.faults > Some(0));
        assert!(first.user_ns.is_some() && first.system_ns.is_some());
    }

    #[test]
    fn other_requests_get_an_answer() {
        let agent = Running::start();
        for (request, answer) in [
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
            ("HEAD /metrics?x HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
            ("GET /other HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
            ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
            ("\x16\x03\x01\r\n\r\n", "HTTP/1.1 400 "),
        ] {
            assert!(agent.ask(request.as_bytes()).starts_with(answer), "{request}");
        }
        assert!(agent.ask(b"GET / HTTP/1.1\r\n\r\n").ends_with("process x is at /metrics\n"));
        assert!(agent.ask(b"HEAD / HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
    }

    #[test]
    fn silent_clients_are_dropped() {
        let agent = Running::start();
        let mut silent = TcpStream::connect(agent.at).expect("it accepts");
        silent.write_all(b"GET /").expect("taken");
        // The answer waits for the end of the silent client's time, and comes.
        assert!(agent.ask(b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"));
        let closed = silent.read(&mut [0]);
        assert!(closed.is_err() || closed.is_ok_and(|length| length == 0));
        assert!(!agent.ask(&[b'a'; 9 << 10]).starts_with("HTTP/1.1 200"));
    }
}

//! A handler that tests can script, and that checks the contract of the engine on every call.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use engine::tls::{HandshakeThread, Tls, TlsSettings};
use engine::{
    Cause, Config, ConnId, Counters, EngineError, EngineKind, Handler, Inbox, Listener, Nanos,
    Origin, Output, Remote, SendCompletions, Worker,
};

/// Limit against hangs only: it decides no result.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Bit of `wake` that announces commands.
const COMMANDS: u64 = 1 << 62;

/// An engine and its setup.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) kind: EngineKind,
    pub(crate) send_completions: SendCompletions,
}

impl Case {
    /// Returns whether the engine works here. If not, it prints the reason past the test's capture.
    pub(crate) fn works(&self) -> bool {
        match self.kind.probe() {
            Ok(()) => true,
            Err(reason) => {
                self.skip(reason);
                false
            }
        }
    }

    /// Reports that the test does not run here, past the capture of its output.
    pub(crate) fn skip(&self, reason: impl std::fmt::Display) {
        let test = thread::current();
        let test = test.name().unwrap_or("test").to_owned();
        let _ = writeln!(io::stderr(), "skipped: {test}: {}: {reason}", self.name);
    }

    /// Returns a configuration with a listener on a free port of the loopback address.
    pub(crate) fn config(&self) -> Config {
        let mut config = self.clients_only();
        let socket = engine::socket::listen(loopback(0), 1).expect("listen").remove(0);
        config.listeners.push(Listener { socket, peer_addresses: true });
        config
    }

    /// Returns a configuration without listeners.
    pub(crate) fn clients_only(&self) -> Config {
        let mut config = Config::default();
        // io_uring's table of direct descriptors may not be larger than the limit on open files.
        let half = usize::try_from(engine::socket::raise_file_limit() / 2).unwrap_or(usize::MAX);
        config.max_accepted = config.max_accepted.min(half);
        config.max_connects = config.max_connects.min(half);
        config.uring.send_completions = self.send_completions;
        config.uring.sq_entries = 256;
        config.uring.cq_entries = 1024;
        config
    }
}

/// Runs `body`, this test once more, in a process of its own, because limits belong to a process.
pub(crate) fn in_a_process_of_its_own(body: impl FnOnce()) {
    const CHILD: &str = "SPARRING_TEST_IN_A_PROCESS_OF_ITS_OWN";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let test = thread::current().name().expect("a test's thread has its name").to_owned();
    let child = process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .expect("spawn");
    let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
    for line in text.lines().filter(|line| line.starts_with("skipped: ")) {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A call of the handler, as the test sees it.
#[derive(Debug)]
pub(crate) enum Event {
    Opened(ConnId, Origin),
    Secured(ConnId),
    ConnectFailed(u64, io::Error),
    Received(ConnId, Vec<u8>),
    Eof(ConnId),
    Drained(ConnId),
    Deadline(ConnId, Nanos),
    Closed(ConnId, Cause),
    Alarm(Nanos),
    Woken(u64),
}

type OnConn = Box<dyn FnMut(ConnId, &mut Output<'_>) + Send>;
type OnReceived = Box<dyn FnMut(ConnId, &mut [u8], &mut Output<'_>) + Send>;
type OnWorker = Box<dyn FnMut(&mut Worker<'_, Stage>) + Send>;
type Command = Box<dyn FnOnce(&mut Worker<'_, Stage>) + Send>;

/// Names of the handler's calls, in the order in which they came.
pub(crate) type Calls = Arc<Mutex<Vec<&'static str>>>;

/// Actions of the handler in its calls; by default none.
pub(crate) struct Script {
    start: OnWorker,
    opened: OnConn,
    secured: OnConn,
    received: OnReceived,
    eof: OnConn,
    drained: OnConn,
    deadline: OnConn,
    alarm: OnWorker,
    woken: OnWorker,
    turn_end: OnWorker,
    connect_failed: OnWorker,
    calls: Option<Calls>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            start: Box::new(|_| {}),
            opened: Box::new(|_, _| {}),
            secured: Box::new(|_, _| {}),
            received: Box::new(|_, _, _| {}),
            eof: Box::new(|_, _| {}),
            drained: Box::new(|_, _| {}),
            deadline: Box::new(|_, _| {}),
            alarm: Box::new(|_| {}),
            woken: Box::new(|_| {}),
            turn_end: Box::new(|_| {}),
            connect_failed: Box::new(|_| {}),
            calls: None,
        }
    }
}

macro_rules! setters {
    ($($name:ident($($arg:ty),*);)*) => {
        $(pub(crate) fn $name(mut self, f: impl FnMut($($arg),*) + Send + 'static) -> Self {
            self.$name = Box::new(f);
            self
        })*
    };
}

impl Script {
    /// Sends everything back, and closes when the peer does.
    pub(crate) fn echo() -> Self {
        Self::default()
            .received(|_, bytes, out| out.echo(0..bytes.len()))
            .eof(|_, out| out.close(engine::CloseMode::Flush))
    }

    /// Counts turns in the returned value.
    pub(crate) fn counting_turns(self) -> (Self, Arc<AtomicU64>) {
        let turns = Arc::new(AtomicU64::new(0));
        let count = turns.clone();
        let script = self.turn_end(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (script, turns)
    }

    /// Records the name of every call in the returned value.
    pub(crate) fn noting_calls(mut self) -> (Self, Calls) {
        let calls = Calls::default();
        self.calls = Some(calls.clone());
        (self, calls)
    }

    setters! {
        start(&mut Worker<'_, Stage>);
        opened(ConnId, &mut Output<'_>);
        secured(ConnId, &mut Output<'_>);
        received(ConnId, &mut [u8], &mut Output<'_>);
        eof(ConnId, &mut Output<'_>);
        drained(ConnId, &mut Output<'_>);
        deadline(ConnId, &mut Output<'_>);
        alarm(&mut Worker<'_, Stage>);
        woken(&mut Worker<'_, Stage>);
        turn_end(&mut Worker<'_, Stage>);
        connect_failed(&mut Worker<'_, Stage>);
    }
}

/// Facts about an open connection.
#[derive(Default)]
struct Known {
    serial: u64,
    eof: bool,
}

/// Handler that runs the script: reports every event to the test, and checks the contract of every
/// call.
pub(crate) struct Stage {
    script: Script,
    events: Sender<Event>,
    commands: Receiver<Command>,
    known: HashMap<ConnId, Known>,
    opened: u64,
    /// The engine's thread.
    thread: ThreadId,
    has_started: bool,
    /// Set while the engine is inside a call of this handler: calls must not nest.
    is_inside: bool,
    /// Time of the current turn, once a call has had it.
    now: Option<Nanos>,
}

impl Stage {
    fn report(&self, event: Event) {
        // A test that needs no more events drops its end.
        let _ = self.events.send(event);
    }

    fn enter(&mut self, call: &'static str, now: Option<Nanos>) {
        assert!(!std::mem::replace(&mut self.is_inside, true), "{call} from within another call");
        assert_eq!(thread::current().id(), self.thread, "{call} on another thread");
        assert_eq!(
            std::mem::replace(&mut self.has_started, true),
            call != "start",
            "{call}, start"
        );
        if let Some(now) = now {
            assert_eq!(
                *self.now.get_or_insert(now),
                now,
                "{call} at another time of the same turn"
            );
        }
        if let Some(calls) = &self.script.calls {
            calls.lock().expect("lock").push(call);
        }
    }

    fn leave(&mut self) {
        self.is_inside = false;
    }

    fn check(&mut self, id: ConnId, serial: u64) -> &mut Known {
        let known = self.known.get_mut(&id).expect("a call for a connection that is not open");
        assert_eq!(known.serial, serial, "the state of another connection");
        known
    }
}

impl Handler for Stage {
    /// Number of the connection in the order of opening.
    type Conn = u64;

    fn start(&mut self, w: &mut Worker<'_, Self>) {
        self.enter("start", None);
        (self.script.start)(w);
        self.leave();
    }

    fn opened(&mut self, id: ConnId, from: Origin, out: &mut Output<'_>) -> u64 {
        self.enter("opened", Some(out.now()));
        self.opened += 1;
        let known = Known { serial: self.opened, eof: false };
        assert!(self.known.insert(id, known).is_none(), "opened twice");
        self.report(Event::Opened(id, from));
        (self.script.opened)(id, out);
        self.leave();
        self.opened
    }

    fn secured(&mut self, id: ConnId, c: &mut u64, _: bool, out: &mut Output<'_>) {
        self.enter("secured", Some(out.now()));
        self.check(id, *c);
        self.report(Event::Secured(id));
        (self.script.secured)(id, out);
        self.leave();
    }

    fn connect_failed(&mut self, w: &mut Worker<'_, Self>, tag: u64, error: io::Error) {
        self.enter("connect_failed", Some(w.now()));
        self.report(Event::ConnectFailed(tag, error));
        (self.script.connect_failed)(w);
        self.leave();
    }

    fn received(&mut self, id: ConnId, c: &mut u64, bytes: &mut [u8], out: &mut Output<'_>) {
        self.enter("received", Some(out.now()));
        assert!(!self.check(id, *c).eof, "bytes after the end");
        assert!(!bytes.is_empty(), "received without bytes");
        self.report(Event::Received(id, bytes.to_vec()));
        (self.script.received)(id, bytes, out);
        self.leave();
    }

    fn eof(&mut self, id: ConnId, c: &mut u64, out: &mut Output<'_>) {
        self.enter("eof", Some(out.now()));
        assert!(!std::mem::replace(&mut self.check(id, *c).eof, true), "eof twice");
        self.report(Event::Eof(id));
        (self.script.eof)(id, out);
        self.leave();
    }

    fn drained(&mut self, id: ConnId, c: &mut u64, out: &mut Output<'_>) {
        self.enter("drained", Some(out.now()));
        self.check(id, *c);
        self.report(Event::Drained(id));
        (self.script.drained)(id, out);
        self.leave();
    }

    fn deadline(&mut self, id: ConnId, c: &mut u64, out: &mut Output<'_>) {
        self.enter("deadline", Some(out.now()));
        self.check(id, *c);
        self.report(Event::Deadline(id, out.now()));
        (self.script.deadline)(id, out);
        self.leave();
    }

    fn closed(&mut self, id: ConnId, c: u64, cause: Cause) {
        self.enter("closed", None);
        self.check(id, c);
        self.known.remove(&id);
        self.report(Event::Closed(id, cause));
        self.leave();
    }

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        self.enter("alarm", Some(w.now()));
        self.report(Event::Alarm(w.now()));
        (self.script.alarm)(w);
        self.leave();
    }

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        self.enter("woken", Some(w.now()));
        assert_ne!(bits, 0, "a wake has bits");
        if bits & COMMANDS != 0 {
            // Runs only the commands that are there now: a test that waits for an answer sends its
            // next command for a later turn.
            let commands: Vec<_> = self.commands.try_iter().collect();
            commands.into_iter().for_each(|command| command(w));
        }
        if bits & !COMMANDS != 0 {
            self.report(Event::Woken(bits & !COMMANDS));
            (self.script.woken)(w);
        }
        self.leave();
    }

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        self.enter("turn_end", Some(w.now()));
        (self.script.turn_end)(w);
        self.now = None;
        self.leave();
    }
}

/// A worker on a thread of its own.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) remote: Remote,
    events: Receiver<Event>,
    commands: Sender<Command>,
    thread: Option<JoinHandle<Result<(Counters, usize), EngineError>>>,
}

impl Running {
    pub(crate) fn start(case: &Case, config: Config, script: Script) -> Self {
        let kind = case.kind;
        Self::run(config, script, move |config, inbox, _, mut stage| {
            let counters = engine::run(kind, config, inbox, &mut stage)?;
            Ok((counters, stage.known.len()))
        })
    }

    /// Starts a worker that runs the script behind TLS.
    pub(crate) fn start_tls(
        case: &Case,
        config: Config,
        settings: TlsSettings,
        script: Script,
    ) -> Self {
        let kind = case.kind;
        Self::run(config, script, move |config, inbox, remote, stage| {
            let mut tls = Tls::new(stage, settings)
                .with_handshakes(HandshakeThread::start(remote).expect("a thread"));
            let counters = engine::run(kind, config, inbox, &mut tls)?;
            Ok((counters, tls.inner().known.len()))
        })
    }

    fn run(
        config: Config,
        script: Script,
        body: impl FnOnce(&Config, Inbox, Remote, Stage) -> Result<(Counters, usize), EngineError>
        + Send
        + 'static,
    ) -> Self {
        let (event_sender, events) = channel();
        let (commands, command_receiver) = channel();
        let (remote, inbox) = engine::remote().expect("eventfd");
        let addr = config
            .listeners
            .first()
            .map_or(loopback(0), |l| l.socket.local_addr().expect("address"));
        let of_worker = remote.clone();
        let thread = thread::spawn(move || {
            let stage = Stage {
                script,
                events: event_sender,
                commands: command_receiver,
                known: HashMap::new(),
                opened: 0,
                thread: thread::current().id(),
                has_started: false,
                is_inside: false,
                now: None,
            };
            body(&config, inbox, of_worker, stage)
        });
        Self { addr, remote, events, commands, thread: Some(thread) }
    }

    /// Starts an echo server.
    pub(crate) fn echo(case: &Case) -> Self {
        Self::start(case, case.config(), Script::echo())
    }

    /// Runs `f` on the worker's thread, in `woken`, and waits for its result.
    pub(crate) fn ask<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Worker<'_, Stage>) -> R + Send + 'static,
    ) -> R {
        let (answer, receiver) = channel();
        self.post(move |w| {
            let _ = answer.send(f(w));
        });
        receiver.recv_timeout(LIMIT).expect("the worker answers")
    }

    /// Runs `f` on the worker's thread, in `woken`, and does not wait.
    pub(crate) fn post(&self, f: impl FnOnce(&mut Worker<'_, Stage>) + Send + 'static) {
        self.commands.send(Box::new(f)).expect("the worker runs");
        self.remote.wake(COMMANDS);
    }

    /// Runs `f` by `Worker::with`.
    pub(crate) fn with<R: Send + 'static>(
        &self,
        id: ConnId,
        f: impl FnOnce(&mut Output<'_>) -> R + Send + 'static,
    ) -> Option<R> {
        self.ask(move |w| w.with(id, |_, out| f(out)))
    }

    pub(crate) fn connect(&self) -> TcpStream {
        client(self.addr)
    }

    pub(crate) fn event(&self) -> Event {
        match self.events.recv_timeout(LIMIT) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => panic!("nothing happened for {LIMIT:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the worker has ended"),
        }
    }

    /// Returns the next event that `pick` accepts, and discards those before it.
    pub(crate) fn wait_for<R>(&self, mut pick: impl FnMut(Event) -> Option<R>) -> R {
        loop {
            if let Some(picked) = pick(self.event()) {
                return picked;
            }
        }
    }

    pub(crate) fn wait_opened(&self) -> ConnId {
        self.wait_for(|e| if let Event::Opened(id, _) = e { Some(id) } else { None })
    }

    pub(crate) fn wait_closed(&self, id: ConnId) -> Cause {
        self.wait_for(|e| match e {
            Event::Closed(closed, cause) if closed == id => Some(cause),
            _ => None,
        })
    }

    /// Returns the events that have come so far.
    pub(crate) fn events_so_far(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// Waits for some turns, so that the worker has done everything that needs no request.
    pub(crate) fn some_turns(&self) {
        for _ in 0..10 {
            self.ask(|_| {});
        }
    }

    /// Stops the worker; every connection must have been reported closed. Returns the counters and
    /// the events not yet taken.
    pub(crate) fn finish(mut self) -> (Counters, Vec<Event>) {
        let command: Command = Box::new(|w| w.stop());
        self.commands.send(command).expect("the worker runs");
        self.remote.wake(COMMANDS);
        self.join()
    }

    /// Waits for the end of a worker that stops by itself.
    pub(crate) fn join(&mut self) -> (Counters, Vec<Event>) {
        let (counters, open) = match self.wait_for_end() {
            Ok(outcome) => outcome.expect("the engine runs"),
            Err(panic) => std::panic::resume_unwind(panic),
        };
        assert_eq!(open, 0, "opened connections without a closed");
        (counters, self.events_so_far())
    }
}

impl Running {
    /// Waits for the end of the worker's thread; an error is its panic.
    pub(crate) fn wait_for_end(
        &mut self,
    ) -> thread::Result<Result<(Counters, usize), EngineError>> {
        let thread = self.thread.take().expect("joined once");
        let since = Instant::now();
        while !thread.is_finished() {
            assert!(since.elapsed() < LIMIT, "the worker does not end");
            thread::sleep(Duration::from_millis(1));
        }
        thread.join()
    }
}

impl Drop for Running {
    /// A test that fails half-way leaves no worker behind.
    fn drop(&mut self) {
        if self.thread.is_some() {
            let command: Command = Box::new(|w| w.stop());
            let _ = self.commands.send(command);
            self.remote.wake(COMMANDS);
        }
    }
}

/// Returns a blocking client with bounded waits.
pub(crate) fn client(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, LIMIT).expect("connect");
    bounded(stream)
}

pub(crate) fn bounded(stream: TcpStream) -> TcpStream {
    stream.set_nonblocking(false).expect("blocking");
    stream.set_nodelay(true).expect("nodelay");
    stream.set_read_timeout(Some(LIMIT)).expect("timeout");
    stream.set_write_timeout(Some(LIMIT)).expect("timeout");
    stream
}

/// Sends `bytes` and expects them back.
pub(crate) fn round_trip(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("write");
    expect(stream, bytes);
}

pub(crate) fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).expect("read");
    assert!(back == bytes, "other bytes came back");
}

/// Reads everything until the peer's FIN.
pub(crate) fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an orderly end");
    bytes
}

/// Returns bytes that differ along the way, so that a shift or a swap shows.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// splitmix64: small, seeded, good enough for choices in tests.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number from 1 to `most`.
    pub(crate) fn upto(&mut self, most: usize) -> usize {
        1 + (self.next() % most as u64) as usize
    }
}

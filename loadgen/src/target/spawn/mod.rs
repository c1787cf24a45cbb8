//! The server that a run starts and ends (`--spawn`), and the proxy before it (`--via`).
//!
//! The command is split into words as in a shell and runs without one, in its own process group. A
//! process of this program stands between us and the server (see `supervisor`). It ends the whole
//! server when we end, however that happens. It also makes the cost of the server's ended processes
//! known.

mod supervisor;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use protocol::handshake::{HeadLimits, client as handshake};
use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;

use crate::host::cgroup::Cgroup;
use crate::host::procfs::{self, CpuUsage};
use crate::load::Transport;
use crate::target::trust::probe;
use crate::target::url::{PORT_PLACEHOLDER, Port, Url};

pub(crate) use supervisor::inherited_limits;
pub(crate) use supervisor::{GUARD, guard};
use supervisor::{MYSELF, SUPERVISE, TERMINATE, encode_limits};

/// Beginning of the line that a server prints once it accepts; the URL follows.
const LISTENING: &str = "listening on ";
/// Longest time from SIGTERM to the end of a server: its own drain takes up to 5 s.
const END_TIME: Duration = Duration::from_secs(7);
/// Interval of all checks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Longest attempt to connect and shake hands, while it is not known whether the server is ready.
const PROBE_TIME: Duration = Duration::from_millis(500);
/// Lines of standard error that are kept to be shown.
const KEPT_LINES: usize = 8;
/// Attempts to find a port for `{port}`, which another process may take first.
const PORT_ATTEMPTS: usize = 5;
/// Placeholder of the server's HOST:PORT, in the command of a proxy.
pub(crate) const SERVER_PLACEHOLDER: &str = "{server}";

/// A server to start. Only the load generator's own binary can: it has the subcommand `GUARD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spawn {
    /// Program and arguments, `{port}` not yet replaced.
    pub command: Vec<String>,
    /// The processors it is confined to; empty: wherever it may run.
    pub cpus: Vec<usize>,
    /// Its working directory; `None`: that of this program.
    pub directory: Option<PathBuf>,
}

/// Part that a started program has in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The server, to which the generator connects.
    Server,
    /// The server behind a proxy, which may end TLS before it.
    ServerBehind,
    /// The proxy, to which the generator connects.
    Proxy,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Proxy { "proxy" } else { "server" })
    }
}

impl Role {
    /// Returns the flag that has the command.
    pub(crate) fn flag(self) -> &'static str {
        if self == Self::Proxy { "--via" } else { "--spawn" }
    }
}

/// Reason why a server or a proxy could not be started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// Not a command line.
    #[error("{flag} `{1}` is no command: it is empty, or a quote is not closed", flag = .0.flag())]
    Command(Role, String),
    /// No free port for `{port}` at this address, with the error of bind(2).
    #[error("no free port at {0} for {PORT_PLACEHOLDER}: {1}")]
    NoPort(IpAddr, io::Error),
    /// Something listens at this address before the server is started.
    #[error(
        "something already listens at {0}: end it, or write {PORT_PLACEHOLDER} in the URL and the command"
    )]
    Taken(SocketAddr),
    /// The guard could not be started.
    #[error("cannot start the {0}: {1}")]
    Start(Role, io::Error),
    /// It ended before it listened.
    #[error("the {role} ended before it accepted connections ({status}){said}")]
    Ended {
        /// Its part in the run.
        role: Role,
        /// Its exit status.
        status: ExitStatus,
        /// Its last lines on standard error.
        said: String,
        /// True if another process had taken its port.
        port_in_use: bool,
    },
    /// It listens nowhere, or not where it was expected.
    #[error(
        "the {role} does not accept at {at} after {after:?} (--spawn-timeout): does its command listen there?{said}"
    )]
    NotListening {
        /// Its part in the run.
        role: Role,
        /// Time that it had.
        after: Duration,
        /// The expected address.
        at: SocketAddr,
        /// Its last lines on standard error.
        said: String,
    },
    /// Another process listens at the address; with the program's last lines on standard error.
    #[error(
        "the socket listening at {1} does not belong to the {0} that was started: another process has the port{2}"
    )]
    NotOurs(Role, SocketAddr, String),
    /// The user did not want to wait for the server.
    #[error("interrupted while the server was starting")]
    Interrupted,
}

impl SpawnError {
    /// Returns true if another process took the port first.
    fn is_port_race(&self) -> bool {
        matches!(self, Self::Taken(_) | Self::NotOurs(..) | Self::Ended { port_in_use: true, .. })
    }
}

impl Spawn {
    /// Splits `command` into words as a POSIX shell would.
    pub(crate) fn parse(role: Role, command: &str) -> Result<Self, SpawnError> {
        match shlex::split(command) {
            Some(words) if !words.is_empty() => Ok(Self { command: words, ..Self::default() }),
            _ => Err(SpawnError::Command(role, command.to_owned())),
        }
    }

    /// Returns the command of a proxy with the server's HOST:PORT in it.
    pub(crate) fn before(&self, server: &str) -> Self {
        let words = self.command.iter().map(|word| word.replace(SERVER_PLACEHOLDER, server));
        Self { command: words.collect(), ..self.clone() }
    }

    /// Returns true if a word has the placeholder.
    pub(crate) fn names(&self, placeholder: &str) -> bool {
        self.command.iter().any(|word| word.contains(placeholder))
    }

    fn words(&self, port: u16) -> impl Iterator<Item = String> + '_ {
        let port = port.to_string();
        self.command.iter().map(move |word| word.replace(PORT_PLACEHOLDER, &port))
    }
}

/// Returns a port for `{port}` that is free at all of these addresses that can be bound.
fn free_port(addresses: &[SocketAddr]) -> Result<u16, SpawnError> {
    const ATTEMPTS: usize = 32;
    let mut failed = SpawnError::NoPort(addresses[0].ip(), io::ErrorKind::AddrNotAvailable.into());
    for _ in 0..ATTEMPTS {
        // The sockets are closed at once. They had no connection, so the port is free again.
        let (mut bound, mut port, mut is_taken) = (Vec::new(), 0, false);
        for ip in addresses.iter().map(SocketAddr::ip) {
            match TcpListener::bind((ip, port)).and_then(|it| Ok((it.local_addr()?.port(), it))) {
                Ok((number, listener)) => {
                    port = number;
                    bound.push(listener);
                }
                Err(source) => {
                    is_taken |= source.kind() == io::ErrorKind::AddrInUse;
                    failed = SpawnError::NoPort(ip, source);
                }
            }
        }
        if port != 0 && !is_taken {
            return Ok(port);
        }
    }
    Err(failed)
}

/// Server or proxy that we started. Dropping it ends all of its processes.
#[derive(Debug)]
pub(crate) struct Server {
    role: Role,
    supervisor: Child,
    control: BufReader<UnixStream>,
    /// Its first process, which is also the leader of its process group.
    leader: Pid,
    cgroup: Option<Cgroup>,
    output: Arc<Mutex<ServerOutput>>,
    /// Its exit status, once all of its processes have ended.
    status: Option<ExitStatus>,
}

/// Facts that a server printed about itself, or that its metrics have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Announced {
    /// The engine that it named on its `listening on` line: `... (engine uring, 1 thread)`.
    pub(crate) engine: Option<String>,
    /// The congestion control that it named there; `None` where it is the kernel's default.
    pub(crate) congestion: Option<String>,
    /// Its counters: a JSON object as the last line on standard output (`--stats`), over its life.
    /// By its metrics they are those of the window.
    pub(crate) counters: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct ServerOutput {
    listening: Option<String>,
    /// The last line on standard output that looks like a JSON object.
    counters: Option<String>,
    stderr: VecDeque<String>,
    /// True if it has printed that its address is in use.
    port_in_use: bool,
    open: u32,
}

/// Owner of listening sockets.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    Server,
    /// One is gone by now.
    Gone,
    Stranger,
}

/// Judges sockets that listened before the server's `own` ones were looked at; `now` tells which
/// listen afterwards.
///
/// The server holds a socket before it listens on it. So a socket that listened, was not among the
/// server's, and still listens belongs to another program. One that is gone may have been the
/// server's, which tried its port before it opened it for good.
fn owner(
    listeners: &BTreeSet<u64>,
    own: &BTreeSet<u64>,
    now: impl FnOnce() -> BTreeSet<u64>,
) -> Owner {
    let others: BTreeSet<u64> = listeners.difference(own).copied().collect();
    if others.is_empty() {
        Owner::Server
    } else if others.is_disjoint(&now()) {
        Owner::Gone
    } else {
        Owner::Stranger
    }
}

impl Server {
    /// Starts a server and waits until it accepts at one of `addresses`, for `timeout` at most. It
    /// must have printed its `listening on` line or answered an opening handshake, and the
    /// listening socket must be its own.
    ///
    /// The addresses have the URL's port. For `{port}` they get a free one, and another one where
    /// another process takes it before the server does. The function calls `wait` repeatedly to ask
    /// whether to continue. Nothing is left running where the function fails.
    pub(crate) fn start(
        role: Role,
        spawn: &Spawn,
        url: &Url,
        addresses: &mut [SocketAddr],
        timeout: Duration,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<Self, SpawnError> {
        let is_chosen = url.port == Port::Chosen;
        let mut attempts = 1..PORT_ATTEMPTS;
        loop {
            if is_chosen {
                let port = free_port(addresses)?;
                addresses.iter_mut().for_each(|address| address.set_port(port));
            }
            let url = url.with_port(addresses[0].port());
            match Self::start_at(role, spawn, &url, addresses, timeout, wait) {
                Err(error) if is_chosen && error.is_port_race() && attempts.next().is_some() => {}
                started => return started,
            }
        }
    }

    fn start_at(
        role: Role,
        spawn: &Spawn,
        url: &Url,
        addresses: &[SocketAddr],
        timeout: Duration,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<Self, SpawnError> {
        let at = addresses[0];
        if !procfs::listeners_at(addresses).is_empty() {
            return Err(SpawnError::Taken(at));
        }
        let launched = Self::launch(role, spawn, at.port());
        let mut server = launched.map_err(|error| SpawnError::Start(role, error))?;
        let began = Instant::now();
        while !server.is_ready(url, addresses)? {
            if let Some(status) = server.exit_status() {
                server.wait_for_output();
                let port_in_use =
                    lock(&server.output).port_in_use || !procfs::listeners_at(addresses).is_empty();
                let said = server.stderr_tail();
                return Err(SpawnError::Ended { role, status, said, port_in_use });
            }
            if began.elapsed() > timeout {
                return Err(SpawnError::NotListening {
                    role,
                    at,
                    after: timeout,
                    said: server.stderr_tail(),
                });
            }
            if !wait() {
                return Err(SpawnError::Interrupted);
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(server)
    }

    fn launch(role: Role, spawn: &Spawn, port: u16) -> io::Result<Self> {
        let cpus = spawn.cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let (control, other_end) = UnixStream::pair()?;
        let mut supervisor = Command::new(MYSELF);
        if let Some(directory) = &spawn.directory {
            supervisor.current_dir(directory);
        }
        let mut supervisor = supervisor
            .arg0("sparring-loadgen")
            .args([GUARD, SUPERVISE, &cpus, &encode_limits(inherited_limits())])
            .args(spawn.words(port))
            .process_group(0)
            .stdin(OwnedFd::from(other_end))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let output = Arc::new(Mutex::new(ServerOutput { open: 2, ..ServerOutput::default() }));
        if let (Some(stdout), Some(stderr)) = (supervisor.stdout.take(), supervisor.stderr.take()) {
            listen_to(stdout, &output, false)?;
            listen_to(stderr, &output, true)?;
        }
        let mut control = BufReader::new(control);
        let (leader, cgroup) = read_started(&mut control)?;
        Ok(Self { role, supervisor, control, leader, cgroup, output, status: None })
    }

    fn is_ready(&self, url: &Url, addresses: &[SocketAddr]) -> Result<bool, SpawnError> {
        let listeners = procfs::listeners_at(addresses);
        let says_so = lock(&self.output).listening.is_some();
        let owner = || {
            let own = procfs::sockets_of(&self.pids());
            owner(&listeners, &own, || procfs::listeners_at(addresses))
        };
        if listeners.is_empty() {
            return Ok(false);
        }
        match owner() {
            Owner::Server => Ok(says_so || self.answers(url, addresses)),
            // A server that goes into the background passes its sockets on to a new process.
            Owner::Stranger if owner() == Owner::Stranger => {
                Err(SpawnError::NotOurs(self.role, addresses[0], self.stderr_tail()))
            }
            Owner::Gone | Owner::Stranger => Ok(false),
        }
    }

    /// Returns true if it answers at one of the addresses. A server behind a proxy may answer over
    /// TLS or without it.
    fn answers(&self, url: &Url, addresses: &[SocketAddr]) -> bool {
        let plain = Url { transport: Transport::Ws, ..url.clone() };
        let is_either = self.role == Role::ServerBehind && url.transport == Transport::Wss;
        addresses.iter().any(|&at| answers(url, at) || is_either && answers(&plain, at))
    }

    /// Returns its part in the run.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Returns its processes: those of its group, and all other descendants of its command.
    pub(crate) fn pids(&self) -> Vec<u32> {
        procfs::descendants(self.supervisor.id()).into_keys().collect()
    }

    /// Adds its cost so far to `usage`.
    pub(crate) fn look(&self, usage: &mut CpuUsage) {
        usage.look(self.supervisor.id(), self.cgroup.as_ref());
    }

    /// Returns how it ended, once all of its processes have ended. That is the status of its first
    /// process, or of the last one where the first ended well before it.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none()
            && let Ok(Some(ended)) = self.supervisor.try_wait()
        {
            self.supervisor_has_ended(ended);
        }
        self.status
    }

    /// Takes its exit status from the supervisor's last message. A supervisor that was killed has
    /// sent none, so its part is done here.
    fn supervisor_has_ended(&mut self, ended: ExitStatus) {
        let mut message = String::new();
        let read = self.control.read_to_string(&mut message);
        let status = read.ok().and_then(|_| message.trim().parse().ok()).map(ExitStatus::from_raw);
        self.status = Some(status.unwrap_or(ended));
        if status.is_none() {
            // The call fails where the group has ended.
            let _ = kill_process_group(self.leader, Signal::KILL);
            if let Some(cgroup) = &self.cgroup {
                cgroup.kill();
                wait_for(PROBE_TIME, || cgroup.remove());
            }
        }
    }

    /// Returns its last lines on standard error, ready to be appended to a sentence.
    pub(crate) fn stderr_tail(&self) -> String {
        tail(&lock(&self.output).stderr)
    }

    /// Ends it: SIGTERM, then SIGKILL where that does not help in time.
    pub(crate) fn end(mut self) -> Announced {
        if self.exit_status().is_none() {
            // The call fails where the supervisor has ended.
            let _ = self.control.get_mut().write_all(&[TERMINATE]);
            wait_for(END_TIME, || self.exit_status().is_some());
        }
        self.kill();
        self.wait_for_output();
        let output = lock(&self.output);
        let fact = |name| announced(output.listening.as_deref()?, name);
        Announced {
            engine: fact("engine"),
            congestion: fact("congestion"),
            counters: output.counters.as_deref().map(parse_counters).unwrap_or_default(),
        }
    }

    /// Waits until its streams have ended. A process that left the group may hold them open.
    pub(crate) fn wait_for_output(&self) {
        wait_for(PROBE_TIME, || lock(&self.output).open == 0);
    }

    fn kill(&mut self) {
        // The supervisor takes the end of our commands for our end.
        let _ = self.control.get_ref().shutdown(Shutdown::Write);
        if self.status.is_none()
            && let Ok(ended) = self.supervisor.wait()
        {
            self.supervisor_has_ended(ended);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads the supervisor's first message: the server's first process, and its control group.
fn read_started(control: &mut impl BufRead) -> io::Result<(Pid, Option<Cgroup>)> {
    let mut message = String::new();
    control.read_line(&mut message)?;
    let parsed = message.trim_end_matches('\n').split_once(' ').and_then(|(pid, folder)| {
        let cgroup = (!folder.is_empty()).then(|| Cgroup::at(Path::new(folder)));
        Some((Pid::from_raw(pid.parse().ok()?)?, cgroup))
    });
    parsed.ok_or_else(|| io::Error::other("its supervisor ended"))
}

/// Reads a stream to its end, so that the server never blocks on its output.
fn listen_to(
    stream: impl Read + Send + 'static,
    output: &Arc<Mutex<ServerOutput>>,
    is_error: bool,
) -> io::Result<()> {
    let output = output.clone();
    let read_on = move || {
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
            lock(&output).hear(String::from_utf8_lossy(&line).trim_end().to_owned(), is_error);
            line.clear();
        }
        lock(&output).open -= 1;
    };
    thread::Builder::new().name("server-output".to_owned()).spawn(read_on).map(drop)
}

impl ServerOutput {
    fn hear(&mut self, line: String, is_error: bool) {
        self.port_in_use |= says_port_in_use(&line);
        if is_error {
            if self.stderr.len() == KEPT_LINES {
                self.stderr.pop_front();
            }
            self.stderr.push_back(line);
        } else if line.starts_with(LISTENING) && self.listening.is_none() {
            self.listening = Some(line);
        } else if line.starts_with('{') {
            self.counters = Some(line);
        }
    }
}

/// Returns true if a line is the message for EADDRINUSE, in the words of libraries and runtimes.
fn says_port_in_use(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    line.contains("eaddrinuse")
        || (line.contains("in use") && (line.contains("address") || line.contains("port")))
}

/// A value of the `listening on URL (engine uring, 1 thread, congestion reno)` line.
fn announced(line: &str, name: &str) -> Option<String> {
    let (_, facts) = line.strip_suffix(')')?.rsplit_once(" (")?;
    let value = facts.split(", ").find_map(|fact| fact.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.to_owned())
}

fn tail(lines: &VecDeque<String>) -> String {
    let said = if lines.is_empty() { "" } else { "; the last it wrote to standard error:" };
    lines.iter().fold(said.to_owned(), |text, line| format!("{text}\n    {line}"))
}

/// Waits until `is_done` returns true, for `limit` at most.
fn wait_for(limit: Duration, mut is_done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_done() && began.elapsed() < limit {
        thread::sleep(LOOK_EVERY);
    }
}

/// A panic of a reading thread leaves nothing half-done that matters here.
fn lock(output: &Mutex<ServerOutput>) -> MutexGuard<'_, ServerOutput> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parse_counters(line: &str) -> BTreeMap<String, u64> {
    let fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(line).unwrap_or_default();
    fields.into_iter().filter_map(|(name, value)| Some((name, value.as_u64()?))).collect()
}

/// Returns true if a server accepts at `at`: over `ws`, where it answers an opening handshake.
fn answers(url: &Url, at: SocketAddr) -> bool {
    let try_out = || {
        let stream = TcpStream::connect_timeout(&at, PROBE_TIME)?;
        stream.set_read_timeout(Some(PROBE_TIME))?;
        stream.set_write_timeout(Some(PROBE_TIME))?;
        match url.transport {
            Transport::Tcp => Ok(true),
            Transport::Ws => shake_hands(url, stream),
            Transport::Wss => shake_hands(url, probe(&url.host, stream)?),
        }
    };
    try_out().unwrap_or(false)
}

fn shake_hands(url: &Url, mut stream: impl Read + Write) -> io::Result<bool> {
    let nonce = *b"is anybody there";
    let (host, target) = (&url.host_field(), &url.target);
    let request = handshake::Request {
        host,
        target,
        nonce,
        origin: None,
        subprotocols: &[],
        deflate: None,
        headers: &[],
    };
    let (mut bytes, mut response) = (Vec::new(), handshake::FinalResponse::default());
    request.encode(&mut bytes);
    stream.write_all(&bytes)?;
    bytes.clear();
    loop {
        let mut piece = [0; 1024];
        let len = stream.read(&mut piece)?;
        bytes.extend_from_slice(&piece[..len]);
        let head = response.find(&bytes, &HeadLimits::default()).map_err(io::Error::other)?;
        if let Some(head) = head {
            return Ok(handshake::check_response(&bytes[head], &nonce, &[], None).is_ok());
        }
        if len == 0 {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_only_tried_is_no_strangers() {
        let set = |inodes: &[u64]| inodes.iter().copied().collect::<BTreeSet<u64>>();
        assert_eq!(
            owner(&set(&[1]), &set(&[1, 2]), || unreachable!("it is clear already")),
            Owner::Server
        );
        // Socket 1 was closed between both looks, and 2 opened for good.
        assert_eq!(owner(&set(&[1]), &set(&[2]), || set(&[2])), Owner::Gone);
        assert_eq!(owner(&set(&[1]), &set(&[2]), || set(&[1, 2])), Owner::Stranger);
    }

    #[test]
    fn commands_are_split_as_a_shell_would() {
        let parse = |command| Spawn::parse(Role::Server, command);
        let spawn = parse("server --listen 127.0.0.1:{port} --name 'a b'").expect("a command");
        let words: Vec<String> = spawn.words(7).collect();
        assert_eq!(words, ["server", "--listen", "127.0.0.1:7", "--name", "a b"]);
        assert!(matches!(parse("  "), Err(SpawnError::Command(..))));
        assert!(matches!(parse("server 'open"), Err(SpawnError::Command(..))));
    }

    #[test]
    fn a_proxy_gets_its_port_and_its_server() {
        let proxy =
            Spawn::parse(Role::Proxy, "relay -l {port} --to=tcp://{server}/").expect("fine");
        assert!(proxy.names(SERVER_PLACEHOLDER) && proxy.names(PORT_PLACEHOLDER));
        let words: Vec<String> = proxy.before("[::1]:9001").words(7).collect();
        assert_eq!(words, ["relay", "-l", "7", "--to=tcp://[::1]:9001/"]);
        let error = Spawn::parse(Role::Proxy, "relay 'open").expect_err("a quote").to_string();
        assert!(error.starts_with("--via `relay 'open`"), "{error}");
    }

    #[test]
    fn a_server_announces_its_engine_and_congestion_control() {
        let line = "listening on ws://[::1]:9001/ (engine uring, 2 threads, congestion reno)";
        assert_eq!(announced(line, "engine").as_deref(), Some("uring"));
        assert_eq!(announced(line, "congestion").as_deref(), Some("reno"));
        assert_eq!(
            announced("listening on ws://h:1/ (engine epoll, 1 thread)", "congestion"),
            None
        );
        assert_eq!(announced("listening on port 9001", "engine"), None);
    }

    #[test]
    fn what_a_server_says_is_heard() {
        let mut said = ServerOutput::default();
        said.hear("listening on ws://127.0.0.1:9001/ (engine uring, 1 thread)".to_owned(), false);
        said.hear(r#"{"messages": 5, "enters": 2, "name": "x", "ratio": 0.5}"#.to_owned(), false);
        (0..20).for_each(|i| said.hear(i.to_string(), true));
        assert_eq!(said.stderr.len(), KEPT_LINES);
        assert_eq!(said.stderr.back().map(String::as_str), Some("19"));
        let counters = parse_counters(said.counters.as_deref().expect("heard"));
        assert_eq!(
            counters,
            BTreeMap::from([("enters".to_owned(), 2), ("messages".to_owned(), 5)])
        );
        assert!(parse_counters("{not json").is_empty());
    }

    #[test]
    fn messages_of_a_taken_port_are_recognised() {
        let messages = [
            "OSError: [Errno 98] Address already in use",
            "Error: listen EADDRINUSE: address already in use :::9001",
            "bind: Address in use",
            "Web server failed to start. Port 8080 was already in use.",
        ];
        assert!(messages.into_iter().all(says_port_in_use));
        assert!(
            !says_port_in_use("in use: 5 MB") && !says_port_in_use("permission denied: port 80")
        );
    }

    #[test]
    fn stderr_tail_follow_a_sentence() {
        assert_eq!(tail(&VecDeque::new()), "");
        let words = tail(&["one".to_owned(), "two".to_owned()].into());
        assert!(words.starts_with("; ") && words.ends_with("\n    one\n    two"));
    }
}

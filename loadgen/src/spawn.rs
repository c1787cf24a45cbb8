//! The server that a run starts and ends: `--spawn`.
//!
//! The command is split into words as a shell would but run without one, in a process group of its own, so that all of it
//! can be ended together. Between us and the command stands, for a moment, a *guard*: this program started again as the
//! hidden subcommand [`GUARD`]. It asks the kernel to end it when its parent ends, confines itself to the processors, and
//! then becomes the command, which inherits both. (A hook between fork and exec could do the same, but would be unsafe code.)

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use protocol::handshake::{HeadLimits, client as handshake};
use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use thiserror::Error;

use crate::procfs;
use crate::result::Transport;
use crate::trust::probe;
use crate::url::{PORT_PLACEHOLDER, Url};

/// Name of the hidden subcommand that becomes the server.
pub const GUARD: &str = "spawn-guard";
/// What a server prints once it accepts; what follows is the URL.
const LISTENING: &str = "listening on ";
/// How long a server may take to end after SIGTERM: its own drain takes up to 5 s.
const END_TIME: Duration = Duration::from_secs(7);
/// How often is looked whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// For one attempt to connect and shake hands, while it is not known whether the server is ready.
const PROBE_TIME: Duration = Duration::from_millis(500);
/// Lines of standard error that are kept to be shown.
const LAST_WORDS: usize = 8;
/// What a shell says when a command cannot be run, and the guard too.
const CANNOT_RUN: i32 = 127;

/// This program. The link leads to it also after its file was replaced by a newer build.
const MYSELF: &str = "/proc/self/exe";

/// A server to start. Only the load generator's own binary can: it has the subcommand [`GUARD`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spawn {
    /// Program and arguments, `{port}` not yet replaced.
    pub command: Vec<String>,
    /// The processors it is confined to; empty: wherever it may run.
    pub cpus: Vec<usize>,
}

/// Why a server could not be started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// Not a command line.
    #[error("--spawn `{0}` is no command: it is empty, or a quote is not closed")]
    Command(String),
    /// No free port for `{port}`.
    #[error("no free port at {ip} for {PORT_PLACEHOLDER}: {source}")]
    NoPort {
        /// Where it was looked for.
        ip: IpAddr,
        /// What bind(2) said.
        source: io::Error,
    },
    /// Something listens there before the server is started.
    #[error(
        "something already listens at {at}: end it, or write {PORT_PLACEHOLDER} in the URL and the command"
    )]
    Taken {
        /// The address.
        at: SocketAddr,
    },
    /// The guard could not be started.
    #[error("cannot start the server: {0}")]
    Start(io::Error),
    /// The server ended before it listened.
    #[error("the server ended before it accepted connections ({status}){said}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// Its last words, ready to be appended.
        said: LastWords,
    },
    /// The server listens nowhere, or not where it was expected.
    #[error(
        "the server does not accept at {at} after {after:?} (--spawn-timeout): does its command listen there?{said}"
    )]
    NotListening {
        /// How long it had.
        after: Duration,
        /// The address.
        at: SocketAddr,
        /// Its last words, ready to be appended.
        said: LastWords,
    },
    /// Another process listens at the address.
    #[error(
        "the socket listening at {at} does not belong to the server that was started: another process has the port{said}"
    )]
    NotOurs {
        /// The address.
        at: SocketAddr,
        /// Its last words, ready to be appended.
        said: LastWords,
    },
    /// The user did not want to wait for the server.
    #[error("interrupted while the server was starting")]
    Interrupted,
}

/// The last lines a server wrote to standard error; as text they can be appended to a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWords(Vec<String>);

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str("; the last it wrote to standard error:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

impl Spawn {
    /// Splits `command` into words as a POSIX shell would.
    ///
    /// # Errors
    ///
    /// [`SpawnError::Command`].
    pub fn parse(command: &str) -> Result<Self, SpawnError> {
        match shlex::split(command) {
            Some(words) if !words.is_empty() => Ok(Self { command: words, cpus: Vec::new() }),
            _ => Err(SpawnError::Command(command.to_owned())),
        }
    }

    /// The command with `port` for its placeholder.
    fn words(&self, port: u16) -> impl Iterator<Item = String> + '_ {
        let port = port.to_string();
        self.command.iter().map(move |word| word.replace(PORT_PLACEHOLDER, &port))
    }
}

/// A port that is free at all of these addresses which can be bound, for `{port}`.
///
/// # Errors
///
/// [`SpawnError::NoPort`]: no address can be bound, or no port is free at all of them.
pub fn free_port(ips: &[IpAddr]) -> Result<u16, SpawnError> {
    const ATTEMPTS: usize = 32;
    let mut failed = Err(SpawnError::NoPort {
        ip: ips.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        source: io::ErrorKind::AddrNotAvailable.into(),
    });
    for _ in 0..ATTEMPTS {
        // Closed at once: nothing was ever connected to them, so that the port is free to be bound again.
        let (mut bound, mut port, mut is_taken) = (Vec::new(), 0, false);
        for &ip in ips {
            match TcpListener::bind((ip, port)).and_then(|it| Ok((it.local_addr()?.port(), it))) {
                Ok((number, listener)) => {
                    port = number;
                    bound.push(listener);
                }
                Err(source) => {
                    is_taken |= source.kind() == io::ErrorKind::AddrInUse;
                    failed = Err(SpawnError::NoPort { ip, source });
                }
            }
        }
        if port != 0 && !is_taken {
            return Ok(port);
        }
    }
    failed
}

/// A server that was started by us; it is ended when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    group: Pid,
    said: Arc<Mutex<Said>>,
    /// Its exit, once seen: afterwards its number may be another process's.
    status: Option<ExitStatus>,
}

/// What a server has written so far.
#[derive(Debug, Default)]
struct Said {
    /// Its `listening on` line.
    listening: Option<String>,
    /// The last line on standard output that looks like a JSON object.
    counters: Option<String>,
    last_words: VecDeque<String>,
    /// Streams that are still open.
    open: u32,
}

/// Whose the listening sockets are.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    Server,
    /// One has gone while we looked.
    Gone,
    Stranger,
}

/// Judges sockets that listened before the server's `own` ones were looked at; `now` tells which listen afterwards.
///
/// The server holds a socket from before it listens on it. So one that listened, was not among the server's, and still listens
/// is somebody else's. One that is gone may have been the server's, which tried its port before it opened it for good.
fn owner(listeners: &BTreeSet<u64>, own: &BTreeSet<u64>, now: impl FnOnce() -> BTreeSet<u64>) -> Owner {
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
    /// Starts a server and waits until it accepts at one of `addresses` (all with the URL's port): it has printed its
    /// `listening on` line or has answered an opening handshake, and the listening socket is its own. At most for `timeout`.
    ///
    /// `wait` is asked again and again whether to go on waiting. Call from a thread that lives as long as the program: the
    /// kernel ends the server when the *thread* that started it ends.
    ///
    /// # Errors
    ///
    /// [`SpawnError`]; nothing is left running then.
    pub fn start(
        spawn: &Spawn,
        url: &Url,
        addresses: &[SocketAddr],
        timeout: Duration,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<Self, SpawnError> {
        let at = addresses[0];
        if !procfs::listeners_at(addresses).is_empty() {
            return Err(SpawnError::Taken { at });
        }
        let mut server = Self::launch(spawn, at.port()).map_err(SpawnError::Start)?;
        let began = Instant::now();
        while !server.is_ready(url, addresses)? {
            if let Some(status) = server.exit_status() {
                server.wait_for_last_words();
                return Err(SpawnError::Ended { status, said: server.last_words() });
            }
            if began.elapsed() > timeout {
                return Err(SpawnError::NotListening { at, after: timeout, said: server.last_words() });
            }
            if !wait() {
                return Err(SpawnError::Interrupted);
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(server)
    }

    fn launch(spawn: &Spawn, port: u16) -> io::Result<Self> {
        let cpus = spawn.cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let mut child = Command::new(MYSELF)
            .arg0("sparring-loadgen")
            .args([GUARD, &std::process::id().to_string(), &cpus])
            .args(spawn.words(port))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let said = Arc::new(Mutex::new(Said { open: 2, ..Said::default() }));
        let streams = (child.stdout.take(), child.stderr.take());
        let group = Pid::from_child(&child);
        let server = Self { child, group, said, status: None };
        if let (Some(stdout), Some(stderr)) = streams {
            server.listen_to(stdout, Said::hear_output)?;
            server.listen_to(stderr, Said::hear_error)?;
        }
        Ok(server)
    }

    /// Reads a stream to its end, so that the server never waits for somebody to read it.
    fn listen_to(&self, stream: impl Read + Send + 'static, hear: fn(&mut Said, String)) -> io::Result<()> {
        let said = self.said.clone();
        let read_on = move || {
            let mut lines = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
                hear(&mut lock(&said), String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
            lock(&said).open -= 1;
        };
        thread::Builder::new().name("server-output".to_owned()).spawn(read_on).map(drop)
    }

    fn is_ready(&self, url: &Url, addresses: &[SocketAddr]) -> Result<bool, SpawnError> {
        let listeners = procfs::listeners_at(addresses);
        let says_so = lock(&self.said).listening.is_some();
        if listeners.is_empty() {
            return Ok(false);
        }
        let own = procfs::sockets_of(&self.pids());
        match owner(&listeners, &own, || procfs::listeners_at(addresses)) {
            Owner::Server => {}
            Owner::Gone => return Ok(false),
            Owner::Stranger => {
                return Err(SpawnError::NotOurs { at: addresses[0], said: self.last_words() });
            }
        }
        Ok(says_so || addresses.iter().any(|&at| answers(url, at)))
    }

    /// The processes of its group.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        procfs::group_members(self.group.as_raw_nonzero().get().cast_unsigned())
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// The engine it named on its `listening on` line: `... (engine uring, 1 thread)`.
    #[must_use]
    pub fn engine(&self) -> Option<String> {
        announced(lock(&self.said).listening.as_deref()?, "engine")
    }

    /// The congestion control it named there; `None` where it is the kernel's default.
    #[must_use]
    pub fn congestion(&self) -> Option<String> {
        announced(lock(&self.said).listening.as_deref()?, "congestion")
    }

    /// What it wrote to standard error last.
    #[must_use]
    pub fn last_words(&self) -> LastWords {
        LastWords(lock(&self.said).last_words.iter().cloned().collect())
    }

    /// Ends it: SIGTERM, then SIGKILL where that does not help in time. Returns what it counted (`--stats`: a JSON object as
    /// the last line on standard output); empty where it says nothing.
    #[must_use]
    pub fn end(mut self) -> BTreeMap<String, u64> {
        if self.exit_status().is_none() {
            self.signal(Signal::TERM);
            let began = Instant::now();
            while self.exit_status().is_none() && began.elapsed() < END_TIME {
                thread::sleep(LOOK_EVERY);
            }
        }
        self.kill();
        self.wait_for_last_words();
        let said = lock(&self.said);
        said.counters.as_deref().map(parse_counters).unwrap_or_default()
    }

    /// Until its streams have ended, with a bound: a process that left the group may hold them open.
    pub(crate) fn wait_for_last_words(&self) {
        let began = Instant::now();
        while lock(&self.said).open > 0 && began.elapsed() < PROBE_TIME {
            thread::sleep(LOOK_EVERY);
        }
    }

    fn signal(&self, signal: Signal) {
        // Fails only where the group has ended.
        let _ = kill_process_group(self.group, signal);
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After its exit was seen the group may still hold children of it, but `end` has seen to those.
        if self.status.is_none() {
            self.kill();
        }
    }
}

impl Said {
    fn hear_output(&mut self, line: String) {
        if line.starts_with(LISTENING) && self.listening.is_none() {
            self.listening = Some(line);
        } else if line.starts_with('{') {
            self.counters = Some(line);
        }
    }

    fn hear_error(&mut self, line: String) {
        if self.last_words.len() == LAST_WORDS {
            self.last_words.pop_front();
        }
        self.last_words.push_back(line);
    }
}

/// A value of the `listening on URL (engine uring, 1 thread, congestion reno)` line.
fn announced(line: &str, name: &str) -> Option<String> {
    let (_, facts) = line.strip_suffix(')')?.rsplit_once(" (")?;
    let value = facts.split(", ").find_map(|fact| fact.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.to_owned())
}

/// A panic of a reading thread leaves nothing half-done that matters here.
fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parse_counters(line: &str) -> BTreeMap<String, u64> {
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap_or_default();
    fields.into_iter().filter_map(|(name, value)| Some((name, value.as_u64()?))).collect()
}

/// Whether a server accepts at `at`: over `ws`, whether it answers an opening handshake.
fn answers(url: &Url, at: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&at, PROBE_TIME) else { return false };
    let is_bounded = [stream.set_read_timeout(Some(PROBE_TIME)), stream.set_write_timeout(Some(PROBE_TIME))];
    is_bounded.iter().all(Result::is_ok)
        && match url.transport {
            Transport::Tcp => true,
            Transport::Ws => shake_hands(url, stream).unwrap_or(false),
            Transport::Wss => probe(&url.host, stream).and_then(|tls| shake_hands(url, tls)).unwrap_or(false),
        }
}

fn shake_hands(url: &Url, mut stream: impl Read + Write) -> io::Result<bool> {
    let nonce = *b"is anybody there";
    let (host, target) = (url.host_field(), url.target.as_str());
    let request =
        handshake::Request { host: &host, target, nonce, origin: None, subprotocols: &[], headers: &[] };
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    stream.write_all(&bytes)?;
    let (mut head, mut response) = (Vec::new(), handshake::FinalResponse::default());
    let mut piece = [0; 1024];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(false),
            len => head.extend_from_slice(&piece[..len]),
        }
        match response.find(&head, &HeadLimits::default()) {
            Ok(None) => {}
            Ok(Some(found)) => return Ok(handshake::check_response(&head[found], &nonce, &[]).is_ok()),
            Err(_) => return Ok(false),
        }
    }
}

/// What the guard does: the hidden subcommand's arguments are the parent's number, the processors (as `0,2`, or empty) and
/// the command. Returns only where the command cannot be run: the exit code.
pub fn guard(arguments: &[OsString]) -> i32 {
    let error = match arguments {
        [parent, cpus, program, rest @ ..] => match become_server(parent, cpus, program, rest) {
            Ok(never) => match never {},
            Err(error) => format!("cannot run `{}`: {error}", program.to_string_lossy()),
        },
        _ => format!("{GUARD} is for the load generator itself"),
    };
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{error}");
    CANNOT_RUN
}

fn become_server(
    parent: &OsString,
    cpus: &OsString,
    program: &OsString,
    rest: &[OsString],
) -> io::Result<std::convert::Infallible> {
    // SIGKILL: a server that would drain for a while must not outlive its generator either.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before the kernel was asked.
    let expected = parent.to_str().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    if getppid() != expected {
        return Err(io::Error::other("the load generator has ended"));
    }
    confine(cpus.to_str().unwrap_or_default())?;
    Err(Command::new(program).args(rest).exec())
}

fn confine(cpus: &str) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let list = engine::affinity::parse_cpu_list(cpus).map_err(io::Error::other)?;
    let mut set = CpuSet::new();
    list.iter().for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set)
        .map_err(|error| io::Error::other(format!("processors {cpus} (--spawn-cpus): {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_only_tried_is_no_strangers() {
        let set = |inodes: &[u64]| inodes.iter().copied().collect::<BTreeSet<u64>>();
        assert_eq!(owner(&set(&[1]), &set(&[1, 2]), || unreachable!("it is clear already")), Owner::Server);
        // Socket 1 was closed between both looks, and 2 opened for good.
        assert_eq!(owner(&set(&[1]), &set(&[2]), || set(&[2])), Owner::Gone);
        assert_eq!(owner(&set(&[1]), &set(&[2]), || set(&[1, 2])), Owner::Stranger);
    }

    #[test]
    fn commands_are_split_as_a_shell_would() {
        let spawn = Spawn::parse("server --listen 127.0.0.1:{port} --name 'a b'").expect("a command");
        let words: Vec<String> = spawn.words(7).collect();
        assert_eq!(words, ["server", "--listen", "127.0.0.1:7", "--name", "a b"]);
        assert!(matches!(Spawn::parse("  "), Err(SpawnError::Command(_))));
        assert!(matches!(Spawn::parse("server 'open"), Err(SpawnError::Command(_))));
    }

    #[test]
    fn a_server_announces_its_engine_and_congestion_control() {
        let line = "listening on ws://[::1]:9001/ (engine uring, 2 threads, congestion reno)";
        assert_eq!(announced(line, "engine").as_deref(), Some("uring"));
        assert_eq!(announced(line, "congestion").as_deref(), Some("reno"));
        assert_eq!(announced("listening on ws://h:1/ (engine epoll, 1 thread)", "congestion"), None);
        assert_eq!(announced("listening on port 9001", "engine"), None);
    }

    #[test]
    fn what_a_server_says_is_heard() {
        let mut said = Said::default();
        said.hear_output("listening on ws://127.0.0.1:9001/ (engine uring, 1 thread)".to_owned());
        said.hear_output(r#"{"messages": 5, "enters": 2, "name": "x", "ratio": 0.5}"#.to_owned());
        (0..20).for_each(|i| said.hear_error(i.to_string()));
        assert_eq!(said.last_words.len(), LAST_WORDS);
        assert_eq!(said.last_words.back().map(String::as_str), Some("19"));
        let counters = parse_counters(said.counters.as_deref().expect("heard"));
        assert_eq!(counters, BTreeMap::from([("enters".to_owned(), 2), ("messages".to_owned(), 5)]));
        assert!(parse_counters("{not json").is_empty());
    }

    #[test]
    fn last_words_follow_a_sentence() {
        assert_eq!(LastWords::default().to_string(), "");
        let words = LastWords(vec!["one".into(), "two".into()]).to_string();
        assert!(words.starts_with("; ") && words.ends_with("\n    one\n    two"));
    }
}

//! The real binary, started for a test and stopped at its end.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "a part of several test binaries, each of which uses a part"
)]

#[path = "../../../protocol/tests/websocket/frames.rs"]
mod frames;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use server::config::ListenAddress;

pub(crate) use frames::{BINARY, FIN, RSV1, TEXT, client_frame, masked, plain};

/// Time limit that only a hang reaches, on the slowest machine.
pub const LONG: Duration = Duration::from_secs(30);

pub const REQUEST: &[u8] = b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparring-server"));
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    // In huge pages a few buffers of different sizes count as 2 MiB each, and tests of memory would
    // see such steps.
    command.env("MIMALLOC_ALLOW_THP", "0");
    command
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary starts")
}

/// Returns the engines that work here; prints a line for each other one. The binary is asked:
/// setting up a ring in the process of the test would interrupt its blocking reads when the ring is
/// torn down.
pub fn engines() -> Vec<String> {
    let facts = String::from_utf8(run(&["--version", "--verbose"]).stdout).expect("text");
    let mut names = Vec::new();
    for (name, state) in
        facts.lines().filter_map(|line| line.strip_prefix("engine ")?.split_once(": "))
    {
        match state {
            "available" => names.push(name.to_owned()),
            reason => eprintln!("skipped: engine {name}: {reason}"),
        }
    }
    names
}

/// A running server.
pub struct Program {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    /// Lines that it printed when it was ready.
    pub lines: Vec<String>,
}

impl Program {
    /// Starts on free ports and waits for the line of each listener.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(&["--listen", "127.0.0.1:0"], arguments)
    }

    pub fn start_with(listen: &[&str], arguments: &[&str]) -> Self {
        Self::start_logging(listen, arguments, Stdio::null())
    }

    /// Starts with the standard error in `log`.
    pub fn start_logging(listen: &[&str], arguments: &[&str], log: impl Into<Stdio>) -> Self {
        let mut command = command(&[listen, arguments].concat());
        command.stderr(log);
        Self::start_command(command, listen.len() / 2)
    }

    /// Starts on a free port with this hard limit on open files.
    pub fn start_limited(files: u32, arguments: &[&str]) -> Self {
        let server = command(&[&["--listen", "127.0.0.1:0"], arguments].concat());
        let mut limited = Command::new("sh");
        let script = format!("ulimit -n {files}; exec \"$@\"");
        limited.args(["-c", &script, "sh"]).arg(server.get_program()).args(server.get_args());
        limited.stdin(Stdio::null()).stderr(Stdio::null());
        Self::start_command(limited, 1)
    }

    /// Starts and waits for `wanted` lines.
    fn start_command(mut command: Command, wanted: usize) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, receiver) = mpsc::channel();
        // The reader is a thread of its own, since a pipe has no timeout.
        thread::spawn(move || {
            let lines: Vec<String> = (0..wanted).map(|_| line(&mut stdout)).collect();
            let _ = sender.send((lines, stdout));
        });
        match receiver.recv_timeout(LONG) {
            Ok((lines, stdout)) => Self { child, stdout: Some(stdout), lines },
            Err(_) => {
                let _ = child.kill();
                panic!("no `listening on` line: {command:?}");
            }
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    pub fn address_of(&self, listener: usize) -> SocketAddr {
        let line = &self.lines[listener];
        let url = line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next());
        let url = url.unwrap_or_else(|| panic!("unexpected line: {line}"));
        let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next());
        let address: ListenAddress = authority.expect("a URL").parse().expect("an address");
        address.resolve("the line").expect("its interface")
    }

    /// Returns a TCP connection that cannot hang a test.
    pub fn connect(&self) -> TcpStream {
        connect(self.address())
    }

    /// Returns a connection with its handshake done.
    pub fn open(&self) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(REQUEST).expect("request");
        let response = read_head(&mut stream);
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        stream
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process number");
        kill_process(pid, signal).expect("signal");
    }

    /// Closes the reading end of the standard output.
    pub fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Waits for the end; returns the status and the remaining output.
    pub fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + LONG;
        let status = loop {
            match self.child.try_wait().expect("wait") {
                Some(status) => break status,
                None if Instant::now() > deadline => panic!("the server does not end"),
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut rest = String::new();
        if let Some(stdout) = &mut self.stdout {
            stdout.read_to_string(&mut rest).expect("text");
        }
        (status, rest)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(LONG)).expect("timeout");
    stream.set_write_timeout(Some(LONG)).expect("timeout");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

fn line(input: &mut impl BufRead) -> String {
    let mut line = String::new();
    let _ = input.read_line(&mut line);
    line.trim_end().to_owned()
}

/// Reads to the empty line that ends an HTTP head, and no further.
pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

/// Reads exactly `expected`.
pub fn expect(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("an answer");
    assert!(got == expected, "{} for {}", got.escape_ascii(), expected.escape_ascii());
}

/// Reads to the end of the stream.
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end of the stream");
    rest
}

/// Connects from another address of the loopback network.
pub fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let socket = socket.expect("socket");
    let from: SocketAddr = format!("{from}:0").parse().expect("address");
    rustix::net::bind(&socket, &from).expect("bind");
    rustix::net::connect(&socket, &to).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LONG)).expect("timeout");
    stream
}

//! Cost of an idle connection to the server: anonymous memory, as the slope between 1,000 and
//! 10,000 connections.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const FEW: usize = 1_000;
const MANY: usize = 10_000;

/// Most bytes of memory of the process before its first connection: of this build's code only
/// anonymous memory counts, because a debug build has more of it.
const BASE: i64 = 2 << 20;

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

struct Server {
    process: Child,
    addr: SocketAddr,
}

impl Server {
    /// A server whose memory comes in small pages: huge ones would come in steps of 2 MiB and hide
    /// the cost of a connection. Returns `None`, and prints the reason, when the engine does not
    /// work here.
    fn start(engine: &str) -> Option<Self> {
        Self::start_with(engine, "0")
    }

    /// The same, with huge pages where the system gives them unasked (`allow_huge`: "1").
    fn start_with(engine: &str, allow_huge: &str) -> Option<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_sparring-server"))
            .args(["--listen", "127.0.0.1:0", "--threads", "1", "--engine", engine])
            .env("MIMALLOC_ALLOW_THP", allow_huge)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server's binary");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let Some(rest) = line.strip_prefix("listening on ws://") else {
            let mut why = String::new();
            process.stderr.take().expect("piped").read_to_string(&mut why).expect("text");
            process.wait().expect("it has ended");
            println!("skipped: engine {engine} does not work here: {}", why.trim());
            return None;
        };
        let addr = rest.split('/').next().and_then(|a| a.parse().ok()).expect("an address");
        Some(Self { process, addr })
    }

    fn anonymous_bytes(&self) -> i64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("status");
        let line = status.lines().find(|l| l.starts_with("RssAnon:")).expect("RssAnon");
        let kib: i64 =
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
        kib * 1024
    }

    fn open(&self, count: usize) -> Vec<TcpStream> {
        (0..count)
            .map(|_| {
                let mut stream = TcpStream::connect(self.addr).expect("connect");
                stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
                stream.write_all(REQUEST).expect("request");
                stream
            })
            .map(|mut stream| {
                let mut head = [0u8; 129];
                let mut got = 0;
                while !head[..got].ends_with(b"\r\n\r\n") {
                    got += stream.read(&mut head[got..]).expect("the answer");
                }
                assert!(head.starts_with(b"HTTP/1.1 101 "));
                stream
            })
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Echoes a binary message of `len` bytes on each connection.
fn echo_each(streams: &mut [TcpStream], len: usize) {
    let payload = vec![0x5a; len];
    // A masking key of zeroes leaves the payload as it is.
    let (mut frame, mut reply) = (vec![0x82u8], vec![0x82u8]);
    if len < 126 {
        frame.push(0x80 | len as u8);
        reply.push(len as u8);
    } else {
        frame.push(0x80 | 126);
        reply.push(126);
        frame.extend_from_slice(&(len as u16).to_be_bytes());
        reply.extend_from_slice(&(len as u16).to_be_bytes());
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&payload);
    reply.extend_from_slice(&payload);
    let mut got = vec![0; reply.len()];
    for stream in streams {
        stream.write_all(&frame).expect("send");
        stream.read_exact(&mut got).expect("echo");
        assert_eq!(got, reply);
    }
}

fn enough_descriptors() -> bool {
    let limit = engine::socket::raise_file_limit();
    let enough = limit as usize > MANY + 200;
    if !enough {
        println!("skipped: the limit on open files, {limit}, does not allow {MANY} connections");
    }
    enough
}

/// Waits until the slope is within the promise or the time is up: the allocator may return unused
/// memory late.
fn settled_slope(server: &Server, base: i64, promise: i64, wait: Duration) -> i64 {
    let end = Instant::now() + wait;
    loop {
        let slope = (server.anonymous_bytes() - base) / (MANY - FEW) as i64;
        if slope <= promise || Instant::now() >= end {
            return slope;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// `promise`: most bytes of anonymous memory per idle connection.
fn an_idle_connection_costs_little(engine: &str, promise: i64) {
    // Two tests at once would need more descriptors than many limits allow.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !enough_descriptors() {
        return;
    }
    let Some(server) = Server::start(engine) else { return };
    let mut streams = server.open(FEW);
    echo_each(&mut streams, 32);
    let base = server.anonymous_bytes();
    streams.extend(server.open(MANY - FEW));
    let idle = settled_slope(&server, base, promise, Duration::from_secs(2));
    echo_each(&mut streams, 1024);
    let used = settled_slope(&server, base, promise, Duration::from_secs(2));
    println!(
        "engine {engine}: {idle} bytes per idle connection, {used} after each has echoed 1 KiB"
    );
    assert!(idle <= promise, "{idle} bytes per idle connection");
    assert!(used <= promise, "{used} bytes per connection after it has echoed 1 KiB");
}

#[test]
fn an_idle_connection_costs_little_on_uring() {
    an_idle_connection_costs_little("uring", 128);
}

#[test]
fn an_idle_connection_costs_little_on_epoll() {
    an_idle_connection_costs_little("epoll", 168);
}

#[test]
fn a_server_without_connections_takes_little() {
    let modes = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if modes.is_ok_and(|modes| modes.contains("[always]")) {
        println!("skipped: the system makes all memory of huge pages");
        return;
    }
    for engine in ["uring", "epoll", "tokio-uring"] {
        let Some(server) = Server::start_with(engine, "1") else { continue };
        let base = server.anonymous_bytes();
        println!("engine {engine}: {base} bytes");
        assert!(base <= BASE, "engine {engine}: {base} bytes without a connection");
    }
}

/// Most bytes that a worker keeps after connections with large messages have closed. These are 16
/// MiB of buffers for messages, 4 MiB of output and, on tokio-uring, 4 MiB of receive buffers, and
/// as much again for the allocator.
const KEPT: i64 = 48 << 20;

/// Checks that memory is returned. The allocator returns it a few seconds later; the limit is for a
/// machine that is busy with other work.
fn large_messages_leave_little(engine: &str) {
    if !enough_descriptors() {
        return;
    }
    let Some(server) = Server::start(engine) else { return };
    let base = server.anonymous_bytes();
    let mut streams = server.open(FEW);
    for _ in 0..2 {
        echo_each(&mut streams, 65_000);
    }
    drop(streams);
    let end = Instant::now() + Duration::from_secs(30);
    let mut kept = i64::MAX;
    while kept > KEPT && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        kept = server.anonymous_bytes() - base;
    }
    println!("engine {engine}: {kept} bytes kept");
    assert!(kept <= KEPT, "{kept} bytes kept");
}

#[test]
fn large_messages_leave_little_on_uring() {
    large_messages_leave_little("uring");
}

#[test]
fn large_messages_leave_little_on_epoll() {
    large_messages_leave_little("epoll");
}

#[test]
fn large_messages_leave_little_on_tokio_uring() {
    large_messages_leave_little("tokio-uring");
}

//! The minimal WebSocket load generator, as a reference for the cost of sparring-loadgen: one
//! thread, epoll, prepared frames; it counts bytes, and neither checks echoes nor measures
//! latencies.
//!
//! Usage: `bare-load ADDR CONNECTIONS DEPTH PAYLOAD SECONDS [CPU]`. Prints one line of JSON:
//! messages, seconds, and its own CPU time per message in nanoseconds.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

struct Connection {
    stream: TcpStream,
    /// Bytes of an incomplete echo that have arrived.
    partial: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize| args[i].parse::<usize>().expect("a number");
    let (connections, depth, payload, seconds) = (number(2), number(3), number(4), number(5));
    if let Some(cpu) = args.get(6) {
        pin(cpu.parse().expect("a processor"));
    }
    let frame = frame(payload);
    let reply = frame.len() - 4;
    let batch = frame.repeat(depth);
    let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) });
    let mut all: Vec<Connection> = (0..connections).map(|i| open(&args[1], epoll, i)).collect();
    for c in &mut all {
        c.stream.write_all(&batch).expect("send");
    }
    let mut count = Count { messages: 0, frame: &frame, batch: &batch, reply };
    count.drive(epoll, &mut all, Duration::from_secs(1));
    count.messages = 0;
    let (cpu, begin) = (cpu_ns(), Instant::now());
    count.drive(epoll, &mut all, Duration::from_secs(seconds as u64));
    let per_message = (cpu_ns() - cpu) as f64 / count.messages as f64;
    println!(
        "{{\"messages\":{},\"seconds\":{:.3},\"cpu_ns_per_message\":{per_message:.1}}}",
        count.messages,
        begin.elapsed().as_secs_f64()
    );
}

struct Count<'a> {
    messages: usize,
    frame: &'a [u8],
    batch: &'a [u8],
    /// Length of an echo.
    reply: usize,
}

impl Count<'_> {
    fn drive(&mut self, epoll: i32, all: &mut [Connection], span: Duration) {
        let end = Instant::now() + span;
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 512];
        let mut bytes = vec![0u8; 64 << 10];
        while Instant::now() < end {
            // SAFETY: the array has the given length and outlives the call.
            let n =
                unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, 100) };
            for event in &events[..check(n) as usize] {
                let c = &mut all[event.u64 as usize];
                let got = c.stream.read(&mut bytes).expect("echoes");
                assert!(got > 0, "the server closed a connection");
                c.partial += got;
                let whole = c.partial / self.reply;
                c.partial %= self.reply;
                self.messages += whole;
                let next = whole * self.frame.len();
                if next > 0 {
                    c.stream.write_all(&self.batch[..next]).expect("send");
                }
            }
        }
    }
}

fn open(addr: &str, epoll: i32, index: usize) -> Connection {
    let mut stream = TcpStream::connect(addr).expect("connect");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream.write_all(REQUEST).expect("request");
    let (mut head, mut got) = ([0u8; 1024], 0);
    while !head[..got].ends_with(b"\r\n\r\n") {
        got += stream.read(&mut head[got..]).expect("answer");
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "the handshake was refused");
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: index as u64 };
    // SAFETY: the event outlives the call, which copies it.
    check(unsafe {
        libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, stream.as_raw_fd(), &raw mut event)
    });
    Connection { stream, partial: 0 }
}

/// Returns a masked binary frame of `len` bytes.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0x82];
    match len {
        0..126 => frame.push(0x80 | len as u8),
        126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0x12, 0x34, 0x56, 0x78]);
    frame.extend((0..len).map(|i| i as u8));
    frame
}

/// Returns the CPU time of this thread, in nanoseconds.
fn cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

fn pin(cpu: usize) {
    // SAFETY: all zeroes is an empty set; the set outlives the call, which reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        check(libc::sched_setaffinity(0, size_of_val(&set), &raw const set));
    }
}

fn check(result: i32) -> i32 {
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
    result
}

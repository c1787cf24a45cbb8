//! A blocking echo server with deliberate faults, one thread per connection.

#[path = "../../../protocol/tests/websocket/frames.rs"]
#[allow(dead_code, reason = "shared with other tests, which use the rest of it")]
pub mod frames;

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::handshake::{HeadLimits, server as handshake};
use protocol::{Header, MaskingKey, Opcode, mask};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use frames::{CONTINUATION, FIN, PING, masked, plain, server_frame};

/// Server's end of a connection, plain or over TLS.
pub trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// Fault of a server, which affects the second message of every connection unless stated otherwise.
/// (The second is sent in the first burst of a pipeline of two: the test machine's speed makes no
/// difference.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Changes this byte.
    Corrupt(usize),
    /// Omits the last byte.
    Shorten,
    /// Sends the echo after the third.
    Reorder,
    /// Never answers the message.
    Drop,
    /// Answers the message twice.
    Duplicate,
    /// Sends text as binary, and binary as text.
    WrongOpcode,
    /// Answers 404 to the handshake.
    NotFound,
    /// Answers the handshake with another key's accept.
    WrongAccept,
    /// Answers the handshake correctly, with the first text replaced by the second.
    Instead(&'static str, &'static str),
    /// Begins an answer to the handshake whose head never ends.
    EndlessHead,
    /// Closes without answering the handshake.
    HangUp,
    /// Never answers the handshake.
    Mute,
    /// Never answers a message.
    Silent,
    /// Ends the connection.
    Disconnect,
    /// Ends only the first connection.
    DisconnectFirst,
    /// Sends Close 1001 with a reason.
    Close,
    /// Sends a masked frame.
    Masked,
    /// Answers every message in three fragments with a ping between.
    Fragments,
    /// Sends every message's echo in single bytes.
    Trickle,
    /// Sends one byte too many (raw only).
    Surplus,
    /// Takes 10 ms for every message.
    Slow,
    /// Stops for 300 ms at the first message that comes 150 ms after the connection was opened.
    Stall,
    /// Ends the whole process.
    Exit,
    /// Sends this text message before anything else.
    Greeting(&'static str),
    /// Sends this text message in place of the first echo, and that echo before its Close.
    LateGreeting(&'static str),
    /// Answers every second message, with one message that joins both.
    Merge,
    /// Sends Close 1001 after this many echoes.
    Rotate(u64),
    /// Closes the first connection after 20 echoes, and delays the opening handshakes of all others
    /// for this time.
    Down(Duration),
    /// Answers nothing on every second connection for this time, and then everything.
    HalfLate(Duration),
    /// Answers each message after this time.
    Delay(Duration),
    /// Ends connections that are silent for 150 ms.
    DropIdle,
    /// Answers this many messages a second, over all connections.
    Capacity(u64),
    /// Answers the first message, and none after it.
    Once,
}

impl Fault {
    /// Returns whether the fault leaves connections open.
    pub fn keeps_connections(self) -> bool {
        !matches!(
            self,
            Self::Disconnect | Self::DisconnectFirst | Self::Close | Self::Masked | Self::Rotate(_)
        )
    }
}

/// Record of the server's input.
#[derive(Debug, Default)]
pub struct Seen {
    pub connections: AtomicU64,
    pub messages: AtomicU64,
    pub pongs: AtomicU64,
    pub closes: AtomicU64,
    /// Data frames, continuations included.
    pub frames: AtomicU64,
    pub heads: Mutex<Vec<String>>,
    pub peers: Mutex<Vec<IpAddr>>,
    pub keys: Mutex<HashSet<[u8; 4]>>,
    /// Time at which the next message may be answered, where that is limited.
    free: Mutex<Option<Instant>>,
}

impl Seen {
    /// Returns the time until a message may be answered, at `per_s` messages a second.
    fn turn(&self, per_s: u64) -> Duration {
        let mut free = self.free.lock().expect("free");
        let now = Instant::now();
        let turn = free.map_or(now, |free| free.max(now));
        *free = Some(turn + Duration::from_secs(1) / per_s as u32);
        turn - now
    }
}

/// A server that lives as long as the process.
pub struct Echo {
    pub at: SocketAddr,
    pub seen: Arc<Seen>,
}

impl Echo {
    pub fn ws(fault: Fault) -> Self {
        Self::ws_at("127.0.0.1:0", fault)
    }

    /// Returns a server over TLS, with a certificate that no client trusts.
    pub fn wss(fault: Fault) -> Self {
        let certified =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .expect("a certificate of its key");
        Self::wss_with(config, fault)
    }

    pub fn wss_with(config: ServerConfig, fault: Fault) -> Self {
        let config: &Arc<ServerConfig> = Box::leak(Box::new(Arc::new(config)));
        Self::start("127.0.0.1:0", fault, move |stream, fault, seen, number| {
            let peer = stream.peer_addr()?.ip();
            let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(connection, stream);
            let ended = serve_ws(&mut stream, peer, fault, seen, number);
            stream.conn.send_close_notify();
            stream.flush().and(ended)
        })
    }

    pub fn wss_url(&self) -> String {
        format!("wss://{}/", self.at)
    }

    pub fn ws_at(at: &str, fault: Fault) -> Self {
        Self::start(at, fault, |mut stream, fault, seen, number| {
            let peer = stream.peer_addr()?.ip();
            serve_ws(&mut stream, peer, fault, seen, number)
        })
    }

    /// Starts a raw echo server of messages of `len` bytes.
    pub fn tcp(len: usize, fault: Fault) -> Self {
        Self::start("127.0.0.1:0", fault, move |stream, fault, seen, _| {
            serve_tcp(stream, len, fault, seen)
        })
    }

    fn start(
        at: &str,
        fault: Fault,
        serve: impl Fn(TcpStream, Fault, &Seen, u64) -> io::Result<()> + Send + Copy + 'static,
    ) -> Self {
        let listener = TcpListener::bind(at).expect("a free port");
        let at = listener.local_addr().expect("bound");
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = shared.connections.fetch_add(1, Ordering::Relaxed);
                let seen = shared.clone();
                thread::spawn(move || {
                    before_serving();
                    stream.set_nodelay(true).expect("a socket");
                    if fault == Fault::DropIdle {
                        stream
                            .set_read_timeout(Some(Duration::from_millis(150)))
                            .expect("a socket");
                    }
                    // The peer may close at any time.
                    let _ = serve(stream, fault, &seen, number);
                });
            }
        });
        Self { at, seen }
    }

    pub fn ws_url(&self) -> String {
        format!("ws://{}/", self.at)
    }

    pub fn tcp_url(&self) -> String {
        format!("tcp://{}", self.at)
    }
}

std::thread_local! {
    /// True on the threads of servers, for tests that tell threads apart.
    pub static SERVES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn before_serving() {
    SERVES.set(true);
}

fn serve_ws(
    stream: &mut dyn Stream,
    peer: IpAddr,
    fault: Fault,
    seen: &Seen,
    number: u64,
) -> io::Result<()> {
    let mut input = Input::default();
    let head = input.read_head(stream)?;
    seen.heads.lock().expect("heads").push(String::from_utf8_lossy(&head).into_owned());
    seen.peers.lock().expect("peers").push(peer);
    let Ok(accepted) = handshake::answer(&head, &HeadLimits::default()) else {
        return stream.write_all(time_of(&head).as_bytes());
    };
    match fault {
        Fault::NotFound => {
            return stream.write_all(
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
        Fault::WrongAccept => {
            let key = protocol::handshake::accept_key("AAAAAAAAAAAAAAAAAAAAAA==");
            let head =
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
            stream.write_all(format!("{head}Sec-WebSocket-Accept: {key}\r\n\r\n").as_bytes())?;
        }
        Fault::Instead(right, wrong) => {
            let answer = String::from_utf8_lossy(accepted.response()).replacen(right, wrong, 1);
            stream.write_all(answer.as_bytes())?;
        }
        Fault::EndlessHead => {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n")?;
            // This is far beyond any sensible limit; writing fails when the peer has closed.
            return (0..1 << 20).try_for_each(|_| stream.write_all(b"X: y\r\n"));
        }
        Fault::HangUp => return Ok(()),
        Fault::Down(span) if number > 0 => {
            thread::sleep(span);
            stream.write_all(accepted.response())?;
        }
        Fault::Mute => {}
        _ => stream.write_all(accepted.response())?,
    }
    let mut session =
        Session { stream, fault, number, held: None, count: 0, began: Instant::now(), seen };
    if let Fault::Greeting(text) = fault {
        session.send(Opcode::Text, text.as_bytes())?;
    }
    let mut payload = Vec::new();
    loop {
        let opcode = input.read_message(session.stream, &mut payload, seen)?;
        match opcode {
            Opcode::Ping => session.send(Opcode::Pong, &payload)?,
            Opcode::Pong => drop(seen.pongs.fetch_add(1, Ordering::Relaxed)),
            Opcode::Close => {
                seen.closes.fetch_add(1, Ordering::Relaxed);
                if let Some(echo) = session.held.take() {
                    session.send(Opcode::Text, &echo)?;
                }
                return session.send(Opcode::Close, &payload);
            }
            _ => {
                seen.messages.fetch_add(1, Ordering::Relaxed);
                session.answer(opcode, &mut payload)?;
            }
        }
    }
}

/// Returns the answer to a request that opens no WebSocket: the server's time. Under the name
/// `localhost` its clock is 200 ms ahead.
fn time_of(head: &[u8]) -> String {
    let is_ahead = String::from_utf8_lossy(head).contains("Host: localhost");
    let ahead = Duration::from_millis(if is_ahead { 200 } else { 0 });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set") + ahead;
    let (seconds, nanos) = (now.as_secs(), now.subsec_nanos());
    format!("HTTP/1.1 426 Upgrade Required\r\nX-HTTPSTIME: {seconds}.{nanos:09}\r\n\r\n")
}

struct Session<'a> {
    stream: &'a mut dyn Stream,
    fault: Fault,
    number: u64,
    held: Option<Vec<u8>>,
    count: u64,
    began: Instant,
    seen: &'a Seen,
}

impl Session<'_> {
    fn answer(&mut self, opcode: Opcode, payload: &mut Vec<u8>) -> io::Result<()> {
        let index = self.count;
        self.count += 1;
        match self.fault {
            Fault::Mute | Fault::Silent => return Ok(()),
            Fault::Fragments => return self.send_fragments(opcode, payload),
            Fault::Trickle => return self.trickle(opcode, payload),
            Fault::Slow => thread::sleep(Duration::from_millis(10)),
            Fault::Delay(delay) => thread::sleep(delay),
            Fault::HalfLate(late) if self.number % 2 == 1 => {
                thread::sleep(late.saturating_sub(self.began.elapsed()));
            }
            Fault::Capacity(per_s) => thread::sleep(self.seen.turn(per_s)),
            Fault::Once if index > 0 => return Ok(()),
            Fault::LateGreeting(text) if index == 0 => {
                self.held = Some(payload.clone());
                return self.send(Opcode::Text, text.as_bytes());
            }
            Fault::Merge => return self.merge(opcode, payload),
            Fault::Down(_) if self.number == 0 && index == 20 => {
                return self.send(Opcode::Close, b"\x03\xe9down");
            }
            Fault::Rotate(echoes) if index == echoes => {
                return self.send(Opcode::Close, b"\x03\xe9rotating");
            }
            Fault::Rotate(echoes) if index > echoes => return Ok(()),
            Fault::Stall if self.began.elapsed() > Duration::from_millis(150) => {
                self.fault = Fault::None;
                thread::sleep(Duration::from_millis(300));
            }
            _ => {}
        }
        if index != 1 {
            self.send(opcode, payload)?;
            if let Some(held) = self.held.take() {
                self.send(opcode, &held)?;
            }
            return Ok(());
        }
        match self.fault {
            Fault::Corrupt(at) => payload[at] ^= 0x01,
            Fault::Shorten => drop(payload.pop()),
            Fault::Reorder => {
                self.held = Some(payload.clone());
                return Ok(());
            }
            Fault::Drop => return Ok(()),
            Fault::Duplicate => self.send(opcode, payload)?,
            Fault::WrongOpcode => {
                let other = if opcode == Opcode::Text { Opcode::Binary } else { Opcode::Text };
                return self.send(other, payload);
            }
            Fault::Disconnect => return Err(io::ErrorKind::ConnectionAborted.into()),
            Fault::DisconnectFirst if self.number == 0 => {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Fault::Close => {
                self.send(Opcode::Close, b"\x03\xe9gone fishing")?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Fault::Masked => return self.send_masked(opcode, payload),
            Fault::Exit => {
                eprintln!("cannot go on: as the test wants it");
                std::process::exit(3);
            }
            _ => {}
        }
        self.send(opcode, payload)
    }

    fn merge(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        match self.held.take() {
            None => self.held = Some(payload.to_vec()),
            Some(held) => self.send(opcode, &[&held, payload].concat())?,
        }
        Ok(())
    }

    fn send(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&server_frame(opcode as u8, payload))
    }

    fn send_masked(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&masked(FIN | opcode as u8, payload))
    }

    fn send_fragments(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let (first, rest) = payload.split_at(payload.len() / 3);
        let mut bytes = plain(opcode as u8, first);
        bytes.extend(server_frame(PING, b"between"));
        bytes.extend(plain(CONTINUATION, rest));
        bytes.extend(server_frame(CONTINUATION, b""));
        self.stream.write_all(&bytes)
    }

    fn trickle(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        server_frame(opcode as u8, payload)
            .chunks(1)
            .try_for_each(|byte| self.stream.write_all(byte))
    }
}

/// Bytes that were read and not used yet.
#[derive(Default)]
pub struct Input {
    bytes: Vec<u8>,
    used: usize,
}

impl Input {
    fn more(&mut self, stream: &mut dyn Stream) -> io::Result<()> {
        self.bytes.drain(..self.used);
        self.used = 0;
        let mut piece = [0; 16 << 10];
        match stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => {
                self.bytes.extend_from_slice(&piece[..len]);
                Ok(())
            }
        }
    }

    pub fn read_head(&mut self, stream: &mut dyn Stream) -> io::Result<Vec<u8>> {
        let mut scanned = 0;
        loop {
            self.more(stream)?;
            let head = handshake::find_head(&self.bytes, &mut scanned, &HeadLimits::default());
            if let Some(len) = head.map_err(io::Error::other)? {
                self.used = len;
                return Ok(self.bytes[..len].to_vec());
            }
        }
    }

    /// Reads the next message or control frame; returns its opcode, with the unmasked payload in
    /// `payload`. No client here sends control frames between fragments.
    pub fn read_message(
        &mut self,
        stream: &mut dyn Stream,
        payload: &mut Vec<u8>,
        seen: &Seen,
    ) -> io::Result<Opcode> {
        payload.clear();
        let (header, mut is_last) = self.read_frame(stream, payload)?;
        while !is_last {
            seen.frames.fetch_add(1, Ordering::Relaxed);
            is_last = self.read_frame(stream, payload)?.1;
        }
        if !header.opcode.is_control() {
            seen.frames.fetch_add(1, Ordering::Relaxed);
            let mut keys = seen.keys.lock().expect("keys");
            // Ten are enough to tell one key from many.
            if keys.len() < 10 {
                keys.extend(header.mask.map(MaskingKey::to_bytes));
            }
        }
        Ok(header.opcode)
    }

    /// Reads the next frame; returns its header and whether it is the last of its message. Appends
    /// its unmasked payload to `payload`.
    fn read_frame(
        &mut self,
        stream: &mut dyn Stream,
        payload: &mut Vec<u8>,
    ) -> io::Result<(Header, bool)> {
        loop {
            let rest = &self.bytes[self.used..];
            if let Some((header, len)) = Header::parse(rest).map_err(io::Error::other)? {
                let end = len + header.payload_len as usize;
                if rest.len() >= end {
                    let before = payload.len();
                    payload.extend_from_slice(&rest[len..end]);
                    mask::in_place(&mut payload[before..], header.mask.expect("clients mask"));
                    self.used += end;
                    return Ok((header, header.fin));
                }
            }
            self.more(stream)?;
        }
    }
}

fn serve_tcp(mut stream: TcpStream, len: usize, fault: Fault, seen: &Seen) -> io::Result<()> {
    let mut message = vec![0; len];
    for index in 0.. {
        stream.read_exact(&mut message)?;
        seen.messages.fetch_add(1, Ordering::Relaxed);
        match (fault, index) {
            (Fault::Corrupt(at), 1) => message[at] ^= 0x01,
            (Fault::Surplus, 1) => message.resize(3 * len, 0),
            (Fault::Silent, _) => continue,
            _ => {}
        }
        stream.write_all(&message)?;
        message.resize(len, 0);
    }
    Ok(())
}

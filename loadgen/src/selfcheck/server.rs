//! Echo server with a known fault: blocking, with a thread for each connection.
//!
//! It is this program itself, started as the hidden subcommand [`COMMAND`]. Its behaviour is one
//! argument in JSON.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio, exit};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use protocol::handshake::{HeadLimits, server as handshake};
use protocol::{Header, Opcode, mask};
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{MYSELF, nanos};
use crate::target::url::PORT_PLACEHOLDER;

pub(crate) const COMMAND: &str = "selfcheck-server";
/// Time that each answer takes where nothing else limits the rate of a closed loop.
const PAUSE: Duration = Duration::from_millis(1);
/// Exit status of a server that ends as it was told to.
const ENDED: i32 = 3;

/// Behaviour of the server beside echoing messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Behaviour {
    /// Does nothing else.
    Echo,
    /// Answers this many messages a second, over all connections.
    Capacity(u32),
    /// Answers nothing on every second connection for this time, and then everything.
    HalfSilent(Duration),
    /// Connects to this port of the loopback address when the first message comes.
    Announce(u16),
    /// Ends this time after the first message.
    EndAfter(Duration),
    /// Spends this CPU time on each message.
    Work(Place, Duration),
}

/// Place where the CPU time of a message is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Place {
    Connection,
    /// A separate thread, which then ends.
    Thread,
    /// A process for the connection, which ends with it.
    Process,
}

impl Behaviour {
    /// Returns the words of the command that starts such a server. `{port}` is to be replaced.
    pub(super) fn command(self) -> Vec<String> {
        [MYSELF, COMMAND, &self.argument(), PORT_PLACEHOLDER].map(str::to_owned).into()
    }

    fn argument(self) -> String {
        serde_json::to_string(&self).unwrap_or_default()
    }
}

struct Server {
    behaviour: Behaviour,
    /// Completed once the first message has come.
    loaded: Once,
    /// Time at which the next message may be answered, where that is limited.
    free: Mutex<Option<Instant>>,
}

/// Carries out the hidden subcommand. Serves at `port` of the loopback address. Without a port,
/// serves the connection that is its standard input. Ends by a signal, or as `behaviour` has it.
pub(crate) fn serve(behaviour: &str, port: Option<u16>) -> io::Result<()> {
    let behaviour = serde_json::from_str(behaviour)?;
    let server = Arc::new(Server { behaviour, loaded: Once::new(), free: Mutex::default() });
    let Some(port) = port else {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        return server.serve(socket.into(), 0);
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    writeln!(io::stdout(), "listening on ws://127.0.0.1:{port}/ (engine blocking)")?;
    for (number, stream) in listener.incoming().enumerate() {
        let (server, stream) = (server.clone(), stream?);
        // A connection that fails has ended, and the generator detects it.
        thread::spawn(move || match behaviour {
            Behaviour::Work(Place::Process, span) => serve_in_process(stream, span),
            _ => server.serve(stream, number),
        });
    }
    Ok(())
}

/// Hands a connection to a separate process and waits for its end.
fn serve_in_process(stream: TcpStream, span: Duration) -> io::Result<()> {
    let behaviour = Behaviour::Work(Place::Connection, span).argument();
    let socket = Stdio::from(OwnedFd::from(stream));
    Command::new(MYSELF).args([COMMAND, &behaviour]).stdin(socket).status().map(drop)
}

impl Server {
    fn serve(&self, stream: TcpStream, number: usize) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream, input: Vec::new() };
        connection.shake_hands()?;
        let mut first = None;
        loop {
            let (header, payload) = connection.next_frame()?;
            let opcode = match header.opcode {
                Opcode::Ping => Opcode::Pong,
                Opcode::Pong => continue,
                other => other,
            };
            if !opcode.is_control() {
                self.loaded.call_once(|| self.begin_load());
                self.before_answer(number, *first.get_or_insert_with(Instant::now));
            }
            connection.send(header.fin, opcode, &payload)?;
            if opcode == Opcode::Close {
                return Ok(());
            }
        }
    }

    /// Begins the behaviour that depends on the time of the first message.
    fn begin_load(&self) {
        match self.behaviour {
            // Where the listener is closed, the generator does not wait for the announcement.
            Behaviour::Announce(port) => drop(TcpStream::connect((Ipv4Addr::LOCALHOST, port))),
            Behaviour::EndAfter(after) => drop(thread::spawn(move || {
                thread::sleep(after);
                exit(ENDED);
            })),
            _ => {}
        }
    }

    /// Delays an answer, on a connection whose first message came at `first`.
    fn before_answer(&self, number: usize, first: Instant) {
        match self.behaviour {
            Behaviour::Echo => {}
            Behaviour::Capacity(per_s) => thread::sleep(self.turn(per_s)),
            Behaviour::HalfSilent(span) if number % 2 == 1 => {
                thread::sleep(span.saturating_sub(first.elapsed()));
            }
            Behaviour::HalfSilent(_) | Behaviour::Announce(_) | Behaviour::EndAfter(_) => {
                thread::sleep(PAUSE);
            }
            Behaviour::Work(Place::Thread, span) => {
                // A panic of the thread comes from the clock, and has been printed.
                let _ = thread::spawn(move || spend(span)).join();
            }
            Behaviour::Work(_, span) => spend(span),
        }
    }

    /// Returns the time until a message may be answered, at `per_s` messages a second.
    fn turn(&self, per_s: u32) -> Duration {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = free.map_or(now, |free| free.max(now));
        *free = Some(turn + Duration::from_secs(1) / per_s);
        turn - now
    }
}

/// Keeps this thread on a processor until it has spent this CPU time.
fn spend(span: Duration) {
    let spent = || {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
        tv_sec.unsigned_abs() * 1_000_000_000 + tv_nsec.unsigned_abs()
    };
    let end = spent() + nanos(span);
    while spent() < end {}
}

/// Connection, with the bytes that were read from it and not yet used.
struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Connection {
    fn read_more(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 << 10];
        let len = self.stream.read(&mut piece)?;
        self.input.extend_from_slice(&piece[..len]);
        if len == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        let (limits, mut scanned) = (HeadLimits::default(), 0);
        loop {
            self.read_more()?;
            let found = handshake::find_head(&self.input, &mut scanned, &limits)
                .map_err(io::Error::other)?;
            if let Some(len) = found {
                let accepted =
                    handshake::answer(&self.input[..len], &limits).map_err(io::Error::other)?;
                self.input.drain(..len);
                return self.stream.write_all(accepted.response());
            }
        }
    }

    /// Returns the next frame and its payload, unmasked.
    fn next_frame(&mut self) -> io::Result<(Header, Vec<u8>)> {
        loop {
            let parsed = Header::parse(&self.input).map_err(io::Error::other)?;
            if let Some((header, start)) = parsed
                && header.payload_len <= (self.input.len() - start) as u64
            {
                let mut payload: Vec<u8> =
                    self.input.drain(..start + header.payload_len as usize).collect();
                payload.drain(..start);
                if let Some(key) = header.mask {
                    mask::in_place(&mut payload, key);
                }
                return Ok((header, payload));
            }
            self.read_more()?;
        }
    }

    fn send(&mut self, fin: bool, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let mut bytes = [0; Header::MAX_LEN];
        let header = Header { fin, rsv: 0, opcode, mask: None, payload_len: payload.len() as u64 };
        let len = header.encode(&mut bytes);
        self.stream.write_all(&[&bytes[..len], payload].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_behaviour_is_read_as_it_is_written() {
        let span = Duration::from_millis(1500);
        for behaviour in [
            Behaviour::Echo,
            Behaviour::Capacity(700),
            Behaviour::HalfSilent(span),
            Behaviour::Announce(9001),
            Behaviour::EndAfter(span),
            Behaviour::Work(Place::Process, span),
        ] {
            let words = behaviour.command();
            assert_eq!(serde_json::from_str::<Behaviour>(&words[2]).expect("JSON"), behaviour);
            assert_eq!(
                shlex::split(&shlex::try_join(words.iter().map(String::as_str)).expect("words")),
                Some(words)
            );
        }
        assert!(serve("fly", None).is_err());
    }

    #[test]
    fn turns_are_even_however_many_ask() {
        let server =
            Server { behaviour: Behaviour::Echo, loaded: Once::new(), free: Mutex::default() };
        let began = Instant::now();
        let last = (0..500).map(|_| began.elapsed() + server.turn(100)).last().expect("turns");
        // The time is longer only where something delayed this test between two of them.
        assert!(last >= Duration::from_millis(4990), "{last:?}");
    }

    #[test]
    fn work_takes_its_cpu_time() {
        let began = clock_gettime(ClockId::ThreadCPUTime);
        spend(Duration::from_millis(5));
        let spent = clock_gettime(ClockId::ThreadCPUTime) - began;
        assert!(spent.tv_sec > 0 || spent.tv_nsec >= 5_000_000, "{spent:?}");
    }
}

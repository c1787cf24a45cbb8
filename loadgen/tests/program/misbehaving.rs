//! Servers that misbehave repeatedly, each in one way. A run against one must end with a count or
//! an error that names the fault, never with a panic and never with a hang. The server that dies is
//! a case of `selfcheck`.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use protocol::handshake::{HeadLimits, server as handshake};

use super::echo::frames::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, masked, plain, server_close,
    server_frame, with_length,
};
use super::echo::{Input, Seen};
use super::{FINE, ended, loadgen, text};

/// Echoes on each connection before a server fails in mid-run.
const ENOUGH: u64 = 200;
/// Flags of a run that ends by its number of messages.
pub(super) const COUNTED: [&str; 2] = ["-n", "2000"];
/// Flags of a run that ends only where its server ends it.
pub(super) const ENDLESS: [&str; 2] = ["-d", "1h"];
/// Flags for a server that never answers.
pub(super) const IMPATIENT: [&str; 4] = ["--timeout", "2s", "--connect-timeout", "1s"];
/// Flags for a server that answers, on a machine that may be busy.
pub(super) const PATIENT: [&str; 4] = ["--timeout", "40s", "--connect-timeout", "40s"];

/// Server's side of one connection, from its first byte to its last.
pub(super) type Behaviour = fn(&mut Peer) -> io::Result<()>;

/// Server's end of a connection.
pub(super) struct Peer {
    stream: TcpStream,
    input: Input,
}

impl Peer {
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads the opening handshake. Returns the right response.
    fn response(&mut self) -> io::Result<String> {
        let head = self.input.read_head(&mut self.stream)?;
        let accepted =
            handshake::answer(&head, &HeadLimits::default()).map_err(io::Error::other)?;
        String::from_utf8(accepted.response().to_vec()).map_err(io::Error::other)
    }

    /// Refuses the opening handshake with this status and further fields.
    fn refuse(&mut self, head: &str) -> io::Result<()> {
        self.response()?;
        let rest = "Content-Length: 0\r\nConnection: close\r\n\r\n";
        self.send(format!("HTTP/1.1 {head}\r\n{rest}").as_bytes())
    }

    pub(super) fn open(&mut self) -> io::Result<()> {
        let response = self.response()?;
        self.send(response.as_bytes())
    }

    /// Lets `answer(stream, number, opcode, payload)` answer each of the first `count` messages.
    /// Returns when one more has come, or a Close.
    pub(super) fn serve(
        &mut self,
        count: u64,
        mut answer: impl FnMut(&mut TcpStream, u64, u8, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let (seen, mut payload, mut number) = (Seen::default(), Vec::new(), 0);
        loop {
            match self.input.read_message(&mut self.stream, &mut payload, &seen)? as u8 {
                CLOSE => return self.send(&server_frame(CLOSE, &payload)),
                PING => self.send(&server_frame(PONG, &payload))?,
                PONG => {}
                _ if number == count => return Ok(()),
                opcode => {
                    number += 1;
                    answer(&mut self.stream, number, opcode, &payload)?;
                }
            }
        }
    }

    /// Opens the connection, echoes some messages, and takes one more.
    fn echo_for_a_while(&mut self) -> io::Result<()> {
        self.open()?;
        self.serve(ENOUGH, |stream, _, opcode, payload| {
            stream.write_all(&server_frame(opcode, payload))
        })
    }

    /// Opens the connection and sends this in place of every `interval`th echo.
    pub(super) fn replace(
        &mut self,
        interval: u64,
        answer: fn(u8, &[u8]) -> Vec<u8>,
    ) -> io::Result<()> {
        self.open()?;
        self.serve(u64::MAX, |stream, number, opcode, payload| {
            let is_wrong = number.is_multiple_of(interval);
            stream.write_all(&if is_wrong { answer } else { server_frame }(opcode, payload))
        })
    }

    /// Sends nothing more until the peer has closed.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        io::copy(&mut self.stream, &mut io::sink()).map(drop)
    }
}

/// Runs the program against a server with this behaviour. Returns its output, in one line, and its
/// exit code.
pub(super) fn trial(behaviour: Behaviour, flags: &[&[&str]]) -> (String, Option<i32>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                stream.set_nodelay(true).expect("a socket");
                // The peer may close at any time.
                let _ = behaviour(&mut Peer { stream, input: Input::default() });
            });
        }
    });
    let mut command = loadgen(&["run", &url, "-c", "4", "--settle", "0", "-w", "0"]);
    command.args(flags.concat()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = ended(command.spawn().expect("the program runs"));
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(!said.contains("panicked") && !said.contains("do not add up"), "{said}");
    (said.split_whitespace().collect::<Vec<_>>().join(" "), output.status.code())
}

/// Checks that a run ends with 1 and prints these parts in this order.
fn assert_fails(name: &str, behaviour: Behaviour, flags: &[&[&str]], parts: &[&str]) {
    let (said, code) = trial(behaviour, flags);
    assert_eq!(code, Some(1), "{name}: {said}");
    let mut rest = &said[..];
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("{name}: no `{part}`: {said}"));
        rest = &rest[at..];
    }
}

/// Returns the part about the echoes, without its numbers.
pub(super) fn echoes(said: &str) -> String {
    let line = said.split_once(" echoes ").and_then(|(_, rest)| rest.split_once(" errors "));
    let is_figure = |c: char| c.is_ascii_digit() || c == ',';
    line.unwrap_or_default().0.replace(is_figure, "").trim().to_owned()
}

#[test]
fn measures_servers_that_are_only_unusual() {
    let servers: [(&str, Behaviour); 5] = [
        ("plain", |peer| peer.replace(1, server_frame)),
        ("fragments", |peer| {
            peer.replace(1, |opcode, payload| {
                let (first, rest) = payload.split_at(payload.len() / 3);
                let (second, third) = rest.split_at(first.len());
                let begun = [plain(opcode, first), plain(CONTINUATION, second)].concat();
                [begun, server_frame(PING, b"between"), server_frame(CONTINUATION, third)].concat()
            })
        }),
        ("single bytes", |peer| {
            peer.open()?;
            peer.serve(u64::MAX, |stream, _, opcode, payload| {
                server_frame(opcode, payload).chunks(1).try_for_each(|byte| stream.write_all(byte))
            })
        }),
        ("pings", |peer| {
            peer.replace(1, |opcode, payload| {
                let before = [server_frame(PING, b""), server_frame(PONG, b"unasked")].concat();
                [before, server_frame(opcode, payload), server_frame(PING, b"again")].concat()
            })
        }),
        ("slow handshake", |peer| {
            for byte in peer.response()?.bytes() {
                peer.send(&[byte])?;
                thread::sleep(Duration::from_millis(2));
            }
            peer.serve(u64::MAX, |stream, _, opcode, payload| {
                stream.write_all(&server_frame(opcode, payload))
            })
        }),
    ];
    for (name, behaviour) in servers {
        let (said, code) = trial(behaviour, &[&COUNTED, &PATIENT]);
        // 13: other tests kept the machine busy.
        assert!(code == Some(FINE) || code == Some(13), "{name}: {said}");
        assert_eq!(echoes(&said), "all as they were sent (every one checked)", "{name}: {said}");
        assert!(
            said.contains("(2,000 received)") && said.contains(" errors none "),
            "{name}: {said}"
        );
    }
}

#[test]
fn names_what_failed_in_the_opening_handshake() {
    let servers: [(&str, Behaviour, &str); 9] = [
        ("400", |peer| peer.refuse("400 Bad Request"), "400"),
        ("401", |peer| peer.refuse("401 Unauthorized\r\nWWW-Authenticate: Basic"), "401"),
        ("404", |peer| peer.refuse("404 Not Found"), "404"),
        ("429", |peer| peer.refuse("429 Too Many Requests\r\nRetry-After: 1"), "429"),
        ("503", |peer| peer.refuse("503 Service Unavailable"), "503"),
        ("redirect", |peer| peer.refuse("302 Found\r\nLocation: http://127.0.0.1:9/"), "302"),
        (
            "wrong accept",
            |peer| {
                let response = peer.response()?;
                let (right, _) = response.split_once("Sec-WebSocket-Accept: ").unwrap_or_default();
                let wrong = "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";
                peer.send(format!("{right}{wrong}").as_bytes())?;
                peer.wait()
            },
            "Accept",
        ),
        (
            "endless head",
            |peer| {
                peer.response()?;
                peer.send(b"HTTP/1.1 101 Switching Protocols\r\n")?;
                loop {
                    peer.send(format!("X-More: {}\r\n", "x".repeat(1000)).as_bytes())?;
                }
            },
            "longer than",
        ),
        ("hang-up", |_| Ok(()), "without answering"),
    ];
    for (name, behaviour, part) in servers {
        assert_fails(name, behaviour, &[&ENDLESS, &PATIENT], &["handshake", part]);
    }
    let mute: Behaviour = |peer| peer.response().and_then(|_| peer.wait());
    assert_fails("mute", mute, &[&ENDLESS, &IMPATIENT], &["handshake", "no answer within 1s"]);
}

#[test]
fn names_how_the_server_gave_up() {
    let all = "closed all 4 connections";
    let servers: [(&str, Behaviour, &[&str]); 4] = [
        (
            "close",
            |peer| {
                peer.echo_for_a_while()?;
                peer.send(&server_close(1001, "going away"))
            },
            &["1001", "going away"],
        ),
        (
            "error",
            |peer| {
                peer.echo_for_a_while()?;
                peer.send(&server_close(1011, "an error"))
            },
            &["1011", "an error"],
        ),
        ("end", Peer::echo_for_a_while, &["closed the connection"]),
        (
            "reset",
            |peer| {
                peer.echo_for_a_while()?;
                Ok(rustix::net::sockopt::set_socket_linger(&peer.stream, Some(Duration::ZERO))?)
            },
            &["reset the connection"],
        ),
    ];
    for (name, behaviour, parts) in servers {
        assert_fails(name, behaviour, &[&ENDLESS, &PATIENT], &[&[all], parts].concat());
    }
    let stalled: Behaviour = |peer| peer.echo_for_a_while().and_then(|()| peer.wait());
    assert_fails("stall", stalled, &[&ENDLESS, &IMPATIENT], &["stopped answering"]);
}

#[test]
fn names_what_is_wrong_with_echoes() {
    let servers: [(&str, Behaviour, &[&str], &str); 6] = [
        (
            "corrupt",
            |peer| {
                peer.replace(10, |opcode, payload| {
                    let mut wrong = payload.to_vec();
                    wrong[payload.len() - 1] ^= 1;
                    server_frame(opcode, &wrong)
                })
            },
            &PATIENT,
            "corrupted",
        ),
        (
            "truncate",
            |peer| {
                peer.replace(10, |opcode, payload| {
                    server_frame(opcode, &payload[..payload.len() - 1])
                })
            },
            &PATIENT,
            "corrupted",
        ),
        ("lose", |peer| peer.replace(10, |_, _| Vec::new()), &IMPATIENT, "lost"),
        (
            "duplicate",
            |peer| peer.replace(10, |opcode, payload| server_frame(opcode, payload).repeat(2)),
            &PATIENT,
            "duplicated",
        ),
        (
            "wrong opcode",
            |peer| {
                peer.replace(10, |opcode, payload| server_frame(TEXT + BINARY - opcode, payload))
            },
            &PATIENT,
            "with the wrong opcode",
        ),
        (
            "unasked",
            |peer| {
                peer.replace(10, |opcode, payload| {
                    [server_frame(opcode, payload), server_frame(opcode, b"nobody asked")].concat()
                })
            },
            &PATIENT,
            "that nobody asked for",
        ),
    ];
    for (name, behaviour, patience, verdict) in servers {
        let (said, code) = trial(behaviour, &[&COUNTED, patience, &["--pipeline", "8"]]);
        assert_eq!((code, &echoes(&said)[..]), (Some(1), verdict), "{name}: {said}");
    }
    let swapped: Behaviour = |peer| {
        peer.open()?;
        let mut held = Vec::new();
        peer.serve(u64::MAX, |stream, number, opcode, payload| {
            let echo = server_frame(opcode, payload);
            if number % 10 == 0 {
                held = echo;
                return Ok(());
            }
            stream.write_all(&[echo, std::mem::take(&mut held)].concat())
        })
    };
    // The last one may be held forever.
    let flags: [&[&str]; 3] = [&COUNTED, &IMPATIENT, &["--pipeline", "8"]];
    assert_fails("reorder", swapped, &flags, &["echoes", "reordered"]);
}

#[test]
fn names_how_the_protocol_was_broken() {
    let servers: [(&str, Behaviour, &str); 7] = [
        (
            "masked",
            |peer| peer.replace(10, |opcode, payload| masked(FIN | opcode, payload)),
            "masked",
        ),
        (
            "reserved bit",
            |peer| peer.replace(10, |opcode, payload| plain(FIN | RSV1 | opcode, payload)),
            "reserved bits",
        ),
        (
            "reserved opcode",
            |peer| peer.replace(10, |_, payload| server_frame(3, payload)),
            "opcode 3",
        ),
        (
            "stray continuation",
            |peer| peer.replace(10, |_, payload| server_frame(CONTINUATION, payload)),
            "continuation",
        ),
        (
            "long ping",
            |peer| peer.replace(10, |_, _| server_frame(PING, &[0; 126])),
            "control frame",
        ),
        (
            "huge length",
            |peer| {
                peer.replace(10, |opcode, _| {
                    let length = [&[127][..], &(1_u64 << 62).to_be_bytes()].concat();
                    with_length(FIN | opcode, &length, b"", None)
                })
            },
            "longer than",
        ),
        ("garbage", |peer| peer.replace(10, |_, _| vec![0xff; 64]), "reserved bits"),
    ];
    for (name, behaviour, part) in servers {
        let parts = ["closed all 4 connections", "broke the protocol", part];
        assert_fails(name, behaviour, &[&ENDLESS, &PATIENT], &parts);
    }
}

//! Answers of the server, and the verdict on them.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;

use super::case::{Outcome, PROBE, Verdict};
use super::wire::{ACCEPT, CLOSE, FIN, PONG};

/// Opcode, or whole first byte where it is one that was seen, and payload.
pub(super) type Frame = (u8, Vec<u8>);

/// End of what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// The probe was answered.
    Open,
    /// The server ended the TCP connection in order.
    Eof,
    Reset,
    /// Nothing more within the time it had.
    Silent,
}

/// Everything the server sent.
#[derive(Debug)]
pub(super) struct Seen {
    /// An HTTP answer, with its content where it refuses.
    pub(super) head: Vec<u8>,
    /// First byte and payload of each whole frame.
    pub(super) frames: Vec<Frame>,
    pub(super) last: Last,
}

/// Expected end of a case after the handshake. After a Close the server ends TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection goes on.
    Open,
    /// A Close with this code and any reason.
    Close(u16),
    /// A Close with exactly this payload.
    Answer(Vec<u8>),
    /// TCP ends in order; nothing more is said.
    Eof,
}

/// Expected answer to a request.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// 101 with the right fields, these frames, and an open connection.
    Opens(Vec<Frame>),
    /// This status with these fields, then the end of TCP.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// As [`Status`](Self::Status), or 200 with any page. The request did not ask for a WebSocket,
    /// and a server may ignore an upgrade to anything else (RFC 9110 7.8).
    StatusOrPage(u16, &'static [(&'static str, &'static str)]),
    /// 400, or a dropped connection: a client of another protocol cannot read more.
    StatusOrDrop,
    /// No answer, but an end.
    Drop,
}

/// Reads frames until the probe's pong or the end. `came` learns before each how many have come.
pub(super) fn observe_frames(
    mut stream: &TcpStream,
    head: Vec<u8>,
    came: &mut dyn FnMut(usize),
) -> Seen {
    let mut frames = Vec::new();
    let last = loop {
        came(frames.len());
        match read_frame(&mut stream) {
            Ok(frame) if frame.0 == FIN | PONG && frame.1 == PROBE => break Last::Open,
            Ok(frame) => frames.push(frame),
            Err(error) => break last_of(&error),
        }
    };
    Seen { head, frames, last }
}

/// Reads an HTTP answer; after a 101 frames, else content.
pub(super) fn observe_answer(
    mut stream: &TcpStream,
    answer: &Answer,
    came: &mut dyn FnMut(usize),
) -> Seen {
    let mut head = Vec::new();
    let mut byte = [0];
    let last = loop {
        match stream.read(&mut byte) {
            Ok(0) => break Last::Eof,
            Ok(_) => head.push(byte[0]),
            Err(error) => break last_of(&error),
        }
        if head.starts_with(b"HTTP/1.1 101 ") && head.ends_with(b"\r\n\r\n") {
            // Where a refusal was expected that it opened is all there is to know.
            return match answer {
                Answer::Opens(_) => observe_frames(stream, head, came),
                _ => Seen { head, frames: Vec::new(), last: Last::Open },
            };
        }
    };
    Seen { head, frames: Vec::new(), last }
}

/// A server's frame. Its length is believed as far as bytes follow.
fn read_frame(stream: &mut impl Read) -> io::Result<Frame> {
    let mut start = [0; 2];
    stream.read_exact(&mut start)?;
    let len = match start[1] {
        126 => u64::from(u16::from_be_bytes(read_array(stream)?)),
        127 => u64::from_be_bytes(read_array(stream)?),
        len => u64::from(len & 0x7f),
    };
    let mut payload = Vec::new();
    if stream.take(len).read_to_end(&mut payload)? as u64 != len {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    // A masked frame is never right; its first byte is changed so that it matches nothing.
    Ok((if start[1] & 0x80 == 0 { start[0] } else { start[0] | 0x70 }, payload))
}

fn read_array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut array = [0; N];
    stream.read_exact(&mut array)?;
    Ok(array)
}

fn last_of(error: &io::Error) -> Last {
    match error.kind() {
        ErrorKind::UnexpectedEof => Last::Eof,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Last::Silent,
        _ => Last::Reset,
    }
}

impl Seen {
    /// Frames before the first Close, its payload, and how many frames came after it.
    fn split(&self) -> (&[Frame], Option<&[u8]>, usize) {
        match self.frames.iter().position(|&(first, _)| first == FIN | CLOSE) {
            Some(at) => (&self.frames[..at], Some(&self.frames[at].1), self.frames.len() - at - 1),
            None => (&self.frames, None, 0),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.head.is_empty() {
            let line = self.head.split(|&byte| byte == b'\r').next().unwrap_or_default();
            write!(f, "{}, ", line[..line.len().min(40)].escape_ascii())?;
        }
        if !self.frames.is_empty() {
            write!(f, "{}, ", describe(&self.frames))?;
        }
        f.write_str(match self.last {
            Last::Open => "open",
            Last::Eof => "end",
            Last::Reset => "reset",
            Last::Silent => "silence",
        })
    }
}

/// Frames in words, the first ones.
fn describe(frames: &[Frame]) -> String {
    let mut words: Vec<String> =
        frames.iter().take(2).map(|(first, payload)| word(*first, payload)).collect();
    if frames.len() > 2 {
        words.push(format!("... ({} frames)", frames.len()));
    }
    words.join(", ")
}

/// Expected replies in words.
pub(super) fn describe_replies(replies: &[Frame]) -> String {
    describe(
        &replies
            .iter()
            .map(|(opcode, payload)| (FIN | opcode, payload.clone()))
            .collect::<Vec<_>>(),
    )
}

fn word(first: u8, payload: &[u8]) -> String {
    let name = match first & !FIN {
        1 => "text",
        2 => "binary",
        8 => "Close",
        9 => "ping",
        10 => "pong",
        _ => return format!("frame {first:#04x}"),
    };
    let whole = if first & FIN == 0 { " fragment" } else { "" };
    match payload {
        [a, b, ..] if name == "Close" => format!("Close {}", u16::from_be_bytes([*a, *b])),
        [] => format!("{name}{whole} empty"),
        _ if payload.len() <= 12 => format!("{name}{whole} \"{}\"", payload.escape_ascii()),
        _ => format!("{name}{whole} of {} B", payload.len()),
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Close(code) => write!(f, "Close {code}, end"),
            Self::Answer(payload) => write!(f, "{}, end", word(FIN | CLOSE, payload)),
            Self::Eof => f.write_str("end"),
        }
    }
}

impl End {
    /// `replies`: opcode and payload of the unfragmented frames that must come before the end.
    pub(super) fn judge(&self, replies: &[Frame], seen: &Seen) -> Outcome {
        (self.verdict(replies, seen), seen.to_string())
    }

    fn verdict(&self, replies: &[Frame], seen: &Seen) -> Verdict {
        let (before, close, after) = seen.split();
        let Replies { in_order, complete, exactly } = Replies::compare(replies, before);
        let replied = in_order && complete;
        match (self, close) {
            (Self::Open, None) if exactly && seen.last == Last::Open => Verdict::Ok,
            (Self::Eof, None) if exactly && seen.last == Last::Eof => Verdict::Ok,
            // With a Close or without, the end came.
            (Self::Eof, _) if replied && matches!(seen.last, Last::Reset | Last::Eof) => {
                Verdict::Lax
            }
            (Self::Open | Self::Eof, _) => Verdict::Wrong,
            (Self::Close(_) | Self::Answer(_), None) if replied => Verdict::Lax,
            (Self::Close(_) | Self::Answer(_), None) => Verdict::Wrong,
            (Self::Close(code), Some(payload)) if !payload.starts_with(&code.to_be_bytes()) => {
                Verdict::Wrong
            }
            (Self::Answer(expected), Some(payload)) if code(payload) != code(expected) => {
                Verdict::Wrong
            }
            // The messages before were sound, but the RFC does not say that they are answered first
            // (7.1.7).
            _ if in_order && !complete && after == 0 => Verdict::Lax,
            _ if !exactly || after > 0 => Verdict::Wrong,
            // The code is echoed, the reason need not be (5.5.1).
            (Self::Answer(expected), Some(payload)) if payload != expected => Verdict::Lax,
            _ if seen.last == Last::Eof => Verdict::Ok,
            _ => Verdict::Lax,
        }
    }
}

/// The status code of a Close's payload; nothing where it has none.
fn code(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(2)]
}

/// Received frames beside the expected ones.
struct Replies {
    /// True if the received frames begin as expected.
    in_order: bool,
    /// Nothing is missing.
    complete: bool,
    /// Nothing else came either.
    exactly: bool,
}

impl Replies {
    /// Data and pongs each in their order: a pong may overtake an echo (RFC 6455 5.5.3).
    fn compare(expected: &[Frame], seen: &[Frame]) -> Self {
        let is_control = |frame: &&Frame| frame.0 & 0x08 != 0;
        let alike =
            |(reply, frame): (&Frame, &Frame)| FIN | reply.0 == frame.0 && reply.1 == frame.1;
        let (control, data): (Vec<&Frame>, Vec<&Frame>) = expected.iter().partition(is_control);
        let (seen_control, seen_data): (Vec<&Frame>, Vec<&Frame>) =
            seen.iter().partition(is_control);
        let kinds = [(control, seen_control), (data, seen_data)];
        let in_order = kinds.iter().all(|(expected, seen)| {
            expected.iter().zip(seen).map(|(reply, frame)| (*reply, *frame)).all(alike)
        });
        let complete = kinds.iter().all(|(expected, seen)| seen.len() >= expected.len());
        Self { in_order, complete, exactly: in_order && expected.len() == seen.len() && complete }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opens(replies) if replies.is_empty() => f.write_str("101, open"),
            Self::Opens(replies) => write!(f, "101, {}, open", describe_replies(replies)),
            Self::Status(status, _) => write!(f, "{status}, end"),
            Self::StatusOrPage(status, _) => write!(f, "{status} or 200, end"),
            Self::StatusOrDrop => f.write_str("400 or end"),
            Self::Drop => f.write_str("end"),
        }
    }
}

impl Answer {
    /// `request`: what was sent.
    pub(super) fn judge(&self, request: &[u8], seen: &Seen) -> Outcome {
        match self {
            Self::Opens(replies) => match wrong_field(request, &seen.head) {
                Some(reason) => (Verdict::Wrong, format!("{seen}: {reason}")),
                None => End::Open.judge(replies, seen),
            },
            Self::StatusOrPage(..) if status(&seen.head) == Some(200) => refused(200, &[], seen),
            Self::Status(status, fields) | Self::StatusOrPage(status, fields) => {
                refused(*status, fields, seen)
            }
            Self::StatusOrDrop => match (status(&seen.head), seen.last) {
                (Some(400) | None, Last::Eof | Last::Reset) => (Verdict::Ok, seen.to_string()),
                (Some(101), _) | (None, _) => (Verdict::Lax, seen.to_string()),
                _ => (Verdict::Wrong, seen.to_string()),
            },
            Self::Drop => match (seen.head.is_empty(), seen.last) {
                (true, Last::Eof | Last::Reset) => (Verdict::Ok, seen.to_string()),
                (true, _) => (Verdict::Lax, seen.to_string()),
                _ => (Verdict::Wrong, seen.to_string()),
            },
        }
    }
}

/// Fields that a refusal with their status must have (RFC 9110 15.5.6, 15.5.22).
const OBLIGATORY: [&str; 2] = ["Allow", "Upgrade"];

/// Judges a refusal. RFC 6455 leaves the status to the server ("such as 400", 4.2.1), and HTTP lets
/// the connection stay open. So another refusal is lax, and so is one that lacks an optional field.
fn refused(wanted: u16, fields: &[(&str, &str)], seen: &Seen) -> Outcome {
    let verdict = match status(&seen.head) {
        None | Some(101) => Verdict::Lax,
        Some(status) if status != wanted && matches!(status, 400..=499 | 501 | 505) => Verdict::Lax,
        Some(status) if status != wanted => Verdict::Wrong,
        Some(_) => {
            let missing = |&(name, value): &(&str, &str)| !has(&seen.head, name, value);
            let absent: Vec<_> = fields.iter().copied().filter(missing).collect();
            let is_obligatory = |(name, _): &&(&str, &str)| OBLIGATORY.contains(name);
            if let Some((name, value)) = absent.iter().find(is_obligatory).or(absent.first()) {
                let verdict = if OBLIGATORY.contains(name) { Verdict::Wrong } else { Verdict::Lax };
                return (verdict, format!("{seen}: no {name}: {value}"));
            }
            if seen.last == Last::Eof { Verdict::Ok } else { Verdict::Lax }
        }
    };
    (verdict, seen.to_string())
}

fn status(head: &[u8]) -> Option<u16> {
    let digits = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The values of a field, in lower case.
fn values(head: &[u8], name: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let lines = text
        .split("\r\n")
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'));
    let name = name.to_ascii_lowercase();
    lines.filter(|(found, _)| *found == name).map(|(_, value)| value.trim().to_owned()).collect()
}

fn has(head: &[u8], name: &str, value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    values(head, name).iter().any(|found| found.split(',').any(|element| element.trim() == value))
}

/// Fault of a 101 (RFC 6455 4.2.2).
fn wrong_field(request: &[u8], head: &[u8]) -> Option<&'static str> {
    if status(head) != Some(101) {
        return Some("no 101");
    }
    if !has(head, "Upgrade", "websocket") || !has(head, "Connection", "upgrade") {
        return Some("Upgrade or Connection");
    }
    let accept = format!("sec-websocket-accept: {ACCEPT}");
    let exact = String::from_utf8_lossy(head);
    let sound = exact.split("\r\n").any(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            format!("{}: {}", name.to_ascii_lowercase(), value.trim()) == accept
        })
    });
    if !sound {
        return Some("Sec-WebSocket-Accept");
    }
    let request = String::from_utf8_lossy(request).to_ascii_lowercase();
    let unoffered = |name: &str| {
        values(head, name)
            .iter()
            .any(|chosen| !request.contains(chosen.split(';').next().unwrap_or_default()))
    };
    match (unoffered("Sec-WebSocket-Extensions"), unoffered("Sec-WebSocket-Protocol")) {
        (true, _) => Some("an extension that was not offered"),
        (_, true) => Some("a subprotocol that was not offered"),
        _ => None,
    }
}

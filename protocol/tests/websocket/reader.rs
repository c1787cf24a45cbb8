//! Reads a connection to its end in every way available to a caller: whole, cut anywhere, and with
//! each way to unmask.

use bytes::BytesMut;
use protocol::{
    Chunk, Connection, Event, Limits, MessageKind, ProtocolError, Role, server_header_len,
};

/// Events that a caller saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Message(MessageKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Error(ProtocolError),
    /// The bytes ended within a message, with this payload.
    Unfinished(MessageKind, Vec<u8>),
}

pub(crate) fn text(content: &str) -> Seen {
    Seen::Message(MessageKind::Text, content.into())
}

pub(crate) fn binary(content: &[u8]) -> Seen {
    Seen::Message(MessageKind::Binary, content.into())
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Unmasking {
    InPlace,
    Shift,
    Append,
}

/// Reads `pieces` one after the other.
pub(crate) fn read<'a>(
    role: Role,
    limits: &Limits,
    unmasking: Unmasking,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Seen> {
    let mut reader = Reader {
        connection: Connection::new(role),
        open: None,
        message: BytesMut::new(),
        seen: Vec::new(),
    };
    for piece in pieces {
        reader.read(limits, unmasking, &mut piece.to_vec());
    }
    reader.end()
}

struct Reader {
    connection: Connection,
    open: Option<MessageKind>,
    message: BytesMut,
    seen: Vec<Seen>,
}

impl Reader {
    fn read(&mut self, limits: &Limits, unmasking: Unmasking, input: &mut [u8]) {
        let mut at = 0;
        loop {
            let before = at;
            match self.connection.next(limits, input, &mut at) {
                Ok(Some(Event::Data(chunk))) => {
                    if let Err(error) = self.data(unmasking, chunk, input) {
                        self.fail(error, limits);
                    }
                }
                Ok(Some(Event::Ping(control))) => {
                    self.seen.push(Seen::Ping(control.payload().into()));
                }
                Ok(Some(Event::Pong(control))) => {
                    self.seen.push(Seen::Pong(control.payload().into()));
                }
                Ok(Some(Event::Close(close))) => {
                    assert!(self.connection.is_closed());
                    self.seen.push(Seen::Close(close.code(), close.reason().into()));
                }
                Ok(None) => {
                    assert_eq!(at, input.len(), "all of the input must be consumed");
                    return;
                }
                Err(error) => self.fail(error, limits),
            }
            assert!(before <= at && at <= input.len());
        }
    }

    fn data(
        &mut self,
        unmasking: Unmasking,
        chunk: Chunk,
        input: &mut [u8],
    ) -> Result<(), ProtocolError> {
        let Chunk { kind, first, last, ref payload, .. } = chunk;
        assert_eq!(first, self.open.is_none(), "first is said once for each message");
        if chunk.is_whole() {
            assert!(first && last);
            assert!(
                payload.start >= server_header_len(payload.len() as u64),
                "no room for the echo's header"
            );
        }
        self.open = Some(kind);
        let start = payload.start;
        match unmasking {
            Unmasking::Append => self.connection.unmask_append(chunk, input, &mut self.message)?,
            Unmasking::InPlace => {
                let range = self.connection.unmask_in_place(chunk, input)?;
                self.message.extend_from_slice(&input[range]);
            }
            Unmasking::Shift => {
                let to = start.saturating_sub(start % 9);
                let range = self.connection.unmask_shift(chunk, input, to)?;
                assert_eq!(range.start, to);
                self.message.extend_from_slice(&input[range]);
            }
        }
        if last {
            self.open = None;
            self.seen.push(Seen::Message(kind, self.message.split().into()));
        }
        Ok(())
    }

    fn fail(&mut self, error: ProtocolError, limits: &Limits) {
        assert!(self.connection.is_closed());
        assert!(!self.connection.is_between_messages());
        self.seen.push(Seen::Error(error));
        let (mut more, mut at) = ([0x81, 0x80, 0, 0, 0, 0], 0);
        assert!(matches!(self.connection.next(limits, &mut more, &mut at), Ok(None)));
        assert_eq!(at, more.len(), "what follows an error is swallowed");
    }

    fn end(mut self) -> Vec<Seen> {
        if let Some(kind) = self.open.filter(|_| !self.connection.is_closed()) {
            self.seen.push(Seen::Unfinished(kind, self.message.into()));
        }
        self.seen
    }
}

/// Reads `bytes` whole, byte by byte and cut in two everywhere, and requires the same result of
/// all.
pub(crate) fn read_every_way(role: Role, limits: &Limits, bytes: &[u8]) -> Vec<Seen> {
    let whole = read(role, limits, Unmasking::Append, [bytes]);
    for unmasking in [Unmasking::InPlace, Unmasking::Shift, Unmasking::Append] {
        let same = |how: &str, seen: Vec<Seen>| {
            assert_eq!(seen, whole, "{how}, {unmasking:?}: {}", bytes.escape_ascii());
        };
        same("whole", read(role, limits, unmasking, [bytes]));
        same("byte by byte", read(role, limits, unmasking, bytes.chunks(1)));
        for cut in (0..=bytes.len()).step_by(bytes.len().div_ceil(300).max(1)) {
            same("in two", read(role, limits, unmasking, [&bytes[..cut], &bytes[cut..]]));
        }
    }
    whole
}

/// Does [`read_every_way`] as a server with the default limits.
pub(crate) fn server_reads(bytes: &[u8]) -> Vec<Seen> {
    read_every_way(Role::Server, &Limits::default(), bytes)
}

/// Does [`read_every_way`] as a client with the default limits.
pub(crate) fn client_reads(bytes: &[u8]) -> Vec<Seen> {
    read_every_way(Role::Client, &Limits::default(), bytes)
}

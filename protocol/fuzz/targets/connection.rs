//! An open WebSocket in both roles reads any bytes, cut as the input chooses, in each way to
//! unmask.

use std::ops::Range;

use bytes::BytesMut;
use protocol::{
    Chunk, Close, Connection, Event, Header, Limits, MaskingKey, MessageKind, Opcode,
    ProtocolError, Role, encode_control, mask, server_header_len,
};

use super::input::Input;
use super::model;

/// Options 0: role; 1 and 2: way to unmask; 3 and 4: limits.
pub fn target(data: &[u8]) {
    let input = Input::parse(data);
    let role = if input.option(0) { Role::Client } else { Role::Server };
    let unmasking = match input.options >> 1 & 3 {
        0 => Unmasking::InPlace,
        1 => Unmasking::Shift,
        _ => Unmasking::Append,
    };
    let limits = match input.options >> 3 & 3 {
        0 => Limits::default(),
        1 => Limits { max_message: 20, max_fragments: 3 },
        2 => Limits { max_message: u64::MAX, max_fragments: u32::MAX },
        _ => Limits { max_message: 0, max_fragments: 0 },
    };
    let way = Way { role, limits, unmasking };
    let whole = 0..input.bytes.len();
    let bytes: Vec<Range<usize>> = whole.clone().map(|at| at..at + 1).collect();
    let by_byte = way.read(input.bytes, &bytes);
    assert_eq!(by_byte.seen, model::expected(role, limits, input.bytes), "as RFC 6455 has it");
    way.same(input.bytes, &by_byte, &input.pieces());
    way.same(input.bytes, &by_byte, &[whole]);
    way.again(&by_byte);
}

/// Events that a caller saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A complete message.
    Message(MessageKind, Vec<u8>),
    /// A ping's payload.
    Ping(Vec<u8>),
    /// A pong's payload.
    Pong(Vec<u8>),
    /// A valid Close's payload.
    Close(Vec<u8>),
    /// A broken rule.
    Error(ProtocolError),
}

#[derive(Clone, Copy, Debug)]
enum Unmasking {
    InPlace,
    Shift,
    Append,
}

/// Events, each with the number of bytes fed until then, and the payload of an unfinished message.
#[derive(Debug)]
struct Conversation {
    seen: Vec<(usize, Seen)>,
    unfinished: Vec<u8>,
}

/// A way to read.
#[derive(Clone, Copy)]
struct Way {
    role: Role,
    limits: Limits,
    unmasking: Unmasking,
}

impl Way {
    fn read(self, bytes: &[u8], pieces: &[Range<usize>]) -> Conversation {
        let mut reader = Reader::new(self);
        for piece in pieces {
            reader.read(&mut bytes[piece.clone()].to_vec());
        }
        Conversation { seen: reader.seen, unfinished: reader.message.into() }
    }

    /// Checks that each event comes with the piece that has its deciding byte: not later, and it
    /// cannot come earlier.
    fn same(self, bytes: &[u8], by_byte: &Conversation, pieces: &[Range<usize>]) {
        let in_pieces = self.read(bytes, pieces);
        let end_of_piece =
            |decided: usize| pieces.iter().map(|piece| piece.end).find(|&end| end >= decided);
        assert_eq!(in_pieces.seen.len(), by_byte.seen.len(), "{in_pieces:?} {by_byte:?}");
        for ((end, same), (decided, seen)) in in_pieces.seen.iter().zip(&by_byte.seen) {
            assert_eq!(same, seen, "cut into {pieces:?}");
            assert_eq!(
                Some(*end),
                end_of_piece(*decided),
                "{seen:?} of byte {decided} cut into {pieces:?}"
            );
        }
        // After an error the message holds what was examined, which depends on the cuts.
        if !matches!(by_byte.seen.last(), Some((_, Seen::Error(_)))) {
            assert_eq!(in_pieces.unfinished, by_byte.unfinished);
        }
    }

    /// Checks that frames written from the events are read as the same events.
    fn again(self, conversation: &Conversation) {
        let valid = |seen: &Seen| !matches!(seen, Seen::Error(_));
        let seen: Vec<Seen> =
            conversation.seen.iter().map(|(_, seen)| seen.clone()).filter(valid).collect();
        let key =
            self.role.reads_masked().then(|| MaskingKey::from_bytes([0x37, 0xfa, 0x21, 0x3d]));
        let frames: Vec<u8> = seen.iter().flat_map(|seen| encode(seen, key)).collect();
        let whole = 0..frames.len();
        let again = self.read(&frames, &[whole]);
        let again: Vec<Seen> = again.seen.into_iter().map(|(_, seen)| seen).collect();
        assert_eq!(again, seen);
    }
}

/// Returns one frame that means this event.
fn encode(seen: &Seen, key: Option<MaskingKey>) -> Vec<u8> {
    let control = |opcode, payload: &[u8]| {
        let mut frame = [0; protocol::frame::MAX_CONTROL_LEN];
        let len = encode_control(opcode, payload, key, &mut frame);
        frame[..len].to_vec()
    };
    match seen {
        Seen::Ping(payload) => control(Opcode::Ping, payload),
        Seen::Pong(payload) => control(Opcode::Pong, payload),
        Seen::Close(payload) => control(Opcode::Close, payload),
        Seen::Error(error) => panic!("{error} is not a frame"),
        Seen::Message(kind, payload) => {
            let payload_len = payload.len() as u64;
            let header =
                Header { fin: true, rsv: 0, opcode: kind.opcode(), mask: key, payload_len };
            let mut bytes = [0; Header::MAX_LEN];
            let len = header.encode(&mut bytes);
            let mut frame = [&bytes[..len], payload].concat();
            mask::in_place(&mut frame[len..], key.unwrap_or(MaskingKey::from_bytes([0; 4])));
            frame
        }
    }
}

struct Reader {
    way: Way,
    connection: Connection,
    /// Kind of the unfinished message.
    open: Option<MessageKind>,
    message: BytesMut,
    fed: usize,
    seen: Vec<(usize, Seen)>,
}

impl Reader {
    fn new(way: Way) -> Self {
        let connection = Connection::new(way.role);
        Reader { way, connection, open: None, message: BytesMut::new(), fed: 0, seen: Vec::new() }
    }

    fn read(&mut self, input: &mut [u8]) {
        self.fed += input.len();
        let mut at = 0;
        loop {
            let (before, was_closed) = (at, self.connection.is_closed());
            let next = self.connection.next(&self.way.limits, input, &mut at);
            assert!(before <= at && at <= input.len());
            match next {
                Ok(None) => break assert_eq!(at, input.len(), "all of the input is consumed"),
                Ok(Some(event)) => {
                    assert!(!was_closed, "{event:?} after the end");
                    // Each event consumes bytes, so their number bounds that of the events.
                    assert!(before < at, "{event:?} from nothing");
                    if let Err(error) = self.event(event, input) {
                        self.fail(error);
                    }
                }
                Err(error) => {
                    assert!(!was_closed, "{error} after the end");
                    self.fail(error);
                }
            }
        }
        self.check_memory();
    }

    /// Checks that memory is bounded by the bytes that have arrived, whatever the headers declared.
    fn check_memory(&self) {
        assert!(self.message.len() <= self.fed);
        assert!(self.message.capacity() <= 2 * self.fed + 64, "{} bytes", self.message.capacity());
    }

    fn event(&mut self, event: Event, input: &mut [u8]) -> Result<(), ProtocolError> {
        let seen = match event {
            Event::Data(chunk) => return self.data(chunk, input),
            Event::Ping(ping) => Seen::Ping(ping.payload().into()),
            Event::Pong(pong) => Seen::Pong(pong.payload().into()),
            Event::Close(close) => self.close(&close),
        };
        self.seen.push((self.fed, seen));
        Ok(())
    }

    fn close(&self, close: &Close) -> Seen {
        assert!(self.connection.is_closed());
        assert!(close.code().is_none_or(protocol::close::is_sendable));
        assert_eq!(close.reason().as_bytes(), close.payload().get(2..).unwrap_or_default());
        Seen::Close(close.payload().into())
    }

    fn data(&mut self, chunk: Chunk, input: &mut [u8]) -> Result<(), ProtocolError> {
        let Chunk { kind, first, last, ref payload, .. } = chunk;
        assert_eq!(first, self.open.is_none(), "first is said once for each message");
        assert!(self.open.is_none_or(|open| open == kind));
        if chunk.is_whole() {
            assert!(first && last && payload.start >= server_header_len(payload.len() as u64));
        }
        self.open = Some(kind);
        self.unmask(chunk, input)?;
        if last {
            self.open = None;
            let message: Vec<u8> = std::mem::take(&mut self.message).into();
            assert!(kind == MessageKind::Binary || std::str::from_utf8(&message).is_ok());
            assert!(message.len() as u64 <= self.way.limits.max_message);
            self.seen.push((self.fed, Seen::Message(kind, message)));
        }
        Ok(())
    }

    fn unmask(&mut self, chunk: Chunk, input: &mut [u8]) -> Result<(), ProtocolError> {
        let start = chunk.payload.start;
        let range = match self.way.unmasking {
            Unmasking::Append => {
                return self.connection.unmask_append(chunk, input, &mut self.message);
            }
            Unmasking::InPlace => self.connection.unmask_in_place(chunk, input)?,
            Unmasking::Shift => self.connection.unmask_shift(chunk, input, start - start % 9)?,
        };
        self.message.extend_from_slice(&input[range]);
        Ok(())
    }

    fn fail(&mut self, error: ProtocolError) {
        assert!(self.connection.is_closed() && !self.connection.is_between_messages());
        assert!(protocol::close::is_sendable(error.close_code()));
        assert!(!error.rule().is_empty() && !error.section().is_empty());
        self.seen.push((self.fed, Seen::Error(error)));
    }
}

//! One end of a connection, for tests: reads into memory, answers pings and closes, sends messages
//! on request.

use bytes::BytesMut;
use protocol::{
    Connection, Event, Header, Limits, MaskingKey, MessageKind, Opcode, Role, encode_control,
};

pub(crate) struct End {
    pub(crate) connection: Connection,
    message: BytesMut,
    pub(crate) received: Vec<(MessageKind, Vec<u8>)>,
    pub(crate) pongs: Vec<Vec<u8>>,
    pub(crate) closed: Option<Option<u16>>,
}

impl End {
    pub(crate) fn new(role: Role) -> Self {
        let connection = Connection::new(role);
        End { connection, message: BytesMut::new(), received: vec![], pongs: vec![], closed: None }
    }

    pub(crate) fn read(&mut self, input: &mut [u8], out: &mut Vec<u8>) {
        let mut at = 0;
        while let Some(event) = self.connection.next(&Limits::default(), input, &mut at).unwrap() {
            match event {
                Event::Data(chunk) => {
                    let (kind, last) = (chunk.kind, chunk.last);
                    self.connection.unmask_append(chunk, input, &mut self.message).unwrap();
                    if last {
                        self.received.push((kind, self.message.split().into()));
                    }
                }
                Event::Ping(ping) => self.control(Opcode::Pong, ping.payload(), out),
                Event::Pong(pong) => self.pongs.push(pong.payload().into()),
                Event::Close(close) => {
                    self.closed = Some(close.code());
                    self.control(Opcode::Close, close.payload(), out);
                }
            }
        }
    }

    pub(crate) fn control(&self, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
        let mut frame = [0; 131];
        let len = encode_control(opcode, payload, self.key(), &mut frame);
        out.extend_from_slice(&frame[..len]);
    }

    /// Sends a message in frames of at most `fragment` bytes.
    pub(crate) fn send(
        &self,
        kind: MessageKind,
        payload: &[u8],
        fragment: usize,
        out: &mut Vec<u8>,
    ) {
        let mut parts: Vec<&[u8]> = payload.chunks(fragment).collect();
        if parts.is_empty() {
            parts.push(b"");
        }
        for (i, part) in parts.iter().enumerate() {
            let opcode = if i == 0 { kind.opcode() } else { Opcode::Continuation };
            let header = Header {
                fin: i + 1 == parts.len(),
                rsv: 0,
                opcode,
                mask: self.key(),
                payload_len: part.len() as u64,
            };
            let mut bytes = [0; Header::MAX_LEN];
            let len = header.encode(&mut bytes);
            out.extend_from_slice(&bytes[..len]);
            let start = out.len();
            out.extend_from_slice(part);
            if let Some(key) = self.key() {
                protocol::mask::in_place(&mut out[start..], key);
            }
        }
    }

    pub(crate) fn key(&self) -> Option<MaskingKey> {
        let key = MaskingKey::from_bytes([9, 8, 7, 6]);
        (self.connection.role() == Role::Client).then_some(key)
    }
}

/// Moves bytes in pieces of `piece` bytes until neither end has more to send.
pub(crate) fn carry(client: &mut End, server: &mut End, mut to_server: Vec<u8>, piece: usize) {
    while !to_server.is_empty() {
        let mut to_client = Vec::new();
        for part in to_server.chunks_mut(piece) {
            server.read(part, &mut to_client);
        }
        to_server.clear();
        for part in to_client.chunks_mut(piece) {
            client.read(part, &mut to_server);
        }
    }
}

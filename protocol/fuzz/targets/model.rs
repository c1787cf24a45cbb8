//! An open WebSocket as RFC 6455 5 describes it, byte by byte and without regard to speed: the
//! oracle of the connection.

use protocol::{Limits, MessageKind, ProtocolError, Role};

use super::close;
use super::connection::Seen;

/// Returns the events of these bytes, each with the number of bytes that decide it.
pub fn expected(role: Role, limits: Limits, bytes: &[u8]) -> Vec<(usize, Seen)> {
    let mut model = Model { role, limits, bytes, at: 0, open: None, seen: Vec::new() };
    loop {
        match model.frame() {
            Ok(()) => {}
            Err(Stop::Ended) => return model.seen,
            Err(Stop::Fault(error)) => {
                model.see(Seen::Error(error));
                return model.seen;
            }
        }
    }
}

/// Reason for reading no further frame.
enum Stop {
    /// The bytes have ended, or a Close was read.
    Ended,
    Fault(ProtocolError),
}

struct Model<'a> {
    role: Role,
    limits: Limits,
    bytes: &'a [u8],
    at: usize,
    open: Option<Open>,
    seen: Vec<(usize, Seen)>,
}

/// The unfinished message.
struct Open {
    kind: MessageKind,
    payload: Vec<u8>,
    /// Length of the payload's complete characters.
    valid: usize,
    declared: u128,
    fragments: u64,
}

impl Open {
    fn new(kind: MessageKind) -> Self {
        Open { kind, payload: Vec::new(), valid: 0, declared: 0, fragments: 0 }
    }

    fn push(&mut self, byte: u8) -> Result<(), Stop> {
        self.payload.push(byte);
        if self.kind == MessageKind::Binary {
            return Ok(());
        }
        match std::str::from_utf8(&self.payload[self.valid..]) {
            Ok(_) => self.valid = self.payload.len(),
            Err(error) => fault_if(error.error_len().is_some(), ProtocolError::InvalidUtf8)?,
        }
        Ok(())
    }

    fn ends_inside_a_character(&self) -> bool {
        self.kind == MessageKind::Text && self.valid < self.payload.len()
    }
}

fn fault_if(condition: bool, error: ProtocolError) -> Result<(), Stop> {
    if condition { Err(Stop::Fault(error)) } else { Ok(()) }
}

impl Model<'_> {
    fn see(&mut self, seen: Seen) {
        self.seen.push((self.at, seen));
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        let &byte = self.bytes.get(self.at).ok_or(Stop::Ended)?;
        self.at += 1;
        Ok(byte)
    }

    fn frame(&mut self) -> Result<(), Stop> {
        let first = self.byte()?;
        let (fin, rsv, opcode) = (first >> 7 == 1, first >> 4 & 7, first & 15);
        fault_if(rsv != 0, ProtocolError::ReservedBits { rsv })?;
        fault_if(matches!(opcode, 3..=7 | 11..), ProtocolError::ReservedOpcode { opcode })?;
        if opcode >= 8 {
            fault_if(!fin, ProtocolError::FragmentedControl)?;
            return self.control(opcode);
        }
        self.begin(opcode, fin)?;
        let payload_len = self.payload_len(opcode)?;
        self.data(payload_len, fin)
    }

    fn begin(&mut self, opcode: u8, fin: bool) -> Result<(), Stop> {
        match opcode {
            0 => fault_if(self.open.is_none(), ProtocolError::ContinuationWithoutStart)?,
            _ => fault_if(self.open.is_some(), ProtocolError::InterleavedMessage)?,
        }
        let kind = if opcode == 1 { MessageKind::Text } else { MessageKind::Binary };
        let open = self.open.get_or_insert_with(|| Open::new(kind));
        open.fragments += 1;
        let max = self.limits.max_fragments;
        let is_fragment = opcode == 0 || !fin;
        fault_if(
            is_fragment && open.fragments > max.into(),
            ProtocolError::TooManyFragments { max },
        )
    }

    /// Reads the second byte and the length, and checks them.
    fn payload_len(&mut self, opcode: u8) -> Result<u64, Stop> {
        let second = self.byte()?;
        match self.role {
            Role::Server => fault_if(second < 0x80, ProtocolError::UnmaskedFrame)?,
            Role::Client => fault_if(second >= 0x80, ProtocolError::MaskedFrame)?,
        }
        let short = second & 0x7f;
        fault_if(opcode >= 8 && short > 125, ProtocolError::OversizedControl)?;
        let (bytes, shortest) = match short {
            126 => (2, 126),
            127 => (8, 0x1_0000),
            _ => (0, 0),
        };
        let mut payload_len = if bytes == 0 { u64::from(short) } else { 0 };
        for place in 0..bytes {
            let byte = self.byte()?;
            fault_if(bytes == 8 && place == 0 && byte >= 0x80, ProtocolError::LengthTopBit)?;
            payload_len = payload_len << 8 | u64::from(byte);
        }
        fault_if(payload_len < shortest, ProtocolError::NonMinimalLength { payload_len })?;
        Ok(payload_len)
    }

    /// Reads the masking key; returns zeros for an unmasked frame.
    fn key(&mut self) -> Result<[u8; 4], Stop> {
        let mut key = [0; 4];
        if self.role == Role::Server {
            for byte in &mut key {
                *byte = self.byte()?;
            }
        }
        Ok(key)
    }

    fn data(&mut self, payload_len: u64, fin: bool) -> Result<(), Stop> {
        let max = self.limits.max_message;
        let declared = self.open.as_mut().map_or(0, |open| {
            open.declared += u128::from(payload_len);
            open.declared
        });
        fault_if(declared > max.into(), ProtocolError::MessageTooBig { max })?;
        let key = self.key()?;
        for key in key.into_iter().cycle().take(usize::try_from(payload_len).unwrap_or(usize::MAX))
        {
            let byte = self.byte()? ^ key;
            self.open.as_mut().map_or(Ok(()), |open| open.push(byte))?;
        }
        match self.open.take_if(|_| fin) {
            None => Ok(()),
            Some(open) => {
                fault_if(open.ends_inside_a_character(), ProtocolError::InvalidUtf8)?;
                self.see(Seen::Message(open.kind, open.payload));
                Ok(())
            }
        }
    }

    fn control(&mut self, opcode: u8) -> Result<(), Stop> {
        let payload_len = self.payload_len(opcode)?;
        let key = self.key()?;
        let mut payload = Vec::new();
        for key in key.into_iter().cycle().take(payload_len as usize) {
            payload.push(self.byte()? ^ key);
        }
        match opcode {
            9 => self.see(Seen::Ping(payload)),
            10 => self.see(Seen::Pong(payload)),
            _ => {
                close::expected(&payload).map_err(Stop::Fault)?;
                self.see(Seen::Close(payload));
                return Err(Stop::Ended);
            }
        }
        Ok(())
    }
}

//! Frame opcodes and the kinds of messages (RFC 6455 5.2).

/// Purpose of a frame: the low four bits of its first byte (RFC 6455 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of the open message.
    Continuation = 0,
    /// The first, or only, fragment of a text message.
    Text = 1,
    /// The first, or only, fragment of a binary message.
    Binary = 2,
    /// The closing handshake (RFC 6455 5.5.1).
    Close = 8,
    /// A ping (RFC 6455 5.5.2).
    Ping = 9,
    /// A pong (RFC 6455 5.5.3).
    Pong = 10,
}

impl Opcode {
    /// Returns the opcode with this number, or `None` for the reserved ones (3 to 7 and 11 to 15)
    /// and above 15.
    #[inline]
    pub fn from_u4(number: u8) -> Option<Opcode> {
        Some(match number {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    /// Returns whether this is a control frame: never fragmented, at most 125 bytes (RFC 6455 5.5).
    #[inline]
    pub fn is_control(self) -> bool {
        self as u8 & 8 != 0
    }
}

/// Kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

impl MessageKind {
    /// Opcode of the message's first frame.
    #[inline]
    pub fn opcode(self) -> Opcode {
        match self {
            MessageKind::Text => Opcode::Text,
            MessageKind::Binary => Opcode::Binary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_u4_inverts_the_number_and_accepts_no_other() {
        let known: Vec<u8> = (0..=255).filter(|&n| Opcode::from_u4(n).is_some()).collect();
        assert_eq!(known, [0, 1, 2, 8, 9, 10]);
        for number in known {
            assert_eq!(Opcode::from_u4(number).unwrap() as u8, number);
        }
    }

    #[test]
    fn control_opcodes_are_close_ping_and_pong() {
        let control: Vec<u8> =
            (0..16).filter(|&n| Opcode::from_u4(n).is_some_and(Opcode::is_control)).collect();
        assert_eq!(control, [8, 9, 10]);
    }
}

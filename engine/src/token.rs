//! Token of an operation: the 64 bits of user data that its completion carries.
//!
//! ```text
//! 63        56 55                      32 31                       0
//! +-----------+--------------------------+-------------------------+
//! | operation |   generation (24 bits)   |          slot           |
//! +-----------+--------------------------+-------------------------+
//! ```
//!
//! The generation identifies a stale completion: it is that of the connection which had the slot
//! when the operation was submitted. 24 bits suffice, because a slot is reused only after all of
//! its operations have ended.

/// Kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum OpKind {
    Accept = 1,
    Connect,
    Receive,
    Send,
    Backlog,
    Shutdown,
    Cancel,
    Close,
    Wake,
    Watch,
    PeerAddress,
    /// Handing an accepted connection over to another worker.
    HandOver,
    /// A connection that another worker has handed over. The slot of its token is the listener.
    TakeOver,
}

impl OpKind {
    fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [OpKind; 13] = [
            OpKind::Accept,
            OpKind::Connect,
            OpKind::Receive,
            OpKind::Send,
            OpKind::Backlog,
            OpKind::Shutdown,
            OpKind::Cancel,
            OpKind::Close,
            OpKind::Wake,
            OpKind::Watch,
            OpKind::PeerAddress,
            OpKind::HandOver,
            OpKind::TakeOver,
        ];
        ALL.get(usize::from(byte).wrapping_sub(1)).copied()
    }
}

/// Kind of operation, generation and slot in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(u64);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind() {
            Some(kind) => write!(f, "{kind:?} {}.{}", self.slot(), self.generation()),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// Bits of a generation that are compared.
pub(crate) const GENERATION_MASK: u32 = (1 << 24) - 1;

impl Token {
    pub(crate) fn new(kind: OpKind, slot: u32, generation: u32) -> Self {
        Self(
            ((kind as u64) << 56)
                | (u64::from(generation & GENERATION_MASK) << 32)
                | u64::from(slot),
        )
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Kind of the operation. `None` for a word that is not a token.
    pub(crate) fn kind(self) -> Option<OpKind> {
        OpKind::from_byte((self.0 >> 56) as u8)
    }

    pub(crate) fn slot(self) -> u32 {
        self.0 as u32
    }

    pub(crate) fn generation(self) -> u32 {
        ((self.0 >> 32) as u32) & GENERATION_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let kinds = [OpKind::Accept, OpKind::Receive, OpKind::Backlog, OpKind::Wake];
        for kind in kinds {
            for (slot, generation) in [(0, 0), (u32::MAX, GENERATION_MASK), (7, 0x1234_5678)] {
                let token = Token::from_bits(Token::new(kind, slot, generation).bits());
                assert_eq!(token.kind(), Some(kind));
                assert_eq!(token.slot(), slot);
                assert_eq!(token.generation(), generation & GENERATION_MASK);
            }
        }
        assert_eq!(Token::from_bits(0).kind(), None);
        assert_eq!(Token::from_bits(u64::MAX).kind(), None);
    }
}

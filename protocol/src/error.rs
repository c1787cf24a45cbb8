//! Errors in the frames that a peer sends, and the close codes that answer them.

use thiserror::Error;

/// Ending of a noun after this number.
fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// A rule of RFC 6455 that the peer broke, or a limit of this end that it exceeded.
///
/// Each has the close code to answer with, the rule's name for logs and counters, and the section.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProtocolError {
    /// A reserved bit is set and no extension gave it a meaning.
    #[error("reserved bits {rsv:03b} are set, but no extension gives them a meaning here")]
    ReservedBits {
        /// The three bits, RSV1 = 4.
        rsv: u8,
    },
    /// Opcodes 3 to 7 and 11 to 15 have no meaning yet.
    #[error("opcode {opcode} is reserved")]
    ReservedOpcode {
        /// Number in the frame.
        opcode: u8,
    },
    /// A length that fits a shorter form is written in a longer one.
    #[error("payload length {payload_len} is not written in its shortest form")]
    NonMinimalLength {
        /// Length in the frame; of a 64-bit length the bytes that were read to decide.
        payload_len: u64,
    },
    /// The top bit of a 64-bit length is set.
    #[error("the top bit of a 64-bit payload length is set")]
    LengthTopBit,
    /// A client sent a frame without a masking key.
    #[error("a client's frame is not masked")]
    UnmaskedFrame,
    /// A server sent a frame with a masking key.
    #[error("a server's frame is masked")]
    MaskedFrame,
    /// A control frame without FIN.
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    #[error("a control frame is longer than 125 bytes")]
    OversizedControl,
    /// A continuation frame, but no message is open.
    #[error("a continuation frame, but no message is open")]
    ContinuationWithoutStart,
    /// A text or binary frame, but the message before it has not ended.
    #[error("a new message starts before the last fragment of the one before it")]
    InterleavedMessage,
    /// A frame, or the sum of the fragments so far, exceeds the limit.
    #[error("the message is longer than {max} byte{}", plural(*max))]
    MessageTooBig {
        /// [`Limits::max_message`](crate::Limits::max_message).
        max: u64,
    },
    /// A message has more fragments than the limit.
    #[error("the message has more than {max} fragment{}", plural(u64::from(*max)))]
    TooManyFragments {
        /// [`Limits::max_fragments`](crate::Limits::max_fragments).
        max: u32,
    },
    /// A text message is not UTF-8.
    #[error("a text message is not valid UTF-8")]
    InvalidUtf8,
    /// A compressed message is not DEFLATE data, or ends inside a block (RFC 7692 7.2.2).
    #[error("a compressed message is not valid DEFLATE data")]
    InvalidDeflate,
    /// A Close payload of one byte, half a code.
    #[error("a Close payload of one byte cannot hold a close code")]
    TruncatedCloseCode,
    /// A close code that must not be sent.
    #[error("close code {code} must not appear in a Close frame")]
    ForbiddenCloseCode {
        /// Code in the frame.
        code: u16,
    },
    /// The reason in a Close frame is not UTF-8.
    #[error("the reason in a Close frame is not valid UTF-8")]
    InvalidCloseReason,
}

impl ProtocolError {
    /// The close code that answers this fault (RFC 6455 7.4.1).
    pub fn close_code(&self) -> u16 {
        use crate::close::{INVALID_PAYLOAD, POLICY_VIOLATION, PROTOCOL_ERROR, TOO_BIG};
        match self {
            ProtocolError::MessageTooBig { .. } => TOO_BIG,
            ProtocolError::TooManyFragments { .. } => POLICY_VIOLATION,
            ProtocolError::InvalidUtf8
            | ProtocolError::InvalidDeflate
            | ProtocolError::InvalidCloseReason => INVALID_PAYLOAD,
            _ => PROTOCOL_ERROR,
        }
    }

    /// A short stable name for logs and counters.
    pub fn rule(&self) -> &'static str {
        match self {
            ProtocolError::ReservedBits { .. } => "reserved-bits",
            ProtocolError::ReservedOpcode { .. } => "reserved-opcode",
            ProtocolError::NonMinimalLength { .. } => "non-minimal-length",
            ProtocolError::LengthTopBit => "length-top-bit",
            ProtocolError::UnmaskedFrame => "unmasked-frame",
            ProtocolError::MaskedFrame => "masked-frame",
            ProtocolError::FragmentedControl => "fragmented-control",
            ProtocolError::OversizedControl => "oversized-control",
            ProtocolError::ContinuationWithoutStart => "continuation-without-start",
            ProtocolError::InterleavedMessage => "interleaved-message",
            ProtocolError::MessageTooBig { .. } => "message-too-big",
            ProtocolError::TooManyFragments { .. } => "too-many-fragments",
            ProtocolError::InvalidUtf8 => "invalid-utf8",
            ProtocolError::InvalidDeflate => "invalid-deflate",
            ProtocolError::TruncatedCloseCode => "truncated-close-code",
            ProtocolError::ForbiddenCloseCode { .. } => "forbidden-close-code",
            ProtocolError::InvalidCloseReason => "invalid-close-reason",
        }
    }

    /// The RFC and its section that state the rule.
    pub fn section(&self) -> &'static str {
        match self {
            ProtocolError::UnmaskedFrame | ProtocolError::MaskedFrame => "RFC 6455 5.1",
            ProtocolError::ReservedBits { .. }
            | ProtocolError::ReservedOpcode { .. }
            | ProtocolError::NonMinimalLength { .. }
            | ProtocolError::LengthTopBit => "RFC 6455 5.2",
            ProtocolError::ContinuationWithoutStart | ProtocolError::InterleavedMessage => {
                "RFC 6455 5.4"
            }
            ProtocolError::FragmentedControl | ProtocolError::OversizedControl => "RFC 6455 5.5",
            ProtocolError::TruncatedCloseCode | ProtocolError::InvalidCloseReason => {
                "RFC 6455 5.5.1"
            }
            ProtocolError::ForbiddenCloseCode { .. } => "RFC 6455 7.4",
            ProtocolError::InvalidUtf8 => "RFC 6455 8.1",
            ProtocolError::InvalidDeflate => "RFC 7692 7.2.2",
            ProtocolError::MessageTooBig { .. } | ProtocolError::TooManyFragments { .. } => {
                "RFC 6455 10.4"
            }
        }
    }
}

//! The payload of a Close frame: code and reason (RFC 6455 5.5.1, 7.4).

use crate::error::ProtocolError;
use crate::message::Control;

/// 1000: the connection has fulfilled its purpose.
pub const NORMAL: u16 = 1000;
/// 1001: the server is going down, or the user left the page.
pub const GOING_AWAY: u16 = 1001;
/// 1002: the peer broke the protocol.
pub const PROTOCOL_ERROR: u16 = 1002;
/// 1003: a kind of data that the endpoint cannot accept.
pub const UNSUPPORTED: u16 = 1003;
/// 1007: the content does not fit the kind of the message, such as text that is not UTF-8.
pub const INVALID_PAYLOAD: u16 = 1007;
/// 1008: a violated policy.
pub const POLICY_VIOLATION: u16 = 1008;
/// 1009: a message too big to process.
pub const TOO_BIG: u16 = 1009;
/// 1011: an unexpected condition at this end.
pub const INTERNAL_ERROR: u16 = 1011;
/// 1013: overloaded, retry later (IANA registry).
pub const TRY_AGAIN_LATER: u16 = 1013;

/// Returns whether `code` may stand in a Close frame: 1000 to 1003 and 1007 to 1014 (RFC 6455 7.4.1
/// and the IANA registry), and 3000 to 4999 for libraries and applications (7.4.2).
pub fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// A valid Close frame's payload, held inline.
#[derive(Clone, Debug)]
pub struct Close {
    control: Control,
}

impl Close {
    /// Checks a Close payload: empty, or a code and a UTF-8 reason (RFC 6455 5.5.1).
    pub(crate) fn parse(control: Control) -> Result<Close, ProtocolError> {
        match *control.payload() {
            [] => {}
            [_] => return Err(ProtocolError::TruncatedCloseCode),
            [high, low, ref reason @ ..] => {
                let code = u16::from_be_bytes([high, low]);
                if !is_sendable(code) {
                    return Err(ProtocolError::ForbiddenCloseCode { code });
                }
                std::str::from_utf8(reason).map_err(|_| ProtocolError::InvalidCloseReason)?;
            }
        }
        Ok(Close { control })
    }

    /// The close code, `None` when the frame was empty.
    pub fn code(&self) -> Option<u16> {
        self.payload().first_chunk().map(|&code| u16::from_be_bytes(code))
    }

    /// The reason, empty if the frame has none.
    pub fn reason(&self) -> &str {
        let reason = self.payload().get(2..).unwrap_or_default();
        std::str::from_utf8(reason).expect("checked when the frame was read")
    }

    /// The whole payload, which the answer to this Close repeats.
    pub fn payload(&self) -> &[u8] {
        self.control.payload()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(payload: &[u8]) -> Result<Close, ProtocolError> {
        Close::parse(Control::new(payload))
    }

    #[test]
    fn empty_close_has_neither_code_nor_reason() {
        let close = parse(b"").unwrap();
        assert_eq!((close.code(), close.reason(), close.payload()), (None, "", &b""[..]));
    }

    #[test]
    fn close_has_code_and_reason() {
        let close = parse(b"\x03\xe8bye").unwrap();
        assert_eq!((close.code(), close.reason()), (Some(NORMAL), "bye"));
        assert_eq!(close.payload(), b"\x03\xe8bye");
    }

    #[test]
    fn rejects_close_of_one_byte() {
        assert_eq!(parse(b"\x03").unwrap_err(), ProtocolError::TruncatedCloseCode);
    }

    #[test]
    fn every_close_code_is_accepted_or_rejected_as_listed() {
        for code in 0..=u16::MAX {
            let allowed =
                [1000..=1003, 1007..=1014, 3000..=4999].iter().any(|range| range.contains(&code));
            let parsed = parse(&code.to_be_bytes());
            match parsed {
                Ok(close) => assert!(allowed && close.code() == Some(code), "{code}"),
                Err(error) => {
                    assert!(!allowed, "{code}");
                    assert_eq!(error, ProtocolError::ForbiddenCloseCode { code });
                    assert_eq!(error.close_code(), PROTOCOL_ERROR);
                }
            }
        }
    }

    #[test]
    fn rejects_close_reason_that_is_not_utf8() {
        let error = parse(b"\x03\xe8\xff").unwrap_err();
        assert_eq!(
            (error, error.close_code()),
            (ProtocolError::InvalidCloseReason, INVALID_PAYLOAD)
        );
    }
}

//! The payload of a Close frame, read by the rules of RFC 6455 5.5.1 and 7.4, and written.

use protocol::frame::MAX_CONTROL_LEN;
use protocol::{
    Connection, Event, Limits, MaskingKey, Opcode, ProtocolError, Role, encode_close,
    encode_control,
};

/// Input: a byte of options, then the payload.
pub fn target(data: &[u8]) {
    let Some((&options, payload)) = data.split_first() else { return };
    let role = if options & 1 == 0 { Role::Server } else { Role::Client };
    let key = role.reads_masked().then(|| MaskingKey::from_bytes([options, 0, 0xff, options >> 1]));
    let payload_here = &payload[..payload.len().min(125)];
    let mut frame = [0; MAX_CONTROL_LEN];
    let len = encode_control(Opcode::Close, payload_here, key, &mut frame);
    assert_eq!(read(role, &mut frame[..len]), expected(payload_here));
    if let Some((code, reason)) = payload.split_first_chunk() {
        write(role, key, u16::from_be_bytes(*code), &String::from_utf8_lossy(reason));
    }
}

/// Code and reason, or the error.
pub type Read = Result<(Option<u16>, String), ProtocolError>;

fn read(role: Role, frame: &mut [u8]) -> Read {
    let mut connection = Connection::new(role);
    let event = connection.next(&Limits::default(), frame, &mut 0);
    assert!(connection.is_closed());
    match event? {
        Some(Event::Close(close)) => Ok((close.code(), close.reason().to_owned())),
        other => panic!("{other:?} instead of a Close"),
    }
}

/// Returns the meaning of a Close with this payload.
pub fn expected(payload: &[u8]) -> Read {
    let (code, reason) = match payload {
        [] => return Ok((None, String::new())),
        [_] => return Err(ProtocolError::TruncatedCloseCode),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !is_allowed(code) {
        return Err(ProtocolError::ForbiddenCloseCode { code });
    }
    match std::str::from_utf8(reason) {
        Ok(reason) => Ok((Some(code), reason.to_owned())),
        Err(_) => Err(ProtocolError::InvalidCloseReason),
    }
}

fn is_allowed(code: u16) -> bool {
    let never_sent = [1004, 1005, 1006];
    (1000..=1014).contains(&code) && !never_sent.contains(&code) || (3000..5000).contains(&code)
}

/// Checks that a written Close is read back. Of a reason that is too long as many characters remain
/// as fit.
fn write(role: Role, key: Option<MaskingKey>, code: u16, reason: &str) {
    let mut frame = [0; MAX_CONTROL_LEN];
    let len = encode_close(Some(code), reason, key, &mut frame);
    match read(role, &mut frame[..len]) {
        Ok((read_code, fits)) => {
            assert_eq!(read_code, Some(code));
            assert!(reason.starts_with(&fits));
            let next = reason[fits.len()..].chars().next();
            assert!(next.is_none_or(|next| fits.len() + next.len_utf8() > 123), "more would fit");
        }
        Err(error) => assert_eq!(error, ProtocolError::ForbiddenCloseCode { code }),
    }
}

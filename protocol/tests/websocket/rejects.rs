//! Every kind of invalid frame, with its error, its close code, and the byte that decides.

use protocol::{Connection, Limits, ProtocolError, Role};

use crate::frames::{FIN, KEY, RSV1, masked, plain, with_length};
use crate::reader::{Seen, client_reads, server_reads, text};

/// Checks that the server reports a good message, then the error, and no later event.
fn server_rejects(bytes: &[u8], error: ProtocolError, code: u16) {
    let all = [masked(FIN | 1, b"good"), bytes.to_vec(), masked(FIN | 1, b"late")].concat();
    assert_eq!(server_reads(&all), [text("good"), Seen::Error(error)]);
    assert_eq!(error.close_code(), code);
}

/// Checks that exactly these bytes decide the error: not fewer, and no more are needed.
fn found_with_the_last_of(bytes: &[u8], before: &[u8], error: ProtocolError) {
    for len in 0..=bytes.len() {
        let mut input = [before, &bytes[..len]].concat();
        let mut connection = Connection::new(Role::Server);
        let result = drain(&mut connection, &mut input);
        let expected = if len == bytes.len() { Err(error) } else { Ok(()) };
        assert_eq!(result, expected, "after {len} bytes of {bytes:02x?}");
    }
}

fn drain(connection: &mut Connection, input: &mut [u8]) -> Result<(), ProtocolError> {
    let mut at = 0;
    while let Some(event) = connection.next(&Limits::default(), input, &mut at)? {
        if let protocol::Event::Data(chunk) = event {
            connection.unmask_in_place(chunk, input)?;
        }
    }
    Ok(())
}

#[test]
fn rejects_unmasked_client_frame() {
    for first in [FIN | 1, FIN | 2, 1, FIN | 9, FIN | 8] {
        server_rejects(&plain(first, b"Hello"), ProtocolError::UnmaskedFrame, 1002);
    }
    found_with_the_last_of(&[0x81, 0x05], b"", ProtocolError::UnmaskedFrame);
}

#[test]
fn rejects_masked_server_frame() {
    for first in [FIN | 1, FIN | 2, 1, FIN | 9, FIN | 8] {
        let seen = client_reads(&masked(first, b"Hello"));
        assert_eq!(seen, [Seen::Error(ProtocolError::MaskedFrame)]);
    }
    assert_eq!(ProtocolError::MaskedFrame.close_code(), 1002);
}

#[test]
fn rejects_reserved_bits() {
    for rsv in 1..=7 {
        for opcode in [1, 2, 8, 9, 10] {
            let bytes = masked(FIN | rsv << 4 | opcode, b"x");
            server_rejects(&bytes, ProtocolError::ReservedBits { rsv }, 1002);
        }
    }
    found_with_the_last_of(&[FIN | RSV1 | 1], b"", ProtocolError::ReservedBits { rsv: 4 });
}

#[test]
fn rejects_reserved_opcodes() {
    for opcode in (3..=7).chain(11..=15) {
        for fin in [0, FIN] {
            server_rejects(
                &masked(fin | opcode, b""),
                ProtocolError::ReservedOpcode { opcode },
                1002,
            );
        }
        found_with_the_last_of(&[FIN | opcode], b"", ProtocolError::ReservedOpcode { opcode });
    }
}

#[test]
fn rejects_16_bit_length_that_fits_7() {
    for payload_len in [0, 5, 125] {
        let bytes =
            with_length(FIN | 2, &[126, 0, payload_len], &vec![0; payload_len.into()], Some(KEY));
        let error = ProtocolError::NonMinimalLength { payload_len: payload_len.into() };
        server_rejects(&bytes, error, 1002);
        found_with_the_last_of(&bytes[..4], b"", error);
    }
}

#[test]
fn rejects_64_bit_length_that_fits_16() {
    for payload_len in [0, 5, 125, 126, 65_535u64] {
        let length = [&[127][..], &payload_len.to_be_bytes()].concat();
        let bytes = with_length(FIN | 2, &length, &vec![0; payload_len as usize], Some(KEY));
        let error = ProtocolError::NonMinimalLength { payload_len };
        server_rejects(&bytes, error, 1002);
        found_with_the_last_of(&bytes[..10], b"", error);
    }
}

#[test]
fn rejects_64_bit_length_with_top_bit() {
    let bytes = with_length(FIN | 2, &[127, 0x80, 0, 0, 0, 0, 0, 0, 1], b"", Some(KEY));
    server_rejects(&bytes, ProtocolError::LengthTopBit, 1002);
    found_with_the_last_of(&bytes[..3], b"", ProtocolError::LengthTopBit);
}

#[test]
fn rejects_fragmented_control_frame() {
    for opcode in [8, 9, 10] {
        server_rejects(&masked(opcode, b""), ProtocolError::FragmentedControl, 1002);
        found_with_the_last_of(&[opcode], b"", ProtocolError::FragmentedControl);
    }
}

#[test]
fn rejects_control_frame_beyond_125_bytes() {
    for opcode in [8, 9, 10] {
        for len in [126, 65_536] {
            server_rejects(
                &masked(FIN | opcode, &vec![0; len]),
                ProtocolError::OversizedControl,
                1002,
            );
        }
        found_with_the_last_of(&[FIN | opcode, 0xfe], b"", ProtocolError::OversizedControl);
    }
}

#[test]
fn rejects_continuation_without_start() {
    for first in [0, FIN] {
        server_rejects(&masked(first, b"x"), ProtocolError::ContinuationWithoutStart, 1002);
        found_with_the_last_of(&[first], b"", ProtocolError::ContinuationWithoutStart);
    }
    let ended = [masked(1, b"a"), masked(FIN, b"b")].concat();
    found_with_the_last_of(&[FIN], &ended, ProtocolError::ContinuationWithoutStart);
}

#[test]
fn rejects_new_message_inside_a_message() {
    for first in [1, 2, FIN | 1, FIN | 2] {
        let bytes = [masked(1, b"open"), masked(first, b"new")].concat();
        server_rejects(&bytes, ProtocolError::InterleavedMessage, 1002);
        found_with_the_last_of(&[first], &masked(2, b""), ProtocolError::InterleavedMessage);
    }
}

#[test]
fn rejects_text_that_is_not_utf8() {
    let invalid: [&[u8]; 8] = [
        b"\x80",
        b"abc\xff",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf0\x9f\x98",
        b"a long enough text for the vectors, and for more than one of them: \xce\xce",
    ];
    for payload in invalid {
        server_rejects(&masked(FIN | 1, payload), ProtocolError::InvalidUtf8, 1007);
    }
}

#[test]
fn rejects_text_at_its_invalid_byte_in_an_unfinished_frame() {
    let bytes = masked(1, b"\xce\xba\xf4\x90 and so on");
    found_with_the_last_of(&bytes[..6 + 4], b"", ProtocolError::InvalidUtf8);
    let second = masked(0, b"\xa0 surrogate");
    found_with_the_last_of(&second[..7], &masked(1, b"\xed"), ProtocolError::InvalidUtf8);
}

#[test]
fn rejects_text_that_ends_inside_a_character() {
    let bytes = [masked(1, b"\xe2\x82"), masked(FIN | 9, b""), masked(FIN, b"")].concat();
    let expected = [Seen::Ping(b"".into()), Seen::Error(ProtocolError::InvalidUtf8)];
    assert_eq!(server_reads(&bytes), expected);
    let cut = masked(FIN | 1, b"\xe2\x82");
    assert_eq!(server_reads(&cut), [Seen::Error(ProtocolError::InvalidUtf8)]);
}

#[test]
fn binary_is_not_validated() {
    assert!(matches!(server_reads(&masked(FIN | 2, b"\xff\xc0"))[..], [Seen::Message(..)]));
}

#[test]
fn rejects_close_payload_of_one_byte() {
    server_rejects(&masked(FIN | 8, b"\x03"), ProtocolError::TruncatedCloseCode, 1002);
}

#[test]
fn rejects_forbidden_close_codes() {
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535u16] {
        let bytes = masked(FIN | 8, &code.to_be_bytes());
        server_rejects(&bytes, ProtocolError::ForbiddenCloseCode { code }, 1002);
    }
}

#[test]
fn rejects_close_reason_that_is_not_utf8() {
    let bytes = masked(FIN | 8, b"\x03\xe8\xed\xa0\x80");
    server_rejects(&bytes, ProtocolError::InvalidCloseReason, 1007);
}

#[test]
fn every_error_has_its_own_rule_a_section_and_one_line() {
    let errors = [
        ProtocolError::ReservedBits { rsv: 4 },
        ProtocolError::ReservedOpcode { opcode: 3 },
        ProtocolError::NonMinimalLength { payload_len: 5 },
        ProtocolError::LengthTopBit,
        ProtocolError::UnmaskedFrame,
        ProtocolError::MaskedFrame,
        ProtocolError::FragmentedControl,
        ProtocolError::OversizedControl,
        ProtocolError::ContinuationWithoutStart,
        ProtocolError::InterleavedMessage,
        ProtocolError::MessageTooBig { max: 1 },
        ProtocolError::TooManyFragments { max: 1 },
        ProtocolError::InvalidUtf8,
        ProtocolError::TruncatedCloseCode,
        ProtocolError::ForbiddenCloseCode { code: 1005 },
        ProtocolError::InvalidCloseReason,
    ];
    let mut rules: Vec<_> = errors.iter().map(ProtocolError::rule).collect();
    rules.sort_unstable();
    rules.dedup();
    assert_eq!(rules.len(), errors.len());
    for error in errors {
        assert!(error.section().starts_with("RFC "));
        assert!(!error.to_string().contains('\n'));
        assert!(protocol::close::is_sendable(error.close_code()));
    }
}

//! The end of an HTTP message's head, and the validity of its lines (RFC 9112 2.2).

use super::HeadLimits;

/// Reason for refusing a head before it is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadFault {
    /// A line feed without a carriage return before it, or the reverse.
    BareLineEnd,
    /// NUL or another control character.
    ControlCharacter,
    /// More bytes than [`HeadLimits::bytes`]; `first_line` where all of them belong to the first
    /// line.
    TooLong { first_line: bool },
}

/// Finds the end of the first empty line. `scanned` remembers the position that earlier calls
/// reached, so that every byte is examined once, however slowly the bytes come.
pub(super) fn find_end(
    buffered: &[u8],
    scanned: &mut usize,
    limits: &HeadLimits,
) -> Result<Option<usize>, HeadFault> {
    // One empty line before the first one is skipped (RFC 9112 2.2).
    let start = if buffered.starts_with(b"\r\n") { 2 } else { 0 };
    let allowed = buffered.len().min(limits.bytes);
    let mut at = *scanned;
    while at < allowed {
        let before = at.checked_sub(1).map(|before| buffered[before]);
        if before != Some(b'\r')
            && let Some(word) = buffered[at..allowed].first_chunk()
            && !has_control_character(*word)
        {
            at += word.len();
            continue;
        }
        check_byte(before, buffered[at])?;
        if at >= start + 3 && buffered[at - 3..=at] == *b"\r\n\r\n" {
            *scanned = at + 1;
            return Ok(Some(at + 1));
        }
        at += 1;
    }
    *scanned = (*scanned).max(allowed);
    if buffered.len() < limits.bytes {
        return Ok(None);
    }
    let first_line = !buffered[start.min(allowed)..allowed].windows(2).any(|pair| pair == b"\r\n");
    Err(HeadFault::TooLong { first_line })
}

/// Returns whether one of eight bytes is below 0x20 or is 0x7f.
fn has_control_character(bytes: [u8; 8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x80 * ONES;
    let word = u64::from_ne_bytes(bytes);
    // The lowest byte that a subtraction marks is right; those above it may be marked by a borrow.
    let below = word.wrapping_sub(0x20 * ONES) & !word;
    let deletes = word ^ (0x7f * ONES);
    let is_delete = deletes.wrapping_sub(ONES) & !deletes;
    (below | is_delete) & TOPS != 0
}

/// Checks that lines end in CR LF, and that a tab is the only other control character (RFC 9110
/// 5.5).
fn check_byte(before: Option<u8>, byte: u8) -> Result<(), HeadFault> {
    match (before, byte) {
        (Some(b'\r'), b'\n') => Ok(()),
        (Some(b'\r'), _) | (_, b'\n') => Err(HeadFault::BareLineEnd),
        (_, b'\r' | b'\t') => Ok(()),
        (_, 0..0x20 | 0x7f) => Err(HeadFault::ControlCharacter),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 64, target: 32, fields: 4 };

    fn whole(bytes: &[u8]) -> Result<Option<usize>, HeadFault> {
        find_end(bytes, &mut 0, &LIMITS)
    }

    /// Checks that the whole input and single bytes give the same result, and that each byte is
    /// examined once.
    fn both_ways(bytes: &[u8]) -> Result<Option<usize>, HeadFault> {
        let mut scanned = 0;
        for end in 0..=bytes.len() {
            let before = scanned;
            let found = find_end(&bytes[..end], &mut scanned, &LIMITS);
            assert!(scanned >= before && scanned <= end);
            if found != Ok(None) {
                assert_eq!(found, whole(bytes), "byte by byte and whole differ");
                return found;
            }
            assert_eq!(scanned, end);
        }
        assert_eq!(whole(bytes), Ok(None));
        Ok(None)
    }

    #[test]
    fn head_ends_with_the_first_empty_line() {
        assert_eq!(both_ways(b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest\r\n\r\n"), Ok(Some(24)));
        assert_eq!(both_ways(b"GET / HTTP/1.1\r\n\r\n"), Ok(Some(18)));
        assert_eq!(both_ways(b"GET / HTTP/1.1\r\nA: b\r\n"), Ok(None));
        assert_eq!(both_ways(b""), Ok(None));
    }

    #[test]
    fn one_empty_line_before_the_head_is_skipped() {
        assert_eq!(both_ways(b"\r\nGET / HTTP/1.1\r\n\r\n"), Ok(Some(20)));
    }

    #[test]
    fn rejects_bare_line_ends() {
        for bytes in
            [&b"GET / HTTP/1.1\nA"[..], b"GET / HTTP/1.1\rA", b"\n", b"A\r\n\n", b"A\r\r\n"]
        {
            assert_eq!(both_ways(bytes), Err(HeadFault::BareLineEnd), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn rejects_control_characters() {
        for byte in (0..0x20).filter(|byte| !b"\t\r\n".contains(byte)).chain([0x7f]) {
            assert_eq!(both_ways(&[b'A', byte]), Err(HeadFault::ControlCharacter), "{byte}");
        }
    }

    #[test]
    fn control_characters_are_found_at_every_place() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                for others in [b'a', 0x80, 0xff, b' '] {
                    let mut bytes = [others; 8];
                    bytes[place] = byte;
                    let expected = byte < 0x20 || byte == 0x7f;
                    assert_eq!(has_control_character(bytes), expected, "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn a_fault_is_found_at_every_place_of_a_long_line() {
        for place in 0..40 {
            for (byte, fault) in [
                (b'\n', HeadFault::BareLineEnd),
                (0, HeadFault::ControlCharacter),
                (0x7f, HeadFault::ControlCharacter),
            ] {
                let mut line = [b'x'; 41];
                line[place] = byte;
                assert_eq!(both_ways(&line), Err(fault), "{byte} at {place}");
            }
            let mut line = [b'x'; 41];
            line[place] = b'\r';
            assert_eq!(both_ways(&line), Err(HeadFault::BareLineEnd), "a CR at {place}");
        }
    }

    #[test]
    fn rejects_a_head_at_the_first_byte_beyond_the_limit() {
        let fits = [&[b'x'; 60][..], b"\r\n\r\n"].concat();
        assert_eq!(both_ways(&fits), Ok(Some(64)));
        assert_eq!(both_ways(&[b'x'; 63]), Ok(None));
        assert_eq!(both_ways(&[b'x'; 64]), Err(HeadFault::TooLong { first_line: true }));
        let lines = [&b"GET / HTTP/1.1\r\n"[..], &[b'x'; 60]].concat();
        assert_eq!(both_ways(&lines), Err(HeadFault::TooLong { first_line: false }));
    }
}

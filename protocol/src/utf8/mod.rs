//! UTF-8 that arrives in pieces: incremental, failing at the piece that makes it invalid (RFC 6455
//! 8.1).

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

use thiserror::Error;

use crate::mask;

/// The bytes so far cannot begin a UTF-8 string, or the end cut a character.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not valid UTF-8")]
pub struct InvalidUtf8;

/// Validates UTF-8 that arrives in pieces, cut anywhere.
///
/// Holds at most the first three bytes of a character whose rest has not arrived yet. Do not use it
/// after an error: start again with `Utf8::default()`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8 {
    carry: [u8; 3],
    len: u8,
}

/// Longest input for which a check for ASCII first is quicker.
const SHORT: usize = 64;

impl Utf8 {
    /// Continues with more bytes.
    ///
    /// # Errors
    ///
    /// Fails when no continuation could make the text valid.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), InvalidUtf8> {
        if bytes.len() <= SHORT && self.is_between_characters() && bytes.is_ascii() {
            return Ok(());
        }
        self.update_any(bytes)
    }

    #[inline(never)]
    pub(crate) fn update_any(&mut self, bytes: &[u8]) -> Result<(), InvalidUtf8> {
        let validated = self.validate_through(bytes)?;
        self.keep(&bytes[validated..])
    }

    /// Returns whether no character is cut: the text could end here.
    #[inline]
    pub(crate) fn is_between_characters(&self) -> bool {
        self.len == 0
    }

    /// Continues up to a last character that is cut; returns its start. The caller puts it before
    /// the next bytes, or passes it to [`keep`](Utf8::keep).
    pub(crate) fn validate_through(&mut self, bytes: &[u8]) -> Result<usize, InvalidUtf8> {
        let rest = if self.is_between_characters() { bytes } else { self.complete(bytes)? };
        let (characters, cut) = split_cut_character(rest);
        if mask::is_utf8(characters) { Ok(bytes.len() - cut.len()) } else { Err(InvalidUtf8) }
    }

    /// Ends the text; the validator is ready for the next one afterwards.
    ///
    /// # Errors
    ///
    /// Fails when the last character is cut.
    #[inline]
    pub fn finish(&mut self) -> Result<(), InvalidUtf8> {
        match std::mem::take(&mut self.len) {
            0 => Ok(()),
            _ => Err(InvalidUtf8),
        }
    }

    /// Completes the carried character from the start of `bytes`; returns the rest.
    fn complete<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], InvalidUtf8> {
        let have = usize::from(self.len);
        let lacking = width(self.carry[0]) - have;
        let (more, rest) = bytes.split_at(lacking.min(bytes.len()));
        let mut character = [0; 4];
        character[..have].copy_from_slice(&self.carry[..have]);
        character[have..have + more.len()].copy_from_slice(more);
        let character = &character[..have + more.len()];
        if more.len() < lacking {
            self.keep(character)?;
        } else {
            std::str::from_utf8(character).map_err(|_| InvalidUtf8)?;
            self.len = 0;
        }
        Ok(rest)
    }

    /// Carries a cut character over, unless its bytes are invalid already.
    pub(crate) fn keep(&mut self, cut: &[u8]) -> Result<(), InvalidUtf8> {
        if cut.is_empty() {
            return Ok(());
        }
        match std::str::from_utf8(cut) {
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => {
                self.carry[..cut.len()].copy_from_slice(cut);
                self.len = cut.len() as u8;
                Ok(())
            }
            _ => Err(InvalidUtf8),
        }
    }
}

/// Splits off a last character that needs more bytes: 0 to 3 bytes.
#[inline]
fn split_cut_character(bytes: &[u8]) -> (&[u8], &[u8]) {
    let at = bytes
        .iter()
        .rev()
        .take(3)
        .position(|&byte| byte & 0xc0 != 0x80)
        .map(|back| bytes.len() - 1 - back)
        .filter(|&lead| width(bytes[lead]) > bytes.len() - lead)
        .unwrap_or(bytes.len());
    bytes.split_at(at)
}

/// Returns the number of bytes of the character that starts with `lead`. For other bytes the value
/// does not matter: they are invalid anyway.
#[inline]
fn width(lead: u8) -> usize {
    match lead {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the length of the shortest prefix that no continuation can make valid. The standard
    /// library's validator is the oracle.
    fn fails_at(bytes: &[u8]) -> Option<usize> {
        (0..=bytes.len()).find(
            |&end| matches!(std::str::from_utf8(&bytes[..end]), Err(error) if error.error_len().is_some()),
        )
    }

    /// Feeds `bytes` cut at `cuts` and checks that the piece that makes them invalid is the one
    /// that fails.
    fn check(bytes: &[u8], cuts: &[usize]) {
        let fails_at = fails_at(bytes);
        let mut utf8 = Utf8::default();
        let mut start = 0;
        for end in cuts.iter().copied().chain([bytes.len()]) {
            let expected_failure = fails_at.is_some_and(|at| at <= end);
            let result = utf8.update(&bytes[start..end]);
            assert_eq!(
                result.is_err(),
                expected_failure,
                "{bytes:x?} cut at {cuts:?}, piece to {end}"
            );
            if expected_failure {
                return;
            }
            start = end;
        }
        assert_eq!(
            utf8.finish().is_ok(),
            std::str::from_utf8(bytes).is_ok(),
            "{bytes:x?} at its end"
        );
        assert!(utf8.update(b"next").is_ok(), "finish must make ready for the next text");
    }

    fn check_cut_everywhere(bytes: &[u8]) {
        check(bytes, &[]);
        for cut in 0..=bytes.len() {
            check(bytes, &[cut]);
        }
        let every: Vec<usize> = (0..bytes.len()).collect();
        check(bytes, &every);
    }

    #[test]
    fn validates_known_sequences_cut_everywhere() {
        let sequences: [&[u8]; 22] = [
            b"",
            b"plain",
            "κόσμε".as_bytes(),
            "日本語".as_bytes(),
            "a😀b".as_bytes(),
            b"\x80",
            b"\xbf",
            b"\xc0\xaf",
            b"\xc1\xbf",
            b"\xe0\x80\xaf",
            b"\xe0\x9f\xbf",
            b"\xed\xa0\x80",
            b"\xed\xbf\xbf",
            b"\xf0\x80\x80\xaf",
            b"\xf0\x8f\xbf\xbf",
            b"\xf4\x8f\xbf\xbf",
            b"\xf4\x90\x80\x80",
            b"\xf5\x80\x80\x80",
            b"\xfe\xff",
            b"\xe2\x82",
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
            b"\xf0\x9f\x98",
        ];
        for sequence in sequences {
            check_cut_everywhere(sequence);
            let long = [&[b'x'; 130][..], sequence, "…日本語…".as_bytes()].concat();
            check_cut_everywhere(&long);
        }
    }

    #[test]
    fn validator_is_four_bytes() {
        assert_eq!(size_of::<Utf8>(), 4);
    }

    /// Returns valid text, and text with some bytes overwritten, so that both answers are common.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let replaced = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
        (any::<Vec<char>>(), replaced).prop_map(|(characters, replaced)| {
            let mut bytes = characters.into_iter().collect::<String>().into_bytes();
            for (at, byte) in replaced {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn agrees_with_std_however_cut(bytes in text(), cuts in any::<[prop::sample::Index; 4]>()) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            check(&bytes, &cuts);
            let every: Vec<usize> = (0..bytes.len()).collect();
            check(&bytes, &every);
        }

        #[test]
        fn agrees_with_std_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..6)) {
            check_cut_everywhere(&bytes);
        }
    }
}

//! Messages with placeholders, which are replaced when a message is built.
//!
//! A brace before a letter begins a placeholder: `{seq}`, `{connection}`, `{time_ns}` or
//! `{random:16}`. A brace before anything else stays as it is, so that JSON needs no escapes, and
//! `{{` is a plain brace.

use std::fmt;

use bytes::Bytes;

use super::random::Random;

/// Most digits of a `{random:N}`.
const MAX_RANDOM: u32 = 1024;
/// Digits of the largest 32-bit and 64-bit numbers.
const LONGEST_U32: usize = 10;
const LONGEST_U64: usize = 20;

/// Bytes that may have placeholders.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// Parts in their order. A text without placeholders is one part.
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Bytes),
    /// Number of the message on its connection, from 0.
    Sequence,
    /// Number of the connection over all workers and processes, from 0.
    Connection,
    /// Time of sending, in nanoseconds since 1970.
    Time,
    /// Random hexadecimal digits.
    Random(u32),
}

/// A message among those of a run, with the values of its placeholders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) connection: u32,
    pub(crate) sequence: u64,
    pub(crate) time_ns: u64,
}

/// Fault of a template, at a position in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TemplateError {
    at: usize,
    text: String,
    is_closed: bool,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, text, is_closed } = self;
        let fault = if *is_closed { "is not a placeholder" } else { "has no closing brace" };
        write!(
            f,
            "`{text}` at byte {at} {fault}: expected {{seq}}, {{connection}}, {{time_ns}} or \
             {{random:N}} with 1 to {MAX_RANDOM} digits, for example {{random:16}}; a plain brace \
             before a letter is {{{{"
        )
    }
}

impl Template {
    /// Returns bytes in which every brace is a plain one.
    pub(crate) fn plain(text: Bytes) -> Self {
        Self { parts: vec![Part::Literal(text)] }
    }

    /// Reads bytes with placeholders.
    pub(crate) fn parse(text: &Bytes) -> Result<Self, TemplateError> {
        let (mut parts, mut literal, mut at) = (Vec::new(), 0, 0);
        let end_literal = |parts: &mut Vec<Part>, from: usize, to: usize| {
            if from < to {
                parts.push(Part::Literal(text.slice(from..to)));
            }
        };
        while let Some(brace) = text[at..].iter().position(|&byte| byte == b'{') {
            let brace = at + brace;
            at = brace + 1;
            match text.get(at) {
                Some(b'{') => {
                    end_literal(&mut parts, literal, at);
                    at += 1;
                    literal = at;
                }
                Some(byte) if byte.is_ascii_alphabetic() || *byte == b'_' => {
                    let (part, len) = placeholder(&text[brace..], brace)?;
                    end_literal(&mut parts, literal, brace);
                    parts.push(part);
                    at = brace + len;
                    literal = at;
                }
                _ => {}
            }
        }
        end_literal(&mut parts, literal, text.len());
        if parts.is_empty() {
            parts.push(Part::Literal(Bytes::new()));
        }
        Ok(Self { parts })
    }

    /// Returns the bytes, if they are the same in every message.
    #[inline]
    pub(crate) fn literal(&self) -> Option<&Bytes> {
        if let [Part::Literal(text)] = &self.parts[..] { Some(text) } else { None }
    }

    pub(crate) fn has_time(&self) -> bool {
        self.parts.contains(&Part::Time)
    }

    /// Returns the length of the longest message.
    pub(crate) fn longest(&self) -> usize {
        let len = |part: &Part| match part {
            Part::Literal(text) => text.len(),
            Part::Sequence | Part::Time => LONGEST_U64,
            Part::Connection => LONGEST_U32,
            Part::Random(digits) => *digits as usize,
        };
        self.parts.iter().map(len).sum()
    }

    /// Appends the message of a place.
    pub(crate) fn build(&self, place: Place, seed: u64, message: &mut Vec<u8>) {
        let mut random = None;
        for part in &self.parts {
            match part {
                Part::Literal(text) => message.extend_from_slice(text),
                Part::Sequence => push_decimal(place.sequence, message),
                Part::Connection => push_decimal(place.connection.into(), message),
                Part::Time => push_decimal(place.time_ns, message),
                Part::Random(digits) => {
                    let random = random.get_or_insert_with(|| of_place(place, seed));
                    push_random(*digits as usize, random, message);
                }
            }
        }
    }
}

/// Returns the sequence of random numbers of a message.
pub(crate) fn of_place(place: Place, seed: u64) -> Random {
    let Place { connection, sequence, .. } = place;
    let own = Random::new(sequence, u64::from(connection)).next();
    Random::new(seed ^ u64::from_le_bytes(*b"template"), own)
}

/// Reads the placeholder at the front. Returns its length, too. `at`: its position in the text.
fn placeholder(text: &[u8], at: usize) -> Result<(Part, usize), TemplateError> {
    let is_inside = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    let len = 1 + text[1..].iter().take_while(|byte| is_inside(byte)).count();
    let is_closed = text.get(len) == Some(&b'}');
    let shown = &text[..len + usize::from(is_closed)];
    let fault = || TemplateError { at, text: String::from_utf8_lossy(shown).into(), is_closed };
    if !is_closed {
        return Err(fault());
    }
    let part = match std::str::from_utf8(&text[1..len]).unwrap_or_default() {
        "seq" => Part::Sequence,
        "connection" => Part::Connection,
        "time_ns" => Part::Time,
        name => {
            let digits = name.strip_prefix("random:").and_then(|digits| digits.parse().ok());
            let digits = digits.filter(|digits| (1..=MAX_RANDOM).contains(digits));
            Part::Random(digits.ok_or_else(fault)?)
        }
    };
    Ok((part, len + 1))
}

fn push_decimal(mut number: u64, message: &mut Vec<u8>) {
    let mut digits = [0; LONGEST_U64];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return message.extend_from_slice(&digits[at..]);
        }
    }
}

fn push_random(digits: usize, random: &mut Random, message: &mut Vec<u8>) {
    let end = message.len() + digits;
    while message.len() < end {
        let mut bits = random.next();
        for _ in 0..(end - message.len()).min(16) {
            message.push(b"0123456789abcdef"[(bits & 15) as usize]);
            bits >>= 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(text: &'static str, connection: u32, sequence: u64) -> String {
        let template = Template::parse(&Bytes::from_static(text.as_bytes())).expect(text);
        let place = Place { connection, sequence, time_ns: 1_800_000_000_123_456_789 };
        let mut message = Vec::new();
        template.build(place, 1, &mut message);
        assert!(message.len() <= template.longest());
        String::from_utf8(message).expect("UTF-8")
    }

    #[test]
    fn placeholders_are_replaced() {
        assert_eq!(built("{seq}", 3, 0), "0");
        assert_eq!(built("a{connection}-{seq}b", 70, u64::MAX), "a70-18446744073709551615b");
        assert_eq!(built("{time_ns}", 0, 0), "1800000000123456789");
        let random = built("{random:20} {random:3}", 1, 1);
        assert_eq!(random.len(), 24);
        assert!(random.bytes().all(|byte| byte == b' ' || byte.is_ascii_hexdigit()), "{random}");
        assert_eq!(random, built("{random:20} {random:3}", 1, 1));
        for (connection, sequence) in [(1, 2), (2, 1), (1 << 31, 1), (1, 1 << 32)] {
            assert_ne!(random, built("{random:20} {random:3}", connection, sequence));
        }
    }

    #[test]
    fn json_needs_no_escapes() {
        let json = r#"{"id":{seq},"list":[{},{ "a":1}],"deep":{"b":{"c":"}}"}}}"#;
        assert_eq!(built(json, 0, 17), json.replace("{seq}", "17"));
        assert_eq!(built("{{seq} {{{seq} {", 0, 5), "{seq} {5 {");
        assert_eq!(built("", 0, 0), "");
        assert_eq!(built("{{", 0, 0), "{");
    }

    #[test]
    fn faults_are_named_with_their_places() {
        let fault = |text: &'static str| {
            Template::parse(&Bytes::from_static(text.as_bytes())).expect_err(text).to_string()
        };
        for text in ["{sequence}", "{Seq}", "{random}", "{random:0}", "{random:1025}", "{seq:3}"] {
            assert!(
                fault(text).starts_with(&format!("`{text}` at byte 0 is not a place")),
                "{text}"
            );
        }
        assert!(fault("ab{seq").starts_with("`{seq` at byte 2 has no closing brace"));
        assert!(fault("{seq }").starts_with("`{seq` at byte 0 has no closing brace"));
        assert!(fault("{user{name}}").contains("for example {random:16}"));
        assert!(fault("{user{name}}").ends_with("before a letter is {{"));
    }

    #[test]
    fn text_without_placeholders_is_known_before() {
        let template = |text| Template::parse(&Bytes::from_static(text)).expect("a template");
        assert_eq!(template(b"{\"a\":1}").literal().map(|text| &text[..]), Some(&b"{\"a\":1}"[..]));
        assert_eq!(template(b"").literal().map(|text| &text[..]), Some(&b""[..]));
        assert!(template(b"{seq}").literal().is_none() && template(b"a{{b{{c").literal().is_none());
        assert!(template(b"{time_ns}").has_time() && !template(b"{seq}").has_time());
    }
}

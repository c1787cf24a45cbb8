//! Contents of messages.
//!
//! A message is a *stamp* (connection number and sequence number, [`STAMP`] bytes) followed by a
//! *body*. The body is a slice of a seeded pool, one for each size, that all connections share.
//! Connection and sequence number select the slice. A message that is too short for a stamp has
//! only a body. So the content of every echo is known without storing messages, and echoes are
//! compared in place.
//!
//! The pool consists of lines of [`LINE`] bytes and bodies begin at lines. In text, a character
//! ends wherever a body can end. So a body has its exact length in bytes, and no character is cut.
//!
//! With compression, messages are compressed beforehand, which takes memory for each. So the size
//! and the body of a message repeat after a *cycle* of messages, and are those of every connection
//! with the same sequence number. The bodies of a cycle do not overlap, and they are more than a
//! window can hold wherever that can be had: a compressor would find repeated bodies.

use bytes::Bytes;
use protocol::MessageKind;

use super::random::Random;
use crate::load::{Deflate, Load, Payload};

/// Bytes of the stamp, which has the connection and the sequence number. Binary messages have them
/// as little-endian 64-bit numbers. Text has the low 32 bits of each as eight hexadecimal digits.
pub(crate) const STAMP: usize = 16;
const LINE: usize = 64;
/// Number of lines at which bodies can begin: 32 KiB, so that the pool stays in the first-level
/// cache.
const LINES: usize = 1 << LINES_BITS;
const LINES_BITS: u32 = 9;
/// Most messages of a cycle, as a power of two.
const CYCLE_BITS: u32 = 12;
/// Most bytes of the bodies of a cycle, all sizes together. A cycle has at least one message,
/// whatever its length.
const CYCLE_BYTES: usize = 1 << 20;

/// The messages of a run: one kind, and one size or several.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    payload: Payload,
    /// One class for each size; at least one.
    classes: Vec<Class>,
    total_weight: u64,
    is_stamped: bool,
    /// Messages of the cycle as a power of two, if there is one.
    cycle_bits: Option<u32>,
}

/// The messages of one size.
#[derive(Clone, Debug)]
struct Class {
    len: usize,
    body_len: usize,
    pool: Bytes,
    /// Bits of a message's number, after it is rotated, that are the position of its body in the
    /// pool.
    starts: usize,
    rotation: u32,
    /// Sum of the weights of this class and of the classes before it.
    weights: u64,
}

impl Content {
    /// Creates the contents of a load's messages.
    pub(crate) fn of(load: &Load) -> Self {
        // The user's own messages take their place.
        let sizes = if load.has_own_messages() { &[(0, 1)] } else { load.message_bytes.weighted() };
        let cycle_bits = (load.deflate != Deflate::Off).then(|| {
            let bytes: usize = sizes.iter().map(|(len, _)| spacing(body_len(*len))).sum();
            (CYCLE_BYTES / bytes).max(1).ilog2().min(CYCLE_BITS)
        });
        Self::with_cycle(load.payload, sizes, load.seed, cycle_bits)
    }

    /// Creates the contents of messages of these sizes, which occur in proportion to their weights.
    /// At least one size must be given, and no weight may be zero.
    #[cfg(test)]
    pub(crate) fn new(payload: Payload, sizes: &[(usize, u32)], seed: u64) -> Self {
        Self::with_cycle(payload, sizes, seed, None)
    }

    fn with_cycle(
        payload: Payload,
        sizes: &[(usize, u32)],
        seed: u64,
        cycle_bits: Option<u32>,
    ) -> Self {
        let mut random = Random::new(seed, u64::from_le_bytes(*b"payloads"));
        let mut total_weight = 0;
        let class = |&(len, weight): &(usize, u32)| {
            total_weight += u64::from(weight);
            Class::new(payload, len, total_weight, cycle_bits, &mut random)
        };
        let classes: Vec<Class> = sizes.iter().map(class).collect();
        let is_stamped = classes.iter().all(Class::has_room);
        Self { payload, classes, total_weight, is_stamped, cycle_bits }
    }

    /// Returns the number of messages after which sizes and bodies repeat.
    ///
    /// # Panics
    ///
    /// Panics if the load has no compression, and so no cycle.
    #[inline]
    pub(crate) fn cycle(&self) -> u64 {
        1 << self.cycle_bits.expect("the messages of a load with compression")
    }

    /// Returns the length that all messages have, or `None` if there are several sizes.
    #[inline]
    pub(crate) fn only_len(&self) -> Option<usize> {
        if let [only] = &self.classes[..] { Some(only.len) } else { None }
    }

    pub(crate) fn lens(&self) -> impl Iterator<Item = usize> {
        self.classes.iter().map(|class| class.len)
    }

    /// Returns the index of a message's length among the [lengths](Self::lens).
    #[inline]
    pub(crate) fn class_of(&self, connection: u32, sequence: u64) -> usize {
        if self.classes.len() == 1 {
            return 0;
        }
        // The two halves are combined, so that the size does not follow from the bits that select
        // the body, and connections differ.
        let bits = match self.cycle_bits {
            None => mix(connection, sequence),
            Some(_) => mix(0, sequence % self.cycle()),
        };
        let at = (u64::from((bits ^ bits >> 32) as u32) * self.total_weight) >> 32;
        self.classes.iter().position(|class| at < class.weights).unwrap_or_default()
    }

    #[inline]
    fn class(&self, connection: u32, sequence: u64) -> &Class {
        &self.classes[self.class_of(connection, sequence)]
    }

    #[inline]
    pub(crate) fn len_of(&self, connection: u32, sequence: u64) -> usize {
        self.class(connection, sequence).len
    }

    #[inline]
    pub(crate) fn kind(&self) -> MessageKind {
        match self.payload {
            Payload::Binary => MessageKind::Binary,
            Payload::TextAscii | Payload::TextMixed | Payload::TextJson => MessageKind::Text,
        }
    }

    /// Returns true if all messages have a stamp.
    #[inline]
    pub(crate) fn is_stamped(&self) -> bool {
        self.is_stamped
    }

    #[inline]
    pub(crate) fn has_stamp(&self, class: usize) -> bool {
        self.classes[class].has_room()
    }

    /// Returns the stamp of a message that is long enough for one.
    #[inline]
    pub(crate) fn stamp(&self, connection: u32, sequence: u64) -> [u8; STAMP] {
        self.stamp_word(connection, sequence).to_le_bytes()
    }

    /// Returns the bytes of a message from `at` to the end of its stamp or, behind the stamp, of
    /// its body. `stamp` is memory for the stamp. The result is empty at the end of the message.
    pub(crate) fn rest<'a>(
        &'a self,
        connection: u32,
        sequence: u64,
        at: usize,
        stamp: &'a mut [u8; STAMP],
    ) -> &'a [u8] {
        let class = self.class(connection, sequence);
        let body = class.body(mix(connection, sequence));
        if !class.has_room() {
            return body.get(at..).unwrap_or_default();
        }
        if let Some(at) = at.checked_sub(STAMP) {
            return body.get(at..).unwrap_or_default();
        }
        *stamp = self.stamp(connection, sequence);
        &stamp[at..]
    }

    /// Returns the payload of a message that is not compressed.
    pub(crate) fn parts(&self, connection: u32, sequence: u64) -> Parts<'_> {
        let class = self.class(connection, sequence);
        let body = class.body(mix(connection, sequence));
        match class.has_room() {
            true => Parts::new(&self.stamp(connection, sequence), body),
            false => Parts::new(&[], body),
        }
    }

    /// Returns the stamp as one little-endian number. If it were assembled in memory, it would be
    /// read back before its parts have left the store buffer. That costs more than the rest of a
    /// comparison.
    #[inline]
    pub(crate) fn stamp_word(&self, connection: u32, sequence: u64) -> u128 {
        let (first, second) = if self.payload == Payload::Binary {
            (u64::from(connection), sequence)
        } else {
            (hex(connection), hex(sequence as u32))
        };
        u128::from(first) | u128::from(second) << 64
    }

    /// Returns the connection and the sequence number in a stamp, or `None` if they are not valid.
    /// Text has only the low 32 bits of the sequence number. They are completed to the number
    /// nearest to `near`.
    pub(crate) fn read_stamp(&self, stamp: &[u8; STAMP], near: u64) -> Option<(u32, u64)> {
        let (first, second) = stamp.split_at(STAMP / 2);
        if self.payload == Payload::Binary {
            let connection = u64::from_le_bytes(first.try_into().ok()?);
            let sequence = u64::from_le_bytes(second.try_into().ok()?);
            return Some((u32::try_from(connection).ok()?, sequence));
        }
        let (connection, low) = (read_hex(first)?, read_hex(second)?);
        let distance = low.wrapping_sub(near as u32).cast_signed();
        Some((connection, near.checked_add_signed(distance.into())?))
    }

    /// Returns the part behind the stamp, or the whole message if it has no stamp.
    #[inline]
    pub(crate) fn body(&self, connection: u32, sequence: u64) -> &[u8] {
        self.class(connection, sequence).body(mix(connection, sequence))
    }

    #[inline]
    pub(crate) fn matches(&self, connection: u32, sequence: u64, echo: &[u8]) -> bool {
        let class = self.class(connection, sequence);
        if echo.len() != class.len {
            return false;
        }
        let body = class.body(mix(connection, sequence));
        match echo.split_first_chunk::<STAMP>() {
            Some((stamp, rest)) => {
                u128::from_le_bytes(*stamp) == self.stamp_word(connection, sequence)
                    && same(rest, body)
            }
            None => echo == body,
        }
    }
}

/// Longest first part of a payload: that of a compressed message.
pub(crate) const MAX_HEAD: usize = 5 + STAMP;

/// A payload as it is sent, in two parts: what is different in each message, and what messages
/// share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    head: [u8; MAX_HEAD],
    head_len: usize,
    body: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Returns a payload of two parts, the first at most [`MAX_HEAD`] bytes long.
    #[inline]
    pub(crate) fn new(head: &[u8], body: &'a [u8]) -> Self {
        let mut parts = Self { head: [0; MAX_HEAD], head_len: head.len(), body };
        parts.head[..head.len()].copy_from_slice(head);
        parts
    }

    #[inline]
    pub(crate) fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    #[inline]
    pub(crate) fn body(&self) -> &'a [u8] {
        self.body
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.head_len + self.body.len()
    }

    /// Returns the bytes from `at` to the end of their part; none at the end of the payload.
    #[inline]
    pub(crate) fn rest(&self, at: usize) -> &[u8] {
        match at.checked_sub(self.head_len) {
            Some(at) => self.body.get(at..).unwrap_or_default(),
            None => &self.head()[at..],
        }
    }

    /// Returns true if `bytes` are those from `at` on.
    #[inline]
    pub(crate) fn has_at(&self, at: usize, bytes: &[u8]) -> bool {
        let first = self.rest(at);
        let (now, later) = bytes.split_at(bytes.len().min(first.len()));
        let second = self.rest(at + now.len());
        now == &first[..now.len()] && second.len() >= later.len() && later == &second[..later.len()]
    }
}

/// Returns the length of the body of a message.
fn body_len(len: usize) -> usize {
    if len >= STAMP { len - STAMP } else { len }
}

/// Returns the distance of bodies of a length that do not overlap: a power of two, and lines.
fn spacing(body_len: usize) -> usize {
    body_len.next_power_of_two().max(LINE)
}

impl Class {
    fn new(
        payload: Payload,
        len: usize,
        weights: u64,
        cycle_bits: Option<u32>,
        random: &mut Random,
    ) -> Self {
        let body_len = body_len(len);
        let (starts, rotation) = match cycle_bits {
            // The uppermost bits, which are the best mixed.
            None => ((LINES - 1) * LINE, LINES_BITS + LINE.ilog2()),
            // The lowest bits, which do not depend on the connection, and are another number for
            // each message of the cycle.
            Some(bits) => (((1 << bits) - 1) * spacing(body_len), spacing(body_len).ilog2()),
        };
        let lines = starts / LINE + 1 + body_len.div_ceil(LINE);
        let mut pool = Vec::with_capacity(lines * LINE);
        if payload == Payload::TextJson {
            fill_json(lines * LINE, random, &mut pool);
        } else {
            for _ in 0..lines {
                fill_line(payload, body_len % LINE, random, &mut pool);
            }
        }
        Self { len, body_len, pool: pool.into(), starts, rotation, weights }
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.len >= STAMP
    }

    #[inline]
    fn body(&self, mixed: u64) -> &[u8] {
        let start = self.start(mixed);
        &self.pool[start..start + self.body_len]
    }

    /// Returns the position of the body in the pool.
    #[inline]
    fn start(&self, mixed: u64) -> usize {
        mixed.rotate_left(self.rotation) as usize & self.starts
    }
}

/// Returns a pseudo-random number that determines the size and the body of a message.
#[inline]
fn mix(connection: u32, sequence: u64) -> u64 {
    (u64::from(connection) << 32 ^ sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Compares two bodies. Bodies of 16 to 32 bytes take two overlapping loads each, without a call of
/// memcmp.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match a.len() {
        16..=32 => {
            a.first_chunk::<16>() == b.first_chunk() && a.last_chunk::<16>() == b.last_chunk()
        }
        _ => a == b,
    }
}

/// Returns eight hexadecimal digits, the first in the lowest byte.
#[inline]
fn hex(number: u32) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // Moves every half-byte into a separate byte, the highest one into the highest byte.
    let n = u64::from(number);
    let n = (n << 16 | n) & 0x0000_ffff_0000_ffff;
    let n = (n << 8 | n) & 0x00ff_00ff_00ff_00ff;
    let n = (n << 4 | n) & (0x0f * EACH);
    // Digits above nine carry into the upper half of their byte when six is added.
    let letters = ((n + 6 * EACH) >> 4) & EACH;
    (n + u64::from(b'0') * EACH + letters * u64::from(b'a' - b'0' - 10)).swap_bytes()
}

/// Reads digits only in the form that [`hex`] writes, so that no two stamps have the same meaning.
fn read_hex(digits: &[u8]) -> Option<u32> {
    let number = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (hex(number).to_le_bytes() == digits).then_some(number)
}

/// Adds a line with a boundary between characters at its start, at `cut`, and at its end.
fn fill_line(payload: Payload, cut: usize, random: &mut Random, pool: &mut Vec<u8>) {
    let scripts: &[Script] = match payload {
        Payload::Binary => {
            return (0..LINE / 8)
                .for_each(|_| pool.extend_from_slice(&random.next().to_le_bytes()));
        }
        Payload::TextAscii | Payload::TextJson => &[LATIN],
        Payload::TextMixed => &MIXED,
    };
    fill_text(cut, scripts, random, pool);
    fill_text(LINE - cut, scripts, random, pool);
}

/// Appends `len` bytes of a list of records.
fn fill_json(len: usize, random: &mut Random, pool: &mut Vec<u8>) {
    let end = pool.len() + len;
    let mut id = 100_000;
    while pool.len() < end {
        // As of a list in order.
        id = if id > 999_000 { 100_000 } else { id + 1 + random.below(100) };
        let [user, score] = [(); 2].map(|()| 1_000 + random.below(9_000));
        let active = random.next() & 1 == 0;
        let record = format!(
            "{{\"id\":{id},\"name\":\"user-{user}\",\"score\":{score},\"active\":{active}}},"
        );
        pool.extend_from_slice(record.as_bytes());
    }
    pool.truncate(end);
}

/// First and last character of a script. All characters of a script have the same length in UTF-8.
type Script = (char, char);

const LATIN: Script = ('a', 'z');
/// Scripts with one to four bytes a character. One, two and three bytes have two entries each,
/// because emoji are rarer.
const MIXED: [Script; 7] =
    [LATIN, LATIN, ('а', 'я'), ('а', 'п'), ('一', '鿋'), ('ぁ', 'ん'), ('😀', '🙏')];

/// Adds words of up to seven characters, each of one script, `len` bytes in all.
fn fill_text(len: usize, scripts: &[Script], random: &mut Random, pool: &mut Vec<u8>) {
    let end = pool.len() + len;
    while pool.len() < end {
        let script = scripts[random.below(scripts.len())];
        for _ in 0..=random.below(7) {
            push_char(script, end, random, pool);
        }
        if pool.len() < end {
            pool.push(b' ');
        }
    }
}

/// Appends a character of `script`, or a Latin one if that would not fit before `end`.
fn push_char(script: Script, end: usize, random: &mut Random, pool: &mut Vec<u8>) {
    let room = end - pool.len();
    let (first, last) = if script.0.len_utf8() <= room { script } else { LATIN };
    if room == 0 {
        return;
    }
    let count = last as usize - first as usize + 1;
    let scalar = first as u32 + random.below(count) as u32;
    // The scripts contain no surrogates: every number between their ends is a character.
    let character = char::from_u32(scalar).unwrap_or(first);
    pool.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bytes::BytesMut;
    use protocol::deflate::Deflater;

    use super::*;

    const ALL: [Payload; 4] =
        [Payload::Binary, Payload::TextAscii, Payload::TextMixed, Payload::TextJson];

    fn message(content: &Content, connection: u32, sequence: u64) -> Vec<u8> {
        let mut message = Vec::new();
        if content.is_stamped() {
            message.extend_from_slice(&content.stamp(connection, sequence));
        }
        message.extend_from_slice(content.body(connection, sequence));
        message
    }

    #[test]
    fn hexadecimal_digits_are_the_usual_ones() {
        for number in [0, 9, 10, 0x1234_5678, 0x9abc_def0, 0xffff_ffff, 0x0a0f_9099] {
            assert_eq!(hex(number).to_le_bytes(), *format!("{number:08x}").as_bytes());
        }
    }

    #[test]
    fn every_message_has_its_exact_length_and_text_is_utf_8() {
        for payload in ALL {
            for len in (0..=200).chain([1000, 1024, 4096, 65_535, 65_536, 70_001]) {
                let content = Content::new(payload, &[(len, 1)], 1);
                for sequence in 0..if len > 1000 { 20 } else { 600 } {
                    let message = message(&content, 3, sequence);
                    assert_eq!(message.len(), len);
                    assert!(content.matches(3, sequence, &message));
                    if payload != Payload::Binary {
                        std::str::from_utf8(&message).expect("text is UTF-8");
                    }
                }
            }
        }
    }

    #[test]
    fn mixed_text_has_characters_of_every_length_and_ascii_text_only_of_one() {
        let text = |payload| {
            String::from_utf8(message(&Content::new(payload, &[(4096, 1)], 1), 0, 0))
                .expect("UTF-8")
        };
        let mixed = text(Payload::TextMixed);
        assert!((1..=4).all(|len| mixed.chars().any(|c| c.len_utf8() == len)));
        assert!(text(Payload::TextAscii).is_ascii());
    }

    fn deflated(deflate: Deflate, len: usize) -> Content {
        let payload = Payload::TextJson;
        Content::of(&Load { payload, deflate, message_bytes: len.into(), ..Load::default() })
    }

    /// Returns the bodies of a cycle.
    fn bodies(content: &Content) -> Vec<&[u8]> {
        (0..content.cycle()).map(|sequence| content.body(0, sequence)).collect()
    }

    fn ratio(bodies: &[&[u8]], takes_over: bool) -> f64 {
        let settings = Load { deflate: Deflate::On, ..Load::default() }.compressor(15);
        let mut deflater = Deflater::new(settings, takes_over);
        let mut deflated = BytesMut::new();
        bodies.iter().for_each(|body| deflater.deflate(body, &mut deflated));
        bodies.iter().map(|body| body.len()).sum::<usize>() as f64 / deflated.len() as f64
    }

    #[test]
    fn json_compresses_to_about_a_fifth() {
        for len in [128, 1024, 16 << 10, 1 << 20] {
            let ratio = ratio(&bodies(&deflated(Deflate::On, len)), false);
            println!("{len} bytes: {ratio:.2}");
            assert!(len < 1024 || (4.0..6.0).contains(&ratio), "{len} bytes: {ratio}");
        }
    }

    /// Bodies that a window still holds would compress to nothing.
    #[test]
    fn context_takeover_finds_no_repeated_bodies() {
        for len in [32, 128, 1024, 16 << 10] {
            let content = deflated(Deflate::Takeover, len);
            let once = bodies(&content);
            let [alone, takeover] = [false, true].map(|takes_over| ratio(&once, takes_over));
            println!("{len} bytes: {alone:.2} alone, {takeover:.2} with context takeover");
            assert!(takeover < 6.5, "{len}: {takeover}");
            // The second cycle finds no more than the first.
            let twice = ratio(&[&once[..], &once[..]].concat(), true);
            assert!((twice / takeover - 1.0).abs() < 0.02, "{len}: {twice} and {takeover}");
        }
    }

    #[test]
    fn bodies_of_a_cycle_are_bounded_and_differ() {
        for (len, count) in
            [(0, 4096), (40, 4096), (1040, 1024), (64 << 10, 16), (1 << 20, 1), (64 << 20, 1)]
        {
            let content = deflated(Deflate::On, len);
            assert_eq!(content.cycle(), count, "{len}");
            let different: HashSet<_> = bodies(&content).into_iter().collect();
            assert!(different.len() as u64 == count || len < 1000, "{len}: {}", different.len());
            for (connection, sequence) in [(3, 5), (u32::MAX, 7 * count + 5)] {
                assert!(content.body(connection, sequence) == content.body(0, 5 % count));
            }
        }
        let sizes = "262144:1,262145:9".parse().expect("sizes");
        let load = Load { deflate: Deflate::On, message_bytes: sizes, ..Load::default() };
        assert_eq!(Content::of(&load).cycle(), 2);
    }

    #[test]
    fn stamps_are_read_back() {
        for payload in ALL {
            let content = Content::new(payload, &[(32, 1)], 1);
            for (connection, sequence) in [(0, 0), (7, 1), (u32::MAX, (1 << 33) + 5)] {
                let stamp = content.stamp(connection, sequence);
                let near = sequence.saturating_sub(3);
                assert_eq!(
                    content.read_stamp(&stamp, near),
                    Some((connection, sequence)),
                    "{payload:?}"
                );
                assert_eq!(content.read_stamp(&stamp, sequence + 3), Some((connection, sequence)));
            }
        }
        let text = Content::new(Payload::TextAscii, &[(32, 1)], 1);
        assert_eq!(text.read_stamp(b"0000000A00000000", 0), None);
        assert_eq!(text.read_stamp(b"00000001ffffffff", 0), None);
        let binary = Content::new(Payload::Binary, &[(32, 1)], 1);
        assert_eq!(binary.read_stamp(&[0xff; STAMP], 0), None);
    }

    #[test]
    fn neighbours_differ_and_seeds_differ() {
        let content = Content::new(Payload::Binary, &[(8, 1)], 1);
        assert!((0..1000).all(|n| content.body(1, n) != content.body(1, n + 1)));
        assert!((0..1000).all(|n| content.body(n, 0) != content.body(n + 1, 0)));
        assert_ne!(content.body(0, 0), Content::new(Payload::Binary, &[(8, 1)], 2).body(0, 0));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        for len in [1, 15, 16, 17, 100] {
            let content = Content::new(Payload::TextMixed, &[(len, 1)], 1);
            let good = message(&content, 1, 1);
            for i in 0..len {
                let mut bad = good.clone();
                bad[i] ^= 1;
                assert!(!content.matches(1, 1, &bad));
            }
            assert!(!content.matches(1, 1, &good[..len - 1]));
        }
    }

    #[test]
    fn sizes_come_as_often_as_their_weights_say_and_on_every_connection() {
        let content = Content::new(Payload::Binary, &[(64, 9), (4096, 1)], 1);
        assert_eq!((content.only_len(), content.is_stamped()), (None, true));
        for connection in [0, 1, 77] {
            let small = (0..100_000).filter(|&n| content.len_of(connection, n) == 64).count();
            assert!((89_000..91_000).contains(&small), "{small}");
        }
        let sizes = |connection| (0..64).map(|n| content.len_of(connection, n)).collect::<Vec<_>>();
        assert_ne!(sizes(1), sizes(2));
    }

    #[test]
    fn a_message_read_on_from_anywhere_is_the_message() {
        for len in [0, 5, 16, 40] {
            let content = Content::new(Payload::TextMixed, &[(len, 1)], 1);
            let whole = message(&content, 4, 7);
            for at in 0..=len {
                let (mut read, mut stamp) = (Vec::new(), [0; STAMP]);
                while at + read.len() < len {
                    let more = content.rest(4, 7, at + read.len(), &mut stamp).to_vec();
                    assert!(!more.is_empty());
                    read.extend(more);
                }
                assert_eq!(read, whole[at..]);
            }
        }
    }
}

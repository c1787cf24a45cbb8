//! Compressed messages (RFC 7692).
//!
//! The bodies of a whole [cycle](Content::cycle) are compressed once, before the run. The payload
//! of a message is then a stored block with its stamp, and the compressed body:
//!
//! ```text
//! 00 10 00 ef ff   BFINAL 0, BTYPE 00; LEN 16 and its complement (RFC 1951 3.2.4)
//! ..               the stamp, 16 bytes
//! ..               the deflated body, without the 00 00 ff ff of its flush
//! ```
//!
//! So sending it costs a copy and the mask, as without compression.
//!
//! With context takeover a body may refer to the messages before it in the cycle, but not to their
//! stamps, which are other bytes on each connection. While text is compressed, a [`GAP`] stands in
//! place of each stamp. Its bytes never occur in text, so no reference includes one of them. Bytes
//! of a binary message are random, and gain nothing from those before them: each is compressed by
//! itself. The first message of a cycle refers to nothing. A connection that replaces another one
//! begins within the cycle, and has no messages that those of the cycle could refer to. It
//! compresses what it sends, until a cycle begins.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use protocol::MessageKind;
use protocol::deflate::{CompressorSettings, Deflater, History, MAX_WINDOW_BITS, MIN_DEFLATE_BITS};
use protocol::handshake::deflate::Parameters;

use super::own::{OwnMessages, Source};
use super::payload::{Content, MAX_HEAD, Parts, STAMP};
use super::template::{Place, Template};
use crate::load::Load;

/// Header of a stored block as long as a stamp.
const STORED: [u8; MAX_HEAD - STAMP] = [0x00, STAMP as u8, 0x00, !(STAMP as u8), 0xff];

/// Bytes in place of a stamp while text is compressed: UTF-8 has none of them (RFC 3629 3).
const GAP: [u8; STAMP] = [
    0xff, 0xf5, 0xfe, 0xf6, 0xfd, 0xf7, 0xfc, 0xf8, 0xfb, 0xf9, 0xfa, 0xc0, 0xc1, 0xf5, 0xff, 0xf7,
];

/// Time for which the compression of messages is sampled, and most messages in it.
const SAMPLE: Duration = Duration::from_millis(50);
const SAMPLES: u64 = 2_000;

/// The compressed bodies of a cycle, one after the other.
#[derive(Debug)]
pub(crate) struct Precompressed {
    bytes: BytesMut,
    /// Position at which each ends.
    ends: Vec<usize>,
}

impl Precompressed {
    /// Compresses the bodies of a cycle. `takes_over`: they may refer to the messages before them.
    pub(crate) fn new(content: &Content, settings: CompressorSettings, takes_over: bool) -> Self {
        let takes_over = takes_over && content.kind() == MessageKind::Text;
        let mut deflater = Deflater::new(settings, takes_over);
        let (mut bytes, mut ends) = (BytesMut::new(), Vec::new());
        for sequence in 0..content.cycle() {
            if takes_over && content.has_stamp(content.class_of(0, sequence)) {
                deflater.skip(&GAP);
            }
            deflater.deflate(content.body(0, sequence), &mut bytes);
            ends.push(bytes.len());
        }
        Self { bytes, ends }
    }

    /// Compresses the user's own messages, which must be the same each time.
    pub(crate) fn of_own(own: &OwnMessages, settings: CompressorSettings) -> Self {
        let mut deflater = Deflater::new(settings, false);
        let (mut bytes, mut ends) = (BytesMut::new(), Vec::new());
        for text in own.templates().iter().map(Template::literal) {
            deflater.deflate(text.map(|text| &text[..]).unwrap_or_default(), &mut bytes);
            ends.push(bytes.len());
        }
        Self { bytes, ends }
    }

    /// Returns the payload of one of the user's own messages, by its index.
    pub(crate) fn own_parts(&self, index: usize) -> Parts<'_> {
        Parts::new(&[], self.body(index))
    }

    /// Returns the payload of a message.
    #[inline]
    pub(crate) fn parts(&self, content: &Content, connection: u32, sequence: u64) -> Parts<'_> {
        let body = self.body(sequence as usize % self.ends.len());
        if !content.has_stamp(content.class_of(connection, sequence)) {
            return Parts::new(&[], body);
        }
        let mut head = [0; MAX_HEAD];
        let (stored, stamp) = head.split_at_mut(STORED.len());
        stored.copy_from_slice(&STORED);
        stamp.copy_from_slice(&content.stamp(connection, sequence));
        Parts::new(&head, body)
    }

    #[inline]
    fn body(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }
}

/// Compresses messages while they are sent.
#[derive(Debug)]
pub(crate) struct Compressor {
    deflater: Deflater,
}

impl Compressor {
    pub(crate) fn new(settings: CompressorSettings, takes_over: bool) -> Self {
        Self { deflater: Deflater::new(settings, takes_over) }
    }

    /// Compresses a message into `scratch`, which is overwritten. Returns its payload.
    pub(crate) fn parts<'a>(
        &mut self,
        content: &Content,
        connection: u32,
        sequence: u64,
        scratch: &'a mut Scratch,
    ) -> Parts<'a> {
        let mut message = std::mem::take(&mut scratch.message);
        let place = Place { connection, sequence, time_ns: 0 };
        self.deflate(Source::Generated(content).message(place, &mut message), scratch);
        scratch.message = message;
        Parts::new(&[], &scratch.deflated)
    }

    /// Compresses a message into `scratch`. Returns its payload.
    pub(crate) fn deflate<'a>(&mut self, message: &[u8], scratch: &'a mut Scratch) -> Parts<'a> {
        scratch.deflated.clear();
        self.deflater.deflate(message, &mut scratch.deflated);
        Parts::new(&[], &scratch.deflated)
    }
}

/// Memory for a message and its compressed form.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    message: Vec<u8>,
    deflated: BytesMut,
}

/// Appends messages of a connection to a window: the last ones, as many as the largest window
/// holds.
pub(crate) fn push_messages(
    content: &Content,
    connection: u32,
    sequences: Range<u64>,
    history: &mut History,
) {
    let mut bytes = 0;
    let first = sequences.clone().rev().find(|&sequence| {
        bytes += content.len_of(connection, sequence);
        bytes >= 1 << MAX_WINDOW_BITS
    });
    for sequence in first.unwrap_or(sequences.start)..sequences.end {
        let parts = content.parts(connection, sequence);
        history.push(parts.head());
        history.push(parts.body());
    }
}

/// Returns the time that compressing a message takes while sending it, for the connections that do.
/// It is measured apart from the run, because a clock read for each message would disturb it.
pub(crate) fn ns_per_message(
    load: &Load,
    source: Source<'_>,
    agreed: Option<Parameters>,
) -> Option<f64> {
    let agreed = agreed.filter(|agreed| agreed.client_max_window_bits >= MIN_DEFLATE_BITS)?;
    let settings = load.compressor(agreed.client_max_window_bits);
    let mut compressor = Compressor::new(settings, !agreed.client_no_context_takeover);
    let (mut scratch, mut message, mut count) = (Scratch::default(), Vec::new(), 0);
    let mut compress = |sequence| {
        let place = Place { sequence, ..Place::default() };
        compressor.deflate(source.message(place, &mut message), &mut scratch);
    };
    // The first message fills caches and has no context.
    compress(0);
    let began = Instant::now();
    while count == 0 || count < SAMPLES && began.elapsed() < SAMPLE {
        // The clock is read once for eight messages.
        for sequence in count..count + 8 {
            compress(1 + sequence);
        }
        count += 8;
    }
    Some(began.elapsed().as_nanos() as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use protocol::Limits;
    use protocol::deflate::Inflater;

    use super::*;
    use crate::load::{Deflate, Payload};

    const PAYLOADS: [Payload; 4] =
        [Payload::Binary, Payload::TextAscii, Payload::TextMixed, Payload::TextJson];

    fn inflated(
        kind: MessageKind,
        parts: &Parts<'_>,
        mut history: Option<&mut History>,
    ) -> Vec<u8> {
        let input = [parts.head(), parts.body()].concat();
        assert_eq!(input.len(), parts.len());
        let (mut inflater, mut message) = (Inflater::new(), Vec::new());
        inflater.begin(kind, history.as_deref_mut());
        let take = |piece: &[u8]| message.extend_from_slice(piece);
        let limits = Limits::default();
        let result = inflater.inflate_all(&limits, &input, true, &mut [0; 4096], history, take);
        result.expect("valid");
        message
    }

    #[test]
    fn payload_of_every_size_inflates_to_its_message() {
        for payload in PAYLOADS {
            for len in (0..=40).step_by(3).chain([15, 16, 17, 125, 126, 1024, 65_535, 300_001]) {
                for (window_bits, takes_over) in [(15, false), (9, true)] {
                    let load = Load {
                        payload,
                        deflate: if takes_over { Deflate::Takeover } else { Deflate::On },
                        message_bytes: len.into(),
                        ..Load::default()
                    };
                    let content = Content::of(&load);
                    let set =
                        Precompressed::new(&content, load.compressor(window_bits), takes_over);
                    let mut history = takes_over.then(|| History::new(window_bits));
                    for sequence in 0..if len > 1024 { 3 } else { 100 } {
                        let parts = set.parts(&content, 7, sequence);
                        let message = inflated(content.kind(), &parts, history.as_mut());
                        assert_eq!(message.len(), len, "{payload:?}");
                        assert!(content.matches(7, sequence, &message), "{payload:?} {len}");
                    }
                }
            }
        }
    }

    #[test]
    fn cycles_with_takeover_inflate_on_every_connection() {
        for (payload, sizes) in [
            (Payload::TextJson, "32:1"),
            (Payload::TextMixed, "200:1"),
            (Payload::TextAscii, "1000:1"),
            (Payload::Binary, "64:1"),
            (Payload::TextJson, "5:1,40:2,3000:1"),
        ] {
            let message_bytes = sizes.parse().expect("sizes");
            let load =
                Load { payload, deflate: Deflate::Takeover, message_bytes, ..Load::default() };
            let content = Content::of(&load);
            let set = Precompressed::new(&content, load.compressor(15), true);
            for connection in [0, 0x00c1_f7ff] {
                let mut history = History::new(15);
                for sequence in 0..2 * content.cycle() + 1 {
                    let parts = set.parts(&content, connection, sequence);
                    let message = inflated(content.kind(), &parts, Some(&mut history));
                    assert!(content.matches(connection, sequence, &message), "{sizes} {sequence}");
                }
            }
        }
    }

    #[test]
    fn bodies_of_a_cycle_refer_to_those_before_them() {
        let bytes = |deflate, takes_over| {
            let message_bytes = 128.into();
            let load =
                Load { payload: Payload::TextJson, deflate, message_bytes, ..Load::default() };
            let content = Content::of(&load);
            Precompressed::new(&content, load.compressor(15), takes_over).bytes.len() as f64
        };
        let ratio = bytes(Deflate::Takeover, true) / bytes(Deflate::Takeover, false);
        assert!(ratio < 0.7, "{ratio}");
    }

    #[test]
    fn stamp_is_a_stored_block_before_the_body() {
        let load = Load { deflate: Deflate::On, message_bytes: 1024.into(), ..Load::default() };
        let content = Content::of(&load);
        let set = Precompressed::new(&content, load.compressor(15), false);
        let parts = set.parts(&content, 7, 5);
        assert_eq!(parts.head()[..5], [0x00, 0x10, 0x00, 0xef, 0xff]);
        assert_eq!(parts.head()[5..], content.stamp(7, 5));
        assert!(!parts.body().ends_with(&[0x00, 0x00, 0xff, 0xff]));
        let short = Load { message_bytes: 15.into(), ..load };
        let content = Content::of(&short);
        let set = Precompressed::new(&content, short.compressor(15), false);
        assert!(set.parts(&content, 7, 5).head().is_empty());
    }

    #[test]
    fn sizes_are_mixed_as_without_compression() {
        let message_bytes = "5:1,40:2,3000:1".parse().expect("sizes");
        let load = Load { deflate: Deflate::On, message_bytes, ..Load::default() };
        let content = Content::of(&load);
        let set = Precompressed::new(&content, load.compressor(15), false);
        for sequence in 0..300 {
            let message = inflated(content.kind(), &set.parts(&content, 1, sequence), None);
            assert!(content.matches(1, sequence, &message), "{sequence}");
        }
    }

    #[test]
    fn time_of_compressing_needs_a_window_to_compress_with() {
        let agreed = Parameters {
            server_no_context_takeover: false,
            client_no_context_takeover: false,
            server_max_window_bits: 15,
            client_max_window_bits: 15,
        };
        let (deflate, message_bytes) = (Deflate::Takeover, 1024.into());
        let load = Load { deflate, message_bytes, ..Load::default() };
        let content = Content::of(&load);
        let ns = |agreed| ns_per_message(&load, Source::Generated(&content), agreed);
        assert!(ns(Some(agreed)).is_some_and(|ns| ns > 100.0));
        assert_eq!(ns(None), None);
        assert_eq!(ns(Some(Parameters { client_max_window_bits: 8, ..agreed })), None);
    }

    #[test]
    fn parts_are_found_at_every_position() {
        let whole: Vec<u8> = (0..30).collect();
        for head in [0, 1, 16, 21] {
            let parts = Parts::new(&whole[..head], &whole[head..]);
            for at in 0..=30 {
                for end in at..=30 {
                    assert!(parts.has_at(at, &whole[at..end]));
                    let mut wrong = whole[at..end].to_vec();
                    wrong.last_mut().into_iter().for_each(|byte| *byte ^= 1);
                    assert!(wrong.is_empty() || !parts.has_at(at, &wrong));
                    assert!(!parts.has_at(at, &[&whole[at..], &[0]].concat()));
                }
            }
        }
    }
}

//! Compressed messages (RFC 7692).
//!
//! Where each message is compressed by itself, every body is compressed once, before the run. The
//! payload of a message is then a stored block with its stamp, and the compressed body:
//!
//! ```text
//! 00 10 00 ef ff   BFINAL 0, BTYPE 00; LEN 16 and its complement (RFC 1951 3.2.4)
//! ..               the stamp, 16 bytes
//! ..               the body, deflated by itself, without the 00 00 ff ff of its flush
//! ```
//!
//! So sending it costs a copy and the mask, as without compression. With context takeover a message
//! depends on those before it, and is compressed when it is sent.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use protocol::deflate::{CompressorSettings, Deflater, MIN_DEFLATE_BITS};
use protocol::handshake::deflate::Parameters;

use super::own::{OwnMessages, Source};
use super::payload::{Content, MAX_HEAD, Parts, STAMP};
use super::template::{Place, Template};
use crate::load::Load;

/// Header of a stored block as long as a stamp.
const STORED: [u8; MAX_HEAD - STAMP] = [0x00, STAMP as u8, 0x00, !(STAMP as u8), 0xff];

/// Time for which the compression of messages is sampled, and most messages in it.
const SAMPLE: Duration = Duration::from_millis(50);
const SAMPLES: u64 = 2_000;

/// The bodies of a run's messages, each compressed by itself.
#[derive(Debug)]
pub(crate) struct Precompressed {
    /// One for each size.
    classes: Vec<Bodies>,
}

/// The bodies of one size, one after the other.
#[derive(Debug)]
struct Bodies {
    bytes: BytesMut,
    /// Position at which each ends.
    ends: Vec<usize>,
}

impl Precompressed {
    pub(crate) fn new(content: &Content, settings: CompressorSettings) -> Self {
        let mut deflater = Deflater::new(settings, false);
        let class = |class| {
            let (mut bytes, mut ends) = (BytesMut::new(), Vec::new());
            for body in content.bodies(class) {
                deflater.deflate(body, &mut bytes);
                ends.push(bytes.len());
            }
            Bodies { bytes, ends }
        };
        Self { classes: (0..content.lens().count()).map(class).collect() }
    }

    /// Compresses the user's own messages, which must be the same each time.
    pub(crate) fn of_own(own: &OwnMessages, settings: CompressorSettings) -> Self {
        let mut deflater = Deflater::new(settings, false);
        let (mut bytes, mut ends) = (BytesMut::new(), Vec::new());
        for text in own.templates().iter().map(Template::literal) {
            deflater.deflate(text.map(|text| &text[..]).unwrap_or_default(), &mut bytes);
            ends.push(bytes.len());
        }
        Self { classes: vec![Bodies { bytes, ends }] }
    }

    /// Returns the payload of one of the user's own messages, by its index.
    pub(crate) fn own_parts(&self, index: usize) -> Parts<'_> {
        Parts::new(&[], self.classes[0].body(index))
    }

    /// Returns the payload of a message.
    #[inline]
    pub(crate) fn parts(&self, content: &Content, connection: u32, sequence: u64) -> Parts<'_> {
        let class = content.class_of(connection, sequence);
        let body = self.classes[class].body(content.body_index(class, connection, sequence));
        if !content.has_stamp(class) {
            return Parts::new(&[], body);
        }
        let mut head = [0; MAX_HEAD];
        let (stored, stamp) = head.split_at_mut(STORED.len());
        stored.copy_from_slice(&STORED);
        stamp.copy_from_slice(&content.stamp(connection, sequence));
        Parts::new(&head, body)
    }
}

impl Bodies {
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

/// Returns the time that compressing a message takes, where that is done while sending. It is
/// measured apart from the run, because a clock read for each message would disturb it.
pub(crate) fn ns_per_message(
    load: &Load,
    source: Source<'_>,
    agreed: Option<Parameters>,
) -> Option<f64> {
    let agreed = agreed.filter(|agreed| agreed.client_max_window_bits >= MIN_DEFLATE_BITS)?;
    if !load.compresses_while_sending() {
        return None;
    }
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
    use protocol::deflate::Inflater;
    use protocol::{Limits, MessageKind};

    use super::*;
    use crate::load::{Deflate, Payload};

    const PAYLOADS: [Payload; 4] =
        [Payload::Binary, Payload::TextAscii, Payload::TextMixed, Payload::TextJson];

    fn inflated(kind: MessageKind, parts: &Parts<'_>) -> Vec<u8> {
        let input = [parts.head(), parts.body()].concat();
        assert_eq!(input.len(), parts.len());
        let (mut inflater, mut message) = (Inflater::new(), Vec::new());
        inflater.begin(kind, None);
        let take = |piece: &[u8]| message.extend_from_slice(piece);
        let limits = Limits::default();
        let result = inflater.inflate_all(&limits, &input, true, &mut [0; 4096], None, take);
        result.expect("valid");
        message
    }

    #[test]
    fn payload_of_every_size_inflates_to_its_message() {
        for payload in PAYLOADS {
            for len in (0..=40).chain([125, 126, 1000, 1024, 65_535, 65_536, 300_001]) {
                for window_bits in [9, 15] {
                    let load = Load {
                        payload,
                        deflate: Deflate::On,
                        message_bytes: len.into(),
                        ..Load::default()
                    };
                    let content = Content::of(&load);
                    let set = Precompressed::new(&content, load.compressor(window_bits));
                    for sequence in 0..if len > 1024 { 3 } else { 100 } {
                        let parts = set.parts(&content, 7, sequence);
                        let message = inflated(content.kind(), &parts);
                        assert_eq!(message.len(), len, "{payload:?}");
                        assert!(content.matches(7, sequence, &message), "{payload:?} {len}");
                    }
                }
            }
        }
    }

    #[test]
    fn stamp_is_a_stored_block_before_the_body() {
        let load = Load { deflate: Deflate::On, message_bytes: 1024.into(), ..Load::default() };
        let content = Content::of(&load);
        let set = Precompressed::new(&content, load.compressor(15));
        let parts = set.parts(&content, 7, 5);
        assert_eq!(parts.head()[..5], [0x00, 0x10, 0x00, 0xef, 0xff]);
        assert_eq!(parts.head()[5..], content.stamp(7, 5));
        assert!(!parts.body().ends_with(&[0x00, 0x00, 0xff, 0xff]));
        let short = Load { message_bytes: 15.into(), ..load };
        let content = Content::of(&short);
        let set = Precompressed::new(&content, short.compressor(15));
        assert!(set.parts(&content, 7, 5).head().is_empty());
    }

    #[test]
    fn sizes_are_mixed_as_without_compression() {
        let message_bytes = "5:1,40:2,3000:1".parse().expect("sizes");
        let load = Load { deflate: Deflate::On, message_bytes, ..Load::default() };
        let content = Content::of(&load);
        let set = Precompressed::new(&content, load.compressor(15));
        for sequence in 0..300 {
            let message = inflated(content.kind(), &set.parts(&content, 1, sequence));
            assert!(content.matches(1, sequence, &message), "{sequence}");
        }
    }

    #[test]
    fn time_of_compressing_is_that_of_loads_that_compress_while_sending() {
        let agreed = Parameters {
            server_no_context_takeover: false,
            client_no_context_takeover: false,
            server_max_window_bits: 15,
            client_max_window_bits: 15,
        };
        let ns = |deflate, agreed| {
            let load = Load { deflate, message_bytes: 1024.into(), ..Load::default() };
            ns_per_message(&load, Source::Generated(&Content::of(&load)), agreed)
        };
        assert!(ns(Deflate::Takeover, Some(agreed)).is_some_and(|ns| ns > 100.0));
        assert_eq!(ns(Deflate::On, Some(agreed)), None);
        assert_eq!(ns(Deflate::Takeover, None), None);
        let tiny = Parameters { client_max_window_bits: 8, ..agreed };
        assert_eq!(ns(Deflate::Takeover, Some(tiny)), None);
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

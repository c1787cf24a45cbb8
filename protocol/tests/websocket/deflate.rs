//! Compressed messages: the RFC's examples, cuts anywhere, limits, ends, and histories.

use bytes::BytesMut;
use proptest::prelude::*;
use protocol::deflate::{CompressorSettings, Deflater, History, Inflater};
use protocol::{Limits, MessageKind, ProtocolError};

/// RFC 7692 7.2.3: "Hello" in one block, of fixed codes.
const HELLO: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";

const UNLIMITED: Limits = Limits { max_message: u64::MAX, max_fragments: u32::MAX };

/// Inflates a message that comes in these pieces, with this much room in each call, in bytes.
/// Returns all that was inflated before the error, if there is one.
fn inflate_with(
    inflater: &mut Inflater,
    mut history: Option<&mut History>,
    limits: &Limits,
    kind: MessageKind,
    pieces: &[&[u8]],
    room: usize,
) -> (Vec<u8>, Result<(), ProtocolError>) {
    inflater.begin(kind, history.as_deref_mut());
    let mut message = Vec::new();
    let mut out = vec![0; room];
    for (number, piece) in pieces.iter().enumerate() {
        let last = number + 1 == pieces.len();
        let mut rest = *piece;
        loop {
            match inflater.inflate(limits, rest, last, &mut out) {
                Ok(step) => {
                    message.extend_from_slice(&out[..step.written]);
                    rest = &rest[step.read..];
                    if step.done {
                        assert!(rest.is_empty(), "done with input left");
                        break;
                    }
                    assert_eq!(step.written, room, "neither done nor full");
                }
                Err(error) => return (message, Err(error)),
            }
        }
    }
    assert_eq!(inflater.len(), message.len() as u64);
    if let Some(history) = history {
        history.push(&message);
    }
    (message, Ok(()))
}

fn inflate(limits: &Limits, kind: MessageKind, bytes: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    let (message, result) =
        inflate_with(&mut Inflater::new(), None, limits, kind, &[bytes], 100_000);
    result.map(|()| message)
}

fn binary(bytes: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    inflate(&UNLIMITED, MessageKind::Binary, bytes)
}

fn deflate(message: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    Deflater::new(CompressorSettings::default(), false).deflate(message, &mut out);
    out.to_vec()
}

/// Records like those of an API, which compress well.
fn json(len: usize) -> Vec<u8> {
    let records = (0u64..).flat_map(|n| {
        let value = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        format!("{{\"id\":{n},\"name\":\"user-{value}\",\"active\":{}}},", value % 2 == 0)
            .into_bytes()
    });
    records.take(len).collect()
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn inflates_the_examples_of_rfc7692_7_2_3() {
    let cases: [(&str, &[u8]); 6] = [
        ("one block", HELLO),
        ("no compression", b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"),
        ("BFINAL", b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00"),
        ("BFINAL and nothing behind it", b"\xf3\x48\xcd\xc9\xc9\x07\x00"),
        ("two blocks", b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"),
        ("an empty block in front", b"\x00\x00\x00\xff\xff\xf2\x48\xcd\xc9\xc9\x07\x00"),
    ];
    for (name, bytes) in cases {
        assert_eq!(binary(bytes).as_deref(), Ok(&b"Hello"[..]), "{name}");
    }
    for empty in [&b"\x00"[..], b"\x02\x00", b"\x03\x00\x00"] {
        assert_eq!(binary(empty).as_deref(), Ok(&b""[..]), "{empty:x?}");
    }
}

#[test]
fn a_message_refers_to_the_one_before_only_with_takeover() {
    let second = b"\xf2\x00\x11\x00\x00";
    let (mut inflater, mut history) = (Inflater::new(), History::new(15));
    for bytes in [HELLO, second, second] {
        let read = inflate_with(
            &mut inflater,
            Some(&mut history),
            &UNLIMITED,
            MessageKind::Text,
            &[bytes],
            100,
        );
        assert_eq!(read, (b"Hello".to_vec(), Ok(())));
    }
    assert_eq!(binary(second), Err(ProtocolError::InvalidDeflate));
}

#[test]
fn blocks_after_a_final_one_begin_a_new_stream() {
    let twice = [&b"\xf3\x48\xcd\xc9\xc9\x07\x00"[..], HELLO].concat();
    assert_eq!(binary(&twice).as_deref(), Ok(&b"HelloHello"[..]));
    let refers_back = [&b"\xf3\x48\xcd\xc9\xc9\x07\x00"[..], b"\xf2\x00\x11\x00\x00"].concat();
    assert_eq!(binary(&refers_back), Err(ProtocolError::InvalidDeflate));
}

#[test]
fn every_cut_and_every_room_gives_the_same_message() {
    for message in [json(700), noise(300), vec![b'a'; 2000], Vec::new()] {
        let bytes = deflate(&message);
        let mut inflater = Inflater::new();
        for room in [1, 2, 7, 258, 259, 100_000] {
            for at in 0..=bytes.len() {
                let (first, second) = bytes.split_at(at);
                let pieces = [first, second];
                let kind = MessageKind::Binary;
                let read = inflate_with(&mut inflater, None, &UNLIMITED, kind, &pieces, room);
                assert_eq!(read, (message.clone(), Ok(())), "cut at {at}, room {room}");
            }
        }
    }
}

#[test]
fn a_message_that_ends_within_a_block_is_invalid() {
    for message in [json(400), noise(100), b"Hello".to_vec()] {
        let bytes = deflate(&message);
        for end in 0..bytes.len() {
            let result = binary(&bytes[..end]);
            assert_eq!(result, Err(ProtocolError::InvalidDeflate), "{end} of {}", bytes.len());
        }
    }
}

#[test]
fn the_limit_counts_inflated_bytes() {
    for len in [0, 1, 5, 100, 40_000] {
        for message in [vec![b'a'; len], noise(len)] {
            let bytes = deflate(&message);
            let read = |max_message| {
                let limits = Limits { max_message, ..UNLIMITED };
                inflate(&limits, MessageKind::Binary, &bytes).map(|message| message.len())
            };
            assert_eq!(read(len as u64), Ok(len));
            if len > 0 {
                let max = len as u64 - 1;
                assert_eq!(read(max), Err(ProtocolError::MessageTooBig { max }));
            }
        }
    }
}

#[test]
fn inflating_stops_at_the_limit() {
    let bomb = deflate(&vec![0; 10 << 20]);
    let limits = Limits { max_message: 1000, ..UNLIMITED };
    let kind = MessageKind::Binary;
    for room in [1, 999, 1000, 1001, 64 << 10] {
        let (inflated, result) =
            inflate_with(&mut Inflater::new(), None, &limits, kind, &[&bomb], room);
        assert_eq!(result, Err(ProtocolError::MessageTooBig { max: 1000 }));
        assert!(inflated.len() <= 1000, "{} bytes with room for {room}", inflated.len());
    }
}

#[test]
fn text_is_checked_as_soon_as_it_is_inflated() {
    let limits = UNLIMITED;
    let text = |bytes: &[u8]| inflate(&limits, MessageKind::Text, bytes);
    let valid = "a é 日 😀".repeat(50);
    assert_eq!(text(&deflate(valid.as_bytes())).as_deref(), Ok(valid.as_bytes()));
    let cut = &valid.as_bytes()[..valid.len() - 1];
    assert_eq!(text(&deflate(cut)), Err(ProtocolError::InvalidUtf8));
    assert_eq!(binary(&deflate(cut)).as_deref(), Ok(cut));
    // The fault is reported with the first piece, long before the end.
    let invalid = [&noise(40)[..], &json(5000)].concat();
    let bytes = deflate(&invalid);
    let mut inflater = Inflater::new();
    inflater.begin(MessageKind::Text, None);
    let result = inflater.inflate(&limits, &bytes[..60], false, &mut [0; 1000]);
    assert_eq!(result, Err(ProtocolError::InvalidUtf8));
}

#[test]
fn every_window_carries_messages_over() {
    for window_bits in 9..=15 {
        let settings = CompressorSettings { window_bits, ..CompressorSettings::default() };
        let mut deflater = Deflater::new(settings, true);
        let (mut inflater, mut history) = (Inflater::new(), History::new(window_bits));
        for len in [300, 0, 5, 70_000, 1, 0, 0, 40_000, 300] {
            let message = json(len);
            let mut bytes = BytesMut::new();
            deflater.deflate(&message, &mut bytes);
            let read = inflate_with(
                &mut inflater,
                Some(&mut history),
                &UNLIMITED,
                MessageKind::Text,
                &[&bytes],
                1000,
            );
            assert_eq!(read, (message, Ok(())), "{window_bits} bits, {len} bytes");
            assert!(history.memory() <= 1 << window_bits);
            if len % 2 == 0 {
                history.pack(&mut Deflater::new(CompressorSettings::default(), false));
            }
        }
    }
}

#[test]
fn a_message_that_is_compressed_in_pieces_is_whole() {
    for takes_over in [false, true] {
        let mut deflater = Deflater::new(CompressorSettings::default(), takes_over);
        let (mut inflater, mut history) = (Inflater::new(), History::new(15));
        for (len, piece) in [(0, 1), (5, 1), (5, 2), (40_000, 8192), (0, 1), (100_000, 777)] {
            let (message, mut bytes) = (json(len), BytesMut::new());
            deflater.begin();
            message.chunks(piece).for_each(|piece| deflater.push(piece, &mut bytes));
            deflater.finish(&mut bytes);
            let history = takes_over.then_some(&mut history);
            let (kind, pieces) = (MessageKind::Text, [&bytes[..]]);
            let read = inflate_with(&mut inflater, history, &UNLIMITED, kind, &pieces, 1000);
            assert_eq!(read, (message, Ok(())), "{len} bytes, {piece} at a time");
        }
    }
}

#[test]
fn a_packed_history_takes_less_memory() {
    let (mut inflater, mut history) = (Inflater::new(), History::new(15));
    inflater.begin(MessageKind::Binary, Some(&mut history));
    history.push(&json(100_000));
    assert_eq!(history.memory(), 32 << 10);
    history.pack(&mut Deflater::new(CompressorSettings::default(), false));
    assert!(history.memory() < 12 << 10, "{} bytes", history.memory());
    inflater.begin(MessageKind::Binary, Some(&mut history));
    assert_eq!(history.memory(), 32 << 10);
}

#[test]
fn a_takeover_makes_the_second_message_shorter() {
    let message = json(1000);
    let lengths = |takes_over| {
        let mut deflater = Deflater::new(CompressorSettings::default(), takes_over);
        let mut length = || {
            let mut bytes = BytesMut::new();
            deflater.deflate(&message, &mut bytes);
            bytes.len()
        };
        (length(), length())
    };
    let (first, second) = lengths(false);
    assert_eq!(first, second);
    let (first, second) = lengths(true);
    assert!(second < first / 5, "{second} after {first}");
}

#[test]
fn data_that_does_not_compress_stays_within_the_bound() {
    for len in [1, 100, 10_000, 1 << 20] {
        let bytes = deflate(&noise(len));
        let limits = Limits { max_message: len as u64, ..UNLIMITED };
        assert!((bytes.len() as u64) <= limits.max_compressed(1), "{} for {len}", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A peer that keeps its whole stream, and this end with nothing but the history, agree.
    #[test]
    fn a_history_is_all_that_the_next_message_needs(
        window_bits in 9..=11u8,
        messages in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..60), 0..40usize, any::<bool>()), 1..12),
    ) {
        let settings = CompressorSettings { window_bits, ..CompressorSettings::default() };
        let mut deflater = Deflater::new(settings, true);
        let mut packer = Deflater::new(CompressorSettings::default(), false);
        let (mut inflater, mut history) = (Inflater::new(), History::new(window_bits));
        for (message, repeats, packs) in messages {
            let message = message.repeat(repeats);
            let mut bytes = BytesMut::new();
            deflater.deflate(&message, &mut bytes);
            let (kind, pieces) = (MessageKind::Binary, [&bytes[..]]);
            let read = inflate_with(
                &mut inflater, Some(&mut history), &UNLIMITED, kind, &pieces, 777);
            prop_assert_eq!(read, (message, Ok(())));
            if packs {
                history.pack(&mut packer);
            }
        }
    }

    /// Bytes that are mostly DEFLATE data give the same, valid or not, however they are cut.
    #[test]
    fn cuts_change_neither_messages_nor_errors(
        message in prop::collection::vec(any::<u8>(), 0..300),
        repeats in 1..20usize,
        spoilt in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        room in 1..400usize,
        is_text in any::<bool>(),
        max_message in prop_oneof![Just(u64::MAX), 0..3000u64],
    ) {
        let kind = if is_text { MessageKind::Text } else { MessageKind::Binary };
        let message = if is_text { String::from_utf8_lossy(&message).into_owned().into_bytes() } else { message };
        let mut bytes = deflate(&message.repeat(repeats));
        if let Some((at, byte)) = spoilt {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        let limits = Limits { max_message, ..UNLIMITED };
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let pieces: Vec<&[u8]> = starts.zip(ends).map(|(start, end)| &bytes[start..end]).collect();
        let mut inflater = Inflater::new();
        let (whole, expected) =
            inflate_with(&mut inflater, None, &limits, kind, &[&bytes], 1 << 20);
        let (cut, result) = inflate_with(&mut inflater, None, &limits, kind, &pieces, room);
        prop_assert_eq!(&result, &expected);
        if result.is_ok() {
            prop_assert_eq!(cut, whole);
        }
    }
}

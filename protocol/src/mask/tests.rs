use proptest::prelude::*;

use super::kernel::{Kernel, available, choose};
use super::*;

const KEY: MaskingKey = MaskingKey([0x37, 0xfa, 0x21, 0x3d]);

/// Returns the masked payload by the oracle: RFC 6455 5.3, taken literally.
fn oracle(payload: &[u8], key: MaskingKey) -> Vec<u8> {
    payload.iter().enumerate().map(|(i, byte)| byte ^ key.0[i % 4]).collect()
}

/// Returns the same bytes for every kernel, without the period of any instruction set.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 131 + (i >> 8) * 17) as u8).collect()
}

/// Returns every length up to the start of the last algorithm, lengths around the steps beyond it,
/// and some long ones. Miri, a thousand times slower, tests one of each algorithm.
fn lengths() -> impl Iterator<Item = usize> {
    const ONE_OF_EACH: [usize; 19] =
        [0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 128, 129, 191, 300];
    let all = (0..=300)
        .chain([319, 320, 321, 383, 384, 447, 448, 511, 512, 513, 576, 577, 1000, 1023, 1024, 1025])
        .chain([4096, 16_411]);
    all.filter(|len| !cfg!(miri) || ONE_OF_EACH.contains(len))
}

/// Returns every number of the range, and for Miri some.
fn each(range: Range<usize>) -> impl Iterator<Item = usize> + Clone {
    range.step_by(if cfg!(miri) { 41 } else { 1 })
}

/// Bytes around the writable range.
const GUARD: u8 = 0xa5;

/// Returns the kernels for payloads of this length. Below [`SHORT`] there is one way for all, and
/// `None` stands for it.
fn ways(len: usize) -> Vec<Option<&'static Kernel>> {
    if len <= SHORT { vec![None] } else { available().map(Some).collect() }
}

fn mask_by(way: Option<&Kernel>, span: Span<'_>, key: MaskingKey) -> bool {
    match way {
        Some(kernel) => span.mask_by(kernel.mask_text, key),
        None => span.mask_text(key),
    }
}

fn name(way: Option<&Kernel>) -> &str {
    way.map_or("short", |kernel| kernel.name)
}

#[test]
fn masks_hello_as_rfc6455_5_7() {
    let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
    in_place(&mut payload, KEY);
    assert_eq!(&payload, b"Hello");
}

#[test]
fn rotated_key_fits_the_rest_of_the_payload() {
    let masked = oracle(&bytes(40), KEY);
    for n in 0..40 {
        assert_eq!(oracle(&masked[n..], KEY.rotated(n)), bytes(40)[n..], "{n}");
    }
}

#[test]
fn every_kernel_masks_in_place_at_every_length_and_alignment() {
    for len in lengths() {
        let payload = bytes(len);
        for phase in 0..4 {
            let key = KEY.rotated(phase);
            let expected = oracle(&payload, key);
            for way in ways(len) {
                for alignment in each(0..64) {
                    let mut buf = vec![GUARD; alignment + len + 70];
                    let within = alignment..alignment + len;
                    buf[within.clone()].copy_from_slice(&payload);
                    let is_ascii = mask_by(way, Span::in_place(&mut buf[within.clone()]), key);
                    let case = || format!("{} {len} at {alignment}, phase {phase}", name(way));
                    assert_eq!(buf[within.clone()], expected, "{}", case());
                    assert_eq!(is_ascii, expected.is_ascii(), "{}", case());
                    check_guards(&buf, within.clone(), case);
                    if let Some(kernel) = way {
                        Span::in_place(&mut buf[within.clone()]).mask_by(kernel.mask, key);
                    } else {
                        in_place(&mut buf[within.clone()], key);
                    }
                    assert_eq!(buf[within.clone()], payload, "back, {}", case());
                    check_guards(&buf, within, case);
                }
            }
        }
    }
}

#[test]
fn every_kernel_copies_between_all_alignments() {
    for len in lengths() {
        let expected = oracle(&bytes(len), KEY);
        for way in ways(len) {
            for alignment in each(0..64) {
                let src = [&vec![GUARD; alignment][..], &bytes(len)].concat();
                let within = alignment * 29 % 64..alignment * 29 % 64 + len;
                let mut dst = vec![GUARD; within.end + 70];
                let span = Span::between(&src[alignment..], &mut dst[within.clone()]);
                let is_ascii = mask_by(way, span, KEY);
                let case = || format!("{} {len} from {alignment} to {}", name(way), within.start);
                assert_eq!(dst[within.clone()], expected, "{}", case());
                assert_eq!(is_ascii, expected.is_ascii(), "{}", case());
                check_guards(&dst, within.clone(), case);
            }
        }
    }
}

#[test]
fn every_kernel_shifts_by_every_distance() {
    for len in lengths() {
        let (payload, expected) = (bytes(len), oracle(&bytes(len), KEY));
        let beyond = [len.saturating_sub(1), len, len + 1, 2 * len + 1];
        for way in ways(len) {
            for distance in each(0..301).chain(beyond) {
                let to = (distance * 5 + len) % 64;
                let src = to + distance..to + distance + len;
                let mut buf = vec![GUARD; src.end + 70];
                buf[src.clone()].copy_from_slice(&payload);
                let is_ascii = mask_by(way, Span::within(&mut buf, src.clone(), to), KEY);
                let case = || format!("{} {len} by {distance} to {to}", name(way));
                assert_eq!(buf[to..to + len], expected, "{}", case());
                assert_eq!(is_ascii, expected.is_ascii(), "{}", case());
                check_guards(&buf, to..src.end, case);
            }
        }
    }
}

/// Checks that only `written` was written.
fn check_guards(buf: &[u8], written: Range<usize>, case: impl Fn() -> String) {
    let around = buf[..written.start].iter().chain(&buf[written.end..]);
    assert!(around.copied().all(|byte| byte == GUARD), "{} wrote beyond", case());
}

#[test]
fn one_byte_that_is_not_ascii_is_found_anywhere() {
    for len in each(1..301).chain([320, 321, 513, 577, 700]) {
        let plain = vec![b'x'; len];
        let masked = oracle(&plain, KEY);
        for way in ways(len) {
            assert!(mask_by(way, Span::in_place(&mut masked.clone()), KEY), "{} {len}", name(way));
            for at in each(0..len) {
                let mut masked = masked.clone();
                masked[at] ^= 0x80;
                let is_ascii = mask_by(way, Span::in_place(&mut masked), KEY);
                assert!(!is_ascii, "{} {len}, byte {at}", name(way));
            }
        }
    }
}

#[test]
fn the_kernel_in_use_masks_copies_and_shifts() {
    for len in lengths() {
        let (payload, expected) = (bytes(len), oracle(&bytes(len), KEY));
        let mut buf = payload.clone();
        in_place(&mut buf, KEY);
        assert_eq!(buf, expected, "in place, {len}");
        copy(&payload, &mut buf, KEY);
        assert_eq!(buf, expected, "copy, {len}");
        let mut buf = [b"ab", &payload[..]].concat();
        shift(&mut buf, 2..2 + len, 1, KEY);
        assert_eq!(buf[1..=len], expected, "shift, {len}");
        let mut message = BytesMut::from("before");
        append(&payload, &mut message, KEY);
        assert_eq!(message, [b"before", &expected[..]].concat(), "append, {len}");
    }
}

#[test]
#[should_panic(expected = "forward only")]
fn shift_backward_panics() {
    shift(&mut [0; 8], 2..4, 3, KEY);
}

#[test]
#[should_panic(expected = "out of range")]
fn shift_from_beyond_the_end_panics() {
    shift(&mut [0; 8], 2..9, 1, KEY);
}

#[test]
#[should_panic(expected = "differ in length")]
fn copy_of_unequal_lengths_panics() {
    copy(&[0; 3], &mut [0; 4], KEY);
}

#[test]
fn unknown_kernel_names_give_the_preferred_one() {
    for kernel in available() {
        assert_eq!(choose(Some(kernel.name)).name, kernel.name);
    }
    let best = available().next().unwrap().name;
    assert_eq!(choose(None).name, best);
    assert_eq!(choose(Some("mmx")).name, best);
    assert!(available().any(|kernel| kernel.name == super::kernel()));
}

/// Returns text of any scripts, with some bytes overwritten, so that both answers are common.
fn text(characters: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let script = prop_oneof![
        Just('a'..='z'),
        Just('б'..='я'),
        Just('ก'..='๛'),
        Just('가'..='힣'),
        Just('😀'..='🙏')
    ];
    let word = script.prop_flat_map(|script| {
        prop::collection::vec(prop::char::range(*script.start(), *script.end()), 1..40)
    });
    let replaced = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (prop::collection::vec(word, characters), replaced).prop_map(|(words, replaced)| {
        let mut bytes = words.concat().into_iter().collect::<String>().into_bytes();
        for (at, byte) in replaced {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes
    })
}

/// Tests each pair of bytes, and each lead with possible continuations, at every place in a
/// register.
#[test]
fn every_kernel_decides_utf_8_as_std() {
    let edges: [u8; 24] = [
        0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec,
        0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff,
    ];
    let check = |text: &[u8]| {
        for kernel in available() {
            let expected = std::str::from_utf8(text).is_ok();
            assert_eq!(kernel.is_utf8(text), expected, "{} {text:x?}", kernel.name);
        }
    };
    for first in edges {
        for second in edges {
            for third in edges {
                check(&[first, second, third]);
                check(&[first, second, third, 0x80]);
                check(&[first, second, third, 0xbf, b'.']);
            }
        }
    }
    for sequence in ["é", "ก", "힣", "😀"].map(str::as_bytes) {
        for cut in 0..=sequence.len() {
            for at in each(0..400) {
                let mut text = vec![b'x'; at];
                text.extend_from_slice(&sequence[..cut]);
                check(&text);
                text.extend_from_slice(&vec![b'y'; 400 - at]);
                check(&text);
            }
        }
    }
}

/// Registers are loaded aligned, together with the three bytes before them.
#[test]
fn bytes_around_a_text_make_no_difference() {
    let text = "日本語 és 😀🎉 한국 ".repeat(20);
    for alignment in each(0..64) {
        for len in (0..text.len()).filter(|&len| text.is_char_boundary(len)).rev().take(90) {
            let buf = [&vec![0xf0; alignment][..], &text.as_bytes()[..len], &[0x80; 70]].concat();
            for kernel in available() {
                assert!(
                    kernel.is_utf8(&buf[alignment..alignment + len]),
                    "{} {len} at {alignment}",
                    kernel.name
                );
                let with_one_more = &buf[alignment..alignment + len + 1];
                assert!(!kernel.is_utf8(with_one_more), "{} {len} at {alignment}", kernel.name);
            }
        }
    }
}

proptest! {
    #[test]
    fn every_kernel_agrees_with_std_on_random_text(text in text(0..40), cut in any::<prop::sample::Index>()) {
        for text in [&text[..], &text[cut.index(text.len() + 1)..], &text[..cut.index(text.len() + 1)]] {
            for kernel in available() {
                prop_assert_eq!(kernel.is_utf8(text), std::str::from_utf8(text).is_ok(), "{}", kernel.name);
            }
        }
    }

    #[test]
    fn masks_random_payloads_cut_anywhere(
        payload in prop::collection::vec(any::<u8>(), 0..400),
        key in any::<[u8; 4]>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let key = MaskingKey::from_bytes(key);
        let cut = cut.index(payload.len() + 1);
        let mut buf = payload.clone();
        let (head, tail) = buf.split_at_mut(cut);
        in_place(head, key);
        in_place(tail, key.rotated(cut));
        prop_assert_eq!(&buf, &oracle(&payload, key));
        in_place(&mut buf, key);
        prop_assert_eq!(buf, payload);
    }
}

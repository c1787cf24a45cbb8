//! Masking and UTF-8 validation of this project and of other libraries, with memcpy as the limit.
//!
//! All ways of one operation are sampled in turn, about ten microseconds each, and the best sample
//! of each counts. Other work on the machine, and changes of its clock, then affect all of them or
//! none. `SPARRING_KERNEL` forces a kernel of this project; the others choose their own.
//!
//! Payloads lie where frames put them: behind a masked client's header of 6, 8 or 14 bytes. In
//! place means that one buffer is read and written; memcpy reads one and writes another of the same
//! layout.

mod frames;
mod peers;
mod sample;

use bytes::BytesMut;
use protocol::{MaskingKey, Utf8, mask, text};

use frames::Frames;
use sample::{Case, measure, print};

const ASCII: &str = "The quick brown fox jumps over the lazy dog; 0123456789. ";
const MIXED: &str = "Привет, мир! 你好，世界。こんにちは世界 안녕하세요 😀🎉🚀 Ελληνικά ";

/// Masking key for ASCII. None of its bytes has the top bit set, so that ASCII stays ASCII, masked
/// or not, and a pass can be repeated.
const KEY: [u8; 4] = [0x12, 0x54, 0x36, 0x78];
/// Masking key for other text: only the key that changes nothing lets a pass be repeated. No
/// library depends on a key's value.
const ZERO: [u8; 4] = [0; 4];

fn main() {
    let rounds = match std::env::args().nth(1).map(|n| n.parse()) {
        None => 1000,
        Some(Ok(rounds)) => rounds,
        Some(Err(_)) => {
            eprintln!("usage: mask-bench [ROUNDS, by default 1000]");
            std::process::exit(2);
        }
    };
    println!("kernel: {}; minimum of {rounds} interleaved samples", mask::kernel());
    let mut cases = Vec::new();
    for len in [16, 64, 125, 1024] {
        let column = format!("{len} B");
        let frames = |sample: &str, key| Frames::new(64 << 10, len, sample, key);
        let count = frames(ASCII, KEY).count() as f64;
        ways(&mut cases, &column, count, frames);
    }
    measure(&mut cases, rounds);
    println!("\nFrames in a buffer of 64 KiB, ns per frame (times memcpy of their payloads):\n");
    print(&cases, "memcpy", |ns, limit| format!("{ns:.2} ({:.2})", ns / limit));
    cases.clear();
    for (name, len) in [
        ("1 KiB", 1 << 10),
        ("4 KiB", 4 << 10),
        ("16 KiB", 16 << 10),
        ("64 KiB", 64 << 10),
        ("1 MiB", 1 << 20),
    ] {
        ways(&mut cases, name, len as f64, |sample, key| Frames::new(len, len, sample, key));
    }
    measure(&mut cases, rounds);
    println!("\nOne payload, GB/s (as a part of memcpy):\n");
    print(&cases, "memcpy", |ns, limit| format!("{:.1} ({:.2})", ns.recip(), limit / ns));
}

/// Adds all ways, for the payloads that `frames` makes of a text and a key.
fn ways(cases: &mut Vec<Case>, column: &str, units: f64, frames: impl Fn(&str, [u8; 4]) -> Frames) {
    cases.push(into(memcpy, "memcpy", column, units, frames(ASCII, KEY)));
    cases.push(in_place(unmask, "unmask", column, units, frames(ASCII, KEY)));
    cases.push(into(unmask_copy, "unmask + copy", column, units, frames(ASCII, KEY)));
    cases.push(in_place(
        peers::tokio_websockets,
        "tokio-websockets",
        column,
        units,
        frames(ASCII, KEY),
    ));
    cases.push(in_place(peers::sockudo_ws, "sockudo-ws", column, units, frames(ASCII, KEY)));
    cases.push(in_place(
        peers::fastwebsockets,
        "fastwebsockets",
        column,
        units,
        frames(ASCII, KEY),
    ));
    cases.push(in_place(text, "ASCII text", column, units, frames(ASCII, KEY)));
    cases.push(append("ASCII text + copy", column, units, frames(ASCII, KEY)));
    cases.push(in_place(
        peers::tokio_websockets_text,
        "ASCII, tokio-websockets then simdutf8",
        column,
        units,
        frames(ASCII, KEY),
    ));
    cases.push(in_place(
        peers::sockudo_ws_text,
        "ASCII, sockudo-ws then simdutf8",
        column,
        units,
        frames(ASCII, KEY),
    ));
    cases.push(in_place(
        peers::fastwebsockets_text,
        "ASCII, fastwebsockets then std",
        column,
        units,
        frames(ASCII, KEY),
    ));
    cases.push(in_place(text, "mixed text", column, units, frames(MIXED, ZERO)));
    cases.push(append("mixed text + copy", column, units, frames(MIXED, ZERO)));
    cases.push(in_place(
        peers::tokio_websockets_text,
        "mixed, tokio-websockets then simdutf8",
        column,
        units,
        frames(MIXED, ZERO),
    ));
    cases.push(in_place(
        peers::sockudo_ws_text,
        "mixed, sockudo-ws then simdutf8",
        column,
        units,
        frames(MIXED, ZERO),
    ));
    cases.push(in_place(
        peers::fastwebsockets_text,
        "mixed, fastwebsockets then std",
        column,
        units,
        frames(MIXED, ZERO),
    ));
    cases.push(into(compare, "compare", column, units, frames(ASCII, KEY)));
}

fn in_place(
    way: impl Fn(&mut [u8], [u8; 4]) + Copy + 'static,
    row: &'static str,
    column: &str,
    units: f64,
    mut frames: Frames,
) -> Case {
    Case::new(row, column, units, move || frames.each(way))
}

fn into(
    way: impl Fn(&[u8], &mut [u8], [u8; 4]) + Copy + 'static,
    row: &'static str,
    column: &str,
    units: f64,
    mut frames: Frames,
) -> Case {
    let mut other = frames.same();
    Case::new(row, column, units, move || frames.each_into(&mut other, way))
}

/// Returns a case that appends every message to a buffer of its own, as messages are assembled.
fn append(row: &'static str, column: &str, units: f64, mut frames: Frames) -> Case {
    let mut message = BytesMut::new();
    Case::new(row, column, units, move || {
        frames.each(|payload, key| {
            message.clear();
            let mut utf8 = Utf8::default();
            let result =
                text::append(payload, &mut message, MaskingKey::from_bytes(key), &mut utf8);
            assert!(result.and_then(|()| utf8.finish()).is_ok());
        });
    })
}

#[inline]
fn memcpy(payload: &[u8], target: &mut [u8], _: [u8; 4]) {
    target.copy_from_slice(payload);
}

#[inline]
fn unmask(payload: &mut [u8], key: [u8; 4]) {
    mask::in_place(payload, MaskingKey::from_bytes(key));
}

#[inline]
fn unmask_copy(payload: &[u8], target: &mut [u8], key: [u8; 4]) {
    mask::copy(payload, target, MaskingKey::from_bytes(key));
}

#[inline]
fn text(payload: &mut [u8], key: [u8; 4]) {
    let mut utf8 = Utf8::default();
    let result = text::in_place(payload, MaskingKey::from_bytes(key), &mut utf8);
    assert!(result.and_then(|()| utf8.finish()).is_ok());
}

/// Compares an echo as the load generator does.
#[inline]
fn compare(payload: &[u8], expected: &mut [u8], _: [u8; 4]) {
    assert!(payload == expected);
}

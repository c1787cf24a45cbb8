//! Throughput of the functions that touch every byte, with memcpy as the limit.
//!
//! `cargo bench -p sparring-protocol [FILTER]`; `SPARRING_KERNEL` forces a kernel. Payloads lie
//! eight bytes into a buffer, as behind a header, and every pass uses the same one: payloads of up
//! to 16 KiB come from the first-level cache. The key for text is zero, so that the text stays text
//! in every pass; no kernel depends on a key's value. For other libraries, sampled in turn:
//! `scripts/peers/mask-bench`.

use bytes::BytesMut;
use divan::Bencher;
use divan::counter::BytesCount;
use protocol::{MaskingKey, Utf8, mask, text};

const LENGTHS: [usize; 7] = [16, 64, 125, 256, 1 << 10, 16 << 10, 64 << 10];
const KEY: MaskingKey = MaskingKey::from_bytes([0x37, 0xfa, 0x21, 0x3d]);
const NOTHING: MaskingKey = MaskingKey::from_bytes([0; 4]);
/// Index at which the payload begins.
const AT: usize = 8;

fn main() {
    println!("kernel: {}", mask::kernel());
    divan::main();
}

/// Returns a buffer with `len` bytes of payload at [`AT`].
fn buffer(sample: &str, len: usize) -> Vec<u8> {
    let mut buf = vec![0; AT];
    for character in sample.chars().cycle() {
        if buf.len() + character.len_utf8() > AT + len {
            break;
        }
        buf.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    buf.resize(AT + len, b'.');
    buf
}

const ASCII: &str = "The quick brown fox jumps over the lazy dog. ";
const MIXED: &str = "Привет, мир! 你好，世界。こんにちは世界 안녕하세요 😀🎉🚀 Ελληνικά ";

#[divan::bench(args = LENGTHS)]
fn memcpy(bencher: Bencher<'_, '_>, len: usize) {
    let (source, mut target) = (buffer(ASCII, len), buffer(ASCII, len));
    bencher.counter(BytesCount::new(len)).bench_local(move || {
        target[AT..].copy_from_slice(divan::black_box(&source[AT..]));
        divan::black_box(&mut target);
    });
}

#[divan::bench(args = LENGTHS)]
fn unmask_in_place(bencher: Bencher<'_, '_>, len: usize) {
    let mut buf = buffer(ASCII, len);
    bencher
        .counter(BytesCount::new(len))
        .bench_local(move || mask::in_place(divan::black_box(&mut buf[AT..]), KEY));
}

#[divan::bench(args = LENGTHS)]
fn unmask_shift_by_4(bencher: Bencher<'_, '_>, len: usize) {
    let mut buf = buffer(ASCII, len);
    bencher
        .counter(BytesCount::new(len))
        .bench_local(move || mask::shift(divan::black_box(&mut buf), AT..AT + len, AT - 4, KEY));
}

#[divan::bench(args = LENGTHS)]
fn unmask_copy(bencher: Bencher<'_, '_>, len: usize) {
    let (source, mut target) = (buffer(ASCII, len), buffer(ASCII, len));
    bencher.counter(BytesCount::new(len)).bench_local(move || {
        mask::copy(divan::black_box(&source[AT..]), divan::black_box(&mut target[AT..]), KEY);
    });
}

#[divan::bench(args = LENGTHS)]
fn ascii_in_place(bencher: Bencher<'_, '_>, len: usize) {
    text_in_place(bencher, ASCII, len);
}

#[divan::bench(args = LENGTHS)]
fn mixed_in_place(bencher: Bencher<'_, '_>, len: usize) {
    text_in_place(bencher, MIXED, len);
}

fn text_in_place(bencher: Bencher<'_, '_>, sample: &str, len: usize) {
    let mut buf = buffer(sample, len);
    bencher.counter(BytesCount::new(len)).bench_local(move || {
        let mut utf8 = Utf8::default();
        text::in_place(divan::black_box(&mut buf[AT..]), NOTHING, &mut utf8)
            .and_then(|()| utf8.finish())
    });
}

#[divan::bench(args = LENGTHS)]
fn ascii_append(bencher: Bencher<'_, '_>, len: usize) {
    text_append(bencher, ASCII, len);
}

#[divan::bench(args = LENGTHS)]
fn mixed_append(bencher: Bencher<'_, '_>, len: usize) {
    text_append(bencher, MIXED, len);
}

fn text_append(bencher: Bencher<'_, '_>, sample: &str, len: usize) {
    let (source, mut message) = (buffer(sample, len), BytesMut::new());
    bencher.counter(BytesCount::new(len)).bench_local(move || {
        message.clear();
        let mut utf8 = Utf8::default();
        text::append(divan::black_box(&source[AT..]), &mut message, NOTHING, &mut utf8)
            .and_then(|()| utf8.finish())
    });
}

#[divan::bench(args = LENGTHS)]
fn validate_mixed(bencher: Bencher<'_, '_>, len: usize) {
    let buf = buffer(MIXED, len);
    bencher
        .counter(BytesCount::new(len))
        .bench_local(move || Utf8::default().update(divan::black_box(&buf[AT..])));
}

/// Checks an echo as the load generator does.
#[divan::bench(args = LENGTHS)]
fn compare(bencher: Bencher<'_, '_>, len: usize) {
    let (echo, expected) = (buffer(ASCII, len), buffer(ASCII, len));
    bencher
        .counter(BytesCount::new(len))
        .bench_local(move || divan::black_box(&echo[AT..]) == divan::black_box(&expected[AT..]));
}

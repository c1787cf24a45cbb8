//! Buffers full of masked frames, as a server receives them.

use std::hint::black_box;

/// Frames of one length, next to each other.
#[derive(Clone)]
pub struct Frames {
    buf: Vec<u8>,
    header_len: usize,
    payload_len: usize,
    count: usize,
}

impl Frames {
    /// Returns as many frames as fit into `size` bytes, one at least; the payload is `sample`,
    /// repeated as needed.
    pub fn new(size: usize, payload_len: usize, sample: &str, key: [u8; 4]) -> Self {
        let header_len = match payload_len {
            0..=125 => 6,
            126..=0xffff => 8,
            _ => 14,
        };
        let count = (size / (header_len + payload_len)).max(1);
        let mut frame = vec![0x81; header_len - 4];
        frame.extend_from_slice(&key);
        let payload = filled(sample, payload_len);
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        Frames { buf: frame.repeat(count), header_len, payload_len, count }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Passes every payload, with its key, to `way`.
    #[inline(always)]
    pub fn each(&mut self, mut way: impl FnMut(&mut [u8], [u8; 4])) {
        let (header_len, payload_len) = (black_box(self.header_len), black_box(self.payload_len));
        let mut rest = &mut self.buf[..];
        while rest.len() >= header_len + payload_len {
            let (frame, behind) = rest.split_at_mut(header_len + payload_len);
            let (header, payload) = frame.split_at_mut(header_len);
            let Some(&key) = header.last_chunk() else { return };
            way(payload, key);
            rest = behind;
        }
        black_box(&mut self.buf);
    }

    /// Passes every payload, with its key and its place in a buffer of the same layout, to `way`.
    #[inline(always)]
    pub fn each_into(&mut self, other: &mut [u8], mut way: impl FnMut(&[u8], &mut [u8], [u8; 4])) {
        let mut rest = black_box(other);
        let header_len = self.header_len;
        self.each(|payload, key| {
            let target = &mut std::mem::take(&mut rest)[header_len..];
            let (target, behind) = target.split_at_mut(payload.len());
            way(payload, target, key);
            rest = behind;
        });
    }

    /// Returns a buffer of the same layout and content.
    pub fn same(&self) -> Vec<u8> {
        self.buf.clone()
    }
}

/// Returns `sample` repeated, and dots where no further character fits.
fn filled(sample: &str, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    for character in sample.chars().cycle() {
        if bytes.len() + character.len_utf8() > len {
            break;
        }
        bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    bytes.resize(len, b'.');
    bytes
}

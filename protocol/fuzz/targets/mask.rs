//! Masking in place, from buffer to buffer and while moving, compared with RFC 6455 5.3 taken
//! literally.

use protocol::{MaskingKey, mask};

/// Input: key, alignment, distance, cut, then the payload.
pub fn target(data: &[u8]) {
    let Some((&[a, b, c, d, alignment, distance, cut], payload)) = data.split_first_chunk() else {
        return;
    };
    let key = [a, b, c, d];
    let expected: Vec<u8> =
        payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    let case = Case {
        payload,
        expected: &expected,
        key: MaskingKey::from_bytes(key),
        alignment: usize::from(alignment % 64),
    };
    case.in_place();
    case.in_two(usize::from(cut) * payload.len() / 255);
    case.copy();
    // Distances cover the headers' lengths, and reach beyond the payload's own.
    case.shift(usize::from(distance % 16));
    case.shift(usize::from(distance) * (payload.len() + 8) / 255);
}

struct Case<'a> {
    payload: &'a [u8],
    expected: &'a [u8],
    key: MaskingKey,
    alignment: usize,
}

/// Byte that surrounds the writable range.
const GUARD: u8 = 0xa5;

impl Case<'_> {
    /// Returns a buffer with the payload from `start` on, and guards around it.
    fn buffer(&self, start: usize) -> Vec<u8> {
        [&vec![GUARD; start], self.payload, &[GUARD; 70]].concat()
    }

    fn in_place(&self) {
        let mut buf = self.buffer(self.alignment);
        let payload = self.alignment..self.alignment + self.payload.len();
        mask::in_place(&mut buf[payload.clone()], self.key);
        assert_eq!(buf[payload.clone()], *self.expected);
        guarded(&buf, payload);
    }

    fn in_two(&self, cut: usize) {
        let mut buf = self.payload.to_vec();
        let (head, tail) = buf.split_at_mut(cut);
        mask::in_place(head, self.key);
        mask::in_place(tail, self.key.rotated(cut));
        assert_eq!(buf, self.expected, "cut at {cut}");
        mask::in_place(&mut buf, self.key);
        assert_eq!(buf, self.payload, "twice is nothing");
    }

    fn copy(&self) {
        let mut dst = self.buffer(self.alignment);
        let to = self.alignment..self.alignment + self.payload.len();
        mask::copy(self.payload, &mut dst[to.clone()], self.key);
        assert_eq!(dst[to.clone()], *self.expected);
        guarded(&dst, to);
    }

    fn shift(&self, distance: usize) {
        let (to, len) = (self.alignment, self.payload.len());
        let mut buf = self.buffer(to + distance);
        mask::shift(&mut buf, to + distance..to + distance + len, to, self.key);
        assert_eq!(buf[to..to + len], *self.expected, "moved by {distance}");
        // Between the ends of the destination and the source the content is unspecified.
        guarded(&buf, to..to + distance + len);
    }
}

fn guarded(buf: &[u8], written: std::ops::Range<usize>) {
    let around = buf[..written.start].iter().chain(&buf[written.end..]);
    assert!(around.copied().all(|byte| byte == GUARD), "written beyond {written:?}");
}

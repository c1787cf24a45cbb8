//! What the kernel did not take.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BytesMut};

use crate::pool::BufferPool;

/// Memory taken for held-back bytes at least, so that many short pieces share a chunk.
const CHUNK: usize = 4096;

/// Bytes of a connection that wait until its socket is writable again, in the order of the wire.
#[derive(Default)]
pub(super) struct Backlog {
    chunks: VecDeque<BytesMut>,
    bytes: usize,
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a copy of `bytes`.
    pub(super) fn push_copy(&mut self, bytes: &[u8], pool: &mut BufferPool) {
        if bytes.is_empty() {
            return;
        }
        self.bytes += bytes.len();
        match self.chunks.back_mut() {
            Some(last) if last.capacity() - last.len() >= bytes.len() => last.extend_from_slice(bytes),
            _ => {
                let mut chunk = chunk_for(bytes.len(), pool);
                chunk.extend_from_slice(bytes);
                self.chunks.push_back(chunk);
            }
        }
    }

    /// Appends a buffer without copying it.
    pub(super) fn push_owned(&mut self, buffer: BytesMut) {
        if !buffer.is_empty() {
            self.bytes += buffer.len();
            self.chunks.push_back(buffer);
        }
    }

    /// Fills `slices` with the chunks at the front; returns how many and their bytes.
    pub(super) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
            count += 1;
            bytes += chunk.len();
        }
        (count, bytes)
    }

    /// Drops `sent` bytes from the front; emptied chunks go to the pool.
    pub(super) fn advance(&mut self, mut sent: usize, pool: &mut BufferPool) {
        self.bytes -= sent;
        while let Some(first) = self.chunks.front_mut() {
            if sent < first.len() {
                first.advance(sent);
                return;
            }
            sent -= first.len();
            if let Some(done) = self.chunks.pop_front() {
                pool.put(done);
            }
        }
    }
}

/// A buffer with room for `len` bytes: the pool's, unless that would spend a large one on a few bytes.
fn chunk_for(len: usize, pool: &mut BufferPool) -> BytesMut {
    let wanted = len.max(CHUNK);
    let buffer = pool.take();
    if (len..=4 * wanted).contains(&buffer.capacity()) {
        return buffer;
    }
    pool.put(buffer);
    BytesMut::with_capacity(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(backlog: &Backlog) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 16];
        let (count, bytes) = backlog.gather(&mut slices);
        let joined: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
        assert_eq!(joined.len(), bytes);
        joined
    }

    #[test]
    fn bytes_leave_in_order_whatever_is_taken() {
        for step in 1..12 {
            let mut pool = BufferPool::default();
            let mut backlog = Backlog::default();
            backlog.push_copy(b"abc", &mut pool);
            backlog.push_copy(b"", &mut pool);
            backlog.push_owned(BytesMut::from(&b"defgh"[..]));
            backlog.push_owned(BytesMut::new());
            backlog.push_copy(b"ijk", &mut pool);
            let mut seen = Vec::new();
            while !backlog.is_empty() {
                let left = content(&backlog);
                assert_eq!(left.len(), backlog.len());
                let sent = step.min(left.len());
                seen.extend_from_slice(&left[..sent]);
                backlog.advance(sent, &mut pool);
            }
            assert_eq!(seen, b"abcdefghijk");
            assert!(backlog.chunks.is_empty());
        }
    }

    #[test]
    fn short_pieces_share_a_chunk_and_large_buffers_stay_in_the_pool() {
        let mut pool = BufferPool::default();
        pool.put(BytesMut::with_capacity(1 << 20));
        let mut backlog = Backlog::default();
        for _ in 0..100 {
            backlog.push_copy(b"0123456789", &mut pool);
        }
        assert_eq!(backlog.chunks.len(), 1);
        assert_eq!(pool.take().capacity(), 1 << 20);
    }
}

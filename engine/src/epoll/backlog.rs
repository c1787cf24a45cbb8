//! Output that the kernel has not accepted.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BytesMut};

use crate::pool::BufferPool;

/// Bytes of a chunk of copied output. All chunks have the same size, so that each fits everywhere.
const CHUNK: usize = 16 << 10;

/// Memory of empty backlogs for reuse: a stream of large messages may leave a backlog of each.
#[derive(Default)]
pub(super) struct Spares {
    chunks: Vec<BytesMut>,
    #[expect(clippy::vec_box, reason = "a connection owns the box, so that an idle one is small")]
    backlogs: Vec<Box<Backlog>>,
}

impl Spares {
    /// Most chunks that are kept: 4 MiB.
    const KEEP_CHUNKS: usize = 256;
    /// Most empty backlogs that are kept.
    const KEEP_BACKLOGS: usize = 64;

    /// Returns an empty backlog.
    pub(super) fn backlog(&mut self) -> Box<Backlog> {
        self.backlogs.pop().unwrap_or_default()
    }

    /// Takes an emptied backlog back.
    pub(super) fn put_backlog(&mut self, empty: Box<Backlog>) {
        debug_assert!(empty.is_empty(), "the backlog has bytes");
        if self.backlogs.len() < Self::KEEP_BACKLOGS {
            self.backlogs.push(empty);
        }
    }

    fn chunk(&mut self) -> BytesMut {
        self.chunks.pop().unwrap_or_else(|| BytesMut::with_capacity(CHUNK))
    }

    fn put_chunk(&mut self, mut chunk: BytesMut) {
        if self.chunks.len() < Self::KEEP_CHUNKS {
            chunk.clear();
            // Partial sends leave room in front; this moves the start back without an allocation.
            chunk.reserve(CHUNK);
            self.chunks.push(chunk);
        }
    }
}

struct Piece {
    bytes: BytesMut,
    /// The bytes lie in a chunk of copies, not in a buffer of the handler.
    is_chunk: bool,
}

/// Bytes of a connection that wait until its socket is writable, in the order of the wire.
#[derive(Default)]
pub(super) struct Backlog {
    pieces: VecDeque<Piece>,
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
    pub(super) fn push_copy(&mut self, mut bytes: &[u8], spares: &mut Spares) {
        self.bytes += bytes.len();
        while !bytes.is_empty() {
            let room = match self.pieces.back_mut() {
                Some(last) if last.is_chunk => last.bytes.capacity() - last.bytes.len(),
                _ => 0,
            };
            if room == 0 {
                self.pieces.push_back(Piece { bytes: spares.chunk(), is_chunk: true });
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(last) = self.pieces.back_mut() {
                last.bytes.extend_from_slice(now);
            }
            bytes = later;
        }
    }

    /// Appends a buffer without copying it.
    pub(super) fn push_owned(&mut self, buffer: BytesMut) {
        if !buffer.is_empty() {
            self.bytes += buffer.len();
            self.pieces.push_back(Piece { bytes: buffer, is_chunk: false });
        }
    }

    /// Fills `slices` with the pieces at the front; returns their number and their bytes.
    pub(super) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(&piece.bytes);
            count += 1;
            bytes += piece.bytes.len();
        }
        (count, bytes)
    }

    /// Removes `sent` bytes from the front; empty buffers return to where they came from.
    pub(super) fn advance(&mut self, mut sent: usize, spares: &mut Spares, pool: &mut BufferPool) {
        self.bytes -= sent;
        while let Some(first) = self.pieces.front_mut() {
            if sent < first.bytes.len() {
                first.bytes.advance(sent);
                return;
            }
            sent -= first.bytes.len();
            match self.pieces.pop_front() {
                Some(Piece { bytes, is_chunk: true }) => spares.put_chunk(bytes),
                Some(Piece { bytes, is_chunk: false }) => pool.put(bytes),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(backlog: &Backlog) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 16];
        let (count, bytes) = backlog.gather(&mut slices);
        let joined = slices[..count].iter().map(|s| &s[..]).collect::<Vec<_>>().concat();
        assert_eq!(joined.len(), bytes);
        joined
    }

    #[test]
    fn bytes_leave_in_order_at_every_step_size() {
        for step in [1, 3, 11, 5000, 40_000] {
            let (mut spares, mut pool) = (Spares::default(), BufferPool::default());
            let mut backlog = Backlog::default();
            let mut expected = Vec::new();
            for (round, len) in [3, 0, CHUNK + 5, 2 * CHUNK].into_iter().enumerate() {
                backlog.push_copy(&vec![round as u8; len], &mut spares);
                backlog.push_owned(BytesMut::from(&[round as u8 + 10; 7][..]));
                backlog.push_owned(BytesMut::new());
                expected.extend(vec![round as u8; len]);
                expected.extend([round as u8 + 10; 7]);
            }
            let mut seen = Vec::new();
            while !backlog.is_empty() {
                let left = content(&backlog);
                assert_eq!(left.len(), backlog.len());
                let sent = step.min(left.len());
                seen.extend_from_slice(&left[..sent]);
                backlog.advance(sent, &mut spares, &mut pool);
            }
            assert!(seen == expected);
            assert!(backlog.pieces.is_empty());
        }
    }

    #[test]
    fn chunks_are_reused_whole_and_apart_from_buffers() {
        let (mut spares, mut pool) = (Spares::default(), BufferPool::default());
        for round in 1..100 {
            let mut backlog = spares.backlog();
            backlog.push_copy(&[1; 100], &mut spares);
            backlog.push_copy(&[2; 100], &mut spares);
            assert_eq!(backlog.pieces.len(), 1, "short pieces share a chunk");
            // In two steps: the chunk loses room in front for a while.
            backlog.advance(round, &mut spares, &mut pool);
            backlog.advance(200 - round, &mut spares, &mut pool);
            spares.put_backlog(backlog);
            assert_eq!((spares.chunks.len(), spares.chunks[0].capacity()), (1, CHUNK));
        }
        assert_eq!(pool.take().capacity(), 0);
    }
}

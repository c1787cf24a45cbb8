//! Buffers for reuse, so that assembling messages costs no allocation in steady state.

use bytes::BytesMut;

/// Empty buffers of a worker, bounded in bytes.
#[derive(Debug, Default)]
pub struct BufferPool {
    free: Vec<BytesMut>,
    held_bytes: usize,
}

impl BufferPool {
    /// Bytes of capacity that the pool keeps. Buffers returned beyond it are freed.
    pub const KEEP_BYTES: usize = 16 << 20;

    /// Least capacity of a new buffer for unsent bytes, so that many short pieces share one.
    const CHUNK: usize = 4096;

    /// Number of buffers that are searched for one that fits.
    const LOOKED_AT: usize = 16;

    /// Takes the buffer that was returned last, whose memory is most likely still in the cache. If
    /// the pool is empty, creates a buffer without capacity.
    #[must_use]
    pub fn take(&mut self) -> BytesMut {
        match self.free.pop() {
            Some(buffer) => {
                self.held_bytes -= buffer.capacity();
                buffer
            }
            None => BytesMut::new(),
        }
    }

    /// Takes an empty buffer with room for `len` bytes. It is at most four times as large as
    /// needed, because it may be in use for long.
    #[must_use]
    pub fn take_fitting(&mut self, len: usize) -> BytesMut {
        let wanted = len.max(Self::CHUNK);
        let fits = |b: &BytesMut| (len..=4 * wanted).contains(&b.capacity());
        let recent = self.free.len().saturating_sub(Self::LOOKED_AT);
        match self.free[recent..].iter().rposition(fits) {
            Some(index) => {
                let buffer = self.free.swap_remove(recent + index);
                self.held_bytes -= buffer.capacity();
                buffer
            }
            None => BytesMut::with_capacity(wanted),
        }
    }

    /// Puts a buffer back and discards its content. Frees the buffer if the pool is full.
    pub fn put(&mut self, mut buffer: BytesMut) {
        buffer.clear();
        // Sending has advanced the start of the buffer. A request for more than its capacity moves
        // the start back.
        let _ = buffer.try_reclaim(buffer.capacity() + 1);
        let capacity = buffer.capacity();
        if capacity > 0 && self.held_bytes + capacity <= Self::KEEP_BYTES {
            self.held_bytes += capacity;
            self.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_comes_again_empty() {
        let mut pool = BufferPool::default();
        let mut buffer = pool.take();
        buffer.extend_from_slice(&[1; 100]);
        let (capacity, start) = (buffer.capacity(), buffer.as_ptr());
        pool.put(buffer);
        let again = pool.take();
        assert!(again.is_empty());
        assert_eq!((again.capacity(), again.as_ptr()), (capacity, start));
        assert_eq!(pool.take().capacity(), 0);
    }

    #[test]
    fn a_fitting_buffer_is_neither_too_small_nor_a_waste() {
        let mut pool = BufferPool::default();
        for capacity in [1 << 20, 5000, 100] {
            pool.put(BytesMut::with_capacity(capacity));
        }
        assert_eq!(pool.take_fitting(3000).capacity(), 5000);
        assert_eq!(pool.take_fitting(3000).capacity(), BufferPool::CHUNK);
        assert_eq!(pool.take_fitting(1 << 20).capacity(), 1 << 20);
        assert_eq!(pool.held_bytes, 100);
    }

    #[test]
    fn a_buffer_that_was_sent_in_part_keeps_its_memory() {
        let mut pool = BufferPool::default();
        pool.put(BytesMut::with_capacity(5000));
        for sent in [1, 4, 90, 100] {
            let mut buffer = pool.take_fitting(5000);
            buffer.extend_from_slice(&[1; 100]);
            bytes::Buf::advance(&mut buffer, sent);
            pool.put(buffer);
            assert_eq!((pool.free.len(), pool.held_bytes), (1, 5000));
        }
    }

    #[test]
    fn the_stock_is_bounded() {
        let mut pool = BufferPool::default();
        pool.put(BytesMut::with_capacity(BufferPool::KEEP_BYTES));
        pool.put(BytesMut::with_capacity(1));
        assert_eq!(pool.free.len(), 1);
        pool.put(BytesMut::new());
        assert_eq!(pool.free.len(), 1);
    }
}

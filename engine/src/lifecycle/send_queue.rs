//! Output that waits for the kernel.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BytesMut};

use crate::pool::BufferPool;

/// Length from which buffers of the handler are queued as they are. Shorter ones are copied behind
/// other output: one buffer less for a send is worth a copy.
const JOIN_BELOW: usize = 16 << 10;

/// Unsent output of a connection, in the order of the wire.
#[derive(Default)]
pub(crate) struct SendQueue {
    buffers: VecDeque<BytesMut>,
    bytes: usize,
}

impl SendQueue {
    /// Returns the number of queued bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of queued buffers.
    #[cfg(any(test, feature = "tokio-uring"))]
    pub(crate) fn buffers(&self) -> usize {
        self.buffers.len()
    }

    /// Appends a copy of `bytes`, to the last buffer if they fit.
    pub(crate) fn push_copy(&mut self, bytes: &[u8], pool: &mut BufferPool) {
        match self.buffers.back_mut() {
            Some(last) if last.capacity() - last.len() >= bytes.len() => {
                last.extend_from_slice(bytes);
                self.bytes += bytes.len();
            }
            _ => {
                let mut buffer = pool.take_fitting(bytes.len());
                buffer.extend_from_slice(bytes);
                self.push_back(buffer);
            }
        }
    }

    /// Appends a buffer of the handler, or a copy of a short one.
    pub(crate) fn push_owned(&mut self, buffer: BytesMut, pool: &mut BufferPool) {
        if buffer.len() < JOIN_BELOW && !self.buffers.is_empty() {
            self.push_copy(&buffer, pool);
            pool.put(buffer);
        } else {
            self.push_back(buffer);
        }
    }

    /// Appends a buffer itself.
    pub(crate) fn push_back(&mut self, buffer: BytesMut) {
        if !buffer.is_empty() {
            self.bytes += buffer.len();
            self.buffers.push_back(buffer);
        }
    }

    /// Puts a buffer back to the front.
    #[cfg(feature = "tokio-uring")]
    pub(crate) fn push_front(&mut self, buffer: BytesMut) {
        self.bytes += buffer.len();
        self.buffers.push_front(buffer);
    }

    /// Takes the first buffer.
    #[cfg(feature = "tokio-uring")]
    pub(crate) fn pop_front(&mut self) -> Option<BytesMut> {
        let buffer = self.buffers.pop_front()?;
        self.bytes -= buffer.len();
        Some(buffer)
    }

    /// Fills `slices` with the first buffers; returns their number and their bytes.
    pub(crate) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for (slice, buffer) in slices.iter_mut().zip(&self.buffers) {
            *slice = IoSlice::new(buffer);
            count += 1;
            bytes += buffer.len();
        }
        (count, bytes)
    }

    /// Removes `sent` bytes from the front. Buffers that are sent return to the pool.
    pub(crate) fn advance(&mut self, mut sent: usize, pool: &mut BufferPool) {
        self.bytes -= sent;
        while let Some(first) = self.buffers.front_mut() {
            if sent < first.len() {
                return first.advance(sent);
            }
            sent -= first.len();
            self.buffers.pop_front().into_iter().for_each(|buffer| pool.put(buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(queue: &SendQueue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let (count, bytes) = queue.gather(&mut slices);
        let joined = slices[..count].iter().map(|s| &s[..]).collect::<Vec<_>>().concat();
        assert_eq!(joined.len(), bytes);
        joined
    }

    #[test]
    fn bytes_leave_in_order_at_every_step_size() {
        for step in [1, 3, 11, 5000, 40_000] {
            let mut pool = BufferPool::default();
            let mut queue = SendQueue::default();
            let mut expected = Vec::new();
            for (round, len) in [3, 0, 5000, 2 * JOIN_BELOW].into_iter().enumerate() {
                let (copied, owned) = (vec![round as u8; len], vec![round as u8 + 10; len + 7]);
                queue.push_copy(&copied, &mut pool);
                queue.push_owned(BytesMut::from(&owned[..]), &mut pool);
                queue.push_owned(BytesMut::new(), &mut pool);
                expected.extend(copied);
                expected.extend(owned);
            }
            let mut seen = Vec::new();
            while queue.bytes() > 0 {
                let left = content(&queue);
                assert_eq!(left.len(), queue.bytes());
                let sent = step.min(left.len());
                seen.extend_from_slice(&left[..sent]);
                queue.advance(sent, &mut pool);
            }
            assert!(seen == expected && queue.buffers() == 0);
        }
    }

    #[test]
    fn short_output_shares_a_buffer_that_is_reused_whole() {
        let mut pool = BufferPool::default();
        let mut queue = SendQueue::default();
        let mut seen = None;
        for round in 1..100 {
            queue.push_copy(&[1; 100], &mut pool);
            queue.push_owned(BytesMut::from(&[2; 100][..]), &mut pool);
            assert_eq!(queue.buffers(), 1);
            // In two steps: the buffer loses room in front for a while.
            queue.advance(round, &mut pool);
            queue.advance(200 - round, &mut pool);
            let buffer = pool.take_fitting(4096);
            assert_eq!(*seen.get_or_insert(buffer.capacity()), buffer.capacity());
            pool.put(buffer);
        }
    }
}

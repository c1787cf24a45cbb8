//! Receive buffers of a worker: who refers to each, and when it is offered to the kernel again.

use crate::uring::ring::BufferRing;
use crate::uring::supply::Supply;

/// The worker's receive buffers.
///
/// A completion hands a buffer over. While the handler reads it, and while output lies in it, it is
/// retained; the last release returns it, and a later [`offer`](Self::offer) hands it to the kernel
/// again.
pub(super) struct ReceiveBuffers<B> {
    ring: B,
    /// References to each buffer.
    references: Vec<u16>,
    /// Buffers with at least one reference.
    pub(super) retained: usize,
    /// Number of buffers that are offered.
    pub(super) supply: Supply,
}

impl<B: BufferRing> ReceiveBuffers<B> {
    /// Buffers of `ring`, none of them offered. A receive of `large` bytes or more counts as large.
    pub(super) fn new(ring: B, large: usize) -> Self {
        let count = ring.count();
        Self { ring, references: vec![0; count], retained: 0, supply: Supply::new(count, large) }
    }

    /// The first `len` bytes of a buffer that a completion has handed over.
    pub(super) fn bytes(&mut self, id: u16, len: usize) -> &mut [u8] {
        self.ring.bytes(id, len)
    }

    /// Records that a completion has handed a buffer over with `bytes` bytes in it.
    pub(super) fn taken(&mut self, id: u16, bytes: usize) {
        self.ring.taken(id);
        self.supply.taken(bytes);
    }

    /// Adds a reference to a buffer.
    pub(super) fn retain(&mut self, id: u16) {
        let references = &mut self.references[usize::from(id)];
        self.retained += usize::from(*references == 0);
        *references += 1;
    }

    /// Removes a reference; the last one returns the buffer.
    pub(super) fn release(&mut self, id: u16) {
        let references = &mut self.references[usize::from(id)];
        *references -= 1;
        if *references == 0 {
            self.retained -= 1;
            self.give_back(id);
        }
    }

    /// Returns a buffer that has no reference.
    pub(super) fn give_back(&mut self, id: u16) {
        self.ring.give_back(id);
        self.supply.put(id);
    }

    /// Returns a buffer once more, as [`Mutation::BufferReturnedTwice`](crate::mutation::Mutation)
    /// does.
    #[cfg(feature = "sim")]
    pub(super) fn give_back_again(&mut self, id: u16) {
        self.ring.give_back(id);
    }

    /// Offers as many buffers to the kernel as the next enter may take.
    pub(super) fn offer(&mut self) {
        while let Some(id) = self.supply.next() {
            self.ring.offer(id);
        }
        self.ring.publish();
    }

    /// Returns whether more than half of the buffers are retained.
    pub(super) fn is_short(&self) -> bool {
        self.retained * 2 > self.references.len()
    }
}

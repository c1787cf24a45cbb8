//! Receive buffers of a worker: counts of the references to each, and their return to the kernel.

use crate::uring::ring::BufferRing;
use crate::uring::supply::Supply;

/// The worker's receive buffers.
///
/// A completion hands a buffer over. It is retained while the handler reads it, and while output
/// lies in it. The last release makes it idle. A later [`offer`](Self::offer) hands it to the
/// kernel again.
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
    /// Creates the state of the buffers of `ring`, none of which is offered. A receive of `large`
    /// bytes or more counts as large.
    pub(super) fn new(ring: B, large: usize) -> Self {
        let count = ring.count();
        Self { ring, references: vec![0; count], retained: 0, supply: Supply::new(count, large) }
    }

    /// Returns the first `len` bytes of a buffer that a completion has handed over.
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

    /// Removes a reference. When the last one is removed, the buffer becomes idle.
    pub(super) fn release(&mut self, id: u16) {
        let references = &mut self.references[usize::from(id)];
        *references -= 1;
        if *references == 0 {
            self.retained -= 1;
            self.give_back(id);
        }
    }

    /// Makes a buffer without references idle, so that it can be offered again.
    pub(super) fn give_back(&mut self, id: u16) {
        self.ring.give_back(id);
        self.supply.put(id);
    }

    /// Gives a buffer back a second time, for
    /// [`Mutation::BufferReturnedTwice`](crate::mutation::Mutation).
    #[cfg(feature = "sim")]
    pub(super) fn give_back_again(&mut self, id: u16) {
        self.ring.give_back(id);
    }

    /// Offers idle buffers to the kernel until the wanted number is offered.
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

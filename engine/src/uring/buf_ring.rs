//! Ring of provided buffers (io_uring_register_buf_ring(3)): memory that the kernel receives into
//! by itself.
//!
//! States of a buffer: (1) idle; (2) offered, in the ring, the kernel's; (3) handed over by a
//! completion, the engine's: the handler reads and writes it, and sends read it where parts of it
//! are echoed; then idle again.

use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::uring::ring::BufferRing;

/// Anonymous private mapping.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length and is unmapped once. The last
        // owner of the memory drops it, and the owners promise that the kernel does not use it any
        // more (see BufRing::new).
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Memory of the ring and of its buffers.
pub(super) struct BufferMemory {
    entries: Mapping,
    buffers: Mapping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Neither the kernel's nor the engine's.
    Idle,
    /// In the ring: the kernel's.
    Ring,
    /// Handed over by a completion and not returned yet: the engine's.
    Engine,
}

/// A ring of buffers.
pub(crate) struct BufRing {
    memory: Rc<BufferMemory>,
    count: u16,
    /// Bytes of a buffer.
    size: usize,
    /// Position of the next offered buffer. It wraps at 2^16, as the kernel's tail does.
    tail: u16,
    /// Place of each buffer. The soundness of [`BufferRing::bytes`] rests on it.
    places: Vec<Place>,
}

impl BufRing {
    /// Group of the buffers, which receives refer to. A worker has one.
    pub(crate) const GROUP: u16 = 0;

    /// Memory for `count` buffers (a power of two) of `size` bytes, none of them in the ring, which
    /// is not registered yet.
    ///
    /// The owner registers [`BufRing::address`] with an io_uring, and keeps a clone of
    /// [`BufRing::memory`] for as long as an operation of that io_uring can use the ring.
    pub(crate) fn new(count: u16, size: u32) -> io::Result<Self> {
        assert!(
            count.is_power_of_two() && count <= 1 << 15,
            "a buffer ring has a power of two of entries"
        );
        let memory = BufferMemory {
            entries: Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?,
            buffers: Mapping::new(usize::from(count) * size as usize)?,
        };
        let places = vec![Place::Idle; usize::from(count)];
        Ok(Self { memory: Rc::new(memory), count, size: size as usize, tail: 0, places })
    }

    /// Memory of the ring and of its buffers.
    pub(super) fn memory(&self) -> Rc<BufferMemory> {
        self.memory.clone()
    }

    /// Address to register.
    pub(super) fn address(&self) -> u64 {
        self.memory.entries.start.as_ptr() as u64
    }

    /// Number of entries to register.
    pub(super) fn entries(&self) -> u16 {
        self.count
    }
}

impl BufferRing for BufRing {
    fn count(&self) -> usize {
        usize::from(self.count)
    }

    fn taken(&mut self, id: u16) {
        let place = &mut self.places[usize::from(id)];
        debug_assert!(
            *place == Place::Ring,
            "the kernel handed a buffer over that it did not have"
        );
        *place = Place::Engine;
    }

    fn bytes(&mut self, id: u16, len: usize) -> &mut [u8] {
        assert!(
            self.places[usize::from(id)] == Place::Engine && len <= self.size,
            "a buffer of the kernel's, or beyond its end"
        );
        // SAFETY: buffer `id` lies inside the mapping, which is initialised (zeroed by the kernel)
        // and lives as long as self. It was handed over and not returned, so the kernel does not
        // write to it. Sends that still read it do so through the kernel, which is no Rust
        // reference, and the engine calls handlers with a buffer only before its sends are queued.
        unsafe {
            let start = self.memory.buffers.start.as_ptr().add(usize::from(id) * self.size);
            std::slice::from_raw_parts_mut(start, len)
        }
    }

    fn give_back(&mut self, id: u16) {
        let place = &mut self.places[usize::from(id)];
        assert!(*place == Place::Engine, "a buffer given back twice");
        *place = Place::Idle;
    }

    fn offer(&mut self, id: u16) {
        let place = &mut self.places[usize::from(id)];
        assert!(*place == Place::Idle, "a buffer offered that is in use or in the ring");
        *place = Place::Ring;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index is below `count`, the ring's length; an entry at the tail belongs to us
        // until published. The kernel reads entries through the same memory only below the
        // published tail.
        let entry =
            unsafe { &mut *self.memory.entries.start.as_ptr().cast::<BufRingEntry>().add(index) };
        entry.set_addr(
            self.memory.buffers.start.as_ptr() as u64 + (usize::from(id) * self.size) as u64,
        );
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        let base = self.memory.entries.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `base` is the page-aligned start of the ring; the tail lies inside its first
        // entry, in a field that `offer` does not write, is 2-byte aligned and shared with the
        // kernel, hence accessed as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        // Release: the entries are written before the tail that covers them.
        tail.store(self.tail, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_go_round() {
        let mut ring = BufRing::new(4, 64).expect("memory");
        for round in 0..3u16 {
            for id in (0..4).rev() {
                ring.offer(id);
            }
            ring.publish();
            assert_eq!(ring.tail, 4 * (round + 1));
            for id in 0..4 {
                ring.taken(id);
                ring.bytes(id, 64).fill(id as u8);
            }
            assert!((0..4).all(|id| ring.bytes(id, 64) == [id as u8; 64]));
            for id in 0..4 {
                ring.give_back(id);
            }
        }
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn a_buffer_is_given_back_once() {
        let mut ring = BufRing::new(2, 64).expect("memory");
        ring.offer(1);
        ring.taken(1);
        ring.give_back(1);
        ring.give_back(1);
    }

    #[test]
    #[should_panic(expected = "of the kernel's")]
    fn the_kernels_buffers_are_not_touched() {
        BufRing::new(2, 64).expect("memory").bytes(0, 1);
    }
}

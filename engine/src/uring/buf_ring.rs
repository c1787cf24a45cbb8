//! A ring of provided buffers (io_uring_register_buf_ring(3)): memory that the kernel receives into by itself.
//!
//! The life of a buffer: (1) idle, ours; (2) offered, in the ring, the kernel's; (3) named by a completion, ours: the handler reads
//! and writes it; (4) named by sends, when parts of it are echoed; (5) given back, idle again, once nothing names it.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// An anonymous private mapping.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length and is unmapped once. That nothing uses it any more is the
        // promise of BufRing's owner (see BufRing::new).
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nobody's.
    Idle,
    /// In the ring: the kernel's.
    Ring,
    /// Named by a completion and not given back yet: ours.
    Named,
}

/// The ring and its buffers.
pub(crate) struct BufRing {
    entries: Mapping,
    memory: Mapping,
    count: u16,
    size: usize,
    /// Where the next buffer goes; wraps at 2^16, as the kernel's tail does.
    tail: u16,
    /// What makes `buffer` sound.
    places: Vec<Place>,
}

impl BufRing {
    /// The group that receives name. A worker has one.
    pub(crate) const GROUP: u16 = 0;

    /// Memory for `count` buffers (a power of two) of `size` bytes, none of them in the ring, which is not yet registered.
    ///
    /// The owner registers [`BufRing::address`] with an io_uring and drops this only when no operation of it can use the ring
    /// any more.
    pub(crate) fn new(count: u16, size: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 1 << 15, "a buffer ring has a power of two of entries");
        Ok(Self {
            entries: Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?,
            memory: Mapping::new(usize::from(count) * size as usize)?,
            count,
            size: size as usize,
            tail: 0,
            places: vec![Place::Idle; usize::from(count)],
        })
    }

    /// The address to register.
    pub(crate) fn address(&self) -> u64 {
        self.entries.start.as_ptr() as u64
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// Takes note that a completion handed a buffer over.
    pub(crate) fn taken(&mut self, id: u16) {
        let place = &mut self.places[usize::from(id)];
        debug_assert!(*place == Place::Ring, "the kernel handed a buffer over that it did not have");
        *place = Place::Named;
    }

    /// The first `len` bytes of a buffer that is ours.
    pub(crate) fn buffer(&mut self, id: u16, len: usize) -> &mut [u8] {
        assert!(
            self.places[usize::from(id)] == Place::Named && len <= self.size,
            "a buffer of the kernel's, or beyond its end"
        );
        // SAFETY: buffer `id` lies inside the mapping, which is initialised (zeroed by the kernel) and lives as long as self; it
        // was handed over and not given back, so the kernel does not write to it; sends that still read it do so through the
        // kernel, which is no Rust reference, and the engine calls handlers with a buffer only before its sends are queued.
        unsafe {
            std::slice::from_raw_parts_mut(self.memory.start.as_ptr().add(usize::from(id) * self.size), len)
        }
    }

    /// Takes note that nothing refers to a buffer's bytes any more.
    pub(crate) fn give_back(&mut self, id: u16) {
        let place = &mut self.places[usize::from(id)];
        assert!(*place == Place::Named, "a buffer given back twice");
        *place = Place::Idle;
    }

    /// Puts an idle buffer into the ring; the kernel sees it after [`BufRing::publish`].
    pub(crate) fn offer(&mut self, id: u16) {
        let place = &mut self.places[usize::from(id)];
        assert!(*place == Place::Idle, "a buffer offered that is in use or in the ring");
        *place = Place::Ring;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index is below `count`, the ring's length; an entry at the tail belongs to us until published. The
        // kernel reads entries through the same memory only below the published tail.
        let entry = unsafe { &mut *self.entries.start.as_ptr().cast::<BufRingEntry>().add(index) };
        entry.set_addr(self.memory.start.as_ptr() as u64 + (usize::from(id) * self.size) as u64);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel all buffers offered.
    pub(crate) fn publish(&mut self) {
        let base = self.entries.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `base` is the page-aligned start of the ring; the tail lies inside its first entry, in a field that
        // `offer` does not write, is 2-byte aligned and shared with the kernel, hence accessed as an atomic.
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
                ring.buffer(id, 64).fill(id as u8);
            }
            assert!((0..4).all(|id| ring.buffer(id, 64) == [id as u8; 64]));
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
        BufRing::new(2, 64).expect("memory").buffer(0, 1);
    }
}

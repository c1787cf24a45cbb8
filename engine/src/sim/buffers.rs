//! Simulated ring of provided buffers. It overwrites a buffer as soon as it is returned, so that a
//! later read is noticed.

use std::collections::VecDeque;
use std::ptr::NonNull;

/// Byte with which a returned buffer is overwritten.
const POISON: u8 = 0xd7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Returned, or never used.
    Idle,
    /// In the ring, and not yet published.
    Offered,
    /// In the ring.
    Ring,
    /// Handed over by a completion: the engine's.
    Engine,
}

/// The ring and its memory.
pub(super) struct Buffers {
    memory: NonNull<u8>,
    size: usize,
    places: Vec<Place>,
    ring: VecDeque<u16>,
}

impl Buffers {
    pub(super) fn new(count: usize, size: usize) -> Self {
        let memory = NonNull::from(Box::leak(vec![POISON; count * size].into_boxed_slice())).cast();
        Self { memory, size, places: vec![Place::Idle; count], ring: VecDeque::new() }
    }

    pub(super) fn memory(&self) -> NonNull<u8> {
        self.memory
    }

    pub(super) fn count(&self) -> usize {
        self.places.len()
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn is_engines(&self, id: u16) -> bool {
        self.places.get(usize::from(id)) == Some(&Place::Engine)
    }

    /// Number of buffers that the engine has.
    pub(super) fn out(&self) -> usize {
        self.places.iter().filter(|p| **p == Place::Engine).count()
    }

    pub(super) fn is_dry(&self) -> bool {
        // Buffers that are not published yet come after those that are.
        self.ring.front().is_none_or(|&id| self.places[usize::from(id)] != Place::Ring)
    }

    /// Takes a buffer for the kernel, and fills it.
    pub(super) fn fill(&mut self, bytes: impl ExactSizeIterator<Item = u8>) -> Option<u16> {
        if self.is_dry() {
            return None;
        }
        let id = self.ring.pop_front()?;
        self.places[usize::from(id)] = Place::Engine;
        assert!(bytes.len() <= self.size, "more than a buffer holds");
        // SAFETY: the buffer lies inside the allocation, and nobody else refers to its bytes: the
        // engine's references into buffers end before it enters the kernel, which is the only time
        // at which the kernel fills one.
        let buffer =
            unsafe { std::slice::from_raw_parts_mut(self.start(id).as_ptr(), bytes.len()) };
        buffer.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Some(id)
    }

    /// Takes a returned buffer. Returns whether it was the engine's.
    pub(super) fn give_back(&mut self, id: u16) -> bool {
        if !self.is_engines(id) {
            return false;
        }
        self.places[usize::from(id)] = Place::Idle;
        // SAFETY: inside the allocation; the engine holds no reference into a buffer that it gives
        // back.
        unsafe { self.start(id).as_ptr().write_bytes(POISON, self.size) };
        true
    }

    /// Puts a buffer into the ring. Returns whether it was idle.
    pub(super) fn offer(&mut self, id: u16) -> bool {
        let place = &mut self.places[usize::from(id)];
        let idle = *place == Place::Idle;
        if idle {
            *place = Place::Offered;
            self.ring.push_back(id);
        }
        idle
    }

    /// Publishes the offered buffers.
    pub(super) fn publish(&mut self) {
        self.places.iter_mut().filter(|p| **p == Place::Offered).for_each(|p| *p = Place::Ring);
    }

    /// Buffer that an address lies in.
    pub(super) fn at(&self, address: *const u8) -> Option<u16> {
        let offset = (address as usize).checked_sub(self.memory.as_ptr() as usize)? / self.size;
        (offset < self.places.len()).then_some(offset as u16)
    }

    fn start(&self, id: u16) -> NonNull<u8> {
        // SAFETY: every id that is in `places` has its bytes inside the allocation.
        unsafe { self.memory.add(usize::from(id) * self.size) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let whole =
            std::ptr::slice_from_raw_parts_mut(self.memory.as_ptr(), self.size * self.places.len());
        // SAFETY: the allocation that `new` leaked, with its length, freed once.
        drop(unsafe { Box::from_raw(whole) });
    }
}

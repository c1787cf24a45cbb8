//! A worker's connections: a slab with generations.

use std::io;

use crate::connection::ConnId;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values in numbered slots. A slot's generation goes up when its value leaves, so that an old
/// [`ConnId`] finds nothing.
///
/// Memory for the whole capacity is reserved but untouched at the start. The kernel provides it
/// page by page as slots come into use, and nothing ever moves.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    capacity: usize,
}

impl<T> Table<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { slots: Vec::with_capacity(capacity), free: Vec::new(), capacity }
    }

    /// Puts the value that `make` returns for its id into a free slot, the one freed last first.
    ///
    /// # Errors
    ///
    /// The error of `make`, or one of its own when the table is full.
    pub(crate) fn insert_with(
        &mut self,
        make: impl FnOnce(ConnId) -> io::Result<T>,
    ) -> io::Result<ConnId> {
        if self.free.is_empty() {
            if self.slots.len() == self.capacity {
                return Err(io::Error::other(format!(
                    "all {} connections are open",
                    self.capacity
                )));
            }
            self.free.push(self.slots.len() as u32);
            self.slots.push(Slot { generation: 0, value: None });
        }
        let slot = self.free[self.free.len() - 1];
        let entry = &mut self.slots[slot as usize];
        let id = ConnId { slot, generation: entry.generation };
        entry.value = Some(make(id)?);
        self.free.pop();
        Ok(id)
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<T> {
        let entry =
            self.slots.get_mut(id.slot as usize).filter(|s| s.generation == id.generation)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.slot);
        Some(value)
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        let entry = self.slots.get_mut(id.slot as usize)?;
        if entry.generation == id.generation { entry.value.as_mut() } else { None }
    }

    /// Returns the value that a slot has now, with its id.
    pub(crate) fn in_slot(&mut self, slot: u32) -> Option<(ConnId, &mut T)> {
        let entry = self.slots.get_mut(slot as usize)?;
        let id = ConnId { slot, generation: entry.generation };
        entry.value.as_mut().map(|value| (id, value))
    }

    /// Iterates over all values with their ids, in the order of slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| {
            let id = ConnId { slot: i as u32, generation: s.generation };
            s.value.as_ref().map(|v| (id, v))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_finds_nothing() {
        let mut table = Table::new(2);
        let a = table.insert_with(|_| Ok('a')).expect("room");
        let b = table.insert_with(|_| Ok('b')).expect("room");
        assert!(table.insert_with(|_| Ok('c')).expect_err("full").to_string().contains("all 2"));
        assert_eq!(table.remove(a), Some('a'));
        let c = table.insert_with(|_| Ok('c')).expect("room");
        assert_eq!((c.slot, c.generation), (a.slot, a.generation + 1));
        assert_eq!(table.get_mut(a), None);
        assert_eq!(table.remove(a), None);
        assert_eq!(table.get_mut(c), Some(&mut 'c'));
        assert_eq!(table.in_slot(b.slot), Some((b, &mut 'b')));
        assert_eq!(table.iter().map(|(id, v)| (id, *v)).collect::<Vec<_>>(), [(c, 'c'), (b, 'b')]);
    }

    #[test]
    fn a_failed_insert_leaves_the_slot_free() {
        let mut table = Table::new(1);
        let mut seen = None;
        let failed = table.insert_with(|id| {
            seen = Some(id);
            Err(io::Error::other("no room elsewhere"))
        });
        assert!(failed.is_err() && table.iter().count() == 0);
        assert_eq!(table.insert_with(|_| Ok(7)).ok(), seen);
    }
}

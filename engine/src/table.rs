//! A worker's connections: a slab with generations.

use crate::connection::ConnId;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values in numbered slots. A slot's generation goes up when its value leaves, so that an old [`ConnId`] finds nothing.
///
/// Memory for the whole capacity is reserved but untouched at the start: the kernel provides it page by page as slots come
/// into use, and nothing ever moves.
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

    /// Puts a value into a free slot, the one freed last first; gives it back when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<ConnId, T> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < self.capacity => {
                self.slots.push(Slot { generation: 0, value: None });
                (self.slots.len() - 1) as u32
            }
            None => return Err(value),
        };
        let entry = &mut self.slots[slot as usize];
        entry.value = Some(value);
        Ok(ConnId { slot, generation: entry.generation })
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<T> {
        let entry = self.slots.get_mut(id.slot as usize).filter(|s| s.generation == id.generation)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.slot);
        Some(value)
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        let entry = self.slots.get_mut(id.slot as usize)?;
        if entry.generation == id.generation { entry.value.as_mut() } else { None }
    }

    /// The id of whatever is in a slot now.
    pub(crate) fn id_of(&self, slot: u32) -> Option<ConnId> {
        let entry = self.slots.get(slot as usize)?;
        entry.value.as_ref().map(|_| ConnId { slot, generation: entry.generation })
    }

    /// All values with their ids, in the order of slots.
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
        let a = table.insert('a').expect("room");
        let b = table.insert('b').expect("room");
        assert_eq!(table.insert('c'), Err('c'));
        assert_eq!(table.remove(a), Some('a'));
        let c = table.insert('c').expect("room");
        assert_eq!((c.slot, c.generation), (a.slot, a.generation + 1));
        assert_eq!(table.get_mut(a), None);
        assert_eq!(table.remove(a), None);
        assert_eq!(table.get_mut(c), Some(&mut 'c'));
        assert_eq!(table.id_of(b.slot), Some(b));
        assert_eq!(table.iter().count(), 2);
        assert_eq!(table.iter().map(|(id, v)| (id, *v)).collect::<Vec<_>>(), [(c, 'c'), (b, 'b')]);
    }
}

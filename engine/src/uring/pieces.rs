//! Pieces of output, in chains through one slab, so that a connection with output costs no
//! allocation.

use bytes::BytesMut;

/// Index of no piece.
const NIL: u32 = u32::MAX;

/// Place of a piece's bytes.
#[derive(Debug)]
pub(super) enum Bytes {
    /// A range of a receive buffer.
    Buffer { id: u16, start: u32, end: u32 },
    /// A range of the turn's arena.
    Arena { start: u32, end: u32 },
    /// An owned buffer.
    Owned(BytesMut),
}

impl Bytes {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Buffer { start, end, .. } | Self::Arena { start, end } => (end - start) as usize,
            Self::Owned(bytes) => bytes.len(),
        }
    }
}

/// Pieces of one connection, in the order of the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    head: u32,
    tail: u32,
    /// Bytes of all its pieces.
    pub(super) bytes: usize,
}

impl Default for Chain {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Chain {
    pub(super) const EMPTY: Self = Self { head: NIL, tail: NIL, bytes: 0 };

    pub(super) fn is_empty(&self) -> bool {
        self.head == NIL
    }
}

struct Node {
    bytes: Option<Bytes>,
    next: u32,
}

/// Slab of all pieces of a worker.
pub(super) struct Pieces {
    nodes: Vec<Node>,
    free: u32,
}

impl Pieces {
    pub(super) fn new() -> Self {
        Self { nodes: Vec::new(), free: NIL }
    }

    /// Appends a piece to a chain.
    pub(super) fn append(&mut self, chain: &mut Chain, bytes: Bytes) {
        chain.bytes += bytes.len();
        let node = Node { bytes: Some(bytes), next: NIL };
        let index = if self.free == NIL {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        } else {
            let index = self.free;
            self.free = self.nodes[index as usize].next;
            self.nodes[index as usize] = node;
            index
        };
        match chain.tail {
            NIL => chain.head = index,
            tail => self.nodes[tail as usize].next = index,
        }
        chain.tail = index;
    }

    /// Iterates over the pieces of a chain.
    pub(super) fn iter(&self, chain: &Chain) -> impl Iterator<Item = &Bytes> {
        let mut next = chain.head;
        std::iter::from_fn(move || {
            let node = self.nodes.get(next as usize)?;
            next = node.next;
            node.bytes.as_ref()
        })
    }

    /// Removes the first piece of a chain.
    pub(super) fn pop(&mut self, chain: &mut Chain) -> Option<Bytes> {
        let index = chain.head;
        let node = self.nodes.get_mut(index as usize)?;
        let bytes = node.bytes.take()?;
        chain.head = node.next;
        if chain.head == NIL {
            chain.tail = NIL;
        }
        chain.bytes -= bytes.len();
        node.next = self.free;
        self.free = index;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_keep_their_order_and_share_the_slab() {
        let mut pieces = Pieces::new();
        let (mut a, mut b) = (Chain::EMPTY, Chain::EMPTY);
        for n in 0..3u32 {
            pieces.append(&mut a, Bytes::Arena { start: n, end: n + 1 });
            pieces.append(&mut b, Bytes::Buffer { id: 7, start: n, end: n + 2 });
        }
        assert_eq!((a.bytes, b.bytes), (3, 6));
        let starts: Vec<_> = pieces
            .iter(&a)
            .map(|p| match p {
                Bytes::Arena { start, .. } => *start,
                _ => panic!("another chain's piece"),
            })
            .collect();
        assert_eq!(starts, [0, 1, 2]);
        while pieces.pop(&mut a).is_some() {}
        assert!(a.is_empty() && a.bytes == 0);
        let used = pieces.nodes.len();
        for _ in 0..3 {
            pieces.append(&mut a, Bytes::Owned(BytesMut::from(&b"x"[..])));
        }
        assert_eq!(pieces.nodes.len(), used, "freed nodes are used again");
        assert_eq!(pieces.iter(&b).count(), 3);
    }
}

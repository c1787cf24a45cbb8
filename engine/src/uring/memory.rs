//! Memory in which output lies until it is sent.

use bytes::BytesMut;

use crate::output::{Record, Segment};
use crate::uring::message::PIECES;
use crate::uring::pieces::{Bytes, Chain, Pieces};
use crate::uring::receive_buffers::ReceiveBuffers;
use crate::uring::ring::BufferRing;

/// Place of the bytes that a call of the handler may echo.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// The call had no bytes.
    Nowhere,
    /// A receive buffer.
    Buffer(u16),
    /// Bytes that arrived during a pause.
    Stash(&'a [u8]),
}

/// Receive buffers, the turn's arena, owned buffers, and the pieces of output that lie in them.
pub(super) struct Memory<B> {
    pub(super) receive: ReceiveBuffers<B>,
    /// Arena and pool, and the record of what a call of the handler asked for.
    pub(super) record: Record,
    pieces: Pieces,
}

impl<B: BufferRing> Memory<B> {
    /// Creates the memory of a worker with these receive buffers.
    pub(super) fn new(receive: ReceiveBuffers<B>) -> Self {
        Self { receive, record: Record::new(), pieces: Pieces::new() }
    }

    /// Appends the output of a call of the handler to a chain. Returns the number of appended
    /// bytes.
    pub(super) fn append_output(&mut self, chain: &mut Chain, source: Source<'_>) -> usize {
        let before = chain.bytes;
        let mut segments = std::mem::take(self.record.segments_mut());
        for segment in segments.drain(..) {
            let bytes = match (segment, source) {
                (Segment::Arena(range), _) => Bytes::Arena { start: range.start, end: range.end },
                (Segment::Owned(buffer), _) => Bytes::Owned(buffer),
                (Segment::Echo(range), Source::Buffer(id)) => {
                    if !mutated!(BufferReturnedEarly) {
                        self.receive.retain(id);
                    }
                    Bytes::Buffer { id, start: range.start, end: range.end }
                }
                (Segment::Echo(range), Source::Stash(stash)) => {
                    let mut copy = self.record.pool().take();
                    copy.extend_from_slice(&stash[range.start as usize..range.end as usize]);
                    Bytes::Owned(copy)
                }
                (Segment::Echo(_), Source::Nowhere) => {
                    unreachable!("Output::echo checks the range")
                }
            };
            self.pieces.append(chain, bytes);
        }
        *self.record.segments_mut() = segments;
        chain.bytes - before
    }

    /// Writes the addresses of a chain's pieces to `to`, and returns their number. Returns `None`
    /// if the chain must be joined first. Either it has too many pieces, or some lie in the arena
    /// and the send may outlive the arena (`arena_lasts` is false).
    pub(super) fn gather(
        &mut self,
        chain: &Chain,
        arena_lasts: bool,
        to: &mut [libc::iovec; PIECES],
    ) -> Option<usize> {
        let mut used = 0;
        for piece in self.pieces.iter(chain) {
            let bytes: &[u8] = match piece {
                Bytes::Buffer { id, start, end } => {
                    &self.receive.bytes(*id, *end as usize)[*start as usize..]
                }
                Bytes::Arena { .. } if !arena_lasts => return None,
                Bytes::Arena { start, end } => &self.record.arena()[*start as usize..*end as usize],
                Bytes::Owned(bytes) => bytes,
            };
            let place = to.get_mut(used)?;
            *place =
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            used += 1;
        }
        Some(used)
    }

    /// Copies a chain into one owned buffer.
    pub(super) fn join(&mut self, mut chain: Chain) -> Chain {
        let mut joined = self.record.pool().take();
        joined.reserve(chain.bytes);
        while let Some(piece) = self.pieces.pop(&mut chain) {
            self.copy_and_release(piece, 0, &mut joined);
        }
        self.pieces.append(&mut chain, Bytes::Owned(joined));
        chain
    }

    /// Takes the first piece out of a chain.
    pub(super) fn pop(&mut self, chain: &mut Chain) -> Option<Bytes> {
        self.pieces.pop(chain)
    }

    /// Returns the first receive buffer of a chain.
    #[cfg(feature = "sim")]
    pub(super) fn first_buffer(&self, chain: &Chain) -> Option<u16> {
        self.pieces
            .iter(chain)
            .find_map(|p| if let Bytes::Buffer { id, .. } = p { Some(*id) } else { None })
    }

    /// Appends the bytes of a piece from `from` on to the buffer `to`, and releases the piece.
    pub(super) fn copy_and_release(&mut self, piece: Bytes, from: usize, to: &mut BytesMut) {
        match &piece {
            Bytes::Buffer { id, start, end } => {
                to.extend_from_slice(
                    &self.receive.bytes(*id, *end as usize)[*start as usize + from..],
                );
            }
            Bytes::Arena { start, end } => {
                to.extend_from_slice(&self.record.arena()[*start as usize + from..*end as usize]);
            }
            Bytes::Owned(bytes) => to.extend_from_slice(&bytes[from..]),
        }
        self.release(piece);
    }

    /// Releases a piece: releases its receive buffer, or returns its owned buffer to the pool.
    pub(super) fn release(&mut self, piece: Bytes) {
        match piece {
            Bytes::Buffer { .. } if mutated!(BufferReturnedEarly) => {}
            Bytes::Buffer { id, .. } => self.receive.release(id),
            Bytes::Arena { .. } => {}
            Bytes::Owned(bytes) => self.record.pool().put(bytes),
        }
    }

    /// Releases every piece of a chain.
    pub(super) fn release_all(&mut self, chain: &mut Chain) {
        while let Some(piece) = self.pieces.pop(chain) {
            self.release(piece);
        }
    }
}

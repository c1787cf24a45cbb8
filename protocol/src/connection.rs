//! One open WebSocket.
use std::ops::Range;

use bytes::BytesMut;

use crate::error::ProtocolError;
use crate::message::{Chunk, Event, Limits};
use crate::role::Role;

/// One open WebSocket.
#[derive(Debug)]
pub struct Connection {
    role: Role,
}

impl Connection {
    /// A connection whose handshake is done.
    pub fn new(role: Role) -> Self {
        Connection { role }
    }
    /// Our role.
    pub fn role(&self) -> Role {
        self.role
    }
    /// Reads on.
    pub fn next(
        &mut self,
        _limits: &Limits,
        _input: &mut [u8],
        _at: &mut usize,
    ) -> Result<Option<Event>, ProtocolError> {
        unimplemented!()
    }
    /// Unmasks where it lies.
    pub fn unmask_in_place(
        &mut self,
        _chunk: Chunk,
        _input: &mut [u8],
    ) -> Result<Range<usize>, ProtocolError> {
        unimplemented!()
    }
    /// Unmasks to `to`.
    pub fn unmask_shift(
        &mut self,
        _chunk: Chunk,
        _input: &mut [u8],
        _to: usize,
    ) -> Result<Range<usize>, ProtocolError> {
        unimplemented!()
    }
    /// Unmasks, appended to `message`.
    pub fn unmask_append(
        &mut self,
        _chunk: Chunk,
        _input: &[u8],
        _message: &mut BytesMut,
    ) -> Result<(), ProtocolError> {
        unimplemented!()
    }
    /// Neither unmasked nor validated.
    pub fn skip(&mut self, _chunk: Chunk) {
        unimplemented!()
    }
    /// Nothing begun.
    pub fn is_between_messages(&self) -> bool {
        unimplemented!()
    }
    /// After a Close or an error.
    pub fn is_closed(&self) -> bool {
        unimplemented!()
    }
}

//! The operations of a connection: receive, send, and a write of several buffers.
//!
//! They are made from entries of the ring by the runtime's public way for that, because its own streams read and write as
//! files do, which costs more on a socket.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use ::tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};
use bytes::BytesMut;
use io_uring_0_6::{cqueue, opcode, types};

use super::connection::{Chunk, Write};

/// Counts the operations in flight, by the clones that they hold.
#[derive(Clone, Default)]
pub(super) struct Flights(Rc<()>);

impl Flights {
    pub(super) fn are_over(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

/// What an operation needs until its end, whatever becomes of the task that waits for it. The socket stays open.
pub(super) struct Held<T> {
    _socket: Rc<OwnedFd>,
    _flight: Flights,
    memory: T,
}

pub(super) struct Receiving;

/// Begins to receive into the free room of `buffer`; its result is the number of bytes and the buffer that has them.
pub(super) fn receive(
    socket: &Rc<OwnedFd>,
    flights: &Flights,
    mut buffer: BytesMut,
) -> InFlightOneshot<Held<BytesMut>, Receiving> {
    debug_assert!(buffer.is_empty(), "what is received goes to the beginning");
    let room = buffer.spare_capacity_mut();
    let len = u32::try_from(room.len()).unwrap_or(u32::MAX);
    // The room lies on the heap and stays there when `buffer` moves; nobody else touches it while the operation holds it.
    let entry = opcode::Recv::new(types::Fd(socket.as_raw_fd()), room.as_mut_ptr().cast(), len).build();
    let held = Held { _socket: socket.clone(), _flight: flights.clone(), memory: buffer };
    UnsubmittedOneshot::new(held, Receiving, entry).submit()
}

impl OneshotOutputTransform for Receiving {
    type Output = (io::Result<usize>, BytesMut);
    type StoredData = Held<BytesMut>;

    fn transform_oneshot_output(self, held: Self::StoredData, completion: cqueue::Entry) -> Self::Output {
        let mut buffer = held.memory;
        let outcome = result(&completion);
        if let Ok(received) = outcome {
            // SAFETY: the kernel has written so many bytes to the beginning of the room that `receive` gave it, where the
            // buffer, which was empty, begins.
            unsafe { buffer.set_len(received) };
        }
        (outcome, buffer)
    }
}

pub(super) struct Sending;

/// What is being sent, with the list of its pieces where there are several.
pub(super) struct Pieces {
    write: Write,
    _vectors: Vec<libc::iovec>,
}

/// Begins to send; its result is the number of bytes taken, and what was to be sent.
pub(super) fn send(
    socket: &Rc<OwnedFd>,
    flights: &Flights,
    write: Write,
) -> InFlightOneshot<Held<Pieces>, Sending> {
    let fd = types::Fd(socket.as_raw_fd());
    let mut vectors = Vec::new();
    // The pieces and the list of them lie on the heap and stay there when `write` and `vectors` move; nobody writes to them while
    // the operation holds them.
    let entry = match &write {
        Write::One(chunk) => opcode::Send::new(fd, chunk.bytes().as_ptr(), length(chunk)).build(),
        Write::Several(chunks) => {
            vectors.extend(chunks.iter().map(|chunk| libc::iovec {
                iov_base: chunk.bytes().as_ptr().cast_mut().cast(),
                iov_len: chunk.bytes().len(),
            }));
            opcode::Writev::new(fd, vectors.as_ptr().cast(), vectors.len() as u32).build()
        }
    };
    let memory = Pieces { write, _vectors: vectors };
    let held = Held { _socket: socket.clone(), _flight: flights.clone(), memory };
    UnsubmittedOneshot::new(held, Sending, entry).submit()
}

/// What does not fit is left, as by a short send.
fn length(chunk: &Chunk) -> u32 {
    u32::try_from(chunk.bytes().len()).unwrap_or(u32::MAX)
}

impl OneshotOutputTransform for Sending {
    type Output = (io::Result<usize>, Write);
    type StoredData = Held<Pieces>;

    fn transform_oneshot_output(self, held: Self::StoredData, completion: cqueue::Entry) -> Self::Output {
        (result(&completion), held.memory.write)
    }
}

fn result(completion: &cqueue::Entry) -> io::Result<usize> {
    let code = completion.result();
    usize::try_from(code).map_err(|_| io::Error::from_raw_os_error(-code))
}

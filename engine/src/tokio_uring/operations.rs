//! The operations of a connection: receive, send, and a write of several buffers.
//!
//! They are made of the ring's own entries, through the runtime's public interface. The runtime's
//! streams read and write as for files, which costs more on a socket.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use ::tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};
use bytes::BytesMut;
use io_uring_0_6::{cqueue, opcode, types};

use super::socket::Write;

/// Counter of the operations in flight, by the clones that they hold.
#[derive(Clone, Default)]
pub(super) struct InFlight(Rc<()>);

impl InFlight {
    /// Returns whether all operations have ended.
    pub(super) fn is_empty(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

/// Resources that an operation needs until its end, even when no task waits for it any more. The
/// socket stays open.
pub(super) struct Resources<T> {
    _socket: Rc<OwnedFd>,
    _in_flight: InFlight,
    memory: T,
}

pub(super) struct Receiving;

/// Begins to receive into the free room of `buffer`. The result is the number of bytes and the
/// buffer that has them.
pub(super) fn receive(
    socket: &Rc<OwnedFd>,
    in_flight: &InFlight,
    mut buffer: BytesMut,
) -> InFlightOneshot<Resources<BytesMut>, Receiving> {
    debug_assert!(buffer.is_empty(), "received bytes go to the beginning");
    let room = buffer.spare_capacity_mut();
    let len = u32::try_from(room.len()).unwrap_or(u32::MAX);
    // The room lies on the heap and stays there when `buffer` moves. Nobody else uses it while the
    // operation holds it.
    let entry =
        opcode::Recv::new(types::Fd(socket.as_raw_fd()), room.as_mut_ptr().cast(), len).build();
    let resources =
        Resources { _socket: socket.clone(), _in_flight: in_flight.clone(), memory: buffer };
    UnsubmittedOneshot::new(resources, Receiving, entry).submit()
}

impl OneshotOutputTransform for Receiving {
    type Output = (io::Result<usize>, BytesMut);
    type StoredData = Resources<BytesMut>;

    fn transform_oneshot_output(
        self,
        resources: Self::StoredData,
        completion: cqueue::Entry,
    ) -> Self::Output {
        let mut buffer = resources.memory;
        let outcome = result(&completion);
        if let Ok(received) = outcome {
            // SAFETY: the kernel has written this number of bytes to the beginning of the room that
            // `receive` gave it, and there the buffer, which was empty, begins.
            unsafe { buffer.set_len(received) };
        }
        (outcome, buffer)
    }
}

pub(super) struct Sending;

/// Output that is being sent, with the list of its buffers where there are several.
pub(super) struct Output {
    write: Write,
    _vectors: Vec<libc::iovec>,
}

/// Begins to send. The result is the number of accepted bytes, and the output with its rest.
pub(super) fn send(
    socket: &Rc<OwnedFd>,
    in_flight: &InFlight,
    write: Write,
) -> InFlightOneshot<Resources<Output>, Sending> {
    let fd = types::Fd(socket.as_raw_fd());
    let mut vectors = Vec::new();
    // The buffers and their list lie on the heap and stay there when `write` and `vectors` move.
    // Nobody writes to them while the operation holds them.
    let entry = match &write {
        Write::One(buffer) => opcode::Send::new(fd, buffer.as_ptr(), length(buffer)).build(),
        Write::Several(buffers) => {
            vectors.extend(buffers.iter().map(|buffer| libc::iovec {
                iov_base: buffer.as_ptr().cast_mut().cast(),
                iov_len: buffer.len(),
            }));
            opcode::Writev::new(fd, vectors.as_ptr().cast(), vectors.len() as u32).build()
        }
    };
    let memory = Output { write, _vectors: vectors };
    let resources = Resources { _socket: socket.clone(), _in_flight: in_flight.clone(), memory };
    UnsubmittedOneshot::new(resources, Sending, entry).submit()
}

/// Returns the length to offer. A rest beyond it stays, as after a short send.
fn length(buffer: &BytesMut) -> u32 {
    u32::try_from(buffer.len()).unwrap_or(u32::MAX)
}

impl OneshotOutputTransform for Sending {
    type Output = (io::Result<usize>, Write);
    type StoredData = Resources<Output>;

    fn transform_oneshot_output(
        self,
        resources: Self::StoredData,
        completion: cqueue::Entry,
    ) -> Self::Output {
        (result(&completion), resources.memory.write)
    }
}

fn result(completion: &cqueue::Entry) -> io::Result<usize> {
    let code = completion.result();
    usize::try_from(code).map_err(|_| io::Error::from_raw_os_error(-code))
}

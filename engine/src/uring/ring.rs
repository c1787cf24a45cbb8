//! The engine's view of the kernel: operations that it submits, completions that come back.
//!
//! [`Ring`] and [`BufferRing`] are the seam at which a simulator stands in for the kernel: all that
//! the engine knows of the outside world, the clock included, comes through them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};

use crate::time::Nanos;
use crate::token::Token;
use crate::uring::address::Address;

/// An operation. `slot` is the index of a connection's direct descriptor in the ring's table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Accept into a free direct descriptor, whose index is the result. `multishot` repeats until
    /// cancelled.
    Accept { listener: RawFd, multishot: bool, address: *mut Address },
    /// Write the address of the peer of an accepted socket: `len` bytes, which is the length of an
    /// address of the listener's family. The completion is there when the enter that consumes the
    /// operation returns.
    PeerAddress { slot: u32, address: *mut Address, len: u32 },
    /// Move the socket in `slot` to a free direct descriptor of the ring `to`. There a completion
    /// with `token` has its index. When the operation completes, `slot` is free; after an error it
    /// still has the socket.
    HandOver { slot: u32, to: RawFd, token: Token },
    /// Connect the socket in `slot`.
    Connect { slot: u32, to: *const Address },
    /// Receive into provided buffers until cancelled or, with `once`, into one.
    Receive { slot: u32, once: bool },
    /// Send bytes.
    Send { slot: u32, bytes: *const u8, len: u32, mode: SendMode },
    /// Send several pieces in one call.
    SendMessage { slot: u32, message: *const libc::msghdr, mode: SendMode },
    /// Half-close the connection.
    Shutdown { slot: u32 },
    /// Cancel the operation that was submitted with this token.
    Cancel { target: Token },
    /// Cancel all operations.
    CancelAll,
    /// Close a direct descriptor.
    Close { slot: u32 },
    /// Report whenever a descriptor is readable.
    Poll { fd: RawFd },
    /// Report the connection's reset, also while it is not read from.
    Watch { slot: u32 },
}

/// Behaviour of a send on a full socket, and whether its success is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendMode {
    /// Sends what fits and does not wait. No completion when everything fitted.
    Silent,
    /// Sends what fits and does not wait. Always a completion.
    Prompt,
    /// Waits until some bytes fit. Always a completion.
    Patient,
}

/// Outcome of an operation, or of one step of a multishot operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    /// Token of the operation.
    pub(crate) token: Token,
    /// Count, index, or error number below zero.
    pub(crate) result: i32,
    /// Provided buffer that holds the received bytes.
    pub(crate) buffer: Option<u16>,
    /// True if the operation continues, with further completions.
    pub(crate) more: bool,
    /// True if a receive left bytes that had arrived.
    pub(crate) unread: bool,
}

/// Duration of an enter's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Does not wait. If the kernel can defer work, only the submitted operations complete, so that
    /// nothing more is received while earlier bytes are being handled.
    Submit,
    /// No wait: submit, and collect completions that are there.
    No,
    /// Until there is a completion, or this time has passed.
    Until(Nanos),
}

/// Submission and completion queue of an io_uring, and its table of direct descriptors.
pub(crate) trait Ring {
    /// Reads the clock.
    fn clock(&self) -> Nanos;

    /// Queues an operation. When the queue is full, nothing is queued.
    ///
    /// # Safety
    ///
    /// What the operation points at (addresses, bytes, message headers) stays valid and in place
    /// until its completion has been collected. For a silent send, this is until the enter that
    /// consumed it has returned and the completions that were there then have been collected.
    /// Message headers and connect addresses need to last only until the enter has consumed the
    /// operation.
    unsafe fn push(&mut self, token: Token, op: Op) -> Result<(), Full>;

    /// Number of operations that are queued and not yet consumed by an enter.
    fn unsubmitted(&mut self) -> usize;

    /// Submits queued operations, perhaps not all of them, and waits.
    ///
    /// # Errors
    ///
    /// Fails with the error of io_uring_enter(2). A wait that ends at its time limit is not an
    /// error.
    fn enter(&mut self, wait: Wait) -> io::Result<()>;

    /// Takes the next completion that is there.
    fn completion(&mut self) -> Option<Completion>;

    /// Returns whether the kernel keeps completions that found no room in the queue.
    fn overflowed(&mut self) -> bool;

    /// Returns whether an enter would bring completions: they are there, or work that makes some is
    /// pending.
    fn ready(&mut self) -> bool;

    /// Makes a socket, bound to `from` where given, and puts it into the direct descriptor `slot`.
    ///
    /// # Errors
    ///
    /// Fails with the error of the calls that create the socket.
    fn socket(&mut self, slot: u32, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<()>;

    /// Tests whether [`Op::PeerAddress`] works.
    ///
    /// # Errors
    ///
    /// When the test itself cannot be made.
    fn tells_peer_addresses(&mut self) -> io::Result<bool>;

    /// Returns a descriptor of this ring, for [`Op::HandOver`] of others.
    ///
    /// # Errors
    ///
    /// Fails when descriptors are exhausted.
    fn descriptor(&self) -> io::Result<OwnedFd>;

    /// Tests whether [`Op::HandOver`] works. No direct descriptor is in use yet.
    ///
    /// # Errors
    ///
    /// When the test itself cannot be made.
    fn hands_over(&mut self) -> io::Result<bool>;

    /// Tests whether a send that need not wait has finished, with its error completion there, when
    /// the enter returns.
    ///
    /// # Errors
    ///
    /// When the test itself cannot be made.
    fn sends_finish_inside_enter(&mut self) -> io::Result<bool>;
}

/// Receive buffers that the kernel fills by itself (io_uring_register_buf_ring(3)).
pub(crate) trait BufferRing {
    /// Number of buffers.
    fn count(&self) -> usize;

    /// Records that a completion has handed a buffer over.
    fn taken(&mut self, id: u16);

    /// The first `len` bytes of a buffer that was handed over and not returned since.
    fn bytes(&mut self, id: u16, len: usize) -> &mut [u8];

    /// Returns a buffer: nothing refers to its bytes any more.
    fn give_back(&mut self, id: u16);

    /// Puts a buffer that was returned, or never used, into the ring. The kernel sees it after the
    /// next [`BufferRing::publish`].
    fn offer(&mut self, id: u16);

    /// Makes the offered buffers visible to the kernel.
    fn publish(&mut self);
}

/// The submission queue is full.
#[derive(Debug)]
pub(crate) struct Full;

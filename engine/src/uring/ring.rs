//! The engine's view of the kernel: operations that it submits, completions that come back.
//!
//! [`Ring`] and [`BufferRing`] are the seam at which a simulator stands in for the kernel: all that the engine knows of the
//! outside world, the clock included, comes through them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use crate::time::Nanos;
use crate::token::Token;

/// An operation. `slot` is the index of a connection's direct descriptor in the ring's table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Accept into a free direct descriptor, whose index is the result. `multishot` repeats until cancelled.
    Accept { listener: RawFd, multishot: bool, address: *mut PeerAddress },
    /// Connect the socket in `slot`.
    Connect { slot: u32, to: *const TargetAddress },
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
    /// Whether the operation continues, with further completions.
    pub(crate) more: bool,
    /// Whether a receive left bytes that had arrived.
    pub(crate) unread: bool,
}

/// Duration of an enter's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// No wait, and no completions but those of the submitted operations, where the kernel can defer the others: it
    /// receives no more while the bytes received before are being handled.
    Submit,
    /// No wait: submit, and collect completions that are there.
    No,
    /// Until there is a completion, or this time has passed.
    Until(Nanos),
}

/// Place to which the kernel writes the peer's address on accept.
#[repr(C)]
pub(crate) struct PeerAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

/// Target address of a connect, in the kernel's form.
#[repr(C)]
pub(crate) struct TargetAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

/// Submission and completion queue of an io_uring, and its table of direct descriptors.
pub(crate) trait Ring {
    /// Reads the clock.
    fn clock(&self) -> Nanos;

    /// Queues an operation. When the queue is full, nothing is queued.
    ///
    /// # Safety
    ///
    /// What the operation points at (addresses, bytes, message headers) stays valid and in place until its completion has
    /// been collected. For a silent send, this is until the enter that consumed it has returned and the completions that
    /// were there then have been collected. Message headers and connect addresses need to last only until the enter has
    /// consumed the operation.
    unsafe fn push(&mut self, token: Token, op: Op) -> Result<(), Full>;

    /// Number of operations that are queued and not yet consumed by an enter.
    fn unsubmitted(&mut self) -> usize;

    /// Submits queued operations, perhaps not all of them, and waits.
    ///
    /// # Errors
    ///
    /// Those of io_uring_enter(2). The end of a wait by time is not an error.
    fn enter(&mut self, wait: Wait) -> io::Result<()>;

    /// Takes the next completion that is there.
    fn completion(&mut self) -> Option<Completion>;

    /// Whether the kernel keeps completions that found no room in the queue.
    fn overflowed(&mut self) -> bool;

    /// Whether an enter would bring completions: they are there, or work that makes some is pending.
    fn ready(&mut self) -> bool;

    /// Makes a socket, bound to `from` where given, and puts it into the direct descriptor `slot`.
    ///
    /// # Errors
    ///
    /// Those of the calls that make the socket.
    fn socket(&mut self, slot: u32, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<()>;

    /// Tests whether a send that need not wait has finished, with its error completion there, when the enter returns.
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

    /// Puts a buffer that was returned, or never used, into the ring. The kernel sees it after the next
    /// [`BufferRing::publish`].
    fn offer(&mut self, id: u16);

    /// Makes the offered buffers visible to the kernel.
    fn publish(&mut self);
}

/// The submission queue is full.
#[derive(Debug)]
pub(crate) struct Full;

impl PeerAddress {
    pub(crate) fn new() -> Self {
        // SAFETY: all zeroes is a valid sockaddr_storage: family AF_UNSPEC and no address.
        let storage = unsafe { std::mem::zeroed() };
        Self { storage, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    pub(crate) fn as_ptrs(this: *mut Self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        // SAFETY: `this` points to a PeerAddress that the caller of `push` keeps in place; only addresses of its fields are taken.
        unsafe { ((&raw mut (*this).storage).cast(), &raw mut (*this).len) }
    }

    /// Returns the address that the kernel wrote, and prepares for the next accept.
    pub(crate) fn take(&mut self) -> Option<SocketAddr> {
        let addr = to_socket_addr(&self.storage);
        *self = Self::new();
        addr
    }
}

impl TargetAddress {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        let mut this = PeerAddress::new();
        let storage = &raw mut this.storage;
        let len = match addr {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is larger than and aligned for every address family's structure.
                unsafe { storage.cast::<libc::sockaddr_in>().write(raw) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { storage.cast::<libc::sockaddr_in6>().write(raw) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage: this.storage, len: len as libc::socklen_t }
    }

    pub(crate) fn as_parts(this: *const Self) -> (*const libc::sockaddr, libc::socklen_t) {
        // SAFETY: `this` points to a TargetAddress that the caller of `push` keeps in place.
        unsafe { ((&raw const (*this).storage).cast(), (*this).len) }
    }
}

fn to_socket_addr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a sockaddr_in was written; the storage is large enough and aligned for it.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = v4.sin_addr.s_addr.to_ne_bytes();
            Some((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: likewise for sockaddr_in6.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = v6.sin6_addr.s6_addr.into();
            let addr = std::net::SocketAddrV6::new(
                ip,
                u16::from_be(v6.sin6_port),
                v6.sin6_flowinfo,
                v6.sin6_scope_id,
            );
            Some(addr.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1%3]:9"] {
            let addr: SocketAddr = text.parse().expect("address");
            let target = TargetAddress::new(addr);
            assert_eq!(to_socket_addr(&target.storage), Some(addr));
        }
        assert_eq!(PeerAddress::new().take(), None);
    }
}
